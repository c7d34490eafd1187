/** Chance that is the same in every run: numbers of at least 0 and below 1. Source: Tommy Ettinger's mulberry32. */
export function seeded (seed: number): () => number {
  let state = seed | 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 0x1_0000_0000
  }
}

/** How far counts are from what was expected of them: χ², with one degree of freedom less than there are counts. */
export function chiSquare (counts: readonly number[], weights: readonly number[]): number {
  const all = counts.reduce((sum, count) => sum + count, 0)
  const total = weights.reduce((sum, weight) => sum + weight, 0)
  return counts.reduce((sum, count, i) => {
    const expected = all * weights[i] / total
    return sum + (count - expected) ** 2 / expected
  }, 0)
}

/** The χ² that chance exceeds once in a thousand times. Source: Wilson and Hilferty's approximation, a little above the tables below 10. */
export function chiSquareLimit (degrees: number): number {
  const part = 2 / (9 * degrees)
  return degrees * (1 - part + 3.0902 * Math.sqrt(part)) ** 3
}
