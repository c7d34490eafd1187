import t, { type Test } from 'tap'
import type { BackendOptions, RockstarProxyOptions, WeightFunction, WeightSample } from '../../types/index.ts'
import { startGateway, type Gateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, rawBackend, until, type Wire } from '../helpers/wire.ts'

const SECOND = 1_000
const routes = [{ prefix: '/' }]

/** A gateway in front of backends that answer when the test lets them. */
class Stage {
  readonly clock = new FakeClock()
  gateway!: Gateway
  /** Requests that wait for their answer. */
  readonly waiting: { id: string, wire: Wire }[] = []
  readonly #t: Test

  constructor (t: Test) {
    this.#t = t
  }

  async backend (id: string, options: Partial<BackendOptions> = {}): Promise<BackendOptions> {
    const { url } = await rawBackend(this.#t, (_request, wire) => { this.waiting.push({ id, wire }) })
    return { id, url, ...options }
  }

  async start (options: RockstarProxyOptions): Promise<this> {
    const backends = options.backends ?? [await this.backend('a'), await this.backend('b')]
    this.gateway = await startGateway(this.#t, { clock: this.clock, routes, ...options, backends })
    return this
  }

  /** Sends a request, and lets the backend that gets it answer after its time. */
  async ask (times: Record<string, number>, answers: Record<string, string> = {}, url = '/'): Promise<string> {
    const answer = this.gateway.app.inject(url).then(response => response.statusCode)
    await until(() => this.waiting.length === 1)
    const { id, wire } = this.waiting.pop() as { id: string, wire: Wire }
    this.clock.advance(times[id])
    wire.send(answers[id] ?? ok())
    await answer
    return id
  }

  /** So many seconds, with a request in each. */
  async seconds (count: number, times: Record<string, number>, answers?: Record<string, string>, url?: string): Promise<void> {
    for (let i = 0; i < count; i++) {
      await this.ask(times, answers, url)
      this.clock.advance(SECOND)
    }
  }

  async shares (count: number, times: Record<string, number> = { a: 0, b: 0, c: 0 }): Promise<Record<string, number>> {
    const answers: Record<string, number> = {}
    for (let i = 0; i < count; i++) {
      const id = await this.ask(times)
      answers[id] = (answers[id] ?? 0) + 1
    }
    return answers
  }

  weight (id: string): number {
    return this.gateway.app.proxy.getMetrics().backends[id].effectiveWeight
  }
}

const near = (a: number, b: number) => Math.abs(a - b) <= 0.01 * b

// By latency

t.test('latency: a backend twice as fast comes to get twice as much, and everybody can see it', async t => {
  const stage = await new Stage(t).start({ weights: { from: 'latency' } })
  const { proxy } = stage.gateway.app
  t.equal(stage.weight('a'), 1)
  await stage.seconds(20, { a: 50, b: 100 })
  stage.clock.advance(60 * SECOND)
  t.ok(near(stage.weight('a'), 4 / 3) && near(stage.weight('b'), 2 / 3), `${stage.weight('a')} ${stage.weight('b')}`)
  for (const id of ['a', 'b']) {
    const { weight, effectiveWeight } = proxy.getBackend(id).toJSON()
    t.equal(weight, 1)
    t.equal(effectiveWeight, stage.weight(id))
    t.equal(proxy.getBackend(id).effectiveWeight, effectiveWeight)
    t.equal(proxy.getMetrics().backends[id].weight, 1)
  }
  t.strictSame(await stage.shares(30, { a: 50, b: 100 }), { a: 20, b: 10 })
  proxy.resetMetrics()
  t.ok(near(stage.weight('a'), 4 / 3), 'counting anew forgets no weight')
})

t.test('latency: it comes on top of what weights are set to, also when that is changed', async t => {
  const stage = new Stage(t)
  await stage.start({ backends: [await stage.backend('a', { weight: 2 }), await stage.backend('b', { weight: 4 })], weights: { from: 'latency' } })
  await stage.seconds(20, { a: 50, b: 100 })
  stage.clock.advance(60 * SECOND)
  t.ok(near(stage.weight('a'), 8 / 3) && near(stage.weight('b'), 8 / 3))
  stage.gateway.app.proxy.updateBackend('b', { weight: 8 })
  t.ok(near(stage.weight('b'), 16 / 3), 'at once')
})

t.test('latency: a backend that fails at once does not get more for it', async t => {
  for (const answer of [ok('', '', '503 Sorry'), 'nonsense\r\n\r\n']) {
    const stage = await new Stage(t).start({ weights: { from: 'latency' } })
    await stage.seconds(20, { a: 500, b: 0 }, { b: answer })
    stage.clock.advance(60 * SECOND)
    t.ok(near(stage.weight('a') / stage.weight('b'), 2), `${stage.weight('a')} ${stage.weight('b')}: failing counts as a second`)
  }
})

t.test('latency: the time of the head counts, not that of the content', async t => {
  const latencies: number[] = []
  const stage = new Stage(t)
  await stage.start({ backends: [await stage.backend('a')], weights: { from: (_backend, { latency }) => { latencies.push(latency); return 1 }, interval: 60 * SECOND } })
  const client = await stage.gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => stage.waiting.length === 1)
  stage.clock.advance(100)
  stage.waiting[0].wire.send('HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha')
  await client.receive('ha')
  stage.clock.advance(5 * SECOND)
  stage.waiting[0].wire.send('lf')
  t.equal((await client.response()).body, 'half')
  await until(() => stage.gateway.app.proxy.getMetrics().inFlight === 0)
  stage.clock.advance(60 * SECOND)
  t.strictSame(latencies, [100])
})

t.test('latency: a backend that failed, went away and comes back begins at 1, whatever it was', async t => {
  const stage = await new Stage(t).start({ weights: { from: 'latency' } })
  const { proxy } = stage.gateway.app
  await stage.seconds(20, { a: 400, b: 100 }, { a: ok('', '', '503 Sorry') })
  stage.clock.advance(60 * SECOND)
  t.ok(stage.weight('a') < 0.6, `${stage.weight('a')}`)
  proxy.updateBackend('a', { isActive: false })
  await stage.seconds(3, { b: 100 })
  proxy.updateBackend('a', { isActive: true })
  t.equal(stage.weight('a'), 1)
  stage.clock.advance(60 * SECOND)
  t.equal(stage.weight('a'), 1, 'nothing of what it did before is remembered')
  await stage.seconds(40, { a: 100, b: 100 })
  stage.clock.advance(60 * SECOND)
  t.ok(near(stage.weight('a'), 1) && near(stage.weight('b'), 1), `${stage.weight('a')} ${stage.weight('b')}`)
})

t.test('latency: a client that goes away says nothing of the backend', async t => {
  const samples: WeightSample[] = []
  const stage = new Stage(t)
  await stage.start({ backends: [await stage.backend('a')], weights: { from: (_backend, sample) => { samples.push(sample); return 1 } } })
  const client = await stage.gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => stage.waiting.length === 1)
  client.close()
  await until(() => stage.gateway.app.proxy.getMetrics().inFlight === 0)
  stage.clock.advance(SECOND)
  t.strictSame(samples, [{ requests: 0, failures: 0, latency: 0, load: undefined }])
})

t.test('a backend that is added is followed like the others, and starts slowly where that is asked for', async t => {
  const stage = await new Stage(t).start({ weights: { from: 'latency' }, slowStart: { window: 10 * SECOND } })
  await stage.seconds(3, { a: 50, b: 50 })
  stage.gateway.app.proxy.addBackend(await stage.backend('c'))
  t.equal(stage.weight('c'), 0.1)
  await stage.seconds(40, { a: 50, b: 50, c: 100 })
  stage.clock.advance(60 * SECOND)
  t.ok(near(stage.weight('a') / stage.weight('c'), 2), `${stage.weight('a')} ${stage.weight('c')}`)
})

t.test('upstreams are followed one by one, those that are added while the app serves too', async t => {
  const stage = await new Stage(t).start({ routes: [{ prefix: '/' }, { prefix: '/fast', upstream: 'fast' }] })
  const { proxy } = stage.gateway.app
  const upstream = proxy.addUpstream('fast', { backends: [await stage.backend('c'), await stage.backend('d')], weights: { from: 'latency', interval: 500 }, health: false, outlier: false })
  await stage.seconds(10, { a: 10, b: 90 })
  await stage.seconds(10, { c: 10, d: 30 }, {}, '/fast')
  stage.clock.advance(60 * SECOND)
  const { backends } = proxy.getMetrics().upstreams.fast
  t.ok(near(backends.c.effectiveWeight / backends.d.effectiveWeight, 3))
  t.equal(upstream.getBackend('c').toJSON().effectiveWeight, backends.c.effectiveWeight)
  t.equal(stage.weight('a'), 1)
  t.equal(stage.weight('b'), 1)
  t.equal(stage.clock.timers, 1)
  await proxy.removeUpstream('fast')
  t.equal(stage.clock.timers, 0)
})

// By function

t.test('function: its factors are what the turns go by', async t => {
  const stage = new Stage(t)
  await stage.start({
    backends: [await stage.backend('a', { metadata: { size: 3 } }), await stage.backend('b', { metadata: { size: 1 } })],
    weights: { from: ({ metadata }) => metadata.size as number, interval: 250 }
  })
  t.strictSame(await stage.shares(8), { a: 4, b: 4 })
  stage.clock.advance(250)
  t.ok(near(stage.weight('a'), 1.6), 'three tenths of the way from 1 to 3')
  t.equal(stage.weight('b'), 1)
  stage.clock.advance(60 * SECOND)
  t.strictSame(await stage.shares(40), { a: 30, b: 10 })
})

t.test('function: it is told what was seen of each backend since the last time', async t => {
  const seen: Record<string, WeightSample[]> = { a: [], b: [] }
  const stage = await new Stage(t).start({ weights: { from: ({ id }, sample) => { seen[id].push(sample); return 1 } } })
  for (let i = 0; i < 4; i++) await stage.ask({ a: 10, b: 20 }, { b: ok('', '', '500 No') })
  stage.clock.advance(SECOND)
  stage.clock.advance(SECOND)
  t.match(seen, {
    a: [{ requests: 2, failures: 0, latency: 10, load: undefined }, { requests: 0, failures: 0, latency: 0 }],
    b: [{ requests: 2, failures: 2, latency: 1_000, load: undefined }, { requests: 0, failures: 0, latency: 0 }]
  })
})

t.test('function: what it throws is logged once each time, and the weights and the requests go on', async t => {
  let from: WeightFunction = ({ id }) => id === 'a' ? 2 : 1
  const stage = await new Stage(t).start({ weights: { from: (...args) => from(...args) } })
  const faults = () => stage.gateway.log.filter(({ level, msg }) => level === 40 && msg === 'the weights could not be worked out')
  stage.clock.advance(60 * SECOND)
  const settled = [stage.weight('a'), stage.weight('b')]
  t.equal(faults().length, 0)
  from = () => { throw new Error('boom') }
  stage.clock.advance(3 * SECOND)
  t.equal(faults().length, 3)
  t.match(faults()[0], { upstream: 'default', err: { message: 'boom' } })
  from = () => NaN
  stage.clock.advance(2 * SECOND)
  t.equal(faults().length, 5)
  t.match(faults()[4], { err: { message: 'weights.from returned NaN instead of a number of at least 0' } })
  t.strictSame([stage.weight('a'), stage.weight('b')], settled)
  t.strictSame(await stage.shares(30), { a: 20, b: 10 })
  from = () => 1
  stage.clock.advance(60 * SECOND)
  t.strictSame([stage.weight('a'), stage.weight('b')], [1, 1])
  t.equal(faults().length, 5)
})

t.test('a function may close the app', async t => {
  let closed: Promise<void> | undefined
  const stage = await new Stage(t).start({ weights: { from: () => { closed ??= stage.gateway.app.close().then(() => {}); return 1 } } })
  stage.clock.advance(SECOND)
  await closed
  t.equal(stage.clock.timers, 0)
})

// What runs

t.test('one timer while the app serves, none before and after', async t => {
  const clock = new FakeClock()
  const stage = new Stage(t)
  const a = await stage.backend('a')
  let before = -1
  const gateway = await startGateway(t, {
    clock,
    backends: [a],
    weights: { from: 'latency' },
    slowStart: true,
    upstreams: { one: { backends: [a], weights: { from: 'load-report' }, health: false, outlier: false }, none: { backends: [a], health: false, outlier: false } }
  }, { setup: () => { before = clock.timers } })
  t.equal(before, 0)
  t.equal(clock.timers, 2, 'one for each upstream that follows something')
  gateway.app.proxy.addBackend(await stage.backend('b'))
  clock.advance(100 * SECOND)
  t.equal(clock.timers, 2)
  await gateway.app.close()
  t.equal(clock.timers, 0)
})

t.test('nothing runs on after the app has closed for an upstream that was just being removed, or that is added too late', async t => {
  const stage = await new Stage(t).start({ upstreams: { one: { affinity: { secret: 'a secret of thirty-two characters' }, weights: { from: 'latency' } } } })
  const { app } = stage.gateway
  app.proxy.upstream('one').addBackend(await stage.backend('c'))
  // Clients that stay with its backend may come until the drain is over.
  const removal = app.proxy.removeUpstream('one')
  await app.close()
  t.equal(stage.clock.timers, 0, 'nobody can come any more')
  stage.clock.advance(60 * SECOND)
  await removal
  app.proxy.addUpstream('late', { weights: { from: 'latency' } })
  t.equal(stage.clock.timers, 0)
})

t.test('without weights nothing follows anything', async t => {
  for (const weights of [undefined, false] as const) {
    const stage = await new Stage(t).start({ weights })
    await stage.seconds(6, { a: 1, b: 900 })
    t.equal(stage.weight('a'), 1)
    t.equal(stage.weight('b'), 1)
    t.equal(stage.clock.timers, 0)
  }
})

t.test('options that make no sense are refused, saying where', async t => {
  for (const [weights, message] of [
    [{ from: 'speed' }, /options\.weights\.from must be 'latency', 'load-report' or a function, and is 'speed'/],
    [{}, /options\.weights\.from must be 'latency', 'load-report' or a function, and is nothing/],
    [{ from: 'latency', interval: 0 }, /options\.weights\.interval must be a number of at least 10, and is 0/],
    [{ from: 'latency', min: 0 }, /options\.weights\.min must be a number above 0, and is 0/],
    [{ from: 'latency', min: 2, max: 1 }, /options\.weights\.min must be at most weights\.max, 1, and is 2/],
    [{ from: 'latency', min: 11 }, /options\.weights\.min must be at most weights\.max, 10, and is 11/],
    [{ from: 'latency', maximum: 3 }, /options\.weights\.maximum is not an option/],
    [{ from: 'load-report', blackout: -1 }, /options\.weights\.blackout must be a number of at least 0, and is -1/],
    [{ from: 'load-report', expiry: 0 }, /options\.weights\.expiry must be a number above 0, and is 0/],
    [true, /options\.weights must be false or an object \{ from, interval, min, max, blackout, expiry \}, and is true/]
  ] as const) {
    await t.rejects(startGateway(t, { weights } as unknown as RockstarProxyOptions), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message })
  }
})
