import { isIP, type Socket } from 'node:net'
import { Client, type Dispatcher, type buildConnector } from 'undici'
import { watchHeads, type HeadListener } from './response-head.ts'

/** A dispatch handler that wants to know the connection it is served by. */
export interface PooledHandler extends Dispatcher.DispatchHandler, HeadListener {
  connection: Connection | null
  /** Whether it has ended, well or not. */
  readonly settled: boolean
}

/** Who hears of a connection's life. */
export interface ConnectionOwner {
  onConnected (connection: Connection): void
  onConnectFailed (connection: Connection): void
  onFree (connection: Connection): void
  onClosed (connection: Connection): void
}

/** One connection to a backend: an undici client that never pipelines, and what we know of its socket. */
export class Connection {
  readonly client: Client
  socket: Socket | null = null
  /** Requests that the present socket has carried, the current one included. */
  served = 0
  /** When its last request ended. */
  idleSince = 0
  /** Whether a request is on it, or waits for it to connect. */
  busy = false
  readonly #owner: ConnectionOwner
  #connecting: Socket | null = null
  #retired = false
  #handler: PooledHandler | null = null

  constructor (origin: string, options: Client.Options, connect: buildConnector.connector, owner: ConnectionOwner) {
    this.client = new Client(origin, {
      ...options,
      // TLS knows no addresses for names (RFC 6066, 3): there the certificate is checked against the address itself.
      connect: (target, callback) => {
        // Typed as giving nothing, it gives the socket it connects.
        this.#connecting = (connect as (...args: Parameters<typeof connect>) => unknown)(isIP(target.servername ?? '') === 0 ? target : { ...target, servername: undefined }, (error, socket) => {
          this.#connecting = null
          if (socket === null || error !== null) return callback(error as Error, null)
          this.#adopt(socket)
          callback(null, socket)
        }) as Socket
      }
    })
    this.client
      .on('connect', () => owner.onConnected(this))
      .on('connectionError', () => owner.onConnectFailed(this))
      .on('disconnect', () => {
        this.socket = null
        owner.onClosed(this)
      })
      .on('drain', () => this.#free())
    this.#owner = owner
  }

  /** Whether it can carry a request, now or after the present one. */
  get connected (): boolean {
    return !this.#retired && this.socket !== null && !this.socket.destroyed
  }

  /** Lets it finish what it has, and then close. */
  retire (): void {
    this.#retired = true
  }

  dispatch (options: Dispatcher.DispatchOptions, handler: Dispatcher.DispatchHandler): void {
    this.busy = true
    if (isPooled(handler)) {
      this.#handler = handler
      handler.connection = this
    }
    this.client.dispatch(options, handler)
    // A request that undici refuses to take at all fails at once and is never followed by a 'drain'.
    if (isPooled(handler) ? handler.settled : this.client.stats.size === 0) this.#free()
  }

  /** Closes it at once, connected or not. undici alone would connect again for a request that has been given up. */
  async destroy (error = new Error('the connection was given up')): Promise<void> {
    this.#connecting?.destroy(error)
    await this.client.destroy(error)
  }

  /** Counts a request that is about to be written; true when the socket has carried another before. */
  begin (): boolean {
    return this.served++ > 0
  }

  /**
   * Changes the next head before it is written, for the few things that undici's own words do not allow.
   */
  rewriteNextHead (rewrite: (head: string) => string): void {
    const { socket } = this
    if (socket === null) return
    const { write } = socket
    const rewriteOnce = function (this: Socket, chunk: unknown, ...rest: unknown[]): boolean {
      socket.write = write
      return (write as (...args: unknown[]) => boolean).call(this, typeof chunk === 'string' ? rewrite(chunk) : chunk, ...rest)
    }
    socket.write = rewriteOnce as Socket['write']
  }

  #free (): void {
    this.busy = false
    this.idleSince = performance.now()
    this.#handler = null
    this.#owner.onFree(this)
  }

  #adopt (socket: Socket): void {
    this.socket = socket
    this.served = 0
    watchHeads(socket, () => this.#handler)
  }
}

function isPooled (handler: Dispatcher.DispatchHandler): handler is PooledHandler {
  return 'connection' in handler
}
