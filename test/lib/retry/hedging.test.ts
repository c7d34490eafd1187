import { Dispatcher } from 'undici'
import t, { type Test } from 'tap'
import { forwardHttp } from '../../../lib/forward/index.ts'
import { hedgePolicyOf, Hedging, type HedgePolicy } from '../../../lib/retry/index.ts'
import type { Backend, ConnectionPool, UpstreamOptions } from '../../../types/index.ts'
import { FakeClock } from '../../helpers/clock.ts'
import { seeded } from '../../helpers/random.ts'
import { makeUpstream } from '../../helpers/upstream.ts'

t.test('an option means a policy, or none', async t => {
  t.equal(hedgePolicyOf(undefined), null)
  t.equal(hedgePolicyOf(false), null)
  t.equal(hedgePolicyOf(true)?.maxExtra, 0.05)
  t.equal(hedgePolicyOf({})?.maxExtra, 0.05)
  t.equal(hedgePolicyOf({ maxExtra: 0.2 })?.maxExtra, 0.2)
})

t.test('the delay is the percentile of recent answers, in whole milliseconds, and not less than the least', async t => {
  const clock = new FakeClock()
  const hedging = new Hedging(clock)
  const policies = { usual: hedgePolicyOf(true), median: hedgePolicyOf({ percentile: 50 }), slow: hedgePolicyOf({ minDelay: 200 }) } as Record<string, HedgePolicy>
  t.equal(policies.usual.delay(hedging, clock.now()), undefined, 'not known yet')
  for (let time = 1; time <= 100; time++) hedging.latencies.record(time)
  clock.advance(250)
  const delays = Object.fromEntries(Object.entries(policies).map(([name, policy]) => [name, policy.delay(hedging, clock.now()) as number]))
  t.ok(Object.values(delays).every(Number.isInteger))
  t.ok(Math.abs(delays.usual - 95) <= 95 / 32 + 1, `${delays.usual}`)
  t.ok(Math.abs(delays.median - 50) <= 50 / 32 + 1, `${delays.median}`)
  t.equal(delays.slow, 200)
  const quick = new Hedging(clock)
  for (let i = 0; i < 100; i++) quick.latencies.record(0.5)
  t.equal((hedgePolicyOf(true) as HedgePolicy).delay(quick, clock.now()), 5, 'by default at least 5 ms')
  t.equal((hedgePolicyOf({ minDelay: 0 }) as HedgePolicy).delay(quick, clock.now()), 1)
})

t.test('a delay holds for a quarter of a second', async t => {
  const clock = new FakeClock()
  const hedging = new Hedging(clock)
  const policy = hedgePolicyOf({ minDelay: 0 }) as HedgePolicy
  for (let i = 0; i < 20; i++) hedging.latencies.record(10)
  const before = policy.delay(hedging, clock.now())
  for (let i = 0; i < 1_000; i++) hedging.latencies.record(100)
  clock.advance(249)
  t.equal(policy.delay(hedging, clock.now()), before)
  clock.advance(1)
  t.ok(policy.delay(hedging, clock.now()) as number > 90)
})

t.test('second attempts keep within their part of the requests of the last ten seconds', async t => {
  const clock = new FakeClock()
  const hedging = new Hedging(clock)
  t.notOk(hedging.allows(1), 'no requests, none')
  for (let i = 0; i < 19; i++) hedging.begin()
  t.notOk(hedging.allows(0.05), 'one would be more than a twentieth')
  t.notOk(hedging.allows(0))
  hedging.begin()
  t.ok(hedging.allows(0.05))
  hedging.spend()
  t.notOk(hedging.allows(0.05))
  for (let i = 0; i < 20; i++) hedging.begin()
  t.ok(hedging.allows(0.05), 'what is spent is no request')
  hedging.spend()
  t.notOk(hedging.allows(0.05))
  clock.advance(11_000)
  for (let i = 0; i < 20; i++) hedging.begin()
  t.ok(hedging.allows(0.05), 'what was spent earlier is forgotten')
})

/** How long each backend takes for an answer, in milliseconds. */
type Takes = (id: string, random: () => number) => number

/** A backend that is only time: it answers when it has taken what it takes, unless it is given up before. */
class Timed extends Dispatcher {
  readonly #clock: FakeClock
  readonly #takes: () => number

  constructor (clock: FakeClock, takes: () => number) {
    super()
    this.#clock = clock
    this.#takes = takes
  }

  override dispatch (_options: Dispatcher.DispatchOptions, handler: Dispatcher.DispatchHandler): boolean {
    let over = false
    handler.onConnect?.(() => { over = true })
    this.#clock.setTimeout(() => {
      if (over) return
      handler.onHeaders?.(200, [Buffer.from('content-length'), Buffer.from('0')], () => {}, 'OK')
      handler.onComplete?.([])
    }, this.#takes())
    return true
  }
}

/** Requests come by chance, and find backends that answer by chance. Tells how long they took, and what was sent beyond them. */
async function simulate (t: Test, takes: Takes, { count = 12_000, perSecond, backends, ...options }: { count?: number, perSecond: number, backends: number } & Omit<UpstreamOptions, 'backends'>) {
  const clock = new FakeClock()
  const random = seeded(7)
  const ids = Array.from({ length: backends }, (_, i) => `b${i}`)
  const dispatchers = new Map(ids.map(id => [id, new Timed(clock, () => takes(id, random))]))
  const pool = {
    dispatcherFor: (backend: Backend) => dispatchers.get(backend.id) as Dispatcher,
    stats: () => { throw new Error('nobody asks') },
    close: async () => {}
  } as ConnectionPool
  const { upstream } = makeUpstream({ backends: ids.map((id, i) => ({ id, url: `http://127.0.0.1:${i + 1}` })), pool, breaker: false, health: false, outlier: false, retry: false, ...options }, clock, seeded(8))
  const request = new Request('http://simulated/')
  const answers: Promise<Response>[] = []
  for (let i = 0; i < count; i++) {
    clock.advance(-1000 / perSecond * Math.log(1 - random()))
    answers.push(forwardHttp(upstream, request))
    await null
  }
  clock.advance(60_000)
  t.ok((await Promise.all(answers)).every(({ status }) => status === 200))
  const { totalRequests, successfulRequests, inFlight, hedgedRequests, hedgesWon, p99ResponseTime, backends: each } = upstream.metrics()
  t.strictSame([totalRequests, successfulRequests, inFlight], [count, count, 0])
  const attempts = Object.values(each).reduce((sum, { totalRequests }) => sum + totalRequests, 0)
  t.equal(attempts, count + hedgedRequests)
  t.ok(Object.values(each).every(({ failedRequests, inFlight }) => failedRequests + inFlight === 0), 'no attempt has failed')
  t.equal(Object.values(each).reduce((sum, { abortedRequests }) => sum + abortedRequests, 0), hedgedRequests, 'and one of each two was given up')
  return { p99: p99ResponseTime, extra: attempts / count - 1, hedgedRequests, hedgesWon }
}

/** Milliseconds that a backend takes on average when it is well. */
const USUAL = 20
/** Exponential: most answers come soon, some take long. */
const skewed = (random: () => number) => -USUAL * Math.log(1 - random())
/** Of one that is well: the 95th percentile of that distribution. */
const HEALTHY_P95 = USUAL * Math.log(20)
const oneSlow: Takes = (id, random) => skewed(random) * (id === 'b0' ? 10 : 1)

for (const [name, options] of Object.entries({
  'round robin over eighty': { balancer: 'round-robin', backends: 80, perSecond: 400 },
  'two choices of thirty': { balancer: 'p2c', backends: 30, perSecond: 1_000 },
  'the fewest requests of twenty': { balancer: 'least-requests', backends: 20, perSecond: 1_000 }
} as const)) {
  t.test(`one backend ten times slower, ${name}: second attempts bring the 99th percentile below 1.5 times the 95th of one that is well, for a twentieth more load`, async t => {
    const without = await simulate(t, oneSlow, options)
    const { p99, extra, hedgedRequests, hedgesWon } = await simulate(t, oneSlow, { ...options, hedge: true })
    t.equal(without.hedgedRequests, 0)
    t.ok(without.p99 > 1.5 * HEALTHY_P95, `without them ${without.p99.toFixed(1)} ms`)
    t.ok(p99 < 1.5 * HEALTHY_P95, `with them ${p99.toFixed(1)} ms of ${(1.5 * HEALTHY_P95).toFixed(1)}`)
    t.ok(extra <= 0.05, `${(100 * extra).toFixed(2)} % more load`)
    t.ok(hedgesWon > hedgedRequests / 3)
  })
}
