import { LeastRequestsSchema } from '../../types/index.ts'
import type { Backend, BalancerEnv, LeastRequestsOptions, SelectContext } from '../../types/index.ts'
import { resolveOptions } from '../options.ts'
import { Choices } from './choices.ts'
import { systemEnv } from './env.ts'
import { bitsOf, scaled } from './fast-random.ts'
import { another } from './fork.ts'

/**
 * Chooses the backend with the fewest requests in flight for its weight: of all, as long as they are few, else of some drawn at
 * random. Where several have as few, chance decides by weight. Source: Envoy's least request balancer, nginx's `least_conn`.
 */
export class LeastRequests extends Choices {
  readonly type = 'least-requests'
  readonly options: Readonly<Omit<Required<LeastRequestsOptions>, 'type'>>
  readonly #fullScanLimit: number
  readonly #bias: number
  readonly #env: BalancerEnv
  readonly #bits: () => number
  /** Indexes of those with the least load; kept to be used again. */
  #least: Uint32Array = new Uint32Array(0)

  /** Throws `INVALID_OPTIONS`. */
  constructor (options: Partial<LeastRequestsOptions> = {}, env: BalancerEnv = systemEnv) {
    const { fullScanLimit, choices, bias } = resolveOptions<Required<LeastRequestsOptions>>(LeastRequestsSchema, { ...options, type: 'least-requests' }, 'options')
    super(choices, env.random)
    this.options = Object.freeze({ fullScanLimit, choices, bias })
    this.#env = env
    this.#bits = bitsOf(env.random)
    this.#fullScanLimit = fullScanLimit
    this.#bias = bias
  }

  fork (): this {
    return another(this, this.options, this.#env)
  }

  override rebuild (available: readonly Backend[]): void {
    super.rebuild(available)
    this.#least = new Uint32Array(Math.min(available.length, this.#fullScanLimit))
  }

  override select (available: readonly Backend[], context: SelectContext): Backend | undefined {
    return available.length <= this.#fullScanLimit ? this.#scan(available, context.tried) : super.select(available, context)
  }

  protected isLighter (index: number, than: number): boolean {
    const { available, weights: { values } } = this
    return this.#bias === 1
      ? available[index].inFlight * values[than] < available[than].inFlight * values[index]
      : this.#biased(index) < this.#biased(than)
  }

  /** Without load it is 0 for all, so that weight alone decides; with a bias of 0 it always is. */
  #biased (index: number): number {
    return ((this.available[index].inFlight + 1) ** this.#bias - 1) / this.weights.values[index]
  }

  #scan (available: readonly Backend[], tried: readonly Backend[] | null): Backend | undefined {
    const { values } = this.weights
    const indexes = this.#least
    let count = 0
    let least = Infinity
    let total = 0
    for (let i = 0; i < available.length; i++) {
      if (tried !== null && tried.includes(available[i])) continue
      const load = this.#bias === 1 ? available[i].inFlight / values[i] : this.#biased(i)
      if (load > least) continue
      if (load < least) {
        least = load
        count = 0
        total = 0
      }
      indexes[count++] = i
      total += values[i]
    }
    if (count <= 1) return count === 0 ? undefined : available[indexes[0]]
    let left = scaled(this.#bits(), total)
    let place = 0
    while (place < count - 1 && (left -= values[indexes[place]]) >= 0) place++
    return available[indexes[place]]
  }
}
