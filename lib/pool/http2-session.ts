import { connect as connectHttp2, type ClientHttp2Session, type ClientHttp2Stream, type OutgoingHttpHeaders, type Settings } from 'node:http2'
import type { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { Readable } from 'node:stream'
import { errors, type Dispatcher } from 'undici'
import type { Clock, PoolSettings, Timer } from '../../types/index.ts'
import { proxyError } from '../errors.ts'
import { isStreamHandler, type TrailerSource } from './connections.ts'
import type { Connector, Protocol } from './connector.ts'
import { resetError, sessionError, UnprocessedError } from './http2-errors.ts'
import { requestHead } from './http2-head.ts'
import { Http2Liveness } from './http2-liveness.ts'
import { Http2Request, type RequestOwner } from './http2-request.ts'

/** Bytes of content that one stream, and all of a session together, may be ahead of what is read: enough for 20 Mbit/s over 100 ms, and for 80. */
const STREAM_WINDOW = 262_144
const SESSION_WINDOW = 1_048_576
/** Stream identifiers are odd, of 31 bits, and never used again. RFC 9113, 5.1.1. */
const MOST_REQUESTS = 2 ** 30 - 1
/** Milliseconds after which what has come and has no SETTINGS in it will have none. */
const STRANGE = 500
/** Bytes of a request's head; what is too much is for the backend to say. */
const MAX_SENT_HEAD = 1_048_576

/** Milliseconds that a backend has to close its side once nothing is left on a session that closes. */
const CLOSING = 1_000

/** What all sessions of a backend have in common. */
export interface SessionSettings {
  readonly connector: Pick<Connector, 'connect' | 'secure'>
  readonly options: PoolSettings
  /** What `:authority` says where no `Host` does. */
  readonly authority: string
  /** Offered by ALPN. */
  readonly protocols: readonly Protocol[]
  readonly clock: Clock
}

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
export class Http2Session implements RequestOwner {
  readonly maxHeaderSize: number
  /** Requests that it has carried. */
  served = 0
  /** Requests on it. */
  active = 0
  state: 'connecting' | 'open' | 'leaving' | 'closed' = 'connecting'
  readonly #settings: SessionSettings
  readonly #owner: SessionOwner
  readonly #maxRequests: number
  /** Streams that the backend allows at a time. */
  #allowed = Infinity
  #socket: Socket | null = null
  #session: ClientHttp2Session | null = null
  #liveness: Http2Liveness | null = null
  #connectTimer: Timer | null = null
  #strangeTimer: Timer | null = null
  #idleTimer: Timer | null = null
  #closeTimer: Timer | null = null
  #idleSince = 0
  /** The last stream that the backend says it may have processed; -1 as long as it has not said so. */
  #lastTaken = -1
  #error: Error | null = null

  constructor (settings: SessionSettings, owner: SessionOwner) {
    const { maxHeaderSize, maxRequestsPerConnection } = settings.options
    this.#settings = settings
    this.#owner = owner
    this.maxHeaderSize = maxHeaderSize
    this.#maxRequests = maxRequestsPerConnection === 0 ? MOST_REQUESTS : Math.min(maxRequestsPerConnection, MOST_REQUESTS)
  }

  /** @param socket one that is connected already, where HTTP/2 has been agreed */
  connect (socket?: Socket): void {
    const { connector, protocols, options: { connectTimeout }, clock } = this.#settings
    if (connectTimeout > 0) {
      this.#connectTimer = clock.setTimeout(() => this.#failConnect(new errors.ConnectTimeoutError(`no HTTP/2 session within ${connectTimeout} ms`)), connectTimeout)
    }
    if (socket !== undefined) return this.#begin(socket)
    this.#socket = connector.connect(protocols, (error, connected) => {
      if (this.state !== 'connecting') connected?.destroy()
      else if (connected === null) this.#failConnect(error as Error)
      else this.#onConnected(connected)
    })
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
    if (this.active === 0) this.#onIdle()
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

  /** Node waits for the backend to close its side as well, which one that is gone never does. */
  #closeSoon (): void {
    if (this.state !== 'leaving' || this.active > 0 || this.#closeTimer !== null) return
    this.#closeTimer = this.#settings.clock.setTimeout(() => this.#socket?.destroy(), CLOSING)
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

  #onConnected (socket: Socket): void {
    if (!('encrypted' in socket) || (socket as TLSSocket).alpnProtocol === 'h2') return this.#begin(socket)
    this.#stopTimer()
    this.#socket = null
    if (this.#owner.onOtherProtocol(this, socket)) {
      this.state = 'closed'
      return
    }
    socket.destroy()
    const { alpnProtocol } = socket as TLSSocket
    this.#failConnect(new Error(`the backend does not speak HTTP/2: ${alpnProtocol === false || alpnProtocol === null ? 'it has agreed on nothing by ALPN' : `by ALPN it has agreed on ${alpnProtocol}`}`))
  }

  #begin (socket: Socket): void {
    const { clock, options: { maxHeaderSize } } = this.#settings
    this.#socket = socket
    const settings: Settings = { enablePush: false, initialWindowSize: STREAM_WINDOW, maxHeaderListSize: maxHeaderSize }
    const session = this.#session = connectHttp2('http://backend.invalid', {
      // Whose name and address are of no account then.
      createConnection: () => socket,
      settings,
      // What a field costs at the least by RFC 9113, 6.5.2.
      maxHeaderListPairs: Math.ceil(maxHeaderSize / 32),
      maxSendHeaderBlockLength: MAX_SENT_HEAD,
      // Windows bound what there is to be kept; Node's own limit lets single streams fail.
      maxSessionMemory: 1_024
    })
    session.setLocalWindowSize(SESSION_WINDOW)
    session
      .on('remoteSettings', ({ maxConcurrentStreams }) => this.#onAllowed(maxConcurrentStreams ?? Infinity))
      .on('goaway', (_code, lastStreamID) => this.#onGoaway(lastStreamID))
      .on('error', error => { this.#error ??= error })
      .on('close', () => this.#onClose())
    if (this.state === 'connecting') this.#watchForStrangers(0)
    this.#liveness = new Http2Liveness(session, socket, clock, this)
  }

  /**
   * nghttp2 gives up what it cannot read by itself, and Node then reads no more: it does not see that a server of HTTP/1.1 has answered
   * with an error and closed.
   */
  #watchForStrangers (bytes: number): void {
    this.#strangeTimer = this.#settings.clock.setTimeout(() => {
      const { bytesRead } = this.#socket as Socket
      if (bytesRead > 0 && bytesRead === bytes) this.#failConnect(this.#strangeness())
      else this.#watchForStrangers(bytesRead)
    }, STRANGE)
  }

  /** SETTINGS have come. The first are the backend's part of the preface: until then it may be anybody. RFC 9113, 3.4. */
  #onAllowed (streams: number): void {
    this.#allowed = streams
    if (this.state === 'connecting') {
      this.#stopTimer()
      this.state = 'open'
      this.#onIdle()
      this.#owner.onReady(this)
    } else if (this.state === 'open') this.#owner.onRoom(this)
  }

  #onGoaway (lastStreamID: number): void {
    this.#lastTaken = lastStreamID
    this.#left()
  }

  #left (): void {
    if (this.state !== 'open') return
    this.state = 'leaving'
    this.#stopIdling()
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
    if (this.active++ === 0) this.#liveness?.onUse(this.#settings.clock.now() - this.#idleSince)
    else this.#liveness?.onUse(0)
    if (++this.served >= this.#maxRequests) this.leave()
  }

  #failConnect (error: Error): void {
    if (this.state !== 'connecting') return
    this.#stopConnecting()
    this.#owner.onConnectFailed(this, error)
  }

  /** Nobody waits for it any more. */
  #giveUp (): void {
    this.#stopConnecting()
    this.#owner.onClosed(this)
  }

  #onClose (): void {
    if (this.state === 'connecting') return this.#failConnect(this.#strangeness())
    if (this.state === 'closed') return
    this.#left()
    this.state = 'closed'
    if (this.#closeTimer !== null) this.#settings.clock.clearTimeout(this.#closeTimer)
    this.#liveness?.stop()
    this.#owner.onClosed(this)
  }

  /** Why it has ended before there were SETTINGS: a server of HTTP/1.1 closes the connection, or answers what nghttp2 cannot read. */
  #strangeness (): Error {
    const error = this.#error
    if (error !== null && (error as { code?: string }).code !== 'ERR_HTTP2_ERROR') return error
    return new Error('the backend does not speak HTTP/2: it has sent no SETTINGS', { cause: error ?? undefined })
  }

  #onIdle (): void {
    const { clock, options: { idleTimeout } } = this.#settings
    this.#idleSince = clock.now()
    // One that runs is made to run on when it ends: that costs less than to begin anew with every request.
    this.#idleTimer ??= clock.setTimeout(() => this.#onIdleTimeout(), idleTimeout)
  }

  #onIdleTimeout (): void {
    const { clock, options: { idleTimeout } } = this.#settings
    this.#idleTimer = null
    if (this.active > 0 || this.state !== 'open') return
    const left = idleTimeout - (clock.now() - this.#idleSince)
    if (left <= 0) this.leave()
    else this.#idleTimer = clock.setTimeout(() => this.#onIdleTimeout(), left)
  }

  #stopIdling (): void {
    if (this.#idleTimer !== null) this.#settings.clock.clearTimeout(this.#idleTimer)
    this.#idleTimer = null
  }

  #stopTimer (): void {
    for (const timer of [this.#connectTimer, this.#strangeTimer]) if (timer !== null) this.#settings.clock.clearTimeout(timer)
    this.#connectTimer = null
    this.#strangeTimer = null
  }

  /** It has not come about. */
  #stopConnecting (): void {
    this.state = 'closed'
    this.#stopTimer()
    this.#session?.destroy()
    this.#socket?.destroy()
  }
}

/** A body as it is sent: in one piece, as it comes, or none. */
function contentOf (body: Dispatcher.DispatchOptions['body']): Buffer | Readable | null {
  if (body === null || body === undefined) return null
  if (body instanceof Readable || Buffer.isBuffer(body)) return body
  if (typeof body === 'string') return Buffer.from(body)
  if (body instanceof Uint8Array) return Buffer.from(body.buffer, body.byteOffset, body.byteLength)
  if (Symbol.asyncIterator in body || Symbol.iterator in body) return Readable.from(body as unknown as AsyncIterable<Buffer>)
  throw new TypeError('a body of this kind cannot be sent over HTTP/2')
}

function refuse ({ body }: Dispatcher.DispatchOptions, handler: Dispatcher.DispatchHandler, error: Error): void {
  if (body instanceof Readable) body.on('error', () => {}).destroy()
  handler.onError?.(error)
}

/** Why Node has not taken a request. */
function refusalOf (error: Error): Error {
  const { code = '' } = error as { code?: string }
  if (code === 'ERR_HTTP2_INVALID_SESSION' || code === 'ERR_HTTP2_GOAWAY_SESSION' || code === 'ERR_HTTP2_OUT_OF_STREAMS') return new UnprocessedError(true, error)
  // A field that comes twice and may come but once, for example.
  if (code.startsWith('ERR_HTTP2_') || code === 'ERR_INVALID_HTTP_TOKEN') return proxyError('BAD_REQUEST', error, 'HTTP/2 does not allow one of its headers')
  return error
}
