import type { Socket } from 'node:net'
import type { Readable } from 'node:stream'
import type { AttemptReport, AttemptResult, Circuit, Culprit, LoadBalancer, Outcome, Stage, Timer } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { proxyError, type ErrorCode } from '../errors.ts'
import { reasonPhrase, UnprocessedError, type BackendConnections, type Connection, type PooledHandler, type StreamHandler, type TrailerSource } from '../pool/index.ts'
import type { Upstream } from '../upstream.ts'
import { latin1 } from './latin1.ts'
import { culpritOf, errorCodeOf, resultOf } from './outcome.ts'
import { rawContentLength } from './raw-fields.ts'

/** What is sent to a backend. */
export interface Outgoing {
  /** For a dispatcher that serves more than one, as undici's `Agent` does. */
  origin: string
  path: string
  method: string
  headers: string[]
  /** Whether it asks for `*`: over HTTP/1.1 its head is rewritten, over HTTP/2 it is a path. */
  asterisk: boolean
  body: Buffer | Readable | null
  /** What follows a body that is still coming; over HTTP/1.1 undici cannot send it. */
  trailers: TrailerSource
  /** The TLS name; undici would take it from `Host`. */
  servername: string | null
  fresh: boolean
  /** Milliseconds that its connection may have been idle. */
  maxIdle: number
  /** What the connection is to become; `null` for an ordinary request. */
  upgrade: string | null
}

/** Who an attempt reports to. */
export interface AttemptListener {
  /** The request is being written on a connection. */
  onAttemptConnected (attempt: Attempt): void
  onAttemptInterim (attempt: Attempt, statusCode: number, headers: Buffer[]): void
  /** A final head has come. False holds the content back until `resume()`. */
  onAttemptHead (attempt: Attempt, statusCode: number, headers: Buffer[], statusMessage: string): boolean
  /** The backend has switched protocols; the connection is the listener's from now on. False when nobody wants it. */
  onAttemptSwitched (attempt: Attempt, headers: Buffer[], socket: Socket): boolean
  onAttemptData (attempt: Attempt, chunk: Buffer): boolean
  onAttemptEnd (attempt: Attempt, trailers: readonly (Buffer | string)[] | null): void
  /** It failed, at any stage. It has been settled. @param again what `mayResend()` has said */
  onAttemptFailed (attempt: Attempt, code: ErrorCode, again: boolean): void
  /** Whether the request is to be sent again, on another connection, after such a failure. */
  mayResend (attempt: Attempt, code: ErrorCode): boolean
  /** A function of the user's own threw when it heard of the result. */
  onSettleFault (error: unknown): void
}

/** Bytes and milliseconds up to which an answer that nobody wants is read, so that its connection can be used again. */
const DRAINED_BYTES = 65_536
const DRAINED_TIME = 1_000
/** Answers by which a backend says that it has too much to do. */
const OVERLOADED: ReadonlySet<number> = new Set([429, 503])

const PLAIN = /^[\t\x20-\x7e]*$/

/**
 * One try of an exchange on one backend: it is the handler that undici calls. Whatever happens on the connection,
 * it is settled exactly once.
 */
export class Attempt implements PooledHandler, StreamHandler, Outcome {
  readonly backend: Backend
  connection: Connection | null = null
  awaitsHead = false
  held = false
  heard = false
  settled = false
  /** Whether its connection has carried another request before. */
  reused = false
  overStream = false
  endsAtHead = false
  /** Whether its backend has closed the connection before it took the request, and takes it on another. */
  leftBehind = false
  stage: Stage = 'connect'
  culprit: Culprit = 'none'
  statusCode = 0
  error: Error | undefined = undefined
  headTime = -1
  responseTime = -1
  /** By when its present step must be over, and by when its head must have come; on the clock's scale. */
  deadline = Infinity
  headBy = Infinity
  /** Before when its backend has asked not to be asked again. */
  notBefore = 0
  /** Whether it was made although the one before it had not failed. */
  readonly hedge: boolean
  readonly #listener: AttemptListener
  readonly #upstream: Upstream
  readonly #balancer: LoadBalancer | null
  readonly #circuit: Circuit
  readonly #permit: number
  readonly #startedAt: number
  readonly #heardBefore: number
  #dispatcher: Partial<Pick<BackendConnections, 'cancel' | 'isWaiting'>> | null = null
  #abort: ((error?: Error) => void) | null = null
  #resume: (() => void) | null = null
  #headBytes: Buffer | null = null
  #circuitSettled = false
  /** Whether its connection is a tunnel now. */
  #switched = false
  /** Since when the backend has all it needs for an answer; -1 before. */
  #askedAt = -1
  /** How many waited for this backend then; 0 before, and once it waits no more. */
  #waiting = 0
  /** Bytes of an answer that nobody wants which may still come; -1 for one that is wanted. */
  #drain = -1
  #drainTimer: Timer | null = null

  /**
   * @param permit of the backend's circuit
   * @param balancer the one that chose the backend, and hears how that went
   * @param hedge whether another attempt is under way beside it
   * @param incoming whether the client is still sending: until it has sent all, the backend is not waited for
   */
  constructor (backend: Backend, permit: number, upstream: Upstream, balancer: LoadBalancer | null, hedge: boolean, incoming: boolean, listener: AttemptListener) {
    this.#circuit = backend.circuit
    this.#permit = permit
    this.backend = backend
    this.#balancer = balancer
    this.#upstream = upstream
    this.#listener = listener
    this.#startedAt = upstream.clock.now()
    this.#heardBefore = backend.heard
    this.hedge = hedge
    backend.counters.begin()
    backend.concurrency?.begin()
    if (!incoming) this.onAsked(this.#startedAt)
  }

  /** From now on it is the backend that is waited for. */
  onAsked (now: number): void {
    this.#askedAt = now
    this.#waiting = this.backend.concurrency?.wait() ?? 0
  }

  dispatch (outgoing: Outgoing): void {
    try {
      const dispatcher = this.#upstream.pool.dispatcherFor(this.backend)
      this.#dispatcher = dispatcher as Partial<BackendConnections>
      dispatcher.dispatch(outgoing, this)
    } catch (error) {
      // A pool or dispatcher of the user's own may throw.
      this.onError(error as Error)
    }
  }

  /** Gives the attempt up for a reason of ours: its connection is closed, its permit is back. @param culprit where that is not who it mostly is */
  cancel (code: ErrorCode, cause?: unknown, culprit?: Culprit): void {
    if (this.settled) return
    // Waiting for one of our own connections says nothing of the backend, unless nothing came on any of them meanwhile.
    const waited = code === 'TIMEOUT' && this.stage === 'connect' && this.backend.heard !== this.#heardBefore && this.#dispatcher?.isWaiting?.(this) === true
    // Its name may lead elsewhere by now.
    if (code === 'TIMEOUT' && this.stage === 'connect' && !waited) this.backend.connectFailed?.()
    this.#fail(proxyError(code, cause), culprit ?? (waited ? 'proxy' : culpritOf(code)))
    this.#close()
  }

  /** Gives the attempt up, as the other one that was made has had the better answer. */
  lose (): void {
    if (this.settled) return
    // It would have taken longer still; left out, only the quick ones would be known.
    if (!this.hedge && this.headTime === -1 && this.#askedAt !== -1) this.#upstream.hedging?.latencies.record(this.#upstream.clock.now() - this.#askedAt)
    this.cancel('ABORTED', new Error('another attempt was answered first'))
  }

  /** Settles an answer that is not wanted, as another attempt is made. What is left of it is read away where that costs less than a new connection. */
  discard (headers: readonly Buffer[], hasContent: boolean): void {
    if (this.settled) return
    this.#settle()
    if (hasContent && rawContentLength(headers) > DRAINED_BYTES) return this.#close()
    this.#drain = DRAINED_BYTES
    // One that goes on for ever must not hold the connection.
    this.#drainTimer = this.#upstream.clock.setTimeout(() => this.#close(), DRAINED_TIME)
    if (this.connection === null) this.#resume?.()
  }

  /** What hooks and the log are told of it. */
  report (): AttemptReport {
    const { stage, culprit, statusCode, error, headTime, responseTime } = this
    const time = this.settled ? responseTime : this.#upstream.clock.now() - this.#startedAt
    return { backend: this.backend, result: this.result, outcome: { stage, culprit, statusCode, error, headTime, responseTime }, time, hedge: this.hedge }
  }

  get result (): AttemptResult | 'pending' {
    return this.settled ? resultOf(this) : 'pending'
  }

  /** Lets content flow again after it was held back. */
  resume (): void {
    if (this.settled) return
    if (this.connection === null) this.#resume?.()
    else if (this.held) {
      this.held = false
      // Not in the middle of what undici is just reading.
      process.nextTick(readOn, this.connection)
    }
  }

  onConnect (abort: (error?: Error) => void): void {
    if (this.settled) return abort(this.error)
    this.#abort = abort
    this.stage = 'send'
    this.awaitsHead = true
    if (this.connection !== null) this.reused = this.connection.begin()
    this.#listener.onAttemptConnected(this)
  }

  onContinue (): void {
    if (!this.settled) this.#listener.onAttemptInterim(this, 100, [])
  }

  onStatusLine (bytes: Buffer): void {
    this.#headBytes = bytes
  }

  onHeaders (statusCode: number, headers: Buffer[], resume: () => void, statusMessage: string): boolean {
    if (this.settled) return false
    if (statusCode >= 100 && statusCode < 200 && statusCode !== 101) {
      this.#listener.onAttemptInterim(this, statusCode, headers)
      return true
    }
    if (this.#headBytes !== null && isFaulty(this.#headBytes, headers)) this.connection?.retire()
    this.connection?.heed(headers)
    this.#onHead(statusCode)
    // A try has told what it was for; its content may go on for hours.
    if (this.#circuit.state === 'half-open') this.#settleCircuit()
    this.#resume = resume
    const flowing = this.#listener.onAttemptHead(this, statusCode, headers, this.#phrase(statusMessage))
    return flowing || this.connection !== null || this.#drain >= 0
  }

  onUpgrade (statusCode: number, headers: Buffer[], socket: Socket): void {
    if (this.settled) {
      socket.destroy()
      return
    }
    this.connection?.release(socket)
    // It has left the pool, and needs nothing of it for as long as it is open.
    this.connection = null
    this.#abort = null
    this.#dispatcher = null
    this.#onHead(statusCode)
    this.#switched = true
    // The backend has answered; how long it is talked to is up to others.
    this.#settleCircuit()
    if (!this.#listener.onAttemptSwitched(this, headers, socket)) socket.destroy()
  }

  onData (chunk: Buffer): boolean {
    if (this.settled) return this.#readAway(chunk)
    this.backend.heard++
    const flowing = this.#listener.onAttemptData(this, chunk)
    if (this.connection === null) return flowing
    // One of our own connections holds back in its socket; the rest of what has been read still comes.
    this.held = !flowing
    return true
  }

  onComplete (trailers: readonly (Buffer | string)[] | null): void {
    if (this.settled) return this.#stopDraining()
    // undici takes a reset for the end where the end of the connection is the end of the content.
    const reset = this.connection?.socket?.errored
    if (reset !== null && reset !== undefined) return this.onError(reset)
    this.finish()
    this.#listener.onAttemptEnd(this, trailers)
  }

  /** The whole response has come. */
  finish (): void {
    this.stage = 'done'
    this.#settle()
  }

  onError (error: Error): void {
    if (this.settled) return this.#stopDraining()
    if (error instanceof UnprocessedError) {
      // As if it had never been sent.
      this.stage = 'connect'
      this.leftBehind = error.leaving
    }
    const code = errorCodeOf(this.stage, error)
    const again = this.#listener.mayResend(this, code)
    // undici's parser shows what it could not read: content, which is not for a log.
    if ('data' in error) error.data = undefined
    // A connection that died idle is nobody's fault where its request can go out on another.
    this.#fail(error, again ? 'proxy' : culpritOf(code))
    this.#listener.onAttemptFailed(this, code, again)
  }

  #onHead (statusCode: number): void {
    this.awaitsHead = false
    this.backend.heard++
    this.statusCode = statusCode
    this.stage = 'stream'
    const now = this.#upstream.clock.now()
    this.headTime = now - this.#startedAt
    if (!this.hedge && this.#askedAt !== -1) this.#upstream.hedging?.latencies.record(now - this.#askedAt)
    if (this.#waiting > 0) this.#answered(OVERLOADED.has(statusCode) ? 'overloaded' : statusCode < 500 ? 'well' : 'not', now)
  }

  /** The reason phrase in characters of one byte; undici reads it as UTF-8, which not all of them are. */
  #phrase (asRead: string): string {
    const bytes = this.#headBytes
    this.#headBytes = null
    if (PLAIN.test(asRead)) return asRead
    return (bytes === null ? '' : reasonPhrase(bytes)).replaceAll(/[^\t\x20-\x7e\x80-\xff]/g, '')
  }

  #close (): void {
    this.#stopDraining()
    if (this.#dispatcher?.cancel !== undefined) this.#dispatcher.cancel(this)
    // A dispatcher of the user's own has no more than this; what is not connected yet is aborted when it is.
    else this.#abort?.(this.error)
  }

  #readAway (chunk: Buffer): boolean {
    if (this.#drain < 0) return false
    this.#drain -= chunk.length
    if (this.#drain < 0) this.#close()
    return this.#drain >= 0
  }

  #stopDraining (): void {
    if (this.#drainTimer !== null) this.#upstream.clock.clearTimeout(this.#drainTimer)
    this.#drainTimer = null
    this.#drain = -1
  }

  #answered (how: 'well' | 'overloaded' | 'not', now: number): void {
    this.backend.concurrency?.answer(now - this.#askedAt, this.#waiting, how, now)
    this.#waiting = 0
  }

  #fail (error: Error, culprit: Culprit): void {
    this.error = error
    this.culprit = culprit
    this.#settle()
  }

  #settle (): void {
    this.settled = true
    this.awaitsHead = false
    const now = this.#upstream.clock.now()
    // A tunnel is no answer that has taken long.
    this.responseTime = this.#switched ? this.headTime : now - this.#startedAt
    const { backend } = this
    if (this.#waiting > 0) this.#answered(this.culprit === 'backend' && this.stage === 'wait' && (this.error as { code?: string }).code === 'FST_ROCKSTAR_TIMEOUT' ? 'overloaded' : 'not', now)
    const result = resultOf(this)
    backend.settle(result, this.responseTime)
    backend.concurrency?.end()
    if (backend.observed !== null && result !== 'aborted') backend.observed.count(result === 'failed', result === 'failed' ? this.responseTime : this.headTime)
    const { outlier } = this.#upstream
    if (outlier !== null && result !== 'aborted') outlier.count(backend, this)
    // Each apart: what one of the user's functions throws must not keep the result from the other.
    this.#settleCircuit()
    try {
      this.#balancer?.settle?.(backend, this)
    } catch (error) {
      this.#listener.onSettleFault(error)
    }
  }

  /** Once: a try of a half-open circuit at its head, any other attempt at its end. */
  #settleCircuit (): void {
    if (this.#circuitSettled) return
    this.#circuitSettled = true
    try {
      this.#circuit.settle(this.#permit, this)
    } catch (error) {
      this.#listener.onSettleFault(error)
    }
  }
}

const MINOR_VERSION = 'HTTP/1.'.length
const ZERO = 0x30

/** Whether a head is HTTP/1.0 and has chunks, which it cannot: its connection is not to be used again. RFC 9112, 6.1. */
function isFaulty (head: Buffer, headers: Buffer[]): boolean {
  return head[MINOR_VERSION] === ZERO && headers.some((name, i) => i % 2 === 0 && latin1(name).toLowerCase() === 'transfer-encoding')
}

function readOn (connection: Connection): void {
  connection.socket?.emit('readable')
}
