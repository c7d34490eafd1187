import type { Circuit, LoadBalancer, Outcome } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import type { Upstream } from '../upstream.ts'
import { resultOf } from './outcome.ts'

/** Answers by which a backend says that it has too much to do. */
const OVERLOADED: ReadonlySet<number> = new Set([429, 503])

/** Who hears that a function of the user's own threw when it was told of a result. */
export interface FaultListener {
  onSettleFault (error: unknown): void
}

/** What those who judge a backend are told of one attempt: each hears of its result once, whatever happens. */
export class Account {
  readonly #backend: Backend
  readonly #upstream: Upstream
  readonly #balancer: LoadBalancer | null
  readonly #circuit: Circuit
  readonly #permit: number
  readonly #hedge: boolean
  readonly #listener: FaultListener
  #circuitSettled = false
  /** Since when the backend has all it needs for an answer; -1 before. */
  #askedAt = -1
  /** How many waited for this backend then; 0 before, and once it waits no more. */
  #waiting = 0

  /**
   * @param permit of the backend's circuit
   * @param balancer the one that chose the backend
   * @param hedge whether another attempt is under way beside it: then its time says nothing of how long answers take
   */
  constructor (backend: Backend, permit: number, upstream: Upstream, balancer: LoadBalancer | null, hedge: boolean, listener: FaultListener) {
    this.#backend = backend
    this.#upstream = upstream
    this.#balancer = balancer
    this.#circuit = backend.circuit
    this.#permit = permit
    this.#hedge = hedge
    this.#listener = listener
    backend.counters.begin()
    backend.concurrency?.begin()
  }

  /** From now on it is the backend that is waited for. */
  asked (now: number): void {
    this.#askedAt = now
    this.#waiting = this.#backend.concurrency?.wait() ?? 0
  }

  /** A final head has come. */
  headCame (statusCode: number, now: number): void {
    this.noteTime(now)
    if (this.#waiting > 0) this.#answered(OVERLOADED.has(statusCode) ? 'overloaded' : statusCode < 500 ? 'well' : 'not', now)
  }

  /** Counts the time that an answer has taken so far, for hedging. */
  noteTime (now: number): void {
    if (!this.#hedge && this.#askedAt !== -1) this.#upstream.hedging?.latencies.record(now - this.#askedAt)
  }

  /** Whether it is a try of a circuit that is half open. */
  get isTry (): boolean {
    return this.#circuit.state === 'half-open'
  }

  /** Tells the circuit, once: of a try and of a tunnel at the head, of any other attempt at its end. */
  settleCircuit (outcome: Outcome): void {
    if (this.#circuitSettled) return
    this.#circuitSettled = true
    try {
      this.#circuit.settle(this.#permit, outcome)
    } catch (error) {
      this.#listener.onSettleFault(error)
    }
  }

  /** Tells all of the result. */
  settle (outcome: Outcome, now: number): void {
    const backend = this.#backend
    const { culprit, stage, error, headTime, responseTime } = outcome
    if (this.#waiting > 0) this.#answered(culprit === 'backend' && stage === 'wait' && (error as { code?: string }).code === 'FST_ROCKSTAR_TIMEOUT' ? 'overloaded' : 'not', now)
    const result = resultOf(outcome)
    backend.settle(result, responseTime)
    backend.concurrency?.end()
    if (backend.observed !== null && result !== 'aborted') backend.observed.count(result === 'failed', result === 'failed' ? responseTime : headTime)
    const { outlier } = this.#upstream
    if (outlier !== null && result !== 'aborted') outlier.count(backend, outcome)
    // Each apart: what one of the user's functions throws must not keep the result from the other.
    this.settleCircuit(outcome)
    try {
      this.#balancer?.settle?.(backend, outcome)
    } catch (error) {
      this.#listener.onSettleFault(error)
    }
  }

  #answered (how: 'well' | 'overloaded' | 'not', now: number): void {
    this.#backend.concurrency?.answer(now - this.#askedAt, this.#waiting, how, now)
    this.#waiting = 0
  }
}
