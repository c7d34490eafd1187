import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import rockstarProxy, { ConnectionPool, errors, RoundRobin } from 'rockstar-proxy'
import type {
  Backend, BackendChanges, BackendInput, BackendMetrics, BackendOptions, BackendSnapshot, BalancerInput, BalancerType, Clock, ForwardHttpOptions, ForwardOptions,
  HeaderRecord, LoadBalancer, Outcome, PoolInput, PoolOptions, PoolStats, ProxyManager, ProxyMetrics, ProxyResponse, RemoveBackendOptions, RockstarProxyOptions,
  RouteOptions, SelectContext, TimeoutOptions, Upstream, UpstreamMetrics, UpstreamOptions
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
  expect(proxy.forwardHttp).type.not.toBeCallableWith('http://a')
  expect(proxy.forwardHttp).type.not.toBeCallableWith(new Request('http://a'), { upstream: 'a' })
})

test('metrics are numbers by name', () => {
  expect(proxy.getMetrics()).type.toBe<ProxyMetrics>()
  expect(proxy.upstream('a').getMetrics()).type.toBe<UpstreamMetrics>()
  expect(proxy.getMetrics().backends).type.toBe<Record<string, BackendMetrics>>()
  expect(proxy.getMetrics().upstreams.a.totalRetries).type.toBe<number>()
  expect(proxy.getMetrics().p99ResponseTime).type.toBe<number>()
  expect(proxy.resetMetrics()).type.toBe<void>()
  expect<UpstreamMetrics>().type.not.toHaveProperty('upstreams')
})

test('everything that a user may want to name has a name', () => {
  expect<[
    Backend, BackendChanges, BackendInput, BackendMetrics, BackendOptions, BackendSnapshot, BalancerInput, BalancerType, Clock, ForwardHttpOptions, ForwardOptions,
    HeaderRecord, LoadBalancer, Outcome, PoolInput, PoolOptions, PoolStats, ProxyManager, ProxyMetrics, ProxyResponse, RemoveBackendOptions, RockstarProxyOptions,
    RouteOptions, SelectContext, TimeoutOptions, Upstream, UpstreamMetrics, UpstreamOptions
  ]>().type.not.toBe<any>()
  expect<BackendInput>().type.toBe<string | BackendOptions>()
  expect<BalancerType>().type.toBe<'round-robin'>()
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
