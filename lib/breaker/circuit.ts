import type { Circuit as Contract, CircuitEnv, CircuitState, IsFailure, Outcome, Timer, TripRule } from '../../types/index.ts'

/** How a circuit behaves, whatever trips it. */
export interface CircuitPolicy {
  readonly timeout: number
  readonly maxTimeout: number
  readonly jitter: number
  readonly halfOpenRequests: number
  readonly successThreshold: number
  readonly isFailure: IsFailure
}

/**
 * The state machine of one backend; when it trips is the rules' affair. Every change of state begins a new term, and a permit is
 * its term: what was begun in an earlier one says nothing of the present. Source: Nygard, Release It!
 */
export class Circuit implements Contract {
  state: CircuitState = 'closed'
  readonly #rules: readonly TripRule[]
  readonly #policy: CircuitPolicy
  readonly #env: CircuitEnv
  #term = 0
  /** Times it has opened since it was last closed. */
  #openings = 0
  #until = 0
  /** While half-open: tries under way, and those that have succeeded. */
  #trying = 0
  #triedAt = -Infinity
  #succeeded = 0
  #timer: Timer | null = null

  constructor (rules: readonly TripRule[], policy: CircuitPolicy, env: CircuitEnv) {
    this.#rules = rules
    this.#policy = policy
    this.#env = env
  }

  get retryAfter (): number {
    return this.state === 'open' ? Math.max(0, this.#until - this.#env.clock.now()) : 0
  }

  acquire (): number {
    if (this.state === 'closed') return this.#term
    if (this.state === 'open') return -1
    const now = this.#env.clock.now()
    if (this.#trying >= this.#policy.halfOpenRequests) {
      // A client that is slow to send must not keep all others from a backend that may be well.
      if (now - this.#triedAt < this.#policy.timeout) return -1
      this.#term++
      this.#trying = 0
    }
    this.#trying++
    this.#triedAt = now
    return this.#term
  }

  settle (permit: number, outcome: Outcome): void {
    if (permit !== this.#term) return
    const trying = this.state === 'half-open'
    if (trying) this.#trying--
    // What a client or the application has ended says nothing of the backend.
    if (outcome.culprit === 'client' || outcome.culprit === 'proxy') return
    const failed = this.#policy.isFailure(outcome)
    if (trying) this.#judgeTry(failed)
    else this.#judge(failed, outcome.headTime >= 0 ? outcome.headTime : outcome.responseTime)
  }

  open (): void {
    if (this.retryAfter !== Infinity) this.#open(Infinity, 'it was opened by hand')
  }

  close (): void {
    if (this.state === 'closed') for (const rule of this.#rules) rule.reset()
    else this.#close('it was closed by hand')
  }

  /** Lets a request try before the time is over: something else says that the backend is well again. Not when it was opened by hand. */
  tryNow (): void {
    if (this.state !== 'open' || this.#until === Infinity) return
    this.#stopTimer()
    this.#halfOpen('the backend passes its health checks again')
  }

  /** Opens it for so long, as another circuit of the backend has been. */
  openFor (milliseconds: number): void {
    this.#open(milliseconds, 'the circuit before it was open')
  }

  dispose (): void {
    this.#stopTimer()
    // What is still under way must not start it again.
    this.#term++
  }

  #stopTimer (): void {
    if (this.#timer !== null) this.#env.clock.clearTimeout(this.#timer)
    this.#timer = null
  }

  #judge (failed: boolean, time: number): void {
    const now = this.#env.clock.now()
    let tripped = false
    // Every rule hears of it, also when one before it has tripped.
    const rules = this.#rules
    for (let i = 0; i < rules.length; i++) if (rules[i].record(failed, time, now)) tripped = true
    if (tripped) this.#open(this.#nextTimeout(), 'too many attempts failed or were slow')
  }

  #judgeTry (failed: boolean): void {
    if (failed) this.#open(this.#nextTimeout(), 'a try failed')
    else if (++this.#succeeded >= this.#policy.successThreshold) this.#close('tries succeeded')
  }

  #nextTimeout (): number {
    const { timeout, maxTimeout, jitter } = this.#policy
    const growing = Math.min(maxTimeout, timeout * 2 ** this.#openings)
    return Math.min(maxTimeout, growing * (1 + jitter * (2 * this.#env.random() - 1)))
  }

  #open (milliseconds: number, why: string): void {
    const { clock } = this.#env
    const counts = this.#counts()
    this.#stopTimer()
    this.#succeeded = 0
    this.#openings++
    this.#until = clock.now() + milliseconds
    if (milliseconds !== Infinity) this.#timer = clock.setTimeout(() => this.#halfOpen('it has been open for long enough'), milliseconds)
    this.#change('open', why, counts)
  }

  #halfOpen (why: string): void {
    this.#timer = null
    this.#trying = 0
    this.#succeeded = 0
    this.#change('half-open', why, {})
  }

  #close (why: string): void {
    this.#stopTimer()
    this.#openings = 0
    for (const rule of this.#rules) rule.reset()
    this.#change('closed', why, { successes: this.#succeeded })
  }

  #change (to: CircuitState, why: string, counts: Record<string, number>): void {
    const from = this.state
    this.state = to
    this.#term++
    this.#env.changed(from, why, counts)
  }

  #counts (): Record<string, number> {
    const now = this.#env.clock.now()
    return Object.assign({ openings: this.#openings + 1 }, ...this.#rules.map(rule => rule.counts?.(now)))
  }
}
