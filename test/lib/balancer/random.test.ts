import t from 'tap'
import { Random } from '../../../lib/balancer/index.ts'
import { chiSquare, chiSquareLimit } from '../../helpers/random.ts'
import { asking, backendsOf, countsOf, envOf, suite } from './suite.ts'

t.test('random', t => {
  suite(t, { type: 'random' }, 'chance')
  t.end()
})

t.test('every weight gets its share, however many there are and however far they differ', t => {
  const sets = [
    Array.from({ length: 50 }, (_, i) => i + 1),
    Array.from({ length: 30 }, (_, i) => 1.5 ** (i % 8)),
    [1000, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    [1, 1, 1, 1, 1, 1, 1, 1.0001]
  ]
  for (const [seed, weights] of sets.entries()) {
    const available = backendsOf(weights)
    const balancer = new Random({}, envOf(seed + 10))
    balancer.rebuild(available)
    const counts = countsOf(balancer, available, 200_000)
    t.ok(chiSquare(counts, weights) < chiSquareLimit(weights.length - 1), `${weights.slice(0, 4)}…`, { found: chiSquare(counts, weights) })
  }
  t.end()
})

t.test('those that are left share as if they were alone', t => {
  for (const [weights, triedOnes] of [[[5, 3, 2, 4, 1], [0, 3]], [[1, 1, 1, 1], [2]], [[10_000, 3, 1], [0]]]) {
    const available = backendsOf(weights)
    const balancer = new Random({}, envOf(3))
    balancer.rebuild(available)
    const tried = triedOnes.map(i => available[i])
    const counts = countsOf(balancer, available, 30_000, i => ({ ...asking(i), tried })).filter((_, i) => !triedOnes.includes(i))
    const left = weights.filter((_, i) => !triedOnes.includes(i))
    t.ok(chiSquare(counts, left) < chiSquareLimit(left.length - 1), `${weights} without ${triedOnes}`, { counts })
  }
  t.end()
})
