import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Backend } from '../../lib/backend.ts'
import { proxyError } from '../../lib/errors.ts'

/** What tells one state of a backend's options from another. RFC 9110, 8.8.3. */
export function entityTagOf ({ createdAt, revision }: Backend): string {
  return `"${createdAt.getTime().toString(36)}-${revision}"`
}

/** Sets `ETag`, so that whoever has read a backend can say which state of its options he has seen. */
export function tag (reply: FastifyReply, backend: Backend): void {
  reply.header('etag', entityTagOf(backend))
}

/** RFC 9110, 13.1.1 and 13.1.2. Throws `FST_ROCKSTAR_ADMIN_PRECONDITION` where somebody else was faster. */
export function checkPreconditions ({ headers }: FastifyRequest, backend: Backend | undefined): void {
  const { 'if-match': match, 'if-none-match': noneMatch } = headers
  if (match !== undefined && (backend === undefined || !names(match, backend))) throw proxyError('ADMIN_PRECONDITION')
  // Compared weakly: a tag that somebody on the way has weakened is still of this state.
  if (noneMatch !== undefined && backend !== undefined && names(noneMatch.replaceAll('W/', ''), backend)) throw proxyError('ADMIN_PRECONDITION')
}

function names (list: string, backend: Backend): boolean {
  return list.split(',').some(tag => tag.trim() === '*' || tag.trim() === entityTagOf(backend))
}
