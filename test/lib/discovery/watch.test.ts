import t from 'tap'
import type { Findings } from '../../../lib/discovery/source.ts'
import { Watch } from '../../../lib/discovery/watch.ts'
import { saidOf } from '../../../lib/discovery/said.ts'
import type { DiscoveryOptions } from '../../../types/index.ts'
import { FakeClock } from '../../helpers/clock.ts'

const settle = () => new Promise<void>(resolve => setImmediate(resolve))
const some = (ttl?: number): Findings => ({ backends: [saidOf('http://127.0.0.1:1', 'b')], ttl })
const none: Findings = { backends: [], ttl: undefined }

/** A watch of a source whose next answers are `next`, the last of them again and again. */
function scene (next: (Findings | Error | 'never')[], options: Partial<DiscoveryOptions> = {}, random = () => 0) {
  const clock = new FakeClock()
  const told: string[] = []
  const signals: AbortSignal[] = []
  let used = 0
  const source = {
    name: 'it',
    find: async (signal: AbortSignal) => {
      signals.push(signal)
      const answer = next.length > 1 ? next.shift() : next[0]
      if (answer === 'never') return await new Promise<never>(() => {})
      if (answer instanceof Error) throw answer
      return answer as Findings
    }
  }
  const watch = new Watch(source, { type: 'dns', jitter: 0.1, timeout: 5_000, emptyGrace: 60_000, ...options }, { clock, random }, {
    has: () => used > 0,
    onFound: (_, { backends }) => {
      used = backends.length
      told.push(`found ${used}`)
    },
    onFailed: (_, cause) => { told.push(`failed: ${cause}`) },
    onRecovered: (_, cause) => { told.push(`recovered: ${cause}`) }
  })
  const advance = async (milliseconds: number) => {
    clock.advance(milliseconds)
    await settle()
  }
  const start = async () => {
    watch.start()
    await settle()
  }
  t.teardown(() => watch.stop())
  return { clock, watch, told, signals, start, advance, looks: () => signals.length }
}

t.test('it looks again when the ttl is over, or after the interval, or after 10 s', async t => {
  for (const [findings, options, pause] of [[some(2_000), { interval: 7_000 }, 2_000], [some(), { interval: 7_000 }, 7_000], [some(), {}, 10_000]] as const) {
    const { start, advance, looks } = scene([findings], options)
    await start()
    t.equal(looks(), 1)
    await advance(pause - 1)
    t.equal(looks(), 1)
    await advance(1)
    t.equal(looks(), 2)
    await advance(pause)
    t.equal(looks(), 3)
  }
})

t.test('jitter makes that longer, never shorter', async t => {
  const { start, advance, looks } = scene([some()], { interval: 1_000, jitter: 0.5 }, () => 0.8)
  await start()
  await advance(1_399)
  t.equal(looks(), 1)
  await advance(1)
  t.equal(looks(), 2)
})

t.test('failures are told once, and tried again after 1, 2, 4 … 30 s, until it is over', async t => {
  const { start, advance, looks, told } = scene([some(), new Error('down'), new Error('down'), new Error('still'), new Error('still'), new Error('still'), new Error('still'), new Error('still'), new Error('still'), some()])
  await start()
  await advance(10_000)
  t.strictSame(told, ['found 1', 'failed: down'])
  let expected = 2
  for (const pause of [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]) {
    await advance(pause - 1)
    t.equal(looks(), expected)
    await advance(1)
    t.equal(looks(), ++expected)
  }
  await advance(30_000)
  t.strictSame(told, ['found 1', 'failed: down', 'found 1', 'recovered: 1 found'])
})

t.test('a short interval is kept in failures too', async t => {
  const { start, advance, looks } = scene([new Error('down')], { interval: 300 })
  await start()
  await advance(300)
  await advance(300)
  t.equal(looks(), 3)
})

t.test('a look that takes too long is given up, and its signal tells so', async t => {
  const { start, advance, signals, told, looks } = scene(['never', some()])
  await start()
  await advance(4_999)
  t.notOk(signals[0].aborted)
  await advance(1)
  t.ok(signals[0].aborted)
  t.strictSame(told, ['failed: no answer within 5000 ms'])
  await advance(1_000)
  t.equal(looks(), 2)
  t.strictSame(told.slice(1), ['found 1', 'recovered: 1 found'])
})

t.test('that there is nothing is believed after emptyGrace, and not before', async t => {
  const { start, advance, told } = scene([some(), none], { interval: 25_000, emptyGrace: 60_000 })
  await start()
  await advance(25_000)
  t.strictSame(told, ['found 1', 'failed: there are no backends'])
  await advance(25_000)
  await advance(25_000)
  await advance(9_999)
  t.equal(told.length, 2)
  await advance(1)
  t.strictSame(told.slice(2), ['found 0'], 'and not an interval later')
})

t.test('what comes back within emptyGrace begins it anew', async t => {
  const { start, advance, told } = scene([some(), none, some(), none, none], { interval: 10_000, emptyGrace: 15_000 })
  await start()
  await advance(10_000)
  await advance(10_000)
  await advance(10_000)
  await advance(10_000)
  t.strictSame(told, ['found 1', 'failed: there are no backends', 'found 1', 'recovered: 1 found', 'failed: there are no backends'])
  await advance(5_000)
  t.equal(told.at(-1), 'found 0')
})

t.test('with an emptyGrace of 0 it is believed at once', async t => {
  const { start, advance, told } = scene([some(), none], { emptyGrace: 0 })
  await start()
  await advance(10_000)
  t.strictSame(told, ['found 1', 'failed: there are no backends', 'found 0'])
})

t.test('hurry looks at once, at most once a second', async t => {
  const { start, advance, watch, looks } = scene([some(60_000)])
  await start()
  await advance(400)
  for (let i = 0; i < 5; i++) watch.hurry()
  await advance(599)
  t.equal(looks(), 1)
  await advance(1)
  t.equal(looks(), 2)
  await advance(5_000)
  watch.hurry()
  await advance(0)
  t.equal(looks(), 3)
  await advance(59_999)
  t.equal(looks(), 3, 'and nothing else is moved')
})

t.test('stop ends all of it: no timer is left, a look under way is aborted and its findings are of no account', async t => {
  const first = scene([some()])
  await first.start()
  first.watch.stop()
  t.equal(first.clock.timers, 0)
  first.watch.hurry()
  t.equal(first.clock.timers, 0)
  const second = scene([some()])
  second.watch.start()
  second.watch.stop()
  await settle()
  t.ok(second.signals[0].aborted)
  t.strictSame(second.told, [])
  t.equal(second.clock.timers, 0)
})
