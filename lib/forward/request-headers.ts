import type { FastifyRequest } from 'fastify'
import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import { proxyError } from '../errors.ts'
import type { Upstream } from '../upstream.ts'
import { Kind, kindOf, nominatedFields } from './field-kinds.ts'
import { ReceivedForwarded } from './forwarded.ts'
import { isAuthority, type Target } from './target.ts'
import { isHttp2 } from './wire.ts'

/** What is sent to the backend, but for the body. */
export interface RequestHead {
  /** Names and values in turn, in the order and spelling they came. */
  headers: string[]
  /** Whether the client takes trailers. */
  acceptsTrailers: boolean
  /** Bytes of the body; -1 when it is chunked. */
  contentLength: number
  hasBody: boolean
  /** The host that the client asked for. */
  host: string
}

const kDoubtful = Symbol('rockstar-proxy.doubtful')
type DoubtfulSocket = Socket & { [kDoubtful]?: boolean }

/** Methods for which a proxy counts hops. RFC 9110, 7.6.2. */
const COUNTED = new Set(['OPTIONS', 'TRACE'])

/** `TE` is nominated where it is sent as it should be; the others end loops, and are not for their sender to take out. */
const KEPT_WHEN_NOMINATED: ReadonlySet<Kind> = new Set([Kind.TE, Kind.VIA, Kind.MAX_FORWARDS])

/** Thrown up when a proxy is told to answer `OPTIONS` itself. */
export const MAX_FORWARDS_REACHED = Symbol('Max-Forwards: 0')

/**
 * Reads the client's header section once and writes that of the backend's request. RFC 9110, 7.6.
 * Throws `BAD_REQUEST`, `UNSUPPORTED_CODING`, `LOOP`, or the symbol above.
 */
export function buildRequestHead (request: FastifyRequest, raw: IncomingMessage, target: Target, upstream: Upstream, preserveHost: boolean): RequestHead {
  const { rawHeaders } = raw
  const headers: string[] = []
  if ((raw.socket as DoubtfulSocket)[kDoubtful] === true) throw closing(raw, proxyError('BAD_REQUEST', undefined, 'it came behind one whose end is in doubt'))
  // Node takes any version that is spelt like one; HTTP/2 has streams, and never this line.
  if (raw.httpVersionMajor !== 1 && !isHttp2(raw)) throw closing(raw, proxyError('BAD_REQUEST', undefined, `its version is HTTP/${raw.httpVersion}`))
  const nominated = nominatedFields(raw.headers.connection)
  if (nominated !== null) refuseFraming(nominated)
  const received = new ReceivedForwarded()
  let host: string | undefined
  let hosts = 0
  let coding: string | undefined
  let contentLength = -1
  let acceptsTrailers = false
  let via: string | undefined
  let cookie: string | undefined

  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i]
    const value = rawHeaders[i + 1]
    const kind = kindOf(name)
    if (nominated !== null && !KEPT_WHEN_NOMINATED.has(kind) && nominated.has(name.toLowerCase())) continue
    switch (kind) {
      case Kind.PASS: case Kind.LOCATION: case Kind.SET_COOKIE:
        headers.push(name, value)
        break
      case Kind.COOKIE:
        // RFC 9113, 8.2.3: HTTP/2 may split what HTTP/1.1 has in one field.
        if (isHttp2(raw)) cookie = cookie === undefined ? value : `${cookie}; ${value}`
        else headers.push(name, value)
        break
      case Kind.HOST:
        host = value
        hosts++
        break
      case Kind.CONTENT_LENGTH:
        contentLength = Number(value)
        break
      case Kind.TRANSFER_ENCODING:
        coding = coding === undefined ? value : `${coding}, ${value}`
        break
      case Kind.TE:
        acceptsTrailers ||= /(?:^|,)\s*trailers\s*(?:,|$)/i.test(value)
        break
      case Kind.VIA:
        via = via === undefined ? value : `${via}, ${value}`
        break
      case Kind.MAX_FORWARDS:
        headers.push(name, COUNTED.has(raw.method as string) ? oneLess(value) : value)
        break
      case Kind.X_FORWARDED: case Kind.X_FORWARDED_FOR: case Kind.X_FORWARDED_HOST: case Kind.X_FORWARDED_PROTO: case Kind.FORWARDED:
        received.add(kind, name, value)
        break
      default:
        // Hop by hop, or written anew below or by undici.
    }
  }

  if (isHttp2(raw)) host ??= raw.headers[':authority'] as string | undefined
  if (hosts > 1) throw proxyError('BAD_REQUEST', undefined, 'it has more than one Host')
  if (host !== undefined && host !== '' && !isAuthority(host)) throw proxyError('BAD_REQUEST', undefined, 'its Host is invalid')
  // HTTP/1.0 has neither chunks nor trailers.
  if (raw.httpVersion === '1.0') acceptsTrailers = false
  const asked = target.authority ?? host ?? ''
  const hasBody = bodyFollows(raw, coding, contentLength)

  if (cookie !== undefined) headers.push('cookie', cookie)
  if (preserveHost && asked !== '') headers.push('host', asked)
  if (acceptsTrailers) headers.push('TE', 'trailers')
  received.write(headers, request, asked, upstream.forwarded)
  if (upstream.via !== null) headers.push('Via', nextVia(via, raw.httpVersion, upstream.via))
  else if (via !== undefined) headers.push('Via', via)
  return { headers, acceptsTrailers, contentLength: coding === undefined ? contentLength : -1, hasBody, host: asked }
}

/** A field that says where a message ends must not be taken away from it by its sender. */
function refuseFraming (nominated: Set<string>): void {
  for (const name of ['host', 'content-length', 'transfer-encoding']) {
    if (nominated.has(name)) throw proxyError('BAD_REQUEST', undefined, `its Connection field names ${name}`)
  }
}

function bodyFollows (raw: IncomingMessage, coding: string | undefined, contentLength: number): boolean {
  const { stream } = raw as { stream?: { endAfterHeaders: boolean } }
  if (stream !== undefined) return !stream.endAfterHeaders
  if (coding === undefined) return contentLength > 0
  // RFC 9112, 6.1: such framing is faulty; a coding that is taken off must be known. Where a message ends is then in doubt.
  if (raw.httpVersionMinor === 0) throw closing(raw, proxyError('BAD_REQUEST', undefined, 'it is HTTP/1.0 and has a Transfer-Encoding'))
  if (coding.toLowerCase() !== 'chunked') throw closing(raw, proxyError('UNSUPPORTED_CODING'))
  return true
}

/** An error with whose answer the client's connection ends; what Node has read behind the request is not believed. */
function closing (raw: IncomingMessage, error: Error): Error {
  (raw.socket as DoubtfulSocket)[kDoubtful] = true
  return Object.assign(error, { headers: { connection: 'close' } })
}

function oneLess (value: string): string {
  if (!/^\d+$/.test(value)) throw proxyError('BAD_REQUEST', undefined, 'its Max-Forwards is no number')
  // Nothing bounds the number of its digits.
  const hops = BigInt(value)
  // No error: the request is to be answered here.
  if (hops === 0n) throw MAX_FORWARDS_REACHED
  return String(hops - 1n)
}

/** The `Via` to send: what came, and this proxy behind it. Throws `LOOP` when this proxy is in it already. */
export function nextVia (received: string | undefined, version: string, name: string): string {
  const own = `${version === '2.0' ? '2' : version} ${name}`
  if (received === undefined) return own
  // Each element is `protocol received-by [comment]`; a name is compared without its case (RFC 9110, 7.6.3).
  for (const element of withoutComments(received).split(',')) {
    if (element.trim().split(/\s+/, 2)[1]?.toLowerCase() === name.toLowerCase()) throw proxyError('LOOP')
  }
  return `${received}, ${own}`
}

/** A list without the comments of its elements, which may hold commas, escapes and further comments. RFC 9110, 5.6.5. */
function withoutComments (value: string): string {
  if (!value.includes('(')) return value
  let kept = ''
  let depth = 0
  for (let i = 0; i < value.length; i++) {
    const char = value[i]
    if (depth > 0 && char === '\\') i++
    else if (char === '(') depth++
    else if (char === ')' && depth > 0) depth--
    else if (depth === 0) kept += char
  }
  return kept
}
