import type { FastifyRequest } from 'fastify'
import { proxyError } from '../errors.ts'
import type { Backend } from '../backend.ts'
import type { Upstream } from '../upstream.ts'
import { CapturedResponse } from './captured.ts'
import { Exchange } from './exchange.ts'
import type { ExchangeClient } from './exchange-client.ts'
import { rewritten } from './header-record.ts'
import { intentOf, type Intent } from './intent.ts'
import { sendCopy } from './mirror.ts'
import type { ResponseHead } from './response-headers.ts'
import type { Settings } from './settings.ts'
import type { Sink } from './sink.ts'

/** An exchange whose answer goes to the one who asked for it. */
class CaptureClient implements ExchangeClient {
  exchange: Exchange | null = null
  readonly #upstream: Upstream
  readonly #settings: Settings
  readonly #intent: Intent
  readonly #resolve: (response: CapturedResponse) => void
  readonly #reject: (error: Error) => void
  readonly #onSocketClose = (): void => this.exchange?.abandon()

  constructor (upstream: Upstream, settings: Settings, intent: Intent, resolve: (response: CapturedResponse) => void, reject: (error: Error) => void) {
    this.#upstream = upstream
    this.#settings = settings
    this.#intent = intent
    this.#resolve = resolve
    this.#reject = reject
    intent.raw?.socket?.on('close', this.#onSocketClose)
    settings.signal?.addEventListener('abort', this)
  }

  handleEvent (): void {
    this.exchange?.giveUp(this.#settings.signal?.reason)
  }

  mappingFor (): null {
    return null
  }

  /** Whoever reads the answer himself sees its status. */
  replaces (): boolean {
    return false
  }

  copy (body: Buffer | null | undefined): void {
    const { mirror } = this.#settings
    if (mirror === null) return
    if (body === undefined) this.#upstream.tallies.mirrorsSkipped++
    else sendCopy(this.#upstream, this.#intent, body, mirror)
  }

  interim (): void {}

  answer (head: ResponseHead, backend: Backend): Sink {
    const { rewriteHeaders } = this.#settings
    const { request } = this.#intent
    if (rewriteHeaders !== undefined && request !== undefined) head.headers = rewritten(head.headers, record => rewriteHeaders(record, request), 'rewriteHeaders')
    const response = new CapturedResponse(head, backend, this.exchange as Exchange, (this.exchange as Exchange).reports())
    this.#resolve(response)
    return response
  }

  finished (): void {
    this.#forget()
  }

  failed (error: Error): void {
    this.#forget()
    this.#reject(error)
  }

  #forget (): void {
    this.#intent.raw?.socket?.off('close', this.#onSocketClose)
    this.#settings.signal?.removeEventListener('abort', this)
  }
}

/** Sends what is intended and resolves to the answer as soon as its head is there. */
export function capture (upstream: Upstream, intent: Intent, settings: Settings): Promise<CapturedResponse> {
  return new Promise((resolve, reject) => {
    if (settings.signal?.aborted === true) return reject(proxyError('ABORTED', settings.signal.reason))
    const client = new CaptureClient(upstream, settings, intent, resolve, reject)
    client.exchange = new Exchange(upstream, intent, client)
    client.exchange.start()
  })
}

/** Sends a client's request and hands its answer to a handler. */
export async function captureRequest (upstream: Upstream, request: FastifyRequest, settings: Settings): Promise<CapturedResponse> {
  const intent = intentOf(request, upstream, settings)
  // There is no connection to switch: who asks so wants an answer to read.
  intent.upgrade = null
  return await capture(upstream, intent, settings)
}
