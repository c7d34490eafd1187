import type { Backend, BreakerOptions, Circuit as CircuitContract, CircuitBreaker as Contract, CircuitEnv, CircuitState, Outcome, RuleOptions } from '../../types/index.ts'
import { BreakerOptionsSchema } from '../../types/index.ts'
import { proxyError } from '../errors.ts'
import { resolveOptions } from '../options.ts'
import { Circuit, type CircuitPolicy } from './circuit.ts'
import { createRule } from './rules.ts'

/** Answers that say of a backend that it cannot serve now. */
const GATEWAY_FAILURES: ReadonlySet<number> = new Set([502, 503, 504])
const CONSECUTIVE = 5
const MAX_TIMEOUT = 300_000

/** Whether an attempt has failed for want of a backend that works: no answer, a broken one, or one that says so. */
export function isGatewayFailure ({ culprit, statusCode }: Outcome): boolean {
  return culprit === 'backend' || GATEWAY_FAILURES.has(statusCode)
}

/** Makes the circuits of an upstream's backends. `new CircuitBreaker({ threshold: 5, timeout: 30_000 })`, as in the seed. */
export class CircuitBreaker implements Contract {
  readonly type = 'circuit-breaker'
  readonly options: Readonly<BreakerOptions>
  readonly #rules: readonly RuleOptions[]
  readonly #policy: CircuitPolicy
  #upstream = 'default'
  /** Those of the backends listed now. */
  readonly #circuits = new Map<string, { backend: Backend, circuit: Circuit }>()

  /** Throws `INVALID_OPTIONS`. */
  constructor (options: BreakerOptions = {}, path = 'breaker') {
    const resolved = resolveOptions<BreakerOptions>(BreakerOptionsSchema, options, path)
    const { threshold, rules = [], timeout = 0, jitter, halfOpenRequests, successThreshold, isFailure = isGatewayFailure } = resolved
    // No contradiction is made of a default that nobody has asked for.
    const { maxTimeout = Math.max(MAX_TIMEOUT, timeout) } = resolved
    if (maxTimeout < timeout) throw proxyError('INVALID_OPTIONS', undefined, `${path}.maxTimeout must be at least timeout, ${timeout}, and is ${maxTimeout}`)
    this.options = Object.freeze({ ...resolved, maxTimeout })
    const consecutive = threshold ?? (rules.length === 0 ? CONSECUTIVE : undefined)
    this.#rules = consecutive === undefined ? rules : [{ type: 'consecutive', threshold: consecutive }, ...rules]
    this.#policy = {
      timeout,
      maxTimeout,
      jitter: jitter as number,
      halfOpenRequests: halfOpenRequests as number,
      successThreshold: successThreshold as number,
      isFailure
    }
  }

  /** Throws `INVALID_OPTIONS` where it has a circuit for another backend of that id: each upstream has a breaker of its own. */
  createCircuit (backend: Backend, env: CircuitEnv): CircuitContract {
    const known = this.#circuits.get(backend.id)
    if (known !== undefined && known.backend !== backend) {
      throw proxyError('INVALID_OPTIONS', undefined, `a CircuitBreaker serves one upstream: this one has a circuit for '${backend.id}' of '${this.#upstream}' already`)
    }
    this.#upstream = env.upstream
    const circuit = new Circuit(this.#rules.map(createRule), this.#policy, env)
    this.#circuits.set(backend.id, { backend, circuit })
    return circuit
  }

  removeCircuit (backend: Backend): void {
    const known = this.#circuits.get(backend.id)
    if (known?.backend !== backend) return
    known.circuit.dispose()
    this.#circuits.delete(backend.id)
  }

  getState (backendId: string): CircuitState {
    return this.#circuitOf(backendId).state
  }

  reset (backendId: string): void {
    this.#circuitOf(backendId).close()
  }

  open (backendId: string): void {
    this.#circuitOf(backendId).open()
  }

  close (backendId: string): void {
    this.#circuitOf(backendId).close()
  }

  #circuitOf (backendId: string): Circuit {
    const known = this.#circuits.get(backendId)
    if (known === undefined) throw proxyError('UNKNOWN_BACKEND', undefined, backendId, this.#upstream)
    return known.circuit
  }
}
