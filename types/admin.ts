import { Type, type Static, type TSchema } from '@sinclair/typebox'
import type { FastifyRequest, onRequestHookHandler } from 'fastify'
import { EventsOptionsSchema } from './events-view.ts'
import { MetricsOptionsSchema } from './prometheus.ts'
import type { ProxyManager } from './proxy-manager.ts'
import { logLevelSchema } from './routes.ts'

/** The resources that operators have, each a sub-plugin of its own. */
export const ADMIN_PLUGINS = ['status', 'backends', 'balancer', 'breaker', 'health', 'metrics', 'explain', 'events'] as const
/** The name of one of them. */
export type AdminPlugin = typeof ADMIN_PLUGINS[number]

const hooks = (description: string) => Type.Optional(Type.Unsafe<onRequestHookHandler | onRequestHookHandler[]>(Type.Union([
  Type.Function([], Type.Unknown()), Type.Array(Type.Function([], Type.Unknown()))
], { description, expected: 'a hook function or an array of them', signature: 'function | function[]' })))

/** Who may use the routes of operators, and how they show. */
const access = {
  onRequest: hooks('Hooks that say who may use the routes, before anything is read: `@fastify/bearer-auth`, `app.basicAuth` … With none, only peers on this machine may, by their socket\'s address.'),
  onChange: hooks('Hooks that say who may change something, after `onRequest`.'),
  hosts: Type.Optional(Type.Array(Type.String({ minLength: 1 }), {
    description: 'Names by which the routes may be asked for, without ports. Default: with no `onRequest` `localhost` and loopback addresses, so that no website can make a browser ask by a name of its own (DNS rebinding); any with one.'
  })),
  origins: Type.Optional(Type.Array(Type.String({ minLength: 1 }), {
    default: [],
    description: 'Websites whose pages may use the routes beside those of the same host: `https://console.example`. Other cross-site requests of browsers are refused.'
  })),
  allowBackends: Type.Optional(Type.Array(Type.String({ minLength: 1 }), {
    description: 'Where backends that are added may be: host names, `*.example.internal`, addresses, networks (`10.0.0.0/8`) and `unix:/path.sock`. A name must be listed itself, or all of its addresses must be; connections go nowhere else either. Default: anywhere.'
  })),
  who: Type.Optional(Type.Unsafe<(request: FastifyRequest) => string | Promise<string>>(Type.Function([], Type.String(), {
    description: 'Names whoever makes a change, for the log, at once or by a promise. Default: the address of the peer.', expected: 'a function', signature: '(request) => string | Promise<string>'
  }))),
  logLevel: Type.Optional(logLevelSchema('Level of the routes\' own log lines. Changes are logged at `info` by the app\'s log whatever this says, and whatever level that has.')),
  hide: Type.Optional(Type.Boolean({ default: false, description: 'Leave the routes out of OpenAPI documents.' }))
}

const proxy = Type.Optional(Type.Unsafe<ProxyManager>(Type.Object({ upstream: Type.Function([], Type.Unknown()), listUpstreams: Type.Function([], Type.Unknown()) }, {
  description: 'The proxy that the routes are about: `app.proxy` of another app, which serves them on a port of their own. Default: that of the scope.',
  expected: 'the proxy of an app that has registered rockstar-proxy',
  signature: 'ProxyManager'
})))

/** Options of each of the sub-plugins. */
export const ResourceOptionsSchema = Type.Object({
  prefix: Type.Optional(Type.String({ default: '', description: 'Path below which the routes stand.' })),
  ...access,
  proxy
}, { additionalProperties: false, title: 'ResourceOptions', description: 'Options of `rockstar-proxy/status`, `/backends`, `/balancer`, `/breaker`, `/health`, `/metrics`, `/explain` and `/events`.' })

/** Options of `rockstar-proxy/metrics`. */
export const MetricsResourceOptionsSchema = Type.Object({
  ...ResourceOptionsSchema.properties,
  ...MetricsOptionsSchema.properties
}, { additionalProperties: false, title: 'MetricsResourceOptions', description: 'Options of `rockstar-proxy/metrics`.' })

/** Options of `rockstar-proxy/events`. */
export const EventsResourceOptionsSchema = Type.Object({
  ...ResourceOptionsSchema.properties,
  ...EventsOptionsSchema.properties
}, { additionalProperties: false, title: 'EventsResourceOptions', description: 'Options of `rockstar-proxy/events`.' })

/** The option `admin`. */
export const AdminOptionsSchema = Type.Object({
  prefix: Type.Optional(Type.String({ default: '/proxy', pattern: '^/', description: 'Path below which the routes stand.' })),
  plugins: Type.Optional(Type.Array(Type.Union(ADMIN_PLUGINS.map(name => Type.Literal(name)), { expected: ADMIN_PLUGINS.map(name => `'${name}'`).join(', ') }), {
    default: [...ADMIN_PLUGINS],
    description: 'Which of them.'
  })),
  metrics: Type.Optional(MetricsOptionsSchema),
  events: Type.Optional(EventsOptionsSchema),
  ...access
}, { additionalProperties: false, title: 'AdminOptions', description: 'Routes for operators. With no `onRequest` they answer peers on this machine only.' })

/** Options of the sub-plugin that is all of the others. */
export const AdminPluginOptionsSchema = Type.Object({
  ...AdminOptionsSchema.properties,
  proxy
}, { additionalProperties: false, title: 'AdminPluginOptions', description: 'Options of `rockstar-proxy/admin`: those of the option `admin`, and the proxy that it is about.' })

export const AdminSchema = Type.Union([Type.Boolean(), AdminOptionsSchema], {
  default: false,
  description: 'Routes for operators below `/proxy`: options, or `true` for the defaults.',
  expected: 'a boolean or an object of options'
})

/** Options of each of the sub-plugins. */
export type ResourceOptions = Static<typeof ResourceOptionsSchema>
/** Options of `rockstar-proxy/metrics`. */
export type MetricsResourceOptions = Static<typeof MetricsResourceOptionsSchema>
/** Options of `rockstar-proxy/events`. */
export type EventsResourceOptions = Static<typeof EventsResourceOptionsSchema>
/** The option `admin`. */
export type AdminOptions = Static<typeof AdminOptionsSchema>
/** Options of `rockstar-proxy/admin`. */
export type AdminPluginOptions = Static<typeof AdminPluginOptionsSchema>

/** What a route of operators says when it fails. */
export const AdminErrorSchema = Type.Object({
  statusCode: Type.Integer({ description: 'The status.' }),
  code: Type.Optional(Type.String({ description: 'Which error: `FST_ROCKSTAR_…`.' })),
  error: Type.String({ description: 'The status in words.' }),
  message: Type.String({ description: 'What is wrong, for people.' })
}, { title: 'AdminError', description: 'Why a request was refused.' })

/** Which upstream a request of operators is about. */
export const UpstreamQuerySchema = Type.Object({
  upstream: Type.Optional(Type.String({ minLength: 1, description: 'Name of the upstream. Default: the default upstream.' }))
}, { additionalProperties: false, title: 'UpstreamQuery' })

/** Which backend a request of operators is about. A prefix may have parameters of its own. */
export const BackendParamsSchema = Type.Object({
  id: Type.String({ minLength: 1, maxLength: 128, description: 'Id of the backend.' })
}, { title: 'BackendParams' })

/** A schema whose value may be `null`. */
export const nullable = <Schema extends TSchema>(schema: Schema) => Type.Union([schema, Type.Null()], { description: schema.description })
