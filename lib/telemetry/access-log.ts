import type { FastifyBaseLogger } from 'fastify'
import type { AccessLogOptions, AttemptReport, AttemptResult, ExchangeSummary, ExchangeTrace } from '../../types/index.ts'

/** Of an exchange, what a line in the log tells beside what has become of it. */
export type Asked = Pick<ExchangeTrace, 'upstream' | 'route' | 'method' | 'path'>

/** Which exchanges have a line in the log, and what it says. */
export class AccessLog {
  readonly #level: NonNullable<AccessLogOptions['level']>
  readonly #sample: number
  readonly #random: () => number

  constructor ({ level, sample }: Required<AccessLogOptions>, random: () => number) {
    this.#level = level as NonNullable<AccessLogOptions['level']>
    this.#sample = sample
    this.#random = random
  }

  /** Whether there is to be a line, and anybody would read it. */
  wants (log: FastifyBaseLogger, result: AttemptResult): boolean {
    return isEnabled(log, this.#level) && (result !== 'successful' || this.#sample === 1 || this.#random() < this.#sample)
  }

  write (log: FastifyBaseLogger, { upstream, route, method, path }: Asked, { result, statusCode, error, backend, attempts, bytesReceived, bytesSent, time, times }: ExchangeSummary): void {
    log[this.#level]({
      upstream,
      route,
      method,
      path: withoutQuery(path),
      backend: backend?.id,
      statusCode,
      result,
      error: nameOf(error),
      attempts: attempts.map(plain),
      bytesReceived,
      bytesSent,
      responseTime: rounded(time),
      times: Object.fromEntries(Object.entries(times).map(([stage, taken]) => [stage, rounded(taken)]))
    }, 'exchange finished')
  }
}

function plain ({ backend, result, time, hedge, outcome: { stage, statusCode } }: AttemptReport): object {
  return { backend: backend.id, result, stage, statusCode, time: rounded(time), hedge }
}

/** Its code, where that is one: the application's own errors may have anything for it. */
function nameOf (error: Error | undefined): string | undefined {
  const { code, name } = (error ?? {}) as { code?: unknown, name?: string }
  return typeof code === 'string' ? code : name
}

/** To the microsecond. */
function rounded (milliseconds: number): number {
  return Math.round(milliseconds * 1_000) / 1_000
}

/** What follows may be a secret. */
function withoutQuery (path: string): string {
  const query = path.indexOf('?')
  return query === -1 ? path : path.slice(0, query)
}

/** pino says so; of other loggers it is not known, and they are spared what mostly nobody reads. */
function isEnabled (log: FastifyBaseLogger, level: string): boolean {
  return (log as FastifyBaseLogger & { isLevelEnabled?: (level: string) => boolean }).isLevelEnabled?.(level) ?? (level !== 'debug' && level !== 'trace')
}
