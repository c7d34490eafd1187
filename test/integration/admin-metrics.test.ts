import swagger from '@fastify/swagger'
import Fastify from 'fastify'
import { request } from 'node:http'
import { Counter, Registry } from 'prom-client'
import t from 'tap'
import type { Test } from 'tap'
import { systemClock } from '../../lib/clock.ts'
import metrics from '../../plugins/metrics.ts'
import rockstarProxy from '../../plugins/index.ts'
import type { AdminOptions, RockstarProxyOptions } from '../../types/index.ts'
import { adminRig, changesIn } from '../helpers/admin.ts'
import { startGateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { parseScrape } from '../helpers/prometheus.ts'
import { promtool } from '../helpers/promtool.ts'
import { ok, rawBackend, until } from '../helpers/wire.ts'

const NOWHERE = 'http://127.0.0.1:1'
const TEXT = 'text/plain; version=0.0.4; charset=utf-8'
const OPENMETRICS = 'application/openmetrics-text; version=1.0.0; charset=utf-8'

const times = { averageResponseTime: 0, minResponseTime: 0, maxResponseTime: 0, p50ResponseTime: 0, p90ResponseTime: 0, p99ResponseTime: 0 }
const counts = { totalRequests: 0, successfulRequests: 0, failedRequests: 0, abortedRequests: 0, inFlight: 0, ...times }
const nothing = {
  ...counts,
  totalRetries: 0,
  retriesDenied: 0,
  hedgedRequests: 0,
  hedgesWon: 0,
  queuedRequests: 0,
  queueLength: 0,
  shedRequests: 0,
  timeouts: { queue: 0, connect: 0, send: 0, wait: 0, stream: 0, client: 0, request: 0 },
  fallbacksServed: 0,
  mirroredRequests: 0,
  mirrorsSkipped: 0,
  tunnels: { open: 0, total: 0, bytesReceived: 0, bytesSent: 0 },
  panic: false
}
const chosenBecause = { balancer: 0, affinity: 0, priority: 0, zone: 0, fallback: 0, panic: 0 }
const idle = { ...counts, share: 0, weight: 1, effectiveWeight: 1, limit: null, chosenBecause }

/** A gateway before a backend whose answers have the status that their path begins with; `/hold` is not answered. */
async function rig (t: Test, options: RockstarProxyOptions = {}, admin: AdminOptions = {}) {
  const backend = await rawBackend(t, (request, wire) => {
    const path = request.startLine.split(' ')[1]
    if (path.startsWith('/reset')) return wire.reset()
    if (path.startsWith('/hold')) return
    return ok('body', '', `${/^\/(\d{3})/.exec(path)?.[1] ?? 200} Status`)
  })
  const rig = await adminRig(t, {
    clock: new FakeClock(),
    backends: [{ id: 'a', url: backend.url }],
    routes: [{ prefix: '/' }, { prefix: '/two', upstream: 'two' }],
    upstreams: { two: { backends: [{ id: 'b', url: backend.url }] } },
    ...options
  }, { plugins: ['metrics'], ...admin })
  const scrape = async () => parseScrape((await rig.ask('GET', '/metrics/prometheus')).body)
  return { ...rig, backend, scrape }
}

t.test('GET /metrics is what getMetrics() gives, of all upstreams or of one', async t => {
  const { ask, app, proxy } = await rig(t)
  const all = await ask('GET', '/metrics')
  t.equal(all.statusCode, 200)
  t.equal(all.headers['content-type'], 'application/json; charset=utf-8')
  t.strictSame(all.json(), { ...nothing, backends: { a: idle }, upstreams: { two: { ...nothing, backends: { b: idle } } } })
  await app.inject('/200')
  await app.inject('/two/500')
  const after = (await ask('GET', '/metrics')).json()
  t.strictSame(after, JSON.parse(JSON.stringify(proxy.getMetrics())))
  t.match(after, { totalRequests: 1, successfulRequests: 1, failedRequests: 0, backends: { a: { successfulRequests: 1, share: 1, chosenBecause: { balancer: 1 } } }, upstreams: { two: { failedRequests: 1 } } })
  const { upstreams: _, ...own } = after
  t.strictSame((await ask('GET', '/metrics?upstream=default')).json(), own, 'the default one alone')
  t.strictSame((await ask('GET', '/metrics?upstream=two')).json(), after.upstreams.two)
})

t.test('DELETE /metrics sets to zero what GET /metrics shows, or one upstream, and is logged', async t => {
  const { ask, app, proxy, log } = await rig(t)
  const ask2 = async () => { for (const path of ['/200', '/two/200']) await app.inject(path) }
  const totals = () => ['default', 'two'].map(name => proxy.upstream(name).getMetrics().totalRequests)
  await ask2()
  const one = await ask('DELETE', '/metrics?upstream=two')
  t.equal(one.statusCode, 200)
  t.strictSame(one.json(), { reset: ['two'] })
  t.strictSame(totals(), [1, 0])
  await ask2()
  t.strictSame((await ask('DELETE', '/metrics?upstream=default')).json(), { reset: ['default'] })
  t.strictSame(totals(), [0, 1])
  await ask2()
  t.strictSame((await ask('DELETE', '/metrics')).json(), { reset: ['default', 'two'] })
  t.strictSame(totals(), [0, 0])
  t.match(changesIn({ log } as never), [{ action: 'reset metrics', upstreams: ['two'], who: '127.0.0.1' }, { upstreams: ['default'] }, { upstreams: ['default', 'two'] }])
})

t.test('what is not right is refused, and nothing is reset', async t => {
  const { ask, app, proxy } = await rig(t, {}, { onChange: async () => { throw Object.assign(new Error('not you'), { statusCode: 403 }) } })
  await app.inject('/200')
  const cases: [method: 'GET' | 'DELETE', path: string, status: number][] = [
    ['GET', '/metrics?upstream=none', 404],
    ['GET', '/metrics?upstream=__proto__', 404],
    ['GET', '/metrics?upstream=', 400],
    ['GET', '/metrics?upstreams=two', 400],
    ['GET', '/metrics?upstream=two&upstream=default', 400],
    ['DELETE', '/metrics', 403],
    ['GET', '/metrics/prometheus?upstream=two', 400]
  ]
  for (const [method, path, status] of cases) t.equal((await ask(method, path)).statusCode, status, `${method} ${path}`)
  t.match((await ask('GET', '/metrics?upstreams=two')).json(), { statusCode: 400, code: 'FST_ROCKSTAR_INVALID_REQUEST', message: "query.upstreams is not an option; did you mean 'upstream'?" })
  t.equal(proxy.getMetrics().totalRequests, 1)
  const { ask: open, proxy: other } = await rig(t)
  t.equal((await open('DELETE', '/metrics', { all: true })).statusCode, 400, 'a body that says what is not known')
  t.equal((await open('DELETE', '/metrics?upstream=none')).statusCode, 404)
  t.equal(other.getMetrics().totalRequests, 0)
})

t.test('other machines are refused, and other websites', async t => {
  const { ask } = await rig(t)
  for (const path of ['/metrics', '/metrics/prometheus']) {
    t.equal((await ask('GET', path, undefined, {}, '192.0.2.1')).statusCode, 403)
    t.equal((await ask('GET', path, undefined, { host: 'rebound.example' })).statusCode, 403)
    t.equal((await ask('GET', path, undefined, { 'sec-fetch-site': 'cross-site' })).statusCode, 403)
  }
  const guarded = await rig(t, {}, { onRequest: async request => { if (request.headers.authorization !== 'Bearer key') throw Object.assign(new Error('who?'), { statusCode: 401 }) } })
  t.equal((await guarded.ask('GET', '/metrics/prometheus', undefined, {}, '192.0.2.1')).statusCode, 401)
  t.equal((await guarded.ask('GET', '/metrics/prometheus', undefined, { host: 'proxy.internal', authorization: 'Bearer key' }, '192.0.2.1')).statusCode, 200, 'Prometheus has a machine of its own')
})

t.test('Prometheus is told by a real connection, in the format it likes', async t => {
  const { url } = await rig(t)
  const cases: [accept: string, type: string][] = [['*/*', TEXT], ['application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1', OPENMETRICS], ['application/json', TEXT]]
  for (const [accept, type] of cases) {
    const response = await fetch(`${url}/proxy/metrics/prometheus`, { headers: { accept } })
    t.equal(response.status, 200)
    t.equal(response.headers.get('content-type'), type, accept)
    t.match(response.headers.get('vary'), /accept/i)
    t.equal(parseScrape(await response.text(), type === OPENMETRICS).value('rockstar_proxy_backends', { upstream: 'default' }), 1)
  }
  const head = await fetch(`${url}/proxy/metrics/prometheus`, { method: 'HEAD' })
  t.equal(head.status, 200)
  t.equal(head.headers.get('content-type'), TEXT)
})

t.test('what has happened is what is scraped', async t => {
  const { app, scrape, proxy, backend, connect } = await rig(t, { clock: systemClock, retry: { attempts: 2 }, limits: { maxPerBackend: 5 }, timeout: { headers: 1_000 } })
  for (const path of ['/200', '/204', '/404', '/500', '/reset']) await app.inject(path)
  const client = await connect()
  client.send('GET /hold HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => backend.requests.some(({ startLine }) => startLine.includes('/hold')))
  const during = await scrape()
  t.equal(during.value('rockstar_proxy_requests_in_flight', { upstream: 'default' }), 1)
  t.equal(during.value('rockstar_proxy_attempts_in_flight', { upstream: 'default', backend: 'a' }), 1)
  client.reset()
  await until(() => proxy.getMetrics().inFlight === 0)
  const found = await scrape()
  const m = proxy.getMetrics()
  const of = { upstream: 'default' }
  const outcomes = (name: string) => Object.fromEntries(found.all(name, of).map(({ labels, value }) => [labels.outcome, value]))
  t.strictSame(outcomes('rockstar_proxy_requests_total'), { successful: 3, failed: 2, aborted: 1 })
  t.strictSame(outcomes('rockstar_proxy_attempts_total'), { successful: m.backends.a.successfulRequests, failed: m.backends.a.failedRequests, aborted: m.backends.a.abortedRequests })
  t.ok(m.backends.a.failedRequests >= 2)
  t.equal(found.value('rockstar_proxy_request_duration_seconds_count', of), 5, 'aborted ones have no time')
  t.ok(m.totalRetries > 0)
  t.equal(found.value('rockstar_proxy_retries_total', of), m.totalRetries)
  t.equal(found.value('rockstar_proxy_attempts_limit', of), 5)
  t.equal(found.all('rockstar_proxy_attempts_limit', { upstream: 'two' }).length, 0, 'no limit, no series')
  const { connects, requests, reuseRatio } = proxy.getConnectionPool().stats().backends.a
  t.equal(found.value('rockstar_proxy_connects_total', of), connects)
  t.equal(found.value('rockstar_proxy_connection_requests_total', of), requests)
  t.equal(found.value('rockstar_proxy_connection_reuses_total', of) / requests, reuseRatio)
  t.equal(found.value('rockstar_proxy_requests_total', { upstream: 'two', outcome: 'successful' }), 0)
})

t.test('what an operator does to a backend, and what is found wrong with it', async t => {
  const { scrape, proxy } = await rig(t, { backends: [{ id: 'a', url: NOWHERE, weight: 3 }, { id: 'c', url: NOWHERE }], breaker: true, panicThreshold: 0.6 })
  const of = (backend: string) => ({ upstream: 'default', backend })
  const flags = async (backend: string) => {
    const found = await scrape()
    return Object.fromEntries(['up', 'available', 'active', 'healthy', 'ejected', 'draining', 'weight'].map(name => [name, found.value(`rockstar_proxy_backend_${name}`, of(backend))]))
  }
  const states = async (backend: string) => Object.fromEntries((await scrape()).all('rockstar_proxy_backend_circuit_state', of(backend)).map(({ labels, value }) => [labels.state, value]))
  t.strictSame(await flags('a'), { up: 1, available: 1, active: 1, healthy: 1, ejected: 0, draining: 0, weight: 3 })
  t.strictSame(await states('a'), { closed: 1, open: 0, 'half-open': 0 })
  proxy.getCircuitBreaker().open?.('a')
  t.strictSame(await flags('a'), { up: 0, available: 0, active: 1, healthy: 1, ejected: 0, draining: 0, weight: 3 })
  t.strictSame(await states('a'), { closed: 0, open: 1, 'half-open': 0 })
  const found = await scrape()
  t.equal(found.value('rockstar_proxy_panic', { upstream: 'default' }), 1)
  t.equal(found.value('rockstar_proxy_backends_available', { upstream: 'default' }), 1)
  t.equal(found.value('rockstar_proxy_events_total', { upstream: 'default', event: 'circuit:open' }), 1)
  t.equal(found.value('rockstar_proxy_events_total', { upstream: 'default', event: 'panic:on' }), 1)
  t.equal(found.value('rockstar_proxy_events_total', { upstream: 'two', event: 'circuit:open' }), 0)
  proxy.updateBackend('c', { isActive: false })
  t.strictSame(await flags('c'), { up: 1, available: 0, active: 0, healthy: 1, ejected: 0, draining: 0, weight: 1 }, 'nothing is wrong with one that was taken out')
  await proxy.removeBackend('c')
  t.equal((await scrape()).all('rockstar_proxy_backend_up', of('c')).length, 0)
  await proxy.healthCheck().catch(() => {})
  t.equal((await scrape()).value('rockstar_proxy_health_checks_total', { ...of('a'), result: 'failed' }), 1)
})

t.test('a thousand backends are told in pieces, whole, while requests are served', async t => {
  const backend = await rawBackend(t, () => ok())
  const { port, url } = await adminRig(t, {
    backends: Array.from({ length: 1_000 }, (_, i) => `http://10.1.${i >> 8}.${i & 255}`),
    upstreams: { one: { backends: [backend.url] } },
    routes: [{ prefix: '/one', upstream: 'one' }]
  }, { plugins: ['metrics'] })
  const order: string[] = []
  let text = ''
  const whole = new Promise<void>((resolve, reject) => {
    request({ port, host: '127.0.0.1', path: '/proxy/metrics/prometheus', headers: { host: 'localhost' } }, answer => {
      t.equal(answer.headers['transfer-encoding'], 'chunked')
      answer.setEncoding('utf8').on('data', chunk => { text += chunk }).on('end', () => {
        order.push('scraped')
        resolve()
      })
    }).on('error', reject).end()
  })
  await until(() => text.length > 0)
  await (await fetch(`${url}/one`)).text()
  order.push('served')
  await whole
  t.strictSame(order, ['served', 'scraped'])
  t.equal(parseScrape(text).all('rockstar_proxy_backend_up').length, 1_001)
})

t.test('a scraper that goes away half-way is no loss', async t => {
  const { port, log, url } = await adminRig(t, { backends: Array.from({ length: 300 }, (_, i) => `http://10.1.${i >> 8}.${i & 255}`) }, { plugins: ['metrics'] })
  await new Promise<void>(resolve => {
    request({ port, host: '127.0.0.1', path: '/proxy/metrics/prometheus', headers: { host: 'localhost' } }, answer => answer.once('data', () => answer.destroy()).once('close', resolve)).on('error', () => {}).end()
  })
  t.equal((await fetch(`${url}/proxy/metrics`)).status, 200)
  t.strictSame(log.filter(({ level }) => level >= 50), [])
})

t.test('with a registry of prom-client there is one scrape for all that the application has', async t => {
  const registry = new Registry()
  const own = new Counter({ name: 'app_orders_total', help: 'Orders.', registers: [registry] })
  own.inc(2)
  const { ask, app } = await rig(t, {}, { metrics: { registry, labels: { proxy: 'edge' } } })
  await app.inject('/200')
  const told = await ask('GET', '/metrics/prometheus')
  t.equal(told.headers['content-type'], TEXT)
  const found = parseScrape(told.body.replaceAll('\n\n', '\n'))
  t.equal(found.value('app_orders_total'), 2)
  t.equal(found.value('rockstar_proxy_requests_total', { proxy: 'edge', upstream: 'default', outcome: 'successful' }), 1)
  t.match(await registry.metrics(), 'rockstar_proxy_requests_total{', 'and it is in the application\'s own')
  await app.close()
  t.notMatch(await registry.metrics(), 'rockstar_proxy_', 'until the application closes')
  t.match(await registry.metrics(), 'app_orders_total 2')
})

t.test('the sub-plugin by itself, below any prefix, and several registrations in one registry', async t => {
  const registry = new Registry()
  const app = Fastify()
  t.teardown(() => app.close())
  for (const name of ['one', 'two']) {
    await app.register(async scope => {
      await scope.register(rockstarProxy, { health: false, backends: [{ id: 'same', url: NOWHERE }] })
      await scope.register(metrics, { prefix: `/${name}`, registry, labels: { proxy: name } })
      await scope.register(metrics, { prefix: `/${name}/alone` })
    })
  }
  const get = (url: string) => app.inject({ url, headers: { host: 'localhost' }, remoteAddress: '127.0.0.1' })
  const both = parseScrape((await get('/one/metrics/prometheus')).body.replaceAll('\n\n', '\n'))
  t.strictSame(both.all('rockstar_proxy_backend_up').map(({ labels }) => labels.proxy), ['one', 'two'])
  const alone = parseScrape((await get('/two/alone/metrics/prometheus')).body)
  t.strictSame(alone.all('rockstar_proxy_backend_up').map(({ labels }) => ({ ...labels })), [{ upstream: 'default', backend: 'same' }])
})

t.test('what cannot be told apart or is no registry is refused at once', async t => {
  const registry = new Registry()
  const start = async (...all: object[]) => {
    const app = Fastify()
    t.teardown(() => app.close().catch(() => {}))
    for (const options of all) app.register(async scope => { await scope.register(rockstarProxy, { health: false, admin: { plugins: ['metrics'], ...options } as AdminOptions }) })
    await app.ready()
  }
  const invalid = (message: string | RegExp) => ({ code: 'FST_ROCKSTAR_INVALID_OPTIONS', message })
  await t.rejects(start({ metrics: { registry } }, { prefix: '/b', metrics: { registry } }), invalid(/registry must not have the metrics of another registration with the same labels/))
  await t.rejects(start({ metrics: { registry: {} } }), invalid(/^options\.admin\.metrics\.registry/))
  await t.rejects(start({ metrics: { registry: 'default' } }), invalid(/^options\.admin\.metrics\.registry must be a Registry of prom-client, and is 'default'$/))
  await t.rejects(start({ metrics: { perBackend: 'all' } }), invalid("options.admin.metrics.perBackend must be a boolean or 'numbers', and is 'all'"))
  for (const name of ['upstream', 'backend', 'outcome', 'le']) await t.rejects(start({ metrics: { labels: { [name]: 'x' } } }), invalid(`options.admin.metrics.labels.${name} must not be there: metrics have a label of that name themselves`))
  for (const name of ['__name__', '1st', 'a-b', '', 'ü']) await t.rejects(start({ metrics: { labels: { [name]: 'x' } } }), invalid(`options.admin.metrics.labels must have names of letters, digits and _, with no digit and no __ at their beginning, and has '${name}'`))
  await t.rejects(start({ metrics: { labels: { proxy: 1 } } }), invalid(/^options\.admin\.metrics\.labels/))
  await t.rejects(start({ metrics: { label: {} } }), invalid("options.admin.metrics.label is not an option; did you mean 'labels'?"))
})

t.test('errors say where the options are', async t => {
  const app = Fastify()
  t.teardown(() => app.close().catch(() => {}))
  await app.register(rockstarProxy, { health: false })
  app.register(metrics, { labels: { le: 'x' } })
  await t.rejects(async () => { await app.ready() }, { message: 'options of rockstar-proxy/metrics.labels.le must not be there: metrics have a label of that name themselves' })
})

t.test('OpenAPI knows the routes, their answers and their types', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(swagger, { openapi: {} })
  await app.register(rockstarProxy, { health: false, admin: { plugins: ['metrics'] } })
  await app.ready()
  const { paths } = app.swagger() as unknown as { paths: Record<string, Record<string, { tags: string[], summary: string, responses: Record<string, { content: Record<string, { schema: { properties?: object } }> }> }>> }
  t.strictSame(Object.entries(paths).map(([path, routes]) => [path, Object.keys(routes)]), [['/proxy/metrics', ['get', 'delete']], ['/proxy/metrics/prometheus', ['get']]])
  t.match(paths['/proxy/metrics'].get, { tags: ['proxy metrics'], summary: 'See what is counted' })
  t.hasProps(paths['/proxy/metrics'].get.responses[200].content['application/json'].schema.properties ?? {}, ['totalRequests', 'upstreams', 'tunnels'])
  t.strictSame(Object.keys(paths['/proxy/metrics/prometheus'].get.responses[200].content), [TEXT, OPENMETRICS])
})

t.test('promtool reads what is scraped by a real connection', async t => {
  const { url, app } = await rig(t, { breaker: true, limits: { maxInFlight: 5, maxPerBackend: 2 } })
  for (const path of ['/200', '/500', '/two/reset']) await app.inject(path)
  const text = await (await fetch(`${url}/proxy/metrics/prometheus`)).text()
  const checked = promtool(t, ['check', 'metrics'], text)
  if (checked !== undefined) t.strictSame(checked, { status: 0, output: '' })
})

t.test('a gateway without the option counts all the same, and tells nobody', async t => {
  const { app } = await startGateway(t, { backends: [NOWHERE] })
  t.equal((await app.inject({ url: '/proxy/metrics/prometheus', headers: { host: 'localhost' } })).statusCode, 404)
})
