import fc from 'fast-check'
import t from 'tap'
import { failed, passed } from '../../../lib/health/check.ts'
import { HealthState } from '../../../lib/health/health-state.ts'

/** What a result of the model is worth: whether the last so many, of all there have been, are alike. */
const lastAre = (results: readonly boolean[], wanted: boolean, count: number) =>
  results.length >= count && results.slice(-count).every(result => result === wanted)

const counts = fc.integer({ min: 1, max: 5 })
const initials = fc.constantFrom('healthy', 'unhealthy', 'check-first')

t.test('it falls after `fall` failures in a row and rises after `rise` passes in a row, as a plain model does', async () => {
  fc.assert(fc.property(initials, counts, counts, fc.array(fc.boolean(), { maxLength: 60 }), (initial, rise, fall, results) => {
    const state = new HealthState(initial === 'healthy', initial === 'check-first' ? 1 : rise)
    let healthy = initial === 'healthy'
    let first = initial === 'check-first'
    results.forEach((result, i) => {
      const so = results.slice(0, i + 1)
      const was = healthy
      if (healthy && lastAre(so, false, fall)) healthy = false
      else if (!healthy && lastAre(so, true, first ? 1 : rise)) healthy = true
      if (healthy) first = false
      const at = new Date(i)
      const changed = state.record(result ? passed(200) : failed('no', 503), i, at, rise, fall)
      const last = (wanted: boolean) => so.lastIndexOf(wanted)
      const inARow = (wanted: boolean) => i - last(!wanted)
      const expected = {
        changed: healthy !== was,
        healthy,
        proven: so.includes(true),
        lastCheck: i,
        lastSuccess: last(true) === -1 ? undefined : last(true),
        lastFailure: last(false) === -1 ? undefined : last(false),
        consecutiveFails: inARow(false),
        consecutivePasses: inARow(true),
        responseTime: i,
        statusCode: result ? 200 : 503,
        errorMessage: result ? '' : 'no'
      }
      const { lastCheck, lastSuccess, lastFailure, proven, consecutiveFails, consecutivePasses, responseTime, statusCode, errorMessage } = state
      const found = { changed, healthy: state.healthy, proven, lastCheck: lastCheck?.getTime(), lastSuccess: lastSuccess?.getTime(), lastFailure: lastFailure?.getTime(), consecutiveFails, consecutivePasses, responseTime, statusCode, errorMessage }
      for (const key of Object.keys(expected) as (keyof typeof expected)[]) {
        if (found[key] !== expected[key]) throw new Error(`${key} is ${found[key]} after ${so}, and should be ${expected[key]}`)
      }
    })
  }), { numRuns: 10_000, seed: 4 })
})

t.test('nothing is known before the first check', async t => {
  const { healthy, proven, lastCheck, lastSuccess, lastFailure, consecutiveFails, responseTime, statusCode, errorMessage } = new HealthState(true, 2)
  t.strictSame({ healthy, proven, lastCheck, lastSuccess, lastFailure, consecutiveFails, responseTime, statusCode, errorMessage },
    { healthy: true, proven: false, lastCheck: undefined, lastSuccess: undefined, lastFailure: undefined, consecutiveFails: 0, responseTime: 0, statusCode: 0, errorMessage: '' })
})

t.test('rise and fall that change count from the next result on', async t => {
  const state = new HealthState(true, 2)
  const record = (result: boolean, rise: number, fall: number) => state.record(result ? passed() : failed('no'), 0, new Date(0), rise, fall)
  t.notOk(record(false, 2, 3))
  t.ok(record(false, 2, 2), 'two failures are enough now')
  t.notOk(record(true, 5, 2))
  t.notOk(record(true, 5, 2), 'two passes are not enough any more')
  t.notOk(record(true, 5, 2))
  t.ok(record(true, 4, 2), 'four are')
  t.equal(state.healthy, true)
})

t.test('a failure says what it was, whatever was thrown', async t => {
  t.equal(failed(new Error('boom')).errorMessage, 'boom')
  t.equal(failed(Object.assign(new Error(''), { code: 'ECONNREFUSED' })).errorMessage, 'ECONNREFUSED', 'an error without a message gives its code')
  t.equal(failed(new TypeError('')).errorMessage, 'TypeError', 'or its name')
  t.equal(failed('a text').errorMessage, 'a text')
  t.equal(failed(undefined).errorMessage, 'undefined')
  t.strictSame(failed('no', 503), { passed: false, statusCode: 503, errorMessage: 'no' })
  t.strictSame(passed(204), { passed: true, statusCode: 204, errorMessage: '' })
})
