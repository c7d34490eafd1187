import fc from 'fast-check'
import t from 'tap'
import { createBalancer, RoundRobin } from '../../../lib/balancer/index.ts'
import { Candidates, type CandidatePolicy } from '../../../lib/selection/candidates.ts'
import { BALANCER_TYPES, type Backend as PublicBackend, type LoadBalancer } from '../../../types/index.ts'
import { chiSquare, chiSquareLimit, seeded } from '../../helpers/random.ts'
import { asking, envOf, type Asked } from '../balancer/suite.ts'
import { backendsOf, idsOf, partly, Plain, selectionOf, turns } from './given.ts'

function make (balancer: LoadBalancer = new RoundRobin(), policy: Partial<CandidatePolicy> = {}, isWhole = true): Candidates {
  return new Candidates({ zone: undefined, panicThreshold: 0.5, random: seeded(1), balancer, ...policy }, isWhole)
}

function choose (candidates: Candidates, asked?: Asked): PublicBackend | undefined {
  return candidates.select(selectionOf(asked)) as PublicBackend | undefined
}

const choices = (candidates: Candidates, count: number) => idsOf(Array.from({ length: count }, () => choose(candidates) as PublicBackend)).replaceAll(' ', '')

t.test('one group is all the balancer\'s', t => {
  const candidates = make()
  candidates.rebuild(backendsOf({ a: {}, b: {}, c: {} }))
  t.equal(choices(candidates, 6), 'abcabc')
  t.equal(candidates.groups.length, 1)
  t.equal(idsOf(candidates.members.keys()), 'a b c')
  t.end()
})

t.test('without any there is no choice', t => {
  const candidates = make()
  t.equal(choose(candidates), undefined, 'before there are backends')
  candidates.rebuild(backendsOf({ a: { isActive: false } }))
  t.equal(choose(candidates), undefined)
  t.equal(candidates.members.size, 0)
  t.end()
})

t.test('a choice says who was asked and why it is from there', t => {
  const main = new RoundRobin()
  const candidates = make(main, { random: turns(0.1, 0.9) })
  candidates.rebuild([...partly(1, 2), ...partly(1, 1, { priority: 1 }, 'p')])
  const [first, second] = [selectionOf(), selectionOf()]
  t.equal((candidates.select(first) as PublicBackend).id, 'b0')
  t.equal((candidates.select(second) as PublicBackend).id, 'p0')
  t.equal(first.because, 'balancer')
  t.equal(first.balancer, main)
  t.equal(second.because, 'priority')
  t.not(second.balancer, main, 'each group has a balancer of its own')
  t.equal(second.balancer, candidates.members.get(second.balancer === null ? null as never : candidates.groups[1].available[0]))
  t.end()
})

t.test('groups are drawn by their shares', t => {
  const candidates = make()
  candidates.rebuild([...partly(1, 4), ...partly(2, 4, { priority: 1 }, 'p')])
  const counts = [0, 0]
  for (let i = 0; i < 20_000; i++) counts[choose(candidates)?.priority as number]++
  t.ok(chiSquare(counts, [0.35, 0.65]) < chiSquareLimit(1), '35 % and 65 %', { counts })
  t.end()
})

t.test('what is left by rounding is drawn from the last group', t => {
  const candidates = make(new RoundRobin(), { random: () => 1 - Number.EPSILON / 2 })
  candidates.rebuild([...partly(1, 4), ...partly(1, 4, { priority: 1 }, 'p'), ...partly(1, 4, { priority: 2 }, 'q')])
  t.equal(choose(candidates)?.priority, 2)
  t.end()
})

t.test('a policy that goes by keys keeps each key in its group, and a share that moves takes no other keys along', t => {
  for (const type of ['ip-hash', 'ring-hash', 'maglev', 'rendezvous'] as const) {
    const candidates = make(createBalancer(type, 'balancer', envOf()), { random: () => { throw new Error('not by chance') } })
    const later = partly(4, 4, { priority: 1 }, 'p')
    const placesOf = (available: number) => {
      candidates.rebuild([...partly(available, 10), ...later])
      return Array.from({ length: 3_000 }, (_, i) => choose(candidates, asking(i)) as PublicBackend)
    }
    const [half, again, fewer] = [placesOf(5), placesOf(5), placesOf(4)]
    t.strictSame(again.map(({ id }) => id), half.map(({ id }) => id), `${type}: the same every time`)
    const moved = half.filter((backend, i) => backend.priority !== fewer[i].priority)
    t.ok(moved.every(({ priority }) => priority === 0), `${type}: none comes back`)
    t.ok(Math.abs(moved.length / half.length - 0.14) < 0.03, `${type}: 14 % go`, { moved: moved.length })
  }
  t.end()
})

t.test('a request without a key is drawn by chance', t => {
  const candidates = make(createBalancer({ type: 'maglev', key: { header: 'x-key' } }, 'balancer', envOf()))
  candidates.rebuild([...partly(1, 2), ...partly(1, 1, { priority: 1 }, 'p')])
  t.strictSame([...new Set(Array.from({ length: 100 }, () => choose(candidates)?.priority))].sort(), [0, 1])
  t.end()
})

t.test('groups keep their balancers, and those their turns, over rebuilds', t => {
  const main = new RoundRobin()
  const candidates = make(main, { random: turns(0.1) })
  const backends = [...partly(3, 3), ...partly(2, 2, { priority: 1 }, 'p')]
  candidates.rebuild(backends)
  t.equal(choices(candidates, 2), 'b0b1')
  candidates.rebuild([...backends])
  t.equal(choices(candidates, 1), 'b2', 'its turn goes on')
  for (const backend of backends) backend.healthy = backend.priority > 0
  candidates.rebuild(backends)
  t.equal(choices(candidates, 1), 'p0')
  const [{ balancer }] = candidates.groups
  t.not(balancer, main)
  for (const backend of backends) backend.healthy = true
  candidates.rebuild(backends)
  t.equal(candidates.groups[0].balancer, main, 'a group that comes back has the balancer it had')
  t.equal(choices(candidates, 1), 'b0')
  for (const backend of backends) backend.healthy = backend.priority > 0
  candidates.rebuild(backends)
  t.equal(candidates.groups[0].balancer, balancer)
  t.equal(choices(candidates, 1), 'p1')
  t.end()
})

t.test('a group of a later priority that is there first has the balancer that users know', t => {
  const main = new RoundRobin()
  const candidates = make(main)
  candidates.rebuild(partly(2, 2, { priority: 3 }))
  t.equal(candidates.groups[0].balancer, main)
  candidates.rebuild([...partly(1, 1, {}, 'a'), ...partly(2, 2, { priority: 3 })])
  t.not(candidates.groups[0].balancer, main, 'and keeps it for itself')
  t.end()
})

t.test('a part of an upstream\'s backends never has the balancer that users know, unless it cannot be forked', t => {
  const main = new RoundRobin()
  const part = make(main, {}, false)
  part.rebuild(partly(2, 2))
  t.not(part.groups[0].balancer, main)
  const plain = new Plain()
  const other = make(plain, {}, false)
  other.rebuild(partly(2, 2))
  t.equal(other.groups[0].balancer, plain)
  t.strictSame(plain.rebuilt, [], 'it hears of the whole only')
  t.end()
})

t.test('a balancer without fork() serves all groups, and hears of the backends of all', t => {
  const plain = new Plain()
  const candidates = make(plain, { random: turns(0.1, 0.9) })
  candidates.rebuild([...partly(1, 2), ...partly(2, 2, { priority: 1 }, 'p')])
  t.strictSame(plain.rebuilt.map(idsOf), ['b0 p0 p1'])
  t.ok(Object.isFrozen(plain.rebuilt[0]))
  t.equal(choices(candidates, 2), 'b0p0')
  t.strictSame(plain.asked.map(idsOf), ['b0', 'p0 p1'], 'and is asked about one group')
  candidates.rebuild(partly(2, 2))
  t.equal(choices(candidates, 1), 'b0')
  t.equal(plain.asked.at(-1), plain.rebuilt.at(-1), 'of one group it gets the very list')
  candidates.rebuild([])
  t.strictSame(plain.rebuilt.at(-1), [])
  t.end()
})

t.test('each balancer hears of its own group', t => {
  const told: string[] = []
  class Told extends Plain {
    name: string
    constructor (name: string) {
      super()
      this.name = name
    }

    override rebuild (available: readonly PublicBackend[]): void { told.push(`${this.name}: ${idsOf(available)}`) }
    fork (): Told { return new Told(`${this.name}'`) }
  }
  const candidates = make(new Told('main'))
  candidates.rebuild([...partly(1, 2), ...partly(2, 2, { priority: 1 }, 'p')])
  t.strictSame(told, ['main: b0', "main': p0 p1"])
  t.end()
})

t.test('one that has been tried is not chosen while the group that was drawn, or any other, has another left', t => {
  const candidates = make(new RoundRobin(), { random: turns(0.1) })
  const backends = [...partly(2, 4), ...partly(2, 2, { priority: 1 }, 'p')]
  candidates.rebuild(backends)
  const [b0, b1, , , p0, p1] = backends
  t.equal(choose(candidates, { tried: [b0] }), b1)
  const tried = [b0, b1]
  t.equal(choose(candidates, { tried }), p0)
  t.equal(choose(candidates, { tried: [...tried, p0] }), p1)
  t.equal(choose(candidates, { tried: [...tried, p0, p1] }), undefined, 'when all have been tried there is none')
  t.end()
})

for (const type of BALANCER_TYPES) {
  t.test(`no backend twice, and all of all groups in the end: ${type}`, t => {
    fc.assert(fc.property(fc.array(fc.record({
      priority: fc.integer({ min: 0, max: 2 }), zone: fc.constantFrom('near', 'far'), healthy: fc.boolean(), weight: fc.integer({ min: 1, max: 3 })
    }), { minLength: 1, maxLength: 7 }), fc.integer(), (given, seed) => {
      const candidates = make(createBalancer(type === 'maglev' ? { type, tableSize: 101 } : type, 'balancer', envOf(seed)), { zone: 'near', random: seeded(seed) })
      candidates.rebuild(backendsOf(Object.fromEntries(given.map((options, i) => [`b${i}`, options]))))
      const tried: PublicBackend[] = []
      for (let i = 0; i < candidates.members.size; i++) {
        const chosen = choose(candidates, { ...asking(seed), tried: i === 0 ? null : tried })
        if (chosen === undefined || tried.includes(chosen) || !candidates.members.has(chosen)) return false
        tried.push(chosen)
      }
      return choose(candidates, { ...asking(seed), tried }) === undefined
    }))
    t.pass()
    t.end()
  })
}

t.test('it says when it is in panic', t => {
  const candidates = make()
  candidates.rebuild(partly(2, 3))
  t.equal(candidates.panic, false)
  candidates.rebuild(partly(1, 3))
  t.equal(candidates.panic, true)
  const selection = selectionOf()
  candidates.select(selection)
  t.equal(selection.because, 'panic')
  t.end()
})

t.test('what a new balancer is to begin with is forgotten', t => {
  const first = new RoundRobin()
  const policy = { zone: undefined, panicThreshold: 0.5, random: seeded(1), balancer: first as LoadBalancer }
  const candidates = new Candidates(policy, true)
  candidates.rebuild(partly(2, 2))
  policy.balancer = new RoundRobin()
  candidates.forget()
  candidates.rebuild(partly(2, 2))
  t.equal(candidates.groups[0].balancer, policy.balancer)
  t.end()
})
