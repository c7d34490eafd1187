import { BalancerSchema } from '../../types/index.ts'
import type { BalancerEnv, BalancerInput, BalancerType, LoadBalancer, SelectContext } from '../../types/index.ts'
import { resolveOptions } from '../options.ts'
import { systemEnv } from './env.ts'
import { FunctionBalancer } from './function.ts'
import { HashPolicy } from './hash-policy.ts'
import { IpHash } from './ip-hash.ts'
import { LeastRequests } from './least-requests.ts'
import { Maglev } from './maglev.ts'
import { P2c } from './p2c.ts'
import { PeakEwma } from './peak-ewma.ts'
import { Random } from './random.ts'
import { Rendezvous } from './rendezvous.ts'
import { RingHash } from './ring-hash.ts'
import { RoundRobin } from './round-robin.ts'

export { fastRandom } from './fast-random.ts'
export { fractionOf, hashReady, hashText } from './hash.ts'
export { keyReader, type KeyReader } from './hash-key.ts'
export { FunctionBalancer, IpHash, LeastRequests, Maglev, P2c, PeakEwma, Random, Rendezvous, RingHash, RoundRobin }

type Policy = new (options: never, env: BalancerEnv) => LoadBalancer

const policies: Record<BalancerType, Policy> = {
  'round-robin': RoundRobin,
  'weighted-round-robin': RoundRobin,
  random: Random,
  'least-requests': LeastRequests,
  p2c: P2c,
  'peak-ewma': PeakEwma,
  'ip-hash': IpHash,
  'ring-hash': RingHash,
  maglev: Maglev,
  rendezvous: Rendezvous
}

/** The balancer that an option means: made from its name or object, or the user's own. Throws `INVALID_OPTIONS`. */
export function createBalancer (input: BalancerInput, path = 'balancer', env: BalancerEnv = systemEnv): LoadBalancer {
  return balancerFactory(input, env, path)()
}

/**
 * Makes balancers as an option means them: of a policy of ours a new one at each call, of the user's own always the same one.
 * Throws `INVALID_OPTIONS` at once.
 */
export function balancerFactory (input: BalancerInput, env: BalancerEnv = systemEnv, path = 'balancer'): () => LoadBalancer {
  const option = resolveOptions<BalancerInput>(BalancerSchema, input, path)
  if (typeof option === 'function') return always(new FunctionBalancer(option))
  if (typeof option === 'object' && 'select' in option) return always(option)
  const options = typeof option === 'string' ? { type: option } : option
  const Policy = policies[options.type]
  return () => new Policy(options as never, env)
}

/** What a balancer of ours was made of, the defaults filled in; `undefined` for the application's own. */
export function balancerOptionsOf (balancer: LoadBalancer): Readonly<Record<string, unknown>> | undefined {
  if (!Object.values(policies).some(Policy => balancer instanceof Policy)) return undefined
  const { type: _type, ...options } = (balancer as LoadBalancer & { options: Record<string, unknown> }).options
  // What else there is of it is how a ring is made, which is not for the choosing.
  return balancer instanceof IpHash ? { boundedLoad: options.boundedLoad } : options
}

/** Where the key of a request draws it, 0 to 1, by a policy that goes by keys. */
export function pointOf (balancer: LoadBalancer, context: SelectContext): number | undefined {
  return balancer instanceof HashPolicy ? balancer.point(context) : undefined
}

function always (balancer: LoadBalancer): () => LoadBalancer {
  return () => balancer
}
