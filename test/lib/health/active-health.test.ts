import fc from 'fast-check'
import t from 'tap'
import { Backend } from '../../../lib/backend.ts'
import { checkConnectorOf } from '../../../lib/pool/index.ts'
import type { CheckResult } from '../../../lib/health/check.ts'
import { ActiveHealth } from '../../../lib/health/index.ts'
import { resolveOptions } from '../../../lib/options.ts'
import { HealthOptionsSchema, type BackendOptions, type HealthOptions, type Timer } from '../../../types/index.ts'
import { FakeClock } from '../../helpers/clock.ts'
import { seeded } from '../../helpers/random.ts'

/** Lets promises and their followers run. */
const settle = () => new Promise<void>(resolve => setImmediate(resolve))

/** A check as its checker sees it. */
interface Call {
  backend: Backend
  id: string
  at: number
  signal: AbortSignal
  over: boolean
  pass (): void
  fail (error?: unknown): void
}

/** Time that counts the timers set, and those that have run, by how long they were to run. */
class CountingClock extends FakeClock {
  readonly fired = new Map<number, number>()
  set = 0

  constructor () {
    super()
    const { setTimeout } = this
    this.setTimeout = (callback: () => void, delay: number): Timer => {
      this.set++
      return setTimeout(() => {
        this.fired.set(delay, (this.fired.get(delay) ?? 0) + 1)
        callback()
      }, delay)
    }
  }
}

/** Checks of backends whose results the test gives. */
class Rig {
  readonly clock = new CountingClock()
  readonly calls: Call[] = []
  readonly told: { id: string, at: number, result: CheckResult, changed: boolean, proves: boolean }[] = []
  readonly health: ActiveHealth
  /** What a check answers at once; `null` leaves it under way. */
  answer: ((backend: Backend) => boolean) | null = null
  most = 0
  underWay = new Set<Call>()
  overlapped = false

  constructor (options: HealthOptions = {}, random = seeded(4)) {
    const checker = (backend: unknown, { signal }: { signal: AbortSignal }) => this.#check(backend as Backend, signal)
    this.health = new ActiveHealth(resolveOptions<HealthOptions>(HealthOptionsSchema, { checker, ...options }, 'health'), {
      clock: this.clock,
      random,
      connectorFor: (backend, port) => checkConnectorOf(null, backend, port),
      dispatcherFor: () => null
    }, {
      onHealthChecked: ({ id }, result, changed, proves) => { this.told.push({ id, at: this.clock.now(), result, changed, proves }) }
    })
  }

  add (id: string, options: Partial<BackendOptions> = {}): Backend {
    const backend = new Backend({ id, url: 'http://127.0.0.1:1', ...options }, 0)
    this.health.add(backend)
    return backend
  }

  /** Moves time on in steps, and lets what is answered be heard between them. */
  async pass (milliseconds: number, step = 10): Promise<void> {
    // What is due now begins now.
    this.clock.advance(0)
    await settle()
    for (let passed = 0; passed < milliseconds; passed += step) {
      this.clock.advance(step)
      await settle()
    }
  }

  of (id: string): Call[] {
    return this.calls.filter(call => call.id === id)
  }

  #check (backend: Backend, signal: AbortSignal): unknown {
    for (const call of this.underWay) if (call.backend === backend) this.overlapped = true
    let call!: Call
    const result = new Promise<boolean>((resolve, reject) => {
      const end = (how: () => void) => {
        call.over = true
        this.underWay.delete(call)
        how()
      }
      call = { backend, id: backend.id, at: this.clock.now(), signal, over: false, pass: () => end(() => resolve(true)), fail: (error = new Error('no')) => end(() => reject(error)) }
    })
    signal.addEventListener('abort', () => {
      call.over = true
      this.underWay.delete(call)
    })
    this.calls.push(call)
    this.underWay.add(call)
    this.most = Math.max(this.most, this.underWay.size)
    if (this.answer === null) return result
    const good = this.answer(backend)
    call.pass()
    return good
  }
}

t.test('5 000 backends at 10 s are spread evenly, each checked once an interval', async t => {
  const rig = new Rig({ interval: 10_000, concurrency: 64 })
  rig.answer = () => true
  for (let i = 0; i < 5_000; i++) rig.add(`b${i}`)
  const from = rig.clock.now()
  rig.health.start(false)
  await rig.pass(50_000, 20)
  rig.health.stop()
  const slots = new Array<number>(500).fill(0)
  for (const { at } of rig.calls) slots[Math.min(499, Math.floor((at - from) / 100))]++
  t.ok(Math.max(...slots) <= 3 * 50, `no tenth of a second has more than three times the mean: at most ${Math.max(...slots)} of 50`)
  t.ok(Math.max(...slots.slice(0, 100)) <= 2 * 50, 'and in the first interval, before chance has mixed them, not twice')
  t.ok(Math.min(...slots) > 0, 'none is without')
  const each = new Map<string, number>()
  for (const { id } of rig.calls) each.set(id, (each.get(id) ?? 0) + 1)
  t.equal(each.size, 5_000)
  t.ok([...each.values()].every(count => count >= 4 && count <= 6), 'each was checked about five times in five intervals')
  t.ok(rig.most <= 64)
  t.equal(rig.clock.timers, 0)
})

t.test('looking for those that are due costs little: at most one look per 10 ms, whatever the number of checks', async t => {
  const rig = new Rig({ interval: 10_000, concurrency: 1_000, timeout: 4_321 })
  rig.answer = () => true
  for (let i = 0; i < 5_000; i++) rig.add(`b${i}`)
  rig.health.start(false)
  await rig.pass(10_000, 10)
  rig.health.stop()
  const looks = [...rig.clock.fired].reduce((sum, [delay, count]) => delay === 4_321 ? sum : sum + count, 0)
  t.ok(rig.calls.length > 4_500)
  t.ok(looks <= 1_001, `${looks} looks for ${rig.calls.length} checks in 1 000 times 10 ms`)
})

t.test('one timer serves any number of backends', async t => {
  const rig = new Rig()
  for (let i = 0; i < 1_000; i++) rig.add(`b${i}`)
  t.equal(rig.clock.timers, 0, 'there is none before the start')
  rig.health.start(false)
  t.equal(rig.clock.timers, 1)
  rig.health.stop()
  t.equal(rig.clock.timers, 0)
})

t.test('at most `concurrency` checks are under way, and all get their turn', async t => {
  const rig = new Rig({ interval: 1_000, concurrency: 3, timeout: 400 })
  for (let i = 0; i < 10; i++) rig.add(`b${i}`)
  rig.health.start(true)
  await rig.pass(10)
  t.equal(rig.underWay.size, 3)
  rig.calls[0].pass()
  await settle()
  t.equal(rig.underWay.size, 3, 'the next begins when there is room')
  t.equal(rig.calls.length, 4)
  await rig.pass(2_000)
  t.equal(rig.most, 3)
  t.equal(new Set(rig.calls.map(({ id }) => id)).size, 10)
  rig.health.stop()
})

t.test('where there is too little room for all, those that have waited longest come first, and nobody is forgotten', async t => {
  // One check takes as long as an interval: there is room for one backend of the six.
  const rig = new Rig({ interval: 100, concurrency: 1, timeout: 100, jitter: 0 })
  for (let i = 0; i < 6; i++) rig.add(`b${i}`)
  rig.health.start(true)
  await rig.pass(100 * 6 * 10)
  const counts = Array.from({ length: 6 }, (_, i) => rig.of(`b${i}`).length)
  t.ok(Math.max(...counts) - Math.min(...counts) <= 1, `all were checked as often: ${counts}`)
  t.equal(rig.most, 1)
  rig.health.stop()
})

t.test('backends that hang do not keep the others from being checked', async t => {
  const rig = new Rig({ interval: 1_000, concurrency: 4, timeout: 500 })
  for (let i = 0; i < 20; i++) rig.add(`hung${i}`)
  for (let i = 0; i < 5; i++) rig.add(`well${i}`)
  rig.health.start(true)
  for (let i = 0; i < 600; i++) {
    await rig.pass(10)
    for (const call of rig.underWay) if (call.id.startsWith('well')) call.pass()
  }
  for (let i = 0; i < 5; i++) t.ok(rig.of(`well${i}`).length >= 1, `well${i} was checked`)
  rig.health.stop()
})

t.test('a check that hangs ends at its timeout, is told so, and gives its room back', async t => {
  const rig = new Rig({ interval: 1_000, timeout: 300, concurrency: 1, jitter: 0 })
  const [a, b] = [rig.add('a'), rig.add('b')]
  rig.health.start(true)
  await rig.pass(290)
  t.equal(rig.of('b').length, 0)
  t.equal(rig.calls[0].signal.aborted, false)
  await rig.pass(10)
  t.equal(rig.calls[0].signal.aborted, true)
  t.match(rig.told, [{ id: 'a', result: { passed: false, statusCode: 0, errorMessage: 'no answer within 300 ms' }, changed: false }])
  t.equal(rig.told.length, 1)
  t.match(a.health, { consecutiveFails: 1, errorMessage: 'no answer within 300 ms', responseTime: 300 })
  t.equal(b.health?.lastCheck, undefined)
  t.equal(rig.of('b').length, 1, 'the other one has its turn')
  rig.health.stop()
})

t.test('an answer that comes after the timeout is not heard', async t => {
  const rig = new Rig({ interval: 1_000, timeout: 100, fall: 1, rise: 1 })
  const a = rig.add('a')
  rig.health.start(true)
  await rig.pass(200)
  rig.calls[0].pass()
  await settle()
  t.equal(rig.told.length, 1)
  t.match(a.health, { healthy: false, consecutiveFails: 1, consecutivePasses: 0, lastSuccess: undefined })
  rig.health.stop()
})

t.test('a slow check never overlaps itself, and the next comes when it ends', async t => {
  const rig = new Rig({ interval: 100, timeout: 5_000, jitter: 0 })
  rig.add('a')
  rig.health.start(true)
  await rig.pass(1_000)
  t.equal(rig.calls.length, 1, 'ten intervals have gone by')
  rig.calls[0].pass()
  await rig.pass(30)
  t.equal(rig.calls.length, 2)
  t.notOk(rig.overlapped)
  rig.health.stop()
})

t.test('the interval is from beginning to beginning, and within its jitter', async t => {
  for (const [jitter, least, most] of [[0, 1_000, 1_010], [0.1, 900, 1_110], [0.5, 500, 1_510], [1, 10, 2_010]]) {
    const rig = new Rig({ interval: 1_000, timeout: 900, jitter })
    for (let i = 0; i < 20; i++) rig.add(`b${i}`)
    rig.health.start(true)
    for (let i = 0; i < 2_000; i++) {
      await rig.pass(5, 5)
      // Each takes 5 ms.
      for (const call of rig.underWay) call.pass()
    }
    rig.health.stop()
    const pauses = Array.from({ length: 20 }, (_, i) => rig.of(`b${i}`).slice(1).map(({ at }, j) => at - rig.of(`b${i}`)[j].at)).flat()
    t.ok(pauses.length >= 20 * 7, `${pauses.length} intervals`)
    // What is seen here is as coarse as the steps.
    t.ok(Math.min(...pauses) >= least - 5 && Math.max(...pauses) <= most + 5, `with a jitter of ${jitter} they are ${Math.min(...pauses)} to ${Math.max(...pauses)} ms`)
    if (jitter > 0) t.ok(Math.max(...pauses) - Math.min(...pauses) > 1_000 * jitter, 'and differ')
    const mean = pauses.reduce((sum, pause) => sum + pause, 0) / pauses.length
    t.ok(Math.abs(mean - 1_000) < 100, `on average they are as long as was asked for: ${mean}`)
  }
})

t.test('an unhealthy backend is checked at `unhealthyInterval`', async t => {
  const rig = new Rig({ interval: 1_000, unhealthyInterval: 100, fall: 2, rise: 2, jitter: 0 })
  let well = false
  rig.answer = () => well
  rig.add('a')
  rig.health.start(true)
  await rig.pass(1_500)
  const at = () => rig.calls.map(({ at }) => at - rig.calls[0].at)
  t.strictSame(at().slice(0, 4), [0, 1_000, 1_100, 1_200], 'the second failure makes it unhealthy')
  well = true
  const seen = rig.calls.length
  await rig.pass(1_500)
  const pauses = at().slice(1).map((one, i) => one - at()[i]).slice(seen - 1)
  t.strictSame(pauses, [100, 100, 1_000], 'the second pass makes it healthy')
  rig.health.stop()
})

t.test('while somebody waits for it an unhealthy backend is checked again soon', async t => {
  const rig = new Rig({ interval: 10_000, rise: 2, jitter: 0, initial: 'unhealthy' })
  rig.answer = () => true
  const a = rig.add('a')
  rig.health.start(true)
  rig.health.hurry()
  await rig.pass(150)
  t.equal(a.health?.healthy, true, 'twice in a tenth of a second')
  rig.health.calmDown()
  await rig.pass(5_000)
  t.equal(rig.calls.length, 2)
  rig.health.stop()
})

t.test('without `unhealthyInterval` it is `interval`', async t => {
  const rig = new Rig({ interval: 500, fall: 1, jitter: 0 })
  rig.answer = () => false
  rig.add('a')
  rig.health.start(true)
  await rig.pass(1_600)
  t.strictSame(rig.calls.map(({ at }) => at - rig.calls[0].at), [0, 500, 1_000, 1_500])
  rig.health.stop()
})

t.test('what a backend is taken for at first is what `initial` says', async t => {
  const rig = new Rig({ interval: 1_000, rise: 3, jitter: 0 })
  rig.answer = () => true
  const healthy = rig.add('healthy')
  const unhealthy = rig.add('unhealthy', { healthCheck: { initial: 'unhealthy' } })
  const first = rig.add('first', { healthCheck: { initial: 'check-first' } })
  t.strictSame([healthy, unhealthy, first].map(({ health }) => health?.healthy), [true, false, false])
  rig.health.start(false)
  await rig.pass(10)
  t.strictSame(rig.calls.map(({ id }) => id).sort(), ['first', 'unhealthy'], 'those that are to prove themselves are checked at once')
  t.strictSame([healthy, unhealthy, first].map(({ health }) => health?.healthy), [true, false, true])
  await rig.pass(1_970)
  t.equal(unhealthy.health?.healthy, false)
  await rig.pass(30)
  t.equal(unhealthy.health?.healthy, true, 'after as many as `rise` says')
  t.strictSame(rig.told.filter(({ changed }) => changed).map(({ id }) => id), ['first', 'unhealthy'])
  rig.health.stop()
})

t.test('a backend that is added later is checked within its first interval, or at once where it has to prove itself', async t => {
  const rig = new Rig({ interval: 1_000 })
  rig.answer = () => true
  rig.health.start(false)
  await rig.pass(500)
  rig.add('a')
  rig.add('b', { healthCheck: { initial: 'check-first' } })
  await rig.pass(10)
  t.strictSame(rig.calls.map(({ id }) => id), ['b'])
  await rig.pass(1_010)
  t.ok(rig.of('a').length >= 1)
  rig.health.stop()
})

t.test('nothing is checked before the start', async t => {
  const rig = new Rig({ interval: 100 })
  rig.answer = () => true
  rig.add('a', { healthCheck: { initial: 'check-first' } })
  await rig.pass(1_000)
  t.equal(rig.calls.length, 0)
  t.equal(rig.clock.timers, 0)
})

t.test('stop() gives up the checks under way, and leaves no timer', async t => {
  const rig = new Rig({ interval: 100, concurrency: 2 })
  for (const id of ['a', 'b', 'c', 'd']) rig.add(id)
  rig.health.start(true)
  await rig.pass(10)
  t.equal(rig.underWay.size, 2)
  rig.health.stop()
  t.ok(rig.calls.every(({ signal }) => signal.aborted))
  t.equal(rig.clock.timers, 0)
  await settle()
  t.equal(rig.clock.timers, 0)
  await rig.pass(1_000)
  t.equal(rig.calls.length, 2, 'none begins any more')
  t.strictSame(rig.told, [], 'a check that was given up says nothing of its backend')
})

t.test('stop() begins none of the checks that wait for room', async t => {
  const rig = new Rig({ concurrency: 1 })
  for (const id of ['a', 'b', 'c']) rig.add(id)
  rig.health.start(false)
  const asked = [rig.health.checkAll(), rig.health.checkAll(), rig.health.checkAll()]
  await settle()
  t.equal(rig.calls.length, 1)
  const { set } = rig.clock
  rig.health.stop()
  t.equal(rig.clock.set, set, 'not even to be given up')
  await settle()
  t.ok(rig.calls.every(({ signal }) => signal.aborted))
  t.equal(rig.underWay.size, 0)
  t.equal(rig.clock.timers, 0)
  for (const failed of await Promise.all(asked)) t.equal(failed.length, 3, 'who asked for them hears that they have not passed')
  t.strictSame(rig.told, [])
})

t.test('remove() gives up the check under way, and checks it no more', async t => {
  const rig = new Rig({ interval: 100 })
  const [a, b] = [rig.add('a'), rig.add('b')]
  rig.health.start(true)
  await rig.pass(10)
  rig.health.remove(a)
  t.strictSame(rig.calls.map(({ id, signal }) => [id, signal.aborted]), [['a', true], ['b', false]])
  rig.of('b')[0].pass()
  await rig.pass(1_000)
  t.equal(rig.of('a').length, 1)
  t.equal(rig.of('b').length, 2)
  t.strictSame(rig.told.map(({ id }) => id), ['b'])
  rig.health.remove(b)
  await rig.pass(200)
  t.equal(rig.calls.length, 3)
  t.equal(rig.clock.timers, 0, 'with nobody left there is nothing to wait for')
  rig.health.remove(b)
  rig.health.stop()
})

t.test('a check that waits for room is not begun for a backend that was removed or deactivated meanwhile', async t => {
  const rig = new Rig({ concurrency: 1, timeout: 100 })
  const [, removed, inactive] = [rig.add('a'), rig.add('removed'), rig.add('inactive')]
  rig.health.start(false)
  const asked = rig.health.checkAll()
  await settle()
  rig.health.remove(removed)
  inactive.isActive = false
  rig.health.update(inactive)
  rig.calls[0].pass()
  await rig.pass(300)
  t.strictSame(rig.calls.map(({ id }) => id), ['a'])
  await asked
  rig.health.stop()
})

t.test('a check that waits for room goes by the settings that hold when it begins, and never overlaps another', async t => {
  const rig = new Rig({ concurrency: 2, interval: 100, timeout: 1_000, jitter: 0 })
  const [, , b] = [rig.add('a'), rig.add('a2'), rig.add('b')]
  rig.health.start(false)
  const asked = rig.health.checkAll()
  await settle()
  t.equal(rig.of('b').length, 0)
  b.healthCheck = { timeout: 300 }
  rig.health.update(b)
  rig.of('a')[0].pass()
  await rig.pass(150)
  t.equal(rig.of('b').length, 1)
  rig.of('a2')[0].pass()
  await rig.pass(200)
  t.notOk(rig.overlapped)
  t.match(rig.told.find(({ id }) => id === 'b'), { result: { errorMessage: 'no answer within 300 ms' } })
  rig.health.stop()
  await asked
})

t.test('a backend that is deactivated is checked no more; activated again, at once', async t => {
  const rig = new Rig({ interval: 1_000, timeout: 500, jitter: 0 })
  const a = rig.add('a')
  rig.health.start(true)
  await rig.pass(10)
  a.isActive = false
  rig.health.update(a)
  t.ok(rig.calls[0].signal.aborted)
  await rig.pass(5_000)
  t.equal(rig.calls.length, 1)
  t.equal(rig.clock.timers, 0)
  t.strictSame(rig.told, [])
  t.strictSame(await rig.health.checkAll(), [], 'not even when all are')
  a.isActive = true
  rig.health.update(a)
  await rig.pass(10)
  t.equal(rig.calls.length, 2)
  rig.calls[1].pass()
  await rig.pass(1_010)
  t.equal(rig.calls.length, 3, 'and then as ever')
  t.notOk(rig.overlapped)
  rig.health.stop()
})

t.test('one that is inactive from the beginning is checked when it is activated', async t => {
  const rig = new Rig({ interval: 1_000 })
  const a = rig.add('a', { isActive: false })
  rig.health.start(true)
  await rig.pass(2_000)
  t.equal(rig.calls.length, 0)
  a.isActive = true
  rig.health.update(a)
  await rig.pass(10)
  t.equal(rig.calls.length, 1)
  rig.health.stop()
})

t.test('a backend\'s own settings are taken over when they change', async t => {
  const rig = new Rig({ interval: 10_000, timeout: 5_000, fall: 3, jitter: 0 })
  rig.answer = () => false
  const a = rig.add('a', { healthCheck: { interval: 200 } })
  rig.health.start(true)
  await rig.pass(10)
  t.equal(rig.calls.length, 1)
  a.healthCheck = { interval: 100, fall: 2 }
  rig.health.update(a)
  await rig.pass(120)
  t.equal(rig.calls.length, 2, 'the next is due within the new interval')
  t.equal(a.health?.healthy, false, 'two failures are enough now')
  await rig.pass(1_000)
  t.equal(rig.calls.length, 12)
  a.healthCheck = { interval: 100, timeout: 50 }
  rig.answer = null
  rig.health.update(a)
  await rig.pass(200)
  t.match(a.health, { errorMessage: 'no answer within 50 ms' })
  rig.health.stop()
})

t.test('settings that change while a check is under way count for its result', async t => {
  const rig = new Rig({ interval: 1_000, timeout: 500, fall: 3, jitter: 0 })
  const a = rig.add('a')
  rig.health.start(true)
  await rig.pass(10)
  a.healthCheck = { fall: 1, unhealthyInterval: 50 }
  rig.health.update(a)
  t.equal(rig.calls[0].signal.aborted, false, 'it goes on')
  rig.calls[0].fail()
  await rig.pass(70)
  t.equal(a.health?.healthy, false)
  t.equal(rig.calls.length, 2)
  t.notOk(rig.overlapped)
  rig.health.stop()
})

t.test('a change that is none of its business leaves the time of the next check as it is', async t => {
  const rig = new Rig({ interval: 1_000, jitter: 0 })
  rig.answer = () => true
  const a = rig.add('a')
  rig.health.start(true)
  for (let i = 0; i < 300; i++) {
    await rig.pass(10)
    // As a change of its weight would.
    rig.health.update(a)
  }
  await rig.pass(20)
  t.strictSame(rig.calls.map(({ at }) => at - rig.calls[0].at), [0, 1_000, 2_000, 3_000])
  rig.health.stop()
})

t.test('checkAll() checks all now, begins none twice, and resolves to those that failed', async t => {
  const rig = new Rig({ interval: 10_000, timeout: 1_000, fall: 1 })
  for (const id of ['a', 'b', 'c']) rig.add(id)
  rig.health.start(false)
  const all = rig.health.checkAll()
  const again = rig.health.checkAll()
  await settle()
  t.equal(rig.calls.length, 3, 'a check under way is waited for')
  rig.of('a')[0].pass()
  rig.of('b')[0].fail(new Error('broken'))
  await rig.pass(1_010)
  const expected = [
    { backend: { id: 'b' }, result: { passed: false, errorMessage: 'broken' } },
    { backend: { id: 'c' }, result: { passed: false, errorMessage: 'no answer within 1000 ms' } }
  ]
  for (const failed of [await all, await again]) {
    t.match(failed, expected)
    t.equal(failed.length, 2)
  }
  t.strictSame(rig.told.map(({ id, changed }) => [id, changed]), [['a', false], ['b', true], ['c', true]], 'each result counts once')
  rig.health.stop()
})

t.test('checkAll() waits for the check that the scheduler has begun', async t => {
  const rig = new Rig({ interval: 10_000 })
  rig.add('a')
  rig.health.start(true)
  await rig.pass(10)
  const all = rig.health.checkAll()
  t.equal(rig.calls.length, 1)
  rig.calls[0].pass()
  t.strictSame(await all, [])
  t.equal(rig.calls.length, 1)
  rig.health.stop()
})

t.test('checkAll() keeps to `concurrency` as well', async t => {
  const rig = new Rig({ concurrency: 3, interval: 10_000 })
  for (let i = 0; i < 20; i++) rig.add(`b${i}`)
  const all = rig.health.checkAll()
  for (let i = 0; i < 20; i++) {
    await settle()
    for (const call of [...rig.underWay].slice(0, 1)) call.pass()
  }
  t.strictSame(await all, [])
  t.equal(rig.most, 3)
  t.equal(rig.calls.length, 20)
  t.equal(rig.clock.timers, 0, 'before the start nothing further is planned')
})

t.test('checks that were asked for before the start are not begun a second time by it', async t => {
  const rig = new Rig({ interval: 1_000, jitter: 0 })
  rig.add('a')
  const all = rig.health.checkAll()
  rig.health.start(true)
  await rig.pass(100)
  t.equal(rig.calls.length, 1)
  t.notOk(rig.overlapped)
  rig.calls[0].pass()
  t.strictSame(await all, [])
  await rig.pass(1_000)
  t.equal(rig.calls.length, 2, 'and it goes on from there')
  rig.health.stop()
})

t.test('checkAll() does not speak of those that were taken out meanwhile', async t => {
  const rig = new Rig({ interval: 10_000, concurrency: 3 })
  const [, removed, inactive] = [rig.add('a'), rig.add('removed'), rig.add('inactive')]
  const all = rig.health.checkAll()
  await settle()
  rig.health.remove(removed)
  inactive.isActive = false
  rig.health.update(inactive)
  t.strictSame(rig.calls.map(({ signal }) => signal.aborted), [false, true, true])
  rig.calls[0].fail()
  t.strictSame((await all).map(({ backend }) => backend.id), ['a'])
})

t.test('a checker may take backends out while it is called', async t => {
  let rig: Rig | null = null
  const seen: string[] = []
  const checker = (backend: { id: string }) => {
    seen.push(backend.id)
    if (backend.id === 'a') for (const one of backends) rig?.health.remove(one)
    return new Promise(() => {})
  }
  rig = new Rig({ checker })
  const backends = ['a', 'b'].map(id => (rig as Rig).add(id))
  rig.health.start(true)
  await rig.pass(10)
  t.equal(rig.clock.timers, 0, 'nothing is left of either')
  await rig.pass(20_000)
  t.strictSame(rig.told, [])
  t.strictSame(seen, ['a'], 'the other one is not even asked')
  rig.health.stop()
})

/** What may happen to five backends. */
const commands = fc.array(fc.oneof(
  fc.record({ do: fc.constantFrom('pass', 'fail', 'remove', 'add', 'activate', 'deactivate', 'hurry', 'touch'), which: fc.integer({ min: 0, max: 4 }), time: fc.constant(0) }),
  fc.record({ do: fc.constantFrom('advance'), which: fc.constant(0), time: fc.constantFrom(0, 1, 10, 40, 100, 500) }),
  fc.record({ do: fc.constantFrom('all', 'start'), which: fc.constant(0), time: fc.constant(0) })
), { maxLength: 60 })

t.test('whatever happens: never too many, never two of one backend, never one that is out, and nothing is left at the end', async t => {
  await fc.assert(fc.asyncProperty(commands, fc.integer({ min: 1, max: 4 }), fc.integer(), async (commands, concurrency, seed) => {
    const rig = new Rig({ interval: 100, timeout: 40, concurrency, rise: 1, fall: 1 }, seeded(seed))
    const backends: (Backend | null)[] = Array.from({ length: 5 }, (_, i) => rig.add(`b${i}`))
    const asked: Promise<unknown>[] = []
    let started = false
    const judge = () => {
      if (rig.most > concurrency) throw new Error(`${rig.most} at once`)
      if (rig.overlapped) throw new Error('two of one backend')
      for (const { backend } of rig.underWay) if (!backends.includes(backend) || !backend.isActive) throw new Error(`${backend.id} is out`)
    }
    for (const { do: what, which, time } of commands) {
      const backend = backends[which]
      if (what === 'add') backends[which] ??= rig.add(`b${which}`)
      else if (what === 'all') asked.push(rig.health.checkAll())
      else if (what === 'advance') rig.clock.advance(time)
      else if (what === 'start' && !started) {
        started = true
        rig.health.start(time > 0)
      } else if (backend !== null && what === 'remove') {
        backends[which] = null
        rig.health.remove(backend)
      } else if (backend !== null && (what === 'activate' || what === 'deactivate')) {
        backend.isActive = what === 'activate'
        rig.health.update(backend)
      } else if (backend !== null && (what === 'hurry' || what === 'touch')) {
        if (what === 'hurry') backend.healthCheck = { interval: 20 }
        rig.health.update(backend)
      } else for (const call of rig.underWay) if (call.backend === backend) what === 'pass' ? call.pass() : call.fail()
      judge()
      await Promise.resolve()
      if (time > 0 || what === 'all') await settle()
      judge()
    }
    // Those that are in are checked, where anybody checks; the rest never again.
    if (started) {
      const from = rig.calls.length
      rig.answer = () => true
      await rig.pass(400)
      const seen = new Set(rig.calls.slice(from).map(({ backend }) => backend))
      for (const backend of backends) if (backend?.isActive === true && !seen.has(backend)) throw new Error(`${backend.id} was not checked any more`)
      judge()
    }
    rig.health.stop()
    if (rig.clock.timers > 0) throw new Error('a timer is left')
    if (rig.underWay.size > 0) throw new Error('a check is left')
    await Promise.all(asked)
    const { length } = rig.calls
    await rig.pass(500, 100)
    if (rig.calls.length > length || rig.clock.timers > 0) throw new Error('it goes on')
  }), { numRuns: 300, seed: 4 })
  t.pass()
})

t.test('with nobody to check, all have passed', async t => {
  const rig = new Rig()
  rig.health.start(true)
  t.strictSame(await rig.health.checkAll(), [])
  t.equal(rig.clock.timers, 0)
  rig.health.stop()
})

t.test('a checker may throw, reject or say false; all else is a pass', async t => {
  const results: [answer: () => unknown, result: Partial<CheckResult>][] = [
    [() => { throw new Error('thrown') }, { passed: false, errorMessage: 'thrown' }],
    [async () => { throw new Error('rejected') }, { passed: false, errorMessage: 'rejected' }],
    // eslint-disable-next-line prefer-promise-reject-errors
    [() => Promise.reject('a text'), { passed: false, errorMessage: 'a text' }],
    [() => false, { passed: false, errorMessage: 'the checker said no' }],
    [async () => false, { passed: false, errorMessage: 'the checker said no' }],
    [() => true, { passed: true, errorMessage: '' }],
    [() => undefined, { passed: true, errorMessage: '' }],
    [() => null, { passed: true, errorMessage: '' }],
    [() => 0, { passed: true, errorMessage: '' }],
    [async () => 'false', { passed: true, errorMessage: '' }]
  ]
  for (const [checker, result] of results) {
    const rig = new Rig({ checker })
    const a = rig.add('a')
    await rig.health.checkAll()
    t.match(rig.told, [{ result, proves: true }])
    t.equal(a.health?.errorMessage, result.errorMessage)
  }
})

t.test('a check that looks only at the port proves less than one that asks', async t => {
  for (const [options, proves] of [[{ checker: undefined }, false], [{ checker: undefined, path: '/health' }, true], [{}, true]] as const) {
    const rig = new Rig({ ...options, timeout: 100 })
    rig.answer = () => true
    rig.add('a')
    await rig.health.checkAll()
    t.equal(rig.told[0].proves, proves)
  }
})
