import { Type } from '@sinclair/typebox'
import type { FastifyRequest } from 'fastify'
import type { Backend } from './backend.ts'
import type { Outcome } from './outcome.ts'

/** What a load balancer may look at. Valid only during the call. */
export interface SelectContext {
  /** The client's request; `undefined` for `forwardHttp()`. */
  readonly request: FastifyRequest | undefined
  /** The request's method. */
  readonly method: string
  /** The path and query that will be sent. */
  readonly path: string
  /** Backends this exchange has tried already, to be left out while another is left; `null` on the first attempt. */
  readonly tried: readonly Backend[] | null
}

/** Chooses a backend among those available. */
export interface LoadBalancer {
  /** The name of the policy, as shown in status. */
  readonly type: string
  /**
   * Chooses one of `available`, or nothing. May be async; a throw or rejection answers the request with 503.
   * @param available those that can take the request, in the order they were added; never empty, never to be changed
   */
  select (available: readonly Backend[], context: SelectContext): Backend | undefined | Promise<Backend | undefined>
  /** Hears of the result of every attempt, once. */
  settle? (backend: Backend, outcome: Outcome): void
  /** Hears of a new set of available backends or of changed weights, before the next `select`. */
  rebuild? (available: readonly Backend[]): void
}

/** The policies that can be chosen by name. */
export const BALANCER_TYPES = ['round-robin'] as const
export type BalancerType = typeof BALANCER_TYPES[number]

const typeName = Type.Unsafe<BalancerType>(Type.Union(BALANCER_TYPES.map(type => Type.Literal(type)), {
  expected: `one of ${BALANCER_TYPES.map(type => `'${type}'`).join(', ')}`
}))

/** A policy by name, as an object with its options, or an instance of the user's own. */
export const BalancerSchema = Type.Unsafe<BalancerInput>(Type.Union([
  // The instance first: its methods may stand in its class, and then it looks like the object.
  Type.Object({ type: Type.String(), select: Type.Function([], Type.Unknown()) }, { title: 'LoadBalancer' }),
  typeName,
  Type.Object({ type: typeName }, { additionalProperties: false })
], {
  default: 'round-robin',
  description: 'Chooses a backend for each attempt: the name of a policy, an object `{ type }`, or an instance of a `LoadBalancer`. Round robin is smooth weighted as soon as weights differ.',
  expected: `one of ${BALANCER_TYPES.map(type => `'${type}'`).join(', ')}, an object { type }, or a LoadBalancer with a select() method`
}))

/** What `balancer` and `setLoadBalancer()` take. */
export type BalancerInput = BalancerType | { type: BalancerType } | LoadBalancer
