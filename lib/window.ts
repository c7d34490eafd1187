const BUCKETS = 10

/**
 * Counts of the last so many milliseconds, in a ring of buckets that are emptied as time passes over them, whether or not anything
 * happens meanwhile. A clock that is put back empties it all.
 */
export class Window {
  readonly #width: number
  readonly #totals = new Uint32Array(BUCKETS)
  readonly #hits = new Uint32Array(BUCKETS)
  /** The bucket of the last time, counted from the beginning of time. */
  #latest = 0

  constructor (milliseconds: number) {
    this.#width = milliseconds / BUCKETS
  }

  /** Counts one result, and whether it is of the kind that is looked for. */
  record (hit: boolean, now: number): void {
    const at = this.#advance(now)
    this.#totals[at]++
    if (hit) this.#hits[at]++
  }

  total (now: number): number {
    this.#advance(now)
    return sum(this.#totals)
  }

  hits (now: number): number {
    this.#advance(now)
    return sum(this.#hits)
  }

  reset (): void {
    this.#totals.fill(0)
    this.#hits.fill(0)
  }

  /** Empties what has become too old; returns the present bucket. */
  #advance (now: number): number {
    const bucket = Math.floor(now / this.#width)
    const passed = bucket - this.#latest
    if (passed < 0 || passed >= BUCKETS) this.reset()
    else {
      for (let i = 1; i <= passed; i++) {
        const at = placeOf(this.#latest + i)
        this.#totals[at] = this.#hits[at] = 0
      }
    }
    this.#latest = bucket
    return placeOf(bucket)
  }
}

/** Time may begin anywhere, so that a bucket's number may be below 0. */
function placeOf (bucket: number): number {
  return ((bucket % BUCKETS) + BUCKETS) % BUCKETS
}

function sum (counts: Uint32Array): number {
  let sum = 0
  for (let i = 0; i < counts.length; i++) sum += counts[i]
  return sum
}
