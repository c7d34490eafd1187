import type { Backend as PublicBackend, Because, LoadBalancer, SelectContext } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { pointOf } from '../balancer/index.ts'
import type { Kept } from './affinity.ts'
import { each } from './each.ts'
import type { Group } from './group.ts'
import { groupsOf } from './grouping.ts'

/** A choice being made: what it is for, and what becomes of it. */
export interface Selection extends SelectContext {
  /** The balancer that was asked; hears how the attempt went. */
  balancer: LoadBalancer | null
  because: Because
  /** What was chosen among. */
  candidates: Candidates | null
  /** What the client's cookie says. */
  kept: Kept | undefined
}

/** What all of an upstream's sets of candidates go by. */
export interface CandidatePolicy {
  readonly zone: string | undefined
  readonly panicThreshold: number
  readonly random: () => number
  /** The one that users know of. */
  readonly balancer: LoadBalancer
}

/**
 * The backends that requests of one kind may go to, in groups with shares of the traffic; made ready when something changes, so that a
 * choice is to draw a group, if there are several, and to ask its balancer.
 */
export class Candidates {
  groups: readonly Group[] = []
  /** All that may be chosen, and who balances them. */
  members: ReadonlyMap<PublicBackend, LoadBalancer> = new Map()
  /** Whether any is available: without, panic may still use some. */
  hasAvailable = false
  /** Takes over what has changed of backends; `null` where that is done at each change. */
  refresh: (() => void) | null = null
  readonly #policy: CandidatePolicy
  readonly #isWhole: boolean
  /** By the groups' keys: who has balanced a group goes on with it. */
  #balancers = new Map<string, LoadBalancer>()

  /** @param isWhole whether these are all backends of the upstream, and the balancer that users know of takes part itself */
  constructor (policy: CandidatePolicy, isWhole: boolean) {
    this.#policy = policy
    this.#isWhole = isWhole
  }

  get panic (): boolean {
    return this.groups.some(({ panic }) => panic)
  }

  rebuild (backends: readonly Backend[]): void {
    const { zone, panicThreshold, balancer: main } = this.#policy
    const groupings = groupsOf(backends, zone, panicThreshold)
    const balancers = new Map<string, LoadBalancer>()
    const own = this.#isWhole && ![...this.#balancers.values()].includes(main) ? groupings[0]?.key : undefined
    const groups = groupings.map(({ key, ...grouping }) => {
      const balancer = key === own ? main : this.#balancers.get(key) ?? main.fork?.() ?? main
      balancers.set(key, balancer)
      return { ...grouping, balancer }
    })
    // Groups come and go with the health of their backends; what their balancers know stays.
    this.#balancers = new Map([...this.#balancers, ...balancers])
    this.groups = groups
    this.hasAvailable = backends.some(({ available }) => available)
    this.members = new Map(groups.flatMap(({ available, balancer }) => available.map(backend => [backend, balancer] as const)))
    // Last, as they may throw.
    if (main.fork !== undefined) each(groups, ({ balancer, available }) => balancer.rebuild?.(available))
    else if (this.#isWhole) main.rebuild?.(groups.length === 1 ? groups[0].available : Object.freeze(groups.flatMap(({ available }) => available)))
  }

  /** Lets go of all balancers: there is a new one. */
  forget (): void {
    this.#balancers = new Map()
  }

  select (selection: Selection): PublicBackend | undefined | Promise<PublicBackend | undefined> {
    selection.candidates = this
    const group = this.groupFor(selection)
    if (group === undefined) return undefined
    selection.balancer = group.balancer
    selection.because = group.because
    return group.balancer.select(group.available, selection)
  }

  /** The group that a choice is made in: drawn by share, then in order, whichever has a backend left that was not tried. */
  groupFor (context: SelectContext): Group | undefined {
    const { groups } = this
    if (groups.length <= 1) return groups[0]
    const { tried } = context
    const drawn = this.#draw(context)
    if (tried === null || hasUntried(drawn, tried)) return drawn
    return groups.find(group => hasUntried(group, tried)) ?? drawn
  }

  /** By the hash of the request's key, where the policy has one: then its share of keys moves and not a share of every key. */
  #draw (context: SelectContext): Group {
    const { groups } = this
    let left = pointOf(groups[0].balancer, context) ?? this.#policy.random()
    for (const group of groups) {
      left -= group.share
      if (left < 0) return group
    }
    return groups[groups.length - 1]
  }
}

function hasUntried ({ available }: Group, tried: readonly PublicBackend[]): boolean {
  return available.some(backend => !tried.includes(backend))
}
