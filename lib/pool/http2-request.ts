import { STATUS_CODES } from 'node:http'
import { constants, type ClientHttp2Stream, type IncomingHttpHeaders } from 'node:http2'
import type { Readable } from 'node:stream'
import type { Dispatcher } from 'undici'
import { proxyError } from '../errors.ts'
import { isStreamHandler, type TrailerSource } from './connections.ts'
import { rawFieldsOf, requestTrailers, sizeOf } from './http2-head.ts'
import { Http2Upload } from './http2-upload.ts'

const { NGHTTP2_CANCEL, NGHTTP2_FLAG_END_STREAM } = constants

/** The session that a request is on. */
export interface RequestOwner {
  /** Bytes of a head or of trailers at the most. */
  readonly maxHeaderSize: number
  /** Why a stream has ended that has not ended well. @param error what Node says of that, if anything */
  fateOf (stream: ClientHttp2Stream, error: Error | null): Error
  /** Whether it has died, not only this stream. */
  readonly dead: boolean
  /** One was given up for which nothing had come. */
  onUnanswered (): void
  /** The stream is gone. */
  onRequestClosed (request: Http2Request): void
}

const kRequest = Symbol('rockstar-proxy.request')
type Tracked = ClientHttp2Stream & { [kRequest]: Http2Request }

/** One request on a session, between undici's handler and Node's stream. It calls back to an end once. */
export class Http2Request {
  readonly handler: Dispatcher.DispatchHandler
  readonly #owner: RequestOwner
  readonly #stream: ClientHttp2Stream
  /** Whether its session has carried others before. */
  readonly #reused: boolean
  #upload: Http2Upload | null = null
  /** Whether the handler takes content. */
  #flowing = false
  /** Content that has come when it was not wanted. */
  #held: Buffer[] = []
  /** Whether the backend has said that this is all, and whether Node has handed all of it on. */
  #whole = false
  #read = false
  #answered = false
  #trailers: Buffer[] | null = null
  #error: Error | null = null
  #over = false

  /** @param reused whether the session has carried another request before */
  constructor (stream: ClientHttp2Stream, handler: Dispatcher.DispatchHandler, reused: boolean, owner: RequestOwner) {
    this.handler = handler
    this.#owner = owner
    this.#stream = stream
    this.#reused = reused
    const tracked = stream as Tracked
    tracked[kRequest] = this
    tracked.push = pushNotingEnd
    // Content waits until there is a head.
    stream.pause()
    stream.on('headers', onInterim).on('response', onResponse).on('trailers', onTrailers).on('data', onData).on('end', onEnd).on('error', onError).on('close', onClose)
  }

  /** Sends a body that is still coming, and what follows it. */
  upload (body: Readable, source?: TrailerSource): void {
    const stream = this.#stream
    this.#upload = new Http2Upload(body, stream, error => this.fail(error))
    // Without a listener, Node sends none.
    if (source === undefined) return
    stream.on('wantTrailers', () => {
      try {
        stream.sendTrailers(requestTrailers(source.trailers()))
      } catch (error) {
        this.fail(error as Error)
      }
    })
  }

  /** Forgets the handler; the backend is told that nobody waits for the answer. */
  cancel (): void {
    this.#giveUp()
    if (!this.#answered) this.#owner.onUnanswered()
  }

  /** Ends it with an error. */
  fail (error: Error): void {
    if (this.#over) return
    this.#giveUp()
    if (isStreamHandler(this.handler)) this.handler.reused = this.#reused && this.#owner.dead
    this.handler.onError?.(error)
  }

  onInterim (statusCode: number, raw: readonly string[]): void {
    if (this.#over) return
    this.#hear()
    if (sizeOf(raw) > this.#owner.maxHeaderSize) return this.#refuse('an interim response', raw)
    // One that says nothing: whether the client was to wait is between it and us.
    if (statusCode !== 100) this.handler.onHeaders?.(statusCode, rawFieldsOf(raw), this.#resume, STATUS_CODES[statusCode] ?? '')
  }

  onResponse (statusCode: number, raw: readonly string[], flags: number): void {
    if (this.#over) return
    this.#hear()
    if (sizeOf(raw) > this.#owner.maxHeaderSize) return this.#refuse('the head', raw)
    if (statusCode < 200) return this.fail(proxyError('BAD_RESPONSE', new Error(`status ${statusCode} at the end of a stream`)))
    const { handler } = this
    if (isStreamHandler(handler)) handler.endsAtHead = (flags & NGHTTP2_FLAG_END_STREAM) !== 0
    if (handler.onHeaders?.(statusCode, rawFieldsOf(raw), this.#resume, STATUS_CODES[statusCode] ?? '') !== false) this.#resume()
  }

  onTrailers (raw: readonly string[]): void {
    if (sizeOf(raw) > this.#owner.maxHeaderSize) this.#refuse('the trailer section', raw)
    else this.#trailers = rawFieldsOf(raw)
  }

  onData (chunk: Buffer): void {
    if (this.#over) return
    if (this.#flowing) this.#hand(chunk)
    else this.#held.push(chunk)
  }

  /** Nothing more comes. What is here is taken from Node, whose session may end now and would throw it away. */
  onLast (whole: boolean): void {
    this.#whole ||= whole
    this.#stream.resume()
  }

  /** Node says so as well of what was cut short. */
  onEnd (): void {
    if (!this.#whole) return
    this.#read = true
    this.#completeIfDone()
  }

  onError (error: Error): void {
    this.#error = error
  }

  onClose (): void {
    // First, so that what this ends with finds the session as it is.
    this.#owner.onRequestClosed(this)
    if (!this.#read) this.fail(this.#owner.fateOf(this.#stream, this.#error))
  }

  readonly #resume = (): void => {
    if (this.#over) return
    this.#flowing = true
    while (this.#flowing && this.#held.length > 0) this.#hand(this.#held.shift() as Buffer)
    if (!this.#read && this.#flowing) this.#stream.resume()
    this.#completeIfDone()
  }

  #hand (chunk: Buffer): void {
    if (this.handler.onData?.(chunk) !== false) return
    this.#flowing = false
    // What is whole goes on into our own hands.
    if (!this.#whole) this.#stream.pause()
  }

  #completeIfDone (): void {
    if (this.#over || !this.#read || !this.#flowing || this.#held.length > 0) return
    this.#end()
    // Nobody wants the rest of a request that is answered. RFC 9113, 8.1.
    if (!this.#stream.writableEnded) this.#stream.close(NGHTTP2_CANCEL)
    this.handler.onComplete?.(this.#trailers as unknown as string[] | null)
  }

  #end (): void {
    this.#over = true
    this.#held = []
    this.#upload?.giveUp()
  }

  #giveUp (): void {
    this.#end()
    this.#stream.close(NGHTTP2_CANCEL)
  }

  #hear (): void {
    this.#answered = true
    if (isStreamHandler(this.handler)) this.handler.heard = true
  }

  #refuse (what: string, raw: readonly string[]): void {
    this.fail(proxyError('BAD_RESPONSE', new Error(`${what} has ${sizeOf(raw)} bytes, more than ${this.#owner.maxHeaderSize}`)))
  }
}

/**
 * Node lets every stream end, also one that was cut short: by a reset, for which it has no error where its code is CANCEL or
 * NO_ERROR, or by the end of the connection. Only of one that has ended well is that said before it is closed.
 */
function pushNotingEnd (this: Tracked, chunk: unknown, encoding?: BufferEncoding): boolean {
  const { push } = Object.getPrototypeOf(this) as ClientHttp2Stream
  const whole = !this.closed && !this.destroyed
  const more = push.call(this, chunk, encoding)
  if (chunk === null) this[kRequest].onLast(whole)
  return more
}

function onInterim (this: Tracked, headers: IncomingHttpHeaders, _flags: number, raw?: string[]): void {
  const status = Number(headers[':status'])
  if (status >= 100) this[kRequest].onInterim(status, raw ?? [])
}

function onResponse (this: Tracked, headers: IncomingHttpHeaders, flags: number, raw?: string[]): void {
  this[kRequest].onResponse(Number(headers[':status']), raw ?? [], flags)
}

function onTrailers (this: Tracked, _headers: IncomingHttpHeaders, _flags: number, raw?: string[]): void {
  this[kRequest].onTrailers(raw ?? [])
}

function onData (this: Tracked, chunk: Buffer): void {
  this[kRequest].onData(chunk)
}

function onEnd (this: Tracked): void {
  this[kRequest].onEnd()
}

function onError (this: Tracked, error: Error): void {
  this[kRequest].onError(error)
}

function onClose (this: Tracked): void {
  this[kRequest].onClose()
}
