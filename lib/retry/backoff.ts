import type { BackoffOptions } from '../../types/index.ts'

/**
 * Milliseconds before a backend is asked again: anything up to a bound that grows with each time (full jitter), so that those who
 * failed together do not come back together. Source: Brooker, Exponential Backoff And Jitter.
 * @param times that were waited before
 */
export function backoffDelay ({ base, factor, max }: Required<BackoffOptions>, times: number, random: () => number): number {
  return random() * Math.min(max, base * factor ** times)
}
