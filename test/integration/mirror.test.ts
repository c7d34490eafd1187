import t, { type Test } from 'tap'
import type { MirrorOptions, RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type GatewaySetup } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { seeded } from '../helpers/random.ts'
import { ok, rawBackend, until, type Message, type Wire } from '../helpers/wire.ts'

/** A test that hangs fails by itself, and lets the others run. */
const LIMIT = 15_000

type Answer = (request: Message, wire: Wire) => string | Buffer | void

interface Given extends GatewaySetup {
  /** What the backend does, and the one that gets copies. */
  live?: Answer
  shadow?: Answer
  mirror?: Partial<MirrorOptions>
  shadowOptions?: NonNullable<RockstarProxyOptions['upstreams']>[string]
}

/** A gateway whose requests are copied to the upstream `shadow`. */
async function start (t: Test, options: RockstarProxyOptions = {}, { live = () => ok('live'), shadow = () => ok('shadow'), mirror, shadowOptions, ...setup }: Given = {}) {
  t.setTimeout(LIMIT)
  const clock = new FakeClock()
  const backend = await rawBackend(t, live)
  const copies = await rawBackend(t, shadow)
  const { upstreams, ...rest } = options
  const gateway = await startGateway(t, {
    clock,
    random: seeded(1),
    backends: [{ id: 'live', url: backend.url }],
    mirror: { upstream: 'shadow', ...mirror },
    upstreams: { shadow: { backends: [{ id: 'shadow', url: copies.url }], ...shadowOptions }, ...upstreams },
    routes: [{ prefix: '/' }],
    ...rest
  }, setup)
  const { proxy } = gateway.app
  return { clock, backend, copies, gateway, proxy, inject: gateway.app.inject.bind(gateway.app), metrics: () => proxy.getMetrics(), shadow: () => proxy.getMetrics().upstreams.shadow }
}

const gone = (wire: Wire) => until(() => wire.closed || wire.ended)
/** What both must have alike: all but who is asked, and how the body is framed. */
const fieldsOf = ({ fields }: Message) => fields.filter(([name]) => !/^(?:host|content-length|transfer-encoding)$/i.test(name))
const chunked = (body: string, end = '0\r\n\r\n') => `${body.length.toString(16)}\r\n${body}\r\n${end}`

/** Lets what has been sent to this process be read in it. */
async function turns (count = 10): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise(resolve => setImmediate(resolve))
}

t.test('a copy is the same request, whatever its method and however its body comes', async t => {
  const { gateway, backend, copies, shadow, metrics } = await start(t, { routes: [{ prefix: '/api', rewritePrefix: '/v1', rewriteRequestHeaders: (_request, headers) => ({ ...headers, 'x-added': 'yes' }) }] })
  const body = 'x'.repeat(20_000)
  const head = (method: string, ...fields: string[]) => [`${method} /api/a%2Fb?c=d HTTP/1.1`, 'Host: g', 'X-One: 1', 'x-one: 2', 'Cookie: a=b', ...fields, '', ''].join('\r\n')
  const requests = [
    head('GET'), head('HEAD'), head('DELETE'), head('OPTIONS'), head('POST', 'Content-Length: 0'),
    head('POST', 'Content-Length: 4') + 'body',
    head('PUT', `Content-Length: ${body.length}`) + body,
    head('PATCH', 'Transfer-Encoding: chunked') + chunked(body),
    head('POST', 'Transfer-Encoding: chunked') + '0\r\n\r\n'
  ]
  for (const [i, request] of requests.entries()) {
    const client = await gateway.connect()
    client.send(request)
    t.equal((await client.response(0, request.split(' ')[0])).status, 200)
    await until(() => copies.requests.length === i + 1 && shadow().inFlight === 0)
    const [sent, copy] = [backend.requests[i], copies.requests[i]]
    t.equal(copy.startLine, sent.startLine)
    t.equal(copy.body, sent.body)
    t.strictSame(fieldsOf(copy), fieldsOf(sent))
    t.strictSame(copy.values('x-added'), ['yes'])
    t.strictSame(copy.values('host'), [`127.0.0.1:${copies.port}`], 'its own host')
  }
  t.match(metrics(), { totalRequests: 9, successfulRequests: 9, mirroredRequests: 9, mirrorsSkipped: 0, backends: { live: { totalRequests: 9 } } })
  t.match(shadow(), { totalRequests: 9, successfulRequests: 9, mirroredRequests: 0, backends: { shadow: { totalRequests: 9 } } }, 'counted apart')
})

t.test('a body that comes in pieces is copied when it is whole', async t => {
  const { gateway, backend, copies } = await start(t)
  const client = await gateway.connect()
  client.send('POST / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n' + chunked('one', ''))
  await until(() => backend.connections[0]?.received.includes('one') === true)
  await turns()
  t.equal(copies.connections.length, 0)
  client.send(chunked('two'))
  t.equal((await client.response()).body, 'live')
  await until(() => copies.requests.length === 1)
  t.equal(copies.requests[0].body, 'onetwo')
})

t.test('a body that is too large is not copied, and counted', async t => {
  const { gateway, backend, copies, metrics } = await start(t, {}, { mirror: { maxBodySize: 1_000 } })
  const send = async (size: number, isChunked: boolean) => {
    const client = await gateway.connect()
    const body = 'x'.repeat(size)
    client.send(`POST / HTTP/1.1\r\nHost: g\r\n${isChunked ? 'Transfer-Encoding: chunked' : `Content-Length: ${size}`}\r\n\r\n${isChunked ? chunked(body) : body}`)
    t.equal((await client.response()).status, 200)
    t.equal(backend.requests.at(-1)?.body.length, size)
  }
  for (const isChunked of [false, true]) await send(1_000, isChunked)
  for (const isChunked of [false, true]) for (const size of [1_001, 60_000, 500_000]) await send(size, isChunked)
  await until(() => copies.requests.length === 2)
  t.match(metrics(), { mirroredRequests: 2, mirrorsSkipped: 6 })
  t.equal(copies.requests.length, 2)
})

t.test('as many of a hundred are copied as it says', async t => {
  for (const [percent, least, most] of [[0, 0, 0], [100, 300, 300], [10, 18, 45]]) {
    const { inject, copies, metrics, shadow } = await start(t, {}, { mirror: { percent } })
    for (let i = 0; i < 300; i++) await inject('/')
    const { mirroredRequests, mirrorsSkipped } = metrics()
    t.ok(mirroredRequests >= least && mirroredRequests <= most, `${percent} %: ${mirroredRequests}`)
    t.equal(mirrorsSkipped, 0, 'those that chance leaves out are not counted')
    await until(() => shadow().inFlight === 0)
    t.equal(copies.requests.length, mirroredRequests)
  }
})

const misbehaving: Record<string, Answer> = {
  hangs: () => {},
  fails: () => ok('', '', '500 Sorry'),
  redirects: () => ok('', 'Location: http://elsewhere/\r\n', '302 Found'),
  'sends interim responses': () => 'HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n' + ok('shadow'),
  resets: (_request, wire) => wire.reset(),
  closes: (_request, wire) => { wire.socket.end() },
  'talks nonsense': () => 'nonsense\r\n\r\n',
  'stops half way': () => 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf',
  'never ends': (_request, wire) => {
    wire.send('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
    const more = () => { if (!wire.socket.destroyed) wire.socket.write(chunked('x'.repeat(50_000), ''), more) }
    more()
  }
}
for (const [name, answer] of Object.entries(misbehaving)) {
  t.test(`a client sees nothing of a mirror that ${name}`, async t => {
    const { gateway, copies, metrics, shadow, clock, proxy } = await start(t, {}, { shadow: answer, shadowOptions: { timeout: { headers: 1_000, idle: 1_000 } } })
    const alone = await startGateway(t, { clock: new FakeClock(), backends: [(await rawBackend(t, () => ok('live'))).url], routes: [{ prefix: '/' }] })
    const received: string[] = []
    for (const { connect } of [gateway, alone]) {
      const client = await connect()
      let at = 0
      for (const request of ['GET /a HTTP/1.1\r\nHost: g\r\n\r\n', 'POST /b HTTP/1.1\r\nHost: g\r\nContent-Length: 4\r\n\r\nbody', `POST /c HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n${chunked('body')}`]) {
        client.send(request)
        at += (await client.response(at)).length
      }
      // A second may begin meanwhile.
      received.push(client.received.replaceAll(/^date: .*\r\n/gim, ''))
    }
    t.equal(received[0], received[1], 'the same bytes')
    await until(() => copies.requests.length === 3)
    clock.advance(2_000)
    await until(() => shadow().inFlight === 0)
    t.match(metrics(), { totalRequests: 3, successfulRequests: 3, failedRequests: 0, abortedRequests: 0, mirroredRequests: 3, timeouts: { wait: 0, stream: 0 }, backends: { live: { failedRequests: 0, abortedRequests: 0 } } })
    t.equal(shadow().totalRequests, 3)
    await until(() => proxy.upstream('shadow').getConnectionPool().stats().active === 0)
    t.equal(gateway.log.filter(({ level }) => level >= 40).length, 0, 'and nobody is warned of it')
  })
}

t.test('a client is answered while the copy still hangs', async t => {
  const { gateway, copies, shadow, clock } = await start(t, {}, { shadow: () => {} })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  t.equal((await client.response()).body, 'live')
  await until(() => copies.requests.length === 1)
  t.equal(shadow().inFlight, 1)
  client.close()
  await turns()
  t.notOk(copies.connections[0].closed || copies.connections[0].ended)
  clock.advance(31_000)
  await until(() => shadow().inFlight === 0)
  t.match(shadow(), { failedRequests: 1, timeouts: { request: 1 } })
})

t.test('a mirror without backends, or that refuses, is nobody\'s affair', async t => {
  const closed = await rawBackend(t, () => {})
  closed.close()
  for (const backends of [[], [closed.url]]) {
    const { inject, metrics, shadow } = await start(t, {}, { shadowOptions: { backends } })
    t.equal((await inject('/')).body, 'live')
    await until(() => shadow().inFlight === 0)
    t.match(metrics(), { successfulRequests: 1, mirroredRequests: 1 })
    t.match(shadow(), { failedRequests: 1 })
  }
})

t.test('an upstream that is not there any more gets no copies', async t => {
  const { inject, metrics, proxy, copies } = await start(t)
  await proxy.removeUpstream('shadow')
  t.equal((await inject('/')).body, 'live')
  t.equal(copies.requests.length, 0)
  t.match(metrics(), { mirroredRequests: 0, mirrorsSkipped: 1 })
})

t.test('a failure of the mirror trips its own circuit, not that of the backend', async t => {
  const { inject, metrics, proxy, shadow } = await start(t, { breaker: { threshold: 1 } }, { shadow: () => ok('', '', '503 Sorry'), shadowOptions: { breaker: { threshold: 1 } } })
  for (let i = 0; i < 3; i++) {
    t.equal((await inject('/')).body, 'live')
    await until(() => shadow().inFlight === 0)
  }
  t.equal(proxy.getCircuitBreaker().getState('live'), 'closed')
  t.equal(proxy.upstream('shadow').getCircuitBreaker().getState('shadow'), 'open')
  t.match(metrics(), { mirroredRequests: 3, successfulRequests: 3, upstreams: { shadow: { failedRequests: 3 } } })
})

t.test('no more copies than allowed are under way at once', async t => {
  const { inject, metrics, copies, shadow } = await start(t, {}, { shadow: () => {}, mirror: { maxInFlight: 2 } })
  for (let i = 0; i < 5; i++) t.equal((await inject('/')).body, 'live')
  await until(() => copies.requests.length === 2)
  t.match(metrics(), { mirroredRequests: 2, mirrorsSkipped: 3 })
  copies.connections[0].send(ok())
  await until(() => shadow().inFlight === 1)
  await inject('/')
  t.match(metrics(), { mirroredRequests: 3, mirrorsSkipped: 3 })
  await until(() => copies.requests.length === 3)
  for (const wire of copies.connections) wire.reset()
  await until(() => shadow().inFlight === 0)
  for (let i = 0; i < 2; i++) await inject('/')
  t.match(metrics(), { mirroredRequests: 5, mirrorsSkipped: 3 }, 'a failure makes room as well')
})

t.test('a client that goes ends its request, not the copy', async t => {
  const { gateway, backend, copies, metrics, shadow } = await start(t, {}, { live: () => {}, shadow: () => {} })
  const client = await gateway.connect()
  client.send('POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 4\r\n\r\nbody')
  await until(() => backend.requests.length === 1 && copies.requests.length === 1)
  client.close()
  await gone(backend.connections[0])
  await until(() => metrics().inFlight === 0)
  t.equal(shadow().inFlight, 1)
  copies.connections[0].send(ok())
  await until(() => shadow().inFlight === 0)
  t.match(metrics(), { abortedRequests: 1 })
  t.match(shadow(), { successfulRequests: 1, abortedRequests: 0 })
})

t.test('a client that goes before its body is whole is not copied', async t => {
  const { gateway, backend, copies, metrics } = await start(t, {}, { live: () => {} })
  const client = await gateway.connect()
  client.send('POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 8\r\n\r\nhalf')
  await until(() => backend.connections[0]?.received.includes('half') === true)
  client.close()
  await until(() => metrics().inFlight === 0)
  await turns()
  t.equal(copies.connections.length, 0)
})

t.test('retries, hedges and what another upstream is asked are not copied again', async t => {
  let bad = 0
  const second = await rawBackend(t, () => ok('second'))
  const { inject, copies, metrics, proxy } = await start(t, { retry: true }, { live: () => ++bad < 100 ? ok('', '', '503 Sorry') : ok('live') })
  proxy.addBackend({ id: 'second', url: second.url })
  for (let i = 0; i < 4; i++) t.equal((await inject('/')).body, 'second')
  t.ok(metrics().totalRetries >= 2)
  await until(() => copies.requests.length === 4)
  t.equal(metrics().mirroredRequests, 4)
  t.ok(metrics().upstreams.shadow.totalRetries === 0)

  const held: Wire[] = []
  const hold: Answer = ({ startLine }, wire) => {
    if (!startLine.includes('/hold')) return ok()
    held.push(wire)
    return undefined
  }
  const more = await rawBackend(t, hold)
  const hedged = await start(t, { hedge: { minDelay: 50, maxExtra: 1 } }, { live: hold, mirror: { percent: 100 } })
  hedged.proxy.addBackend({ id: 'more', url: more.url })
  for (let i = 0; i < 20; i++) await hedged.inject('/')
  await until(() => hedged.copies.requests.length === 20)
  hedged.clock.advance(250)
  const answer = hedged.inject('/hold')
  await until(() => held.length === 1)
  hedged.clock.advance(50)
  await until(() => held.length === 2)
  held[1].send(ok('second'))
  t.equal((await answer).body, 'second')
  await until(() => hedged.shadow().inFlight === 0)
  t.match(hedged.metrics(), { hedgedRequests: 1, mirroredRequests: 21, upstreams: { shadow: { totalRequests: 21, hedgedRequests: 0 } } })

  const other = await rawBackend(t, () => ok('other'))
  const elsewhere = await start(t, {
    upstreams: { other: { backends: [other.url] } },
    routes: [{ prefix: '/', mirror: { upstream: 'shadow' }, fallback: { upstream: 'other', on: [503] } }]
  }, { live: () => ok('', '', '503 Sorry') })
  t.equal((await elsewhere.inject('/')).body, 'other')
  await until(() => elsewhere.shadow().inFlight === 0)
  await turns()
  t.equal(elsewhere.copies.requests.length, 1)
})

t.test('a copy is not tried again, even where its upstream would', async t => {
  const { inject, copies, shadow } = await start(t, {}, { shadow: () => ok('', '', '503 Sorry'), shadowOptions: { retry: { backoff: { base: 0 } }, fallback: () => { throw new Error('no reply') } } })
  await inject('/')
  await until(() => shadow().failedRequests === 1)
  t.equal(copies.requests.length, 1)
  t.match(shadow(), { totalRetries: 0, fallbacksServed: 0 })
})

t.test('what mirrors itself, or in a circle, does not loop', async t => {
  const { inject, metrics, copies, backend } = await start(t, {
    mirror: { upstream: 'default' },
    upstreams: { one: {}, two: {} },
    routes: [{ prefix: '/' }, { prefix: '/one', upstream: 'one' }]
  })
  await inject('/')
  await until(() => backend.requests.length === 2)
  t.match(metrics(), { totalRequests: 2, mirroredRequests: 1 }, 'once, and the copy is not copied')
  t.equal(copies.requests.length, 0)

  const urls = await Promise.all([1, 2].map(() => rawBackend(t, () => ok())))
  const circle = await startGateway(t, {
    upstreams: { one: { backends: [urls[0].url], mirror: { upstream: 'two' } }, two: { backends: [urls[1].url], mirror: { upstream: 'one' } } },
    routes: [{ prefix: '/one', upstream: 'one' }, { prefix: '/two', upstream: 'two' }]
  })
  for (const path of ['/one', '/two']) await circle.app.inject(path)
  await until(() => urls.every(({ requests }) => requests.length === 2))
  await turns()
  t.strictSame(urls.map(({ requests }) => requests.length), [2, 2])
})

t.test('a mirror that is the gateway itself does not loop', async t => {
  const { gateway, proxy, metrics, shadow, backend } = await start(t)
  await proxy.upstream('shadow').removeBackend('shadow')
  proxy.upstream('shadow').addBackend({ id: 'self', url: gateway.url })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  t.equal((await client.response()).body, 'live')
  await until(() => shadow().totalRequests === 1 && shadow().inFlight === 0)
  await turns()
  t.equal(backend.requests.length, 1)
  t.match(metrics(), { totalRequests: 1, mirroredRequests: 1, upstreams: { shadow: { totalRequests: 1 } } })
})

t.test('a route or a call may have it otherwise', async t => {
  const { inject, copies, shadow } = await start(t, {
    mirror: false,
    routes: [{ prefix: '/route', mirror: { upstream: 'shadow' } }, { prefix: '/not' }]
  }, {
    setup: app => {
      app.get('/call', (request, reply) => app.proxy.forward(request, reply, { mirror: { upstream: 'shadow' } }))
      app.get('/own', async request => (await app.proxy.forward(request, undefined, { mirror: { upstream: 'shadow' } })).text())
      app.get('/plain', (request, reply) => app.proxy.forward(request, reply))
    }
  })
  for (const path of ['/route', '/not', '/call', '/own', '/plain']) t.equal((await inject(path)).body, 'live')
  await until(() => shadow().totalRequests === 3 && shadow().inFlight === 0)
  t.strictSame(copies.requests.map(({ startLine }) => startLine.split(' ')[1]).sort(), ['/', '/call', '/own'])

  const off = await start(t, { routes: [{ prefix: '/', mirror: false }] })
  t.equal((await off.inject('/')).body, 'live')
  t.equal(off.metrics().mirroredRequests, 0)
})

t.test('a request that reaches no backend is not copied', async t => {
  const { inject, metrics, copies } = await start(t, { backends: [] })
  t.equal((await inject('/')).statusCode, 503)
  await turns()
  t.match(metrics(), { mirroredRequests: 0, mirrorsSkipped: 0 })
  t.equal(copies.connections.length, 0)
})

t.test('the end of the app is not held up by copies', async t => {
  const { gateway, inject, copies, shadow } = await start(t, {}, { shadow: () => {} })
  await inject('/')
  await until(() => copies.requests.length === 1)
  await gateway.app.close()
  await gone(copies.connections[0])
  t.match(shadow(), { inFlight: 0, abortedRequests: 1 })
})
