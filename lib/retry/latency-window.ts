import type { Clock } from '../../types/index.ts'
import { Histogram } from '../metrics/index.ts'

/** Milliseconds after which what was counted is of the past, and after which it is forgotten as well. */
const TURN = 10_000
/** Times below which a percentile says nothing. */
const ENOUGH = 20

/** The times to the head of an upstream's recent answers: of the last ten to twenty seconds. */
export class LatencyWindow {
  readonly #clock: Clock
  #present = new Histogram()
  #past = new Histogram()
  #since: number

  constructor (clock: Clock) {
    this.#clock = clock
    this.#since = clock.now()
  }

  record (milliseconds: number): void {
    this.#turn()
    this.#present.record(milliseconds)
  }

  /** The time that so much of the answers did not exceed; `undefined` while too few are known. @param part 0 to 1 */
  quantile (part: number): number | undefined {
    this.#turn()
    if (this.#present.count + this.#past.count < ENOUGH) return undefined
    return this.#present.quantile(part, this.#past)
  }

  #turn (): void {
    const age = this.#clock.now() - this.#since
    if (age < TURN) return
    const past = this.#past
    this.#past = this.#present
    this.#present = past
    past.reset()
    if (age >= 2 * TURN) this.#past.reset()
    this.#since += age
  }
}
