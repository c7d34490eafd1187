import type { IncomingMessage } from 'node:http'
import { proxyError } from '../errors.ts'
import { clientEndOf, type ClientEnd } from '../tunnel/index.ts'
import { Kind, kindOf, nominatedFields } from './field-kinds.ts'
import { latin1 } from './latin1.ts'
import type { PrefixMapping } from './prefix-mapping.ts'

/** What a client would have its connection become, where a backend is to be asked for that. */
export interface Upgrade {
  /** In lower case. */
  protocol: string
  end: ClientEnd
}

/**
 * The protocol to be asked for; `null` where the request is an ordinary one, or to be treated as one.
 * Throws `BAD_REQUEST` for one with a body: nobody could say where that ends and the other protocol begins.
 */
export function upgradeOf (raw: IncomingMessage, allowed: ReadonlySet<string>): Upgrade | null {
  const end = clientEndOf(raw)
  if (end === undefined) return null
  const { method, headers } = raw
  if (headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0') throw proxyError('BAD_REQUEST', undefined, 'it asks for another protocol and has a body')
  const protocol = end.protocols.find(protocol => allowed.has(protocol))
  // RFC 6455, 4.1: a handshake is a GET.
  if (protocol === undefined || (protocol === 'websocket' && method !== 'GET')) return null
  return { protocol, end }
}

/**
 * Reads the head with which a backend switches protocols and writes that for the client.
 * Throws `BAD_RESPONSE` where it has switched to another than was asked for.
 */
export function buildSwitchingHead (protocol: string, raw: readonly Buffer[], via: string | null, mapping: PrefixMapping | null): string[] {
  const headers: string[] = []
  let connection: string | undefined
  let switched: string | undefined
  for (let i = 0; i < raw.length; i += 2) {
    const name = latin1(raw[i])
    const value = latin1(raw[i + 1])
    const kind = kindOf(name)
    if (kind === Kind.CONNECTION) connection = connection === undefined ? value : `${connection}, ${value}`
    else if (name.toLowerCase() === 'upgrade') switched = switched === undefined ? value : `${switched}, ${value}`
    else if (kind === Kind.SET_COOKIE && mapping !== null) headers.push(name, mapping.mapCookie(value))
    // RFC 9110, 6.4.1 and 8.6: such a response has no content, nor anything that speaks of it.
    else if (kind !== Kind.HOP && kind !== Kind.TE && kind !== Kind.CONTENT_LENGTH && kind !== Kind.TRANSFER_ENCODING && kind !== Kind.TRAILER) headers.push(name, value)
  }
  if (switched?.trim().toLowerCase() !== protocol) throw proxyError('BAD_RESPONSE', new Error('the backend has switched to another protocol than it was asked for'))
  const nominated = nominatedFields(connection)
  const kept: string[] = ['Connection', 'Upgrade', 'Upgrade', switched]
  for (let i = 0; i < headers.length; i += 2) {
    if (nominated?.has(headers[i].toLowerCase()) !== true) kept.push(headers[i], headers[i + 1])
  }
  if (via !== null) kept.push('Via', `1.1 ${via}`)
  return kept
}
