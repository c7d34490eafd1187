import type { FastifyInstance } from 'fastify'
import type { Test } from 'tap'
import t from 'tap'
import type { Backend, BackendOptions, Explanation, ForwardOptions, RockstarProxyOptions } from '../../types/index.ts'
import { namedGateway } from '../helpers/named.ts'
import { ok, rawBackend, until } from '../helpers/wire.ts'

const V1 = { metadata: { version: 'v1' } }
const V2 = { metadata: { version: 'v2' } }

/** A gateway that explains below `/explain` and forwards below `/`. */
async function explaining (t: Test, given: Record<string, Partial<BackendOptions>>, options: RockstarProxyOptions = {}, asked?: ForwardOptions) {
  const setup = (app: FastifyInstance) => {
    app.get('/explain/*', async request => {
      const { chosen, ...told } = await app.proxy.explain(request, asked)
      return { ...told, chosen: chosen?.id }
    })
  }
  const gateway = await namedGateway(t, given, options, { setup })
  const client = await gateway.client()
  const ask = async (...fields: string[]) => JSON.parse((await client.get('/explain/x', ...fields)).body) as Omit<Explanation, 'chosen'> & { chosen?: string }
  return { gateway, client, ask, proxy: gateway.app.proxy }
}

t.test('it tells which backend a request would go to, and why', async t => {
  const { ask } = await explaining(t, { a: { weight: 2, zone: 'near' }, b: { isActive: false }, c: { weight: 0 } }, { zone: 'near' })
  t.strictSame(await ask(), {
    upstream: 'default',
    balancer: 'round-robin',
    because: 'balancer',
    why: 'it is the only one available',
    panic: false,
    groups: [{ priority: 0, zone: 'own', share: 1, panic: false, backends: ['a'] }],
    backends: [
      { id: 'a', available: true, considered: true, reasons: [], weight: 2, effectiveWeight: 2, priority: 0, zone: 'near', inFlight: 0 },
      { id: 'b', available: false, considered: false, reasons: ['inactive'], weight: 1, effectiveWeight: 1, priority: 0, inFlight: 0 },
      { id: 'c', available: false, considered: false, reasons: ['weight 0'], weight: 0, effectiveWeight: 0, priority: 0, inFlight: 0 }
    ],
    chosen: 'a'
  })
})

t.test('a weight of 0 is somebody\'s will, and so it is told of', async t => {
  const { ask, proxy } = await explaining(t, { a: {}, b: { weight: 0 } })
  t.match((await ask()).backends, [{ id: 'a', available: true }, { id: 'b', available: false, considered: false, reasons: ['weight 0'] }])
  t.match(proxy.getHealthStatus(), { a: { isHealthy: true, source: 'active' }, b: { isHealthy: false, source: 'manual' } })
  proxy.updateBackend('b', { weight: 1 })
  t.match(proxy.getHealthStatus().b, { isHealthy: true, source: 'active' })
})

for (const balancer of ['round-robin', 'weighted-round-robin', 'maglev', 'ring-hash', 'rendezvous', 'ip-hash'] as const) {
  t.test(`it takes no turn, sends nothing and counts nothing: ${balancer}`, async t => {
    const { ask, client, gateway, proxy } = await explaining(t, { a: { weight: 3 }, b: { weight: 2 }, c: {} }, { balancer })
    for (let i = 0; i < 8; i++) {
      const [one, other] = [await ask(), await ask()]
      t.equal(other.chosen, one.chosen)
      t.equal(await client.who(), one.chosen, 'and the next request does go there')
    }
    t.equal(Object.values(gateway.backends).reduce((sum, { requests }) => sum + requests.length, 0), 8)
    t.match(proxy.getMetrics(), { totalRequests: 8, inFlight: 0 })
  })
}

t.test('it does not connect to backends', async t => {
  const { ask, gateway } = await explaining(t, { a: {} })
  t.equal((await ask()).chosen, 'a')
  t.equal(gateway.backends.a.connections.length, 0)
})

t.test('it answers with the very object that is listed', async t => {
  let told: Explanation | undefined
  const gateway = await namedGateway(t, { a: {} }, { routes: [] }, {
    setup: app => {
      app.get('/', async request => {
        told = await app.proxy.explain(request)
        return 'done'
      })
    }
  })
  await (await gateway.client()).who()
  t.equal(told?.chosen, gateway.app.proxy.getBackend('a'))
})

t.test('it tells of health, priorities and panic', async t => {
  const { ask, gateway } = await explaining(t, { a: {}, b: {}, p: { backup: true } })
  gateway.health('a', false)
  const shared = await ask()
  t.match(shared.groups.map(({ priority, backends }) => [priority, backends]), [[0, ['b']], [1, ['p']]])
  t.strictSame(shared.groups.map(({ share }) => Math.round(share * 100)), [70, 30])
  t.match(shared.backends, [{ id: 'a', available: false, considered: false, reasons: ['unhealthy'] }, { considered: true }, { considered: true }])
  gateway.health('b', false)
  t.match(await ask(), { chosen: 'p', because: 'priority', panic: false })
  gateway.health('p', false)
  t.match(await ask(), { because: 'panic', panic: true })
})

t.test('it tells of what a call asks for', async t => {
  const { ask } = await explaining(t, { a: V1, b: V2 }, {}, { match: { version: 'v2' } })
  t.match(await ask(), { chosen: 'b', match: { version: 'v2' }, backends: [{ id: 'a', considered: false, reasons: ['no match'] }, { id: 'b', considered: true, reasons: [] }] })
  const none = await explaining(t, { a: V1 }, {}, { match: { version: 'v3' } })
  const told = await none.ask()
  t.notOk('chosen' in told)
  t.equal(told.why, 'no available backend matches')
  const fallback = await explaining(t, { a: V1 }, {}, { match: { version: 'v3' }, fallback: 'any' })
  t.match(await fallback.ask(), { chosen: 'a', because: 'fallback' })
})

t.test('it tells of a split, by the request\'s own header', async t => {
  const { ask } = await explaining(t, { a: V1, b: V2 }, {}, { split: [{ match: { version: 'v1' } }, { match: { version: 'v2' }, when: { header: 'x-canary' } }] })
  t.match(await ask(), { chosen: 'a', match: { version: 'v1' } })
  t.match(await ask('X-Canary: 1'), { chosen: 'b', match: { version: 'v2' } })
})

t.test('it tells of the client\'s cookie, and gives none', async t => {
  const { ask, client, gateway } = await explaining(t, { a: {}, b: {} }, { affinity: { secret: 'a secret of some length', onUnavailable: 'fail' } })
  await client.get()
  const cookie = `Cookie: ${(await client.get()).values('set-cookie')[0].split(';')[0]}`
  t.match(await ask(cookie), { chosen: 'b', because: 'affinity' })
  t.strictSame((await client.get('/explain/x')).values('set-cookie'), [])
  gateway.health('b', false)
  const told = await ask(cookie)
  t.notOk('chosen' in told)
  t.match(told.why, /cookie names 'b'/)
})

t.test('it tells of another upstream', async t => {
  const { url } = await rawBackend(t, () => ok('x'))
  const { ask, proxy } = await explaining(t, { a: {} }, { upstreams: { other: { backends: [{ id: 'x', url }] } } }, { upstream: 'other' })
  t.match(await ask(), { upstream: 'other', chosen: 'x' })
  const later = await explaining(t, { a: {} }, { upstreams: { other: { backends: [{ id: 'x', url }] } } }, { upstream: async () => 'other' })
  t.match(await later.ask(), { upstream: 'other', chosen: 'x' })
  const unknown = await explaining(t, { a: {} }, {}, { upstream: 'nowhere' })
  t.match(await unknown.ask(), { code: 'FST_ROCKSTAR_UNKNOWN_UPSTREAM' })
  await t.rejects(proxy.upstream('other').explain({} as never, { upstream: 'default' }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS' })
})

t.test('where there is nobody it says so', async t => {
  const { ask } = await explaining(t, {})
  t.match(await ask(), { why: 'no backend is available', groups: [], backends: [] })
})

t.test('a request that could not be forwarded is not explained', async t => {
  const { client } = await explaining(t, { a: {} })
  const response = await client.get('/explain/..%2f..%2fx')
  const forwarded = await client.get('/x/..%2f..%2fx')
  t.equal(response.status, forwarded.status)
  t.equal(response.status, 400)
})

t.test('a user\'s balancer is asked by peek(), be it async; one without is not asked', async t => {
  const asked: string[] = []
  const mine = {
    type: 'mine',
    select: (available: readonly Backend[]) => {
      asked.push('select')
      return available[0]
    },
    peek: async (available: readonly Backend[]) => {
      asked.push('peek')
      return available[1]
    }
  }
  const { ask, proxy } = await explaining(t, { a: {}, b: {} }, { balancer: mine })
  t.match(await ask(), { balancer: 'mine', chosen: 'b', why: "'mine' chose it of 2" })
  t.strictSame(asked, ['peek'])
  proxy.setLoadBalancer({ type: 'silent', select: mine.select })
  const told = await ask()
  t.notOk('chosen' in told)
  t.match(told.why, /'silent' has no peek\(\)/)
  t.strictSame(asked, ['peek'])
  proxy.setLoadBalancer(available => available[1])
  t.match(await ask(), { balancer: 'function', chosen: 'b' })
  for (const [peek, why] of [[() => { throw new Error('boom') }, /boom/], [async () => { throw new Error('later') }, /later/], [() => undefined, /chose none/], [() => ({ id: 'a' }) as Backend, /no backend of this upstream/]] as const) {
    proxy.setLoadBalancer({ type: 'faulty', select: mine.select, peek })
    const told = await ask()
    t.notOk('chosen' in told)
    t.match(told.why, why)
  }
})

t.test('one whose backend goes while it thinks is told as it was asked', async t => {
  let decide = (): void => {}
  let thinking = false
  const peek = async (available: readonly Backend[]) => {
    const [first] = available
    thinking = true
    await new Promise<void>(resolve => { decide = resolve })
    return first
  }
  const { ask, proxy } = await explaining(t, { a: {}, b: {} }, { balancer: { type: 'slow', select: available => available[0], peek } })
  const told = ask()
  await until(() => thinking)
  await proxy.removeBackend('a', { drain: false })
  decide()
  t.match(await told, { balancer: 'slow', backends: [{ id: 'a', reasons: ['draining'] }, { id: 'b' }] })
})
