import { lookup as systemLookup, type LookupAddress } from 'node:dns'
import { BlockList, isIP, type LookupFunction } from 'node:net'
import { addressOf } from './backend-address.ts'
import type { Backend } from './backend.ts'
import { proxyError } from './errors.ts'

/**
 * Where backends may be that are added from outside, so that nobody makes the proxy ask what only it can reach. What is looked at is what
 * is connected to: the host as URLs have it (`0x7f.1` is `127.0.0.1`), and whatever its name leads to, now and at every connection.
 */
export class AllowedBackends {
  readonly #names = new Set<string>()
  /** Ends of names, with their dots: `.example.internal`. */
  readonly #endings: string[] = []
  readonly #sockets = new Set<string>()
  readonly #networks = new BlockList()
  readonly #path: string

  /** Throws `INVALID_OPTIONS`, naming `path`, for what is neither a name, an address, a network nor a Unix socket. */
  constructor (allowed: readonly string[], path = 'options.allowBackends') {
    this.#path = path
    allowed.forEach((entry, i) => this.#allow(entry, i))
  }

  /** Throws `INVALID_REQUEST` where a backend is not to be. @param lookup by which its name would be resolved for a connection */
  async check (url: string | URL, lookup?: LookupFunction): Promise<void> {
    const { host, socketPath } = placeOf(url)
    if (socketPath !== undefined) {
      if (!this.#sockets.has(socketPath)) throw refusal('a Unix socket that is not listed')
      return
    }
    // What is no URL is refused for that, later and in better words.
    if (host === undefined || this.#isNamed(host)) return
    const addresses = isIP(host) === 0 ? await resolved(host, lookup ?? systemLookup) : [host]
    if (addresses.length === 0) throw refusal(`'${host}', which leads nowhere`)
    if (!addresses.every(address => this.#hasAddress(address))) throw refusal(`'${host}'`)
  }

  /** Has connections to a backend go nowhere else either: a name may lead elsewhere by then. */
  bind (backend: Backend): void {
    if (backend.socketPath !== undefined || this.#isNamed(hostOf(backend.url))) return
    const lookup: LookupFunction = backend.lookup ?? systemLookup as LookupFunction
    backend.lookup = (name, options, callback) => lookup(name, options, (error, address, family) => {
      if (error !== null) return callback(error, address, family)
      const addresses = typeof address === 'string' ? [address] : address.map(({ address }) => address)
      if (addresses.every(address => this.#hasAddress(address))) callback(null, address, family)
      else callback(Object.assign(new Error('the name leads to an address at which no backend is allowed'), { code: 'EACCES', syscall: 'lookup' }), address, family)
    })
  }

  #allow (entry: string, i: number): void {
    const refuse = () => proxyError('INVALID_OPTIONS', undefined, `${this.#path}[${i}] must be a host name, '*.' and the end of one, an address, a network such as '10.0.0.0/8', or 'unix:' and a path, and is '${entry}'`)
    if (/^unix:/i.test(entry)) {
      const { socketPath } = placeOf(entry)
      if (socketPath === undefined) throw refuse()
      this.#sockets.add(socketPath)
      return
    }
    const [address, bits] = entry.split('/')
    if (bits !== undefined) {
      if (isIP(address) === 0 || !/^\d{1,3}$/.test(bits) || Number(bits) > (isIP(address) === 6 ? 128 : 32) || entry.split('/').length > 2) throw refuse()
      this.#networks.addSubnet(address, Number(bits), familyOf(address))
      return
    }
    const ending = entry.startsWith('*.')
    const host = nameOf(ending ? entry.slice(2) : entry)
    if (host === undefined || (ending && isIP(host) !== 0)) throw refuse()
    if (isIP(host) !== 0) this.#networks.addAddress(host, familyOf(host))
    else if (ending) this.#endings.push(`.${host}`)
    else this.#names.add(host)
  }

  #isNamed (host: string): boolean {
    return this.#names.has(host) || this.#endings.some(ending => host.endsWith(ending))
  }

  /** An IPv4 address in the form of an IPv6 one (RFC 4291, 2.5.5.2) is the same. */
  #hasAddress (address: string): boolean {
    return this.#networks.check(address, familyOf(address))
  }
}

/** What a backend of such a URL would connect to; nothing for what is no URL of one. */
function placeOf (url: string | URL): { host?: string, socketPath?: string } {
  try {
    const { socketPath, href } = addressOf(url, 'url')
    return socketPath === undefined ? { host: hostOf(new URL(href)) } : { socketPath }
  } catch {
    return {}
  }
}

/** A host as URLs have it: in lower case, in ASCII, numbers as addresses. */
function nameOf (entry: string): string | undefined {
  const text = isIP(entry) === 6 ? `[${entry}]` : entry
  if (!/^(?:\[[0-9a-f:.]+\]|[^\s:/?#@[\]\\*]+)$/i.test(text) || !URL.canParse(`http://${text}`)) return undefined
  return hostOf(new URL(`http://${text}`))
}

function hostOf ({ hostname }: URL): string {
  return hostname.replace(/^\[|\]$/g, '')
}

function familyOf (address: string): 'ipv4' | 'ipv6' {
  return isIP(address) === 6 ? 'ipv6' : 'ipv4'
}

/** Where a name leads; where nobody knows that, it is nowhere. */
function resolved (host: string, lookup: LookupFunction): Promise<string[]> {
  return new Promise(resolve => lookup(host, { all: true }, (error, addresses) => {
    resolve(error === null ? (addresses as LookupAddress[]).map(({ address }) => address) : [])
  }))
}

function refusal (what: string): Error {
  return proxyError('INVALID_REQUEST', undefined, `body.url must be where backends are allowed (allowBackends), and is ${what}`)
}
