import t, { type Test } from 'tap'
import { Backend } from '../../../lib/backend.ts'
import { ConnectionPool, createPool } from '../../../lib/pool/index.ts'
import type { PoolOptions } from '../../../types/index.ts'
import { startGateway, type Gateway } from '../../helpers/app.ts'
import { connectTo, ok, rawBackend, until, type Message, type RawBackend, type Wire } from '../../helpers/wire.ts'

/** A test that hangs fails by itself, and lets the others run. */
const LIMIT = 15_000

const backendAt = (url: string, id = url) => new Backend({ id, url }, 0)

async function start (t: Test, answer: (request: Message, wire: Wire) => string | void, pool: PoolOptions = {}): Promise<{ gateway: Gateway, backend: RawBackend }> {
  const backend = await rawBackend(t, answer)
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }], pool })
  return { gateway, backend }
}

/** Asks, and waits until the backend's connection has been given back. */
async function ask (t: Test, gateway: Gateway): Promise<Message> {
  const client = await connectTo(t, gateway.port)
  client.send('GET /a HTTP/1.1\r\nHost: gateway\r\n\r\n')
  const response = await client.response()
  await until(() => gateway.app.proxy.getConnectionPool().stats().active === 0)
  return response
}

t.test('has the defaults of the plan, and does not change what it is given', async t => {
  t.same(new ConnectionPool().options, { connections: 100, connectTimeout: 10_000, idleTimeout: 90_000, maxRequestsPerConnection: 0, maxConcurrentStreams: 100, keepAliveMargin: 1_000, maxHeaderSize: 16_384, autoSelectFamily: true })
  const given = Object.freeze({ connections: 3 })
  t.match(new ConnectionPool(given).options, { connections: 3, idleTimeout: 90_000 })
  t.same(given, { connections: 3 })
})

t.test('refuses bad options by name', async t => {
  for (const [options, message] of [
    [{ connections: 0 }, /pool\.connections .*1/], [{ connections: 1.5 }, /pool\.connections/], [{ idleTimeout: 0 }, /pool\.idleTimeout/], [{ keepAliveMargin: -1 }, /pool\.keepAliveMargin/],
    [{ maxHeaderSize: 1 }, /pool\.maxHeaderSize/], [{ conections: 5 }, /did you mean 'connections'/]
  ] as [PoolOptions, RegExp][]) t.throws(() => new ConnectionPool(options), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message })
})

t.test('createPool takes options or an instance', async t => {
  const own = new ConnectionPool()
  t.equal(createPool(own), own)
  t.ok(createPool({ connections: 2 }) instanceof ConnectionPool)
  t.ok(createPool() instanceof ConnectionPool)
  t.throws(() => createPool('no' as never), { code: 'FST_ROCKSTAR_INVALID_OPTIONS' })
})

t.test('keeps one set of connections for each backend, made when first asked for', async t => {
  const pool = new ConnectionPool()
  const [a, b] = [backendAt('http://127.0.0.1:1', 'a'), backendAt('http://127.0.0.1:1', 'b')]
  t.same(Object.keys(pool.stats().backends), [])
  const connections = pool.dispatcherFor(a)
  t.equal(pool.dispatcherFor(a), connections)
  t.not(pool.dispatcherFor(b), connections, 'of the same address too: each has its own state')
  t.same(Object.keys(pool.stats().backends), ['a', 'b'])
  await pool.release(a)
  t.same(Object.keys(pool.stats().backends), ['b'])
  t.not(pool.dispatcherFor(a), connections)
  await pool.release(backendAt('http://127.0.0.1:1', 'unknown'))
  await pool.close()
})

t.test('has numbers from the start, and none that is no number', async t => {
  const none = { total: 0, active: 0, idle: 0, pending: 0, connects: 0, connectErrors: 0, requests: 0, reuseRatio: 0 }
  const pool = new ConnectionPool()
  t.same({ ...pool.stats(), backends: {} }, { ...none, backends: {} })
  const named = backendAt('http://127.0.0.1:1', '__proto__')
  pool.dispatcherFor(named)
  t.same(Object.entries(pool.stats().backends), [['__proto__', none]])
  await pool.close()
})

t.test('closes and is destroyed more than once without harm, empty or not', async t => {
  for (const used of [false, true]) {
    const pool = new ConnectionPool()
    if (used) pool.dispatcherFor(backendAt('http://127.0.0.1:1'))
    await Promise.all([pool.close(), pool.close()])
    await pool.destroy()
    await pool.destroy(new Error('again'))
    await pool.close()
  }
  t.pass()
})

t.test('a connection is used again, and the numbers say so', { timeout: LIMIT }, async t => {
  const { gateway, backend } = await start(t, () => ok())
  for (let i = 0; i < 4; i++) await ask(t, gateway)
  t.equal(backend.connections.length, 1)
  t.match(gateway.app.proxy.getConnectionPool().stats(), { total: 1, idle: 1, active: 0, connects: 1, requests: 4, reuseRatio: 0.75 })
})

t.test('a connection is not used again when the backend closes it sooner than the margin', { timeout: LIMIT }, async t => {
  for (const [field, margin, connections] of [['timeout=1', 1_000, 2], ['timeout=5, max=100', 1_000, 1], ['timeout=5', 5_000, 2], ['max=100', 1_000, 1], ['timeout=0', 0, 2]] as const) {
    const { gateway, backend } = await start(t, () => ok('ok', `Keep-Alive: ${field}\r\n`), { keepAliveMargin: margin })
    await ask(t, gateway)
    await ask(t, gateway)
    t.equal(backend.connections.length, connections, `Keep-Alive: ${field}, margin ${margin}`)
  }
})

t.test('an idle connection is given up after idleTimeout, whatever the backend would bear', { timeout: LIMIT }, async t => {
  const { gateway, backend } = await start(t, () => ok('ok', 'Keep-Alive: timeout=600\r\n'), { idleTimeout: 20 })
  await ask(t, gateway)
  await until(() => backend.connections[0].closed)
  await until(() => gateway.app.proxy.getConnectionPool().stats().total === 0)
  t.equal((await ask(t, gateway)).status, 200)
})

t.test('a connection that the backend closes idle is forgotten at once', { timeout: LIMIT }, async t => {
  for (const leave of [(wire: Wire) => wire.socket.end(), (wire: Wire) => wire.reset()]) {
    const { gateway, backend } = await start(t, () => ok())
    await ask(t, gateway)
    leave(backend.connections[0])
    await until(() => gateway.app.proxy.getConnectionPool().stats().total === 0)
    t.equal((await ask(t, gateway)).status, 200)
    t.equal(backend.connections.length, 2)
  }
})

t.test('a request that is given up costs its connection and opens no other', { timeout: LIMIT }, async t => {
  const { gateway, backend } = await start(t, () => {})
  for (let i = 1; i <= 5; i++) {
    const client = await connectTo(t, gateway.port)
    client.send('GET /a HTTP/1.1\r\nHost: gateway\r\n\r\n')
    await until(() => backend.requests.length === i)
    client.close()
    await until(() => backend.connections.every(({ closed }) => closed))
    await until(() => gateway.app.proxy.getConnectionPool().stats().total === 0)
  }
  t.equal(backend.connections.length, 5)
  t.equal(gateway.app.proxy.getConnectionPool().stats().connects, 5)
})

t.test('a response that is refused costs its connection and opens no other', { timeout: LIMIT }, async t => {
  for (const bytes of ['HTTP/1.1 600 Bad\r\n\r\n', 'HTTP/1.1 abc\r\n\r\n', 'HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n']) {
    const { gateway, backend } = await start(t, () => bytes)
    t.equal((await ask(t, gateway)).status, 502)
    await until(() => gateway.app.proxy.getConnectionPool().stats().total === 0)
    t.equal(backend.connections.length, 1, bytes)
  }
})

t.test('no more connections are opened than allowed, and those who wait are served in order', { timeout: LIMIT }, async t => {
  const held: Wire[] = []
  const { gateway, backend } = await start(t, (_request, wire) => { held.push(wire) }, { connections: 2 })
  const clients = await Promise.all(Array.from({ length: 6 }, () => connectTo(t, gateway.port)))
  for (const [i, client] of clients.entries()) {
    client.send(`GET /${i} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
    await until(() => i < 2 ? held.length === i + 1 : gateway.app.proxy.getConnectionPool().stats().pending === i - 1)
  }
  t.match(gateway.app.proxy.getConnectionPool().stats(), { total: 2, active: 2, idle: 0, pending: 4 })
  for (let i = 0; i < 6; i++) {
    await until(() => held.length > i)
    held[i].send(ok(String(i)))
    t.equal((await clients[i].response()).body, String(i))
  }
  t.same(backend.requests.map(({ startLine }) => startLine.split(' ')[1]), ['/0', '/1', '/2', '/3', '/4', '/5'])
  t.equal(backend.connections.length, 2)
})
