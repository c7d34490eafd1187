import t from 'tap'
import { RoundRobin } from '../../../lib/balancer/index.ts'
import { Subsets } from '../../../lib/selection/subsets.ts'
import { seeded } from '../../helpers/random.ts'
import { backendsOf, idsOf, selectionOf } from './given.ts'

const V1 = { metadata: { version: 'v1' } }
const V2 = { metadata: { version: 'v2' } }

function make (): Subsets {
  return new Subsets({ zone: undefined, panicThreshold: 0.5, random: seeded(1), balancer: new RoundRobin() })
}

t.test('the backends that match are ready when they are asked for', t => {
  const subsets = make()
  subsets.rebuild(backendsOf({ a: V1, b: V2, c: V2, d: {} }))
  t.equal(idsOf(subsets.candidatesFor([{ version: 'v2' }], false).members.keys()), 'b c')
  t.equal(idsOf(subsets.candidatesFor([{ version: 'v3' }], false).members.keys()), '')
  t.equal(idsOf(subsets.candidatesFor([{}], false).members.keys()), 'a b c d')
  t.end()
})

t.test('they are prepared once, and anew when something changes', t => {
  const subsets = make()
  let reads = 0
  const backends = backendsOf({ a: V1, b: V2, c: V2 })
  for (const backend of backends) {
    const { metadata } = backend
    Object.defineProperty(backend, 'metadata', {
      get () {
        reads++
        return metadata
      }
    })
  }
  subsets.rebuild(backends)
  const candidates = subsets.candidatesFor([{ version: 'v2' }], false)
  const [group] = candidates.groups
  const before = reads
  for (let i = 0; i < 100; i++) t.equal(subsets.candidatesFor([{ version: 'v2' }], i % 2 === 0), candidates)
  t.equal(reads, before, 'asking again looks at no metadata')
  t.equal(candidates.groups[0], group)
  backends[1].draining = true
  subsets.rebuild(backends)
  t.ok(reads > before)
  t.equal(idsOf(candidates.members.keys()), 'c', 'who holds them sees the change')
  t.end()
})

t.test('those of calls are made anew when they are asked for again, and not before', t => {
  let rebuilds = 0
  class Counting extends RoundRobin {
    override rebuild (...given: Parameters<RoundRobin['rebuild']>): void {
      rebuilds++
      super.rebuild(...given)
    }
  }
  const subsets = new Subsets({ zone: undefined, panicThreshold: 0.5, random: seeded(1), balancer: new Counting() })
  const backends = backendsOf({ a: V1, b: V2, c: V2 })
  subsets.rebuild(backends)
  for (let n = 0; n < 100; n++) subsets.candidatesFor([{ version: ['v2', n] }], false)
  subsets.candidatesFor([{ version: 'v1' }], true)
  t.equal(rebuilds, 101)
  backends[1].draining = true
  for (let i = 0; i < 10; i++) subsets.rebuild(backends)
  t.equal(rebuilds, 111, 'those of routes are made each time')
  for (let i = 0; i < 10; i++) t.equal(idsOf(subsets.candidatesFor([{ version: ['v2', 7] }], false).members.keys()), 'c')
  t.equal(rebuilds, 112)
  t.equal(idsOf(subsets.candidatesFor([{ version: ['v2', 8] }], true).members.keys()), 'c', 'a route that comes to use one sees it as well')
  subsets.rebuild(backendsOf({ a: V1, d: V2 }))
  t.equal(idsOf(subsets.candidatesFor([{ version: ['v2', 8] }], false).members.keys()), 'd')
  t.end()
})

t.test('the order of names makes no difference', t => {
  const subsets = make()
  t.equal(subsets.candidatesFor([{ a: 1, b: 2 }], false), subsets.candidatesFor([{ b: 2, a: 1 }], false))
  t.end()
})

t.test('more than 256 of calls push out the one that was used longest ago', t => {
  const subsets = make()
  subsets.rebuild(backendsOf({ a: V1 }))
  const first = subsets.candidatesFor([{ n: 0 }], false)
  const second = subsets.candidatesFor([{ n: 1 }], false)
  for (let n = 2; n < 256; n++) subsets.candidatesFor([{ n }], false)
  t.equal(subsets.candidatesFor([{ n: 0 }], false), first, '256 are kept')
  subsets.candidatesFor([{ n: 256 }], false)
  t.equal(subsets.candidatesFor([{ n: 0 }], false), first, 'the one just used stays')
  t.not(subsets.candidatesFor([{ n: 1 }], false), second, 'the other has gone, and is made again')
  t.end()
})

t.test('those of routes are never pushed out, and are shared with calls', t => {
  const subsets = make()
  const backends = backendsOf({ a: V1, b: V2 })
  subsets.rebuild(backends)
  const passing = subsets.candidatesFor([{ version: 'v1' }], false)
  const lasting = subsets.candidatesFor([{ version: 'v1' }], true)
  t.equal(lasting, passing)
  const others = Array.from({ length: 300 }, (_, n) => subsets.candidatesFor([{ n }], true))
  for (let n = 1000; n < 2000; n++) subsets.candidatesFor([{ n }], false)
  t.equal(subsets.candidatesFor([{ version: 'v1' }], false), lasting)
  t.ok(others.every((candidates, n) => subsets.candidatesFor([{ n }], false) === candidates))
  backends[0].isActive = false
  subsets.rebuild(backends)
  t.equal(idsOf(lasting.members.keys()), '')
  t.end()
})

t.test('each has turns of its own, which go on', t => {
  const subsets = make()
  const backends = backendsOf({ a: V1, b: V1, c: V2, d: V2 })
  subsets.rebuild(backends)
  const next = (version: string) => (subsets.candidatesFor([{ version }], false).select(selectionOf()) as { id: string }).id
  t.equal([next('v1'), next('v2'), next('v1'), next('v2')].join(''), 'acbd')
  t.equal(next('v1'), 'a')
  subsets.rebuild(backends)
  t.equal(next('v1'), 'b')
  t.end()
})

t.test('with a new balancer those of routes stay and forget, those of calls go', t => {
  const policy = { zone: undefined, panicThreshold: 0.5, random: seeded(1), balancer: new RoundRobin() }
  const subsets = new Subsets(policy)
  const backends = backendsOf({ a: V1, b: V2 })
  subsets.rebuild(backends)
  const lasting = subsets.candidatesFor([{ version: 'v1' }], true)
  const passing = subsets.candidatesFor([{ version: 'v2' }], false)
  const [{ balancer }] = lasting.groups
  policy.balancer = new RoundRobin()
  subsets.forget()
  subsets.rebuild(backends)
  t.equal(subsets.candidatesFor([{ version: 'v1' }], false), lasting)
  t.not(lasting.groups[0].balancer, balancer)
  t.not(subsets.candidatesFor([{ version: 'v2' }], false), passing)
  t.end()
})
