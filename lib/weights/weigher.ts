import type { Clock, SlowStartOptions, Timer, WeightOptions } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { Observed } from './observed.ts'
import { ruleFrom, type WeightRule } from './rules.ts'
import { SlowStart } from './slow-start.ts'

/** How far a factor moves to what it should be, each time. */
const MOVE = 0.3

/** What the weights of an upstream's backends follow beside what they are set to. */
export interface WeigherOptions {
  weights: Required<WeightOptions> | false
  slowStart: Required<SlowStartOptions> | false
}

/** Who is told of weights. */
export interface WeigherListener {
  list (): readonly Backend[]
  /** Effective weights have changed. */
  onWeights (): void
  onWeightFault (error: unknown): void
}

/**
 * Keeps the effective weights of an upstream's backends: by slow start, and by what they do. One timer, which runs while there is
 * something to follow.
 */
export class Weigher {
  readonly #clock: Clock
  readonly #listener: WeigherListener
  readonly #slowStart: SlowStart | null
  readonly #rule: WeightRule | null = null
  readonly #weights: Required<WeightOptions> | null
  /** Since when each backend has been available; those that were there before the upstream served have always been. */
  readonly #since = new WeakMap<Backend, number>()
  #timer: Timer | null = null
  #timerDue = Infinity
  #ruleDue = Infinity
  #running = false

  constructor ({ weights, slowStart }: WeigherOptions, clock: Clock, listener: WeigherListener) {
    this.#clock = clock
    this.#listener = listener
    this.#slowStart = slowStart === false ? null : new SlowStart(slowStart)
    this.#weights = weights === false ? null : weights
    if (this.#weights !== null) this.#rule = ruleFrom(this.#weights)
  }

  /** Whether responses are looked through for load reports. */
  get wantsReports (): boolean {
    return this.#weights !== null && this.#weights.from !== 'latency'
  }

  /** Follows time, from when the app is ready. */
  start (): void {
    this.#running = true
    if (this.#weights !== null) this.#ruleDue = this.#clock.now() + this.#weights.interval
    this.#schedule()
  }

  stop (): void {
    this.#running = false
    if (this.#timer !== null) this.#clock.clearTimeout(this.#timer)
    this.#timer = null
  }

  /** Takes over who is available now. @param first whether the upstream is only being built */
  update (backends: readonly Backend[], first: boolean): void {
    const now = this.#clock.now()
    for (const backend of backends) {
      if (this.#rule !== null) backend.observed ??= new Observed()
      // While it is only tried, it has not recovered yet.
      if (!backend.available || backend.circuit.state === 'half-open') this.#since.delete(backend)
      else if (!this.#since.has(backend)) {
        this.#since.set(backend, first || !this.#running ? -Infinity : now)
        // Not when it goes: what is under way may still report.
        backend.observed?.forget()
        backend.weightFactor = 1
      }
      backend.rampFactor = this.#rampOf(backend, now)
      backend.effectiveWeight = backend.weight * backend.weightFactor * backend.rampFactor
    }
    this.#schedule()
  }

  #rampOf (backend: Backend, now: number): number {
    const since = this.#since.get(backend)
    return this.#slowStart === null || since === undefined ? 1 : this.#slowStart.factorAfter(now - since)
  }

  #schedule (): void {
    if (!this.#running) return
    const ramping = this.#slowStart !== null && this.#listener.list().some(({ rampFactor }) => rampFactor < 1)
    const now = this.#clock.now()
    const due = Math.min(ramping ? now + (this.#slowStart as SlowStart).step : Infinity, this.#ruleDue)
    if (due === Infinity || (this.#timer !== null && this.#timerDue <= due)) return
    if (this.#timer !== null) this.#clock.clearTimeout(this.#timer)
    this.#timerDue = due
    this.#timer = this.#clock.setTimeout(() => this.#onTimer(), Math.max(1, due - now))
  }

  #onTimer (): void {
    this.#timer = null
    const now = this.#clock.now()
    const backends = this.#listener.list()
    if (now >= this.#ruleDue) this.#follow(backends, now)
    let changed = false
    for (const backend of backends) {
      backend.rampFactor = this.#rampOf(backend, now)
      if (backend.reweigh()) changed = true
    }
    if (changed) this.#listener.onWeights()
    this.#schedule()
  }

  #follow (backends: readonly Backend[], now: number): void {
    const { interval, min, max, expiry } = this.#weights as Required<WeightOptions>
    this.#ruleDue = now + interval
    const judged = backends.filter(({ available }) => available).map(backend => {
      const observed = backend.observed as Observed
      return { backend, observed, sample: observed.take(now, expiry) }
    })
    try {
      (this.#rule as WeightRule)(judged, now).forEach((factor = 1, i) => {
        const { backend } = judged[i]
        const target = Math.min(max, Math.max(min, factor))
        // The last bit would take for ever.
        const moved = backend.weightFactor + MOVE * (target - backend.weightFactor)
        backend.weightFactor = Math.abs(target - moved) < 0.002 * target ? target : moved
      })
    } catch (error) {
      this.#listener.onWeightFault(error)
    }
  }
}
