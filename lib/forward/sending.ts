import { Readable } from 'node:stream'
import type { TrailerSource } from '../pool/index.ts'
import type { Upstream } from '../upstream.ts'
import { dropRest } from './drop-rest.ts'
import type { Intent } from './intent.ts'
import { readRest } from './linger.ts'
import { IDEMPOTENT } from './outcome.ts'
import { RequestBody, takeWholeBody, type BodyListener } from './request-body.ts'
import { buildTrailers } from './response-headers.ts'
import { isHttp2 } from './wire.ts'

/** Bodies up to this many bytes are sent in one piece when they have come with the head. */
const WHOLE_BODY = 65_536

/** What an exchange sends: the body from where it comes, and whether it may be sent more than once. */
export class Sending implements TrailerSource {
  readonly #upstream: Upstream
  readonly #intent: Intent
  #body: Buffer | RequestBody | null = null
  #idempotent: boolean | null = null
  #handedOver = false

  constructor (upstream: Upstream, intent: Intent) {
    this.#upstream = upstream
    this.#intent = intent
  }

  /** Whether a tick is worth waiting for: a small body has mostly come in the packet of the head, and is parsed by then. */
  get isSmall (): boolean {
    const { body, raw, contentLength } = this.#intent
    return body !== null && body === raw && contentLength > 0 && contentLength <= WHOLE_BODY
  }

  /** Takes the body: whole where it is here, else as it comes. @param keep bytes worth keeping for others than another attempt */
  begin (listener: BodyListener, keep: number): void {
    const { body, raw, contentLength } = this.#intent
    if (raw !== null && isHttp2(raw)) dropRest(raw, this.#upstream.clock)
    if (body === null || Buffer.isBuffer(body)) this.#body = body
    else if (body instanceof RequestBody) {
      // Another exchange has begun with it.
      body.listener = listener
      this.#body = body
    } else {
      const whole = raw !== null && this.isSmall ? takeWholeBody(raw, contentLength) : null
      this.#body = whole ?? new RequestBody(body, Math.max(keep, this.#keptBytes()), listener)
    }
  }

  /** What the client has sent behind the body. A body that a hook has put through a stream of its own has none. */
  trailers (): string[] {
    const { body, raw } = this.#intent
    return raw !== null && (body === raw || (body instanceof RequestBody && body.isFrom(raw))) ? buildTrailers(raw.rawTrailers) : []
  }

  /** Whether the client is still sending. */
  get incoming (): boolean {
    return this.#body instanceof RequestBody && !this.#body.ended
  }

  /** Whether it waits for a backend to take more, not for the client to send more. */
  get heldByBackend (): boolean {
    return this.#body instanceof RequestBody && this.#body.heldByBackend
  }

  /** The body from its beginning, for one attempt. */
  open (): Buffer | Readable | null {
    return this.#body instanceof RequestBody ? this.#body.open() : this.#body
  }

  /** All of the body, if it has no more bytes than that; `undefined` where it has, or was not kept. */
  bytes (most: number): Buffer | null | undefined {
    const body = this.#body instanceof RequestBody ? this.#body.whole() ?? undefined : this.#body
    return body === null || (body !== undefined && body.length <= most) ? body : undefined
  }

  /** Bytes of the body that are here or have been. */
  get bytesReceived (): number {
    return this.#body === null ? 0 : this.#body instanceof RequestBody ? this.#body.bytes : this.#body.length
  }

  /** Whether another attempt could send all of it. */
  get replayable (): boolean {
    if (this.#body === null) return true
    const limit = this.#intent.settings.retry?.maxBodySize ?? WHOLE_BODY
    return this.#body instanceof RequestBody ? this.#body.replayable(limit) : this.#body.length <= limit
  }

  /** Whether all of it is here, or still to come: what was never sent may be sent however long it is. */
  get atHand (): boolean {
    return !(this.#body instanceof RequestBody) || this.replayable
  }

  /** Whether the request may be processed twice: by its method, or because its sender says so. */
  get idempotent (): boolean {
    this.#idempotent ??= this.#isIdempotent()
    return this.#idempotent
  }

  /** Whether nothing of it is lost. */
  get whole (): boolean {
    return !(this.#body instanceof RequestBody) || this.#body.replayable(Infinity)
  }

  /** The body for another exchange, which is to close it. */
  handOver (): Buffer | RequestBody | null {
    this.#handedOver = true
    return this.#body
  }

  /** Lets go of the body, and of what is left of the request. */
  close (): void {
    if (this.#handedOver) return
    const { body, raw } = this.#intent
    if (this.#body instanceof RequestBody) {
      if (raw === null) this.#body.close()
      else readRest(this.#body, raw, this.#upstream)
    }
    // A web stream that nobody will read on is told so.
    if (raw === null && body instanceof Readable && !body.readableEnded) body.destroy()
  }

  #isIdempotent (): boolean {
    const { method, request, settings: { retry }, log } = this.#intent
    if (retry === null) return IDEMPOTENT.has(method)
    if (retry.isIdempotent(method)) return true
    const { idempotencyKey } = retry
    if (typeof idempotencyKey === 'boolean') return idempotencyKey && this.#header('idempotency-key')
    try {
      return request !== undefined && idempotencyKey(request) === true
    } catch (error) {
      log?.warn({ err: error, upstream: this.#upstream.name }, 'retry.idempotencyKey threw')
      return false
    }
  }

  #header (name: string): boolean {
    const { request, headers } = this.#intent
    return request === undefined ? headers.some((field, i) => i % 2 === 0 && field.toLowerCase() === name) : request.headers[name] !== undefined
  }

  /** Bytes of the body that another attempt, or another upstream, could need. */
  #keptBytes (): number {
    const { retry, fallback } = this.#intent.settings
    const wanted = (retry !== null && this.idempotent) || fallback?.upstream !== undefined || this.#upstream.refusable
    return wanted ? retry?.maxBodySize ?? WHOLE_BODY : 0
  }
}
