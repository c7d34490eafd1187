import type { Backend } from '../../types/index.ts'

/** What a weight of 0 counts as beside others above it: almost nothing, and no trap for what divides by it. */
const ALMOST_NOTHING = 1e-6

/** The weights of a set of backends, in its order. */
export interface Weights {
  /** All above 0. */
  readonly values: Float64Array
  readonly total: number
  /** Whether all are the same. */
  readonly equal: boolean
}

/** Reads the weights of backends; where all of them are 0, all count the same. */
export function weightsOf (available: readonly Backend[]): Weights {
  const values = Float64Array.from(available, backend => backend.effectiveWeight)
  const nothing = values.every(weight => !(weight > 0))
  let total = 0
  for (let i = 0; i < values.length; i++) {
    if (!(values[i] > 0)) values[i] = nothing ? 1 : ALMOST_NOTHING
    total += values[i]
  }
  return { values, total, equal: values.every(weight => weight === values[0]) }
}
