import { connect } from 'node:net'
import t, { type Test } from 'tap'
import type { RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type Gateway, type GatewaySetup } from '../helpers/app.ts'
import { ok, rawBackend, until, Wire, type Message, type RawBackend } from '../helpers/wire.ts'

// One test for each class of holes that proxies of this kind have had, by the name under which it is known.

interface Pair {
  backend: RawBackend
  gateway: Gateway
}

async function start (t: Test, options: RockstarProxyOptions = {}, setup: GatewaySetup = {}): Promise<Pair> {
  const backend = await rawBackend(t, request => ok(`${request.startLine}|${request.body}`))
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/api' }], ...options }, setup)
  return { backend, gateway }
}

async function ask (gateway: Gateway, bytes: string): Promise<Message> {
  const client = await gateway.connect()
  const response = await client.send(bytes).response(0, bytes.slice(0, bytes.indexOf(' ')))
  client.close()
  return response
}

const get = (target: string, fields = '') => `GET ${target} HTTP/1.1\r\nHost: gateway\r\n${fields}\r\n`
const post = (target: string, fields: string, body: string) => `POST ${target} HTTP/1.1\r\nHost: gateway\r\n${fields}\r\n${body}`
const SMUGGLED = 'GET /api/smuggled HTTP/1.1\r\nHost: gateway\r\nX-Smuggled: 1\r\n\r\n'
/** All that a backend has ever been sent. */
const bytesAt = (backend: RawBackend) => backend.connections.map(wire => wire.received).join('')

/** No request but those that were asked for, each framed in one way only. */
function unambiguous (t: Test, { backend }: Pair, ...lines: string[]): void {
  t.strictSame(backend.requests.map(request => request.startLine).filter(line => !lines.includes(line)), [], 'the backend sees no request that nobody made')
  for (const request of backend.requests) {
    t.ok(request.values('content-length').length + request.values('transfer-encoding').length <= 1, 'one framing')
  }
  t.notMatch(bytesAt(backend), /\r\nX-Smuggled:/i)
}

// Header fields

t.test('stripping by Connection: what the proxy or the application adds cannot be named away', async t => {
  const { backend, gateway } = await start(t, {
    routes: [{ prefix: '/api', rewriteRequestHeaders: (_request, headers) => ({ ...headers, 'x-user': 'guest', 'x-internal': 'no' }) }]
  })
  await ask(gateway, get('/api/x', 'Connection: close, X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto, Forwarded, Via, X-User, X-Internal\r\nX-User: admin\r\nX-Internal: yes\r\n'))
  const [request] = backend.requests
  t.strictSame(request.values('x-user'), ['guest'])
  t.strictSame(request.values('x-internal'), ['no'])
  t.strictSame(request.values('x-forwarded-for'), ['127.0.0.1'])
  t.strictSame(request.values('forwarded'), ['for=127.0.0.1;host=gateway;proto=http'])
  t.strictSame(request.values('via'), ['1.1 rockstar-proxy'])
})

t.test('spoofing of identity: an untrusted X-Forwarded-For, however it is written, is not passed on', async t => {
  const { backend, gateway } = await start(t)
  for (const name of ['X-Forwarded-For', 'x-forwarded-for', 'X-FORWARDED-FOR', 'X-Forwarded-By', 'X-Forwarded-Server', 'X-Forwarded-User', 'Forwarded', 'FORWARDED']) {
    await ask(gateway, get('/api/x', `${name}: for=6.6.6.6\r\n${name}: 6.6.6.6\r\n`))
    t.notMatch((backend.requests.at(-1) as Message).head, '6.6.6.6', name)
  }
})

t.test('httpoxy: a Proxy field never becomes a backend\'s HTTP_PROXY', async t => {
  const { backend, gateway } = await start(t)
  for (const name of ['Proxy', 'proxy', 'PROXY']) await ask(gateway, get('/api/x', `${name}: http://evil.example:3128\r\n`))
  t.notMatch(bytesAt(backend), 'evil.example')
})

t.test('h2c smuggling: no upgrade passes, so nobody can talk past the proxy', async t => {
  const backend = await rawBackend(t, request => request.values('upgrade').length > 0 ? 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n' : ok())
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/api' }] })
  for (const fields of ['Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n', 'Upgrade: h2c\r\n', 'Connection: upgrade\r\nUPGRADE: H2C\r\n']) {
    t.equal((await ask(gateway, get('/api/x', fields))).status, 200)
  }
  t.notMatch(bytesAt(backend), /upgrade|http2-settings/i)
})

t.test('response splitting: a rewriter cannot be made to write a second field or message', async t => {
  for (const evil of ['a\r\nX-Split: 1', 'a\nX-Split: 1', 'a\rX-Split: 1', 'a\r\n\r\nHTTP/1.1 200 OK\r\n\r\n', 'a\0b', '\r\n', 'a\u010d\u010aX-Split: 1', 'a\x7fb']) {
    for (const headers of [{ 'x-a': evil }, { 'x-a': ['fine', evil] }, { [`x-a${evil}`]: 'b' }, { [evil]: 'b' }, { 'set-cookie': evil }, { location: evil }, { host: evil }]) {
      const { backend, gateway } = await start(t, {
        routes: [
          { prefix: '/request', rewriteRequestHeaders: (_request, received) => ({ ...received, ...headers }) },
          { prefix: '/response', rewriteHeaders: received => ({ ...received, ...headers }) }
        ]
      })
      const client = await gateway.connect()
      const what = JSON.stringify(headers)
      t.equal((await client.send(get('/request/x')).response()).status, 500, what)
      t.equal(backend.connections.length, 0, 'nothing goes to the backend')
      const at = client.received.length
      t.equal((await client.send(get('/response/x')).response(at)).status, 500, what)
      t.notMatch(client.received + bytesAt(backend), /^X-Split/m)
      client.close()
    }
  }
})

t.test('response splitting: an encoded line break in a path stays encoded in the answer', async t => {
  const backend = await rawBackend(t, () => ok('', 'Location: /in/next\r\nSet-Cookie: a=b; Path=/in\r\n', '302 Found'))
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/t/:name', rewritePrefix: '/in' }] })
  const response = await ask(gateway, get('/t/%0d%0aX-Split:%201%0d%0a%0d%0a/x'))
  t.strictSame(response.values('location'), ['/t/%0d%0aX-Split:%201%0d%0a%0d%0a/next'])
  t.strictSame(response.values('x-split'), [])
})

t.test('a rewriter cannot unframe a message', async t => {
  const { backend, gateway } = await start(t, {
    routes: [{ prefix: '/api', rewriteRequestHeaders: (_request, headers) => ({ ...headers, 'content-length': '0', 'Transfer-Encoding': 'chunked', connection: 'close, x-forwarded-for', upgrade: 'h2c', expect: '100-continue', TE: 'gzip' }) }]
  })
  const response = await ask(gateway, post('/api/x', `Content-Length: ${SMUGGLED.length}\r\n`, SMUGGLED))
  t.equal(response.status, 200)
  const [request] = backend.requests
  t.equal(request.body, SMUGGLED)
  t.strictSame(request.values('content-length'), [String(SMUGGLED.length)])
  t.strictSame([...request.values('transfer-encoding'), ...request.values('upgrade'), ...request.values('expect'), ...request.values('te')], [])
  t.strictSame(request.values('connection'), ['keep-alive'])
  t.strictSame(request.values('x-forwarded-for'), ['127.0.0.1'])
})

t.test('Host injection: a client\'s Host gets neither to the backend nor into the answer', async t => {
  const backend: RawBackend = await rawBackend(t, request => ok(request.values('host')[0], `Location: http://127.0.0.1:${backend.port}/in/next\r\nContent-Location: http://${request.values('host')[0]}/in/here\r\n`, '302 Found'))
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/api', rewritePrefix: '/in' }] })
  for (const [target, host] of [['/api/x', 'evil.example'], ['http://evil.example/api/x', 'gateway'], ['/api/x', 'evil.example:80']]) {
    const response = await ask(gateway, `GET ${target} HTTP/1.1\r\nHost: ${host}\r\nX-Forwarded-Host: evil.example\r\nX-Host: evil.example\r\n\r\n`)
    t.equal(response.body, `127.0.0.1:${backend.port}`)
    t.strictSame(response.values('location'), ['/api/next'])
    t.strictSame(response.values('content-location'), ['/api/here'])
    t.notMatch(response.head, 'evil.example')
  }
})

t.test('two hosts: the one that is checked is the one that is sent', async t => {
  const { backend, gateway } = await start(t, { preserveHost: true })
  for (const bytes of [
    'GET /api/x HTTP/1.1\r\nHost: good.example\r\nHost: evil.example\r\n\r\n', 'GET /api/x HTTP/1.1\r\nHost: good.example, evil.example\r\n\r\n', 'GET /api/x HTTP/1.1\r\nHost: good.example evil.example\r\n\r\n',
    'GET /api/x HTTP/1.1\r\nHost: good.example@evil.example\r\n\r\n', 'GET /api/x HTTP/1.1\r\nHost: good.example\r\n : evil.example\r\n\r\n', 'GET /api/x HTTP/1.1\r\n Host: evil.example\r\nHost: good.example\r\n\r\n', 'GET /api/x HTTP/1.1\r\nHost : evil.example\r\nHost: good.example\r\n\r\n'
  ]) t.equal((await ask(gateway, bytes)).status, 400, bytes)
  t.equal(backend.connections.length, 0)
})

// Keys

t.test('key collision: requests whose parts glue to the same text go to where each belongs', async t => {
  const first = await rawBackend(t, request => ok(`first ${request.startLine.split(' ')[1]}`))
  const second = await rawBackend(t, request => ok(`second ${request.startLine.split(' ')[1]}`))
  const gateway = await startGateway(t, {
    upstreams: { a: { backends: [`${first.url}/a`] }, ab: { backends: [`${first.url}/a/b`] }, b: { backends: [`${second.url}/a`] } },
    routes: [{ prefix: '/1', upstream: 'a' }, { prefix: '/2', upstream: 'ab' }, { prefix: '/3', upstream: 'b' }, { prefix: '/4', rewritePrefix: '/b', upstream: 'a' }]
  })
  for (let round = 0; round < 3; round++) {
    for (const [target, expected] of [['/1/b/c', 'first /a/b/c'], ['/2/c', 'first /a/b/c'], ['/3/b/c', 'second /a/b/c'], ['/4/c', 'first /a/b/c'], ['/1/c', 'first /a/c'], ['/3/c', 'second /a/c'], ['/1/bc?d', 'first /a/bc?d'], ['/2/?c', 'first /a/b/?c']]) {
      t.equal((await ask(gateway, get(target))).body, expected)
    }
  }
})

t.test('prototype keys: a client that may choose an upstream finds none but those that are listed', async t => {
  const { backend, gateway } = await start(t, {
    upstreams: { good: { backends: [] } },
    routes: [{ prefix: '/api', upstream: request => request.headers['x-upstream'] as string }]
  })
  for (const name of ['__proto__', 'constructor', 'prototype', 'toString', 'hasOwnProperty', 'valueOf', '0', 'length', 'size', 'get']) {
    const response = await ask(gateway, get('/api/x', `X-Upstream: ${name}\r\n`))
    t.equal(response.status, 500, name)
    t.match(response.body, 'FST_ROCKSTAR_UNKNOWN_UPSTREAM', name)
  }
  t.equal(backend.connections.length, 0)
  t.equal((await ask(gateway, get('/api/x', 'X-Upstream: good\r\n'))).status, 503, 'the listed one has no backends')
})

t.test('prototype keys: fields of such names pass through a rewriter and change nothing', async t => {
  const { backend, gateway } = await start(t, { routes: [{ prefix: '/api', rewriteRequestHeaders: (_request, headers) => ({ ...headers }) }] })
  await ask(gateway, get('/api/x', '__proto__: polluted\r\nconstructor: a\r\ntoString: b\r\n__proto__: again\r\n'))
  const [request] = backend.requests
  t.strictSame(request.values('__proto__'), ['polluted', 'again'])
  t.strictSame(request.values('constructor'), ['a'])
  t.strictSame(request.values('toString'), ['b'])
  t.equal(({} as { polluted?: unknown }).polluted, undefined)
})

// Paths

t.test('traversal: nobody leaves the base path of a backend', async t => {
  const backend = await rawBackend(t, () => ok())
  const gateway = await startGateway(t, { backends: [`${backend.url}/pub`], routes: [{ prefix: '/api' }, { prefix: '/all', rewritePrefix: '/all/of/it' }] })
  for (const prefix of ['/api', '/all']) {
    for (const rest of ['/../priv', '/..%2fpriv', '/%2e%2e/priv', '/%2e%2e%2fpriv', '/.%2e/priv', '/x/../../priv', '/..\\priv', '/..%5cpriv', '/..;/priv', '/%2e%2e;x=y/priv', '/%252e%252e/priv', '/..%252fpriv', '/x/..%2f..%2f..%2fpriv', '/..', '/%2e%2e', '//..//priv', '/./../priv']) {
      t.equal((await ask(gateway, get(prefix + rest))).status, 400, prefix + rest)
    }
  }
  t.equal(backend.connections.length, 0)
})

t.test('SSRF by target: no form of a target makes the proxy connect elsewhere', async t => {
  const stranger = await rawBackend(t, () => ok('stranger'))
  const { gateway } = await start(t, { routes: [{ prefix: '/' }] }, { setup: app => { app.get('/mine*', (request, reply) => app.proxy.forward(request, reply)) } })
  const host = `127.0.0.1:${stranger.port}`
  for (const target of [
    `http://${host}/x`, `//${host}/x`, `/\\${host}/x`, `/%2f${host}/x`, `/@${host}/x`, `http://gateway@${host}/x`, `http://${host}@gateway/x`, `http://gateway#@${host}/x`, `/http://${host}/x`, `http://${host}`, `http:/${host}/x`, `@${host}/x`, `:${stranger.port}/x`, `/mine@${host}/`, `/mine:${stranger.port}/`,
    `/x?url=http://${host}/`, `http://gateway\\@${host}/x`, `${host}`
  ]) t.notMatch((await ask(gateway, get(target, `X-Forwarded-Host: ${host}\r\nX-Original-URL: http://${host}/\r\nX-Rewrite-URL: http://${host}/\r\n`))).body, 'stranger', target)
  t.equal((await ask(gateway, `GET /x HTTP/1.1\r\nHost: ${host}\r\n\r\n`)).status, 200)
  t.equal(stranger.connections.length, 0)
})

// Bodies past a parser

t.test('content types with odd spacing never carry a body past its schema', async t => {
  const { backend, gateway } = await start(t, {}, {
    setup: app => {
      app.post('/mine', { schema: { body: { type: 'object', required: ['safe'], properties: { safe: { const: true } }, additionalProperties: false } } }, (request, reply) => app.proxy.forward(request, reply))
    }
  })
  const evil = '{"safe":false,"evil":true}'
  for (const type of [
    'application/json', 'application/json ', 'application/json;', 'application/json ;', 'application/json\t', 'application/json\t; charset=utf-8', 'application/json ; charset=utf-8', ' application/json', '\tapplication/json', 'APPLICATION/JSON', 'Application/Json; x',
    'application /json', 'application/ json', 'application/json,text/plain', 'application/json text/plain', 'application/jsonx', 'application/x+json', 'application/vnd.api+json; charset=utf-8', 'text/json', 'text/plain', 'text/plain; application/json', 'text/plain;', 'text/plain\t;x',
    'application/json\xa0', 'application/json\x0b', 'json', '*/*', '', ';', 'application/json; charset="utf-8"', 'application/json;charset', 'multipart/form-data', 'application/x-www-form-urlencoded', 'application/octet-stream'
  ]) {
    const response = await ask(gateway, post('/mine', `Content-Type: ${type}\r\nContent-Length: ${evil.length}\r\n`, evil))
    t.ok(response.status >= 400 && response.status < 500, `'${type}': ${response.status}`)
  }
  const bare = await ask(gateway, post('/mine', `Content-Length: ${evil.length}\r\n`, evil))
  t.ok(bare.status >= 400 && bare.status < 500, `without a type: ${bare.status}`)
  const twice = await ask(gateway, post('/mine', `Content-Type: text/plain\r\nContent-Type: application/json\r\nContent-Length: ${evil.length}\r\n`, evil))
  t.ok(twice.status >= 400 && twice.status < 500, `with two: ${twice.status}`)
  t.notMatch(bytesAt(backend), 'evil')
  const good = '{"safe":true}'
  t.equal((await ask(gateway, post('/mine', `Content-Type: application/json\r\nContent-Length: ${good.length}\r\n`, good))).status, 200)
})

// Smuggling

t.test('CL.TE, TE.CL and TE.TE: a request framed in two ways is refused', async t => {
  const pair = await start(t)
  const chunk = `${SMUGGLED.length.toString(16)}\r\n${SMUGGLED}\r\n0\r\n\r\n`
  for (const bytes of [
    post('/api/x', `Content-Length: ${5 + SMUGGLED.length}\r\nTransfer-Encoding: chunked\r\n`, `0\r\n\r\n${SMUGGLED}`),
    post('/api/x', 'Content-Length: 4\r\nTransfer-Encoding: chunked\r\n', chunk),
    post('/api/x', 'Transfer-Encoding: chunked\r\nContent-Length: 0\r\n', chunk),
    ...['xchunked', 'chunked, identity', 'identity, chunked', 'chunked\x0b', '\x0cchunked', 'chunked;', '"chunked"', 'chunked\r\nTransfer-Encoding: x', 'x\r\nTransfer-Encoding: chunked', 'cow', '\r\n chunked', 'chunked,', 'chunked\0']
      .flatMap(coding => [post('/api/x', `Transfer-Encoding: ${coding}\r\nContent-Length: 4\r\n`, chunk), post('/api/x', `Content-Length: ${5 + SMUGGLED.length}\r\nTransfer-Encoding: ${coding}\r\n`, `0\r\n\r\n${SMUGGLED}`)]),
    post('/api/x', 'Transfer-Encoding : chunked\r\nContent-Length: 4\r\n', chunk), post('/api/x', ' Transfer-Encoding: chunked\r\nContent-Length: 4\r\n', chunk), post('/api/x', 'X: y\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n', chunk),
    post('/api/x', 'X: y\rTransfer-Encoding: chunked\r\nContent-Length: 4\r\n', chunk), post('/api/x', 'Transfer\0-Encoding: chunked\r\nContent-Length: 4\r\n', chunk), post('/api/x', 'Transfer-Encoding\0: chunked\r\nContent-Length: 4\r\n', chunk)
  ]) {
    const client = await pair.gateway.connect()
    client.send(bytes)
    const response = await client.response()
    t.ok([400, 501].includes(response.status), `${JSON.stringify(bytes.slice(35, 130))}: ${response.status}`)
    client.close()
  }
  unambiguous(t, pair)
})

t.test('CL.CL: two lengths are refused', async t => {
  const pair = await start(t)
  for (const fields of [`Content-Length: 0\r\nContent-Length: ${SMUGGLED.length}\r\n`, `Content-Length: ${SMUGGLED.length}\r\nContent-Length: 0\r\n`, `Content-Length: ${SMUGGLED.length},0\r\n`, `Content-Length: 0\r\n Content-Length: ${SMUGGLED.length}\r\n`]) {
    t.equal((await ask(pair.gateway, post('/api/x', fields, SMUGGLED))).status, 400, JSON.stringify(fields))
  }
  unambiguous(t, pair)
})

t.test('names that look like framing are not, and stay with their own body', async t => {
  const pair = await start(t)
  for (const name of ['Transfer_Encoding', 'X-Transfer-Encoding', 'Content_Length', 'Content-Lengths', 'TransferEncoding', 'Transfer-Encoding2']) {
    const response = await ask(pair.gateway, post('/api/x', `${name}: chunked\r\nContent-Length: ${SMUGGLED.length}\r\n`, SMUGGLED))
    t.equal(response.body, `POST /x HTTP/1.1|${SMUGGLED}`, name)
  }
  t.strictSame(pair.backend.requests.filter(request => request.startLine !== 'POST /x HTTP/1.1'), [])
})

t.test('chunk extensions (TERM.EXT, EXT.TERM, TERM.SPILL, SPILL.TERM): none reaches a backend', async t => {
  const pair = await start(t)
  for (const body of [
    `2;\nxx\r\n10\r\n\r\n${SMUGGLED}`, `2;a\nxx\r\n0\r\n\r\n${SMUGGLED}`, `2;a\rxx\r\n0\r\n\r\n${SMUGGLED}`, `2\nxx\r\n0\r\n\r\n${SMUGGLED}`, `2\rxx\r\n0\r\n\r\n${SMUGGLED}`,
    `5\r\nAAAAAXX2\r\n45\r\n0\r\n\r\n${SMUGGLED}`, `5\r\nAAAAA\r2\r\n30\r\n0\r\n\r\n${SMUGGLED}`, `5\r\nAAAAA\n0\r\n\r\n${SMUGGLED}`, `0\n\n${SMUGGLED}`, `0;a\n\r\n${SMUGGLED}`, `0\r\r\n${SMUGGLED}`, `2\r\r\nxx\r\n0\r\n\r\n${SMUGGLED}`
  ]) {
    const client = await pair.gateway.connect()
    client.send(post('/api/x', 'Transfer-Encoding: chunked\r\n', body))
    await until(() => client.ended || client.closed)
    t.match(client.received, /^HTTP\/1.1 400 /, JSON.stringify(body.slice(0, 20)))
    client.close()
  }
  unambiguous(t, pair)
  const fine = await ask(pair.gateway, post('/api/x', 'Transfer-Encoding: chunked\r\n', '2;ext="a b"\r\nxx\r\n0;last\r\n\r\n'))
  t.equal(fine.body, 'POST /x HTTP/1.1|xx')
  t.notMatch(bytesAt(pair.backend), 'ext')
})

t.test('CL.0 and TE.0: a body is a body on every method, for the backend too', async t => {
  const pair = await start(t)
  for (const method of ['GET', 'HEAD', 'DELETE', 'OPTIONS', 'POST', 'PUT', 'PATCH']) {
    await ask(pair.gateway, `${method} /api/x HTTP/1.1\r\nHost: gateway\r\nContent-Length: ${SMUGGLED.length}\r\n\r\n${SMUGGLED}`)
    await ask(pair.gateway, `${method} /api/x HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n${SMUGGLED.length.toString(16)}\r\n${SMUGGLED}\r\n0\r\n\r\n`)
  }
  t.equal(pair.backend.requests.length, 14)
  for (const request of pair.backend.requests) {
    t.match(request.startLine, /^[A-Z]+ \/x HTTP\/1.1$/)
    t.equal(request.body, SMUGGLED)
    t.equal(request.values('content-length').length + request.values('transfer-encoding').length, 1)
  }
})

t.test('0.CL: what follows a request without a length is a request of its own', async t => {
  const pair = await start(t)
  const client = await pair.gateway.connect()
  client.send(`${get('/api/one')}${get('/api/two')}`)
  const first = await client.response()
  const second = await client.response(first.length)
  t.strictSame([first.body, second.body], ['GET /one HTTP/1.1|', 'GET /two HTTP/1.1|'])
})

t.test('early-response desync: what is left of an upload never becomes a request', async t => {
  const backend = await rawBackend(t, request => ok(request.startLine))
  // This one answers as soon as it has seen the head, and keeps its connection open.
  const hasty = await rawBackend(t, () => {})
  hasty.server.on('connection', socket => {
    socket.once('data', () => socket.write(ok('early')))
  })
  const gateway = await startGateway(t, { backends: [backend.url], upstreams: { hasty: { backends: [hasty.url] } }, routes: [{ prefix: '/api' }, { prefix: '/hasty', upstream: 'hasty' }] })
  for (const chunked of [false, true]) {
    const client = await gateway.connect()
    const rest = `${SMUGGLED}${SMUGGLED}`
    const framed = chunked ? `${rest.length.toString(16)}\r\n${rest}\r\n0\r\n\r\n` : rest
    client.send(post('/hasty/x', chunked ? 'Transfer-Encoding: chunked\r\n' : `Content-Length: ${rest.length}\r\n`, framed.slice(0, 8)))
    const first = await client.response()
    t.equal(first.body, 'early')
    client.send(framed.slice(8) + get('/api/next'))
    await until(() => client.closed || client.ended || client.received.includes('/next'))
    t.notMatch(client.received, 'smuggled', 'on the client\'s connection')
    client.close()
  }
  t.strictSame(backend.requests.filter(request => request.startLine !== 'GET /next HTTP/1.1'), [], 'nor on a backend\'s')
  t.ok(hasty.connections.every(wire => wire.received.split('HTTP/1.1').length <= 4), 'no other request was put behind half an upload')
  t.equal(hasty.connections.length, 2, 'each upload had a connection of its own')
})

// Queues

/** Sends two requests one after the other, each on a connection of its own. */
async function two (gateway: Gateway, first: string, between: () => Promise<void> | void = () => {}): Promise<Message> {
  await ask(gateway, first)
  await between()
  return ask(gateway, get('/api/victim'))
}

const POISON = ok('poison', 'X-Poison: 1\r\n')

t.test('queue poisoning: an extra response in the same packet is for nobody', async t => {
  for (const answer of [
    ok('first') + POISON, `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\n\r\n${POISON}`, `HTTP/1.1 204 No Content\r\n\r\n${POISON}`, `HTTP/1.1 304 Not Modified\r\n\r\n${POISON}`, `${ok('first')}HTTP/1.1 100 Continue\r\n\r\n${POISON}`, `${ok('first')}\r\n${POISON}`, `${ok('first')}HTTP/1.1 103 Early Hints\r\n\r\n`, `${ok('')}garbage`
  ]) {
    const backend = await rawBackend(t, request => request.startLine.includes('/victim') ? ok('for the victim') : answer)
    const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/api' }] })
    const response = await two(gateway, get('/api/attacker'))
    t.equal(response.body, 'for the victim', JSON.stringify(answer.slice(0, 60)))
    t.strictSame(response.values('x-poison'), [])
    t.equal(backend.connections.length, 2, 'the connection is not used again')
  }
})

t.test('queue poisoning: an extra response on a connection that is idle is for nobody', async t => {
  for (const extra of [POISON, 'HTTP/1.1 100 Continue\r\n\r\n', 'HTTP/1.1 1', '\r\nH', 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n', 'H']) {
    const backend = await rawBackend(t, request => ok(request.startLine.includes('/victim') ? 'for the victim' : 'first'))
    const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/api' }] })
    const response = await two(gateway, get('/api/attacker'), async () => {
      backend.connections[0].send(extra)
      await until(() => backend.connections[0].ended || backend.connections[0].closed)
    })
    t.equal(response.status, 200)
    t.equal(response.body, 'for the victim', JSON.stringify(extra.slice(0, 30)))
  }
})

t.test('queue poisoning: content where there may be none is no next response', async t => {
  for (const [method, answer] of [['HEAD', `HTTP/1.1 200 OK\r\nContent-Length: ${POISON.length}\r\n\r\n${POISON}`], ['HEAD', `HTTP/1.1 200 OK\r\n\r\n${POISON}`], ['HEAD', `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${POISON}`], ['GET', `HTTP/1.1 204 No Content\r\nContent-Length: ${POISON.length}\r\n\r\n${POISON}`]]) {
    const backend = await rawBackend(t, request => request.startLine.includes('/victim') ? ok('for the victim') : answer)
    const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/api' }] })
    const response = await two(gateway, `${method} /api/attacker HTTP/1.1\r\nHost: gateway\r\n\r\n`)
    t.equal(response.body, 'for the victim', `${method} ${JSON.stringify(answer.slice(0, 60))}`)
    t.strictSame(response.values('x-poison'), [])
  }
})

t.test('queue poisoning: nor for a request that waits for just that connection', async t => {
  const backend = await rawBackend(t, (request, wire) => {
    if (request.startLine.includes('/victim')) wire.send(ok('for the victim'))
    else until(() => waiting()).then(() => wire.send(ok('first') + POISON))
  })
  const gateway = await startGateway(t, { backends: [backend.url], pool: { connections: 1 }, routes: [{ prefix: '/api' }] })
  const waiting = () => gateway.app.proxy.getConnectionPool().stats().pending === 1
  const attacker = await gateway.connect()
  const victim = await gateway.connect()
  attacker.send(get('/api/attacker'))
  await until(() => backend.requests.length === 1)
  victim.send(get('/api/victim'))
  t.equal((await attacker.response()).body, 'first')
  const response = await victim.response()
  t.equal(response.body, 'for the victim')
  t.strictSame(response.values('x-poison'), [])
})

t.test('mixed-up answers: a client that goes leaves its answer to nobody', async t => {
  const held: [Message, Wire][] = []
  const backend = await rawBackend(t, (request, wire) => { held.push([request, wire]) })
  const gateway = await startGateway(t, { backends: [backend.url], pool: { connections: 1 }, routes: [{ prefix: '/api' }] })
  const gone = await gateway.connect()
  gone.send(get('/api/gone'))
  await until(() => held.length === 1)
  gone.reset()
  await until(() => held[0][1].ended || held[0][1].closed)
  const victim = await gateway.connect()
  victim.send(get('/api/victim'))
  await until(() => held.length === 2)
  held[0][1].send(ok('for the one that is gone'))
  held[1][1].send(ok('for the victim'))
  t.equal((await victim.response()).body, 'for the victim')
  t.not(held[0][1], held[1][1], 'it came over another connection')
})

// What is told, and what it takes

t.test('a client learns nothing of where a backend is', async t => {
  const gone = await rawBackend(t, () => {})
  gone.server.close()
  const gateway = await startGateway(t, { backends: [{ id: 'secret-name', url: `${gone.url}/secret-path` }], routes: [{ prefix: '/api' }] })
  const response = await ask(gateway, get('/api/x'))
  t.equal(response.status, 502)
  t.notMatch(response.head + response.body, new RegExp(`${gone.port}|secret|127\\.0\\.0\\.1`))
})

t.test('a request line alone, and a connection without one, do no harm', async t => {
  const { backend, gateway } = await start(t)
  for (const bytes of ['', '\r\n', 'G', 'GET /api/x', 'GET /api/x HTTP/1.1\r\n', 'GET /api/x HTTP/1.1\r\nHost: gateway\r\n', 'POST /api/x HTTP/1.1\r\nHost: gateway\r\nContent-Length: 5\r\n\r\nab', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n']) {
    const socket = connect(gateway.port, '127.0.0.1')
    const wire = new Wire(socket)
    if (bytes !== '') wire.send(bytes)
    await new Promise<void>(resolve => socket.end(resolve))
    await until(() => wire.ended || wire.closed)
    socket.destroy()
  }
  t.equal((await ask(gateway, get('/api/x'))).status, 200, 'the next is served')
  t.strictSame(backend.requests.map(request => request.startLine), ['GET /x HTTP/1.1'])
})

t.test('flooding: lists as long as a head can be are read through', async t => {
  const { backend, gateway } = await start(t, {}, { fastify: { trustProxy: true } })
  for (const fields of [
    `Connection: ${'a,'.repeat(7000)}\r\n`, `Connection: ${', '.repeat(7000)}\r\n`, `Via: ${'1.1 a,'.repeat(2300)}\r\n`, `Via: ${' ,'.repeat(7000)}\r\n`, `TE: ${', \t'.repeat(4600)}\r\n`, `TE: trailers${' '.repeat(14_000)}x\r\n`,
    `X-Forwarded-For: ${'6,'.repeat(7000)}\r\n`, `Forwarded: ${'"\\'.repeat(7000)}\r\n`, `Forwarded: ${', '.repeat(7000)}=\r\n`, `Forwarded: ${' ;'.repeat(7000)}=\r\n`, `Forwarded: ${'a=b;'.repeat(3500)}=\r\n`, `Forwarded: a="${'\\a'.repeat(7000)}\r\n`, `Forwarded: ${' '.repeat(14_000)}=\r\n`, `Content-Type: ${'a/'.repeat(7000)}\r\n`, `Cookie: ${'a=b;'.repeat(3500)}\r\n`, `Max-Forwards: ${'0'.repeat(14_000)}\r\n`
  ]) t.equal((await ask(gateway, get('/api/x', fields))).status, 200, fields.slice(0, 40))
  for (const [path, status] of [['/%25'.repeat(3500), 200], [`/${'%25'.repeat(4500)}`, 200], [`/${'%'}${'25'.repeat(7000)}`, 400], ['/..a'.repeat(3500), 200], [`${'/a;'.repeat(4500)}`, 200], [`/a${'/.'.repeat(7000)}`, 400], ['/'.repeat(14_000), 400], [`/a${'/'.repeat(14_000)}`, 200]] as const) {
    t.equal((await ask(gateway, get(`/api${path}`))).status, status, path.slice(0, 30))
  }
  t.equal(backend.requests.length, 21)
})

t.test('flooding: more names than are remembered are still told apart', async t => {
  const { backend, gateway } = await start(t)
  for (let i = 0; i < 3; i++) await ask(gateway, get('/api/x', Array.from({ length: 700 }, (_, j) => `n${i}-${j}: 1\r\n`).join('')))
  await ask(gateway, get('/api/x', 'pRoXy-AuThOrIzAtIoN: secret\r\nkEeP-aLiVe: 1\r\nx-FoRwArDeD-fOr: 6.6.6.6\r\nfOrWaRdEd: for=6.6.6.6\r\n'))
  const request = backend.requests[3]
  t.notMatch(request.head, /secret|keep-alive: 1|6\.6\.6\.6/i)
})
