import { context, propagation, ROOT_CONTEXT, SpanKind, trace, type Context, type Span } from '@opentelemetry/api'
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks'
import { CompositePropagator, W3CBaggagePropagator, W3CTraceContextPropagator } from '@opentelemetry/core'
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor, type ReadableSpan, type Sampler } from '@opentelemetry/sdk-trace-base'
import type { FastifyInstance } from 'fastify'
import { until, type Message } from './wire.ts'

/** What an application sets up beside a provider: which context is active, and how it is told others. */
export function setUpContexts (): void {
  context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable())
  propagation.setGlobalPropagator(new CompositePropagator({ propagators: [new W3CTraceContextPropagator(), new W3CBaggagePropagator()] }))
}

/** A provider that keeps what it is given. */
export class SpanKeeper {
  readonly provider: BasicTracerProvider
  readonly #exporter = new InMemorySpanExporter()

  constructor (sampler?: Sampler) {
    this.provider = new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(this.#exporter)], ...(sampler === undefined ? {} : { sampler }) })
  }

  /** All spans that have ended, in that order. */
  get all (): ReadableSpan[] {
    return this.#exporter.getFinishedSpans()
  }

  /** Those of attempts. */
  get attempts (): ReadableSpan[] {
    return this.all.filter(({ kind }) => kind === SpanKind.CLIENT)
  }

  /** Resolves to the spans of attempts, in the order they began, once there are so many. */
  async some (count = 1): Promise<ReadableSpan[]> {
    await until(() => this.attempts.length >= count)
    return this.attempts.sort((a, b) => resends(a) - resends(b))
  }

  /** Has every request of an app run in a span, as instrumentations of servers do it. */
  serve (app: FastifyInstance, begin: (extracted: Context) => Span = extracted => this.provider.getTracer('test').startSpan('server', { kind: SpanKind.SERVER }, extracted)): void {
    app.addHook('onRequest', (request, reply, done) => {
      const extracted = propagation.extract(ROOT_CONTEXT, request.headers)
      const span = begin(extracted)
      reply.raw.once('close', () => span.end())
      context.with(trace.setSpan(extracted, span), done)
    })
  }
}

function resends ({ attributes }: ReadableSpan): number {
  return attributes['http.request.resend_count'] as number | undefined ?? 0
}

/** What `traceparent` says of a span. W3C Trace Context, 3.2. */
export function traceparentOf (span: ReadableSpan): string {
  const { traceId, spanId, traceFlags } = span.spanContext()
  return `00-${traceId}-${spanId}-0${traceFlags}`
}

/** The fields of a request that tell a context, as they came. */
export function contextFields ({ fields }: Message): [string, string][] {
  return fields.filter(([name]) => /^(traceparent|tracestate|baggage)$/i.test(name))
}
