import type { Backend as PublicBackend, HashKey, Match, SelectContext, SplitPart, SubsetFallback } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { fractionOf, hashText, keyReader, type KeyReader } from '../balancer/index.ts'
import type { Candidates } from './candidates.ts'
import { cookieOf } from './cookie.ts'

/** Seed of a split's first part, the next ones following: tells their hashes from those that draw backends. */
const SPLIT = 3

/** What a route or a call asks of backends. */
export interface SubsetOptions {
  match?: Match | undefined
  split?: readonly SplitPart[] | undefined
  splitKey?: HashKey | undefined
  fallback?: SubsetFallback | undefined
}

/** Whether a backend's metadata says all that is asked for. */
export function matches (backend: PublicBackend, demands: readonly Match[]): boolean {
  return demands.every(match => says(backend, match))
}

function says ({ metadata }: PublicBackend, match: Match): boolean {
  for (const name in match) {
    const wanted = match[name]
    const told = Object.hasOwn(metadata, name) ? metadata[name] : undefined
    if (Array.isArray(wanted) ? !wanted.includes(told) : told !== wanted) return false
  }
  return true
}

/** The same text for the same demands, however they are written. */
export function keyOf (demands: readonly Match[]): string {
  return JSON.stringify(demands.map(match => Object.entries(match).sort(([a], [b]) => a < b ? -1 : 1)))
}

/** One part of a split, made ready. */
interface Part {
  readonly candidates: Candidates
  /** What its backends must match, all of it. */
  readonly demands: readonly Match[]
  readonly weight: number
  readonly fits: ((context: SelectContext) => boolean) | null
}

/** The backends that a route or a call asks for: one set of them, or one of several by split. */
export class Subset {
  readonly fallback: SubsetFallback
  /** A short name, the same for the same demands in every process. */
  readonly tag: string
  readonly #parts: readonly Part[]
  readonly #weight: number
  readonly #keyOf: KeyReader | null
  readonly #random: () => number

  constructor ({ match, split = [{ match: {} }], splitKey, fallback = 'none' }: SubsetOptions, candidatesFor: (demands: readonly Match[]) => Candidates, random: () => number) {
    this.#parts = split.map(({ match: narrower, weight, when }) => {
      const demands = match === undefined ? [narrower] : [match, narrower]
      return { candidates: candidatesFor(demands), demands, weight: weight ?? (when === undefined ? 1 : 0), fits: when === undefined ? null : signOf(when) }
    })
    this.tag = (hashText(this.#parts.map(({ demands }) => keyOf(demands)).join('\n')) >>> 0).toString(36)
    this.#weight = this.#parts.reduce((sum, { weight }) => sum + weight, 0)
    this.#keyOf = splitKey === undefined ? null : keyReader(splitKey)
    this.#random = random
    this.fallback = fallback
  }

  /** The part that a request is for, whether or not it has an available backend; `undefined` where no weight is left. */
  partFor (context: SelectContext): Part | undefined {
    const part = this.#choosePart(context)
    part?.candidates.refresh?.()
    return part
  }

  #choosePart (context: SelectContext): Part | undefined {
    const parts = this.#parts
    if (parts.length === 1) return parts[0].weight > 0 || parts[0].fits?.(context) === true ? parts[0] : undefined
    for (const part of parts) if (part.fits !== null && part.fits(context)) return part
    if (this.#weight === 0) return undefined
    const key = this.#keyOf?.(context)
    if (key !== undefined) return this.#partOf(key)
    let left = this.#random() * this.#weight
    for (const part of parts) {
      left -= part.weight
      if (left < 0) return part
    }
    return parts.findLast(({ weight }) => weight > 0)
  }

  /** The part with the highest score: a weight that changes moves keys to its part or from it, and no others. Source: rendezvous hashing. */
  #partOf (key: string): Part | undefined {
    let chosen: Part | undefined
    let highest = -1
    for (const [i, part] of this.#parts.entries()) {
      const score = part.weight > 0 ? -part.weight / Math.log(fractionOf(hashText(key, SPLIT + i))) : -1
      if (score <= highest) continue
      highest = score
      chosen = part
    }
    return chosen
  }

  /** Whether a client may stay with a backend: unless a sign sends the request elsewhere, any part with a weight will do. */
  admits (backend: Backend, context: SelectContext): boolean {
    for (const { fits, demands } of this.#parts) if (fits !== null && fits(context)) return matches(backend, demands)
    return this.#parts.some(({ demands, weight }) => weight > 0 && matches(backend, demands))
  }
}

function signOf (when: NonNullable<SplitPart['when']>): (context: SelectContext) => boolean {
  const read = 'header' in when ? headerReader(when.header) : (context: SelectContext) => cookieOf(context, when.cookie)
  const { value } = when
  return context => {
    const told = read(context)
    return value === undefined ? told !== undefined && told !== '' : told === value
  }
}

function headerReader (name: string): (context: SelectContext) => string | undefined {
  const header = name.toLowerCase()
  return context => context.header(header)
}
