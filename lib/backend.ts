import type { LookupFunction } from 'node:net'
import { BackendInputSchema, BackendChangesSchema } from '../types/index.ts'
import type * as contracts from '../types/index.ts'
import type { Concurrency } from './admission/index.ts'
import { addressOf } from './backend-address.ts'
import { alwaysClosed } from './breaker/none.ts'
import type { HealthState, OutlierRecord } from './health/index.ts'
import { Counters } from './metrics/index.ts'
import type { Observed } from './weights/index.ts'
import { resolveOptions } from './options.ts'

/** Part of a weight below which a change of it is not worth building anything anew. */
const NOTICEABLE = 0.005

/** One address and all of its live state. The object lives as long as the backend is listed. */
export class Backend implements contracts.Backend {
  readonly id: string
  /** Scheme, host and port, as undici takes them. */
  readonly origin: string
  /** The URL's path without its last slash; empty when there is none. */
  readonly basePath: string
  /** The name that the backend's certificate must bear; `null` without TLS. Never one that a client has chosen. */
  readonly servername: string | null
  /** What `Host` says when the client's is not preserved. */
  readonly host: string
  /** Path of the Unix socket that it listens on; `undefined` for TCP. */
  readonly socketPath: string | undefined
  /** Where connections go instead of to the host of the URL. */
  readonly address: string | undefined
  /** Resolves the host of the URL; `undefined` where Node does. Set by its upstream. */
  lookup: LookupFunction | undefined = undefined
  /** Hears where a connection could not be made: names may lead elsewhere by now. */
  connectFailed: ((address?: string) => void) | undefined = undefined
  /** Whether it is asked by HTTP/2; until an upstream lists it, `undefined` where its own options do not say. */
  http2: boolean | 'auto' | undefined
  weight: number
  /** What load balancers go by: the weight times the factors below. */
  effectiveWeight: number
  /** Of `weights` and of slow start. */
  weightFactor = 1
  rampFactor = 1
  priority: number
  zone: string | undefined
  isActive: boolean
  /** What active health checks say. */
  healthy = true
  health: HealthState | null = null
  /** Whether it is taken for unhealthy only because it has not been checked yet. */
  awaitsCheck = false
  /** What outlier detection says. */
  ejected = false
  outlier: OutlierRecord | null = null
  circuit: contracts.Circuit = alwaysClosed
  /** How many attempts it may have; `null` without limits. */
  concurrency: Concurrency | null = null
  /** Since when it has been available, or not. */
  healthSince: Date
  /** What is otherwise than its upstream says of checks. */
  healthCheck: contracts.HealthCheckOverrides | undefined
  draining = false
  metadata: Readonly<Record<string, unknown>>
  readonly createdAt: Date
  updatedAt: Date
  /** How often its options have changed. */
  revision = 0
  /** When its drain ends at the latest, by the clock of its upstream; `null` while there is none. */
  drainsUntil: number | null = null
  readonly counters = new Counters()
  /** Heads and pieces of content that have come from it: whether it does anything at all. */
  heard = 0
  /** How often it was chosen, by reason. */
  readonly chosen: Record<contracts.Because, number> = { balancer: 0, affinity: 0, priority: 0, zone: 0, fallback: 0, panic: 0 }
  /** What weights may be worked out from; `null` where they are not. */
  observed: Observed | null = null
  /** The upstream that lists it, or did. */
  owner: object | null = null
  /** Called when the last attempt under way has ended; set while draining. */
  onIdle: (() => void) | null = null
  #wasAvailable = true
  readonly #url: string
  readonly #tls: contracts.TlsOptions | undefined

  /** Throws `INVALID_OPTIONS`. @param found what discovery says of it beside its options */
  constructor (input: contracts.BackendInput, now: number, path = 'backend', found?: { id: string, address: string | undefined }) {
    const options = resolveOptions<contracts.BackendInput>(BackendInputSchema, input, path)
    const given = typeof options === 'string' ? { url: options } as contracts.BackendOptions : options
    const address = addressOf(given.url, typeof options === 'string' ? path : `${path}.url`)
    this.id = found?.id ?? given.id ?? address.id
    this.address = found?.address
    this.origin = address.origin
    this.host = address.host
    this.servername = address.servername
    this.basePath = address.basePath
    this.socketPath = address.socketPath
    this.http2 = given.http2
    this.weight = given.weight ?? 1
    this.effectiveWeight = this.weight
    this.priority = given.priority ?? (given.backup === true ? 1 : 0)
    this.zone = given.zone
    this.isActive = given.isActive ?? true
    this.metadata = frozenCopy(given.metadata ?? {})
    this.createdAt = new Date(now)
    this.updatedAt = this.createdAt
    this.healthSince = this.createdAt
    this.healthCheck = given.healthCheck === undefined ? undefined : { ...given.healthCheck }
    this.#url = address.href
    this.#tls = given.tls === undefined ? undefined : Object.freeze({ ...given.tls })
  }

  get url (): URL {
    return new URL(this.#url)
  }

  /** How its connections are secured where that is otherwise than its pool says. Holds a key: for connecting only. */
  get tls (): contracts.TlsOptions | undefined {
    return this.#tls
  }

  get inFlight (): number {
    return this.counters.inFlight
  }

  get limit (): number {
    return this.concurrency?.limit ?? Infinity
  }

  /** Whether it would take requests if it were well. */
  get enlisted (): boolean {
    return this.isActive && !this.draining && this.weight > 0
  }

  get circuitState (): contracts.CircuitState {
    return this.circuit.state
  }

  /** Whether it may be chosen when nobody asks for its health. */
  get usable (): boolean {
    return this.enlisted && this.circuit.state !== 'open'
  }

  /** Whether it may be chosen for a new request. */
  get available (): boolean {
    return this.usable && this.healthy && !this.ejected
  }

  /** What speaks against choosing it. */
  get obstacles (): contracts.Unavailable[] {
    const obstacles: contracts.Unavailable[] = []
    if (!this.isActive) obstacles.push('inactive')
    if (this.draining) obstacles.push('draining')
    if (this.weight === 0) obstacles.push('weight 0')
    if (!this.healthy) obstacles.push('unhealthy')
    if (this.ejected) obstacles.push('ejected')
    if (this.circuit.state === 'open') obstacles.push('circuit open')
    return obstacles
  }

  /** Takes over what is given and leaves the rest. Throws `INVALID_OPTIONS`. @param approve throws where it cannot be checked so */
  change (changes: contracts.BackendChanges, now: number, approve?: (healthCheck: contracts.HealthCheckOverrides) => void): void {
    // Checked as a whole before anything is taken over; defaults would undo what is not given.
    resolveOptions(BackendChangesSchema, changes, 'changes')
    if (changes.healthCheck !== undefined) approve?.(changes.healthCheck)
    this.weight = changes.weight ?? this.weight
    this.priority = changes.priority ?? (changes.backup === undefined ? this.priority : changes.backup ? 1 : 0)
    if (changes.zone !== undefined) this.zone = changes.zone ?? undefined
    this.isActive = changes.isActive ?? this.isActive
    if (changes.healthCheck !== undefined) this.healthCheck = { ...changes.healthCheck }
    if (changes.metadata !== undefined) this.metadata = frozenCopy(changes.metadata)
    this.revise(now)
  }

  /** Notes that its options are no longer what they were. */
  revise (now: number): void {
    this.updatedAt = new Date(now)
    this.revision++
  }

  /** Whether a URL is its own. */
  isAt (url: string | URL): boolean {
    return URL.canParse(String(url)) && new URL(String(url)).href === this.#url
  }

  /** Notes since when it has been available, or not. */
  noteAvailability (now: number): void {
    if (this.available === this.#wasAvailable) return
    this.#wasAvailable = this.available
    this.healthSince = new Date(now)
  }

  /** Joins the weight and its factors; true when that has changed by as much as anybody would notice. */
  reweigh (): boolean {
    const joined = this.weight * this.weightFactor * this.rampFactor
    const changed = Math.abs(joined - this.effectiveWeight) > (joined === this.weight ? 0 : this.effectiveWeight * NOTICEABLE)
    if (changed) this.effectiveWeight = joined
    return changed
  }

  /** Counts the end of one attempt. */
  settle (result: contracts.AttemptResult, time: number): void {
    this.counters.end(result, time)
    if (this.onIdle !== null && this.counters.inFlight === 0) this.onIdle()
  }

  /** Sets all counters to zero, except those of attempts under way. */
  reset (): void {
    this.counters.reset()
    for (const because in this.chosen) this.chosen[because as contracts.Because] = 0
  }

  toJSON (): contracts.BackendSnapshot {
    return {
      id: this.id,
      url: this.#url,
      ...(this.address === undefined ? {} : { address: this.address }),
      weight: this.weight,
      effectiveWeight: this.effectiveWeight,
      priority: this.priority,
      ...(this.zone === undefined ? {} : { zone: this.zone }),
      isActive: this.isActive,
      available: this.available,
      healthy: this.healthy,
      ejected: this.ejected,
      circuitState: this.circuit.state,
      draining: this.draining,
      metadata: { ...this.metadata },
      createdAt: this.createdAt.toISOString(),
      updatedAt: this.updatedAt.toISOString(),
      inFlight: this.inFlight,
      ...(this.limit === Infinity ? {} : { limit: this.limit })
    }
  }
}

function frozenCopy (metadata: Record<string, unknown>): Readonly<Record<string, unknown>> {
  return Object.freeze({ ...metadata })
}
