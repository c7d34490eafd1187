/** As `routes`, with limits that are never reached: of the upstream, of each backend, and one that is found. */
import Fastify from 'fastify'
import rockstarProxy from 'rockstar-proxy'
import { backend, serve } from './serve.mjs'

const app = Fastify({ logger: false })
await app.register(rockstarProxy, { backends: [backend], limits: { maxInFlight: 10_000, maxPerBackend: 1_000, adaptive: { initial: 1_000, min: 500 } }, routes: [{ prefix: '/' }] })
await serve(app)
