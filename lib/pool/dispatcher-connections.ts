import type { EventEmitter } from 'node:events'
import { Dispatcher } from 'undici'
import type { BackendPoolStats } from '../../types/index.ts'
import { callBack } from './call-back.ts'
import { EitherHandler } from './either-handler.ts'

/** What undici's own dispatchers tell of themselves. */
interface UndiciStats {
  connected?: boolean | number
  free?: number
  running?: number
  queued?: number
  pending?: number
}

/** The connections to one backend that a dispatcher of the application's makes. It counts what can be counted from outside. */
export class DispatcherConnections extends Dispatcher {
  connects = 0
  connectErrors = 0
  requests = 0
  readonly #dispatcher: Dispatcher
  readonly #origin: string
  readonly #letGo: (how: 'close' | 'destroy', error?: Error) => Promise<void>
  readonly #onConnect = (origin: URL): void => { if (this.#isOurs(origin)) this.connects++ }
  readonly #onConnectError = (origin: URL): void => { if (this.#isOurs(origin)) this.connectErrors++ }

  /** @param letGo called when its connections are no longer wanted */
  constructor (dispatcher: Dispatcher, origin: string, letGo: (how: 'close' | 'destroy', error?: Error) => Promise<void>) {
    super()
    this.#dispatcher = dispatcher
    this.#origin = origin
    this.#letGo = letGo
    // Many backends may share one: that is no leak.
    this.#allowListeners(1)
    dispatcher.on?.('connect', this.#onConnect)
    dispatcher.on?.('connectionError', this.#onConnectError)
  }

  /** Requests that did not need a connection of their own, as far as can be told. */
  get reuses (): number {
    return Math.max(0, this.requests - this.connects)
  }

  override dispatch (options: Dispatcher.DispatchOptions, handler: Dispatcher.DispatchHandler): boolean {
    this.requests++
    return this.#dispatcher.dispatch(options, new EitherHandler(handler))
  }

  stats (): BackendPoolStats {
    const { total, idle, pending } = countsOf(this.#dispatcher, this.#origin)
    const { connects, connectErrors, requests, reuses } = this
    return { total, active: total - idle, idle, pending, connects, connectErrors, requests, reuseRatio: requests === 0 ? 0 : reuses / requests }
  }

  override close (callback?: () => void): Promise<void> & void {
    return callBack(this.#end('close'), callback)
  }

  override destroy (reason?: unknown, callback?: unknown): Promise<void> & void {
    return callBack(this.#end('destroy', reason instanceof Error ? reason : undefined), reason, callback)
  }

  async #end (how: 'close' | 'destroy', error?: Error): Promise<void> {
    await this.#letGo(how, error)
    this.#dispatcher.off?.('connect', this.#onConnect)
    this.#dispatcher.off?.('connectionError', this.#onConnectError)
    this.#allowListeners(-1)
  }

  #allowListeners (more: number): void {
    const emitter = this.#dispatcher as Partial<Pick<EventEmitter, 'getMaxListeners' | 'setMaxListeners'>>
    const most = emitter.getMaxListeners?.() ?? 0
    if (most > 0) emitter.setMaxListeners?.(most + more)
  }

  #isOurs (origin: URL | string | undefined): boolean {
    return origin === undefined || new URL(origin).origin === this.#origin
  }
}

/** The numbers of a `Client`, of a `Pool`, or of what an `Agent` has for an origin; 0 where there are none. */
function countsOf (dispatcher: Dispatcher, origin: string): { total: number, idle: number, pending: number } {
  const { stats } = dispatcher as { stats?: UndiciStats | Record<string, UndiciStats> }
  if (typeof stats !== 'object' || stats === null) return { total: 0, idle: 0, pending: 0 }
  const own: UndiciStats = 'connected' in stats ? stats : (stats as Record<string, UndiciStats>)[origin] ?? {}
  const total = Number(own.connected ?? 0)
  const idle = own.free ?? Math.max(0, total - (own.running ?? 0))
  return { total, idle: Math.min(total, idle), pending: own.queued ?? own.pending ?? 0 }
}
