import type { BackendInput, Clock, DiscoveryOptions } from '../../types/index.ts'
import type { DnsCache } from '../dns/index.ts'
import { proxyError } from '../errors.ts'
import { DnsSource } from './dns-source.ts'
import { FunctionSource } from './function-source.ts'
import { Roster, type Listing } from './roster.ts'
import { saidOf } from './said.ts'
import type { Findings, Source } from './source.ts'
import { SrvSource } from './srv-source.ts'
import { Watch, type WatchListener } from './watch.ts'

/** Any long time, in milliseconds. */
const HOLD = 1_000_000

/** Who hears where nothing can be found. */
export interface DiscoveryListener {
  onDiscoveryFailed (source: string, cause: string): void
  onDiscoveryRecovered (source: string, cause: string): void
  /** The app starts without what these sources would have found. */
  onDiscoveryLate (sources: string[], milliseconds: number): void
}

/** What discovery needs beside its options. */
export interface DiscoveryEnv {
  readonly clock: Clock
  readonly random: () => number
  readonly dns: DnsCache
  /** Of the only addresses that connections go to, if there is one. */
  readonly family: () => 4 | 6 | undefined
}

/** Finds the backends of one upstream, and follows them. */
export class Discovery implements WatchListener {
  readonly #options: DiscoveryOptions
  readonly #env: DiscoveryEnv
  readonly #listener: DiscoveryListener
  readonly #roster: Roster
  readonly #watches: Watch[] = []
  readonly #names = new Set<string>()
  /** Ends the wait for what is found first. */
  #onFirst: (() => void) | null = null
  #stopped = false

  /** @param options with their defaults */
  constructor (options: DiscoveryOptions, env: DiscoveryEnv, listing: Listing, listener: DiscoveryListener) {
    this.#options = options
    this.#env = env
    this.#listener = listener
    this.#roster = new Roster(listing, env.clock, options.drainTimeout as number)
    if (typeof options.type === 'function') this.#watch(new FunctionSource(options.type))
  }

  /**
   * Takes a backend for the name of several; false where it stands for itself, as an address does.
   * Throws `INVALID_OPTIONS` or `DUPLICATE_BACKEND`.
   */
  follow (input: BackendInput, upstream: string, path: string): boolean {
    const { type, interval } = this.#options
    if (typeof type === 'function') return false
    const said = saidOf(input, path)
    if (said.hostname === null) return false
    if (this.#names.has(said.id)) throw proxyError('DUPLICATE_BACKEND', undefined, said.id, upstream)
    this.#names.add(said.id)
    const { dns, family } = this.#env
    if (type === 'dns-srv') {
      const { port } = new URL(said.href)
      if (port !== '') throw proxyError('INVALID_OPTIONS', undefined, `${path} must be a URL without a port, which SRV records tell, and has ${port}`)
      this.#watch(new SrvSource(said, dns))
    } else {
      const source = new DnsSource(said, dns, family)
      this.#watch(interval === undefined ? source : { name: source.name, find: async () => ({ ...await source.find(), ttl: undefined }) })
    }
    return true
  }

  /** How many sources there are. */
  get size (): number {
    return this.#watches.length
  }

  start (): void {
    if (!this.#stopped) for (const watch of this.#watches) watch.start()
  }

  stop (): void {
    this.#stopped = true
    for (const watch of this.#watches) watch.stop()
    this.#onFirst?.()
  }

  /** Resolves when all sources have found something, or after `readyTimeout`. */
  ready (): Promise<void> {
    const { clock } = this.#env
    const timeout = this.#options.readyTimeout as number
    const missing = () => this.#stopped ? [] : this.#watches.filter(({ found }) => !found)
    if (missing().length === 0) return Promise.resolve()
    return new Promise(resolve => {
      // Nothing else may keep a process up that waits before it listens.
      const hold = setInterval(() => {}, HOLD)
      const end = () => {
        clearInterval(hold)
        clock.clearTimeout(timer)
        this.#onFirst = null
        resolve()
      }
      const timer = clock.setTimeout(() => {
        this.#listener.onDiscoveryLate(missing().map(({ source }) => source.name), timeout)
        end()
      }, timeout)
      this.#onFirst = () => { if (missing().length === 0) end() }
    })
  }

  has (watch: Watch): boolean {
    return this.#roster.has(watch)
  }

  onFound (watch: Watch, { backends }: Findings): unknown {
    const fault = this.#roster.apply(watch, backends, watch.hurry)
    this.#onFirst?.()
    return fault
  }

  onFailed ({ source }: Watch, cause: string): void {
    this.#listener.onDiscoveryFailed(source.name, cause)
  }

  onRecovered ({ source }: Watch, cause: string): void {
    this.#listener.onDiscoveryRecovered(source.name, cause)
  }

  #watch (source: Source): void {
    this.#watches.push(new Watch(source, this.#options, this.#env, this))
  }
}
