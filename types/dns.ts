import { Type, type Static } from '@sinclair/typebox'

/** How the names of backends are resolved. */
export const DnsOptionsSchema = Type.Object({
  minTtl: Type.Optional(Type.Number({
    minimum: 0,
    default: 1_000,
    description: 'Milliseconds for which an answer holds at the least, also where its TTL is shorter.'
  })),
  maxTtl: Type.Optional(Type.Number({
    minimum: 0,
    default: 300_000,
    description: 'Milliseconds for which an answer holds at the most, also where its TTL is longer.'
  })),
  systemTtl: Type.Optional(Type.Number({
    minimum: 0,
    default: 10_000,
    description: 'Milliseconds for which an answer holds that has no TTL: of the hosts file, or of the system where DNS servers do not know the name.'
  })),
  errorTtl: Type.Optional(Type.Number({
    minimum: 0,
    default: 1_000,
    description: 'Milliseconds for which it is remembered that a name could not be resolved: so long it is not asked for again.'
  })),
  staleWhileRevalidate: Type.Optional(Type.Number({
    minimum: 0,
    default: 300_000,
    description: 'Milliseconds after its time for which an answer is still used at once, while a new one is asked for. So long it is also kept when DNS servers say that there is no such name any more.'
  })),
  staleIfError: Type.Optional(Type.Number({
    minimum: 0,
    default: 86_400_000,
    description: 'Milliseconds after its time for which an answer is kept while DNS servers fail or do not answer; never less than `staleWhileRevalidate`.'
  })),
  servers: Type.Optional(Type.Array(Type.String({ minLength: 1 }), {
    minItems: 1,
    description: 'DNS servers that are asked instead of the system\'s: IP addresses, perhaps with a port (`10.0.0.53:5353`, `[fd00::53]:5353`). Names that they do not know are then not looked up by the system either. Default: those of the system.'
  })),
  timeout: Type.Optional(Type.Integer({
    minimum: 1,
    // Node's resolver waits no longer, whatever it is told.
    maximum: 5_000,
    default: 2_000,
    description: 'Milliseconds that a DNS server may take for an answer, at the first try.'
  })),
  tries: Type.Optional(Type.Integer({
    minimum: 1,
    default: 2,
    description: 'Times that each DNS server is asked, with more time for an answer each time, up to 5 s.'
  }))
}, {
  additionalProperties: false,
  title: 'DnsOptions',
  description: 'How the host names of backends are resolved, and for how long answers are kept.'
})

export const DnsSchema = Type.Union([Type.Boolean(), DnsOptionsSchema], {
  description: 'Resolves the names of backends through a cache: options, `true` for the defaults, or `false` to ask the system for every connection. Named upstreams share the cache of the plugin; one that says otherwise has its own. Default: `true`.',
  expected: 'a boolean or an object of options'
})

/** How the names of backends are resolved. */
export type DnsOptions = Static<typeof DnsOptionsSchema>

/** What is known of one name. */
export interface DnsEntry {
  /** Where it leads, in the order of the answer; empty where it could not be resolved. */
  addresses: string[]
  /** Milliseconds until its answer is to be renewed; below 0 for one that is used beyond its time. */
  expiresIn: number
  /** Why it could not be resolved the last time; left out where it could. */
  error?: string
}

/** What the cache of names tells of itself. */
export interface DnsStats {
  /** Look-ups that were answered at once by an answer that holds. */
  hits: number
  /** Look-ups that were answered at once by one beyond its time. */
  stale: number
  /** Look-ups that had to wait for an answer. */
  misses: number
  /** Look-ups that got no address. */
  errors: number
  /** Times that a name was asked for. */
  queries: number
  /** Times that this failed. */
  failures: number
  /** By name. */
  names: Record<string, DnsEntry>
}
