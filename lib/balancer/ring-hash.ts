import { RingHashSchema } from '../../types/index.ts'
import type { Backend, BalancerEnv, RingHashOptions } from '../../types/index.ts'
import { resolveOptions } from '../options.ts'
import { systemEnv } from './env.ts'
import { rehash } from './hash.ts'
import { HashPolicy, type Identities } from './hash-policy.ts'
import { Ring } from './ring.ts'
import type { Weights } from './weights.ts'
import { another } from './fork.ts'

/** Tells the hash that a key's places on the ring are apart by from those that are for full backends. */
const STRIDE = 0x5bd1e995

/**
 * Each backend has points on a ring, by its weight; a key goes to the first point after it: that of ketama. With only so many points
 * shares stray by 8 % (1 / sqrt(160)) and the worst of a hundred by 20 %. So a key looks from several places and takes the point
 * that is nearest to one of them, which evens as 41 times the points would and costs no memory (see docs/load-balancing.md).
 */
export class RingHash extends HashPolicy {
  readonly type: string = 'ring-hash'
  readonly options: Readonly<Required<RingHashOptions>>
  readonly #env: BalancerEnv
  readonly #probes: number
  readonly #ring = new Ring()
  #available: readonly Backend[] = []

  /** Throws `INVALID_OPTIONS`. */
  constructor (options: Partial<RingHashOptions> = {}, env: BalancerEnv = systemEnv) {
    const resolved = resolveOptions<Required<RingHashOptions>>(RingHashSchema, { ...options, type: 'ring-hash' }, 'options')
    super(resolved, env)
    this.options = Object.freeze(resolved)
    this.#env = env
    this.#probes = resolved.probes
  }

  fork (): this {
    return another(this, this.options, this.#env)
  }

  protected prepare (available: readonly Backend[], weights: Weights, identities: Identities): void {
    const positions = new Map(this.#available.map((backend, i) => [backend, i]))
    const before = Int32Array.from(available, backend => positions.get(backend) ?? -1)
    this.#ring.rebuild(identities, this.#counts(weights, identities), before)
    this.#available = available
  }

  protected pick (hash: number): number {
    return this.#ring.nearest(hash, rehash(hash, STRIDE) | 1, this.#probes)
  }

  /** Points of each backend. Where they do not come out whole, the backend's hash decides on one more, so that no share is bent. */
  #counts ({ values, total }: Weights, { first }: Identities): Uint32Array {
    const { points, minRingSize, maxRingSize } = this.options
    // Rounding may add one to each.
    const most = Math.max(maxRingSize - values.length, maxRingSize / 2)
    const scale = Math.min(Math.max(points, minRingSize / total), most / total)
    const counts = Uint32Array.from(values, (weight, i) => weight * scale + first[i] / 0x1_0000_0000)
    return counts.some(count => count > 0) ? counts : counts.fill(1)
  }
}
