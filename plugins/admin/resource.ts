import { Type, type TObject, type TSchema } from '@sinclair/typebox'
import type { FastifyInstance, FastifyPluginAsync, FastifyRequest, FastifySchema, RouteHandlerMethod } from 'fastify'
import fp from 'fastify-plugin'
import { AdminErrorSchema, ResourceOptionsSchema, type ResourceOptions } from '../../types/index.ts'
import { proxyError } from '../../lib/errors.ts'
import { documented } from '../../lib/json-schema.ts'
import { resolveOptions } from '../../lib/options.ts'
import type { ProxyManager } from '../../lib/proxy-manager.ts'
import type { UpstreamManager } from '../../lib/upstream-manager.ts'
import { auditOf, type LogChange } from './audit.ts'
import { guard, listOf } from './guard.ts'
import { ORIGIN, placeOf, type Origin, type Originating, type Place } from './places.ts'
import { asRequestError, BODY_LIMIT, checkRequest } from './requests.ts'

/** One route of a resource. */
export interface AdminRoute {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  /** Below the prefix. */
  url: string
  summary: string
  description?: string
  params?: TSchema
  query?: TSchema
  body?: TSchema
  /** Answers by status, each with an example. */
  response: Partial<Record<200 | 201 | 202 | 204 | 503, TSchema>>
  handler: RouteHandlerMethod
  /** Whether it changes something. Default: whatever is no `GET`. */
  changes?: boolean
  /** Other types than JSON that answers have. */
  produces?: string[]
}

/** What makes the routes of a resource. */
export type DefineRoutes<Options extends ResourceOptions = ResourceOptions> = (tools: AdminTools<Options>) => AdminRoute[]

/** What routes need beside their requests. */
export interface AdminTools<Options extends ResourceOptions = ResourceOptions> {
  proxy: ProxyManager
  options: Options
  /** What errors call the options, and those that this resource alone has. */
  path: string
  ownPath: string
  app: FastifyInstance
  /** The upstream that a request is about: `?upstream=NAME`, or the default one. Throws `UNKNOWN_UPSTREAM`, as 404. */
  upstreamOf (request: FastifyRequest): UpstreamManager
  logChange: LogChange
}

/** Makes a sub-plugin that keeps its prefix, with routes that are guarded, checked and documented alike. @param schema of its options, where it has some of its own */
export function resource<Options extends ResourceOptions = ResourceOptions> (name: string, define: DefineRoutes<Options>, schema: TSchema = ResourceOptionsSchema): FastifyPluginAsync<Options> {
  const register: FastifyPluginAsync<Options> = async (app, given) => {
    const origin: Origin = (given as Originating)[ORIGIN] ?? { mounted: false, path: `options of rockstar-proxy/${name}` }
    const { path } = origin
    const options = resolveOptions<Options>(schema, given, path)
    const proxy = proxyOf(app, options, name)
    guard(app, options, path)
    const tools: AdminTools<Options> = {
      proxy,
      options,
      path,
      ownPath: origin.own ?? path,
      app,
      upstreamOf: request => upstreamOf(proxy, request),
      logChange: auditOf(app, options)
    }
    for (const route of define(tools)) add(app, name, route, options, proxy, origin)
  }
  return fp(register, { name: `rockstar-proxy-${name}`, fastify: '5.x', encapsulate: true })
}

function add (app: FastifyInstance, name: string, route: AdminRoute, options: ResourceOptions, proxy: ProxyManager, origin: Origin): void {
  const { method, url, summary, description, params, query, body, response, handler, produces, changes = method !== 'GET' } = route
  const { logLevel, hide } = options
  const full = app.prefix.replace(/\/$/, '') + url
  const place = placeOf(app, method, full, origin, proxy)
  if (place === null) return
  const schema: FastifySchema & Record<string, unknown> = {
    summary,
    description: description ?? summary,
    tags: [`proxy ${name}`],
    hide,
    operationId: operationOf(method, full),
    ...(params === undefined ? {} : { params: documented(paramsOf(full, params)) }),
    ...(query === undefined ? {} : { querystring: documented(query) }),
    ...(body === undefined ? {} : { body: documented(body) }),
    ...(produces === undefined ? {} : { produces }),
    response: { ...response, '4xx': AdminErrorSchema }
  }
  app.route({
    method,
    url,
    schema,
    ...(place.constraints === undefined ? {} : { constraints: place.constraints }),
    bodyLimit: BODY_LIMIT,
    // Fastify's own checks would coerce, and know only what OpenAPI does.
    validatorCompiler: () => () => true,
    preValidation: async request => checkRequest(request, route),
    handler: async function (request, reply) {
      try {
        return await handler.call(this, request, reply)
      } catch (error) {
        throw asRequestError(error)
      }
    },
    ...(logLevel === undefined ? {} : { logLevel }),
    onRequest: [async () => refuseOvertaken(place), ...(changes ? listOf(options.onChange) : [])]
  })
}

/** The proxy that was given, or that of the scope. Throws `INVALID_OPTIONS` where there is none. */
function proxyOf (app: FastifyInstance, { proxy }: ResourceOptions, name: string): ProxyManager {
  if (proxy !== undefined) return proxy as unknown as ProxyManager
  if (app.hasDecorator('proxy')) return app.proxy as unknown as ProxyManager
  throw proxyError('INVALID_OPTIONS', undefined, `rockstar-proxy/${name} must be registered where rockstar-proxy is, or below, or be given its option proxy: app.proxy of another app`)
}

/** Who names no host does not get round the hooks of the route that stands before this one. Throws `FST_ROCKSTAR_ADMIN_FORBIDDEN`. */
function refuseOvertaken (place: Place): void {
  if (place.isOvertaken()) throw proxyError('ADMIN_FORBIDDEN', undefined, 'These routes are served by name only: send Host')
}

/** What a path is made of, that of a prefix included. */
function paramsOf (url: string, params: TSchema): TSchema {
  const { properties } = params as TObject
  const others = [...url.matchAll(/:(\w+)/g)].map(([, name]) => name).filter(name => !Object.hasOwn(properties, name))
  return Type.Object({ ...Object.fromEntries(others.map(name => [name, Type.String()])), ...properties }, { title: params.title, description: params.description })
}

function upstreamOf (proxy: ProxyManager, request: FastifyRequest): UpstreamManager {
  try {
    return proxy.upstream((request.query as { upstream?: string }).upstream ?? proxy.name)
  } catch (error) {
    // Elsewhere it is the application that has named one that is not there; here it is the client.
    throw Object.assign(error as Error, { statusCode: 404 })
  }
}

/** Unique in a document, however often a resource is registered. */
function operationOf (method: string, url: string): string {
  return `${method.toLowerCase()}${url.replaceAll(/[^A-Za-z0-9]+(\w?)/g, (_, letter: string) => letter.toUpperCase())}`
}
