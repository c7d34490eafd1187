/** The time that a response may take to begin. It stands still while the client sends its body; what the client itself has said does not. */
export class AnswerTime {
  #by: number
  readonly #clientBy: number
  readonly #bounded: boolean
  #pausedAt = -1

  /**
   * @param timeout `timeout.request`; 0 for ever
   * @param clientBy by when the client wants its answer, on the clock's scale
   */
  constructor (now: number, timeout: number, clientBy: number) {
    this.#bounded = timeout > 0
    this.#by = Math.min(until(now, timeout), clientBy)
    this.#clientBy = clientBy
  }

  /** By when, as it is now; `Infinity` for ever. */
  get limit (): number {
    return this.#pausedAt === -1 ? this.#by : this.#clientBy
  }

  /** Whether it is the client that wants its answer so soon. */
  get byClient (): boolean {
    return this.limit === this.#clientBy
  }

  /** By when, as a backend is told: as if the body had come. */
  get told (): number {
    return this.#by
  }

  pause (now: number): void {
    // What has run out does not stand still.
    if (this.#pausedAt === -1 && now < this.#by) this.#pausedAt = now
  }

  resume (now: number): void {
    if (this.#pausedAt === -1) return
    if (this.#bounded) this.#by = Math.min(this.#by + now - this.#pausedAt, this.#clientBy)
    this.#pausedAt = -1
  }
}

/** So many milliseconds from now, where 0 means for ever. */
export function until (now: number, milliseconds: number): number {
  return milliseconds > 0 ? now + milliseconds : Infinity
}
