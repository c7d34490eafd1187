import { IpHashSchema } from '../../types/index.ts'
import type { BalancerEnv, IpHashOptions } from '../../types/index.ts'
import { resolveOptions } from '../options.ts'
import { systemEnv } from './env.ts'
import { RingHash } from './ring-hash.ts'
import { another } from './fork.ts'

/** The same client address goes to the same backend: `ring-hash` by its simplest key. */
export class IpHash extends RingHash {
  override readonly type = 'ip-hash'
  readonly #fork: () => this

  /** Throws `INVALID_OPTIONS`. */
  constructor (options: Partial<IpHashOptions> = {}, env: BalancerEnv = systemEnv) {
    const { boundedLoad } = resolveOptions<Required<IpHashOptions>>(IpHashSchema, { ...options, type: 'ip-hash' }, 'options')
    super({ key: 'ip', boundedLoad }, env)
    this.#fork = () => another(this, { boundedLoad }, env)
  }

  override fork (): this {
    return this.#fork()
  }
}
