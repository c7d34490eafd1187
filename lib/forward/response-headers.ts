import { proxyError } from '../errors.ts'
import { Kind, kindOf, nominatedFields } from './field-kinds.ts'
import { latin1 } from './latin1.ts'
import type { PrefixMapping } from './prefix-mapping.ts'

/** A backend's response, but for its content. */
export interface ResponseHead {
  statusCode: number
  statusMessage: string
  /** End-to-end fields: names and values in turn, in the order and spelling they came. */
  headers: string[]
  /** Bytes of the content; -1 when that is not known before its end. */
  contentLength: number
  /** Whether content follows at all. */
  hasBody: boolean
  /** Whether the head is the whole response, whatever its fields say of content. RFC 9112, 6.3. */
  isWhole: boolean
}

/**
 * Reads a backend's header section once and writes that of the client's response.
 * @param version of HTTP that it came by
 * Throws `BAD_RESPONSE` for a status or framing that cannot be sent on.
 */
export function buildResponseHead (method: string, statusCode: number, statusMessage: string, raw: readonly Buffer[], via: string | null, keepTrailer: boolean, mapping: PrefixMapping | null, version: '1.1' | '2' = '1.1'): ResponseHead {
  if (statusCode < 200 || statusCode > 599) throw proxyError('BAD_RESPONSE', new Error(`status ${statusCode}`))
  const headers: string[] = []
  let connection: string | undefined
  let contentLength = -1
  let coding: string | undefined

  for (let i = 0; i < raw.length; i += 2) {
    const name = latin1(raw[i])
    const value = latin1(raw[i + 1])
    const kind = kindOf(name)
    switch (kind) {
      case Kind.HOP: case Kind.TE:
        break
      case Kind.CONNECTION:
        connection = connection === undefined ? value : `${connection}, ${value}`
        break
      case Kind.CONTENT_LENGTH:
        // RFC 9110, 8.6: a 204 has none.
        if (statusCode === 204) break
        contentLength = Number(value)
        headers.push(name, value)
        break
      case Kind.TRANSFER_ENCODING:
        coding = coding === undefined ? value : `${coding}, ${value}`
        break
      case Kind.TRAILER:
        if (keepTrailer) headers.push(name, value)
        break
      case Kind.LOCATION:
        headers.push(name, mapping === null ? value : mapping.mapLocation(name, value))
        break
      case Kind.SET_COOKIE:
        headers.push(name, mapping === null ? value : mapping.mapCookie(value))
        break
      default:
        headers.push(name, value)
    }
  }

  // A coding that we have not asked for, and that is taken off with the framing, would be lost.
  if (coding !== undefined && coding.trim().toLowerCase() !== 'chunked') throw proxyError('BAD_RESPONSE', new Error('a transfer coding other than chunked'))
  const nominated = nominatedFields(connection)
  if (nominated !== null) removeNominated(headers, nominated)
  if (via !== null) headers.push('Via', `${version} ${via}`)
  const isWhole = method === 'HEAD' || statusCode === 204 || statusCode === 304
  const hasBody = !isWhole && contentLength !== 0
  return { statusCode, statusMessage, headers, contentLength, hasBody, isWhole }
}

/** The fields of an interim response (1xx) that may be sent on. */
export function buildInterimHeaders (raw: readonly Buffer[]): string[] {
  const headers: string[] = []
  let connection: string | undefined
  for (let i = 0; i < raw.length; i += 2) {
    const name = latin1(raw[i])
    const value = latin1(raw[i + 1])
    const kind = kindOf(name)
    if (kind === Kind.PASS || kind === Kind.LOCATION) headers.push(name, value)
    else if (kind === Kind.CONNECTION) connection = connection === undefined ? value : `${connection}, ${value}`
  }
  const nominated = nominatedFields(connection)
  if (nominated !== null) removeNominated(headers, nominated)
  return headers
}

/** Trailer fields that may be sent on: none that frames, routes or was meant for the neighbour. RFC 9110, 6.5.1. */
export function buildTrailers (raw: readonly (Buffer | string)[] | null): string[] {
  const trailers: string[] = []
  if (raw === null) return trailers
  for (let i = 0; i < raw.length; i += 2) {
    const name = textOf(raw[i])
    if (kindOf(name) === Kind.PASS) trailers.push(name, textOf(raw[i + 1]))
  }
  return trailers
}

function textOf (text: Buffer | string): string {
  return typeof text === 'string' ? text : latin1(text)
}

function removeNominated (headers: string[], nominated: Set<string>): void {
  for (let i = headers.length - 2; i >= 0; i -= 2) {
    const name = headers[i].toLowerCase()
    // The length is what the content has been read by, whatever its sender says of the field.
    if (name !== 'content-length' && nominated.has(name)) headers.splice(i, 2)
  }
}
