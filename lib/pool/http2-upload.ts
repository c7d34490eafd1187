import type { ClientHttp2Stream } from 'node:http2'
import type { Readable } from 'node:stream'

/** Sends a body on a stream, as fast as the backend takes it. */
export class Http2Upload {
  readonly #body: Readable
  readonly #stream: ClientHttp2Stream
  readonly #failed: (error: Error) => void
  #over = false
  readonly #onData = (chunk: Buffer | string): void => {
    if (!this.#stream.write(chunk)) this.#body.pause()
  }

  readonly #onDrain = (): void => { this.#body.resume() }

  readonly #onEnd = (): void => {
    this.#letGo()
    this.#stream.end()
  }

  readonly #onError = (error: Error): void => {
    if (this.#over) return
    this.#letGo()
    this.#failed(error)
  }

  readonly #onClose = (): void => this.#onError(new Error('the body ended before it was whole'))

  /** @param failed hears once that the body will not become whole */
  constructor (body: Readable, stream: ClientHttp2Stream, failed: (error: Error) => void) {
    this.#body = body
    this.#stream = stream
    this.#failed = failed
    stream.on('drain', this.#onDrain)
    body.on('error', this.#onError).on('close', this.#onClose).on('end', this.#onEnd).on('data', this.#onData)
  }

  /** Nothing more of it is wanted. */
  giveUp (): void {
    if (this.#over) return
    this.#letGo()
    this.#body.destroy()
  }

  #letGo (): void {
    this.#over = true
    this.#stream.off('drain', this.#onDrain)
    this.#body.off('data', this.#onData).off('end', this.#onEnd).off('close', this.#onClose)
    // Whoever made the body may still end it with an error, which nobody wants to know.
    this.#body.off('error', this.#onError).on('error', () => {})
  }
}
