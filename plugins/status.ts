import type { UpstreamManager } from '../lib/upstream-manager.ts'
import { version } from '../lib/version.ts'
import { StatusViewSchema, UpstreamQuerySchema, type BackendPoolStats, type UpstreamStatus } from '../types/index.ts'
import { isReady } from './admin/readiness.ts'
import { resource } from './admin/resource.ts'

/** Tells how the proxy is, at a glance. */
const status = resource('status', ({ proxy, upstreamOf }) => [
  {
    method: 'GET',
    url: '/status',
    summary: 'See how the proxy is',
    description: 'All upstreams at a glance, or one of them.',
    query: UpstreamQuerySchema,
    response: { 200: StatusViewSchema },
    handler: async request => ({
      version,
      uptime: proxy.state.clock.now() - proxy.startedAt,
      ready: proxy.isReady(),
      upstreams: (isNamed(request.query) ? [upstreamOf(request)] : proxy.listUpstreams()).map(upstreamStatus)
    })
  }
])

function isNamed (query: unknown): boolean {
  return (query as { upstream?: string }).upstream !== undefined
}

/** Numbers only that are there already: it may be asked for many times a second. */
function upstreamStatus (upstream: UpstreamManager): UpstreamStatus {
  const { state } = upstream
  const { counters, tallies, tunnels, admission, dns } = state
  const backends = { total: 0, active: 0, available: state.available.length, unhealthy: 0, ejected: 0, draining: 0 }
  const circuits = { open: 0, halfOpen: 0 }
  for (const { enlisted, healthy, ejected, draining, circuitState } of state.list()) {
    backends.total++
    if (enlisted) backends.active++
    if (!healthy) backends.unhealthy++
    if (ejected) backends.ejected++
    if (draining) backends.draining++
    if (circuitState === 'open') circuits.open++
    if (circuitState === 'half-open') circuits.halfOpen++
  }
  return {
    name: upstream.name,
    ready: isReady(upstream),
    panic: state.panic,
    balancer: state.balancer.type,
    breaker: state.breaker.type,
    backends,
    circuits,
    requests: { ...counters.snapshot(), totalRetries: tallies.retries, shedRequests: tallies.shed, queueLength: admission?.queueLength ?? 0 },
    connections: sumsOf(state.poolStats()),
    tunnels: { ...tunnels.metrics() },
    dns: dns.enabled ? { ...dns.counts, names: dns.size } : null
  }
}

/** What a pool tells in sum. */
function sumsOf (stats: BackendPoolStats | null): BackendPoolStats | null {
  if (stats === null) return null
  const { total, active, idle, pending, connects, connectErrors, requests, reuseRatio } = stats
  return { total, active, idle, pending, connects, connectErrors, requests, reuseRatio }
}

export default status
export { status, status as 'module.exports' }
