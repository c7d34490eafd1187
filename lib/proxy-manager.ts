import type { FastifyBaseLogger, FastifyReply, FastifyRequest } from 'fastify'
import { inspect } from 'node:util'
import { RockstarProxyOptionsSchema, UpstreamOptionsSchema } from '../types/index.ts'
import type * as contracts from '../types/index.ts'
import type { Backend } from './backend.ts'
import { fastRandom } from './balancer/index.ts'
import { systemClock } from './clock.ts'
import { Deadlines } from './deadlines.ts'
import { createDnsCache } from './dns/index.ts'
import { proxyError } from './errors.ts'
import { Events } from './events.ts'
import { captureRequest, explainRequest, forwardHttp, ReplyClient, settingsOf, type Route, type Settings } from './forward/index.ts'
import { resolveOptions } from './options.ts'
import { Upstream, type Shared } from './upstream.ts'

const NO_OPTIONS: contracts.ForwardOptions = Object.freeze({})
/** Milliseconds without a request after which clients' connections are idle enough to be closed. */
const QUIET = 250

/** What users do with an upstream: the seed's interface. */
export class UpstreamManager implements contracts.Upstream {
  /** What it stands for; not for users. */
  readonly state: Upstream
  /** The settings of calls that want nothing otherwise. */
  readonly #plain: Settings

  constructor (state: Upstream) {
    this.state = state
    this.#plain = settingsOf(state, NO_OPTIONS)
  }

  get name (): string {
    return this.state.name
  }

  addBackend (options: contracts.BackendInput): Backend {
    return this.state.add(options)
  }

  updateBackend (id: string, changes: contracts.BackendChanges): Backend {
    return this.state.update(id, changes)
  }

  async removeBackend (id: string, options?: contracts.RemoveBackendOptions): Promise<void> {
    await this.state.remove(id, options)
  }

  async drainBackend (id: string, options?: contracts.DrainBackendOptions): Promise<void> {
    await this.state.drain(id, options)
  }

  getBackend (id: string): Backend {
    return this.state.get(id)
  }

  listBackends (): Backend[] {
    return this.state.list()
  }

  forward (request: FastifyRequest, reply: FastifyReply, options?: contracts.ForwardOptions): Promise<void>
  forward (request: FastifyRequest, reply?: undefined, options?: contracts.ForwardOptions): Promise<contracts.ProxyResponse>
  forward (request: FastifyRequest, reply?: FastifyReply, options?: contracts.ForwardOptions): Promise<void | contracts.ProxyResponse> {
    if (options?.upstream !== undefined) return this.forwardElsewhere(options.upstream, request, reply, options)
    const settings = options === undefined ? this.#plain : settingsOf(this.state, options)
    if (reply === undefined) return captureRequest(this.state, request, settings)
    return new ReplyClient(request, reply, options?.onError).start(this.state, settings).completion
  }

  async forwardHttp (request: Request, options?: contracts.ForwardHttpOptions): Promise<Response> {
    return await forwardHttp(this.state, request, options)
  }

  async explain (request: FastifyRequest, options: contracts.ForwardOptions = NO_OPTIONS): Promise<contracts.Explanation> {
    if (options.upstream !== undefined) return await this.explainElsewhere(options.upstream, request, options)
    return await explainRequest(this.state, request, settingsOf(this.state, options))
  }

  setLoadBalancer (balancer: contracts.BalancerInput): void {
    this.state.setBalancer(balancer)
  }

  getLoadBalancer (): contracts.LoadBalancer {
    return this.state.balancer
  }

  setCircuitBreaker (breaker: contracts.BreakerInput): void {
    this.state.setBreaker(breaker)
  }

  getCircuitBreaker (): contracts.CircuitBreaker {
    return this.state.breaker
  }

  async healthCheck (): Promise<void> {
    const failed = await this.state.health.checkAll()
    if (failed.length === 0) return
    const names = failed.map(({ backend, result }) => `${backend.id} (${result.errorMessage})`).join(', ')
    throw proxyError('UNHEALTHY', undefined, `Backends of upstream '${this.name}' have failed their health check: ${names}`)
  }

  getHealthStatus (): Record<string, contracts.BackendHealth> {
    return this.state.healthStatus()
  }

  isReady (): boolean {
    const { closed, leaving, available, minHealthy } = this.state
    return !closed && !leaving && available.length >= Math.max(1, minHealthy)
  }

  on<Name extends contracts.ProxyEventName> (name: Name, listener: (event: contracts.ProxyEvents[Name][0]) => void): this {
    this.events.on(name, listener as never)
    return this
  }

  once<Name extends contracts.ProxyEventName> (name: Name, listener: (event: contracts.ProxyEvents[Name][0]) => void): this {
    this.events.once(name, listener as never)
    return this
  }

  off<Name extends contracts.ProxyEventName> (name: Name, listener: (event: contracts.ProxyEvents[Name][0]) => void): this {
    this.events.off(name, listener as never)
    return this
  }

  setConnectionPool (pool: contracts.PoolInput): void {
    this.state.setPool(pool)
  }

  getConnectionPool (): contracts.ConnectionPool {
    return this.state.pool
  }

  getDnsStats (): contracts.DnsStats | null {
    const { dns } = this.state
    return dns.enabled ? dns.stats() : null
  }

  getMetrics (): contracts.UpstreamMetrics {
    return this.state.metrics()
  }

  resetMetrics (): void {
    this.state.resetMetrics()
  }

  /** Follows time: health checks, weights, discovery. Resolves when backends have been found where they are looked for, and as many are healthy as must be. */
  async start (): Promise<void> {
    this.state.start()
    await Promise.all([this.state.whenProven(), this.state.discovery?.ready()])
  }

  /** Where listeners hear from. */
  protected get events (): Events {
    return this.state.events
  }

  /** Takes no new request. */
  refuse (): void {
    this.state.closed = true
    this.state.discovery?.stop()
  }

  /** Drains every backend, then closes what is left. */
  async retire (options?: contracts.RemoveBackendOptions): Promise<void> {
    this.refuse()
    try {
      await this.state.removeAll(options)
    } finally {
      await this.shut()
    }
  }

  /** Closes every connection at once. */
  async shut (): Promise<void> {
    this.state.stop()
    await this.state.destroyPools()
  }

  protected async explainElsewhere (_choice: contracts.UpstreamChoice, _request: FastifyRequest, _options: contracts.ForwardOptions): Promise<contracts.Explanation> {
    throw elsewhere()
  }

  /** Only the manager of all upstreams knows the others. */
  protected forwardElsewhere (_choice: contracts.UpstreamChoice, request: FastifyRequest, reply: FastifyReply | undefined, options: contracts.ForwardOptions): Promise<void | contracts.ProxyResponse> {
    const error = elsewhere()
    if (reply === undefined) return Promise.reject(error)
    const client = new ReplyClient(request, reply, options.onError)
    client.failed(error)
    return client.completion
  }
}

function elsewhere (): Error {
  return proxyError('INVALID_OPTIONS', undefined, 'options.upstream is an option of app.proxy.forward(), not of the forward() of one upstream')
}

/** The default upstream, and the named ones beside it. */
export class ProxyManager extends UpstreamManager implements contracts.ProxyManager {
  readonly options: Readonly<contracts.RockstarProxyOptions>
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
    const shared: Shared = { clock, deadlines: new Deadlines(clock), zone: options.zone, random, dns, events: new Events(), find: name => this.#upstreams.get(name)?.state }
    // Its names are those of the plugin.
    super(new Upstream('default', { ...options, dns: undefined }, shared, 'options'))
    this.options = options
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
    const client = new ReplyClient(request, reply, route.onError)
    this.#choose(route.upstream, request,
      state => client.start(state, route.settingsFor(state)),
      error => client.failed(error))
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
    const client = new ReplyClient(request, reply, options.onError)
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
      if (name instanceof Promise) name.then(name => use(this.upstream(name).state)).catch(fail)
      else use(this.upstream(name).state)
    } catch (error) {
      fail(error as Error)
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
