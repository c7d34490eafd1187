import { Type, type Static } from '@sinclair/typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { SubsetFallback } from './subset.ts'

/** Failures that a fallback may be for. */
export const FALLBACK_CODES = ['NO_BACKEND', 'CIRCUIT_OPEN', 'OVERLOADED', 'CONNECT', 'RESET', 'BAD_RESPONSE', 'TIMEOUT'] as const

/** Answers in place of a backend: with `reply.send()`, or with what it returns or resolves to. Doing neither leaves the failure as it is. */
export type FallbackFunction = (request: FastifyRequest, reply: FastifyReply, error: Error) => unknown

const on = Type.Optional(Type.Array(Type.Union([...FALLBACK_CODES.map(code => Type.Literal(code)), Type.Integer({ minimum: 400, maximum: 599 })], {
  expected: `${FALLBACK_CODES.map(code => `'${code}'`).join(', ')}, or a status of 400 to 599`
}), {
  default: [...FALLBACK_CODES],
  description: 'What it is for: codes of errors without `FST_ROCKSTAR_`, and statuses that backends answer.'
}))

/** An answer that stands ready. */
export const FallbackResponseSchema = Type.Object({
  statusCode: Type.Optional(Type.Integer({ minimum: 200, maximum: 599, default: 503, description: 'Status of the answer.' })),
  headers: Type.Optional(Type.Record(Type.String({ minLength: 1 }), Type.Union([Type.String(), Type.Array(Type.String())]), { default: {}, description: 'Headers of the answer.' })),
  body: Type.Optional(Type.Unknown({ description: 'Content of the answer, as `reply.send()` takes it: a string, a Buffer, or what is to be JSON.' })),
  on
}, {
  additionalProperties: false,
  title: 'FallbackResponse',
  description: 'An answer that stands ready for when no backend has given one.'
})

/** Another upstream that is asked instead. */
export const FallbackUpstreamSchema = Type.Object({
  upstream: Type.String({ minLength: 1, description: 'Name of the upstream that is asked instead.' }),
  on
}, {
  additionalProperties: false,
  title: 'FallbackUpstream',
  description: 'Another upstream that is asked instead, where the request was never sent or may be sent twice, and its body has not been read or is kept (`retry.maxBodySize`).'
})

const variants = [Type.Function([], Type.Unknown()), FallbackUpstreamSchema, FallbackResponseSchema] as const

/** What takes the place of an answer, for an upstream. */
export const FallbackSchema = Type.Unsafe<FallbackOption>(Type.Union([Type.Literal(false), ...variants], {
  default: false,
  description: 'What takes the place of an answer when there is none and no retry is left: an answer that stands ready, a function `(request, reply, error)`, or another upstream. For replies: `forward(request)` and `forwardHttp()` reject.',
  expected: 'an object { statusCode, headers, body }, an object { upstream }, a function, or false',
  signature: 'FallbackResponse | FallbackUpstream | (request, reply, error) => unknown | false'
}))

/** The same for a route or a call, which may also say what happens where its subset has no backend. */
export const FallbackOverrideSchema = Type.Unsafe<FallbackOption | SubsetFallback>(Type.Union([Type.Literal('any'), Type.Literal('none'), Type.Literal(false), ...variants], {
  description: 'As the upstream\'s `fallback`, for this alone. Or what happens where no available backend is of the `match` or `split`: `\'any\'` of the upstream is taken, or `\'none\'` (503). Default: as the upstream says, and `\'none\'`.',
  expected: '\'any\', \'none\', an object { statusCode, headers, body }, an object { upstream }, a function, or false',
  signature: '\'any\' | \'none\' | FallbackResponse | FallbackUpstream | (request, reply, error) => unknown | false'
}))

/** An answer that stands ready. */
export type FallbackResponse = Static<typeof FallbackResponseSchema>
/** Another upstream that is asked instead. */
export type FallbackUpstream = Static<typeof FallbackUpstreamSchema>
/** What takes the place of an answer. */
export type FallbackOption = FallbackResponse | FallbackUpstream | FallbackFunction | false
