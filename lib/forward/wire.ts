import { STATUS_CODES, validateHeaderName, validateHeaderValue, type IncomingMessage, type OutgoingHttpHeaders, type ServerResponse } from 'node:http'
import { constants, type ServerHttp2Stream } from 'node:http2'
import { toHttp2Record } from './http2-record.ts'

/**
 * Sends an interim response on to the client. RFC 9110, 15.2: never to one of HTTP/1.0.
 * Node's own methods know only some statuses and only the `Link` field.
 */
export function writeInterim (res: ServerResponse, statusCode: number, headers: string[]): void {
  const { stream } = res as unknown as { stream?: ServerHttp2Stream }
  if (stream !== undefined) {
    // 101 means nothing in HTTP/2, and Node answers expectations itself.
    if (statusCode > 101 && !stream.headersSent && !stream.destroyed) stream.additionalHeaders({ ':status': statusCode, ...toHttp2Record(headers) })
    return
  }
  const { req } = res
  if (req.httpVersionMajor === 1 && req.httpVersionMinor === 0) return
  const raw = res as unknown as { _writeRaw?: (head: string, encoding: string) => void }
  // Behind another response on its connection, Node would send it after the final head: there it is left out.
  if (raw._writeRaw === undefined || res.headersSent || res.socket === null) return
  let head = `HTTP/1.1 ${statusCode} ${STATUS_CODES[statusCode] ?? ''}\r\n`
  for (let i = 0; i < headers.length; i += 2) head += `${headers[i]}: ${headers[i + 1]}\r\n`
  raw._writeRaw(`${head}\r\n`, 'latin1')
}

/** Writes a head whose names, order and repetitions are those given. No header may have been set on the response. */
export function writeHead (res: ServerResponse, statusCode: number, statusMessage: string, headers: string[]): void {
  if (isHttp2(res)) res.writeHead(statusCode, toHttp2Record(headers))
  else if (forgetSetHeaders(res)) res.writeHead(statusCode, statusMessage, headers)
  else {
    for (let i = 0; i < headers.length; i += 2) res.appendHeader(headers[i], headers[i + 1])
    res.writeHead(statusCode, statusMessage)
  }
}

/** Lets the next head that is written over HTTP/2 wait for `end()`, so that it is the end itself: a gRPC answer that is nothing but trailers must be. */
export function holdHead (res: ServerResponse): void {
  if (!isHttp2(res)) return
  const { writeHead } = res
  res.writeHead = function (this: ServerResponse, statusCode: number, headers?: OutgoingHttpHeaders) {
    res.writeHead = writeHead
    this.statusCode = statusCode
    for (const name in headers) this.setHeader(name, headers[name] as string | string[])
    return this
  } as ServerResponse['writeHead']
}

let kOutHeaders: symbol | undefined

/**
 * Where a header was ever set on a response, and be it taken off again, Node writes each name once. It has no method
 * to make it forget; where it cannot be made to, the answer is false, and fields are only grouped by name.
 */
function forgetSetHeaders (res: ServerResponse): boolean {
  kOutHeaders ??= Object.getOwnPropertySymbols(res).find(({ description }) => description === 'kOutHeaders')
  // A response of light-my-request, which Fastify's inject() uses, is read by its set headers alone.
  if (kOutHeaders === undefined || !(kOutHeaders in res) || '_lightMyRequest' in res) return false
  // What Node remembers of a length or coding taken off would leave the content without framing.
  Object.assign(res, { [kOutHeaders]: null, _removedTE: false, _removedContLen: false, _contentLength: null })
  return true
}

/** Has the client's connection close behind this answer, before its head is written. */
export function closeAfter (res: ServerResponse): void {
  const { stream } = res as { stream?: ServerHttp2Stream }
  // GOAWAY: streams that are there finish (RFC 9113, 6.8).
  if (stream !== undefined) stream.session?.close()
  else res.shouldKeepAlive = false
}

/** The head of an answer with which a connection leaves HTTP. Throws where Node would: for what is no header. */
export function switchingHead (headers: readonly string[]): string {
  let head = 'HTTP/1.1 101 Switching Protocols\r\n'
  for (let i = 0; i < headers.length; i += 2) {
    validateHeaderName(headers[i])
    validateHeaderValue(headers[i], headers[i + 1])
    head += `${headers[i]}: ${headers[i + 1]}\r\n`
  }
  return `${head}\r\n`
}

/** Has a response that went another way than through Node's hands count as sent: for `onResponse` hooks and Fastify's log. */
export function endUntold (res: ServerResponse, statusCode: number): void {
  res.statusCode = statusCode
  res.emit('finish')
}

/** Sends the head before any content. Node's `flushHeaders()` writes it as UTF-8, which its bytes are not. */
export function flushHead (res: ServerResponse): void {
  if (isHttp2(res)) res.flushHeaders()
  else res.write('', 'latin1')
}

/**
 * Ends an answer with its whole content, in characters of one byte each. Node's `end(text)` hands head and content to
 * the socket together with an empty string, which makes a `writev` of them; here they go out by one plain write.
 * `npm run bench -- --scenario get` pays for it.
 */
export function endWithText (res: ServerResponse, text: string): void {
  if (res.chunkedEncoding) {
    res.end(text, 'latin1')
    return
  }
  res.cork()
  res.write(text, 'latin1')
  res.uncork()
  res.end()
}

/** Trailers for the end of the content. Before `end()`. */
export function addTrailers (res: ServerResponse, trailers: string[]): void {
  if (isHttp2(res)) return res.addTrailers(toHttp2Record(trailers))
  const pairs: [string, string][] = []
  for (let i = 0; i < trailers.length; i += 2) pairs.push([trailers[i], trailers[i + 1]])
  res.addTrailers(pairs)
}

/** Whether a message is one of Node's HTTP/2 compatibility layer. */
export function isHttp2 (message: IncomingMessage | ServerResponse): boolean {
  return 'stream' in message
}

/** Ends an answer so that nobody takes it for whole. */
export function cutOff (res: ServerResponse): void {
  const { stream } = res as { stream?: ServerHttp2Stream }
  const { socket } = res
  if (stream !== undefined) stream.close(constants.NGHTTP2_INTERNAL_ERROR)
  // To a client of HTTP/1.0 the end of the connection is the end of the content: only a reset is none.
  else if (!res.chunkedEncoding && res.req.httpVersionMinor === 0 && socket !== null && !('encrypted' in socket)) socket.resetAndDestroy()
  else res.destroy()
}

/** Whether nothing more can be written to the client, for whatever reason. */
export function isOver (res: ServerResponse): boolean {
  const { stream } = res as { stream?: ServerHttp2Stream }
  return stream === undefined ? res.destroyed || res.req.socket.destroyed : stream.destroyed
}
