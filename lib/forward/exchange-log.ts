import type { FastifyBaseLogger } from 'fastify'
import type { AttemptResult } from '../../types/index.ts'
import type { Attempt } from './attempt.ts'
import type { Attempts } from './attempts.ts'

/** What an exchange tells the log. */
export class ExchangeLog {
  readonly #log: FastifyBaseLogger | undefined
  readonly #upstream: string

  constructor (log: FastifyBaseLogger | undefined, upstream: string) {
    this.#log = log
    this.#upstream = upstream
  }

  failed ({ error, backend, stage, culprit, statusCode, responseTime }: Attempt): void {
    this.#log?.warn({ err: error, upstream: this.#upstream, backend: backend.id, stage, culprit, statusCode, responseTime }, 'attempt failed')
  }

  clientClosed (attempt: Attempt | null): void {
    this.#log?.info({ upstream: this.#upstream, backend: attempt?.backend.id, statusCode: 499, stage: attempt?.stage }, 'the client closed the request')
  }

  /** A function of the user's threw. */
  threw (error: unknown, what: string): void {
    this.#log?.warn({ err: error, upstream: this.#upstream }, what)
  }

  finished (result: AttemptResult, responseTime: number, attempts: Attempts): void {
    if (this.#log === undefined || !logsDebug(this.#log)) return
    const { backend, statusCode, stage } = attempts.leading ?? {}
    this.#log.debug({ upstream: this.#upstream, backend: backend?.id, statusCode, stage, result, attempts: attempts.reports().map(plain), responseTime }, 'exchange finished')
  }
}

function plain ({ backend, result, time, hedge, outcome: { stage, statusCode } }: ReturnType<Attempt['report']>): object {
  return { backend: backend.id, result, stage, statusCode, time, hedge }
}

/** Whether anybody would read a debug line; pino says so, other loggers may not. */
function logsDebug (log: FastifyBaseLogger): boolean {
  return (log as FastifyBaseLogger & { isLevelEnabled?: (level: string) => boolean }).isLevelEnabled?.('debug') ?? false
}
