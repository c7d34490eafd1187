import type { Socket } from 'node:net'
import type { AttemptReport, AttemptResult, Backend as PublicBackend, Culprit, StageTimeouts, Timer } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import type { Deadlined } from '../deadlines.ts'
import { causedError, proxyError, type ErrorCode } from '../errors.ts'
import type { Upstream } from '../upstream.ts'
import { AnswerTime } from './answer-time.ts'
import { Attempt, type AttemptListener } from './attempt.ts'
import { Attempts } from './attempts.ts'
import { Choice, type Chosen } from './choice.ts'
import { writeTimeLeft } from './deadline-header.ts'
import { ExchangeLog } from './exchange-log.ts'
import { announceTrailers, asteriskForm } from './head-rewrites.ts'
import type { Intent } from './intent.ts'
import { takeLoadReports } from './load-reports.ts'
import type { Outgoing } from './outgoing.ts'
import { Place } from './place.ts'
import type { PrefixMapping } from './prefix-mapping.ts'
import type { BodyListener, RequestBody } from './request-body.ts'
import { buildInterimHeaders, buildResponseHead, buildTrailers, type ResponseHead } from './response-headers.ts'
import { Retries } from './retries.ts'
import { Sending } from './sending.ts'
import type { Sink, Source } from './sink.ts'
import { buildSwitchingHead } from './upgrade.ts'

/** What the one who asked for an exchange wants to hear of it. */
export interface ExchangeClient {
  /** A head has come: where is the answer to go? May throw. */
  answer (head: ResponseHead, backend: Backend): Sink
  /** How a backend's paths map to the client's; `null` when they are the same. */
  mappingFor (backend: Backend): PrefixMapping | null
  /** Whether something else is to take the place of an answer with such a status. */
  replaces (statusCode: number): boolean
  /** The request has been sent, and all of it is known: where copies are wanted, this is one. `undefined`: it was too large to be kept. */
  copy (body: Buffer | null | undefined): void
  /** The backend has switched protocols: the client's connection is to be joined to its. @param closed called once both have closed */
  tunnel? (headers: string[], backend: Backend, socket: Socket, closed: () => void): void
  /** Interim responses go straight to the client. */
  interim (statusCode: number, headers: string[]): void
  /** All is over: the answer has gone out, whole or not. */
  finished (): void
  /** There is no answer. */
  failed (error: Error): void
  /** Whether nobody waits for an answer. */
  readonly expendable?: boolean
}

/** What the client or the application has ended, and no backend is to be blamed for. */
const GIVEN_UP: ReadonlySet<ErrorCode> = new Set<ErrorCode>(['CLIENT_CLOSED', 'REQUEST_TIMEOUT', 'ABORTED', 'BAD_REQUEST'])

/** Milliseconds that a connection may have been idle for what cannot be sent again: it may just be being closed. */
const UNSAFE_IDLE = 250
/** The one interim response that says nothing. */
const CONTINUE = 100

/**
 * One client request from admission to its last byte: waits to be let in, chooses a backend, makes attempts until one has an answer to
 * be sent on, and passes what comes to its sink. It ends exactly once.
 */
export class Exchange implements Deadlined, AttemptListener, BodyListener, Source {
  deadline = Infinity
  previous: Deadlined | null = null
  next: Deadlined | null = null
  readonly #upstream: Upstream
  readonly #intent: Intent
  readonly #client: ExchangeClient
  readonly #choice: Choice
  readonly #log: ExchangeLog
  readonly #startedAt: number
  readonly #sending: Sending
  readonly #retries: Retries
  readonly #attempts = new Attempts()
  readonly #time: AnswerTime
  /** Where it waits to be let in; `null` where all are. */
  readonly #place: Place | null
  /** Of the wait before another attempt, or of a hedge. */
  #timer: Timer | null = null
  /** Attempts that were made before the last wait. */
  #waitedAfter = 0
  #failure: { code: ErrorCode, error: Error } | null = null
  /** Whether a copy is wanted. */
  #copies: boolean
  #answered = false
  #sink: Sink | null = null
  /** Whether bytes that say something have gone to the client. */
  #touched = false
  /** Whether the sink has asked to wait: then a stalled stream is the client's fault. */
  #heldByClient = false
  #ended = false

  constructor (upstream: Upstream, intent: Intent, client: ExchangeClient) {
    const { settings: { timeouts, subset, mirror, retry } } = intent
    const now = upstream.clock.now()
    this.#upstream = upstream
    this.#intent = intent
    this.#client = client
    this.#choice = new Choice(upstream, intent.request, intent.method, intent.path, intent.headers, subset)
    this.#log = new ExchangeLog(intent.log, upstream.name)
    this.#startedAt = now
    this.#sending = new Sending(upstream, intent)
    this.#retries = new Retries(upstream, retry, this.#sending)
    this.#time = new AnswerTime(now, timeouts.request, intent.deadline)
    this.#place = upstream.admission === null ? null : new Place(upstream.admission, this)
    this.#copies = mirror !== null && intent.upgrade === null && upstream.random() * 100 < mirror.percent
    upstream.counters.begin()
    if (upstream.leaving) upstream.servedLate = true
    upstream.budget.begin(now)
    upstream.hedging?.begin()
    upstream.deadlines.add(this)
  }

  /** Whether the answer has begun to go out. */
  get committed (): boolean {
    return this.#sink !== null
  }

  get expendable (): boolean {
    return this.#client.expendable === true
  }

  get ended (): boolean {
    return this.#ended
  }

  /** All attempts so far, in the order they were made. */
  reports (): AttemptReport[] {
    return this.#attempts.reports()
  }

  /** It begins later; its time goes on. */
  hold (): void {
    if (!this.#ended) this.#arm()
  }

  start (): void {
    if (this.#sending.isSmall) process.nextTick(startWithBody, this)
    else this.startWithBody()
  }

  startWithBody (): void {
    if (this.#ended) return
    this.#sending.begin(this, this.#copies ? this.#intent.settings.mirror?.maxBodySize ?? 0 : 0)
    this.#admit()
  }

  // Step: admit

  #admit (): void {
    if (this.#time.limit <= this.#upstream.clock.now()) {
      this.#count('request')
      return this.#stop('TIMEOUT')
    }
    // What was let in before goes on.
    if (this.#upstream.closed) return this.#fail('CLOSED')
    if (this.#place === null || this.#place.enter()) this.#choose()
    else this.#queue(this.#place)
  }

  #queue (place: Place): void {
    const { clock, tallies } = this.#upstream
    const { isNew } = place
    if (!place.wait(clock.now(), this.#time.limit, this.#intent.request, this.#intent.log)) return this.onShed()
    if (isNew) tallies.queued++
    // There may be room since it was asked whether there is.
    if (this.#choice.isAsync) this.#upstream.admission?.onRoom()
    this.#arm()
  }

  /** There may be room now: false when its backends have none after all. */
  onTurn (): boolean {
    let chosen: Chosen | Promise<PublicBackend | undefined>
    this.#forget()
    try {
      chosen = this.#choice.next()
    } catch (error) {
      this.#failToChoose(error)
      return true
    }
    if (chosen === 'full') return false
    this.#await(chosen)
    return true
  }

  /** It is not let in, or has waited in vain. */
  onShed (): void {
    const { admission, tallies } = this.#upstream
    if (this.#ended) return
    tallies.shed++
    if (this.#failure !== null) return this.#fail(this.#failure.code, this.#failure.error)
    this.#fail('OVERLOADED', undefined, admission?.queueTimeout ?? 0)
  }

  // Step: select and acquire

  #choose (): void {
    try {
      this.#await(this.#choice.next())
    } catch (error) {
      this.#failToChoose(error)
    }
  }

  /** @param again whether it is for another attempt */
  #await (chosen: Chosen | Promise<PublicBackend | undefined>, again = false): void {
    if (!(chosen instanceof Promise)) return this.#onChosen(chosen, again)
    this.#arm()
    chosen.then(backend => { if (!this.#ended) this.#await(this.#choice.take(backend), again) }).catch(error => this.#failToChoose(error))
  }

  #onChosen (chosen: Chosen, again: boolean): void {
    if (chosen === 'one') return this.#dispatch(false, this.#choice.isTrial)
    // A load balancer that takes its time has said only now that there is no other.
    const delay = again ? this.#retries.delay(this.#attempts, this.#time.limit) : undefined
    if (delay !== undefined) return this.#waitFor(delay)
    if (chosen === 'full' && this.#place !== null) return this.#queue(this.#place)
    // What an attempt has come to says more than that there is no other.
    if (this.#failure !== null) return this.#fail(this.#failure.code, this.#failure.error)
    const wait = this.#choice.circuitWait()
    if (wait === undefined) this.#fail('NO_BACKEND')
    else this.#fail('CIRCUIT_OPEN', undefined, wait)
  }

  #failToChoose (error: unknown): void {
    this.#fail('NO_BACKEND', error)
  }

  // Step: dispatch

  /** @param fresh whether it must not go out on a connection that may have died with its backend */
  #dispatch (hedge: boolean, fresh: boolean): void {
    const { path, method, settings: { timeouts, retry } } = this.#intent
    const { permit, balancer } = this.#choice
    const backend = this.#choice.backend as Backend
    const sending = this.#sending
    const now = this.#upstream.clock.now()
    const outgoing: Outgoing = {
      origin: backend.origin,
      path: backend.basePath + path,
      method,
      headers: this.#headersAt(now),
      asterisk: this.#intent.asterisk && backend.basePath === '',
      body: sending.open(),
      trailers: sending,
      servername: backend.servername,
      fresh,
      maxIdle: sending.idempotent ? Infinity : UNSAFE_IDLE,
      upgrade: this.#intent.upgrade?.protocol ?? null
    }
    const attempt = new Attempt(backend, permit, this.#upstream, balancer, hedge, sending.incoming, this)
    this.#attempts.add(attempt)
    if (retry !== null && !sending.incoming) attempt.headBy = until(now, retry.perTryTimeout)
    attempt.deadline = Math.min(until(now, timeouts.connect), attempt.headBy)
    this.#arm()
    if (!hedge && this.#retries.tries++ === 0) this.#onFirst(now)
    attempt.dispatch(outgoing)
  }

  /** The fields that are sent, and how much time there is where that is to be told. */
  #headersAt (now: number): string[] {
    const { headers } = this.#intent
    const { deadlineHeader } = this.#upstream
    if (deadlineHeader === null || this.#time.told === Infinity) return headers
    return [...headers, deadlineHeader, writeTimeLeft(deadlineHeader, this.#time.told - now)]
  }

  /** What begins with the first attempt: the copy for whom it may concern, and the wait for a second attempt. */
  #onFirst (now: number): void {
    const { hedge } = this.#intent.settings
    if (this.#copies && !this.#sending.incoming) this.#copy()
    // One that is tried again after failures is to be judged by its own answer.
    if (hedge === null || this.#upstream.hedging === null || !this.#sending.idempotent || this.#choice.isTrial || this.#intent.upgrade !== null) return
    const delay = hedge.delay(this.#upstream.hedging, now)
    if (delay !== undefined && this.#timer === null) this.#timer = this.#upstream.clock.setTimeout(() => this.#hedge(), delay)
  }

  /** The answer takes longer than most do: another backend may be quicker. */
  #hedge (): void {
    this.#timer = null
    const { hedging, tallies, closed } = this.#upstream
    const { hedge } = this.#intent.settings
    const first = this.#attempts.leading
    if (this.#ended || this.#sink !== null || this.#touched || closed || hedging === null || hedge === null || first === null || first.settled) return
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
    this.#dispatch(true, this.#choice.isTrial)
  }

  onAttemptConnected (attempt: Attempt): void {
    if (this.#intent.acceptsTrailers && this.#intent.upgrade === null) attempt.connection?.rewriteNextHead(announceTrailers)
    if (this.#intent.asterisk && attempt.backend.basePath === '') attempt.connection?.rewriteNextHead(asteriskForm)
    if (this.#sending.incoming) {
      const now = this.#upstream.clock.now()
      this.#time.pause(now)
      attempt.deadline = until(now, this.#intent.settings.timeouts.idle)
    } else this.#awaitHead(attempt)
    this.#arm()
  }

  #awaitHead (attempt: Attempt): void {
    attempt.stage = 'wait'
    attempt.deadline = Math.min(until(this.#upstream.clock.now(), this.#intent.settings.timeouts.headers), attempt.headBy)
  }

  onBodyProgress (): void {
    const attempt = this.#attempts.leading
    if (attempt === null || attempt.settled || attempt.stage === 'connect') return
    attempt.deadline = until(this.#upstream.clock.now(), this.#intent.settings.timeouts.idle)
    this.#arm()
  }

  onBodyEnd (): void {
    const { retry } = this.#intent.settings
    const now = this.#upstream.clock.now()
    this.#time.resume(now)
    const attempt = this.#attempts.leading
    if (attempt !== null && !attempt.settled) {
      if (retry !== null) attempt.headBy = until(now, retry.perTryTimeout)
      attempt.onAsked(now)
      if (attempt.stage === 'send') this.#awaitHead(attempt)
    }
    this.#arm()
    if (this.#copies) this.#copy()
  }

  onBodyFailed (error: Error): void {
    if (this.#ended) return
    if (this.#intent.raw === null) this.#stop('ABORTED', error)
    else this.abandon()
  }

  /** Has the request copied, once. */
  #copy (): void {
    this.#copies = false
    this.#client.copy(this.#sending.bytes(this.#intent.settings.mirror?.maxBodySize ?? 0))
  }

  // Step: commit or retry

  onAttemptInterim (attempt: Attempt, statusCode: number, headers: Buffer[]): void {
    if (this.#ended || statusCode === 101) return
    if (statusCode !== CONTINUE) this.#touched = true
    this.#client.interim(statusCode, buildInterimHeaders(this.#withoutReports(attempt, headers)))
  }

  /** Fields of a response without what its backend reports of its load, where weights follow that. */
  #withoutReports<Text extends Buffer | string> ({ backend }: Attempt, fields: readonly Text[]): readonly Text[] {
    const { clock, weigher } = this.#upstream
    return weigher.wantsReports ? takeLoadReports(fields, backend, clock.now()) : fields
  }

  onAttemptHead (attempt: Attempt, statusCode: number, rawHeaders: Buffer[], statusMessage: string): boolean {
    if (this.#ended) return false
    if (statusCode >= 400 && this.#isPassedOver(attempt, statusCode, rawHeaders)) return false
    const { method, acceptsTrailers, settings: { timeouts } } = this.#intent
    this.#win(attempt)
    try {
      const { via } = this.#upstream
      const head = buildResponseHead(method, statusCode, statusMessage, this.#withoutReports(attempt, rawHeaders), via, acceptsTrailers, this.#client.mappingFor(attempt.backend), attempt.overStream ? '2' : '1.1')
      // Over HTTP/2 any head may be.
      if (attempt.endsAtHead) Object.assign(head, { isWhole: true, hasBody: false })
      this.#keepClient(head.headers, attempt.backend)
      attempt.deadline = this.deadline = until(this.#upstream.clock.now(), timeouts.idle)
      const sink = this.#client.answer(head, attempt.backend)
      if (this.#ended) return false
      this.#sink = sink
      sink.head(head)
      if (head.isWhole) this.#endAtHead(attempt)
    } catch (error) {
      this.#refuse(attempt, error as Error)
      return false
    }
    return true
  }

  onAttemptSwitched (attempt: Attempt, rawHeaders: Buffer[], socket: Socket): boolean {
    const { upgrade } = this.#intent
    if (this.#ended || upgrade === null) return false
    const { clock, deadlines, via } = this.#upstream
    this.#win(attempt)
    try {
      const headers = buildSwitchingHead(upgrade.protocol, this.#withoutReports(attempt, rawHeaders), via, this.#client.mappingFor(attempt.backend))
      this.#keepClient(headers, attempt.backend)
      const time = clock.now() - this.#startedAt
      this.#client.tunnel?.(headers, attempt.backend, socket, () => this.#onTunnelClosed(attempt, time))
      // From now on it is the tunnel that has a time.
      deadlines.remove(this)
    } catch (error) {
      this.#refuse(attempt, error as Error)
      return false
    }
    return true
  }

  /** @param time milliseconds that it took to open */
  #onTunnelClosed (attempt: Attempt, time: number): void {
    if (this.#ended) return
    attempt.finish()
    this.#finish('successful', time)
    this.#letGo()
    this.#client.finished()
  }

  /** Whether an answer does not go to the client, as another may be better, or something else takes its place. */
  #isPassedOver (attempt: Attempt, statusCode: number, rawHeaders: readonly Buffer[]): boolean {
    if (this.#retries.covers(statusCode)) {
      this.#retries.heed(attempt, rawHeaders)
      if (this.#attempts.otherThan(attempt) !== null) {
        attempt.discard(rawHeaders, this.#hasContent)
        this.#log.failed(attempt)
        return this.#goOnWithout(attempt)
      }
      if (this.#tryAgain(attempt, null, rawHeaders)) return true
    }
    if (this.#touched || !this.#client.replaces(statusCode)) return false
    attempt.discard(rawHeaders, this.#hasContent)
    this.#log.failed(attempt)
    // One beside it may have a better answer.
    if (!this.#goOnWithout(attempt)) this.#fail('BAD_STATUS', undefined, undefined, statusCode)
    return true
  }

  /** This one's answer is sent on; one beside it is given up. */
  #win (attempt: Attempt): void {
    this.#stopTimer()
    const other = this.#attempts.lead(attempt)
    if (attempt.hedge) this.#upstream.tallies.hedgesWon++
    other?.lose()
    this.#onAnswered()
  }

  /** Leaves all to the other attempt, if there is one. */
  #goOnWithout (attempt: Attempt): boolean {
    const other = this.#attempts.otherThan(attempt)
    if (other === null) return false
    this.#attempts.lead(other)
    this.#arm()
    return true
  }

  /** Whether answers have content, whatever their heads say. */
  get #hasContent (): boolean {
    return this.#intent.method !== 'HEAD'
  }

  /** Gives the client a cookie by which it stays with the backend, unless it has that already. */
  #keepClient (headers: string[], backend: Backend): void {
    const { affinity } = this.#upstream.selector
    if (affinity === null) return
    const { kept } = this.#choice
    // Who is on his way out takes no new clients.
    if ((kept?.backend !== backend || kept.renew) && !backend.draining) headers.push('Set-Cookie', affinity.cookieFor(backend, this.#choice, this.#intent.settings.subset))
  }

  /** undici takes a 304 that tells the length of what it does not send for one cut short: its word on that is not waited for. */
  #endAtHead (attempt: Attempt): void {
    attempt.finish()
    this.onAttemptEnd(attempt, null)
  }

  /** A head that cannot be passed on: by its own fault, or because a function of the user's threw. */
  #refuse (attempt: Attempt, error: Error): void {
    const bad = (error as { code?: string }).code === 'FST_ROCKSTAR_BAD_RESPONSE'
    attempt.cancel(bad ? 'BAD_RESPONSE' : 'ABORTED', error)
    this.#log.failed(attempt)
    this.#finish('failed')
    this.#tellFailed(error)
  }

  onAttemptFailed (attempt: Attempt, code: ErrorCode, again: boolean): void {
    if (this.#ended) return
    const error = attempt.error as Error
    this.#log.failed(attempt)
    if (this.#sink !== null) return this.#cut(proxyError(code, error))
    if (this.#goOnWithout(attempt)) return
    if (again && this.#resend(attempt)) return
    this.#failure = { code, error }
    if (!this.#tryAgain(attempt, code, null)) this.#fail(code, error)
  }

  mayResend (attempt: Attempt, code: ErrorCode): boolean {
    return !this.#ended && !this.#touched && this.#sink === null && this.#retries.mayResend(attempt, code) && this.#choice.mayUse(attempt.backend)
  }

  #resend ({ backend }: Attempt): boolean {
    const permit = backend.circuit.acquire()
    if (permit === -1) return false
    this.#stopTimer()
    this.#upstream.tallies.retries++
    this.#retries.resends++
    this.#retries.tries--
    this.#choice.backend = backend
    this.#choice.permit = permit
    this.#dispatch(false, true)
    return true
  }

  /** Makes another attempt, or arranges for one, where that is allowed. @param code the failure; `null` for an answer, whose head is given */
  #tryAgain (attempt: Attempt, code: ErrorCode | null, rawHeaders: readonly Buffer[] | null): boolean {
    // While nobody takes the body, time is not the client's.
    this.#time.resume(this.#upstream.clock.now())
    if (this.#touched || !this.#retries.mayTry(attempt, code, this.#time.limit)) return false
    let chosen: Chosen | Promise<PublicBackend | undefined>
    try {
      chosen = this.#choice.next()
    } catch (error) {
      this.#log.threw(error, 'the load balancer threw on a retry')
      return false
    }
    const delay = chosen === 'none' || chosen === 'full' ? this.#retries.delay(this.#attempts, this.#time.limit) : 0
    if (delay === undefined) return false
    this.#stopTimer()
    this.#retries.spend()
    if (rawHeaders !== null) {
      this.#failure = null
      attempt.discard(rawHeaders, this.#hasContent)
      this.#log.failed(attempt)
    }
    if (chosen === 'none' || chosen === 'full') this.#waitFor(delay)
    else this.#await(chosen, true)
    return true
  }

  /** Waits before backends that were tried are tried again. */
  #waitFor (delay: number): void {
    this.#timer = this.#upstream.clock.setTimeout(() => this.#onWaited(), delay)
    // Nothing else may be there that holds the process up until then.
    this.#timer.ref?.()
    this.#arm()
  }

  /** Any backend will do now that has not asked to be left alone for longer. */
  #onWaited (): void {
    this.#timer = null
    if (this.#ended) return
    this.#waitedAfter = this.#attempts.all().length
    this.#forget()
    this.#choose()
  }

  /** What has refused may be asked again; what was tried since the last wait, or has asked to be left alone for longer, not. */
  #forget (): void {
    const now = this.#upstream.clock.now()
    const excluded = this.#attempts.all().filter(({ notBefore }, i) => i >= this.#waitedAfter || notBefore > now)
    this.#choice.forget(excluded.length === 0 ? null : excluded.map(({ backend }) => backend))
  }

  // Step: stream

  onAttemptData (attempt: Attempt, chunk: Buffer): boolean {
    if (this.#sink === null || this.#ended) return false
    attempt.deadline = this.deadline = until(this.#upstream.clock.now(), this.#intent.settings.timeouts.idle)
    const flowing = this.#sink.data(chunk)
    this.#heldByClient = !flowing
    return flowing
  }

  onAttemptEnd (attempt: Attempt, raw: readonly (Buffer | string)[] | null): void {
    if (this.#ended || this.#sink === null) return
    const trailers = raw === null ? null : this.#withoutReports(attempt, raw)
    const sink = this.#sink
    this.#finish(attempt.statusCode < 500 ? 'successful' : 'failed')
    this.#letGo()
    sink.end(buildTrailers(trailers))
    this.#client.finished()
  }

  resume (): void {
    const attempt = this.#attempts.leading
    if (this.#ended || attempt === null) return
    this.#heldByClient = false
    attempt.deadline = this.deadline = until(this.#upstream.clock.now(), this.#intent.settings.timeouts.idle)
    attempt.resume()
  }

  #cut (error: Error, result: AttemptResult = 'failed'): void {
    const sink = this.#sink as Sink
    this.#finish(result)
    this.#letGo()
    sink.cut(error)
    this.#client.finished()
  }

  // Ends that come from elsewhere

  /** The client has gone. */
  abandon (): void {
    if (this.#ended) return
    const cause = new Error('the client went away')
    this.#cancelAll('CLIENT_CLOSED', cause)
    this.#log.clientClosed(this.#attempts.leading)
    const error = proxyError('CLIENT_CLOSED', cause)
    // A handler that reads the answer itself is still there.
    if (this.#sink !== null) return this.#cut(error, 'aborted')
    this.#finish('aborted')
    this.#tellFailed(error)
  }

  /** The application, or the end of its life, wants no answer any more. */
  giveUp (cause?: unknown): void {
    if (!this.#ended) this.#stop('ABORTED', cause)
  }

  /** Somebody who was asked before anything is sent has refused. */
  refuse (error: Error): void {
    if (this.#ended) return
    this.#finish('aborted')
    this.#tellFailed(error)
  }

  isOn (backend: object): boolean {
    return this.#attempts.underWay().some(attempt => attempt.backend === backend)
  }

  onSettleFault (error: unknown): void {
    this.#log.threw(error, 'the load balancer or the circuit breaker threw on settle')
  }

  onDeadline (): void {
    if (this.#ended) return
    const now = this.#upstream.clock.now()
    const place = this.#place
    if (place !== null && place.waiting && Math.min(place.until, this.#time.limit) <= now) {
      this.#count('queue')
      return this.onShed()
    }
    if (this.#sink === null && this.#time.limit <= now) {
      this.#count('request')
      // Only who has had all of the time is to blame for it.
      const shortened = this.#time.byClient || this.#attempts.all().length > 1 || place?.isNew === false
      return this.#stop('TIMEOUT', undefined, shortened ? 'proxy' : undefined)
    }
    for (const attempt of this.#attempts.underWay()) {
      if (!this.#ended && !attempt.settled && attempt.deadline <= now) this.#timeOut(attempt)
    }
    if (!this.#ended) this.#arm()
  }

  #timeOut (attempt: Attempt): void {
    const { stage } = attempt
    if (stage === 'send' && this.#sending.incoming && !this.#sending.heldByBackend) {
      this.#count('client')
      return this.#stop('REQUEST_TIMEOUT')
    }
    if (this.#sink !== null) {
      this.#count(this.#heldByClient ? 'client' : 'stream')
      if (this.#heldByClient) this.#stop('CLIENT_CLOSED', new Error('the client took nothing for too long'))
      else this.#stop('TIMEOUT')
      return
    }
    this.#count(stage === 'connect' || stage === 'send' ? stage : 'wait')
    attempt.cancel('TIMEOUT')
    this.onAttemptFailed(attempt, 'TIMEOUT', false)
  }

  #count (stage: keyof StageTimeouts): void {
    this.#upstream.tallies.timeouts[stage]++
  }

  /** Ends the exchange together with what is under way. */
  #stop (code: ErrorCode, cause?: unknown, culprit?: Culprit): void {
    const error = proxyError(code, cause)
    for (const attempt of this.#cancelAll(code, cause, culprit)) this.#log.failed(attempt)
    if (this.#sink !== null) this.#cut(error, GIVEN_UP.has(code) ? 'aborted' : 'failed')
    else this.#fail(code, cause)
  }

  /** @returns those that were still under way */
  #cancelAll (code: ErrorCode, cause?: unknown, culprit?: Culprit): Attempt[] {
    const cancelled = this.#attempts.underWay()
    for (const attempt of cancelled) attempt.cancel(code, cause, culprit)
    return cancelled
  }

  /** @param wait milliseconds after which it is worth asking again @param statusCode what the backend has answered */
  #fail (code: ErrorCode, cause?: unknown, wait?: number, statusCode?: number): void {
    if (this.#ended) return
    this.#finish(GIVEN_UP.has(code) ? 'aborted' : 'failed')
    const error = statusCode === undefined ? causedError(code, cause) : Object.assign(proxyError(code, cause, String(statusCode)), { statusCode })
    this.#tellFailed(wait === undefined || wait === Infinity ? error : Object.assign(error, { headers: { 'retry-after': String(Math.max(1, Math.ceil(wait / 1000))) } }))
  }

  /** Lets go of all, also where who is told throws. */
  #tellFailed (error: Error): void {
    try {
      this.#client.failed(error)
    } finally {
      this.#letGo()
    }
  }

  /** Whether another upstream could be asked: nothing of the body is lost, and the request was never sent or may be processed twice. */
  get movable (): boolean {
    return this.#sending.whole && (this.#sending.idempotent || this.#attempts.all().every(({ stage }) => stage === 'connect'))
  }

  /** The body for another exchange, where this one is movable and has failed. */
  handOver (): Buffer | RequestBody | null {
    return this.#sending.handOver()
  }

  // Step: record

  #finish (result: AttemptResult, took?: number): void {
    this.#ended = true
    this.#stopTimer()
    this.#onAnswered()
    const { clock, counters } = this.#upstream
    this.#place?.leave()
    const time = took ?? clock.now() - this.#startedAt
    counters.end(result, time)
    this.#log.finished(result, time, this.#attempts)
  }

  /** No answer is waited for any more. */
  #onAnswered (): void {
    if (this.#answered) return
    this.#answered = true
    this.#upstream.budget.end()
  }

  #letGo (): void {
    this.#sending.close()
    this.#upstream.deadlines.remove(this)
  }

  /** Works out by when something has to happen next. */
  #arm (): void {
    const place = this.#place
    const byTime = this.#sink === null ? this.#time.limit : Infinity
    const byPlace = place === null || !place.waiting ? Infinity : place.until
    this.deadline = Math.min(byTime, byPlace, this.#attempts.deadline)
  }

  #stopTimer (): void {
    if (this.#timer !== null) this.#upstream.clock.clearTimeout(this.#timer)
    this.#timer = null
  }
}

/** Where 0 means for ever. */
function until (now: number, milliseconds: number): number {
  return milliseconds > 0 ? now + milliseconds : Infinity
}

function startWithBody (exchange: Exchange): void {
  exchange.startWithBody()
}
