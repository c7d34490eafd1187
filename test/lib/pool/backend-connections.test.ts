import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { Agent, Client, Pool, RetryAgent, type Dispatcher } from 'undici'
import { Backend } from '../../../lib/backend.ts'
import { createPool, type Connection, type PooledHandler } from '../../../lib/pool/index.ts'
import { BackendConnections } from '../../../lib/pool/backend-connections.ts'
import { Connector } from '../../../lib/pool/connector.ts'
import { ConnectionPool } from '../../../lib/pool/connection-pool.ts'
import type { BackendPoolStats, ConnectionPool as Contract, PoolOptions, PoolSettings, PoolStats } from '../../../types/index.ts'
import { startGateway, type Gateway } from '../../helpers/app.ts'
import { freePort } from '../../helpers/ports.ts'
import { ok, rawBackend, until, type RawBackend } from '../../helpers/wire.ts'

const DEFAULTS: PoolSettings = { connections: 100, connectTimeout: 10_000, idleTimeout: 90_000, maxRequestsPerConnection: 0, maxConcurrentStreams: 100, keepAliveMargin: 1_000, maxHeaderSize: 16_384, autoSelectFamily: true }

/** One request, and how it ended. */
class Call implements PooledHandler {
  connection: Connection | null = null
  awaitsHead = false
  heard = false
  held = false
  reused = false
  status = 0
  body = ''
  completed = false
  error: Error | undefined
  abort: (() => void) | undefined

  onConnect (abort: () => void): void {
    this.abort = abort
    this.awaitsHead = true
    this.reused = this.connection?.begin() ?? false
  }

  onContinue (): void {}

  onStatusLine (): void {}

  onHeaders (status: number): boolean {
    this.status = status
    return true
  }

  onData (chunk: Buffer): boolean {
    this.body += chunk.toString()
    return true
  }

  onComplete (): void {
    if (this.completed || this.error !== undefined) throw new Error('ended twice')
    this.completed = true
  }

  onError (error: Error): void {
    if (this.completed || this.error !== undefined) throw new Error('ended twice')
    this.error = error
  }

  get settled (): boolean {
    return this.completed || this.error !== undefined
  }
}

function open (t: Test, url: string, options: PoolOptions = {}): BackendConnections {
  const settings = { ...DEFAULTS, ...options }
  const connections = new BackendConnections(url, new Connector(new Backend(url, 0), settings), settings)
  t.teardown(() => connections.destroy())
  return connections
}

function send (connections: Dispatcher, path = '/', options: Partial<Dispatcher.DispatchOptions> = {}): Call {
  const call = new Call()
  connections.dispatch({ path, method: 'GET', ...options }, call)
  return call
}

function counts ({ total, active, idle, pending }: BackendPoolStats): Pick<BackendPoolStats, 'total' | 'active' | 'idle' | 'pending'> {
  return { total, active, idle, pending }
}

async function silent (t: Test): Promise<RawBackend> {
  return await rawBackend(t, () => {})
}

/** A port on which nobody listens. */
async function deadUrl (): Promise<string> {
  return `http://127.0.0.1:${await freePort()}`
}

/** TLS to one who never answers the handshake: connecting goes on until somebody ends it. */
async function mute (t: Test): Promise<{ url: string, sockets: Socket[] }> {
  const sockets: Socket[] = []
  const server = createServer(socket => { sockets.push(socket.on('error', () => {}).resume()) }).listen(0, '127.0.0.1')
  await new Promise(resolve => server.once('listening', resolve))
  t.teardown(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  return { url: `https://127.0.0.1:${(server.address() as AddressInfo).port}`, sockets }
}

/** The sockets that undici makes while a test runs. */
function watchSockets (t: Test): Socket[] {
  const sockets: Socket[] = []
  const onConnected = (message: unknown): void => { sockets.push((message as { socket: Socket }).socket) }
  subscribe('undici:client:connected', onConnected)
  t.teardown(() => unsubscribe('undici:client:connected', onConnected))
  return sockets
}

t.test('requests up to the limit get a connection each, and the next ones wait in order', async t => {
  const backend = await silent(t)
  const connections = open(t, backend.url, { connections: 3 })
  const calls = Array.from({ length: 8 }, (_, i) => send(connections, `/${i}`))
  t.match(connections.stats(), { total: 3, active: 3, idle: 0, pending: 5, requests: 8 })
  await until(() => backend.requests.length === 3)
  for (let i = 3; i < 8; i++) {
    backend.connections[i % 3].send(ok())
    await until(() => backend.requests.length === i + 1)
    t.equal(backend.requests[i].startLine, `GET /${i} HTTP/1.1`)
    t.equal(connections.stats().pending, 7 - i)
  }
  for (const connection of backend.connections) connection.send(ok())
  await until(() => calls.every(call => call.completed))
  await until(() => connections.stats().idle === 3)
  t.strictSame(connections.stats(), { total: 3, active: 0, idle: 3, pending: 0, connects: 3, connectErrors: 0, requests: 8, reuseRatio: 5 / 8 })
  t.equal(backend.connections.length, 3)
})

t.test('dispatch() says whether a request had to wait', async t => {
  const backend = await silent(t)
  const connections = open(t, backend.url, { connections: 1 })
  t.equal(connections.dispatch({ path: '/', method: 'GET' }, new Call()), true)
  t.equal(connections.dispatch({ path: '/', method: 'GET' }, new Call()), false)
})

t.test('the connection used last is used next', async t => {
  const backend = await silent(t)
  const connections = open(t, backend.url)
  for (let i = 0; i < 3; i++) send(connections)
  await until(() => backend.requests.length === 3)
  for (const i of [2, 0, 1]) {
    const idle = connections.stats().idle
    backend.connections[i].send(ok())
    await until(() => connections.stats().idle === idle + 1)
  }
  for (let i = 0; i < 5; i++) {
    const before = backend.connections[1].received.length
    const call = send(connections)
    await until(() => backend.connections[1].received.length > before && backend.requests.length === 4 + i)
    backend.connections[1].send(ok())
    await until(() => call.completed && connections.stats().idle === 3)
  }
  t.equal(backend.connections.length, 3)
  t.equal(connections.stats().reuseRatio, 5 / 8)
})

t.test('fresh asks for a new connection where there is room, else takes what there is', async t => {
  const backend = await rawBackend(t, () => ok())
  const connections = open(t, backend.url, { connections: 2 })
  for (const [expected, options] of [[1, {}], [1, {}], [2, { fresh: true }], [2, { fresh: true }]] as const) {
    const call = send(connections, '/', options as object)
    await until(() => call.completed && connections.stats().active === 0)
    t.equal(connections.stats().connects, expected)
  }
})

t.test('a request that waits can be taken back', async t => {
  const backend = await silent(t)
  const connections = open(t, backend.url, { connections: 1 })
  const first = send(connections, '/1')
  const second = send(connections, '/2')
  const third = send(connections, '/3')
  connections.cancel(second)
  connections.cancel(second)
  t.match(connections.stats(), { total: 1, active: 1, pending: 1 })
  await until(() => backend.requests.length === 1)
  connections.cancel(first)
  await until(() => backend.connections[0].closed)
  t.pass('one that is on a connection takes it with it')
  await until(() => backend.requests.length === 2)
  t.equal(backend.requests[1].startLine, 'GET /3 HTTP/1.1')
  backend.connections[1].send(ok())
  await until(() => third.completed)
  t.equal(second.settled, false, 'and it is told nothing')
})

t.test('a request whose connection is being made can be taken back, and the next has its place', { timeout: 3_000 }, async t => {
  const { url, sockets } = await mute(t)
  const connections = open(t, url, { connections: 1 })
  const calls = [send(connections, '/1'), send(connections, '/2')]
  await until(() => sockets.length === 1)
  connections.cancel(calls[0])
  t.match(connections.stats(), { total: 1, active: 1, pending: 0 })
  await until(() => sockets.length === 2 && sockets[0].destroyed)
  connections.cancel(calls[1])
  await until(() => sockets[1].destroyed)
  t.match(connections.stats(), { total: 0, active: 0, idle: 0, pending: 0 })
  const third = send(connections, '/3')
  await until(() => sockets.length === 3)
  t.equal(third.settled, false)
})

t.test('a connection that dies under its request makes room for the next', async t => {
  const backend = await rawBackend(t, (request, wire) => {
    if (!request.startLine.includes('/die')) return ok()
    wire.reset()
    return undefined
  })
  const connections = open(t, backend.url, { connections: 1 })
  const calls = ['/die', '/1', '/die', '/die', '/2', '/3'].map(path => send(connections, path))
  await until(() => calls.every(call => call.settled))
  t.strictSame(calls.map(call => call.completed), [false, true, false, false, true, true])
  await until(() => connections.stats().active === 0)
  t.strictSame(counts(connections.stats()), { total: 1, active: 0, idle: 1, pending: 0 })
})

t.test('an aborted request makes room for the next', async t => {
  const backend = await silent(t)
  const connections = open(t, backend.url, { connections: 1 })
  const first = send(connections, '/1')
  const second = send(connections, '/2')
  await until(() => backend.requests.length === 1)
  first.abort?.()
  await until(() => backend.requests.length === 2)
  t.ok(first.error)
  t.equal(backend.connections.length, 2)
  backend.connections[1].send(ok())
  await until(() => second.completed)
})

t.test('a port that refuses fails every request, and leaves no connection', async t => {
  const connections = open(t, await deadUrl(), { connections: 2 })
  const calls = Array.from({ length: 7 }, () => send(connections))
  await until(() => calls.every(call => call.settled))
  for (const { error } of calls) t.match(error, { code: 'ECONNREFUSED' })
  await until(() => connections.stats().total === 0)
  t.strictSame(connections.stats(), { total: 0, active: 0, idle: 0, pending: 0, connects: 0, connectErrors: 7, requests: 7, reuseRatio: 0 })
})

t.test('a backend that comes back is reached again', async t => {
  const url = await deadUrl()
  const connections = open(t, url)
  const failed = send(connections)
  await until(() => failed.settled)
  const server = createServer(socket => socket.on('error', () => {}).once('data', () => socket.end(ok('back', 'Connection: close\r\n'))))
  await new Promise<void>(resolve => server.listen(Number(new URL(url).port), '127.0.0.1', resolve))
  t.teardown(() => server.close())
  const call = send(connections)
  await until(() => call.settled)
  t.equal(call.body, 'back')
})

t.test('a request that undici refuses to take leaks no connection', async t => {
  const backend = await rawBackend(t, () => ok())
  const connections = open(t, backend.url, { connections: 1 })
  const bad: Partial<Dispatcher.DispatchOptions>[] = [
    { headers: ['x', 'a\r\nb: c'] },
    { headers: ['x y', 'z'] },
    { headers: ['transfer-encoding', 'chunked'] },
    { headers: ['content-length', '1, 2'] },
    { headers: ['upgrade', 'x'] },
    { path: 'no path' },
    { path: '/with space' },
    { method: 'NOT A METHOD' as 'GET' },
    { body: {} as never }
  ]
  for (const used of [false, true]) {
    for (const options of bad) {
      const call = send(connections, '/', options)
      await until(() => call.settled)
      t.ok(call.error, JSON.stringify(options))
    }
    await until(() => connections.stats().active === 0)
    t.equal(connections.stats().pending, 0, used ? 'neither on a used connection' : 'on a new one')
    const good = send(connections)
    await until(() => good.completed && connections.stats().active === 0)
    t.strictSame(counts(connections.stats()), { total: 1, active: 0, idle: 1, pending: 0 })
  }
  t.equal(backend.requests.length, 2, 'none of them was sent')
})

t.test('a body of another length than promised leaks no connection', async t => {
  const backend = await rawBackend(t, () => ok())
  const connections = open(t, backend.url, { connections: 1 })
  const calls = [
    send(connections, '/', { method: 'POST', body: 'long', headers: ['content-length', '2'] }),
    send(connections, '/', { method: 'POST', body: 'short', headers: ['content-length', '20'] })
  ]
  await until(() => calls.every(call => call.settled))
  t.ok(calls.every(call => call.error !== undefined))
  const good = send(connections)
  await until(() => good.completed && connections.stats().active === 0)
  t.match(counts(connections.stats()), { active: 0, idle: 1, pending: 0 })
})

t.test('a handler that throws leaks no connection', async t => {
  const backend = await rawBackend(t, () => ok('body'))
  for (const method of ['onConnect', 'onHeaders', 'onData'] as const) {
    const connections = open(t, backend.url, { connections: 1 })
    const call = new Call()
    call[method] = () => { throw new Error('a fault in a handler') }
    connections.dispatch({ path: '/', method: 'GET' }, call)
    await until(() => call.settled)
    t.match(call.error, { message: 'a fault in a handler' }, method)
    const good = send(connections)
    await until(() => good.completed && connections.stats().active === 0)
    t.match(counts(connections.stats()), { active: 0, pending: 0 })
  }
})

t.test('close() lets what is under way and what waits finish, then closes every connection', async t => {
  const sockets = watchSockets(t)
  const backend = await silent(t)
  const connections = open(t, backend.url, { connections: 2 })
  const calls = Array.from({ length: 5 }, (_, i) => send(connections, `/${i}`))
  await until(() => backend.requests.length === 2)
  let closed = false
  const closing = connections.close().then(() => { closed = true })
  t.equal(connections.close(), connections.close(), 'asked again, it waits for the same')
  for (let answered = 0; answered < 5; answered++) {
    await until(() => backend.requests.length > answered)
    t.equal(closed, false)
    const asked = backend.requests[answered]
    const connection = backend.connections.find(connection => connection.received.endsWith(`${asked.head}\r\n\r\n`))
    connection?.send(ok())
    await until(() => calls[answered].completed)
  }
  await closing
  t.ok(sockets.every(socket => socket.destroyed), 'every socket is closed when it resolves')
  t.strictSame(counts(connections.stats()), { total: 0, active: 0, idle: 0, pending: 0 })
  await until(() => backend.connections.every(connection => connection.closed))
})

t.test('close() closes idle connections at once', async t => {
  const sockets = watchSockets(t)
  const backend = await silent(t)
  const connections = open(t, backend.url)
  const calls = [send(connections), send(connections)]
  await until(() => backend.requests.length === 2)
  for (const connection of backend.connections) connection.send(ok())
  await until(() => calls.every(call => call.completed) && connections.stats().idle === 2)
  await connections.close()
  t.ok(sockets.every(socket => socket.destroyed), 'every socket is closed when it resolves')
  t.equal(connections.stats().total, 0)
})

t.test('close() resolves where nothing is open', { timeout: 3_000 }, async t => {
  const backend = await rawBackend(t, () => ok('ok', 'Connection: close\r\n'))
  await open(t, backend.url).close()
  t.pass('neither has ever been')
  const connections = open(t, backend.url)
  const call = send(connections)
  await until(() => call.completed && connections.stats().total === 0)
  await connections.close()
  t.pass('nor is any more')
})

t.test('close() calls back too, as undici\'s dispatchers do', { timeout: 3_000 }, async t => {
  const backend = await rawBackend(t, () => ok())
  const connections = open(t, backend.url)
  const call = send(connections)
  await until(() => call.completed)
  await new Promise<void>(resolve => { connections.close(resolve) })
  t.equal(connections.stats().total, 0)
})

t.test('a request that is dispatched while closing is served or refused, and leaves nothing open', { timeout: 5_000 }, async t => {
  const sockets = watchSockets(t)
  const backend = await rawBackend(t, () => ok())
  const connections = open(t, backend.url)
  const call = send(connections)
  await until(() => call.completed && connections.stats().idle === 1)
  await connections.close()
  const late = send(connections)
  await until(() => late.settled)
  await until(() => connections.stats().total === 0)
  await until(() => sockets.every(socket => socket.destroyed))
  t.pass()
})

t.test('destroy() fails what is under way and what waits, and closes every connection at once', async t => {
  const sockets = watchSockets(t)
  const backend = await silent(t)
  const connections = open(t, backend.url, { connections: 2 })
  const calls = Array.from({ length: 5 }, () => send(connections))
  await until(() => backend.requests.length === 2)
  const reason = new Error('enough')
  await connections.destroy(reason)
  await until(() => calls.every(call => call.settled))
  for (const { error } of calls) t.equal(error, reason)
  t.ok(sockets.every(socket => socket.destroyed))
  await until(() => backend.connections.every(connection => connection.closed))
  t.strictSame(counts(connections.stats()), { total: 0, active: 0, idle: 0, pending: 0 })
  t.equal(backend.requests.length, 2, 'nothing more was sent')
})

t.test('destroy() ends a connection that is being made', { timeout: 3_000 }, async t => {
  const { url, sockets } = await mute(t)
  const connections = open(t, url)
  const call = send(connections)
  await until(() => sockets.length === 1)
  await connections.destroy()
  await until(() => call.settled)
  t.match(call.error, { message: /closed|destroyed/ })
  t.equal(connections.stats().total, 0)
  await until(() => sockets[0].destroyed)
})

t.test('a request after destroy() is refused', { timeout: 3_000 }, async t => {
  const backend = await rawBackend(t, () => ok())
  const connections = open(t, backend.url)
  await connections.destroy()
  const call = send(connections)
  await until(() => call.settled)
  t.ok(call.error)
  t.equal(backend.requests.length, 0)
  t.equal(connections.stats().total, 0)
})

t.test('the numbers of a pool are those of its backends together', async t => {
  const [one, two] = [await rawBackend(t, () => ok()), await silent(t)]
  const pool = new ConnectionPool({ connections: 1 })
  t.teardown(() => pool.destroy())
  const [first, second] = [new Backend({ id: 'one', url: one.url }, 0), new Backend({ id: 'two', url: two.url }, 0)]
  const dead = new Backend({ id: 'dead', url: await deadUrl() }, 0)
  t.equal(pool.dispatcherFor(first), pool.dispatcherFor(first))
  for (let i = 0; i < 3; i++) {
    const call = send(pool.dispatcherFor(first))
    await until(() => call.completed && pool.stats().backends.one.idle === 1)
  }
  send(pool.dispatcherFor(second))
  send(pool.dispatcherFor(second))
  const failed = send(pool.dispatcherFor(dead))
  await until(() => failed.settled && two.requests.length === 1 && pool.stats().backends.dead.total === 0)
  t.strictSame(pool.stats(), {
    total: 2,
    active: 1,
    idle: 1,
    pending: 1,
    connects: 2,
    connectErrors: 1,
    requests: 6,
    reuseRatio: 2 / 6,
    backends: Object.assign(Object.create(null), {
      one: { total: 1, active: 0, idle: 1, pending: 0, connects: 1, connectErrors: 0, requests: 3, reuseRatio: 2 / 3 },
      two: { total: 1, active: 1, idle: 0, pending: 1, connects: 1, connectErrors: 0, requests: 2, reuseRatio: 0 },
      dead: { total: 0, active: 0, idle: 0, pending: 0, connects: 0, connectErrors: 1, requests: 1, reuseRatio: 0 }
    })
  })
})

t.test('a pool lets go of one backend and keeps the others', async t => {
  const [one, two] = [await rawBackend(t, () => ok()), await rawBackend(t, () => ok())]
  const pool = createPool({}) as ConnectionPool
  t.teardown(() => pool.destroy())
  const backends = [new Backend(one.url, 0), new Backend(two.url, 0)]
  const calls = backends.map(backend => send(pool.dispatcherFor(backend)))
  await until(() => calls.every(call => call.completed) && pool.stats().idle === 2)
  await pool.release(backends[0])
  await until(() => one.connections[0].closed)
  t.equal(two.connections[0].closed, false)
  t.strictSame(Object.keys(pool.stats().backends), [backends[1].id])
  await pool.release(backends[0])
  await pool.close()
  await until(() => two.connections[0].closed)
  const late = send(pool.dispatcherFor(backends[1]))
  await until(() => late.settled)
  await until(() => pool.stats().total === 0)
})

/** A pool of a user's own. */
function ownPool (t: Test, make: (origin: string) => Dispatcher): Contract & { closed: number } {
  const dispatchers = new Map<string, Dispatcher>()
  const pool = {
    closed: 0,
    dispatcherFor: (backend: { url: URL }) => {
      const { origin } = backend.url
      const known = dispatchers.get(origin) ?? make(origin)
      dispatchers.set(origin, known)
      return known
    },
    stats: () => ({ total: -1 }) as PoolStats,
    close: async () => {
      pool.closed++
      await Promise.all([...dispatchers.values()].map(dispatcher => dispatcher?.close()))
    }
  }
  t.teardown(() => Promise.all([...dispatchers.values()].map(dispatcher => dispatcher?.destroy())))
  return pool
}

async function ask (gateway: Gateway, path = '/', head = ''): Promise<{ status: number, body: string }> {
  const client = await gateway.connect()
  client.send(`${head === '' ? `GET ${path} HTTP/1.1\r\nHost: g\r\n` : head}\r\n`)
  const response = await client.response()
  client.close()
  return response
}

const KINDS: [string, (origin: string) => Dispatcher][] = [
  ['Client', origin => new Client(origin)],
  ['Pool', origin => new Pool(origin, { connections: 2 })],
  ['Agent', () => new Agent()],
  ['RetryAgent', origin => new RetryAgent(new Pool(origin), { maxRetries: 0 })],
  ['composed dispatcher', origin => new Pool(origin).compose(dispatch => (options, handler) => dispatch(options, handler))]
]

for (const [name, make] of KINDS) {
  t.test(`undici's ${name} serves as the connections of a backend`, { timeout: 3_000 }, async t => {
    const backend = await rawBackend(t, request => request.startLine.includes('/cut') ? 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf' : ok(`${request.startLine} ${request.values('host')[0]} ${request.body}`))
    const pool = ownPool(t, make)
    const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }], pool })
    t.equal(gateway.app.proxy.getConnectionPool(), pool)
    t.equal((await ask(gateway, '/x?y')).body, `GET /x?y HTTP/1.1 127.0.0.1:${backend.port} `)
    const head = 'POST /p HTTP/1.1\r\nHost: g\r\nContent-Length: 4\r\n\r\nbody'
    t.equal((await ask(gateway, '', head)).body, `POST /p HTTP/1.1 127.0.0.1:${backend.port} body`)
    const client = await gateway.connect()
    client.send('GET /cut HTTP/1.1\r\nHost: g\r\n\r\n')
    await client.receive('half')
    client.close()
    await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
    await until(() => backend.connections.some(connection => connection.closed))
    const { totalRequests, successfulRequests, abortedRequests } = gateway.app.proxy.getMetrics()
    t.strictSame([totalRequests, successfulRequests, abortedRequests], [3, 2, 1], 'an aborted request reaches it')
  })
}

t.test('a dispatcher of the user\'s own that fails is answered with 502, and leaks nothing', async t => {
  const failing: [string, (origin: string) => Dispatcher][] = [
    ['dispatcherFor throws', () => { throw new Error('no dispatcher today') }],
    ['dispatcherFor gives nothing', () => undefined as never],
    ['dispatch throws', () => ({ dispatch () { throw new Error('no dispatch today') }, close: async () => {}, destroy: async () => {} }) as never],
    ['dispatch fails and throws', () => ({ dispatch (_options: unknown, handler: Call) { handler.onError(new Error('first')); throw new Error('second') }, close: async () => {}, destroy: async () => {} }) as never],
    ['a closed Client', origin => { const client = new Client(origin); client.close(); return client }]
  ]
  for (const [name, make] of failing) {
    const backend = await rawBackend(t, () => ok())
    const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }], pool: ownPool(t, make) })
    for (let i = 0; i < 3; i++) t.equal((await ask(gateway)).status, 502, name)
    t.equal((await ask(gateway, '', 'POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 4\r\n\r\nbo')).status, 502)
    const { totalRequests, failedRequests, inFlight, backends } = gateway.app.proxy.getMetrics()
    t.strictSame([totalRequests, failedRequests, inFlight], [4, 4, 0])
    t.equal(Object.values(backends)[0].inFlight, 0)
    gateway.app.proxy.setConnectionPool({})
    t.equal((await ask(gateway)).status, 200, 'another pool mends it')
  }
})

t.test('a pool that is replaced under traffic loses no request', async t => {
  const backend = await rawBackend(t, (request, wire) => {
    // Answered a few turns later, so that many are under way and waiting whenever the pool changes.
    let turns = 3
    const later = (): void => {
      if (turns-- > 0) setImmediate(later)
      else wire.send(ok(request.startLine.split(' ')[1]))
    }
    later()
  })
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }], pool: { connections: 2 } })
  const own = ownPool(t, origin => new Pool(origin, { connections: 3 }))
  const olds: Contract[] = []
  const answers: Promise<{ status: number, body: string }>[] = []
  for (let i = 0; i < 60; i++) {
    answers.push(ask(gateway, `/${i}`))
    await until(() => gateway.app.proxy.getMetrics().totalRequests > i)
    if (i % 10 === 9) {
      olds.push(gateway.app.proxy.getConnectionPool())
      gateway.app.proxy.setConnectionPool(i === 29 ? own : { connections: 2 })
    }
  }
  for (const [i, answer] of answers.entries()) t.match(await answer, { status: 200, body: `/${i}` })
  await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
  const { totalRequests, successfulRequests, totalRetries } = gateway.app.proxy.getMetrics()
  t.strictSame([totalRequests, successfulRequests, totalRetries], [60, 60, 0])
  t.equal(own.closed, 1, 'a pool that is let go of is closed')
  await until(() => olds.every(old => old === own || old.stats().total === 0))
  t.pass('and the old ones keep no connection')
})

t.test('setting the same pool again does not close it', async t => {
  const backend = await rawBackend(t, () => ok())
  const pool = ownPool(t, origin => new Pool(origin))
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }], pool })
  gateway.app.proxy.setConnectionPool(pool)
  t.equal(pool.closed, 0)
  t.equal((await ask(gateway)).status, 200)
})

t.test('what is no pool is refused, and the one before stays', async t => {
  const backend = await rawBackend(t, () => ok())
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] })
  const before = gateway.app.proxy.getConnectionPool()
  for (const bad of [{ connections: 0 }, { connection: 1 }, { connections: 1.5 }, { idleTimeout: -1 }, null, 5, 'pool', { dispatcherFor: () => {} }]) {
    t.throws(() => gateway.app.proxy.setConnectionPool(bad as never), { code: 'FST_ROCKSTAR_INVALID_OPTIONS' }, JSON.stringify(bad))
  }
  t.equal(gateway.app.proxy.getConnectionPool(), before)
  t.equal((await ask(gateway)).status, 200)
})

t.test('a backend that is removed has its connections closed, and its removal ends', { timeout: 5_000 }, async t => {
  const sockets = watchSockets(t)
  for (const way of ['keeps its connection', 'has closed it']) {
    const backend = await rawBackend(t, () => ok('ok', way === 'has closed it' ? 'Connection: close\r\n' : ''))
    const gateway = await startGateway(t, { backends: [{ id: 'b', url: backend.url }], routes: [{ prefix: '/' }] })
    t.equal((await ask(gateway)).status, 200)
    await until(() => gateway.app.proxy.getConnectionPool().stats().active === 0)
    await gateway.app.proxy.removeBackend('b')
    t.ok(sockets.every(socket => socket.destroyed), `a backend that ${way}`)
    t.strictSame(gateway.app.proxy.getConnectionPool().stats().backends, Object.create(null))
  }
})
