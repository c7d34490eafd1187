import { Readable } from 'node:stream'
import type { ReadableStream as NodeReadableStream } from 'node:stream/web'
import type { ForwardHttpOptions } from '../../types/index.ts'
import type { Upstream } from '../upstream.ts'
import { capture } from './capture-client.ts'
import type { CapturedResponse } from './captured.ts'
import { takeTimeLeft } from './deadline-header.ts'
import { Kind, kindOf, nominatedFields } from './field-kinds.ts'
import { nextVia } from './request-headers.ts'
import { settingsOf } from './settings.ts'
import { assertCanonical } from './target.ts'
import { toWebStream } from './web-stream.ts'

/** Fields between two neighbours, and those that undici or we write. */
const WRITTEN_ANEW: ReadonlySet<Kind> = new Set([Kind.HOP, Kind.CONNECTION, Kind.HOST, Kind.CONTENT_LENGTH, Kind.TRANSFER_ENCODING, Kind.TE, Kind.TRAILER, Kind.EXPECT, Kind.VIA])

/** Statuses that a `Response` must not have a body with. */
const NULL_BODY: ReadonlySet<number> = new Set([204, 205, 304])

/** Sends a WHATWG request to a backend. Its own host is not asked: path, method, headers and body are. */
export async function forwardHttp (upstream: Upstream, request: Request, options: ForwardHttpOptions = {}): Promise<Response> {
  const url = new URL(request.url)
  const path = options.path ?? url.pathname + url.search
  assertCanonical(path)
  const signal = options.signal === undefined ? request.signal : AbortSignal.any([request.signal, options.signal])
  const settings = settingsOf(upstream, { timeout: options.timeout, signal, match: options.match, split: options.split, splitKey: options.splitKey, fallback: options.fallback, retry: options.retry })
  const headers = requestHeaders(request, upstream)
  if (upstream.preserveHost) headers.push('host', url.host)
  // The application itself is trusted.
  const left = upstream.deadlineHeader === null ? undefined : takeTimeLeft(headers, upstream.deadlineHeader)
  const answer = await capture(upstream, {
    request: undefined,
    method: request.method,
    path,
    headers,
    acceptsTrailers: false,
    contentLength: -1,
    body: request.body === null ? null : Readable.fromWeb(request.body as NodeReadableStream),
    raw: null,
    asterisk: false,
    upgrade: null,
    deadline: left === undefined ? Infinity : upstream.clock.now() + left,
    settings,
    log: upstream.log
  }, settings)
  return responseOf(answer, request.method)
}

function requestHeaders (request: Request, upstream: Upstream): string[] {
  const headers: string[] = []
  const nominated = nominatedFields(request.headers.get('connection') ?? undefined)
  for (const [name, value] of request.headers) {
    if (!WRITTEN_ANEW.has(kindOf(name)) && nominated?.has(name) !== true) headers.push(name, value)
  }
  const via = request.headers.get('via') ?? undefined
  if (upstream.via !== null) headers.push('Via', nextVia(via, '1.1', upstream.via))
  else if (via !== undefined) headers.push('Via', via)
  return headers
}

function responseOf (answer: CapturedResponse, method: string): Response {
  const headers = new Headers()
  for (const [name, value] of Object.entries(answer.headers)) {
    if (value === undefined) continue
    for (const item of Array.isArray(value) ? value : [value]) headers.append(name, item)
  }
  const none = NULL_BODY.has(answer.statusCode) || method === 'HEAD'
  const body = none ? null : toWebStream(answer.body)
  return new Response(body, { status: answer.statusCode, statusText: answer.statusMessage, headers })
}
