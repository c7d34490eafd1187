/** Sub-buckets to each power of two: a value is known to within 1/32. */
const SUB_BITS = 5
const SUB_COUNT = 1 << SUB_BITS
/** Microseconds up to which values are told apart: 2^36, about 19 hours. */
const MAX_BITS = 36
const SIZE = (MAX_BITS - SUB_BITS + 1) * SUB_COUNT

/** Milliseconds up to which a histogram tells exactly how many durations were no longer, in order. */
export const BOUNDS: readonly number[] = Object.freeze([0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000])

/** The last bucket of what is within each bound. */
const LAST: number[] = []
/** Of a bucket with a bound in it: the bound in microseconds, and where to what is within it and what is beyond it belong, relative to the bucket. */
const CUTS = new Float64Array(SIZE)
const WITHIN = new Int8Array(SIZE)
const BEYOND = new Int8Array(SIZE)
// The edge that is next to a bound moves onto it, by half a bucket at the most.
for (const bound of BOUNDS) {
  const cut = bound * 1000
  const bucket = rawBucketOf(cut)
  const below = cut < middleOf(bucket)
  CUTS[bucket] = cut
  WITHIN[bucket] = below ? -1 : 0
  BEYOND[bucket] = below ? 0 : 1
  LAST.push(below ? bucket - 1 : bucket)
}

/**
 * Counts durations in buckets that grow with the value: constant memory (8 KiB), one increment to record.
 * Source: HdrHistogram's log-linear layout.
 */
export class Histogram {
  count = 0
  sum = 0
  min = Infinity
  max = 0
  // Numbers that never begin anew: one that has counted for years is still right.
  readonly #buckets = new Float64Array(SIZE)

  /** Counts one duration, in milliseconds. */
  record (milliseconds: number): void {
    this.count++
    this.sum += milliseconds
    if (milliseconds < this.min) this.min = milliseconds
    if (milliseconds > this.max) this.max = milliseconds
    this.#buckets[bucketOf(milliseconds * 1000)]++
  }

  /** The average, in milliseconds; 0 while nothing was recorded. */
  get mean (): number {
    return this.count === 0 ? 0 : this.sum / this.count
  }

  /**
   * The duration that a share of those recorded did not exceed, in milliseconds, within 1/32 of the true value.
   * @param quantile 0 to 1
   * @param other one whose durations count as well
   */
  quantile (quantile: number, other?: Histogram): number {
    const count = this.count + (other?.count ?? 0)
    if (count === 0) return 0
    const min = Math.min(this.min, other?.min ?? Infinity)
    const max = Math.max(this.max, other?.max ?? 0)
    const rank = Math.max(1, Math.ceil(quantile * count))
    let seen = 0
    for (let bucket = bucketOf(min * 1000); bucket < SIZE; bucket++) {
      seen += this.#buckets[bucket] + (other === undefined ? 0 : other.#buckets[bucket])
      if (seen >= rank) return Math.min(max, Math.max(min, middleOf(bucket) / 1000))
    }
    return max
  }

  /** How many durations were no longer than each of `BOUNDS`; of what is beyond them there is `count`. */
  cumulative (): number[] {
    const counts: number[] = []
    let seen = 0
    let bucket = bucketOf(this.min * 1000)
    const most = bucketOf(this.max * 1000)
    for (const last of LAST) {
      while (bucket <= last && bucket <= most) seen += this.#buckets[bucket++]
      counts.push(seen)
    }
    return counts
  }

  reset (): void {
    this.count = 0
    this.sum = 0
    this.min = Infinity
    this.max = 0
    this.#buckets.fill(0)
  }
}

/** A duration that is a bound itself counts as within it. */
function bucketOf (microseconds: number): number {
  const bucket = rawBucketOf(microseconds)
  if (CUTS[bucket] === 0) return bucket
  return bucket + (microseconds <= CUTS[bucket] ? WITHIN[bucket] : BEYOND[bucket])
}

/** Linear below SUB_COUNT microseconds; above, SUB_COUNT buckets to each power of two. */
function rawBucketOf (microseconds: number): number {
  if (!(microseconds >= 1)) return 0
  if (microseconds < SUB_COUNT) return microseconds | 0
  const power = Math.floor(Math.log2(microseconds))
  // Also while there is no shortest one yet, which is as if it took for ever.
  if (power >= MAX_BITS) return SIZE - 1
  return (power - SUB_BITS) * SUB_COUNT + Math.floor(microseconds / 2 ** (power - SUB_BITS))
}

function middleOf (bucket: number): number {
  if (bucket < SUB_COUNT) return bucket + 0.5
  const power = Math.floor(bucket / SUB_COUNT) - 1
  return (bucket - power * SUB_COUNT + 0.5) * 2 ** power
}
