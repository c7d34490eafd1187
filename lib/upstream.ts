import { RemoveBackendOptionsSchema, TimeoutOptionsSchema } from '../types/index.ts'
import type { BackendChanges, BackendInput, BalancerInput, Clock, ConnectionPool, LoadBalancer, PoolInput, RemoveBackendOptions, Timeouts, UpstreamMetrics, UpstreamOptions } from '../types/index.ts'
import { Backend } from './backend.ts'
import { createBalancer } from './balancer/index.ts'
import type { Deadlines } from './deadlines.ts'
import { proxyError } from './errors.ts'
import { Counters } from './metrics/index.ts'
import { resolveOptions } from './options.ts'
import { createPool } from './pool/index.ts'

/** Which of the forwarded headers are written. */
export interface ForwardedSwitches {
  xForwarded: boolean
  standard: boolean
}

/** What all upstreams of one registration share. */
export interface Shared {
  readonly clock: Clock
  readonly deadlines: Deadlines
}

/** One group of backends with its policies, and the list of those available, which is rebuilt when something changes. */
export class Upstream {
  readonly name: string
  readonly clock: Clock
  readonly deadlines: Deadlines
  readonly timeouts: Readonly<Timeouts>
  readonly preserveHost: boolean
  readonly forwarded: Readonly<ForwardedSwitches>
  readonly via: string | null
  /** Those that may be chosen, in the order they were added; swapped whole, never changed. */
  available: readonly Backend[] = Object.freeze([])
  balancer: LoadBalancer
  pool: ConnectionPool
  readonly counters = new Counters()
  retries = 0
  closed = false
  readonly #backends = new Map<string, Backend>()
  readonly #removals = new Map<Backend, Promise<void>>()

  /** Throws `INVALID_OPTIONS` or `DUPLICATE_BACKEND`. */
  constructor (name: string, options: UpstreamOptions, { clock, deadlines }: Shared, path: string) {
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
    this.balancer = createBalancer(options.balancer ?? 'round-robin', `${path}.balancer`)
    this.pool = createPool(options.pool, `${path}.pool`)
    options.backends?.forEach((backend, i) => this.#list(new Backend(backend, clock.wall(), `${path}.backends[${i}]`)))
    this.available = this.#availableNow()
    this.balancer.rebuild?.(this.available)
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
    const balancer = createBalancer(input)
    balancer.rebuild?.(this.available)
    this.balancer = balancer
  }

  setPool (input: PoolInput): void {
    const old = this.pool
    this.pool = createPool(input)
    if (old !== this.pool) old.close().catch(() => {})
  }

  metrics (): UpstreamMetrics {
    const backends: UpstreamMetrics['backends'] = Object.create(null)
    for (const backend of this.#backends.values()) backends[backend.id] = backend.counters.snapshot()
    return { ...this.counters.snapshot(), totalRetries: this.retries, backends }
  }

  resetMetrics (): void {
    this.counters.reset()
    this.retries = 0
    for (const backend of this.#backends.values()) backend.counters.reset()
  }

  #list (backend: Backend): void {
    if (this.#backends.has(backend.id)) throw proxyError('DUPLICATE_BACKEND', undefined, backend.id, this.name)
    this.#backends.set(backend.id, backend)
    backend.owner = this
  }

  /** Swaps the list of those available, and tells the balancer. One that throws must not leave a change half done. */
  #rebuild (): void {
    this.available = this.#availableNow()
    try {
      this.balancer.rebuild?.(this.available)
    } catch (error) {
      process.emitWarning(error as Error)
    }
  }

  #availableNow (): readonly Backend[] {
    return Object.freeze(this.list().filter(backend => backend.available))
  }

  async #drainAndRelease (backend: Backend, timeout: number): Promise<void> {
    await this.#idle(backend, timeout)
    for (const entry of this.deadlines.entries()) if (entry.isOn(backend)) entry.giveUp()
    this.#backends.delete(backend.id)
    await this.pool.release?.(backend)
  }

  /** Waits until nothing is under way on a backend, or for so long. */
  #idle (backend: Backend, timeout: number): Promise<void> {
    if (backend.inFlight === 0 || timeout === 0) return Promise.resolve()
    return new Promise(resolve => {
      const timer = this.clock.setTimeout(resolve, timeout)
      backend.onIdle = () => {
        this.clock.clearTimeout(timer)
        resolve()
      }
    })
  }
}
