import { fork, type ChildProcess } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startGateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { handshake, nothingLeft, switchingBackend, tunnelRig, type End } from '../helpers/tunnel.ts'
import { ok, until } from '../helpers/wire.ts'

/** A test that hangs fails by itself, and lets the others run. */
const LIMIT = 20_000
const MB = 1_048_576

/** A backend in a process of its own, killed with the test. */
async function backendProcess (t: Test): Promise<{ url: string, child: ChildProcess }> {
  const child = fork(join(import.meta.dirname, '../helpers/tunnel-backend.mjs'), { execPath: process.execPath, execArgv: [] })
  t.teardown(() => child.kill('SIGKILL'))
  const [{ port }] = await once(child, 'message') as [{ port: number }]
  return { url: `http://127.0.0.1:${port}`, child }
}

/** Opens a tunnel whose client end nobody reads from yet. */
async function openPaused (t: Test, port: number, bytes = handshake()): Promise<{ socket: Socket, early: Buffer }> {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  t.teardown(() => socket.destroy())
  socket.on('error', () => {})
  socket.write(bytes)
  let head = Buffer.alloc(0)
  while (!head.includes('\r\n\r\n')) {
    await once(socket, 'readable')
    for (let chunk; (chunk = socket.read() as Buffer | null) !== null;) head = Buffer.concat([head, chunk])
  }
  socket.removeAllListeners('readable')
  if (!head.toString().startsWith('HTTP/1.1 101')) throw new Error(head.toString())
  return { socket, early: head.subarray(head.indexOf('\r\n\r\n') + 4) }
}

const descriptors = () => readdirSync('/proc/self/fd').length

t.test('a stalled reader holds up the sender: less than 1 MB of a tunnel waits in the proxy, and goes on when it is read', async t => {
  const total = 48 * MB
  const chunk = Buffer.alloc(65_536, 'frames of many kinds ')
  const digest = () => createHash('sha256')
  for (const side of ['client', 'server'] as const) {
    for (const protocol of ['websocket', 'x-own']) {
      await t.test(`${protocol}, the ${side} reads nothing`, { timeout: LIMIT }, async t => {
        let front: Socket | undefined
        const listened: Socket[] = []
        const backend = await switchingBackend(t, (request, wire, backend) => {
          wire.socket.pause()
          wire.socket.removeAllListeners('data')
          listened.push(wire.socket)
          backend.ends.push(null as unknown as End)
          return `HTTP/1.1 101 Switching Protocols\r\nUpgrade: ${request.values('upgrade')[0]}\r\nConnection: Upgrade\r\n\r\n`
        })
        const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }], upgrades: ['x-own'] }, {
          setup: app => { app.server.on('connection', socket => { front = socket }) }
        })
        const { socket: client } = await openPaused(t, gateway.port, handshake('/', '', protocol))
        await until(() => listened.length === 1)
        const server = listened[0]
        const [sender, reader] = side === 'client' ? [server, client] : [client, server]
        const back = (process as unknown as { _getActiveHandles (): Socket[] })._getActiveHandles().find(handle => handle.remotePort === backend.port && handle !== client) as Socket
        const waiting = () => [front as Socket, back].reduce((sum, { readableLength, writableLength }) => sum + readableLength + writableLength, 0)
        let most = 0
        const { tunnels } = { get tunnels () { return gateway.app.proxy.getMetrics().tunnels } }
        t.equal(tunnels.open, 1)
        const passed = () => {
          const { bytesReceived, bytesSent } = gateway.app.proxy.getMetrics().tunnels
          return side === 'client' ? bytesSent : bytesReceived
        }
        // As fast as it is taken.
        const sent = digest()
        let queued = 0
        let stalled = false
        const send = () => {
          stalled = false
          while (queued < total) {
            queued += chunk.length
            sent.update(chunk)
            if (!sender.write(chunk)) {
              stalled = true
              sender.once('drain', send)
              return
            }
          }
          sender.end()
        }
        send()
        // Until nothing has moved for a while.
        for (let still = 0, before = -1; still < 200;) {
          await new Promise(resolve => setImmediate(resolve))
          most = Math.max(most, waiting())
          const now = passed() + queued
          still = now === before && stalled ? still + 1 : 0
          before = now
        }
        t.ok(queued < total, `the sender waits after ${queued} bytes`)
        t.ok(passed() < queued)
        t.ok(waiting() > 0)
        const got = digest()
        let read = 0
        reader.on('data', data => {
          read += data.length
          got.update(data)
          most = Math.max(most, waiting())
        })
        reader.resume()
        await until(() => reader.readableEnded)
        t.equal(read, total)
        t.equal(got.digest('hex'), sent.digest('hex'), 'all of it, in order')
        t.ok(most < MB, `at most ${most} bytes have waited`)
        t.equal(passed(), total)
        reader.end()
        sender.resume()
        await nothingLeft(t, gateway)
      })
    }
  }
})

t.test('a client that sends without end before the 101 is not read without end', { timeout: LIMIT }, async t => {
  let front: Socket | undefined
  const rig = await tunnelRig(t, { timeout: { headers: 0, request: 0 } }, { asked: () => {}, setup: app => { app.server.on('connection', socket => { front = socket }) } })
  const client = await rig.gateway.connect()
  const chunk = Buffer.alloc(65_536, 'x')
  client.send(handshake())
  await until(() => rig.backend.requests.length === 1)
  let queued = 0
  while (queued < 32 * MB) {
    queued += chunk.length
    if (!client.socket.write(chunk)) break
  }
  const { bytesRead } = front as Socket
  for (let still = 0, before = bytesRead; still < 100; still++) {
    await new Promise(resolve => setImmediate(resolve))
    const { bytesRead } = front as Socket
    if (bytesRead !== before) still = 0
    before = bytesRead
    if (client.socket.writableLength === 0 && queued < 32 * MB) {
      queued += chunk.length
      client.socket.write(chunk)
      still = 0
    }
  }
  t.ok((front as Socket).bytesRead < MB / 2, `${(front as Socket).bytesRead} bytes have been read`)
  rig.backend.connections[0].send(ok('no', '', '403 Forbidden'))
  t.equal((await client.response()).status, 403)
})

t.test('200 tunnels whose backend is killed are closed for their clients, and nothing is left of them', { timeout: LIMIT }, async t => {
  const { url, child } = await backendProcess(t)
  const gateway = await startGateway(t, { backends: [{ id: 'a', url }], routes: [{ prefix: '/' }] })
  const before = descriptors()
  const sockets = await Promise.all(Array.from({ length: 200 }, async () => (await openPaused(t, gateway.port)).socket))
  t.match(gateway.app.proxy.getMetrics(), { inFlight: 200, tunnels: { open: 200 } })
  t.ok(descriptors() >= before + 600, 'a client, a front and a back for each')
  // Some are in the middle of something.
  for (const socket of sockets.slice(0, 100)) {
    socket.resume()
    socket.write('x'.repeat(100_000))
  }
  const closed = sockets.map(socket => new Promise(resolve => socket.once('close', resolve)))
  for (const socket of sockets) socket.resume().on('end', () => socket.end())
  child.kill('SIGKILL')
  const began = performance.now()
  await Promise.all(closed)
  t.comment(`all were closed after ${Math.round(performance.now() - began)} ms`)
  await nothingLeft(t, gateway)
  await until(() => descriptors() <= before)
  t.ok(descriptors() <= before)
  t.match(gateway.app.proxy.getMetrics(), { tunnels: { open: 0, total: 200 } })
})

t.test('however tunnels end, no descriptor and no timer is left', { timeout: LIMIT }, async t => {
  const clock = new FakeClock()
  const rig = await tunnelRig(t, { clock, timeout: { tunnel: 60_000 } })
  // Connections that stay in the pool are none of a tunnel's.
  const pair = await rig.open()
  pair.client.wire.reset()
  await nothingLeft(t, rig.gateway)
  const before = descriptors()
  const { timers } = clock
  const ways: ((pair: { client: End, server: End }) => void)[] = [
    ({ client }) => client.wire.reset(),
    ({ server }) => server.wire.reset(),
    ({ client, server }) => { client.wire.reset(); server.wire.reset() },
    ({ client, server }) => { client.wire.socket.end(); server.wire.socket.end() },
    ({ client, server }) => { client.wire.socket.end('bye'); server.wire.reset() },
    ({ client, server }) => { server.wire.socket.end('bye'); client.wire.reset() },
    ({ client, server }) => { client.wire.close(); server.wire.close() },
    ({ client, server }) => { server.say('x'.repeat(300_000)); client.wire.reset() },
    ({ client, server }) => { client.say('x'.repeat(300_000)); server.wire.reset() }
  ]
  for (const way of ways) {
    for (let i = 0; i < 3; i++) way(await rig.open())
  }
  for (let i = 0; i < 10; i++) {
    const wire = await rig.gateway.connect()
    wire.send(handshake())
    wire.reset()
  }
  await nothingLeft(t, rig.gateway)
  await until(() => descriptors() <= before && rig.backend.connections.every(({ closed }) => closed))
  t.ok(descriptors() <= before)
  clock.advance(1_000)
  t.ok(clock.timers <= timers, `${clock.timers} timers, ${timers} before`)
})
