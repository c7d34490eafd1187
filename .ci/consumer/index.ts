import Fastify, { type FastifyInstance } from 'fastify'
import rockstarProxy from 'rockstar-proxy'
import routes from 'rockstar-proxy/routes'
import passthrough from 'rockstar-proxy/passthrough'

type IsAny<T> = 0 extends 1 & T ? true : false

export const isTyped: IsAny<FastifyInstance['proxy']> = false
export const plugins = [routes, passthrough]

const app = Fastify()
await app.register(rockstarProxy, { backends: ['http://127.0.0.1:8081'], routes: [{ prefix: '/api' }] })
app.get('/mine', (request, reply) => request.server.proxy.forward(request, reply))
app.get('/count', async (request) => ({ backends: request.server.proxy.listBackends().length }))

// @ts-expect-error: backends is a list
await app.register(rockstarProxy, { backends: 7 })

// @ts-expect-error: the proxy is a ProxyManager, not anything
app.proxy.noSuchMethod()
