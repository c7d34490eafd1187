import t from 'tap'
import type { Backend } from '../../../lib/backend.ts'
import { hashReady, Maglev } from '../../../lib/balancer/index.ts'
import type { MaglevOptions } from '../../../types/index.ts'
import { backendsOf, equalBackends, suite } from './suite.ts'

await hashReady

t.test('maglev', t => {
  suite(t, { type: 'maglev' }, 0.03)
  t.end()
})

t.test('maglev with bounded load', t => {
  suite(t, { type: 'maglev', boundedLoad: 1.5, tableSize: 10_007 }, 0.03)
  t.end()
})

/** Shows the table, entry by entry. */
class OpenMaglev extends Maglev {
  constructor (options: Partial<MaglevOptions>, available: readonly Backend[]) {
    super(options)
    this.rebuild(available)
  }

  counts (backends: number, size: number): number[] {
    const counts = Array.from({ length: backends }, () => 0)
    for (let entry = 0; entry < size; entry++) counts[this.pick(Math.ceil(entry * 2 ** 32 / size))]++
    return counts
  }
}

t.test('with 100 backends no share is further than 1 % from the mean, nor by more than one entry', t => {
  const counts = new OpenMaglev({}, equalBackends(100)).counts(100, 65_537)
  t.equal(counts.reduce((sum, count) => sum + count, 0), 65_537, 'every entry is taken')
  t.ok(counts.every(count => count === 655 || count === 656), 'which is 0.1 %', { counts })
  t.end()
})

t.test('weights have their shares of the table', t => {
  for (const weights of [[5, 3, 2], [65_535, 1], [0.3, 0.2, 0.1], [10, ...Array.from({ length: 90 }, () => 1)]]) {
    const total = weights.reduce((sum, weight) => sum + weight, 0)
    const counts = new OpenMaglev({}, backendsOf(weights)).counts(weights.length, 65_537)
    // The last turn is not a whole one.
    const near = counts.every((count, i) => Math.abs(count - 65_537 * weights[i] / total) <= 2 + weights.length * weights[i] / total)
    t.ok(near, `${weights.slice(0, 4)}`, { counts })
  }
  t.end()
})

t.test('a table smaller than the backends are many serves some of them', t => {
  const counts = new OpenMaglev({ tableSize: 11 }, equalBackends(40)).counts(40, 11)
  t.equal(counts.reduce((sum, count) => sum + count, 0), 11)
  t.ok(counts.every(count => count <= 1))
  t.end()
})

t.test('a size that is no prime is taken up to the next', t => {
  for (const [given, size] of [[2, 2], [4, 5], [65_536, 65_537], [65_538, 65_539], [1_000_000, 1_000_003]]) {
    const counts = new OpenMaglev({ tableSize: given }, equalBackends(2)).counts(2, size)
    t.equal(Math.abs(counts[0] - counts[1]), size % 2, `${given} is ${size}`)
  }
  t.end()
})
