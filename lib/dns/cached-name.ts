import type { Clock, DnsEntry, DnsOptions } from '../../types/index.ts'
import { reachable, type Address } from './address.ts'
import type { Answer, NameResolver } from './name-resolver.ts'
import { ResolveError } from './resolve-error.ts'

/** Milliseconds between two questions for a name because connections fail, at the least. */
const HURRY = 1_000
/** Milliseconds for which an address is tried last that could not be connected to. */
const AVOIDED = 10_000

/** How a look-up was answered. */
export type Found = 'hit' | 'stale' | 'miss'
type Waiter = (addresses: readonly Address[], found: Found, error: ResolveError | null) => void

/** What is counted of all names together. */
export interface Tally {
  queries: number
  failures: number
}

/**
 * One name: its last good answer, and when to ask anew. An answer that holds is used; one beyond its time too, while a new one is asked for, within
 * the bounds of `staleWhileRevalidate` and `staleIfError` (RFC 5861, RFC 8767); only where there is none does a look-up wait.
 */
export class CachedName {
  readonly #name: string
  readonly #options: Required<Omit<DnsOptions, 'servers'>>
  readonly #resolver: NameResolver
  readonly #clock: Clock
  readonly #tally: Tally
  #addresses: readonly Address[] = []
  #expiresAt = -Infinity
  /** When each family was last known. */
  readonly #knownAt = { 4: -Infinity, 6: -Infinity }
  /** Why the last question failed; `null` when it did not. */
  #error: ResolveError | null = null
  #failedAt = -Infinity
  #askedAt = -Infinity
  #asking: Promise<void> | null = null
  #waiting: (() => void)[] = []
  /** Which address comes first next time. */
  #turn: number
  readonly #avoided = new Map<string, number>()

  constructor (name: string, options: DnsOptions, resolver: NameResolver, clock: Clock, random: () => number, tally: Tally) {
    this.#name = name
    this.#options = options as Required<DnsOptions>
    this.#resolver = resolver
    this.#clock = clock
    this.#tally = tally
    // Else all proxies that start together would begin with the same address.
    this.#turn = Math.floor(random() * 1_000)
  }

  /** Finds its addresses for a connection, the one whose turn it is first. */
  look (waiter: Waiter): void {
    const now = this.#clock.now()
    if (now < this.#expiresAt) return waiter(this.#inTurn(now), 'hit', null)
    if (now - this.#failedAt >= this.#options.errorTtl) this.refresh().catch(() => {})
    if (this.#isUsable(now)) waiter(this.#inTurn(now), 'stale', null)
    else if (this.#asking !== null) this.#waiting.push(() => this.#answer(waiter))
    else waiter([], 'hit', this.#failure())
  }

  /** Asks for the name now, or waits for the answer that is on its way. Rejects with a `ResolveError`. */
  refresh (): Promise<void> {
    this.#asking ??= this.#ask()
    return this.#asking
  }

  /** What is known just now. */
  get addresses (): readonly Address[] {
    return this.#addresses
  }

  /** Milliseconds for which that holds. */
  get expiresIn (): number {
    return this.#expiresAt - this.#clock.now()
  }

  /** No connection could be made: perhaps the name leads elsewhere by now. @param address the one that was tried, if it is known */
  connectFailed (address: string | undefined): void {
    const now = this.#clock.now()
    if (this.#addresses.length === 0) return
    if (address !== undefined) this.#avoided.set(address, now + AVOIDED)
    if (now - this.#askedAt >= HURRY) this.refresh().catch(() => {})
  }

  snapshot (): DnsEntry {
    const now = this.#clock.now()
    const usable = now < this.#expiresAt || this.#isUsable(now)
    return {
      addresses: usable ? this.#addresses.map(({ address }) => address) : [],
      expiresIn: usable ? Math.round(this.#expiresAt - now) : 0,
      ...(this.#error === null ? {} : { error: this.#error.code })
    }
  }

  async #ask (): Promise<void> {
    this.#askedAt = this.#clock.now()
    this.#tally.queries++
    try {
      this.#accept(await this.#resolver.resolve(this.#name, answer => {
        this.#accept(answer)
        this.#tellWaiters()
      }))
    } catch (error) {
      this.#tally.failures++
      this.#error = error as ResolveError
      this.#failedAt = this.#clock.now()
      throw error
    } finally {
      // Whoever comes in now may ask anew.
      this.#asking = null
      this.#tellWaiters()
    }
  }

  #accept ({ addresses, ttl, unknown }: Answer): void {
    const now = this.#clock.now()
    // What was known of a family holds on where its question failed.
    const kept = unknown !== null && now - this.#knownAt[unknown] < this.#options.staleIfError ? this.#addresses.filter(({ family }) => family === unknown) : []
    for (const family of [4, 6] as const) if (family !== unknown) this.#knownAt[family] = now
    this.#addresses = reachable([...addresses, ...kept])
    this.#expiresAt = now + ttl
    this.#error = null
    this.#failedAt = -Infinity
    for (const address of this.#avoided.keys()) if (!this.#addresses.some(one => one.address === address)) this.#avoided.delete(address)
  }

  /** Whether an answer beyond its time may still be used. */
  #isUsable (now: number): boolean {
    if (this.#addresses.length === 0) return false
    const { staleWhileRevalidate, staleIfError } = this.#options
    // That there is no such name is an answer as well, but not one to be believed at once.
    const bound = this.#error === null || this.#error.gone ? staleWhileRevalidate : Math.max(staleWhileRevalidate, staleIfError)
    return now - this.#expiresAt < bound
  }

  #answer (waiter: Waiter): void {
    const now = this.#clock.now()
    if (now < this.#expiresAt || this.#isUsable(now)) waiter(this.#inTurn(now), 'miss', null)
    else waiter([], 'miss', this.#failure())
  }

  /** An error for one: whoever gets it may write on it. */
  #failure (): ResolveError {
    return new ResolveError(this.#name, this.#error?.code ?? 'ENOTFOUND')
  }

  #tellWaiters (): void {
    for (const tell of this.#waiting.splice(0)) tell()
  }

  /** Every address comes first as often as the others; those that could not be reached lately come last. */
  #inTurn (now: number): readonly Address[] {
    const all = this.#addresses
    if (all.length < 2) return all
    const avoided = (address: string) => {
      const until = this.#avoided.get(address)
      return until !== undefined && now < until
    }
    const good = this.#avoided.size === 0 ? all : all.filter(({ address }) => !avoided(address))
    const bad = good.length === all.length ? [] : all.filter(({ address }) => avoided(address))
    const first = good.length === 0 ? 0 : this.#turn++ % good.length
    return [...good.slice(first), ...good.slice(0, first), ...bad]
  }
}
