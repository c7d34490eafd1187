import { PoolSchema } from '../../types/index.ts'
import type { Clock, ConnectionPool as Contract, PoolInput } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { proxyError } from '../errors.ts'
import { resolveOptions } from '../options.ts'
import { connectionOptionOf, ConnectionPool, type PoolListener } from './connection-pool.ts'

/** The pool that an option means: made from its options, or the instance itself. Throws `INVALID_OPTIONS`. */
export function createPool (input: PoolInput = {}, path = 'pool', clock?: Clock, listener?: PoolListener): Contract {
  const option = resolveOptions<PoolInput>(PoolSchema, input, path)
  const pool = 'dispatcherFor' in option ? option : new ConnectionPool(option, path, clock)
  if (pool instanceof ConnectionPool && listener !== undefined) pool.listeners.add(listener)
  return pool
}

/** Sees to it that a pool can connect to a backend as its options say. Throws `INVALID_OPTIONS`. */
export function prepare (pool: Contract, backend: Backend): void {
  if (pool.prepare !== undefined) return pool.prepare(backend)
  const own = connectionOptionOf(backend)
  if (own !== undefined) throw proxyError('INVALID_OPTIONS', undefined, `${own} of backend '${backend.id}' wants a pool that heeds it: that of the application has no prepare()`)
}

/** Whether a backend has to prove who it is, where it can. */
export function verifies (pool: Contract, backend: Backend): boolean {
  return !(pool instanceof ConnectionPool) || pool.verifies(backend)
}
