import { setImmediate } from 'node:timers/promises'
import type { MetricsRegistry } from '../../types/index.ts'
import { proxyError } from '../errors.ts'
import { BACKEND_FAMILIES } from './backend-families.ts'
import { bucketsOf, LE } from './buckets.ts'
import type { Family } from './family.ts'
import type { Labels } from './labels.ts'
import type { BackendSource, Collector, UpstreamSource } from './sources.ts'
import { UPSTREAM_FAMILIES } from './upstream-families.ts'

/** Backends from which on a registry's metrics are told one at a time. */
const MANY = 50

/** A number, as registries of prom-client take it. */
interface Value {
  metricName?: string
  labels: Labels
  /** Those that many series have in common: written once. */
  sharedLabels?: Labels
  value: number
}

/** What is collected for a registry, once for all metrics that it asks for together. */
class Collected {
  /** How many want the series of each. */
  readonly #collectors = new Map<Collector, number>()
  upstreams: UpstreamSource[] = []
  told: BackendSource[] = []
  timed: BackendSource[] = []
  /** How many metrics are still to be read from what is collected. */
  #asked = 0
  #last: Promise<unknown> = Promise.resolve()

  get collectors (): Collector[] {
    return [...this.#collectors.keys()]
  }

  add (collector: Collector): void {
    this.#collectors.set(collector, (this.#collectors.get(collector) ?? 0) + 1)
  }

  remove (collector: Collector): void {
    const left = (this.#collectors.get(collector) ?? 0) - 1
    if (left > 0) this.#collectors.set(collector, left)
    else this.#collectors.delete(collector)
  }

  /** Reads one metric; of many backends, only after what else has to be done meanwhile. @param first whether a registry asks for it before all others */
  async read<Result> (read: () => Result, first: boolean): Promise<Result> {
    if (this.#asked++ === 0 || first) this.#collect()
    try {
      if (this.told.length >= MANY) await this.#turn()
      return read()
    } finally {
      if (--this.#asked === 0) this.upstreams = this.told = this.timed = []
    }
  }

  /** One after the other, each in a turn of the event loop of its own. */
  #turn (): Promise<unknown> {
    this.#last = this.#last.then(() => setImmediate())
    return this.#last
  }

  #collect (): void {
    this.upstreams = this.collectors.flatMap(collector => collector.sources())
    this.told = this.upstreams.flatMap(({ told }) => told)
    this.timed = this.upstreams.flatMap(({ timed }) => timed)
  }
}

/** One metric of a registry: what prom-client asks of its own, read when it is asked. */
class RegistryMetric<Source extends { readonly labels: Labels }> {
  /** Registries that write OpenMetrics shorten it. */
  name: string
  readonly help: string
  readonly type: 'counter' | 'gauge' | 'histogram'
  /** What is done with those of several processes (prom-client's `AggregatorRegistry`). */
  readonly aggregator: 'sum' | 'average'
  readonly #family: Family<Source>
  readonly #collected: Collected
  readonly #sources: () => readonly Source[]

  constructor (family: Family<Source>, collected: Collected, sources: () => readonly Source[]) {
    this.name = family.name
    this.help = family.help
    this.type = family.type
    this.aggregator = family.type === 'gauge' ? family.aggregator ?? 'sum' : 'sum'
    this.#family = family
    this.#collected = collected
    this.#sources = sources
  }

  /** For text. */
  async getForPromString (): Promise<object> {
    return this.#told(await this.#values())
  }

  /** For JSON, which knows nothing of shared labels. */
  async get (): Promise<object> {
    const values = await this.#values()
    return this.#told(values.map(({ sharedLabels, labels, ...rest }) => ({ ...rest, labels: { ...sharedLabels, ...labels } })))
  }

  /** What is counted is not the registry's: `app.proxy.resetMetrics()` resets it. */
  reset (): void {}

  #values (): Promise<Value[]> {
    return this.#collected.read(() => valuesOf(this.#family, this.#sources()), this.#family.name === UPSTREAM_FAMILIES[0].name)
  }

  #told (values: object[]): object {
    const { name, help, type, aggregator } = this
    return { name, help, type, aggregator, values }
  }
}

const NONE: Labels = Object.freeze({})

function valuesOf<Source extends { readonly labels: Labels }> (family: Family<Source>, sources: readonly Source[]): Value[] {
  const values: Value[] = []
  if (family.type === 'histogram') {
    const name = `${family.name}_bucket`
    for (const source of sources) {
      const sharedLabels = source.labels
      const { counts, sum } = bucketsOf(family.histogramOf(source))
      for (let i = 0; i < LE.length; i++) values.push({ metricName: name, labels: { le: LE[i] }, sharedLabels, value: counts[i] })
      values.push({ metricName: `${family.name}_sum`, labels: NONE, sharedLabels, value: sum })
      values.push({ metricName: `${family.name}_count`, labels: NONE, sharedLabels, value: counts[LE.length - 1] })
    }
    return values
  }
  const { label } = family
  for (const source of sources) {
    const sharedLabels = source.labels
    family.read(source, (value, of) => values.push({ labels: label === undefined || of === undefined ? NONE : { [label]: of }, sharedLabels, value }))
  }
  return values
}

/** What is collected for each registry: several registrations share its metrics. */
const collected = new WeakMap<MetricsRegistry, Collected>()

/**
 * Has a registry of prom-client tell of a registration, until the function that is returned is called. Throws `INVALID_OPTIONS` where it has
 * metrics of these names that are another's, or another registration tells of itself with the same labels.
 */
export function collectInto (registry: MetricsRegistry, collector: Collector, path = 'registry'): () => void {
  const all = collected.get(registry) ?? fill(registry, path)
  const same = all.collectors.find(({ labels }) => isSame(labels, collector.labels))
  if (same !== undefined && !same.isLike(collector)) {
    throw proxyError('INVALID_OPTIONS', undefined, `${path} must not have the metrics of another registration with the same labels: give each labels of its own`)
  }
  all.add(same ?? collector)
  return () => {
    all.remove(same ?? collector)
    if (all.collectors.length === 0) empty(registry)
  }
}

function fill (registry: MetricsRegistry, path: string): Collected {
  const all = new Collected()
  const metrics = [
    ...UPSTREAM_FAMILIES.map(family => new RegistryMetric(family, all, () => all.upstreams)),
    ...BACKEND_FAMILIES.map(family => new RegistryMetric(family, all, () => family.type === 'histogram' ? all.timed : all.told))
  ]
  const taken = metrics.find(({ name }) => registry.getSingleMetric(name) !== undefined)
  if (taken !== undefined) throw proxyError('INVALID_OPTIONS', undefined, `${path} has a metric already that is named '${taken.name}'`)
  for (const metric of metrics) registry.registerMetric(metric as never)
  collected.set(registry, all)
  return all
}

function empty (registry: MetricsRegistry): void {
  for (const { name } of [...UPSTREAM_FAMILIES, ...BACKEND_FAMILIES]) registry.removeSingleMetric(name)
  collected.delete(registry)
}

function isSame (one: Labels, other: Labels): boolean {
  const names = Object.keys(one)
  return names.length === Object.keys(other).length && names.every(name => one[name] === other[name])
}
