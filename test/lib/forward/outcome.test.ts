import t from 'tap'
import { errors as undici } from 'undici'
import { errors, type ErrorCode } from '../../../lib/errors.ts'
import { culpritOf, errorCodeOf, IDEMPOTENT, resultOf, resultOfEnd } from '../../../lib/forward/outcome.ts'
import type { Culprit, Outcome, Stage } from '../../../types/index.ts'

function failure (code: string, message = 'some failure'): Error {
  return Object.assign(new Error(message), { code })
}

t.test('an error of ours is what it says it is, at any stage', async t => {
  for (const code of Object.keys(errors) as ErrorCode[]) {
    for (const stage of ['select', 'connect', 'send', 'wait', 'stream'] as Stage[]) {
      t.equal(errorCodeOf(stage, new errors[code]()), code)
    }
  }
})

t.test('before there is a connection, what fails is the connecting', async t => {
  for (const stage of ['select', 'connect'] as Stage[]) {
    for (const code of ['ECONNREFUSED', 'ECONNRESET', 'EHOSTUNREACH', 'ENOTFOUND', 'EMFILE', 'CERT_HAS_EXPIRED', 'UND_ERR_DESTROYED', 'UND_ERR_INVALID_ARG']) {
      t.equal(errorCodeOf(stage, failure(code)), 'CONNECT', `${stage} ${code}`)
    }
    t.equal(errorCodeOf(stage, new Error('without a code')), 'CONNECT')
  }
})

t.test('time that the kernel or undici has run out of is a timeout, not a refusal', async t => {
  for (const stage of ['connect', 'send', 'wait', 'stream'] as Stage[]) {
    t.equal(errorCodeOf(stage, new undici.ConnectTimeoutError('too late')), 'TIMEOUT')
    t.equal(errorCodeOf(stage, failure('ETIMEDOUT')), 'TIMEOUT')
  }
})

t.test('bytes that are no response are a bad response, all else on a connection a reset', async t => {
  const bad = [
    Object.assign(new undici.HTTPParserError('Response does not match the HTTP/1.1 protocol'), { code: 'HPE_INVALID_CONSTANT' }),
    new undici.HTTPParserError('Response does not match the HTTP/1.1 protocol'),
    new undici.HeadersOverflowError('too large'),
    new undici.ResponseContentLengthMismatchError('not as long as it said'),
    new undici.SocketError('bad response'),
    new undici.SocketError('bad upgrade')
  ]
  const resets = [failure('ECONNRESET'), failure('EPIPE'), new undici.SocketError('other side closed'), new undici.SocketError('closed'), new undici.InformationalError('reset'), new Error('without a code')]
  for (const stage of ['send', 'wait', 'stream'] as Stage[]) {
    for (const error of bad) t.equal(errorCodeOf(stage, error), 'BAD_RESPONSE', `${stage}: ${error.message}`)
    for (const error of resets) t.equal(errorCodeOf(stage, error), 'RESET', `${stage}: ${error.message}`)
  }
})

t.test('every error of ours has a culprit', async t => {
  const culprits: Partial<Record<ErrorCode, Culprit>> = {
    CLIENT_CLOSED: 'client', REQUEST_TIMEOUT: 'client', BAD_REQUEST: 'client', ABORTED: 'proxy', CLOSED: 'proxy', CONNECT: 'backend', RESET: 'backend', BAD_RESPONSE: 'backend', TIMEOUT: 'backend'
  }
  for (const [code, culprit] of Object.entries(culprits)) t.equal(culpritOf(code as ErrorCode), culprit, code)
  for (const code of Object.keys(errors) as ErrorCode[]) t.match(culpritOf(code), /^(?:client|backend|proxy)$/)
})

t.test('an attempt succeeds with a whole answer below 500, fails by its backend, and is aborted by all others', async t => {
  const outcome = (culprit: Culprit, statusCode: number, error?: Error): Outcome => ({ stage: 'done', culprit, statusCode, error, headTime: 1, responseTime: 1 })
  for (const status of [200, 204, 304, 400, 404, 429, 499]) t.equal(resultOf(outcome('none', status)), 'successful', String(status))
  for (const status of [500, 502, 503, 599]) t.equal(resultOf(outcome('none', status)), 'failed', String(status))
  for (const status of [0, 200, 503]) {
    t.equal(resultOf(outcome('backend', status, new Error())), 'failed')
    t.equal(resultOf(outcome('client', status, new Error())), 'aborted', 'a client\'s end is no failure, whatever the status was')
    t.equal(resultOf(outcome('proxy', status, new Error())), 'aborted')
  }
})

t.test('what the client or the application has ended is no failure of an exchange; all else is', async t => {
  const aborted = ['CLIENT_CLOSED', 'REQUEST_TIMEOUT', 'ABORTED', 'BAD_REQUEST']
  for (const code of Object.keys(errors) as ErrorCode[]) t.equal(resultOfEnd(code), aborted.includes(code) ? 'aborted' : 'failed', code)
})

t.test('only methods that RFC 9110 and its kin call idempotent are', async t => {
  for (const method of ['GET', 'HEAD', 'OPTIONS', 'PUT', 'DELETE', 'PROPFIND', 'SEARCH', 'QUERY', 'REPORT']) t.ok(IDEMPOTENT.has(method), method)
  for (const method of ['POST', 'PATCH', 'TRACE', 'CONNECT', 'LOCK', 'MKCOL', 'MOVE', 'PROPPATCH', 'get', '']) t.notOk(IDEMPOTENT.has(method), method)
})
