import { Type, type Static } from '@sinclair/typebox'
import type { BackendInput } from './backend.ts'
import type { ProxyEvent } from './events.ts'

/** What a function has found: the backends there are, and for how many milliseconds that holds. */
export interface Discovered {
  backends: readonly BackendInput[]
  /** Milliseconds until it is to be asked again. Default: `interval`. */
  ttl?: number
}

/**
 * Lists the backends there are now. Called again and again; what it throws or rejects with leaves everything as it is.
 * @param signal aborted when it has taken too long, or nobody wants to know any more
 */
export type DiscoverFunction = (signal: AbortSignal) => readonly BackendInput[] | Discovered | Promise<readonly BackendInput[] | Discovered>

const Kind = [Type.Literal('dns'), Type.Literal('dns-srv'), Type.Unsafe<DiscoverFunction>(Type.Function([], Type.Unknown(), { signature: '(signal) => BackendInput[] | { backends, ttl }' }))] as const

/** Where backends come from by themselves. */
export const DiscoveryOptionsSchema = Type.Object({
  type: Type.Unsafe<'dns' | 'dns-srv' | DiscoverFunction>(Type.Union([...Kind], {
    description: '`\'dns\'`: one backend for each address of the host names in `backends`. `\'dns-srv\'`: one for each SRV record of them (RFC 2782). Or a function that lists the backends.',
    expected: '\'dns\', \'dns-srv\' or a function'
  })),
  interval: Type.Optional(Type.Number({
    minimum: 1,
    description: 'Milliseconds from one look to the next. Default: the TTL of the addresses for `\'dns\'`, within `dns.minTtl` and `dns.maxTtl`; 10 s for what has none.'
  })),
  jitter: Type.Optional(Type.Number({
    minimum: 0,
    maximum: 1,
    default: 0.1,
    description: 'Part by which that is made longer at random, so that not all proxies ask at once.'
  })),
  timeout: Type.Optional(Type.Number({
    minimum: 1,
    default: 10_000,
    description: 'Milliseconds that one look may take.'
  })),
  emptyGrace: Type.Optional(Type.Number({
    minimum: 0,
    default: 60_000,
    description: 'Milliseconds for which it is not believed that there are no backends at all any more: those found last are kept so long.'
  })),
  drainTimeout: Type.Optional(Type.Number({
    minimum: 0,
    default: 30_000,
    description: 'Milliseconds that requests in flight may take to finish on a backend that is not found any more.'
  })),
  readyTimeout: Type.Optional(Type.Number({
    minimum: 0,
    default: 5_000,
    description: 'Milliseconds that `app.ready()` waits for what is found first. After that the app starts without. Must be less than Fastify\'s `pluginTimeout` (10 s).'
  }))
}, {
  additionalProperties: false,
  title: 'DiscoveryOptions',
  description: 'Finds the backends of an upstream by itself, and follows them as they come and go.'
})

export const DiscoverySchema = Type.Unsafe<DiscoveryInput>(Type.Union([Type.Literal(false), ...Kind, DiscoveryOptionsSchema], {
  default: false,
  description: 'Finds backends by itself: `\'dns\'` makes one of each address of the names in `backends`, `\'dns-srv\'` one of each SRV record, a function lists them. Backends that are added by hand stay beside them. An object says when, too.',
  expected: "'dns', 'dns-srv', a function, an object of options with a type, or false"
}))

/** Where backends come from by themselves. */
export type DiscoveryOptions = Static<typeof DiscoveryOptionsSchema>
/** What `discovery` takes. */
export type DiscoveryInput = 'dns' | 'dns-srv' | DiscoverFunction | DiscoveryOptions | false

/** Backends could not be found, or can be again. */
export interface DiscoveryEvent extends ProxyEvent {
  /** What was asked for: a host name, or `function`. */
  source: string
  /** What went wrong, or what came, in words. */
  cause: string
}
