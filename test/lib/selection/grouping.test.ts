import fc from 'fast-check'
import t from 'tap'
import { groupsOf } from '../../../lib/selection/grouping.ts'
import { backendOf, backendsOf, idsOf, partly } from './given.ts'

/** Groups in short: `priority[/zone] percent because: ids`. */
const short = (...asked: [Parameters<typeof groupsOf>[0], zone?: string | undefined, panicThreshold?: number]) =>
  groupsOf(asked[0], asked[1], asked[2] ?? 0.5).map(({ priority, zone, share, because, available }) =>
    `${priority}${zone === undefined ? '' : `/${zone}`} ${Math.round(share * 100)} ${because}: ${idsOf(available)}`)

t.test('without priorities and zones all available ones are one group', t => {
  t.strictSame(short(backendsOf({ a: {}, b: { weight: 3 }, c: {} })), ['0 100 balancer: a b c'])
  t.strictSame(short([]), [])
  t.end()
})

t.test('groups are frozen, and in the order the backends were added', t => {
  const [group] = groupsOf(backendsOf({ c: {}, a: {}, b: { healthy: false } }), undefined, 0.5)
  t.ok(Object.isFrozen(group.available))
  t.equal(idsOf(group.available), 'c a')
  t.end()
})

t.test('who is not healthy, ejected, inactive, draining or of weight 0 is in none', t => {
  t.strictSame(short(backendsOf({
    a: {}, b: {}, c: {}, d: {}, e: {}, f: { healthy: false }, g: { ejected: true }, h: { isActive: false }, i: { draining: true }, j: { weight: 0 }
  })), ['0 100 balancer: a b c d e'])
  t.end()
})

t.test('a later priority gets what the first cannot carry', t => {
  const later = partly(2, 2, { priority: 1 }, 'p')
  t.strictSame(short([...partly(4, 4), ...later]), ['0 100 balancer: b0 b1 b2 b3'], 'nothing while that is whole')
  t.strictSame(short([...partly(3, 4), ...later]), ['0 100 balancer: b0 b1 b2'], 'nor when three quarters of it are left')
  t.strictSame(short([...partly(2, 4), ...later]), ['0 70 balancer: b0 b1', '1 30 priority: p0 p1'])
  t.strictSame(short([...partly(1, 4), ...later]), ['0 35 balancer: b0', '1 65 priority: p0 p1'])
  t.strictSame(short([...partly(0, 4), ...later]), ['1 100 priority: p0 p1'])
  t.end()
})

t.test('priorities need not follow one another, and are in the order of their numbers', t => {
  t.strictSame(short([...partly(1, 1, { priority: 7 }, 'c'), ...partly(1, 4, { priority: 3 }, 'b'), ...partly(1, 4, {}, 'a')]),
    ['0 35 balancer: a0', '3 35 priority: b0', '7 30 priority: c0'])
  t.strictSame(short(backendsOf({ a: { priority: 5 } })), ['5 100 balancer: a'], 'whichever comes first is the first')
  t.end()
})

t.test('a backup is of priority 1', t => {
  t.strictSame(short(backendsOf({ a: { healthy: false }, b: { backup: true } })), ['1 100 priority: b'])
  t.equal(backendOf('b', { backup: true }).priority, 1)
  t.equal(backendOf('b', { backup: true, priority: 4 }).priority, 4)
  t.end()
})

t.test('what a priority can carry goes by weight', t => {
  t.strictSame(short(backendsOf({ a: { weight: 9 }, b: { weight: 1, healthy: false }, p: { priority: 1 } })), ['0 100 balancer: a'])
  t.strictSame(short(backendsOf({ a: { weight: 9, healthy: false }, b: { weight: 1 }, p: { priority: 1 } })), ['0 14 balancer: b', '1 86 priority: p'])
  t.end()
})

t.test('one that drains is no capacity lost', t => {
  const given = { p: { priority: 1 } }
  t.strictSame(short(backendsOf({ a: {}, b: { draining: true }, ...given })), ['0 100 balancer: a'])
  t.strictSame(short(backendsOf({ a: { draining: true }, b: { draining: true }, ...given })), ['1 100 balancer: p'], 'and a priority of which nobody stays is none')
  t.strictSame(short(backendsOf({ a: {}, b: { isActive: false }, ...given })), ['0 70 balancer: a', '1 30 priority: p'], 'one that is switched off is')
  t.end()
})

t.test('below the threshold all active ones are used, whatever health says', t => {
  t.strictSame(short(partly(1, 3)), ['0 100 panic: b0 b1 b2'])
  t.strictSame(short(partly(2, 4)), ['0 100 balancer: b0 b1'], 'at the threshold they are not')
  t.strictSame(short(partly(0, 2)), ['0 100 panic: b0 b1'])
  t.strictSame(short(partly(3, 4), undefined, 1), ['0 100 balancer: b0 b1 b2'], 'nor where those left can carry all, whatever the threshold is')
  t.strictSame(short(partly(2, 3), undefined, 0.9), ['0 100 panic: b0 b1 b2'])
  t.end()
})

t.test('panic uses none that is inactive, drains or has weight 0, and counts none of them', t => {
  t.strictSame(short(backendsOf({ a: { healthy: false }, b: { ejected: true }, c: { isActive: false }, d: { draining: true, healthy: false }, e: { weight: 0 } })),
    ['0 100 panic: a b'])
  t.strictSame(short(backendsOf({ a: {}, b: { isActive: false }, c: { isActive: false }, d: { isActive: false } })), ['0 100 balancer: a'])
  t.strictSame(short(backendsOf({ a: { isActive: false }, b: { weight: 0 } })), [], 'without an active one there is nobody to use')
  t.end()
})

t.test('panic is for each priority, and only when all together cannot carry everything', t => {
  t.strictSame(short([...partly(1, 4), ...partly(4, 4, { priority: 1 }, 'p')]), ['0 35 balancer: b0', '1 65 priority: p0 p1 p2 p3'], 'the others help')
  t.strictSame(short([...partly(1, 4), ...partly(1, 4, { priority: 1 }, 'p')]), ['0 50 panic: b0 b1 b2 b3', '1 50 panic: p0 p1 p2 p3'])
  t.strictSame(short([...partly(6, 10), ...partly(1, 10, { priority: 1 }, 'p')], undefined, 0.5).map(text => text.split(':')[0]), ['0 86 balancer', '1 14 panic'])
  t.end()
})

t.test('where all together carry exactly everything, no rounding makes it panic', t => {
  // A half and three fourteenths: 0.7 and 0.3.
  t.strictSame(short([...partly(1, 2), ...partly(3, 14, { priority: 1 }, 'p')]), ['0 70 balancer: b0', '1 30 priority: p0 p1 p2'])
  t.end()
})

t.test('where none is available, and that is panic, priorities get what they weigh', t => {
  t.strictSame(short(backendsOf({ a: { healthy: false, weight: 3 }, p: { healthy: false, priority: 1 } })), ['0 75 panic: a', '1 25 panic: p'])
  t.end()
})

t.test('a threshold of 0 is no panic', t => {
  t.strictSame(short(partly(1, 100), undefined, 0), ['0 100 balancer: b0'])
  t.strictSame(short(partly(0, 3), undefined, 0), [], 'then there may be nobody')
  t.strictSame(short([...partly(1, 4), ...partly(1, 4, { priority: 1 }, 'p')], undefined, 0), ['0 50 balancer: b0', '1 50 priority: p0'])
  t.end()
})

t.test('the own zone comes first and spills only what it cannot carry', t => {
  const far = partly(2, 2, { zone: 'far' }, 'f')
  const near = (available: number) => partly(available, 4, { zone: 'near' }, 'n')
  t.strictSame(short([...near(4), ...far], 'near'), ['0/own 100 balancer: n0 n1 n2 n3'])
  t.strictSame(short([...near(3), ...far], 'near'), ['0/own 100 balancer: n0 n1 n2'])
  t.strictSame(short([...near(2), ...far], 'near'), ['0/own 70 balancer: n0 n1', '0/other 30 zone: f0 f1'])
  t.strictSame(short([...near(0), ...partly(5, 5, { zone: 'far' }, 'f')], 'near'), ['0/other 100 zone: f0 f1 f2 f3 f4'])
  t.strictSame(short([...near(2), ...partly(0, 1, { zone: 'far' }, 'f')], 'near', 0), ['0/own 100 balancer: n0 n1'], 'where there are no others it carries all')
  t.end()
})

t.test('a zone that can carry exactly all spills nothing', t => {
  t.strictSame(groupsOf([...partly(45, 63, { zone: 'near' }, 'n'), ...partly(1, 1, { zone: 'far' }, 'f')], 'near', 0.5).length, 1)
  t.end()
})

t.test('zones make no difference where none is given or none is near', t => {
  const backends = backendsOf({ a: { zone: 'one' }, b: { zone: 'two' }, c: {} })
  t.strictSame(short(backends), ['0 100 balancer: a b c'])
  t.strictSame(short(backends, 'three'), ['0 100 balancer: a b c'])
  t.strictSame(short(backends, 'two'), ['0/own 100 balancer: b'], 'those without a zone are somewhere else')
  t.end()
})

t.test('zones are told apart within each priority', t => {
  t.strictSame(short([
    ...partly(1, 2, { zone: 'near' }, 'n'), ...partly(0, 2, { zone: 'far' }, 'f'),
    ...partly(2, 5, { zone: 'near', priority: 1 }, 'pn'), ...partly(5, 5, { zone: 'far', priority: 1 }, 'pf')
  ], 'near'), ['0/own 35 balancer: n0', '1/own 36 priority: pn0 pn1', '1/other 29 priority: pf0 pf1 pf2 pf3 pf4'])
  t.end()
})

t.test('panic knows no zones', t => {
  t.strictSame(short([...partly(0, 2, { zone: 'near' }, 'n'), ...partly(0, 1, { zone: 'far' }, 'f')], 'near'), ['0 100 panic: n0 n1 f0'])
  t.end()
})

const state = fc.record({
  priority: fc.integer({ min: 0, max: 3 }),
  weight: fc.integer({ min: 0, max: 5 }),
  zone: fc.constantFrom('near', 'far'),
  isActive: fc.boolean(),
  healthy: fc.boolean(),
  ejected: fc.boolean(),
  draining: fc.boolean()
})

t.test('whatever the states are, shares add up to 1, nobody is in two groups, and none is in any who may not be', t => {
  fc.assert(fc.property(fc.array(state, { maxLength: 12 }), fc.option(fc.constantFrom('near', 'far'), { nil: undefined }), fc.constantFrom(0, 0.3, 0.5, 1), (states, zone, threshold) => {
    const backends = states.map((given, i) => backendOf(`b${i}`, given))
    const groups = groupsOf(backends, zone, threshold)
    const members = groups.flatMap(({ available }) => available)
    const keys = groups.map(({ key }) => key)
    const sum = groups.reduce((sum, { share }) => sum + share, 0)
    const may = backends.filter(({ usable, available }) => threshold > 0 ? usable : available)
    return (members.length === 0 ? groups.length === 0 && may.length === 0 : Math.abs(sum - 1) < 1e-9) &&
      new Set(members).size === members.length &&
      new Set(keys).size === keys.length &&
      groups.every(({ share, available }) => share > 0 && available.length > 0) &&
      groups.every(({ panic, available }) => available.every(({ usable, available }) => panic ? usable : available))
  }), { numRuns: 1000 })
  t.pass()
  t.end()
})
