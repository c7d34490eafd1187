/** How much more than its share a backend is trusted to carry before others have to help. Source: Envoy. */
export const OVERPROVISIONING = 1.4
/** What rounding may take from a sum that is exactly enough. */
const ROUNDING = 1e-9

/** Part of all traffic that a level can carry, 0 to 1, when so much of its weight is available. */
export function capacityOf (available: number, total: number): number {
  const capacity = total > 0 ? OVERPROVISIONING * available / total : 0
  return isEnough(capacity) ? 1 : capacity
}

/** Whether so much capacity carries everything. */
export function isEnough (capacity: number): boolean {
  return capacity >= 1 - ROUNDING
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
    left = left - share < ROUNDING ? 0 : left - share
    return share
  })
}
