import { Type, type TSchema } from '@sinclair/typebox'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { proxyError } from '../../lib/errors.ts'
import { resolveOptions } from '../../lib/options.ts'

/** Bytes of a body at the most. */
export const BODY_LIMIT = 65_536
/** How deep a body may be nested: what is kept of it has to be written again. */
const MOST_DEPTH = 32

/** A body of which nothing is wanted. */
const NothingSchema = Type.Object({}, { additionalProperties: false })

/** What a route wants of its requests. */
export interface Wanted {
  params?: TSchema
  query?: TSchema
  body?: TSchema
}

/**
 * Checks a request as options are checked: nothing is coerced, dropped or filled in, and what is wrong is named. (Of a change, what is
 * left out stays as it is.) Throws `FST_ROCKSTAR_INVALID_REQUEST`.
 */
export function checkRequest (request: FastifyRequest, { params, query, body = NothingSchema }: Wanted): void {
  // What a caller of ours asks for by code is no client's doing.
  if (params !== undefined) resolveOptions(params, request.params, 'params', 'INVALID_REQUEST')
  // Reads come often, and mostly ask for nothing in particular.
  if (query !== undefined && !mayBeEmpty(query, request.query)) resolveOptions(query, request.query, 'query', 'INVALID_REQUEST')
  // No body is one that says nothing.
  request.body ??= {}
  if (!mayBeEmpty(body, request.body)) resolveOptions(body, request.body, 'body', 'INVALID_REQUEST')
}

/** Whether nothing is given, and nothing has to be. */
function mayBeEmpty ({ type, required }: TSchema, given: unknown): boolean {
  return type === 'object' && required === undefined && typeof given === 'object' && given !== null && !Array.isArray(given) && Object.keys(given).length === 0
}

/** Reads bodies by a parser of our own, whatever the application has for its own routes. */
export function readJson (app: FastifyInstance): void {
  // What it would refuse, or take out, is named below.
  const parse = app.getDefaultJsonParser('ignore', 'ignore') as (request: FastifyRequest, text: string, done: (error: Error | null, body?: unknown) => void) => void
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('application/json', { parseAs: 'string', bodyLimit: BODY_LIMIT }, (request, text, done) => {
    if (text === '') return done(null, undefined)
    parse(request, text as string, (error, body) => {
      if (error !== null) return done(error)
      if (body === null) return done(proxyError('INVALID_REQUEST', undefined, 'body must be an object, and is null'))
      if (isTooDeep(body)) return done(proxyError('INVALID_REQUEST', undefined, `body must be nested no deeper than ${MOST_DEPTH} levels`))
      const poison = poisonIn(body, 'body')
      if (poison !== null) return done(proxyError('INVALID_REQUEST', undefined, `${poison} is refused: objects have that name by themselves`))
      done(null, body)
    })
  })
}

/** Where a body, no deeper than it may be, has what copies of it could take for the prototype of all objects; `null` for nowhere. */
function poisonIn (value: unknown, path: string): string | null {
  if (typeof value !== 'object' || value === null) return null
  for (const [key, inner] of Object.entries(value)) {
    const at = Array.isArray(value) ? `${path}[${key}]` : `${path}.${key}`
    if (key === '__proto__') return at
    if (key === 'constructor' && typeof inner === 'object' && inner !== null && Object.hasOwn(inner, 'prototype')) return `${at}.prototype`
    const found = poisonIn(inner, at)
    if (found !== null) return found
  }
  return null
}

/** By levels, as it may be deeper than calls can be. */
function isTooDeep (value: unknown): boolean {
  let level = [value]
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > MOST_DEPTH) return true
    level = level.flatMap(one => typeof one === 'object' && one !== null ? Object.values(one) : [])
  }
  return false
}

/** What is wrong with a client's request, where our own code has found it out while it did as it was told. */
export function asRequestError (error: unknown): unknown {
  const { code, message, cause } = error as Error & { code?: string }
  if (code !== 'FST_ROCKSTAR_INVALID_OPTIONS') return error
  return proxyError('INVALID_REQUEST', cause, message.replace(/^(?:backend|changes|options)\b/, 'body'))
}
