import { Type } from '@sinclair/typebox'
import type { FastifyRequest } from 'fastify'
import { Feed } from '../lib/feed/index.ts'
import { resolveOptions } from '../lib/options.ts'
import { EventsOptionsSchema, EventsResourceOptionsSchema, EventStreamSchema, UpstreamQuerySchema, type EventsOptions, type EventsResourceOptions } from '../types/index.ts'
import { resource } from './admin/resource.ts'

const TYPE = 'text/event-stream'
/** Milliseconds for what is left of a stream to go out, once the app closes. */
const LINGER = 1_000

/** What is wrong where there are too many readers. */
const CrowdedSchema = Type.Object({
  statusCode: Type.Integer(),
  code: Type.String(),
  error: Type.String(),
  message: Type.String()
}, { title: 'Crowded', description: 'There are as many readers as there may be, or the app is closing.', examples: [{ statusCode: 503, code: 'FST_ROCKSTAR_OVERLOADED', error: 'Service Unavailable', message: 'There are too many requests at present' }] })

/** Tells what happens as it happens. */
const events = resource<EventsResourceOptions>('events', ({ app, options, ownPath, proxy, upstreamOf }) => {
  const { interval, heartbeat, maxClients, maxBuffer, history } = options
  const feed = new Feed(proxy, resolveOptions<Required<EventsOptions>>(EventsOptionsSchema, { interval, heartbeat, maxClients, maxBuffer, history }, ownPath), app.log)
  // The proxy gives its readers up as it begins to drain; those of another app's, when this one closes.
  app.addHook('preClose', async () => feed.close())
  return [{
    method: 'GET',
    url: '/events',
    summary: 'Follow what happens',
    description: 'Server-Sent Events: what becomes of backends, circuits and discovery, each with an id; and what is counted, every second. `Last-Event-ID` brings what was missed meanwhile, as far as it is still known. Who does not keep up is dropped.',
    query: UpstreamQuerySchema,
    produces: [TYPE],
    response: { 200: EventStreamSchema, 503: CrowdedSchema },
    handler: async (request, reply) => {
      const { upstream } = request.query as { upstream?: string }
      if (upstream !== undefined) upstreamOf(request)
      // A stream has no end that a HEAD could be answered with.
      if (request.method === 'HEAD') return reply.type(TYPE).send()
      const reader = feed.open(upstream, request.headers['last-event-id'] as string | undefined)
      const { clock } = proxy.state
      // An answer that the client does not take must not hold up the end.
      reader.once('end', () => {
        const timer = clock.setTimeout(() => { reply.raw.destroy() }, LINGER)
        reply.raw.once('close', () => clock.clearTimeout(timer))
      })
      return reply.headers(headersFor(request)).type(TYPE).send(reader)
    }
  }]
}, EventsResourceOptionsSchema)

/** HTTP/2 has no connections to close, and proxies such as nginx are told not to collect what they pass on. */
function headersFor ({ raw }: FastifyRequest): Record<string, string> {
  return { 'cache-control': 'no-store, no-transform', 'x-accel-buffering': 'no', ...(raw.httpVersionMajor === 1 ? { connection: 'close' } : {}) }
}

export default events
export { events, events as 'module.exports' }
