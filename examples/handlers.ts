/**
 * What `app.proxy` can do, one handler for each: backends, forwarding, load balancing, circuits, health and metrics, all at run time.
 * To operate a gateway, take the option `admin` instead: its routes are checked and guarded (docs/admin.md).
 *
 *     npx tsx examples/handlers.ts
 *
 * PORT chooses another port than 8080; 0 takes a free one.
 */
import Fastify from 'fastify'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import rockstarProxy, { CircuitBreaker, errors, LeastRequests, RoundRobin } from 'rockstar-proxy'

const HOST = '127.0.0.1'
const { PORT = '8080' } = process.env

/** A backend that says who it is, and what it was asked for. */
async function startBackend (name: string): Promise<Server> {
  const server = createServer((request, response) => {
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify(request.url === '/health' ? { status: 'ok' } : { name, path: request.url }))
  })
  await new Promise<void>((resolve) => server.listen(0, HOST, resolve))
  return server
}

const servers = await Promise.all(['backend-1', 'backend-2', 'backend-3'].map(startBackend))
const urls = servers.map((server) => `http://${HOST}:${(server.address() as AddressInfo).port}`)

const app = Fastify({ logger: { level: 'error' } })
await app.register(rockstarProxy)
const { proxy } = app

// The third joins by POST /backends.
for (const [i, url] of urls.slice(0, 2).entries()) {
  proxy.addBackend({ id: `backend-${i + 1}`, url, weight: 10, isActive: true, healthCheck: { path: '/health', interval: 10_000, timeout: 5_000 } })
}
proxy.setLoadBalancer(new RoundRobin())
proxy.setCircuitBreaker(new CircuitBreaker({ threshold: 5, timeout: 30_000 }))

// Options come from clients here, so that what is wrong with them is the client's doing. Other errors bring the status that Fastify answers with.
app.setErrorHandler((error, _request, reply) => {
  if (error instanceof errors.INVALID_OPTIONS) return reply.code(400).send({ error: error.message })
  throw error
})

// Backends

interface NewBackend { id: string, url: string, weight?: number }

// Fastify refuses a body that is none, or lacks what must be there, with 400.
const newBackend = { body: { type: 'object', required: ['id', 'url'], properties: { id: { type: 'string' }, url: { type: 'string' }, weight: { type: 'integer' } } } }

// A URL that is none is 400, by the handler above; an id that is taken is FST_ROCKSTAR_DUPLICATE_BACKEND, whose status is 409.
app.post<{ Body: NewBackend }>('/backends', { schema: newBackend }, async (request, reply) => {
  const { id, url, weight = 10 } = request.body
  const backend = proxy.addBackend({ id, url, weight, healthCheck: { path: '/health', interval: 10_000 } })
  return reply.code(201).send(backend)
})

// Waits for what is in flight, so that whoever asks knows when the backend can be switched off.
app.delete<{ Params: { id: string } }>('/backends/:id', async (request) => {
  await proxy.removeBackend(request.params.id, { drain: { timeout: 5_000 } })
  return { message: 'Backend removed' }
})

// Throws FST_ROCKSTAR_UNKNOWN_BACKEND, which Fastify answers with its status: 404.
app.get<{ Params: { id: string } }>('/backends/:id', async (request) => proxy.getBackend(request.params.id))

app.get('/backends', async () => {
  const backends = proxy.listBackends()
  return { count: backends.length, backends }
})

// Forwarding

// The answer streams through, whatever it is; where there is none, the client gets one of ours.
app.get('/api/*', (request, reply) => proxy.forward(request, reply, {
  onError: (_request, reply, error) => {
    reply.code(502).send({ error: 'Bad gateway', code: (error as { code?: string }).code })
  }
}))

// The same, with the answer in the handler's hands.
app.get('/inspect', async (request, reply) => {
  try {
    const response = await proxy.forward(request)
    return { status: response.statusCode, by: response.backend.id, body: await response.json() }
  } catch {
    return reply.code(502).send({ error: 'Bad gateway' })
  }
})

// A request of one's own. The host is not asked: a backend is.
app.get('/users', async (_request, reply) => {
  const response = await proxy.forwardHttp(new Request('http://backend/api/users'))
  return reply.code(response.status).type('text/plain').send(await response.text())
})

// Load balancer and circuit breaker

// Fastify refuses what is not listed with 400.
const balancer = { params: { type: 'object', properties: { type: { enum: ['round-robin', 'least-requests', 'p2c', 'peak-ewma'] } } } }

app.put<{ Params: { type: 'round-robin' | 'least-requests' | 'p2c' | 'peak-ewma' } }>('/balancer/:type', { schema: balancer }, async (request) => {
  // A name or an instance. It acts on live traffic: no request is lost, and what is known of the backends is kept.
  proxy.setLoadBalancer(request.params.type === 'least-requests' ? new LeastRequests() : request.params.type)
  return { message: 'Load balancer updated', type: proxy.getLoadBalancer().type }
})

app.get('/balancer', async () => ({ type: proxy.getLoadBalancer().type }))

app.put<{ Body: { threshold: number, timeout: number } }>('/breaker', { schema: { body: { type: 'object' } } }, async (request) => {
  proxy.setCircuitBreaker(new CircuitBreaker(request.body))
  return { message: 'Circuit breaker updated' }
})

app.get<{ Params: { id: string } }>('/breaker/:id', async (request) => ({ state: proxy.getCircuitBreaker().getState(request.params.id) }))

// Health

app.post('/health/check', async (_request, reply) => {
  try {
    await proxy.healthCheck()
    return { message: 'All backends healthy' }
  } catch (error) {
    return reply.code(503).send({ error: (error as Error).message })
  }
})

app.get('/health', async () => proxy.getHealthStatus())

// What is going on

app.get('/proxy/status', async () => ({ backends: proxy.listBackends(), health: proxy.getHealthStatus() }))

app.get('/proxy/metrics', async () => {
  const { totalRequests, successfulRequests, failedRequests, averageResponseTime } = proxy.getMetrics()
  return { totalRequests, successfulRequests, failedRequests, averageResponseTime }
})

app.delete('/proxy/metrics', async () => {
  proxy.resetMetrics()
  return { message: 'Metrics reset' }
})

async function stop (): Promise<void> {
  await app.close()
  for (const server of servers) server.close()
}
process.once('SIGTERM', stop).once('SIGINT', stop)

const address = await app.listen({ host: HOST, port: Number(PORT) })

console.log(`Listening on ${address}. Try it, Ctrl+C ends it:

  curl ${address}/api/hello
  curl ${address}/users
  curl ${address}/backends
  curl -H 'content-type: application/json' -d '{ "id": "backend-3", "url": "${urls[2]}" }' ${address}/backends
  curl -X DELETE ${address}/backends/backend-1
  curl -X PUT ${address}/balancer/least-requests
  curl -X PUT -H 'content-type: application/json' -d '{ "threshold": 3, "timeout": 10000 }' ${address}/breaker
  curl ${address}/breaker/backend-2
  curl -X POST ${address}/health/check
  curl ${address}/proxy/status
  curl ${address}/proxy/metrics
  curl -X DELETE ${address}/proxy/metrics
`)
