import type { Socket } from 'node:net'
import { Client, type Dispatcher } from 'undici'
import type { Connector } from './connector.ts'
import { requestsLeft } from './keep-alive.ts'
import { watchHeads, type HeadListener } from './response-head.ts'

/** What these connections speak. */
const HTTP_1 = ['http/1.1'] as const

/** A dispatch handler that wants to know the connection it is served by. */
export interface PooledHandler extends Dispatcher.DispatchHandler, HeadListener {
  connection: Connection | null
  /** Whether it has ended, well or not. */
  readonly settled: boolean
}

/** What makes the socket of a connection. */
export type Connects = Pick<Connector, 'connect'>

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
  /** After how many requests it is closed. */
  #mostServed: number
  readonly #owner: ConnectionOwner
  #connecting: Socket | null = null
  #retired = false
  #handler: PooledHandler | null = null

  /** @param mostRequests after how many it is closed; 0 for no limit */
  constructor (origin: string, options: Client.Options, connector: Connects, mostRequests: number, owner: ConnectionOwner) {
    this.client = new Client(origin, {
      ...options,
      connect: (_, callback) => {
        this.#connecting = connector.connect(HTTP_1, (error, socket) => {
          this.#connecting = null
          if (socket === null || error !== null) return callback(error as Error, null)
          this.#adopt(socket)
          callback(null, socket)
        })
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
    this.#mostServed = mostRequests === 0 ? Infinity : mostRequests
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
    const { served } = this
    this.served = served + 1
    if (this.served >= this.#mostServed) this.#retired = true
    return served > 0
  }

  /** Heeds what a response says of further requests: undici knows of the time that an idle connection is kept, not of their number. */
  heed (headers: readonly Buffer[]): void {
    const left = requestsLeft(headers)
    if (left === Infinity) return
    this.#mostServed = Math.min(this.#mostServed, this.served + left)
    if (left <= 0) this.#retired = true
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

  /** The socket has been switched to another protocol, and is somebody else's now. */
  release (socket: Socket): void {
    this.#handler = null
    // Nobody looks for heads there any more.
    delete (socket as Partial<Socket>).read
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
    watchHeads(socket, () => this.#handler, () => !this.busy)
  }
}

function isPooled (handler: Dispatcher.DispatchHandler): handler is PooledHandler {
  return 'connection' in handler
}
