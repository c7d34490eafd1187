import type { OutgoingHttpHeaders } from 'node:http2'
import type { Dispatcher } from 'undici'
import { proxyError } from '../errors.ts'
import { isFieldValue } from '../field-syntax.ts'

const TOKEN = /^[!#$%&'*+.^_`|~0-9a-z-]+$/
const CHARACTERS_OF_A_TARGET = /^[\x21-\x7e\x80-\xff]+$/

/** Fields of one connection of HTTP/1.1, which HTTP/2 does not have. RFC 9113, 8.2.2; `expect` has no meaning once there are streams. */
const OF_CONNECTION: ReadonlySet<string> = new Set(['connection', 'keep-alive', 'proxy-connection', 'transfer-encoding', 'upgrade', 'http2-settings', 'expect'])

/** Lists that Node takes for fields that may come but once. RFC 9110, 5.3 lets their lines be joined. */
export const MISTAKEN_LISTS: ReadonlySet<string> = new Set(['content-encoding', 'content-language', 'if-match', 'if-none-match'])

/** Pairs of what undici takes for headers: an array of names and values in turn, pairs, or an object. */
function * pairsOf (headers: Dispatcher.DispatchOptions['headers']): Generator<[string, string | readonly string[]]> {
  if (headers === null || headers === undefined) return
  if (Array.isArray(headers)) {
    for (let i = 0; i < headers.length; i += 2) yield [String(headers[i]), String(headers[i + 1])]
    return
  }
  const pairs = Symbol.iterator in headers ? headers as Iterable<[string, string | string[] | undefined]> : Object.entries(headers)
  for (const [name, value] of pairs) if (value !== undefined) yield [name, Array.isArray(value) ? value : String(value)]
}

/**
 * The head of a request as HTTP/2 has it: pseudo-fields, names in lower case, nothing of one connection. RFC 9113, 8.2 and 8.3.
 * @param authority where no `Host` says otherwise
 * @param length of a body that is here; -1 where it is not known, or there is none
 * Throws `BAD_REQUEST` for what HTTP/2 cannot say.
 */
export function requestHead (options: Dispatcher.DispatchOptions & { asterisk?: boolean }, scheme: 'http' | 'https', authority: string, length: number): OutgoingHttpHeaders {
  const { method, path, asterisk } = options
  if (!TOKEN.test(method.toLowerCase())) throw proxyError('BAD_REQUEST', undefined, 'its method is none')
  if (!CHARACTERS_OF_A_TARGET.test(path)) throw proxyError('BAD_REQUEST', undefined, 'its path has characters that HTTP/2 does not allow')
  const head: Record<string, string | string[]> = Object.create(null)
  head[':method'] = method
  head[':scheme'] = scheme
  head[':authority'] = authority
  head[':path'] = asterisk === true ? path.replace(/^\//, '*') : path
  for (const [given, value] of pairsOf(options.headers)) {
    const name = given.toLowerCase()
    if (OF_CONNECTION.has(name)) continue
    if (!TOKEN.test(name)) throw proxyError('BAD_REQUEST', undefined, 'the name of a header is none')
    for (const one of typeof value === 'string' ? [value] : value) add(head, name, one)
  }
  if (length >= 0) head['content-length'] ??= String(length)
  return head
}

/** The trailers of a request as HTTP/2 has them. Throws `BAD_REQUEST`. */
export function requestTrailers (fields: readonly string[]): OutgoingHttpHeaders {
  const trailers: Record<string, string | string[]> = Object.create(null)
  for (let i = 0; i < fields.length; i += 2) {
    const name = fields[i].toLowerCase()
    if (OF_CONNECTION.has(name) || !TOKEN.test(name)) continue
    add(trailers, name, fields[i + 1])
  }
  return trailers
}

function add (head: Record<string, string | string[]>, name: string, value: string): void {
  // A NUL would begin another field in the list that Node hands to nghttp2.
  if (!isFieldValue(value)) throw proxyError('BAD_REQUEST', undefined, `its header ${name} has characters that no header may have`)
  if (name === 'host') {
    head[':authority'] = value
    return
  }
  if (name === 'te') {
    // RFC 9113, 8.2.2: nothing else may stand there.
    if (/(?:^|,)\s*trailers\s*(?:,|$)/i.test(value)) head.te = 'trailers'
    return
  }
  const present = head[name]
  if (present === undefined) head[name] = value
  else if (MISTAKEN_LISTS.has(name)) head[name] = `${present as string}, ${value}`
  else if (Array.isArray(present)) present.push(value)
  else head[name] = [present, value]
}

/** Bytes that a header section would have in HTTP/1.1, from Node's list of names and values in turn. */
export function sizeOf (raw: readonly string[]): number {
  // Each line has a colon and a space, and its end.
  let size = raw.length * 2
  for (const text of raw) size += text.length
  return size
}

/** Fields as undici hands them on, without the pseudo-fields. What Node gives as characters are bytes. */
export function rawFieldsOf (raw: readonly string[]): Buffer[] {
  const fields: Buffer[] = []
  for (let i = 0; i < raw.length; i += 2) {
    if (raw[i].startsWith(':')) continue
    fields.push(Buffer.from(raw[i], 'latin1'), Buffer.from(raw[i + 1], 'latin1'))
  }
  return fields
}
