import { connect as connectHttp2 } from 'node:http2'
import { once } from 'node:events'
import t, { type Test } from 'tap'
import type { RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type GatewaySetup } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { rawBackend, until, type Wire } from '../helpers/wire.ts'

/** A test that hangs fails by itself, and lets the others run. */
const LIMIT = 10_000
const HOUR = 3_600_000

const HEAD = 'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n'
const passOn = (_request: unknown, _reply: unknown, payload: unknown, done: (error: null, payload: unknown) => void) => done(null, payload)
/** The two ways that an answer goes out by. */
const WAYS = ['raw', 'hooked']
const chunk = (text: string) => `${text.length.toString(16)}\r\n${text}\r\n`

async function start (t: Test, options: RockstarProxyOptions = {}, setup: GatewaySetup = {}) {
  const clock = new FakeClock()
  const carriers: Wire[] = []
  const backend = await rawBackend(t, (request, wire) => {
    carriers.push(wire)
    return request.startLine.includes('/silent') ? undefined : HEAD
  })
  const gateway = await startGateway(t, { backends: [{ id: 'a', url: backend.url }], routes: [{ prefix: '/raw' }, { prefix: '/hooked', onSend: passOn as never }], clock, ...options }, setup)
  let events = 0
  /** A client that listens to events, and one event sent to it, which arrives at once. */
  const listen = async (path: string) => {
    const client = await gateway.connect()
    const known = carriers.length
    client.send(`GET ${path} HTTP/1.1\r\nHost: g\r\nAccept: text/event-stream\r\n\r\n`)
    await client.receive('text/event-stream')
    const carrier = carriers[known]
    const tell = async () => {
      const event = `data: ${++events};\n\n`
      carrier.send(chunk(event))
      await client.receive(event)
    }
    return { client, carrier, tell }
  }
  return { clock, gateway, backend, carriers, listen, proxy: gateway.app.proxy }
}

for (const way of WAYS) {
  t.test(`${way}: events arrive one by one, for days, whatever the other timeouts say`, { timeout: LIMIT }, async t => {
    const { clock, listen, proxy } = await start(t, { retry: { perTryTimeout: 1_000 }, timeout: { request: 2_000, headers: 1_500, connect: 500, tunnel: 1_000 }, limits: { maxInFlight: 2, queue: { timeout: 100 } } })
    const { client, carrier, tell } = await listen(`/${way}/events`)
    await tell()
    for (let i = 0; i < 100; i++) {
      // A heartbeat within timeout.idle, which is a minute.
      for (let j = 0; j < 59; j++) clock.advance(1_000)
      await tell()
    }
    t.notOk(client.ended)
    t.match(proxy.getMetrics(), { inFlight: 1, failedRequests: 0, timeouts: { request: 0, wait: 0, stream: 0 } })
    carrier.send('0\r\n\r\n')
    await client.receive(/\r\n0\r\n\r\n$/)
    await until(() => proxy.getMetrics().inFlight === 0)
    t.match(proxy.getMetrics(), { successfulRequests: 1, failedRequests: 0 })
  })

  t.test(`${way}: without a heartbeat, timeout.idle ends it, and never as if it were whole`, { timeout: LIMIT }, async t => {
    const { clock, listen, proxy, carriers } = await start(t)
    const { client, tell } = await listen(`/${way}/events`)
    for (let i = 0; i < 3; i++) {
      clock.advance(59_000)
      await tell()
    }
    clock.advance(59_000)
    await new Promise(resolve => setImmediate(resolve))
    t.notOk(client.ended)
    clock.advance(1_500)
    await until(() => client.ended || client.closed)
    t.notMatch(client.received, /\r\n0\r\n/)
    await until(() => carriers[0].closed || carriers[0].ended)
    t.match(proxy.getMetrics(), { inFlight: 0, failedRequests: 1, timeouts: { stream: 1 } })
  })

  t.test(`${way}: a comment is a heartbeat as well`, { timeout: LIMIT }, async t => {
    const { clock, listen, proxy } = await start(t, { timeout: { idle: 5_000 } })
    const { client, carrier } = await listen(`/${way}/events`)
    for (let i = 1; i <= 20; i++) {
      clock.advance(4_900)
      carrier.send(chunk(':\n'))
      await until(() => client.received.split(':\n').length - 1 === i)
    }
    t.equal(proxy.getMetrics().inFlight, 1)
  })
}

t.test('timeout.idle: 0 lets a stream be silent for ever: for an upstream, a route or a call', { timeout: LIMIT }, async t => {
  const { clock, listen, proxy } = await start(t, {
    upstreams: { quiet: { timeout: { idle: 0 } } },
    routes: [{ prefix: '/raw' }, { prefix: '/upstream', upstream: 'quiet' }, { prefix: '/route', timeout: { idle: 0 } }]
  }, {
    setup: app => { app.get('/call', (request, reply) => { request.server.proxy.forward(request, reply, { timeout: { idle: 0 } }) }) }
  })
  proxy.upstream('quiet').addBackend(proxy.getBackend('a').url.href)
  const plain = await listen('/raw/events')
  const streams = [await listen('/upstream/events'), await listen('/route/events'), await listen('/call')]
  for (let i = 0; i < 24 * 60; i++) clock.advance(HOUR / 60)
  await until(() => plain.client.ended || plain.client.closed)
  for (const { client, tell } of streams) {
    t.notOk(client.ended)
    await tell()
  }
})

t.test('a longer idle time for a route alone', { timeout: LIMIT }, async t => {
  const { clock, listen } = await start(t, { timeout: { idle: 1_000 }, routes: [{ prefix: '/raw' }, { prefix: '/events', timeout: { idle: 10_000 } }] })
  const [short, long] = [await listen('/raw/x'), await listen('/events/x')]
  for (let i = 0; i < 9; i++) clock.advance(1_000)
  await until(() => short.client.ended || short.client.closed)
  await long.tell()
  t.notOk(long.client.ended)
})

t.test('until it begins, timeout.request holds for a stream too', { timeout: LIMIT }, async t => {
  const { clock, gateway, carriers } = await start(t, { timeout: { request: 5_000, headers: 0, idle: 0 } })
  const client = await gateway.connect()
  client.send('GET /raw/silent HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => carriers.length === 1)
  clock.advance(5_600)
  t.equal((await client.response()).status, 504)
})

t.test('a long upload never hits a total timeout', { timeout: LIMIT }, async t => {
  const clock = new FakeClock()
  const backend = await rawBackend(t, ({ body }) => `HTTP/1.1 200 OK\r\nContent-Length: ${String(body.length).length}\r\n\r\n${body.length}`)
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }], clock, timeout: { request: 2_000 } })
  const client = await gateway.connect()
  client.send('POST / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n')
  for (let i = 1; i <= 50; i++) {
    client.send(chunk('part'))
    await until(() => (backend.connections[0]?.received.split('part').length ?? 1) - 1 === i)
    clock.advance(50_000)
  }
  client.send('0\r\n\r\n')
  t.match(await client.response(), { status: 200, body: '200' })
})

t.test('a client that goes ends its stream at the backend at once', { timeout: LIMIT }, async t => {
  for (const way of WAYS) {
    const { listen, proxy } = await start(t, { timeout: { idle: 0 } })
    const { client, carrier, tell } = await listen(`/${way}/events`)
    await tell()
    client.close()
    await until(() => carrier.closed || carrier.ended)
    await until(() => proxy.getMetrics().inFlight === 0)
    t.match(proxy.getMetrics(), { abortedRequests: 1, failedRequests: 0 })
  }
})

t.test('a backend that breaks off is seen as that by the client', { timeout: LIMIT }, async t => {
  for (const way of WAYS) {
    const { listen, proxy } = await start(t)
    const { client, carrier, tell } = await listen(`/${way}/events`)
    await tell()
    carrier.reset()
    await until(() => client.ended || client.closed)
    t.notMatch(client.received, /\r\n0\r\n/)
    await until(() => proxy.getMetrics().inFlight === 0)
  }
})

t.test('over an HTTP/2 front', { timeout: LIMIT }, async t => {
  const { clock, gateway, carriers } = await start(t, {}, { fastify: { http2: true } })
  const session = connectHttp2(gateway.url)
  t.teardown(() => session.destroy())
  const stream = session.request({ ':path': '/raw/events' })
  let received = ''
  stream.setEncoding('utf8').on('data', text => { received += text })
  stream.on('error', () => {})
  await once(stream, 'response')
  for (let i = 0; i < 20; i++) {
    for (let j = 0; j < 50; j++) clock.advance(1_000)
    carriers[0].send(chunk(`data: ${i};\n\n`))
    await until(() => received.endsWith(`data: ${i};\n\n`))
  }
  clock.advance(61_000)
  await until(() => stream.closed)
  t.not(stream.rstCode, 0)
})
