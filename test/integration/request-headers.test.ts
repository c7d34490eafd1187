import Fastify from 'fastify'
import t, { type Test } from 'tap'
import rockstarProxy from '../../plugins/index.ts'
import type { RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type Gateway, type GatewaySetup } from '../helpers/app.ts'
import { ok, rawBackend, until, type Message, type RawBackend } from '../helpers/wire.ts'

interface Pair {
  backend: RawBackend
  gateway: Gateway
}

/** A gateway in front of a backend that answers everything. */
async function start (t: Test, options: RockstarProxyOptions = {}, setup: GatewaySetup = {}): Promise<Pair> {
  const backend = await rawBackend(t, () => ok())
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/api' }], ...options }, setup)
  return { backend, gateway }
}

/** Sends one request and resolves to the answer. */
async function ask (gateway: Gateway, bytes: string): Promise<Message> {
  const client = await gateway.connect()
  const response = await client.send(bytes).response(0, bytes.slice(0, bytes.indexOf(' ')))
  client.close()
  return response
}

/** Sends one request and resolves to what the backend gets of it. */
async function forwarded (t: Test, { backend, gateway }: Pair, bytes: string): Promise<Message> {
  const before = backend.requests.length
  const response = await ask(gateway, bytes)
  t.equal(response.status, 200, 'it is answered')
  t.equal(backend.requests.length, before + 1, 'it reaches the backend once')
  return backend.requests[before]
}

/** Sends one request that must be refused, and never reach the backend. */
async function refused (t: Test, { backend, gateway }: Pair, bytes: string, status: number): Promise<Message> {
  const before = backend.requests.length
  const response = await ask(gateway, bytes)
  t.equal(response.status, status, `${JSON.stringify(bytes)} is answered with ${status}`)
  t.equal(backend.requests.length, before, 'it never reaches the backend')
  return response
}

const get = (fields: string) => `GET /api/x HTTP/1.1\r\nHost: gateway\r\n${fields}\r\n`
const OURS = new Set(['host', 'connection', 'via', 'forwarded', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto'])
/** The fields that the client has sent and that came through. */
const passed = (request: Message) => request.fields.filter(([name]) => !OURS.has(name.toLowerCase()))

t.test('fields between two neighbours never pass, named in Connection or not, in any case', async t => {
  const pair = await start(t)
  const request = await forwarded(t, pair, get([
    'X-First: 1', 'Keep-Alive: timeout=5', 'KEEP-ALIVE: max=3', 'Proxy-Connection: keep-alive', 'proxy-connection: close',
    'Proxy-Authorization: Basic eA==', 'Proxy-Authenticate: Basic', 'Proxy-Authentication-Info: x', 'PROXY-Features: x', 'Proxy-Instruction: x',
    'Proxy: http://attacker.example', 'Upgrade: h2c', 'uPGRADE: websocket', 'HTTP2-Settings: AAMAAABkAAQAAP__', 'TE: gzip', 'X-Last: 2', ''
  ].join('\r\n')))
  t.strictSame(passed(request), [['X-First', '1'], ['X-Last', '2']])
})

t.test('everything that Connection names is removed', async t => {
  const pair = await start(t)
  for (const [what, connection, gone] of [
    ['one field', 'Connection: X-A', ['x-a']],
    ['several in one line', 'Connection: X-A, X-B', ['x-a', 'x-b']],
    ['several lines', 'Connection: X-A\r\nconnection: X-B\r\nCONNECTION: x-c', ['x-a', 'x-b', 'x-c']],
    ['odd case', 'cOnNeCtIoN: x-A, x-b', ['x-a', 'x-b']],
    ['spaces and tabs', 'Connection: \t X-A \t ,\t X-B  ', ['x-a', 'x-b']],
    ['no spaces', 'Connection:X-A,X-B', ['x-a', 'x-b']],
    ['empty elements', 'Connection: , ,,X-A,, ,\t,X-B,', ['x-a', 'x-b']],
    ['together with close', 'Connection: close, X-A', ['x-a']],
    ['together with keep-alive in another line', 'Connection: keep-alive\r\nConnection: X-C', ['x-c']],
    ['something that is not there', 'Connection: X-Not-There, X-A', ['x-a']],
    ['what other proxies guard', 'Connection: Cookie, Authorization, Accept, Range, If-None-Match', ['cookie', 'authorization', 'accept', 'range', 'if-none-match']]
  ] as const) {
    const fields = ['X-A: 1', 'x-a: 2', 'X-B: 3', 'X-C: 4', 'X-A-B: 5', 'Cookie: a=b', 'Authorization: Basic eA==', 'Accept: */*', 'Range: bytes=0-1', 'If-None-Match: "x"']
    const request = await forwarded(t, pair, get(`${fields.slice(0, 5).join('\r\n')}\r\n${connection}\r\n${fields.slice(5).join('\r\n')}\r\n`))
    const left = fields.map(field => field.split(': ')).filter(([name]) => !(gone as readonly string[]).includes(name.toLowerCase()))
    t.strictSame(passed(request), left, what)
    t.notMatch(request.values('connection').join(), /x-|cookie|close/i, 'the names are not passed on either')
  }
})

t.test('a field that bears the name of an option of Connection is removed with it', async t => {
  const pair = await start(t)
  // RFC 9110, 7.6.1 excepts no name; "close" is reserved for that reason.
  const request = await forwarded(t, pair, get('Connection: close\r\nClose: 1\r\nX-A: 2\r\n'))
  t.strictSame(passed(request), [['X-A', '2']])
})

t.test('Connection cannot name a field that says where a message goes or ends', async t => {
  const pair = await start(t)
  for (const name of ['Host', 'host', 'Content-Length', 'CONTENT-LENGTH', 'Transfer-Encoding']) {
    await refused(t, pair, get(`Connection: ${name}\r\n`), 400)
    await refused(t, pair, get(`Connection: close ,\t${name} \r\n`), 400)
    await refused(t, pair, get(`Connection: keep-alive\r\nConnection: X-A,,${name}\r\n`), 400)
  }
})

t.test('a request refused for its Connection takes its body along, so that the next one on the connection is itself', async t => {
  const { backend, gateway } = await start(t)
  const client = await gateway.connect()
  const smuggled = 'GET /api/smuggled HTTP/1.1\r\nHost: gateway\r\n\r\n'
  client.send(`POST /api/x HTTP/1.1\r\nHost: gateway\r\nConnection: keep-alive, Content-Length\r\nContent-Length: ${smuggled.length}\r\n\r\n${smuggled}`)
  const first = await client.response(0, 'POST')
  t.equal(first.status, 400)
  client.send('GET /api/next HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n')
  await until(() => client.ended || client.closed)
  t.strictSame(backend.requests.map(request => request.startLine).filter(line => line !== 'GET /next HTTP/1.1'), [], 'nothing of the body became a request')
})

t.test('a client cannot strip our own fields by naming them', async t => {
  const pair = await start(t)
  const request = await forwarded(t, pair, get('Connection: X-Forwarded-For, x-forwarded-host, X-FORWARDED-PROTO, Forwarded, Via, TE\r\nX-Forwarded-For: 6.6.6.6\r\n'))
  t.strictSame(request.values('x-forwarded-for'), ['127.0.0.1'])
  t.strictSame(request.values('x-forwarded-host'), ['gateway'])
  t.strictSame(request.values('x-forwarded-proto'), ['http'])
  t.strictSame(request.values('forwarded'), ['for=127.0.0.1;host=gateway;proto=http'])
  t.strictSame(request.values('via'), ['1.1 rockstar-proxy'])
})

t.test('the client\'s Connection speaks of its own connection, not of the backend\'s', async t => {
  const { backend, gateway } = await start(t)
  for (const connection of ['close', 'keep-alive', 'Close', 'upgrade']) {
    const request = await forwarded(t, { backend, gateway }, get(`Connection: ${connection}\r\n`))
    t.strictSame(request.values('connection'), ['keep-alive'])
  }
  t.equal(backend.connections.length, 1, 'all went over one connection')
})

t.test('of TE only trailers passes, and it is named in Connection', async t => {
  const pair = await start(t)
  for (const [te, passes] of [
    ['TE: trailers', true], ['te: TRAILERS', true], ['TE: gzip, trailers', true], ['TE: trailers;q=0.5, deflate', false],
    ['TE: gzip;q=1.0,trailers , deflate', true], ['TE: gzip\r\nTE: trailers', true], ['TE: ,,trailers,', true],
    ['TE: gzip', false], ['TE: trailers-not', false], ['TE: x-trailers', false], ['TE:', false], ['TE: chunked', false], ['X-TE: trailers', false]
  ] as const) {
    const request = await forwarded(t, pair, get(`Connection: TE\r\n${te}\r\n`))
    // A weight on "trailers" is no grammar of RFC 9110, 10.1.4: whether it counts is free, not what is sent then.
    if (te.includes('q=0.5')) t.ok(request.values('te').every(value => value === 'trailers'), te)
    else t.strictSame(request.values('te'), passes ? ['trailers'] : [], te)
    const named = request.values('connection').join().toLowerCase().split(/\s*,\s*/).includes('te')
    t.equal(named, request.values('te').length > 0, `${te}: TE is named in Connection where it is sent`)
  }
})

t.test('TE of an HTTP/1.0 client is not passed on without its name in Connection', async t => {
  const pair = await start(t)
  const request = await forwarded(t, pair, 'GET /api/x HTTP/1.0\r\nHost: gateway\r\nConnection: TE\r\nTE: trailers\r\n\r\n')
  const named = request.values('connection').join().toLowerCase().split(/\s*,\s*/).includes('te')
  t.equal(named, request.values('te').length > 0)
})

t.test('Expect ends here', async t => {
  const pair = await start(t)
  const client = await pair.gateway.connect()
  client.send('POST /api/x HTTP/1.1\r\nHost: gateway\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n')
  await client.receive('HTTP/1.1 100 Continue\r\n\r\n')
  client.send('body')
  const response = await client.response('HTTP/1.1 100 Continue\r\n\r\n'.length, 'POST')
  t.equal(response.status, 200)
  const [request] = pair.backend.requests
  t.equal(request.body, 'body')
  t.strictSame(request.values('expect'), [])
  await refused(t, pair, 'POST /api/x HTTP/1.1\r\nHost: gateway\r\nExpect: miracles\r\nContent-Length: 0\r\n\r\n', 417)
})

t.test('a request for another protocol is forwarded as a plain one', async t => {
  const pair = await start(t)
  for (const fields of [
    'Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n',
    'Connection: Upgrade\r\nUpgrade: TLS/1.2\r\n',
    'Upgrade: h2c\r\n'
  ]) {
    const request = await forwarded(t, pair, get(`${fields}X-A: 1\r\n`))
    t.strictSame(passed(request), [['X-A', '1']])
    t.strictSame(request.values('connection'), ['keep-alive'])
  }
})

t.test('names keep their case, fields their order and their repetitions', async t => {
  const pair = await start(t)
  const fields: [string, string][] = [
    ['x-lower', '1'], ['X-UPPER', '2'], ['x-MiXeD', '3'], ['ACCEPT', 'a/b'], ['accept', 'c/d'], ['X-Same', 'one'], ['x-between', '!'], ['X-SAME', 'two'], ['X-Same', 'one'],
    ['Cookie', 'a=1'], ['cookie', 'b=2'], ['User-Agent', 'x'], ['Content-Type', 'a/b'], ['Authorization', 'x'], ['ETag', '"x"'], ['Location', '/api'], ['Set-Cookie', 'c=d'],
    ['Accept-Encoding', 'gzip'], ['Accept-Encoding', 'br'], ['Cache-Control', 'no-cache'], ['Date', 'x'], ['Server', 'x'], ['Origin', 'null'], ['X-Last', 'z']
  ]
  const request = await forwarded(t, pair, get(fields.map(([name, value]) => `${name}: ${value}\r\n`).join('')))
  t.strictSame(passed(request), fields)
})

t.test('a value keeps its bytes', async t => {
  const pair = await start(t)
  const obs = Array.from({ length: 128 }, (_, i) => String.fromCharCode(0x80 + i)).join('')
  const visible = Array.from({ length: 95 }, (_, i) => String.fromCharCode(0x20 + i)).join('').trim()
  const fields: [string, string][] = [
    ['X-Obs', obs], ['X-Utf8', 'h\xc3\xa9\xe2\x82\xac'], ['X-Visible', visible], ['X-Inner', 'a  b\t\tc'], ['X-Empty', ''], ['X-Quoted', '"a, b\\"c", d'],
    ['X-Colons', ':a:b::'], ['!#$%&\'*+-.^_`|~09azAZ', 'any token is a name'], ['0', '0']
  ]
  const request = await forwarded(t, pair, get(fields.map(([name, value]) => `${name}: ${value}\r\n`).join('')))
  t.strictSame(passed(request), fields)
  const around = await forwarded(t, pair, get('X-A:x\r\nX-B:  \t x \t \r\n'))
  t.strictSame(passed(around), [['X-A', 'x'], ['X-B', 'x']], 'space around a value is none of it')
})

t.test('names that mean something to objects are names like all others', async t => {
  const pair = await start(t)
  const fields: [string, string][] = ['__proto__', 'constructor', 'hasOwnProperty', 'toString', 'valueOf', 'prototype', '__defineGetter__'].map(name => [name, name])
  t.strictSame(passed(await forwarded(t, pair, get(fields.map(([name, value]) => `${name}: ${value}\r\n`).join('')))), fields)
  const request = await forwarded(t, pair, get(`Connection: __proto__, constructor\r\n${fields.map(([name, value]) => `${name}: ${value}\r\n`).join('')}`))
  t.strictSame(passed(request), fields.slice(2), 'and can be named in Connection')
})

t.test('more than a thousand fields arrive, all of them', async t => {
  const pair = await start(t)
  const fields = Array.from({ length: 1500 }, (_, i): [string, string] => [`h${i}`, ''])
  const request = await forwarded(t, pair, get(fields.map(([name]) => `${name}:\r\n`).join('')))
  t.strictSame(passed(request), fields)
})

t.test('fields behind the thousandth are seen: a Connection there counts', async t => {
  const pair = await start(t)
  const request = await forwarded(t, pair, get(`X-A: 1\r\n${'f:\r\n'.repeat(1100)}Connection: X-A\r\n`))
  t.strictSame(request.values('x-a'), [])
})

t.test('long fields pass as long as the server in front takes them', async t => {
  const pair = await start(t, {}, { fastify: { http: { maxHeaderSize: 131_072 } } })
  const long = 'a'.repeat(100_000)
  const request = await forwarded(t, pair, get(`X-Long: ${long}\r\n`))
  t.ok(request.values('x-long')[0] === long)
  const standard = await start(t)
  await refused(t, standard, get(`X-Long: ${long}\r\n`), 431)
})

t.test('Host is the backend\'s own', async t => {
  const pair = await start(t)
  for (const head of ['HTTP/1.1\r\nHost: gateway:81', 'HTTP/1.1\r\nHost:', 'HTTP/1.0']) {
    const request = await forwarded(t, pair, `GET /api/x ${head}\r\n\r\n`)
    t.strictSame(request.values('host'), [`127.0.0.1:${pair.backend.port}`])
  }
})

t.test('preserveHost keeps the client\'s Host, byte for byte', async t => {
  const pair = await start(t, { preserveHost: true })
  for (const host of ['gateway', 'GateWay.Example:8080', '[2001:DB8::1]:81', '10.0.0.1', 'xn--bcher-kva.example', 'a_b.example', 'h%C3%A9']) {
    const request = await forwarded(t, pair, `GET /api/x HTTP/1.1\r\nHost: ${host}\r\n\r\n`)
    t.strictSame(request.values('host'), [host])
  }
  const none = await forwarded(t, pair, 'GET /api/x HTTP/1.0\r\n\r\n')
  t.strictSame(none.values('host'), [`127.0.0.1:${pair.backend.port}`], 'without one the backend\'s own stands in')
})

t.test('a route can have preserveHost otherwise than the rest', async t => {
  const pair = await start(t, { preserveHost: true, routes: [{ prefix: '/api', preserveHost: false }] })
  const request = await forwarded(t, pair, get(''))
  t.strictSame(request.values('host'), [`127.0.0.1:${pair.backend.port}`])
})

t.test('Via tells of us, with the version that the client spoke', async t => {
  const pair = await start(t)
  t.strictSame((await forwarded(t, pair, get(''))).values('via'), ['1.1 rockstar-proxy'])
  t.strictSame((await forwarded(t, pair, 'GET /api/x HTTP/1.0\r\n\r\n')).values('via'), ['1.0 rockstar-proxy'])
})

t.test('others in Via are kept, in their order, before us', async t => {
  const pair = await start(t)
  for (const via of ['1.1 other', '1.0 fred, 1.1 p.example.net (Apache/1.1)', 'HTTP/2 edge:443', '1.1 rockstar-proxy2, 1.1 my-rockstar-proxy, 1.1 rockstar-proxy.example']) {
    t.strictSame((await forwarded(t, pair, get(`Via: ${via}\r\n`))).values('via'), [`${via}, 1.1 rockstar-proxy`])
  }
  const lines = await forwarded(t, pair, get('Via: 1.0 a\r\nX-A: 1\r\nvia: 1.1 b, 1.1 c\r\n'))
  t.equal(lines.values('via').join(', '), '1.0 a, 1.1 b, 1.1 c, 1.1 rockstar-proxy')
})

t.test('a request that has been here before is answered with 508', async t => {
  const pair = await start(t)
  for (const via of [
    '1.1 rockstar-proxy', '1.1 ROCKSTAR-Proxy', '1.0 rockstar-proxy', 'HTTP/1.1 rockstar-proxy', '2 rockstar-proxy', '1.1\trockstar-proxy', '1.1   rockstar-proxy',
    '1.1 a, 1.1 rockstar-proxy, 1.1 b', '1.1 a,1.1 rockstar-proxy', '1.1 rockstar-proxy (a comment)', ', ,1.1 rockstar-proxy ,'
  ]) await refused(t, pair, get(`Via: ${via}\r\n`), 508)
  await refused(t, pair, get('Via: 1.1 a\r\nVIA: 1.1 rockstar-proxy\r\n'), 508)
})

t.test('a comment in Via is no proxy', async t => {
  const pair = await start(t)
  const via = '1.1 other (found by, 1.1 rockstar-proxy , long ago)'
  t.strictSame((await forwarded(t, pair, get(`Via: ${via}\r\n`))).values('via'), [`${via}, 1.1 rockstar-proxy`])
})

t.test('naming Via or Max-Forwards in Connection hides no circle', async t => {
  const pair = await start(t)
  await refused(t, pair, get('Connection: Via\r\nVia: 1.1 rockstar-proxy\r\n'), 508)
  await refused(t, pair, 'OPTIONS /api/x HTTP/1.1\r\nHost: gateway\r\nConnection: Max-Forwards\r\nMax-Forwards: 0\r\n\r\n', 200)
})

t.test('via: a name of one\'s own', async t => {
  const pair = await start(t, { via: 'Edge-1' })
  t.strictSame((await forwarded(t, pair, get('Via: 1.1 rockstar-proxy\r\n'))).values('via'), ['1.1 rockstar-proxy, 1.1 Edge-1'])
  await refused(t, pair, get('Via: 1.1 edge-1\r\n'), 508)
})

t.test('via: false writes none, looks for none and keeps those of others', async t => {
  const pair = await start(t, { via: false })
  t.strictSame((await forwarded(t, pair, get(''))).values('via'), [])
  t.equal((await forwarded(t, pair, get('Via: 1.1 rockstar-proxy\r\nVia: 1.0 b\r\n'))).values('via').join(', '), '1.1 rockstar-proxy, 1.0 b')
})

t.test('a proxy that is its own backend is noticed at the second turn', async t => {
  const gateway = await startGateway(t, { routes: [{ prefix: '/' }] })
  gateway.app.proxy.addBackend(gateway.url)
  const response = await ask(gateway, 'GET /x HTTP/1.1\r\nHost: gateway\r\n\r\n')
  t.equal(response.status, 508)
  t.equal(gateway.app.proxy.getMetrics().totalRequests, 1, 'it went round once')
})

t.test('proxies in a row with names of their own are no circle', async t => {
  const backend = await rawBackend(t, () => ok())
  const inner = await startGateway(t, { via: 'inner', backends: [backend.url], routes: [{ prefix: '/' }] })
  const outer = await startGateway(t, { via: 'outer', backends: [inner.url], routes: [{ prefix: '/' }] })
  const response = await ask(outer, 'GET /x HTTP/1.1\r\nHost: gateway\r\n\r\n')
  t.equal(response.status, 200)
  t.strictSame(backend.requests[0].values('via'), ['1.1 outer, 1.1 inner'])
})

t.test('OPTIONS with Max-Forwards: 0 is answered here', async t => {
  const pair = await start(t, { routes: [{ prefix: '/' }] })
  for (const target of ['/x', '*']) {
    for (const value of ['0', '00']) {
      const response = await refused(t, pair, `OPTIONS ${target} HTTP/1.1\r\nHost: gateway\r\nMax-Forwards: ${value}\r\n\r\n`, 200)
      t.strictSame(response.values('allow'), ['DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT'])
      t.strictSame(response.values('content-length'), ['0'])
    }
  }
})

t.test('OPTIONS with Max-Forwards counts down', async t => {
  const pair = await start(t)
  for (const [value, next] of [['1', '0'], ['10', '9'], ['1000', '999'], ['007', '6']]) {
    const request = await forwarded(t, pair, `OPTIONS /api/x HTTP/1.1\r\nHost: gateway\r\nmax-Forwards: ${value}\r\n\r\n`)
    t.strictSame(request.values('max-forwards'), [next])
  }
})

t.test('a Max-Forwards larger than any number stays a number', async t => {
  const pair = await start(t)
  for (const value of ['99999999999999999999', '9'.repeat(30), '9'.repeat(400)]) {
    const request = await forwarded(t, pair, `OPTIONS /api/x HTTP/1.1\r\nHost: gateway\r\nMax-Forwards: ${value}\r\n\r\n`)
    t.match(request.values('max-forwards')[0], /^\d+$/, 'RFC 9110, 7.6.2: 1*DIGIT')
    t.not(request.values('max-forwards')[0], value, 'and less than before')
  }
})

t.test('OPTIONS with a Max-Forwards that is no number is refused', async t => {
  const pair = await start(t)
  for (const value of ['-1', '1.5', '', 'many', '1 1', '0x1', '1e3', '+1', '1,', '\xb2']) {
    await refused(t, pair, `OPTIONS /api/x HTTP/1.1\r\nHost: gateway\r\nMax-Forwards: ${value}\r\n\r\n`, 400)
  }
})

t.test('Max-Forwards means nothing to other methods', async t => {
  const pair = await start(t)
  for (const method of ['GET', 'DELETE', 'POST']) {
    for (const value of ['0', '5', 'junk']) {
      const request = await forwarded(t, pair, `${method} /api/x HTTP/1.1\r\nHost: gateway\r\nMax-Forwards: ${value}\r\n\r\n`)
      t.strictSame(request.values('max-forwards'), [value])
    }
  }
})

t.test('TRACE is refused', async t => {
  const pair = await start(t)
  const client = await pair.gateway.connect()
  const response = await client.send('TRACE /api/x HTTP/1.1\r\nHost: gateway\r\nCookie: secret=1\r\n\r\n').response()
  t.ok(response.status >= 400, `with ${response.status}`)
  t.notMatch(response.head + response.body, 'secret', 'and not answered with what was asked')
  t.equal(pair.backend.requests.length, 0)
})

t.test('TRACE is refused where the application has a route for it', async t => {
  const pair = await start(t, {}, {
    setup: app => {
      app.addHttpMethod('TRACE')
      app.route({ method: 'TRACE', url: '/mine', handler: (request, reply) => app.proxy.forward(request, reply) })
    }
  })
  const response = await refused(t, pair, 'TRACE /mine HTTP/1.1\r\nHost: gateway\r\nMax-Forwards: 0\r\n\r\n', 405)
  t.strictSame(response.values('allow'), ['DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT'])
})

t.test('CONNECT is refused and its connection closed', async t => {
  const pair = await start(t)
  for (const target of ['example.com:443', '127.0.0.1:22', '/api/x']) {
    const client = await pair.gateway.connect()
    client.send(`CONNECT ${target} HTTP/1.1\r\nHost: ${target}\r\n\r\nGET /api/x HTTP/1.1\r\nHost: gateway\r\n\r\n`)
    await until(() => client.ended || client.closed)
    const status = Number(client.received.split(' ')[1])
    t.ok(status >= 400 && status < 600, `${target}: ${status}`)
    t.equal(client.received.split('HTTP/1.1 ').length, 2, 'with one answer')
  }
  t.equal(pair.backend.requests.length, 0)
})

t.test('routes cannot be told to forward TRACE or CONNECT', async t => {
  for (const method of ['TRACE', 'CONNECT', 'trace', 'NO-SUCH-METHOD']) {
    const app = Fastify()
    app.register(rockstarProxy, { routes: [{ prefix: '/api', methods: [method] }] })
    await t.rejects(async () => { await app.ready() }, { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: new RegExp(method, 'i') })
  }
})
