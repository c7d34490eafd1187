import type { IncomingMessage } from 'node:http'
import { constants, type ServerHttp2Stream } from 'node:http2'
import type { Clock } from '../../types/index.ts'

/** Milliseconds until it is looked again whether an answer has gone out. */
const AGAIN = 50

const watched = new WeakSet<IncomingMessage>()

/**
 * Has a client of HTTP/2 keep the rest of its request once it has the whole answer: its stream is reset with NO_ERROR. RFC 9113, 8.1.
 * Node leaves open what the application could still read, for ever: neither the stream nor its session would ever close.
 */
export function dropRest (raw: IncomingMessage, clock: Clock): void {
  const { stream } = raw as IncomingMessage & { stream: ServerHttp2Stream }
  if (watched.has(raw) || stream.endAfterHeaders || stream.destroyed) return
  watched.add(raw)
  if (stream.writableFinished) lookSoon(raw, stream, clock)
  else stream.once('finish', () => lookSoon(raw, stream, clock))
}

/** The last frame leaves a little after Node says that all has been written. */
function lookSoon (raw: IncomingMessage, stream: ServerHttp2Stream, clock: Clock): void {
  setImmediate(() => setImmediate(() => look(raw, stream, clock)))
}

function look (raw: IncomingMessage, stream: ServerHttp2Stream, clock: Clock): void {
  if (stream.destroyed) return
  if (!stream.closed && stream.state.localClose !== 1) {
    // A reset would overtake it.
    clock.setTimeout(() => look(raw, stream, clock), AGAIN)
    return
  }
  stream.close(constants.NGHTTP2_NO_ERROR)
  // What has come and was not read keeps a stream that is closed.
  raw.unpipe().resume()
}
