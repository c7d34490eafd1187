import type { Dispatcher } from 'undici'
import { PoolOptionsSchema, PoolSchema } from '../../types/index.ts'
import type { Clock, ConnectionPool as Contract, PoolInput, PoolSettings } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { proxyError } from '../errors.ts'
import { resolveOptions } from '../options.ts'
import { connectionOptionOf, ConnectionPool, type PoolListener } from './connection-pool.ts'
import { Connector } from './connector.ts'

export { BackendConnections } from './backend-connections.ts'
export { ConnectionPool } from './connection-pool.ts'
export { Connector, type Protocol } from './connector.ts'
export { reasonPhrase } from './response-head.ts'
export type { Connection, PooledHandler } from './connection.ts'
export type { Connections, StreamHandler, TrailerSource } from './connections.ts'
export { UnprocessedError } from './http2-errors.ts'
export type { PoolListener } from './connection-pool.ts'

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

/** What makes connections for checks: as the pool makes them, where it is ours. They wait as long as the check does, and every certificate is looked at. */
export function checkConnectorOf (pool: Contract | null, backend: Backend, port?: number): Connector {
  const overrides = { port, sessions: false }
  if (pool instanceof ConnectionPool) return pool.connectorFor(backend, 0, overrides)
  return new Connector(backend, { ...resolveOptions<PoolSettings>(PoolOptionsSchema, {}, 'pool'), connectTimeout: 0 }, undefined, overrides)
}

/** What requests of checks go through where the pool makes no connections itself; else `null`. */
export function checkDispatcherOf (pool: Contract, backend: Backend): Dispatcher | null {
  return pool instanceof ConnectionPool && pool.dispatches ? pool.dispatcherFor(backend) : null
}
