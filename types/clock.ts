/** A timer that a {@link Clock} started. */
export interface Timer {
  /** Lets it hold the process up. */
  ref? (): unknown
  unref? (): unknown
}

/** Where time comes from. Injected, so that tests own it. */
export interface Clock {
  /** Milliseconds that never run backwards, from any origin. */
  now (): number
  /** Milliseconds since 1970, for what people read. */
  wall (): number
  /** Calls back once after `delay` milliseconds. */
  setTimeout (callback: () => void, delay: number): Timer
  clearTimeout (timer: Timer): void
}
