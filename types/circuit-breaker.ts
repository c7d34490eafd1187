import { Type, type Static } from '@sinclair/typebox'
import type { Backend } from './backend.ts'
import type { Clock } from './clock.ts'
import type { Outcome } from './outcome.ts'

/** `closed` lets requests pass, `open` none, `half-open` a few to see whether the backend is well again. */
export type CircuitState = 'closed' | 'open' | 'half-open'

/** Stands between an upstream and one of its backends; the backend holds it. */
export interface Circuit {
  readonly state: CircuitState
  /** Milliseconds until it lets something through again: 0 while it does, `Infinity` when it was opened by hand. */
  readonly retryAfter: number
  /** Asks to let one attempt through: a permit, to be given back by `settle`, or -1. */
  acquire (): number
  /** Gives a permit back and tells how the attempt went. */
  settle (permit: number, outcome: Outcome): void
  /** Opens it until it is closed: the backend is isolated. */
  open (): void
  /** Closes it and forgets what was counted. */
  close (): void
  /** Half-opens it before its time is over, unless it was opened by hand: the backend passes its health checks again. */
  tryNow? (): void
  /** Opens it for so many milliseconds, as another circuit of the backend has been: where a breaker replaces another. */
  openFor? (milliseconds: number): void
  /** Lets go of its timer. */
  dispose? (): void
}

/** What a circuit needs of the world. */
export interface CircuitEnv {
  readonly clock: Clock
  /** A number of at least 0 and below 1. */
  readonly random: () => number
  /** The name of the backend's upstream. */
  readonly upstream: string
  /** To be called after every change of state, with why and what was counted. */
  changed (from: CircuitState, why: string, counts: Record<string, number>): void
}

/** Makes circuits, and knows them by their backends' ids. */
export interface CircuitBreaker {
  /** The name of the kind, as shown in status. */
  readonly type: string
  /** One per backend, held by the backend. */
  createCircuit (backend: Backend, env: CircuitEnv): Circuit
  /** Throws `UNKNOWN_BACKEND`. */
  getState (backendId: string): CircuitState
  /** Closes a circuit and forgets what was counted. Throws `UNKNOWN_BACKEND`. */
  reset (backendId: string): void
  /** Isolates a backend until its circuit is closed. Throws `UNKNOWN_BACKEND`. */
  open? (backendId: string): void
  /** Closes a circuit. Throws `UNKNOWN_BACKEND`. */
  close? (backendId: string): void
  /** Forgets the circuit of a backend that has gone. */
  removeCircuit? (backend: Backend): void
}

/** Judges results and says when it is enough. One for each circuit. */
export interface TripRule {
  /** Counts one result and the milliseconds to the answer's head, or to the failure; true opens the circuit. Time is milliseconds, on a scale that never runs backwards. */
  record (failed: boolean, responseTime: number, now: number): boolean
  /** Forgets what was counted. */
  reset (): void
  /** What was counted, for events and status. */
  counts? (now: number): Record<string, number>
}

/** Whether an attempt speaks against its backend. Not asked for what a client or the application has ended. */
export type IsFailure = (outcome: Outcome) => boolean

const part = (description: string, value: number) => Type.Optional(Type.Number({
  exclusiveMinimum: 0, maximum: 1, default: value, description, expected: 'a number above 0, at most 1'
}))
const window = Type.Optional(Type.Number({
  minimum: 10, default: 10_000, description: 'Milliseconds that count.'
}))
const minimumRequests = Type.Optional(Type.Integer({
  minimum: 1, default: 20, description: 'Results that there must be in the window before it is judged.'
}))

export const ConsecutiveRuleSchema = Type.Object({
  type: Type.Literal('consecutive', { description: 'The rule.' }),
  threshold: Type.Optional(Type.Integer({ minimum: 1, default: 5, description: 'Failures in a row that open the circuit.' }))
}, { additionalProperties: false, title: 'ConsecutiveRule', description: 'So many failures in a row.' })

export const FailureRateRuleSchema = Type.Object({
  type: Type.Literal('failure-rate', { description: 'The rule.' }),
  threshold: part('Part of the results that opens the circuit when they are failures.', 0.5),
  window,
  minimumRequests
}, { additionalProperties: false, title: 'FailureRateRule', description: 'Too large a part of the results in a sliding window are failures.' })

export const SlowRateRuleSchema = Type.Object({
  type: Type.Literal('slow-rate', { description: 'The rule.' }),
  slowThreshold: Type.Optional(Type.Number({ exclusiveMinimum: 0, default: 5_000, description: 'Milliseconds to the answer\'s head, or to the failure, above which an attempt is slow.', expected: 'a number above 0' })),
  threshold: part('Part of the results that opens the circuit when they are slow.', 0.8),
  window,
  minimumRequests
}, { additionalProperties: false, title: 'SlowRateRule', description: 'Too large a part of the results in a sliding window are slow.' })

/** The options of a circuit breaker. */
export const BreakerOptionsSchema = Type.Object({
  threshold: Type.Optional(Type.Integer({
    minimum: 1,
    description: 'Failures in a row that open the circuit: short for `rules: [{ type: \'consecutive\', threshold }]`. Default: 5, where there are no `rules`.'
  })),
  rules: Type.Optional(Type.Array(Type.Unsafe<RuleOptions>(Type.Union([ConsecutiveRuleSchema, FailureRateRuleSchema, SlowRateRuleSchema, Type.Function([], Type.Unknown())], {
    expected: 'an object { type: \'consecutive\' | \'failure-rate\' | \'slow-rate\', … } or a function that makes a TripRule'
  })), {
    description: 'When to open the circuit: any of these. A function makes a `TripRule` of your own for each backend.'
  })),
  timeout: Type.Optional(Type.Number({
    minimum: 1,
    default: 30_000,
    description: 'Milliseconds that an open circuit waits before it lets a request try.'
  })),
  maxTimeout: Type.Optional(Type.Number({
    minimum: 1,
    description: 'Most milliseconds to wait: each failed try doubles the time. At least `timeout`. Default: 300 000, or `timeout` where that is longer.'
  })),
  jitter: Type.Optional(Type.Number({
    minimum: 0,
    maximum: 1,
    default: 0.1,
    description: 'Part by which the waiting time is made longer or shorter at random, so that not all proxies try at once.'
  })),
  halfOpenRequests: Type.Optional(Type.Integer({
    minimum: 1,
    default: 1,
    description: 'Requests that may try at the same time while the circuit is half-open; all others go elsewhere, or fail at once.'
  })),
  successThreshold: Type.Optional(Type.Integer({
    minimum: 1,
    default: 1,
    description: 'Tries that must succeed before the circuit closes.'
  })),
  isFailure: Type.Optional(Type.Unsafe<IsFailure>(Type.Function([], Type.Unknown(), {
    description: 'Whether an outcome is a failure. Default: no connection, a reset, a timeout, an invalid response, or a status of 502, 503 or 504.',
    expected: 'a function',
    signature: '(outcome) => boolean'
  })))
}, {
  additionalProperties: false,
  title: 'BreakerOptions',
  description: 'Opens the circuit of a backend that fails, so that requests go elsewhere, and tries it again by and by.'
})

/** A circuit breaker as an option. */
export const BreakerSchema = Type.Unsafe<BreakerInput>(Type.Union([
  Type.Object({ type: Type.String(), createCircuit: Type.Function([], Type.Unknown()) }, { title: 'CircuitBreaker' }),
  Type.Boolean(),
  BreakerOptionsSchema
], {
  default: {},
  description: 'Keeps requests from backends that fail: options, an instance of a `CircuitBreaker`, or `false` for none.',
  expected: 'a boolean, an object of options, or a CircuitBreaker with a createCircuit() method'
}))

/** A rule as an option. */
export type RuleOptions = Static<typeof ConsecutiveRuleSchema> | Static<typeof FailureRateRuleSchema> | Static<typeof SlowRateRuleSchema> | (() => TripRule)
/** The options of a circuit breaker. */
export type BreakerOptions = Static<typeof BreakerOptionsSchema>
/** What `breaker` and `setCircuitBreaker()` take. */
export type BreakerInput = boolean | BreakerOptions | CircuitBreaker
