import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import { createServer, type RequestListener, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'
import rockstarProxy from '../../plugins/index.ts'
import type { RockstarProxyOptions } from '../../types/index.ts'
import { connectTo, type Wire } from './wire.ts'

/** One line of the app's log. */
export interface LogLine {
  level: number
  msg: string
  [key: string]: unknown
}

/** An app with the plugin, listening on a port of this machine. */
export interface Gateway {
  app: FastifyInstance
  port: number
  url: string
  log: LogLine[]
  connect (): Promise<Wire>
}

/** How `startGateway` makes its app. */
export interface GatewaySetup {
  fastify?: FastifyServerOptions & Record<string, unknown>
  /** Called after the plugin is registered, before the app listens. */
  setup?: (app: FastifyInstance) => unknown
  /** Called before the plugin is registered. */
  before?: (app: FastifyInstance) => unknown
}

/** Starts an app with the plugin, closed with the test. Its log is kept, from level debug. */
export async function startGateway (t: Test, options: RockstarProxyOptions, { fastify = {}, setup, before }: GatewaySetup = {}): Promise<Gateway> {
  const log: LogLine[] = []
  const stream = { write: (line: string) => { log.push(JSON.parse(line)) } }
  const app = Fastify({ logger: { level: 'debug', stream }, forceCloseConnections: true, ...fastify } as FastifyServerOptions) as unknown as FastifyInstance
  t.teardown(() => app.close())
  await before?.(app)
  // What takes backends out by itself, or tries again, is for the tests that are about it.
  const upstreams = Object.fromEntries(Object.entries(options.upstreams ?? {}).map(([name, upstream]) => [name, { retry: false, ...upstream }]))
  await app.register(rockstarProxy, { shutdownTimeout: 0, breaker: false, health: false, outlier: false, retry: false, ...options, upstreams })
  await setup?.(app)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  return { app, port, url: `http://127.0.0.1:${port}`, log, connect: () => connectTo(t, port) }
}

/** A backend on Node's own server, closed with the test. */
export async function httpBackend (t: Test, listener: RequestListener): Promise<{ url: string, port: number, server: Server }> {
  const server = createServer(listener)
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => new Promise<void>(resolve => {
    server.close(() => resolve())
    server.closeAllConnections()
  }))
  const { port } = server.address() as AddressInfo
  return { url: `http://127.0.0.1:${port}`, port, server }
}
