import t from 'tap'
import { LatencyWindow } from '../../../lib/retry/latency-window.ts'
import { FakeClock } from '../../helpers/clock.ts'
import { seeded } from '../../helpers/random.ts'

/** Records so many times the same. */
function record (window: LatencyWindow, count: number, milliseconds: number): void {
  for (let i = 0; i < count; i++) window.record(milliseconds)
}

/** Whether a value is as near as the buckets allow. */
const near = (value: number | undefined, expected: number) => value !== undefined && Math.abs(value - expected) <= expected / 32

t.test('a percentile is known from twenty times on', async t => {
  const window = new LatencyWindow(new FakeClock())
  t.equal(window.quantile(0.95), undefined)
  record(window, 19, 10)
  t.equal(window.quantile(0.95), undefined)
  record(window, 1, 10)
  t.ok(near(window.quantile(0.95), 10))
})

t.test('it is that of all times, to within 1/32', async t => {
  const random = seeded(3)
  const window = new LatencyWindow(new FakeClock())
  const times = Array.from({ length: 2_000 }, () => -40 * Math.log(1 - random()))
  for (const time of times) window.record(time)
  times.sort((a, b) => a - b)
  for (const part of [0.01, 0.5, 0.9, 0.95, 0.99, 0.999]) {
    const expected = times[Math.ceil(part * times.length) - 1]
    const found = window.quantile(part) as number
    t.ok(Math.abs(found - expected) <= expected / 32 + 0.001, `${part}: ${found} for ${expected}`)
  }
})

t.test('times count for at least ten seconds and at most twenty', async t => {
  const clock = new FakeClock()
  const window = new LatencyWindow(clock)
  record(window, 20, 10)
  clock.advance(9_999)
  t.ok(near(window.quantile(0.5), 10))
  clock.advance(1)
  t.ok(near(window.quantile(0.5), 10), 'of the past, and still counted')
  record(window, 30, 50)
  t.ok(near(window.quantile(0.3), 10))
  t.ok(near(window.quantile(0.5), 50), 'together with those of the present')
  clock.advance(10_000)
  t.ok(near(window.quantile(0.01), 50), 'and then forgotten')
  clock.advance(10_000)
  t.equal(window.quantile(0.5), undefined)
})

t.test('the past and the present are enough together', async t => {
  const clock = new FakeClock()
  const window = new LatencyWindow(clock)
  record(window, 12, 10)
  clock.advance(10_000)
  record(window, 7, 10)
  t.equal(window.quantile(0.5), undefined)
  record(window, 1, 10)
  t.ok(near(window.quantile(0.5), 10))
})

t.test('what comes after a long pause does not count together with what was before it', async t => {
  for (const pause of [20_000, 25_000, 86_400_000]) {
    const clock = new FakeClock()
    const window = new LatencyWindow(clock)
    record(window, 100, 1_000)
    clock.advance(pause)
    record(window, 19, 10)
    t.equal(window.quantile(0.5), undefined, `${pause}`)
    record(window, 1, 10)
    t.ok(near(window.quantile(0.999), 10))
  }
})
