import type { Stage } from '../../types/index.ts'
import type { ErrorCode } from '../errors.ts'

const PREFIX = 'FST_ROCKSTAR_'

/** The types of RFC 9209, 2.3 for errors whose type is always the same; any other is one of the proxy itself. */
const TYPES: Readonly<Partial<Record<ErrorCode, string>>> = {
  UNKNOWN_UPSTREAM: 'proxy_configuration_error',
  INVALID_OPTIONS: 'proxy_configuration_error',
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
  RESET: 'connection_terminated'
}

/** Of a time-out, by the stage that took too long. */
const LATE: Readonly<Partial<Record<Stage, string>>> = {
  connect: 'connection_timeout',
  send: 'connection_write_timeout',
  wait: 'http_response_timeout',
  stream: 'connection_read_timeout'
}

/** Of what keeps a connection from coming about, by the code that Node gives the reason. */
const UNREACHED: Readonly<Record<string, string>> = {
  ENOTFOUND: 'dns_error',
  ENODATA: 'dns_error',
  EAI_AGAIN: 'dns_error',
  ESERVFAIL: 'dns_error',
  EREFUSED: 'dns_error',
  ETIMEOUT: 'dns_timeout',
  ECONNREFUSED: 'connection_refused',
  ECONNRESET: 'connection_terminated',
  EPIPE: 'connection_terminated',
  ENETUNREACH: 'destination_ip_unroutable',
  EHOSTUNREACH: 'destination_ip_unroutable',
  ETIMEDOUT: 'connection_timeout',
  UND_ERR_CONNECT_TIMEOUT: 'connection_timeout',
  EPROTO: 'tls_protocol_error'
}

/** `Proxy-Status` of an answer of a backend. RFC 9209, 2.1.4 and 2.1.5. */
export function answerStatus (name: string, statusCode: number, version: '1.1' | '2'): string {
  return `${name}; received-status=${statusCode}; next-protocol=${version === '2' ? 'h2' : 'http/1.1'}`
}

/** `Proxy-Status` of an error that takes the place of an answer. RFC 9209, 2.1.1. @param stage of the last attempt; `undefined` where none was made */
export function errorStatus (name: string, error: Error, stage: Stage | undefined): string {
  const { code, statusCode, cause } = error as { code?: string, statusCode?: number, cause?: unknown }
  // Its answer has come, and something else takes its place.
  if (code === `${PREFIX}BAD_STATUS`) return `${name}; received-status=${statusCode}`
  return `${name}; error=${typeOf(code?.startsWith(PREFIX) === true ? code.slice(PREFIX.length) as ErrorCode : undefined, cause, stage)}`
}

function typeOf (code: ErrorCode | undefined, cause: unknown, stage: Stage | undefined): string {
  const { code: reason, syscall } = (cause ?? {}) as { code?: unknown, syscall?: unknown }
  // A name that leads where no backend may be.
  if (reason === 'EACCES' && syscall === 'lookup') return 'destination_ip_prohibited'
  if (code === 'CONNECT') return unreached(typeof reason === 'string' ? reason : '')
  if (code === 'TIMEOUT') return (stage === undefined ? undefined : LATE[stage]) ?? 'proxy_internal_response'
  if (code === 'BAD_RESPONSE') return reason === 'UND_ERR_HEADERS_OVERFLOW' || reason === 'HPE_HEADER_OVERFLOW' ? 'http_response_header_section_size' : 'http_protocol_error'
  return (code === undefined ? undefined : TYPES[code]) ?? 'proxy_internal_error'
}

function unreached (reason: string): string {
  if (Object.hasOwn(UNREACHED, reason)) return UNREACHED[reason]
  if (/CERT|SIGNATURE|ISSUER|HOSTNAME_MISMATCH/.test(reason)) return 'tls_certificate_error'
  if (reason.startsWith('ERR_SSL_')) return reason.includes('ALERT') ? 'tls_alert_received' : 'tls_protocol_error'
  return reason.startsWith('ERR_TLS_') ? 'tls_protocol_error' : 'destination_unavailable'
}
