import t from 'tap'
import type { Backend } from '../../../lib/backend.ts'
import { RoundRobin } from '../../../lib/balancer/index.ts'
import { explain, Selector, type SubsetOptions } from '../../../lib/selection/index.ts'
import type { AffinityOptions, Explanation, LoadBalancer } from '../../../types/index.ts'
import { FakeClock } from '../../helpers/clock.ts'
import type { Asked } from '../balancer/suite.ts'
import { backendOf, backendsOf, Plain, selectionOf, turns, type Given } from './given.ts'

const V1 = { metadata: { version: 'v1' } }
const V2 = { metadata: { version: 'v2' } }

interface Setup {
  balancer?: LoadBalancer
  affinity?: Partial<AffinityOptions>
  zone?: string
  random?: () => number
}

function make (given: Record<string, Given>, { balancer = new RoundRobin(), affinity, zone, random = turns(0) }: Setup = {}) {
  const selector = new Selector({
    name: 'default',
    balancer,
    affinity: affinity === undefined ? false : { secret: 'a secret of some length', cookie: 'stick', path: '/', secure: false, httpOnly: true, sameSite: 'lax', ...affinity },
    panicThreshold: 0.5,
    zone,
    clock: new FakeClock(),
    random
  })
  const backends = backendsOf(given)
  selector.rebuild(backends)
  const ask = (asked?: Asked, options: SubsetOptions = {}): Promise<Explanation> => explain(selector, 'default', backends, selectionOf(asked), selector.subsetOf(options, false))
  const cookie = (backend: Backend): Asked => ({ headers: { cookie: selector.affinity?.cookieFor(backend, selectionOf()).split(';')[0] as string } })
  return { selector, backends, ask, cookie }
}

/** Of each backend: considered or not, and what speaks against it. */
const verdicts = ({ backends }: Explanation) => Object.fromEntries(backends.map(({ id, considered, reasons }) => [id, `${considered ? 'yes' : 'no'}${reasons.length > 0 ? `: ${reasons.join(', ')}` : ''}`]))

t.test('it tells who would be chosen, among whom, and why', async t => {
  const { ask, backends: [a] } = make({ a: { weight: 3, zone: 'x' }, b: {} })
  t.strictSame(await ask(), {
    upstream: 'default',
    balancer: 'round-robin',
    chosen: a,
    because: 'balancer',
    why: "'round-robin' chose it of 2",
    match: undefined,
    panic: false,
    groups: [{ priority: 0, zone: undefined, share: 1, panic: false, backends: ['a', 'b'] }],
    backends: [
      { id: 'a', available: true, considered: true, reasons: [], weight: 3, effectiveWeight: 3, priority: 0, zone: 'x', inFlight: 0 },
      { id: 'b', available: true, considered: true, reasons: [], weight: 1, effectiveWeight: 1, priority: 0, zone: undefined, inFlight: 0 }
    ]
  })
})

t.test('it takes no turn', async t => {
  const { ask, selector } = make({ a: {}, b: {}, c: { weight: 2 } })
  const next = () => (selector.select(selectionOf(), null) as Backend).id
  for (let i = 0; i < 12; i++) {
    const told = [(await ask()).chosen?.id, (await ask()).chosen?.id]
    const chosen = next()
    t.strictSame(told, [chosen, chosen])
  }
})

t.test('it counts nothing', async t => {
  const { ask, backends: [a] } = make({ a: {} })
  await ask()
  t.equal(a.chosen.balancer, 0)
  t.equal(a.inFlight, 0)
})

t.test('it says what keeps each backend from being chosen', async t => {
  const { ask } = make({
    a: {}, b: { isActive: false }, c: { draining: true }, d: { weight: 0 }, e: { healthy: false }, f: { ejected: true }, g: { isActive: false, weight: 0, healthy: false, ejected: true }, h: {}, i: {}
  })
  t.strictSame(verdicts(await ask()), {
    a: 'yes', b: 'no: inactive', c: 'no: draining', d: 'no: weight 0', e: 'no: unhealthy', f: 'no: ejected', g: 'no: inactive, weight 0, unhealthy, ejected', h: 'yes', i: 'yes'
  })
})

t.test('one that is the only one is that', async t => {
  t.match(await make({ a: {}, b: { isActive: false } }).ask(), { chosen: { id: 'a' }, because: 'balancer', why: 'it is the only one available' })
})

t.test('without any it says so', async t => {
  t.match(await make({}).ask(), { chosen: undefined, because: undefined, why: 'no backend is available' })
  t.match(await make({ a: { isActive: false } }).ask(), { chosen: undefined, why: 'no backend is available', panic: false })
})

t.test('priorities and zones are told', async t => {
  const backends = { a: {}, b: { healthy: false }, p: { priority: 1 }, q: { priority: 2 } }
  const told = await make(backends, { random: turns(0.9) }).ask()
  t.match(told, { chosen: { id: 'p' }, because: 'priority', why: /later priority/ })
  t.strictSame(told.groups.map(({ priority, share, backends }) => [priority, Math.round(share * 100), backends]), [[0, 70, ['a']], [1, 30, ['p']]])
  t.strictSame(verdicts(told), { a: 'yes', b: 'no: unhealthy', p: 'yes', q: 'no' }, 'a priority whose turn has not come is not considered')
  const zones = await make({ a: { zone: 'near' }, b: { zone: 'near', healthy: false }, c: { zone: 'far' } }, { zone: 'near', random: turns(0.9) }).ask()
  t.match(zones, { chosen: { id: 'c' }, because: 'zone', why: /other zones/, groups: [{ zone: 'own', backends: ['a'] }, { zone: 'other', backends: ['c'] }] })
})

t.test('panic is told', async t => {
  const told = await make({ a: {}, b: { healthy: false }, c: { ejected: true } }).ask()
  t.match(told, { because: 'panic', why: /too few/, panic: true, groups: [{ panic: true, backends: ['a', 'b', 'c'] }] })
  t.strictSame(verdicts(told), { a: 'yes', b: 'yes: unhealthy', c: 'yes: ejected' })
})

t.test('what was asked for is told, and who is not that', async t => {
  const { ask } = make({ a: V1, b: V2, c: { ...V2, isActive: false } })
  const told = await ask({}, { match: { version: 'v2' } })
  t.match(told, { chosen: { id: 'b' }, because: 'balancer', match: { version: 'v2' } })
  t.strictSame(verdicts(told), { a: 'no: no match', b: 'yes', c: 'no: inactive' })
  const none = await ask({}, { match: { version: 'v3' } })
  t.match(none, { chosen: undefined, because: undefined, why: 'no available backend matches', match: { version: 'v3' } })
  t.strictSame(verdicts(none), { a: 'no: no match', b: 'no: no match', c: 'no: inactive, no match' })
})

t.test('of a split the part that the request is for is told', async t => {
  const { ask } = make({ a: V1, b: V2 })
  const split = [{ match: { version: 'v1' }, weight: 1 }, { match: { version: 'v2' }, when: { header: 'x-canary' } }]
  t.match(await ask({}, { split }), { chosen: { id: 'a' }, match: { version: 'v1' } })
  t.match(await ask({ headers: { 'x-canary': '1' } }, { split }), { chosen: { id: 'b' }, match: { version: 'v2' } })
})

t.test('a part that asks for more than its match does not hide what that asks for', async t => {
  const { ask } = make({ a: V1, b: V2 })
  const told = await ask({}, { match: { version: 'v2' }, split: [{ match: { version: ['v1', 'v2'] } }] })
  t.match(told, { chosen: { id: 'b' } })
  t.strictSame(verdicts(told), { a: 'no: no match', b: 'yes' })
})

t.test('where no part has a weight nobody is considered', async t => {
  const told = await make({ a: V1 }).ask({}, { split: [{ match: { version: 'v1' }, weight: 0 }, { match: { version: 'v2' }, weight: 0 }] })
  t.match(told, { chosen: undefined, why: 'no available backend matches' })
  t.strictSame(told.groups, [])
  t.equal(told.backends[0].considered, false)
})

t.test('a fallback is told', async t => {
  const told = await make({ a: V1, b: V2 }).ask({}, { match: { version: 'v3' }, fallback: 'any' })
  t.match(told, { chosen: { id: 'a' }, because: 'fallback', why: /any will do/, groups: [{ backends: ['a', 'b'] }] })
  t.ok(told.backends.every(({ considered }) => considered))
})

t.test('a client\'s cookie is told', async t => {
  const { ask, cookie, backends: [, b] } = make({ a: {}, b: {} }, { affinity: {} })
  t.match(await ask(cookie(b)), { chosen: { id: 'b' }, because: 'affinity', why: /cookie/ })
  t.match(await ask(), { chosen: { id: 'a' }, because: 'balancer' })
})

t.test('who is on his way out and kept by a cookie was considered', async t => {
  const { ask, cookie, backends: [, b] } = make({ a: {}, b: { draining: true } }, { affinity: {} })
  const told = await ask(cookie(b))
  t.match(told, { chosen: { id: 'b' }, because: 'affinity' })
  t.equal(told.backends[1].considered, true)
  t.equal((await ask()).backends[1].considered, false)
})

t.test('a cookie whose backend is not available is told where that is the end', async t => {
  const { ask, cookie, backends: [, b] } = make({ a: {}, b: { healthy: false } }, { affinity: { onUnavailable: 'fail' } })
  t.match(await ask(cookie(b)), { chosen: undefined, why: "the client's cookie names 'b', which cannot be chosen" })
  const rebalanced = make({ a: {}, b: { healthy: false } }, { affinity: {} })
  t.match(await rebalanced.ask(rebalanced.cookie(rebalanced.backends[1])), { chosen: { id: 'a' }, because: 'balancer' })
})

t.test('a balancer that cannot be asked without choosing is not asked', async t => {
  const plain = new Plain()
  t.match(await make({ a: {} }, { balancer: plain }).ask(), { balancer: 'plain', chosen: undefined, because: undefined, why: "only choosing would tell: the balancer 'plain' has no peek()" })
  t.equal(plain.asked.length, 0)
})

t.test('an async one is waited for; one that throws, rejects or chooses nothing is no fault of the caller\'s', async t => {
  const told = (peek: LoadBalancer['peek']) => make({ a: {}, b: {} }, { balancer: { type: 'mine', select: () => undefined, peek } }).ask()
  t.match(await told(async available => available[1]), { chosen: { id: 'b' }, because: 'balancer', why: "'mine' chose it of 2" })
  t.match(await told(() => undefined), { chosen: undefined, because: undefined, why: 'the load balancer chose none' })
  t.match(await told(() => { throw new Error('boom') }), { chosen: undefined, why: 'the load balancer threw: Error: boom' })
  t.match(await told(async () => { throw new Error('boom') }), { chosen: undefined, why: 'the load balancer threw: Error: boom' })
})

t.test('what is no backend of the upstream\'s is not told as chosen: sending would fail', async t => {
  for (const wrong of [null, 'a', { id: 'a' }, backendOf('a')]) {
    const told = await make({ a: {} }, { balancer: { type: 'mine', select: () => undefined, peek: () => wrong as Backend } }).ask()
    t.equal(told.chosen, undefined)
    t.equal(told.because, undefined)
  }
})
