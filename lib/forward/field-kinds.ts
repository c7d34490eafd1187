/** What a proxy has to do with a header field, whichever way it goes. */
export const Kind = {
  /** End to end: sent on as it is. */
  PASS: 0,
  /** Between two neighbours only (RFC 9110, 7.6.1): never sent on. */
  HOP: 1,
  CONNECTION: 2,
  HOST: 3,
  CONTENT_LENGTH: 4,
  TRANSFER_ENCODING: 5,
  TE: 6,
  TRAILER: 7,
  VIA: 8,
  MAX_FORWARDS: 9,
  /** Any `X-Forwarded-*` that is not one of ours. */
  X_FORWARDED: 10,
  X_FORWARDED_FOR: 11,
  X_FORWARDED_HOST: 12,
  X_FORWARDED_PROTO: 13,
  FORWARDED: 14,
  COOKIE: 15,
  /** Fields whose values may hold a path of the backend. */
  LOCATION: 16,
  SET_COOKIE: 17,
  /** Answered by Node's server before a handler runs, and refused by undici. */
  EXPECT: 18,
  /** RFC 9209: the one field of its family that is meant for the far end, of a response. */
  PROXY_STATUS: 19
} as const
// eslint-disable-next-line @typescript-eslint/no-redeclare -- a value and its type, as an enum would be
export type Kind = typeof Kind[keyof typeof Kind]

const known: Record<string, Kind> = {
  connection: Kind.CONNECTION,
  'keep-alive': Kind.HOP,
  upgrade: Kind.HOP,
  'http2-settings': Kind.HOP,
  proxy: Kind.HOP,
  'proxy-status': Kind.PROXY_STATUS,
  expect: Kind.EXPECT,
  host: Kind.HOST,
  'content-length': Kind.CONTENT_LENGTH,
  'transfer-encoding': Kind.TRANSFER_ENCODING,
  te: Kind.TE,
  trailer: Kind.TRAILER,
  via: Kind.VIA,
  'max-forwards': Kind.MAX_FORWARDS,
  'x-forwarded-for': Kind.X_FORWARDED_FOR,
  'x-forwarded-host': Kind.X_FORWARDED_HOST,
  'x-forwarded-proto': Kind.X_FORWARDED_PROTO,
  forwarded: Kind.FORWARDED,
  cookie: Kind.COOKIE,
  location: Kind.LOCATION,
  'content-location': Kind.LOCATION,
  refresh: Kind.LOCATION,
  'set-cookie': Kind.SET_COOKIE
}

/** Spellings seen so far; bounded, because clients choose them. */
const seen = new Map<string, Kind>()
const MAX_SEEN = 1024

/** The kind of a field name in any case. */
export function kindOf (name: string): Kind {
  let kind = seen.get(name)
  if (kind === undefined) {
    kind = classify(name.toLowerCase())
    if (seen.size < MAX_SEEN) seen.set(name, kind)
  }
  return kind
}

function classify (name: string): Kind {
  if (Object.hasOwn(known, name)) return known[name]
  // Pseudo-fields of HTTP/2 are no fields of HTTP/1.1.
  if (name.startsWith('proxy-') || name.startsWith(':')) return Kind.HOP
  if (name.startsWith('x-forwarded-')) return Kind.X_FORWARDED
  return Kind.PASS
}

/** The fields that a `Connection` value names, in lower case; `null` when it names none. */
export function nominatedFields (connection: string | undefined): Set<string> | null {
  // Keep-Alive is never sent on anyway.
  if (connection === undefined || connection === 'keep-alive') return null
  const names = new Set<string>()
  for (const token of connection.toLowerCase().split(',')) {
    const name = token.trim()
    if (name !== '' && name !== 'keep-alive') names.add(name)
  }
  return names.size === 0 ? null : names
}
