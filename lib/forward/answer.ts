import type { Socket } from 'node:net'
import type { AttemptResult } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import type { Deadlined } from '../deadlines.ts'
import { asError } from '../errors.ts'
import type { Progress } from '../telemetry/index.ts'
import type { Upstream } from '../upstream.ts'
import { until } from './answer-time.ts'
import type { Attempt } from './attempt.ts'
import type { Choice } from './choice.ts'
import type { ExchangeClient } from './exchange-client.ts'
import type { ExchangeRecord } from './exchange-record.ts'
import type { Intent } from './intent.ts'
import { takeLoadReports } from './load-reports.ts'
import { buildInterimHeaders, buildResponseHead, buildTrailers, type ResponseHead } from './response-headers.ts'
import type { Sink } from './sink.ts'
import { buildSwitchingHead, type Upgrade } from './upgrade.ts'

/** The one interim response that says nothing. */
const CONTINUE = 100

/** Whose answer it is. */
export interface AnswerOwner extends Deadlined {
  /** Whether nobody wants it any more. */
  readonly ended: boolean
  /** It has gone out, whole or not: all is to be let go. @param error why it is not whole @param took milliseconds, where that is not how long all has taken */
  onOver (result: AttemptResult, error?: Error, took?: number): void
  /** How far it has come. */
  progress (): Progress
  /** It could not be passed on. */
  onRefused (error: Error): void
}

/** The client's side of an exchange: what comes of backends as the client gets it, and how far that has gone. */
export class Answer {
  /** Whether the client takes no more for now: then a stalled stream is its own fault. */
  held = false
  readonly #upstream: Upstream
  readonly #intent: Intent
  readonly #client: ExchangeClient
  readonly #choice: Choice
  readonly #record: ExchangeRecord
  readonly #owner: AnswerOwner
  #sink: Sink | null = null
  /** Whether an interim response that says something has gone to the client. */
  #touched = false
  #switched = false

  constructor (upstream: Upstream, intent: Intent, client: ExchangeClient, choice: Choice, record: ExchangeRecord, owner: AnswerOwner) {
    this.#upstream = upstream
    this.#intent = intent
    this.#client = client
    this.#choice = choice
    this.#record = record
    this.#owner = owner
  }

  /** Whether it has begun to go out. */
  get begun (): boolean {
    return this.#sink !== null || this.#switched
  }

  /** Whether the client has heard nothing yet that another attempt could contradict. */
  get untold (): boolean {
    return this.#sink === null && !this.#touched
  }

  interim ({ backend }: Attempt, statusCode: number, headers: readonly Buffer[]): void {
    if (statusCode !== CONTINUE) this.#touched = true
    this.#client.interim(statusCode, buildInterimHeaders(this.#withoutReports(backend, headers)))
  }

  // Step: commit

  /** An attempt's head is the answer. False holds the content back. */
  begin (attempt: Attempt, statusCode: number, rawHeaders: readonly Buffer[], statusMessage: string): boolean {
    this.#record.answered()
    try {
      const head = this.#headOf(attempt, statusCode, rawHeaders, statusMessage)
      this.#touch(attempt)
      const sink = this.#client.answer(head, attempt.backend)
      if (this.#owner.ended) return false
      this.#sink = sink
      sink.head(head)
      if (head.isWhole) this.#endAtHead(attempt)
    } catch (error) {
      this.#refuse(attempt, asError(error))
      return false
    }
    return true
  }

  /** An attempt's connection is switched: the client's is joined to it. False when that cannot be. */
  switch (attempt: Attempt, { protocol }: Upgrade, rawHeaders: readonly Buffer[], socket: Socket): boolean {
    const { backend } = attempt
    this.#record.answered()
    try {
      const headers = buildSwitchingHead(protocol, this.#withoutReports(backend, rawHeaders), this.#upstream.via, this.#client.mappingFor(backend))
      this.#keepClient(headers, backend)
      const time = this.#record.age
      this.#client.tunnel?.(headers, backend, socket, (received, sent) => this.#onTunnelClosed(attempt, time, received, sent))
      // From now on it is the tunnel that has a time.
      this.#upstream.deadlines.remove(this.#owner)
    } catch (error) {
      this.#refuse(attempt, asError(error))
      return false
    }
    return true
  }

  /** @param time milliseconds that it took to open */
  #onTunnelClosed (attempt: Attempt, time: number, received: number, sent: number): void {
    if (this.#owner.ended) return
    this.#record.bytesReceived = received
    this.#record.bytesSent = sent
    attempt.finish()
    this.#switched = true
    this.#owner.onOver('successful', undefined, time)
    this.#client.finished()
  }

  #headOf ({ backend, version, endsAtHead }: Attempt, statusCode: number, rawHeaders: readonly Buffer[], statusMessage: string): ResponseHead {
    const { method, acceptsTrailers } = this.#intent
    const fields = this.#withoutReports(backend, rawHeaders)
    const head = buildResponseHead(method, statusCode, statusMessage, fields, this.#upstream.via, acceptsTrailers, this.#client.mappingFor(backend), version)
    // Over HTTP/2 any head may be.
    if (endsAtHead) Object.assign(head, { isWhole: true, hasBody: false })
    this.#keepClient(head.headers, backend)
    const { telemetry } = this.#upstream
    if (telemetry.marksAnswers) telemetry.markAnswer(head.headers, statusCode, version, this.#intent.request, () => this.#owner.progress())
    return head
  }

  /** undici takes a 304 that tells the length of what it does not send for one cut short: its word on that is not waited for. */
  #endAtHead (attempt: Attempt): void {
    attempt.finish()
    this.end(attempt, null)
  }

  /** A head that cannot be passed on: by its own fault, or because a function of the user's threw. */
  #refuse (attempt: Attempt, error: Error): void {
    const bad = (error as { code?: string }).code === 'FST_ROCKSTAR_BAD_RESPONSE'
    attempt.cancel(bad ? 'BAD_RESPONSE' : 'ABORTED', error)
    this.#record.failed(attempt)
    // Nothing of it has gone out.
    this.#sink = null
    // Whoever threw may have ended it first.
    if (!this.#owner.ended) this.#owner.onRefused(error)
  }

  // Step: stream

  data (attempt: Attempt, chunk: Buffer): boolean {
    if (this.#sink === null || this.#owner.ended) return false
    this.#touch(attempt)
    this.#record.bytesSent += chunk.length
    const flowing = this.#sink.data(chunk)
    this.held = !flowing
    return flowing
  }

  /** The client takes content again. */
  resume (attempt: Attempt): void {
    this.held = false
    this.#touch(attempt)
    attempt.resume()
  }

  end (attempt: Attempt, raw: readonly (Buffer | string)[] | null): void {
    const sink = this.#sink
    if (sink === null || this.#owner.ended) return
    const trailers = raw === null ? null : this.#withoutReports(attempt.backend, raw)
    this.#owner.onOver(attempt.statusCode < 500 ? 'successful' : 'failed')
    sink.end(buildTrailers(trailers))
    this.#client.finished()
  }

  /** What has begun ends before its time. */
  cut (error: Error, result: AttemptResult): void {
    this.#owner.onOver(result, error)
    this.#sink?.cut(error)
    this.#client.finished()
  }

  /** Something has moved: what comes next has its time anew. */
  #touch (attempt: Attempt): void {
    attempt.deadline = this.#owner.deadline = until(this.#upstream.clock.now(), this.#intent.settings.timeouts.idle)
  }

  /** Fields of a response without what its backend reports of its load, where weights follow that. */
  #withoutReports<Text extends Buffer | string> (backend: Backend, fields: readonly Text[]): readonly Text[] {
    const { clock, weigher } = this.#upstream
    return weigher.wantsReports ? takeLoadReports(fields, backend, clock.now()) : fields
  }

  /** Gives the client a cookie by which it stays with the backend, unless it has that already. */
  #keepClient (headers: string[], backend: Backend): void {
    const { affinity } = this.#upstream.selector
    if (affinity === null) return
    const { kept } = this.#choice
    // Who is on his way out takes no new clients.
    if ((kept?.backend !== backend || kept.renew) && !backend.draining) headers.push('Set-Cookie', affinity.cookieFor(backend, this.#choice, this.#intent.settings.subset))
  }
}
