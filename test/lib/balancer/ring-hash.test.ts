import t from 'tap'
import type { Backend } from '../../../lib/backend.ts'
import { hashReady, RingHash } from '../../../lib/balancer/index.ts'
import { combine } from '../../../lib/balancer/hash.ts'
import { Ring } from '../../../lib/balancer/ring.ts'
import type { RingHashOptions } from '../../../types/index.ts'
import { seeded } from '../../helpers/random.ts'
import { backendsOf, equalBackends, suite } from './suite.ts'

await hashReady

t.test('ring-hash', t => {
  suite(t, { type: 'ring-hash' }, 0.08)
  t.end()
})

t.test('ring-hash as plain ketama, with a small ring', t => {
  suite(t, { type: 'ring-hash', probes: 1, points: 1000, maxRingSize: 20_000 }, 0.15)
  t.end()
})

/** Shows where hashes map to. */
class OpenRing extends RingHash {
  constructor (options: Partial<RingHashOptions>, available: readonly Backend[]) {
    super(options)
    this.rebuild(available)
  }

  home (hash: number): number {
    return this.pick(hash)
  }
}

/** How far the share of each backend is from the one it should have, over places that lie evenly on the ring. */
function deviations (ring: OpenRing, weights: readonly number[], places: number): number[] {
  const counts = new Float64Array(weights.length)
  const total = weights.reduce((sum, weight) => sum + weight, 0)
  for (let i = 0; i < places; i++) counts[ring.home(Math.imul(i, 0x9e3779b1))]++
  return weights.map((weight, i) => counts[i] / (places * weight / total) - 1)
}

const worst = (values: number[]) => Math.max(...values.map(Math.abs))

t.test('with 100 backends no share is further than 5 % from the mean', t => {
  for (const id of [(i: number) => `backend-${i}`, (i: number) => `10.0.0.${i}:8080`, (i: number) => `http://app-${i}.internal`]) {
    const found = worst(deviations(new OpenRing({}, equalBackends(100, id)), Array.from({ length: 100 }, () => 1), 1_000_000))
    t.ok(found < 0.05, id(7), { found })
  }
  t.end()
})

t.test('with one probe it is a plain ring: points alone even it', t => {
  const weights = Array.from({ length: 100 }, () => 1)
  const plain = worst(deviations(new OpenRing({ probes: 1 }, backendsOf(weights)), weights, 200_000))
  t.ok(plain > 0.1 && plain < 0.35, '8 % of standard deviation, and the worst of a hundred', { plain })
  const many = worst(deviations(new OpenRing({ probes: 1, points: 5000 }, backendsOf(weights)), weights, 500_000))
  t.ok(many < 0.06, '5000 points are as even as 160 with all probes', { many })
  t.end()
})

t.test('a hundred thousand weights, whole or not, fit a ring of bounded size and keep their proportions', t => {
  for (const scale of [0.001, 1, 65_535 / 4]) {
    const weights = [1, 2, 3, 4].map(weight => weight * scale)
    for (const options of [{}, { maxRingSize: 2048 }, { minRingSize: 3000 }]) {
      const found = worst(deviations(new OpenRing(options, backendsOf(weights)), weights, 100_000))
      t.ok(found < 0.15, `weights times ${scale}, ${JSON.stringify(options)}`, { found })
    }
  }
  t.end()
})

// The ring itself, seen from outside: what is nearest to a place.

interface Member {
  first: number
  second: number
  count: number
}

/** The owners of the first points after many places, as the members' numbers. */
function owners (ring: Ring, members: readonly Member[], places = 1500): number[] {
  return Array.from({ length: places }, (_, i) => members[ring.nearest(Math.imul(i, 0x9e3779b1), 1, 1)].first)
}

function rebuild (ring: Ring, members: readonly Member[], old: readonly Member[]): void {
  ring.rebuild(
    { first: Uint32Array.from(members, ({ first }) => first), second: Uint32Array.from(members, ({ second }) => second) },
    Uint32Array.from(members, ({ count }) => count),
    Int32Array.from(members, member => old.findIndex(({ first }) => first === member.first))
  )
}

t.test('a ring that has been changed many times is the same as a new one', t => {
  const random = seeded(11)
  let members: Member[] = []
  const ring = new Ring()
  for (let change = 0; change < 40; change++) {
    const old = members
    members = members.filter(() => random() < 0.9).map(member => random() < 0.1 ? { ...member, count: 1 + Math.floor(random() * 300) } : member)
    if (random() < 0.3) members.reverse()
    for (let i = 0; i < 3; i++) members.splice(Math.floor(random() * members.length), 0, { first: Math.floor(random() * 2 ** 32), second: Math.floor(random() * 2 ** 32), count: 1 + Math.floor(random() * 300) })
    rebuild(ring, members, old)
    const fresh = new Ring()
    rebuild(fresh, members, [])
    if (ring.size !== members.reduce((sum, { count }) => sum + count, 0)) t.fail('the size is not that of all points')
    t.strictSame(owners(ring, members), owners(fresh, members), `change ${change}`)
  }
  t.end()
})

t.test('a point at the same place as another belongs to the same backend in any order', t => {
  const seen = new Map<number, Member>()
  let compared = 0
  for (let i = 0; i < 250_000; i++) {
    const member = { first: i, second: Math.imul(i, 7) >>> 0, count: 1 }
    const place = combine(0, member.first, member.second)
    const twin = seen.get(place)
    seen.set(place, member)
    if (twin === undefined) continue
    for (const members of [[member, twin], [twin, member]]) {
      const [ring, changed] = [new Ring(), new Ring()]
      rebuild(ring, members, [])
      rebuild(changed, members.slice(1), [])
      rebuild(changed, members, members.slice(1))
      for (const one of [ring, changed]) t.equal(members[one.nearest(place, 1, 1)].first, Math.min(member.first, twin.first))
    }
    compared++
  }
  t.ok(compared > 0, 'there are such points', { compared })
  t.end()
})

t.test('where the ring is full, parts of a point are not lost', t => {
  const weights = Array.from({ length: 300 }, (_, i) => i < 150 ? 1 : 1.2)
  const ring = new OpenRing({ maxRingSize: 1024 }, backendsOf(weights))
  let heavy = 0
  for (let i = 0; i < 50_000; i++) if (ring.home(Math.imul(i, 0x9e3779b1)) >= 150) heavy++
  t.ok(Math.abs(heavy / 50_000 / (1.2 / 2.2) - 1) < 0.04, '1.2 of 2.2', { found: heavy / 50_000 })
  t.end()
})

t.test('the point after the last is the first, and a place is its own nearest', t => {
  const members: Member[] = [{ first: 1, second: 1, count: 1 }, { first: 2, second: 2, count: 1 }]
  const ring = new Ring()
  rebuild(ring, members, [])
  const found = new Set(owners(ring, members))
  t.equal(found.size, 2)
  t.equal(ring.nearest(-1, 1, 1), ring.nearest(0, 1, 1), 'the ring is closed')
  t.end()
})
