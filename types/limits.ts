import { Type, type Static } from '@sinclair/typebox'
import type { FastifyRequest } from 'fastify'

/** How important a request is: lower numbers come first. */
export type PriorityOf = (request: FastifyRequest) => number

/** Where requests wait that cannot be sent yet. */
export const QueueOptionsSchema = Type.Object({
  size: Type.Optional(Type.Integer({ minimum: 1, default: 1_024, description: 'Requests that may wait. Their bodies are not read meanwhile.' })),
  timeout: Type.Optional(Type.Number({ minimum: 0, default: 1_000, description: 'Milliseconds that a request may wait. 0 sets no limit beside `timeout.request`.' })),
  order: Type.Optional(Type.Union([Type.Literal('fifo'), Type.Literal('lifo')], {
    default: 'fifo',
    description: 'Who comes first of those equally important: who has waited longest, or who came last. Under lasting overload the latter serves some in time instead of all too late, and a full queue lets go of the oldest.',
    expected: '\'fifo\' or \'lifo\''
  }))
}, {
  additionalProperties: false,
  title: 'QueueOptions',
  description: 'Where requests wait that cannot be sent yet. Who finds it full, or waits too long, gets 503.'
})

/** How a limit is found. */
export const AdaptiveOptionsSchema = Type.Object({
  initial: Type.Optional(Type.Integer({ minimum: 1, default: 20, description: 'The limit to begin with.' })),
  min: Type.Optional(Type.Integer({ minimum: 1, default: 4, description: 'The least limit.' })),
  max: Type.Optional(Type.Integer({ minimum: 1, default: 1_000, description: 'The greatest limit.' })),
  tolerance: Type.Optional(Type.Number({ minimum: 1, default: 1.5, description: 'How much longer than usual answers may take before the limit is lowered.' })),
  smoothing: Type.Optional(Type.Number({ minimum: 0.01, maximum: 1, default: 0.2, description: 'Part of the way that the limit goes at each step.' })),
  queueSize: Type.Optional(Type.Integer({ minimum: 1, default: 4, description: 'Requests that may wait at the backend itself; what the limit grows by.' }))
}, {
  additionalProperties: false,
  title: 'AdaptiveOptions',
  description: 'Finds the limit of each backend by how long its answers take: where they take longer than usual, requests wait there. Source: Netflix\'s Gradient2.'
})

/** How much is let in at once. */
export const LimitsOptionsSchema = Type.Object({
  maxInFlight: Type.Optional(Type.Integer({ minimum: 1, description: 'Requests of the upstream under way at once. Default: no limit.' })),
  maxPerBackend: Type.Optional(Type.Integer({ minimum: 1, description: 'Attempts on one backend at once, to the last byte of their answers. Default: no limit.' })),
  adaptive: Type.Optional(Type.Union([Type.Boolean(), AdaptiveOptionsSchema], {
    default: false,
    description: 'Find for each backend how many requests may wait for its answer at once. What streams after its head does not count.',
    expected: 'a boolean or an object of options'
  })),
  queue: Type.Optional(Type.Union([Type.Boolean(), QueueOptionsSchema], {
    default: true,
    description: 'Let requests wait: options, `true` for the defaults; `false` refuses them at once.',
    expected: 'a boolean or an object of options'
  })),
  priority: Type.Optional(Type.Unsafe<PriorityOf>(Type.Function([], Type.Unknown(), {
    description: 'How important a request that has to wait is: lower numbers come first, and others make room for them in a full queue. Default: 0 for all.',
    expected: 'a function',
    signature: '(request) => number'
  })))
}, {
  additionalProperties: false,
  title: 'LimitsOptions',
  description: 'How much is let in at once. What is too much waits, or gets 503 with `Retry-After`.'
})

export const LimitsSchema = Type.Union([Type.Literal(false), LimitsOptionsSchema], {
  default: false,
  description: 'How much is let in at once: options, or `false` for no limit.',
  expected: 'false or an object of options'
})

/** How much is let in at once. */
export type LimitsOptions = Static<typeof LimitsOptionsSchema>
/** Where requests wait that cannot be sent yet. */
export type QueueOptions = Static<typeof QueueOptionsSchema>
/** How a limit is found. */
export type AdaptiveOptions = Static<typeof AdaptiveOptionsSchema>
