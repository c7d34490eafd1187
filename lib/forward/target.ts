import { isIPv6 } from 'node:net'
import { proxyError } from '../errors.ts'

/** What a request line asks for. */
export interface Target {
  /** Path and query as they came. */
  path: string
  /** The authority of an absolute-form target, which outranks `Host` (RFC 9112, 3.2.2). */
  authority: string | undefined
  /** Whether the server itself is meant: `OPTIONS *`, or an absolute form of it without a path. */
  asterisk: boolean
}

const ABSOLUTE = /^https?:\/\/([^/?#]*)(.*)$/is
/** Nothing in here: the target is canonical as it stands. */
const SUSPICIOUS = /[\\#]|\/\.|^\/\/|%(?:2[ef5]|5c|00)|;|[^\x21-\xff]/i
const MAX_DECODINGS = 8

/**
 * Reads the target of a request line: origin-form, absolute-form or asterisk-form.
 * Throws `BAD_REQUEST` for one whose path could mean one thing to a route and another to a backend.
 */
export function parseTarget (target: string, method: string): Target {
  let path = target
  let authority: string | undefined
  if (target.charCodeAt(0) !== 0x2f) {
    if (target === '*' && method === 'OPTIONS') return { path: '/', authority, asterisk: true }
    const absolute = ABSOLUTE.exec(target)
    if (absolute === null) throw proxyError('BAD_REQUEST', undefined, 'its target is no path and no http: or https: URL')
    authority = absolute[1]
    path = absolute[2]
    if (!isAuthority(authority)) throw proxyError('BAD_REQUEST', undefined, 'the host in its target is invalid')
    if (path === '' && method === 'OPTIONS') return { path: '/', authority, asterisk: true }
    if (path.charCodeAt(0) !== 0x2f) path = `/${path}`
  }
  assertCanonical(path)
  return { path, authority, asterisk: false }
}

/**
 * Refuses a path that a backend might resolve to another than the one that routes and guards have seen:
 * dot segments in any disguise, a second slash in front, backslashes, fragments, NUL.
 */
export function assertCanonical (target: string): void {
  if (target.charCodeAt(0) !== 0x2f) throw ambiguous('no slash in front')
  if (!SUSPICIOUS.test(target)) return
  const query = target.indexOf('?')
  let path = query === -1 ? target : target.slice(0, query)
  if (/[\\#]|[^\x21-\xff]/.test(path) || /[#]|[^\x21-\xff]/.test(target)) throw ambiguous('characters that no path may have')
  for (let decoding = 0; decoding < MAX_DECODINGS; decoding++) {
    if (/^[/\\]{2}/.test(path)) throw ambiguous('more than one slash in front')
    if (path.includes('\0')) throw ambiguous('an encoded NUL')
    if (path.includes('\\')) throw ambiguous('an encoded backslash')
    for (const segment of path.split('/')) {
      const name = segment.split(';', 1)[0]
      if (name === '.' || name === '..') throw ambiguous('dot segments')
    }
    const decoded = path.replace(/%([0-9a-f]{2})/gi, (_, hex: string) => String.fromCharCode(parseInt(hex, 16)))
    if (decoded === path) return
    path = decoded
  }
  throw ambiguous('too many layers of encoding')
}

/** The authority of an absolute-form target; `undefined` for any other. */
export function authorityOf (target: string): string | undefined {
  return ABSOLUTE.exec(target)?.[1]
}

function ambiguous (what: string): Error {
  return proxyError('BAD_REQUEST', undefined, `its path has ${what}`)
}

const NAME = /^(?:[a-z0-9\-._~!$&'()*+,;=]|%[0-9a-f]{2})+(?::\d{0,5})?$/i
const IP_LITERAL = /^\[([^\]]+)\](?::\d{0,5})?$/

/** Whether a value can stand in `Host`: a name, an IPv4 or IPv6 address, and perhaps a port. RFC 9112, 3.2; RFC 3986, 3.2.2. */
export function isAuthority (value: string): boolean {
  if (NAME.test(value)) return true
  const literal = IP_LITERAL.exec(value)?.[1]
  return literal !== undefined && (isIPv6(literal) || /^v[0-9a-f]+\.[a-z0-9\-._~!$&'()*+,;=:]+$/i.test(literal))
}
