/**
 * Three ways to forward a request from a handler of one's own.
 *
 *     npx tsx examples/forward.ts
 *
 * PORT chooses another port than 8080; 0 takes a free one.
 */
import Fastify from 'fastify'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import rockstarProxy from 'rockstar-proxy'

const HOST = '127.0.0.1'
const { PORT = '8080' } = process.env

// A backend that answers with the path it was asked for.
const backend = createServer((request, response) => {
  response.setHeader('content-type', 'application/json')
  response.end(JSON.stringify({ path: request.url }))
})
await new Promise<void>((resolve) => backend.listen(0, HOST, resolve))

const app = Fastify({ logger: { level: 'error' } })

await app.register(rockstarProxy, {
  backends: [`http://${HOST}:${(backend.address() as AddressInfo).port}`],
  // Nothing listens there: what is forwarded to this upstream fails.
  upstreams: { broken: { backends: [`http://${HOST}:1`] } }
})

// 1. forward(request, reply) streams the backend's answer to the client, headers, status and all.
app.get('/stream', (request, reply) => app.proxy.forward(request, reply))

// It rejects as long as the client can still be answered, so that a handler can fall back.
app.get('/fallback', async (request, reply) => {
  try {
    await app.proxy.forward(request, reply, { upstream: 'broken', timeout: { connect: 1_000 } })
    return reply
  } catch (error) {
    request.log.warn(error)
    return { from: 'the fallback', because: (error as { code?: string }).code }
  }
})

// 2. forward(request) hands the answer to the handler instead.
app.get('/inspect', async (request) => {
  const answer = await app.proxy.forward(request, undefined, { path: '/profile' })
  return { status: answer.statusCode, by: answer.backend.id, body: await answer.json() }
})

// 3. forwardHttp() sends any WHATWG Request and resolves to a Response; what host it names does not matter.
app.get('/combine', async () => {
  const answers = await Promise.all(['/users/1', '/orders?user=1'].map((path) => app.proxy.forwardHttp(new Request(`http://backend${path}`))))
  return await Promise.all(answers.map((answer) => answer.json()))
})

async function stop (): Promise<void> {
  await app.close()
  backend.close()
}
process.once('SIGTERM', stop).once('SIGINT', stop)

const address = await app.listen({ host: HOST, port: Number(PORT) })

console.log(`Listening on ${address}. Try it, Ctrl+C ends it:

  curl ${address}/stream
  curl ${address}/fallback
  curl ${address}/inspect
  curl ${address}/combine
`)
