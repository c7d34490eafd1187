import type { Clock, Timer } from '../../types/index.ts'

/** The session that is timed. */
export interface IdleOwner {
  /** Requests on it. */
  readonly active: number
  /** It has been idle for so long. */
  leave (): void
}

/** Ends a session that has had no request for a while. */
export class Http2IdleTimer {
  readonly #clock: Clock
  readonly #timeout: number
  readonly #owner: IdleOwner
  #timer: Timer | null = null
  #since = 0

  /** @param timeout milliseconds */
  constructor (clock: Clock, timeout: number, owner: IdleOwner) {
    this.#clock = clock
    this.#timeout = timeout
    this.#owner = owner
  }

  /** Milliseconds since there was last nothing on it. */
  get elapsed (): number {
    return this.#clock.now() - this.#since
  }

  /** There is nothing on it from now on. */
  start (): void {
    this.#since = this.#clock.now()
    // One that runs is made to run on when it ends: that costs less than to begin anew with every request.
    this.#timer ??= this.#clock.setTimeout(this.#onTimeout, this.#timeout)
  }

  stop (): void {
    if (this.#timer !== null) this.#clock.clearTimeout(this.#timer)
    this.#timer = null
  }

  readonly #onTimeout = (): void => {
    this.#timer = null
    if (this.#owner.active > 0) return
    const left = this.#timeout - this.elapsed
    if (left <= 0) this.#owner.leave()
    else this.#timer = this.#clock.setTimeout(this.#onTimeout, left)
  }
}
