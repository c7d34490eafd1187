import { Type, type Static } from '@sinclair/typebox'
import { nullable } from './admin.ts'

const time = (description: string) => Type.String({ format: 'date-time', description, examples: ['2026-01-01T12:00:00.000Z'] })
const count = (description: string) => Type.Integer({ minimum: 0, description })
const milliseconds = (description: string) => Type.Number({ minimum: 0, description: `${description}, in milliseconds.` })
const circuitState = Type.Union([Type.Literal('closed'), Type.Literal('open'), Type.Literal('half-open')], { description: 'State of its circuit.' })

/** Counts and times as JSON. */
export const CountsViewSchema = Type.Object({
  totalRequests: count('Attempts begun.'),
  successfulRequests: count('Whole answers with a status below 500.'),
  failedRequests: count('Failures, and answers with a status of 500 or more.'),
  abortedRequests: count('Given up because the client went away.'),
  inFlight: count('Under way.'),
  averageResponseTime: milliseconds('Average time'),
  minResponseTime: milliseconds('Shortest time'),
  maxResponseTime: milliseconds('Longest time'),
  p50ResponseTime: milliseconds('Time that half did not exceed'),
  p90ResponseTime: milliseconds('Time that 90 % did not exceed'),
  p99ResponseTime: milliseconds('Time that 99 % did not exceed')
}, { title: 'Counts', description: 'Counts and times.' })

/** Connections as JSON. */
export const ConnectionsViewSchema = Type.Object({
  total: count('Open, or being opened.'),
  active: count('With a request on them, or being opened for one.'),
  idle: count('Open and unused.'),
  pending: count('Requests that wait for one.'),
  connects: count('Made since the start.'),
  connectErrors: count('That could not be made.'),
  requests: count('Requests that got one.'),
  reuseRatio: Type.Number({ minimum: 0, maximum: 1, description: 'Part of those that got one already used.' })
}, { title: 'Connections', description: 'Connections, as the pool tells; `null` where it does not.', additionalProperties: true })

/** A backend's health as JSON. */
export const HealthViewSchema = Type.Object({
  isHealthy: Type.Boolean({ description: 'Whether requests are sent to it.' }),
  lastCheck: Type.Optional(time('When it was last checked.')),
  lastSuccess: Type.Optional(time('When it last passed.')),
  lastFailure: Type.Optional(time('When it last failed.')),
  consecutiveFails: count('Checks failed in a row.'),
  responseTime: milliseconds('What the last check took'),
  errorMessage: Type.String({ description: 'What was wrong at the last check.' }),
  statusCode: Type.Integer({ description: 'Status of the last check\'s answer; 0 where there was none.' }),
  source: Type.Union([Type.Literal('active'), Type.Literal('outlier'), Type.Literal('manual')], { description: 'Who decided.' }),
  since: time('Since when it has been so.'),
  ejections: count('Times that outlier detection has ejected it.'),
  ejectedUntil: Type.Optional(time('When its ejection ends.'))
}, { title: 'Health', description: 'What is known of a backend\'s health.' })

/** A circuit as JSON. */
export const CircuitViewSchema = Type.Object({
  state: circuitState,
  retryAfter: nullable(Type.Number({ minimum: 0, description: 'Milliseconds until a request may try it; `null` where only an operator closes it.' }))
}, { title: 'Circuit', description: 'The circuit of a backend.' })

/** How much is left of a drain as JSON. */
export const DrainViewSchema = Type.Object({
  inFlight: count('Attempts that it still finishes.'),
  remaining: Type.Number({ minimum: 0, description: 'Milliseconds until those that are left are aborted.' })
}, { title: 'Drain', description: 'What is left of its drain.', examples: [{ inFlight: 3, remaining: 21_500 }] })

/** A backend as operators see it. */
export const BackendViewSchema = Type.Object({
  id: Type.String({ description: 'Its id, unique in its upstream.', examples: ['backend-1'] }),
  upstream: Type.String({ description: 'Name of its upstream.', examples: ['default'] }),
  url: Type.String({ description: 'Where it listens.', examples: ['http://10.0.0.1:8081/'] }),
  address: Type.Optional(Type.String({ description: 'The address that discovery has found.' })),
  weight: Type.Integer({ minimum: 0, maximum: 65_535, description: 'Share of the traffic relative to the others.' }),
  effectiveWeight: Type.Number({ minimum: 0, description: 'What load balancers go by.' }),
  priority: Type.Integer({ minimum: 0, description: '0 for those that come first.' }),
  zone: Type.Optional(Type.String({ description: 'Where it stands.' })),
  isActive: Type.Boolean({ description: 'Whether it takes new requests.' }),
  available: Type.Boolean({ description: 'Whether it may be chosen now.' }),
  reasons: Type.Array(Type.String(), { description: 'What keeps it from being chosen.', examples: [['circuit open']] }),
  healthy: Type.Boolean({ description: 'Whether it passes its checks.' }),
  ejected: Type.Boolean({ description: 'Whether outlier detection has taken it out.' }),
  draining: Type.Boolean({ description: 'Whether it only finishes what it has.' }),
  circuitState,
  circuit: CircuitViewSchema,
  health: HealthViewSchema,
  inFlight: count('Attempts under way; while it drains, what is left.'),
  limit: Type.Optional(Type.Number({ minimum: 0, description: 'Attempts that there may be at once.' })),
  share: Type.Number({ minimum: 0, maximum: 1, description: 'Part of all attempts of its upstream.' }),
  metrics: CountsViewSchema,
  connections: nullable(ConnectionsViewSchema),
  http2: Type.Union([Type.Boolean(), Type.Literal('auto')], { description: 'Whether it is asked by HTTP/2.' }),
  healthCheck: Type.Record(Type.String(), Type.Unknown(), { description: 'What is otherwise than its upstream says of checks. Values of headers are not shown.', examples: [{ path: '/health' }] }),
  drain: Type.Optional(DrainViewSchema),
  metadata: Type.Record(Type.String(), Type.Unknown(), { description: 'The application\'s notes.', examples: [{ rack: 'r12' }] }),
  createdAt: time('When it was added.'),
  updatedAt: time('When its options last changed.')
}, { title: 'BackendView', description: 'A backend, with all of its live state.' })

/** All backends of an upstream as operators see them. */
export const BackendsViewSchema = Type.Object({
  upstream: Type.String({ description: 'Name of the upstream.' }),
  count: count('How many there are.'),
  available: count('How many of them may be chosen now.'),
  backends: Type.Array(BackendViewSchema, { description: 'In the order they were added.' })
}, { title: 'BackendsView', description: 'The backends of an upstream.' })

/** What becomes of a backend that is drained or removed. */
export const DrainingViewSchema = Type.Object({
  id: Type.String({ description: 'Id of the backend.', examples: ['backend-1'] }),
  upstream: Type.String({ description: 'Name of its upstream.', examples: ['default'] }),
  draining: Type.Boolean({ description: 'Whether it still finishes what it has. `false`: it is done.' }),
  inFlight: count('Attempts that it still finishes.'),
  remaining: Type.Number({ minimum: 0, description: 'Milliseconds until those that are left are aborted.' })
}, { title: 'Draining', description: 'A drain or a removal that has begun, or is over: GET the backend to follow it.', examples: [{ id: 'backend-1', upstream: 'default', draining: true, inFlight: 3, remaining: 30_000 }] })

/** A backend as operators see it. */
export type BackendView = Static<typeof BackendViewSchema>
/** What becomes of a backend that is drained or removed. */
export type DrainingView = Static<typeof DrainingViewSchema>
