import t from 'tap'
import { RetryBudget } from '../../../lib/retry/index.ts'

/** So many requests at a time, each answered at once. */
function requests (budget: RetryBudget, count: number, now: number): void {
  for (let i = 0; i < count; i++) {
    budget.begin(now)
    budget.end()
  }
}

/** As many retries as it gives, at most so many. */
function retries (budget: RetryBudget, now: number, most = 1_000_000): number {
  let given = 0
  while (given < most && budget.allows(now)) {
    budget.spend(now)
    given++
  }
  return given
}

t.test('retries are a part of the requests of the last ten seconds', async t => {
  const budget = new RetryBudget({ percent: 20, minPerSecond: 0 })
  t.equal(retries(budget, 1_000), 0, 'of none there is none')
  requests(budget, 100, 1_000)
  t.equal(retries(budget, 1_000), 20)
  requests(budget, 50, 5_000)
  t.equal(retries(budget, 5_000), 10)
  t.equal(retries(budget, 10_000), 0, 'asking again brings no more')
})

t.test('no more than the part is given, however few the requests', async t => {
  const budget = new RetryBudget({ percent: 20, minPerSecond: 0 })
  requests(budget, 4, 1_000)
  t.equal(retries(budget, 1_000), 0, 'one of four would be a quarter')
  requests(budget, 1, 1_000)
  t.equal(retries(budget, 1_000), 1)
})

t.test('what is older than ten seconds counts no more, requests and retries alike', async t => {
  const budget = new RetryBudget({ percent: 20, minPerSecond: 0 })
  requests(budget, 100, 1_000)
  t.equal(retries(budget, 9_999), 20)
  t.equal(retries(budget, 11_001), 0, 'the requests have gone')
  requests(budget, 100, 12_000)
  t.equal(retries(budget, 12_000), 0, 'the retries have not')
  t.equal(retries(budget, 21_000), 20, 'until they have')
})

t.test('retries are not requests that more retries come of', async t => {
  const budget = new RetryBudget({ percent: 100, minPerSecond: 0 })
  requests(budget, 10, 1_000)
  t.equal(retries(budget, 1_000), 10)
})

t.test('requests that wait for an answer count however long they have waited', async t => {
  const budget = new RetryBudget({ percent: 20, minPerSecond: 0 })
  for (let i = 0; i < 50; i++) budget.begin(1_000)
  t.equal(retries(budget, 60_000), 10, 'when the last ten seconds have had none')
  for (let i = 0; i < 50; i++) budget.end()
  t.equal(budget.waiting, 0)
  t.equal(retries(budget, 120_000), 0)
})

t.test('of those waiting and those of the last ten seconds the more count, not both', async t => {
  const budget = new RetryBudget({ percent: 20, minPerSecond: 0 })
  for (let i = 0; i < 50; i++) budget.begin(1_000)
  t.equal(retries(budget, 1_000), 10)
})

t.test('there are some in each second whatever there is', async t => {
  const budget = new RetryBudget({ percent: 20, minPerSecond: 10 })
  t.equal(retries(budget, 1_000), 10, 'without a request')
  t.equal(retries(budget, 1_800), 0)
  t.equal(retries(budget, 2_100), 10, 'in the next second')
  t.equal(retries(budget, 60_000), 10, 'and much later')
})

t.test('the part and the floor are not added up', async t => {
  const budget = new RetryBudget({ percent: 20, minPerSecond: 10 })
  requests(budget, 100, 1_000)
  t.equal(retries(budget, 1_000), 20)
})

t.test('with everything failing at a high rate there is a fifth more, for as long as it lasts', async t => {
  const budget = new RetryBudget({ percent: 20, minPerSecond: 10 })
  let sent = 0
  let again = 0
  for (let now = 0; now < 60_000; now += 10) {
    requests(budget, 3, now)
    sent += 3
    again += retries(budget, now, 6)
    if (now >= 1_000 && again > sent * 0.2 + 10) t.fail(`${again} of ${sent} at ${now}`)
  }
  t.ok(again <= sent * 0.2, `${again} of ${sent}`)
  t.ok(again >= sent * 0.15, 'and not much less')
})

t.test('nothing at all is a budget too', async t => {
  const budget = new RetryBudget({ percent: 0, minPerSecond: 0 })
  requests(budget, 1_000, 1_000)
  t.equal(retries(budget, 1_000), 0)
})

t.test('more retries than requests is one as well', async t => {
  const budget = new RetryBudget({ percent: 200, minPerSecond: 0 })
  requests(budget, 10, 1_000)
  t.equal(retries(budget, 1_000), 20)
})

t.test('a clock that is put back gives no more than a new beginning', async t => {
  const budget = new RetryBudget({ percent: 20, minPerSecond: 10 })
  requests(budget, 100, 100_000)
  retries(budget, 100_000)
  t.ok(retries(budget, 1_000) <= 10)
})
