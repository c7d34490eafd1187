import t from 'tap'
import { RoundRobin } from '../../../lib/balancer/index.ts'
import type { Backend } from '../../../lib/backend.ts'
import { backendsOf, choose, equalBackends, suite } from './suite.ts'

for (const type of ['round-robin', 'weighted-round-robin'] as const) {
  t.test(type, t => {
    suite(t, { type }, 'exact')
    t.end()
  })
}

const letters = (i: number) => 'abcdefgh'[i]

/** The ids of the next choices. */
function turns (balancer: RoundRobin, available: readonly Backend[], times: number, tried: readonly Backend[] | null = null): string {
  return Array.from({ length: times }, () => choose(balancer, available, { tried })?.id).join(' ')
}

function ready (available: readonly Backend[]): RoundRobin {
  const balancer = new RoundRobin()
  balancer.rebuild(available)
  return balancer
}

t.test('equal weights take turns in their order', t => {
  const available = equalBackends(3, letters)
  t.equal(turns(ready(available), available, 7), 'a b c a b c a')
  t.end()
})

t.test('5:1:1 gives a a b a c a a, again and again', t => {
  const available = backendsOf([5, 1, 1], letters)
  t.equal(turns(ready(available), available, 14), 'a a b a c a a a a b a c a a')
  const fractions = backendsOf([0.5, 0.1, 0.1], letters)
  t.equal(turns(ready(fractions), fractions, 7), 'a a b a c a a')
  t.end()
})

t.test('no backend gets longer runs than its weight forces', t => {
  for (const weights of [[5, 3, 2], [1, 1, 1, 1], [9, 1], [4, 4, 1, 1], [7, 5, 3, 2, 1]]) {
    const available = backendsOf(weights, letters)
    const balancer = ready(available)
    const total = weights.reduce((sum, weight) => sum + weight, 0)
    const longest = weights.map(() => 0)
    let last: Backend | undefined
    let run = 0
    for (let i = 0; i < total * 50; i++) {
      const chosen = choose(balancer, available) as Backend
      run = chosen === last ? run + 1 : 1
      last = chosen
      const at = available.indexOf(chosen)
      longest[at] = Math.max(longest[at], run)
    }
    // As evenly as they can be laid between the others', and one more where two rounds meet.
    const forced = weights.map(weight => Math.ceil(weight / (total - weight)) + 1)
    t.ok(longest.every((run, i) => run <= forced[i]), `${weights}`, { longest, forced })
  }
  t.end()
})

t.test('any stretch of turns holds what the weights give, within one turn for each other backend', t => {
  const weights = [5, 3, 2]
  const available = backendsOf(weights)
  const balancer = ready(available)
  const chosen = Array.from({ length: 1000 }, () => available.indexOf(choose(balancer, available) as Backend))
  let worst = 0
  for (let length = 1; length <= 50; length++) {
    for (let start = 0; start + length <= chosen.length; start++) {
      const stretch = chosen.slice(start, start + length)
      weights.forEach((weight, i) => { worst = Math.max(worst, Math.abs(stretch.filter(index => index === i).length - length * weight / 10)) })
    }
  }
  t.ok(worst < 2, 'never two turns away', { worst })
  t.end()
})

t.test('a backend that goes leaves the turn of the others as it is', t => {
  const [a, b, c, d] = equalBackends(4, letters)
  const balancer = ready([a, b, c, d])
  t.equal(turns(balancer, [a, b, c, d], 2), 'a b')
  balancer.rebuild([b, c, d])
  t.equal(turns(balancer, [b, c, d], 4), 'c d b c')
  balancer.rebuild([b, d])
  t.equal(turns(balancer, [b, d], 2), 'd b', 'after one that has gone comes the one after it')
  t.end()
})

t.test('a backend that comes gets its turn at the end of the round', t => {
  const [a, b, c] = equalBackends(3, letters)
  const balancer = ready([a, b])
  t.equal(turns(balancer, [a, b], 2), 'a b')
  balancer.rebuild([a, b, c])
  t.equal(turns(balancer, [a, b, c], 4), 'c a b c')
  t.end()
})

t.test('what backends have earned outlasts a change of another', t => {
  const available = backendsOf([5, 1, 1], letters)
  const balancer = ready(available)
  t.equal(turns(balancer, available, 4), 'a a b a')
  balancer.rebuild(Object.freeze([...available]))
  t.equal(turns(balancer, available, 3), 'c a a', 'the round goes on')
  t.end()
})

t.test('one that was tried loses no turn of its own', t => {
  const available = equalBackends(3, letters)
  const balancer = ready(available)
  t.equal(turns(balancer, available, 1), 'a')
  t.equal(turns(balancer, available, 1, [available[1]]), 'c')
  t.equal(turns(balancer, available, 3), 'a b c')
  t.end()
})

t.test('weights that become equal or differ again are gone by', t => {
  const available = backendsOf([1, 1], letters)
  const balancer = ready(available)
  t.equal(turns(balancer, available, 2), 'a b')
  available[0].effectiveWeight = 3
  balancer.rebuild(available)
  t.equal(turns(balancer, available, 4), 'a a b a')
  available[0].effectiveWeight = 1
  balancer.rebuild(available)
  t.equal(turns(balancer, available, 4).replaceAll(' ', '').match(/ab/g)?.length, 2)
  t.end()
})
