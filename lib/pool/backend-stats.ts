import type { BackendPoolStats, PoolStats } from '../../types/index.ts'

const UNCONNECTED: BackendPoolStats = Object.freeze({ total: 0, active: 0, idle: 0, pending: 0, connects: 0, connectErrors: 0, requests: 0, reuseRatio: 0 })

/** The part of one backend in what a pool tells; `null` where it tells of none. An id may be any word: only what the pool has put there counts. */
export function backendStatsOf (stats: PoolStats | null, id: string): BackendPoolStats | null {
  const backends = stats?.backends as PoolStats['backends'] | null | undefined
  if (typeof backends !== 'object' || backends === null) return null
  return Object.hasOwn(backends, id) ? backends[id] : UNCONNECTED
}
