import fc from 'fast-check'
import t from 'tap'
import { Backend } from '../../../lib/backend.ts'
import { RoundRobin } from '../../../lib/balancer/index.ts'
import type { Backend as PublicBackend, SelectContext } from '../../../types/index.ts'
import { suite } from './suite.ts'

const NAMES = 'abcdefghijklmnopqrstuvwxyz'

function backendsOf (...weights: number[]): Backend[] {
  return weights.map((weight, i) => new Backend({ id: NAMES[i], url: `http://127.0.0.1:${i + 1}`, weight }, 0))
}

const context = (tried: readonly PublicBackend[] | null = null): SelectContext => ({ request: undefined, method: 'GET', path: '/', tried, header: () => undefined })

function balancerOf (available: readonly Backend[]): RoundRobin {
  const balancer = new RoundRobin()
  balancer.rebuild(available)
  return balancer
}

/** The ids of the next choices, in one word. */
function next (balancer: RoundRobin, available: readonly Backend[], count: number, tried: readonly PublicBackend[] | null = null): string {
  return Array.from({ length: count }, () => balancer.select(available, context(tried))?.id ?? '-').join('')
}

const countsOf = (choices: string) => {
  const counts: Record<string, number> = {}
  for (const id of choices) counts[id] = (counts[id] ?? 0) + 1
  return counts
}

const longestRun = (choices: string) => Math.max(...(choices.match(/(.)\1*/g) ?? ['']).map(run => run.length))

function reweigh (backend: Backend, weight: number): void {
  backend.weight = backend.effectiveWeight = weight
}

for (const type of ['round-robin', 'weighted-round-robin'] as const) {
  t.test(type, t => {
    suite(t, { type }, 'exact')
    t.end()
  })
}

t.test('it is called round-robin', t => {
  t.equal(new RoundRobin().type, 'round-robin')
  t.end()
})

t.test('equal weights take turns in the order they were added, whatever the weight is', t => {
  for (const weight of [1, 2, 65_535]) {
    const available = backendsOf(weight, weight, weight)
    t.equal(next(balancerOf(available), available, 8), 'abcabcab', `weight ${weight}`)
  }
  t.end()
})

t.test('one alone takes everything', t => {
  for (const weight of [1, 7]) {
    const available = backendsOf(weight)
    t.equal(next(balancerOf(available), available, 4), 'aaaa')
  }
  t.end()
})

t.test('5:1:1 gives a a b a c a a for ever', t => {
  const available = backendsOf(5, 1, 1)
  const choices = next(balancerOf(available), available, 7 * 1_000)
  t.equal(choices, 'aabacaa'.repeat(1_000))
  t.end()
})

t.test('other weights give the turns that are known of them', t => {
  const known: [number[], string][] = [[[2, 1], 'aba'], [[3, 1], 'aaba'], [[1, 3], 'babb'], [[4, 2, 1], 'abacaba'], [[1, 2], 'bab'], [[3, 2, 1], 'abacba']]
  for (const [weights, turns] of known) {
    const available = backendsOf(...weights)
    t.equal(next(balancerOf(available), available, turns.length * 3), turns.repeat(3), weights.join(':'))
  }
  t.end()
})

t.test('over a period each is chosen exactly as often as its weight says, and the next period is the same', t => {
  fc.assert(fc.property(fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 8 }), weights => {
    const available = backendsOf(...weights)
    const balancer = balancerOf(available)
    const sum = weights.reduce((a, b) => a + b)
    const period = weights.every(weight => weight === weights[0]) ? weights.length : sum
    const share = period / sum
    const first = next(balancer, available, period)
    const counts = countsOf(first)
    weights.forEach((weight, i) => {
      if (counts[NAMES[i]] !== weight * share) throw new Error(`${NAMES[i]} was chosen ${counts[NAMES[i]]} times of ${weight * share}`)
    })
    if (next(balancer, available, period) !== first) throw new Error('the second period differs')
  }), { numRuns: 200 })
  t.pass()
  t.end()
})

t.test('it never bursts: nobody is chosen more often in a row than it must', t => {
  fc.assert(fc.property(fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 2, maxLength: 6 }), weights => {
    const available = backendsOf(...weights)
    const sum = weights.reduce((a, b) => a + b)
    const choices = next(balancerOf(available), available, sum * 2)
    weights.forEach((weight, i) => {
      const id = NAMES[i]
      const run = Math.max(0, ...choices.split(new RegExp(`[^${id}]+`)).map(part => part.length))
      // The others are spread among its turns: between two of them lies no more than its share, doubled where periods meet.
      const must = Math.ceil(weight / (sum - weight))
      if (run > must * 2) throw new Error(`${id} was chosen ${run} times in a row, ${must} would do`)
      const gap = Math.max(0, ...choices.split(id).slice(1, -1).map(part => part.length))
      if (gap > Math.ceil(sum / weight) * 2) throw new Error(`${id} waited for ${gap} turns`)
    })
  }), { numRuns: 200 })
  t.pass()
  t.end()
})

t.test('nobody is ever ahead of or behind its share by more than its own weight allows', t => {
  fc.assert(fc.property(fc.array(fc.integer({ min: 1, max: 30 }), { minLength: 2, maxLength: 5 }), weights => {
    const available = backendsOf(...weights)
    const balancer = balancerOf(available)
    const sum = weights.reduce((a, b) => a + b)
    const counts = weights.map(() => 0)
    for (let turn = 1; turn <= sum; turn++) {
      counts[NAMES.indexOf(balancer.select(available, context())?.id as string)]++
      weights.forEach((weight, i) => {
        const due = turn * weight / sum
        if (Math.abs(counts[i] - due) > weights.length) throw new Error(`${NAMES[i]} has had ${counts[i]} turns of ${due}`)
      })
    }
  }), { numRuns: 100 })
  t.pass()
  t.end()
})

t.test('the greatest difference of weights works', t => {
  const available = backendsOf(65_535, 1)
  const balancer = balancerOf(available)
  const choices = next(balancer, available, 65_536)
  t.strictSame(countsOf(choices), { a: 65_535, b: 1 })
  t.end()
})

t.test('many backends work', t => {
  const equal = Array.from({ length: 1_000 }, (_, i) => new Backend({ id: `${i}`, url: 'http://127.0.0.1:1' }, 0))
  const balancer = balancerOf(equal)
  const ids = Array.from({ length: 2_000 }, () => balancer.select(equal, context())?.id)
  t.strictSame(ids.slice(0, 1_000), equal.map(backend => backend.id))
  t.strictSame(ids.slice(1_000), equal.map(backend => backend.id))

  const weighted = Array.from({ length: 300 }, (_, i) => new Backend({ id: `${i}`, url: 'http://127.0.0.1:1', weight: 1 + i % 3 }, 0))
  const smooth = balancerOf(weighted)
  const counts: Record<string, number> = {}
  for (let i = 0; i < 600; i++) {
    const id = smooth.select(weighted, context())?.id as string
    counts[id] = (counts[id] ?? 0) + 1
  }
  t.strictSame(counts, Object.fromEntries(weighted.map(backend => [backend.id, backend.weight])))
  t.end()
})

t.test('those tried already are left out, and none is chosen when all were', t => {
  for (const weights of [[1, 1, 1], [5, 1, 1]]) {
    const available = backendsOf(...weights)
    const [a, b, c] = available
    const label = weights.join(':')
    t.strictSame(Object.keys(countsOf(next(balancerOf(available), available, 14, [a]))).sort(), ['b', 'c'], label)
    t.equal(next(balancerOf(available), available, 6, [a, c]), 'bbbbbb', label)
    t.equal(next(balancerOf(available), available, 2, [a, b, c]), '--', label)
    t.equal(next(balancerOf(available), available, 2, [c, b, a, b]), '--', label)
    t.strictSame(Object.keys(countsOf(next(balancerOf(available), available, 14, []))).sort(), ['a', 'b', 'c'], 'an empty list leaves out none')
  }
  t.end()
})

t.test('an exchange that tries all of them meets each once, and does not disturb the turns of others', t => {
  fc.assert(fc.property(fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 6 }), fc.integer({ min: 0, max: 20 }), (weights, before) => {
    const available = backendsOf(...weights)
    const balancer = balancerOf(available)
    next(balancer, available, before)
    const tried: PublicBackend[] = []
    for (let i = 0; i < weights.length; i++) {
      const chosen = balancer.select(available, context(tried)) as PublicBackend
      if (chosen === undefined || tried.includes(chosen)) throw new Error('one was tried twice, or none was found')
      tried.push(chosen)
    }
    if (balancer.select(available, context(tried)) !== undefined) throw new Error('one was tried twice')
    // Whatever credit that has moved, the shares stay right in the long run.
    const sum = weights.reduce((a, b) => a + b)
    const counts = countsOf(next(balancer, available, sum * 20))
    weights.forEach((weight, i) => {
      if (Math.abs((counts[NAMES[i]] ?? 0) / 20 - weight) > weights.length) throw new Error('the shares are wrong')
    })
  }), { numRuns: 100 })
  t.pass()
  t.end()
})

t.test('nothing is chosen where nothing is available', t => {
  const balancer = new RoundRobin()
  balancer.rebuild([])
  t.equal(balancer.select([], context()), undefined)
  const available = backendsOf(1, 2)
  balancer.rebuild(available)
  t.equal(next(balancer, available, 3), 'bab', 'and it works again when something is')
  t.end()
})

t.test('an added backend gets its turns, a removed one gets none', t => {
  const [a, b, c] = backendsOf(1, 1, 1)
  const balancer = balancerOf([a, b])
  t.equal(next(balancer, [a, b], 3), 'aba')
  balancer.rebuild([a, b, c])
  t.strictSame(countsOf(next(balancer, [a, b, c], 9)), { a: 3, b: 3, c: 3 })
  balancer.rebuild([a, c])
  t.strictSame(countsOf(next(balancer, [a, c], 8)), { a: 4, c: 4 })
  balancer.rebuild([c])
  t.equal(next(balancer, [c], 2), 'cc')
  t.end()
})

t.test('weights changed while it serves hold from the next turn on', t => {
  const available = backendsOf(1, 1, 1)
  const balancer = balancerOf(available)
  t.equal(next(balancer, available, 4), 'abca')
  reweigh(available[0], 5)
  balancer.rebuild(available)
  t.equal(next(balancer, available, 14), 'aabacaaaabacaa')
  reweigh(available[0], 1)
  balancer.rebuild(available)
  t.strictSame(countsOf(next(balancer, available, 9)), { a: 3, b: 3, c: 3 }, 'and back to taking turns')
  t.end()
})

t.test('a change of one weight hands nobody a burst', t => {
  fc.assert(fc.property(
    fc.array(fc.integer({ min: 1, max: 1_000 }), { minLength: 2, maxLength: 4 }),
    fc.array(fc.integer({ min: 1, max: 4 }), { minLength: 4, maxLength: 4 }),
    fc.integer({ min: 0, max: 1_500 }),
    (before, after, turns) => {
      const available = backendsOf(...before)
      const balancer = balancerOf(available)
      next(balancer, available, turns)
      available.forEach((backend, i) => reweigh(backend, after[i]))
      balancer.rebuild(available)
      const sum = available.reduce((sum, backend) => sum + backend.weight, 0)
      const choices = next(balancer, available, sum * 3)
      // What was earned under the old weights may count for one period of the new ones at the most.
      const run = longestRun(choices)
      if (run > sum) throw new Error(`from ${before.join(':')} to ${after.slice(0, before.length).join(':')} after ${turns} turns: ${run} in a row`)
    }
  ), { numRuns: 200 })
  t.pass()
  t.end()
})

t.test('what becomes unavailable and available again hands nobody a burst', t => {
  const [a, b, c] = backendsOf(50, 1, 2)
  const balancer = balancerOf([a, b, c])
  next(balancer, [a, b, c], 25)
  balancer.rebuild([b, c])
  t.ok(longestRun(next(balancer, [b, c], 30)) <= 4)
  balancer.rebuild([a, b, c])
  const choices = next(balancer, [a, b, c], 53)
  t.ok((countsOf(choices).a ?? 0) >= 45, 'the one with the weight has its share again')
  t.end()
})

t.test('fractions of weights give the same turns', t => {
  const available = backendsOf(5, 1, 1)
  for (const backend of available) backend.effectiveWeight /= 10
  t.equal(next(balancerOf(available), available, 14), 'aabacaaaabacaa')
  t.end()
})

t.test('a backend that goes leaves the turn of the others as it is', t => {
  const [a, b, c, d] = backendsOf(1, 1, 1, 1)
  const balancer = balancerOf([a, b, c, d])
  t.equal(next(balancer, [a, b, c, d], 2), 'ab')
  balancer.rebuild([b, c, d])
  t.equal(next(balancer, [b, c, d], 4), 'cdbc')
  balancer.rebuild([b, d])
  t.equal(next(balancer, [b, d], 2), 'db', 'after one that has gone comes the one after it')
  t.end()
})

t.test('a backend that comes gets its turn at the end of the round', t => {
  const [a, b, c] = backendsOf(1, 1, 1)
  const balancer = balancerOf([a, b])
  t.equal(next(balancer, [a, b], 2), 'ab')
  balancer.rebuild([a, b, c])
  t.equal(next(balancer, [a, b, c], 4), 'cabc')
  t.end()
})

t.test('what backends have earned outlasts a rebuild that changes no weight', t => {
  const available = backendsOf(5, 1, 1)
  const balancer = balancerOf(available)
  t.equal(next(balancer, available, 4), 'aaba')
  balancer.rebuild(Object.freeze([...available]))
  t.equal(next(balancer, available, 3), 'caa', 'the round goes on')
  t.end()
})

t.test('weights that change before every turn still have their shares', t => {
  for (const weights of [[5, 1, 1], [3, 2, 1], [1, 1, 2]]) {
    const available = backendsOf(...weights)
    const balancer = balancerOf(available)
    const sum = weights.reduce((a, b) => a + b)
    let choices = ''
    for (let i = 0; i < sum * 100; i++) {
      available.forEach((backend, j) => { backend.effectiveWeight = weights[j] * (1 + ((i + j) % 7) / 1000) })
      balancer.rebuild(available)
      choices += next(balancer, available, 1)
    }
    const counts = countsOf(choices)
    weights.forEach((weight, i) => t.ok(Math.abs(counts[NAMES[i]] / (weight * 100) - 1) < 0.1, `${NAMES[i]} of ${weights}`, { counts }))
  }
  t.end()
})

t.test('whatever comes, goes and changes, nobody gets more in a row than a period holds, for ever', t => {
  fc.assert(fc.property(fc.array(fc.tuple(fc.array(fc.integer({ min: 0, max: 20 }), { minLength: 4, maxLength: 4 }), fc.integer({ min: 0, max: 40 })), { minLength: 5, maxLength: 40 }), changes => {
    const all = backendsOf(1, 1, 1, 1)
    const balancer = new RoundRobin()
    for (const [weights, turns] of changes) {
      // 0 takes one away.
      const available = all.filter((_, i) => weights[i] > 0)
      all.forEach((backend, i) => reweigh(backend, weights[i]))
      balancer.rebuild(available)
      if (available.length === 0) continue
      const sum = available.reduce((sum, { weight }) => sum + weight, 0)
      const run = longestRun(next(balancer, available, turns))
      if (available.length > 1 && run > sum) throw new Error(`${run} in a row of ${sum}`)
    }
  }), { numRuns: 300 })
  t.pass()
  t.end()
})

t.test('one that was tried loses no turn of its own', t => {
  const available = backendsOf(1, 1, 1)
  const balancer = balancerOf(available)
  t.equal(next(balancer, available, 1), 'a')
  t.equal(next(balancer, available, 1, [available[1]]), 'c')
  t.equal(next(balancer, available, 3), 'abc')
  t.end()
})
