import { createServer, type AddressInfo, type Socket } from 'node:net'
import { PassThrough } from 'node:stream'
import t, { type Test } from 'tap'
import { startGateway, type Gateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, until, type Wire } from '../helpers/wire.ts'

// A connection on which nothing is read any more would hang: say so soon.
const LIMIT = 4_000

const REFUSED = ok('too large', '', '413 Content Too Large')

/** What a backend does once it has answered a request that has not come whole. */
type Afterwards = 'reads on' | 'stops reading' | 'closes' | 'says so and closes'

/**
 * A backend that answers `POST` by its head and its first byte alone, and everything else at once; counts all heads that it sees.
 * `/go` is answered on it too, so that a misread rest of a body would be seen here as a request.
 */
async function hastyBackend (t: Test, afterwards: Afterwards) {
  const heads: string[] = []
  const sockets = new Set<Socket>()
  const server = createServer({ noDelay: true, allowHalfOpen: true }, socket => {
    sockets.add(socket)
    let received = ''
    let answered = false
    socket.on('error', () => {}).on('end', () => socket.end()).on('data', chunk => {
      if (answered) return
      received += chunk.toString('latin1')
      const end = received.indexOf('\r\n\r\n')
      if (end === -1) return
      const head = received.slice(0, end)
      if (head.startsWith('POST') && received.length === end + 4) return
      heads.push(head)
      received = ''
      if (!head.startsWith('POST')) {
        socket.write(ok(head.split('\r\n')[0]))
        return
      }
      answered = true
      socket.write(afterwards === 'says so and closes' ? REFUSED.replace('Content-Length', 'Connection: close\r\nContent-Length') : REFUSED)
      if (afterwards === 'stops reading') socket.pause()
      if (afterwards === 'closes' || afterwards === 'says so and closes') socket.end()
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, heads }
}

interface Sending {
  framing: 'length' | 'chunks'
  /** Bytes that are still to come when the answer is there. */
  rest: number
}

function begin (client: Wire, path: string, { framing, rest }: Sending): void {
  client.send(framing === 'length'
    ? `POST ${path} HTTP/1.1\r\nHost: g\r\nContent-Length: ${rest + 5}\r\n\r\nfirst`
    : `POST ${path} HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n`)
}

/** The rest looks like requests, so that one who loses his place answers them. */
function finish (client: Wire, { framing, rest }: Sending): void {
  const bytes = Buffer.alloc(rest, 'GET /smuggled HTTP/1.1\r\nHost: g\r\n\r\n')
  if (framing === 'length') client.send(bytes)
  else client.send(`${rest.toString(16)}\r\n`).send(bytes).send('\r\n0\r\n\r\n')
}

/** Asserts that a further request on the connection is answered by its own answer, and nothing else comes. */
async function nextIsUnderstood (t: Test, client: Wire, at: number, name: string): Promise<void> {
  client.send('GET /next HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => client.ended || client.closed || client.received.indexOf('HTTP/1.1 ', at) !== -1)
  const next = await client.response(at)
  t.equal(next.body, 'GET /next HTTP/1.1', name)
  t.equal(client.received.length, at + next.length, 'and nothing else has come')
}

const WAYS = ['routes', 'hooks', 'handler', 'preParsing'] as const

async function gatewayFor (t: Test, url: string, options = {}): Promise<Gateway> {
  return await startGateway(t, {
    backends: [url],
    routes: [
      { prefix: '/routes', rewritePrefix: '/up' },
      { prefix: '/hooks', rewritePrefix: '/up', onSend: async () => undefined },
      { prefix: '/preParsing', rewritePrefix: '/up', preParsing: (_request, _reply, payload, done) => done(null, payload.pipe(new PassThrough())) },
      { prefix: '/' }
    ],
    ...options
  }, {
    setup: app => app.register(async scope => {
      scope.removeAllContentTypeParsers()
      scope.addContentTypeParser('*', (_request, _payload, done) => done(null))
      scope.post('/handler', (request, reply) => scope.proxy.forward(request, reply, { path: '/up' }))
    })
  })
}

for (const afterwards of ['reads on', 'stops reading', 'closes', 'says so and closes'] as const) {
  for (const way of WAYS) {
    t.test(`a backend that answers early and ${afterwards} has its answer sent (${way}), and the next request is understood`, { timeout: LIMIT }, async t => {
      const backend = await hastyBackend(t, afterwards)
      const { app, connect } = await gatewayFor(t, backend.url)
      for (const framing of ['length', 'chunks'] as const) {
        for (const rest of [10, 2_000, 100_000, 6_000_000]) {
          const client = await connect()
          begin(client, `/${way}`, { framing, rest })
          const response = await client.response()
          t.equal(response.status, 413, `${rest} bytes to come in ${framing}`)
          t.equal(response.body, 'too large')
          t.strictSame(response.values('connection').filter(value => value === 'close'), [], 'the client\'s connection stays open')
          finish(client, { framing, rest })
          await nextIsUnderstood(t, client, response.length, 'the next request is understood')
          client.close()
        }
      }
      await until(() => app.proxy.getMetrics().inFlight === 0)
      t.notOk(backend.heads.some(head => head.includes('smuggled')), 'no byte of a body has become a request')
      t.equal(backend.heads.length, 16)
      t.equal(app.proxy.getMetrics().totalRequests, 16)
    })
  }
}

t.test('an early answer reaches a client that sends everything at once, and its next request too', { timeout: LIMIT }, async t => {
  for (const way of WAYS) {
    const backend = await hastyBackend(t, 'reads on')
    const { connect } = await gatewayFor(t, backend.url)
    for (const framing of ['length', 'chunks'] as const) {
      const client = await connect()
      begin(client, `/${way}`, { framing, rest: 3_000_000 })
      finish(client, { framing, rest: 3_000_000 })
      client.send('GET /next HTTP/1.1\r\nHost: g\r\n\r\n')
      const first = await client.response()
      t.equal(first.status, 413, `${way} in ${framing}`)
      const next = await client.response(first.length)
      t.equal(next.body, 'GET /next HTTP/1.1')
      t.equal(client.received.length, first.length + next.length)
      client.close()
    }
    t.notOk(backend.heads.some(head => head.includes('smuggled')))
  }
})

t.test('a backend that resets right after an early answer leaves one answer and a usable connection', async t => {
  const sockets = new Set<Socket>()
  const server = createServer({ noDelay: true }, socket => {
    sockets.add(socket)
    socket.on('error', () => {}).on('data', chunk => {
      const text = chunk.toString('latin1')
      if (text.startsWith('GET')) socket.write(ok(text.split('\r\n')[0]))
      else socket.write(REFUSED, () => socket.resetAndDestroy())
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  const { app, connect } = await gatewayFor(t, `http://127.0.0.1:${(server.address() as AddressInfo).port}`)
  for (let i = 0; i < 10; i++) {
    const client = await connect()
    begin(client, '/routes', { framing: 'length', rest: 1_000_000 })
    finish(client, { framing: 'length', rest: 1_000_000 })
    const response = await client.response()
    // Whether the answer or the reset is seen first is the kernel's choice.
    t.ok([413, 502].includes(response.status), String(response.status))
    await nextIsUnderstood(t, client, response.length, 'the next request is understood')
    client.close()
  }
  await until(() => app.proxy.getMetrics().inFlight === 0)
})

t.test('an early answer that goes on while the upload goes on has both to the end', async t => {
  let socket: Socket | undefined
  let uploaded = 0
  const server = createServer({ noDelay: true }, connection => {
    socket = connection
    let head = true
    connection.on('error', () => {}).on('data', chunk => {
      uploaded += chunk.length
      if (head) connection.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n')
      head = false
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.close()
    socket?.destroy()
  })
  const { connect } = await gatewayFor(t, `http://127.0.0.1:${(server.address() as AddressInfo).port}`)
  const client = await connect()
  begin(client, '/routes', { framing: 'length', rest: 2_000_000 })
  await client.receive('early')
  const before = uploaded
  finish(client, { framing: 'length', rest: 2_000_000 })
  await until(() => uploaded >= before + 2_000_000)
  socket?.write('4\r\nlate\r\n0\r\n\r\n')
  t.equal((await client.response()).body, 'earlylate')
})

t.test('a client that never sends the rest is let go of after a while', { timeout: LIMIT }, async t => {
  for (const way of WAYS) {
    const clock = new FakeClock()
    const backend = await hastyBackend(t, 'reads on')
    const { app, connect } = await gatewayFor(t, backend.url, { clock })
    const client = await connect()
    begin(client, `/${way}`, { framing: 'length', rest: 100 })
    t.equal((await client.response()).status, 413, way)
    clock.advance(9_000)
    t.notOk(client.ended, 'its connection is open for a while')
    clock.advance(2_000)
    await until(() => client.ended || client.closed)
    t.equal(app.proxy.getMetrics().inFlight, 0)
    t.equal(clock.timers <= 1, true)
    clock.advance(1_000)
    t.equal(clock.timers, 0, 'no timer is left')
  }
})

t.test('the answer of our own to a request that is still on its way leaves the connection usable', async t => {
  const { app, connect } = await startGateway(t, { routes: [{ prefix: '/' }] })
  const client = await connect()
  begin(client, '/', { framing: 'length', rest: 1_000_000 })
  const first = await client.response()
  t.equal(first.status, 503, 'there is no backend')
  finish(client, { framing: 'length', rest: 1_000_000 })
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  const second = await client.response(first.length)
  t.equal(second.status, 503)
  t.equal(client.received.length, first.length + second.length)
  t.equal(app.proxy.getMetrics().totalRequests, 2)
})
