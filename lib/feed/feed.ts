import type { FastifyBaseLogger } from 'fastify'
import type { EventsOptions, ProxyEventName, Timer } from '../../types/index.ts'
import { proxyError } from '../errors.ts'
import { EVENT_NAMES } from '../events.ts'
import type { ProxyManager } from '../proxy-manager.ts'
import { eventData, eventText, type Message } from './message.ts'
import { Reader, type Source } from './reader.ts'

/** Seconds after which one more reader may ask again. */
const COME_BACK = 10
const ID = /^([0-9a-z]{1,16})-(\d{1,15})$/

/** Tells what happens, and what is counted, to all who read along. It listens as long as it is there, and counts only for readers. */
export class Feed implements Source {
  readonly #proxy: ProxyManager
  readonly #options: Required<EventsOptions>
  readonly #log: FastifyBaseLogger
  readonly #readers = new Set<Reader>()
  /** The last that have happened, in their order. */
  #history: Message[] = []
  #turn = 0
  /** What tells the events of this process from those of the one before it. */
  readonly #epoch: string
  readonly #listeners = new Map<ProxyEventName, (event: never) => void>()
  #timer: Timer | null = null
  #closed = false

  constructor (proxy: ProxyManager, options: Required<EventsOptions>, log: FastifyBaseLogger) {
    this.#proxy = proxy
    this.#options = options
    this.#log = log
    proxy.state.deadlines.allowFor(options.heartbeat)
    this.#epoch = proxy.state.clock.wall().toString(36).replace('.', '')
    for (const name of EVENT_NAMES) {
      const listener = (event: Parameters<typeof eventData>[0]): void => this.#happened(name, event)
      this.#listeners.set(name, listener)
      proxy.on(name, listener as never)
    }
  }

  get size (): number {
    return this.#readers.size
  }

  /**
   * Begins to tell. Throws `OVERLOADED` when there are as many readers as there may be, `CLOSED` when the app closes.
   * @param upstream the only one that is told of @param lastId of the event that was heard last
   */
  open (upstream?: string, lastId?: string): Reader {
    const { maxClients, maxBuffer, interval } = this.#options
    if (this.#closed || this.#proxy.state.leaving) throw proxyError('CLOSED')
    if (this.#readers.size >= maxClients) throw Object.assign(proxyError('OVERLOADED'), { headers: { 'retry-after': String(COME_BACK) } })
    const reader = new Reader(this, upstream, maxBuffer)
    this.#readers.add(reader)
    this.#proxy.state.deadlines.add(reader)
    // What is told at once is no more than one message, however long: nobody is too slow for what he has just asked for.
    reader.tell(`retry: 2000\n\n${lastId === undefined ? '' : this.#since(reader, lastId)}${interval > 0 ? this.#snapshot(upstream) : ''}`)
    this.#arm()
    return reader
  }

  /** Ends all: what it listens to, what it tells, and what it waits for. */
  close (): void {
    this.#closed = true
    for (const [name, listener] of this.#listeners) this.#proxy.off(name, listener as never)
    this.#listeners.clear()
    for (const reader of [...this.#readers]) reader.giveUp()
    this.#history = []
  }

  speakBy (): number {
    return this.#proxy.state.clock.now() + this.#options.heartbeat
  }

  left (reader: Reader, slow: boolean): void {
    if (!this.#readers.delete(reader)) return
    this.#proxy.state.deadlines.remove(reader)
    if (slow) this.#log.warn({ waiting: reader.readableLength }, 'a reader of events was too slow and is dropped')
    if (this.#readers.size === 0) this.#disarm()
  }

  #happened (name: ProxyEventName, event: Parameters<typeof eventData>[0]): void {
    const turn = ++this.#turn
    const message: Message = { turn, upstream: event.upstream, text: eventText(name, eventData(event), `${this.#epoch}-${turn}`) }
    this.#history.push(message)
    if (this.#history.length > this.#options.history) this.#history.shift()
    for (const reader of [...this.#readers]) reader.hear(message)
  }

  /** What has happened since, and whether more has than is still known. */
  #since (reader: Reader, lastId: string): string {
    const [, epoch, number] = ID.exec(lastId) ?? []
    const isOurs = epoch === this.#epoch && Number(number) <= this.#turn
    const after = isOurs ? Number(number) : 0
    const missed = !isOurs || after < this.#turn - this.#history.length
    const texts = this.#history.filter(({ turn, upstream }) => turn > after && reader.hears(upstream)).map(({ text }) => text)
    return `${missed ? eventText('missed', { lastEventId: lastId.slice(0, 64) }) : ''}${texts.join('')}`
  }

  #snapshot (upstream: string | undefined): string {
    const metrics = upstream === undefined ? this.#proxy.getMetrics() : this.#proxy.upstream(upstream).state.metrics()
    return eventText('metrics', { time: new Date(this.#proxy.state.clock.wall()).toISOString(), ...metrics })
  }

  #arm (): void {
    const { interval } = this.#options
    if (this.#timer !== null || interval === 0) return
    this.#timer = this.#proxy.state.clock.setTimeout(() => this.#tick(), interval)
  }

  #disarm (): void {
    if (this.#timer !== null) this.#proxy.state.clock.clearTimeout(this.#timer)
    this.#timer = null
  }

  /** Counts once for all who hear of the same. */
  #tick (): void {
    this.#timer = null
    const known = new Set(this.#proxy.listUpstreams().map(({ name }) => name))
    const texts = new Map<string | undefined, string>()
    for (const reader of [...this.#readers]) {
      const { upstream } = reader
      if (upstream !== undefined && !known.has(upstream)) {
        reader.giveUp()
        continue
      }
      const text = texts.get(upstream) ?? this.#snapshot(upstream)
      texts.set(upstream, text)
      reader.tell(text)
    }
    if (this.#readers.size > 0) this.#arm()
  }
}
