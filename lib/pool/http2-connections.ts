import type { Socket } from 'node:net'
import type { Dispatcher } from 'undici'
import type { Clock, PoolSettings } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { systemClock } from '../clock.ts'
import type { ChoosyDispatchOptions } from './backend-connections.ts'
import { ConnectionSet, type Waiting } from './connection-set.ts'
import type { Connector } from './connector.ts'
import type { SessionSettings } from './http2-handshake.ts'
import type { Http2Request } from './http2-request.ts'
import { Http2Session, type SessionOwner } from './http2-session.ts'

interface WaitingForSession extends Waiting {
  /** How many sessions must have come to an end before the one that it goes out on was opened; 0 where that does not matter. */
  generation: number
}

/** What hears of requests that another protocol has been agreed on for. */
export interface OtherProtocol {
  /** It takes over the socket. */
  onOtherProtocol (socket: Socket): void
}

/**
 * The HTTP/2 connections to one backend, called sessions. The one that was opened first and has room is used, so that the fewest stay
 * open: those that a peak has left close when they have been idle. Another is opened when all are full; at the limit requests
 * wait in order. undici's own HTTP/2 fails all streams when a backend closes a session gracefully, and knows no refused ones.
 */
export class Http2Connections extends ConnectionSet<WaitingForSession> implements SessionOwner {
  readonly #settings: SessionSettings
  readonly #limit: number
  readonly #other: OtherProtocol | null
  /** Those that take requests, or will, in the order they were opened. */
  readonly #usable: Http2Session[] = []
  /** Those that are not closed yet and take none. */
  readonly #leaving = new Set<Http2Session>()
  /** Those on sessions; `null` while one is being sent. */
  readonly #active = new Map<Dispatcher.DispatchHandler, Http2Request | null>()
  /** How many sessions have come to an end, and how many had when each was opened. */
  #ends = 1
  readonly #generations = new WeakMap<Http2Session, number>()
  /** What the backend has last said it takes at a time. */
  #capacity: number

  /** @param other who takes over when TLS agrees on another protocol; without one that is a failure to connect */
  constructor (backend: Pick<Backend, 'host'>, connector: Pick<Connector, 'connect' | 'secure'>, options: PoolSettings, other: OtherProtocol | null = null, clock: Clock = systemClock) {
    super()
    this.#settings = { connector, options, authority: backend.host, protocols: other === null ? ['h2'] : ['h2', 'http/1.1'], clock }
    this.#limit = options.connections
    this.#capacity = options.maxConcurrentStreams
    this.#other = other
  }

  override dispatch (options: ChoosyDispatchOptions, handler: Dispatcher.DispatchHandler): boolean {
    if (this.destroyedBy !== null) {
      handler.onError?.(this.destroyedBy)
      return false
    }
    this.requests++
    const waiting: WaitingForSession = { options, handler, generation: options.fresh === true ? this.#ends : 0 }
    const session = this.waiting.length === 0 ? this.#sessionFor(waiting) : undefined
    if (session !== undefined) {
      this.#assign(session, waiting)
      return true
    }
    this.#queue(waiting)
    this.#openAsNeeded()
    return false
  }

  cancel (handler: Dispatcher.DispatchHandler): void {
    this.leaveQueue(handler)
    this.#active.get(handler)?.cancel()
    this.#active.delete(handler)
    // One that nobody waits for may never come about.
    if (this.waiting.length === 0) {
      for (const session of this.#usable.filter(({ state }) => state === 'connecting')) session.leave()
    }
    this.closeIfEmpty()
  }

  get size (): number {
    return this.#usable.length + this.#leaving.size
  }

  protected get idle (): number {
    return [...this.#usable, ...this.#leaving].filter(({ state, active }) => state !== 'connecting' && active === 0).length
  }

  renew (): void {
    for (const session of [...this.#usable]) session.leave()
    this.#openAsNeeded()
  }

  protected closeIdle (): void {
    for (const session of [...this.#usable]) this.#leaveIfUnused(session)
  }

  protected destroyAll (error: Error): Promise<void> {
    const closed = this.close()
    for (const session of [...this.#usable, ...this.#leaving]) session.destroy(error)
    return closed
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
    const failed = this.waiting.filter(({ generation }) => !this.#usable.some(other => this.#suits(other, generation)))
    for (const waiting of failed) this.waiting.splice(this.waiting.indexOf(waiting), 1)
    for (const { handler } of failed) handler.onError?.(error)
    this.closeIfEmpty()
  }

  onOtherProtocol (session: Http2Session, socket: Socket): boolean {
    if (this.#other === null) return false
    this.#other.onOtherProtocol(socket)
    this.#remove(session)
    this.closeIfEmpty()
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
    this.closeIfEmpty()
  }

  /** Takes away what waits, for others to serve. */
  takeWaiting (): Waiting[] {
    this.requests -= this.waiting.length
    return this.waiting.splice(0)
  }

  /** What is sent again has waited before: it comes first. */
  #queue (waiting: WaitingForSession): void {
    const at = waiting.generation === 0 ? -1 : this.waiting.findIndex(({ generation }) => generation === 0)
    if (at === -1) this.waiting.push(waiting)
    else this.waiting.splice(at, 0, waiting)
  }

  #sessionFor ({ generation }: WaitingForSession): Http2Session | undefined {
    // What ends one may end all that were there: a restart, or the same number of requests.
    return this.#usable.find(session => session.room > 0 && this.#suits(session, generation))
  }

  #suits (session: Http2Session, generation: number): boolean {
    return generation <= (this.#generations.get(session) as number) || this.#usable.length >= this.#limit
  }

  /** Gives what waits to sessions that have room, in order. */
  #serve (): void {
    for (let i = 0; i < this.waiting.length;) {
      const session = this.#sessionFor(this.waiting[i])
      if (session !== undefined) this.#assign(session, this.waiting.splice(i, 1)[0])
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
    const wanted = Math.ceil(this.waiting.length / each) - coming
    for (let i = 0; i < wanted && this.#usable.length < this.#limit; i++) this.#open()
  }

  #open (): void {
    const session = new Http2Session(this.#settings, this)
    this.#generations.set(session, this.#ends)
    this.#usable.push(session)
    session.connect()
  }

  #leaveIfUnused (session: Http2Session): void {
    if (this.closing !== null && session.active === 0 && this.waiting.length === 0) session.leave()
  }

  #remove (session: Http2Session): void {
    const at = this.#usable.indexOf(session)
    if (at !== -1) this.#usable.splice(at, 1)
  }
}
