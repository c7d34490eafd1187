import type { FastifyInstance, FastifyReply } from 'fastify'
import type { ResourceOptions } from '../../types/index.ts'
import { Access } from './access.ts'
import { readJson } from './requests.ts'

/** A hook that says who may. */
export type Hook = Exclude<NonNullable<ResourceOptions['onRequest']>, unknown[]>

/** What is alike for all routes of operators in a scope: who may, how bodies are read, how answers are written. Throws `INVALID_OPTIONS`, naming `path`. */
export function guard (app: FastifyInstance, options: ResourceOptions, path: string): void {
  const access = new Access(options, path)
  app.addHook('onRequest', async (request, reply) => {
    neverKept(reply)
    access.check(request)
  })
  for (const hook of listOf(options.onRequest)) app.addHook('onRequest', hook)
  readJson(app)
  // Schemas say what is there, for people and for tests; they must not take anything away.
  app.setSerializerCompiler(() => data => JSON.stringify(data instanceof Error ? told(data) : data))
}

export function listOf (hooks: ResourceOptions['onRequest']): Hook[] {
  return hooks === undefined ? [] : Array.isArray(hooks) ? hooks : [hooks]
}

/** Nobody on the way is to keep what is true only now, and no browser to take it for a page. RFC 9111, 5.2.2.5. */
function neverKept (reply: FastifyReply): void {
  reply.header('cache-control', 'no-store').header('x-content-type-options', 'nosniff')
}

/** What a client hears of an error, as Fastify tells it. */
function told ({ statusCode, code, error, message }: Error & { statusCode?: number, code?: string, error?: string }): object {
  return { statusCode, code, error, message }
}
