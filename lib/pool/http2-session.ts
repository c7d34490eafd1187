import type { ClientHttp2Session, ClientHttp2Stream, OutgoingHttpHeaders } from 'node:http2'
import type { Socket } from 'node:net'
import { Readable } from 'node:stream'
import type { Dispatcher } from 'undici'
import type { Timer } from '../../types/index.ts'
import { isStreamHandler, type TrailerSource } from './connections.ts'
import { refusalOf, resetError, sessionError, UnprocessedError } from './http2-errors.ts'
import { Http2Handshake, type HandshakeOwner, type SessionSettings } from './http2-handshake.ts'
import { requestHead } from './http2-head.ts'
import { Http2IdleTimer } from './http2-idle-timer.ts'
import { Http2Liveness } from './http2-liveness.ts'
import { Http2Request, type RequestOwner } from './http2-request.ts'
import { contentOf } from './http2-upload.ts'

/** Stream identifiers are odd, of 31 bits, and never used again. RFC 9113, 5.1.1. */
const MOST_REQUESTS = 2 ** 30 - 1
/** Milliseconds that a backend has to close its side once nothing is left on a session that closes. */
const CLOSING = 1_000

/** What a request may have over HTTP/2 beside what undici's have. */
export interface Http2DispatchOptions extends Dispatcher.DispatchOptions {
  /** Whether it asks for `*`. */
  asterisk?: boolean
  trailers?: TrailerSource
}

/** Who hears of a session's life. */
export interface SessionOwner {
  /** It takes requests. */
  onReady (session: Http2Session): void
  onConnectFailed (session: Http2Session, error: Error): void
  /** TLS has agreed on another protocol. True when the socket is taken over. */
  onOtherProtocol (session: Http2Session, socket: Socket): boolean
  /** It may have room for another request. */
  onRoom (session: Http2Session): void
  onRequestClosed (request: Http2Request): void
  /** It takes no more requests, and closes when those that it has are over. */
  onLeaving (session: Http2Session): void
  onClosed (session: Http2Session): void
}

/** One HTTP/2 connection to a backend. */
export class Http2Session implements RequestOwner, HandshakeOwner {
  readonly maxHeaderSize: number
  /** Requests that it has carried. */
  served = 0
  /** Requests on it. */
  active = 0
  state: 'connecting' | 'open' | 'leaving' | 'closed' = 'connecting'
  readonly #settings: SessionSettings
  readonly #owner: SessionOwner
  readonly #handshake: Http2Handshake
  readonly #idle: Http2IdleTimer
  readonly #maxRequests: number
  /** Streams that the backend allows at a time. */
  #allowed = Infinity
  #socket: Socket | null = null
  #session: ClientHttp2Session | null = null
  #liveness: Http2Liveness | null = null
  #closeTimer: Timer | null = null
  /** The last stream that the backend says it may have processed; -1 as long as it has not said so. */
  #lastTaken = -1
  #error: Error | null = null

  constructor (settings: SessionSettings, owner: SessionOwner) {
    const { idleTimeout, maxHeaderSize, maxRequestsPerConnection } = settings.options
    this.#settings = settings
    this.#owner = owner
    this.#handshake = new Http2Handshake(settings, this)
    this.#idle = new Http2IdleTimer(settings.clock, idleTimeout, this)
    this.maxHeaderSize = maxHeaderSize
    this.#maxRequests = maxRequestsPerConnection === 0 ? MOST_REQUESTS : Math.min(maxRequestsPerConnection, MOST_REQUESTS)
  }

  connect (): void {
    this.#handshake.begin()
  }

  /** How many more requests it takes now. */
  get room (): number {
    if (this.state !== 'open' || this.#session?.closed !== false || this.#session.destroyed) return 0
    return Math.min(this.capacity - this.active, this.#maxRequests - this.served)
  }

  /** How many requests it takes at a time, so far as that is known. */
  get capacity (): number {
    return Math.min(this.#settings.options.maxConcurrentStreams, this.#allowed)
  }

  get dead (): boolean {
    return this.#session?.destroyed === true
  }

  /** Sends a request. Only where there is room. Gives nothing when it has come to an end at once. */
  dispatch (options: Http2DispatchOptions, handler: Dispatcher.DispatchHandler): Http2Request | null {
    let aborted: Error | null = null
    let request: Http2Request | null = null
    try {
      const content = contentOf(options.body)
      const head = requestHead(options, this.#settings.connector.secure ? 'https' : 'http', this.#settings.authority, Buffer.isBuffer(content) ? content.length : -1)
      if (isStreamHandler(handler)) handler.overStream = true
      handler.onConnect?.((error = new Error('the request was aborted')) => {
        aborted = error
        request?.fail(error)
      })
      if (aborted === null) request = this.#send(head, content, options.trailers, handler)
      else refuse(options, handler, aborted)
    } catch (error) {
      refuse(options, handler, refusalOf(error as Error))
    }
    return request
  }

  onSession (session: ClientHttp2Session, socket: Socket, streams: number): void {
    this.#session = session
    this.#socket = socket
    this.#liveness = new Http2Liveness(session, socket, this.#settings.clock, this)
    this.#allowed = streams
    session
      .on('remoteSettings', ({ maxConcurrentStreams }) => this.#onAllowed(maxConcurrentStreams ?? Infinity))
      .on('goaway', (_code, lastStreamID) => this.#onGoaway(lastStreamID))
      .on('error', error => { this.#error ??= error })
      .on('close', () => this.#onClose())
    this.state = 'open'
    this.#idle.start()
    this.#owner.onReady(this)
  }

  onOtherProtocol (socket: Socket): boolean {
    const taken = this.#owner.onOtherProtocol(this, socket)
    if (taken) this.state = 'closed'
    return taken
  }

  onConnectFailed (error: Error): void {
    this.state = 'closed'
    this.#owner.onConnectFailed(this, error)
  }

  fateOf (stream: ClientHttp2Stream, error: Error | null): Error {
    if (this.#lastTaken !== -1 && (stream.id === undefined || stream.id > this.#lastTaken)) return new UnprocessedError(true, error ?? undefined)
    if (this.dead) return sessionError(error ?? this.#error)
    return resetError(stream.rstCode)
  }

  onRequestClosed (request: Http2Request): void {
    this.active--
    this.#owner.onRequestClosed(request)
    // Node closes the streams of a session that dies before it says so of the session.
    if (this.dead) this.#left()
    this.#closeSoon()
    if (this.state !== 'open') return
    if (this.active === 0) this.#idle.start()
    this.#owner.onRoom(this)
  }

  onUnanswered (): void {
    this.#liveness?.onDoubt()
  }

  /** Takes no more requests, and closes when those that it has are over. */
  leave (): void {
    if (this.state === 'connecting') return this.#giveUp()
    this.#left()
    this.#session?.close()
    this.#closeSoon()
  }

  /** Closes it at once; what is on it fails. */
  destroy (error: Error): void {
    if (this.state === 'closed') return
    if (this.state === 'connecting') return this.#giveUp()
    this.#error ??= error
    this.#session?.destroy(error)
    // Node would wait until the other side has taken what was written.
    this.#socket?.destroy()
  }

  /** Node waits for the backend to close its side as well, which one that is gone never does. */
  #closeSoon (): void {
    if (this.state !== 'leaving' || this.active > 0 || this.#closeTimer !== null) return
    this.#closeTimer = this.#settings.clock.setTimeout(() => this.#socket?.destroy(), CLOSING)
  }

  #onAllowed (streams: number): void {
    this.#allowed = streams
    if (this.state === 'open') this.#owner.onRoom(this)
  }

  #onGoaway (lastStreamID: number): void {
    this.#lastTaken = lastStreamID
    this.#left()
  }

  #left (): void {
    if (this.state !== 'open') return
    this.state = 'leaving'
    this.#idle.stop()
    this.#owner.onLeaving(this)
  }

  #send (head: OutgoingHttpHeaders, content: Buffer | Readable | null, trailers: TrailerSource | undefined, handler: Dispatcher.DispatchHandler): Http2Request {
    const session = this.#session as ClientHttp2Session
    const empty = content === null || (Buffer.isBuffer(content) && content.length === 0)
    // With trailers to come, Node does not end what is given up as if it were whole.
    const stream = session.request(head, { endStream: empty, waitForTrailers: content instanceof Readable })
    const request = new Http2Request(stream, handler, this.served > 0, this)
    this.#onBegun()
    if (content instanceof Readable) request.upload(content, trailers)
    else if (!empty) stream.end(content)
    return request
  }

  #onBegun (): void {
    if (this.active++ === 0) this.#liveness?.onUse(this.#idle.elapsed)
    else this.#liveness?.onUse(0)
    if (++this.served >= this.#maxRequests) this.leave()
  }

  /** Nobody waits for it any more. */
  #giveUp (): void {
    this.state = 'closed'
    this.#handshake.giveUp()
    this.#owner.onClosed(this)
  }

  #onClose (): void {
    if (this.state === 'closed') return
    this.#left()
    this.state = 'closed'
    if (this.#closeTimer !== null) this.#settings.clock.clearTimeout(this.#closeTimer)
    this.#liveness?.stop()
    this.#owner.onClosed(this)
  }
}

function refuse ({ body }: Dispatcher.DispatchOptions, handler: Dispatcher.DispatchHandler, error: Error): void {
  if (body instanceof Readable) body.on('error', () => {}).destroy()
  handler.onError?.(error)
}
