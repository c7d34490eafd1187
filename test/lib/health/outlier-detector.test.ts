import fc from 'fast-check'
import t from 'tap'
import { Backend } from '../../../lib/backend.ts'
import { OutlierDetector, type OutlierRecord } from '../../../lib/health/index.ts'
import { resolveOptions } from '../../../lib/options.ts'
import { OutlierOptionsSchema, type Circuit, type Culprit, type OutlierOptions, type Outcome } from '../../../types/index.ts'
import { FakeClock } from '../../helpers/clock.ts'
import { makeUpstream } from '../../helpers/upstream.ts'

const outcome = (culprit: Culprit, statusCode: number): Outcome => ({ stage: 'done', culprit, statusCode, error: undefined, headTime: 1, responseTime: 1 })
const OK = outcome('none', 200)
const UNAVAILABLE = outcome('none', 503)
const ERROR = outcome('none', 500)
const NO_ANSWER = outcome('backend', 0)

const INTERVAL = 10_000
const BASE = 30_000

interface Told {
  at: number
  id: string
  what: 'ejected' | 'returned'
  cause: string
  counts?: Record<string, number>
  milliseconds?: number
}

/** A detector, the backends it judges, and what it has told. */
class Rig {
  readonly clock = new FakeClock()
  readonly backends: Backend[] = []
  readonly told: Told[] = []
  readonly detector: OutlierDetector

  constructor (count: number, options: OutlierOptions = {}, started = true) {
    this.detector = new OutlierDetector(resolveOptions<OutlierOptions>(OutlierOptionsSchema, options, 'outlier'), this.clock, {
      list: () => this.backends,
      onEjected: ({ id }, cause, counts, milliseconds) => { this.told.push({ at: this.at, id, what: 'ejected', cause, counts, milliseconds }) },
      onReturned: ({ id }, cause) => { this.told.push({ at: this.at, id, what: 'returned', cause }) }
    })
    for (let i = 0; i < count; i++) this.add(`b${i}`)
    if (started) this.detector.start()
  }

  /** Milliseconds since the test began. */
  get at (): number {
    return this.clock.now() - 1_000
  }

  add (id: string): Backend {
    const backend = new Backend({ id, url: 'http://127.0.0.1:1' }, 0)
    this.backends.push(backend)
    this.detector.add(backend)
    return backend
  }

  record (i: number): OutlierRecord {
    return this.backends[i].outlier as OutlierRecord
  }

  give (i: number, one: Outcome, times = 1): void {
    for (let n = 0; n < times; n++) this.detector.count(this.backends[i], one)
  }

  /** So many requests of which so many fail by answers that are no gateway failures. */
  rate (i: number, requests: number, failures: number): void {
    this.give(i, ERROR, failures)
    this.give(i, OK, requests - failures)
  }

  sweep (): void {
    this.clock.advance(INTERVAL)
  }

  get ejected (): string {
    return this.backends.filter(({ ejected }) => ejected).map(({ id }) => id).join(' ')
  }

  ejections (): (number | undefined)[] {
    return this.told.filter(({ what }) => what === 'ejected').map(({ milliseconds }) => milliseconds)
  }
}

/** Ten backends of which nine serve 100 requests and fail `others` of them, the last `failures` of `requests`. */
function compared (failures: number, { requests = 100, others = 0, hosts = 10, options = {} as OutlierOptions } = {}): string {
  const rig = new Rig(hosts, { failurePercentage: false, ...options })
  for (let i = 0; i < hosts - 1; i++) rig.rate(i, 100, others)
  rig.rate(hosts - 1, requests, failures)
  rig.sweep()
  return rig.ejected
}

t.test('consecutive gateway failures', t => {
  t.test('the fifth in a row ejects, at once', t => {
    const rig = new Rig(3)
    rig.give(1, UNAVAILABLE, 4)
    t.equal(rig.ejected, '')
    rig.give(1, UNAVAILABLE)
    t.equal(rig.ejected, 'b1')
    t.strictSame(rig.told, [{ at: 0, id: 'b1', what: 'ejected', cause: 'failures in a row', counts: { consecutiveFailures: 5 }, milliseconds: BASE }])
    t.equal(rig.record(1).ejectedUntil, rig.clock.wall() + BASE)
    t.end()
  })

  t.test('of all kinds together: no answer, 502, 503, 504', t => {
    const rig = new Rig(2)
    for (const one of [NO_ANSWER, outcome('none', 502), UNAVAILABLE, outcome('none', 504)]) rig.give(0, one)
    t.equal(rig.ejected, '')
    rig.give(0, outcome('backend', 200))
    t.equal(rig.ejected, 'b0', 'and one broken off in the middle')
    t.end()
  })

  t.test('a success between them begins the row anew', t => {
    const rig = new Rig(2)
    for (let i = 0; i < 10; i++) {
      rig.give(0, UNAVAILABLE, 4)
      rig.give(0, OK)
    }
    t.equal(rig.ejected, '')
    t.end()
  })

  t.test('500s in a row eject nobody', t => {
    const rig = new Rig(2)
    rig.give(0, ERROR, 40)
    t.equal(rig.ejected, '')
    rig.give(0, UNAVAILABLE, 4)
    rig.give(0, ERROR)
    rig.give(0, UNAVAILABLE, 4)
    t.equal(rig.ejected, '', 'and one of them ends a row of gateway failures')
    t.end()
  })

  t.test('how many is an option, and 0 looks for none', t => {
    const few = new Rig(2, { consecutiveFailures: 1 })
    few.give(0, NO_ANSWER)
    t.equal(few.ejected, 'b0')
    const none = new Rig(2, { consecutiveFailures: 0 })
    none.give(0, NO_ANSWER, 40)
    t.equal(none.ejected, '')
    t.end()
  })

  t.test('who was not let be ejected is looked at again after as many failures more', t => {
    const rig = new Rig(2)
    rig.give(0, UNAVAILABLE, 5)
    rig.give(1, UNAVAILABLE, 7)
    t.equal(rig.ejected, 'b0')
    rig.clock.advance(BASE)
    rig.give(1, UNAVAILABLE, 2)
    t.equal(rig.ejected, '')
    rig.give(1, UNAVAILABLE)
    t.equal(rig.ejected, 'b1')
    t.match(rig.told.at(-1), { counts: { consecutiveFailures: 10 } })
    t.end()
  })

  t.test('what was under way when a backend was ejected does not eject it again, nor prolongs it', t => {
    const rig = new Rig(2)
    rig.give(0, UNAVAILABLE, 50)
    t.equal(rig.told.length, 1)
    t.match(rig.record(0), { ejections: 1, multiplier: 1 })
    rig.clock.advance(BASE)
    t.equal(rig.ejected, '')
    rig.give(0, UNAVAILABLE, 4)
    t.equal(rig.ejected, '', 'and is forgotten when it returns')
    t.end()
  })
  t.end()
})

t.test('what never was an answer, judged apart', t => {
  t.test('both rows eject by themselves, with their own cause', t => {
    const local = new Rig(2, { splitLocalErrors: true, consecutiveLocalErrors: 3 })
    local.give(0, NO_ANSWER, 2)
    t.equal(local.ejected, '')
    local.give(0, NO_ANSWER)
    t.match(local.told, [{ id: 'b0', what: 'ejected', cause: 'requests in a row without an answer', counts: { consecutiveLocalErrors: 3 } }])
    const answers = new Rig(2, { splitLocalErrors: true, consecutiveLocalErrors: 3 })
    answers.give(0, UNAVAILABLE, 4)
    t.equal(answers.ejected, '')
    answers.give(0, UNAVAILABLE)
    t.match(answers.told, [{ cause: 'failures in a row', counts: { consecutiveFailures: 5 } }])
    t.end()
  })

  t.test('they are not added up', t => {
    const rig = new Rig(2, { splitLocalErrors: true })
    rig.give(0, UNAVAILABLE, 4)
    rig.give(0, NO_ANSWER, 4)
    t.equal(rig.ejected, '')
    rig.give(0, UNAVAILABLE)
    t.equal(rig.ejected, 'b0', 'five bad answers, with nothing else that was an answer between them')
    t.end()
  })

  t.test('0 looks for none, and without the split the option means nothing', t => {
    const none = new Rig(2, { splitLocalErrors: true, consecutiveLocalErrors: 0 })
    none.give(0, NO_ANSWER, 40)
    t.equal(none.ejected, '')
    const together = new Rig(2, { consecutiveLocalErrors: 1 })
    together.give(0, NO_ANSWER, 4)
    t.equal(together.ejected, '')
    together.give(0, NO_ANSWER)
    t.match(together.told, [{ cause: 'failures in a row' }])
    t.end()
  })
  t.end()
})

t.test('rates of success compared', t => {
  t.test('who is more than 1.9 standard deviations below the mean of all is ejected at the sweep', t => {
    const rig = new Rig(10)
    for (let i = 0; i < 9; i++) rig.rate(i, 100, 0)
    rig.rate(9, 100, 30)
    rig.clock.advance(INTERVAL - 1)
    t.equal(rig.ejected, '', 'not before')
    rig.clock.advance(1)
    t.equal(rig.ejected, 'b9')
    const [{ cause, counts }] = rig.told
    t.equal(cause, 'it succeeds less often than the others')
    t.equal(counts?.successRate, 0.7)
    t.equal(counts?.mean.toFixed(6), '0.970000')
    t.equal(counts?.deviation.toFixed(6), '0.090000')
    t.end()
  })

  t.test('by the formula: the mean less 1.9 times the population\'s deviation, and strictly below it', t => {
    fc.assert(fc.property(fc.array(fc.integer({ min: 0, max: 100 }), { minLength: 5, maxLength: 12 }), fc.constantFrom(0.5, 1, 1.5, 1.9), (failures, stdevFactor) => {
      const rig = new Rig(failures.length, { failurePercentage: false, successRate: { stdevFactor }, maxEjectionPercent: 100 })
      failures.forEach((count, i) => rig.rate(i, 100, count))
      rig.sweep()
      // In whole numbers, so that nothing is rounded: n²·(mean − rate)² > f²·n²·variance, all times 100.
      const n = failures.length
      const sum = sumOf(failures)
      const squares = sumOf(failures.map(count => (n * count - sum) ** 2))
      const expected = failures.flatMap((count, i) => {
        const above = n * count - sum
        const left = above ** 2 * n * 100
        const right = (stdevFactor * 10) ** 2 * squares
        return above > 0 && left > right ? [`b${i}`] : []
      })
      return rig.ejected === expected.join(' ')
    }), { numRuns: 500 })
    t.end()
  })

  t.test('five hosts with enough requests there must be, and one with fewer is neither judged nor counted', t => {
    const options = { successRate: { stdevFactor: 1.5 } }
    t.equal(compared(50, { hosts: 5, options }), 'b4')
    t.equal(compared(50, { hosts: 4, options }), '')
    t.equal(compared(50, { hosts: 4, options: { successRate: { stdevFactor: 1.5, minimumHosts: 4 } } }), 'b3')
    t.equal(compared(50, { requests: 100 }), 'b9')
    t.equal(compared(99, { requests: 99 }), '')
    t.equal(compared(99, { requests: 99, options: { successRate: { requestVolume: 99 } } }), 'b9')
    const rig = new Rig(6, { successRate: { stdevFactor: 1.5 }, failurePercentage: false })
    for (let i = 0; i < 3; i++) rig.rate(i, 100, 0)
    rig.rate(3, 100, 50)
    rig.rate(4, 99, 0)
    rig.rate(5, 99, 0)
    rig.sweep()
    t.equal(rig.ejected, '', 'four of six have enough')
    t.end()
  })

  t.test('the factor is an option, and false compares nothing', t => {
    t.equal(compared(30, { options: { successRate: { stdevFactor: 3.1 } } }), '')
    t.equal(compared(30, { options: { successRate: { stdevFactor: 2.9 } } }), 'b9')
    t.equal(compared(100, { options: { successRate: false } }), '')
    t.end()
  })

  t.test('where all fail alike nobody stands out', t => {
    for (let failures = 0; failures <= 84; failures++) {
      for (const stdevFactor of [0, 0.5, 1.9]) t.equal(compared(failures, { others: failures, options: { successRate: { stdevFactor } } }), '', `${failures} of 100, factor ${stdevFactor}`)
    }
    t.end()
  })

  t.test('what the client or the application ended is not told to it; the counts are of one interval', t => {
    const rig = new Rig(10, { failurePercentage: false })
    for (let i = 0; i < 10; i++) rig.rate(i, 60, i === 9 ? 30 : 0)
    rig.sweep()
    t.equal(rig.ejected, '', 'too few')
    for (let i = 0; i < 10; i++) rig.rate(i, 60, i === 9 ? 30 : 0)
    rig.sweep()
    t.equal(rig.ejected, '', 'and those of the last interval are gone')
    t.end()
  })
  t.end()
})

t.test('percentage of failures', t => {
  /** Who is ejected of five backends of which the first has so many failures. */
  function mostly (failures: number, { requests = 100, hosts = 5, others = 0, options = {} as OutlierOptions } = {}): string {
    const rig = new Rig(hosts, { successRate: false, ...options })
    rig.rate(0, requests, failures)
    for (let i = 1; i < hosts; i++) rig.rate(i, 50, others)
    rig.sweep()
    return rig.ejected
  }

  t.test('85 in a hundred eject, 84 do not', t => {
    t.equal(mostly(84), '')
    t.equal(mostly(85), 'b0')
    const rig = new Rig(5, { successRate: false })
    rig.rate(0, 60, 60)
    for (let i = 1; i < 5; i++) rig.rate(i, 50, 0)
    rig.sweep()
    t.match(rig.told, [{ at: INTERVAL, cause: 'it mostly fails', counts: { requests: 60, failures: 60 } }])
    t.end()
  })

  t.test('50 requests and five such hosts there must be', t => {
    t.equal(mostly(49, { requests: 49 }), '')
    t.equal(mostly(50, { requests: 50 }), 'b0')
    t.equal(mostly(100, { hosts: 4 }), '')
    t.equal(mostly(100, { hosts: 4, options: { failurePercentage: { minimumHosts: 4 } } }), 'b0')
    t.end()
  })

  t.test('threshold and volume are options, and false looks for none', t => {
    t.equal(mostly(50, { options: { failurePercentage: { threshold: 50 } } }), 'b0')
    t.equal(mostly(49, { options: { failurePercentage: { threshold: 50 } } }), '')
    t.equal(mostly(9, { requests: 10, options: { failurePercentage: { requestVolume: 10 } } }), 'b0')
    t.equal(mostly(100, { options: { failurePercentage: false } }), '')
    t.end()
  })

  t.test('no more of those that mostly fail go than may', t => {
    t.equal(mostly(100, { others: 50 }), 'b0 b1')
    t.end()
  })

  t.test('by default both are looked at, and who is found by both is ejected once', t => {
    const rig = new Rig(10)
    for (let i = 0; i < 9; i++) rig.rate(i, 100, 0)
    rig.rate(9, 100, 100)
    rig.sweep()
    t.equal(rig.told.length, 1)
    t.match(rig.record(9), { ejections: 1, multiplier: 1 })
    t.end()
  })
  t.end()
})

t.test('time', t => {
  t.test('an ejection lasts 30 s times the ejections lately, at most 300 s', t => {
    const rig = new Rig(2, { interval: 1e9 })
    for (let i = 1; i <= 14; i++) {
      rig.give(0, UNAVAILABLE, 5)
      const time = Math.min(BASE * i, 300_000)
      t.equal(rig.record(0).ejectedUntil, rig.clock.wall() + time)
      rig.clock.advance(time - 1)
      t.equal(rig.ejected, 'b0')
      rig.clock.advance(1)
      t.equal(rig.ejected, '')
    }
    t.strictSame(rig.ejections(), [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300, 300, 300].map(seconds => seconds * 1000))
    t.equal(rig.record(0).ejections, 14)
    t.match(rig.told.at(-1), { what: 'returned', cause: 'its time is over' })
    t.end()
  })

  t.test('each sweep in which a backend is well takes one off', t => {
    const rig = new Rig(2, { baseEjectionTime: 25_001 })
    const eject = () => {
      rig.give(0, UNAVAILABLE, 5)
      rig.clock.advance(rig.record(0).ejectedUntil - rig.clock.wall())
    }
    for (let i = 0; i < 4; i++) eject()
    t.strictSame(rig.ejections(), [25_001, 50_002, 75_003, 100_004])
    t.strictSame([rig.at, rig.record(0).multiplier], [250_010, 4], 'no sweep has found it well')
    const multipliers = Array.from({ length: 6 }, () => {
      rig.sweep()
      return rig.record(0).multiplier
    })
    t.strictSame(multipliers, [3, 2, 1, 0, 0, 0], 'and never goes below 0')
    eject()
    t.equal(rig.ejections().at(-1), 25_001)
    t.equal(rig.record(0).ejections, 5, 'all are remembered')
    t.end()
  })

  t.test('a sweep during the ejection takes nothing off', t => {
    const rig = new Rig(2, { baseEjectionTime: 25_000 })
    rig.give(0, UNAVAILABLE, 5)
    rig.clock.advance(24_999)
    t.equal(rig.record(0).multiplier, 1)
    rig.clock.advance(1)
    rig.give(0, UNAVAILABLE, 5)
    t.strictSame(rig.ejections(), [25_000, 50_000])
    rig.clock.advance(49_999)
    t.equal(rig.record(0).multiplier, 2)
    rig.clock.advance(5_001)
    t.equal(rig.record(0).multiplier, 1, 'returned at 75 s, clean at the sweep of 80 s')
    t.end()
  })

  t.test('maxEjectionTime below baseEjectionTime does not shorten the first', t => {
    const rig = new Rig(2, { baseEjectionTime: 5_000, maxEjectionTime: 1_000, interval: 1e9 })
    for (let i = 0; i < 3; i++) {
      rig.give(0, UNAVAILABLE, 5)
      rig.clock.advance(5_000)
    }
    t.strictSame(rig.ejections(), [5_000, 5_000, 5_000])
    t.end()
  })

  t.test('interval is an option, and sweeps go on', t => {
    const rig = new Rig(5, { interval: 500, successRate: false, failurePercentage: { minimumHosts: 3 } })
    for (let round = 1; round <= 3; round++) {
      rig.rate(round, 50, 50)
      for (let i = 0; i < 5; i++) if (i !== round) rig.rate(i, 50, 0)
      rig.clock.advance(499)
      const before = rig.told.length
      rig.clock.advance(1)
      t.equal(rig.told.length, before + (round < 3 ? 1 : 0), `round ${round}`)
    }
    t.equal(rig.ejected, 'b1 b2', 'two of five at the most')
    t.end()
  })

  t.test('a result that is older than the interval is not judged, also of one whose circuit was open meanwhile', t => {
    const rig = new Rig(5, { successRate: false, consecutiveFailures: 0 })
    rig.give(0, UNAVAILABLE, 60)
    rig.backends[0].circuit = { state: 'open', retryAfter: 1 } as Circuit
    rig.sweep()
    rig.backends[0].circuit = { state: 'closed', retryAfter: 0 } as Circuit
    for (let i = 1; i < 5; i++) rig.rate(i, 50, 0)
    rig.rate(0, 1, 1)
    rig.sweep()
    t.equal(rig.ejected, '')
    t.end()
  })
  t.end()
})

t.test('who may be ejected', t => {
  t.test('one backend alone never', t => {
    const rig = new Rig(1, { maxEjectionPercent: 100, successRate: { minimumHosts: 1 }, failurePercentage: { minimumHosts: 1 } })
    rig.give(0, UNAVAILABLE, 500)
    rig.sweep()
    rig.give(0, NO_ANSWER, 500)
    rig.sweep()
    t.strictSame(rig.told, [])
    t.end()
  })

  t.test('no more than maxEjectionPercent', t => {
    for (const [count, percent, most] of [[2, 50, 1], [3, 50, 1], [4, 50, 2], [5, 50, 2], [10, 50, 5], [10, 10, 1], [10, 9, 0], [10, 0, 0], [3, 34, 1], [3, 33, 0], [3, 100, 2], [10, 100, 9]]) {
      const rig = new Rig(count, { maxEjectionPercent: percent })
      for (let i = 0; i < count; i++) rig.give(i, UNAVAILABLE, 20)
      t.equal(rig.backends.filter(({ ejected }) => ejected).length, most, `${percent} % of ${count}`)
    }
    t.end()
  })

  t.test('never the last one that is left, whatever took out the others', t => {
    const states: [string, (backend: Backend) => void][] = [
      ['inactive', backend => { backend.isActive = false }],
      ['draining', backend => { backend.draining = true }],
      ['without weight', backend => { backend.weight = 0 }],
      ['unhealthy', backend => { backend.healthy = false }],
      ['its circuit open', backend => { backend.circuit = { state: 'open', retryAfter: 1 } as Circuit }]
    ]
    for (const [name, take] of states) {
      const rig = new Rig(3, { maxEjectionPercent: 100 })
      take(rig.backends[0])
      take(rig.backends[1])
      rig.give(2, UNAVAILABLE, 20)
      t.equal(rig.ejected, '', `the others ${name}`)
    }
    t.end()
  })

  t.test('those that are not used count neither for nor against the limit', t => {
    const rig = new Rig(6)
    rig.backends[4].isActive = false
    rig.backends[5].draining = true
    for (let i = 0; i < 4; i++) rig.give(i, UNAVAILABLE, 5)
    t.equal(rig.ejected, 'b0 b1', 'half of four')
    t.end()
  })

  t.test('those whose circuits open once they are ejected still count as ejected', t => {
    const rig = new Rig(4)
    for (let i = 0; i < 4; i++) {
      rig.give(i, UNAVAILABLE, 5)
      // The circuit breaker hears of the same failure next.
      if (i < 2) rig.backends[i].circuit = { state: 'open', retryAfter: 1 } as Circuit
    }
    t.equal(rig.ejected, 'b0 b1')
    t.end()
  })

  t.test('late results of one that is not used do not eject it', t => {
    for (const take of [{ isActive: false }, { draining: true }, { circuit: { state: 'open', retryAfter: 1 } as Circuit }]) {
      const rig = new Rig(4)
      rig.give(0, UNAVAILABLE, 4)
      Object.assign(rig.backends[0], take)
      rig.give(0, UNAVAILABLE, 4)
      t.equal(rig.ejected, '')
    }
    t.end()
  })

  t.test('a backend that goes while it is ejected makes room, and its time comes back to nobody', t => {
    const rig = new Rig(3)
    rig.give(0, UNAVAILABLE, 5)
    rig.give(1, UNAVAILABLE, 5)
    t.equal(rig.ejected, 'b0')
    const [gone] = rig.backends.splice(0, 1)
    rig.detector.remove(gone)
    rig.clock.advance(1_000)
    rig.give(0, UNAVAILABLE, 5)
    t.equal(rig.ejected, 'b1')
    rig.clock.advance(300_000)
    t.strictSame(rig.told.filter(({ what }) => what === 'returned').map(({ id }) => id), ['b1'])
    t.end()
  })

  t.test('whatever results come, never more than allowed are ejected, and never all', t => {
    const step = fc.oneof(
      { weight: 12, arbitrary: fc.record({ backend: fc.nat(11), kind: fc.constantFrom(OK, ERROR, UNAVAILABLE, NO_ANSWER), times: fc.constantFrom(1, 5, 60, 120) }) },
      { weight: 3, arbitrary: fc.record({ pass: fc.constantFrom(100, 1_000, INTERVAL, 30_000, 301_000) }) },
      { weight: 1, arbitrary: fc.record({ bringBack: fc.nat(11) }) },
      { weight: 2, arbitrary: fc.record({ backend: fc.nat(11), circuit: fc.constantFrom('open', 'closed', 'half-open') }) }
    )
    const options = fc.record({
      maxEjectionPercent: fc.constantFrom(0, 10, 33, 34, 50, 75, 100),
      splitLocalErrors: fc.boolean(),
      consecutiveFailures: fc.constantFrom(0, 1, 5),
      successRate: fc.constantFrom({}, { stdevFactor: 0.5, minimumHosts: 1, requestVolume: 1 }),
      failurePercentage: fc.constantFrom({}, { threshold: 0, minimumHosts: 1, requestVolume: 1 })
    })
    let ejections = 0
    fc.assert(fc.property(fc.integer({ min: 1, max: 12 }), options, fc.array(step, { minLength: 20, maxLength: 60, size: 'max' }), (count, options, steps) => {
      const rig = new Rig(count, options)
      for (const step of steps) {
        const before = rig.ejected
        const wasLeft = rig.backends.some(({ available }) => available)
        if ('pass' in step) rig.clock.advance(step.pass)
        else if ('bringBack' in step) rig.detector.bringBack(rig.backends[step.bringBack % count], 'a test')
        else if ('circuit' in step) rig.backends[step.backend % count].circuit = { state: step.circuit, retryAfter: 1 } as Circuit
        else rig.give(step.backend % count, step.kind, step.times)
        const ejected = rig.backends.filter(({ ejected }) => ejected).length
        if (ejected > 0 && ejected / count * 100 > options.maxEjectionPercent) return false
        if (count === 1 && ejected > 0) return false
        // It is for others to take out the last one.
        if (!('circuit' in step) && wasLeft && rig.ejected !== before && !rig.backends.some(({ available }) => available)) return false
      }
      ejections += rig.ejections().length
      rig.detector.stop()
      return rig.clock.timers === 0
    }), { numRuns: 1_000 })
    t.ok(ejections > 2_000, 'and there was something to see', { ejections })
    t.end()
  })
  t.end()
})

t.test('an ejection ended before its time', t => {
  const rig = new Rig(2)
  rig.give(0, UNAVAILABLE, 5)
  rig.clock.advance(1_000)
  rig.detector.bringBack(rig.backends[0], 'a health check has passed')
  t.equal(rig.ejected, '')
  t.strictSame(rig.told.at(-1), { at: 1_000, id: 'b0', what: 'returned', cause: 'a health check has passed' })
  t.equal(rig.clock.timers, 1, 'nobody waits for its end')
  rig.detector.bringBack(rig.backends[0], 'again')
  rig.detector.bringBack(rig.backends[1], 'it never was')
  rig.clock.advance(300_000)
  t.equal(rig.told.length, 2)
  t.end()
})

t.test('a detector that has not begun or has stopped', t => {
  t.test('ejects nobody, and has no timer', t => {
    const rig = new Rig(2, {}, false)
    rig.give(0, UNAVAILABLE, 20)
    t.strictSame([rig.ejected, rig.clock.timers], ['', 0])
    rig.detector.start()
    rig.detector.start()
    t.equal(rig.clock.timers, 1, 'one sweep, however often it is started')
    rig.give(0, UNAVAILABLE, 5)
    t.equal(rig.clock.timers, 2)
    rig.detector.stop()
    t.equal(rig.clock.timers, 0)
    rig.give(1, UNAVAILABLE, 20)
    t.equal(rig.clock.timers, 0, 'late results begin none')
    t.equal(rig.told.length, 1)
    t.end()
  })
  t.end()
})

t.test('in an upstream', t => {
  t.test('outlier detection is on unless it is switched off, with its defaults', t => {
    t.equal(makeUpstream({ outlier: false }).upstream.outlier, null)
    for (const outlier of [undefined, true, {}] as const) {
      const { upstream, clock } = makeUpstream({ outlier, health: false, breaker: false, backends: Array.from({ length: 5 }, (_, i) => `http://127.0.0.1:${i + 1}`) })
      upstream.start()
      const backends = upstream.list()
      for (const backend of backends) for (let i = 0; i < 60; i++) upstream.outlier?.count(backend, backend === backends[0] ? ERROR : OK)
      clock.advance(INTERVAL)
      t.strictSame(upstream.list().filter(({ ejected }) => ejected).map(({ id }) => id), ['127.0.0.1:1'], `outlier: ${JSON.stringify(outlier)}`)
      upstream.stop()
      t.equal(clock.timers, 0)
    }
    t.end()
  })

  t.test('who is ejected is not available, and is told of', t => {
    const { upstream, clock } = makeUpstream({ health: false, breaker: false, panicThreshold: 0, backends: [{ id: 'a', url: 'http://127.0.0.1:1' }, { id: 'b', url: 'http://127.0.0.1:2' }] })
    upstream.start()
    const a = upstream.get('a')
    const since = a.healthSince
    clock.advance(2_000)
    for (let i = 0; i < 5; i++) upstream.outlier?.count(a, UNAVAILABLE)
    t.strictSame(upstream.available.map(({ id }) => id), ['b'])
    t.strictSame([a.available, a.usable, a.obstacles], [false, true, ['ejected']])
    t.match(upstream.healthStatus().a, { isHealthy: false, source: 'outlier', ejections: 1, ejectedUntil: new Date(clock.wall() + BASE), since: new Date(clock.wall()) })
    t.not(a.healthSince, since)
    clock.advance(BASE)
    t.strictSame(upstream.available.map(({ id }) => id), ['a', 'b'])
    t.match(upstream.healthStatus().a, { isHealthy: true, source: 'active', ejections: 1, ejectedUntil: undefined, since: new Date(clock.wall()) })
    upstream.stop()
    t.end()
  })

  t.test('a passing check brings back a backend only if it asks for more than an open port', t => {
    const passed = { passed: true, statusCode: 200, errorMessage: '' }
    const { upstream } = makeUpstream({ health: false, breaker: false, backends: [{ id: 'a', url: 'http://127.0.0.1:1' }, { id: 'b', url: 'http://127.0.0.1:2' }] })
    upstream.start()
    const a = upstream.get('a')
    for (let i = 0; i < 5; i++) upstream.outlier?.count(a, UNAVAILABLE)
    upstream.onHealthChecked(a, { ...passed, passed: false }, false, true)
    upstream.onHealthChecked(a, passed, false, false)
    t.equal(a.ejected, true)
    upstream.onHealthChecked(a, passed, false, true)
    t.equal(a.ejected, false)
    upstream.stop()
    t.end()
  })
  t.end()
})

function sumOf (numbers: number[]): number {
  return numbers.reduce((sum, number) => sum + number, 0)
}
