import type { Clock, Timer } from '../../types/index.ts'

interface Entry extends Timer {
  at: number
  callback: () => void
}

/** Time that stands still until a test moves it. */
export class FakeClock implements Clock {
  #now = 1_000
  #entries: Entry[] = []

  now = (): number => this.#now
  wall = (): number => Date.UTC(2026, 0, 1) + this.#now

  setTimeout = (callback: () => void, delay: number): Timer => {
    const entry: Entry = { at: this.#now + delay, callback, unref: () => entry }
    this.#entries.push(entry)
    return entry
  }

  clearTimeout = (timer: Timer): void => {
    this.#entries = this.#entries.filter(entry => entry !== timer)
  }

  /** Timers that are running. */
  get timers (): number {
    return this.#entries.length
  }

  /** Moves time on, calling back what falls due on the way, in order. */
  advance (milliseconds: number): void {
    const until = this.#now + milliseconds
    while (true) {
      const due = this.#entries.filter(entry => entry.at <= until).sort((a, b) => a.at - b.at)[0]
      if (due === undefined) break
      this.#entries = this.#entries.filter(entry => entry !== due)
      this.#now = Math.max(this.#now, due.at)
      due.callback()
    }
    this.#now = until
  }
}
