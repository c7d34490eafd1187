import Fastify from 'fastify'
import rockstarProxy from 'rockstar-proxy'
import type {
  Backend, BackendEvent, BackendHealth, CircuitEvent, CircuitState, HealthCheckOverrides, HealthChecker, HealthEvent, HealthOptions, HealthSource, PanicEvent, ProxyEvent,
  ProxyEventName, ProxyEvents, ProxyManager, RockstarProxyOptions, Upstream, UpstreamOptions
} from 'rockstar-proxy'
import { describe, expect, test } from 'tstyche'

const app = Fastify()
const { proxy } = app

/** Only callable with these options: fresh objects are checked for keys they should not have. */
declare const take: {
  health (options: HealthOptions): void
  overrides (options: HealthCheckOverrides): void
  root (options: RockstarProxyOptions): void
  upstream (options: UpstreamOptions): void
}

describe('the options of health checks', () => {
  test('all are optional, and each has its type', () => {
    expect(take.health).type.toBeCallableWith({})
    expect(take.health).type.toBeCallableWith({
      path: '/health',
      method: 'HEAD',
      headers: { 'x-probe': '1' },
      host: 'health.example',
      port: 9_000,
      expectedStatus: [200, [300, 399]],
      expectedBody: 'ok',
      interval: 10_000,
      unhealthyInterval: 1_000,
      timeout: 5_000,
      jitter: 0.1,
      rise: 2,
      fall: 3,
      initial: 'check-first',
      concurrency: 64,
      minHealthy: 1,
      readyTimeout: 5_000
    })
    expect(take.health).type.toBeCallableWith({ expectedBody: /ok/i })
    expect(take.health).type.toBeCallableWith({ initial: 'healthy' })
    expect(take.health).type.toBeCallableWith({ initial: 'unhealthy' })
    expect(take.health).type.not.toBeCallableWith({ path: 5 })
    expect(take.health).type.not.toBeCallableWith({ pathh: '/health' })
    expect(take.health).type.not.toBeCallableWith({ headers: { 'x-probe': 1 } })
    expect(take.health).type.not.toBeCallableWith({ expectedStatus: 200 })
    expect(take.health).type.not.toBeCallableWith({ expectedStatus: ['2xx'] })
    expect(take.health).type.not.toBeCallableWith({ expectedStatus: [[200]] })
    expect(take.health).type.not.toBeCallableWith({ expectedStatus: [[200, 299, 399]] })
    expect(take.health).type.not.toBeCallableWith({ expectedBody: 5 })
    expect(take.health).type.not.toBeCallableWith({ initial: 'sick' })
    expect(take.health).type.not.toBeCallableWith({ interval: '10s' })
    expect(take.health).type.not.toBeCallableWith({ checker: 'tcp' })
  })

  test('the whole may be switched on or off, at the root and in each upstream', () => {
    for (const health of [true, false, {}, { path: '/health' }]) {
      expect(take.root).type.toBeCallableWith({ health })
      expect(take.upstream).type.toBeCallableWith({ health })
    }
    expect(take.root).type.not.toBeCallableWith({ health: '/health' })
    expect(take.root).type.not.toBeCallableWith({ health: { intervall: 5 } })
    expect(take.upstream).type.not.toBeCallableWith({ health: null })
    app.register(rockstarProxy, { health: { path: '/health' }, upstreams: { other: { health: false } } })
  })

  test('a backend may have its own, but for what concerns the whole', () => {
    expect(take.overrides).type.toBeCallableWith({})
    expect(take.overrides).type.toBeCallableWith({ path: '/own', interval: 1_000, timeout: 500, rise: 1, fall: 1, initial: 'unhealthy', checker: () => true })
    expect(take.overrides).type.not.toBeCallableWith({ concurrency: 5 })
    expect(take.overrides).type.not.toBeCallableWith({ minHealthy: 5 })
    expect(take.overrides).type.not.toBeCallableWith({ readyTimeout: 5 })
    expect(proxy.addBackend).type.toBeCallableWith({ url: 'http://a', healthCheck: { path: '/own', interval: 1_000, timeout: 500 } })
    expect(proxy.addBackend).type.not.toBeCallableWith({ url: 'http://a', healthCheck: false })
    expect(proxy.addBackend).type.not.toBeCallableWith({ url: 'http://a', healthCheck: { intervall: 5 } })
    expect(proxy.updateBackend).type.toBeCallableWith('a', { healthCheck: { interval: 5_000 } })
    expect(proxy.updateBackend).type.not.toBeCallableWith('a', { healthCheck: { interval: '5s' } })
  })
})

test('a checker of one\'s own gets the backend and a signal, and may answer anything, now or later', () => {
  expect<HealthChecker>().type.toBeCallableWith({} as Backend, { signal: new AbortController().signal })
  const checker: HealthChecker = async (backend, context) => {
    expect(backend).type.toBe<Backend>()
    expect(context.signal).type.toBe<AbortSignal>()
    // @ts-expect-error Cannot assign to 'signal' because it is a read-only property
    context.signal = new AbortController().signal
    const response = await fetch(backend.url, { signal: context.signal })
    return response.ok
  }
  expect(take.health).type.toBeCallableWith({ checker })
  expect(take.health).type.toBeCallableWith({ checker: () => {} })
  expect(take.health).type.toBeCallableWith({ checker: () => false })
  expect(take.health).type.toBeCallableWith({ checker: async (backend: Backend) => backend.id !== 'a' })
  expect(take.health).type.toBeCallableWith({ checker: ({ metadata }: Backend, { signal }: { signal: AbortSignal }) => metadata.up === true && !signal.aborted })
  expect(take.health).type.not.toBeCallableWith({ checker: (id: string) => id === 'a' })
  expect(take.health).type.not.toBeCallableWith({ checker: (_backend: Backend, _context: { signal: AbortSignal }, _third: string) => true })
})

describe('what is known of a backend\'s health', () => {
  test('has the fields of the seed, and some more', () => {
    expect<BackendHealth>().type.toBe<{
      isHealthy: boolean
      lastCheck: Date | undefined
      lastSuccess: Date | undefined
      lastFailure: Date | undefined
      consecutiveFails: number
      responseTime: number
      errorMessage: string
      statusCode: number
      source: 'active' | 'outlier' | 'manual'
      since: Date
      ejections: number
      ejectedUntil: Date | undefined
    }>()
    expect<HealthSource>().type.toBe<'active' | 'outlier' | 'manual'>()
  })

  test('is given by id, of every upstream', () => {
    expect(proxy.getHealthStatus()).type.toBe<Record<string, BackendHealth>>()
    expect(proxy.upstream('a').getHealthStatus()).type.toBe<Record<string, BackendHealth>>()
    expect(proxy.getHealthStatus).type.not.toBeCallableWith('a')
  })

  test('is asked for now, and is whether requests can be served', () => {
    expect(proxy.healthCheck()).type.toBe<Promise<void>>()
    expect(proxy.isReady()).type.toBe<boolean>()
    expect<Upstream>().type.toHaveProperty('healthCheck')
    expect<Upstream>().type.toHaveProperty('isReady')
  })

  test('is on the backend as well, and is not set there', () => {
    const backend = proxy.getBackend('a')
    expect([backend.healthy, backend.ejected, backend.available]).type.toBe<boolean[]>()
    expect(backend.circuitState).type.toBe<CircuitState>()
    // @ts-expect-error Cannot assign to 'healthy' because it is a read-only property
    backend.healthy = true
    // @ts-expect-error Cannot assign to 'ejected' because it is a read-only property
    backend.ejected = false
  })
})

describe('listeners', () => {
  test('are told what their event is about', () => {
    for (const name of ['backend:added', 'backend:draining', 'backend:drained', 'backend:removed'] as const) proxy.on(name, event => { expect(event).type.toBe<BackendEvent>() })
    for (const name of ['backend:healthy', 'backend:unhealthy', 'backend:returned'] as const) proxy.on(name, event => { expect(event).type.toBe<HealthEvent>() })
    for (const name of ['circuit:open', 'circuit:half-open', 'circuit:closed'] as const) proxy.on(name, event => { expect(event).type.toBe<CircuitEvent>() })
    for (const name of ['panic:on', 'panic:off'] as const) proxy.on(name, event => { expect(event).type.toBe<PanicEvent>() })
    proxy.on('backend:ejected', ({ backend, until, cause }) => {
      expect(backend).type.toBe<Backend>()
      expect(until).type.toBe<number>()
      expect(cause).type.toBe<string>()
    })
    proxy.on('backend:unhealthy', ({ upstream, time, backend, cause, counts }) => {
      expect([upstream, cause]).type.toBe<string[]>()
      expect(time).type.toBe<number>()
      expect(backend.id).type.toBe<string>()
      expect(counts).type.toBe<Record<string, number>>()
    })
    proxy.on('circuit:open', ({ from, to }) => { expect([from, to]).type.toBe<CircuitState[]>() })
    proxy.on('panic:on', ({ available, active }) => { expect([available, active]).type.toBe<number[]>() })
  })

  test('all events tell where and when', () => {
    expect<ProxyEvents[ProxyEventName][0]>().type.toBeAssignableTo<ProxyEvent>()
    expect<ProxyEventName>().type.toBe<
      'backend:added' | 'backend:draining' | 'backend:drained' | 'backend:removed' | 'backend:healthy' | 'backend:unhealthy' | 'backend:ejected' | 'backend:returned' |
      'circuit:open' | 'circuit:half-open' | 'circuit:closed' | 'panic:on' | 'panic:off' | 'discovery:failed' | 'discovery:recovered'
    >()
  })

  test('come and go, once or for ever, of one upstream or of all', () => {
    const listener = (event: HealthEvent) => { expect(event.backend).type.toBe<Backend>() }
    expect(proxy.on('backend:healthy', listener)).type.toBe<ProxyManager>()
    expect(proxy.once('backend:healthy', listener)).type.toBe<ProxyManager>()
    expect(proxy.off('backend:healthy', listener)).type.toBe<ProxyManager>()
    expect(proxy.upstream('a').on('backend:healthy', listener).once('panic:on', () => {})).type.toBe<Upstream>()
    // One that wants less may be given more.
    proxy.on('backend:ejected', listener).on('circuit:open', (event: ProxyEvent) => event.time)
    expect(proxy.on).type.not.toBeCallableWith('backend:sick', () => {})
    expect(proxy.on).type.not.toBeCallableWith('panic:on')
    expect(proxy.on).type.not.toBeCallableWith('panic:on', (event: HealthEvent) => event.backend)
    expect(proxy.on).type.not.toBeCallableWith('backend:added', (event: HealthEvent) => event.cause)
    expect(proxy.on).type.not.toBeCallableWith('panic:on', (_event: PanicEvent, _more: string) => {})
  })
})
