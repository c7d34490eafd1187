import t, { type Test } from 'tap'
import type { ProxyManager } from '../../lib/proxy-manager.ts'
import type { BackendInput, RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type Gateway, type GatewaySetup } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { seeded } from '../helpers/random.ts'
import { ok, rawBackend } from '../helpers/wire.ts'

const SECOND = 1_000
const slowStart = { window: 10 * SECOND }

async function named (t: Test, id: string, options = {}): Promise<BackendInput & object> {
  return { id, url: (await rawBackend(t, () => ok(id))).url, ...options }
}

/** A gateway in front of two backends, whose time stands still. */
async function gatewayOf (t: Test, options: RockstarProxyOptions = {}, setup: GatewaySetup = {}): Promise<{ gateway: Gateway, clock: FakeClock }> {
  const clock = new FakeClock()
  const gateway = await startGateway(t, { backends: [await named(t, 'a'), await named(t, 'b')], slowStart, clock, random: seeded(1), routes: [{ prefix: '/' }], ...options }, setup)
  return { gateway, clock }
}

/** How many of the next requests each backend answers. */
async function shares (gateway: Gateway, count: number, url = '/'): Promise<Record<string, number>> {
  const answers: Record<string, number> = {}
  for (let i = 0; i < count; i++) {
    const { body } = await gateway.app.inject(url)
    answers[body] = (answers[body] ?? 0) + 1
  }
  return answers
}

/** Timers that run on, when those of requests that are over have run out. */
function timersOf (clock: FakeClock): number {
  clock.advance(SECOND)
  return clock.timers
}

const weightOf = (gateway: Gateway, id: string) => gateway.app.proxy.getMetrics().backends[id].effectiveWeight

t.test('one that is added gets a tenth of its share at first, and by and by all of it', async t => {
  const { gateway, clock } = await gatewayOf(t)
  t.strictSame(await shares(gateway, 20), { a: 10, b: 10 }, 'those from the beginning have all at once')
  gateway.app.proxy.addBackend(await named(t, 'c'))
  t.strictSame(await shares(gateway, 105), { a: 50, b: 50, c: 5 })
  t.equal(weightOf(gateway, 'c'), 0.1)
  t.match(gateway.app.proxy.getBackend('c').toJSON(), { weight: 1, effectiveWeight: 0.1 })
  clock.advance(5 * SECOND)
  t.strictSame(await shares(gateway, 100), { a: 40, b: 40, c: 20 })
  t.equal(weightOf(gateway, 'c'), 0.5)
  clock.advance(5 * SECOND)
  t.strictSame(await shares(gateway, 60), { a: 20, b: 20, c: 20 })
  t.equal(weightOf(gateway, 'c'), 1)
  t.equal(gateway.app.proxy.getBackend('c').toJSON().effectiveWeight, 1)
})

t.test('a heavier one gets a tenth of its weight, by the same curve', async t => {
  const { gateway, clock } = await gatewayOf(t, { slowStart: { window: 10 * SECOND, aggression: 2 } })
  gateway.app.proxy.addBackend(await named(t, 'c', { weight: 20 }))
  t.strictSame(await shares(gateway, 40), { a: 10, b: 10, c: 20 })
  clock.advance(2.5 * SECOND)
  t.equal(weightOf(gateway, 'c'), 10)
  t.strictSame(await shares(gateway, 120), { a: 10, b: 10, c: 100 })
})

const recoveries: Record<string, [away: (gateway: Gateway) => void, back: (gateway: Gateway) => void]> = {
  'was inactive': [
    ({ app }) => { app.proxy.updateBackend('a', { isActive: false }) },
    ({ app }) => { app.proxy.updateBackend('a', { isActive: true }) }
  ],
  'had weight 0': [
    ({ app }) => { app.proxy.updateBackend('a', { weight: 0 }) },
    ({ app }) => { app.proxy.updateBackend('a', { weight: 1 }) }
  ],
  'was unhealthy': [gateway => setHealth(gateway, { healthy: false }), gateway => setHealth(gateway, { healthy: true })],
  'was ejected': [gateway => setHealth(gateway, { ejected: true }), gateway => setHealth(gateway, { ejected: false })]
}

function setHealth ({ app }: Gateway, health: { healthy?: boolean, ejected?: boolean }): void {
  Object.assign(app.proxy.getBackend('a'), health)
  ;(app.proxy as unknown as ProxyManager).state.onHealth()
}

for (const [what, [away, back]] of Object.entries(recoveries)) {
  t.test(`one that ${what} and comes back starts slowly`, async t => {
    const { gateway, clock } = await gatewayOf(t)
    away(gateway)
    t.strictSame(await shares(gateway, 6), { b: 6 })
    clock.advance(60 * SECOND)
    back(gateway)
    t.strictSame(await shares(gateway, 55), { a: 5, b: 50 })
    t.equal(weightOf(gateway, 'a'), 0.1)
    clock.advance(10 * SECOND)
    t.strictSame(await shares(gateway, 20), { a: 10, b: 10 })
    t.equal(weightOf(gateway, 'a'), 1)
    t.equal(timersOf(clock), 0)
  })
}

t.test('one that comes back has to start, and is all there is meanwhile, takes everything', async t => {
  const { gateway } = await gatewayOf(t, { backends: [await named(t, 'a')] })
  gateway.app.proxy.updateBackend('a', { isActive: false })
  t.equal((await gateway.app.inject('/')).statusCode, 503)
  gateway.app.proxy.updateBackend('a', { isActive: true })
  t.strictSame(await shares(gateway, 5), { a: 5 })
})

t.test('those added before the app is ready are there from the beginning', async t => {
  const c = await named(t, 'c')
  const { gateway, clock } = await gatewayOf(t, {}, { setup: app => { app.proxy.addBackend(c) } })
  t.strictSame(await shares(gateway, 30), { a: 10, b: 10, c: 10 })
  t.equal(timersOf(clock), 0)
})

t.test('`true` is half a minute, in a straight line; `false` and nothing is no slow start', async t => {
  for (const [slowStart, weights] of [[true, [0.1, 0.5, 1]], [false, [1, 1, 1]], [undefined, [1, 1, 1]]] as const) {
    const { gateway, clock } = await gatewayOf(t, { slowStart })
    gateway.app.proxy.addBackend(await named(t, 'c'))
    const seen = [0, 15, 15].map(seconds => {
      clock.advance(seconds * SECOND)
      return weightOf(gateway, 'c')
    })
    t.strictSame(seen, weights)
  }
})

for (const balancer of ['random', 'least-requests', 'p2c', 'weighted-round-robin', 'rendezvous'] as const) {
  t.test(`${balancer} goes by it as well`, async t => {
    let client = 0
    const { gateway, clock } = await gatewayOf(t, { balancer })
    gateway.app.proxy.addBackend(await named(t, 'c'))
    const ask = async () => {
      let answered = 0
      for (let i = 0; i < 300; i++) {
        const { body } = await gateway.app.inject({ url: '/', remoteAddress: `10.0.${client >> 8}.${client++ & 255}` })
        if (body === 'c') answered++
      }
      return answered
    }
    const first = await ask()
    t.ok(first <= 45, `${first} of 300, where 14 are its share`)
    clock.advance(10 * SECOND)
    const last = await ask()
    t.ok(last >= 70 && last <= 130, `${last} of 300`)
  })
}

t.test('upstreams have slow starts of their own, those added while the app serves too', async t => {
  const { gateway, clock } = await gatewayOf(t, {
    slowStart: false,
    upstreams: { one: { backends: [await named(t, 'd')], slowStart, health: false, outlier: false } },
    routes: [{ prefix: '/' }, { prefix: '/one', upstream: 'one' }, { prefix: '/two', upstream: 'two' }]
  })
  const { proxy } = gateway.app
  proxy.addUpstream('two', { backends: [await named(t, 'f')], slowStart: { window: 20 * SECOND }, health: false, outlier: false })
  proxy.addBackend(await named(t, 'c'))
  proxy.upstream('one').addBackend(await named(t, 'e'))
  proxy.upstream('two').addBackend(await named(t, 'g'))
  t.strictSame(await shares(gateway, 30), { a: 10, b: 10, c: 10 })
  t.strictSame(await shares(gateway, 22, '/one'), { d: 20, e: 2 })
  t.strictSame(await shares(gateway, 22, '/two'), { f: 20, g: 2 })
  clock.advance(10 * SECOND)
  t.strictSame(await shares(gateway, 20, '/one'), { d: 10, e: 10 })
  t.strictSame(await shares(gateway, 30, '/two'), { f: 20, g: 10 })
  const { upstreams } = proxy.getMetrics()
  t.equal(upstreams.one.backends.e.effectiveWeight, 1)
  t.equal(upstreams.two.backends.g.effectiveWeight, 0.5)
  t.equal(upstreams.two.backends.f.effectiveWeight, 1)
  await proxy.removeUpstream('two')
  t.equal(timersOf(clock), 0, 'nobody follows one that is gone')
})

t.test('nothing runs while nobody starts, nor after the app has closed in the middle of it', async t => {
  const { gateway, clock } = await gatewayOf(t)
  t.equal(clock.timers, 0)
  gateway.app.proxy.addBackend(await named(t, 'c'))
  t.equal(clock.timers, 1)
  await gateway.app.close()
  t.equal(clock.timers, 0)
})

t.test('options that make no sense are refused, saying where', async t => {
  for (const [slowStart, message] of [
    [{ window: 0 }, /options\.slowStart\.window must be a number above 0, and is 0/],
    [{ aggression: -1 }, /options\.slowStart\.aggression must be a number above 0, and is -1/],
    [{ windw: 1 }, /options\.slowStart\.windw is not an option; did you mean 'window'\?/],
    ['fast', /options\.slowStart must be a boolean or an object \{ window, aggression \}, and is 'fast'/]
  ] as const) {
    await t.rejects(startGateway(t, { slowStart } as unknown as RockstarProxyOptions), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message })
  }
})
