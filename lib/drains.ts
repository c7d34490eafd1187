import type { Clock } from '../types/index.ts'
import type { Backend } from './backend.ts'

/** The backends of an upstream that finish what they have. */
export class Drains {
  readonly #clock: Clock
  readonly #removals = new Map<Backend, Promise<void>>()
  /** Ends the waits. */
  readonly #cuts = new Set<() => void>()

  constructor (clock: Clock) {
    this.#clock = clock
  }

  /** The removal of a backend: the one under way, or the one that now begins. */
  removal (backend: Backend, begin: () => Promise<void>): Promise<void> {
    const known = this.#removals.get(backend)
    if (known !== undefined) return known
    const removal = begin().finally(() => this.#removals.delete(backend))
    this.#removals.set(backend, removal)
    return removal
  }

  /** Resolves when nothing is under way on a backend, or after so long. @param keepsClients whether they may still come back to it: then it takes all of that time */
  finished (backend: Backend, timeout: number, keepsClients: boolean): Promise<void> {
    if (timeout === 0 || (backend.inFlight === 0 && !keepsClients)) return Promise.resolve()
    return new Promise(resolve => {
      const end = () => {
        this.#clock.clearTimeout(timer)
        this.#cuts.delete(end)
        resolve()
      }
      const timer = this.#clock.setTimeout(end, timeout)
      this.#cuts.add(end)
      if (!keepsClients) backend.onIdle = end
    })
  }

  /** Waits for nothing any more. */
  stop (): void {
    for (const cut of [...this.#cuts]) cut()
  }
}
