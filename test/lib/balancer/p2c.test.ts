import t from 'tap'
import { P2c, Random } from '../../../lib/balancer/index.ts'
import type { Backend } from '../../../lib/backend.ts'
import type { LoadBalancer } from '../../../types/index.ts'
import { simulate } from './simulation.ts'
import { backendsOf, choose, countsOf, envOf, equalBackends, suite } from './suite.ts'

t.test('p2c', t => {
  suite(t, { type: 'p2c' }, 'chance')
  t.end()
})

function ready (available: readonly Backend[], balancer: LoadBalancer = new P2c({}, envOf(2))): LoadBalancer {
  balancer.rebuild?.(available)
  return balancer
}

t.test('two different ones are compared: the most loaded is never chosen, and of two always the other', t => {
  const three = equalBackends(3)
  three[1].counters.inFlight = 1
  three[2].counters.inFlight = 2
  const counts = countsOf(ready(three), three, 9000)
  t.equal(counts[2], 0)
  t.ok(Math.abs(counts[0] / 6000 - 1) < 0.1, 'the least loaded wins the two of three pairs that it is in', { counts })
  const two = equalBackends(2)
  two[0].counters.inFlight = 1
  t.strictSame(countsOf(ready(two), two, 100), [0, 100])
  const far = backendsOf([1000, 1])
  far[0].counters.inFlight = 1001
  t.strictSame(countsOf(ready(far), far, 100), [0, 100], 'also where one is drawn nearly always')
  t.end()
})

t.test('load is by weight', t => {
  const available = backendsOf([3, 1, 2])
  const balancer = ready(available)
  for (let i = 0; i < 600; i++) (choose(balancer, available) as Backend).counters.begin()
  t.ok(available.every(({ inFlight, weight }) => Math.abs(inFlight - 100 * weight) <= 3), 'within a few', { found: available.map(({ inFlight }) => inFlight) })
  t.end()
})

t.test('the fullest of a thousand has little more than the others, where chance alone would fill it', t => {
  const highest = [new P2c({}, envOf(3)), new Random({}, envOf(3))].map(balancer => {
    const available = equalBackends(1000)
    ready(available, balancer)
    for (let i = 0; i < 1000; i++) (choose(balancer, available) as Backend).counters.begin()
    return Math.max(...available.map(({ inFlight }) => inFlight))
  })
  t.ok(highest[0] <= 4, 'ln ln n / ln 2 and a bit', { highest })
  t.ok(highest[1] >= 5, 'ln n / ln ln n and more', { highest })
  t.end()
})

t.test('a backend that is ten times slower gets a fraction of what the others get', t => {
  const available = equalBackends(10)
  const counts = simulate({ balancer: ready(available), available, clock: envOf().clock, takes: index => index === 0 ? 100 : 10, requests: 5000, concurrency: 20 })
  t.ok(counts[0] < 150, 'about a tenth', { counts })
  t.end()
})
