import type { Backend } from './backend.ts'
import type { CircuitState } from './circuit-breaker.ts'
import type { DiscoveryEvent } from './discovery.ts'

/** What every event tells. */
export interface ProxyEvent {
  /** Name of the upstream. */
  upstream: string
  /** When, in milliseconds since 1970. */
  time: number
}

/** Something has become of a backend. */
export interface BackendEvent extends ProxyEvent {
  backend: Backend
}

/** A check or an answer has changed what is thought of a backend. */
export interface HealthEvent extends BackendEvent {
  /** What made it so, in words. */
  cause: string
  /** What was counted. */
  counts: Record<string, number>
}

/** A circuit has changed. */
export interface CircuitEvent extends HealthEvent {
  from: CircuitState
  to: CircuitState
}

/** Too few are available, or enough again. */
export interface PanicEvent extends ProxyEvent {
  available: number
  active: number
}

/** The events of `proxy.on()`, and of `node:diagnostics_channel` under `rockstar-proxy:NAME`. */
export interface ProxyEvents {
  'backend:added': [BackendEvent]
  'backend:draining': [BackendEvent]
  'backend:drained': [BackendEvent]
  'backend:removed': [BackendEvent]
  'backend:healthy': [HealthEvent]
  'backend:unhealthy': [HealthEvent]
  'backend:ejected': [HealthEvent & { until: number }]
  'backend:returned': [HealthEvent]
  'circuit:open': [CircuitEvent]
  'circuit:half-open': [CircuitEvent]
  'circuit:closed': [CircuitEvent]
  'discovery:failed': [DiscoveryEvent]
  'discovery:recovered': [DiscoveryEvent]
  'panic:on': [PanicEvent]
  'panic:off': [PanicEvent]
}

export type ProxyEventName = keyof ProxyEvents
