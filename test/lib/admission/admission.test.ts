import fc from 'fast-check'
import t from 'tap'
import { Admission, type Concurrency, type Entrant } from '../../../lib/admission/index.ts'
import type { LimitsOptions } from '../../../types/index.ts'
import { Overload, percentile, Timeline, Worker, type Tally } from './simulation.ts'

/** An attempt that waits from its beginning; returns how many do. */
function begin (concurrency: Concurrency): number {
  concurrency.begin()
  return concurrency.wait()
}

/** Somebody who comes, and what has become of him. */
class Guest implements Entrant {
  readonly name: string
  readonly priority: number
  readonly turn: number
  readonly told: string[]
  earlier = null
  later = null
  list: object | null = null
  /** Whether there is room for him when it is his turn. */
  fits = () => true

  constructor (admission: Admission, name: string, told: string[], priority = 0) {
    this.name = name
    this.priority = priority
    this.turn = admission.nextTurn()
    this.told = told
  }

  onTurn (): boolean {
    if (!this.fits()) return false
    this.told.push(this.name)
    return true
  }

  onShed (): void {
    this.told.push(`${this.name} shed`)
  }
}

function start (limits: LimitsOptions) {
  const admission = new Admission(limits, 'limits')
  const told: string[] = []
  return { admission, told, guest: (name: string, priority?: number) => new Guest(admission, name, told, priority) }
}

const tick = () => new Promise<void>(resolve => process.nextTick(resolve))

t.test('as many are let in as may be, and another when one has left', async t => {
  const { admission, told, guest } = start({ maxInFlight: 2 })
  t.strictSame([admission.enter(), admission.enter(), admission.enter()], [true, true, false])
  t.ok(admission.wait(guest('a')))
  t.equal(admission.queueLength, 1)
  admission.leave()
  t.strictSame(told, [], 'not in the middle of what the one who left was doing')
  t.equal(admission.enter(), false, 'who waits comes before who comes')
  await tick()
  t.strictSame(told, ['a'])
  t.strictSame([admission.inFlight, admission.queueLength], [2, 0])
})

for (const [order, expected] of [['fifo', 'abcdef'], ['lifo', 'fedcba']] as const) {
  t.test(`with ${order} they are served in the order ${expected}`, async t => {
    const { admission, told, guest } = start({ maxInFlight: 1, queue: { order } })
    admission.enter()
    for (const name of 'abcdef') admission.wait(guest(name))
    for (const _ of 'abcdef') {
      admission.leave()
      await tick()
    }
    t.equal(told.join(''), expected)
  })
}

t.test('lower numbers are served first, and of equal ones who came first', async t => {
  const { admission, told, guest } = start({ maxInFlight: 1 })
  admission.enter()
  for (const [name, priority] of [['a', 5], ['b', 0], ['c', -1], ['d', 5], ['e', 0]] as const) admission.wait(guest(name, priority))
  for (const _ of 'abcde') {
    admission.leave()
    await tick()
  }
  t.equal(told.join(''), 'cbead')
})

t.test('in a full queue who is more important takes the place of who is least, and who is not is refused', async t => {
  const { admission, told, guest } = start({ maxInFlight: 1, queue: { size: 3 } })
  admission.enter()
  for (const [name, priority] of [['a', 1], ['b', 2], ['c', 2]] as const) t.ok(admission.wait(guest(name, priority)))
  t.notOk(admission.wait(guest('d', 3)))
  t.notOk(admission.wait(guest('e', 2)), 'who is as important came later')
  t.strictSame(told, [])
  t.ok(admission.wait(guest('f', 0)))
  t.strictSame(told, ['c shed'], 'of the least important the one that would have been served last')
  t.equal(admission.queueLength, 3)
})

t.test('with lifo a full queue lets go of the oldest', async t => {
  const { admission, told, guest } = start({ maxInFlight: 1, queue: { size: 2, order: 'lifo' } })
  admission.enter()
  for (const name of 'abcd') t.ok(admission.wait(guest(name)))
  t.strictSame(told, ['a shed', 'b shed'])
})

t.test('without a queue nobody waits', async t => {
  const { admission, guest } = start({ maxInFlight: 1, queue: false })
  admission.enter()
  t.notOk(admission.wait(guest('a')))
  t.equal(admission.queueLength, 0)
})

t.test('who waits no longer is passed over', async t => {
  const { admission, told, guest } = start({ maxInFlight: 1 })
  admission.enter()
  const a = guest('a')
  admission.wait(a)
  admission.wait(guest('b'))
  admission.forget(a)
  admission.forget(a)
  admission.leave()
  await tick()
  t.strictSame(told, ['b'])
})

t.test('who finds no room on his backends holds up none of those behind him, however many he is, and keeps his place', async t => {
  for (const order of ['fifo', 'lifo'] as const) {
    const { admission, told, guest } = start({ maxInFlight: 1_000, queue: { order } })
    let room = false
    const stuck = Array.from({ length: 500 }, (_, i) => Object.assign(guest(String(i)), { fits: () => room }))
    const free = guest('free')
    const all = order === 'fifo' ? [...stuck, free] : [free, ...stuck]
    // As each has its own turn, only the order of joining says who is behind.
    const turns = all.map((_, i) => 1_000 + i)
    all.forEach((one, i) => Object.assign(one, { turn: turns[i] }))
    for (const one of all) admission.wait(one)
    admission.onRoom()
    await tick()
    t.strictSame(told, ['free'], order)
    t.equal(admission.queueLength, 500)
    t.equal(admission.inFlight, 1)
    room = true
    admission.onRoom()
    await tick()
    t.strictSame(told.slice(1), order === 'fifo' ? stuck.map(({ name }) => name) : stuck.map(({ name }) => name).reverse())
  }
})

t.test('nobody is asked while every backend is full', async t => {
  const { admission, guest } = start({ maxPerBackend: 1 })
  const [one, other] = [admission.concurrency(0), admission.concurrency(0)]
  begin(one)
  begin(other)
  let asked = 0
  admission.wait(Object.assign(guest('a'), { fits: () => { asked++; return false } }))
  admission.onRoom()
  await tick()
  t.equal(asked, 0)
  one.end()
  await tick()
  t.equal(asked, 1)
})

t.test('no one may wait longer than half of the time that is left to answer', async t => {
  const { admission } = start({ maxInFlight: 1, queue: { timeout: 1_000 } })
  t.equal(admission.longestWait(Infinity), 1_000)
  t.equal(admission.longestWait(30_000), 1_000)
  t.equal(admission.longestWait(1_000), 500)
  const { admission: patient } = start({ maxInFlight: 1, queue: { timeout: 0 } })
  t.equal(patient.longestWait(Infinity), Infinity)
  t.equal(patient.longestWait(30_000), 15_000)
})

t.test('limits that contradict each other are refused, and the limit begins within its bounds', async t => {
  t.throws(() => new Admission({ adaptive: { min: 10, max: 5 } }, 'options.limits'), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /options\.limits\.adaptive\.min must be at most max, 5, and is 10/ })
  t.equal(new Admission({ adaptive: { max: 5 } }, 'limits').concurrency(0).limit, 5)
  t.equal(new Admission({ adaptive: { min: 50 } }, 'limits').concurrency(0).limit, 50)
})

t.test('whoever comes, leaves and gives up, no more are in than may be, the queue keeps its bound, and nobody is forgotten or told twice', async t => {
  const step = fc.oneof(
    { weight: 4, arbitrary: fc.record({ kind: fc.constant('come' as const), priority: fc.nat(2) }) },
    { weight: 3, arbitrary: fc.record({ kind: fc.constant('leave' as const), who: fc.nat() }) },
    fc.record({ kind: fc.constant('forget' as const), who: fc.nat() }),
    fc.record({ kind: fc.constant('tick' as const) })
  )
  await fc.assert(fc.asyncProperty(fc.integer({ min: 1, max: 4 }), fc.integer({ min: 1, max: 4 }), fc.constantFrom('fifo' as const, 'lifo' as const), fc.array(step, { maxLength: 60 }), async (maxInFlight, size, order, steps) => {
    const { admission, told, guest } = start({ maxInFlight, queue: { size, order } })
    const waiting: Guest[] = []
    let inside = 0
    let count = 0
    let left = 0
    for (const step of steps) {
      if (step.kind === 'come') {
        const one = guest(String(count++), step.priority)
        if (admission.enter()) inside++
        else if (admission.wait(one)) waiting.push(one)
      } else if (step.kind === 'leave' && admission.inFlight > 0) {
        left++
        admission.leave()
      } else if (step.kind === 'forget' && waiting.length > 0) admission.forget(waiting[step.who % waiting.length])
      else await tick()
      if (admission.inFlight > maxInFlight || admission.queueLength > size) return false
    }
    await tick()
    const served = told.filter(name => !name.endsWith('shed')).length
    if (new Set(told).size !== told.length || admission.inFlight !== inside + served - left) return false
    if (admission.queueLength !== waiting.filter(({ list }) => list !== null).length) return false
    // Nobody waits where there is room.
    return admission.queueLength === 0 || admission.inFlight === maxInFlight
  }), { numRuns: 1_000 })
  t.pass()
})

/** Ten times as much as a backend of 8 slots can do, for half a minute. */
async function overload (limits: LimitsOptions | null, givesUp: 'proxy' | 'client' = 'proxy'): Promise<Tally & { goodput: number }> {
  const time = new Timeline()
  const worker = new Worker(time, 8, 40)
  const load = new Overload(time, { worker, limits, deadline: 1_000, givesUp })
  load.load(10 * worker.capacity)
  const tally = await load.pass(30_000)
  return { ...tally, goodput: tally.good / (30 * worker.capacity) }
}

t.test('under ten times the load that a backend can take it does 90 % of what it can with adaptive limits, and next to nothing without', async t => {
  const without = await overload(null)
  t.ok(without.goodput < 0.5, `${without.goodput.toFixed(3)} without limits`)
  t.ok(without.longestBacklog > 10_000, 'all of it waits at the backend')
  for (const [name, limits] of Object.entries<LimitsOptions>({
    'first come': { adaptive: true },
    'last come': { adaptive: true, queue: { order: 'lifo' } },
    'short wait': { adaptive: true, queue: { timeout: 200 } },
    'no queue': { adaptive: true, queue: false }
  })) {
    const { goodput, times, longestQueue, longestBacklog, late } = await overload(limits)
    t.ok(goodput >= 0.9, `${goodput.toFixed(3)}, ${name}`)
    t.ok(percentile(times, 0.99) < 1_000, `p99 ${percentile(times, 0.99).toFixed(0)} ms, ${name}`)
    t.ok(longestQueue <= 1_024, `at most ${longestQueue} have waited here`)
    t.ok(longestBacklog <= 50, `and ${longestBacklog} there`)
    t.equal(late, 0, 'none that was let in was given up')
  }
})

t.test('also where only clients know how long they wait, as long as the last to come are served first', async t => {
  const { goodput, times } = await overload({ adaptive: true, queue: { order: 'lifo' } }, 'client')
  t.ok(goodput >= 0.9, goodput.toFixed(3))
  t.ok(percentile(times, 0.99) < 1_000)
})
