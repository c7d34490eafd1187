import { once } from 'node:events'
import { connect as connectHttp2 } from 'node:http2'
import t, { type Test } from 'tap'
import { WebSocket, WebSocketServer } from 'ws'
import type { ProxyEventName, RockstarProxyOptions } from '../../types/index.ts'
import { httpBackend, startGateway, type GatewaySetup } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { seeded } from '../helpers/random.ts'
import { handshake, nothingLeft, switching, tunnelRig, type Asked, type End, type TunnelRig } from '../helpers/tunnel.ts'
import { ok, rawBackend, until, type Wire } from '../helpers/wire.ts'

/** A test that hangs fails by itself, and lets the others run. */
const LIMIT = 10_000

const rejections: unknown[] = []
const onRejection = (reason: unknown) => { rejections.push(reason) }
process.on('unhandledRejection', onRejection)
t.teardown(() => process.off('unhandledRejection', onRejection))

/** Lets what has been sent to this process be read in it. */
const turns = async () => { for (let i = 0; i < 10; i++) await new Promise(resolve => setImmediate(resolve)) }

/** "Going away" as a server says it. RFC 6455, 5.5.1 and 7.4.1. */
const GOING_AWAY = '\x88\x02\x03\xe9'

/** What a masked close frame says; `undefined` where it is none. */
function unmasked (frame: string): string | undefined {
  if (!frame.startsWith('\x88\x82') || frame.length !== 8) return undefined
  const [key, code] = [frame.slice(2, 6), frame.slice(6)]
  return [...code].map((char, i) => String.fromCharCode(char.charCodeAt(0) ^ key.charCodeAt(i))).join('')
}

const isMaskedGoingAway = (frame: string) => unmasked(frame) === '\x03\xe9'

/** A masked frame as a client sends it; the key is zero, which is allowed. */
function masked (opcode: number, payload: string, fin = true): string {
  const first = String.fromCharCode((fin ? 0x80 : 0) | opcode)
  if (payload.length < 126) return `${first}${String.fromCharCode(0x80 | payload.length)}\0\0\0\0${payload}`
  const length = Buffer.alloc(8)
  length.writeBigUInt64BE(BigInt(payload.length))
  return `${first}\xff${length.toString('latin1')}\0\0\0\0${payload}`
}

/** A frame as a server sends it. */
function plain (opcode: number, payload: string, fin = true): string {
  const first = String.fromCharCode((fin ? 0x80 : 0) | opcode)
  if (payload.length < 126) return `${first}${String.fromCharCode(payload.length)}${payload}`
  const length = Buffer.alloc(8)
  length.writeBigUInt64BE(BigInt(payload.length))
  return `${first}\x7f${length.toString('latin1')}${payload}`
}

interface Rig extends TunnelRig {
  clock: FakeClock
  /** Moves time on in small steps, and lets each be acted on. */
  pass (milliseconds: number): Promise<void>
}

async function start (t: Test, options: RockstarProxyOptions = {}, setup: GatewaySetup & { asked?: Asked } = {}): Promise<Rig> {
  const clock = new FakeClock()
  const rig = await tunnelRig(t, { clock, random: seeded(3), upgrades: ['x-own'], shutdownTimeout: 9_000, ...options }, {
    asked: request => switching(request.values('upgrade')[0]), ...setup, fastify: { forceCloseConnections: undefined, ...setup.fastify }
  })
  const pass = async (milliseconds: number) => {
    const until = clock.now() + milliseconds
    while (clock.now() < until) {
      clock.advance(Math.min(100, until - clock.now()))
      await turns()
    }
  }
  // Nothing of a test waits for the end of an app whose clock stands still.
  const test = { over: false }
  t.teardown(() => { test.over = true })
  const { close } = rig.gateway.app
  rig.gateway.app.close = (async () => {
    const closed = (close as () => Promise<void>).call(rig.gateway.app)
    while (test.over && clock.timers > 0) await pass(1_000)
    return await closed
  }) as never
  return { ...rig, clock, pass }
}

/** Follows a promise. */
function follow<T> (promise: Promise<T>): { done: boolean, promise: Promise<T> } {
  const followed = { done: false, promise }
  promise.then(() => { followed.done = true }, () => { followed.done = true })
  return followed
}

function events (rig: Pick<Rig, 'proxy'>): string[] {
  const seen: string[] = []
  for (const name of ['backend:draining', 'backend:drained', 'backend:removed', 'backend:added'] as ProxyEventName[]) rig.proxy.on(name, event => { seen.push(`${name} ${(event as { backend: { id: string } }).backend.id}`) })
  return seen
}

// WebSockets

/** The ways in which a WebSocket is told to close. */
const WAYS: [string, (rig: Rig) => Promise<unknown>][] = [
  ['drainBackend', rig => rig.proxy.drainBackend('a', { timeout: 10_000 })],
  ['removeBackend', rig => rig.proxy.removeBackend('a', { drain: { timeout: 10_000 } })],
  ['app.close', rig => rig.gateway.app.close()]
]

for (const [name, leave] of WAYS) {
  t.test(`${name}: both ends of a WebSocket are told 1001, the backend in a masked frame`, { timeout: LIMIT }, async t => {
    const rig = await start(t)
    const { client, server } = await rig.open()
    client.say(masked(1, 'hello'))
    await server.hears(masked(1, 'hello'))
    server.say(plain(1, 'hello'))
    await client.hears(plain(1, 'hello'))
    const left = follow(leave(rig))
    await turns()
    await rig.pass(100)
    await client.hears(plain(1, 'hello') + GOING_AWAY)
    await until(() => server.heard.length >= masked(1, 'hello').length + 8)
    t.ok(isMaskedGoingAway(server.heard.slice(masked(1, 'hello').length)))
    t.notOk(client.wire.ended || server.wire.ended, 'they may answer')
    t.notOk(left.done)
    client.say(masked(1, 'not heard any more') + masked(8, '\x03\xe9'))
    server.say(plain(1, 'not heard any more') + plain(8, '\x03\xe9'))
    await until(() => client.wire.ended && server.wire.ended)
    client.wire.socket.end()
    server.wire.socket.end()
    await until(() => client.wire.closed && server.wire.closed)
    t.equal(client.heard, plain(1, 'hello') + GOING_AWAY)
    t.equal(server.heard.length, masked(1, 'hello').length + 8)
    t.equal(client.wire.error, undefined)
    t.equal(server.wire.error, undefined)
    while (!left.done) await rig.pass(250)
    await left.promise
    t.equal(rig.proxy.getMetrics().tunnels.open, 0)
  })
}

t.test('real peers see 1001, and a clean end', { timeout: LIMIT }, async t => {
  for (const way of ['drain', 'remove', 'upstream', 'close']) {
    const { url, server: http } = await httpBackend(t, () => {})
    const sockets = new WebSocketServer({ server: http })
    const codes: number[] = []
    sockets.on('connection', socket => {
      socket.on('message', message => socket.send(message))
      socket.on('close', code => { codes.push(code) })
    })
    const gateway = await startGateway(t, {
      backends: way === 'upstream' ? [] : [{ id: 'a', url }],
      upstreams: { other: { backends: [{ id: 'a', url }] } },
      routes: [{ prefix: '/', upstream: way === 'upstream' ? 'other' : undefined }],
      shutdownTimeout: 5_000
    })
    const clients = await Promise.all(Array.from({ length: 20 }, async () => {
      const client = new WebSocket(`ws://127.0.0.1:${gateway.port}/`)
      t.teardown(() => client.terminate())
      client.on('close', code => { codes.push(code) })
      await once(client, 'open')
      return client
    }))
    // In the middle of a conversation.
    for (const client of clients) {
      client.on('message', () => { if (client.readyState === client.OPEN) client.send('again'.repeat(10_000)) })
      client.send('first')
    }
    const { proxy } = gateway.app
    if (way === 'drain') await proxy.drainBackend('a', { timeout: 1_000 })
    else if (way === 'remove') await proxy.removeBackend('a', { drain: { timeout: 1_000 } })
    else if (way === 'upstream') await proxy.removeUpstream('other', { drain: { timeout: 1_000 } })
    else await gateway.app.close()
    await until(() => codes.length === 40)
    t.ok(codes.every(code => code === 1001), `${way}: ${[...new Set(codes)].join()}`)
    await until(() => proxy.getMetrics().tunnels.open === 0 && proxy.getMetrics().inFlight === 0)
  }
})

t.test('a frame that is passing is finished first', async t => {
  const large = 'x'.repeat(200_000)
  for (const cut of [1, 2, 5, 9, 13, 14, 15, 100_000]) {
    await t.test(`the client has sent ${cut} bytes of it`, { timeout: LIMIT }, async t => {
      const rig = await start(t)
      const { client, server } = await rig.open()
      const frame = masked(2, large)
      client.say(frame.slice(0, cut))
      await server.hears(frame.slice(0, cut))
      const left = follow(rig.proxy.drainBackend('a', { timeout: 20_000 }))
      await rig.pass(100)
      await client.hears(GOING_AWAY)
      await turns()
      t.equal(server.heard, frame.slice(0, cut), 'nothing comes between')
      client.say(frame.slice(cut) + masked(1, 'behind it'))
      await until(() => server.heard.length >= frame.length + 8)
      t.equal(server.heard.slice(0, frame.length), frame)
      t.ok(isMaskedGoingAway(server.heard.slice(frame.length)), 'and nothing of what follows')
      server.wire.socket.end()
      client.wire.socket.end()
      await left.promise
      await nothingLeft(t, rig.gateway)
    })
  }

  for (const cut of [1, 2, 5, 9, 10, 11, 100_000]) {
    await t.test(`the backend has sent ${cut} bytes of it`, { timeout: LIMIT }, async t => {
      const rig = await start(t)
      const { client, server } = await rig.open()
      const frame = plain(2, large)
      server.say(frame.slice(0, cut))
      await client.hears(frame.slice(0, cut))
      const left = follow(rig.proxy.drainBackend('a', { timeout: 20_000 }))
      await rig.pass(100)
      await until(() => server.heard.length >= 8)
      t.ok(isMaskedGoingAway(server.heard))
      // What the client says of its own accord meanwhile is not the end of what it is to hear.
      client.say(masked(8, '\x03\xe8'))
      await turns()
      t.equal(client.heard, frame.slice(0, cut), 'nothing comes between')
      server.say(frame.slice(cut) + plain(1, 'behind it'))
      await client.hears(frame + GOING_AWAY)
      client.wire.socket.end()
      server.say(plain(8, '\x03\xe9')).wire.socket.end()
      await left.promise
      await nothingLeft(t, rig.gateway)
      t.equal(client.wire.error, undefined)
    })
  }

  await t.test('between two frames of a message it may come', { timeout: LIMIT }, async t => {
    const rig = await start(t)
    const { client, server } = await rig.open()
    client.say(masked(1, 'one', false))
    server.say(plain(1, 'one', false) + plain(9, 'ping'))
    await server.hears(masked(1, 'one', false))
    await client.hears(plain(1, 'one', false) + plain(9, 'ping'))
    rig.proxy.drainBackend('a', { timeout: 1_000 })
    await rig.pass(100)
    await client.hears(plain(1, 'one', false) + plain(9, 'ping') + GOING_AWAY)
    await until(() => isMaskedGoingAway(server.heard.slice(masked(1, 'one', false).length)))
  })
})

t.test('who has closed already is told nothing more', { timeout: LIMIT }, async t => {
  for (const who of ['client', 'server'] as const) {
    const rig = await start(t)
    const pair = await rig.open()
    const close = who === 'client' ? masked(8, '\x03\xe8') : plain(8, '\x03\xe8')
    const [first, second] = who === 'client' ? [pair.client, pair.server] : [pair.server, pair.client]
    first.say(close)
    await second.hears(close)
    const left = follow(rig.proxy.drainBackend('a', { timeout: 10_000 }))
    await rig.pass(200)
    await turns()
    t.equal(second.heard, close, 'a second close would be an error')
    t.ok(who === 'client' ? first.heard === GOING_AWAY : isMaskedGoingAway(first.heard))
    // The answer to the first one.
    second.say(who === 'client' ? plain(8, '\x03\xe8') : masked(8, '\x03\xe8'))
    await until(() => pair.client.wire.ended && pair.server.wire.ended)
    pair.client.wire.socket.end()
    pair.server.wire.socket.end()
    await left.promise
    await nothingLeft(t, rig.gateway)
  }
})

t.test('a WebSocket whose ends do not answer is closed two seconds later', { timeout: LIMIT }, async t => {
  const rig = await start(t)
  const { client, server } = await rig.open()
  const left = follow(rig.proxy.drainBackend('a', { timeout: 30_000 }))
  await rig.pass(100)
  await client.hears(GOING_AWAY)
  await rig.pass(1_800)
  t.notOk(client.wire.ended || server.wire.ended || left.done)
  await rig.pass(400)
  await until(() => client.wire.ended && server.wire.ended)
  client.wire.close()
  server.wire.close()
  await left.promise
  await nothingLeft(t, rig.gateway)
})

t.test('a timeout that is over before they answer aborts them', { timeout: LIMIT }, async t => {
  const rig = await start(t)
  const { client, server } = await rig.open()
  const left = follow(rig.proxy.drainBackend('a', { timeout: 500 }))
  await rig.pass(400)
  t.equal(client.heard, GOING_AWAY)
  await rig.pass(200)
  await until(() => client.wire.closed && server.wire.closed)
  await left.promise
  await nothingLeft(t, rig.gateway)
})

t.test('a timeout of 0 aborts everything at once', { timeout: LIMIT }, async t => {
  const rig = await start(t)
  const pairs = [await rig.open(), await rig.open(handshake('/', '', 'x-own'))]
  await rig.proxy.drainBackend('a', { timeout: 0 })
  for (const { client, server } of pairs) await until(() => client.wire.closed && server.wire.closed)
  await nothingLeft(t, rig.gateway)
})

t.test('other protocols go on until the time is up, and are cut then', { timeout: LIMIT }, async t => {
  for (const [name, leave] of WAYS) {
    const rig = await start(t)
    const { client, server } = await rig.open(handshake('/', '', 'x-own'))
    const left = follow(leave(rig))
    await rig.pass(8_500)
    client.say('still')
    await server.hears('still')
    server.say('here')
    await client.hears('here')
    t.notOk(client.wire.ended || server.wire.ended || left.done, name)
    t.equal(rig.proxy.getMetrics().tunnels.open, 1)
    await rig.pass(2_000)
    await until(() => client.wire.closed && server.wire.closed)
    t.equal(client.heard, 'here', 'with no word of ours')
    t.equal(server.heard, 'still')
    while (!left.done) await rig.pass(250)
    await left.promise
  }
})

t.test('a handshake that finishes meanwhile makes a tunnel that is told to close', { timeout: LIMIT }, async t => {
  for (const [name, leave] of WAYS) {
    let asked: Wire | undefined
    const rig = await start(t, {}, { asked: (_request, wire) => { asked = wire } })
    const client = await rig.gateway.connect()
    client.send(handshake())
    await until(() => asked !== undefined)
    const left = follow(leave(rig))
    await rig.pass(200)
    const server = rig.backend.accept(asked as Wire)
    const head = await client.response()
    t.equal(head.status, 101, name)
    await rig.pass(100)
    await until(() => client.received.length >= head.length + 4 && server.heard.length >= 8)
    t.equal(client.received.slice(head.length), GOING_AWAY)
    t.ok(isMaskedGoingAway(server.heard))
    t.notOk(left.done)
    client.socket.end()
    server.wire.socket.end()
    while (!left.done) await rig.pass(250)
    await left.promise
  }
})

t.test('the pace: each at a moment of its own in the first half of the time, no more than a hundred a second', async t => {
  for (const [timeout, latest] of [[30_000, 300], [200, 100]]) {
    await t.test(`within ${timeout} ms`, { timeout: LIMIT }, async t => {
      const rig = await start(t)
      const pairs: { client: End, server: End }[] = []
      for (let i = 0; i < 30; i++) pairs.push(await rig.open())
      const began = rig.clock.now()
      const told = new Map<End, number>()
      rig.proxy.drainBackend('a', { timeout })
      while (told.size < 30 && rig.clock.now() - began < latest) {
        rig.clock.advance(5)
        await turns()
        for (const { client } of pairs) if (client.heard !== '' && !told.has(client)) told.set(client, rig.clock.now() - began)
      }
      t.equal(told.size, 30, 'all of them')
      t.ok(new Set(told.values()).size > 8, 'at different times')
      const half = [...told.values()].filter(at => at <= latest / 2).length
      t.ok(half > 5 && half < 25, `${half} in the first half of that`)
      await rig.pass(timeout)
    })
  }
})

// Requests and streams

/** A gateway whose backend answers when told. */
async function held (t: Test, options: RockstarProxyOptions = {}, setup: GatewaySetup = {}) {
  const carriers: Wire[] = []
  const rig = await start(t, options, {
    ...setup,
    asked: ({ startLine }, wire) => {
      if (startLine.includes('/now')) return ok('now')
      carriers.push(wire)
      return undefined
    }
  })
  const ask = async (path = '/held') => {
    const client = await rig.gateway.connect()
    const known = carriers.length
    client.send(`GET ${path} HTTP/1.1\r\nHost: g\r\n\r\n`)
    if (path !== '/now') await until(() => carriers.length > known)
    return client
  }
  return { ...rig, carriers, ask }
}

t.test('drainBackend: what is in flight finishes, nothing new comes, and what is left can be counted', { timeout: LIMIT }, async t => {
  const rig = await held(t)
  const other = await rawBackend(t, () => ok('other'))
  const seen = events(rig)
  const clients = [await rig.ask(), await rig.ask()]
  rig.carriers[1].send('HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf')
  await clients[1].receive('half')
  const backend = rig.proxy.getBackend('a')
  rig.proxy.addBackend({ id: 'b', url: other.url })
  const left = follow(rig.proxy.drainBackend('a'))
  t.match(backend, { draining: true, isActive: true, inFlight: 2 })
  t.match(backend.toJSON(), { draining: true, available: false, inFlight: 2 })
  for (let i = 0; i < 4; i++) t.equal((await (await rig.ask('/now')).response()).body, 'other')
  await rig.pass(29_000)
  t.notOk(left.done)
  rig.carriers[0].send(ok('whole'))
  t.equal((await clients[0].response()).body, 'whole')
  await until(() => backend.inFlight === 1)
  await turns()
  t.notOk(left.done)
  rig.carriers[1].send('full')
  t.equal((await clients[1].response()).body, 'halffull')
  await left.promise
  t.match(backend, { draining: false, isActive: false, inFlight: 0 })
  t.equal(rig.proxy.getBackend('a'), backend, 'it stays listed')
  t.same(seen, ['backend:added b', 'backend:draining a', 'backend:drained a'])
  t.equal((await (await rig.ask('/now')).response()).body, 'other')
  rig.proxy.updateBackend('a', { isActive: true })
  const who = new Set<string>()
  for (let i = 0; i < 2; i++) who.add((await (await rig.ask('/now')).response()).body)
  t.same([...who].sort(), ['now', 'other'], 'and comes back when wanted')
})

t.test('drainBackend: resolves at once where nothing is in flight', { timeout: LIMIT }, async t => {
  const rig = await held(t)
  await rig.proxy.drainBackend('a')
  t.match(rig.proxy.getBackend('a'), { draining: false, isActive: false })
  const client = await rig.ask('/now')
  t.equal((await client.response()).status, 503)
  await rig.proxy.drainBackend('a', { timeout: 5 })
})

t.test('drainBackend: what takes longer than its timeout is aborted', { timeout: LIMIT }, async t => {
  const rig = await held(t, { timeout: { request: 0, headers: 0, idle: 0 } })
  const waiting = await rig.ask()
  const streaming = await rig.ask()
  rig.carriers[1].send('HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n')
  await streaming.receive('data: 1')
  const left = follow(rig.proxy.drainBackend('a', { timeout: 5_000 }))
  await rig.pass(4_900)
  rig.carriers[1].send('data: 2\n\n')
  await streaming.receive('data: 2')
  t.notOk(left.done)
  await rig.pass(200)
  await left.promise
  t.equal((await waiting.response()).status, 503)
  await until(() => streaming.ended || streaming.closed)
  t.notMatch(streaming.received, /\r\n0\r\n/, 'no whole answer')
  await until(() => rig.carriers.every(({ closed, ended }) => closed || ended))
  t.match(rig.proxy.getBackend('a'), { inFlight: 0, isActive: false })
})

t.test('updateBackend(id, { isActive: true }) calls a drain off', { timeout: LIMIT }, async t => {
  const rig = await held(t)
  const seen = events(rig)
  const client = await rig.ask()
  const left = follow(rig.proxy.drainBackend('a', { timeout: 5_000 }))
  await rig.pass(1_000)
  rig.proxy.updateBackend('a', { weight: 3 })
  await turns()
  t.notOk(left.done, 'other changes do not')
  rig.proxy.updateBackend('a', { isActive: true })
  await left.promise
  t.match(rig.proxy.getBackend('a'), { draining: false, isActive: true, inFlight: 1 })
  t.equal((await (await rig.ask('/now')).response()).body, 'now')
  await rig.pass(10_000)
  rig.carriers[0].send(ok('whole'))
  t.equal((await client.response()).body, 'whole', 'what was in flight was not aborted')
  t.same(seen, ['backend:draining a'])
  const again = follow(rig.proxy.drainBackend('a', { timeout: 5_000 }))
  await again.promise
  t.same(seen, ['backend:draining a', 'backend:draining a', 'backend:drained a'])
})

t.test('a drain that is called off spares WebSockets that have not been told yet', { timeout: LIMIT }, async t => {
  const rig = await start(t, { random: () => 0.5 })
  const pairs = [await rig.open(), await rig.open()]
  const left = follow(rig.proxy.drainBackend('a', { timeout: 5_000 }))
  rig.clock.advance(5)
  rig.proxy.updateBackend('a', { isActive: true })
  await left.promise
  await rig.pass(10_000)
  for (const { client, server } of pairs) {
    client.say(masked(1, 'still'))
    await server.hears(masked(1, 'still'))
    t.equal(client.heard, '')
  }
  const again = follow(rig.proxy.drainBackend('a', { timeout: 5_000 }))
  await rig.pass(100)
  for (const { client, server } of pairs) {
    await client.hears(GOING_AWAY)
    client.wire.socket.end()
    server.wire.socket.end()
  }
  await again.promise
})

t.test('two drains of one backend at once', { timeout: LIMIT }, async t => {
  await t.test('both resolve when it is done, and it is told once', { timeout: LIMIT }, async t => {
    const rig = await held(t)
    const seen = events(rig)
    const client = await rig.ask()
    const [one, two] = [follow(rig.proxy.drainBackend('a', { timeout: 5_000 })), follow(rig.proxy.drainBackend('a', { timeout: 9_000 }))]
    await rig.pass(1_000)
    t.notOk(one.done || two.done)
    rig.carriers[0].send(ok('whole'))
    t.equal((await client.response()).body, 'whole')
    await Promise.all([one.promise, two.promise])
    t.same(seen, ['backend:draining a', 'backend:drained a'])
    t.match(rig.proxy.getBackend('a'), { draining: false, isActive: false })
  })

  await t.test('the shorter time ends both', { timeout: LIMIT }, async t => {
    const rig = await held(t)
    const client = await rig.ask()
    const [one, two] = [follow(rig.proxy.drainBackend('a', { timeout: 5_000 })), follow(rig.proxy.drainBackend('a', { timeout: 2_000 }))]
    await rig.pass(2_100)
    t.equal((await client.response()).status, 503)
    await Promise.all([one.promise, two.promise])
    t.match(rig.proxy.getBackend('a'), { draining: false, isActive: false, inFlight: 0 })
  })
})

t.test('a drain and a removal', async t => {
  await t.test('drained, then removed meanwhile', { timeout: LIMIT }, async t => {
    const rig = await held(t)
    const seen = events(rig)
    const client = await rig.ask()
    const drained = follow(rig.proxy.drainBackend('a', { timeout: 5_000 }))
    await rig.pass(1_000)
    const removed = follow(rig.proxy.removeBackend('a', { drain: { timeout: 9_000 } }))
    await rig.pass(500)
    t.notOk(drained.done || removed.done)
    rig.carriers[0].send(ok('whole'))
    t.equal((await client.response()).body, 'whole')
    await Promise.all([drained.promise, removed.promise])
    t.same(seen, ['backend:draining a', 'backend:removed a'])
    t.throws(() => rig.proxy.getBackend('a'), { code: 'FST_ROCKSTAR_UNKNOWN_BACKEND' })
  })

  await t.test('drained, and removed when that is done', { timeout: LIMIT }, async t => {
    const rig = await held(t)
    const seen = events(rig)
    await rig.proxy.drainBackend('a')
    await rig.proxy.removeBackend('a')
    t.same(seen, ['backend:draining a', 'backend:drained a', 'backend:draining a', 'backend:removed a'])
    await t.rejects(rig.proxy.drainBackend('a'), { code: 'FST_ROCKSTAR_UNKNOWN_BACKEND' })
  })

  await t.test('removed, then drained meanwhile, and not to be had back', { timeout: LIMIT }, async t => {
    const rig = await held(t)
    const seen = events(rig)
    await rig.ask()
    const removed = follow(rig.proxy.removeBackend('a', { drain: { timeout: 5_000 } }))
    const drained = follow(rig.proxy.drainBackend('a', { timeout: 1_000 }))
    rig.proxy.updateBackend('a', { isActive: true })
    t.equal(rig.proxy.getBackend('a').draining, true)
    await rig.pass(1_100)
    await Promise.all([drained.promise, removed.promise])
    t.same(seen, ['backend:draining a', 'backend:removed a'])
  })
})

t.test('bad input', { timeout: LIMIT }, async t => {
  const rig = await held(t)
  await t.rejects(rig.proxy.drainBackend('none'), { code: 'FST_ROCKSTAR_UNKNOWN_BACKEND' })
  for (const options of [{ timeout: -1 }, { timeout: '5' }, { timout: 5 }, 5, { timeout: NaN }]) {
    await t.rejects(rig.proxy.drainBackend('a', options as never), { code: 'FST_ROCKSTAR_INVALID_OPTIONS' }, JSON.stringify(options))
  }
  t.match(rig.proxy.getBackend('a'), { draining: false, isActive: true })
})

t.test('a drain keeps clients by affinity until its time is up', { timeout: LIMIT }, async t => {
  const rig = await held(t, { affinity: { secret: 'sixteen letters!', cookie: 'stay' } })
  const client = await rig.ask('/now')
  const cookie = (await client.response()).values('set-cookie')[0].split(';')[0]
  const other = await rawBackend(t, () => ok('other'))
  rig.proxy.addBackend({ id: 'b', url: other.url })
  const left = follow(rig.proxy.drainBackend('a', { timeout: 5_000 }))
  await rig.pass(1_000)
  t.notOk(left.done)
  const again = await rig.gateway.connect()
  again.send(`GET /now HTTP/1.1\r\nHost: g\r\nCookie: ${cookie}\r\n\r\n`)
  t.equal((await again.response()).body, 'now')
  await rig.pass(4_100)
  await left.promise
  again.send(`GET /now HTTP/1.1\r\nHost: g\r\nCookie: ${cookie}\r\n\r\n`)
  await again.receive('other')
})

t.test('a drain that was cut short by another does not abort what comes when the backend is wanted back', { timeout: LIMIT }, async t => {
  const rig = await held(t, { affinity: { secret: 'sixteen letters!', cookie: 'stay' }, timeout: { request: 0, headers: 0, idle: 0 } })
  const [long, short] = [follow(rig.proxy.drainBackend('a', { timeout: 20_000 })), follow(rig.proxy.drainBackend('a', { timeout: 3_000 }))]
  await rig.pass(3_100)
  await Promise.all([long.promise, short.promise])
  rig.proxy.updateBackend('a', { isActive: true })
  const client = await rig.ask()
  await rig.pass(20_000)
  rig.carriers[0].send(ok('whole'))
  t.equal((await client.response()).body, 'whole')
})

// The whole app

t.test('app.close(): answers end their connections, streams go on until shutdownTimeout', { timeout: LIMIT }, async t => {
  const rig = await held(t, { timeout: { request: 0, headers: 0, idle: 0 }, routes: [{ prefix: '/' }, { prefix: '/hooked', onSend: (async (_request: unknown, _reply: unknown, payload: unknown) => payload) as never }] })
  const [waiting, hooked, streaming, hung] = [await rig.ask(), await rig.ask('/hooked/x'), await rig.ask(), await rig.ask()]
  rig.carriers[2].send('HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n')
  await streaming.receive('data: 1')
  const idle = await rig.ask('/now')
  t.same((await idle.response()).values('connection'), ['keep-alive'])
  const closed = follow(rig.gateway.app.close())
  await rig.pass(500)
  for (const i of [0, 1]) rig.carriers[i].send(ok('whole'))
  for (const client of [waiting, hooked]) {
    const response = await client.response()
    t.match(response, { status: 200, body: 'whole' })
    t.same(response.values('connection'), ['close'])
    await until(() => client.ended)
    client.socket.end()
  }
  await rig.pass(7_000)
  rig.carriers[2].send('data: 2\n\n')
  await streaming.receive('data: 2')
  t.notOk(closed.done)
  await rig.pass(2_000)
  await until(() => streaming.ended || streaming.closed)
  t.equal((await hung.response()).status, 503)
  for (const client of [streaming, hung, idle]) client.socket.end()
  while (!closed.done) await rig.pass(250)
  await closed.promise
  await until(() => rig.carriers.every(({ ended, closed }) => ended || closed))
})

t.test('app.close(): a stream that ends in time ends it', { timeout: LIMIT }, async t => {
  const rig = await held(t)
  const streaming = await rig.ask()
  rig.carriers[0].send('HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: 1\n\n')
  await streaming.receive('data: 1')
  const closed = follow(rig.gateway.app.close())
  await rig.pass(3_000)
  t.notOk(closed.done)
  rig.carriers[0].socket.end('data: 2\n\n')
  await streaming.receive('data: 2')
  await until(() => streaming.ended)
  t.match(streaming.received, /\r\n0\r\n\r\n$/, 'whole')
  streaming.socket.end()
  while (!closed.done) await rig.pass(50)
  await closed.promise
})

t.test('app.close(): an upload that has been answered before its end holds nothing up', { timeout: LIMIT }, async t => {
  for (const way of ['raw', 'hooked']) {
    const rig = await held(t, { routes: [{ prefix: '/raw' }, { prefix: '/hooked', onSend: (async (_request: unknown, _reply: unknown, payload: unknown) => payload) as never }] })
    const client = await rig.gateway.connect()
    client.send(`POST /${way}/upload HTTP/1.1\r\nHost: g\r\nContent-Length: 100000\r\n\r\nbeginning`)
    await until(() => rig.backend.connections[0]?.received.endsWith('beginning') === true)
    const closed = follow(rig.gateway.app.close())
    await rig.pass(100)
    rig.backend.connections[0].send(ok('enough', '', '413 Content Too Large'))
    const response = await client.response()
    t.match(response, { status: 413, body: 'enough' })
    t.same(response.values('connection'), ['close'])
    await until(() => client.ended)
    client.close()
    const began = rig.clock.now()
    while (!closed.done) await rig.pass(50)
    t.ok(rig.clock.now() - began < 2_000, `${rig.clock.now() - began} ms`)
  }
})

t.test('app.close(): clients of HTTP/2 get GOAWAY, and streams that are there finish', { timeout: LIMIT }, async t => {
  const rig = await held(t, {}, { fastify: { http2: true } })
  const session = connectHttp2(`http://127.0.0.1:${rig.gateway.port}`)
  t.teardown(() => session.destroy())
  let goaway: number | undefined
  session.on('goaway', code => { goaway = code })
  const get = (path: string) => {
    const stream = session.request({ ':path': path })
    let body = ''
    stream.setEncoding('utf8').on('data', chunk => { body += chunk })
    return { stream, ended: once(stream, 'end').then(() => body), response: once(stream, 'response') }
  }
  const [one, two] = [get('/one'), get('/two')]
  await until(() => rig.carriers.length === 2)
  const closed = follow(rig.gateway.app.close())
  await rig.pass(500)
  rig.carriers[0].send(ok('one'))
  t.equal(await one.ended, 'one')
  await until(() => goaway !== undefined)
  t.equal(goaway, 0)
  rig.carriers[1].send(ok('two'))
  t.equal(await two.ended, 'two')
  while (!closed.done) await rig.pass(250)
  await closed.promise
})

t.test('app.close(): a handshake that comes now is refused', { timeout: LIMIT }, async t => {
  const rig = await held(t)
  const held1 = await rig.ask()
  const late = await rig.gateway.connect()
  const closed = follow(rig.gateway.app.close())
  await rig.pass(200)
  late.send(handshake())
  t.equal((await late.response()).status, 503)
  await until(() => late.ended)
  late.socket.end()
  rig.carriers[0].send(ok('whole'))
  await held1.response()
  held1.socket.end()
  while (!closed.done) await rig.pass(250)
  await closed.promise
})

// All at once

t.test('a rolling drain of all backends under load loses nothing, and WebSockets get 1001', { timeout: 20_000 }, async t => {
  const codes: number[] = []
  const backends = await Promise.all(['a', 'b', 'c'].map(async id => {
    const { url, server } = await httpBackend(t, (_request, response) => { setTimeout(() => response.end(id), 3) })
    const sockets = new WebSocketServer({ server })
    sockets.on('connection', socket => socket.on('message', message => socket.send(message)))
    return { id, url }
  }))
  const gateway = await startGateway(t, { backends, routes: [{ prefix: '/' }], balancer: 'least-requests' })
  const { proxy } = gateway.app
  const load = { over: false }
  const answers = new Map<string, number>()
  const ask = async () => {
    const client = await gateway.connect()
    let at = 0
    while (!load.over) {
      client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
      const response = await client.response(at)
      at += response.length
      const key = response.status === 200 ? response.body : `[${response.status}]`
      answers.set(key, (answers.get(key) ?? 0) + 1)
    }
    client.close()
  }
  const chats = new Set<WebSocket>()
  let reconnects = 0
  const chat = async (): Promise<void> => {
    const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}/chat`)
    chats.add(socket)
    socket.on('message', () => { if (socket.readyState === socket.OPEN) socket.send('again') })
    socket.on('error', error => t.error(error))
    await once(socket, 'open')
    socket.send('first')
    const [code] = await once(socket, 'close')
    chats.delete(socket)
    codes.push(code)
    if (load.over) return
    reconnects++
    await chat()
  }
  const asking = Array.from({ length: 10 }, ask)
  const chatting = Array.from({ length: 30 }, chat)
  await until(() => proxy.getMetrics().tunnels.open === 30)
  for (const { id } of backends) {
    const before = [...answers.values()].reduce((sum, count) => sum + count, 0)
    const there = proxy.getBackend(id).inFlight
    await proxy.drainBackend(id, { timeout: 3_000 })
    t.ok(there > 0)
    t.match(proxy.getBackend(id), { inFlight: 0, isActive: false })
    await until(() => [...answers.values()].reduce((sum, count) => sum + count, 0) > before + 200)
    proxy.updateBackend(id, { isActive: true })
  }
  // One that is open here has perhaps not told its client yet.
  await until(() => proxy.getMetrics().tunnels.open === 30 && chats.size === 30 && [...chats].every(({ readyState }) => readyState === WebSocket.OPEN))
  load.over = true
  t.ok(codes.length >= 30 && codes.every(code => code === 1001), `${codes.length} closes, ${[...new Set(codes)].join()}`)
  t.equal(reconnects, codes.length)
  for (const socket of chats) socket.close(1000)
  await Promise.all([...asking, ...chatting])
  t.same([...answers.keys()].sort(), ['a', 'b', 'c'], JSON.stringify([...answers]))
  t.match(proxy.getMetrics(), { failedRequests: 0, abortedRequests: 0, totalRetries: 0 })
  await nothingLeft(t, gateway)
})

t.test('a rolling restart of the proxy itself under load loses nothing, and WebSockets get 1001', { timeout: 20_000 }, async t => {
  const { url, server } = await httpBackend(t, (_request, response) => { setTimeout(() => response.end('fine'), 3) })
  const sockets = new WebSocketServer({ server })
  sockets.on('connection', socket => socket.on('message', message => socket.send(message)))
  /** With what a proxy behind a load balancer of connections needs. */
  const proxyOf = () => startGateway(t, { backends: [url], routes: [{ prefix: '/' }], shutdownTimeout: 5_000 }, { fastify: { return503OnClosing: false, forceCloseConnections: undefined } })
  let current = await proxyOf()
  const load = { over: false }
  const answers = new Map<string, number>()
  const count = () => [...answers.values()].reduce((sum, count) => sum + count, 0)
  const ask = async () => {
    while (!load.over) {
      const client = await current.connect()
      for (let at = 0, open = true; open && !load.over;) {
        client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
        const response = await client.response(at)
        at += response.length
        open = response.values('connection')[0] !== 'close'
        const key = `${response.status} ${response.body}`
        answers.set(key, (answers.get(key) ?? 0) + 1)
      }
      client.close()
    }
  }
  const codes: number[] = []
  const chats = new Set<WebSocket>()
  const chat = async () => {
    while (!load.over) {
      const socket = new WebSocket(`ws://127.0.0.1:${current.port}/chat`)
      socket.on('error', error => t.error(error))
      socket.on('message', () => { if (socket.readyState === socket.OPEN) socket.send('again') })
      await once(socket, 'open')
      chats.add(socket)
      socket.send('first')
      const [code] = await once(socket, 'close')
      chats.delete(socket)
      codes.push(code)
    }
  }
  const busy = [...Array.from({ length: 10 }, ask), ...Array.from({ length: 20 }, chat)]
  for (let i = 0; i < 3; i++) {
    const before = count()
    await until(() => chats.size === 20 && current.app.proxy.getMetrics().tunnels.open === 20 && count() > before + 100)
    const old = current
    current = await proxyOf()
    await old.app.close()
    t.match(old.app.proxy.getMetrics(), { inFlight: 0, failedRequests: 0, abortedRequests: 0, tunnels: { open: 0 } })
  }
  await until(() => chats.size === 20)
  load.over = true
  t.equal(codes.length, 60)
  t.ok(codes.every(code => code === 1001), [...new Set(codes)].join())
  for (const socket of chats) socket.close()
  await Promise.all(busy)
  t.same([...answers.keys()], ['200 fine'])
})

t.test('nothing was rejected in vain', t => {
  t.same(rejections, [])
  t.end()
})
