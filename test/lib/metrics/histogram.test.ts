import fc from 'fast-check'
import t from 'tap'
import { BOUNDS, Histogram } from '../../../lib/metrics/index.ts'

/** The true quantile: the value of that rank among those sorted. */
function trueQuantile (values: readonly number[], quantile: number): number {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.max(1, Math.ceil(quantile * sorted.length)) - 1]
}

function filled (values: Iterable<number>): Histogram {
  const histogram = new Histogram()
  for (const value of values) histogram.record(value)
  return histogram
}

const QUANTILES = [0, 0.01, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1]
/** What the buckets allow: a 32nd of the value, and below 32 µs one microsecond. */
const allowed = (value: number) => Math.max(value / 32, 0.001) + 1e-9

/** Durations in milliseconds: ordinary ones, tiny ones, long ones, and those at the edges of buckets. */
const duration = fc.oneof(
  fc.double({ min: 0, max: 1_000, noNaN: true }),
  fc.double({ min: 0, max: 0.1, noNaN: true }),
  fc.double({ min: 0, max: 86_400_000 / 2, noNaN: true }),
  fc.integer({ min: 0, max: 60_000 }),
  fc.integer({ min: 0, max: 35 }).map(power => 2 ** power / 1000),
  fc.integer({ min: 0, max: 35 }).map(power => (2 ** power - 1) / 1000)
)

t.test('while nothing was recorded all is zero', t => {
  const histogram = new Histogram()
  t.equal(histogram.count, 0)
  t.equal(histogram.mean, 0)
  for (const quantile of QUANTILES) t.equal(histogram.quantile(quantile), 0)
  t.end()
})

t.test('every quantile is within a 32nd of that of the sorted values', t => {
  fc.assert(fc.property(fc.array(duration, { minLength: 1, maxLength: 300 }), values => {
    const histogram = filled(values)
    for (const quantile of QUANTILES) {
      const expected = trueQuantile(values, quantile)
      const found = histogram.quantile(quantile)
      if (Math.abs(found - expected) > allowed(expected)) throw new Error(`quantile ${quantile}: ${found} instead of ${expected}`)
    }
  }), { numRuns: 300 })
  t.pass()
  t.end()
})

t.test('count, sum, mean, least and most are exact', t => {
  fc.assert(fc.property(fc.array(duration, { minLength: 1, maxLength: 100 }), values => {
    const histogram = filled(values)
    const sum = values.reduce((sum, value) => sum + value, 0)
    return histogram.count === values.length && histogram.sum === sum && histogram.mean === sum / values.length &&
      histogram.min === Math.min(...values) && histogram.max === Math.max(...values)
  }))
  t.pass()
  t.end()
})

t.test('quantiles never leave the range of what was recorded, and never fall', t => {
  fc.assert(fc.property(fc.array(duration, { minLength: 1, maxLength: 100 }), values => {
    const histogram = filled(values)
    const found = QUANTILES.map(quantile => histogram.quantile(quantile))
    return found.every((value, i) => value >= histogram.min && value <= histogram.max && (i === 0 || value >= found[i - 1]))
  }))
  t.pass()
  t.end()
})

t.test('the order of recording changes nothing', t => {
  fc.assert(fc.property(fc.array(duration, { minLength: 1, maxLength: 60 }).chain(values => fc.tuple(fc.constant(values), fc.shuffledSubarray(values, { minLength: values.length }))), ([values, shuffled]) => {
    const [a, b] = [filled(values), filled(shuffled)]
    return QUANTILES.every(quantile => a.quantile(quantile) === b.quantile(quantile))
  }))
  t.pass()
  t.end()
})

t.test('one value is given back as it is', t => {
  fc.assert(fc.property(duration, value => {
    const histogram = filled([value])
    return QUANTILES.every(quantile => histogram.quantile(quantile) === value)
  }))
  t.pass()
  t.end()
})

t.test('a value is told apart from the next power of two', t => {
  // 999 short ones and one long: a bucket too far would show in the highest quantiles only.
  for (let power = 0; power < 36; power++) {
    const value = 2 ** power / 1000
    const histogram = filled([...Array(999).fill(value), value * 1e6])
    for (const quantile of [0.5, 0.9, 0.99]) {
      t.ok(Math.abs(histogram.quantile(quantile) - value) <= allowed(value), `2^${power} µs`)
    }
  }
  t.end()
})

t.test('many values: 1 to 10 000 ms, each once', t => {
  const histogram = filled(Array.from({ length: 10_000 }, (_, i) => i + 1))
  t.equal(histogram.mean, 5_000.5)
  for (const [quantile, value] of [[0.5, 5_000], [0.9, 9_000], [0.99, 9_900]]) {
    t.ok(Math.abs(histogram.quantile(quantile) - value) <= value / 32, `p${quantile * 100}: ${histogram.quantile(quantile)}`)
  }
  t.end()
})

t.test('what is beyond all buckets counts as the longest', t => {
  const long = 2 ** 40
  const histogram = filled([1, long, long])
  t.equal(histogram.count, 3)
  t.equal(histogram.max, long)
  t.ok(histogram.quantile(0.1) <= 1.04)
  t.ok(histogram.quantile(0.9) > 2 ** 35 / 1000, 'no less than the last bucket')
  t.ok(histogram.quantile(0.9) <= long)
  t.end()
})

t.test('a clock that went wrong breaks nothing', t => {
  const histogram = filled([-5, 1, 2])
  t.equal(histogram.count, 3)
  t.ok(histogram.quantile(0.99) <= 2)
  t.end()
})

t.test('reset forgets everything', t => {
  fc.assert(fc.property(fc.array(duration, { minLength: 1 }), fc.array(duration, { minLength: 1 }), (before, after) => {
    const histogram = filled(before)
    histogram.reset()
    if (histogram.count !== 0 || histogram.mean !== 0 || histogram.max !== 0 || histogram.quantile(0.99) !== 0) return false
    for (const value of after) histogram.record(value)
    const fresh = filled(after)
    return histogram.min === fresh.min && QUANTILES.every(quantile => histogram.quantile(quantile) === fresh.quantile(quantile))
  }))
  t.pass()
  t.end()
})

t.test('its memory does not grow with what it counts', t => {
  const histogram = new Histogram()
  const { gc } = globalThis as { gc?: () => void }
  gc?.()
  const before = process.memoryUsage().arrayBuffers
  for (let i = 0; i < 200_000; i++) histogram.record(i * 1.37)
  t.ok(process.memoryUsage().arrayBuffers - before < 1_000_000)
  t.equal(histogram.count, 200_000)
  t.equal(Object.values(histogram).filter(value => typeof value === 'object').length, 0, 'beside its counts it holds numbers only')
  t.end()
})

t.test('how many were within each bound is exact, bounds themselves included', t => {
  const near = fc.constantFrom(...BOUNDS).chain(bound => fc.constantFrom(bound, bound * (1 - 1e-9), bound * (1 + 1e-9), bound * 0.99, bound * 1.01))
  fc.assert(fc.property(fc.array(fc.oneof(duration, near), { maxLength: 300 }), values => {
    const expected = BOUNDS.map(bound => values.filter(value => value <= bound).length)
    const found = filled(values).cumulative()
    if (found.join() !== expected.join()) throw new Error(`${found.join()} instead of ${expected.join()}`)
  }), { numRuns: 500 })
  t.pass()
  t.end()
})

t.test('what was counted within a bound never becomes less, and each bound holds those before it', t => {
  fc.assert(fc.property(fc.array(fc.array(duration, { maxLength: 20 }), { maxLength: 20 }), rounds => {
    const histogram = new Histogram()
    let before = histogram.cumulative()
    return rounds.every(values => {
      for (const value of values) histogram.record(value)
      const now = histogram.cumulative()
      const holds = now.every((count, i) => count >= before[i] && count >= (now[i - 1] ?? 0) && count <= histogram.count)
      before = now
      return holds
    })
  }))
  t.pass()
  t.end()
})

t.test('bounds grow, and a reset empties them', t => {
  t.strictSame([...BOUNDS].sort((a, b) => a - b), [...BOUNDS])
  const histogram = filled([0.1, 5, 5, 100_000])
  t.strictSame(histogram.cumulative(), [1, 1, 1, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3])
  histogram.reset()
  t.ok(histogram.cumulative().every(count => count === 0))
  t.end()
})
