import { createHash } from 'node:crypto'
import { PassThrough } from 'node:stream'
import t, { type Test } from 'tap'
import type { ProxyManager } from '../../lib/proxy-manager.ts'
import type { RetryOptions, RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type Gateway, type GatewaySetup } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { freePort } from '../helpers/ports.ts'
import { seeded } from '../helpers/random.ts'
import { ok, rawBackend, until, type Message, type RawBackend, type Wire } from '../helpers/wire.ts'

/** What a backend does with a whole request. */
type Fate = string | ((wire: Wire, request: Message) => string | void)

const LIMIT = 6_000
const RESETS: Fate = wire => wire.reset()
const SORRY = ok('sorry', '', '503 Sorry')
const REFUSED = 'refused'
const DEFAULT_LIMIT = 65_536

/** A gateway in front of backends that do as they are told with what has come whole, the last of which they go on with. */
async function start (t: Test, fates: Record<string, Fate[] | typeof REFUSED>, retry: RetryOptions | boolean = true, options: RockstarProxyOptions = {}, setup: GatewaySetup = {}) {
  t.setTimeout(LIMIT)
  const clock = new FakeClock()
  const backends: Record<string, RawBackend> = {}
  const listed: { id: string, url: string }[] = []
  for (const [id, list] of Object.entries(fates)) {
    if (list === REFUSED) {
      listed.push({ id, url: `http://127.0.0.1:${await freePort()}` })
      continue
    }
    backends[id] = await rawBackend(t, (request, wire) => {
      const fate = (list.length > 1 ? list.shift() : list[0]) ?? ok(id)
      return typeof fate === 'string' ? fate : fate(wire, request)
    })
    listed.push({ id, url: backends[id].url })
  }
  const gateway = await startGateway(t, { clock, random: () => 0.5, backends: listed, retry, routes: [{ prefix: '/' }], ...options }, setup)
  return { clock, backends, gateway, proxy: gateway.app.proxy, metrics: () => gateway.app.proxy.getMetrics(), client: await gateway.connect() }
}

async function turns (count = 10): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise(resolve => setImmediate(resolve))
}

async function noneUnderWay (t: Test, { app }: Gateway): Promise<void> {
  const { state } = app.proxy as ProxyManager
  await until(() => app.proxy.getMetrics().inFlight === 0 && app.proxy.getConnectionPool().stats().active === 0 && state.deadlines.size === 0)
  for (const counts of [app.proxy.getMetrics(), ...Object.values(app.proxy.getMetrics().backends)]) {
    t.equal(counts.totalRequests, counts.successfulRequests + counts.failedRequests + counts.abortedRequests)
  }
  t.equal(state.budget.waiting, 0)
}

const chunked = (...parts: string[]) => parts.map(part => `${part.length.toString(16)}\r\n${part}\r\n`).join('')
const digest = (text: string) => createHash('sha1').update(text, 'latin1').digest('hex')

/** Bytes that are all different from place to place. */
function content (length: number, seed = 1): string {
  const random = seeded(seed)
  return Array.from({ length }, () => String.fromCharCode(97 + Math.floor(random() * 26))).join('')
}

/** Ways in which a whole body comes. */
function framings (body: string): [string, string][] {
  const third = Math.ceil(body.length / 3)
  const parts = [body.slice(0, third), body.slice(third, 2 * third), body.slice(2 * third)].filter(part => part !== '')
  return [
    ['with its length', `Content-Length: ${body.length}\r\n\r\n${body}`],
    ['in chunks', `Transfer-Encoding: chunked\r\n\r\n${chunked(...parts)}0\r\n\r\n`]
  ]
}

t.test('a body is sent again whole, byte for byte, however it has come', async t => {
  for (const size of [1, 1_000, DEFAULT_LIMIT]) {
    const body = content(size)
    for (const [name, framing] of framings(body)) {
      for (const fate of [RESETS, SORRY, REFUSED] as const) {
        const { backends, client, gateway } = await start(t, { a: fate === REFUSED ? REFUSED : [fate], b: [fate === REFUSED ? SORRY : fate], c: [] })
        client.send(`PUT / HTTP/1.1\r\nHost: g\r\n${framing}`)
        t.equal((await client.response()).body, 'c', `${size} bytes ${name}`)
        for (const { requests } of Object.values(backends)) {
          t.equal(requests.length, 1)
          t.equal(digest(requests[0].body), digest(body))
        }
        await noneUnderWay(t, gateway)
      }
    }
  }
})

t.test('an empty body is one too', async t => {
  for (const framing of ['Content-Length: 0\r\n\r\n', 'Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n']) {
    const { backends, client, gateway } = await start(t, { a: [SORRY], b: [] })
    client.send(`PUT / HTTP/1.1\r\nHost: g\r\n${framing}`)
    t.equal((await client.response()).body, 'b')
    t.equal(backends.b.requests[0].body, '')
    await noneUnderWay(t, gateway)
  }
})

t.test('a body that is larger than what is kept is sent once, and the failure goes out', async t => {
  const body = content(DEFAULT_LIMIT + 1)
  for (const [name, framing] of framings(body)) {
    for (const [fate, status] of [[RESETS, 502], [SORRY, 503]] as const) {
      const { backends, client, gateway, metrics } = await start(t, { a: [fate], b: [] })
      client.send(`PUT / HTTP/1.1\r\nHost: g\r\n${framing}`)
      t.equal((await client.response()).status, status, name)
      t.equal(backends.a.requests.length, 1)
      t.equal(digest(backends.a.requests[0].body), digest(body), 'and whole')
      t.equal(backends.b.requests.length, 0)
      t.match(metrics(), { totalRetries: 0, retriesDenied: 0 })
      await noneUnderWay(t, gateway)
    }
  }
})

t.test('as long as none of it was read a large one may go elsewhere', async t => {
  const body = content(1_000_000)
  for (const method of ['PUT', 'POST']) {
    for (const [name, framing] of framings(body)) {
      const { backends, client, gateway } = await start(t, { a: REFUSED, b: REFUSED, c: [] })
      client.send(`${method} / HTTP/1.1\r\nHost: g\r\n${framing}`)
      t.equal((await client.response()).body, 'c', `${method} ${name}`)
      t.equal(digest(backends.c.requests[0].body), digest(body))
      await noneUnderWay(t, gateway)
    }
  }
})

t.test('maxBodySize says how much is kept: per upstream, route and call', async t => {
  const wide = content(100_000)
  const narrow = content(11)
  const places: [string, (retry: RetryOptions) => [RetryOptions | boolean, RockstarProxyOptions, GatewaySetup]][] = [
    ['upstream', retry => [retry, {}, {}]],
    ['route', retry => [true, { routes: [{ prefix: '/', retry }] }, {}]],
    ['call', retry => [true, { routes: [] }, {
      setup: app => {
        app.addContentTypeParser('*', (_request, _payload, done) => done(null))
        app.put('/*', (request, reply) => app.proxy.forward(request, reply, { retry }))
      }
    }]]
  ]
  for (const [place, given] of places) {
    for (const [body, maxBodySize, status] of [[wide, 100_000, 200], [wide, 99_999, 503], [narrow, 11, 200], [narrow, 10, 503], [narrow, 0, 503]] as const) {
      for (const [name, framing] of framings(body)) {
        const [retry, options, setup] = given({ maxBodySize })
        const { backends, client, gateway } = await start(t, { a: [SORRY], b: [] }, retry, options, setup)
        client.send(`PUT / HTTP/1.1\r\nHost: g\r\nContent-Type: application/x\r\n${framing}`)
        t.equal((await client.response()).status, status, `${place}: ${body.length} bytes ${name}, ${maxBodySize} kept`)
        if (status === 200) t.equal(digest(backends.b.requests[0].body), digest(body))
        await noneUnderWay(t, gateway)
      }
    }
  }
})

t.test('where there are no retries nothing is kept, and a body passes as before', async t => {
  const body = content(300_000)
  const { backends, client, gateway } = await start(t, { a: [] }, false)
  client.send(`PUT / HTTP/1.1\r\nHost: g\r\nContent-Length: ${body.length}\r\n\r\n${body}`)
  t.equal((await client.response()).status, 200)
  t.equal(digest(backends.a.requests[0].body), digest(body))
  await noneUnderWay(t, gateway)
})

/** A backend that resets each connection when so much of a request has come. */
async function resetsAt (t: Test, bytes: number): Promise<RawBackend> {
  const backend = await rawBackend(t, () => ok('whole'))
  backend.server.prependListener('connection', () => {
    setImmediate(() => {
      const wire = backend.connections.at(-1) as Wire
      wire.socket.on('data', () => { if (wire.received.length >= bytes) wire.reset() })
    })
  })
  return backend
}

t.test('a body that is still coming when its backend fails goes on to another: all that has come, and what still comes', async t => {
  for (const framing of ['length', 'chunks']) {
    const first = content(1_000, 1)
    const rest = content(2_000, 2)
    const { backends, client, gateway, metrics } = await start(t, { a: [], b: [] })
    client.send(`PUT / HTTP/1.1\r\nHost: g\r\n${framing === 'length' ? `Content-Length: 3000\r\n\r\n${first}` : `Transfer-Encoding: chunked\r\n\r\n${chunked(first)}`}`)
    await until(() => backends.a.connections[0]?.received.includes(first) === true)
    backends.a.connections[0].reset()
    await until(() => backends.b.connections[0]?.received.includes(first) === true)
    t.equal(metrics().totalRetries, 1)
    client.send(framing === 'length' ? rest : `${chunked(rest)}0\r\n\r\n`)
    t.equal((await client.response()).body, 'b')
    t.equal(digest(backends.b.requests[0].body), digest(first + rest))
    t.equal(backends.a.requests.length, 0)
    await noneUnderWay(t, gateway)
  }
})

t.test('the same when the backend answers before it has all', async t => {
  const { backends, client, gateway } = await start(t, { a: [], b: [] })
  client.send('PUT / HTTP/1.1\r\nHost: g\r\nContent-Length: 8\r\n\r\nhalf')
  await until(() => backends.a.connections[0]?.received.endsWith('half') === true)
  backends.a.connections[0].send(SORRY)
  await until(() => backends.b.connections[0]?.received.endsWith('half') === true)
  client.send('rest')
  t.equal((await client.response()).body, 'b')
  t.equal(backends.b.requests[0].body, 'halfrest')
  await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
})

t.test('one after the other may fail in the middle of it', async t => {
  const parts = [content(500, 1), content(500, 2), content(500, 3)]
  const { backends, client, gateway } = await start(t, { a: [], b: [], c: [] })
  client.send('PUT / HTTP/1.1\r\nHost: g\r\nContent-Length: 1500\r\n\r\n')
  for (const [i, id] of ['a', 'b'].entries()) {
    client.send(parts[i])
    await until(() => backends[id].connections[0]?.received.endsWith(parts[i]) === true)
    backends[id].connections[0].reset()
  }
  await until(() => backends.c.connections[0]?.received.endsWith(parts[1]) === true)
  client.send(parts[2])
  t.equal((await client.response()).body, 'c')
  t.equal(digest(backends.c.requests[0].body), digest(parts.join('')))
  await noneUnderWay(t, gateway)
})

t.test('a client that sends on while its backend fails loses nothing', async t => {
  for (let seed = 1; seed <= 12; seed++) {
    const random = seeded(seed)
    const body = content(40_000, seed)
    const bad = await resetsAt(t, 1_000 + Math.floor(random() * 30_000))
    const good = await rawBackend(t, () => ok('good'))
    const gateway = await startGateway(t, { clock: new FakeClock(), backends: [bad.url, good.url], retry: true, routes: [{ prefix: '/' }] })
    const client = await gateway.connect()
    client.send(`PUT / HTTP/1.1\r\nHost: g\r\nContent-Length: ${body.length}\r\n\r\n`)
    for (let at = 0; at < body.length;) {
      const length = 200 + Math.floor(random() * 4_000)
      client.send(body.slice(at, at + length))
      at += length
      if (random() < 0.7) await turns(1 + Math.floor(random() * 3))
    }
    t.equal((await client.response()).body, 'good', `seed ${seed}`)
    t.equal(digest(good.requests[0].body), digest(body))
    await noneUnderWay(t, gateway)
    await gateway.app.close()
  }
})

t.test('once more has come than is kept there is no other attempt, whatever may still come', async t => {
  const { backends, client, gateway, metrics } = await start(t, { a: [], b: [] }, { maxBodySize: 1_000 })
  client.send(`PUT / HTTP/1.1\r\nHost: g\r\nContent-Length: 5000\r\n\r\n${'x'.repeat(1_001)}`)
  await until(() => backends.a.connections[0]?.received.endsWith('x'.repeat(1_001)) === true)
  backends.a.connections[0].reset()
  t.equal((await client.response()).status, 502)
  t.equal(metrics().totalRetries, 0)
  t.equal(backends.b.connections.length, 0)
  client.send('x'.repeat(3_999))
  await noneUnderWay(t, gateway)
})

t.test('a body that grows too large only on the second attempt is no reason for that to fail', async t => {
  const body = content(200_000)
  const { backends, client, gateway } = await start(t, { a: [], b: [] }, { maxBodySize: 1_000 })
  client.send(`PUT / HTTP/1.1\r\nHost: g\r\nContent-Length: ${body.length}\r\n\r\n${body.slice(0, 900)}`)
  await until(() => backends.a.connections[0]?.received.endsWith(body.slice(0, 900)) === true)
  backends.a.connections[0].reset()
  await until(() => backends.b.connections[0]?.received.endsWith(body.slice(0, 900)) === true)
  client.send(body.slice(900))
  t.equal((await client.response()).body, 'b')
  t.equal(digest(backends.b.requests[0].body), digest(body))
  await noneUnderWay(t, gateway)
})

t.test('a client that goes away in the middle of its body ends it all, whatever attempt it is', async t => {
  const { backends, client, gateway, metrics } = await start(t, { a: [], b: [] })
  client.send('PUT / HTTP/1.1\r\nHost: g\r\nContent-Length: 8\r\n\r\nhalf')
  await until(() => backends.a.connections[0]?.received.endsWith('half') === true)
  backends.a.connections[0].reset()
  await until(() => backends.b.connections[0]?.received.endsWith('half') === true)
  client.reset()
  await until(() => backends.b.connections[0].closed || backends.b.connections[0].ended)
  await noneUnderWay(t, gateway)
  t.match(metrics(), { abortedRequests: 1, backends: { b: { abortedRequests: 1, failedRequests: 0 } } }, 'and blames no backend for that')
})

t.test('while a retry waits the client is not read, and its body is whole in the end', async t => {
  const body = content(30_000)
  const { backends, client, clock, gateway, metrics } = await start(t, { a: [] })
  client.send(`PUT / HTTP/1.1\r\nHost: g\r\nContent-Length: ${body.length}\r\n\r\n${body.slice(0, 10_000)}`)
  await until(() => backends.a.connections[0]?.received.endsWith(body.slice(9_000, 10_000)) === true)
  backends.a.connections[0].reset()
  await until(() => metrics().totalRetries === 1)
  client.send(body.slice(10_000))
  await turns()
  t.equal(backends.a.connections.length, 1)
  clock.advance(50)
  t.equal((await client.response()).body, 'a')
  t.equal(digest(backends.a.requests[0].body), digest(body))
  await noneUnderWay(t, gateway)
})

t.test('bodies of many clients at once do not mix', async t => {
  const { backends, gateway } = await start(t, { a: [SORRY], b: [] }, { budget: { percent: 1_000 } })
  const bodies = Array.from({ length: 30 }, (_, i) => content(5_000 + i, i))
  const clients = await Promise.all(bodies.map(() => gateway.connect()))
  for (const [i, client] of clients.entries()) client.send(`PUT /${i} HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n${chunked(bodies[i].slice(0, 2_000))}`)
  await turns()
  for (const [i, client] of clients.entries()) client.send(`${chunked(bodies[i].slice(2_000))}0\r\n\r\n`)
  for (const client of clients) t.equal((await client.response()).body, 'b')
  t.equal(backends.b.requests.length, 30)
  for (const { startLine, body } of backends.b.requests) t.equal(digest(body), digest(bodies[Number(startLine.slice(5).split(' ')[0])]))
  await noneUnderWay(t, gateway)
})

t.test('a body that Fastify has parsed is sent again too', async t => {
  const { backends, client, gateway } = await start(t, { a: [SORRY], b: [] }, true, { routes: [] }, {
    setup: app => app.put('/*', (request, reply) => app.proxy.forward(request, reply))
  })
  client.send('PUT / HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{"a": 1}')
  t.equal((await client.response()).body, 'b')
  t.strictSame(backends.b.requests.map(({ body }) => JSON.parse(body)), [{ a: 1 }])
  await noneUnderWay(t, gateway)
})

t.test('so is one that a hook has put through a stream of its own', async t => {
  const { backends, client, gateway } = await start(t, { a: [SORRY], b: [] }, true, {}, {
    before: app => app.addHook('preParsing', async (_request, _reply, payload) => payload.pipe(new PassThrough({
      transform: (chunk, _encoding, done) => done(null, String(chunk).toUpperCase())
    })))
  })
  client.send('PUT / HTTP/1.1\r\nHost: g\r\nContent-Length: 4\r\n\r\nbody')
  t.equal((await client.response()).body, 'b')
  t.equal(backends.b.requests[0].body, 'BODY')
  await noneUnderWay(t, gateway)
})

t.test('forwardHttp\'s too, a stream or not', async t => {
  const body = content(20_000)
  for (const streams of [false, true]) {
    const { backends, gateway, proxy } = await start(t, { a: [SORRY], b: [RESETS], c: [] })
    const given = streams ? new Blob([body]).stream() : body
    const answer = await proxy.forwardHttp(new Request('http://any/', { method: 'PUT', body: given, duplex: 'half' } as RequestInit))
    t.equal(await answer.text(), 'c')
    t.equal(digest(backends.c.requests[0].body), digest(body))
    await noneUnderWay(t, gateway)
  }
})

t.test('a connection that had died idle is noticed also for a body that is kept, without a wait', async t => {
  const { backends, client, gateway, metrics } = await start(t, { a: [ok('first'), RESETS, ok('again')] })
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  const { length } = await client.response()
  await until(() => gateway.app.proxy.getConnectionPool().stats().idle === 1)
  client.send('PUT / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n')
  t.equal((await client.response(length)).body, 'again')
  t.strictSame(backends.a.requests.map(({ body }) => body), ['', 'body', 'body'])
  t.match(metrics(), { totalRetries: 1, backends: { a: { failedRequests: 0 } } })
  await noneUnderWay(t, gateway)
})
