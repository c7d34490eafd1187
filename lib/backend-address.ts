import { isIP } from 'node:net'
import { proxyError } from './errors.ts'
import { withoutPassword } from './options.ts'

/** Where a backend listens, taken apart. */
export interface BackendAddress {
  /** As it is shown, and as it can be given again. */
  readonly href: string
  /** Scheme, host and port, as undici takes them. */
  readonly origin: string
  /** What `Host` says when the client's is not preserved. */
  readonly host: string
  /** The name that a certificate must bear; `null` without TLS. */
  readonly servername: string | null
  /** The path without its last slash; empty when there is none. */
  readonly basePath: string
  /** Of a Unix socket; `@name` for one in the abstract namespace. */
  readonly socketPath: string | undefined
  /** What names the backend that has no id of its own. */
  readonly id: string
}

/** nginx' spelling of the same; a URL would take `unix` for a host. */
const NGINX_UNIX = /^http:\/\/(?=unix:)/i
/** The path of a socket, and perhaps a base path. */
const UNIX = /^(\/[^:]+|@[^:/]+)(?::(\/.*)?)?$/

/** Bytes that the system's `sockaddr_un` has room for. unix(7). */
export const LONGEST_SOCKET_PATH = process.platform === 'linux' ? 107 : 103

/** Whether Node would cut a path short, and meet another socket. */
export function isTooLong (socketPath: string): boolean {
  return Buffer.byteLength(socketPath) > LONGEST_SOCKET_PATH
}

/** Reads the URL of a backend. Throws `INVALID_OPTIONS`, naming `path`. */
export function addressOf (input: string | URL, path: string): BackendAddress {
  const text = String(input).replace(NGINX_UNIX, '')
  const refuse = (problem = '') => proxyError('INVALID_OPTIONS', undefined,
    `${path} must be an http:, https: or unix: URL, and is '${withoutPassword(String(input))}'${problem}`)
  const url = URL.canParse(text) ? new URL(text) : null
  if (url === null) throw refuse()
  if (url.username !== '' || url.password !== '') throw refuse(', which has credentials')
  if (url.search !== '' || url.hash !== '') throw refuse(', which has a query or a fragment')
  if (url.protocol === 'unix:') return unixAddress(url, refuse)
  if (url.protocol !== 'http:' && url.protocol !== 'https:') throw refuse()
  if (/^https:\/\/unix:/i.test(text)) throw refuse(', for which there is no TLS: that wants an https: URL and pool.socketPath')
  if (url.hostname === '' || (url.hostname.startsWith('[') && isIP(url.hostname.slice(1, -1)) !== 6)) throw refuse()
  return {
    href: url.href,
    origin: url.origin,
    host: url.host,
    servername: url.protocol === 'https:' ? url.hostname.replace(/^\[|\]$/g, '') : null,
    basePath: url.pathname.replace(/\/+$/, ''),
    socketPath: undefined,
    id: url.host
  }
}

/** `unix:/path.sock`, `unix:/path.sock:/base`, or `unix:@name`; a colon in the path of a socket is written `%3A`. */
function unixAddress (url: URL, refuse: (problem?: string) => Error): BackendAddress {
  const parts = url.host === '' ? UNIX.exec(url.pathname) : null
  if (parts === null) throw refuse(", which has no path of a socket: that is 'unix:/path.sock' or 'unix:/path.sock:/base'")
  const [, name, base = ''] = parts
  const socketPath = decoded(name)
  if (socketPath === null || socketPath.includes('\0')) throw refuse(', in whose path an escape is none')
  if (isTooLong(socketPath)) throw refuse(`, whose socket has a longer path than the system has room for (${LONGEST_SOCKET_PATH} bytes)`)
  if (socketPath.startsWith('@') && process.platform !== 'linux') throw refuse(', and only Linux has sockets without a path')
  const basePath = base.replace(/\/+$/, '')
  // A slash more or less is the same.
  const href = `unix:${name}${basePath === '' ? '' : `:${base}`}`
  return { href, origin: 'http://localhost', host: 'localhost', servername: null, basePath, socketPath, id: href }
}

function decoded (text: string): string | null {
  try {
    return decodeURIComponent(text)
  } catch {
    return null
  }
}
