import { lookup as systemLookup } from 'node:dns/promises'
import type { SrvRecord } from 'node:dns'
import type { Clock, DnsOptions, Timer } from '../../types/index.ts'
import { ipAddress, type Address } from './address.ts'
import { DnsClient, type DnsClientEnv } from './dns-client.ts'
import { HostsFile } from './hosts-file.ts'
import { codeOf, GONE, ResolveError } from './resolve-error.ts'

/** Where a name leads. */
export interface Answer {
  readonly addresses: readonly Address[]
  /** Milliseconds for which that holds. */
  readonly ttl: number
  /** Whether nothing is known of one family: its question has failed, or is still out. */
  readonly unknown: 4 | 6 | null
}

/** The addresses of one family, or why there are none. */
interface Part {
  readonly addresses: readonly Address[]
  readonly ttl: number
  readonly code: string | null
}

/** The system would ask the same servers, and block one of Node's few threads for as long as that takes. */
const FAILED: ReadonlySet<string> = new Set(['ETIMEOUT', 'ESERVFAIL', 'ECANCELLED'])
/** Milliseconds that addresses of one family wait for those of the other. RFC 8305, 3. */
const RESOLUTION_DELAY = 50

/** What the resolver does not do by itself; tests have others. */
export interface ResolverEnv extends DnsClientEnv {
  readonly hosts?: HostsFile
  readonly lookup?: (name: string, options: { all: true, verbatim: true }) => Promise<{ address: string }[]>
}

/**
 * Asks for names, as the system would, but for TTLs, and without blocking a thread: the hosts file, then DNS servers, and the system itself for
 * what those do not know, as it also has search domains and other sources (mDNS).
 */
export class NameResolver {
  readonly #options: Required<Omit<DnsOptions, 'servers'>>
  readonly #own: boolean
  readonly #clock: Clock
  readonly #hosts: HostsFile
  readonly #lookup: NonNullable<ResolverEnv['lookup']>
  readonly #client: DnsClient

  /** Throws `INVALID_OPTIONS`, naming `path`. */
  constructor (options: DnsOptions, env: ResolverEnv, path = 'dns') {
    this.#options = options as Required<DnsOptions>
    this.#own = options.servers !== undefined
    this.#clock = env.clock
    this.#hosts = env.hosts ?? new HostsFile()
    this.#lookup = env.lookup ?? systemLookup
    this.#client = new DnsClient(options, env, path)
  }

  /**
   * Asks for a name. Rejects with a {@link ResolveError}.
   * @param onFirst gets what is known where one family's addresses are there and the other's take their time
   */
  async resolve (name: string, onFirst: (answer: Answer) => void): Promise<Answer> {
    const { systemTtl } = this.#options
    const listed = await this.#hosts.find(name.replace(/\.$/, ''))
    if (listed.length > 0) return { addresses: listed, ttl: systemTtl, unknown: null }
    // RFC 6761, 6.3: such names are never asked for.
    if (/(^|\.)localhost\.?$/.test(name)) return { addresses: [ipAddress('127.0.0.1'), ipAddress('::1')], ttl: systemTtl, unknown: null }
    const [four, six] = await this.#both(name, onFirst)
    if (four.addresses.length > 0 || six.addresses.length > 0) return this.#join(four, six)
    const codes = [four.code, six.code] as string[]
    // What one family does not have may be in the answer that has failed.
    const failure = codes.find(code => FAILED.has(code))
    if (failure !== undefined || this.#own || this.#client.closed) throw new ResolveError(name, failure ?? codes.find(code => !GONE.has(code)) ?? codes[0])
    return await this.#askSystem(name)
  }

  /** The SRV records of a name, in the order of the answer. Rejects with a {@link ResolveError}. */
  async resolveSrv (name: string): Promise<SrvRecord[]> {
    try {
      return await this.#client.ask(resolver => resolver.resolveSrv(name))
    } catch (error) {
      throw new ResolveError(name, codeOf(error))
    }
  }

  /** Gives up all questions that are out. */
  close (): void {
    this.#client.close()
  }

  async #both (name: string, onFirst: (answer: Answer) => void): Promise<[Part, Part]> {
    const parts: (Part | null)[] = [null, null]
    let timer: Timer | null = null
    const ask = async (at: 0 | 1): Promise<Part> => {
      const part = parts[at] = await this.#askFor(name, at === 0 ? 4 : 6)
      if (timer !== null) this.#clock.clearTimeout(timer)
      else if (part.addresses.length > 0 && parts[1 - at] === null) timer = this.#clock.setTimeout(() => onFirst(this.#join(parts[0], parts[1])), RESOLUTION_DELAY)
      return part
    }
    return await Promise.all([ask(0), ask(1)])
  }

  async #askFor (name: string, family: 4 | 6): Promise<Part> {
    try {
      const records = family === 4
        ? await this.#client.ask(resolver => resolver.resolve4(name, { ttl: true }))
        : await this.#client.ask(resolver => resolver.resolve6(name, { ttl: true }))
      if (records.length === 0) return { addresses: [], ttl: Infinity, code: 'ENODATA' }
      return { addresses: records.map(({ address }) => ipAddress(address)), ttl: Math.min(...records.map(({ ttl }) => ttl)) * 1_000, code: null }
    } catch (error) {
      return { addresses: [], ttl: Infinity, code: codeOf(error) }
    }
  }

  /** @param four `null` while it is still out, as `six` may be */
  #join (four: Part | null, six: Part | null): Answer {
    const { minTtl, maxTtl } = this.#options
    const isUnknown = (part: Part | null) => part === null || (part.code !== null && !GONE.has(part.code))
    const parts = [four, six].filter(part => part !== null && part.addresses.length > 0) as Part[]
    return {
      addresses: parts.flatMap(({ addresses }) => addresses),
      ttl: Math.min(Math.max(Math.min(...parts.map(({ ttl }) => ttl)), minTtl), maxTtl),
      unknown: isUnknown(four) ? 4 : isUnknown(six) ? 6 : null
    }
  }

  async #askSystem (name: string): Promise<Answer> {
    try {
      const found = await this.#lookup(name, { all: true, verbatim: true })
      return { addresses: found.map(({ address }) => ipAddress(address)), ttl: this.#options.systemTtl, unknown: null }
    } catch (error) {
      throw new ResolveError(name, codeOf(error))
    }
  }
}
