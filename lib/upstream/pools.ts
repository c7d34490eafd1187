import type { Clock, ConnectionPool, PoolInput, PoolOptions, PoolStats } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import type { DnsCache } from '../dns/index.ts'
import { createPool, prepare, verifies, type PoolListener } from '../pool/index.ts'
import type { Reporter } from './reporter.ts'

/** What pools need beside their options. */
export interface PoolsEnv {
  readonly clock: Clock
  readonly reporter: Reporter
  readonly dns: DnsCache
  /** How backends are asked that do not say so themselves. */
  readonly http2: boolean | 'auto'
}

/** The connection pool of an upstream, and those before it that finish what they have. */
export class Pools implements PoolListener {
  readonly #env: PoolsEnv
  readonly #leaving = new Set<ConnectionPool>()
  #current: ConnectionPool
  /** The last that has not told its numbers. */
  #mute: ConnectionPool | null = null
  #started = false

  /** Throws `INVALID_OPTIONS`, naming `path`. */
  constructor (input: PoolInput | undefined, path: string, env: PoolsEnv) {
    this.#env = env
    this.#current = createPool(input, path, env.clock, this)
  }

  get current (): ConnectionPool {
    return this.#current
  }

  /**
   * What the pool in use tells of itself; `null` where it cannot: one of the application's that throws must not take all else with it
   * that is told. It is logged once of each.
   */
  stats (): PoolStats | null {
    const pool = this.#current
    try {
      const stats = pool.stats() as PoolStats | null | undefined
      if (typeof stats !== 'object' || stats === null) throw new TypeError('stats() of the connection pool must give an object')
      return stats
    } catch (error) {
      if (this.#mute !== pool) this.#env.reporter.warn(error, 'the connection pool does not tell its numbers')
      this.#mute = pool
      return null
    }
  }

  /** Of the only addresses that connections are made to, if the pool says so. */
  get family (): 4 | 6 | undefined {
    return (this.#current as ConnectionPool & { options?: PoolOptions }).options?.family
  }

  /** Gives a backend all that its connections need. Throws `INVALID_OPTIONS` where it cannot be asked so. */
  equip (backend: Backend): void {
    backend.http2 ??= this.#env.http2
    this.#resolve(backend)
    prepare(this.#current, backend)
  }

  /** From now on it is said where nobody asks backends who they are. */
  start (backends: readonly Backend[]): void {
    this.#started = true
    for (const backend of backends) this.warnOfTrust(backend)
  }

  /** Puts another pool in the place of the one in use. Throws `INVALID_OPTIONS` where one of the backends cannot be asked by it. */
  replace (input: PoolInput, backends: readonly Backend[]): void {
    const pool = createPool(input, 'pool', this.#env.clock, this)
    const old = this.#current
    if (pool === old) return
    try {
      for (const backend of backends) prepare(pool, backend)
    } catch (error) {
      if (pool !== input) pool.close().catch(() => {})
      throw error
    }
    this.#current = pool
    this.#leaving.add(old)
    old.close().catch(() => {}).finally(() => this.#leaving.delete(old))
    for (const backend of backends) this.warnOfTrust(backend)
  }

  /** Closes the connections to a backend that has gone. */
  async release (backend: Backend): Promise<void> {
    await this.#current.release?.(backend)
  }

  /** Closes every connection at once, those too of pools that are no longer used. */
  async destroy (): Promise<void> {
    await Promise.all([this.#current, ...this.#leaving].map(pool => pool.destroy?.() ?? pool.close()))
  }

  /** Says so where nobody asks a backend who it is. */
  warnOfTrust (backend: Backend): void {
    if (!this.#started || verifies(this.#current, backend)) return
    this.#env.reporter.log('warn', { backend: backend.id }, 'the certificate of a backend is not verified (tls.rejectUnauthorized: false): anybody on the way can read and change what is sent')
  }

  onTlsRenewed (files: readonly string[]): void {
    this.#env.reporter.log('info', { files }, 'TLS material has changed and is used for new connections')
  }

  onTlsFault (error: Error): void {
    this.#env.reporter.warn(error, 'TLS material has changed and cannot be used: that from before still is')
  }

  /** Has the backend's name resolved through the cache. */
  #resolve (backend: Backend): void {
    const { dns } = this.#env
    if (!dns.enabled || backend.address !== undefined || backend.socketPath !== undefined) return
    const { hostname } = backend.url
    backend.lookup = dns.lookup
    backend.connectFailed = address => dns.connectFailed(hostname, address)
  }
}
