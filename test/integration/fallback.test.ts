import type { FastifyInstance } from 'fastify'
import { connect as connectHttp2 } from 'node:http2'
import { Readable } from 'node:stream'
import t, { type Test } from 'tap'
import type { FallbackOption, ForwardOptions, RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type GatewaySetup } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, rawBackend, until, type Wire } from '../helpers/wire.ts'

/** A test that hangs fails by itself, and lets the others run. */
const LIMIT = 5_000
const SORRY = { statusCode: 200, headers: { 'x-from': 'fallback' }, body: 'sorry' } satisfies FallbackOption

/** A gateway whose default upstream answers by path: `/503` with that status, `/cut` not at all, `/half` with half an answer; and one beside it, `other`. */
async function start (t: Test, options: RockstarProxyOptions | ((other: string) => RockstarProxyOptions) = {}, setup: GatewaySetup & { other?: (wire: Wire) => string | void } = {}) {
  t.setTimeout(LIMIT)
  const clock = new FakeClock()
  const backend = await rawBackend(t, ({ startLine, body }, wire) => {
    const path = startLine.split(' ')[1]
    if (path.startsWith('/hold')) return
    if (path.startsWith('/cut')) {
      wire.socket.end('HTTP/1.1 2')
      return
    }
    if (path.startsWith('/half')) {
      wire.socket.end('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf')
      return
    }
    return ok(`backend ${body.length}`, '', `${/^\/(\d{3})/.exec(path)?.[1] ?? 200} Status`)
  })
  const other = await rawBackend(t, ({ startLine, body }, wire) => setup.other === undefined ? ok(`other ${startLine} ${body.length}`) : setup.other(wire))
  const { upstreams, ...rest } = options instanceof Function ? options(other.url) : options
  const gateway = await startGateway(t, {
    clock, backends: [{ id: 'a', url: backend.url }], upstreams: { other: { backends: [{ id: 'o', url: other.url }] }, none: {}, ...upstreams }, routes: [{ prefix: '/' }], ...rest
  }, setup)
  const { proxy } = gateway.app
  return { clock, backend, other, gateway, proxy, inject: gateway.app.inject.bind(gateway.app), metrics: () => proxy.getMetrics() }
}

t.test('an answer that stands ready takes the place of a failure', async t => {
  const { inject, metrics } = await start(t, { fallback: SORRY })
  const response = await inject('/cut')
  t.match({ ...response, headers: response.headers }, { statusCode: 200, body: 'sorry', headers: { 'x-from': 'fallback' } })
  t.match(metrics(), { totalRequests: 1, failedRequests: 1, fallbacksServed: 1, backends: { a: { failedRequests: 1 } } }, 'the failure is one nevertheless')
  t.equal((await inject('/')).body, 'backend 0')
  t.equal(metrics().fallbacksServed, 1)
})

t.test('an answer that stands ready may be anything that Fastify sends', async t => {
  for (const [fallback, statusCode, body, type] of [
    [{}, 503, '', undefined],
    [{ body: { a: 1 } }, 503, '{"a":1}', /^application\/json/],
    [{ body: Buffer.from('bytes') }, 503, 'bytes', /octet-stream/],
    [{ statusCode: 418, headers: { 'set-cookie': ['a=1', 'b=2'], 'content-type': 'text/html' }, body: '<p>' }, 418, '<p>', /^text\/html$/],
    [{ statusCode: 204 }, 204, '', undefined]
  ] as const) {
    const { inject } = await start(t, { fallback: fallback as FallbackOption })
    const response = await inject('/cut')
    t.equal(response.statusCode, statusCode)
    t.equal(response.body, body)
    if (type !== undefined) t.match(response.headers['content-type'], type)
    if (statusCode === 418) t.strictSame(response.headers['set-cookie'], ['a=1', 'b=2'])
  }
})

t.test('it is for each failure, unless it says for which', async t => {
  const gone = await rawBackend(t, () => {})
  gone.close()
  const failures = {
    NO_BACKEND: ['/', {}],
    CONNECT: ['/', { backends: [gone.url] }],
    RESET: ['/cut', undefined],
    BAD_RESPONSE: ['/', { backends: [(await rawBackend(t, () => 'nonsense\r\n\r\n')).url] }],
    CIRCUIT_OPEN: ['/', { backends: [gone.url], breaker: { threshold: 1 } }]
  } as const
  for (const [code, [path, upstream]] of Object.entries(failures)) {
    for (const on of [undefined, [code], ['OVERLOADED', 500]] as const) {
      const { inject } = await start(t, {
        upstreams: upstream === undefined ? {} : { test: upstream as never },
        routes: [{ prefix: '/', upstream: upstream === undefined ? undefined : 'test', fallback: { ...SORRY, ...(on === undefined ? {} : { on: on as never }) } } as never]
      })
      if (code === 'CIRCUIT_OPEN') await inject('/')
      const { body } = await inject(path)
      if (on?.length === 2) t.equal(JSON.parse(body).code, `FST_ROCKSTAR_${code}`)
      else t.equal(body, 'sorry', `${code} ${on === undefined ? 'by default' : 'as it is named'}`)
    }
  }
})

t.test('it is for what is too late', async t => {
  const { gateway, backend, clock } = await start(t, { fallback: SORRY })
  const late = gateway.app.inject('/hold')
  await until(() => backend.requests.length === 1)
  clock.advance(31_000)
  t.equal((await late).body, 'sorry')
})

t.test('it is for what is not let in', async t => {
  const { gateway, backend, metrics } = await start(t, { fallback: SORRY, limits: { maxInFlight: 1, queue: false } })
  const held = gateway.app.inject('/hold')
  await until(() => backend.requests.length === 1)
  t.equal((await gateway.app.inject('/')).body, 'sorry')
  t.match(metrics(), { shedRequests: 1, fallbacksServed: 1 })
  backend.connections[0].send(ok('held'))
  t.equal((await held).body, 'held')
})

t.test('statuses that backends answer may be among what it is for', async t => {
  const { inject, metrics, proxy, backend } = await start(t, { fallback: { ...SORRY, on: [503, 404] } })
  for (const [path, expected] of [['/503', 'sorry'], ['/404', 'sorry'], ['/500', 'backend 0'], ['/502', 'backend 0'], ['/200', 'backend 0']] as const) {
    t.equal((await inject(path)).body, expected, path)
    await until(() => proxy.getConnectionPool().stats().active === 0)
  }
  t.match(await inject('/cut'), { statusCode: 502 }, 'and then it is for nothing else')
  t.match(metrics(), { fallbacksServed: 2, backends: { a: { totalRequests: 6 } } })
  t.equal(backend.connections.length, 1, 'what is not wanted is read away')
})

t.test('by default the statuses of backends go to the client', async t => {
  const { inject } = await start(t, { fallback: SORRY })
  for (const status of [500, 502, 503, 504]) t.match(await inject(`/${status}`), { statusCode: status, body: 'backend 0' })
})

t.test('it comes after the retries', async t => {
  const { inject, backend, metrics, clock } = await start(t, { fallback: { ...SORRY, on: ['RESET', 503] }, retry: { backoff: { base: 0 }, attempts: 3 } })
  for (const path of ['/cut', '/503']) {
    const before = backend.requests.length
    const answer = inject(path)
    for (let tries = 1; tries <= 3; tries++) {
      await until(() => backend.requests.length === before + tries && (tries === 3 || metrics().backends.a.inFlight === 0))
      clock.advance(1)
    }
    t.equal((await answer).body, 'sorry')
    t.equal(backend.requests.length, before + 3)
  }
})

t.test('a function may answer in any way', async t => {
  let told: unknown[] = []
  const ways: [string, FallbackOption, number, string][] = [
    ['sends', (_request, reply) => { reply.code(200).send('sent') }, 200, 'sent'],
    ['returns a value', () => 'returned', 200, 'returned'],
    ['returns an object', () => ({ a: 1 }), 200, '{"a":1}'],
    ['returns null', () => null, 200, 'null'],
    ['returns the reply', (_request, reply) => reply.code(202).send('reply'), 202, 'reply'],
    ['resolves', async () => 'resolved', 200, 'resolved'],
    ['sends later', async (_request, reply) => { await null; await reply.code(201).send('later') }, 201, 'later'],
    ['hijacks', (_request, reply) => { reply.hijack(); reply.raw.end('raw') }, 200, 'raw'],
    ['does nothing', () => {}, 502, 'FST_ROCKSTAR_RESET'],
    ['does nothing later', async () => {}, 502, 'FST_ROCKSTAR_RESET'],
    ['throws', () => { throw new Error('its own') }, 502, 'FST_ROCKSTAR_RESET'],
    ['rejects', async () => { throw new Error('its own') }, 502, 'FST_ROCKSTAR_RESET']
  ]
  for (const [name, fallback, statusCode, expected] of ways) {
    const asked: FallbackOption = (request, reply, error) => {
      told.push([request.url, (error as Error & { code: string }).code])
      return (fallback as (...args: unknown[]) => unknown)(request, reply, error)
    }
    const { gateway, metrics } = await start(t, { fallback: asked, routes: [{ prefix: '/route', rewritePrefix: '/' }] }, {
      setup: app => {
        app.get('/returned', (request, reply) => app.proxy.forward(request, reply, { path: '/cut' }))
        app.get('/ignored', (request, reply) => { app.proxy.forward(request, reply, { path: '/cut' }) })
        app.get('/awaited', async (request, reply) => { await app.proxy.forward(request, reply, { path: '/cut' }) })
      }
    })
    for (const path of ['/route/cut', '/returned', '/ignored', '/awaited']) {
      told = []
      const client = await gateway.connect()
      client.send(`GET ${path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n`)
      const response = await client.response()
      t.equal(response.status, statusCode, `${name}: ${path}`)
      t.equal(statusCode === 502 ? JSON.parse(response.body).code : response.body, expected)
      t.strictSame(told, [[path, 'FST_ROCKSTAR_RESET']], 'it is asked once')
    }
    t.equal(metrics().fallbacksServed, statusCode === 502 ? 0 : 4)
    const own = gateway.log.filter(line => (line.err as Error | undefined)?.message === 'its own')
    t.equal(own.length, name === 'throws' || name === 'rejects' ? 4 : 0, 'what it throws is told in the log')
  }
})

t.test('an upstream, a route and a call may each have their own', async t => {
  const { inject } = await start(t, {
    fallback: SORRY,
    upstreams: { mine: { fallback: { statusCode: 200, body: 'upstream' } } },
    routes: [{ prefix: '/' }, { prefix: '/mine', upstream: 'mine' }, { prefix: '/route', upstream: 'mine', fallback: { statusCode: 200, body: 'route' } }, { prefix: '/off', upstream: 'mine', fallback: false }]
  }, {
    setup: app => {
      const call = (path: string, options: ForwardOptions) => app.get(path, (request, reply) => app.proxy.forward(request, reply, { path: '/cut', ...options }))
      call('/call', { fallback: { statusCode: 200, body: 'call' } })
      call('/call-off', { fallback: false })
      call('/call-not', {})
    }
  })
  const answers = { '/cut': 'sorry', '/mine/': 'upstream', '/route/': 'route', '/call': 'call', '/call-not': 'sorry' }
  for (const [path, body] of Object.entries(answers)) t.equal((await inject(path)).body, body, path)
  t.equal((await inject('/off/')).statusCode, 503)
  t.equal((await inject('/call-off')).statusCode, 502)
})

t.test('after a byte nothing takes the place of anything', async t => {
  let asked = 0
  const { gateway, metrics } = await start(t, { fallback: () => { asked++ } })
  const client = await gateway.connect()
  client.send('GET /half HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => client.ended || client.closed)
  const { received } = client
  t.match(received, /^HTTP\/1\.1 200 OK[^]*\r\n\r\nhalf$/)
  t.equal(asked, 0)
  t.match(metrics(), { fallbacksServed: 0, failedRequests: 1 })
})

t.test('a client that has gone gets none', async t => {
  let asked = 0
  const { gateway, backend, metrics } = await start(t, { fallback: () => { asked++ } })
  const client = await gateway.connect()
  client.send('GET /hold HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => backend.requests.length === 1)
  client.close()
  await until(() => metrics().inFlight === 0)
  t.equal(asked, 0)
  t.match(metrics(), { fallbacksServed: 0, abortedRequests: 1 })
})

t.test('onError hears first, and may answer', async t => {
  const heard: string[] = []
  const { inject, metrics } = await start(t, {
    fallback: () => {
      heard.push('fallback')
      return 'fallback'
    },
    routes: [
      { prefix: '/hears', rewritePrefix: '/', onError: () => { heard.push('onError') } },
      { prefix: '/answers', rewritePrefix: '/', onError: (_request, reply) => { heard.push('onError'); reply.send('onError') } },
      { prefix: '/throws', rewritePrefix: '/', onError: () => { heard.push('onError'); throw new Error('no') } }
    ]
  })
  t.equal((await inject('/hears/cut')).body, 'fallback')
  t.strictSame(heard.splice(0), ['onError', 'fallback'])
  t.equal((await inject('/answers/cut')).body, 'onError')
  t.strictSame(heard.splice(0), ['onError'])
  t.equal((await inject('/throws/cut')).body, 'fallback')
  t.strictSame(heard.splice(0), ['onError', 'fallback'])
  t.equal(metrics().fallbacksServed, 2)
})

t.test('subsets have their own word beside it', async t => {
  const match = { version: 'v2' }
  const { inject } = await start(t, {
    fallback: SORRY,
    routes: [{ prefix: '/none', match, fallback: 'none' }, { prefix: '/any', match, fallback: 'any', rewritePrefix: '/' }, { prefix: '/plain', match }, { prefix: '/own', match, fallback: { statusCode: 200, body: 'own' } }]
  })
  t.equal((await inject('/none')).body, 'sorry', 'none of the subset is a failure')
  t.equal((await inject('/plain')).body, 'sorry')
  t.equal((await inject('/own')).body, 'own')
  t.equal((await inject('/any/')).body, 'backend 0', 'any will do')
  t.equal((await inject('/any/cut')).body, 'sorry', 'and what has failed is replaced as the upstream says')
})

t.test('to HEAD it has no content', async t => {
  const { gateway } = await start(t, { fallback: SORRY })
  const client = await gateway.connect()
  client.send('HEAD /cut HTTP/1.1\r\nHost: gateway\r\n\r\n')
  const response = await client.response(0, 'HEAD')
  t.equal(response.status, 200)
  t.strictSame(response.values('x-from'), ['fallback'])
  client.send('GET /cut HTTP/1.1\r\nHost: gateway\r\n\r\n')
  t.equal((await client.response(response.length)).body, 'sorry')
})

t.test('an HTTP/2 client gets it, from where it stands ready and from another upstream', async t => {
  for (const [fallback, expected] of [[SORRY, 'sorry'], [{ upstream: 'other' }, 'other PUT /cut HTTP/1.1 4']] as const) {
    const { gateway } = await start(t, { fallback }, { fastify: { http2: true } })
    const session = connectHttp2(gateway.url)
    t.teardown(() => session.destroy())
    for (const [method, body] of [['PUT', expected], ['HEAD', '']] as const) {
      const stream = session.request({ ':method': method, ':path': '/cut' }, { endStream: method === 'HEAD' })
      if (method === 'PUT') stream.end('body')
      let status = 0
      let content = ''
      stream.on('response', headers => { status = headers[':status'] as number }).setEncoding('utf8').on('data', chunk => { content += chunk })
      await new Promise(resolve => stream.on('close', resolve))
      t.equal(status, 200, method)
      t.equal(content, body)
    }
  }
})

t.test('hooks see what takes the place as any answer', async t => {
  const { inject } = await start(t, { fallback: SORRY, routes: [{ prefix: '/', onSend: (_request: unknown, reply: { header (name: string, value: string): void }, payload: unknown, done: (error: null, payload: unknown) => void) => { reply.header('x-hook', '1'); done(null, payload) } } as never] })
  t.match((await inject('/cut')).headers, { 'x-hook': '1', 'x-from': 'fallback' })
})

t.test('another upstream is asked instead', async t => {
  const { inject, metrics, other } = await start(t, { fallback: { upstream: 'other' } })
  const response = await inject('/cut?a=1')
  t.match(response, { statusCode: 200, body: 'other GET /cut?a=1 HTTP/1.1 0' })
  t.equal(other.requests.length, 1)
  t.match(metrics(), { totalRequests: 1, failedRequests: 1, fallbacksServed: 1, inFlight: 0, upstreams: { other: { totalRequests: 1, successfulRequests: 1, fallbacksServed: 0, inFlight: 0 } } })
})

t.test('another upstream is not asked for what may have been processed, unless it may be sent twice', async t => {
  const gone = await rawBackend(t, () => {})
  gone.close()
  const post = { method: 'POST', payload: 'body' } as const
  const one = await start(t, { fallback: { upstream: 'other', on: ['RESET', 'CONNECT', 503] } })
  t.equal((await one.inject({ ...post, url: '/cut' })).statusCode, 502)
  t.match(await one.inject({ ...post, url: '/503' }), { statusCode: 503, body: 'backend 4' }, 'its own answer is better than none')
  t.equal(one.other.requests.length, 0)
  t.equal(one.metrics().fallbacksServed, 0)
  const two = await start(t, { fallback: { upstream: 'other', on: ['RESET', 503] }, retry: { attempts: 1, idempotencyKey: true } })
  for (const url of ['/cut', '/503']) t.equal((await two.inject({ ...post, url, headers: { 'idempotency-key': 'k' } })).body, `other POST ${url} HTTP/1.1 4`)
  const three = await start(t, { backends: [gone.url], fallback: { upstream: 'other' } })
  t.equal((await three.inject({ ...post, url: '/a' })).body, 'other POST /a HTTP/1.1 4', 'what never reached a backend was never processed')
})

t.test('another upstream gets the whole body, however it came', async t => {
  const body = 'x'.repeat(40_000)
  const { gateway, other, backend } = await start(t, { fallback: { upstream: 'other' } })
  for (const request of [
    `PUT /cut HTTP/1.1\r\nHost: g\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
    `PUT /cut HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`,
    'PUT /cut HTTP/1.1\r\nHost: g\r\nContent-Length: 0\r\n\r\n'
  ]) {
    const client = await gateway.connect()
    client.send(request)
    t.equal((await client.response()).status, 200)
    t.equal(other.requests.at(-1)?.body, backend.requests.at(-1)?.body)
  }
  t.strictSame(other.requests.map(request => request.body.length), [40_000, 40_000, 0])
})

t.test('another upstream goes on with a body that is still coming', async t => {
  const { gateway, backend, other } = await start(t, { fallback: { upstream: 'other' } })
  const client = await gateway.connect()
  client.send('PUT /hold HTTP/1.1\r\nHost: g\r\nContent-Length: 8\r\n\r\nhalf')
  await until(() => backend.connections[0]?.received.includes('half') === true)
  backend.connections[0].socket.end()
  await until(() => other.connections[0]?.received.includes('half') === true)
  client.send('done')
  t.equal((await client.response()).body, 'other PUT /hold HTTP/1.1 8')
  t.equal(other.requests[0].body, 'halfdone')
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  await client.receive('backend 0')
})

t.test('a body that is too large to be kept leaves the failure as it is', async t => {
  const { gateway, other, metrics } = await start(t, { fallback: { upstream: 'other' }, retry: { maxBodySize: 1_000, attempts: 1 } })
  for (const [size, expected] of [[1_000, 200], [1_001, 502]]) {
    const client = await gateway.connect()
    client.send(`PUT /cut HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n${size.toString(16)}\r\n${'x'.repeat(size)}\r\n0\r\n\r\n`)
    const { status, body } = await client.response()
    t.equal(status, expected, `${size} bytes`)
    if (expected === 502) t.equal(JSON.parse(body).code, 'FST_ROCKSTAR_RESET')
  }
  t.equal(other.requests.length, 1)
  t.equal(metrics().fallbacksServed, 1)
})

t.test('an upstream that is not there any more leaves the failure as it is, and is told of in the log', async t => {
  const { inject, gateway, metrics, proxy } = await start(t, { fallback: { upstream: 'nowhere', on: ['RESET', 503] }, upstreams: { nowhere: {} } })
  await proxy.removeUpstream('nowhere')
  t.equal((await inject('/cut')).json().code, 'FST_ROCKSTAR_RESET')
  t.ok(gateway.log.some(({ level, upstream }) => level >= 50 && upstream === 'nowhere'))
  t.match(await inject('/503'), { statusCode: 503, body: 'backend 0' }, 'an answer is better than none')
  t.equal(metrics().fallbacksServed, 0)
})

t.test('where the other upstream fails as well, its failure is told', async t => {
  const { inject, metrics } = await start(t, { fallback: { upstream: 'none' } })
  t.match((await inject('/cut')).json(), { statusCode: 503, code: 'FST_ROCKSTAR_NO_BACKEND' })
  t.match(metrics(), { fallbacksServed: 0, upstreams: { none: { failedRequests: 1 } } }, 'nothing was served')
})

t.test('an answer of the other upstream goes out whatever it is', async t => {
  const { inject } = await start(t, { routes: [{ prefix: '/', fallback: { upstream: 'other', on: ['RESET', 503] } }] }, { other: () => ok('other', '', '503 Sorry') })
  t.match(await inject('/503'), { statusCode: 503, body: 'other' })
  t.match(await inject('/cut'), { statusCode: 503, body: 'other' })
})

t.test('the other upstream may have one of its own that is no upstream, and nothing goes in circles', async t => {
  const { inject, metrics } = await start(t, {
    fallback: { upstream: 'ready' },
    upstreams: { ready: { fallback: { statusCode: 200, body: 'ready' } }, back: { fallback: { upstream: 'default' } }, self: { fallback: { upstream: 'self' } } },
    routes: [{ prefix: '/' }, { prefix: '/back', fallback: { upstream: 'back' }, rewritePrefix: '/' }, { prefix: '/self', upstream: 'self' }]
  })
  t.equal((await inject('/cut')).body, 'ready')
  t.equal((await inject('/back/cut')).json().code, 'FST_ROCKSTAR_NO_BACKEND')
  t.equal((await inject('/self')).json().code, 'FST_ROCKSTAR_NO_BACKEND')
  t.match(metrics(), { totalRequests: 2, upstreams: { ready: { totalRequests: 1, fallbacksServed: 1 }, back: { totalRequests: 1 }, self: { totalRequests: 2 } } })
})

t.test('the other upstream has time-outs of its own', async t => {
  const { gateway, clock, other, metrics } = await start(t, url => ({ fallback: { upstream: 'quick' }, upstreams: { quick: { backends: [url], timeout: { headers: 500 } } } }), { other: () => {} })
  const answer = gateway.app.inject('/cut')
  await until(() => other.requests.length === 1)
  clock.advance(750)
  t.equal((await answer).statusCode, 504)
  t.match(metrics(), { timeouts: { wait: 0 }, upstreams: { quick: { timeouts: { wait: 1 } } } })
})

t.test('what a client has left holds for both upstreams together', async t => {
  const given = { deadlineHeader: 'x-left', timeout: { request: 60_000 } }
  const { gateway, clock, backend, other, metrics } = await start(t, url => ({ ...given, fallback: { upstream: 'told' }, upstreams: { told: { ...given, backends: [url] } } }), { fastify: { trustProxy: true }, other: () => {} })
  const answer = gateway.app.inject({ url: '/hold', headers: { 'x-left': '1000' } })
  await until(() => backend.requests.length === 1)
  t.strictSame(backend.requests[0].values('x-left'), ['1000'])
  clock.advance(600)
  backend.connections[0].socket.end('HTTP/1.1 2')
  await until(() => other.requests.length === 1)
  t.strictSame(other.requests[0].values('x-left'), ['400'])
  clock.advance(750)
  t.equal((await answer).statusCode, 504)
  t.equal(metrics().upstreams.told.timeouts.request, 1)
})

t.test('what the route says of paths, headers and answers holds for the other upstream as well', async t => {
  const { inject, other } = await start(t, {
    fallback: { upstream: 'other' },
    routes: [{
      prefix: '/api',
      rewritePrefix: '/cut',
      rewriteRequestHeaders: (_request, headers) => ({ ...headers, 'x-request': 'rewritten' }),
      rewriteHeaders: headers => ({ ...headers, 'x-response': 'rewritten' }),
      onResponse: (_request, reply, { backend, attempts }) => { reply.header('x-backend', `${backend.id} ${attempts.length}`) }
    }]
  })
  const { headers, body } = await inject('/api/x?y')
  t.equal(body, 'other GET /cut/x?y HTTP/1.1 0')
  t.match(headers, { 'x-response': 'rewritten', 'x-backend': 'o 1' })
  t.strictSame(other.requests[0].values('x-request'), ['rewritten'])
  t.strictSame(other.requests[0].values('host'), [`127.0.0.1:${other.port}`])
})

t.test('a client that goes while the other upstream is asked ends that', async t => {
  const { gateway, other, metrics } = await start(t, { fallback: { upstream: 'other' } }, { other: () => {} })
  const client = await gateway.connect()
  client.send('GET /cut HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => other.requests.length === 1)
  client.close()
  await until(() => other.connections[0].closed || other.connections[0].ended)
  t.match(metrics(), { upstreams: { other: { abortedRequests: 1, inFlight: 0 } } })
})

t.test('a signal ends what is asked of the other upstream', async t => {
  const controller = new AbortController()
  const { gateway, other, metrics } = await start(t, { fallback: { upstream: 'other' } }, {
    other: () => {},
    setup: app => { app.get('/signal', (request, reply) => app.proxy.forward(request, reply, { path: '/cut', signal: controller.signal })) }
  })
  const answer = gateway.app.inject('/signal')
  await until(() => other.requests.length === 1)
  controller.abort()
  await answer
  t.match(metrics(), { upstreams: { other: { abortedRequests: 1, inFlight: 0 } } })
})

t.test('where onError answers, the rest of the body is read all the same', async t => {
  const { gateway, backend, other } = await start(t, { fallback: { upstream: 'other' }, routes: [{ prefix: '/', onError: (_request, reply) => { reply.code(200).send('onError') } }] })
  const client = await gateway.connect()
  client.send('PUT /hold HTTP/1.1\r\nHost: g\r\nContent-Length: 2000004\r\n\r\nhalf')
  await until(() => backend.connections[0]?.received.includes('half') === true)
  backend.connections[0].socket.end()
  const response = await client.response()
  t.equal(response.body, 'onError')
  t.equal(other.requests.length, 0)
  client.send('x'.repeat(2_000_000)).send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  t.equal((await client.response(response.length)).body, 'backend 0')
})

t.test('forward() without a reply, and forwardHttp(), reject', async t => {
  const { proxy, inject } = await start(t, { fallback: SORRY }, {
    setup: app => { app.get('/own', async request => { await app.proxy.forward(request, undefined, { path: '/cut' }) }) }
  })
  t.equal((await inject('/own')).json().code, 'FST_ROCKSTAR_RESET')
  await t.rejects(proxy.forwardHttp(new Request('http://g/cut')), { code: 'FST_ROCKSTAR_RESET' })
  t.equal(proxy.getMetrics().fallbacksServed, 0)
})

t.test('hooks that take their time see one answer, whoever gives it', async t => {
  const slow = (app: FastifyInstance) => {
    app.addHook('onSend', async (_request, _reply, payload) => {
      await new Promise(resolve => setImmediate(resolve))
      return payload
    })
  }
  const givers: Record<string, RockstarProxyOptions> = {
    'an answer that stands ready': { fallback: { statusCode: 200, body: 'sorry' } },
    'a function that sends': { fallback: (_request, reply) => { reply.code(200).send('sorry') } },
    'a function that returns the reply': { fallback: (_request, reply) => reply.code(200).send('sorry') },
    'an async function that sends': { fallback: async (_request, reply) => { reply.code(200).send('sorry') } },
    'an async function that returns the answer': { fallback: async (_request, reply) => { reply.code(200); return 'sorry' } },
    'onError before a fallback': { fallback: { body: 'late' }, routes: [{ prefix: '/', onError: (_request, reply) => { reply.code(200).send('sorry') } }] },
    'onError before a function': { fallback: (_request, reply) => { reply.send('late') }, routes: [{ prefix: '/', onError: async (_request, reply) => { reply.code(200).send('sorry') } }] }
  }
  for (const [name, options] of Object.entries(givers)) {
    const { gateway } = await start(t, options, { before: slow })
    const client = await gateway.connect()
    for (let i = 0, at = 0; i < 2; i++) {
      client.send('GET /cut HTTP/1.1\r\nHost: g\r\n\r\n')
      const response = await client.response(at)
      at += response.length
      t.match(response, { status: 200, body: 'sorry' }, name)
    }
    t.notOk(gateway.log.some(({ level }) => level >= 50), `${name}: nothing went wrong`)
  }
})

t.test('another upstream gets the body that a hook has put in its place', async t => {
  const { inject, other } = await start(t, { fallback: { upstream: 'other' }, backends: [] }, {
    before: app => { app.addHook('preParsing', async () => Readable.from([Buffer.from('in its place')])) }
  })
  const response = await inject({ method: 'POST', url: '/', payload: 'as it came', headers: { 'content-type': 'application/octet-stream' } })
  t.equal(response.statusCode, 200)
  t.strictSame(other.requests.map(({ body }) => body), ['in its place'])
})
