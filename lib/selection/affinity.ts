import { createHmac, timingSafeEqual } from 'node:crypto'
import type { AffinityOptions, Clock, SelectContext } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { cookieOf } from './cookie.ts'
import type { Subset } from './subset.ts'

/** Bytes of the name that a backend goes by in cookies, and of a signature. */
const TAG = 12
const SIGNATURE = 18
/** Characters of both in base64url, and the dots between them and what stands between those. */
const PATTERN = /^([\w-]{16})\.([0-9a-z]*)\.([\w-]{24})$/

/** What a client's cookie says. */
export interface Kept {
  readonly backend: Backend
  /** Whether the cookie is to be written anew: it is old, or was signed with a key that goes out of use. */
  readonly renew: boolean
}

/**
 * Cookies by which clients stay with a backend: `tag.expiry.signature`. The tag is a keyed hash of the backend's id, which tells
 * nothing to those who have not the key; the signature covers the upstream, the tag and the expiry.
 */
export class Affinity {
  readonly onUnavailable: 'rebalance' | 'fail'
  readonly #upstream: string
  readonly #keys: readonly string[]
  readonly #options: AffinityOptions
  readonly #clock: Clock
  readonly #maxAge: number
  /** By each key's tags. */
  #backends = new Map<string, Backend>()
  /** One for each key; the first signs. */
  readonly #tags = new WeakMap<Backend, readonly string[]>()

  constructor (options: AffinityOptions, upstream: string, clock: Clock) {
    this.onUnavailable = options.onUnavailable ?? 'rebalance'
    this.#options = options
    this.#upstream = upstream
    this.#clock = clock
    this.#keys = typeof options.secret === 'string' ? [options.secret] : options.secret
    this.#maxAge = options.maxAge ?? 0
  }

  rebuild (backends: readonly Backend[]): void {
    const known = new Map<string, Backend>()
    for (const backend of backends) this.#tagsOf(backend).forEach((tag, i) => known.set(`${i}${tag}`, backend))
    this.#backends = known
  }

  /** The backend that a request's cookie names; `undefined` for none, a forged or an expired one, and for one that has gone. */
  find (context: SelectContext, subset: Subset | null = null): Kept | undefined {
    const value = cookieOf(context, this.#nameFor(subset))
    const parts = value === undefined ? null : PATTERN.exec(value)
    if (parts === null) return undefined
    const [, tag, expiry, signature] = parts
    const signer = this.#keys.findIndex(key => isSame(signature, this.#sign(key, tag, expiry)))
    if (signer === -1) return undefined
    const left = expiry === '' ? Infinity : Number.parseInt(expiry, 36) - this.#clock.wall()
    const backend = this.#backends.get(`${signer}${tag}`)
    if (!(left > 0) || backend === undefined) return undefined
    // One with an end where there is none any more, or the other way round, is of older settings.
    const outdated = (expiry === '') !== (this.#maxAge === 0)
    return { backend, renew: signer > 0 || outdated || (this.#maxAge > 0 && left < this.#maxAge / 2) }
  }

  /** A `Set-Cookie` that keeps a client with a backend. */
  cookieFor (backend: Backend, context: SelectContext, subset: Subset | null = null): string {
    const { path, domain, secure, httpOnly, sameSite } = this.#options
    const expiry = this.#maxAge === 0 ? '' : Math.ceil(this.#clock.wall() + this.#maxAge).toString(36)
    const [tag] = this.#tagsOf(backend)
    let text = `${this.#nameFor(subset)}=${tag}.${expiry}.${this.#sign(this.#keys[0], tag, expiry)}; Path=${path}`
    if (domain !== undefined) text += `; Domain=${domain}`
    if (this.#maxAge > 0) text += `; Max-Age=${Math.ceil(this.#maxAge / 1000)}`
    if (httpOnly === true) text += '; HttpOnly'
    if (secure === 'auto' ? context.request?.protocol === 'https' : secure) text += '; Secure'
    return `${text}; SameSite=${{ strict: 'Strict', lax: 'Lax', none: 'None' }[sameSite as 'strict' | 'lax' | 'none']}`
  }

  /** Clients stay in each subset apart: what they have in one must not be lost by asking for another. */
  #nameFor (subset: Subset | null): string {
    return subset === null ? this.#options.cookie as string : `${this.#options.cookie}-${subset.tag}`
  }

  #tagsOf (backend: Backend): readonly string[] {
    let tags = this.#tags.get(backend)
    if (tags === undefined) {
      tags = this.#keys.map(key => this.#digest(key, `backend ${this.#upstream}\n${backend.id}`, TAG))
      this.#tags.set(backend, tags)
    }
    return tags
  }

  #sign (key: string, tag: string, expiry: string): string {
    return this.#digest(key, `cookie ${this.#upstream}\n${tag}\n${expiry}`, SIGNATURE)
  }

  #digest (key: string, text: string, length: number): string {
    return createHmac('sha256', key).update(text).digest().toString('base64url', 0, length)
  }
}

function isSame (given: string, expected: string): boolean {
  return timingSafeEqual(Buffer.from(given, 'latin1'), Buffer.from(expected, 'latin1'))
}
