import { connect as connectHttp2 } from 'node:http2'
import t, { type Test } from 'tap'
import type { RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type GatewaySetup } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { tunnelRig } from '../helpers/tunnel.ts'
import { ok, rawBackend, until, type Message, type Wire } from '../helpers/wire.ts'

const LIMIT = 5_000

/** A gateway whose time stands still; its backend answers by `answer`, or holds what it is asked. */
async function start (t: Test, options: RockstarProxyOptions | ((other: string) => RockstarProxyOptions), setup: GatewaySetup & { answer?: (request: Message) => string | void } = {}) {
  t.setTimeout(LIMIT)
  const clock = new FakeClock()
  const held: Wire[] = []
  const backend = await rawBackend(t, (request, wire) => {
    const answer = setup.answer?.(request)
    if (answer === undefined) held.push(wire)
    return answer
  })
  const other = await rawBackend(t, () => ok('other'))
  const gateway = await startGateway(t, { clock, backends: [{ id: 'a', url: backend.url }], routes: [{ prefix: '/' }], ...options instanceof Function ? options(other.url) : options }, setup)
  const ask = async (head = 'GET / HTTP/1.1', fields = '') => {
    const client = await gateway.connect()
    client.send(`${head}\r\nHost: gateway\r\n${fields}\r\n`)
    return client
  }
  return { clock, held, backend, gateway, ask }
}

function marksOf (message: Message): [string, string][] {
  return message.fields.filter(([name]) => ['x-request-id', 'server-timing', 'proxy-status'].includes(name.toLowerCase()))
}

t.test('answers tell nothing of all this unless it is asked for', async t => {
  const { ask, backend } = await start(t, {}, { answer: () => ok('', 'X-Request-Id: theirs\r\nServer-Timing: db;dur=3\r\nProxy-Status: inner; received-status=200\r\n') })
  t.strictSame(marksOf(await (await ask(undefined, 'X-Request-Id: mine\r\n')).response()), [['X-Request-Id', 'theirs'], ['Server-Timing', 'db;dur=3'], ['Proxy-Status', 'inner; received-status=200']])
  t.strictSame(backend.requests[0].values('x-request-id'), ['mine'])
})

t.test('Server-Timing tells each stage, behind what the backend says', async t => {
  const { ask, clock, held } = await start(t, { serverTiming: true })
  const client = await ask()
  await until(() => held.length === 1)
  clock.advance(12.345)
  held[0].send(ok('', 'Server-Timing: db;dur=3\r\nServer-Timing: cache;desc="hit"\r\n'))
  t.strictSame((await client.response()).values('server-timing'), ['db;dur=3', 'cache;desc="hit"', 'proxy-queue;dur=0, proxy-connect;dur=0, proxy-send;dur=0, proxy-wait;dur=12.3, proxy;dur=12.3'])
})

t.test('it tells what was tried before', async t => {
  const { ask, clock, held, gateway } = await start(t, { serverTiming: true, retry: { attempts: 2 } })
  const client = await ask()
  await until(() => held.length === 1)
  clock.advance(5)
  held[0].send(ok('', 'Retry-After: 1\r\n', '503 Busy'))
  await until(() => gateway.app.proxy.getMetrics().totalRetries === 1)
  clock.advance(1_000)
  await until(() => held.length === 2)
  clock.advance(2)
  held[1].send(ok())
  t.strictSame((await client.response()).values('server-timing'), ['proxy-queue;dur=0, proxy-retries;dur=1005, proxy-connect;dur=0, proxy-send;dur=0, proxy-wait;dur=2, proxy;dur=1007'])
})

t.test('Proxy-Status tells what the backend has answered, behind what proxies before it say', async t => {
  for (const [proxyStatus, name] of [[true, 'rockstar-proxy'], ['edge.example', 'edge.example']] as const) {
    const { ask } = await start(t, { proxyStatus }, { answer: () => ok('', 'Proxy-Status: inner; received-status=404\r\n', '404 Gone') })
    t.strictSame((await (await ask()).response()).values('proxy-status'), ['inner; received-status=404', `${name}; received-status=404; next-protocol=http/1.1`])
  }
})

t.test('errors tell why there is no answer', async t => {
  const cases: [RockstarProxyOptions, (request: Message) => string | void, number, string][] = [
    [{ backends: ['http://127.0.0.1:1'] }, () => ok(), 502, 'rockstar-proxy; error=connection_refused'],
    [{ backends: ['http://no-such-host.invalid'] }, () => ok(), 502, 'rockstar-proxy; error=dns_error'],
    [{ backends: [] }, () => ok(), 503, 'rockstar-proxy; error=destination_unavailable'],
    [{}, () => 'HTTP/1.1 abc\r\n\r\n', 502, 'rockstar-proxy; error=http_protocol_error']
  ]
  for (const [options, answer, status, text] of cases) {
    const { ask } = await start(t, { proxyStatus: true, requestId: true, serverTiming: true, ...options }, { answer })
    const response = await (await ask()).response()
    t.equal(response.status, status)
    t.strictSame(response.values('proxy-status'), [text])
    t.strictSame(response.values('x-request-id'), ['req-1'])
    t.match(response.values('server-timing'), [/^proxy-queue;dur=0, (?:.*, )?proxy;dur=0$/])
    t.notMatch(JSON.stringify(response), /127\.0\.0\.1|no-such-host/, 'where backends are is nobody\'s affair')
  }
})

t.test('so does a request for which there is no room', async t => {
  const { ask, held } = await start(t, { proxyStatus: true, limits: { maxInFlight: 1, queue: false } })
  await ask()
  await until(() => held.length === 1)
  const response = await (await ask()).response()
  t.equal(response.status, 503)
  t.strictSame(response.values('proxy-status'), ['rockstar-proxy; error=connection_limit_reached'])
})

t.test('a time-out tells its stage', async t => {
  const { ask, clock, held } = await start(t, { proxyStatus: true, timeout: { headers: 1_000 } })
  const client = await ask()
  await until(() => held.length === 1)
  clock.advance(1_500)
  const response = await client.response()
  t.equal(response.status, 504)
  t.strictSame(response.values('proxy-status'), ['rockstar-proxy; error=http_response_timeout'])
})

t.test('what cannot be forwarded tells so too', async t => {
  const { ask } = await start(t, { proxyStatus: true, requestId: true, serverTiming: true })
  const loop = await (await ask(undefined, 'Via: 1.1 rockstar-proxy\r\n')).response()
  t.equal(loop.status, 508)
  t.strictSame(marksOf(loop), [['x-request-id', 'req-1'], ['proxy-status', 'rockstar-proxy; error=proxy_loop_detected']], 'without an exchange there are no times')
  const trace = await (await ask('TRACE / HTTP/1.1')).response()
  t.ok([404, 405].includes(trace.status))
})

t.test('an upstream that is not there tells so', async t => {
  const { ask } = await start(t, { proxyStatus: true, requestId: true, routes: [{ prefix: '/', upstream: () => 'nowhere' }] })
  const response = await (await ask()).response()
  t.equal(response.status, 500)
  t.strictSame(marksOf(response), [['x-request-id', 'req-1'], ['proxy-status', 'rockstar-proxy; error=proxy_configuration_error']])
})

t.test('what a fallback answers tells why it was needed', async t => {
  const { ask } = await start(t, { proxyStatus: true, fallback: { statusCode: 200, body: 'sorry', on: ['RESET', 503] } }, {
    answer: ({ startLine }) => startLine.includes('/503') ? ok('', '', '503 Busy') : 'HTTP/1.1 200 OK\r\n\x00'
  })
  const response = await (await ask('GET /503 HTTP/1.1')).response()
  t.match(response, { status: 200, body: 'sorry' })
  t.strictSame(response.values('proxy-status'), ['rockstar-proxy; received-status=503'])
})

t.test('where another upstream answers, its answer is told alone', async t => {
  const { ask } = await start(t, other => ({
    proxyStatus: true, serverTiming: true, requestId: true, fallback: { upstream: 'other' }, backends: ['http://127.0.0.1:1'], upstreams: { other: { backends: [other] } }, routes: [{ prefix: '/', onError: () => {} }]
  }))
  const response = await (await ask()).response()
  t.match(response, { status: 200, body: 'other' })
  t.strictSame(response.values('proxy-status'), ['rockstar-proxy; received-status=200; next-protocol=http/1.1'])
  t.strictSame(response.values('x-request-id'), ['req-1'])
  t.equal(response.values('server-timing').length, 1)
})

t.test('onError and the application\'s error handler may see, add and take away', async t => {
  const { ask } = await start(t, {
    proxyStatus: true, requestId: true, backends: [], routes: [{ prefix: '/', onError: (_request, reply) => { reply.removeHeader('proxy-status').header('x-seen', String(reply.getHeader('x-request-id'))) } }]
  })
  const response = await (await ask()).response()
  t.strictSame(response.values('x-seen'), ['req-1'])
  t.strictSame(response.values('proxy-status'), [])
})

t.test('the application\'s own fields come last, and an id of its own is left alone', async t => {
  for (const backends of [undefined, []]) {
    const { ask } = await start(t, { proxyStatus: true, serverTiming: true, requestId: true, ...backends === undefined ? {} : { backends } }, {
      answer: () => ok('', 'Server-Timing: db;dur=1\r\n'),
      before: app => {
        app.addHook('onRequest', async (_request, reply) => {
          reply.header('server-timing', 'app;dur=1').header('proxy-status', 'app').header('x-request-id', 'app')
        })
      }
    })
    const response = await (await ask()).response()
    t.strictSame(response.values('x-request-id'), ['app'])
    t.match(response.values('server-timing').join(', '), /^(?:db;dur=1, )?proxy-queue.*proxy;dur=0, app;dur=1$/)
    t.match(response.values('proxy-status').join(', '), backends === undefined ? /^rockstar-proxy; received-status=200; next-protocol=http\/1\.1, app$/ : /^rockstar-proxy; error=destination_unavailable, app$/)
  }
})

t.test('a request\'s id goes to the backend and to the client, in place of theirs', async t => {
  for (const [requestId, name] of [[true, 'x-request-id'], ['X-Correlation-Id', 'x-correlation-id']] as const) {
    const { ask, backend } = await start(t, { requestId }, { answer: () => ok('', `${name}: theirs\r\n`), fastify: { genReqId: () => 'a-b-c' } })
    const response = await (await ask(undefined, `${name.toUpperCase()}: mine\r\n${name}: mine too\r\n`)).response()
    t.strictSame(response.values(name), ['a-b-c'])
    t.strictSame(backend.requests[0].values(name), ['a-b-c'])
    t.ok(backend.requests[0].fields.some(([field]) => field === name))
  }
})

t.test('whose ids are believed is said by Fastify', async t => {
  const { ask, backend } = await start(t, { requestId: true }, { answer: () => ok(), fastify: { requestIdHeader: 'x-request-id' } })
  t.strictSame((await (await ask(undefined, 'X-Request-Id: from afar\r\n')).response()).values('x-request-id'), ['from afar'])
  t.strictSame(backend.requests[0].values('x-request-id'), ['from afar'])
})

t.test('an id that is no text of a header is refused, and nothing is sent', async t => {
  for (const id of ['a\r\nb: c', 'a\nb', '', 'ü€'] as const) {
    const { ask, backend } = await start(t, { requestId: true }, { answer: () => ok(), fastify: { genReqId: () => id } })
    const response = await (await ask()).response()
    t.equal(response.status, 500)
    t.match(response.body, 'FST_ROCKSTAR_INVALID_HEADER')
    t.strictSame(response.values('x-request-id'), [])
    t.equal(backend.requests.length, 0)
  }
})

t.test('the functions that rewrite headers see them, and have the last word', async t => {
  const seen: unknown[] = []
  const { ask, backend } = await start(t, {
    requestId: true,
    proxyStatus: true,
    routes: [{
      prefix: '/',
      rewriteRequestHeaders: (_request, headers) => { seen.push(headers['x-request-id']); return { ...headers, 'x-request-id': 'rewritten' } },
      rewriteHeaders: headers => { seen.push(headers['x-request-id'], headers['proxy-status']); return { ...headers, 'proxy-status': undefined } }
    }]
  }, { answer: () => ok() })
  const response = await (await ask()).response()
  t.strictSame(seen, ['req-1', 'req-1', 'rockstar-proxy; received-status=200; next-protocol=http/1.1'])
  t.strictSame(response.values('proxy-status'), [])
  t.strictSame(backend.requests[0].values('x-request-id'), ['rewritten'])
})

t.test('a handler that takes the answer itself gets them with it', async t => {
  const { gateway } = await start(t, { requestId: true, proxyStatus: true, serverTiming: true, routes: [] }, {
    answer: () => ok(),
    setup: app => app.get('/', async request => {
      const { headers } = await request.server.proxy.forward(request)
      return [headers['x-request-id'], headers['proxy-status'], headers['server-timing']]
    })
  })
  t.match((await gateway.app.inject('/')).json(), ['req-1', 'rockstar-proxy; received-status=200; next-protocol=http/1.1', /proxy;dur=0$/])
})

t.test('forwardHttp() has no id to tell, and passes on what it is given', async t => {
  const { gateway, backend } = await start(t, { requestId: true, proxyStatus: true }, { answer: () => ok() })
  const response = await gateway.app.proxy.forwardHttp(new Request('http://any.example/', { headers: { 'x-request-id': 'given' } }))
  t.strictSame(backend.requests[0].values('x-request-id'), ['given'])
  t.equal(response.headers.get('proxy-status'), 'rockstar-proxy; received-status=200; next-protocol=http/1.1')
})

t.test('over HTTP/2 it is the same', async t => {
  const { gateway } = await start(t, { requestId: true, proxyStatus: true, serverTiming: true }, { answer: () => ok(), fastify: { http2: true } as never })
  const session = connectHttp2(gateway.url)
  t.teardown(() => session.destroy())
  const headers = await new Promise<Record<string, unknown>>((resolve, reject) => session.request({ ':path': '/' }).on('response', resolve).on('error', reject).resume())
  t.match(headers, { ':status': 200, 'x-request-id': 'req-1', 'proxy-status': 'rockstar-proxy; received-status=200; next-protocol=http/1.1', 'server-timing': /proxy;dur=/ })
})

t.test('a tunnel is opened without them, but for the id that its backend gets', async t => {
  const { backend, open } = await tunnelRig(t, { requestId: true, proxyStatus: true, serverTiming: true })
  const { head } = await open()
  t.strictSame(marksOf(head), [])
  t.strictSame(backend.requests[0].values('x-request-id'), ['req-1'])
})

t.test('explain tells the id that would be sent', async t => {
  const { gateway } = await start(t, { requestId: true, admin: true }, { answer: () => ok() })
  const { sent } = (await gateway.app.inject({ method: 'POST', url: '/proxy/explain', headers: { host: 'localhost' }, payload: { method: 'GET', url: '/', headers: { 'x-request-id': 'mine' } } })).json()
  t.equal(sent.headers.filter(([name]: string[]) => name === 'x-request-id').length, 1)
  t.notMatch(sent.headers, [['x-request-id', 'mine']])
})

t.test('what is no name is refused', async t => {
  for (const [options, message] of [
    [{ requestId: 'a b' }, "options.requestId must be a boolean or the name of a header, and is 'a b'"],
    [{ requestId: 'Content-Length' }, "options.requestId must be a header that has no other use, and is 'content-length'"],
    [{ requestId: 'host' }, "options.requestId must be a header that has no other use, and is 'host'"],
    [{ requestId: '__proto__' }, "options.requestId must be a header that has no other use, and is '__proto__'"],
    [{ requestId: 1 }, 'options.requestId must be a boolean or the name of a header, and is 1'],
    [{ proxyStatus: 'a; b' }, "options.proxyStatus must be a boolean or a token that begins with a letter, and is 'a; b'"],
    [{ serverTiming: 'yes' }, "options.serverTiming must be a boolean, and is 'yes'"]
  ] as const) await t.rejects(startGateway(t, options as never), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message })
})

t.test('a handler that forwards anew after an error tells of the answer alone', async t => {
  const { ask } = await start(t, other => ({ proxyStatus: true, serverTiming: true, requestId: true, backends: ['http://127.0.0.1:1'], upstreams: { other: { backends: [other] }, dead: { backends: ['http://127.0.0.1:1'] } }, routes: [] }), {
    setup: app => {
      for (const second of ['other', 'dead']) {
        app.get(`/${second}`, async (request, reply) => {
          const { proxy } = request.server
          reply.header('proxy-status', 'app')
          try {
            await proxy.forward(request, reply)
          } catch {
            await proxy.upstream(second).forward(request, reply)
          }
        })
      }
    }
  })
  const response = await (await ask('GET /other HTTP/1.1')).response()
  t.match(response, { status: 200, body: 'other' })
  t.equal(response.values('proxy-status').join(), 'rockstar-proxy; received-status=200; next-protocol=http/1.1,app')
  t.equal(response.values('server-timing').length, 1)
  const failed = await (await ask('GET /dead HTTP/1.1')).response()
  t.equal(failed.status, 502)
  t.strictSame(failed.values('proxy-status'), ['rockstar-proxy; error=connection_refused, app'])
})
