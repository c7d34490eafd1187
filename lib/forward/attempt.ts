import type { Socket } from 'node:net'
import type { AttemptReport, AttemptResult, AttemptTrace, Culprit, LoadBalancer, Outcome, Stage } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { asError, proxyError, type ErrorCode } from '../errors.ts'
import { UnprocessedError, type BackendConnections, type Connection, type PooledHandler, type StreamHandler } from '../pool/index.ts'
import type { Trace } from '../telemetry/index.ts'
import type { Upstream } from '../upstream.ts'
import { Account, type FaultListener } from './account.ts'
import { culpritOf, errorCodeOf, resultOf } from './outcome.ts'
import type { Outgoing } from './outgoing.ts'
import { isFaulty, phraseOf } from './status-line.ts'
import { Unwanted } from './unwanted.ts'

/** Who an attempt reports to. */
export interface AttemptListener extends FaultListener {
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
}

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
  /** When it was made, had a connection, and had sent all; on the clock's scale. -1 before. */
  readonly startedAt: number
  connectedAt = -1
  sentAt = -1
  /** By when its present step must be over, and by when its head must have come; on the clock's scale. */
  deadline = Infinity
  headBy = Infinity
  /** Before when its backend has asked not to be asked again. */
  notBefore = 0
  /** Where it is told of; `null` where nobody listens. */
  trace: Trace<AttemptTrace> | null = null
  /** Whether it was made although the one before it had not failed. */
  readonly hedge: boolean
  readonly #listener: AttemptListener
  readonly #upstream: Upstream
  readonly #account: Account
  readonly #heardBefore: number
  #dispatcher: Partial<Pick<BackendConnections, 'cancel' | 'isWaiting'>> | null = null
  #abort: ((error?: Error) => void) | null = null
  #resume: (() => void) | null = null
  #headBytes: Buffer | null = null
  /** Whether its connection is a tunnel now. */
  #switched = false
  /** Once nobody wants its answer. */
  #unwanted: Unwanted | null = null

  /**
   * @param permit of the backend's circuit
   * @param balancer the one that chose the backend, and hears how that went
   * @param hedge whether another attempt is under way beside it
   * @param incoming whether the client is still sending: until it has sent all, the backend is not waited for
   */
  constructor (backend: Backend, permit: number, upstream: Upstream, balancer: LoadBalancer | null, hedge: boolean, incoming: boolean, listener: AttemptListener) {
    this.backend = backend
    this.#upstream = upstream
    this.#listener = listener
    this.startedAt = upstream.clock.now()
    this.#heardBefore = backend.heard
    this.hedge = hedge
    this.#account = new Account(backend, permit, upstream, balancer, hedge, listener)
    if (!incoming) this.onAsked(this.startedAt)
  }

  /** From now on it is the backend that is waited for. */
  onAsked (now: number): void {
    this.#account.asked(now)
  }

  dispatch (outgoing: Outgoing): void {
    try {
      const dispatcher = this.#upstream.pool.dispatcherFor(this.backend)
      this.#dispatcher = dispatcher as Partial<BackendConnections>
      dispatcher.dispatch(outgoing, this)
    } catch (error) {
      // A pool or dispatcher of the user's own may throw.
      this.onError(asError(error))
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
    if (this.headTime === -1) this.#account.noteTime(this.#upstream.clock.now())
    this.cancel('ABORTED', new Error('another attempt was answered first'))
  }

  /** Settles an answer that is not wanted, as another attempt is made. What is left of it is read away where that costs less than a new connection. */
  discard (headers: readonly Buffer[], hasContent: boolean): void {
    if (this.settled) return
    this.#settle()
    if (hasContent && Unwanted.isTooLong(headers)) return this.#close()
    this.#unwanted = new Unwanted(this.#upstream.clock, () => this.#close())
    if (this.connection === null) this.#resume?.()
  }

  /** What hooks and the log are told of it. */
  report (): AttemptReport {
    const { stage, culprit, statusCode, error, headTime, responseTime } = this
    const time = this.settled ? responseTime : this.#upstream.clock.now() - this.startedAt
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
    if (this.#account.isTry) this.#account.settleCircuit(this)
    this.#resume = resume
    const head = this.#headBytes
    this.#headBytes = null
    const flowing = this.#listener.onAttemptHead(this, statusCode, headers, phraseOf(statusMessage, head))
    return flowing || this.connection !== null || this.#unwanted !== null
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
    this.#account.settleCircuit(this)
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
    this.headTime = now - this.startedAt
    this.#account.headCame(statusCode, now)
  }

  #close (): void {
    this.#stopDraining()
    if (this.#dispatcher?.cancel !== undefined) this.#dispatcher.cancel(this)
    // A dispatcher of the user's own has no more than this; what is not connected yet is aborted when it is.
    else this.#abort?.(this.error)
  }

  #readAway (chunk: Buffer): boolean {
    return this.#unwanted?.take(chunk) === true
  }

  #stopDraining (): void {
    this.#unwanted?.stop()
    this.#unwanted = null
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
    this.responseTime = this.#switched ? this.headTime : now - this.startedAt
    this.#account.settle(this, now)
    if (this.trace !== null) this.#tellEnd(this.trace)
  }

  #tellEnd (trace: Trace<AttemptTrace>): void {
    if (this.headTime !== -1) trace.message.version = this.version
    trace.message.report = this.report()
    trace.finish(this.error)
  }

  /** Of HTTP, that its backend answers by. */
  get version (): '1.1' | '2' {
    return this.overStream ? '2' : '1.1'
  }
}

function readOn (connection: Connection): void {
  connection.socket?.emit('readable')
}
