import fc from 'fast-check'
import t from 'tap'
import { Backend } from '../../../lib/backend.ts'
import { parseLoadReport, Weigher, type Observed } from '../../../lib/weights/index.ts'
import type { WeigherOptions } from '../../../lib/weights/weigher.ts'
import type { LoadReport, WeightFunction, WeightOptions } from '../../../types/index.ts'
import { FakeClock } from '../../helpers/clock.ts'

const SECOND = 1_000

/** A weigher with its backends, and what it has told. */
class Bench {
  readonly clock = new FakeClock()
  readonly weigher: Weigher
  readonly faults: unknown[] = []
  backends: Backend[] = []
  /** How often it said that weights have changed. */
  told = 0
  onWeights = (): void => { this.told++ }

  constructor ({ weights, slowStart }: { weights?: Partial<WeightOptions> & Pick<WeightOptions, 'from'>, slowStart?: { window: number, aggression?: number } }, weightsOfBackends: number[] = [1, 1]) {
    const options: WeigherOptions = {
      weights: weights === undefined ? false : { interval: SECOND, min: 0.1, max: 10, blackout: 10 * SECOND, expiry: 180 * SECOND, ...weights } as Required<WeightOptions>,
      slowStart: slowStart === undefined ? false : { aggression: 1, ...slowStart }
    }
    this.weigher = new Weigher(options, this.clock, {
      list: () => this.backends,
      onWeights: () => this.onWeights(),
      onWeightFault: error => { this.faults.push(error) }
    })
    weightsOfBackends.forEach(weight => this.list(weight))
    this.weigher.update(this.backends, true)
  }

  list (weight = 1): Backend {
    const backend = new Backend({ id: 'abcdefgh'[this.backends.length], url: 'http://127.0.0.1:1', weight }, 0)
    this.backends.push(backend)
    return backend
  }

  add (weight = 1): Backend {
    const backend = this.list(weight)
    this.update()
    return backend
  }

  update (): void {
    this.weigher.update(this.backends, false)
  }

  start (): this {
    this.weigher.start()
    return this
  }

  get weights (): number[] {
    return this.backends.map(({ effectiveWeight }) => effectiveWeight)
  }

  get factors (): number[] {
    return this.backends.map(({ weightFactor }) => weightFactor)
  }

  observed (i: number): Observed {
    return this.backends[i].observed as Observed
  }

  answer (...times: number[]): void {
    times.forEach((time, i) => this.observed(i).count(false, time))
  }

  report (...reports: string[]): void {
    reports.forEach((text, i) => this.observed(i).report(parseLoadReport(`TEXT ${text}`) as LoadReport, this.clock.now()))
  }

  /** Lets so many seconds go by, in each of which this happens. */
  seconds (count: number, each: () => void = () => {}): void {
    for (let i = 0; i < count; i++) {
      each()
      this.clock.advance(SECOND)
    }
  }
}

const near = (a: number, b: number, by = 1e-9) => Math.abs(a - b) <= by * Math.max(1, Math.abs(b))

// What runs

t.test('with nothing to follow there is no timer and no number', async t => {
  const bench = new Bench({}).start()
  t.equal(bench.clock.timers, 0)
  bench.add(3)
  t.strictSame(bench.weights, [1, 1, 3])
  t.equal(bench.clock.timers, 0)
  t.equal(bench.backends[0].observed, null, 'nothing is observed where nothing follows')
  t.equal(bench.weigher.wantsReports, false)
})

t.test('slow start has a timer only while somebody starts', async t => {
  const bench = new Bench({ slowStart: { window: 10 * SECOND } }).start()
  t.equal(bench.clock.timers, 0)
  bench.add()
  t.equal(bench.clock.timers, 1)
  bench.clock.advance(5 * SECOND)
  t.equal(bench.clock.timers, 1)
  bench.add()
  t.equal(bench.clock.timers, 1, 'one timer for all')
  bench.clock.advance(5 * SECOND)
  t.equal(bench.clock.timers, 1, 'the second one still starts')
  bench.clock.advance(5 * SECOND)
  t.equal(bench.clock.timers, 0)
  t.equal(bench.backends[0].observed, null)
  t.equal(bench.weigher.wantsReports, false)
})

t.test('dynamic weights have one timer from the start to the stop', async t => {
  const bench = new Bench({ weights: { from: 'latency' }, slowStart: { window: 7_300 } })
  t.equal(bench.clock.timers, 0, 'not before the start')
  bench.clock.advance(60 * SECOND)
  t.equal(bench.clock.timers, 0)
  bench.start()
  for (let i = 0; i < 40; i++) {
    t.equal(bench.clock.timers, 1)
    if (i === 3 || i === 20) bench.add()
    if (i === 25) bench.backends[0].healthy = false
    bench.update()
    t.equal(bench.clock.timers, 1)
    bench.clock.advance(333)
  }
  bench.weigher.stop()
  t.equal(bench.clock.timers, 0)
  bench.add()
  bench.update()
  t.equal(bench.clock.timers, 0, 'nothing starts it again')
  bench.weigher.stop()
  t.equal(bench.clock.timers, 0)
})

t.test('stopped by what it calls, it stays stopped', async t => {
  const bench = new Bench({ weights: { from: () => { bench.weigher.stop(); return 2 } } }).start()
  bench.seconds(1)
  t.equal(bench.clock.timers, 0)
  const other = new Bench({ slowStart: { window: SECOND } }).start()
  other.onWeights = () => other.weigher.stop()
  other.add()
  other.clock.advance(SECOND)
  t.equal(other.clock.timers, 0)
})

t.test('only load reports and functions want reports', async t => {
  t.equal(new Bench({ weights: { from: 'latency' } }).weigher.wantsReports, false)
  t.equal(new Bench({ weights: { from: 'load-report' } }).weigher.wantsReports, true)
  t.equal(new Bench({ weights: { from: () => 1 } }).weigher.wantsReports, true)
})

// Slow start

t.test('one that is new begins with a tenth and ends with exactly its weight', async t => {
  for (const [window, aggression] of [[10 * SECOND, 1], [10 * SECOND, 2], [10 * SECOND, 0.5], [77, 1], [3_333.3, 1.7], [60 * SECOND, 1]]) {
    const bench = new Bench({ slowStart: { window, aggression } }, [1, 7]).start()
    const added = bench.add(7)
    t.ok(near(added.effectiveWeight, 0.7))
    let [last, falls] = [added.effectiveWeight, 0]
    while (bench.clock.timers > 0) {
      bench.clock.advance(1)
      if (!(added.effectiveWeight >= last && added.effectiveWeight <= 7)) falls++
      last = added.effectiveWeight
    }
    t.equal(falls, 0)
    t.strictSame(bench.weights, [1, 7, 7])
    t.equal(added.rampFactor, 1)
    t.ok(bench.told > 5, `seen on the way ${bench.told} times`)
  }
})

t.test('on the way its weight is that of the curve, at most a step late', async t => {
  const bench = new Bench({ slowStart: { window: 10 * SECOND, aggression: 2 } }, [1]).start()
  const added = bench.add()
  for (let time = 500; time <= 10 * SECOND; time += 500) {
    bench.clock.advance(500)
    t.ok(near(added.effectiveWeight, Math.max(0.1, Math.sqrt(time / (10 * SECOND)))), `${time}`)
  }
})

t.test('those that an upstream begins with, and those added before the app is ready, have all at once', async t => {
  const bench = new Bench({ slowStart: { window: 10 * SECOND } }, [2, 3])
  bench.add(4)
  bench.clock.advance(5)
  bench.start()
  t.strictSame(bench.weights, [2, 3, 4], 'nobody serves yet whom it could be compared with')
  t.equal(bench.clock.timers, 0)
  t.ok(near(bench.add(1).effectiveWeight, 0.1))
})

for (const [what, away, back] of [
  ['inactive', (backend: Backend) => { backend.isActive = false }, (backend: Backend) => { backend.isActive = true }],
  ['unhealthy', (backend: Backend) => { backend.healthy = false }, (backend: Backend) => { backend.healthy = true }],
  ['ejected', (backend: Backend) => { backend.ejected = true }, (backend: Backend) => { backend.ejected = false }],
  ['without weight', (backend: Backend) => { backend.weight = 0 }, (backend: Backend) => { backend.weight = 1 }]
] as const) {
  t.test(`one that was ${what} starts slowly again`, async t => {
    const bench = new Bench({ slowStart: { window: 10 * SECOND } }).start()
    const [a, b] = bench.backends
    away(a)
    bench.update()
    t.equal(bench.clock.timers, 0)
    bench.clock.advance(60 * SECOND)
    back(a)
    bench.update()
    t.equal(a.effectiveWeight, 0.1)
    t.equal(b.effectiveWeight, 1)
    bench.clock.advance(5 * SECOND)
    t.equal(a.effectiveWeight, 0.5)
    away(a)
    bench.update()
    back(a)
    bench.update()
    t.equal(a.effectiveWeight, 0.1, 'from the beginning')
    bench.clock.advance(10 * SECOND)
    t.equal(a.effectiveWeight, 1)
    t.equal(bench.clock.timers, 0)
  })
}

t.test('one that has never been available begins slowly when it is', async t => {
  const bench = new Bench({ slowStart: { window: 10 * SECOND } }, [1])
  bench.start()
  const late = bench.list()
  late.isActive = false
  bench.update()
  bench.clock.advance(60 * SECOND)
  late.isActive = true
  bench.update()
  t.equal(late.effectiveWeight, 0.1)
})

t.test('other changes do not begin it anew', async t => {
  const bench = new Bench({ slowStart: { window: 10 * SECOND } }).start()
  const added = bench.add()
  bench.clock.advance(5 * SECOND)
  added.weight = 6
  bench.update()
  t.equal(added.effectiveWeight, 3)
  for (let i = 0; i < 100; i++) {
    bench.update()
    bench.clock.advance(50)
  }
  t.equal(added.effectiveWeight, 6)
  t.equal(bench.clock.timers, 0)
})

t.test('a slow start goes by its own steps where weights are looked at seldom', async t => {
  const bench = new Bench({ weights: { from: 'latency', interval: 60 * SECOND }, slowStart: { window: 10 * SECOND } }).start()
  bench.clock.advance(SECOND)
  const added = bench.add()
  t.equal(added.effectiveWeight, 0.1)
  bench.clock.advance(5 * SECOND)
  t.equal(added.effectiveWeight, 0.5)
  bench.clock.advance(5 * SECOND)
  t.equal(added.effectiveWeight, 1)
  t.equal(bench.clock.timers, 1)
  bench.answer(10, 20, 20)
  bench.clock.advance(49 * SECOND)
  t.notSame(bench.factors, [1, 1, 1], 'and those are looked at all the same')
})

t.test('both factors count, and come to exactly the weight when both are 1', async t => {
  let factor = 2
  const bench = new Bench({ weights: { from: () => factor }, slowStart: { window: 10 * SECOND } }, [1, 5]).start()
  const added = bench.add(5)
  bench.clock.advance(5 * SECOND)
  t.ok(near(added.effectiveWeight, 5 * 0.5 * added.weightFactor, 0.006))
  t.ok(added.weightFactor > 1.8 && added.weightFactor < 2)
  factor = 1
  bench.clock.advance(60 * SECOND)
  t.strictSame(bench.weights, [1, 5, 5])
  t.strictSame(bench.factors, [1, 1, 1])
})

// Dynamic weights

t.test('a factor goes three tenths of the way each time, and arrives', async t => {
  const bench = new Bench({ weights: { from: ({ id }) => id === 'a' ? 3 : 0.5 } }).start()
  const expected = [1, 1]
  for (let i = 0; i < 10; i++) {
    bench.seconds(1)
    expected[0] += 0.3 * (3 - expected[0])
    expected[1] += 0.3 * (0.5 - expected[1])
    t.ok(near(bench.factors[0], expected[0]) && near(bench.factors[1], expected[1]), `${bench.factors}`)
    t.strictSame(bench.weights, bench.factors)
  }
  bench.seconds(20)
  t.strictSame(bench.factors, [3, 0.5])
  t.ok(near(bench.weights[0], 3, 0.005) && near(bench.weights[1], 0.5, 0.005))
  const { told } = bench
  bench.seconds(100)
  t.equal(bench.told, told, 'where nothing changes nothing is built')
})

t.test('no step is bigger than three tenths of the way, whatever is asked for, nor beyond the bounds', async () => {
  const wish = fc.oneof(fc.double({ min: 0, max: 30, noNaN: true }), fc.constantFrom(0, Infinity, 1))
  fc.assert(fc.property(fc.array(wish, { minLength: 1, maxLength: 60 }), fc.double({ min: 0.01, max: 1, noNaN: true }), fc.double({ min: 1, max: 20, noNaN: true }), (wishes, min, max) => {
    let wanted = 1
    const bench = new Bench({ weights: { from: () => wanted, min, max } }, [4]).start()
    for (wanted of wishes) {
      const [before] = bench.factors
      bench.seconds(1)
      const [after] = bench.factors
      const target = Math.min(max, Math.max(min, wanted))
      // The last three thousandths may be one step.
      if (Math.abs(after - before) > 0.3 * Math.abs(target - before) + 0.003 * target) throw new Error(`${before} → ${after}, on the way to ${target}`)
      if (!(after >= min - 1e-12 && after <= max + 1e-12)) throw new Error(`${after} is not from ${min} to ${max}`)
      if (!near(bench.weights[0], 4 * after, 0.006)) throw new Error('the effective weight lags behind')
    }
  }), { numRuns: 300 })
})

t.test('bounds hold for every rule', async t => {
  const fast = new Bench({ weights: { from: 'latency', min: 0.5, max: 1.2 } }).start()
  fast.seconds(60, () => fast.answer(1, 1_000))
  t.strictSame(fast.factors, [1.2, 0.5])
  const idle = new Bench({ weights: { from: 'load-report', min: 0.25, max: 1.5 } }).start()
  idle.seconds(60, () => idle.report('cpu_utilization=0.01,rps_fractional=100', 'cpu_utilization=0.9,rps_fractional=1'))
  t.strictSame(idle.factors, [1.5, 0.25])
  const zero = new Bench({ weights: { from: () => 0 } }).start()
  zero.seconds(60)
  t.strictSame(zero.factors, [0.1, 0.1])
})

t.test('latency: twice as fast is twice the weight in the end, times what is set', async t => {
  const bench = new Bench({ weights: { from: 'latency' } }, [1, 3]).start()
  bench.seconds(60, () => bench.answer(50, 100))
  const [a, b] = bench.weights
  t.ok(near(a / b, 2 / 3, 0.011), `${a} ${b}`)
  bench.seconds(60)
  t.strictSame(bench.weights, [a, b], 'without traffic nothing moves')
  bench.seconds(60, () => bench.answer(100, 100))
  t.strictSame(bench.factors.map(factor => near(factor, 1, 0.005)), [true, true])
})

t.test('latency: one alone stays at 1, also when the others go', async t => {
  const bench = new Bench({ weights: { from: 'latency' } }).start()
  bench.seconds(60, () => bench.answer(10, 90))
  t.notSame(bench.factors, [1, 1])
  bench.backends[1].healthy = false
  bench.update()
  bench.seconds(60, () => bench.answer(10))
  t.equal(bench.factors[0], 1)
  t.equal(bench.weights[0], 1)
})

t.test('load report: nothing for ten seconds, then what is reported, and three minutes without a report later nothing', async t => {
  const bench = new Bench({ weights: { from: 'load-report' } }, [1, 1, 1]).start()
  const report = () => bench.report('cpu_utilization=0.2,rps_fractional=100', 'cpu_utilization=0.4,rps_fractional=100')
  bench.seconds(9, report)
  t.strictSame(bench.weights, [1, 1, 1])
  bench.seconds(60, report)
  t.ok(near(bench.factors[0], 4 / 3, 0.003) && near(bench.factors[1], 2 / 3, 0.003))
  t.equal(bench.weights[2], 1, 'the mean for one without a report')
  const settled = bench.weights
  bench.seconds(170)
  t.strictSame(bench.weights, settled)
  bench.seconds(60)
  t.strictSame(bench.weights, [1, 1, 1])
})

t.test('load report: what was reported before or while a backend was away does not count when it is back', async t => {
  const bench = new Bench({ weights: { from: 'load-report' } }).start()
  const report = () => bench.report('cpu_utilization=0.2,rps_fractional=100', 'cpu_utilization=0.4,rps_fractional=100')
  bench.seconds(60, report)
  const [before] = bench.factors
  t.ok(before > 1.3)
  bench.backends[0].ejected = true
  bench.update()
  // Requests under way still report.
  bench.seconds(20, report)
  bench.backends[0].ejected = false
  bench.update()
  bench.seconds(9, report)
  t.ok(bench.factors[0] < 1.05, `${bench.factors[0]}: on the way back to 1`)
  t.ok(near(bench.factors[1], 1, 0.02), 'as the other one, who cannot be compared with anybody')
  bench.seconds(60, report)
  t.ok(near(bench.factors[0], 4 / 3, 0.003), 'and after ten seconds it counts again')
})

t.test('function: a throw or a bad number keeps all weights, is told each time, and is over when it is over', async t => {
  let answer: WeightFunction = ({ id }) => id === 'a' ? 2 : 0.5
  const bench = new Bench({ weights: { from: (...args) => answer(...args) } }).start()
  bench.seconds(30)
  const settled = bench.factors
  t.strictSame(settled, [2, 0.5])
  const boom = new Error('boom')
  for (const bad of [
    () => { throw boom },
    ({ id }: { id: string }) => id === 'a' ? 9 : NaN,
    () => -1,
    () => undefined as unknown as number,
    () => '3' as unknown as number,
    // eslint-disable-next-line no-throw-literal
    () => { throw undefined }
  ]) {
    answer = bad
    bench.faults.length = 0
    bench.seconds(3)
    t.equal(bench.faults.length, 3, 'once each time, not once per backend')
    t.strictSame(bench.factors, settled)
  }
  answer = () => { throw boom }
  bench.seconds(1)
  t.equal(bench.faults.at(-1), boom)
  answer = () => 1
  bench.seconds(60)
  t.strictSame(bench.weights, [1, 1])
  t.equal(bench.clock.timers, 1)
})

t.test('function: one that is async is refused, and what becomes of its promise harms nobody', async t => {
  const bench = new Bench({ weights: { from: (async () => { throw new Error('later') }) as unknown as WeightFunction } }).start()
  bench.seconds(2)
  await new Promise(setImmediate)
  t.equal(bench.faults.length, 2)
  t.match(bench.faults[0], { name: 'TypeError', message: /Promise/ })
  t.strictSame(bench.weights, [1, 1])
})

t.test('function: it is asked about those available, with what was seen since the last time', async t => {
  const asked: string[] = []
  const bench = new Bench({
    weights: {
      from: ({ id }, { requests, failures, latency, load }) => {
        asked.push(`${id} ${requests} ${failures} ${latency} ${load?.cpuUtilization}`)
        return 1
      },
      expiry: 1_500
    }
  }, [1, 1, 1]).start()
  bench.backends[1].healthy = false
  bench.update()
  bench.observed(0).count(true, 3_000)
  bench.observed(0).count(false, 1_000)
  bench.observed(2).report(parseLoadReport('TEXT cpu_utilization=0.5') as LoadReport, bench.clock.now())
  bench.seconds(2)
  t.strictSame(asked, ['a 2 1 2000 undefined', 'c 0 0 0 0.5', 'a 0 0 0 undefined', 'c 0 0 0 undefined'])
})

t.test('function: it may change backends while it is asked', async t => {
  const bench: Bench = new Bench({
    weights: {
      from: backend => {
        if (bench.backends.length < 5) bench.add()
        if (backend.id === 'b') {
          bench.backends[0].isActive = false
          bench.update()
        }
        return 2
      }
    }
  }).start()
  bench.seconds(30)
  t.equal(bench.backends.length, 5)
  t.equal(bench.clock.timers, 1)
  t.strictSame(bench.weights.slice(1).map(weight => near(weight, 2, 0.005)), [true, true, true, true])
  t.strictSame(bench.faults, [])
})

t.test('a backend that is added later is observed and followed', async t => {
  const bench = new Bench({ weights: { from: 'latency' } }).start()
  bench.seconds(5)
  bench.add()
  bench.seconds(60, () => bench.answer(50, 50, 100))
  t.ok(near(bench.weights[0] / bench.weights[2], 2, 0.011))
})

t.test('an upstream without backends is none to fail on', async t => {
  const bench = new Bench({ weights: { from: 'latency' }, slowStart: { window: SECOND } }, []).start()
  bench.seconds(5)
  t.strictSame(bench.faults, [])
  t.equal(bench.told, 0)
  t.equal(bench.clock.timers, 1)
})
