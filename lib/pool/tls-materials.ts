import type { Clock, PoolSettings } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { TlsMaterial, tlsOptionsOf } from './tls-material.ts'

/** Who hears of TLS material that changes. */
export interface MaterialListener {
  /** Connections of the backends that use it are to be made anew. */
  onTlsRenewed (material: TlsMaterial): void
  /** A file that has changed cannot be used: what was there before still is. */
  onTlsFault (error: Error): void
}

/** The TLS material of a pool: one for all backends that say nothing of it, and one for each that does. */
export class TlsMaterials {
  readonly #settings: PoolSettings
  readonly #path: string
  readonly #clock: Clock
  readonly #listener: MaterialListener
  #shared: TlsMaterial | null = null
  readonly #own = new Map<Backend, TlsMaterial>()

  /** Throws `INVALID_OPTIONS`: what the pool says is read at once. */
  constructor (settings: PoolSettings, path: string, clock: Clock, listener: MaterialListener) {
    this.#settings = settings
    this.#path = path
    this.#clock = clock
    this.#listener = listener
    if (settings.tls !== undefined) this.#shared = this.#watched(new TlsMaterial(settings.tls, `${path}.tls`))
  }

  /** What secures the connections to a backend; `null` without TLS. Throws `INVALID_OPTIONS`. */
  of (backend: Backend): TlsMaterial | null {
    if (backend.servername === null || backend.servername === undefined) return null
    if (backend.tls === undefined) return (this.#shared ??= new TlsMaterial({}, `${this.#path}.tls`))
    let own = this.#own.get(backend)
    if (own === undefined) {
      own = this.#watched(new TlsMaterial(tlsOptionsOf(backend, this.#settings), `tls of backend '${backend.id}'`))
      this.#own.set(backend, own)
    }
    return own
  }

  release (backend: Backend): void {
    this.#own.get(backend)?.close()
    this.#own.delete(backend)
  }

  close (): void {
    this.#shared?.close()
    for (const own of this.#own.values()) own.close()
  }

  #watched (material: TlsMaterial): TlsMaterial {
    material.watch(this.#clock, () => this.#listener.onTlsRenewed(material), error => this.#listener.onTlsFault(error))
    return material
  }
}
