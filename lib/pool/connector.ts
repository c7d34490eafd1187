import { connect as connectTcp, isIP, type Socket, type TcpNetConnectOpts, type NetConnectOpts } from 'node:net'
import { checkServerIdentity, connect as connectTls, type ConnectionOptions, type SecureContext, type TLSSocket } from 'node:tls'
import { errors } from 'undici'
import type { PoolSettings } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { watchConnect } from '../dns/index.ts'
import { TlsMaterial, tlsOptionsOf } from './tls-material.ts'

/** What a connection may be used for, by its names in ALPN (RFC 7301). */
export type Protocol = 'h2' | 'http/1.1'

/** Hears once whether there is a connection. */
export type ConnectCallback = (error: Error | null, socket: Socket | null) => void

/** What is otherwise than for requests. */
export interface ConnectorOverrides {
  /** Another port of the same backend. */
  port?: number
  /** `false`: every certificate is looked at, as no session is resumed. */
  sessions?: boolean
}

/** Milliseconds before an idle connection is asked whether it is still there, by TCP. */
const TCP_KEEP_ALIVE = 60_000
const HTTP_PROTOCOLS: ReadonlySet<string> = new Set<Protocol>(['h2', 'http/1.1'])

/**
 * Makes the connections to one backend: by TCP or a Unix socket, with TLS where its URL says so. The pool makes one for each backend and
 * hands it to whatever speaks a protocol there. TLS sessions are resumed within it and never beyond: what one setting has
 * verified says nothing for another.
 */
export class Connector {
  readonly #backend: Backend
  readonly #options: PoolSettings
  readonly #material: TlsMaterial | null
  readonly #host: string
  readonly #port: number
  readonly #otherPort: number | undefined
  readonly #path: string | undefined
  readonly #timeout: number
  /** The name that a certificate must bear. */
  readonly #name: string
  readonly #offered: readonly string[] | undefined
  readonly #rejectUnauthorized: boolean
  readonly #resumes: boolean
  /** The latest session by what was offered when it was made; of the present secure context only. */
  readonly #sessions = new Map<string, Buffer>()
  #sessionsOf: SecureContext | null = null

  /**
   * Throws `INVALID_OPTIONS` where the backend's TLS material is none.
   * @param material what the connections are secured with; by itself a connector reads it once
   */
  constructor (backend: Backend, options: PoolSettings, material?: TlsMaterial | null, overrides: ConnectorOverrides = {}) {
    const { url, servername } = backend
    const secure = url.protocol === 'https:'
    const tls = tlsOptionsOf(backend, options)
    this.#backend = backend
    this.#options = options
    this.#material = secure ? material ?? new TlsMaterial(tls, `tls of backend '${backend.id}'`) : null
    this.#host = url.hostname.replace(/^\[|\]$/g, '')
    this.#port = url.port === '' ? (secure ? 443 : 80) : Number(url.port)
    this.#otherPort = overrides.port
    this.#path = socketAddress(backend.socketPath ?? options.socketPath)
    this.#timeout = options.connectTimeout
    this.#name = tls.servername ?? servername ?? this.#host
    this.#offered = tls.alpnProtocols
    this.#rejectUnauthorized = tls.rejectUnauthorized ?? true
    this.#resumes = overrides.sessions ?? true
  }

  /** Whether connections are secured by TLS. */
  get secure (): boolean {
    return this.#material !== null
  }

  /**
   * Connects; calls back once. Gives the socket that is being connected, so that it can be destroyed.
   * @param protocols those of ALPN, most wanted first; of no account without TLS. `socket.alpnProtocol` tells which was agreed
   */
  connect (protocols: readonly Protocol[], callback: ConnectCallback): Socket {
    const material = this.#material
    if (material === null) return this.#await(connectTcp(this.#address(65_536)), 'connect', callback)
    const offered = this.#offer(protocols)
    const { context } = material
    if (context !== this.#sessionsOf) {
      this.#sessions.clear()
      this.#sessionsOf = context
    }
    const key = offered.join()
    const name = this.#name
    const options: ConnectionOptions = {
      // A TLS record is no longer.
      ...this.#address(16_384) as ConnectionOptions,
      secureContext: context,
      rejectUnauthorized: this.#rejectUnauthorized,
      session: this.#sessions.get(key),
      // TLS knows no addresses for names (RFC 6066, 3): there the certificate is checked against the address itself.
      servername: isIP(name) === 0 ? name : '',
      checkServerIdentity: (_, certificate) => checkServerIdentity(name, certificate),
      ALPNProtocols: offered.length === 0 ? undefined : [...offered]
    }
    const socket = connectTls(options)
    if (this.#resumes) {
      socket.on('session', session => { if (this.#sessionsOf === context) this.#sessions.set(key, session) })
    }
    return this.#await(socket, 'secureConnect', (error, connected) => {
      const agreed = (connected as TLSSocket | null)?.alpnProtocol
      if (agreed !== 'h2' || protocols.includes('h2')) return callback(error, connected)
      // RFC 7301, 3.2: only what was offered may be chosen.
      socket.destroy()
      callback(new Error('the backend has chosen HTTP/2, which was not offered'), null)
    })
  }

  /** Connects without TLS whatever the URL says: to see whether anybody listens. */
  connectPlain (callback: ConnectCallback): Socket {
    return this.#await(connectTcp(this.#address(65_536)), 'connect', callback)
  }

  #address (highWaterMark: number): NetConnectOpts {
    const { localAddress, family, autoSelectFamily } = this.#options
    if (this.#path !== undefined) return { path: this.#path, highWaterMark } as NetConnectOpts
    const { address, lookup } = this.#backend
    return {
      host: address ?? this.#host,
      port: this.#otherPort ?? this.#port,
      localAddress,
      // An address of the other family could not be bound to.
      family: family ?? (localAddress === undefined ? 0 : isIP(localAddress)),
      autoSelectFamily,
      lookup,
      highWaterMark
    } as TcpNetConnectOpts
  }

  #offer (protocols: readonly Protocol[]): readonly string[] {
    return this.#offered?.filter(name => !HTTP_PROTOCOLS.has(name) || protocols.includes(name as Protocol)) ?? protocols
  }

  #await <Connecting extends Socket> (socket: Connecting, event: 'connect' | 'secureConnect', callback: ConnectCallback): Connecting {
    let awaited = true
    // Who resolves names wants to know which addresses do not answer.
    const { connectFailed } = this.#backend
    const unwatch = connectFailed === undefined ? null : watchConnect(socket, connectFailed)
    const end = (error: Error | null) => {
      if (!awaited) return
      awaited = false
      clearTimeout(timer)
      unwatch?.(error)
      // What is kept here would live as long as the connection, a tunnel for one.
      socket.off(event, onConnected).off('error', onError).off('close', onClosed).on('error', finish)
      callback(error, error === null ? socket : null)
    }
    const timer = this.#timeout === 0
      ? undefined
      : setTimeout(() => socket.destroy(new errors.ConnectTimeoutError(`no connection within ${this.#timeout} ms`)), this.#timeout)
    timer?.unref()
    socket.setKeepAlive(true, TCP_KEEP_ALIVE)
    socket.setNoDelay(true)
    const onConnected = () => end(null)
    const onError = (error: Error) => end(error)
    // Destroyed by whoever began it.
    const onClosed = () => end(new Error('the connection was given up'))
    socket.on(event, onConnected).on('error', onError).on('close', onClosed)
    return socket
  }
}

/**
 * Whoever uses the connection hears of its errors himself. An alert by which a backend refuses our certificate comes after the handshake (RFC 8446, 4.4.2.4),
 * ends nothing in Node, and would be forgotten for the end that follows.
 */
function finish (this: Socket, error: Error): void {
  this.destroy(error)
}

/** A name in Linux' abstract namespace is written with an `@`, as everywhere; the kernel wants a NUL. unix(7). */
function socketAddress (path: string | undefined): string | undefined {
  return path?.startsWith('@') === true ? `\0${path.slice(1)}` : path
}
