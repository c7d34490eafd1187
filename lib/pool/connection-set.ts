import { Dispatcher } from 'undici'
import type { BackendPoolStats } from '../../types/index.ts'
import { callBack } from './call-back.ts'
import type { Connections } from './connections.ts'

/** A request that waits for a connection. */
export interface Waiting {
  options: Dispatcher.DispatchOptions
  handler: Dispatcher.DispatchHandler
}

/** A set of connections to one backend, all of one protocol: what is counted of it, who waits for one of them, and how it ends. */
export abstract class ConnectionSet<Waits extends Waiting = Waiting> extends Dispatcher implements Connections {
  connects = 0
  connectErrors = 0
  requests = 0
  reuses = 0
  protected readonly waiting: Waits[] = []
  /** Settles when it is closed; `null` as long as it is not to be. */
  protected closing: Promise<void> | null = null
  /** What requests fail with since it was destroyed. */
  protected destroyedBy: Error | null = null
  #onEmpty: (() => void) | null = null

  /** How many connections there are, those that are still being made among them. */
  abstract get size (): number

  /** How many of them carry no request. */
  protected abstract get idle (): number

  abstract override dispatch (options: Dispatcher.DispatchOptions, handler: Dispatcher.DispatchHandler): boolean

  abstract cancel (handler: Dispatcher.DispatchHandler): void

  abstract renew (): void

  /** Closes the connections that carry nothing and are not waited for. */
  protected abstract closeIdle (): void

  /** Closes all connections at once. Resolves when they are gone. */
  protected abstract destroyAll (error: Error): Promise<void>

  isWaiting (handler: Dispatcher.DispatchHandler): boolean {
    return this.waiting.some(waiting => waiting.handler === handler)
  }

  stats (): BackendPoolStats {
    const { size, idle, connects, connectErrors, requests, reuses } = this
    return {
      total: size,
      active: size - idle,
      idle,
      pending: this.waiting.length,
      connects,
      connectErrors,
      requests,
      reuseRatio: requests === 0 ? 0 : reuses / requests
    }
  }

  /** Lets the requests it has finish, then closes every connection. */
  override close (callback?: () => void): Promise<void> & void {
    if (this.closing === null) {
      this.closing = new Promise<void>(resolve => { this.#onEmpty = resolve })
      this.closeIdle()
      this.closeIfEmpty()
    }
    return callBack(this.closing, callback)
  }

  /** Fails the requests it has and closes every connection at once. */
  override destroy (reason?: unknown, callback?: unknown): Promise<void> & void {
    const error = reason instanceof Error ? reason : new Error('the connection pool was closed')
    this.destroyedBy ??= error
    for (const { handler } of this.waiting.splice(0)) handler.onError?.(error)
    return callBack(this.destroyAll(error), reason, callback)
  }

  /** Takes a request out of those that wait. */
  protected leaveQueue (handler: Dispatcher.DispatchHandler): void {
    const at = this.waiting.findIndex(waiting => waiting.handler === handler)
    if (at !== -1) this.waiting.splice(at, 1)
  }

  protected closeIfEmpty (): void {
    if (this.closing !== null && this.size === 0 && this.waiting.length === 0) this.#onEmpty?.()
  }
}
