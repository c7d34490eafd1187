import type { FastifyRequest } from 'fastify'
import type { Backend, Because, Explanation, LoadBalancer } from '../../types/index.ts'
import { explain, type Candidates, type Kept, type Selection } from '../selection/index.ts'
import type { Upstream } from '../upstream.ts'
import { headerValue } from './header-record.ts'
import { intentOf, type Intent } from './intent.ts'
import type { Settings } from './settings.ts'

/** A choice that is only asked about. */
export class Question implements Selection {
  readonly request: FastifyRequest
  readonly method: string
  readonly path: string
  readonly tried: readonly Backend[] | null = null
  balancer: LoadBalancer | null = null
  because: Because = 'balancer'
  candidates: Candidates | null = null
  kept: Kept | undefined = undefined

  constructor (request: FastifyRequest, { method, path }: Intent) {
    this.request = request
    this.method = method
    this.path = path
  }

  header (name: string): string | undefined {
    return headerValue(this.request, [], name)
  }
}

/** Tells where a request would go, without sending anything. Throws as `intentOf()` does. */
export async function explainRequest (upstream: Upstream, request: FastifyRequest, settings: Settings): Promise<Explanation> {
  return await explainIntent(upstream, new Question(request, intentOf(request, upstream, settings)), settings)
}

/** Tells which backend a question would be answered with. */
export async function explainIntent (upstream: Upstream, question: Question, { subset }: Settings): Promise<Explanation> {
  return await explain(upstream.selector, upstream.name, upstream.list(), question, subset)
}
