/** This package before several backends: the first argument is its options as JSON, the others are the backends' addresses. */
import Fastify from 'fastify'
import rockstarProxy from 'rockstar-proxy'
import { serve } from './contenders/serve.mjs'

const [options, ...backends] = process.argv.slice(2)
const app = Fastify({ logger: false })
await app.register(rockstarProxy, { backends, routes: [{ prefix: '/' }], ...JSON.parse(options) })
// What an answer costs that comes from nowhere else.
app.get('/plain', (_request, reply) => reply.code(503).header('retry-after', '30').send({ statusCode: 503, error: 'Service Unavailable', message: 'no reason' }))
await serve(app)
