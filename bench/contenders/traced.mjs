/** As `routes`, with somebody who listens to both tracing channels and does nothing. */
import Fastify from 'fastify'
import { tracingChannel } from 'node:diagnostics_channel'
import rockstarProxy from 'rockstar-proxy'
import { backend, serve } from './serve.mjs'

const nothing = () => {}
for (const name of ['exchange', 'attempt']) {
  tracingChannel(`rockstar-proxy:${name}`).subscribe({ start: nothing, end: nothing, asyncStart: nothing, asyncEnd: nothing, error: nothing })
}
const app = Fastify({ logger: false })
await app.register(rockstarProxy, { backends: [backend], routes: [{ prefix: '/' }] })
await serve(app)
