import { inspect } from 'node:util'
import t from 'tap'
import type { Backend } from '../../../lib/backend.ts'
import { createBalancer, hashReady } from '../../../lib/balancer/index.ts'
import type { BalancerOptions, LoadBalancer } from '../../../types/index.ts'
import { seeded } from '../../helpers/random.ts'
import { asking, backendsOf, choose, envOf, equalBackends, outcomeOf, type Asked } from './suite.ts'

await hashReady

const types = ['ip-hash', 'ring-hash', 'maglev', 'rendezvous'] as const

function bounded (type: typeof types[number], boundedLoad: number | false, available: readonly Backend[]): LoadBalancer {
  const balancer = createBalancer({ type, boundedLoad } as BalancerOptions, 'balancer', envOf(6))
  balancer.rebuild?.(available)
  return balancer
}

function begin (balancer: LoadBalancer, available: readonly Backend[], asked: Asked): Backend {
  const chosen = choose(balancer, available, asked) as Backend
  chosen.counters.begin()
  return chosen
}

function end (balancer: LoadBalancer, backend: Backend): void {
  backend.settle('successful', 1)
  balancer.settle?.(backend, outcomeOf())
}

for (const type of types) {
  t.test(`${type}: no backend ever has more than its bound`, t => {
    const random = seeded(8)
    for (const weights of [[1, 1, 1], [5, 3, 2], Array.from({ length: 11 }, () => 1), Array.from({ length: 30 }, (_, i) => 1 + i % 3), Array.from({ length: 200 }, () => 1), Array.from({ length: 500 }, (_, i) => 1 + i % 3)]) {
      // 1.1 of 11 is one that rounding makes a little more of.
      for (const factor of [1, 1.1, 1.25, 2]) {
        const available = backendsOf(weights)
        const balancer = bounded(type, factor, available)
        const total = weights.reduce((sum, weight) => sum + weight, 0)
        const flying: Backend[] = []
        let beyond = 0
        for (let i = 0; i < 1500; i++) {
          // Half of all requests are for one key, a quarter for the next, and so on.
          const chosen = begin(balancer, available, asking(Math.floor(-Math.log2(random()))))
          flying.push(chosen)
          const bound = Math.ceil(factor * flying.length * chosen.weight / total - 1e-9)
          if (chosen.inFlight > bound) beyond++
          // It fills and empties.
          while (flying.length > 0 && random() < (i % 500 < 300 ? 0.3 : 0.6)) end(balancer, flying.splice(Math.floor(random() * flying.length), 1)[0])
        }
        if (beyond > 0) t.fail(`${beyond} times with ${weights.length} backends and a factor of ${factor}`)
      }
    }
    t.pass('in 36 000 requests')
    t.end()
  })

  t.test(`${type}: without a bound a key stays where it is, whatever the load`, t => {
    const available = equalBackends(10)
    const balancer = bounded(type, false, available)
    const homes = new Set(Array.from({ length: 300 }, () => begin(balancer, available, asking(1))))
    t.equal(homes.size, 1)
    t.end()
  })

  t.test(`${type}: a key goes home again as soon as there is room`, t => {
    const available = equalBackends(10)
    const balancer = bounded(type, 1.25, available)
    const home = begin(balancer, available, asking(1))
    const away = begin(balancer, available, asking(1))
    t.not(away, home, 'one of ten may have one of two')
    end(balancer, home)
    t.equal(choose(balancer, available, asking(1)), home)
    t.end()
  })

  t.test(`${type}: what one backend cannot carry is spread over all others`, t => {
    const available = equalBackends(10)
    const balancer = bounded(type, 1.25, available)
    const keys = Array.from({ length: 20_000 }, (_, i) => asking(i)).filter(asked => choose(balancer, available, asked) === available[0])
    available[0].counters.inFlight = 10
    const counts = available.map(() => 0)
    for (const asked of keys) counts[available.indexOf(choose(balancer, available, asked) as Backend)]++
    t.equal(counts[0], 0)
    const share = keys.length / 9
    t.ok(counts.slice(1).every(count => count > share * 0.75 && count < share * 1.25), 'and not on its neighbour', { counts })
    t.end()
  })

  t.test(`${type}: the second choice of a key is the same every time`, t => {
    const available = equalBackends(10)
    const balancer = bounded(type, false, available)
    for (let i = 0; i < 100; i++) {
      const home = choose(balancer, available, asking(i)) as Backend
      const seconds = new Set(Array.from({ length: 5 }, () => choose(balancer, available, { ...asking(i), tried: [home] })))
      t.equal(seconds.size, 1)
    }
    t.end()
  })

  t.test(`${type}: where all that are untried are full, the least loaded of them is chosen`, t => {
    const available = equalBackends(4)
    const balancer = bounded(type, 1.25, available)
    available.forEach((backend, i) => { backend.counters.inFlight = [0, 30, 20, 30][i] })
    balancer.rebuild?.(available)
    for (let i = 0; i < 50; i++) t.equal(choose(balancer, available, { ...asking(i), tried: [available[0]] }), available[2])
    t.end()
  })

  t.test(`${type}: load that came and went elsewhere is taken account of`, t => {
    for (const count of [10, 200]) {
      const available = equalBackends(count)
      const balancer = bounded(type, 1.25, available)
      const home = choose(balancer, available, asking(1)) as Backend
      // Not by choices of this balancer, as when it has just been set, or where backends are shared.
      for (const backend of available) backend.counters.inFlight = 10
      const chosen = Array.from({ length: 40 }, () => choose(balancer, available, asking(1)))
      t.equal(chosen.at(-1), home, 'all have as much: there is room')
      for (const backend of available) if (backend !== home) backend.counters.inFlight = 0
      const later = Array.from({ length: 40 }, () => choose(balancer, available, asking(1)))
      t.not(later.at(-1), home, `${inspect(count)}: now it alone is full`)
    }
    t.end()
  })
}
