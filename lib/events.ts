import type { FastifyBaseLogger } from 'fastify'
import { channel, type Channel } from 'node:diagnostics_channel'
import { EventEmitter } from 'node:events'
import type { Backend, ProxyEvent, ProxyEventName, ProxyEvents } from '../types/index.ts'

/** How loud each event is in the log, and in which words. */
const lines: Record<ProxyEventName, { level: 'info' | 'warn', text: string }> = {
  'backend:added': { level: 'info', text: 'a backend was added' },
  'backend:draining': { level: 'info', text: 'a backend takes no new requests' },
  'backend:drained': { level: 'info', text: 'a backend has nothing left to do' },
  'backend:removed': { level: 'info', text: 'a backend was removed' },
  'backend:healthy': { level: 'info', text: 'a backend passes its health checks' },
  'backend:unhealthy': { level: 'warn', text: 'a backend fails its health checks' },
  'backend:ejected': { level: 'warn', text: 'a backend was ejected' },
  'backend:returned': { level: 'info', text: 'a backend is no longer ejected' },
  'circuit:open': { level: 'warn', text: 'a circuit is open' },
  'circuit:half-open': { level: 'info', text: 'a circuit is half-open' },
  'circuit:closed': { level: 'info', text: 'a circuit is closed' },
  'discovery:failed': { level: 'warn', text: 'backends could not be found: those there are stay' },
  'discovery:recovered': { level: 'info', text: 'backends are found again' },
  'panic:on': { level: 'warn', text: 'too few backends are available: all active ones are used' },
  'panic:off': { level: 'info', text: 'enough backends are available again' }
}

/** All of them. */
export const EVENT_NAMES = Object.keys(lines) as ProxyEventName[]

const channels = Object.fromEntries(Object.keys(lines).map(name => [name, channel(`rockstar-proxy:${name}`)])) as Record<ProxyEventName, Channel>

/** Tells what becomes of backends: to listeners, to `node:diagnostics_channel`, and in the log. */
export class Events extends EventEmitter<ProxyEvents> {
  /** The application's; there is none before the plugin is registered. */
  log: FastifyBaseLogger | undefined
  /** How often each was told. */
  readonly counts = Object.fromEntries(Object.keys(lines).map(name => [name, 0])) as Record<ProxyEventName, number>
  /** Who hears of the same, of all upstreams. */
  readonly #parent: Events | null

  constructor (parent: Events | null = null) {
    super()
    this.#parent = parent
  }

  tell<Name extends ProxyEventName> (name: Name, event: ProxyEvents[Name][0]): void {
    this.counts[name]++
    this.#emit(name, event)
    if (this.#parent !== null) return this.#parent.tell(name, event)
    if (channels[name].hasSubscribers) channels[name].publish(event)
    if (this.log === undefined) return
    const { level, text } = lines[name]
    const { time: _, ...told } = event as ProxyEvent & { backend?: Backend }
    this.log[level]({ ...told, backend: told.backend?.id }, text)
  }

  /** A listener that throws or rejects must stop neither the others nor what it is told of. */
  #emit<Name extends ProxyEventName> (name: Name, event: ProxyEvents[Name][0]): void {
    if (this.listenerCount(name) === 0) return
    for (const listener of this.rawListeners(name) as ((event: ProxyEvents[Name][0]) => unknown)[]) {
      try {
        const result: unknown = listener.call(this, event)
        if (result instanceof Promise) result.catch(error => this.#onFault(error, name))
      } catch (error) {
        this.#onFault(error, name)
      }
    }
  }

  #onFault (error: unknown, event: ProxyEventName): void {
    const log = this.log ?? this.#parent?.log
    if (log === undefined) process.emitWarning(error instanceof Error ? error : String(error))
    else log.error({ err: error, event }, 'a listener threw')
  }
}
