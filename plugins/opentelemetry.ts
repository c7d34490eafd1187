import type { FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import { proxyError } from '../lib/errors.ts'
import { AttemptSpans, Faults, knownMethods, loadApi } from '../lib/opentelemetry/index.ts'
import { resolveOptions } from '../lib/options.ts'
import { version } from '../lib/version.ts'
import type { ProxyManager } from '../types/index.ts'
import { OpenTelemetryOptionsSchema, type OpenTelemetryOptions } from '../types/opentelemetry.ts'

/** Registrations whose attempts have spans. */
const traced = new WeakSet<ProxyManager>()

/**
 * Makes a span of OpenTelemetry for each attempt, and tells backends its context. `@opentelemetry/api` comes with the application.
 * Throws `INVALID_OPTIONS`, also where that package is not there or the app has spans already.
 */
const openTelemetryPlugin: FastifyPluginAsync<OpenTelemetryOptions> = async (app, given) => {
  const options = resolveOptions<OpenTelemetryOptions>(OpenTelemetryOptionsSchema, given, 'options of rockstar-proxy/opentelemetry')
  const api = await loadApi()
  const { proxy } = app
  if (traced.has(proxy)) throw proxyError('INVALID_OPTIONS', undefined, 'rockstar-proxy/opentelemetry is registered already for this proxy: each attempt would have two spans')
  const tracer = (options.tracerProvider ?? api.trace).getTracer('rockstar-proxy', version)
  const spans = new AttemptSpans(proxy, { api, tracer, options, methods: knownMethods(process.env) }, new Faults(app.log))
  traced.add(proxy)
  spans.start()
  app.addHook('onClose', async () => {
    spans.stop()
    traced.delete(proxy)
  })
}

const openTelemetry = fp(openTelemetryPlugin, { name: 'rockstar-proxy-opentelemetry', fastify: '5.x', dependencies: ['rockstar-proxy'] })
export default openTelemetry
export { openTelemetry, openTelemetry as 'module.exports' }
export type { OpenTelemetryOptions, SpanHook } from '../types/opentelemetry.ts'
