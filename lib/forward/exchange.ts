import type { AttemptReport, AttemptResult, Culprit, Stage } from '../../types/index.ts'
import type { Deadlined } from '../deadlines.ts'
import { causedError, proxyError, type ErrorCode } from '../errors.ts'
import { retryAfterHeaders } from '../retry/index.ts'
import type { Progress } from '../telemetry/index.ts'
import type { Upstream } from '../upstream.ts'
import { Answer, type AnswerOwner } from './answer.ts'
import { AnswerTime } from './answer-time.ts'
import type { Attempt } from './attempt.ts'
import { Choice } from './choice.ts'
import type { ExchangeClient } from './exchange-client.ts'
import { ExchangeRecord } from './exchange-record.ts'
import type { Intent } from './intent.ts'
import { resultOfEnd } from './outcome.ts'
import { Place } from './place.ts'
import type { RequestBody } from './request-body.ts'
import type { Source } from './sink.ts'
import { Trying, type TryingListener } from './trying.ts'

/**
 * One client request from admission to its last byte: waits to be let in, has attempts made until one has an answer to be sent on, and
 * passes that to its client. It ends exactly once.
 */
export class Exchange implements AnswerOwner, TryingListener, Source {
  deadline = Infinity
  previous: Deadlined | null = null
  next: Deadlined | null = null
  readonly #upstream: Upstream
  readonly #intent: Intent
  readonly #client: ExchangeClient
  readonly #choice: Choice
  readonly #record: ExchangeRecord
  readonly #time: AnswerTime
  readonly #answer: Answer
  readonly #trying: Trying
  /** Where it waits to be let in; `null` where all are. */
  readonly #place: Place | null
  #ended = false

  constructor (upstream: Upstream, intent: Intent, client: ExchangeClient) {
    const { settings: { timeouts, subset } } = intent
    const now = upstream.clock.now()
    this.#upstream = upstream
    this.#intent = intent
    this.#client = client
    this.#choice = new Choice(upstream, intent.request, intent.method, intent.path, intent.headers, subset)
    this.#record = new ExchangeRecord(upstream, intent, client.expendable === true, now)
    this.#time = new AnswerTime(now, timeouts.request, intent.deadline)
    this.#answer = new Answer(upstream, intent, client, this.#choice, this.#record, this)
    this.#trying = new Trying(upstream, intent, client, this.#choice, this.#answer, this.#time, this.#record, this)
    this.#place = upstream.admission === null ? null : new Place(upstream.admission, this)
    upstream.deadlines.add(this)
  }

  /** Whether the answer has begun to go out. */
  get committed (): boolean {
    return this.#answer.begun
  }

  get expendable (): boolean {
    return this.#client.expendable === true
  }

  get ended (): boolean {
    return this.#ended
  }

  /** Whether another upstream could be asked: nothing of the body is lost, and the request was never sent or may be processed twice. */
  get movable (): boolean {
    const { sending, attempts } = this.#trying
    return sending.whole && (sending.idempotent || attempts.all().every(({ stage }) => stage === 'connect'))
  }

  /** The body for another exchange, where this one is movable and has failed. */
  handOver (): Buffer | RequestBody | null {
    return this.#trying.sending.handOver()
  }

  /** All attempts so far, in the order they were made. */
  reports (): AttemptReport[] {
    return this.#trying.attempts.reports()
  }

  /** The stage of the attempt that counts. */
  get stage (): Stage | undefined {
    return this.#trying.attempts.leading?.stage
  }

  /** How far it has come. */
  progress (): Progress {
    return this.#record.progress(this.#trying.attempts)
  }

  isOn (backend: object): boolean {
    return this.#trying.attempts.isOn(backend)
  }

  /** It begins later; its time goes on. */
  hold (): void {
    if (!this.#ended) this.arm()
  }

  start (): void {
    // Who was asked before whether it may begin has answered too late.
    if (this.#ended) return
    const { trace } = this.#record
    if (trace === null) this.#start()
    else trace.run(() => this.#start())
  }

  #start (): void {
    if (this.#trying.sending.isSmall) process.nextTick(startWithBody, this)
    else this.startWithBody()
  }

  startWithBody (): void {
    if (this.#ended) return
    this.#trying.takeBody()
    this.#admit()
  }

  // Step: admit

  #admit (): void {
    if (this.#time.limit <= this.#upstream.clock.now()) {
      this.#record.timedOut('request')
      return this.#stop('TIMEOUT')
    }
    // What was let in before goes on.
    if (this.#upstream.closed) return this.fail('CLOSED')
    if (this.#place === null || this.#place.enter()) this.#trying.choose()
    else this.#queue(this.#place)
  }

  #queue (place: Place): void {
    const { admission, clock, tallies } = this.#upstream
    const { isNew } = place
    if (!place.wait(clock.now(), this.#time.limit, this.#intent.request, this.#intent.log)) return this.onShed()
    if (isNew) tallies.queued++
    // There may be room since it was asked whether there is.
    if (this.#choice.isAsync) admission?.onRoom()
    this.arm()
  }

  /** There may be room now: false when its backends have none after all. */
  onTurn (): boolean {
    return this.#trying.chooseAgain()
  }

  /** It is not let in, or has waited in vain. */
  onShed (): void {
    const { admission, tallies } = this.#upstream
    if (this.#ended) return
    tallies.shed++
    const { failure } = this.#trying
    if (failure !== null) return this.fail(failure.code, failure.error)
    this.fail('OVERLOADED', undefined, admission?.queueTimeout ?? 0)
  }

  // Steps: select, acquire and dispatch are those of `Trying`

  onFull (): boolean {
    if (this.#place === null) return false
    this.#queue(this.#place)
    return true
  }

  onBodyFailed (error: Error): void {
    if (this.#ended) return
    if (this.#intent.raw === null) this.#stop('ABORTED', error)
    else this.abandon()
  }

  // Steps: commit and stream are those of `Answer`

  onOver (result: AttemptResult, error?: Error, took?: number): void {
    this.#finish(result, error, took)
    this.#letGo()
  }

  onRefused (error: Error): void {
    this.#finish('failed', error)
    this.#tellFailed(error)
  }

  resume (): void {
    const attempt = this.#trying.attempts.leading
    if (!this.#ended && attempt !== null) this.#answer.resume(attempt)
  }

  // Ends that come from elsewhere

  /** The client has gone. */
  abandon (): void {
    if (this.#ended) return
    const { attempts } = this.#trying
    const cause = new Error('the client went away')
    attempts.cancelAll('CLIENT_CLOSED', cause)
    this.#record.clientClosed(attempts.leading)
    const error = proxyError('CLIENT_CLOSED', cause)
    // A handler that reads the answer itself is still there.
    if (this.#answer.begun) return this.#answer.cut(error, 'aborted')
    this.#finish('aborted', error)
    this.#tellFailed(error)
  }

  /** The application, or the end of its life, wants no answer any more. */
  giveUp (cause?: unknown): void {
    if (!this.#ended) this.#stop('ABORTED', cause)
  }

  /** Somebody who was asked before anything is sent has refused. */
  refuse (error: Error): void {
    if (this.#ended) return
    this.#finish('aborted', error)
    this.#tellFailed(error)
  }

  /** Works out by when something has to happen next. */
  arm (): void {
    const place = this.#place
    const byTime = this.#answer.begun ? Infinity : this.#time.limit
    const byPlace = place === null || !place.waiting ? Infinity : place.until
    this.deadline = Math.min(byTime, byPlace, this.#trying.attempts.deadline)
  }

  onDeadline (): void {
    if (this.#ended) return
    const { attempts } = this.#trying
    const now = this.#upstream.clock.now()
    const place = this.#place
    if (place !== null && place.waiting && Math.min(place.until, this.#time.limit) <= now) {
      this.#record.timedOut('queue')
      return this.onShed()
    }
    if (!this.#answer.begun && this.#time.limit <= now) {
      this.#record.timedOut('request')
      // Only who has had all of the time is to blame for it.
      const shortened = this.#time.byClient || attempts.all().length > 1 || place?.isNew === false
      return this.#stop('TIMEOUT', undefined, shortened ? 'proxy' : undefined)
    }
    for (const attempt of attempts.underWay()) {
      if (!this.#ended && !attempt.settled && attempt.deadline <= now) this.#timeOut(attempt)
    }
    if (!this.#ended) this.arm()
  }

  #timeOut (attempt: Attempt): void {
    const { stage } = attempt
    const { sending } = this.#trying
    if (stage === 'send' && sending.incoming && !sending.heldByBackend) {
      this.#record.timedOut('client')
      return this.#stop('REQUEST_TIMEOUT')
    }
    if (this.#answer.begun) {
      const { held } = this.#answer
      this.#record.timedOut(held ? 'client' : 'stream')
      if (held) this.#stop('CLIENT_CLOSED', new Error('the client took nothing for too long'))
      else this.#stop('TIMEOUT')
      return
    }
    this.#record.timedOut(stage === 'connect' || stage === 'send' ? stage : 'wait')
    attempt.cancel('TIMEOUT')
    this.#trying.onAttemptFailed(attempt, 'TIMEOUT', false)
  }

  /** Ends the exchange together with what is under way. */
  #stop (code: ErrorCode, cause?: unknown, culprit?: Culprit): void {
    const error = proxyError(code, cause)
    for (const attempt of this.#trying.attempts.cancelAll(code, cause, culprit)) this.#record.failed(attempt)
    if (this.#answer.begun) this.#answer.cut(error, resultOfEnd(code))
    else this.fail(code, cause)
  }

  fail (code: ErrorCode, cause?: unknown, wait?: number, statusCode?: number): void {
    if (this.#ended) return
    const error = statusCode === undefined ? causedError(code, cause) : Object.assign(proxyError(code, cause, String(statusCode)), { statusCode })
    this.#finish(resultOfEnd(code), error)
    this.#tellFailed(wait === undefined ? error : Object.assign(error, { headers: retryAfterHeaders(wait) }))
  }

  /** Lets go of all, also where who is told throws. */
  #tellFailed (error: Error): void {
    try {
      this.#client.failed(error)
    } finally {
      this.#letGo()
    }
  }

  // Step: record

  #finish (result: AttemptResult, error?: Error, took?: number): void {
    this.#ended = true
    this.#trying.stop()
    this.#record.answered()
    this.#place?.leave()
    const { attempts, sending } = this.#trying
    this.#record.finished(result, error, took ?? this.#record.age, attempts, this.#answer.begun, sending.bytesReceived)
  }

  #letGo (): void {
    this.#trying.sending.close()
    this.#upstream.deadlines.remove(this)
  }
}

function startWithBody (exchange: Exchange): void {
  exchange.startWithBody()
}
