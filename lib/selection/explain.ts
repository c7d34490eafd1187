import type { Because, Explanation, ExplainedBackend, ExplainedGroup, LoadBalancer, Match } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import type { Candidates, Selection } from './candidates.ts'
import type { Group } from './group.ts'
import type { Selector } from './selector.ts'
import { matches, type Subset } from './subset.ts'

const reasons: Record<Because, string> = {
  balancer: 'the load balancer chose it',
  affinity: "the client's cookie names it",
  priority: 'the load balancer chose it among those of a later priority, as those before cannot carry all',
  zone: 'the load balancer chose it among those of other zones, as those of the own cannot carry all',
  fallback: 'no available backend matches, and any will do',
  panic: 'too few backends are available, so that all active ones are used'
}

interface Verdict {
  chosen: Backend | undefined
  because: Because | undefined
  why: string
  /** Those that were chosen among. */
  groups: readonly Group[]
  /** What was asked for. */
  demands: readonly Match[] | undefined
}

/** Tells what `Selector.select()` would do, changing nothing. */
export async function explain (selector: Selector, name: string, backends: readonly Backend[], selection: Selection, subset: Subset | null): Promise<Explanation> {
  const verdict = await judge(selector, selection, subset)
  const { chosen, because, why, groups, demands } = isOurs(verdict.chosen, backends) ? verdict : none('the load balancer chose something that is no backend of this upstream', verdict.groups, verdict.demands)
  const members = new Set(groups.flatMap(({ available }) => available))
  if (chosen !== undefined) members.add(chosen)
  return {
    upstream: name,
    balancer: selector.balancer.type,
    chosen,
    because,
    why,
    match: demands === undefined ? undefined : Object.assign({}, ...demands) as Match,
    panic: groups.some(({ panic }) => panic),
    groups: groups.map(({ priority, zone, share, panic, available }): ExplainedGroup => ({ priority, zone, share, panic, backends: available.map(({ id }) => id) })),
    backends: backends.map(backend => describe(backend, members.has(backend), selection, demands))
  }
}

/** A balancer of the user's own may choose what it likes. */
function isOurs (chosen: Backend | undefined, backends: readonly Backend[]): boolean {
  return chosen === undefined || backends.includes(chosen)
}

async function judge (selector: Selector, selection: Selection, subset: Subset | null): Promise<Verdict> {
  const { affinity, whole } = selector
  const part = subset?.partFor(selection)
  const demands = subset === null ? undefined : part?.demands ?? []
  const candidates = subset === null ? whole : part?.candidates
  const groups = candidates?.groups ?? []
  const kept = affinity?.find(selection, subset)
  if (affinity !== null && kept !== undefined) {
    if (selector.mayKeep(kept.backend, selection, subset)) return { chosen: kept.backend, because: 'affinity', why: reasons.affinity, groups, demands }
    if (selector.mustKeep(kept.backend, selection, subset)) return none(`the client's cookie names '${kept.backend.id}', which cannot be chosen`, groups, demands)
  }
  if (subset === null) return await ask(whole, selection, demands)
  if (selector.suffices(candidates, subset)) return await ask(candidates, selection, demands)
  if (subset.fallback !== 'any') return none('no available backend matches', groups, demands)
  const verdict = await ask(whole, selection, demands)
  return verdict.because === undefined || verdict.because === 'panic' ? verdict : { ...verdict, because: 'fallback', why: reasons.fallback }
}

async function ask (candidates: Candidates, selection: Selection, demands: readonly Match[] | undefined): Promise<Verdict> {
  const { groups } = candidates
  const group = candidates.groupFor(selection)
  if (group === undefined) return none('no backend is available', groups, demands)
  const { balancer, available, because } = group
  if (balancer.peek === undefined) return none(`only choosing would tell: the balancer '${balancer.type}' has no peek()`, groups, demands)
  try {
    const chosen = await balancer.peek(available, selection) as Backend | undefined
    if (chosen === undefined) return none('the load balancer chose none', groups, demands)
    return { chosen, because, why: wordsFor(because, balancer, available.length), groups, demands }
  } catch (error) {
    return none(`the load balancer threw: ${String(error)}`, groups, demands)
  }
}

function wordsFor (because: Because, { type }: LoadBalancer, count: number): string {
  if (because === 'balancer') return count === 1 ? 'it is the only one available' : `'${type}' chose it of ${count}`
  return reasons[because]
}

function none (why: string, groups: readonly Group[], demands: readonly Match[] | undefined): Verdict {
  return { chosen: undefined, because: undefined, why, groups, demands }
}

function describe (backend: Backend, considered: boolean, { tried }: Selection, demands: readonly Match[] | undefined): ExplainedBackend {
  const obstacles = backend.obstacles
  if (demands !== undefined && !matches(backend, demands)) obstacles.push('no match')
  if (tried !== null && tried.includes(backend)) obstacles.push('tried')
  return {
    id: backend.id,
    available: backend.available,
    considered,
    reasons: obstacles,
    weight: backend.weight,
    effectiveWeight: backend.effectiveWeight,
    priority: backend.priority,
    zone: backend.zone,
    inFlight: backend.inFlight
  }
}
