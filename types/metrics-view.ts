import { Type } from '@sinclair/typebox'
import { CountsViewSchema } from './admin-views.ts'
import { nullable } from './admin.ts'

const count = (description: string) => Type.Integer({ minimum: 0, description })

/** Each `Because` of a choice. */
const ChosenBecauseViewSchema = Type.Object({
  balancer: count('By the load balancer.'),
  affinity: count('By the client\'s cookie.'),
  priority: count('As those of a lower priority could not carry it all.'),
  zone: count('As those of the own zone could not carry it all.'),
  fallback: count('As others had failed.'),
  panic: count('In panic.')
}, { title: 'ChosenBecause', description: 'How often it was chosen, and why.' })

/** How much of an upstream's traffic goes to a backend, as JSON. */
const DistributionViewSchema = Type.Object({
  ...CountsViewSchema.properties,
  share: Type.Number({ minimum: 0, maximum: 1, description: 'Part of all attempts of the upstream.' }),
  weight: count('Share of the traffic relative to the others.'),
  effectiveWeight: Type.Number({ minimum: 0, description: 'What load balancers go by.' }),
  limit: nullable(Type.Integer({ minimum: 0, description: 'Attempts that there may be at once; `null` without a limit.' })),
  chosenBecause: ChosenBecauseViewSchema
}, { title: 'Distribution', description: 'Attempts on a backend.' })

const timeouts = Type.Object({
  queue: count('Waiting to be let in.'),
  connect: count('For a connection.'),
  send: count('For the backend to take the body.'),
  wait: count('For the head of the answer.'),
  stream: count('For the next bytes of the answer.'),
  client: count('For the client.'),
  request: count('For all of it.')
}, { title: 'Timeouts', description: 'What took too long, by what was waited for.' })

const tunnels = Type.Object({
  open: count('Open now.'),
  total: count('Opened.'),
  bytesReceived: count('Bytes from clients.'),
  bytesSent: count('Bytes from backends.')
}, { title: 'Tunnels', description: 'Connections that were switched to another protocol.' })

const upstreamMetrics = {
  ...CountsViewSchema.properties,
  totalRetries: count('Attempts made again after a failure.'),
  retriesDenied: count('Retries not made as the budget was used up.'),
  hedgedRequests: count('Second attempts.'),
  hedgesWon: count('Those of them whose answer was used.'),
  queuedRequests: count('Requests that had to wait to be let in.'),
  queueLength: count('Requests waiting now.'),
  shedRequests: count('Requests refused by limits.'),
  timeouts,
  fallbacksServed: count('Failures in whose place a fallback has answered.'),
  mirroredRequests: count('Copies sent.'),
  mirrorsSkipped: count('Copies not sent.'),
  tunnels,
  panic: Type.Boolean({ description: 'Whether too few backends are available.' }),
  backends: Type.Record(Type.String(), DistributionViewSchema, { description: 'The same by backend id.' })
}

const exampleCounts = { totalRequests: 1000, successfulRequests: 990, failedRequests: 8, abortedRequests: 1, inFlight: 1, averageResponseTime: 12.5, minResponseTime: 1.2, maxResponseTime: 310, p50ResponseTime: 9.8, p90ResponseTime: 24.1, p99ResponseTime: 96.3 }
const example = {
  ...exampleCounts,
  totalRetries: 4,
  retriesDenied: 0,
  hedgedRequests: 0,
  hedgesWon: 0,
  queuedRequests: 0,
  queueLength: 0,
  shedRequests: 0,
  timeouts: { queue: 0, connect: 0, send: 0, wait: 2, stream: 0, client: 1, request: 0 },
  fallbacksServed: 0,
  mirroredRequests: 0,
  mirrorsSkipped: 0,
  tunnels: { open: 0, total: 0, bytesReceived: 0, bytesSent: 0 },
  panic: false,
  backends: { 'backend-1': { ...exampleCounts, share: 1, weight: 1, effectiveWeight: 1, limit: null, chosenBecause: { balancer: 1000, affinity: 0, priority: 0, zone: 0, fallback: 0, panic: 0 } } }
}

/** What `getMetrics()` gives, as JSON. */
export const MetricsViewSchema = Type.Object({
  ...upstreamMetrics,
  upstreams: Type.Optional(Type.Record(Type.String(), Type.Object(upstreamMetrics, { title: 'UpstreamMetrics', description: 'Counts of an upstream.' }), {
    description: 'Those of the named upstreams; left out where one upstream is asked for.'
  }))
}, { title: 'MetricsView', description: 'Counts of an upstream.', examples: [{ ...example, upstreams: {} }] })

/** Whose counts were set to zero. */
export const MetricsResetViewSchema = Type.Object({
  reset: Type.Array(Type.String(), { description: 'Names of the upstreams.' })
}, { title: 'MetricsResetView', description: 'Whose counts are zero now.', examples: [{ reset: ['default'] }] })
