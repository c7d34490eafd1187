import type { IncomingMessage } from 'node:http'
import { authorityOf } from '../lib/forward/index.ts'

/** RFC 9112, 3.2.2: the authority of an absolute target outranks `Host`; for Fastify's constraints as well. */
export function preferAuthority (request: IncomingMessage): void {
  const { url } = request
  if (url === undefined || url.charCodeAt(0) === 0x2f) return
  const authority = authorityOf(url)
  if (authority !== undefined) request.headers.host = authority
}
