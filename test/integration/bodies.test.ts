import { createHash } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import { PassThrough, Transform } from 'node:stream'
import t, { type Test } from 'tap'
import passthrough from '../../plugins/passthrough.ts'
import { httpBackend, startGateway } from '../helpers/app.ts'
import { connectTo, ok, rawBackend, until } from '../helpers/wire.ts'

const MEGABYTE = 1_048_576

/** Bytes of every value, so that no decoding on the way goes unseen. */
function bytes (length: number): Buffer {
  const buffer = Buffer.allocUnsafe(length)
  for (let i = 0; i < length; i++) buffer[i] = (i * 31 + (i >> 8)) & 0xff
  return buffer
}

function sha (data: Buffer | string): string {
  return createHash('sha256').update(typeof data === 'string' ? Buffer.from(data, 'latin1') : data).digest('hex')
}

function chunked (...parts: (Buffer | string)[]): string {
  const texts = parts.map(part => typeof part === 'string' ? part : part.toString('latin1'))
  return texts.map(text => `${text.length.toString(16)}\r\n${text}\r\n`).join('') + '0\r\n\r\n'
}

/** A gateway with a declared route below `/api`, before a backend that answers what it got. */
async function echo (t: Test) {
  const backend = await rawBackend(t, request => ok(`${request.startLine}|${request.body.length}|${sha(request.body)}`))
  const gateway = await startGateway(t, {
    backends: [backend.url],
    routes: [{ prefix: '/api' }]
  }, { setup: app => { app.get('/handler/*', (request, reply) => app.proxy.forward(request, reply)) } })
  return { backend, gateway, client: await gateway.connect() }
}

t.test('a body with a length keeps its length and its bytes', async t => {
  for (const length of [1, 1_000, 65_535, 65_536, 65_537, 1_000_000]) {
    const { backend, client } = await echo(t)
    const body = bytes(length)
    client.send(Buffer.concat([Buffer.from(`POST /api/ HTTP/1.1\r\nHost: g\r\nContent-Length: ${length}\r\n\r\n`), body]))
    const response = await client.response()
    t.equal(response.body, `POST / HTTP/1.1|${length}|${sha(body)}`, `${length} bytes in the packet of the head`)
    t.strictSame(backend.requests[0].values('content-length'), [String(length)])
    t.strictSame(backend.requests[0].values('transfer-encoding'), [])
  }
})

t.test('a body that comes later than its head keeps its length and its bytes', async t => {
  for (const length of [1, 1_000, 65_535, 65_536, 65_537]) {
    const { backend, gateway, client } = await echo(t)
    const body = bytes(length)
    client.send(`PUT /api/ HTTP/1.1\r\nHost: g\r\nContent-Length: ${length}\r\n\r\n`)
    await until(() => gateway.app.proxy.getMetrics().inFlight === 1)
    client.send(body)
    const response = await client.response()
    t.equal(response.body, `PUT / HTTP/1.1|${length}|${sha(body)}`, `${length} bytes later than the head`)
    t.strictSame(backend.requests[0].values('content-length'), [String(length)])
  }
})

t.test('a chunked body stays chunked, with the same bytes', async t => {
  for (const length of [1, 1_000, 65_535, 65_536, 65_537, 300_000]) {
    const { backend, client } = await echo(t)
    const body = bytes(length)
    const half = length >> 1
    const parts = half === 0 ? [body] : [body.subarray(0, half), body.subarray(half)]
    client.send(`POST /api/ HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n${chunked(...parts)}`)
    const response = await client.response()
    t.equal(response.body, `POST / HTTP/1.1|${length}|${sha(body)}`, `${length} bytes`)
    t.strictSame(backend.requests[0].values('content-length'), [])
    t.strictSame(backend.requests[0].values('transfer-encoding').map(value => value.toLowerCase()), ['chunked'])
  }
})

t.test('a body that arrives byte by byte is sent on as it comes', async t => {
  for (const framing of ['Content-Length: 40', 'Transfer-Encoding: chunked']) {
    const { backend, client } = await echo(t)
    const body = bytes(40).toString('latin1')
    client.send(`POST /api/ HTTP/1.1\r\nHost: g\r\n${framing}\r\n\r\n`)
    for (const [i, byte] of [...body].entries()) {
      client.send(framing.startsWith('C') ? byte : `1\r\n${byte}\r\n`)
      // The next one leaves only when this one has been seen at the other end: nothing is saved up.
      await until(() => (backend.connections[0]?.received.split('\r\n\r\n')[1] ?? '') !== '' &&
        backend.connections[0].received.endsWith(framing.startsWith('C') ? body.slice(0, i + 1) : `1\r\n${byte}`))
    }
    if (framing.startsWith('T')) client.send('0\r\n\r\n')
    t.equal((await client.response()).body, `POST / HTTP/1.1|40|${sha(body)}`, framing)
  }
})

t.test('a chunk that arrives byte by byte, its size included, is understood', async t => {
  const { client } = await echo(t)
  for (const byte of 'POST /api/x HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\nA;ext=1\r\n0123456789\r\n0\r\n\r\n') {
    client.send(byte)
    await new Promise(resolve => setImmediate(resolve))
  }
  t.equal((await client.response()).body, `POST /x HTTP/1.1|10|${sha('0123456789')}`)
})

t.test('an answer keeps its length', async t => {
  for (const length of [0, 1, 16_384, 65_535, 65_536, 65_537, 1_000_000]) {
    const body = bytes(length)
    const backend = await rawBackend(t, () => Buffer.concat([Buffer.from(`HTTP/1.1 200 OK\r\nContent-Length: ${length}\r\n\r\n`), body]))
    const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] })
    const client = await gateway.connect()
    client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
    const response = await client.response()
    t.equal(sha(response.body), sha(body), `${length} bytes`)
    t.strictSame(response.values('content-length'), [String(length)])
    t.strictSame(response.values('transfer-encoding'), [])
  }
})

t.test('a chunked answer stays chunked, each byte on its way before the next has come', async t => {
  const body = bytes(30).toString('latin1')
  const backend = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  await client.receive('\r\n\r\n')
  for (const byte of body) {
    const seen = client.received.length
    backend.connections[0].send(`1\r\n${byte}\r\n`)
    await until(() => client.received.length > seen && client.received.endsWith(`${byte}\r\n`))
  }
  backend.connections[0].send('0\r\n\r\n')
  const response = await client.response()
  t.equal(response.chunked, true)
  t.strictSame(response.values('content-length'), [])
  t.equal(response.body, body)
})

t.test('an answer with a length is on its way byte by byte too', async t => {
  const backend = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n')
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  await client.receive('\r\n\r\n')
  for (const byte of 'hello') {
    backend.connections[0].send(byte)
    await until(() => client.received.endsWith(byte) && client.received.split('\r\n\r\n')[1].length > 0)
  }
  t.equal((await client.response()).body, 'hello')
})

t.test('methods that rarely have a body keep the one they have', async t => {
  for (const path of ['/api/', '/handler/']) {
    for (const method of path === '/api/' ? ['GET', 'DELETE', 'OPTIONS', 'PATCH'] : ['GET']) {
      for (const framing of ['length', 'chunks']) {
        const { backend, client } = await echo(t)
        const body = bytes(2_000)
        const target = path === '/api/' ? '/' : path
        client.send(framing === 'length'
          ? `${method} ${path} HTTP/1.1\r\nHost: g\r\nContent-Length: 2000\r\n\r\n${body.toString('latin1')}`
          : `${method} ${path} HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n${chunked(body)}`)
        const response = await client.response()
        t.equal(response.body, `${method} ${target} HTTP/1.1|2000|${sha(body)}`, `${method} ${path} with ${framing}`)
        t.strictSame(backend.requests[0].values('content-length'), framing === 'length' ? ['2000'] : [])
        client.send('GET /api/next HTTP/1.1\r\nHost: g\r\n\r\n')
        const next = await client.response(response.length)
        t.equal(next.body, `GET /next HTTP/1.1|0|${sha('')}`, 'the next request is understood')
      }
    }
  }
})

t.test('HEAD with a body is answered by a head alone', async t => {
  const { backend, client } = await echo(t)
  client.send('HEAD /api/ HTTP/1.1\r\nHost: g\r\nContent-Length: 3\r\n\r\nabc')
  const head = await client.response(0, 'HEAD')
  t.equal(head.status, 200)
  t.equal(backend.requests[0].body, 'abc')
  client.send('GET /api/next HTTP/1.1\r\nHost: g\r\n\r\n')
  t.equal((await client.response(head.length)).body, `GET /next HTTP/1.1|0|${sha('')}`)
})

t.test('an empty body stays empty, however it is framed', async t => {
  for (const method of ['POST', 'PUT', 'PATCH', 'DELETE', 'GET']) {
    for (const framing of ['Content-Length: 0\r\n\r\n', 'Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n', '\r\n']) {
      const { backend, client } = await echo(t)
      client.send(`${method} /api/ HTTP/1.1\r\nHost: g\r\n${framing}`)
      const response = await client.response()
      t.equal(response.body, `${method} / HTTP/1.1|0|${sha('')}`, `${method} with ${JSON.stringify(framing)}`)
      // RFC 9110, 8.6: methods that expect a body say that it has none; whatever is said must be true.
      t.notOk(backend.requests[0].values('content-length').some(value => value !== '0'))
      client.send('GET /api/next HTTP/1.1\r\nHost: g\r\n\r\n')
      t.equal((await client.response(response.length)).body, `GET /next HTTP/1.1|0|${sha('')}`)
    }
  }
})

t.test('an empty chunked body whose last chunk comes later is sent at its end', async t => {
  const { client, gateway } = await echo(t)
  client.send('POST /api/ HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n')
  await until(() => gateway.app.proxy.getMetrics().inFlight === 1)
  client.send('0\r\n\r\n')
  t.equal((await client.response()).body, `POST / HTTP/1.1|0|${sha('')}`)
})

t.test('requests with bodies that came in one packet are answered in order', async t => {
  const { client } = await echo(t)
  let sent = ''
  for (let i = 0; i < 8; i++) {
    sent += i % 2 === 0
      ? `POST /api/${i} HTTP/1.1\r\nHost: g\r\nContent-Length: 4\r\n\r\nbody`
      : `POST /api/${i} HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n${chunked('bo', 'dy')}`
  }
  client.send(sent)
  let at = 0
  for (let i = 0; i < 8; i++) {
    const response = await client.response(at)
    t.equal(response.body, `POST /${i} HTTP/1.1|4|${sha('body')}`)
    at += response.length
  }
})

t.test('a client that waits for 100 Continue gets it, then sends its body, then has its answer', async t => {
  const { backend, client } = await echo(t)
  client.send('POST /api/ HTTP/1.1\r\nHost: g\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n')
  await client.receive('\r\n\r\n')
  t.equal(client.received, 'HTTP/1.1 100 Continue\r\n\r\n', 'and nothing else before the body is there')
  t.equal(backend.requests.length, 0)
  const interim = client.received.length
  client.send('body')
  const response = await client.response(interim)
  t.equal(response.status, 200)
  t.equal(response.body, `POST / HTTP/1.1|4|${sha('body')}`)
  client.send('GET /api/next HTTP/1.1\r\nHost: g\r\n\r\n')
  t.equal((await client.response(interim + response.length)).body, `GET /next HTTP/1.1|0|${sha('')}`)
})

t.test('100 Continue is asked for with a chunked body, and in another case', async t => {
  const { client } = await echo(t)
  client.send('POST /api/ HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\nExpect: 100-Continue\r\n\r\n')
  await client.receive('\r\n\r\n')
  const interim = client.received.length
  client.send(chunked('body'))
  t.equal((await client.response(interim)).body, `POST / HTTP/1.1|4|${sha('body')}`)
})

t.test('a backend that sends a 100 Continue of its own disturbs nothing', async t => {
  const backend = await rawBackend(t, request => `HTTP/1.1 100 Continue\r\n\r\n${ok(request.body)}`)
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] })
  const client = await gateway.connect()
  client.send('POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 4\r\n\r\nbody')
  await client.receive('200 OK')
  const final = client.received.indexOf('HTTP/1.1 200')
  t.match(client.received.slice(0, final), /^(?:HTTP\/1\.1 100 Continue\r\n\r\n)*$/)
  t.equal((await client.response(final)).body, 'body')
})

t.test('an expectation that nobody knows is refused with 417', async t => {
  const { backend, client } = await echo(t)
  client.send('POST /api/ HTTP/1.1\r\nHost: g\r\nContent-Length: 4\r\nExpect: nonsense\r\n\r\nbody')
  t.equal((await client.response()).status, 417)
  t.equal(backend.requests.length, 0)
})

t.test('a body in broken chunks never ends whole at the backend', async t => {
  const { backend, client, gateway } = await echo(t)
  client.send('POST /api/ HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n')
  await until(() => backend.connections[0]?.received.includes('body') === true)
  client.send('not a size\r\n')
  await until(() => backend.connections[0].closed)
  t.equal(backend.requests.length, 0, 'the request was cut short')
  await until(() => client.ended || client.closed)
  await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
  t.equal(gateway.app.proxy.getMetrics().backends[gateway.app.proxy.listBackends()[0].id].failedRequests, 0, 'and the backend is not to blame')
})

// A body of this size fits into no chain of socket buffers.
const HUGE = 160 * MEGABYTE
const BLOCK = Buffer.alloc(256 * 1024, 'x')

/** Writes a body as fast as it is taken, and counts what the kernel has taken. */
function pour (socket: Socket, length: number, written: { bytes: number }): void {
  let left = length
  const more = (): void => {
    while (left > 0) {
      const block = left < BLOCK.length ? BLOCK.subarray(0, left) : BLOCK
      left -= block.length
      if (!socket.write(block, error => { if (!error) written.bytes += block.length })) break
    }
  }
  socket.on('drain', more)
  more()
}

/** Waits until a count stands still while other requests go through the gateway. */
async function standsStill (count: () => number, roundTrip: () => Promise<unknown>): Promise<number> {
  let still = 0
  let last = count()
  while (still < 30) {
    await roundTrip()
    still = count() === last ? still + 1 : 0
    last = count()
  }
  return last
}

/** A backend that pours out a huge body on `/huge` and counts what it could send. */
async function pouringBackend (t: Test) {
  const written = { bytes: 0 }
  const sockets = new Set<Socket>()
  const server = createServer(socket => {
    sockets.add(socket)
    let head = ''
    socket.on('error', () => {}).on('data', chunk => {
      head += chunk.toString('latin1')
      if (!head.endsWith('\r\n\r\n')) return
      const huge = head.startsWith('GET /huge')
      head = ''
      if (!huge) {
        socket.write(ok())
        return
      }
      socket.write(`HTTP/1.1 200 OK\r\nContent-Length: ${HUGE}\r\n\r\n`)
      pour(socket, HUGE, written)
    })
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.close()
    for (const socket of sockets) socket.destroy()
  })
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, written }
}

t.test('a client that stops reading stops its backend, and one that reads on has all', async t => {
  for (const way of ['straight', 'through onSend hooks']) {
    const backend = await pouringBackend(t)
    const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] }, {
      before: app => { if (way !== 'straight') app.addHook('onSend', async () => undefined) }
    })
    const other = await gateway.connect()
    let asked = 0
    const roundTrip = async () => {
      asked++
      const at = other.received.length
      other.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
      await other.response(at)
    }
    const { socket } = await connectTo(t, gateway.port)
    let read = 0
    socket.removeAllListeners('data').on('data', chunk => { read += chunk.length })
    socket.write('GET /huge HTTP/1.1\r\nHost: g\r\n\r\n')
    await until(() => read > 0)
    socket.pause()
    const taken = await standsStill(() => backend.written.bytes, roundTrip)
    t.ok(taken < HUGE / 2, `${way}: the backend stands still after ${Math.round(taken / MEGABYTE)} MB, over ${asked} other requests`)
    t.equal(gateway.app.proxy.getMetrics().inFlight, 1)
    socket.resume()
    await until(() => gateway.app.proxy.getMetrics().inFlight === 0 && read >= HUGE)
    t.equal(backend.written.bytes, HUGE, 'all has come after all')
    socket.destroy()
  }
})

t.test('a backend that stops reading stops the upload, and one that reads on has all', async t => {
  for (const framing of ['length', 'chunks']) {
    let upload: IncomingMessage | undefined
    let received = 0
    const backend = await httpBackend(t, (request, response) => {
      if (request.method !== 'POST') {
        response.end('ok')
        return
      }
      upload = request.on('data', chunk => { received += chunk.length }).on('end', () => response.end(String(received))).pause()
    })
    const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] })
    const other = await gateway.connect()
    const roundTrip = async () => {
      const at = other.received.length
      other.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
      await other.response(at)
    }
    const client = await gateway.connect()
    const written = { bytes: 0 }
    if (framing === 'length') {
      client.send(`POST / HTTP/1.1\r\nHost: g\r\nContent-Length: ${HUGE}\r\n\r\n`)
      pour(client.socket, HUGE, written)
    } else {
      client.send(`POST / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n${HUGE.toString(16)}\r\n`)
      pour(client.socket, HUGE, written)
    }
    await until(() => upload !== undefined)
    const taken = await standsStill(() => written.bytes, roundTrip)
    t.ok(taken < HUGE / 2, `with ${framing} the client stands still after ${Math.round(taken / MEGABYTE)} MB`)
    upload?.resume()
    await until(() => written.bytes === HUGE)
    if (framing === 'chunks') client.send('\r\n0\r\n\r\n')
    t.equal((await client.response()).body, String(HUGE), 'all has come after all')
    client.close()
  }
})

t.test('a body much larger than Fastify\'s limit passes', async t => {
  const { client } = await echo(t)
  const body = bytes(3 * MEGABYTE)
  client.send(`POST /api/ HTTP/1.1\r\nHost: g\r\nContent-Length: ${body.length}\r\nContent-Type: application/json\r\n\r\n`).send(body)
  t.equal((await client.response()).body, `POST / HTTP/1.1|${body.length}|${sha(body)}`)
})

t.test('a body that a preParsing hook has put through a stream is sent as that stream gives it', async t => {
  const backend = await rawBackend(t, request => ok(request.body))
  const gateway = await startGateway(t, {
    backends: [backend.url],
    routes: [{
      prefix: '/route',
      preParsing: (_request, _reply, payload, done) => done(null, payload.pipe(upperCase()))
    }]
  }, {
    setup: app => app.register(async scope => {
      scope.register(passthrough)
      scope.addHook('preParsing', async (_request, _reply, payload) => payload.pipe(upperCase()))
      scope.post('/scope', (request, reply) => { scope.proxy.forward(request, reply) })
    })
  })
  for (const [i, path] of ['/route', '/scope'].entries()) {
    for (const [j, framing] of ['Content-Length: 8\r\n\r\nin small', 'Transfer-Encoding: chunked\r\n\r\n8\r\nin small\r\n0\r\n\r\n'].entries()) {
      const client = await gateway.connect()
      client.send(`POST ${path} HTTP/1.1\r\nHost: g\r\nContent-Type: text/plain\r\n${framing}`)
      const response = await client.response()
      t.equal(response.body, '<IN SMALL>', `${path} with ${framing.slice(0, 14)}`)
      // The stream's length is not that of what came, so it must not be promised.
      t.strictSame(backend.requests[i * 2 + j].values('content-length'), [])
      client.send(`POST ${path} HTTP/1.1\r\nHost: g\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nnext`)
      t.equal((await client.response(response.length)).body, '<NEXT>')
    }
  }

  function upperCase (): Transform {
    let first = true
    return new Transform({
      transform (chunk, _encoding, done) {
        this.push(first ? '<' : '')
        first = false
        done(null, chunk.toString().toUpperCase())
      },
      flush (done) { done(null, '>') }
    })
  }
})

t.test('a preParsing hook that only watches changes neither bytes nor order', async t => {
  const backend = await rawBackend(t, request => ok(sha(request.body)))
  const gateway = await startGateway(t, {
    backends: [backend.url],
    routes: [{ prefix: '/', preParsing: (_request, _reply, payload, done) => done(null, payload.pipe(new PassThrough())) }]
  })
  const client = await gateway.connect()
  const body = bytes(700_000)
  client.send(`POST / HTTP/1.1\r\nHost: g\r\nContent-Length: ${body.length}\r\n\r\n`).send(body)
  t.equal((await client.response()).body, sha(body))
  t.equal(backend.requests.length, 1)
})
