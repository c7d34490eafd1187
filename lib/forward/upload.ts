import type { IncomingMessage } from 'node:http'
import { Readable } from 'node:stream'

/** Who is told how an upload gets on. */
export interface UploadListener {
  /** Bytes have come from the client. */
  onUploadProgress (): void
  /** The last byte has come. */
  onUploadEnd (): void
  /** No more will come, and some are missing. */
  onUploadFailed (error: Error): void
}

/**
 * A request's body on its way to a backend: its bytes as they come, at the pace the backend takes them.
 * undici destroys the body of a request that it gives up; this stands between, so that the client's
 * connection survives and the answer can still be sent.
 */
export class Upload extends Readable {
  bytes = 0
  readonly #source: Readable
  readonly #listener: UploadListener
  readonly #onData = (chunk: Buffer): void => {
    this.bytes += chunk.length
    this.#listener.onUploadProgress()
    if (!this.push(chunk)) this.#source.pause()
  }

  readonly #onEnd = (): void => {
    this.#listener.onUploadEnd()
    this.push(null)
  }

  readonly #onError = (error: Error): void => {
    // Told first, so that the backend is not blamed for what undici makes of it.
    this.#listener.onUploadFailed(error)
    this.destroy(error)
  }

  readonly #onClose = (): void => {
    if (!this.readableEnded && !this.#source.readableEnded) this.#onError(new Error('the request ended before its body did'))
  }

  constructor (source: Readable, listener: UploadListener) {
    super({ autoDestroy: true })
    this.#source = source
    this.#listener = listener
    // Whoever gives the upload up has said so where it matters.
    this.on('error', () => {})
    // Node asks whether anybody listens a tick before it emits, by when this may have let go.
    source.on('error', () => {})
    source.on('end', this.#onEnd).on('close', this.#onClose).on('error', this.#onError)
  }

  /** Whether it waits for the backend to take more, not for the client to send more. */
  get heldByBackend (): boolean {
    return this.#source.isPaused()
  }

  #started = false

  override _read (): void {
    if (!this.#started) {
      this.#started = true
      this.#source.on('data', this.#onData)
    }
    this.#source.resume()
  }

  override _destroy (error: Error | null, callback: (error?: Error | null) => void): void {
    this.#source.off('data', this.#onData).off('end', this.#onEnd).off('close', this.#onClose).off('error', this.#onError)
    this.#source.pause()
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
