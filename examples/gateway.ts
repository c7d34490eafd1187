/**
 * The whole thing on one page: three small backends, and a gateway that forwards `/api/*` to them in turn.
 *
 *     npm start
 *
 * PORT and BACKEND_PORTS (`8081,8082,8083`) choose other ports; 0 takes a free one.
 */
import Fastify from 'fastify'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import rockstarProxy from 'rockstar-proxy'

const HOST = '127.0.0.1'
const { PORT = '8080', BACKEND_PORTS = '8081,8082,8083' } = process.env

/** A backend that knows two things: that it is well, and who it is. */
async function startBackend (name: string, port: number): Promise<Server> {
  const server = createServer((request, response) => {
    response.setHeader('content-type', 'application/json')
    if (request.url === '/health') response.end(JSON.stringify({ status: 'ok', name }))
    else response.end(JSON.stringify({ name, method: request.method, path: request.url, forwardedFor: request.headers['x-forwarded-for'] }))
  })
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(port, HOST, resolve))
  return server
}

const backends = await Promise.all(BACKEND_PORTS.split(',').map((port, i) => startBackend(`backend-${i + 1}`, Number(port))))

// The gateway. It logs what goes wrong; the level 'info' shows every request.
const app = Fastify({ logger: { level: 'warn' } })

await app.register(rockstarProxy, {
  backends: backends.map((server, i) => ({
    id: `backend-${i + 1}`,
    url: `http://${HOST}:${(server.address() as AddressInfo).port}`,
    weight: 10
  })),
  balancer: 'round-robin',
  // The prefix is taken off: `/api/users?id=7` asks a backend for `/users?id=7`.
  routes: [{ prefix: '/api' }],
  // Routes for whoever operates it, below /proxy and for this machine only.
  admin: true
})

// Requests under way are answered before the gateway and then its backends close.
async function stop (): Promise<void> {
  await app.close()
  for (const backend of backends) backend.close()
}
process.once('SIGTERM', stop).once('SIGINT', stop)

const address = await app.listen({ host: HOST, port: Number(PORT) })

console.log(`The gateway listens on ${address}. Try it, Ctrl+C ends it:

  curl ${address}/api/hello        # again and again: the backends take turns
  curl ${address}/api/health
  curl -d name=rock ${address}/api/users
  curl ${address}/proxy/status
  curl ${address}/proxy/backends
  curl ${address}/proxy/metrics
  curl -H 'content-type: application/json' -d '{ "url": "/api/hello" }' ${address}/proxy/explain
  curl -N ${address}/proxy/events
`)
