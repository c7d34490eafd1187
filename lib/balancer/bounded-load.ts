import type { Backend } from '../../types/index.ts'
import type { Weights } from './weights.ts'

/** Up to so many backends, their requests in flight are added up for every choice that needs it. */
const COUNTED = 64
/** Above, the sum is kept by what is chosen and settled, and counted anew after every so many th of the backends' number. */
const RECOUNT = 16
/** Against what rounding adds to a product that is whole. */
const ROUNDING = 1e-9

/**
 * Tells which backends may take one more request: those that have less in flight than `factor` times their fair share of all, that
 * request included. There is always one. Source: Mirrokni, Thorup and Zadimoghaddam, Consistent Hashing with Bounded Loads.
 */
export class BoundedLoad {
  readonly #factor: number
  #available: readonly Backend[] = []
  /** Of each backend its part of all that may be in flight. */
  #parts: Float64Array = new Float64Array(0)
  #inFlight = 0
  #uses = 0

  constructor (factor: number) {
    this.#factor = factor
  }

  rebuild (available: readonly Backend[], { values, total }: Weights): void {
    this.#available = available
    this.#parts = values.map(weight => this.#factor * weight / total)
    this.#count()
  }

  allows (index: number): boolean {
    const { inFlight } = this.#available[index]
    return inFlight === 0 || inFlight < Math.ceil(this.#parts[index] * (this.#total() + 1) - ROUNDING)
  }

  chosen (): void {
    this.#inFlight++
  }

  settled (): void {
    this.#inFlight--
  }

  #total (): number {
    const { length } = this.#available
    if (length <= COUNTED || ++this.#uses > length / RECOUNT) this.#count()
    return this.#inFlight
  }

  #count (): void {
    let inFlight = 0
    for (let i = 0; i < this.#available.length; i++) inFlight += this.#available[i].inFlight
    this.#inFlight = inFlight
    this.#uses = 0
  }
}
