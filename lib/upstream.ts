import { DrainBackendOptionsSchema, HealthOptionsSchema, OutlierOptionsSchema, RemoveBackendOptionsSchema, TimeoutOptionsSchema } from '../types/index.ts'
import type { BackendChanges, BackendDistribution, BackendHealth, BackendInput, BalancerEnv, BalancerInput, BreakerInput, Circuit, CircuitBreaker, CircuitState, Clock, ConnectionPool, DrainBackendOptions, HealthOptions, LoadBalancer, MirrorOptions, PoolInput, PoolOptions, RemoveBackendOptions, Timeouts, UpstreamMetrics, UpstreamOptions } from '../types/index.ts'
import { Admission } from './admission/index.ts'
import { Backend } from './backend.ts'
import { createBalancer } from './balancer/index.ts'
import { createBreaker } from './breaker/index.ts'
import type { Deadlines } from './deadlines.ts'
import { createDiscovery, type Discovery, type DiscoveryListener } from './discovery/index.ts'
import { createDnsCache, type DnsCache } from './dns/index.ts'
import { Drains, type DrainEnd } from './drains.ts'
import { proxyError } from './errors.ts'
import { Events } from './events.ts'
import { fallbackOf, type Fallback } from './fallback.ts'
import { ActiveHealth, healthOf, OutlierDetector, Readiness, type ActiveHealthListener, type CheckResult, type OutlierListener } from './health/index.ts'
import { Counters, Tallies } from './metrics/index.ts'
import { resolveOptions } from './options.ts'
import { checkConnectorOf, checkDispatcherOf, createPool, prepare, verifies, type PoolListener } from './pool/index.ts'
import { hedgePolicyOf, Hedging, RetryBudget, retryPolicyOf, type HedgePolicy, type RetryPolicy } from './retry/index.ts'
import { Selector, type Selection, type Subset } from './selection/index.ts'
import { Tunnels } from './tunnel/index.ts'
import { affinityOf, forwardedOf, mirrorOf, optionsOf, slowStartOf, weightsOf, withWebSocket, type ForwardedSwitches } from './upstream-options.ts'
import { Weigher, type WeigherListener } from './weights/index.ts'

/** What all upstreams of one registration share. */
export interface Shared {
  readonly clock: Clock
  readonly deadlines: Deadlines
  /** The zone of upstreams that do not say theirs. */
  readonly zone: string | undefined
  /** Where numbers of at least 0 and below 1 come from. */
  readonly random: () => number
  /** Where names lead, for upstreams that do not say otherwise. */
  readonly dns: DnsCache
  /** Hears of what becomes of all backends. */
  readonly events: Events
  /** The upstream of a name, if there is one. */
  find (name: string): Upstream | undefined
}

/** One group of backends with its policies, and those that can be chosen, made ready anew when something changes. */
export class Upstream implements WeigherListener, ActiveHealthListener, OutlierListener, PoolListener, DiscoveryListener {
  readonly name: string
  readonly clock: Clock
  readonly deadlines: Deadlines
  readonly timeouts: Readonly<Timeouts>
  readonly preserveHost: boolean
  readonly forwarded: Readonly<ForwardedSwitches>
  readonly via: string | null
  /** Those that may be chosen, in the order they were added; swapped whole, never changed. */
  available: readonly Backend[] = Object.freeze([])
  readonly selector: Selector
  readonly weigher: Weigher
  readonly events: Events
  readonly health: ActiveHealth
  /** `null` where it is off. */
  readonly outlier: OutlierDetector | null
  breaker: CircuitBreaker
  /** Backends that must have passed a check before the app is ready. */
  readonly minHealthy: number
  pool: ConnectionPool
  /** How backends are asked that do not say so themselves. */
  readonly http2: boolean | 'auto'
  /** Whether a backend could say that it has not processed what was sent: by HTTP/2 it can. */
  refusable = false
  readonly counters = new Counters()
  readonly tallies = new Tallies()
  readonly retry: RetryPolicy | null
  readonly budget: RetryBudget
  readonly hedge: HedgePolicy | null
  /** `null` until somebody hedges. */
  hedging: Hedging | null = null
  /** `null` where everything is let in. */
  readonly admission: Admission | null
  readonly fallback: Fallback | null
  readonly mirror: Required<MirrorOptions> | null
  /** In lower case; `null` where backends are not told how much time is left. */
  readonly deadlineHeader: string | null
  readonly random: () => number
  /** Protocols that connections may be switched to, in lower case. */
  readonly upgrades: ReadonlySet<string>
  readonly tunnels: Tunnels
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
  readonly #checksHealth: boolean
  /** While one breaker takes the place of another, circuits change without anything having happened. */
  #replacing = false
  #panicking = false
  #started = false
  /** Pools that finish what they have. */
  readonly #leaving = new Set<ConnectionPool>()
  readonly #readiness: Readiness
  readonly #backends = new Map<string, Backend>()
  /** Those that finish what they have while another has their id. */
  readonly #replaced = new Set<Backend>()
  /** Those that discovery is taking out. */
  readonly #withdrawn = new Set<Backend>()
  readonly #drains: Drains
  /** While several things change, choices are made ready once. */
  #batching = false

  /** Throws `INVALID_OPTIONS` or `DUPLICATE_BACKEND`. */
  constructor (name: string, options: UpstreamOptions, shared: Shared, path: string) {
    const { clock, deadlines, random } = shared
    this.#shared = shared
    this.#env = { clock, random }
    this.name = name
    this.clock = clock
    this.deadlines = deadlines
    this.timeouts = Object.freeze(resolveOptions<Timeouts>(TimeoutOptionsSchema, options.timeout ?? {}, `${path}.timeout`))
    this.random = random
    this.retry = retryPolicyOf(options.retry, `${path}.retry`)
    this.budget = new RetryBudget((this.retry ?? retryPolicyOf(true) as RetryPolicy).budget)
    this.hedge = hedgePolicyOf(options.hedge)
    if (this.hedge !== null) this.beginHedging()
    this.admission = options.limits === undefined || options.limits === false ? null : new Admission(options.limits, `${path}.limits`)
    this.fallback = fallbackOf(options.fallback) ?? null
    this.mirror = mirrorOf(options.mirror, `${path}.mirror`)
    this.deadlineHeader = options.deadlineHeader === undefined || options.deadlineHeader === false ? null : options.deadlineHeader.toLowerCase()
    for (const timeout of [...Object.values(this.timeouts), this.retry?.perTryTimeout ?? 0, this.admission?.queueTimeout ?? 0]) deadlines.allowFor(timeout)
    this.upgrades = withWebSocket(new Set(options.upgrades?.map(protocol => protocol.toLowerCase())), options.websocket ?? true)
    this.tunnels = new Tunnels(clock, deadlines, random)
    this.http2 = options.http2 ?? false
    this.preserveHost = options.preserveHost ?? false
    this.forwarded = forwardedOf(options.forwarded)
    this.via = options.via === false ? null : options.via ?? 'rockstar-proxy'
    this.selector = new Selector({
      name,
      balancer: createBalancer(options.balancer ?? 'round-robin', `${path}.balancer`, this.#env),
      affinity: affinityOf(options.affinity, path),
      panicThreshold: options.panicThreshold ?? 0.5,
      zone: options.zone ?? shared.zone,
      clock,
      random
    })
    this.weigher = new Weigher({ weights: weightsOf(options.weights, path), slowStart: slowStartOf(options.slowStart, path) }, clock, this)
    this.pool = createPool(options.pool, `${path}.pool`, clock, this)
    this.events = new Events(shared.events)
    this.breaker = createBreaker(options.breaker, `${path}.breaker`)
    const health = optionsOf<HealthOptions>(HealthOptionsSchema, options.health, `${path}.health`)
    this.#checksHealth = options.health !== false
    this.minHealthy = health.minHealthy as number
    this.health = new ActiveHealth(this.#checksHealth ? health : { ...health, fall: Infinity }, {
      ...this.#env,
      connectorFor: (backend, port) => checkConnectorOf(this.pool, backend, port),
      dispatcherFor: backend => checkDispatcherOf(this.pool, backend)
    }, this)
    this.#readiness = new Readiness({ upstream: name, minHealthy: this.minHealthy, timeout: health.readyTimeout as number }, this.health, clock, () => this.list())
    this.#drains = new Drains(clock)
    this.outlier = options.outlier === false ? null : new OutlierDetector(optionsOf(OutlierOptionsSchema, options.outlier, `${path}.outlier`), clock, this)
    this.dns = options.dns === undefined ? shared.dns : createDnsCache(options.dns, this.#env, `${path}.dns`)
    this.discovery = createDiscovery(options.discovery, { ...this.#env, dns: this.dns, family: () => familyOf(this.pool) }, this, `${path}.discovery`)
    options.backends?.forEach((input, i) => {
      const backend = new Backend(input, clock.wall(), `${path}.backends[${i}]`)
      if (this.discovery?.follow(input, name, `${path}.backends[${i}]`) === true) this.health.approve(backend)
      else this.#list(backend)
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

  /** Whether too few backends are available. */
  get panic (): boolean {
    return this.selector.whole.panic
  }

  /** How many backends are listed. */
  get size (): number {
    return this.#backends.size
  }

  /** The upstream of a name, if there is one. */
  find (name: string): Upstream | undefined {
    return this.#shared.find(name)
  }

  /** Begins to count what hedging depends on. */
  beginHedging (): void {
    this.hedging ??= new Hedging(this.clock)
  }

  add (input: BackendInput): Backend {
    const backend = new Backend(input, this.clock.wall())
    this.enlist(backend)
    return backend
  }

  enlist (backend: Backend): void {
    this.#list(backend)
    if (this.#started) this.#warnOfTrust(backend)
    this.#rebuild()
    this.#tell('backend:added', backend)
  }

  known (id: string): Backend | undefined {
    return this.#backends.get(id)
  }

  wall (): number {
    return this.clock.wall()
  }

  withdraw (backend: Backend, timeout: number): Promise<void> {
    // One that is drained by hand does not come back by itself.
    if (!backend.draining) this.#withdrawn.add(backend)
    return this.#drains.removal(backend, () => this.#drainAndRelease(backend, timeout))
  }

  reinstate (backend: Backend): boolean {
    if (!this.#withdrawn.delete(backend)) return false
    this.#callOff(backend)
    this.#rebuild()
    this.#tell('backend:added', backend)
    return true
  }

  replace (old: Backend, next: Backend, timeout: number): void {
    // Whatever is wrong with it is found before the old one is touched.
    this.#prepare(next)
    this.#backends.delete(old.id)
    this.#replaced.add(old)
    this.breaker.removeCircuit?.(old)
    this.enlist(next)
    this.withdraw(old, timeout).catch(() => {})
  }

  batch (work: () => void): void {
    this.#batching = true
    try {
      work()
    } finally {
      this.#batching = false
      this.#rebuild()
    }
  }

  update (id: string, changes: BackendChanges): Backend {
    const backend = this.get(id)
    backend.change(changes, this.clock.wall(), healthCheck => this.health.approve(backend, healthCheck))
    this.health.update(backend)
    if (changes.isActive === true && backend.draining && !this.#drains.isRemoving(backend)) this.#callOff(backend)
    this.#rebuild()
    return backend
  }

  /** Resolves when the backend's connections are closed; asked again meanwhile, it waits for the same. */
  remove (id: string, options?: RemoveBackendOptions): Promise<void> {
    const timeout = drainTimeOf(options)
    return this.#remove(this.get(id), timeout)
  }

  /** The same for all, also for those in whose place another has come. */
  async removeAll (options?: RemoveBackendOptions): Promise<void> {
    const timeout = drainTimeOf(options)
    await Promise.all(this.list().map(backend => this.#remove(backend, timeout)))
  }

  #remove (backend: Backend, timeout: number): Promise<void> {
    this.#withdrawn.delete(backend)
    return this.#drains.removal(backend, () => this.#drainAndRelease(backend, timeout))
  }

  /** Resolves when the backend has finished what it had, or its time is up. It stays listed, inactive. */
  async drain (id: string, options: DrainBackendOptions = {}): Promise<void> {
    const { timeout } = resolveOptions<Required<DrainBackendOptions>>(DrainBackendOptionsSchema, options, 'options')
    const backend = this.get(id)
    const end = await this.#letFinish(backend, timeout)
    // It may have been wanted back, or removed meanwhile; of two who drain it, the first has said all there is to say.
    if (end === 'called off' || !backend.draining || this.#drains.isRemoving(backend) || this.#backends.get(id) !== backend) return
    backend.isActive = false
    backend.draining = false
    this.#rebuild()
    this.#tell('backend:drained', backend)
  }

  get (id: string): Backend {
    const backend = this.#backends.get(id)
    if (backend === undefined) throw proxyError('UNKNOWN_BACKEND', undefined, id, this.name)
    return backend
  }

  list (): Backend[] {
    return [...this.#replaced, ...this.#backends.values()]
  }

  setBalancer (input: BalancerInput): void {
    this.selector.setBalancer(createBalancer(input, 'balancer', this.#env))
  }

  /** Circuits that are open stay so. */
  setBreaker (input: BreakerInput): void {
    const breaker = createBreaker(input)
    if (breaker === this.breaker) return
    // Those in whose place another has come finish by the old one.
    const backends = [...this.#backends.values()]
    const circuits = backends.map(backend => this.#circuitFor(backend, breaker))
    const before = backends.map(({ circuit: { state, retryAfter } }) => ({ state, retryAfter }))
    this.#replacing = true
    backends.forEach((backend, i) => {
      this.breaker.removeCircuit?.(backend)
      const circuit = backend.circuit = circuits[i]
      const { state, retryAfter } = before[i]
      if (retryAfter === Infinity) circuit.open()
      // One that was half-open has still to prove itself.
      else if (state !== 'closed') circuit.openFor?.(retryAfter)
    })
    this.#replacing = false
    this.breaker = breaker
    this.#rebuild()
    backends.forEach((backend, i) => {
      const { state } = before[i]
      if (state !== 'closed' && backend.circuit.state === 'closed') this.#tellCircuit(backend, state, 'the circuit breaker was replaced', {})
    })
  }

  setPool (input: PoolInput): void {
    const pool = createPool(input, 'pool', this.clock, this)
    const old = this.pool
    if (pool === old) return
    try {
      for (const backend of this.list()) prepare(pool, backend)
    } catch (error) {
      if (pool !== input) pool.close().catch(() => {})
      throw error
    }
    this.pool = pool
    this.#leaving.add(old)
    old.close().catch(() => {}).finally(() => this.#leaving.delete(old))
    if (this.#started) for (const backend of this.list()) this.#warnOfTrust(backend)
  }

  /** Closes every connection at once, those too that pools still have which are no longer used. */
  async destroyPools (): Promise<void> {
    await Promise.all([this.pool, ...this.#leaving].map(pool => pool.destroy?.() ?? pool.close()))
  }

  onTlsRenewed (files: readonly string[]): void {
    this.#shared.events.log?.info({ upstream: this.name, files }, 'TLS material has changed and is used for new connections')
  }

  onTlsFault (error: Error): void {
    this.#warn(error, 'TLS material has changed and cannot be used: that from before still is')
  }

  metrics (): UpstreamMetrics {
    const backends: UpstreamMetrics['backends'] = Object.create(null)
    const listed = this.list()
    const attempts = listed.reduce((sum, { counters }) => sum + counters.total, 0)
    for (const backend of listed) backends[backend.id] = distributionOf(backend, attempts)
    const { retries, retriesDenied, hedges, hedgesWon, queued, shed, timeouts, fallbacks, mirrored, mirrorsSkipped } = this.tallies
    return {
      ...this.counters.snapshot(),
      totalRetries: retries,
      retriesDenied,
      hedgedRequests: hedges,
      hedgesWon,
      queuedRequests: queued,
      queueLength: this.admission?.queueLength ?? 0,
      shedRequests: shed,
      timeouts: { ...timeouts },
      fallbacksServed: fallbacks,
      mirroredRequests: mirrored,
      mirrorsSkipped,
      tunnels: this.tunnels.metrics(),
      panic: this.panic,
      backends
    }
  }

  resetMetrics (): void {
    this.counters.reset()
    this.tallies.reset()
    this.tunnels.reset()
    for (const backend of this.#backends.values()) backend.reset()
  }

  /** Called by whoever judges the health of backends, when that has changed. */
  onHealth (): void {
    this.#rebuild()
  }

  onHealthChecked (backend: Backend, result: CheckResult, changed: boolean, proves: boolean): void {
    const { healthy, consecutiveFails, consecutivePasses } = backend.health as NonNullable<Backend['health']>
    const awaited = backend.awaitsCheck
    backend.awaitsCheck = false
    if (changed && this.#checksHealth) {
      if (healthy && proves) backend.circuit.tryNow?.()
      backend.healthy = healthy
      this.#rebuild()
      this.events.tell(healthy ? 'backend:healthy' : 'backend:unhealthy', {
        upstream: this.name, time: this.clock.wall(), backend, cause: result.passed ? 'checks have passed' : result.errorMessage, counts: { consecutiveFails, consecutivePasses }
      })
    }
    // From now on it may be used in panic.
    if (awaited && !changed) this.#rebuild()
    if (result.passed) {
      // That a port is open says nothing of the answers for which a backend was ejected.
      if (proves) this.outlier?.bringBack(backend, 'a health check has passed')
      this.#readiness.onPassed()
    }
  }

  onEjected (backend: Backend, cause: string, counts: Record<string, number>, milliseconds: number): void {
    this.#rebuild()
    const time = this.clock.wall()
    this.events.tell('backend:ejected', { upstream: this.name, time, backend, cause, counts, until: time + milliseconds })
  }

  onReturned (backend: Backend, cause: string): void {
    this.#rebuild()
    this.events.tell('backend:returned', { upstream: this.name, time: this.clock.wall(), backend, cause, counts: { ejections: backend.outlier?.ejections ?? 0 } })
  }

  /** @param only the one that must be used. Milliseconds until the first open circuit lets a request try; `undefined` where no circuit is the reason that there is no backend. */
  circuitWait (selection: Selection, subset: Subset | null, only?: Backend): number | undefined {
    const waiting = (only === undefined ? this.list() : [only])
      .filter(backend => backend.circuit.state !== 'closed' && backend.enlisted && backend.healthy && !backend.ejected && (subset === null || subset.admits(backend, selection)))
    return waiting.length === 0 ? undefined : Math.min(...waiting.map(({ circuit }) => circuit.retryAfter))
  }

  healthStatus (): Record<string, BackendHealth> {
    const status: Record<string, BackendHealth> = Object.create(null)
    for (const backend of this.list()) status[backend.id] = healthOf(backend)
    return status
  }

  /** Follows time: checks, comparisons, weights. */
  start (): void {
    this.#started = true
    for (const backend of this.list()) this.#warnOfTrust(backend)
    this.weigher.start()
    this.outlier?.start()
    if (this.#checksHealth) this.health.start(this.minHealthy > 0)
    this.discovery?.start()
  }

  /** The end has come: waits for nothing any more. */
  stop (): void {
    this.weigher.stop()
    this.outlier?.stop()
    this.health.stop()
    this.discovery?.stop()
    if (this.dns !== this.#shared.dns) this.dns.close()
    this.#drains.stop()
    for (const { circuit } of this.list()) circuit.dispose?.()
  }

  /** Resolves when as many backends have passed a check as must have. Rejects with `UNHEALTHY` when that takes too long. */
  whenProven (): Promise<void> {
    return this.#checksHealth ? this.#readiness.wait() : Promise.resolve()
  }

  onDiscoveryFailed (source: string, cause: string): void {
    this.events.tell('discovery:failed', { upstream: this.name, time: this.clock.wall(), source, cause })
  }

  onDiscoveryRecovered (source: string, cause: string): void {
    this.events.tell('discovery:recovered', { upstream: this.name, time: this.clock.wall(), source, cause })
  }

  onDiscoveryLate (sources: string[], milliseconds: number): void {
    this.#shared.events.log?.error({ upstream: this.name, sources }, `no backends were found within ${milliseconds} ms: the upstream starts without them`)
  }

  onWeights (): void {
    this.#select()
  }

  onWeightFault (error: unknown): void {
    this.#warn(error, 'the weights could not be worked out')
  }

  #list (backend: Backend): void {
    if (this.#backends.has(backend.id)) throw proxyError('DUPLICATE_BACKEND', undefined, backend.id, this.name)
    this.#prepare(backend)
    backend.circuit = this.#circuitFor(backend, this.breaker)
    this.#backends.set(backend.id, backend)
    backend.owner = this
    this.refusable ||= backend.http2 !== false
    if (this.admission?.limitsBackends === true) backend.concurrency = this.admission.concurrency(this.clock.now())
    this.outlier?.add(backend)
    this.health.add(backend)
    if (this.#checksHealth) backend.healthy = backend.health?.healthy ?? true
    backend.awaitsCheck = !backend.healthy
  }

  /** Gives a backend all that its connections need. Throws `INVALID_OPTIONS` where it cannot be asked or checked so. */
  #prepare (backend: Backend): void {
    backend.http2 ??= this.http2
    this.health.approve(backend)
    this.#resolve(backend)
    prepare(this.pool, backend)
  }

  /** Has the backend's name resolved through the cache. */
  #resolve (backend: Backend): void {
    if (!this.dns.enabled || backend.address !== undefined || backend.socketPath !== undefined) return
    const { hostname } = backend.url
    backend.lookup = this.dns.lookup
    backend.connectFailed = address => this.dns.connectFailed(hostname, address)
  }

  #circuitFor (backend: Backend, breaker: CircuitBreaker): Circuit {
    const circuit: Circuit = breaker.createCircuit(backend, {
      ...this.#env,
      upstream: this.name,
      changed: (from, why, counts) => {
        if (backend.circuit !== circuit || this.#replacing) return
        this.#rebuild()
        this.#tellCircuit(backend, from, why, counts)
      }
    })
    return circuit
  }

  #tellCircuit (backend: Backend, from: CircuitState, cause: string, counts: Record<string, number>): void {
    const { state } = backend.circuit
    this.events.tell(`circuit:${state}`, { upstream: this.name, time: this.clock.wall(), backend, cause, counts, from, to: state })
  }

  #tell (name: 'backend:added' | 'backend:draining' | 'backend:drained' | 'backend:removed', backend: Backend): void {
    this.events.tell(name, { upstream: this.name, time: this.clock.wall(), backend })
  }

  /** Swaps the list of those available, and what choices are made from. */
  #rebuild (): void {
    if (this.#batching) return
    for (const backend of this.#backends.values()) backend.noteAvailability(this.clock.wall())
    this.weigher.update(this.list(), false)
    this.available = this.#availableNow()
    this.#select()
    this.#watchPanic()
    // Who waits may find one that has come, or come back.
    this.admission?.onRoom()
  }

  /** Makes choices ready. A balancer that throws must not leave a change half done. */
  #select (): void {
    try {
      this.selector.rebuild(this.list())
    } catch (error) {
      process.emitWarning(error as Error)
    }
  }

  /** Says so when too few are available, and when that is over. */
  #watchPanic (): void {
    const { panic } = this
    if (panic === this.#panicking) return
    this.#panicking = panic
    this.events.tell(panic ? 'panic:on' : 'panic:off', {
      upstream: this.name,
      time: this.clock.wall(),
      available: this.available.length,
      active: this.list().filter(({ enlisted }) => enlisted).length
    })
  }

  /** Says so where nobody asks a backend who it is. */
  #warnOfTrust (backend: Backend): void {
    if (verifies(this.pool, backend)) return
    this.#shared.events.log?.warn({ upstream: this.name, backend: backend.id }, 'the certificate of a backend is not verified (tls.rejectUnauthorized: false): anybody on the way can read and change what is sent')
  }

  #warn (error: unknown, message: string): void {
    const { log } = this.#shared.events
    if (log === undefined) process.emitWarning(error as Error)
    else log.warn({ err: error, upstream: this.name }, message)
  }

  #availableNow (): readonly Backend[] {
    return Object.freeze(this.list().filter(backend => backend.available))
  }

  /** Lets a backend finish what it has, aborts what takes longer, and tells how that went. */
  async #letFinish (backend: Backend, timeout: number): Promise<DrainEnd> {
    if (!backend.draining) {
      backend.draining = true
      this.#rebuild()
      this.#tell('backend:draining', backend)
    }
    this.tunnels.leave(timeout, backend)
    const end = await this.#drains.finished(backend, timeout, this.selector.affinity !== null && !this.closed)
    if (end === 'late') for (const entry of this.deadlines.entries()) if (entry.isOn(backend)) entry.giveUp()
    return end
  }

  /** A backend that was to finish is wanted again. */
  #callOff (backend: Backend): void {
    backend.draining = false
    this.#drains.callOff(backend)
    if (!this.leaving) this.tunnels.stay(backend)
  }

  async #drainAndRelease (backend: Backend, timeout: number): Promise<void> {
    await this.#letFinish(backend, timeout)
    // Found again meanwhile.
    if (!backend.draining) return
    this.#withdrawn.delete(backend)
    // The circuit of one in whose place another has come went then.
    if (!this.#replaced.delete(backend)) {
      this.#backends.delete(backend.id)
      this.breaker.removeCircuit?.(backend)
    }
    backend.concurrency?.forget()
    this.health.remove(backend)
    this.outlier?.remove(backend)
    this.#rebuild()
    this.#tell('backend:removed', backend)
    await this.pool.release?.(backend)
  }
}

/** Milliseconds that what is in flight may take; 0 to abort it. Throws `INVALID_OPTIONS`. */
function drainTimeOf (options: RemoveBackendOptions = {}): number {
  const { drain } = resolveOptions<Required<RemoveBackendOptions>>(RemoveBackendOptionsSchema, options, 'options')
  return drain === false ? 0 : drain.timeout as number
}

/** Of the only addresses that connections are made to, if the pool says so. */
function familyOf (pool: ConnectionPool & { options?: PoolOptions }): 4 | 6 | undefined {
  return pool.options?.family
}

function distributionOf ({ counters, weight, effectiveWeight, limit, chosen }: Backend, attempts: number): BackendDistribution {
  return { ...counters.snapshot(), share: attempts === 0 ? 0 : counters.total / attempts, weight, effectiveWeight, limit: limit === Infinity ? null : limit, chosenBecause: { ...chosen } }
}
