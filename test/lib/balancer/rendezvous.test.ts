import t from 'tap'
import { hashReady, Rendezvous } from '../../../lib/balancer/index.ts'
import { chiSquare, chiSquareLimit } from '../../helpers/random.ts'
import { backendsOf, countsOf, suite } from './suite.ts'

await hashReady

t.test('rendezvous', t => {
  suite(t, { type: 'rendezvous' }, 0.04)
  t.end()
})

t.test('rendezvous with bounded load', t => {
  suite(t, { type: 'rendezvous', boundedLoad: 2 }, 0.04)
  t.end()
})

t.test('keys are spread by weight as chance would spread them', t => {
  for (const weights of [[1, 1, 1, 1, 1], [5, 3, 2], [100, 1, 1], [0.5, 0.25, 0.125], Array.from({ length: 60 }, (_, i) => 1 + i % 6)]) {
    const available = backendsOf(weights)
    const balancer = new Rendezvous()
    balancer.rebuild(available)
    const counts = countsOf(balancer, available, 50_000)
    t.ok(chiSquare(counts, weights) < chiSquareLimit(weights.length - 1), `${weights.slice(0, 5)}`, { found: chiSquare(counts, weights) })
  }
  t.end()
})
