import { Type, type Static } from '@sinclair/typebox'
import type { Backend } from './backend.ts'

/** What a backend last said of its load in an `endpoint-load-metrics` field. Source: ORCA (xDS), gRFC A51. */
export interface LoadReport {
  /** Use of the CPU, 1 for all of it; 0 when it was not told. */
  cpuUtilization: number
  /** Use of the memory, 0 to 1; 0 when it was not told. */
  memoryUtilization: number
  /** Use of whatever bounds the application, 1 for all of it; 0 when it was not told. */
  applicationUtilization: number
  /** Requests in a second; 0 when it was not told. */
  requestsPerSecond: number
  /** Errors in a second; 0 when it was not told. */
  errorsPerSecond: number
}

/** What was seen of a backend since its weight was last worked out. */
export interface WeightSample {
  /** Attempts that ended with an answer or a failure of the backend. */
  readonly requests: number
  /** Those of them that failed, or were answered with 500 or more. */
  readonly failures: number
  /** Mean milliseconds to the answer's head; 0 where there was none. A failure counts as a second at the least. */
  readonly latency: number
  /** Its last load report, unless that is older than `expiry`. */
  readonly load: LoadReport | undefined
}

/** Works out what a backend's weight is to be multiplied by. */
export type WeightFunction = (backend: Backend, sample: WeightSample) => number

/** How a backend that is new or has recovered gets its share. */
export const SlowStartOptionsSchema = Type.Object({
  window: Type.Optional(Type.Number({
    exclusiveMinimum: 0,
    default: 30_000,
    description: 'Milliseconds until it has its whole weight.',
    expected: 'a number above 0'
  })),
  aggression: Type.Optional(Type.Number({
    exclusiveMinimum: 0,
    default: 1,
    description: 'How the weight grows: as `(time / window) ** (1 / aggression)`. 1 is a straight line; above, it is quick at first.',
    expected: 'a number above 0'
  }))
}, {
  additionalProperties: false,
  title: 'SlowStartOptions',
  description: 'A backend that is added while the upstream serves, or is available again, begins with a tenth of its weight. Source: Envoy.'
})

/** How weights follow what backends do. */
export const WeightOptionsSchema = Type.Object({
  from: Type.Unsafe<'latency' | 'load-report' | WeightFunction>(Type.Union([
    Type.Literal('latency'),
    Type.Literal('load-report'),
    Type.Function([], Type.Unknown())
  ], {
    description: 'What weights follow. `\'latency\'`: the time to the answer\'s head, a backend that is twice as fast as another getting twice as much. `\'load-report\'`: what backends tell of their load in `endpoint-load-metrics` (ORCA), which clients then do not see. A function gets the backend and what was seen of it, and returns the factor.',
    expected: '\'latency\', \'load-report\' or a function',
    signature: '\'latency\' | \'load-report\' | (backend, sample) => number'
  })),
  interval: Type.Optional(Type.Number({
    minimum: 10,
    default: 1_000,
    description: 'Milliseconds after which weights are worked out anew.'
  })),
  min: Type.Optional(Type.Number({
    exclusiveMinimum: 0,
    default: 0.1,
    description: 'Least factor that a weight is multiplied by.',
    expected: 'a number above 0'
  })),
  max: Type.Optional(Type.Number({
    exclusiveMinimum: 0,
    default: 10,
    description: 'Highest factor that a weight is multiplied by.',
    expected: 'a number above 0'
  })),
  blackout: Type.Optional(Type.Number({
    minimum: 0,
    default: 10_000,
    description: 'Milliseconds that a backend must have sent load reports before they count.'
  })),
  expiry: Type.Optional(Type.Number({
    exclusiveMinimum: 0,
    default: 180_000,
    description: 'Milliseconds after which a load report no longer counts.',
    expected: 'a number above 0'
  }))
}, {
  additionalProperties: false,
  title: 'WeightOptions',
  description: 'Multiplies the weights by factors that follow what the backends do; 1 on average. Source: gRPC\'s client-side weighted round robin, gRFC A58.'
})

export const SlowStartSchema = Type.Union([Type.Boolean(), SlowStartOptionsSchema], {
  default: false,
  description: 'Let a backend that is new or has recovered take its share by and by. `true` means the defaults.',
  expected: 'a boolean or an object { window, aggression }'
})

export const WeightsSchema = Type.Union([Type.Literal(false), WeightOptionsSchema], {
  default: false,
  description: 'Let weights follow what the backends do.',
  expected: 'false or an object { from, interval, min, max, blackout, expiry }'
})

/** How a backend that is new or has recovered gets its share. */
export type SlowStartOptions = Static<typeof SlowStartOptionsSchema>
/** How weights follow what backends do. */
export type WeightOptions = Static<typeof WeightOptionsSchema>
