import { Resolver } from 'node:dns/promises'
import { isDeepStrictEqual } from 'node:util'
import type { Clock, DnsOptions } from '../../types/index.ts'
import { proxyError } from '../errors.ts'
import { codeOf, GONE } from './resolve-error.ts'

const CANCELLED = 'ECANCELLED'
/** Milliseconds between two looks at which servers the system has, at the least. */
const REREAD = 1_000

/** What the client does not do by itself; tests have others. */
export interface DnsClientEnv {
  readonly clock: Clock
  /** The system's DNS servers as of now. */
  readonly systemServers?: () => string[]
}

/**
 * Asks DNS servers: those of an option, or those of the system. Node reads these but once, so that a machine that has moved to another network would ask
 * servers that are gone for as long as the process lives: they are read again after failures.
 */
export class DnsClient {
  readonly #options: DnsOptions
  readonly #env: DnsClientEnv
  #resolver: Resolver
  /** How many questions are out, at the servers of now and at those before them. */
  readonly #out = new Map<Resolver, number>()
  #readAt: number
  #closed = false

  /** Throws `INVALID_OPTIONS`, naming `path`. */
  constructor (options: DnsOptions, env: DnsClientEnv, path: string) {
    this.#options = options
    this.#env = env
    this.#readAt = env.clock.now()
    try {
      this.#resolver = this.#open()
    } catch (error) {
      const { servers } = options
      if (servers === undefined) throw error
      throw proxyError('INVALID_OPTIONS', undefined, `${path}.servers must be IP addresses, perhaps with a port, and is [${servers.map(server => `'${server}'`).join(', ')}]`)
    }
  }

  get closed (): boolean {
    return this.#closed
  }

  /** Puts a question to the servers; once more, where it fails and the system has others by now. */
  async ask<Result> (question: (resolver: Resolver) => Promise<Result>): Promise<Result> {
    if (this.#closed) throw Object.assign(new Error('nobody wants to know any more'), { code: CANCELLED })
    const resolver = this.#resolver
    try {
      return await this.#put(resolver, question)
    } catch (error) {
      if (this.#closed || GONE.has(codeOf(error))) throw error
      this.#reread()
      // Another question may have failed, and found the new servers, before this one did.
      if (this.#resolver === resolver) throw error
      return await this.#put(this.#resolver, question)
    }
  }

  /** Gives up all questions that are out. */
  close (): void {
    this.#closed = true
    for (const resolver of this.#out.keys()) resolver.cancel()
  }

  async #put<Result> (resolver: Resolver, question: (resolver: Resolver) => Promise<Result>): Promise<Result> {
    this.#out.set(resolver, (this.#out.get(resolver) ?? 0) + 1)
    try {
      return await question(resolver)
    } finally {
      const left = this.#out.get(resolver) as number - 1
      if (left === 0) this.#out.delete(resolver)
      else this.#out.set(resolver, left)
    }
  }

  /** Looks whether the system has other servers now. */
  #reread (): void {
    const now = this.#env.clock.now()
    if (this.#options.servers !== undefined || now - this.#readAt < REREAD) return
    this.#readAt = now
    try {
      const next = this.#open()
      if (!isDeepStrictEqual(next.getServers(), this.#resolver.getServers())) this.#resolver = next
    } catch {
      // A file that is just being written, or may not be read: those known stay.
    }
  }

  /** A resolver as things are now: servers cannot be changed while questions are out. */
  #open (): Resolver {
    const { timeout, tries, servers = this.#env.systemServers?.() } = this.#options
    const resolver = new Resolver({ timeout, tries })
    if (servers !== undefined) resolver.setServers(servers)
    return resolver
  }
}
