import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Backend, BackendChanges, BackendInput, DrainBackendOptions, RemoveBackendOptions } from './backend.ts'
import type { BreakerInput, CircuitBreaker } from './circuit-breaker.ts'
import type { ConnectionPool, PoolInput } from './connection-pool.ts'
import type { DnsStats } from './dns.ts'
import type { ProxyEventName, ProxyEvents } from './events.ts'
import type { Explanation } from './explanation.ts'
import type { ForwardHttpOptions, ForwardOptions, ProxyResponse } from './forward.ts'
import type { BackendHealth } from './health.ts'
import type { BalancerInput, LoadBalancer } from './load-balancer.ts'
import type { ProxyMetrics, UpstreamMetrics } from './metrics.ts'
import type { UpstreamOptions } from './options.ts'

/** A named group of backends with policies of its own. Source: the seed's `ProxyManager`. */
export interface Upstream {
  /** Its name; the unnamed one is `default`. */
  readonly name: string

  /** Adds a backend, which takes requests at once. Throws `INVALID_OPTIONS` or `DUPLICATE_BACKEND`. */
  addBackend (options: BackendInput): Backend
  /** Changes weight, priority, zone, activity or metadata of a backend, from the next request on. Throws `UNKNOWN_BACKEND` or `INVALID_OPTIONS`. */
  updateBackend (id: string, changes: BackendChanges): Backend
  /** Takes a backend out: no new request at once, those in flight finish, then its connections close. Rejects with `UNKNOWN_BACKEND`. */
  removeBackend (id: string, options?: RemoveBackendOptions): Promise<void>
  /**
   * Has a backend finish what it has and take nothing new; resolves when it has, or its time is up. It stays listed, with `isActive: false`;
   * `updateBackend(id, { isActive: true })` brings it back, also before it is done. Rejects with `UNKNOWN_BACKEND`.
   */
  drainBackend (id: string, options?: DrainBackendOptions): Promise<void>
  /** The backend of that id. Throws `UNKNOWN_BACKEND`. */
  getBackend (id: string): Backend
  /** All backends in the order they were added, those being drained included. */
  listBackends (): Backend[]

  /**
   * Sends the request to a backend and streams its answer into the reply. The promise may be returned, awaited or
   * ignored: it fulfils when the answer has been sent; it rejects when there was none to send, and where nobody
   * listens the error goes to Fastify's error handler.
   */
  forward (request: FastifyRequest, reply: FastifyReply, options?: ForwardOptions): Promise<void>
  /** Sends the request to a backend and resolves to its answer as soon as its head is there. Rejects when there is none. */
  forward (request: FastifyRequest, reply?: undefined, options?: ForwardOptions): Promise<ProxyResponse>
  /** Sends a WHATWG request to a backend: path, method, headers and body of it; no redirect is followed, nothing decompressed. */
  forwardHttp (request: Request, options?: ForwardHttpOptions): Promise<Response>

  /**
   * Tells which backend a request would go to and why, without sending anything and without taking a turn.
   * Rejects as `forward()` would where the request cannot be forwarded at all.
   */
  explain (request: FastifyRequest, options?: ForwardOptions): Promise<Explanation>

  /** Replaces the load balancer, from the next request on. Throws `INVALID_OPTIONS`. */
  setLoadBalancer (balancer: BalancerInput): void
  getLoadBalancer (): LoadBalancer
  /** Replaces the connection pool, from the next request on; the old one closes when its requests have finished. Throws `INVALID_OPTIONS`. */
  setConnectionPool (pool: PoolInput): void
  getConnectionPool (): ConnectionPool
  /** What is known of the names of backends, and how often they were asked for; `null` with `dns: false`. Named upstreams share it unless they have a `dns` of their own. */
  getDnsStats (): DnsStats | null

  /** Replaces the circuit breaker at once; circuits that are open stay so. Throws `INVALID_OPTIONS`. */
  setCircuitBreaker (breaker: BreakerInput): void
  getCircuitBreaker (): CircuitBreaker

  /** Checks all active backends now. Rejects with `UNHEALTHY`, naming those that failed. */
  healthCheck (): Promise<void>
  /** What is known of the health of each backend, by id. */
  getHealthStatus (): Record<string, BackendHealth>
  /** Whether as many backends are available as `health.minHealthy` says, and one at the least. In panic it may be false while requests are still tried. */
  isReady (): boolean

  /** Calls a listener whenever something becomes of this upstream's backends; for `app.proxy`, of all upstreams'. */
  on<Name extends ProxyEventName> (name: Name, listener: (event: ProxyEvents[Name][0]) => void): this
  /** The same once. */
  once<Name extends ProxyEventName> (name: Name, listener: (event: ProxyEvents[Name][0]) => void): this
  /** Calls a listener no more. */
  off<Name extends ProxyEventName> (name: Name, listener: (event: ProxyEvents[Name][0]) => void): this

  /** A copy of the counters. */
  getMetrics (): UpstreamMetrics
  /** Sets all counters to zero, except those of requests under way. */
  resetMetrics (): void
}

/** The default upstream, and the named ones. */
export interface ProxyManager extends Upstream {
  /** The upstream of that name. Throws `UNKNOWN_UPSTREAM`. */
  upstream (name: string): Upstream
  /** Adds a named upstream. Throws `INVALID_OPTIONS` or `DUPLICATE_UPSTREAM`. */
  addUpstream (name: string, options?: UpstreamOptions): Upstream
  /** Drains and removes a named upstream and all of its backends. Rejects with `UNKNOWN_UPSTREAM`. */
  removeUpstream (name: string, options?: RemoveBackendOptions): Promise<void>
  /** All upstreams, the default one first. */
  listUpstreams (): Upstream[]
  /** The counters of the default upstream, and those of the named ones. */
  getMetrics (): ProxyMetrics
}
