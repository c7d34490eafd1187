import { inspect } from 'node:util'
import type { Dispatcher } from 'undici'
import type { DispatcherFactory } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { proxyError } from '../errors.ts'
import { DispatcherConnections } from './dispatcher-connections.ts'

/** Not every dispatcher can be destroyed: undici's MockAgent cannot. */
async function destroyed (dispatcher: Dispatcher, error: Error | undefined): Promise<void> {
  try {
    await dispatcher.destroy(error ?? null)
  } catch {
    await dispatcher.close()
  }
}

/**
 * The dispatchers of the application's that serve as connections. One that was given stays the application's, which closes it; what a function has
 * made is the pool's to close, once, when the last backend that it serves is let go of.
 */
export class Dispatchers {
  readonly #given: Dispatcher | DispatcherFactory
  readonly #path: string
  /** How many backends each of those serves that a function has made. */
  readonly #users = new Map<Dispatcher, number>()

  constructor (given: Dispatcher | DispatcherFactory, path: string) {
    this.#given = given
    this.#path = path
  }

  /** Throws what the function throws, and `INVALID_OPTIONS` where it makes no dispatcher. */
  connectionsOf (backend: Backend): DispatcherConnections {
    const given = this.#given
    if (typeof given !== 'function') return new DispatcherConnections(given, backend.origin, async () => {})
    const made = given(backend)
    if (typeof (made as Partial<Dispatcher> | undefined)?.dispatch !== 'function') {
      throw proxyError('INVALID_OPTIONS', undefined, `${this.#path} must give a Dispatcher with dispatch() for backend '${backend.id}', and has given ${inspect(made, { depth: 0 })}`)
    }
    this.#users.set(made, (this.#users.get(made) ?? 0) + 1)
    let last: boolean | undefined
    let closed: Promise<void> | undefined
    return new DispatcherConnections(made, backend.origin, async (how, error) => {
      last ??= this.#isLast(made)
      if (!last) return
      if (how === 'destroy' && closed !== undefined) await destroyed(made, error)
      else await (closed ??= how === 'close' ? made.close() : destroyed(made, error))
    })
  }

  #isLast (made: Dispatcher): boolean {
    const left = (this.#users.get(made) ?? 1) - 1
    if (left > 0) this.#users.set(made, left)
    else this.#users.delete(made)
    return left === 0
  }
}
