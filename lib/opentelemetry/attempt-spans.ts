import type { Context, Span, Tracer } from '@opentelemetry/api'
import type { FastifyRequest } from 'fastify'
import type { AttemptTrace, ExchangeTrace, ProxyManager } from '../../types/index.ts'
import type { OpenTelemetryOptions } from '../../types/opentelemetry.ts'
import { attemptChannel, exchangeChannel } from '../telemetry/index.ts'
import type { Api } from './api.ts'
import { endingOf, OTHER, startAttributes } from './attributes.ts'
import { fieldGetter, fieldSetter, replaceFields } from './carrier.ts'
import type { Faults } from './faults.ts'

/** What spans are made by. */
export interface Tracing {
  readonly api: Api
  readonly tracer: Tracer
  readonly options: OpenTelemetryOptions
  /** Methods that spans name. */
  readonly methods: ReadonlySet<string>
}

/** A span for each attempt of one registration, from its start to its end. Those of one exchange have the same parent. */
export class AttemptSpans {
  readonly #proxy: ProxyManager
  readonly #tracing: Tracing
  readonly #secret: ReadonlySet<string>
  readonly #faults: Faults
  /** What the spans of an exchange are children of: the context that it began in. */
  readonly #parents = new WeakMap<ExchangeTrace, Context>()
  /** The same for what is made of a request without the application's asking: copies, and exchanges in the place of others. */
  readonly #asked = new WeakMap<FastifyRequest, Context>()
  /** The exchange that is just ending. */
  #ending: ExchangeTrace | null = null
  readonly #spans = new WeakMap<AttemptTrace, Span>()
  #underWay = 0
  #stopped = false

  constructor (proxy: ProxyManager, tracing: Tracing, faults: Faults) {
    this.#proxy = proxy
    this.#tracing = tracing
    this.#secret = new Set(tracing.options.redactedQueryParams)
    this.#faults = faults
  }

  start (): void {
    exchangeChannel.start.subscribe(this.#onExchange)
    exchangeChannel.asyncEnd.subscribe(this.#onExchangeEnd)
    attemptChannel.start.subscribe(this.#onStart)
    attemptChannel.asyncEnd.subscribe(this.#onEnd)
  }

  /** Makes no more spans. Those of attempts that are still under way are ended with them. */
  stop (): void {
    this.#stopped = true
    exchangeChannel.start.unsubscribe(this.#onExchange)
    exchangeChannel.asyncEnd.unsubscribe(this.#onExchangeEnd)
    attemptChannel.start.unsubscribe(this.#onStart)
    this.#leave()
  }

  #leave (): void {
    if (this.#stopped && this.#underWay === 0) attemptChannel.asyncEnd.unsubscribe(this.#onEnd)
  }

  // What a subscriber throws would end the process.

  readonly #onExchange = (message: unknown): void => {
    const exchange = message as ExchangeTrace
    if (exchange.proxy !== this.#proxy) return
    this.#faults.guard('the active context is not known', () => this.#parents.set(exchange, this.#contextOf(exchange)))
  }

  readonly #onExchangeEnd = (message: unknown): void => {
    const exchange = message as ExchangeTrace
    if (exchange.proxy !== this.#proxy || exchange.request === undefined) return
    // One in its place begins at once, or not at all.
    this.#ending = exchange
    queueMicrotask(() => { if (this.#ending === exchange) this.#ending = null })
  }

  readonly #onStart = (message: unknown): void => {
    const attempt = message as AttemptTrace
    if (attempt.exchange.proxy !== this.#proxy) return
    const { options: { onSpan } } = this.#tracing
    const parent = this.#faults.guard('the context of a request was not read', () => this.#parentOf(attempt)) ?? this.#tracing.api.ROOT_CONTEXT
    const span = this.#faults.guard('a span was not started', () => this.#spanOf(attempt, parent))
    if (span === undefined) return
    this.#spans.set(attempt, span)
    this.#underWay++
    if (onSpan !== undefined) this.#faults.guard('onSpan threw', () => { if (span.isRecording()) return onSpan(span, attempt) })
    // Last, so that no hook takes it out.
    if (this.#tracing.options.propagate === true) this.#faults.guard('the context was not sent', () => this.#inject(span, parent, attempt.headers))
  }

  readonly #onEnd = (message: unknown): void => {
    const attempt = message as AttemptTrace
    const span = this.#spans.get(attempt)
    if (span === undefined) return
    this.#spans.delete(attempt)
    this.#underWay--
    this.#faults.guard('a span was not completed', () => this.#complete(span, attempt))
    this.#faults.guard('a span was not ended', () => span.end())
    this.#leave()
  }

  /**
   * The context that is active. What begins because a backend has answered, or has not, runs in the context of whoever has opened its
   * connection: for that it is the one that was active when the application asked.
   */
  #contextOf ({ request, isCopy }: ExchangeTrace): Context {
    const active = this.#tracing.api.context.active()
    if (request === undefined) return active
    const asked = this.#asked.get(request)
    if (asked !== undefined && (isCopy || this.#ending?.request === request)) return asked
    this.#asked.set(request, active)
    return active
  }

  /** The context that the exchange began in; where that has no span, with what its fields tell. */
  #parentOf ({ exchange, headers }: AttemptTrace): Context {
    const { api, options: { propagator = api.propagation } } = this.#tracing
    const began = this.#parents.get(exchange) ?? api.ROOT_CONTEXT
    if (api.trace.getSpan(began) !== undefined) return began
    const parent = propagator.extract(began, headers, fieldGetter)
    // Only the first attempt: what is told in the fields of others is the same.
    this.#parents.set(exchange, parent)
    return parent
  }

  #spanOf (attempt: AttemptTrace, parent: Context): Span {
    const { api: { SpanKind }, tracer, methods } = this.#tracing
    const isKnown = methods.has(attempt.method)
    return tracer.startSpan(isKnown ? attempt.method : 'HTTP', {
      kind: SpanKind.CLIENT,
      attributes: startAttributes(attempt, isKnown ? attempt.method : OTHER, this.#secret)
    }, parent)
  }

  /** Writes the span's context into the fields, all of it or nothing. */
  #inject (span: Span, parent: Context, headers: string[]): void {
    const { api, options: { propagator = api.propagation } } = this.#tracing
    const own = span.spanContext()
    // Without an SDK a span is none, or stands for the client's own: what that has sent says the same.
    const given = api.trace.getSpanContext(parent)
    if (!api.isSpanContextValid(own) || (given?.isRemote === true && given.spanId === own.spanId)) return
    const fields: string[] = []
    propagator.inject(api.trace.setSpan(parent, span), fields, fieldSetter)
    if (fields.length > 0) replaceFields(headers, propagator.fields(), fields)
  }

  #complete (span: Span, attempt: AttemptTrace): void {
    const { api: { SpanStatusCode }, options: { onSpanEnd } } = this.#tracing
    if (attempt.report === undefined || !span.isRecording()) return
    const { attributes, failed, message } = endingOf(attempt.report, attempt.version)
    span.setAttributes(attributes)
    if (failed) span.setStatus({ code: SpanStatusCode.ERROR, message })
    if (onSpanEnd !== undefined) this.#faults.guard('onSpanEnd threw', () => onSpanEnd(span, attempt))
  }
}
