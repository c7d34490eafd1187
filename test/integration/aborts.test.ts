import { once } from 'node:events'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import type { BackendMetrics } from '../../types/index.ts'
import { startGateway, type Gateway, type GatewaySetup } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, rawBackend, until, type Wire } from '../helpers/wire.ts'

/** How a client may go. */
const WAYS: [name: string, leave: (client: Wire) => void][] = [
  ['closes', client => client.close()],
  ['resets', client => client.reset()]
]

function counts ({ totalRequests, successfulRequests, failedRequests, abortedRequests, inFlight }: BackendMetrics): number[] {
  return [totalRequests, successfulRequests, failedRequests, abortedRequests, inFlight]
}

/** Asserts one request in all, aborted: nobody's failure, logged as 499, nothing left. */
async function isAborted (t: Test, { app, log }: Gateway, { attempted = true } = {}): Promise<void> {
  await until(() => app.proxy.getMetrics().inFlight === 0)
  const metrics = app.proxy.getMetrics()
  t.strictSame(counts(metrics), [1, 0, 0, 1, 0], 'counted as aborted')
  for (const backend of Object.values(metrics.backends)) {
    t.strictSame(counts(backend), attempted ? [1, 0, 0, 1, 0] : [0, 0, 0, 0, 0], 'and never as the backend\'s failure')
  }
  const lines = log.filter(line => line.statusCode === 499 && line.msg === 'the client closed the request')
  t.equal(lines.length, 1, 'one line with 499')
  t.equal(lines[0]?.level, 30)
  t.strictSame(log.filter(line => line.level >= 40), [], 'nothing to warn of')
  await until(() => app.proxy.getConnectionPool().stats().active === 0)
  t.equal(app.proxy.getConnectionPool().stats().pending, 0)
}

for (const [name, leave] of WAYS) {
  t.test(`a client that ${name} while its answer is awaited takes the backend's request with it`, async t => {
    const backend = await rawBackend(t, () => {})
    const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] })
    const client = await gateway.connect()
    client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
    await until(() => backend.requests.length === 1)
    leave(client)
    await until(() => backend.connections[0].closed)
    await isAborted(t, gateway)
  })

  t.test(`a client that ${name} during its upload takes the backend's request with it`, async t => {
    for (const framing of ['Content-Length: 100\r\n\r\nfirst', 'Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n']) {
      const backend = await rawBackend(t, () => {})
      const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] })
      const client = await gateway.connect()
      client.send(`POST / HTTP/1.1\r\nHost: g\r\n${framing}`)
      await until(() => backend.connections[0]?.received.includes('first') === true)
      leave(client)
      await until(() => backend.connections[0].closed)
      t.equal(backend.requests.length, 0, 'the request never looks whole')
      await isAborted(t, gateway)
    }
  })

  t.test(`a client that ${name} before the first byte of its body leaves nothing behind`, async t => {
    for (const framing of ['Content-Length: 100', 'Transfer-Encoding: chunked']) {
      const backend = await rawBackend(t, () => {})
      const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] })
      const client = await gateway.connect()
      client.send(`POST / HTTP/1.1\r\nHost: g\r\n${framing}\r\n\r\n`)
      await until(() => gateway.app.proxy.getMetrics().inFlight === 1)
      leave(client)
      await isAborted(t, gateway)
      t.ok(backend.connections.every(connection => connection.received === ''), 'nothing was sent')
      const other = await gateway.connect()
      other.send('GET /next HTTP/1.1\r\nHost: g\r\n\r\n')
      await until(() => backend.requests.length === 1)
      t.equal(backend.requests[0].startLine, 'GET /next HTTP/1.1')
    }
  })

  t.test(`a client that ${name} in the middle of its answer takes the backend's request with it`, async t => {
    for (const hooks of [false, true]) {
      for (const framing of ['Content-Length: 100', 'Transfer-Encoding: chunked', 'Connection: close']) {
        const backend = await rawBackend(t, () => `HTTP/1.1 200 OK\r\n${framing}\r\n\r\n5\r\nfirst\r\n`)
        const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] }, {
          before: app => { if (hooks) app.addHook('onSend', async () => undefined) }
        })
        const client = await gateway.connect()
        client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
        await client.receive('first')
        leave(client)
        await until(() => backend.connections[0].closed)
        await isAborted(t, gateway)
      }
    }
  })

  t.test(`a client that ${name} without reading a large answer takes the backend's request with it`, async t => {
    let socket: Socket | undefined
    const server = await listen(t, connection => {
      socket = connection
      connection.on('error', () => {})
      connection.once('data', () => {
        connection.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
        const block = `10000\r\n${'x'.repeat(65_536)}\r\n`
        const pour = (): void => { while (!connection.destroyed && connection.write(block)); }
        connection.on('drain', pour)
        pour()
      })
    })
    const gateway = await startGateway(t, { backends: [server.url], routes: [{ prefix: '/' }] })
    const client = await gateway.connect()
    client.socket.pause()
    client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
    await until(() => (socket?.writableLength ?? 0) > 0)
    leave(client)
    await until(() => socket?.closed === true)
    await isAborted(t, gateway)
  })
}

t.test('a client that goes after its answer has begun, seen by the backend before the next byte', async t => {
  const backend = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n')
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  await client.receive('\r\n\r\n')
  client.close()
  // The backend sends nothing: only an abort, not a failed write, can tell.
  await until(() => backend.connections[0].closed)
  await isAborted(t, gateway)
})

t.test('a client that goes once its whole answer has come aborts nothing', async t => {
  const backend = await rawBackend(t, () => ok())
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  await client.response()
  client.reset()
  await until(() => gateway.app.proxy.getConnectionPool().stats().idle === 1)
  const other = await gateway.connect()
  other.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  t.equal((await other.response()).status, 200)
  t.equal(backend.connections.length, 1, 'the connection goes on')
  t.strictSame(counts(gateway.app.proxy.getMetrics()), [2, 2, 0, 0, 0])
  t.notOk(gateway.log.some(line => line.statusCode === 499))
})

t.test('a client that has gone before its request is forwarded asks no backend', async t => {
  const backend = await rawBackend(t, () => ok())
  const arrived: (() => void)[] = []
  const gateway = await startGateway(t, { backends: [backend.url] }, {
    setup: app => app.get('/', async (request, reply) => {
      await new Promise<void>(resolve => arrived.push(resolve))
      return await app.proxy.forward(request, reply)
    })
  })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => arrived.length === 1)
  client.close()
  await until(() => gateway.log.some(line => /premature close|aborted/i.test(line.msg)) || connectionsOf(gateway) === 0)
  arrived[0]()
  await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
  t.equal(backend.requests.length, 0)
  t.equal(backend.connections.length, 0)
  t.strictSame(gateway.log.filter(line => line.level >= 40), [])
})

t.test('all that an aborted client\'s handler hears is the end', async t => {
  const backend = await rawBackend(t, () => {})
  const ends: string[] = []
  const gateway = await startGateway(t, { backends: [backend.url] }, {
    setup: app => {
      app.get('/', (request, reply) => app.proxy.forward(request, reply).then(() => { ends.push('fulfilled') }, error => { ends.push(error.code) }))
      app.addHook('onRequestAbort', async _request => { ends.push('onRequestAbort') })
      app.addHook('onError', async (_request, _reply, _error) => { ends.push('onError') })
    }
  })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => backend.requests.length === 1)
  client.close()
  await until(() => ends.length >= 2)
  await isAborted(t, gateway)
  t.strictSame(ends.sort(), ['fulfilled', 'onRequestAbort'])
})

t.test('a handler that waits for an answer of its own has it refused when its client goes', async t => {
  const backend = await rawBackend(t, () => {})
  const ends: string[] = []
  const gateway = await startGateway(t, { backends: [backend.url] }, {
    setup: app => app.get('/', async request => {
      await app.proxy.forward(request).catch(error => { ends.push(error.code) })
      return ''
    })
  })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => backend.requests.length === 1)
  client.close()
  await until(() => backend.connections[0].closed)
  await until(() => ends.length > 0)
  t.strictSame(ends, ['FST_ROCKSTAR_CLIENT_CLOSED'])
  await isAborted(t, gateway)
})

t.test('a handler that reads an answer of its own does not wait for ever when its client goes', { timeout: 5_000 }, async t => {
  for (const way of ['forward(request)', 'onResponse']) {
    const backend = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf')
    let reading = false
    const ends: unknown[] = []
    const read = (text: Promise<string>) => {
      reading = true
      return text.then(text => { ends.push(text) }, error => { ends.push(error) })
    }
    const gateway = await startGateway(t, { backends: [backend.url] }, {
      setup: app => {
        if (way === 'onResponse') {
          app.get('/', (request, reply) => app.proxy.forward(request, reply, { onResponse: (_request, _reply, response) => { read(response.text()) } }))
        } else {
          app.get('/', async request => {
            await read((await app.proxy.forward(request)).text())
            return ''
          })
        }
      }
    })
    const client = await gateway.connect()
    client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
    await until(() => reading)
    client.close()
    await until(() => backend.connections[0].closed)
    await isAborted(t, gateway)
    await until(() => ends.length > 0)
    t.type(ends[0], Error, `${way}: half an answer is no answer`)
  }
})

t.test('a client that has half closed is answered or counted as gone, and the backend let go of', async t => {
  const backend = await rawBackend(t, () => {})
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => backend.requests.length === 1)
  client.socket.end()
  // Node's server closes such a connection at once; where it does not, the answer is due.
  await until(() => client.closed || client.ended || backend.connections[0].closed)
  backend.connections[0].send(ok())
  await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
  const [total, successful, failed, aborted] = counts(gateway.app.proxy.getMetrics())
  t.strictSame([total, failed, successful + aborted], [1, 0, 1])
  t.equal(successful === 1, client.received.includes('200 OK'))
})

t.test('a client that half closes in the middle of its body is gone', async t => {
  const backend = await rawBackend(t, () => {})
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] })
  const client = await gateway.connect()
  client.send('POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 100\r\n\r\nfirst')
  await until(() => backend.connections[0]?.received.includes('first') === true)
  client.socket.end()
  await until(() => backend.connections[0].closed)
  t.equal(backend.requests.length, 0, 'its request never looks whole')
  await isAborted(t, gateway)
})

t.test('of requests in one packet, those behind the one that was being answered are let go of too', { timeout: 5_000 }, async t => {
  const backend = await rawBackend(t, () => {})
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] })
  const client = await gateway.connect()
  client.send('GET /1 HTTP/1.1\r\nHost: g\r\n\r\n'.repeat(3))
  await until(() => backend.requests.length === 3)
  client.close()
  await until(() => backend.connections.every(connection => connection.closed))
  await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
  t.strictSame(counts(gateway.app.proxy.getMetrics()), [3, 0, 0, 3, 0])
})

t.test('a request that is aborted while it waits for a connection leaves its place in the queue', async t => {
  const backend = await rawBackend(t, () => {})
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }], pool: { connections: 1 } })
  const pool = () => gateway.app.proxy.getConnectionPool().stats()
  const [first, second, third] = [await gateway.connect(), await gateway.connect(), await gateway.connect()]
  first.send('GET /1 HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => backend.requests.length === 1)
  second.send('GET /2 HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => pool().pending === 1)
  third.send('GET /3 HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => pool().pending === 2)
  second.close()
  await until(() => pool().pending === 1)
  t.equal(gateway.app.proxy.getMetrics().abortedRequests, 1)
  backend.connections[0].send(ok('one'))
  t.equal((await first.response()).body, 'one')
  await until(() => backend.requests.length === 2)
  t.equal(backend.requests[1].startLine, 'GET /3 HTTP/1.1', 'the aborted one never leaves')
  backend.connections[0].send(ok('three'))
  t.equal((await third.response()).body, 'three')
  await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
  t.strictSame(counts(gateway.app.proxy.getMetrics()), [3, 2, 0, 1, 0])
  t.strictSame({ ...pool(), backends: undefined, connects: 0, requests: 0, reuseRatio: 0 }, { total: 1, active: 0, idle: 1, pending: 0, connects: 0, connectErrors: 0, requests: 0, reuseRatio: 0, backends: undefined })
})

t.test('an upload that is aborted while it waits for a connection leaves its place in the queue', async t => {
  const backend = await rawBackend(t, () => {})
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }], pool: { connections: 1 } })
  const pool = () => gateway.app.proxy.getConnectionPool().stats()
  const [first, second] = [await gateway.connect(), await gateway.connect()]
  first.send('GET /1 HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => backend.requests.length === 1)
  second.send('POST /2 HTTP/1.1\r\nHost: g\r\nContent-Length: 100\r\n\r\nfirst')
  await until(() => pool().pending === 1)
  second.reset()
  await until(() => pool().pending === 0)
  backend.connections[0].send(ok())
  t.equal((await first.response()).status, 200)
  t.strictSame(counts(gateway.app.proxy.getMetrics()), [2, 1, 0, 1, 0])
})

t.test('a request that is aborted while its connection is being made frees the place at once', { timeout: 5_000 }, async t => {
  // TLS to one who never answers the handshake: connecting goes on until somebody ends it.
  const sockets: Socket[] = []
  const server = await listen(t, socket => { sockets.push(socket.on('error', () => {}).resume()) })
  const gateway = await startGateway(t, { backends: [server.url.replace('http:', 'https:')], routes: [{ prefix: '/' }], pool: { connections: 1 } })
  const pool = () => gateway.app.proxy.getConnectionPool().stats()
  const first = await gateway.connect()
  first.send('GET /1 HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => sockets.length === 1)
  const second = await gateway.connect()
  second.send('GET /2 HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => pool().pending === 1)
  first.close()
  await until(() => gateway.app.proxy.getMetrics().abortedRequests === 1)
  await until(() => sockets.length === 2)
  t.pass('the next one connects')
  await until(() => sockets[0].destroyed)
  t.equal(pool().pending, 0)
  t.equal(pool().total, 1)
  second.close()
  await until(() => pool().total === 0)
  t.strictSame(counts(gateway.app.proxy.getMetrics()), [2, 0, 0, 2, 0])
})

t.test('a signal gives an exchange up, wherever it is', async t => {
  const backend = await rawBackend(t, request => request.startLine.includes('/half') ? 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf' : undefined)
  const controllers: AbortController[] = []
  const gateway = await startGateway(t, { backends: [backend.url] }, signalled(controllers))
  const waiting = await gateway.connect()
  waiting.send('GET /wait HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => backend.requests.length === 1)
  const reason = new Error('changed our mind')
  controllers[0].abort(reason)
  const response = await waiting.response()
  t.equal(response.status, 503)
  t.equal(JSON.parse(response.body).code, 'FST_ROCKSTAR_ABORTED')
  await until(() => backend.connections[0].closed)
  t.equal(gateway.log.some(line => JSON.stringify(line).includes('changed our mind')), true, 'the log has the reason')
  t.notMatch(response.body, 'changed our mind', 'the client has not')

  const half = await gateway.connect()
  half.send('GET /half HTTP/1.1\r\nHost: g\r\n\r\n')
  await half.receive('half')
  controllers[1].abort()
  await until(() => half.ended || half.closed)
  t.ok(half.received.endsWith('half'), 'what has begun is cut short')
  await until(() => backend.connections[1].closed)

  const late = await gateway.connect()
  controllers[2] = new AbortController()
  controllers[2].abort()
  late.send('GET /late HTTP/1.1\r\nHost: g\r\n\r\n')
  t.equal(JSON.parse((await late.response()).body).code, 'FST_ROCKSTAR_ABORTED', 'one that has been aborted before')
  t.equal(backend.requests.length, 2, 'is not sent')

  const metrics = gateway.app.proxy.getMetrics()
  t.equal(metrics.inFlight, 0)
  t.equal(Object.values(metrics.backends)[0].failedRequests, 0, 'none of it is the backend\'s failure')
})

t.test('a signal that aborts after the end changes nothing', async t => {
  const backend = await rawBackend(t, () => ok())
  const controllers: AbortController[] = []
  const gateway = await startGateway(t, { backends: [backend.url] }, signalled(controllers))
  const client = await gateway.connect()
  client.send('GET /1 HTTP/1.1\r\nHost: g\r\n\r\n')
  const first = await client.response()
  controllers[0].abort()
  client.send('GET /2 HTTP/1.1\r\nHost: g\r\n\r\n')
  t.equal((await client.response(first.length)).status, 200)
  t.equal(backend.connections.length, 1)
  t.strictSame(counts(gateway.app.proxy.getMetrics()), [2, 2, 0, 0, 0])
})

t.test('a signal aborts a request that waits for a connection', async t => {
  const backend = await rawBackend(t, () => {})
  const controllers: AbortController[] = []
  const gateway = await startGateway(t, { backends: [backend.url], pool: { connections: 1 } }, signalled(controllers))
  const pool = () => gateway.app.proxy.getConnectionPool().stats()
  const [first, second] = [await gateway.connect(), await gateway.connect()]
  first.send('GET /1 HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => backend.requests.length === 1)
  second.send('GET /2 HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => pool().pending === 1)
  controllers[1].abort()
  t.equal((await second.response()).status, 503)
  t.equal(pool().pending, 0)
  backend.connections[0].send(ok())
  t.equal((await first.response()).status, 200)
})

t.test('signals leave no listener behind', async t => {
  const backend = await rawBackend(t, () => ok())
  let added = 0
  const { signal } = new AbortController()
  const { addEventListener, removeEventListener } = signal
  signal.addEventListener = (...args: unknown[]) => {
    added++
    Reflect.apply(addEventListener, signal, args)
  }
  signal.removeEventListener = (...args: unknown[]) => {
    added--
    Reflect.apply(removeEventListener, signal, args)
  }
  const gateway = await startGateway(t, { backends: [backend.url] }, {
    setup: app => {
      app.get('/reply', (request, reply) => app.proxy.forward(request, reply, { signal }))
      app.get('/capture', async request => await (await app.proxy.forward(request, undefined, { signal })).text())
    }
  })
  const client = await gateway.connect()
  let at = 0
  for (const path of ['/reply', '/capture', '/reply', '/capture']) {
    client.send(`GET ${path} HTTP/1.1\r\nHost: g\r\n\r\n`)
    at += (await client.response(at)).length
  }
  t.equal(added, 0)
})

t.test('forwardHttp() is given up by its signal, before and after the head', async t => {
  const backend = await rawBackend(t, request => request.startLine.includes('/half') ? 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf' : undefined)
  const { app } = await startGateway(t, { backends: [backend.url] })
  const waiting = new AbortController()
  const answer = app.proxy.forwardHttp(new Request('http://g/wait', { signal: waiting.signal }))
  await until(() => backend.requests.length === 1)
  waiting.abort()
  await t.rejects(answer, { code: 'FST_ROCKSTAR_ABORTED' })
  await until(() => backend.connections[0].closed)
  const half = new AbortController()
  const response = await app.proxy.forwardHttp(new Request('http://g/half'), { signal: half.signal })
  half.abort()
  await t.rejects(response.text())
  await until(() => backend.connections[1].closed)
  t.equal(app.proxy.getMetrics().inFlight, 0)
})

t.test('a body of forwardHttp() that is cancelled lets its backend go and throws nothing at the process', async t => {
  const backend = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf')
  const { app } = await startGateway(t, { backends: [backend.url] })
  for (let i = 0; i < 2; i++) {
    const response = await app.proxy.forwardHttp(new Request('http://g/half'))
    const reader = response.body?.getReader()
    if (i === 1) await reader?.read()
    await reader?.cancel()
    await until(() => backend.connections[i].closed)
    await new Promise(resolve => setImmediate(resolve))
  }
  t.equal(app.proxy.getMetrics().inFlight, 0)
})

t.test('a hundred clients that go at random moments leave nothing under way', async t => {
  const backend = await rawBackend(t, request => request.startLine.includes('/half') ? 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf' : undefined)
  const clock = new FakeClock()
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }], pool: { connections: 10 }, clock })
  for (let i = 0; i < 100; i++) {
    const client = await gateway.connect()
    client.send(i % 3 === 0 ? 'POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 9\r\n\r\nfirst' : `GET /${i % 3 === 1 ? 'half' : 'wait'} HTTP/1.1\r\nHost: g\r\n\r\n`)
    for (let turns = i % 7; turns > 0; turns--) await new Promise(resolve => setImmediate(resolve))
    if (i % 2 === 0) client.reset()
    else client.close()
  }
  await until(() => connectionsOf(gateway) === 0)
  await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
  const [total, successful, failed, aborted] = counts(gateway.app.proxy.getMetrics())
  t.strictSame([successful, failed], [0, 0])
  t.equal(total, aborted)
  await until(() => gateway.app.proxy.getConnectionPool().stats().active === 0)
  t.equal(gateway.app.proxy.getConnectionPool().stats().pending, 0)
  clock.advance(1_000)
  t.equal(clock.timers, 0, 'no timer either')
})

/** A gateway whose handler forwards with a signal of its own. */
function signalled (controllers: AbortController[]): GatewaySetup {
  let next = 0
  return {
    setup: app => app.get('/*', (request, reply) => {
      const controller = controllers[next] ??= new AbortController()
      next++
      return app.proxy.forward(request, reply, { signal: controller.signal })
    })
  }
}

function connectionsOf ({ app }: Gateway): number {
  return (app.server as unknown as { _connections: number })._connections
}

async function listen (t: Test, onConnection: (socket: Socket) => void): Promise<{ url: string }> {
  const sockets = new Set<Socket>()
  const server = createServer({ noDelay: true }, socket => {
    sockets.add(socket)
    onConnection(socket)
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }
}
