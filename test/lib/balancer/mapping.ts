import type { Backend } from '../../../lib/backend.ts'
import { createBalancer, hashReady } from '../../../lib/balancer/index.ts'
import type { BalancerOptions } from '../../../types/index.ts'
import { backendsOf, choose } from './suite.ts'

/** The policies that map keys. */
export const HASHING: readonly BalancerOptions[] = [
  { type: 'ip-hash' },
  { type: 'ring-hash' },
  { type: 'ring-hash', probes: 1 },
  { type: 'maglev' },
  { type: 'rendezvous' }
]

/** So many keys, as addresses. */
export function keysOf (count: number): string[] {
  return Array.from({ length: count }, (_, i) => `2001:db8::${(i >> 12).toString(16)}:${i.toString(16)}`)
}

/** The id of the backend that each key is mapped to. */
export function mappingOf (options: BalancerOptions, available: readonly Backend[], keys: readonly string[]): string[] {
  const balancer = createBalancer(options)
  balancer.rebuild?.(available)
  return keys.map(ip => (choose(balancer, available, { ip }) as Backend).id)
}

/** One mapping of each policy, by backends of different weights. */
export function sampleMappings (): string[][] {
  const available = backendsOf([1, 2, 1, 3, 1, 1, 5], i => `10.0.0.${i}:8080`)
  return HASHING.map(options => mappingOf(options, available, keysOf(300)))
}

// Started by itself, it tells another process.
if (process.argv[1] === import.meta.filename) {
  await hashReady
  process.stdout.write(JSON.stringify(sampleMappings()))
}
