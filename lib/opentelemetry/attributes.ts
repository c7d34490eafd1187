import type { Attributes } from '@opentelemetry/api'
import type { AttemptReport, AttemptTrace } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { errors, proxyError } from '../errors.ts'
import { errorCodeOf } from '../forward/outcome.ts'
import { fullUrl } from './url.ts'

/** What a span says of a method that is not known. */
export const OTHER = '_OTHER'

/** Of RFC 9110 and RFC 5789. */
const METHODS = ['CONNECT', 'DELETE', 'GET', 'HEAD', 'OPTIONS', 'PATCH', 'POST', 'PUT', 'TRACE']
/** A code, as Node, undici and this package have them, or the name of a class. */
const CODE = /^[A-Za-z][A-Za-z0-9_]{0,63}$/

/** The methods that spans name; the environment may say others. Source: OpenTelemetry's semantic conventions, `http.request.method`. */
export function knownMethods ({ OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS: list }: NodeJS.ProcessEnv): ReadonlySet<string> {
  const names = list?.split(',').map(name => name.trim()).filter(name => name !== '') ?? []
  return new Set(names.length === 0 ? METHODS : names)
}

/** What can be told of an attempt before it is made: samplers go by it. @param method of those known @param secret what is not to be seen of queries */
export function startAttributes ({ exchange, backend, reason, number, path, method: original }: AttemptTrace, method: string, secret: ReadonlySet<string>): Attributes {
  const attributes: Attributes = {
    'http.request.method': method,
    ...serverOf(backend as Backend),
    'url.full': fullUrl((backend as Backend).origin, path, secret),
    'rockstar_proxy.upstream': exchange.upstream,
    'rockstar_proxy.backend': backend.id,
    'rockstar_proxy.attempt.reason': reason
  }
  if (method === OTHER) attributes['http.request.method_original'] = original
  if (number > 0) attributes['http.request.resend_count'] = number
  if (exchange.route !== undefined) attributes['rockstar_proxy.route'] = exchange.route
  if (exchange.isCopy) attributes['rockstar_proxy.mirror'] = true
  return attributes
}

const servers = new WeakMap<Backend, Attributes>()

/** Where a backend is, which never changes. */
function serverOf (backend: Backend): Attributes {
  let server = servers.get(backend)
  if (server === undefined) {
    server = describeServer(backend)
    servers.set(backend, server)
  }
  return server
}

function describeServer ({ url, socketPath, address }: Backend): Attributes {
  if (socketPath !== undefined) return { 'server.address': socketPath, 'network.transport': 'unix' }
  const port = url.port === '' ? (url.protocol === 'https:' ? 443 : 80) : Number(url.port)
  const server = { 'server.address': url.hostname.replace(/^\[|\]$/g, ''), 'server.port': port }
  // Known beforehand where discovery has found it; else it is up to the connection.
  return address === undefined ? server : { ...server, 'network.peer.address': address, 'network.peer.port': port }
}

/** What has become of an attempt. */
export interface Ending {
  attributes: Attributes
  /** Whether it has failed. An answer of 400 or above is a failure to a client, which a proxy is here. */
  failed: boolean
  /** Why, in words that hold no address and nothing that anybody has sent; left out where the status says it. */
  message?: string
}

/** What can be told of an attempt at its end. */
export function endingOf ({ result, outcome: { stage, culprit, statusCode, error } }: AttemptReport, version: string | undefined): Ending {
  const attributes: Attributes = { 'rockstar_proxy.attempt.result': result }
  if (version !== undefined) attributes['network.protocol.version'] = version
  if (statusCode !== 0) attributes['http.response.status_code'] = statusCode
  if (culprit !== 'none') Object.assign(attributes, { 'rockstar_proxy.attempt.stage': stage, 'rockstar_proxy.attempt.culprit': culprit })
  if (statusCode >= 400) return { attributes: Object.assign(attributes, { 'error.type': String(statusCode) }), failed: true }
  // What the client or the proxy has given up is no error of the backend, whose span this is.
  if (result !== 'failed' || error === undefined) return { attributes, failed: false }
  attributes['error.type'] = errorType(error)
  return { attributes, failed: true, message: describe(error, stage) }
}

/** The kind of an error: there are few. */
function errorType ({ code, name }: Error & { code?: unknown }): string {
  if (typeof code === 'string' && CODE.test(code)) return code
  return CODE.test(name) ? name : OTHER
}

/** Errors of sockets and of a user's own dispatcher may hold anything: only what this package says of them is told. */
function describe (error: Error, stage: AttemptReport['outcome']['stage']): string | undefined {
  const code = errorCodeOf(stage, error)
  if (stage === 'stream' && code !== 'BAD_RESPONSE') return code === 'TIMEOUT' ? 'The response did not go on in time' : 'The response was cut short'
  return Object.hasOwn(errors, code) ? proxyError(code).message : undefined
}
