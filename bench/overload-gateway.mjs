/** This package before one backend: `overload-gateway.mjs OPTIONS BACKEND`. Also tells how much memory it has used at the most, in bytes. */
import Fastify from 'fastify'
import rockstarProxy from 'rockstar-proxy'
import { serve } from './contenders/serve.mjs'

const [options, backend] = process.argv.slice(2)
const app = Fastify({ logger: false })
await app.register(rockstarProxy, { backends: [backend], routes: [{ prefix: '/' }], ...JSON.parse(options) })
app.get('/figures', () => {
  const { queueLength, inFlight } = app.proxy.getMetrics()
  const { limit } = app.proxy.listBackends()[0]
  return { memory: process.memoryUsage().rss, queueLength, inFlight, limit: limit === Infinity ? null : limit }
})
await serve(app)
