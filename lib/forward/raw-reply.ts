import type { FastifyReply } from 'fastify'
import type { ServerResponse } from 'node:http'
import { addTrailers, cutOff, endWithText, flushHead, holdHead, isHttp2, writeHead } from './wire.ts'
import { latin1 } from './latin1.ts'
import { joinReplyHeaders } from './reply-headers.ts'
import type { ResponseHead } from './response-headers.ts'
import type { Sink, Source } from './sink.ts'

/** Bytes up to which content is written as a string with its head, in one piece. See bench/README.md. */
const SHORT = 16_384

/** Writes the answer past Fastify, straight to the client: the way taken where no `onSend` hook wants to see it. */
export class RawReply implements Sink {
  readonly #reply: FastifyReply
  readonly #res: ServerResponse
  readonly #source: Source
  /** Whether the client has said that it takes trailers. RFC 9110, 6.5.1. */
  readonly #takesTrailers: boolean
  /** The first content, until it is known whether it is all. */
  #held: Buffer | null = null
  #flushed = false
  #waiting = false

  constructor (reply: FastifyReply, source: Source, takesTrailers: boolean) {
    this.#takesTrailers = takesTrailers
    this.#reply = reply
    this.#res = reply.raw
    this.#source = source
  }

  head ({ statusCode, statusMessage, headers, isWhole }: ResponseHead): void {
    if (isWhole) holdHead(this.#res)
    // First what may throw: until then Fastify can still answer.
    writeHead(this.#res, statusCode, statusMessage, joinReplyHeaders(this.#reply, headers))
    this.#reply.hijack()
    // What came in one packet goes out in one; what is still to come must not hold back what is here.
    process.nextTick(flush, this)
  }

  data (chunk: Buffer): boolean {
    if (!this.#flushed && this.#held === null) {
      this.#held = chunk
      return true
    }
    this.#flushHeld()
    return this.#write(chunk)
  }

  end (trailers: string[]): void {
    const res = this.#res
    const held = this.#held
    this.#flushed = true
    this.#held = null
    if (this.#takesTrailers && trailers.length > 0) addTrailers(res, trailers)
    if (held === null) res.end()
    else if (held.length <= SHORT && !isHttp2(res)) endWithText(res, latin1(held))
    else res.end(held)
  }

  cut (): void {
    // A clean end would pass half an answer off as a whole one.
    this.#flushed = true
    this.#held = null
    cutOff(this.#res)
  }

  /** Sends what there is, unless it has gone out with the end. */
  flush (): void {
    if (this.#flushed || this.#res.destroyed) return
    if (this.#held === null) {
      this.#flushed = true
      flushHead(this.#res)
    } else this.#flushHeld()
  }

  #flushHeld (): void {
    this.#flushed = true
    const held = this.#held
    this.#held = null
    if (held !== null) this.#write(held)
  }

  #write (chunk: Buffer): boolean {
    const flowing = this.#res.write(chunk)
    if (!flowing && !this.#waiting) {
      this.#waiting = true
      this.#res.once('drain', () => {
        this.#waiting = false
        this.#source.resume()
      })
    }
    return flowing
  }
}

function flush (sink: RawReply): void {
  sink.flush()
}
