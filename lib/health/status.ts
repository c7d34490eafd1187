import type { BackendHealth, HealthSource } from '../../types/index.ts'
import type { Backend } from '../backend.ts'

/** What is known of a backend's health, for people. */
export function healthOf (backend: Backend): BackendHealth {
  const { health, outlier, ejected } = backend
  return {
    isHealthy: backend.available,
    lastCheck: health?.lastCheck,
    lastSuccess: health?.lastSuccess,
    lastFailure: health?.lastFailure,
    consecutiveFails: health?.consecutiveFails ?? 0,
    responseTime: health?.responseTime ?? 0,
    errorMessage: health?.errorMessage ?? '',
    statusCode: health?.statusCode ?? 0,
    source: sourceOf(backend),
    since: backend.healthSince,
    ejections: outlier?.ejections ?? 0,
    ejectedUntil: ejected && outlier !== null ? new Date(outlier.ejectedUntil) : undefined
  }
}

function sourceOf ({ isActive, draining, weight, healthy, ejected, circuit }: Backend): HealthSource {
  if (!isActive || draining || weight === 0 || circuit.retryAfter === Infinity) return 'manual'
  if (!healthy) return 'active'
  return ejected || circuit.state !== 'closed' ? 'outlier' : 'active'
}
