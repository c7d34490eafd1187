import type { FastifyRequest } from 'fastify'
import type { IncomingHttpHeaders } from 'node:http'
import { BlockList, isIP } from 'node:net'
import { proxyError } from '../../lib/errors.ts'
import type { ResourceOptions } from '../../types/index.ts'

const loopback = new BlockList()
loopback.addSubnet('127.0.0.0', 8, 'ipv4')
loopback.addAddress('::1', 'ipv6')

/** Methods that change nothing. RFC 9110, 9.2.1. */
const SAFE: ReadonlySet<string> = new Set(['GET', 'HEAD', 'OPTIONS'])
/** What proxies, load balancers and CDNs add to a request that they send on, beside all that begins with `X-Forwarded-`. */
const FORWARDED: ReadonlySet<string> = new Set([
  'forwarded', 'via', 'x-real-ip', 'x-client-ip', 'x-cluster-client-ip', 'x-original-forwarded-for', 'x-original-host', 'true-client-ip', 'cf-connecting-ip', 'cf-connecting-ipv6', 'cf-ray', 'cdn-loop',
  'do-connecting-ip', 'fastly-client-ip', 'fly-client-ip', 'x-appengine-user-ip', 'x-azure-clientip', 'x-azure-socketip', 'x-envoy-external-address', 'x-amzn-trace-id', 'x-arr-log-id', 'x-vercel-forwarded-for'
])

/** Whether a request would change something. */
export function isChange ({ method }: FastifyRequest): boolean {
  return !SAFE.has(method)
}

/**
 * Looks at what nobody can forge: the peer's address, and what browsers say of where a request comes from. Whoever has no hooks of his own
 * serves this machine alone.
 */
export class Access {
  readonly #guarded: boolean
  readonly #hosts: ReadonlySet<string> | null
  readonly #origins: ReadonlySet<string>
  /** The authority that was allowed last: whoever reads many times a second mostly asks by the same. */
  #allowed: string | null = null

  /** Throws `INVALID_OPTIONS`, naming `path`. */
  constructor ({ onRequest, hosts, origins = [] }: Pick<ResourceOptions, 'onRequest' | 'hosts' | 'origins'>, path = 'options') {
    this.#guarded = onRequest !== undefined && (!Array.isArray(onRequest) || onRequest.length > 0)
    this.#hosts = hosts === undefined ? null : new Set(hosts.map((host, i) => nameOf(host, `${path}.hosts[${i}]`)))
    this.#origins = new Set(origins.map((origin, i) => originOf(origin, `${path}.origins[${i}]`)))
  }

  /** Throws `FST_ROCKSTAR_ADMIN_FORBIDDEN` or `FST_ROCKSTAR_ADMIN_NOT_JSON`. */
  check (request: FastifyRequest): void {
    const { headers } = request.raw
    if (!this.#guarded) checkPeer(request)
    const authority = headers.host ?? headers[':authority'] as string | undefined ?? ''
    if (authority !== this.#allowed) this.#checkHost(authority)
    this.#checkOrigin(headers, authority)
    if (isChange(request) && hasBody(request) && !/^application\/json\s*(?:;|$)/i.test(headers['content-type'] ?? '')) throw proxyError('ADMIN_NOT_JSON')
  }

  #checkHost (authority: string): void {
    const host = hostOf(authority)
    const expected = this.#hosts === null ? this.#guarded || isLocalName(host) : this.#hosts.has(host)
    if (!expected) throw refusal('These routes are not served under this name: see hosts')
    this.#allowed = authority
  }

  /** Fetch Metadata and `Origin` cannot be set by a page. */
  #checkOrigin ({ origin, 'sec-fetch-site': site }: IncomingHttpHeaders, authority: string): void {
    if (origin !== undefined && this.#origins.has(origin.toLowerCase())) return
    const isOwn = (site === undefined || site === 'same-origin' || site === 'none') && (origin === undefined || isSameHost(origin, authority))
    if (!isOwn) throw refusal('Pages of other websites may not use these routes: see origins')
  }
}

function refusal (message: string): Error {
  return proxyError('ADMIN_FORBIDDEN', undefined, message)
}

/** Only this machine, and nobody who has come to it through a proxy that stands on it. */
function checkPeer ({ raw: { socket, headers }, server }: FastifyRequest): void {
  // A Unix socket has no address; but neither has a connection that is gone by now.
  const local = socket.remoteAddress === undefined ? typeof server.server.address() === 'string' : isLoopback(socket.remoteAddress)
  if (!local) throw refusal('Without hooks that say who may, only this machine may use these routes: set onRequest')
  for (const name in headers) if (FORWARDED.has(name) || name.startsWith('x-forwarded-')) throw refusal('Without hooks that say who may, nobody may use these routes through a proxy: set onRequest')
}

/** Over HTTP/2 a body needs no header that announces it. RFC 9113, 8.1. */
function hasBody ({ raw }: FastifyRequest): boolean {
  const { headers, stream } = raw as typeof raw & { stream?: { endAfterHeaders?: boolean } }
  return stream?.endAfterHeaders === false || headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0' || headers['content-type'] !== undefined
}

/** An IPv4 address in the form of an IPv6 one is the same. */
function isLoopback (address: string): boolean {
  // Looking these up in the list costs more than all the rest.
  return address === '127.0.0.1' || address === '::1' || loopback.check(address, isIP(address) === 6 ? 'ipv6' : 'ipv4')
}

function isLocalName (host: string): boolean {
  return host === 'localhost' || host.endsWith('.localhost') || (isIP(host) !== 0 && isLoopback(host))
}

function isSameHost (origin: string, authority: string): boolean {
  return URL.canParse(origin) && new URL(origin).host === authority.toLowerCase()
}

/** The name in `Host` as URLs have it, without its port and the brackets of an address; empty for none. */
function hostOf (authority: string): string {
  if (!/^(?:\[[0-9a-f:.]+\]|[^\s:/?#@[\]\\]+)(?::\d*)?$/i.test(authority) || !URL.canParse(`http://${authority}`)) return ''
  return new URL(`http://${authority}`).hostname.replace(/^\[|\]$/g, '')
}

function nameOf (host: string, path: string): string {
  const name = isIP(host) === 6 ? hostOf(`[${host}]`) : /:\d*$/.test(host.replace(/^\[.*\]/, '')) ? '' : hostOf(host)
  if (name === '') throw proxyError('INVALID_OPTIONS', undefined, `${path} must be the name of a host without a port, and is '${host}'`)
  return name
}

function originOf (origin: string, path: string): string {
  if (!/^https?:\/\/[^/?#]+\/?$/i.test(origin) || !URL.canParse(origin)) throw proxyError('INVALID_OPTIONS', undefined, `${path} must be an origin such as 'https://console.example', and is '${origin}'`)
  return new URL(origin).origin
}
