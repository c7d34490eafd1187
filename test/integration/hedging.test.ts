import t, { type Test } from 'tap'
import type { HedgeOptions, RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type GatewaySetup } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { seeded } from '../helpers/random.ts'
import { ok, rawBackend, until, type Message, type RawBackend, type Wire } from '../helpers/wire.ts'

/** A request that a backend holds. */
interface Held {
  id: string
  request: Message
  wire: Wire
}

/** A test that hangs fails by itself, and lets the others run. */
const LIMIT = 3_000
/** As many hedges as there are requests, after 50 ms. */
const HEDGE: HedgeOptions = { minDelay: 50, maxExtra: 1 }
const BAD = ok('no', '', '503 Sorry')
/** Ends in the middle of a head: that is no connection that was closed while it was idle. */
const cut = (wire: Wire) => { wire.socket.end('HTTP/1.1 2') }

/** A gateway that knows how long answers take: no time. Its backends hold what is asked for below `/hold`, in the order it comes. */
async function start (t: Test, options: RockstarProxyOptions = {}, { ids = ['a', 'b'], learned = 20, ...setup }: GatewaySetup & { ids?: string[], learned?: number } = {}) {
  t.setTimeout(LIMIT)
  const clock = new FakeClock()
  const held: Held[] = []
  const backends: Record<string, RawBackend> = {}
  for (const id of ids) {
    backends[id] = await rawBackend(t, (request, wire) => {
      if (!request.startLine.includes(' /hold')) return ok(id)
      held.push({ id, request, wire })
      return undefined
    })
  }
  const gateway = await startGateway(t, {
    clock, random: seeded(1), backends: ids.map(id => ({ id, url: backends[id].url })), hedge: HEDGE, routes: [{ prefix: '/' }], ...options
  }, setup)
  const { proxy } = gateway.app
  for (let i = 0; i < learned; i++) await gateway.app.inject('/')
  await until(() => proxy.getMetrics().inFlight === 0)
  proxy.resetMetrics()
  // A delay that was not known is looked for again.
  clock.advance(250)
  /** Sends what is held; resolves when it is. */
  const ask = async (head = 'GET /hold HTTP/1.1', body = '') => {
    const client = await gateway.connect()
    const before = held.length
    client.send(`${head}\r\nHost: gateway\r\n\r\n${body}`)
    await until(() => held.length > before)
    return { client, first: held[before] }
  }
  /** The same when a second attempt has been made after 50 ms. */
  const askTwice = async (head?: string, body?: string) => {
    const { client, first } = await ask(head, body)
    clock.advance(50)
    await until(() => held.length === held.indexOf(first) + 2)
    return { client, first, second: held[held.indexOf(first) + 1] }
  }
  const metrics = () => proxy.getMetrics()
  return { clock, held, backends, gateway, proxy, ask, askTwice, metrics, hedges: () => metrics().hedgedRequests }
}

const gone = (wire: Wire) => until(() => wire.closed || wire.ended)

/** Lets what has been sent to this process be read in it. */
async function turns (count = 10): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise(resolve => setImmediate(resolve))
}

/** One answer and nothing behind it: the next request on the connection is the next that is answered. */
async function oneAnswer (t: Test, client: Wire, status: number, body?: string, method?: string): Promise<void> {
  const response = await client.response(0, method)
  t.equal(response.status, status)
  if (body !== undefined) t.equal(response.body, body)
  await turns()
  t.equal(client.received.length, response.length, 'one answer')
}

t.test('the second attempt\'s answer wins, and the first attempt is given up and nobody\'s failure', async t => {
  const events: string[] = []
  const { askTwice, metrics, proxy, gateway } = await start(t, { breaker: { threshold: 1 }, outlier: { consecutiveFailures: 1, consecutiveLocalErrors: 1, interval: 60_000 }, retry: true }, {
    setup: app => { for (const name of ['backend:ejected', 'circuit:opened'] as const) app.proxy.on(name as 'backend:ejected', () => events.push(name)) }
  })
  const { client, first, second } = await askTwice()
  t.not(first.id, second.id, 'another backend')
  t.equal(second.request.head, first.request.head.replace(/host: .*/i, second.request.head.match(/host: .*/i)?.[0] as string), 'the same request')
  t.match(metrics(), { hedgedRequests: 1, hedgesWon: 0, inFlight: 1 })
  second.wire.send(ok('second'))
  await oneAnswer(t, client, 200, 'second')
  await gone(first.wire)
  t.match(metrics(), {
    totalRequests: 1,
    successfulRequests: 1,
    failedRequests: 0,
    abortedRequests: 0,
    inFlight: 0,
    totalRetries: 0,
    retriesDenied: 0,
    hedgedRequests: 1,
    hedgesWon: 1,
    timeouts: { wait: 0, request: 0 },
    backends: {
      [first.id]: { totalRequests: 1, successfulRequests: 0, failedRequests: 0, abortedRequests: 1, inFlight: 0 },
      [second.id]: { totalRequests: 1, successfulRequests: 1, failedRequests: 0, abortedRequests: 0, inFlight: 0 }
    }
  })
  t.equal(proxy.getCircuitBreaker().getState(first.id), 'closed')
  t.notOk(proxy.getBackend(first.id).ejected)
  t.ok(proxy.getBackend(first.id).available)
  t.strictSame(events, [])
  t.equal(gateway.log.filter(({ msg }) => msg === 'attempt failed').length, 0)
  t.equal(proxy.getConnectionPool().stats().active, 0)
})

t.test('the first attempt may still win, and then the second is given up', async t => {
  const { askTwice, metrics, proxy } = await start(t, { breaker: { threshold: 1 } })
  const { client, first, second } = await askTwice()
  first.wire.send(ok('first'))
  await oneAnswer(t, client, 200, 'first')
  await gone(second.wire)
  t.match(metrics(), {
    totalRequests: 1,
    successfulRequests: 1,
    hedgedRequests: 1,
    hedgesWon: 0,
    backends: { [first.id]: { successfulRequests: 1, abortedRequests: 0 }, [second.id]: { successfulRequests: 0, failedRequests: 0, abortedRequests: 1, inFlight: 0 } }
  })
  t.equal(proxy.getCircuitBreaker().getState(second.id), 'closed')
  await until(() => proxy.getConnectionPool().stats().active === 0)
})

t.test('the loser is given up as soon as a head has come, whatever follows it', async t => {
  const { askTwice, metrics } = await start(t)
  const { client, first, second } = await askTwice()
  second.wire.send('HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsec')
  await client.receive('\r\n\r\nsec')
  await gone(first.wire)
  t.match(metrics(), { inFlight: 1, backends: { [first.id]: { abortedRequests: 1, inFlight: 0 }, [second.id]: { inFlight: 1 } } })
  second.wire.send('ond')
  await oneAnswer(t, client, 200, 'second')
})

t.test('two answers at the same moment are one answer', async t => {
  const { askTwice, metrics, clock } = await start(t)
  for (let i = 0; i < 10; i++) {
    const { client, first, second } = await askTwice()
    const [one, other] = i % 2 === 0 ? [first, second] : [second, first]
    one.wire.send(ok('one'))
    other.wire.send(ok('other'))
    const { body, length } = await client.response()
    t.match(body, /^(?:one|other)$/)
    await until(() => metrics().inFlight === 0)
    await turns()
    t.equal(client.received.length, length)
    clock.advance(1)
  }
  const { backends } = metrics()
  t.match(metrics(), { totalRequests: 10, successfulRequests: 10, hedgedRequests: 10 })
  t.equal(Object.values(backends).reduce((sum, { successfulRequests }) => sum + successfulRequests, 0), 10)
  t.equal(Object.values(backends).reduce((sum, { abortedRequests }) => sum + abortedRequests, 0), 10)
})

t.test('a large answer comes whole from the one that has won', async t => {
  const { askTwice } = await start(t)
  const { client, first, second } = await askTwice()
  const content = 'x'.repeat(500_000)
  second.wire.send(ok(content))
  first.wire.send(ok('y'.repeat(500_000)))
  const { body } = await client.response()
  t.ok(body === content || body === content.replaceAll('x', 'y'), 'of one alone')
})

t.test('nothing is hedged before twenty answers are known', async t => {
  const { ask, hedges, clock } = await start(t, {}, { learned: 19 })
  const { client, first } = await ask()
  clock.advance(1_000)
  t.equal(hedges(), 0)
  first.wire.send(ok())
  await client.response()
  clock.advance(250)
  await ask()
  // A second is what one of the twenty has taken, and no more than that.
  clock.advance(50)
  t.equal(hedges(), 1)
})

t.test('the second attempt is made when the least delay has passed, not before', async t => {
  const { ask, hedges, clock } = await start(t)
  await ask()
  clock.advance(49)
  t.equal(hedges(), 0)
  clock.advance(1)
  t.equal(hedges(), 1)
  clock.advance(10_000)
  t.equal(hedges(), 1, 'and there is no third')
})

t.test('the second attempt is made when so much of the recent answers would have come', async t => {
  for (const [percentile, expected] of [[95, 95], [50, 50], [75, 75]]) {
    const { ask, hedges, clock } = await start(t, { hedge: { percentile, minDelay: 1, maxExtra: 1 } }, { learned: 0 })
    const asked = []
    for (let i = 0; i < 20; i++) asked.push(await ask())
    for (const { client, first } of asked) {
      clock.advance(5)
      first.wire.send(ok())
      await client.response()
    }
    clock.advance(250)
    t.equal(hedges(), 0)
    await ask()
    clock.advance(Math.floor(expected * 31 / 32) - 1)
    t.equal(hedges(), 0, `percentile ${percentile}: not yet`)
    clock.advance(Math.ceil(expected / 16) + 2)
    t.equal(hedges(), 1, `percentile ${percentile}: now`)
  }
})

t.test('first attempts that lose are known to have taken longer, so that the delay does not shrink to that of the quick ones', async t => {
  const { ask, clock, held, hedges } = await start(t, { hedge: { ...HEDGE, percentile: 50 } })
  for (let i = 0; i < 30; i++) {
    const { client, first } = await ask()
    const before = hedges()
    while (hedges() === before) clock.advance(10)
    await until(() => held.at(-1)?.wire !== first.wire)
    clock.advance(30)
    held.at(-1)?.wire.send(ok())
    await client.response()
  }
  clock.advance(250)
  const before = hedges()
  await ask()
  clock.advance(75)
  t.equal(hedges(), before, 'half of them have taken at least 80 ms')
  clock.advance(200)
  t.equal(hedges(), before + 1)
})

for (const retry of [true, false]) {
  t.test(`an answer that is none worth having waits for the other, ${retry ? 'with' : 'without'} retries`, async t => {
    for (const bad of ['first', 'second'] as const) {
      const { askTwice, metrics, held } = await start(t, { retry })
      const asked = await askTwice()
      const { client, first, second } = asked
      asked[bad].wire.send(BAD)
      await until(() => metrics().backends[asked[bad].id].inFlight === 0)
      await turns()
      t.equal(client.received, '', `${bad}: nothing has gone out`)
      const other = bad === 'first' ? second : first
      other.wire.send(ok('good'))
      await oneAnswer(t, client, 200, 'good')
      t.equal(held.length, 2)
      t.match(metrics(), { totalRequests: 1, successfulRequests: 1, totalRetries: 0, hedgedRequests: 1, hedgesWon: bad === 'first' ? 1 : 0, backends: { [asked[bad].id]: { failedRequests: 1, abortedRequests: 0 }, [other.id]: { successfulRequests: 1 } } })
    }
  })
}

t.test('an attempt that fails leaves all to the other', async t => {
  for (const bad of ['first', 'second'] as const) {
    const { askTwice, metrics, held } = await start(t, { retry: true })
    const asked = await askTwice()
    asked[bad].wire.reset()
    await until(() => metrics().backends[asked[bad].id].inFlight === 0)
    await turns()
    t.equal(asked.client.received, '', bad)
    const other = asked[bad === 'first' ? 'second' : 'first']
    other.wire.send(ok('good'))
    await oneAnswer(t, asked.client, 200, 'good')
    t.equal(held.length, 2)
    t.match(metrics(), { totalRequests: 1, successfulRequests: 1, totalRetries: 0, hedgesWon: bad === 'first' ? 1 : 0 })
  }
})

t.test('when both fail, one answer says so', async t => {
  for (const [one, other, status] of [['cut', 'cut', 502], ['503', '503', 503], ['cut', '503', 503], ['503', 'cut', 502]] as const) {
    const { askTwice, metrics } = await start(t)
    const { client, first, second } = await askTwice()
    const fail = (wire: Wire, how: string) => how === 'cut' ? cut(wire) : wire.send(BAD)
    fail(first.wire, one)
    await until(() => metrics().backends[first.id].inFlight === 0)
    fail(second.wire, other)
    await oneAnswer(t, client, status)
    t.match(metrics(), { totalRequests: 1, failedRequests: 1, totalRetries: 0, hedgesWon: other === '503' ? 1 : 0, inFlight: 0 }, `${one}, then ${other}`)
  }
})

t.test('when both fail, what is left of the retries is made', async t => {
  const { askTwice, metrics, held } = await start(t, { retry: { attempts: 2 } }, { ids: ['a', 'b', 'c'] })
  const { client, first, second } = await askTwice()
  first.wire.send(BAD)
  await until(() => metrics().backends[first.id].inFlight === 0)
  t.equal(metrics().totalRetries, 0)
  cut(second.wire)
  await until(() => held.length === 3)
  t.strictSame(held.map(({ id }) => id).sort(), ['a', 'b', 'c'], 'on the one that was not asked yet')
  held[2].wire.send(ok('third'))
  await oneAnswer(t, client, 200, 'third')
  t.match(metrics(), { totalRequests: 1, successfulRequests: 1, totalRetries: 1, hedgedRequests: 1, hedgesWon: 0 })
})

t.test('an attempt that takes too long leaves all to the other', async t => {
  const { askTwice, metrics, clock, held } = await start(t, { retry: { perTryTimeout: 80 } })
  const { client, first, second } = await askTwice()
  // The sweep is a tenth as fine as the shortest time-out.
  clock.advance(40)
  await gone(first.wire)
  t.match(metrics(), { totalRetries: 0, timeouts: { wait: 1, request: 0 }, backends: { [first.id]: { failedRequests: 1 }, [second.id]: { inFlight: 1 } } })
  second.wire.send(ok('second'))
  await oneAnswer(t, client, 200, 'second')
  t.equal(held.length, 2)
})

t.test('a client that goes ends both attempts', async t => {
  const { askTwice, metrics, proxy } = await start(t, { breaker: { threshold: 1 } })
  const { client, first, second } = await askTwice()
  client.close()
  await Promise.all([gone(first.wire), gone(second.wire)])
  t.match(metrics(), {
    totalRequests: 1,
    abortedRequests: 1,
    failedRequests: 0,
    hedgedRequests: 1,
    hedgesWon: 0,
    inFlight: 0,
    backends: { a: { abortedRequests: 1, failedRequests: 0, inFlight: 0 }, b: { abortedRequests: 1, failedRequests: 0, inFlight: 0 } }
  })
  t.equal(proxy.getConnectionPool().stats().active, 0)
  t.ok(proxy.listBackends().every(({ circuitState }) => circuitState === 'closed'))
})

t.test('the deadline ends both attempts, and the client hears of it once', async t => {
  const { askTwice, metrics, clock } = await start(t, { timeout: { request: 100 }, retry: true })
  const { client, first, second } = await askTwice()
  clock.advance(60)
  await oneAnswer(t, client, 504)
  await Promise.all([gone(first.wire), gone(second.wire)])
  t.match(metrics(), { totalRequests: 1, failedRequests: 1, inFlight: 0, totalRetries: 0, timeouts: { request: 1, wait: 0 }, backends: { a: { inFlight: 0 }, b: { inFlight: 0 } } })
})

t.test('a client that goes, or an answer, before the delay is over leaves nothing behind', async t => {
  const { ask, hedges, clock, held, metrics } = await start(t)
  const answered = await ask()
  answered.first.wire.send(ok())
  await answered.client.response()
  const left = await ask()
  left.client.close()
  await gone(left.first.wire)
  await until(() => metrics().inFlight === 0)
  clock.advance(1_000)
  await turns()
  t.equal(hedges(), 0)
  t.equal(held.length, 2)
})

t.test('a failure before the delay is over is tried again, and not hedged', async t => {
  const { ask, hedges, clock, held } = await start(t, { retry: true })
  const { client, first } = await ask()
  first.wire.send(BAD)
  await until(() => held.length === 2)
  clock.advance(1_000)
  t.equal(hedges(), 0)
  held[1].wire.send(ok('again'))
  await oneAnswer(t, client, 200, 'again')
})

t.test('second attempts keep within their own budget', async t => {
  const { ask, hedges, clock, metrics } = await start(t, { hedge: { minDelay: 50, maxExtra: 0.1 }, retry: { budget: { percent: 0, minPerSecond: 0 } } })
  for (let i = 0; i < 10; i++) await ask()
  clock.advance(50)
  t.equal(hedges(), 3, 'a tenth of thirty')
  t.match(metrics(), { totalRetries: 0, retriesDenied: 0 }, 'which is not that of retries')
})

t.test('with no budget nothing is hedged', async t => {
  const { ask, hedges, clock } = await start(t, { hedge: { minDelay: 50, maxExtra: 0 } })
  await ask()
  clock.advance(50)
  t.equal(hedges(), 0)
})

t.test('without a second backend nothing is hedged', async t => {
  const { ask, hedges, clock } = await start(t, {}, { ids: ['a'] })
  const { client, first } = await ask()
  clock.advance(50)
  t.equal(hedges(), 0)
  first.wire.send(ok('alone'))
  await oneAnswer(t, client, 200, 'alone')
})

t.test('only what is idempotent is hedged', async t => {
  for (const [method, expected] of [['GET', 1], ['HEAD', 1], ['OPTIONS', 1], ['DELETE', 1], ['PUT', 1], ['POST', 0], ['PATCH', 0]] as const) {
    for (const retry of [true, false]) {
      const { ask, hedges, clock, metrics, held } = await start(t, { retry })
      const { client } = await ask(`${method} /hold HTTP/1.1`)
      clock.advance(50)
      t.equal(hedges(), expected, `${method}, ${retry ? 'with' : 'without'} retries`)
      await until(() => held.length === 1 + expected)
      client.close()
      await until(() => metrics().inFlight === 0)
    }
  }
})

t.test('a request with a key is idempotent where that is said', async t => {
  for (const [idempotencyKey, fields, expected] of [[true, '\r\nIdempotency-Key: 1', 1], [true, '', 0], [false, '\r\nIdempotency-Key: 1', 0], [() => true, '', 1], [() => { throw new Error('no') }, '', 0]] as const) {
    const { ask, hedges, clock } = await start(t, { retry: { idempotencyKey } })
    await ask(`POST /hold HTTP/1.1${fields}`)
    clock.advance(50)
    t.equal(hedges(), expected)
  }
})

t.test('a body that is small and has come is sent to both', async t => {
  const body = 'x'.repeat(10_000)
  for (const [head, sent] of [[`PUT /hold HTTP/1.1\r\nContent-Length: ${body.length}`, body], ['PUT /hold HTTP/1.1\r\nTransfer-Encoding: chunked', `2710\r\n${body}\r\n0\r\n\r\n`]]) {
    const { askTwice } = await start(t, { retry: true })
    const { client, first, second } = await askTwice(head, sent)
    t.equal(first.request.body, body)
    t.equal(second.request.body, body)
    second.wire.send(ok('second'))
    await oneAnswer(t, client, 200, 'second')
  }
})

t.test('a body that is too large to be kept is not sent twice', async t => {
  for (const [size, expected] of [[1_000, 1], [1_001, 0]]) {
    for (const way of ['length', 'chunks']) {
      const { ask, hedges, clock } = await start(t, { retry: { maxBodySize: 1_000 } })
      const body = 'x'.repeat(size)
      await (way === 'length' ? ask(`PUT /hold HTTP/1.1\r\nContent-Length: ${size}`, body) : ask('PUT /hold HTTP/1.1\r\nTransfer-Encoding: chunked', `${size.toString(16)}\r\n${body}\r\n0\r\n\r\n`))
      clock.advance(50)
      t.equal(hedges(), expected, `${size} bytes by ${way}`)
    }
  }
})

t.test('a request that is still coming is not hedged', async t => {
  const { gateway, backends, hedges, clock, held } = await start(t, { retry: true })
  const client = await gateway.connect()
  const seen = () => Object.values(backends).flatMap(({ connections }) => connections).some(({ received }) => received.includes('half'))
  client.send('PUT /hold HTTP/1.1\r\nHost: gateway\r\nContent-Length: 8\r\n\r\nhalf')
  await until(seen)
  clock.advance(1_000)
  t.equal(hedges(), 0)
  client.send('done')
  await until(() => held.length === 1)
  held[0].wire.send(ok('whole'))
  await oneAnswer(t, client, 200, 'whole')
  t.equal(hedges(), 0)
})

t.test('after an interim response nothing is hedged', async t => {
  const { ask, hedges, clock } = await start(t)
  const { client, first } = await ask()
  first.wire.send('HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n')
  await client.receive('a.css')
  clock.advance(1_000)
  t.equal(hedges(), 0)
  first.wire.send(ok())
  await client.receive('200 OK')
})

t.test('a balancer that takes its time is not asked for a second attempt', async t => {
  const { ask, hedges, clock } = await start(t, { balancer: async available => available[0] })
  const { client, first } = await ask()
  clock.advance(1_000)
  t.equal(hedges(), 0)
  first.wire.send(ok('first'))
  await oneAnswer(t, client, 200, 'first')
})

t.test('a balancer that throws for the second attempt leaves the first alone', async t => {
  let asked = 0
  const { ask, hedges, clock } = await start(t, {
    balancer: available => {
      if (++asked > 21) throw new Error('no')
      return available[0]
    }
  })
  const { client, first } = await ask()
  clock.advance(50)
  t.equal(asked, 22)
  t.equal(hedges(), 0)
  first.wire.send(ok('first'))
  await oneAnswer(t, client, 200, 'first')
})

t.test('a route or a call may have it otherwise', async t => {
  const { ask, hedges, clock, gateway } = await start(t, {
    hedge: false,
    routes: [{ prefix: '/route', rewritePrefix: '/', hedge: HEDGE }, { prefix: '/' }]
  }, {
    setup: app => {
      app.get('/call', (request, reply) => app.proxy.forward(request, reply, { hedge: HEDGE, path: '/hold' }))
      app.get('/plain', (request, reply) => app.proxy.forward(request, reply, { path: '/hold' }))
    }
  })
  for (let i = 0; i < 21; i++) await gateway.app.inject('/route/')
  for (const [path, expected] of [['/route/hold', 1], ['/hold', 0], ['/call', 1], ['/plain', 0]] as const) {
    const before = hedges()
    clock.advance(250)
    await ask(`GET ${path} HTTP/1.1`)
    clock.advance(50)
    t.equal(hedges() - before, expected, path)
  }

  const not = await start(t, { routes: [{ prefix: '/', hedge: false }] })
  await not.ask()
  not.clock.advance(50)
  t.equal(not.hedges(), 0, 'switched off for a route')
})

t.test('what a handler reads itself is hedged as well', async t => {
  const { askTwice, metrics } = await start(t, { routes: [] }, {
    learned: 0,
    setup: async app => {
      app.get('/hold', async (request, reply) => {
        const { statusCode, body, attempts } = await app.proxy.forward(request)
        reply.code(statusCode).header('x-attempts', attempts.map(({ hedge, result }) => `${hedge ? 'second' : 'first'} ${result}`).join())
        return body
      })
      for (let i = 0; i < 20; i++) await (await app.proxy.forwardHttp(new Request('http://g/'))).text()
    }
  })
  const { client, first, second } = await askTwice()
  second.wire.send(ok('second'))
  const response = await client.response()
  t.equal(response.body, 'second')
  t.strictSame(response.values('x-attempts'), ['first aborted,second pending'])
  await gone(first.wire)
  t.match(metrics(), { hedgedRequests: 1, hedgesWon: 1 })
})

t.test('a backend that keeps its clients is not hedged to another where they must stay', async t => {
  const { ask, hedges, clock, gateway } = await start(t, { affinity: { secret: 'a long enough secret of the test', onUnavailable: 'fail' } })
  const cookie = (await gateway.app.inject('/')).cookies[0]
  const { client, first } = await ask(`GET /hold HTTP/1.1\r\nCookie: ${cookie.name}=${cookie.value}`)
  clock.advance(50)
  t.equal(hedges(), 0)
  first.wire.send(ok('kept'))
  await oneAnswer(t, client, 200, 'kept')
})

t.test('a try of a circuit that is half open is judged by its own answer', async t => {
  const { clock, held, proxy, ask, hedges } = await start(t, { breaker: { timeout: 1_000, jitter: 0 } })
  const { circuit } = proxy.getBackend('a') as unknown as { circuit: { openFor (wait: number): void } }
  circuit.openFor(1_000)
  clock.advance(1_000)
  const seen: string[] = []
  for (let i = 0; i < 2; i++) {
    const { client, first } = await ask()
    seen.push(first.id)
    clock.advance(50)
    if (first.id === 'a') {
      await turns()
      t.equal(hedges(), 0, 'the try alone')
      clock.advance(1_000)
    } else await until(() => held.length > 1)
    held.at(-1)?.wire.send(ok('late'))
    t.equal((await client.response()).status, 200)
    if (first.id === 'a') break
    held.length = 0
  }
  t.ok(seen.includes('a'), seen.join())
})
