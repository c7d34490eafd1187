import type { FastifyRequest } from 'fastify'
import type { Backend as PublicBackend, Because, LoadBalancer } from '../../types/index.ts'
import { Backend } from '../backend.ts'
import type { Candidates, Kept, Selection, Subset } from '../selection/index.ts'
import type { Upstream } from '../upstream.ts'
import { headerValue } from './header-record.ts'

/** Times that a balancer may choose a backend which has gone meanwhile. */
const RESELECTS = 3
/** Backends whose circuits may refuse a request, or that may be full, before all such are passed over together. */
const REFUSALS = 16

/** What came of choosing: a backend whose circuit has given a permit; none; or none now, as those there are have as much as they may. */
export type Chosen = 'one' | 'none' | 'full'

/** What an exchange chooses its backends by, and what it has chosen. */
export class Choice implements Selection {
  readonly request: FastifyRequest | undefined
  readonly method: string
  readonly path: string
  /** Those that are not to be chosen: they have been tried, or have refused. */
  tried: PublicBackend[] | null = null
  balancer: LoadBalancer | null = null
  because: Because = 'balancer'
  candidates: Candidates | null = null
  kept: Kept | undefined = undefined
  /** The one chosen, and what its circuit gave. */
  backend: Backend | null = null
  permit = -1
  /** Whether that is to see whether it is well again. */
  isTrial = false
  readonly #upstream: Upstream
  readonly #headers: readonly string[]
  readonly #subset: Subset | null
  /** Whether the load balancer takes its time. */
  isAsync = false
  #reselects = 0
  #refusals = 0
  #full = 0
  /** Those that were full when no other was left, those that had been tried, and the upstream's list as it was then. */
  #blockedBy: PublicBackend[] | null = null
  #triedThen: PublicBackend[] = []
  #listThen: readonly Backend[] | null = null

  constructor (upstream: Upstream, request: FastifyRequest | undefined, method: string, path: string, headers: readonly string[], subset: Subset | null) {
    this.#upstream = upstream
    this.request = request
    this.method = method
    this.path = path
    this.#headers = headers
    this.#subset = subset
  }

  header (name: string): string | undefined {
    return headerValue(this.request, this.#headers, name)
  }

  /**
   * Chooses, or asks a balancer that takes its time: what that says is for `take()`, called when it is to be used, as all may have changed by then.
   * Throws what a balancer throws, and where it chooses what it cannot.
   */
  next (): Chosen | Promise<PublicBackend | undefined> {
    const { admission, available, selector } = this.#upstream
    // Asking backends one by one would only tell the same.
    if (admission !== null && admission.full > 0 && admission.full === this.#upstream.size && available.length > 0) return 'full'
    if (this.#isBlocked()) return 'full'
    while (true) {
      const chosen = selector.select(this, this.#subset)
      if (chosen instanceof Promise) {
        this.isAsync = true
        return chosen
      }
      const result = this.#take(chosen)
      if (result !== null) return result
    }
  }

  /** Whether a backend may still be chosen: it is among those that the balancer was given. Who has come back to it by affinity may also while it drains. */
  mayUse (backend: Backend): boolean {
    this.candidates?.refresh?.()
    return this.because === 'affinity' || this.candidates?.members.has(backend) === true
  }

  /** Forgets who has refused, and of those that were tried all but these. */
  forget (tried: PublicBackend[] | null): void {
    this.tried = tried
    this.#full = this.#refusals = this.#reselects = 0
  }

  /** Milliseconds until an open circuit lets a request try; `undefined` where circuits are not why there is no backend. */
  circuitWait (): number | undefined {
    const { selector } = this.#upstream
    const only = this.kept !== undefined && selector.mustKeep(this.kept.backend, this, this.#subset) ? this.kept.backend : undefined
    return this.#upstream.circuitWait(this, this.#subset, only)
  }

  /** Uses what a balancer has said in the end; chooses again where that cannot be used. */
  take (chosen: PublicBackend | undefined): Chosen | Promise<PublicBackend | undefined> {
    return this.#take(chosen) ?? this.next()
  }

  /** @returns what came of it, or `null` when another has to be chosen */
  #take (chosen: PublicBackend | undefined): Chosen | null {
    if (chosen === undefined) return this.#full > 0 ? this.#block() : 'none'
    if (!(chosen instanceof Backend) || chosen.owner !== this.#upstream) throw new TypeError('the load balancer chose something that is no backend of this upstream')
    // One that has gone while an async balancer was thinking.
    if (!this.mayUse(chosen)) {
      if (++this.#reselects <= RESELECTS) return null
      throw new Error('the load balancer chose a backend that is not available')
    }
    // A balancer that does not look at what was tried knows no other.
    if (this.tried?.includes(chosen) === true) return this.#full > 0 ? this.#block() : 'none'
    ;(this.tried ??= []).push(chosen)
    if (isFull(chosen)) {
      if (++this.#full === REFUSALS) this.#passOver(isFull)
      // A balancer of the user's own may not look at what was tried.
      return this.#full > REFUSALS ? this.#block() : null
    }
    const permit = chosen.circuit.acquire()
    if (permit === -1) {
      // Many have refused: those that are only tried are passed over together, so that one that is well is still found.
      if (++this.#refusals === REFUSALS) this.#passOver(backend => backend.circuit.state !== 'closed')
      return this.#refusals > REFUSALS ? 'none' : null
    }
    chosen.chosen[this.because]++
    this.backend = chosen
    this.permit = permit
    this.isTrial = chosen.circuit.state === 'half-open'
    return 'one'
  }

  #block (): Chosen {
    const tried = this.tried ?? []
    this.#blockedBy = tried.filter(isFull)
    this.#triedThen = tried.filter(backend => !isFull(backend) && backend.circuitState === 'closed')
    this.#listThen = this.#upstream.available
    return 'full'
  }

  /** Whether choosing would say the same again. Somebody who waits is asked often, and a balancer may take its time. */
  #isBlocked (): boolean {
    return this.#blockedBy !== null && this.#listThen === this.#upstream.available && this.#blockedBy.every(isFull) &&
      this.#triedThen.every(backend => this.tried?.includes(backend) === true)
  }

  #passOver (refuses: (backend: Backend) => boolean): void {
    for (const backend of this.#upstream.list()) if (refuses(backend)) (this.tried ??= []).push(backend)
  }
}

function isFull (backend: PublicBackend): boolean {
  return (backend as Backend).concurrency?.full === true
}
