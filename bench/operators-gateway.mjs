/** This package with its routes for operators, before so many backends at one address: `operators-gateway.mjs BACKEND COUNT`. */
import Fastify from 'fastify'
import rockstarProxy from 'rockstar-proxy'
import { backend, serve } from './contenders/serve.mjs'

const backends = Array.from({ length: Number(process.argv[3]) }, (_, i) => ({ id: `backend-${i + 1}`, url: backend }))
const app = Fastify({ logger: false })
await app.register(rockstarProxy, { backends, routes: [{ prefix: '/' }], admin: { logLevel: 'silent' } })
await serve(app)
