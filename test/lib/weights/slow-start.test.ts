import fc from 'fast-check'
import t from 'tap'
import { SlowStart } from '../../../lib/weights/slow-start.ts'

t.test('aggression 1 is a straight line from a tenth to all', async t => {
  const slowStart = new SlowStart({ window: 10_000, aggression: 1 })
  t.strictSame([0, 500, 1_000, 2_500, 5_000, 9_000, 10_000].map(time => slowStart.factorAfter(time)), [0.1, 0.1, 0.1, 0.25, 0.5, 0.9, 1])
})

t.test('above 1 it is quick at first', async t => {
  const slowStart = new SlowStart({ window: 10_000, aggression: 2 })
  t.strictSame([0, 100, 400, 2_500, 6_400, 10_000].map(time => slowStart.factorAfter(time)), [0.1, 0.1, 0.2, 0.5, 0.8, 1])
})

t.test('below 1 it is quick at last', async t => {
  const slowStart = new SlowStart({ window: 10_000, aggression: 0.5 })
  for (const [time, factor] of [[0, 0.1], [3_000, 0.1], [4_000, 0.16], [5_000, 0.25], [9_000, 0.81], [10_000, 1]]) {
    t.ok(Math.abs(slowStart.factorAfter(time) - factor) < 1e-12, `${time}: ${slowStart.factorAfter(time)}`)
  }
})

t.test('whoever has always been there has all, and a clock that stands still gives a tenth', async t => {
  const slowStart = new SlowStart({ window: 10_000, aggression: 1 })
  t.equal(slowStart.factorAfter(Infinity), 1)
  t.equal(slowStart.factorAfter(0), 0.1)
  t.equal(slowStart.factorAfter(-5), 0.1)
})

t.test('the curve never falls, begins with a tenth, and is exactly 1 from the end of the window on', async () => {
  const positive = fc.double({ min: 1e-3, max: 1e7, noNaN: true })
  fc.assert(fc.property(positive, fc.double({ min: 0.01, max: 100, noNaN: true }), (window, aggression) => {
    const slowStart = new SlowStart({ window, aggression })
    let last = slowStart.factorAfter(0)
    if (last !== 0.1) throw new Error(`begins with ${last}`)
    for (let i = 1; i <= 50; i++) {
      const factor = slowStart.factorAfter(window * i / 50)
      if (!(factor >= last && factor <= 1)) throw new Error(`${last} → ${factor}`)
      last = factor
    }
    if (slowStart.factorAfter(window) !== 1 || slowStart.factorAfter(window * 2) !== 1) throw new Error('no end')
  }), { numRuns: 500 })
})

t.test('it is looked at twenty times in the window, and at least once a second', async t => {
  t.equal(new SlowStart({ window: 100, aggression: 1 }).step, 5)
  t.equal(new SlowStart({ window: 20_000, aggression: 1 }).step, 1_000)
  t.equal(new SlowStart({ window: 300_000, aggression: 1 }).step, 1_000)
})
