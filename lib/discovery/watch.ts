import type { Clock, DiscoveryOptions, Timer } from '../../types/index.ts'
import type { Findings, Source } from './source.ts'

/** Milliseconds between looks where nobody says. */
const INTERVAL = 10_000
/** Milliseconds to the look after the first failure, and at the most, as they double. */
const FIRST_RETRY = 1_000
const LAST_RETRY = 30_000
/** Milliseconds between two looks because connections fail, at the least. */
const HURRY = 1_000
/** Milliseconds between two looks at the least, whatever a TTL says. */
const SHORTEST = 100

/** Who hears of what is found. */
export interface WatchListener {
  /** Whether anything found there is in use. */
  has (watch: Watch): boolean
  /** @returns what is wrong with it, if anything */
  onFound (watch: Watch, found: Findings): unknown
  /** Told once, until it is over. */
  onFailed (watch: Watch, cause: string): void
  onRecovered (watch: Watch, cause: string): void
}

/** Looks at one source again and again. A look that fails, or finds nothing all of a sudden, changes nothing. */
export class Watch {
  readonly source: Source
  /** Whether anything has ever been found. */
  found = false
  readonly #options: DiscoveryOptions
  readonly #clock: Clock
  readonly #random: () => number
  readonly #listener: WatchListener
  #timer: Timer | null = null
  #timerAt = Infinity
  #look: AbortController | null = null
  #lookedAt = -Infinity
  #failures = 0
  #failing = false
  #emptySince: number | null = null
  #stopped = false

  constructor (source: Source, options: DiscoveryOptions, { clock, random }: { clock: Clock, random: () => number }, listener: WatchListener) {
    this.source = source
    this.#options = options
    this.#clock = clock
    this.#random = random
    this.#listener = listener
  }

  start (): void {
    this.#begin()
  }

  /** A connection could not be made: looks as soon as may be. */
  readonly hurry = (): void => {
    if (this.#look === null && !this.#stopped) this.#schedule(Math.max(0, this.#lookedAt + HURRY - this.#clock.now()))
  }

  stop (): void {
    this.#stopped = true
    if (this.#timer !== null) this.#clock.clearTimeout(this.#timer)
    this.#timer = null
    this.#look?.abort(new Error('nobody wants to know any more'))
  }

  #schedule (delay: number): void {
    const at = this.#clock.now() + delay
    if (this.#stopped || at >= this.#timerAt) return
    if (this.#timer !== null) this.#clock.clearTimeout(this.#timer)
    this.#timerAt = at
    this.#timer = this.#clock.setTimeout(() => this.#begin(), delay)
  }

  #begin (): void {
    this.#timer = null
    this.#timerAt = Infinity
    this.#lookedAt = this.#clock.now()
    const look = this.#look = new AbortController()
    const limit = this.#clock.setTimeout(() => look.abort(new Error(`no answer within ${this.#options.timeout} ms`)), this.#options.timeout as number)
    const end = (conclude: () => number) => {
      this.#clock.clearTimeout(limit)
      this.#look = null
      if (!this.#stopped) this.#schedule(conclude() * (1 + (this.#options.jitter as number) * this.#random()))
    }
    this.#find(look.signal).then(found => end(() => this.#onFound(found)), error => end(() => this.#onFailed(error)))
  }

  async #find (signal: AbortSignal): Promise<Findings> {
    const aborted = new Promise<never>((_resolve, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }))
    return await Promise.race([this.source.find(signal), aborted])
  }

  /** Gives milliseconds to the next look. */
  #onFound (found: Findings): number {
    // A TTL of nothing does not mean to ask all the time.
    const pause = found.ttl === undefined ? this.#options.interval ?? INTERVAL : Math.max(found.ttl, SHORTEST)
    this.#failures = 0
    if (found.backends.length === 0) return this.#onNothing(pause)
    this.#emptySince = null
    this.found = true
    const fault = this.#listener.onFound(this, found)
    if (fault !== undefined) this.#tellFailed(messageOf(fault))
    else this.#tellRecovered(found)
    return pause
  }

  #onNothing (pause: number): number {
    const now = this.#clock.now()
    this.#emptySince ??= now
    const left = this.#emptySince + (this.#options.emptyGrace as number) - now
    this.#tellFailed('there are no backends')
    if (left > 0 && this.#listener.has(this)) return Math.min(pause, left)
    this.#listener.onFound(this, { backends: [], ttl: undefined })
    return pause
  }

  #onFailed (error: unknown): number {
    this.#tellFailed(messageOf(error))
    return Math.min(FIRST_RETRY * 2 ** this.#failures++, LAST_RETRY, this.#options.interval ?? Infinity)
  }

  #tellFailed (cause: string): void {
    if (this.#failing) return
    this.#failing = true
    this.#listener.onFailed(this, cause)
  }

  #tellRecovered ({ backends }: Findings): void {
    if (!this.#failing) return
    this.#failing = false
    this.#listener.onRecovered(this, `${backends.length} found`)
  }
}

function messageOf (error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
