import type { UpstreamManager } from '../../lib/upstream-manager.ts'

/** Whether an upstream is ready by itself: what `isReady()` says of the default one is said of all. */
export function isReady ({ state: { closed, leaving, available, minHealthy } }: UpstreamManager): boolean {
  return !closed && !leaving && available.length >= Math.max(1, minHealthy)
}
