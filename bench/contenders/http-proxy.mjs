/** `@fastify/http-proxy` at its defaults. */
import Fastify from 'fastify'
import httpProxy from '@fastify/http-proxy'
import { backend, serve } from './serve.mjs'

const app = Fastify({ logger: false })
await app.register(httpProxy, { upstream: backend })
await serve(app)
