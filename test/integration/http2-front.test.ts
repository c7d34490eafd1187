import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { connect as connectHttp2, constants, type ClientHttp2Session, type ClientHttp2Stream, type IncomingHttpHeaders, type OutgoingHttpHeaders } from 'node:http2'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect as connectTls } from 'node:tls'
import t, { type Test } from 'tap'
import { startGateway, type Gateway } from '../helpers/app.ts'
import { ok, rawBackend, until, Wire, type Message } from '../helpers/wire.ts'
import type { RockstarProxyOptions } from '../../types/index.ts'

/** A test that hangs fails by itself, and lets the others run. */
const LIMIT = 15_000

const folder = mkdtempSync(join(tmpdir(), 'rockstar-proxy-front-'))
t.teardown(() => rmSync(folder, { recursive: true }))
execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2',
  '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost',
  '-keyout', join(folder, 'key.pem'), '-out', join(folder, 'cert.pem')], { stdio: 'ignore' })
const key = readFileSync(join(folder, 'key.pem'))
const cert = readFileSync(join(folder, 'cert.pem'))

/** What the backend does with the next request; nothing when it only takes it. */
let answer: (request: Message, wire: Wire) => string | Buffer | void = () => ok()
const backend = await rawBackend(t, (request, wire) => answer(request, wire))

const passOn = (_request: unknown, _reply: unknown, payload: unknown, done: (error: null, payload: unknown) => void) => done(null, payload)
const routes = [{ prefix: '/raw' }, { prefix: '/hooked', onSend: passOn }]
/** The two ways that an answer goes out by. */
const WAYS = ['raw', 'hooked']

async function start (t: Test, fastify: Record<string, unknown>, options: RockstarProxyOptions = {}): Promise<Gateway> {
  return await startGateway(t, { backends: [backend.url], routes, ...options }, { fastify })
}

/** The connection to the backend on which such a text comes. */
async function carrierOf (text: string): Promise<Wire> {
  const carrier = () => backend.connections.find(({ received }) => received.includes(text))
  await until(() => carrier() !== undefined)
  return carrier() as Wire
}

const sha = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex')
const idle = (gateway: Gateway) => until(() => gateway.app.proxy.getConnectionPool().stats().active === 0)

// HTTPS

async function connectHttps (t: Test, gateway: Gateway, protocol = 'http/1.1'): Promise<Wire> {
  const socket = connectTls({ port: gateway.port, host: '127.0.0.1', ca: cert, servername: 'localhost', ALPNProtocols: [protocol] })
  t.teardown(() => socket.destroy())
  const wire = new Wire(socket)
  await once(socket, 'secureConnect')
  return wire
}

for (const [front, fastify] of [['HTTPS', { https: { key, cert } }], ['HTTP/2 that allows HTTP/1', { http2: true, https: { key, cert, allowHTTP1: true } }]] as const) {
  t.test(`an HTTP/1.1 client of an app on ${front}`, async t => {
    const gateway = await start(t, fastify)
    for (const way of WAYS) {
      await t.test(`${way}: gets its answer, and the backend is told of the scheme`, { timeout: LIMIT }, async t => {
        answer = () => ok('hello', 'X-Case: 1\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\n', '200 Sch\xf6n')
        const client = await connectHttps(t, gateway)
        client.send(`GET /${way}/a?b HTTP/1.1\r\nHost: localhost:1\r\n\r\n`)
        const response = await client.response()
        t.equal(response.startLine, 'HTTP/1.1 200 Sch\xf6n')
        t.same(response.fields.slice(0, 3), [['X-Case', '1'], ['Set-Cookie', 'a=1'], ['set-cookie', 'b=2']])
        t.equal(response.body, 'hello')
        const request = backend.requests.at(-1) as Message
        t.equal(request.startLine, 'GET /a?b HTTP/1.1')
        t.same(request.values('x-forwarded-proto'), ['https'])
        t.same(request.values('x-forwarded-host'), ['localhost:1'])
        t.match(request.values('forwarded')[0], /;proto=https$/)
      })

      await t.test(`${way}: bodies pass both ways, exactly`, { timeout: LIMIT }, async t => {
        const content = randomBytes(300_000)
        answer = request => Buffer.concat([Buffer.from(`HTTP/1.1 200 OK\r\nContent-Length: ${request.body.length}\r\n\r\n`), Buffer.from(request.body, 'latin1')])
        const client = await connectHttps(t, gateway)
        client.send(`POST /${way}/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${content.length}\r\n\r\n`).send(content)
        t.equal(sha(Buffer.from((await client.response()).body, 'latin1')), sha(content))
      })

      await t.test(`${way}: going away aborts the backend's request`, { timeout: LIMIT }, async t => {
        for (const beginning of ['', 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf']) {
          let carrier: Wire | undefined
          answer = (_request, wire) => {
            carrier = wire
            return beginning === '' ? undefined : beginning
          }
          const client = await connectHttps(t, gateway)
          client.send(`GET /${way}/a HTTP/1.1\r\nHost: localhost\r\n\r\n`)
          await until(() => carrier !== undefined && (beginning === '' || client.received.endsWith('half')))
          client.close()
          await until(() => carrier?.closed === true)
          await idle(gateway)
        }
        t.pass()
      })

      await t.test(`${way}: an answer cut short is cut short`, { timeout: LIMIT }, async t => {
        let carrier: Wire | undefined
        answer = (_request, wire) => {
          carrier = wire
          return 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n'
        }
        const client = await connectHttps(t, gateway)
        client.send(`GET /${way}/a HTTP/1.1\r\nHost: localhost\r\n\r\n`)
        await client.receive('half')
        carrier?.socket.end()
        await until(() => client.ended || client.closed)
        t.notMatch(client.received, /\r\n0\r\n\r\n$/)
      })
    }
  })
}

// HTTP/2

interface Answer {
  status: number
  headers: IncomingHttpHeaders
  informational: IncomingHttpHeaders[]
  trailers: IncomingHttpHeaders
  body: Buffer
  error: NodeJS.ErrnoException | undefined
}

async function connectSession (t: Test, gateway: Gateway): Promise<ClientHttp2Session> {
  const session = connectHttp2(gateway.app.server instanceof Object && 'setSecureContext' in gateway.app.server ? `https://localhost:${gateway.port}` : gateway.url, {
    ca: cert,
    lookup: (_name, options, callback) => {
      if ((options as { all?: boolean }).all === true) (callback as unknown as (error: null, all: object[]) => void)(null, [{ address: '127.0.0.1', family: 4 }])
      else callback(null, '127.0.0.1', 4)
    }
  })
  t.teardown(() => session.destroy())
  session.on('error', () => {})
  await once(session, 'connect')
  return session
}

/** Collects all that comes on a stream. */
function collect (stream: ClientHttp2Stream): { now: Answer, done: Promise<Answer> } {
  const chunks: Buffer[] = []
  const now: Answer = { status: 0, headers: {}, informational: [], trailers: {}, body: Buffer.alloc(0), error: undefined }
  stream.on('headers', headers => { now.informational.push(headers) })
  stream.on('response', headers => {
    now.status = Number(headers[':status'])
    now.headers = headers
  })
  stream.on('trailers', trailers => { now.trailers = trailers })
  stream.on('data', chunk => {
    chunks.push(chunk)
    now.body = Buffer.concat(chunks)
  })
  stream.on('error', error => { now.error = error })
  return { now, done: new Promise(resolve => stream.on('close', () => resolve(now))) }
}

async function ask (session: ClientHttp2Session, headers: OutgoingHttpHeaders, body?: string | Buffer): Promise<Answer> {
  const stream = session.request(headers, { endStream: body === undefined })
  const { done } = collect(stream)
  if (body !== undefined) stream.end(body)
  return await done
}

const FRONTS = [['without TLS', { http2: true }], ['with TLS', { http2: true, https: { key, cert, allowHTTP1: true } }]] as const

for (const [name, fastify] of FRONTS) {
  t.test(`an HTTP/2 client ${name}`, async t => {
    const gateway = await start(t, fastify)
    const session = await connectSession(t, gateway)
    const scheme = name === 'with TLS' ? 'https' : 'http'
    const authority = name === 'with TLS' ? `localhost:${gateway.port}` : `127.0.0.1:${gateway.port}`

    await t.test('is told of to the backend in the words of HTTP/1.1', { timeout: LIMIT }, async t => {
      answer = () => ok()
      t.equal((await ask(session, { ':path': '/raw/a%20b?c=%2F', 'x-own': 'kept', 'x-twice': ['1', '2'] })).status, 200)
      const request = backend.requests.at(-1) as Message
      t.equal(request.startLine, 'GET /a%20b?c=%2F HTTP/1.1')
      t.same(request.values('host'), [`127.0.0.1:${backend.port}`])
      t.same(request.fields.filter(([name]) => name.startsWith(':')), [], 'no pseudo-field')
      t.same(request.values('x-own'), ['kept'])
      t.same(request.values('x-twice').join(', '), '1, 2')
      t.same(request.values('x-forwarded-host'), [authority])
      t.same(request.values('x-forwarded-proto'), [scheme])
      t.same(request.values('x-forwarded-for'), ['127.0.0.1'])
      t.same(request.values('via'), ['2 rockstar-proxy'])
      t.same(request.values('content-length'), [])
      t.same(request.values('transfer-encoding'), [])
    })

    await t.test('has the crumbs of its cookies joined', { timeout: LIMIT }, async t => {
      answer = () => ok()
      await ask(session, { ':path': '/raw/a', cookie: ['a=1', 'b=2; c=3', 'd=4'] as never })
      t.same(backend.requests.at(-1)?.values('cookie'), ['a=1; b=2; c=3; d=4'])
    })

    await t.test('asks by any method', { timeout: LIMIT }, async t => {
      answer = request => ok(request.startLine.split(' ')[0])
      for (const method of ['GET', 'DELETE', 'OPTIONS', 'PATCH', 'POST', 'PUT']) {
        t.equal((await ask(session, { ':path': '/raw/a', ':method': method })).body.toString(), method)
      }
    })

    await t.test('is refused CONNECT and TRACE', { timeout: LIMIT }, async t => {
      const requests = backend.requests.length
      const connect = await ask(session, { ':method': 'CONNECT', ':authority': 'other.example:443' })
      t.ok(connect.status === 405 || connect.status === 501 || connect.status === 0, `${connect.status}`)
      t.notMatch(connect.body.toString(), /HTTP\/1\.1/)
      const trace = await ask(session, { ':path': '/raw/a', ':method': 'TRACE' })
      t.ok(trace.status >= 400, `${trace.status}`)
      t.equal(backend.requests.length, requests)
    })

    for (const way of WAYS) {
      const path = `/${way}/a`

      await t.test(`${way}: gets the backend's status and headers, but for what is only HTTP/1.1's`, { timeout: LIMIT }, async t => {
        answer = () => ok('hello', 'X-Own: kept\r\nX-Twice: 1\r\nx-twice: 2\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nSET-COOKIE: c=3\r\nConnection: keep-alive, X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: a\r\nUpgrade: h2c\r\nX-Obs: \xe4\r\n', '203 Not Quite')
        const { status, headers, body } = await ask(session, { ':path': path })
        t.equal(status, 203)
        t.equal(headers['x-own'], 'kept')
        t.equal(headers['x-twice'], '1, 2')
        t.same(headers['set-cookie'], ['a=1', 'b=2', 'c=3'])
        t.equal(headers['content-length'], '5')
        t.ok(headers.date)
        t.equal(headers.via, '1.1 rockstar-proxy')
        for (const gone of ['connection', 'x-secret', 'keep-alive', 'proxy-connection', 'upgrade', 'transfer-encoding']) t.notOk(gone in headers, gone)
        t.equal(body.toString(), 'hello')
      })

      await t.test(`${way}: gets answers of every framing`, { timeout: LIMIT }, async t => {
        for (const [bytes, status, body, length, method] of [
          ['HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n', 200, 'hello world', undefined],
          ['HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n', 200, '', undefined],
          [ok(''), 200, '', '0'],
          ['HTTP/1.1 204 No Content\r\n\r\n', 204, '', undefined],
          ['HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 9\r\n\r\n', 304, '', '9'],
          ['HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n', 200, '', '9', 'HEAD'],
          ['HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n', 200, '', undefined, 'HEAD'],
          [ok('', '', '205 Reset Content'), 205, '', '0'],
          [ok('no', '', '418 '), 418, 'no', '2']
        ] as [string, number, string, string | undefined, string?][]) {
          answer = () => bytes
          const seen = await ask(session, { ':path': path, ':method': method ?? 'GET' })
          t.equal(seen.status, status)
          t.equal(seen.body.toString(), body)
          t.equal(seen.headers['content-length'], length, bytes)
          t.equal(seen.error, undefined)
        }
        answer = (_request, wire) => {
          wire.send('HTTP/1.1 200 OK\r\n\r\nuntil the end')
          wire.socket.end()
        }
        t.equal((await ask(session, { ':path': path })).body.toString(), 'until the end')
      })

      await t.test(`${way}: bodies pass both ways, exactly`, { timeout: LIMIT }, async t => {
        const echo = (request: Message) => Buffer.concat([Buffer.from(`HTTP/1.1 200 OK\r\nContent-Length: ${request.body.length}\r\n\r\n`), Buffer.from(request.body, 'latin1')])
        answer = echo
        for (const size of [1, 1_000, 65_536, 65_537, 1_048_576]) {
          const content = randomBytes(size)
          for (const headers of [{}, { 'content-length': size }]) {
            const seen = await ask(session, { ':path': path, ':method': 'POST', ...headers }, content)
            t.equal(sha(seen.body), sha(content), `${size} bytes`)
            const request = backend.requests.at(-1) as Message
            if ('content-length' in headers) t.same(request.values('content-length'), [String(size)])
            else t.ok(request.chunked || request.values('content-length')[0] === String(size))
          }
        }
      })

      await t.test(`${way}: a request whose body is empty has none, or an empty one`, { timeout: LIMIT }, async t => {
        answer = request => ok(`[${request.body}]`)
        t.equal((await ask(session, { ':path': path, ':method': 'POST' }, '')).body.toString(), '[]')
        t.equal((await ask(session, { ':path': path, ':method': 'POST', 'content-length': 0 }, '')).body.toString(), '[]')
        t.equal((await ask(session, { ':path': path, ':method': 'POST' })).body.toString(), '[]')
      })

      await t.test(`${way}: trailers come to one that takes them`, { timeout: LIMIT }, async t => {
        answer = () => 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: abc\r\nX-Other: d\r\n\r\n'
        const seen = await ask(session, { ':path': path, te: 'trailers' })
        t.equal(seen.body.toString(), 'ok')
        t.match(seen.trailers, { 'x-sum': 'abc', 'x-other': 'd' })
        t.same(backend.requests.at(-1)?.values('te'), ['trailers'])
        t.same((await ask(session, { ':path': path, te: 'trailers', ':method': 'POST' }, 'body')).trailers['x-sum'], 'abc')
        answer = () => 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: abc\r\n\r\n'
        t.same((await ask(session, { ':path': path, te: 'trailers' })).trailers['x-sum'], 'abc', 'behind no content as well')
      })

      await t.test(`${way}: early hints come before the answer`, { timeout: LIMIT }, async t => {
        answer = () => `HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nLink: </b>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </c>\r\nConnection: X-Secret\r\nX-Secret: 1\r\n\r\n${ok('final')}`
        const seen = await ask(session, { ':path': path })
        t.same(seen.informational.map(headers => headers[':status']), [103, 102, 103])
        t.match(String(seen.informational[0]?.link), /<\/a>.*<\/b>/)
        t.notOk(seen.informational.some(headers => 'connection' in headers || 'x-secret' in headers))
        t.equal(seen.status, 200)
        t.equal(seen.body.toString(), 'final')
        answer = () => `HTTP/1.1 100 Continue\r\n\r\n${ok('final')}`
        t.equal((await ask(session, { ':path': path })).body.toString(), 'final')
      })

      await t.test(`${way}: the head and the first chunk leave before the second arrives`, { timeout: LIMIT }, async t => {
        let carrier: Wire | undefined
        answer = (_request, wire) => {
          carrier = wire
          return 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n'
        }
        const { now, done } = collect(session.request({ ':path': path }))
        await until(() => now.status === 200)
        carrier?.send('5\r\nfirst\r\n')
        await until(() => now.body.toString() === 'first')
        carrier?.send('6\r\nsecond\r\n0\r\n\r\n')
        t.equal((await done).body.toString(), 'firstsecond')
      })

      await t.test(`${way}: resetting a stream aborts the backend's request, and no other`, { timeout: LIMIT }, async t => {
        for (const beginning of ['', 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf']) {
          let carrier: Wire | undefined
          answer = (request, wire) => {
            if (request.startLine.includes('other')) return ok('other')
            carrier = wire
            return beginning === '' ? undefined : beginning
          }
          gateway.log.length = 0
          const stream = session.request({ ':path': path })
          const { now } = collect(stream)
          await until(() => carrier !== undefined && (beginning === '' || now.body.length === 4))
          stream.close(constants.NGHTTP2_CANCEL)
          await until(() => carrier?.closed === true)
          t.equal((await ask(session, { ':path': `/${way}/other` })).body.toString(), 'other')
          await idle(gateway)
          t.ok(gateway.log.some(({ statusCode }) => statusCode === 499))
          t.notOk(gateway.log.some(({ msg }) => msg === 'attempt failed'), 'and blames nobody')
        }
      })

      await t.test(`${way}: resetting a stream while its body is on the way aborts the backend's request`, { timeout: LIMIT }, async t => {
        const connections = backend.connections.length
        await idle(gateway)
        const stream = session.request({ ':path': path, ':method': 'POST', 'content-length': 1_000_000 })
        stream.on('error', () => {})
        stream.write(Buffer.alloc(100_000))
        await until(() => backend.connections.some(({ received }) => received.includes('Content-Length: 1000000') || received.includes('content-length: 1000000')))
        const carrier = backend.connections.find(({ received }) => /content-length: 1000000/i.test(received)) as Wire
        stream.close(constants.NGHTTP2_CANCEL)
        await until(() => carrier.closed)
        carrier.received = ''
        t.ok(backend.connections.length <= connections + 1)
      })

      await t.test(`${way}: failures are answered`, { timeout: LIMIT }, async t => {
        answer = () => 'HTTP/1.1 600 Bad\r\n\r\n'
        const seen = await ask(session, { ':path': path })
        t.equal(seen.status, 502)
        t.equal(JSON.parse(seen.body.toString()).code, 'FST_ROCKSTAR_BAD_RESPONSE')
        t.notMatch(seen.body.toString(), /127\.0\.0\.1/)
      })

      await t.test(`${way}: a hundred streams at once each get their own answer`, { timeout: LIMIT }, async t => {
        answer = request => ok(request.startLine.split(' ')[1])
        const all = await Promise.all(Array.from({ length: 100 }, (_, i) => ask(session, { ':path': `${path}${i}` })))
        t.ok(all.every(({ status, body }, i) => status === 200 && body.toString() === `/a${i}`))
      })
    }

    for (const way of WAYS) {
      const path = `/${way}/a`

      await t.test(`${way}: a field that came twice and may come but once comes once, or joined where that is the same`, { timeout: LIMIT }, async t => {
        answer = () => ok('hello', 'Content-Type: text/plain\r\nContent-Type: text/html\r\nETag: "a"\r\nETag: "b"\r\nContent-Language: de\r\nContent-Language: en\r\nRetry-After: 1\r\nRetry-After: 2\r\nLocation: /a\r\nLocation: /b\r\nVary: a\r\nVary: b\r\n')
        const { status, headers, body } = await ask(session, { ':path': path })
        t.equal(status, 200)
        t.equal(body.toString(), 'hello')
        t.match(headers, { 'content-type': 'text/plain', etag: '"a"', 'content-language': 'de, en', 'retry-after': '1', location: '/a', vary: 'a, b' })
      })

      await t.test(`${way}: answer and body pass each other, for long`, { timeout: LIMIT }, async t => {
        const stream = session.request({ ':path': path, ':method': 'POST' })
        const { now, done } = collect(stream)
        answer = () => {}
        stream.write(`both ways: ${name} ${way}`)
        const carrier = await carrierOf(`both ways: ${name} ${way}`)
        carrier.send('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
        await until(() => now.status === 200)
        for (let i = 1; i < 100; i++) {
          stream.write(`${i},`)
          await until(() => carrier.received.endsWith(`\r\n${i},`))
          const said = `${i};`
          carrier.send(`${said.length}\r\n${said}\r\n`)
          await until(() => now.body.toString().endsWith(said))
        }
        stream.end('end')
        await until(() => carrier.received.endsWith('3\r\nend\r\n0\r\n\r\n'))
        carrier.send('0\r\n\r\n')
        t.equal((await done).body.toString(), Array.from({ length: 99 }, (_, i) => `${i + 1};`).join(''))
        t.equal(now.error, undefined)
      })

      await t.test(`${way}: resetting a stream in a body without a length never makes it look whole`, { timeout: LIMIT }, async t => {
        for (const code of [constants.NGHTTP2_CANCEL, constants.NGHTTP2_NO_ERROR, constants.NGHTTP2_INTERNAL_ERROR]) {
          await idle(gateway)
          const requests = backend.requests.length
          const stream = session.request({ ':path': path, ':method': 'POST' }, { waitForTrailers: true })
          stream.on('error', () => {})
          stream.write(`half: ${name} ${way} ${code}`)
          const carrier = await carrierOf(`half: ${name} ${way} ${code}`)
          stream.close(code)
          await until(() => carrier.closed)
          t.equal(backend.requests.length, requests)
          await idle(gateway)
        }
      })

      await t.test(`${way}: an answer that comes before the body is whole ends the stream`, { timeout: LIMIT }, async t => {
        for (const size of [10, 1_000_000]) {
          const stream = session.request({ ':path': path, ':method': 'POST', 'x-mark': `early: ${name} ${way} ${size}` })
          const { done, now } = collect(stream)
          stream.write(Buffer.alloc(size))
          const carrier = await carrierOf(`early: ${name} ${way} ${size}`)
          carrier.send('HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno')
          await done
          t.equal(now.status, 413)
          t.equal(now.body.toString(), 'no')
          t.equal(stream.rstCode, constants.NGHTTP2_NO_ERROR)
          await idle(gateway)
        }
      })
    }

    await t.test('raw: trailers do not come to one that has not said that it takes them', { timeout: LIMIT }, async t => {
      answer = () => 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: abc\r\n\r\n'
      const seen = await ask(session, { ':path': '/raw/a' })
      t.equal(seen.body.toString(), 'ok')
      t.notOk('x-sum' in seen.trailers)
    })

    await t.test('that goes away with its whole connection aborts all of its requests', { timeout: LIMIT }, async t => {
      const carriers: Wire[] = []
      answer = (_request, wire) => { carriers.push(wire) }
      const other = await connectSession(t, gateway)
      for (const way of WAYS) collect(other.request({ ':path': `/${way}/a` }))
      await until(() => carriers.length === 2)
      other.destroy()
      await until(() => carriers.every(({ closed }) => closed))
      await idle(gateway)
      t.pass()
    })
  })
}

t.test('preserveHost sends the authority of an HTTP/2 client', { timeout: LIMIT }, async t => {
  const gateway = await start(t, { http2: true }, { preserveHost: true })
  const session = await connectSession(t, gateway)
  answer = () => ok()
  await ask(session, { ':path': '/raw/a', ':authority': 'front.example:8443' })
  t.same(backend.requests.at(-1)?.values('host'), ['front.example:8443'])
  t.same(backend.requests.at(-1)?.values('x-forwarded-host'), ['front.example:8443'])
})
