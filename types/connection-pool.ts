import { Type, type Static } from '@sinclair/typebox'
import type { Dispatcher } from 'undici'
import type { Backend } from './backend.ts'

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
  keepAliveMargin: Type.Optional(Type.Integer({
    minimum: 0,
    default: 1_000,
    description: 'Milliseconds by which an idle connection is given up before the backend said it would close it.'
  })),
  maxHeaderSize: Type.Optional(Type.Integer({
    minimum: 1_024,
    default: 16_384,
    description: 'Bytes of a response\'s header section at the most. A larger one is answered with 502.'
  }))
}, {
  additionalProperties: false,
  title: 'PoolOptions',
  description: 'How connections to the backends are made and kept.'
})

/** How connections to backends are made and kept. */
export type PoolOptions = Static<typeof PoolOptionsSchema>

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
