import type { FastifyInstance, FastifyRequest } from 'fastify'

/** Fastify's class of requests: each scope has one, with its decorators and what the app trusts. */
type RequestClass = new (id: string, params: unknown, raw: unknown, query: unknown, log: FastifyInstance['log'], context: object) => FastifyRequest

/** What every request has by itself. */
const OWN: ReadonlySet<string> = new Set(['id', 'params', 'raw', 'query', 'log', 'body'])

/** What a request is made of. */
export interface RequestParts {
  id: string
  params: unknown
  raw: FastifyRequest['raw']
  query: unknown
  /** What Fastify keeps of the route; only what its requests themselves look for is read. */
  context: { server: FastifyInstance, [name: string]: unknown }
  /** Told the name of each decorator that somebody looks at before it is set. */
  onAssumed: (name: string) => void
}

/**
 * A request that no hook has touched: what decorates those of its scope has its first value. Fastify has no method for it; where its internals
 * have changed, the request is of the same class as another one.
 * @param other one of the same server, or of another app's
 */
export function freshRequest ({ id, params, raw, query, context, onAssumed }: RequestParts, other: FastifyRequest): FastifyRequest {
  const Request = requestClassOf(context.server) ?? other.constructor as RequestClass
  const request = new Request(id, params, raw, query, context.server.log.child({ reqId: id }), context)
  for (const name of Object.keys(request)) if (!OWN.has(name)) watch(request, name, onAssumed)
  return request
}

function watch (request: FastifyRequest, name: string, onAssumed: (name: string) => void): void {
  const value = (request as unknown as Record<string, unknown>)[name]
  const told = (value: unknown) => ({ value, writable: true, enumerable: true, configurable: true })
  Object.defineProperty(request, name, {
    enumerable: true,
    configurable: true,
    get: () => {
      onAssumed(name)
      return value
    },
    set: value => { Object.defineProperty(request, name, told(value)) }
  })
}

function requestClassOf (scope: FastifyInstance): RequestClass | undefined {
  for (let holder: object | null = scope; holder !== null; holder = Object.getPrototypeOf(holder)) {
    const symbol = Object.getOwnPropertySymbols(holder).find(({ description }) => description === 'fastify.Request')
    if (symbol !== undefined) return (holder as Record<symbol, RequestClass>)[symbol]
  }
  return undefined
}
