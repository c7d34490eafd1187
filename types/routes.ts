import { Type, type Static } from '@sinclair/typebox'
import type { RouteOptions as FastifyRouteOptions, RouteShorthandOptions } from 'fastify'
import { perRequest } from './forward.ts'

/** Levels of Fastify's logger. Spelt out, because Fastify's own type would make users install pino's. */
const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const
export type LogLevel = typeof LOG_LEVELS[number]

/** One of them. */
export const logLevelSchema = (description: string) => Type.Unsafe<LogLevel>(Type.Union(LOG_LEVELS.map(level => Type.Literal(level)), {
  description, expected: `one of ${LOG_LEVELS.map(level => `'${level}'`).join(', ')}`
}))

/** The methods that a route forwards unless told otherwise. */
export const DEFAULT_METHODS = ['DELETE', 'GET', 'HEAD', 'OPTIONS', 'PATCH', 'POST', 'PUT'] as const

type HookName = 'onRequest' | 'preParsing' | 'preValidation' | 'preHandler' | 'onSend' | 'onResponse' | 'onError' | 'onTimeout' | 'onRequestAbort'
type Hook<Name extends keyof RouteShorthandOptions> = NonNullable<RouteShorthandOptions[Name]>

const hook = <Name extends Exclude<HookName, 'onResponse' | 'onError'>>(name: Name) => Type.Optional(Type.Unsafe<Hook<Name>>(Type.Union([
  Type.Function([], Type.Unknown()), Type.Array(Type.Function([], Type.Unknown()))
], { description: `Fastify's \`${name}\` hook, or several.`, expected: 'a hook function or an array of them', signature: 'function | function[]' })))

/** One declared route: everything below a prefix is forwarded. */
export const RouteOptionsSchema = Type.Object({
  prefix: Type.Optional(Type.String({
    default: '/',
    description: 'Path below which everything is forwarded. It is taken off before the request is sent. May hold parameters (`/users/:id`).'
  })),
  rewritePrefix: Type.Optional(Type.String({
    default: '',
    description: 'What replaces the prefix in the path that is sent. Parameters of the prefix may be used (`/people/:id`).'
  })),
  methods: Type.Optional(Type.Array(Type.String({ minLength: 1 }), {
    minItems: 1,
    default: [...DEFAULT_METHODS],
    description: 'Methods that are forwarded. `TRACE` and `CONNECT` never are.'
  })),
  constraints: Type.Optional(Type.Unsafe<NonNullable<FastifyRouteOptions['constraints']>>(Type.Object({}, {
    additionalProperties: true,
    description: 'Fastify\'s route constraints: `host`, `version`, or the application\'s own.'
  }))),
  ...perRequest,
  internalRewriteLocationHeader: Type.Optional(Type.Boolean({
    default: true,
    description: 'Map `Location`, `Content-Location`, `Refresh` and the `Path` of cookies back to the prefix.'
  })),
  onRequest: hook('onRequest'),
  preParsing: hook('preParsing'),
  preValidation: hook('preValidation'),
  preHandler: hook('preHandler'),
  onSend: hook('onSend'),
  onTimeout: hook('onTimeout'),
  onRequestAbort: hook('onRequestAbort'),
  config: Type.Optional(Type.Unsafe<NonNullable<FastifyRouteOptions['config']>>(Type.Object({}, {
    additionalProperties: true, description: 'Fastify\'s route config, as hooks see it in `request.routeOptions.config`.'
  }))),
  logLevel: Type.Optional(logLevelSchema('Level of the route\'s own log lines.'))
}, {
  additionalProperties: false,
  title: 'RouteOptions',
  description: 'One declared route, given in `routes` or to `app.register(routes, options)` of `rockstar-proxy/routes`. Everything below its prefix is forwarded, without a handler to write; bodies stream unparsed, and all hooks of the scope run.'
})

/** One declared route: everything below a prefix is forwarded. */
export type RouteOptions = Static<typeof RouteOptionsSchema>
