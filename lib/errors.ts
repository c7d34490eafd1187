import { createError } from '@fastify/error'
import { inspect } from 'node:util'

/**
 * Every error of this package. What a client can see (message, code, status) names no address;
 * the reason is in `cause`, which is logged and never sent.
 */
export const errors = {
  INVALID_OPTIONS: createError('FST_ROCKSTAR_INVALID_OPTIONS', '%s', 500),
  INVALID_REQUEST: createError('FST_ROCKSTAR_INVALID_REQUEST', '%s', 400),
  ADMIN_FORBIDDEN: createError('FST_ROCKSTAR_ADMIN_FORBIDDEN', '%s', 403),
  ADMIN_CONFLICT: createError('FST_ROCKSTAR_ADMIN_CONFLICT', '%s', 409),
  ADMIN_PRECONDITION: createError('FST_ROCKSTAR_ADMIN_PRECONDITION', 'The backend is not as it was: it has changed since, or there is none', 412),
  ADMIN_NOT_JSON: createError('FST_ROCKSTAR_ADMIN_NOT_JSON', 'Changes are taken as application/json only', 415),
  DUPLICATE_BACKEND: createError('FST_ROCKSTAR_DUPLICATE_BACKEND', "A backend with id '%s' is already listed in upstream '%s'", 409),
  UNKNOWN_BACKEND: createError('FST_ROCKSTAR_UNKNOWN_BACKEND', "No backend has the id '%s' in upstream '%s'", 404),
  DUPLICATE_UPSTREAM: createError('FST_ROCKSTAR_DUPLICATE_UPSTREAM', "An upstream named '%s' is already there", 409),
  UNKNOWN_UPSTREAM: createError('FST_ROCKSTAR_UNKNOWN_UPSTREAM', "No upstream is named '%s'", 500),
  BAD_REQUEST: createError('FST_ROCKSTAR_BAD_REQUEST', 'The request cannot be forwarded: %s', 400),
  UPGRADE_REFUSED: createError('FST_ROCKSTAR_UPGRADE_REFUSED', 'The connection is not switched to another protocol', 403),
  METHOD_REFUSED: createError('FST_ROCKSTAR_METHOD_REFUSED', '%s is not forwarded', 405),
  UNSUPPORTED_CODING: createError('FST_ROCKSTAR_UNSUPPORTED_CODING', 'The request has a transfer coding other than chunked', 501),
  LOOP: createError('FST_ROCKSTAR_LOOP', 'The request has been here before (see the option `via`)', 508),
  BODY_CONSUMED: createError('FST_ROCKSTAR_BODY_CONSUMED', 'The request body was parsed into something that cannot be sent on byte for byte (content type %s). Forward from a scope that has registered rockstar-proxy/passthrough, or parse this type as a string or Buffer', 500),
  INVALID_HEADER: createError('FST_ROCKSTAR_INVALID_HEADER', "%s returned a header that cannot be sent: '%s'", 500),
  NO_BACKEND: createError('FST_ROCKSTAR_NO_BACKEND', 'No backend is available', 503),
  CIRCUIT_OPEN: createError('FST_ROCKSTAR_CIRCUIT_OPEN', 'No backend is available: those there are have failed lately', 503),
  OVERLOADED: createError('FST_ROCKSTAR_OVERLOADED', 'There are too many requests at present', 503),
  UNHEALTHY: createError('FST_ROCKSTAR_UNHEALTHY', '%s', 503),
  CLOSED: createError('FST_ROCKSTAR_CLOSED', 'The proxy is shutting down', 503),
  CONNECT: createError('FST_ROCKSTAR_CONNECT', 'The backend could not be reached', 502),
  RESET: createError('FST_ROCKSTAR_RESET', 'The backend closed the connection before it answered', 502),
  BAD_RESPONSE: createError('FST_ROCKSTAR_BAD_RESPONSE', 'The backend sent an invalid response', 502),
  BAD_STATUS: createError('FST_ROCKSTAR_BAD_STATUS', 'The backend answered %s', 502),
  TIMEOUT: createError('FST_ROCKSTAR_TIMEOUT', 'The backend did not answer in time', 504),
  REQUEST_TIMEOUT: createError('FST_ROCKSTAR_REQUEST_TIMEOUT', 'The request did not arrive in time', 408),
  CLIENT_CLOSED: createError('FST_ROCKSTAR_CLIENT_CLOSED', 'The client closed the request', 499),
  ABORTED: createError('FST_ROCKSTAR_ABORTED', 'The exchange was given up', 503)
}

/** The part of an error's code after `FST_ROCKSTAR_`. */
export type ErrorCode = keyof typeof errors

/** The same, where the cause may be such an error already, which says more. */
export function causedError (code: ErrorCode, cause?: unknown): Error {
  return cause instanceof errors[code] ? cause : proxyError(code, cause)
}

/** What was thrown, as an error: an application may throw anything. */
export function asError (thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(`what was thrown is no error: ${inspect(thrown)}`)
}

/** Makes an error of the table, with its cause. */
export function proxyError (code: ErrorCode, cause?: unknown, ...args: string[]): Error {
  const error = new errors[code](...args as [])
  if (cause !== undefined) error.cause = cause
  return error
}
