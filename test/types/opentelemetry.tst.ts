import type { Span, TextMapPropagator, TracerProvider } from '@opentelemetry/api'
import Fastify from 'fastify'
import type { AttemptTrace } from 'rockstar-proxy'
import openTelemetry from 'rockstar-proxy/opentelemetry'
import type { OpenTelemetryOptions, SpanHook } from 'rockstar-proxy/opentelemetry'
import { expect, test } from 'tstyche'

declare const provider: TracerProvider
declare const propagator: TextMapPropagator
declare const take: (options: OpenTelemetryOptions) => void

test('the options of rockstar-proxy/opentelemetry', () => {
  const app = Fastify()
  app.register(openTelemetry)
  app.register(openTelemetry, { tracerProvider: provider })
  expect(take).type.toBeCallableWith({})
  expect(take).type.toBeCallableWith({ tracerProvider: provider, propagator, propagate: false, redactedQueryParams: ['token'] })
  expect(take).type.toBeCallableWith({ onSpan: (span: Span) => { span.setAttribute('a', 1) } })
  expect(take).type.not.toBeCallableWith({ tracerProvider: 'global' })
  expect(take).type.not.toBeCallableWith({ propagator: 'w3c' })
  expect(take).type.not.toBeCallableWith({ propagate: 'yes' })
  expect(take).type.not.toBeCallableWith({ redactedQueryParams: 'token' })
  expect(take).type.not.toBeCallableWith({ redactedQueryParams: [/token/] })
  expect(take).type.not.toBeCallableWith({ onSpan: 'x' })
  expect(take).type.not.toBeCallableWith({ serviceName: 'x' })
  expect<OpenTelemetryOptions['onSpan']>().type.toBe<SpanHook | undefined>()
  take({
    onSpan: (span, attempt) => {
      expect(span).type.toBe<Span>()
      expect(attempt).type.toBe<AttemptTrace>()
    },
    onSpanEnd: (_span, { report }) => {
      expect(report?.outcome.statusCode).type.toBe<number | undefined>()
    }
  })
})
