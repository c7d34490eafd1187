import type { Socket } from 'node:net'
import type { AttemptReason } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { proxyError, type ErrorCode } from '../errors.ts'
import type { Upstream } from '../upstream.ts'
import type { Answer } from './answer.ts'
import { until, type AnswerTime } from './answer-time.ts'
import { Attempt, type AttemptListener } from './attempt.ts'
import { Attempts } from './attempts.ts'
import type { Choice } from './choice.ts'
import { withTimeLeft } from './deadline-header.ts'
import type { ExchangeClient } from './exchange-client.ts'
import type { ExchangeRecord } from './exchange-record.ts'
import { announceTrailers, asteriskForm } from './head-rewrites.ts'
import type { Intent } from './intent.ts'
import { NextTry, type Tryer } from './next-try.ts'
import { asksForAll, outgoingTo } from './outgoing.ts'
import type { BodyListener } from './request-body.ts'
import { Sending } from './sending.ts'

/** Who hears what the attempts come to. */
export interface TryingListener {
  /** Whether nobody wants to hear anything any more. */
  readonly ended: boolean
  /** By when something has to happen next may be another time now. */
  arm (): void
  /** All backends have as much as they may. False when nobody waits for one. */
  onFull (): boolean
  onBodyFailed (error: Error): void
  /** There will be no answer. @param wait milliseconds after which it is worth asking again @param statusCode what the backend has answered */
  fail (code: ErrorCode, cause?: unknown, wait?: number, statusCode?: number): void
}

/**
 * The attempts of an exchange, until one has an answer to be sent on: makes each, and decides whether what comes of it is the answer,
 * another one is made, or that was all.
 */
export class Trying implements AttemptListener, BodyListener, Tryer {
  readonly sending: Sending
  readonly attempts = new Attempts()
  /** What the last attempt has come to, where that was no answer. */
  failure: { code: ErrorCode, error: Error } | null = null
  readonly #upstream: Upstream
  readonly #intent: Intent
  readonly #client: ExchangeClient
  readonly #choice: Choice
  readonly #answer: Answer
  readonly #time: AnswerTime
  readonly #record: ExchangeRecord
  readonly #listener: TryingListener
  readonly #next: NextTry
  /** Whether a copy is wanted. */
  #copies: boolean

  constructor (upstream: Upstream, intent: Intent, client: ExchangeClient, choice: Choice, answer: Answer, time: AnswerTime, record: ExchangeRecord, listener: TryingListener) {
    const { mirror } = intent.settings
    this.sending = new Sending(upstream, intent)
    this.#upstream = upstream
    this.#intent = intent
    this.#client = client
    this.#choice = choice
    this.#answer = answer
    this.#time = time
    this.#record = record
    this.#listener = listener
    this.#next = new NextTry(upstream, intent, choice, this.sending, this.attempts, time, record, this)
    this.#copies = mirror !== null && intent.upgrade === null && upstream.random() * 100 < mirror.percent
  }

  get ended (): boolean {
    return this.#listener.ended
  }

  get undecided (): boolean {
    return !this.#listener.ended && this.#answer.untold
  }

  takeBody (): void {
    this.sending.begin(this, this.#copies ? this.#intent.settings.mirror?.maxBodySize ?? 0 : 0)
  }

  // Step: select and acquire

  choose (): void {
    this.#next.choose()
  }

  /** Chooses where there may be room now: false when there is none after all. */
  chooseAgain (): boolean {
    return this.#next.chooseAgain()
  }

  onNone (full: boolean): void {
    if (full && this.#listener.onFull()) return
    // What an attempt has come to says more than that there is no other.
    if (this.failure !== null) return this.#listener.fail(this.failure.code, this.failure.error)
    const wait = this.#choice.circuitWait()
    if (wait === undefined) this.#listener.fail('NO_BACKEND')
    else this.#listener.fail('CIRCUIT_OPEN', undefined, wait)
  }

  onChoiceFailed (error: unknown): void {
    this.#listener.fail('NO_BACKEND', error)
  }

  onWait (): void {
    this.#listener.arm()
  }

  // Step: dispatch

  onChosen (reason: AttemptReason, fresh: boolean): void {
    const { sending } = this
    const { headers, settings: { timeouts, retry } } = this.#intent
    const { clock, deadlineHeader } = this.#upstream
    const backend = this.#choice.backend as Backend
    const now = clock.now()
    const hedge = reason === 'hedge'
    const outgoing = outgoingTo(backend, this.#intent, withTimeLeft(headers, deadlineHeader, this.#time.told - now), sending, fresh)
    const attempt = new Attempt(backend, this.#choice.permit, this.#upstream, this.#choice.balancer, hedge, sending.incoming, this)
    this.attempts.add(attempt)
    if (retry !== null && !sending.incoming) attempt.headBy = until(now, retry.perTryTimeout)
    attempt.deadline = Math.min(until(now, timeouts.connect), attempt.headBy)
    this.#listener.arm()
    if (!hedge && this.#next.count()) {
      // One that is still coming is copied once it is here.
      if (!sending.incoming) this.#copy()
      this.#next.planHedge(now)
    }
    this.#record.dispatch(attempt, outgoing, reason, this.attempts.all().length - 1)
  }

  onAttemptConnected (attempt: Attempt): void {
    const { acceptsTrailers, upgrade, settings: { timeouts } } = this.#intent
    if (acceptsTrailers && upgrade === null) attempt.connection?.rewriteNextHead(announceTrailers)
    if (asksForAll(this.#intent, attempt.backend)) attempt.connection?.rewriteNextHead(asteriskForm)
    const now = this.#upstream.clock.now()
    attempt.connectedAt = now
    if (this.sending.incoming) {
      this.#time.pause(now)
      attempt.deadline = until(now, timeouts.idle)
    } else this.#awaitHead(attempt, now)
    this.#listener.arm()
  }

  #awaitHead (attempt: Attempt, now: number): void {
    attempt.stage = 'wait'
    attempt.sentAt = now
    attempt.deadline = Math.min(until(now, this.#intent.settings.timeouts.headers), attempt.headBy)
  }

  onBodyProgress (): void {
    const attempt = this.attempts.leading
    if (attempt === null || attempt.settled || attempt.stage === 'connect') return
    attempt.deadline = until(this.#upstream.clock.now(), this.#intent.settings.timeouts.idle)
    this.#listener.arm()
  }

  onBodyEnd (): void {
    const { retry } = this.#intent.settings
    const now = this.#upstream.clock.now()
    this.#time.resume(now)
    const attempt = this.attempts.leading
    if (attempt !== null && !attempt.settled) {
      if (retry !== null) attempt.headBy = until(now, retry.perTryTimeout)
      attempt.onAsked(now)
      if (attempt.stage === 'send') this.#awaitHead(attempt, now)
    }
    this.#listener.arm()
    this.#copy()
  }

  onBodyFailed (error: Error): void {
    this.#listener.onBodyFailed(error)
  }

  /** Has the request copied, once, where a copy is wanted. */
  #copy (): void {
    if (!this.#copies) return
    this.#copies = false
    this.#client.copy(this.sending.bytes(this.#intent.settings.mirror?.maxBodySize ?? 0))
  }

  // Step: commit or retry

  onAttemptInterim (attempt: Attempt, statusCode: number, headers: Buffer[]): void {
    if (!this.#listener.ended && statusCode !== 101) this.#answer.interim(attempt, statusCode, headers)
  }

  onAttemptHead (attempt: Attempt, statusCode: number, rawHeaders: Buffer[], statusMessage: string): boolean {
    if (this.#listener.ended) return false
    if (statusCode >= 400 && this.#isPassedOver(attempt, statusCode, rawHeaders)) return false
    this.#win(attempt)
    return this.#answer.begin(attempt, statusCode, rawHeaders, statusMessage)
  }

  onAttemptSwitched (attempt: Attempt, rawHeaders: Buffer[], socket: Socket): boolean {
    const { upgrade } = this.#intent
    if (this.#listener.ended || upgrade === null) return false
    this.#win(attempt)
    return this.#answer.switch(attempt, upgrade, rawHeaders, socket)
  }

  /** This one's answer is sent on; one beside it is given up. */
  #win (attempt: Attempt): void {
    this.#next.stop()
    const other = this.attempts.lead(attempt)
    if (attempt.hedge) this.#upstream.tallies.hedgesWon++
    other?.lose()
  }

  /** Whether an answer does not go to the client, as another may be better, or something else takes its place. */
  #isPassedOver (attempt: Attempt, statusCode: number, rawHeaders: readonly Buffer[]): boolean {
    const { retries } = this.#next
    if (retries.covers(statusCode)) {
      retries.heed(attempt, rawHeaders)
      if (this.attempts.otherThan(attempt) !== null) {
        this.#discard(attempt, rawHeaders)
        return this.#goOnWithout(attempt)
      }
      if (this.#tryAgain(attempt, null, rawHeaders)) return true
    }
    if (!this.#answer.untold || !this.#client.replaces(statusCode)) return false
    this.#discard(attempt, rawHeaders)
    // One beside it may have a better answer.
    if (!this.#goOnWithout(attempt)) this.#listener.fail('BAD_STATUS', undefined, undefined, statusCode)
    return true
  }

  #discard (attempt: Attempt, rawHeaders: readonly Buffer[]): void {
    attempt.discard(rawHeaders, this.#intent.method !== 'HEAD')
    this.#record.failed(attempt)
  }

  /** Leaves all to the other attempt, if there is one. */
  #goOnWithout (attempt: Attempt): boolean {
    const other = this.attempts.otherThan(attempt)
    if (other === null) return false
    this.attempts.lead(other)
    this.#listener.arm()
    return true
  }

  onAttemptFailed (attempt: Attempt, code: ErrorCode, again: boolean): void {
    if (this.#listener.ended) return
    const error = attempt.error as Error
    this.#record.failed(attempt)
    if (this.#answer.begun) return this.#answer.cut(proxyError(code, error), 'failed')
    if (this.#goOnWithout(attempt)) return
    if (again && this.#next.resend(attempt)) return
    this.failure = { code, error }
    if (!this.#tryAgain(attempt, code, null)) this.#listener.fail(code, error)
  }

  mayResend (attempt: Attempt, code: ErrorCode): boolean {
    return this.#next.mayResend(attempt, code)
  }

  #tryAgain (attempt: Attempt, code: ErrorCode | null, rawHeaders: readonly Buffer[] | null): boolean {
    // While nobody takes the body, time is not the client's.
    this.#time.resume(this.#upstream.clock.now())
    return this.#next.again(attempt, code, rawHeaders)
  }

  onPassedOver (attempt: Attempt, rawHeaders: readonly Buffer[]): void {
    this.failure = null
    this.#discard(attempt, rawHeaders)
  }

  /** What is still to come comes too late. */
  stop (): void {
    this.#next.stop()
  }

  // Step: stream

  onAttemptData (attempt: Attempt, chunk: Buffer): boolean {
    return this.#answer.data(attempt, chunk)
  }

  onAttemptEnd (attempt: Attempt, trailers: readonly (Buffer | string)[] | null): void {
    this.#answer.end(attempt, trailers)
  }

  onSettleFault (error: unknown): void {
    this.#record.threw(error, 'the load balancer or the circuit breaker threw on settle')
  }
}
