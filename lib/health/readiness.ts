import type { Clock } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { proxyError } from '../errors.ts'
import type { ActiveHealth } from './active-health.ts'

/** Any long time, in milliseconds. */
const HOLD = 1_000_000

/** What is waited for before an upstream is ready. */
export interface ReadinessOptions {
  upstream: string
  /** Backends that must have passed a check, and milliseconds to wait for them. */
  minHealthy: number
  timeout: number
}

/** Waits until enough backends have passed a check. */
export class Readiness {
  readonly #options: ReadinessOptions
  readonly #health: ActiveHealth
  readonly #clock: Clock
  readonly #list: () => readonly Backend[]
  #onPassed: (() => void) | null = null

  constructor (options: ReadinessOptions, health: ActiveHealth, clock: Clock, list: () => readonly Backend[]) {
    this.#options = options
    this.#health = health
    this.#clock = clock
    this.#list = list
  }

  /** A backend has passed a check. */
  onPassed (): void {
    this.#onPassed?.()
  }

  /** Resolves when as many have passed a check as must have. Rejects with `UNHEALTHY` when that takes too long. */
  wait (): Promise<void> {
    const { upstream, minHealthy, timeout } = this.#options
    if (this.#proven >= minHealthy) return Promise.resolve()
    return new Promise((resolve, reject) => {
      // Nothing else may keep a process up that waits before it listens: all timers of ours let it end.
      const hold = setInterval(() => {}, HOLD)
      this.#health.hurry()
      const end = (settle: () => void) => {
        clearInterval(hold)
        this.#health.calmDown()
        this.#clock.clearTimeout(timer)
        this.#onPassed = null
        settle()
      }
      const timer = this.#clock.setTimeout(() => end(() => reject(proxyError('UNHEALTHY', undefined,
        `Only ${this.#proven} of the ${minHealthy} backends that upstream '${upstream}' needs have passed a health check within ${timeout} ms`))), timeout)
      this.#onPassed = () => { if (this.#proven >= minHealthy) end(resolve) }
    })
  }

  get #proven (): number {
    return this.#list().filter(({ health }) => health !== null && health.proven && health.healthy).length
  }
}
