import { METHODS } from 'node:http'
import t, { type Test } from 'tap'
import type { RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type Gateway, type GatewaySetup } from '../helpers/app.ts'
import { ok, rawBackend, until, type Message, type RawBackend, type Wire } from '../helpers/wire.ts'

interface Pair {
  backend: RawBackend
  gateway: Gateway
}

/** A gateway in front of a backend that says what was asked, with an `X-Body` for what came with it. */
async function start (t: Test, options: RockstarProxyOptions = {}, setup: GatewaySetup = {}): Promise<Pair> {
  const backend = await rawBackend(t, request => ok(request.startLine, `X-Body: ${request.body.length}\r\n`))
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/api' }], ...options }, setup)
  return { backend, gateway }
}

const ended = (client: Wire) => until(() => client.ended || client.closed)

/** Waits for the connection to be closed behind the one answer it has got, whatever was sent behind the request. */
async function closedBehindIt (t: Test, client: Wire): Promise<void> {
  const answers = () => client.received.split('HTTP/1.1 ').length - 1
  await until(() => client.ended || client.closed || answers() > 1)
  t.equal(answers(), 1, 'the connection is closed, and nothing behind it is answered')
  client.close()
}

/** Sends one request and resolves to what the backend gets of it. */
async function forwarded (t: Test, { backend, gateway }: Pair, bytes: string): Promise<Message> {
  const before = backend.requests.length
  const client = await gateway.connect()
  const response = await client.send(bytes).response(0, bytes.slice(0, bytes.indexOf(' ')))
  client.close()
  t.equal(response.status, 200, `${JSON.stringify(bytes.slice(0, 80))} is answered`)
  t.equal(backend.requests.length, before + 1, 'it reaches the backend once')
  return backend.requests[before]
}

/** Sends what is no good request: it gets one of these answers, or none, and the backend no whole request. */
async function refused (t: Test, { backend, gateway }: Pair, bytes: string, ...statuses: number[]): Promise<Wire> {
  const before = backend.requests.length
  const client = await gateway.connect()
  client.send(bytes)
  const response = await client.response()
  t.ok(statuses.includes(response.status), `${JSON.stringify(bytes.slice(0, 160))} is answered with ${response.status}, one of ${statuses.join()}`)
  t.equal(backend.requests.length, before, 'no request of it reaches the backend')
  return client
}

const NEXT = 'GET /api/next HTTP/1.1\r\nHost: gateway\r\n\r\n'
const post = (fields: string, body = '') => `POST /api/x HTTP/1.1\r\nHost: gateway\r\n${fields}\r\n${body}`

// Where a message ends

t.test('a Content-Length beside a Transfer-Encoding is refused, and the connection closed', async t => {
  const pair = await start(t)
  for (const fields of [
    'Content-Length: 5\r\nTransfer-Encoding: chunked\r\n', 'Transfer-Encoding: chunked\r\nContent-Length: 5\r\n',
    'Content-Length: 0\r\nTransfer-Encoding: chunked\r\n', 'content-length: 5\r\nX-A: b\r\nTRANSFER-ENCODING: Chunked\r\n'
  ]) {
    const client = await refused(t, pair, post(fields, `0\r\n\r\n${NEXT}`), 400)
    await closedBehindIt(t, client)
  }
})

t.test('more than one Content-Length is refused', async t => {
  const pair = await start(t)
  for (const fields of ['Content-Length: 5\r\nContent-Length: 6\r\n', 'Content-Length: 6\r\nX-A: b\r\ncontent-length: 5\r\n', 'Content-Length: 5, 6\r\n', 'Content-Length: 0\r\nContent-Length: 5\r\n']) {
    const client = await refused(t, pair, post(fields, `abcde${NEXT}`), 400)
    await closedBehindIt(t, client)
  }
})

t.test('a Content-Length that is no number is refused', async t => {
  const pair = await start(t)
  for (const value of ['+5', '-1', '0x5', '5 5', '1e1', '5.0', '', 'five', '\xb2', '"5"', '5;', '18446744073709551621', '9'.repeat(40), '5_0', "5'"]) {
    await closedBehindIt(t, await refused(t, pair, post(`Content-Length: ${value}\r\n`, `abcde${NEXT}`), 400))
  }
})

t.test('a Content-Length is taken with its zeros and spaces, and sent plain', async t => {
  const pair = await start(t)
  for (const value of ['5', '005', '   5', '5 ']) {
    const request = await forwarded(t, pair, post(`Content-Length: ${value}\r\n`, 'abcde'))
    t.strictSame(request.values('content-length').map(Number), [5])
    t.equal(request.body, 'abcde')
  }
})

t.test('a transfer coding that is not known is answered with 501', async t => {
  const pair = await start(t)
  for (const coding of ['gzip, chunked', 'x-own,chunked', 'GZIP , Chunked']) {
    await refused(t, pair, post(`Transfer-Encoding: ${coding}\r\n`, '0\r\n\r\n'), 501)
  }
  await refused(t, pair, post('Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n', '0\r\n\r\n'), 501)
})

t.test('a body whose end cannot be told is refused, and the connection closed', async t => {
  const pair = await start(t)
  // RFC 9112, 6.3: chunked has to be the last coding, and comes once.
  for (const coding of ['gzip', 'identity', 'chunked, gzip', 'chunked, identity', 'chunked, chunked', 'xchunked', 'chunkedx', 'chunked;q=1', '"chunked"', 'chun ked', ' , gzip', '\x0bchunked', 'chunked\x0b', '[chunked]', '']) {
    for (const body of ['0\r\n\r\n', '']) {
      await closedBehindIt(t, await refused(t, pair, post(`Transfer-Encoding: ${coding}\r\n`, body + NEXT), 400, 501))
    }
  }
  for (const lines of ['Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n', 'Transfer-Encoding: chunked\r\ntransfer-encoding: chunked\r\n', 'Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n']) {
    const client = await refused(t, pair, post(lines, `0\r\n\r\n${NEXT}`), 400, 501)
    await closedBehindIt(t, client)
  }
})

t.test('chunked is known in any case', async t => {
  const pair = await start(t)
  for (const coding of ['chunked', 'Chunked', 'CHUNKED', '  chunked', 'chunked  ']) {
    const request = await forwarded(t, pair, post(`Transfer-Encoding: ${coding}\r\n`, '3\r\nabc\r\n0\r\n\r\n'))
    t.equal(request.body, 'abc')
    t.strictSame(request.values('transfer-encoding'), ['chunked'])
    t.strictSame(request.values('content-length'), [])
  }
})

t.test('a Transfer-Encoding in HTTP/1.0 is refused, and the connection closed', async t => {
  const pair = await start(t)
  for (const fields of ['Transfer-Encoding: chunked\r\n', 'Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n', 'Connection: keep-alive\r\nTransfer-Encoding: gzip, chunked\r\n']) {
    // RFC 9112, 6.1: the framing is taken for faulty, so nothing behind it can be believed.
    const client = await refused(t, pair, `POST /api/x HTTP/1.0\r\nHost: gateway\r\n${fields}\r\n0\r\n\r\n${NEXT}`, 400)
    await closedBehindIt(t, client)
    t.equal(pair.backend.requests.length, 0)
  }
})

t.test('bad chunks are refused', async t => {
  const pair = await start(t)
  for (const body of [
    '0x3\r\nabc\r\n', '-3\r\nabc\r\n', '+3\r\nabc\r\n', ' 3\r\nabc\r\n', 'g\r\nabc\r\n', '\r\nabc\r\n', '3.0\r\nabc\r\n', '3,3\r\nabc\r\n',
    'fffffffffffffffff\r\nabc\r\n', '10000000000000003\r\nabc\r\n', '3\nabc\r\n', '3\r\nabc\n', '3\r\nabcd\r\n', '3\r\nabc', '3\r\nabcX\r\n', '3\r\r\nabc\r\n',
    '3;a\nb\r\nabc\r\n', '3;a=\0\r\nabc\r\n', '3;\n\r\nabc\r\n', '3\0\r\nabc\r\n', '\xb3\r\nabc\r\n'
  ]) {
    const client = await refused(t, pair, post('Transfer-Encoding: chunked\r\n', `${body}0\r\n\r\n${NEXT}`), 400)
    await closedBehindIt(t, client)
  }
})

t.test('a bad chunk behind good ones ends the upload without letting it look whole', async t => {
  const { backend, gateway } = await start(t)
  const client = await gateway.connect()
  client.send(post('Transfer-Encoding: chunked\r\n', '5\r\nfirst\r\n'))
  await until(() => backend.connections.some(wire => wire.received.includes('first')))
  client.send(`zz\r\nworse\r\n0\r\n\r\n${NEXT}`)
  await ended(client)
  const [wire] = backend.connections
  await until(() => wire.ended || wire.closed)
  t.notMatch(wire.received, /0\r\n\r\n$/, 'the backend sees no last chunk')
  t.notMatch(wire.received, 'worse')
  t.equal(backend.requests.length, 0)
})

t.test('a body shorter than it said never looks whole', async t => {
  for (const [fields, part] of [['Content-Length: 10\r\n', 'short'], ['Transfer-Encoding: chunked\r\n', '5\r\nshort\r\n']]) {
    const { backend, gateway } = await start(t)
    const client = await gateway.connect()
    client.send(post(fields, part))
    await until(() => backend.connections.some(wire => wire.received.includes('short')))
    client.socket.end()
    const [wire] = backend.connections
    await until(() => wire.ended || wire.closed)
    t.equal(backend.requests.length, 0)
    t.notMatch(wire.received, /0\r\n\r\n$/)
  }
})

t.test('chunks are read in all their forms, and their extensions end here', async t => {
  const pair = await start(t)
  const body = '3;name=value\r\nabc\r\nA;q="a; b"\r\n0123456789\r\n00004\r\nde\r\n\r\nc;x;y=z\r\n0123456789ab\r\n000;last\r\n\r\n'
  const request = await forwarded(t, pair, post('Transfer-Encoding: chunked\r\n', body))
  t.equal(request.body, 'abc0123456789de\r\n0123456789ab')
  t.notMatch(pair.backend.connections[0].received, /name|q=|last/)
})

t.test('trailer fields never become header fields', async t => {
  const pair = await start(t)
  const request = await forwarded(t, pair, post('Transfer-Encoding: chunked\r\nTrailer: X-After\r\n',
    '3\r\nabc\r\n0\r\nX-After: 1\r\nX-Forwarded-For: 6.6.6.6\r\nHost: evil\r\nAuthorization: x\r\nConnection: X-A\r\n\r\n'))
  t.equal(request.body, 'abc')
  t.strictSame(request.values('x-after'), [])
  t.strictSame(request.values('x-forwarded-for'), ['127.0.0.1'])
  t.strictSame(request.values('host'), [`127.0.0.1:${pair.backend.port}`])
  t.strictSame(request.values('content-length'), [])
  t.strictSame(request.values('authorization'), [])
  for (const field of ['Content-Length: 9', 'Transfer-Encoding: chunked']) {
    await refused(t, pair, post('Transfer-Encoding: chunked\r\n', `0\r\n${field}\r\n\r\n`), 400)
  }
})

// Bytes that may not be there

t.test('fields that are none are refused', async t => {
  const pair = await start(t)
  for (const field of [
    'X-A : b', 'X-A\t: b', ' X-A: b', 'X A: b', ': b', 'X-A', 'X-\0A: b', 'X-A: b\0c', '\0: b', 'X-A: b\x01c', 'X-A: b\x7fc', 'X-\xe9: b', 'X-A: b\rX-B: c', 'X-A: b\r', '"X": b', 'X(A): b', 'X@A: b', 'X/A: b'
  ]) {
    await closedBehindIt(t, await refused(t, pair, `GET /api/x HTTP/1.1\r\nHost: gateway\r\n${field}\r\n\r\n${NEXT}`, 400))
    await closedBehindIt(t, await refused(t, pair, `GET /api/x HTTP/1.1\r\n${field}\r\nHost: gateway\r\n\r\n${NEXT}`, 400))
  }
})

t.test('a folded field is refused, or unfolded', async t => {
  const pair = await start(t)
  for (const fields of ['X-A: b\r\n c\r\n', 'X-A: b\r\n\tc\r\n', 'X-A:\r\n b\r\n', 'X-A: b\r\n \r\n']) {
    const before = pair.backend.requests.length
    const client = await pair.gateway.connect()
    const response = await client.send(`GET /api/x HTTP/1.1\r\nHost: gateway\r\n${fields}\r\n`).response()
    if (response.status === 400) t.equal(pair.backend.requests.length, before)
    else t.notMatch(pair.backend.requests[before].head, /\r\n[ \t]/, 'RFC 9112, 5.2: never passed on as it came')
    client.close()
  }
  for (const fields of ['Transfer-Encoding:\r\n chunked\r\n', 'Transfer-Encoding: chunked\r\n , identity\r\n', 'Content-Length:\r\n 5\r\n', 'Content-Length: 5\r\n 0\r\n', 'Host: a\r\n b\r\n']) {
    await refused(t, pair, post(fields, `0\r\n\r\n${NEXT}`), 400)
  }
})

t.test('a bare LF is no end of a line', async t => {
  const pair = await start(t)
  for (const bytes of [
    'GET /api/x HTTP/1.1\nHost: gateway\n\n', 'GET /api/x HTTP/1.1\r\nHost: gateway\nX-A: b\r\n\r\n', 'GET /api/x HTTP/1.1\r\nHost: gateway\r\nX-A: b\nX-B: c\r\n\r\n',
    'GET /api/x HTTP/1.1\nHost: gateway\r\n\r\n', 'GET /api/x HTTP/1.1\r\nHost: gateway\r\nX-A: b\r\n\n', 'POST /api/x HTTP/1.1\r\nHost: gateway\r\nX: y\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n'
  ]) {
    const client = await pair.gateway.connect()
    // The last line of a head that waits for more is ended by what follows.
    client.send(bytes).send(NEXT)
    const { status } = await client.response()
    t.equal(status, 400, JSON.stringify(bytes))
    client.close()
  }
  t.equal(pair.backend.requests.length, 0)
})

t.test('request lines that are none are refused', async t => {
  const pair = await start(t)
  for (const line of [
    'get /api/x HTTP/1.1', 'G@T /api/x HTTP/1.1', 'FOO /api/x HTTP/1.1', 'GET\t/api/x HTTP/1.1', 'GET /api/x\tHTTP/1.1', 'GET /api/x http/1.1', 'GET /api/x HTTPS/1.1', 'GET /api/x HTTP/1.1 extra', 'GET /api/x HTTP/1',
    'GET /api/x HTTP/1.', 'GET /api/x HTTP/a.b', 'GET /api/x HTTP 1.1', 'GET api/x HTTP/1.1', 'GET /api/a b HTTP/1.1', 'GET /api/\0 HTTP/1.1', 'GET /api/\x01 HTTP/1.1', 'GET /api/\x7f HTTP/1.1', 'GET /api/x\rX HTTP/1.1', 'GET HTTP/1.1', ' GET /api/x HTTP/1.1', 'GET'
  ]) await closedBehindIt(t, await refused(t, pair, `${line}\r\nHost: gateway\r\n\r\n${NEXT}`, 400, 501))
})

t.test('versions that HTTP/1.1 does not know are refused', async t => {
  const pair = await start(t)
  for (const version of ['HTTP/2.0', 'HTTP/3.0', 'HTTP/0.9', 'HTTP/9.9', 'HTTP/11.1', 'HTTP/1.10']) {
    await refused(t, pair, `GET /api/x ${version}\r\nHost: gateway\r\n\r\n`, 400, 505)
    await refused(t, pair, `POST /api/x ${version}\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`, 400, 505)
  }
})

t.test('a request line without a version is refused', async t => {
  const pair = await start(t)
  await refused(t, pair, 'GET /api/x\r\n\r\n', 400, 505)
  await refused(t, pair, 'POST /api/x\r\nHost: gateway\r\nContent-Length: 3\r\n\r\nabc', 400, 505)
})

t.test('empty lines before a request are passed over', async t => {
  const pair = await start(t)
  t.equal((await forwarded(t, pair, `\r\n\r\n${NEXT}`)).startLine, 'GET /next HTTP/1.1')
})

t.test('more space than one between the parts of a request line never reaches a backend', async t => {
  const { backend, gateway } = await start(t)
  for (const line of ['GET  /api/x HTTP/1.1', 'GET /api/x  HTTP/1.1', 'GET /api/x HTTP/1.1 ']) {
    const client = await gateway.connect()
    await client.send(`${line}\r\nHost: gateway\r\n\r\n`).response()
    client.close()
  }
  for (const { startLine } of backend.requests) t.equal(startLine, 'GET /x HTTP/1.1')
})

// Host

t.test('HTTP/1.1 without a Host, or with two, is refused', async t => {
  const pair = await start(t)
  await refused(t, pair, 'GET /api/x HTTP/1.1\r\n\r\n', 400)
  await refused(t, pair, 'GET http://gateway/api/x HTTP/1.1\r\n\r\n', 400)
  for (const [first, second] of [['a', 'a'], ['a', 'b'], ['', 'a'], ['a', '']]) {
    await refused(t, pair, `GET /api/x HTTP/1.1\r\nHost: ${first}\r\nX-A: b\r\nhost: ${second}\r\n\r\n`, 400)
    await refused(t, pair, `GET http://a/api/x HTTP/1.1\r\nHost: ${first}\r\nHost: ${second}\r\n\r\n`, 400)
    await refused(t, pair, `GET /api/x HTTP/1.0\r\nHost: ${first}\r\nHost: ${second}\r\n\r\n`, 400)
  }
})

t.test('HTTP/1.0 does without a Host', async t => {
  const pair = await start(t)
  const request = await forwarded(t, pair, 'GET /api/x HTTP/1.0\r\n\r\n')
  t.equal(request.startLine, 'GET /x HTTP/1.1', 'and is sent on as HTTP/1.1')
  t.strictSame(request.values('host'), [`127.0.0.1:${pair.backend.port}`])
})

// Bodies and methods

t.test('any method may have a body, and keeps its framing', async t => {
  const pair = await start(t)
  for (const method of ['GET', 'DELETE', 'OPTIONS', 'POST', 'PUT', 'PATCH', 'HEAD']) {
    const whole = await forwarded(t, pair, `${method} /api/x HTTP/1.1\r\nHost: gateway\r\nContent-Length: 4\r\n\r\nbody`)
    t.equal(whole.startLine, `${method} /x HTTP/1.1`)
    t.equal(whole.body, 'body')
    t.strictSame(whole.values('content-length'), ['4'])
    t.strictSame(whole.values('transfer-encoding'), [])
    const chunked = await forwarded(t, pair, `${method} /api/x HTTP/1.1\r\nHost: gateway\r\nContent-Type: a/b\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\n`)
    t.equal(chunked.body, 'body')
    t.strictSame(chunked.values('content-length'), [])
    t.strictSame(chunked.values('transfer-encoding'), ['chunked'])
  }
})

t.test('a body in an ordinary handler that Fastify does not read is forwarded too', async t => {
  const pair = await start(t, {}, { setup: app => { app.route({ method: ['GET', 'HEAD'], url: '/mine', handler: (request, reply) => app.proxy.forward(request, reply) }) } })
  const request = await forwarded(t, pair, 'GET /mine HTTP/1.1\r\nHost: gateway\r\nContent-Length: 4\r\n\r\nbody')
  t.equal(request.body, 'body')
})

t.test('no body is no body', async t => {
  const pair = await start(t)
  for (const method of ['POST', 'PUT', 'PATCH']) {
    for (const fields of ['Content-Length: 0\r\n', '']) {
      const request = await forwarded(t, pair, `${method} /api/x HTTP/1.1\r\nHost: gateway\r\n${fields}\r\n`)
      t.strictSame(request.values('content-length'), ['0'], `${method} says so`)
      t.strictSame(request.values('transfer-encoding'), [])
    }
  }
  for (const method of ['GET', 'HEAD', 'DELETE', 'OPTIONS']) {
    const request = await forwarded(t, pair, `${method} /api/x HTTP/1.1\r\nHost: gateway\r\n\r\n`)
    t.strictSame(request.values('content-length'), [], `${method} has no need to`)
    t.strictSame(request.values('transfer-encoding'), [])
  }
  const empty = await forwarded(t, pair, post('Transfer-Encoding: chunked\r\n', '0\r\n\r\n'))
  t.equal(empty.body, '')
})

t.test('a request without content does not hold up the next one', async t => {
  const { backend, gateway } = await start(t)
  const client = await gateway.connect()
  const first = await client.send(post('Content-Length: 0\r\n')).response()
  const second = await client.send('DELETE /api/y HTTP/1.1\r\nHost: gateway\r\nContent-Length: 0\r\n\r\n').response(first.length)
  const third = await client.send(NEXT).response(first.length + second.length)
  t.strictSame([first, second, third].map(response => response.body), ['POST /x HTTP/1.1', 'DELETE /y HTTP/1.1', 'GET /next HTTP/1.1'])
  t.equal(backend.connections.length, 1, 'the backend\'s connection was used again')
})

t.test('every method that Node knows can be forwarded, but TRACE and CONNECT', async t => {
  const methods = METHODS.filter(method => method !== 'TRACE' && method !== 'CONNECT')
  const pair = await start(t, { routes: [{ prefix: '/dav', methods }, { prefix: '/again', methods: methods.map(method => method.toLowerCase()) }] })
  for (const method of methods) {
    for (const prefix of ['/dav', '/again']) {
      const request = await forwarded(t, pair, `${method} ${prefix}/x HTTP/1.1\r\nHost: gateway\r\nDepth: 1\r\nContent-Type: text/xml\r\nContent-Length: 4\r\n\r\n<a/>`)
      t.equal(request.startLine, `${method} /x HTTP/1.1`)
      t.strictSame(request.values('depth'), ['1'])
      t.equal(request.body, '<a/>')
    }
    const chunked = await forwarded(t, pair, `${method} /dav/x HTTP/1.1\r\nHost: gateway\r\nContent-Type: text/xml\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n<a/>\r\n0\r\n\r\n`)
    t.equal(chunked.body, '<a/>')
    // Fastify wants a type of each QUERY.
    const bare = await forwarded(t, pair, `${method} /dav/x HTTP/1.1\r\nHost: gateway\r\nContent-Type: text/xml\r\n\r\n`)
    t.equal(bare.body, '')
  }
})

t.test('a route forwards only the methods that it was given', async t => {
  const pair = await start(t, { routes: [{ prefix: '/api', methods: ['GET', 'PROPFIND'] }, { prefix: '/standard' }] })
  for (const line of ['POST /api/x', 'MKCOL /api/x', 'PROPFIND /standard/x', 'REPORT /standard/x', 'LOCK /standard']) {
    await refused(t, pair, `${line} HTTP/1.1\r\nHost: gateway\r\n\r\n`, 404, 405)
  }
  await forwarded(t, pair, 'PROPFIND /api/x HTTP/1.1\r\nHost: gateway\r\n\r\n')
})

t.test('OPTIONS * is sent on as it is', async t => {
  const pair = await start(t, { routes: [{ prefix: '/' }] })
  for (const fields of ['', 'Connection: TE\r\nTE: trailers\r\n', 'Content-Length: 0\r\n']) {
    t.equal((await forwarded(t, pair, `OPTIONS * HTTP/1.1\r\nHost: gateway\r\n${fields}\r\n`)).startLine, 'OPTIONS * HTTP/1.1')
  }
  const te = await forwarded(t, pair, 'OPTIONS * HTTP/1.1\r\nHost: gateway\r\nConnection: TE\r\nTE: trailers\r\n\r\n')
  t.match(te.values('connection').join(), /\bTE\b/)
  t.equal((await forwarded(t, pair, 'OPTIONS http://gateway HTTP/1.1\r\nHost: gateway\r\n\r\n')).startLine, 'OPTIONS * HTTP/1.1', 'RFC 9112, 3.2.4: the absolute form of it too')
  t.equal((await forwarded(t, pair, 'OPTIONS / HTTP/1.1\r\nHost: gateway\r\n\r\n')).startLine, 'OPTIONS / HTTP/1.1', 'which is not the same as /')
  t.equal((await forwarded(t, pair, 'OPTIONS http://gateway/ HTTP/1.1\r\nHost: gateway\r\n\r\n')).startLine, 'OPTIONS / HTTP/1.1')
})

t.test('the request behind an OPTIONS * on the same backend connection is not touched by it', async t => {
  const pair = await start(t, { routes: [{ prefix: '/' }] })
  await forwarded(t, pair, 'OPTIONS * HTTP/1.1\r\nHost: gateway\r\n\r\n')
  t.equal((await forwarded(t, pair, 'OPTIONS / HTTP/1.1\r\nHost: gateway\r\n\r\n')).startLine, 'OPTIONS / HTTP/1.1')
  t.equal(pair.backend.connections.length, 1)
})

t.test('OPTIONS * cannot ask for more than a backend\'s own place', async t => {
  const backend = await rawBackend(t, () => ok())
  const gateway = await startGateway(t, { backends: [`${backend.url}/base`], routes: [{ prefix: '/' }] })
  const request = await forwarded(t, { backend, gateway }, 'OPTIONS * HTTP/1.1\r\nHost: gateway\r\n\r\n')
  t.equal(request.startLine, 'OPTIONS /base/ HTTP/1.1')
})

t.test('other methods have no *', async t => {
  const pair = await start(t, { routes: [{ prefix: '/' }] })
  for (const method of ['GET', 'POST', 'DELETE']) await refused(t, pair, `${method} * HTTP/1.1\r\nHost: gateway\r\n\r\n`, 400, 404)
})

// Length

t.test('a long target passes byte for byte', async t => {
  const pair = await start(t)
  const path = Array.from({ length: 1200 }, (_, i) => `/${i}`).join('')
  t.equal((await forwarded(t, pair, `GET /api${path}?${'q'.repeat(6000)} HTTP/1.1\r\nHost: gateway\r\n\r\n`)).startLine, `GET ${path}?${'q'.repeat(6000)} HTTP/1.1`)
  const wide = await start(t, {}, { fastify: { http: { maxHeaderSize: 262_144 } } })
  const long = `/${'a'.repeat(200_000)}`
  t.ok((await forwarded(t, wide, `GET /api${long} HTTP/1.1\r\nHost: gateway\r\n\r\n`)).startLine === `GET ${long} HTTP/1.1`)
})

t.test('a target longer than the server takes is answered, and goes nowhere', async t => {
  const pair = await start(t)
  await refused(t, pair, `GET /api/${'a'.repeat(20_000)} HTTP/1.1\r\nHost: gateway\r\n\r\n`, 414, 431)
})

// One connection, many requests

t.test('a request that comes byte by byte is the same request', async t => {
  const { backend, gateway } = await start(t)
  const client = await gateway.connect()
  for (const byte of post('Transfer-Encoding: chunked\r\n', '3;x\r\nabc\r\n0\r\n\r\n')) {
    client.send(byte)
    await new Promise(resolve => setImmediate(resolve))
  }
  t.equal((await client.response()).body, 'POST /x HTTP/1.1')
  t.equal(backend.requests[0].body, 'abc')
})

t.test('pipelined requests are answered in order, whatever the order of the backend', async t => {
  const held: [string, Wire][] = []
  const backend = await rawBackend(t, (request, wire) => { held.push([request.startLine.split(' ')[1], wire]) })
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/api' }] })
  const client = await gateway.connect()
  client.send([1, 2, 3, 4].map(i => i % 2 === 0
    ? `POST /api/${i} HTTP/1.1\r\nHost: gateway\r\nContent-Length: 5\r\n\r\nbody${i}`
    : `GET /api/${i} HTTP/1.1\r\nHost: gateway\r\n\r\n`).join(''))
  await until(() => held.length === 4)
  t.strictSame(backend.requests.map(request => request.body).sort(), ['', '', 'body2', 'body4'])
  for (const path of ['/4', '/2', '/3']) held.find(([held]) => held === path)?.[1].send(ok(`answer to ${path}`))
  t.equal(client.received, '', 'nothing overtakes the first')
  held.find(([path]) => path === '/1')?.[1].send(ok('answer to /1'))
  const bodies: string[] = []
  let at = 0
  while (bodies.length < 4) {
    const response = await client.response(at)
    bodies.push(response.body)
    at += response.length
  }
  t.strictSame(bodies, ['answer to /1', 'answer to /2', 'answer to /3', 'answer to /4'])
})

t.test('a request refused amid pipelined ones is answered in its turn', async t => {
  const { gateway } = await start(t)
  const client = await gateway.connect()
  client.send(`${NEXT}GET /api/%2e%2e/x HTTP/1.1\r\nHost: gateway\r\n\r\n${NEXT}POST /api/x HTTP/1.1\r\nHost: gateway\r\nConnection: Host\r\nContent-Length: 3\r\n\r\nabc${NEXT}`)
  const statuses: number[] = []
  let at = 0
  while (statuses.length < 5) {
    const response = await client.response(at)
    statuses.push(response.status)
    at += response.length
  }
  t.strictSame(statuses, [200, 400, 200, 400, 200])
})

t.test('pipelined requests before one that cannot be parsed are still answered', async t => {
  const { gateway } = await start(t)
  const client = await gateway.connect()
  const first = await client.send(NEXT).response()
  client.send('GARBAGE\r\n\r\n')
  const second = await client.response(first.length)
  t.strictSame([first.status, second.status], [200, 400])
  await ended(client)
})

t.test('a connection stays open for the next request, unless it is to be closed', async t => {
  for (const [version, connection, stays] of [
    ['1.1', '', true], ['1.1', 'Connection: keep-alive\r\n', true], ['1.1', 'Connection: close\r\n', false], ['1.1', 'connection: CLOSE\r\n', false], ['1.1', 'Connection: X-A, close\r\n', false], ['1.1', 'Connection: X-A\r\nConnection: close\r\n', false],
    ['1.0', '', false], ['1.0', 'Connection: keep-alive\r\n', true], ['1.0', 'Connection: Keep-Alive\r\n', true], ['1.0', 'Connection: close\r\n', false]
  ] as const) {
    const { gateway } = await start(t)
    const client = await gateway.connect()
    const first = await client.send(`GET /api/x HTTP/${version}\r\nHost: gateway\r\n${connection}\r\n`).response()
    t.equal(first.status, 200)
    t.match(first.values('connection').join().toLowerCase(), stays ? 'keep-alive' : 'close', `HTTP/${version} ${connection.trim()}`)
    if (stays) t.equal((await client.send(NEXT).response(first.length)).body, 'GET /next HTTP/1.1')
    else await ended(client)
  }
})

t.test('an HTTP/1.0 client never gets chunks', async t => {
  const backend = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n')
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/api' }] })
  for (const connection of ['', 'Connection: keep-alive\r\n']) {
    const client = await gateway.connect()
    client.send(`GET /api/x HTTP/1.0\r\n${connection}\r\n`)
    await ended(client)
    t.match(client.received, /\r\n\r\nabcdef$/, 'the end of the connection ends the content')
    t.notMatch(client.received, /transfer-encoding/i)
    t.notMatch(client.received, /connection: keep-alive/i)
  }
})

t.test('a backend that closes its connection closes only its own', async t => {
  const backend = await rawBackend(t, (_request, wire) => {
    wire.socket.end(ok('bye', 'Connection: close\r\n'))
  })
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/api' }] })
  const client = await gateway.connect()
  const first = await client.send(NEXT).response()
  t.match(first.values('connection').join(), 'keep-alive')
  t.equal((await client.send(NEXT).response(first.length)).body, 'bye')
  t.equal(backend.connections.length, 2)
})

t.test('a client\'s connection outlives an error of ours', async t => {
  const { gateway } = await start(t, { backends: [] })
  const client = await gateway.connect()
  const first = await client.send(post('Content-Length: 4\r\n', 'body')).response()
  const second = await client.send(NEXT).response(first.length)
  t.strictSame([first.status, second.status], [503, 503])
})
