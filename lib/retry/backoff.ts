import type { BackoffOptions } from '../../types/index.ts'

/**
 * Milliseconds before a backend is asked again: anything up to a bound that grows with each time (full jitter), so that those who
 * failed together do not come back together. Source: Brooker, Exponential Backoff And Jitter.
 * @param times that were waited before
 */
export function backoffDelay ({ base, factor, max }: Required<BackoffOptions>, times: number, random: () => number): number {
  // The power may have become infinite, of which not even 0 times as much is a number.
  return base === 0 ? 0 : random() * Math.min(max, base * factor ** times)
}
