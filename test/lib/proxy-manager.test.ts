import t from 'tap'
import { hashReady } from '../../lib/balancer/index.ts'
import { ProxyManager } from '../../lib/proxy-manager.ts'
import { ConnectionPool } from '../../lib/pool/index.ts'
import { IpHash, LeastRequests, Maglev, P2c, PeakEwma, Random, Rendezvous, RingHash, RoundRobin } from '../../plugins/index.ts'
import type { BalancerInput, BalancerType, LoadBalancer } from '../../types/index.ts'
import { FakeClock } from '../helpers/clock.ts'

const A = { id: 'a', url: 'http://127.0.0.1:1' }
const B = { id: 'b', url: 'http://127.0.0.1:2' }

t.test('the manager is the default upstream', t => {
  const manager = new ProxyManager({ backends: [A] })
  t.equal(manager.name, 'default')
  t.equal(manager.upstream('default'), manager)
  t.strictSame(manager.listUpstreams(), [manager])
  t.equal(manager.upstream('default').getBackend('a'), manager.getBackend('a'))
  t.end()
})

t.test('backends are added, found, listed, changed and removed', async t => {
  const manager = new ProxyManager({})
  t.strictSame(manager.listBackends(), [])
  const a = manager.addBackend(A)
  t.equal(a.id, 'a')
  t.equal(manager.getBackend('a'), a)
  const b = manager.addBackend('http://127.0.0.1:2')
  t.equal(b.id, '127.0.0.1:2')
  const c = manager.addBackend({ url: new URL('http://127.0.0.1:3') })
  t.strictSame(manager.listBackends(), [a, b, c], 'in the order they were added')
  t.equal(manager.updateBackend('a', { weight: 4 }), a)
  t.equal(a.weight, 4)
  t.equal(await manager.removeBackend('127.0.0.1:2'), undefined)
  t.strictSame(manager.listBackends(), [a, c])
})

t.test('removing an unknown backend rejects, it does not throw', async t => {
  const manager = new ProxyManager({ backends: [A] })
  const promise = manager.removeBackend('x')
  t.type(promise, Promise)
  await t.rejects(promise, { code: 'FST_ROCKSTAR_UNKNOWN_BACKEND' })
  t.throws(() => manager.getBackend('x'), { code: 'FST_ROCKSTAR_UNKNOWN_BACKEND' })
  t.throws(() => manager.updateBackend('x', {}), { code: 'FST_ROCKSTAR_UNKNOWN_BACKEND' })
})

t.test('drain options that make no sense are refused, and nothing is removed', async t => {
  for (const options of [{ drain: { timeout: -1 } }, { drain: { timeout: '5' } }, { drain: { timeout: NaN } }, { drian: false }]) {
    const manager = new ProxyManager({ backends: [A] })
    await t.rejects(manager.removeBackend('a', options as object), { code: 'FST_ROCKSTAR_INVALID_OPTIONS' }, JSON.stringify(options))
    t.match(manager.listBackends(), [{ id: 'a', draining: false }])
  }
})

t.test('a drain may be given more time than Node\'s timers can count', async t => {
  const warnings: string[] = []
  const listener = (warning: Error) => { warnings.push(warning.name) }
  process.on('warning', listener)
  t.teardown(() => process.off('warning', listener))
  const manager = new ProxyManager({ backends: [A] })
  const backend = manager.state.get('a')
  backend.counters.begin()
  const removal = manager.removeBackend('a', { drain: { timeout: 2 ** 31 } })
  await new Promise(setImmediate)
  t.strictSame(warnings, [], 'a timer beyond 2^31 - 1 ms fires at once')
  backend.settle('successful', 1)
  await removal
})

t.test('the list as JSON is plain data', t => {
  const manager = new ProxyManager({ backends: [{ ...A, metadata: { zone: 'x' } }] })
  t.match(JSON.parse(JSON.stringify(manager.listBackends())), [{ id: 'a', url: 'http://127.0.0.1:1/', weight: 1, effectiveWeight: 1, priority: 0, isActive: true, available: true, draining: false, metadata: { zone: 'x' }, inFlight: 0 }])
  t.end()
})

t.test('named upstreams are added, found and listed', t => {
  const manager = new ProxyManager({ backends: [A], upstreams: { one: { backends: [A, B] } } })
  const one = manager.upstream('one')
  t.equal(one.name, 'one')
  t.strictSame(one.listBackends().map(backend => backend.id), ['a', 'b'])
  const two = manager.addUpstream('two', { backends: [B] })
  t.equal(manager.upstream('two'), two)
  const three = manager.addUpstream('three')
  t.strictSame(three.listBackends(), [])
  t.strictSame(manager.listUpstreams(), [manager, one, two, three], 'the default one first')
  manager.listUpstreams().pop()
  t.equal(manager.listUpstreams().length, 4, 'a list that was given out is a copy')
  t.end()
})

t.test('upstreams have backends of their own, even under the same id', async t => {
  const manager = new ProxyManager({ backends: [A], upstreams: { one: { backends: [A] } } })
  t.not(manager.getBackend('a'), manager.upstream('one').getBackend('a'))
  manager.upstream('one').updateBackend('a', { weight: 9 })
  t.equal(manager.getBackend('a').weight, 1)
  await manager.upstream('one').removeBackend('a')
  t.equal(manager.listBackends().length, 1)
})

t.test('upstreams have policies of their own', t => {
  const manager = new ProxyManager({ upstreams: { one: {} } })
  const one = manager.upstream('one')
  t.not(one.getLoadBalancer(), manager.getLoadBalancer())
  t.not(one.getConnectionPool(), manager.getConnectionPool())
  const balancer = { type: 'mine', select: () => undefined }
  one.setLoadBalancer(balancer)
  t.equal(one.getLoadBalancer(), balancer)
  t.equal(manager.getLoadBalancer().type, 'round-robin')
  t.end()
})

t.test('a name can be there only once, and default always is', t => {
  const manager = new ProxyManager({ upstreams: { one: {} } })
  for (const name of ['one', 'default']) {
    t.throws(() => manager.addUpstream(name, {}), { code: 'FST_ROCKSTAR_DUPLICATE_UPSTREAM', statusCode: 409, message: `An upstream named '${name}' is already there` })
  }
  t.throws(() => new ProxyManager({ upstreams: { default: {} } }), { code: 'FST_ROCKSTAR_DUPLICATE_UPSTREAM' })
  t.equal(manager.listUpstreams().length, 2)
  t.end()
})

t.test('an unknown upstream is told', async t => {
  const manager = new ProxyManager({})
  const unknown = { code: 'FST_ROCKSTAR_UNKNOWN_UPSTREAM', message: "No upstream is named 'x'" }
  t.throws(() => manager.upstream('x'), unknown)
  await t.rejects(manager.removeUpstream('x'), unknown)
  t.throws(() => manager.upstream('__proto__'), { code: 'FST_ROCKSTAR_UNKNOWN_UPSTREAM' })
  t.throws(() => manager.upstream('constructor'), { code: 'FST_ROCKSTAR_UNKNOWN_UPSTREAM' })
})

t.test('a bad upstream is not half added', t => {
  const manager = new ProxyManager({})
  const bad: [unknown, RegExp][] = [
    [{ backend: [] }, /^upstreams\.x\.backend is not an option; did you mean 'backends'\?$/],
    [{ backends: ['ftp://x'] }, /^upstreams\.x\.backends\[0\] must be an http:, https: or unix: URL/],
    [{ timeout: { idle: -1 } }, /^upstreams\.x\.timeout\.idle must be a number of at least 0, and is -1$/],
    [{ routes: [] }, /^upstreams\.x\.routes is not an option/],
    [null, /^upstreams\.x must be an object, and is null$/],
    [5, /^upstreams\.x must be an object, and is 5$/]
  ]
  for (const [options, message] of bad) {
    t.throws(() => manager.addUpstream('x', options as object), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message })
  }
  t.throws(() => manager.addUpstream('x', { backends: [A, A] }), { code: 'FST_ROCKSTAR_DUPLICATE_BACKEND' })
  for (const name of ['', 5, null, undefined]) t.throws(() => manager.addUpstream(name as string, {}), { code: 'FST_ROCKSTAR_INVALID_OPTIONS' }, String(name))
  t.equal(manager.listUpstreams().length, 1)
  t.end()
})

t.test('a removed upstream is unknown at once, takes its backends with it, and its name is free', async t => {
  const clock = new FakeClock()
  const manager = new ProxyManager({ clock, upstreams: { one: { backends: [A, B] } } })
  const one = manager.upstream('one')
  const busy = manager.upstream('one').state.get('a')
  busy.counters.begin()
  let removed = false
  const removal = manager.removeUpstream('one').then(() => { removed = true })
  t.throws(() => manager.upstream('one'), { code: 'FST_ROCKSTAR_UNKNOWN_UPSTREAM' })
  t.strictSame(manager.listUpstreams(), [manager])
  const again = manager.addUpstream('one', { backends: [A] })
  t.not(again, one)
  await new Promise(setImmediate)
  t.notOk(removed, 'its requests may finish')
  busy.settle('successful', 1)
  await removal
  t.strictSame(one.listBackends(), [])
  t.equal(again.listBackends().length, 1, 'the new one of the same name is untouched')
  t.equal(clock.timers, 0)
})

t.test('a removed upstream drains for so long, or not at all', async t => {
  for (const [options, time] of [[{ drain: { timeout: 50 } }, 50], [{ drain: false as const }, 0], [undefined, 30_000]] as const) {
    const clock = new FakeClock()
    const manager = new ProxyManager({ clock, upstreams: { one: { backends: [A] } } })
    manager.upstream('one').state.get('a').counters.begin()
    const removal = manager.removeUpstream('one', options)
    clock.advance(time)
    await removal
    t.pass(`after ${time} ms`)
  }
})

t.test('the default upstream cannot be removed', async t => {
  const manager = new ProxyManager({ backends: [A] })
  await t.rejects(manager.removeUpstream('default'), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: "the upstream 'default' cannot be removed" })
  t.equal(manager.listBackends().length, 1)
})

t.test('the balancer is set by name, by object and as an instance', t => {
  const manager = new ProxyManager({})
  const first = manager.getLoadBalancer()
  t.type(first, RoundRobin)
  t.equal(first.type, 'round-robin')
  manager.setLoadBalancer('round-robin')
  t.not(manager.getLoadBalancer(), first, 'a name makes a new one')
  const second = manager.getLoadBalancer()
  manager.setLoadBalancer({ type: 'round-robin' })
  t.not(manager.getLoadBalancer(), second)
  t.type(manager.getLoadBalancer(), RoundRobin)
  const mine = { type: 'mine', select: () => undefined }
  manager.setLoadBalancer(mine)
  t.equal(manager.getLoadBalancer(), mine)
  t.equal(manager.getLoadBalancer().type, 'mine')
  t.throws(() => manager.setLoadBalancer('fastest' as 'round-robin'), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /^balancer must be one of 'round-robin'.* and is 'fastest'$/ })
  t.equal(manager.getLoadBalancer(), mine)
  t.end()
})

t.test('every policy is set by its name, with its options, and as an instance of its class', async t => {
  await hashReady
  const classes = { random: Random, 'least-requests': LeastRequests, p2c: P2c, 'peak-ewma': PeakEwma, 'ip-hash': IpHash, 'ring-hash': RingHash, maglev: Maglev, rendezvous: Rendezvous, 'round-robin': RoundRobin }
  const manager = new ProxyManager({ backends: [A, B] })
  for (const [type, Policy] of Object.entries(classes) as [BalancerType, new () => LoadBalancer][]) {
    for (const input of [type, { type }]) {
      manager.setLoadBalancer(input)
      t.ok(manager.getLoadBalancer() instanceof Policy, type)
      t.equal(manager.getLoadBalancer().type, type)
    }
    const instance = new Policy()
    manager.setLoadBalancer(instance)
    t.equal(manager.getLoadBalancer(), instance, type)
  }
  manager.setLoadBalancer('weighted-round-robin')
  t.ok(manager.getLoadBalancer() instanceof RoundRobin, 'one policy by two names')
  const before = manager.getLoadBalancer()
  for (const [wrong, message] of [
    [{ type: 'maglev', tableSizex: 1 }, "balancer.tableSizex is not an option; did you mean 'tableSize'?"],
    [{ type: 'ring-hash', points: 0 }, 'balancer.points must be an integer of at least 1 and of at most 65536, and is 0']
  ] as const) t.throws(() => manager.setLoadBalancer(wrong as BalancerInput), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message })
  t.equal(manager.getLoadBalancer(), before)
})

t.test('the pool is set by options and as an instance', t => {
  const manager = new ProxyManager({ pool: { connections: 7 } })
  const first = manager.getConnectionPool() as ConnectionPool
  t.equal(first.options.connections, 7)
  manager.setConnectionPool({ connections: 3 })
  const second = manager.getConnectionPool() as ConnectionPool
  t.not(second, first)
  t.equal(second.options.connections, 3)
  t.equal(second.options.idleTimeout, 90_000, 'what is not given is as the defaults say, not as it was')
  const mine = new ConnectionPool({ connections: 1 })
  manager.setConnectionPool(mine)
  t.equal(manager.getConnectionPool(), mine)
  t.throws(() => manager.setConnectionPool({ connections: 0 }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: 'pool.connections must be an integer of at least 1, and is 0' })
  t.equal(manager.getConnectionPool(), mine)
  t.throws(() => new ConnectionPool({ connections: 0.5 }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS' })
  t.end()
})

t.test('a pool that nothing has used has empty numbers', t => {
  const stats = new ProxyManager({ backends: [A] }).getConnectionPool().stats()
  t.match(stats, { total: 0, active: 0, idle: 0, pending: 0, connects: 0, connectErrors: 0, requests: 0, reuseRatio: 0 })
  t.strictSame(Object.keys(stats.backends), [])
  t.end()
})

const zero = {
  totalRequests: 0,
  successfulRequests: 0,
  failedRequests: 0,
  abortedRequests: 0,
  inFlight: 0,
  averageResponseTime: 0,
  minResponseTime: 0,
  maxResponseTime: 0,
  p50ResponseTime: 0,
  p90ResponseTime: 0,
  p99ResponseTime: 0
}
/** The same of a backend that was never chosen. */
const unused = { ...zero, share: 0, weight: 1, effectiveWeight: 1, limit: null, chosenBecause: { balancer: 0, affinity: 0, priority: 0, zone: 0, fallback: 0, panic: 0 } }

t.test('metrics that have counted nothing are all zeros, and plain data', t => {
  const manager = new ProxyManager({ backends: [A], upstreams: { one: { backends: [B] }, two: {} } })
  const none = {
    ...zero,
    tunnels: { open: 0, total: 0, bytesReceived: 0, bytesSent: 0 },
    totalRetries: 0,
    retriesDenied: 0,
    hedgedRequests: 0,
    hedgesWon: 0,
    queuedRequests: 0,
    queueLength: 0,
    shedRequests: 0,
    timeouts: { queue: 0, connect: 0, send: 0, wait: 0, stream: 0, client: 0, request: 0 },
    fallbacksServed: 0,
    mirroredRequests: 0,
    mirrorsSkipped: 0,
    panic: false
  }
  t.strictSame(JSON.parse(JSON.stringify(manager.getMetrics())), {
    ...none,
    backends: { a: unused },
    upstreams: {
      one: { ...none, backends: { b: unused } },
      two: { ...none, backends: {} }
    }
  })
  t.strictSame(Object.keys(manager.upstream('one').getMetrics()).includes('upstreams'), false, 'a named one has none below it')
  t.end()
})

t.test('metrics are a copy', t => {
  const manager = new ProxyManager({ backends: [A] })
  const before = manager.getMetrics()
  before.backends.a.totalRequests = 99
  before.backends.a.chosenBecause.balancer = 99
  manager.state.get('a').counters.begin()
  t.equal(before.inFlight, 0)
  t.equal(manager.getMetrics().backends.a.totalRequests, 1)
  t.equal(manager.getMetrics().backends.a.chosenBecause.balancer, 0)
  t.end()
})

t.test('resetting one upstream leaves the others', t => {
  const manager = new ProxyManager({ backends: [A], upstreams: { one: { backends: [B] } } })
  const one = manager.upstream('one')
  for (const { state } of [manager, one]) {
    state.counters.begin()
    state.counters.end('successful', 5)
  }
  one.resetMetrics()
  t.equal(one.getMetrics().totalRequests, 0)
  t.equal(manager.getMetrics().totalRequests, 1)
  one.state.counters.begin()
  one.state.counters.end('successful', 5)
  manager.resetMetrics()
  t.equal(manager.getMetrics().totalRequests, 0)
  t.equal(manager.getMetrics().upstreams.one.totalRequests, 1)
  t.end()
})

t.test('an upstream\'s own forward() refuses the option `upstream`', async t => {
  const one = new ProxyManager({ upstreams: { one: {} } }).upstream('one')
  await t.rejects(async () => one.forward({} as never, undefined, { upstream: 'default' }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /options\.upstream/ })
})

t.test('closing is done once, however often it is asked for, and leaves no timer', async t => {
  const clock = new FakeClock()
  const manager = new ProxyManager({ clock, backends: [A], upstreams: { one: { backends: [B] } } })
  await Promise.all([manager.drain(), manager.close(), manager.close()])
  await manager.close()
  t.equal(clock.timers, 0)
})
