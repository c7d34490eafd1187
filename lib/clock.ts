import type { Clock } from '../types/index.ts'

/** The system's time. Timers hold no process up. */
export const systemClock: Clock = {
  now: () => performance.now(),
  wall: () => Date.now(),
  setTimeout: (callback, delay) => setTimeout(callback, delay).unref(),
  clearTimeout: timer => clearTimeout(timer as NodeJS.Timeout)
}
