import type { Socket } from 'node:net'
import { Dispatcher } from 'undici'
import type { BackendPoolStats, Clock, PoolSettings } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { BackendConnections, type ChoosyDispatchOptions } from './backend-connections.ts'
import { callBack } from './call-back.ts'
import type { Connects, PooledHandler } from './connection.ts'
import type { Connections } from './connections.ts'
import type { ConnectCallback, Connector, Protocol } from './connector.ts'
import { Http2Connections, type OtherProtocol } from './http2-connections.ts'

/**
 * The connections to one backend that may speak HTTP/2: which it is, ALPN decides with each connection. A backend that speaks HTTP/1.1 is
 * asked again when the last connection to it has closed. What is to be upgraded goes over HTTP/1.1 always: HTTP/2 has no `Upgrade`.
 */
export class NegotiatedConnections extends Dispatcher implements Connections, OtherProtocol {
  readonly #http1: BackendConnections
  readonly #http2: Http2Connections
  readonly #spares: Spares
  /** Whether the backend has last agreed on HTTP/1.1. */
  #fallen = false

  /** @param required whether HTTP/1.1 will not do: then a backend that does not speak HTTP/2 cannot be connected to */
  constructor (backend: Pick<Backend, 'host' | 'origin'>, connector: Pick<Connector, 'connect' | 'secure'>, options: PoolSettings, required: boolean, clock?: Clock) {
    super()
    this.#spares = new Spares(connector)
    this.#http1 = new BackendConnections(backend.origin, this.#spares, options)
    this.#http2 = new Http2Connections(backend, connector, options, required ? null : this, clock)
  }

  get reuses (): number {
    return this.#http1.reuses + this.#http2.reuses
  }

  override dispatch (options: ChoosyDispatchOptions, handler: Dispatcher.DispatchHandler): boolean {
    if (typeof options.upgrade === 'string') return this.#http1.dispatch(options, handler)
    if (this.#fallen && this.#http1.size === 0) this.#fallen = false
    return (this.#fallen ? this.#http1 : this.#http2).dispatch(options, handler)
  }

  cancel (handler: PooledHandler): void {
    this.#http2.cancel(handler)
    this.#http1.cancel(handler)
  }

  isWaiting (handler: PooledHandler): boolean {
    return this.#http2.isWaiting(handler) || this.#http1.isWaiting(handler)
  }

  stats (): BackendPoolStats {
    const stats = this.#http2.stats()
    const others = this.#http1.stats()
    for (const key of ['total', 'active', 'idle', 'pending', 'connects', 'connectErrors', 'requests'] as const) stats[key] += others[key]
    stats.reuseRatio = stats.requests === 0 ? 0 : this.reuses / stats.requests
    return stats
  }

  renew (): void {
    this.#http2.renew()
    this.#http1.renew()
  }

  override close (callback?: () => void): Promise<void> & void {
    // What waits for one protocol may come to the other.
    const closed = this.#http2.close().then(() => this.#http1.close())
    return callBack(closed, callback)
  }

  override destroy (reason?: unknown, callback?: unknown): Promise<void> & void {
    const error = reason instanceof Error ? reason : null
    const destroyed = Promise.all([this.#http2.destroy(error), this.#http1.destroy(error)]).then(() => {})
    return callBack(destroyed, reason, callback)
  }

  onOtherProtocol (socket: Socket): void {
    this.#fallen = true
    this.#spares.add(socket)
    for (const { options, handler } of this.#http2.takeWaiting()) this.#http1.dispatch(options, handler)
    this.#spares.closeUnused()
  }
}

/** Gives connections that were made already before it makes others. */
class Spares implements Connects {
  readonly #connector: Connects
  #sockets: Socket[] = []

  constructor (connector: Connects) {
    this.#connector = connector
  }

  add (socket: Socket): void {
    this.#sockets.push(socket)
  }

  connect (protocols: readonly Protocol[], callback: ConnectCallback): Socket {
    const socket = this.#sockets.pop()
    if (socket === undefined || socket.destroyed) return this.#connector.connect(protocols, callback)
    process.nextTick(callback, null, socket)
    return socket
  }

  /** Those that nobody has asked for by now. */
  closeUnused (): void {
    setImmediate(() => { for (const socket of this.#sockets.splice(0)) socket.destroy() })
  }
}
