import type { AdaptiveOptions } from '../../types/index.ts'
import { Gradient } from './gradient.ts'

/** What the limits of one upstream's backends have in common. */
export interface Rooms {
  readonly maxPerBackend: number
  readonly adaptive: Required<AdaptiveOptions> | null
  /** Backends, and of them those that can take no more. */
  backends: number
  full: number
  /** There is room again where there was none. */
  onRoom (): void
}

/** How many attempts one backend has, and how many it may have. Held by the backend. */
export class Concurrency {
  readonly #rooms: Rooms
  readonly #gradient: Gradient | null
  /** Under way, and of them those without a head. */
  #open = 0
  #waiting = 0
  #full = false
  #forgotten = false

  constructor (rooms: Rooms, now: number) {
    this.#rooms = rooms
    rooms.backends++
    this.#gradient = rooms.adaptive === null ? null : new Gradient(rooms.adaptive, now)
  }

  get full (): boolean {
    return this.#full
  }

  /** How many there may be: under way, or with an adaptive limit waiting for their heads, whichever is less. */
  get limit (): number {
    return Math.min(this.#rooms.maxPerBackend, this.#gradient === null ? Infinity : Math.floor(this.#gradient.limit))
  }

  /** Counts an attempt that begins. */
  begin (): void {
    this.#open++
    this.#look()
  }

  /** From now on it waits for its head; returns how many do. */
  wait (): number {
    this.#waiting++
    this.#look()
    return this.#waiting
  }

  /** It waits no more: its head has come, or it has ended before. @param answered whether its time says anything of the backend */
  answer (time: number, waiting: number, answered: 'well' | 'overloaded' | 'not', now: number): void {
    this.#waiting--
    if (this.#gradient !== null) {
      if (answered === 'well') this.#gradient.sample(time, waiting, now)
      else if (answered === 'overloaded') this.#gradient.drop(waiting, now)
    }
    this.#look()
  }

  /** It has ended. */
  end (): void {
    this.#open--
    this.#look()
  }

  /** The backend has been removed. */
  forget (): void {
    if (this.#forgotten) return
    this.#rooms.backends--
    if (this.#full) this.#rooms.full--
    this.#full = false
    this.#forgotten = true
  }

  #look (): void {
    if (this.#forgotten) return
    const full = this.#open >= this.#rooms.maxPerBackend || (this.#gradient !== null && this.#waiting >= Math.floor(this.#gradient.limit))
    if (full === this.#full) return
    this.#full = full
    this.#rooms.full += full ? 1 : -1
    if (!full) this.#rooms.onRoom()
  }
}
