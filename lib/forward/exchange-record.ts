import type { FastifyBaseLogger } from 'fastify'
import type { AttemptReason, AttemptResult, AttemptTrace, ExchangeSummary, ExchangeTrace, StageTimeouts } from '../../types/index.ts'
import { attemptChannel, exchangeChannel, Trace, type Progress } from '../telemetry/index.ts'
import type { Upstream } from '../upstream.ts'
import type { Attempt } from './attempt.ts'
import type { Attempts } from './attempts.ts'
import { assertSendable } from './header-record.ts'
import type { Intent } from './intent.ts'
import type { Outgoing } from './outgoing.ts'
import { stageTimes } from './stage-times.ts'

/** What an exchange leaves behind: the numbers of its upstream, what it tells the log, and the tracing channels where anybody listens. */
export class ExchangeRecord {
  /** Bytes of bodies that have come from the client, beside those of `Sending`, and have gone to it. */
  bytesReceived = 0
  bytesSent = 0
  /** `null` where nobody listens. */
  readonly trace: Trace<ExchangeTrace> | null
  readonly #upstream: Upstream
  readonly #intent: Intent
  readonly #log: FastifyBaseLogger | undefined
  readonly #startedAt: number
  #answered = false

  /** @param isCopy whether nobody waits for an answer */
  constructor (upstream: Upstream, intent: Intent, isCopy: boolean, now: number) {
    this.#upstream = upstream
    this.#intent = intent
    this.#log = intent.log
    this.#startedAt = now
    this.trace = exchangeChannel.hasSubscribers || attemptChannel.hasSubscribers ? this.#traced(isCopy) : null
    upstream.counters.begin()
    if (upstream.leaving) upstream.servedLate = true
    upstream.budget.begin(now)
    upstream.hedging?.begin()
  }

  /** Milliseconds since it began. */
  get age (): number {
    return this.#upstream.clock.now() - this.#startedAt
  }

  /** How far it has come. */
  progress (attempts: Attempts): Progress {
    const now = this.#upstream.clock.now()
    return { times: stageTimes(this.#startedAt, now, attempts), time: now - this.#startedAt }
  }

  /** Sends an attempt. */
  dispatch (attempt: Attempt, outgoing: Outgoing, reason: AttemptReason, number: number): void {
    if (this.trace === null) return attempt.dispatch(outgoing)
    const headers = outgoing.headers = [...outgoing.headers]
    const { method, path } = outgoing
    attempt.trace = new Trace<AttemptTrace>(attemptChannel, { exchange: this.trace.message, backend: attempt.backend, reason, number, method, path, headers, report: undefined, version: undefined, error: undefined })
    const before = [...headers]
    attempt.trace.run(() => {
      // A subscriber may have had it given up.
      if (attempt.settled) return
      try {
        assertSendable(headers, before, 'A subscriber to rockstar-proxy:attempt')
      } catch (error) {
        return attempt.onError(error as Error)
      }
      attempt.dispatch(outgoing)
    })
  }

  /** No answer is waited for any more. */
  answered (): void {
    if (this.#answered) return
    this.#answered = true
    this.#upstream.budget.end()
  }

  timedOut (stage: keyof StageTimeouts): void {
    this.#upstream.tallies.timeouts[stage]++
  }

  failed ({ error, backend, stage, culprit, statusCode, responseTime }: Attempt): void {
    this.#log?.warn({ err: error, upstream: this.#upstream.name, backend: backend.id, stage, culprit, statusCode, responseTime }, 'attempt failed')
  }

  clientClosed (attempt: Attempt | null): void {
    this.#log?.info({ upstream: this.#upstream.name, backend: attempt?.backend.id, statusCode: 499, stage: attempt?.stage }, 'the client closed the request')
  }

  /** A function of the user's threw. */
  threw (error: unknown, what: string): void {
    this.#log?.warn({ err: error, upstream: this.#upstream.name }, what)
  }

  /** @param error why there was no answer, or not all of one @param begun whether one has begun to go out @param received bytes of the request's body */
  finished (result: AttemptResult, error: Error | undefined, time: number, attempts: Attempts, begun: boolean, received: number): void {
    this.#upstream.counters.end(result, time)
    const { accessLog } = this.#upstream.telemetry
    const log = this.#log !== undefined && accessLog?.wants(this.#log, result) === true ? this.#log : null
    if (log === null && this.trace === null) return
    const { leading } = attempts
    const summary: ExchangeSummary = {
      result,
      statusCode: begun ? leading?.statusCode ?? 0 : statusOf(error),
      error,
      backend: leading?.backend,
      attempts: attempts.reports(),
      bytesReceived: received + this.bytesReceived,
      bytesSent: this.bytesSent,
      time,
      times: stageTimes(this.#startedAt, leading?.statusCode === 101 ? this.#upstream.clock.now() : this.#startedAt + time, attempts)
    }
    if (log !== null) accessLog?.write(log, this.#asked(), summary)
    if (this.trace === null) return
    this.trace.message.summary = summary
    this.trace.finish(error)
  }

  #traced (isCopy: boolean): Trace<ExchangeTrace> {
    const { telemetry: { proxy } } = this.#upstream
    return new Trace<ExchangeTrace>(exchangeChannel, { proxy, ...this.#asked(), request: this.#intent.request, isCopy, summary: undefined, error: undefined })
  }

  #asked (): Pick<ExchangeTrace, 'upstream' | 'route' | 'method' | 'path'> {
    const { request, method, path } = this.#intent
    return { upstream: this.#upstream.name, route: request?.routeOptions?.url, method, path }
  }
}

/** With what Fastify sends an error, as the application's own may say anything. */
function statusOf (error: Error | undefined): number {
  const { statusCode } = (error ?? {}) as { statusCode?: unknown }
  return typeof statusCode === 'number' && Number.isInteger(statusCode) && statusCode >= 400 && statusCode <= 599 ? statusCode : 500
}
