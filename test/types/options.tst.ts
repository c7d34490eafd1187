import Fastify from 'fastify'
import rockstarProxy from 'rockstar-proxy'
import type { Backend, HashKey, RockstarProxyOptions, RouteOptions, SelectContext, SelectFunction, SplitPart, UpstreamOptions, WeightSample } from 'rockstar-proxy'
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

  test('a balancer is a name, an object with its options, an instance or a function', () => {
    for (const balancer of [
      'round-robin', 'weighted-round-robin', 'random', 'least-requests', 'p2c', 'peak-ewma', 'ip-hash', 'ring-hash', 'maglev', 'rendezvous'
    ] as const) {
      expect(take.root).type.toBeCallableWith({ balancer })
      expect(take.root).type.toBeCallableWith({ balancer: { type: balancer } })
    }
    expect(take.root).type.toBeCallableWith({ balancer: { type: 'least-requests', fullScanLimit: 8, choices: 3, bias: 0.5 } })
    expect(take.root).type.toBeCallableWith({ balancer: { type: 'peak-ewma', decay: 5_000, penalty: 100 } })
    expect(take.root).type.toBeCallableWith({ balancer: { type: 'ip-hash', boundedLoad: 1.25 } })
    expect(take.root).type.toBeCallableWith({ balancer: { type: 'ring-hash', key: { cookie: 'sid' }, missing: 'ip', boundedLoad: false, points: 100, probes: 1, minRingSize: 1, maxRingSize: 10_000 } })
    expect(take.root).type.toBeCallableWith({ balancer: { type: 'maglev', key: { header: 'x-user' }, tableSize: 101 } })
    expect(take.root).type.toBeCallableWith({ balancer: { type: 'rendezvous', key: (context: SelectContext) => context.header('x-user') } })
    expect(take.root).type.toBeCallableWith({ balancer: { type: 'mine', select: (available: readonly Backend[]) => available[0] } })
    expect(take.root).type.toBeCallableWith({ balancer: (available: readonly Backend[]) => available[0] })
    expect(take.root).type.toBeCallableWith({ balancer: async (available: readonly Backend[]) => available.at(-1) })
    expect(take.root).type.toBeCallableWith({ balancer: () => undefined })
    expect(take.root).type.not.toBeCallableWith({ balancer: { type: 'maglev', tableSizex: 101 } })
    expect(take.root).type.not.toBeCallableWith({ balancer: { type: 'maglev', points: 101 } })
    expect(take.root).type.not.toBeCallableWith({ balancer: { type: 'ip-hash', key: 'ip' } })
    expect(take.root).type.not.toBeCallableWith({ balancer: { type: 'random', choices: 2 } })
    expect(take.root).type.not.toBeCallableWith({ balancer: { type: 'maglev', tableSize: '101' } })
    expect(take.root).type.not.toBeCallableWith({ balancer: { type: 'ring-hash', key: 'port' } })
    expect(take.root).type.not.toBeCallableWith({ balancer: { type: 'ring-hash', key: { headerx: 'a' } } })
    expect(take.root).type.not.toBeCallableWith({ balancer: { type: 'ring-hash', missing: 'none' } })
    expect(take.root).type.not.toBeCallableWith({ balancer: { tableSize: 101 } })
    expect(take.root).type.not.toBeCallableWith({ balancer: () => 'a' })
    expect(take.root).type.not.toBeCallableWith({ balancer: true })
  })

  test('a function that balances has its parameters typed', () => {
    app.register(rockstarProxy, {
      balancer: (available, context) => {
        expect(available).type.toBe<readonly Backend[]>()
        expect(context).type.toBe<SelectContext>()
        expect(context.header('x-user')).type.toBe<string | undefined>()
        return available[0]
      }
    })
    expect((available: readonly Backend[], { path }: SelectContext) => available.find(({ id }) => id === path)).type.toBeAssignableTo<SelectFunction>()
    expect(() => 5).type.not.toBeAssignableTo<SelectFunction>()
  })

  test('what surrounds the balancer has its types', () => {
    expect(take.root).type.toBeCallableWith({
      weights: { from: 'latency', interval: 500, min: 0.5, max: 2, blackout: 0, expiry: 60_000 },
      slowStart: { window: 5_000, aggression: 2 },
      affinity: { secret: ['new', 'old'], cookie: 'sid', maxAge: 5, path: '/', domain: 'a.example', secure: 'auto', httpOnly: true, sameSite: 'lax', onUnavailable: 'fail' },
      panicThreshold: 0.3,
      zone: 'eu',
      random: () => 0.5
    })
    expect(take.root).type.toBeCallableWith({ weights: { from: 'load-report' }, slowStart: true, affinity: { secret: 'a' } })
    expect(take.root).type.toBeCallableWith({ weights: { from: (backend: Backend, sample: WeightSample) => sample.requests / backend.weight } })
    expect(take.root).type.toBeCallableWith({ weights: false, slowStart: false, affinity: false })
    expect(take.root).type.not.toBeCallableWith({ weights: true })
    expect(take.root).type.not.toBeCallableWith({ weights: { interval: 5 } })
    expect(take.root).type.not.toBeCallableWith({ weights: { from: 'cpu' } })
    expect(take.root).type.not.toBeCallableWith({ weights: { from: () => 'a lot' } })
    expect(take.root).type.not.toBeCallableWith({ weights: { from: 'latency', mim: 1 } })
    expect(take.root).type.not.toBeCallableWith({ slowStart: 5_000 })
    expect(take.root).type.not.toBeCallableWith({ slowStart: { windw: 5_000 } })
    expect(take.root).type.not.toBeCallableWith({ affinity: true })
    expect(take.root).type.not.toBeCallableWith({ affinity: {} })
    expect(take.root).type.not.toBeCallableWith({ affinity: { secret: 'a', sameSite: 'Lax' } })
    expect(take.root).type.not.toBeCallableWith({ affinity: { secret: 'a', onUnavailable: 'none' } })
    expect(take.root).type.not.toBeCallableWith({ panicThreshold: '50%' })
    expect(take.root).type.not.toBeCallableWith({ zone: 5 })
    expect(take.root).type.not.toBeCallableWith({ random: 5 })
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
    expect(take.upstream).type.toBeCallableWith({ weights: { from: 'latency' }, slowStart: true, affinity: { secret: 'a' }, panicThreshold: 0, zone: 'eu' })
    expect(take.upstream).type.not.toBeCallableWith({ random: () => 0 })
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

  test('may ask for backends by their metadata', () => {
    expect(take.route).type.toBeCallableWith({ match: { version: 'v2', tier: [1, 2], canary: true }, fallback: 'any' })
    expect(take.route).type.toBeCallableWith({
      split: [{ match: { version: 'v1' }, weight: 95 }, { match: { version: 'v2' }, weight: 5, when: { cookie: 'canary', value: '1' } }, { match: {}, when: { header: 'x-a' } }],
      splitKey: { cookie: 'sid' }
    })
    for (const splitKey of ['ip', 'path', { header: 'a' }, { query: 'a' }, ({ path }: SelectContext) => path] satisfies HashKey[]) {
      expect(take.route).type.toBeCallableWith({ split: [] as SplitPart[], splitKey })
    }
    expect(take.route).type.not.toBeCallableWith({ match: { version: undefined } })
    expect(take.route).type.not.toBeCallableWith({ match: 'v2' })
    expect(take.route).type.not.toBeCallableWith({ split: { match: {} } })
    expect(take.route).type.not.toBeCallableWith({ split: [{ weight: 5 }] })
    expect(take.route).type.not.toBeCallableWith({ split: [{ match: {}, wieght: 5 }] })
    expect(take.route).type.not.toBeCallableWith({ split: [{ match: {}, when: { value: 'a' } }] })
    expect(take.route).type.not.toBeCallableWith({ split: [{ match: {}, when: { headerx: 'a' } }] })
    expect(take.route).type.not.toBeCallableWith({ splitKey: 'cookie' })
    expect(take.route).type.not.toBeCallableWith({ fallback: true })
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
