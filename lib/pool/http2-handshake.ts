import { connect as connectHttp2, type ClientHttp2Session } from 'node:http2'
import type { Socket } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { errors } from 'undici'
import type { Clock, PoolSettings, Timer } from '../../types/index.ts'
import type { Connector, Protocol } from './connector.ts'

/** Bytes of content that one stream, and all of a session together, may be ahead of what is read: enough for 20 Mbit/s over 100 ms, and for 80. */
const STREAM_WINDOW = 262_144
const SESSION_WINDOW = 1_048_576
/** Bytes of a request's head; what is too much is for the backend to say. */
const MAX_SENT_HEAD = 1_048_576
/** Milliseconds after which what has come and has no SETTINGS in it will have none. */
const STRANGE = 500

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

/** Who hears once what has come of it. One that is given up says nothing. */
export interface HandshakeOwner {
  /** The session is its owner's from now on, with its errors. @param streams how many the backend allows at a time */
  onSession (session: ClientHttp2Session, socket: Socket, streams: number): void
  /** TLS has agreed on another protocol. True when the socket is taken over; if not, it has failed. */
  onOtherProtocol (socket: Socket): boolean
  onConnectFailed (error: Error): void
}

/** How a session comes about: a connection, ALPN where there is TLS, and the backend's SETTINGS, without which it may be anybody. */
export class Http2Handshake {
  readonly #settings: SessionSettings
  readonly #owner: HandshakeOwner
  #socket: Socket | null = null
  #session: ClientHttp2Session | null = null
  #connectTimer: Timer | null = null
  #strangeTimer: Timer | null = null
  #error: Error | null = null
  #over = false

  readonly #onError = (error: Error): void => { this.#error ??= error }

  readonly #onClose = (): void => this.#fail(this.#strangeness())

  constructor (settings: SessionSettings, owner: HandshakeOwner) {
    this.#settings = settings
    this.#owner = owner
  }

  begin (): void {
    const { connector, protocols, options: { connectTimeout }, clock } = this.#settings
    if (connectTimeout > 0) {
      this.#connectTimer = clock.setTimeout(() => this.#fail(new errors.ConnectTimeoutError(`no HTTP/2 session within ${connectTimeout} ms`)), connectTimeout)
    }
    this.#socket = connector.connect(protocols, (error, connected) => {
      if (this.#over) connected?.destroy()
      else if (connected === null) this.#fail(error as Error)
      else this.#onConnected(connected)
    })
  }

  /** Nobody waits for it any more. */
  giveUp (): void {
    this.#over = true
    this.#stopTimers()
    this.#session?.destroy()
    this.#socket?.destroy()
  }

  #fail (error: Error): void {
    if (this.#over) return
    this.giveUp()
    this.#owner.onConnectFailed(error)
  }

  #onConnected (socket: Socket): void {
    if (!('encrypted' in socket) || (socket as TLSSocket).alpnProtocol === 'h2') return this.#speak(socket)
    this.#stopTimers()
    // Whoever takes it over may give this up meanwhile, which must not end the connection.
    this.#socket = null
    if (this.#owner.onOtherProtocol(socket)) {
      this.#over = true
      return
    }
    socket.destroy()
    const { alpnProtocol } = socket as TLSSocket
    this.#fail(new Error(`the backend does not speak HTTP/2: ${alpnProtocol === false || alpnProtocol === null ? 'it has agreed on nothing by ALPN' : `by ALPN it has agreed on ${alpnProtocol}`}`))
  }

  #speak (socket: Socket): void {
    const { maxHeaderSize } = this.#settings.options
    this.#socket = socket
    const session = this.#session = connectHttp2('http://backend.invalid', {
      // Whose name and address are of no account then.
      createConnection: () => socket,
      settings: { enablePush: false, initialWindowSize: STREAM_WINDOW, maxHeaderListSize: maxHeaderSize },
      // What a field costs at the least by RFC 9113, 6.5.2.
      maxHeaderListPairs: Math.ceil(maxHeaderSize / 32),
      maxSendHeaderBlockLength: MAX_SENT_HEAD,
      // Windows bound what there is to be kept; Node's own limit lets single streams fail.
      maxSessionMemory: 1_024
    })
    session.setLocalWindowSize(SESSION_WINDOW)
    session
      .once('remoteSettings', ({ maxConcurrentStreams }) => this.#handOver(session, socket, maxConcurrentStreams ?? Infinity))
      .on('error', this.#onError)
      .on('close', this.#onClose)
    this.#watchForStrangers(socket, 0)
  }

  /** SETTINGS have come. The first are the backend's part of the preface: until then it may be anybody. RFC 9113, 3.4. */
  #handOver (session: ClientHttp2Session, socket: Socket, streams: number): void {
    if (this.#over) return
    this.#over = true
    this.#stopTimers()
    session.off('error', this.#onError).off('close', this.#onClose)
    this.#owner.onSession(session, socket, streams)
  }

  /**
   * nghttp2 gives up what it cannot read by itself, and Node then reads no more: it does not see that a server of HTTP/1.1 has answered
   * with an error and closed.
   */
  #watchForStrangers (socket: Socket, bytes: number): void {
    this.#strangeTimer = this.#settings.clock.setTimeout(() => {
      const { bytesRead } = socket
      if (bytesRead > 0 && bytesRead === bytes) this.#fail(this.#strangeness())
      else this.#watchForStrangers(socket, bytesRead)
    }, STRANGE)
  }

  /** Why it has ended before there were SETTINGS: a server of HTTP/1.1 closes the connection, or answers what nghttp2 cannot read. */
  #strangeness (): Error {
    const error = this.#error
    if (error !== null && (error as { code?: string }).code !== 'ERR_HTTP2_ERROR') return error
    return new Error('the backend does not speak HTTP/2: it has sent no SETTINGS', { cause: error ?? undefined })
  }

  #stopTimers (): void {
    for (const timer of [this.#connectTimer, this.#strangeTimer]) if (timer !== null) this.#settings.clock.clearTimeout(timer)
    this.#connectTimer = null
    this.#strangeTimer = null
  }
}
