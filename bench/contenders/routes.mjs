/** This package with a declared route, everything at its defaults. */
import Fastify from 'fastify'
import rockstarProxy from 'rockstar-proxy'
import { backend, serve } from './serve.mjs'

const app = Fastify({ logger: false })
await app.register(rockstarProxy, { backends: [backend], routes: [{ prefix: '/' }] })
await serve(app)
