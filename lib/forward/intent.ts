import type { FastifyBaseLogger, FastifyRequest } from 'fastify'
import type { IncomingMessage } from 'node:http'
import { Readable } from 'node:stream'
import { proxyError } from '../errors.ts'
import type { Upstream } from '../upstream.ts'
import { takeTimeLeft } from './deadline-header.ts'
import { isTrustedPeer } from './forwarded.ts'
import { rewritten } from './header-record.ts'
import { replacePrefix, type ReplacedPrefix } from './prefix.ts'
import { RequestBody } from './request-body.ts'
import { buildRequestHead } from './request-headers.ts'
import type { Settings } from './settings.ts'
import { assertCanonical, parseTarget } from './target.ts'
import { upgradeOf, type Upgrade } from './upgrade.ts'

/** Methods that are never forwarded: RFC 9110, 9.3.6 and 9.3.8. */
const REFUSED: ReadonlySet<string> = new Set(['TRACE', 'CONNECT'])
/** What `Allow` says where a method is refused or hops have run out. */
export const ALLOW = 'DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT'

/** A request as it is to be sent, wherever it came from. */
export interface Intent {
  request: FastifyRequest | undefined
  method: string
  /** Path and query, without the backend's base path. */
  path: string
  headers: string[]
  acceptsTrailers: boolean
  /** Bytes of the body; -1 when it is chunked. */
  contentLength: number
  /** A body that has still to come, one that is here or is being read, or none. */
  body: Readable | RequestBody | Buffer | null
  /** Node's own request, where there is one. */
  raw: IncomingMessage | null
  /** `OPTIONS *`. */
  asterisk: boolean
  /** What the client would have its connection become; `null` for an ordinary request. */
  upgrade: Upgrade | null
  /** By when the client wants its answer, on the clock's scale; `Infinity` where it has not said so. */
  deadline: number
  settings: Settings
  log: FastifyBaseLogger | undefined
}

/** A request of Fastify's as it is to be sent, and what is needed to map its answer back. */
export interface FastifyIntent extends Intent {
  replaced: ReplacedPrefix | null
  /** The host that the client asked for. */
  host: string
}

/**
 * Reads what a client asks for and writes what a backend is to be asked.
 * @param given the body, where it has been read already
 * Throws `METHOD_REFUSED`, `BAD_REQUEST`, `UNSUPPORTED_CODING`, `LOOP`, `BODY_CONSUMED` or `INVALID_HEADER`.
 */
export function intentOf (request: FastifyRequest, upstream: Upstream, settings: Settings, given?: RequestBody | Buffer | null): FastifyIntent {
  const { raw } = request
  const method = raw.method as string
  if (REFUSED.has(method)) throw Object.assign(proxyError('METHOD_REFUSED', undefined, method), { headers: { allow: ALLOW } })
  const target = parseTarget(raw.url as string, method)
  const replaced = settings.prefix === null ? null : replacePrefix(target.path, settings.prefix)
  const path = pathOf(target.path, replaced, settings.path)
  const upgrade = (raw as { upgrade?: boolean }).upgrade === true ? upgradeOf(raw, settings.upgrades) : null
  const head = buildRequestHead(request, raw, target, upstream, settings.preserveHost)
  upstream.telemetry.identify(head.headers, request)
  const body = !head.hasBody ? null : given === undefined ? bodyOf(request) : given
  const deadline = upstream.deadlineHeader === null ? Infinity : deadlineOf(request, head.headers, upstream, upstream.deadlineHeader)
  if (settings.rewriteRequestHeaders !== undefined) {
    const { rewriteRequestHeaders } = settings
    head.headers = rewritten(head.headers, record => rewriteRequestHeaders(request, record), 'rewriteRequestHeaders')
  }
  const streamed = body instanceof Readable || body instanceof RequestBody
  // A body that a hook has put through a stream of its own has a length of its own.
  if (streamed && (body === raw || (body instanceof RequestBody && body.isFrom(raw))) && head.contentLength >= 0) head.headers.push('content-length', String(head.contentLength))
  return {
    request,
    method,
    path,
    headers: head.headers,
    acceptsTrailers: head.acceptsTrailers,
    contentLength: head.contentLength,
    body,
    raw,
    asterisk: target.asterisk && path === '/',
    upgrade,
    deadline,
    settings,
    log: request.log,
    replaced,
    host: head.host
  }
}

function pathOf (asked: string, replaced: ReplacedPrefix | null, given: string | undefined): string {
  if (given === undefined) {
    if (replaced === null) return asked
    // What is left of a prefix may begin with two slashes where the whole did not.
    if (replaced.path.charCodeAt(1) === 0x2f || replaced.path.charCodeAt(1) === 0x5c || replaced.path.charCodeAt(1) === 0x25) assertCanonical(replaced.path)
    return replaced.path
  }
  assertCanonical(given)
  const query = asked.indexOf('?')
  return given.includes('?') || query === -1 ? given : given + asked.slice(query)
}

/** By when the client wants its answer. What one says that is not trusted is not sent on either. */
function deadlineOf (request: FastifyRequest, headers: string[], { clock }: Upstream, name: string): number {
  const left = takeTimeLeft(headers, name)
  return left === undefined || !isTrustedPeer(request) ? Infinity : clock.now() + left
}

/** The body as it came, or as near to that as the application has left it. Throws `BODY_CONSUMED`. */
function bodyOf (request: FastifyRequest): Readable | Buffer | null {
  const { body, raw } = request
  if (body === undefined) {
    if (raw.readableDidRead) throw proxyError('BODY_CONSUMED', undefined, request.headers['content-type'] ?? 'none')
    return raw
  }
  if (body instanceof Readable) return body
  if (Buffer.isBuffer(body)) return body
  if (body instanceof Uint8Array) return Buffer.from(body.buffer, body.byteOffset, body.byteLength)
  const type = request.headers['content-type'] ?? ''
  const isJson = /^\s*[^;\s]+\/(?:[^;\s]+\+)?json\s*(?:;|$)/i.test(type)
  if (typeof body === 'string' && !(isJson && isParsed(body, request))) return Buffer.from(body)
  if (isJson) return Buffer.from(JSON.stringify(body))
  throw proxyError('BODY_CONSUMED', undefined, type === '' ? 'none' : type)
}

/** Whether a string is what a JSON text of one string was parsed into, not the text itself. */
function isParsed (body: string, request: FastifyRequest): boolean {
  const length = request.headers['content-length']
  if (length !== undefined) return Buffer.byteLength(body) !== Number(length)
  try {
    JSON.parse(body)
    return false
  } catch {
    return true
  }
}
