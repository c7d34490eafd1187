import { RendezvousSchema } from '../../types/index.ts'
import type { Backend, BalancerEnv, HashOptions, RendezvousOptions } from '../../types/index.ts'
import { resolveOptions } from '../options.ts'
import { systemEnv } from './env.ts'
import { combine } from './hash.ts'
import { HashPolicy, type Identities } from './hash-policy.ts'
import { weightsOf, type Weights } from './weights.ts'
import { another } from './fork.ts'

/**
 * Of all backends the one whose score with the key is highest. Nothing is prepared, weights hold exactly, and a change moves only
 * the keys that it must; but every choice looks at every backend. Source: Thaler and Ravishankar, with weights by Schindelhauer and
 * Schomaker.
 */
export class Rendezvous extends HashPolicy {
  readonly type = 'rendezvous'
  readonly options: Readonly<Required<RendezvousOptions>>
  readonly #fork: () => this
  #weights: Weights = weightsOf([])
  #first: Uint32Array = new Uint32Array(0)
  #second: Uint32Array = new Uint32Array(0)

  /** Throws `INVALID_OPTIONS`. */
  constructor (options: Partial<RendezvousOptions> = {}, env: BalancerEnv = systemEnv) {
    const resolved = resolveOptions<Required<RendezvousOptions>>(RendezvousSchema, { ...options, type: 'rendezvous' }, 'options')
    super(resolved as Required<HashOptions>, env)
    this.options = Object.freeze(resolved)
    this.#fork = () => another(this, resolved, env)
  }

  fork (): this {
    return this.#fork()
  }

  protected prepare (_available: readonly Backend[], weights: Weights, { first, second }: Identities): void {
    this.#weights = weights
    this.#first = first
    this.#second = second
  }

  protected pick (hash: number): number {
    return this.#weights.equal ? this.#pickEqual(hash) : this.#pickWeighted(hash)
  }

  #pickEqual (hash: number): number {
    const first = this.#first
    const second = this.#second
    let chosen = 0
    let highest = -Infinity
    for (let i = 0; i < first.length; i++) {
      const score = combine(hash, first[i], second[i])
      if (score < highest || (score === highest && first[i] < first[chosen])) continue
      highest = score
      chosen = i
    }
    return chosen
  }

  /** The score is `-weight / ln(u)` for a `u` between 0 and 1. */
  #pickWeighted (hash: number): number {
    const first = this.#first
    const second = this.#second
    const { values } = this.#weights
    let chosen = 0
    let highest = 0
    for (let i = 0; i < first.length; i++) {
      // In the order of the hashes with their signs, as above: where weights become equal no key moves for it.
      const u = (combine(hash, first[i], second[i]) + 0x8000_0000 + 0.5) / 0x1_0000_0000
      // As exp(-x) > 1 - x, the score cannot be higher; nearly all logarithms are spared (2.6 times as fast with 100 backends).
      if (u < 1 - values[i] / highest) continue
      const score = -values[i] / Math.log(u)
      if (score < highest || (score === highest && first[i] < first[chosen])) continue
      highest = score
      chosen = i
    }
    return chosen
  }
}
