import { Type } from '@sinclair/typebox'
import type { FastifyReply, FastifyRequest } from 'fastify'
import { Readable } from 'node:stream'
import { setImmediate } from 'node:timers/promises'
import { checkLabels, Collector, collectInto, CONTENT_TYPES, expose, formatFor } from '../lib/prometheus/index.ts'
import { MetricsResetViewSchema, MetricsResourceOptionsSchema, MetricsViewSchema, UpstreamQuerySchema, type MetricsRegistry, type MetricsResourceOptions } from '../types/index.ts'
import { resource } from './admin/resource.ts'

const PrometheusSchema = Type.String({ description: 'Metrics as Prometheus reads them.', examples: ['# HELP rockstar_proxy_retries_total Attempts made again after a failure.\n# TYPE rockstar_proxy_retries_total counter\nrockstar_proxy_retries_total{upstream="default"} 4\n'] })

/** There is nothing to choose: labels tell one upstream from another. */
const NothingSchema = Type.Object({}, { additionalProperties: false })

/** Tells what is counted, as JSON and as Prometheus wants it, and sets it to zero. */
const metrics = resource<MetricsResourceOptions>('metrics', ({ app, options, ownPath, proxy, upstreamOf, logChange }) => {
  const { registry, labels = {}, perBackend } = options
  checkLabels(labels, `${ownPath}.labels`)
  const collector = new Collector(proxy, labels, perBackend)
  if (registry !== undefined) app.addHook('onClose', collecting(collectInto(registry, collector, `${ownPath}.registry`)))
  /** The one asked for by name; all of them where none is. */
  const meant = (request: FastifyRequest) => isNamed(request) ? [upstreamOf(request)] : proxy.listUpstreams()
  return [
    {
      method: 'GET',
      url: '/metrics',
      summary: 'See what is counted',
      description: 'All that getMetrics() gives: of the default upstream, and of the others below `upstreams`; or of one upstream alone.',
      query: UpstreamQuerySchema,
      response: { 200: MetricsViewSchema },
      handler: async request => isNamed(request) ? upstreamOf(request).state.metrics() : proxy.getMetrics()
    },
    {
      method: 'DELETE',
      url: '/metrics',
      summary: 'Set what is counted to zero',
      description: 'But for what is under way. Of all upstreams, or of one. To Prometheus this is a reset of its counters.',
      query: UpstreamQuerySchema,
      response: { 200: MetricsResetViewSchema },
      handler: async request => {
        const upstreams = meant(request)
        const names = upstreams.map(({ name }) => name)
        for (const upstream of upstreams) upstream.resetMetrics()
        logChange(request, 'reset metrics', { upstreams: names })
        return { reset: names }
      }
    },
    {
      method: 'GET',
      url: '/metrics/prometheus',
      summary: 'See what is counted, as Prometheus reads it',
      description: 'Prometheus\' text format 0.0.4, or OpenMetrics 1.0 where `Accept` likes that better; with a registry, all that it has, as it writes it.',
      query: NothingSchema,
      produces: Object.values(CONTENT_TYPES),
      response: { 200: PrometheusSchema },
      handler: (request, reply) => registry === undefined ? tell(collector, request, reply) : tellAll(registry, reply)
    }
  ]
}, MetricsResourceOptionsSchema)

function isNamed (request: FastifyRequest): boolean {
  return (request.query as { upstream?: string }).upstream !== undefined
}

/** A hook that ends what was begun. */
function collecting (end: () => void): () => Promise<void> {
  return async () => end()
}

async function tellAll (registry: MetricsRegistry, reply: FastifyReply): Promise<FastifyReply> {
  const text = await registry.metrics()
  return reply.type(registry.contentType).send(text)
}

/** What fits into one piece is sent at once; of more, a piece at a time, between which requests are served. */
async function tell (collector: Collector, request: FastifyRequest, reply: FastifyReply): Promise<FastifyReply> {
  const format = formatFor(request.headers.accept)
  const pieces = expose(collector, format)
  const first = pieces.next().value as string
  const second = pieces.next()
  reply.type(CONTENT_TYPES[format]).header('vary', 'accept')
  if (second.done === true) return reply.send(first)
  return reply.send(Readable.from(slowly(first, second.value, pieces)))
}

async function * slowly (first: string, second: string, rest: Iterable<string>): AsyncGenerator<string, void, undefined> {
  yield first
  yield second
  await setImmediate()
  for (const piece of rest) {
    yield piece
    await setImmediate()
  }
}

export default metrics
export { metrics, metrics as 'module.exports' }
