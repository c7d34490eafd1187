import { spawn } from 'node:child_process'
import { once } from 'node:events'
import type { FastifyInstance } from 'fastify'
import Fastify from 'fastify'
import { connect } from 'node:net'
import t, { type Test } from 'tap'
import rockstarProxy from '../../plugins/index.ts'
import { startGateway, type Gateway, type GatewaySetup } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { connectTo, ok, parseMessage, rawBackend, until, type Message, type RawBackend, type Wire } from '../helpers/wire.ts'
import type { RockstarProxyOptions } from '../../types/index.ts'

/** A test that hangs fails by itself, and lets the others run. */
const LIMIT = 15_000

const rejections: unknown[] = []
const onRejection = (reason: unknown) => { rejections.push(reason) }
process.on('unhandledRejection', onRejection)
t.teardown(() => process.off('unhandledRejection', onRejection))

const passOn = (_request: unknown, _reply: unknown, payload: unknown, done: (error: null, payload: unknown) => void) => done(null, payload)
const ROUTES = [{ prefix: '/raw' }, { prefix: '/hooked', onSend: passOn }]
const WAYS = ['raw', 'hooked']

/** A gateway with a clock of the test's, whose backend takes requests and answers when told. */
async function start (t: Test, options: RockstarProxyOptions = {}, setup: GatewaySetup = {}): Promise<{ gateway: Gateway, backend: RawBackend, clock: FakeClock, carriers: Wire[] }> {
  const clock = new FakeClock()
  const carriers: Wire[] = []
  const backend = await rawBackend(t, (request, wire) => {
    if (request.startLine.includes('/now')) return ok('now')
    carriers.push(wire)
    return undefined
  })
  const gateway = await startGateway(t, { backends: [backend.url], routes: ROUTES, clock, shutdownTimeout: 10_000, ...options }, { ...setup, fastify: { forceCloseConnections: undefined, ...setup.fastify } })
  return { gateway, backend, clock, carriers }
}

/** Begins to close an app; `closed()` tells whether it is. */
function close (app: FastifyInstance): { closed: () => boolean, done: Promise<void> } {
  let closed = false
  const done = app.close().then(() => { closed = true })
  return { closed: () => closed, done }
}

const get = (path: string) => `GET ${path} HTTP/1.1\r\nHost: gateway\r\n\r\n`

t.test('app.close()', async t => {
  for (const way of WAYS) {
    await t.test(`${way}: lets requests in flight finish, whichever part of their answer is still to come`, { timeout: LIMIT }, async t => {
      const { gateway, clock, carriers } = await start(t)
      const waiting = await gateway.connect()
      waiting.send(get(`/${way}/waiting`))
      await until(() => carriers.length === 1)
      const streaming = await gateway.connect()
      streaming.send(get(`/${way}/streaming`))
      await until(() => carriers.length === 2)
      carriers[1].send('HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf')
      await streaming.receive('half')
      const { closed, done } = close(gateway.app)
      clock.advance(9_000)
      carriers[0].send(ok('whole'))
      t.equal((await waiting.response()).body, 'whole')
      t.notOk(closed(), 'one is left')
      carriers[1].send('full')
      t.equal((await streaming.response()).body, 'halffull')
      waiting.close()
      streaming.close()
      await done
    })

    await t.test(`${way}: aborts them when shutdownTimeout is over`, { timeout: LIMIT }, async t => {
      const { gateway, clock, carriers } = await start(t)
      const waiting = await gateway.connect()
      waiting.send(get(`/${way}/waiting`))
      await until(() => carriers.length === 1)
      const streaming = await gateway.connect()
      streaming.send(get(`/${way}/streaming`))
      await until(() => carriers.length === 2)
      carriers[1].send('HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf')
      await streaming.receive('half')
      const timers = clock.timers
      const { done } = close(gateway.app)
      await until(() => clock.timers > timers)
      clock.advance(9_999)
      t.notOk(carriers.some(({ closed }) => closed))
      clock.advance(1)
      const response = await waiting.response()
      t.equal(response.status, 503)
      t.equal(JSON.parse(response.body).code, 'FST_ROCKSTAR_ABORTED')
      await until(() => streaming.ended)
      t.equal(parseMessage(streaming.received), null, 'half an answer is not passed off as a whole one')
      await until(() => carriers.every(({ closed }) => closed))
      waiting.close()
      streaming.close()
      await done
    })

    await t.test(`${way}: aborts them at once when shutdownTimeout is 0`, { timeout: LIMIT }, async t => {
      const { gateway, carriers } = await start(t, { shutdownTimeout: 0 })
      const client = await gateway.connect()
      client.send(get(`/${way}/waiting`))
      await until(() => carriers.length === 1)
      const { done } = close(gateway.app)
      t.equal((await client.response()).status, 503)
      client.close()
      await done
    })
  }

  await t.test('ends by itself in the time that Fastify gives a plugin, whatever hangs, when nothing else is said', { timeout: LIMIT }, async t => {
    const { gateway, clock, carriers } = await start(t, { shutdownTimeout: undefined })
    const client = await gateway.connect()
    client.send(get('/raw/hung'))
    await until(() => carriers.length === 1)
    const timers = clock.timers
    const began = clock.now()
    const { done } = close(gateway.app)
    await until(() => clock.timers > timers)
    while (!carriers[0].closed && clock.now() - began < 20_000) {
      clock.advance(100)
      for (let i = 0; i < 5; i++) await new Promise(setImmediate)
    }
    const took = clock.now() - began
    t.ok(took >= 8_500 && took < (gateway.app.initialConfig.pluginTimeout ?? 10_000), `${took} ms`)
    client.close()
    await done
  })

  await t.test('serves what came before, has its connections close, and leaves it to Fastify to refuse the rest', { timeout: LIMIT }, async t => {
    let release: (() => void) | undefined
    const { gateway, clock, carriers } = await start(t, {}, {
      setup: app => {
        app.get('/later', async (request, reply) => {
          await new Promise<void>(resolve => { release = resolve })
          return request.server.proxy.forward(request, reply, { path: '/now' })
        })
      }
    })
    const first = await gateway.connect()
    first.send(get('/raw/waiting'))
    const begun = await gateway.connect()
    begun.send(get('/later'))
    const kept = await gateway.connect()
    kept.send(get('/raw/now'))
    const before = await kept.response()
    t.strictSame(before.values('connection'), ['keep-alive'])
    await until(() => carriers.length === 1 && release !== undefined)
    const timers = clock.timers
    const { closed, done } = close(gateway.app)
    await until(() => clock.timers > timers)
    t.equal(gateway.app.proxy.isReady(), false)
    // Its handler was running before, and forwards only now.
    release?.()
    const response = await begun.response()
    t.match(response, { status: 200, body: 'now' })
    t.strictSame(response.values('connection'), ['close'])
    kept.send(get('/raw/now'))
    t.equal((await kept.response(before.length)).status, 503)
    carriers[0].send(ok('whole'))
    const last = await first.response()
    t.equal(last.body, 'whole')
    t.strictSame(last.values('connection'), ['close'])
    for (const client of [first, begun, kept]) client.close()
    while (!closed()) {
      clock.advance(250)
      await new Promise(setImmediate)
    }
    await done
  })

  await t.test('where Fastify goes on to serve, a client that asks again and again loses nothing', { timeout: LIMIT }, async t => {
    const { gateway, clock, carriers } = await start(t, {}, { fastify: { return503OnClosing: false } })
    const held = await gateway.connect()
    held.send(get('/raw/waiting'))
    const clients = await Promise.all(Array.from({ length: 8 }, () => gateway.connect()))
    await until(() => carriers.length === 1)
    const { closed, done } = close(gateway.app)
    for (const client of clients) {
      client.send(get('/raw/now'))
      const response = await client.response()
      t.equal(response.status, 200)
      t.strictSame(response.values('connection'), ['close'])
      await until(() => client.ended)
    }
    carriers[0].send(ok('whole'))
    t.equal((await held.response()).body, 'whole')
    for (const client of [held, ...clients]) client.close()
    while (!closed()) {
      clock.advance(250)
      await new Promise(setImmediate)
    }
    await done
  })

  await t.test('closes the connections to backends, idle ones too, and leaves no timer', { timeout: LIMIT }, async t => {
    const { gateway, backend, clock, carriers } = await start(t, { timeout: { request: 0 } })
    const clients = await Promise.all(Array.from({ length: 5 }, () => gateway.connect()))
    for (const client of clients) client.send(get('/raw/waiting'))
    await until(() => carriers.length === 5)
    t.ok(clock.timers > 0, 'deadlines are swept while something is under way')
    for (const wire of carriers) wire.send(ok('fine'))
    for (const client of clients) t.equal((await client.response()).body, 'fine')
    await until(() => gateway.app.proxy.getConnectionPool().stats().idle === 5)
    for (const client of clients) client.close()
    await gateway.app.close()
    await until(() => backend.connections.every(({ closed }) => closed))
    t.equal(backend.connections.length, 5)
    t.equal(gateway.app.proxy.getConnectionPool().stats().total, 0)
    t.equal(clock.timers, 0)
  })

  await t.test('leaves no socket, no server and no timer in the process', { timeout: LIMIT }, async t => {
    const backend = await rawBackend(t, () => ok('fine'))
    const count = () => {
      const counts: Record<string, number> = {}
      for (const resource of process.getActiveResourcesInfo()) {
        // Turns of the event loop that this very test takes are no leaks.
        if (resource !== 'Immediate' && resource !== 'TickObject') counts[resource] = (counts[resource] ?? 0) + 1
      }
      return counts
    }
    const before = count()
    const app = Fastify({ forceCloseConnections: true })
    await app.register(rockstarProxy, { backends: [backend.url], routes: ROUTES, upstreams: { other: { backends: [backend.url] } } })
    app.get('/other', (request, reply) => { request.server.proxy.forward(request, reply, { upstream: 'other' }) })
    await app.listen({ port: 0, host: '127.0.0.1' })
    const { port } = app.server.address() as { port: number }
    for (const path of ['/raw/a', '/hooked/a', '/other']) {
      const client = await connectTo(t, port)
      client.send(get(path))
      t.equal((await client.response()).body, 'fine')
      client.close()
    }
    const answer = await app.proxy.forwardHttp(new Request('http://any/a'))
    t.equal(await answer.text(), 'fine')
    t.ok(count().TCPSocketWrap > (before.TCPSocketWrap ?? 0), 'while it runs there is something')
    await app.close()
    await until(() => backend.connections.every(({ closed }) => closed))
    // What other tests have left behind may go meanwhile; nothing may have come.
    const more = () => Object.entries(count()).filter(([resource, n]) => n > (before[resource] ?? 0))
    await until(() => more().length === 0)
    t.same(more(), [])
  })

  await t.test('gives up requests that wait for a connection, and those that are connecting', { timeout: LIMIT }, async t => {
    const { gateway, clock, carriers } = await start(t, { pool: { connections: 1 }, timeout: { connect: 0 } })
    const clients = await Promise.all(Array.from({ length: 3 }, () => gateway.connect()))
    for (const client of clients) client.send(get('/raw/waiting'))
    await until(() => carriers.length === 1 && gateway.app.proxy.getConnectionPool().stats().pending === 2)
    const timers = clock.timers
    const { done } = close(gateway.app)
    await until(() => clock.timers > timers)
    clock.advance(10_000)
    for (const client of clients) {
      t.equal((await client.response()).status, 503)
      client.close()
    }
    await done
    t.equal(carriers.length, 1, 'those that waited never reached the backend')
    t.same(gateway.app.proxy.getConnectionPool().stats().total, 0)
  })

  await t.test('finishes the removal of a backend that was still draining', { timeout: LIMIT }, async t => {
    const { gateway, backend, clock, carriers } = await start(t)
    const client = await gateway.connect()
    client.send(get('/raw/waiting'))
    await until(() => carriers.length === 1)
    const removed = gateway.app.proxy.removeBackend(`127.0.0.1:${backend.port}`, { drain: { timeout: 60_000 } })
    const timers = clock.timers
    const { done } = close(gateway.app)
    await until(() => clock.timers > timers)
    clock.advance(10_000)
    t.equal((await client.response()).status, 503)
    client.close()
    await removed
    await done
    t.equal(clock.timers, 0)
  })

  await t.test('drains every upstream, named ones too', { timeout: LIMIT }, async t => {
    const other = await rawBackend(t, () => {})
    const { gateway } = await start(t, { upstreams: { other: { backends: [other.url] } } }, {
      setup: app => { app.get('/other', (request, reply) => { request.server.proxy.forward(request, reply, { upstream: 'other' }) }) }
    })
    const client = await gateway.connect()
    client.send(get('/other'))
    await until(() => other.requests.length === 1)
    const { closed, done } = close(gateway.app)
    await new Promise(resolve => setImmediate(resolve))
    t.notOk(closed())
    other.connections[0].send(ok('in time'))
    t.equal((await client.response()).body, 'in time')
    client.close()
    await done
    await until(() => other.connections.every(({ closed }) => closed))
  })

  await t.test('may come twice, and before anything was asked', { timeout: LIMIT }, async t => {
    const { gateway, clock } = await start(t)
    await Promise.all([gateway.app.close(), gateway.app.close()])
    t.equal(clock.timers, 0)
    const unready = Fastify()
    unready.register(rockstarProxy, { backends: ['http://127.0.0.1:1'] })
    await unready.close()
  })

  await t.test('may come while a plugin is still to be registered', { timeout: LIMIT }, async t => {
    const app = Fastify()
    await app.register(rockstarProxy, { backends: ['http://127.0.0.1:1'], routes: ROUTES })
    await app.close()
    t.pass()
  })
})

t.test('nothing runs while nothing is asked', { timeout: LIMIT }, async t => {
  const { gateway, clock } = await start(t)
  t.equal(clock.timers, 0)
  const client = await gateway.connect()
  client.send(get('/raw/now'))
  await client.response()
  await until(() => gateway.app.proxy.getConnectionPool().stats().active === 0)
  clock.advance(60_000)
  t.equal(clock.timers, 0, 'the sweep stops when all is done')
  client.close()
})

t.test('a process ends by itself once the app is closed, and its timers hold it up nowhere', { timeout: 20_000 }, async t => {
  const backend = await rawBackend(t, () => ok('fine'))
  const script = `
    import Fastify from 'fastify'
    import rockstarProxy from ${JSON.stringify(new URL('../../plugins/index.ts', import.meta.url).href)}
    const app = Fastify()
    await app.register(rockstarProxy, { backends: ['${backend.url}'], routes: [{ prefix: '/' }] })
    await app.listen({ port: 0, host: '127.0.0.1' })
    const answers = await Promise.all([1, 2, 3].map(async () => (await fetch('http://127.0.0.1:' + app.server.address().port + '/a', { headers: { connection: 'close' } })).text()))
    await app.close()
    process.stdout.write(answers.join())
  `
  const child = spawn(process.execPath, ['--import', import.meta.resolve('tsx'), '--input-type=module', '--eval', script], { cwd: new URL('../..', import.meta.url), stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill())
  let out = ''
  child.stdout.on('data', chunk => { out += chunk })
  const [code] = await once(child, 'close')
  t.equal(code, 0)
  t.equal(out, 'fine,fine,fine')
  await until(() => backend.connections.every(({ closed }) => closed))
})

t.test('registering', async t => {
  const answering = async (t: Test, body: string) => await rawBackend(t, request => ok(`${body} ${request.startLine.split(' ')[1]}`))
  const ask = async (t: Test, app: FastifyInstance, path: string): Promise<Message> => {
    const client = await connectTo(t, (app.server.address() as { port: number }).port)
    client.send(get(path))
    const response = await client.response()
    client.close()
    return response
  }

  await t.test('in two scopes gives each its own', { timeout: LIMIT }, async t => {
    const one = await answering(t, 'one')
    const two = await answering(t, 'two')
    const app = Fastify()
    t.teardown(() => app.close())
    const managers: unknown[] = []
    for (const [prefix, backend] of [['/one', one], ['/two', two]] as const) {
      app.register(async scope => {
        await scope.register(rockstarProxy, { backends: [backend.url], routes: [{ prefix: '/api' }] })
        managers.push(scope.proxy)
        scope.get('/mine', (request, reply) => { request.server.proxy.forward(request, reply, { path: '/mine' }) })
      }, { prefix })
    }
    await app.listen({ port: 0, host: '127.0.0.1' })
    t.equal((await ask(t, app, '/one/mine')).body, 'one /mine')
    t.equal((await ask(t, app, '/two/mine')).body, 'two /mine')
    t.equal((await ask(t, app, '/one/api/x')).body, 'one /x')
    t.equal((await ask(t, app, '/two/api/x')).body, 'two /x')
    t.not(managers[0], managers[1])
    t.notOk(app.hasDecorator('proxy'), 'the app outside has none')
    t.equal(app.server.listenerCount('connect'), 1)
    await app.close()
    await until(() => [...one.connections, ...two.connections].every(({ closed }) => closed))
  })

  await t.test('in a scope inside another gives the inner one its own', { timeout: LIMIT }, async t => {
    const outer = await answering(t, 'outer')
    const inner = await answering(t, 'inner')
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(rockstarProxy, { backends: [outer.url], routes: [{ prefix: '/api' }] })
    app.register(async scope => {
      await scope.register(rockstarProxy, { backends: [inner.url], routes: [{ prefix: '/api' }] })
    }, { prefix: '/scope' })
    await app.listen({ port: 0, host: '127.0.0.1' })
    t.equal((await ask(t, app, '/api/x')).body, 'outer /x')
    t.equal((await ask(t, app, '/scope/api/x')).body, 'inner /x')
    await app.close()
    await until(() => [...outer.connections, ...inner.connections].every(({ closed }) => closed))
  })

  await t.test('twice in one scope is refused', { timeout: LIMIT }, async t => {
    const app = Fastify()
    t.teardown(() => app.close().catch(() => {}))
    app.register(rockstarProxy, { backends: [] })
    app.register(rockstarProxy, { backends: [] })
    await t.rejects(async () => await app.ready(), { code: /FST_ERR_DEC_ALREADY_PRESENT/ })
  })

  await t.test('with bad options fails the app\'s start', { timeout: LIMIT }, async t => {
    const app = Fastify()
    app.register(rockstarProxy, { shutdownTimeout: -1 })
    await t.rejects(async () => await app.ready(), { code: 'FST_ROCKSTAR_INVALID_OPTIONS' })
  })
})

t.test('app.inject() is forwarded like a request from outside', { timeout: LIMIT }, async t => {
  const backend = await rawBackend(t, request => ok(`${request.startLine} ${request.body}`, 'X-Theirs: 1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n', '203 Not Quite'))
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(rockstarProxy, { backends: [backend.url], routes: ROUTES })
  for (const way of WAYS) {
    const got = await app.inject({ method: 'GET', url: `/${way}/a?b=c` })
    t.equal(got.statusCode, 203)
    t.equal(got.body, 'GET /a?b=c HTTP/1.1 ')
    t.equal(got.headers['x-theirs'], '1')
    t.same(got.headers['set-cookie'], ['a=1', 'b=2'])
    const posted = await app.inject({ method: 'POST', url: `/${way}/a`, payload: 'some text', headers: { 'content-type': 'text/plain' } })
    t.equal(posted.body, 'POST /a HTTP/1.1 some text')
  }
  const failing = await app.inject('/raw/a%5cb')
  t.equal(failing.statusCode, 400)
})

t.test('CONNECT', async t => {
  const tunnel = 'CONNECT other.example:443 HTTP/1.1\r\nHost: other.example:443\r\n\r\n'

  await t.test('is answered with 405 and closes', { timeout: LIMIT }, async t => {
    const { gateway, backend } = await start(t)
    const client = await gateway.connect()
    client.send(tunnel)
    const response = await client.response()
    t.equal(response.startLine, 'HTTP/1.1 405 Method Not Allowed')
    t.ok(response.values('allow').length === 1)
    await until(() => client.ended)
    t.equal(backend.requests.length, 0)
    client.close()
  })

  await t.test('is left to the app where that has a listener of its own', { timeout: LIMIT }, async t => {
    const { gateway } = await start(t, {}, {
      setup: app => { app.server.on('connect', (_request, socket) => socket.end('HTTP/1.1 299 Mine\r\n\r\n')) }
    })
    t.equal(gateway.app.server.listenerCount('connect'), 1)
    const client = await gateway.connect()
    client.send(tunnel)
    t.match(await client.receive('Mine'), /^HTTP\/1\.1 299 Mine\r\n/)
    client.close()
  })

  await t.test('may break off without harm', { timeout: LIMIT }, async t => {
    const { gateway } = await start(t)
    for (let i = 0; i < 20; i++) {
      const socket = connect({ port: gateway.port, host: '127.0.0.1' }).on('error', () => {})
      await once(socket, 'connect')
      socket.write(tunnel)
      socket.resetAndDestroy()
      await once(socket, 'close')
    }
    const client = await gateway.connect()
    client.send(get('/raw/now'))
    t.equal((await client.response()).body, 'now')
    client.close()
  })
})

t.test('a limit on header fields that the app has set is respected', { timeout: LIMIT }, async t => {
  const { gateway } = await start(t, {}, { setup: app => { app.server.maxHeadersCount = 50 } })
  t.equal(gateway.app.server.maxHeadersCount, 50)
})

t.test('none of all this was an unhandled rejection', async t => {
  t.same(rejections, [])
})
