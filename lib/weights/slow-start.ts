import type { SlowStartOptions } from '../../types/index.ts'

/** Part of its weight that a backend begins with. */
const BEGINNING = 0.1
/** Parts that the window is divided into, and milliseconds of a part at the most. */
const STEPS = 20
const LONGEST_STEP = 1_000

/** Lets a backend's weight grow. Source: Envoy's slow start. */
export class SlowStart {
  /** Milliseconds after which weights are to be looked at again. */
  readonly step: number
  readonly #window: number
  readonly #power: number

  constructor ({ window, aggression }: Required<SlowStartOptions>) {
    this.#window = window
    this.#power = 1 / aggression
    this.step = Math.min(window / STEPS, LONGEST_STEP)
  }

  /** The factor of a backend that has been available for so many milliseconds; 1 in the end. */
  factorAfter (time: number): number {
    return time >= this.#window ? 1 : Math.max(BEGINNING, (Math.max(0, time) / this.#window) ** this.#power)
  }
}
