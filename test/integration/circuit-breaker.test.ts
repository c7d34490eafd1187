import diagnostics from 'node:diagnostics_channel'
import t from 'tap'
import type { Test } from 'tap'
import type { Backend, BalancerType, BreakerInput, Circuit, CircuitBreaker as Contract, CircuitEnv, CircuitEvent, CircuitState, LoadBalancer, Outcome, RockstarProxyOptions } from '../../types/index.ts'
import { CircuitBreaker } from '../../plugins/index.ts'
import { startGateway, type Gateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { freePort } from '../helpers/ports.ts'
import { seeded } from '../helpers/random.ts'
import { ok, rawBackend, until, type Message, type RawBackend, type Wire } from '../helpers/wire.ts'

const OPEN = 'FST_ROCKSTAR_CIRCUIT_OPEN'
const REQUEST = 'GET / HTTP/1.1\r\nHost: gateway\r\n\r\n'
const bad = () => ok('', '', '503 Sorry')
/** Where a test lets much time pass while requests are under way. */
const patient = { headers: 0, idle: 0, request: 0 }

/** A backend that does as a test says; at first it answers with its name. */
interface Player {
  wire: RawBackend
  act: (request: Message, wire: Wire) => string | Buffer | void
  /** Connections with a request on them that waits for the test to answer it. */
  held: Wire[]
  /** An `act` that does not answer. */
  hold: Player['act']
}

interface Stage {
  gateway: Gateway
  clock: FakeClock
  players: Player[]
  /** The states that circuits have come to, each as `a open`. */
  changes: string[]
  state (id?: string): CircuitState
  /** Sends requests one after the other; returns what came of each: the body of a 200, else the status. */
  get (count?: number): Promise<string>
}

/** A gateway in front of backends called a, b, c …, whose time stands still and whose chance is the mean. */
async function stage (t: Test, count: number, breaker: BreakerInput = true, options: RockstarProxyOptions = {}): Promise<Stage> {
  const clock = new FakeClock()
  const players = await Promise.all(Array.from({ length: count }, async (_, i) => {
    const player: Player = { wire: undefined as never, act: () => ok('abc'[i]), held: [], hold: (_request, wire) => { player.held.push(wire) } }
    player.wire = await rawBackend(t, (request, wire) => player.act(request, wire))
    return player
  }))
  const backends = players.map(({ wire }, i) => ({ id: 'abc'[i], url: wire.url }))
  const gateway = await startGateway(t, { backends, breaker, clock, random: () => 0.5, routes: [{ prefix: '/' }], timeout: patient, ...options })
  const changes: string[] = []
  for (const state of ['open', 'half-open', 'closed'] as const) gateway.app.proxy.on(`circuit:${state}`, ({ backend, to }) => { changes.push(`${backend.id} ${to}`) })
  const get = async (count = 1) => {
    let answers = ''
    for (let i = 0; i < count; i++) {
      const { statusCode, body } = await gateway.app.inject('/')
      answers += statusCode === 200 ? body : `[${statusCode}]`
    }
    return answers
  }
  return { gateway, clock, players, changes, get, state: (id = 'a') => gateway.app.proxy.getCircuitBreaker().getState(id) }
}

/** Lets whatever is on its way arrive, where nothing should. */
const settled = async () => { for (let i = 0; i < 30; i++) await new Promise(setImmediate) }

/** Opens the circuit of the only backend by what it answers, and lets its time pass. */
async function halfOpen ({ players: [a], get, clock, state }: Stage): Promise<void> {
  const { act } = a
  a.act = bad
  while (state() !== 'open') await get()
  a.act = act
  clock.advance(30_000)
}

// What trips

const half = 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf'

/** Ways in which a backend fails a request that a client has sent. */
const failures: Record<string, { act: Player['act'], status: number, then?: (stage: Stage, client: Wire) => unknown, options?: RockstarProxyOptions }> = {
  'a reset': { act: (_request, wire) => wire.reset(), status: 502 },
  'a connection closed before the answer': { act: (_request, wire) => { wire.socket.end() }, status: 502 },
  'no head in time': { act: () => {}, status: 504, options: { timeout: { ...patient, headers: 100 } }, then: ({ clock }) => clock.advance(200) },
  'no answer in the time of the request': { act: () => {}, status: 504, options: { timeout: { ...patient, request: 100 } }, then: ({ clock }) => clock.advance(200) },
  'bytes that are no HTTP': { act: () => 'nonsense\r\n\r\n', status: 502 },
  'a head that cannot be sent on': { act: () => 'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n', status: 502 },
  'a body cut short': {
    act: () => half,
    status: 200,
    then: async ({ players }, client) => {
      await client.receive('half')
      for (const wire of players[0].wire.connections) wire.reset()
    }
  },
  'a body that stops': {
    act: () => half,
    status: 200,
    options: { timeout: { ...patient, idle: 100 } },
    then: async ({ clock }, client) => {
      await client.receive('half')
      clock.advance(200)
    }
  },
  'status 502': { act: () => ok('', '', '502 Bad'), status: 502 },
  'status 503': { act: bad, status: 503 },
  'status 504': { act: () => ok('', '', '504 Late'), status: 504 }
}

for (const [what, { act, status, then, options }] of Object.entries(failures)) {
  t.test(`by default the fifth failure in a row opens the circuit: ${what}`, async t => {
    const s = await stage(t, 1, true, options)
    const { gateway, players: [a], state } = s
    a.act = act
    for (let i = 1; i <= 5; i++) {
      t.equal(state(), 'closed', `before failure ${i}`)
      const client = await gateway.connect()
      client.send(REQUEST)
      await until(() => a.wire.requests.length === i)
      await then?.(s, client)
      await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
      await client.receive(`HTTP/1.1 ${status}`)
      client.close()
    }
    t.equal(state(), 'open')
    t.strictSame(s.changes, ['a open'])
    const response = await gateway.app.inject('/')
    t.equal(response.json().code, OPEN)
    t.equal(a.wire.requests.length, 5)
  })
}

t.test('by default the fifth failure in a row opens the circuit: a connection refused', async t => {
  const { app } = await startGateway(t, { backends: [{ id: 'a', url: `http://127.0.0.1:${await freePort()}` }], breaker: true, routes: [{ prefix: '/' }], clock: new FakeClock() })
  for (let i = 1; i <= 5; i++) {
    t.equal(app.proxy.getCircuitBreaker().getState('a'), 'closed', `before failure ${i}`)
    t.equal((await app.inject('/')).json().code, 'FST_ROCKSTAR_CONNECT')
  }
  t.equal(app.proxy.getCircuitBreaker().getState('a'), 'open')
  t.equal((await app.inject('/')).json().code, OPEN)
})

t.test('answers that are well, or that the client or the application is to blame for, never open it', async t => {
  for (const status of ['200 OK', '204 None', '304 Same', '400 Bad', '404 Not', '408 Late', '429 Many', '499 Gone', '500 Error', '501 Not', '505 Not', '507 Full', '511 Who']) {
    const { players: [a], get, state } = await stage(t, 1)
    a.act = () => /^(204|304)/.test(status) ? `HTTP/1.1 ${status}\r\n\r\n` : ok('', '', status)
    await get(8)
    t.equal(a.wire.requests.length, 8, status)
    t.equal(state(), 'closed', status)
  }
})

t.test('an answer in between begins the row anew, whatever status below 502 it has', async t => {
  const { players: [a], get, state } = await stage(t, 1)
  for (const status of ['200 OK', '404 Not', '500 Error']) {
    a.act = bad
    await get(4)
    a.act = () => ok('', '', status)
    await get()
  }
  t.equal(state(), 'closed')
  a.act = bad
  await get(5)
  t.equal(state(), 'open')
})

/** Ways in which a request ends that is not its backend's fault. */
const innocent: Record<string, { act?: Player['act'], head?: string, options?: RockstarProxyOptions, then?: (stage: Stage, client: Wire) => unknown }> = {
  'a client that goes before the head': { act: () => {}, then: (_stage, client) => client.close() },
  'a client that resets before the head': { act: () => {}, then: (_stage, client) => client.reset() },
  'a client that goes in the body': {
    act: () => half,
    then: async (_stage, client) => {
      await client.receive('half')
      client.close()
    }
  },
  'a client that goes in its upload': { head: 'POST / HTTP/1.1\r\nHost: gateway\r\nContent-Length: 100000\r\n\r\nsome', then: (_stage, client) => client.close() },
  'a client that stops in its upload': {
    head: 'POST / HTTP/1.1\r\nHost: gateway\r\nContent-Length: 100000\r\n\r\nsome',
    options: { timeout: { ...patient, idle: 100 } },
    then: ({ clock }) => clock.advance(200)
  },
  'a rewriteHeaders of ours that throws': { act: () => ok(), options: { routes: [{ prefix: '/', rewriteHeaders: () => { throw new Error('mine') } }] } }
}

for (const [what, { act = () => {}, head = REQUEST, options, then }] of Object.entries(innocent)) {
  t.test(`neither counts nor ends a row of failures: ${what}`, async t => {
    const s = await stage(t, 1, true, { ...options, routes: [...options?.routes ?? [{ prefix: '/' }], { prefix: '/plain' }] })
    const { gateway, players: [a], state } = s
    const fail = async () => {
      a.act = bad
      t.equal((await gateway.app.inject('/plain')).statusCode, 503)
    }
    for (let i = 0; i < 4; i++) await fail()
    for (let i = 0; i < 6; i++) {
      a.act = act
      const client = await gateway.connect()
      const { length } = a.wire.connections
      const seen = a.wire.connections.map(({ received }) => received.length)
      client.send(head)
      await until(() => a.wire.connections.length > length || a.wire.connections.some(({ received }, i) => received.length > seen[i]))
      await then?.(s, client)
      await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
      client.close()
    }
    t.equal(state(), 'closed')
    await fail()
    t.equal(state(), 'open')
  })
}

t.test('what the application gives up with a signal does not count', async t => {
  const { gateway: { app }, players: [a], state } = await stage(t, 1, { threshold: 1 })
  a.act = () => {}
  for (let i = 1; i <= 3; i++) {
    const controller = new AbortController()
    const answer = app.proxy.forwardHttp(new Request('http://gateway/', { signal: controller.signal }))
    await until(() => a.wire.requests.length === i)
    controller.abort()
    await t.rejects(answer)
  }
  t.equal(state(), 'closed')
})

t.test('isFailure says otherwise: a 500 may count, a 503 and a reset need not', async t => {
  const { players: [a], get, state } = await stage(t, 1, { threshold: 2, isFailure: ({ statusCode }) => statusCode === 500 })
  a.act = bad
  await get(5)
  a.act = (_request, wire) => wire.reset()
  await get(5)
  t.equal(state(), 'closed')
  a.act = () => ok('', '', '500 Error')
  await get(2)
  t.equal(state(), 'open')
})

t.test('isFailure is told the outcome, but not of what clients give up', async t => {
  const told: Partial<Outcome>[] = []
  const { gateway, players: [a], get } = await stage(t, 1, {
    isFailure: ({ stage, culprit, statusCode, responseTime }) => {
      told.push({ stage, culprit, statusCode, responseTime })
      return false
    }
  })
  await get()
  a.act = () => {}
  const client = await gateway.connect()
  client.send(REQUEST)
  await until(() => a.wire.requests.length === 2)
  client.close()
  await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
  a.act = (_request, wire) => wire.reset()
  await get()
  t.strictSame(told, [{ stage: 'done', culprit: 'none', statusCode: 200, responseTime: 0 }, { stage: 'wait', culprit: 'backend', statusCode: 0, responseTime: 0 }])
})

t.test('an isFailure that throws is logged, changes nothing for the client, and the balancer still hears of the result', async t => {
  const heard: string[] = []
  const balancer: LoadBalancer = { type: 'mine', select: ([first]) => first, settle: ({ id }) => { heard.push(id) } }
  const { gateway, get } = await stage(t, 1, { isFailure: () => { throw new Error('mine') } }, { balancer })
  t.equal(await get(2), 'aa')
  t.equal(gateway.log.filter(({ level, err }) => level === 40 && (err as Error | undefined)?.message === 'mine').length, 2)
  t.match(gateway.app.proxy.getMetrics(), { inFlight: 0, successfulRequests: 2 })
  t.strictSame(heard, ['a', 'a'])
})

t.test('failure-rate: half of the results in the window, over an idle gap', async t => {
  const { players: [a], get, state, clock } = await stage(t, 1, { rules: [{ type: 'failure-rate', threshold: 0.5, window: 10_000, minimumRequests: 4 }] })
  const { act } = a
  await get(2)
  a.act = bad
  await get()
  clock.advance(20_000)
  await get(3)
  t.equal(state(), 'closed', 'what came before the gap does not count')
  a.act = act
  await get(4)
  a.act = bad
  await get()
  t.equal(state(), 'open', '4 of 8')
})

t.test('slow-rate: answers that take too long, though they are well', async t => {
  const { gateway, players: [a], state, clock } = await stage(t, 1, { rules: [{ type: 'slow-rate', slowThreshold: 100, threshold: 1, minimumRequests: 3 }] })
  a.act = a.hold
  for (let i = 0; i < 3; i++) {
    t.equal(state(), 'closed')
    const answer = gateway.app.inject('/')
    await until(() => a.held.length > i)
    clock.advance(101)
    a.held[i].send(ok())
    t.equal((await answer).statusCode, 200)
  }
  t.equal(state(), 'open')
})

t.test('a rule of the user\'s own is made for each backend', async t => {
  let made = 0
  const rule = () => {
    made++
    return { record: (failed: boolean) => failed, reset () {} }
  }
  const { players: [a], get, state } = await stage(t, 2, { rules: [rule] })
  t.equal(made, 2)
  a.act = bad
  await get(2)
  t.equal(state('a'), 'open')
  t.equal(state('b'), 'closed')
})

// While it is open

t.test('while one circuit is open requests go elsewhere, and it gets none', async t => {
  const { players: [a], get, state, gateway } = await stage(t, 3)
  a.act = bad
  await get(15)
  t.equal(state(), 'open')
  t.equal(a.wire.requests.length, 5)
  t.match(await get(10), /^[bc]{10}$/)
  t.equal(a.wire.requests.length, 5)
  t.match(gateway.app.proxy.getBackend('a').toJSON(), { available: false, circuitState: 'open' })
})

t.test('where all are open the answer is 503 with Retry-After, and no backend is touched', async t => {
  const { players, get, clock, gateway: { app } } = await stage(t, 2, { threshold: 1, jitter: 0 })
  for (const player of players) player.act = bad
  await get(2)
  const touched = () => players.map(({ wire }) => [wire.connections.length, wire.requests.length])
  const before = touched()
  for (const [wait, expected] of [[0, '30'], [10_000, '20'], [100, '20'], [900, '19'], [18_999, '1']] as const) {
    clock.advance(wait)
    const response = await app.inject('/')
    t.equal(response.statusCode, 503)
    t.equal(response.json().code, OPEN)
    t.equal(response.headers['retry-after'], expected)
    t.notMatch(response.body, /127\.0\.0\.1/)
  }
  await Promise.all(Array.from({ length: 100 }, () => app.inject('/')))
  t.strictSame(touched(), before)
  t.match(app.proxy.getMetrics(), { failedRequests: 107, inFlight: 0 })
})

t.test('Retry-After is that of the circuit which tries first', async t => {
  const { players, get, clock, gateway: { app } } = await stage(t, 2, { threshold: 1 })
  players[0].act = bad
  await get(1)
  clock.advance(20_000)
  players[1].act = bad
  await get(1)
  t.equal((await app.inject('/')).headers['retry-after'], '10')
})

t.test('who awaits the call gets the error, with the time in its headers', async t => {
  const { players: [a], get, gateway: { app } } = await stage(t, 1, { threshold: 1 })
  a.act = bad
  await get()
  await t.rejects(app.proxy.forwardHttp(new Request('http://gateway/')), { code: OPEN, statusCode: 503, headers: { 'retry-after': '30' } })
})

t.test('where no circuit is the reason, the error is another and there is no Retry-After', async t => {
  const { gateway: { app } } = await stage(t, 1)
  app.proxy.updateBackend('a', { isActive: false })
  const response = await app.inject('/')
  t.equal(response.json().code, 'FST_ROCKSTAR_NO_BACKEND')
  t.equal(response.headers['retry-after'], undefined)
})

t.test('an open circuit is not the reason where a request asks for what no backend is', async t => {
  const { gateway: { app } } = await stage(t, 2, true, { routes: [{ prefix: '/', match: { version: 'none' } }] })
  app.proxy.getCircuitBreaker().open?.('a')
  const response = await app.inject('/')
  t.equal(response.json().code, 'FST_ROCKSTAR_NO_BACKEND')
  t.equal(response.headers['retry-after'], undefined)
})

t.test('opening interrupts nothing that is under way, whether by failures or by hand', async t => {
  for (const byHand of [false, true]) {
    const { gateway, players: [a], get, state } = await stage(t, 1)
    a.act = () => half
    const stream = await gateway.connect()
    stream.send(REQUEST)
    await stream.receive('half')
    a.act = () => {}
    const waiting = await gateway.connect()
    waiting.send(REQUEST)
    await until(() => a.wire.requests.length === 2)
    if (byHand) gateway.app.proxy.getCircuitBreaker().open?.('a')
    else {
      a.act = bad
      await get(5)
    }
    t.equal(state(), 'open')
    await settled()
    a.wire.connections[0].send('-other')
    a.wire.connections[1].send(ok('late'))
    t.equal((await stream.response()).body, 'half-other')
    t.equal((await waiting.response()).body, 'late')
    t.equal(state(), 'open', 'nor do they close it')
  }
})

// Half-open

t.test('half-open: one of 50 requests at once tries, the rest fail at once with Retry-After', async t => {
  const s = await stage(t, 1)
  const { gateway: { app }, players: [a], state } = s
  await halfOpen(s)
  t.equal(state(), 'half-open')
  const { length } = a.wire.requests
  a.act = a.hold
  const answers = Array.from({ length: 51 }, () => app.inject('/'))
  const refused: Awaited<ReturnType<typeof app.inject>>[] = []
  for (const answer of answers) answer.then(response => { if (response.statusCode === 503) refused.push(response) })
  await until(() => refused.length === 50 && a.held.length > 0)
  await settled()
  t.equal(a.wire.requests.length, length + 1)
  t.ok(refused.every(response => response.json().code === OPEN && response.headers['retry-after'] === '1'))
  a.held[0].send(ok('well'))
  t.equal((await Promise.all(answers)).filter(({ statusCode, body }) => statusCode === 200 && body === 'well').length, 1)
  t.equal(state(), 'closed')
})

const types: BalancerType[] = ['round-robin', 'weighted-round-robin', 'random', 'least-requests', 'p2c', 'peak-ewma', 'ip-hash', 'ring-hash', 'maglev', 'rendezvous']
for (const balancer of types) {
  t.test(`half-open: at most one of 50 requests at once tries, the rest are served elsewhere: ${balancer}`, async t => {
    const { gateway: { app }, players: [a], state, clock } = await stage(t, 3, { threshold: 1, timeout: 1_000, jitter: 0 }, { balancer: balancer as 'round-robin', random: seeded(3) })
    a.act = bad
    for (let i = 0; i < 500 && state() === 'closed'; i++) await app.inject({ url: '/', remoteAddress: `10.0.0.${i % 250}` })
    t.equal(state(), 'open')
    clock.advance(1_000)
    const { length } = a.wire.requests
    const answers: string[] = []
    a.act = a.hold
    const all = Array.from({ length: 51 }, (_, i) => app.inject({ url: '/', remoteAddress: `10.0.0.${i}` }).then(({ body }) => { answers.push(body) }))
    await until(() => answers.length >= 50)
    await settled()
    const tries = a.wire.requests.length - length
    t.ok(tries <= 1, `${tries} tries`)
    t.ok(answers.every(body => body === 'b' || body === 'c'), 'all others were served')
    if (tries === 1) a.held[0].send(ok('a'))
    await Promise.all(all)
    t.equal(answers.length, 51)
    t.equal(answers.filter(body => body === 'a').length, tries)
  })
}

t.test('halfOpenRequests lets as many try', async t => {
  const s = await stage(t, 1, { halfOpenRequests: 3, successThreshold: 3 })
  const { gateway: { app }, players: [a], state } = s
  await halfOpen(s)
  const { length } = a.wire.requests
  a.act = a.hold
  const answers = Array.from({ length: 20 }, () => app.inject('/'))
  await until(() => a.wire.requests.length === length + 3)
  await settled()
  t.equal(a.wire.requests.length, length + 3)
  for (const wire of a.held) wire.send(ok())
  t.equal((await Promise.all(answers)).filter(({ statusCode }) => statusCode === 200).length, 3)
  t.equal(state(), 'closed')
})

t.test('half-open: a client that goes away makes room for the next try and counts as nothing', async t => {
  const s = await stage(t, 1)
  const { gateway, players: [a], state, changes } = s
  await halfOpen(s)
  const { act } = a
  a.act = () => {}
  for (let i = 0; i < 3; i++) {
    const { length } = a.wire.requests
    const client = await gateway.connect()
    client.send(REQUEST)
    await until(() => a.wire.requests.length === length + 1)
    t.equal(await s.get(), '[503]', 'no other may try meanwhile')
    client.close()
    await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
    t.equal(state(), 'half-open')
  }
  a.act = act
  t.equal(await s.get(2), 'aa')
  t.strictSame(changes, ['a open', 'a half-open', 'a closed'])
})

const streamHead = 'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n'

t.test('half-open: a try that answers without end closes the circuit at its head, and others are served while it streams', async t => {
  const s = await stage(t, 1)
  const { gateway, players: [a], state, changes } = s
  await halfOpen(s)
  const { act } = a
  a.act = a.hold
  const client = await gateway.connect()
  client.send(REQUEST)
  await until(() => a.held.length === 1)
  t.equal(await s.get(), '[503]', 'nothing is known before its head')
  a.act = act
  a.held[0].send(`${streamHead}6\r\ndata:1\r\n`)
  await client.receive('data:1')
  t.equal(state(), 'closed')
  t.equal(await s.get(5), 'aaaaa')
  a.held[0].send('6\r\ndata:2\r\n')
  await client.receive('data:2')
  t.equal(gateway.app.proxy.getMetrics().backends.a.inFlight, 1)
  t.strictSame(changes, ['a open', 'a half-open', 'a closed'])
})

t.test('half-open: how a try ends after its head is told to the circuit no second time', async t => {
  const s = await stage(t, 1, { threshold: 1, successThreshold: 2 })
  const { gateway, players: [a], state } = s
  await halfOpen(s)
  const { act } = a
  for (const end of ['finishes', 'breaks off']) {
    a.act = () => half
    const client = await gateway.connect()
    client.send(REQUEST)
    await client.receive('half')
    t.equal(state(), end === 'finishes' ? 'half-open' : 'closed', 'one success of two for each head')
    const [wire] = a.wire.connections.filter(({ closed }) => !closed).slice(-1)
    if (end === 'finishes') {
      wire.send('-whole')
      t.equal((await client.response()).body, 'half-whole')
      t.equal(state(), 'half-open')
    } else {
      wire.reset()
      await until(() => client.ended || client.closed)
      t.equal(state(), 'closed', 'it was judged by its head')
    }
  }
  a.act = act
  t.equal(await s.get(3), 'aaa')
})

t.test('half-open: a try with a bad status opens the circuit at its head', async t => {
  const s = await stage(t, 1)
  const { gateway, players: [a], state, changes } = s
  await halfOpen(s)
  a.act = () => 'HTTP/1.1 503 Sorry\r\nContent-Length: 10\r\n\r\nhalf'
  const client = await gateway.connect()
  client.send(REQUEST)
  await client.receive('half')
  t.equal(state(), 'open')
  t.strictSame(changes, ['a open', 'a half-open', 'a open'])
  t.equal(await s.get(), '[503]')
  const [wire] = a.wire.connections.slice(-1)
  wire.send('-whole')
  t.equal((await client.response()).body, 'half-whole', 'the answer goes on')
  t.strictSame(changes.length, 3)
})

t.test('half-open: a try whose client is slow to send gives up its place after the circuit\'s timeout', async t => {
  const s = await stage(t, 1, { timeout: 30_000 })
  const { gateway, players: [a], state, clock, changes } = s
  await halfOpen(s)
  const slow = await gateway.connect()
  const { connects } = gateway.app.proxy.getConnectionPool().stats()
  slow.send('POST / HTTP/1.1\r\nHost: gateway\r\nContent-Length: 10\r\n\r\nfirst')
  await until(() => gateway.app.proxy.getConnectionPool().stats().connects > connects)
  t.equal(await s.get(), '[503]')
  clock.advance(29_999)
  t.equal(await s.get(), '[503]', 'not before')
  t.equal(state(), 'half-open')
  clock.advance(1)
  t.equal(await s.get(3), 'aaa')
  t.equal(state(), 'closed')
  a.act = bad
  slow.send('-last')
  t.equal((await slow.response()).status, 503)
  t.equal(state(), 'closed', 'what comes late says nothing')
  t.strictSame(changes, ['a open', 'a half-open', 'a closed'])
})

t.test('half-open: each try that gives up its place makes room for one', async t => {
  const s = await stage(t, 1, { timeout: 30_000 })
  const { gateway, players: [a], clock, state } = s
  await halfOpen(s)
  a.act = a.hold
  for (let i = 1; i <= 3; i++) {
    const client = await gateway.connect()
    client.send(REQUEST)
    await until(() => a.held.length === i)
    t.equal(await s.get(2), '[503][503]')
    clock.advance(30_000)
  }
  t.equal(state(), 'half-open')
})

t.test('half-open: where all of many backends are being tried, a further request fails at once, and once', async t => {
  const wire = await rawBackend(t, (_request, wire) => player.act({} as Message, wire))
  const player: Pick<Player, 'act' | 'held'> = { act: bad, held: [] }
  const backends = Array.from({ length: 200 }, (_, i) => ({ id: `b${i}`, url: wire.url }))
  let asked = 0
  const balancer: LoadBalancer = {
    type: 'first',
    select (available, { tried }) {
      asked++
      return available.find(backend => tried?.includes(backend) !== true)
    }
  }
  const clock = new FakeClock()
  const { app, log } = await startGateway(t, { backends, balancer, breaker: { threshold: 1, timeout: 1_000, jitter: 0 }, clock, routes: [{ prefix: '/' }], timeout: patient, pool: { connections: 2 } })
  const circuits = app.proxy.getCircuitBreaker()
  for (let i = 0; i < 200; i++) await app.inject('/')
  t.ok(backends.every(({ id }) => circuits.getState(id) === 'open'))
  clock.advance(1_000)
  t.ok(backends.every(({ id }) => circuits.getState(id) === 'half-open'))
  // Each gets a try, by name: a client's way through 200 refusals is what is bounded.
  player.act = (_request, wire) => { player.held.push(wire) }
  const chosen = new Set<string>()
  app.proxy.setLoadBalancer({
    type: 'next',
    select: available => {
      const next = available.find(({ id }) => !chosen.has(id))
      if (next !== undefined) chosen.add(next.id)
      return next
    }
  })
  const tries = Array.from({ length: 200 }, () => app.inject('/'))
  await until(() => player.held.length === 200)
  app.proxy.setLoadBalancer(balancer)
  asked = 0
  const lines = log.length
  const response = await app.inject('/')
  t.equal(response.statusCode, 503)
  t.equal(response.json().code, OPEN)
  t.equal(response.headers['retry-after'], '1')
  t.ok(asked <= 20, `the balancer was asked ${asked} times`)
  t.equal(log.slice(lines).filter(({ msg }) => /incoming request/.test(msg)).length, 1)
  t.equal(log.slice(lines).filter(({ msg }) => /request completed/.test(msg)).length, 1)
  await settled()
  t.equal(player.held.length, 200, 'no backend has seen it')
  for (const wire of player.held) wire.send(ok())
  t.ok((await Promise.all(tries)).every(({ statusCode }) => statusCode === 200))
})

t.test('half-open: among many that are being tried the one that is well serves every other request', async t => {
  const well = await rawBackend(t, () => ok('well'))
  const held: Wire[] = []
  let act: Player['act'] = bad
  const wire = await rawBackend(t, (request, wire) => act(request, wire))
  const backends = [...Array.from({ length: 40 }, (_, i) => ({ id: `b${i}`, url: wire.url })), { id: 'well', url: well.url }]
  const clock = new FakeClock()
  const { app } = await startGateway(t, { backends, breaker: { threshold: 1, timeout: 1_000, jitter: 0 }, clock, routes: [{ prefix: '/' }], timeout: patient })
  for (let i = 0; i < 41; i++) await app.inject('/')
  clock.advance(1_000)
  act = (_request, wire) => { held.push(wire) }
  const statuses: number[] = []
  for (let i = 0; i < 120; i++) app.inject('/').then(({ statusCode }) => statuses.push(statusCode), () => {})
  await until(() => held.length + statuses.length === 120)
  t.equal(held.length, 40)
  t.ok(statuses.every(status => status === 200), statuses.join(' '))
  for (const wire of held) wire.send(ok())
  await until(() => statuses.length === 120)
})

t.test('waiting for a connection of our own pool is no failure of a backend that is at work on it', async t => {
  const s = await stage(t, 1, { threshold: 1 }, { pool: { connections: 1 }, timeout: { ...patient, connect: 2_000 }, outlier: { consecutiveFailures: 1, consecutiveLocalErrors: 1 } })
  const { gateway, players: [a], clock, state, changes } = s
  a.act = () => `${streamHead}6\r\ndata:1\r\n`
  const stream = await gateway.connect()
  stream.send(REQUEST)
  await stream.receive('data:1')
  for (let i = 0; i < 3; i++) {
    const client = await gateway.connect()
    client.send(REQUEST)
    await until(() => gateway.app.proxy.getConnectionPool().stats().pending === 1)
    a.wire.connections[0].send(`7\r\nbeat:${i};\r\n`)
    await stream.receive(`beat:${i}`)
    clock.advance(4_000)
    const response = await client.response()
    t.equal(response.status, 504)
    t.equal(JSON.parse(response.body).code, 'FST_ROCKSTAR_TIMEOUT')
  }
  t.equal(state(), 'closed')
  t.strictSame(changes, [])
  t.match(gateway.app.proxy.getMetrics().backends.a, { failedRequests: 0, abortedRequests: 3, inFlight: 1 })
  t.equal(gateway.app.proxy.getBackend('a').available, true, 'nor is it ejected')
  t.equal(a.wire.requests.length, 1)
  a.wire.connections[0].send('0\r\n\r\n')
  a.act = () => ok('a')
  await stream.response()
  t.equal(await s.get(2), 'aa')
})

t.test('half-open: requests begun before the circuit opened say nothing, well or not', async t => {
  const s = await stage(t, 1)
  const { gateway, players: [a], state } = s
  const { act } = a
  a.act = () => {}
  const early = await Promise.all([gateway.connect(), gateway.connect()])
  for (const [i, client] of early.entries()) {
    client.send(REQUEST)
    await until(() => a.wire.requests.length === i + 1)
  }
  a.act = act
  await halfOpen(s)
  t.equal(state(), 'half-open')
  a.wire.connections[0].send(ok('late'))
  t.equal((await early[0].response()).body, 'late')
  t.equal(state(), 'half-open')
  a.wire.connections[1].reset()
  t.equal((await early[1].response()).status, 502)
  t.equal(state(), 'half-open')
  t.equal(await s.get(), 'a')
  t.equal(state(), 'closed')
})

t.test('a try that fails opens it again for twice as long, up to maxTimeout; successThreshold tries close it', async t => {
  const { gateway: { app }, players: [a], state, get, clock } = await stage(t, 1, { threshold: 1, timeout: 10_000, maxTimeout: 40_000, successThreshold: 2 })
  const { act } = a
  const waits: unknown[] = []
  a.act = bad
  for (let i = 0; i < 4; i++) {
    await get()
    const wait = Number((await app.inject('/')).headers['retry-after'])
    waits.push(wait)
    clock.advance(wait * 1_000 - 1)
    t.equal(state(), 'open')
    clock.advance(1)
    t.equal(state(), 'half-open')
  }
  t.strictSame(waits, [10, 20, 40, 40])
  a.act = act
  await get()
  t.equal(state(), 'half-open')
  await get()
  t.equal(state(), 'closed')
  a.act = bad
  await get()
  t.equal((await app.inject('/')).headers['retry-after'], '10')
})

t.test('after it has recovered a backend starts slowly', async t => {
  const { gateway: { app }, players: [a], state, get, clock } = await stage(t, 2, { threshold: 1 }, { slowStart: { window: 10_000 } })
  const { act } = a
  a.act = bad
  await get(2)
  a.act = act
  const weight = () => app.proxy.getBackend('a').effectiveWeight
  clock.advance(30_000)
  t.equal(weight(), 1, 'what tries is bounded by the circuit')
  while (state() !== 'closed') await get()
  t.equal(weight(), 0.1)
  const share = async () => [...await get(22)].filter(name => name === 'a').length
  t.equal(await share(), 2, 'an eleventh')
  clock.advance(5_000)
  t.ok(Math.abs(weight() - 0.5) < 0.06, `half way it is ${weight()}`)
  clock.advance(5_500)
  t.equal(weight(), 1)
  t.equal(await share(), 11)
  t.equal(app.proxy.getBackend('b').effectiveWeight, 1)
})

t.test('a client whose cookie names a half-open backend fails with it where onUnavailable is fail', async t => {
  const { gateway: { app }, players, clock } = await stage(t, 2, { timeout: 1_000 }, { affinity: { secret: 'secret of sixteen', onUnavailable: 'fail' } })
  const first = await app.inject('/')
  const id = first.body
  const cookie = String(first.headers['set-cookie']).split(';')[0]
  const player = players['ab'.indexOf(id)]
  const { wire } = player
  const send = () => app.inject({ url: '/', headers: { cookie } })
  player.act = bad
  for (let i = 0; i < 5; i++) await send()
  t.equal((await send()).json().code, OPEN, 'while it is open')
  clock.advance(1_000)
  const { length } = wire.requests
  player.act = player.hold
  const trying = send()
  await until(() => wire.requests.length === length + 1)
  const refused = await send()
  t.equal(refused.statusCode, 503, 'while another request tries it')
  player.held[0].send(ok(id))
  t.equal((await trying).body, id)
})

// By hand

t.test('open() isolates a backend until close(), and getState() tells', async t => {
  const { gateway: { app }, players: [a], get, state, clock, changes } = await stage(t, 2)
  const breaker = app.proxy.getCircuitBreaker()
  breaker.open?.('a')
  t.equal(state(), 'open')
  t.equal(await get(4), 'bbbb')
  clock.advance(24 * 3_600_000)
  t.equal(state(), 'open')
  t.equal(a.wire.requests.length, 0)
  t.match(app.proxy.getHealthStatus().a, { isHealthy: false, source: 'manual' })
  breaker.close?.('a')
  t.equal(state(), 'closed')
  t.match((await get(4)).split('').sort().join(''), 'aabb')
  t.match(app.proxy.getHealthStatus().a, { isHealthy: true })
  t.strictSame(changes, ['a open', 'a closed'])
})

t.test('where all are isolated nobody knows how long to wait', async t => {
  const { gateway: { app }, players: [a] } = await stage(t, 1)
  app.proxy.getCircuitBreaker().open?.('a')
  const response = await app.inject('/')
  t.equal(response.statusCode, 503)
  t.equal(response.json().code, OPEN)
  t.equal(response.headers['retry-after'], undefined)
  t.equal(a.wire.connections.length, 0)
})

t.test('reset() closes a circuit and forgets what was counted', async t => {
  const { gateway: { app }, players: [a], get, state } = await stage(t, 1)
  const breaker = app.proxy.getCircuitBreaker()
  a.act = bad
  await get(4)
  breaker.reset('a')
  await get(4)
  t.equal(state(), 'closed')
  await get(1)
  t.equal(state(), 'open')
  breaker.reset('a')
  t.equal(state(), 'closed')
  t.equal(await get(1), '[503]')
  t.equal(a.wire.requests.length, 10)
})

t.test('an id that is not listed is told so, whatever the breaker is', async t => {
  for (const breaker of [true, false] as const) {
    const { gateway: { app } } = await stage(t, 1, breaker)
    const { getState, reset } = { getState: () => app.proxy.getCircuitBreaker().getState('x'), reset: () => app.proxy.getCircuitBreaker().reset('x') }
    t.throws(getState, { code: 'FST_ROCKSTAR_UNKNOWN_BACKEND' }, `getState, breaker: ${breaker}`)
    t.throws(reset, { code: 'FST_ROCKSTAR_UNKNOWN_BACKEND' }, `reset, breaker: ${breaker}`)
  }
})

t.test('the text for an unknown id names no upstream that there is not', async t => {
  const { gateway: { app } } = await stage(t, 1)
  t.throws(() => app.proxy.getCircuitBreaker().getState('x'), { message: /^No backend has the id 'x'(?! in upstream 'of )/ })
})

// Changing it

t.test('setCircuitBreaker() takes options, an instance, true and false; getCircuitBreaker() gives what is in use', async t => {
  const { gateway: { app }, players: [a], get, state } = await stage(t, 1, false)
  const { proxy } = app
  a.act = bad
  t.equal(proxy.getCircuitBreaker().type, 'none')
  await get(10)
  t.equal(a.wire.requests.length, 10)
  const instance = new CircuitBreaker({ threshold: 2 })
  for (const [input, threshold] of [[{ threshold: 3 }, 3], [instance, 2], [true, 5]] as [BreakerInput, number][]) {
    proxy.setCircuitBreaker(input)
    t.equal(proxy.getCircuitBreaker().type, 'circuit-breaker')
    const { length } = a.wire.requests
    await get(10)
    t.equal(a.wire.requests.length - length, threshold)
    t.equal(state(), 'open')
    proxy.getCircuitBreaker().close?.('a')
  }
  proxy.setCircuitBreaker(instance)
  t.equal(proxy.getCircuitBreaker(), instance)
  proxy.setCircuitBreaker(instance)
  t.equal(instance.getState('a'), 'closed')
  proxy.setCircuitBreaker(false)
  t.equal(proxy.getCircuitBreaker().type, 'none')
  t.throws(() => instance.getState('a'), { code: 'FST_ROCKSTAR_UNKNOWN_BACKEND' }, 'the old one has let go of its backends')
})

t.test('options that are wrong change nothing', async t => {
  const { gateway: { app }, players: [a], get, state } = await stage(t, 1)
  const { proxy } = app
  const before = proxy.getCircuitBreaker()
  for (const wrong of [{ threshold: 0 }, { treshold: 5 }, null, 'on', { createCircuit () {} }]) {
    t.throws(() => proxy.setCircuitBreaker(wrong as unknown as BreakerInput), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /^breaker/ })
  }
  t.throws(() => proxy.setCircuitBreaker({ rules: [() => { throw new Error('mine') }] }), { message: 'mine' })
  t.equal(proxy.getCircuitBreaker(), before)
  a.act = bad
  await get(5)
  t.equal(state(), 'open')
})

t.test('wrong options of the plugin are named with their path', async t => {
  await t.rejects(startGateway(t, { breaker: { threshold: 0 } }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /^options\.breaker\.threshold / })
  await t.rejects(startGateway(t, { upstreams: { x: { breaker: { timeout: 100, maxTimeout: 9 } } } }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /^options\.upstreams\.x\.breaker\.maxTimeout / })
})

t.test('circuits that are open stay so under a new breaker, for the time that was left', async t => {
  for (const make of [() => ({ timeout: 5_000 }), () => new CircuitBreaker({ timeout: 5_000 })]) {
    const { gateway: { app }, players: [a], get, state, clock } = await stage(t, 2)
    const { act } = a
    a.act = bad
    await get(10)
    a.act = act
    clock.advance(10_000)
    app.proxy.setCircuitBreaker(make())
    t.equal(state(), 'open')
    t.equal(state('b'), 'closed')
    t.equal(await get(4), 'bbbb')
    clock.advance(19_999)
    t.equal(state(), 'open')
    clock.advance(1)
    t.equal(state(), 'half-open')
    while (state() !== 'closed') await get()
    t.equal(await get(2).then(answers => [...answers].sort().join('')), 'ab')
  }
})

t.test('what was isolated stays so under a new breaker', async t => {
  const { gateway: { app }, get, state, clock } = await stage(t, 2)
  app.proxy.getCircuitBreaker().open?.('a')
  app.proxy.setCircuitBreaker({ threshold: 1 })
  t.equal(state(), 'open')
  clock.advance(3_600_000)
  t.equal(await get(3), 'bbb')
  app.proxy.getCircuitBreaker().close?.('a')
  t.equal(state(), 'closed')
})

t.test('without a breaker all pass again, and a later one begins closed', async t => {
  const { gateway: { app }, players: [a], get, state } = await stage(t, 1)
  a.act = bad
  await get(5)
  app.proxy.setCircuitBreaker(false)
  t.equal(await get(6), '[503]'.repeat(6))
  t.equal(a.wire.requests.length, 11)
  app.proxy.setCircuitBreaker(true)
  t.equal(state(), 'closed')
})

t.test('what is under way when the breaker changes finishes, and tells the new one nothing', async t => {
  const { gateway, players: [a], state, changes } = await stage(t, 1)
  a.act = () => {}
  const clients = await Promise.all(Array.from({ length: 6 }, () => gateway.connect()))
  for (const client of clients) client.send(REQUEST)
  await until(() => a.wire.requests.length === 6)
  gateway.app.proxy.setCircuitBreaker({ threshold: 1 })
  const [well, ...rest] = a.wire.connections
  for (const wire of rest) wire.reset()
  well.send(ok('well'))
  const answers = await Promise.all(clients.map(client => client.response()))
  t.strictSame(answers.map(({ status }) => status).sort(), [200, 502, 502, 502, 502, 502])
  t.equal(state(), 'closed')
  t.strictSame(changes, [], 'nor does the old one tell of itself')
})

/** The smallest breaker there can be: opened and closed by the test. */
class Mine implements Contract {
  readonly type = 'mine'
  readonly circuits = new Map<string, MyCircuit>()
  readonly gone: string[] = []
  createCircuit (backend: Backend, env: CircuitEnv) {
    const circuit = new MyCircuit(env)
    this.circuits.set(backend.id, circuit)
    return circuit
  }

  getState (id: string) { return this.circuits.get(id)?.state ?? 'closed' }
  reset (id: string) { this.circuits.get(id)?.close() }
  removeCircuit ({ id }: Backend) { this.gone.push(id) }
}

class MyCircuit implements Circuit {
  state: CircuitState = 'closed'
  retryAfter = 0
  refuses = false
  disposed = false
  readonly settled: [permit: number, statusCode: number][] = []
  readonly env: CircuitEnv
  #permits = 100
  constructor (env: CircuitEnv) { this.env = env }
  acquire () { return this.refuses ? -1 : this.#permits++ }
  settle (permit: number, { statusCode }: Outcome) { this.settled.push([permit, statusCode]) }
  open () { this.#change('open') }
  close () { this.#change('closed') }
  dispose () { this.disposed = true }
  #change (state: CircuitState) {
    const from = this.state
    this.state = state
    this.env.changed(from, 'I said so', { mine: 1 })
  }
}

t.test('a breaker of the user\'s own is asked before each attempt and told after it, by option or by setter', async t => {
  for (const byOption of [true, false]) {
    const mine = new Mine()
    const { gateway, players: [a], get, changes, clock } = await stage(t, 2, byOption ? mine : true)
    const { proxy } = gateway.app
    if (!byOption) proxy.setCircuitBreaker(mine)
    t.equal(proxy.getCircuitBreaker(), mine)
    const circuit = mine.circuits.get('a') as MyCircuit
    t.equal(circuit.env.clock, clock)
    t.equal(circuit.env.random(), 0.5)
    await get(2)
    a.act = bad
    await get(2)
    t.strictSame(circuit.settled, [[100, 200], [101, 503]])
    circuit.refuses = true
    t.equal(await get(3), 'bbb', 'one that is refused goes elsewhere')
    circuit.refuses = false
    circuit.open()
    t.equal(proxy.getBackend('a').circuitState, 'open')
    t.equal(await get(3), 'bbb')
    t.strictSame(changes, ['a open'])
    const second = mine.circuits.get('b') as MyCircuit
    second.open()
    circuit.retryAfter = 7_001
    second.retryAfter = Infinity
    const response = await gateway.app.inject('/')
    t.equal(response.json().code, OPEN)
    t.equal(response.headers['retry-after'], '8')
    mine.reset('b')
    await proxy.removeBackend('a')
    t.strictSame(mine.gone, ['a'])
    await gateway.app.close()
    t.equal(second.disposed, true)
  }
})

// Backends that come and go

t.test('a backend that is removed and added again begins with a closed circuit', async t => {
  const { gateway: { app }, players: [a], get, state, clock, changes } = await stage(t, 1)
  const { act } = a
  const timers = clock.timers
  a.act = bad
  await get(5)
  t.equal(state(), 'open')
  await app.proxy.removeBackend('a')
  t.throws(state, { code: 'FST_ROCKSTAR_UNKNOWN_BACKEND' })
  a.act = act
  app.proxy.addBackend({ id: 'a', url: a.wire.url })
  t.equal(state(), 'closed')
  t.equal(await get(), 'a')
  clock.advance(60_000)
  t.equal(state(), 'closed', 'the old one\'s time does not half-open the new one')
  t.strictSame(changes, ['a open'])
  t.ok(clock.timers <= timers + 1, `${clock.timers} timers`)
})

t.test('a backend on its way out that fails does not speak for the one that comes after it', async t => {
  const { gateway, players: [a], state } = await stage(t, 1, { threshold: 1 })
  const { proxy } = gateway.app
  a.act = () => {}
  const client = await gateway.connect()
  client.send(REQUEST)
  await until(() => a.wire.requests.length === 1)
  const removal = proxy.removeBackend('a')
  t.equal(state(), 'closed')
  a.wire.connections[0].reset()
  await removal
  await client.response()
  proxy.addBackend({ id: 'a', url: a.wire.url })
  t.equal(state(), 'closed')
})

t.test('changing a backend leaves its circuit as it is', async t => {
  const { gateway: { app }, players: [a], get, state } = await stage(t, 2)
  a.act = bad
  await get(10)
  app.proxy.updateBackend('a', { weight: 5 })
  app.proxy.updateBackend('a', { isActive: false })
  app.proxy.updateBackend('a', { isActive: true })
  t.equal(state(), 'open')
  t.equal(await get(3), 'bbb')
})

t.test('each upstream has circuits of its own', async t => {
  const { gateway: { app }, players: [a], get, state } = await stage(t, 1)
  const other = app.proxy.addUpstream('other', { backends: [{ id: 'a', url: a.wire.url }], breaker: { threshold: 2 }, retry: false })
  const names: string[] = []
  other.on('circuit:open', ({ upstream }) => { names.push(upstream) })
  app.proxy.on('circuit:open', ({ upstream }) => { names.push(`all: ${upstream}`) })
  a.act = bad
  for (let i = 0; i < 2; i++) await other.forwardHttp(new Request('http://gateway/'))
  t.equal(other.getCircuitBreaker().getState('a'), 'open')
  t.equal(state(), 'closed')
  await get(5)
  t.equal(state(), 'open')
  t.strictSame(names, ['other', 'all: other', 'all: default'])
})

t.test('one instance in two upstreams tells their backends apart, or refuses to be used twice', async t => {
  const breaker = new CircuitBreaker({ threshold: 1 })
  const { gateway: { app }, players: [a], get } = await stage(t, 1, breaker)
  const add = () => app.proxy.addUpstream('other', { backends: [{ id: 'a', url: a.wire.url }], breaker })
  try {
    add()
  } catch (error) {
    t.match(error, { code: 'FST_ROCKSTAR_INVALID_OPTIONS' })
    return
  }
  a.act = bad
  await get()
  t.equal(app.proxy.getBackend('a').circuitState, 'open')
  t.equal(app.proxy.getCircuitBreaker().getState('a'), 'open')
})

// Beside health checks

t.test('panic uses what health checks have taken out, but not what is behind an open circuit', async t => {
  let offered: string[] = []
  let turn = 0
  const balancer: LoadBalancer = {
    type: 'mine',
    select: available => {
      offered = available.map(({ id }) => id)
      return available[turn++ % available.length]
    }
  }
  const { gateway: { app }, players: [a], get, state } = await stage(t, 3, true, { balancer, health: { checker: () => false, fall: 1 } })
  app.proxy.getCircuitBreaker().open?.('a')
  await t.rejects(app.proxy.healthCheck(), { code: 'FST_ROCKSTAR_UNHEALTHY' })
  t.equal(app.proxy.getMetrics().panic, true)
  const answers = await get(20)
  t.match(answers, /^[bc]{20}$/)
  t.strictSame(offered, ['b', 'c'], 'the balancer is not even offered it')
  t.ok(answers.includes('b') && answers.includes('c'))
  t.equal(a.wire.requests.length, 0)
  t.equal(state(), 'open')
  app.proxy.getCircuitBreaker().close?.('a')
  t.ok((await get(6)).includes('a'))
})

t.test('with every circuit open there is no panic that would use them', async t => {
  const { gateway: { app }, players } = await stage(t, 2, true, { panicThreshold: 1 })
  for (const id of ['a', 'b']) app.proxy.getCircuitBreaker().open?.(id)
  t.equal((await app.inject('/')).json().code, OPEN)
  t.ok(players.every(({ wire }) => wire.requests.length === 0))
})

t.test('a backend that is half-open and fails its checks is not tried', async t => {
  const s = await stage(t, 2, { threshold: 1, timeout: 1_000 }, { panicThreshold: 0, health: { checker: ({ id }) => id !== 'a', fall: 1 } })
  const { gateway: { app }, players: [a], get, state, clock } = s
  a.act = bad
  await get(2)
  await t.rejects(app.proxy.healthCheck())
  clock.advance(1_000)
  t.equal(state(), 'half-open')
  t.equal(await get(4), 'bbbb')
})

// Events

t.test('events tell who, when, from, to, why and what was counted; the log and the channels say the same', async t => {
  const names = ['circuit:open', 'circuit:half-open', 'circuit:closed'] as const
  const [told, published]: [name: string, event: CircuitEvent][][] = [[], []]
  const onMessage = (message: unknown, name: string | symbol) => { published.push([String(name), message as CircuitEvent]) }
  for (const name of names) diagnostics.subscribe(`rockstar-proxy:${name}`, onMessage)
  t.teardown(() => { for (const name of names) diagnostics.unsubscribe(`rockstar-proxy:${name}`, onMessage) })
  const { gateway, players: [a], get, clock } = await stage(t, 1)
  const { proxy } = gateway.app
  for (const name of names) proxy.on(name, event => { told.push([name, event]) })
  const { act } = a
  a.act = bad
  const start = clock.wall()
  await get(5)
  clock.advance(30_000)
  await get()
  clock.advance(60_000)
  a.act = act
  await get()
  proxy.getCircuitBreaker().open?.('a')
  proxy.getCircuitBreaker().close?.('a')

  const expected = [
    ['circuit:open', 0, 'closed', 'open', 'too many attempts failed or were slow', { openings: 1, consecutiveFailures: 5 }],
    ['circuit:half-open', 30_000, 'open', 'half-open', 'it has been open for long enough', {}],
    ['circuit:open', 30_000, 'half-open', 'open', 'a try failed', { openings: 2, consecutiveFailures: 5 }],
    ['circuit:half-open', 90_000, 'open', 'half-open', 'it has been open for long enough', {}],
    ['circuit:closed', 90_000, 'half-open', 'closed', 'tries succeeded', { successes: 1 }],
    ['circuit:open', 90_000, 'closed', 'open', 'it was opened by hand', { openings: 1, consecutiveFailures: 0 }]
  ] as const
  const seen = told.map(([name, { time, from, to, cause, counts }]) => [name, time - start, from, to, cause, counts])
  t.strictSame(seen.slice(0, 6), expected)
  t.match(seen[6], ['circuit:closed', 90_000, 'open', 'closed', 'it was closed by hand'])
  t.equal(seen.length, 7)
  t.ok(told.every(([, { upstream, backend }]) => upstream === 'default' && backend === proxy.getBackend('a')))
  t.strictSame(published.map(([name]) => name), told.map(([name]) => `rockstar-proxy:${name}`))
  t.ok(published.every(([, event], i) => event === told[i][1]))

  const lines = gateway.log.filter(({ msg }) => msg.startsWith('a circuit is'))
  t.equal(lines.length, 7, 'one line each')
  const [WARN, INFO] = [40, 30]
  for (const [i, [name, , from, to, cause, counts]] of expected.entries()) {
    t.match(lines[i], { level: name === 'circuit:open' ? WARN : INFO, msg: `a circuit is ${to}`, upstream: 'default', backend: 'a', from, to, cause, counts })
  }
  t.notMatch(JSON.stringify(lines), /127\.0\.0\.1/, 'a backend is named by its id')
})

t.test('a listener sees the state that it is told of, and may change it', async t => {
  const { gateway: { app }, players: [a], get, state } = await stage(t, 2)
  const seen: unknown[] = []
  app.proxy.on('circuit:open', ({ backend }) => {
    seen.push(backend.circuitState, backend.available, state())
    app.proxy.getCircuitBreaker().reset('a')
  })
  a.act = bad
  await get(10)
  t.strictSame(seen, ['open', false, 'open'])
  t.equal(state(), 'closed')
  t.ok(app.proxy.getBackend('a').available)
})

t.test('after the app has closed no circuit has a timer left', async t => {
  const { gateway: { app }, players, get, clock } = await stage(t, 2, { threshold: 1 })
  for (const player of players) player.act = bad
  await get(2)
  await app.close()
  t.equal(clock.timers, 0)
})

t.test('a breaker of the user\'s own that throws fails the request, not the process, however the balancer chooses', async t => {
  for (const wait of [false, true]) {
    const mine = new Mine()
    const balancer: LoadBalancer = { type: 'mine', select: ([first]) => wait ? Promise.resolve(first) : first }
    const { gateway: { app }, get } = await stage(t, 1, mine, { balancer })
    const circuit = mine.circuits.get('a') as MyCircuit
    circuit.acquire = () => { throw new Error('mine') }
    let status = 0
    app.inject('/').then(({ statusCode }) => { status = statusCode }, () => {})
    await settled()
    t.equal(status, 503, wait ? 'an async balancer' : 'a sync balancer')
    t.equal(app.proxy.getMetrics().inFlight, 0)
    circuit.acquire = () => 1
    circuit.settle = () => { throw new Error('mine') }
    t.equal(await get(), 'a', 'what settle() throws is logged only')
  }
})
