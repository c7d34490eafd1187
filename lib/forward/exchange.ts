import type { FastifyBaseLogger, FastifyRequest } from 'fastify'
import type { IncomingMessage } from 'node:http'
import { Readable } from 'node:stream'
import type { Backend as PublicBackend, Because, LoadBalancer, Timeouts } from '../../types/index.ts'
import { Backend } from '../backend.ts'
import type { Deadlined } from '../deadlines.ts'
import { proxyError, type ErrorCode } from '../errors.ts'
import type { Candidates, Kept, Selection, Subset } from '../selection/index.ts'
import type { Upstream } from '../upstream.ts'
import { Attempt, type AttemptListener, type Outgoing } from './attempt.ts'
import { headerValue } from './header-record.ts'
import { takeLoadReports } from './load-reports.ts'
import { IDEMPOTENT } from './outcome.ts'
import { buildInterimHeaders, buildResponseHead, buildTrailers, type ResponseHead } from './response-headers.ts'
import type { PrefixMapping } from './prefix-mapping.ts'
import type { Sink, Source } from './sink.ts'
import { takeWholeBody, Upload, type UploadListener } from './upload.ts'
import { isHttp2 } from './wire.ts'

/** A request as it is to be sent, wherever it came from. */
export interface Intent {
  request: FastifyRequest | undefined
  method: string
  /** Path and query, without the backend's base path. */
  path: string
  headers: string[]
  acceptsTrailers: boolean
  /** Bytes of the body; -1 when it is chunked. */
  contentLength: number
  /** A body that has still to come, one that is here, or none. */
  body: Readable | Buffer | null
  /** Node's own request, where there is one. */
  raw: IncomingMessage | null
  /** `OPTIONS *`. */
  asterisk: boolean
  timeouts: Readonly<Timeouts>
  /** Which backends are asked for; `null` when any will do. */
  subset: Subset | null
  log: FastifyBaseLogger | undefined
}

/** What the one who asked for an exchange wants to hear of it. */
export interface ExchangeClient {
  /** A head has come: where is the answer to go? May throw. */
  answer (head: ResponseHead, backend: Backend): Sink
  /** How a backend's paths map to the client's; `null` when they are the same. */
  mappingFor (backend: Backend): PrefixMapping | null
  /** Interim responses go straight to the client. */
  interim (statusCode: number, headers: string[]): void
  /** All is over: the answer has gone out, whole or not. */
  finished (): void
  /** There is no answer. */
  failed (error: Error): void
}

/** Steps an exchange waits in; each has its own time. */
type Waiting = 'connection' | 'upload' | 'head' | 'content' | 'client'

/** How an exchange counts. */
type Result = 'successful' | 'failed' | 'aborted'
/** What the client or the application has ended, and no backend is to be blamed for. */
const GIVEN_UP: ReadonlySet<ErrorCode> = new Set<ErrorCode>(['CLIENT_CLOSED', 'REQUEST_TIMEOUT', 'ABORTED'])

const RESENDS = 2
/** Times that a balancer may choose a backend which has gone meanwhile. */
const RESELECTS = 3
/** Backends whose circuits may refuse a request. */
const REFUSALS = 16
/** Bodies up to this many bytes are sent in one piece when they have come with the head. */
const WHOLE_BODY = 65_536
/** Milliseconds for the rest of a request that has been answered already. */
const LINGER = 10_000

/**
 * One client request from admission to its last byte: chooses a backend, makes attempts, and passes what comes
 * to its sink. It ends exactly once.
 */
export class Exchange implements Deadlined, Selection, AttemptListener, UploadListener, Source {
  deadline = Infinity
  previous: Deadlined | null = null
  next: Deadlined | null = null
  readonly request: FastifyRequest | undefined
  readonly method: string
  readonly path: string
  tried: PublicBackend[] | null = null
  readonly #upstream: Upstream
  readonly #intent: Intent
  readonly #client: ExchangeClient
  readonly #startedAt: number
  #waiting: Waiting = 'connection'
  #requestDeadline = Infinity
  #attempt: Attempt | null = null
  #resends = 0
  #reselects = 0
  #refusals = 0
  balancer: LoadBalancer | null = null
  because: Because = 'balancer'
  candidates: Candidates | null = null
  kept: Kept | undefined = undefined
  #body: Buffer | Upload | null = null
  #uploading = false
  #sink: Sink | null = null
  /** Whether the sink has asked to wait: then a stalled stream is the client's fault. */
  #heldByClient = false
  #ended = false

  constructor (upstream: Upstream, intent: Intent, client: ExchangeClient) {
    this.#upstream = upstream
    this.#intent = intent
    this.#client = client
    this.request = intent.request
    this.method = intent.method
    this.path = intent.path
    this.#startedAt = upstream.clock.now()
    upstream.counters.begin()
    upstream.deadlines.add(this)
  }

  /** Whether the answer has begun to go out. */
  get committed (): boolean {
    return this.#sink !== null
  }

  get ended (): boolean {
    return this.#ended
  }

  header (name: string): string | undefined {
    return headerValue(this.request, this.#intent.headers, name)
  }

  start (): void {
    const { body, raw, contentLength } = this.#intent
    if (body === null || Buffer.isBuffer(body)) {
      this.#body = body
      this.#uploaded()
      this.#select()
    } else if (body === raw && contentLength > 0 && contentLength <= WHOLE_BODY) {
      // A small body has mostly come in the packet of the head, and is parsed by the next tick.
      process.nextTick(startWithBody, this)
    } else this.startWithBody()
  }

  startWithBody (): void {
    if (this.#ended) return
    const { body, raw, contentLength } = this.#intent
    const whole = raw === null || body !== raw || contentLength > WHOLE_BODY ? null : takeWholeBody(raw, contentLength)
    if (whole !== null) {
      this.#body = whole
      this.#uploaded()
    } else {
      this.#uploading = true
      this.#body = new Upload(body as Readable, this)
    }
    this.#select()
  }

  // Step: select

  #select (): void {
    const { selector, closed } = this.#upstream
    if (closed) return this.#fail('CLOSED')
    try {
      const chosen = selector.select(this, this.#intent.subset)
      if (chosen instanceof Promise) {
        this.#wait('connection', this.#intent.timeouts.request)
        chosen.then(backend => this.#use(backend)).catch(error => this.#fail('NO_BACKEND', error))
      } else this.#use(chosen as PublicBackend | undefined)
    } catch (error) {
      this.#fail('NO_BACKEND', error)
    }
  }

  #use (chosen: PublicBackend | undefined): void {
    if (this.#ended) return
    if (chosen === undefined) return this.#failForWant()
    if (!(chosen instanceof Backend) || chosen.owner !== this.#upstream) return this.#fail('NO_BACKEND', new TypeError('the load balancer chose something that is no backend of this upstream'))
    // One that has gone while an async balancer was thinking.
    if (!this.#mayUse(chosen)) return ++this.#reselects <= RESELECTS ? this.#select() : this.#fail('NO_BACKEND', new Error('the load balancer chose a backend that is not available'))
    const permit = chosen.circuit.acquire()
    ;(this.tried ??= []).push(chosen)
    if (permit !== -1) {
      chosen.chosen[this.because]++
      // A try must not go out on a connection that has died with the backend.
      this.#dispatch(chosen, permit, chosen.circuit.state === 'half-open')
    } else if (++this.#refusals < REFUSALS) this.#select()
    else if (this.#refusals === REFUSALS) this.#selectClosed()
    else this.#failForWant()
  }

  /** Many have refused: those that are only tried are passed over together, so that one that is well is still found. */
  #selectClosed (): void {
    for (const backend of this.#upstream.list()) if (backend.circuit.state !== 'closed') (this.tried ??= []).push(backend)
    this.#select()
  }

  /** There is no backend; because they have failed, if any of them has. */
  #failForWant (): void {
    const { subset } = this.#intent
    const { selector } = this.#upstream
    const only = this.kept !== undefined && selector.mustKeep(this.kept.backend, this, subset) ? this.kept.backend : undefined
    const wait = this.#upstream.circuitWait(this, subset, only)
    if (wait === undefined) this.#fail('NO_BACKEND')
    else this.#fail('CIRCUIT_OPEN', undefined, wait)
  }

  /** Whether a backend may still be chosen: it is among those that the balancer was given. Who has come back to it by affinity may also while it drains. */
  #mayUse (backend: Backend): boolean {
    this.candidates?.refresh?.()
    return this.because === 'affinity' || this.candidates?.members.has(backend) === true
  }

  // Step: dispatch

  #dispatch (backend: Backend, permit: number, fresh: boolean): void {
    const { path, method, headers, timeouts } = this.#intent
    const outgoing: Outgoing = { origin: backend.origin, path: backend.basePath + path, method, headers, body: this.#body, servername: backend.servername, fresh }
    const attempt = this.#attempt = new Attempt(backend, permit, this.#upstream, this.balancer, this)
    this.#wait('connection', timeouts.connect)
    attempt.dispatch(outgoing)
  }

  onAttemptConnected (attempt: Attempt): void {
    if (this.#intent.acceptsTrailers) attempt.connection?.rewriteNextHead(announceTrailers)
    if (this.#intent.asterisk && attempt.backend.basePath === '') attempt.connection?.rewriteNextHead(asteriskForm)
    if (this.#uploading) this.#wait('upload', this.#intent.timeouts.idle)
    else {
      attempt.stage = 'wait'
      this.#wait('head', this.#intent.timeouts.headers)
    }
  }

  onUploadProgress (): void {
    if (this.#waiting === 'upload' || this.#waiting === 'content') this.#wait(this.#waiting, this.#intent.timeouts.idle)
  }

  onUploadEnd (): void {
    this.#uploaded()
    if (this.#attempt?.stage === 'send') {
      this.#attempt.stage = 'wait'
      this.#wait('head', this.#intent.timeouts.headers)
    }
  }

  onUploadFailed (error: Error): void {
    if (this.#ended) return
    if (this.#intent.raw === null) this.#stop('ABORTED', error)
    else this.abandon()
  }

  #uploaded (): void {
    const { request } = this.#intent.timeouts
    this.#uploading = false
    this.#requestDeadline = request > 0 ? this.#upstream.clock.now() + request : Infinity
  }

  // Step: commit or retry

  onAttemptInterim (attempt: Attempt, statusCode: number, headers: Buffer[]): void {
    if (!this.#ended && statusCode !== 101) this.#client.interim(statusCode, buildInterimHeaders(this.#withoutReports(attempt, headers)))
  }

  /** Fields of a response without what its backend reports of its load, where weights follow that. */
  #withoutReports<Text extends Buffer | string> ({ backend }: Attempt, fields: readonly Text[]): readonly Text[] {
    const { clock, weigher } = this.#upstream
    return weigher.wantsReports ? takeLoadReports(fields, backend, clock.now()) : fields
  }

  onAttemptHead (attempt: Attempt, statusCode: number, rawHeaders: Buffer[], statusMessage: string): boolean {
    const { method, acceptsTrailers } = this.#intent
    try {
      const { via } = this.#upstream
      const head = buildResponseHead(method, statusCode, statusMessage, this.#withoutReports(attempt, rawHeaders), via, acceptsTrailers, this.#client.mappingFor(attempt.backend))
      this.#keepClient(head, attempt.backend)
      this.#wait('content', this.#intent.timeouts.idle)
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

  /** Gives the client a cookie by which it stays with the backend, unless it has that already. */
  #keepClient (head: ResponseHead, backend: Backend): void {
    const { affinity } = this.#upstream.selector
    if (affinity === null) return
    const { kept } = this
    // Who is on his way out takes no new clients.
    if ((kept?.backend !== backend || kept.renew) && !backend.draining) head.headers.push('Set-Cookie', affinity.cookieFor(backend, this, this.#intent.subset))
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
    this.#log(attempt, error)
    this.#finish('failed')
    this.#client.failed(error)
  }

  onAttemptFailed (attempt: Attempt, code: ErrorCode, again: boolean): void {
    if (this.#ended) return
    const error = attempt.error as Error
    this.#log(attempt, error)
    if (this.#sink !== null) return this.#cut(proxyError(code, error))
    if (again) {
      const permit = attempt.backend.circuit.acquire()
      if (permit !== -1) {
        this.#resends++
        this.#upstream.retries++
        return this.#dispatch(attempt.backend, permit, true)
      }
    }
    this.#fail(code, error)
  }

  /** A connection that its backend had closed idle: nothing of the request was processed, or doing it again does no harm. */
  mayResend (attempt: Attempt, code: ErrorCode): boolean {
    return !this.#ended && this.#sink === null && code === 'RESET' && attempt.reused && !attempt.heard && this.#resends < RESENDS &&
      IDEMPOTENT.has(this.method) && !(this.#body instanceof Upload) && !this.#upstream.closed && this.#mayUse(attempt.backend)
  }

  // Step: stream

  onAttemptData (_attempt: Attempt, chunk: Buffer): boolean {
    if (this.#sink === null || this.#ended) return false
    this.#wait('content', this.#intent.timeouts.idle)
    const flowing = this.#sink.data(chunk)
    this.#heldByClient = !flowing
    return flowing
  }

  onAttemptEnd (attempt: Attempt, raw: readonly (Buffer | string)[] | null): void {
    if (this.#ended || this.#sink === null) return
    const trailers = raw === null ? null : this.#withoutReports(attempt, raw)
    const sink = this.#sink
    this.#finish((this.#attempt as Attempt).statusCode < 500 ? 'successful' : 'failed')
    sink.end(buildTrailers(trailers))
    this.#client.finished()
  }

  resume (): void {
    if (this.#ended) return
    this.#heldByClient = false
    this.#wait('content', this.#intent.timeouts.idle)
    this.#attempt?.resume()
  }

  #cut (error: Error, result: Result = 'failed'): void {
    const sink = this.#sink as Sink
    this.#finish(result)
    sink.cut(error)
    this.#client.finished()
  }

  // Ends that come from elsewhere

  /** The client has gone. */
  abandon (): void {
    if (this.#ended) return
    const cause = new Error('the client went away')
    this.#attempt?.cancel('CLIENT_CLOSED', cause)
    this.#intent.log?.info({ upstream: this.#upstream.name, backend: this.#attempt?.backend.id, statusCode: 499, stage: this.#attempt?.stage }, 'the client closed the request')
    const error = proxyError('CLIENT_CLOSED', cause)
    // A handler that reads the answer itself is still there.
    if (this.#sink !== null) return this.#cut(error, 'aborted')
    this.#finish('aborted')
    this.#client.failed(error)
  }

  /** The application, or the end of its life, wants no answer any more. */
  giveUp (cause?: unknown): void {
    if (!this.#ended) this.#stop('ABORTED', cause)
    else if (this.#waiting === 'client') this.#endLinger()
  }

  isOn (backend: object): boolean {
    return this.#attempt !== null && !this.#attempt.settled && this.#attempt.backend === backend
  }

  onSettleFault (error: unknown): void {
    this.#intent.log?.warn({ err: error, upstream: this.#upstream.name }, 'the load balancer or the circuit breaker threw on settle')
  }

  onDeadline (): void {
    if (this.#waiting === 'client') return this.#endLinger()
    const stalledUpload = this.#waiting === 'upload' && !(this.#body as Upload).heldByBackend
    if (stalledUpload) this.#stop('REQUEST_TIMEOUT')
    else if (this.#waiting === 'content' && this.#heldByClient) this.#stop('CLIENT_CLOSED', new Error('the client took nothing for too long'))
    else this.#stop('TIMEOUT')
  }

  /** Ends the exchange together with the attempt under way. */
  #stop (code: ErrorCode, cause?: unknown): void {
    const attempt = this.#attempt
    const error = proxyError(code, cause)
    if (attempt !== null && !attempt.settled) {
      attempt.cancel(code, cause)
      this.#log(attempt, error)
    }
    if (this.#sink !== null) this.#cut(error, GIVEN_UP.has(code) ? 'aborted' : 'failed')
    else this.#fail(code, cause)
  }

  /** @param wait milliseconds after which it is worth asking again */
  #fail (code: ErrorCode, cause?: unknown, wait?: number): void {
    if (this.#ended) return
    this.#finish(GIVEN_UP.has(code) ? 'aborted' : 'failed')
    const error = proxyError(code, cause)
    this.#client.failed(wait === undefined || wait === Infinity ? error : Object.assign(error, { headers: { 'retry-after': String(Math.max(1, Math.ceil(wait / 1000))) } }))
  }

  // Step: record

  #finish (result: Result): void {
    this.#ended = true
    const { clock, counters, deadlines } = this.#upstream
    const time = clock.now() - this.#startedAt
    counters.end(result, time)
    const { log, raw } = this.#intent
    if (log !== undefined && logsDebug(log)) {
      const { backend, statusCode, stage } = this.#attempt ?? {}
      log.debug({ upstream: this.#upstream.name, backend: backend?.id, statusCode, stage, result, attempts: this.#resends + (this.tried?.length ?? 0), responseTime: time }, 'exchange finished')
    }
    if (raw !== null && this.#uploading && !raw.destroyed && !isHttp2(raw)) this.#linger(raw)
    else deadlines.remove(this)
    // A web stream that nobody will read on is told so.
    if (raw === null && this.#intent.body instanceof Readable && !this.#intent.body.readableEnded) this.#intent.body.destroy()
  }

  /**
   * Reads the rest of a request that has been answered before its end, so that the client sees the answer
   * and the next request begins where it should.
   */
  #linger (raw: IncomingMessage): void {
    this.#waiting = 'client'
    this.deadline = this.#upstream.clock.now() + LINGER
    const done = () => this.#upstream.deadlines.remove(this)
    raw.once('end', done).once('close', done)
    // After the upload has let go of it, and any stream that a hook has put between.
    setImmediate(() => raw.unpipe().resume())
  }

  #endLinger (): void {
    this.#upstream.deadlines.remove(this)
    this.#intent.raw?.destroy()
  }

  #log (attempt: Attempt, error: Error): void {
    this.#intent.log?.warn({
      err: error,
      upstream: this.#upstream.name,
      backend: attempt.backend.id,
      stage: attempt.stage,
      culprit: attempt.culprit,
      statusCode: attempt.statusCode,
      responseTime: attempt.responseTime
    }, 'attempt failed')
  }

  #wait (waiting: Waiting, time: number): void {
    this.#waiting = waiting
    const until = time > 0 ? this.#upstream.clock.now() + time : Infinity
    this.deadline = waiting === 'connection' || waiting === 'head' ? Math.min(until, this.#requestDeadline) : until
  }
}

/** Whether anybody would read a debug line; pino says so, other loggers may not. */
function logsDebug (log: FastifyBaseLogger): boolean {
  return (log as FastifyBaseLogger & { isLevelEnabled?: (level: string) => boolean }).isLevelEnabled?.('debug') ?? false
}

function startWithBody (exchange: Exchange): void {
  exchange.startWithBody()
}

/** RFC 9110, 10.1.4: `TE` is to be named in `Connection`, which undici writes itself. */
function announceTrailers (head: string): string {
  return head.replace(/^connection: (?:keep-alive|close)/m, '$&, TE')
}

/** RFC 9112, 3.2.4: `OPTIONS *` is sent on as that; undici takes only paths. */
function asteriskForm (head: string): string {
  return head.replace(/^OPTIONS \/(?= |\?)/, 'OPTIONS *')
}
