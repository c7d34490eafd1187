import { RoundRobinSchema, WeightedRoundRobinSchema } from '../../types/index.ts'
import type { Backend, LoadBalancer, RoundRobinOptions, SelectContext, WeightedRoundRobinOptions } from '../../types/index.ts'
import { resolveOptions } from '../options.ts'
import { weightsOf, type Weights } from './weights.ts'
import { another } from './fork.ts'

/**
 * Takes turns. As soon as weights differ the turns are smooth weighted ones, 5:1:1 giving a a b a c a a,
 * and never bursts. Source: nginx's smooth weighted round robin.
 */
export class RoundRobin implements LoadBalancer {
  readonly type: 'round-robin' | 'weighted-round-robin'
  readonly options = {}
  #available: readonly Backend[] = []
  #next = 0
  #weights: Weights = weightsOf([])
  /** What each has earned and not yet got, in the order of the backends. All 0 while weights are equal. */
  #credit: Float64Array = new Float64Array(0)

  /** Throws `INVALID_OPTIONS`. */
  constructor (options: Partial<RoundRobinOptions | WeightedRoundRobinOptions> = {}) {
    this.type = options.type ?? 'round-robin'
    resolveOptions(this.type === 'round-robin' ? RoundRobinSchema : WeightedRoundRobinSchema, { ...options, type: this.type }, 'options')
  }

  /** Those that stay keep their turn and what they have earned: a change to one moves no turn of the others. */
  rebuild (available: readonly Backend[]): void {
    const positions = new Map(available.map((backend, i) => [backend, i]))
    const weights = weightsOf(available)
    this.#credit = weights.equal ? new Float64Array(available.length) : this.#carryOver(positions, weights)
    // After the one that had the last turn; where that has gone, after the one before it.
    let last = this.#next - 1
    while (last >= 0 && !positions.has(this.#available[last])) last--
    this.#next = last < 0 ? 0 : positions.get(this.#available[last]) as number + 1
    this.#available = available
    this.#weights = weights
  }

  /**
   * What was earned under other weights, or beside one that has gone, is worth as much of the new total: as it is, it would come as a
   * burst, and forgotten, it would leave all to the heaviest where weights change all the time.
   */
  #carryOver (positions: ReadonlyMap<Backend, number>, { values, total }: Weights): Float64Array {
    const old = this.#weights
    const credit = new Float64Array(values.length)
    const same = this.#available.every((backend, i) => values[positions.get(backend) ?? -1] === old.values[i])
    let sum = 0
    this.#available.forEach((backend, i) => {
      const position = positions.get(backend)
      if (position === undefined) return
      credit[position] = same ? this.#credit[i] : this.#credit[i] * total / old.total
      sum += credit[position]
    })
    return same ? credit : credit.map(earned => earned - sum / credit.length)
  }

  select (available: readonly Backend[], { tried }: SelectContext): Backend | undefined {
    return this.#weights.equal ? this.#selectNext(available, tried) : this.#selectWeighted(available, tried)
  }

  fork (): this {
    return another(this, { type: this.type })
  }

  /** Whose turn it is. */
  peek (available: readonly Backend[], context: SelectContext): Backend | undefined {
    const next = this.#next
    const credit = this.#credit
    this.#credit = credit.slice()
    const chosen = this.select(available, context)
    this.#next = next
    this.#credit = credit
    return chosen
  }

  #selectNext (available: readonly Backend[], tried: readonly Backend[] | null): Backend | undefined {
    for (let looked = 0; looked < available.length; looked++) {
      if (this.#next >= available.length) this.#next = 0
      const backend = available[this.#next++]
      if (tried === null || !tried.includes(backend)) return backend
    }
    return undefined
  }

  #selectWeighted (available: readonly Backend[], tried: readonly Backend[] | null): Backend | undefined {
    const credit = this.#credit
    const { values } = this.#weights
    let chosen = -1
    let most = -Infinity
    let total = 0
    for (let i = 0; i < available.length; i++) {
      if (tried !== null && tried.includes(available[i])) continue
      const earned = credit[i] += values[i]
      total += values[i]
      if (earned > most) {
        most = earned
        chosen = i
      }
    }
    if (chosen === -1) return undefined
    credit[chosen] -= total
    return available[chosen]
  }
}
