import t, { type Test } from 'tap'
import type { BackendInput, BackendOptions, Discovered, ProxyEventName, UpstreamOptions } from '../../../types/index.ts'
import { makeUpstream } from '../../helpers/upstream.ts'

const settle = () => new Promise<void>(resolve => setImmediate(resolve))
const A: BackendOptions = { id: 'a', url: 'http://127.0.0.1:1' }
const B: BackendOptions = { id: 'b', url: 'http://127.0.0.1:2' }
const C: BackendOptions = { id: 'c', url: 'http://127.0.0.1:3' }
const EVENTS: ProxyEventName[] = ['backend:added', 'backend:draining', 'backend:drained', 'backend:removed']

/** An upstream whose function finds `found`, looked for every second. */
async function scene (t: Test, found: unknown, options: UpstreamOptions = {}) {
  const state = { found }
  const { upstream, clock } = makeUpstream({
    health: false,
    ...options,
    discovery: {
      type: async () => {
        if (state.found instanceof Error) throw state.found
        return state.found as BackendInput[]
      },
      interval: 1_000,
      jitter: 0,
      emptyGrace: 5_000,
      ...options.discovery as object
    }
  })
  t.teardown(() => upstream.stop())
  const events: string[] = []
  for (const name of EVENTS) upstream.events.on(name, ((event: { backend: { id: string } }) => { events.push(`${name.slice(8)} ${event.backend.id}`) }) as never)
  const faults: string[] = []
  upstream.events.on('discovery:failed', ({ cause }) => { faults.push(cause) })
  upstream.start()
  await settle()
  const next = async (now: unknown = state.found) => {
    state.found = now
    clock.advance(1_000)
    await settle()
  }
  const ids = () => upstream.list().map(({ id }) => id).join()
  return { upstream, clock, next, ids, events, faults, take: () => events.splice(0) }
}

t.test('what is found is listed beside what was given by hand', async t => {
  const { ids, events, upstream } = await scene(t, [A, 'http://127.0.0.1:2'], { backends: [C] })
  t.equal(ids(), 'c,a,127.0.0.1:2')
  t.strictSame(events, ['added a', 'added 127.0.0.1:2'])
  t.equal(upstream.available.length, 3)
})

t.test('a function may be synchronous, give a ttl, and gets a signal', async t => {
  const asked: unknown[] = []
  const { upstream, clock } = makeUpstream({
    health: false,
    discovery: signal => {
      asked.push(signal)
      return { backends: [A], ttl: 300 } satisfies Discovered
    }
  })
  t.teardown(() => upstream.stop())
  upstream.start()
  await settle()
  t.equal(upstream.list().length, 1)
  clock.advance(330)
  await settle()
  t.equal(asked.length, 2)
  t.ok(asked[0] instanceof AbortSignal)
})

t.test('those found again keep their object and all they have learned', async t => {
  const { upstream, next, events } = await scene(t, [A, B])
  const before = upstream.list()
  before[0].counters.begin()
  await next([structuredClone(A), structuredClone(B)])
  await next([B, A])
  t.strictSame(upstream.list().map((backend, i) => backend === before[i]), [true, true])
  t.strictSame(events, ['added a', 'added b'])
})

t.test('weight, priority, zone, activity, metadata and checks follow what is found', async t => {
  const { upstream, next } = await scene(t, [{ ...A, weight: 5, zone: 'x', metadata: { n: 1 } }])
  const [backend] = upstream.list()
  await next([{ ...A, weight: 7, priority: 1, zone: 'y', isActive: false, metadata: { n: 2 }, healthCheck: { interval: 50 } }])
  t.match(backend.toJSON(), { weight: 7, priority: 1, zone: 'y', isActive: false, metadata: { n: 2 } })
  t.strictSame(backend.healthCheck, { interval: 50 })
  await next([A])
  t.match(backend.toJSON(), { weight: 1, priority: 0, zone: undefined, isActive: true, metadata: {} })
  await next([{ ...A, backup: true }])
  t.equal(backend.priority, 1)
})

t.test('those not found any more are drained and removed, new ones come before old ones go', async t => {
  const { upstream, next, take, ids } = await scene(t, [A, B])
  const [a] = upstream.list()
  a.counters.begin()
  take()
  await next([B, C])
  t.strictSame(take(), ['added c', 'draining a'])
  t.equal(ids(), 'a,b,c')
  t.strictSame(upstream.available.map(({ id }) => id), ['b', 'c'])
  a.settle('successful', 1)
  await settle()
  t.strictSame(take(), ['removed a'])
  t.equal(ids(), 'b,c')
})

t.test('what takes longer than drainTimeout is not waited for', async t => {
  const { upstream, clock, next, take } = await scene(t, [A, B], { discovery: { drainTimeout: 3_500 } as never })
  upstream.list()[0].counters.begin()
  take()
  await next([B])
  clock.advance(3_499)
  await settle()
  t.strictSame(take(), ['draining a'])
  clock.advance(1)
  await settle()
  t.strictSame(take(), ['removed a'])
})

t.test('one that is found again while it drains serves on', async t => {
  const { upstream, next, take, ids } = await scene(t, [A, B])
  const [a] = upstream.list()
  a.counters.begin()
  await next([B])
  t.ok(a.draining)
  take()
  await next([A, B])
  t.notOk(a.draining)
  t.ok(a.available)
  t.strictSame(take(), ['added a'])
  a.settle('successful', 1)
  await settle()
  t.equal(ids(), 'a,b')
  await next([B])
  t.equal(ids(), 'b', 'and can be taken out again')
})

t.test('another URL under the same id takes its place at once, while the old one drains', async t => {
  const { upstream, next, take, ids } = await scene(t, [A, B])
  const [old] = upstream.list()
  old.counters.begin()
  take()
  await next([{ ...A, url: 'http://127.0.0.1:9' }, B])
  t.strictSame(take(), ['added a', 'draining a'])
  t.equal(ids(), 'a,b,a')
  const moved = upstream.get('a')
  t.equal(moved.url.port, '9')
  t.not(moved, old)
  t.strictSame(upstream.available.map(({ url }) => url.port), ['2', '9'])
  t.equal(upstream.breaker.getState('a'), 'closed')
  upstream.setBreaker({ threshold: 2 })
  t.equal(upstream.metrics().backends.a.inFlight, 0, 'numbers are those of the new one')
  old.settle('successful', 1)
  await settle()
  t.strictSame(take(), ['removed a'])
  t.equal(upstream.get('a'), moved)
  await next([{ ...A, url: 'http://127.0.0.1:9', tls: { servername: 'other' } }, B])
  t.not(upstream.get('a'), moved, 'other TLS is another place')
})

t.test('one that moves back while its place is drained gets its place back', async t => {
  const { upstream, next } = await scene(t, [A])
  upstream.list()[0].counters.begin()
  await next([{ ...A, url: 'http://127.0.0.1:9' }])
  await next([A])
  t.equal(upstream.get('a').url.port, '1')
  t.ok(upstream.get('a').available)
  t.equal(upstream.available.length, 1)
})

t.test('a look that fails leaves all as it is', async t => {
  const { next, ids, take, faults } = await scene(t, [A, B])
  take()
  await next(new Error('no answer'))
  await next(new Error('no answer'))
  t.equal(ids(), 'a,b')
  t.strictSame(take(), [])
  t.strictSame(faults, ['no answer'])
})

t.test('so does one that finds nothing, until emptyGrace is over', async t => {
  const { next, ids } = await scene(t, [A, B])
  for (let i = 0; i < 5; i++) {
    await next([])
    t.equal(ids(), 'a,b')
  }
  await next([])
  t.equal(ids(), '')
  await next([A])
  t.equal(ids(), 'a')
})

t.test('and one that is no list of backends', async t => {
  const wrong: [unknown, RegExp][] = [
    [null, /discovery must give an array of backends or an object \{ backends, ttl \}, and has given null/],
    [{ backends: 'http://a' }, /must give an array/],
    [{ backends: [A], ttl: -1 }, /must give a ttl of milliseconds above 0, and has given -1/],
    [[A, { url: 'ftp://x' }], /discovery\[1\]\.url must be/],
    [[A, { ...B, weigth: 1 }], /discovery\[1\].weigth is not an option; did you mean 'weight'/],
    [[A, B, { ...A, url: 'http://127.0.0.1:7' }], /each backend an id of its own, and 'a' is there twice/]
  ]
  for (const [answer, message] of wrong) {
    const { next, ids, faults } = await scene(t, [A, B])
    await next(answer)
    t.equal(ids(), 'a,b')
    t.match(faults, [message])
    t.equal(faults.length, 1)
  }
})

t.test('one backend that cannot be listed does not keep out the others', async t => {
  const { ids, faults, next } = await scene(t, [A, { ...B, healthCheck: { host: 'x' } }, C], { health: true })
  t.equal(ids(), 'a,c')
  t.match(faults, [/health\.host of backend 'b' wants a health\.path/])
  await next([A, B, C])
  t.equal(ids(), 'a,c,b')
})

t.test('what is changed by hand is not changed back', async t => {
  const { upstream, next } = await scene(t, [{ ...A, weight: 5 }, B])
  const [a] = upstream.list()
  upstream.update('a', { weight: 50 })
  await next([{ ...A, weight: 6, priority: 1 }, B])
  t.equal(a.weight, 50)
  t.equal(a.priority, 1, 'other things follow all the same')
  await next([{ ...A, weight: 7 }, B])
  t.equal(a.weight, 50)
  upstream.update('a', { weight: 7 })
  await next([{ ...A, weight: 8 }, B])
  t.equal(a.weight, 8, 'what is as it was said follows again')
})

t.test('one drained by hand stays so, and may be wanted back', async t => {
  const { upstream, next, take } = await scene(t, [A, B])
  const [a] = upstream.list()
  await upstream.drain('a')
  take()
  await next()
  await next([{ ...A, weight: 3 }, B])
  t.notOk(a.isActive)
  t.equal(a.weight, 3)
  t.strictSame(take(), [])
  upstream.update('a', { isActive: true })
  await next()
  t.ok(a.available)
  await upstream.drain('a')
  await next([B])
  t.equal(upstream.list().length, 1, 'one that is not found any more goes')
})

t.test('one removed by hand stays away until it was not found for once', async t => {
  const { upstream, next, ids } = await scene(t, [A, B])
  await upstream.remove('a')
  await next()
  await next([{ ...A, weight: 9 }, B, C])
  await next([{ ...A, url: 'http://127.0.0.1:7' }, B, C])
  t.equal(ids(), 'b,c')
  await next([B, C])
  await next([A, B, C])
  t.equal(ids(), 'b,c,a')
})

t.test('one removed by hand while discovery drains it does not come to life again', async t => {
  const { upstream, next } = await scene(t, [A, B])
  const [a] = upstream.list()
  a.counters.begin()
  await next([B])
  const removed = upstream.remove('a')
  await next([A, B])
  t.ok(a.draining)
  t.not(upstream.get('a'), a, 'what is found is another')
  a.settle('successful', 1)
  await removed
  t.ok(upstream.get('a').available)
})

t.test('one drained by hand, lost and found again is listed anew only when it has gone', async t => {
  for (const found of [A, { ...A, url: 'http://127.0.0.1:9' }]) {
    const { upstream, next, take, ids } = await scene(t, [A, B])
    const [a] = upstream.list()
    a.counters.begin()
    const drained = upstream.drain('a')
    take()
    await next([B])
    await next([found, B])
    await next([found, B])
    t.equal(ids(), 'a,b')
    t.equal(upstream.get('a'), a)
    t.ok(a.draining)
    t.strictSame(upstream.available.map(({ id }) => id), ['b'])
    t.strictSame(take(), [])
    a.settle('successful', 1)
    await drained
    await settle()
    t.strictSame(take(), ['removed a'])
    await next()
    t.equal(ids(), 'b,a')
    t.not(upstream.get('a'), a)
    t.ok(upstream.get('a').available)
    t.strictSame(take(), ['added a'])
  }
})

t.test('so is one that is drained by hand while discovery drains it', async t => {
  const { upstream, next, take } = await scene(t, [A, B])
  const [a] = upstream.list()
  a.counters.begin()
  await next([B])
  const drained = upstream.drain('a')
  take()
  await next([A, B])
  t.equal(upstream.get('a'), a)
  t.ok(a.draining)
  t.strictSame(take(), [])
  a.settle('successful', 1)
  await drained
  await settle()
  await next()
  t.not(upstream.get('a'), a)
  t.strictSame(take(), ['removed a', 'added a'])
})

t.test('one drained by hand, lost and then removed by hand leaves its id to what is found', async t => {
  const { upstream, next } = await scene(t, [A, B])
  const [a] = upstream.list()
  a.counters.begin()
  const drained = upstream.drain('a')
  await next([B])
  const removed = upstream.remove('a')
  // A drain has no say any more in what is being removed.
  upstream.drain('a').catch(() => {})
  await next([A, B])
  t.not(upstream.get('a'), a)
  t.ok(upstream.get('a').available)
  a.settle('successful', 1)
  await Promise.all([drained, removed])
  t.equal(upstream.list().length, 2)
})

t.test('one drained by hand and wanted back is lost and found like any other', async t => {
  const { upstream, next } = await scene(t, [A, B])
  const [a] = upstream.list()
  a.counters.begin()
  const drained = upstream.drain('a')
  upstream.update('a', { isActive: true })
  await drained
  await next([B])
  t.ok(a.draining)
  await next([A, B])
  t.equal(upstream.get('a'), a)
  t.ok(a.available, 'it serves on')
})

t.test('one drained by hand and lost, which is wanted back while it drains, serves on when it is found again', async t => {
  const { upstream, next } = await scene(t, [A, B])
  const [a] = upstream.list()
  a.counters.begin()
  upstream.drain('a').catch(() => {})
  await next([B])
  upstream.update('a', { isActive: true })
  t.ok(a.draining, 'discovery still takes it out')
  await next([A, B])
  t.equal(upstream.get('a'), a)
  t.ok(a.available)
})

t.test('one added by hand keeps its id from what is found', async t => {
  const { upstream, next, ids, faults } = await scene(t, [B], { backends: [A] })
  const [a] = upstream.list()
  await next([{ ...A, url: 'http://127.0.0.1:7' }, B])
  t.equal(ids(), 'a,b')
  t.equal(upstream.get('a'), a)
  await next([B])
  t.equal(ids(), 'a,b', 'nor is it taken out')
  t.strictSame(faults, [])
  t.throws(() => upstream.add(B), { code: 'FST_ROCKSTAR_DUPLICATE_BACKEND' })
})

t.test('the end leaves no timer, also in the middle of a look', async t => {
  const { upstream, clock } = await scene(t, [A])
  upstream.stop()
  const left = clock.timers
  clock.advance(100_000)
  t.equal(left, 0)
})

t.test('one in whose place another has come takes no circuit with it when it goes, and goes with its upstream', async t => {
  const { upstream, next } = await scene(t, [A], { breaker: false })
  const old = upstream.get('a')
  old.counters.begin()
  await next([{ ...A, url: 'http://127.0.0.1:9' }])
  t.equal(upstream.list().length, 2)
  old.settle('successful', 1)
  await settle()
  await settle()
  t.equal(upstream.list().length, 1)
  t.equal(upstream.breaker.getState('a'), 'closed')
  const second = upstream.get('a')
  second.counters.begin()
  await next([{ ...A, url: 'http://127.0.0.1:10' }])
  let gone = false
  const removal = upstream.removeAll({ drain: { timeout: 30_000 } }).then(() => { gone = true })
  await settle()
  await settle()
  t.equal(gone, false, 'the one before it has something under way')
  second.settle('successful', 1)
  await removal
  t.strictSame(upstream.list(), [])
})
