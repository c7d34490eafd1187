import t, { type Test } from 'tap'
import type { AdaptiveOptions, RockstarProxyOptions } from '../../types/index.ts'
import { startGateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, rawBackend, until, type Wire } from '../helpers/wire.ts'

const patient = { connect: 0, headers: 0, idle: 0, request: 0 }

/** A gateway whose time stands still in front of backends that hold all they get; one at first. */
async function stage (t: Test, adaptive: true | AdaptiveOptions, options: RockstarProxyOptions = {}, ids = 'a') {
  const clock = new FakeClock()
  const held: Record<string, { path: string, connection: Wire }[]> = {}
  const backends = await Promise.all([...ids].map(async id => {
    held[id] = []
    const { url } = await rawBackend(t, ({ startLine }, connection) => { held[id].push({ path: startLine.split(' ')[1], connection }) })
    return { id, url, metadata: { zone: id } }
  }))
  const gateway = await startGateway(t, { backends, limits: { adaptive, queue: { timeout: 0 } }, clock, timeout: patient, routes: [{ prefix: '/' }], ...options })
  const { proxy } = gateway.app
  const ask = async (path = '/') => {
    const wire = await gateway.connect()
    wire.send(`GET ${path} HTTP/1.1\r\nHost: g\r\n\r\n`)
    return wire
  }
  return {
    gateway,
    clock,
    held,
    ask,
    limit: (id = 'a') => proxy.getBackend(id).limit,
    queued: () => proxy.getMetrics().queueLength,
    /** As many requests at once as may be, or as told, whose answers take so long. */
    wave: async (milliseconds: number, count = proxy.getBackend('a').limit, response = ok()) => {
      const wires = await Promise.all(Array.from({ length: count }, () => ask()))
      await until(() => held.a.length === count)
      clock.advance(milliseconds)
      for (const { connection } of held.a.splice(0)) connection.send(response)
      for (const wire of wires) {
        await wire.response()
        wire.close()
      }
      await until(() => proxy.getMetrics().inFlight === 0)
    }
  }
}

t.test('as many requests are sent as the limit says, the others wait, and both are shown', async t => {
  const { gateway, held, ask, limit, queued } = await stage(t, { initial: 3, min: 1 })
  const wires = await Promise.all(Array.from({ length: 5 }, () => ask()))
  await until(() => held.a.length === 3 && queued() === 2)
  const { a } = Object.fromEntries(gateway.app.proxy.listBackends().map(backend => [backend.id, backend]))
  t.match(a.toJSON(), { limit: 3, inFlight: 3 })
  t.equal(limit(), 3)
  for (let i = 0; i < 5; i++) {
    await until(() => held.a.length > 0)
    held.a.shift()?.connection.send(ok())
  }
  for (const wire of wires) t.equal((await wire.response()).status, 200)
  t.match(gateway.app.proxy.getMetrics(), { queuedRequests: 2, shedRequests: 0 })
})

t.test('adaptive: true begins with 20', async t => {
  const { limit } = await stage(t, true)
  t.equal(limit(), 20)
})

t.test('the limit grows while answers take as long as usual, and shrinks when they take longer', async t => {
  const { limit, wave } = await stage(t, { initial: 12, min: 4, max: 14 })
  for (let i = 0; i < 10; i++) await wave(110)
  t.equal(limit(), 14, 'not above its bound')
  for (let i = 0; i < 6; i++) await wave(900)
  const low = limit()
  t.ok(low < 14, `${low}`)
  t.ok(low >= 4)
})

t.test('it does not grow while less than half of it is used', async t => {
  const { limit, wave } = await stage(t, { initial: 30 })
  for (let i = 0; i < 6; i++) await wave(110, 12)
  t.equal(limit(), 30)
  for (let i = 0; i < 6; i++) await wave(110, 18)
  t.ok(limit() > 30)
})

t.test('answers of 503 and 429 say that it was too much, other failures say nothing', async t => {
  for (const [status, less] of [['503 Sorry', true], ['429 Too Many', true], ['500 Oh', false]] as const) {
    const { limit, wave } = await stage(t, { initial: 20 })
    for (let i = 0; i < 4; i++) await wave(1_001, 20 - i * 4, ok('', '', status))
    t.equal(limit() < 20, less, status)
  }
})

t.test('answers that do not come in time say that it was too much', async t => {
  const { clock, held, ask, limit } = await stage(t, { initial: 5, min: 1 }, { timeout: { ...patient, headers: 2_000 } })
  const wires = await Promise.all(Array.from({ length: 5 }, () => ask()))
  await until(() => held.a.length === 5)
  clock.advance(2_500)
  for (const wire of wires) t.equal((await wire.response()).status, 504)
  t.equal(limit(), 4)
})

t.test('each backend has its own', async t => {
  const { limit, wave } = await stage(t, { initial: 12, max: 14 }, { routes: [{ prefix: '/', match: { zone: 'a' } }] }, 'ab')
  for (let i = 0; i < 10; i++) await wave(110)
  t.strictSame([limit('a'), limit('b')], [14, 12])
})

const EVENTS = 'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n6\r\ndata\n\n\r\n'

for (const [name, response] of [['an event stream', EVENTS], ['a long answer', 'HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\ndata']] as const) {
  t.test(`${name} does not count once its head is out, however long it goes on`, async t => {
    const { gateway, clock, held, ask, limit } = await stage(t, { initial: 2, min: 1, max: 2 })
    const streams: Wire[] = []
    for (let i = 0; i < 10; i++) {
      const wire = await ask('/events')
      await until(() => held.a.length === 1)
      held.a.shift()?.connection.send(response)
      await wire.receive('data')
      streams.push(wire)
    }
    t.match(gateway.app.proxy.getBackend('a').toJSON(), { inFlight: 10, limit: 2 })
    clock.advance(3_600_000)
    const others = [await ask(), await ask()]
    await until(() => held.a.length === 2)
    for (const { connection } of held.a.splice(0)) connection.send(ok())
    for (const wire of others) t.equal((await wire.response()).status, 200)
    t.equal(limit(), 2, 'nor is the hour taken for the time of an answer')
    for (const wire of streams) wire.close()
    await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
  })
}

t.test('but it does count against maxPerBackend', async t => {
  const { gateway, held, ask, queued } = await stage(t, true, { limits: { adaptive: true, maxPerBackend: 1, queue: { timeout: 0 } } })
  const stream = await ask('/events')
  await until(() => held.a.length === 1)
  held.a.shift()?.connection.send(EVENTS)
  await stream.receive('data')
  t.match(gateway.app.proxy.getBackend('a').toJSON(), { limit: 1, inFlight: 1 })
  const second = await ask()
  await until(() => queued() === 1)
  stream.close()
  await until(() => held.a.length === 1)
  held.a.shift()?.connection.send(ok())
  t.equal((await second.response()).status, 200)
})

t.test('clients that leave give back what they took of the limit', async t => {
  const { gateway, held, ask } = await stage(t, { initial: 2, min: 1, max: 2 })
  for (let i = 0; i < 5; i++) {
    const wires = [await ask(), await ask()]
    await until(() => held.a.length === 2)
    for (const wire of wires) wire.close()
    await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
    held.a.length = 0
  }
  const wire = await ask()
  await until(() => held.a.length === 1)
  held.a[0].connection.send(ok())
  t.equal((await wire.response()).status, 200)
  t.equal(gateway.app.proxy.getBackend('a').limit, 2)
})

t.test('uploads use up nothing of it, and the time they take is not their answer\'s', async t => {
  const { gateway, clock, held, ask, limit, wave } = await stage(t, { initial: 4, min: 2, max: 100 })
  for (let i = 0; i < 3; i++) await wave(50)
  const before = limit()
  const uploads = await Promise.all(Array.from({ length: limit() + 2 }, async () => (await gateway.connect()).send('POST /upload HTTP/1.1\r\nHost: g\r\nContent-Length: 4\r\n\r\nbo')))
  const { proxy } = gateway.app
  await until(() => proxy.getBackend('a').inFlight === uploads.length)
  const wire = await ask('/beside')
  await until(() => held.a.some(({ path }) => path === '/beside'))
  clock.advance(20_000)
  for (const upload of uploads) upload.send('dy')
  await until(() => held.a.length === uploads.length + 1)
  for (const { path, connection } of held.a) if (path !== '/beside') connection.send(ok())
  for (const upload of uploads) t.equal((await upload.response()).status, 200)
  clock.advance(1_000)
  for (const { path, connection } of held.a.splice(0)) if (path === '/beside') connection.send(ok())
  await wire.response()
  t.ok(limit() >= before - 1, `${before}, then ${limit()}`)
})
