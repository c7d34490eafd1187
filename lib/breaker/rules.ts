import type { RuleOptions, TripRule } from '../../types/index.ts'
import { proxyError } from '../errors.ts'
import { Window } from '../window.ts'

/** Trips after so many failures in a row. */
class Consecutive implements TripRule {
  readonly #threshold: number
  #failures = 0

  constructor (threshold: number) {
    this.#threshold = threshold
  }

  record (failed: boolean): boolean {
    if (!failed) {
      this.#failures = 0
      return false
    }
    return ++this.#failures >= this.#threshold
  }

  reset (): void {
    this.#failures = 0
  }

  counts (): Record<string, number> {
    return { consecutiveFailures: this.#failures }
  }
}

/** Trips when too large a part of what came in a window was of one kind. */
abstract class Rate implements TripRule {
  readonly #name: string
  readonly #threshold: number
  readonly #minimum: number
  readonly #window: Window

  constructor (name: string, threshold: number, window: number, minimum: number) {
    this.#name = name
    this.#threshold = threshold
    this.#minimum = minimum
    this.#window = new Window(window)
  }

  protected abstract isHit (failed: boolean, responseTime: number): boolean

  record (failed: boolean, responseTime: number, now: number): boolean {
    const hit = this.isHit(failed, responseTime)
    this.#window.record(hit, now)
    // Only what is looked for can be one too many.
    if (!hit) return false
    const total = this.#window.total(now)
    return total >= this.#minimum && this.#window.hits(now) / total >= this.#threshold
  }

  reset (): void {
    this.#window.reset()
  }

  counts (now: number): Record<string, number> {
    return { requests: this.#window.total(now), [this.#name]: this.#window.hits(now) }
  }
}

class FailureRate extends Rate {
  protected isHit (failed: boolean): boolean {
    return failed
  }
}

class SlowRate extends Rate {
  readonly #slowThreshold: number

  constructor (slowThreshold: number, threshold: number, window: number, minimum: number) {
    super('slow', threshold, window, minimum)
    this.#slowThreshold = slowThreshold
  }

  protected isHit (_failed: boolean, responseTime: number): boolean {
    return responseTime > this.#slowThreshold
  }
}

/** A rule from its options, whose defaults are filled in. Throws `INVALID_OPTIONS` where a user's function gives none. */
export function createRule (options: RuleOptions): TripRule {
  if (typeof options === 'function') {
    const rule: unknown = options()
    if (typeof rule !== 'object' || rule === null || typeof (rule as TripRule).record !== 'function' || typeof (rule as TripRule).reset !== 'function') {
      throw proxyError('INVALID_OPTIONS', undefined, 'a function in breaker.rules must return an object with record() and reset()')
    }
    return rule as TripRule
  }
  switch (options.type) {
    case 'consecutive': return new Consecutive(options.threshold as number)
    case 'failure-rate': return new FailureRate('failures', options.threshold as number, options.window as number, options.minimumRequests as number)
    case 'slow-rate': return new SlowRate(options.slowThreshold as number, options.threshold as number, options.window as number, options.minimumRequests as number)
  }
}
