import type { Clock } from '../types/index.ts'

/** Node's timers count no further, and fire at once for more: about 25 days. */
const LONGEST_DELAY = 2 ** 31 - 1

/** The system's time. Timers hold no process up. */
export const systemClock: Clock = {
  now: () => performance.now(),
  wall: () => Date.now(),
  setTimeout: (callback, delay) => setTimeout(callback, Math.min(delay, LONGEST_DELAY)).unref(),
  clearTimeout: timer => clearTimeout(timer as NodeJS.Timeout)
}
