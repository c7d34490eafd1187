import type { FastifyRequest } from 'fastify'
import { AsyncLocalStorage } from 'node:async_hooks'
import { tracingChannel } from 'node:diagnostics_channel'
import t, { type Test } from 'tap'
import type { AttemptTrace, ExchangeTrace, ForwardOptions, RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type GatewaySetup } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { handshake, tunnelRig } from '../helpers/tunnel.ts'
import { ok, rawBackend, until, type Message, type Wire } from '../helpers/wire.ts'

const LIMIT = 5_000
const STEPS = ['start', 'end', 'asyncStart', 'asyncEnd', 'error'] as const
const exchangeChannel = tracingChannel('rockstar-proxy:exchange')
const attemptChannel = tracingChannel('rockstar-proxy:attempt')

/** Listens along until the test is over: what is told, in words, and the messages of each channel. */
function listen (t: Test, { start = () => {}, only }: { start?: (message: AttemptTrace) => void, only?: 'exchange' | 'attempt' } = {}) {
  const told: string[] = []
  const exchanges: ExchangeTrace[] = []
  const attempts: AttemptTrace[] = []
  const subscribe = (channel: typeof exchangeChannel, name: string, messages: unknown[]) => {
    const subscribers = Object.fromEntries(STEPS.map(step => [step, (message: unknown) => {
      if (!messages.includes(message)) messages.push(message)
      told.push(`${name} ${messages.indexOf(message)} ${step}`)
      if (name === 'attempt' && step === 'start') start(message as AttemptTrace)
    }])) as unknown as Parameters<typeof channel.subscribe>[0]
    channel.subscribe(subscribers)
    t.teardown(() => channel.unsubscribe(subscribers))
  }
  if (only !== 'attempt') subscribe(exchangeChannel, 'exchange', exchanges)
  if (only !== 'exchange') subscribe(attemptChannel, 'attempt', attempts)
  return { told, exchanges, attempts }
}

/** A gateway whose time stands still; its backends hold what they are asked, unless they have an answer. */
async function start (t: Test, options: RockstarProxyOptions = {}, setup: GatewaySetup & { answer?: (request: Message) => string | void } = {}) {
  t.setTimeout(LIMIT)
  const clock = new FakeClock()
  const held: Wire[] = []
  const backends = await Promise.all(['a', 'b'].map(async id => {
    const backend = await rawBackend(t, (request, wire) => {
      const answer = setup.answer?.(request)
      if (answer === undefined) held.push(wire)
      return answer
    })
    return { id, url: backend.url, backend }
  }))
  const gateway = await startGateway(t, { clock, backends: backends.map(({ id, url }) => ({ id, url })), routes: [{ prefix: '/api' }], ...options }, setup)
  const ask = async (head = 'GET /api/x?y HTTP/1.1', fields = '') => {
    const client = await gateway.connect()
    client.send(`${head}\r\nHost: gateway\r\n${fields}\r\n`)
    return client
  }
  return { clock, held, gateway, ask, requests: () => backends.flatMap(({ backend }) => backend.requests) }
}

t.test('an exchange and its attempt are told from start to end', async t => {
  const { told, exchanges, attempts } = listen(t)
  const { clock, held, ask, gateway } = await start(t)
  const client = await ask()
  await until(() => held.length === 1)
  t.strictSame(told, ['exchange 0 start', 'attempt 0 start', 'attempt 0 end', 'exchange 0 end'], 'what begins at once is inside')
  t.equal(exchanges[0].summary, undefined)
  t.match(exchanges[0], { upstream: 'default', route: '/api/*', method: 'GET', path: '/x?y', isCopy: false, error: undefined })
  t.equal(exchanges[0].proxy, gateway.app.proxy)
  t.equal(exchanges[0].request?.id, 'req-1')
  t.match(attempts[0], { reason: 'first', number: 0, method: 'GET', path: '/x?y', report: undefined, version: undefined, error: undefined })
  t.equal(attempts[0].exchange, exchanges[0])
  t.equal(attempts[0].backend, gateway.app.proxy.getBackend('a'))
  clock.advance(10)
  held[0].send(ok('answer'))
  await client.response()
  await until(() => told.length === 8)
  t.strictSame(told.slice(4), ['attempt 0 asyncStart', 'attempt 0 asyncEnd', 'exchange 0 asyncStart', 'exchange 0 asyncEnd'])
  t.match(attempts[0], { version: '1.1', error: undefined, report: { result: 'successful', time: 10, hedge: false, outcome: { stage: 'done', statusCode: 200 } } })
  t.match(exchanges[0].summary, { result: 'successful', statusCode: 200, error: undefined, backend: attempts[0].backend, bytesReceived: 0, bytesSent: 6, time: 10, times: { queue: 0, connect: 0, send: 0, wait: 10, stream: 0 } })
  t.equal(exchanges[0].summary?.attempts.length, 1)
})

t.test('what fails tells why, before it ends', async t => {
  const { told, exchanges, attempts } = listen(t)
  const { ask } = await start(t, { backends: ['http://127.0.0.1:1'] })
  t.equal((await (await ask()).response()).status, 502)
  await until(() => told.length >= 10)
  t.strictSame(told.filter(text => /error|async/.test(text)), ['attempt 0 error', 'attempt 0 asyncStart', 'attempt 0 asyncEnd', 'exchange 0 error', 'exchange 0 asyncStart', 'exchange 0 asyncEnd'])
  t.match(attempts[0], { version: undefined, error: { code: 'ECONNREFUSED' }, report: { result: 'failed', outcome: { stage: 'connect', culprit: 'backend' } } })
  t.match(exchanges[0], { error: { code: 'FST_ROCKSTAR_CONNECT' }, summary: { result: 'failed', statusCode: 502, error: { code: 'FST_ROCKSTAR_CONNECT' } } })
})

t.test('what fails at once ends behind its beginning all the same', async t => {
  const { told } = listen(t)
  const { ask } = await start(t, { backends: [] })
  t.equal((await (await ask()).response()).status, 503)
  t.strictSame(told, ['exchange 0 start', 'exchange 0 end', 'exchange 0 error', 'exchange 0 asyncStart', 'exchange 0 asyncEnd'])
})

t.test('a tunnel that the application refuses begins and ends', async t => {
  const { told, exchanges } = listen(t)
  const { gateway } = await tunnelRig(t, { routes: [{ prefix: '/', onUpgrade: () => false }] })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n')
  t.equal((await client.response()).status, 403)
  t.strictSame(told, ['exchange 0 start', 'exchange 0 end', 'exchange 0 error', 'exchange 0 asyncStart', 'exchange 0 asyncEnd'])
  t.match(exchanges[0].summary, { result: 'aborted', statusCode: 403, attempts: [], times: { queue: Number } })
})

t.test('a tunnel ends when it closes', async t => {
  const { told, exchanges, attempts } = listen(t)
  const { open } = await tunnelRig(t)
  const { client, server } = await open()
  client.say('1234')
  await server.hears('1234')
  t.equal(told.length, 4)
  client.wire.close()
  server.wire.close()
  await until(() => told.length === 8)
  t.match(attempts[0].report, { result: 'successful', outcome: { statusCode: 101 } })
  t.match(exchanges[0].summary, { result: 'successful', statusCode: 101, bytesReceived: 4, bytesSent: 0 })
})

t.test('retries and hedges are attempts beside each other, and say what they are', async t => {
  let answers = 0
  const { ask, held, clock, gateway } = await start(t, { retry: { attempts: 3 }, hedge: { minDelay: 50, maxExtra: 1 } }, {
    answer: ({ startLine }) => startLine.includes('/hold') ? undefined : startLine.includes('/retry') && answers++ === 0 ? ok('', '', '503 Busy') : ok()
  })
  for (let i = 0; i < 20; i++) await gateway.app.inject('/api/learn')
  clock.advance(250)
  const { exchanges, attempts } = listen(t)
  await gateway.app.inject('/api/retry')
  t.strictSame(attempts.map(({ reason, number, backend }) => [reason, number, backend.id]), [['first', 0, 'a'], ['retry', 1, 'b']])
  await ask('GET /api/hold HTTP/1.1')
  await until(() => held.length === 1)
  clock.advance(50)
  await until(() => held.length === 2)
  held[1].send(ok())
  await until(() => gateway.app.proxy.getMetrics().hedgesWon === 1)
  await until(() => attempts.length === 4 && attempts[3].report !== undefined)
  t.strictSame(attempts.slice(2).map(({ reason, number }) => [reason, number]), [['first', 0], ['hedge', 1]])
  t.match(attempts[2].report, { result: 'aborted' })
  t.match(attempts[3].report, { result: 'successful', hedge: true })
  t.ok(attempts.slice(2).every(({ exchange }) => exchange === exchanges[1]))
})

t.test('a request on a connection that had died idle is sent again', async t => {
  const { attempts } = listen(t)
  let asked = 0
  const backend = await rawBackend(t, (_request, wire) => {
    if (++asked !== 2) return ok()
    wire.reset()
    return undefined
  })
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }], retry: true })
  t.equal((await gateway.app.inject('/1')).statusCode, 200)
  await until(() => gateway.app.proxy.getConnectionPool().stats().idle === 1)
  t.equal((await gateway.app.inject('/2')).statusCode, 200)
  t.strictSame(attempts.map(({ reason, number }) => [reason, number]), [['first', 0], ['first', 0], ['resend', 1]])
})

t.test('a subscriber may change what is sent, for that attempt alone', async t => {
  let sent = 0
  let answers = 0
  listen(t, { only: 'attempt', start: ({ headers }) => { headers.push('traceparent', `attempt-${sent++}`) } })
  const { ask, requests } = await start(t, { retry: { attempts: 2 } }, { answer: () => answers++ === 0 ? ok('', '', '503 Busy') : ok() })
  await (await ask()).response()
  t.strictSame(requests().map(request => request.values('traceparent')), [['attempt-0'], ['attempt-1']])
})

t.test('what is sent lists the fields as they go out', async t => {
  const { attempts } = listen(t)
  const { ask, requests } = await start(t, { requestId: true, deadlineHeader: 'x-time-left' }, { answer: () => ok() })
  await (await ask(undefined, 'X-Own: 1\r\n')).response()
  const pairs = attempts[0].headers.map((text, i, all) => i % 2 === 0 ? [text, all[i + 1]] : []).filter(pair => pair.length > 0)
  t.strictSame(requests()[0].fields.filter(([name]) => !['host', 'connection'].includes(name.toLowerCase())), pairs)
  t.ok(pairs.some(([name]) => name === 'x-request-id') && pairs.some(([name]) => name === 'x-time-left'))
})

t.test('stores that are bound to a channel hold in all that begins there', async t => {
  const store = new AsyncLocalStorage<ExchangeTrace>()
  exchangeChannel.start.bindStore(store as never)
  t.teardown(() => exchangeChannel.start.unbindStore(store as never))
  listen(t, { only: 'attempt', start: ({ exchange }) => { seen.push(store.getStore() === exchange) } })
  const seen: boolean[] = []
  const { ask } = await start(t, {}, { answer: () => ok() })
  await (await ask()).response()
  const posted = await ask('POST /api/x HTTP/1.1', 'Content-Length: 4\r\n')
  posted.send('body')
  await posted.response()
  t.strictSame(seen, [true, true])
})

t.test('a copy says that it is one', async t => {
  const { exchanges } = listen(t)
  const copies = await rawBackend(t, () => ok())
  const { ask } = await start(t, { mirror: { upstream: 'copies' }, upstreams: { copies: { backends: [copies.url] } } }, { answer: () => ok() })
  await (await ask()).response()
  await until(() => exchanges.length === 2 && exchanges.every(({ summary }) => summary !== undefined))
  t.strictSame(exchanges.map(({ upstream, isCopy }) => [upstream, isCopy]), [['default', false], ['copies', true]])
})

t.test('forwardHttp() is told of without a request', async t => {
  const { exchanges } = listen(t)
  const { gateway } = await start(t, {}, { answer: () => ok() })
  await gateway.app.proxy.forwardHttp(new Request('http://any.example/path'))
  await until(() => exchanges[0]?.summary !== undefined)
  t.match(exchanges, [{ request: undefined, route: undefined, method: 'GET', path: '/path' }])
})

t.test('a fallback upstream is an exchange of its own, of the same request', async t => {
  const { exchanges } = listen(t)
  const other = await rawBackend(t, () => ok('other'))
  const { ask } = await start(t, { backends: ['http://127.0.0.1:1'], fallback: { upstream: 'other' }, upstreams: { other: { backends: [other.url] } } })
  t.equal((await (await ask()).response()).body, 'other')
  await until(() => exchanges.length === 2 && exchanges[1].summary !== undefined)
  t.strictSame(exchanges.map(({ upstream, summary, request }) => [upstream, summary?.result, (request as FastifyRequest).id]), [['default', 'failed', 'req-1'], ['other', 'successful', 'req-1']])
})

t.test('each channel may be listened to alone', async t => {
  for (const only of ['exchange', 'attempt'] as const) {
    await t.test(only, async t => {
      const { told, attempts } = listen(t, { only })
      const { ask } = await start(t, {}, { answer: () => ok() })
      await (await ask()).response()
      await until(() => told.length === 4)
      t.strictSame(told, [`${only} 0 start`, `${only} 0 end`, `${only} 0 asyncStart`, `${only} 0 asyncEnd`])
      if (only === 'attempt') t.match(attempts[0].exchange, { upstream: 'default', path: '/x?y' })
    })
  }
})

t.test('who comes in the middle hears of the next exchange', async t => {
  const { ask, held } = await start(t)
  const first = await ask()
  await until(() => held.length === 1)
  const { told } = listen(t)
  held[0].send(ok())
  await first.response()
  const second = await ask()
  await until(() => held.length === 2)
  held[1].send(ok())
  await second.response()
  await until(() => told.length === 8)
  t.equal(told.filter(text => text.startsWith('exchange')).length, 4)
})

t.test('a client that goes away is told of as that', async t => {
  const { told, exchanges, attempts } = listen(t)
  const { ask, held } = await start(t)
  const client = await ask()
  await until(() => held.length === 1)
  client.reset()
  await until(() => told.includes('exchange 0 asyncEnd'))
  t.match(attempts[0], { error: { code: 'FST_ROCKSTAR_CLIENT_CLOSED' }, report: { result: 'aborted', outcome: { culprit: 'client' } } })
  t.match(exchanges[0].summary, { result: 'aborted', statusCode: 499 })
})

t.test('an exchange that a function of the application gives up ends once', async t => {
  const cases: [string, (signal: AbortController) => Partial<ForwardOptions>][] = [
    ['onResponse gives up and throws', abort => ({ onResponse: () => { abort.abort(); throw new Error('by the application') } })],
    ['onResponse gives up', abort => ({ onResponse: () => { abort.abort() } })],
    ['rewriteHeaders gives up and throws', abort => ({ rewriteHeaders: () => { abort.abort(); throw new Error('by the application') } })],
    ['rewriteHeaders gives up', abort => ({ rewriteHeaders: headers => { abort.abort(); return headers } })]
  ]
  for (const [name, options] of cases) {
    await t.test(name, async t => {
      const { told } = listen(t)
      const { ask, gateway } = await start(t, { accessLog: 'info', routes: [] }, {
        answer: () => ok(),
        setup: app => app.get('/*', (request, reply) => {
          const abort = new AbortController()
          request.server.proxy.forward(request, reply, { signal: abort.signal, ...options(abort) }).catch(error => { if (!reply.sent) reply.send(error) })
        })
      })
      t.ok((await (await ask()).response()).status >= 500)
      await until(() => told.includes('exchange 0 asyncEnd'))
      t.equal(told.filter(text => text === 'exchange 0 asyncEnd').length, 1)
      t.match(gateway.app.proxy.getMetrics(), { totalRequests: 1, abortedRequests: 1, failedRequests: 0, inFlight: 0 })
      t.equal(gateway.log.filter(({ msg }) => msg === 'exchange finished').length, 1)
    })
  }
})

t.test('a tunnel that is allowed too late does not begin anew', async t => {
  const { told } = listen(t)
  let allow = () => {}
  const { gateway } = await tunnelRig(t, { routes: [{ prefix: '/', onUpgrade: () => new Promise<void>(resolve => { allow = resolve }) }] })
  const client = await gateway.connect()
  client.send(handshake())
  await until(() => gateway.app.proxy.getMetrics().inFlight === 1)
  client.reset()
  await until(() => told.includes('exchange 0 asyncEnd'))
  allow()
  for (let i = 0; i < 10; i++) await new Promise(resolve => setImmediate(resolve))
  t.strictSame(told, ['exchange 0 start', 'exchange 0 end', 'exchange 0 error', 'exchange 0 asyncStart', 'exchange 0 asyncEnd'])
})

t.test('a tunnel is not opened for an exchange that has ended', async t => {
  const { told } = listen(t)
  const { gateway, backend } = await tunnelRig(t, { routes: [] }, {
    setup: app => app.get('/', (request, reply) => {
      const abort = new AbortController()
      return request.server.proxy.forward(request, reply, { signal: abort.signal, rewriteHeaders: headers => { abort.abort(); return headers } })
    })
  })
  const client = await gateway.connect()
  client.send(handshake())
  t.equal((await client.response()).status, 503)
  await until(() => told.includes('exchange 0 asyncEnd') && (backend.connections[0].ended || backend.connections[0].closed))
  t.match(gateway.app.proxy.getMetrics(), { inFlight: 0, tunnels: { open: 0, total: 0 } })
})

t.test('what a subscriber makes of the fields is checked, and no backend is blamed for it', async t => {
  const changes: [string, (headers: unknown[]) => void][] = [
    ['a value with a line break', headers => { headers.push('x-a', 'a\r\nInjected: 1') }],
    ['a value beyond Latin-1', headers => { headers.push('x-a', '漢') }],
    ['no value', headers => { headers.push('x-a') }],
    ['an undefined value', headers => { headers.push('x-a', undefined) }],
    ['a number', headers => { headers.push('x-a', 5) }],
    ['a name with a space', headers => { headers.push('b ad', 'x') }],
    ['no name', headers => { headers.push('', 'x') }],
    ['a length', headers => { headers.push('Content-Length', '3') }],
    ['a coding', headers => { headers.push('transfer-encoding', 'chunked') }],
    ['Connection', headers => { headers.push('connection', 'close') }],
    ['Expect', headers => { headers.push('expect', '100-continue') }],
    ['Upgrade', headers => { headers.push('upgrade', 'h2c') }],
    ['Host', headers => { headers.push('host', 'elsewhere') }],
    ['less of what frames the body', headers => { headers.length = 0 }]
  ]
  for (const [name, change] of changes) {
    await t.test(name, async t => {
      const { attempts } = listen(t, { start: ({ headers }) => change(headers) })
      const { ask, requests, gateway } = await start(t, { retry: { attempts: 3 }, breaker: { threshold: 1 }, preserveHost: true }, { answer: () => ok() })
      const response = await (await ask('POST /api/x HTTP/1.1', 'Content-Length: 1\r\n')).send('x').response()
      t.equal(response.status, 500)
      t.match(response.body, 'FST_ROCKSTAR_INVALID_HEADER')
      t.equal(requests().length, 0)
      t.strictSame(gateway.app.proxy.listBackends().map(({ circuitState }) => circuitState), ['closed', 'closed'])
      t.match(attempts, [{ report: { result: 'aborted', outcome: { culprit: 'proxy' } } }])
      t.equal(attempts.length, 1, 'it is not tried again')
    })
  }
})

t.test('a subscriber that has the exchange given up keeps its attempt from being sent', async t => {
  const abort = new AbortController()
  const { told } = listen(t, { start: () => abort.abort() })
  const { gateway, requests } = await start(t, { routes: [] }, { answer: () => ok(), setup: app => app.get('/', (request, reply) => request.server.proxy.forward(request, reply, { signal: abort.signal })) })
  t.equal((await gateway.app.inject('/')).statusCode, 503)
  t.strictSame(told.filter(text => text.startsWith('attempt')), ['attempt 0 start', 'attempt 0 end', 'attempt 0 error', 'attempt 0 asyncStart', 'attempt 0 asyncEnd'])
  t.match(gateway.app.proxy.getConnectionPool().stats(), { total: 0, connects: 0 })
  t.equal(requests().length, 0)
})

t.test('an attempt that fails at once ends before another begins, and before its exchange', async t => {
  const { told } = listen(t)
  const dispatcherFor = () => ({ dispatch: () => { throw new Error('no connection today') } }) as never
  const { ask } = await start(t, { pool: { dispatcherFor, stats: () => ({}) as never, close: async () => {} }, retry: { attempts: 2 } })
  t.equal((await (await ask()).response()).status, 502)
  t.strictSame(told, [
    'exchange 0 start',
    'attempt 0 start', 'attempt 0 end', 'attempt 0 error', 'attempt 0 asyncStart', 'attempt 0 asyncEnd',
    'attempt 1 start', 'attempt 1 end', 'attempt 1 error', 'attempt 1 asyncStart', 'attempt 1 asyncEnd',
    'exchange 0 end', 'exchange 0 error', 'exchange 0 asyncStart', 'exchange 0 asyncEnd'
  ])
})

t.test('whatever the application throws is an error', async t => {
  for (const thrown of [null, undefined, 'text', 5]) {
    const { exchanges } = listen(t)
    const boom = () => { throw thrown }
    const { ask } = await start(t, { routes: [{ prefix: '/api', rewriteHeaders: boom }, { prefix: '/where', upstream: boom }, { prefix: '/async', upstream: async () => { throw thrown } }] }, { answer: () => ok() })
    for (const path of ['/api/x', '/where/x', '/async/x']) t.equal((await (await ask(`GET ${path} HTTP/1.1`)).response()).status, 500, `${path} ${String(thrown)}`)
    await until(() => exchanges[0]?.summary !== undefined)
    t.match(exchanges[0].error, Error)
    const { gateway } = await tunnelRig(t, { routes: [{ prefix: '/', onUpgrade: boom }] })
    const client = await gateway.connect()
    client.send(handshake())
    t.equal((await client.response()).status, 500)
  }
})
