import { DiscoveryOptionsSchema } from '../../types/index.ts'
import type { DiscoveryInput, DiscoveryOptions } from '../../types/index.ts'
import { resolveOptions } from '../options.ts'
import { Discovery, type DiscoveryEnv, type DiscoveryListener } from './discovery.ts'
import type { Listing } from './roster.ts'

export { Discovery, type DiscoveryListener } from './discovery.ts'
export type { Listing } from './roster.ts'

/** What an option means; `null` for none. Throws `INVALID_OPTIONS`. */
export function createDiscovery (option: DiscoveryInput | undefined, env: DiscoveryEnv, listing: Listing, listener: DiscoveryListener, path: string): Discovery | null {
  if (option === undefined || option === false) return null
  const options = resolveOptions<DiscoveryOptions>(DiscoveryOptionsSchema, typeof option === 'object' ? option : { type: option }, path)
  return new Discovery(options, env, listing, listener)
}
