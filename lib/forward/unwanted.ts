import type { Clock, Timer } from '../../types/index.ts'
import { rawContentLength } from './raw-fields.ts'

/** Bytes and milliseconds up to which an answer that nobody wants is read, so that its connection can be used again. */
const MOST_BYTES = 65_536
const MOST_TIME = 1_000

/** An answer that nobody wants, as long as reading it away costs less than a new connection. */
export class Unwanted {
  readonly #clock: Clock
  readonly #timer: Timer
  readonly #close: () => void
  #left = MOST_BYTES

  /** @param close called when it has turned out too long, or does not end */
  constructor (clock: Clock, close: () => void) {
    this.#clock = clock
    this.#close = close
    // One that goes on for ever must not hold the connection.
    this.#timer = clock.setTimeout(close, MOST_TIME)
  }

  /** Whether it says itself that it is too long. */
  static isTooLong (headers: readonly Buffer[]): boolean {
    return rawContentLength(headers) > MOST_BYTES
  }

  /** Whether more of it may come. */
  take (chunk: Buffer): boolean {
    this.#left -= chunk.length
    if (this.#left < 0) this.#close()
    return this.#left >= 0
  }

  /** It has ended, one way or another. */
  stop (): void {
    this.#clock.clearTimeout(this.#timer)
  }
}
