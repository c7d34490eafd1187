import t, { type Test } from 'tap'
import type { ProxyManager } from '../../lib/proxy-manager.ts'
import type { RetryOptions, RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type Gateway, type GatewaySetup } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, rawBackend, until, type Message, type RawBackend, type Wire } from '../helpers/wire.ts'

/** What a backend does with a request. */
type Fate = string | ((wire: Wire, request: Message) => string | void)

const LIMIT = 4_000
const PACE = 250
const RESETS: Fate = wire => wire.reset()
const HANGS: Fate = () => {}
const SORRY = ok('sorry', '', '503 Sorry')
const HEADER = 'X-Time-Left'

interface Start {
  fates?: Record<string, Fate[]>
  retry?: RetryOptions | boolean
  options?: RockstarProxyOptions
  setup?: GatewaySetup
}

/** A gateway in front of backends that do as they are told, the last of which they go on with. */
async function start (t: Test, { fates = { a: [] }, retry = false, options, setup }: Start = {}) {
  t.setTimeout(LIMIT)
  const clock = new FakeClock()
  const backends: Record<string, RawBackend> = {}
  for (const [id, list] of Object.entries(fates)) {
    backends[id] = await rawBackend(t, (request, wire) => {
      const fate = (list.length > 1 ? list.shift() : list[0]) ?? ok(id)
      return typeof fate === 'string' ? fate : fate(wire, request)
    })
  }
  const listed = Object.entries(backends).map(([id, { url }]) => ({ id, url }))
  const gateway = await startGateway(t, { clock, random: () => 0.5, backends: listed, retry, routes: [{ prefix: '/' }], ...options }, setup)
  const { proxy } = gateway.app
  const requests = () => Object.values(backends).reduce((sum, { requests }) => sum + requests.length, 0)
  return {
    clock,
    backends,
    gateway,
    proxy,
    requests,
    metrics: () => proxy.getMetrics(),
    send: async (...fields: string[]) => (await gateway.connect()).send(['GET / HTTP/1.1', 'Host: gateway', ...fields, '', ''].join('\r\n')),
    /** What the backends have been told, one after the other. */
    told: (id = 'a', name = HEADER) => backends[id].requests.map(request => request.values(name))
  }
}

async function turns (count = 10): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise(resolve => setImmediate(resolve))
}

async function noneUnderWay (t: Test, { app }: Gateway): Promise<void> {
  const { state } = app.proxy as ProxyManager
  await until(() => app.proxy.getMetrics().inFlight === 0 && app.proxy.getConnectionPool().stats().active === 0 && state.deadlines.size === 0)
  for (const counts of [app.proxy.getMetrics(), ...Object.values(app.proxy.getMetrics().backends)]) {
    t.equal(counts.totalRequests, counts.successfulRequests + counts.failedRequests + counts.abortedRequests)
    t.equal(counts.inFlight, 0)
  }
  t.equal(state.budget.waiting, 0)
}

function codeOf ({ body }: Message): unknown {
  return JSON.parse(body).code
}

const TRUSTED: GatewaySetup = { fastify: { trustProxy: true } }

// All of it together

t.test('timeout.request covers all attempts together', async t => {
  const { clock, gateway, metrics, requests, send } = await start(t, { fates: { a: [HANGS], b: [HANGS], c: [HANGS] }, retry: { perTryTimeout: 2_000 }, options: { timeout: { request: 5_000 } } })
  const before = clock.now()
  const client = await send()
  for (let i = 1; i <= 3; i++) {
    await until(() => requests() === i)
    const timeouts = () => metrics().timeouts.wait + metrics().timeouts.request
    while (timeouts() < i) clock.advance(1)
  }
  const took = clock.now() - before
  t.ok(took >= 5_000 && took <= 5_000 + PACE, `${took}`)
  t.equal(codeOf(await client.response()), 'FST_ROCKSTAR_TIMEOUT')
  t.match(metrics(), { totalRetries: 2, timeouts: { wait: 2, request: 1 }, failedRequests: 1 })
  await noneUnderWay(t, gateway)
})

t.test('it covers the waits between them: none is begun that would not be over in time', async t => {
  const { clock, gateway, metrics, send } = await start(t, { fates: { a: [RESETS] }, retry: { attempts: 10, backoff: { base: 1_000, factor: 1 } }, options: { timeout: { request: 1_400 } } })
  const client = await send()
  // Half a second each: two waits fit, and a third would not.
  for (let i = 1; i <= 2; i++) {
    await until(() => metrics().totalRetries === i && metrics().backends.a.inFlight === 0)
    clock.advance(500)
  }
  t.equal((await client.response()).status, 502, 'at once, with what the last attempt has come to')
  t.match(metrics(), { totalRetries: 2, retriesDenied: 0, timeouts: { request: 0 }, backends: { a: { totalRequests: 3 } } })
  await noneUnderWay(t, gateway)
})

t.test('where all time is used up by one attempt there is no other', async t => {
  const { clock, gateway, metrics, requests, send } = await start(t, { fates: { a: [HANGS], b: [] }, retry: true, options: { timeout: { request: 5_000, headers: 5_000 } } })
  const client = await send()
  await until(() => requests() === 1)
  clock.advance(5_000 + PACE)
  t.equal((await client.response()).status, 504)
  t.match(metrics(), { totalRetries: 0, retriesDenied: 0 })
  await noneUnderWay(t, gateway)
})

t.test('timeout.request: 0 sets no limit, and there are still no more attempts than there may be', async t => {
  const { clock, gateway, metrics, send } = await start(t, { fates: { a: [RESETS] }, retry: { backoff: { base: 1e9, max: 1e9 } }, options: { timeout: { request: 0 } } })
  const client = await send()
  for (let i = 1; i <= 2; i++) {
    await until(() => metrics().totalRetries === i && metrics().backends.a.inFlight === 0)
    clock.advance(5e8)
  }
  t.equal((await client.response()).status, 502)
  await noneUnderWay(t, gateway)
})

t.test('once an answer has begun there is no deadline for its end', async t => {
  const { backends, clock, gateway, send } = await start(t, { fates: { a: ['HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf'] }, options: { timeout: { request: 1_000 } } })
  const client = await send()
  await client.receive('half')
  clock.advance(50_000)
  backends.a.connections[0].send('half')
  t.equal((await client.response()).body, 'halfhalf')
  await noneUnderWay(t, gateway)
})

t.test('a route and a call have their own time for all of it', async t => {
  const { clock, gateway, requests } = await start(t, {
    fates: { a: [HANGS] },
    options: { routes: [{ prefix: '/route', timeout: { request: 1_000 } }], timeout: { request: 20_000 } },
    setup: { setup: app => app.get('/call', (request, reply) => app.proxy.forward(request, reply, { timeout: { request: 1_000 } })) }
  })
  for (const [i, path] of ['/route', '/call'].entries()) {
    const client = await gateway.connect()
    client.send(`GET ${path} HTTP/1.1\r\nHost: g\r\n\r\n`)
    await until(() => requests() === i + 1)
    clock.advance(1_000 + 100)
    t.equal((await client.response()).status, 504)
  }
  await noneUnderWay(t, gateway)
})

t.test('the time in which a client sends its body does not count', async t => {
  const { backends, clock, gateway, metrics } = await start(t, { fates: { a: [HANGS] }, options: { timeout: { request: 5_000 } } })
  const client = await gateway.connect()
  client.send('PUT / HTTP/1.1\r\nHost: g\r\nContent-Length: 10\r\n\r\n')
  for (let i = 1; i <= 10; i++) {
    client.send('x')
    await until(() => backends.a.connections[0]?.received.endsWith('x'.repeat(i)) === true)
    if (i < 10) clock.advance(20_000)
  }
  await until(() => backends.a.requests.length === 1)
  clock.advance(4_999)
  t.equal(metrics().inFlight, 1)
  clock.advance(1 + PACE)
  t.equal(codeOf(await client.response()), 'FST_ROCKSTAR_TIMEOUT')
  t.match(metrics().timeouts, { request: 1, client: 0 })
  await noneUnderWay(t, gateway)
})

t.test('the time before and after it does', async t => {
  const { backends, clock, gateway, metrics } = await start(t, { fates: { a: [RESETS], b: [HANGS] }, retry: true, options: { timeout: { request: 5_000 } } })
  const client = await gateway.connect()
  client.send('PUT / HTTP/1.1\r\nHost: g\r\nContent-Length: 4\r\n\r\nbo')
  await until(() => backends.a.connections[0]?.received.endsWith('bo') === true)
  clock.advance(30_000)
  client.send('dy')
  await until(() => backends.b.requests.length === 1)
  clock.advance(4_999)
  t.equal(metrics().inFlight, 1)
  clock.advance(1 + PACE)
  t.equal((await client.response()).status, 504)
  t.match(metrics().timeouts, { request: 1 })
  await noneUnderWay(t, gateway)
})

t.test('perTryTimeout does not count it either: it begins with the last byte', async t => {
  const { backends, clock, gateway, metrics } = await start(t, { fates: { a: [HANGS], b: [] }, retry: { perTryTimeout: 1_000 } })
  const client = await gateway.connect()
  client.send('PUT / HTTP/1.1\r\nHost: g\r\nContent-Length: 4\r\n\r\nbo')
  await until(() => backends.a.connections[0]?.received.endsWith('bo') === true)
  clock.advance(20_000)
  await turns()
  t.equal(metrics().totalRetries, 0)
  client.send('dy')
  await until(() => backends.a.requests.length === 1)
  clock.advance(999)
  t.equal(metrics().totalRetries, 0)
  clock.advance(1 + 100)
  t.equal((await client.response()).body, 'b')
  t.equal(backends.b.requests[0].body, 'body')
  await noneUnderWay(t, gateway)
})

// What backends are told

t.test('backends are told nothing of the time unless that is asked for', async t => {
  for (const deadlineHeader of [undefined, false] as const) {
    const { backends, send } = await start(t, { options: { deadlineHeader } })
    await (await send()).response()
    t.equal(backends.a.requests[0].fields.some(([name]) => /time/i.test(name)), false)
  }
})

t.test('a header tells each backend how many milliseconds are left, once', async t => {
  const { gateway, send, told } = await start(t, { options: { deadlineHeader: HEADER, timeout: { request: 5_000 } } })
  await (await send()).response()
  t.strictSame(told(), [['5000']])
  await noneUnderWay(t, gateway)
})

t.test('they are fewer with each attempt', async t => {
  const { clock, gateway, metrics, requests, send, told } = await start(t, {
    fates: { a: [HANGS, ok('a')], b: [SORRY, ok('b')] }, retry: { perTryTimeout: 1_000 }, options: { deadlineHeader: HEADER, timeout: { request: 5_000 } }
  })
  const client = await send()
  await until(() => requests() === 1)
  while (metrics().totalRetries === 0) clock.advance(1)
  await until(() => requests() === 2 && metrics().backends.b.inFlight === 0)
  clock.advance(50)
  await client.response()
  t.equal(requests(), 3)
  const [[first, ...a], [second, ...b]] = ['a', 'b'].map(id => told(id).flat().map(Number))
  const [third] = [...a, ...b]
  t.equal(first, 5_000)
  t.ok(second <= 4_000 && second >= 3_880, `${second}`)
  t.ok(third <= second - 49 && third >= second - 51, `${third} after ${second}`)
  await noneUnderWay(t, gateway)
})

t.test('what is left is told in whole milliseconds, at least 1', async t => {
  const { clock, gateway, metrics, requests, send, told } = await start(t, {
    fates: { a: [HANGS], b: [] }, retry: { perTryTimeout: 1_000 }, options: { deadlineHeader: HEADER, timeout: { request: 1_101.5 } }
  })
  const client = await send()
  await until(() => requests() === 1)
  while (metrics().totalRetries === 0) clock.advance(0.5)
  await client.response()
  const values = [...told('a'), ...told('b')].flat()
  t.equal(values.length, 2)
  for (const value of values) t.match(value, /^[1-9]\d*$/)
  t.equal(values[0], '1101')
  await noneUnderWay(t, gateway)
})

t.test('gRPC\'s header is written as gRPC has it', async t => {
  for (const name of ['grpc-timeout', 'Grpc-Timeout']) {
    const { send, told } = await start(t, { options: { deadlineHeader: name, timeout: { request: 5_000 } } })
    await (await send()).response()
    t.strictSame(told('a', 'grpc-timeout'), [['5000m']])
  }
})

t.test('where there is no end to the time nothing is told', async t => {
  const { send, told } = await start(t, { options: { deadlineHeader: HEADER, timeout: { request: 0 } } })
  await (await send()).response()
  t.strictSame(told(), [[]])
})

t.test('a route\'s or a call\'s own time is what is told', async t => {
  const { gateway, told } = await start(t, {
    options: { deadlineHeader: HEADER, routes: [{ prefix: '/route', timeout: { request: 700 } }] },
    setup: { setup: app => app.get('/call', (request, reply) => app.proxy.forward(request, reply, { timeout: { request: 800 } })) }
  })
  for (const path of ['/route', '/call']) {
    const client = await gateway.connect()
    client.send(`GET ${path} HTTP/1.1\r\nHost: g\r\n\r\n`)
    await client.response()
  }
  t.strictSame(told(), [['700'], ['800']])
})

t.test('each upstream has a header of its own, or none', async t => {
  const backend = await rawBackend(t, () => ok())
  const gateway = await startGateway(t, {
    clock: new FakeClock(),
    backends: [backend.url],
    deadlineHeader: 'x-one',
    upstreams: { two: { backends: [backend.url], deadlineHeader: 'x-two' }, none: { backends: [backend.url] } },
    routes: [{ prefix: '/one' }, { prefix: '/two', upstream: 'two' }, { prefix: '/none', upstream: 'none' }]
  })
  for (const path of ['/one', '/two', '/none']) await gateway.app.inject(path)
  t.strictSame(backend.requests.map(request => [request.values('x-one').length, request.values('x-two').length]), [[1, 0], [0, 1], [0, 0]])
})

t.test('options that are no name of a header are refused', async t => {
  for (const deadlineHeader of ['', 'x y', 'x:', 'x\r\ny', true as never]) {
    await t.rejects(startGateway(t, { backends: ['http://127.0.0.1:1'], deadlineHeader }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /deadlineHeader/ }, JSON.stringify(deadlineHeader))
  }
})

// What clients say

t.test('what a trusted client says of its time holds where it is sooner', async t => {
  for (const [said, left] of [['1000', '1000'], ['4999', '4999'], ['5001', '5000'], ['1000.9', '1000'], ['999999', '5000']] as const) {
    const { gateway, send, told } = await start(t, { options: { deadlineHeader: HEADER, timeout: { request: 5_000 } }, setup: TRUSTED })
    await (await send(`${HEADER}: ${said}`)).response()
    t.strictSame(told(), [[left]], said)
    await noneUnderWay(t, gateway)
  }
})

t.test('it is the deadline of the request then', async t => {
  const { clock, gateway, metrics, requests, send } = await start(t, { fates: { a: [HANGS], b: [] }, retry: true, options: { deadlineHeader: HEADER }, setup: TRUSTED })
  const client = await send(`${HEADER}: 2000`)
  await until(() => requests() === 1)
  clock.advance(1_999)
  t.equal(metrics().inFlight, 1)
  clock.advance(1 + PACE)
  t.equal(codeOf(await client.response()), 'FST_ROCKSTAR_TIMEOUT')
  t.match(metrics(), { totalRetries: 0, timeouts: { request: 1 } })
  await noneUnderWay(t, gateway)
})

t.test('it holds where there is no other', async t => {
  const { clock, gateway, requests, send, told } = await start(t, { fates: { a: [HANGS] }, options: { deadlineHeader: HEADER, timeout: { request: 0, headers: 0 } }, setup: TRUSTED })
  const client = await send(`${HEADER}: 2000`)
  await until(() => requests() === 1)
  t.strictSame(told(), [['2000']])
  clock.advance(2_000 + PACE)
  t.equal((await client.response()).status, 504)
  await noneUnderWay(t, gateway)
})

t.test('no wait for a retry goes beyond it', async t => {
  const answer = ok('its own', 'Retry-After: 2\r\n', '503 Sorry')
  for (const [said, status] of [['2001', 200], ['2000', 503]] as const) {
    const { clock, gateway, metrics, send } = await start(t, { fates: { a: [answer, ok('again')] }, retry: true, options: { deadlineHeader: HEADER }, setup: TRUSTED })
    const client = await send(`${HEADER}: ${said}`)
    if (status === 200) {
      await until(() => metrics().totalRetries === 1 && metrics().backends.a.inFlight === 0)
      clock.advance(2_000)
    }
    t.equal((await client.response()).status, status)
    await noneUnderWay(t, gateway)
  }
})

t.test('it goes on while the client sends its body: it is the client\'s own time', async t => {
  const { backends, clock, gateway, metrics } = await start(t, { fates: { a: [HANGS] }, options: { deadlineHeader: HEADER, timeout: { request: 60_000 } }, setup: TRUSTED })
  const client = await gateway.connect()
  client.send(`PUT / HTTP/1.1\r\nHost: g\r\n${HEADER}: 2000\r\nContent-Length: 4\r\n\r\nbo`)
  await until(() => backends.a.connections[0]?.received.endsWith('bo') === true)
  clock.advance(2_000 + PACE)
  t.equal((await client.response()).status, 504)
  t.match(metrics().timeouts, { request: 1, client: 0 })
  client.send('dy')
  await noneUnderWay(t, gateway)
})

t.test('gRPC\'s units are understood of clients', async t => {
  for (const [said, left] of [['2S', '2000m'], ['1500m', '1500m'], ['1H', '5000m'], ['900000u', '900m']] as const) {
    const { send, told } = await start(t, { options: { deadlineHeader: 'grpc-timeout', timeout: { request: 5_000 } }, setup: TRUSTED })
    await (await send(`grpc-timeout: ${said}`)).response()
    t.strictSame(told('a', 'grpc-timeout'), [[left]], said)
  }
})

t.test('what cannot be read is as if nothing had been said', async t => {
  for (const said of ['soon', '-5', '', '1e3', '5S', '1,2']) {
    const { send, told } = await start(t, { options: { deadlineHeader: HEADER, timeout: { request: 5_000 } }, setup: TRUSTED })
    await (await send(`${HEADER}: ${said}`)).response()
    t.strictSame(told(), [['5000']], JSON.stringify(said))
  }
})

t.test('said more than once, the sooner holds', async t => {
  const { send, told } = await start(t, { options: { deadlineHeader: HEADER, timeout: { request: 5_000 } }, setup: TRUSTED })
  await (await send(`${HEADER}: 3000`, `${HEADER.toLowerCase()}: 1000`, `${HEADER.toUpperCase()}: 2000`)).response()
  t.strictSame(told(), [['1000']])
})

t.test('what a client says that is not trusted does not hold, and goes no further', async t => {
  const trusts: GatewaySetup[] = [{}, { fastify: { trustProxy: false } }, { fastify: { trustProxy: '10.0.0.0/8' } }]
  for (const setup of trusts) {
    for (const [request, expected] of [[5_000, ['5000']], [0, []]] as const) {
      const { clock, gateway, metrics, requests, send, told } = await start(t, { fates: { a: [HANGS] }, options: { deadlineHeader: HEADER, timeout: { request } }, setup })
      const client = await send(`${HEADER}: 7`)
      await until(() => requests() === 1)
      t.strictSame(told(), [expected])
      clock.advance(4_999)
      t.equal(metrics().inFlight, 1)
      client.close()
      await noneUnderWay(t, gateway)
    }
  }
})

t.test('one that is trusted by its address is believed', async t => {
  const { send, told } = await start(t, { options: { deadlineHeader: HEADER, timeout: { request: 5_000 } }, setup: { fastify: { trustProxy: '127.0.0.1' } } })
  await (await send(`${HEADER}: 7000`)).response()
  await (await send(`${HEADER}: 700`)).response()
  t.strictSame(told(), [['5000'], ['700']])
})

t.test('without a deadlineHeader such a header is one like any other', async t => {
  const { send, told } = await start(t, { setup: TRUSTED })
  await (await send(`${HEADER}: 7`)).response()
  t.strictSame(told(), [['7']])
})

t.test('a client that has no time left is answered at once, and no backend is asked', async t => {
  const { clock, gateway, metrics, requests, send } = await start(t, { fates: { a: [HANGS] }, retry: true, options: { deadlineHeader: HEADER }, setup: TRUSTED })
  const client = await send(`${HEADER}: 0`)
  await until(() => metrics().totalRequests === 1)
  await turns(30)
  clock.advance(PACE)
  t.equal((await client.response()).status, 504)
  t.equal(requests(), 0)
  await noneUnderWay(t, gateway)
})

// forwardHttp

t.test('forwardHttp tells it too, and believes the application, whose own it is', async t => {
  const { gateway, proxy, told } = await start(t, { options: { deadlineHeader: HEADER, timeout: { request: 5_000 } } })
  const asks: [Record<string, string>, { timeout?: { request: number } }, string][] = [
    [{}, {}, '5000'], [{ [HEADER]: '700' }, {}, '700'], [{ [HEADER]: '7000' }, {}, '5000'], [{}, { timeout: { request: 300 } }, '300'], [{ [HEADER]: '200' }, { timeout: { request: 300 } }, '200']
  ]
  for (const [headers, options] of asks) await (await proxy.forwardHttp(new Request('http://any/', { headers }), options)).text()
  t.strictSame(told(), asks.map(([, , left]) => [left]))
  await noneUnderWay(t, gateway)
})

t.test('forwardHttp rejects when the time is over', async t => {
  const { clock, gateway, proxy, requests } = await start(t, { fates: { a: [HANGS] }, options: { deadlineHeader: HEADER } })
  const answer = proxy.forwardHttp(new Request('http://any/', { headers: { [HEADER]: '700' } }))
  await until(() => requests() === 1)
  clock.advance(700 + PACE)
  await t.rejects(answer, { code: 'FST_ROCKSTAR_TIMEOUT' })
  await noneUnderWay(t, gateway)
})

t.test('no backend is to blame for what a client\'s own deadline has cut short', async t => {
  const { clock, gateway, proxy, requests, send } = await start(t, { fates: { a: [HANGS] }, options: { deadlineHeader: HEADER, breaker: true, outlier: true, timeout: { request: 5_000 } }, setup: TRUSTED })
  for (let i = 1; i <= 8; i++) {
    const client = await send(`${HEADER}: 20`)
    await until(() => requests() === i)
    clock.advance(20 + PACE)
    t.equal(codeOf(await client.response()), 'FST_ROCKSTAR_TIMEOUT')
  }
  await noneUnderWay(t, gateway)
  t.match(proxy.getBackend('a').toJSON(), { circuitState: 'closed', ejected: false })
})

t.test('a backend that had all of timeout.request is to blame', async t => {
  const { clock, gateway, proxy, requests, send } = await start(t, { fates: { a: [HANGS] }, options: { breaker: true, timeout: { request: 5_000 } } })
  for (let i = 1; i <= 5; i++) {
    const client = await send()
    await until(() => requests() === i)
    clock.advance(5_000 + PACE)
    t.equal(codeOf(await client.response()), 'FST_ROCKSTAR_TIMEOUT')
  }
  await noneUnderWay(t, gateway)
  t.equal(proxy.getBackend('a').circuitState, 'open')
})

t.test('nor is one for what an attempt before it has left of the time', async t => {
  const { clock, proxy, requests, send } = await start(t, {
    fates: { a: [HANGS], b: [HANGS] }, retry: { perTryTimeout: 3_000 }, options: { breaker: { threshold: 1 }, timeout: { request: 4_000 } }
  })
  const client = await send()
  await until(() => requests() === 1)
  clock.advance(3_000)
  await until(() => requests() === 2)
  clock.advance(1_000 + PACE)
  t.equal(codeOf(await client.response()), 'FST_ROCKSTAR_TIMEOUT')
  t.strictSame(['a', 'b'].map(id => proxy.getBackend(id).circuitState), ['open', 'closed'])
})

t.test('without a deadline no client is kept waiting for an hour because a backend has said so', async t => {
  const { gateway, requests, send } = await start(t, { fates: { a: [ok('', 'Retry-After: 61\r\n', '503 Sorry')] }, retry: true, options: { timeout: { request: 0 } } })
  const response = await (await send()).response()
  t.equal(response.status, 503)
  t.strictSame(response.values('retry-after'), ['61'])
  t.equal(requests(), 1)
  await noneUnderWay(t, gateway)
})
