import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { Deadlines } from '../../../lib/deadlines.ts'
import { Tunnel, Tunnels } from '../../../lib/tunnel/index.ts'
import { FakeClock } from '../../helpers/clock.ts'
import { seeded } from '../../helpers/random.ts'
import { until, Wire } from '../../helpers/wire.ts'

async function pair (t: Test): Promise<[Wire, Socket]> {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const far = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true })
  const [near] = await once(server, 'connection') as [Socket]
  server.close()
  near.on('error', () => {})
  for (const socket of [far, near]) t.teardown(() => socket.destroy())
  return [new Wire(far), near]
}

interface Opened {
  tunnel: Tunnel
  client: Wire
  server: Wire
  /** How often it has been told that all is over. */
  ends: number
}

function rig (t: Test, random = seeded(5)) {
  const clock = new FakeClock()
  const deadlines = new Deadlines(clock)
  const tunnels = new Tunnels(clock, deadlines, random)
  const open = async (more: Partial<ConstructorParameters<typeof Tunnel>[0]> = {}): Promise<Opened> => {
    const [[client, front], [server, back]] = [await pair(t), await pair(t)]
    const opened: Opened = { client, server, ends: 0, tunnel: null as never }
    opened.tunnel = new Tunnel({ client: front, backend: back, early: [], protocol: 'websocket', timeout: 0, halfClosedTimeout: 0, target: opened, onEnd: () => { opened.ends++ }, ...more }, tunnels)
    return opened
  }
  return { clock, deadlines, tunnels, open }
}

const turns = async () => { for (let i = 0; i < 10; i++) await new Promise(resolve => setImmediate(resolve)) }

t.test('what is open, and what has passed', async t => {
  const { tunnels, deadlines, open } = rig(t)
  t.same(tunnels.metrics(), { open: 0, total: 0, bytesReceived: 0, bytesSent: 0 })
  const one = await open({ early: [Buffer.from('early')] })
  const two = await open()
  one.client.send('abc')
  two.server.send('12345678')
  await until(() => one.server.received === 'earlyabc' && two.client.received === '12345678')
  t.same(tunnels.metrics(), { open: 2, total: 2, bytesReceived: 8, bytesSent: 8 })
  t.equal(deadlines.size, 2)
  one.client.reset()
  await until(() => one.ends === 1)
  t.same(tunnels.metrics(), { open: 1, total: 2, bytesReceived: 8, bytesSent: 8 })
  tunnels.reset()
  t.same(tunnels.metrics(), { open: 1, total: 1, bytesReceived: 0, bytesSent: 0 })
  two.client.socket.end()
  two.server.socket.end('9')
  await until(() => two.ends === 1)
  t.same(tunnels.metrics(), { open: 0, total: 1, bytesReceived: 0, bytesSent: 1 })
  t.equal(deadlines.size, 0)
  t.equal(one.ends, 1)
})

t.test('connections that have closed before the tunnel is there', async t => {
  const { tunnels, open, deadlines } = rig(t)
  for (const gone of [['client'], ['backend'], ['client', 'backend']] as const) {
    const [[client, front], [server, back]] = [await pair(t), await pair(t)]
    for (const end of gone) {
      const socket = end === 'client' ? front : back
      socket.destroy()
      await until(() => socket.closed)
    }
    const opened = await open({ client: front, backend: back })
    await until(() => opened.ends === 1)
    await until(() => (client.ended || client.closed) && (server.ended || server.closed))
  }
  t.match(tunnels.metrics(), { open: 0, total: 3 })
  t.equal(deadlines.size, 0)
})

t.test('it is on its target alone', async t => {
  const { open } = rig(t)
  const target = {}
  const { tunnel } = await open({ target })
  t.ok(tunnel.isOn(target))
  t.notOk(tunnel.isOn({}))
})

t.test('giveUp() resets both ends, once', async t => {
  const { open } = rig(t)
  const opened = await open()
  opened.tunnel.giveUp()
  opened.tunnel.giveUp()
  await until(() => opened.ends === 1)
  await until(() => opened.client.closed && opened.server.closed)
  t.match([opened.client.error, opened.server.error], [{ code: 'ECONNRESET' }, { code: 'ECONNRESET' }])
})

t.test('deadlines: bytes move them, half an end changes them', async t => {
  const { open, clock } = rig(t)
  const { tunnel, client, server } = await open({ timeout: 1_000, halfClosedTimeout: 200 })
  t.equal(tunnel.deadline, clock.now() + 1_000)
  clock.advance(900)
  client.send('x')
  await server.receive('x')
  t.equal(tunnel.deadline, clock.now() + 1_000)
  client.socket.end()
  await until(() => server.ended)
  t.equal(tunnel.deadline, clock.now() + 200)
  clock.advance(150)
  server.send('y')
  await client.receive('y')
  t.equal(tunnel.deadline, clock.now() + 200)
  clock.advance(600)
  await until(() => client.ended)
  const forEver = await open()
  t.equal(forEver.tunnel.deadline, Infinity)
})

t.test('leave(): only those of a backend, only WebSockets, each once', async t => {
  const { open, clock, tunnels } = rig(t)
  const target = {}
  const [mine, other, own] = [await open({ target }), await open(), await open({ target, protocol: 'x-own' })]
  tunnels.leave(1_000, target)
  tunnels.leave(1_000, target)
  clock.advance(500)
  await mine.client.receive('\x88\x02\x03\xe9')
  tunnels.leave(1_000, target)
  clock.advance(500)
  await turns()
  t.equal(mine.client.received.length, 4)
  t.equal(mine.server.received.length, 8)
  for (const { client, server } of [other, own]) t.equal(client.received + server.received, '')
  clock.advance(10_000)
  await until(() => mine.ends === 1 || (mine.client.ended && mine.server.ended))
  await turns()
  t.notOk(other.client.ended || own.client.ended)
  for (const { client, server } of [mine, other, own]) {
    client.close()
    server.close()
  }
  await until(() => tunnels.metrics().open === 0)
  clock.advance(1_000)
  t.equal(clock.timers, 0, 'no timer is left')
})

t.test('leave(): one that ends before its moment leaves no timer', async t => {
  const { open, clock, tunnels } = rig(t, () => 0.9)
  const opened = await open()
  tunnels.leave(10_000)
  opened.client.reset()
  await until(() => opened.ends === 1)
  clock.advance(1_000)
  t.equal(clock.timers, 0)
})

t.test('stay(): those that have not been told are spared', async t => {
  const moments = [0.1, 0.9]
  const { open, clock, tunnels } = rig(t, () => moments.shift() ?? 0)
  const target = {}
  const [soon, late] = [await open({ target }), await open({ target })]
  tunnels.leave(10_000, target)
  clock.advance(10)
  await soon.client.receive('\x88')
  tunnels.stay({})
  tunnels.stay(target)
  clock.advance(1_000)
  await turns()
  t.equal(late.client.received, '')
  clock.advance(5_000)
  await until(() => soon.client.ended)
  t.notOk(late.client.ended)
  tunnels.leave(0, target)
  clock.advance(1)
  await late.client.receive('\x88\x02\x03\xe9')
})

t.test('leave(): the pace', async t => {
  const { clock, tunnels, open } = rig(t)
  const all = await Promise.all(Array.from({ length: 40 }, () => open()))
  const at = async (within: number) => {
    tunnels.leave(within)
    const moments: number[] = []
    for (let i = 0; i < 400; i++) {
      clock.advance(1)
      await new Promise(resolve => setImmediate(resolve))
      while (moments.length < all.filter(({ client }) => client.received !== '').length) moments.push(i)
    }
    return moments
  }
  const moments = await at(60_000)
  t.equal(moments.length, 40)
  t.ok((moments.at(-1) as number) > 200 && (moments.at(-1) as number) <= 402, `the last after ${moments.at(-1)} ms`)
  t.ok(new Set(moments).size > 25)
})

t.test('an end that comes sooner than the one there was before is heeded, a later one is not', async t => {
  const { clock, tunnels, open } = rig(t, () => 0.5)
  const { client } = await open()
  tunnels.leave(60_000)
  tunnels.leave(1_000_000)
  tunnels.leave(8)
  clock.advance(1)
  await turns()
  t.equal(client.received, '')
  clock.advance(1)
  await client.receive('\x88\x02\x03\xe9')
  t.equal(client.received.length, 4)
})
