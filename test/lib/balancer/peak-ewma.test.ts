import t from 'tap'
import { PeakEwma } from '../../../lib/balancer/index.ts'
import type { Backend } from '../../../lib/backend.ts'
import type { Outcome, PeakEwmaOptions } from '../../../types/index.ts'
import type { FakeClock } from '../../helpers/clock.ts'
import { simulate } from './simulation.ts'
import { backendsOf, choose, countsOf, envOf, equalBackends, outcomeOf, suite } from './suite.ts'

t.test('peak-ewma', t => {
  suite(t, { type: 'peak-ewma' }, 'chance')
  t.end()
})

interface Setup {
  balancer: PeakEwma
  clock: FakeClock
  available: readonly Backend[]
  /** A backend has answered. */
  answered (index: number, headTime: number, outcome?: Partial<Outcome>): void
  /** Which of the two is chosen now; `either` when chance decides. */
  preferred (): number | 'either'
}

function setUp (available = equalBackends(2), options: Partial<PeakEwmaOptions> = {}): Setup {
  const env = envOf(4)
  const balancer = new PeakEwma(options, env)
  balancer.rebuild(available)
  return {
    balancer,
    clock: env.clock,
    available,
    answered: (index, headTime, outcome) => balancer.settle(available[index], outcomeOf({ headTime, responseTime: headTime, ...outcome })),
    preferred: () => {
      const counts = countsOf(balancer, available, 40)
      return counts[0] === 40 ? 0 : counts[1] === 40 ? 1 : 'either'
    }
  }
}

t.test('the faster of two is chosen', t => {
  const { answered, preferred } = setUp()
  answered(0, 20)
  answered(1, 30)
  t.equal(preferred(), 0)
  t.end()
})

t.test('what is in flight multiplies latency', t => {
  const { answered, preferred, available } = setUp()
  answered(0, 20)
  answered(1, 30)
  available[0].counters.inFlight = 1
  t.equal(preferred(), 1, '20 × 2 is more than 30 × 1')
  available[1].counters.inFlight = 1
  t.equal(preferred(), 0, '20 × 2 is less than 30 × 2')
  t.end()
})

t.test('a peak counts at once, and one fast answer does not undo it', t => {
  const { answered, preferred, clock } = setUp()
  for (let i = 0; i < 100; i++) {
    clock.advance(10)
    answered(0, 20)
    answered(1, 30)
  }
  answered(0, 500)
  t.equal(preferred(), 1)
  clock.advance(10)
  answered(0, 1)
  answered(1, 30)
  t.equal(preferred(), 1)
  t.end()
})

t.test('a peak falls to 1/e in the time that decay says', t => {
  for (const decay of [10_000, 100]) {
    const { answered, preferred, clock } = setUp(equalBackends(2), { decay })
    answered(0, 100)
    clock.advance(decay)
    answered(1, 100 / Math.E * 1.01)
    t.equal(preferred(), 0, 'is a little less by then')
    const later = setUp(equalBackends(2), { decay })
    later.answered(0, 100)
    later.clock.advance(decay)
    later.answered(1, 100 / Math.E * 0.99)
    t.equal(later.preferred(), 1, 'and not yet less than that')
  }
  t.end()
})

t.test('an answer below the average moves it by the time since the last one', t => {
  const { answered, preferred, clock } = setUp()
  answered(0, 100)
  clock.advance(10_000)
  answered(0, 20)
  // 100/e + 20 × (1 - 1/e)
  answered(1, 49.3)
  t.equal(preferred(), 1)
  answered(1, 49.6)
  t.equal(preferred(), 0)
  t.end()
})

t.test('all that is remembered falls alike: time alone changes no preference', t => {
  const { answered, preferred, clock } = setUp()
  answered(0, 20)
  clock.advance(3_000)
  answered(1, 20)
  t.equal(preferred(), 0, 'as it was seen earlier')
  for (const pause of [1, 10_000, 1_000_000, 3_600_000]) {
    clock.advance(pause)
    t.equal(preferred(), 0)
  }
  t.end()
})

t.test('weeks of traffic do not wear it out', t => {
  const { answered, preferred, clock } = setUp()
  for (let i = 0; i < 3_000; i++) {
    clock.advance(500_000)
    answered(0, 20 + i % 2)
    answered(1, 30 - i % 2)
  }
  t.equal(preferred(), 0)
  answered(0, 40)
  t.equal(preferred(), 1)
  clock.advance(1e10)
  answered(1, 30)
  t.equal(preferred(), 0, 'after four months one that has been forgotten is as good as new')
  t.end()
})

t.test('a failure does not look fast', t => {
  const ways: [string, Partial<Outcome>][] = [
    ['refused', { stage: 'connect', culprit: 'backend', statusCode: 0, headTime: -1, responseTime: 0.2, error: new Error('refused') }],
    ['reset after its head', { stage: 'stream', culprit: 'backend', headTime: 1, responseTime: 2, error: new Error('reset') }],
    ['500', { statusCode: 500, headTime: 1, responseTime: 1 }],
    ['503', { statusCode: 503, headTime: 1, responseTime: 1 }]
  ]
  for (const [name, outcome] of ways) {
    const { answered, preferred } = setUp()
    answered(1, 900)
    answered(0, 0, outcome)
    t.equal(preferred(), 1, `${name}: slower than 900 ms`)
    answered(1, 1100)
    t.equal(preferred(), 0, `${name}: not slower than 1100 ms`)
  }
  const slow = setUp()
  slow.answered(0, 0, { culprit: 'backend', headTime: -1, responseTime: 30_000 })
  slow.answered(1, 29_000)
  t.equal(slow.preferred(), 1, 'one that took long counts as that long')
  const peak = setUp()
  peak.answered(0, 5_000)
  peak.clock.advance(5_000)
  peak.answered(0, 0, { statusCode: 500, headTime: 1, responseTime: 1 })
  peak.answered(1, 4_900)
  t.equal(peak.preferred(), 1, 'nor does one lower what was slower')
  const own = setUp(equalBackends(2), { penalty: 10 })
  own.answered(0, 0, { statusCode: 500, headTime: 1, responseTime: 1 })
  own.answered(1, 11)
  t.equal(own.preferred(), 0, 'the penalty is an option')
  t.end()
})

t.test('a client that goes away says nothing of the backend, unless the answer had begun', t => {
  const { answered, preferred } = setUp()
  answered(0, 20)
  answered(1, 30)
  answered(0, 0, { stage: 'wait', culprit: 'client', statusCode: 0, headTime: -1, responseTime: 9_000, error: new Error('gone') })
  t.equal(preferred(), 0)
  answered(0, 40, { stage: 'stream', culprit: 'client', responseTime: 9_000, error: new Error('gone') })
  t.equal(preferred(), 1, '40 ms to the head, not 9 s')
  const [known, unknown] = equalBackends(2)
  const setup = setUp([known, unknown])
  setup.answered(0, 20)
  setup.answered(1, 0, { stage: 'wait', culprit: 'client', statusCode: 0, headTime: -1, responseTime: 1, error: new Error('gone') })
  unknown.counters.begin()
  t.equal(setup.preferred(), 0, 'one that has never answered stays unknown')
  t.end()
})

t.test('an attempt that we gave up counts with the time it had taken, where that is longer than known', t => {
  const { answered, preferred } = setUp()
  const givenUp = (index: number, responseTime: number, stage: 'connect' | 'wait' = 'wait') =>
    answered(index, 0, { stage, culprit: 'proxy', statusCode: 0, headTime: -1, responseTime, error: new Error('another was quicker') })
  answered(0, 20)
  answered(1, 30)
  givenUp(0, 10)
  t.equal(preferred(), 0, '10 ms without an answer is no news of one that takes 20')
  givenUp(0, 9_000, 'connect')
  t.equal(preferred(), 0, 'nor is waiting for a connection of ours')
  givenUp(0, 9_000)
  t.equal(preferred(), 1)
  t.end()
})

t.test('what counts is the time to the head, not how long the answer is', t => {
  const { answered, preferred } = setUp()
  answered(0, 20, { responseTime: 60_000 })
  answered(1, 30, { responseTime: 31 })
  t.equal(preferred(), 0)
  t.end()
})

t.test('a new backend gets one request, and no second before it has answered', t => {
  const available = equalBackends(3)
  const { balancer, answered } = setUp(available)
  answered(0, 20)
  answered(1, 20)
  const chosen = () => countsOf(balancer, available, 300)[2]
  t.ok(chosen() > 150, 'it is tried first wherever it is drawn')
  available[2].counters.begin()
  t.equal(chosen(), 0)
  available[0].counters.inFlight = 1000
  available[1].counters.inFlight = 1000
  t.equal(chosen(), 0, 'however much the others have')
  available[2].counters.inFlight = 0
  answered(2, 10)
  t.ok(chosen() > 150, 'then it is one like the others')
  t.end()
})

t.test('where all are new, requests are spread by weight', t => {
  const available = backendsOf([2, 1, 1])
  const { balancer } = setUp(available)
  for (let i = 0; i < 400; i++) (choose(balancer, available) as Backend).counters.begin()
  t.ok(available.every(({ inFlight, weight }) => Math.abs(inFlight - 100 * weight) <= 3), 'within a few', { found: available.map(({ inFlight }) => inFlight) })
  t.end()
})

t.test('under load a backend of three times the weight carries three times as many', t => {
  for (const scale of [1, 100, 0.01]) {
    const available = backendsOf([3 * scale, scale])
    const { balancer, answered } = setUp(available)
    answered(0, 20)
    answered(1, 20)
    for (let i = 0; i < 4000; i++) (choose(balancer, available) as Backend).counters.begin()
    t.ok(Math.abs(available[0].inFlight / available[1].inFlight - 3) < 0.05, `weights times ${scale}`, { found: available.map(({ inFlight }) => inFlight) })
  }
  t.end()
})

t.test('what was learnt of a backend outlasts a rebuild; one that comes back is new', t => {
  const [a, b, c] = equalBackends(3)
  const { balancer, answered, available } = setUp([a, b, c])
  answered(0, 20)
  answered(1, 30)
  answered(2, 5)
  t.equal(countsOf(balancer, available, 300)[1], 0)
  balancer.rebuild([b, a])
  t.strictSame(countsOf(balancer, [b, a], 40), [0, 40])
  balancer.rebuild([b, a, c])
  t.ok(countsOf(balancer, [b, a, c], 300)[2] > 150)
  c.counters.begin()
  t.equal(countsOf(balancer, [b, a, c], 300)[2], 0, 'as it is new it gets one at a time')
  t.end()
})

t.test('a backend that is ten times slower gets next to nothing', t => {
  const available = equalBackends(10)
  const { balancer, clock } = setUp(available)
  const counts = simulate({ balancer, available, clock, takes: index => index === 0 ? 100 : 10, requests: 5000, concurrency: 20 })
  t.ok(counts[0] < 50, 'less than a tenth of what the others get', { counts })
  t.ok(Math.min(...counts.slice(1)) > 400, 'which share the rest', { counts })
  t.end()
})

t.test('a backend that was slow and is no more comes back by and by', t => {
  const available = equalBackends(3)
  const { balancer, clock } = setUp(available)
  let slow = 500
  const run = (requests: number) => simulate({ balancer, available, clock, takes: index => index === 0 ? slow : 10, requests, concurrency: 6 })
  run(500)
  slow = 10
  const soon = run(500)
  t.ok(soon[0] < 100, 'not at once', { soon })
  run(30_000)
  const later = run(900)
  t.ok(later[0] > 150, 'but then as much as the others', { later })
  t.end()
})
