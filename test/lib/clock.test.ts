import t from 'tap'
import { systemClock } from '../../lib/clock.ts'

t.test('now() never runs backwards, wall() is the time of day', async t => {
  let last = systemClock.now()
  for (let i = 0; i < 1_000; i++) {
    const now = systemClock.now()
    if (now < last) t.fail('time ran backwards')
    last = now
  }
  const before = Date.now()
  const wall = systemClock.wall()
  t.ok(wall >= before && wall <= Date.now())
})

t.test('a timer calls back once, and not before its time', async t => {
  const start = systemClock.now()
  // It holds no process up, so something else must while we wait.
  const hold = setInterval(() => {}, 1_000)
  let calls = 0
  await new Promise<void>(resolve => {
    systemClock.setTimeout(() => {
      calls++
      resolve()
    }, 5)
  })
  clearInterval(hold)
  // Node rounds the delay to whole milliseconds.
  t.ok(systemClock.now() - start >= 4)
  t.equal(calls, 1)
})

t.test('a timer holds no process up', async t => {
  const timer = systemClock.setTimeout(() => {}, 60_000) as NodeJS.Timeout
  t.equal(timer.hasRef(), false)
  systemClock.clearTimeout(timer)
})

t.test('a timer that is cleared does not call back', async t => {
  let called = false
  const timer = systemClock.setTimeout(() => { called = true }, 1)
  systemClock.clearTimeout(timer)
  await new Promise(resolve => setTimeout(resolve, 5))
  t.equal(called, false)
})
