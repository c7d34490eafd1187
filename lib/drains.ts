import type { Clock, Timer } from '../types/index.ts'
import type { Backend } from './backend.ts'
import type { Deadlines } from './deadlines.ts'
import type { Tunnels } from './tunnel/index.ts'

/** How a wait for a backend has ended: it has nothing under way, its time is up, or it is to take requests again. */
export type DrainEnd = 'idle' | 'late' | 'called off'

/** Somebody waits for a drain to end. */
interface Wait {
  end (how: DrainEnd): void
  /** Sets its time anew. */
  limit (timeout: number): void
  /** When it is over at the latest. */
  until: number
}

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
  readonly #waits = new Map<Backend, Set<Wait>>()

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

  /** Lets nobody wait for a backend for longer than that from now on. */
  shorten (backend: Backend, timeout: number): void {
    for (const wait of [...this.#waits.get(backend) ?? []]) {
      if (wait.until <= this.#upstream.clock.now() + timeout) continue
      if (timeout === 0) wait.end('late')
      else wait.limit(timeout)
    }
    this.#note(backend)
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
      let timer: Timer | null = null
      const wait: Wait = {
        until: 0,
        end: how => {
          if (timer !== null) clock.clearTimeout(timer)
          waits.delete(wait)
          this.#note(backend)
          resolve(how)
        },
        limit: timeout => {
          if (timer !== null) clock.clearTimeout(timer)
          wait.until = clock.now() + timeout
          timer = clock.setTimeout(() => wait.end('late'), timeout)
        }
      }
      wait.limit(timeout)
      waits.add(wait)
      this.#note(backend)
      // Where clients may come back, it takes all of that time.
      backend.onIdle = keepsClients ? null : () => this.#end(backend, 'idle')
    })
  }

  #end (backend: Backend, how: DrainEnd): void {
    backend.onIdle = null
    for (const wait of [...this.#waits.get(backend) ?? []]) wait.end(how)
    this.#waits.delete(backend)
  }

  /** Says when all of that is over. */
  #note (backend: Backend): void {
    const untils = [...this.#waits.get(backend) ?? []].map(({ until }) => until)
    backend.drainsUntil = untils.length === 0 ? null : Math.min(...untils)
  }

  #waitsFor (backend: Backend): Set<Wait> {
    let waits = this.#waits.get(backend)
    if (waits === undefined) this.#waits.set(backend, waits = new Set())
    return waits
  }
}
