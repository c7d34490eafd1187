import Fastify, { type FastifyInstance, type FastifyRequest } from 'fastify'
import type { IncomingMessage } from 'node:http'
import t, { type Test } from 'tap'
import type { ProxyManager } from '../../lib/proxy-manager.ts'
import explain from '../../plugins/explain.ts'
import rockstarProxy from '../../plugins/index.ts'
import routes from '../../plugins/routes.ts'
import type { BackendOptions, ExplainView, RockstarProxyOptions } from '../../types/index.ts'
import type { GatewaySetup } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { namedGateway } from '../helpers/named.ts'
import { rawBackend, until, type Message } from '../helpers/wire.ts'

interface Answer<Body = ExplainView> {
  status: number
  body: Body
}

/** Asks by a real connection, as an operator would. */
async function post<Body = ExplainView> (url: string, about: object, headers: Record<string, string> = {}): Promise<Answer<Body>> {
  const response = await fetch(url, { method: 'POST', body: JSON.stringify(about), headers: { 'content-type': 'application/json', connection: 'close', ...headers } })
  return { status: response.status, body: await response.json() as Body }
}

async function explaining (t: Test, given: Record<string, Partial<BackendOptions>>, options: RockstarProxyOptions = {}, setup?: GatewaySetup) {
  const gateway = await namedGateway(t, given, { routes: [{ prefix: '/api' }], admin: { plugins: ['explain'] }, ...options }, setup)
  const ask = async (about: object): Promise<ExplainView> => {
    const { status, body } = await post(`${gateway.url}/proxy/explain`, about)
    t.equal(status, 200, JSON.stringify(body))
    return body
  }
  return { ...gateway, ask, proxy: gateway.app.proxy as unknown as ProxyManager }
}

t.test('it tells everything of a request by a declared route', async t => {
  const { ask, backends, port } = await explaining(t, { a: { zone: 'z' } }, { zone: 'z', forwarded: { standard: false } })
  t.strictSame(await ask({ url: '/api/users?id=7', headers: { Host: 'shop.example', Accept: '*/*', 'X-List': ['1', '2'], Connection: 'x-secret', 'X-Secret': '1' }, ip: '203.0.113.7' }), {
    request: { method: 'GET', url: '/api/users?id=7', ip: '203.0.113.7' },
    route: { kind: 'declared', method: 'GET', url: '/api/*', prefix: '/api', rewritePrefix: '', askAt: null },
    upstream: 'default',
    balancer: 'round-robin',
    chosen: 'a',
    because: 'balancer',
    why: 'it is the only one available',
    assumed: [],
    match: null,
    panic: false,
    waits: false,
    groups: [{ priority: 0, zone: 'own', share: 1, panic: false, backends: ['a'] }],
    backends: [{ id: 'a', available: true, considered: true, reasons: [], weight: 1, effectiveWeight: 1, priority: 0, zone: 'z', inFlight: 0 }],
    sent: {
      method: 'GET',
      url: `${backends.a.url}/users?id=7`,
      path: '/users?id=7',
      headers: [
        ['host', `127.0.0.1:${backends.a.port}`],
        ['Accept', '*/*'], ['X-List', '1'], ['X-List', '2'],
        ['X-Forwarded-For', '203.0.113.7'], ['X-Forwarded-Host', 'shop.example'], ['X-Forwarded-Proto', 'http'],
        ['Via', '1.1 rockstar-proxy']
      ],
      upgrade: null
    },
    rules: {
      timeouts: { connect: 10_000, headers: 30_000, idle: 60_000, tunnel: 3_600_000, request: 30_000 },
      repeatable: true,
      retry: null,
      hedge: null,
      mirror: null,
      fallback: null
    },
    answer: null
  })
  t.match(await ask({ url: '/api' }), { request: { method: 'GET', url: '/api', ip: '127.0.0.1' }, sent: { path: '/', headers: [[], ['X-Forwarded-For', '127.0.0.1'], ['X-Forwarded-Host', `127.0.0.1:${port}`]] } }, 'the one who asks is the client, and the host his')
})

/** What a message has of fields, but for the connection's own. */
function fieldsOf ({ fields }: Message): string[] {
  return fields.filter(([name]) => name.toLowerCase() !== 'connection').map(([name, value]) => `${name.toLowerCase()}: ${value}`).sort()
}

t.test('what it says would be sent is what is sent', async t => {
  const options: RockstarProxyOptions = {
    deadlineHeader: 'x-time-left',
    clock: new FakeClock(),
    backends: [],
    routes: [
      { prefix: '/api' },
      { prefix: '/v/:version/x', rewritePrefix: '/base/:version', preserveHost: true },
      { prefix: '/dressed', rewriteRequestHeaders: (request: FastifyRequest, headers) => ({ ...headers, 'x-from': request.ip, 'x-url': request.routeOptions.url, 'x-query': (request.query as { q?: string }).q, accept: undefined }) },
      { prefix: '/p/:id', rewriteRequestHeaders: (request: FastifyRequest, headers) => ({ ...headers, 'x-id': (request.params as { id: string }).id }) }
    ]
  }
  const { ask, app, backends, connect } = await explaining(t, { a: {} }, options, { fastify: { trustProxy: '127.0.0.1' } })
  app.proxy.addBackend({ id: 'a', url: `${backends.a.url}/root` })
  const requests: [string, Record<string, string | string[]>, string?][] = [
    ['GET /api/a/b?c=d', { Host: 'h' }],
    ['GET /api/a//a%20b', { Host: 'h:80', 'X-A': ['1', '2'], Cookie: 'a=b', 'Accept-Encoding': 'gzip' }],
    ['GET /api/', { Host: 'h', 'X-Forwarded-For': '192.0.2.1, 192.0.2.2', Forwarded: 'for=192.0.2.1', 'X-Forwarded-Host': 'shop', 'X-Forwarded-Proto': 'https', 'X-Forwarded-Port': '81' }],
    ['GET /api/', { Host: 'h', Via: '1.0 other', Connection: 'close, x-a', 'X-A': '1', 'Keep-Alive': 'timeout=5', TE: 'trailers, gzip', 'Proxy-Authorization': 'x' }],
    ['OPTIONS /api/', { Host: 'h', 'Max-Forwards': '4' }],
    ['HEAD /api/x', { Host: 'h' }],
    ['DELETE /api/x', { Host: 'h', 'X-Time-Left': '250' }],
    ['POST /api/x', { Host: 'h', 'Content-Length': '2', 'Content-Type': 'text/odd' }, 'ab'],
    ['POST /api/x', { Host: 'h', 'Transfer-Encoding': 'chunked' }, '2\r\nab\r\n0\r\n\r\n'],
    ['GET /v/7/x/y?z', { Host: 'shop.example' }],
    ['GET /dressed/?q=1', { Host: 'h', Accept: 'text/html' }],
    ['GET /p/5%2f6/y', { Host: 'h' }],
    ['GET http://other.example/api/q', { Host: 'h' }]
  ]
  for (const [line, headers, body = ''] of requests) {
    const [method, url] = line.split(' ')
    const told = await ask({ method, url, headers })
    const lines = Object.entries(headers).flatMap(([name, value]) => [value].flat().map(value => `${name}: ${value}`))
    const wire = await connect()
    const before = backends.a.requests.length
    wire.send(`${line} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n${body}`)
    await until(() => backends.a.requests.length > before || wire.closed)
    const got = backends.a.requests[before]
    t.equal(`${told.sent?.method} ${told.sent?.path} HTTP/1.1`, got.startLine, line)
    t.strictSame(told.sent?.headers.map(([name, value]) => `${name.toLowerCase()}: ${value}`).sort(), fieldsOf(got), line)
    t.equal(told.answer, null)
    t.equal(told.route?.kind, 'declared')
  }
})

t.test('nothing is sent, no turn is taken, nothing is counted', async t => {
  let ran = 0
  const { ask, client, backends, proxy } = await explaining(t, { a: {}, b: {} }, {
    routes: [{ prefix: '/api', preHandler: async () => { ran++ } }],
    retry: true,
    hedge: true
  }, { setup: app => { app.addHook('onRequest', async request => { if (!request.url.startsWith('/proxy')) ran++ }) } })
  const before = JSON.stringify(proxy.getMetrics())
  const { hits, budget } = { hits: proxy.state.deadlines.size, budget: JSON.stringify(proxy.state.budget) }
  const chosen = new Set<string | null>()
  for (let i = 0; i < 5; i++) chosen.add((await ask({ url: '/api/x' })).chosen)
  t.strictSame([...chosen], ['a'])
  t.equal(JSON.stringify(proxy.getMetrics()), before)
  t.equal(proxy.state.deadlines.size, hits)
  t.equal(JSON.stringify(proxy.state.budget), budget)
  t.equal(backends.a.connections.length + backends.b.connections.length, 0)
  t.equal(ran, 0, 'no hook and no handler has run')
  t.equal(await (await client()).who('/api/x'), 'a', 'and the next request does go there')
})

t.test('it tells which route is met, by the rules of the router', async t => {
  const handler = async () => 'mine'
  const { ask, connect } = await explaining(t, { a: {} }, {
    routes: [{ prefix: '/api', methods: ['GET', 'PROPFIND'] }, { prefix: '/hosts', constraints: { host: 'a.example' } }, { prefix: '/by', constraints: { tenant: 'blue' } }]
  }, {
    fastify: {
      routerOptions: {
        ignoreTrailingSlash: true,
        maxParamLength: 20,
        constraints: {
          tenant: {
            name: 'tenant',
            storage: () => {
              const handlers = new Map<string, never>()
              return { get: (key: string) => handlers.get(key) ?? null, set: (key: string, value: never) => { handlers.set(key, value) } }
            },
            deriveConstraint: ({ headers }: IncomingMessage) => headers['x-tenant'] as string,
            validate: () => true
          }
        }
      }
    },
    setup: app => {
      app.get('/api/special', handler)
      app.get('/hosts/*', handler)
      app.register(async scope => { scope.post('/users/:id', handler) }, { prefix: '/deep' })
    }
  })
  const met = async (about: { method?: string, url: string, headers?: Record<string, string> }) => {
    const { route } = await ask(about)
    const { method = 'GET', url, headers = {} } = about
    const lines = Object.entries({ host: 'localhost', ...headers }).map(([name, value]) => `${name}: ${value}`)
    const wire = await connect()
    const { status, body } = await wire.send(`${method} ${url} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`).response(0, method)
    if (method !== 'HEAD' && !url.startsWith('/proxy')) t.equal(route?.kind, status === 404 ? undefined : body === 'a' ? 'declared' : 'handler', `${method} ${url}: as it is`)
    return route
  }
  t.match(await met({ url: '/api/x' }), { kind: 'declared', url: '/api/*', prefix: '/api' })
  t.match(await met({ method: 'PROPFIND', url: '/api/x' }), { kind: 'declared', method: 'PROPFIND' })
  t.strictSame(await met({ url: '/api/special' }), { kind: 'handler', method: 'GET', url: '/api/special', prefix: null, rewritePrefix: null, askAt: null }, 'what a handler has is not declared')
  t.match(await met({ url: '/api/special/' }), { kind: 'handler' }, 'a slash at the end is the same here')
  t.match(await met({ method: 'HEAD', url: '/api/special' }), { kind: 'handler', method: 'HEAD' }, 'Fastify adds HEAD by itself')
  t.match(await met({ url: '/hosts/x', headers: { host: 'a.example' } }), { kind: 'declared', prefix: '/hosts' })
  t.match(await met({ url: '/hosts/x', headers: { host: 'b.example' } }), { kind: 'handler', url: '/hosts/*' })
  t.match(await met({ url: 'http://a.example/hosts/x', headers: { host: 'b.example' } }), { kind: 'declared' }, 'the authority of an absolute target outranks Host')
  t.match(await met({ url: '/by/x', headers: { 'X-Tenant': 'blue' } }), { kind: 'declared', prefix: '/by' }, "by a strategy of the app's own")
  t.equal(await met({ url: '/by/x', headers: { 'X-Tenant': 'red' } }), null)
  t.match(await met({ method: 'POST', url: '/deep/users/7' }), { kind: 'handler', url: '/deep/users/:id' })
  t.match(await met({ method: 'POST', url: '/proxy/explain' }), { kind: 'handler', url: '/proxy/explain' })
})

t.test('for a handler it tells what forward(request, reply) would do, for the upstream that is named', async t => {
  const { ask, backends } = await explaining(t, { a: {} }, { upstreams: { other: { timeout: { headers: 5 }, via: 'there' } } }, {
    setup: app => {
      app.get('/mine', (request, reply) => app.proxy.forward(request, reply))
      app.proxy.upstream('other').addBackend({ id: 'o', url: 'http://127.0.0.1:1/base' })
    }
  })
  t.match(await ask({ url: '/mine' }), { route: { kind: 'handler' }, upstream: 'default', chosen: 'a', sent: { url: `${backends.a.url}/mine` } })
  t.match(await ask({ url: '/mine', upstream: 'other' }), { upstream: 'other', chosen: 'o', sent: { url: 'http://127.0.0.1:1/base/mine' }, rules: { timeouts: { headers: 5 } } })
  t.match(await ask({ url: '/api/x', upstream: 'other' }), { route: { kind: 'declared' }, upstream: 'other', chosen: 'o', sent: { path: '/base/x' } }, 'a route keeps its prefix')
  t.match(await ask({ url: '/nowhere', upstream: 'other' }), { route: null, upstream: 'other', chosen: 'o', answer: null }, 'as if somebody forwarded it there')
})

t.test('what would be answered without a backend is told', async t => {
  const { ask, proxy } = await explaining(t, { a: {}, b: {} }, {
    breaker: true,
    routes: [
      { prefix: '/api' },
      { prefix: '/odd', upstream: () => { throw new Error('no idea') } },
      { prefix: '/gone', upstream: async () => 'gone' },
      { prefix: '/bad', rewriteRequestHeaders: () => ({ 'x-a': 'a\r\nb' }) },
      { prefix: '/strict', match: { version: 'v3' } },
      { prefix: '/soft', match: { version: 'v3' }, fallback: { statusCode: 200, body: 'later' } }
    ]
  })
  const answer = async (about: object) => {
    const view = await ask(about)
    t.equal(view.sent, null)
    t.equal(view.chosen, null)
    return view.answer
  }
  t.strictSame(await answer({ url: '/nowhere' }), {
    statusCode: 404,
    code: null,
    retryAfter: null,
    fallback: false,
    message: 'No route is known for it: the not-found handler answers, unless there is one that was added before rockstar-proxy or outside of its scope'
  })
  t.strictSame(await answer({ url: '/api/x', headers: { Via: '1.1 rockstar-proxy' } }), {
    statusCode: 508, code: 'FST_ROCKSTAR_LOOP', message: 'The request has been here before (see the option `via`)', retryAfter: null, fallback: false
  })
  t.match(await answer({ url: '/api//b' }), { statusCode: 400, code: 'FST_ROCKSTAR_BAD_REQUEST' }, 'what is left of it begins with two slashes')
  t.match(await answer({ url: '/api/a/../b' }), { statusCode: 400, code: 'FST_ROCKSTAR_BAD_REQUEST' })
  t.match(await answer({ url: '/api/%zz' }), { statusCode: 400, code: 'FST_ERR_BAD_URL' }, 'what Fastify itself says')
  t.match(await answer({ url: '/api/x', headers: { host: ['a', 'b'] } }), { statusCode: 400, code: 'FST_ROCKSTAR_BAD_REQUEST' })
  t.match(await answer({ url: '/api/x', headers: { 'transfer-encoding': 'gzip, chunked' } }), { statusCode: 501, code: 'FST_ROCKSTAR_UNSUPPORTED_CODING' })
  t.match(await answer({ method: 'OPTIONS', url: '/api/x', headers: { 'max-forwards': '0' } }), { statusCode: 200, code: null })
  t.match(await answer({ url: '/odd/x' }), { statusCode: 500, message: 'no idea' })
  t.match(await answer({ url: '/gone/x' }), { statusCode: 500, code: 'FST_ROCKSTAR_UNKNOWN_UPSTREAM' })
  t.match(await answer({ url: '/bad/x' }), { statusCode: 500, code: 'FST_ROCKSTAR_INVALID_HEADER' })
  t.match(await ask({ url: '/strict/x' }), { why: 'no available backend matches', match: { version: 'v3' }, answer: { statusCode: 503, code: 'FST_ROCKSTAR_NO_BACKEND', fallback: false } })
  t.match(await answer({ url: '/soft/x' }), { statusCode: 503, fallback: true })
  for (const backend of proxy.listBackends()) backend.circuit.open()
  t.match(await ask({ url: '/api/x' }), { why: 'no backend is available', answer: { statusCode: 503, code: 'FST_ROCKSTAR_CIRCUIT_OPEN', retryAfter: null }, backends: [{ id: 'a', reasons: ['circuit open'] }, { id: 'b', reasons: ['circuit open'] }] }, 'one that is open for ever')
  proxy.setCircuitBreaker(false)
  proxy.setCircuitBreaker({ timeout: 30_000 })
  for (const { id } of proxy.listBackends()) proxy.updateBackend(id, { isActive: false })
  t.match(await ask({ url: '/api/x' }), { answer: { statusCode: 503, code: 'FST_ROCKSTAR_NO_BACKEND', retryAfter: null } })
})

t.test('an open circuit says when', async t => {
  const clock = new FakeClock()
  const { ask, proxy } = await explaining(t, { a: {} }, { clock, breaker: true })
  proxy.getBackend('a').circuit.openFor?.(30_000)
  clock.advance(5_500)
  t.match((await ask({ url: '/api/x' })).answer, { statusCode: 503, code: 'FST_ROCKSTAR_CIRCUIT_OPEN', retryAfter: 25 })
})

t.test('it tells of limits: who would wait, and who would be refused', async t => {
  const { ask, connect, proxy } = await explaining(t, { a: {} }, { limits: { maxInFlight: 1, queue: { size: 1, timeout: 1_500 }, priority: request => Number(request.headers['x-priority'] ?? 5) } })
  const hold = async () => (await connect()).send('GET /api/hold HTTP/1.1\r\nHost: h\r\n\r\n')
  await proxy.removeBackend('a')
  const hung = await rawBackend(t, () => {})
  proxy.addBackend({ id: 'hung', url: hung.url })
  t.match(await ask({ url: '/api/x' }), { waits: false, chosen: 'hung', answer: null })
  await hold()
  await until(() => hung.requests.length === 1)
  t.match(await ask({ url: '/api/x' }), { waits: true, chosen: 'hung', answer: null })
  await hold()
  await until(() => proxy.getMetrics().queueLength === 1)
  t.match(await ask({ url: '/api/x' }), { waits: false, chosen: null, answer: { statusCode: 503, code: 'FST_ROCKSTAR_OVERLOADED', retryAfter: 2 } })
  t.match(await ask({ url: '/api/x', headers: { 'x-priority': '1' } }), { waits: true, answer: null }, 'one that is more important takes a place')
  t.equal(proxy.getMetrics().queueLength, 1)
})

t.test('it tells of what holds: time-outs, retries, hedging, copies, fallbacks', async t => {
  const { ask } = await explaining(t, { a: {} }, {
    retry: { attempts: 4, perTryTimeout: 250, on: ['connect'], statuses: [503], maxBodySize: 10, idempotencyKey: true },
    hedge: { percentile: 90, minDelay: 7, maxExtra: 0.1 },
    mirror: { upstream: 'copies', percent: 5 },
    fallback: { upstream: 'copies' },
    upstreams: { copies: {} },
    routes: [{ prefix: '/api' }, { prefix: '/plain', retry: false, hedge: false, mirror: false, fallback: async () => 'x', timeout: { request: 9 } }]
  })
  t.strictSame((await ask({ url: '/api/x' })).rules, {
    timeouts: { connect: 10_000, headers: 30_000, idle: 60_000, tunnel: 3_600_000, request: 30_000 },
    repeatable: true,
    retry: { attempts: 4, perTryTimeout: 250, on: ['connect'], statuses: [503], maxBodySize: 10 },
    hedge: { percentile: 90, minDelay: 7, maxExtra: 0.1, delay: null },
    mirror: { upstream: 'copies', percent: 5 },
    fallback: { upstream: 'copies' }
  })
  t.match((await ask({ method: 'POST', url: '/api/x' })).rules, { repeatable: false })
  t.match((await ask({ method: 'POST', url: '/api/x', headers: { 'idempotency-key': '1' } })).rules, { repeatable: true })
  t.match((await ask({ url: '/plain/x' })).rules, { timeouts: { connect: 10_000, request: 9 }, retry: null, hedge: null, mirror: null, fallback: 'answer' })
})

t.test('it tells of subsets, cookies and addresses', async t => {
  const { ask } = await explaining(t, { a: { metadata: { version: 'v1' } }, b: { metadata: { version: 'v2' } }, c: { metadata: { version: 'v2' } } }, {
    balancer: 'ip-hash',
    routes: [{ prefix: '/api' }, { prefix: '/canary', split: [{ match: { version: 'v1' } }, { match: { version: 'v2' }, when: { cookie: 'beta' } }] }]
  })
  t.match(await ask({ url: '/canary/x' }), { chosen: 'a', match: { version: 'v1' } })
  t.match(await ask({ url: '/canary/x', headers: { Cookie: 'x=1; beta=1' } }), { chosen: /^[bc]$/, match: { version: 'v2' } })
  const chosen = new Set<string | null>()
  for (let i = 1; i < 40; i++) chosen.add((await ask({ url: '/api/x', ip: `203.0.113.${i}` })).chosen)
  t.strictSame([...chosen].sort(), ['a', 'b', 'c'], 'ip-hash goes by the address that is said')
})

t.test('a wish for another protocol is told of', async t => {
  const { ask } = await explaining(t, { a: {} }, { routes: [{ prefix: '/api' }, { prefix: '/plain', websocket: false }] })
  const headers = { Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Version': '13', 'Sec-WebSocket-Key': 'x' }
  t.match((await ask({ url: '/api/x', headers })).sent, { upgrade: 'websocket' })
  t.match((await ask({ url: '/plain/x', headers })).sent, { upgrade: null })
  t.match((await ask({ url: '/api/x', headers: { ...headers, 'Content-Length': '3' } })).answer, { statusCode: 400 })
})

t.test('a load balancer that cannot be asked is no failure', async t => {
  const { ask } = await explaining(t, { a: {}, b: {} }, { balancer: { type: 'mine', select: available => available[0] } })
  t.match(await ask({ url: '/api/x' }), { chosen: null, why: /only choosing would tell/, sent: null, answer: null })
})

t.test('what is wrong with the question is said', async t => {
  const { url } = await explaining(t, { a: {} })
  const refused = async (about: object | string, message: RegExp | string, headers?: Record<string, string>, status = 400) => {
    const response = await fetch(`${url}/proxy/explain`, { method: 'POST', body: typeof about === 'string' ? about : JSON.stringify(about), headers: { 'content-type': 'application/json', connection: 'close', ...headers } })
    const body = await response.json() as { message: string }
    t.equal(response.status, status, JSON.stringify(body))
    t.match(body.message, message)
  }
  await refused({}, 'body.url must be what stands in a request line: /path?query, and is nothing')
  await refused({ url: '/a b' }, /^body\.url must be what stands in a request line/)
  await refused({ url: '/a\r\nX: y' }, /^body\.url/)
  await refused({ url: 7 }, /^body\.url/)
  await refused({ url: '/', method: 'get' }, /^body\.method must be a method in upper case/)
  await refused({ url: '/', method: 'NONE' }, "body.method must be a method that Node's HTTP parser knows, and is 'NONE'")
  await refused({ url: '/', headers: { 'a b': '1' } }, 'body.headers has a field that no request can have: "a b"')
  await refused({ url: '/', headers: { a: '1\r\nb: 2' } }, /^body\.headers has a field/)
  await refused({ url: '/', headers: { a: 1 } }, 'body.headers.a must be a string or an array of strings, and is 1')
  await refused({ url: '/', headers: [] }, /^body\.headers must be an object/)
  await refused({ url: '/', headers: { 'content-length': 'x' } }, /content-length must be a number/)
  await refused({ url: '/', headers: { 'content-length': '1', 'transfer-encoding': 'chunked' } }, /without one of/)
  await refused({ url: '/', ip: 'here' }, "body.ip must be an IP address, and is 'here'")
  await refused({ url: '/', upstream: 'none' }, "No upstream is named 'none'", {}, 404)
  await refused({ url: '/', body: 'x' }, 'body.body is not an option')
  await refused('{"url":"/","__proto__":{"a":1}}', /./)
  await refused('url', /./, { 'content-type': 'text/plain' }, 415)
  await refused({ url: '/' }, /other websites/, { origin: 'https://evil.example' }, 403)
})

t.test('asking needs no right to change', async t => {
  const { ask } = await explaining(t, { a: {} }, { admin: { plugins: ['explain'], onChange: async () => { throw new Error('not you') } } })
  t.equal((await ask({ url: '/api/x' })).chosen, 'a')
})

t.test('several registrations know each other\'s routes as handlers', async t => {
  const { ask, app, url } = await explaining(t, { a: {} }, { admin: false, routes: [] }, {
    setup: async app => {
      for (const name of ['one', 'two']) {
        await app.register(async scope => {
          await scope.register(async inner => {
            // A proxy of its own: the one outside is another app's here.
            inner.get('/x', async () => name)
            await inner.register(explain, { prefix: '/proxy' })
          })
        }, { prefix: `/${name}` })
      }
    }
  })
  t.ok(app && ask)
  const { status, body } = await post(`${url}/one/proxy/explain`, { url: '/two/x' })
  t.equal(status, 200)
  t.match(body.route, { kind: 'handler', url: '/two/x' })
})

t.test('two scopes, each with a proxy of its own', async t => {
  const app = Fastify({ forceCloseConnections: true })
  t.teardown(() => app.close())
  for (const name of ['one', 'two', 'three']) {
    await app.register(async (scope: FastifyInstance) => {
      await scope.register(rockstarProxy, { health: false, backends: [{ id: name, url: 'http://127.0.0.1:1' }], routes: [{ prefix: '/api' }], admin: name === 'three' ? false : { plugins: ['explain'], prefix: '/proxy' } })
      scope.get('/mine', async () => name)
    }, { prefix: `/${name}` })
  }
  const url = await app.listen({ port: 0, host: '127.0.0.1' })
  t.match((await post(`${url}/one/proxy/explain`, { url: '/one/api/x' })).body, { route: { kind: 'declared', prefix: '/one/api' }, chosen: 'one', sent: { path: '/x' } })
  const { body } = await post(`${url}/one/proxy/explain`, { url: '/two/api/x' })
  t.match(body, { route: { kind: 'other', method: 'GET', url: '/two/api/*', prefix: '/two/api', rewritePrefix: '', askAt: '/two/proxy/explain' }, upstream: null, balancer: null, chosen: null, groups: [], backends: [], sent: null, rules: null, answer: null })
  t.equal(body.why, 'it is a route of another registration of rockstar-proxy, which has backends of its own: ask /two/proxy/explain')
  t.match((await post(`${url}/one/proxy/explain`, { url: '/two/mine' })).body, { route: { kind: 'other', url: '/two/mine', prefix: null, askAt: '/two/proxy/explain' }, chosen: null }, 'a handler beside it is its own, too')
  t.match((await post(`${url}/one/proxy/explain`, { url: '/one/mine' })).body, { route: { kind: 'handler', askAt: null }, chosen: 'one' })
  t.match((await post(`${url}/two/proxy/explain`, { url: '/three/api/x' })).body, { route: { kind: 'other', askAt: null }, chosen: null, why: 'it is a route of another registration of rockstar-proxy, which has backends of its own: ask its own explain, which is not on this server' })
  t.match((await post(`${url}/one/proxy/explain`, { url: '/two/api/x', upstream: 'default' })).body, { route: { kind: 'other' }, upstream: 'default', chosen: 'one', sent: { path: '/two/api/x' } }, 'unless an upstream is named')
  t.match((await post(`${url}/two/proxy/explain`, { url: '/two/api/x' })).body, { route: { kind: 'declared' }, chosen: 'two' })
})

t.test('an app of its own explains the other one', async t => {
  const gateway = await namedGateway(t, { a: {} }, { routes: [{ prefix: '/api' }] })
  const operators = Fastify({ forceCloseConnections: true })
  t.teardown(() => operators.close())
  await operators.register(explain, { proxy: gateway.app.proxy })
  const url = await operators.listen({ port: 0, host: '127.0.0.1' })
  t.match((await post(`${url}/explain`, { url: '/api/x' })).body, { route: { kind: 'declared', prefix: '/api' }, chosen: 'a', sent: { path: '/x' } })
  t.match((await post(`${url}/explain`, { url: '/explain' })).body, { route: null, answer: { statusCode: 404 } })
})

t.test('secrets that the proxy adds are not shown, only that they are sent', async t => {
  const { ask } = await explaining(t, { a: {} }, {
    routes: [
      { prefix: '/api', rewriteRequestHeaders: (_request, headers) => ({ ...headers, authorization: 'Bearer S3CRET', 'Proxy-Authorization': 'Basic S3CRET', 'X-API-Key': 'S3CRET', 'x-vault-token': 'S3CRET', 'x-amz-security-token': ['S3CRET'], 'Ocp-Apim-Subscription-Key': 'S3CRET', 'client-secret': 'S3CRET', 'X-Serverless-Authorization': 'S3CRET', 'x-authtoken': 'S3CRET', 'X-SessionId': 'S3CRET', 'x-csrftoken': 'S3CRET', 'x-bearer': 'S3CRET', 'db-pwd': 'S3CRET', cookie: 'sid=S3CRET', 'x-tenant': 'blue', 'x-monkey': '1', 'accept-author': '2' }) },
      { prefix: '/plain' }
    ]
  })
  const view = await ask({ url: '/api/x', headers: { Host: 'h', 'X-Mine': '1' } })
  t.notMatch(JSON.stringify(view), 'S3CRET')
  const sent = Object.fromEntries((view.sent?.headers ?? []).map(([name, value]) => [name.toLowerCase(), value]))
  for (const name of ['authorization', 'x-api-key', 'x-vault-token', 'x-amz-security-token', 'ocp-apim-subscription-key', 'client-secret', 'cookie']) t.equal(sent[name], '***', name)
  t.match(sent, { 'x-tenant': 'blue', 'x-monkey': '1', 'accept-author': '2', 'x-mine': '1', 'x-forwarded-host': 'h' }, 'all others are')
  t.notMatch(JSON.stringify(await ask({ url: '/api/x', headers: { Authorization: 'Bearer mine', Cookie: 'a=b' } })), 'S3CRET', 'nor where the question had others of the name')
  const told = await ask({ url: '/plain/x', headers: { Authorization: 'Bearer mine', Cookie: ['a=b', 'c=d'], 'X-Api-Key': 'mine' } })
  t.match(told.sent?.headers, [['host'], ['Authorization', 'Bearer mine'], ['Cookie', 'a=b'], ['Cookie', 'c=d'], ['X-Api-Key', 'mine']], 'what the one who asks has said himself is')
})

interface Dressed extends FastifyRequest {
  tenant: string
  user: unknown
  local: string | undefined
  whoami (): string
}

t.test('functions of options get a request that nothing of the one who asks is on', async t => {
  const seen: unknown[] = []
  const { ask, url, app } = await explaining(t, { a: {} }, {
    upstreams: { blue: { backends: [{ id: 'b', url: 'http://127.0.0.1:1' }] } },
    routes: [{
      prefix: '/api',
      config: { own: 1 } as object,
      upstream: request => {
        const { tenant, user, local, headers, body, log, server, is404, originalUrl, routeOptions: { url, method, config, bodyLimit } } = request as Dressed
        seen.push({ tenant, user, local, whoami: (request as Dressed).whoami(), authorization: headers.authorization, body, is404, originalUrl, url, method, config, bodyLimit, server: server.prefix, bindings: (log as unknown as { bindings (): object }).bindings() })
        return tenant === '' ? 'default' : tenant
      }
    }]
  }, {
    before: app => {
      app.decorateRequest('tenant', '')
      app.decorateRequest('user', null)
      app.decorateRequest('whoami', function (this: FastifyRequest) { return String((this as Dressed).user) })
      app.addHook('onRequest', async request => {
        Object.assign(request, { tenant: request.headers['x-tenant'] ?? 'none', user: 'operator', stray: 'operator' })
      })
    },
    setup: app => {
      app.register(async scope => {
        scope.decorateRequest('local', 'initial')
        await scope.register(routes, { prefix: '/deep', upstream: request => { seen.push((request as Dressed).local, (request as Dressed).tenant, request.server === scope); return 'default' } })
        scope.addHook('onRequest', async request => { (request as Dressed).local = 'hook' })
      })
    }
  })
  t.ok(app)
  const asked = await post(`${url}/proxy/explain`, { url: '/api/x?y', headers: { host: 'h' } }, { 'x-tenant': 'blue', authorization: 'Basic operator' })
  t.match(asked, { status: 200, body: { upstream: 'default', chosen: 'a', assumed: ['tenant', 'user'] } }, 'what a hook would have found out is not known, and that is said')
  t.match(seen, [{
    tenant: '', user: null, local: undefined, whoami: 'null', authorization: undefined, body: undefined, is404: false, originalUrl: '/api/x?y', url: '/api/*', config: { own: 1, url: '/api/*' }, bodyLimit: 1_048_576, server: '/api'
  }])
  t.notMatch(JSON.stringify(seen), 'operator')
  seen.length = 0
  t.strictSame((await ask({ url: '/deep/x' })).assumed, ['local', 'tenant'])
  t.match(seen, ['initial', ''], 'decorators of the scope that the route is in have their first values')
})

t.test('an app of its own that explains another goes by the decorators and the trust of that one', async t => {
  const seen: unknown[] = []
  const gateway = await namedGateway(t, { a: {} }, { routes: [{ prefix: '/api', upstream: request => { seen.push((request as Dressed).tenant, request.ip); return 'default' } }] }, {
    fastify: { trustProxy: '10.0.0.1' },
    before: app => { app.decorateRequest('tenant', 'first') }
  })
  const operators = Fastify({ forceCloseConnections: true, trustProxy: true })
  t.teardown(() => operators.close())
  operators.decorateRequest('tenant', 'operators')
  await operators.register(explain, { proxy: gateway.app.proxy })
  const url = await operators.listen({ port: 0, host: '127.0.0.1' })
  await post(`${url}/explain`, { url: '/api/x', ip: '10.0.0.1', headers: { 'x-forwarded-for': '192.0.2.1' } })
  await post(`${url}/explain`, { url: '/api/x', ip: '10.0.0.2', headers: { 'x-forwarded-for': '192.0.2.1' } })
  t.strictSame(seen, ['first', '192.0.2.1', 'first', '10.0.0.2'])
})

t.test('a header may be called as what every object has', async t => {
  const { ask, proxy, client } = await explaining(t, { a: {}, b: {} }, { balancer: { type: 'maglev', key: { header: 'constructor' }, missing: 'ip' } })
  const { why, chosen } = await ask({ url: '/api/x' })
  t.match(chosen, /^[ab]$/, why ?? '')
  t.equal(await (await client()).who('/api/x'), chosen, 'a request without it is one without a key')
  const seen: (string | undefined)[] = []
  proxy.setLoadBalancer((available, context) => {
    seen.push(...['constructor', 'toString', '__proto__', 'x-a'].map(name => context.header(name)))
    return available[0]
  })
  t.equal(await (await client()).who('/api/x', 'X-A: 1'), 'a')
  t.strictSame(seen, [undefined, undefined, undefined, '1'])
})
