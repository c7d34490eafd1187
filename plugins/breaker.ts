import type { FastifyRequest } from 'fastify'
import type { Backend } from '../lib/backend.ts'
import { CircuitBreaker } from '../lib/breaker/index.ts'
import { proxyError } from '../lib/errors.ts'
import type { UpstreamManager } from '../lib/upstream-manager.ts'
import { BackendCircuitViewSchema, BackendParamsSchema, BreakerViewSchema, UpstreamQuerySchema, type BreakerView } from '../types/index.ts'
import { resource, type AdminRoute } from './admin/resource.ts'
import { backendCircuitView, shownOptions } from './admin/views.ts'

/** What can be done to a circuit by hand. */
const ACTIONS = {
  open: { summary: 'Open a circuit', description: 'Isolates the backend: nothing is sent to it until its circuit is closed or reset.' },
  close: { summary: 'Close a circuit', description: 'Requests are sent to the backend again at once.' },
  reset: { summary: 'Reset a circuit', description: 'Closes it, and forgets what was counted.' }
} as const
type Action = keyof typeof ACTIONS

/** Shows, opens, closes and resets circuits. */
const breaker = resource('breaker', ({ upstreamOf, logChange }) => {
  const found = (request: FastifyRequest): { upstream: UpstreamManager, backend: Backend } => {
    const upstream = upstreamOf(request)
    return { upstream, backend: upstream.getBackend((request.params as { id: string }).id) }
  }
  const routeOf = (action: Action): AdminRoute => ({
    method: 'POST',
    url: `/breaker/:id/${action}`,
    ...ACTIONS[action],
    params: BackendParamsSchema,
    query: UpstreamQuerySchema,
    response: { 200: BackendCircuitViewSchema },
    handler: async request => {
      const { upstream, backend } = found(request)
      act(upstream, backend, action)
      logChange(request, `${action} circuit`, { upstream: upstream.name, backend: backend.id })
      return backendCircuitView(upstream, backend)
    }
  })
  return [
    {
      method: 'GET',
      url: '/breaker',
      summary: 'See the circuit breaker and all circuits',
      query: UpstreamQuerySchema,
      response: { 200: BreakerViewSchema },
      handler: async request => breakerView(upstreamOf(request))
    },
    {
      method: 'GET',
      url: '/breaker/:id',
      summary: 'See the circuit of a backend',
      params: BackendParamsSchema,
      query: UpstreamQuerySchema,
      response: { 200: BackendCircuitViewSchema },
      handler: async request => {
        const { upstream, backend } = found(request)
        return backendCircuitView(upstream, backend)
      }
    },
    ...(Object.keys(ACTIONS) as Action[]).map(routeOf)
  ]
})

/** Throws `FST_ROCKSTAR_ADMIN_CONFLICT` where the breaker has no such thing. */
function act (upstream: UpstreamManager, { id }: Backend, action: Action): void {
  const breaker = upstream.getCircuitBreaker()
  if (typeof breaker[action] !== 'function') {
    throw proxyError('ADMIN_CONFLICT', undefined, `The circuit breaker of upstream '${upstream.name}', '${breaker.type}', has no ${action}(): its circuits cannot be ${PARTICIPLES[action]} by hand`)
  }
  breaker[action](id)
}

const PARTICIPLES: Record<Action, string> = { open: 'opened', close: 'closed', reset: 'reset' }

function breakerView (upstream: UpstreamManager): BreakerView {
  const breaker = upstream.getCircuitBreaker()
  const circuits = upstream.listBackends().map(backend => backendCircuitView(upstream, backend))
  return {
    upstream: upstream.name,
    type: breaker.type,
    own: !(breaker instanceof CircuitBreaker) && breaker.type !== 'none',
    options: breaker instanceof CircuitBreaker ? shownOptions(breaker.options) : {},
    open: circuits.filter(({ state }) => state === 'open').length,
    circuits
  }
}

export default breaker
export { breaker, breaker as 'module.exports' }
