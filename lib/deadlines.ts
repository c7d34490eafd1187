import type { Clock, Timer } from '../types/index.ts'

/** Something that has a time by which it must have moved on. */
export interface Deadlined {
  /** By when, on the clock's scale; `Infinity` for never. */
  deadline: number
  previous: Deadlined | null
  next: Deadlined | null
  /** Whether nobody waits for it: the end of the app does not either. */
  readonly expendable?: boolean
  onDeadline (): void
  /** Whether it uses a backend just now. */
  isOn (backend: object): boolean
  /** Ends it at once. */
  giveUp (): void
}

/** Coarsest and finest pace of the sweep, in milliseconds. */
const COARSEST = 250
const FINEST = 5

/**
 * The deadlines of everything under way, swept by one shared coarse timer: moving a deadline is one assignment,
 * so that a stream may do it for every chunk. A deadline is met at most one pace late. The timer runs
 * only while something is under way.
 */
export class Deadlines {
  size = 0
  readonly #clock: Clock
  #first: Deadlined | null = null
  #pace = COARSEST
  #timer: Timer | null = null
  #onEmpty: (() => void) | null = null
  readonly #sweep = (): void => this.#onTimer()

  constructor (clock: Clock) {
    this.#clock = clock
  }

  /** Makes the sweep fine enough for a timeout: a tenth of the shortest asked for. */
  allowFor (timeout: number): void {
    if (timeout > 0) this.#pace = Math.max(FINEST, Math.min(this.#pace, timeout / 10))
  }

  add (entry: Deadlined): void {
    entry.previous = null
    entry.next = this.#first
    if (this.#first !== null) this.#first.previous = entry
    this.#first = entry
    this.size++
    if (this.#timer === null) this.#timer = this.#clock.setTimeout(this.#sweep, this.#pace)
  }

  remove (entry: Deadlined): void {
    if (!this.#has(entry)) return
    if (entry.previous !== null) entry.previous.next = entry.next
    else this.#first = entry.next
    if (entry.next !== null) entry.next.previous = entry.previous
    entry.previous = entry.next = null
    this.size--
    if (this.size === 0) this.#onEmpty?.()
  }

  /** Resolves when nothing is under way any more, or after so long. */
  whenEmpty (timeout: number): Promise<void> {
    if (this.size === 0) return Promise.resolve()
    return new Promise(resolve => {
      const timer = this.#clock.setTimeout(resolve, timeout)
      this.#onEmpty = () => {
        this.#onEmpty = null
        this.#clock.clearTimeout(timer)
        resolve()
      }
    })
  }

  /** All entries as of now; they may leave while one looks at them. */
  entries (): Deadlined[] {
    const entries: Deadlined[] = []
    for (let entry = this.#first; entry !== null; entry = entry.next) entries.push(entry)
    return entries
  }

  /** Stops the timer. Entries may still come and go. */
  stop (): void {
    if (this.#timer !== null) this.#clock.clearTimeout(this.#timer)
    this.#timer = null
  }

  #has (entry: Deadlined): boolean {
    return entry.previous !== null || this.#first === entry
  }

  #onTimer (): void {
    this.#timer = null
    const now = this.#clock.now()
    let due: Deadlined[] | null = null
    for (let entry = this.#first; entry !== null; entry = entry.next) {
      if (entry.deadline <= now) (due ??= []).push(entry)
    }
    // Meeting one may take out others, or bring new ones.
    if (due !== null) for (const entry of due) if (this.#has(entry)) entry.onDeadline()
    if (this.#first !== null && this.#timer === null) this.#timer = this.#clock.setTimeout(this.#sweep, this.#pace)
  }
}
