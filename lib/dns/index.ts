import { DnsOptionsSchema } from '../../types/index.ts'
import type { DnsOptions } from '../../types/index.ts'
import { proxyError } from '../errors.ts'
import { resolveOptions } from '../options.ts'
import { DnsCache, type DnsEnv } from './dns-cache.ts'

export type { Address } from './address.ts'
export { DnsCache } from './dns-cache.ts'
export { HostsFile } from './hosts-file.ts'
export { ResolveError } from './resolve-error.ts'
export { watchConnect } from './watch-connect.ts'

/** The cache that an option means. Throws `INVALID_OPTIONS`. */
export function createDnsCache (option: DnsOptions | boolean | undefined, env: DnsEnv, path: string): DnsCache {
  const options = resolveOptions<DnsOptions>(DnsOptionsSchema, typeof option === 'object' ? option : {}, path)
  const { minTtl, maxTtl } = options as Required<DnsOptions>
  if (minTtl > maxTtl) throw proxyError('INVALID_OPTIONS', undefined, `${path}.minTtl must be at most maxTtl, ${maxTtl}, and is ${minTtl}`)
  return new DnsCache(options, env, path, option !== false)
}
