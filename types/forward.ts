import { Type, type Static } from '@sinclair/typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import type { Readable } from 'node:stream'
import type { Backend } from './backend.ts'
import { FallbackOverrideSchema } from './fallback.ts'
import type { HashKey } from './hash-key.ts'
import { HedgeOptionsSchema } from './hedge.ts'
import { MirrorOptionsSchema } from './mirror.ts'
import type { AttemptReport } from './outcome.ts'
import { RetryOverridesSchema, type RetryOverrides } from './retry.ts'
import { subsetOptions, type Match, type SplitPart, type SubsetFallback } from './subset.ts'

const milliseconds = (value: number, description: string) => Type.Number({
  minimum: 0,
  default: value,
  description: `${description} 0 waits for ever.`
})

const timeouts = {
  connect: milliseconds(10_000, 'Milliseconds an attempt waits for a connection to its backend: a free one, or a new one.'),
  headers: milliseconds(30_000, 'Milliseconds an attempt waits for the response\'s head once the request is sent.'),
  idle: milliseconds(60_000, 'Milliseconds without a byte, up or down, after which a body is given up.'),
  tunnel: milliseconds(3_600_000, 'Milliseconds without a byte either way after which a connection that was switched to another protocol, WebSocket for one, is closed.'),
  request: milliseconds(30_000, 'Milliseconds until the response begins, all attempts, queues and waits included. The time in which the client sends a body does not count.')
}

/** How long each step of an exchange may take. */
export const TimeoutOptionsSchema = Type.Partial(Type.Object(timeouts), {
  additionalProperties: false,
  title: 'TimeoutOptions',
  description: 'How long each step may take. Too late: 504, or 408 where the client was the slow one.'
})

/** The same for a route or a call, where what is not given is as the upstream says. */
const TimeoutOverridesSchema = Type.Partial(Type.Object(Object.fromEntries(Object.entries(timeouts).map(
  ([name, { default: _, ...schema }]) => [name, { ...schema, description: `As the upstream's \`timeout.${name}\`, for this alone.` }]
)) as typeof timeouts), { additionalProperties: false, title: 'TimeoutOptions', description: 'Overrides the upstream\'s timeouts; what is left out is as the upstream says.' })

/** How long each step of an exchange may take, in milliseconds. */
export type TimeoutOptions = Static<typeof TimeoutOptionsSchema>
/** The same with nothing left out. */
export type Timeouts = Required<TimeoutOptions>

/** Header names in lower case; a field that came more than once has an array. */
export type HeaderRecord = Record<string, string | string[] | undefined>

/** Changes the request's headers before they go to the backend: gets a copy, returns what to send. */
export type RewriteRequestHeaders = (request: FastifyRequest, headers: HeaderRecord) => HeaderRecord
/** Changes the response's headers before they go to the client: gets a copy, returns what to send. */
export type RewriteHeaders = (headers: HeaderRecord, request: FastifyRequest) => HeaderRecord
/** Hears of the response's head before anything goes to the client. Whoever takes `response.body` answers the client himself. */
export type OnResponse = (request: FastifyRequest, reply: FastifyReply, response: ProxyResponse) => void
/** Hears of a failure before anything went to the client, and may answer it with `reply.send()`. */
export type OnError = (request: FastifyRequest, reply: FastifyReply, error: Error) => void
/** Asked before a backend is: `false`, or what it throws, refuses the tunnel. */
export type OnUpgrade = (request: FastifyRequest) => boolean | void | Promise<boolean | void>
/** Hears of the end of a tunnel. */
export type OnTunnelClose = (request: FastifyRequest, tunnel: ClosedTunnel) => void
/** What has become of a tunnel. */
export interface ClosedTunnel {
  /** What the connection was switched to, in lower case. */
  protocol: string
  backend: Backend
  /** Bytes that the client has sent through it. */
  bytesReceived: number
  /** Bytes that the backend has sent through it. */
  bytesSent: number
  /** Milliseconds that it was open. */
  duration: number
}
/** The name of an upstream, or a function that finds it. */
export type UpstreamChoice = string | ((request: FastifyRequest) => string | Promise<string>)

const optionalFunction = <T>(description: string, signature: string) => Type.Optional(Type.Unsafe<T>(Type.Function([], Type.Unknown(), {
  description, signature, expected: 'a function'
})))

/** What one request may have otherwise than its upstream; shared by routes and calls. */
export const perRequest = {
  upstream: Type.Optional(Type.Unsafe<UpstreamChoice>(Type.Union([Type.String({ minLength: 1 }), Type.Function([], Type.Unknown())], {
    description: 'The named upstream to use: its name, or a function `(request) => name`, which may be async. Default: the default upstream.',
    expected: 'the name of an upstream or a function that returns one',
    signature: 'string | (request) => string | Promise<string>'
  }))),
  ...subsetOptions,
  fallback: Type.Optional(FallbackOverrideSchema),
  retry: Type.Optional(Type.Union([Type.Boolean(), RetryOverridesSchema], {
    description: 'Retries otherwise than the upstream\'s: options, `true` where the upstream has none, or `false` for none.',
    expected: 'a boolean or an object of options'
  })),
  hedge: Type.Optional(Type.Union([Type.Boolean(), HedgeOptionsSchema], {
    description: 'Hedging otherwise than the upstream\'s: options, `true` for the defaults, or `false` for none.',
    expected: 'a boolean or an object of options'
  })),
  mirror: Type.Optional(Type.Union([Type.Literal(false), MirrorOptionsSchema], {
    description: 'Copies to another upstream, otherwise than the upstream\'s; `false` for none.',
    expected: 'false or an object with an upstream'
  })),
  timeout: Type.Optional(TimeoutOverridesSchema),
  preserveHost: Type.Optional(Type.Boolean({
    description: 'Send the client\'s `Host` to the backend instead of the backend\'s own. Default: as the upstream says.'
  })),
  rewriteRequestHeaders: optionalFunction<RewriteRequestHeaders>('Changes the request\'s headers before they are sent. CR, LF or NUL in a value is refused.', '(request, headers) => headers'),
  rewriteHeaders: optionalFunction<RewriteHeaders>('Changes the response\'s headers before they are sent. CR, LF or NUL in a value is refused.', '(headers, request) => headers'),
  onResponse: optionalFunction<OnResponse>('Hears of the response\'s head before anything is sent. Taking `response.body` takes over the answer.', '(request, reply, response) => void'),
  websocket: Type.Optional(Type.Boolean({
    description: 'Whether a client may have its connection switched to another protocol, otherwise than the upstream says. `false`: such a request is forwarded as an ordinary one.'
  })),
  onUpgrade: optionalFunction<OnUpgrade>('Asked before a backend is whether a connection may be switched to another protocol. `false` answers 403; what it throws is answered as with a handler. May be async.', '(request) => boolean | void'),
  onTunnelClose: optionalFunction<OnTunnelClose>('Hears of the end of a connection that was switched to another protocol: who, how long, how many bytes.', '(request, tunnel) => void'),
  onError: optionalFunction<OnError>('Hears of a failure while the client can still be answered, and may answer with `reply.send()`.', '(request, reply, error) => void')
}

/** Options of one call of `forward(request, reply, options)`. */
export const ForwardOptionsSchema = Type.Object({
  ...perRequest,
  path: Type.Optional(Type.String({
    pattern: '^/',
    description: 'Path to ask the backend for instead of the client\'s. The client\'s query is kept unless this has one of its own.'
  })),
  signal: Type.Optional(Type.Unsafe<AbortSignal>(Type.Object({ aborted: Type.Boolean() }, {
    description: 'Gives the exchange up when it aborts.', expected: 'an AbortSignal', signature: 'AbortSignal'
  })))
}, {
  additionalProperties: false,
  title: 'ForwardOptions',
  description: 'Options of one call: `forward(request, reply, options)`, or `forward(request, undefined, options)`. The compiler checks them; at run time nothing does, for it would have to for every request.'
})

/** Options of one call of `forward(request, reply, options)`. */
export type ForwardOptions = Static<typeof ForwardOptionsSchema>

/** Options of one call of `forwardHttp(request, options)`. */
export interface ForwardHttpOptions {
  /** Gives the exchange up when it aborts, as the request's own signal does. */
  signal?: AbortSignal
  /** How long each step may take, in milliseconds. */
  timeout?: TimeoutOptions
  /** Path to ask the backend for instead of the request's. */
  path?: string
  /** Only backends whose metadata says all of this; of an array, any. */
  match?: Match
  /** Parts that requests are split among: by the first `when` that fits, else by weight. */
  split?: SplitPart[]
  /** What a split by weight goes by. */
  splitKey?: HashKey
  /** Where no available backend matches: any of the upstream, or none (503). Default: `'none'`. */
  fallback?: SubsetFallback
  /** Retries otherwise than the upstream's. */
  retry?: boolean | RetryOverrides
}

/** A backend's answer, for handlers that want it themselves. */
export interface ProxyResponse {
  /** The status, 200 to 599. */
  readonly statusCode: number
  /** The reason phrase as it came, possibly empty. */
  readonly statusMessage: string
  /** End-to-end fields, names in lower case. */
  readonly headers: HeaderRecord
  /** Trailer fields; complete once the body has ended. */
  readonly trailers: HeaderRecord
  /** Who answered. */
  readonly backend: Backend
  /** All attempts in the order they were made: those that failed, and the one that this answer is of. */
  readonly attempts: readonly AttemptReport[]
  /** The content as a stream. One that nobody reads is let go of by itself. */
  readonly body: Readable
  /** The content as text, decoded as UTF-8. Rejects when it was cut short. */
  text (): Promise<string>
  /** The content parsed as JSON. Rejects when it was cut short or is no JSON. */
  json<T = unknown> (): Promise<T>
  /** The content as bytes. Rejects when it was cut short. */
  arrayBuffer (): Promise<ArrayBuffer>
}
