import t from 'tap'
import { parseRetryAfter } from '../../../lib/retry/index.ts'

/** 6 November 1994, 08:49:37 in Greenwich. */
const THEN = 784_111_777_000

t.test('seconds are as many milliseconds times a thousand', async t => {
  for (const [value, expected] of [['0', 0], ['1', 1_000], ['120', 120_000], ['007', 7_000]] as const) t.equal(parseRetryAfter(value, THEN), expected, value)
})

t.test('a date is the time until it, in each of the three ways that HTTP has for dates', async t => {
  for (const value of ['Sun, 06 Nov 1994 08:49:37 GMT', 'Sunday, 06-Nov-94 08:49:37 GMT', 'Sun Nov  6 08:49:37 1994']) {
    t.equal(parseRetryAfter(value, THEN - 5_000), 5_000, value)
    t.equal(parseRetryAfter(value, THEN), 0, 'now')
    t.equal(parseRetryAfter(value, THEN + 60_000), 0, 'one that has passed asks for no wait')
  }
})

t.test('a date is read as Greenwich\'s wherever the proxy runs', async t => {
  const { TZ } = process.env
  t.teardown(() => {
    if (TZ === undefined) delete process.env.TZ
    else process.env.TZ = TZ
  })
  for (const zone of ['Asia/Tokyo', 'America/Lima', 'UTC']) {
    process.env.TZ = zone
    for (const value of ['Sun, 06 Nov 1994 08:49:37 GMT', 'Sunday, 06-Nov-94 08:49:37 GMT', 'Sun Nov  6 08:49:37 1994']) {
      t.equal(parseRetryAfter(value, THEN - 5_000), 5_000, `${zone}: ${value}`)
    }
  }
})

t.test('what is neither says nothing', async t => {
  for (const value of ['', ' ', '-1', '+1', '1.5', '1e3', '0x10', 'soon', '1, 2', 'Sun, 06 Nov 1994', 'Sun, 99 Nov 1994 08:49:37 GMT', ':', '12:00', '٣']) {
    t.equal(parseRetryAfter(value, THEN), undefined, JSON.stringify(value))
  }
})

t.test('what is longer than anything is long, and nothing worse', async t => {
  t.ok(parseRetryAfter('9'.repeat(400), THEN) as number > 1e15)
})
