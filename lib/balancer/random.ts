import { RandomSchema } from '../../types/index.ts'
import type { Backend, BalancerEnv, LoadBalancer, RandomOptions, SelectContext } from '../../types/index.ts'
import { resolveOptions } from '../options.ts'
import { systemEnv } from './env.ts'
import { Sampler } from './sampler.ts'
import { weightsOf } from './weights.ts'
import { another } from './fork.ts'

/** Chooses at random, by weight. Remembers nothing, so that many proxies need not agree. */
export class Random implements LoadBalancer {
  readonly type = 'random'
  readonly options = {}
  readonly #sampler: Sampler
  readonly #env: BalancerEnv

  /** Throws `INVALID_OPTIONS`. */
  constructor (options: Partial<RandomOptions> = {}, env: BalancerEnv = systemEnv) {
    resolveOptions(RandomSchema, { ...options, type: this.type }, 'options')
    this.#sampler = new Sampler(env.random)
    this.#env = env
  }

  fork (): this {
    return another(this, {}, this.#env)
  }

  rebuild (available: readonly Backend[]): void {
    this.#sampler.rebuild(weightsOf(available))
  }

  select (available: readonly Backend[], { tried }: SelectContext): Backend | undefined {
    const sampler = this.#sampler
    return tried === null ? available[sampler.draw()] : available[sampler.drawUntried(available, tried)]
  }

  /** Chance aside, choosing changes nothing. */
  peek (available: readonly Backend[], context: SelectContext): Backend | undefined {
    return this.select(available, context)
  }
}
