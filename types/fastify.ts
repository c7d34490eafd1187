import type { ProxyManager } from './proxy-manager.ts'

declare module 'fastify' {
  interface FastifyInstance {
    /** Backends, load balancing and `forward()`. Set by registering `rockstar-proxy`. */
    proxy: ProxyManager
  }
}
