import type { Backend } from './backend.ts'
import type { Match } from './subset.ts'

/** Why a backend was among those that could be chosen. */
export type Because =
  /** The load balancer chose among the backends that come first. */
  | 'balancer'
  /** The client's cookie named it. */
  | 'affinity'
  /** The backends of better priorities cannot carry all. */
  | 'priority'
  /** The backends of the own zone cannot carry all. */
  | 'zone'
  /** No available backend matched what was asked for, and any would do. */
  | 'fallback'
  /** Too few were available: all active ones were used. */
  | 'panic'

/** Why a backend cannot be chosen now. */
export type Unavailable = 'inactive' | 'draining' | 'weight 0' | 'unhealthy' | 'ejected' | 'circuit open' | 'no match' | 'tried'

/** Backends that are chosen among together. */
export interface ExplainedGroup {
  /** Their priority; 0 comes first. */
  priority: number
  /** Where priorities are divided by zone: those of the own zone, or of others. */
  zone: 'own' | 'other' | undefined
  /** Part of the requests that they get, 0 to 1. */
  share: number
  /** Whether all active ones are used, as too few are available. */
  panic: boolean
  /** Ids of those that can be chosen. */
  backends: string[]
}

/** One backend, and what speaks for and against it. */
export interface ExplainedBackend {
  id: string
  /** Whether it is active, healthy, not ejected, not draining, has a weight, and its circuit is not open. */
  available: boolean
  /** Whether it could be chosen for this request. */
  considered: boolean
  /** What keeps it from being chosen; empty when nothing does. */
  reasons: Unavailable[]
  weight: number
  effectiveWeight: number
  priority: number
  zone: string | undefined
  inFlight: number
}

/** What `explain()` tells: which backend a request would go to, and why. */
export interface Explanation {
  upstream: string
  /** The policy's name. */
  balancer: string
  /** The backend; `undefined` where there is none, or where only sending the request would tell. */
  chosen: Backend | undefined
  because: Because | undefined
  /** The same in words. */
  why: string
  /** What backends had to match, where anything was asked for. */
  match: Match | undefined
  /** Whether too few are available. */
  panic: boolean
  groups: ExplainedGroup[]
  backends: ExplainedBackend[]
}
