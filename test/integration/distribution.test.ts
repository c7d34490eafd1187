import t from 'tap'
import type { Test } from 'tap'
import type { ProxyManager } from '../../lib/proxy-manager.ts'
import type { BackendOptions, Because, RockstarProxyOptions, UpstreamMetrics } from '../../types/index.ts'
import { startGateway, type Gateway, type GatewaySetup } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { seeded } from '../helpers/random.ts'
import { ok, rawBackend, until } from '../helpers/wire.ts'

const routes = [{ prefix: '/' }]
const never = { balancer: 0, affinity: 0, priority: 0, zone: 0, fallback: 0, panic: 0 }

/** A gateway in front of backends called a, b, c …, each answering with its name. */
async function gatewayOf (t: Test, given: Partial<BackendOptions>[], more: RockstarProxyOptions = {}, setup?: GatewaySetup['setup']): Promise<Gateway> {
  const backends = await Promise.all(given.map(async (options, i) => {
    const id = 'abcdefgh'[i]
    return { id, url: (await rawBackend(t, () => ok(id))).url, ...options }
  }))
  return await startGateway(t, { backends, routes, random: seeded(1), ...more }, { setup })
}

async function send (gateway: Gateway, count: number, url = '/'): Promise<void> {
  for (let i = 0; i < count; i++) await gateway.app.inject(url)
}

/** What outlier detection or health checks would say. */
function judge ({ app }: Gateway, health: Record<string, boolean>): void {
  const { state } = app.proxy as unknown as ProxyManager
  for (const [id, healthy] of Object.entries(health)) state.get(id).healthy = healthy
  state.onHealth()
}

const sharesOf = ({ backends }: UpstreamMetrics) => Object.fromEntries(Object.entries(backends).map(([id, { share }]) => [id, share]))
/** By backend, how often it was chosen and why; what never happened is left out. */
const reasonsOf = ({ backends }: UpstreamMetrics) => Object.fromEntries(Object.entries(backends).map(([id, { chosenBecause }]) =>
  [id, Object.fromEntries(Object.entries(chosenBecause).filter(([, count]) => count > 0))]))

t.test('each backend\'s share is its part of all attempts', async t => {
  const gateway = await gatewayOf(t, [{ weight: 5 }, { weight: 3 }, { weight: 2 }, { weight: 0 }])
  const { proxy } = gateway.app
  t.strictSame(sharesOf(proxy.getMetrics()), { a: 0, b: 0, c: 0, d: 0 }, 'nothing of nothing is 0')
  await send(gateway, 20)
  t.strictSame(sharesOf(proxy.getMetrics()), { a: 0.5, b: 0.3, c: 0.2, d: 0 })
  t.match(proxy.getMetrics().backends, { a: { totalRequests: 10 }, b: { totalRequests: 6 }, c: { totalRequests: 4 }, d: { totalRequests: 0 } })
  await proxy.removeBackend('a')
  t.strictSame(sharesOf(proxy.getMetrics()), { b: 0.6, c: 0.4, d: 0 }, 'of the attempts of those listed now')
})

t.test('weights are told as they are set and as they count', async t => {
  const clock = new FakeClock()
  const gateway = await gatewayOf(t, [{ weight: 5 }, {}], { clock, slowStart: { window: 10_000 } })
  const { proxy } = gateway.app
  const seen = (id: string) => {
    const { weight, effectiveWeight } = proxy.getMetrics().backends[id]
    t.strictSame(proxy.getBackend(id).toJSON().effectiveWeight, effectiveWeight, 'the same in the list of backends')
    return [weight, Math.round(effectiveWeight * 1e6) / 1e6]
  }
  t.strictSame([seen('a'), seen('b')], [[5, 5], [1, 1]])
  proxy.updateBackend('a', { weight: 7 })
  t.strictSame(seen('a'), [7, 7])
  proxy.addBackend({ id: 'c', url: 'http://127.0.0.1:1', weight: 20 })
  t.strictSame(seen('c'), [20, 2], 'a new one begins with a tenth')
  clock.advance(5_000)
  t.strictSame(seen('c'), [20, 10])
  clock.advance(6_000)
  t.strictSame(seen('c'), [20, 20])
  proxy.updateBackend('c', { weight: 0 })
  t.strictSame(seen('c'), [0, 0])
})

t.test('requests in flight are told by backend', async t => {
  const gateway = await gatewayOf(t, [{}])
  const held = await rawBackend(t, () => {})
  gateway.app.proxy.addBackend({ id: 'held', url: held.url, weight: 3 })
  for (let i = 0; i < 4; i++) gateway.app.inject('/').catch(() => {})
  await until(() => held.requests.length === 3 && gateway.app.proxy.getMetrics().backends.a.successfulRequests === 1)
  t.match(gateway.app.proxy.getMetrics(), { inFlight: 3, backends: { a: { inFlight: 0, share: 0.25 }, held: { inFlight: 3, share: 0.75 } } })
})

t.test('the load balancer\'s choices are counted as its own', async t => {
  const gateway = await gatewayOf(t, [{}, { weight: 2 }])
  await send(gateway, 6)
  t.strictSame(gateway.app.proxy.getMetrics().backends.a.chosenBecause, { ...never, balancer: 2 }, 'all reasons are there')
  t.strictSame(gateway.app.proxy.getMetrics().backends.b.chosenBecause, { ...never, balancer: 4 })
})

t.test('a client that comes back by its cookie is counted so', async t => {
  const gateway = await gatewayOf(t, [{}, {}], { affinity: { secret: 'a secret of the test' } })
  const first = await gateway.app.inject('/')
  const cookie = String(first.headers['set-cookie']).split(';')[0]
  for (let i = 0; i < 3; i++) t.equal((await gateway.app.inject({ url: '/', headers: { cookie } })).body, first.body)
  await gateway.app.inject({ url: '/', headers: { cookie: `${cookie}x` } })
  t.strictSame(reasonsOf(gateway.app.proxy.getMetrics()), { a: { balancer: 1, affinity: 3 }, b: { balancer: 1 } }, 'a forged one counts for nothing')
})

t.test('what a backup takes over is counted as for its priority', async t => {
  const gateway = await gatewayOf(t, [{}, { backup: true }])
  await send(gateway, 2)
  judge(gateway, { a: false })
  await send(gateway, 3)
  t.strictSame(reasonsOf(gateway.app.proxy.getMetrics()), { a: { balancer: 2 }, b: { priority: 3 } })
  t.equal(gateway.app.proxy.getMetrics().panic, false)
})

t.test('what spills to another zone is counted as for its zone', async t => {
  const gateway = await gatewayOf(t, [{ zone: 'here' }, { zone: 'there' }], { zone: 'here' })
  await send(gateway, 2)
  judge(gateway, { a: false })
  await send(gateway, 3)
  t.strictSame(reasonsOf(gateway.app.proxy.getMetrics()), { a: { balancer: 2 }, b: { zone: 3 } })
})

t.test('what goes to any backend, as none matches, is counted as a fallback', async t => {
  const gateway = await gatewayOf(t, [{ metadata: { version: 'v1' } }], {
    routes: [{ prefix: '/v1', match: { version: 'v1' } }, { prefix: '/v2', match: { version: 'v2' }, fallback: 'any' }, { prefix: '/none', match: { version: 'v2' } }]
  })
  await send(gateway, 2, '/v1')
  await send(gateway, 3, '/v2')
  t.equal((await gateway.app.inject('/none')).statusCode, 503)
  t.strictSame(reasonsOf(gateway.app.proxy.getMetrics()), { a: { balancer: 2, fallback: 3 } }, 'a request that found none is nobody\'s')
})

t.test('panic is told, and what is chosen in it is counted so', async t => {
  const gateway = await gatewayOf(t, [{}, {}, {}])
  const { proxy } = gateway.app
  const told = () => gateway.log.filter(({ msg }) => /backends are available/.test(msg)).map(({ level, msg, upstream, available, active }) => ({ level, msg, upstream, available, active }))
  await send(gateway, 3)
  judge(gateway, { b: false })
  t.equal(proxy.getMetrics().panic, false)
  judge(gateway, { c: false })
  t.equal(proxy.getMetrics().panic, true)
  await send(gateway, 6)
  t.strictSame(reasonsOf(proxy.getMetrics()), { a: { balancer: 1, panic: 2 }, b: { balancer: 1, panic: 2 }, c: { balancer: 1, panic: 2 } })
  proxy.resetMetrics()
  t.equal(proxy.getMetrics().panic, true, 'a reset ends no panic')
  judge(gateway, { b: true, c: true })
  t.equal(proxy.getMetrics().panic, false)
  t.strictSame(told(), [
    { level: 40, msg: 'too few backends are available: all active ones are used', upstream: 'default', available: 1, active: 3 },
    { level: 30, msg: 'enough backends are available again', upstream: 'default', available: 3, active: 3 }
  ], 'once each')
})

t.test('each upstream is in a panic of its own', async t => {
  const gateway = await gatewayOf(t, [{}, {}], { upstreams: { one: { backends: [{ id: 'x', url: 'http://127.0.0.1:1' }, { id: 'y', url: 'http://127.0.0.1:2' }] }, calm: { panicThreshold: 0, backends: [{ id: 'x', url: 'http://127.0.0.1:1' }] } } })
  const { proxy } = gateway.app
  for (const name of ['one', 'calm']) {
    const { state } = proxy.upstream(name) as unknown as ProxyManager
    for (const backend of state.list()) backend.ejected = true
    state.onHealth()
  }
  t.match(proxy.getMetrics(), { panic: false, upstreams: { one: { panic: true }, calm: { panic: false } } })
  t.equal(proxy.upstream('one').getMetrics().panic, true)
})

t.test('whoever is chosen is chosen for one reason, whatever way the request came', async t => {
  const gateway = await gatewayOf(t, [{}, {}], { routes: [{ prefix: '/route' }] })
  const { app } = gateway
  await send(gateway, 3, '/route')
  for (let i = 0; i < 2; i++) await (await app.proxy.forwardHttp(new Request('http://gateway/'))).text()
  const { totalRequests, backends } = app.proxy.getMetrics()
  const sum = (because: Because) => Object.values(backends).reduce((sum, { chosenBecause }) => sum + chosenBecause[because], 0)
  t.equal(totalRequests, 5)
  t.strictSame(Object.keys(never).map(because => sum(because as Because)), [5, 0, 0, 0, 0, 0])
})

t.test('a request that is sent again to the same backend is two attempts and one choice', async t => {
  const backend = await rawBackend(t, (_request, wire, { requests }) => requests.length === 2 ? wire.reset() : ok())
  const gateway = await startGateway(t, { backends: [{ id: 'a', url: backend.url }], routes })
  const { proxy } = gateway.app
  await gateway.app.inject('/')
  await until(() => proxy.getConnectionPool().stats().idle === 1)
  await gateway.app.inject('/')
  t.match(proxy.getMetrics(), { totalRequests: 2, totalRetries: 1, backends: { a: { totalRequests: 3, share: 1, chosenBecause: { balancer: 2 } } } })
})

t.test('explain() counts nothing', async t => {
  const gateway = await gatewayOf(t, [{}, {}], { routes: [] }, app => {
    app.get('/explain', async request => (await app.proxy.explain(request)).chosen?.id)
  })
  for (let i = 0; i < 3; i++) t.equal((await gateway.app.inject('/explain')).body, 'a')
  t.match(gateway.app.proxy.getMetrics(), { totalRequests: 0, backends: { a: { totalRequests: 0, chosenBecause: never }, b: { chosenBecause: never } } })
})

t.test('a reset sets shares and reasons to zero, and leaves weights', async t => {
  const gateway = await gatewayOf(t, [{ weight: 3 }, {}], { upstreams: { other: { backends: [{ id: 'o', url: 'http://127.0.0.1:1' }] } } })
  const { proxy } = gateway.app
  await send(gateway, 4)
  proxy.resetMetrics()
  t.match(proxy.getMetrics().backends, {
    a: { totalRequests: 0, share: 0, weight: 3, effectiveWeight: 3, chosenBecause: never },
    b: { totalRequests: 0, share: 0, weight: 1, effectiveWeight: 1, chosenBecause: never }
  })
  await send(gateway, 1)
  t.match(proxy.getMetrics().backends, { a: { share: 1, chosenBecause: { balancer: 1 } }, b: { share: 0 } }, 'and counting goes on')
})
