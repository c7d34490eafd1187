import { Type, type Static } from '@sinclair/typebox'
import { AdminSchema } from './admin.ts'
import { AffinitySchema } from './affinity.ts'
import { BackendInputSchema } from './backend.ts'
import { BreakerSchema } from './circuit-breaker.ts'
import type { Clock } from './clock.ts'
import { Http2Schema, PoolSchema } from './connection-pool.ts'
import { DiscoverySchema } from './discovery.ts'
import { DnsSchema } from './dns.ts'
import { FallbackSchema } from './fallback.ts'
import { TOKEN, WHOLE_TOKEN } from './field-syntax.ts'
import { TimeoutOptionsSchema } from './forward.ts'
import { HealthSchema } from './health.ts'
import { HedgeSchema } from './hedge.ts'
import { LimitsSchema } from './limits.ts'
import { BalancerSchema } from './load-balancer.ts'
import { MirrorSchema } from './mirror.ts'
import { OutlierSchema } from './outlier.ts'
import { RetrySchema } from './retry.ts'
import { RouteOptionsSchema } from './routes.ts'
import { telemetryOptions } from './telemetry.ts'
import { SlowStartSchema, WeightsSchema } from './weights.ts'

/** Which forwarded headers are written. */
export const ForwardedSchema = Type.Union([
  Type.Boolean(),
  Type.Object({
    xForwarded: Type.Optional(Type.Boolean({ default: true, description: '`X-Forwarded-For`, `-Host` and `-Proto`.' })),
    standard: Type.Optional(Type.Boolean({ default: true, description: '`Forwarded`, RFC 7239.' }))
  }, { additionalProperties: false, title: 'ForwardedOptions', description: 'Which of the forwarded headers are written.' })
], {
  default: true,
  description: 'Tell the backend of the client. What the client sent of these fields is kept and appended to when Fastify\'s `trustProxy` trusts the peer, else removed. `false` writes none and removes what an untrusted peer sent.',
  expected: 'a boolean or an object { xForwarded, standard }'
})

const perUpstream = {
  backends: Type.Optional(Type.Array(BackendInputSchema, {
    default: [],
    description: 'The backends to begin with: URLs, or objects with a `url`.'
  })),
  balancer: Type.Optional(BalancerSchema),
  weights: Type.Optional(WeightsSchema),
  slowStart: Type.Optional(SlowStartSchema),
  affinity: Type.Optional(AffinitySchema),
  panicThreshold: Type.Optional(Type.Number({
    minimum: 0,
    maximum: 1,
    default: 0.5,
    description: 'Part of the active backends that must be available. With fewer, all active ones are used, whatever health checks and ejections say: the few that are left would not carry all. 0 never does so.'
  })),
  zone: Type.Optional(Type.String({
    minLength: 1,
    description: 'The zone this proxy stands in. Backends of the same zone come first; others get only what those cannot carry. Named upstreams have that of the plugin unless they say otherwise.'
  })),
  breaker: Type.Optional(BreakerSchema),
  health: Type.Optional(HealthSchema),
  outlier: Type.Optional(OutlierSchema),
  retry: Type.Optional(RetrySchema),
  hedge: Type.Optional(HedgeSchema),
  limits: Type.Optional(LimitsSchema),
  fallback: Type.Optional(FallbackSchema),
  mirror: Type.Optional(MirrorSchema),
  timeout: Type.Optional(TimeoutOptionsSchema),
  websocket: Type.Optional(Type.Boolean({
    default: true,
    description: 'Let clients switch their connections to WebSocket where a backend agrees. `false` forwards such requests as ordinary ones.'
  })),
  upgrades: Type.Optional(Type.Array(Type.String({ pattern: `^${TOKEN}(/${TOKEN})?$` }), {
    default: [],
    description: 'Other protocols that connections may be switched to: tokens of the `Upgrade` header (RFC 9110, 7.8). Nothing is known of them: bytes pass as they are. Never list `h2c`: requests inside would pass unseen.'
  })),
  deadlineHeader: Type.Optional(Type.Union([Type.String({ pattern: WHOLE_TOKEN }), Type.Literal(false)], {
    default: false,
    description: 'Name of a header that tells each backend how many milliseconds are left for its answer. What a client says in it holds, where it is sooner, if Fastify\'s `trustProxy` trusts the peer, and is removed otherwise. `grpc-timeout` is written and read as gRPC has it (`250m`).',
    expected: 'the name of a header or false'
  })),
  pool: Type.Optional(PoolSchema),
  http2: Type.Optional(Http2Schema),
  dns: Type.Optional(DnsSchema),
  discovery: Type.Optional(DiscoverySchema),
  preserveHost: Type.Optional(Type.Boolean({
    default: false,
    description: 'Send the client\'s `Host` to the backend instead of the backend\'s own.'
  })),
  forwarded: Type.Optional(ForwardedSchema),
  via: Type.Optional(Type.Union([Type.String({ pattern: WHOLE_TOKEN }), Type.Literal(false)], {
    default: 'rockstar-proxy',
    description: 'Name of this proxy in `Via` (RFC 9110, 7.6.3). A request that already carries it has gone in a circle and gets 508: proxies in a row need names of their own. `false` writes none and looks for none.',
    expected: 'a token or false'
  }))
}

/** Options of one upstream. */
export const UpstreamOptionsSchema = Type.Object(perUpstream, {
  additionalProperties: false,
  title: 'UpstreamOptions',
  description: 'Options of a named upstream, given in `upstreams` or to `addUpstream(name, options)`.'
})

/** Options of the plugin: those of the default upstream, and what concerns the whole. */
export const RockstarProxyOptionsSchema = Type.Object({
  ...perUpstream,
  upstreams: Type.Optional(Type.Record(Type.String({ minLength: 1 }), UpstreamOptionsSchema, {
    default: {},
    description: 'Named upstreams, each with policies and backends of its own.'
  })),
  routes: Type.Optional(Type.Array(RouteOptionsSchema, {
    default: [],
    description: 'Routes that are forwarded without a handler.'
  })),
  shutdownTimeout: Type.Optional(Type.Number({
    minimum: 0,
    default: 9_000,
    description: 'Milliseconds that `app.close()` lets requests in flight finish before it aborts them. Must be less than Fastify\'s `pluginTimeout` (10 s).'
  })),
  ...telemetryOptions,
  admin: Type.Optional(AdminSchema),
  random: Type.Optional(Type.Unsafe<() => number>(Type.Function([], Type.Number(), {
    description: 'Where chance comes from, for tests that own it: numbers of at least 0 and below 1.',
    expected: 'a function',
    signature: '() => number'
  }))),
  clock: Type.Optional(Type.Unsafe<Clock>(Type.Object({
    now: Type.Function([], Type.Number()),
    wall: Type.Function([], Type.Number()),
    setTimeout: Type.Function([], Type.Unknown()),
    clearTimeout: Type.Function([], Type.Unknown())
  }, {
    description: 'Where time comes from, for tests that own it. Default: the system\'s monotonic clock.',
    expected: 'a Clock with now(), wall(), setTimeout() and clearTimeout()',
    signature: 'Clock'
  })))
}, {
  additionalProperties: false,
  title: 'RockstarProxyOptions',
  description: 'Options of the plugin: `app.register(rockstarProxy, options)`. Those that an upstream has too are those of the default upstream; named upstreams do not inherit them.'
})

/** Options of one upstream. */
export type UpstreamOptions = Static<typeof UpstreamOptionsSchema>
/** Options of the plugin. */
export type RockstarProxyOptions = Static<typeof RockstarProxyOptionsSchema>
