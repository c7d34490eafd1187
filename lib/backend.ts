import { isIP } from 'node:net'
import { BackendInputSchema, BackendChangesSchema } from '../types/index.ts'
import type * as contracts from '../types/index.ts'
import { proxyError } from './errors.ts'
import { Counters } from './metrics/index.ts'
import { resolveOptions, withoutPassword } from './options.ts'

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
  weight: number
  /** What load balancers go by; the weight, unless something else sets it. */
  effectiveWeight: number
  isActive: boolean
  draining = false
  metadata: Readonly<Record<string, unknown>>
  readonly createdAt: Date
  updatedAt: Date
  readonly counters = new Counters()
  /** The upstream that lists it, or did. */
  owner: object | null = null
  /** Called when the last attempt under way has ended; set while draining. */
  onIdle: (() => void) | null = null
  readonly #url: string

  /** Throws `INVALID_OPTIONS`. */
  constructor (input: contracts.BackendInput, now: number, path = 'backend') {
    const options = resolveOptions<contracts.BackendInput>(BackendInputSchema, input, path)
    const given = typeof options === 'string' ? { url: options } as contracts.BackendOptions : options
    const url = parseUrl(given.url, typeof options === 'string' ? path : `${path}.url`)
    this.id = given.id ?? url.host
    this.origin = url.origin
    this.host = url.host
    this.servername = url.protocol === 'https:' ? url.hostname.replace(/^\[|\]$/g, '') : null
    this.basePath = url.pathname.replace(/\/+$/, '')
    this.weight = given.weight ?? 1
    this.effectiveWeight = this.weight
    this.isActive = given.isActive ?? true
    this.metadata = frozenCopy(given.metadata ?? {})
    this.createdAt = new Date(now)
    this.updatedAt = this.createdAt
    this.#url = url.href
  }

  get url (): URL {
    return new URL(this.#url)
  }

  get inFlight (): number {
    return this.counters.inFlight
  }

  /** Whether it may be chosen for a new request. */
  get available (): boolean {
    return this.isActive && !this.draining && this.weight > 0
  }

  /** Takes over what is given and leaves the rest. Throws `INVALID_OPTIONS`. */
  change (changes: contracts.BackendChanges, now: number): void {
    // Checked as a whole before anything is taken over; defaults would undo what is not given.
    resolveOptions(BackendChangesSchema, changes, 'changes')
    this.weight = changes.weight ?? this.weight
    this.effectiveWeight = this.weight
    this.isActive = changes.isActive ?? this.isActive
    if (changes.metadata !== undefined) this.metadata = frozenCopy(changes.metadata)
    this.updatedAt = new Date(now)
  }

  /** Counts the end of one attempt. */
  settle (result: 'successful' | 'failed' | 'aborted', time: number): void {
    this.counters.end(result, time)
    if (this.onIdle !== null && this.counters.inFlight === 0) this.onIdle()
  }

  toJSON (): contracts.BackendSnapshot {
    return {
      id: this.id,
      url: this.#url,
      weight: this.weight,
      isActive: this.isActive,
      draining: this.draining,
      metadata: { ...this.metadata },
      createdAt: this.createdAt.toISOString(),
      updatedAt: this.updatedAt.toISOString(),
      inFlight: this.inFlight
    }
  }
}

function parseUrl (input: string | URL, path: string): URL {
  const refuse = (problem: string) => proxyError('INVALID_OPTIONS', undefined,
    `${path} must be an http: or https: URL, and is '${withoutPassword(String(input))}'${problem}`)
  const url = URL.canParse(String(input)) ? new URL(String(input)) : null
  if (url === null) throw refuse('')
  if (url.protocol !== 'http:' && url.protocol !== 'https:') throw refuse('')
  if (url.username !== '' || url.password !== '') throw refuse(', which has credentials')
  if (url.search !== '' || url.hash !== '') throw refuse(', which has a query or a fragment')
  if (url.hostname === '' || (url.hostname.startsWith('[') && isIP(url.hostname.slice(1, -1)) !== 6)) throw refuse('')
  return url
}

function frozenCopy (metadata: Record<string, unknown>): Readonly<Record<string, unknown>> {
  return Object.freeze({ ...metadata })
}
