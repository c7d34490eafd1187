import t from 'tap'
import type { Test } from 'tap'
import type { Backend, LoadBalancer, Outcome, RockstarProxyOptions, SelectContext } from '../../types/index.ts'
import { RoundRobin } from '../../plugins/index.ts'
import { startGateway, type Gateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, rawBackend, until, type RawBackend } from '../helpers/wire.ts'

const routes = [{ prefix: '/' }]

/** A balancer that does as a test says and writes down what it hears. */
class Scripted implements LoadBalancer {
  readonly type = 'scripted'
  readonly contexts: SelectContext[] = []
  readonly settled: [id: string, outcome: Outcome][] = []
  choose: (available: readonly Backend[], context: SelectContext) => Backend | undefined | Promise<Backend | undefined>

  constructor (choose: Scripted['choose'] = available => available[0]) {
    this.choose = choose
  }

  select (available: readonly Backend[], context: SelectContext) {
    this.contexts.push({ request: context.request, method: context.method, path: context.path, tried: context.tried === null ? null : [...context.tried], header: name => context.header(name) })
    return this.choose(available, context)
  }

  settle (backend: Backend, outcome: Outcome) {
    // An outcome is valid only during the call: it is copied.
    const { stage, culprit, statusCode, error, headTime, responseTime } = outcome
    this.settled.push([backend.id, { stage, culprit, statusCode, error, headTime, responseTime }])
  }
}

const later = async <T>(value: T): Promise<T> => {
  await new Promise(setImmediate)
  return value
}

async function named (t: Test, name: string): Promise<RawBackend> {
  return await rawBackend(t, () => ok(name))
}

/** A gateway with the backends a and b behind a balancer. */
async function gatewayWith (t: Test, balancer: LoadBalancer, options: RockstarProxyOptions = {}): Promise<Gateway> {
  const [a, b] = [await named(t, 'a'), await named(t, 'b')]
  return await startGateway(t, { backends: [{ id: 'a', url: a.url }, { id: 'b', url: b.url }], balancer, routes, ...options })
}

const get = async (gateway: Gateway, path = '/') => (await gateway.app.inject(path)).body

t.test('a balancer of the user\'s own chooses, sync or async, by option or by setter', async t => {
  const byHeader = (available: readonly Backend[], { request }: SelectContext) => available.find(backend => backend.id === request?.headers['x-to'])
  for (const choose of [byHeader, async (...args: Parameters<typeof byHeader>) => await later(byHeader(...args))]) {
    const gateway = await gatewayWith(t, new Scripted(choose))
    for (const to of ['b', 'a', 'a', 'b']) t.equal((await gateway.app.inject({ url: '/', headers: { 'x-to': to } })).body, to)
    const { proxy } = gateway.app
    proxy.setLoadBalancer('round-robin')
    t.equal([await get(gateway), await get(gateway), await get(gateway)].join(''), 'aba')
    proxy.setLoadBalancer(new Scripted(choose))
    t.equal((await gateway.app.inject({ url: '/', headers: { 'x-to': 'b' } })).body, 'b')
    proxy.setLoadBalancer({ type: 'round-robin' })
    t.equal([await get(gateway), await get(gateway)].join(''), 'ab')
    proxy.setLoadBalancer(new RoundRobin())
    t.equal([await get(gateway), await get(gateway)].join(''), 'ab')
  }
})

t.test('it is told of the request, its method and the path that will be sent', async t => {
  const balancer = new Scripted()
  const gateway = await gatewayWith(t, balancer, { routes: [{ prefix: '/api', rewritePrefix: '/v2' }] })
  await gateway.app.inject({ method: 'POST', url: '/api/a?b=c', payload: 'x' })
  await gateway.app.proxy.forwardHttp(new Request('http://gateway/direct?x', { method: 'DELETE' }))
  t.match(balancer.contexts, [
    { request: { url: '/api/a?b=c' }, method: 'POST', path: '/v2/a?b=c', tried: null },
    { request: undefined, method: 'DELETE', path: '/direct?x', tried: null }
  ])
})

t.test('it gets those available in the order they were added, in a list it cannot change', async t => {
  const lists: (readonly Backend[])[] = []
  const gateway = await gatewayWith(t, new Scripted(available => {
    lists.push(available)
    return available[0]
  }))
  const { proxy } = gateway.app
  await get(gateway)
  await get(gateway)
  t.equal(lists[0], lists[1], 'the list is built when something changes, not for each request')
  t.ok(Object.isFrozen(lists[0]))
  t.equal(lists[0][0], proxy.getBackend('a'), 'they are the objects that the manager lists')
  proxy.updateBackend('a', { isActive: false })
  await get(gateway)
  t.strictSame(lists[2].map(backend => backend.id), ['b'])
})

t.test('it is not asked when nothing is available', async t => {
  const balancer = new Scripted()
  const gateway = await startGateway(t, { balancer, routes })
  t.equal((await gateway.app.inject('/')).json().code, 'FST_ROCKSTAR_NO_BACKEND')
  t.equal(balancer.contexts.length, 0)
})

t.test('a balancer that fails answers 503, its cause is logged, and the next request is served', async t => {
  const other = await startGateway(t, { backends: [{ id: 'a', url: 'http://127.0.0.1:1' }] })
  const stranger = other.app.proxy.getBackend('a')
  const failures: Record<string, [Scripted['choose'], cause: RegExp | null]> = {
    throws: [() => { throw new Error('boom 1') }, /boom 1/],
    rejects: [async () => { throw new Error('boom 2') }, /boom 2/],
    'rejects later': [async () => {
      await later(0)
      throw new Error('boom 3')
    }, /boom 3/],
    'chooses nothing': [() => undefined, null],
    'chooses nothing later': [() => later(undefined), null],
    'chooses null': [() => null as unknown as Backend, null],
    'chooses an object of its own': [() => ({ id: 'a' }) as Backend, /no backend of this upstream/],
    'chooses an id': [() => 'a' as unknown as Backend, /no backend of this upstream/],
    'chooses an object of its own later': [() => later({ id: 'a' } as Backend), /no backend of this upstream/],
    'chooses a backend of somebody else': [() => stranger, /no backend of this upstream/],
    'chooses a backend of somebody else later': [() => later(stranger), /no backend of this upstream/]
  }
  for (const [what, [choose, cause]] of Object.entries(failures)) {
    const balancer = new Scripted(choose)
    const gateway = await gatewayWith(t, balancer)
    const response = await gateway.app.inject('/')
    t.equal(response.statusCode, 503, what)
    t.equal(response.json().code, 'FST_ROCKSTAR_NO_BACKEND', what)
    t.notMatch(response.body, /boom|this upstream/, `${what}: the client is not told why`)
    const line = gateway.log.find(line => line.level >= 50 && (line.err as { code?: string } | undefined)?.code === 'FST_ROCKSTAR_NO_BACKEND')
    t.ok(line, `${what}: it is logged`)
    if (cause !== null) t.match((line?.err as Error).stack, cause, `${what}: with its cause`)
    t.match(gateway.app.proxy.getMetrics(), { totalRequests: 1, failedRequests: 1, inFlight: 0, backends: { a: { totalRequests: 0 }, b: { totalRequests: 0 } } }, what)
    t.equal(balancer.settled.length, 0, `${what}: there was no attempt to settle`)
    balancer.choose = available => available[1]
    t.equal(await get(gateway), 'b', `after one that ${what}`)
  }
})

t.test('the cause goes to who awaits the call', async t => {
  const gateway = await gatewayWith(t, new Scripted(() => { throw new Error('boom') }))
  await t.rejects(gateway.app.proxy.forwardHttp(new Request('http://gateway/')), { code: 'FST_ROCKSTAR_NO_BACKEND', cause: { message: 'boom' } })
})

for (const [kind, wait] of [['sync', <T>(value: T) => value], ['async', async <T>(value: T) => value]] as const) {
  t.test(`a ${kind} balancer that insists on a backend that is not available answers 503, not never`, async t => {
    let asked = 0
    const gateway = await gatewayWith(t, new Scripted())
    const { proxy } = gateway.app
    const insisted = proxy.getBackend('a')
    for (const change of [{ isActive: false }, { isActive: true, weight: 0 }]) {
      proxy.updateBackend('a', change)
      asked = 0
      proxy.setLoadBalancer(new Scripted(() => {
        // So that a request that is never given up ends this test all the same.
        if (asked++ > 1_000) return undefined
        return wait(insisted)
      }))
      const response = await gateway.app.inject('/')
      t.equal(response.statusCode, 503)
      t.ok(asked < 100, `it was asked ${asked} times`)
    }
    proxy.setLoadBalancer('round-robin')
    t.equal(await get(gateway), 'b')
  })
}

t.test('a backend that goes while an async balancer thinks is not used; it is asked again', async t => {
  let decide = (): void => {}
  const gateway = await gatewayWith(t, new Scripted())
  const { proxy } = gateway.app
  const slow = new Scripted(async available => {
    const [chosen] = available
    await new Promise<void>(resolve => { decide = resolve })
    return chosen
  })
  proxy.setLoadBalancer(slow)
  let answered = false
  const answer = get(gateway).finally(() => { answered = true })
  await until(() => slow.contexts.length === 1)
  await proxy.removeBackend('a')
  decide()
  await until(() => slow.contexts.length === 2 || answered)
  decide()
  t.equal(await answer, 'b')
})

t.test('it is not used either where the call asks for a subset', async t => {
  let decide = (): void => {}
  const slow = new Scripted(async available => {
    const [chosen] = available
    await new Promise<void>(resolve => { decide = resolve })
    return chosen
  })
  const [a, b] = [await named(t, 'a'), await named(t, 'b')]
  const metadata = { version: 'v1' }
  const { app } = await startGateway(t, { backends: [{ id: 'a', url: a.url, metadata }, { id: 'b', url: b.url, metadata }], balancer: slow })
  let answered = false
  const answer = app.proxy.forwardHttp(new Request('http://gateway/'), { match: metadata }).then(response => response.text()).finally(() => { answered = true })
  await until(() => slow.contexts.length === 1)
  await app.proxy.removeBackend('a')
  decide()
  await until(() => slow.contexts.length === 2 || answered)
  decide()
  t.equal(await answer, 'b')
  t.equal(a.requests.length, 0)
})

t.test('an async balancer that never chooses is given up after timeout.request, with 504', async t => {
  const clock = new FakeClock()
  const balancer = new Scripted(() => new Promise(() => {}))
  const gateway = await gatewayWith(t, balancer, { clock, timeout: { request: 5_000 } })
  let answered = false
  const answer = gateway.app.inject('/').finally(() => { answered = true })
  await until(() => balancer.contexts.length === 1)
  clock.advance(4_999)
  await new Promise(setImmediate)
  t.equal(answered, false)
  clock.advance(2_001)
  const response = await answer
  t.equal(response.statusCode, 504)
  t.equal(response.json().code, 'FST_ROCKSTAR_TIMEOUT')
  t.equal(gateway.app.proxy.getMetrics().inFlight, 0)
  t.strictSame(balancer.settled, [], 'no backend was tried')
  balancer.choose = available => available[1]
  t.equal(await get(gateway), 'b')
})

t.test('a client that goes while an async balancer thinks reaches no backend', async t => {
  let decide = (): void => {}
  const backend = await named(t, 'a')
  const balancer = new Scripted(async available => {
    await new Promise<void>(resolve => { decide = resolve })
    return available[0]
  })
  const gateway = await startGateway(t, { backends: [{ id: 'a', url: backend.url }], balancer, routes })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => balancer.contexts.length === 1)
  client.close()
  await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
  decide()
  for (let i = 0; i < 20; i++) await new Promise(setImmediate)
  t.equal(backend.connections.length, 0)
  t.match(gateway.app.proxy.getMetrics(), { abortedRequests: 1, failedRequests: 0 })
  t.equal(balancer.settled.length, 0)
})

// settle()

/** What one attempt, made and ended in some way, is told to the balancer as. */
interface Case {
  answer?: string
  head?: string
  options?: RockstarProxyOptions
  /** What happens once the request has reached the backend. */
  then?: (parts: { backend: RawBackend, clock: FakeClock, client: Awaited<ReturnType<Gateway['connect']>>, gateway: Gateway }) => unknown
  outcome: Partial<Omit<Outcome, 'error'>> & { error?: unknown }
}

const half = 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf'
const outcomes: Record<string, Case> = {
  'a whole response': { answer: ok(), outcome: { stage: 'done', culprit: 'none', statusCode: 200, error: undefined } },
  'an error status': { answer: ok('', '', '503 Sorry'), outcome: { stage: 'done', culprit: 'none', statusCode: 503, error: undefined } },
  'a reset before the head': {
    then: ({ backend }) => backend.connections[0].reset(),
    outcome: { stage: 'wait', culprit: 'backend', statusCode: 0, headTime: -1, error: { code: 'ECONNRESET' } }
  },
  'a head that cannot be sent on': {
    answer: 'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n',
    outcome: { culprit: 'backend', error: Error }
  },
  'no head in time': {
    options: { timeout: { headers: 100 } },
    then: ({ clock }) => clock.advance(300),
    outcome: { stage: 'wait', culprit: 'backend', statusCode: 0, headTime: -1, error: { code: 'FST_ROCKSTAR_TIMEOUT' } }
  },
  'a body cut short': {
    answer: half,
    then: async ({ client, backend }) => {
      await client.receive('half')
      backend.connections[0].reset()
    },
    outcome: { stage: 'stream', culprit: 'backend', statusCode: 200, error: Error }
  },
  'a body that stops': {
    answer: half,
    options: { timeout: { idle: 100 } },
    then: async ({ client, clock }) => {
      await client.receive('half')
      clock.advance(300)
    },
    outcome: { stage: 'stream', culprit: 'backend', statusCode: 200, headTime: 0, error: { code: 'FST_ROCKSTAR_TIMEOUT' } }
  },
  'a client that goes before the head': {
    then: ({ client }) => client.close(),
    outcome: { stage: 'wait', culprit: 'client', statusCode: 0, headTime: -1, error: { code: 'FST_ROCKSTAR_CLIENT_CLOSED' } }
  },
  'a client that goes in the body': {
    answer: half,
    then: async ({ client }) => {
      await client.receive('half')
      client.close()
    },
    outcome: { stage: 'stream', culprit: 'client', statusCode: 200, error: { code: 'FST_ROCKSTAR_CLIENT_CLOSED' } }
  },
  'a client that goes in its upload': {
    head: 'POST / HTTP/1.1\r\nHost: gateway\r\nContent-Length: 100000\r\n\r\nhalf',
    then: ({ client }) => client.close(),
    outcome: { stage: 'send', culprit: 'client', statusCode: 0, headTime: -1, error: { code: 'FST_ROCKSTAR_CLIENT_CLOSED' } }
  },
  'a client that stops in its upload': {
    head: 'POST / HTTP/1.1\r\nHost: gateway\r\nContent-Length: 100000\r\n\r\nhalf',
    options: { timeout: { idle: 100 } },
    then: ({ clock }) => clock.advance(300),
    outcome: { stage: 'send', culprit: 'client', statusCode: 0, headTime: -1, error: { code: 'FST_ROCKSTAR_REQUEST_TIMEOUT' } }
  },
  'a removal without drain': {
    then: ({ gateway }) => gateway.app.proxy.removeBackend('a', { drain: false }),
    outcome: { stage: 'wait', culprit: 'proxy', statusCode: 0, headTime: -1, error: { code: 'FST_ROCKSTAR_ABORTED' } }
  },
  'a rewriter of ours that throws': {
    answer: ok(),
    options: { routes: [{ prefix: '/', rewriteHeaders: () => { throw new Error('mine') } }] },
    outcome: { culprit: 'proxy', statusCode: 200, error: Error }
  }
}

for (const [what, { answer, head = 'GET / HTTP/1.1\r\nHost: gateway\r\n\r\n', options, then, outcome }] of Object.entries(outcomes)) {
  t.test(`settle() is called once, with what happened: ${what}`, async t => {
    const clock = new FakeClock()
    const balancer = new Scripted()
    const backend = await rawBackend(t, () => answer)
    const gateway = await startGateway(t, { clock, backends: [{ id: 'a', url: backend.url }], balancer, routes, ...options })
    const client = await gateway.connect()
    client.send(head)
    await until(() => (backend.connections[0]?.received ?? '') !== '')
    if (!head.startsWith('GET')) await until(() => backend.connections[0].received.includes('half'))
    await then?.({ backend, clock, client, gateway })
    await until(() => balancer.settled.length > 0)
    for (let i = 0; i < 20; i++) await new Promise(setImmediate)
    t.equal(balancer.settled.length, 1)
    t.match(balancer.settled[0], ['a', outcome])
    t.ok(balancer.settled[0][1].responseTime >= 0)
    const { inFlight, backends } = gateway.app.proxy.getMetrics()
    t.equal(inFlight, 0)
    t.equal(backends.a?.inFlight ?? 0, 0)
  })
}

t.test('settle() hears of a connection that cannot be made', async t => {
  const gone = await named(t, 'a')
  gone.close()
  const balancer = new Scripted()
  const gateway = await startGateway(t, { backends: [{ id: 'a', url: gone.url }], balancer, routes })
  t.equal((await gateway.app.inject('/')).statusCode, 502)
  t.match(balancer.settled, [['a', { stage: 'connect', culprit: 'backend', statusCode: 0, headTime: -1, error: { code: 'ECONNREFUSED' } }]])
})

t.test('settle() hears how long the head and the whole took', async t => {
  const clock = new FakeClock()
  const balancer = new Scripted()
  const backend = await rawBackend(t, () => {})
  const gateway = await startGateway(t, { clock, backends: [{ id: 'a', url: backend.url }], balancer, routes })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => backend.requests.length === 1)
  clock.advance(40)
  backend.connections[0].send('HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha')
  await client.receive('ha')
  clock.advance(60)
  backend.connections[0].send('lf')
  await client.response()
  t.match(balancer.settled, [['a', { headTime: 40, responseTime: 100 }]])
})

t.test('each attempt is settled: one on a connection that died idle, and the one after it', async t => {
  const balancer = new Scripted()
  const backend = await rawBackend(t, (_request, wire, { requests }) => requests.length === 2 ? wire.reset() : ok(`${requests.length}`))
  const gateway = await startGateway(t, { backends: [{ id: 'a', url: backend.url }], balancer, routes })
  t.equal(await get(gateway), '1')
  await until(() => gateway.app.proxy.getConnectionPool().stats().idle === 1)
  t.equal(await get(gateway), '3')
  t.match(balancer.settled, [
    ['a', { stage: 'done', culprit: 'none', statusCode: 200 }],
    ['a', { culprit: 'proxy', statusCode: 0, headTime: -1, error: Error }],
    ['a', { stage: 'done', culprit: 'none', statusCode: 200 }]
  ])
  t.equal(balancer.settled.length, 3)
  t.equal(balancer.contexts.length, 2, 'the second attempt was on the same backend')
  t.match(gateway.app.proxy.getMetrics(), { totalRequests: 2, successfulRequests: 2, totalRetries: 1, backends: { a: { totalRequests: 3, successfulRequests: 2, failedRequests: 0, abortedRequests: 1 } } })
})

t.test('settle() that throws is logged and changes nothing for the client', async t => {
  class Faulty extends Scripted {
    override settle (): void { throw new Error('cannot settle') }
  }
  const backend = await rawBackend(t, request => request.startLine.includes('/bad') ? 'nonsense\r\n\r\n' : ok('fine'))
  const gateway = await startGateway(t, { backends: [{ id: 'a', url: backend.url }], balancer: new Faulty(), routes })
  t.equal(await get(gateway), 'fine')
  const faults = () => gateway.log.filter(line => line.level >= 40 && (line.err as Error)?.message === 'cannot settle').length
  t.equal(faults(), 1)
  t.equal((await gateway.app.inject('/bad')).statusCode, 502)
  t.equal(faults(), 2)
  t.match(gateway.app.proxy.getMetrics(), { inFlight: 0, totalRequests: 2, successfulRequests: 1, failedRequests: 1 })
})

t.test('a balancer without settle() and rebuild() is enough', async t => {
  const gateway = await gatewayWith(t, { type: 'small', select: available => available[1] })
  t.equal(await get(gateway), 'b')
  gateway.app.proxy.updateBackend('b', { weight: 3 })
  t.equal(await get(gateway), 'b')
})

t.test('methods of a balancer are called on it', async t => {
  const balancer = {
    type: 'this',
    calls: [] as string[],
    select (available: readonly Backend[]) {
      this.calls.push('select')
      return available[0]
    },
    settle () { this.calls.push('settle') },
    rebuild () { this.calls.push('rebuild') }
  }
  const gateway = await gatewayWith(t, balancer)
  await get(gateway)
  t.strictSame(balancer.calls, ['rebuild', 'select', 'settle'])
})

// Changing it while it serves

t.test('a new balancer serves from the next request on, and the result of an attempt goes to the one that chose', async t => {
  const [first, second] = [new Scripted(), new Scripted(available => available[1])]
  const [a, b] = [await rawBackend(t, () => {}), await named(t, 'b')]
  const gateway = await startGateway(t, { backends: [{ id: 'a', url: a.url }, { id: 'b', url: b.url }], balancer: first, routes })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => a.requests.length === 1)
  gateway.app.proxy.setLoadBalancer(second)
  t.equal(await get(gateway), 'b')
  a.connections[0].send(ok('late'))
  t.equal((await client.response()).body, 'late')
  await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
  t.strictSame(second.settled.map(([id]) => id), ['b'], 'the new one hears of what it chose')
  t.strictSame(first.settled.map(([id]) => id), ['a'], 'the old one of what it had chosen')
})

t.test('changing the balancer under load loses no request', async t => {
  const gateway = await gatewayWith(t, new Scripted())
  const load = { running: true }
  const answers: string[] = []
  const senders = Array.from({ length: 8 }, async () => {
    while (load.running) answers.push(await get(gateway))
  })
  const balancers = ['round-robin', new Scripted(available => available[1]), new Scripted(available => later(available[0])), { type: 'round-robin' }] as const
  for (let i = 0; i < 20; i++) {
    gateway.app.proxy.setLoadBalancer(balancers[i % balancers.length])
    const seen = answers.length
    await until(() => answers.length > seen + 5)
  }
  load.running = false
  await Promise.all(senders)
  t.strictSame([...new Set(answers)].sort(), ['a', 'b'])
  t.match(gateway.app.proxy.getMetrics(), { failedRequests: 0, inFlight: 0, totalRequests: answers.length })
})
