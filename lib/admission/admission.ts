import type { FastifyBaseLogger, FastifyRequest } from 'fastify'
import type { AdaptiveOptions, LimitsOptions, PriorityOf, QueueOptions } from '../../types/index.ts'
import { AdaptiveOptionsSchema, QueueOptionsSchema } from '../../types/index.ts'
import { proxyError } from '../errors.ts'
import { resolveOptions } from '../options.ts'
import { Concurrency, type Rooms } from './concurrency.ts'
import { WaitingList, type Waiting } from './waiting-list.ts'

/** A request that asks to be let in. */
export interface Entrant extends Waiting {
  /** It may begin. False when there is no room for it after all, and it waits on. */
  onTurn (): boolean
  /** It has been refused: there is no place for it to wait, or it had to make room. */
  onShed (): void
}

/** What says who comes first. */
type Rank = Pick<Waiting, 'priority' | 'turn'>

/** Lets in as many requests of an upstream as there may be; the others wait, in a list of bounded length, or are refused. */
export class Admission implements Rooms {
  readonly maxPerBackend: number
  readonly adaptive: Required<AdaptiveOptions> | null
  /** Milliseconds that one may wait; 0 for any time. */
  readonly queueTimeout: number
  full = 0
  backends = 0
  inFlight = 0
  readonly #maxInFlight: number
  readonly #size: number
  readonly #priorityOf: PriorityOf | undefined
  readonly #list: WaitingList<Entrant>
  #turns = 0
  #due = false
  readonly #serveSoon = (): void => this.#serve()

  /** Throws `INVALID_OPTIONS`. */
  constructor ({ maxInFlight = Infinity, maxPerBackend = Infinity, adaptive = false, queue = true, priority }: LimitsOptions, path: string) {
    const { size, timeout, order } = resolveOptions<Required<QueueOptions>>(QueueOptionsSchema, typeof queue === 'object' ? queue : {}, `${path}.queue`)
    this.maxPerBackend = maxPerBackend
    this.adaptive = adaptive === false ? null : adaptiveOf(adaptive === true ? {} : adaptive, path)
    this.queueTimeout = timeout
    this.#priorityOf = priority
    this.#maxInFlight = maxInFlight
    this.#size = queue === false ? 0 : size
    this.#list = new WaitingList(order === 'lifo')
  }

  get queueLength (): number {
    return this.#list.length
  }

  /** Whether backends have limits of their own. */
  get limitsBackends (): boolean {
    return this.maxPerBackend !== Infinity || this.adaptive !== null
  }

  concurrency (now: number): Concurrency {
    return new Concurrency(this, now)
  }

  /**
   * Milliseconds that one may wait who must have his answer within so many: half of these at the most. Who is let in with his last one
   * gets nothing, and his backend works for nobody: when all wait for as long as they can, nobody is served.
   */
  longestWait (timeLeft: number): number {
    return Math.min(this.queueTimeout > 0 ? this.queueTimeout : Infinity, timeLeft / 2)
  }

  /** A number for one who comes. */
  nextTurn (): number {
    return this.#turns++
  }

  /** What would become of a request that came now. */
  outlook (request: FastifyRequest): 'in' | 'queue' | 'shed' {
    if (!this.#isCrowded && !this.#allFull) return 'in'
    const worst = this.#list.length < this.#size ? null : this.#list.worst()
    if (this.#size === 0 || (worst !== null && !this.#comesBefore({ priority: this.priorityFor(request), turn: this.#turns }, worst))) return 'shed'
    return 'queue'
  }

  /** How important a request is: lower numbers come first. */
  priorityFor (request: FastifyRequest | undefined, log?: FastifyBaseLogger): number {
    try {
      const priority = request === undefined ? 0 : Number(this.#priorityOf?.(request) ?? 0)
      return Number.isNaN(priority) ? 0 : priority
    } catch (error) {
      log?.warn({ err: error }, 'limits.priority threw')
      return 0
    }
  }

  /** Lets one in at once, if there is room. */
  enter (): boolean {
    if (this.#isCrowded) return false
    this.inFlight++
    return true
  }

  /** Gives up a place among those that are in. */
  leave (): void {
    this.inFlight--
    this.onRoom()
  }

  /** Makes one wait, in a full list instead of another that is less important. False when there is no place for it. */
  wait (entrant: Entrant): boolean {
    const worst = this.#list.length < this.#size ? null : this.#list.worst()
    if (this.#size === 0 || (worst !== null && !this.#comesBefore(entrant, worst))) return false
    if (worst !== null) this.#list.remove(worst)
    this.#list.add(entrant)
    worst?.onShed()
    return true
  }

  /** It waits no longer. */
  forget (entrant: Entrant): void {
    this.#list.remove(entrant)
  }

  /** Serves those who wait, once what is under way now is done: one who leaves may be in the middle of something. */
  onRoom (): void {
    if (this.#due || this.#list.length === 0) return
    this.#due = true
    process.nextTick(this.#serveSoon)
  }

  /** All who wait are asked, as long as there is room: it may be on others' backends than those of the first. */
  #serve (): void {
    this.#due = false
    let stuck: Entrant | null = null
    while (this.inFlight < this.#maxInFlight && !this.#allFull) {
      const entrant: Entrant | null = stuck === null ? this.#list.first() : this.#list.after(stuck)
      if (entrant === null) return
      this.#list.remove(entrant)
      this.inFlight++
      if (entrant.onTurn()) {
        // What it has set off may have taken away the one before it.
        if (stuck?.list === null) stuck = null
        continue
      }
      this.inFlight--
      this.#list.add(entrant, stuck ?? this.#list.first())
      stuck = entrant
    }
  }

  /** Whether nobody else is let in. Those who wait and can be served are served first. */
  get #isCrowded (): boolean {
    return this.inFlight >= this.#maxInFlight || (this.#due && this.#list.length > 0)
  }

  get #allFull (): boolean {
    return this.backends > 0 && this.full === this.backends
  }

  #comesBefore (one: Rank, other: Rank): boolean {
    if (one.priority !== other.priority) return one.priority < other.priority
    return this.#list.newestFirst ? one.turn > other.turn : one.turn < other.turn
  }
}

/** Throws `INVALID_OPTIONS`. */
function adaptiveOf (given: AdaptiveOptions, path: string): Required<AdaptiveOptions> {
  const options = resolveOptions<Required<AdaptiveOptions>>(AdaptiveOptionsSchema, given, `${path}.adaptive`)
  const { initial, min, max } = options
  if (min > max) throw proxyError('INVALID_OPTIONS', undefined, `${path}.adaptive.min must be at most max, ${max}, and is ${min}`)
  return { ...options, initial: Math.max(min, Math.min(max, initial)) }
}
