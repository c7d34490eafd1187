import { METHODS, validateHeaderName, validateHeaderValue } from 'node:http'
import { inspect } from 'node:util'
import { HOST_PATTERN, type HealthCheckOverrides } from '../../types/index.ts'
import { proxyError } from '../errors.ts'

/** Fields that are the connection's: who sends the request writes them, or it is none. RFC 9110, 7.6.1; RFC 9112, 6. */
const CONNECTION_FIELDS: ReadonlySet<string> = new Set([
  'connection', 'content-length', 'expect', 'http2-settings', 'keep-alive', 'proxy-connection', 'te', 'trailer', 'transfer-encoding', 'upgrade'
])
const HOST = new RegExp(HOST_PATTERN)

/**
 * Throws `INVALID_OPTIONS` where a check's request could never be sent, beyond what its schema finds: it would fail for ever, and take its backend out.
 * @param named what an error calls one of the settings
 */
export function checkSendable ({ method = 'GET', headers = {} }: HealthCheckOverrides, named: (setting: string) => string): void {
  const wrong = (setting: string, expected: string) => proxyError('INVALID_OPTIONS', undefined, `${named(setting)} must ${expected}`)
  if (!METHODS.includes(method) || method === 'CONNECT') throw wrong('method', `be a method that Node's HTTP parser knows, other than CONNECT, and is '${method}'`)
  for (const [name, value] of Object.entries(headers)) {
    if (!allows(() => validateHeaderName(name))) throw wrong('headers', `have names that HTTP allows, and has ${inspect(name)}`)
    if (CONNECTION_FIELDS.has(name.toLowerCase())) throw wrong('headers', `not have ${name}: whoever sends the request writes it`)
    if (name.toLowerCase() === 'host' && !HOST.test(value)) throw wrong(`headers.${name}`, `be a host, perhaps with a port, and is ${inspect(value)}`)
    // What is in it may be a secret.
    if (!allows(() => validateHeaderValue(name, value))) throw wrong(`headers.${name}`, 'be a value that HTTP allows: no control characters, and none beyond U+00FF')
  }
}

function allows (check: () => void): boolean {
  try {
    check()
    return true
  } catch {
    return false
  }
}
