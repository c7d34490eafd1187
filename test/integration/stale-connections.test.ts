import t, { type Test } from 'tap'
import type { ProxyManager } from '../../lib/proxy-manager.ts'
import type { RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type Gateway } from '../helpers/app.ts'
import { ok, rawBackend, until, type RawBackend, type Wire } from '../helpers/wire.ts'

/** What a backend does with a request that is not the first on its connection. */
type Fate = (wire: Wire) => string | void

const RESETS: Fate = wire => wire.reset()
const CLOSES: Fate = wire => { wire.socket.end() }
const FATES: [string, Fate][] = [['resets', RESETS], ['closes', CLOSES]]

/**
 * A backend whose connections are stale once they have carried a request: the first is answered, what comes
 * after it meets its fate. It looks to the gateway as if the connection had been closed while it was idle.
 * Requests for `/prime` are answered by `prime()`.
 */
async function staleBackend (t: Test, fate: Fate): Promise<RawBackend> {
  const used = new Set<Wire>()
  return await rawBackend(t, (request, wire) => {
    if (used.has(wire)) return fate(wire)
    used.add(wire)
    return request.startLine.includes('/prime') ? undefined : ok(request.startLine)
  })
}

function pool ({ app }: Gateway) {
  return app.proxy.getConnectionPool().stats()
}

/** Leaves so many used connections idle in the pool. */
async function prime (gateway: Gateway, backend: RawBackend, count = 1): Promise<void> {
  const clients = await Promise.all(Array.from({ length: count }, () => gateway.connect()))
  for (const client of clients) client.send('GET /prime HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => backend.requests.length === count)
  for (const connection of backend.connections) connection.send(ok())
  for (const client of clients) await client.response()
  await until(() => pool(gateway).idle === count)
  for (const client of clients) client.close()
}

/** Lets what has been sent to this process be read in it. */
async function turns (): Promise<void> {
  for (let i = 0; i < 5; i++) await new Promise(resolve => setImmediate(resolve))
}

async function start (t: Test, fate: Fate, options: RockstarProxyOptions = {}) {
  const backend = await staleBackend(t, fate)
  const gateway = await startGateway(t, { backends: [{ id: 'b', url: backend.url }], routes: [{ prefix: '/' }], ...options })
  await prime(gateway, backend)
  return { backend, gateway, client: await gateway.connect() }
}

async function noneUnderWay (t: Test, gateway: Gateway): Promise<void> {
  const { app } = gateway
  await until(() => app.proxy.getMetrics().inFlight === 0 && pool(gateway).active === 0)
  const { totalRequests, successfulRequests, failedRequests, abortedRequests, backends } = app.proxy.getMetrics()
  t.equal(totalRequests, successfulRequests + failedRequests + abortedRequests)
  if (backends.b !== undefined) t.equal(backends.b.inFlight, 0)
}

for (const [name, fate] of FATES) {
  t.test(`a request that may be repeated and meets a connection that its backend ${name} is sent again on a fresh one`, async t => {
    for (const method of ['GET', 'HEAD', 'OPTIONS', 'DELETE', 'PUT']) {
      const { backend, gateway, client } = await start(t, fate)
      client.send(method === 'PUT' ? 'PUT /x HTTP/1.1\r\nHost: g\r\nContent-Length: 4\r\n\r\nbody' : `${method} /x HTTP/1.1\r\nHost: g\r\n\r\n`)
      const response = await client.response(0, method)
      t.equal(response.status, 200, method)
      t.strictSame(backend.requests.map(request => request.startLine), ['GET /prime HTTP/1.1', `${method} /x HTTP/1.1`, `${method} /x HTTP/1.1`])
      if (method === 'PUT') t.strictSame(backend.requests.slice(1).map(request => request.body), ['body', 'body'])
      t.equal(backend.connections.length, 2)
      const { totalRetries, totalRequests, successfulRequests, backends } = gateway.app.proxy.getMetrics()
      t.equal(totalRetries, 1)
      t.strictSame([totalRequests, successfulRequests], [2, 2], 'one request of the client\'s')
      t.match(backends.b, { totalRequests: 3, successfulRequests: 2, failedRequests: 0, abortedRequests: 1 }, 'two attempts, and nobody to blame')
      t.equal(gateway.log.filter(line => line.msg === 'attempt failed').length, 1, 'and a line for the one that failed')
      await noneUnderWay(t, gateway)
    }
  })

  t.test(`a request that may not be repeated and meets a connection that its backend ${name} gets 502, and is sent once`, async t => {
    for (const method of ['POST', 'PATCH']) {
      for (const body of ['', 'Content-Length: 4\r\n\r\nbody', 'Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n']) {
        const { backend, gateway, client } = await start(t, fate)
        client.send(`${method} /x HTTP/1.1\r\nHost: g\r\n${body === '' ? '\r\n' : body}`)
        const response = await client.response()
        t.equal(response.status, 502, `${method} ${JSON.stringify(body.slice(0, 14))}`)
        t.equal(JSON.parse(response.body).code, 'FST_ROCKSTAR_RESET')
        t.equal(backend.requests.length, 2)
        t.equal(backend.connections.length, 1)
        t.equal(gateway.app.proxy.getMetrics().totalRetries, 0)
        await noneUnderWay(t, gateway)
      }
    }
  })

  t.test(`no request is sent again once bytes of its answer have come before its backend ${name}`, async t => {
    const beginnings = ['H', 'HTTP/1.1 200 OK\r\nContent-Le', 'HTTP/1.1 200 OK\r\nX: y\r\n', 'HTTP/1.1 100 Continue\r\n\r\n', 'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n']
    for (const beginning of beginnings) {
      const { backend, gateway, client } = await start(t, wire => { wire.send(beginning) })
      client.send('GET /x HTTP/1.1\r\nHost: g\r\n\r\n')
      await until(() => backend.requests.length === 2)
      await turns()
      fate(backend.connections[0])
      await client.receive(/HTTP\/1\.1 [2-5]/)
      t.match(client.received, 'HTTP/1.1 502', JSON.stringify(beginning))
      t.equal(backend.requests.length, 2)
      t.equal(gateway.app.proxy.getMetrics().totalRetries, 0)
      await noneUnderWay(t, gateway)
    }
  })

  t.test(`it is sent again also when its backend, which ${name}, is only used in panic`, async t => {
    const { backend, gateway, client } = await start(t, fate)
    const { state } = gateway.app.proxy as ProxyManager
    state.get('b').healthy = false
    state.onHealth()
    t.equal(gateway.app.proxy.getMetrics().panic, true)
    client.send('GET /x HTTP/1.1\r\nHost: g\r\n\r\n')
    const response = await client.response()
    t.match(response, { status: 200, body: 'GET /x HTTP/1.1' })
    t.equal(backend.requests.length, 3)
    t.match(gateway.app.proxy.getMetrics(), { totalRetries: 1, backends: { b: { chosenBecause: { panic: 1 } } } })
    await noneUnderWay(t, gateway)
  })

  t.test(`it is sent again also when its backend, which ${name}, drains and the client has come back to it`, async t => {
    const { backend, gateway, client } = await start(t, fate, { affinity: { secret: 'a secret of some length' } })
    const { proxy } = gateway.app
    client.send('GET /first HTTP/1.1\r\nHost: g\r\n\r\n')
    const first = await client.response()
    const cookie = first.values('set-cookie')[0].split(';')[0]
    await until(() => pool(gateway).idle === 1)
    const other = await rawBackend(t, () => ok('other'))
    proxy.addBackend({ id: 'other', url: other.url })
    const removal = proxy.removeBackend('b', { drain: { timeout: 60_000 } })
    const before = backend.requests.length
    client.send(`GET /x HTTP/1.1\r\nHost: g\r\nCookie: ${cookie}\r\n\r\n`)
    t.match(await client.response(first.length), { status: 200, body: 'GET /x HTTP/1.1' })
    t.equal(backend.requests.length, before + 2)
    t.equal(other.requests.length, 0)
    await noneUnderWay(t, gateway)
    await gateway.app.close()
    await removal
  })

  t.test(`no request is sent again to a backend, which ${name}, when it has begun to drain meanwhile`, async t => {
    const { backend, gateway, client } = await start(t, () => {})
    client.send('GET /x HTTP/1.1\r\nHost: g\r\n\r\n')
    await until(() => backend.requests.length === 2)
    const removal = gateway.app.proxy.removeBackend('b', { drain: { timeout: 60_000 } })
    fate(backend.connections[0])
    t.equal((await client.response()).status, 502)
    await removal
    t.equal(backend.requests.length, 2)
    t.equal(gateway.app.proxy.getMetrics().totalRetries, 0)
  })

  t.test(`an answer that is cut short on a used connection that its backend ${name} is passed on cut short`, async t => {
    for (const beginning of ['HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n', 'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n']) {
      const { backend, gateway, client } = await start(t, wire => { wire.send(beginning) })
      client.send('GET /x HTTP/1.1\r\nHost: g\r\n\r\n')
      await client.receive(beginning.includes('half') ? 'half' : '\r\n\r\n')
      fate(backend.connections[0])
      await until(() => client.ended || client.closed)
      t.equal(client.received.match(/HTTP\/1\.1 /g)?.length, 1, 'one head')
      t.notMatch(client.received, /\r\n0\r\n/)
      t.equal(backend.requests.length, 2)
      t.equal(gateway.app.proxy.getMetrics().totalRetries, 0)
      await noneUnderWay(t, gateway)
    }
  })
}

t.test('a body that streams cannot be sent again', async t => {
  for (const body of [`Content-Length: 100000\r\n\r\n${'x'.repeat(100_000)}`, 'Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n']) {
    const { backend, gateway, client } = await start(t, RESETS)
    client.send(`PUT /x HTTP/1.1\r\nHost: g\r\n${body}`)
    t.equal(JSON.parse((await client.response()).body).code, 'FST_ROCKSTAR_RESET')
    t.equal(backend.requests.length, 2)
    t.equal(gateway.app.proxy.getMetrics().totalRetries, 0)
    await noneUnderWay(t, gateway)
  }
})

t.test('a request that finds its fresh connection reset is not sent a third time', async t => {
  const backend = await rawBackend(t, (request, wire) => {
    if (!request.startLine.includes('/prime')) wire.reset()
  })
  const gateway = await startGateway(t, { backends: [{ id: 'b', url: backend.url }], routes: [{ prefix: '/' }] })
  await prime(gateway, backend)
  const client = await gateway.connect()
  client.send('GET /x HTTP/1.1\r\nHost: g\r\n\r\n')
  t.equal((await client.response()).status, 502)
  t.equal(backend.requests.length, 3)
  t.equal(gateway.app.proxy.getMetrics().totalRetries, 1)
  await noneUnderWay(t, gateway)
})

t.test('a request whose first connection is reset had nothing stale about it', async t => {
  const backend = await rawBackend(t, (_request, wire) => wire.reset())
  const gateway = await startGateway(t, { backends: [{ id: 'b', url: backend.url }], routes: [{ prefix: '/' }] })
  const client = await gateway.connect()
  client.send('GET /x HTTP/1.1\r\nHost: g\r\n\r\n')
  t.equal((await client.response()).status, 502)
  t.equal(backend.requests.length, 1)
  t.equal(gateway.app.proxy.getMetrics().totalRetries, 0)
  await noneUnderWay(t, gateway)
})

t.test('where there is no room for a fresh connection, other stale ones are met, and at most two resends made', async t => {
  for (const connections of [1, 2, 3]) {
    const backend = await staleBackend(t, RESETS)
    const gateway = await startGateway(t, { backends: [{ id: 'b', url: backend.url }], routes: [{ prefix: '/' }], pool: { connections } })
    await prime(gateway, backend, connections)
    const before = backend.requests.length
    const client = await gateway.connect()
    client.send('GET /x HTTP/1.1\r\nHost: g\r\n\r\n')
    const response = await client.response()
    t.equal(response.status, 200, `with ${connections} connections`)
    const { totalRetries } = gateway.app.proxy.getMetrics()
    t.ok(totalRetries >= 1 && totalRetries <= 2, `${totalRetries} resends`)
    t.equal(backend.requests.length - before, 1 + totalRetries)
    await noneUnderWay(t, gateway)
  }
})

t.test('resends are bounded for good: a backend that resets everything is asked three times at the most', async t => {
  const backend = await rawBackend(t, (request, wire) => {
    if (!request.startLine.includes('/prime')) wire.reset()
  })
  const gateway = await startGateway(t, { backends: [{ id: 'b', url: backend.url }], routes: [{ prefix: '/' }], pool: { connections: 8 } })
  await prime(gateway, backend, 8)
  const client = await gateway.connect()
  client.send('GET /x HTTP/1.1\r\nHost: g\r\n\r\n')
  t.equal((await client.response()).status, 502)
  const { totalRetries } = gateway.app.proxy.getMetrics()
  t.ok(totalRetries <= 2, `${totalRetries} resends`)
  t.equal(backend.requests.length - 8, 1 + totalRetries)
  await noneUnderWay(t, gateway)
})

t.test('a request is not sent again to a backend that takes none any more', { timeout: 5_000 }, async t => {
  const ways: [string, (gateway: Gateway) => unknown][] = [
    ['removed', ({ app }) => app.proxy.removeBackend('b')],
    ['inactive', ({ app }) => app.proxy.updateBackend('b', { isActive: false })],
    ['without weight', ({ app }) => app.proxy.updateBackend('b', { weight: 0 })]
  ]
  for (const [name, retire] of ways) {
    const { backend, gateway, client } = await start(t, () => {})
    client.send('GET /x HTTP/1.1\r\nHost: g\r\n\r\n')
    await until(() => backend.requests.length === 2)
    const retired = retire(gateway)
    backend.connections[0].reset()
    const response = await client.response()
    t.ok([502, 503].includes(response.status), `${name}: ${response.status}`)
    t.equal(backend.requests.length, 2)
    t.equal(backend.connections.length, 1)
    t.equal(gateway.app.proxy.getMetrics().totalRetries, 0)
    await retired
    await noneUnderWay(t, gateway)
  }
})

t.test('a connection that its backend closes while it is idle is not used again, whatever the method', async t => {
  for (const [name, fate] of FATES) {
    const { backend, gateway, client } = await start(t, () => {})
    fate(backend.connections[0])
    await until(() => pool(gateway).total === 0)
    client.send('POST /x HTTP/1.1\r\nHost: g\r\nContent-Length: 4\r\n\r\nbody')
    t.equal((await client.response()).status, 200, name)
    t.equal(backend.connections.length, 2)
    t.equal(gateway.app.proxy.getMetrics().totalRetries, 0)
    await noneUnderWay(t, gateway)
  }
})

t.test('bytes that nobody asked for throw an idle connection away', async t => {
  for (const bytes of [ok('poison'), 'HTTP/1.1 200 OK\r\n', 'HTTP/1.1 100 Continue\r\n\r\n', 'HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n', 'noise', '\0', '\r\n\r\nx']) {
    const { backend, gateway, client } = await start(t, () => {})
    backend.connections[0].send(bytes)
    await until(() => pool(gateway).total === 0)
    client.send('GET /x HTTP/1.1\r\nHost: g\r\n\r\n')
    const response = await client.response()
    t.equal(response.body, 'GET /x HTTP/1.1', JSON.stringify(bytes))
    t.equal(client.received.length, response.length)
    t.equal(backend.connections.length, 2)
    t.equal(gateway.app.proxy.getMetrics().totalRetries, 0)
  }
})

t.test('a second answer in the packet of the first never answers the next request', async t => {
  const backend = await rawBackend(t, request => request.startLine.includes('/evil') ? ok('first') + ok('poison') : ok(request.startLine))
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }], pool: { connections: 1 } })
  const client = await gateway.connect()
  let at = 0
  for (let i = 0; i < 5; i++) {
    client.send('GET /evil HTTP/1.1\r\nHost: g\r\n\r\n')
    const evil = await client.response(at)
    t.equal(evil.body, 'first')
    at += evil.length
    client.send('GET /next HTTP/1.1\r\nHost: g\r\n\r\n')
    const next = await client.response(at)
    t.equal(next.body, 'GET /next HTTP/1.1')
    at += next.length
  }
  t.equal(client.received.length, at, 'and nothing else has come')
  t.equal(gateway.app.proxy.getMetrics().failedRequests, 0)
})

t.test('a second answer never reaches requests that were waiting for the connection', async t => {
  const backend = await rawBackend(t, request => request.startLine.includes('/evil') ? ok('first') + ok('poison') : ok(request.startLine))
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }], pool: { connections: 1 } })
  const clients = await Promise.all(Array.from({ length: 20 }, () => gateway.connect()))
  for (const [i, client] of clients.entries()) client.send(`GET /${i % 2 === 0 ? 'evil' : i} HTTP/1.1\r\nHost: g\r\n\r\n`)
  for (const [i, client] of clients.entries()) {
    t.equal((await client.response()).body, i % 2 === 0 ? 'first' : `GET /${i} HTTP/1.1`)
  }
  await noneUnderWay(t, gateway)
})

t.test('a backend that says how long it keeps a connection is believed, less the margin', async t => {
  const backend = await rawBackend(t, () => ok('ok', 'Keep-Alive: timeout=1\r\n'))
  // 950 of the 1000 ms are margin: the connection is given up long before its backend would.
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }], pool: { keepAliveMargin: 950 } })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  await client.response()
  await until(() => backend.connections[0].ended)
  await until(() => pool(gateway).total === 0)
  t.equal(pool(gateway).connects, 1)
})

t.test('a connection that its backend keeps no longer than the margin is used once', async t => {
  const backend = await rawBackend(t, () => ok('ok', 'Keep-Alive: timeout=1, max=100\r\n'))
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] })
  const client = await gateway.connect()
  let at = 0
  for (let i = 0; i < 3; i++) {
    client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
    at += (await client.response(at)).length
  }
  t.equal(backend.connections.length, 3)
  await until(() => pool(gateway).total === 0)
})

t.test('a connection is kept no longer than idleTimeout, however long its backend would', async t => {
  for (const headers of ['', 'Keep-Alive: timeout=1000\r\n']) {
    const backend = await rawBackend(t, () => ok('ok', headers))
    const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }], pool: { idleTimeout: 30 } })
    const client = await gateway.connect()
    client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
    await client.response()
    await until(() => backend.connections[0].ended)
    await until(() => pool(gateway).total === 0)
    t.pass(JSON.stringify(headers))
  }
})

t.test('a backend\'s Connection: close ends its own connection only', async t => {
  const backend = await rawBackend(t, (_request, wire) => {
    wire.socket.end(ok('ok', 'Connection: close\r\n'))
  })
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] })
  const client = await gateway.connect()
  let at = 0
  for (let i = 0; i < 3; i++) {
    client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
    const response = await client.response(at)
    t.equal(response.status, 200)
    at += response.length
  }
  t.equal(backend.connections.length, 3)
  t.equal(gateway.app.proxy.getMetrics().totalRetries, 0)
})
