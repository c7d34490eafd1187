import type { Span, TextMapPropagator, TracerProvider } from '@opentelemetry/api'
import { Type, type Static } from '@sinclair/typebox'
import type { AttemptTrace } from './telemetry.ts'

/** Names of what in a query is a signature or says who has signed. Source: OpenTelemetry's semantic conventions, `url.full`. */
export const SENSITIVE_QUERY = ['AWSAccessKeyId', 'Signature', 'X-Amz-Credential', 'X-Amz-Security-Token', 'X-Amz-Signature', 'X-Goog-Signature', 'sig'] as const

/** Called with a span and the attempt that it is about. */
export type SpanHook = (span: Span, attempt: AttemptTrace) => void

const method = Type.Function([], Type.Unknown(), { expected: 'a function' })

const hook = (description: string) => Type.Optional(Type.Unsafe<SpanHook>(Type.Function([], Type.Unknown(), {
  description, expected: 'a function', signature: '(span, attempt) => void'
})))

/** Options of `rockstar-proxy/opentelemetry`. */
export const OpenTelemetryOptionsSchema = Type.Object({
  tracerProvider: Type.Optional(Type.Unsafe<TracerProvider>(Type.Object({ getTracer: method }, {
    description: 'Where spans are made. Default: the global one, also where that is set later.',
    expected: 'a TracerProvider of OpenTelemetry',
    signature: 'TracerProvider'
  }))),
  propagator: Type.Optional(Type.Unsafe<TextMapPropagator>(Type.Object({ inject: method, extract: method, fields: method }, {
    description: 'Reads the context that a request comes with, and writes that of the span into what is sent. Default: the global one.',
    expected: 'a TextMapPropagator of OpenTelemetry',
    signature: 'TextMapPropagator'
  }))),
  propagate: Type.Optional(Type.Boolean({
    default: true,
    description: 'Tell backends the context of the span, in place of what the client has sent. With `false` that goes on as it came.'
  })),
  redactedQueryParams: Type.Optional(Type.Array(Type.String({ minLength: 1 }), {
    default: [...SENSITIVE_QUERY],
    description: 'Names of what stands in queries and is not to be seen in `url.full`; case matters. A list of one\'s own takes the place of this one.',
    expected: 'an array of names, each a string of at least 1 characters'
  })),
  onSpan: hook('Called when a span that is recorded has begun, before anything is sent: adds attributes, or gives it another name. What it throws is logged once, and changes nothing.'),
  onSpanEnd: hook('The same when it is about to end; `attempt.report` tells what has become of it.')
}, { additionalProperties: false, title: 'OpenTelemetryOptions', description: 'Options of `rockstar-proxy/opentelemetry`: a span for each attempt. See [telemetry.md](telemetry.md#opentelemetry).' })

/** Options of `rockstar-proxy/opentelemetry`. */
export type OpenTelemetryOptions = Static<typeof OpenTelemetryOptionsSchema>
