import { Type, type Static } from '@sinclair/typebox'
import type { FastifyRequest } from 'fastify'
import type { Backend } from './backend.ts'
import { WHOLE_TOKEN } from './field-syntax.ts'
import type { AttemptReport, AttemptResult } from './outcome.ts'
import type { ProxyManager } from './proxy-manager.ts'

/** RFC 8941, 3.3.4. */
const STRUCTURED_TOKEN = '^[A-Za-z*][!#$%&\'*+.^_`|~0-9A-Za-z:/-]*$'

const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error'] as const
const LogLevelSchema = Type.Union(LOG_LEVELS.map(level => Type.Literal(level)), { expected: LOG_LEVELS.map(level => `'${level}'`).join(', ') })

/** When an exchange has a line in the log. */
export const AccessLogOptionsSchema = Type.Object({
  level: Type.Optional(Type.Unsafe<typeof LOG_LEVELS[number]>({
    ...LogLevelSchema,
    default: 'debug',
    description: 'Level of the lines. What nobody reads, as the log\'s own level is higher, is not put together either.'
  })),
  sample: Type.Optional(Type.Number({
    minimum: 0,
    maximum: 1,
    default: 1,
    description: 'Part of the exchanges that have a line, of those that went well. All others always have one.'
  }))
}, { additionalProperties: false, title: 'AccessLogOptions', description: 'A line in the log for each exchange, once it is over: route, upstream, backend, attempts, bytes both ways, milliseconds by stage.' })

/** What is told of exchanges beside metrics: in the log, to clients and to backends. */
export const telemetryOptions = {
  accessLog: Type.Optional(Type.Union([Type.Literal(false), LogLevelSchema, AccessLogOptionsSchema], {
    default: 'debug',
    description: 'A line in the log for each exchange: its level, or options; `false` for none.',
    expected: `false, one of ${LogLevelSchema.expected}, or an object { level, sample }`
  })),
  requestId: Type.Optional(Type.Union([Type.Boolean(), Type.String({ pattern: WHOLE_TOKEN })], {
    default: false,
    description: 'Name of a header that tells backends and clients Fastify\'s `request.id`; `true` for `x-request-id`. What clients send in it themselves goes no further: whose ids are believed is said by Fastify\'s `requestIdHeader`, how others are made by `genReqId`.',
    expected: 'a boolean or the name of a header'
  })),
  serverTiming: Type.Optional(Type.Boolean({
    default: false,
    description: 'Tell clients in `Server-Timing` how many milliseconds each stage has taken, behind what backends say there. Browsers show it.'
  })),
  proxyStatus: Type.Optional(Type.Union([Type.Boolean(), Type.String({ pattern: STRUCTURED_TOKEN })], {
    default: false,
    description: 'Tell clients in `Proxy-Status` (RFC 9209) what a backend has answered, or why there is no answer. `true` goes by the name `rockstar-proxy`, a token by that name.',
    expected: 'a boolean or a token that begins with a letter'
  }))
}

/** When an exchange has a line in the log. */
export type AccessLogOptions = Static<typeof AccessLogOptionsSchema>

/** How long each stage of an exchange has taken, in milliseconds. A stage that was not reached is left out. */
export interface StageTimes {
  /** Until the first attempt was made: waiting to be let in, and for a load balancer that takes its time. */
  queue: number
  /** From the first attempt to the one that counts: failed ones, waits between them. Left out where there was but one. */
  retries?: number
  /** Until that one had a connection. */
  connect?: number
  /** Until the request was sent. */
  send?: number
  /** Until the head of the answer. */
  wait?: number
  /** Until the end of the answer. */
  stream?: number
}

/** What has become of an exchange. */
export interface ExchangeSummary {
  /** How it counts: `aborted` where the client or the application has given it up. */
  result: AttemptResult
  /** The status of the answer that was passed on; 0 where there was none. */
  statusCode: number
  /** Why there was none, or not all of it. */
  error: Error | undefined
  /** The backend whose answer was passed on, or which was asked last. */
  backend: Backend | undefined
  /** All attempts, in the order they were made. */
  attempts: readonly AttemptReport[]
  /** Bytes of the request's body that have come from the client; of a tunnel, all that it has sent. */
  bytesReceived: number
  /** Bytes of the answer's body that have gone to the client; of a tunnel, all that it was sent. */
  bytesSent: number
  /** Milliseconds that it has taken. */
  time: number
  /** The same by stages. */
  times: StageTimes
}

/** What the tracing channel `rockstar-proxy:exchange` tells: one object from the start of an exchange to its end. */
export interface ExchangeTrace {
  /** The registration that it belongs to. */
  readonly proxy: ProxyManager
  /** Name of the upstream. */
  readonly upstream: string
  /** `undefined` for `forwardHttp()`. */
  readonly request: FastifyRequest | undefined
  /** The route's URL as it was declared; `undefined` where there is no request. */
  readonly route: string | undefined
  readonly method: string
  /** Path and query as they go to the backend, without its base path. */
  readonly path: string
  /** Whether it is a copy to another upstream: see the option `mirror`. */
  readonly isCopy: boolean
  /** What has become of it: there from `asyncStart` on. */
  summary: ExchangeSummary | undefined
  /** Why it failed: there with `error`. */
  error: Error | undefined
}

/** Why an attempt was made. */
export type AttemptReason =
  /** It is the first one. */
  | 'first'
  /** The one before it has failed. */
  | 'retry'
  /** The connection of the one before it had died idle, or was being closed. */
  | 'resend'
  /** The one before it takes long. */
  | 'hedge'

/** What the tracing channel `rockstar-proxy:attempt` tells: one object from the start of an attempt to its end. */
export interface AttemptTrace {
  readonly exchange: ExchangeTrace
  readonly backend: Backend
  readonly reason: AttemptReason
  /** How many attempts of the exchange came before it. */
  readonly number: number
  readonly method: string
  /** Path and query as they are sent. */
  readonly path: string
  /** Names and values in turn, as they are sent. Subscribers to `start` may change them. */
  readonly headers: string[]
  /** What has become of it: there from `asyncStart` on. */
  report: AttemptReport | undefined
  /** HTTP version that the backend has answered by: `1.1` or `2`; `undefined` where it has not. */
  version: '1.1' | '2' | undefined
  /** Why it failed: there with `error`. */
  error: Error | undefined
}
