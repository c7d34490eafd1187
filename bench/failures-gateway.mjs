/**
 * A proxy before several backends: the first argument is this package's options as JSON, or `http-proxy` for `@fastify/http-proxy`, the
 * others are the backends' addresses.
 */
import Fastify from 'fastify'
import httpProxy from '@fastify/http-proxy'
import rockstarProxy from 'rockstar-proxy'
import { serve } from './contenders/serve.mjs'

const [options, ...backends] = process.argv.slice(2)
const app = Fastify({ logger: false })
if (options === 'http-proxy') {
  let turn = 0
  // It knows one upstream; with several this is what its users write.
  await app.register(httpProxy, { upstream: '', replyOptions: { getUpstream: () => backends[turn++ % backends.length] } })
} else {
  await app.register(rockstarProxy, { backends, routes: [{ prefix: '/' }], ...JSON.parse(options) })
  // What an answer costs that comes from nowhere else.
  app.get('/plain', (_request, reply) => reply.code(503).header('retry-after', '30').send({ statusCode: 503, error: 'Service Unavailable', message: 'no reason' }))
}
await serve(app)
