import { P2cSchema } from '../../types/index.ts'
import type { BalancerEnv, P2cOptions } from '../../types/index.ts'
import { resolveOptions } from '../options.ts'
import { Choices } from './choices.ts'
import { systemEnv } from './env.ts'
import { another } from './fork.ts'

/** Draws two and chooses the one with fewer requests in flight for its weight. */
export class P2c extends Choices {
  readonly type = 'p2c'
  readonly options = {}
  readonly #env: BalancerEnv

  /** Throws `INVALID_OPTIONS`. */
  constructor (options: Partial<P2cOptions> = {}, env: BalancerEnv = systemEnv) {
    resolveOptions(P2cSchema, { ...options, type: 'p2c' }, 'options')
    super(2, env.random)
    this.#env = env
  }

  fork (): this {
    return another(this, {}, this.#env)
  }

  protected isLighter (index: number, than: number): boolean {
    const { available, weights: { values } } = this
    return available[index].inFlight * values[than] < available[than].inFlight * values[index]
  }
}
