import type { FastifyInstance, FastifyRequest } from 'fastify'
import { IncomingMessage, METHODS, validateHeaderName, validateHeaderValue } from 'node:http'
import { isIP, Socket } from 'node:net'
import { proxyError } from '../lib/errors.ts'
import { expectTunnel } from '../lib/tunnel/index.ts'
import type { ExplainRequest } from '../types/index.ts'
import { preferAuthority } from './authority.ts'
import type { Met } from './dry-routing.ts'
import { freshRequest } from './fresh-request.ts'

/** Fields of which Node keeps the first alone. */
const SINGLE = new Set([
  'age', 'authorization', 'content-length', 'content-type', 'etag', 'expires', 'from', 'host', 'if-modified-since', 'if-unmodified-since', 'last-modified',
  'location', 'max-forwards', 'proxy-authorization', 'referer', 'retry-after', 'server', 'user-agent'
])

/**
 * Makes a request as Node would read it from a connection. Throws `INVALID_REQUEST` for what Node would not let in.
 * @param asking the request by which it is asked about
 */
export function dryMessage ({ method = 'GET', url, headers = {}, ip }: ExplainRequest, asking: FastifyRequest, app: FastifyInstance): IncomingMessage {
  if (!METHODS.includes(method)) throw wrong('method', "a method that Node's HTTP parser knows", method)
  if (ip !== undefined && isIP(ip) === 0) throw wrong('ip', 'an IP address', ip)
  const raw = new IncomingMessage(socketOf(ip ?? asking.socket.remoteAddress, app))
  Object.assign(raw, { method, url, httpVersion: '1.1', httpVersionMajor: 1, httpVersionMinor: 1 })
  const fields = fieldsOf(headers)
  if (!fields.some(([name]) => name.toLowerCase() === 'host')) fields.unshift(['Host', asking.headers.host ?? asking.host])
  raw.rawHeaders = fields.flat()
  raw.headers = recordOf(fields)
  checkFraming(raw)
  preferAuthority(raw)
  if (raw.headers.upgrade !== undefined && /(?:^|,)\s*upgrade\s*(?:,|$)/i.test(raw.headers.connection ?? '')) expectTunnel(raw)
  return raw
}

/**
 * The same as Fastify gives it to functions of options: with what decorates the requests of its route's scope, and whom the app trusts. No hook has
 * run, so that decorators have their first values; nothing of the request by which it is asked about is on it.
 * @param assumed gets the names of the decorators that are looked at
 */
export function dryRequest (raw: IncomingMessage, asking: FastifyRequest, app: FastifyInstance, { route, params, query }: Met, assumed: Set<string>): FastifyRequest {
  const server = route?.scope ?? app
  const config = { ...route?.config, url: route?.url, method: route?.method }
  const { bodyLimit = app.initialConfig.bodyLimit, handler, schema, logLevel, attachValidation, exposeHeadRoute, prefixTrailingSlash } = { ...route }
  const request = freshRequest({ id: `${asking.id}-dry-run`, params, raw, query, context: { server, config, handler, schema }, onAssumed: name => assumed.add(name) }, asking)
  const routeOptions = { method: route?.method, url: route?.url, bodyLimit, handler, config, schema, logLevel, attachValidation, exposeHeadRoute, prefixTrailingSlash }
  // Of these, a request of Fastify's asks what it has made of its route.
  for (const [name, value] of Object.entries({ server, is404: route === undefined, routeOptions })) {
    Object.defineProperty(request, name, { value, writable: true, enumerable: true, configurable: true })
  }
  return request
}

function wrong (name: string, expected: string, value: unknown): Error {
  return proxyError('INVALID_REQUEST', undefined, `body.${name} must be ${expected}, and is '${String(value)}'`)
}

/** A connection that is none. */
function socketOf (remoteAddress: string | undefined, { initialConfig }: FastifyInstance): Socket {
  const socket = new Socket()
  const encrypted = initialConfig.https !== undefined && initialConfig.https !== false
  return Object.defineProperties(socket, { remoteAddress: { value: remoteAddress }, ...(encrypted ? { encrypted: { value: true } } : {}) })
}

function fieldsOf (headers: NonNullable<ExplainRequest['headers']>): [string, string][] {
  const fields: [string, string][] = []
  for (const [name, given] of Object.entries(headers)) {
    for (const value of [given].flat()) {
      try {
        validateHeaderName(name)
        validateHeaderValue(name, value)
      } catch {
        throw proxyError('INVALID_REQUEST', undefined, `body.headers has a field that no request can have: ${JSON.stringify(name)}`)
      }
      fields.push([name, value.trim()])
    }
  }
  return fields
}

/** What Node makes of fields. */
function recordOf (fields: [string, string][]): IncomingMessage['headers'] {
  const record: Record<string, string | string[]> = Object.create(null)
  for (const [given, value] of fields) {
    const name = given.toLowerCase()
    const present = record[name]
    if (name === 'set-cookie') record[name] = [...present ?? [], value]
    else if (present === undefined) record[name] = value
    else if (!SINGLE.has(name)) record[name] = `${present as string}${name === 'cookie' ? '; ' : ', '}${value}`
  }
  return record
}

/** What Node's parser answers with 400 itself. RFC 9112, 6.3. */
function checkFraming ({ rawHeaders, headers: { 'transfer-encoding': coding, 'content-length': length } }: IncomingMessage): void {
  const lengths = rawHeaders.filter((_, i) => i % 2 === 1 && rawHeaders[i - 1].toLowerCase() === 'content-length')
  if (length !== undefined && !/^\d{1,15}$/.test(length)) throw wrong('headers.content-length', 'a number', length)
  if (lengths.length > 1) throw wrong('headers.content-length', 'there once', lengths.join(', '))
  if (length !== undefined && coding !== undefined) throw wrong('headers', 'without one of content-length and transfer-encoding', `${length} and ${coding}`)
}
