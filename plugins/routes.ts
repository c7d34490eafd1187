import type { FastifyInstance, FastifyPluginAsync, HTTPMethods, RouteHandlerMethod } from 'fastify'
import fp from 'fastify-plugin'
import { METHODS } from 'node:http'
import { proxyError } from '../lib/errors.ts'
import { Route } from '../lib/forward/index.ts'
import { resolveOptions } from '../lib/options.ts'
import type { ProxyManager } from '../lib/proxy-manager.ts'
import { DEFAULT_METHODS, RouteOptionsSchema, type RouteOptions } from '../types/index.ts'
import { declare } from './known-routes.ts'
import passthrough from './passthrough.ts'

/**
 * Forwards everything below a prefix, without a handler to write. Bodies stream, whatever their type;
 * all hooks of the scope run.
 */
const routesPlugin: FastifyPluginAsync<RouteOptions> = async (app, given) => {
  const options = resolveOptions<RouteOptions>(RouteOptionsSchema, given, 'routes')
  const methods = (options.methods ?? [...DEFAULT_METHODS]).map(method => method.toUpperCase())
  for (const method of methods) support(app, method)

  await app.register(passthrough)
  await app.register(async scope => {
    const { proxy } = scope as unknown as { proxy: ProxyManager }
    if (options.websocket === true) proxy.allowWebSocket()
    const { ignoreDuplicateSlashes, useSemicolonDelimiter } = { ...scope.initialConfig, ...scope.initialConfig.routerOptions }
    const route = new Route(options, scope.prefix, {
      mergeSlashes: ignoreDuplicateSlashes === true,
      semicolonDelimiter: useSemicolonDelimiter === true
    })
    const handler: RouteHandlerMethod = (request, reply) => { proxy.forwardRoute(request, reply, route) }
    declare(handler, { proxy, route, prefix: scope.prefix === '' ? '/' : scope.prefix, rewritePrefix: options.rewritePrefix ?? '' })
    for (const url of ['/', '/*']) {
      scope.route({
        url,
        method: methods as HTTPMethods[],
        ...hooksOf(options),
        handler
      })
    }
  })
}

function hooksOf ({ onRequest, preParsing, preValidation, preHandler, onSend, onTimeout, onRequestAbort, constraints, config, logLevel }: RouteOptions): object {
  const all = { onRequest, preParsing, preValidation, preHandler, onSend, onTimeout, onRequestAbort, constraints, config, logLevel }
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined))
}

/** Makes Fastify route a method that it does not by itself. */
function support (app: FastifyInstance, method: string): void {
  if (method === 'TRACE' || method === 'CONNECT' || !METHODS.includes(method)) {
    throw proxyError('INVALID_OPTIONS', undefined, `routes.methods must hold methods that Node's HTTP parser knows and that may be forwarded, and has '${method}'`)
  }
  if (!app.supportedMethods.includes(method)) app.addHttpMethod(method, { hasBody: true })
}

const routes = fp(routesPlugin, { name: 'rockstar-proxy-routes', fastify: '5.x', encapsulate: true, dependencies: ['rockstar-proxy'] })
export default routes
export { routes, routes as 'module.exports' }
