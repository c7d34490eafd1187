import type { FastifyRequest } from 'fastify'
import { inspect } from 'node:util'
import type { Test } from 'tap'
import { Backend } from '../../../lib/backend.ts'
import { balancerFactory, createBalancer } from '../../../lib/balancer/index.ts'
import type { Backend as PublicBackend, BalancerEnv, BalancerOptions, LoadBalancer, Outcome, SelectContext } from '../../../types/index.ts'
import { FakeClock } from '../../helpers/clock.ts'
import { chiSquare, chiSquareLimit, seeded } from '../../helpers/random.ts'

/** Backends `b0`, `b1`, … of the weights given, frozen as an upstream would. */
export function backendsOf (weights: readonly number[], id = (i: number) => `b${i}`): readonly Backend[] {
  return Object.freeze(weights.map((weight, i) => {
    const backend = new Backend({ id: id(i), url: 'http://127.0.0.1:1' }, 0)
    backend.weight = backend.effectiveWeight = weight
    return backend
  }))
}

/** So many backends of weight 1. */
export function equalBackends (count: number, id?: (i: number) => string): readonly Backend[] {
  return backendsOf(Array.from({ length: count }, () => 1), id)
}

export interface Asked {
  ip?: string | undefined
  path?: string
  headers?: Record<string, string>
  tried?: readonly PublicBackend[] | null
}

/** What a balancer is asked about. */
export function contextOf ({ ip, path = '/', headers = {}, tried = null }: Asked = {}): SelectContext {
  return {
    request: ip === undefined ? undefined : { ip, headers } as unknown as FastifyRequest,
    method: 'GET',
    path,
    tried,
    header: name => headers[name]
  }
}

export function outcomeOf (outcome: Partial<Outcome> = {}): Outcome {
  return { stage: 'done', culprit: 'none', statusCode: 200, error: undefined, headTime: 5, responseTime: 5, ...outcome }
}

/** Chance from a seed, and a clock that stands still. */
export function envOf (seed = 1): BalancerEnv & { clock: FakeClock } {
  return { clock: new FakeClock(), random: seeded(seed) }
}

/** Chooses at once, and fails where a policy of ours would answer with a promise. */
export function choose (balancer: LoadBalancer, available: readonly PublicBackend[], asked?: Asked): Backend | undefined {
  const chosen = balancer.select(available, contextOf(asked))
  if (chosen instanceof Promise) throw new Error('a policy answered with a promise')
  return chosen as Backend | undefined
}

/** How often each backend was chosen, in the order of the list. */
export function countsOf (balancer: LoadBalancer, available: readonly PublicBackend[], times: number, ask: (i: number) => Asked = asking): number[] {
  const counts = available.map(() => 0)
  for (let i = 0; i < times; i++) counts[available.indexOf(choose(balancer, available, ask(i)) as Backend)]++
  return counts
}

/** A client of its own each time. */
export function asking (i: number): Asked {
  return { ip: `10.${(i >> 16) & 255}.${(i >> 8) & 255}.${i & 255}` }
}

/** What a policy promises of shares by weight when nothing else tells backends apart. */
export type Shares =
  /** Exact counts, and no longer runs than weights force. */
  | 'exact'
  /** What chance would give. */
  | 'chance'
  /** Within so much of the share of the keys, as a part of it. */
  | number

/** What every policy must do. Call it first in the policy's test. */
export function suite (t: Test, options: BalancerOptions, shares: Shares): void {
  const make = (env: BalancerEnv = envOf()) => createBalancer(options, 'balancer', env)
  const ready = (available: readonly Backend[], env?: BalancerEnv) => {
    const balancer = make(env)
    balancer.rebuild?.(available)
    return balancer
  }

  t.test(`${inspect(options)} is made by its options, a new one at every call`, t => {
    t.equal(make().type, options.type)
    t.equal(createBalancer(options.type).type, options.type)
    const factory = balancerFactory(options)
    t.not(factory(), factory())
    t.equal(factory().type, options.type)
    t.throws(() => createBalancer({ ...options, nonsense: 1 } as never), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: 'balancer.nonsense is not an option' })
    t.end()
  })

  t.test('never chooses one that is not available, whatever changes', t => {
    const random = seeded(7)
    const all = [...backendsOf([1, 2, 3, 1, 5, 1, 1, 8, 2.5, 0.1]), ...equalBackends(5, i => `c${i}`)]
    const balancer = make()
    const flying: Backend[] = []
    let wrong = 0
    for (let change = 0; change < 100; change++) {
      const available = Object.freeze(all.filter(() => random() < 0.6))
      if (random() < 0.5) all[Math.floor(random() * all.length)].effectiveWeight = random() * 10 + 0.01
      balancer.rebuild?.(available)
      for (let i = 0; i < 20 && available.length > 0; i++) {
        const chosen = choose(balancer, available, asking(Math.floor(random() * 1000))) as Backend
        if (!available.includes(chosen)) wrong++
        chosen.counters.begin()
        flying.push(chosen)
        if (random() < 0.9) {
          const [ended] = flying.splice(Math.floor(random() * flying.length), 1)
          ended.counters.end('successful', 1)
          balancer.settle?.(ended, outcomeOf({ headTime: random() * 100 }))
        }
      }
    }
    t.equal(wrong, 0)
    t.end()
  })

  t.test('never chooses one already tried while another is left, and none when all are', t => {
    for (const weights of [[1], [1, 1], [3, 1], [1, 1, 1], [5, 3, 2], [1, 1, 1, 1], [100, 1, 1, 0.5], Array.from({ length: 60 }, () => 1)]) {
      const available = backendsOf(weights)
      const balancer = ready(available)
      const random = seeded(weights.length)
      let wrong = 0
      for (let i = 0; i < 300; i++) {
        const tried: Backend[] = []
        for (const backend of available) backend.counters.inFlight = Math.floor(random() * 4)
        while (tried.length < available.length) {
          const chosen = choose(balancer, available, { ...asking(i), tried: tried.length === 0 ? null : tried }) as Backend
          if (chosen === undefined || tried.includes(chosen) || !available.includes(chosen)) wrong++
          // Not only those that it would have chosen itself.
          const left = available.filter(backend => !tried.includes(backend))
          tried.push(random() < 0.5 && chosen !== undefined ? chosen : left[Math.floor(random() * left.length)])
        }
        if (choose(balancer, available, { ...asking(i), tried }) !== undefined) wrong++
        // Those that have gone since are of no account.
        if (choose(balancer, available, { ...asking(i), tried: equalBackends(3) }) === undefined) wrong++
        if (weights.length > 10) i += 30
      }
      t.equal(wrong, 0, `weights ${weights.slice(0, 5)}`)
    }
    t.end()
  })

  t.test('works with one backend', t => {
    for (const weight of [1, 0.001, 65_535]) {
      const available = backendsOf([weight])
      const balancer = ready(available)
      t.strictSame(countsOf(balancer, available, 20), [20])
    }
    t.end()
  })

  t.test('works with 10 000 backends, and when one of them goes', t => {
    for (const weight of [() => 1, (i: number) => 1 + i % 7]) {
      const available = backendsOf(Array.from({ length: 10_000 }, (_, i) => weight(i)))
      const balancer = ready(available)
      const members = new Set(available)
      const chosen = new Set<Backend | undefined>()
      for (let i = 0; i < 500; i++) chosen.add(choose(balancer, available, asking(i)))
      t.ok([...chosen].every(backend => members.has(backend as Backend)))
      t.ok(chosen.size > 250, 'spread over many', { found: chosen.size })
      const [gone] = chosen as Set<Backend>
      const fewer = Object.freeze(available.filter(backend => backend !== gone))
      balancer.rebuild?.(fewer)
      for (let i = 0; i < 500; i++) members.delete(choose(balancer, fewer, asking(i)) as Backend)
      t.ok(members.has(gone), 'the one that has gone is not chosen')
    }
    t.end()
  })

  t.test('works where all weights are 0', t => {
    for (const count of [1, 2, 3, 40]) {
      const available = backendsOf(Array.from({ length: count }, () => 0))
      const balancer = ready(available)
      const counts = countsOf(balancer, available, 400)
      t.equal(counts.reduce((sum, count) => sum + count, 0), 400)
      t.ok(counts.every(count => count > 0), 'all alike', { counts })
      balancer.settle?.(available[0], outcomeOf())
      t.ok(choose(balancer, available, { ...asking(1), tried: available.slice(1) }) === available[0])
    }
    const mixed = backendsOf([0, 1, 1])
    const counts = countsOf(ready(mixed), mixed, 2000)
    t.ok(counts[0] <= 2 && counts[1] > 0 && counts[2] > 0, 'beside others 0 gets nothing', { counts })
    t.end()
  })

  t.test('takes an empty list and goes on after it', t => {
    const available = backendsOf([2, 1])
    const balancer = ready(Object.freeze([]))
    balancer.rebuild?.(available)
    t.ok(choose(balancer, available, asking(1)))
    balancer.rebuild?.(Object.freeze([]))
    balancer.settle?.(available[0], outcomeOf())
    balancer.rebuild?.(available)
    t.ok(choose(balancer, available, asking(1)))
    t.end()
  })

  const isFair = (t: Test, counts: number[], weights: number[], name: string) => {
    const all = counts.reduce((sum, count) => sum + count, 0)
    const total = weights.reduce((sum, weight) => sum + weight, 0)
    if (shares === 'exact') t.strictSame(counts, weights.map(weight => all * weight / total), name)
    else if (shares === 'chance') t.ok(chiSquare(counts, weights) < chiSquareLimit(weights.length - 1), name, { counts })
    else t.ok(counts.every((count, i) => Math.abs(count / (all * weights[i] / total) - 1) < shares), name, { counts })
  }
  const times = typeof shares === 'number' ? 100_000 : shares === 'exact' ? 1000 : 20_000

  t.test('gives 5:3:2 their shares', t => {
    const weights = [5, 3, 2]
    const available = backendsOf(weights)
    isFair(t, countsOf(ready(available), available, times), weights, '5:3:2')
    const scaled = backendsOf(weights.map(weight => weight / 40))
    isFair(t, countsOf(ready(scaled), scaled, times), weights, 'fractions of the same proportions')
    t.end()
  })

  t.test('gives equal weights equal shares', t => {
    const available = equalBackends(8)
    isFair(t, countsOf(ready(available), available, times), available.map(() => 1), '8 alike')
    t.end()
  })

  t.test('goes by new weights from the next choice on', t => {
    const available = backendsOf([1, 1, 1])
    const balancer = ready(available)
    countsOf(balancer, available, 30)
    available[0].effectiveWeight = 8
    const changed = Object.freeze([...available])
    balancer.rebuild?.(changed)
    isFair(t, countsOf(balancer, changed, times), [8, 1, 1], '8:1:1')
    available[0].effectiveWeight = 2
    available[1].effectiveWeight = 2
    available[2].effectiveWeight = 4
    balancer.rebuild?.(available)
    isFair(t, countsOf(balancer, available, times), [1, 1, 2], '1:1:2')
    t.end()
  })

  t.test('hears of a backend that it does not know without harm', t => {
    const available = backendsOf([1, 2])
    const balancer = ready(available)
    balancer.settle?.(backendsOf([1])[0], outcomeOf({ culprit: 'backend' }))
    t.ok(choose(balancer, available, asking(1)))
    t.end()
  })
}
