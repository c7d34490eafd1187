import { Type, type Static } from '@sinclair/typebox'

const hosts = Type.Optional(Type.Integer({ minimum: 1, default: 5, description: 'Backends with enough requests that there must be.' }))

export const SuccessRateOptionsSchema = Type.Object({
  stdevFactor: Type.Optional(Type.Number({ minimum: 0, default: 1.9, description: 'Standard deviations below the mean of all at which a backend is ejected.' })),
  minimumHosts: hosts,
  requestVolume: Type.Optional(Type.Integer({ minimum: 1, default: 100, description: 'Requests in an interval below which a backend is not judged.' }))
}, { additionalProperties: false, title: 'SuccessRateOptions', description: 'Ejects backends that succeed much less often than the others.' })

export const FailurePercentageOptionsSchema = Type.Object({
  threshold: Type.Optional(Type.Number({ minimum: 0, maximum: 100, default: 85, description: 'Failures in a hundred requests at which a backend is ejected.' })),
  minimumHosts: hosts,
  requestVolume: Type.Optional(Type.Integer({ minimum: 1, default: 50, description: 'Requests in an interval below which a backend is not judged.' }))
}, { additionalProperties: false, title: 'FailurePercentageOptions', description: 'Ejects backends that mostly fail.' })

/** The options of outlier detection. */
export const OutlierOptionsSchema = Type.Object({
  consecutiveFailures: Type.Optional(Type.Integer({ minimum: 0, default: 5, description: 'Failures in a row that eject a backend: no answer, or 502, 503, 504. 0 looks for none.' })),
  splitLocalErrors: Type.Optional(Type.Boolean({
    default: false,
    description: 'Judge what never was an answer (no connection, a reset, a timeout) apart from answers of 502, 503 and 504, by `consecutiveLocalErrors`.'
  })),
  consecutiveLocalErrors: Type.Optional(Type.Integer({ minimum: 0, default: 5, description: 'With `splitLocalErrors`: requests in a row without an answer that eject a backend. 0 looks for none.' })),
  successRate: Type.Optional(Type.Union([Type.Literal(false), SuccessRateOptionsSchema], { default: {}, description: 'Compare the backends\' rates of success.', expected: 'false or an object' })),
  failurePercentage: Type.Optional(Type.Union([Type.Literal(false), FailurePercentageOptionsSchema], { default: {}, description: 'Look at each backend\'s rate of failures.', expected: 'false or an object' })),
  interval: Type.Optional(Type.Number({ minimum: 10, default: 10_000, description: 'Milliseconds from one comparison to the next.' })),
  baseEjectionTime: Type.Optional(Type.Number({ minimum: 1, default: 30_000, description: 'Milliseconds that an ejection lasts, times the ejections that a backend has had lately.' })),
  maxEjectionTime: Type.Optional(Type.Number({ minimum: 1, default: 300_000, description: 'Most milliseconds that an ejection lasts.' })),
  maxEjectionPercent: Type.Optional(Type.Number({ minimum: 0, maximum: 100, default: 50, description: 'Most of the active backends that may be ejected, in percent. The last one that is left never is.' }))
}, {
  additionalProperties: false,
  title: 'OutlierOptions',
  description: 'Judges backends by live traffic and ejects those that stand out, for a while. Source: gRPC A50, Envoy.'
})

export const OutlierSchema = Type.Union([Type.Boolean(), OutlierOptionsSchema], {
  default: true,
  description: 'Outlier detection: options, `true` for the defaults, or `false` for none.',
  expected: 'a boolean or an object of options'
})

/** The options of outlier detection. */
export type OutlierOptions = Static<typeof OutlierOptionsSchema>
/** How rates of success are compared. */
export type SuccessRateOptions = Static<typeof SuccessRateOptionsSchema>
/** How rates of failure are looked at. */
export type FailurePercentageOptions = Static<typeof FailurePercentageOptionsSchema>
