import t from 'tap'
import { Concurrency, type Rooms } from '../../../lib/admission/concurrency.ts'

/** An attempt that waits from its beginning; returns how many do. */
function begin (concurrency: Concurrency): number {
  concurrency.begin()
  return concurrency.wait()
}

const ADAPTIVE = { initial: 4, min: 2, max: 10, tolerance: 1.5, smoothing: 0.2, queueSize: 4 }

function rooms (given: Partial<Rooms> = {}): Rooms & { woken: number } {
  const all = { maxPerBackend: Infinity, adaptive: null, backends: 0, full: 0, woken: 0, onRoom: () => { all.woken++ }, ...given }
  return all
}

t.test('a backend is full with as many attempts as it may have, until one of them has ended', async t => {
  const shared = rooms({ maxPerBackend: 2 })
  const concurrency = new Concurrency(shared, 0)
  t.equal(concurrency.limit, 2)
  t.equal(begin(concurrency), 1)
  t.equal(concurrency.full, false)
  t.equal(begin(concurrency), 2)
  t.equal(concurrency.full, true)
  t.equal(shared.full, 1)
  concurrency.answer(10, 1, 'well', 10)
  t.equal(concurrency.full, true, 'a head alone makes no room')
  t.equal(shared.woken, 0)
  concurrency.end()
  t.equal(concurrency.full, false)
  t.strictSame([shared.full, shared.woken], [0, 1])
})

t.test('those who wait are woken where there was no room before, and not otherwise', async t => {
  const shared = rooms({ maxPerBackend: 2 })
  const concurrency = new Concurrency(shared, 0)
  begin(concurrency)
  concurrency.answer(1, 1, 'well', 1)
  concurrency.end()
  t.equal(shared.woken, 0)
})

t.test('for an adaptive limit only those count whose heads have not come', async t => {
  const shared = rooms({ adaptive: ADAPTIVE })
  const concurrency = new Concurrency(shared, 0)
  t.equal(concurrency.limit, 4)
  for (let i = 0; i < 4; i++) begin(concurrency)
  t.equal(concurrency.full, true)
  concurrency.answer(1, 1, 'well', 1)
  t.equal(concurrency.full, false)
  t.equal(begin(concurrency), 4)
  t.equal(concurrency.full, true, 'five are under way now')
})

t.test('with both limits whichever is reached first makes it full', async t => {
  const concurrency = new Concurrency(rooms({ maxPerBackend: 3, adaptive: ADAPTIVE }), 0)
  t.equal(concurrency.limit, 3)
  for (let i = 0; i < 3; i++) {
    begin(concurrency)
    concurrency.answer(1, 1, 'well', 1)
  }
  t.equal(concurrency.full, true, 'three that stream')
})

t.test('what says nothing of the backend does not move its limit', async t => {
  const concurrency = new Concurrency(rooms({ adaptive: ADAPTIVE }), 0)
  for (let now = 0; now < 100_000; now += 100) {
    begin(concurrency)
    concurrency.answer(100_000, 4, 'not', now)
    concurrency.end()
  }
  t.equal(concurrency.limit, 4)
  for (let now = 100_000; now < 200_000; now += 100) {
    begin(concurrency)
    concurrency.answer(-1, 4, 'overloaded', now)
    concurrency.end()
  }
  t.equal(concurrency.limit, 2, 'but what says that it was too much does')
})

t.test('a limit that is found by trial is a whole number', async t => {
  const concurrency = new Concurrency(rooms({ adaptive: ADAPTIVE }), 0)
  for (let now = 0; now < 3_000; now += 10) {
    const waiting = [begin(concurrency), begin(concurrency), begin(concurrency)][2]
    for (let i = 0; i < 3; i++) {
      concurrency.answer(1, waiting, 'well', now)
      concurrency.end()
    }
    t.ok(Number.isInteger(concurrency.limit))
  }
  t.ok(concurrency.limit > 4)
})

t.test('each backend has a limit of its own', async t => {
  const shared = rooms({ maxPerBackend: 1 })
  const [one, other] = [new Concurrency(shared, 0), new Concurrency(shared, 0)]
  begin(one)
  t.strictSame([one.full, other.full, shared.full, shared.backends], [true, false, 1, 2])
})

t.test('one that is removed counts no more, however its attempts end', async t => {
  const shared = rooms({ maxPerBackend: 1 })
  const [one, other] = [new Concurrency(shared, 0), new Concurrency(shared, 0)]
  begin(one)
  one.forget()
  one.forget()
  t.strictSame([shared.full, shared.backends], [0, 1])
  one.answer(1, 1, 'well', 1)
  one.end()
  begin(one)
  t.strictSame([shared.full, shared.backends, shared.woken], [0, 1, 0])
  begin(other)
  t.equal(shared.full, 1)
})
