import type { FastifyBaseLogger } from 'fastify'

/** What the application's SDK and hooks may throw while requests are served: it is logged once of a kind, and goes no further. */
export class Faults {
  readonly #log: FastifyBaseLogger
  readonly #told = new Set<string>()

  constructor (log: FastifyBaseLogger) {
    this.#log = log
  }

  /** @param kind what was not done, in words */
  guard<T> (kind: string, work: () => T): T | undefined {
    try {
      const result = work()
      // A hook may be an async function by mistake.
      if (result instanceof Promise) result.catch(error => this.#tell(kind, error))
      return result
    } catch (error) {
      this.#tell(kind, error)
      return undefined
    }
  }

  #tell (kind: string, error: unknown): void {
    if (this.#told.has(kind)) return
    this.#told.add(kind)
    this.#log.error({ err: error }, `OpenTelemetry: ${kind}. This is logged but once.`)
  }
}
