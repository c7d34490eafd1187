import type { FastifyBaseLogger } from 'fastify'
import type { Clock, ProxyEvent, ProxyEventName, ProxyEvents } from '../../types/index.ts'
import type { Events } from '../events.ts'

/** Says what becomes of one upstream: by its events, and in the log where that is no event. */
export class Reporter {
  readonly #upstream: string
  readonly #clock: Clock
  readonly #events: Events
  /** Those of all upstreams, which know the log. */
  readonly #shared: Events

  constructor (upstream: string, clock: Clock, events: Events, shared: Events) {
    this.#upstream = upstream
    this.#clock = clock
    this.#events = events
    this.#shared = shared
  }

  /** @param event what it tells beside the name of the upstream and the time, which is now */
  tell<Name extends ProxyEventName> (name: Name, event: Omit<ProxyEvents[Name][0], keyof ProxyEvent>): void {
    this.#events.tell(name, { upstream: this.#upstream, time: this.#clock.wall(), ...event } as ProxyEvents[Name][0])
  }

  log (level: 'info' | 'warn' | 'error', details: object, message: string): void {
    this.#log?.[level]({ upstream: this.#upstream, ...details }, message)
  }

  /** Something went wrong that must not get lost where there is no log. */
  warn (error: unknown, message: string): void {
    if (this.#log === undefined) process.emitWarning(error as Error)
    else this.log('warn', { err: error }, message)
  }

  get #log (): FastifyBaseLogger | undefined {
    return this.#shared.log
  }
}
