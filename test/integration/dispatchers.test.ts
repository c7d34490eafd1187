import { request as httpRequest } from 'node:http'
import t, { type Test } from 'tap'
import { Agent, Client, MockAgent, Pool, interceptors, type Dispatcher } from 'undici'
import type { Backend, PoolOptions } from '../../types/index.ts'
import { httpBackend, startGateway, type Gateway } from '../helpers/app.ts'
import { connectTo, ok, rawBackend, until, type Message } from '../helpers/wire.ts'

const LIMIT = 15_000

async function ask (t: Test, gateway: Gateway, path = '/a'): Promise<Message> {
  const client = await connectTo(t, gateway.port)
  client.send(`GET ${path} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
  return await client.response()
}

/** A dispatcher that tells how often it was closed. */
class Watched extends Agent {
  ends: string[] = []

  // undici's own call themselves again, with a callback.
  override close (...args: unknown[]): Promise<void> & void {
    if (args.length === 0) this.ends.push('close')
    return super.close(...args as []) as Promise<void> & void
  }
}

t.test('a dispatcher serves all backends of all upstreams it is given to, and stays the application\'s', { timeout: LIMIT }, async t => {
  const [a, b] = [await httpBackend(t, (request, response) => { response.end(`a${request.url}`) }), await httpBackend(t, (request, response) => { response.end(`b${request.url}`) })]
  const dispatcher = new Watched({ keepAliveTimeout: 60_000 })
  t.teardown(() => dispatcher.destroy())
  const gateway = await startGateway(t, {
    backends: [a.url, b.url],
    pool: { dispatcher },
    upstreams: { other: { backends: [a.url], pool: { dispatcher } } },
    routes: [{ prefix: '/' }, { prefix: '/other', upstream: 'other' }]
  })
  t.same((await Promise.all([ask(t, gateway), ask(t, gateway)])).map(({ body }) => body).sort(), ['a/a', 'b/a'])
  t.equal((await ask(t, gateway, '/other')).body, 'a/')
  const stats = gateway.app.proxy.getConnectionPool().stats()
  t.match(stats, { requests: 2, connectErrors: 0 })
  t.match(stats.backends[new URL(a.url).host], { total: 1, idle: 1, active: 0, pending: 0, connects: 1, requests: 1 })
  await gateway.app.proxy.removeBackend(new URL(b.url).host)
  gateway.app.proxy.setConnectionPool({})
  await gateway.app.close()
  t.same(dispatcher.ends, [])
  const { statusCode, body } = await dispatcher.request({ origin: a.url, path: '/still', method: 'GET' })
  t.equal(statusCode, 200)
  t.equal(await body.text(), 'a/still')
})

t.test('what a function makes is closed once, with the last backend it serves', { timeout: LIMIT }, async t => {
  const { url } = await httpBackend(t, (request, response) => { response.end(request.url) })
  const made: Watched[] = []
  const asked: string[] = []
  const gateway = await startGateway(t, {
    backends: [{ id: 'a', url }, { id: 'b', url }, { id: 'shared 1', url }, { id: 'shared 2', url }],
    routes: [{ prefix: '/' }],
    pool: {
      dispatcher: ({ id }: Backend) => {
        asked.push(id)
        const known = id.startsWith('shared') ? made[2] : undefined
        if (known !== undefined) return known
        const dispatcher = new Watched()
        made.push(dispatcher)
        return dispatcher
      }
    }
  })
  const { proxy } = gateway.app
  t.same(asked, ['a', 'b', 'shared 1', 'shared 2'], 'each at the start, and once')
  t.equal(made.length, 3)
  for (let i = 0; i < 8; i++) t.equal((await ask(t, gateway)).status, 200)
  t.equal(asked.length, 4)
  await proxy.removeBackend('a')
  t.same(made.map(({ ends }) => ends), [['close'], [], []])
  await proxy.removeBackend('shared 1')
  t.same(made.map(({ ends }) => ends), [['close'], [], []], 'it still serves another')
  await proxy.removeBackend('shared 2')
  t.same(made.map(({ ends }) => ends), [['close'], [], ['close']])
  const pool = proxy.getConnectionPool()
  proxy.setConnectionPool({})
  await until(() => made[1].ends.length === 1)
  await gateway.app.close()
  await pool.close()
  t.same(made.map(({ ends }) => ends), [['close'], ['close'], ['close']])
})

t.test('undici\'s MockAgent answers in place of backends', { timeout: LIMIT }, async t => {
  const mock = new MockAgent()
  mock.disableNetConnect()
  t.teardown(() => mock.close())
  const upstream = mock.get('http://inner.example')
  upstream.intercept({ path: '/base/a', method: 'GET' }).reply(201, 'mocked', { headers: { 'X-Mocked': 'yes', 'content-type': 'text/plain' } })
  upstream.intercept({ path: '/base/a', method: 'POST', body: /^hello$/ }).reply(200, 'posted')
  upstream.intercept({ path: '/base/a', method: 'GET' }).replyWithError(new Error('mocked failure'))
  const gateway = await startGateway(t, { backends: ['http://inner.example/base'], routes: [{ prefix: '/' }], pool: { dispatcher: mock } })
  const first = await ask(t, gateway)
  t.match({ ...first }, { status: 201, body: 'mocked' })
  t.same(first.values('x-mocked'), ['yes'])
  const client = await connectTo(t, gateway.port)
  client.send('POST /a HTTP/1.1\r\nHost: gateway\r\nContent-Length: 5\r\n\r\nhello')
  t.equal((await client.response()).body, 'posted')
  const failed = await ask(t, gateway)
  t.equal(failed.status, 502)
  t.notMatch(failed.body, /mocked failure/)
  mock.assertNoPendingInterceptors()
})

t.test('health checks with a path go through the dispatcher as well', { timeout: LIMIT }, async t => {
  const mock = new MockAgent()
  mock.disableNetConnect()
  const upstream = mock.get('http://inner.example')
  upstream.intercept({ path: '/health', method: 'GET' }).reply(200, 'fine')
  upstream.intercept({ path: '/health', method: 'GET' }).reply(500, 'ill')
  const gateway = await startGateway(t, { backends: [{ id: 'inner', url: 'http://inner.example' }], pool: { dispatcher: () => mock }, health: { path: '/health', fall: 1, interval: 60_000, expectedBody: 'fine' } })
  await gateway.app.proxy.healthCheck()
  await t.rejects(gateway.app.proxy.healthCheck(), { message: /inner \(status 500\)/ })
})

t.test('pools, clients and composed dispatchers of undici', { timeout: LIMIT }, async t => {
  const backend = await rawBackend(t, ({ startLine }) => ok(startLine, 'X-Case: Kept\r\nx-TWICE: 1\r\nX-Twice: 2\r\n'))
  const dispatchers: (() => Dispatcher)[] = [
    () => new Pool(backend.url, { connections: 2 }), () => new Client(backend.url),
    () => new Agent().compose(interceptors.redirect({ maxRedirections: 0 })), () => new Agent().compose(interceptors.retry({ maxRetries: 1 }))
  ]
  for (const make of dispatchers) {
    const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }], pool: { dispatcher: make } })
    const { status, body, head } = await ask(t, gateway, '/a')
    t.same([status, body], [200, 'GET /a HTTP/1.1'])
    t.match(head, /\r\nX-Case: Kept\r\nx-TWICE: 1\r\nX-Twice: 2\r\n/, 'fields as they came')
    t.match(gateway.app.proxy.getConnectionPool().stats(), { requests: 1 })
  }
})

/** What undici 8 asks of handlers, and nothing else: no method of those before. */
class Modern {
  aborted: unknown = null
  paused = 0
  resumed = 0
  raw = true

  dispatch (options: Dispatcher.DispatchOptions, given: object): boolean {
    const handler = given as Record<string, (...args: unknown[]) => void>
    for (const method of ['onRequestStart', 'onResponseError', 'onResponseStart', 'onResponseData', 'onResponseEnd']) if (typeof handler[method] !== 'function') throw new TypeError(`invalid ${method} method`)
    const state = { paused: false, resume: () => {} }
    const sent = httpRequest(`${options.origin}${options.path}`, { method: options.method, headers: { host: 'x' } }, response => {
      const controller = Object.assign(shared, this.raw ? { rawHeaders: response.rawHeaders.map(text => Buffer.from(text, 'latin1')) } : {})
      state.resume = () => response.resume()
      handler.onResponseStart(controller, response.statusCode, response.headers, response.statusMessage)
      response.on('data', chunk => {
        handler.onResponseData(controller, chunk)
        if (state.paused) response.pause()
      })
      response.on('end', () => handler.onResponseEnd(Object.assign(controller, this.raw ? { rawTrailers: response.rawTrailers.map(text => Buffer.from(text)) } : {}), response.trailers))
      response.on('error', error => handler.onResponseError(controller, error))
    })
    const shared = {
      abort: (reason: unknown) => {
        this.aborted = reason
        sent.destroy(reason as Error)
      },
      pause: () => {
        this.paused++
        state.paused = true
      },
      resume: () => {
        this.resumed++
        state.paused = false
        state.resume()
      }
    }
    sent.on('error', error => handler.onResponseError(shared, error))
    handler.onRequestStart(shared, {})
    sent.end()
    return true
  }
}

t.test('a dispatcher that knows only the handlers of undici 8', { timeout: LIMIT }, async t => {
  const { url } = await httpBackend(t, (request, response) => {
    if (request.url === '/hang') response.write('begun')
    else if (request.url === '/trailers') {
      response.writeHead(200, { Trailer: 'X-Sum' })
      response.write('body')
      response.addTrailers({ 'X-Sum': '5' })
      response.end()
    } else {
      response.setHeader('Set-COOKIE', ['One=1', 'Two=2'])
      response.end(request.url === '/big' ? Buffer.alloc(8_000_000, 'x') : 'ok')
    }
  })
  for (const raw of [true, false]) {
    const dispatcher = Object.assign(new Modern(), { raw })
    const gateway = await startGateway(t, { backends: [url], routes: [{ prefix: '/' }], pool: { dispatcher: dispatcher as unknown as Dispatcher } })
    const first = await ask(t, gateway)
    t.match({ ...first }, { status: 200, body: 'ok' })
    t.same(first.values('set-cookie'), ['One=1', 'Two=2'])
    if (raw) t.match(first.head, /\r\nSet-COOKIE: One=1\r\nSet-COOKIE: Two=2/)
    const client = await connectTo(t, gateway.port)
    client.send('GET /trailers HTTP/1.1\r\nHost: gateway\r\nTE: trailers\r\nConnection: TE\r\n\r\n')
    t.same((await client.response()).trailers.map(([name, value]) => [name.toLowerCase(), value]), [['x-sum', '5']])
    const slow = await connectTo(t, gateway.port)
    slow.socket.pause()
    slow.send('GET /big HTTP/1.1\r\nHost: gateway\r\n\r\n')
    await until(() => dispatcher.paused > 0)
    slow.socket.resume()
    t.equal((await slow.response()).body.length, 8_000_000)
    t.ok(dispatcher.resumed > 0)
    const leaver = await connectTo(t, gateway.port)
    leaver.send('GET /hang HTTP/1.1\r\nHost: gateway\r\n\r\n')
    await leaver.receive('begun')
    leaver.close()
    await until(() => dispatcher.aborted !== null)
    t.ok(dispatcher.aborted instanceof Error)
  }
  const gateway = await startGateway(t, { backends: ['http://127.0.0.1:1'], routes: [{ prefix: '/' }], pool: { dispatcher: new Modern() as unknown as Dispatcher } })
  t.equal((await ask(t, gateway)).status, 502)
})

t.test('what is no dispatcher is refused, and options that would mean nothing beside one', { timeout: LIMIT }, async t => {
  const agent = new Agent()
  t.teardown(() => agent.close())
  const bad: [PoolOptions, RegExp][] = [
    [{ dispatcher: {} as never }, /pool\.dispatcher must be a Dispatcher/], [{ dispatcher: 'agent' as never }, /pool\.dispatcher must be/], [{ dispatcher: () => ({}) as never }, /pool\.dispatcher must give a Dispatcher with dispatch\(\) for backend 'x'/],
    [{ dispatcher: () => undefined as never }, /and has given undefined/],
    [{ dispatcher: agent, connections: 5 }, /pool\.connections must not stand beside options\.pool\.dispatcher/], [{ dispatcher: agent, tls: {} }, /pool\.tls must not stand beside/], [{ dispatcher: agent, socketPath: '/x' }, /pool\.socketPath must not/]
  ]
  for (const [pool, message] of bad) await t.rejects(startGateway(t, { backends: [{ id: 'x', url: 'http://127.0.0.1:1' }], pool }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message }, String(message))
  await t.rejects(startGateway(t, { backends: [{ id: 'x', url: 'https://127.0.0.1:1', tls: {} }], pool: { dispatcher: agent } }), { message: /tls of backend 'x' must not stand beside/ })
  await t.rejects(startGateway(t, { backends: [{ id: 'x', url: 'https://127.0.0.1:1', tls: {} }], pool: { dispatcherFor: () => agent, stats: () => ({}) as never, close: async () => {} } }), { message: /tls of backend 'x' wants a pool that heeds it/ })
  await t.rejects(startGateway(t, { backends: ['http://127.0.0.1:1'], pool: { dispatcher: () => { throw new Error('no agent today') } } }), { message: 'no agent today' })
})
