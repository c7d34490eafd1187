import type { FastifyReply, FastifyRequest } from 'fastify'
import type { ProxyManager, RockstarProxyOptions, Stage, StageTimes } from '../../types/index.ts'
import { proxyError } from '../errors.ts'
import { isFieldValue } from '../field-syntax.ts'
import { AccessLog } from './access-log.ts'
import { answerStatus, errorStatus } from './proxy-status.ts'
import { serverTimingOf } from './server-timing.ts'

/** Headers that are not free: they frame or route messages, say what content is, or who somebody is. */
const TAKEN: ReadonlySet<string> = new Set([
  '__proto__', 'accept-encoding', 'accept-ranges', 'authorization', 'cache-control', 'connection', 'content-encoding', 'content-length', 'content-location', 'content-range', 'content-type', 'cookie', 'date', 'etag', 'expect', 'forwarded',
  'host', 'keep-alive', 'location', 'max-forwards', 'proxy-authenticate', 'proxy-authorization', 'proxy-connection', 'proxy-status', 'range', 'retry-after', 'server-timing', 'set-cookie', 'te', 'traceparent', 'tracestate', 'trailer',
  'transfer-encoding', 'upgrade', 'vary', 'via', 'www-authenticate', 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto'
])

const SERVER_TIMING = 'server-timing'
const PROXY_STATUS = 'proxy-status'

/** How far an exchange has come. */
export interface Progress {
  times: StageTimes
  time: number
}

/** An exchange that has failed. */
export interface Failed {
  /** The stage of its last attempt; `undefined` where it made none. */
  readonly stage: Stage | undefined
  progress (): Progress
}

/** What one registration tells of its exchanges beside metrics, and where. */
export class Telemetry {
  readonly accessLog: AccessLog | null
  /** Name of the header that tells a request's id, in lower case; `null` where it is not told. */
  readonly requestId: string | null
  readonly serverTiming: boolean
  /** The name that the proxy goes by in `Proxy-Status`; `null` where that is not told. */
  readonly proxyStatus: string | null
  /** Whether answers tell any of this. */
  readonly marksAnswers: boolean
  readonly #proxy: () => ProxyManager
  /** What takes out of replies again what they tell of errors. */
  readonly #unmarks = new WeakMap<FastifyReply, () => void>()

  /** Throws `INVALID_OPTIONS`. @param proxy asked for late: it is only just being made */
  constructor ({ accessLog = 'debug', requestId = false, serverTiming = false, proxyStatus = false }: RockstarProxyOptions, random: () => number, proxy: () => ProxyManager) {
    const { level = 'debug', sample = 1 } = typeof accessLog === 'object' ? accessLog : { level: accessLog === false ? undefined : accessLog }
    this.accessLog = accessLog === false ? null : new AccessLog({ level, sample }, random)
    this.requestId = requestId === false ? null : requestId === true ? 'x-request-id' : requestId.toLowerCase()
    if (this.requestId !== null && TAKEN.has(this.requestId)) throw proxyError('INVALID_OPTIONS', undefined, `options.requestId must be a header that has no other use, and is '${this.requestId}'`)
    this.serverTiming = serverTiming
    this.proxyStatus = proxyStatus === false ? null : proxyStatus === true ? 'rockstar-proxy' : proxyStatus
    this.marksAnswers = this.requestId !== null || serverTiming || this.proxyStatus !== null
    this.#proxy = proxy
  }

  /** The registration. */
  get proxy (): ProxyManager {
    return this.#proxy()
  }

  /** Tells a request's id in fields that are sent on, in place of what they say of it. Throws `INVALID_HEADER`. */
  identify (headers: string[], request: FastifyRequest): void {
    const { requestId } = this
    if (requestId === null) return
    const id = idOf(request)
    if (id === undefined) throw proxyError('INVALID_HEADER', undefined, 'genReqId', String(request.id))
    for (let i = headers.length - 2; i >= 0; i -= 2) {
      if (headers[i].length === requestId.length && headers[i].toLowerCase() === requestId) headers.splice(i, 2)
    }
    headers.push(requestId, id)
  }

  /** Adds to the head of an answer what clients are told. */
  markAnswer (headers: string[], statusCode: number, version: '1.1' | '2', request: FastifyRequest | undefined, progress: () => Progress): void {
    if (request !== undefined) this.identify(headers, request)
    if (this.proxyStatus !== null) headers.push(PROXY_STATUS, answerStatus(this.proxyStatus, statusCode, version))
    if (this.serverTiming) headers.push(SERVER_TIMING, timing(progress()))
  }

  /** Adds the same to a reply that is to tell an error. @param failed `null` where there was no exchange */
  markError (reply: FastifyReply, error: Error, failed: Failed | null): void {
    if (!this.marksAnswers) return
    this.unmark(reply)
    const fields: [string, string][] = []
    const id = this.requestId === null ? undefined : idOf(reply.request)
    if (id !== undefined) fields.push([this.requestId as string, id])
    if (this.proxyStatus !== null) fields.push([PROXY_STATUS, errorStatus(this.proxyStatus, error, failed?.stage)])
    if (this.serverTiming && failed !== null) fields.push([SERVER_TIMING, timing(failed.progress())])
    const before = fields.map(([name]) => [name, reply.getHeader(name)] as const)
    fields.forEach(([name, value], i) => {
      const own = before[i][1]
      // What stands nearer to the backend comes first; an id of the application's own is not overruled.
      if (own === undefined) reply.header(name, value)
      else if (name !== this.requestId) reply.header(name, `${value}, ${own}`)
    })
    this.#unmarks.set(reply, () => {
      for (const [name, value] of before) {
        if (value === undefined) reply.removeHeader(name)
        else reply.header(name, value)
      }
    })
  }

  /** Takes out of a reply what it tells of an error: somebody else is asked, be it because a handler has caught it. */
  unmark (reply: FastifyReply): void {
    if (!this.marksAnswers) return
    this.#unmarks.get(reply)?.()
    this.#unmarks.delete(reply)
  }
}

function timing ({ times, time }: Progress): string {
  return serverTimingOf(times, time)
}

/** `undefined` where it cannot be sent: the application may make ids of anything. */
function idOf ({ id }: FastifyRequest): string | undefined {
  const text = String(id)
  return text !== '' && isFieldValue(text) ? text : undefined
}
