import type { AffinityOptions, Backend as PublicBackend, Clock, LoadBalancer, Match } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { Affinity } from './affinity.ts'
import { Candidates, type CandidatePolicy, type Selection } from './candidates.ts'
import { each } from './each.ts'
import { Subset, type SubsetOptions } from './subset.ts'
import { Subsets } from './subsets.ts'

/** What an upstream's choices go by. */
export interface SelectorOptions {
  name: string
  balancer: LoadBalancer
  affinity: AffinityOptions | false
  panicThreshold: number
  zone: string | undefined
  clock: Clock
  random: () => number
}

/** Whose balancer is whose: one of ours goes by what it was told last, and cannot serve two upstreams. */
const owners = new WeakMap<LoadBalancer, Selector>()

/**
 * Chooses a backend of an upstream for a request: the one that its cookie names, else among those that it asks for, by priority and zone,
 * the one that the load balancer says.
 */
export class Selector implements CandidatePolicy {
  readonly zone: string | undefined
  readonly panicThreshold: number
  readonly random: () => number
  readonly affinity: Affinity | null
  /** All backends that can be chosen. */
  readonly whole: Candidates
  balancer: LoadBalancer
  readonly #subsets: Subsets
  #backends: readonly Backend[] = []

  constructor ({ name, balancer, affinity, panicThreshold, zone, clock, random }: SelectorOptions) {
    this.zone = zone
    this.panicThreshold = panicThreshold
    this.random = random
    this.balancer = this.#own(balancer)
    this.affinity = affinity === false ? null : new Affinity(affinity, name, clock)
    this.whole = new Candidates(this, true)
    this.#subsets = new Subsets(this)
  }

  /** Takes over what has changed of backends. Throws what a balancer throws. */
  rebuild (backends: readonly Backend[]): void {
    this.#backends = backends
    this.affinity?.rebuild(backends)
    each([this.whole, this.#subsets], candidates => candidates.rebuild(backends))
  }

  /** From the next choice on. When the new one throws the old one stays. */
  setBalancer (balancer: LoadBalancer): void {
    const old = this.balancer
    try {
      this.#use(balancer)
    } catch (error) {
      this.#use(old)
      throw error
    }
  }

  /** What a route or a call asks for, made ready; `null` where that is nothing. @param lasting whether it is used for ever */
  subsetOf (options: SubsetOptions, lasting: boolean): Subset | null {
    if (options.match === undefined && options.split === undefined) return null
    return new Subset(options, (demands: readonly Match[]) => this.#subsets.candidatesFor(demands, lasting), this.random)
  }

  select (selection: Selection, subset: Subset | null): PublicBackend | undefined | Promise<PublicBackend | undefined> {
    // One that must not go elsewhere must not when its backend has refused it either.
    if (this.affinity !== null && (selection.tried === null || this.affinity.onUnavailable === 'fail')) {
      const kept = selection.kept ??= this.affinity.find(selection, subset)
      if (kept !== undefined) {
        if (selection.tried === null && this.mayKeep(kept.backend, selection, subset)) {
          selection.because = 'affinity'
          selection.balancer = this.whole.members.get(kept.backend) ?? this.balancer
          return kept.backend
        }
        if (this.mustKeep(kept.backend, selection, subset)) return undefined
      }
    }
    if (subset === null) return this.whole.select(selection)
    const candidates = subset.partFor(selection)?.candidates
    if (this.suffices(candidates, subset)) return candidates.select(selection)
    return subset.fallback === 'any' ? this.#fallBack(selection) : undefined
  }

  /** Whether a client may stay with a backend: it is what is asked for, and available, if only by panic, or on its way out. */
  mayKeep (backend: Backend, selection: Selection, subset: Subset | null): boolean {
    const there = backend.available || this.whole.members.has(backend) || (backend.draining && backend.obstacles.length === 1)
    return there && (subset === null || subset.admits(backend, selection) || (subset.fallback === 'any' && !this.suffices(subset.partFor(selection)?.candidates, subset)))
  }

  /** Whether a client that cannot stay goes nowhere else; one that asks for something else has lost nothing. */
  mustKeep (backend: Backend, selection: Selection, subset: Subset | null): boolean {
    return this.affinity?.onUnavailable === 'fail' && (subset === null || subset.admits(backend, selection))
  }

  /** Whether there is what is asked for. Where any other will do, those in panic need not. */
  suffices (candidates: Candidates | undefined, { fallback }: Subset): candidates is Candidates {
    return candidates !== undefined && candidates.groups.length > 0 && (fallback === 'none' || candidates.hasAvailable)
  }

  #fallBack (selection: Selection): PublicBackend | undefined | Promise<PublicBackend | undefined> {
    const chosen = this.whole.select(selection)
    if (selection.because !== 'panic') selection.because = 'fallback'
    return chosen
  }

  /** The balancer, or one like it where another upstream has it. */
  #own (balancer: LoadBalancer): LoadBalancer {
    const owner = owners.get(balancer)
    if (balancer.fork === undefined || owner === this) return balancer
    const own = owner === undefined || owner.balancer !== balancer ? balancer : balancer.fork()
    owners.set(own, this)
    return own
  }

  #use (balancer: LoadBalancer): void {
    this.balancer = this.#own(balancer)
    this.whole.forget()
    this.#subsets.forget()
    this.whole.rebuild(this.#backends)
    this.#subsets.rebuild(this.#backends)
  }
}
