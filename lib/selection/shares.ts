/** How much more than its share a backend is trusted to carry before others have to help. Source: Envoy. */
export const OVERPROVISIONING = 1.4

/** Part of all traffic that a level can carry, 0 to 1, when so much of its weight is available. */
export function capacityOf (available: number, total: number): number {
  return total > 0 ? Math.min(1, OVERPROVISIONING * available / total) : 0
}

/**
 * Shares traffic out among levels: each gets what it can carry of what those before it have left; where all together cannot carry
 * everything, each gets more by the same factor. The shares add up to 1, unless no level can carry anything. Source: Envoy's priority levels.
 */
export function sharesOf (capacities: readonly number[]): number[] {
  const together = Math.min(1, capacities.reduce((sum, capacity) => sum + capacity, 0))
  let left = 1
  return capacities.map(capacity => {
    const share = together === 0 ? 0 : Math.min(left, capacity / together)
    // What rounding leaves is nobody's.
    left = left - share < 1e-9 ? 0 : left - share
    return share
  })
}
