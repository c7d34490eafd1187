import { errorCodes, type FastifyInstance, type FastifyPluginAsync, type FastifyRequest, type HTTPMethods } from 'fastify'
import fp from 'fastify-plugin'
import { AdminErrorSchema, type ResourceOptions } from '../../types/index.ts'
import { guard } from './guard.ts'
import { ORIGIN, pathsOf, type Origin, type Originating } from './places.ts'

/**
 * Answers whatever is below a prefix and no route, so that a misspelt path is not sent to a backend, credentials and all, by a route that
 * is less particular. What is registered already for the same stays as it is.
 */
const unknownPlugin: FastifyPluginAsync<ResourceOptions & Originating> = async (app, options) => {
  guard(app, options, (options[ORIGIN] as Origin).path)
  const refuse = async (request: FastifyRequest) => { throw refusalOf(app, request) }
  for (const [url, full] of [['/', app.prefix], ['/*', `${app.prefix.replace(/\/$/, '')}/*`]]) {
    const method = app.supportedMethods.filter(method => !app.hasRoute({ method: method as HTTPMethods, url: full })) as HTTPMethods[]
    // Before anything is read of it.
    if (method.length > 0) app.route({ method, url, prefixTrailingSlash: 'no-slash', exposeHeadRoute: false, schema: { hide: true, response: { '4xx': AdminErrorSchema } }, onRequest: refuse, handler: refuse })
  }
}

/** 405 where there is a route by another method, 414 where the router has passed one by for the length of an id, else 404. RFC 9110, 15.5.5, 15.5.6 and 15.5.15. */
function refusalOf (app: FastifyInstance, { method, originalUrl }: FastifyRequest): Error {
  const path = originalUrl.replace(/[?#].*$/s, '')
  const urls = [...pathsOf(app)].filter(url => isAt(path, url))
  const methods = app.supportedMethods.filter(method => urls.some(url => app.hasRoute({ method: method as HTTPMethods, url }))).sort()
  if (methods.includes(method)) return new errorCodes.FST_ERR_MAX_PARAM_LENGTH(path)
  const allowed = methods.join(', ')
  const statusCode = allowed === '' ? 404 : 405
  const error = new Error(`Operators have no route ${method} ${path}${allowed === '' ? '' : `, only ${allowed}`}`)
  return Object.assign(error, { statusCode, ...(allowed === '' ? {} : { headers: { allow: allowed } }) })
}

/** Whether a path is one of those that a route is for: a parameter stands for one segment. */
function isAt (path: string, url: string): boolean {
  const given = path.split('/')
  const wanted = url.split('/')
  return given.length === wanted.length && wanted.every((segment, i) => segment.includes(':') ? given[i] !== '' : segment === given[i])
}

export const unknown = fp(unknownPlugin, { name: 'rockstar-proxy-unknown', fastify: '5.x', encapsulate: true })
