import t from 'tap'
import { Deadlines, type Deadlined } from '../../lib/deadlines.ts'
import { FakeClock } from '../helpers/clock.ts'

/** Something with a deadline, which notes when it was met and leaves. */
class Entry implements Deadlined {
  deadline: number
  previous: Deadlined | null = null
  next: Deadlined | null = null
  met: number[] = []
  readonly onMet: () => void
  readonly clock: FakeClock

  constructor (deadlines: Deadlines, clock: FakeClock, wait: number, onMet?: () => void) {
    this.clock = clock
    this.deadline = clock.now() + wait
    this.onMet = onMet ?? (() => deadlines.remove(this))
    deadlines.add(this)
  }

  onDeadline (): void {
    this.met.push(this.clock.now())
    this.onMet()
  }

  isOn (): boolean {
    return false
  }

  giveUp (): void {}
}

function begin () {
  const clock = new FakeClock()
  return { clock, deadlines: new Deadlines(clock), start: clock.now() }
}

t.test('a deadline is met once, never early, and at most one pace late', async t => {
  for (const wait of [0, 1, 249, 250, 251, 999, 30_000]) {
    const { clock, deadlines, start } = begin()
    const entry = new Entry(deadlines, clock, wait)
    clock.advance(wait - 1)
    t.strictSame(entry.met, [], `${wait} ms`)
    clock.advance(251)
    t.equal(entry.met.length, 1)
    t.ok(entry.met[0] >= start + wait && entry.met[0] <= start + wait + 250)
    clock.advance(100_000)
    t.equal(entry.met.length, 1)
  }
})

t.test('short timeouts are swept finer: a tenth of the shortest, 5 ms at the finest', async t => {
  for (const [timeout, pace] of [[1_000, 100], [100, 10], [50, 5], [10, 5], [1, 5], [5_000, 250], [0, 250]]) {
    const { clock, deadlines } = begin()
    deadlines.allowFor(30_000)
    deadlines.allowFor(timeout)
    deadlines.allowFor(60_000)
    const entry = new Entry(deadlines, clock, 1)
    clock.advance(pace - 1)
    t.strictSame(entry.met, [], `for ${timeout} ms`)
    clock.advance(1)
    t.equal(entry.met.length, 1)
  }
})

t.test('a deadline may be moved at any time, and Infinity is never', async t => {
  const { clock, deadlines } = begin()
  const moved = new Entry(deadlines, clock, 1_000)
  const never = new Entry(deadlines, clock, Infinity)
  for (let i = 0; i < 20; i++) {
    clock.advance(900)
    moved.deadline = clock.now() + 1_000
  }
  t.equal(moved.met.length, 0)
  clock.advance(1_250)
  t.equal(moved.met.length, 1)
  clock.advance(10_000_000)
  t.equal(never.met.length, 0)
  deadlines.remove(never)
})

t.test('the timer runs only while something is under way', async t => {
  const { clock, deadlines } = begin()
  t.equal(clock.timers, 0)
  const first = new Entry(deadlines, clock, Infinity)
  const second = new Entry(deadlines, clock, Infinity)
  t.equal(clock.timers, 1, 'one for all')
  deadlines.remove(first)
  clock.advance(10_000)
  t.equal(clock.timers, 1)
  deadlines.remove(second)
  clock.advance(250)
  t.equal(clock.timers, 0)
  const third = new Entry(deadlines, clock, 100)
  t.equal(clock.timers, 1)
  clock.advance(250)
  t.equal(third.met.length, 1)
  t.equal(clock.timers, 0)
})

t.test('entries are counted, listed and taken out from any place', async t => {
  const { clock, deadlines } = begin()
  const entries = Array.from({ length: 5 }, () => new Entry(deadlines, clock, Infinity))
  t.equal(deadlines.size, 5)
  t.same(new Set(deadlines.entries()), new Set(entries))
  for (const i of [2, 4, 0, 3, 1]) {
    deadlines.remove(entries[i])
    t.notOk(deadlines.entries().includes(entries[i]))
  }
  t.equal(deadlines.size, 0)
  t.strictSame(deadlines.entries(), [])
  for (const entry of entries) deadlines.remove(entry)
  t.equal(deadlines.size, 0, 'taking out what is not in changes nothing')
  deadlines.add(entries[0])
  deadlines.remove(entries[1])
  t.equal(deadlines.size, 1)
})

t.test('meeting one deadline may take out others, and add new ones', async t => {
  const { clock, deadlines } = begin()
  const order: string[] = []
  const others: Entry[] = []
  const all = ['a', 'b', 'c', 'd'].map(name => new Entry(deadlines, clock, 100, () => {
    order.push(name)
    for (const entry of all) deadlines.remove(entry)
    others.push(new Entry(deadlines, clock, 100))
  }))
  clock.advance(250)
  t.equal(order.length, 1, 'those taken out are not met')
  t.equal(deadlines.size, 1)
  clock.advance(250)
  t.strictSame(others.map(entry => entry.met.length), [1])
  t.equal(deadlines.size, 0)
})

t.test('one that stays in is met again until it moves on', async t => {
  const { clock, deadlines } = begin()
  const stubborn = new Entry(deadlines, clock, 100, () => {})
  clock.advance(1_000)
  t.ok(stubborn.met.length > 1)
  stubborn.deadline = Infinity
  const { length } = stubborn.met
  clock.advance(1_000)
  t.equal(stubborn.met.length, length)
  deadlines.remove(stubborn)
})

t.test('whenEmpty() resolves at once, with the last one out, or after its time', async t => {
  const { clock, deadlines } = begin()
  await deadlines.whenEmpty(1_000)
  t.equal(clock.timers, 0)

  const first = new Entry(deadlines, clock, Infinity)
  const second = new Entry(deadlines, clock, Infinity)
  let empty = false
  const waiting = deadlines.whenEmpty(10_000).then(() => { empty = true })
  deadlines.remove(first)
  await Promise.resolve()
  t.equal(empty, false)
  deadlines.remove(second)
  await waiting
  clock.advance(250)
  t.equal(clock.timers, 0, 'its timer is gone with it')

  const stuck = new Entry(deadlines, clock, Infinity)
  let late = false
  const timedOut = deadlines.whenEmpty(5_000).then(() => { late = true })
  clock.advance(4_999)
  await Promise.resolve()
  t.equal(late, false)
  clock.advance(1)
  await timedOut
  t.equal(late, true)
  deadlines.remove(stuck)
})

t.test('stop() ends the sweep, and entries may still come and go', async t => {
  const { clock, deadlines } = begin()
  const entry = new Entry(deadlines, clock, 100)
  deadlines.stop()
  deadlines.stop()
  t.equal(clock.timers, 0)
  clock.advance(1_000)
  t.equal(entry.met.length, 0)
  deadlines.remove(entry)
  t.equal(deadlines.size, 0)
})

t.test('a thousand entries with deadlines of all kinds are each met in time', async t => {
  const { clock, deadlines, start: began } = begin()
  const waits = Array.from({ length: 1_000 }, (_, i) => i * 7919 % 5_000)
  const entries = waits.map(wait => new Entry(deadlines, clock, wait))
  clock.advance(6_000)
  t.ok(entries.every(({ met }, i) => met.length === 1 && met[0] >= began + waits[i] && met[0] <= began + waits[i] + 250))
  t.equal(deadlines.size, 0)
  t.equal(clock.timers, 0)
})
