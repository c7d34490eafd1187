import type { Match } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { Candidates, type CandidatePolicy } from './candidates.ts'
import { each } from './each.ts'
import { keyOf, matches } from './subset.ts'

/** Sets that are kept for calls; more of them would come from matches that are made up for each request. */
const MAX_PASSING = 256

/** One set of candidates, and what it is of. */
interface Kept {
  readonly demands: readonly Match[]
  readonly candidates: Candidates
  /** Of the backends that it was made of. */
  age: number
}

/** The sets of candidates that have been asked for, made anew when backends change. */
export class Subsets {
  readonly #policy: CandidatePolicy
  /** Those of declared routes. */
  readonly #lasting = new Map<string, Kept>()
  /** Those of calls; the one used longest ago comes first, and goes first. */
  readonly #passing = new Map<string, Kept>()
  #backends: readonly Backend[] = []
  /** How often backends have changed. */
  #age = 0

  constructor (policy: CandidatePolicy) {
    this.#policy = policy
  }

  rebuild (backends: readonly Backend[]): void {
    this.#backends = backends
    // Those of calls when they are next asked for: there may be many, and most of them never are.
    this.#age++
    each(this.#lasting.values(), kept => this.#rebuild(kept))
  }

  /** There is a new balancer. */
  forget (): void {
    for (const { candidates } of this.#lasting.values()) candidates.forget()
    this.#passing.clear()
  }

  /** @param lasting whether it is asked for once and used for ever */
  candidatesFor (demands: readonly Match[], lasting: boolean): Candidates {
    const key = keyOf(demands)
    const kept = this.#lasting.get(key) ?? this.#passing.get(key) ?? this.#make(demands)
    if (kept.age !== this.#age) this.#rebuild(kept)
    if (lasting) {
      this.#passing.delete(key)
      this.#lasting.set(key, kept)
    }
    if (!this.#lasting.has(key)) this.#keep(key, kept)
    return kept.candidates
  }

  #make (demands: readonly Match[]): Kept {
    const kept: Kept = { demands, candidates: new Candidates(this.#policy, false), age: -1 }
    // A call that waits may outlast what it was given, be it pushed out meanwhile.
    kept.candidates.refresh = () => { if (kept.age !== this.#age) this.#rebuildQuietly(kept) }
    return kept
  }

  #keep (key: string, kept: Kept): void {
    this.#passing.delete(key)
    this.#passing.set(key, kept)
    if (this.#passing.size > MAX_PASSING) this.#passing.delete(this.#passing.keys().next().value as string)
  }

  /** Where a balancer that throws is no affair of the one who asks. */
  #rebuildQuietly (kept: Kept): void {
    try {
      this.#rebuild(kept)
    } catch (error) {
      process.emitWarning(error as Error)
    }
  }

  #rebuild (kept: Kept): void {
    const { demands, candidates } = kept
    kept.age = this.#age
    candidates.rebuild(this.#backends.filter(backend => matches(backend, demands)))
  }
}
