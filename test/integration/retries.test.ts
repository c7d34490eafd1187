import type { FastifyReply, FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import type { ProxyManager } from '../../lib/proxy-manager.ts'
import type { AttemptReport, RetryOptions, RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type Gateway, type GatewaySetup } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { freePort } from '../helpers/ports.ts'
import { seeded } from '../helpers/random.ts'
import { ok, rawBackend, until, type Message, type RawBackend, type Wire } from '../helpers/wire.ts'

/** What a backend does with a request: bytes that it answers, or anything else. */
type Fate = string | ((wire: Wire, request: Message) => string | void)

/** The most that a deadline may be met late. */
const PACE = 250
/** A test that hangs fails by itself, and lets the others run. */
const LIMIT = 4_000

const RESETS: Fate = wire => wire.reset()
const CLOSES: Fate = wire => { wire.socket.end() }
const HALF_A_HEAD: Fate = wire => { wire.socket.end('HTTP/1.1 2') }
const NOISE: Fate = 'this is no HTTP\r\n\r\n'
const HANGS: Fate = () => {}
const sorry = (status: number, headers = '', body = 'sorry') => ok(body, headers, `${status} Sorry`)
/** Nobody listens. */
const REFUSED = 'refused'

/** A gateway in front of backends that do as they are told, the last of which they go on with; those told nothing answer with their names. */
async function start (t: Test, fates: Record<string, Fate[] | typeof REFUSED>, retry: RetryOptions | boolean = true, options: RockstarProxyOptions = {}, setup: GatewaySetup = {}) {
  t.setTimeout(LIMIT)
  const clock = new FakeClock()
  const asked: string[] = []
  const backends: Record<string, RawBackend> = {}
  const listed: { id: string, url: string }[] = []
  for (const [id, list] of Object.entries(fates)) {
    if (list === REFUSED) {
      listed.push({ id, url: `http://127.0.0.1:${await freePort()}` })
      continue
    }
    backends[id] = await rawBackend(t, (request, wire) => {
      asked.push(id)
      const fate = (list.length > 1 ? list.shift() : list[0]) ?? ok(id)
      return typeof fate === 'string' ? fate : fate(wire, request)
    })
    listed.push({ id, url: backends[id].url })
  }
  // Half of the bound is what is waited.
  const gateway = await startGateway(t, { clock, random: () => 0.5, backends: listed, retry, routes: [{ prefix: '/' }], ...options }, setup)
  const { proxy } = gateway.app
  const metrics = () => proxy.getMetrics()
  return {
    clock,
    asked,
    backends,
    gateway,
    proxy,
    metrics,
    /** Sends a request, and resolves to the client. */
    send: async (head = 'GET / HTTP/1.1', body = '') => (await gateway.connect()).send(`${head}\r\nHost: gateway\r\n${body === '' || /^(?:content-length|transfer)/i.test(body) ? body : `Content-Length: ${body.length}\r\n\r\n${body}`}${body === '' ? '\r\n' : ''}`),
    /** Resolves when so many retries have been made or arranged, and nothing is on a backend. */
    waits: (retries = 1) => until(() => metrics().totalRetries === retries && Object.values(metrics().backends).every(({ inFlight }) => inFlight === 0)),
    attempts: () => Object.values(metrics().backends).reduce((sum, { totalRequests }) => sum + totalRequests, 0)
  }
}

/** Lets what has been sent to this process be read in it. */
async function turns (count = 10): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise(resolve => setImmediate(resolve))
}

/** Everything is over: counted once, and nothing is held. */
async function noneUnderWay (t: Test, { app }: Gateway): Promise<void> {
  const { state } = app.proxy as ProxyManager
  const pool = () => app.proxy.getConnectionPool().stats()
  await until(() => app.proxy.getMetrics().inFlight === 0 && pool().active === 0 && state.deadlines.size === 0)
  const metrics = app.proxy.getMetrics()
  for (const counts of [metrics, ...Object.values(metrics.backends)]) {
    t.equal(counts.inFlight, 0)
    t.equal(counts.totalRequests, counts.successfulRequests + counts.failedRequests + counts.abortedRequests, 'each counted once')
  }
  t.equal(state.budget.waiting, 0)
  t.equal(pool().pending, 0)
}

/** One answer and nothing behind it. */
async function oneAnswer (t: Test, client: Wire, status: number, body?: string, method?: string): Promise<Message> {
  const response = await client.response(0, method)
  t.equal(response.status, status)
  if (body !== undefined) t.equal(response.body, body)
  await turns()
  t.equal(client.received.length, response.length, 'one answer')
  return response
}

// Another backend

const FAILURES: [string, Fate | typeof REFUSED][] = [
  ['cannot be connected to', REFUSED],
  ['resets the connection', RESETS],
  ['closes the connection', CLOSES],
  ['closes it within its head', HALF_A_HEAD],
  ['answers 502', sorry(502)],
  ['answers 503', sorry(503)],
  ['answers 504', sorry(504)]
]

for (const [name, fate] of FAILURES) {
  t.test(`where a backend ${name} another one is asked at once`, async t => {
    const { asked, clock, gateway, metrics, send } = await start(t, { a: fate === REFUSED ? REFUSED : [fate], b: [] })
    const before = clock.now()
    const client = await send()
    await oneAnswer(t, client, 200, 'b')
    t.strictSame(asked, fate === REFUSED ? ['b'] : ['a', 'b'])
    t.equal(clock.now(), before, 'without a wait')
    t.match(metrics(), {
      totalRequests: 1, totalRetries: 1, retriesDenied: 0, backends: { a: { totalRequests: 1, failedRequests: 1 }, b: { totalRequests: 1, successfulRequests: 1 } }
    })
    t.equal(gateway.log.filter(({ msg }) => msg === 'attempt failed').length, 1)
    await noneUnderWay(t, gateway)
  })
}

t.test('where a backend does not answer in time another one is asked at once', async t => {
  const { asked, clock, gateway, metrics, send } = await start(t, { a: [HANGS], b: [] }, true, { timeout: { headers: 5_000 } })
  const client = await send()
  await until(() => asked.length === 1)
  clock.advance(5_000 + PACE)
  await oneAnswer(t, client, 200, 'b')
  t.match(metrics(), { totalRetries: 1, timeouts: { wait: 1, request: 0 } })
  await noneUnderWay(t, gateway)
})

t.test('a request is passed on from one backend to the next, never twice to the same while there is another', async t => {
  const { asked, clock, gateway, metrics, send } = await start(t, { a: [sorry(503)], b: [RESETS], c: REFUSED, d: [] }, { attempts: 4 })
  const before = clock.now()
  await oneAnswer(t, await send(), 200, 'd')
  t.strictSame(asked, ['a', 'b', 'd'])
  t.equal(clock.now(), before)
  t.equal(metrics().totalRetries, 3)
  await noneUnderWay(t, gateway)
})

t.test('there are so many attempts and no more, and what the last came to is what the client gets', async t => {
  for (const attempts of [1, 2, 3]) {
    const { asked, gateway, metrics, send } = await start(t, { a: [sorry(503, '', 'a')], b: [sorry(502, '', 'b')], c: [sorry(504, '', 'c')], d: [] }, { attempts })
    const response = await oneAnswer(t, await send(), [503, 502, 504][attempts - 1], 'abc'[attempts - 1])
    t.match(response.startLine, 'Sorry')
    t.strictSame(asked, ['a', 'b', 'c'].slice(0, attempts))
    t.match(metrics(), { totalRetries: attempts - 1, retriesDenied: 0, failedRequests: 1 })
    await noneUnderWay(t, gateway)
  }
})

t.test('where the last attempt fails without an answer its error goes out', async t => {
  const { gateway, send } = await start(t, { a: [sorry(503)], b: [RESETS] }, { attempts: 2 })
  const response = await oneAnswer(t, await send(), 502)
  t.equal(JSON.parse(response.body).code, 'FST_ROCKSTAR_RESET')
  await noneUnderWay(t, gateway)
})

// The same backend

t.test('a backend is asked again only after a wait, of up to 100 ms at first', async t => {
  for (const fate of [RESETS, sorry(503), REFUSED] as const) {
    const { asked, clock, gateway, send, waits, attempts } = await start(t, { a: fate === REFUSED ? REFUSED : [fate, ok('again')] })
    const client = await send()
    await waits()
    await turns()
    t.equal(attempts(), 1)
    clock.advance(49)
    t.equal(attempts(), 1, 'not a moment before')
    clock.advance(1)
    t.equal(attempts(), 2)
    if (fate === REFUSED) client.close()
    else {
      await oneAnswer(t, client, 200, 'again')
      t.strictSame(asked, ['a', 'a'])
    }
    await noneUnderWay(t, gateway)
  }
})

t.test('each wait is twice as long as the one before, up to the most', async t => {
  const { clock, gateway, send, waits, attempts } = await start(t, { a: [RESETS] }, { attempts: 6, backoff: { max: 500 } })
  const client = await send()
  for (const [i, bound] of [100, 200, 400, 500, 500].entries()) {
    await waits(i + 1)
    clock.advance(bound / 2 - 1)
    t.equal(attempts(), i + 1)
    clock.advance(1)
    t.equal(attempts(), i + 2, `after ${bound / 2}`)
  }
  await oneAnswer(t, client, 502)
  await noneUnderWay(t, gateway)
})

t.test('all backends are asked at once before any is asked again after a wait', async t => {
  const { asked, clock, gateway, send, waits } = await start(t, { a: [RESETS, ok('again')], b: [sorry(503), ok('again')] })
  const client = await send()
  await waits(2)
  t.strictSame(asked, ['a', 'b'])
  clock.advance(50)
  await oneAnswer(t, client, 200, 'again')
  t.equal(asked.length, 3)
  await noneUnderWay(t, gateway)
})

t.test('requests that fail together do not come back together', async t => {
  const { clock, gateway, waits, attempts } = await start(t, { a: Array<Fate>(41).fill(sorry(503)).fill(ok(), 40) }, { budget: { percent: 1_000 } }, { random: seeded(7) })
  const answers = Array.from({ length: 40 }, () => gateway.app.inject('/'))
  await waits(40)
  const back: number[] = []
  for (let i = 0; i < 4; i++) {
    const before = attempts()
    clock.advance(25)
    back.push(attempts() - before)
  }
  t.equal(back.reduce((sum, count) => sum + count), 40, `${back}`)
  t.ok(back.every(count => count >= 4), 'all over the hundred milliseconds')
  for (const answer of answers) t.equal((await answer).statusCode, 200)
  await noneUnderWay(t, gateway)
})

t.test('a backend that has come meanwhile is asked after the wait', async t => {
  const { clock, gateway, proxy, send, waits } = await start(t, { a: [RESETS] })
  const client = await send()
  await waits()
  const other = await rawBackend(t, () => ok('other'))
  proxy.addBackend({ id: 'other', url: other.url })
  await proxy.removeBackend('a')
  clock.advance(50)
  await oneAnswer(t, client, 200, 'other')
  await noneUnderWay(t, gateway)
})

t.test('where the backend has gone during the wait its failure goes out', async t => {
  const { clock, gateway, proxy, send, waits } = await start(t, { a: [RESETS] })
  const client = await send()
  await waits()
  await proxy.removeBackend('a')
  clock.advance(50)
  const response = await oneAnswer(t, client, 502)
  t.equal(JSON.parse(response.body).code, 'FST_ROCKSTAR_RESET')
  await noneUnderWay(t, gateway)
})

t.test('where no backend is left to wait for its failure goes out at once', async t => {
  const { asked, backends, gateway, metrics, proxy, send } = await start(t, { a: [HANGS] })
  const client = await send()
  await until(() => asked.length === 1)
  proxy.updateBackend('a', { isActive: false })
  backends.a.connections[0].reset()
  t.equal(JSON.parse((await oneAnswer(t, client, 502)).body).code, 'FST_ROCKSTAR_RESET')
  t.equal(metrics().totalRetries, 0)
  await noneUnderWay(t, gateway)
})

t.test('a backend that is only used in panic is asked again as well', async t => {
  const { clock, gateway, proxy, send, waits } = await start(t, { a: [RESETS, ok('again')] })
  const { state } = proxy as ProxyManager
  state.get('a').healthy = false
  state.onHealth()
  t.equal(proxy.getMetrics().panic, true)
  const client = await send()
  await Promise.race([waits(), client.response()])
  clock.advance(50)
  await oneAnswer(t, client, 200, 'again')
  await noneUnderWay(t, gateway)
})

t.test('a client that leaves during the wait ends it, and nobody is asked', async t => {
  const { clock, gateway, metrics, send, waits, attempts } = await start(t, { a: [RESETS] })
  const client = await send()
  await waits()
  client.close()
  await until(() => metrics().abortedRequests === 1)
  clock.advance(1_000)
  t.equal(attempts(), 1)
  await noneUnderWay(t, gateway)
  clock.advance(PACE)
  t.equal(clock.timers, 0, 'no timer is left')
})

t.test('a signal that aborts during the wait ends it', async t => {
  const abort = new AbortController()
  const { clock, gateway, send, waits, attempts } = await start(t, { a: [RESETS] }, true, { routes: [] }, {
    setup: app => app.get('/*', (request, reply) => app.proxy.forward(request, reply, { signal: abort.signal }))
  })
  const client = await send()
  await waits()
  abort.abort()
  const response = await client.response()
  t.match(JSON.parse(response.body), { code: 'FST_ROCKSTAR_ABORTED' })
  clock.advance(1_000)
  t.equal(attempts(), 1)
  await noneUnderWay(t, gateway)
})

t.test('an app that closes waits for no retry', async t => {
  const { clock, gateway, send, waits, attempts } = await start(t, { a: [RESETS] })
  const client = await send()
  await waits()
  await gateway.app.close()
  await until(() => client.closed || client.ended || client.received !== '')
  t.notMatch(client.received, 'HTTP/1.1 200')
  clock.advance(1_000)
  t.equal(attempts(), 1)
})

t.test('a balancer that takes its time is no reason not to try the same backend again', async t => {
  for (const [fate, status] of [[RESETS, 502], [sorry(503), 503]] as const) {
    const balancer = { type: 'slow', select: async (available: readonly never[]) => available[0] }
    const { clock, gateway, send, waits, asked } = await start(t, { a: [fate, ok('again')] }, true, { balancer })
    const client = await send()
    await Promise.race([waits(), client.response()])
    await turns()
    clock.advance(50)
    const response = await client.response()
    t.match([response.status, response.body], [200, 'again'], `${status}: ${response.body}`)
    t.strictSame(asked, ['a', 'a'])
    await noneUnderWay(t, gateway)
  }
})

t.test('a balancer that throws on a retry leaves the client the first failure', async t => {
  let calls = 0
  const balancer = {
    type: 'once',
    select (available: readonly never[]) {
      if (++calls > 1) throw new Error('no more')
      return available[0]
    }
  }
  const { gateway, metrics, send } = await start(t, { a: [sorry(503, '', 'its own')], b: [] }, true, { balancer })
  await oneAnswer(t, await send(), 503, 'its own')
  t.equal(metrics().totalRetries, 0)
  t.ok(gateway.log.some(({ msg }) => msg === 'the load balancer threw on a retry'))
  await noneUnderWay(t, gateway)
})

// What may be sent again

t.test('requests that may be repeated are, whatever has become of them', async t => {
  for (const method of ['GET', 'HEAD', 'OPTIONS', 'PUT', 'DELETE']) {
    for (const fate of [RESETS, sorry(503)]) {
      const head = method === 'HEAD' && fate !== RESETS ? 'HTTP/1.1 503 Sorry\r\nContent-Length: 0\r\n\r\n' : fate
      const { asked, backends, gateway, send } = await start(t, { a: [head], b: [] })
      const client = await send(`${method} /x HTTP/1.1`, method === 'PUT' ? 'body' : '')
      // An answer to HEAD must have no body.
      t.equal((await client.response(0, method)).status, 200, method)
      t.strictSame(asked, ['a', 'b'])
      t.match(backends.b.requests[0].startLine, `${method} /x`)
      client.close()
      await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
    }
  }
})

t.test('a POST that may have been processed is never sent again, and its backend has seen it once', async t => {
  const fates: [Fate, number][] = [[RESETS, 502], [CLOSES, 502], [HALF_A_HEAD, 502], [sorry(502), 502], [sorry(503), 503], [sorry(504), 504]]
  for (const method of ['POST', 'PATCH']) {
    for (const [fate, status] of fates) {
      const { asked, gateway, metrics, send } = await start(t, { a: [fate], b: [] })
      await oneAnswer(t, await send(`${method} / HTTP/1.1`, 'body'), status)
      t.strictSame(asked, ['a'])
      t.match(metrics(), { totalRetries: 0, retriesDenied: 0 }, 'nor was it the budget')
      await noneUnderWay(t, gateway)
    }
  }
})

t.test('nor is one that its backend takes too long for', async t => {
  const { asked, clock, gateway, send } = await start(t, { a: [HANGS], b: [] }, { perTryTimeout: 1_000 })
  const client = await send('POST / HTTP/1.1', 'body')
  await until(() => asked.length === 1)
  clock.advance(1_000 + PACE)
  await oneAnswer(t, client, 504)
  t.strictSame(asked, ['a'])
  await noneUnderWay(t, gateway)
})

t.test('a POST that has never reached a backend is sent to another one', async t => {
  for (const method of ['POST', 'PATCH']) {
    for (const body of ['', 'body', 'Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n', `Content-Length: 200000\r\n\r\n${'x'.repeat(200_000)}`]) {
      const { backends, gateway, send } = await start(t, { a: REFUSED, b: [] })
      const client = await send(`${method} / HTTP/1.1`, body)
      await oneAnswer(t, client, 200, 'b')
      t.equal(backends.b.requests.length, 1)
      t.equal(backends.b.requests[0].body, body.includes('\r\n\r\n') ? body.includes('chunked') ? 'body' : 'x'.repeat(200_000) : body)
      await noneUnderWay(t, gateway)
    }
  }
})

t.test('a POST with an Idempotency-Key is sent again where that is asked for', async t => {
  const key = 'POST / HTTP/1.1\r\nIdempotency-Key: "42"'
  const cases: [RetryOptions | boolean, string, number][] = [
    [{ idempotencyKey: true }, key, 200], [{ idempotencyKey: true }, 'POST / HTTP/1.1', 503], [{ idempotencyKey: false }, key, 503], [true, key, 503]
  ]
  for (const [retry, head, status] of cases) {
    for (const body of ['body', 'Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n']) {
      const { backends, gateway, send } = await start(t, { a: [sorry(503)], b: [] }, retry)
      await oneAnswer(t, await send(head, body), status)
      t.equal(backends.b.requests.length, status === 200 ? 1 : 0)
      if (status === 200) t.equal(backends.b.requests[0].body, 'body')
      if (status === 200 && head === key) t.strictSame(backends.b.requests[0].values('idempotency-key'), ['"42"'], 'and the backend gets it')
      await noneUnderWay(t, gateway)
    }
  }
})

t.test('a function may say which are sent again', async t => {
  const idempotencyKey = (request: FastifyRequest) => request.url.startsWith('/safe')
  for (const [path, status] of [['/safe', 200], ['/other', 503]] as const) {
    const { gateway, send } = await start(t, { a: [sorry(503)], b: [] }, { idempotencyKey })
    await oneAnswer(t, await send(`POST ${path} HTTP/1.1\r\nIdempotency-Key: 1`, 'body'), status)
    await noneUnderWay(t, gateway)
  }
})

t.test('only a plain true of such a function counts, and one that throws has not said it', async t => {
  for (const idempotencyKey of [() => 'yes', async () => true, () => { throw new Error('oops') }]) {
    const { asked, gateway, send } = await start(t, { a: [sorry(503)], b: [] }, { idempotencyKey: idempotencyKey as unknown as () => boolean })
    await oneAnswer(t, await send('POST / HTTP/1.1', 'body'), 503)
    t.strictSame(asked, ['a'])
    await noneUnderWay(t, gateway)
  }
})

t.test('a function that throws is told of in the log', async t => {
  const { gateway, send } = await start(t, { a: [sorry(503)], b: [] }, { idempotencyKey: () => { throw new Error('oops') } })
  await oneAnswer(t, await send('POST / HTTP/1.1', 'body'), 503)
  const lines = gateway.log.filter(({ msg }) => msg === 'retry.idempotencyKey threw')
  t.equal(lines.length, 1)
  t.match(lines[0], { level: 40, err: { message: 'oops' } })
})

t.test('methods may be given, more of them or fewer', async t => {
  for (const [method, status] of [['POST', 200], ['GET', 503]] as const) {
    const { gateway, send } = await start(t, { a: [sorry(503)], b: [] }, { methods: ['POST'] })
    await oneAnswer(t, await send(`${method} / HTTP/1.1`), status)
    await noneUnderWay(t, gateway)
  }
})

t.test('what was never sent is sent again also where its method is none of those', async t => {
  const { gateway, send } = await start(t, { a: REFUSED, b: [] }, { methods: [] })
  await oneAnswer(t, await send(), 200, 'b')
  await noneUnderWay(t, gateway)
})

t.test('statuses may be given: those are tried again after, and others not', async t => {
  for (const [answered, status] of [[500, 200], [429, 200], [502, 502], [503, 503], [404, 404]] as const) {
    const { asked, gateway, send } = await start(t, { a: [sorry(answered)], b: [] }, { statuses: [429, 500] })
    await oneAnswer(t, await send(), status)
    t.strictSame(asked, status === 200 ? ['a', 'b'] : ['a'])
    await noneUnderWay(t, gateway)
  }
})

t.test('by default no other status is tried again after', async t => {
  for (const status of [400, 404, 408, 425, 429, 500, 501, 505, 599]) {
    const { asked, gateway, send } = await start(t, { a: [sorry(status)], b: [] })
    await oneAnswer(t, await send(), status)
    t.strictSame(asked, ['a'])
    await noneUnderWay(t, gateway)
  }
})

t.test('causes may be given: another attempt is made after those, and none after others', async t => {
  const causes: [NonNullable<RetryOptions['on']>[number], Fate | typeof REFUSED, number][] = [
    ['connect', REFUSED, 502], ['reset', RESETS, 502], ['bad-response', NOISE, 502]
  ]
  for (const [cause, fate, status] of causes) {
    for (const on of ['connect', 'reset', 'timeout', 'bad-response'] as const) {
      const { gateway, send } = await start(t, { a: fate === REFUSED ? REFUSED : [fate], b: [] }, { on: [on] })
      await oneAnswer(t, await send(), on === cause ? 200 : status)
      await noneUnderWay(t, gateway)
    }
  }
})

t.test('an answer that is no HTTP is tried again after only where that is asked for', async t => {
  const { asked, send } = await start(t, { a: [NOISE], b: [] })
  await oneAnswer(t, await send(), 502)
  t.strictSame(asked, ['a'])
})

// Never after a byte

t.test('nothing is sent again once a byte of an answer has gone out', async t => {
  for (const hooks of [false, true]) {
    for (const framing of ['Content-Length: 100\r\n\r\nhalf', 'Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n', 'Content-Length: 100\r\n\r\n']) {
      const { asked, backends, gateway, metrics, send } = await start(t, { a: [`HTTP/1.1 200 OK\r\n${framing}`], b: [] }, true, {}, {
        before: app => { if (hooks) app.addHook('onSend', async () => undefined) }
      })
      const client = await send()
      await client.receive(framing.includes('half') ? 'half' : '\r\n\r\n')
      backends.a.connections[0].reset()
      await until(() => client.closed || client.ended)
      t.equal(client.received.match(/HTTP\/1\.1 /g)?.length, 1, 'one head')
      t.strictSame(asked, ['a'])
      t.equal(metrics().totalRetries, 0)
      await noneUnderWay(t, gateway)
    }
  }
})

t.test('an interim response that says something is a byte: what comes after it goes out as it is', async t => {
  const hint = 'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n'
  const endings: [Fate, number][] = [[sorry(503), 503], [RESETS, 502], [CLOSES, 502]]
  for (const [ending, status] of endings) {
    const { asked, backends, metrics, send, gateway } = await start(t, { a: [hint], b: [] })
    const client = await send()
    await client.receive('</a>\r\n\r\n')
    const interim = client.received.length
    const [wire] = backends.a.connections
    if (typeof ending === 'string') wire.send(ending)
    else ending(wire, backends.a.requests[0])
    t.equal((await client.response(interim)).status, status)
    t.strictSame(asked, ['a'])
    t.equal(metrics().totalRetries, 0)
    await noneUnderWay(t, gateway)
  }
})

t.test('100 Continue says nothing, and another backend may still be asked', async t => {
  for (const ending of [sorry(503), RESETS]) {
    const fate: Fate = (wire, request) => {
      wire.send('HTTP/1.1 100 Continue\r\n\r\n')
      return typeof ending === 'string' ? ending : setImmediate(() => ending(wire, request)) && undefined
    }
    const { asked, gateway, send } = await start(t, { a: [fate], b: [] })
    const client = await send()
    await client.receive('b')
    await client.receive(/HTTP\/1\.1 200 OK[^]*\r\n\r\nb$/)
    t.strictSame(asked, ['a', 'b'])
    t.notMatch(client.received, 'sorry')
    await noneUnderWay(t, gateway)
  }
})

// What becomes of answers that nobody wants

function pool ({ app }: Gateway) {
  return app.proxy.getConnectionPool().stats()
}

t.test('a small answer that is not wanted is read away, and its connection used again', async t => {
  for (const answer of [sorry(503), sorry(503, '', 'x'.repeat(65_536)), sorry(503, '', ''), 'HTTP/1.1 503 Sorry\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsorry\r\n0\r\n\r\n']) {
    const { backends, clock, gateway, send } = await start(t, { a: [answer, ok('a')], b: [] })
    const client = await send()
    const first = await client.response()
    t.equal(first.body, 'b')
    await until(() => pool(gateway).idle === 2)
    t.equal(backends.a.connections[0].closed, false)
    client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
    t.equal((await client.response(first.length)).body, 'a')
    t.equal(backends.a.connections.length, 1)
    await noneUnderWay(t, gateway)
    clock.advance(10_000)
    await turns()
    t.equal(backends.a.connections[0].closed, false, 'nor does any timer close it later')
  }
})

t.test('one that is split over many packets is read away too', async t => {
  const { backends, gateway, send } = await start(t, { a: ['HTTP/1.1 503 Sorry\r\nContent-Length: 10\r\n\r\nhalf-'], b: [] })
  await oneAnswer(t, await send(), 200, 'b')
  const [wire] = backends.a.connections
  t.equal(pool(gateway).active, 1, 'it holds its connection until then')
  wire.send('half.')
  await until(() => pool(gateway).idle === 2)
  t.equal(wire.closed || wire.ended, false)
  await noneUnderWay(t, gateway)
})

t.test('a large answer that is not wanted costs its connection at once', async t => {
  const { backends, gateway, send } = await start(t, { a: [sorry(503, '', '').replace('Content-Length: 0', 'Content-Length: 65537')], b: [] })
  await oneAnswer(t, await send(), 200, 'b')
  const [wire] = backends.a.connections
  await until(() => wire.closed || wire.ended)
  t.pass('although none of it had come')
  await noneUnderWay(t, gateway)
})

t.test('one that does not say how large it is costs its connection when it has turned out large', async t => {
  const { backends, clock, gateway, send } = await start(t, { a: ['HTTP/1.1 503 Sorry\r\nTransfer-Encoding: chunked\r\n\r\n'], b: [] })
  await oneAnswer(t, await send(), 200, 'b')
  const [wire] = backends.a.connections
  const chunk = `4000\r\n${'x'.repeat(0x4000)}\r\n`
  wire.send(chunk.repeat(3))
  await turns()
  t.equal(wire.closed || wire.ended, false)
  wire.send(chunk.repeat(2))
  await until(() => wire.closed || wire.ended)
  await noneUnderWay(t, gateway)
  clock.advance(PACE)
  t.equal(clock.timers, 0)
})

t.test('one that does not end costs its connection after a second', async t => {
  for (const answer of ['HTTP/1.1 503 Sorry\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nmore\r\n', 'HTTP/1.1 503 Sorry\r\nContent-Length: 5\r\n\r\nhalf', 'HTTP/1.1 503 Sorry\r\nConnection: close\r\n\r\nuntil I close']) {
    const { backends, clock, gateway, send } = await start(t, { a: [answer], b: [] })
    await oneAnswer(t, await send(), 200, 'b')
    const [wire] = backends.a.connections
    clock.advance(999)
    await turns()
    t.equal(wire.closed || wire.ended, false)
    t.equal(pool(gateway).active, 1)
    clock.advance(1)
    await until(() => wire.closed || wire.ended)
    await noneUnderWay(t, gateway)
  }
})

t.test('one whose backend resets it while it is read away harms nobody', async t => {
  const { backends, gateway, metrics, send } = await start(t, { a: ['HTTP/1.1 503 Sorry\r\nContent-Length: 5\r\n\r\nhalf'], b: [] })
  await oneAnswer(t, await send(), 200, 'b')
  backends.a.connections[0].reset()
  await until(() => pool(gateway).active === 0)
  t.match(metrics().backends, { a: { totalRequests: 1, failedRequests: 1 } }, 'and is counted once')
  await noneUnderWay(t, gateway)
})

t.test('an app that closes does not wait for one', async t => {
  const { gateway, send } = await start(t, { a: ['HTTP/1.1 503 Sorry\r\nTransfer-Encoding: chunked\r\n\r\n'], b: [] })
  await oneAnswer(t, await send(), 200, 'b')
  await gateway.app.close()
  t.equal(pool(gateway).total, 0)
})

// Retry-After

t.test('a backend is left alone for as long as it has asked, in seconds or until a date', async t => {
  const asTold: [string, (clock: FakeClock) => string][] = [
    ['seconds', () => '7'],
    ['a date', clock => new Date(Math.ceil(clock.wall() / 1000) * 1000 + 7_000).toUTCString()]
  ]
  for (const [name, told] of asTold) {
    const probe = new FakeClock()
    const { clock, gateway, send, waits, attempts } = await start(t, { a: [sorry(503, `Retry-After: ${told(probe)}\r\n`), ok('again')] })
    t.equal(clock.wall() % 1000, 0, 'a whole second, so that both mean the same')
    const client = await send()
    await waits()
    clock.advance(6_999)
    t.equal(attempts(), 1, name)
    clock.advance(1)
    t.equal(attempts(), 2)
    await oneAnswer(t, client, 200, 'again')
    await noneUnderWay(t, gateway)
  }
})

t.test('a wait that is longer anyway is not made shorter', async t => {
  const { clock, gateway, send, waits, attempts } = await start(t, { a: [sorry(503, 'Retry-After: 1\r\n'), ok('again')] }, { backoff: { base: 4_000 } })
  const client = await send()
  await waits()
  clock.advance(1_999)
  t.equal(attempts(), 1)
  clock.advance(1)
  await oneAnswer(t, client, 200, 'again')
  await noneUnderWay(t, gateway)
})

t.test('what a backend asks is nothing to the others: they are asked at once', async t => {
  const { asked, gateway, send } = await start(t, { a: [sorry(503, 'Retry-After: 3600\r\n')], b: [sorry(503, 'Retry-After: 3600\r\n')], c: [] })
  await oneAnswer(t, await send(), 200, 'c')
  t.strictSame(asked, ['a', 'b', 'c'])
  await noneUnderWay(t, gateway)
})

t.test('of those to be asked again the one comes first that has not asked to be left alone', async t => {
  const { asked, clock, gateway, send, waits } = await start(t, { a: [sorry(503, 'Retry-After: 3600\r\n')], b: [sorry(503), ok('b again')] })
  const client = await send()
  await waits(2)
  clock.advance(50)
  await oneAnswer(t, client, 200, 'b again')
  t.strictSame(asked, ['a', 'b', 'b'])
  await noneUnderWay(t, gateway)
})

t.test('where a wait would go beyond the deadline the backend\'s own answer goes out at once', async t => {
  for (const seconds of [5, 3_600, 10 ** 20]) {
    const { asked, clock, gateway, metrics, send } = await start(t, { a: [sorry(503, `Retry-After: ${seconds}\r\nX-Own: yes\r\n`, 'its own')] }, true, { timeout: { request: 5_000 } })
    const before = clock.now()
    const response = await oneAnswer(t, await send(), 503, 'its own')
    t.strictSame([response.values('retry-after'), response.values('x-own')], [[String(seconds)], ['yes']])
    t.equal(clock.now(), before)
    t.strictSame(asked, ['a'])
    t.match(metrics(), { totalRetries: 0, retriesDenied: 0 })
    await noneUnderWay(t, gateway)
  }
})

t.test('a backend that asks each time is left alone each time', async t => {
  const again = sorry(503, 'Retry-After: 2\r\n')
  const { clock, gateway, send, waits, attempts } = await start(t, { a: [again, again, ok('at last')] })
  const client = await send()
  for (let i = 1; i <= 2; i++) {
    await waits(i)
    clock.advance(1_999)
    t.equal(attempts(), i, `the wait number ${i}`)
    clock.advance(1)
    t.equal(attempts(), i + 1)
  }
  await oneAnswer(t, client, 200, 'at last')
  await noneUnderWay(t, gateway)
})

t.test('who has gone does not make the wait for the others shorter', async t => {
  let deactivate = () => {}
  const answers: Fate = () => {
    deactivate()
    return sorry(503, 'Retry-After: 2\r\n')
  }
  const { asked, clock, gateway, proxy, send, waits, attempts } = await start(t, { a: [RESETS], b: [answers, ok('again')] })
  deactivate = () => { proxy.updateBackend('a', { isActive: false }) }
  const client = await send()
  await waits(2)
  clock.advance(1_999)
  t.equal(attempts(), 2)
  clock.advance(1)
  await oneAnswer(t, client, 200, 'again')
  t.strictSame(asked, ['a', 'b', 'b'])
  await noneUnderWay(t, gateway)
})

t.test('what cannot be read asks for nothing', async t => {
  const { clock, gateway, send, waits } = await start(t, { a: [sorry(503, 'Retry-After: soon\r\n'), ok('again')] })
  const client = await send()
  await waits()
  clock.advance(50)
  await oneAnswer(t, client, 200, 'again')
  await noneUnderWay(t, gateway)
})

t.test('where retryAfter is false nothing is asked for', async t => {
  const { clock, gateway, send, waits } = await start(t, { a: [sorry(503, 'Retry-After: 3600\r\n'), ok('again')] }, { retryAfter: false })
  const client = await send()
  await waits()
  clock.advance(50)
  await oneAnswer(t, client, 200, 'again')
  await noneUnderWay(t, gateway)
})

t.test('a status that is not tried again after may ask what it wants', async t => {
  const { gateway, send } = await start(t, { a: [sorry(429, 'Retry-After: 1\r\n')], b: [] })
  const response = await oneAnswer(t, await send(), 429)
  t.strictSame(response.values('retry-after'), ['1'])
  await noneUnderWay(t, gateway)
})

// Per upstream, route and call

t.test('retry: false means that there are none', async t => {
  for (const fate of [RESETS, sorry(503), REFUSED] as const) {
    const { gateway, metrics, send } = await start(t, { a: fate === REFUSED ? REFUSED : [fate], b: [] }, false)
    await oneAnswer(t, await send(), fate === RESETS || fate === REFUSED ? 502 : 503)
    t.match(metrics(), { totalRetries: 0, retriesDenied: 0 })
    await noneUnderWay(t, gateway)
  }
})

t.test('a route may have none, or others', async t => {
  const { asked, gateway, send } = await start(t, { a: [sorry(503)], b: [sorry(503)], c: [sorry(500)] }, { budget: { percent: 1_000 } }, {
    routes: [{ prefix: '/none', retry: false }, { prefix: '/two', retry: { attempts: 2 } }, { prefix: '/plain' }, { prefix: '/true', retry: true }]
  })
  for (const [path, count, status] of [['/none', 1, 503], ['/two', 2, 503], ['/plain', 3, 500], ['/true', 3, 500]] as const) {
    for (let i = 0; i < 3; i++) {
      asked.length = 0
      const { status: got } = await (await send(`GET ${path} HTTP/1.1`)).response()
      // Who comes first moves on with each choice.
      if (asked.includes('c')) t.equal(got, 500)
      else t.strictSame([asked.length, got], [count, status], path)
      t.ok(asked.length <= count)
    }
  }
  await noneUnderWay(t, gateway)
})

t.test('a route\'s own statuses hold in place of the upstream\'s', async t => {
  for (const [answered, status] of [[500, 200], [503, 503]] as const) {
    const { gateway, send } = await start(t, { a: [sorry(answered)], b: [] }, true, { routes: [{ prefix: '/', retry: { statuses: [500] } }] })
    await oneAnswer(t, await send(), status)
    await noneUnderWay(t, gateway)
  }
})

t.test('overrides of a route change only what they name', async t => {
  const { clock, gateway, send, waits, attempts } = await start(t, { a: [RESETS] }, { backoff: { base: 40, factor: 10 }, attempts: 2 }, { routes: [{ prefix: '/', retry: { attempts: 3, backoff: { max: 100 } } }] })
  const client = await send()
  for (const [i, wait] of [20, 50].entries()) {
    await waits(i + 1)
    clock.advance(wait - 1)
    t.equal(attempts(), i + 1)
    clock.advance(1)
    t.equal(attempts(), i + 2, `after ${wait}`)
  }
  await oneAnswer(t, client, 502)
  await noneUnderWay(t, gateway)
})

t.test('a call may have none, or others', async t => {
  const calls: [string, RetryOptions | boolean, number][] = [['/none', false, 503], ['/post', { methods: ['POST'] }, 200], ['/plain', true, 503], ['/one', { methods: ['POST'], attempts: 1 }, 503]]
  for (const [path, retry, status] of calls) {
    const { gateway, send } = await start(t, { a: [sorry(503)], b: [] }, true, { routes: [] }, {
      setup: app => app.post('/*', (request, reply) => app.proxy.forward(request, reply, { retry }))
    })
    await oneAnswer(t, await send(`POST ${path} HTTP/1.1`), status)
    await noneUnderWay(t, gateway)
  }
})

t.test('a route or a call may have retries where its upstream has none', async t => {
  for (const retry of [true, { attempts: 2 }]) {
    for (const calls of [false, true]) {
      const { gateway, metrics, send } = await start(t, { a: [sorry(503)], b: [] }, false, { routes: calls ? [] : [{ prefix: '/', retry }] }, {
        setup: app => { if (calls) app.get('/*', (request, reply) => app.proxy.forward(request, reply, { retry })) }
      })
      await oneAnswer(t, await send(), 200, 'b')
      t.match(metrics(), { totalRetries: 1, retriesDenied: 0 })
      await noneUnderWay(t, gateway)
    }
  }
})

t.test('each upstream has its own', async t => {
  const bad = await rawBackend(t, () => sorry(503))
  const good = await rawBackend(t, () => ok('good'))
  const backends = [{ id: 'bad', url: bad.url }, { id: 'good', url: good.url }]
  for (const [retry, named, statuses] of [[true, false, [200, 503]], [false, true, [503, 200]]] as const) {
    const gateway = await startGateway(t, {
      clock: new FakeClock(), backends, retry, upstreams: { named: { backends, retry: named } }, routes: [{ prefix: '/default' }, { prefix: '/named', upstream: 'named' }]
    })
    for (const [i, path] of ['/default', '/named'].entries()) {
      const client = await gateway.connect()
      client.send(`GET ${path} HTTP/1.1\r\nHost: g\r\n\r\n`)
      t.equal((await client.response()).status, statuses[i], path)
    }
    const { totalRetries, upstreams } = gateway.app.proxy.getMetrics()
    t.strictSame([totalRetries, upstreams.named.totalRetries], [retry ? 1 : 0, named ? 1 : 0])
  }
})

t.test('forwardHttp and forward without a reply try again as well, and may be told not to', async t => {
  for (const [retry, status] of [[undefined, 200], [false, 503], [{ attempts: 1 }, 503]] as const) {
    const { gateway, proxy } = await start(t, { a: [sorry(503)], b: [] })
    const answer = await proxy.forwardHttp(new Request('http://any/', { signal: AbortSignal.timeout(60_000) }), { retry })
    t.equal(answer.status, status)
    await answer.text()
    await noneUnderWay(t, gateway)
  }
  const key = await start(t, { a: [sorry(503)], b: [] }, { idempotencyKey: true })
  const answer = await key.proxy.forwardHttp(new Request('http://any/', { method: 'POST', body: 'body', headers: { 'idempotency-key': '1' } }))
  t.equal(await answer.text(), 'b')
  t.equal(key.backends.b.requests[0].body, 'body')
  await noneUnderWay(t, key.gateway)
})

// The budget

t.test('with all backends failing there is a fifth more load on them at the most', async t => {
  const { asked, gateway, metrics, attempts } = await start(t, { a: [sorry(503)], b: [sorry(503)], c: [sorry(503)] })
  const REQUESTS = 500
  for (let i = 0; i < REQUESTS; i += 50) {
    const answers = await Promise.all(Array.from({ length: 50 }, () => gateway.app.inject('/')))
    for (const { statusCode, body } of answers) if (statusCode !== 503 || body !== 'sorry') t.fail(`${statusCode} ${body}`)
  }
  const { totalRetries, retriesDenied } = metrics()
  t.equal(attempts(), REQUESTS + totalRetries)
  t.equal(asked.length, attempts())
  t.ok(asked.length <= REQUESTS * 1.2, `${asked.length} for ${REQUESTS}`)
  t.ok(totalRetries >= REQUESTS * 0.15, 'and that is made use of')
  t.ok(retriesDenied >= REQUESTS * 0.8, 'the others are counted as denied')
  await noneUnderWay(t, gateway)
})

t.test('the same holds for connections that are refused or reset', async t => {
  for (const fate of [REFUSED, RESETS] as const) {
    const { gateway, attempts } = await start(t, { a: fate === REFUSED ? REFUSED : [fate], b: fate === REFUSED ? REFUSED : [fate] })
    for (let i = 0; i < 200; i += 50) {
      for (const { statusCode } of await Promise.all(Array.from({ length: 50 }, () => gateway.app.inject('/')))) if (statusCode !== 502) t.fail(`${statusCode}`)
    }
    t.ok(attempts() <= 240, `${attempts()} for 200`)
    await noneUnderWay(t, gateway)
  }
})

t.test('ten retries a second there are always', async t => {
  const { clock, gateway, metrics } = await start(t, { a: [sorry(503)], b: [sorry(503)] }, { attempts: 2 })
  for (let second = 1; second <= 3; second++) {
    for (let i = 0; i < 15; i++) t.equal((await gateway.app.inject('/')).statusCode, 503)
    t.match(metrics(), { totalRetries: second * 10, retriesDenied: second * 5 })
    clock.advance(1_000)
  }
  await noneUnderWay(t, gateway)
})

t.test('a retry that is denied leaves the client the failure as it is', async t => {
  const none = { percent: 0, minPerSecond: 0 }
  for (const [fate, status, body] of [[sorry(503, 'X-Own: yes\r\n', 'its own'), 503, 'its own'], [RESETS, 502, undefined], [REFUSED, 502, undefined]] as const) {
    const { gateway, metrics, send } = await start(t, { a: fate === REFUSED ? REFUSED : [fate], b: [] }, { budget: none })
    const response = await oneAnswer(t, await send(), status, body)
    if (fate !== RESETS && fate !== REFUSED) t.strictSame(response.values('x-own'), ['yes'])
    t.match(metrics(), { totalRetries: 0, retriesDenied: 1, backends: { b: { totalRequests: 0 } } })
    await noneUnderWay(t, gateway)
  }
})

t.test('only what would have been tried again is counted as denied', async t => {
  const none = { percent: 0, minPerSecond: 0 }
  const { gateway, metrics, send } = await start(t, { a: [sorry(500), sorry(503), ok()], b: [ok(), ok()] }, { budget: none })
  for (const head of ['GET / HTTP/1.1', 'GET / HTTP/1.1', 'POST / HTTP/1.1', 'GET / HTTP/1.1']) await (await send(head)).response()
  t.equal(metrics().retriesDenied, 0)
  await noneUnderWay(t, gateway)
})

t.test('each upstream has a budget of its own', async t => {
  const bad = await rawBackend(t, () => sorry(503))
  const worse = await rawBackend(t, () => sorry(503))
  const good = await rawBackend(t, () => ok('good'))
  const gateway = await startGateway(t, {
    clock: new FakeClock(),
    retry: { attempts: 2 },
    backends: [bad.url, worse.url],
    upstreams: { named: { backends: [bad.url, good.url], retry: true } },
    routes: [{ prefix: '/default' }, { prefix: '/named', upstream: 'named' }]
  })
  for (let i = 0; i < 20; i++) await gateway.app.inject('/default')
  t.match(gateway.app.proxy.getMetrics(), { totalRetries: 10, retriesDenied: 10 })
  t.equal((await gateway.app.inject('/named')).statusCode, 200)
  t.match(gateway.app.proxy.getMetrics().upstreams.named, { totalRetries: 1, retriesDenied: 0 })
})

// One attempt's time

t.test('a backend that hangs costs no more than perTryTimeout', async t => {
  const { asked, backends, clock, gateway, metrics, send } = await start(t, { a: [HANGS], b: [] }, { perTryTimeout: 200 })
  const client = await send()
  await until(() => asked.length === 1)
  clock.advance(199)
  t.equal(metrics().totalRetries, 0)
  clock.advance(1 + 20)
  await oneAnswer(t, client, 200, 'b')
  t.strictSame(asked, ['a', 'b'])
  await until(() => backends.a.connections[0].closed || backends.a.connections[0].ended)
  t.match(metrics(), { timeouts: { wait: 1, request: 0 }, backends: { a: { failedRequests: 1 } } })
  await noneUnderWay(t, gateway)
})

t.test('it is the time of each attempt, and the last failure goes out', async t => {
  const { asked, clock, gateway, metrics, send } = await start(t, { a: [HANGS], b: [HANGS], c: [HANGS] }, { perTryTimeout: 200 })
  const client = await send()
  for (let i = 1; i <= 3; i++) {
    await until(() => asked.length === i)
    const before = clock.now()
    while (metrics().timeouts.wait < i) clock.advance(1)
    const took = clock.now() - before
    t.ok(took >= 198 && took <= 222, `${took}`)
  }
  t.equal(JSON.parse((await oneAnswer(t, client, 504)).body).code, 'FST_ROCKSTAR_TIMEOUT')
  await noneUnderWay(t, gateway)
})

t.test('it bounds the wait for a connection too', async t => {
  const { clock, gateway, metrics, asked } = await start(t, { a: [HANGS], b: [] }, { perTryTimeout: 200 }, { pool: { connections: 1 }, routes: [{ prefix: '/held', retry: { perTryTimeout: 0 } }, { prefix: '/' }], balancer: { type: 'first', select: (available: readonly never[], { tried }) => available.find(backend => tried?.includes(backend) !== true) } })
  const held = await gateway.connect()
  held.send('GET /held HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => asked.length === 1)
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => pool(gateway).pending === 1)
  clock.advance(220)
  await oneAnswer(t, client, 200, 'b')
  t.match(metrics().timeouts, { connect: 1, wait: 0 })
  held.close()
  await noneUnderWay(t, gateway)
})

t.test('an answer that has begun may take as long as it likes', async t => {
  const { backends, clock, gateway, send } = await start(t, { a: ['HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf'], b: [] }, { perTryTimeout: 200 })
  const client = await send()
  await client.receive('half')
  clock.advance(10_000)
  backends.a.connections[0].send('half')
  await oneAnswer(t, client, 200, 'halfhalf')
  await noneUnderWay(t, gateway)
})

t.test('a route and a call may have another', async t => {
  const { asked, clock, gateway, send } = await start(t, { a: [HANGS], b: [] }, { perTryTimeout: 5_000 }, { routes: [{ prefix: '/', retry: { perTryTimeout: 100 } }] })
  const client = await send()
  await until(() => asked.length === 1)
  clock.advance(110)
  await oneAnswer(t, client, 200, 'b')
  await noneUnderWay(t, gateway)
})

// What is told of attempts

t.test('onResponse and the log are told of all attempts: who, what came of it, and how long it took', async t => {
  let told: readonly AttemptReport[] = []
  const { asked, clock, gateway, metrics, send } = await start(t, { a: [sorry(503)], b: REFUSED, c: [HANGS], d: [] }, { attempts: 4, perTryTimeout: 1_000 }, {
    routes: [{ prefix: '/', onResponse: (_request: FastifyRequest, _reply: FastifyReply, { attempts }) => { told = attempts } }]
  })
  const client = await send()
  await until(() => asked.length === 2)
  while (metrics().timeouts.wait === 0) clock.advance(1)
  await oneAnswer(t, client, 200, 'd')
  const seen = told.map(({ backend, result, outcome: { stage, culprit, statusCode, error }, hedge }) => [backend.id, result, stage, culprit, statusCode, (error as { code?: string } | undefined)?.code, hedge])
  t.strictSame(seen, [
    ['a', 'failed', 'stream', 'none', 503, undefined, false],
    ['b', 'failed', 'connect', 'backend', 0, 'ECONNREFUSED', false],
    ['c', 'failed', 'wait', 'backend', 0, 'FST_ROCKSTAR_TIMEOUT', false],
    ['d', 'pending', 'stream', 'none', 200, undefined, false]
  ])
  t.strictSame([told[0].time, told[1].time], [0, 0])
  t.ok(told[3].time <= 1)
  t.ok(told[2].time >= 1_000 && told[2].time <= 1_000 + PACE, `${told[2].time}`)
  await noneUnderWay(t, gateway)
  const lines = gateway.log.filter(({ msg }) => msg === 'exchange finished')
  t.equal(lines.length, 1, 'one line for the request')
  t.match(lines[0], {
    level: 20,
    upstream: 'default',
    backend: 'd',
    statusCode: 200,
    result: 'successful',
    attempts: [
      { backend: 'a', result: 'failed', stage: 'stream', statusCode: 503, hedge: false },
      { backend: 'b', result: 'failed', stage: 'connect', statusCode: 0, hedge: false },
      { backend: 'c', result: 'failed', stage: 'wait', statusCode: 0, hedge: false, time: told[2].time },
      { backend: 'd', result: 'successful', stage: 'done', statusCode: 200, hedge: false }
    ]
  })
  t.ok(lines[0].responseTime as number >= 1_000)
  t.equal((lines[0].attempts as unknown[]).length, 4)
})

t.test('where all fail the log tells of all attempts too', async t => {
  const { gateway, send } = await start(t, { a: [RESETS], b: [RESETS] }, { attempts: 2 })
  await oneAnswer(t, await send(), 502)
  await noneUnderWay(t, gateway)
  const [line] = gateway.log.filter(({ msg }) => msg === 'exchange finished')
  t.match(line, { result: 'failed', attempts: [{ backend: 'a', result: 'failed' }, { backend: 'b', result: 'failed' }] })
})

t.test('a response that is captured tells of its attempts', async t => {
  const { gateway, send } = await start(t, { a: [sorry(503)], b: [] }, true, { routes: [] }, {
    setup: app => app.get('/*', async request => {
      const { attempts, backend, body } = await app.proxy.forward(request)
      body.resume()
      return { backend: backend.id, attempts: attempts.map(({ backend, result }) => [backend.id, result]) }
    })
  })
  const response = await oneAnswer(t, await send(), 200)
  t.strictSame(JSON.parse(response.body), { backend: 'b', attempts: [['a', 'failed'], ['b', 'pending']] })
  await noneUnderWay(t, gateway)
})

t.test('the circuit breaker hears of each attempt, and of a wait no permit is held', async t => {
  const { clock, gateway, proxy, send, waits } = await start(t, { a: [sorry(503), ok('again')] }, true, { breaker: { threshold: 1, timeout: 20 } })
  const client = await send()
  await waits()
  t.equal(proxy.getCircuitBreaker().getState('a'), 'open')
  clock.advance(50)
  await oneAnswer(t, client, 200, 'again')
  t.equal(proxy.getCircuitBreaker().getState('a'), 'closed')
  await noneUnderWay(t, gateway)
})

t.test('a backend whose circuit is open is passed over on a retry', async t => {
  const { asked, gateway, proxy, send } = await start(t, { a: [RESETS], b: [], c: [] }, true, { breaker: true })
  proxy.getCircuitBreaker().open?.('b')
  await oneAnswer(t, await send(), 200, 'c')
  t.strictSame(asked, ['a', 'c'])
  await noneUnderWay(t, gateway)
})
