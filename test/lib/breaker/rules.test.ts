import fc from 'fast-check'
import t from 'tap'
import { createRule } from '../../../lib/breaker/rules.ts'
import type { TripRule } from '../../../types/index.ts'

const HOUR = 3_600_000

/** Failures as `x`, successes as `.`, one each millisecond; returns after which of them the rule tripped. */
function trips (rule: TripRule, results: string, start = 0, responseTime = 0): number[] {
  return [...results].flatMap((result, i) => rule.record(result === 'x', responseTime, start + i) ? [i + 1] : [])
}

const consecutive = (threshold: number) => createRule({ type: 'consecutive', threshold })
const failureRate = (threshold: number, minimumRequests: number, window = 10_000) => createRule({ type: 'failure-rate', threshold, window, minimumRequests })
const slowRate = (slowThreshold: number, threshold: number, minimumRequests: number, window = 10_000) => createRule({ type: 'slow-rate', slowThreshold, threshold, window, minimumRequests })

// consecutive

t.test('consecutive: so many failures in a row trip, and a success begins anew', t => {
  t.strictSame(trips(consecutive(5), 'xxxxx'), [5])
  t.strictSame(trips(consecutive(5), 'xxxx.xxxx.xxxxx'), [15])
  t.strictSame(trips(consecutive(1), '..x'), [3])
  t.strictSame(trips(consecutive(3), 'xx.xx.xx.'), [])
  t.end()
})

t.test('consecutive: trips exactly where the last so many are failures', t => {
  fc.assert(fc.property(fc.integer({ min: 1, max: 8 }), fc.array(fc.boolean(), { maxLength: 100 }), (threshold, failures) => {
    const rule = consecutive(threshold)
    failures.forEach((failed, i) => {
      const tripped = rule.record(failed, 0, i)
      const last = failures.slice(Math.max(0, i + 1 - threshold), i + 1)
      if (tripped !== (last.length === threshold && last.every(Boolean))) throw new Error(`at ${i}`)
    })
  }))
  t.pass()
  t.end()
})

t.test('consecutive: time does not matter', t => {
  const rule = consecutive(3)
  t.equal(rule.record(true, 0, 2 * HOUR), false)
  t.equal(rule.record(true, 0, HOUR), false)
  t.equal(rule.record(true, 0, 100 * HOUR), true)
  t.end()
})

t.test('consecutive: reset() forgets, counts() tells', t => {
  const rule = consecutive(3)
  trips(rule, 'xx')
  t.strictSame(rule.counts?.(0), { consecutiveFailures: 2 })
  rule.reset()
  t.strictSame(rule.counts?.(0), { consecutiveFailures: 0 })
  t.strictSame(trips(rule, 'xx'), [])
  t.end()
})

// failure-rate

t.test('failure-rate: trips when the part is reached and not before there are enough results', t => {
  t.strictSame(trips(failureRate(0.5, 10), 'xxxxxxxxx'), [], 'nine of ten that there must be')
  t.strictSame(trips(failureRate(0.5, 10), 'xxxxxxxxxx'), [10])
  t.strictSame(trips(failureRate(0.5, 10), '.....xxxxx'), [10], 'exactly half')
  t.strictSame(trips(failureRate(0.5, 10), '......xxxx'), [])
  t.strictSame(trips(failureRate(0.5, 10), '......xxxxxx'), [12])
  t.strictSame(trips(failureRate(1, 4), 'xxx.xxxx'), [], 'all of them')
  t.strictSame(trips(failureRate(1, 4), 'xxxx'), [4])
  t.end()
})

t.test('failure-rate: a result that is well never trips', t => {
  t.strictSame(trips(failureRate(0.5, 10), 'xxxxxxxxx.'), [], 'though it is the tenth, and nine in ten have failed')
  t.strictSame(trips(failureRate(0.5, 10), 'xxxxxxxxx.x'), [11])
  t.end()
})

t.test('failure-rate: a part that is reached exactly trips, whichever it is', t => {
  const missed: string[] = []
  for (let percent = 1; percent <= 100; percent++) {
    const [just, less] = [failureRate(percent / 100, 100), failureRate(percent / 100, 100)]
    if (trips(just, '.'.repeat(100 - percent) + 'x'.repeat(percent)).length !== 1) missed.push(`${percent} %`)
    if (trips(less, '.'.repeat(101 - percent) + 'x'.repeat(percent - 1)).length !== 0) missed.push(`${percent} % too soon`)
  }
  t.strictSame(missed, [])
  t.end()
})

t.test('failure-rate: what is older than the window no longer counts, not even after a silence', t => {
  const rule = failureRate(0.5, 10, 1_000)
  t.strictSame(trips(rule, 'xxxxxxxxx'), [])
  t.strictSame(trips(rule, 'xxxxxxxxx', 1_100), [], 'nine old ones and nine new ones are nine')
  t.strictSame(trips(rule, 'x', 1_200), [1])
  t.equal(rule.record(true, 0, HOUR), false)
  t.strictSame(rule.counts?.(HOUR), { requests: 1, failures: 1 })
  t.end()
})

t.test('failure-rate: a clock that steps an hour forward or back trips nothing and comes to count again', t => {
  for (const step of [HOUR, -HOUR]) {
    const rule = failureRate(0.5, 10)
    t.strictSame(trips(rule, 'xxxxxxxxx', 2 * HOUR), [])
    t.strictSame(trips(rule, 'xxxxxxxxx', 2 * HOUR + step), [])
    t.strictSame(trips(rule, 'x', 2 * HOUR + step + 10), [1])
  }
  t.end()
})

t.test('failure-rate: reset() forgets', t => {
  const rule = failureRate(0.5, 5)
  trips(rule, 'xxxx')
  rule.reset()
  t.strictSame(trips(rule, 'xxxx', 10), [])
  t.strictSame(rule.counts?.(20), { requests: 4, failures: 4 })
  t.end()
})

t.test('failure-rate: agrees with a plain list of all results', t => {
  const result = fc.record({ failed: fc.boolean(), buckets: fc.oneof({ weight: 5, arbitrary: fc.constant(0) }, fc.integer({ min: 0, max: 4 }), fc.constant(36_000)) })
  fc.assert(fc.property(fc.integer({ min: 1, max: 10 }), fc.integer({ min: 1, max: 12 }), fc.array(result, { maxLength: 80 }), (tenths, minimum, results) => {
    const rule = failureRate(tenths / 10, minimum, 1_000)
    const list: { failed: boolean, at: number }[] = []
    let at = 0
    for (const { failed, buckets } of results) {
      at += buckets * 100
      list.push({ failed, at })
      const counted = list.filter(one => one.at > at - 1_000)
      const failures = counted.filter(one => one.failed).length
      const expected = failed && counted.length >= minimum && failures * 10 >= counted.length * tenths
      if (rule.record(failed, 0, at) !== expected) throw new Error(`${failures} of ${counted.length}: should ${expected ? '' : 'not '}have tripped`)
    }
  }), { numRuns: 1_000 })
  t.pass()
  t.end()
})

// slow-rate

t.test('slow-rate: trips when too many take longer than slowThreshold, however they end', t => {
  const slow = (failures: string, responseTime: number) => trips(slowRate(100, 0.8, 5), failures, 0, responseTime)
  t.strictSame(slow('.....', 101), [5])
  t.strictSame(slow('xxxxx', 101), [5])
  t.strictSame(slow('.....', 100), [], 'just as long as that is not slow')
  t.strictSame(slow('xxxxxxxxxx', 1), [], 'a failure that is quick is not slow')
  t.end()
})

t.test('slow-rate: a part of them, once there are enough', t => {
  const rule = slowRate(100, 0.8, 10)
  const times = [500, 500, 5, 500, 500, 500, 5, 500, 500, 500]
  t.strictSame(times.map((time, i) => rule.record(false, time, i)), [false, false, false, false, false, false, false, false, false, true])
  t.strictSame(rule.counts?.(10), { requests: 10, slow: 8 })
  rule.reset()
  t.strictSame(rule.counts?.(10), { requests: 0, slow: 0 })
  t.end()
})

// A user's own

t.test('a function makes a rule, which is used as it is', t => {
  const mine: TripRule = { record: () => true, reset: () => {} }
  t.equal(createRule(() => mine), mine)
  t.end()
})

t.test('a function that makes no rule is told so', t => {
  for (const made of [undefined, null, 5, {}, { record () {} }, { reset () {} }, () => {}]) {
    t.throws(() => createRule((() => made) as never), { message: /record\(\) and reset\(\)/ })
  }
  t.throws(() => createRule(() => { throw new Error('mine') }), { message: 'mine' })
  t.end()
})
