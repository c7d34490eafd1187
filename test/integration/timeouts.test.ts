import { once } from 'node:events'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import type { RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type Gateway, type GatewaySetup } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, rawBackend, until, type Message, type Wire } from '../helpers/wire.ts'

/** The most that a deadline may be met late. */
const PACE = 250
/** Longer than any default. */
const LONG = 3_600_000

async function start (t: Test, onRequest: (request: Message, wire: Wire) => string | void, options: RockstarProxyOptions = {}, setup: GatewaySetup = {}) {
  const clock = new FakeClock()
  const backend = await rawBackend(t, onRequest)
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }], clock, ...options }, setup)
  return { clock, backend, gateway, client: await gateway.connect() }
}

function codeOf (response: Message): unknown {
  return JSON.parse(response.body).code
}

function countsOf ({ app }: Gateway): { failed: number, aborted: number, successful: number, inFlight: number } {
  const [backend] = Object.values(app.proxy.getMetrics().backends)
  return { failed: backend.failedRequests, aborted: backend.abortedRequests, successful: backend.successfulRequests, inFlight: app.proxy.getMetrics().inFlight }
}

/** Requests that nothing has ended yet: a deadline that was met shows here at once, an answer only later. */
function underWay ({ app }: Gateway): number {
  return app.proxy.getMetrics().inFlight
}

/** Lets everything that is due in this process happen, without a wait: a request goes round. */
async function settle (gateway: Gateway): Promise<void> {
  const client = await gateway.connect()
  client.send('GET /settle HTTP/1.1\r\nHost: g\r\n\r\n')
  await client.response()
  client.close()
}

t.test('a backend that sends no head is given up after timeout.headers, with 504', async t => {
  const { clock, backend, gateway, client } = await start(t, request => request.startLine.includes('/settle') ? ok() : undefined, { timeout: { request: 0 } })
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => backend.requests.length === 1)
  clock.advance(29_999)
  await settle(gateway)
  t.equal(underWay(gateway), 1, 'not a moment before')
  clock.advance(1 + PACE)
  const response = await client.response()
  t.equal(response.status, 504)
  t.equal(codeOf(response), 'FST_ROCKSTAR_TIMEOUT')
  t.notMatch(response.body, /127\.0\.0\.1/, 'without the address')
  await until(() => backend.connections[0].closed)
  t.match(countsOf(gateway), { failed: 1, aborted: 0, inFlight: 0 }, 'the backend\'s failure')
  const [line] = gateway.log.filter(line => line.msg === 'attempt failed')
  t.match(line, { level: 40, stage: 'wait', culprit: 'backend', err: { code: 'FST_ROCKSTAR_TIMEOUT' } })
})

t.test('half a head is no head', async t => {
  const { clock, backend, client } = await start(t, () => 'HTTP/1.1 200 OK\r\nContent-Len', { timeout: { request: 0 } })
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => backend.requests.length === 1)
  clock.advance(30_000 + PACE)
  t.equal((await client.response()).status, 504)
  await until(() => backend.connections[0].closed)
})

t.test('an interim response is no head either', async t => {
  const { clock, backend, client } = await start(t, () => 'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n', { timeout: { request: 0 } })
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  await client.receive('103 Early Hints\r\nLink: </a>\r\n\r\n')
  const interim = client.received.length
  clock.advance(30_000 + PACE)
  t.equal((await client.response(interim)).status, 504)
  await until(() => backend.connections[0].closed)
})

t.test('timeout.request ends the wait for a head too', async t => {
  const { clock, backend, gateway, client } = await start(t, () => {}, { timeout: { headers: 0, request: 5_000 } })
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => backend.requests.length === 1)
  clock.advance(4_999)
  t.equal(underWay(gateway), 1)
  clock.advance(1 + PACE)
  t.equal(codeOf(await client.response()), 'FST_ROCKSTAR_TIMEOUT')
})

t.test('timeout.request counts all attempts of a request together', async t => {
  const { clock, backend, gateway, client } = await start(t, () => ok(), { timeout: { headers: 4_000, request: 5_000 } })
  client.send('GET /prime HTTP/1.1\r\nHost: g\r\n\r\n')
  const at = (await client.response()).length
  await until(() => gateway.app.proxy.getConnectionPool().stats().idle === 1)
  const [first] = backend.connections
  const requests = backend.requests.length
  first.socket.removeAllListeners('data').on('data', () => { asked = true })
  let asked = false
  let second: Socket | undefined
  backend.server.removeAllListeners('connection').on('connection', socket => { second = socket.on('error', () => {}).resume() })
  t.teardown(() => second?.destroy())
  client.send('GET /again HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => asked)
  clock.advance(3_000)
  first.reset()
  await until(() => second !== undefined && second.bytesRead > 0)
  clock.advance(1_900)
  t.equal(underWay(gateway), 1, 'neither has the second attempt waited too long')
  clock.advance(100 + PACE)
  t.equal(codeOf(await client.response(at)), 'FST_ROCKSTAR_TIMEOUT', 'but both together have')
  t.equal(gateway.app.proxy.getMetrics().totalRetries, 1)
  t.equal(backend.requests.length, requests)
})

t.test('a request that waits for a connection is given up after timeout.connect, with 504', async t => {
  const { clock, backend, gateway, client } = await start(t, () => {}, { pool: { connections: 1 }, timeout: { connect: 2_000 } })
  const second = await gateway.connect()
  client.send('GET /1 HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => backend.requests.length === 1)
  second.send('GET /2 HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => gateway.app.proxy.getConnectionPool().stats().pending === 1)
  clock.advance(1_999)
  t.equal(underWay(gateway), 2)
  clock.advance(1 + PACE)
  t.equal(codeOf(await second.response()), 'FST_ROCKSTAR_TIMEOUT')
  t.equal(gateway.app.proxy.getConnectionPool().stats().pending, 0, 'its place is free')
  backend.connections[0].send(ok())
  t.equal((await client.response()).status, 200, 'the one before is not concerned')
  t.equal(backend.requests.length, 1)
})

t.test('a connection that is not made in time is given up after timeout.connect, with 504', async t => {
  const { clock, gateway, client, sockets } = await startMute(t, { timeout: { connect: 3_000 } })
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => sockets.length === 1)
  clock.advance(2_999)
  t.equal(underWay(gateway), 1)
  clock.advance(1 + PACE)
  t.equal(codeOf(await client.response()), 'FST_ROCKSTAR_TIMEOUT')
  t.match(countsOf(gateway), { failed: 1, aborted: 0, inFlight: 0 })
})

t.test('a connection that is not made in time frees its place in the pool', { timeout: 5_000 }, async t => {
  const { clock, gateway, client, sockets } = await startMute(t, { timeout: { connect: 3_000 }, pool: { connections: 1 } })
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => sockets.length === 1)
  clock.advance(3_000 + PACE)
  t.equal((await client.response()).status, 504)
  await until(() => sockets[0].destroyed)
  await until(() => gateway.app.proxy.getConnectionPool().stats().total === 0)
  t.pass('its connection is gone')
})

t.test('the pool\'s own time for TCP and TLS ends in 504 too', async t => {
  const { gateway, client, sockets } = await startMute(t, { timeout: { connect: 0 }, pool: { connectTimeout: 20 } })
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  t.equal(codeOf(await client.response()), 'FST_ROCKSTAR_TIMEOUT')
  await until(() => sockets[0].destroyed)
  await until(() => gateway.app.proxy.getConnectionPool().stats().total === 0)
  t.equal(gateway.app.proxy.getConnectionPool().stats().connectErrors, 1)
})

t.test('a backend that stalls in the middle of its answer has the client\'s connection cut', async t => {
  for (const hooks of [false, true]) {
    for (const framing of ['Content-Length: 100\r\n\r\nhalf', 'Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n', 'Connection: close\r\n\r\nhalf']) {
      const { clock, backend, gateway, client } = await start(t, () => `HTTP/1.1 200 OK\r\n${framing}`, {}, {
        before: app => { if (hooks) app.addHook('onSend', async () => undefined) }
      })
      client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
      await client.receive('half')
      clock.advance(59_999)
      t.equal(gateway.app.proxy.getMetrics().inFlight, 1, 'not a moment before')
      clock.advance(1 + PACE)
      await until(() => client.ended || client.closed)
      t.notMatch(client.received, /\r\n0\r\n/, 'and never as a clean end')
      t.notMatch(client.received, '504', 'nor by a second head')
      await until(() => backend.connections[0].closed)
      t.match(countsOf(gateway), { failed: 1, aborted: 0, inFlight: 0 })
      t.match(gateway.log.find(line => line.msg === 'attempt failed'), { stage: 'stream', culprit: 'backend' })
    }
  }
})

t.test('an answer lasts as long as its bytes come in time', async t => {
  const { clock, backend, client } = await start(t, () => 'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n')
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  await client.receive('\r\n\r\n')
  for (let i = 0; i < 10; i++) {
    clock.advance(59_000)
    const { length } = client.received
    backend.connections[0].send('6\r\ndata:\n\r\n')
    await client.receive('data:\n', length)
  }
  backend.connections[0].send('0\r\n\r\n')
  t.equal((await client.response()).body, 'data:\n'.repeat(10))
})

t.test('a client that stalls in its upload is answered with 408, and no backend is blamed', async t => {
  for (const [framing, body] of [['Content-Length: 100', 'first'], ['Transfer-Encoding: chunked', '5\r\nfirst\r\n'], ['Content-Length: 100', ''], ['Content-Length: 1000000', 'first']]) {
    const { clock, backend, gateway, client } = await start(t, () => {})
    client.send(`POST / HTTP/1.1\r\nHost: g\r\n${framing}\r\n\r\n${body}`)
    await until(() => body === '' ? gateway.app.proxy.getConnectionPool().stats().connects === 1 : backend.connections[0]?.received.includes('first') === true)
    clock.advance(59_999)
    t.equal(underWay(gateway), 1)
    clock.advance(1 + PACE)
    const response = await client.response()
    t.equal(response.status, 408, `${framing} ${body}`)
    t.equal(codeOf(response), 'FST_ROCKSTAR_REQUEST_TIMEOUT')
    await until(() => backend.connections[0].closed)
    t.match(countsOf(gateway), { failed: 0, aborted: 1, inFlight: 0 })
    t.equal(gateway.app.proxy.getMetrics().failedRequests, 0, 'a client\'s failure counts as aborted')
    clock.advance(11_000)
    await until(() => client.ended || client.closed)
  }
})

t.test('an upload lasts as long as its bytes come in time, whatever timeout.request says', async t => {
  const { clock, backend, gateway, client } = await start(t, () => {}, { timeout: { request: 5_000, headers: 0, idle: 2_000 } })
  client.send('POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 20\r\n\r\n')
  for (let i = 0; i < 20; i++) {
    client.send(String.fromCharCode(65 + i))
    await until(() => backend.connections[0]?.received.endsWith(String.fromCharCode(65 + i)) === true)
    clock.advance(1_900)
  }
  t.equal(backend.requests.length, 1)
  t.equal(underWay(gateway), 1, '38 s for an upload with 5 s to answer')
  clock.advance(3_000)
  t.equal(underWay(gateway), 1)
  clock.advance(100 + PACE)
  t.equal(codeOf(await client.response()), 'FST_ROCKSTAR_TIMEOUT', 'counted from the last byte')
})

t.test('a backend that takes nothing of an upload is given up with 504', async t => {
  const clock = new FakeClock()
  const sockets: Socket[] = []
  const server = createServer(socket => { sockets.push(socket.on('error', () => {}).pause()) }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  const gateway = await startGateway(t, { backends: [`http://127.0.0.1:${(server.address() as AddressInfo).port}`], routes: [{ prefix: '/' }], clock })
  const client = await gateway.connect()
  client.send('POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 1000000000\r\n\r\n')
  const block = Buffer.alloc(1_048_576)
  let written = 0
  const pour = (): void => {
    while (!client.socket.destroyed && client.socket.write(block, () => { written++ }));
  }
  client.socket.on('drain', pour)
  pour()
  // Only when nothing moves any more is the backend the one that stalls.
  let still = 0
  for (let last = -1; still < 200; await new Promise(resolve => setImmediate(resolve))) {
    still = last === written ? still + 1 : 0
    last = written
  }
  clock.advance(60_000 + PACE)
  const response = await client.response()
  client.socket.off('drain', pour)
  t.equal(response.status, 504)
  t.equal(codeOf(response), 'FST_ROCKSTAR_TIMEOUT')
  t.match(countsOf(gateway), { failed: 1, aborted: 0 }, 'the backend\'s failure')
})

/** A backend that pours out an answer without end. */
async function startPouring (t: Test) {
  const clock = new FakeClock()
  const sockets: Socket[] = []
  const poured = { blocks: 0 }
  const block = `100000\r\n${'x'.repeat(1_048_576)}\r\n`
  const server = createServer(socket => {
    sockets.push(socket.on('error', () => {}))
    socket.once('data', () => {
      socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
      const pour = (): void => {
        while (!socket.destroyed && socket.write(block, () => { poured.blocks++ }));
      }
      socket.on('drain', pour)
      pour()
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  const gateway = await startGateway(t, { backends: [`http://127.0.0.1:${(server.address() as AddressInfo).port}`], routes: [{ prefix: '/' }], clock })
  const client = await gateway.connect()
  let read = 0
  client.socket.removeAllListeners('data').on('data', chunk => { read += chunk.length }).pause()
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  const stall = async (): Promise<void> => {
    let still = 0
    for (let last = -1; still < 200; await new Promise(resolve => setImmediate(resolve))) {
      still = last === poured.blocks && poured.blocks > 0 ? still + 1 : 0
      last = poured.blocks
    }
  }
  await stall()
  return { clock, gateway, client, poured, socket: sockets[0], stall, bytesRead: () => read }
}

t.test('a client that reads nothing is let go of, and no backend is blamed', async t => {
  const { clock, gateway, socket } = await startPouring(t)
  clock.advance(59_000)
  t.equal(gateway.app.proxy.getMetrics().inFlight, 1)
  clock.advance(1_000 + PACE)
  await until(() => socket.destroyed)
  t.match(countsOf(gateway), { failed: 0, aborted: 1, inFlight: 0 })
  t.equal(gateway.app.proxy.getMetrics().failedRequests, 0, 'a client\'s failure counts as aborted')
})

t.test('a client that reads slowly is left in peace', async t => {
  const { clock, gateway, client, poured, stall, bytesRead } = await startPouring(t)
  for (let i = 0; i < 4; i++) {
    clock.advance(55_000)
    const before = poured.blocks
    client.socket.resume()
    await until(() => poured.blocks > before)
    client.socket.pause()
    await stall()
    t.equal(gateway.app.proxy.getMetrics().inFlight, 1)
  }
  t.ok(bytesRead() > 0)
})

t.test('0 waits for ever', async t => {
  const { clock, backend, gateway, client } = await start(t, () => {}, { timeout: { connect: 0, headers: 0, idle: 0, request: 0 }, pool: { connections: 1 } })
  client.send('POST /1 HTTP/1.1\r\nHost: g\r\nContent-Length: 10\r\n\r\nfirst')
  await until(() => backend.connections[0]?.received.includes('first') === true)
  const second = await gateway.connect()
  second.send('GET /2 HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => gateway.app.proxy.getConnectionPool().stats().pending === 1)
  clock.advance(LONG)
  client.send('later')
  await until(() => backend.requests.length === 1)
  clock.advance(LONG)
  backend.connections[0].send('HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf')
  await client.receive('half')
  clock.advance(LONG)
  backend.connections[0].send('half')
  t.equal((await client.response()).body, 'halfhalf')
  await until(() => backend.requests.length === 2)
  backend.connections[0].send(ok())
  t.equal((await second.response()).status, 200)
})

t.test('a route has timeouts of its own, and the others of the upstream', async t => {
  const { clock, backend, gateway } = await start(t, () => {}, {
    timeout: { headers: 20_000, request: 0 },
    routes: [
      { prefix: '/short', timeout: { headers: 1_000 } },
      { prefix: '/never', timeout: { headers: 0 } },
      { prefix: '/request', timeout: { request: 5_000 } },
      { prefix: '/plain' }
    ]
  })
  const clients: Record<string, Wire> = {}
  for (const path of ['short', 'never', 'request', 'plain']) {
    clients[path] = await gateway.connect()
    clients[path].send(`GET /${path} HTTP/1.1\r\nHost: g\r\n\r\n`)
  }
  await until(() => backend.requests.length === 4)
  let left = 4
  const began = clock.now()
  for (const [path, time] of [['short', 1_000], ['request', 5_000], ['plain', 20_000]] as const) {
    clock.advance(began + time - 1 - clock.now())
    t.equal(underWay(gateway), left--)
    clock.advance(1 + PACE)
    t.equal((await clients[path].response()).status, 504, path)
  }
  clock.advance(LONG)
  t.equal(underWay(gateway), 1)
})

t.test('a call has timeouts of its own, in each of the three ways to forward', async t => {
  const errors: unknown[] = []
  const { clock, backend, gateway } = await start(t, () => {}, { routes: [], timeout: { headers: 20_000, request: 0 } }, {
    setup: app => {
      app.get('/reply', (request, reply) => app.proxy.forward(request, reply, { timeout: { headers: 1_000 } }))
      app.get('/capture', async request => {
        await app.proxy.forward(request, undefined, { timeout: { headers: 1_000 } }).catch(error => { errors.push(error.code) })
        return 'caught'
      })
      app.get('/http', async () => {
        await app.proxy.forwardHttp(new Request('http://g/'), { timeout: { headers: 1_000 } }).catch(error => { errors.push(error.code) })
        return 'caught'
      })
      app.get('/plain', (request, reply) => app.proxy.forward(request, reply))
    }
  })
  const clients: Record<string, Wire> = {}
  for (const path of ['reply', 'capture', 'http', 'plain']) {
    clients[path] = await gateway.connect()
    clients[path].send(`GET /${path} HTTP/1.1\r\nHost: g\r\n\r\n`)
  }
  await until(() => backend.requests.length === 4)
  clock.advance(1_000 + PACE)
  t.equal((await clients.reply.response()).status, 504)
  t.equal((await clients.capture.response()).body, 'caught')
  t.equal((await clients.http.response()).body, 'caught')
  t.strictSame(errors, ['FST_ROCKSTAR_TIMEOUT', 'FST_ROCKSTAR_TIMEOUT'])
  t.equal(underWay(gateway), 1)
  clock.advance(19_000)
  t.equal((await clients.plain.response()).status, 504)
})

t.test('a call\'s timeouts come before those of its upstream, and a named upstream has its own', async t => {
  const { clock, backend, gateway } = await start(t, () => {}, { routes: [{ prefix: '/', upstream: 'other' }] }, {
    setup: app => { app.proxy.addUpstream('other', { backends: [app.proxy.listBackends()[0].url.href], timeout: { headers: 2_000 }, retry: false }) }
  })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => backend.requests.length === 1)
  clock.advance(1_800)
  t.equal(gateway.app.proxy.getMetrics().upstreams.other.inFlight, 1)
  clock.advance(200 + PACE)
  t.equal((await client.response()).status, 504)
})

t.test('onError hears of a timeout and may answer it', async t => {
  const { clock, backend, client } = await start(t, () => {}, {
    routes: [{ prefix: '/', onError: (_request, reply, error) => { reply.code(200).send({ instead: (error as { code?: string }).code }) } }]
  })
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => backend.requests.length === 1)
  clock.advance(30_000 + PACE)
  t.equal((await client.response()).body, '{"instead":"FST_ROCKSTAR_TIMEOUT"}')
})

t.test('an answer that comes after its time is never sent', async t => {
  const { clock, backend, gateway, client } = await start(t, request => request.startLine.includes('/settle') ? ok() : undefined)
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => backend.requests.length === 1)
  const [connection] = backend.connections
  clock.advance(30_000 + PACE)
  connection.send(ok('late'))
  const response = await client.response()
  t.equal(response.status, 504)
  await settle(gateway)
  t.equal(client.received.length, response.length)
  client.send('GET /settle HTTP/1.1\r\nHost: g\r\n\r\n')
  t.equal((await client.response(response.length)).body, 'ok', 'the client\'s connection goes on')
})

t.test('no timer is left once nothing is under way', async t => {
  const { clock, client } = await start(t, () => ok())
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  await client.response()
  clock.advance(PACE)
  t.equal(clock.timers, 0)
})

/** A gateway before a backend that never answers a TLS handshake: connecting takes for ever. */
async function startMute (t: Test, options: RockstarProxyOptions) {
  const clock = new FakeClock()
  const sockets: Socket[] = []
  const server = createServer(socket => { sockets.push(socket.on('error', () => {}).resume()) }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  const gateway = await startGateway(t, { backends: [`https://127.0.0.1:${(server.address() as AddressInfo).port}`], routes: [{ prefix: '/' }], clock, ...options })
  return { clock, gateway, client: await gateway.connect(), sockets }
}
