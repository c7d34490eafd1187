import t, { type Test } from 'tap'
import type { ProxyManager } from '../../lib/proxy-manager.ts'
import type { BackendOptions, LoadReport, RockstarProxyOptions, WeightOptions } from '../../types/index.ts'
import { startGateway, type Gateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, rawBackend, type Message } from '../helpers/wire.ts'

const SECOND = 1_000
const MINUTE = 60 * SECOND
const routes = [{ prefix: '/' }]
const seldom = { from: 'load-report', interval: 3_600_000 } as const

/** Backends that answer with their names and what each is to report, and a gateway in front of them. */
class Reporters {
  readonly clock = new FakeClock()
  gateway!: Gateway
  /** Fields that each backend's head has, with their line ends. */
  readonly reports: Record<string, string> = {}
  readonly #t: Test

  constructor (t: Test) {
    this.#t = t
  }

  async backend (id: string, text?: string): Promise<BackendOptions> {
    this.tell(id, text)
    const { url } = await rawBackend(this.#t, () => ok(id, this.reports[id]))
    return { id, url }
  }

  tell (id: string, text?: string): void {
    this.reports[id] = text === undefined ? '' : `Endpoint-Load-Metrics: ${text}\r\n`
  }

  async start (texts: Record<string, string | undefined>, weights: WeightOptions = { from: 'load-report' }, more: RockstarProxyOptions = {}): Promise<this> {
    const backends = await Promise.all(Object.entries(texts).map(([id, text]) => this.backend(id, text)))
    this.gateway = await startGateway(this.#t, { clock: this.clock, backends, weights, routes, ...more })
    return this
  }

  /** So many seconds, with requests in each. */
  async seconds (count: number, requests = 4): Promise<void> {
    for (let i = 0; i < count; i++) {
      await this.shares(requests)
      this.clock.advance(SECOND)
    }
  }

  async shares (count: number): Promise<Record<string, number>> {
    const answers: Record<string, number> = {}
    for (let i = 0; i < count; i++) {
      const { body } = await this.gateway.app.inject('/')
      answers[body] = (answers[body] ?? 0) + 1
    }
    return answers
  }

  weight (id: string): number {
    return this.gateway.app.proxy.getMetrics().backends[id].effectiveWeight
  }
}

const near = (a: number, b: number) => Math.abs(a - b) <= 0.01 * b

// What follows from them

t.test('weights follow what backends report, after ten seconds and until three minutes after the last', async t => {
  const reporters = await new Reporters(t).start({ a: 'TEXT cpu_utilization=0.2, rps_fractional=100', b: 'JSON {"cpuUtilization":0.4,"rpsFractional":100}' })
  const { proxy } = reporters.gateway.app
  await reporters.seconds(9)
  t.equal(reporters.weight('a'), 1)
  t.equal(reporters.weight('b'), 1)
  await reporters.seconds(25)
  t.ok(near(reporters.weight('a'), 4 / 3) && near(reporters.weight('b'), 2 / 3), `${reporters.weight('a')} ${reporters.weight('b')}`)
  t.equal(proxy.getBackend('a').toJSON().effectiveWeight, reporters.weight('a'))
  t.strictSame(await reporters.shares(30), { a: 20, b: 10 })
  reporters.tell('a')
  reporters.tell('b')
  await reporters.shares(4)
  reporters.clock.advance(3 * MINUTE - 2 * SECOND)
  t.ok(near(reporters.weight('a'), 4 / 3))
  reporters.clock.advance(MINUTE)
  t.equal(reporters.weight('a'), 1)
  t.equal(reporters.weight('b'), 1)
})

t.test('errors that a backend reports cost it its share; one that reports nothing has the mean', async t => {
  const reporters = await new Reporters(t).start({
    a: 'TEXT cpu_utilization=0.5,rps_fractional=100',
    b: 'TEXT cpu_utilization=0.5,rps_fractional=100,eps=50',
    c: undefined
  })
  await reporters.seconds(40, 6)
  t.ok(near(reporters.weight('a') / reporters.weight('b'), 2), `${reporters.weight('a')} ${reporters.weight('b')}`)
  t.equal(reporters.weight('c'), 1)
})

t.test('a backend that comes back has to report for ten seconds again', async t => {
  const reporters = await new Reporters(t).start({ a: 'TEXT cpu_utilization=0.2,rps_fractional=100', b: 'TEXT cpu_utilization=0.4,rps_fractional=100' }, undefined, { panicThreshold: 0 })
  const { proxy } = reporters.gateway.app
  const set = (healthy: boolean) => {
    Object.assign(proxy.getBackend('a'), { healthy })
    ;(proxy as unknown as ProxyManager).state.onHealth()
  }
  await reporters.seconds(35)
  set(false)
  await reporters.seconds(20)
  t.equal(reporters.weight('b'), 1, 'one alone has nobody to be compared with')
  set(true)
  t.equal(reporters.weight('a'), 1, 'what it was worth before is forgotten')
  await reporters.seconds(9)
  t.equal(reporters.weight('a'), 1)
  await reporters.seconds(25)
  t.ok(near(reporters.weight('a'), 4 / 3))
})

t.test('a function is given the last report, from fields and trailers, and no garbage instead', async t => {
  let load: LoadReport | undefined
  let answer = ''
  const backend = await rawBackend(t, () => answer)
  const clock = new FakeClock()
  const gateway = await startGateway(t, { clock, backends: [{ id: 'a', url: backend.url }], routes, weights: { from: (_backend, sample) => { load = sample.load; return 1 } } })
  const nothing = { cpuUtilization: 0, memoryUtilization: 0, applicationUtilization: 0, requestsPerSecond: 0, errorsPerSecond: 0 }
  const trailers = 'Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nendpoint-load-metrics: TEXT eps=3\r\nX-Sum: 1\r\n\r\n'
  for (const [next, expected, what] of [
    [ok(), undefined, 'none'],
    [ok('', 'endpoint-load-metrics: TEXT cpu_utilization=0.5\r\n'), { ...nothing, cpuUtilization: 0.5 }, 'text'],
    [ok(), { ...nothing, cpuUtilization: 0.5 }, 'an answer without one changes nothing'],
    [ok('', 'ENDPOINT-LOAD-METRICS: JSON {"applicationUtilization":1.5}\r\n'), { ...nothing, applicationUtilization: 1.5 }, 'JSON, above 1'],
    [ok('', 'endpoint-load-metrics: TEXT foo=1\r\n'), { ...nothing, applicationUtilization: 1.5 }, 'garbage'],
    [ok('', 'endpoint-load-metrics: TEXT eps=1\r\nendpoint-load-metrics: TEXT eps=2\r\n'), { ...nothing, errorsPerSecond: 2 }, 'the last of two'],
    [`HTTP/1.1 200 OK\r\n${trailers}`, { ...nothing, errorsPerSecond: 3 }, 'a trailer'],
    [`HTTP/1.1 200 OK\r\nendpoint-load-metrics: TEXT eps=9\r\n${trailers}`, { ...nothing, errorsPerSecond: 3 }, 'a trailer is later than the head'],
    [ok('', 'endpoint-load-metrics: TEXT eps=4\r\n', '503 Sorry'), { ...nothing, errorsPerSecond: 4 }, 'errors may report'],
    [ok('', 'endpoint-load-metrics-bin: CQAAAAAAAOA/\r\n'), { ...nothing, errorsPerSecond: 4 }, 'the binary form is not read']
  ] as const) {
    answer = next
    await gateway.app.inject('/')
    clock.advance(SECOND)
    t.strictSame(load, expected, what)
  }
  clock.advance(3 * MINUTE + SECOND)
  t.equal(load, undefined, 'it expires')
})

t.test('reports that nobody can believe harm nobody', async t => {
  const reporters = await new Reporters(t).start({ a: 'TEXT cpu_utilization=1e-300,rps_fractional=1e300', b: 'TEXT cpu_utilization=0.5,rps_fractional=10', c: 'TEXT cpu_utilization=0.5,rps_fractional=10' })
  await reporters.seconds(30, 6)
  for (const id of 'abc') t.equal(reporters.weight(id), 1)
  t.strictSame(await reporters.shares(30), { a: 10, b: 10, c: 10 })
})

// What clients see

/** The bytes of the answer that a client gets. */
async function bytesFor (t: Test, weights: WeightOptions | false, answer: string, request = 'GET / HTTP/1.1\r\nHost: gateway\r\n\r\n', end: string | RegExp = 'THE END'): Promise<string> {
  const backend = await rawBackend(t, () => answer)
  const gateway = await startGateway(t, { clock: new FakeClock(), backends: [backend.url], routes, weights })
  const client = await gateway.connect()
  client.send(request)
  // Two answers may fall into two seconds.
  return (await client.receive(end)).replace(/^date: .*\r\n/im, '')
}

const before = 'X-First: a\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nX-Latin: \xe9\xff\r\nX-Twice: 1\r\nX-Endpoint-Load-Metrics: mine\r\nEndpoint-Load-Metrics-Json: mine\r\n'
const after = 'X-twice: 2\r\nCache-Control: no-store\r\nX-Empty:\r\n'
const report = 'Endpoint-Load-Metrics: TEXT cpu_utilization=0.5,rps_fractional=10\r\n'
const others = 'endpoint-load-metrics: JSON {"eps":1}\r\nENDPOINT-LOAD-METRICS-BIN: CQAAAAAAAOA/\r\nendpoint-load-metrics: garbage\r\n'

t.test('where weights follow them clients do not see them, and all else as it is', async t => {
  for (const from of ['load-report', () => 1] as const) {
    const bytes = await bytesFor(t, { ...seldom, from }, ok('THE END', `${report}${before}${report}${others}${after}${report}`))
    t.equal(bytes, await bytesFor(t, { ...seldom, from }, ok('THE END', before + after)))
    t.notMatch(bytes, /^endpoint-load-metrics(?:-bin)?:/im)
    t.match(bytes, /\r\nX-First: a\r\n/)
    t.match(bytes, /\r\nX-Latin: \xe9\xff\r\n/)
    t.match(bytes, /\r\nX-Endpoint-Load-Metrics: mine\r\nEndpoint-Load-Metrics-Json: mine\r\n/, 'names that only look like it')
  }
})

t.test('a report that is all there is in a head, and those of answers without content', async t => {
  for (const [name, answer, request] of [
    ['200', ok('', report), 'GET / HTTP/1.1\r\nHost: gateway\r\n\r\n'],
    ['HEAD', `HTTP/1.1 200 OK\r\n${report}Content-Length: 5\r\n\r\n`, 'HEAD / HTTP/1.1\r\nHost: gateway\r\n\r\n'],
    ['204', `HTTP/1.1 204 No Content\r\n${report}\r\n`, 'GET / HTTP/1.1\r\nHost: gateway\r\n\r\n'],
    ['304', `HTTP/1.1 304 Not Modified\r\n${report}ETag: "a"\r\n\r\n`, 'GET / HTTP/1.1\r\nHost: gateway\r\n\r\n'],
    ['500', ok('', report, '500 No'), 'GET / HTTP/1.1\r\nHost: gateway\r\n\r\n']
  ]) {
    const without = await bytesFor(t, seldom, answer.replace(report, ''), request, '\r\n\r\n')
    t.equal(await bytesFor(t, seldom, answer, request, '\r\n\r\n'), without, name)
  }
})

t.test('interim answers are cleared of them too', async t => {
  const interimOf = (fields: string) => `HTTP/1.1 103 Early Hints\r\n${fields}Link: </a.css>\r\n\r\n${ok('THE END')}`
  t.equal(await bytesFor(t, seldom, interimOf(report)), await bytesFor(t, seldom, interimOf('')))
})

t.test('trailers are cleared of them as well, and the others stay', async t => {
  const request = 'GET / HTTP/1.1\r\nHost: gateway\r\nTE: trailers\r\nConnection: TE\r\n\r\n'
  const answerOf = (trailers: string) => `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n${trailers}\r\n`
  const end = /\r\n0\r\n(?:.+\r\n)*\r\n/
  const bytes = await bytesFor(t, seldom, answerOf(`${report}X-Sum: 42\r\n${others}x-sum: 43\r\n`), request, end)
  t.equal(bytes, await bytesFor(t, seldom, answerOf('X-Sum: 42\r\nx-sum: 43\r\n'), request, end))
  t.match(bytes, /\r\n0\r\nX-Sum: 42\r\nx-sum: 43\r\n\r\n$/i)
  t.match(await bytesFor(t, seldom, answerOf(report), request, end), /\r\n0\r\n\r\n$/, 'where there is nothing else there are none')
  t.match(await bytesFor(t, { from: 'latency' }, answerOf(report), request, end), /\r\n0\r\nendpoint-load-metrics: TEXT cpu_utilization=0\.5,rps_fractional=10\r\n\r\n$/i, 'where nobody looks for it, it passes')
})

t.test('where weights do not follow them they pass untouched', async t => {
  const answer = ok('THE END', before + report + others + after)
  for (const weights of [false, { from: 'latency' }] as const) {
    const bytes = await bytesFor(t, weights, answer)
    t.ok(bytes.includes(report + others), bytes)
    t.equal(bytes.replace(report + others, ''), await bytesFor(t, weights, ok('THE END', before + after)))
  }
})

t.test('handlers that take the answer themselves do not see them either', async t => {
  const clock = new FakeClock()
  const backend = await rawBackend(t, () => ok('x', `${report}X-Other: 1\r\n`))
  const gateway = await startGateway(t, { clock, backends: [{ id: 'a', url: backend.url }], weights: { from: 'load-report' } }, {
    setup: app => {
      app.get('/mine', async request => {
        const { headers, body } = await app.proxy.forward(request)
        for await (const _ of body) { /* read to its end */ }
        return { names: Object.keys(headers) }
      })
    }
  })
  const { names } = (await gateway.app.inject('/mine')).json()
  t.ok(names.includes('x-other'))
  t.notOk(names.includes('endpoint-load-metrics'))
  const response = await gateway.app.proxy.forwardHttp(new Request('http://gateway/'))
  t.equal(response.headers.get('x-other'), '1')
  t.equal(response.headers.get('endpoint-load-metrics'), null)
  await response.text()
})

t.test('each upstream looks for its own', async t => {
  const reporters = new Reporters(t)
  const backends = [await reporters.backend('a', 'TEXT cpu_utilization=0.5')]
  await reporters.start({}, undefined, { backends, weights: false, upstreams: { one: { backends, weights: seldom } }, routes: [{ prefix: '/' }, { prefix: '/one', upstream: 'one' }] })
  t.equal((await reporters.gateway.app.inject('/')).headers['endpoint-load-metrics'], 'TEXT cpu_utilization=0.5')
  t.equal((await reporters.gateway.app.inject('/one')).headers['endpoint-load-metrics'], undefined)
  reporters.gateway.app.proxy.addUpstream('two', { backends, weights: seldom })
  const response = await reporters.gateway.app.proxy.upstream('two').forwardHttp(new Request('http://gateway/'))
  t.equal(response.headers.get('endpoint-load-metrics'), null)
  await response.text()
})

t.test('what clients send under that name goes to the backend', async t => {
  let request: Message | undefined
  const backend = await rawBackend(t, message => { request = message; return ok() })
  const gateway = await startGateway(t, { clock: new FakeClock(), backends: [backend.url], routes, weights: { from: 'load-report' } })
  await gateway.app.inject({ url: '/', headers: { 'endpoint-load-metrics': 'TEXT eps=1' } })
  t.strictSame(request?.values('endpoint-load-metrics'), ['TEXT eps=1'])
})

t.test('nothing runs on after the app has closed', async t => {
  const reporters = await new Reporters(t).start({ a: 'TEXT cpu_utilization=0.5' })
  await reporters.seconds(3)
  t.ok(reporters.clock.timers > 0)
  await reporters.gateway.app.close()
  t.equal(reporters.clock.timers, 0)
})
