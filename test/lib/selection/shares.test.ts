import fc from 'fast-check'
import t from 'tap'
import { capacityOf, OVERPROVISIONING, sharesOf } from '../../../lib/selection/shares.ts'

/** What levels get, in whole percent, when so much of each is available, in percent too. */
const percents = (...available: number[]) => sharesOf(available.map(part => capacityOf(part, 100))).map(share => Math.round(share * 100))

t.test('a level is trusted with 1.4 times its share', t => {
  t.equal(OVERPROVISIONING, 1.4)
  t.equal(capacityOf(1, 2), 0.7)
  t.equal(capacityOf(0, 3), 0)
  t.equal(capacityOf(3, 3), 1, 'but never with more than there is')
  t.equal(capacityOf(0, 0), 0, 'one that weighs nothing carries nothing')
  t.end()
})

t.test('two levels share as in Envoy\'s table', t => {
  const table = [[100, 100, 0], [72, 100, 0], [71, 99, 1], [50, 70, 30], [25, 35, 65], [0, 0, 100]]
  for (const [available, first, second] of table) t.strictSame(percents(available, 100), [first, second], `${available} %`)
  t.strictSame(percents(25, 25), [50, 50], 'too few in both')
  t.strictSame(percents(0, 25), [0, 100])
  t.strictSame(percents(25, 0), [100, 0])
  t.end()
})

t.test('three levels share as in Envoy\'s table', t => {
  const table = [
    [100, 100, 100, 100, 0, 0],
    [72, 72, 100, 100, 0, 0],
    [71, 71, 100, 99, 1, 0],
    [50, 50, 100, 70, 30, 0],
    [25, 100, 100, 35, 65, 0],
    [25, 25, 100, 35, 35, 30],
    [0, 0, 100, 0, 0, 100]
  ]
  for (const [a, b, c, ...shares] of table) t.strictSame(percents(a, b, c), shares, `${a} %, ${b} %, ${c} %`)
  // Envoy counts in whole percent and gives what is over to the first.
  const scarce = percents(25, 25, 20)
  t.ok([36, 36, 28].every((share, i) => Math.abs(share - scarce[i]) <= 1), 'too few in all', { scarce })
  t.end()
})

t.test('where nothing is left nobody gets anything', t => {
  t.strictSame(sharesOf([]), [])
  t.strictSame(sharesOf([0]), [0])
  t.strictSame(sharesOf([0, 0, 0]), [0, 0, 0])
  t.end()
})

t.test('what is exactly enough is enough, whatever the numbers are', t => {
  const sevenths = Array.from({ length: 300 }, (_, i) => 7 * (i + 1))
  t.strictSame(sevenths.filter(total => capacityOf(total / 7 * 5, total) !== 1), [], '5 of 7, 10 of 14, …')
  t.end()
})

const level = fc.tuple(fc.integer({ min: 0, max: 1000 }), fc.integer({ min: 0, max: 1000 })).map(([a, b]) => capacityOf(Math.min(a, b), Math.max(a, b)))
const levels = fc.array(level, { minLength: 1, maxLength: 8 })

t.test('shares add up to 1 as long as anybody carries anything, and none is below 0', t => {
  fc.assert(fc.property(levels, capacities => {
    const shares = sharesOf(capacities)
    const sum = shares.reduce((sum, share) => sum + share, 0)
    const nothing = capacities.every(capacity => capacity === 0)
    return shares.length === capacities.length && shares.every(share => share >= 0 && share <= 1) && Math.abs(sum - (nothing ? 0 : 1)) < 1e-9
  }))
  t.pass()
  t.end()
})

t.test('a level gets something only when those before it cannot carry all, and never more than it can while together they can', t => {
  fc.assert(fc.property(levels, capacities => {
    const shares = sharesOf(capacities)
    const together = capacities.reduce((sum, capacity) => sum + capacity, 0)
    let before = 0
    return shares.every((share, i) => {
      const fits = together < 1 ? Math.abs(share * together - capacities[i]) < 1e-9 : Math.abs(share - Math.max(0, Math.min(capacities[i], 1 - before))) < 1e-9
      before += capacities[i]
      return fits
    })
  }))
  t.pass()
  t.end()
})

t.test('a level that gets better never gets less, and the others never more', t => {
  fc.assert(fc.property(levels, fc.nat(7), level, (capacities, at, capacity) => {
    const i = at % capacities.length
    const better = capacities.with(i, Math.max(capacity, capacities[i]))
    const [before, after] = [sharesOf(capacities), sharesOf(better)]
    return after.every((share, j) => j === i ? share >= before[j] - 1e-9 : share <= before[j] + 1e-9)
  }))
  t.pass()
  t.end()
})
