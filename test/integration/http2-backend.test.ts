import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { constants, type ServerHttp2Stream } from 'node:http2'
import { createServer as createHttpsServer, type Server as HttpsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { MockAgent } from 'undici'
import type { RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type Gateway, type GatewaySetup } from '../helpers/app.ts'
import { http2Backend, type Http2Call } from '../helpers/http2-backend.ts'
import { CANCEL, data, END_STREAM, ENHANCE_YOUR_CALM, frameBackend, goaway, head, INTERNAL_ERROR, NO_ERROR, PROTOCOL_ERROR, REFUSED_STREAM, reset, type FrameBackend, type FramePeer } from '../helpers/http2-frames.ts'
import { rawBackend, until } from '../helpers/wire.ts'

const LIMIT = { timeout: 10_000 }
const folder = mkdtempSync(join(tmpdir(), 'rockstar-proxy-h2-'))
t.teardown(() => rmSync(folder, { recursive: true }))
execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2',
  '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost',
  '-keyout', join(folder, 'key.pem'), '-out', join(folder, 'cert.pem')], { stdio: 'ignore' })
const key = readFileSync(join(folder, 'key.pem'))
const cert = readFileSync(join(folder, 'cert.pem'))

const sha = (content: string | Buffer) => createHash('sha256').update(content).digest('hex')

async function start (t: Test, url: string, options: RockstarProxyOptions = {}, setup?: GatewaySetup): Promise<Gateway> {
  return await startGateway(t, { http2: true, backends: [{ id: 'b', url }], routes: [{ prefix: '/' }], ...options }, setup)
}

function pool ({ app }: Gateway) {
  return app.proxy.getConnectionPool().stats()
}

/** A request, and its answer taken apart. */
async function ask (gateway: Gateway, request: string, method = 'GET') {
  const client = await gateway.connect()
  client.send(request)
  const response = await client.response(0, method)
  client.close()
  return response
}

const GET = 'GET /a HTTP/1.1\r\nHost: gateway\r\n\r\n'
const POST = 'POST /a HTTP/1.1\r\nHost: gateway\r\nContent-Length: 4\r\n\r\nbody'

/** Resolves when all is over, and says whether the numbers agree. */
async function settled (t: Test, gateway: Gateway): Promise<void> {
  await until(() => gateway.app.proxy.getMetrics().inFlight === 0 && pool(gateway).active === 0)
  const { totalRequests, successfulRequests, failedRequests, abortedRequests } = gateway.app.proxy.getMetrics()
  t.equal(totalRequests, successfulRequests + failedRequests + abortedRequests)
}

t.test('a request is told in the words of HTTP/2', LIMIT, async t => {
  const backend = await http2Backend(t, ({ stream }) => { stream.respond({ ':status': 200 }, { endStream: true }) })
  const gateway = await start(t, `${backend.url}/base`)
  const rawOf = () => backend.calls.at(-1)?.raw as string[]
  const fieldsOf = (name: string) => rawOf().filter((_, i, raw) => i % 2 === 1 && raw[i - 1] === name)

  await ask(gateway, 'POST /a%20b?c=%2F HTTP/1.1\r\nHost: front.example\r\nX-Own: Kept\r\nX-Twice: 1\r\nX-Other: o\r\nx-twice: 2\r\nX-Latin: \xe4\xff\r\n' +
    'Cookie: a=1\r\nCookie: b=2\r\nConnection: close, X-Secret, TE\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: a\r\nTE: trailers, deflate\r\nIf-None-Match: "a"\r\nIf-None-Match: "b"\r\nContent-Length: 2\r\n\r\nab')
  t.strictSame(rawOf().slice(0, 8), [':method', 'POST', ':scheme', 'http', ':authority', `127.0.0.1:${backend.port}`, ':path', '/base/a%20b?c=%2F'])
  t.strictSame(rawOf().filter((text, i) => i % 2 === 0 && text !== text.toLowerCase()), [], 'names are in lower case')
  t.strictSame(fieldsOf('x-own'), ['Kept'])
  t.strictSame(fieldsOf('x-twice'), ['1', '2'])
  t.strictSame(fieldsOf('x-latin'), ['\xe4\xff'], 'byte by byte')
  t.equal(fieldsOf('cookie').join('; '), 'a=1; b=2')
  t.strictSame(fieldsOf('te'), ['trailers'])
  t.strictSame(fieldsOf('if-none-match'), ['"a", "b"'])
  t.strictSame(fieldsOf('content-length'), ['2'])
  t.strictSame(fieldsOf('via'), ['1.1 rockstar-proxy'])
  t.strictSame(fieldsOf('x-forwarded-host'), ['front.example'])
  for (const gone of ['connection', 'keep-alive', 'proxy-connection', 'transfer-encoding', 'upgrade', 'host', 'x-secret']) t.strictSame(fieldsOf(gone), [], gone)

  await ask(gateway, 'POST /a HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n')
  t.strictSame(fieldsOf('transfer-encoding'), [])
  for (const method of ['GET', 'DELETE', 'OPTIONS', 'PATCH', 'PUT']) {
    await ask(gateway, `${method} /a HTTP/1.1\r\nHost: g\r\n\r\n`)
    t.equal(backend.calls.at(-1)?.headers[':method'], method)
    t.equal(backend.calls.at(-1)?.stream.endAfterHeaders, true, 'there is no body')
  }
})

t.test('preserveHost is told as the authority, and * as the path', LIMIT, async t => {
  const backend = await http2Backend(t, ({ stream }) => { stream.respond({ ':status': 200 }, { endStream: true }) })
  const gateway = await start(t, backend.url, { preserveHost: true })
  await ask(gateway, 'GET /a HTTP/1.1\r\nHost: front.example:81\r\n\r\n')
  t.equal(backend.calls[0].headers[':authority'], 'front.example:81')
  t.equal('host' in backend.calls[0].headers, false)
  await ask(gateway, 'OPTIONS * HTTP/1.1\r\nHost: front.example\r\n\r\n')
  t.equal(backend.calls[1]?.headers[':path'], '*')
})

t.test('a request that HTTP/2 cannot say is the client\'s fault, and the backend is not blamed', LIMIT, async t => {
  const backend = await http2Backend(t, ({ stream }) => { stream.respond({ ':status': 200 }, { endStream: true }) })
  const gateway = await start(t, backend.url, { retry: {} })
  const response = await ask(gateway, 'GET /a HTTP/1.1\r\nHost: g\r\nReferer: a\r\nReferer: b\r\n\r\n')
  t.equal(response.status, 400)
  t.match(JSON.parse(response.body), { code: 'FST_ROCKSTAR_BAD_REQUEST', message: /HTTP\/2 does not allow one of its headers$/ })
  t.match(gateway.app.proxy.getMetrics().backends.b, { failedRequests: 0, abortedRequests: 1 })
  t.equal((await ask(gateway, GET)).status, 200)
  t.equal(backend.calls.length, 1)
})

t.test('an answer comes in the words of HTTP/1.1', LIMIT, async t => {
  let answer: (call: Http2Call) => void = () => {}
  const backend = await http2Backend(t, call => answer(call))
  const gateway = await start(t, backend.url)

  answer = ({ stream }) => {
    stream.additionalHeaders({ ':status': 100 })
    stream.additionalHeaders({ ':status': 103, link: '</a>' })
    stream.respond({ ':status': 203, 'set-cookie': ['a=1', 'b=\xe4', 'c=3'], 'x-own': 'kept' })
    stream.end('hello')
  }
  const client = await gateway.connect()
  client.send(GET)
  await client.receive('0\r\n\r\n')
  const [interim, final] = client.received.split(/(?=HTTP\/1\.1 203)/)
  t.equal(interim, 'HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n', '100 is swallowed')
  t.match(final, /^HTTP\/1\.1 203 Non-Authoritative Information\r\nset-cookie: a=1\r\nset-cookie: b=\xe4\r\nset-cookie: c=3\r\nx-own: kept\r\n/)
  t.match(final, '\r\nVia: 2 rockstar-proxy\r\n')
  t.match(final, '\r\n\r\n5\r\nhello\r\n0\r\n\r\n')

  answer = ({ stream }) => { stream.respond({ ':status': 299, 'content-length': '5' }); stream.end('hello') }
  t.match(await ask(gateway, GET), { startLine: 'HTTP/1.1 299 ', body: 'hello', chunked: false })
  answer = ({ stream }) => { stream.respond({ ':status': 200, 'content-length': '5' }, { endStream: true }) }
  t.match(await ask(gateway, GET.replace('GET', 'HEAD'), 'HEAD'), { status: 200, body: '' })
  for (const status of [204, 304]) {
    answer = ({ stream }) => { stream.respond({ ':status': status, etag: '"a"' }) }
    t.match(await ask(gateway, GET), { status, body: '' })
  }
  answer = ({ stream }) => {
    stream.respond({ ':status': 200 }, { waitForTrailers: true })
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-sum': 'abc' }))
    stream.end('hello')
  }
  t.match(await ask(gateway, GET.replace('\r\n\r\n', '\r\nTE: trailers\r\nConnection: TE\r\n\r\n')), { body: 'hello', trailers: [['x-sum', 'abc']] })
  t.match(await ask(gateway, GET), { body: 'hello', trailers: [] }, 'trailers come only to one that takes them')
  await settled(t, gateway)
  t.match(pool(gateway), { total: 1, connects: 1 })
})

t.test('trailers of a request follow its body', LIMIT, async t => {
  const seen: object[] = []
  const backend = await http2Backend(t, ({ stream }) => {
    stream.on('trailers', trailers => seen.push(Object.fromEntries(Object.entries(trailers))))
    stream.resume().on('end', () => stream.respond({ ':status': 200 }, { endStream: true }))
  })
  const gateway = await start(t, backend.url)
  const chunked = 'POST /a HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n'
  t.equal((await ask(gateway, `${chunked}X-Sum: abc\r\nX-Latin: \xe4\r\nX-Sum: def\r\nHost: other\r\nVia: x\r\nTE: x\r\n\r\n`)).status, 200)
  t.strictSame(seen, [{ 'x-sum': 'abc, def', 'x-latin': '\xe4' }], 'but for those that frame and route')
  t.equal((await ask(gateway, `${chunked}\r\n`)).status, 200)
  t.equal(seen.length, 1)
})

t.test('bodies of every size pass both ways, exactly', LIMIT, async t => {
  const backend = await http2Backend(t, ({ stream, headers }) => {
    stream.respond({ ':status': 200, ...(headers['content-length'] === undefined ? {} : { 'content-length': headers['content-length'] }) })
    stream.pipe(stream)
  })
  const gateway = await start(t, backend.url)
  for (const size of [1, 1_000, 16_384, 65_535, 65_536, 65_537, 262_144, 3_000_000]) {
    const content = randomBytes(size).toString('latin1')
    for (const framing of [`Content-Length: ${size}\r\n\r\n${content}`, `Transfer-Encoding: chunked\r\n\r\n${size.toString(16)}\r\n${content}\r\n0\r\n\r\n`]) {
      const { status, body } = await ask(gateway, `POST /a HTTP/1.1\r\nHost: g\r\n${framing}`)
      t.equal(status, 200)
      t.equal(sha(body), sha(content), `${size} bytes`)
    }
  }
  await settled(t, gateway)
  t.equal(pool(gateway).connects, 1)
})

t.test('many clients share few connections', LIMIT, async t => {
  const backend = await http2Backend(t, ({ stream, headers }) => {
    stream.respond({ ':status': 200 })
    stream.end(headers[':path'])
  })
  const gateway = await start(t, backend.url, { pool: { maxConcurrentStreams: 50 } })
  const answers = await Promise.all(Array.from({ length: 150 }, (_, i) => ask(gateway, `GET /${i} HTTP/1.1\r\nHost: g\r\n\r\n`)))
  t.ok(answers.every(({ status, body }, i) => status === 200 && body === `/${i}`))
  t.ok(backend.sessions.length <= 3, `${backend.sessions.length} connections`)
})

t.test('a slow client holds the backend back, in the window of its stream', LIMIT, async t => {
  let sent = 0
  const backend = await http2Backend(t, ({ stream, headers }) => {
    stream.respond({ ':status': 200 })
    if (headers[':path'] === '/other') {
      stream.end('other')
      return
    }
    const write = () => {
      while (!stream.destroyed) {
        sent += 65_536
        if (!stream.write(Buffer.alloc(65_536))) {
          stream.once('drain', write)
          return
        }
      }
    }
    write()
  })
  const gateway = await start(t, backend.url)
  const slow = await gateway.connect()
  slow.socket.pause()
  slow.send(GET)
  // Until nothing moves any more.
  let before = -1
  let turns = 0
  await until(() => {
    if (turns++ % 200 !== 0 || sent === 0) return false
    const still = before === sent
    before = sent
    return still
  })
  t.ok(sent < 16_000_000, `${sent} bytes: what two sockets and a window hold`)
  t.equal((await ask(gateway, 'GET /other HTTP/1.1\r\nHost: g\r\n\r\n')).body, 'other', 'and nobody else')
  slow.socket.resume()
  await until(() => sent > before + 1_000_000)
  slow.close()
  await settled(t, gateway)
})

t.test('a slow backend holds the client back', LIMIT, async t => {
  let stream: ServerHttp2Stream | undefined
  const backend = await http2Backend(t, call => {
    stream = call.stream
    stream.pause()
  })
  const gateway = await start(t, backend.url)
  const client = await gateway.connect()
  client.send('POST /a HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n')
  let written = 0
  const chunk = `10000\r\n${'x'.repeat(65_536)}\r\n`
  while (client.socket.writableLength < 1_000_000 && written < 200_000_000) {
    client.send(chunk)
    written += 65_536
    for (let i = 0; i < 5; i++) await new Promise(resolve => setImmediate(resolve))
  }
  t.ok(written < 50_000_000, `${written} bytes`)
  let taken = 0
  stream?.on('data', bytes => { taken += bytes.length })
  stream?.resume()
  client.send('0\r\n\r\n')
  await until(() => taken === written)
  stream?.respond({ ':status': 200 })
  stream?.end('done')
  t.equal((await client.response()).body, 'done')
})

t.test('a client that goes away has its stream reset, and no other', LIMIT, async t => {
  for (const when of ['before the answer', 'in the answer', 'in its body']) {
    const backend = await frameBackend(t)
    const gateway = await start(t, backend.url)
    const other = await gateway.connect()
    other.send(GET)
    await until(() => backend.streams.length === 1)
    const client = await gateway.connect()
    client.send(when === 'in its body' ? 'POST /a HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n' : GET)
    await until(() => backend.streams.length === 2)
    const [peer] = backend.peers
    if (when === 'in the answer') {
      peer.send(head(3, 200), data(3, 'half'))
      await client.receive('half')
    }
    if (when === 'in its body') await until(() => peer.content(3) === 'half')
    client.reset()
    await until(() => peer.resetCode(3) === CANCEL)
    if (when === 'in its body') t.equal(peer.whole(3), false, 'its body does not look whole')
    peer.send(head(1, 200, [['content-length', '2']]), data(1, 'ok', END_STREAM))
    t.equal((await other.response()).body, 'ok')
    await settled(t, gateway)
    t.match(gateway.app.proxy.getMetrics().backends.b, { failedRequests: 0, abortedRequests: 1 }, when)
  }
})

t.test('a backend that resets its stream', async t => {
  await t.test('before the answer gets its client 502', LIMIT, async t => {
    for (const [code, expected] of [[INTERNAL_ERROR, 'RESET'], [CANCEL, 'RESET'], [NO_ERROR, 'RESET'], [PROTOCOL_ERROR, 'BAD_RESPONSE'], [ENHANCE_YOUR_CALM, 'BAD_RESPONSE']] as const) {
      const backend = await frameBackend(t, (peer, id) => { peer.send(reset(id, code)) })
      const gateway = await start(t, backend.url)
      for (const request of [GET, POST]) {
        const response = await ask(gateway, request)
        t.match([response.status, JSON.parse(response.body).code], [502, `FST_ROCKSTAR_${expected}`])
      }
      await settled(t, gateway)
      t.equal(gateway.app.proxy.getMetrics().backends.b.failedRequests, 2)
      t.equal(backend.peers.length, 1, 'on the same session')
    }
  })

  await t.test('in the answer has it cut short', LIMIT, async t => {
    for (const length of ['', '9']) {
      for (const code of [INTERNAL_ERROR, CANCEL, NO_ERROR, REFUSED_STREAM]) {
        const backend = await frameBackend(t, (peer, id) => { peer.send(head(id, 200, length === '' ? [] : [['content-length', length]]), data(id, 'half')) })
        const gateway = await start(t, backend.url, { retry: {} })
        const client = await gateway.connect()
        client.send(GET)
        await client.receive('half')
        backend.peers[0].send(reset(1, code))
        await until(() => client.closed || client.ended)
        t.notMatch(client.received, '\r\n0\r\n', `${length} ${code}`)
        t.equal(client.received.match(/HTTP\/1\.1 /g)?.length, 1)
        t.equal(backend.streams.length, 1)
        await settled(t, gateway)
        t.equal(gateway.app.proxy.getMetrics().failedRequests, 1)
      }
    }
  })

  await t.test('or dies with its connection: the same', LIMIT, async t => {
    for (const half of [false, true]) {
      const backend = await frameBackend(t, (peer, id) => { if (half) peer.send(head(id, 200), data(id, 'half')); else peer.socket.resetAndDestroy() })
      const gateway = await start(t, backend.url)
      const client = await gateway.connect()
      client.send(POST)
      if (half) {
        await client.receive('half')
        backend.peers[0].socket.resetAndDestroy()
        await until(() => client.closed || client.ended)
        t.notMatch(client.received, '\r\n0\r\n')
      } else t.equal(JSON.parse((await client.response()).body).code, 'FST_ROCKSTAR_RESET')
      await settled(t, gateway)
    }
  })
})

t.test('what a backend has not processed is sent again, whatever its method', async t => {
  const ways: [string, boolean, (peer: FramePeer, id: number) => void][] = [
    ['a refused stream', false, (peer, id) => peer.send(reset(id, REFUSED_STREAM))],
    ['a GOAWAY', true, (peer, id) => peer.send(goaway(Math.max(0, id - 2)))],
    ['a GOAWAY with an error', true, (peer, id) => peer.send(goaway(Math.max(0, id - 2), ENHANCE_YOUR_CALM))]
  ]
  const requests: [string, string][] = [
    ['GET', GET],
    ['POST', POST],
    ['POST in chunks', 'POST /a HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n'],
    ['PATCH without a body', 'PATCH /a HTTP/1.1\r\nHost: g\r\n\r\n']
  ]
  const answered = (peer: FramePeer, id: number) => { peer.send(head(id, 200, [['content-length', '2']]), data(id, 'ok', END_STREAM)) }

  for (const [name, leaving, refuse] of ways) {
    await t.test(`${name}: to another backend, or the same`, LIMIT, async t => {
      for (const [method, request] of requests) {
        for (const count of leaving ? [1] : [1, 2]) {
          const backends: FrameBackend[] = []
          let refused = false
          for (let i = 0; i < count; i++) {
            backends.push(await frameBackend(t, (peer, id) => {
              if (!refused) refuse(peer, id)
              else answered(peer, id)
              refused = true
            }))
          }
          const gateway = await start(t, '', { backends: backends.map(({ url }, i) => ({ id: `b${i}`, url })), retry: { backoff: { base: 1 } } })
          const response = await ask(gateway, request)
          t.equal(response.body, 'ok', `${method}, ${count}`)
          const all = backends.flatMap(({ streams }) => streams)
          t.equal(all.length, 2)
          t.equal(gateway.app.proxy.getMetrics().totalRetries, 1)
          if (request.includes('body')) for (const { peer, id } of all.slice(1)) t.equal(peer.content(id), 'body')
          await settled(t, gateway)
          const { backends: counted } = gateway.app.proxy.getMetrics()
          t.equal(Object.values(counted).reduce((sum, { failedRequests }) => sum + failedRequests, 0), leaving ? 0 : 1, 'who closes a connection in good order is not to blame')
        }
      }
    })
  }

  await t.test('a refused POST whose body is still coming is sent again from its beginning', LIMIT, async t => {
    const backend = await frameBackend(t)
    const gateway = await start(t, backend.url, { retry: { backoff: { base: 1 } } })
    const client = await gateway.connect()
    client.send('POST /a HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n')
    await until(() => backend.peers[0]?.content(1) === 'half')
    backend.peers[0].send(reset(1, REFUSED_STREAM))
    await until(() => backend.streams.length === 2)
    client.send('5\r\nwhole\r\n0\r\n\r\n')
    const { peer, id } = backend.streams[1]
    await until(() => peer.whole(id))
    t.equal(peer.content(id), 'halfwhole')
    answered(peer, id)
    t.equal((await client.response()).body, 'ok')
    t.equal(peer.whole(1), false)
  })

  await t.test('not when more of it was sent than is kept', LIMIT, async t => {
    const backend = await frameBackend(t, () => {})
    const gateway = await start(t, backend.url, { retry: { maxBodySize: 1_000 } })
    const client = await gateway.connect()
    client.send(`POST /a HTTP/1.1\r\nHost: g\r\nContent-Length: 100000\r\n\r\n${'x'.repeat(50_000)}`)
    await until(() => backend.peers[0]?.content(1).length === 50_000)
    backend.peers[0].send(reset(1, REFUSED_STREAM))
    t.match(JSON.parse((await client.response()).body), { code: 'FST_ROCKSTAR_CONNECT' })
    t.equal(backend.streams.length, 1)
  })

  await t.test('by GOAWAY also where there are no retries; by a refusal not', LIMIT, async t => {
    for (const [name, leaving, refuse] of ways) {
      const backend = await frameBackend(t, (peer, id, nth) => { if (nth === 0) refuse(peer, id); else answered(peer, id) })
      const gateway = await start(t, backend.url, { retry: false })
      t.equal((await ask(gateway, POST)).status, leaving ? 200 : 502, name)
    }
  })

  await t.test('a backend that does nothing else is asked three times at the most', LIMIT, async t => {
    const backend = await frameBackend(t, (peer, id) => { peer.send(goaway(Math.max(0, id - 2))) })
    const gateway = await start(t, backend.url, { retry: false })
    t.equal((await ask(gateway, POST)).status, 502)
    t.equal(backend.streams.length, 3)
    t.equal(gateway.app.proxy.getMetrics().backends.b.failedRequests, 1)
  })

  await t.test('what it has processed is finished, and other requests lose nothing', LIMIT, async t => {
    const backend = await http2Backend(t, ({ stream }) => {
      stream.respond({ ':status': 200 })
      stream.write('half')
    })
    const gateway = await start(t, backend.url)
    const clients = await Promise.all(Array.from({ length: 5 }, () => gateway.connect()))
    for (const client of clients) client.send(GET)
    for (const client of clients) await client.receive('half')
    backend.sessions[0].close()
    const late = await Promise.all(Array.from({ length: 5 }, () => gateway.connect()))
    for (const client of late) client.send(POST)
    for (const client of late) await client.receive('half')
    t.equal(backend.sessions.length, 2)
    for (const { stream } of backend.calls) stream.end('whole')
    for (const client of [...clients, ...late]) await client.receive('whole\r\n0\r\n\r\n')
    await until(() => backend.sessions[0].destroyed)
    await settled(t, gateway)
    t.equal(gateway.app.proxy.getMetrics().failedRequests, 0)
  })
})

t.test('a session that dies unheard of: what may be repeated is sent again, the rest is not', LIMIT, async t => {
  for (const [request, status] of [[GET, 200], [POST, 502]] as const) {
    const backend = await frameBackend(t, (peer, id, nth) => {
      if (nth === 1) peer.socket.resetAndDestroy()
      else peer.send(head(id, 200, [], END_STREAM))
    })
    const gateway = await start(t, backend.url)
    t.equal((await ask(gateway, GET)).status, 200)
    t.equal((await ask(gateway, request)).status, status)
    t.equal(backend.streams.length, status === 200 ? 3 : 2)
    await settled(t, gateway)
    t.equal(gateway.app.proxy.getMetrics().backends.b.failedRequests, status === 200 ? 0 : 1)
  }
})

t.test('a backend that is too slow is given up, and its stream reset', LIMIT, async t => {
  const backend = await frameBackend(t)
  const gateway = await start(t, backend.url, { timeout: { headers: 30 } })
  t.match(JSON.parse((await ask(gateway, GET)).body), { code: 'FST_ROCKSTAR_TIMEOUT' })
  await until(() => backend.peers[0].resetCode(1) === CANCEL)
  t.equal(backend.peers[0].closed, false)
})

t.test('a backend with a URL of http: that knows no HTTP/2 cannot be connected to', LIMIT, async t => {
  const backend = await rawBackend(t, () => 'HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n')
  const gateway = await start(t, backend.url)
  const response = await ask(gateway, POST)
  t.equal(response.status, 502)
  t.equal(JSON.parse(response.body).code, 'FST_ROCKSTAR_CONNECT')
  t.ok(gateway.log.some(({ msg, err }) => msg === 'attempt failed' && JSON.stringify(err).includes('does not speak HTTP/2')), 'the log says why')
})

// TLS

async function https1 (t: Test, seen: string[], options: object = {}): Promise<{ url: string, server: HttpsServer, connections: () => number }> {
  let connections = 0
  const server = createHttpsServer({ key, cert, ...options }, (request, response) => {
    seen.push(`${request.httpVersion} ${request.url}`)
    response.end('one')
  })
  server.on('connection', () => { connections++ })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => new Promise<void>(resolve => {
    server.close(() => resolve())
    server.closeAllConnections()
  }))
  return { url: `https://localhost:${(server.address() as AddressInfo).port}`, server, connections: () => connections }
}

const two = ({ stream, headers }: Http2Call) => {
  stream.respond({ ':status': 200, 'x-scheme': headers[':scheme'] })
  stream.end('two')
}

t.test('by TLS, true wants HTTP/2 and auto takes what ALPN agrees on', LIMIT, async t => {
  const trust = { pool: { tls: { ca: cert } } }
  for (const http2 of [true, 'auto'] as const) {
    for (const allowHTTP1 of [false, true]) {
      const backend = await http2Backend(t, two, { key, cert, allowHTTP1 })
      const gateway = await start(t, backend.url, { http2, ...trust })
      for (let i = 0; i < 3; i++) t.match(await ask(gateway, GET), { status: 200, body: 'two' })
      t.equal((await ask(gateway, GET)).values('x-scheme')[0], 'https')
      t.match(pool(gateway), { connects: 1, requests: 4, reuseRatio: 0.75 }, 'on one connection')
      t.equal(backend.sessions[0].alpnProtocol, 'h2')
    }
  }
  for (const options of [{}, { ALPNProtocols: ['http/1.1'] }]) {
    const seen: string[] = []
    const backend = await https1(t, seen, options)
    const strict = await start(t, backend.url, { http2: true, ...trust })
    const response = await ask(strict, GET)
    t.equal(response.status, 502)
    t.equal(JSON.parse(response.body).code, 'FST_ROCKSTAR_CONNECT')
    t.ok(strict.log.some(({ msg, err }) => msg === 'attempt failed' && /does not speak HTTP\/2|NO_APPLICATION_PROTOCOL/.test(JSON.stringify(err))), 'the log says why')
    t.strictSame(seen, [])
    const before = backend.connections()
    const auto = await start(t, backend.url, { http2: 'auto', ...trust })
    const client = await auto.connect()
    for (let i = 0, at = 0; i < 3; i++) {
      client.send(GET)
      const answer = await client.response(at)
      t.equal(answer.body, 'one')
      at += answer.length
    }
    t.strictSame(seen, Array(3).fill('1.1 /a'))
    t.equal(backend.connections() - before, 1, 'the connection that was asked on is used')
    t.match(pool(auto), { total: 1, connects: 1, requests: 3 })
  }
})

t.test('auto: many at once find out together, and later ones do not wait', LIMIT, async t => {
  const seen: string[] = []
  const backend = await https1(t, seen)
  const gateway = await start(t, backend.url, { http2: 'auto', pool: { tls: { ca: cert }, connections: 5 } })
  const answers = await Promise.all(Array.from({ length: 30 }, () => ask(gateway, GET)))
  t.ok(answers.every(({ status, body }) => status === 200 && body === 'one'))
  t.ok(backend.connections() <= 5)
  await settled(t, gateway)
})

t.test('auto: what a backend speaks may change', LIMIT, async t => {
  const seen: string[] = []
  const first = await https1(t, seen)
  const { port } = first.server.address() as AddressInfo
  const gateway = await start(t, first.url, { http2: 'auto', pool: { tls: { ca: cert } } })
  t.equal((await ask(gateway, GET)).body, 'one')
  first.server.closeAllConnections()
  await new Promise<void>(resolve => first.server.close(() => resolve()))
  await until(() => pool(gateway).total === 0)
  const second = await http2Backend(t, two, { key, cert, allowHTTP1: true })
  second.server.close()
  await once(second.server, 'close')
  second.server.listen(port, '127.0.0.1')
  await once(second.server, 'listening')
  t.equal((await ask(gateway, GET)).body, 'two')
  t.equal((await ask(gateway, GET)).body, 'two')
  for (const session of second.sessions) session.destroy()
  await new Promise<void>(resolve => second.server.close(() => resolve()))
  await until(() => pool(gateway).total === 0)
  const third = createHttpsServer({ key, cert }, (_request, response) => { response.end('one again') })
  third.listen(port, '127.0.0.1')
  await once(third, 'listening')
  t.teardown(() => { third.close(); third.closeAllConnections() })
  t.equal((await ask(gateway, GET)).body, 'one again')
})

t.test('auto: without TLS it is HTTP/1.1', LIMIT, async t => {
  const backend = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok')
  const gateway = await start(t, backend.url, { http2: 'auto' })
  t.equal((await ask(gateway, GET)).body, 'ok')
})

t.test('upgrades go over HTTP/1.1 all the same', LIMIT, async t => {
  for (const http2 of [true, 'auto'] as const) {
    const backend = await http2Backend(t, two, { key, cert, allowHTTP1: true })
    backend.server.on('upgrade', (_request, socket) => {
      socket.on('error', () => {})
      socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello')
      socket.pipe(socket)
    })
    const gateway = await start(t, backend.url, { http2, pool: { tls: { ca: cert } } })
    t.equal((await ask(gateway, GET)).body, 'two')
    const client = await gateway.connect()
    client.send('GET /ws HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n')
    await client.receive('hello')
    t.match(client.received, /^HTTP\/1\.1 101 /)
    client.send('echo')
    await client.receive('echo')
    t.equal((await ask(gateway, GET)).body, 'two')
    t.equal(backend.calls.length, 2)
    client.close()
  }
})

// Options

t.test('each backend may have it otherwise', LIMIT, async t => {
  const http1 = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none')
  const http2 = await http2Backend(t, two)
  for (const [upstream, backends] of [
    [true, [{ id: 'a', url: http1.url, http2: false }, { id: 'b', url: http2.url }]],
    [undefined, [{ id: 'a', url: http1.url }, { id: 'b', url: http2.url, http2: true }]]
  ] as const) {
    const gateway = await startGateway(t, { http2: upstream, backends: [...backends], routes: [{ prefix: '/' }] })
    t.strictSame([(await ask(gateway, GET)).body, (await ask(gateway, GET)).body], ['one', 'two'])
  }
})

t.test('other values are refused, and so is http2 beside a dispatcher that would not heed it', LIMIT, async t => {
  for (const http2 of ['yes', 1, null, {}, 'AUTO']) {
    await t.rejects(startGateway(t, { http2: http2 as never }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /http2 must be a boolean or 'auto', and is / })
    await t.rejects(startGateway(t, { backends: [{ url: 'http://127.0.0.1:1', http2: http2 as never }] }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /http2/ })
  }
  const backends = ['http://127.0.0.1:1']
  await t.rejects(startGateway(t, { http2: true, backends, pool: { dispatcher: new MockAgent() } }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /http2 of backend '127\.0\.0\.1:1' must not stand beside options\.pool\.dispatcher/ })
  const own = { dispatcherFor: () => new MockAgent(), stats: () => ({}) as never, close: async () => {} }
  await t.rejects(startGateway(t, { http2: true, backends, pool: own }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /http2 of backend '127\.0\.0\.1:1' wants a pool that heeds it/ })
})

t.test('a pool put in the place of another lets the old sessions finish', LIMIT, async t => {
  const backend = await http2Backend(t, ({ stream }) => {
    stream.respond({ ':status': 200 })
    stream.write('half')
  })
  const gateway = await start(t, backend.url)
  const client = await gateway.connect()
  client.send(GET)
  await client.receive('half')
  gateway.app.proxy.setConnectionPool({ maxConcurrentStreams: 7 })
  const other = await gateway.connect()
  other.send(GET)
  await other.receive('half')
  t.equal(backend.sessions.length, 2)
  for (const { stream } of backend.calls) stream.end('whole')
  await client.receive('whole\r\n0\r\n\r\n')
  await other.receive('whole\r\n0\r\n\r\n')
  await until(() => backend.sessions[0].destroyed)
  t.equal(backend.sessions[1].destroyed, false)
})

t.test('health checks by HTTP speak HTTP/2 as well', LIMIT, async t => {
  for (const options of [{}, { key, cert }]) {
    const backend = await http2Backend(t, ({ stream, headers }) => { stream.respond({ ':status': headers[':path'] === '/health' ? 200 : 404 }, { endStream: true }) }, options)
    const gateway = await start(t, backend.url, { health: { path: '/health' }, pool: { tls: { ca: cert } } })
    await gateway.app.proxy.healthCheck()
    t.match(gateway.app.proxy.getHealthStatus().b, { isHealthy: true })
    t.ok(backend.calls.some(({ headers }) => headers[':path'] === '/health'))
  }
})

t.test('removing a backend ends its sessions', LIMIT, async t => {
  const backend = await http2Backend(t, two)
  const gateway = await start(t, backend.url)
  t.equal((await ask(gateway, GET)).body, 'two')
  await gateway.app.proxy.removeBackend('b')
  await until(() => backend.sessions[0].destroyed)
  t.equal(pool(gateway).total, 0)
})

t.test('a frame that Node cannot read does not take the process down', LIMIT, async t => {
  const backend = await frameBackend(t, (peer, id, nth) => {
    if (nth === 0) peer.socket.write(randomBytes(100_000))
    else peer.send(head(id, 200, [], END_STREAM))
  })
  const gateway = await start(t, backend.url, { timeout: { headers: 100 } })
  t.ok((await ask(gateway, GET)).status >= 502)
  t.equal(constants.NGHTTP2_NO_ERROR, NO_ERROR)
})
