/** This package by `forward()` in an ordinary handler: bodies are parsed by Fastify and written anew. */
import Fastify from 'fastify'
import rockstarProxy from 'rockstar-proxy'
import { backend, serve } from './serve.mjs'

const app = Fastify({ logger: false })
await app.register(rockstarProxy, { backends: [backend] })
app.all('/*', (request, reply) => request.server.proxy.forward(request, reply))
await serve(app)
