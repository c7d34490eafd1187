/** This package before several backends: the first argument is the policy, the others are their addresses. */
import Fastify from 'fastify'
import rockstarProxy from 'rockstar-proxy'
import { serve } from './contenders/serve.mjs'

const [balancer, ...backends] = process.argv.slice(2)
const app = Fastify({ logger: false })
await app.register(rockstarProxy, { backends, balancer, routes: [{ prefix: '/' }] })
await serve(app)
