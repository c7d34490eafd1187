import { flag, type Family } from './family.ts'
import type { BackendSource } from './sources.ts'

/** What is known of a backend. Its series have the labels `upstream` and `backend`, the backend's id. */
export const BACKEND_FAMILIES: readonly Family<BackendSource>[] = [
  {
    name: 'rockstar_proxy_attempts_total',
    type: 'counter',
    help: 'Attempts on a backend that have ended: successful with a whole answer below 500, failed, or aborted because the client or the proxy gave them up.',
    label: 'outcome',
    read: ({ backend: { counters } }, tell) => {
      tell(counters.successful, 'successful')
      tell(counters.failed, 'failed')
      tell(counters.aborted, 'aborted')
    }
  },
  {
    name: 'rockstar_proxy_attempts_in_flight',
    type: 'gauge',
    help: 'Attempts on a backend under way.',
    read: ({ backend }, tell) => tell(backend.counters.inFlight)
  },
  {
    name: 'rockstar_proxy_attempts_limit',
    type: 'gauge',
    help: 'Attempts that a backend may have at once; none where limits say nothing of backends.',
    read: ({ backend }, tell) => { if (backend.limit !== Infinity) tell(backend.limit) }
  },
  {
    name: 'rockstar_proxy_attempt_duration_seconds',
    type: 'histogram',
    help: 'Time from an attempt on a backend to the end of its answer; aborted ones do not count.',
    histogramOf: ({ backend }) => backend.counters.times
  },
  {
    name: 'rockstar_proxy_backend_up',
    type: 'gauge',
    aggregator: 'average',
    help: 'Whether nothing is found wrong with a backend: it is healthy, not ejected, and its circuit is not open.',
    read: ({ backend }, tell) => tell(flag(backend.healthy && !backend.ejected && backend.circuit.state !== 'open'))
  },
  {
    name: 'rockstar_proxy_backend_available',
    type: 'gauge',
    aggregator: 'average',
    help: 'Whether a backend may be chosen: it is up, active, not draining, and has a weight.',
    read: ({ backend }, tell) => tell(flag(backend.available))
  },
  {
    name: 'rockstar_proxy_backend_active',
    type: 'gauge',
    aggregator: 'average',
    help: 'Whether a backend is to take new requests.',
    read: ({ backend }, tell) => tell(flag(backend.isActive))
  },
  {
    name: 'rockstar_proxy_backend_healthy',
    type: 'gauge',
    aggregator: 'average',
    help: 'Whether a backend passes its health checks; 1 where there are none.',
    read: ({ backend }, tell) => tell(flag(backend.healthy))
  },
  {
    name: 'rockstar_proxy_backend_ejected',
    type: 'gauge',
    aggregator: 'average',
    help: 'Whether outlier detection has taken a backend out.',
    read: ({ backend }, tell) => tell(flag(backend.ejected))
  },
  {
    name: 'rockstar_proxy_backend_draining',
    type: 'gauge',
    aggregator: 'average',
    help: 'Whether a backend only finishes what it has.',
    read: ({ backend }, tell) => tell(flag(backend.draining))
  },
  {
    name: 'rockstar_proxy_backend_circuit_state',
    type: 'gauge',
    aggregator: 'average',
    help: 'State of the circuit of a backend: 1 for the one it is in.',
    label: 'state',
    read: ({ backend: { circuit: { state } } }, tell) => {
      tell(flag(state === 'closed'), 'closed')
      tell(flag(state === 'open'), 'open')
      tell(flag(state === 'half-open'), 'half-open')
    }
  },
  {
    name: 'rockstar_proxy_backend_weight',
    type: 'gauge',
    aggregator: 'average',
    help: 'Weight of a backend.',
    read: ({ backend }, tell) => tell(backend.weight)
  },
  {
    name: 'rockstar_proxy_backend_effective_weight',
    type: 'gauge',
    aggregator: 'average',
    help: 'Weight of a backend that load balancers go by: times the factors of slow start and of weights.',
    read: ({ backend }, tell) => tell(backend.effectiveWeight)
  },
  {
    name: 'rockstar_proxy_health_checks_total',
    type: 'counter',
    help: 'Active health checks of a backend, by their result.',
    label: 'result',
    read: ({ backend: { health } }, tell) => {
      tell(health?.passes ?? 0, 'passed')
      tell(health?.fails ?? 0, 'failed')
    }
  },
  {
    name: 'rockstar_proxy_connections',
    type: 'gauge',
    help: 'Connections to a backend: active with a request on them or being opened for one, or idle.',
    label: 'state',
    read: ({ connections }, tell) => {
      if (connections === null) return
      tell(connections.active, 'active')
      tell(connections.idle, 'idle')
    }
  },
  {
    name: 'rockstar_proxy_connection_queue_length',
    type: 'gauge',
    help: 'Requests that wait for a connection to a backend.',
    read: ({ connections }, tell) => { if (connections !== null) tell(connections.pending) }
  },
  {
    name: 'rockstar_proxy_connects_total',
    type: 'counter',
    help: 'Connections made to a backend.',
    read: ({ connections }, tell) => { if (connections !== null) tell(connections.connects) }
  },
  {
    name: 'rockstar_proxy_connect_errors_total',
    type: 'counter',
    help: 'Connections to a backend that could not be made.',
    read: ({ connections }, tell) => { if (connections !== null) tell(connections.connectErrors) }
  },
  {
    name: 'rockstar_proxy_connection_requests_total',
    type: 'counter',
    help: 'Requests that asked for a connection to a backend.',
    read: ({ connections }, tell) => { if (connections !== null) tell(connections.requests) }
  },
  {
    name: 'rockstar_proxy_connection_reuses_total',
    type: 'counter',
    help: 'Requests that got a connection to a backend already used.',
    read: ({ connections }, tell) => { if (connections !== null) tell(Math.round(connections.requests * connections.reuseRatio)) }
  }
]
