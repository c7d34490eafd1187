import { IDEMPOTENT_METHODS } from '../../types/index.ts'
import type { AttemptResult, Culprit, Outcome, Stage } from '../../types/index.ts'
import type { ErrorCode } from '../errors.ts'

/** An error as undici and Node's sockets raise it. One of a user's own dispatcher may have anything for a code; a `DOMException` has a number. */
type CodedError = Error & { code?: unknown }

/** Which error of ours an attempt's failure is: from how far it came and what undici says. */
export function errorCodeOf (stage: Stage, error: Error): ErrorCode {
  const { code: given } = error as CodedError
  const code = typeof given === 'string' ? given : ''
  if (code.startsWith('FST_ROCKSTAR_')) return code.slice('FST_ROCKSTAR_'.length) as ErrorCode
  if (code === 'UND_ERR_CONNECT_TIMEOUT' || code === 'ETIMEDOUT') return 'TIMEOUT'
  if (stage === 'select' || stage === 'connect') return 'CONNECT'
  if (error.name === 'HTTPParserError' || code === 'UND_ERR_HEADERS_OVERFLOW' || code === 'UND_ERR_RES_CONTENT_LENGTH_MISMATCH' || saysBadResponse(error)) return 'BAD_RESPONSE'
  return 'RESET'
}

/** undici has no code of its own for bytes on an idle connection and for a 101 that nobody asked for. */
function saysBadResponse (error: Error): boolean {
  return error.message === 'bad response' || error.message === 'bad upgrade'
}

/** Whose fault a failure of ours is. */
export function culpritOf (code: ErrorCode): Culprit {
  switch (code) {
    case 'CLIENT_CLOSED': case 'REQUEST_TIMEOUT': case 'BAD_REQUEST': return 'client'
    case 'ABORTED': case 'CLOSED': case 'INVALID_HEADER': return 'proxy'
    default: return 'backend'
  }
}

/** How an attempt counts: an answer below 500 is a success; what the client or we gave up is no failure. */
export function resultOf ({ culprit, statusCode, error }: Outcome): AttemptResult {
  if (culprit === 'client' || culprit === 'proxy') return 'aborted'
  return error === undefined && statusCode < 500 ? 'successful' : 'failed'
}

/** What the client or the application has ended, and no backend is to be blamed for. */
const GIVEN_UP: ReadonlySet<ErrorCode> = new Set<ErrorCode>(['CLIENT_CLOSED', 'REQUEST_TIMEOUT', 'ABORTED', 'BAD_REQUEST'])

/** How an exchange counts that ends so before its answer does. */
export function resultOfEnd (code: ErrorCode): AttemptResult {
  return GIVEN_UP.has(code) ? 'aborted' : 'failed'
}

/** Methods that may be sent again without being asked to. RFC 9110, 9.2.2. */
export const IDEMPOTENT: ReadonlySet<string> = new Set(IDEMPOTENT_METHODS)
