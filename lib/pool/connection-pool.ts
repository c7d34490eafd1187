import type { Backend, BackendPoolStats, ConnectionPool as Contract, PoolOptions, PoolStats } from '../../types/index.ts'
import { PoolOptionsSchema } from '../../types/index.ts'
import { resolveOptions } from '../options.ts'
import { BackendConnections } from './backend-connections.ts'

/** Keeps a set of undici connections for each backend. */
export class ConnectionPool implements Contract {
  readonly options: Readonly<Required<PoolOptions>>
  readonly #connections = new Map<Backend, BackendConnections>()
  #closed = false

  /** Throws `INVALID_OPTIONS`. */
  constructor (options: PoolOptions = {}) {
    this.options = Object.freeze(resolveOptions<Required<PoolOptions>>(PoolOptionsSchema, options, 'pool'))
  }

  dispatcherFor (backend: Backend): BackendConnections {
    return this.#connections.get(backend) ?? this.#open(backend)
  }

  async release (backend: Backend): Promise<void> {
    const connections = this.#connections.get(backend)
    this.#connections.delete(backend)
    await connections?.close()
  }

  stats (): PoolStats {
    const backends: Record<string, BackendPoolStats> = Object.create(null)
    const sum: BackendPoolStats = { total: 0, active: 0, idle: 0, pending: 0, connects: 0, connectErrors: 0, requests: 0, reuseRatio: 0 }
    let reuses = 0
    for (const [backend, connections] of this.#connections) {
      const stats = connections.stats()
      backends[backend.id] = stats
      for (const key of ['total', 'active', 'idle', 'pending', 'connects', 'connectErrors', 'requests'] as const) sum[key] += stats[key]
      reuses += connections.reuses
    }
    sum.reuseRatio = sum.requests === 0 ? 0 : reuses / sum.requests
    return { ...sum, backends }
  }

  async close (): Promise<void> {
    this.#closed = true
    await Promise.all([...this.#connections.values()].map(connections => connections.close()))
  }

  async destroy (error?: Error): Promise<void> {
    this.#closed = true
    await Promise.all([...this.#connections.values()].map(connections => connections.destroy(error)))
  }

  #open (backend: Backend): BackendConnections {
    const connections = new BackendConnections((backend as Backend & { origin?: string }).origin ?? backend.url.origin, this.options)
    this.#connections.set(backend, connections)
    if (this.#closed) connections.close()
    return connections
  }
}
