import t from 'tap'
import type { Test } from 'tap'
import { Pool, type Dispatcher } from 'undici'
import type { Backend, ConnectionPool, PoolStats } from '../../types/index.ts'
import { startGateway, type Gateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, rawBackend, until, type RawBackend } from '../helpers/wire.ts'

/** A backend that answers with its name, but holds paths that begin with `/hold`. */
function namedBackend (t: Test, name: string): Promise<RawBackend> {
  return rawBackend(t, request => request.startLine.includes('/hold') ? undefined : ok(name))
}

const routes = [{ prefix: '/' }]

async function get (gateway: Gateway, path = '/'): Promise<string> {
  const response = await gateway.app.inject(path)
  return response.statusCode === 200 ? response.body : `${response.statusCode} ${response.json().code}`
}

/** Sends a request that its backend holds. */
async function held (gateway: Gateway, backend: RawBackend) {
  const before = backend.requests.length
  const client = await gateway.connect()
  client.send('GET /hold HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => backend.requests.length > before)
  return { client, wire: backend.connections.at(-1) as RawBackend['connections'][number] }
}

t.test('a backend that is added takes requests at once, however it was given', async t => {
  const [one, two, three] = [await namedBackend(t, 'one'), await namedBackend(t, 'two'), await namedBackend(t, 'three')]
  const gateway = await startGateway(t, { routes })
  const { proxy } = gateway.app
  t.equal(await get(gateway), '503 FST_ROCKSTAR_NO_BACKEND')
  proxy.addBackend(one.url)
  t.equal(await get(gateway), 'one')
  proxy.addBackend({ url: new URL(two.url) })
  proxy.addBackend({ id: 'third', url: three.url, metadata: { zone: 'a' } })
  t.strictSame(new Set([await get(gateway), await get(gateway), await get(gateway)]), new Set(['one', 'two', 'three']))
  t.strictSame(proxy.listBackends().map(backend => backend.id), [`127.0.0.1:${one.port}`, `127.0.0.1:${two.port}`, 'third'])
})

t.test('the base path of a backend comes before every path', async t => {
  const backend = await rawBackend(t, request => ok(request.startLine))
  const gateway = await startGateway(t, { backends: [`${backend.url}/base/`], routes })
  t.equal(await get(gateway, '/a?b'), 'GET /base/a?b HTTP/1.1')
})

t.test('a removed backend gets no new request, finishes those it has, and then its connections are closed', async t => {
  const [one, two] = [await namedBackend(t, 'one'), await namedBackend(t, 'two')]
  const gateway = await startGateway(t, { backends: [{ id: 'one', url: one.url }], routes })
  const { proxy } = gateway.app
  const { client, wire } = await held(gateway, one)
  proxy.addBackend({ id: 'two', url: two.url })

  let removed = false
  const removal = proxy.removeBackend('one').then(() => { removed = true })
  t.match(proxy.listBackends().map(backend => backend.toJSON()), [{ id: 'one', draining: true, inFlight: 1 }, { id: 'two', draining: false }])
  for (let i = 0; i < 4; i++) t.equal(await get(gateway), 'two')
  t.equal(one.requests.length, 1, 'no new request has reached it')
  t.notOk(removed)
  t.notOk(wire.ended, 'its connection is still there')

  wire.send(ok('late'))
  t.equal((await client.response()).body, 'late')
  await removal
  await until(() => wire.ended)
  t.pass('the backend sees its connection closed')
  t.throws(() => proxy.getBackend('one'), { code: 'FST_ROCKSTAR_UNKNOWN_BACKEND' })
  t.strictSame(proxy.listBackends().map(backend => backend.id), ['two'])
})

t.test('a removed backend finishes the body that it streams', async t => {
  const backend = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst')
  const gateway = await startGateway(t, { backends: [{ id: 'one', url: backend.url }], routes })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await client.receive('first')
  const removal = gateway.app.proxy.removeBackend('one')
  backend.connections[0].send('final')
  t.equal((await client.response()).body, 'firstfinal')
  await removal
  await until(() => backend.connections[0].ended)
})

t.test('a removed backend finishes requests that still wait for one of its connections', async t => {
  const backend = await namedBackend(t, 'one')
  const gateway = await startGateway(t, { backends: [{ id: 'one', url: backend.url }], pool: { connections: 1 }, routes })
  const { client, wire } = await held(gateway, backend)
  const waiting = get(gateway, '/waiting')
  await until(() => gateway.app.proxy.getConnectionPool().stats().pending === 1)
  const removal = gateway.app.proxy.removeBackend('one')
  wire.send(ok('first'))
  t.equal((await client.response()).body, 'first')
  t.equal(await waiting, 'one')
  await removal
  t.equal(backend.connections.length, 1)
  await until(() => wire.ended)
})

t.test('idle connections of a removed backend are closed, those of others stay', async t => {
  const [one, two] = [await namedBackend(t, 'one'), await namedBackend(t, 'two')]
  const gateway = await startGateway(t, { backends: [{ id: 'one', url: one.url }, { id: 'two', url: two.url }], routes })
  const idle = () => gateway.app.proxy.getConnectionPool().stats().idle
  for (let i = 0; i < 4; i++) {
    await get(gateway)
    await until(() => idle() === Math.min(i + 1, 2))
  }
  t.match(gateway.app.proxy.getConnectionPool().stats(), { total: 2, idle: 2, backends: { one: { total: 1 }, two: { total: 1 } } })
  await gateway.app.proxy.removeBackend('one')
  await until(() => one.connections[0].ended)
  await get(gateway)
  await until(() => idle() === 1)
  t.match(gateway.app.proxy.getConnectionPool().stats(), { total: 1, idle: 1, backends: { one: undefined, two: { total: 1 } } })
  t.equal(two.connections.length, 1)
  t.notOk(two.connections[0].ended)
})

t.test('what has not finished when the drain is over is given up', async t => {
  const clock = new FakeClock()
  const backend = await namedBackend(t, 'one')
  const gateway = await startGateway(t, { clock, backends: [{ id: 'one', url: backend.url }], routes })
  const { client, wire } = await held(gateway, backend)
  const removal = gateway.app.proxy.removeBackend('one', { drain: { timeout: 5_000 } })
  clock.advance(4_999)
  await new Promise(setImmediate)
  t.notOk(wire.ended)
  clock.advance(1)
  await removal
  await until(() => wire.closed || wire.ended)
  const response = await client.response()
  t.equal(response.status, 503)
  t.match(JSON.parse(response.body), { code: 'FST_ROCKSTAR_ABORTED' })
  t.strictSame(gateway.app.proxy.listBackends(), [])
  t.match(gateway.app.proxy.getMetrics(), { inFlight: 0 })
})

t.test('a body that is given up when the drain is over reaches the client as cut short', async t => {
  const clock = new FakeClock()
  const backend = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n')
  const gateway = await startGateway(t, { clock, backends: [{ id: 'one', url: backend.url }], routes })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await client.receive('half')
  const removal = gateway.app.proxy.removeBackend('one', { drain: { timeout: 5_000 } })
  clock.advance(5_000)
  await removal
  await until(() => client.ended || client.closed)
  t.notMatch(client.received, /\r\n0\r\n/, 'no clean end')
  await until(() => backend.connections[0].closed || backend.connections[0].ended)
})

t.test('only what is on the removed backend is given up', async t => {
  const clock = new FakeClock()
  const [one, two] = [await namedBackend(t, 'one'), await namedBackend(t, 'two')]
  const gateway = await startGateway(t, { clock, backends: [{ id: 'one', url: one.url }, { id: 'two', url: two.url }], upstreams: { other: { backends: [{ id: 'one', url: one.url }] } }, routes: [{ prefix: '/' }, { prefix: '/other', upstream: 'other' }] })
  const first = await held(gateway, one)
  const second = await held(gateway, two)
  const other = await gateway.connect()
  other.send('GET /other/hold HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => one.requests.length === 2)
  await gateway.app.proxy.removeBackend('one', { drain: false })
  t.equal((await first.client.response()).status, 503)
  second.wire.send(ok('two'))
  t.equal((await second.client.response()).body, 'two')
  one.connections[1].send(ok('other'))
  t.equal((await other.response()).body, 'other', 'the backend of the same id in another upstream goes on')
})

t.test('drain: false gives up at once', async t => {
  const clock = new FakeClock()
  const backend = await namedBackend(t, 'one')
  const gateway = await startGateway(t, { clock, backends: [{ id: 'one', url: backend.url }], routes })
  const { client, wire } = await held(gateway, backend)
  await gateway.app.proxy.removeBackend('one', { drain: false })
  t.equal((await client.response()).status, 503)
  await until(() => wire.closed || wire.ended)
})

t.test('a removal that is asked for again meanwhile waits for the same end', async t => {
  const backend = await namedBackend(t, 'one')
  const gateway = await startGateway(t, { backends: [{ id: 'one', url: backend.url }], routes })
  const { proxy } = gateway.app
  const { client, wire } = await held(gateway, backend)
  const removals = [proxy.removeBackend('one'), proxy.removeBackend('one')]
  let settled = 0
  for (const removal of removals) removal.then(() => { settled++ })
  await new Promise(setImmediate)
  t.equal(settled, 0)
  wire.send(ok())
  t.equal((await client.response()).status, 200)
  await Promise.all(removals)
  await t.rejects(proxy.removeBackend('one'), { code: 'FST_ROCKSTAR_UNKNOWN_BACKEND' })
})

t.test('a backend can be added again under its id once it is gone', async t => {
  const backend = await namedBackend(t, 'one')
  const gateway = await startGateway(t, { backends: [{ id: 'one', url: backend.url }], routes })
  const { proxy } = gateway.app
  t.equal(await get(gateway), 'one')
  const { client, wire } = await held(gateway, backend)
  const removal = proxy.removeBackend('one')
  t.throws(() => proxy.addBackend({ id: 'one', url: backend.url }), { code: 'FST_ROCKSTAR_DUPLICATE_BACKEND' })
  wire.send(ok())
  await client.response()
  await removal
  proxy.addBackend({ id: 'one', url: backend.url })
  t.equal(await get(gateway), 'one')
  t.match(proxy.getMetrics().backends.one, { totalRequests: 1 }, 'it counts from the beginning')
  t.equal(backend.connections.length, 2, 'on a connection of its own')
})

t.test('adding and removing under load loses no request', async t => {
  const [one, two] = [await namedBackend(t, 'one'), await namedBackend(t, 'two')]
  const gateway = await startGateway(t, { backends: [{ id: 'stays', url: one.url }], routes })
  const { proxy } = gateway.app
  const load = { running: true }
  const answers: string[] = []
  const senders = Array.from({ length: 8 }, async () => {
    while (load.running) answers.push(await get(gateway))
  })
  for (let i = 0; i < 10; i++) {
    proxy.addBackend({ id: 'comes and goes', url: two.url })
    const seen = answers.length
    await until(() => answers.length > seen + 10)
    await proxy.removeBackend('comes and goes')
  }
  load.running = false
  await Promise.all(senders)
  t.strictSame([...new Set(answers)].sort(), ['one', 'two'])
  await until(() => two.connections.every(wire => wire.ended))
})

t.test('a backend that is made inactive gets no new request, keeps those it has, and is used again when active', async t => {
  const [one, two] = [await namedBackend(t, 'one'), await namedBackend(t, 'two')]
  const gateway = await startGateway(t, { backends: [{ id: 'one', url: one.url }, { id: 'two', url: two.url, isActive: false }], routes })
  const { proxy } = gateway.app
  const { client, wire } = await held(gateway, one)
  proxy.updateBackend('two', { isActive: true })
  proxy.updateBackend('one', { isActive: false })
  for (let i = 0; i < 3; i++) t.equal(await get(gateway), 'two')
  wire.send(ok('late'))
  t.equal((await client.response()).body, 'late')
  proxy.updateBackend('two', { weight: 0 })
  t.equal(await get(gateway), '503 FST_ROCKSTAR_NO_BACKEND')
  proxy.updateBackend('one', { isActive: true })
  t.equal(await get(gateway), 'one')
  t.equal(one.connections.length, 1, 'on the connection it had')
})

t.test('a removed upstream finishes what it has, then its connections are closed', async t => {
  const backend = await namedBackend(t, 'one')
  const gateway = await startGateway(t, { upstreams: { group: { backends: [backend.url] } }, routes: [{ prefix: '/', upstream: 'group' }] })
  const { proxy } = gateway.app
  const group = proxy.upstream('group')
  const { client, wire } = await held(gateway, backend)
  const removal = proxy.removeUpstream('group')
  t.equal(await get(gateway), '500 FST_ROCKSTAR_UNKNOWN_UPSTREAM', 'nobody finds it any more')
  await t.rejects(group.forwardHttp(new Request('http://gateway/')), { code: 'FST_ROCKSTAR_CLOSED', statusCode: 503 }, 'nor gets anything through one that was kept')
  wire.send(ok('late'))
  t.equal((await client.response()).body, 'late')
  await removal
  await until(() => wire.ended)
})

// Connection pools

t.test('a new pool is used from the next request on, the old one closes when its requests have finished', async t => {
  const backend = await namedBackend(t, 'one')
  const gateway = await startGateway(t, { backends: [{ id: 'one', url: backend.url }], routes })
  const { proxy } = gateway.app
  const { client, wire } = await held(gateway, backend)
  t.equal(await get(gateway), 'one')
  proxy.setConnectionPool({ connections: 1 })
  t.match(proxy.getConnectionPool().stats(), { total: 0 })
  t.equal(await get(gateway), 'one')
  t.equal(backend.connections.length, 3)
  await until(() => backend.connections[1].ended)
  t.notOk(wire.ended, 'the connection with a request on it stays')
  wire.send(ok('late'))
  t.equal((await client.response()).body, 'late')
  await until(() => wire.ended)
  t.notOk(backend.connections[2].ended)
})

t.test('removing a backend waits for requests on a replaced pool as well', async t => {
  const backend = await namedBackend(t, 'one')
  const gateway = await startGateway(t, { backends: [{ id: 'one', url: backend.url }], routes })
  const { proxy } = gateway.app
  const { client, wire } = await held(gateway, backend)
  proxy.setConnectionPool({ connections: 1 })
  let removed = false
  const removal = proxy.removeBackend('one').then(() => { removed = true })
  await new Promise(setImmediate)
  t.notOk(removed)
  wire.send(ok('late'))
  t.equal((await client.response()).body, 'late')
  await removal
})

/** A user's own pool, of undici's. */
class UndiciPool implements ConnectionPool {
  readonly asked: string[] = []
  readonly released: string[] = []
  closed = 0
  readonly #pools = new Map<Backend, Pool>()

  dispatcherFor (backend: Backend): Dispatcher {
    this.asked.push(backend.id)
    let pool = this.#pools.get(backend)
    if (pool === undefined) this.#pools.set(backend, pool = new Pool(backend.url.origin))
    return pool
  }

  async release (backend: Backend): Promise<void> {
    this.released.push(backend.id)
    const pool = this.#pools.get(backend)
    this.#pools.delete(backend)
    await pool?.close()
  }

  stats (): PoolStats {
    return { total: 0, active: 0, idle: 0, pending: 0, connects: 0, connectErrors: 0, requests: this.asked.length, reuseRatio: 0, backends: {} }
  }

  async close (): Promise<void> {
    this.closed++
    await Promise.all([...this.#pools.values()].map(pool => pool.close()))
  }
}

t.test('a pool of the user\'s own serves, by option and by setter', async t => {
  const backend = await namedBackend(t, 'one')
  const [first, second] = [new UndiciPool(), new UndiciPool()]
  const gateway = await startGateway(t, { backends: [{ id: 'one', url: `${backend.url}/base` }], pool: first, routes })
  const { proxy } = gateway.app
  t.equal(proxy.getConnectionPool(), first)
  t.equal(await get(gateway), 'one')
  t.equal(await get(gateway), 'one')
  t.strictSame(first.asked, ['one', 'one'], 'it is asked for every attempt')
  t.equal(backend.requests[0].startLine, 'GET /base/ HTTP/1.1')
  proxy.setConnectionPool(second)
  t.equal(await get(gateway), 'one')
  t.equal(first.closed, 1)
  t.strictSame(second.asked, ['one'])
  t.equal(proxy.getConnectionPool().stats().requests, 1)
  await proxy.removeBackend('one')
  t.strictSame(second.released, ['one'])
  await until(() => backend.connections.every(wire => wire.ended))
  await gateway.app.close()
  t.equal(second.closed, 1, 'and is closed with the app')
})

t.test('on a pool of the user\'s own, a client that goes away aborts the backend\'s request', async t => {
  const backend = await namedBackend(t, 'one')
  const gateway = await startGateway(t, { backends: [backend.url], pool: new UndiciPool(), routes })
  const { client, wire } = await held(gateway, backend)
  client.close()
  await until(() => wire.closed || wire.ended)
  await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
  t.match(gateway.app.proxy.getMetrics(), { abortedRequests: 1, failedRequests: 0 })
})

t.test('a pool that throws fails the request, and nothing else', async t => {
  const backend = await namedBackend(t, 'one')
  const pool = new UndiciPool()
  const gateway = await startGateway(t, { backends: [{ id: 'one', url: backend.url }], pool, routes })
  const { dispatcherFor } = pool
  pool.dispatcherFor = () => { throw new Error('no connections today') }
  const response = await gateway.app.inject('/')
  t.ok(response.statusCode >= 500)
  t.match(response.json().code, /^FST_ROCKSTAR_/)
  t.ok(gateway.log.some(line => (line.err as Error)?.message.includes('no connections today')), 'the cause is logged')
  t.match(gateway.app.proxy.getMetrics(), { inFlight: 0, backends: { one: { inFlight: 0 } } })
  pool.dispatcherFor = dispatcherFor
  t.equal(await get(gateway), 'one')
})
