import type { FastifyRequest } from 'fastify'
import { STATUS_CODES } from 'node:http'
import { proxyError } from '../lib/errors.ts'
import type { UpstreamManager } from '../lib/upstream-manager.ts'
import { BackendHealthViewSchema, BackendParamsSchema, HealthChecksFailedViewSchema, HealthChecksViewSchema, HealthListViewSchema, UpstreamQuerySchema, type HealthListView } from '../types/index.ts'
import { isReady } from './admin/readiness.ts'
import { resource } from './admin/resource.ts'
import { backendHealthView } from './admin/views.ts'

/** Shows the health of backends, and checks it now. */
const health = resource('health', ({ upstreamOf, logChange }) => [
  {
    method: 'GET',
    url: '/health',
    summary: 'See the health of all backends',
    query: UpstreamQuerySchema,
    response: { 200: HealthListViewSchema },
    handler: async request => healthList(upstreamOf(request))
  },
  {
    method: 'GET',
    url: '/health/:id',
    summary: 'See the health of a backend',
    params: BackendParamsSchema,
    query: UpstreamQuerySchema,
    response: { 200: BackendHealthViewSchema },
    handler: async (request: FastifyRequest) => {
      const upstream = upstreamOf(request)
      return backendHealthView(upstream, upstream.getBackend((request.params as { id: string }).id))
    }
  },
  {
    method: 'POST',
    url: '/health/check',
    summary: 'Check the health of all backends now',
    description: 'Answers when all active backends have been checked: with 503 where some have failed, whose ids it names.',
    query: UpstreamQuerySchema,
    response: { 200: HealthChecksViewSchema, 503: HealthChecksFailedViewSchema },
    handler: async (request, reply) => {
      const upstream = upstreamOf(request)
      logChange(request, 'check health', { upstream: upstream.name })
      const failed = (await upstream.state.health.checkAll()).map(({ backend: { id }, result: { errorMessage, statusCode } }) => ({ id, errorMessage, statusCode }))
      const found = { ...healthList(upstream), passed: failed.length === 0, failed }
      if (found.passed) return found
      const names = failed.map(({ id, errorMessage }) => `${id} (${errorMessage})`).join(', ')
      const { statusCode, code, message } = proxyError('UNHEALTHY', undefined, `Backends of upstream '${upstream.name}' have failed their health check: ${names}`) as Error & { statusCode: number, code: string }
      reply.code(statusCode)
      return { statusCode, code, error: STATUS_CODES[statusCode], message, ...found }
    }
  }
])

function healthList (upstream: UpstreamManager): HealthListView {
  const backends = upstream.listBackends().map(backend => backendHealthView(upstream, backend))
  return { upstream: upstream.name, ready: isReady(upstream), count: backends.length, healthy: backends.filter(({ isHealthy }) => isHealthy).length, backends }
}

export default health
export { health, health as 'module.exports' }
