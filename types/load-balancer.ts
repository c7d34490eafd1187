import { Type, type Static, type TProperties } from '@sinclair/typebox'
import type { FastifyRequest } from 'fastify'
import type { Backend } from './backend.ts'
import type { Clock } from './clock.ts'
import { HashKeySchema } from './hash-key.ts'
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
  /**
   * The value of one of the request's headers, by its name in lower case; the values of one that came more than once are joined by
   * commas, those of `cookie` by semicolons.
   */
  header (name: string): string | undefined
}

/** Chooses a backend among those available. */
export interface LoadBalancer {
  /** The name of the policy, as shown in status. */
  readonly type: string
  /**
   * Chooses one of `available`, or nothing. May be async; a throw or rejection answers the request with 503.
   * @param available those that can take the request, in the order they were added; never empty, never to be changed;
   * the very array that `rebuild` was given last (but see `fork`)
   */
  select (available: readonly Backend[], context: SelectContext): Backend | undefined | Promise<Backend | undefined>
  /** Hears of the result of every attempt, once. */
  settle? (backend: Backend, outcome: Outcome): void
  /** Hears of a new set of available backends or of changed weights, before the next `select`. */
  rebuild? (available: readonly Backend[]): void
  /**
   * A new balancer like this one. Where backends are chosen from in groups (priorities, zones, subsets) each group then has one of its
   * own; without it one serves all, `rebuild` gets the backends of all groups, and `select` those of the group.
   */
  fork? (): LoadBalancer
  /** What `select` would choose, changing nothing: for `explain()`. Left out, `explain()` cannot tell. */
  peek? (available: readonly Backend[], context: SelectContext): Backend | undefined | Promise<Backend | undefined>
}

/** A load balancer that is no more than its choice. May be async; a throw or rejection answers the request with 503. */
export type SelectFunction = LoadBalancer['select']

/** What a policy needs of the world, injected so that tests own it. */
export interface BalancerEnv {
  readonly clock: Clock
  /** A number of at least 0 and below 1. */
  readonly random: () => number
}

const key = Type.Optional(HashKeySchema('What is hashed; requests with the same key go to the same backend.', { default: 'ip' }))

const missing = Type.Optional(Type.Union([Type.Literal('random'), Type.Literal('ip')], {
  default: 'random',
  description: 'What stands in for a key that a request does not have, or has empty: a random one, or the client\'s address.',
  expected: "'random' or 'ip'"
}))

const boundedLoad = Type.Optional(Type.Union([Type.Number({ minimum: 1 }), Type.Literal(false)], {
  default: false,
  description: 'Most that a backend may have in flight, as a multiple of its fair share, such as 1.25. A request whose backend is full goes to one that further hashes of its key choose. `false` sets no bound. Source: Mirrokni, Thorup and Zadimoghaddam, Consistent Hashing with Bounded Loads.',
  expected: 'a number of at least 1 or false'
}))

const policy = <Name extends string, Properties extends TProperties>(type: Name, properties: Properties, title: string, description: string) =>
  Type.Object({ type: Type.Literal(type, { description: 'The policy.', expected: `'${type}'` }), ...properties }, { additionalProperties: false, title, description })

const hash = { key, missing, boundedLoad }

export const RoundRobinSchema = policy('round-robin', {}, 'RoundRobinOptions',
  'Takes turns; as soon as weights differ, smooth weighted ones.')

export const WeightedRoundRobinSchema = policy('weighted-round-robin', {}, 'WeightedRoundRobinOptions',
  'The same as `round-robin` by its longer name.')

export const RandomSchema = policy('random', {}, 'RandomOptions',
  'Chooses at random, by weight.')

export const LeastRequestsSchema = policy('least-requests', {
  fullScanLimit: Type.Optional(Type.Integer({
    minimum: 0,
    default: 32,
    description: 'Up to so many backends, all are compared; above, `choices` drawn at random.'
  })),
  choices: Type.Optional(Type.Integer({
    minimum: 2,
    maximum: 16,
    default: 2,
    description: 'How many backends are drawn where not all are compared.'
  })),
  bias: Type.Optional(Type.Number({
    minimum: 0,
    maximum: 10,
    default: 1,
    description: 'How much requests in flight count against the weight: compared is `((inFlight + 1) ** bias - 1) / weight`. 0 takes no notice of load; 1 compares requests in flight per weight; above, load counts for more than weight.'
  }))
}, 'LeastRequestsOptions', 'Chooses the backend with the fewest requests in flight for its weight.')

export const P2cSchema = policy('p2c', {}, 'P2cOptions',
  'Draws two backends by weight and chooses the one with fewer requests in flight for its weight.')

export const PeakEwmaSchema = policy('peak-ewma', {
  decay: Type.Optional(Type.Number({
    exclusiveMinimum: 0,
    default: 10_000,
    description: 'Milliseconds after which a latency seen counts 1/e of what it did.',
    expected: 'a number above 0'
  })),
  penalty: Type.Optional(Type.Number({
    minimum: 0,
    default: 1_000,
    description: 'Milliseconds that a failed attempt counts as at the least, so that failing fast does not look like answering fast.'
  }))
}, 'PeakEwmaOptions', 'Draws two backends by weight and chooses the one with the lower latency times load. A latency above the average counts at once, one below it by and by. Source: Finagle.')

export const IpHashSchema = policy('ip-hash', { boundedLoad }, 'IpHashOptions',
  'The same client address goes to the same backend, by `ring-hash`.')

export const RingHashSchema = policy('ring-hash', {
  ...hash,
  points: Type.Optional(Type.Integer({
    minimum: 1,
    maximum: 65_536,
    default: 160,
    description: 'Points on the ring per unit of weight.'
  })),
  probes: Type.Optional(Type.Integer({
    minimum: 1,
    maximum: 64,
    default: 21,
    description: 'Places on the ring that a key looks from; the point that is nearest to one of them wins. More of them spread more evenly; 1 is the plain ring of ketama. Source: Appleton and O\'Reilly, Multi-probe Consistent Hashing.'
  })),
  minRingSize: Type.Optional(Type.Integer({
    minimum: 1,
    maximum: 1_048_576,
    default: 160,
    description: 'Points on the whole ring at the least, where weights are so small that `points` would give fewer.'
  })),
  maxRingSize: Type.Optional(Type.Integer({
    minimum: 1_024,
    maximum: 8_388_608,
    default: 524_288,
    description: 'Points on the whole ring at the most; beyond, every backend has fewer. They are put in order at one go, and nothing else is done meanwhile, whenever they change: some 30 ms for 524,288 points, 0.5 to 1 s for 8,388,608, if `points` and weights ask for so many.'
  }))
}, 'RingHashOptions', 'Consistent hashing on a ring of points: a backend that comes or goes moves only the keys that it gets or had.')

export const MaglevSchema = policy('maglev', {
  ...hash,
  tableSize: Type.Optional(Type.Integer({
    minimum: 2,
    maximum: 5_000_011,
    default: 65_537,
    description: 'Entries of the table, at best a hundred times as many as backends or more; taken up to the next prime. It is filled at one go whenever available backends or weights change, and nothing else is done meanwhile: some 5 ms for 65,537 entries, 0.1 s for a million, 1 to 2 s for 5,000,011.'
  }))
}, 'MaglevOptions', 'Consistent hashing by a table, the evenest spread and the fastest choice. Source: Eisenbud et al., Maglev.')

export const RendezvousSchema = policy('rendezvous', hash, 'RendezvousOptions',
  'Consistent hashing by the highest score of key and backend: exact by weight, moves the least, and looks at every backend.')

export type RoundRobinOptions = Static<typeof RoundRobinSchema>
export type WeightedRoundRobinOptions = Static<typeof WeightedRoundRobinSchema>
export type RandomOptions = Static<typeof RandomSchema>
export type LeastRequestsOptions = Static<typeof LeastRequestsSchema>
export type P2cOptions = Static<typeof P2cSchema>
export type PeakEwmaOptions = Static<typeof PeakEwmaSchema>
export type IpHashOptions = Static<typeof IpHashSchema>
export type RingHashOptions = Static<typeof RingHashSchema>
export type MaglevOptions = Static<typeof MaglevSchema>
export type RendezvousOptions = Static<typeof RendezvousSchema>
/** What every hash policy takes. */
export type HashOptions = Pick<MaglevOptions, 'key' | 'missing' | 'boundedLoad'>

/** The options of every policy that can be chosen by name, in the order of the documentation. */
export const BALANCER_SCHEMAS = [
  RoundRobinSchema, WeightedRoundRobinSchema, RandomSchema, LeastRequestsSchema, P2cSchema, PeakEwmaSchema,
  IpHashSchema, RingHashSchema, MaglevSchema, RendezvousSchema
] as const

/** A policy with its options. */
export type BalancerOptions = Static<typeof BALANCER_SCHEMAS[number]>
export type BalancerType = BalancerOptions['type']

/** The policies that can be chosen by name. */
export const BALANCER_TYPES: readonly BalancerType[] = BALANCER_SCHEMAS.map(schema => schema.properties.type.const)

const names = BALANCER_TYPES.map(type => `'${type}'`).join(', ')

/** A policy by name, as an object with its options, or an instance or function of the user's own. */
export const BalancerSchema = Type.Unsafe<BalancerInput>(Type.Union([
  // The instance first: its methods may stand in its class, and then it looks like an object of options.
  Type.Object({ type: Type.String(), select: Type.Function([], Type.Unknown()) }, { title: 'LoadBalancer' }),
  Type.Unsafe<BalancerType>(Type.Union(BALANCER_TYPES.map(type => Type.Literal(type)), { expected: `one of ${names}` })),
  ...BALANCER_SCHEMAS,
  Type.Function([], Type.Unknown())
], {
  default: 'round-robin',
  description: 'Chooses a backend for each attempt: the name of a policy, an object `{ type }` with its options, an instance of a `LoadBalancer`, or a function `(available, context) => backend`.',
  expected: `one of ${names}, an object { type } with its options, a LoadBalancer with a select() method, or a function`
}))

/** What `balancer` and `setLoadBalancer()` take. */
export type BalancerInput = BalancerType | { type: BalancerType } | BalancerOptions | LoadBalancer | SelectFunction
