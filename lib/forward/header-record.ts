import type { FastifyRequest } from 'fastify'
import { proxyError } from '../errors.ts'
import { isFieldName, isFieldValue } from '../field-syntax.ts'
import type { HeaderRecord } from '../../types/index.ts'

/** Names in lower case; a name that came more than once has an array. */
export function toRecord (headers: readonly string[]): HeaderRecord {
  const record: HeaderRecord = Object.create(null)
  for (let i = 0; i < headers.length; i += 2) {
    const name = headers[i].toLowerCase()
    const value = headers[i + 1]
    const present = record[name]
    if (present === undefined) record[name] = value
    else if (Array.isArray(present)) present.push(value)
    else record[name] = [present, value]
  }
  return record
}

/** A header of the client's request; of the one that is sent where there is no client. By its name in lower case. */
export function headerValue (request: FastifyRequest | undefined, headers: readonly string[], name: string): string | undefined {
  if (request === undefined) return headerOf(headers, name)
  // Node's record has the methods of every object, too.
  return Object.hasOwn(request.headers, name) ? joined(request.headers[name]) : undefined
}

/** The value of a header among names and values in turn, by its name in lower case. */
function headerOf (headers: readonly string[], name: string): string | undefined {
  let value: string | undefined
  for (let i = 0; i < headers.length; i += 2) {
    if (headers[i].length !== name.length || headers[i].toLowerCase() !== name) continue
    value = value === undefined ? headers[i + 1] : `${value}${name === 'cookie' ? '; ' : ', '}${headers[i + 1]}`
  }
  return value
}

/** A header as Node gives it, as one value. */
function joined (value: string | string[] | undefined): string | undefined {
  return Array.isArray(value) ? value.join(', ') : value
}

/** Names and values in turn, each name spelt as in `like` where it is there. */
export function toPairs (record: HeaderRecord, like: readonly string[], source: string): string[] {
  const spelling = new Map<string, string>()
  for (let i = 0; i < like.length; i += 2) spelling.set(like[i].toLowerCase(), like[i])
  const pairs: string[] = []
  for (const [name, value] of Object.entries(record)) {
    if (value === undefined || value === null) continue
    if (!isFieldName(name)) throw proxyError('INVALID_HEADER', undefined, source, name)
    for (const item of Array.isArray(value) ? value : [value]) {
      const text = String(item)
      if (!isFieldValue(text)) throw proxyError('INVALID_HEADER', undefined, source, name)
      pairs.push(spelling.get(name.toLowerCase()) ?? name, text)
    }
  }
  return pairs
}

/** Fields that say how a message is framed or routed: none of a rewriter's business. */
const FRAMING = new Set(['connection', 'content-length', 'transfer-encoding', 'keep-alive', 'upgrade', 'expect', 'te', 'trailer'])

/**
 * Throws `INVALID_HEADER` where fields that somebody may have changed cannot be sent: names and values in turn, with what frames and routes the
 * message as it was.
 */
export function assertSendable (headers: readonly unknown[], before: readonly string[], source: string): void {
  const refuse = (what: unknown) => proxyError('INVALID_HEADER', undefined, source, String(what))
  if (headers.length % 2 === 1) throw refuse(headers.at(-1))
  for (let i = 0; i < headers.length; i += 2) {
    const name = headers[i]
    const value = headers[i + 1]
    if (typeof name !== 'string' || !isFieldName(name)) throw refuse(name)
    if (typeof value !== 'string' || !isFieldValue(value)) throw refuse(name)
  }
  const frame = (fields: readonly string[]) => fields.flatMap((name, i) => i % 2 === 0 && (FRAMING.has(name.toLowerCase()) || name.toLowerCase() === 'host') ? [`${name.toLowerCase()}: ${fields[i + 1]}`] : []).sort()
  const [was, is] = [frame(before), frame(headers as readonly string[])]
  const other = is.find((field, i) => field !== was[i]) ?? was.find((field, i) => field !== is[i])
  if (other !== undefined) throw refuse(other.slice(0, other.indexOf(':')))
}

/** Lets a user's function change headers, but for those that frame the message. Throws `INVALID_HEADER`. */
export function rewritten (headers: string[], rewrite: (record: HeaderRecord) => HeaderRecord, source: string): string[] {
  const result = rewrite(toRecord(headers))
  if (typeof result !== 'object' || result === null) throw proxyError('INVALID_HEADER', undefined, source, String(result))
  const kept: string[] = []
  for (let i = 0; i < headers.length; i += 2) {
    if (FRAMING.has(headers[i].toLowerCase())) kept.push(headers[i], headers[i + 1])
  }
  const free = Object.fromEntries(Object.entries(result).filter(([name]) => !FRAMING.has(name.toLowerCase())))
  return [...toPairs(free, headers, source), ...kept]
}
