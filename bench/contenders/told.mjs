/** As `routes`, telling all there is to tell: a log line for each exchange (to nowhere), the request's id, Server-Timing, Proxy-Status. */
import Fastify from 'fastify'
import { Writable } from 'node:stream'
import rockstarProxy from 'rockstar-proxy'
import { backend, serve } from './serve.mjs'

const nowhere = new Writable({ write: (_chunk, _encoding, done) => done() })
const app = Fastify({ logger: { level: 'info', stream: nowhere }, disableRequestLogging: true })
await app.register(rockstarProxy, { backends: [backend], routes: [{ prefix: '/' }], accessLog: 'info', requestId: true, serverTiming: true, proxyStatus: true })
await serve(app)
