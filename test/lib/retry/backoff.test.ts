import t from 'tap'
import { backoffDelay } from '../../../lib/retry/index.ts'
import { seeded } from '../../helpers/random.ts'

const OPTIONS = { base: 100, factor: 2, max: 1_000 }

t.test('the bound of a wait grows by the factor with each time, up to the most', async t => {
  const longest = [0, 1, 2, 3, 4, 5, 50].map(times => backoffDelay(OPTIONS, times, () => 1))
  t.strictSame(longest, [100, 200, 400, 800, 1_000, 1_000, 1_000])
  t.strictSame([0, 1, 2].map(times => backoffDelay({ base: 10, factor: 3, max: 50 }, times, () => 1)), [10, 30, 50])
  t.strictSame([0, 1, 2].map(times => backoffDelay({ base: 10, factor: 1, max: 50 }, times, () => 1)), [10, 10, 10])
})

t.test('a wait is drawn from the whole of it, from 0 up to its bound', async t => {
  t.equal(backoffDelay(OPTIONS, 3, () => 0), 0)
  t.equal(backoffDelay(OPTIONS, 3, () => 0.25), 200)
  const random = seeded(1)
  const tenths = Array<number>(10).fill(0)
  for (let i = 0; i < 10_000; i++) {
    const delay = backoffDelay(OPTIONS, 2, random)
    if (delay < 0 || delay >= 400) t.fail(`${delay}`)
    tenths[Math.floor(delay / 40)]++
  }
  t.ok(tenths.every(count => count > 850 && count < 1_150), `evenly: ${tenths}`)
})

t.test('one number of chance is used for each wait', async t => {
  let drawn = 0
  backoffDelay(OPTIONS, 0, () => ++drawn)
  t.equal(drawn, 1)
})

t.test('where the base or the most is 0 there is no wait, however often', async t => {
  for (const options of [{ ...OPTIONS, base: 0 }, { ...OPTIONS, max: 0 }]) {
    for (const times of [0, 1, 10, 10_000]) t.equal(backoffDelay(options, times, () => 0.5), 0, `${times} times`)
  }
})

t.test('a wait stays a number, however often there was one', async t => {
  t.equal(backoffDelay(OPTIONS, 100_000, () => 0.5), 500)
})
