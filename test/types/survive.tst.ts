import type { FastifyReply, FastifyRequest } from 'fastify'
import type { AttemptReport, AttemptResult, Backend, ForwardHttpOptions, ForwardOptions, Outcome, ProxyMetrics, ProxyResponse, RockstarProxyOptions, RouteOptions, StageTimeouts, UpstreamOptions } from 'rockstar-proxy'
import { describe, expect, test } from 'tstyche'

/** Only callable with the plugin's options: fresh objects are checked for keys they should not have. */
declare const take: {
  root (options: RockstarProxyOptions): void
  upstream (options: UpstreamOptions): void
  route (options: RouteOptions): void
  call (options: ForwardOptions): void
  http (options: ForwardHttpOptions): void
}
declare const response: ProxyResponse
declare const metrics: ProxyMetrics

describe('how requests survive', () => {
  test('retries', () => {
    const all = {
      attempts: 3,
      methods: ['GET'],
      statuses: [503],
      on: ['connect', 'reset', 'timeout', 'bad-response'],
      backoff: { base: 1, factor: 2, max: 3 },
      perTryTimeout: 5,
      maxBodySize: 0,
      retryAfter: false,
      idempotencyKey: (request: FastifyRequest) => request.url === '/'
    } satisfies ForwardOptions['retry']
    expect(take.root).type.toBeCallableWith({ retry: { ...all, budget: { percent: 10, minPerSecond: 0 } } })
    expect(take.upstream).type.toBeCallableWith({ retry: { ...all, budget: {} } })
    for (const retry of [true, false, all]) {
      expect(take.root).type.toBeCallableWith({ retry })
      expect(take.route).type.toBeCallableWith({ retry })
      expect(take.call).type.toBeCallableWith({ retry })
      expect(take.http).type.toBeCallableWith({ retry })
    }
    expect(take.root).type.toBeCallableWith({ retry: { idempotencyKey: true } })
    expect(take.route).type.not.toBeCallableWith({ retry: { budget: { percent: 10 } } })
    expect(take.call).type.not.toBeCallableWith({ retry: { budget: {} } })
    expect(take.root).type.not.toBeCallableWith({ retry: 3 })
    expect(take.root).type.not.toBeCallableWith({ retry: { on: ['overload'] } })
    expect(take.root).type.not.toBeCallableWith({ retry: { atempts: 3 } })
    expect(take.root).type.not.toBeCallableWith({ retry: { idempotencyKey: 'x-key' } })
    expect(take.root).type.not.toBeCallableWith({ retry: { idempotencyKey: () => 'yes' } })
    expect(take.root).type.not.toBeCallableWith({ retry: { backoff: 100 } })
  })

  test('hedges', () => {
    for (const hedge of [true, false, {}, { percentile: 95, minDelay: 5, maxExtra: 0.05 }]) {
      expect(take.root).type.toBeCallableWith({ hedge })
      expect(take.upstream).type.toBeCallableWith({ hedge })
      expect(take.route).type.toBeCallableWith({ hedge })
      expect(take.call).type.toBeCallableWith({ hedge })
    }
    expect(take.root).type.not.toBeCallableWith({ hedge: 95 })
    expect(take.root).type.not.toBeCallableWith({ hedge: { delay: 5 } })
    expect(take.root).type.not.toBeCallableWith({ hedge: { percentile: 'p95' } })
  })

  test('limits are the upstream\'s alone', () => {
    expect(take.root).type.toBeCallableWith({ limits: false })
    expect(take.upstream).type.toBeCallableWith({ limits: { maxInFlight: 1, maxPerBackend: 2, adaptive: true, queue: false, priority: (request: FastifyRequest) => request.url.length } })
    expect(take.root).type.toBeCallableWith({ limits: { queue: { size: 1, timeout: 2, order: 'lifo' }, adaptive: { initial: 1, min: 1, max: 2, tolerance: 2, smoothing: 0.5, queueSize: 1 } } })
    expect(take.root).type.not.toBeCallableWith({ limits: true })
    expect(take.root).type.not.toBeCallableWith({ limits: { queue: { order: 'random' } } })
    expect(take.root).type.not.toBeCallableWith({ limits: { maxInflight: 1 } })
    expect(take.root).type.not.toBeCallableWith({ limits: { priority: () => 'high' } })
    expect(take.route).type.not.toBeCallableWith({ limits: { maxInFlight: 1 } })
    expect(take.call).type.not.toBeCallableWith({ limits: { maxInFlight: 1 } })
  })

  test('fallbacks', () => {
    const answer = (request: FastifyRequest, reply: FastifyReply, error: Error) => { reply.send(`${request.url}: ${error.message}`) }
    const options = [false as const, {}, { statusCode: 200, headers: { a: 'b', c: ['d', 'e'] }, body: { any: 'thing' } }, { upstream: 'other' }, { upstream: 'other', on: ['TIMEOUT' as const, 503] }, answer, async () => 'text']
    for (const fallback of options) {
      expect(take.root).type.toBeCallableWith({ fallback })
      expect(take.route).type.toBeCallableWith({ fallback })
      expect(take.call).type.toBeCallableWith({ fallback })
    }
    for (const fallback of ['any', 'none'] as const) {
      expect(take.route).type.toBeCallableWith({ fallback })
      expect(take.call).type.toBeCallableWith({ fallback })
      expect(take.http).type.toBeCallableWith({ fallback })
      expect(take.root).type.not.toBeCallableWith({ fallback })
    }
    expect(take.http).type.not.toBeCallableWith({ fallback: { upstream: 'other' } })
    expect(take.root).type.not.toBeCallableWith({ fallback: true })
    expect(take.root).type.not.toBeCallableWith({ fallback: 'other' })
    expect(take.root).type.not.toBeCallableWith({ fallback: { upstream: 'other', on: ['CLIENT_CLOSED'] } })
    expect(take.root).type.not.toBeCallableWith({ fallback: { statusCode: '200' } })
    take.root({
      fallback: (request, reply, error) => {
        expect(request).type.toBe<FastifyRequest>()
        expect(reply).type.toBe<FastifyReply>()
        expect(error).type.toBe<Error>()
      }
    })
  })

  test('copies', () => {
    for (const mirror of [false as const, { upstream: 'shadow' }, { upstream: 'shadow', percent: 10, maxBodySize: 0, maxInFlight: 5 }]) {
      expect(take.root).type.toBeCallableWith({ mirror })
      expect(take.upstream).type.toBeCallableWith({ mirror })
      expect(take.route).type.toBeCallableWith({ mirror })
      expect(take.call).type.toBeCallableWith({ mirror })
    }
    expect(take.root).type.not.toBeCallableWith({ mirror: true })
    expect(take.root).type.not.toBeCallableWith({ mirror: 'shadow' })
    expect(take.root).type.not.toBeCallableWith({ mirror: { percent: 10 } })
  })

  test('a header for the deadline', () => {
    expect(take.root).type.toBeCallableWith({ deadlineHeader: 'x-time-left' })
    expect(take.upstream).type.toBeCallableWith({ deadlineHeader: false })
    expect(take.root).type.not.toBeCallableWith({ deadlineHeader: true })
    expect(take.route).type.not.toBeCallableWith({ deadlineHeader: 'x-time-left' })
  })
})

test('an answer tells of its attempts', () => {
  expect(response.attempts).type.toBe<readonly AttemptReport[]>()
  const [attempt] = response.attempts
  expect(attempt.backend).type.toBe<Backend>()
  expect(attempt.result).type.toBe<AttemptResult | 'pending'>()
  expect(attempt.outcome).type.toBe<Outcome>()
  expect(attempt.time).type.toBe<number>()
  expect(attempt.hedge).type.toBe<boolean>()
})

test('metrics tell of what was done so that requests survive', () => {
  const { totalRetries, retriesDenied, hedgedRequests, hedgesWon, queuedRequests, queueLength, shedRequests, fallbacksServed, mirroredRequests, mirrorsSkipped } = metrics
  expect([totalRetries, retriesDenied, hedgedRequests, hedgesWon, queuedRequests, queueLength, shedRequests, fallbacksServed, mirroredRequests, mirrorsSkipped]).type.toBe<number[]>()
  expect(metrics.timeouts).type.toBe<StageTimeouts>()
  expect(metrics.upstreams.a.timeouts.queue).type.toBe<number>()
})
