import type { AttemptReason, Backend as PublicBackend, Timer } from '../../types/index.ts'
import type { ErrorCode } from '../errors.ts'
import type { Upstream } from '../upstream.ts'
import type { AnswerTime } from './answer-time.ts'
import type { Attempt } from './attempt.ts'
import type { Attempts } from './attempts.ts'
import type { Choice, Chosen } from './choice.ts'
import type { ExchangeRecord } from './exchange-record.ts'
import type { Intent } from './intent.ts'
import { Retries } from './retries.ts'
import type { Sending } from './sending.ts'

/** Who makes the attempts. */
export interface Tryer {
  /** Whether nobody wants an answer any more. */
  readonly ended: boolean
  /** Whether there may still be another attempt: the client has heard nothing that it could contradict. */
  readonly undecided: boolean
  /** A backend has been chosen. @param fresh whether it must not be asked on a connection that may have died with it */
  onChosen (reason: AttemptReason, fresh: boolean): void
  /** There is no backend, or none now, as those there are have as much as they may. */
  onNone (full: boolean): void
  onChoiceFailed (error: unknown): void
  /** There will be another attempt, so that an answer is not wanted. */
  onPassedOver (attempt: Attempt, rawHeaders: readonly Buffer[]): void
  /** It is not before some time that something happens. */
  onWait (): void
}

/** Which attempt of an exchange comes next, and when: the first, one after a failure, or one beside another that is slow. */
export class NextTry {
  readonly #upstream: Upstream
  readonly #intent: Intent
  readonly #choice: Choice
  readonly #sending: Sending
  readonly #attempts: Attempts
  readonly #time: AnswerTime
  readonly #record: ExchangeRecord
  readonly #tryer: Tryer
  /** Once something has gone wrong. */
  #retries: Retries | null = null
  /** Attempts that count for `retry.attempts`. */
  #tries = 0
  /** Of the wait before another attempt, or of a hedge. */
  #timer: Timer | null = null
  /** Attempts that were made before the last wait. */
  #waitedAfter = 0

  constructor (upstream: Upstream, intent: Intent, choice: Choice, sending: Sending, attempts: Attempts, time: AnswerTime, record: ExchangeRecord, tryer: Tryer) {
    this.#upstream = upstream
    this.#intent = intent
    this.#choice = choice
    this.#sending = sending
    this.#attempts = attempts
    this.#time = time
    this.#record = record
    this.#tryer = tryer
  }

  get retries (): Retries {
    this.#retries ??= new Retries(this.#upstream, this.#intent.settings.retry, this.#sending)
    return this.#retries
  }

  choose (): void {
    try {
      this.#await(this.#choice.next())
    } catch (error) {
      this.#tryer.onChoiceFailed(error)
    }
  }

  /** Chooses where there may be room now: false when there is none after all. */
  chooseAgain (): boolean {
    let chosen: Chosen | Promise<PublicBackend | undefined>
    this.#forget()
    try {
      chosen = this.#choice.next()
    } catch (error) {
      this.#tryer.onChoiceFailed(error)
      return true
    }
    if (chosen === 'full') return false
    this.#await(chosen)
    return true
  }

  /** @param again whether it is for another attempt */
  #await (chosen: Chosen | Promise<PublicBackend | undefined>, again = false): void {
    if (!(chosen instanceof Promise)) return this.#onChosen(chosen, again)
    this.#tryer.onWait()
    chosen.then(backend => { if (!this.#tryer.ended) this.#await(this.#choice.take(backend), again) }).catch(error => this.#tryer.onChoiceFailed(error))
  }

  #onChosen (chosen: Chosen, again: boolean): void {
    if (chosen === 'one') return this.#tryer.onChosen(this.#attempts.leading === null ? 'first' : 'retry', this.#choice.isTrial)
    // A load balancer that takes its time has said only now that there is no other.
    const delay = again ? this.retries.delay(this.#attempts, this.#time.limit) : undefined
    if (delay === undefined) this.#tryer.onNone(chosen === 'full')
    else this.#waitFor(delay)
  }

  /** Counts an attempt. @returns whether it is the first that counts */
  count (): boolean {
    return this.#tries++ === 0
  }

  /** Whether a request may go to the same backend again, on another connection. */
  mayResend (attempt: Attempt, code: ErrorCode): boolean {
    return this.#tryer.undecided && this.retries.mayResend(attempt, code) && this.#choice.mayUse(attempt.backend)
  }

  /** Sends it to the same backend again. That is none of the attempts that are counted. */
  resend ({ backend }: Attempt): boolean {
    const permit = backend.circuit.acquire()
    if (permit === -1) return false
    this.stop()
    this.#upstream.tallies.retries++
    this.retries.resends++
    this.#tries--
    this.#choice.backend = backend
    this.#choice.permit = permit
    this.#tryer.onChosen('resend', true)
    return true
  }

  /** Makes another attempt, or arranges for one, where that is allowed. @param code the failure; `null` for an answer, whose head is given */
  again (attempt: Attempt, code: ErrorCode | null, rawHeaders: readonly Buffer[] | null): boolean {
    const { limit } = this.#time
    if (!this.#tryer.undecided || !this.retries.mayTry(this.#tries, attempt, code, limit)) return false
    let chosen: Chosen | Promise<PublicBackend | undefined>
    try {
      chosen = this.#choice.next()
    } catch (error) {
      this.#record.threw(error, 'the load balancer threw on a retry')
      return false
    }
    const delay = chosen === 'none' || chosen === 'full' ? this.retries.delay(this.#attempts, limit) : 0
    if (delay === undefined) return false
    this.stop()
    this.retries.spend()
    if (rawHeaders !== null) this.#tryer.onPassedOver(attempt, rawHeaders)
    if (chosen === 'none' || chosen === 'full') this.#waitFor(delay)
    else this.#await(chosen, true)
    return true
  }

  /** Waits before backends that were tried are tried again. */
  #waitFor (delay: number): void {
    this.#timer = this.#upstream.clock.setTimeout(() => this.#onWaited(), delay)
    // Nothing else may be there that holds the process up until then.
    this.#timer.ref?.()
    this.#tryer.onWait()
  }

  /** Any backend will do now that has not asked to be left alone for longer. */
  #onWaited (): void {
    this.#timer = null
    if (this.#tryer.ended) return
    this.#waitedAfter = this.#attempts.all().length
    this.#forget()
    this.choose()
  }

  /** What has refused may be asked again; what was tried since the last wait, or has asked to be left alone for longer, not. */
  #forget (): void {
    this.#choice.forget(this.#attempts.unaskable(this.#waitedAfter, this.#upstream.clock.now()))
  }

  /** Sets the time for an attempt beside the first, where one is wanted. */
  planHedge (now: number): void {
    const { settings: { hedge }, upgrade } = this.#intent
    const { clock, hedging } = this.#upstream
    // One that is tried again after failures is to be judged by its own answer.
    if (hedge === null || hedging === null || !this.#sending.idempotent || this.#choice.isTrial || upgrade !== null) return
    const delay = hedge.delay(hedging, now)
    if (delay !== undefined && this.#timer === null) this.#timer = clock.setTimeout(() => this.#hedge(), delay)
  }

  /** The answer takes longer than most do: another backend may be quicker. */
  #hedge (): void {
    this.#timer = null
    const { hedging, tallies, closed } = this.#upstream
    const { hedge } = this.#intent.settings
    const first = this.#attempts.leading
    if (!this.#tryer.undecided || closed || hedging === null || hedge === null || first === null || first.settled) return
    // A balancer that takes its time would be asked twice at once.
    if (this.#choice.isAsync || this.#sending.incoming || !this.#sending.replayable || !hedging.allows(hedge.maxExtra)) return
    let chosen: Chosen | Promise<PublicBackend | undefined>
    try {
      chosen = this.#choice.next()
    } catch {
      // It is only for speed: what the first attempt comes to is told.
      return
    }
    // What is thought over comes too late, and nobody is there to hear why it failed.
    if (chosen instanceof Promise) chosen.catch(() => {})
    if (chosen !== 'one') return
    hedging.spend()
    tallies.hedges++
    this.#tryer.onChosen('hedge', this.#choice.isTrial)
  }

  /** Nothing is waited for any more. */
  stop (): void {
    if (this.#timer !== null) this.#upstream.clock.clearTimeout(this.#timer)
    this.#timer = null
  }
}
