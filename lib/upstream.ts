import type { FastifyBaseLogger } from 'fastify'
import { RemoveBackendOptionsSchema, SlowStartOptionsSchema, TimeoutOptionsSchema } from '../types/index.ts'
import type { AffinityOptions, BackendChanges, BackendDistribution, BackendInput, BalancerEnv, BalancerInput, Clock, ConnectionPool, LoadBalancer, PoolInput, RemoveBackendOptions, SlowStartOptions, Timeouts, UpstreamMetrics, UpstreamOptions, WeightOptions } from '../types/index.ts'
import { Backend } from './backend.ts'
import { createBalancer } from './balancer/index.ts'
import type { Deadlines } from './deadlines.ts'
import { proxyError } from './errors.ts'
import { Counters } from './metrics/index.ts'
import { resolveOptions } from './options.ts'
import { createPool } from './pool/index.ts'
import { Selector } from './selection/index.ts'
import { Weigher, type WeigherListener } from './weights/index.ts'

/** Which of the forwarded headers are written. */
export interface ForwardedSwitches {
  xForwarded: boolean
  standard: boolean
}

/** What all upstreams of one registration share. */
export interface Shared {
  readonly clock: Clock
  readonly deadlines: Deadlines
  /** The zone of upstreams that do not say theirs. */
  readonly zone: string | undefined
  /** Where numbers of at least 0 and below 1 come from. */
  readonly random: () => number
  /** The application's; there is none before the plugin is registered. */
  log: FastifyBaseLogger | undefined
}

/** One group of backends with its policies, and those that can be chosen, made ready anew when something changes. */
export class Upstream implements WeigherListener {
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
  pool: ConnectionPool
  readonly counters = new Counters()
  retries = 0
  closed = false
  readonly #shared: Shared
  readonly #env: BalancerEnv
  #panicking = false
  readonly #backends = new Map<string, Backend>()
  readonly #removals = new Map<Backend, Promise<void>>()
  /** Ends the drains under way. */
  readonly #cutDrains = new Set<() => void>()

  /** Throws `INVALID_OPTIONS` or `DUPLICATE_BACKEND`. */
  constructor (name: string, options: UpstreamOptions, shared: Shared, path: string) {
    const { clock, deadlines, random } = shared
    this.#shared = shared
    this.#env = { clock, random }
    this.name = name
    this.clock = clock
    this.deadlines = deadlines
    this.timeouts = Object.freeze(resolveOptions<Timeouts>(TimeoutOptionsSchema, options.timeout ?? {}, `${path}.timeout`))
    for (const timeout of Object.values(this.timeouts)) deadlines.allowFor(timeout)
    this.preserveHost = options.preserveHost ?? false
    const forwarded = options.forwarded ?? true
    this.forwarded = Object.freeze(typeof forwarded === 'boolean'
      ? { xForwarded: forwarded, standard: forwarded }
      : { xForwarded: forwarded.xForwarded ?? true, standard: forwarded.standard ?? true })
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
    this.pool = createPool(options.pool, `${path}.pool`)
    options.backends?.forEach((backend, i) => this.#list(new Backend(backend, clock.wall(), `${path}.backends[${i}]`)))
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

  add (input: BackendInput): Backend {
    const backend = new Backend(input, this.clock.wall())
    this.#list(backend)
    this.#rebuild()
    return backend
  }

  update (id: string, changes: BackendChanges): Backend {
    const backend = this.get(id)
    backend.change(changes, this.clock.wall())
    this.#rebuild()
    return backend
  }

  /** Resolves when the backend's connections are closed; asked again meanwhile, it waits for the same. */
  remove (id: string, options: RemoveBackendOptions = {}): Promise<void> {
    const { drain } = resolveOptions<Required<RemoveBackendOptions>>(RemoveBackendOptionsSchema, options, 'options')
    const backend = this.get(id)
    const timeout = drain === false ? 0 : drain.timeout as number
    let removal = this.#removals.get(backend)
    if (removal === undefined) {
      backend.draining = true
      this.#rebuild()
      removal = this.#drainAndRelease(backend, timeout).finally(() => this.#removals.delete(backend))
      this.#removals.set(backend, removal)
    }
    return removal
  }

  get (id: string): Backend {
    const backend = this.#backends.get(id)
    if (backend === undefined) throw proxyError('UNKNOWN_BACKEND', undefined, id, this.name)
    return backend
  }

  list (): Backend[] {
    return [...this.#backends.values()]
  }

  setBalancer (input: BalancerInput): void {
    this.selector.setBalancer(createBalancer(input, 'balancer', this.#env))
  }

  setPool (input: PoolInput): void {
    const old = this.pool
    this.pool = createPool(input)
    if (old !== this.pool) old.close().catch(() => {})
  }

  metrics (): UpstreamMetrics {
    const backends: UpstreamMetrics['backends'] = Object.create(null)
    const listed = this.list()
    const attempts = listed.reduce((sum, { counters }) => sum + counters.total, 0)
    for (const backend of listed) backends[backend.id] = distributionOf(backend, attempts)
    return { ...this.counters.snapshot(), totalRetries: this.retries, panic: this.panic, backends }
  }

  resetMetrics (): void {
    this.counters.reset()
    this.retries = 0
    for (const backend of this.#backends.values()) backend.reset()
  }

  /** Called by whoever judges the health of backends, when that has changed. */
  onHealth (): void {
    this.#rebuild()
  }

  onWeights (): void {
    this.#select()
  }

  onWeightFault (error: unknown): void {
    this.#warn(error, 'the weights could not be worked out')
  }

  #list (backend: Backend): void {
    if (this.#backends.has(backend.id)) throw proxyError('DUPLICATE_BACKEND', undefined, backend.id, this.name)
    this.#backends.set(backend.id, backend)
    backend.owner = this
  }

  /** Swaps the list of those available, and what choices are made from. */
  #rebuild (): void {
    this.weigher.update(this.list(), false)
    this.available = this.#availableNow()
    this.#select()
    this.#watchPanic()
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
    const told = { upstream: this.name, available: this.available.length, active: this.list().filter(({ usable }) => usable).length }
    if (panic) this.#shared.log?.warn(told, 'too few backends are available: all active ones are used')
    else this.#shared.log?.info(told, 'enough backends are available again')
  }

  #warn (error: unknown, message: string): void {
    if (this.#shared.log === undefined) process.emitWarning(error as Error)
    else this.#shared.log.warn({ err: error, upstream: this.name }, message)
  }

  #availableNow (): readonly Backend[] {
    return Object.freeze(this.list().filter(backend => backend.available))
  }

  /** Waits for nothing any more: the end has come. */
  cutDrains (): void {
    for (const cut of [...this.#cutDrains]) cut()
  }

  async #drainAndRelease (backend: Backend, timeout: number): Promise<void> {
    await this.#finished(backend, timeout)
    for (const entry of this.deadlines.entries()) if (entry.isOn(backend)) entry.giveUp()
    this.#backends.delete(backend.id)
    this.#rebuild()
    await this.pool.release?.(backend)
  }

  /** Waits until nothing is under way on a backend, or for so long; for all of it where clients may still come back to it. */
  #finished (backend: Backend, timeout: number): Promise<void> {
    const keepsClients = this.selector.affinity !== null && !this.closed
    if (timeout === 0 || (backend.inFlight === 0 && !keepsClients)) return Promise.resolve()
    return new Promise(resolve => {
      const end = () => {
        this.clock.clearTimeout(timer)
        this.#cutDrains.delete(end)
        resolve()
      }
      const timer = this.clock.setTimeout(end, timeout)
      this.#cutDrains.add(end)
      if (!keepsClients) backend.onIdle = end
    })
  }
}

/** Browsers throw away what says `SameSite=None` without `Secure`. */
function affinityOf (affinity: UpstreamOptions['affinity'], path: string): AffinityOptions | false {
  if (affinity === undefined || affinity === false) return false
  if (affinity.sameSite === 'none' && affinity.secure === false) throw proxyError('INVALID_OPTIONS', undefined, `${path}.affinity.secure must not be false where sameSite is 'none'`)
  return affinity
}

function weightsOf (weights: UpstreamOptions['weights'], path: string): Required<WeightOptions> | false {
  if (weights === undefined || weights === false) return false
  const { min, max } = weights as Required<WeightOptions>
  if (min > max) throw proxyError('INVALID_OPTIONS', undefined, `${path}.weights.min must be at most weights.max, ${max}, and is ${min}`)
  return weights as Required<WeightOptions>
}

function slowStartOf (slowStart: UpstreamOptions['slowStart'], path: string): Required<SlowStartOptions> | false {
  if (slowStart === undefined || slowStart === false) return false
  return resolveOptions(SlowStartOptionsSchema, slowStart === true ? {} : slowStart, `${path}.slowStart`)
}

function distributionOf ({ counters, weight, effectiveWeight, chosen }: Backend, attempts: number): BackendDistribution {
  return { ...counters.snapshot(), share: attempts === 0 ? 0 : counters.total / attempts, weight, effectiveWeight, chosenBecause: { ...chosen } }
}
