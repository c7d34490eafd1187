import { DrainBackendOptionsSchema, RemoveBackendOptionsSchema } from '../../types/index.ts'
import type { BackendChanges, BackendInput, Clock, DrainBackendOptions, RemoveBackendOptions } from '../../types/index.ts'
import { Backend } from '../backend.ts'
import type { Listing } from '../discovery/index.ts'
import type { Drains, DrainEnd } from '../drains.ts'
import { proxyError } from '../errors.ts'
import type { ActiveHealth } from '../health/index.ts'
import { resolveOptions } from '../options.ts'
import type { Circuits } from './circuits.ts'
import type { Pools } from './pools.ts'
import type { Reporter } from './reporter.ts'

/** Who is told of backends that come and go. */
export interface BackendsListener {
  /** One is listed from now on. */
  onListed (backend: Backend): void
  /** One has gone. */
  onGone (backend: Backend): void
  /** Something of them has changed: choices are to be made ready anew. */
  onChanged (): void
}

/** What the list needs. */
export interface BackendsEnv {
  /** Name of the upstream. */
  readonly upstream: string
  readonly clock: Clock
  readonly reporter: Reporter
  readonly circuits: Circuits
  readonly drains: Drains
  readonly health: ActiveHealth
  readonly pools: Pools
}

/** The backends of an upstream: how each comes, is changed, drained, replaced and taken out. */
export class Backends implements Listing {
  readonly #env: BackendsEnv
  readonly #listener: BackendsListener
  readonly #byId = new Map<string, Backend>()
  /** Those that finish what they have while another has their id. */
  readonly #replaced = new Set<Backend>()
  /** Those that discovery is taking out. */
  readonly #withdrawn = new Set<Backend>()
  /** Those that somebody lets finish by hand, discovery or not. */
  readonly #drained = new Set<Backend>()
  #batching = false

  constructor (env: BackendsEnv, listener: BackendsListener) {
    this.#env = env
    this.#listener = listener
  }

  /** Those that have an id of their own. */
  get current (): Backend[] {
    return [...this.#byId.values()]
  }

  /** The same, and before them those that are on their way out while another has their id. */
  get all (): Backend[] {
    return [...this.#replaced, ...this.#byId.values()]
  }

  get size (): number {
    return this.#byId.size
  }

  known (id: string): Backend | undefined {
    return this.#byId.get(id)
  }

  /** Throws `UNKNOWN_BACKEND`. */
  get (id: string): Backend {
    const backend = this.known(id)
    if (backend === undefined) throw proxyError('UNKNOWN_BACKEND', undefined, id, this.#env.upstream)
    return backend
  }

  /** Lists a backend of the options, without a word. Throws `INVALID_OPTIONS` or `DUPLICATE_BACKEND`. */
  list (backend: Backend): void {
    const { upstream, circuits, pools } = this.#env
    if (this.#byId.has(backend.id)) throw proxyError('DUPLICATE_BACKEND', undefined, backend.id, upstream)
    this.#prepare(backend)
    circuits.add(backend)
    this.#byId.set(backend.id, backend)
    this.#listener.onListed(backend)
    pools.warnOfTrust(backend)
  }

  /** Lists one that has come later. Throws as `list()` does. */
  enlist (backend: Backend): void {
    this.list(backend)
    this.#listener.onChanged()
    this.#env.reporter.tell('backend:added', { backend })
  }

  /** Throws `INVALID_OPTIONS` or `DUPLICATE_BACKEND`. */
  add (input: BackendInput): Backend {
    const backend = new Backend(input, this.#env.clock.wall())
    this.enlist(backend)
    return backend
  }

  /** Throws `UNKNOWN_BACKEND` or `INVALID_OPTIONS`. */
  update (id: string, changes: BackendChanges): Backend {
    const { clock, health, drains } = this.#env
    const backend = this.get(id)
    backend.change(changes, clock.wall(), healthCheck => health.approve(backend, healthCheck))
    health.update(backend)
    if (changes.isActive === true) {
      this.#drained.delete(backend)
      if (backend.draining && !drains.isRemoving(backend)) this.#callOff(backend)
    }
    this.#listener.onChanged()
    return backend
  }

  /** Resolves when the backend's connections are closed; asked again meanwhile, it waits for the same, and for no longer than is now said. */
  remove (id: string, options?: RemoveBackendOptions): Promise<void> {
    const timeout = drainTimeOf(options)
    return this.#remove(this.get(id), timeout)
  }

  /** The same for all, also for those in whose place another has come. */
  async removeAll (options?: RemoveBackendOptions): Promise<void> {
    const timeout = drainTimeOf(options)
    await Promise.all(this.all.map(backend => this.#remove(backend, timeout)))
  }

  /** Resolves when the backend has finished what it had, or its time is up. It stays listed, inactive. */
  async drain (id: string, options: DrainBackendOptions = {}): Promise<void> {
    const { timeout } = resolveOptions<Required<DrainBackendOptions>>(DrainBackendOptionsSchema, options, 'options')
    const { clock, drains, reporter } = this.#env
    const backend = this.get(id)
    // What is being removed by hand is not to come back anyway.
    if (!drains.isRemoving(backend) || this.#withdrawn.has(backend)) this.#drained.add(backend)
    // Whoever waited for longer waits for no longer than that.
    drains.shorten(backend, timeout)
    const end = await this.#finish(backend, timeout)
    // It may have been wanted back, or removed meanwhile; of two who drain it, the first has said all there is to say.
    if (end === 'called off' || !backend.draining || drains.isRemoving(backend) || this.known(id) !== backend) return
    backend.isActive = false
    backend.draining = false
    backend.revise(clock.wall())
    this.#drained.delete(backend)
    this.#listener.onChanged()
    reporter.tell('backend:drained', { backend })
  }

  withdraw (backend: Backend, timeout: number): Promise<void> {
    // What somebody removes by hand goes for good.
    if (!this.#env.drains.isRemoving(backend)) this.#withdrawn.add(backend)
    return this.#release(backend, timeout)
  }

  isHeld (backend: Backend): boolean {
    return this.#drained.has(backend)
  }

  reinstate (backend: Backend): boolean {
    if (!this.#withdrawn.delete(backend)) return false
    this.#callOff(backend)
    backend.revise(this.#env.clock.wall())
    this.#listener.onChanged()
    this.#env.reporter.tell('backend:added', { backend })
    return true
  }

  replace (old: Backend, next: Backend, timeout: number): void {
    // Whatever is wrong with it is found before the old one is touched.
    this.#prepare(next)
    this.#byId.delete(old.id)
    this.#replaced.add(old)
    this.#env.circuits.remove(old)
    this.enlist(next)
    this.withdraw(old, timeout).catch(() => {})
  }

  batch (work: () => void): void {
    this.#batching = true
    try {
      work()
    } finally {
      this.#batching = false
      this.#listener.onChanged()
    }
  }

  /** Whether more changes are about to come, and choices need not be made ready yet. */
  get batching (): boolean {
    return this.#batching
  }

  /** Throws `INVALID_OPTIONS` where a backend cannot be checked or asked as it says. */
  #prepare (backend: Backend): void {
    this.#env.health.approve(backend)
    this.#env.pools.equip(backend)
  }

  #remove (backend: Backend, timeout: number): Promise<void> {
    this.#withdrawn.delete(backend)
    this.#drained.delete(backend)
    this.#env.drains.shorten(backend, timeout)
    return this.#release(backend, timeout)
  }

  /** Lets a backend finish what it has, and tells so. */
  #finish (backend: Backend, timeout: number): Promise<DrainEnd> {
    if (!backend.draining) {
      backend.draining = true
      backend.revise(this.#env.clock.wall())
      this.#listener.onChanged()
      this.#env.reporter.tell('backend:draining', { backend })
    }
    return this.#env.drains.finish(backend, timeout)
  }

  /** A backend that was to finish is wanted again. */
  #callOff (backend: Backend): void {
    backend.draining = false
    this.#env.drains.callOff(backend)
  }

  #release (backend: Backend, timeout: number): Promise<void> {
    const { circuits, drains, pools, reporter } = this.#env
    return drains.removal(backend, async () => {
      await this.#finish(backend, timeout)
      // Found again meanwhile.
      if (!backend.draining) return
      this.#withdrawn.delete(backend)
      this.#drained.delete(backend)
      // The circuit of one in whose place another has come went then.
      if (!this.#replaced.delete(backend)) {
        this.#byId.delete(backend.id)
        circuits.remove(backend)
      }
      this.#listener.onGone(backend)
      this.#listener.onChanged()
      reporter.tell('backend:removed', { backend })
      await pools.release(backend)
    })
  }
}

/** Milliseconds that what is in flight may take; 0 to abort it. Throws `INVALID_OPTIONS`. */
function drainTimeOf (options: RemoveBackendOptions = {}): number {
  const { drain } = resolveOptions<Required<RemoveBackendOptions>>(RemoveBackendOptionsSchema, options, 'options')
  return drain === false ? 0 : drain.timeout as number
}
