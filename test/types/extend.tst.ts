import Fastify, { type FastifyRequest } from 'fastify'
import rockstarProxy, { RoundRobin } from 'rockstar-proxy'
import type { Backend, Clock, ConnectionPool, LoadBalancer, Outcome, PoolStats, SelectContext } from 'rockstar-proxy'
import { Pool, type Dispatcher } from 'undici'
import { expect, test } from 'tstyche'

const { proxy } = Fastify()

test('a load balancer of one\'s own is a small class', () => {
  class First implements LoadBalancer {
    readonly type = 'first'
    select (available: readonly Backend[]) { return available[0] }
  }
  class Whole implements LoadBalancer {
    readonly type = 'whole'
    async select (available: readonly Backend[], { request, method, path, tried }: SelectContext) {
      expect(request).type.toBe<FastifyRequest | undefined>()
      expect(method).type.toBe<string>()
      expect(path).type.toBe<string>()
      expect(tried).type.toBe<readonly Backend[] | null>()
      return available.find(backend => tried?.includes(backend) !== true)
    }

    settle (backend: Backend, { stage, culprit, statusCode, error, headTime, responseTime }: Outcome) {
      expect(stage).type.toBe<'select' | 'connect' | 'send' | 'wait' | 'stream' | 'done'>()
      expect(culprit).type.toBe<'none' | 'client' | 'backend' | 'proxy'>()
      expect(error).type.toBe<Error | undefined>()
      expect([statusCode, headTime, responseTime]).type.toBe<number[]>()
      expect(backend.inFlight).type.toBe<number>()
    }

    rebuild (available: readonly Backend[]) { expect(available).type.toBe<readonly Backend[]>() }
    fork () { return new Whole() }
    peek (available: readonly Backend[], context: SelectContext) { return this.select(available, context) }
  }
  class Wrong extends First {
    fork () { return 'another' }
  }
  class Extended extends RoundRobin {
    override select (available: readonly Backend[], context: SelectContext) { return super.select(available, context) }
  }
  expect(proxy.setLoadBalancer).type.toBeCallableWith(new First())
  expect(proxy.setLoadBalancer).type.toBeCallableWith(new Whole())
  expect(proxy.setLoadBalancer).type.toBeCallableWith(new Extended())
  expect(proxy.setLoadBalancer).type.toBeCallableWith({ type: 'literal', select: (available: readonly Backend[]) => available[0] })
  expect(proxy.setLoadBalancer).type.toBeCallableWith('round-robin')
  expect(proxy.setLoadBalancer).type.toBeCallableWith({ type: 'round-robin' })
  expect(proxy.setLoadBalancer).type.toBeCallableWith({ type: 'maglev', key: { header: 'x-user' }, tableSize: 101 })
  expect(proxy.setLoadBalancer).type.toBeCallableWith((available: readonly Backend[]) => available[0])
  expect(proxy.setLoadBalancer).type.toBeCallableWith(async (available: readonly Backend[]) => available.at(-1))
  expect(proxy.setLoadBalancer).type.not.toBeCallableWith(new Wrong())
  expect(proxy.setLoadBalancer).type.not.toBeCallableWith({ type: 'maglev', tableSizex: 101 })
  expect(proxy.setLoadBalancer).type.not.toBeCallableWith({ type: 'random', choices: 2 })
  expect(proxy.setLoadBalancer).type.not.toBeCallableWith(() => 'a')
  expect(proxy.setLoadBalancer).type.not.toBeCallableWith('fastest')
  expect(proxy.setLoadBalancer).type.not.toBeCallableWith({ type: 'fastest' })
  expect(proxy.setLoadBalancer).type.not.toBeCallableWith({ select: () => undefined })
  expect(proxy.setLoadBalancer).type.not.toBeCallableWith({ type: 'wrong', select: () => 5 })
  expect(proxy.getLoadBalancer()).type.toBe<LoadBalancer>()
  expect(proxy.getLoadBalancer().type).type.toBe<string>()
  Fastify().register(rockstarProxy, { balancer: new First(), upstreams: { a: { balancer: new Whole() } } })
})

test('a balancer must not change what it is given', () => {
  const balancer: LoadBalancer = {
    type: 'greedy',
    select (available, context) {
      // @ts-expect-error Property 'push' does not exist on type 'readonly Backend[]'
      available.push(available[0])
      // @ts-expect-error Index signature in type 'readonly Backend[]' only permits reading
      available[0] = available[1]
      // @ts-expect-error Cannot assign to 'path' because it is a read-only property
      context.path = '/'
      // @ts-expect-error Cannot assign to 'weight' because it is a read-only property
      available[0].weight = 5
      return undefined
    }
  }
  expect(balancer).type.toBeAssignableTo<LoadBalancer>()
})

test('a connection pool of one\'s own may hold any dispatcher of undici', () => {
  class Pools implements ConnectionPool {
    readonly #pools = new Map<Backend, Pool>()
    dispatcherFor (backend: Backend): Dispatcher {
      const pool = this.#pools.get(backend) ?? new Pool(backend.url.origin)
      this.#pools.set(backend, pool)
      return pool
    }

    stats (): PoolStats { return { total: 0, active: 0, idle: 0, pending: 0, connects: 0, connectErrors: 0, requests: 0, reuseRatio: 0, backends: {} } }
    async close () { await Promise.all([...this.#pools.values()].map(pool => pool.close())) }
  }
  class Whole extends Pools implements ConnectionPool {
    async release (_backend: Backend) {}
    async destroy (_error?: Error) {}
  }
  expect(proxy.setConnectionPool).type.toBeCallableWith(new Pools())
  expect(proxy.setConnectionPool).type.toBeCallableWith(new Whole())
  expect(proxy.setConnectionPool).type.toBeCallableWith({ connections: 5 })
  expect(proxy.setConnectionPool).type.not.toBeCallableWith({ conections: 5 })
  expect(proxy.setConnectionPool).type.not.toBeCallableWith({ dispatcherFor: () => new Pool('http://a') })
  expect(proxy.getConnectionPool()).type.toBe<ConnectionPool>()
  expect(proxy.getConnectionPool().stats()).type.toBe<PoolStats>()
  Fastify().register(rockstarProxy, { pool: new Pools() })
})

test('a clock of one\'s own is four functions', () => {
  const clock: Clock = { now: () => 0, wall: () => 0, setTimeout: () => ({}), clearTimeout: () => {} }
  Fastify().register(rockstarProxy, { clock })
  expect({ now: () => 0 }).type.not.toBeAssignableTo<Clock>()
})
