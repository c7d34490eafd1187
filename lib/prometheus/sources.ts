import type { BackendPoolStats, TunnelMetrics } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import type { DnsCache } from '../dns/index.ts'
import { backendStatsOf } from '../pool/index.ts'
import type { ProxyManager } from '../proxy-manager.ts'
import type { Upstream } from '../upstream.ts'
import { labelsText, type Labels } from './labels.ts'

/** What the series of one upstream are read from. */
export interface UpstreamSource {
  readonly labels: Labels
  /** The same as text. */
  readonly text: string
  readonly state: Upstream
  readonly tunnels: TunnelMetrics
  /** `null` where it is another upstream's, or off: each cache is told of once. */
  readonly dns: DnsCache | null
  readonly backends: readonly BackendSource[]
  /** Those of them that are told of, and those whose durations are. */
  readonly told: readonly BackendSource[]
  readonly timed: readonly BackendSource[]
}

/** What the series of one backend are read from. */
export interface BackendSource {
  readonly labels: Labels
  readonly text: string
  readonly backend: Backend
  /** `null` where the pool does not say. */
  readonly connections: BackendPoolStats | null
}

/** How much is told of backends: all, only numbers, or nothing. */
export type PerBackend = boolean | 'numbers'

const NONE: readonly BackendSource[] = Object.freeze([])

/** One registration, as it is told of. */
export class Collector {
  readonly labels: Labels
  readonly #proxy: ProxyManager
  readonly #perBackend: PerBackend

  /** @param labels that all series have beside their own */
  constructor (proxy: ProxyManager, labels: Labels = {}, perBackend: PerBackend = true) {
    this.#proxy = proxy
    this.labels = labels
    this.#perBackend = perBackend
  }

  /** Whether the series of another are those of this one. */
  isLike (other: Collector): boolean {
    return this.#proxy === other.#proxy && this.#perBackend === other.#perBackend
  }

  /** All that there is at this moment, the default upstream first. */
  sources (): UpstreamSource[] {
    const told = new Set<DnsCache>()
    return this.#proxy.listUpstreams().map(({ state }) => {
      const dns = state.dns.enabled && !told.has(state.dns) ? state.dns : null
      told.add(state.dns)
      return this.#sourceOf(state, dns)
    })
  }

  #sourceOf (state: Upstream, dns: DnsCache | null): UpstreamSource {
    const labels = { ...this.labels, upstream: state.name }
    const text = labelsText(labels)
    const stats = state.poolStats()
    // While one finishes what it has, another may have its id: it is that one's by now.
    const byId = new Map(state.list().map(backend => [backend.id, backend]))
    const backends = [...byId.values()].map(backend => ({
      labels: { ...labels, backend: backend.id },
      text: `${text},${labelsText({ backend: backend.id })}`,
      backend,
      connections: backendStatsOf(stats, backend.id)
    }))
    return { labels, text, state, tunnels: state.tunnels.metrics(), dns, backends, told: this.#perBackend === false ? NONE : backends, timed: this.#perBackend === true ? backends : NONE }
  }
}
