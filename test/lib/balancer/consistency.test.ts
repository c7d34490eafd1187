import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import { inspect } from 'node:util'
import t from 'tap'
import type { Backend } from '../../../lib/backend.ts'
import { createBalancer, hashReady } from '../../../lib/balancer/index.ts'
import type { BalancerOptions } from '../../../types/index.ts'
import { seeded } from '../../helpers/random.ts'
import { HASHING, keysOf, mappingOf, sampleMappings } from './mapping.ts'
import { backendsOf, choose, equalBackends } from './suite.ts'

await hashReady

const keys = keysOf(20_000)

/** How many keys have another backend now, and how many of those have one that they need not have. */
function moves (before: readonly string[], after: readonly string[], mayMoveTo: (from: string, to: string) => boolean): { moved: number, needlessly: number } {
  let moved = 0
  let needlessly = 0
  before.forEach((from, i) => {
    if (from === after[i]) return
    moved++
    if (!mayMoveTo(from, after[i])) needlessly++
  })
  return { moved: moved / before.length, needlessly: needlessly / before.length }
}

for (const options of HASHING) {
  const isMaglev = options.type === 'maglev'
  // What a share of 1/N is in these keys and points; a plain ring has large shares and small ones.
  const most = (count: number) => (isMaglev ? 2 : 'probes' in options ? 1.5 : 1.2) / count

  t.test(`${inspect(options)}: adding one of N backends moves no more than its share`, t => {
    for (const count of [5, 10, 100]) {
      const all = equalBackends(count, i => `10.0.0.${i}:80`)
      const { moved, needlessly } = moves(mappingOf(options, all.slice(0, -1), keys), mappingOf(options, all, keys), (_, to) => to === all[count - 1].id)
      t.ok(moved > 0.5 / count && moved <= most(count), `to ${count}`, { found: moved * count })
      t.ok(needlessly <= (isMaglev ? 1 / count : 0), 'and only to the new one', { needlessly })
    }
    t.end()
  })

  t.test(`${inspect(options)}: removing one of N backends moves no more than its share`, t => {
    for (const count of [5, 10, 100]) {
      const all = equalBackends(count, i => `10.0.0.${i}:80`)
      for (const index of [0, count >> 1]) {
        const gone = all[index]
        const { moved, needlessly } = moves(mappingOf(options, all, keys), mappingOf(options, all.filter(backend => backend !== gone), keys), from => from === gone.id)
        t.ok(moved > 0.5 / count && moved <= most(count), `number ${index} of ${count}`, { found: moved * count })
        t.ok(needlessly <= (isMaglev ? 1 / count : 0), 'and only from the one that has gone', { needlessly })
      }
    }
    t.end()
  })

  t.test(`${inspect(options)}: a backend that comes back gets the very keys it had`, t => {
    const all = equalBackends(12)
    const balancer = createBalancer(options)
    const map = (available: readonly Backend[]) => {
      balancer.rebuild?.(available)
      return keys.slice(0, 3000).map(ip => choose(balancer, available, { ip })?.id)
    }
    const before = map(all)
    map(all.slice(3))
    map(all.slice(0, 2))
    t.strictSame(map(all), before)
    t.end()
  })

  t.test(`${inspect(options)}: a new weight moves only what it must`, t => {
    const weights = [2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    const all = backendsOf(weights)
    const before = mappingOf(options, all, keys)
    for (const weight of [3, 1, 0.5, 8]) {
      const changed = backendsOf(weights.map((old, i) => i === 4 ? weight : old))
      const { moved, needlessly } = moves(before, mappingOf(options, changed, keys), (from, to) => (weight > 2 ? to : from) === 'b4')
      const must = Math.abs(weight / (18 + weight) - 0.1)
      t.ok(moved < must * 1.5 + (isMaglev ? 0.1 : 0.005), `from 2 to ${weight}`, { moved, must })
      t.ok(needlessly <= (isMaglev ? 0.1 : 0), 'and only to or from the one that has it', { needlessly })
    }
    t.end()
  })

  t.test(`${inspect(options)}: the order of the backends does not matter`, t => {
    const random = seeded(3)
    const all = backendsOf([1, 2, 3, 1, 2, 3, 1, 2, 3, 0.5], i => `host-${i}`)
    const before = mappingOf(options, all, keys.slice(0, 5000))
    for (let i = 0; i < 3; i++) {
      const shuffled = all.toSorted(() => random() - 0.5)
      t.strictSame(mappingOf(options, shuffled, keys.slice(0, 5000)), before)
    }
    t.end()
  })

  t.test(`${inspect(options)}: what happened before does not matter`, t => {
    const random = seeded(4)
    const all = backendsOf(Array.from({ length: 20 }, (_, i) => 1 + i % 4))
    const balancer = createBalancer(options)
    for (let i = 0; i < 10; i++) {
      all.forEach(backend => { backend.effectiveWeight = random() < 0.3 ? random() * 5 + 0.1 : backend.weight })
      balancer.rebuild?.(all.filter(() => random() < 0.7))
    }
    all.forEach(backend => { backend.effectiveWeight = backend.weight })
    balancer.rebuild?.(all)
    t.strictSame(keys.slice(0, 5000).map(ip => choose(balancer, all, { ip })?.id), mappingOf(options, all, keys.slice(0, 5000)))
    t.end()
  })
}

t.test('a ring that is full moves at most twice what it must', t => {
  const options: BalancerOptions = { type: 'ring-hash', maxRingSize: 10_000 }
  const all = equalBackends(200)
  const { moved } = moves(mappingOf(options, all, keys), mappingOf(options, all.slice(1), keys), () => true)
  t.ok(moved <= 2.2 / 200, '2/N', { found: moved * 200 })
  t.end()
})

t.test('another process maps the same keys to the same backends', t => {
  const { NODE_OPTIONS, ...env } = process.env
  const { stdout, stderr, status } = spawnSync(process.execPath, ['--import', 'tsx', join(import.meta.dirname, 'mapping.ts')], { encoding: 'utf8', env })
  t.equal(status, 0, stderr)
  t.strictSame(JSON.parse(stdout), sampleMappings())
  t.end()
})

// A release that changes these sends every key elsewhere where two of its versions run side by side.
t.test('the mappings are those of the versions before', t => {
  const digests = sampleMappings().map(mapping => createHash('sha256').update(mapping.join()).digest('hex').slice(0, 16))
  t.strictSame(digests, ['d532bc64cf74af43', 'd532bc64cf74af43', 'ab1436c3613270ab', '3ebbc221f2de8983', '43559a4b6c274e22'])
  t.end()
})
