import { combine } from './hash.ts'
import type { Identities } from './hash-policy.ts'

/** Points in order, each with the index of its backend. */
interface Points {
  readonly hashes: Uint32Array
  readonly owners: Uint32Array
}

/** Bits of a point's place by which all points are put roughly in order first. */
const ROUGH_BITS = 10

const pointsFor = (size: number): Points => ({ hashes: new Uint32Array(size), owners: new Uint32Array(size) })

/**
 * Points on a circle of 32 bits, of each backend as many as it is told, at places that depend on its id alone. When little has
 * changed, the points that stay are taken over in their order: no more than reading them once.
 */
export class Ring {
  #counts: Uint32Array = new Uint32Array(0)
  #points = pointsFor(0)
  /** For every value of a hash's first bits the first point that is not before it. */
  #starts: Uint32Array = new Uint32Array(0)
  #shift = 0

  get size (): number {
    return this.#points.owners.length
  }

  /**
   * The backend of the point that comes nearest after one of several places.
   * @param place the first of them, in 32 bits with a sign or without
   * @param stride how far the next is
   */
  nearest (place: number, stride: number, places: number): number {
    const { hashes, owners } = this.#points
    const starts = this.#starts
    const shift = this.#shift
    const size = owners.length
    let chosen = 0
    let least = 0x7fff_ffff
    for (let i = 0; i < places; i++) {
      const unsigned = place >>> 0
      let point = starts[unsigned >>> shift]
      while (point < size && hashes[point] < unsigned) point++
      if (point === size) point = 0
      // The last bit decides nothing; without it the number is one that is quickly compared.
      const distance = (hashes[point] - unsigned) >>> 1
      if (distance < least) {
        least = distance
        chosen = point
      }
      place = (place + stride) | 0
    }
    return owners[chosen]
  }

  /**
   * @param counts points of each backend, not all 0
   * @param before the index that each backend had in the last call, or -1
   */
  rebuild (identities: Identities, counts: Uint32Array, before: Int32Array): void {
    const kept = new Int32Array(this.#counts.length).fill(-1)
    // Of those whose number has changed all points are new.
    const fresh = counts.map((count, i) => {
      if (before[i] === -1 || this.#counts[before[i]] !== count) return count
      kept[before[i]] = i
      return 0
    })
    this.#points = merged(this.#points, kept, sorted(identities, fresh), sum(counts), identities)
    this.#counts = counts
    this.#shift = Math.clz32(this.size)
    this.#starts = startsOf(this.#points.hashes, this.#shift)
  }
}

function sum (numbers: Uint32Array): number {
  return numbers.reduce((sum, number) => sum + number, 0)
}

function startsOf (hashes: Uint32Array, shift: number): Uint32Array {
  const starts = new Uint32Array(2 ** (32 - shift))
  let start = 0
  for (let point = 0; point < hashes.length; point++) {
    const last = hashes[point] >>> shift
    while (start <= last) starts[start++] = point
  }
  return starts.fill(hashes.length, start)
}

/**
 * The points of backends, in order. As they lie evenly each is put at once where it belongs, but for a place or two; and first
 * roughly, as writing everywhere in a large array is slow (35 ms instead of 80 for a million points).
 */
function sorted ({ first, second }: Identities, counts: Uint32Array): Points {
  const size = sum(counts)
  const rough = pointsFor(size)
  const { hashes, owners } = pointsFor(size)
  const shift = Math.clz32(size)
  const roughShift = Math.max(shift, 32 - ROUGH_BITS)
  const roughEnds = new Uint32Array(2 ** (32 - roughShift))
  for (let owner = 0; owner < counts.length; owner++) {
    for (let point = 0; point < counts[owner]; point++) roughEnds[combine(point, first[owner], second[owner]) >>> roughShift]++
  }
  addUp(roughEnds)
  for (let owner = 0; owner < counts.length; owner++) {
    for (let point = 0; point < counts[owner]; point++) {
      const hash = combine(point, first[owner], second[owner]) >>> 0
      const at = --roughEnds[hash >>> roughShift]
      rough.hashes[at] = hash
      rough.owners[at] = owner
    }
  }
  const ends = new Uint32Array(2 ** (32 - shift))
  for (let i = 0; i < size; i++) ends[rough.hashes[i] >>> shift]++
  addUp(ends)
  for (let i = 0; i < size; i++) {
    const at = --ends[rough.hashes[i] >>> shift]
    hashes[at] = rough.hashes[i]
    owners[at] = rough.owners[i]
  }
  for (let i = 1; i < size; i++) {
    const hash = hashes[i]
    const owner = owners[i]
    let at = i
    for (; at > 0 && comesFirst(hash, owner, hashes[at - 1], owners[at - 1], first, second); at--) {
      hashes[at] = hashes[at - 1]
      owners[at] = owners[at - 1]
    }
    hashes[at] = hash
    owners[at] = owner
  }
  return { hashes, owners }
}

/** Turns the sizes of slots into where they end. */
function addUp (sizes: Uint32Array): void {
  for (let slot = 1; slot < sizes.length; slot++) sizes[slot] += sizes[slot - 1]
}

/** Which point comes first; of two at the same place it is not a matter of their backends' order. */
function comesFirst (hash: number, owner: number, otherHash: number, other: number, first: Uint32Array, second: Uint32Array): boolean {
  if (hash !== otherHash) return hash < otherHash
  return first[owner] < first[other] || (first[owner] === first[other] && second[owner] < second[other])
}

/**
 * Old points and new ones, in order.
 * @param kept the new index of each backend of the old points, or -1 where they are to go
 */
function merged (old: Points, kept: Int32Array, fresh: Points, size: number, { first, second }: Identities): Points {
  if (fresh.hashes.length === size) return fresh
  const { hashes, owners } = pointsFor(size)
  let at = 0
  let next = 0
  for (let i = 0; i < old.hashes.length; i++) {
    const owner = kept[old.owners[i]]
    if (owner === -1) continue
    const hash = old.hashes[i]
    while (next < fresh.hashes.length && comesFirst(fresh.hashes[next], fresh.owners[next], hash, owner, first, second)) {
      hashes[at] = fresh.hashes[next]
      owners[at++] = fresh.owners[next++]
    }
    hashes[at] = hash
    owners[at++] = owner
  }
  hashes.set(fresh.hashes.subarray(next), at)
  owners.set(fresh.owners.subarray(next), at)
  return { hashes, owners }
}
