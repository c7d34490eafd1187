import t from 'tap'
import type { Test } from 'tap'
import { Pool } from 'undici'
import { LeastRequests, P2c, PeakEwma, RoundRobin } from '../../lib/balancer/index.ts'
import type { BalancerEnv, LoadBalancer } from '../../types/index.ts'
import { startGateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { seeded } from '../helpers/random.ts'
import { ok, rawBackend, until } from '../helpers/wire.ts'

/** Milliseconds, of a clock that the test moves, that a request takes; of the slow backend ten times as many. */
const FAST = 10
const SLOW = 100

interface Setup {
  balancer (env: BalancerEnv): LoadBalancer
  /** The first of them is the slow one. */
  backends: number
  requests: number
  /** Requests under way at any time. */
  concurrency: number
  /** Requests that a backend works on at a time; others wait their turn. */
  workers?: number
}

interface Result {
  counts: number[]
  /** The longest that a client waited, but for one request in a hundred. */
  p99: number
}

/**
 * Sends requests through a gateway, over sockets, each as soon as another is answered. Backends hold their answers until the clock has
 * come so far, and the clock is moved only when every request under way has come to a backend. So nothing depends on how fast this runs.
 */
async function run (t: Test, { balancer, backends, requests, concurrency, workers = Infinity }: Setup): Promise<Result> {
  const clock = new FakeClock()
  const held: { due: number, answer: () => void }[] = []
  const counts: number[] = []
  const urls: string[] = []
  for (let i = 0; i < backends; i++) {
    const takes = i === 0 ? SLOW : FAST
    const ends: number[] = []
    counts[i] = 0
    const { url } = await rawBackend(t, (_, wire) => {
      counts[i]++
      const due = Math.max(clock.now(), ends.at(-workers) ?? 0) + takes
      ends.push(due)
      held.push({ due, answer: () => wire.send(ok()) })
    })
    urls.push(url)
  }
  const gateway = await startGateway(t, {
    backends: urls,
    balancer: balancer({ clock, random: seeded(1) }),
    routes: [{ prefix: '/' }],
    clock,
    timeout: { headers: 1e6, request: 1e6 }
  }, { fastify: { logger: false } })
  const clients = new Pool(gateway.url, { connections: concurrency })
  t.teardown(() => clients.destroy())

  const times: number[] = []
  let sent = 0
  const client = async () => {
    while (sent < requests) {
      sent++
      const start = clock.now()
      const { statusCode, body } = await clients.request({ path: '/', method: 'GET' })
      await body.dump()
      if (statusCode !== 200) throw new Error(`answered with ${statusCode}`)
      times.push(clock.now() - start)
    }
  }
  const all = Promise.all(Array.from({ length: concurrency }, client))
  while (true) {
    await Promise.race([all, until(() => held.length === sent - times.length)])
    if (held.length === 0) break
    const now = Math.min(...held.map(({ due }) => due))
    clock.advance(now - clock.now())
    for (let i = held.length; i-- > 0;) if (held[i].due <= now) held.splice(i, 1)[0].answer()
  }
  await all
  return { counts, p99: times.sort((a, b) => a - b)[Math.ceil(requests * 0.99) - 1] }
}

const roundRobin = () => new RoundRobin()
const leastRequests = (env: BalancerEnv) => new LeastRequests({}, env)
const peakEwma = (env: BalancerEnv) => new PeakEwma({}, env)
const p2c = (env: BalancerEnv) => new P2c({}, env)

t.test('one of three backends is ten times slower', async t => {
  const setup = { backends: 3, requests: 900, concurrency: 12 }

  t.test('round robin sends it its third, and one in three waits for it', async t => {
    const { counts, p99 } = await run(t, { ...setup, balancer: roundRobin })
    t.strictSame(counts, [300, 300, 300])
    t.equal(p99, SLOW)
  })

  t.test('peak-ewma sends it less than one in a hundred: p99 is a fast one\'s', async t => {
    const { counts, p99 } = await run(t, { ...setup, balancer: peakEwma })
    t.ok(counts[0] <= 8, 'of 900', { counts })
    t.ok(Math.min(counts[1], counts[2]) > 350, 'the others share the rest', { counts })
    t.equal(p99, FAST)
  })

  t.test('least-requests sends it a tenth of what each of the others gets', async t => {
    const { counts } = await run(t, { ...setup, balancer: leastRequests })
    t.ok(counts[0] <= 900 / 21 + 5, 'of 900', { counts })
    t.ok(Math.min(counts[1], counts[2]) > 400, 'the others share the rest', { counts })
  })
})

t.test('one of sixteen backends is ten times slower', async t => {
  const setup = { backends: 16, requests: 1600, concurrency: 32 }

  t.test('round robin sends it its sixteenth', async t => {
    const { counts, p99 } = await run(t, { ...setup, balancer: roundRobin })
    t.strictSame(counts, counts.map(() => 100))
    t.equal(p99, SLOW)
  })

  for (const [name, balancer] of Object.entries({ 'least-requests': leastRequests, 'peak-ewma': peakEwma })) {
    t.test(`${name} sends it less than one in a hundred: p99 is a fast one's`, async t => {
      const { counts, p99 } = await run(t, { ...setup, balancer })
      t.ok(counts[0] < 16, 'of 1600', { counts })
      t.ok(Math.min(...counts.slice(1)) > 70, 'the others share the rest', { counts })
      t.equal(p99, FAST)
    })
  }
})

t.test('backends work on two requests at a time, and one of five is ten times slower', async t => {
  const setup = { backends: 5, requests: 600, concurrency: 20, workers: 2 }
  const alike = await run(t, { ...setup, balancer: roundRobin })
  t.strictSame(alike.counts, alike.counts.map(() => 120), 'round robin sends it its fifth, where nearly all then wait')
  for (const [name, balancer] of Object.entries({ 'least-requests': leastRequests, p2c, 'peak-ewma': peakEwma })) {
    const { counts, p99 } = await run(t, { ...setup, balancer })
    t.ok(counts[0] <= 24, `${name} sends it less than one in 25`, { counts })
    t.ok(p99 <= alike.p99 / 3, `${name}: p99 is at most a third of round robin's`, { p99, alike: alike.p99 })
  }
})
