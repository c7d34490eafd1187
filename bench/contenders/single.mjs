/** As `routes`, with one attempt for each request. */
import Fastify from 'fastify'
import rockstarProxy from 'rockstar-proxy'
import { backend, serve } from './serve.mjs'

const app = Fastify({ logger: false })
await app.register(rockstarProxy, { backends: [backend], retry: false, routes: [{ prefix: '/' }] })
await serve(app)
