import { context, propagation, SpanKind, SpanStatusCode, trace, type Span, type TextMapPropagator, type TracerProvider } from '@opentelemetry/api'
import { suppressTracing } from '@opentelemetry/core'
import { AlwaysOffSampler, type ReadableSpan } from '@opentelemetry/sdk-trace-base'
import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { text } from 'node:stream/consumers'
import t, { type Test } from 'tap'
import { attemptChannel, exchangeChannel } from '../../lib/telemetry/index.ts'
import { version } from '../../lib/version.ts'
import * as module from '../../plugins/opentelemetry.ts'
import openTelemetry, { type OpenTelemetryOptions } from '../../plugins/opentelemetry.ts'
import type { AttemptTrace, RockstarProxyOptions } from '../../types/index.ts'
import { httpBackend, startGateway, type Gateway, type GatewaySetup } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { http2Backend } from '../helpers/http2-backend.ts'
import { seeded } from '../helpers/random.ts'
import { contextFields, setUpContexts, SpanKeeper, traceparentOf } from '../helpers/spans.ts'
import { handshake, switching, switchingBackend } from '../helpers/tunnel.ts'
import { ok, rawBackend, until, type Message, type Wire } from '../helpers/wire.ts'

/** A test that hangs fails by itself, and lets the others run. */
const LIMIT = 5_000
const TRACE_ID = '0af7651916cd43dd8448eb211c80319c'
const SPAN_ID = 'b7ad6b7169203331'
const TRACEPARENT = `00-${TRACE_ID}-${SPAN_ID}-01`
const root = join(import.meta.dirname, '../..')

setUpContexts()

interface Given extends GatewaySetup {
  spans?: Omit<OpenTelemetryOptions, 'tracerProvider'> & { tracerProvider?: TracerProvider }
  keeper?: SpanKeeper
  /** Has requests run in spans. */
  serve?: boolean
}

/** A gateway whose attempts have spans. */
async function start (t: Test, options: RockstarProxyOptions, { spans, keeper = new SpanKeeper(), serve = false, setup, before, ...rest }: Given = {}) {
  t.setTimeout(LIMIT)
  const gateway = await startGateway(t, { routes: [{ prefix: '/' }], ...options }, {
    ...rest,
    // Before the routes, so that these run in the spans.
    before: async app => {
      if (serve) keeper.serve(app)
      await before?.(app)
    },
    setup: async app => {
      await app.register(openTelemetry, { tracerProvider: keeper.provider, ...spans })
      await setup?.(app)
    }
  })
  return { gateway, app: gateway.app, keeper, log: gateway.log }
}

/** Sends a request by a connection of its own, and resolves to the whole answer. */
async function ask (gateway: Gateway, path = '/', fields = '', method = 'GET') {
  const client = await gateway.connect()
  client.send(`${method} ${path} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n${fields}\r\n`)
  return await client.response(0, method)
}

/** The path of a request. */
const pathOf = ({ startLine }: Message) => startLine.split(' ')[1]
const parentOf = ({ parentSpanContext }: ReadableSpan) => parentSpanContext?.spanId
const serverSpans = (keeper: SpanKeeper) => keeper.all.filter(({ kind }) => kind === SpanKind.SERVER)
/** Lines that this sub-plugin has logged. */
const faults = ({ log }: Gateway) => log.filter(({ msg }) => msg.startsWith('OpenTelemetry')).map(({ msg }) => msg)

/** Names and values of all subscribed channels. */
function subscribed (): string[] {
  const channels = { exchange: exchangeChannel, attempt: attemptChannel }
  return Object.entries(channels).flatMap(([name, channel]) =>
    (['start', 'end', 'asyncStart', 'asyncEnd', 'error'] as const).filter(event => channel[event].hasSubscribers).map(event => `${name}:${event}`))
}

t.test('the default export is the plugin function, which require() gives too', async t => {
  t.type(openTelemetry, 'function')
  t.equal((module as Record<string, unknown>)['module.exports'], openTelemetry)
  t.equal(module.openTelemetry, openTelemetry)
})

// What spans say

t.test('a span says what the semantic conventions want of it, and what is the proxy\'s own', async t => {
  const backend = await rawBackend(t, () => ok())
  const { gateway, keeper } = await start(t, { backends: [{ id: 'a', url: `${backend.url}/base` }], routes: [{ prefix: '/api/:id' }] })
  t.equal((await ask(gateway, '/api/7/users?page=2')).status, 200)
  const [span] = await keeper.some()
  t.equal(span.name, 'GET')
  t.equal(span.kind, SpanKind.CLIENT)
  t.strictSame(span.status, { code: SpanStatusCode.UNSET })
  t.strictSame(span.attributes, {
    'http.request.method': 'GET',
    'server.address': '127.0.0.1',
    'server.port': backend.port,
    'url.full': `${backend.url}/base/users?page=2`,
    'rockstar_proxy.upstream': 'default',
    'rockstar_proxy.backend': 'a',
    'rockstar_proxy.attempt.reason': 'first',
    'rockstar_proxy.route': '/api/:id/*',
    'rockstar_proxy.attempt.result': 'successful',
    'network.protocol.version': '1.1',
    'http.response.status_code': 200
  })
  t.strictSame([span.events, span.links], [[], []])
  t.strictSame({ ...span.instrumentationScope, schemaUrl: undefined }, { name: 'rockstar-proxy', version, schemaUrl: undefined })
  t.equal(keeper.all.length, 1)
})

t.test('samplers see where it goes', async t => {
  const seen: object[] = []
  const keeper = new SpanKeeper({ shouldSample: (_context, _id, name, kind, attributes) => { seen.push({ name, kind, ...attributes }); return { decision: 2 } }, toString: () => 'test' })
  const backend = await rawBackend(t, () => ok())
  const { gateway } = await start(t, { backends: [{ id: 'a', url: backend.url }] }, { keeper })
  await ask(gateway, '/x')
  await keeper.some()
  t.match(seen, [{ name: 'GET', kind: SpanKind.CLIENT, 'http.request.method': 'GET', 'server.address': '127.0.0.1', 'server.port': backend.port, 'url.full': `${backend.url}/x` }])
})

t.test('methods that are not known are not told one from another, but for an attribute', async t => {
  const backend = await rawBackend(t, () => ok())
  const { gateway, keeper } = await start(t, { backends: [backend.url], routes: [{ prefix: '/', methods: ['GET', 'PURGE', 'PATCH'] }] })
  for (const method of ['PURGE', 'PATCH']) {
    await ask(gateway, '/', '', method)
    await until(() => keeper.all.length === (method === 'PURGE' ? 1 : 2))
  }
  t.match(keeper.all, [
    { name: 'HTTP', attributes: { 'http.request.method': '_OTHER', 'http.request.method_original': 'PURGE' } },
    { name: 'PATCH', attributes: { 'http.request.method': 'PATCH', 'http.request.method_original': undefined } }
  ])
})

t.test('the environment may say which methods are known', async t => {
  process.env.OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS = 'PURGE, GET'
  t.teardown(() => { delete process.env.OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS })
  const backend = await rawBackend(t, () => ok())
  const { gateway, keeper } = await start(t, { backends: [backend.url], routes: [{ prefix: '/', methods: ['PATCH', 'PURGE'] }] })
  for (const method of ['PURGE', 'PATCH']) await ask(gateway, '/', '', method)
  await keeper.some(2)
  t.strictSame(keeper.all.map(({ name }) => name), ['PURGE', 'HTTP'])
})

t.test('an answer of 400 or above is an error to a client, any other is not', async t => {
  const backend = await rawBackend(t, request => ok('', '', `${pathOf(request).slice(1)} Status`))
  const { gateway, keeper } = await start(t, { backends: [backend.url] })
  for (const status of [200, 302, 399, 400, 404, 500, 503]) {
    t.equal((await ask(gateway, `/${status}`)).status, status)
    await until(() => keeper.all.at(-1)?.attributes['http.response.status_code'] === status)
    const { status: told, attributes } = keeper.all.at(-1) as ReadableSpan
    t.strictSame(told, { code: status < 400 ? SpanStatusCode.UNSET : SpanStatusCode.ERROR }, `${status}, without a message`)
    t.equal(attributes['error.type'], status < 400 ? undefined : String(status))
    t.equal(attributes['rockstar_proxy.attempt.result'], status < 500 ? 'successful' : 'failed')
  }
})

t.test('failures have their kind, where they happened, and words without anybody\'s addresses', async t => {
  const gone = await httpBackend(t, () => {})
  await new Promise<void>(resolve => gone.server.close(() => resolve()))
  const clock = new FakeClock()
  const backend = await rawBackend(t, (request, wire) => {
    switch (pathOf(request)) {
      case '/reset': return wire.reset()
      case '/half': wire.socket.end('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf'); return
      case '/stall': return 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf'
      case '/nonsense': return 'SSH-2.0-OpenSSH_9.6 secret=hunter2\r\n\r\n'
    }
  })
  const { gateway, keeper } = await start(t, {
    clock, backends: [{ id: 'a', url: backend.url }], upstreams: { gone: { backends: [gone.url] } }, routes: [{ prefix: '/gone', upstream: 'gone' }, { prefix: '/' }], timeout: { headers: 50, idle: 200 }
  })
  const cases: [string, object, string | undefined][] = [
    ['/gone', { 'error.type': 'ECONNREFUSED', stage: 'connect', status: undefined }, 'The backend could not be reached'],
    ['/reset', { 'error.type': /^(ECONNRESET|UND_ERR_SOCKET)$/, stage: 'wait', status: undefined }, 'The backend closed the connection before it answered'],
    ['/half', { 'error.type': /^[A-Z_]+$/, stage: 'stream', status: 200 }, 'The response was cut short'],
    ['/nonsense', { 'error.type': /^(HPE_[A-Z_]+|HTTPParserError)$/, stage: 'wait', status: undefined }, 'The backend sent an invalid response'],
    ['/hang', { 'error.type': 'FST_ROCKSTAR_TIMEOUT', stage: 'wait', status: undefined }, 'The backend did not answer in time'],
    ['/stall', { 'error.type': 'FST_ROCKSTAR_TIMEOUT', stage: 'stream', status: 200 }, 'The response did not go on in time']
  ]
  for (const [path, expected, message] of cases) {
    const client = await gateway.connect()
    const before = keeper.all.length
    client.send(`GET ${path} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
    if (path === '/hang') await until(() => backend.requests.some(request => pathOf(request) === path))
    if (path === '/stall') await client.receive('half')
    if (path === '/hang' || path === '/stall') clock.advance(250)
    await until(() => keeper.all.length > before)
    const { attributes, status } = keeper.all.at(-1) as ReadableSpan
    t.strictSame(status, { code: SpanStatusCode.ERROR, message }, path)
    t.match({ ...attributes, stage: attributes['rockstar_proxy.attempt.stage'], status: attributes['http.response.status_code'] }, expected, path)
    t.match(attributes, { 'rockstar_proxy.attempt.result': 'failed', 'rockstar_proxy.attempt.culprit': 'backend' }, path)
    t.notMatch(JSON.stringify([attributes, status]), /hunter2/)
    client.close()
  }
})

t.test('a client that went away is no error of the backend', async t => {
  const backend = await rawBackend(t, () => {})
  const { gateway, keeper } = await start(t, { backends: [backend.url] })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => backend.requests.length === 1)
  client.close()
  const [{ status, attributes }] = await keeper.some()
  t.strictSame(status, { code: SpanStatusCode.UNSET })
  t.match(attributes, { 'rockstar_proxy.attempt.result': 'aborted', 'rockstar_proxy.attempt.culprit': 'client', 'rockstar_proxy.attempt.stage': 'wait', 'error.type': undefined, 'http.response.status_code': undefined, 'network.protocol.version': undefined })
})

t.test('a span ends when the answer has gone out, not before', async t => {
  const backend = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab')
  const { gateway, keeper } = await start(t, { backends: [backend.url] })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await client.receive('ab')
  t.equal(keeper.all.length, 0)
  backend.connections[0].send('cd')
  await keeper.some()
  t.equal((await client.response()).body, 'abcd')
})

t.test('what is secret of a query is not told, whatever it is written like; all else is', async t => {
  const backend = await rawBackend(t, () => ok())
  const { gateway, keeper } = await start(t, { backends: [backend.url] })
  const query = 'a=1&sig=s3cret&b&Signature=s3cret&AWSAccessKeyId=s3cret&X-Amz-Signature=s3cret&X-Amz-Credential=s3cret%2F&X-Amz-Security-Token=s3cret==&X-Goog-Signature=s3cret&s%69g=s3cret&sig=&SIG=shown&%zz=1&sig'
  await ask(gateway, `/x?${query}`)
  const [{ attributes }] = await keeper.some()
  t.equal(attributes['url.full'], `${backend.url}/x?a=1&sig=REDACTED&b&Signature=REDACTED&AWSAccessKeyId=REDACTED&X-Amz-Signature=REDACTED&X-Amz-Credential=REDACTED&X-Amz-Security-Token=REDACTED&X-Goog-Signature=REDACTED&s%69g=REDACTED&sig=REDACTED&SIG=shown&%zz=1&sig`)
  t.equal(pathOf(backend.requests[0]), `/x?${query}`, 'the backend has it all')
})

t.test('what is secret can be said', async t => {
  const backend = await rawBackend(t, () => ok())
  for (const [redactedQueryParams, expected] of [[['token', 'api key'], '/?token=REDACTED&api+key=REDACTED&sig=3'], [[], '/?token=1&api+key=2&sig=3']] as const) {
    const { gateway, keeper } = await start(t, { backends: [backend.url] }, { spans: { redactedQueryParams: [...redactedQueryParams] } })
    await ask(gateway, '/?token=1&api+key=2&sig=3')
    t.equal((await keeper.some())[0].attributes['url.full'], backend.url + expected)
  }
})

t.test('a backend on a Unix socket', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'spans-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const path = join(folder, 's')
  const backend = await rawBackend(t, () => ok())
  backend.server.close()
  await new Promise<void>(resolve => backend.server.listen(path, resolve))
  const { gateway, keeper } = await start(t, { backends: [`unix:${path}`] })
  t.equal((await ask(gateway, '/x')).status, 200)
  const [{ attributes }] = await keeper.some()
  t.match(attributes, { 'server.address': path, 'server.port': undefined, 'network.transport': 'unix', 'url.full': 'http://localhost/x' })
})

t.test('hooks may add to spans, and know what has become of them at their ends', async t => {
  const backend = await rawBackend(t, () => ok('', '', '404 No'))
  const heard: [string, AttemptTrace][] = []
  const { gateway, keeper } = await start(t, { backends: [backend.url] }, {
    spans: {
      onSpan: (span, attempt) => {
        heard.push(['start', attempt])
        t.equal(attempt.report, undefined)
        span.setAttribute('tenant', attempt.exchange.request?.headers['x-tenant'] as string).updateName(`${attempt.method} ${attempt.exchange.route}`)
      },
      onSpanEnd: (span, attempt) => {
        heard.push(['end', attempt])
        // Where a 404 is an answer as good as any.
        if (attempt.report?.outcome.statusCode === 404) span.setStatus({ code: SpanStatusCode.OK })
      }
    }
  })
  await ask(gateway, '/x', 'x-tenant: acme\r\n')
  const [span] = await keeper.some()
  t.match(span, { name: 'GET /*', attributes: { tenant: 'acme' }, status: { code: SpanStatusCode.OK } })
  t.strictSame(heard.map(([name]) => name), ['start', 'end'])
  t.equal(heard[0][1], heard[1][1])
})

// Parents

t.test('a span is the child of the one that is active when the exchange begins', async t => {
  const backend = await rawBackend(t, () => ok())
  const { gateway, keeper } = await start(t, { backends: [backend.url] }, { serve: true })
  await ask(gateway, '/')
  const [span] = await keeper.some()
  await until(() => serverSpans(keeper).length === 1)
  const [server] = serverSpans(keeper)
  t.equal(parentOf(span), server.spanContext().spanId)
  t.equal(span.spanContext().traceId, server.spanContext().traceId)
  t.strictSame(contextFields(backend.requests[0]), [['traceparent', traceparentOf(span)]])
})

t.test('an active span comes before what the client says', async t => {
  const backend = await rawBackend(t, () => ok())
  const keeper = new SpanKeeper()
  const { gateway } = await start(t, { backends: [backend.url] }, {
    keeper,
    // One that does not believe clients.
    before: app => keeper.serve(app, () => keeper.provider.getTracer('test').startSpan('server', { kind: SpanKind.SERVER, root: true }))
  })
  await ask(gateway, '/', `traceparent: ${TRACEPARENT}\r\ntracestate: theirs=1\r\n`)
  const [span] = await keeper.some()
  await until(() => serverSpans(keeper).length === 1)
  t.equal(parentOf(span), serverSpans(keeper)[0].spanContext().spanId)
  t.not(span.spanContext().traceId, TRACE_ID)
  t.strictSame(contextFields(backend.requests[0]), [['traceparent', traceparentOf(span)]], 'nothing is left of the client\'s, nor of its state')
})

t.test('without an active span it is the child of what the client says', async t => {
  const backend = await rawBackend(t, () => ok())
  const { gateway, keeper } = await start(t, { backends: [backend.url] })
  await ask(gateway, '/', `Traceparent: ${TRACEPARENT}\r\ntracestate: a=1\r\nTraceState: b=2\r\nbaggage: user=al%20ice,tier=1;p=2\r\nx-other: 1\r\n`)
  const [span] = await keeper.some()
  t.equal(span.spanContext().traceId, TRACE_ID)
  t.match(span.parentSpanContext, { traceId: TRACE_ID, spanId: SPAN_ID, isRemote: true })
  t.equal(span.spanContext().traceState?.serialize(), 'a=1,b=2')
  const [request] = backend.requests
  t.strictSame(contextFields(request), [['traceparent', traceparentOf(span)], ['tracestate', 'a=1,b=2'], ['baggage', 'user=al%20ice,tier=1;p=2']])
  t.strictSame(request.values('x-other'), ['1'])
})

t.test('without either it begins a trace, and what is nonsense is taken out', async t => {
  const backend = await rawBackend(t, () => ok())
  const { gateway, keeper } = await start(t, { backends: [backend.url] })
  for (const [i, fields] of ['', 'traceparent: nonsense\r\ntracestate: a=1\r\n', `traceparent: ${TRACEPARENT}\r\ntraceparent: ${TRACEPARENT}\r\n`].entries()) {
    await ask(gateway, '/', fields)
    await until(() => keeper.all.length === i + 1)
    const span = keeper.all[i]
    t.equal(span.parentSpanContext, undefined)
    t.not(span.spanContext().traceId, TRACE_ID)
    t.strictSame(contextFields(backend.requests[i]), [['traceparent', traceparentOf(span)]])
  }
})

t.test('what runs in a span of the application\'s own is its child: forward() and forwardHttp(), one after another', async t => {
  const backend = await rawBackend(t, () => ok('yes'))
  const keeper = new SpanKeeper()
  const { app } = await start(t, { backends: [backend.url], routes: [] }, {
    keeper,
    setup: app => {
      const tracer = keeper.provider.getTracer('test')
      app.get('/both', async request => {
        for (const step of ['one', 'two']) {
          await tracer.startActiveSpan(step, async span => {
            await (await app.proxy.forward(request, undefined, { path: `/${step}` })).text()
            span.end()
          })
        }
        return await tracer.startActiveSpan('three', async span => {
          const response = await app.proxy.forwardHttp(new Request('http://any/three'))
          span.end()
          return await response.text()
        })
      })
    }
  })
  t.equal((await app.inject('/both')).body, 'yes')
  const spans = await keeper.some(3)
  const named = (name: string) => keeper.all.find(span => span.name === name) as ReadableSpan
  for (const [i, step] of ['one', 'two', 'three'].entries()) {
    const span = spans.find(({ attributes }) => String(attributes['url.full']).endsWith(`/${step}`)) as ReadableSpan
    t.equal(parentOf(span), named(step).spanContext().spanId, step)
    t.strictSame(contextFields(backend.requests[i]), [['traceparent', traceparentOf(span)]], step)
  }
})

t.test('forwardHttp() without an active span goes on with the context that its request tells', async t => {
  const backend = await rawBackend(t, () => ok('yes'))
  const { app, keeper } = await start(t, { backends: [backend.url] })
  const response = await app.proxy.forwardHttp(new Request('http://any/x', { headers: { traceparent: TRACEPARENT } }))
  t.equal(await response.text(), 'yes')
  const [span] = await keeper.some()
  t.equal(parentOf(span), SPAN_ID)
  t.equal(span.attributes['rockstar_proxy.route'], undefined)
  t.strictSame(contextFields(backend.requests[0]), [['traceparent', traceparentOf(span)]])
})

// Several attempts

/** That each request has got the context of its own span, byte for byte, and once. */
function eachItsOwn (t: Test, spans: ReadableSpan[], requests: Message[]): void {
  t.strictSame(requests.map(contextFields), spans.map(span => [['traceparent', traceparentOf(span)]]))
  t.equal(new Set(spans.map(span => span.spanContext().spanId)).size, spans.length)
}

for (const [name, serve, fields] of [['a span of the server', true, ''], ['the client', false, `traceparent: ${TRACEPARENT}\r\n`]] as const) {
  t.test(`retries are siblings, children of ${name}`, async t => {
    const requests: Message[] = []
    const [one, two] = await Promise.all(['one', 'two'].map(() => rawBackend(t, request => {
      requests.push(request)
      return requests.length < 3 ? ok('no', '', '503 Sorry') : ok('yes')
    })))
    const clock = new FakeClock()
    const { gateway, keeper } = await start(t, {
      clock, random: seeded(1), backends: [{ id: 'one', url: one.url }, { id: 'two', url: two.url }], balancer: 'round-robin', retry: { attempts: 4, statuses: [503] }
    }, { serve })
    const answer = ask(gateway, '/', fields)
    await until(() => requests.length === 2)
    while (requests.length < 3) {
      clock.advance(50)
      await new Promise(resolve => setImmediate(resolve))
    }
    t.equal((await answer).body, 'yes')
    const spans = await keeper.some(3)
    t.match(spans.map(({ attributes, status }) => ({ ...attributes, code: status.code })), [
      { 'rockstar_proxy.attempt.reason': 'first', 'http.request.resend_count': undefined, 'http.response.status_code': 503, 'error.type': '503', code: SpanStatusCode.ERROR },
      { 'rockstar_proxy.attempt.reason': 'retry', 'http.request.resend_count': 1, 'http.response.status_code': 503, 'error.type': '503', code: SpanStatusCode.ERROR },
      { 'rockstar_proxy.attempt.reason': 'retry', 'http.request.resend_count': 2, 'http.response.status_code': 200, 'error.type': undefined, code: SpanStatusCode.UNSET }
    ])
    await until(() => !serve || serverSpans(keeper).length === 1)
    const parent = serve ? serverSpans(keeper)[0].spanContext().spanId : SPAN_ID
    t.strictSame(spans.map(parentOf), [parent, parent, parent])
    eachItsOwn(t, spans, requests)
  })
}

t.test('a hedge is a sibling, and who loses has made no error', async t => {
  const held: { request: Message, wire: Wire }[] = []
  const hold = (request: Message, wire: Wire) => {
    if (pathOf(request) !== '/hold') return ok()
    held.push({ request, wire })
    return undefined
  }
  const [one, two] = await Promise.all([rawBackend(t, hold), rawBackend(t, hold)])
  const clock = new FakeClock()
  const { gateway, keeper } = await start(t, { clock, random: seeded(1), backends: [one.url, two.url], hedge: { minDelay: 50, maxExtra: 1 } })
  for (let i = 0; i < 20; i++) await gateway.app.inject('/')
  const learned = (await keeper.some(20)).length
  clock.advance(250)
  const answer = ask(gateway, '/hold', `traceparent: ${TRACEPARENT}\r\n`)
  await until(() => held.length === 1)
  clock.advance(50)
  await until(() => held.length === 2)
  held[1].wire.send(ok('second'))
  t.equal((await answer).body, 'second')
  await until(() => keeper.all.length === learned + 2)
  const spans = keeper.all.slice(learned).sort((a, b) => Number(a.attributes['http.request.resend_count'] ?? 0) - Number(b.attributes['http.request.resend_count'] ?? 0))
  t.match(spans.map(({ attributes, status }) => ({ ...attributes, code: status.code })), [
    { 'rockstar_proxy.attempt.reason': 'first', 'http.request.resend_count': undefined, 'rockstar_proxy.attempt.result': 'aborted', 'rockstar_proxy.attempt.culprit': 'proxy', 'error.type': undefined, code: SpanStatusCode.UNSET },
    { 'rockstar_proxy.attempt.reason': 'hedge', 'http.request.resend_count': 1, 'rockstar_proxy.attempt.result': 'successful', 'http.response.status_code': 200, code: SpanStatusCode.UNSET }
  ])
  t.strictSame(spans.map(parentOf), [SPAN_ID, SPAN_ID])
  eachItsOwn(t, spans, held.map(({ request }) => request))
})

t.test('a request that is sent again as its connection had died is a sibling', async t => {
  const used = new Set<Wire>()
  const backend = await rawBackend(t, (_request, wire) => {
    if (used.has(wire)) return wire.reset()
    used.add(wire)
    return ok()
  })
  const { gateway, keeper } = await start(t, { backends: [backend.url] })
  await ask(gateway, '/')
  await keeper.some()
  t.equal((await ask(gateway, '/', `traceparent: ${TRACEPARENT}\r\n`)).status, 200)
  const spans = (await keeper.some(3)).filter(span => parentOf(span) === SPAN_ID)
  t.match(spans.map(({ attributes, status }) => ({ ...attributes, code: status.code })), [
    { 'rockstar_proxy.attempt.reason': 'first', 'rockstar_proxy.attempt.result': 'aborted', code: SpanStatusCode.UNSET },
    { 'rockstar_proxy.attempt.reason': 'resend', 'http.request.resend_count': 1, 'rockstar_proxy.attempt.result': 'successful', code: SpanStatusCode.UNSET }
  ])
  eachItsOwn(t, spans, backend.requests.slice(1))
})

t.test('what another upstream is asked in its place, and copies, are of the same request whoever has opened the connections', async t => {
  const answers: Record<string, (wire: Wire) => string | void> = {
    '/open': () => ok(),
    '/fall': wire => { wire.socket.end('HTTP/1.1 2') },
    '/copied': () => ok()
  }
  const backend = await rawBackend(t, (request, wire) => answers[pathOf(request)](wire))
  const other = await rawBackend(t, () => ok('other'))
  const shadow = await rawBackend(t, () => ok('shadow'))
  const { gateway, keeper } = await start(t, {
    backends: [backend.url],
    pool: { connections: 1 },
    upstreams: { other: { backends: [other.url] }, shadow: { backends: [shadow.url] } },
    fallback: { upstream: 'other' },
    routes: [{ prefix: '/', mirror: { upstream: 'shadow' } }]
  }, { serve: true })
  // Its span is the one that the connection is opened in.
  await ask(gateway, '/open')
  await keeper.some(2)
  const client = await gateway.connect()
  client.send('POST /copied HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n4\r\nbody\r\n')
  await until(() => backend.connections[0].received.includes('body'))
  client.send('0\r\n\r\n')
  t.equal((await client.response()).status, 200)
  await keeper.some(4)
  t.equal((await ask(gateway, '/fall')).body, 'other')
  await keeper.some(7)
  t.equal(backend.connections.length, 1)
  await until(() => serverSpans(keeper).length === 3)
  for (const [path, count] of [['/open', 2], ['/copied', 2], ['/fall', 3]] as const) {
    const spans = keeper.attempts.filter(({ attributes }) => String(attributes['url.full']).endsWith(path))
    t.equal(spans.length, count, path)
    const parents = new Set(spans.map(parentOf))
    t.equal(parents.size, 1, `${path}: one parent`)
    const server = serverSpans(keeper).find(span => span.spanContext().spanId === [...parents][0]) as ReadableSpan
    t.ok(server, `${path}: the server's`)
    t.equal(new Set(keeper.attempts.filter(span => parentOf(span) === server.spanContext().spanId)).size, count, `${path}: of this request alone`)
    t.equal(spans.filter(({ attributes }) => attributes['rockstar_proxy.mirror'] === true).length, 1)
  }
  t.strictSame(shadow.requests.map(contextFields).flat().map(([, value]) => value).sort(), keeper.attempts.filter(({ attributes }) => attributes['rockstar_proxy.mirror'] === true).map(traceparentOf).sort())
})

// Propagation

t.test('baggage of the active context goes on', async t => {
  const backend = await rawBackend(t, () => ok())
  const { gateway, keeper } = await start(t, { backends: [backend.url] }, {
    before: app => {
      app.addHook('onRequest', (_request, _reply, done) => context.with(propagation.setBaggage(context.active(), propagation.createBaggage({ ours: { value: 'yes' } })), done))
    }
  })
  await ask(gateway, '/', 'tracestate: x=1\r\n')
  const [span] = await keeper.some()
  t.strictSame(contextFields(backend.requests[0]), [['traceparent', traceparentOf(span)], ['baggage', 'ours=yes']])
})

t.test('with propagate: false what the client has sent goes on as it came', async t => {
  const backend = await rawBackend(t, () => ok())
  const { gateway, keeper } = await start(t, { backends: [backend.url] }, { spans: { propagate: false } })
  await ask(gateway, '/', `TraceParent: ${TRACEPARENT}\r\ntracestate: a=1\r\ntracestate: b=2\r\n`)
  const [span] = await keeper.some()
  t.equal(parentOf(span), SPAN_ID)
  t.strictSame(contextFields(backend.requests[0]), [['TraceParent', TRACEPARENT], ['tracestate', 'a=1'], ['tracestate', 'b=2']])
})

t.test('who is not sampled says so to backends', async t => {
  const backend = await rawBackend(t, () => ok())
  const keeper = new SpanKeeper(new AlwaysOffSampler())
  const heard: AttemptTrace[] = []
  const { gateway } = await start(t, { backends: [backend.url] }, { keeper, spans: { onSpan: (_span, attempt) => { heard.push(attempt) } } })
  await ask(gateway, '/', `traceparent: ${TRACEPARENT}\r\n`)
  const [[name, value], ...others] = contextFields(backend.requests[0])
  t.equal(name, 'traceparent')
  t.match(value, new RegExp(`^00-${TRACE_ID}-[0-9a-f]{16}-00$`))
  t.not(value.split('-')[2], SPAN_ID, 'one of its own')
  t.strictSame([others, keeper.all, heard], [[], [], []])
})

t.test('where tracing is suppressed there is no span, and nothing changes', async t => {
  const backend = await rawBackend(t, () => ok())
  const { gateway, keeper } = await start(t, { backends: [backend.url] }, {
    before: app => { app.addHook('onRequest', (_request, _reply, done) => context.with(suppressTracing(context.active()), done)) }
  })
  await ask(gateway, '/', `traceparent: ${TRACEPARENT}\r\n`)
  t.strictSame(contextFields(backend.requests[0]), [['traceparent', TRACEPARENT]])
  t.equal(keeper.all.length, 0)
})

t.test('a propagator of one\'s own', async t => {
  const backend = await rawBackend(t, () => ok())
  const propagator: TextMapPropagator = {
    fields: () => ['X-Span', 'x-old'],
    inject: (context, carrier, setter) => setter.set(carrier, 'x-span', trace.getSpanContext(context)?.spanId as string),
    extract: (context, carrier, getter) => {
      t.strictSame(getter.keys(carrier).filter(key => key.startsWith('x-')).sort(), ['x-old', 'x-span'])
      t.equal(getter.get(carrier, 'x-none'), undefined)
      return trace.setSpanContext(context, { traceId: TRACE_ID, spanId: getter.get(carrier, 'X-SPAN') as string, traceFlags: 1, isRemote: true })
    }
  }
  const { gateway, keeper } = await start(t, { backends: [backend.url], forwarded: false }, { spans: { propagator } })
  await ask(gateway, '/', `X-Span: ${SPAN_ID}\r\nX-Old: 1\r\ntraceparent: as it is\r\n`)
  const [span] = await keeper.some()
  t.equal(parentOf(span), SPAN_ID)
  t.strictSame(backend.requests[0].fields.filter(([name]) => /^(x-|trace)/i.test(name)), [['traceparent', 'as it is'], ['x-span', span.spanContext().spanId]])
})

t.test('without an SDK nothing changes', async t => {
  const backend = await rawBackend(t, () => ok())
  const { gateway, log } = await start(t, { backends: [backend.url] }, { spans: { tracerProvider: undefined } })
  const fields: [string, string][] = [['TraceParent', `01-${TRACE_ID}-${SPAN_ID}-03`], ['tracestate', ' a=1'], ['tracestate', 'b=2'], ['baggage', 'c=3']]
  await ask(gateway, '/', fields.map(([name, value]) => `${name}:${value}\r\n`).join(''))
  t.strictSame(contextFields(backend.requests[0]), fields.map(([name, value]) => [name, value.trim()]))
  await ask(gateway, '/', 'tracestate: a=1\r\nBaggage: c = 3 ; p\r\n')
  t.strictSame(contextFields(backend.requests[1]), [['tracestate', 'a=1'], ['Baggage', 'c = 3 ; p']])
  t.strictSame(log.filter(({ level }) => level > 30), [])
})

t.test('the global provider is used, also when it is set afterwards', async t => {
  const backend = await rawBackend(t, () => ok())
  const { gateway, keeper } = await start(t, { backends: [backend.url] }, { spans: { tracerProvider: undefined } })
  await ask(gateway, '/')
  t.equal(keeper.all.length, 0)
  trace.setGlobalTracerProvider(keeper.provider)
  t.teardown(() => trace.disable())
  await ask(gateway, '/')
  const [span] = await keeper.some()
  t.strictSame(contextFields(backend.requests[1]), [['traceparent', traceparentOf(span)]])
})

// Other protocols

t.test('HTTP/2 backends', async t => {
  const backend = await http2Backend(t, ({ stream }) => { stream.respond({ ':status': 200 }); stream.end('yes') })
  const { gateway, keeper } = await start(t, { backends: [{ url: backend.url, http2: true }] })
  t.equal((await ask(gateway, '/x', `traceparent: ${TRACEPARENT}\r\nTracestate: a=1\r\n`)).body, 'yes')
  const [span] = await keeper.some()
  t.match(span.attributes, { 'network.protocol.version': '2', 'http.response.status_code': 200, 'url.full': `${backend.url}/x` })
  t.match(backend.calls[0].headers, { traceparent: traceparentOf(span), tracestate: 'a=1' })
})

t.test('the span of a tunnel lasts as long as the tunnel', async t => {
  const backend = await switchingBackend(t, request => pathOf(request) === '/no' ? ok('no', '', '403 No') : switching())
  const { gateway, keeper } = await start(t, { backends: [backend.url], routes: [{ prefix: '/', websocket: true }] })
  const client = await gateway.connect()
  client.send(handshake('/ws', `traceparent: ${TRACEPARENT}\r\n`))
  t.equal((await client.response()).status, 101)
  t.equal(keeper.all.length, 0)
  client.close();
  (await backend.end()).wire.close()
  const [span] = await keeper.some()
  t.match(span, { name: 'GET', status: { code: SpanStatusCode.UNSET }, attributes: { 'http.response.status_code': 101, 'network.protocol.version': '1.1', 'rockstar_proxy.attempt.result': 'successful' } })
  t.equal(parentOf(span), SPAN_ID)
  t.strictSame(contextFields(backend.requests[0]), [['traceparent', traceparentOf(span)]])
  const refused = await gateway.connect()
  refused.send(handshake('/no'))
  t.equal((await refused.response()).status, 403)
  await until(() => keeper.all.length === 2)
  t.match(keeper.all[1], { status: { code: SpanStatusCode.ERROR }, attributes: { 'http.response.status_code': 403, 'error.type': '403' } })
})

// Registrations

t.test('each registration has the spans of its own exchanges, and none of another', async t => {
  const backend = await rawBackend(t, () => ok())
  const [one, two] = [await start(t, { backends: [{ id: 'one', url: backend.url }] }), await start(t, { backends: [{ id: 'two', url: backend.url }] })]
  const third = await startGateway(t, { backends: [{ id: 'three', url: backend.url }], routes: [{ prefix: '/' }] })
  for (const gateway of [one.gateway, two.gateway, two.gateway, third]) await ask(gateway, '/', 'traceparent: x\r\n')
  await one.keeper.some()
  await two.keeper.some(2)
  t.strictSame(one.keeper.all.map(({ attributes }) => attributes['rockstar_proxy.backend']), ['one'])
  t.strictSame(two.keeper.all.map(({ attributes }) => attributes['rockstar_proxy.backend']), ['two', 'two'])
  t.strictSame(contextFields(backend.requests[3]), [['traceparent', 'x']])
})

t.test('scopes of one app have their own', async t => {
  const backend = await rawBackend(t, () => ok())
  const keepers = [new SpanKeeper(), new SpanKeeper()]
  const { default: rockstarProxy } = await import('../../plugins/index.ts')
  const { app } = await start(t, { backends: [{ id: 'root', url: backend.url }], routes: [{ prefix: '/root' }] }, {
    keeper: keepers[0],
    before: async app => {
      await app.register(async scope => {
        await scope.register(rockstarProxy, { backends: [{ id: 'scope', url: backend.url }], routes: [{ prefix: '/scope' }], shutdownTimeout: 0, health: false })
        await scope.register(openTelemetry, { tracerProvider: keepers[1].provider })
      })
    }
  })
  for (const path of ['/root', '/scope']) t.equal((await app.inject(path)).statusCode, 200)
  t.strictSame(keepers.map(keeper => keeper.all.map(({ attributes }) => attributes['rockstar_proxy.backend'])), [['root'], ['scope']])
})

t.test('two spans of one attempt are refused, in other scopes too', async t => {
  const refused = { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: 'rockstar-proxy/opentelemetry is registered already for this proxy: each attempt would have two spans' }
  await t.rejects(start(t, {}, { setup: app => app.register(openTelemetry) }), refused)
  await t.rejects(start(t, {}, { setup: app => app.register(async scope => { await scope.register(openTelemetry) }) }), refused)
})

t.test('it wants rockstar-proxy', async t => {
  const { default: Fastify } = await import('fastify')
  const app = Fastify()
  t.teardown(() => app.close())
  await t.rejects(async () => await app.register(openTelemetry), /rockstar-proxy/)
  t.strictSame(subscribed(), [])
})

t.test('a closed app listens no more', async t => {
  t.strictSame(subscribed(), [], 'nobody has before')
  const backend = await rawBackend(t, () => ok())
  const one = await start(t, { backends: [backend.url] })
  const all = ['exchange:start', 'exchange:asyncEnd', 'attempt:start', 'attempt:asyncEnd']
  t.strictSame(subscribed(), all)
  const two = await start(t, { backends: [backend.url] })
  await one.app.close()
  t.strictSame(subscribed(), all, 'the other one still does')
  await ask(two.gateway, '/')
  t.equal((await two.keeper.some()).length, 1)
  t.equal(one.keeper.all.length, 0)
  await two.app.close()
  t.strictSame(subscribed(), [])
})

t.test('what is under way when the app closes has its span ended', async t => {
  const backend = await switchingBackend(t, request => pathOf(request) === '/hold' ? undefined : switching())
  const { gateway, app, keeper } = await start(t, { backends: [backend.url], routes: [{ prefix: '/', websocket: true }] })
  const [client, tunnel] = [await gateway.connect(), await gateway.connect()]
  tunnel.send(handshake('/ws'))
  await tunnel.response()
  client.send('GET /hold HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => backend.requests.length === 2)
  t.equal(keeper.all.length, 0)
  await app.close()
  await until(() => subscribed().length === 0)
  t.strictSame(keeper.all.map(({ attributes, status }) => [attributes['url.full'], attributes['rockstar_proxy.attempt.result'], status.code]).sort(), [
    [`${backend.url}/hold`, 'aborted', SpanStatusCode.UNSET],
    [`${backend.url}/ws`, 'successful', SpanStatusCode.UNSET]
  ])
})

// Faults

const thrower = (name: string) => () => { throw new Error(`${name} is out of order`) }

/** A provider whose spans throw by name. */
function providerWith (keeper: SpanKeeper, broken: Partial<Record<keyof Span | 'startSpan', () => never>>): TracerProvider {
  return {
    getTracer: (...args) => {
      const tracer = keeper.provider.getTracer(...args)
      const { startSpan, ...span } = broken
      return Object.assign(Object.create(tracer), {
        startSpan: startSpan ?? ((...args: Parameters<typeof tracer.startSpan>) => Object.assign(tracer.startSpan(...args), span))
      })
    }
  }
}

const propagatorWith = (broken: Partial<TextMapPropagator>): TextMapPropagator => ({
  fields: () => ['traceparent'], inject: (_context, carrier, setter) => setter.set(carrier, 'traceparent', 'own'), extract: context => context, ...broken
})

t.test('whatever fails of an SDK or a hook is logged once, and hurts nobody', async t => {
  const backend = await rawBackend(t, () => ok('fine'))
  const none = new SpanKeeper()
  const cases: [string, OpenTelemetryOptions, string[], (fields: [string, string][]) => boolean][] = [
    ['startSpan', { tracerProvider: providerWith(none, { startSpan: thrower('startSpan') }) }, ['a span was not started'], fields => fields[0][1] === TRACEPARENT],
    ['a tracer that is none', { tracerProvider: { getTracer: () => undefined as never } }, ['a span was not started'], fields => fields[0][1] === TRACEPARENT],
    ['a span that is none', { tracerProvider: { getTracer: () => ({ startSpan: () => ({}) }) as never } }, ['the context was not sent', 'a span was not completed', 'a span was not ended'], fields => fields[0][1] === TRACEPARENT],
    ['setAttributes', { tracerProvider: providerWith(none, { setAttributes: thrower('setAttributes') }) }, ['a span was not completed'], fields => fields[0][1] !== TRACEPARENT],
    ['end', { tracerProvider: providerWith(none, { end: thrower('end') }) }, ['a span was not ended'], fields => fields[0][1] !== TRACEPARENT],
    ['spanContext', { tracerProvider: providerWith(none, { spanContext: thrower('spanContext') }) }, ['the context was not sent', 'a span was not ended'], fields => fields[0][1] === TRACEPARENT],
    ['inject', { propagator: propagatorWith({ inject: thrower('inject') }) }, ['the context was not sent'], fields => fields[0][1] === TRACEPARENT],
    ['inject of what cannot be sent', { propagator: propagatorWith({ inject: (_context, carrier, setter) => { setter.set(carrier, 'x-good', '1'); setter.set(carrier, 'x-bad', 'a\r\nx-evil: 1') } }) }, ['the context was not sent'], fields => fields[0][1] === TRACEPARENT && fields.length === 1],
    ['extract', { propagator: propagatorWith({ extract: thrower('extract') }) }, ['the context of a request was not read'], fields => fields[0][1] === 'own'],
    ['fields', { propagator: propagatorWith({ fields: thrower('fields') }) }, ['the context was not sent'], fields => fields[0][1] === TRACEPARENT],
    ['hooks', { onSpan: thrower('onSpan'), onSpanEnd: thrower('onSpanEnd') }, ['onSpan threw', 'onSpanEnd threw'], fields => fields[0][1] !== TRACEPARENT],
    ['hooks that are async', { onSpan: (async () => thrower('onSpan')()) as never, onSpanEnd: (async () => thrower('onSpanEnd')()) as never }, ['onSpan threw', 'onSpanEnd threw'], fields => fields[0][1] !== TRACEPARENT]
  ]
  for (const [name, spans, expected, sent] of cases) {
    const { gateway } = await start(t, { backends: [backend.url] }, { spans })
    for (let i = 0; i < 3; i++) {
      const { status, body } = await ask(gateway, '/', `traceparent: ${TRACEPARENT}\r\n`)
      t.strictSame([status, body], [200, 'fine'], name)
      const request = backend.requests.at(-1) as Message
      t.ok(sent(contextFields(request)), `${name}: ${contextFields(request).join()}`)
      t.strictSame(request.values('x-good'), [])
      t.strictSame(request.values('x-evil'), [])
    }
    await until(() => faults(gateway).length >= expected.length)
    t.strictSame(faults(gateway).sort(), expected.map(kind => `OpenTelemetry: ${kind}. This is logged but once.`).sort(), name)
    t.strictSame(gateway.log.filter(({ level }) => level >= 50).length, expected.length, name)
    await gateway.app.close()
  }
  t.strictSame(subscribed(), [], 'all have gone')
})

t.test('a provider that throws for its tracer is told at once', async t => {
  await t.rejects(start(t, {}, { spans: { tracerProvider: { getTracer: thrower('getTracer') } } }), /getTracer is out of order/)
  t.strictSame(subscribed(), [])
})

// Options

t.test('options are checked, and errors say what is wrong', async t => {
  const cases: Record<string, { good: unknown[], bad: unknown[], expected: string }> = {
    tracerProvider: { good: [new SpanKeeper().provider, trace.getTracerProvider(), { getTracer: () => trace.getTracer('x') }], bad: [5, 'x', null], expected: 'a TracerProvider of OpenTelemetry' },
    'tracerProvider.getTracer': { good: [], bad: [5, undefined], expected: 'a function' },
    propagator: { good: [propagatorWith({})], bad: [5, 'w3c', null], expected: 'a TextMapPropagator of OpenTelemetry' },
    'propagator.fields': { good: [], bad: [['traceparent']], expected: 'a function' },
    propagate: { good: [true, false], bad: ['yes', 1, null], expected: 'a boolean' },
    redactedQueryParams: { good: [[], ['token']], bad: ['token', 5, null, {}], expected: 'an array of names, each a string of at least 1 characters' },
    onSpan: { good: [() => {}], bad: [5, 'x', {}, null], expected: 'a function' },
    onSpanEnd: { good: [() => {}], bad: [5, 'x', {}, null], expected: 'a function' }
  }
  const register = async (t: Test, options: object) => await start(t, {}, { spans: { ...options } })
  for (const [name, { good, bad, expected }] of Object.entries(cases)) {
    for (const value of good) await t.resolves(register(t, { [name]: value }), name)
    const [outer, inner] = name.split('.')
    for (const value of bad) {
      const error = await register(t, { [outer]: inner === undefined ? value : { ...propagatorWith({}), [inner]: value } }).catch(error => error)
      t.equal(error.code, 'FST_ROCKSTAR_INVALID_OPTIONS', name)
      t.ok(error.message.startsWith(`options of rockstar-proxy/opentelemetry.${name} must be ${expected}, and is `), error.message)
    }
  }
  await t.rejects(register(t, { redactedQueryParams: ['a', ''] }), { message: /^options of rockstar-proxy\/opentelemetry\.redactedQueryParams\[1\] must be a string of at least 1 characters, and is ''/ })
  await t.rejects(register(t, { propagat: true }), { message: "options of rockstar-proxy/opentelemetry.propagat is not an option; did you mean 'propagate'?" })
})

// The page

t.test('the example of the page works as it is', async t => {
  t.setTimeout(20_000)
  const backend = await rawBackend(t, () => ok('fine'))
  const [, example] = /\n## OpenTelemetry\n.*?```js\n(.*?)```/s.exec(readFileSync(join(root, 'docs/telemetry.md'), 'utf8')) as unknown as [string, string]
  const code = example.replace('http://127.0.0.1:3001', backend.url).replace('port: 8080', 'port: 0').replace("'rockstar-proxy'", "'./plugins/index.ts'").replace("'rockstar-proxy/opentelemetry'", "'./plugins/opentelemetry.ts'")
  t.match(code, /plugins\/index.*plugins\/opentelemetry.*port: 0/s)
  const child = spawn(process.execPath, ['--import=tsx', '--input-type=module', '--eval', `${code}\nconsole.log('port', app.server.address().port)`], { cwd: root, env: { ...process.env, NODE_OPTIONS: '' }, stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  let output = ''
  child.stdout.setEncoding('utf8').on('data', text => { output += text })
  await until(() => /port \d+/.test(output) || child.exitCode !== null)
  const answer = await fetch(`http://localhost:${/port (\d+)/.exec(output)?.[1]}/api/x`, { headers: { traceparent: TRACEPARENT, 'x-tenant': 'acme' } })
  t.equal(await answer.text(), 'fine')
  await until(() => output.includes('rockstar_proxy.attempt.result') || child.exitCode !== null)
  t.match(output, `traceId: '${TRACE_ID}'`)
  t.match(output, "tenant: 'acme'")
  t.match(contextFields(backend.requests[0])[0][1], new RegExp(`^00-${TRACE_ID}-(?!${SPAN_ID})[0-9a-f]{16}-01$`))
})

// Without the package

/** Runs code as a module of its own, where packages of OpenTelemetry are not installed. */
async function runWithoutApi (t: Test, code: string): Promise<string> {
  const hooks = "export const resolve = (name, context, next) => { if (name.startsWith('@opentelemetry/')) throw Object.assign(new Error('Cannot find package ' + name), { code: 'ERR_MODULE_NOT_FOUND' }); return next(name, context) }"
  const folder = mkdtempSync(join(tmpdir(), 'without-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  writeFileSync(join(folder, 'hooks.mjs'), hooks)
  writeFileSync(join(folder, 'register.mjs'), "import { register } from 'node:module'\nregister('./hooks.mjs', import.meta.url)")
  const child = spawn(process.execPath, ['--import=tsx', `--import=${join(folder, 'register.mjs')}`, '--input-type=module', '--eval', code], {
    cwd: root, env: { ...process.env, NODE_OPTIONS: '' }, stdio: ['ignore', 'pipe', 'inherit']
  })
  t.teardown(() => child.kill('SIGKILL'))
  return await text(child.stdout)
}

t.test('the package does without @opentelemetry/api, and says what is missing where it cannot', async t => {
  const backend = await rawBackend(t, () => ok('fine'))
  const output = await runWithoutApi(t, `
    import Fastify from 'fastify'
    import rockstarProxy from './plugins/index.ts'
    import openTelemetry from './plugins/opentelemetry.ts'
    const app = Fastify()
    await app.register(rockstarProxy, { backends: ['${backend.url}'], routes: [{ prefix: '/' }], shutdownTimeout: 0 })
    console.log((await app.inject('/')).body)
    await app.close()
    const other = Fastify()
    await other.register(rockstarProxy, {})
    try { await other.register(openTelemetry) } catch (error) { console.log([error.code, error.message, error.cause.code].join('\\n')) }
  `)
  t.strictSame(output.split('\n'), [
    'fine',
    'FST_ROCKSTAR_INVALID_OPTIONS',
    'rockstar-proxy/opentelemetry needs the package @opentelemetry/api (1.9 or a later 1.x), which cannot be loaded. Install it: npm install @opentelemetry/api',
    'ERR_MODULE_NOT_FOUND',
    ''
  ])
})

t.test('neither code nor types of it are needed by who does without', async t => {
  const seen = new Set<string>()
  const packages = new Map<string, string>()
  const visit = (file: string) => {
    if (seen.has(file)) return
    seen.add(file)
    for (const [, name] of readFileSync(file, 'utf8').matchAll(/(?:from|import) '([^']+)'/g)) {
      if (name.startsWith('.')) visit(join(dirname(file), name))
      else packages.set(name, file)
    }
  }
  const { exports, peerDependencies, peerDependenciesMeta, dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  for (const [name, { types }] of Object.entries<{ types?: string }>(exports)) {
    if (types !== undefined && name !== './opentelemetry') visit(join(root, types.replace('/dist', '').replace('.d.ts', '.ts')))
  }
  t.ok(seen.size > 200, `${seen.size} files`)
  t.ok(packages.has('undici'))
  t.strictSame([...packages].filter(([name]) => name.startsWith('@opentelemetry/')), [])
  t.match(exports['./opentelemetry'], { types: './dist/plugins/opentelemetry.d.ts', default: './dist/plugins/opentelemetry.js' })
  t.match({ peerDependencies, peerDependenciesMeta }, { peerDependencies: { '@opentelemetry/api': '^1.9.0' }, peerDependenciesMeta: { '@opentelemetry/api': { optional: true } } })
  t.notOk('@opentelemetry/api' in dependencies)
})
