import Fastify from 'fastify'
import rockstarProxy, { CircuitBreaker } from 'rockstar-proxy'
import type { Backend, BackendSnapshot, BreakerInput, BreakerOptions, Circuit, CircuitEnv, CircuitEvent, CircuitState, Clock, IsFailure, Outcome, RockstarProxyOptions, RuleOptions, TripRule, UpstreamOptions } from 'rockstar-proxy'
import { describe, expect, test } from 'tstyche'

const { proxy } = Fastify()

/** Only callable with options: fresh objects are checked for keys they should not have. */
declare const take: {
  breaker (options: BreakerOptions): void
  root (options: RockstarProxyOptions): void
  upstream (options: UpstreamOptions): void
}

describe('the options of a circuit breaker', () => {
  test('all are optional, each has its type', () => {
    expect(take.breaker).type.toBeCallableWith({})
    expect(take.breaker).type.toBeCallableWith({
      threshold: 5, timeout: 30_000, maxTimeout: 300_000, jitter: 0.1, halfOpenRequests: 1, successThreshold: 1, isFailure: () => true, rules: []
    })
    expect(take.breaker).type.not.toBeCallableWith({ threshold: '5' })
    expect(take.breaker).type.not.toBeCallableWith({ timeout: '30s' })
    expect(take.breaker).type.not.toBeCallableWith({ jitter: true })
    expect(take.breaker).type.not.toBeCallableWith({ isFailure: true })
    expect(take.breaker).type.not.toBeCallableWith({ treshold: 5 })
  })

  test('rules are told apart by their type', () => {
    expect(take.breaker).type.toBeCallableWith({ rules: [{ type: 'consecutive' }, { type: 'failure-rate' }, { type: 'slow-rate' }] })
    expect(take.breaker).type.toBeCallableWith({ rules: [{ type: 'consecutive', threshold: 5 }] })
    expect(take.breaker).type.toBeCallableWith({ rules: [{ type: 'failure-rate', threshold: 0.5, window: 10_000, minimumRequests: 20 }] })
    expect(take.breaker).type.toBeCallableWith({ rules: [{ type: 'slow-rate', slowThreshold: 5_000, threshold: 0.8, window: 10_000, minimumRequests: 20 }] })
    expect(take.breaker).type.not.toBeCallableWith({ rules: [{ type: 'failures' }] })
    expect(take.breaker).type.not.toBeCallableWith({ rules: [{ threshold: 5 }] })
    expect(take.breaker).type.not.toBeCallableWith({ rules: [{ type: 'consecutive', window: 10_000 }] })
    expect(take.breaker).type.not.toBeCallableWith({ rules: [{ type: 'failure-rate', slowThreshold: 10 }] })
    expect(take.breaker).type.not.toBeCallableWith({ rules: { type: 'consecutive' } })
    expect<{ type: 'consecutive', threshold: number }>().type.toBeAssignableTo<RuleOptions>()
  })

  test('a rule of one\'s own is a function that makes one', () => {
    class Mine implements TripRule {
      record (failed: boolean, responseTime: number, now: number) { return failed && responseTime > now }
      reset () {}
    }
    expect(take.breaker).type.toBeCallableWith({ rules: [() => new Mine()] })
    expect(take.breaker).type.toBeCallableWith({ rules: [() => ({ record: (failed: boolean) => failed, reset () {}, counts: (now: number) => ({ now }) })] })
    expect(take.breaker).type.not.toBeCallableWith({ rules: [new Mine()] })
    expect(take.breaker).type.not.toBeCallableWith({ rules: [() => ({ record: () => true })] })
    expect(take.breaker).type.not.toBeCallableWith({ rules: [() => ({ record: () => 'yes', reset () {} })] })
    expect<TripRule['counts']>().type.toBe<((now: number) => Record<string, number>) | undefined>()
  })

  test('isFailure is told the outcome', () => {
    expect<IsFailure>().type.toBe<(outcome: Outcome) => boolean>()
    expect<BreakerOptions['isFailure']>().type.toBe<IsFailure | undefined>()
    const options: BreakerOptions = {
      isFailure (outcome) {
        expect(outcome).type.toBe<Outcome>()
        return outcome.culprit === 'backend' || outcome.statusCode >= 500
      }
    }
    expect(options).type.toBe<BreakerOptions>()
    expect(take.breaker).type.not.toBeCallableWith({ isFailure: (outcome: Outcome) => outcome.statusCode })
  })
})

describe('breaker as an option, and setCircuitBreaker()', () => {
  test('take options, a boolean or an instance', () => {
    for (const input of [{}, { threshold: 5, timeout: 30_000 }, true, false, new CircuitBreaker()] as const) expect(input).type.toBeAssignableTo<BreakerInput>()
    expect(proxy.setCircuitBreaker).type.toBeCallableWith({ threshold: 5, timeout: 30_000 })
    expect(proxy.setCircuitBreaker).type.toBeCallableWith(false)
    expect(proxy.setCircuitBreaker).type.toBeCallableWith(new CircuitBreaker())
    expect(proxy.setCircuitBreaker).type.not.toBeCallableWith()
    expect(proxy.setCircuitBreaker).type.not.toBeCallableWith('consecutive')
    expect(proxy.setCircuitBreaker).type.not.toBeCallableWith({ treshold: 5 })
    expect(proxy.setCircuitBreaker(false)).type.toBe<void>()
    expect(take.root).type.toBeCallableWith({ breaker: { threshold: 5 }, upstreams: { a: { breaker: false }, b: { breaker: new CircuitBreaker() } } })
    expect(take.upstream).type.toBeCallableWith({ breaker: true })
    expect(take.root).type.not.toBeCallableWith({ breaker: 5 })
    expect(take.root).type.not.toBeCallableWith({ breaker: { treshold: 5 } })
    Fastify().register(rockstarProxy, { breaker: { rules: [{ type: 'slow-rate', slowThreshold: 100 }] } })
  })

  test('the class is made from options', () => {
    expect(CircuitBreaker).type.toBeConstructableWith()
    expect(CircuitBreaker).type.toBeConstructableWith({ threshold: 5, timeout: 30_000 })
    expect(CircuitBreaker).type.not.toBeConstructableWith(5)
    expect(CircuitBreaker).type.not.toBeConstructableWith(false)
    expect(CircuitBreaker).type.not.toBeConstructableWith({ treshold: 5 })
  })

  test('its open() and close() are there; of one that is got they may not be', () => {
    const own = new CircuitBreaker()
    expect(own.open('a')).type.toBe<void>()
    expect(own.close('a')).type.toBe<void>()
    expect(own.reset('a')).type.toBe<void>()
    expect(own.getState('a')).type.toBe<CircuitState>()
    const got = proxy.getCircuitBreaker()
    expect(got).type.toBe<CircuitBreaker>()
    expect(got.type).type.toBe<string>()
    expect(got.getState('a')).type.toBe<'closed' | 'open' | 'half-open'>()
    expect(got.reset('a')).type.toBe<void>()
    expect(got.open?.('a')).type.toBe<void | undefined>()
    // @ts-expect-error Cannot invoke an object which is possibly 'undefined'
    got.open('a')
    // @ts-expect-error Cannot assign to 'type' because it is a read-only property
    got.type = 'mine'
  })
})

describe('a circuit breaker of one\'s own', () => {
  class MyCircuit implements Circuit {
    state: CircuitState = 'closed'
    retryAfter = 0
    acquire () { return 0 }
    settle (_permit: number, _outcome: Outcome) {}
    open () { this.state = 'open' }
    close () { this.state = 'closed' }
  }

  test('is a small class', () => {
    class Mine implements CircuitBreaker {
      readonly type = 'mine'
      createCircuit (backend: Backend, { clock, random, changed }: CircuitEnv) {
        expect(clock).type.toBe<Clock>()
        expect(random).type.toBe<() => number>()
        expect(changed).type.toBe<(from: CircuitState, why: string, counts: Record<string, number>) => void>()
        expect(backend.circuitState).type.toBe<CircuitState>()
        return new MyCircuit()
      }

      getState (_id: string): CircuitState { return 'closed' }
      reset (_id: string) {}
    }
    expect(proxy.setCircuitBreaker).type.toBeCallableWith(new Mine())
    expect(take.root).type.toBeCallableWith({ breaker: new Mine() })
  })

  test('must have what is called', () => {
    expect<{ type: string, createCircuit (): Circuit }>().type.not.toBeAssignableTo<CircuitBreaker>()
    expect<{ type: string, createCircuit (): object, getState (): CircuitState, reset (): void }>().type.not.toBeAssignableTo<CircuitBreaker>()
    expect<{ type: string, createCircuit (): Circuit, getState (): string, reset (): void }>().type.not.toBeAssignableTo<CircuitBreaker>()
    expect<{ type: string, createCircuit (): Circuit, getState (): CircuitState, reset (): void }>().type.toBeAssignableTo<CircuitBreaker>()
    expect<Omit<Circuit, 'dispose'>>().type.toBeAssignableTo<Circuit>()
    expect<Omit<Circuit, 'settle'>>().type.not.toBeAssignableTo<Circuit>()
    expect<Omit<Circuit, 'retryAfter'>>().type.not.toBeAssignableTo<Circuit>()
  })

  test('a circuit tells its state, others do not set it', () => {
    expect<Circuit['state']>().type.toBe<CircuitState>()
    expect<CircuitState>().type.toBe<'closed' | 'open' | 'half-open'>()
    const circuit: Circuit = new MyCircuit()
    expect(circuit.acquire()).type.toBe<number>()
    expect<Parameters<Circuit['settle']>>().type.toBe<[permit: number, outcome: Outcome]>()
    expect<Circuit['dispose']>().type.toBe<(() => void) | undefined>()
    // @ts-expect-error Cannot assign to 'state' because it is a read-only property
    circuit.state = 'open'
    // @ts-expect-error Cannot assign to 'retryAfter' because it is a read-only property
    circuit.retryAfter = 5
  })
})

test('what is told of circuits', () => {
  expect<Backend['circuitState']>().type.toBe<CircuitState>()
  expect<BackendSnapshot['circuitState']>().type.toBe<CircuitState>()
  for (const name of ['circuit:open', 'circuit:half-open', 'circuit:closed'] as const) {
    proxy.on(name, event => { expect(event).type.toBe<CircuitEvent>() })
  }
  proxy.on('circuit:open', ({ upstream, time, backend, cause, counts, from, to }) => {
    expect(backend).type.toBe<Backend>()
    expect([upstream, cause]).type.toBe<string[]>()
    expect(time).type.toBe<number>()
    expect(counts).type.toBe<Record<string, number>>()
    expect([from, to]).type.toBe<CircuitState[]>()
  })
  // @ts-expect-error Argument of type '"circuit:shut"' is not assignable
  proxy.on('circuit:shut', () => {})
})
