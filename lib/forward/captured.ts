import { arrayBuffer, json, text } from 'node:stream/consumers'
import type { Readable } from 'node:stream'
import type { AttemptReport, HeaderRecord, ProxyResponse } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { Content } from './content.ts'
import { toRecord } from './header-record.ts'
import type { ResponseHead } from './response-headers.ts'
import type { Sink, Source } from './sink.ts'

/** Hands the answer to a handler instead of the client. */
export class CapturedResponse implements ProxyResponse, Sink {
  readonly backend: Backend
  readonly attempts: readonly AttemptReport[]
  readonly statusCode: number
  readonly statusMessage: string
  readonly headers: HeaderRecord
  readonly trailers: HeaderRecord = Object.create(null)
  readonly #source: Source
  #content: Content | null = null
  #ended = false
  #consumed = false
  #forgone = false

  constructor (head: ResponseHead, backend: Backend, source: Source, attempts: readonly AttemptReport[]) {
    this.backend = backend
    this.attempts = attempts
    this.statusCode = head.statusCode
    this.statusMessage = head.statusMessage
    this.headers = toRecord(head.headers)
    this.#source = source
  }

  get body (): Readable {
    if (this.#forgone) throw new TypeError('The body goes to the client: it could only be taken while onResponse ran')
    if (this.#content === null) {
      this.#content = new Content(this.#source)
      if (this.#ended) this.#content.push(null)
    }
    return this.#content
  }

  /** Whether somebody has asked for the content. */
  get taken (): boolean {
    return this.#content !== null
  }

  /** Nobody has asked for the content in time. */
  forgo (): void {
    this.#forgone = true
  }

  text (): Promise<string> {
    return this.#consume(text)
  }

  json<T = unknown> (): Promise<T> {
    return this.#consume(json) as Promise<T>
  }

  arrayBuffer (): Promise<ArrayBuffer> {
    return this.#consume(arrayBuffer) as Promise<ArrayBuffer>
  }

  /** A second reader would get the rest, or nothing, and take it for the whole. */
  async #consume<T> (consumer: (body: Readable) => Promise<T>): Promise<T> {
    const { body } = this
    if (this.#consumed || body.readableDidRead) throw new TypeError('The body has already been read')
    this.#consumed = true
    return await consumer(body)
  }

  head (): void {}

  data (chunk: Buffer): boolean {
    return (this.body as Content).push(chunk)
  }

  end (trailers: string[]): void {
    Object.assign(this.trailers, toRecord(trailers))
    this.#ended = true
    this.#content?.push(null)
  }

  cut (error: Error): void {
    (this.body as Content).destroy(error)
  }
}
