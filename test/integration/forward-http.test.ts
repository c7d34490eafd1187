import { gzipSync } from 'node:zlib'
import t from 'tap'
import type { Test } from 'tap'
import { ProxyManager } from '../../lib/proxy-manager.ts'
import type { RockstarProxyOptions } from '../../types/index.ts'
import { httpBackend, startGateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, rawBackend, until, type RawBackend } from '../helpers/wire.ts'

/** A proxy without an app: forwardHttp() needs none. */
function proxyTo (t: Test, backend: { url: string } | null, options: RockstarProxyOptions = {}): ProxyManager {
  const proxy = new ProxyManager({ backends: backend === null ? [] : [{ id: 'b', url: backend.url }], shutdownTimeout: 0, retry: false, ...options })
  t.teardown(() => proxy.close())
  return proxy
}

const ask = (path = '/', init: RequestInit & { duplex?: 'half' } = {}) => new Request(`http://gateway.example${path}`, init)

/** A body whose chunks a test hands out one by one. */
function handedOut () {
  let controller: ReadableStreamDefaultController<Uint8Array> | undefined
  let cancelled: unknown = null
  const stream = new ReadableStream<Uint8Array>({
    start: given => { controller = given },
    cancel: reason => { cancelled = reason ?? 'cancelled' }
  })
  return {
    stream,
    push: (text: string) => controller?.enqueue(Buffer.from(text)),
    end: () => controller?.close(),
    fail: (error: Error) => controller?.error(error),
    get cancelled () { return cancelled }
  }
}

const gone = (backend: RawBackend, at = 0) => until(() => backend.connections[at].closed || backend.connections[at].ended)
const decoder = new TextDecoder()

t.test('a Request goes in, a Response comes out', async t => {
  const backend = await rawBackend(t, request => ok(request.body.toUpperCase(), 'Content-Type: text/plain\r\nX-One: 1\r\n', '201 Made Here'))
  const proxy = proxyTo(t, backend)
  const response = await proxy.forwardHttp(ask('/a%20b/c?d=e%2Ff', { method: 'POST', body: 'hello', headers: { 'X-Own': 'yes', 'Content-Type': 'text/x' } }))
  t.type(response, Response)
  t.equal(response.status, 201)
  t.equal(response.statusText, 'Made Here')
  t.ok(response.ok)
  t.equal(response.headers.get('content-type'), 'text/plain')
  t.equal(response.headers.get('x-one'), '1')
  t.equal(response.headers.get('via'), '1.1 rockstar-proxy')
  t.equal(await response.text(), 'HELLO')
  const [request] = backend.requests
  t.equal(request.startLine, 'POST /a%20b/c?d=e%2Ff HTTP/1.1')
  t.equal(request.body, 'hello')
  t.strictSame(request.values('x-own'), ['yes'])
  t.strictSame(request.values('content-type'), ['text/x'])
  t.strictSame(request.values('via'), ['1.1 rockstar-proxy'])
  t.strictSame(request.values('host'), [`127.0.0.1:${backend.port}`], 'the backend\'s own host')
})

t.test('it works in a handler, beside an app', async t => {
  const backend = await rawBackend(t, () => ok('from the backend'))
  const gateway = await startGateway(t, { backends: [backend.url] }, {
    setup: app => { app.get('/', async () => await (await app.proxy.forwardHttp(ask('/x'))).text()) }
  })
  t.equal((await gateway.app.inject('/')).body, 'from the backend')
})

t.test('the first chunk of a response is there before the second is sent', async t => {
  const backend = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n')
  const response = await proxyTo(t, backend).forwardHttp(ask())
  const reader = (response.body as ReadableStream<Uint8Array>).getReader()
  t.equal(decoder.decode((await reader.read()).value), 'first')
  backend.connections[0].send('6\r\nsecond\r\n0\r\n\r\n')
  t.equal(decoder.decode((await reader.read()).value), 'second')
  t.ok((await reader.read()).done)
})

t.test('the first chunk of a request is sent before the second is there', async t => {
  const backend = await rawBackend(t, request => ok(request.body))
  const body = handedOut()
  const answer = proxyTo(t, backend).forwardHttp(ask('/', { method: 'POST', body: body.stream, duplex: 'half' }))
  body.push('first')
  await until(() => backend.connections[0]?.received.includes('first') === true)
  t.match(backend.connections[0].received, /\r\ntransfer-encoding: chunked\r\n/i)
  body.push('second')
  body.end()
  t.equal(await (await answer).text(), 'firstsecond')
})

t.test('both ways stream at once', async t => {
  const backend = await httpBackend(t, (request, response) => {
    response.writeHead(200)
    request.pipe(response)
  })
  const body = handedOut()
  const answer = proxyTo(t, backend).forwardHttp(ask('/', { method: 'POST', body: body.stream, duplex: 'half' }))
  body.push('ping')
  const reader = ((await answer).body as ReadableStream<Uint8Array>).getReader()
  t.equal(decoder.decode((await reader.read()).value), 'ping')
  body.push('pong')
  t.equal(decoder.decode((await reader.read()).value), 'pong')
  body.end()
  t.ok((await reader.read()).done)
})

t.test('big bodies pass whole, both ways', async t => {
  const backend = await httpBackend(t, (request, response) => { request.pipe(response) })
  const bytes = Buffer.alloc(3_000_000, 'abcdefghij')
  const response = await proxyTo(t, backend).forwardHttp(ask('/', { method: 'PUT', body: bytes }))
  t.ok(Buffer.from(await response.arrayBuffer()).equals(bytes))
})

/** Waits until a count stands still. */
async function settled (count: () => number): Promise<number> {
  let before = -1
  while (before !== count()) {
    before = count()
    for (let i = 0; i < 300; i++) await new Promise(setImmediate)
  }
  return before
}

t.test('a response that nobody reads holds its backend back', async t => {
  const total = 64 * 1024 * 1024
  let sent = 0
  const backend = await httpBackend(t, (_request, response) => {
    response.writeHead(200, { 'content-length': total })
    const write = () => {
      while (!response.destroyed && sent < total) {
        sent += 65_536
        if (!response.write(Buffer.alloc(65_536))) return
      }
      response.end()
    }
    response.on('drain', write)
    write()
  })
  const response = await proxyTo(t, backend).forwardHttp(ask())
  t.ok(await settled(() => sent) < total / 2, `${sent} of ${total} bytes were sent`)
  let size = 0
  for await (const chunk of response.body as unknown as AsyncIterable<Uint8Array>) size += chunk.length
  t.equal(size, total)
})

t.test('a backend that takes nothing holds the request\'s body back', async t => {
  const total = 64 * 1024 * 1024
  let made = 0
  const stream = new ReadableStream<Uint8Array>({
    pull: controller => {
      made += 65_536
      controller.enqueue(new Uint8Array(65_536))
      if (made >= total) controller.close()
    }
  }, { highWaterMark: 0 })
  let resume = (): void => {}
  const backend = await httpBackend(t, (request, response) => {
    resume = () => {
      let size = 0
      request.on('data', chunk => { size += chunk.length })
      request.on('end', () => response.end(String(size)))
    }
  })
  const answer = proxyTo(t, backend).forwardHttp(ask('/', { method: 'POST', body: stream, duplex: 'half' }))
  await until(() => made > 0)
  t.ok(await settled(() => made) < total / 2, `${made} of ${total} bytes were made`)
  resume()
  t.equal(await (await answer).text(), String(total))
})

// What a Response must be able to say

t.test('answers without a body have none, and keep what they say of it', async t => {
  const cases: [string, string, number, string | null][] = [
    ['HEAD', 'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n', 200, '500'],
    ['GET', 'HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n', 204, null],
    ['GET', 'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 500\r\n\r\n', 304, '500'],
    ['GET', 'HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n', 205, '0']
  ]
  for (const [method, head, status, length] of cases) {
    const backend = await rawBackend(t, () => head)
    const proxy = proxyTo(t, backend)
    const response = await proxy.forwardHttp(ask('/', { method }))
    t.equal(response.status, status, method)
    t.equal(response.body, null, `${method} ${status}`)
    t.equal(response.headers.get('content-length'), length, `${method} ${status}`)
    t.equal(await response.text(), '', `${method} ${status}`)
    await until(() => proxy.getConnectionPool().stats().active === 0)
  }
})

t.test('a body that an answer must not have loses nothing but itself', async t => {
  const backend = await rawBackend(t, () => 'HTTP/1.1 205 Reset Content\r\nContent-Length: 4\r\n\r\nbody')
  const proxy = proxyTo(t, backend)
  const response = await proxy.forwardHttp(ask())
  t.equal(response.status, 205)
  t.equal(response.body, null)
  await until(() => proxy.getMetrics().inFlight === 0)
  t.pass('its connection is free')
})

t.test('an empty body is one that ends at once', async t => {
  const backend = await rawBackend(t, () => ok(''))
  const response = await proxyTo(t, backend).forwardHttp(ask())
  t.equal(await response.text(), '')
})

t.test('several cookies stay several, several values of a field are joined', async t => {
  const backend = await rawBackend(t, () => ok('', 'Set-Cookie: a=1; Path=/\r\nSet-Cookie: b=2, c\r\nset-cookie: d=3\r\nVary: A\r\nVary: B\r\n'))
  const { headers } = await proxyTo(t, backend).forwardHttp(ask())
  t.strictSame(headers.getSetCookie(), ['a=1; Path=/', 'b=2, c', 'd=3'])
  t.equal(headers.get('vary'), 'A, B')
})

t.test('the reason phrase comes through: any, none, and bytes beyond ASCII', async t => {
  for (const [phrase, expected] of [['Fine By Me', 'Fine By Me'], ['', ''], ['Gr\xfc\xdfe', 'Gr\xfc\xdfe']]) {
    const backend = await rawBackend(t, () => `HTTP/1.1 299 ${phrase}\r\nContent-Length: 0\r\nX-Bytes: \xe4\xff\r\n\r\n`)
    const response = await proxyTo(t, backend).forwardHttp(ask())
    t.equal(response.statusText, expected)
    t.equal(response.headers.get('x-bytes'), '\xe4\xff')
  }
})

t.test('redirects are not followed', async t => {
  const backend = await rawBackend(t, () => ok('', 'Location: /elsewhere\r\n', '302 Found'))
  for (const redirect of ['follow', 'error', 'manual'] as const) {
    const response = await proxyTo(t, backend).forwardHttp(ask('/', { redirect }))
    t.equal(response.status, 302, redirect)
    t.equal(response.headers.get('location'), '/elsewhere', redirect)
    t.notOk(response.redirected)
  }
  t.equal(backend.requests.length, 3)
})

t.test('nothing is decompressed, and nothing compressed is asked for', async t => {
  const zipped = gzipSync('hello')
  const backend = await rawBackend(t, () => Buffer.concat([Buffer.from(`HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: ${zipped.length}\r\n\r\n`), zipped]))
  const response = await proxyTo(t, backend).forwardHttp(ask())
  t.equal(response.headers.get('content-encoding'), 'gzip')
  t.equal(response.headers.get('content-length'), String(zipped.length))
  t.ok(Buffer.from(await response.arrayBuffer()).equals(zipped))
  t.strictSame(backend.requests[0].values('accept-encoding'), [])
})

t.test('an error status is a Response', async t => {
  const backend = await rawBackend(t, () => ok('sorry', '', '500 Broken'))
  const response = await proxyTo(t, backend).forwardHttp(ask())
  t.equal(response.status, 500)
  t.equal(await response.text(), 'sorry')
})

// Methods and headers

t.test('every method is sent as it is, with a body or without', async t => {
  const backend = await rawBackend(t, request => request.startLine.startsWith('HEAD') ? 'HTTP/1.1 200 OK\r\n\r\n' : ok(`${request.startLine.split(' ')[0]} ${request.body}`))
  const proxy = proxyTo(t, backend)
  for (const method of ['GET', 'DELETE', 'OPTIONS', 'POST', 'PUT', 'PATCH', 'PURGE']) {
    t.equal(await (await proxy.forwardHttp(ask('/', { method }))).text(), `${method} `)
  }
  for (const method of ['DELETE', 'POST', 'PATCH']) {
    t.equal(await (await proxy.forwardHttp(ask('/', { method, body: 'b' }))).text(), `${method} b`)
  }
})

t.test('a request without a body has no framing of one', async t => {
  const backend = await rawBackend(t, () => ok())
  await proxyTo(t, backend).forwardHttp(ask())
  t.strictSame(backend.requests[0].values('transfer-encoding'), [])
  t.strictSame(backend.requests[0].values('content-length'), [])
})

t.test('hop-by-hop fields do not pass, either way; end-to-end ones do', async t => {
  const backend = await rawBackend(t, () => ok('', 'Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\nX-End: 1\r\n'))
  const response = await proxyTo(t, backend).forwardHttp(ask('/', {
    headers: {
      'Keep-Alive': 'timeout=5',
      'Proxy-Authorization': 'Basic x',
      'Proxy-Connection': 'keep-alive',
      TE: 'trailers, deflate',
      Trailer: 'X-Sum',
      Upgrade: 'h2c',
      'HTTP2-Settings': 'x',
      Expect: '100-continue',
      Host: 'evil.example',
      'Content-Length': '99',
      'Transfer-Encoding': 'gzip',
      Authorization: 'Bearer kept',
      Cookie: 'a=b',
      Accept: 'text/x',
      'Content-Location': '/kept',
      'X-Forwarded-For': '192.0.2.1',
      Forwarded: 'for=192.0.2.1'
    }
  }))
  const [request] = backend.requests
  for (const name of ['keep-alive', 'proxy-authorization', 'proxy-connection', 'te', 'trailer', 'upgrade', 'http2-settings', 'expect', 'content-length', 'transfer-encoding']) {
    t.strictSame(request.values(name), [], name)
  }
  t.strictSame(request.values('host'), [`127.0.0.1:${backend.port}`])
  for (const [name, value] of [['authorization', 'Bearer kept'], ['cookie', 'a=b'], ['accept', 'text/x'], ['content-location', '/kept'], ['x-forwarded-for', '192.0.2.1'], ['forwarded', 'for=192.0.2.1']]) {
    t.strictSame(request.values(name), [value], name)
  }
  for (const name of ['connection', 'x-hop', 'keep-alive', 'proxy-authenticate', 'upgrade']) t.equal(response.headers.get(name), null, name)
  t.equal(response.headers.get('x-end'), '1')
})

t.test('what the Connection field of a request names does not pass', async t => {
  const backend = await rawBackend(t, () => ok())
  await proxyTo(t, backend).forwardHttp(ask('/', { headers: { Connection: 'close, X-Secret', 'X-Secret': '1', 'X-Open': '2' } }))
  const [request] = backend.requests
  t.strictSame(request.values('x-secret'), [])
  t.strictSame(request.values('x-open'), ['2'])
  t.notMatch(request.values('connection').join(), /secret/i)
})

t.test('Via is added to what is there, and our own stops a circle', async t => {
  const backend = await rawBackend(t, () => ok())
  const proxy = proxyTo(t, backend)
  await proxy.forwardHttp(ask('/', { headers: { Via: '1.0 first, 1.1 second (a comment)' } }))
  t.equal(backend.requests[0].values('via').join(', '), '1.0 first, 1.1 second (a comment), 1.1 rockstar-proxy')
  for (const via of ['1.1 rockstar-proxy', '1.0 first, 1.1 Rockstar-Proxy (comment)', '1.1 rockstar-proxy, 1.1 last']) {
    await t.rejects(proxy.forwardHttp(ask('/', { headers: { Via: via } })), { code: 'FST_ROCKSTAR_LOOP', statusCode: 508 }, via)
  }
  for (const via of ['1.1 rockstar-proxy-eu', '1.1 my-rockstar-proxy', '1.1 edge (not rockstar-proxy)']) {
    t.equal((await proxy.forwardHttp(ask('/', { headers: { Via: via } }))).status, 200, `${via} is another proxy`)
  }
  const silent = proxyTo(t, backend, { via: false })
  const from = backend.requests.length
  t.equal((await silent.forwardHttp(ask('/', { headers: { Via: '1.1 rockstar-proxy' } }))).headers.get('via'), null)
  t.strictSame(backend.requests[from].values('via'), ['1.1 rockstar-proxy'])
})

t.test('preserveHost sends the host of the request', async t => {
  const backend = await rawBackend(t, () => ok())
  await proxyTo(t, backend, { preserveHost: true }).forwardHttp(new Request('http://asked.example:8080/x'))
  t.strictSame(backend.requests[0].values('host'), ['asked.example:8080'])
})

// Paths

t.test('the path is that of the request, or the one given', async t => {
  const backend = await rawBackend(t, request => ok(request.startLine.split(' ')[1]))
  const base = proxyTo(t, { url: `${backend.url}/base` })
  t.equal(await (await base.forwardHttp(ask('/a/b?c#fragment'))).text(), '/base/a/b?c')
  t.equal(await (await base.forwardHttp(ask('/a?b'), { path: '/other' })).text(), '/base/other')
  t.equal(await (await base.forwardHttp(ask('/a?b'), { path: '/other?c=d' })).text(), '/base/other?c=d')
})

t.test('paths that could leave where they belong are refused', async t => {
  const backend = await rawBackend(t, () => ok())
  const proxy = proxyTo(t, { url: `${backend.url}/base` })
  for (const path of ['/..%2fadmin', '/%2e%2e%2fadmin', '//host/x', '/a/..;/b', '/%252e%252e%252fadmin', '/a%5c..%5cb', '/%00']) {
    await t.rejects(proxy.forwardHttp(ask(path)), { code: 'FST_ROCKSTAR_BAD_REQUEST', statusCode: 400 }, `the request's ${path}`)
  }
  for (const path of ['/../admin', '/a/../../admin', '/%2e%2e/admin', '\\\\host', '/a b', '/a\r\nX-Injected: 1', '/€', '/#x', '//host', 'admin', '', 'http://elsewhere.example/', '@elsewhere', '?a=b']) {
    await t.rejects(proxy.forwardHttp(ask(), { path }), { code: /^FST_ROCKSTAR_(BAD_REQUEST|INVALID_OPTIONS)$/ }, `the given ${JSON.stringify(path)}`)
  }
  t.strictSame(backend.requests.map(request => request.startLine), [], 'nothing was sent')
})

// Failures and aborts

t.test('it rejects with codes, and blames who is to blame', async t => {
  const silent = await rawBackend(t, () => {})
  silent.close()
  await t.rejects(proxyTo(t, null).forwardHttp(ask()), { code: 'FST_ROCKSTAR_NO_BACKEND', statusCode: 503 })
  await t.rejects(proxyTo(t, silent).forwardHttp(ask()), { code: 'FST_ROCKSTAR_CONNECT', statusCode: 502, cause: { code: 'ECONNREFUSED' } })
  const resetting = await rawBackend(t, (_request, wire) => wire.reset())
  const proxy = proxyTo(t, resetting)
  await t.rejects(proxy.forwardHttp(ask()), { code: 'FST_ROCKSTAR_RESET', statusCode: 502 })
  t.match(proxy.getMetrics(), { totalRequests: 1, failedRequests: 1, inFlight: 0, backends: { b: { failedRequests: 1 } } })
})

t.test('it rejects, it never throws', async t => {
  const proxy = proxyTo(t, null)
  for (const call of [() => proxy.forwardHttp(ask('//x')), () => proxy.forwardHttp(undefined as never), () => proxy.forwardHttp(ask(), { path: '/..' })]) {
    let promise: Promise<unknown> | undefined
    t.doesNotThrow(() => { promise = call() })
    await t.rejects(promise as Promise<unknown>)
  }
})

t.test('each step has its time, that of the upstream or of the call', async t => {
  const backend = await rawBackend(t, request => request.startLine.includes('/half') ? 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf' : undefined)
  const clock = new FakeClock()
  const proxy = proxyTo(t, backend, { clock, timeout: { headers: 20_000 } })
  const slow = proxy.forwardHttp(ask())
  await until(() => backend.requests.length === 1)
  clock.advance(19_000)
  const quick = proxy.forwardHttp(ask(), { timeout: { headers: 100 } })
  await until(() => backend.requests.length === 2)
  clock.advance(300)
  await t.rejects(quick, { code: 'FST_ROCKSTAR_TIMEOUT', statusCode: 504 })
  clock.advance(2_000)
  await t.rejects(slow, { code: 'FST_ROCKSTAR_TIMEOUT' })

  const half = await proxy.forwardHttp(ask('/half'), { timeout: { idle: 100 } })
  const text = half.text()
  clock.advance(300)
  await t.rejects(text)
  const wire = backend.connections.find(wire => wire.received.includes('/half'))
  await until(() => wire?.closed === true || wire?.ended === true)
})

for (const [kind, init] of Object.entries<(signal: AbortSignal) => Parameters<ProxyManager['forwardHttp']>>({
  'the signal of the request': signal => [ask('/', { signal })],
  'the signal of the call': signal => [ask(), { signal }]
})) {
  t.test(`${kind} gives up: before it, before the head, in the body`, async t => {
    const backend = await rawBackend(t, () => undefined)
    const proxy = proxyTo(t, backend)
    const reason = new Error('enough')
    await t.rejects(proxy.forwardHttp(...init(AbortSignal.abort(reason))), { code: 'FST_ROCKSTAR_ABORTED', cause: reason })
    t.equal(backend.connections.length, 0, 'nothing was sent')

    const early = new AbortController()
    const answer = proxy.forwardHttp(...init(early.signal))
    await until(() => backend.requests.length === 1)
    early.abort(reason)
    await t.rejects(answer, { code: 'FST_ROCKSTAR_ABORTED', cause: reason })
    await gone(backend)

    const late = new AbortController()
    const second = proxy.forwardHttp(...init(late.signal))
    await until(() => backend.requests.length === 2)
    const wire = backend.connections.find(wire => wire.received !== '' && !wire.closed && !wire.ended)
    wire?.send('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf')
    const reader = ((await second).body as ReadableStream<Uint8Array>).getReader()
    t.equal(decoder.decode((await reader.read()).value), 'half')
    late.abort(reason)
    await t.rejects(reader.read(), { code: 'FST_ROCKSTAR_ABORTED' })
    await until(() => wire?.closed === true || wire?.ended === true)
    await until(() => proxy.getMetrics().inFlight === 0)
    t.match(proxy.getMetrics().backends.b, { failedRequests: 0, abortedRequests: 2 }, 'no failure of the backend')
  })
}

t.test('either signal gives up when both are there', async t => {
  const backend = await rawBackend(t, () => undefined)
  const proxy = proxyTo(t, backend)
  for (const which of [0, 1]) {
    const controllers = [new AbortController(), new AbortController()]
    const answer = proxy.forwardHttp(ask('/', { signal: controllers[0].signal }), { signal: controllers[1].signal })
    const count = backend.requests.length
    await until(() => backend.requests.length > count)
    controllers[which].abort()
    await t.rejects(answer, { code: 'FST_ROCKSTAR_ABORTED' })
  }
})

t.test('a body that its reader lets go of lets the backend go', async t => {
  const backend = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf')
  const proxy = proxyTo(t, backend)
  const response = await proxy.forwardHttp(ask())
  await response.body?.cancel()
  await gone(backend)
  await until(() => proxy.getMetrics().inFlight === 0)
  t.match(proxy.getMetrics(), { failedRequests: 0 })
})

t.test('a small body that nobody reads gives its connection back at once', async t => {
  const backend = await rawBackend(t, () => ok('x'.repeat(1_000)))
  const proxy = proxyTo(t, backend)
  for (let i = 0; i < 3; i++) {
    await proxy.forwardHttp(ask())
    await until(() => proxy.getConnectionPool().stats().idle === 1)
  }
  t.equal(backend.connections.length, 1)
})

t.test('a big body that nobody reads loses its connection after the idle time-out', async t => {
  const clock = new FakeClock()
  let sent = 0
  const backend = await httpBackend(t, (_request, response) => {
    response.writeHead(200)
    const write = () => {
      while (!response.destroyed) {
        sent += 65_536
        if (!response.write(Buffer.alloc(65_536))) return
      }
    }
    response.on('drain', write)
    write()
  })
  const proxy = proxyTo(t, backend, { clock })
  const response = await proxy.forwardHttp(ask())
  await settled(() => sent)
  t.match(proxy.getMetrics(), { inFlight: 1 })
  clock.advance(61_000)
  t.match(proxy.getMetrics(), { inFlight: 0, backends: { b: { inFlight: 0, failedRequests: 0 } } })
  await until(() => proxy.getConnectionPool().stats().active === 0)
  await t.rejects(response.text(), 'and can be read no more')
})

t.test('a body that is cut short rejects, with a code of ours', async t => {
  for (const end of ['end', 'reset']) {
    const backend = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf')
    const response = await proxyTo(t, backend).forwardHttp(ask())
    const text = response.text()
    if (end === 'end') backend.connections[0].socket.end()
    else backend.connections[0].reset()
    await t.rejects(text, { code: 'FST_ROCKSTAR_RESET' }, end)
  }
})

t.test('a request\'s body that nobody wants any more is cancelled', async t => {
  const backend = await rawBackend(t, () => undefined)
  const controller = new AbortController()
  const aborted = handedOut()
  const answer = proxyTo(t, backend).forwardHttp(ask('/', { method: 'POST', body: aborted.stream, duplex: 'half' }), { signal: controller.signal })
  aborted.push('first')
  await until(() => backend.connections[0]?.received.includes('first') === true)
  controller.abort()
  await t.rejects(answer, { code: 'FST_ROCKSTAR_ABORTED' })
  for (let i = 0; i < 100 && aborted.cancelled === null; i++) await new Promise(setImmediate)
  t.not(aborted.cancelled, null, 'when the call is given up')

  const unsent = handedOut()
  await t.rejects(proxyTo(t, null).forwardHttp(ask('/', { method: 'POST', body: unsent.stream, duplex: 'half' })), { code: 'FST_ROCKSTAR_NO_BACKEND' })
  for (let i = 0; i < 100 && unsent.cancelled === null; i++) await new Promise(setImmediate)
  t.not(unsent.cancelled, null, 'when there is nobody to send it to')
})

t.test('a request\'s body that fails is no failure of the backend', async t => {
  const backend = await rawBackend(t, () => undefined)
  const proxy = proxyTo(t, backend)
  const body = handedOut()
  const answer = proxy.forwardHttp(ask('/', { method: 'POST', body: body.stream, duplex: 'half' }))
  body.push('first')
  await until(() => backend.connections[0]?.received.includes('first') === true)
  body.fail(new Error('the source broke'))
  await t.rejects(answer)
  await gone(backend)
  await until(() => proxy.getMetrics().inFlight === 0)
  t.match(proxy.getMetrics(), { backends: { b: { failedRequests: 0, abortedRequests: 1, inFlight: 0 } } })
})

t.test('a request whose body was used already rejects', async t => {
  const backend = await rawBackend(t, () => ok())
  const request = ask('/', { method: 'POST', body: 'once' })
  await request.text()
  await t.rejects(proxyTo(t, backend).forwardHttp(request))
  t.equal(backend.requests.length, 0)
})

t.test('a named upstream forwards as well', async t => {
  const backend = await rawBackend(t, () => ok('named'))
  const proxy = proxyTo(t, null, { upstreams: { one: { backends: [backend.url] } } })
  t.equal(await (await proxy.upstream('one').forwardHttp(ask())).text(), 'named')
  t.equal(proxy.getMetrics().upstreams.one.totalRequests, 1)
  t.equal(proxy.getMetrics().totalRequests, 0)
})
