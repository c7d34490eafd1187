import Fastify from 'fastify'
import rockstarProxy, { type RockstarProxyOptions, type RouteOptions, type UpstreamOptions } from 'rockstar-proxy'
import passthrough from 'rockstar-proxy/passthrough'
import routes from 'rockstar-proxy/routes'
import { describe, expect, test } from 'tstyche'

const app = Fastify()

/** Only callable with the plugin's options: fresh objects are checked for keys they should not have. */
declare const take: {
  root (options: RockstarProxyOptions): void
  upstream (options: UpstreamOptions): void
  route (options: RouteOptions): void
}

describe('the options of the plugin', () => {
  test('all are optional', () => {
    expect(take.root).type.toBeCallableWith({})
    app.register(rockstarProxy)
    app.register(rockstarProxy, {})
  })

  test('each has its type', () => {
    expect(take.root).type.toBeCallableWith({
      backends: ['http://a', { id: 'b', url: 'http://b', weight: 2, isActive: true, metadata: { a: 1 } }, { url: new URL('http://c') }],
      balancer: 'round-robin',
      timeout: { connect: 1, headers: 2, idle: 3, request: 4 },
      pool: { connections: 1, connectTimeout: 2, idleTimeout: 3, keepAliveMargin: 4, maxHeaderSize: 5_000 },
      preserveHost: true,
      forwarded: { xForwarded: true, standard: false },
      via: 'edge',
      upstreams: { other: { backends: ['http://d'], balancer: { type: 'round-robin' }, via: false } },
      routes: [{ prefix: '/api' }],
      shutdownTimeout: 5
    })
    expect(take.root).type.not.toBeCallableWith({ backends: 'http://a' })
    expect(take.root).type.not.toBeCallableWith({ backends: [5] })
    expect(take.root).type.not.toBeCallableWith({ balancer: 'fastest' })
    expect(take.root).type.not.toBeCallableWith({ timeout: 5 })
    expect(take.root).type.not.toBeCallableWith({ forwarded: 'yes' })
    expect(take.root).type.not.toBeCallableWith({ via: true })
    expect(take.root).type.not.toBeCallableWith({ pool: 5 })
    expect(take.root).type.not.toBeCallableWith({ shutdownTimeout: '5' })
  })

  test('an unknown key is refused, wherever it stands', () => {
    expect(take.root).type.not.toBeCallableWith({ bakends: [] })
    expect(take.root).type.not.toBeCallableWith({ backends: [{ url: 'http://a', wieght: 1 }] })
    expect(take.root).type.not.toBeCallableWith({ timeout: { conect: 1 } })
    expect(take.root).type.not.toBeCallableWith({ pool: { conections: 1 } })
    expect(take.root).type.not.toBeCallableWith({ forwarded: { standart: true } })
    expect(take.root).type.not.toBeCallableWith({ balancer: { type: 'round-robin', weight: 1 } })
    expect(take.root).type.not.toBeCallableWith({ upstreams: { a: { bakends: [] } } })
    expect(take.root).type.not.toBeCallableWith({ routes: [{ prefx: '/' }] })
  })

  test('an unknown key is refused by register as well', () => {
    app.register(rockstarProxy, { backends: ['http://a'] })
    // @ts-expect-error No overload matches this call
    app.register(rockstarProxy, { bakends: ['http://a'] })
    // @ts-expect-error No overload matches this call
    app.register(rockstarProxy, { backends: [5] })
    // @ts-expect-error No overload matches this call
    app.register(routes, { prefix: '/a', rewritePrefx: '/b' })
  })

  test('those of the root are not those of an upstream', () => {
    expect(take.upstream).type.toBeCallableWith({ backends: [], balancer: 'round-robin', timeout: {}, pool: {}, preserveHost: false, forwarded: false, via: false })
    expect(take.upstream).type.not.toBeCallableWith({ upstreams: {} })
    expect(take.upstream).type.not.toBeCallableWith({ routes: [] })
    expect(take.upstream).type.not.toBeCallableWith({ shutdownTimeout: 5 })
  })
})

describe('a route', () => {
  test('takes what @fastify/http-proxy has, and what is about one request', () => {
    expect(take.route).type.toBeCallableWith({
      prefix: '/users/:id',
      rewritePrefix: '/people/:id',
      methods: ['GET'],
      constraints: { host: 'a.example' },
      upstream: 'a',
      timeout: { headers: 5 },
      preserveHost: true,
      internalRewriteLocationHeader: false,
      config: {},
      logLevel: 'silent'
    })
    expect(take.route).type.not.toBeCallableWith({ methods: 'GET' })
    expect(take.route).type.not.toBeCallableWith({ logLevel: 'loud' })
    expect(take.route).type.not.toBeCallableWith({ path: '/a' })
    expect(take.route).type.not.toBeCallableWith({ signal: new AbortController().signal })
  })

  test('has its hooks typed as Fastify types them', () => {
    app.register(routes, {
      prefix: '/api',
      onRequest: async (request, reply) => {
        expect(request.url).type.toBe<string>()
        expect(reply.sent).type.toBe<boolean>()
      },
      preHandler: [(request, _reply, done) => {
        expect(request.method).type.toBe<string>()
        done()
      }],
      onSend: async (_request, _reply, payload) => payload
    })
    expect(take.route).type.not.toBeCallableWith({ onRequest: 5 })
  })
})

test('the sub-plugins are plugins', () => {
  app.register(routes, { prefix: '/api', upstream: 'a' })
  app.register(routes)
  app.register(passthrough)
  app.register(async scope => {
    await scope.register(passthrough)
    scope.post('/', (request, reply) => scope.proxy.forward(request, reply))
  })
})
