import { PoolSchema } from '../../types/index.ts'
import type { ConnectionPool as Contract, PoolInput } from '../../types/index.ts'
import { resolveOptions } from '../options.ts'
import { ConnectionPool } from './connection-pool.ts'

export { BackendConnections } from './backend-connections.ts'
export { ConnectionPool } from './connection-pool.ts'
export { reasonPhrase } from './response-head.ts'
export type { Connection, PooledHandler } from './connection.ts'

/** The pool that an option means: made from its options, or the instance itself. Throws `INVALID_OPTIONS`. */
export function createPool (input: PoolInput = {}, path = 'pool'): Contract {
  const option = resolveOptions<PoolInput>(PoolSchema, input, path)
  return 'dispatcherFor' in option ? option : new ConnectionPool(option)
}
