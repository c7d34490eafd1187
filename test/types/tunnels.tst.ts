import Fastify, { type FastifyReply, type FastifyRequest } from 'fastify'
import type { Backend, ClosedTunnel, DrainBackendOptions, ForwardOptions, OnTunnelClose, OnUpgrade, RockstarProxyOptions, RouteOptions, TunnelMetrics, UpstreamOptions } from 'rockstar-proxy'
import { describe, expect, test } from 'tstyche'

const { proxy } = Fastify()

/** Only callable with the plugin's options: fresh objects are checked for keys they should not have. */
declare const take: {
  root (options: RockstarProxyOptions): void
  upstream (options: UpstreamOptions): void
  route (options: RouteOptions): void
  call (options: ForwardOptions): void
}
declare const request: FastifyRequest
declare const reply: FastifyReply

describe('upgrades', () => {
  test('are let through or not, by upstream, route and call', () => {
    expect(take.root).type.toBeCallableWith({ websocket: false, upgrades: ['x-own', 'other/2'], timeout: { tunnel: 5 }, upstreams: { a: { websocket: true, upgrades: [] } } })
    expect(take.upstream).type.toBeCallableWith({ websocket: true, upgrades: [] })
    expect(take.route).type.toBeCallableWith({ prefix: '/chat', websocket: false, timeout: { tunnel: 0 } })
    expect(take.call).type.toBeCallableWith({ websocket: true, timeout: { tunnel: 0 } })
    expect(take.root).type.not.toBeCallableWith({ websocket: 'yes' })
    expect(take.root).type.not.toBeCallableWith({ upgrades: 'x-own' })
    expect(take.root).type.not.toBeCallableWith({ upgrades: [5] })
    expect(take.root).type.not.toBeCallableWith({ timeout: { tunnel: '1h' } })
    expect(take.root).type.not.toBeCallableWith({ websockets: true })
  })

  test('have hooks, of a route or a call', () => {
    expect(take.route).type.toBeCallableWith({
      onUpgrade: (given: FastifyRequest) => given.url !== '/',
      onTunnelClose: (given: FastifyRequest, tunnel: ClosedTunnel) => { given.log.info(tunnel.backend.id) }
    })
    expect(take.call).type.toBeCallableWith({ onUpgrade: async () => true })
    expect(take.call).type.toBeCallableWith({ onUpgrade: () => {} })
    expect(take.call).type.toBeCallableWith({ onUpgrade: async () => {} })
    expect(take.call).type.not.toBeCallableWith({ onUpgrade: () => 'no' })
    expect(take.call).type.not.toBeCallableWith({ onUpgrade: false })
    expect(take.call).type.not.toBeCallableWith({ onTunnelClose: true })
    expect(take.root).type.not.toBeCallableWith({ onUpgrade: () => true })
    proxy.forward(request, reply, {
      onUpgrade: given => {
        expect(given).type.toBe<FastifyRequest>()
        return true
      },
      onTunnelClose: (given, tunnel) => {
        expect(given).type.toBe<FastifyRequest>()
        expect(tunnel).type.toBe<ClosedTunnel>()
      }
    })
    expect<OnUpgrade>().type.toBe<(request: FastifyRequest) => boolean | void | Promise<boolean | void>>()
    expect<OnTunnelClose>().type.toBe<(request: FastifyRequest, tunnel: ClosedTunnel) => void>()
  })

  test('a tunnel that has closed tells how it went', () => {
    expect<ClosedTunnel>().type.toBe<{ protocol: string, backend: Backend, bytesReceived: number, bytesSent: number, duration: number }>()
  })

  test('are counted', () => {
    expect(proxy.getMetrics().tunnels).type.toBe<TunnelMetrics>()
    expect(proxy.getMetrics().upstreams.a.tunnels).type.toBe<TunnelMetrics>()
    expect<TunnelMetrics>().type.toBe<{ open: number, total: number, bytesReceived: number, bytesSent: number }>()
  })
})

describe('drains', () => {
  test('have a time', () => {
    expect(proxy.drainBackend).type.toBeCallableWith('a')
    expect(proxy.drainBackend).type.toBeCallableWith('a', {})
    expect(proxy.drainBackend).type.toBeCallableWith('a', { timeout: 5 })
    expect(proxy.upstream('a').drainBackend).type.toBeCallableWith('a', { timeout: 5 })
    expect(proxy.drainBackend).type.not.toBeCallableWith()
    expect(proxy.drainBackend).type.not.toBeCallableWith('a', 5)
    expect(proxy.drainBackend).type.not.toBeCallableWith('a', { timeout: '5' })
    expect(proxy.drainBackend).type.not.toBeCallableWith('a', { drain: { timeout: 5 } })
    expect(proxy.drainBackend('a')).type.toBe<Promise<void>>()
    expect<DrainBackendOptions>().type.toBe<{ timeout?: number | undefined }>()
  })

  test('can be followed', () => {
    expect(proxy.getBackend('a').inFlight).type.toBe<number>()
    expect(proxy.getBackend('a').draining).type.toBe<boolean>()
    expect(proxy.updateBackend).type.toBeCallableWith('a', { isActive: true })
  })
})
