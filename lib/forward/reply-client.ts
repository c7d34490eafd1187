import type { FastifyReply, FastifyRequest } from 'fastify'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import type { OnError } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { asError, proxyError } from '../errors.ts'
import { watchSend } from '../fallback.ts'
import type { Telemetry } from '../telemetry/index.ts'
import type { Tunnel } from '../tunnel/index.ts'
import type { Upstream } from '../upstream.ts'
import { CapturedResponse } from './captured.ts'
import { Completion } from './completion.ts'
import { dropRest } from './drop-rest.ts'
import { Exchange } from './exchange.ts'
import type { ExchangeClient, TunnelClosed } from './exchange-client.ts'
import { rewritten } from './header-record.ts'
import { HookedReply } from './hooked-reply.ts'
import { ALLOW, intentOf, type FastifyIntent } from './intent.ts'
import { readRest } from './linger.ts'
import { tellListener, watchListener } from './listeners.ts'
import { sendCopy } from './mirror.ts'
import { PrefixMapping } from './prefix-mapping.ts'
import { RawReply } from './raw-reply.ts'
import { RequestBody } from './request-body.ts'
import { wantsHooks } from './reply-kind.ts'
import { openTunnel, startIfAllowed } from './reply-tunnel.ts'
import { MAX_FORWARDS_REACHED } from './request-headers.ts'
import type { ResponseHead } from './response-headers.ts'
import type { Settings } from './settings.ts'
import type { Sink } from './sink.ts'
import type { Upgrade } from './upgrade.ts'
import { closeAfter, isHttp2, isOver, writeInterim } from './wire.ts'

const kClient = Symbol('rockstar-proxy.client')
type Tracked = (ServerResponse | IncomingMessage) & { [kClient]?: ReplyClient }

/** Where a request goes that has found no answer. */
interface Next {
  upstream: Upstream
  body: RequestBody | Buffer | null
}

/** An exchange whose answer goes into a reply. */
export class ReplyClient implements ExchangeClient {
  readonly completion = new Completion<void>()
  readonly #request: FastifyRequest
  readonly #reply: FastifyReply
  readonly #onError: OnError | undefined
  readonly #telemetry: Telemetry
  #upstream: Upstream | null = null
  #settings: Settings | null = null
  #intent: FastifyIntent | null = null
  #exchange: Exchange | null = null
  /** Whether the one who called has not got its promise yet. */
  #starting = true
  /** Where to go now that there is no answer. */
  #next: Next | null = null
  /** The upstream in whose place another is asked. */
  #insteadOf: Upstream | null = null
  /** The upstream that has been sent a copy, or would have been. */
  #copiedTo: string | undefined = undefined
  /** What the client's connection has become. */
  #tunnel: Tunnel | null = null

  constructor (request: FastifyRequest, reply: FastifyReply, onError: OnError | undefined, telemetry: Telemetry) {
    this.#request = request
    this.#reply = reply
    this.#onError = onError
    this.#telemetry = telemetry
  }

  /** Sends the request. A failure that is there at once is told a little later, when the caller can hear it. */
  start (upstream: Upstream, settings: Settings): this {
    this.#upstream = upstream
    this.#settings = settings
    this.#telemetry.unmark(this.#reply)
    const res = this.#reply.raw
    if (res.destroyed || res.socket?.destroyed === true) {
      this.failed(proxyError('CLIENT_CLOSED', new Error('the client had gone before its request was forwarded')))
      return this
    }
    if (!this.#begin(upstream, settings)) return this
    // Both, because Node tells only one of them of a request that waits behind another on its connection.
    for (const end of [res, this.#request.raw] as Tracked[]) {
      end[kClient] = this
      end.on('close', onClose)
    }
    const { signal } = settings
    if (signal?.aborted === true) this.onAbort()
    else {
      signal?.addEventListener('abort', this)
      this.#send()
    }
    this.#starting = false
    return this
  }

  #send (): void {
    const { onUpgrade } = this.#settings as Settings
    const exchange = this.#exchange as Exchange
    if (onUpgrade === undefined || (this.#intent?.upgrade ?? null) === null) exchange.start()
    else startIfAllowed(this.#request, exchange, onUpgrade)
  }

  /** @param body what has been read of the body already @returns whether there is an exchange now */
  #begin (upstream: Upstream, settings: Settings, body?: RequestBody | Buffer | null): boolean {
    const before = this.#intent
    try {
      this.#intent = intentOf(this.#request, upstream, settings, body)
      // What the client has left does not begin anew.
      if (before !== null) this.#intent.deadline = Math.min(this.#intent.deadline, before.deadline)
    } catch (error) {
      if (isHttp2(this.#request.raw)) dropRest(this.#request.raw, upstream.clock)
      if (error === MAX_FORWARDS_REACHED) this.#answerOptions()
      else this.failed(asError(error))
      return false
    }
    this.#exchange = new Exchange(upstream, this.#intent, this)
    return true
  }

  /** An `AbortSignal` listener. */
  handleEvent (): void {
    this.onAbort()
  }

  onAbort (): void {
    if (this.#tunnel !== null) this.#tunnel.giveUp()
    else this.#exchange?.giveUp(this.#settings?.signal?.reason)
  }

  onClose (): void {
    const exchange = this.#exchange as Exchange
    // A request that has come whole is closed too, and is no client gone.
    if (exchange.ended || !isOver(this.#reply.raw)) return
    // Somebody else has answered, a handler's time-out for one: that is no client gone.
    if (this.#reply.raw.headersSent && !exchange.committed) exchange.giveUp(new Error('the request was answered by somebody else'))
    else exchange.abandon()
  }

  mappingFor (backend: Backend): PrefixMapping | null {
    const { replaced, host } = this.#intent as FastifyIntent
    if (this.#settings?.mapBack !== true || replaced === null) return null
    return new PrefixMapping(backend.basePath + replaced.inner, replaced.outer, backend.host, host)
  }

  replaces (statusCode: number): boolean {
    const { fallback } = this.#settings as Settings
    if (fallback === null || !fallback.replaces(statusCode)) return false
    // Where nobody else can be asked, an answer is better than none.
    return fallback.upstream === undefined || (this.#insteadOf === null && this.#exchange?.movable === true && this.#upstream?.find(fallback.upstream) !== undefined)
  }

  copy (body: Buffer | null | undefined): void {
    const { mirror } = this.#settings as Settings
    // Asked of another upstream, a request is still the same.
    if (mirror === null || mirror.upstream === this.#copiedTo) return
    this.#copiedTo = mirror.upstream
    if (body === undefined) (this.#upstream as Upstream).tallies.mirrorsSkipped++
    else sendCopy(this.#upstream as Upstream, this.#intent as FastifyIntent, body, mirror)
  }

  interim (statusCode: number, headers: string[]): void {
    if (!this.#reply.raw.headersSent && !this.#reply.sent) writeInterim(this.#reply.raw, statusCode, headers)
  }

  tunnel (headers: string[], backend: Backend, socket: Socket, closed: TunnelClosed): void {
    const { upgrade } = this.#intent as FastifyIntent
    const parts = { request: this.#request, reply: this.#reply, exchange: this.#exchange as Exchange, settings: this.#settings as Settings, upgrade: upgrade as Upgrade, upstream: this.#upstream as Upstream, backend, socket, headers, closed }
    this.#tunnel = openTunnel(parts)
    if (this.#insteadOf !== null) this.#insteadOf.tallies.fallbacks++
    // From now on it is the tunnel that sees the client go.
    for (const emitter of [this.#reply.raw, this.#request.raw]) emitter.off('close', onClose)
  }

  answer (head: ResponseHead, backend: Backend): Sink {
    const { rewriteHeaders, onResponse } = this.#settings as Settings
    const exchange = this.#exchange as Exchange
    if (rewriteHeaders !== undefined) head.headers = rewritten(head.headers, record => rewriteHeaders(record, this.#request), 'rewriteHeaders')
    if (this.#insteadOf !== null) this.#insteadOf.tallies.fallbacks++
    if (onResponse !== undefined) {
      const response = new CapturedResponse(head, backend, exchange, exchange.reports())
      watchListener(onResponse(this.#request, this.#reply, response), 'onResponse', this.#request.log)
      if (response.taken) return response
      response.forgo()
    }
    if (this.#reply.sent || this.#reply.raw.headersSent) throw new Error('the request was answered by somebody else')
    if (this.#upstream?.leaving === true) closeAfter(this.#reply.raw)
    const { acceptsTrailers } = this.#intent as FastifyIntent
    return wantsHooks(this.#reply) ? new HookedReply(this.#reply, exchange, acceptsTrailers) : new RawReply(this.#reply, exchange, acceptsTrailers)
  }

  finished (): void {
    this.#settings?.signal?.removeEventListener('abort', this)
    this.#fulfilAtEnd()
  }

  #fulfilAtEnd (): void {
    const { raw } = this.#reply
    if (this.#tunnel !== null) return this.completion.fulfil()
    // Fastify takes a handler that is done before its reply for one that has nothing to say.
    if (!raw.writableEnded && !raw.destroyed) raw.once('close', () => this.completion.fulfil())
    else this.completion.fulfil()
  }

  failed (error: Error): void {
    this.#findNext(error)
    if (this.#next === null) this.#settings?.signal?.removeEventListener('abort', this)
    if (this.#starting) setImmediate(deliver, this, error)
    else this.deliver(error)
  }

  deliver (error: Error): void {
    const reply = this.#reply
    const onError = this.#onError
    if ((error as { code?: string }).code === 'FST_ROCKSTAR_CLIENT_CLOSED') {
      // There is nobody to answer; hooks that look at the reply see why.
      if (!reply.raw.headersSent) reply.raw.statusCode = 499
      return this.completion.fulfil()
    }
    // Whoever answers now tells the client of it.
    if (!reply.sent && !reply.raw.headersSent) this.#telemetry.markError(reply, error, this.#exchange)
    if (onError !== undefined && !reply.sent) {
      const sent = watchSend(reply)
      tellListener(() => onError(this.#request, reply, error), 'onError', this.#request.log)
      if (sent() || reply.raw.headersSent) {
        this.#letGo(this.#next?.body)
        return this.#fulfilAtEnd()
      }
    }
    if (this.#settings?.fallback?.covers(error) === true && !reply.sent && !reply.raw.headersSent) this.#fallBack(error)
    else {
      this.#letGo(this.#next?.body)
      this.#giveUp(error)
    }
  }

  #giveUp (error: Error): void {
    const reply = this.#reply
    this.#settings?.signal?.removeEventListener('abort', this)
    if (!this.completion.observed && !reply.sent && !reply.raw.headersSent) reply.send(error)
    this.completion.reject(error)
  }

  /** While the body can still be had. */
  #findNext (error: Error): void {
    const { fallback } = this.#settings ?? {}
    this.#next = null
    if (fallback?.upstream === undefined || this.#insteadOf !== null || !fallback.covers(error)) return
    const upstream = this.#upstream?.find(fallback.upstream)
    const exchange = this.#exchange
    if (upstream === undefined) this.#request.log.error({ upstream: fallback.upstream }, 'there is no upstream of the name that `fallback` says')
    else if (exchange?.movable === true) this.#next = { upstream, body: exchange.handOver() }
  }

  #fallBack (error: Error): void {
    const { fallback } = this.#settings as Settings
    if (fallback === null) return
    if (fallback.upstream !== undefined) {
      if (this.#next === null) return this.#giveUp(error)
      return this.#askElsewhere(this.#next, error)
    }
    const { tallies } = this.#upstream as Upstream
    const count = (answered: boolean) => {
      if (!answered) return this.#giveUp(error)
      tallies.fallbacks++
      this.#fulfilAtEnd()
    }
    const fail = (thrown: unknown) => {
      this.#request.log.error({ err: thrown }, 'fallback threw')
      this.#giveUp(error)
    }
    try {
      const answered = fallback.answer(this.#request, this.#reply, error)
      if (answered instanceof Promise) answered.then(count).catch(fail)
      else count(answered)
    } catch (thrown) {
      fail(thrown)
    }
  }

  #askElsewhere ({ upstream, body }: Next, error: Error): void {
    // Who has gone meanwhile was not listened to.
    if (isOver(this.#reply.raw) || this.#settings?.signal?.aborted === true) {
      this.#letGo(body)
      return this.#giveUp(error)
    }
    this.#telemetry.unmark(this.#reply)
    this.#insteadOf = this.#upstream
    this.#upstream = upstream
    this.#settings = (this.#settings as Settings).elsewhere(upstream)
    if (this.#begin(upstream, this.#settings, body)) this.#exchange?.start()
    else this.#letGo(body)
  }

  /** Nobody is asked any more who could read a body that was kept for that. */
  #letGo (body: RequestBody | Buffer | null | undefined): void {
    if (body instanceof RequestBody) readRest(body, this.#request.raw, this.#upstream as Upstream)
  }

  /** RFC 9110, 7.6.2: the last one that an `OPTIONS` may reach answers it. */
  #answerOptions (): void {
    this.#reply.header('allow', ALLOW).send()
    this.completion.fulfil()
  }
}

function onClose (this: Tracked): void {
  this[kClient]?.onClose()
}

function deliver (client: ReplyClient, error: Error): void {
  client.deliver(error)
}
