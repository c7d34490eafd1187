import type { Client, Dispatcher } from 'undici'
import type { PoolSettings } from '../../types/index.ts'
import { Connection, type ConnectionOwner, type Connects, type PooledHandler } from './connection.ts'
import { ConnectionSet } from './connection-set.ts'

/** Milliseconds for which it is remembered how soon a backend closes idle connections. */
const REMEMBERED = 10_000

/** What a request may ask of its connection. */
export interface ChoosyDispatchOptions extends Dispatcher.DispatchOptions {
  /** Set where a used connection has just failed: take a new one where there is room for it. */
  fresh?: boolean
  /** Milliseconds that it may have been idle; one that has been for longer is closed, and a new one takes its place. */
  maxIdle?: number
}

/**
 * The connections to one backend. The one used last is used next, so that the fewest stay open; at the limit
 * requests wait in order. undici's own pool does not tell which connection a request is on, which is needed to
 * know a connection that died idle, a reset from an end, and a 100 Continue.
 */
export class BackendConnections extends ConnectionSet implements ConnectionOwner {
  readonly #origin: string
  readonly #limit: number
  readonly #options: Client.Options
  readonly #connector: Connects
  readonly #mostRequests: number
  readonly #all = new Set<Connection>()
  readonly #idle: Connection[] = []
  /** The shortest time after which the backend has lately closed an idle connection, and when that was. */
  #closesAfter = Infinity
  #closedAt = 0

  constructor (origin: string, connector: Connects, options: PoolSettings) {
    super()
    this.#origin = origin
    this.#connector = connector
    this.#mostRequests = options.maxRequestsPerConnection
    this.#limit = options.connections
    this.#options = {
      pipelining: 1,
      keepAliveTimeout: options.idleTimeout,
      keepAliveMaxTimeout: options.idleTimeout,
      keepAliveTimeoutThreshold: options.keepAliveMargin,
      maxHeaderSize: options.maxHeaderSize,
      // Time is kept by the exchange, which knows which of its steps it is in.
      headersTimeout: 0,
      bodyTimeout: 0
    }
  }

  override dispatch (options: ChoosyDispatchOptions, handler: Dispatcher.DispatchHandler): boolean {
    if (this.destroyedBy !== null) {
      handler.onError?.(this.destroyedBy)
      return false
    }
    this.requests++
    const connection = this.#acquire(options.fresh === true, this.#mostIdle(options.maxIdle))
    if (connection === null) {
      this.waiting.push({ options, handler })
      return false
    }
    this.#assign(connection, options, handler)
    return true
  }

  /** Forgets a request: it leaves the queue, or its connection is closed, whether it is made or still being made. */
  cancel (handler: PooledHandler): void {
    this.leaveQueue(handler)
    const { connection } = handler
    if (connection !== null && this.#all.delete(connection)) {
      connection.destroy().catch(() => {})
      const next = this.waiting.shift()
      if (next !== undefined) this.#assign(this.#open(), next.options, next.handler)
    }
    this.closeIfEmpty()
  }

  get size (): number {
    return this.#all.size
  }

  protected get idle (): number {
    return this.#idle.length
  }

  /** Lets every connection finish what it has and then close; new ones take their place. */
  renew (): void {
    this.closeIdle()
    for (const connection of this.#all) connection.retire()
  }

  protected closeIdle (): void {
    for (const connection of [...this.#idle]) this.#discard(connection)
  }

  protected async destroyAll (error: Error): Promise<void> {
    const closed = Promise.all([...this.#all].map(connection => connection.destroy(error)))
    this.#all.clear()
    this.#idle.length = 0
    await closed
    this.closeIfEmpty()
  }

  onConnected (): void {
    this.connects++
  }

  onConnectFailed (connection: Connection): void {
    this.connectErrors++
    this.#all.delete(connection)
  }

  onFree (connection: Connection): void {
    const next = this.waiting.shift()
    if (!connection.connected || !this.#all.has(connection)) {
      this.#discard(connection)
      if (next !== undefined) this.#assign(this.#open(), next.options, next.handler)
    } else if (next !== undefined) {
      this.#assign(connection, next.options, next.handler)
    } else if (this.closing !== null) {
      this.#discard(connection)
    } else {
      this.#idle.push(connection)
    }
    this.closeIfEmpty()
  }

  onClosed (connection: Connection): void {
    // One with a request on it becomes free next, and is discarded then.
    if (!connection.busy) {
      // What we have discarded ourselves is not listed any more.
      if (this.#all.has(connection)) this.#learn(connection)
      this.#discard(connection)
    }
    this.closeIfEmpty()
  }

  #learn ({ idleSince }: Connection): void {
    const now = performance.now()
    if (now - this.#closedAt > REMEMBERED) this.#closesAfter = Infinity
    this.#closesAfter = Math.min(this.#closesAfter, now - idleSince)
    this.#closedAt = now
  }

  /** Milliseconds that a connection may have been idle: half of what the backend keeps one is far from the moment it closes it. */
  #mostIdle (maxIdle = Infinity): number {
    if (maxIdle === Infinity || performance.now() - this.#closedAt > REMEMBERED) return maxIdle
    return Math.min(maxIdle, this.#closesAfter / 2)
  }

  #acquire (fresh: boolean, maxIdle: number): Connection | null {
    const room = this.#all.size < this.#limit
    if (fresh && room) return this.#open()
    while (this.#idle.length > 0) {
      const connection = this.#idle.pop() as Connection
      if (connection.connected && (maxIdle === Infinity || performance.now() - connection.idleSince <= maxIdle)) return connection
      this.#discard(connection)
    }
    return this.#all.size < this.#limit ? this.#open() : null
  }

  #open (): Connection {
    const connection = new Connection(this.#origin, this.#options, this.#connector, this.#mostRequests, this)
    this.#all.add(connection)
    return connection
  }

  #assign (connection: Connection, options: Dispatcher.DispatchOptions, handler: Dispatcher.DispatchHandler): void {
    if (connection.served > 0) this.reuses++
    connection.dispatch(options, handler)
  }

  #discard (connection: Connection): void {
    this.#all.delete(connection)
    const at = this.#idle.indexOf(connection)
    if (at !== -1) this.#idle.splice(at, 1)
    connection.client.close().catch(() => {})
  }
}
