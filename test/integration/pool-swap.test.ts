import type { ServerResponse } from 'node:http'
import t from 'tap'
import { Agent } from 'undici'
import { ConnectionPool } from '../../plugins/index.ts'
import { httpBackend, startGateway } from '../helpers/app.ts'
import { connectTo, ok, rawBackend, until } from '../helpers/wire.ts'

const LIMIT = 20_000

t.test('pools are swapped under load, and nothing is lost', { timeout: LIMIT }, async t => {
  const sockets = new Set<unknown>()
  const { url, server } = await httpBackend(t, (request, response) => {
    let body = ''
    request.on('data', chunk => { body += chunk })
    request.on('end', () => {
      if (!request.url?.startsWith('/stream')) {
        response.end(`${request.url} ${body}`)
        return
      }
      // In pieces, over a few turns.
      let pieces = 0
      const write = () => {
        if (++pieces > 5) response.end(`${request.url} ${body}`)
        else {
          response.write('piece ')
          setImmediate(write)
        }
      }
      write()
    })
  })
  server.on('connection', socket => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })
  const gateway = await startGateway(t, { backends: [url], routes: [{ prefix: '/' }] })
  const { proxy } = gateway.app
  const wrong: string[] = []
  let done = 0
  const load = { running: true }
  const client = async (id: number) => {
    const wire = await connectTo(t, gateway.port)
    for (let n = 0, at = 0; load.running; n++) {
      const path = n % 3 === 0 ? `/stream/${id}/${n}` : `/${id}/${n}`
      const body = 'b'.repeat(n % 50)
      wire.send(`POST ${path} HTTP/1.1\r\nHost: gateway\r\nContent-Length: ${body.length}\r\n\r\n${body}`)
      const response = await wire.response(at)
      at += response.length
      const expected = `${n % 3 === 0 ? 'piece '.repeat(5) : ''}${path} ${body}`
      if (response.status !== 200 || response.body !== expected) wrong.push(`${response.status} ${response.body} for ${path}`)
      done++
    }
  }
  const clients = Array.from({ length: 20 }, (_, id) => client(id))
  const pools = [{ connections: 3 }, { idleTimeout: 50_000 }, { maxRequestsPerConnection: 2 }, { connections: 1 }, {}]
  for (let swaps = 0; swaps < 40; swaps++) {
    const before = done
    await until(() => done >= before + 20)
    proxy.setConnectionPool(pools[swaps % pools.length])
  }
  load.running = false
  await Promise.all(clients)
  t.same(wrong, [])
  t.ok(done >= 800)
  t.match(proxy.getMetrics(), { failedRequests: 0, totalRetries: 0 })
  await until(() => sockets.size === proxy.getConnectionPool().stats().total)
  t.ok(sockets.size <= 20, 'only those of the present pool are open')
})

t.test('what has begun on the old pool ends there, what waits there is served there, and then its connections close', { timeout: LIMIT }, async t => {
  let open: ServerResponse | undefined
  const { url, server } = await httpBackend(t, (request, response) => {
    if (request.url !== '/stream') response.end(request.url)
    else {
      open = response
      response.write('one ')
    }
  })
  const closed: boolean[] = []
  server.on('connection', socket => {
    const n = closed.push(false) - 1
    socket.on('close', () => { closed[n] = true })
  })
  const gateway = await startGateway(t, { backends: [url], routes: [{ prefix: '/' }], pool: { connections: 1 } })
  const { proxy } = gateway.app
  const old = proxy.getConnectionPool()
  const stream = await connectTo(t, gateway.port)
  stream.send('GET /stream HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await stream.receive('one ')
  const waiting = await connectTo(t, gateway.port)
  waiting.send('GET /waiting HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => old.stats().pending === 1)
  proxy.setConnectionPool({ connections: 1 })
  t.not(proxy.getConnectionPool(), old)
  const fresh = await connectTo(t, gateway.port)
  fresh.send('GET /fresh HTTP/1.1\r\nHost: gateway\r\n\r\n')
  t.equal((await fresh.response()).body, '/fresh', 'a new request does not wait')
  t.equal(waiting.received, '')
  t.same(closed, [false, false])
  open?.end('two')
  t.equal((await stream.response()).body, 'one two')
  t.equal((await waiting.response()).body, '/waiting')
  await until(() => closed[0])
  t.same(old.stats().total, 0)
  t.same(closed, [true, false])
})

t.test('idle connections of the old pool close at once', { timeout: LIMIT }, async t => {
  const backend = await rawBackend(t, () => ok())
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] })
  const client = await connectTo(t, gateway.port)
  client.send('GET /a HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await client.response()
  gateway.app.proxy.setConnectionPool({})
  await until(() => backend.connections[0].closed)
  t.equal(backend.connections.length, 1)
})

t.test('the same pool again is no change; an unknown option changes nothing', { timeout: LIMIT }, async t => {
  const backend = await rawBackend(t, () => ok())
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] })
  const pool = gateway.app.proxy.getConnectionPool()
  gateway.app.proxy.setConnectionPool(pool)
  t.throws(() => gateway.app.proxy.setConnectionPool({ conections: 1 } as never), { message: /did you mean 'connections'/ })
  t.equal(gateway.app.proxy.getConnectionPool(), pool)
  for (let i = 0; i < 2; i++) {
    const client = await connectTo(t, gateway.port)
    client.send('GET /a HTTP/1.1\r\nHost: gateway\r\n\r\n')
    t.equal((await client.response()).status, 200)
    await until(() => pool.stats().active === 0)
  }
  t.equal(backend.connections.length, 1)
})

t.test('closing the app does not wait for an old pool that will not close', { timeout: LIMIT }, async t => {
  const calls: string[] = []
  const agent = new Agent()
  t.teardown(() => agent.close())
  const backend = await rawBackend(t, () => ok())
  const own = {
    dispatcherFor: () => agent,
    stats: () => new ConnectionPool().stats(),
    close: () => new Promise<void>(() => { calls.push('close') }),
    destroy: async () => { calls.push('destroy') }
  }
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }], pool: own })
  gateway.app.proxy.setConnectionPool({})
  t.same(calls, ['close'])
  await gateway.app.close()
  t.same(calls, ['close', 'destroy'])
})

t.test('closing the app closes what old pools still have', { timeout: LIMIT }, async t => {
  const backend = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nendle\r\n')
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] })
  const client = await connectTo(t, gateway.port)
  client.send('GET /a HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await client.receive('endle')
  gateway.app.proxy.setConnectionPool({})
  t.equal(backend.connections[0].closed, false)
  await gateway.app.close()
  await until(() => backend.connections[0].closed)
  await until(() => client.ended || client.closed)
})
