import type { FastifyInstance, FastifyPluginAsync } from 'fastify'
import fp from 'fastify-plugin'
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import { hashReady, IpHash, LeastRequests, Maglev, P2c, PeakEwma, Random, Rendezvous, RingHash, RoundRobin } from '../lib/balancer/index.ts'
import { CircuitBreaker as RuledCircuitBreaker } from '../lib/breaker/index.ts'
import { errors } from '../lib/errors.ts'
import { ALLOW } from '../lib/forward/index.ts'
import { ConnectionPool as UndiciConnectionPool } from '../lib/pool/index.ts'
import { ProxyManager } from '../lib/proxy-manager.ts'
import { routeUpgrades } from '../lib/tunnel/index.ts'
import type * as contracts from '../types/index.ts'
import { mountAdmin } from './admin/mount.ts'
import { preferAuthority } from './authority.ts'
import { recordRoutes } from './known-routes.ts'
import routes from './routes.ts'

/**
 * Decorates the app with `proxy`, a `ProxyManager`, and registers the routes that are declared.
 * Throws `FST_ROCKSTAR_INVALID_OPTIONS`, naming path, value and expectation.
 */
const rockstarProxyPlugin: FastifyPluginAsync<contracts.RockstarProxyOptions> = async (app, options) => {
  await hashReady
  const proxy = new ProxyManager(options)
  proxy.logTo(app.log)
  app.decorate('proxy', proxy)
  recordRoutes(app, proxy)
  app.addHook('onReady', async () => {
    prepareServer(app)
    proxy.whenSwitching(() => routeUpgrades(app, protocol => proxy.switches(protocol)))
    await proxy.start()
  })
  app.addHook('preClose', () => proxy.drain())
  app.addHook('onClose', () => proxy.close())
  for (const route of proxy.options.routes ?? []) {
    await app.register(routes, { ...route, prefix: route.prefix ?? '/' })
  }
  // After the others: it takes what is left below its prefix, by all methods that there are.
  await mountAdmin(app, proxy.options.admin)
}

/** What Node's server has to be told, where the application has not told it anything itself. */
function prepareServer (app: FastifyInstance): void {
  const server = app.server as Server
  // Node drops fields beyond the thousandth in silence; what bounds a header section is its size.
  if (server.maxHeadersCount === null) server.maxHeadersCount = 0
  if (server.listenerCount('connect') === 0) server.on('connect', refuseConnect)
  server.prependListener('request', preferAuthority)
}

/** CONNECT is for proxies that a client has chosen, not for this kind. RFC 9110, 9.3.6. */
function refuseConnect (_request: IncomingMessage, answer: Duplex | ServerResponse): void {
  if ('writeHead' in answer) {
    answer.writeHead(405, { allow: ALLOW }).end()
    return
  }
  answer.on('error', () => {})
  answer.end(`HTTP/1.1 405 Method Not Allowed\r\nAllow: ${ALLOW}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`)
}

/** Makes a pool from its options, for `setConnectionPool()`. The name is that of the interface it keeps to as well. */
export const ConnectionPool: new (options?: contracts.PoolOptions) => contracts.ConnectionPool = UndiciConnectionPool
// eslint-disable-next-line @typescript-eslint/no-redeclare -- a value and its type, as a class would be
export type ConnectionPool = contracts.ConnectionPool

/** Makes a circuit breaker from its options, for `setCircuitBreaker()`: `new CircuitBreaker({ threshold: 5, timeout: 30_000 })`. */
export const CircuitBreaker: new (options?: contracts.BreakerOptions) => Required<contracts.CircuitBreaker> = RuledCircuitBreaker
// eslint-disable-next-line @typescript-eslint/no-redeclare -- a value and its type, as a class would be
export type CircuitBreaker = contracts.CircuitBreaker

const plugin = fp(rockstarProxyPlugin, { name: 'rockstar-proxy', fastify: '5.x' })
const balancers = { IpHash, LeastRequests, Maglev, P2c, PeakEwma, Random, Rendezvous, RingHash, RoundRobin }
// `require()` gives the plugin alone; what else there is hangs on it.
const rockstarProxy = Object.assign(plugin, { default: plugin, rockstarProxy: plugin, CircuitBreaker, ConnectionPool, errors, ...balancers })
export default rockstarProxy
export { rockstarProxy, rockstarProxy as 'module.exports', errors }
export { IpHash, LeastRequests, Maglev, P2c, PeakEwma, Random, Rendezvous, RingHash, RoundRobin }
export type * from '../types/index.ts'
