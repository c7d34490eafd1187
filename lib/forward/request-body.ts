import type { IncomingMessage } from 'node:http'
import { Readable } from 'node:stream'

/** Who is told how a body comes in. */
export interface BodyListener {
  /** Bytes have come from the client. */
  onBodyProgress (): void
  /** The last byte has come. */
  onBodyEnd (): void
  /** No more will come, and some are missing. */
  onBodyFailed (error: Error): void
}

/**
 * A request's body that is still coming: read at the pace of the attempt that it goes to, and kept as long as it is small, so that
 * another attempt may have it from its beginning. What is kept are the very chunks that were sent.
 */
export class RequestBody {
  /** Read so far. */
  bytes = 0
  /** Whether the last byte has come. */
  ended = false
  listener: BodyListener
  readonly #source: Readable
  readonly #limit: number
  /** All that was read; `null` once that is too much. */
  #kept: Buffer[] | null = []
  /** The one that gets what comes. */
  #upload: Upload | null = null
  /** Pieces read so far. */
  #chunks = 0
  #flowing = false
  #failed = false
  readonly #onData = (chunk: Buffer): void => this.#take(chunk)
  readonly #onEnd = (): void => {
    this.ended = true
    this.listener.onBodyEnd()
    // One that has still to get what was kept ends behind that.
    if (this.#upload !== null && this.#upload.position >= (this.#kept?.length ?? 0)) this.#upload.push(null)
  }

  readonly #onError = (error: Error): void => {
    if (this.#failed) return
    this.#failed = true
    // Told first, so that the backend is not blamed for what undici makes of it.
    this.listener.onBodyFailed(error)
    this.#upload?.destroy(error)
  }

  readonly #onClose = (): void => {
    if (!this.ended && !this.#source.readableEnded) this.#onError(new Error('the request ended before its body did'))
  }

  /** @param limit bytes that are kept */
  constructor (source: Readable, limit: number, listener: BodyListener) {
    this.#source = source
    this.#limit = limit
    this.listener = listener
    // Node asks whether anybody listens a tick before it emits, by when this may have let go.
    source.on('error', () => {})
    source.on('end', this.#onEnd).on('close', this.#onClose).on('error', this.#onError)
  }

  /** Whether another attempt could have it from its beginning, where so many bytes may be sent again. */
  replayable (limit: number): boolean {
    return this.bytes === 0 || (this.#kept !== null && this.bytes <= limit)
  }

  /** Whether it is read from there, and not from what a hook has put between. */
  isFrom (source: Readable): boolean {
    return source === this.#source
  }

  /** All of it; `null` while it is still coming, or when it was not kept. */
  whole (): Buffer | null {
    return this.ended && this.#kept !== null ? Buffer.concat(this.#kept) : null
  }

  /** Whether it waits for a backend to take more, not for the client to send more. */
  get heldByBackend (): boolean {
    return this.#source.isPaused()
  }

  /** The body from its beginning, for one attempt. The one that was opened before gets no more of what is still coming. */
  open (): Readable {
    const upload = new Upload(this)
    // What still comes waits until this one has got what was kept.
    if (this.#flowing) this.#source.pause()
    if (!this.ended) this.#upload = upload
    return upload
  }

  /** Gives an attempt what it asks for: what was kept, then what comes. */
  feed (upload: Upload): void {
    const kept = this.#kept ?? []
    while (upload.position < kept.length) {
      if (!upload.push(kept[upload.position++])) return
    }
    // What is lost must not end as if it were whole.
    if (upload.position < this.#chunks) upload.destroy(new Error('the rest of the body was not kept'))
    else if (this.ended) upload.push(null)
    else if (upload === this.#upload) this.#flow()
  }

  /** An attempt wants no more. */
  letGo (upload: Upload): void {
    if (upload !== this.#upload) return
    this.#upload = null
    this.#source.pause()
  }

  /** The exchange is over: nothing is read any more, and nobody told. */
  close (): void {
    this.#source.off('data', this.#onData).off('end', this.#onEnd).off('close', this.#onClose).off('error', this.#onError)
    this.#source.pause()
    this.#kept = null
    this.#upload = null
  }

  #flow (): void {
    if (!this.#flowing) {
      this.#flowing = true
      this.#source.on('data', this.#onData)
    }
    this.#source.resume()
  }

  #take (chunk: Buffer): void {
    this.bytes += chunk.length
    this.#chunks++
    if (this.bytes > this.#limit) this.#kept = null
    else this.#kept?.push(chunk)
    this.listener.onBodyProgress()
    const upload = this.#upload
    if (upload === null) {
      this.#source.pause()
      return
    }
    upload.position++
    if (!upload.push(chunk)) this.#source.pause()
  }
}

/**
 * A request's body on its way to one backend. undici destroys the body of a request that it gives up; this stands between, so that
 * the client's connection survives and the answer can still be sent, or another attempt made.
 */
class Upload extends Readable {
  /** Chunks that it has got. */
  position = 0
  readonly #body: RequestBody

  constructor (body: RequestBody) {
    super({ autoDestroy: true })
    this.#body = body
    // Whoever gives the upload up has said so where it matters.
    this.on('error', () => {})
  }

  override _read (): void {
    this.#body.feed(this)
  }

  override _destroy (error: Error | null, callback: (error?: Error | null) => void): void {
    this.#body.letGo(this)
    callback(error)
  }
}

/**
 * The whole body, where it has already come and is small: sent in one piece with the head, and kept for a second try.
 * Asked for a tick after the head, by when Node has parsed the bytes that came in the same packet.
 */
export function takeWholeBody (raw: IncomingMessage, contentLength: number): Buffer | null {
  if (raw.readableLength !== contentLength) return null
  return raw.read() as Buffer | null
}
