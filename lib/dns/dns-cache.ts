import type { LookupAddress, LookupOptions, SrvRecord } from 'node:dns'
import type { LookupFunction } from 'node:net'
import type { Clock, DnsOptions, DnsStats } from '../../types/index.ts'
import type { Address } from './address.ts'
import { CachedName, type Found } from './cached-name.ts'
import { NameResolver, type ResolverEnv } from './name-resolver.ts'
import { ResolveError } from './resolve-error.ts'

/** Names that are remembered at the most; beyond, the one not asked for the longest goes. */
const MOST = 10_000

/** What a cache needs beside its options. */
export interface DnsEnv extends ResolverEnv {
  readonly clock: Clock
  readonly random: () => number
}

/** The names of backends and where they lead: one question however many ask, answered from memory for as long as that holds. */
export class DnsCache {
  /** Whether connections are made by what it says. */
  readonly enabled: boolean
  readonly #options: DnsOptions
  readonly #env: DnsEnv
  readonly #resolver: NameResolver
  /** The one asked for last is the last. */
  readonly #names = new Map<string, CachedName>()
  readonly #counts = { hits: 0, stale: 0, misses: 0, errors: 0, queries: 0, failures: 0 }

  /** Throws `INVALID_OPTIONS`, naming `path`. @param options with their defaults */
  constructor (options: DnsOptions, env: DnsEnv, path = 'dns', enabled = true) {
    this.enabled = enabled
    this.#options = options
    this.#env = env
    this.#resolver = new NameResolver(options, env, path)
  }

  /** Looks a name up for a connection, as Node's own `lookup` does. */
  readonly lookup: LookupFunction = (name: string, options: LookupOptions, callback: (error: NodeJS.ErrnoException | null, address: string | LookupAddress[], family?: number) => void) => {
    const family = familyOf(options.family)
    this.#cached(name).look((addresses, found, error) => {
      const suitable = family === 0 ? addresses : addresses.filter(one => one.family === family)
      this.#count(found, suitable)
      const failure = error ?? (suitable.length === 0 ? new ResolveError(name, 'ENODATA') : null)
      // Never before whoever asks is ready to hear.
      process.nextTick(() => {
        if (failure !== null) callback(failure, [])
        else if (options.all === true) callback(null, suitable.map(({ address, family }) => ({ address, family })))
        else callback(null, suitable[0].address, suitable[0].family)
      })
    })
  }

  /** Asks for a name, whatever is remembered of it. Rejects with a `ResolveError`. */
  async resolve (name: string): Promise<{ addresses: readonly Address[], ttl: number }> {
    const cached = this.#cached(name)
    await cached.refresh()
    return { addresses: cached.addresses, ttl: cached.expiresIn }
  }

  /** The SRV records of a name; nothing of them is remembered. Rejects with a `ResolveError`. */
  async resolveSrv (name: string): Promise<SrvRecord[]> {
    this.#counts.queries++
    try {
      return await this.#resolver.resolveSrv(name)
    } catch (error) {
      this.#counts.failures++
      throw error
    }
  }

  /** A connection to a name could not be made: it may lead elsewhere by now. @param address the one that was tried, if it is known */
  connectFailed (name: string, address?: string): void {
    this.#names.get(keyOf(name))?.connectFailed(address)
  }

  stats (): DnsStats {
    const names: DnsStats['names'] = Object.create(null)
    for (const [name, cached] of this.#names) names[name] = cached.snapshot()
    return { ...this.#counts, names }
  }

  /** What `stats()` counts. */
  get counts (): Readonly<Omit<DnsStats, 'names'>> {
    return this.#counts
  }

  /** How many names are remembered. */
  get size (): number {
    return this.#names.size
  }

  /** Asks for nothing any more: whoever waits is told so. */
  close (): void {
    this.#resolver.close()
  }

  #cached (given: string): CachedName {
    const name = keyOf(given)
    let cached = this.#names.get(name)
    if (cached === undefined) {
      cached = new CachedName(name, this.#options, this.#resolver, this.#env.clock, this.#env.random, this.#counts)
      if (this.#names.size >= MOST) this.#names.delete(this.#names.keys().next().value as string)
    } else {
      this.#names.delete(name)
    }
    this.#names.set(name, cached)
    return cached
  }

  #count (found: Found, addresses: readonly Address[]): void {
    if (addresses.length === 0) this.#counts.errors++
    else if (found === 'hit') this.#counts.hits++
    else if (found === 'stale') this.#counts.stale++
    if (found === 'miss') this.#counts.misses++
  }
}

function keyOf (name: string): string {
  return name.toLowerCase()
}

function familyOf (family: LookupOptions['family']): 0 | 4 | 6 {
  if (family === 4 || family === 'IPv4') return 4
  return family === 6 || family === 'IPv6' ? 6 : 0
}
