import type { FastifyBaseLogger } from 'fastify'
import type { AttemptResult, StageTimeouts } from '../../types/index.ts'
import type { Upstream } from '../upstream.ts'
import type { Attempt } from './attempt.ts'
import type { Attempts } from './attempts.ts'

/** What an exchange leaves behind: the numbers of its upstream, and what it tells the log. */
export class ExchangeRecord {
  readonly #upstream: Upstream
  readonly #log: FastifyBaseLogger | undefined
  readonly #startedAt: number
  #answered = false

  constructor (upstream: Upstream, log: FastifyBaseLogger | undefined, now: number) {
    this.#upstream = upstream
    this.#log = log
    this.#startedAt = now
    upstream.counters.begin()
    if (upstream.leaving) upstream.servedLate = true
    upstream.budget.begin(now)
    upstream.hedging?.begin()
  }

  /** Milliseconds since it began. */
  get age (): number {
    return this.#upstream.clock.now() - this.#startedAt
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

  finished (result: AttemptResult, time: number, attempts: Attempts): void {
    this.#upstream.counters.end(result, time)
    if (this.#log === undefined || !logsDebug(this.#log)) return
    const { backend, statusCode, stage } = attempts.leading ?? {}
    this.#log.debug({ upstream: this.#upstream.name, backend: backend?.id, statusCode, stage, result, attempts: attempts.reports().map(plain), responseTime: time }, 'exchange finished')
  }
}

function plain ({ backend, result, time, hedge, outcome: { stage, statusCode } }: ReturnType<Attempt['report']>): object {
  return { backend: backend.id, result, stage, statusCode, time, hedge }
}

/** Whether anybody would read a debug line; pino says so, other loggers may not. */
function logsDebug (log: FastifyBaseLogger): boolean {
  return (log as FastifyBaseLogger & { isLevelEnabled?: (level: string) => boolean }).isLevelEnabled?.('debug') ?? false
}
