import type { FastifyReply } from 'fastify'
import { STATUS_CODES, type OutgoingHttpHeaders, type ServerResponse } from 'node:http'
import { Content } from './content.ts'
import { toRecord } from './header-record.ts'
import { toHttp2Record } from './http2-record.ts'
import { joinReplyHeaders } from './reply-headers.ts'
import type { ResponseHead } from './response-headers.ts'
import type { Sink, Source } from './sink.ts'
import { addTrailers, cutOff, flushHead, holdHead, isHttp2, writeHead as writeSpelt } from './wire.ts'

/**
 * Sends the answer through Fastify, so that its `onSend` hooks see and may change it. What they leave alone
 * goes out in the same bytes as past Fastify.
 */
export class HookedReply implements Sink {
  readonly #reply: FastifyReply
  readonly #source: Source
  /** Whether the client has said that it takes trailers. RFC 9110, 6.5.1. */
  readonly #takesTrailers: boolean
  #content: Content | null = null

  constructor (reply: FastifyReply, source: Source, takesTrailers: boolean) {
    this.#takesTrailers = takesTrailers
    this.#reply = reply
    this.#source = source
  }

  head (head: ResponseHead): void {
    const reply = this.#reply
    const headers = joinReplyHeaders(reply, head.headers)
    reply.code(head.statusCode)
    const record = isHttp2(reply.raw) ? toHttp2Record(headers) : toRecord(headers)
    for (const [name, value] of Object.entries(record)) if (name !== UNSETTABLE) reply.header(name, value)
    if (!isHttp2(reply.raw)) keepSpelling(reply.raw, headers, head.statusCode, head.statusMessage)
    else if (head.isWhole) holdHead(reply.raw)
    if (head.hasBody) this.#content = new Content(this.#source)
    // HTTP/2 sends no trailers behind a head that is also the end.
    if (head.hasBody) reply.raw.once('pipe', this.#takesTrailers && isHttp2(reply.raw) ? flushNow : flushSoon)
    // Without content there is none for a hook to see; Fastify then adds no content type of its own.
    reply.send(this.#content ?? undefined)
  }

  data (chunk: Buffer): boolean {
    return this.#content === null || this.#content.push(chunk)
  }

  end (trailers: string[]): void {
    if (this.#takesTrailers && trailers.length > 0) addTrailers(this.#reply.raw, trailers)
    this.#content?.push(null)
  }

  cut (error: Error): void {
    // Before its head is out, Fastify can still answer with the error.
    if (this.#content === null || this.#reply.raw.headersSent) cutOff(this.#reply.raw)
    this.#content?.destroy(error)
  }
}

/** Fastify lets a head wait for the first content, which may be long in coming. */
function flushSoon (this: ServerResponse): void {
  setImmediate(() => {
    if (!this.destroyed) flushNow.call(this)
  })
}

function flushNow (this: ServerResponse): void {
  if (!this.headersSent) flushHead(this)
}

/** The one name that Fastify, which keeps headers in an object, cannot keep. */
const UNSETTABLE = '__proto__'

/**
 * Fastify writes names in lower case and each once. This puts back the backend's spelling, order and repetitions
 * of all fields that no hook has changed, and its reason phrase.
 */
function keepSpelling (res: ServerResponse, original: string[], statusCode: number, statusMessage: string): void {
  const { writeHead } = res
  res.writeHead = function (this: ServerResponse, code: number, reason?: string | OutgoingHttpHeaders, given?: OutgoingHttpHeaders) {
    res.writeHead = writeHead
    const final: OutgoingHttpHeaders = Object.assign(Object.create(null), this.getHeaders(), typeof reason === 'object' ? reason : given)
    for (const name of this.getHeaderNames()) this.removeHeader(name)
    const phrase = code === statusCode ? statusMessage : STATUS_CODES[code] ?? ''
    const headers = respelt(final, original)
    writeSpelt(this, code, phrase, headers)
    // Node writes a head in the encoding of the text that follows in the same breath.
    if (/[\x80-\xff]/.test(phrase + headers.join(''))) flushHead(this)
    return this
  } as ServerResponse['writeHead']
}

function respelt (final: OutgoingHttpHeaders, original: string[]): string[] {
  const before = toRecord(original)
  const headers: string[] = []
  const written = new Set<string>()
  for (let i = 0; i < original.length; i += 2) {
    const name = original[i].toLowerCase()
    const value = name === UNSETTABLE ? before[name] : final[name]
    if (value === undefined) continue
    if (same(value, before[name])) headers.push(original[i], original[i + 1])
    else if (!written.has(name)) pushAll(headers, original[i], value)
    written.add(name)
  }
  for (const [name, value] of Object.entries(final)) {
    if (value !== undefined && !written.has(name.toLowerCase())) pushAll(headers, name, value)
  }
  return headers
}

function same (a: number | string | string[], b: string | string[] | undefined): boolean {
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((item, i) => item === b[i])
  return String(a) === b
}

function pushAll (headers: string[], name: string, value: number | string | string[]): void {
  for (const item of Array.isArray(value) ? value : [value]) headers.push(name, String(item))
}
