import { Type, type Static } from '@sinclair/typebox'
import type { Dispatcher } from 'undici'
import type { Backend } from './backend.ts'
import { TlsOptionsSchema } from './tls.ts'

/** Makes the connections to one backend, from then on the pool's own to close. */
export type DispatcherFactory = (backend: Backend) => Dispatcher

/** How connections to backends are made and kept. */
export const PoolOptionsSchema = Type.Object({
  connections: Type.Optional(Type.Integer({
    minimum: 1,
    default: 100,
    description: 'Connections to one backend at the most. Further requests wait for one, within `timeout.connect`.'
  })),
  connectTimeout: Type.Optional(Type.Integer({
    minimum: 0,
    default: 10_000,
    description: 'Milliseconds for TCP and TLS to connect, after which the request gets 504. 0 sets no limit here; `timeout.connect` holds all the same.'
  })),
  idleTimeout: Type.Optional(Type.Integer({
    minimum: 1,
    default: 90_000,
    description: 'Milliseconds an unused connection is kept. Never longer than the backend\'s own `Keep-Alive: timeout` less `keepAliveMargin`.'
  })),
  maxRequestsPerConnection: Type.Optional(Type.Integer({
    minimum: 0,
    default: 0,
    description: 'Requests after which a connection is closed and a new one takes its place, so that connections spread anew over what is behind an address. 0 sets no limit. HTTP/2 counts streams.'
  })),
  maxConcurrentStreams: Type.Optional(Type.Integer({
    minimum: 1,
    default: 100,
    description: 'Requests on one HTTP/2 connection at a time, at the most. The backend may allow fewer.'
  })),
  keepAliveMargin: Type.Optional(Type.Integer({
    minimum: 0,
    default: 1_000,
    description: 'Milliseconds by which an idle connection is given up before the backend said it would close it.'
  })),
  maxHeaderSize: Type.Optional(Type.Integer({
    minimum: 1_024,
    default: 16_384,
    description: 'Bytes of a response\'s header section at the most. A larger one is answered with 502.'
  })),
  tls: Type.Optional(TlsOptionsSchema),
  socketPath: Type.Optional(Type.String({
    minLength: 1,
    description: 'Path of a Unix socket to which all connections of the pool are made, whatever the host and port of the backends\' URLs; `@name` for one in Linux\' abstract namespace. For one backend there are `unix:` URLs.'
  })),
  localAddress: Type.Optional(Type.String({
    minLength: 1,
    description: 'IP address of this machine from which connections are made.',
    expected: 'an IP address'
  })),
  family: Type.Optional(Type.Union([Type.Literal(4), Type.Literal(6)], {
    description: 'Connect by IPv4 or by IPv6 only. Default: by both, or as `localAddress` says.',
    expected: '4 or 6'
  })),
  autoSelectFamily: Type.Optional(Type.Boolean({
    default: true,
    description: 'Try the addresses of a name one after the other, IPv6 and IPv4 in turn, a quarter of a second apart, and take the first that answers (RFC 8305).'
  })),
  dispatcher: Type.Optional(Type.Unsafe<Dispatcher | DispatcherFactory>(Type.Union([
    Type.Object({ dispatch: Type.Function([], Type.Unknown()) }, { title: 'Dispatcher' }),
    Type.Function([], Type.Unknown())
  ], {
    description: 'What serves as the connections instead: an undici `Dispatcher` for all backends, which stays the application\'s to close, or a function that makes one for each backend, which the pool closes. It connects by its own options: of the pool\'s own none may stand beside it.',
    expected: 'a Dispatcher with dispatch(), or a function that makes one for a backend',
    signature: 'Dispatcher | ((backend: Backend) => Dispatcher)'
  })))
}, {
  additionalProperties: false,
  title: 'PoolOptions',
  description: 'How connections to the backends are made and kept.'
})

/** How connections to backends are made and kept. */
export type PoolOptions = Static<typeof PoolOptionsSchema>

/** The same with the defaults filled in. */
export type PoolSettings = PoolOptions & Required<Omit<PoolOptions, 'tls' | 'socketPath' | 'localAddress' | 'family' | 'dispatcher'>>

/** Whether backends are asked by HTTP/2. */
export const Http2Schema = Type.Union([Type.Boolean(), Type.Literal('auto')], {
  default: false,
  description: 'Ask the backends by HTTP/2. `true`: always; those with `https:` URLs must agree to it by ALPN, those with `http:` URLs are taken to know it. `\'auto\'`: those with `https:` URLs that agree to it, and HTTP/1.1 otherwise. WebSocket and other upgrades go over HTTP/1.1 all the same. gRPC wants `true`.',
  expected: 'a boolean or \'auto\''
})

/** What a pool tells of itself, for one backend or in sum. */
export interface BackendPoolStats {
  /** Connections open or being opened. */
  total: number
  /** Connections with a request on them, or being opened for one. */
  active: number
  /** Connections open and unused. */
  idle: number
  /** Requests waiting for a connection. */
  pending: number
  /** Connections made since the start. */
  connects: number
  /** Connections that could not be made. */
  connectErrors: number
  /** Requests that got a connection. */
  requests: number
  /** Share of those that got one already used, 0 to 1. */
  reuseRatio: number
}

export interface PoolStats extends BackendPoolStats {
  /** The same by backend id. */
  backends: Record<string, BackendPoolStats>
}

/**
 * Holds the connections to the backends. Any undici `Dispatcher` serves as the connections of one.
 * Source: the seed's `ConnectionPool`.
 */
export interface ConnectionPool {
  /** The connections of a backend, made when first asked for. Called for every attempt: must be fast. */
  dispatcherFor (backend: Backend): Dispatcher
  /** Called when a backend is listed: makes ready what its connections need. Throws where they cannot be made as the backend's options say. */
  prepare? (backend: Backend): void
  /** Lets go of a removed backend's connections; resolves when they are closed. */
  release? (backend: Backend): Promise<void>
  /** Numbers for status and metrics. */
  stats (): PoolStats
  /** Lets requests under way finish, then closes everything. */
  close (): Promise<void>
  /** Closes everything at once. */
  destroy? (error?: Error): Promise<void>
}

/** What `pool` and `setConnectionPool()` take: options, or an instance. */
export const PoolSchema = Type.Unsafe<PoolInput>(Type.Union([
  // The instance first: its methods may stand in its class, and then it looks like empty options.
  Type.Object({ dispatcherFor: Type.Function([], Type.Unknown()), stats: Type.Function([], Type.Unknown()), close: Type.Function([], Type.Unknown()) }, { title: 'ConnectionPool' }),
  PoolOptionsSchema
], {
  description: 'The connections to the backends: options, or an instance of a `ConnectionPool`.',
  expected: 'an object of pool options, or a ConnectionPool with dispatcherFor(), stats() and close()'
}))

export type PoolInput = PoolOptions | ConnectionPool
