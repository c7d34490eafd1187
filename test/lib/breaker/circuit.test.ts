import fc from 'fast-check'
import t from 'tap'
import { isGatewayFailure } from '../../../lib/breaker/index.ts'
import { Circuit, type CircuitPolicy } from '../../../lib/breaker/circuit.ts'
import { createRule } from '../../../lib/breaker/rules.ts'
import type { CircuitState, Culprit, Outcome, RuleOptions, TripRule } from '../../../types/index.ts'
import { FakeClock } from '../../helpers/clock.ts'
import { seeded } from '../../helpers/random.ts'

const outcome = (culprit: Culprit, statusCode = 0, responseTime = 1): Outcome => ({ stage: 'done', culprit, statusCode, error: undefined, headTime: -1, responseTime })
const outcomes = {
  success: outcome('none', 200),
  failure: outcome('backend'),
  client: outcome('client'),
  proxy: outcome('proxy')
}
type Result = keyof typeof outcomes

interface Change {
  from: CircuitState
  to: CircuitState
  why: string
  counts: Record<string, number>
  at: number
}

const plain: CircuitPolicy = { timeout: 1_000, maxTimeout: 8_000, jitter: 0, halfOpenRequests: 1, successThreshold: 1, isFailure: isGatewayFailure }

/** A circuit whose time and chance the test owns, and what it has told. */
function makeCircuit ({ rules = [{ type: 'consecutive', threshold: 3 }], random = () => 0.5, ...policy }: Partial<CircuitPolicy> & { rules?: RuleOptions[], random?: () => number } = {}) {
  const clock = new FakeClock()
  const changes: Change[] = []
  const circuit = new Circuit(rules.map(createRule), { ...plain, ...policy }, {
    clock,
    random,
    upstream: 'test',
    changed: (from, why, counts) => { changes.push({ from, to: circuit.state, why, counts, at: clock.now() }) }
  })
  /** Lets attempts through and ends them so, one after the other. */
  const attempt = (...results: Result[]) => { for (const result of results) circuit.settle(circuit.acquire(), outcomes[result]) }
  return { circuit, clock, changes, attempt }
}

// The reference model

/** An attempt under way: where it began. */
interface Begun {
  permit: number
  state: CircuitState
  /** How many changes there had been. */
  era: number
}

/** What a circuit should be, in the plainest words: a history, and what follows from it. */
class Model {
  state: CircuitState = 'closed'
  /** When it half-opens, where it is open. */
  until = Infinity
  era = 0
  /** Times opened since last closed. */
  openings = 0
  /** All results since last closed, while closed. */
  history: { failed: boolean, at: number }[] = []
  trying: Begun[] = []
  succeeded = 0
  readonly policy: CircuitPolicy
  readonly threshold: number
  readonly rate: { minimum: number, window: number } | null

  constructor (policy: CircuitPolicy, threshold: number, rate: Model['rate']) {
    this.policy = policy
    this.threshold = threshold
    this.rate = rate
  }

  /** When the last try began. */
  triedAt = -Infinity

  mayPass (now: number): boolean {
    return this.state === 'closed' || (this.state === 'half-open' && (this.trying.length < this.policy.halfOpenRequests || now - this.triedAt >= this.policy.timeout))
  }

  /** Tries that have taken too long are no longer waited for. */
  begin (begun: Begun, now: number): void {
    if (this.state !== 'half-open') return
    if (this.trying.length === this.policy.halfOpenRequests) for (const late of this.trying.splice(0)) late.era = -1
    this.trying.push(begun)
    this.triedAt = now
  }

  become (state: CircuitState): void {
    this.state = state
    this.era++
    this.trying = []
    this.succeeded = 0
    if (state === 'open') this.openings++
    if (state === 'closed') {
      this.openings = 0
      this.history = []
    }
  }

  settle (begun: Begun, result: Result, now: number): void {
    this.trying = this.trying.filter(one => one !== begun)
    if (begun.era !== this.era || result === 'client' || result === 'proxy') return
    const failed = result === 'failure'
    if (this.state === 'half-open') {
      if (failed) this.become('open')
      else if (++this.succeeded === this.policy.successThreshold) this.become('closed')
      return
    }
    this.history.push({ failed, at: now })
    if (this.trips(now)) this.become('open')
  }

  trips (now: number): boolean {
    const last = this.history.slice(-this.threshold)
    if (last.length === this.threshold && last.every(({ failed }) => failed)) return true
    if (this.rate === null || !this.history[this.history.length - 1].failed) return false
    const { minimum, window } = this.rate
    const bucket = (time: number) => Math.floor(time / (window / 10))
    const counted = this.history.filter(({ at }) => bucket(at) > bucket(now) - 10)
    return counted.length >= minimum && counted.filter(({ failed }) => failed).length * 2 >= counted.length
  }
}

/** A command is what to do, which of the attempts under way or how long, and how it ends: three small numbers. */
const command = fc.tuple(fc.integer({ min: 0, max: 15 }), fc.nat({ max: 999 }), fc.nat({ max: 999 }))
const RESULTS: Result[] = ['success', 'failure', 'failure', 'client', 'proxy']
const GAPS = [1, 7, 90, 250, 500, 1_000, 2_000, 30_000]

interface Setting {
  policy: CircuitPolicy
  threshold: number
  rate: Model['rate']
  seed: number
}

const setting: fc.Arbitrary<Setting> = fc.record({
  policy: fc.record({
    timeout: fc.constantFrom(100, 1_000),
    maxTimeout: fc.constantFrom(1_000, 3_000, 100_000),
    jitter: fc.constantFrom(0, 0.1, 1),
    halfOpenRequests: fc.integer({ min: 1, max: 3 }),
    successThreshold: fc.integer({ min: 1, max: 3 }),
    isFailure: fc.constant(isGatewayFailure)
  }),
  threshold: fc.integer({ min: 1, max: 5 }),
  rate: fc.option(fc.record({ minimum: fc.integer({ min: 2, max: 6 }), window: fc.constantFrom(1_000, 10_000) })),
  seed: fc.integer()
})

/** Runs one sequence on both; throws where they differ. Returns the states that were passed through. */
function compare ({ policy, threshold, rate, seed }: Setting, commands: readonly [number, number, number][]): CircuitState[] {
  const rules: RuleOptions[] = [{ type: 'consecutive', threshold }]
  if (rate !== null) rules.push({ type: 'failure-rate', threshold: 0.5, window: rate.window, minimumRequests: rate.minimum })
  const { circuit, clock, changes } = makeCircuit({ rules, random: seeded(seed), ...policy })
  const model = new Model(policy, threshold, rate)
  const underWay: Begun[] = []
  let told = 0

  const check = (holds: boolean, what: string) => {
    if (!holds) throw new Error(`${what}; the model is ${model.state} of era ${model.era}, the circuit ${circuit.state}, ${JSON.stringify(changes[changes.length - 1])}`)
  }
  /** Takes over how long the circuit waits: chance has a say in that, within bounds. */
  const takeWait = (byHand: boolean) => {
    const wait = circuit.retryAfter
    const growing = Math.min(policy.maxTimeout, policy.timeout * 2 ** (model.openings - 1))
    // Near maxTimeout there may be no room to be longer.
    const least = growing * (1 - policy.jitter) / (growing * (1 + policy.jitter) > policy.maxTimeout ? 1 + policy.jitter : 1)
    if (byHand) check(wait === Infinity, `opened by hand it waits ${wait}`)
    else check(wait >= least - 1e-6 && wait <= growing * (1 + policy.jitter) + 1e-6, `opened for the ${model.openings}th time it waits ${wait}, not ${growing} give or take ${policy.jitter}`)
    model.until = clock.now() + wait
  }

  for (const [kind, which, how] of commands) {
    const before = model.era
    if (kind < 6) {
      const permit = circuit.acquire()
      check((permit !== -1) === model.mayPass(clock.now()), `a permit is ${permit}`)
      if (permit !== -1) {
        const begun = { permit, state: model.state, era: model.era }
        underWay.push(begun)
        model.begin(begun, clock.now())
      }
    } else if (kind < 12 && underWay.length > 0) {
      const [begun] = underWay.splice(which % underWay.length, 1)
      const result = RESULTS[how % RESULTS.length]
      circuit.settle(begun.permit, outcomes[result])
      // What must never be, said apart from the model.
      if (begun.state !== 'half-open') check(circuit.state !== 'closed' || model.state === 'closed', 'an attempt that was no try has closed it')
      if (result === 'client' || result === 'proxy') check(changes.length === told, 'an attempt that was given up has changed it')
      model.settle(begun, result, clock.now())
      if (model.state === 'open' && model.era !== before) takeWait(false)
    } else if (kind < 14) {
      // Often to the very end of the wait, or just before.
      const wait = model.state === 'open' && model.until !== Infinity ? Math.max(0, model.until - clock.now()) : 0
      const gap = how % 3 === 0 ? wait : how % 3 === 1 ? Math.max(0, wait - 1) : GAPS[which % GAPS.length]
      const target = clock.now() + gap
      clock.advance(gap)
      if (model.state === 'open' && model.until <= target) model.become('half-open')
    } else if (kind === 14 && how % 4 === 0 && circuit.retryAfter !== Infinity) {
      circuit.open()
      model.become('open')
      takeWait(true)
    } else if (kind === 15 && how % 4 === 0) {
      circuit.close()
      if (model.state === 'closed') model.history = []
      else model.become('closed')
    }
    check(circuit.state === model.state, `after command ${kind}`)
    check(changes.length === model.era, `${changes.length} changes were told`)
    for (const { to } of changes.slice(told)) check(to === model.state, 'another change was told')
    told = changes.length
    const tries = underWay.filter(({ state, era }) => state === 'half-open' && era === model.era).length
    check(tries <= policy.halfOpenRequests, `${tries} tries at once`)
    check(clock.timers === (model.state === 'open' && model.until !== Infinity ? 1 : 0), `${clock.timers} timers run`)
    const wait = model.state === 'open' ? Math.max(0, model.until - clock.now()) : 0
    check(circuit.retryAfter === wait, `retryAfter is ${circuit.retryAfter}, not ${wait}`)
  }
  return changes.map(({ to }) => to)
}

t.test('10 000 random sequences of commands: it does what the model does', t => {
  const seen: Record<string, number> = { closed: 0, open: 0, 'half-open': 0 }
  fc.assert(fc.property(setting, fc.array(command, { maxLength: 60, size: 'max' }), (setting, commands) => {
    for (const state of compare(setting, commands)) seen[state]++
  }), { numRuns: 10_000 })
  t.ok(Object.values(seen).every(times => times > 1_000), `all states were met often: ${JSON.stringify(seen)}`)
  t.end()
})

// By example

t.test('closed: lets everything through, however much is under way', t => {
  const { circuit } = makeCircuit()
  for (let i = 0; i < 1_000; i++) t.not(circuit.acquire(), -1)
  t.equal(circuit.retryAfter, 0)
  t.end()
})

t.test('open: lets nothing through until its time is over, then as many as may try', t => {
  for (const halfOpenRequests of [1, 2, 5]) {
    const { circuit, clock, attempt } = makeCircuit({ halfOpenRequests })
    attempt('failure', 'failure', 'failure')
    t.equal(circuit.state, 'open')
    t.equal(circuit.acquire(), -1)
    clock.advance(400)
    t.equal(circuit.retryAfter, 600)
    clock.advance(599)
    t.equal(circuit.acquire(), -1)
    clock.advance(1)
    t.equal(circuit.state, 'half-open')
    t.equal(circuit.retryAfter, 0)
    const permits = Array.from({ length: 50 }, () => circuit.acquire()).filter(permit => permit !== -1)
    t.equal(permits.length, halfOpenRequests)
    t.equal(clock.timers, 0)
  }
  t.end()
})

t.test('half-open: an attempt that its client gives up makes room for another and counts as nothing', t => {
  for (const result of ['client', 'proxy'] as const) {
    const { circuit, clock, changes, attempt } = makeCircuit()
    attempt('failure', 'failure', 'failure')
    clock.advance(1_000)
    for (let i = 0; i < 20; i++) {
      const permit = circuit.acquire()
      t.not(permit, -1)
      t.equal(circuit.acquire(), -1)
      circuit.settle(permit, outcomes[result])
    }
    t.equal(circuit.state, 'half-open')
    t.equal(changes.length, 2)
    attempt('success')
    t.equal(circuit.state, 'closed')
  }
  t.end()
})

t.test('closed: an attempt that its client gives up neither counts as a failure nor ends a row of them', t => {
  const { circuit, attempt } = makeCircuit()
  attempt('client', 'proxy', 'client', 'proxy', 'client')
  t.equal(circuit.state, 'closed')
  attempt('failure', 'client', 'failure', 'proxy')
  t.equal(circuit.state, 'closed')
  attempt('failure')
  t.equal(circuit.state, 'open')
  t.end()
})

t.test('results of attempts begun before it opened change nothing, whenever they come', t => {
  const { circuit, clock, changes, attempt } = makeCircuit({ successThreshold: 2 })
  const early = Array.from({ length: 12 }, () => circuit.acquire())
  attempt('failure', 'failure', 'failure')
  const settleTwo = () => {
    circuit.settle(early.pop() as number, outcomes.success)
    circuit.settle(early.pop() as number, outcomes.failure)
  }
  settleTwo()
  t.equal(circuit.state, 'open')
  clock.advance(1_000)
  settleTwo()
  settleTwo()
  t.equal(circuit.state, 'half-open')
  const permit = circuit.acquire()
  t.not(permit, -1, 'they have taken no permit')
  settleTwo()
  t.equal(circuit.acquire(), -1, 'and given none back')
  circuit.settle(permit, outcomes.success)
  attempt('success')
  t.equal(circuit.state, 'closed')
  settleTwo()
  settleTwo()
  t.equal(circuit.state, 'closed')
  attempt('failure', 'failure')
  t.equal(circuit.state, 'closed', 'nor have they been counted')
  t.equal(changes.length, 3)
  t.end()
})

t.test('results of an earlier round of tries neither close nor open it', t => {
  const { circuit, clock, attempt } = makeCircuit({ halfOpenRequests: 3, successThreshold: 1 })
  attempt('failure', 'failure', 'failure')
  clock.advance(1_000)
  const [first, second, third] = [circuit.acquire(), circuit.acquire(), circuit.acquire()]
  circuit.settle(first, outcomes.failure)
  t.equal(circuit.state, 'open')
  clock.advance(2_000)
  t.equal(circuit.state, 'half-open')
  circuit.settle(second, outcomes.success)
  circuit.settle(third, outcomes.failure)
  t.equal(circuit.state, 'half-open')
  t.end()
})

t.test('successThreshold: so many tries must succeed, and one that fails begins anew', t => {
  const { circuit, clock, attempt } = makeCircuit({ successThreshold: 3 })
  attempt('failure', 'failure', 'failure')
  clock.advance(1_000)
  attempt('success', 'client', 'success')
  t.equal(circuit.state, 'half-open')
  attempt('failure')
  t.equal(circuit.state, 'open')
  clock.advance(2_000)
  attempt('success', 'success')
  t.equal(circuit.state, 'half-open')
  attempt('success')
  t.equal(circuit.state, 'closed')
  t.end()
})

t.test('each try that fails doubles the wait up to maxTimeout, and closing begins anew', t => {
  const { circuit, clock, attempt } = makeCircuit({ timeout: 1_000, maxTimeout: 6_000 })
  const waits: number[] = []
  attempt('failure', 'failure', 'failure')
  for (let i = 0; i < 6; i++) {
    waits.push(circuit.retryAfter)
    clock.advance(circuit.retryAfter)
    attempt('failure')
  }
  t.strictSame(waits, [1_000, 2_000, 4_000, 6_000, 6_000, 6_000])
  clock.advance(circuit.retryAfter)
  attempt('success', 'failure', 'failure', 'failure')
  t.equal(circuit.retryAfter, 1_000)
  t.end()
})

t.test('a wait that has been doubled a thousand times is still maxTimeout', t => {
  const { circuit, clock, attempt } = makeCircuit({ timeout: 1_000, maxTimeout: 6_000 })
  attempt('failure', 'failure', 'failure')
  for (let i = 0; i < 1_100; i++) {
    clock.advance(circuit.retryAfter)
    attempt('failure')
  }
  t.equal(circuit.retryAfter, 6_000)
  t.end()
})

t.test('jitter makes the wait longer or shorter by its part at the most, and uses all of that', t => {
  for (const jitter of [0, 0.1, 0.5, 1]) {
    const random = seeded(7)
    const waits = Array.from({ length: 2_000 }, () => {
      const { circuit, attempt } = makeCircuit({ jitter, random })
      attempt('failure', 'failure', 'failure')
      return circuit.retryAfter
    })
    const [least, most, mean] = [Math.min(...waits), Math.max(...waits), waits.reduce((sum, wait) => sum + wait, 0) / waits.length]
    t.ok(least >= 1_000 * (1 - jitter) - 1e-6 && least <= 1_000 * (1 - 0.98 * jitter) + 1e-6, `at least ${least}`)
    t.ok(most <= 1_000 * (1 + jitter) + 1e-6 && most >= 1_000 * (1 + 0.98 * jitter) - 1e-6, `at most ${most}`)
    t.ok(Math.abs(mean - 1_000) <= 40 * jitter, `${mean} on average`)
  }
  t.end()
})

t.test('no wait is longer than maxTimeout, jitter included', t => {
  const { circuit, clock, attempt } = makeCircuit({ timeout: 1_000, maxTimeout: 2_000, jitter: 0.5, random: () => 0.999 })
  attempt('failure', 'failure', 'failure')
  for (let i = 0; i < 4; i++) {
    t.ok(circuit.retryAfter <= 2_000, `the ${i + 1}th wait is ${circuit.retryAfter}`)
    clock.advance(circuit.retryAfter)
    attempt('failure')
  }
  t.end()
})

// By hand

t.test('open() isolates: no time ends that, and no result', t => {
  for (const before of [[], ['failure', 'failure', 'failure']] as Result[][]) {
    const { circuit, clock, attempt } = makeCircuit()
    const early = circuit.acquire()
    attempt(...before)
    circuit.open()
    t.equal(circuit.state, 'open')
    t.equal(circuit.retryAfter, Infinity)
    t.equal(clock.timers, 0, 'there is no timer to wake it')
    clock.advance(100_000_000)
    circuit.settle(early, outcomes.success)
    t.equal(circuit.state, 'open')
    t.equal(circuit.acquire(), -1)
    circuit.close()
    t.equal(circuit.state, 'closed')
    t.equal(circuit.retryAfter, 0)
  }
  t.end()
})

t.test('open() while it is half-open ends the round of tries', t => {
  const { circuit, clock, attempt } = makeCircuit()
  attempt('failure', 'failure', 'failure')
  clock.advance(1_000)
  const permit = circuit.acquire()
  circuit.open()
  circuit.settle(permit, outcomes.success)
  t.equal(circuit.state, 'open')
  t.equal(circuit.retryAfter, Infinity)
  t.end()
})

t.test('close() ends an opening at once and forgets what was counted', t => {
  const { circuit, clock, attempt } = makeCircuit()
  attempt('failure', 'failure', 'failure')
  circuit.close()
  t.equal(circuit.state, 'closed')
  t.equal(clock.timers, 0)
  attempt('failure', 'failure')
  t.equal(circuit.state, 'closed')
  circuit.close()
  attempt('failure', 'failure')
  t.equal(circuit.state, 'closed', 'also where it was closed already')
  attempt('failure')
  t.equal(circuit.state, 'open')
  t.equal(circuit.retryAfter, 1_000, 'the wait begins anew too')
  t.end()
})

t.test('openFor() opens it for so long, whatever its timeout is', t => {
  const { circuit, clock, attempt } = makeCircuit()
  circuit.openFor(5_500)
  t.equal(circuit.retryAfter, 5_500)
  clock.advance(5_499)
  t.equal(circuit.state, 'open')
  clock.advance(1)
  t.equal(circuit.state, 'half-open')
  attempt('success')
  t.equal(circuit.state, 'closed')
  t.end()
})

t.test('dispose() lets go of the timer', t => {
  const { circuit, clock, attempt } = makeCircuit()
  attempt('failure', 'failure', 'failure')
  t.equal(clock.timers, 1)
  circuit.dispose()
  t.equal(clock.timers, 0)
  circuit.dispose()
  t.end()
})

t.test('what ends after dispose() starts no timer', t => {
  const { circuit, clock } = makeCircuit()
  const permits = [circuit.acquire(), circuit.acquire(), circuit.acquire()]
  circuit.dispose()
  for (const permit of permits) circuit.settle(permit, outcomes.failure)
  t.equal(clock.timers, 0)
  t.end()
})

// What it tells

t.test('every change is told with from, why and counts, once, after it has happened', t => {
  const { circuit, clock, changes, attempt } = makeCircuit({ successThreshold: 2 })
  attempt('success', 'failure', 'failure', 'failure')
  clock.advance(1_000)
  attempt('failure')
  clock.advance(2_000)
  attempt('success', 'success')
  circuit.open()
  circuit.close()
  t.match(changes, [
    { from: 'closed', to: 'open', counts: { openings: 1, consecutiveFailures: 3 }, at: 1_000 },
    { from: 'open', to: 'half-open', counts: {}, at: 2_000 },
    { from: 'half-open', to: 'open', counts: { openings: 2 }, at: 2_000 },
    { from: 'open', to: 'half-open', at: 4_000 },
    { from: 'half-open', to: 'closed', counts: { successes: 2 }, at: 4_000 },
    { from: 'closed', to: 'open', counts: { openings: 1 }, at: 4_000 },
    { from: 'open', to: 'closed', at: 4_000 }
  ])
  t.strictSame(changes.map(({ why }) => why), [
    'too many attempts failed or were slow', 'it has been open for long enough', 'a try failed', 'it has been open for long enough', 'tries succeeded',
    'it was opened by hand', 'it was closed by hand'
  ])
  t.end()
})

t.test('successes of an earlier round are not told as those that closed it', t => {
  const { circuit, clock, changes, attempt } = makeCircuit({ successThreshold: 2 })
  attempt('failure', 'failure', 'failure')
  clock.advance(1_000)
  attempt('success', 'failure')
  circuit.close()
  t.match(changes.pop(), { from: 'open', to: 'closed', counts: { successes: 0 } })
  t.end()
})

t.test('isolating what is isolated already is no change', t => {
  const { circuit, changes } = makeCircuit()
  circuit.open()
  circuit.open()
  t.equal(changes.length, 1)
  t.end()
})

// Rules

/** A rule that does as the test says and writes down what it hears. */
class Scripted implements TripRule {
  trips = false
  heard: unknown[] = []
  record (...heard: [boolean, number, number]) {
    this.heard.push(heard)
    return this.trips
  }

  reset () { this.heard.push('reset') }
}

t.test('a rule of the user\'s own hears of every result and decides', t => {
  const rule = new Scripted()
  const { circuit, clock, attempt, changes } = makeCircuit({ rules: [() => rule] })
  attempt('success', 'client', 'failure', 'proxy')
  clock.advance(5)
  circuit.settle(circuit.acquire(), outcome('none', 503, 77))
  t.strictSame(rule.heard, [[false, 1, 1_000], [true, 1, 1_000], [true, 77, 1_005]])
  rule.trips = true
  attempt('success')
  t.equal(circuit.state, 'open')
  t.strictSame(changes[0].counts, { openings: 1 }, 'one without counts() is as good')
  clock.advance(1_000)
  attempt('success')
  t.equal(rule.heard.length, 5, 'of tries it does not hear')
  t.equal(rule.heard[4], 'reset', 'but that it is closed')
  circuit.close()
  t.equal(rule.heard.length, 6, 'and that all is to be forgotten')
  t.end()
})

t.test('of several rules any trips, and all hear of every result', t => {
  const [first, second] = [new Scripted(), new Scripted()]
  for (const one of [first, second]) {
    const { circuit, attempt } = makeCircuit({ rules: [() => first, () => second] })
    one.trips = true
    attempt('failure')
    t.equal(circuit.state, 'open')
    one.trips = false
  }
  t.equal(first.heard.length, 2)
  t.equal(second.heard.length, 2)
  t.end()
})

t.test('consecutive, failure-rate and slow-rate together', t => {
  const rules: RuleOptions[] = [
    { type: 'consecutive', threshold: 3 },
    { type: 'failure-rate', threshold: 0.5, window: 10_000, minimumRequests: 6 },
    { type: 'slow-rate', slowThreshold: 100, threshold: 0.5, window: 10_000, minimumRequests: 4 }
  ]
  const cases: [Outcome[], counts: Record<string, number>][] = [
    [[outcomes.failure, outcomes.failure, outcomes.failure], { consecutiveFailures: 3, failures: 3, slow: 0 }],
    [[outcomes.failure, outcomes.success, outcomes.failure, outcomes.success, outcomes.success, outcomes.failure], { consecutiveFailures: 1, requests: 6, failures: 3, slow: 0 }],
    [[outcomes.success, outcomes.success, outcome('none', 200, 101), outcome('none', 404, 500)], { consecutiveFailures: 0, requests: 4, failures: 0, slow: 2 }]
  ]
  for (const [results, counts] of cases) {
    const { circuit, changes } = makeCircuit({ rules })
    for (const [i, result] of results.entries()) {
      t.equal(circuit.state, 'closed', `before result ${i + 1}`)
      circuit.settle(circuit.acquire(), result)
    }
    t.equal(circuit.state, 'open')
    t.match(changes[0].counts, { openings: 1, ...counts })
  }
  t.end()
})

t.test('isFailure is asked of what ended by the backend, and of nothing else', t => {
  const asked: Outcome[] = []
  const isFailure = (outcome: Outcome) => {
    asked.push(outcome)
    return outcome.statusCode === 200
  }
  const { circuit, clock, attempt } = makeCircuit({ isFailure })
  attempt('failure', 'client', 'proxy', 'failure')
  t.strictSame(asked, [outcomes.failure, outcomes.failure])
  attempt('success', 'success', 'success')
  t.equal(circuit.state, 'open')
  clock.advance(1_000)
  attempt('client', 'proxy')
  t.equal(asked.length, 5)
  attempt('failure')
  t.equal(circuit.state, 'closed')
  t.end()
})

t.test('an isFailure that throws keeps no permit', t => {
  let broken = false
  const { circuit, clock, attempt } = makeCircuit({
    isFailure: outcome => {
      if (broken) throw new Error('mine')
      return isGatewayFailure(outcome)
    }
  })
  attempt('failure', 'failure', 'failure')
  clock.advance(1_000)
  broken = true
  for (let i = 0; i < 3; i++) {
    const permit = circuit.acquire()
    t.not(permit, -1)
    t.throws(() => circuit.settle(permit, outcomes.success), { message: 'mine' })
  }
  t.equal(circuit.state, 'half-open')
  broken = false
  attempt('success')
  t.equal(circuit.state, 'closed')
  t.end()
})

t.test('how long it still waits is never below 0, though its timer is late', t => {
  let now = 0
  let wake = () => {}
  const clock = { now: () => now, wall: () => now, setTimeout: (callback: () => void) => { wake = callback; return {} }, clearTimeout: () => {} }
  const circuit = new Circuit([createRule({ type: 'consecutive', threshold: 1 })], plain, { clock, random: () => 0.5, upstream: 'test', changed: () => {} })
  circuit.settle(circuit.acquire(), outcomes.failure)
  t.equal(circuit.retryAfter, 1_000)
  // The machine was asleep.
  now += 3_600_000
  t.equal(circuit.retryAfter, 0)
  wake()
  t.equal(circuit.state, 'half-open')
  t.end()
})

t.test('it may be asked to let a request try before its time, but not where it was opened by hand', t => {
  const { circuit, clock, changes, attempt } = makeCircuit()
  circuit.tryNow()
  t.equal(circuit.state, 'closed', 'there is nothing to try')
  attempt('failure', 'failure', 'failure')
  circuit.tryNow()
  t.equal(circuit.state, 'half-open')
  t.equal(clock.timers, 0, 'and not once more by the clock')
  t.match(changes[changes.length - 1], { from: 'open', to: 'half-open', why: 'the backend passes its health checks again' })
  attempt('failure')
  t.equal(circuit.retryAfter, 2_000, 'a try that fails counts as any')
  circuit.open()
  circuit.tryNow()
  t.equal(circuit.state, 'open')
  t.end()
})
