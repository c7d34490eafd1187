import { once } from 'node:events'
import type { Socket } from 'node:net'
import t, { type Test } from 'tap'
import type { Backend, LimitsOptions, LoadBalancer, RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type Gateway, type GatewaySetup } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, rawBackend, until, type Message, type RawBackend, type Wire } from '../helpers/wire.ts'

const OVERLOADED = 'FST_ROCKSTAR_OVERLOADED'
/** Where nothing but limits is to end a wait. */
const patient = { connect: 0, headers: 0, idle: 0, request: 0 }

/** Left alone, it would send all to one. */
const first: LoadBalancer = { type: 'first', select: (available, { tried }) => available.find(backend => tried?.includes(backend) !== true) }

/** A backend that holds what it gets until a test answers it. */
interface Holder {
  id: string
  wire: RawBackend
  held: { path: string, body: string, connection: Wire }[]
  /** Answers the one it has held for longest, or the one of a path; with its own name where nothing else is said. */
  answer (path?: string, response?: string): void
}

async function holder (t: Test, id: string): Promise<Holder> {
  const held: Holder['held'] = []
  const wire = await rawBackend(t, (request, connection) => { held.push({ path: request.startLine.split(' ')[1], body: request.body, connection }) })
  return {
    id,
    wire,
    held,
    answer (path, response = ok(id)) {
      const at = path === undefined ? 0 : held.findIndex(one => one.path === path)
      held.splice(at, 1)[0].connection.send(response)
    }
  }
}

interface Stage {
  gateway: Gateway
  clock: FakeClock
  holders: Holder[]
  /** Sends a request, whose answer is awaited elsewhere. */
  ask (path?: string, ...fields: string[]): Promise<Asked>
  queued (): number
}

interface Asked {
  wire: Wire
  response: Promise<Message>
}

/** A gateway in front of backends called a, b, c …, whose time stands still. */
async function stage (t: Test, count: number, limits: LimitsOptions | false, options: RockstarProxyOptions = {}, setup?: GatewaySetup): Promise<Stage> {
  const clock = new FakeClock()
  const holders = await Promise.all(Array.from({ length: count }, (_, i) => holder(t, 'abcdef'[i])))
  const gateway = await startGateway(t, {
    backends: holders.map(({ id, wire: { url } }) => ({ id, url, metadata: { zone: id } })), limits, clock, random: () => 0.5, timeout: patient, routes: [{ prefix: '/' }], ...options
  }, setup)
  return {
    gateway,
    clock,
    holders,
    ask: async (path = '/', ...fields) => {
      const wire = await gateway.connect()
      wire.send([`GET ${path} HTTP/1.1`, 'Host: gateway', ...fields, '', ''].join('\r\n'))
      const response = wire.response()
      // Not every test waits for it.
      response.catch(() => {})
      return { wire, response }
    },
    queued: () => gateway.app.proxy.getMetrics().queueLength
  }
}

/** Lets whatever is on its way arrive, where nothing should. */
const settled = async () => { for (let i = 0; i < 30; i++) await new Promise(setImmediate) }

/** Asks one after the other, each when the one before it waits. */
async function line (stage: Stage, ...asks: [path: string, ...fields: string[]][]): Promise<Asked[]> {
  const asked: Asked[] = []
  for (const [path, ...fields] of asks) {
    const before = stage.queued()
    asked.push(await stage.ask(path, ...fields))
    await until(() => stage.queued() === before + 1)
  }
  return asked
}

async function isOverloaded (t: Test, { response }: Asked, retryAfter = '1'): Promise<void> {
  const { status, body, values } = await response
  t.equal(status, 503)
  t.equal(JSON.parse(body).code, OVERLOADED)
  t.strictSame(values('retry-after'), [retryAfter])
}

/** That nothing is left of anything. */
async function empty (t: Test, { gateway, queued }: Stage): Promise<void> {
  const { proxy } = gateway.app
  await until(() => proxy.getMetrics().inFlight === 0 && queued() === 0)
  for (const backend of proxy.listBackends()) t.equal(backend.inFlight, 0)
}

t.test('no more requests than maxInFlight are under way at once, and those that wait get through one by one', async t => {
  const at = await stage(t, 1, { maxInFlight: 2 })
  const [a] = at.holders
  const first = [await at.ask('/1'), await at.ask('/2')]
  await until(() => a.held.length === 2)
  const then = await line(at, ['/3'], ['/4'])
  await settled()
  t.equal(a.wire.requests.length, 2)
  a.answer('/2')
  t.equal((await first[1].response).body, 'a')
  await until(() => a.held.some(({ path }) => path === '/3'))
  t.equal(at.queued(), 1)
  a.answer('/1')
  await until(() => a.held.some(({ path }) => path === '/4'))
  a.answer()
  a.answer()
  for (const { response } of [...first, ...then]) t.equal((await response).status, 200)
  const { queuedRequests, shedRequests, totalRequests, successfulRequests } = at.gateway.app.proxy.getMetrics()
  t.strictSame({ queuedRequests, shedRequests, totalRequests, successfulRequests }, { queuedRequests: 2, shedRequests: 0, totalRequests: 4, successfulRequests: 4 })
  await empty(t, at)
})

t.test('a request counts against maxInFlight to the last byte of its answer', async t => {
  const at = await stage(t, 1, { maxInFlight: 1 })
  const [a] = at.holders
  const first = await at.ask()
  await until(() => a.held.length === 1)
  const [{ connection }] = a.held
  a.answer(undefined, 'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf')
  await first.wire.receive('half')
  const [second] = await line(at, ['/2'])
  connection.send('half')
  t.equal((await first.response).body, 'halfhalf')
  await until(() => a.held.length === 1)
  a.answer()
  t.equal((await second.response).status, 200)
  await empty(t, at)
})

t.test('with maxPerBackend other backends are taken first, and requests wait when all have as many as they may', async t => {
  const at = await stage(t, 3, { maxPerBackend: 1 }, { balancer: first })
  const asked: Asked[] = []
  for (let i = 0; i < 3; i++) {
    asked.push(await at.ask(`/${i}`))
    await until(() => at.holders[i].held.length === 1)
  }
  t.strictSame(at.gateway.app.proxy.listBackends().map(({ inFlight, limit }) => [inFlight, limit]), [[1, 1], [1, 1], [1, 1]])
  const [waiting] = await line(at, ['/3'])
  await settled()
  t.strictSame(at.holders.map(({ held }) => held.length), [1, 1, 1])
  at.holders[1].answer()
  t.equal((await asked[1].response).body, 'b')
  await until(() => at.holders[1].held.length === 1)
  for (const one of at.holders) one.answer()
  t.equal((await waiting.response).body, 'b')
  await empty(t, at)
})

t.test('the limit and what is under way show in a backend\'s status, and no limit where there is none', async t => {
  const at = await stage(t, 1, { maxPerBackend: 7 })
  const backend = at.gateway.app.proxy.getBackend('a')
  t.equal(backend.limit, 7)
  t.match(backend.toJSON(), { limit: 7, inFlight: 0 })
  const asked = await at.ask()
  await until(() => at.holders[0].held.length === 1)
  t.match(JSON.parse(JSON.stringify(backend)), { limit: 7, inFlight: 1 })
  at.holders[0].answer()
  await asked.response
  const free = await stage(t, 1, { maxInFlight: 3 })
  t.equal(free.gateway.app.proxy.getBackend('a').limit, Infinity)
  t.notOk('limit' in free.gateway.app.proxy.getBackend('a').toJSON())
})

t.test('a full queue refuses with 503, OVERLOADED and Retry-After', async t => {
  const at = await stage(t, 1, { maxInFlight: 1, queue: { size: 2, timeout: 2_500 } })
  const first = await at.ask()
  await until(() => at.holders[0].held.length === 1)
  const waiting = await line(at, ['/2'], ['/3'])
  await isOverloaded(t, await at.ask('/4'), '3')
  t.match(at.gateway.app.proxy.getMetrics(), { queueLength: 2, queuedRequests: 2, shedRequests: 1, failedRequests: 1 })
  t.equal(at.gateway.app.proxy.getMetrics().backends.a.failedRequests, 0)
  for (const { response } of [first, ...waiting]) {
    await until(() => at.holders[0].held.length === 1)
    at.holders[0].answer()
    t.equal((await response).status, 200)
  }
  await empty(t, at)
})

t.test('with queue: false what is too much is refused at once', async t => {
  for (const limits of [{ maxInFlight: 1, queue: false }, { maxPerBackend: 1, queue: false }]) {
    const at = await stage(t, 1, limits)
    const first = await at.ask()
    await until(() => at.holders[0].held.length === 1)
    await isOverloaded(t, await at.ask('/2'))
    t.match(at.gateway.app.proxy.getMetrics(), { queuedRequests: 0, queueLength: 0, shedRequests: 1 })
    at.holders[0].answer()
    t.equal((await first.response).status, 200)
    await empty(t, at)
  }
})

t.test('who waits for too long is refused, and the others wait on', async t => {
  const at = await stage(t, 1, { maxInFlight: 1, queue: { timeout: 1_000 } })
  const first = await at.ask()
  await until(() => at.holders[0].held.length === 1)
  const [second] = await line(at, ['/2'])
  at.clock.advance(600)
  const [third] = await line(at, ['/3'])
  at.clock.advance(600)
  await isOverloaded(t, second)
  t.match(at.gateway.app.proxy.getMetrics(), { queueLength: 1, shedRequests: 1, timeouts: { queue: 1, request: 0, wait: 0 } })
  at.holders[0].answer()
  await first.response
  await until(() => at.holders[0].held.length === 1)
  t.equal(at.holders[0].held[0].path, '/3')
  at.clock.advance(10_000)
  at.holders[0].answer()
  t.equal((await third.response).status, 200, 'once let in, its wait in the queue does not matter any more')
  await empty(t, at)
})

t.test('with queue.timeout 0 only timeout.request ends the wait', async t => {
  const at = await stage(t, 1, { maxInFlight: 1, queue: { timeout: 0 } }, { timeout: { ...patient, request: 60_000 }, routes: [{ prefix: '/', timeout: {} }, { prefix: '/slow', timeout: { request: 0 } }] })
  const first = await at.ask('/slow')
  await until(() => at.holders[0].held.length === 1)
  const [second] = await line(at, ['/2'])
  at.clock.advance(25_000)
  await settled()
  t.equal(at.queued(), 1)
  at.clock.advance(36_000)
  t.equal((await second.response).status, 503)
  t.equal(at.gateway.app.proxy.getMetrics().timeouts.queue, 1)
  at.holders[0].answer()
  await first.response
  await empty(t, at)
})

t.test('nobody is let in with no time left to be answered in: he waits for half of what he has at the most', async t => {
  const at = await stage(t, 1, { maxInFlight: 1, queue: { timeout: 1_000 } }, { timeout: { ...patient, request: 1_000 } })
  const first = await at.ask()
  await until(() => at.holders[0].held.length === 1)
  const [second] = await line(at, ['/2'])
  at.clock.advance(700)
  if (!t.equal(at.queued(), 0)) return
  at.clock.advance(250)
  await isOverloaded(t, second)
  at.holders[0].answer()
  await first.response
  await empty(t, at)
})

for (const [order, expected] of [['fifo', '234'], ['lifo', '432']] as const) {
  t.test(`with ${order} those who wait are sent in the order ${expected}`, async t => {
    const at = await stage(t, 1, { maxInFlight: 1, queue: { order } })
    const [a] = at.holders
    await at.ask('/1')
    await until(() => a.held.length === 1)
    await line(at, ['/2'], ['/3'], ['/4'])
    for (let i = 0; i < 4; i++) {
      await until(() => a.held.length === 1)
      a.answer()
    }
    await empty(t, at)
    t.equal(a.wire.requests.map(({ startLine }) => startLine[5]).join(''), `1${expected}`)
  })
}

t.test('lower priorities go first, and in a full queue the least important makes room', async t => {
  const at = await stage(t, 1, { maxInFlight: 1, queue: { size: 3 }, priority: request => Number(request.headers['x-priority'] ?? 0) })
  const [a] = at.holders
  await at.ask('/1')
  await until(() => a.held.length === 1)
  const [, third] = await line(at, ['/2', 'X-Priority: 2'], ['/3', 'X-Priority: 2'], ['/4', 'X-Priority: 1'])
  await isOverloaded(t, await at.ask('/5', 'X-Priority: 3'))
  await at.ask('/6', 'X-Priority: -1')
  await isOverloaded(t, third)
  t.equal(at.queued(), 3)
  for (let i = 0; i < 4; i++) {
    await until(() => a.held.length === 1)
    a.answer()
  }
  await empty(t, at)
  t.equal(a.wire.requests.map(({ startLine }) => startLine[5]).join(''), '1642')
  t.match(at.gateway.app.proxy.getMetrics(), { queuedRequests: 4, shedRequests: 2 })
})

t.test('a priority function that throws, or says nothing that is a number, leaves the request at 0', async t => {
  const at = await stage(t, 1, {
    maxInFlight: 1,
    priority: request => {
      if (request.url === '/throws') throw new Error('no idea')
      return request.url === '/nan' ? Number.NaN : 1
    }
  })
  const [a] = at.holders
  await at.ask('/1')
  await until(() => a.held.length === 1)
  await line(at, ['/2'], ['/throws'], ['/nan'])
  for (let i = 0; i < 4; i++) {
    await until(() => a.held.length === 1)
    a.answer()
  }
  await empty(t, at)
  t.strictSame(a.wire.requests.map(({ startLine }) => startLine.split(' ')[1]), ['/1', '/throws', '/nan', '/2'])
  t.equal(at.gateway.log.filter(({ msg }) => msg === 'limits.priority threw').length, 1)
})

t.test('clients that leave while they wait free their place', async t => {
  const at = await stage(t, 1, { maxInFlight: 1, queue: { size: 2 } })
  const [a] = at.holders
  const first = await at.ask('/1')
  await until(() => a.held.length === 1)
  const [second] = await line(at, ['/2'], ['/3'])
  second.response.catch(() => {})
  second.wire.close()
  await until(() => at.queued() === 1)
  const [fourth] = await line(at, ['/4'])
  a.answer()
  await first.response
  for (const path of ['/3', '/4']) {
    await until(() => a.held.length === 1)
    t.equal(a.held[0].path, path)
    a.answer()
  }
  t.equal((await fourth.response).status, 200)
  t.match(at.gateway.app.proxy.getMetrics(), { abortedRequests: 1, shedRequests: 0, successfulRequests: 3 })
  await empty(t, at)
})

t.test('bodies are not read while their requests wait', async t => {
  const SIZE = 64 * 1_048_576
  const sockets: Socket[] = []
  const at = await stage(t, 1, { maxInFlight: 1 }, {}, { fastify: { bodyLimit: 2 * SIZE } })
  const [a] = at.holders
  at.gateway.app.server.on('connection', socket => sockets.push(socket))
  const first = await at.ask('/1')
  await until(() => a.held.length === 1)
  const sender = await at.gateway.connect()
  sender.send(`PUT /2 HTTP/1.1\r\nHost: g\r\nContent-Length: ${SIZE}\r\n\r\n`)
  sender.send(Buffer.alloc(SIZE, 'x'))
  await until(() => at.queued() === 1)
  for (let i = 0; i < 300; i++) await new Promise(setImmediate)
  t.ok(sockets[1].bytesRead < 1_048_576, `${sockets[1].bytesRead} bytes have been read`)
  t.equal(sender.closed, false)
  // Nobody sees that a client has gone of whom nothing is read: the queue's time-out ends its wait.
  sender.close()
  at.clock.advance(1_200)
  t.equal(at.queued(), 0)
  a.answer()
  await first.response
  t.equal(a.wire.requests.length, 1)
  await empty(t, at)
})

t.test('a body that has waited arrives whole', async t => {
  const at = await stage(t, 1, { maxInFlight: 1 })
  const [a] = at.holders
  await at.ask('/1')
  await until(() => a.held.length === 1)
  const body = 'x'.repeat(200_000)
  const sender = await at.gateway.connect()
  sender.send(`PUT /2 HTTP/1.1\r\nHost: g\r\nContent-Length: ${body.length}\r\n\r\n${body}`)
  await until(() => at.queued() === 1)
  a.answer()
  await until(() => a.held.length === 1)
  t.equal(a.held[0].body.length, body.length)
  a.answer()
  t.equal((await sender.response()).status, 200)
  await empty(t, at)
})

t.test('a request keeps its place among those let in while it waits to be tried again', async t => {
  const at = await stage(t, 1, { maxInFlight: 1 }, { retry: { backoff: { base: 1_000, max: 1_000 } } })
  const [a] = at.holders
  const first = await at.ask('/1')
  await until(() => a.held.length === 1)
  a.answer(undefined, ok('', '', '503 Sorry'))
  await until(() => at.gateway.log.some(({ msg }) => msg === 'attempt failed'))
  const [second] = await line(at, ['/2'])
  await settled()
  t.equal(a.held.length, 0, 'nobody else comes in meanwhile')
  at.clock.advance(999)
  await until(() => a.held.length === 1)
  t.equal(a.held[0].path, '/1')
  a.answer()
  t.equal((await first.response).status, 200)
  await until(() => a.held.length === 1)
  a.answer()
  t.equal((await second.response).status, 200)
  await empty(t, at)
})

t.test('a request that finds its only backend full when it is to be tried again waits for it, and is tried again', async t => {
  const at = await stage(t, 1, { maxPerBackend: 1, queue: { timeout: 0 } }, { retry: { backoff: { base: 1_000, max: 1_000 } } })
  const [a] = at.holders
  const first = await at.ask('/1')
  await until(() => a.held.length === 1)
  a.answer(undefined, ok('', '', '503 Sorry'))
  await until(() => at.gateway.log.some(({ msg }) => msg === 'attempt failed'))
  const second = await at.ask('/2')
  await until(() => a.held.length === 1)
  at.clock.advance(1_000)
  await until(() => at.queued() === 1)
  a.answer()
  t.equal((await second.response).status, 200)
  await until(() => a.held.length === 1 || first.wire.received !== '')
  t.equal(a.held[0]?.path, '/1', 'it is sent again')
  if (a.held.length > 0) a.answer()
  t.equal((await first.response).status, 200)
  await empty(t, at)
})

t.test('a balancer that does not look at what was tried makes requests wait, and nothing worse', async t => {
  const at = await stage(t, 2, { maxPerBackend: 1 }, { balancer: { type: 'stubborn', select: available => available[0] } })
  const [a] = at.holders
  const asked = await at.ask('/1')
  await until(() => a.held.length === 1)
  const [second] = await line(at, ['/2'])
  a.answer()
  t.equal((await asked.response).status, 200)
  await until(() => a.held.length === 1)
  a.answer()
  t.equal((await second.response).status, 200)
  await empty(t, at)
})

t.test('a retry goes past a backend that is full', async t => {
  const at = await stage(t, 3, { maxPerBackend: 1 }, { retry: true, balancer: first })
  const [a, b, c] = at.holders
  const asked = [await at.ask('/1')]
  await until(() => a.held.length === 1)
  asked.push(await at.ask('/2'))
  await until(() => b.held.length === 1)
  a.answer(undefined, ok('', '', '503 Sorry'))
  await until(() => c.held.length === 1)
  t.equal(c.held[0].path, '/1')
  b.answer()
  c.answer()
  t.strictSame(await Promise.all(asked.map(async ({ response }) => (await response).body)), ['c', 'b'])
  await empty(t, at)
})

t.test('a backend that is added takes those who wait', async t => {
  const at = await stage(t, 1, { maxPerBackend: 1 })
  const [a] = at.holders
  const first = await at.ask('/1')
  await until(() => a.held.length === 1)
  const [second] = await line(at, ['/2'])
  const other = await holder(t, 'other')
  at.gateway.app.proxy.addBackend({ id: 'other', url: other.wire.url })
  t.equal(at.gateway.app.proxy.getBackend('other').limit, 1)
  await until(() => other.held.length === 1)
  other.answer()
  t.equal((await second.response).body, 'other')
  a.answer()
  t.equal((await first.response).body, 'a')
  await empty(t, at)
})

t.test('when the last backend is removed, those who wait hear that there is none', async t => {
  const at = await stage(t, 1, { maxPerBackend: 1 })
  const first = await at.ask('/1')
  await until(() => at.holders[0].held.length === 1)
  const [second] = await line(at, ['/2'])
  await at.gateway.app.proxy.removeBackend('a', { drain: false })
  t.equal(JSON.parse((await second.response).body).code, 'FST_ROCKSTAR_NO_BACKEND')
  t.not((await first.response).status, 200)
  await until(() => at.gateway.app.proxy.getMetrics().inFlight === 0)
})

t.test('a backend that drains, full as it is, gets none of those who wait; the others do', async t => {
  const at = await stage(t, 2, { maxPerBackend: 1 })
  const [a, b] = at.holders
  const asked = [await at.ask('/1'), await at.ask('/2')]
  await until(() => a.held.length === 1 && b.held.length === 1)
  const [third] = await line(at, ['/3'])
  const removal = at.gateway.app.proxy.removeBackend('a', { drain: { timeout: 60_000 } })
  a.answer()
  await removal
  await settled()
  t.equal(at.queued(), 1)
  t.equal(a.wire.requests.length, 1)
  b.answer()
  await until(() => b.held.length === 1)
  b.answer()
  t.equal((await third.response).body, 'b')
  for (const { response } of asked) t.equal((await response).status, 200)
  await empty(t, at)
})

t.test('who waits for one backend holds up none who may use another, however many wait', async t => {
  const at = await stage(t, 2, { maxPerBackend: 1, queue: { timeout: 0 } }, {
    routes: [{ prefix: '/a', match: { zone: 'a' } }, { prefix: '/b', match: { zone: 'b' } }]
  })
  const [a, b] = at.holders
  await at.ask('/a')
  await at.ask('/b')
  await until(() => a.held.length === 1 && b.held.length === 1)
  const waiting = await Promise.all(Array.from({ length: 50 }, () => at.ask('/a')))
  await until(() => at.queued() === 50)
  const [behind] = await line(at, ['/b'])
  b.answer()
  await until(() => b.held.length === 1)
  b.answer()
  t.equal((await behind.response).body, 'b')
  t.equal(at.queued(), 50)
  const fresh = await at.ask('/b')
  await until(() => b.held.length === 1)
  b.answer()
  t.equal((await fresh.response).body, 'b')
  for (const { wire, response } of waiting) {
    response.catch(() => {})
    wire.close()
  }
  await until(() => at.queued() === 0)
  a.answer()
  await empty(t, at)
})

t.test('who belongs to a backend that is full goes to another unless he must stay', async t => {
  const at = await stage(t, 2, { maxPerBackend: 1 }, { affinity: { secret: 'a secret of some length' } })
  const first = await at.ask('/1')
  await until(() => at.holders.some(({ held }) => held.length === 1))
  const mine = at.holders.find(({ held }) => held.length === 1) as Holder
  const other = at.holders.find(one => one !== mine) as Holder
  mine.answer()
  const cookie = (await first.response).values('set-cookie')[0].split(';')[0]
  await at.ask('/2', `Cookie: ${cookie}`)
  await until(() => mine.held.length === 1)
  const elsewhere = await at.ask('/3', `Cookie: ${cookie}`)
  await until(() => other.held.length === 1)
  other.answer()
  t.equal((await elsewhere.response).body, other.id)
  mine.answer()
  await empty(t, at)
})

t.test('an async balancer whose choice is full is not asked again and again', { timeout: 20_000 }, async t => {
  let asked = 0
  const balancer = { type: 'slow', select: async (available: readonly Backend[]) => { asked++; return available[0] } }
  for (const limits of [{ maxPerBackend: 1 }, { maxPerBackend: 1, maxInFlight: 2 }]) {
    const at = await stage(t, 2, limits, { balancer, routes: [{ prefix: '/', match: { zone: 'a' } }] })
    const [a] = at.holders
    const first = await at.ask('/1')
    await until(() => a.held.length === 1)
    const [second] = await line(at, ['/2'])
    asked = 0
    await settled()
    t.equal(asked, 0)
    a.answer()
    await first.response
    await until(() => a.held.length === 1)
    a.answer()
    t.equal((await second.response).status, 200)
    await empty(t, at)
  }
})

t.test('an async balancer that chooses for several at once sends a backend no more than it may have', async t => {
  let decide: () => void = () => {}
  let asked = 0
  let decided = new Promise<void>(resolve => { decide = resolve })
  const balancer = { type: 'slow', select: (available: readonly Backend[]) => { asked++; return decided.then(() => available[0]) } }
  const at = await stage(t, 1, { maxPerBackend: 1 }, { balancer })
  const [a] = at.holders
  const both = [await at.ask('/1'), await at.ask('/2')]
  await until(() => asked === 2)
  decide()
  decided = Promise.resolve()
  await until(() => a.held.length > 0)
  await settled()
  t.equal(a.held.length, 1)
  t.equal(at.queued(), 1)
  while (a.held.length > 0) {
    a.answer()
    await settled()
  }
  for (const { response } of both) t.equal((await response).status, 200)
  await empty(t, at)
})

t.test('a request whose circuits are open hears so at once, also where its backends are full', async t => {
  const at = await stage(t, 1, { maxPerBackend: 1 }, { breaker: true })
  const first = await at.ask('/1')
  await until(() => at.holders[0].held.length === 1)
  const { circuit } = at.gateway.app.proxy.getBackend('a') as unknown as { circuit: { open (): void } }
  circuit.open()
  const second = await at.ask('/2')
  t.equal(JSON.parse((await second.response).body).code, 'FST_ROCKSTAR_CIRCUIT_OPEN')
  at.holders[0].answer()
  await first.response
  await empty(t, at)
})

t.test('an app that closes answers those who wait', async t => {
  const at = await stage(t, 1, { maxInFlight: 1 })
  const first = await at.ask('/1')
  await until(() => at.holders[0].held.length === 1)
  const waiting = await line(at, ['/2'], ['/3'])
  await at.gateway.app.close()
  for (const { wire } of [first, ...waiting]) {
    await until(() => wire.closed || wire.ended || wire.received !== '')
    t.notMatch(wire.received, 'HTTP/1.1 200')
  }
  t.equal(at.holders[0].wire.requests.length, 1)
  const { inFlight, queueLength } = at.gateway.app.proxy.getMetrics()
  t.strictSame([inFlight, queueLength], [0, 0])
  for (const { response } of [first, ...waiting]) response.catch(() => {})
})

t.test('an app that closes lets those finish who wait, while there is time', async t => {
  const at = await stage(t, 1, { maxInFlight: 1 }, { shutdownTimeout: 60_000 }, { fastify: { forceCloseConnections: false } })
  const [a] = at.holders
  const first = await at.ask('/1')
  await until(() => a.held.length === 1)
  const [second] = await line(at, ['/2'])
  const closed = at.gateway.app.close()
  await settled()
  a.answer()
  t.equal((await first.response).status, 200)
  await until(() => a.held.length === 1 || second.wire.received !== '')
  if (a.held.length > 0) a.answer()
  t.equal((await second.response).status, 200)
  first.wire.close()
  second.wire.close()
  await closed
})

t.test('a streaming answer counts against maxPerBackend to its end', async t => {
  const at = await stage(t, 1, { maxPerBackend: 1 })
  const [a] = at.holders
  const stream = await at.ask('/events')
  await until(() => a.held.length === 1)
  const [{ connection }] = a.held
  a.answer(undefined, 'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n6\r\ndata\n\n\r\n')
  await stream.wire.receive('data')
  const [second] = await line(at, ['/2'])
  connection.send('0\r\n\r\n')
  t.equal((await stream.response).status, 200)
  await until(() => a.held.length === 1)
  a.answer()
  t.equal((await second.response).status, 200)
  await empty(t, at)
})

t.test('an application that gives a waiting request up frees its place', async t => {
  const controller = new AbortController()
  const at = await stage(t, 1, { maxInFlight: 1 }, { routes: [] }, {
    setup: app => {
      app.get('/1', (request, reply) => app.proxy.forward(request, reply))
      app.get('/2', (request, reply) => app.proxy.forward(request, reply, { signal: controller.signal }))
    }
  })
  const first = await at.ask('/1')
  await until(() => at.holders[0].held.length === 1)
  const [second] = await line(at, ['/2'])
  controller.abort()
  t.not((await second.response).status, 200)
  t.equal(at.queued(), 0)
  at.holders[0].answer()
  t.equal((await first.response).status, 200)
  t.equal(at.holders[0].wire.requests.length, 1)
  await empty(t, at)
})

t.test('resetting the metrics sets what has been counted to zero, and leaves those who wait', async t => {
  const at = await stage(t, 1, { maxInFlight: 1, queue: { size: 1 } })
  const first = await at.ask('/1')
  await until(() => at.holders[0].held.length === 1)
  const [second] = await line(at, ['/2'])
  await isOverloaded(t, await at.ask('/3'))
  at.gateway.app.proxy.resetMetrics()
  t.match(at.gateway.app.proxy.getMetrics(), { queuedRequests: 0, shedRequests: 0, queueLength: 1, inFlight: 2 })
  at.holders[0].answer()
  await first.response
  await until(() => at.holders[0].held.length === 1)
  at.holders[0].answer()
  await second.response
  await empty(t, at)
})

t.test('a client that pipelines does not block itself', async t => {
  const at = await stage(t, 1, { maxInFlight: 1 })
  const wire = await at.gateway.connect()
  wire.send('GET /1 HTTP/1.1\r\nHost: g\r\n\r\nGET /2 HTTP/1.1\r\nHost: g\r\n\r\n')
  for (let i = 0; i < 2; i++) {
    await until(() => at.holders[0].held.length === 1)
    at.holders[0].answer()
  }
  const first = await wire.response()
  t.equal((await wire.response(first.length)).status, 200)
  wire.close()
  await once(wire.socket, 'close')
  await empty(t, at)
})

t.test('a request that waits for room to be tried again waits anew, and if in vain its own failure is told', async t => {
  const at = await stage(t, 1, { maxPerBackend: 1, queue: { timeout: 1_000 } }, { retry: { backoff: { base: 800, max: 800 } } })
  const [a] = at.holders
  const taken = await at.ask('/0')
  await until(() => a.held.length === 1)
  const first = await at.ask('/1')
  await until(() => at.queued() === 1)
  at.clock.advance(900)
  a.answer()
  await taken.response
  await until(() => a.held.length === 1)
  a.answer(undefined, ok('its own', '', '502 Sorry'))
  await until(() => at.gateway.log.some(({ msg }) => msg === 'attempt failed'))
  const second = await at.ask('/2')
  await until(() => a.held.length === 1)
  at.clock.advance(400)
  await until(() => at.queued() === 1)
  at.clock.advance(999)
  await settled()
  t.equal(at.queued(), 1, 'what it has waited before does not count')
  at.clock.advance(251)
  const response = await first.response
  t.equal(response.status, 503)
  t.equal(JSON.parse(response.body).code, OVERLOADED)
  a.answer()
  t.equal((await second.response).status, 200)
  await empty(t, at)
})

t.test('of a request that waits in vain to be tried again its attempt\'s failure is told', async t => {
  const at = await stage(t, 1, { maxPerBackend: 1, queue: { timeout: 1_000 } }, { retry: { backoff: { base: 800, max: 800 } } })
  const [a] = at.holders
  const first = await at.ask('/1')
  await until(() => a.held.length === 1)
  const { connection } = a.held.splice(0)[0]
  connection.socket.end('HTTP/1.1 2')
  await until(() => at.gateway.log.some(({ msg }) => msg === 'attempt failed'))
  const second = await at.ask('/2')
  await until(() => a.held.length === 1)
  at.clock.advance(400)
  await until(() => at.queued() === 1)
  at.clock.advance(1_250)
  const response = await first.response
  t.equal(response.status, 502)
  t.equal(JSON.parse(response.body).code, 'FST_ROCKSTAR_RESET')
  a.answer()
  t.equal((await second.response).status, 200)
  await empty(t, at)
})

t.test('an async balancer that has nobody once there is room ends the wait', async t => {
  let none = false
  const balancer = { type: 'slow', select: async (available: readonly Backend[]) => none ? undefined : available[0] }
  const at = await stage(t, 1, { maxPerBackend: 1 }, { balancer })
  const [a] = at.holders
  const first = await at.ask('/1')
  await until(() => a.held.length === 1)
  const [second] = await line(at, ['/2'])
  none = true
  a.answer()
  t.equal((await first.response).status, 200)
  const response = await second.response
  t.equal(response.status, 503)
  t.equal(JSON.parse(response.body).code, 'FST_ROCKSTAR_NO_BACKEND')
  await empty(t, at)
})
