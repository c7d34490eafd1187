import type { ClientHttp2Stream } from 'node:http2'
import { Readable } from 'node:stream'
import type { Dispatcher } from 'undici'

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

/** A body as it is sent: in one piece, as it comes, or none. */
export function contentOf (body: Dispatcher.DispatchOptions['body']): Buffer | Readable | null {
  if (body === null || body === undefined) return null
  if (body instanceof Readable || Buffer.isBuffer(body)) return body
  if (typeof body === 'string') return Buffer.from(body)
  if (body instanceof Uint8Array) return Buffer.from(body.buffer, body.byteOffset, body.byteLength)
  if (Symbol.asyncIterator in body || Symbol.iterator in body) return Readable.from(body as unknown as AsyncIterable<Buffer>)
  throw new TypeError('a body of this kind cannot be sent over HTTP/2')
}
