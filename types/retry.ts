import { Type, type Static, type TProperties } from '@sinclair/typebox'
import type { FastifyRequest } from 'fastify'

/** Whether a request that is not idempotent by its method may be sent twice. */
export type IsIdempotent = (request: FastifyRequest) => boolean

/** Failures after which another attempt may be made. */
export const RETRY_CAUSES = ['connect', 'reset', 'timeout', 'bad-response'] as const

/** Methods that may be sent again without being asked to. RFC 9110, 9.2.2, and those registered since. */
export const IDEMPOTENT_METHODS = ['GET', 'HEAD', 'OPTIONS', 'PUT', 'DELETE', 'PROPFIND', 'SEARCH', 'QUERY', 'REPORT'] as const

/** How long to wait before a backend is asked again. */
export const BackoffOptionsSchema = Type.Object({
  base: Type.Optional(Type.Number({ minimum: 0, default: 100, description: 'Milliseconds that the first wait takes at the most.' })),
  factor: Type.Optional(Type.Number({ minimum: 1, default: 2, description: 'By what each further wait is longer.' })),
  max: Type.Optional(Type.Number({ minimum: 0, default: 10_000, description: 'Most milliseconds of a wait.' }))
}, {
  additionalProperties: false,
  title: 'BackoffOptions',
  description: 'How long to wait before a backend is asked again that has been asked before. The wait is drawn between 0 and its bound (full jitter), so that clients do not come back together.'
})

/** How many retries an upstream gets altogether. */
export const RetryBudgetOptionsSchema = Type.Object({
  percent: Type.Optional(Type.Number({ minimum: 0, maximum: 1_000, default: 20, description: 'Retries in a hundred requests, of the last 10 s or waiting for an answer, whichever are more.' })),
  minPerSecond: Type.Optional(Type.Number({ minimum: 0, default: 10, description: 'Retries in a second that there may always be.' }))
}, {
  additionalProperties: false,
  title: 'RetryBudgetOptions',
  description: 'How many retries the upstream gets altogether, so that they do not add to the load of backends that all fail. Source: Finagle, Envoy.'
})

/** The part that a route or a call may have otherwise. */
const perRequest = {
  attempts: Type.Optional(Type.Integer({ minimum: 1, default: 3, description: 'Attempts in all, the first one counted.' })),
  methods: Type.Optional(Type.Array(Type.String({ minLength: 1 }), {
    default: [...IDEMPOTENT_METHODS],
    description: 'Methods that may be sent again after they may have been processed. What provably never reached an application is sent again whatever its method.'
  })),
  statuses: Type.Optional(Type.Array(Type.Integer({ minimum: 400, maximum: 599 }), {
    default: [502, 503, 504],
    description: 'Answers after which another attempt is made.'
  })),
  on: Type.Optional(Type.Array(Type.Union(RETRY_CAUSES.map(cause => Type.Literal(cause)), { expected: RETRY_CAUSES.map(cause => `'${cause}'`).join(', ') }), {
    default: ['connect', 'reset', 'timeout'],
    description: 'Failures after which another attempt is made: no connection, a connection that ended, no answer in time, an answer that is no HTTP.'
  })),
  backoff: Type.Optional(BackoffOptionsSchema),
  perTryTimeout: Type.Optional(Type.Number({
    minimum: 0,
    default: 0,
    description: 'Milliseconds that one attempt may take until its response begins, counted from its beginning or from the last byte of the body. 0 sets no limit beside `timeout`.'
  })),
  maxBodySize: Type.Optional(Type.Integer({
    minimum: 0,
    default: 65_536,
    description: 'Bytes of a request body that are kept to be sent again. Requests with a larger one are sent again only as long as none of it was read.'
  })),
  retryAfter: Type.Optional(Type.Boolean({
    default: true,
    description: 'Before a backend is asked again, wait as long as its `Retry-After` says; where that is beyond the deadline, pass its answer on at once.'
  })),
  idempotencyKey: Type.Optional(Type.Unsafe<boolean | IsIdempotent>(Type.Union([Type.Boolean(), Type.Function([], Type.Unknown())], {
    default: false,
    description: 'Which requests of other methods may be sent again: `true` for those that have an `Idempotency-Key`, or a function that says so.',
    expected: 'a boolean or a function',
    signature: 'boolean | (request) => boolean'
  })))
}

/** How a request is tried again. */
export const RetryOptionsSchema = Type.Object({
  ...perRequest,
  budget: Type.Optional(RetryBudgetOptionsSchema)
}, {
  additionalProperties: false,
  title: 'RetryOptions',
  description: 'How a request is tried again: on another backend at once, on one that was tried before after a while; never after a byte has gone to the client.'
})

/** Properties for a route or a call: what is not given must not be filled in, for then it would be as nobody has said. */
function withoutDefaults<Properties extends TProperties> (properties: Properties): Properties {
  return Object.fromEntries(Object.entries(properties).map(([name, { default: _, ...schema }]) => [name, schema])) as Properties
}

const BackoffOverridesSchema = Type.Object(withoutDefaults(BackoffOptionsSchema.properties), {
  additionalProperties: false,
  title: 'BackoffOptions',
  description: BackoffOptionsSchema.description
})

const overrides = Object.fromEntries(Object.entries(withoutDefaults({ ...perRequest, backoff: Type.Optional(BackoffOverridesSchema) })).map(
  ([name, schema]) => [name, { ...schema, description: `As the upstream's \`retry.${name}\`, for this alone.` }]
)) as unknown as typeof perRequest

/** The same for a route or a call, where what is not given is as the upstream says. */
export const RetryOverridesSchema = Type.Object(overrides, {
  additionalProperties: false,
  title: 'RetryOverrides',
  description: 'Overrides the upstream\'s `retry`; what is left out is as the upstream says.'
})

export const RetrySchema = Type.Union([Type.Boolean(), RetryOptionsSchema], {
  default: true,
  description: 'Retries: options, `true` for the defaults, or `false` for none.',
  expected: 'a boolean or an object of options'
})

/** How a request is tried again. */
export type RetryOptions = Static<typeof RetryOptionsSchema>
/** What a route or a call has otherwise. */
export type RetryOverrides = Static<typeof RetryOverridesSchema>
/** How long to wait before a backend is asked again. */
export type BackoffOptions = Static<typeof BackoffOptionsSchema>
/** How many retries an upstream gets altogether. */
export type RetryBudgetOptions = Static<typeof RetryBudgetOptionsSchema>
/** A failure after which another attempt may be made. */
export type RetryCause = typeof RETRY_CAUSES[number]
