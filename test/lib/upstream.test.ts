import t from 'tap'
import type { Backend, ConnectionPool, LoadBalancer, PoolStats } from '../../types/index.ts'
import { makeUpstream as make } from '../helpers/upstream.ts'

const A = { id: 'a', url: 'http://127.0.0.1:1' }
const B = { id: 'b', url: 'http://127.0.0.1:2' }
const C = { id: 'c', url: 'http://127.0.0.1:3' }

const idsOf = (backends: readonly Backend[]) => backends.map(backend => backend.id).join('')

/** A balancer that writes down what it is told. */
class Recorder implements LoadBalancer {
  readonly type = 'recorder'
  readonly rebuilt: string[] = []
  frozen = true
  select () { return undefined }
  rebuild (available: readonly Backend[]) {
    this.rebuilt.push(available.map(backend => `${backend.id}${backend.weight}`).join(' '))
    this.frozen &&= Object.isFrozen(available)
  }
}

/** A pool that writes down what becomes of it. */
class PoolRecorder implements ConnectionPool {
  readonly calls: string[] = []
  dispatcherFor (): never { throw new Error('unused') }
  stats (): PoolStats { throw new Error('unused') }
  async release (backend: Backend) { this.calls.push(`release ${backend.id}`) }
  async close () { this.calls.push('close') }
}

t.test('the list of those available is frozen, in the order they were added, and swapped whole', t => {
  const { upstream } = make({ backends: [A, B] })
  const first = upstream.available
  t.equal(idsOf(first), 'ab')
  t.ok(Object.isFrozen(first))
  upstream.add(C)
  t.not(upstream.available, first)
  t.equal(idsOf(first), 'ab', 'who holds the old one sees no change')
  t.equal(idsOf(upstream.available), 'abc')
  t.ok(Object.isFrozen(upstream.available))
  t.equal(upstream.available, upstream.available, 'and it is not built for every look')
  t.end()
})

t.test('who has no weight, is not active or drains is listed and not available', async t => {
  const { upstream } = make({ backends: [A, { ...B, weight: 0 }, { ...C, isActive: false }] })
  t.equal(idsOf(upstream.list()), 'abc')
  t.equal(idsOf(upstream.available), 'a')
  upstream.update('b', { weight: 1 })
  t.equal(idsOf(upstream.available), 'ab')
  upstream.update('c', { isActive: true })
  t.equal(idsOf(upstream.available), 'abc')
  upstream.update('a', { isActive: false })
  t.equal(idsOf(upstream.available), 'bc')
  upstream.update('a', { isActive: true })
  t.equal(idsOf(upstream.available), 'abc', 'back in its old place')
  upstream.get('b').counters.begin()
  const removal = upstream.remove('b')
  t.equal(idsOf(upstream.available), 'ac')
  t.equal(idsOf(upstream.list()), 'abc', 'a draining one is still listed')
  t.equal(upstream.get('b').toJSON().draining, true)
  upstream.get('b').settle('successful', 1)
  await removal
  t.equal(idsOf(upstream.list()), 'ac')
})

t.test('a change of priority or zone counts from the next choice on', t => {
  const { upstream } = make({ backends: [A, B], zone: 'here' })
  const groups = () => upstream.selector.whole.groups.map(({ priority, zone, share, available }) => [priority, zone, share, idsOf(available)])
  t.strictSame(groups(), [[0, undefined, 1, 'ab']])
  upstream.update('b', { priority: 1 })
  t.strictSame(groups(), [[0, undefined, 1, 'a']], 'who comes first carries all')
  upstream.update('a', { backup: true })
  t.strictSame(groups(), [[1, undefined, 1, 'ab']])
  upstream.update('a', { zone: 'here' })
  t.strictSame(groups(), [[1, 'own', 1, 'a']], 'and of the own zone first')
  upstream.update('a', { zone: 'there' })
  t.strictSame(groups(), [[1, undefined, 1, 'ab']], 'where none is here, all will do')
  upstream.update('b', { priority: 0, weight: 0 })
  t.strictSame(groups(), [[1, undefined, 1, 'a']], 'one without a weight carries nothing')
  t.throws(() => upstream.update('a', { priority: 0, zone: '' }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS' })
  t.strictSame(groups(), [[1, undefined, 1, 'a']], 'a change that is refused changes nothing')
  t.equal(idsOf(upstream.available), 'a')
  t.end()
})

t.test('a list that was given out is a copy', t => {
  const { upstream } = make({ backends: [A, B] })
  upstream.list().pop()
  t.equal(idsOf(upstream.list()), 'ab')
  t.end()
})

t.test('an id can be there only once', t => {
  const { upstream } = make({ backends: [A] })
  t.throws(() => upstream.add(A), { code: 'FST_ROCKSTAR_DUPLICATE_BACKEND', statusCode: 409, message: "A backend with id 'a' is already listed in upstream 'test'" })
  t.throws(() => upstream.add({ id: 'a', url: 'http://127.0.0.1:9' }), { code: 'FST_ROCKSTAR_DUPLICATE_BACKEND' })
  upstream.add('http://127.0.0.1:5')
  t.throws(() => upstream.add('http://127.0.0.1:5/other-path'), { code: 'FST_ROCKSTAR_DUPLICATE_BACKEND' }, 'the id taken from the URL counts as well')
  t.equal(idsOf(upstream.list()), 'a127.0.0.1:5')
  t.throws(() => make({ backends: [A, A] }), { code: 'FST_ROCKSTAR_DUPLICATE_BACKEND' })
  t.end()
})

t.test('one address may be there under several ids', t => {
  const { upstream } = make({ backends: [A, { id: 'again', url: A.url }] })
  t.equal(idsOf(upstream.available), 'aagain')
  t.end()
})

t.test('an id that is not there is told', async t => {
  const { upstream } = make({ backends: [A] })
  const unknown = { code: 'FST_ROCKSTAR_UNKNOWN_BACKEND', statusCode: 404, message: "No backend has the id 'x' in upstream 'test'" }
  t.throws(() => upstream.get('x'), unknown)
  t.throws(() => upstream.update('x', {}), unknown)
  t.throws(() => { upstream.remove('x') }, unknown)
  t.throws(() => upstream.get('__proto__'), { code: 'FST_ROCKSTAR_UNKNOWN_BACKEND' })
  t.throws(() => upstream.get('toString'), { code: 'FST_ROCKSTAR_UNKNOWN_BACKEND' })
})

t.test('a bad backend is not half added', t => {
  const { upstream } = make()
  for (const bad of ['ftp://x', '', {}, { url: 'http://x', weight: -1 }, { url: 'http://x', wieght: 1 }, null, undefined, 5]) {
    t.throws(() => upstream.add(bad as string), { code: 'FST_ROCKSTAR_INVALID_OPTIONS' })
  }
  t.strictSame(upstream.list(), [])
  t.end()
})

t.test('the balancer hears of every change of the set and of weights, and of nothing else', async t => {
  const balancer = new Recorder()
  const { upstream } = make({ backends: [A], balancer })
  t.strictSame(balancer.rebuilt, ['a1'])
  upstream.add({ ...B, weight: 2 })
  t.equal(balancer.rebuilt.at(-1), 'a1 b2')
  upstream.update('a', { weight: 5 })
  t.equal(balancer.rebuilt.at(-1), 'a5 b2')
  upstream.update('b', { isActive: false })
  t.equal(balancer.rebuilt.at(-1), 'a5')
  upstream.get('a').counters.begin()
  const removal = upstream.remove('a')
  t.equal(balancer.rebuilt.at(-1), '', 'a removed one is out at once, before its requests have ended')
  t.equal(balancer.rebuilt.length, 5)
  t.throws(() => upstream.add(B))
  t.throws(() => upstream.update('b', { weight: -1 }))
  t.throws(() => upstream.update('x', { weight: 1 }))
  upstream.get('a').settle('successful', 1)
  await removal
  t.ok(balancer.rebuilt.length <= 6)
  t.ok(balancer.rebuilt.slice(5).every(rebuilt => rebuilt === ''), 'what failed was not told')
  t.ok(balancer.frozen, 'and the lists are frozen')
})

t.test('a new balancer hears of the set before it is used', t => {
  const { upstream } = make({ backends: [A, B] })
  const balancer = new Recorder()
  upstream.setBalancer(balancer)
  t.strictSame(balancer.rebuilt, ['a1 b1'])
  t.equal(upstream.balancer, balancer)
  upstream.setBalancer({ type: 'plain', select: () => undefined })
  upstream.add(C)
  t.strictSame(balancer.rebuilt, ['a1 b1'], 'the old one hears no more')
  t.end()
})

t.test('a balancer that is not accepted leaves the old one', t => {
  const balancer = new Recorder()
  const { upstream } = make({ backends: [A], balancer })
  for (const bad of ['fastest', {}, { type: 'fastest' }, { type: 'mine' }, null, 5]) {
    t.throws(() => upstream.setBalancer(bad as 'round-robin'), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /^balancer/ })
  }
  const faulty = { type: 'faulty', select: () => undefined, rebuild: () => { throw new Error('cannot') } }
  t.throws(() => upstream.setBalancer(faulty), { message: 'cannot' })
  t.equal(upstream.balancer, balancer)
  t.end()
})

t.test('a pool that is not accepted leaves the old one', t => {
  const pool = new PoolRecorder()
  const { upstream } = make({ pool })
  for (const bad of ['big', 5, null, { connections: 0 }, { conections: 1 }]) {
    t.throws(() => upstream.setPool(bad as object), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /^pool/ })
  }
  t.equal(upstream.pool, pool)
  t.strictSame(pool.calls, [])
  t.end()
})

t.test('a replaced pool is closed, unless it is replaced by itself', t => {
  const pool = new PoolRecorder()
  const { upstream } = make({ pool })
  upstream.setPool(pool)
  t.strictSame(pool.calls, [])
  upstream.setPool({ connections: 1 })
  t.strictSame(pool.calls, ['close'])
  t.end()
})

t.test('removing waits for what is under way, then lets the connections go', async t => {
  const pool = new PoolRecorder()
  const { upstream, clock } = make({ backends: [A, B], pool })
  const backend = upstream.get('a')
  backend.counters.begin()
  backend.counters.begin()
  let removed = false
  const removal = upstream.remove('a').then(() => { removed = true })
  backend.settle('successful', 1)
  await new Promise(setImmediate)
  t.notOk(removed, 'one is still under way')
  t.strictSame(pool.calls, [])
  backend.settle('successful', 1)
  await removal
  t.strictSame(pool.calls, ['release a'])
  t.equal(clock.timers, 0, 'no timer is left')
  t.throws(() => upstream.get('a'), { code: 'FST_ROCKSTAR_UNKNOWN_BACKEND' })
})

t.test('removing takes 30 s at the most unless told otherwise', async t => {
  for (const [options, time] of [[undefined, 30_000], [{}, 30_000], [{ drain: {} }, 30_000], [{ drain: { timeout: 500 } }, 500]] as const) {
    const pool = new PoolRecorder()
    const { upstream, clock } = make({ backends: [A], pool })
    upstream.get('a').counters.begin()
    const removal = upstream.remove('a', options)
    clock.advance(time - 1)
    await new Promise(setImmediate)
    t.strictSame(pool.calls, [], 'a millisecond before the end')
    clock.advance(1)
    await removal
    t.strictSame(pool.calls, ['release a'])
  }
})

t.test('removing without drain waits for nothing', async t => {
  for (const options of [{ drain: false as const }, { drain: { timeout: 0 } }]) {
    const { upstream, clock } = make({ backends: [A] })
    upstream.get('a').counters.begin()
    await upstream.remove('a', options)
    t.strictSame(upstream.list(), [])
    t.equal(clock.timers, 0)
  }
})

t.test('removing twice at the same time waits for the same end', async t => {
  const pool = new PoolRecorder()
  const { upstream } = make({ backends: [A], pool })
  const backend = upstream.get('a')
  backend.counters.begin()
  const removals = [upstream.remove('a'), upstream.remove('a'), upstream.remove('a')]
  backend.settle('successful', 1)
  await Promise.all(removals)
  t.strictSame(pool.calls, ['release a'], 'its connections are let go of once')
  t.throws(() => { upstream.remove('a') }, { code: 'FST_ROCKSTAR_UNKNOWN_BACKEND' })
})

t.test('removing again with a shorter time shortens it, and with a longer one changes nothing', async t => {
  for (const [later, left] of [[500, 500], [0, 0], [60_000, 20_000]] as const) {
    const { upstream, clock } = make({ backends: [A] })
    const backend = upstream.get('a')
    backend.counters.begin()
    const first = upstream.remove('a', { drain: { timeout: 30_000 } })
    t.equal(backend.drainsUntil, clock.now() + 30_000)
    clock.advance(10_000)
    const second = upstream.remove('a', { drain: { timeout: later } })
    t.equal(backend.drainsUntil, left === 0 ? null : clock.now() + left, 'it says when it ends')
    t.ok(upstream.isRemoving(backend))
    if (left > 0) {
      clock.advance(left - 1)
      await new Promise(resolve => setImmediate(resolve))
      t.equal(upstream.size, 1, `${later}: not yet`)
      clock.advance(1)
    }
    await Promise.all([first, second])
    t.equal(upstream.size, 0)
    t.equal(clock.timers, 0)
  }
})

t.test('a shorter removal shortens the drain that is under way', async t => {
  const { upstream, clock } = make({ backends: [A] })
  const backend = upstream.get('a')
  backend.counters.begin()
  const drained = upstream.drain('a', { timeout: 30_000 })
  const { revision } = backend
  const removed = upstream.remove('a', { drain: { timeout: 1_000 } })
  clock.advance(1_000)
  await Promise.all([drained, removed])
  t.equal(upstream.size, 0)
  t.equal(clock.timers, 0)
  t.equal(backend.revision, revision)
})

t.test('a drain that is over is a change of options', async t => {
  const { upstream } = make({ backends: [A] })
  await upstream.drain('a')
  t.match(upstream.get('a'), { isActive: false, revision: 2, drainsUntil: null }, 'as its beginning was')
})

t.test('a removed id is free again, for a new object', async t => {
  const { upstream } = make({ backends: [A] })
  const old = upstream.get('a')
  old.counters.begin()
  const removal = upstream.remove('a')
  t.throws(() => upstream.add(A), { code: 'FST_ROCKSTAR_DUPLICATE_BACKEND' }, 'not while it drains')
  old.settle('successful', 1)
  await removal
  const again = upstream.add(A)
  t.not(again, old)
  t.equal(idsOf(upstream.available), 'a')
  t.notOk(again.draining)
})

t.test('a change keeps the object, and what it has counted', t => {
  const { upstream } = make({ backends: [A] })
  const backend = upstream.get('a')
  backend.counters.begin()
  t.equal(upstream.update('a', { weight: 7 }), backend)
  t.equal(upstream.get('a'), backend)
  t.equal(backend.inFlight, 1)
  t.end()
})

t.test('backends are stamped with the time of the clock', t => {
  const { upstream, clock } = make({ backends: [A] })
  const then = clock.wall()
  clock.advance(5_000)
  const added = upstream.add(B)
  t.equal(upstream.get('a').createdAt.getTime(), then)
  t.equal(added.createdAt.getTime(), then + 5_000)
  clock.advance(5_000)
  upstream.update('a', { weight: 2 })
  t.equal(upstream.get('a').updatedAt.getTime(), then + 10_000)
  t.end()
})

t.test('metrics are of those listed now, whatever their ids', t => {
  const { upstream } = make({ backends: [A, { id: '__proto__', url: B.url }, { id: 'toString', url: C.url }] })
  t.strictSame(Object.keys(upstream.metrics().backends), ['a', '__proto__', 'toString'])
  t.equal(Object.getPrototypeOf(upstream.metrics().backends), null)
  t.end()
})

t.test('a balancer that throws when it hears of a change leaves nothing half done', async t => {
  let faulty = false
  const balancer: LoadBalancer = {
    type: 'faulty',
    select: () => undefined,
    rebuild: () => { if (faulty) throw new Error('cannot') }
  }
  const { upstream } = make({ backends: [A], balancer })
  faulty = true
  const threw = (call: () => unknown) => {
    try {
      call()
      return false
    } catch {
      return true
    }
  }
  const refused = threw(() => upstream.add(B))
  t.equal(idsOf(upstream.list()), refused ? 'a' : 'ab', 'added, or an error and not added')
  t.equal(idsOf(upstream.available), refused ? 'a' : 'ab')
  const kept = threw(() => upstream.update('a', { weight: 2 }))
  t.equal(upstream.get('a').weight, kept ? 1 : 2, 'changed, or an error and not changed')
  const rejected = await Promise.resolve().then(() => upstream.remove('a')).then(() => false, () => true)
  const left = upstream.list().filter(backend => backend.id === 'a')
  t.strictSame(left.map(backend => backend.draining), rejected ? [false] : [], 'removed, or an error and not draining for ever')
})

t.test('a cookie that browsers would throw away is refused', async t => {
  t.throws(() => make({ affinity: { secret: 'a secret of some length', sameSite: 'none', secure: false } }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /options\.affinity\.secure must not be false where sameSite is 'none'/ })
  t.doesNotThrow(() => make({ affinity: { secret: 'a secret of some length', cookie: 'a', sameSite: 'none', secure: true } }))
})
