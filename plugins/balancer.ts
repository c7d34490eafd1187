import type { TSchema } from '@sinclair/typebox'
import { isDeepStrictEqual } from 'node:util'
import { balancerOptionsOf, createBalancer } from '../lib/balancer/index.ts'
import { jsonForm } from '../lib/json-schema.ts'
import type { UpstreamManager } from '../lib/upstream-manager.ts'
import { BalancerSchema, BalancerViewSchema, UpstreamQuerySchema, type BalancerInput, type BalancerView, type LoadBalancer } from '../types/index.ts'
import { resource } from './admin/resource.ts'
import { shownOptions } from './admin/views.ts'

/** A policy by name, or as an object with its options. */
const PutBalancerSchema: TSchema = {
  ...jsonForm(BalancerSchema),
  title: 'PutBalancer',
  description: 'The name of a policy, or an object `{ type }` with its options.',
  examples: ['p2c', { type: 'ring-hash', key: { header: 'x-user' } }]
}

/** Shows and switches load balancers. */
const balancer = resource('balancer', ({ upstreamOf, logChange }) => [
  {
    method: 'GET',
    url: '/balancer',
    summary: 'See the load balancer',
    query: UpstreamQuerySchema,
    response: { 200: BalancerViewSchema },
    handler: async request => balancerView(upstreamOf(request))
  },
  {
    method: 'PUT',
    url: '/balancer',
    summary: 'Switch the load balancer',
    description: 'From the next request on; none is lost. What is so already stays as it is, with all that it has learned.',
    query: UpstreamQuerySchema,
    body: PutBalancerSchema,
    response: { 200: BalancerViewSchema },
    handler: async request => {
      const upstream = upstreamOf(request)
      const { balancer: old, clock, random } = upstream.state
      const next = createBalancer(request.body as BalancerInput, 'body', { clock, random })
      if (next.type !== old.type || !isDeepStrictEqual(balancerOptionsOf(next), balancerOptionsOf(old))) {
        upstream.setLoadBalancer(next)
        logChange(request, 'switch balancer', { upstream: upstream.name, from: old.type, to: next.type, before: optionsOf(old), after: optionsOf(next) })
      }
      return balancerView(upstream)
    }
  }
])

/** As they may be shown. */
function optionsOf (balancer: LoadBalancer): Record<string, unknown> {
  return shownOptions(balancerOptionsOf(balancer) ?? {})
}

function balancerView ({ name, state: { balancer } }: UpstreamManager): BalancerView {
  return { upstream: name, type: balancer.type, own: balancerOptionsOf(balancer) === undefined, options: optionsOf(balancer) }
}

export default balancer
export { balancer, balancer as 'module.exports' }
