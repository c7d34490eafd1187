/**
 * A gateway, and operators' routes on a port of their own.
 *
 *     npx tsx examples/operate.ts
 *
 * PORT and ADMIN_PORT choose other ports than 8080 and 9090; 0 takes a free one.
 */
import Fastify from 'fastify'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import rockstarProxy from 'rockstar-proxy'
import admin from 'rockstar-proxy/admin'

const HOST = '127.0.0.1'
const { PORT = '8080', ADMIN_PORT = '9090' } = process.env

/** A backend that says who it is. */
async function startBackend (name: string): Promise<Server> {
  const server = createServer((_request, response) => response.end(`${name}\n`))
  await new Promise<void>((resolve) => server.listen(0, HOST, resolve))
  return server
}

const servers = await Promise.all(['backend-1', 'backend-2', 'backend-3'].map(startBackend))
const backends = servers.map((server, i) => ({ id: `backend-${i + 1}`, url: `http://${HOST}:${(server.address() as AddressInfo).port}` }))

const app = Fastify({ logger: { level: 'warn' } })
await app.register(rockstarProxy, {
  backends,
  upstreams: { canary: { backends: [{ ...backends[2], id: 'canary-1' }] } },
  routes: [{ prefix: '/api' }]
})

// Nobody comes to these by the gateway: not by a mistake in a route, and not by a firewall that lets its port through.
const operators = Fastify({ logger: { level: 'info', file: process.env.ADMIN_LOG ?? '/dev/null' } })
await operators.register(admin, { proxy: app.proxy })
app.addHook('onClose', () => operators.close())

async function stop (): Promise<void> {
  await app.close()
  for (const server of servers) server.close()
}
process.once('SIGTERM', stop).once('SIGINT', stop)

const address = await app.listen({ host: HOST, port: Number(PORT) })
const adminAddress = await operators.listen({ host: HOST, port: Number(ADMIN_PORT) })

console.log(`The gateway listens on ${address}, operators' routes on ${adminAddress}. Try it, Ctrl+C ends it:

  curl ${address}/api/hello
  curl ${adminAddress}/proxy/status
`)
