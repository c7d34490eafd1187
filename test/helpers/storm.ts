import type { Readable } from 'node:stream'
import { Dispatcher } from 'undici'
import type { Exchange } from '../../lib/forward/exchange.ts'
import type { ExchangeClient } from '../../lib/forward/exchange-client.ts'
import type { ResponseHead } from '../../lib/forward/response-headers.ts'
import type { Sink } from '../../lib/forward/sink.ts'
import type { Backend as AnyBackend } from '../../lib/backend.ts'
import { CircuitBreaker as OurBreaker } from '../../lib/breaker/index.ts'
import type { Backend, BreakerOptions, Circuit, CircuitBreaker, CircuitEnv, ConnectionPool, LoadBalancer, Outcome, PoolStats, SelectContext, Timer } from '../../types/index.ts'
import type { FakeClock } from './clock.ts'

/** What a backend does with one attempt. Times are milliseconds after what comes before; `null` is never. */
export interface AttemptScript {
  /** How `dispatch()` itself goes. */
  dispatch: 'takes' | 'throws' | 'refuses'
  connect: number | null
  /** How soon the body is read once there is a connection. */
  reads: number | null
  interims: number
  /** Answers without waiting for the body. */
  early: boolean
  head: number | null
  status: number
  retryAfter: string | null
  /** When each piece of the answer comes. */
  pieces: (number | null)[]
  end: number | null
  /** In place of which step it fails. */
  fails: 'connect' | 'head' | 'body' | 'end' | 'no'
  /** Whether an abort is told at once, or a turn later. */
  tells: 'at once' | 'later'
}

/** One attempt as its backend has seen it. */
export class SeenAttempt {
  readonly exchange: number
  readonly method: string
  readonly backend: string
  readonly at: number
  connected = false
  connectedAt = Infinity
  /** Times that it was aborted. */
  aborts = 0
  over = false
  received = ''
  whole = false

  constructor (exchange: number, method: string, backend: string, at: number) {
    this.exchange = exchange
    this.method = method
    this.backend = backend
    this.at = at
  }
}

/** What each piece of an answer is. */
export const PIECE = 'piece'

/** Plays one attempt to the handler that undici would call. */
class Play {
  readonly seen: SeenAttempt
  readonly #script: AttemptScript
  readonly #pool: ScriptedPool
  readonly #body: Readable | Buffer | null
  readonly #handler: Dispatcher.DispatchHandler
  #timer: Timer | null = null
  #answering = false
  #held = false
  #next: (() => void) | null = null
  #piece = 0

  constructor (seen: SeenAttempt, script: AttemptScript, pool: ScriptedPool, body: Readable | Buffer | null, handler: Dispatcher.DispatchHandler) {
    this.seen = seen
    this.#script = script
    this.#pool = pool
    this.#body = body
    this.#handler = handler
  }

  begin (): void {
    if (this.#script.dispatch === 'refuses') return this.#fail()
    this.#after(this.#script.connect, () => this.#connect())
  }

  #connect (): void {
    const { fails, interims, early, reads } = this.#script
    if (fails === 'connect') return this.#fail()
    this.#handler.onConnect?.(error => this.#abort(error))
    // Nothing is written of what is aborted there.
    if (this.seen.aborts > 0) return
    this.seen.connected = true
    this.seen.connectedAt = this.#pool.clock.now()
    if (Buffer.isBuffer(this.#body)) {
      this.seen.received = this.#body.toString('latin1')
      this.seen.whole = true
    } else if (this.#body === null) this.seen.whole = true
    else if (reads !== null) this.#pool.clock.setTimeout(() => this.#read(), reads)
    for (let i = 0; i < interims && !this.seen.over; i++) this.#handler.onHeaders?.(103, [], () => {}, 'Early Hints')
    if (early || this.seen.whole) this.#awaitHead()
  }

  #read (): void {
    const body = this.#body as Readable
    if (this.seen.over || body.destroyed) return
    body.on('error', () => {}).on('data', chunk => { this.seen.received += chunk.toString('latin1') }).on('end', () => {
      this.seen.whole = true
      if (!this.#script.early && !this.seen.over) this.#awaitHead()
    })
  }

  #awaitHead (): void {
    if (!this.#answering) this.#after(this.#script.head, () => this.#head())
    this.#answering = true
  }

  #head (): void {
    const { status, retryAfter, fails } = this.#script
    if (fails === 'head') return this.#fail()
    const fields = ['x-of', String(this.seen.exchange), ...(retryAfter === null ? [] : ['retry-after', retryAfter])]
    const flowing = this.#handler.onHeaders?.(status, fields.map(text => Buffer.from(text)), () => this.#resume(), 'Status')
    this.#goOn(flowing === false, () => this.#flow())
  }

  #flow (): void {
    const { pieces, end, fails, status } = this.#script
    // Where there is no content, its end comes with the head.
    const empty = status === 204
    if (empty || this.#piece === pieces.length) return this.#after(empty ? 0 : end, () => fails === 'end' ? this.#fail() : this.#complete())
    this.#after(pieces[this.#piece++], () => {
      if (fails === 'body') return this.#fail()
      const flowing = this.#handler.onData?.(Buffer.from(PIECE))
      this.#goOn(flowing === false, () => this.#flow())
    })
  }

  /** As a parser that is paused, which goes on where it was. */
  #goOn (held: boolean, next: () => void): void {
    if (this.seen.over) return
    if (!held) return next()
    this.#held = true
    this.#next = next
  }

  #resume (): void {
    if (!this.#held || this.seen.over) return
    this.#held = false
    this.#pool.soon(() => { if (!this.seen.over) this.#next?.() })
  }

  #complete (): void {
    this.#end()
    this.#handler.onComplete?.([])
  }

  #abort (error?: Error): void {
    this.seen.aborts++
    if (this.seen.over) return
    if (this.#script.tells === 'at once') return this.#fail(error)
    this.#stop()
    this.#pool.soon(() => { if (!this.seen.over) this.#fail(error) })
  }

  #fail (error: Error = Object.assign(new Error('scripted'), { code: 'ECONNRESET' })): void {
    this.#end()
    this.#handler.onError?.(error)
  }

  #end (): void {
    this.seen.over = true
    this.#stop()
    // As undici: the body goes first.
    if (this.#body !== null && !Buffer.isBuffer(this.#body)) this.#body.destroy()
  }

  #stop (): void {
    if (this.#timer !== null) this.#pool.clock.clearTimeout(this.#timer)
    this.#timer = null
  }

  #after (delay: number | null, step: () => void): void {
    if (delay === null || this.seen.over) return
    // undici too calls at once where there is a connection, or where more has come in the same packet.
    if (delay === 0) return step()
    this.#timer = this.#pool.clock.setTimeout(() => {
      this.#timer = null
      step()
    }, delay)
  }
}

/** Connections made of scripts: the n-th attempt of an exchange, which has its number for a path, plays its n-th script. */
export class ScriptedPool implements ConnectionPool {
  readonly clock: FakeClock
  readonly attempts: SeenAttempt[] = []
  /** Called whenever an attempt begins. */
  onDispatch: (seen: SeenAttempt) => void = () => {}
  readonly #scripts: readonly (readonly AttemptScript[])[]
  readonly #soon: (() => void)[] = []

  constructor (clock: FakeClock, scripts: readonly (readonly AttemptScript[])[]) {
    this.clock = clock
    this.#scripts = scripts
  }

  dispatcherFor (backend: Backend): Dispatcher {
    return new ScriptedDispatcher(this, backend)
  }

  take (backend: Backend, options: Dispatcher.DispatchOptions, handler: Dispatcher.DispatchHandler): boolean {
    const number = Number(/^\/(\d+)/.exec(options.path)?.[1])
    const scripts = this.#scripts[number]
    const script = scripts[this.attempts.filter(({ exchange }) => exchange === number).length % scripts.length]
    const seen = new SeenAttempt(number, options.method, backend.id, this.clock.now())
    this.attempts.push(seen)
    this.onDispatch(seen)
    if (script.dispatch === 'throws') {
      seen.over = true
      throw new Error('scripted throw')
    }
    new Play(seen, script, this, options.body as Readable | Buffer | null, handler).begin()
    return true
  }

  /** Does something in a later turn, before time moves on. */
  soon (step: () => void): void {
    this.#soon.push(step)
  }

  /** Does what was to be done in this turn; true where there was anything. */
  turn (): boolean {
    const steps = this.#soon.splice(0)
    for (const step of steps) step()
    return steps.length > 0
  }

  stats (): PoolStats {
    return { total: 0, active: 0, idle: 0, pending: 0, connects: 0, connectErrors: 0, requests: 0, reuseRatio: 0, backends: {} }
  }

  async close (): Promise<void> {}
}

class ScriptedDispatcher extends Dispatcher {
  readonly #pool: ScriptedPool
  readonly #backend: Backend

  constructor (pool: ScriptedPool, backend: Backend) {
    super()
    this.#pool = pool
    this.#backend = backend
  }

  override dispatch (options: Dispatcher.DispatchOptions, handler: Dispatcher.DispatchHandler): boolean {
    return this.#pool.take(this.#backend, options, handler)
  }
}

/** Our breaker, with its permits counted. */
export class CountingBreaker implements CircuitBreaker {
  readonly type = 'counting'
  /** Permits given, and given back. */
  given = 0
  back = 0
  readonly #ours: OurBreaker

  constructor (options: BreakerOptions) {
    this.#ours = new OurBreaker(options)
  }

  createCircuit (backend: Backend, env: CircuitEnv): Circuit {
    const circuit = this.#ours.createCircuit(backend, env)
    const acquire = circuit.acquire.bind(circuit)
    const settle = circuit.settle.bind(circuit)
    circuit.acquire = () => {
      const permit = acquire()
      if (permit !== -1) this.given++
      return permit
    }
    circuit.settle = (permit, outcome) => {
      this.back++
      settle(permit, outcome)
    }
    return circuit
  }

  getState (id: string): Circuit['state'] {
    return this.#ours.getState(id)
  }

  reset (id: string): void {
    this.#ours.reset(id)
  }
}

/** How a balancer gives one of its answers. */
export type Choosing = 'now' | 'soon' | 'later' | 'throws' | 'rejects' | 'none'

/** Takes turns among those that were not tried, in a time that is scripted, and counts the results it hears of. */
export class ScriptedBalancer implements LoadBalancer {
  readonly type = 'scripted'
  readonly settled: Outcome[] = []
  readonly #ways: readonly Choosing[]
  readonly #pool: ScriptedPool
  #at = 0
  #turn = 0

  constructor (pool: ScriptedPool, ways: readonly Choosing[]) {
    this.#pool = pool
    this.#ways = ways
  }

  select (available: readonly Backend[], { tried }: SelectContext): Backend | undefined | Promise<Backend | undefined> {
    const left = tried === null ? available : available.filter(backend => !tried.includes(backend))
    const chosen = left.length === 0 ? undefined : left[this.#turn++ % left.length]
    switch (this.#ways[this.#at++ % this.#ways.length]) {
      case 'soon': return Promise.resolve(chosen)
      case 'later': return new Promise(resolve => { this.#pool.clock.setTimeout(() => resolve(chosen), 30) })
      case 'throws': throw new Error('the balancer throws')
      case 'rejects': return Promise.reject(new Error('the balancer rejects'))
      case 'none': return undefined
      default: return chosen
    }
  }

  settle (_backend: Backend, outcome: Outcome): void {
    this.settled.push(outcome)
  }
}

/** Who asks for an exchange, and writes down what he is told. */
export class RecordingClient implements ExchangeClient, Sink {
  exchange: Exchange | null = null
  readonly told: string[] = []
  status = 0
  of = ''
  content = ''
  error: (Error & { code?: string, statusCode?: number }) | null = null
  endedAt = -1
  headAt = -1
  /** Called once the exchange is over. */
  onOver: () => void = () => {}
  readonly #clock: FakeClock
  readonly #replaces: readonly number[]
  /** After how many pieces, and for how many milliseconds, it takes no more. */
  readonly #pause: { after: number, for: number } | null
  #pieces = 0

  constructor (clock: FakeClock, replaces: readonly number[], pause: { after: number, for: number } | null) {
    this.#clock = clock
    this.#replaces = replaces
    this.#pause = pause
  }

  get over (): boolean {
    return this.endedAt !== -1
  }

  mappingFor (): null {
    return null
  }

  replaces (statusCode: number): boolean {
    return this.#replaces.includes(statusCode)
  }

  copy (): void {}

  interim (): void {
    this.told.push('interim')
  }

  answer (head: ResponseHead, _backend: AnyBackend): Sink {
    this.told.push('answer')
    this.status = head.statusCode
    this.of = head.headers[1]
    this.headAt = this.#clock.now()
    return this
  }

  head (): void {
    this.told.push('head')
  }

  data (chunk: Buffer): boolean {
    this.content += chunk.toString('latin1')
    this.told.push('data')
    if (this.#pause === null || this.#pieces++ !== this.#pause.after) return true
    this.#clock.setTimeout(() => this.exchange?.resume(), this.#pause.for)
    return false
  }

  end (): void {
    this.told.push('end')
  }

  cut (error: Error): void {
    this.told.push('cut')
    this.error = error
  }

  finished (): void {
    this.told.push('finished')
    this.#end()
  }

  failed (error: Error): void {
    this.told.push('failed')
    this.error = error
    this.#end()
  }

  #end (): void {
    this.endedAt = this.#clock.now()
    this.onOver()
  }
}
