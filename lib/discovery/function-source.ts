import { inspect } from 'node:util'
import type { Discovered, DiscoverFunction } from '../../types/index.ts'
import { proxyError } from '../errors.ts'
import { saidOf, type Said } from './said.ts'
import type { Findings, Source } from './source.ts'

/** Backends that a function of the user's own lists. */
export class FunctionSource implements Source {
  readonly name = 'function'
  readonly #discover: DiscoverFunction

  constructor (discover: DiscoverFunction) {
    this.#discover = discover
  }

  /** Rejects with `INVALID_OPTIONS` or `DUPLICATE_BACKEND` where what it lists is none. */
  async find (signal: AbortSignal): Promise<Findings> {
    const found = await this.#discover(signal)
    const { backends, ttl } = (Array.isArray(found) ? { backends: found } : found ?? {}) as Partial<Discovered>
    if (!Array.isArray(backends)) throw proxyError('INVALID_OPTIONS', undefined, `discovery must give an array of backends or an object { backends, ttl }, and has given ${inspect(found, { depth: 0 })}`)
    if (ttl !== undefined && !(typeof ttl === 'number' && ttl > 0)) throw proxyError('INVALID_OPTIONS', undefined, `discovery must give a ttl of milliseconds above 0, and has given ${inspect(ttl, { depth: 0 })}`)
    const known = new Map<string, Said>()
    backends.forEach((backend, i) => {
      const said = saidOf(backend, `discovery[${i}]`)
      if (known.has(said.id)) throw proxyError('INVALID_OPTIONS', undefined, `discovery must give each backend an id of its own, and '${said.id}' is there twice`)
      known.set(said.id, said)
    })
    return { backends: [...known.values()], ttl }
  }
}
