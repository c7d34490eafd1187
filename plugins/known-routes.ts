import type { FastifyInstance, RouteHandlerMethod, RouteOptions } from 'fastify'
import type { Route } from '../lib/forward/index.ts'
import type { ProxyManager } from '../lib/proxy-manager.ts'

/** A route that is forwarded without a handler of the application's. */
export interface DeclaredRoute {
  proxy: ProxyManager
  route: Route
  /** With those of the scopes it is in. */
  prefix: string
  rewritePrefix: string
}

/** A route, and the scope that it was added in. */
export interface KnownRoute extends RouteOptions {
  scope: FastifyInstance
}

/** What is known of the routes of one server. */
export interface KnownRoutes {
  /** The app that has registered the proxy first. */
  app: FastifyInstance
  routes: KnownRoute[]
  /** Where each registration can be asked to explain a request. */
  explains: Map<ProxyManager, string>
}

const declared = new WeakMap<RouteHandlerMethod, DeclaredRoute>()
const byServer = new WeakMap<object, KnownRoutes>()
const byProxy = new WeakMap<ProxyManager, KnownRoutes>()

/** Notes whose handler it is. */
export function declare (handler: RouteHandlerMethod, route: DeclaredRoute): void {
  declared.set(handler, route)
}

/** What stands behind a handler; `undefined` for one of the application's own. */
export function declaredBy (handler: RouteHandlerMethod): DeclaredRoute | undefined {
  return declared.get(handler)
}

/** Notes the routes that are added from now on: Fastify tells nobody later which of them a request would meet. */
export function recordRoutes (app: FastifyInstance, proxy: ProxyManager): void {
  const known = byServer.get(app.server) ?? newlyKnown(app)
  byServer.set(app.server, known)
  byProxy.set(proxy, known)
  // Fastify changes the object afterwards, for the same route with a slash at its end.
  app.addHook('onRoute', function (route) { known.routes.push({ ...route, scope: this }) })
}

/** The routes of the app that has registered a proxy; none where an application of its own has made it. */
export function knownTo (proxy: ProxyManager, app: FastifyInstance): KnownRoutes {
  return byProxy.get(proxy) ?? newlyKnown(app)
}

/** Notes where a proxy can be asked to explain a request. The first place counts. */
export function noteExplain (app: FastifyInstance, proxy: ProxyManager, path: string): void {
  const explains = byServer.get(app.server)?.explains
  if (explains?.has(proxy) === false) explains.set(proxy, path)
}

/** The registration whose route it is, as far as can be told. */
export function ownerOf ({ handler, scope }: Pick<KnownRoute, 'handler' | 'scope'>): ProxyManager | undefined {
  return declaredBy(handler)?.proxy ?? (scope.hasDecorator('proxy') ? scope.proxy as unknown as ProxyManager : undefined)
}

function newlyKnown (app: FastifyInstance): KnownRoutes {
  return { app, routes: [], explains: new Map() }
}
