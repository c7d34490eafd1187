import { MaglevSchema } from '../../types/index.ts'
import type { Backend, BalancerEnv, MaglevOptions } from '../../types/index.ts'
import { resolveOptions } from '../options.ts'
import { systemEnv } from './env.ts'
import { HashPolicy, type Identities } from './hash-policy.ts'
import type { Weights } from './weights.ts'
import { another } from './fork.ts'

/**
 * A table of entries that the backends fill in turns, each in an order of its own: one look-up chooses, and no share strays by more
 * than an entry or two. Source: Eisenbud et al., Maglev: A Fast and Reliable Software Network Load Balancer.
 */
export class Maglev extends HashPolicy {
  readonly type = 'maglev'
  readonly options: Readonly<Required<MaglevOptions>>
  readonly #env: BalancerEnv
  readonly #size: number
  #table: Int32Array = new Int32Array(0)

  /** Throws `INVALID_OPTIONS`. */
  constructor (options: Partial<MaglevOptions> = {}, env: BalancerEnv = systemEnv) {
    const resolved = resolveOptions<Required<MaglevOptions>>(MaglevSchema, { ...options, type: 'maglev' }, 'options')
    super(resolved, env)
    this.options = Object.freeze(resolved)
    this.#env = env
    this.#size = primeFrom(resolved.tableSize)
  }

  fork (): this {
    return another(this, this.options, this.#env)
  }

  protected prepare (available: readonly Backend[], { values, total }: Weights, { first, second }: Identities): void {
    const size = this.#size
    const table = new Int32Array(size).fill(-1)
    // Who comes first in a turn must not depend on the order of the backends.
    const turn = Uint32Array.from(available, (_, i) => i).sort((a, b) => first[a] - first[b] || second[a] - second[b])
    const entries = first.map(offset => offset % size)
    const skips = second.map(number => number % (size - 1) + 1)
    // Entries earned and not yet taken; a turn earns one on average. They begin anywhere, so that small weights come in at all.
    const earned = Float64Array.from(first, hash => hash / 0x1_0000_0000)
    const wage = values.map(weight => weight * values.length / total)
    for (let filled = 0; filled < size;) {
      for (let k = 0; k < turn.length && filled < size; k++) {
        const i = turn[k]
        earned[i] += wage[i]
        let entry = entries[i]
        for (; earned[i] >= 1 && filled < size; earned[i]--, filled++) {
          // As the size is prime, every order passes all entries.
          while (table[entry] !== -1) {
            entry += skips[i]
            if (entry >= size) entry -= size
          }
          table[entry] = i
        }
        entries[i] = entry
      }
    }
    this.#table = table
  }

  protected pick (hash: number): number {
    return this.#table[Math.floor((hash >>> 0) / 0x1_0000_0000 * this.#size)]
  }
}

function primeFrom (number: number): number {
  for (let divisor = 2; divisor * divisor <= number; divisor++) if (number % divisor === 0) return primeFrom(number + 1)
  return number
}
