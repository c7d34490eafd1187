import type { Because, LoadBalancer } from '../../types/index.ts'
import type { Backend } from '../backend.ts'

/** Where a group of a priority stands; `undefined` where zones make no difference. */
export type ZoneSide = 'own' | 'other' | undefined

/** Backends that are chosen among together, by a balancer of their own. */
export interface Group {
  readonly priority: number
  readonly zone: ZoneSide
  readonly panic: boolean
  /** What being chosen from this group is put down to. */
  readonly because: Because
  /** Part of the traffic, 0 to 1. */
  readonly share: number
  /** Those that may be chosen: frozen, not empty. */
  readonly available: readonly Backend[]
  readonly balancer: LoadBalancer
}
