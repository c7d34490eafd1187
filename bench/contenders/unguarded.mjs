/** As `routes`, with nothing that judges backends. */
import Fastify from 'fastify'
import rockstarProxy from 'rockstar-proxy'
import { backend, serve } from './serve.mjs'

const app = Fastify({ logger: false })
await app.register(rockstarProxy, { backends: [backend], breaker: false, health: false, outlier: false, routes: [{ prefix: '/' }] })
await serve(app)
