import t from 'tap'
import { errors, proxyError, type ErrorCode } from '../../../lib/errors.ts'
import { answerStatus, errorStatus } from '../../../lib/telemetry/proxy-status.ts'
import type { Stage } from '../../../types/index.ts'

/** All of RFC 9209, 2.3. */
const TYPES = new Set([
  'dns_timeout', 'dns_error', 'destination_not_found', 'destination_unavailable', 'destination_ip_prohibited', 'destination_ip_unroutable',
  'connection_refused', 'connection_terminated', 'connection_timeout', 'connection_read_timeout', 'connection_write_timeout', 'connection_limit_reached',
  'tls_protocol_error', 'tls_certificate_error', 'tls_alert_received',
  'http_request_error', 'http_request_denied', 'http_response_incomplete', 'http_response_header_section_size', 'http_response_header_size', 'http_response_body_size',
  'http_response_trailer_section_size', 'http_response_trailer_size', 'http_response_transfer_coding', 'http_response_content_coding', 'http_response_timeout', 'http_upgrade_failed', 'http_protocol_error',
  'proxy_internal_response', 'proxy_internal_error', 'proxy_configuration_error', 'proxy_loop_detected'
])

function typeOf (error: Error, stage?: Stage): string {
  const [, type] = /^edge; error=([a-z_]+)$/.exec(errorStatus('edge', error, stage)) ?? []
  return type
}

function failing (code: string, more: object = {}): Error {
  return Object.assign(new Error('why'), { code, ...more })
}

t.test('an answer tells its status and its protocol', async t => {
  t.equal(answerStatus('edge', 200, '1.1'), 'edge; received-status=200; next-protocol=http/1.1')
  t.equal(answerStatus('edge', 503, '2'), 'edge; received-status=503; next-protocol=h2')
})

t.test('every error has a type that is registered', async t => {
  for (const code of Object.keys(errors) as ErrorCode[]) {
    if (code === 'BAD_STATUS') continue
    for (const stage of [undefined, 'select', 'connect', 'send', 'wait', 'stream', 'done'] as const) t.ok(TYPES.has(typeOf(proxyError(code), stage)), `${code} ${stage}`)
  }
  t.equal(typeOf(new Error('of the application')), 'proxy_internal_error')
  t.equal(errorStatus('edge', Object.assign(proxyError('BAD_STATUS', undefined, '503'), { statusCode: 503 }), 'stream'), 'edge; received-status=503')
})

t.test('errors that have one type alone', async t => {
  for (const [code, type] of Object.entries({
    UNKNOWN_UPSTREAM: 'proxy_configuration_error',
    BAD_REQUEST: 'http_request_error',
    UNSUPPORTED_CODING: 'http_request_error',
    REQUEST_TIMEOUT: 'http_request_error',
    METHOD_REFUSED: 'http_request_denied',
    UPGRADE_REFUSED: 'http_request_denied',
    LOOP: 'proxy_loop_detected',
    NO_BACKEND: 'destination_unavailable',
    CIRCUIT_OPEN: 'destination_unavailable',
    OVERLOADED: 'connection_limit_reached',
    CLOSED: 'proxy_internal_response',
    ABORTED: 'proxy_internal_response',
    RESET: 'connection_terminated',
    BAD_RESPONSE: 'http_protocol_error',
    BODY_CONSUMED: 'proxy_internal_error',
    INVALID_HEADER: 'proxy_internal_error'
  })) t.equal(typeOf(proxyError(code as ErrorCode)), type, code)
})

t.test('a time-out is told by its stage', async t => {
  for (const [stage, type] of [['connect', 'connection_timeout'], ['send', 'connection_write_timeout'], ['wait', 'http_response_timeout'], ['stream', 'connection_read_timeout'], [undefined, 'proxy_internal_response']] as const) {
    t.equal(typeOf(proxyError('TIMEOUT'), stage), type)
  }
})

t.test('what keeps a connection from coming about is told by its reason', async t => {
  for (const [code, type] of Object.entries({
    ENOTFOUND: 'dns_error',
    EAI_AGAIN: 'dns_error',
    ETIMEOUT: 'dns_timeout',
    ECONNREFUSED: 'connection_refused',
    ECONNRESET: 'connection_terminated',
    EHOSTUNREACH: 'destination_ip_unroutable',
    ETIMEDOUT: 'connection_timeout',
    UND_ERR_CONNECT_TIMEOUT: 'connection_timeout',
    EPROTO: 'tls_protocol_error',
    ERR_SSL_WRONG_VERSION_NUMBER: 'tls_protocol_error',
    ERR_SSL_TLSV1_ALERT_UNKNOWN_CA: 'tls_alert_received',
    DEPTH_ZERO_SELF_SIGNED_CERT: 'tls_certificate_error',
    SELF_SIGNED_CERT_IN_CHAIN: 'tls_certificate_error',
    UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'tls_certificate_error',
    CERT_HAS_EXPIRED: 'tls_certificate_error',
    UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'tls_certificate_error',
    ERR_TLS_CERT_ALTNAME_INVALID: 'tls_certificate_error',
    ERR_TLS_HANDSHAKE_TIMEOUT: 'tls_protocol_error',
    ENOENT: 'destination_unavailable',
    constructor: 'destination_unavailable'
  })) t.equal(typeOf(proxyError('CONNECT', failing(code))), type, code)
  t.equal(typeOf(proxyError('CONNECT', failing('EACCES', { syscall: 'lookup' }))), 'destination_ip_prohibited')
  t.equal(typeOf(proxyError('CONNECT', failing('EACCES', { syscall: 'connect' }))), 'destination_unavailable')
  t.equal(typeOf(proxyError('CONNECT')), 'destination_unavailable')
  t.equal(typeOf(proxyError('CONNECT', 'a string')), 'destination_unavailable')
  t.equal(typeOf(proxyError('BAD_RESPONSE', failing('UND_ERR_HEADERS_OVERFLOW'))), 'http_response_header_section_size')
})
