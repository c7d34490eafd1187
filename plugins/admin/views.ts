import { inspect } from 'node:util'
import type { Backend } from '../../lib/backend.ts'
import { healthOf } from '../../lib/health/index.ts'
import { backendStatsOf } from '../../lib/pool/index.ts'
import type { UpstreamManager } from '../../lib/upstream-manager.ts'
import type { BackendCircuitView, BackendHealthView, BackendView, DrainingView } from '../../types/index.ts'

/** A backend with all of its live state, as plain data. */
export function backendView (upstream: UpstreamManager, backend: Backend): BackendView {
  return backendViews(upstream, [backend])[0]
}

/** The same for several: what is worked out for all of an upstream is so once. */
export function backendViews (upstream: UpstreamManager, backends: readonly Backend[]): BackendView[] {
  const attempts = upstream.listBackends().reduce((sum, { counters }) => sum + counters.total, 0)
  const stats = upstream.state.poolStats()
  return backends.map(backend => {
    const { metadata, healthCheck, http2 = false, counters } = backend
    return {
      upstream: upstream.name,
      ...backend.toJSON(),
      reasons: backend.obstacles,
      circuit: circuitView(backend),
      health: plain(healthOf(backend)),
      share: attempts === 0 ? 0 : counters.total / attempts,
      metrics: counters.snapshot(),
      connections: backendStatsOf(stats, backend.id),
      http2,
      healthCheck: shown({ ...healthCheck, ...(healthCheck?.headers === undefined ? {} : { headers: masked(healthCheck.headers) }) }),
      ...(backend.draining ? { drain: { inFlight: backend.inFlight, remaining: remainingOf(upstream, backend) } } : {}),
      metadata: shown(metadata)
    } as BackendView
  })
}

/** A circuit as plain data. */
export function circuitView ({ circuit: { state, retryAfter } }: Backend): BackendView['circuit'] {
  return { state, retryAfter: retryAfter === Infinity ? null : retryAfter }
}

/** A circuit, and whose it is. */
export function backendCircuitView ({ name }: UpstreamManager, backend: Backend): BackendCircuitView {
  return { id: backend.id, upstream: name, ...circuitView(backend) }
}

/** What is known of a backend's health, and whose it is. */
export function backendHealthView ({ name }: UpstreamManager, backend: Backend): BackendHealthView {
  return { id: backend.id, upstream: name, ...plain<BackendView['health']>(healthOf(backend)) }
}

/** A drain or a removal that has begun, or is over. */
export function drainingView (upstream: UpstreamManager, backend: Backend, draining: boolean): DrainingView {
  return { id: backend.id, upstream: upstream.name, draining, inFlight: backend.inFlight, remaining: draining ? remainingOf(upstream, backend) : 0 }
}

/** Options as they may be shown: functions by their kind. */
export function shownOptions (options: object): Record<string, unknown> {
  return shown(Object.fromEntries(Object.entries(options).map(([name, value]) => [name, typeof value === 'function' ? 'function' : Array.isArray(value) ? value.map(one => typeof one === 'function' ? 'function' : one) : value])))
}

/** What JSON makes of a value: dates as text, nothing left of what is undefined. */
export function plain<Result> (value: unknown): Result {
  return JSON.parse(JSON.stringify(value)) as Result
}

/** Values of any kind as JSON: what JSON cannot tell, as Node shows it. */
function shown (values: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const entries = Object.entries(values).filter(([, value]) => value !== undefined).map(([key, value]) => [key, writable(value)])
  return Object.fromEntries(entries)
}

function writable (value: unknown): unknown {
  if (typeof value === 'function') return 'function'
  if (value instanceof RegExp) return String(value)
  try {
    return JSON.stringify(value) === undefined ? inspect(value) : value
  } catch {
    return inspect(value, { depth: 1 })
  }
}

/** The names of headers: what is in them may be a secret. */
function masked (headers: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(Object.keys(headers).map(name => [name, '***']))
}

function remainingOf ({ state: { clock } }: UpstreamManager, { drainsUntil }: Backend): number {
  return drainsUntil === null ? 0 : Math.max(0, drainsUntil - clock.now())
}
