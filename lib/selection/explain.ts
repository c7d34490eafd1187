import type { Because, Explanation, ExplainedBackend, ExplainedGroup, LoadBalancer, Match } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import type { Candidates, Selection } from './candidates.ts'
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
  candidates: Candidates
  match: Match | undefined
}

/** Tells what `Selector.select()` would do, changing nothing. */
export async function explain (selector: Selector, name: string, backends: readonly Backend[], selection: Selection, subset: Subset | null): Promise<Explanation> {
  const { chosen, because, why, candidates, match } = await judge(selector, selection, subset)
  return {
    upstream: name,
    balancer: selector.balancer.type,
    chosen,
    because,
    why,
    match,
    panic: candidates.panic,
    groups: candidates.groups.map(({ priority, zone, share, panic, available }): ExplainedGroup => ({ priority, zone, share, panic, backends: available.map(({ id }) => id) })),
    backends: backends.map(backend => describe(backend, candidates, selection, match))
  }
}

async function judge (selector: Selector, selection: Selection, subset: Subset | null): Promise<Verdict> {
  const { affinity, whole } = selector
  const part = subset?.partFor(selection)
  const match = subset === null ? undefined : Object.assign({}, ...part?.demands ?? []) as Match
  const candidates = part === undefined ? whole : part.candidates
  const kept = affinity?.find(selection)
  if (affinity !== null && kept !== undefined) {
    if (selector.mayKeep(kept.backend, selection, subset)) return { chosen: kept.backend, because: 'affinity', why: reasons.affinity, candidates, match }
    if (affinity.onUnavailable === 'fail') return none(`the client's cookie names '${kept.backend.id}', which cannot be chosen`, candidates, match)
  }
  if (subset === null || (part !== undefined && part.candidates.groups.length > 0)) return await ask(candidates, selection, match)
  if (subset.fallback !== 'any') return none('no available backend matches', candidates, match)
  const verdict = await ask(whole, selection, match)
  return verdict.because === undefined || verdict.because === 'panic' ? verdict : { ...verdict, because: 'fallback', why: reasons.fallback }
}

async function ask (candidates: Candidates, selection: Selection, match: Match | undefined): Promise<Verdict> {
  const group = candidates.groupFor(selection)
  if (group === undefined) return none('no backend is available', candidates, match)
  const { balancer, available, because } = group
  if (balancer.peek === undefined) return none(`only choosing would tell: the balancer '${balancer.type}' has no peek()`, candidates, match)
  try {
    const chosen = await balancer.peek(available, selection) as Backend | undefined
    if (chosen === undefined) return none('the load balancer chose none', candidates, match)
    return { chosen, because, why: wordsFor(because, balancer, available.length), candidates, match }
  } catch (error) {
    return none(`the load balancer threw: ${String(error)}`, candidates, match)
  }
}

function wordsFor (because: Because, { type }: LoadBalancer, count: number): string {
  if (because === 'balancer') return count === 1 ? 'it is the only one available' : `'${type}' chose it of ${count}`
  return reasons[because]
}

function none (why: string, candidates: Candidates, match: Match | undefined): Verdict {
  return { chosen: undefined, because: undefined, why, candidates, match }
}

function describe (backend: Backend, candidates: Candidates, { tried }: Selection, match: Match | undefined): ExplainedBackend {
  const obstacles = backend.obstacles
  if (match !== undefined && !matches(backend, [match])) obstacles.push('no match')
  if (tried !== null && tried.includes(backend)) obstacles.push('tried')
  return {
    id: backend.id,
    available: backend.available,
    considered: candidates.members.has(backend),
    reasons: obstacles,
    weight: backend.weight,
    effectiveWeight: backend.effectiveWeight,
    priority: backend.priority,
    zone: backend.zone,
    inFlight: backend.inFlight
  }
}
