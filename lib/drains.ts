import type { Clock } from '../types/index.ts'
import type { Backend } from './backend.ts'
import type { Deadlines } from './deadlines.ts'
import type { Tunnels } from './tunnel/index.ts'

/** How a wait for a backend has ended: it has nothing under way, its time is up, or it is to take requests again. */
export type DrainEnd = 'idle' | 'late' | 'called off'

/** The upstream whose backends finish what they have. */
export interface Drained {
  readonly clock: Clock
  readonly deadlines: Deadlines
  readonly tunnels: Tunnels
  /** Whether clients may still come back to a backend that drains. */
  readonly keepsClients: boolean
  /** Whether the app is closing. */
  readonly leaving: boolean
}

/** The backends of an upstream that finish what they have. */
export class Drains {
  readonly #upstream: Drained
  readonly #removals = new Map<Backend, Promise<void>>()
  readonly #waits = new Map<Backend, Set<(end: DrainEnd) => void>>()

  constructor (upstream: Drained) {
    this.#upstream = upstream
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

  /** Lets a backend finish what it has, and aborts what takes longer. Resolves when nothing is under way on it, or after so long. */
  async finish (backend: Backend, timeout: number): Promise<DrainEnd> {
    const { tunnels, deadlines } = this.#upstream
    tunnels.leave(timeout, backend)
    const end = await this.#finished(backend, timeout)
    if (end === 'late') for (const entry of deadlines.entries()) if (entry.isOn(backend)) entry.giveUp()
    return end
  }

  /** A backend is to take requests again: nobody waits for its end any more. */
  callOff (backend: Backend): void {
    this.#end(backend, 'called off')
    if (!this.#upstream.leaving) this.#upstream.tunnels.stay(backend)
  }

  /** Waits for nothing any more. */
  stop (): void {
    for (const backend of [...this.#waits.keys()]) this.#end(backend, 'late')
  }

  #finished (backend: Backend, timeout: number): Promise<DrainEnd> {
    const { clock, keepsClients } = this.#upstream
    if (backend.inFlight === 0 && !keepsClients) return Promise.resolve('idle')
    if (timeout === 0) return Promise.resolve('late')
    return new Promise(resolve => {
      const waits = this.#waitsFor(backend)
      const end = (how: DrainEnd) => {
        clock.clearTimeout(timer)
        waits.delete(end)
        resolve(how)
      }
      const timer = clock.setTimeout(() => end('late'), timeout)
      waits.add(end)
      // Where clients may come back, it takes all of that time.
      backend.onIdle = keepsClients ? null : () => this.#end(backend, 'idle')
    })
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
