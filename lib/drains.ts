import type { Clock } from '../types/index.ts'
import type { Backend } from './backend.ts'

/** How a wait for a backend has ended: it has nothing under way, its time is up, or it is to take requests again. */
export type DrainEnd = 'idle' | 'late' | 'called off'

/** The backends of an upstream that finish what they have. */
export class Drains {
  readonly #clock: Clock
  readonly #removals = new Map<Backend, Promise<void>>()
  readonly #waits = new Map<Backend, Set<(end: DrainEnd) => void>>()

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

  /** Whether a backend is on its way out for good. */
  isRemoving (backend: Backend): boolean {
    return this.#removals.has(backend)
  }

  /** Resolves when nothing is under way on a backend, or after so long. @param keepsClients whether they may still come back to it: then it takes all of that time */
  finished (backend: Backend, timeout: number, keepsClients: boolean): Promise<DrainEnd> {
    if (backend.inFlight === 0 && !keepsClients) return Promise.resolve('idle')
    if (timeout === 0) return Promise.resolve('late')
    return new Promise(resolve => {
      const waits = this.#waitsFor(backend)
      const end = (how: DrainEnd) => {
        this.#clock.clearTimeout(timer)
        waits.delete(end)
        resolve(how)
      }
      const timer = this.#clock.setTimeout(() => end('late'), timeout)
      waits.add(end)
      backend.onIdle = keepsClients ? null : () => this.#end(backend, 'idle')
    })
  }

  /** A backend is to take requests again: nobody waits for its end any more. */
  callOff (backend: Backend): void {
    this.#end(backend, 'called off')
  }

  /** Waits for nothing any more. */
  stop (): void {
    for (const backend of [...this.#waits.keys()]) this.#end(backend, 'late')
  }

  #end (backend: Backend, how: DrainEnd): void {
    backend.onIdle = null
    for (const end of [...this.#waits.get(backend) ?? []]) end(how)
    this.#waits.delete(backend)
  }

  #waitsFor (backend: Backend): Set<(end: DrainEnd) => void> {
    let waits = this.#waits.get(backend)
    if (waits === undefined) this.#waits.set(backend, waits = new Set())
    return waits
  }
}
