import type { BackendDistribution, UpstreamMetrics } from '../../types/index.ts'
import type { Admission } from '../admission/index.ts'
import type { Backend } from '../backend.ts'
import type { Counters, Tallies } from '../metrics/index.ts'
import type { Tunnels } from '../tunnel/index.ts'

/** Where the numbers of an upstream are kept. */
export interface Measured {
  readonly counters: Counters
  readonly tallies: Tallies
  readonly tunnels: Tunnels
  readonly admission: Admission | null
  readonly panic: boolean
  list (): readonly Backend[]
}

/** The numbers of an upstream as users get them. */
export function metricsOf (upstream: Measured): UpstreamMetrics {
  const backends: UpstreamMetrics['backends'] = Object.create(null)
  const listed = upstream.list()
  const attempts = listed.reduce((sum, { counters }) => sum + counters.total, 0)
  for (const backend of listed) backends[backend.id] = distributionOf(backend, attempts)
  const { retries, retriesDenied, hedges, hedgesWon, queued, shed, timeouts, fallbacks, mirrored, mirrorsSkipped } = upstream.tallies
  return {
    ...upstream.counters.snapshot(),
    totalRetries: retries,
    retriesDenied,
    hedgedRequests: hedges,
    hedgesWon,
    queuedRequests: queued,
    queueLength: upstream.admission?.queueLength ?? 0,
    shedRequests: shed,
    timeouts: { ...timeouts },
    fallbacksServed: fallbacks,
    mirroredRequests: mirrored,
    mirrorsSkipped,
    tunnels: upstream.tunnels.metrics(),
    panic: upstream.panic,
    backends
  }
}

function distributionOf ({ counters, weight, effectiveWeight, limit, chosen }: Backend, attempts: number): BackendDistribution {
  return { ...counters.snapshot(), share: attempts === 0 ? 0 : counters.total / attempts, weight, effectiveWeight, limit: limit === Infinity ? null : limit, chosenBecause: { ...chosen } }
}
