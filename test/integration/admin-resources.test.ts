import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { CircuitBreaker, LoadBalancer } from '../../types/index.ts'
import { adminRig, changesIn } from '../helpers/admin.ts'
import { httpBackend } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, rawBackend } from '../helpers/wire.ts'

const NOWHERE = 'http://127.0.0.1:1'
const TIME = '2026-01-01T00:00:01.000Z'
const { version } = JSON.parse(readFileSync(join(import.meta.dirname, '../../package.json'), 'utf8'))
const refused = (statusCode: number, code: string, message: string) =>
  ({ statusCode, code: `FST_ROCKSTAR_${code}`, error: { 400: 'Bad Request', 404: 'Not Found', 409: 'Conflict' }[statusCode], message })
const NO_BACKEND = refused(404, 'UNKNOWN_BACKEND', "No backend has the id 'none' in upstream 'default'")
const NO_UPSTREAM = refused(404, 'UNKNOWN_UPSTREAM', "No upstream is named 'none'")

const none = { totalRequests: 0, successfulRequests: 0, failedRequests: 0, abortedRequests: 0, inFlight: 0, averageResponseTime: 0, minResponseTime: 0, maxResponseTime: 0, p50ResponseTime: 0, p90ResponseTime: 0, p99ResponseTime: 0 }
const unconnected = { total: 0, active: 0, idle: 0, pending: 0, connects: 0, connectErrors: 0, requests: 0, reuseRatio: 0 }

t.test('status: the exact JSON', async t => {
  const clock = new FakeClock()
  const { ask } = await adminRig(t, { clock, backends: [{ id: 'a', url: NOWHERE }, { id: 'b', url: NOWHERE, isActive: false }], upstreams: { named: { balancer: 'p2c', breaker: true, dns: false } } }, { plugins: ['status'] })
  clock.advance(1_500)
  const named = {
    name: 'named',
    ready: false,
    panic: false,
    balancer: 'p2c',
    breaker: 'circuit-breaker',
    backends: { total: 0, active: 0, available: 0, unhealthy: 0, ejected: 0, draining: 0 },
    circuits: { open: 0, halfOpen: 0 },
    requests: { ...none, totalRetries: 0, shedRequests: 0, queueLength: 0 },
    connections: unconnected,
    tunnels: { open: 0, total: 0, bytesReceived: 0, bytesSent: 0 },
    dns: null
  }
  const status = await ask('GET', '/status')
  t.equal(status.statusCode, 200)
  t.strictSame(status.json(), {
    version,
    uptime: 1_500,
    ready: true,
    upstreams: [{ ...named, name: 'default', ready: true, balancer: 'round-robin', breaker: 'none', backends: { ...named.backends, total: 2, active: 1, available: 1 }, dns: { hits: 0, stale: 0, misses: 0, errors: 0, queries: 0, failures: 0, names: 0 } }, named]
  })
  t.strictSame((await ask('GET', '/status?upstream=named')).json().upstreams, [named])
  t.strictSame((await ask('GET', '/status?upstream=none')).json(), NO_UPSTREAM)
  t.match((await ask('GET', '/status?x=1')).json(), { statusCode: 400, message: 'query.x is not an option' })
})

t.test('status counts what there is', async t => {
  const { url } = await rawBackend(t, () => ok())
  const rig = await adminRig(t, { backends: [{ id: 'a', url }, { id: 'b', url, weight: 0 }, { id: 'c', url }], breaker: true, routes: [{ prefix: '/' }] }, { plugins: ['status'] })
  rig.proxy.getCircuitBreaker().open?.('c')
  const client = await rig.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await client.response()
  t.match((await rig.ask('GET', '/status')).json().upstreams[0], {
    backends: { total: 3, active: 2, available: 1 }, circuits: { open: 1, halfOpen: 0 }, requests: { totalRequests: 1, successfulRequests: 1 }, connections: { total: 1, idle: 1, requests: 1 }
  })
})

t.test('balancer: seen, switched, the same again keeps what was learned', async t => {
  const rig = await adminRig(t, { backends: [{ id: 'a', url: NOWHERE }], balancer: 'least-requests', upstreams: { named: {} } }, { plugins: ['balancer'] })
  const { ask, proxy } = rig
  t.strictSame((await ask('GET', '/balancer')).json(), { upstream: 'default', type: 'least-requests', own: false, options: { fullScanLimit: 32, choices: 2, bias: 1 } })
  t.strictSame((await ask('PUT', '/balancer', { type: 'peak-ewma', decay: 500 })).json(), { upstream: 'default', type: 'peak-ewma', own: false, options: { decay: 500, penalty: 1000 } })
  const kept = proxy.getLoadBalancer()
  await ask('PUT', '/balancer', { type: 'peak-ewma', decay: 500, penalty: 1000 })
  t.equal(proxy.getLoadBalancer(), kept, 'what is so already stays')
  t.strictSame((await ask('PUT', '/balancer', '"random"')).json(), { upstream: 'default', type: 'random', own: false, options: {} }, 'a name will do')
  for (const [body, options] of [
    [{ type: 'ip-hash', boundedLoad: 1.5 }, { boundedLoad: 1.5 }],
    [{ type: 'maglev', key: { header: 'x-user' }, tableSize: 101 }, { key: { header: 'x-user' }, missing: 'random', boundedLoad: false, tableSize: 101 }],
    [{ type: 'rendezvous' }, { key: 'ip', missing: 'random', boundedLoad: false }],
    [{ type: 'p2c' }, {}], [{ type: 'weighted-round-robin' }, {}], [{ type: 'round-robin' }, {}]
  ] as const) t.strictSame((await ask('PUT', '/balancer?upstream=named', body)).json(), { upstream: 'named', type: body.type, own: false, options })
  t.match((await ask('PUT', '/balancer?upstream=named', { type: 'ring-hash', points: 7 })).json(), { options: { points: 7, key: 'ip' } })
  t.equal(proxy.getLoadBalancer().type, 'random', 'the other upstream has its own')
  const before = changesIn(rig).length
  for (const [body, message] of [
    [{ type: 'p3c' }, /^body.type must be one of 'round-robin'/], ['"p3c"', /^body must be one of 'round-robin'/], [{}, /^body.type must be/], [{ type: 'p2c', decay: 1 }, 'body.decay is not an option'], [{ type: 'peak-ewma', decay: 0 }, 'body.decay must be a number above 0, and is 0'],
    [{ type: 'maglev', key: 'constructor' }, /^body.key must be/], [{ type: 'x', select: 'y' }, /^body/], [[], /^body must be/], [undefined, /^body/], ['5', /^body must be/]
  ] as const) {
    const answer = await ask('PUT', '/balancer', body)
    t.equal(answer.statusCode, 400, answer.body)
    t.equal(answer.json().code, 'FST_ROCKSTAR_INVALID_REQUEST')
    t.match(answer.json().message, message)
  }
  t.equal(proxy.getLoadBalancer().type, 'random')
  t.equal(changesIn(rig).length, before)
  t.match(changesIn(rig)[0], { action: 'switch balancer', upstream: 'default', from: 'least-requests', to: 'peak-ewma', who: '127.0.0.1' })
  t.strictSame((await ask('GET', '/balancer?upstream=none')).json(), NO_UPSTREAM)
})

t.test('a balancer of the application\'s own is shown by its type', async t => {
  const own: LoadBalancer = { type: 'mine', select: available => available[0] }
  const { ask, proxy } = await adminRig(t, { balancer: own }, { plugins: ['balancer'] })
  t.strictSame((await ask('GET', '/balancer')).json(), { upstream: 'default', type: 'mine', own: true, options: {} })
  proxy.setLoadBalancer(available => available[0])
  t.strictSame((await ask('GET', '/balancer')).json(), { upstream: 'default', type: 'function', own: true, options: {} })
  proxy.setLoadBalancer({ type: 'rendezvous', key: () => 'x' })
  t.strictSame((await ask('GET', '/balancer')).json().options, { key: 'function', missing: 'random', boundedLoad: false })
})

t.test('breaker: all circuits, one, opened, closed and reset', async t => {
  const clock = new FakeClock()
  const rig = await adminRig(t, { clock, random: () => 0.5, backends: [{ id: 'a', url: NOWHERE }, { id: 'b', url: NOWHERE }], breaker: { threshold: 1, timeout: 5_000, rules: [{ type: 'failure-rate' }], isFailure: () => true } }, { plugins: ['breaker'] })
  const { ask, proxy } = rig
  const closed = (id: string) => ({ id, upstream: 'default', state: 'closed', retryAfter: 0 })
  t.strictSame((await ask('GET', '/breaker')).json(), {
    upstream: 'default',
    type: 'circuit-breaker',
    own: false,
    options: { threshold: 1, timeout: 5_000, rules: [{ type: 'failure-rate', threshold: 0.5, window: 10_000, minimumRequests: 20 }], jitter: 0.1, halfOpenRequests: 1, successThreshold: 1, isFailure: 'function', maxTimeout: 300_000 },
    open: 0,
    circuits: [closed('a'), closed('b')]
  })
  t.strictSame((await ask('GET', '/breaker/a')).json(), closed('a'))
  t.strictSame((await ask('POST', '/breaker/a/open')).json(), { ...closed('a'), state: 'open', retryAfter: null })
  t.equal(proxy.getBackend('a').available, false)
  t.equal((await ask('POST', '/breaker/a/open')).statusCode, 200, 'twice is as once')
  t.match((await ask('GET', '/breaker')).json(), { open: 1, circuits: [{ state: 'open' }, { state: 'closed' }] })
  t.strictSame((await ask('POST', '/breaker/a/close')).json(), closed('a'))
  await ask('POST', '/breaker/a/open')
  t.strictSame((await ask('POST', '/breaker/a/reset', {})).json(), closed('a'))
  t.equal(proxy.getBackend('a').available, true)
  await proxy.forwardHttp(new Request('http://x/')).catch(() => {})
  const opened = proxy.listBackends().find(({ circuitState }) => circuitState === 'open')?.id
  t.match((await ask('GET', `/breaker/${opened}`)).json(), { state: 'open', retryAfter: 5_000 }, 'how long it will take')
  t.strictSame((await ask('GET', '/breaker/none')).json(), NO_BACKEND)
  for (const action of ['open', 'close', 'reset']) {
    t.strictSame((await ask('POST', `/breaker/none/${action}`)).json(), NO_BACKEND)
    t.strictSame((await ask('POST', `/breaker/a/${action}?upstream=none`)).json(), NO_UPSTREAM)
  }
  t.equal((await ask('POST', '/breaker/a/explode')).statusCode, 404)
  t.strictSame((await ask('GET', '/breaker?upstream=none')).json(), NO_UPSTREAM)
  t.match(changesIn(rig), [{ action: 'open circuit', upstream: 'default', backend: 'a' }, { action: 'open circuit' }, { action: 'close circuit' }, { action: 'open circuit' }, { action: 'reset circuit' }])
})

t.test('a breaker that cannot do it says so', async t => {
  const { ask, proxy } = await adminRig(t, { backends: [{ id: 'a', url: NOWHERE }] }, { plugins: ['breaker'] })
  t.match((await ask('GET', '/breaker')).json(), { type: 'none', own: false, options: {}, open: 0, circuits: [{ id: 'a', state: 'closed' }] })
  const conflict = (type: string, action: string, done: string) => refused(409, 'ADMIN_CONFLICT', `The circuit breaker of upstream 'default', '${type}', has no ${action}(): its circuits cannot be ${done} by hand`)
  t.strictSame((await ask('POST', '/breaker/a/open')).json(), conflict('none', 'open', 'opened'))
  const own: CircuitBreaker = { type: 'mine', createCircuit: () => ({ state: 'half-open', retryAfter: 0, acquire: () => 0, settle () {}, open () {}, close () {} }), getState: () => 'closed', reset () {} }
  proxy.setCircuitBreaker(own)
  t.match((await ask('GET', '/breaker')).json(), { type: 'mine', own: true, options: {}, circuits: [{ id: 'a', state: 'half-open', retryAfter: 0 }] })
  t.strictSame((await ask('POST', '/breaker/a/open')).json(), conflict('mine', 'open', 'opened'))
  t.strictSame((await ask('POST', '/breaker/a/close')).json(), conflict('mine', 'close', 'closed'))
  t.equal((await ask('POST', '/breaker/a/reset')).statusCode, 200)
})

t.test('health: all, one, and checks now that pass or name those that fail', async t => {
  const clock = new FakeClock()
  let status = 200
  const { url } = await httpBackend(t, (_request, response) => { response.statusCode = status; response.end() })
  const rig = await adminRig(t, { clock, health: { path: '/', fall: 1 }, backends: [{ id: 'a', url }], upstreams: { named: { health: false, backends: [{ id: 'gone', url: NOWHERE }] } } }, { plugins: ['health'] })
  const { ask } = rig
  const unknown = { id: 'a', upstream: 'default', isHealthy: true, consecutiveFails: 0, responseTime: 0, errorMessage: '', statusCode: 0, source: 'active', since: TIME, ejections: 0 }
  t.strictSame((await ask('GET', '/health')).json(), { upstream: 'default', ready: true, count: 1, healthy: 1, backends: [unknown] })
  t.strictSame((await ask('GET', '/health/a')).json(), unknown)
  const checked = { ...unknown, lastCheck: TIME, lastSuccess: TIME, statusCode: 200 }
  const passed = await ask('POST', '/health/check')
  t.equal(passed.statusCode, 200)
  t.strictSame(passed.json(), { upstream: 'default', ready: true, count: 1, healthy: 1, backends: [checked], passed: true, failed: [] })
  status = 500
  const failed = await ask('POST', '/health/check', {})
  t.equal(failed.statusCode, 503)
  t.strictSame(failed.json(), {
    statusCode: 503,
    code: 'FST_ROCKSTAR_UNHEALTHY',
    error: 'Service Unavailable',
    message: "Backends of upstream 'default' have failed their health check: a (status 500)",
    upstream: 'default',
    ready: false,
    count: 1,
    healthy: 0,
    backends: [{ ...checked, isHealthy: false, lastFailure: TIME, consecutiveFails: 1, errorMessage: 'status 500', statusCode: 500 }],
    passed: false,
    failed: [{ id: 'a', errorMessage: 'status 500', statusCode: 500 }]
  })
  const named = await ask('POST', '/health/check?upstream=named')
  t.match(named.json(), { statusCode: 503, message: "Backends of upstream 'named' have failed their health check: gone (connect ECONNREFUSED)", failed: [{ id: 'gone', errorMessage: 'connect ECONNREFUSED', statusCode: 0 }], healthy: 1 }, 'without checks of its own too, and then nothing follows')
  t.strictSame((await ask('GET', '/health/none')).json(), NO_BACKEND)
  t.strictSame((await ask('GET', '/health?upstream=none')).json(), NO_UPSTREAM)
  t.strictSame((await ask('POST', '/health/check?upstream=none')).json(), NO_UPSTREAM)
  t.match((await ask('POST', '/health/check', { id: 'a' })).json(), { statusCode: 400, message: 'body.id is not an option' })
  t.match(changesIn(rig), [{ action: 'check health', upstream: 'default' }, {}, { upstream: 'named' }])
})
