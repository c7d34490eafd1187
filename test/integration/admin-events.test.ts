import Fastify from 'fastify'
import { once } from 'node:events'
import { connect as connectHttp2 } from 'node:http2'
import t, { type Test } from 'tap'
import { EVENT_NAMES } from '../../lib/events.ts'
import type { ProxyManager } from '../../lib/proxy-manager.ts'
import events from '../../plugins/events.ts'
import type { EventsOptions, ProxyEventName, RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type GatewaySetup } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, rawBackend, until, type Wire } from '../helpers/wire.ts'

/** One event of a stream, as an `EventSource` takes it apart. */
interface Told {
  id?: string
  event?: string
  data?: Record<string, any>
}

/** The content of a response in chunks, as far as it has come. */
function contentOf (received: string): string {
  let rest = received.slice(received.indexOf('\r\n\r\n') + 4)
  let content = ''
  for (let line = rest.indexOf('\r\n'); line !== -1; line = rest.indexOf('\r\n')) {
    const size = parseInt(rest.slice(0, line), 16)
    if (!(size > 0) || rest.length < line + 2 + size) break
    content += rest.slice(line + 2, line + 2 + size)
    rest = rest.slice(line + 4 + size)
  }
  return content
}

/** The events in a stream, without comments and what is for the reader alone. */
function read (content: string): Told[] {
  return content.split('\n\n').slice(0, -1).map(block => {
    const told: Told = {}
    for (const line of block.split('\n')) {
      const [, name, value] = /^(id|event|data): (.*)$/.exec(line) ?? []
      if (name === 'data') told.data = JSON.parse(value)
      else if (name !== undefined) told[name as 'id' | 'event'] = value
    }
    return told
  }).filter(({ event }) => event !== undefined)
}

async function start (t: Test, told: EventsOptions = {}, options: RockstarProxyOptions = {}, setup: GatewaySetup = {}) {
  const clock = new FakeClock()
  const gateway = await startGateway(t, { clock, admin: { plugins: ['events'], events: told }, backends: [{ id: 'a', url: 'http://127.0.0.1:1' }], ...options }, { ...setup, fastify: { forceCloseConnections: 'idle', ...setup.fastify } })
  const { proxy } = gateway.app as unknown as { proxy: ProxyManager }
  /** Opens a stream, and waits for its beginning. */
  const follow = async (path = '/proxy/events', ...fields: string[]): Promise<Wire> => {
    const wire = await gateway.connect()
    wire.send([`GET ${path} HTTP/1.1`, 'Host: localhost', ...fields, '', ''].join('\r\n'))
    await wire.receive('retry: ')
    return wire
  }
  /** What has come, once so many events have. */
  const heard = async (wire: Wire, count: number): Promise<Told[]> => {
    await until(() => read(contentOf(wire.received)).length >= count || wire.closed)
    return read(contentOf(wire.received))
  }
  return { ...gateway, clock, proxy, follow, heard, listeners: () => listenersOf(proxy) }
}

/** How many listen to what. */
function listenersOf (proxy: ProxyManager): number {
  const { events } = proxy as unknown as { events: { listenerCount (name: ProxyEventName): number } }
  return EVENT_NAMES.reduce((sum, name) => sum + events.listenerCount(name), 0)
}

t.test('the head of the stream, and what it begins with', async t => {
  const { follow, heard, clock, proxy } = await start(t)
  const wire = await follow()
  const [first] = await heard(wire, 1)
  const { startLine, ...rest } = { startLine: wire.received.split('\r\n')[0] }
  t.equal(startLine, 'HTTP/1.1 200 OK', JSON.stringify(rest))
  for (const line of ['content-type: text/event-stream', 'cache-control: no-store, no-transform', 'x-accel-buffering: no', 'x-content-type-options: nosniff', 'connection: close', 'transfer-encoding: chunked']) {
    t.ok(wire.received.toLowerCase().includes(`\r\n${line}\r\n`), line)
  }
  t.match(contentOf(wire.received), /^retry: 2000\n\nevent: metrics\ndata: \{/)
  t.equal(first.id, undefined, 'a snapshot has no id: it is no event to come back for')
  t.strictSame(first.data, { time: new Date(clock.wall()).toISOString(), ...JSON.parse(JSON.stringify(proxy.getMetrics())) })
})

t.test('all events are told, as plain data, with ids that grow', async t => {
  const { follow, heard, proxy, clock } = await start(t, { interval: 0 })
  const wire = await follow()
  const backend = proxy.getBackend('a')
  const { events } = proxy.state
  const time = clock.wall()
  const about = { upstream: 'default', time }
  for (const name of EVENT_NAMES) {
    if (name === 'backend:ejected') events.tell(name, { ...about, backend, cause: 'x', counts: { failures: 5 }, until: time + 5 })
    else if (name.startsWith('backend:')) events.tell(name as 'backend:added', { ...about, backend })
    else if (name.startsWith('circuit:')) events.tell(name as 'circuit:open', { ...about, backend, cause: '<b>\n', counts: {}, from: 'closed', to: 'open' })
    else if (name.startsWith('discovery:')) events.tell(name as 'discovery:failed', { ...about, source: 's', cause: 'c' })
    else events.tell(name as 'panic:on', { ...about, available: 0, active: 1 })
  }
  const told = await heard(wire, EVENT_NAMES.length)
  t.strictSame(told.map(({ event }) => event), EVENT_NAMES)
  const [epoch] = (told[0].id as string).split('-')
  t.strictSame(told.map(({ id }) => id), EVENT_NAMES.map((_, i) => `${epoch}-${i + 1}`))
  const data = (name: ProxyEventName) => told.find(({ event }) => event === name)?.data
  const said = { upstream: 'default', time: new Date(time).toISOString() }
  t.strictSame(data('backend:added'), { ...said, backend: 'a' })
  t.strictSame(data('backend:ejected'), { ...said, backend: 'a', cause: 'x', counts: { failures: 5 }, until: new Date(time + 5).toISOString() })
  t.strictSame(data('circuit:open'), { ...said, backend: 'a', cause: '<b>\n', counts: {}, from: 'closed', to: 'open' })
  t.strictSame(data('discovery:failed'), { ...said, source: 's', cause: 'c' })
  t.strictSame(data('panic:on'), { ...said, available: 0, active: 1 })
})

t.test('what happens in earnest is told', async t => {
  const { follow, heard, proxy } = await start(t, { interval: 0 })
  const wire = await follow()
  proxy.addBackend({ id: 'b', url: 'http://127.0.0.1:2' })
  await proxy.removeBackend('b')
  t.strictSame((await heard(wire, 3)).map(({ event, data }) => `${event} ${data?.backend}`), ['backend:added b', 'backend:draining b', 'backend:removed b'])
})

t.test('a snapshot comes each second, by the clock, and only while somebody reads', async t => {
  const backend = await rawBackend(t, () => ok())
  const { follow, heard, clock, proxy, url } = await start(t, {}, { backends: [{ id: 'a', url: backend.url }], routes: [{ prefix: '/api' }] })
  const idle = clock.timers
  const [one, two] = [await follow(), await follow()]
  await heard(one, 1)
  await (await fetch(`${url}/api/x`, { headers: { connection: 'close' } })).text()
  await until(() => proxy.getMetrics().inFlight === 0)
  clock.advance(999)
  t.equal((await heard(one, 1)).length, 1)
  clock.advance(1)
  const told = await heard(one, 2)
  t.match(told[1], { event: 'metrics', data: { time: new Date(clock.wall()).toISOString(), totalRequests: 1, backends: { a: { totalRequests: 1 } } } })
  t.strictSame((await heard(two, 2))[1], told[1], 'the same for all')
  clock.advance(3_000)
  t.equal((await heard(one, 5)).length, 5)
  one.close()
  two.close()
  await until(() => clock.timers <= idle + 1)
  clock.advance(300)
  t.equal(clock.timers, idle, 'no timer is left')
})

t.test('?upstream= tells of one alone, until it is removed', async t => {
  const { follow, heard, proxy, clock, url } = await start(t, {}, { upstreams: { users: {} } })
  const wire = await follow('/proxy/events?upstream=users')
  t.match(await heard(wire, 1), [{ event: 'metrics', data: { totalRequests: 0, upstreams: undefined } }])
  proxy.addBackend({ id: 'b', url: 'http://127.0.0.1:2' })
  proxy.upstream('users').addBackend({ id: 'u', url: 'http://127.0.0.1:3' })
  t.match((await heard(wire, 2))[1], { event: 'backend:added', data: { upstream: 'users', backend: 'u' } })
  clock.advance(1_000)
  t.match((await heard(wire, 3))[2], { event: 'metrics', data: { backends: { u: {} } } })
  await proxy.removeUpstream('users')
  clock.advance(1_000)
  await until(() => wire.closed || wire.ended)
  t.match((await heard(wire, 4)).map(({ event }) => event).slice(3), ['backend:draining', 'backend:removed'])
  const none = await fetch(`${url}/proxy/events?upstream=none`)
  t.equal(none.status, 404)
  t.match(await none.json(), { code: 'FST_ROCKSTAR_UNKNOWN_UPSTREAM' })
  const wrong = await fetch(`${url}/proxy/events?upstreem=none`)
  t.match(await wrong.json(), { statusCode: 400, message: "query.upstreem is not an option; did you mean 'upstream'?" })
})

t.test('who comes back is told what was missed', async t => {
  const { follow, heard, proxy } = await start(t, { interval: 0, history: 3 }, { upstreams: { users: {} } })
  const add = (id: string, upstream = 'default') => proxy.upstream(upstream).addBackend({ id, url: 'http://127.0.0.1:2' })
  const wire = await follow()
  add('b')
  add('c')
  const [b, c] = await heard(wire, 2)
  wire.close()
  add('d')
  add('u', 'users')
  const again = async (id: string | undefined, path?: string) => {
    const wire = await follow(path, `Last-Event-ID: ${id}`)
    const marker = `last-${Math.random()}`
    // What comes after shows that no more comes before.
    proxy.state.events.tell('backend:added', { upstream: path === undefined ? 'default' : 'users', time: 0, backend: { id: marker } as never })
    await wire.receive(marker)
    return read(contentOf(wire.received)).slice(0, -1).map(({ event, data }) => event === 'missed' ? `missed ${data?.lastEventId}` : data?.backend)
  }
  t.strictSame(await again(c.id), ['d', 'u'])
  await t.test('with more than is kept', async t => {
    t.strictSame((await again(b.id)).slice(0, 2), [`missed ${b.id}`, 'd'], 'it is said that something is missing')
  })
  t.match(await again(c.id, '/proxy/events?upstream=users'), [`missed ${c.id}`])
  t.match((await again('elsewhere-3'))[0], 'missed elsewhere-3')
  t.match((await again('<script>'.repeat(20)))[0], `missed ${'<script>'.repeat(8)}`)
  t.match((await again('abc-99999999999999999999'))[0], /^missed/)
})

t.test('silence is broken by a comment', async t => {
  const { follow, clock } = await start(t, { interval: 0, heartbeat: 2_000 })
  const wire = await follow()
  clock.advance(1_900)
  t.notOk(contentOf(wire.received).includes('\n:'))
  clock.advance(600)
  await wire.receive(':\n\n')
  t.equal(contentOf(wire.received), 'retry: 2000\n\n:\n\n')
  clock.advance(1_000)
  t.equal(contentOf(wire.received).split(':\n\n').length, 2, 'once for each silence')
})

t.test('who does not read is dropped, and the others are not', async t => {
  const { follow, proxy, log, clock } = await start(t, { maxBuffer: 262_144 })
  const [slow, quick] = [await follow(), await follow()]
  slow.socket.pause()
  const backend = proxy.getBackend('a')
  const cause = 'x'.repeat(60_000)
  const dropped = () => log.some(({ msg }) => msg === 'a reader of events was too slow and is dropped')
  for (let turn = 1; !dropped(); turn++) {
    proxy.state.events.tell('backend:unhealthy', { upstream: 'default', time: 0, backend, cause, counts: { turn } })
    await quick.receive(`"turn":${turn}}`, quick.received.length - 70_000)
  }
  const line = log.find(({ msg }) => msg.includes('too slow'))
  t.match(line, { level: 40, waiting: Number })
  t.ok(line !== undefined && (line.waiting as number) <= 262_144 && (line.waiting as number) > 180_000, `${String(line?.waiting)} bytes waited`)
  const before = quick.received.length
  clock.advance(1_000)
  await quick.receive('event: metrics', before)
  t.notOk(quick.closed, 'the other one still hears')
  slow.socket.resume()
  await until(() => slow.ended || slow.closed)
  t.notOk(slow.received.endsWith('0\r\n\r\n'), 'it does not look whole')
  t.equal(log.filter(({ msg }) => msg.includes('too slow')).length, 1)
})

t.test('a message longer than may wait is not the reader\'s fault', async t => {
  const { follow, heard, clock } = await start(t, { maxBuffer: 1 })
  const wire = await follow()
  await heard(wire, 1)
  clock.advance(1_000)
  t.equal((await heard(wire, 2)).length, 2)
})

t.test('there are only so many readers', async t => {
  const { follow, connect, url } = await start(t, { maxClients: 2 })
  const [one] = [await follow(), await follow()]
  const third = await fetch(`${url}/proxy/events`, { headers: { connection: 'close' } })
  t.equal(third.status, 503)
  t.equal(third.headers.get('retry-after'), '10')
  t.strictSame(await third.json(), { statusCode: 503, code: 'FST_ROCKSTAR_OVERLOADED', error: 'Service Unavailable', message: 'There are too many requests at present' })
  one.close()
  let status = 503
  while (status === 503) {
    const wire = await connect()
    wire.send('GET /proxy/events HTTP/1.1\r\nHost: localhost\r\n\r\n')
    await wire.receive('\r\n\r\n')
    status = Number(wire.received.split(' ')[1])
    if (status === 503) wire.close()
  }
  t.equal(status, 200, 'whoever leaves makes room')
})

t.test('HEAD has no stream', async t => {
  const { connect, clock } = await start(t)
  const before = clock.timers
  const wire = await connect()
  wire.send('HEAD /proxy/events HTTP/1.1\r\nHost: localhost\r\n\r\n')
  const { status, values } = await wire.response(0, 'HEAD')
  t.equal(status, 200)
  t.strictSame(values('content-type'), ['text/event-stream'])
  t.equal(clock.timers, before, 'nobody is told anything')
})

t.test('the end of the app ends all streams at once, and leaves nothing behind', async t => {
  const hung = await rawBackend(t, () => {})
  const { follow, app, proxy, listeners, connect } = await start(t, {}, { clock: undefined, shutdownTimeout: 5_000, backends: [{ id: 'a', url: hung.url }], routes: [{ prefix: '/api' }] })
  t.equal(listeners(), EVENT_NAMES.length, 'it listens once, whoever reads')
  const wires = [await follow(), await follow('/proxy/events?upstream=default')]
  t.equal(listeners(), EVENT_NAMES.length)
  const pending = await connect()
  pending.send('GET /api/x HTTP/1.1\r\nHost: localhost\r\n\r\n')
  await until(() => hung.requests.length === 1)
  const closed = app.close()
  for (const wire of wires) {
    await until(() => wire.ended || wire.closed)
    t.ok(wire.received.endsWith('0\r\n\r\n'), 'it is whole')
  }
  t.equal(proxy.getMetrics().inFlight, 1, 'while a request is still being answered')
  hung.connections[0].send(ok('done'))
  t.equal((await pending.response()).body, 'done')
  pending.close()
  await closed
  t.equal(listeners(), 0)
})

t.test('one that does not read does not hold up the end', async t => {
  const { follow, app, proxy, listeners } = await start(t, { maxBuffer: 50_000_000 }, { clock: undefined })
  const wire = await follow()
  wire.socket.pause()
  const backend = proxy.getBackend('a')
  for (let i = 0; i < 2_000; i++) proxy.state.events.tell('backend:unhealthy', { upstream: 'default', time: 0, backend, cause: 'x'.repeat(8_000), counts: {} })
  await app.close()
  t.equal(listeners(), 0)
})

t.test('HTTP/2 readers hear the same, and go with the app', async t => {
  const { app, port, proxy, listeners } = await start(t, { interval: 0 }, { clock: undefined }, { fastify: { http2: true, forceCloseConnections: undefined } })
  const session = connectHttp2(`http://127.0.0.1:${port}`)
  t.teardown(() => session.destroy())
  const stream = session.request({ ':path': '/proxy/events', ':authority': 'localhost' })
  let content = ''
  stream.setEncoding('utf8').on('data', text => { content += text })
  const [headers] = await once(stream, 'response')
  t.match(headers, { ':status': 200, 'content-type': 'text/event-stream', connection: undefined })
  await until(() => content.startsWith('retry'))
  proxy.addBackend({ id: 'b', url: 'http://127.0.0.1:2' })
  await until(() => read(content).length === 1)
  t.match(read(content), [{ event: 'backend:added', data: { backend: 'b' } }])
  const closed = app.close()
  await once(stream, 'end')
  session.close()
  await closed
  t.equal(listeners(), 0)
})

t.test('a client that goes away is forgotten', async t => {
  const { follow, clock, proxy } = await start(t, { interval: 0 })
  const wire = await follow()
  t.equal(proxy.state.deadlines.size, 1)
  wire.reset()
  await until(() => proxy.state.deadlines.size === 0)
  clock.advance(1_000)
  t.pass('and nothing is told to it')
})

t.test('an app of its own tells of the other one, and each may end first', async t => {
  const gateway = await startGateway(t, { backends: [{ id: 'a', url: 'http://127.0.0.1:1' }] })
  const proxy = gateway.app.proxy as unknown as ProxyManager
  for (const first of ['operators', 'gateway']) {
    const operators = Fastify()
    t.teardown(() => operators.close())
    await operators.register(events, { proxy: gateway.app.proxy, interval: 0 })
    const url = await operators.listen({ port: 0, host: '127.0.0.1' })
    const response = await fetch(`${url}/events`)
    const reader = (response.body as ReadableStream<Uint8Array>).getReader()
    t.match(Buffer.from((await reader.read()).value as Uint8Array).toString(), /^retry/)
    t.equal(listenersOf(proxy), EVENT_NAMES.length)
    if (first === 'operators') await operators.close()
    else await gateway.app.close()
    t.equal((await reader.read()).done, true)
    if (first === 'gateway') {
      const late = await fetch(`${url}/events`, { headers: { connection: 'close' } })
      t.match([late.status, await late.json()], [503, { code: 'FST_ROCKSTAR_CLOSED' }])
    }
    await operators.close()
    t.equal(listenersOf(proxy), 0)
  }
})

t.test('options are checked, and the stream is guarded as all is', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await t.rejects(startGateway(t, { admin: { plugins: ['events'], events: { maxClients: 0 } } }), /options\.admin\.events\.maxClients must be an integer of at least 1, and is 0/)
  const { url, app: open } = await start(t)
  t.equal((await fetch(`${url}/proxy/events`, { headers: { origin: 'https://evil.example' } })).status, 403)
  t.equal((await open.inject({ url: '/proxy/events', headers: { host: 'evil.example' }, remoteAddress: '127.0.0.1' })).statusCode, 403)
})
