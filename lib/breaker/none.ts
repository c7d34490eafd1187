import type { Backend, Circuit, CircuitBreaker, CircuitEnv, CircuitState } from '../../types/index.ts'
import { proxyError } from '../errors.ts'

/** Lets everything pass. */
export const alwaysClosed: Circuit = Object.freeze({
  state: 'closed' as CircuitState,
  retryAfter: 0,
  acquire: () => 0,
  settle: () => {},
  open: () => {},
  close: () => {}
})

/** The breaker where none is wanted: it knows the backends, and that is all. */
export class NoBreaker implements CircuitBreaker {
  readonly type = 'none'
  readonly #ids = new Set<string>()
  #upstream = 'default'

  createCircuit ({ id }: Backend, { upstream }: CircuitEnv): Circuit {
    this.#upstream = upstream
    this.#ids.add(id)
    return alwaysClosed
  }

  removeCircuit ({ id }: Backend): void {
    this.#ids.delete(id)
  }

  getState (backendId: string): CircuitState {
    if (!this.#ids.has(backendId)) throw proxyError('UNKNOWN_BACKEND', undefined, backendId, this.#upstream)
    return 'closed'
  }

  reset (backendId: string): void {
    this.getState(backendId)
  }
}
