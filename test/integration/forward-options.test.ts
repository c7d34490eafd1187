import t from 'tap'
import type { Test } from 'tap'
import type { FastifyInstance } from 'fastify'
import type { ForwardOptions, HeaderRecord, ProxyResponse, RockstarProxyOptions, RouteOptions } from '../../types/index.ts'
import { startGateway, type Gateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, rawBackend, until, type Message, type RawBackend } from '../helpers/wire.ts'

type Shared = Omit<ForwardOptions, 'path' | 'signal'> & Omit<RouteOptions, 'prefix'>

/** The two ways to say what is to be otherwise for a request: on its route, and in the call. */
const WAYS = ['a route', 'a call', 'a call, its promise ignored'] as const

/** A gateway whose `/x/*` has these options, in one of the ways. */
async function gatewayOf (t: Test, way: typeof WAYS[number], backend: { url: string } | null, options: Shared, root: RockstarProxyOptions = {}, before: (app: FastifyInstance) => void = () => {}): Promise<Gateway> {
  const backends = backend === null ? [] : [{ id: 'b', url: backend.url }]
  if (way === 'a route') return await startGateway(t, { backends, routes: [{ prefix: '/x', ...options }], ...root }, { before })
  return await startGateway(t, { backends, ...root }, {
    before,
    setup: app => {
      app.all('/x/*', (request, reply) => {
        const promise = app.proxy.forward(request, reply, options)
        return way === 'a call' ? promise : undefined
      })
    }
  })
}

/** Sends bytes and takes one response, on a connection of its own. */
async function exchange (gateway: Gateway, head = 'GET /x/ HTTP/1.1\r\nHost: gateway\r\n', body = ''): Promise<Message> {
  const client = await gateway.connect()
  client.send(`${head}\r\n${body}`)
  return await client.response(0, head.split(' ')[0])
}

const namesOf = (message: Message) => message.fields.map(([name]) => name)

// Path

async function pathGateway (t: Test, base = ''): Promise<{ gateway: Gateway, backend: RawBackend }> {
  const backend = await rawBackend(t, request => ok(request.startLine))
  const gateway = await startGateway(t, { backends: [`${backend.url}${base}`] }, {
    setup: app => {
      app.get('/', (request, reply) => app.proxy.forward(request, reply, { path: request.headers['x-path'] as string }))
      app.get('/capture', async request => (await app.proxy.forward(request, undefined, { path: request.headers['x-path'] as string })).text())
    }
  })
  return { gateway, backend }
}

t.test('path replaces that of the client, and its query only when it has one', async t => {
  const { gateway } = await pathGateway(t, '/base')
  const cases = [
    ['/', '/other', 'GET /base/other HTTP/1.1'],
    ['/?a=b', '/other', 'GET /base/other?a=b HTTP/1.1'],
    ['/?a=b', '/other?c=d', 'GET /base/other?c=d HTTP/1.1'],
    ['/?a=b', '/other?', 'GET /base/other? HTTP/1.1'],
    ['/?a=%2F&b=?', '/', 'GET /base/?a=%2F&b=? HTTP/1.1'],
    ['/', '/with%20space;p=1', 'GET /base/with%20space;p=1 HTTP/1.1']
  ]
  for (const [url, path, line] of cases) {
    t.equal((await gateway.app.inject({ url, headers: { 'x-path': path } })).body, line, `${url} to ${path}`)
    t.equal((await gateway.app.inject({ url: url.replace('/', '/capture'), headers: { 'x-path': path } })).body, line, `${url} to ${path}, captured`)
  }
})

t.test('a path that could lead elsewhere is refused, and nothing is sent', async t => {
  const { gateway, backend } = await pathGateway(t, '/base')
  const bad = ['/../admin', '/a/../../admin', '/%2e%2e/admin', '/..%2fadmin', '/.%2e/x', '/..;/x', '/%252e%252e/x', '//host/x', '/%2fhost', '/\\host', '/a\\..\\..', '/%5c..', '/a b', '/#x', '/%00', 'admin', '.admin', '@host/', ':80/', '?a=b', 'http://elsewhere.example/', 'https://elsewhere.example/', '*']
  for (const path of bad) {
    for (const url of ['/', '/capture']) {
      const response = await gateway.app.inject({ url, headers: { 'x-path': path } })
      t.ok(response.statusCode === 400 || response.statusCode === 500, `${url} ${path}: ${response.statusCode}`)
      t.match(response.json().code, /^FST_ROCKSTAR_(BAD_REQUEST|INVALID_OPTIONS)$/, `${url} ${path}`)
    }
  }
  t.strictSame(backend.requests.map(request => request.startLine), [])
})

// Headers of the request

for (const way of WAYS) {
  t.test(`rewriteRequestHeaders changes what is sent, by ${way}`, async t => {
    const backend = await rawBackend(t, request => ok(request.head))
    let given: HeaderRecord = {}
    const gateway = await gatewayOf(t, way, backend, {
      rewriteRequestHeaders: (request, headers) => {
        t.equal(request.headers['x-case'], 'kept', 'it gets the request')
        given = headers
        return { ...headers, 'x-added': 'one', 'x-list': ['1', '2'], 'X-Own-Case': 'yes', 'x-changed': 'new', 'x-removed': undefined, 'x-number': 5 as unknown as string }
      }
    })
    await exchange(gateway, 'GET /x/ HTTP/1.1\r\nHost: gateway\r\nX-Case: kept\r\nX-Changed: old\r\nx-twice: a\r\nX-Twice: b\r\nX-Removed: 1\r\n')
    const [request] = backend.requests
    t.match(given, { 'x-case': 'kept', 'x-changed': 'old', 'x-twice': ['a', 'b'], 'x-removed': '1', via: '1.1 rockstar-proxy' }, 'names in lower case, several values in an array')
    t.strictSame(request.values('x-added'), ['one'])
    t.strictSame(request.values('x-list'), ['1', '2'])
    t.strictSame(request.values('x-changed'), ['new'])
    t.strictSame(request.values('x-removed'), [])
    t.strictSame(request.values('x-number'), ['5'])
    t.strictSame(request.values('x-twice'), ['a', 'b'])
    t.ok(['X-Case', 'X-Changed', 'X-Own-Case'].every(name => namesOf(request).includes(name)), 'spelt as the client or the function did', { found: namesOf(request) })
  })

  t.test(`rewriteHeaders changes what the client gets, by ${way}`, async t => {
    const backend = await rawBackend(t, () => ok('body', 'X-Case: kept\r\nX-Changed: old\r\nX-Removed: 1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n'))
    let given: HeaderRecord = {}
    const gateway = await gatewayOf(t, way, backend, {
      rewriteHeaders: (headers, request) => {
        t.equal(request.headers['x-asked'], 'yes', 'it gets the request')
        given = headers
        const { 'x-removed': _, ...rest } = headers
        return { ...rest, 'x-changed': 'new', 'x-added': ['1', '2'], 'set-cookie': [...headers['set-cookie'] as string[], 'c=3'] }
      }
    })
    const response = await exchange(gateway, 'GET /x/ HTTP/1.1\r\nHost: gateway\r\nX-Asked: yes\r\n')
    t.match(given, { 'x-case': 'kept', 'x-changed': 'old', 'x-removed': '1', 'set-cookie': ['a=1', 'b=2'] })
    t.equal(response.body, 'body')
    t.strictSame(response.values('x-changed'), ['new'])
    t.strictSame(response.values('x-removed'), [])
    t.strictSame(response.values('x-added'), ['1', '2'])
    t.strictSame(response.values('set-cookie'), ['a=1', 'b=2', 'c=3'])
    t.ok(namesOf(response).includes('X-Case') && namesOf(response).includes('X-Changed'), 'spelt as the backend did')
  })

  t.test(`what neither rewriter touches keeps its case, order and repetitions, by ${way}`, async t => {
    const backend = await rawBackend(t, request => ok(request.head, 'X-B: 1\r\nx-a: 2\r\nX-MiXeD: 3\r\nX-Again: 1\r\nX-Again: 2\r\n'))
    const gateway = await gatewayOf(t, way, backend, { rewriteRequestHeaders: (_request, headers) => headers, rewriteHeaders: headers => headers })
    const response = await exchange(gateway, 'GET /x/ HTTP/1.1\r\nHost: gateway\r\nX-Z: 1\r\nx-y: 2\r\nX-mIxEd: 3\r\nX-Dup: 1\r\nX-Dup: 2\r\n')
    t.strictSame(backend.requests[0].fields.filter(([name]) => /^x-(?!forwarded)/i.test(name)), [['X-Z', '1'], ['x-y', '2'], ['X-mIxEd', '3'], ['X-Dup', '1'], ['X-Dup', '2']])
    t.strictSame(response.fields.filter(([name]) => /^x-/i.test(name)), [['X-B', '1'], ['x-a', '2'], ['X-MiXeD', '3'], ['X-Again', '1'], ['X-Again', '2']])
  })

  t.test(`no rewriter can change how a message is framed, by ${way}`, async t => {
    const backend = await rawBackend(t, request => ok(request.body, 'X-A: 1\r\n'))
    const framing = {
      'content-length': '99', 'Content-Length': '98', 'transfer-encoding': 'gzip', 'Transfer-Encoding': 'chunked', connection: 'close, x-a', upgrade: 'h2c', te: 'deflate', trailer: 'x', expect: '100-continue', 'keep-alive': 'timeout=1'
    }
    const gateway = await gatewayOf(t, way, backend, {
      rewriteRequestHeaders: (_request, headers) => ({ ...headers, ...framing }),
      rewriteHeaders: headers => ({ ...headers, ...framing })
    })
    const response = await exchange(gateway, 'POST /x/ HTTP/1.1\r\nHost: gateway\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n', 'body')
    const [request] = backend.requests
    t.equal(request.body, 'body')
    t.equal(response.body, 'body')
    for (const message of [request, response]) {
      t.strictSame(message.values('content-length'), ['4'])
      for (const name of ['transfer-encoding', 'upgrade', 'te', 'trailer', 'expect']) t.strictSame(message.values(name), [], name)
      t.notMatch(message.values('connection').join(), /x-a|close/i)
      t.notMatch(message.values('keep-alive').join(), /timeout=1$/)
    }
    t.strictSame(response.values('x-a'), ['1'])
  })

  t.test(`a rewriter that takes all away leaves the framing, by ${way}`, async t => {
    const backend = await rawBackend(t, request => ok(request.body, 'X-A: 1\r\n'))
    const gateway = await gatewayOf(t, way, backend, { rewriteRequestHeaders: () => ({}), rewriteHeaders: () => ({}) })
    const response = await exchange(gateway, 'POST /x/ HTTP/1.1\r\nHost: gateway\r\nContent-Type: text/plain\r\nContent-Length: 4\r\nX-B: 1\r\n', 'body')
    t.equal(response.body, 'body')
    t.strictSame(response.values('content-length'), ['4'])
    t.strictSame(response.values('x-a'), [])
    t.equal(backend.requests[0].body, 'body')
    t.strictSame(backend.requests[0].values('host'), [`127.0.0.1:${backend.port}`])
    t.strictSame(backend.requests[0].values('x-b'), [])
  })

  t.test(`a header that cannot be sent is refused, and never splits a message, by ${way}`, async t => {
    const backend = await rawBackend(t, () => ok())
    const bad: [string, HeaderRecord][] = [
      ['CR and LF', { 'x-bad': 'a\r\nX-Injected: 1' }], ['CR', { 'x-bad': 'a\rb' }], ['LF', { 'x-bad': 'a\nb' }], ['NUL', { 'x-bad': 'a\0b' }],
      ['LF in a list', { 'x-bad': ['fine', 'a\nb'] }], ['DEL', { 'x-bad': 'a\x7fb' }], ['what is no byte', { 'x-bad': '€' }],
      ['LF in a name', { 'x-bad\nx': '1' }], ['a space in a name', { 'x bad': '1' }], ['an empty name', { '': '1' }], ['a colon in a name', { 'x-bad:': '1' }]
    ]
    let record: HeaderRecord = {}
    const request = await gatewayOf(t, way, backend, { rewriteRequestHeaders: (_request, headers) => ({ ...headers, ...record }) })
    const reply = await gatewayOf(t, way, backend, { rewriteHeaders: headers => ({ ...headers, ...record }) })
    // One way shows all of it, the others that they share it.
    const shown = way === 'a route' ? bad : bad.slice(0, 2)
    for (const [what, headers] of shown) {
      record = headers
      for (const [name, gateway] of [['rewriteRequestHeaders', request], ['rewriteHeaders', reply]] as const) {
        const response = await exchange(gateway)
        t.equal(response.status, 500, `${what}, ${name}`)
        t.match(JSON.parse(response.body), { code: 'FST_ROCKSTAR_INVALID_HEADER', message: new RegExp(`^${name} returned a header that cannot be sent: '`) }, `${what}, ${name}`)
        t.strictSame(response.values('x-injected'), [])
      }
    }
    record = {}
    t.equal((await exchange(request)).status, 200)
    t.equal((await exchange(reply)).status, 200)
    t.equal(backend.requests.length, shown.length + 2, 'no request with such a header was sent')
    t.match(request.app.proxy.getMetrics(), { inFlight: 0 })
    t.match(reply.app.proxy.getMetrics(), { inFlight: 0, backends: { b: { inFlight: 0, failedRequests: 0 } } }, 'and it is no failure of the backend')
  })

  t.test(`a rewriter that throws or returns nothing answers 500, by ${way}`, async t => {
    const backend = await rawBackend(t, () => ok())
    let fail = (): HeaderRecord => ({})
    const request = await gatewayOf(t, way, backend, { rewriteRequestHeaders: () => fail() })
    const reply = await gatewayOf(t, way, backend, { rewriteHeaders: () => fail() })
    for (const gateway of [request, reply]) {
      fail = () => { throw Object.assign(new Error('my own'), { statusCode: 418 }) }
      let response = await exchange(gateway)
      t.equal(response.status, 418)
      t.match(JSON.parse(response.body), { message: 'my own' })
      for (const nothing of [undefined, null, 5, 'x']) {
        fail = () => nothing as unknown as HeaderRecord
        response = await exchange(gateway)
        t.equal(response.status, 500, String(nothing))
        t.match(JSON.parse(response.body), { code: 'FST_ROCKSTAR_INVALID_HEADER' }, String(nothing))
      }
      fail = () => ({})
      t.equal((await exchange(gateway)).status, 200, 'the next one is served')
      t.equal(gateway.app.proxy.getMetrics().inFlight, 0)
    }
  })

  // onResponse

  t.test(`onResponse hears of the head before anything is sent, by ${way}`, async t => {
    const backend = await rawBackend(t, () => ok('body', 'X-A: 1\r\n', '203 Heard'))
    const heard: unknown[] = []
    const gateway = await gatewayOf(t, way, backend, {
      onResponse: (request, reply, response) => {
        heard.push([request.url, reply.sent, response.statusCode, response.statusMessage, response.headers['x-a'], response.backend.id])
      }
    })
    const response = await exchange(gateway)
    t.strictSame(heard, [['/x/', false, 203, 'Heard', '1', 'b']])
    t.equal(response.startLine, 'HTTP/1.1 203 Heard')
    t.equal(response.body, 'body')
  })

  t.test(`onResponse may set headers on the reply, by ${way}`, async t => {
    const backend = await rawBackend(t, () => ok('body', 'X-A: backend\r\n'))
    const gateway = await gatewayOf(t, way, backend, { onResponse: (_request, reply) => { reply.header('x-a', 'own').header('x-b', 'own') } })
    const response = await exchange(gateway)
    t.strictSame(response.values('x-a'), ['own'])
    t.strictSame(response.values('x-b'), ['own'])
    t.equal(response.body, 'body')
  })

  t.test(`onResponse sees the headers as they were rewritten, and changing its copy changes nothing, by ${way}`, async t => {
    const backend = await rawBackend(t, () => ok('body', 'X-A: 1\r\n'))
    let seen: unknown
    const gateway = await gatewayOf(t, way, backend, {
      rewriteHeaders: headers => ({ ...headers, 'x-a': '2' }),
      onResponse: (_request, _reply, response) => {
        seen = response.headers['x-a']
        response.headers['x-a'] = '3'
      }
    })
    const response = await exchange(gateway)
    t.equal(seen, '2')
    t.strictSame(response.values('x-a'), ['2'])
  })

  t.test(`onResponse that takes the body answers itself, by ${way}`, async t => {
    const backend = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nX-Backend: 1\r\nContent-Type: text/x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n')
    const gateway = await gatewayOf(t, way, backend, {
      onResponse: (_request, reply, response) => { reply.code(299).header('x-own', 'yes').send(response.body) }
    })
    const client = await gateway.connect()
    client.send('GET /x/ HTTP/1.1\r\nHost: gateway\r\n\r\n')
    await client.receive('first')
    backend.connections[0].send('6\r\nsecond\r\n0\r\n\r\n')
    const response = await client.response()
    t.equal(response.status, 299)
    t.strictSame(response.values('x-own'), ['yes'])
    t.strictSame(response.values('x-backend'), [], 'nothing of the backend\'s head is sent by itself')
    t.equal(response.body, 'firstsecond')
    t.notOk(gateway.log.some(line => line.level >= 40))
  })

  t.test(`onResponse may take the body and answer later, by ${way}`, async t => {
    const backend = await rawBackend(t, () => ok('hello'))
    const gateway = await gatewayOf(t, way, backend, {
      onResponse: (_request, reply, response) => { response.text().then(text => reply.send(text.toUpperCase())) }
    })
    const response = await exchange(gateway)
    t.equal(response.status, 200)
    t.equal(response.body, 'HELLO')
  })

  t.test(`onResponse that throws answers with its error, by ${way}`, async t => {
    const backend = await rawBackend(t, () => ok('secret'))
    const gateway = await gatewayOf(t, way, backend, { onResponse: () => { throw Object.assign(new Error('my own'), { statusCode: 418 }) } })
    const response = await exchange(gateway)
    t.equal(response.status, 418)
    t.match(JSON.parse(response.body), { message: 'my own' })
    t.notMatch(response.body, /secret/)
    await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
    t.match(gateway.app.proxy.getMetrics().backends.b, { failedRequests: 0, inFlight: 0 })
  })

  // onError

  t.test(`onError hears of a failure and may answer it, by ${way}`, async t => {
    const backend = await rawBackend(t, (_request, wire) => wire.reset())
    const heard: unknown[] = []
    const gateway = await gatewayOf(t, way, backend, {
      onError: (request, reply, error) => {
        heard.push([request.url, reply.sent, (error as Error & { code: string }).code, error.cause instanceof Error])
        reply.code(299).send({ own: 'answer' })
      }
    })
    const response = await exchange(gateway)
    t.strictSame(heard, [['/x/', false, 'FST_ROCKSTAR_RESET', true]])
    t.equal(response.status, 299)
    t.strictSame(JSON.parse(response.body), { own: 'answer' })
    t.notOk(gateway.log.some(line => /already been sent|unhandled/i.test(line.msg)), 'it is answered once')
    t.ok(gateway.log.some(line => line.msg === 'attempt failed'), 'the failed attempt is logged all the same')
  })

  t.test(`onError that does not answer leaves the error to the error handler, by ${way}`, async t => {
    let heard = 0
    const gateway = await gatewayOf(t, way, null, { onError: () => { heard++ } }, {}, app => {
      app.setErrorHandler((error: Error & { code?: string }, _request, reply) => reply.code(298).send(`handled ${error.code}`))
    })
    const response = await exchange(gateway)
    t.equal(heard, 1)
    t.equal(response.status, 298)
    t.equal(response.body, 'handled FST_ROCKSTAR_NO_BACKEND')
  })

  t.test(`onError that throws is logged, and the failure is answered as without it, by ${way}`, async t => {
    const gateway = await gatewayOf(t, way, null, { onError: () => { throw new Error('worse') } })
    const response = await exchange(gateway)
    t.equal(response.status, 503)
    t.match(JSON.parse(response.body), { code: 'FST_ROCKSTAR_NO_BACKEND' })
    t.ok(gateway.log.some(line => line.level >= 50 && (line.err as Error)?.message === 'worse'))
  })

  t.test(`onError and onResponse that are async and reject bring nothing down, by ${way}`, async t => {
    // What a listener returns is nobody's; a rejection that nobody takes would end the process.
    const unhandled: unknown[] = []
    const rejecting = async () => { throw new Error('worse') }
    const backend = await rawBackend(t, () => ok())
    const listener = (error: unknown) => { unhandled.push(error) }
    const others = process.listeners('unhandledRejection')
    process.removeAllListeners('unhandledRejection').on('unhandledRejection', listener)
    t.teardown(() => {
      process.off('unhandledRejection', listener)
      for (const other of others) process.on('unhandledRejection', other)
    })
    const failing = await gatewayOf(t, way, null, { onError: rejecting as () => void })
    t.equal((await exchange(failing)).status, 503)
    const answering = await gatewayOf(t, way, backend, { onResponse: rejecting as () => void })
    await exchange(answering)
    for (let i = 0; i < 20; i++) await new Promise(setImmediate)
    t.strictSame(unhandled, [])
  })

  t.test(`onError hears of what is wrong with the request too, and of a time-out, by ${way}`, async t => {
    const clock = new FakeClock()
    const backend = await rawBackend(t, () => {})
    const codes: string[] = []
    const gateway = await gatewayOf(t, way, backend, { timeout: { headers: 100 }, onError: (_request, _reply, error) => { codes.push((error as Error & { code: string }).code) } }, { clock })
    await exchange(gateway, 'GET /x/ HTTP/1.1\r\nHost: gateway\r\nVia: 1.1 rockstar-proxy\r\n')
    const client = await gateway.connect()
    client.send('GET /x/ HTTP/1.1\r\nHost: gateway\r\n\r\n')
    await until(() => backend.requests.length === 1)
    clock.advance(300)
    t.equal((await client.response()).status, 504)
    t.strictSame(codes, ['FST_ROCKSTAR_LOOP', 'FST_ROCKSTAR_TIMEOUT'])
  })

  t.test(`onError hears nothing of a failure after the head, or of a client that went, by ${way}`, async t => {
    const backend = await rawBackend(t, request => request.startLine.includes('half') ? 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf' : undefined)
    const heard: unknown[] = []
    const gateway = await gatewayOf(t, way, backend, { onError: (_request, _reply, error) => { heard.push(error) } })
    const client = await gateway.connect()
    client.send('GET /x/half HTTP/1.1\r\nHost: gateway\r\n\r\n')
    await client.receive('half')
    backend.connections[0].reset()
    await until(() => client.closed || client.ended)
    const gone = await gateway.connect()
    gone.send('GET /x/wait HTTP/1.1\r\nHost: gateway\r\n\r\n')
    await until(() => backend.requests.length === 2)
    gone.close()
    await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
    await new Promise(setImmediate)
    t.strictSame(heard, [])
  })

  // Time

  t.test(`a time-out holds for what it is given to, by ${way}`, async t => {
    const clock = new FakeClock()
    const backend = await rawBackend(t, () => {})
    const gateway = await gatewayOf(t, way, backend, { timeout: { headers: 1_000 } }, { clock, timeout: { headers: 20_000 } }, app => {
      app.get('/patient', (request, reply) => app.proxy.forward(request, reply))
    })
    const quick = await gateway.connect()
    quick.send('GET /x/ HTTP/1.1\r\nHost: gateway\r\n\r\n')
    const patient = await gateway.connect()
    patient.send('GET /patient HTTP/1.1\r\nHost: gateway\r\n\r\n')
    await until(() => backend.requests.length === 2)
    clock.advance(900)
    await new Promise(setImmediate)
    t.equal(quick.received, '')
    clock.advance(500)
    t.equal((await quick.response()).status, 504)
    t.equal(patient.received, '')
    clock.advance(20_000)
    t.equal((await patient.response()).status, 504)
  })

  t.test(`a time-out that is undefined is as the upstream says, by ${way}`, async t => {
    const clock = new FakeClock()
    const backend = await rawBackend(t, () => {})
    const gateway = await gatewayOf(t, way, backend, { timeout: { headers: undefined } }, { clock, timeout: { headers: 1_000, request: 0 } })
    const client = await gateway.connect()
    client.send('GET /x/ HTTP/1.1\r\nHost: gateway\r\n\r\n')
    await until(() => backend.requests.length === 1)
    clock.advance(2_000)
    t.match(gateway.app.proxy.getMetrics(), { inFlight: 0 })
  })

  t.test(`preserveHost is that of the upstream unless it says otherwise, by ${way}`, async t => {
    const backend = await rawBackend(t, () => ok())
    const own = `127.0.0.1:${backend.port}`
    for (const [upstream, given, expected] of [[false, undefined, own], [false, true, 'client.example'], [true, undefined, 'client.example'], [true, false, own]] as const) {
      const gateway = await gatewayOf(t, way, backend, { preserveHost: given }, { preserveHost: upstream })
      await exchange(gateway, 'GET /x/ HTTP/1.1\r\nHost: client.example\r\n')
      t.strictSame(backend.requests.at(-1)?.values('host'), [expected], `upstream ${upstream}, ${given}`)
    }
  })
}

t.test('preserveHost and a host that rewriteRequestHeaders sets: the function has the last word', async t => {
  const backend = await rawBackend(t, () => ok())
  const gateway = await gatewayOf(t, 'a route', backend, { preserveHost: true, rewriteRequestHeaders: (_request, headers) => ({ ...headers, host: 'rewritten.example' }) })
  await exchange(gateway, 'GET /x/ HTTP/1.1\r\nHost: client.example\r\n')
  t.strictSame(backend.requests[0].values('host'), ['rewritten.example'])
})

t.test('a body that is asked for after onResponse has returned is not to be had, and the client gets its answer', async t => {
  const uses: Record<string, (response: ProxyResponse) => unknown> = {
    destroy: response => response.body.destroy(),
    read: response => response.body.resume(),
    text: response => response.text()
  }
  for (const [name, use] of Object.entries(uses)) {
    const backend = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst')
    let late: ProxyResponse | undefined
    const gateway = await gatewayOf(t, 'a route', backend, { onResponse: (_request, _reply, response) => { late = response } })
    const client = await gateway.connect()
    client.send('GET /x/ HTTP/1.1\r\nHost: gateway\r\n\r\n')
    await client.receive('first')
    let outcome = 'pending'
    Promise.resolve().then(() => use(late as ProxyResponse)).then(() => { outcome = 'fulfilled' }, () => { outcome = 'rejected' })
    await new Promise(setImmediate)
    backend.connections[0].send('final')
    t.equal((await client.response()).body, 'firstfinal', name)
    for (let i = 0; i < 20; i++) await new Promise(setImmediate)
    t.not(outcome, 'pending', `${name}: nobody waits for ever`)
  }
})

t.test('headers set on Node\'s own response are kept, and cost the backend none of its', async t => {
  const backend = await rawBackend(t, () => ok('body', 'Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Twice: 1\r\nX-Twice: 2\r\n'))
  for (const hooked of [false, true]) {
    const gateway = await gatewayOf(t, 'a route', backend, {}, {}, app => {
      app.addHook('onRequest', async (_request, reply) => { reply.raw.setHeader('X-Middleware', 'was here') })
      if (hooked) app.addHook('onSend', async () => {})
    })
    const response = await exchange(gateway)
    t.strictSame(response.values('x-middleware'), ['was here'], `hooks: ${hooked}`)
    t.strictSame(response.values('set-cookie'), ['a=1', 'b=2'], `hooks: ${hooked}`)
    t.strictSame(response.values('x-twice'), ['1', '2'], `hooks: ${hooked}`)
  }
})

t.test('a rewriter works on a captured answer too', async t => {
  const backend = await rawBackend(t, request => ok(request.values('x-a').join(), 'X-B: 1\r\n'))
  let response: ProxyResponse | undefined
  const gateway = await startGateway(t, { backends: [backend.url] }, {
    setup: app => {
      app.get('/', async request => {
        response = await app.proxy.forward(request, undefined, {
          rewriteRequestHeaders: (_request, headers) => ({ ...headers, 'x-a': 'sent' }),
          rewriteHeaders: headers => ({ ...headers, 'x-b': '2' })
        })
        return await response.text()
      })
    }
  })
  t.equal((await gateway.app.inject('/')).body, 'sent')
  t.equal(response?.headers['x-b'], '2')
})

t.test('onError and onResponse are heard of a captured answer too', async t => {
  const backend = await rawBackend(t, request => request.startLine.includes('/ok') ? ok('body') : 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n')
  const heard: unknown[] = []
  const gateway = await startGateway(t, { backends: [backend.url] }, {
    setup: app => {
      app.get('/*', async request => (await app.proxy.forward(request, undefined, {
        onResponse: (request, _reply, response) => { heard.push([request.url, response.statusCode]) },
        onError: (request, _reply, error) => { heard.push([request.url, (error as Error & { code: string }).code]) }
      })).text())
    }
  })
  t.equal((await gateway.app.inject('/ok')).body, 'body')
  t.equal((await gateway.app.inject('/bad')).statusCode, 502)
  t.ok(heard.length === 0 || heard.length === 2, 'both or none: the handler hears of either by the promise', { found: heard })
})

// Signal

t.test('a signal gives an exchange up: before it, before the head, and in the body', async t => {
  const backend = await rawBackend(t, request => request.startLine.includes('/body') ? 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf' : undefined)
  const reason = new Error('enough')
  let controller = new AbortController()
  const gateway = await startGateway(t, { backends: [{ id: 'b', url: backend.url }] }, {
    setup: app => { app.get('/*', (request, reply) => app.proxy.forward(request, reply, { signal: controller.signal })) }
  })
  controller.abort(reason)
  const before = await gateway.app.inject('/before')
  t.equal(before.statusCode, 503)
  t.match(before.json(), { code: 'FST_ROCKSTAR_ABORTED' })
  t.equal(backend.connections.length, 0, 'nothing was sent')

  controller = new AbortController()
  const early = gateway.app.inject('/head')
  await until(() => backend.requests.length === 1)
  controller.abort(reason)
  t.equal((await early).statusCode, 503)
  await until(() => backend.connections[0].closed || backend.connections[0].ended)

  controller = new AbortController()
  const client = await gateway.connect()
  client.send('GET /body HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await client.receive('half')
  controller.abort(reason)
  await until(() => client.closed || client.ended)
  t.equal(client.received.split('\r\n\r\n')[1], 'half', 'the answer is cut short, not ended')
  await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
  t.match(gateway.app.proxy.getMetrics().backends.b, { failedRequests: 0, abortedRequests: 2 })
})

t.test('a signal that aborts after the end changes nothing, and keeps no listener', async t => {
  const backend = await rawBackend(t, () => ok())
  const controller = new AbortController()
  const { signal } = controller
  let listening = 0
  const { addEventListener, removeEventListener } = signal
  signal.addEventListener = function (...args: unknown[]) { listening++; return (addEventListener as (...args: unknown[]) => void).apply(this, args) }
  signal.removeEventListener = function (...args: unknown[]) { listening--; return (removeEventListener as (...args: unknown[]) => void).apply(this, args) }
  const gateway = await startGateway(t, { backends: [backend.url] }, {
    setup: app => { app.get('/', (request, reply) => app.proxy.forward(request, reply, { signal })) }
  })
  for (let i = 0; i < 3; i++) t.equal((await gateway.app.inject('/')).statusCode, 200)
  t.ok(listening <= 0)
  controller.abort()
  await new Promise(setImmediate)
  t.match(gateway.app.proxy.getMetrics(), { successfulRequests: 3, inFlight: 0 })
})

// The promise of forward()

t.test('the promise may be returned, awaited or ignored, for an answer and for a failure', async t => {
  const backend = await rawBackend(t, request => ok(request.startLine))
  const gateway = await startGateway(t, { backends: [backend.url], upstreams: { none: {} } }, {
    setup: app => {
      for (const [prefix, upstream] of [['/ok', 'default'], ['/none', 'none']]) {
        app.get(`${prefix}/return`, (request, reply) => app.proxy.forward(request, reply, { upstream }))
        app.get(`${prefix}/async-return`, async (request, reply) => app.proxy.forward(request, reply, { upstream }))
        app.get(`${prefix}/await`, async (request, reply) => {
          await app.proxy.forward(request, reply, { upstream })
          return reply
        })
        app.get(`${prefix}/ignore`, (request, reply) => { app.proxy.forward(request, reply, { upstream }) })
        app.get(`${prefix}/async-ignore`, async (request, reply) => {
          app.proxy.forward(request, reply, { upstream })
          return reply
        })
        app.get(`${prefix}/catch`, async (request, reply) => {
          await app.proxy.forward(request, reply, { upstream }).catch(error => reply.code(error.statusCode).send(error))
          return reply
        })
      }
    }
  })
  for (const how of ['return', 'async-return', 'await', 'ignore', 'async-ignore', 'catch']) {
    const answer = await gateway.app.inject(`/ok/${how}`)
    t.equal(answer.statusCode, 200, how)
    t.equal(answer.body, `GET /ok/${how} HTTP/1.1`, how)
    const failure = await gateway.app.inject(`/none/${how}`)
    t.equal(failure.statusCode, 503, how)
    t.match(failure.json(), { code: 'FST_ROCKSTAR_NO_BACKEND' }, how)
  }
  t.notOk(gateway.log.some(line => /already|unhandled/i.test(line.msg)))
})

t.test('a failure that the handler catches is for the handler to answer', async t => {
  const gateway = await startGateway(t, {}, {
    setup: app => {
      app.get('/', async (request, reply) => {
        try {
          await app.proxy.forward(request, reply)
        } catch (error) {
          return reply.code(299).send(`caught ${(error as { code: string }).code}`)
        }
      })
    }
  })
  const response = await gateway.app.inject('/')
  t.equal(response.statusCode, 299)
  t.equal(response.body, 'caught FST_ROCKSTAR_NO_BACKEND')
})

t.test('a second forward() into the same reply harms nobody', async t => {
  const backend = await rawBackend(t, () => ok('once'))
  const gateway = await startGateway(t, { backends: [{ id: 'b', url: backend.url }] }, {
    setup: app => {
      app.get('/', (request, reply) => {
        app.proxy.forward(request, reply).catch(() => {})
        app.proxy.forward(request, reply).catch(() => {})
      })
    }
  })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  const response = await client.response()
  t.equal(response.body, 'once')
  await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
  const from = client.received.length
  t.equal(from, response.length, 'one answer')
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  t.equal((await client.response(from)).body, 'once')
})
