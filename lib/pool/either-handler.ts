import type { Duplex } from 'node:stream'
import type { Dispatcher } from 'undici'

type Raw = Buffer[]

/** What undici 8, and some dispatchers of 7, steer a response by. */
interface Controller extends Pick<Dispatcher.DispatchController, 'abort' | 'pause' | 'resume'> {
  readonly rawHeaders?: Raw | readonly string[] | Record<string, unknown> | null
  readonly rawTrailers?: Raw | readonly string[] | Record<string, unknown> | null
}

/**
 * A handler for dispatchers of any version of undici, which is told of headers as bytes that came. Those before 7 call the methods that
 * raw headers are given to; those from 8 on, and interceptors, call the newer ones, and have them beside what they have read.
 */
export class EitherHandler implements Dispatcher.DispatchHandler {
  readonly #handler: Dispatcher.DispatchHandler

  constructor (handler: Dispatcher.DispatchHandler) {
    this.#handler = handler
  }

  onConnect (abort: (error?: Error) => void): void {
    this.#handler.onConnect?.(abort)
  }

  onUpgrade (statusCode: number, headers: Raw, socket: Duplex): void {
    this.#handler.onUpgrade?.(statusCode, rawOf(headers), socket)
  }

  onHeaders (statusCode: number, headers: Raw, resume: () => void, statusMessage: string): boolean {
    return this.#handler.onHeaders?.(statusCode, rawOf(headers), resume, statusMessage) ?? true
  }

  onData (chunk: Buffer): boolean {
    return this.#handler.onData?.(chunk) ?? true
  }

  onComplete (trailers: string[] | null): void {
    this.#handler.onComplete?.(trailers)
  }

  onError (error: Error): void {
    this.#handler.onError?.(error)
  }

  onRequestStart (controller: Controller): void {
    this.#handler.onConnect?.(error => controller.abort(error ?? new Error('the request was given up')))
  }

  onRequestUpgrade (controller: Controller, statusCode: number, headers: Record<string, unknown>, socket: Duplex): void {
    this.#handler.onUpgrade?.(statusCode, rawOf(controller.rawHeaders ?? headers), socket)
  }

  onResponseStart (controller: Controller, statusCode: number, headers: Record<string, unknown>, statusMessage = ''): void {
    const flowing = this.#handler.onHeaders?.(statusCode, rawOf(controller.rawHeaders ?? headers), () => controller.resume(), statusMessage)
    if (flowing === false) controller.pause()
  }

  onResponseData (controller: Controller, chunk: Buffer): void {
    if (this.#handler.onData?.(chunk) === false) controller.pause()
  }

  onResponseEnd (controller: Controller, trailers: Record<string, unknown>): void {
    this.#handler.onComplete?.(rawOf(controller.rawTrailers ?? trailers) as unknown as string[])
  }

  onResponseError (_controller: Controller | null, error: Error): void {
    this.#handler.onError?.(error)
  }
}

/** Names and values in turn, as they came where that is known. A value that came more than once may stand in an array. */
function rawOf (headers: Raw | readonly unknown[] | Record<string, unknown> | null | undefined): Raw {
  if (headers === null || headers === undefined) return []
  const list: readonly unknown[] = Array.isArray(headers) ? headers : Object.entries(headers).flat(1)
  if (list.every(item => Buffer.isBuffer(item))) return list as Raw
  const raw: Raw = []
  for (let i = 0; i < list.length; i += 2) {
    for (const value of [list[i + 1]].flat()) raw.push(bytesOf(list[i]), bytesOf(value))
  }
  return raw
}

function bytesOf (text: unknown): Buffer {
  return Buffer.isBuffer(text) ? text : Buffer.from(String(text), 'latin1')
}
