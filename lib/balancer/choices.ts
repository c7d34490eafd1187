import type { Backend, LoadBalancer, SelectContext } from '../../types/index.ts'
import { Sampler } from './sampler.ts'
import { weightsOf, type Weights } from './weights.ts'

/**
 * Draws a few backends by weight and chooses the one with the lowest load; what load means is the policy's. Where loads are the
 * same the first drawn is chosen: then all get exactly their weight. Source: Mitzenmacher, The Power of Two Choices.
 */
export abstract class Choices implements LoadBalancer {
  abstract readonly type: string
  protected available: readonly Backend[] = []
  protected weights: Weights = weightsOf([])
  protected readonly sampler: Sampler
  readonly #choices: number

  constructor (choices: number, random: () => number) {
    this.#choices = choices
    this.sampler = new Sampler(random)
  }

  abstract fork (): LoadBalancer

  /** Whether one backend has less load than another. (Not a number for each: one that is no whole number would be allocated.) */
  protected abstract isLighter (index: number, than: number): boolean

  rebuild (available: readonly Backend[]): void {
    this.available = available
    this.weights = weightsOf(available)
    this.sampler.rebuild(this.weights)
  }

  select (available: readonly Backend[], { tried }: SelectContext): Backend | undefined {
    const sampler = this.sampler
    let chosen = tried === null ? sampler.draw() : sampler.drawUntried(available, tried)
    if (chosen === -1 || available.length === 1) return available[chosen]
    for (let drawn = 1; drawn < this.#choices; drawn++) {
      const other = sampler.drawOther(chosen)
      if (tried !== null && tried.includes(available[other])) continue
      if (this.isLighter(other, chosen)) chosen = other
    }
    return available[chosen]
  }

  /** Chance aside, choosing changes nothing. */
  peek (available: readonly Backend[], context: SelectContext): Backend | undefined {
    return this.select(available, context)
  }
}
