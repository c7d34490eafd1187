import fc from 'fast-check'
import type { FastifyInstance } from 'fastify'
import { isDeepStrictEqual } from 'node:util'
import t from 'tap'
import { adminRig, type Ask, type Method } from '../helpers/admin.ts'
import { FakeClock } from '../helpers/clock.ts'
import { rawBackend } from '../helpers/wire.ts'

/** As URLs can have it. */
const wellFormed = (text: string) => Buffer.from(text).toString()

const RUNS = 1_200

/** All that requests of operators could change, but for what only time does. */
function stateOf (app: FastifyInstance): unknown {
  return app.proxy.listUpstreams().map(upstream => [
    upstream.name,
    upstream.getLoadBalancer(),
    upstream.getCircuitBreaker().type,
    upstream.listBackends().map(backend => ({ ...backend.toJSON(), healthCheck: (backend as { healthCheck?: object }).healthCheck, revision: (backend as { revision?: number }).revision }))
  ])
}

const nasty = fc.constantFrom('__proto__', 'constructor', 'prototype', 'toString', '..', '.', '', '/', '%', '%2e', '<script>', "'\"`", '\0', '\n', '\ud800', '😀', 'a'.repeat(200), 'a', 'b', 'check', 'open')
const text = fc.oneof(nasty, fc.string(), fc.string({ unit: 'binary' }))
const place = fc.constantFrom('http://127.0.0.1:1', 'http://127.0.0.1:2/base', 'https://127.0.0.1:1', 'unix:/tmp/x.sock', 'http://[::1]:1', 'http://0x7f.1:1', 'ftp://x', 'http://', 'http://user:pw@x', 'http://x?y', 'javascript:alert(1)', '//x', 'unix:', 'http://unix:/x')
const value: fc.Arbitrary<unknown> = fc.oneof(text, place, fc.integer(), fc.double(), fc.boolean(), fc.constant(null), fc.constantFrom(-1, 0, 1, 65_535, 65_536, 1e300, 2 ** 53), fc.jsonValue({ maxDepth: 3 }))
const likely = fc.record({
  id: fc.oneof(fc.constantFrom('a', 'b', 'c'), value),
  url: fc.oneof(place, value),
  weight: value,
  priority: value,
  zone: value,
  isActive: value,
  backup: value,
  http2: value,
  type: fc.oneof(fc.constantFrom('p2c', 'maglev', 'ring-hash', 'ip-hash', 'peak-ewma'), value),
  metadata: fc.oneof(fc.dictionary(text, value), value),
  timeout: value,
  tls: fc.oneof(fc.record({ ca: value, key: value, servername: value }, { requiredKeys: [] }), value),
  key: value,
  decay: value,
  tableSize: fc.oneof(fc.constantFrom(7, 101), value),
  healthCheck: fc.oneof(fc.record({ path: value, interval: value, timeout: value, expectedStatus: value, expectedBody: value, headers: fc.dictionary(text, text), port: value, method: value, host: value, initial: value, rise: value }, { requiredKeys: [] }), value)
}, { requiredKeys: [] })
const good = fc.constantFrom<unknown>({ url: 'http://127.0.0.1:1' }, { id: 'a', url: 'http://127.0.0.1:9' }, { id: 'd', url: 'http://127.0.0.1:9' }, { id: 'c', url: 'http://127.0.0.1:1' }, { weight: 3 }, { isActive: true }, { type: 'p2c' }, {}, undefined)
const body = fc.oneof(likely, likely, { weight: 4, arbitrary: good }, value, fc.constant(undefined), fc.constant('{"__proto__":{"weight":1}}'), fc.constant('{"metadata":{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}}}}'), fc.constant('{'))
const id = fc.oneof(fc.constantFrom('a', 'b', 'c'), text).map(id => encodeURIComponent(wellFormed(id)))
const path = fc.oneof(
  fc.constantFrom('/status', '/backends', '/balancer', '/breaker', '/health', '/health/check', '/backends/', '/nothing', '/backends/%', '/backends/%ff', '/..', '//'),
  id.map(id => `/backends/${id}`), id.map(id => `/backends/${id}/drain`), id.map(id => `/breaker/${id}`), fc.tuple(id, fc.constantFrom('open', 'close', 'reset', 'x')).map(([id, action]) => `/breaker/${id}/${action}`), id.map(id => `/health/${id}`)
)
const query = fc.oneof({ weight: 6, arbitrary: fc.constantFrom('', '?upstream=named') }, fc.constantFrom('', '', '', '?upstream=named', '?upstream=none', '?upstream=a&upstream=b', '?drain=0', '?drain=false', '?drain=x', '?__proto__=1', '?constructor[prototype]=1', '?%', '?upstream=%00'), text.map(text => `?upstream=${encodeURIComponent(wellFormed(text))}`), text.map(text => `?${encodeURIComponent(wellFormed(text))}=1`))
const headers = fc.oneof({ weight: 3, arbitrary: fc.constant({}) }, fc.record({
  'if-match': fc.oneof(fc.constantFrom('*', '"x"', 'W/"x"', ',,,', '"'), fc.stringMatching(/^[\x20-\x7e]*$/)),
  'if-none-match': fc.constantFrom('*', '"x"', ''),
  'content-type': fc.constantFrom('application/json', 'text/plain', 'application/json; charset=x', ''),
  origin: fc.constantFrom('null', 'http://localhost:8080', 'http://evil.example'),
  'sec-fetch-site': fc.constantFrom('none', 'same-origin', 'cross-site'),
  accept: fc.constantFrom('text/html', '*/*')
}, { requiredKeys: [] }))
const method = fc.constantFrom<Method>('GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS')
const listed = fc.constantFrom('a', 'b', 'c')
/** Half of them are of routes that there are. */
const target = fc.oneof(
  fc.tuple(method, path),
  fc.oneof(
    fc.constantFrom<[Method, string]>(['GET', '/status'], ['GET', '/backends'], ['POST', '/backends'], ['POST', '/backends'], ['POST', '/backends'], ['GET', '/balancer'], ['PUT', '/balancer'], ['GET', '/breaker'], ['GET', '/health'], ['POST', '/health/check']),
    fc.tuple(fc.constantFrom<Method>('GET', 'PUT', 'PATCH', 'DELETE'), listed.map(id => `/backends/${id}`)),
    fc.tuple(fc.constant<Method>('POST'), listed.map(id => `/backends/${id}/drain`)),
    fc.tuple(fc.constant<Method>('POST'), fc.tuple(listed, fc.constantFrom('open', 'close', 'reset')).map(([id, action]) => `/breaker/${id}/${action}`))
  )
)

const some = fc.record({ weight: fc.nat(9), zone: fc.constantFrom('x', 'y'), isActive: fc.boolean(), metadata: fc.dictionary(text, fc.string()).filter(metadata => !Object.hasOwn(metadata, '__proto__')) }, { requiredKeys: [] })
const where = fc.record({ url: fc.oneof(fc.constantFrom('http://127.0.0.1:1', 'http://127.0.0.1:9'), place), healthCheck: fc.constantFrom({}, {}, { path: '/' }, { host: 'x' }, { port: 1 }) })
const whole = fc.tuple(some, where).map(parts => Object.assign({}, ...parts) as object)
const put = (path: string, method: Method, body: fc.Arbitrary<unknown>) => fc.tuple(fc.tuple(fc.constant(method), listed.map(id => `/backends/${id}${path}`)), fc.constantFrom('', '', '?upstream=named'), body, fc.constantFrom({}, {}, { 'if-match': '*' }, { 'if-match': '"x"' }, { 'if-none-match': '*' }))
/** What operators send who know what they do. */
const sensible = fc.oneof(
  fc.tuple(fc.constant<[Method, string]>(['POST', '/backends']), fc.constantFrom('', '?upstream=named'), fc.tuple(whole, listed).map(([body, id]) => ({ ...body, id })), fc.constant({})),
  put('', 'PUT', whole), put('', 'PATCH', some), put('/drain', 'POST', fc.constantFrom({}, { timeout: 0 })), put('', 'DELETE', fc.constant(undefined)),
  fc.tuple(fc.constant<[Method, string]>(['PUT', '/balancer']), fc.constant(''), fc.constantFrom({ type: 'p2c' }, { type: 'random' }, { type: 'maglev', tableSize: 101 }), fc.constant({}))
)
const request = fc.oneof(fc.tuple(target, query, body, headers), sensible)

t.test('no request of an operator gives a 5xx, and what is refused changes nothing', async t => {
  // What is added cannot be reached, and its checks need not be waited for.
  const backend = await rawBackend(t, () => {})
  const rig = await adminRig(t, { clock: new FakeClock(), breaker: true, health: true, backends: [{ id: 'a', url: backend.url }, { id: 'b', url: backend.url }], upstreams: { named: { backends: [{ id: 'a', url: backend.url }] } } }, { plugins: ['status', 'backends', 'balancer', 'breaker', 'health'] }, { fastify: { logger: false } })
  const { app, ask } = rig
  const seen = new Map<number, number>()
  const property = fc.asyncProperty(request, async ([[method, path], query, body, headers]) => {
    const before = stateOf(app)
    const { statusCode, body: text } = await ask(method, path + query, ['GET', 'HEAD', 'OPTIONS'].includes(method) ? undefined : body, headers)
    seen.set(statusCode, (seen.get(statusCode) ?? 0) + 1)
    const is503 = statusCode === 503 && method === 'POST' && path === '/health/check' && JSON.parse(text).code === 'FST_ROCKSTAR_UNHEALTHY'
    if (statusCode >= 500 && !is503) throw new Error(`${statusCode} ${text}`)
    if (statusCode >= 400 && !is503 && !isDeepStrictEqual(stateOf(app), before)) throw new Error(`${statusCode} has changed something`)
    if (['GET', 'HEAD', 'OPTIONS'].includes(method) && !isDeepStrictEqual(stateOf(app), before)) throw new Error(`${method} has changed something`)
    if (statusCode >= 400 && !/^\{"statusCode":\d+|^\{"message"|^\{"error"/.test(text) && method !== 'HEAD' && method !== 'OPTIONS') throw new Error(`no error: ${text}`)
    if ((Object.prototype as { polluted?: unknown }).polluted !== undefined || Object.keys(Object.prototype).length > 0) throw new Error('all objects have changed')
    await keepTwo(app, ask)
  })
  await fc.assert(property, { numRuns: RUNS })
  const ways = [200, 201, 400, 403, 404, 409, 412, 415]
  t.comment(Object.fromEntries([...seen].sort()))
  for (const status of ways) t.ok(seen.has(status), `there was a ${status}`)
  t.equal((await ask('GET', '/backends')).statusCode, 200)
})

/** Whatever has come goes, so that there is always something to change. */
async function keepTwo ({ proxy }: FastifyInstance, ask: Ask): Promise<void> {
  if (proxy.listBackends().length > 5) for (const { id } of proxy.listBackends().slice(0, 4)) await ask('DELETE', `/backends/${encodeURIComponent(id)}?drain=false`)
  for (const id of ['a', 'b']) if (!proxy.listBackends().some(backend => backend.id === id)) proxy.addBackend({ id, url: 'http://127.0.0.1:1' })
}
