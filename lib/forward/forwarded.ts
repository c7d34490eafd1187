import type { FastifyRequest } from 'fastify'
import { isIPv6, type Socket } from 'node:net'
import { TOKEN } from '../../types/index.ts'
import { isFieldName } from '../field-syntax.ts'
import { Kind } from './field-kinds.ts'

/** What is known of the peer of a connection: the same for all of its requests. */
interface Peer {
  address: string
  /** Whether Fastify's `trustProxy` believes what it says of others. */
  trusted: boolean
  /** The address as RFC 7239 writes it. */
  node: string
}

const PAIR = `${TOKEN}=(?:${TOKEN}|"(?:[^"\\\\]|\\\\.)*")[ \\t]*`
/** A value as RFC 7239, 4 has it. Each part ends with what only it can end with: there is one way to read it. */
const FORWARDED = new RegExp(`^[ \\t]*(?:(?:${PAIR})?[,;][ \\t]*)*(?:${PAIR})?$`)

const kPeer = Symbol('rockstar-proxy.peer')
type PeerSocket = Socket & { [kPeer]?: Peer }

/** What came of the forwarded fields, collected while the headers are passed over. */
export class ReceivedForwarded {
  #fields: string[] | null = null
  #for: string | undefined
  #forwarded: string | undefined
  #namesHost = false

  add (kind: Kind, name: string, value: string): void {
    if (kind === Kind.X_FORWARDED_FOR) this.#for = this.#for === undefined ? value : `${this.#for}, ${value}`
    else if (kind === Kind.FORWARDED) this.#forwarded = this.#forwarded === undefined ? value : `${this.#forwarded}, ${value}`
    else (this.#fields ??= []).push(name, value)
    if (kind === Kind.X_FORWARDED_HOST) this.#namesHost = true
  }

  /**
   * Writes what the backend is to know of the client: appended to what came when the peer is trusted, else in its place.
   * @param host what the client asked for
   */
  write (headers: string[], request: FastifyRequest, host: string, { xForwarded, standard }: { xForwarded: boolean, standard: boolean }): void {
    const { address, trusted, node } = peerOf(request)
    // What is no list would take what is appended to it into one of its quotes.
    if (trusted && this.#forwarded !== undefined && !FORWARDED.test(this.#forwarded)) this.#forwarded = undefined
    if (trusted && this.#fields !== null) this.#writeReceived(headers, xForwarded)
    const proto = request.protocol ?? 'http'
    const scheme = quoted(proto)
    const asked = trusted && this.#namesHost ? request.host : host
    if (xForwarded) {
      headers.push('X-Forwarded-For', trusted && this.#for !== undefined ? `${this.#for}, ${address}` : address)
      if (asked !== '') headers.push('X-Forwarded-Host', asked)
      headers.push('X-Forwarded-Proto', proto)
    } else if (trusted && this.#for !== undefined) headers.push('X-Forwarded-For', this.#for)
    if (standard) {
      const element = asked === '' ? `for=${node};proto=${scheme}` : `for=${node};host=${quoted(asked)};proto=${scheme}`
      headers.push('Forwarded', trusted && this.#forwarded !== undefined ? `${this.#forwarded}, ${element}` : element)
    } else if (trusted && this.#forwarded !== undefined) headers.push('Forwarded', this.#forwarded)
  }

  /** `X-Forwarded-Port` and the like, and the two that are written anew unless that is switched off. */
  #writeReceived (headers: string[], xForwarded: boolean): void {
    const fields = this.#fields as string[]
    for (let i = 0; i < fields.length; i += 2) {
      const rewritten = xForwarded && /^x-forwarded-(?:host|proto)$/i.test(fields[i])
      if (!rewritten) headers.push(fields[i], fields[i + 1])
    }
  }
}

/** Whether Fastify's `trustProxy` trusts the one that sent a request. */
export function isTrustedPeer (request: FastifyRequest): boolean {
  return peerOf(request).trusted
}

function peerOf (request: FastifyRequest): Peer {
  const socket = request.raw.socket as PeerSocket
  return (socket[kPeer] ??= readPeer(request, socket))
}

function readPeer (request: FastifyRequest, socket: Socket): Peer {
  // Unix sockets have no address; RFC 7239, 6.2 has a word for that.
  const address = socket.remoteAddress ?? 'unknown'
  return { address, trusted: isTrusted(request), node: isIPv6(address) ? `"[${address}]"` : address }
}

/**
 * Whether Fastify trusts the peer. It has no method for that question, but its `protocol` answers it:
 * what the peer claims is believed only when it is trusted.
 */
function isTrusted (request: FastifyRequest): boolean {
  if (request.ips === undefined) return false
  for (let prototype = Object.getPrototypeOf(request); prototype !== null; prototype = Object.getPrototypeOf(prototype)) {
    const protocol = Object.getOwnPropertyDescriptor(prototype, 'protocol')
    if (protocol?.get !== undefined) {
      return protocol.get.call({ raw: request.raw, headers: { 'x-forwarded-proto': 'claimed' } }) === 'claimed'
    }
  }
  return false
}

/** A value as a token where it is one, else as a quoted string. RFC 7239, 4. */
function quoted (value: string): string {
  if (isFieldName(value)) return value
  return `"${value.replaceAll(/["\\]/g, '\\$&')}"`
}
