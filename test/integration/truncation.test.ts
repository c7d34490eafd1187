import { createHash, randomBytes } from 'node:crypto'
import { connect as connectHttp2, constants, type ClientHttp2Session } from 'node:http2'
import t, { type Test } from 'tap'
import { startGateway } from '../helpers/app.ts'
import { connectTo, ok, parseMessage, rawBackend, until, type Wire } from '../helpers/wire.ts'

/** A test that hangs fails by itself, and lets the others run. */
const LIMIT = 15_000

/** What has arrived at the backend, by the number in the request's path. */
const carriers: (Wire | undefined)[] = []
const backend = await rawBackend(t, (request, wire) => { carriers[Number(request.startLine.split(/[ /]/)[2])] = wire })
const passOn = (_request: unknown, _reply: unknown, payload: unknown, done: (error: null, payload: unknown) => void) => done(null, payload)
const routes = [{ prefix: '/raw' }, { prefix: '/hooked', onSend: passOn }]
const gateway = await startGateway(t, { backends: [backend.url], routes }, {
  setup: app => {
    app.get('/handler/:answer', async (request, reply) => await request.server.proxy.forward(request, reply, { path: `/${(request.params as { answer: string }).answer}` }))
  }
})
const gateway2 = await startGateway(t, { backends: [backend.url], routes }, { fastify: { http2: true } })

const rejections: unknown[] = []
const onRejection = (reason: unknown) => { rejections.push(reason) }
process.on('unhandledRejection', onRejection)
t.teardown(() => process.off('unhandledRejection', onRejection))

/** The ways that an answer goes out by. */
const WAYS = ['raw', 'hooked', 'handler']

/** How a backend can leave in the middle of its answer. */
const LEAVINGS: [string, (wire: Wire) => unknown][] = [['a FIN', wire => wire.socket.end()], ['a RST', wire => wire.reset()]]

/** Sends a request and waits until it is at the backend. */
async function begin (t: Test, way: string, version = '1.1'): Promise<{ client: Wire, wire: Wire }> {
  const at = carriers.push(undefined) - 1
  const client = await connectTo(t, gateway.port)
  client.send(`GET /${way}/${at} HTTP/${version}\r\nHost: gateway\r\n\r\n`)
  await until(() => carriers[at] !== undefined)
  return { client, wire: carriers[at] as Wire }
}

/** What a backend has sent of its answer when it leaves, and what of it the client must have seen by then. */
const BEGINNINGS: { name: string, bytes: string, seen: string }[] = [
  { name: 'in the middle of a Content-Length', bytes: 'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome of it', seen: 'some of it' },
  { name: 'one byte before the end of a Content-Length', bytes: 'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\nsome of it', seen: 'some of it' },
  { name: 'before the first byte of a Content-Length', bytes: 'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n', seen: '\r\n\r\n' },
  { name: 'between two chunks', bytes: 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nsome of it\r\n', seen: 'some of it' },
  { name: 'in the middle of a chunk', bytes: 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nsome of it', seen: 'some of it' },
  { name: 'in a chunk\'s size', bytes: 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nsome of it\r\nf', seen: 'some of it' },
  { name: 'before the first chunk', bytes: 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n', seen: '\r\n\r\n' },
  { name: 'behind the last chunk, without its empty line', bytes: 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nsome of it\r\n0\r\n', seen: 'some of it' },
  { name: 'in the trailers', bytes: 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nsome of it\r\n0\r\nX-Sum: 1\r\n', seen: 'some of it' }
]

for (const way of WAYS) {
  t.test(`${way}: an answer cut short reaches the client as cut short`, async t => {
    for (const [how, leave] of LEAVINGS) {
      for (const { name, bytes, seen } of BEGINNINGS) {
        await t.test(`by ${how} ${name}`, { timeout: LIMIT }, async t => {
          const { client, wire } = await begin(t, way)
          wire.send(bytes)
          // The backend leaves only when the client has all that there is.
          await client.receive(seen)
          leave(wire)
          await until(() => client.ended || client.closed)
          t.match(client.received, /^HTTP\/1\.1 200 OK\r\n/)
          t.equal(parseMessage(client.received), null, 'what has come is not a whole response')
          t.notMatch(client.received.slice(5), /HTTP\/1\.1/, 'and no second one follows')
        })
      }

      await t.test(`by ${how} in the packet of the head`, { timeout: LIMIT }, async t => {
        for (const { bytes } of BEGINNINGS) {
          const { client, wire } = await begin(t, way)
          wire.send(bytes)
          leave(wire)
          await until(() => client.ended || client.closed || parseMessage(client.received) !== null)
          const whole = parseMessage(client.received)
          // A RST may have overtaken the head: then there is nothing to be cut short yet.
          if (whole !== null) t.equal(whole.status, 502)
          else t.ok(client.ended || client.closed)
        }
      })
    }

    await t.test('by a RST where the end of the connection would have been the end of it', { timeout: LIMIT }, async t => {
      for (const head of ['HTTP/1.1 200 OK\r\n\r\n', 'HTTP/1.0 200 OK\r\n\r\n', 'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n']) {
        const { client, wire } = await begin(t, way)
        wire.send(`${head}some of it`)
        await client.receive('some of it')
        wire.reset()
        await until(() => client.ended || client.closed || client.received.includes('\r\n0\r\n\r\n'))
        t.equal(parseMessage(client.received), null)
      }
    })

    await t.test('by chunks that are none', { timeout: LIMIT }, async t => {
      for (const nonsense of ['xyz\r\nmore\r\n', '-5\r\nmore\r\n', '5 5\r\nmore\r\n', 'ffffffffffffffffff\r\nmore\r\n', 'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmore']) {
        const { client, wire } = await begin(t, way)
        wire.send('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nsome of it\r\n')
        await client.receive('some of it')
        wire.send(nonsense)
        await until(() => client.ended || client.closed)
        t.equal(parseMessage(client.received), null, nonsense)
        await until(() => wire.closed)
      }
    })

    await t.test('by a chunk that is longer than it says', { timeout: LIMIT }, async t => {
      const { client, wire } = await begin(t, way)
      wire.send('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nsome of it\r\n0\r\n\r\n')
      await until(() => client.ended || client.closed || parseMessage(client.received) !== null)
      const whole = parseMessage(client.received)
      t.ok(whole === null || whole.status === 502)
    })

    await t.test('for an HTTP/1.0 client, for whom only a reset is no end', { timeout: LIMIT }, async t => {
      const { client, wire } = await begin(t, way, '1.0')
      wire.send('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nsome of it\r\n')
      await client.receive('some of it')
      wire.socket.end()
      await until(() => client.ended || client.closed)
      t.equal((client.error as NodeJS.ErrnoException | undefined)?.code, 'ECONNRESET')
    })

    await t.test('in the middle of a megabyte, all of which that came is there and exact', { timeout: LIMIT }, async t => {
      const content = randomBytes(500_000)
      const { client, wire } = await begin(t, way)
      wire.send('HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n').send(content)
      await until(() => client.received.length - client.received.indexOf('\r\n\r\n') - 4 >= content.length)
      wire.socket.end()
      await until(() => client.ended || client.closed)
      const received = Buffer.from(client.received.slice(client.received.indexOf('\r\n\r\n') + 4), 'latin1')
      const sha = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')
      t.equal(sha(received), sha(content))
    })
  })

  t.test(`${way}: a backend that leaves before its head is whole is 502`, async t => {
    for (const [how, leave] of LEAVINGS) {
      for (const bytes of ['', 'H', 'HTTP/1.1 2', 'HTTP/1.1 200 OK\r\n', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n', 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Half']) {
        await t.test(`by ${how} after ${JSON.stringify(bytes)}`, { timeout: LIMIT }, async t => {
          const { client, wire } = await begin(t, way)
          // A connection that was used before may be closed idle and is then tried again: this one is answered twice.
          const at = carriers.indexOf(wire)
          carriers[at] = undefined
          if (bytes !== '') wire.send(bytes)
          leave(wire)
          await until(() => client.received !== '' || carriers[at] !== undefined)
          if (carriers[at] !== undefined) leave((carriers[at] as Wire).send(bytes))
          const response = await client.response()
          t.equal(response.status, 502)
          t.equal(JSON.parse(response.body).code, 'FST_ROCKSTAR_RESET')
          t.notMatch(client.received, /127\.0\.0\.1/)
          t.notOk(client.ended, 'the client\'s connection is kept')
        })
      }
    }
  })

  t.test(`${way}: an answer cut short is logged as the backend's failure and counted as that`, { timeout: LIMIT }, async t => {
    const { failedRequests } = gateway.app.proxy.getMetrics()
    gateway.log.length = 0
    const { client, wire } = await begin(t, way)
    wire.send('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome')
    await client.receive('some')
    wire.socket.end()
    await until(() => client.ended)
    const lines = gateway.log.filter(({ msg }) => msg === 'attempt failed')
    t.equal(lines.length, 1)
    t.match(lines[0], { level: 40, stage: 'stream', culprit: 'backend', statusCode: 200, backend: `127.0.0.1:${backend.port}` })
    t.equal(gateway.app.proxy.getMetrics().failedRequests, failedRequests + 1)
  })
}

t.test('the end of the connection is the end of content without a length, and no cut', { timeout: LIMIT }, async t => {
  for (const way of WAYS) {
    const { client, wire } = await begin(t, way)
    wire.send('HTTP/1.1 200 OK\r\n\r\nall of it')
    await client.receive('all of it')
    wire.socket.end()
    t.equal((await client.response()).body, 'all of it')
  }
})

t.test('an awaited forward() fulfils after a cut, and the handler\'s end is no second answer', { timeout: LIMIT }, async t => {
  let settled = ''
  const other = await startGateway(t, { backends: [backend.url] }, {
    setup: app => {
      app.get('/:answer', async (request, reply) => {
        await request.server.proxy.forward(request, reply).then(() => { settled = 'fulfilled' }, () => { settled = 'rejected' })
        return { second: 'answer' }
      })
    }
  })
  const at = carriers.push(undefined) - 1
  const client = await connectTo(t, other.port)
  client.send(`GET /${at} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
  await until(() => carriers[at] !== undefined)
  carriers[at]?.send('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome')
  await client.receive('some')
  carriers[at]?.socket.end()
  await until(() => client.ended && settled !== '')
  t.equal(settled, 'fulfilled', 'there was an answer, such as it was')
  t.notMatch(client.received, /second/)
})

for (const way of ['raw', 'hooked']) {
  t.test(`${way}: an HTTP/2 client sees its stream reset, and its connection stays`, async t => {
    const session = await http2Session(t, gateway2.url)
    for (const [how, leave] of LEAVINGS) {
      for (const { name, bytes, seen } of BEGINNINGS) {
        await t.test(`by ${how} ${name}`, { timeout: LIMIT }, async t => {
          const at = carriers.push(undefined) - 1
          const stream = session.request({ ':path': `/${way}/${at}` })
          let received = ''
          let status = 0
          let error: unknown
          let closed = false
          stream.on('response', headers => { status = Number(headers[':status']) })
          stream.on('data', chunk => { received += chunk })
          stream.on('error', reason => { error = reason })
          stream.on('close', () => { closed = true })
          await until(() => carriers[at] !== undefined)
          carriers[at]?.send(bytes)
          await until(() => status !== 0 && (seen === '\r\n\r\n' || received.includes(seen)))
          leave(carriers[at] as Wire)
          await until(() => closed)
          t.equal(status, 200)
          t.not(stream.rstCode, constants.NGHTTP2_NO_ERROR, 'which would be a clean end')
          t.ok(error)
          t.notOk(session.destroyed)
        })
      }
    }
    await t.test('and the next request is answered', { timeout: LIMIT }, async t => {
      const at = carriers.push(undefined) - 1
      const stream = session.request({ ':path': `/${way}/${at}` })
      let received = ''
      stream.on('data', chunk => { received += chunk })
      await until(() => carriers[at] !== undefined)
      carriers[at]?.send(ok('next'))
      await new Promise(resolve => stream.on('end', resolve))
      t.equal(received, 'next')
    })
  })
}

async function http2Session (t: Test, url: string): Promise<ClientHttp2Session> {
  const session = connectHttp2(url)
  t.teardown(() => session.destroy())
  await new Promise((resolve, reject) => session.once('connect', resolve).once('error', reject))
  return session
}

t.test('none of all this was an unhandled rejection', async t => {
  t.same(rejections, [])
})
