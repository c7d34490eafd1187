import { Type, type Static } from '@sinclair/typebox'
import { CircuitViewSchema, ConnectionsViewSchema, CountsViewSchema, HealthViewSchema } from './admin-views.ts'
import { nullable } from './admin.ts'

const count = (description: string) => Type.Integer({ minimum: 0, description })
const upstream = Type.String({ description: 'Name of the upstream.', examples: ['default'] })
const id = Type.String({ description: 'Id of the backend.', examples: ['backend-1'] })
const options = Type.Record(Type.String(), Type.Unknown(), { description: 'Its options, the defaults filled in; a function shows as `function`.' })
const own = Type.Boolean({ description: 'Whether it is an instance of the application\'s own, or a function, of which only the type is known.' })

/** A load balancer as JSON. */
export const BalancerViewSchema = Type.Object({
  upstream,
  type: Type.String({ description: 'The policy.', examples: ['least-requests'] }),
  own,
  options
}, { title: 'BalancerView', description: 'The load balancer of an upstream.', examples: [{ upstream: 'default', type: 'peak-ewma', own: false, options: { decay: 10_000, penalty: 1_000 } }] })

/** The circuit of one backend as JSON. */
export const BackendCircuitViewSchema = Type.Object({
  id,
  upstream,
  ...CircuitViewSchema.properties
}, { title: 'BackendCircuit', description: 'The circuit of a backend.', examples: [{ id: 'backend-1', upstream: 'default', state: 'open', retryAfter: 29_300 }] })

/** A circuit breaker with its circuits as JSON. */
export const BreakerViewSchema = Type.Object({
  upstream,
  type: Type.String({ description: 'The kind: `circuit-breaker`, `none`, or that of an instance.', examples: ['circuit-breaker'] }),
  own,
  options,
  open: count('How many circuits are open.'),
  circuits: Type.Array(BackendCircuitViewSchema, { description: 'One for each backend, in the order they were added.' })
}, { title: 'BreakerView', description: 'The circuit breaker of an upstream, and its circuits.' })

/** The health of one backend as JSON. */
export const BackendHealthViewSchema = Type.Object({
  id,
  upstream,
  ...HealthViewSchema.properties
}, { title: 'BackendHealth', description: 'What is known of the health of a backend.' })

const healthList = {
  upstream,
  ready: Type.Boolean({ description: 'Whether as many backends are available as must be.' }),
  count: count('How many backends there are.'),
  healthy: count('How many of them requests are sent to.'),
  backends: Type.Array(BackendHealthViewSchema, { description: 'In the order they were added.' })
}

/** The health of all backends of an upstream as JSON. */
export const HealthListViewSchema = Type.Object(healthList, { title: 'HealthList', description: 'What is known of the health of an upstream\'s backends.' })

const checks = {
  ...healthList,
  passed: Type.Boolean({ description: 'Whether all active backends have passed.' }),
  failed: Type.Array(Type.Object({
    id,
    errorMessage: Type.String({ description: 'What was wrong.', examples: ['connect ECONNREFUSED'] }),
    statusCode: Type.Integer({ description: 'Status of the answer; 0 where there was none.' })
  }), { description: 'Those that have not.' })
}

/** What checks have found. */
export const HealthChecksViewSchema = Type.Object(checks, { title: 'HealthChecks', description: 'What checks have found.' })

/** What checks have found where some have failed: an error that says which. */
export const HealthChecksFailedViewSchema = Type.Object({
  statusCode: Type.Integer({ description: 'The status.' }),
  code: Type.String({ description: '`FST_ROCKSTAR_UNHEALTHY`.' }),
  error: Type.String({ description: 'The status in words.' }),
  message: Type.String({ description: 'Which have failed, for people.' }),
  ...checks
}, { title: 'HealthChecksFailed', description: 'What checks have found, and which have failed.' })

/** An upstream at a glance. */
export const UpstreamStatusSchema = Type.Object({
  name: upstream,
  ready: Type.Boolean({ description: 'Whether as many backends are available as must be.' }),
  panic: Type.Boolean({ description: 'Whether too few are available, so that all active ones are used.' }),
  balancer: Type.String({ description: 'Type of its load balancer.', examples: ['round-robin'] }),
  breaker: Type.String({ description: 'Type of its circuit breaker.', examples: ['circuit-breaker'] }),
  backends: Type.Object({
    total: count('Listed.'),
    active: count('Active, not draining, and of a weight above 0.'),
    available: count('That may be chosen now.'),
    unhealthy: count('That fail their checks.'),
    ejected: count('Taken out by outlier detection.'),
    draining: count('That only finish what they have.')
  }, { description: 'How many backends there are.' }),
  circuits: Type.Object({
    open: count('Open.'),
    halfOpen: count('Half-open.')
  }, { description: 'Circuits that are not closed.' }),
  requests: Type.Object({
    ...CountsViewSchema.properties,
    totalRetries: count('Attempts made again after a failure.'),
    shedRequests: count('Refused by limits.'),
    queueLength: count('Waiting to be let in.')
  }, { description: 'Requests, and their times.' }),
  connections: nullable(ConnectionsViewSchema),
  tunnels: Type.Object({
    open: count('Open.'),
    total: count('Opened since the start.'),
    bytesReceived: count('Bytes from clients.'),
    bytesSent: count('Bytes from backends.')
  }, { description: 'Connections that were switched to another protocol.' }),
  dns: nullable(Type.Object({
    hits: count('Look-ups answered at once.'),
    stale: count('Look-ups answered at once by an answer beyond its time.'),
    misses: count('Look-ups that had to wait.'),
    errors: count('Look-ups that got no address.'),
    queries: count('Times that a name was asked for.'),
    failures: count('Times that this failed.'),
    names: count('Names remembered.')
  }, { description: 'The cache of names, which upstreams share; `null` where there is none.' }))
}, { title: 'UpstreamStatus', description: 'An upstream at a glance.' })

/** All of it at a glance. */
export const StatusViewSchema = Type.Object({
  version: Type.String({ description: 'Version of rockstar-proxy.', examples: ['1.0.0'] }),
  uptime: Type.Number({ minimum: 0, description: 'Milliseconds since the plugin was registered.' }),
  ready: Type.Boolean({ description: 'Whether every upstream that has backends is ready.' }),
  upstreams: Type.Array(UpstreamStatusSchema, { description: 'The default one first.' })
}, { title: 'StatusView', description: 'The proxy at a glance.' })

/** A load balancer as JSON. */
export type BalancerView = Static<typeof BalancerViewSchema>
/** A circuit breaker with its circuits as JSON. */
export type BreakerView = Static<typeof BreakerViewSchema>
/** The circuit of one backend as JSON. */
export type BackendCircuitView = Static<typeof BackendCircuitViewSchema>
/** The health of one backend as JSON. */
export type BackendHealthView = Static<typeof BackendHealthViewSchema>
/** The health of all backends of an upstream as JSON. */
export type HealthListView = Static<typeof HealthListViewSchema>
/** An upstream at a glance. */
export type UpstreamStatus = Static<typeof UpstreamStatusSchema>
/** All of it at a glance. */
export type StatusView = Static<typeof StatusViewSchema>
