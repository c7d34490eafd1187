import t from 'tap'
import { Observed, parseLoadReport } from '../../../lib/weights/index.ts'
import type { LoadReport } from '../../../types/index.ts'

const report = (text: string) => parseLoadReport(`TEXT ${text}`) as LoadReport

t.test('without traffic there is nothing', async t => {
  t.strictSame(new Observed().take(0, 1_000), { requests: 0, failures: 0, latency: 0, load: undefined })
})

t.test('it takes the mean of what it has counted, once', async t => {
  const observed = new Observed()
  observed.count(false, 10)
  observed.count(false, 30)
  t.strictSame(observed.take(0, 1_000), { requests: 2, failures: 0, latency: 20, load: undefined })
  t.strictSame(observed.take(0, 1_000), { requests: 0, failures: 0, latency: 0, load: undefined })
  observed.count(false, 5)
  t.match(observed.take(0, 1_000), { requests: 1, latency: 5 })
})

t.test('failing fast counts as a second, failing slowly as long as it took', async t => {
  const observed = new Observed()
  observed.count(true, 1)
  t.match(observed.take(0, 1_000), { requests: 1, failures: 1, latency: 1_000 })
  observed.count(true, 0)
  observed.count(false, 500)
  observed.count(true, 5_500)
  t.match(observed.take(0, 1_000), { requests: 3, failures: 2, latency: (1_000 + 500 + 5_500) / 3 })
})

t.test('the last load report stays until it expires', async t => {
  const observed = new Observed()
  observed.report(report('cpu_utilization=0.5'), 100)
  observed.report(report('eps=1'), 200)
  t.match(observed.take(200, 1_000).load, { cpuUtilization: 0, errorsPerSecond: 1 })
  t.match(observed.take(1_199, 1_000).load, { errorsPerSecond: 1 })
  t.equal(observed.reportsSince, 100)
  t.equal(observed.take(1_201, 1_000).load, undefined)
  t.equal(observed.reportsSince, -1)
  observed.report(report('eps=2'), 5_000)
  t.equal(observed.reportsSince, 5_000, 'after a break it begins anew')
  t.match(observed.take(5_000, 1_000).load, { errorsPerSecond: 2 })
})

t.test('a report keeps those before it from expiring', async t => {
  const observed = new Observed()
  for (let now = 0; now <= 10_000; now += 900) {
    observed.report(report('eps=1'), now)
    t.ok(observed.take(now, 1_000).load)
  }
  t.equal(observed.reportsSince, 0)
})

t.test('what is forgotten is gone: it was said and done before it went away', async t => {
  const observed = new Observed()
  observed.report(report('eps=1'), 0)
  observed.count(false, 10)
  observed.forget()
  t.equal(observed.reportsSince, -1)
  t.strictSame(observed.take(1, 1_000), { requests: 0, failures: 0, latency: 0, load: undefined })
})
