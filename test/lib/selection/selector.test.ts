import t from 'tap'
import type { Backend } from '../../../lib/backend.ts'
import { RoundRobin } from '../../../lib/balancer/index.ts'
import { Selector, type SubsetOptions } from '../../../lib/selection/index.ts'
import type { AffinityOptions, Backend as PublicBackend, LoadBalancer } from '../../../types/index.ts'
import { FakeClock } from '../../helpers/clock.ts'
import { seeded } from '../../helpers/random.ts'
import type { Asked } from '../balancer/suite.ts'
import { backendsOf, idsOf, Plain, selectionOf, turns, type Given } from './given.ts'

const V1 = { metadata: { version: 'v1' } }
const V2 = { metadata: { version: 'v2' } }

interface Setup {
  balancer?: LoadBalancer
  affinity?: Partial<AffinityOptions>
  zone?: string
  panicThreshold?: number
  random?: () => number
}

function make (given: Record<string, Given>, { balancer = new RoundRobin(), affinity, zone, panicThreshold = 0.5, random = seeded(1) }: Setup = {}): { selector: Selector, backends: Record<string, Backend>, rebuild: () => void } {
  const selector = new Selector({
    name: 'default',
    balancer,
    affinity: affinity === undefined ? false : { secret: 'a secret of some length', cookie: 'stick', path: '/', secure: false, httpOnly: true, sameSite: 'lax', ...affinity },
    panicThreshold,
    zone,
    clock: new FakeClock(),
    random
  })
  const listed = backendsOf(given)
  selector.rebuild(listed)
  return { selector, backends: Object.fromEntries(listed.map(backend => [backend.id, backend])), rebuild: () => selector.rebuild(listed) }
}

/** Chooses once; the backend's id and why. */
function choose (selector: Selector, asked?: Asked, options: SubsetOptions = {}): string {
  const selection = selectionOf(asked)
  const chosen = selector.select(selection, selector.subsetOf(options, false)) as PublicBackend | undefined
  return chosen === undefined ? 'none' : `${chosen.id} ${selection.because}`
}

/** A request of a client that has been served by a backend, when it asked for a subset or for none. */
function returning (selector: Selector, backend: Backend, headers = {}, subset: SubsetOptions = {}): Asked {
  return { headers: { cookie: selector.affinity?.cookieFor(backend, selectionOf(), selector.subsetOf(subset, false)).split(';')[0] as string, ...headers } }
}

t.test('what asks for nothing has no subset', t => {
  const { selector } = make({ a: {} })
  t.equal(selector.subsetOf({}, false), null)
  t.equal(selector.subsetOf({ fallback: 'any', splitKey: 'ip' }, true), null)
  t.end()
})

t.test('what asks for something gets that', t => {
  const { selector } = make({ a: V1, b: V2, c: V2 })
  t.equal(choose(selector, {}, { match: { version: 'v2' } }), 'b balancer')
  t.equal(choose(selector, {}, { match: { version: 'v2' } }), 'c balancer')
  t.equal(choose(selector, {}, { match: { version: ['v1', 'v2'] } }), 'a balancer')
  t.equal(choose(selector), 'a balancer')
  t.end()
})

t.test('where nobody matches any will do, or none', t => {
  const { selector } = make({ a: V1, b: V2 })
  t.equal(choose(selector, {}, { match: { version: 'v3' } }), 'none')
  t.equal(choose(selector, {}, { match: { version: 'v3' }, fallback: 'none' }), 'none')
  t.equal(choose(selector, {}, { match: { version: 'v3' }, fallback: 'any' }), 'a fallback')
  t.equal(choose(selector, {}, { split: [{ match: { version: 'v3' } }], fallback: 'any' }), 'b fallback')
  t.equal(choose(selector, {}, { split: [{ match: { version: 'v1' }, weight: 0 }, { match: { version: 'v2' }, weight: 0 }] }), 'none', 'nor is a part without a weight')
  t.equal(choose(selector, {}, { split: [{ match: { version: 'v1' }, weight: 0 }], fallback: 'any' }), 'a fallback')
  t.end()
})

t.test('where nobody who matches is available any will do, where that is said', t => {
  for (const [what, given] of Object.entries({ inactive: { isActive: false }, draining: { draining: true }, 'weight 0': { weight: 0 }, unhealthy: { healthy: false }, ejected: { ejected: true } })) {
    const { selector } = make({ a: V1, b: { ...V2, ...given } })
    t.equal(choose(selector, {}, { match: { version: 'v2' }, fallback: 'any' }), 'a fallback', what)
  }
  t.end()
})

t.test('too few of those that match are panic where no fallback is allowed', t => {
  const { selector } = make({ a: V1, b: { ...V2, healthy: false } })
  t.equal(choose(selector, {}, { match: { version: 'v2' } }), 'b panic')
  t.equal(selector.whole.panic, false, 'which is not one of the whole')
  t.end()
})

t.test('a fallback to an upstream in panic is panic', t => {
  const { selector } = make({ a: { healthy: false }, b: { healthy: false } })
  t.equal(choose(selector, {}, { match: { version: 'v3' }, fallback: 'any' }), 'a panic')
  t.end()
})

t.test('subsets have priorities of their own', t => {
  const { selector } = make({ a: V1, b: { ...V2, healthy: false }, c: { ...V2, priority: 1 } })
  t.equal(choose(selector, {}, { match: { version: 'v2' } }), 'c priority')
  t.end()
})

t.test('subsets follow what changes', t => {
  const { selector, backends, rebuild } = make({ a: V1, b: V2 })
  const subset = selector.subsetOf({ match: { version: 'v2' } }, true)
  const next = () => (selector.select(selectionOf(), subset) as PublicBackend | undefined)?.id
  t.equal(next(), 'b')
  backends.b.isActive = false
  rebuild()
  t.equal(next(), undefined)
  backends.a.metadata = { version: 'v2' }
  rebuild()
  t.equal(next(), 'a')
  t.end()
})

// Affinity

t.test('a client stays with the backend that its cookie names, and takes no turn', t => {
  const { selector, backends } = make({ a: {}, b: {}, c: {} }, { affinity: {} })
  t.equal(choose(selector), 'a balancer')
  for (let i = 0; i < 5; i++) t.equal(choose(selector, returning(selector, backends.c)), 'c affinity')
  t.equal(choose(selector), 'b balancer')
  t.end()
})

t.test('the balancer of the group that it is in hears how it went', t => {
  const { selector, backends } = make({ a: {}, b: { healthy: false }, p: { priority: 1 } }, { affinity: {} })
  const selection = selectionOf(returning(selector, backends.p))
  selector.select(selection, null)
  t.equal(selection.balancer, selector.whole.groups[1].balancer)
  t.not(selection.balancer, selector.balancer)
  t.end()
})

t.test('once its backend has been tried a request goes to another', t => {
  const { selector, backends } = make({ a: {}, b: {} }, { affinity: {} })
  t.equal(choose(selector, { ...returning(selector, backends.b), tried: [backends.b] }), 'a balancer')
  t.end()
})

t.test('a client whose backend is not available goes to another, or nowhere, as is said', t => {
  for (const [what, given] of Object.entries({ inactive: { isActive: false }, 'weight 0': { weight: 0 }, unhealthy: { healthy: false }, ejected: { ejected: true }, 'draining and unhealthy': { draining: true, healthy: false } })) {
    const rebalance = make({ a: {}, b: {}, c: given }, { affinity: {} })
    t.equal(choose(rebalance.selector, returning(rebalance.selector, rebalance.backends.c)), 'a balancer', what)
    const fail = make({ a: {}, b: {}, c: given }, { affinity: { onUnavailable: 'fail' } })
    t.equal(choose(fail.selector, returning(fail.selector, fail.backends.c)), 'none', what)
    t.equal(choose(fail.selector), 'a balancer', 'others are served')
  }
  t.end()
})

t.test('one on its way out keeps its clients and takes no new ones', t => {
  const { selector, backends } = make({ a: {}, b: { draining: true } }, { affinity: {} })
  t.equal(choose(selector, returning(selector, backends.b)), 'b affinity')
  for (let i = 0; i < 4; i++) t.equal(choose(selector), 'a balancer')
  t.end()
})

t.test('in panic a client stays with an unhealthy one', t => {
  const { selector, backends } = make({ a: {}, b: { healthy: false }, c: { healthy: false } }, { affinity: {} })
  t.equal(choose(selector, returning(selector, backends.c)), 'c affinity')
  t.end()
})

for (const onUnavailable of ['rebalance', 'fail'] as const) {
  t.test(`a client stays with an available one of a later priority or another zone when the first can carry all again (${onUnavailable})`, t => {
    const { selector, backends, rebuild } = make({ a: { healthy: false, zone: 'near' }, far: { zone: 'far' }, p: { priority: 1, zone: 'near' } }, { affinity: { onUnavailable }, zone: 'near' })
    const [atFar, atP] = [returning(selector, backends.far), returning(selector, backends.p)]
    t.equal(choose(selector, atFar), 'far affinity')
    t.equal(choose(selector, atP), 'p affinity')
    backends.a.healthy = true
    rebuild()
    t.equal(choose(selector), 'a balancer')
    t.equal(choose(selector, atFar), 'far affinity')
    t.equal(choose(selector, atP), 'p affinity')
    t.end()
  })
}

for (const onUnavailable of ['rebalance', 'fail'] as const) {
  t.test(`a client whose backend is not what is asked for goes to one that is: that is nobody's fault (${onUnavailable})`, t => {
    const { selector, backends } = make({ a: V1, b: V2 }, { affinity: { onUnavailable } })
    const [v1, v2] = [{ match: { version: 'v1' } }, { match: { version: 'v2' } }]
    t.equal(choose(selector, returning(selector, backends.a, {}, v1), v1), 'a affinity')
    t.equal(choose(selector, returning(selector, backends.a, {}, v2), v2), 'b balancer', 'it was of it once')
    t.equal(choose(selector, returning(selector, backends.a, {}, v1), v2), 'b balancer', 'the cookie of another subset is none')
    const split = [{ match: { version: 'v1' }, weight: 1 }, { match: { version: 'v2' }, when: { header: 'x-canary' } }]
    t.equal(choose(selector, returning(selector, backends.a, { 'x-canary': '1' }, { split }), { split }), 'b balancer')
    t.equal(choose(selector, returning(selector, backends.b, {}, { split }), { split }), 'a balancer', 'and back')
    t.end()
  })
}

t.test('a cookie goes before chance where a split is by weight, as long as its part has any', t => {
  const { selector, backends } = make({ a: V1, b: V2 }, { affinity: {}, random: turns(0) })
  const split = (weight: number) => [{ match: { version: 'v1' }, weight: 100 }, { match: { version: 'v2' }, weight }]
  t.equal(choose(selector, {}, { split: split(5) }), 'a balancer')
  t.equal(choose(selector, returning(selector, backends.b, {}, { split: split(5) }), { split: split(5) }), 'b affinity')
  t.equal(choose(selector, returning(selector, backends.b, {}, { split: split(5) }), { split: split(0) }), 'a balancer', 'also when the weights have changed')
  t.end()
})

// Changing the balancer

t.test('a new balancer serves from the next choice on, in subsets too', t => {
  const { selector } = make({ a: V1, b: V1, c: V2, d: V2 })
  const subset = selector.subsetOf({ match: { version: 'v2' } }, true)
  selector.select(selectionOf(), subset)
  const last = new Plain()
  last.choose = available => available.at(-1)
  selector.setBalancer(last)
  t.equal(selector.balancer, last)
  t.equal(choose(selector), 'd balancer')
  t.equal((selector.select(selectionOf(), subset) as PublicBackend).id, 'd')
  t.strictSame(last.asked.map(idsOf), ['a b c d', 'c d'])
  selector.setBalancer(new RoundRobin())
  t.equal(choose(selector), 'a balancer')
  t.equal((selector.select(selectionOf(), subset) as PublicBackend).id, 'c')
  t.end()
})

t.test('it serves all groups: of those before it none goes on', t => {
  const { selector } = make({ a: {}, b: { healthy: false }, p: { priority: 1 } }, { random: turns(0.1, 0.9) })
  const old = selector.whole.groups.map(({ balancer }) => balancer)
  const next = new RoundRobin()
  selector.setBalancer(next)
  const now = selector.whole.groups.map(({ balancer }) => balancer)
  t.equal(now[0], next)
  t.not(now[1], old[1])
  const plain = new Plain()
  selector.setBalancer(plain)
  t.equal(choose(selector), 'a balancer')
  t.equal(choose(selector), 'p priority')
  t.strictSame(plain.asked.map(idsOf), ['a', 'p'])
  t.end()
})

t.test('one that throws when backends change is asked about those that are there all the same, in subsets too', t => {
  for (const forks of [false, true]) {
    const { selector, backends, rebuild } = make({ a: V1, b: V1, c: V2 })
    const asked: string[] = []
    let throws = false
    const faulty: LoadBalancer = {
      type: 'faulty',
      select (available) {
        asked.push(idsOf(available))
        return available[0]
      },
      rebuild () { if (throws) throw new Error('no') },
      ...forks ? { fork: () => faulty } : {}
    }
    selector.setBalancer(faulty)
    const subset = selector.subsetOf({ match: { version: 'v1' } }, true)
    throws = true
    backends.a.isActive = false
    t.throws(rebuild, { message: 'no' })
    selector.select(selectionOf(), null)
    selector.select(selectionOf(), subset)
    t.strictSame(asked, ['b c', 'b'])
  }
  t.end()
})

t.test('when a new balancer throws the old one stays', t => {
  const { selector } = make({ a: {}, b: {} })
  const { balancer } = selector
  t.equal(choose(selector), 'a balancer')
  t.throws(() => selector.setBalancer({ type: 'bad', select: available => available[0], rebuild () { throw new Error('no') } }), { message: 'no' })
  t.equal(selector.balancer, balancer)
  t.equal(choose(selector), 'b balancer', 'with its turn')
  t.end()
})
