import type { Clock, HedgeOptions } from '../../types/index.ts'
import { Window } from '../window.ts'
import { LatencyWindow } from './latency-window.ts'

/** Milliseconds that requests and second attempts are counted for. */
const COUNTED = 10_000
/** Milliseconds for which a delay that was worked out holds. */
const HOLDS = 250

/** What an upstream knows that second attempts depend on. */
export class Hedging {
  readonly latencies: LatencyWindow
  readonly #clock: Clock
  /** Requests, and among them as hits the second attempts. */
  readonly #counts = new Window(COUNTED)

  constructor (clock: Clock) {
    this.#clock = clock
    this.latencies = new LatencyWindow(clock)
  }

  begin (): void {
    this.#counts.record(false, this.#clock.now())
  }

  /** Whether one more second attempt keeps within a part of all requests. */
  allows (maxExtra: number): boolean {
    const now = this.#clock.now()
    const hedges = this.#counts.hits(now)
    return hedges + 1 <= (this.#counts.total(now) - hedges) * maxExtra
  }

  spend (): void {
    this.#counts.record(true, this.#clock.now())
  }
}

/** Second attempts as one upstream, route or call wants them. */
export class HedgePolicy {
  readonly maxExtra: number
  readonly percentile: number
  readonly minDelay: number
  #delay: number | undefined = undefined
  #delayUntil = -Infinity

  constructor ({ percentile = 95, minDelay = 5, maxExtra = 0.05 }: HedgeOptions) {
    this.percentile = percentile
    this.minDelay = minDelay
    this.maxExtra = maxExtra
  }

  /** Milliseconds after which a second attempt is worth making; `undefined` while that is not known. */
  delay ({ latencies }: Hedging, now: number): number | undefined {
    if (now >= this.#delayUntil) {
      const quantile = latencies.quantile(this.percentile / 100)
      // Whole milliseconds: timers of the same length share their list.
      this.#delay = quantile === undefined ? undefined : Math.ceil(Math.max(quantile, this.minDelay))
      this.#delayUntil = now + HOLDS
    }
    return this.#delay
  }
}

/** The policy that an option means; `null` for none. */
export function hedgePolicyOf (option: HedgeOptions | boolean | undefined): HedgePolicy | null {
  return option === undefined || option === false ? null : new HedgePolicy(option === true ? {} : option)
}
