import type { FastifyBaseLogger } from 'fastify'
import type { BackendChanges, BackendHealth, BackendInput, BalancerEnv, BalancerInput, BreakerInput, CircuitBreaker, ConnectionPool, DrainBackendOptions, LoadBalancer, PoolInput, PoolStats, RemoveBackendOptions, UpstreamMetrics, UpstreamOptions } from '../types/index.ts'
import { Backend } from './backend.ts'
import { createBalancer } from './balancer/index.ts'
import { createBreaker } from './breaker/index.ts'
import { createDiscovery, type Discovery, type DiscoveryListener } from './discovery/index.ts'
import { createDnsCache, type DnsCache } from './dns/index.ts'
import { Drains } from './drains.ts'
import { proxyError } from './errors.ts'
import { Events } from './events.ts'
import { healthOf, type ActiveHealth, type CheckResult, type OutlierDetector } from './health/index.ts'
import { Counters, Tallies } from './metrics/index.ts'
import { Selector, type Selection, type Subset } from './selection/index.ts'
import { affinityOf, slowStartOf, weightsOf } from './upstream-options.ts'
import { Backends, type BackendsListener } from './upstream/backends.ts'
import { Circuits, circuitWait } from './upstream/circuits.ts'
import { HealthWatch } from './upstream/health-watch.ts'
import { metricsOf } from './upstream/metrics.ts'
import { Policies, type PoliciesEnv } from './upstream/policies.ts'
import { Pools } from './upstream/pools.ts'
import { Reporter } from './upstream/reporter.ts'
import { Weigher, type WeigherListener } from './weights/index.ts'

/** What all upstreams of one registration share. */
export interface Shared extends PoliciesEnv {
  /** The zone of upstreams that do not say theirs. */
  readonly zone: string | undefined
  /** Where names lead, for upstreams that do not say otherwise. */
  readonly dns: DnsCache
  /** Hears of what becomes of all backends. */
  readonly events: Events
  /** The upstream of a name, if there is one. */
  find (name: string): Upstream | undefined
}

/** One group of backends with its policies, and those that can be chosen, made ready anew when something changes. */
export class Upstream extends Policies implements WeigherListener, DiscoveryListener, BackendsListener {
  readonly name: string
  /** Those that may be chosen, in the order they were added; swapped whole, never changed. */
  available: readonly Backend[] = Object.freeze([])
  readonly selector: Selector
  readonly weigher: Weigher
  readonly events: Events
  readonly health: ActiveHealth
  /** `null` where it is off. */
  readonly outlier: OutlierDetector | null
  /** Backends that must have passed a check before the app is ready. */
  readonly minHealthy: number
  /** Whether a backend could say that it has not processed what was sent: by HTTP/2 it can. */
  refusable = false
  readonly counters = new Counters()
  readonly tallies = new Tallies()
  readonly dns: DnsCache
  /** `null` where backends are only listed. */
  readonly discovery: Discovery | null
  closed = false
  /** Whether the app is closing: clients' connections end with their answers. */
  leaving = false
  /** Whether a request has come since. */
  servedLate = false
  readonly #shared: Shared
  readonly #env: BalancerEnv
  readonly #reporter: Reporter
  readonly #pools: Pools
  readonly #circuits: Circuits
  readonly #drains: Drains
  readonly #backends: Backends
  readonly #watch: HealthWatch
  #panicking = false

  /** Throws `INVALID_OPTIONS` or `DUPLICATE_BACKEND`. */
  constructor (name: string, options: UpstreamOptions, shared: Shared, path: string) {
    super(options, shared, path)
    const { clock, random } = shared
    const env = this.#env = { clock, random }
    this.#shared = shared
    this.name = name
    this.selector = new Selector({
      name,
      balancer: createBalancer(options.balancer ?? 'round-robin', `${path}.balancer`, env),
      affinity: affinityOf(options.affinity, path),
      panicThreshold: options.panicThreshold ?? 0.5,
      zone: options.zone ?? shared.zone,
      clock,
      random
    })
    this.weigher = new Weigher({ weights: weightsOf(options.weights, path), slowStart: slowStartOf(options.slowStart, path) }, clock, this)
    this.events = new Events(shared.events)
    const reporter = this.#reporter = new Reporter(name, clock, this.events, shared.events)
    const changed = () => this.onChanged()
    this.dns = options.dns === undefined ? shared.dns : createDnsCache(options.dns, env, `${path}.dns`)
    const pools = this.#pools = new Pools(options.pool, `${path}.pool`, { clock, reporter, dns: this.dns, http2: this.http2 })
    const circuits = this.#circuits = new Circuits(createBreaker(options.breaker, `${path}.breaker`), { ...env, upstream: name, reporter, changed })
    const watch = this.#watch = new HealthWatch(options, path, { ...env, upstream: name, reporter, pools, list: () => this.list(), changed })
    this.health = watch.checks
    this.outlier = watch.outlier
    this.minHealthy = watch.minHealthy
    const drains = this.#drains = new Drains(this)
    this.#backends = new Backends({ upstream: name, clock, reporter, circuits, drains, health: this.health, pools }, this)
    this.discovery = createDiscovery(options.discovery, { ...env, dns: this.dns, family: () => pools.family }, this.#backends, this, `${path}.discovery`)
    options.backends?.forEach((input, i) => {
      const backend = new Backend(input, clock.wall(), `${path}.backends[${i}]`)
      if (this.discovery?.follow(input, name, `${path}.backends[${i}]`) === true) this.health.approve(backend)
      else this.#backends.list(backend)
    })
    if (this.discovery?.size === 0) throw proxyError('INVALID_OPTIONS', undefined, `${path}.backends must have a URL with a host name, for which discovery can ask`)
    this.weigher.update(this.list(), true)
    this.available = this.#availableNow()
    this.selector.rebuild(this.list())
    this.#watchPanic()
  }

  get balancer (): LoadBalancer {
    return this.selector.balancer
  }

  get breaker (): CircuitBreaker {
    return this.#circuits.breaker
  }

  get pool (): ConnectionPool {
    return this.#pools.current
  }

  /** What the pool tells of itself; `null` where it cannot. */
  poolStats (): PoolStats | null {
    return this.#pools.stats()
  }

  /** Whether too few backends are available. */
  get panic (): boolean {
    return this.selector.whole.panic
  }

  /** How many backends are listed. */
  get size (): number {
    return this.#backends.size
  }

  /** Whether clients may still come back to a backend that drains. */
  get keepsClients (): boolean {
    return this.selector.affinity !== null && !this.closed
  }

  /** The upstream of a name, if there is one. */
  find (name: string): Upstream | undefined {
    return this.#shared.find(name)
  }

  add (input: BackendInput): Backend {
    return this.#backends.add(input)
  }

  update (id: string, changes: BackendChanges): Backend {
    return this.#backends.update(id, changes)
  }

  /** Resolves when the backend's connections are closed; asked again meanwhile, it waits for the same, and for no longer than is now said. */
  remove (id: string, options?: RemoveBackendOptions): Promise<void> {
    return this.#backends.remove(id, options)
  }

  /** The same for all, also for those in whose place another has come. */
  removeAll (options?: RemoveBackendOptions): Promise<void> {
    return this.#backends.removeAll(options)
  }

  /** Resolves when the backend has finished what it had, or its time is up. It stays listed, inactive. */
  drain (id: string, options?: DrainBackendOptions): Promise<void> {
    return this.#backends.drain(id, options)
  }

  /** The application's log, if there is one yet. */
  get log (): FastifyBaseLogger | undefined {
    return this.#shared.events.log
  }

  /** Whether a backend is on its way out for good. */
  isRemoving (backend: Backend): boolean {
    return this.#drains.isRemoving(backend)
  }

  /** The backend of an id, if there is one. */
  known (id: string): Backend | undefined {
    return this.#backends.known(id)
  }

  get (id: string): Backend {
    return this.#backends.get(id)
  }

  list (): Backend[] {
    return this.#backends.all
  }

  setBalancer (input: BalancerInput): void {
    this.selector.setBalancer(createBalancer(input, 'balancer', this.#env))
  }

  /** Circuits that are open stay so. Those in whose place another has come finish by the old one. */
  setBreaker (input: BreakerInput): void {
    this.#circuits.replace(createBreaker(input), this.#backends.current)
  }

  setPool (input: PoolInput): void {
    this.#pools.replace(input, this.list())
  }

  /** Closes every connection at once, those too that pools still have which are no longer used. */
  destroyPools (): Promise<void> {
    return this.#pools.destroy()
  }

  metrics (): UpstreamMetrics {
    return metricsOf(this)
  }

  resetMetrics (): void {
    this.counters.reset()
    this.tallies.reset()
    this.tunnels.reset()
    for (const backend of this.#backends.current) backend.reset()
  }

  /** @param only the one that must be used. Milliseconds until the first open circuit lets a request try; `undefined` where no circuit is the reason that there is no backend. */
  circuitWait (selection: Selection, subset: Subset | null, only?: Backend): number | undefined {
    return circuitWait(only === undefined ? this.list() : [only], selection, subset)
  }

  healthStatus (): Record<string, BackendHealth> {
    const status: Record<string, BackendHealth> = Object.create(null)
    for (const backend of this.list()) status[backend.id] = healthOf(backend)
    return status
  }

  /** Follows time: checks, comparisons, weights. */
  start (): void {
    this.#pools.start(this.list())
    this.weigher.start()
    this.#watch.start()
    this.discovery?.start()
  }

  /** The end has come: waits for nothing any more. */
  stop (): void {
    this.weigher.stop()
    this.#watch.stop()
    this.discovery?.stop()
    if (this.dns !== this.#shared.dns) this.dns.close()
    this.#drains.stop()
    for (const { circuit } of this.list()) circuit.dispose?.()
  }

  /** Resolves when as many backends have passed a check as must have. Rejects with `UNHEALTHY` when that takes too long. */
  whenProven (): Promise<void> {
    return this.#watch.whenProven()
  }

  onListed (backend: Backend): void {
    backend.owner = this
    this.refusable ||= backend.http2 !== false
    if (this.admission?.limitsBackends === true) backend.concurrency = this.admission.concurrency(this.clock.now())
    this.#watch.add(backend)
  }

  onGone (backend: Backend): void {
    backend.concurrency?.forget()
    this.#watch.remove(backend)
  }

  /** Swaps the list of those available, and what choices are made from. */
  onChanged (): void {
    if (this.#backends.batching) return
    for (const backend of this.#backends.current) backend.noteAvailability(this.clock.wall())
    this.weigher.update(this.list(), false)
    this.available = this.#availableNow()
    this.onWeights()
    this.#watchPanic()
    // Who waits may find one that has come, or come back.
    this.admission?.onRoom()
  }

  /** Called by whoever judges the health of backends, when that has changed. */
  onHealth (): void {
    this.onChanged()
  }

  /** Takes what a check has found. */
  onHealthChecked (backend: Backend, result: CheckResult, changed: boolean, proves: boolean): void {
    this.#watch.onHealthChecked(backend, result, changed, proves)
  }

  onDiscoveryFailed (source: string, cause: string): void {
    this.#reporter.tell('discovery:failed', { source, cause })
  }

  onDiscoveryRecovered (source: string, cause: string): void {
    this.#reporter.tell('discovery:recovered', { source, cause })
  }

  onDiscoveryLate (sources: string[], milliseconds: number): void {
    this.#reporter.log('error', { sources }, `no backends were found within ${milliseconds} ms: the upstream starts without them`)
  }

  /** Makes choices ready. A balancer that throws must not leave a change half done. */
  onWeights (): void {
    try {
      this.selector.rebuild(this.list())
    } catch (error) {
      process.emitWarning(error as Error)
    }
  }

  onWeightFault (error: unknown): void {
    this.#reporter.warn(error, 'the weights could not be worked out')
  }

  /** Says so when too few are available, and when that is over. */
  #watchPanic (): void {
    const { panic } = this
    if (panic === this.#panicking) return
    this.#panicking = panic
    this.#reporter.tell(panic ? 'panic:on' : 'panic:off', {
      available: this.available.length,
      active: this.list().filter(({ enlisted }) => enlisted).length
    })
  }

  #availableNow (): readonly Backend[] {
    return Object.freeze(this.list().filter(backend => backend.available))
  }
}
