import type { FastifyReply, FastifyRequest } from 'fastify'
import type * as contracts from '../types/index.ts'
import type { Backend } from './backend.ts'
import { proxyError } from './errors.ts'
import type { Events } from './events.ts'
import { captureRequest, explainRequest, forwardHttp, ReplyClient, settingsOf, type Settings } from './forward/index.ts'
import type { Upstream } from './upstream.ts'

const NO_OPTIONS: contracts.ForwardOptions = Object.freeze({})

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
    return new ReplyClient(request, reply, options?.onError, this.state.telemetry).start(this.state, settings).completion
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
    const client = new ReplyClient(request, reply, options.onError, this.state.telemetry)
    client.failed(error)
    return client.completion
  }
}

function elsewhere (): Error {
  return proxyError('INVALID_OPTIONS', undefined, 'options.upstream is an option of app.proxy.forward(), not of the forward() of one upstream')
}
