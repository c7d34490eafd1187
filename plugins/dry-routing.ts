import { fastify, type FastifyInstance, type FastifyRequest, type FastifyServerOptions, type HTTPMethods, type RouteHandlerMethod } from 'fastify'
import { ServerResponse, type IncomingMessage } from 'node:http'
import type { KnownRoute, KnownRoutes } from './known-routes.ts'

/** The route that a request meets, and what Fastify makes of it there. */
export interface Met {
  /** `undefined` where none is known: the not-found handler answers. */
  route: KnownRoute | undefined
  params: unknown
  query: unknown
  /** What the router itself has against the request. */
  error: (Error & { statusCode?: number, code?: string }) | undefined
}

/** Options of the router that stood beside the others once. */
const ROUTER_OPTIONS = ['allowUnsafeRegex', 'caseSensitive', 'ignoreDuplicateSlashes', 'ignoreTrailingSlash', 'maxParamLength', 'useSemicolonDelimiter'] as const
/** Constraints that every router knows. */
const BUILT_IN: ReadonlySet<string> = new Set(['host', 'version'])

const NOWHERE: Met = { route: undefined, params: {}, query: {}, error: undefined }

/**
 * Finds the route that a request would meet. Fastify's own router cannot be asked without running hooks and a handler, so that an app
 * which serves nobody is given the same routes, and stops where hooks would begin.
 */
export class DryRouting {
  readonly #app: FastifyInstance
  readonly #asking = new WeakMap<IncomingMessage, (met: Met) => void>()

  private constructor ({ app, routes }: KnownRoutes) {
    this.#app = fastify({
      exposeHeadRoutes: false,
      routerOptions: routerOptionsOf(app),
      frameworkErrors: (error: Met['error'], request: FastifyRequest) => { this.#asking.get(request.raw)?.({ ...NOWHERE, error }) }
    } as FastifyServerOptions)
    this.#app.addHook('onRequest', (request, _reply, _done) => { this.#met(request) })
    this.#app.setNotFoundHandler(() => {})
    for (const route of routes) {
      this.#add(route)
      // Fastify adds it by itself where the path of a scope is meant with a slash and without, and tells no hook.
      const slashed = `${route.url}/`
      if ((route as { routePath?: string }).routePath === '' && app.hasRoute({ method: [route.method].flat()[0] as HTTPMethods, url: slashed, constraints: route.constraints })) this.#add(route, slashed)
    }
  }

  /** Knows the routes there are now. */
  static async of (known: KnownRoutes): Promise<DryRouting> {
    const routing = new DryRouting(known)
    await routing.#app.ready()
    return routing
  }

  ask (raw: IncomingMessage): Promise<Met> {
    if (!this.#app.supportedMethods.includes(raw.method as string)) return Promise.resolve(NOWHERE)
    return new Promise(resolve => {
      this.#asking.set(raw, resolve)
      this.#app.routing(raw, new ServerResponse(raw))
    })
  }

  /** @param path where that is another than the route says */
  #add (route: KnownRoute, path = route.url): void {
    const { method, constraints, handler, bodyLimit } = route
    // One that was added to the app later cannot be asked for: what hangs on it is left out.
    const isKnown = (strategy: string) => BUILT_IN.has(strategy) || this.#app.hasConstraintStrategy(strategy)
    // Each scope of several within each other has told of it.
    const methods = [method].flat().filter(method => !this.#app.hasRoute({ method: method as HTTPMethods, url: path, constraints }))
    if (methods.length === 0 || !Object.keys(constraints ?? {}).every(isKnown)) return
    for (const method of methods) if (!this.#app.supportedMethods.includes(method)) this.#app.addHttpMethod(method, { hasBody: true })
    this.#app.route({ method: methods as HTTPMethods[], url: path, constraints, bodyLimit, config: { met: route } as object, handler: handler as RouteHandlerMethod })
  }

  #met ({ raw, params, query, is404, routeOptions }: FastifyRequest): void {
    const { met } = routeOptions.config as { met?: Met['route'] }
    this.#asking.get(raw)?.({ route: is404 ? undefined : met, params, query, error: undefined })
  }
}

function routerOptionsOf ({ initialConfig }: FastifyInstance): object {
  const older = Object.fromEntries(ROUTER_OPTIONS.map(name => [name, initialConfig[name]]).filter(([, value]) => value !== undefined))
  const { defaultRoute: _none, onBadUrl: _bad, constraints = {}, ...newer } = { ...initialConfig.routerOptions }
  // The router writes on the strategies that it is given.
  const strategies = Object.fromEntries(Object.entries(constraints).map(([name, strategy]) => [name, { ...strategy }]))
  return { ...older, ...newer, constraints: strategies }
}
