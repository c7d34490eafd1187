import { Type, type Static } from '@sinclair/typebox'

/** What is used of a `Registry` of prom-client. */
export interface MetricsRegistry {
  readonly contentType: string
  metrics (): Promise<string>
  registerMetric (metric: never): void
  getSingleMetric (name: string): unknown
  removeSingleMetric (name: string): void
}

/** How Prometheus' metrics are told. */
export const MetricsOptionsSchema = Type.Object({
  registry: Type.Optional(Type.Unsafe<MetricsRegistry>(Type.Object({
    contentType: Type.String(), metrics: Type.Function([], Type.Unknown()), registerMetric: Type.Function([], Type.Unknown()), getSingleMetric: Type.Function([], Type.Unknown()), removeSingleMetric: Type.Function([], Type.Unknown())
  }, {
    title: 'Registry',
    description: 'A `Registry` of prom-client that the metrics go into; `GET /metrics/prometheus` then tells all that it has. Default: none, and the proxy\'s metrics alone.',
    expected: 'a Registry of prom-client'
  }))),
  perBackend: Type.Optional(Type.Union([Type.Boolean(), Type.Literal('numbers')], {
    default: true,
    description: 'Tell of each backend (about 45 series for one); `\'numbers\'` leaves out its durations (about 25), `false` tells of upstreams only. For those with hundreds of backends.',
    expected: 'a boolean or \'numbers\''
  })),
  labels: Type.Optional(Type.Unsafe<Record<string, string>>(Type.Record(Type.String(), Type.String(), {
    default: {},
    description: 'Labels that every metric has beside its own: `{ proxy: \'edge\' }`. Needed where several registrations share a registry.',
    expected: 'an object of strings by the names of labels'
  })))
}, { additionalProperties: false, title: 'MetricsOptions', description: 'How Prometheus\' metrics are told: `admin.metrics`, and beside its other options those of `rockstar-proxy/metrics`.' })

/** How Prometheus' metrics are told. */
export type MetricsOptions = Static<typeof MetricsOptionsSchema>
