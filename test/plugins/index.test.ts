import Fastify from 'fastify'
import t from 'tap'
import type { Test } from 'tap'
import * as root from '../../plugins/index.ts'
import rockstarProxy, { rockstarProxy as named } from '../../plugins/index.ts'
import { startGateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, rawBackend, until } from '../helpers/wire.ts'

const URL_1 = 'http://127.0.0.1:1'

/** An app that is closed with the test. */
function appOf (t: Test) {
  const app = Fastify()
  t.teardown(() => app.close())
  return app
}

const POLICIES = ['IpHash', 'LeastRequests', 'Maglev', 'P2c', 'PeakEwma', 'Random', 'Rendezvous', 'RingHash', 'RoundRobin'] as const

t.test('the default export is the plugin function, by every name', t => {
  t.type(rockstarProxy, 'function')
  t.equal(named, rockstarProxy)
  t.equal((root as Record<string, unknown>)['module.exports'], rockstarProxy, 'which require() gives')
  t.end()
})

t.test('beside it are what its users build with', t => {
  t.strictSame(POLICIES.map(name => new root[name]().type), ['ip-hash', 'least-requests', 'maglev', 'p2c', 'peak-ewma', 'random', 'rendezvous', 'ring-hash', 'round-robin'])
  t.type(root.ConnectionPool, 'function')
  t.type(new root.ConnectionPool({ connections: 2 }).dispatcherFor, 'function')
  t.match(new root.CircuitBreaker({ threshold: 3, timeout: 30_000 }), { type: 'circuit-breaker', options: { threshold: 3, timeout: 30_000 } })
  t.equal(new root.errors.NO_BACKEND().code, 'FST_ROCKSTAR_NO_BACKEND')
  t.end()
})

t.test('who requires it finds the same on the function', t => {
  const required = (root as Record<string, unknown>)['module.exports'] as typeof root & typeof rockstarProxy
  for (const name of [...POLICIES, 'CircuitBreaker', 'ConnectionPool', 'errors', 'rockstarProxy'] as const) t.equal(required[name], root[name], name)
  t.equal(required.default, rockstarProxy)
  t.end()
})

t.test('it decorates the app with a manager, in its scope and all below', async t => {
  const app = appOf(t)
  await app.register(rockstarProxy, { backends: [URL_1] })
  t.ok(app.hasDecorator('proxy'))
  t.ok(app.hasPlugin('rockstar-proxy'))
  for (const method of ['addBackend', 'updateBackend', 'removeBackend', 'getBackend', 'listBackends', 'forward', 'forwardHttp', 'explain', 'setLoadBalancer', 'getLoadBalancer', 'setConnectionPool', 'getConnectionPool', 'setCircuitBreaker', 'getCircuitBreaker', 'healthCheck', 'getHealthStatus', 'isReady', 'on', 'once', 'off', 'getMetrics', 'resetMetrics', 'upstream', 'addUpstream', 'removeUpstream', 'listUpstreams'] as const) {
    t.type(app.proxy[method], 'function', method)
  }
  await app.register(async scope => { t.equal(scope.proxy, app.proxy) })
  app.get('/', async request => request.server.proxy === app.proxy)
  t.equal((await app.inject('/')).json(), true)
})

t.test('no option is needed', async t => {
  const app = appOf(t)
  await app.register(rockstarProxy)
  app.get('/', (request, reply) => app.proxy.forward(request, reply))
  t.equal((await app.inject('/')).json().code, 'FST_ROCKSTAR_NO_BACKEND')
})

t.test('register rejects with the error of a bad option', async t => {
  await t.rejects(async () => await appOf(t).register(rockstarProxy, { bakends: [] } as object), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: "options.bakends is not an option; did you mean 'backends'?" })
  await t.rejects(async () => await appOf(t).register(rockstarProxy, { backends: [URL_1, URL_1] }), { code: 'FST_ROCKSTAR_DUPLICATE_BACKEND' })
  await t.rejects(async () => await appOf(t).register(rockstarProxy, { upstreams: { default: {} } }), { code: /^FST_ROCKSTAR_/ })
  await t.rejects(async () => await appOf(t).register(rockstarProxy, { routes: [{ methods: ['TRACE'] }] }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /TRACE/ })
})

t.test('registering it twice in one scope is an error that says so', async t => {
  const app = appOf(t)
  await app.register(rockstarProxy, { backends: [URL_1] })
  const { proxy } = app
  await t.rejects(async () => await app.register(rockstarProxy, {}), { message: /'?proxy'?.*already|already.*'?proxy'?/i })
  t.equal(app.proxy, proxy)
})

t.test('scopes beside each other have proxies of their own', async t => {
  const [one, two] = [await rawBackend(t, () => ok('one')), await rawBackend(t, () => ok('two'))]
  const app = appOf(t)
  for (const [prefix, { url }] of [['/one', one], ['/two', two]] as const) {
    await app.register(async scope => {
      await scope.register(rockstarProxy, { backends: [url], routes: [{ prefix }] })
    })
  }
  t.notOk(app.hasDecorator('proxy'), 'which are not seen outside')
  t.equal((await app.inject('/one/x')).body, 'one')
  t.equal((await app.inject('/two/x')).body, 'two')
})

t.test('declared routes work beside the app\'s own', async t => {
  const backend = await rawBackend(t, request => ok(request.startLine))
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/api' }, { prefix: '/old', rewritePrefix: '/new', methods: ['GET'] }] }, {
    before: app => {
      app.get('/own', async () => 'own')
      app.post('/own', async request => request.body)
    }
  })
  const { app } = gateway
  t.equal((await app.inject('/own')).body, 'own')
  t.strictSame((await app.inject({ method: 'POST', url: '/own', payload: { a: 1 } })).json(), { a: 1 }, 'the app\'s JSON parser is there')
  t.equal((await app.inject('/api/x?y')).body, 'GET /x?y HTTP/1.1')
  t.equal((await app.inject('/api')).body, 'GET / HTTP/1.1')
  t.equal((await app.inject('/old/x')).body, 'GET /new/x HTTP/1.1')
  t.equal((await app.inject({ method: 'POST', url: '/old/x' })).statusCode, 404)
  t.equal((await app.inject('/apix')).statusCode, 404)
})

t.test('it works with app.inject(): every method, body and answer', async t => {
  const backend = await rawBackend(t, request => {
    const [method, path] = request.startLine.split(' ')
    if (path === '/204') return 'HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n'
    if (path === '/chunked') return 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n'
    if (method === 'HEAD') return 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\n\r\n'
    return ok(`${method} ${request.body}`, 'X-A: 1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n', '201 Made')
  })
  const app = appOf(t)
  await app.register(rockstarProxy, { backends: [backend.url], routes: [{ prefix: '/' }], shutdownTimeout: 0 })
  for (const method of ['GET', 'DELETE', 'OPTIONS', 'PATCH', 'POST', 'PUT'] as const) {
    const response = await app.inject({ method, url: '/', headers: { 'content-type': 'text/x' }, payload: method === 'GET' ? undefined : 'body' })
    t.equal(response.statusCode, 201, method)
    t.equal(response.statusMessage, 'Made', method)
    t.equal(response.body, method === 'GET' ? 'GET ' : `${method} body`)
    t.equal(response.headers['x-a'], '1', method)
    t.strictSame(response.headers['set-cookie'], ['a=1', 'b=2'], method)
  }
  const head = await app.inject({ method: 'HEAD', url: '/' })
  t.equal(head.body, '')
  t.equal(head.headers['content-length'], '5')
  const none = await app.inject('/204')
  t.equal(none.statusCode, 204)
  t.equal(none.body, '')
  t.equal((await app.inject('/chunked')).body, 'onetwo')
})

t.test('it works with app.inject() where hooks see the answer', async t => {
  const backend = await rawBackend(t, () => ok('body', 'X-A: 1\r\n'))
  const app = appOf(t)
  app.addHook('onSend', async (_request, reply) => { reply.header('x-hook', 'yes') })
  await app.register(rockstarProxy, { backends: [backend.url], routes: [{ prefix: '/' }] })
  const response = await app.inject('/')
  t.equal(response.body, 'body')
  t.equal(response.headers['x-a'], '1')
  t.equal(response.headers['x-hook'], 'yes')
})

t.test('a request by app.inject() is over when it is answered, and keeps no app from closing', async t => {
  const clock = new FakeClock()
  const backend = await rawBackend(t, request => ok(request.body))
  const app = appOf(t)
  await app.register(rockstarProxy, { clock, backends: [backend.url], routes: [{ prefix: '/' }], shutdownTimeout: 0, health: false, outlier: false })
  for (const payload of ['', 'body', 'x'.repeat(100_000)]) {
    const response = await app.inject({ method: 'POST', url: '/', headers: { 'content-type': 'text/x' }, payload })
    t.equal(response.body.length, payload.length)
    clock.advance(1_000)
    t.equal(clock.timers, 0, `nothing is under way any more, after ${payload.length} bytes`)
  }
})

t.test('an app that was only made ready has no timer running but those of what follows time, and closes', async t => {
  for (const [options, timers] of [[{ health: false, outlier: false }, 0], [{ outlier: false }, 1], [{ health: false }, 1], [{}, 2]] as const) {
    const clock = new FakeClock()
    const app = appOf(t)
    await app.register(rockstarProxy, { clock, backends: [URL_1], routes: [{}], ...options })
    t.equal(clock.timers, 0)
    await app.ready()
    t.equal(clock.timers, timers, JSON.stringify(options))
    await app.close()
    t.equal(clock.timers, 0)
  }
})

t.test('closing the app closes the connections of all upstreams', async t => {
  const [one, two] = [await rawBackend(t, () => ok()), await rawBackend(t, () => ok())]
  const gateway = await startGateway(t, { backends: [one.url], upstreams: { two: { backends: [two.url] } }, routes: [{ prefix: '/' }, { prefix: '/two', upstream: 'two' }] })
  await gateway.app.inject('/')
  await gateway.app.inject('/two')
  await gateway.app.close()
  await until(() => [...one.connections, ...two.connections].every(wire => wire.ended || wire.closed))
  t.equal(one.connections.length + two.connections.length, 2)
})
