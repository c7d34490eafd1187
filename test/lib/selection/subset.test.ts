import fc from 'fast-check'
import t from 'tap'
import type { Candidates } from '../../../lib/selection/candidates.ts'
import { keyOf, matches, Subset, type SubsetOptions } from '../../../lib/selection/subset.ts'
import type { Match } from '../../../types/index.ts'
import { chiSquare, chiSquareLimit, seeded } from '../../helpers/random.ts'
import { contextOf, type Asked } from '../balancer/suite.ts'
import { backendOf } from './given.ts'

const of = (metadata: Record<string, unknown>) => backendOf('a', { metadata })

t.test('a backend matches when its metadata says all that is asked for', t => {
  const backend = of({ version: 'v2', tier: 'gold', size: 3, beta: true })
  t.ok(matches(backend, [{ version: 'v2' }]))
  t.ok(matches(backend, [{ version: 'v2', tier: 'gold', size: 3, beta: true }]), 'all of several')
  t.notOk(matches(backend, [{ version: 'v2', tier: 'silver' }]), 'not one of several')
  t.notOk(matches(backend, [{ colour: 'red' }]), 'not what it does not say')
  t.ok(matches(backend, [{}]), 'nothing asked for is said by all')
  t.ok(matches(backend, []))
  t.ok(matches(backend, [{ version: 'v2' }, { tier: 'gold' }]), 'of several demands all')
  t.notOk(matches(backend, [{ version: 'v2' }, { version: 'v1' }]))
  t.end()
})

t.test('of an array any will do', t => {
  const backend = of({ version: 'v2', size: 3 })
  t.ok(matches(backend, [{ version: ['v1', 'v2'] }]))
  t.notOk(matches(backend, [{ version: ['v1', 'v3'] }]))
  t.ok(matches(backend, [{ version: ['v2'], size: [1, 3] }]))
  t.notOk(matches(backend, [{ version: ['v2'], size: [1, 2] }]))
  t.end()
})

t.test('kinds of values are told apart', t => {
  t.notOk(matches(of({ size: '3' }), [{ size: 3 }]))
  t.notOk(matches(of({ beta: 'true' }), [{ beta: true }]))
  t.notOk(matches(of({ beta: 1 }), [{ beta: true }]))
  t.notOk(matches(of({ beta: 1 }), [{ beta: [true, '1'] }]))
  t.ok(matches(of({ beta: false, zero: 0, nothing: '' }), [{ beta: false, zero: 0, nothing: '' }]), 'and what is false, 0 or empty counts')
  t.end()
})

t.test('metadata that is no plain value matches nothing', t => {
  for (const value of [null, undefined, {}, ['v2'], () => 'v2', Symbol('v2'), 2n]) {
    t.notOk(matches(of({ version: value }), [{ version: 'v2' }]))
    t.notOk(matches(of({ version: value }), [{ version: ['v2', 2, true] }]))
    t.notOk(matches(of({ version: value }), [{ version: String(value as object) }]))
  }
  t.end()
})

t.test('names of inherited properties say nothing', t => {
  for (const name of ['toString', 'constructor', 'hasOwnProperty', '__proto__', 'valueOf']) {
    const match = JSON.parse(`{ ${JSON.stringify(name)}: "x" }`) as Match
    t.notOk(matches(of({}), [match]), name)
    t.notOk(matches(of({}), [{ [name]: String(({} as Record<string, unknown>)[name]) }]), name)
    t.ok(matches(of(JSON.parse(`{ ${JSON.stringify(name)}: "x" }`)), [match]), `${name} as its own`)
  }
  t.end()
})

t.test('nor do properties that somebody has given to all objects', t => {
  const all = Object.prototype as unknown as Record<string, unknown>
  t.teardown(() => { delete all.polluted })
  const match = { polluted: 'x' }
  all.polluted = 'x'
  const matched = matches(of({}), [match])
  delete all.polluted
  t.equal(matched, false)
  t.end()
})

t.test('the same demands have the same key, however they are written', t => {
  t.equal(keyOf([{ a: '1', b: 2 }]), keyOf([{ b: 2, a: '1' }]))
  for (const [one, other] of [
    [[{ a: '1' }], [{ a: 1 }]], [[{ a: true }], [{ a: 'true' }]], [[{ a: 'b' }], [{ a: ['b', 'c'] }]], [[{ a: 'b' }], [{ a: 'b' }, { a: 'b', c: 'd' }]],
    [[{ a: 'b', c: 'd' }], [{ a: 'b"],["c', d: 'd' }]], [[{ 'a","b': 'c' }], [{ a: 'b', c: 'c' }]], [[{}], [{ a: '' }]]
  ] as [Match[], Match[]][]) t.not(keyOf(one), keyOf(other), JSON.stringify([one, other]))
  t.end()
})

const scalar = fc.oneof(fc.constantFrom('a', 'b', '1', 'true', ''), fc.integer({ min: 0, max: 2 }), fc.boolean())
const match = fc.dictionary(fc.constantFrom('a', 'b', 'toString', '__proto__', 'x y'), fc.oneof(scalar, fc.array(scalar, { minLength: 1, maxLength: 3 })), { maxKeys: 4 })

t.test('demands with the same key are the same to every backend', t => {
  fc.assert(fc.property(match, match, fc.dictionary(fc.constantFrom('a', 'b', 'toString', 'x y'), scalar), (one, other, metadata) => {
    const shuffled = Object.fromEntries(Object.entries(one).reverse())
    const backend = of(metadata)
    return keyOf([one]) === keyOf([shuffled]) && (keyOf([one]) !== keyOf([other]) || matches(backend, [one]) === matches(backend, [other]))
  }), { numRuns: 1000 })
  t.pass()
  t.end()
})

/** A subset whose candidates are the demands themselves. */
function make (options: SubsetOptions, random = seeded(1)): Subset {
  return new Subset(options, demands => demands as unknown as Candidates, random)
}

/** The versions of the part that a request is for; '' for no part. */
function partOf (subset: Subset, asked?: Asked): unknown {
  return subset.partFor(contextOf(asked))?.demands.at(-1)?.version ?? ''
}

const parts = (...weights: number[]) => weights.map((weight, i) => ({ match: { version: `v${i + 1}` }, weight }))

t.test('a match alone is one part', t => {
  const subset = make({ match: { version: 'v2' } })
  t.strictSame(subset.partFor(contextOf())?.demands, [{ version: 'v2' }, {}])
  t.equal(subset.fallback, 'none')
  t.equal(make({ match: {}, fallback: 'any' }).fallback, 'any')
  t.end()
})

t.test('a split is within the match', t => {
  const subset = make({ match: { tier: 'gold' }, split: parts(1) })
  t.strictSame(subset.partFor(contextOf())?.demands, [{ tier: 'gold' }, { version: 'v1' }])
  t.end()
})

t.test('without a key chance decides, by weight', t => {
  for (const weights of [[95, 5], [1, 1], [80, 15, 5], [0.5, 0.25, 0.25], [2, 0, 1]]) {
    const subset = make({ split: parts(...weights) })
    const counts = weights.map(() => 0)
    for (let i = 0; i < 20_000; i++) counts[Number(String(partOf(subset)).slice(1)) - 1]++
    const drawn = weights.flatMap((weight, i) => weight > 0 ? [i] : [])
    t.ok(chiSquare(drawn.map(i => counts[i]), drawn.map(i => weights[i])) < chiSquareLimit(drawn.length - 1), `${weights}`, { counts })
    t.ok(weights.every((weight, i) => weight > 0 || counts[i] === 0), 'a weight of 0 gets nothing')
  }
  t.end()
})

t.test('weights left out are 1', t => {
  const subset = make({ split: [{ match: { version: 'v1' } }, { match: { version: 'v2' }, weight: 3 }] })
  const counts = [0, 0]
  for (let i = 0; i < 10_000; i++) counts[partOf(subset) === 'v1' ? 0 : 1]++
  t.ok(chiSquare(counts, [1, 3]) < chiSquareLimit(1), '1:3', { counts })
  t.end()
})

t.test('where all weights are 0 a request is for no part', t => {
  t.equal(partOf(make({ split: parts(0, 0) })), '')
  t.equal(partOf(make({ split: parts(0, 0), splitKey: 'path' })), '')
  t.equal(partOf(make({ split: parts(0) })), '', 'be it one part alone')
  t.equal(partOf(make({ split: parts(0.001) })), 'v1')
  t.end()
})

t.test('chance at its end is for the last part with a weight', t => {
  const last = () => 1 - Number.EPSILON / 2
  t.equal(partOf(make({ split: parts(0.3, 0.7, 0) }, last)), 'v2', 'where rounding leaves a bit over')
  t.equal(partOf(make({ split: parts(0.1, 0.7, 0.2) }, last)), 'v3')
  t.equal(partOf(make({ split: parts(0, 1) }, () => 0)), 'v2')
  t.end()
})

t.test('a header or cookie decides before the weights do', t => {
  const split = [{ match: { version: 'v1' }, weight: 1 }, { match: { version: 'v2' }, when: { header: 'X-Canary', value: 'yes' } }, { match: { version: 'v3' }, when: { cookie: 'beta' } }]
  const subset = make({ split })
  const asked: [Record<string, string>, string][] = [
    [{}, 'v1'],
    [{ 'x-canary': 'yes' }, 'v2'],
    [{ 'x-canary': 'Yes' }, 'v1'],
    [{ 'x-canary': '' }, 'v1'],
    [{ 'x-canary': 'yes, yes' }, 'v1'],
    [{ cookie: 'beta=1' }, 'v3'],
    [{ cookie: 'a=b; beta=anything; c=d' }, 'v3'],
    [{ cookie: 'notbeta=1; beta2=1' }, 'v1'],
    [{ cookie: 'beta=' }, 'v1'],
    [{ cookie: 'beta=1', 'x-canary': 'yes' }, 'v2']
  ]
  for (const [headers, version] of asked) t.equal(partOf(subset, { headers }), version, JSON.stringify(headers))
  t.end()
})

t.test('a sign without a value is there when it says anything', t => {
  const subset = make({ split: [{ match: { version: 'v1' }, weight: 1 }, { match: { version: 'v2' }, when: { header: 'x-canary' } }] })
  t.equal(partOf(subset, { headers: { 'x-canary': '0' } }), 'v2')
  t.equal(partOf(subset, { headers: { 'x-canary': '' } }), 'v1')
  const cookie = make({ split: [{ match: { version: 'v1' }, weight: 1 }, { match: { version: 'v2' }, when: { cookie: 'beta', value: 'on' } }] })
  t.equal(partOf(cookie, { headers: { cookie: 'beta=on' } }), 'v2')
  t.equal(partOf(cookie, { headers: { cookie: 'beta=off' } }), 'v1')
  t.end()
})

t.test('a part may have both a sign and a weight, and one with a sign alone gets nobody else', t => {
  const subset = make({ split: [{ match: { version: 'v2' }, when: { header: 'x-canary' }, weight: 1 }, { match: { version: 'v1' }, weight: 3 }] })
  const counts = [0, 0]
  for (let i = 0; i < 10_000; i++) counts[partOf(subset) === 'v2' ? 0 : 1]++
  t.ok(chiSquare(counts, [1, 3]) < chiSquareLimit(1), '1:3', { counts })
  t.equal(partOf(subset, { headers: { 'x-canary': '1' } }), 'v2')
  const alone = make({ split: [{ match: { version: 'v2' }, when: { header: 'x-canary' } }] })
  t.equal(partOf(alone), '')
  t.equal(partOf(alone, { headers: { 'x-canary': '1' } }), 'v2')
  t.end()
})

const clients = Array.from({ length: 20_000 }, (_, i): Asked => ({ headers: { 'x-user': `user-${i}` } }))
const splitKey = { header: 'x-user' }
const never = () => { throw new Error('not by chance') }

t.test('by key the same requests are for the same part, in every process', t => {
  const [one, other] = [make({ split: parts(95, 5), splitKey }, never), make({ split: parts(95, 5), splitKey }, never)]
  t.strictSame(clients.map(asked => partOf(one, asked)), clients.map(asked => partOf(other, asked)))
  t.end()
})

t.test('by key the parts get their weights', t => {
  for (const weights of [[95, 5], [1, 1], [80, 15, 5]]) {
    const subset = make({ split: parts(...weights), splitKey }, never)
    const counts = weights.map(() => 0)
    for (const asked of clients) counts[Number(String(partOf(subset, asked)).slice(1)) - 1]++
    t.ok(chiSquare(counts, weights) < chiSquareLimit(weights.length - 1), `${weights}`, { counts })
  }
  t.end()
})

t.test('moving a weight from 5 to 10 % moves only that 5 %', t => {
  const placesAt = (...weights: number[]) => clients.map(asked => partOf(make({ split: parts(...weights), splitKey }, never), asked))
  const [before, after] = [placesAt(95, 5), placesAt(90, 10)]
  const moved = clients.flatMap((_, i) => before[i] === after[i] ? [] : [`${before[i]} to ${after[i]}`])
  t.strictSame([...new Set(moved)], ['v1 to v2'], 'nobody leaves the canary')
  t.ok(Math.abs(moved.length / clients.length - 0.05) < 0.005, 'and a twentieth comes', { moved: moved.length })
  t.strictSame(placesAt(100, 0).filter(place => place !== 'v1'), [], 'with 0 nobody is there')
  t.strictSame(placesAt(0, 100).filter(place => place !== 'v2'), [])
  t.end()
})

t.test('among several parts, changing one weight moves requests to it or from it, and no others', t => {
  const placesAt = (...weights: number[]) => clients.map(asked => partOf(make({ split: parts(...weights), splitKey }, never), asked))
  for (const [from, to, changed] of [[[80, 15, 5], [80, 15, 10], 'v3'], [[80, 15, 5], [40, 15, 5], 'v1'], [[50, 10, 40], [50, 0, 40], 'v2']] as const) {
    const [before, after] = [placesAt(...from), placesAt(...to)]
    const others = clients.filter((_, i) => before[i] !== after[i] && before[i] !== changed && after[i] !== changed)
    t.equal(others.length, 0, `${from} to ${to}`)
  }
  t.end()
})

t.test('where a request has no key chance decides', t => {
  const subset = make({ split: parts(1, 1), splitKey })
  t.strictSame([...new Set(Array.from({ length: 50 }, () => partOf(subset)))].sort(), ['v1', 'v2'])
  t.end()
})

t.test('the key may be an address, the path, a query parameter, a cookie or a function\'s', t => {
  const places = (splitKey: SubsetOptions['splitKey'], ask: (i: number) => Asked) => {
    const subset = make({ split: parts(1, 1), splitKey }, never)
    const seen = Array.from({ length: 60 }, (_, i) => [partOf(subset, ask(i)), partOf(subset, ask(i))])
    t.ok(seen.every(([one, other]) => one === other) && new Set(seen.map(([one]) => one)).size === 2, JSON.stringify(splitKey))
  }
  places('ip', i => ({ ip: `10.0.0.${i}` }))
  places('path', i => ({ path: `/${i}` }))
  places({ query: 'user' }, i => ({ path: `/?user=${i}` }))
  places({ cookie: 'user' }, i => ({ headers: { cookie: `user=${i}` } }))
  places(({ method, path }) => method + path, i => ({ path: `/${i}` }))
  t.end()
})

t.test('a client may stay with a backend of any part that has a weight, unless a sign sends it elsewhere', t => {
  const subset = make({ split: [{ match: { version: 'v1' }, weight: 1 }, { match: { version: 'v2' }, weight: 0 }, { match: { version: 'v3' }, when: { header: 'x-canary' } }] })
  const admits = (version: string, headers = {}) => subset.admits(of({ version }), contextOf({ headers }))
  t.equal(admits('v1'), true)
  t.equal(admits('v2'), false)
  t.equal(admits('v3'), false)
  t.equal(admits('v4'), false)
  t.equal(admits('v3', { 'x-canary': '1' }), true)
  t.equal(admits('v1', { 'x-canary': '1' }), false)
  t.equal(make({ match: { version: 'v1' } }).admits(of({ version: 'v1' }), contextOf()), true)
  t.equal(make({ match: { tier: 'gold' }, split: parts(1) }).admits(of({ version: 'v1' }), contextOf()), false, 'and only within the match')
  t.end()
})
