import { Type, type Static } from '@sinclair/typebox'
import type { CircuitState } from './circuit-breaker.ts'
import { HealthCheckOverridesSchema } from './health.ts'
import { TlsOptionsSchema } from './tls.ts'

/** The highest weight a backend can have. */
export const MAX_WEIGHT = 65535

const url = Type.Unsafe<string | URL>(Type.Union([
  Type.String({ minLength: 1 }),
  Type.Object({ href: Type.String(), protocol: Type.String(), host: Type.String() }, { title: 'URL' })
], {
  description: 'Where the backend listens: `http://` or `https://`, a host, a port and a base path; or `unix:/path.sock`, or `unix:/path.sock:/base`, for a Unix socket. No credentials, query or fragment.',
  expected: 'an http:, https: or unix: URL, as a string or a URL object'
}))

const zone = Type.Optional(Type.String({
  minLength: 1,
  description: 'Where it stands. Backends in the zone of the upstream come first.'
}))

const changeable = {
  weight: Type.Optional(Type.Integer({
    minimum: 0,
    maximum: MAX_WEIGHT,
    default: 1,
    description: 'Share of the traffic relative to the other backends of the upstream. 0 takes none.'
  })),
  priority: Type.Optional(Type.Integer({
    minimum: 0,
    maximum: 127,
    description: 'Backends of a higher number take over what those of lower ones cannot carry. Default: 0, or 1 for a backup.'
  })),
  backup: Type.Optional(Type.Boolean({
    default: false,
    description: '`true` is the same as `priority: 1`.'
  })),
  zone,
  isActive: Type.Optional(Type.Boolean({
    default: true,
    description: 'Whether the backend takes new requests. `false` keeps it listed and idle.'
  })),
  healthCheck: Type.Optional(HealthCheckOverridesSchema),
  metadata: Type.Optional(Type.Record(Type.String(), Type.Unknown(), {
    default: {},
    description: 'Anything the application wants to remember of the backend. Copied; only `match` and `split` look at it.'
  }))
}

/** The options of one backend. */
export const BackendOptionsSchema = Type.Object({
  id: Type.Optional(Type.String({
    minLength: 1,
    maxLength: 128,
    description: 'Name of the backend, unique in its upstream. Default: the host and port of its URL; all of it for a Unix socket.'
  })),
  url,
  tls: Type.Optional(TlsOptionsSchema),
  http2: Type.Optional(Type.Union([Type.Boolean(), Type.Literal('auto')], {
    description: 'As the upstream\'s `http2`, for this backend alone.',
    expected: 'a boolean or \'auto\''
  })),
  ...changeable
}, {
  additionalProperties: false,
  title: 'BackendOptions',
  description: 'One address. Its URL alone, as a string, means the same with everything else left out.'
})

/** What `updateBackend()` may change. */
export const BackendChangesSchema = Type.Object({
  ...changeable,
  zone: Type.Optional(Type.Union([zone, Type.Null()], {
    description: 'Where it stands; `null` for nowhere in particular.',
    expected: 'a string of at least 1 characters or null'
  }))
}, {
  additionalProperties: false,
  title: 'BackendChanges',
  description: 'What `updateBackend(id, changes)` may change while the backend serves. What is left out stays as it is: no default is filled in.'
})

/** A backend as given by option: its options, or only its URL. */
export const BackendInputSchema = Type.Union([
  Type.String({ minLength: 1 }),
  BackendOptionsSchema
], { expected: 'a URL string or an object with a url', title: 'BackendInput' })

/** The options of one backend. Source: the seed's `Backend` struct. */
export type BackendOptions = Static<typeof BackendOptionsSchema>
/** What may be changed of a backend while it serves. */
export type BackendChanges = Static<typeof BackendChangesSchema>
/** A backend as given by option: its options, or only its URL. */
export type BackendInput = string | BackendOptions

/** One address, as users see it. The object stays the same as long as the backend is listed. */
export interface Backend {
  /** Unique in its upstream. */
  readonly id: string
  /** A copy of the address; changing it changes nothing. */
  readonly url: URL
  /** Where its connections go, for one that `discovery: 'dns'` has found; else the host of its URL is resolved for each. */
  readonly address: string | undefined
  /** Share of the traffic, 0 to 65535. */
  readonly weight: number
  /** The weight that load balancers go by, above 0 for one that is available and not always whole. Changes only before a `rebuild()`. */
  readonly effectiveWeight: number
  /** 0 for those that come first. */
  readonly priority: number
  /** Where it stands. */
  readonly zone: string | undefined
  /** Whether it takes new requests. */
  readonly isActive: boolean
  /** What its active health checks say. */
  readonly healthy: boolean
  /** Whether outlier detection has taken it out. */
  readonly ejected: boolean
  /** The state of its circuit. */
  readonly circuitState: CircuitState
  /** Whether it is active, healthy, not ejected, not draining, has a weight, and its circuit is not open. */
  readonly available: boolean
  /** Whether it is being removed or drained and only finishes what it has; `inFlight` tells how much is left. */
  readonly draining: boolean
  /** The application's own notes. */
  readonly metadata: Readonly<Record<string, unknown>>
  /** When it was added. */
  readonly createdAt: Date
  /** When its options last changed. */
  readonly updatedAt: Date
  /** Attempts under way. */
  readonly inFlight: number
  /** How many of them there may be at once, by `limits`; with `adaptive` those waiting for an answer. `Infinity` without a limit. */
  readonly limit: number
  /** Plain data of the above, for JSON. */
  toJSON (): BackendSnapshot
}

/** A backend as JSON. */
export interface BackendSnapshot {
  id: string
  url: string
  address?: string
  weight: number
  /** What load balancers go by: the weight times the factors of slow start and of `weights`. */
  effectiveWeight: number
  priority: number
  zone?: string
  isActive: boolean
  available: boolean
  healthy: boolean
  ejected: boolean
  circuitState: CircuitState
  draining: boolean
  metadata: Record<string, unknown>
  createdAt: string
  updatedAt: string
  inFlight: number
  /** How many there may be at once, by `limits`; left out where there is no limit. */
  limit?: number
}

/** How `removeBackend()` and `removeUpstream()` let go. */
export const RemoveBackendOptionsSchema = Type.Object({
  drain: Type.Optional(Type.Union([
    Type.Literal(false),
    Type.Object({
      timeout: Type.Optional(Type.Number({
        minimum: 0,
        default: 30_000,
        description: 'Milliseconds that requests in flight may take to finish before they are aborted.'
      }))
    }, { additionalProperties: false })
  ], {
    default: { timeout: 30_000 },
    description: 'How requests in flight are let finish. `false` aborts them at once.',
    expected: 'an object { timeout }, or false'
  }))
}, { additionalProperties: false, title: 'RemoveBackendOptions' })

/** How long `drainBackend()` waits. */
export const DrainBackendOptionsSchema = Type.Object({
  timeout: Type.Optional(Type.Number({
    minimum: 0,
    default: 30_000,
    description: 'Milliseconds that what is in flight may take to finish before it is aborted. WebSockets are told to close (1001) in the first half of it.'
  }))
}, { additionalProperties: false, title: 'DrainBackendOptions' })

/** How long `drainBackend()` waits. */
export type DrainBackendOptions = Static<typeof DrainBackendOptionsSchema>

/** How `removeBackend()` and `removeUpstream()` let go. */
export type RemoveBackendOptions = Static<typeof RemoveBackendOptionsSchema>
