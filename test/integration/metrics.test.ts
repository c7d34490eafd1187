import { createServer, type AddressInfo } from 'node:net'
import t from 'tap'
import type { Test } from 'tap'
import type { AttemptReport, BackendMetrics, RockstarProxyOptions, StageTimeouts, UpstreamMetrics } from '../../types/index.ts'
import { httpBackend, startGateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, rawBackend, until, type Wire } from '../helpers/wire.ts'

const routes = [{ prefix: '/' }]
const HALF = 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf'

/** A gateway with one backend that answers by path, and holds what begins with `/hold`. */
async function setup (t: Test, options: RockstarProxyOptions = {}) {
  const clock = new FakeClock()
  const backend = await rawBackend(t, (request, wire) => {
    const path = request.startLine.split(' ')[1]
    if (path.startsWith('/hold')) return
    if (path.startsWith('/half')) return HALF
    if (path.startsWith('/reset')) return wire.reset()
    const status = /^\/(\d{3})/.exec(path)?.[1]
    return ok('body', '', `${status ?? 200} Status`)
  })
  const gateway = await startGateway(t, { clock, backends: [{ id: 'a', url: backend.url }], routes, ...options })
  const { proxy } = gateway.app
  /** Sends a request whose backend takes so long to answer. */
  const taking = async (time: number, status = '200 OK') => {
    const before = backend.requests.length
    const client = await gateway.connect()
    client.send('GET /hold HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n')
    await until(() => backend.requests.length > before)
    clock.advance(time)
    const wire = backend.connections.find(wire => wire.received.includes('/hold') && !wire.closed && !wire.ended)
    wire?.send(ok('', 'Connection: close\r\n', status))
    await client.response()
    await until(() => wire?.ended === true || wire?.closed === true)
  }
  return { clock, backend, gateway, proxy, taking }
}

const counts = ({ totalRequests, successfulRequests, failedRequests, abortedRequests, inFlight }: BackendMetrics) =>
  ({ totalRequests, successfulRequests, failedRequests, abortedRequests, inFlight })

t.test('whole answers below 500 are successes, those of 500 and above are failures', async t => {
  const { gateway, proxy } = await setup(t)
  for (const path of ['/', '/201', '/204', '/302', '/404', '/429', '/499', '/500', '/502', '/503', '/599']) await gateway.app.inject(path)
  const expected = { totalRequests: 11, successfulRequests: 7, failedRequests: 4, abortedRequests: 0, inFlight: 0 }
  const metrics = proxy.getMetrics()
  t.strictSame(counts(metrics), expected)
  t.strictSame(counts(metrics.backends.a), expected)
  t.equal(metrics.totalRetries, 0)
})

t.test('every way to forward is counted', async t => {
  const backend = await rawBackend(t, () => ok())
  const gateway = await startGateway(t, { backends: [{ id: 'a', url: backend.url }], routes: [{ prefix: '/route' }] }, {
    setup: app => {
      app.get('/reply', (request, reply) => app.proxy.forward(request, reply))
      app.get('/capture', async request => (await app.proxy.forward(request)).text())
      app.get('/unread', async request => (await app.proxy.forward(request)).statusCode)
    }
  })
  const { proxy } = gateway.app
  for (const path of ['/route', '/reply', '/capture', '/unread']) await gateway.app.inject(path)
  await (await proxy.forwardHttp(new Request('http://gateway/'))).text()
  await until(() => proxy.getMetrics().inFlight === 0)
  const expected = { totalRequests: 5, successfulRequests: 5, failedRequests: 0, abortedRequests: 0, inFlight: 0 }
  t.strictSame(counts(proxy.getMetrics()), expected)
  t.strictSame(counts(proxy.getMetrics().backends.a), expected)
})

t.test('failures are counted, of the backend and before there was one', async t => {
  const gone = await rawBackend(t, () => {})
  gone.close()
  const { gateway, proxy, clock, backend } = await setup(t, { upstreams: { gone: { backends: [{ id: 'g', url: gone.url }] }, none: {} }, routes: [{ prefix: '/' }, { prefix: '/gone', upstream: 'gone' }, { prefix: '/none', upstream: 'none' }] })
  await gateway.app.inject('/reset')
  const client = await gateway.connect()
  client.send('GET /half HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await client.receive('half')
  backend.connections.find(wire => wire.received.includes('/half'))?.reset()
  await until(() => client.closed || client.ended)
  const late = gateway.app.inject('/hold')
  await until(() => backend.requests.length === 3)
  clock.advance(31_000)
  t.equal((await late).statusCode, 504)
  const expected = { totalRequests: 3, successfulRequests: 0, failedRequests: 3, abortedRequests: 0, inFlight: 0 }
  t.strictSame(counts(proxy.getMetrics()), expected)
  t.strictSame(counts(proxy.getMetrics().backends.a), expected)

  await gateway.app.inject('/gone')
  await gateway.app.inject('/none')
  const { upstreams } = proxy.getMetrics()
  const one = { totalRequests: 1, successfulRequests: 0, failedRequests: 1, abortedRequests: 0, inFlight: 0 }
  t.strictSame(counts(upstreams.gone), one)
  t.strictSame(counts(upstreams.gone.backends.g), one)
  t.strictSame(counts(upstreams.none), one, 'a request that found no backend has failed')
})

t.test('requests that the proxy refuses are no attempts', async t => {
  const { gateway, proxy, backend } = await setup(t)
  await gateway.app.inject({ url: '/', headers: { via: '1.1 rockstar-proxy' } })
  t.equal(backend.requests.length, 0)
  t.equal(proxy.getMetrics().backends.a.totalRequests, 0)
  t.equal(proxy.getMetrics().inFlight, 0)
})

t.test('a client that goes is counted apart, and has no response time', async t => {
  const { gateway, proxy, backend } = await setup(t)
  for (const [path, seen] of [['/hold', ''], ['/half', 'half']]) {
    const client = await gateway.connect()
    const before = backend.requests.length
    client.send(`GET ${path} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
    await until(() => backend.requests.length > before)
    await client.receive(seen)
    client.close()
    await until(() => proxy.getMetrics().inFlight === 0)
  }
  const expected = { totalRequests: 2, successfulRequests: 0, failedRequests: 0, abortedRequests: 2, inFlight: 0 }
  t.strictSame(counts(proxy.getMetrics()), expected)
  t.strictSame(counts(proxy.getMetrics().backends.a), expected)
  t.match(proxy.getMetrics(), { averageResponseTime: 0, minResponseTime: 0, maxResponseTime: 0, p99ResponseTime: 0 })
})

t.test('a client that sends nothing or takes nothing for too long has gone as well', async t => {
  const { gateway, proxy, backend, clock } = await setup(t)
  const sender = await gateway.connect()
  sender.send('POST /hold HTTP/1.1\r\nHost: gateway\r\nContent-Length: 100000\r\n\r\nhalf')
  await until(() => backend.connections[0]?.received.includes('half') === true)
  clock.advance(61_000)
  t.equal((await sender.response()).status, 408)
  const expected = { totalRequests: 1, successfulRequests: 0, failedRequests: 0, abortedRequests: 1, inFlight: 0 }
  t.strictSame(counts(proxy.getMetrics().backends.a), expected, 'nothing sent, for the backend')
  t.strictSame(counts(proxy.getMetrics()), expected, 'nothing sent, in all')

  const wrote = { blocks: 0 }
  const endless = await httpBackend(t, (_request, response) => {
    response.writeHead(200)
    const write = () => {
      while (!response.destroyed) {
        wrote.blocks++
        if (!response.write(Buffer.alloc(65_536))) return
      }
    }
    response.on('drain', write)
    write()
  })
  const other = await startGateway(t, { clock, backends: [{ id: 'e', url: endless.url }], routes })
  const taker = await other.connect()
  taker.socket.pause()
  taker.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  let before = -1
  while (wrote.blocks === 0 || before !== wrote.blocks) {
    before = wrote.blocks
    for (let i = 0; i < 300; i++) await new Promise(setImmediate)
  }
  clock.advance(61_000)
  t.strictSame(counts(other.app.proxy.getMetrics().backends.e), expected, 'nothing taken, for the backend')
  t.strictSame(counts(other.app.proxy.getMetrics()), expected, 'nothing taken, in all')
})

t.test('what is under way is counted while it is', async t => {
  const { gateway, proxy, backend } = await setup(t)
  const clients = await Promise.all([1, 2, 3].map(() => gateway.connect()))
  for (const client of clients) client.send('GET /hold HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => backend.requests.length === 3)
  t.match(proxy.getMetrics(), { totalRequests: 3, inFlight: 3, successfulRequests: 0, backends: { a: { totalRequests: 3, inFlight: 3 } } })
  t.equal(proxy.getBackend('a').inFlight, 3)
  t.equal(proxy.getBackend('a').toJSON().inFlight, 3)
  backend.connections[0].send(ok())
  await until(() => proxy.getMetrics().inFlight === 2)
  for (const wire of backend.connections.slice(1)) wire.send(ok())
  await until(() => proxy.getMetrics().inFlight === 0)
  t.match(proxy.getMetrics(), { totalRequests: 3, successfulRequests: 3 })
})

t.test('response times: average, least, most and quantiles', async t => {
  const { proxy, taking } = await setup(t)
  for (let time = 10; time <= 200; time += 10) await taking(time)
  for (const metrics of [proxy.getMetrics(), proxy.getMetrics().backends.a]) {
    t.match(metrics, { totalRequests: 20, successfulRequests: 20, averageResponseTime: 105, minResponseTime: 10, maxResponseTime: 200 })
    for (const [name, value] of [['p50ResponseTime', 100], ['p90ResponseTime', 180], ['p99ResponseTime', 200]] as const) {
      t.ok(Math.abs(metrics[name] - value) <= value * 0.032, `${name}: ${metrics[name]}`)
    }
  }
})

t.test('a failure has a response time too', async t => {
  const { proxy, taking } = await setup(t)
  await taking(40, '503 Sorry')
  t.match(proxy.getMetrics(), { failedRequests: 1, averageResponseTime: 40, maxResponseTime: 40, p50ResponseTime: 40 })
})

t.test('a response time ends with the last byte, not with the head', async t => {
  const { proxy, gateway, backend, clock } = await setup(t)
  const client = await gateway.connect()
  client.send('GET /half HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await client.receive('half')
  clock.advance(70)
  backend.connections[0].send('2nd ha')
  await client.response()
  t.equal(proxy.getMetrics().averageResponseTime, 70)
})

t.test('a reset sets all to zero but what is under way, which then counts once', async t => {
  const { proxy, gateway, backend, clock, taking } = await setup(t)
  await taking(30)
  await gateway.app.inject('/500')
  const client = await gateway.connect()
  const before = backend.requests.length
  client.send('GET /hold HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => backend.requests.length > before)
  proxy.resetMetrics()
  const zero = { totalRequests: 1, successfulRequests: 0, failedRequests: 0, abortedRequests: 0, inFlight: 1 }
  const noTimes = { averageResponseTime: 0, minResponseTime: 0, maxResponseTime: 0, p50ResponseTime: 0, p90ResponseTime: 0, p99ResponseTime: 0 }
  t.strictSame(counts(proxy.getMetrics()), zero)
  t.strictSame(counts(proxy.getMetrics().backends.a), zero)
  t.match(proxy.getMetrics(), { ...noTimes, totalRetries: 0, backends: { a: noTimes } })
  clock.advance(50)
  backend.connections.find(wire => wire.received.endsWith('\r\n\r\n') && wire.received.split('/hold').length > 1 && !wire.ended && !wire.closed)?.send(ok())
  await client.response()
  const one = { totalRequests: 1, successfulRequests: 1, failedRequests: 0, abortedRequests: 0, inFlight: 0 }
  t.strictSame(counts(proxy.getMetrics()), one)
  t.strictSame(counts(proxy.getMetrics().backends.a), one)
  t.equal(proxy.getMetrics().averageResponseTime, 50)
})

t.test('attempts made again are counted as retries, and as requests of the backend alone', async t => {
  const backend = await rawBackend(t, (_request, wire, { requests }) => requests.length === 2 ? wire.reset() : ok())
  const gateway = await startGateway(t, { backends: [{ id: 'a', url: backend.url }], routes })
  const { proxy } = gateway.app
  await gateway.app.inject('/')
  await until(() => proxy.getConnectionPool().stats().idle === 1)
  t.equal((await gateway.app.inject('/')).statusCode, 200)
  t.match(proxy.getMetrics(), { totalRequests: 2, successfulRequests: 2, failedRequests: 0, totalRetries: 1, backends: { a: { totalRequests: 3, successfulRequests: 2, failedRequests: 0, abortedRequests: 1 } } })
  proxy.resetMetrics()
  t.equal(proxy.getMetrics().totalRetries, 0)
})

t.test('upstreams are counted apart', async t => {
  const { url } = await rawBackend(t, () => ok())
  const gateway = await startGateway(t, {
    backends: [{ id: 'same', url }],
    upstreams: { one: { backends: [{ id: 'same', url }] }, two: { backends: [{ id: 'same', url }] } },
    routes: [{ prefix: '/' }, { prefix: '/one', upstream: 'one' }]
  })
  const { proxy } = gateway.app
  for (const path of ['/', '/one', '/one']) await gateway.app.inject(path)
  t.match(proxy.getMetrics(), {
    totalRequests: 1,
    backends: { same: { totalRequests: 1 } },
    upstreams: { one: { totalRequests: 2, backends: { same: { totalRequests: 2 } } }, two: { totalRequests: 0, backends: { same: { totalRequests: 0 } } } }
  })
  t.notOk('upstreams' in proxy.upstream('one').getMetrics())
  t.equal(proxy.upstream('one').getMetrics().totalRequests, 2)
  proxy.upstream('one').resetMetrics()
  t.equal(proxy.getMetrics().upstreams.one.totalRequests, 0)
  t.equal(proxy.getMetrics().totalRequests, 1)
  await proxy.removeUpstream('two')
  t.strictSame(Object.keys(proxy.getMetrics().upstreams), ['one'])
})

t.test('backends are counted apart, and what one has counted goes with it', async t => {
  const urls = await Promise.all(['a', 'b'].map(async id => ({ id, url: (await rawBackend(t, () => ok(id))).url })))
  const gateway = await startGateway(t, { backends: urls, routes })
  const { proxy } = gateway.app
  for (let i = 0; i < 5; i++) await gateway.app.inject('/')
  t.match(proxy.getMetrics(), { totalRequests: 5, backends: { a: { totalRequests: 3 }, b: { totalRequests: 2 } } })
  await proxy.removeBackend('b')
  t.match(proxy.getMetrics(), { totalRequests: 5, backends: { a: { totalRequests: 3 } } })
  t.strictSame(Object.keys(proxy.getMetrics().backends), ['a'])
})

t.test('an update of a backend keeps its counts', async t => {
  const { gateway, proxy } = await setup(t)
  await gateway.app.inject('/')
  proxy.updateBackend('a', { weight: 5 })
  proxy.setLoadBalancer('round-robin')
  proxy.setConnectionPool({})
  await gateway.app.inject('/')
  t.equal(proxy.getMetrics().backends.a.totalRequests, 2)
})

t.test('the pool tells its numbers', async t => {
  const { gateway, proxy, backend } = await setup(t, { pool: { connections: 1 } })
  const stats = () => proxy.getConnectionPool().stats()
  const client = await gateway.connect()
  client.send('GET /hold HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => backend.requests.length === 1)
  const waiting = gateway.app.inject('/')
  await until(() => stats().pending === 1)
  t.match(stats(), { total: 1, active: 1, idle: 0, pending: 1, connects: 1, connectErrors: 0, requests: 2, backends: { a: { total: 1, active: 1, pending: 1 } } })
  backend.connections[0].send(ok())
  t.equal((await waiting).statusCode, 200)
  await until(() => stats().idle === 1)
  t.match(stats(), { total: 1, active: 0, idle: 1, pending: 0, connects: 1, requests: 2, reuseRatio: 0.5 })
  t.strictSame(JSON.parse(JSON.stringify(stats())).backends.a, { total: 1, active: 0, idle: 1, pending: 0, connects: 1, connectErrors: 0, requests: 2, reuseRatio: 0.5 })
})

t.test('the pool counts connections that could not be made', async t => {
  const gone = await rawBackend(t, () => {})
  gone.close()
  const gateway = await startGateway(t, { backends: [{ id: 'a', url: gone.url }], routes })
  for (let i = 0; i < 3; i++) t.equal((await gateway.app.inject('/')).statusCode, 502)
  t.match(gateway.app.proxy.getConnectionPool().stats(), { total: 0, active: 0, idle: 0, pending: 0, connects: 0, connectErrors: 3, requests: 3 })
})

t.test('counting costs no memory that grows', async t => {
  const { gateway, proxy } = await setup(t)
  for (let i = 0; i < 50; i++) await gateway.app.inject('/')
  const size = JSON.stringify(proxy.getMetrics()).length
  for (let i = 0; i < 50; i++) await gateway.app.inject('/')
  t.ok(Math.abs(JSON.stringify(proxy.getMetrics()).length - size) < 100)
})

/** What is counted of what is done so that requests succeed, or are kept out. */
const NOTHING = {
  totalRetries: 0,
  retriesDenied: 0,
  hedgedRequests: 0,
  hedgesWon: 0,
  queuedRequests: 0,
  queueLength: 0,
  shedRequests: 0,
  fallbacksServed: 0,
  mirroredRequests: 0,
  mirrorsSkipped: 0,
  timeouts: { queue: 0, connect: 0, send: 0, wait: 0, stream: 0, client: 0, request: 0 }
}
const done = (metrics: UpstreamMetrics) => Object.fromEntries(Object.keys(NOTHING).map(name => [name, metrics[name as keyof UpstreamMetrics]]))

t.test('what takes too long is counted by what was waited for', async t => {
  const timeout = { connect: 1_000, headers: 2_000, idle: 3_000, request: 20_000 }
  const routes = [{ prefix: '/' }, { prefix: '/quick', rewritePrefix: '/', timeout: { request: 500 } }]
  const { gateway, proxy, backend, clock } = await setup(t, { timeout, routes, pool: { connections: 2 } })
  const head = (path: string, ...fields: string[]) => ['GET ' + path + ' HTTP/1.1', 'Host: gateway', ...fields, '', ''].join('\r\n')
  const late = async (stage: keyof StageTimeouts, status: number, begin: (client: Wire) => unknown, milliseconds: number, on = proxy) => {
    on.resetMetrics()
    const client = await gateway.connect()
    await begin(client)
    clock.advance(milliseconds + 250)
    if (status !== 0) t.equal((await client.response()).status, status, stage)
    t.strictSame(done(on.getMetrics()), { ...NOTHING, timeouts: { ...NOTHING.timeouts, [stage]: 1 } }, stage)
    client.close()
    await until(() => on.getMetrics().inFlight === 0)
  }
  const seen = async (client: Wire, bytes: string, text: string) => {
    const before = backend.connections.length
    client.send(bytes)
    await until(() => backend.connections.slice(Math.max(0, before - 1)).some(({ received, closed, ended }) => !closed && !ended && received.includes(text)))
  }
  await late('wait', 504, async client => {
    const before = backend.requests.length
    client.send(head('/hold'))
    await until(() => backend.requests.length > before)
  }, 2_000)
  await late('stream', 0, async client => {
    client.send(head('/half'))
    await client.receive('half')
  }, 3_000)
  await late('client', 408, client => seen(client, head('/hold', 'Content-Length: 100000').replace('GET', 'POST') + 'some', 'some'), 3_000)
  await late('request', 504, async client => {
    const before = backend.requests.length
    client.send(head('/quick/hold'))
    await until(() => backend.requests.length > before)
  }, 500)

  // A connection: both are taken by requests whose backend streams all the while.
  const busy = await Promise.all([1, 2].map(() => gateway.connect()))
  for (const client of busy) {
    client.send(head('/half'))
    await client.receive('half')
  }
  proxy.resetMetrics()
  const waiting = await gateway.connect()
  waiting.send(head('/'))
  await until(() => proxy.getConnectionPool().stats().pending === 1)
  clock.advance(1_250)
  t.equal((await waiting.response()).status, 504)
  t.strictSame(done(proxy.getMetrics()).timeouts, { ...NOTHING.timeouts, connect: 1 })
})

t.test('a backend that takes no more of a body is counted as slow to be sent to', async t => {
  const clock = new FakeClock()
  const deaf = createServer(socket => { socket.pause().on('error', () => {}) })
  await new Promise<void>(resolve => deaf.listen(0, '127.0.0.1', resolve))
  t.teardown(() => deaf.close())
  const gateway = await startGateway(t, { clock, backends: [`http://127.0.0.1:${(deaf.address() as AddressInfo).port}`], routes })
  const { proxy } = gateway.app
  const client = await gateway.connect()
  const size = 64 * 1024 * 1024
  client.send(`POST / HTTP/1.1\r\nHost: gateway\r\nContent-Length: ${size}\r\n\r\n`)
  client.socket.write(Buffer.alloc(size))
  // Until neither side takes any more.
  let before = -1
  while (client.socket.bytesWritten === 0 || before !== client.socket.writableLength) {
    before = client.socket.writableLength
    for (let i = 0; i < 300; i++) await new Promise(setImmediate)
  }
  await until(() => proxy.getMetrics().inFlight === 1)
  clock.advance(61_000)
  await until(() => proxy.getMetrics().inFlight === 0)
  t.match(proxy.getMetrics(), { failedRequests: 1, timeouts: { ...NOTHING.timeouts, send: 1 } })
})

t.test('all that is done for requests is counted side by side, for each upstream apart, and reset together', async t => {
  const clock = new FakeClock()
  const held: Wire[] = []
  const backends = await Promise.all(['a', 'b'].map(async id => ({
    id,
    url: (await rawBackend(t, (request, wire) => {
      const path = request.startLine.split(' ')[1]
      if (path.startsWith('/hold')) { held.push(wire); return }
      if (path.startsWith('/cut')) { wire.socket.end('HTTP/1.1 2'); return }
      return ok(id)
    })).url
  })))
  const shadow = await rawBackend(t, () => ok())
  const gateway = await startGateway(t, {
    clock,
    backends,
    retry: { attempts: 2, budget: { percent: 0, minPerSecond: 1 } },
    hedge: { minDelay: 50, maxExtra: 1 },
    limits: { maxInFlight: 2, queue: { size: 1, timeout: 1_000 } },
    fallback: { statusCode: 200, body: 'fallback', on: ['RESET', 'OVERLOADED'] },
    mirror: { upstream: 'shadow', maxBodySize: 10 },
    upstreams: { shadow: { backends: [{ id: 's', url: shadow.url }] } },
    routes
  })
  const { app, app: { proxy } } = gateway
  for (let i = 0; i < 20; i++) await app.inject('/')
  clock.advance(2_000)
  await until(() => proxy.getMetrics().upstreams.shadow.inFlight === 0)
  proxy.resetMetrics()

  t.equal((await app.inject('/cut')).body, 'fallback', 'tried twice, and replaced')
  t.equal((await app.inject('/cut')).body, 'fallback', 'not tried again, and replaced')
  const hedged = app.inject('/hold')
  await until(() => held.length === 1)
  clock.advance(50)
  await until(() => held.length === 2)
  held[1].send(ok('hedge'))
  t.equal((await hedged).body, 'hedge')
  t.equal((await app.inject({ method: 'POST', url: '/', payload: 'more than ten bytes' })).statusCode, 200)
  held.length = 0
  const slow = [app.inject({ method: 'POST', url: '/hold' }), app.inject({ method: 'POST', url: '/hold' })]
  await until(() => held.length === 2)
  const queued = app.inject('/')
  await until(() => proxy.getMetrics().queueLength === 1)
  t.equal((await app.inject('/')).body, 'fallback', 'not even let wait')
  t.equal(proxy.getMetrics().queueLength, 1)
  clock.advance(1_250)
  t.equal((await queued).body, 'fallback', 'has waited in vain')
  for (const wire of held) wire.send(ok('slow'))
  await Promise.all(slow)

  const { upstreams, ...metrics } = proxy.getMetrics()
  t.strictSame(done(metrics as UpstreamMetrics), {
    ...NOTHING,
    totalRetries: 1,
    retriesDenied: 1,
    hedgedRequests: 1,
    hedgesWon: 1,
    queuedRequests: 1,
    shedRequests: 2,
    fallbacksServed: 4,
    mirroredRequests: 5,
    mirrorsSkipped: 1,
    timeouts: { ...NOTHING.timeouts, queue: 1 }
  })
  t.strictSame(done(upstreams.shadow), NOTHING)
  proxy.resetMetrics()
  t.strictSame(done(proxy.getMetrics()), NOTHING)
})

t.test('the answer and the log tell of each attempt', async t => {
  const clock = new FakeClock()
  const held: Wire[] = []
  const backends = await Promise.all(['a', 'b', 'c'].map(async id => ({ id, url: (await rawBackend(t, (_request, wire) => { held.push(wire) })).url })))
  const told: AttemptReport[][] = []
  const gateway = await startGateway(t, {
    clock, backends, retry: true, routes: [{ prefix: '/', onResponse: (_request, _reply, { attempts }) => { told.push([...attempts]) } }]
  })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => held.length === 1)
  clock.advance(10)
  held[0].send(ok('', '', '503 Sorry'))
  await until(() => held.length === 2)
  clock.advance(20)
  held[1].socket.end('HTTP/1.1 2')
  await until(() => held.length === 3)
  clock.advance(40)
  held[2].send('HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n')
  await client.receive('200 OK')
  clock.advance(80)
  held[2].send('done')
  await client.response()
  t.equal(told.length, 1)
  t.match(told[0].map(({ backend, result, time, hedge, outcome }) => ({ id: backend.id, result, time, hedge, outcome })), [
    { id: 'a', result: 'failed', time: 10, hedge: false, outcome: { stage: 'stream', culprit: 'none', statusCode: 503, headTime: 10, responseTime: 10 } },
    { id: 'b', result: 'failed', time: 20, hedge: false, outcome: { stage: 'wait', culprit: 'backend', statusCode: 0, headTime: -1, responseTime: 20 } },
    { id: 'c', result: 'pending', time: 40, hedge: false, outcome: { stage: 'stream', culprit: 'none', statusCode: 200, headTime: 40, responseTime: -1 } }
  ])
  t.match(told[0][1].outcome.error, Error)
  const lines = gateway.log.filter(({ msg }) => msg === 'exchange finished')
  t.equal(lines.length, 1, 'one line for the request')
  t.match(lines[0], {
    backend: 'c',
    result: 'successful',
    responseTime: 150,
    attempts: [
      { backend: 'a', result: 'failed', stage: 'stream', statusCode: 503, time: 10, hedge: false },
      { backend: 'b', result: 'failed', stage: 'wait', statusCode: 0, time: 20, hedge: false },
      { backend: 'c', result: 'successful', stage: 'done', statusCode: 200, time: 120, hedge: false }
    ]
  })
  t.strictSame(gateway.log.filter(({ msg }) => msg === 'attempt failed').map(({ backend }) => backend), ['a', 'b'])
})
