import type { Dispatcher } from 'undici'
import type { HealthCheckOverrides, HealthChecker, HealthOptions } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { proxyError } from '../errors.ts'
import type { Connector, Protocol } from '../pool/index.ts'
import type { Check } from './check.ts'
import { failed, passed } from './check.ts'
import { dispatchedCheck, httpCheck } from './http-check.ts'
import { checkSendable } from './sendable.ts'
import { tcpCheck } from './tcp-check.ts'

/** By what checks reach a backend: the pool may be another at each. */
export interface CheckMeans {
  /** @param port another than that of its URL */
  connectorFor (backend: Backend, port?: number): Connector
  /** `null` where requests go over a connection of the check's own. */
  dispatcherFor (backend: Backend): Dispatcher | null
}

/** How one backend is checked: its upstream's ways, and its own. */
export interface CheckSettings {
  readonly interval: number
  readonly unhealthyInterval: number
  readonly timeout: number
  readonly jitter: number
  readonly rise: number
  readonly fall: number
  readonly initial: 'healthy' | 'unhealthy' | 'check-first'
  /** Whether a check asks for more than an open port. */
  readonly proves: boolean
  /** Begins a check. */
  readonly begin: () => Check
}

export function checkSettingsOf (options: HealthOptions, means: CheckMeans, backend: Backend, overrides: HealthCheckOverrides = backend.healthCheck ?? {}): CheckSettings {
  const joined = { ...options, ...definedOf(overrides) } as Required<HealthOptions>
  const { interval, unhealthyInterval = interval, timeout, jitter, rise, fall, initial } = joined
  return { interval, unhealthyInterval, timeout, jitter, rise, fall, initial, proves: joined.path !== undefined || joined.checker !== undefined, begin: beginnerOf(joined, means, backend) }
}

function beginnerOf (options: HealthOptions, means: CheckMeans, backend: Backend): () => Check {
  const { checker, path, port, host } = options
  if (checker !== undefined) return () => ownCheck(checker, backend)
  const ignored = Object.entries({ host, expectedBody: options.expectedBody, headers: Object.keys(options.headers ?? {})[0] }).find(([, value]) => path === undefined && value !== undefined)
  if (ignored !== undefined) throw proxyError('INVALID_OPTIONS', undefined, `health.${ignored[0]} of backend '${backend.id}' wants a health.path: without one a check is no more than a TCP connection`)
  if (path === undefined) return () => tcpCheck(means.connectorFor(backend, port))
  checkSendable(options, setting => `health.${setting} of backend '${backend.id}'`)
  const headers = host === undefined ? { ...options.headers } : { ...withoutHost(options.headers), host }
  const { basePath } = backend
  const { method = 'GET', expectedStatus = [], expectedBody } = options
  const origin = new URL(backend.origin)
  if (port !== undefined) origin.port = String(port)
  const asked = { origin: origin.origin, path: basePath + path, method, headers, expectedStatus, expectedBody }
  return () => {
    const dispatcher = means.dispatcherFor(backend)
    return dispatcher === null ? httpCheck(asked, means.connectorFor(backend, port), protocolsOf(backend)) : dispatchedCheck(asked, dispatcher)
  }
}

/** What a check may speak: what requests do. */
function protocolsOf ({ http2 }: Backend & { http2?: boolean | 'auto' }): readonly Protocol[] {
  if (http2 === true) return ['h2']
  return http2 === 'auto' ? ['h2', 'http/1.1'] : ['http/1.1']
}

function ownCheck (checker: HealthChecker, backend: Backend): Check {
  const controller = new AbortController()
  const result = (async () => {
    // Not from inside whoever begins it: it may take backends out.
    await null
    if (controller.signal.aborted) return failed('the check was given up')
    try {
      return await checker(backend, { signal: controller.signal }) === false ? failed('the checker said no') : passed()
    } catch (error) {
      return failed(error)
    }
  })()
  return { result, cancel: () => controller.abort() }
}

function definedOf (overrides: HealthCheckOverrides): HealthCheckOverrides {
  return Object.fromEntries(Object.entries(overrides).filter(([, value]) => value !== undefined))
}

/** It may be there in any case of letters. */
function withoutHost (headers: HealthOptions['headers'] = {}): Record<string, string> {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => name.toLowerCase() !== 'host'))
}
