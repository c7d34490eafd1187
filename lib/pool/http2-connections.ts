import type { Socket } from 'node:net'
import { Dispatcher } from 'undici'
import type { BackendPoolStats, Clock, PoolSettings } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { systemClock } from '../clock.ts'
import type { ChoosyDispatchOptions } from './backend-connections.ts'
import type { Connections } from './connections.ts'
import type { Connector } from './connector.ts'
import type { Http2Request } from './http2-request.ts'
import { Http2Session, type SessionOwner, type SessionSettings } from './http2-session.ts'

interface Waiting {
  options: ChoosyDispatchOptions
  handler: Dispatcher.DispatchHandler
  /** How many sessions must have come to an end before the one that it goes out on was opened; 0 where that does not matter. */
  generation: number
}

/** What hears of requests that another protocol has been agreed on for. */
export interface OtherProtocol {
  /** True when the socket is taken over. */
  onOtherProtocol (socket: Socket): boolean
}

/**
 * The HTTP/2 connections to one backend, called sessions. The one that was opened first and has room is used, so that the fewest stay
 * open: those that a peak has left close when they have been idle. Another is opened when all are full; at the limit requests
 * wait in order. undici's own HTTP/2 fails all streams when a backend closes a session gracefully, and knows no refused ones.
 */
export class Http2Connections extends Dispatcher implements Connections, SessionOwner {
  connects = 0
  connectErrors = 0
  requests = 0
  reuses = 0
  readonly #settings: SessionSettings
  readonly #limit: number
  readonly #other: OtherProtocol | null
  /** Those that take requests, or will, in the order they were opened. */
  readonly #usable: Http2Session[] = []
  /** Those that are not closed yet and take none. */
  readonly #leaving = new Set<Http2Session>()
  /** Those on sessions; `null` while one is being sent. */
  readonly #active = new Map<Dispatcher.DispatchHandler, Http2Request | null>()
  readonly #waiting: Waiting[] = []
  /** How many sessions have come to an end, and how many had when each was opened. */
  #ends = 1
  readonly #generations = new WeakMap<Http2Session, number>()
  /** What the backend has last said it takes at a time. */
  #capacity: number
  #closing: Promise<void> | null = null
  #onEmpty: (() => void) | null = null
  #destroyed: Error | null = null

  /** @param other who takes over when TLS agrees on another protocol; without one that is a failure to connect */
  constructor (backend: Pick<Backend, 'host'>, connector: Pick<Connector, 'connect' | 'secure'>, options: PoolSettings, other: OtherProtocol | null = null, clock: Clock = systemClock) {
    super()
    this.#settings = { connector, options, authority: backend.host, protocols: other === null ? ['h2'] : ['h2', 'http/1.1'], clock }
    this.#limit = options.connections
    this.#capacity = options.maxConcurrentStreams
    this.#other = other
  }

  override dispatch (options: ChoosyDispatchOptions, handler: Dispatcher.DispatchHandler): boolean {
    if (this.#destroyed !== null) {
      handler.onError?.(this.#destroyed)
      return false
    }
    this.requests++
    const waiting: Waiting = { options, handler, generation: options.fresh === true ? this.#ends : 0 }
    const session = this.#waiting.length === 0 ? this.#sessionFor(waiting) : undefined
    if (session !== undefined) {
      this.#assign(session, waiting)
      return true
    }
    this.#queue(waiting)
    this.#openAsNeeded()
    return false
  }

  /** Takes over a connection on which HTTP/2 has been agreed. */
  adopt (socket: Socket): void {
    this.#open(socket)
  }

  cancel (handler: Dispatcher.DispatchHandler): void {
    const at = this.#waiting.findIndex(waiting => waiting.handler === handler)
    if (at !== -1) this.#waiting.splice(at, 1)
    this.#active.get(handler)?.cancel()
    this.#active.delete(handler)
    // One that nobody waits for may never come about.
    if (this.#waiting.length === 0) {
      for (const session of this.#usable.filter(({ state }) => state === 'connecting')) session.leave()
    }
    this.#closeIfEmpty()
  }

  isWaiting (handler: Dispatcher.DispatchHandler): boolean {
    return this.#waiting.some(waiting => waiting.handler === handler)
  }

  stats (): BackendPoolStats {
    const all = [...this.#usable, ...this.#leaving]
    const idle = all.filter(({ state, active }) => state !== 'connecting' && active === 0).length
    return {
      total: all.length,
      active: all.length - idle,
      idle,
      pending: this.#waiting.length,
      connects: this.connects,
      connectErrors: this.connectErrors,
      requests: this.requests,
      reuseRatio: this.requests === 0 ? 0 : this.reuses / this.requests
    }
  }

  renew (): void {
    for (const session of [...this.#usable]) session.leave()
    this.#openAsNeeded()
  }

  /** Lets the requests it has finish, then closes every session. */
  override close (callback?: () => void): Promise<void> & void {
    if (this.#closing === null) {
      this.#closing = new Promise<void>(resolve => { this.#onEmpty = resolve })
      for (const session of [...this.#usable]) this.#leaveIfUnused(session)
      this.#closeIfEmpty()
    }
    if (callback !== undefined) this.#closing.then(callback)
    return this.#closing as Promise<void> & void
  }

  /** Fails the requests it has and closes every session at once. */
  override destroy (reason?: unknown, callback?: unknown): Promise<void> & void {
    const error = reason instanceof Error ? reason : new Error('the connection pool was closed')
    this.#destroyed ??= error
    for (const { handler } of this.#waiting.splice(0)) handler.onError?.(error)
    const done = this.close()
    for (const session of [...this.#usable, ...this.#leaving]) session.destroy(error)
    for (const last of [reason, callback]) if (typeof last === 'function') done.then(last as () => void)
    return done
  }

  onReady (session: Http2Session): void {
    this.connects++
    this.#capacity = session.capacity
    this.#serve()
    this.#openAsNeeded()
    this.#leaveIfUnused(session)
  }

  onConnectFailed (session: Http2Session, error: Error): void {
    this.connectErrors++
    this.#remove(session)
    // Where there are others that will do, a request waits for one of them.
    const failed = this.#waiting.filter(({ generation }) => !this.#usable.some(other => this.#suits(other, generation)))
    for (const waiting of failed) this.#waiting.splice(this.#waiting.indexOf(waiting), 1)
    for (const { handler } of failed) handler.onError?.(error)
    this.#closeIfEmpty()
  }

  onOtherProtocol (session: Http2Session, socket: Socket): boolean {
    if (this.#other?.onOtherProtocol(socket) !== true) return false
    this.#remove(session)
    this.#closeIfEmpty()
    return true
  }

  onRoom (session: Http2Session): void {
    this.#serve()
    this.#leaveIfUnused(session)
  }

  onRequestClosed ({ handler }: Http2Request): void {
    this.#active.delete(handler)
  }

  onLeaving (session: Http2Session): void {
    this.#ends++
    this.#remove(session)
    this.#leaving.add(session)
    this.#openAsNeeded()
  }

  onClosed (session: Http2Session): void {
    this.#remove(session)
    this.#leaving.delete(session)
    this.#closeIfEmpty()
  }

  /** Takes away what waits, for others to serve. */
  takeWaiting (): { options: ChoosyDispatchOptions, handler: Dispatcher.DispatchHandler }[] {
    this.requests -= this.#waiting.length
    return this.#waiting.splice(0)
  }

  /** What is sent again has waited before: it comes first. */
  #queue (waiting: Waiting): void {
    const at = waiting.generation === 0 ? -1 : this.#waiting.findIndex(({ generation }) => generation === 0)
    if (at === -1) this.#waiting.push(waiting)
    else this.#waiting.splice(at, 0, waiting)
  }

  #sessionFor ({ generation }: Waiting): Http2Session | undefined {
    // What ends one may end all that were there: a restart, or the same number of requests.
    return this.#usable.find(session => session.room > 0 && this.#suits(session, generation))
  }

  #suits (session: Http2Session, generation: number): boolean {
    return generation <= (this.#generations.get(session) as number) || this.#usable.length >= this.#limit
  }

  /** Gives what waits to sessions that have room, in order. */
  #serve (): void {
    for (let i = 0; i < this.#waiting.length;) {
      const session = this.#sessionFor(this.#waiting[i])
      if (session !== undefined) this.#assign(session, this.#waiting.splice(i, 1)[0])
      else if (this.#usable.every(({ room }) => room <= 0)) return
      else i++
    }
  }

  #assign (session: Http2Session, { options, handler }: Waiting): void {
    if (session.served > 0) this.reuses++
    this.#active.set(handler, null)
    const request = session.dispatch(options, handler)
    // Given up by its own handler meanwhile.
    if (!this.#active.has(handler)) request?.cancel()
    else if (request === null) this.#active.delete(handler)
    else this.#active.set(handler, request)
  }

  /** Opens as many sessions as what waits will need, so far as is known. */
  #openAsNeeded (): void {
    const coming = this.#usable.filter(({ state }) => state === 'connecting').length
    const each = Math.max(1, this.#capacity)
    const wanted = Math.ceil(this.#waiting.length / each) - coming
    for (let i = 0; i < wanted && this.#usable.length < this.#limit; i++) this.#open()
  }

  #open (socket?: Socket): void {
    const session = new Http2Session(this.#settings, this)
    this.#generations.set(session, this.#ends)
    this.#usable.push(session)
    session.connect(socket)
  }

  #leaveIfUnused (session: Http2Session): void {
    if (this.#closing !== null && session.active === 0 && this.#waiting.length === 0) session.leave()
  }

  #remove (session: Http2Session): void {
    const at = this.#usable.indexOf(session)
    if (at !== -1) this.#usable.splice(at, 1)
  }

  #closeIfEmpty (): void {
    if (this.#closing !== null && this.#usable.length === 0 && this.#leaving.size === 0 && this.#waiting.length === 0) this.#onEmpty?.()
  }
}
