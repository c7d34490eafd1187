import type { FastifyBaseLogger, FastifyReply, FastifyRequest } from 'fastify'
import { inspect } from 'node:util'
import { RockstarProxyOptionsSchema, UpstreamOptionsSchema } from '../types/index.ts'
import type * as contracts from '../types/index.ts'
import { fastRandom } from './balancer/index.ts'
import { systemClock } from './clock.ts'
import { Deadlines } from './deadlines.ts'
import { createDnsCache } from './dns/index.ts'
import { asError, proxyError } from './errors.ts'
import { Events } from './events.ts'
import { captureRequest, dryRun, explainRequest, ReplyClient, settingsOf, type DryRun, type Route, type Settings } from './forward/index.ts'
import { resolveOptions } from './options.ts'
import { Telemetry } from './telemetry/index.ts'
import { Upstream, type Shared } from './upstream.ts'
import { UpstreamManager } from './upstream-manager.ts'

/** Milliseconds without a request after which clients' connections are idle enough to be closed. */
const QUIET = 250

/** The default upstream, and the named ones beside it. */
export class ProxyManager extends UpstreamManager implements contracts.ProxyManager {
  readonly options: Readonly<contracts.RockstarProxyOptions>
  /** When it was made, on the clock that it goes by. */
  readonly startedAt: number
  readonly #shared: Shared
  readonly #upstreams = new Map<string, UpstreamManager>()
  #closing: Promise<void> | null = null
  /** Those that have been removed and are being drained. */
  readonly #retiring = new Set<UpstreamManager>()
  #started = false
  #routesWebSocket = false
  #onSwitching: (() => void) | null = null

  /** Throws `INVALID_OPTIONS`, naming the path of what is wrong. */
  constructor (given: contracts.RockstarProxyOptions) {
    const options = resolveOptions<contracts.RockstarProxyOptions>(RockstarProxyOptionsSchema, given, 'options')
    const clock = options.clock ?? systemClock
    const random = options.random ?? fastRandom
    const dns = createDnsCache(options.dns, { clock, random }, 'options.dns')
    const shared: Shared = { clock, deadlines: new Deadlines(clock), zone: options.zone, random, dns, events: new Events(), telemetry: new Telemetry(options, random, () => this), find: name => this.#upstreams.get(name)?.state }
    // Its names are those of the plugin.
    super(new Upstream('default', { ...options, dns: undefined }, shared, 'options'))
    this.options = options
    this.startedAt = clock.now()
    this.#shared = shared
    this.#upstreams.set('default', this)
    for (const [name, upstream] of Object.entries(options.upstreams ?? {})) {
      this.#addUpstream(name, upstream, `options.upstreams.${name}`)
    }
  }

  upstream (name: string): UpstreamManager {
    const upstream = this.#upstreams.get(name)
    if (upstream === undefined) throw proxyError('UNKNOWN_UPSTREAM', undefined, String(name))
    return upstream
  }

  addUpstream (name: string, options: contracts.UpstreamOptions = {}): UpstreamManager {
    const path = `upstreams.${name}`
    return this.#addUpstream(name, resolveOptions<contracts.UpstreamOptions>(UpstreamOptionsSchema, options, path), path)
  }

  async removeUpstream (name: string, options?: contracts.RemoveBackendOptions): Promise<void> {
    const upstream = this.upstream(name)
    if (upstream === this) throw proxyError('INVALID_OPTIONS', undefined, "the upstream 'default' cannot be removed")
    this.#upstreams.delete(name)
    this.#retiring.add(upstream)
    try {
      await upstream.retire(options)
    } finally {
      this.#retiring.delete(upstream)
    }
  }

  listUpstreams (): UpstreamManager[] {
    return [...this.#upstreams.values()]
  }

  override getMetrics (): contracts.ProxyMetrics {
    const upstreams: contracts.ProxyMetrics['upstreams'] = Object.create(null)
    for (const upstream of this.#upstreams.values()) {
      if (upstream !== this) upstreams[upstream.name] = upstream.getMetrics()
    }
    return { ...super.getMetrics(), upstreams }
  }

  /** Sends a request by a declared route: nobody waits for its end. */
  forwardRoute (request: FastifyRequest, reply: FastifyReply, route: Route): void {
    const client = new ReplyClient(request, reply, route.onError, this.state.telemetry)
    this.#choose(route.upstream, request,
      state => client.start(state, route.settingsFor(state)),
      error => client.failed(error))
  }

  /** What a request would meet, without its being sent. @param route `null` for what a handler forwards @param name of the upstream, whatever the route says */
  async dryRun (request: FastifyRequest, route: Route | null, name?: string): Promise<DryRun & { settings: Settings, upstream: string }> {
    const state = await new Promise<Upstream>((resolve, reject) => this.#choose(name ?? route?.upstream, request, resolve, reject))
    const settings = route === null ? settingsOf(state, {}) : route.settingsFor(state)
    return { ...await dryRun(state, request, settings), settings, upstream: state.name }
  }

  /** The app is ready: what follows time begins. */
  override async start (): Promise<void> {
    this.#findMeant()
    this.#started = true
    await Promise.all(this.listUpstreams().map(upstream => upstream === this ? super.start() : upstream.start()))
  }

  /** Whether every upstream that has backends has enough of them available. */
  override isReady (): boolean {
    const used = this.listUpstreams().filter(({ state }) => state.list().length > 0 || state.discovery !== null)
    return used.length > 0 && used.every(upstream => upstream === this ? super.isReady() : upstream.isReady())
  }

  /** Those of all upstreams. */
  protected override get events (): Events {
    return this.#shared.events
  }

  /** Where what happens is told. */
  logTo (log: FastifyBaseLogger): void {
    this.#shared.events.log = log
  }

  /** Lets those under way finish for so long, and aborts the rest. New requests are Fastify's to refuse; those that it lets through are served. */
  drain (): Promise<void> {
    this.#closing ??= this.#drain(this.options.shutdownTimeout as number)
    return this.#closing
  }

  /** Closes every connection. */
  async close (): Promise<void> {
    await this.drain()
    this.#shared.deadlines.stop()
    this.#shared.dns.close()
    await Promise.all([...this.#upstreams.values(), ...this.#retiring].map(upstream => upstream.shut()))
  }

  protected override forwardElsewhere (choice: contracts.UpstreamChoice, request: FastifyRequest, reply: FastifyReply | undefined, options: contracts.ForwardOptions): Promise<void | contracts.ProxyResponse> {
    if (reply === undefined) {
      return new Promise((resolve, reject) => this.#choose(choice, request,
        state => { captureRequest(state, request, settingsOf(state, options)).then(resolve, reject) }, reject))
    }
    const client = new ReplyClient(request, reply, options.onError, this.state.telemetry)
    this.#choose(choice, request, state => client.start(state, settingsOf(state, options)), error => client.failed(error))
    return client.completion
  }

  protected override explainElsewhere (choice: contracts.UpstreamChoice, request: FastifyRequest, options: contracts.ForwardOptions): Promise<contracts.Explanation> {
    return new Promise((resolve, reject) => this.#choose(choice, request,
      state => { explainRequest(state, request, settingsOf(state, options)).then(resolve, reject) }, reject))
  }

  /** Finds the upstream that a route or a call wants, which may take a while. */
  #choose (choice: contracts.UpstreamChoice | undefined, request: FastifyRequest, use: (state: Upstream) => void, fail: (error: Error) => void): void {
    if (choice === undefined) return use(this.state)
    try {
      const name = typeof choice === 'string' ? choice : choice(request)
      if (name instanceof Promise) name.then(name => use(this.upstream(name).state)).catch(error => fail(asError(error)))
      else use(this.upstream(name).state)
    } catch (error) {
      fail(asError(error))
    }
  }

  #addUpstream (name: string, options: contracts.UpstreamOptions, path: string): UpstreamManager {
    if (typeof name !== 'string' || name === '') throw proxyError('INVALID_OPTIONS', undefined, `the name of an upstream must be a string of at least 1 character, and is ${inspect(name)}`)
    if (this.#upstreams.has(name)) throw proxyError('DUPLICATE_UPSTREAM', undefined, name)
    const upstream = new UpstreamManager(new Upstream(name, options, this.#shared, path))
    this.#upstreams.set(name, upstream)
    if (this.#started && this.#closing === null) upstream.state.start()
    if (this.#onSwitching !== null) this.whenSwitching(this.#onSwitching)
    return upstream
  }

  /** Looks for the upstreams that options name. Throws `INVALID_OPTIONS` for one that is not there. */
  #findMeant (): void {
    const { routes = [], upstreams = {} } = this.options
    const places = [['options', this.options], ...Object.entries(upstreams).map(([name, given]) => [`options.upstreams.${name}`, given]), ...routes.map((route, i) => [`options.routes[${i}]`, route])]
    for (const [path, { mirror, fallback }] of places as [string, Pick<contracts.UpstreamOptions, 'mirror' | 'fallback'>][]) {
      const named = { mirror: mirror === false ? undefined : mirror?.upstream, fallback: typeof fallback === 'object' && 'upstream' in fallback ? fallback.upstream : undefined }
      for (const [option, name] of Object.entries(named)) {
        if (name !== undefined && !this.#upstreams.has(name)) throw proxyError('INVALID_OPTIONS', undefined, `${path}.${option}.upstream must be the name of an upstream, and is '${name}'`)
      }
    }
  }

  /** Whether requests have come since the app began to close, or since this was asked last. */
  #haveServedLate (): boolean {
    let late = false
    for (const { state } of this.#upstreams.values()) {
      late ||= state.servedLate
      state.servedLate = false
    }
    return late
  }

  /** Some route lets connections be switched to WebSocket, whatever upstreams say. */
  allowWebSocket (): void {
    this.#routesWebSocket = true
  }

  /** Whether some upstream, or a route, lets connections be switched to a protocol, or to any. */
  switches (protocol?: string): boolean {
    if (this.#routesWebSocket && (protocol ?? 'websocket') === 'websocket') return true
    return [...this.#upstreams.values()].some(({ state: { upgrades } }) => protocol === undefined ? upgrades.size > 0 : upgrades.has(protocol))
  }

  /** Calls back once connections may be switched at all: now, or when there is an upstream that lets them. */
  whenSwitching (callback: () => void): void {
    this.#onSwitching = this.switches() ? null : callback
    if (this.#onSwitching === null) callback()
  }

  async #drain (timeout: number): Promise<void> {
    const { clock, deadlines } = this.#shared
    const until = clock.now() + timeout
    for (const { state } of this.#upstreams.values()) {
      state.leaving = true
      state.tunnels.leave(timeout)
    }
    for (const entry of deadlines.entries()) if (entry.expendable === true) entry.giveUp()
    if (timeout > 0) await deadlines.whenEmpty(timeout)
    // Where Fastify lets requests through until the end (`return503OnClosing: false`), a client may just be sending its next.
    while (this.#haveServedLate() && clock.now() < until) {
      await new Promise<void>(resolve => { clock.setTimeout(resolve, Math.min(QUIET, until - clock.now())) })
      await deadlines.whenEmpty(Math.max(0, until - clock.now()))
    }
    for (const upstream of this.#upstreams.values()) upstream.refuse()
    for (const entry of deadlines.entries()) entry.giveUp()
  }
}
