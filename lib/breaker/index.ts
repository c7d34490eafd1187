import { BreakerSchema } from '../../types/index.ts'
import type { BreakerInput, CircuitBreaker as Contract } from '../../types/index.ts'
import { resolveOptions } from '../options.ts'
import { CircuitBreaker } from './circuit-breaker.ts'
import { NoBreaker } from './none.ts'

export { CircuitBreaker, isGatewayFailure } from './circuit-breaker.ts'

/** The breaker that an option means. Throws `INVALID_OPTIONS`. */
export function createBreaker (input: BreakerInput = true, path = 'breaker'): Contract {
  const option = resolveOptions<BreakerInput>(BreakerSchema, input, path)
  if (option === false) return new NoBreaker()
  if (option === true) return new CircuitBreaker({}, path)
  return 'createCircuit' in option ? option : new CircuitBreaker(option, path)
}
