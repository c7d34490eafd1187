import t from 'tap'
import { LeastRequests, RoundRobin } from '../../../lib/balancer/index.ts'
import type { Backend } from '../../../lib/backend.ts'
import type { LeastRequestsOptions } from '../../../types/index.ts'
import { chiSquare, chiSquareLimit } from '../../helpers/random.ts'
import { simulate } from './simulation.ts'
import { backendsOf, choose, countsOf, envOf, equalBackends, suite } from './suite.ts'

t.test('least-requests', t => {
  suite(t, { type: 'least-requests' }, 'chance')
  t.end()
})

t.test('least-requests by choices alone', t => {
  suite(t, { type: 'least-requests', fullScanLimit: 0 }, 'chance')
  t.end()
})

t.test('least-requests with a bias and three choices', t => {
  suite(t, { type: 'least-requests', fullScanLimit: 4, choices: 3, bias: 1.5 }, 'chance')
  t.end()
})

function ready (available: readonly Backend[], options: Partial<LeastRequestsOptions> = {}): LeastRequests {
  const balancer = new LeastRequests(options, envOf(5))
  balancer.rebuild(available)
  return balancer
}

function load (available: readonly Backend[], inFlight: readonly number[]): void {
  available.forEach((backend, i) => { backend.counters.inFlight = inFlight[i] })
}

t.test('of a few the one with the least in flight is chosen, always', t => {
  const available = equalBackends(5)
  const balancer = ready(available)
  load(available, [3, 2, 4, 1, 2])
  t.strictSame(countsOf(balancer, available, 100), [0, 0, 0, 100, 0])
  load(available, [3, 2, 4, 9, 2])
  const counts = countsOf(balancer, available, 10_000)
  t.strictSame([counts[0], counts[2], counts[3]], [0, 0, 0])
  t.ok(chiSquare([counts[1], counts[4]], [1, 1]) < chiSquareLimit(1), 'those with as few take turns by chance')
  t.end()
})

t.test('a backend of three times the weight carries three times as many', t => {
  const available = backendsOf([3, 1, 2])
  const balancer = ready(available)
  for (let i = 0; i < 600; i++) (choose(balancer, available) as Backend).counters.begin()
  t.strictSame(available.map(({ inFlight }) => inFlight), [300, 100, 200])
  load(available, [0, 0, 0])
  const byChoice = ready(available, { fullScanLimit: 0 })
  for (let i = 0; i < 600; i++) (choose(byChoice, available) as Backend).counters.begin()
  t.ok(available.every(({ inFlight, weight }) => Math.abs(inFlight - 100 * weight) <= 3), 'and by choices nearly', { found: available.map(({ inFlight }) => inFlight) })
  t.end()
})

t.test('those that are equally loaded by weight are chosen by weight', t => {
  const available = backendsOf([3, 1, 5])
  load(available, [6, 2, 10])
  const counts = countsOf(ready(available), available, 20_000)
  t.ok(chiSquare(counts, [3, 1, 5]) < chiSquareLimit(2), 'by chance', { counts })
  t.end()
})

t.test('above the limit only some are compared', t => {
  const available = equalBackends(33)
  const balancer = ready(available)
  load(available, available.map((_, i) => i === 20 ? 0 : i === 30 ? 50 : 5))
  const counts = countsOf(balancer, available, 3300)
  t.ok(counts[20] > 120 && counts[20] < 280, 'the one at rest wins wherever it is drawn: two times in 33', { found: counts[20] })
  t.equal(counts[30], 0, 'the one with the most never')
  const more = ready(available, { choices: 16 })
  t.ok(countsOf(more, available, 3300)[20] > 1000, 'more choices find it more often')
  const all = ready(available, { fullScanLimit: 33 })
  t.equal(countsOf(all, available, 100)[20], 100, 'and a scan always')
  t.end()
})

t.test('the bias says what load counts for beside weight', t => {
  const available = backendsOf([4, 1])
  load(available, [5, 1])
  t.strictSame(countsOf(ready(available, { bias: 1 }), available, 100), [0, 100], '5/4 is more than 1/1')
  t.strictSame(countsOf(ready(available, { bias: 0.5 }), available, 100), [100, 0], '(sqrt(6) - 1)/4 is less than sqrt(2) - 1')
  load(available, [3, 1])
  t.strictSame(countsOf(ready(available, { bias: 1 }), available, 100), [100, 0], '3/4 is less than 1/1')
  t.strictSame(countsOf(ready(available, { bias: 2 }), available, 100), [0, 100], '15/4 is more than 3/1')
  for (const fullScanLimit of [0, 32]) {
    const counts = countsOf(ready(available, { bias: 0, fullScanLimit }), available, 10_000)
    t.ok(chiSquare(counts, [4, 1]) < chiSquareLimit(1), 'with 0 weights alone count', { counts })
  }
  t.end()
})

t.test('a backend that is ten times slower gets a fraction of what round robin gives it', t => {
  const takes = (index: number) => index === 0 ? 100 : 10
  for (const options of [{}, { fullScanLimit: 0 }]) {
    const counts = [ready, () => new RoundRobin()].map(make => {
      const available = equalBackends(10)
      const balancer = make(available, options)
      balancer.rebuild(available)
      return simulate({ balancer, available, clock: envOf().clock, takes, requests: 5000, concurrency: 20 })
    })
    t.equal(counts[1][0], 500)
    t.ok(counts[0][0] < 150, 'about a tenth of what the others get', { counts: counts[0] })
    t.ok(Math.min(...counts[0].slice(1)) > 450, 'the others share the rest', { counts: counts[0] })
  }
  t.end()
})
