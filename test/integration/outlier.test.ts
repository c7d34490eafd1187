import t, { type Test } from 'tap'
import type { Backend } from '../../lib/backend.ts'
import type { BackendOptions, RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type Gateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { Client } from '../helpers/named.ts'
import { seeded } from '../helpers/random.ts'
import { ok, rawBackend, until, type RawBackend, type Wire } from '../helpers/wire.ts'

const BASE = 30_000
const INTERVAL = 10_000
const secret = 'a secret of some length'

/** What a backend does with a request, other than to answer with its name. */
type Fate = ((wire: Wire) => string | void) | undefined

const UNAVAILABLE: Fate = () => ok('', '', '503 Service Unavailable')
const ERROR: Fate = () => ok('', '', '500 Internal Server Error')
const RESETS: Fate = wire => wire.reset()
const NEVER: Fate = () => {}

interface Pool extends Gateway {
  clock: FakeClock
  backends: Record<string, RawBackend>
  /** By the backends' names. */
  fates: Record<string, Fate>
  fail (ids: string, fate?: Fate): void
  client (): Promise<Client>
  /** So many requests, one after the other. */
  send (count: number): Promise<string>
  /** How many requests each backend has got since this was called last, checks left out. */
  got (): Record<string, number>
  readonly ejected: string
}

async function start (t: Test, given: string | Record<string, Partial<BackendOptions>>, options: RockstarProxyOptions = {}): Promise<Pool> {
  const clock = new FakeClock()
  const backends: Record<string, RawBackend> = {}
  const fates: Record<string, Fate> = {}
  const settings = typeof given === 'string' ? Object.fromEntries([...given].map(id => [id, {}])) : given
  for (const id of Object.keys(settings)) {
    backends[id] = await rawBackend(t, ({ startLine }, wire) => startLine.includes(' /health ') ? ok() : (fates[id] ?? (() => ok(id)))(wire))
  }
  const gateway = await startGateway(t, {
    backends: Object.entries(settings).map(([id, more]) => ({ id, url: backends[id].url, ...more })),
    clock,
    random: seeded(1),
    routes: [{ prefix: '/' }],
    outlier: true,
    ...options
  })
  const client = new Client(await gateway.connect())
  let before: Record<string, number> = {}
  return {
    ...gateway,
    clock,
    backends,
    fates,
    fail (ids, fate = UNAVAILABLE) { for (const id of Object.keys(backends)) fates[id] = ids.includes(id) ? fate : undefined },
    client: async () => new Client(await gateway.connect()),
    send: count => client.turns(count),
    got () {
      const now = Object.fromEntries(Object.entries(backends).map(([id, { requests }]) => [id, requests.filter(({ startLine }) => !startLine.includes(' /health ')).length]))
      const since = Object.fromEntries(Object.entries(now).map(([id, count]) => [id, count - (before[id] ?? 0)]))
      before = now
      return since
    },
    get ejected () { return gateway.app.proxy.listBackends().filter(({ ejected }) => ejected).map(({ id }) => id).join('') }
  }
}

t.test('one backend alone is never ejected, whatever it answers', async t => {
  const pool = await start(t, 'a', { outlier: { maxEjectionPercent: 100, successRate: { minimumHosts: 1 }, failurePercentage: { minimumHosts: 1 } } })
  for (const fate of [RESETS, UNAVAILABLE, ERROR]) {
    pool.fail('a', fate)
    await pool.send(60)
    pool.clock.advance(INTERVAL)
    t.equal(pool.ejected, '')
  }
  t.strictSame(pool.got(), { a: 180 }, 'every request has gone to it')
  pool.fail('')
  t.equal(await pool.send(1), 'a')
  t.match(pool.app.proxy.getHealthStatus().a, { isHealthy: true, ejections: 0, ejectedUntil: undefined, source: 'active' })
})

t.test('half of the pool failing keeps the other half: after five failures each nobody sees any more', async t => {
  const pool = await start(t, 'abcd')
  pool.fail('ab')
  const answers = await pool.send(40)
  t.equal(answers.split('[503]').length - 1, 10)
  t.match(pool.got(), { a: 5, b: 5 })
  t.equal(pool.ejected, 'ab')
  t.match(await pool.send(20), /^[cd]{20}$/)
  t.strictSame(pool.got(), { a: 0, b: 0, c: 10, d: 10 })
  t.equal(pool.app.proxy.getMetrics().panic, false)
})

t.test('it is the same for resets and for connections refused', async t => {
  const pool = await start(t, 'abc')
  pool.fail('a', RESETS)
  t.equal((await pool.send(30)).split('[502]').length - 1, 5)
  t.equal(pool.ejected, 'a')
  pool.clock.advance(BASE)
  t.equal(pool.ejected, '')
  pool.backends.a.close()
  t.equal((await pool.send(30)).split('[502]').length - 1, 5)
  t.equal(pool.ejected, 'a')
})

t.test('with everything failing no more than half are ejected, and every answer is one of a backend\'s', async t => {
  const pool = await start(t, 'abcd')
  pool.fail('abcd')
  t.equal(await pool.send(60), '[503]'.repeat(60))
  t.equal(pool.ejected.length, 2)
  const got = Object.values(pool.got())
  t.equal(got.reduce((sum, count) => sum + count), 60, 'none was made up by the proxy')
  t.strictSame(got.sort((a, b) => a - b).slice(0, 2), [5, 5])
})

t.test('with everything failing, and more let be ejected, panic uses all instead of silence', async t => {
  const pool = await start(t, 'abcd', { outlier: { maxEjectionPercent: 100 } })
  pool.fail('abcd')
  await pool.send(40)
  t.equal(pool.ejected.length, 3)
  t.equal(pool.app.proxy.getMetrics().panic, true)
  pool.got()
  t.equal(await pool.send(8), '[503]'.repeat(8))
  t.strictSame(pool.got(), { a: 2, b: 2, c: 2, d: 2 })
  pool.fail('abc')
  t.equal((await pool.send(8)).replaceAll('[503]', ''), 'dd', 'and whoever is well again is seen to be')
  pool.clock.advance(BASE)
  t.equal(pool.app.proxy.getMetrics().panic, false)
})

t.test('ejected backends get nothing for 30 s, then take part again; the next time it is 60 s', async t => {
  const pool = await start(t, 'ab', { outlier: { interval: 1e9 } })
  for (const time of [BASE, 2 * BASE]) {
    pool.fail('a')
    await pool.send(10)
    t.equal(pool.ejected, 'a')
    pool.fail('')
    pool.got()
    t.equal(await pool.send(5), 'bbbbb')
    pool.clock.advance(time - 1)
    t.equal(await pool.send(5), 'bbbbb')
    t.strictSame(pool.got(), { a: 0, b: 10 })
    pool.clock.advance(1)
    t.equal(pool.ejected, '')
    t.match(await pool.send(4), /^(abab|baba)$/)
  }
})

t.test('500s eject nobody for being in a row; for being many they do, at the sweep', async t => {
  const pool = await start(t, 'abcde')
  pool.fail('c', ERROR)
  t.equal((await pool.send(300)).split('[500]').length - 1, 60)
  t.equal(pool.ejected, '')
  pool.clock.advance(INTERVAL)
  t.equal(pool.ejected, 'c')
  t.match(await pool.send(20), /^[abde]{20}$/)
})

t.test('who succeeds less often than the others is ejected, where all have failures', async t => {
  const pool = await start(t, 'abcdef')
  let count = 0
  for (const id of 'abcdef') pool.fates[id] = () => ++count % (id === 'f' ? 2 : 50) === 0 ? ok('', '', '500 Internal Server Error') : ok(id)
  await pool.send(600)
  t.equal(pool.ejected, '')
  pool.clock.advance(INTERVAL)
  t.equal(pool.ejected, 'f')
})

/** Clients that go away before they are answered, one after the other. */
async function goAway (pool: Pool, count: number): Promise<void> {
  const requests = () => Object.values(pool.backends).reduce((sum, { requests }) => sum + requests.length, 0)
  for (let i = 0; i < count; i++) {
    const seen = requests()
    const { wire } = await pool.client()
    wire.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
    await until(() => requests() > seen)
    wire.close()
    await until(() => pool.app.proxy.getMetrics().inFlight === 0)
  }
}

t.test('clients that go away say nothing for a backend either', async t => {
  const pool = await start(t, 'ab')
  pool.fail('a')
  await pool.send(8)
  pool.fail('a', NEVER)
  await goAway(pool, 2)
  pool.fail('a')
  t.equal(pool.ejected, '')
  await pool.send(2)
  t.equal(pool.ejected, 'a', 'five failures are in a row')
})

t.test('clients that go away and 4xx say nothing against a backend', async t => {
  const pool = await start(t, 'ab')
  pool.fail('a', NEVER)
  await goAway(pool, 24)
  t.equal(pool.ejected, '')
  t.ok(pool.app.proxy.getMetrics().backends.a.abortedRequests >= 10)
  pool.fail('a', () => ok('', '', '404 Not Found'))
  await pool.send(20)
  t.equal(pool.ejected, '')
})

t.test('with splitLocalErrors, resets and bad answers have thresholds of their own', async t => {
  const pool = await start(t, 'abcd', { outlier: { splitLocalErrors: true, consecutiveLocalErrors: 2 } })
  pool.fail('a', RESETS)
  pool.fates.b = UNAVAILABLE
  const answers = await pool.send(40)
  t.equal(answers.split('[502]').length - 1, 2)
  t.equal(answers.split('[503]').length - 1, 5)
  t.equal(pool.ejected, 'ab')
})

t.test('when the preferred ones are ejected, their backups take over, and give back', async t => {
  const pool = await start(t, { a: {}, b: {}, c: { priority: 1 }, d: { priority: 1 } })
  t.match(await pool.send(6), /^[ab]{6}$/)
  pool.fail('ab')
  await pool.send(30)
  t.equal(pool.ejected, 'ab')
  pool.fail('')
  t.match(await pool.send(10), /^[cd]{10}$/)
  pool.clock.advance(BASE)
  t.match(await pool.send(6), /^[ab]{6}$/)
})

t.test('a client leaves a backend that is ejected, and stays where it has come to', async t => {
  const pool = await start(t, 'abc', { affinity: { secret } })
  const client = await pool.client()
  const cookieOf = (fields: string[]) => `Cookie: ${fields[0].split(';')[0]}`
  const first = await client.get()
  const id = first.body
  const cookie = cookieOf(first.values('set-cookie'))
  t.equal(await client.turns(3, '/', cookie), id.repeat(3))
  pool.fail(id)
  await client.turns(5, '/', cookie)
  t.equal(pool.ejected, id)
  pool.fail('')
  const next = await client.get('/', cookie)
  t.not(next.body, id)
  const other = cookieOf(next.values('set-cookie'))
  t.equal(await client.turns(3, '/', other), next.body.repeat(3))
  pool.clock.advance(BASE)
  t.equal(await client.turns(2, '/', other), next.body.repeat(2))
  t.equal(await client.turns(2, '/', cookie), id.repeat(2), 'who still has the old cookie is welcome again')
})

t.test('a client that must stay gets 503 while its backend is ejected', async t => {
  const pool = await start(t, 'abc', { affinity: { secret, onUnavailable: 'fail' } })
  const client = await pool.client()
  const first = await client.get()
  const cookie = `Cookie: ${first.values('set-cookie')[0].split(';')[0]}`
  pool.fail(first.body)
  await client.turns(5, '/', cookie)
  pool.fail('')
  const refused = await client.get('/', cookie)
  t.equal(refused.status, 503)
  t.equal(JSON.parse(refused.body).code, 'FST_ROCKSTAR_NO_BACKEND')
  pool.clock.advance(BASE)
  t.equal(await client.who('/', cookie), first.body)
})

t.test('status and explanation say who has ejected it, how often, and until when', async t => {
  const pool = await start(t, 'ab')
  const { proxy } = pool.app
  const since = proxy.getHealthStatus().a.since
  t.match(proxy.getHealthStatus(), { a: { isHealthy: true, source: 'active', ejections: 0, ejectedUntil: undefined }, b: { isHealthy: true } })
  pool.clock.advance(1_234)
  pool.fail('a')
  await pool.send(10)
  const until = new Date(pool.clock.wall() + BASE)
  const status = proxy.getHealthStatus()
  t.match(status.a, { isHealthy: false, source: 'outlier', ejections: 1, ejectedUntil: until, since: new Date(since.getTime() + 1_234), lastCheck: undefined, consecutiveFails: 0, errorMessage: '', statusCode: 0 })
  t.match(status.b, { isHealthy: true, source: 'active', ejections: 0, ejectedUntil: undefined, since })
  t.match(proxy.getBackend('a').toJSON(), { available: false, healthy: true, ejected: true })
  proxy.updateBackend('a', { isActive: false })
  t.match(proxy.getHealthStatus().a, { isHealthy: false, source: 'manual', ejectedUntil: until })
  proxy.updateBackend('a', { isActive: true })
  pool.clock.advance(BASE)
  t.match(proxy.getHealthStatus().a, { isHealthy: true, source: 'active', ejections: 1, ejectedUntil: undefined, since: until })
})

t.test('a health check that passes ends an ejection, if it asks for more than an open port', async t => {
  for (const [health, back] of [[{ path: '/health' }, true], [{ checker: () => true }, true], [{}, false]] as const) {
    const pool = await start(t, 'ab', { health: { interval: 5_000, jitter: 0, ...health } })
    pool.fail('a')
    await pool.send(10)
    t.equal(pool.ejected, 'a')
    pool.clock.advance(5_000)
    await until(() => Object.values(pool.app.proxy.getHealthStatus()).every(({ lastSuccess }) => lastSuccess !== undefined))
    t.equal(pool.ejected, back ? '' : 'a', JSON.stringify(health))
    t.match(pool.app.proxy.getHealthStatus().a, back ? { isHealthy: true, source: 'active', ejectedUntil: undefined } : { isHealthy: false, source: 'outlier' })
    t.equal(pool.app.proxy.getHealthStatus().a.ejections, 1)
    if (!back) continue
    pool.fail('')
    t.match(await pool.send(4), /^(abab|baba)$/)
  }
})

t.test('a check that is asked for does so too', async t => {
  const pool = await start(t, 'ab', { health: { path: '/health' } })
  pool.fail('a')
  await pool.send(10)
  t.equal(pool.ejected, 'a')
  await pool.app.proxy.healthCheck()
  t.equal(pool.ejected, '')
})

t.test('the circuit breaker beside it does not make room for more ejections', async t => {
  const pool = await start(t, 'abcd', { breaker: true })
  pool.fail('abcd')
  await pool.send(40)
  t.equal(pool.ejected.length, 2)
  t.strictSame(pool.app.proxy.listBackends().map(({ circuitState }) => circuitState), ['open', 'open', 'open', 'open'], 'circuits are another matter')
  t.strictSame(Object.values(pool.got()), [5, 5, 5, 5])
})

t.test('the last one that passes its health checks is not ejected', async t => {
  const pool = await start(t, 'abc', { panicThreshold: 0 })
  const proxy = pool.app.proxy as typeof pool.app.proxy & { state: { onHealth (): void } }
  for (const id of 'ab') (proxy.getBackend(id) as Backend).healthy = false
  proxy.state.onHealth()
  pool.fail('c')
  await pool.send(20)
  t.equal(pool.ejected, '')
  t.strictSame(pool.got(), { a: 0, b: 0, c: 20 })
})

t.test('named upstreams judge for themselves, and only where it is on', async t => {
  const failing = await rawBackend(t, () => ok('', '', '503 Service Unavailable'))
  const well = await rawBackend(t, () => ok('well'))
  const backends = [{ id: 'a', url: failing.url }, { id: 'b', url: well.url }]
  const pool = await start(t, 'ab', {
    outlier: false,
    upstreams: { quick: { backends, breaker: false, health: false, outlier: { consecutiveFailures: 1 } }, off: { backends, breaker: false, health: false, outlier: false } },
    routes: [{ prefix: '/quick', upstream: 'quick' }, { prefix: '/off', upstream: 'off' }]
  })
  const client = await pool.client()
  await client.turns(4, '/quick')
  await client.turns(20, '/off')
  const ejected = (name: string) => pool.app.proxy.upstream(name).listBackends().filter(({ ejected }) => ejected).map(({ id }) => id)
  t.strictSame([ejected('quick'), ejected('off'), pool.ejected], [['a'], [], ''])
  t.match(pool.app.proxy.upstream('off').getHealthStatus().a, { isHealthy: true, ejections: 0 })
})

t.test('a backend that is removed while it is ejected is gone, and one of the same name begins anew', async t => {
  const pool = await start(t, 'ab')
  const { proxy } = pool.app
  pool.fail('a')
  await pool.send(10)
  t.equal(pool.ejected, 'a')
  await proxy.removeBackend('a')
  pool.fail('')
  proxy.addBackend({ id: 'a', url: pool.backends.a.url })
  t.equal(pool.ejected, '')
  t.match(await pool.send(4), /^(abab|baba)$/)
  pool.clock.advance(BASE)
  t.equal(pool.log.filter(({ msg }) => msg === 'a backend is no longer ejected').length, 0)
})

t.test('no timer is left when the app has closed, also with a backend ejected', async t => {
  const pool = await start(t, 'ab', { breaker: true, health: true })
  pool.fail('a')
  await pool.send(10)
  t.equal(pool.ejected, 'a')
  t.ok(pool.clock.timers > 0)
  await pool.app.close()
  t.equal(pool.clock.timers, 0)
})
