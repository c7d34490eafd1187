import { isIP } from 'node:net'
import type { Backend as PublicBackend, BackendPoolStats, Clock, ConnectionPool as Contract, PoolOptions, PoolSettings, PoolStats } from '../../types/index.ts'
import { PoolOptionsSchema } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { isTooLong, LONGEST_SOCKET_PATH } from '../backend-address.ts'
import { systemClock } from '../clock.ts'
import { proxyError } from '../errors.ts'
import { resolveOptions } from '../options.ts'
import { BackendConnections } from './backend-connections.ts'
import type { Connections } from './connections.ts'
import { Connector, type ConnectorOverrides } from './connector.ts'
import type { DispatcherConnections } from './dispatcher-connections.ts'
import { Dispatchers } from './dispatchers.ts'
import { NegotiatedConnections } from './negotiated-connections.ts'
import { tlsOptionsOf, type TlsMaterial } from './tls-material.ts'
import { TlsMaterials, type MaterialListener } from './tls-materials.ts'

/** What serves as the connections to one backend. */
type Served = Connections | DispatcherConnections

/** Who hears of what a pool does by itself. */
export interface PoolListener {
  /** Files with TLS material have changed: new connections use what is new, old ones finish what they have. */
  onTlsRenewed (files: readonly string[]): void
  /** What has changed cannot be used: what was there before still is. */
  onTlsFault (error: Error): void
}

/** What of the pool's options makes connections of its own, and means nothing beside a dispatcher. */
const OWN: readonly (keyof PoolOptions)[] = ['connections', 'connectTimeout', 'idleTimeout', 'keepAliveMargin', 'maxRequestsPerConnection', 'maxConcurrentStreams', 'maxHeaderSize', 'tls', 'socketPath', 'localAddress', 'family', 'autoSelectFamily']

/** Keeps a set of connections for each backend. */
export class ConnectionPool implements Contract, MaterialListener {
  /** What it was made of, without its secrets. */
  readonly options: Readonly<PoolSettings>
  /** Those who hear of what it does by itself. */
  readonly listeners = new Set<PoolListener>()
  readonly #settings: PoolSettings
  readonly #connections = new Map<PublicBackend, Served>()
  readonly #materials: TlsMaterials
  /** `null` where it makes connections of its own. */
  readonly #dispatchers: Dispatchers | null
  readonly #path: string
  readonly #clock: Clock
  #closed = false

  /** Throws `INVALID_OPTIONS`. */
  constructor (options: PoolOptions = {}, path = 'pool', clock: Clock = systemClock) {
    const settings = resolveOptions<PoolSettings>(PoolOptionsSchema, options, path)
    const { tls, dispatcher, socketPath, localAddress } = settings
    if (localAddress !== undefined && isIP(localAddress) === 0) throw proxyError('INVALID_OPTIONS', undefined, `${path}.localAddress must be an IP address, and is '${localAddress}'`)
    if (socketPath !== undefined && isTooLong(socketPath)) throw proxyError('INVALID_OPTIONS', undefined, `${path}.socketPath must be a path of at most ${LONGEST_SOCKET_PATH} bytes, and is '${socketPath}'`)
    if (dispatcher !== undefined) {
      const idle = OWN.find(option => settings[option] !== undefined && settings[option] !== PoolOptionsSchema.properties[option].default)
      if (idle !== undefined) throw proxyError('INVALID_OPTIONS', undefined, `${path}.${idle} must not stand beside ${path}.dispatcher, which connects by its own options`)
    }
    this.#settings = settings
    this.options = Object.freeze({ ...settings, ...(tls === undefined ? {} : { tls: Object.freeze(withoutSecrets(tls)) }) })
    this.#path = path
    this.#clock = clock
    this.#materials = new TlsMaterials(settings, path, clock, this)
    this.#dispatchers = dispatcher === undefined ? null : new Dispatchers(dispatcher, `${path}.dispatcher`)
  }

  dispatcherFor (backend: PublicBackend): Served {
    return this.#connections.get(backend) ?? this.#open(backend as Backend)
  }

  /** Reads what the backend's connections are secured with. Throws `INVALID_OPTIONS`. */
  prepare (backend: PublicBackend): void {
    if (this.#dispatchers === null) this.#materials.of(backend as Backend)
    else {
      const own = connectionOptionOf(backend as Backend)
      if (own !== undefined) throw proxyError('INVALID_OPTIONS', undefined, `${own} of backend '${backend.id}' must not stand beside ${this.#path}.dispatcher, which connects by its own options`)
      this.dispatcherFor(backend)
    }
  }

  /** Makes connections as those for requests to a backend are made, but none of them is kept. Throws `INVALID_OPTIONS`. @param connectTimeout in milliseconds, 0 for none */
  connectorFor (backend: Backend, connectTimeout = this.#settings.connectTimeout, overrides: ConnectorOverrides = {}): Connector {
    return new Connector(backend, { ...this.#settings, connectTimeout }, this.#materials.of(backend), overrides)
  }

  /** Whether it makes no connections itself. */
  get dispatches (): boolean {
    return this.#dispatchers !== null
  }

  /** Whether a backend has to prove who it is, where it can. */
  verifies (backend: Backend): boolean {
    return this.dispatches || backend.servername === null || tlsOptionsOf(backend, this.#settings).rejectUnauthorized !== false
  }

  async release (backend: PublicBackend): Promise<void> {
    const connections = this.#connections.get(backend)
    this.#connections.delete(backend)
    this.#materials.release(backend as Backend)
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
    this.#materials.close()
  }

  async destroy (error?: Error): Promise<void> {
    this.#closed = true
    this.#materials.close()
    await Promise.all([...this.#connections.values()].map(connections => connections.destroy(error ?? null)))
  }

  onTlsRenewed (material: TlsMaterial): void {
    for (const [backend, connections] of this.#connections) {
      if ('renew' in connections && this.#materials.of(backend as Backend) === material) connections.renew()
    }
    for (const listener of this.listeners) listener.onTlsRenewed(material.files)
  }

  onTlsFault (error: Error): void {
    for (const listener of this.listeners) listener.onTlsFault(error)
  }

  #open (backend: Backend): Served {
    const connections = this.#dispatchers?.connectionsOf(backend) ?? this.#connectionsOf(backend)
    this.#connections.set(backend, connections)
    if (this.#closed) connections.close()
    return connections
  }

  #connectionsOf (backend: Backend): Connections {
    const { http2 } = backend
    const connector = this.connectorFor(backend)
    // Without TLS there is nothing to negotiate by.
    if (http2 === true || (http2 === 'auto' && connector.secure)) return new NegotiatedConnections(backend, connector, this.#settings, http2 === true, this.#clock)
    return new BackendConnections(backend.origin, connector, this.#settings)
  }
}

/** An option of a backend's, or of its upstream's, that is about connections; `undefined` where there is none. */
export function connectionOptionOf ({ tls, http2 }: Backend): 'tls' | 'http2' | undefined {
  if (tls !== undefined) return 'tls'
  return http2 === undefined || http2 === false ? undefined : 'http2'
}

function withoutSecrets ({ key, passphrase, ...shown }: NonNullable<PoolOptions['tls']>): NonNullable<PoolOptions['tls']> {
  return { ...shown, ...(key === undefined ? {} : { key: '***' }), ...(passphrase === undefined ? {} : { passphrase: '***' }) }
}
