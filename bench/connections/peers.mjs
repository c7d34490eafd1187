/**
 * Who is measured with open connections, and what they are measured against: `peers.mjs KIND BACKEND`. One process each; it tells its
 * CPU time and its memory when asked.
 */
import httpProxy from '@fastify/http-proxy'
import Fastify from 'fastify'
import { createProxyServer } from 'http-proxy-3'
import { createServer } from 'node:http'
import { createServer as createHttp2Server } from 'node:http2'
import rockstarProxy from 'rockstar-proxy'
import { WebSocketServer } from 'ws'

const [kind, backend] = process.argv.slice(2)
const answer = Buffer.from(`{"items":"${'abcdefghij'.repeat(9).slice(0, 88)}"}`)

const kinds = {
  /** Answers WebSocket messages with themselves. */
  echo () {
    const server = createServer()
    new WebSocketServer({ server, perMessageDeflate: false }).on('connection', socket => socket.on('message', (data, binary) => socket.send(data, { binary })))
    return server
  },
  'http1-backend': () => createServer((_request, response) => { response.writeHead(200, { 'content-type': 'application/json', 'content-length': answer.length }).end(answer) }),
  'http2-backend' () {
    const server = createHttp2Server()
    server.on('stream', stream => {
      stream.respond({ ':status': 200, 'content-type': 'application/json', 'content-length': answer.length })
      stream.end(answer)
    })
    return server
  },
  /** What a connection costs without any proxy. */
  async bare () {
    const app = Fastify({ logger: false, keepAliveTimeout: 600_000 })
    app.get('/*', async () => 'fine')
    await app.ready()
    new WebSocketServer({ server: app.server, perMessageDeflate: false }).on('connection', socket => socket.on('message', (data, binary) => socket.send(data, { binary })))
    return app.server
  },
  rockstar: () => rockstar({}),
  'rockstar-http2-front': () => rockstar({ http2: true }),
  'rockstar-http2-back': () => rockstar({}, { http2: true }),
  'rockstar-http2-both': () => rockstar({ http2: true }, { http2: true }),
  'http-proxy': () => fastifyHttpProxy({}, { websocket: true }),
  'http-proxy-http2-front': () => fastifyHttpProxy({ http2: true }, {}),
  'http-proxy-http2-back': () => fastifyHttpProxy({}, { http2: true }),
  'http-proxy-http2-both': () => fastifyHttpProxy({ http2: true }, { http2: true }),
  'http-proxy-3' () {
    const proxy = createProxyServer({ target: backend, ws: true })
    const server = createServer((request, response) => proxy.web(request, response))
    server.on('upgrade', (request, socket, head) => proxy.ws(request, socket, head))
    return server
  },
  'http-proxy-3-http2-front' () {
    const proxy = createProxyServer({ target: backend })
    return createHttp2Server((request, response) => proxy.web(request, response))
  }
}

async function rockstar (fastify, options = {}) {
  const app = Fastify({ logger: false, keepAliveTimeout: 600_000, ...fastify })
  await app.register(rockstarProxy, { backends: [backend], routes: [{ prefix: '/' }], ...options })
  await app.ready()
  return app.server
}

async function fastifyHttpProxy (fastify, options) {
  const app = Fastify({ logger: false, keepAliveTimeout: 600_000, ...fastify })
  await app.register(httpProxy, { upstream: backend, ...options })
  await app.ready()
  return app.server
}

const server = await kinds[kind]()
server.listen(0, '127.0.0.1', () => process.send({ port: server.address().port }))
process.on('message', () => {
  globalThis.gc?.()
  const { user, system } = process.cpuUsage()
  const { heapUsed, external, rss } = process.memoryUsage()
  process.send({ cpu: user + system, heap: heapUsed + external, rss })
})
process.on('disconnect', () => process.exit())
