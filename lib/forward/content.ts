import { Readable } from 'node:stream'
import type { Source } from './sink.ts'

/** A response's content as a stream, at the pace of its reader. Letting go of it lets go of the backend's connection. */
export class Content extends Readable {
  readonly #source: Source

  constructor (source: Source) {
    super({ highWaterMark: 65_536 })
    this.#source = source
    // Whoever reads hears of an error through the stream; when nobody does, it must not bring the process down.
    this.on('error', () => {})
  }

  override _read (): void {
    this.#source.resume()
  }

  override _destroy (error: Error | null, callback: (error?: Error | null) => void): void {
    if (!this.readableEnded) this.#source.abandon()
    callback(error)
  }
}
