import type { RetryBudgetOptions } from '../../types/index.ts'
import { Window } from '../window.ts'

/** Milliseconds that requests and retries are counted for. */
const LONG = 10_000
const SECOND = 1_000

/**
 * How many retries an upstream gets: a part of its requests, of the last ten seconds or of those waiting for an answer, and some each
 * second whatever there is. Backends that all fail get little more than their clients send. Source: Finagle's retry budget, Envoy's.
 */
export class RetryBudget {
  /** Requests that have no answer yet. */
  waiting = 0
  readonly #share: number
  readonly #perSecond: number
  /** Requests, and among them as hits the retries. */
  readonly #long = new Window(LONG)
  readonly #second = new Window(SECOND)

  constructor ({ percent, minPerSecond }: Required<RetryBudgetOptions>) {
    this.#share = percent / 100
    this.#perSecond = minPerSecond
  }

  /** Counts a request that has begun to wait for its answer. */
  begin (now: number): void {
    this.waiting++
    this.#long.record(false, now)
  }

  /** Its answer has come, or there is none. */
  end (): void {
    this.waiting--
  }

  /** Whether one more retry may be made now. */
  allows (now: number): boolean {
    const retries = this.#long.hits(now)
    const requests = Math.max(this.#long.total(now) - retries, this.waiting)
    return retries + 1 <= requests * this.#share || this.#second.hits(now) < this.#perSecond
  }

  /** Counts a retry that is made. */
  spend (now: number): void {
    this.#long.record(true, now)
    this.#second.record(true, now)
  }
}
