import fc from 'fast-check'
import t from 'tap'
import { Gradient } from '../../../lib/admission/gradient.ts'
import type { AdaptiveOptions } from '../../../types/index.ts'
import { Overload, percentile, Timeline, Worker } from './simulation.ts'

const DEFAULTS: Required<AdaptiveOptions> = { initial: 20, min: 4, max: 1_000, tolerance: 1.5, smoothing: 0.2, queueSize: 4 }

/** A limit and the time it lives in. */
class Probe {
  now = 0
  readonly gradient: Gradient

  constructor (options: AdaptiveOptions = {}) {
    this.gradient = new Gradient({ ...DEFAULTS, ...options }, 0)
  }

  get limit (): number {
    return this.gradient.limit
  }

  /** So many steps in which answers take so long. @param inFlight of the limit as it is then, at the most */
  steps (count: number, time: number, inFlight: (limit: number) => number = Math.floor): this {
    for (let i = 0; i < count; i++) {
      const waiting = inFlight(this.limit)
      for (let j = 0; j < 10; j++) {
        this.now += Math.max(100, 2 * time) / 10
        this.gradient.sample(time, waiting, this.now)
      }
    }
    return this
  }
}

t.test('a limit begins as it was told to, and grows while answers take as long as usual and all of it is used', async t => {
  const probe = new Probe()
  t.equal(probe.limit, 20)
  let before = probe.limit
  for (let i = 0; i < 5; i++) {
    probe.steps(1, 40)
    t.ok(probe.limit > before, `${before} to ${probe.limit}`)
    before = probe.limit
  }
})

t.test('it does not grow while less than half of it is used', async t => {
  const probe = new Probe().steps(50, 40, limit => Math.ceil(limit / 2) - 1)
  t.equal(probe.limit, 20)
  t.ok(probe.steps(1, 40, limit => Math.ceil(limit / 2)).limit > 20, 'but with half of it')
})

t.test('it shrinks when answers take longer than is tolerated, and recovers when they do no more', async t => {
  const probe = new Probe({ initial: 100 }).steps(5, 40, limit => limit * 0.75)
  const high = probe.limit
  probe.steps(3, 59, limit => limit * 0.75)
  t.ok(probe.limit > high, 'it is tolerated up to 1.5 times as long')
  probe.steps(10, 400, limit => limit * 0.75)
  t.ok(probe.limit < high * 0.7, `${high} to ${probe.limit}`)
  const low = probe.limit
  probe.steps(30, 40, limit => limit * 0.75)
  t.ok(probe.limit > Math.min(high, low * 1.5), `${low} to ${probe.limit}`)
})

t.test('one step takes at most half away, of the part that smoothing leaves', async t => {
  const probe = new Probe({ initial: 100 }).steps(12, 1, limit => limit * 0.75)
  const { limit } = probe
  probe.steps(1, 400, limit => limit * 0.75)
  t.ok(Math.abs(probe.limit - (limit * 0.9 + 0.8)) < 1e-9, `${probe.limit}`)
})

t.test('an answer that says that it was too much lowers the limit once in a step, however many they are', async t => {
  const gradient = new Gradient({ ...DEFAULTS, initial: 100 }, 0)
  for (let i = 0; i < 50; i++) gradient.drop(100, 50)
  t.equal(gradient.limit, 100, 'not before the step is over')
  gradient.drop(100, 1_000)
  t.equal(gradient.limit, 90)
  for (let now = 2_000; now < 100_000; now += 1_000) gradient.drop(100, now)
  t.equal(gradient.limit, 4, 'and never below the least')
})

t.test('no step is taken in less than 100 ms, nor before ten answers or a second, nor before two answers could have come one after the other', async t => {
  const gradient = new Gradient(DEFAULTS, 0)
  for (let i = 0; i < 100; i++) gradient.sample(10, 20, 99)
  t.equal(gradient.limit, 20)
  gradient.sample(10, 20, 100)
  const first = gradient.limit
  t.not(first, 20)
  for (let i = 0; i < 9; i++) gradient.sample(10, 20, 900)
  t.equal(gradient.limit, first, 'nine answers')
  gradient.sample(10, 20, 901)
  const second = gradient.limit
  t.not(second, first)
  for (let i = 0; i < 50; i++) gradient.sample(300, 20, 901 + 599)
  t.equal(gradient.limit, second, 'of 300 ms each')
  gradient.sample(300, 20, 901 + 600)
  const third = gradient.limit
  t.not(third, second)
  gradient.sample(300, 20, 1_501 + 1_000)
  t.not(gradient.limit, third, 'a second is enough for any')
})

t.test('whatever comes, the limit stays a number within its bounds', async t => {
  const event = fc.record({ time: fc.double({ min: 0, max: 1e6, noNaN: true }), inFlight: fc.integer({ min: 1, max: 2_000 }), gap: fc.integer({ min: 0, max: 3_000 }), drop: fc.boolean() })
  fc.assert(fc.property(fc.integer({ min: 1, max: 50 }), fc.integer({ min: 0, max: 100 }), fc.array(event, { maxLength: 300 }), (min, more, events) => {
    const gradient = new Gradient({ ...DEFAULTS, initial: min, min, max: min + more }, 0)
    let now = 0
    for (const { time, inFlight, gap, drop } of events) {
      now += gap
      if (drop) gradient.drop(inFlight, now)
      else gradient.sample(time, inFlight, now)
      if (!(gradient.limit >= min && gradient.limit <= min + more)) return false
    }
    return true
  }), { numRuns: 500 })
  t.pass()
})

t.test('answers that take no time at all leave the limit a number', async t => {
  t.ok(new Probe().steps(3, 0).limit > 20)
})

t.test('before a backend of 8 slots it comes to between 8 and 20, wherever it begins, and loses nothing', async t => {
  for (const initial of [4, 20, 60]) {
    const time = new Timeline()
    const overload = new Overload(time, { worker: new Worker(time, 8, 40), limits: { adaptive: { initial }, queue: false } })
    overload.load(600)
    await overload.pass(100_000)
    const low: number[] = []
    for (let i = 0; i < 20; i++) {
      const { good } = await overload.pass(1_000)
      t.ok(good >= 180, `${good} answers in a second, from ${initial}`)
      low.push(overload.limit)
    }
    const usual = percentile(low, 0.5)
    t.ok(usual >= 8 && usual <= 20, `${usual} from ${initial}`)
  }
})

t.test('under an overload that lasts a quarter of an hour it does not creep up', async t => {
  const time = new Timeline()
  const overload = new Overload(time, { worker: new Worker(time, 8, 40), limits: { adaptive: true, queue: false } })
  overload.load(300)
  await overload.pass(60_000)
  let most = 0
  for (let i = 0; i < 84; i++) {
    await overload.pass(10_000)
    most = Math.max(most, overload.limit)
  }
  t.ok(most <= 20, `${most}`)
})

t.test('a backend that becomes slower or smaller for good is followed, and followed back', async t => {
  const time = new Timeline()
  const worker = new Worker(time, 16, 40)
  const overload = new Overload(time, { worker, limits: { adaptive: true, queue: false } })
  overload.load(800)
  await overload.pass(60_000)
  const usual = overload.limit
  t.ok(usual >= 16 && usual <= 40, `${usual} for 16 slots`)
  worker.slots = 4
  await overload.pass(120_000)
  t.ok(overload.limit <= 16 && overload.limit < 0.75 * usual, `${overload.limit} for 4, ${usual} for 16`)
  worker.slots = 16
  worker.takes = 80
  await overload.pass(120_000)
  const { good } = await overload.pass(10_000)
  t.ok(good >= 0.9 * 10 * worker.capacity, `${good} answers of ${10 * worker.capacity}, with ${overload.limit}`)
})

t.test('a backend that takes its time whatever the limit gets all there is', async t => {
  const time = new Timeline()
  const overload = new Overload(time, { worker: new Worker(time, Infinity, 200), limits: { adaptive: true, queue: false } })
  overload.load(500)
  await overload.pass(200_000)
  const { good, sent } = await overload.pass(30_000)
  t.ok(overload.limit > 100, `${overload.limit}`)
  t.ok(good > 0.97 * sent, `${good} of ${sent}`)
})

t.test('a trial leaves the limit as it was where answers come no sooner, and later trials come less often', async t => {
  const probe = new Probe({ max: 40, initial: 40 })
  const trials: number[] = []
  for (let step = 0, before = 40; step < 60; step++) {
    const { limit } = probe.steps(1, 100)
    if (limit < before) trials.push(step)
    before = limit
  }
  t.equal(trials.length, 2)
  t.ok(trials[0] < 10 && trials[1] - trials[0] >= 30, trials.join())
  t.equal(probe.limit, 40)
})

t.test('answers that say it was too much lower the limit during a trial too, and that which is gone back to', async t => {
  const probe = new Probe({ max: 40, initial: 40 })
  while (probe.limit === 40) probe.steps(1, 100)
  t.equal(probe.limit, 20)
  probe.gradient.drop(20, probe.now)
  probe.steps(1, 100)
  t.equal(probe.limit, 18)
  probe.steps(1, 100)
  t.equal(probe.limit, 36)
})
