import type { BalancerEnv, Circuit, CircuitBreaker, CircuitState } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import type { Selection, Subset } from '../selection/index.ts'
import type { Reporter } from './reporter.ts'

/** What circuits need beside their breaker. */
export interface CircuitsEnv extends BalancerEnv {
  /** Name of the upstream. */
  readonly upstream: string
  readonly reporter: Reporter
  /** Called when a circuit has changed. */
  readonly changed: () => void
}

/** The circuits of an upstream's backends, and the breaker that makes them. */
export class Circuits {
  readonly #env: CircuitsEnv
  #breaker: CircuitBreaker
  /** While one breaker takes the place of another, circuits change without anything having happened. */
  #replacing = false

  constructor (breaker: CircuitBreaker, env: CircuitsEnv) {
    this.#breaker = breaker
    this.#env = env
  }

  get breaker (): CircuitBreaker {
    return this.#breaker
  }

  /** Gives a backend its circuit. */
  add (backend: Backend): void {
    backend.circuit = this.#make(backend, this.#breaker)
  }

  /** Its circuit judges a backend no more. */
  remove (backend: Backend): void {
    this.#breaker.removeCircuit?.(backend)
  }

  /** Gives backends circuits of another breaker. Those that are open stay so. */
  replace (breaker: CircuitBreaker, backends: readonly Backend[]): void {
    if (breaker === this.#breaker) return
    const circuits = backends.map(backend => this.#make(backend, breaker))
    const before = backends.map(({ circuit: { state, retryAfter } }) => ({ state, retryAfter }))
    this.#replacing = true
    backends.forEach((backend, i) => {
      this.remove(backend)
      const circuit = backend.circuit = circuits[i]
      const { state, retryAfter } = before[i]
      if (retryAfter === Infinity) circuit.open()
      // One that was half-open has still to prove itself.
      else if (state !== 'closed') circuit.openFor?.(retryAfter)
    })
    this.#replacing = false
    this.#breaker = breaker
    this.#env.changed()
    backends.forEach((backend, i) => {
      const { state } = before[i]
      if (state !== 'closed' && backend.circuit.state === 'closed') this.#tell(backend, state, 'the circuit breaker was replaced', {})
    })
  }

  #make (backend: Backend, breaker: CircuitBreaker): Circuit {
    const { clock, random, upstream, changed } = this.#env
    const circuit: Circuit = breaker.createCircuit(backend, {
      clock,
      random,
      upstream,
      changed: (from, why, counts) => {
        if (backend.circuit !== circuit || this.#replacing) return
        changed()
        this.#tell(backend, from, why, counts)
      }
    })
    return circuit
  }

  #tell (backend: Backend, from: CircuitState, cause: string, counts: Record<string, number>): void {
    const { state } = backend.circuit
    this.#env.reporter.tell(`circuit:${state}`, { backend, cause, counts, from, to: state })
  }
}

/** Milliseconds until the first open circuit among backends lets a request try; `undefined` where no circuit is the reason that there is no backend. */
export function circuitWait (backends: readonly Backend[], selection: Selection, subset: Subset | null): number | undefined {
  const waiting = backends.filter(backend => backend.circuit.state !== 'closed' && backend.enlisted && backend.healthy && !backend.ejected && (subset === null || subset.admits(backend, selection)))
  return waiting.length === 0 ? undefined : Math.min(...waiting.map(({ circuit }) => circuit.retryAfter))
}
