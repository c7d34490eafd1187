import type { Because } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import type { Group, ZoneSide } from './group.ts'
import { capacityOf, isEnough, sharesOf } from './shares.ts'

/** A group before it has a balancer. */
export interface Grouping extends Omit<Group, 'balancer'> {
  /** The same for a group as long as its place is: whoever balances it keeps what he knows. */
  readonly key: string
}

interface Level {
  priority: number
  backends: Backend[]
  /** Part of its backends that are available, of those that are active. */
  availability: number
  capacity: number
}

/**
 * Divides backends by priority, and those of a priority by zone; works out who is chosen among, and for how much of the traffic.
 * Groups without any are left out. @param zone the own one
 */
export function groupsOf (backends: readonly Backend[], zone: string | undefined, panicThreshold: number): Grouping[] {
  const levels = levelsOf(backends)
  // As long as all together carry everything, nobody has to use what may be broken.
  const enough = isEnough(levels.reduce((sum, { capacity }) => sum + capacity, 0))
  const panics = levels.map(({ availability }) => !enough && availability < panicThreshold)
  const shares = sharesOf(levels.map(({ capacity }) => capacity))
  if (!shares.some(share => share > 0)) shareByWeight(levels, shares, panics)
  const groups: Grouping[] = []
  levels.forEach((level, i) => {
    if (shares[i] === 0) return
    // What a later one gets, the first could not carry.
    const because = panics[i] ? 'panic' : groups.length > 0 || i > 0 ? 'priority' : 'balancer'
    if (panics[i]) groups.push(groupOf(level, undefined, shares[i], because, level.backends.filter(isUsable)))
    else groups.push(...zonesOf(level, zone, shares[i], because))
  })
  return groups.filter(({ available }) => available.length > 0)
}

function levelsOf (backends: readonly Backend[]): Level[] {
  const byPriority = new Map<number, Backend[]>()
  for (const backend of backends) {
    // One that is being taken out is no capacity lost.
    if (backend.draining) continue
    const level = byPriority.get(backend.priority)
    if (level === undefined) byPriority.set(backend.priority, [backend])
    else level.push(backend)
  }
  return [...byPriority].sort(([a], [b]) => a - b).map(([priority, backends]) => {
    const active = backends.filter(({ enlisted, awaitsCheck }) => enlisted && !awaitsCheck).length
    const available = backends.filter(({ available }) => available)
    return { priority, backends, availability: active === 0 ? 1 : available.length / active, capacity: capacityOf(weightOf(available), weightOf(backends)) }
  })
}

/** Where none is available, and that is panic, each level gets what its active ones weigh. */
function shareByWeight (levels: Level[], shares: number[], panics: boolean[]): void {
  const weights = levels.map(({ backends }, i) => panics[i] ? weightOf(backends.filter(isUsable)) : 0)
  const total = weights.reduce((sum, weight) => sum + weight, 0)
  weights.forEach((weight, i) => { shares[i] = total === 0 ? 0 : weight / total })
}

/** The own zone first; what it cannot carry goes to all others. */
function zonesOf (level: Level, zone: string | undefined, share: number, because: Because): Grouping[] {
  const available = level.backends.filter(({ available }) => available)
  const own = available.filter(backend => backend.zone === zone)
  const others = available.filter(backend => backend.zone !== zone)
  if (zone === undefined || !level.backends.some(backend => backend.zone === zone)) return [groupOf(level, undefined, share, because, available)]
  const carried = others.length === 0 ? 1 : capacityOf(weightOf(own), weightOf(level.backends.filter(backend => backend.zone === zone)))
  return [
    groupOf(level, 'own', share * carried, because, own),
    groupOf(level, 'other', share * (1 - carried), because === 'balancer' ? 'zone' : because, others)
  ].filter(({ share }) => share > 0)
}

function groupOf ({ priority }: Level, zone: ZoneSide, share: number, because: Because, available: Backend[]): Grouping {
  return { key: `${priority}/${zone ?? ''}`, priority, zone, panic: because === 'panic', because, share, available: Object.freeze(available) }
}

function weightOf (backends: readonly Backend[]): number {
  return backends.reduce((sum, { weight }) => sum + weight, 0)
}

/** Panic believes no check, but one there must have been. */
function isUsable ({ usable, awaitsCheck }: Backend): boolean {
  return usable && !awaitsCheck
}
