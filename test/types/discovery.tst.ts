import type { BackendInput, Discovered, DiscoverFunction, DiscoveryEvent, DnsStats, ProxyManager, RockstarProxyOptions, UpstreamOptions } from 'rockstar-proxy'
import { describe, expect, test } from 'tstyche'

/** Only callable with the plugin's options: fresh objects are checked for keys they should not have. */
declare const take: {
  root (options: RockstarProxyOptions): void
  upstream (options: UpstreamOptions): void
}
declare const proxy: ProxyManager

describe('discovery', () => {
  test('has three kinds, by themselves or with options', () => {
    expect(take.upstream).type.toBeCallableWith({ discovery: 'dns' })
    expect(take.upstream).type.toBeCallableWith({ discovery: 'dns-srv' })
    expect(take.upstream).type.toBeCallableWith({ discovery: false })
    expect(take.root).type.toBeCallableWith({ discovery: () => ['http://a', { url: 'http://b', weight: 2 }] })
    expect(take.root).type.toBeCallableWith({ discovery: async (signal: AbortSignal) => ({ backends: [{ id: 'a', url: String(signal.aborted) }], ttl: 5_000 }) })
    expect(take.root).type.toBeCallableWith({ discovery: { type: 'dns', interval: 1, jitter: 0, timeout: 1, emptyGrace: 1, drainTimeout: 1, readyTimeout: 1 } })
    expect(take.root).type.not.toBeCallableWith({ discovery: 'consul' })
    expect(take.root).type.not.toBeCallableWith({ discovery: { interval: 1 } })
    expect(take.root).type.not.toBeCallableWith({ discovery: { type: 'dns', ttl: 1 } })
    expect(take.root).type.not.toBeCallableWith({ discovery: () => [1] })
  })

  test('a function gives backends, or more', () => {
    expect<ReturnType<DiscoverFunction>>().type.toBe<readonly BackendInput[] | Discovered | Promise<readonly BackendInput[] | Discovered>>()
  })

  test('its events tell where and why', () => {
    proxy.on('discovery:failed', event => { expect(event).type.toBe<DiscoveryEvent>() })
    proxy.on('discovery:recovered', ({ source, cause, upstream }) => { expect(source + cause + upstream).type.toBe<string>() })
  })
})

describe('dns', () => {
  test('is switched, or has options', () => {
    expect(take.root).type.toBeCallableWith({ dns: false })
    expect(take.upstream).type.toBeCallableWith({ dns: { minTtl: 1, maxTtl: 2, systemTtl: 3, errorTtl: 4, staleWhileRevalidate: 5, staleIfError: 6, servers: ['10.0.0.53'], timeout: 7, tries: 8 } })
    expect(take.root).type.not.toBeCallableWith({ dns: { ttl: 1 } })
    expect(take.root).type.not.toBeCallableWith({ dns: { servers: '10.0.0.53' } })
  })

  test('has numbers', () => {
    expect(proxy.getDnsStats()).type.toBe<DnsStats | null>()
    expect(proxy.upstream('a').getDnsStats()?.names.x.addresses).type.toBe<string[] | undefined>()
    expect(proxy.getBackend('a').address).type.toBe<string | undefined>()
  })
})
