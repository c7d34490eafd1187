import t, { type Test } from 'tap'
import type { RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type Gateway, type LogLine } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { handshake, tunnelRig } from '../helpers/tunnel.ts'
import { ok, rawBackend, until, type Wire } from '../helpers/wire.ts'

const LIMIT = 5_000

function linesOf (gateway: Gateway): LogLine[] {
  return gateway.log.filter(({ msg }) => msg === 'exchange finished')
}

/** A gateway whose time stands still, and a backend that holds what it is asked. */
async function start (t: Test, options: RockstarProxyOptions = {}) {
  t.setTimeout(LIMIT)
  const clock = new FakeClock()
  const held: Wire[] = []
  const backend = await rawBackend(t, (_request, wire) => { held.push(wire) })
  const gateway = await startGateway(t, { clock, backends: [{ id: 'a', url: backend.url }], routes: [{ prefix: '/api' }], ...options })
  return { clock, held, backend, gateway, next: async (count: number) => { await until(() => held.length >= count); return held[count - 1] } }
}

t.test('a line tells all of an exchange', async t => {
  const { clock, gateway, next } = await start(t, { accessLog: 'info' })
  const client = await gateway.connect()
  client.send('POST /api/things?token=secret HTTP/1.1\r\nHost: gateway\r\nContent-Length: 5\r\n\r\nhello')
  const backend = await next(1)
  clock.advance(10)
  backend.send('HTTP/1.1 201 Created\r\nContent-Length: 8\r\n\r\nhalf')
  await client.receive('half')
  clock.advance(30)
  backend.send('half')
  await client.response()
  await until(() => linesOf(gateway).length === 1)
  const { time, pid, hostname, ...line } = linesOf(gateway)[0]
  t.strictSame(line, {
    level: 30,
    reqId: 'req-1',
    upstream: 'default',
    route: '/api/*',
    method: 'POST',
    path: '/things',
    backend: 'a',
    statusCode: 201,
    result: 'successful',
    attempts: [{ backend: 'a', result: 'successful', stage: 'done', statusCode: 201, time: 40, hedge: false }],
    bytesReceived: 5,
    bytesSent: 8,
    responseTime: 40,
    times: { queue: 0, connect: 0, send: 0, wait: 10, stream: 30 },
    msg: 'exchange finished'
  }, 'the query is not told: it may be a secret')
})

t.test('times are told by stage, as far as it came', async t => {
  const { clock, gateway, next } = await start(t, { accessLog: 'info', retry: { attempts: 2 }, limits: { maxInFlight: 1, queue: { size: 5 } } })
  const first = await gateway.connect()
  first.send('GET /api/1 HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await next(1)
  const second = await gateway.connect()
  second.send('GET /api/2 HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => gateway.app.proxy.getMetrics().queueLength === 1)
  clock.advance(7);
  (await next(1)).send(ok())
  await first.response();
  (await next(2)).send(ok('', 'Retry-After: 1\r\n', '503 Busy'))
  await until(() => gateway.app.proxy.getMetrics().totalRetries === 1)
  clock.advance(1_000)
  const third = await next(3)
  clock.advance(3)
  third.socket.end('HTTP/1.1 2')
  t.equal((await second.response()).status, 502)
  await until(() => linesOf(gateway).length === 2)
  t.match(linesOf(gateway)[0], { statusCode: 200, times: { queue: 0, wait: 7 } })
  const { times, ...line } = linesOf(gateway)[1]
  t.strictSame(times, { queue: 7, retries: 1_000, connect: 0, send: 0, wait: 3 })
  t.match(line, { statusCode: 502, result: 'failed', error: 'FST_ROCKSTAR_RESET', responseTime: 1_010, bytesReceived: 0, bytesSent: 0, attempts: [{ statusCode: 503, time: 0 }, { stage: 'wait', time: 3 }] })
})

t.test('the time in which a body comes is that of sending it', async t => {
  const { clock, gateway, backend, next } = await start(t, { accessLog: 'info' })
  const client = await gateway.connect()
  client.send('POST /api/x HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n')
  await until(() => backend.connections[0]?.received.includes('abc') === true)
  clock.advance(20)
  client.send('0\r\n\r\n')
  const wire = await next(1)
  clock.advance(5)
  wire.send(ok())
  await client.response()
  await until(() => linesOf(gateway).length === 1)
  t.strictSame(linesOf(gateway)[0].times, { queue: 0, connect: 0, send: 20, wait: 5, stream: 0 })
})

t.test('so it is where an answer does not wait for the end of the body', async t => {
  const { clock, gateway, backend } = await start(t, { accessLog: 'info' })
  const client = await gateway.connect()
  client.send('POST /api/x HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n')
  await until(() => backend.connections[0]?.received.includes('abc') === true)
  clock.advance(30)
  backend.connections[0].send(ok('no', '', '413 Too Large'))
  t.equal((await client.response()).status, 413)
  await until(() => linesOf(gateway).length === 1)
  t.match(linesOf(gateway)[0], { statusCode: 413, times: { connect: 0, send: 30, wait: 0 } })
})

t.test('one for which there is no backend has a line too', async t => {
  const { gateway } = await start(t, { accessLog: 'warn', backends: [] })
  t.equal((await gateway.app.inject('/api/x')).statusCode, 503)
  const [line] = linesOf(gateway)
  t.match(line, { level: 40, statusCode: 503, result: 'failed', error: 'FST_ROCKSTAR_NO_BACKEND', attempts: [], times: { queue: 0 } })
  t.notOk('backend' in line)
})

t.test('one whose client went away counts as 499', async t => {
  const { gateway, next } = await start(t, { accessLog: 'info' })
  const client = await gateway.connect()
  client.send('GET /api/x HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await next(1)
  client.reset()
  await until(() => linesOf(gateway).length === 1)
  t.match(linesOf(gateway)[0], { statusCode: 499, result: 'aborted', error: 'FST_ROCKSTAR_CLIENT_CLOSED' })
})

t.test('an answer that is cut short tells its own status and the reason', async t => {
  const { gateway, next } = await start(t, { accessLog: 'info' })
  const client = await gateway.connect()
  client.send('GET /api/x HTTP/1.1\r\nHost: gateway\r\n\r\n');
  (await next(1)).send('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf')
  await client.receive('half');
  (await next(1)).close()
  await until(() => linesOf(gateway).length === 1)
  t.match(linesOf(gateway)[0], { statusCode: 200, result: 'failed', error: 'FST_ROCKSTAR_RESET', bytesSent: 4 })
})

t.test('a body that is still coming is counted as it came', async t => {
  const { gateway, next } = await start(t, { accessLog: 'info' })
  const client = await gateway.connect()
  client.send('POST /api/x HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n')
  await until(() => gateway.app.proxy.getMetrics().inFlight === 1)
  client.send('4\r\ndefg\r\n0\r\n\r\n');
  (await next(1)).send(ok('answer'))
  await client.response()
  await until(() => linesOf(gateway).length === 1)
  t.match(linesOf(gateway)[0], { bytesReceived: 7, bytesSent: 6 })
})

t.test('a tunnel tells the bytes that went through', async t => {
  const { gateway, open } = await tunnelRig(t, { accessLog: 'info' })
  const { client, server } = await open()
  client.say('to the backend')
  await server.hears('to the backend')
  server.say('to the client, and more')
  await client.hears('to the client, and more')
  client.wire.socket.end()
  server.wire.socket.end()
  await client.wire.receiveAll()
  await until(() => linesOf(gateway).length === 1)
  t.match(linesOf(gateway)[0], { statusCode: 101, result: 'successful', bytesReceived: 14, bytesSent: 23 })
})

t.test('forwardHttp() has its line in the log of the app', async t => {
  const { gateway, next } = await start(t, { accessLog: 'info' })
  const answer = gateway.app.proxy.forwardHttp(new Request('http://any.example/path?query', { method: 'POST', body: 'four' }));
  (await next(1)).send(ok('fine'))
  t.equal(await (await answer).text(), 'fine')
  await until(() => linesOf(gateway).length === 1)
  const [line] = linesOf(gateway)
  t.match(line, { method: 'POST', path: '/path', backend: 'a', bytesReceived: 4, bytesSent: 4 })
  t.notOk('route' in line || 'reqId' in line)
})

t.test('a copy has no line: only what clients asked for is told', async t => {
  const copies = await rawBackend(t, () => ok())
  const { gateway, next } = await start(t, { accessLog: 'info', mirror: { upstream: 'copies' }, upstreams: { copies: { backends: [copies.url] } } })
  const client = await gateway.connect()
  client.send('GET /api/x HTTP/1.1\r\nHost: gateway\r\n\r\n');
  (await next(1)).send(ok())
  await client.response()
  await until(() => gateway.app.proxy.getMetrics().upstreams.copies.successfulRequests === 1 && linesOf(gateway).length === 1)
  t.equal(linesOf(gateway).length, 1)
})

t.test('its level, or none', async t => {
  for (const [accessLog, level] of [[undefined, 20], ['debug', 20], ['info', 30], ['warn', 40], ['error', 50], [{ level: 'info' }, 30], [{}, 20], [false, undefined], ['trace', undefined], [{ level: 'trace' }, undefined]] as const) {
    const { gateway } = await start(t, { accessLog, backends: [(await rawBackend(t, () => ok())).url] })
    t.equal((await gateway.app.inject('/api/x')).statusCode, 200)
    t.equal(linesOf(gateway)[0]?.level, level, JSON.stringify(accessLog))
  }
})

t.test('a sample of those that went well, and all others', async t => {
  const draws = [0.1, 0.9, 0.24, 0.25, 0.3]
  let drawn = 0
  let begun = false
  let status = '200 OK'
  const backend = await rawBackend(t, () => ok('', '', status))
  const { gateway } = await start(t, { accessLog: { level: 'info', sample: 0.25 }, random: () => begun ? draws[drawn++] : 0.5, backends: [backend.url] })
  begun = true
  for (let i = 0; i < 5; i++) await gateway.app.inject(`/api/${i}`)
  t.strictSame(linesOf(gateway).map(({ path }) => path), ['/0', '/2'])
  status = '500 No'
  await gateway.app.inject('/api/bad')
  t.strictSame(linesOf(gateway).map(({ path }) => path), ['/0', '/2', '/bad'])
  t.equal(drawn, 5, 'chance is asked only where it decides')
})

t.test('a logger that knows no levels is spared what mostly nobody reads', async t => {
  for (const [accessLog, lines] of [['debug', 0], ['info', 1]] as const) {
    const told: unknown[] = []
    const tell = (_fields: object, text: string) => { told.push(text) }
    const simple = { level: 'info', silent () {}, fatal () {}, error () {}, warn () {}, info: tell, debug: tell, trace () {}, child () { return this } }
    const backend = await rawBackend(t, () => ok())
    const gateway = await startGateway(t, { accessLog, backends: [backend.url], routes: [{ prefix: '/' }] }, { fastify: { logger: undefined, loggerInstance: simple as never } })
    await gateway.app.inject('/x')
    t.equal(told.filter(text => text === 'exchange finished').length, lines)
  }
})

t.test('what is not a level or a part is refused', async t => {
  for (const [accessLog, message] of [
    ['loud', "options.accessLog must be false, one of 'trace', 'debug', 'info', 'warn', 'error', or an object { level, sample }, and is 'loud'"],
    [true, "options.accessLog must be false, one of 'trace', 'debug', 'info', 'warn', 'error', or an object { level, sample }, and is true"],
    [{ sample: 2 }, 'options.accessLog.sample must be a number of at least 0 and of at most 1, and is 2'],
    [{ level: 'loud' }, "options.accessLog.level must be 'trace', 'debug', 'info', 'warn', 'error', and is 'loud'"]
  ] as const) await t.rejects(startGateway(t, { accessLog: accessLog as never }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message })
})

t.test('an answer that could not be begun is told by the error that takes its place', async t => {
  const backend = await rawBackend(t, ({ startLine }) => startLine.includes('/switch') ? 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n' : ok())
  const { gateway } = await start(t, {
    accessLog: 'info', backends: [backend.url], routes: [{ prefix: '/api' }, { prefix: '/throws', rewriteHeaders: () => { throw Object.assign(new Error('no'), { statusCode: 200, code: 20 }) } }]
  })
  await gateway.app.inject('/throws')
  t.match(linesOf(gateway)[0], { statusCode: 500, result: 'failed', error: 'Error' }, 'whatever the error says of itself')
  const client = await gateway.connect()
  client.send(handshake('/api/switch'))
  t.equal((await client.response()).status, 502)
  await until(() => linesOf(gateway).length === 2)
  t.match(linesOf(gateway)[1], { statusCode: 502, error: 'FST_ROCKSTAR_BAD_RESPONSE' })
})

t.test('the line of a tunnel tells how long it was open', async t => {
  const clock = new FakeClock()
  const { gateway, open } = await tunnelRig(t, { accessLog: 'info', clock })
  const { client, server } = await open()
  clock.advance(500)
  client.wire.close()
  server.wire.close()
  await until(() => linesOf(gateway).length === 1)
  t.match(linesOf(gateway)[0], { responseTime: 0, times: { queue: 0, connect: 0, send: 0, wait: 0, stream: 500 } })
})
