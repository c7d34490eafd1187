import type { Backend } from '../../types/index.ts'
import { bitsOf, scaled } from './fast-random.ts'
import type { Weights } from './weights.ts'

/** Draws before a scan settles which of the untried ones it is. */
const REDRAWS = 8

/**
 * Draws indexes at random, by weight, each in constant time whatever their number.
 * Source: Vose's alias method.
 */
export class Sampler {
  readonly #bits: () => number
  #weights: Float64Array = new Float64Array(0)
  #equal = true
  /** Every column holds two indexes, its own and an alias, and this share of it is its own. */
  #share: Float64Array = new Float64Array(0)
  #alias: Uint32Array = new Uint32Array(0)

  constructor (random: () => number) {
    this.#bits = bitsOf(random)
  }

  rebuild ({ values, total, equal }: Weights): void {
    this.#weights = values
    this.#equal = equal
    if (equal) return
    const size = values.length
    const share = values.map(weight => weight * size / total)
    const alias = Uint32Array.from(values, (_, i) => i)
    // From the front those with less than a column, from the back those with more, which give of theirs.
    const columns = new Uint32Array(size)
    let small = 0
    let large = size
    share.forEach((part, i) => { columns[part < 1 ? small++ : --large] = i })
    let i = 0
    for (; i < small && small < size; i++) {
      const giver = columns[small]
      alias[columns[i]] = giver
      share[giver] -= 1 - share[columns[i]]
      if (share[giver] < 1) small++
    }
    // What rounding has left over is whole.
    for (; i < size; i++) share[columns[i]] = 1
    this.#share = share
    this.#alias = alias
  }

  draw (): number {
    const size = this.#weights.length
    const point = scaled(this.#bits(), size)
    const column = Math.floor(point)
    return this.#equal || point - column < this.#share[column] ? column : this.#alias[column]
  }

  /** Draws one that has not been tried, of those as if they were alone; -1 when there is none. */
  drawUntried (available: readonly Backend[], tried: readonly Backend[]): number {
    for (let i = 0; i < REDRAWS; i++) {
      const drawn = this.draw()
      if (!tried.includes(available[drawn])) return drawn
    }
    let total = 0
    for (let i = 0; i < available.length; i++) if (!tried.includes(available[i])) total += this.#weights[i]
    let left = scaled(this.#bits(), total)
    let last = -1
    for (let i = 0; i < available.length; i++) {
      if (tried.includes(available[i])) continue
      last = i
      left -= this.#weights[i]
      if (left < 0) break
    }
    return last
  }

  /** Draws another than `index`; where that one outweighs all, by weight only mostly. There must be two. */
  drawOther (index: number): number {
    if (!this.#equal) {
      for (let i = 0; i < 3; i++) {
        const drawn = this.draw()
        if (drawn !== index) return drawn
      }
    }
    const other = Math.floor(scaled(this.#bits(), this.#weights.length - 1))
    return other < index ? other : other + 1
  }
}
