import fc from 'fast-check'
import t from 'tap'
import { Observed } from '../../../lib/weights/index.ts'
import { ruleFrom, type Judged } from '../../../lib/weights/rules.ts'
import type { Backend, LoadReport, WeightOptions, WeightSample } from '../../../types/index.ts'
import { equalBackends } from '../balancer/suite.ts'

const SECOND = 1_000
const MINUTE = 60 * SECOND

type Rule = Partial<WeightOptions> & Pick<WeightOptions, 'from'>

/** Backends that a rule looks at every second. */
class Court {
  readonly judged: Judged[]
  now = 0
  readonly #rule: ReturnType<typeof ruleFrom>
  readonly #expiry: number

  constructor (count: number, options: Rule) {
    const all = { interval: SECOND, min: 0.1, max: 10, blackout: 10 * SECOND, expiry: 3 * MINUTE, ...options }
    this.#rule = ruleFrom(all as Required<WeightOptions>)
    this.#expiry = all.expiry
    this.judged = equalBackends(count).map(backend => ({ backend, observed: new Observed(), sample: {} as WeightSample }))
  }

  observed (i: number): Observed {
    return this.judged[i].observed
  }

  /** Each has answered so many requests in so many milliseconds. */
  answer (times: readonly (number | undefined)[], requests = 1): this {
    times.forEach((time, i) => {
      if (time === undefined) return
      for (let n = 0; n < requests; n++) this.observed(i).count(false, time)
    })
    return this
  }

  report (reports: readonly (Partial<LoadReport> | undefined)[]): this {
    reports.forEach((report, i) => {
      if (report !== undefined) this.observed(i).report({ cpuUtilization: 0, memoryUtilization: 0, applicationUtilization: 0, requestsPerSecond: 0, errorsPerSecond: 0, ...report }, this.now)
    })
    return this
  }

  /** What the rule says after so many milliseconds. */
  after (time = SECOND): (number | undefined)[] {
    this.now += time
    for (const judged of this.judged) judged.sample = judged.observed.take(this.now, this.#expiry)
    return this.#rule(this.judged, this.now)
  }
}

const near = (a: number | undefined, b: number) => a !== undefined && Math.abs(a - b) <= 1e-9 * Math.max(1, Math.abs(b))

// By latency

t.test('latency: a backend twice as fast gets twice as much, and the mean is 1', async t => {
  const [a, b] = new Court(2, { from: 'latency' }).answer([50, 100]).after()
  t.ok(near(a, 4 / 3) && near(b, 2 / 3), `${a} ${b}`)
  const factors = new Court(3, { from: 'latency' }).answer([10, 20, 40], 5).after() as number[]
  t.ok(near(factors[0] / factors[1], 2) && near(factors[1] / factors[2], 2))
  t.ok(near(factors.reduce((sum, factor) => sum + factor, 0), 3))
})

t.test('latency: how many requests a backend had makes no difference', async t => {
  const court = new Court(2, { from: 'latency' })
  for (let i = 0; i < 99; i++) court.observed(0).count(false, 20)
  const [a, b] = court.answer([20, 20]).after()
  t.equal(a, 1)
  t.equal(b, 1)
})

t.test('latency: a new one counts three tenths', async t => {
  const court = new Court(2, { from: 'latency' })
  court.answer([100, 100]).after()
  const [a, b] = court.answer([200, 100]).after() as number[]
  t.ok(near(b / a, 1.3), `${b / a}`)
  const [c, d] = court.answer([200, 100]).after() as number[]
  t.ok(near(d / c, 1.3 + 0.3 * 0.7))
})

t.test('latency: one that fails at once does not look fast', async t => {
  const court = new Court(2, { from: 'latency' })
  court.observed(0).count(true, 1)
  const [failing, slow] = court.answer([undefined, 500]).after() as number[]
  t.ok(near(slow / failing, 2), 'failing counts as a second')
  for (let i = 0; i < 10; i++) {
    court.observed(0).count(true, 0)
    const [failing, slow] = court.answer([undefined, 500]).after() as number[]
    t.ok(slow > failing)
  }
})

t.test('latency: without traffic the last average stays', async t => {
  const court = new Court(2, { from: 'latency' })
  const first = court.answer([50, 100]).after()
  for (let i = 0; i < 10; i++) t.strictSame(court.after(), first)
  const [a, b] = court.answer([undefined, 200]).after() as number[]
  t.ok(near(a / b, 130 / 50), 'also that of one which is the only one without')
})

t.test('latency: one alone, those never seen, and all while only one is known, have 1', async t => {
  t.strictSame(new Court(1, { from: 'latency' }).answer([5]).after(), [1])
  t.strictSame(new Court(3, { from: 'latency' }).after(), [1, 1, 1])
  t.strictSame(new Court(3, { from: 'latency' }).answer([5]).after(), [1, 1, 1])
  const [a, b, c] = new Court(3, { from: 'latency' }).answer([50, 100]).after()
  t.ok(near(a, 4 / 3) && near(b, 2 / 3))
  t.equal(c, 1)
  t.strictSame(new Court(0, { from: 'latency' }).after(), [])
})

t.test('latency: no time at all can be reckoned with', async t => {
  const factors = new Court(3, { from: 'latency' }).answer([0, 0, 100]).after() as number[]
  t.ok(factors.every(Number.isFinite))
  t.equal(factors[0], factors[1])
  t.ok(factors[0] > factors[2])
})

// By load report

/** What the rule makes of two reports once their blackout is over. */
function compare (a: Partial<LoadReport>, b: Partial<LoadReport>): number {
  const court = new Court(2, { from: 'load-report', blackout: 0 })
  const [first, second] = court.report([a, b]).after() as number[]
  return first / second
}

t.test('load report: what is done for what it costs', async t => {
  const rows: [Partial<LoadReport>, Partial<LoadReport>, number, string][] = [
    [{ requestsPerSecond: 100, cpuUtilization: 0.5 }, { requestsPerSecond: 100, cpuUtilization: 0.25 }, 0.5, 'half as loaded, twice as much'],
    [{ requestsPerSecond: 300, cpuUtilization: 0.5 }, { requestsPerSecond: 100, cpuUtilization: 0.5 }, 3, 'three times as much done by the same load'],
    [{ requestsPerSecond: 100, cpuUtilization: 2 }, { requestsPerSecond: 100, cpuUtilization: 0.5 }, 0.25, 'above 1 it is all the same'],
    [{ requestsPerSecond: 100, cpuUtilization: 0.5, errorsPerSecond: 50 }, { requestsPerSecond: 100, cpuUtilization: 0.5 }, 0.5, 'every second one an error costs half a backend'],
    [{ requestsPerSecond: 10, cpuUtilization: 0.1, errorsPerSecond: 1 }, { requestsPerSecond: 10, cpuUtilization: 0.1 }, 0.5, 'every tenth one a tenth'],
    [{ requestsPerSecond: 100, cpuUtilization: 0.9, applicationUtilization: 0.2 }, { requestsPerSecond: 100, cpuUtilization: 0.2 }, 1, 'what bounds the application goes before the CPU'],
    [{ requestsPerSecond: 100, cpuUtilization: 0.4, memoryUtilization: 0.9 }, { requestsPerSecond: 100, cpuUtilization: 0.4 }, 1, 'memory does not count']
  ]
  for (const [a, b, ratio, what] of rows) t.ok(near(compare(a, b), ratio), `${what}: ${compare(a, b)}`)
})

t.test('load report: the mean of those known is 1, and is what the others get', async t => {
  const court = new Court(4, { from: 'load-report', blackout: 0 })
  const factors = court.report([{ requestsPerSecond: 10, cpuUtilization: 0.2 }, { requestsPerSecond: 10, cpuUtilization: 0.1 }, undefined, { memoryUtilization: 0.5 }]).after()
  t.ok(near(factors[0], 2 / 3) && near(factors[1], 4 / 3))
  t.strictSame(factors.slice(2), [1, 1])
})

t.test('load report: of fewer than two nothing follows', async t => {
  t.strictSame(new Court(3, { from: 'load-report', blackout: 0 }).report([{ requestsPerSecond: 10, cpuUtilization: 0.2 }]).after(), [1, 1, 1])
  t.strictSame(new Court(1, { from: 'load-report', blackout: 0 }).report([{ requestsPerSecond: 10, cpuUtilization: 0.2 }]).after(), [1])
  t.strictSame(new Court(2, { from: 'load-report', blackout: 0 }).after(), [1, 1])
})

t.test('load report: it counts after ten seconds of them', async t => {
  const court = new Court(2, { from: 'load-report' })
  const tell = () => court.report([{ requestsPerSecond: 10, cpuUtilization: 0.2 }, { requestsPerSecond: 10, cpuUtilization: 0.1 }])
  tell()
  for (let second = 1; second < 10; second++) {
    t.strictSame(court.after(), [1, 1], `${second} s`)
    tell()
  }
  t.strictSame(court.after(999), [1, 1], '9.999 s')
  const [a, b] = court.after(1)
  t.ok(near(a, 2 / 3) && near(b, 4 / 3), '10 s')
})

t.test('load report: it expires after three minutes, and then the ten seconds begin anew', async t => {
  const court = new Court(2, { from: 'load-report' })
  const tell = () => court.report([{ requestsPerSecond: 10, cpuUtilization: 0.2 }, { requestsPerSecond: 10, cpuUtilization: 0.1 }])
  tell()
  const settled = court.after(3 * MINUTE - 1)
  t.ok(near(settled[0], 2 / 3))
  t.strictSame(court.after(2), [1, 1])
  tell()
  t.strictSame(court.after(10 * SECOND - 1), [1, 1])
  t.strictSame(court.after(1), settled)
})

t.test('load report: whoever is forgotten has to report for ten seconds again', async t => {
  const court = new Court(3, { from: 'load-report' })
  const tell = () => court.report([{ requestsPerSecond: 10, cpuUtilization: 0.2 }, { requestsPerSecond: 10, cpuUtilization: 0.1 }, { requestsPerSecond: 10, cpuUtilization: 0.05 }])
  tell()
  t.notSame(court.after(10 * SECOND), [1, 1, 1])
  court.observed(0).forget()
  const [a, b, c] = court.after() as number[]
  t.equal(a, 1)
  t.ok(near(c / b, 2), 'the others go on')
  tell()
  t.equal(court.after(9 * SECOND)[0], 1)
  t.ok(near(court.after(SECOND)[0], 10 / 0.2 / ((10 / 0.2 + 10 / 0.1 + 10 / 0.05) / 3)))
})

t.test('load report: one that does not tell its requests is taken at those it got from here', async t => {
  const court = new Court(2, { from: 'load-report', blackout: 0 })
  const [a, b] = court.answer([1], 30).answer([undefined, 1], 10).report([{ cpuUtilization: 0.5 }, { cpuUtilization: 0.5 }]).after() as number[]
  t.ok(near(a / b, 3))
  const mixed = new Court(2, { from: 'load-report', blackout: 0, interval: 500 })
  const [told, seen] = mixed.answer([1, 1], 10).report([{ cpuUtilization: 0.5, requestsPerSecond: 40 }, { cpuUtilization: 0.5 }]).after(500) as number[]
  t.ok(near(told / seen, 2), 'ten in half a second are twenty in one')
})

t.test('load report: one that tells its utilization alone keeps what it was worth while nobody asks', async t => {
  const court = new Court(2, { from: 'load-report', blackout: 0 })
  const worth = court.answer([1, 1], 10).report([{ cpuUtilization: 0.2 }, { cpuUtilization: 0.1 }]).after()
  t.ok(near(worth[1] as number / (worth[0] as number), 2))
  t.strictSame(court.after(), worth, 'a second without requests says nothing')
  t.strictSame(court.answer([1]).report([{ eps: 0 } as Partial<LoadReport>]).after(), worth, 'nor does a report without utilization')
  t.strictSame(court.after(3 * MINUTE), [1, 1], 'until it expires')
})

t.test('load report: numbers beyond all measure harm nobody', async () => {
  const amount = fc.oneof(fc.constantFrom(0, Number.MIN_VALUE, 1e-300, 1, 1e300, Number.MAX_VALUE), fc.double({ min: 0, noNaN: true, noDefaultInfinity: true }))
  const report = fc.record({ cpuUtilization: amount, memoryUtilization: amount, applicationUtilization: amount, requestsPerSecond: amount, errorsPerSecond: amount })
  fc.assert(fc.property(fc.array(fc.option(report, { nil: undefined }), { maxLength: 5 }), reports => {
    const factors = new Court(reports.length, { from: 'load-report', blackout: 0 }).report(reports).after()
    if (!factors.every(factor => factor !== undefined && factor >= 0 && factor < Infinity)) throw new Error(factors.join())
  }), { numRuns: 2_000 })
})

t.test('latency: who is forgotten begins anew, the others go on', async t => {
  const court = new Court(2, { from: 'latency' }).answer([50, 100])
  t.not(court.after()[0], 1)
  court.observed(0).forget()
  t.strictSame(court.after(), [1, 1], 'there is nothing to compare')
  const [a, b] = court.answer([100, undefined]).after()
  t.ok(near(a, 1) && near(b, 1), `${a} ${b}`)
})

// By function

t.test('function: it gets the backend and what was seen, and its word holds', async t => {
  const calls: [Backend, WeightSample][] = []
  const court = new Court(2, {
    from: (backend, sample) => {
      calls.push([backend, sample])
      return backend.id === 'b0' ? 0.5 : 7
    }
  })
  court.observed(1).count(true, 1)
  t.strictSame(court.answer([10, 20]).report([undefined, { cpuUtilization: 0.5 }]).after(), [0.5, 7], 'not compared with each other')
  t.strictSame(calls.map(([{ id }, { requests, failures, latency }]) => [id, requests, failures, latency]), [['b0', 1, 0, 10], ['b1', 2, 1, 510]])
  t.strictSame(calls.map(([, { load }]) => load?.cpuUtilization), [undefined, 0.5], 'a report counts from the first')
  t.strictSame(court.after(), [0.5, 7])
})

t.test('function: 0 and more is good, also for one alone', async t => {
  for (const factor of [0, 0.001, 1, 1e6, Infinity]) t.strictSame(new Court(1, { from: () => factor }).after(), [factor])
})

t.test('function: what is no number of at least 0 is refused, saying so', async t => {
  for (const bad of [NaN, -1, -Infinity, undefined, null, '1', true, {}, [], 1n, Promise.resolve(1), Symbol('x')]) {
    t.throws(() => new Court(1, { from: () => bad as number }).after(), { name: 'TypeError', message: `weights.from returned ${String(bad)} instead of a number of at least 0` })
  }
  t.throws(() => new Court(1, { from: () => Object.create(null) }).after(), TypeError)
})
