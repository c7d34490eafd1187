import type { Dispatcher } from 'undici'
import { PoolOptionsSchema } from '../../types/index.ts'
import type { ConnectionPool as Contract, PoolSettings } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { resolveOptions } from '../options.ts'
import { ConnectionPool } from './connection-pool.ts'
import { Connector } from './connector.ts'

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
