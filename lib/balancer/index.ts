import { BalancerSchema } from '../../types/index.ts'
import type { BalancerInput, BalancerType, LoadBalancer } from '../../types/index.ts'
import { resolveOptions } from '../options.ts'
import { RoundRobin } from './round-robin.ts'

export { RoundRobin } from './round-robin.ts'

const policies: Record<BalancerType, new () => LoadBalancer> = {
  'round-robin': RoundRobin
}

/** The balancer that an option means: made from its name or object, or the instance itself. Throws `INVALID_OPTIONS`. */
export function createBalancer (input: BalancerInput, path = 'balancer'): LoadBalancer {
  const option = resolveOptions<BalancerInput>(BalancerSchema, input, path)
  if (typeof option === 'object' && 'select' in option) return option
  return new policies[typeof option === 'string' ? option : option.type]()
}
