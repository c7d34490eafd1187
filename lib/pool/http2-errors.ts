import { constants } from 'node:http2'
import { proxyError } from '../errors.ts'

/** By their numbers. RFC 9113, 7. */
const NAMES = ['NO_ERROR', 'PROTOCOL_ERROR', 'INTERNAL_ERROR', 'FLOW_CONTROL_ERROR', 'SETTINGS_TIMEOUT', 'STREAM_CLOSED', 'FRAME_SIZE_ERROR',
  'REFUSED_STREAM', 'CANCEL', 'COMPRESSION_ERROR', 'CONNECT_ERROR', 'ENHANCE_YOUR_CALM', 'INADEQUATE_SECURITY', 'HTTP_1_1_REQUIRED']

/** Codes by which either side says that what it got was no HTTP/2. The last is also what Node resets an answer with whose head is too large. */
const MALFORMED: ReadonlySet<number> = new Set([constants.NGHTTP2_PROTOCOL_ERROR, constants.NGHTTP2_FRAME_SIZE_ERROR, constants.NGHTTP2_COMPRESSION_ERROR, constants.NGHTTP2_ENHANCE_YOUR_CALM])

/** The backend has not processed the request, which may be sent again whatever it is. RFC 9113, 8.7. */
export class UnprocessedError extends Error {
  readonly code = 'ERR_HTTP2_UNPROCESSED'
  /** Whether the backend only closes the connection, and takes requests on others. */
  readonly leaving: boolean

  constructor (leaving: boolean, cause?: unknown) {
    super(leaving ? 'the backend closed the connection before it took the request' : 'the backend refused the stream', { cause })
    this.leaving = leaving
  }
}

/** What a stream has come to that a peer has reset. */
export function resetError (code: number): Error {
  if (code === constants.NGHTTP2_REFUSED_STREAM) return new UnprocessedError(false)
  const error = new Error(`the stream was reset with ${NAMES[code] ?? `error ${code}`}`)
  return MALFORMED.has(code) ? proxyError('BAD_RESPONSE', error) : error
}

/** What the streams of a session have come to that has ended with an error. */
export function sessionError (error: Error | null): Error {
  if (error === null) return new Error('the backend closed the connection')
  // What nghttp2 could not read.
  return (error as { code?: string }).code === 'ERR_HTTP2_ERROR' ? proxyError('BAD_RESPONSE', error) : error
}

/** Why Node has not taken a request. */
export function refusalOf (error: Error): Error {
  const { code = '' } = error as { code?: string }
  if (code === 'ERR_HTTP2_INVALID_SESSION' || code === 'ERR_HTTP2_GOAWAY_SESSION' || code === 'ERR_HTTP2_OUT_OF_STREAMS') return new UnprocessedError(true, error)
  // A field that comes twice and may come but once, for example.
  if (code.startsWith('ERR_HTTP2_') || code === 'ERR_INVALID_HTTP_TOKEN') return proxyError('BAD_REQUEST', error, 'HTTP/2 does not allow one of its headers')
  return error
}
