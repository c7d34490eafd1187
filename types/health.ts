import { Type, type Static } from '@sinclair/typebox'
import type { Backend } from './backend.ts'

/** Finds out whether a backend is well; a throw, a rejection or `false` says that it is not. */
export type HealthChecker = (backend: Backend, context: { readonly signal: AbortSignal }) => unknown

/** A host as it stands in `Host`, perhaps with a port. RFC 3986, 3.2.2. */
export const HOST_PATTERN = "^[A-Za-z0-9._~!$&'()*+,;=%:\\[\\]-]+$"

const milliseconds = (description: string, value: number, minimum = 1) => Type.Optional(Type.Number({ minimum, default: value, description }))

/** What a check does and when. */
const check = {
  path: Type.Optional(Type.String({
    pattern: '^/[\\x21-\\x7e]*$',
    description: 'Path that is asked for by HTTP or HTTPS, below the backend\'s base path, as it stands in the request line. Without it, a TCP connection that is accepted will do.',
    expected: 'a path that begins with /, of visible ASCII characters'
  })),
  method: Type.Optional(Type.String({ pattern: '^[A-Z]+$', default: 'GET', description: 'Method of the request, other than CONNECT.', expected: 'a method in capitals' })),
  headers: Type.Optional(Type.Record(Type.String({ minLength: 1 }), Type.String(), { default: {}, description: 'Headers of the request, but for those of the connection: `Connection`, `Content-Length`, `Transfer-Encoding`, `Upgrade` and the like.' })),
  host: Type.Optional(Type.String({ pattern: HOST_PATTERN, description: '`Host` of the request. Default: the backend\'s own.', expected: 'a host, perhaps with a port' })),
  port: Type.Optional(Type.Integer({ minimum: 1, maximum: 65_535, description: 'Port that is asked. Default: the backend\'s own.' })),
  expectedStatus: Type.Optional(Type.Array(Type.Union([Type.Integer({ minimum: 100, maximum: 599 }), Type.Tuple([Type.Integer({ minimum: 100, maximum: 599 }), Type.Integer({ minimum: 100, maximum: 599 })])], {
    expected: 'a status of 100 to 599, or a range [first, last] of such'
  }), {
    minItems: 1,
    default: [[200, 399]],
    description: 'Statuses that are good: single ones, and ranges `[first, last]`.',
    expected: 'an array of statuses and of ranges [first, last]'
  })),
  expectedBody: Type.Optional(Type.Unsafe<string | RegExp>(Type.Union([Type.String({ minLength: 1 }), Type.Object({ source: Type.String(), flags: Type.String() }, { title: 'RegExp' })], {
    description: 'What the first 64 KiB of the answer\'s body must hold or match.',
    expected: 'a string or a RegExp',
    signature: 'string | RegExp'
  }))),
  checker: Type.Optional(Type.Unsafe<HealthChecker>(Type.Function([], Type.Unknown(), {
    description: 'A check of your own, instead: `async (backend, { signal }) => …`. A throw, a rejection or `false` is a failure.',
    expected: 'a function',
    signature: '(backend, { signal }) => unknown'
  }))),
  interval: milliseconds('Milliseconds from one check to the next.', 10_000, 10),
  unhealthyInterval: Type.Optional(Type.Number({ minimum: 10, description: 'The same while the backend is unhealthy. Default: `interval`.' })),
  timeout: milliseconds('Milliseconds that a check may take.', 5_000),
  jitter: Type.Optional(Type.Number({ minimum: 0, maximum: 1, default: 0.1, description: 'Part by which intervals are made longer or shorter at random.' })),
  rise: Type.Optional(Type.Integer({ minimum: 1, default: 2, description: 'Checks in a row that must pass before an unhealthy backend is healthy.' })),
  fall: Type.Optional(Type.Integer({ minimum: 1, default: 3, description: 'Checks in a row that must fail before a healthy backend is unhealthy.' })),
  initial: Type.Optional(Type.Union([Type.Literal('healthy'), Type.Literal('unhealthy'), Type.Literal('check-first')], {
    default: 'healthy',
    description: 'What a backend is taken for before its first check: healthy; unhealthy until `rise` checks have passed; or unhealthy until the first, made at once, has.',
    expected: '\'healthy\', \'unhealthy\' or \'check-first\''
  }))
}

const withoutDefaults = Object.fromEntries(Object.entries(check).map(([name, schema]) => {
  const { default: _, ...rest } = schema as typeof schema & { default?: unknown }
  return [name, { ...rest, description: `As the upstream's \`health.${name}\`, for this backend.` }]
})) as unknown as typeof check

/** What a backend may have otherwise than its upstream. */
export const HealthCheckOverridesSchema = Type.Object(withoutDefaults, {
  additionalProperties: false,
  title: 'HealthCheckOverrides',
  description: 'Checks of one backend; what is left out is as the upstream says.'
})

/** The options of active health checks. */
export const HealthOptionsSchema = Type.Object({
  ...check,
  concurrency: Type.Optional(Type.Integer({ minimum: 1, default: 64, description: 'Most checks under way at once.' })),
  minHealthy: Type.Optional(Type.Integer({
    minimum: 0,
    default: 0,
    description: 'Backends that must have passed a check before the app is ready: `app.ready()` and `app.listen()` wait for them, for `readyTimeout`.'
  })),
  readyTimeout: milliseconds('Milliseconds that the app waits for `minHealthy` backends before it fails to start. Must be less than Fastify\'s `pluginTimeout` (10 s).', 5_000)
}, {
  additionalProperties: false,
  title: 'HealthOptions',
  description: 'Checks every backend again and again, on connections of its own, and takes out those that fail.'
})

export const HealthSchema = Type.Union([Type.Boolean(), HealthOptionsSchema], {
  default: true,
  description: 'Active health checks: options, `true` for the defaults (a TCP connection every 10 s), or `false` for none.',
  expected: 'a boolean or an object of options'
})

/** The options of active health checks. */
export type HealthOptions = Static<typeof HealthOptionsSchema>
/** What a backend may have otherwise than its upstream. */
export type HealthCheckOverrides = Static<typeof HealthCheckOverridesSchema>

/** Who says what a backend's health is. */
export type HealthSource = 'active' | 'outlier' | 'manual'

/** What is known of a backend's health. Source: the seed's `BackendHealth`. */
export interface BackendHealth {
  /** Whether requests are sent to it: it passes its checks, is not ejected, its circuit is not open, and it is active. */
  isHealthy: boolean
  /** When it was last checked. */
  lastCheck: Date | undefined
  lastSuccess: Date | undefined
  lastFailure: Date | undefined
  /** Checks failed in a row. */
  consecutiveFails: number
  /** Milliseconds that the last check took. */
  responseTime: number
  /** What was wrong at the last check; empty when nothing was. */
  errorMessage: string
  /** Status of the last check's answer; 0 where there was none. */
  statusCode: number
  /** Who decided: its checks, outlier detection, or somebody who took it out by hand. */
  source: HealthSource
  /** Since when it has been so. */
  since: Date
  /** Times that outlier detection has ejected it. */
  ejections: number
  /** When its ejection ends. */
  ejectedUntil: Date | undefined
}
