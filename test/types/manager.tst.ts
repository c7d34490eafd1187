import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import rockstarProxy, {
  ConnectionPool, errors, IpHash, LeastRequests, Maglev, P2c, PeakEwma, Random, Rendezvous, RingHash, RoundRobin
} from 'rockstar-proxy'
import type {
  AffinityOptions, Backend, BackendChanges, BackendDistribution, BackendInput, BackendMetrics, BackendOptions, BackendSnapshot, BalancerEnv, BalancerInput,
  BalancerOptions, BalancerType, Because, Clock, ExplainedBackend, ExplainedGroup, Explanation, ForwardHttpOptions, ForwardOptions, HashKey, HashOptions,
  HeaderRecord, LoadBalancer, LoadReport, Match, Outcome, PoolInput, PoolOptions, PoolStats, ProxyManager, ProxyMetrics, ProxyResponse, RemoveBackendOptions,
  RockstarProxyOptions, RouteOptions, SelectContext, SelectFunction, SlowStartOptions, SplitPart, SubsetFallback, TimeoutOptions, Unavailable, Upstream,
  UpstreamMetrics, UpstreamOptions, WeightFunction, WeightOptions, WeightSample
} from 'rockstar-proxy'
import type { Readable } from 'node:stream'
import { describe, expect, test } from 'tstyche'

const app = Fastify()
const proxy = app.proxy

describe('after registering', () => {
  test('app.proxy and request.server.proxy are the manager', () => {
    expect<FastifyInstance['proxy']>().type.toBe<ProxyManager>()
    expect<FastifyRequest['server']['proxy']>().type.toBe<ProxyManager>()
    expect(app.proxy).type.toBe<ProxyManager>()
    app.get('/', (request, reply) => {
      expect(request.server.proxy).type.toBe<ProxyManager>()
      return request.server.proxy.forward(request, reply)
    })
  })

  test('the manager is an upstream', () => {
    expect<ProxyManager>().type.toBeAssignableTo<Upstream>()
    expect(proxy.upstream('a')).type.toBe<Upstream>()
    expect(proxy.addUpstream('a', { backends: ['http://a'] })).type.toBe<Upstream>()
    expect(proxy.addUpstream('a')).type.toBe<Upstream>()
    expect(proxy.listUpstreams()).type.toBe<Upstream[]>()
    expect(proxy.removeUpstream('a', { drain: false })).type.toBe<Promise<void>>()
    expect<Upstream>().type.not.toHaveProperty('addUpstream')
  })
})

describe('backends', () => {
  test('are added as a string or as options, whose url may be a URL', () => {
    expect(proxy.addBackend).type.toBeCallableWith('http://a')
    expect(proxy.addBackend).type.toBeCallableWith({ url: 'http://a' })
    expect(proxy.addBackend).type.toBeCallableWith({ id: 'a', url: new URL('http://a'), weight: 1, isActive: true, metadata: { any: ['thing'] } })
    expect(proxy.addBackend).type.toBeCallableWith({ url: 'http://a', priority: 2, backup: true, zone: 'eu' })
    expect(proxy.addBackend).type.not.toBeCallableWith({ url: 'http://a', priority: 'first' })
    expect(proxy.addBackend).type.not.toBeCallableWith({ url: 'http://a', backup: 1 })
    expect(proxy.addBackend).type.not.toBeCallableWith({ url: 'http://a', zone: 5 })
    expect(proxy.addBackend).type.not.toBeCallableWith()
    expect(proxy.addBackend).type.not.toBeCallableWith(5)
    expect(proxy.addBackend).type.not.toBeCallableWith({})
    expect(proxy.addBackend).type.not.toBeCallableWith({ url: 'http://a', wieght: 1 })
    expect(proxy.addBackend).type.not.toBeCallableWith({ url: 'http://a', weight: '1' })
    expect(proxy.addBackend('http://a')).type.toBe<Backend>()
  })

  test('are changed in what may change', () => {
    expect(proxy.updateBackend).type.toBeCallableWith('a', { weight: 1 })
    expect(proxy.updateBackend).type.toBeCallableWith('a', {})
    expect(proxy.updateBackend).type.toBeCallableWith('a', { priority: 1, zone: 'eu' })
    expect(proxy.updateBackend).type.toBeCallableWith('a', { backup: false })
    expect(proxy.updateBackend).type.toBeCallableWith('a', { zone: null })
    expect(proxy.updateBackend).type.not.toBeCallableWith('a', { zone: 5 })
    expect(proxy.updateBackend).type.not.toBeCallableWith('a', { url: 'http://b' })
    expect(proxy.updateBackend).type.not.toBeCallableWith('a', { id: 'b' })
    expect(proxy.updateBackend('a', {})).type.toBe<Backend>()
  })

  test('are removed with or without a drain', () => {
    expect(proxy.removeBackend).type.toBeCallableWith('a')
    expect(proxy.removeBackend).type.toBeCallableWith('a', { drain: { timeout: 5 } })
    expect(proxy.removeBackend).type.toBeCallableWith('a', { drain: false })
    expect(proxy.removeBackend).type.not.toBeCallableWith('a', { drain: true })
    expect(proxy.removeBackend).type.not.toBeCallableWith('a', { drian: false })
    expect(proxy.removeBackend('a')).type.toBe<Promise<void>>()
  })

  test('are read only', () => {
    const backend = proxy.getBackend('a')
    expect(backend).type.toBe<Backend>()
    expect(proxy.listBackends()).type.toBe<Backend[]>()
    expect(backend.url).type.toBe<URL>()
    expect(backend.weight).type.toBe<number>()
    expect(backend.effectiveWeight).type.toBe<number>()
    expect(backend.priority).type.toBe<number>()
    expect(backend.zone).type.toBe<string | undefined>()
    expect(backend.available).type.toBe<boolean>()
    expect(backend.toJSON().effectiveWeight).type.toBe<number>()
    expect(backend.toJSON().zone).type.toBe<string | undefined>()
    // @ts-expect-error Cannot assign to 'priority' because it is a read-only property
    backend.priority = 1
    // @ts-expect-error Cannot assign to 'effectiveWeight' because it is a read-only property
    backend.effectiveWeight = 1
    expect(backend.metadata).type.toBe<Readonly<Record<string, unknown>>>()
    expect(backend.createdAt).type.toBe<Date>()
    expect(backend.toJSON()).type.toBe<BackendSnapshot>()
    // @ts-expect-error Cannot assign to 'weight' because it is a read-only property
    backend.weight = 5
    // @ts-expect-error Index signature in type 'Readonly<Record<string, unknown>>' only permits reading
    backend.metadata.zone = 'a'
  })
})

declare const request: FastifyRequest
declare const reply: FastifyReply

describe('forward()', () => {
  test('with a reply it resolves to nothing, without one to the answer', () => {
    expect(proxy.forward(request, reply)).type.toBe<Promise<void>>()
    expect(proxy.forward(request, reply, {})).type.toBe<Promise<void>>()
    expect(proxy.forward(request)).type.toBe<Promise<ProxyResponse>>()
    expect(proxy.forward(request, undefined, { path: '/a' })).type.toBe<Promise<ProxyResponse>>()
    expect(proxy.upstream('a').forward(request)).type.toBe<Promise<ProxyResponse>>()
    expect(proxy.forward).type.not.toBeCallableWith()
    expect(proxy.forward).type.not.toBeCallableWith(request, {})
  })

  test('its options are typed, and no others are taken', () => {
    expect(proxy.forward).type.toBeCallableWith(request, reply, {
      upstream: 'a',
      path: '/a',
      timeout: { connect: 1, headers: 2, idle: 3, request: 4 },
      preserveHost: true,
      signal: new AbortController().signal,
      rewriteRequestHeaders: (request: FastifyRequest, headers: HeaderRecord) => ({ ...headers, 'x-url': request.url, 'x-gone': undefined }),
      rewriteHeaders: (headers: HeaderRecord, _request: FastifyRequest) => headers,
      onResponse: (_request: FastifyRequest, reply: FastifyReply, response: ProxyResponse) => { reply.send(response.body) },
      onError: (_request: FastifyRequest, reply: FastifyReply, error: Error) => { reply.send(error.message) }
    })
    expect(proxy.forward).type.toBeCallableWith(request, reply, { upstream: (request: FastifyRequest) => request.url })
    expect(proxy.forward).type.toBeCallableWith(request, reply, { upstream: async (request: FastifyRequest) => request.url })
    expect(proxy.forward).type.not.toBeCallableWith(request, reply, { upstraem: 'a' })
    expect(proxy.forward).type.not.toBeCallableWith(request, reply, { upstream: () => 5 })
    expect(proxy.forward).type.not.toBeCallableWith(request, reply, { timeout: 5 })
    expect(proxy.forward).type.not.toBeCallableWith(request, reply, { timeout: { conect: 5 } })
    expect(proxy.forward).type.not.toBeCallableWith(request, reply, { rewriteHeaders: () => 5 })
    expect(proxy.forward).type.not.toBeCallableWith(request, reply, { signal: {} })
  })

  test('it may ask for backends by their metadata', () => {
    expect(proxy.forward).type.toBeCallableWith(request, reply, { match: { version: 'v2', tier: [1, 2], canary: true }, fallback: 'any' })
    expect(proxy.forward).type.toBeCallableWith(request, reply, { split: [{ match: {}, weight: 95 }, { match: { version: 'v2' }, when: { header: 'x-canary', value: '1' } }], splitKey: { cookie: 'sid' } })
    expect(proxy.forward).type.toBeCallableWith(request, undefined, { match: {} as Match, splitKey: (context: SelectContext) => context.header('x-user') })
    expect(proxy.forward).type.not.toBeCallableWith(request, reply, { match: { version: null } })
    expect(proxy.forward).type.not.toBeCallableWith(request, reply, { match: { version: { not: 'v1' } } })
    expect(proxy.forward).type.not.toBeCallableWith(request, reply, { split: [{ weight: 5 }] })
    expect(proxy.forward).type.not.toBeCallableWith(request, reply, { split: { match: {} } })
    expect(proxy.forward).type.not.toBeCallableWith(request, reply, { split: [{ match: {}, when: { headerx: 'a' } }] })
    expect(proxy.forward).type.not.toBeCallableWith(request, reply, { splitKey: 'cookie' })
    expect(proxy.forward).type.not.toBeCallableWith(request, reply, { splitKey: { body: 'a' } })
    expect(proxy.forward).type.not.toBeCallableWith(request, reply, { fallback: 'all' })
  })

  test('functions in its options have their parameters typed', () => {
    proxy.forward(request, reply, {
      upstream: request => {
        expect(request).type.toBe<FastifyRequest>()
        return 'a'
      },
      rewriteHeaders: (headers, request) => {
        expect(headers).type.toBe<HeaderRecord>()
        expect(request).type.toBe<FastifyRequest>()
        return headers
      },
      rewriteRequestHeaders: (request, headers) => {
        expect(request).type.toBe<FastifyRequest>()
        expect(headers).type.toBe<HeaderRecord>()
        return headers
      },
      onResponse: (request, reply, response) => {
        expect(request).type.toBe<FastifyRequest>()
        expect(reply).type.toBe<FastifyReply>()
        expect(response).type.toBe<ProxyResponse>()
      },
      onError: (request, reply, error) => {
        expect(request).type.toBe<FastifyRequest>()
        expect(reply).type.toBe<FastifyReply>()
        expect(error).type.toBe<Error>()
      }
    })
  })

  test('requests of typed and of other routes are taken', () => {
    app.get<{ Params: { id: string }, Querystring: { q: string } }>('/:id', (request, reply) => proxy.forward(request, reply))
    app.get<{ Reply: { ok: boolean } }>('/reply', (request, reply) => proxy.forward(request, reply))
    app.post<{ Body: { a: number } }>('/body', async request => (await proxy.forward(request)).json())
  })

  test('the answer has what it needs', () => {
    expect<ProxyResponse['statusCode']>().type.toBe<number>()
    expect<ProxyResponse['headers']>().type.toBe<HeaderRecord>()
    expect<ProxyResponse['trailers']>().type.toBe<HeaderRecord>()
    expect<ProxyResponse['body']>().type.toBe<Readable>()
    expect<ReturnType<ProxyResponse['text']>>().type.toBe<Promise<string>>()
    expect<ReturnType<ProxyResponse['arrayBuffer']>>().type.toBe<Promise<ArrayBuffer>>()
    expect<ReturnType<ProxyResponse['json']>>().type.toBe<Promise<unknown>>()
    const response = {} as ProxyResponse
    expect(response.json<{ a: number }>()).type.toBe<Promise<{ a: number }>>()
    expect(response.headers['set-cookie']).type.toBe<string | string[] | undefined>()
    expect(response.backend).type.toBe<Backend>()
    // @ts-expect-error Cannot assign to 'statusCode' because it is a read-only property
    response.statusCode = 5
  })
})

test('forwardHttp() takes a Request and gives a Response', () => {
  expect(proxy.forwardHttp(new Request('http://a'))).type.toBe<Promise<Response>>()
  expect(proxy.forwardHttp).type.toBeCallableWith(new Request('http://a'), { signal: new AbortController().signal, path: '/a', timeout: { idle: 5 } })
  expect(proxy.forwardHttp).type.toBeCallableWith(new Request('http://a'), { match: { version: 'v2' }, split: [{ match: {} }], splitKey: 'path', fallback: 'none' })
  expect(proxy.forwardHttp).type.not.toBeCallableWith(new Request('http://a'), { match: 'v2' })
  expect(proxy.forwardHttp).type.not.toBeCallableWith(new Request('http://a'), { fallback: true })
  expect(proxy.forwardHttp).type.not.toBeCallableWith('http://a')
  expect(proxy.forwardHttp).type.not.toBeCallableWith(new Request('http://a'), { upstream: 'a' })
})

test('explain() tells which backend a request would go to, and why', () => {
  expect(proxy.explain(request)).type.toBe<Promise<Explanation>>()
  expect(proxy.explain(request, { upstream: 'a', match: { version: 'v2' } })).type.toBe<Promise<Explanation>>()
  expect(proxy.upstream('a').explain(request)).type.toBe<Promise<Explanation>>()
  expect(proxy.explain).type.not.toBeCallableWith()
  expect(proxy.explain).type.not.toBeCallableWith(request, reply)
  expect(proxy.explain).type.not.toBeCallableWith(new Request('http://a'))
  expect(proxy.explain).type.not.toBeCallableWith(request, { macth: {} })
  const explanation = {} as Explanation
  expect(explanation.chosen).type.toBe<Backend | undefined>()
  expect(explanation.because).type.toBe<Because | undefined>()
  expect(explanation.why).type.toBe<string>()
  expect(explanation.match).type.toBe<Match | undefined>()
  expect(explanation.panic).type.toBe<boolean>()
  expect(explanation.groups).type.toBe<ExplainedGroup[]>()
  expect(explanation.backends).type.toBe<ExplainedBackend[]>()
  expect([explanation.upstream, explanation.balancer]).type.toBe<string[]>()
  expect<ExplainedGroup['zone']>().type.toBe<'own' | 'other' | undefined>()
  expect<ExplainedGroup['backends']>().type.toBe<string[]>()
  expect<ExplainedBackend['reasons']>().type.toBe<Unavailable[]>()
  expect<ExplainedBackend['considered']>().type.toBe<boolean>()
  expect<Because>().type.toBe<'balancer' | 'affinity' | 'priority' | 'zone' | 'fallback' | 'panic'>()
  expect<Unavailable>().type.toBe<'inactive' | 'draining' | 'weight 0' | 'unhealthy' | 'ejected' | 'circuit open' | 'no match' | 'tried'>()
})

test('metrics are numbers by name', () => {
  expect(proxy.getMetrics()).type.toBe<ProxyMetrics>()
  expect(proxy.upstream('a').getMetrics()).type.toBe<UpstreamMetrics>()
  expect(proxy.getMetrics().backends).type.toBe<Record<string, BackendDistribution>>()
  expect<BackendDistribution>().type.toBeAssignableTo<BackendMetrics>()
  const { share, weight, effectiveWeight, chosenBecause } = proxy.getMetrics().backends.a
  expect([share, weight, effectiveWeight, chosenBecause.balancer, chosenBecause.panic]).type.toBe<number[]>()
  expect(chosenBecause).type.toBe<Record<Because, number>>()
  expect(proxy.getMetrics().panic).type.toBe<boolean>()
  expect(proxy.getMetrics().upstreams.a.panic).type.toBe<boolean>()
  expect(proxy.getMetrics().upstreams.a.totalRetries).type.toBe<number>()
  expect(proxy.getMetrics().p99ResponseTime).type.toBe<number>()
  expect(proxy.resetMetrics()).type.toBe<void>()
  expect<UpstreamMetrics>().type.not.toHaveProperty('upstreams')
})

test('everything that a user may want to name has a name', () => {
  expect<[
    AffinityOptions, Backend, BackendChanges, BackendDistribution, BackendInput, BackendMetrics, BackendOptions, BackendSnapshot, BalancerEnv, BalancerInput,
    BalancerOptions, BalancerType, Because, Clock, ExplainedBackend, ExplainedGroup, Explanation, ForwardHttpOptions, ForwardOptions, HashKey, HashOptions,
    HeaderRecord, LoadBalancer, LoadReport, Match, Outcome, PoolInput, PoolOptions, PoolStats, ProxyManager, ProxyMetrics, ProxyResponse, RemoveBackendOptions,
    RockstarProxyOptions, RouteOptions, SelectContext, SelectFunction, SlowStartOptions, SplitPart, SubsetFallback, TimeoutOptions, Unavailable, Upstream,
    UpstreamMetrics, UpstreamOptions, WeightFunction, WeightOptions, WeightSample
  ]>().type.not.toBe<any>()
  expect<BackendInput>().type.toBe<string | BackendOptions>()
  expect<BalancerType>().type.toBe<
    'round-robin' | 'weighted-round-robin' | 'random' | 'least-requests' | 'p2c' | 'peak-ewma' | 'ip-hash' | 'ring-hash' | 'maglev' | 'rendezvous'
  >()
  expect<BalancerOptions['type']>().type.toBe<BalancerType>()
  expect<HashKey>().type.toBe<'ip' | 'path' | { header: string } | { cookie: string } | { query: string } | ((context: SelectContext) => string | undefined)>()
  expect<SubsetFallback>().type.toBe<'any' | 'none'>()
  expect<WeightFunction>().type.toBe<(backend: Backend, sample: WeightSample) => number>()
  expect<WeightSample['load']>().type.toBe<LoadReport | undefined>()
  expect<SplitPart['match']>().type.toBe<Match>()
})

test('every policy can be made by hand, with its options', () => {
  expect([
    new IpHash(), new LeastRequests(), new Maglev(), new P2c(), new PeakEwma(), new Random(), new Rendezvous(), new RingHash(), new RoundRobin()
  ]).type.toBeAssignableTo<LoadBalancer[]>()
  expect(IpHash).type.toBeConstructableWith({ boundedLoad: 1.25 })
  expect(LeastRequests).type.toBeConstructableWith({ fullScanLimit: 8, choices: 3, bias: 0.5 })
  expect(Maglev).type.toBeConstructableWith({ key: { header: 'x-user' }, missing: 'ip', boundedLoad: false, tableSize: 101 })
  expect(PeakEwma).type.toBeConstructableWith({ decay: 5_000, penalty: 100 })
  expect(Rendezvous).type.toBeConstructableWith({ key: (context: SelectContext) => context.header('x-user') })
  expect(RingHash).type.toBeConstructableWith({ key: { query: 'q' }, points: 100, probes: 1, minRingSize: 1, maxRingSize: 10_000 })
  expect(RoundRobin).type.toBeConstructableWith({})
  expect(Random).type.toBeConstructableWith({}, { clock: {} as Clock, random: () => 0 })
  expect(P2c).type.toBeConstructableWith({}, {} as BalancerEnv)
  expect(Maglev).type.not.toBeConstructableWith({ tableSizex: 101 })
  expect(Maglev).type.not.toBeConstructableWith({ points: 5 })
  expect(RingHash).type.not.toBeConstructableWith({ key: 'port' })
  expect(IpHash).type.not.toBeConstructableWith({ key: 'ip' })
  expect(LeastRequests).type.not.toBeConstructableWith({ choices: '2' })
  expect(PeakEwma).type.not.toBeConstructableWith({}, { random: () => 0 })
  app.register(rockstarProxy, { balancer: new Maglev({ key: 'path' }) })
})

test('what is exported as a value can be used as one', () => {
  expect(new RoundRobin()).type.toBeAssignableTo<LoadBalancer>()
  expect(new ConnectionPool({ connections: 5 })).type.toBeAssignableTo<ConnectionPool>()
  expect(new ConnectionPool()).type.toBeAssignableTo<PoolInput>()
  expect(ConnectionPool).type.not.toBeConstructableWith({ conections: 5 })
  expect(new errors.NO_BACKEND()).type.toBeAssignableTo<Error>()
  expect(new errors.NO_BACKEND().code).type.toBe<'FST_ROCKSTAR_NO_BACKEND'>()
  expect(errors).type.not.toHaveProperty('NO_SUCH')
  app.register(rockstarProxy, { balancer: new RoundRobin(), pool: new ConnectionPool() })
})
