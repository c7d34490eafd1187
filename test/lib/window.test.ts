import fc from 'fast-check'
import t from 'tap'
import { Window } from '../../lib/window.ts'

const HOUR = 3_600_000

/** One result, or a look, after so much time; `gap` may be an hour back. */
interface Step {
  gap: number
  hit: boolean
  records: boolean
}

const step: fc.Arbitrary<Step> = fc.record({
  gap: fc.oneof(
    { weight: 6, arbitrary: fc.integer({ min: 0, max: 400 }) },
    { weight: 3, arbitrary: fc.double({ min: 0, max: 5_000, noNaN: true }) },
    { weight: 1, arbitrary: fc.integer({ min: 5_000, max: 100_000 }) },
    { weight: 1, arbitrary: fc.constantFrom(HOUR, -HOUR) }
  ),
  hit: fc.boolean(),
  records: fc.boolean()
})

/** Follows the steps beside a plain list of results; returns what does not agree, or nothing. */
function differenceOf (milliseconds: number, start: number, steps: readonly Step[]): string | undefined {
  const window = new Window(milliseconds)
  let known: { at: number, hit: boolean }[] = []
  let now = start
  for (const { gap, hit, records } of steps) {
    now += gap
    if (gap < 0) known = []
    if (records) {
      window.record(hit, now)
      known.push({ at: now, hit })
    }
    const total = window.total(now)
    const hits = window.hits(now)
    // A bucket is a tenth: what is younger than nine of them must count, what is older than all ten must not.
    const certain = known.filter(({ at }) => now - at < 0.9 * milliseconds - 1e-6)
    const possible = known.filter(({ at }) => now - at < milliseconds + 1e-6)
    const told = `at ${now}: ${hits} of ${total}`
    if (total < certain.length || total > possible.length) return `${told}, not ${certain.length} to ${possible.length}`
    const [least, most] = [certain, possible].map(results => results.filter(({ hit }) => hit).length)
    if (hits < least || hits > most || hits > total) return `${told}, not ${least} to ${most} hits`
  }
  return undefined
}

t.test('counts what came in the last so many milliseconds, over idle gaps and steps of an hour either way', t => {
  fc.assert(fc.property(fc.integer({ min: 10, max: 60_000 }), fc.double({ min: 100 * HOUR, max: 1e12, noNaN: true }), fc.array(step, { maxLength: 60 }), (milliseconds, start, steps) => {
    const difference = differenceOf(milliseconds, start, steps)
    if (difference !== undefined) throw new Error(difference)
  }), { numRuns: 3_000 })
  t.pass()
  t.end()
})

t.test('time may begin anywhere, below zero as well', t => {
  fc.assert(fc.property(fc.integer({ min: 10, max: 60_000 }), fc.integer({ min: -10 * HOUR, max: -1 }), fc.array(step, { maxLength: 30 }), (milliseconds, start, steps) => {
    const difference = differenceOf(milliseconds, start, steps)
    if (difference !== undefined) throw new Error(difference)
  }), { numRuns: 500 })
  t.pass()
  t.end()
})

t.test('it is emptied while nothing happens', t => {
  for (const idle of [10_000, 10_001, 25_000, HOUR]) {
    const window = new Window(10_000)
    for (let i = 0; i < 50; i++) window.record(true, 500 + i)
    t.equal(window.total(600), 50)
    t.equal(window.total(600 + idle), 0, `after ${idle} ms`)
    t.equal(window.hits(600 + idle), 0)
  }
  t.end()
})

t.test('results leave it one bucket after the other, not all at once', t => {
  const window = new Window(10_000)
  for (let i = 0; i < 10; i++) window.record(i % 2 === 0, 1_000 * i)
  const left = Array.from({ length: 11 }, (_, i) => [window.total(9_999 + 1_000 * i), window.hits(9_999 + 1_000 * i)])
  t.strictSame(left, [[10, 5], [9, 4], [8, 4], [7, 3], [6, 3], [5, 2], [4, 2], [3, 1], [2, 1], [1, 0], [0, 0]])
  t.end()
})

t.test('a gap of whole rounds of the ring brings nothing old back', t => {
  const window = new Window(10_000)
  for (let round = 0; round < 5; round++) {
    window.record(true, 10_000 * round + 500)
    t.equal(window.total(10_000 * round + 500), 1, `round ${round}`)
  }
  t.end()
})

t.test('a clock that is put back an hour empties it, and it counts on from there', t => {
  const window = new Window(10_000)
  for (let i = 0; i < 20; i++) window.record(true, 2 * HOUR + i)
  t.equal(window.total(HOUR), 0)
  window.record(false, HOUR + 1)
  window.record(true, HOUR + 2)
  t.strictSame([window.total(HOUR + 3), window.hits(HOUR + 3)], [2, 1])
  t.strictSame([window.total(2 * HOUR), window.hits(2 * HOUR)], [0, 0], 'what was counted before the step is not met again')
  t.end()
})

t.test('a clock that is put forward an hour empties it, and back again brings nothing back', t => {
  const window = new Window(10_000)
  window.record(true, 1_000)
  t.equal(window.total(HOUR + 1_000), 0)
  window.record(true, HOUR + 1_000)
  t.equal(window.total(1_000), 0)
  t.equal(window.hits(1_000), 0)
  t.end()
})

t.test('reset() forgets all', t => {
  const window = new Window(1_000)
  for (let i = 0; i < 10; i++) window.record(true, i * 90)
  window.reset()
  t.strictSame([window.total(900), window.hits(900)], [0, 0])
  window.record(true, 901)
  t.strictSame([window.total(901), window.hits(901)], [1, 1])
  t.end()
})
