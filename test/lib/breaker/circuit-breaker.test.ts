import t from 'tap'
import { Backend } from '../../../lib/backend.ts'
import { CircuitBreaker, createBreaker, isGatewayFailure } from '../../../lib/breaker/index.ts'
import type { BreakerInput, BreakerOptions, Circuit, CircuitBreaker as Contract, CircuitEnv, Culprit, Outcome } from '../../../types/index.ts'
import { FakeClock } from '../../helpers/clock.ts'

const outcome = (culprit: Culprit, statusCode: number, responseTime = 1): Outcome => ({ stage: 'done', culprit, statusCode, error: undefined, headTime: -1, responseTime })
const backend = (id = 'a') => new Backend({ id, url: 'http://127.0.0.1:1' }, 0)

function env (): CircuitEnv & { clock: FakeClock } {
  return { clock: new FakeClock(), random: () => 0.5, upstream: 'test', changed: () => {} }
}

/** How many failures in a row open a circuit made with these options, and how long it waits then. */
function tripsAfter (options: BreakerOptions, responseTime = 1): [failures: number, wait: number] {
  const circuit = new CircuitBreaker(options).createCircuit(backend(), env())
  for (let i = 1; i <= 100; i++) {
    circuit.settle(circuit.acquire(), outcome('backend', 0, responseTime))
    if (circuit.state === 'open') return [i, circuit.retryAfter]
  }
  return [Infinity, 0]
}

t.test('a gateway failure is no answer, a broken one, or one of 502, 503 and 504', t => {
  for (const status of [0, 200, 404, 500, 503]) t.equal(isGatewayFailure(outcome('backend', status)), true, `broken off at ${status}`)
  const statuses = Array.from({ length: 500 }, (_, i) => 100 + i)
  t.strictSame(statuses.filter(status => isGatewayFailure(outcome('none', status))), [502, 503, 504])
  t.end()
})

t.test('by default: 5 failures in a row, 30 s', t => {
  t.strictSame(tripsAfter({}), [5, 30_000])
  t.match(new CircuitBreaker().options, { timeout: 30_000, maxTimeout: 300_000, jitter: 0.1, halfOpenRequests: 1, successThreshold: 1 })
  t.equal(new CircuitBreaker().type, 'circuit-breaker')
  t.end()
})

t.test('threshold and timeout, as in the seed', t => {
  t.strictSame(tripsAfter({ threshold: 2, timeout: 5_000 }), [2, 5_000])
  t.strictSame(tripsAfter({ threshold: 1 }), [1, 30_000])
  t.end()
})

t.test('rules take the place of the default rule, threshold stands beside them', t => {
  t.strictSame(tripsAfter({ rules: [{ type: 'failure-rate' }] }), [20, 30_000], 'half of at least 20')
  t.strictSame(tripsAfter({ rules: [{ type: 'failure-rate' }], threshold: 7 }), [7, 30_000])
  t.strictSame(tripsAfter({ rules: [{ type: 'failure-rate', minimumRequests: 3 }], threshold: 7 }), [3, 30_000])
  t.strictSame(tripsAfter({ rules: [{ type: 'consecutive' }] }), [5, 30_000])
  t.strictSame(tripsAfter({ rules: [{ type: 'consecutive', threshold: 9 }] }), [9, 30_000])
  t.strictSame(tripsAfter({ rules: [{ type: 'slow-rate' }] }), [Infinity, 0], 'failures that are quick are not slow')
  t.strictSame(tripsAfter({ rules: [{ type: 'slow-rate' }] }, 5_000), [Infinity, 0])
  t.strictSame(tripsAfter({ rules: [{ type: 'slow-rate' }] }, 5_001), [20, 30_000])
  t.strictSame(tripsAfter({ rules: [] }), [5, 30_000], 'no rules are as none given')
  t.strictSame(tripsAfter({ rules: [() => ({ record: () => true, reset () {} })] }), [1, 30_000])
  t.end()
})

t.test('every backend has rules of its own', t => {
  let made = 0
  const rule = () => {
    made++
    let failures = 0
    return { record: (failed: boolean) => failed && ++failures >= 2, reset () {} }
  }
  const breaker = new CircuitBreaker({ rules: [rule] })
  const [a, b] = [backend('a'), backend('b')].map(backend => breaker.createCircuit(backend, env()))
  t.equal(made, 2)
  for (const circuit of [a, b, a]) circuit.settle(circuit.acquire(), outcome('backend', 0))
  t.equal(breaker.getState('a'), 'open')
  t.equal(breaker.getState('b'), 'closed')
  t.end()
})

t.test('maxTimeout where only the timeout is given is no less', t => {
  const breaker = new CircuitBreaker({ threshold: 1, timeout: 1_000_000 })
  const { clock, ...rest } = env()
  const circuit = breaker.createCircuit(backend(), { clock, ...rest })
  for (let i = 0; i < 3; i++) {
    circuit.settle(circuit.acquire(), outcome('backend', 0))
    t.equal(circuit.retryAfter, 1_000_000)
    clock.advance(1_000_000)
  }
  t.end()
})

t.test('wrong options are named with their path', t => {
  const wrong: [unknown, RegExp][] = [
    [{ threshold: 0 }, /^breaker\.threshold must be an integer of at least 1, and is 0$/],
    [{ threshold: 1.5 }, /^breaker\.threshold /],
    [{ threshold: '5' }, /^breaker\.threshold /],
    [{ treshold: 5 }, /^breaker\.treshold is not an option; did you mean 'threshold'\?$/],
    [{ timeout: 0 }, /^breaker\.timeout /],
    [{ timeout: -1 }, /^breaker\.timeout /],
    [{ timeout: NaN }, /^breaker\.timeout /],
    [{ timeout: 100, maxTimeout: 99 }, /^breaker\.maxTimeout must be at least timeout, 100, and is 99$/],
    [{ maxTimeout: 1_000 }, /^breaker\.maxTimeout must be at least timeout, 30000, and is 1000$/],
    [{ jitter: -0.1 }, /^breaker\.jitter /],
    [{ jitter: 1.1 }, /^breaker\.jitter /],
    [{ halfOpenRequests: 0 }, /^breaker\.halfOpenRequests /],
    [{ successThreshold: 0 }, /^breaker\.successThreshold /],
    [{ isFailure: true }, /^breaker\.isFailure must be a function/],
    [{ rules: {} }, /^breaker\.rules /],
    [{ rules: [{ type: 'failures' }] }, /^breaker\.rules\[0\].*'consecutive'/],
    [{ rules: [{ type: 'consecutive' }, { type: 'failure-rate', threshold: 50 }] }, /^breaker\.rules\[1\]\.threshold must be a number above 0, at most 1, and is 50$/],
    [{ rules: [{ type: 'failure-rate', threshold: 0 }] }, /^breaker\.rules\[0\]\.threshold /],
    [{ rules: [{ type: 'failure-rate', window: 9 }] }, /^breaker\.rules\[0\]\.window /],
    [{ rules: [{ type: 'failure-rate', minimumRequests: 0 }] }, /^breaker\.rules\[0\]\.minimumRequests /],
    [{ rules: [{ type: 'slow-rate', slowThreshold: 0 }] }, /^breaker\.rules\[0\]\.slowThreshold /],
    [{ rules: [{ type: 'slow-rate', slowTreshold: 5 }] }, /^breaker\.rules\[0\]\.slowTreshold is not an option; did you mean 'slowThreshold'\?$/]
  ]
  for (const [options, message] of wrong) {
    t.throws(() => new CircuitBreaker(options as BreakerOptions), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message })
    t.throws(() => createBreaker(options as BreakerInput), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message })
  }
  t.throws(() => new CircuitBreaker({ threshold: 0 }, 'options.upstreams.x.breaker'), { message: /^options\.upstreams\.x\.breaker\.threshold / })
  t.end()
})

t.test('its options cannot be changed, and those given are not', t => {
  const given: BreakerOptions = { threshold: 2 }
  const breaker = new CircuitBreaker(given)
  t.strictSame(given, { threshold: 2 })
  t.ok(Object.isFrozen(breaker.options))
  given.threshold = 9
  t.equal(breaker.options.threshold, 2)
  t.end()
})

t.test('knows its circuits by the ids of their backends', t => {
  const breaker = new CircuitBreaker({ threshold: 2 })
  const [a, b] = [backend('a'), backend('b')].map(backend => breaker.createCircuit(backend, env()))
  t.equal(breaker.getState('a'), 'closed')
  breaker.open('a')
  t.equal(breaker.getState('a'), 'open')
  t.equal(a.retryAfter, Infinity)
  t.equal(b.state, 'closed')
  breaker.close('a')
  t.equal(a.state, 'closed')
  b.settle(b.acquire(), outcome('backend', 0))
  breaker.reset('b')
  b.settle(b.acquire(), outcome('backend', 0))
  t.equal(breaker.getState('b'), 'closed', 'reset() forgets what was counted')
  b.settle(b.acquire(), outcome('backend', 0))
  t.equal(breaker.getState('b'), 'open')
  breaker.reset('b')
  t.equal(breaker.getState('b'), 'closed')
  t.end()
})

t.test('an id it does not know is told so', t => {
  const breaker = new CircuitBreaker()
  breaker.createCircuit(backend('a'), env())
  for (const id of ['b', '', '__proto__', 'constructor']) {
    for (const call of ['getState', 'reset', 'open', 'close'] as const) t.throws(() => breaker[call](id), { code: 'FST_ROCKSTAR_UNKNOWN_BACKEND', statusCode: 404 }, `${call}('${id}')`)
  }
  t.end()
})

t.test('a backend that has gone is forgotten, and its timer let go', t => {
  const breaker = new CircuitBreaker({ threshold: 1 })
  const first = backend('a')
  const world = env()
  const circuit = breaker.createCircuit(first, world)
  circuit.settle(circuit.acquire(), outcome('backend', 0))
  t.equal(world.clock.timers, 1)
  breaker.removeCircuit(first)
  t.equal(world.clock.timers, 0)
  t.throws(() => breaker.getState('a'), { code: 'FST_ROCKSTAR_UNKNOWN_BACKEND' })
  t.doesNotThrow(() => breaker.removeCircuit(first))
  t.end()
})

t.test('it serves one upstream: another backend of an id that it knows is refused, until the first has gone', t => {
  const breaker = new CircuitBreaker({ threshold: 1 })
  const [old, next] = [backend('a'), backend('a')]
  breaker.createCircuit(old, env())
  t.throws(() => breaker.createCircuit(next, env()), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /serves one upstream.*'a' of 'test'/ })
  breaker.removeCircuit(next)
  t.equal(breaker.getState('a'), 'closed', 'a stranger that goes takes nothing with it')
  breaker.removeCircuit(old)
  breaker.createCircuit(next, env())
  t.equal(breaker.getState('a'), 'closed')
  t.end()
})

// What the option takes

t.test('true and nothing mean the defaults, an object its options, an instance itself', t => {
  for (const input of [undefined, true, {}]) {
    const breaker = createBreaker(input)
    t.ok(breaker instanceof CircuitBreaker)
    t.equal((breaker as CircuitBreaker).options.timeout, 30_000)
  }
  t.equal((createBreaker({ threshold: 3 }) as CircuitBreaker).options.threshold, 3)
  const instance = new CircuitBreaker({ threshold: 4 })
  t.equal(createBreaker(instance), instance)
  const mine: Contract = { type: 'mine', createCircuit: () => ({}) as Circuit, getState: () => 'closed', reset () {} }
  t.equal(createBreaker(mine), mine)
  t.end()
})

t.test('false lets everything pass', t => {
  const breaker = createBreaker(false)
  t.equal(breaker.type, 'none')
  const circuit = breaker.createCircuit(backend(), env())
  for (let i = 0; i < 100; i++) {
    t.not(circuit.acquire(), -1)
    circuit.settle(0, outcome('backend', 0))
  }
  t.equal(circuit.state, 'closed')
  t.equal(circuit.retryAfter, 0)
  t.equal(breaker.getState('a'), 'closed')
  t.end()
})

t.test('what is no breaker is told so', t => {
  for (const input of [null, 5, 'consecutive', () => {}, { createCircuit: () => {} }, { type: 'x' }]) {
    t.throws(() => createBreaker(input as unknown as BreakerInput), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /^breaker/ })
  }
  t.end()
})
