import t from 'tap'
import { OutlierRecord } from '../../../lib/health/outlier-record.ts'
import type { Culprit, Outcome } from '../../../types/index.ts'

const outcome = (culprit: Culprit, statusCode: number): Outcome => ({ stage: 'done', culprit, statusCode, error: undefined, headTime: 1, responseTime: 1 })
const answer = (statusCode: number) => outcome('none', statusCode)
const NO_ANSWER = outcome('backend', 0)

/** What a record holds after so many results. */
function counted (outcomes: Outcome[], split = false) {
  const record = new OutlierRecord()
  for (const one of outcomes) record.count(one, split)
  const { consecutiveFailures, consecutiveLocalErrors, requests, failures } = record
  return { consecutiveFailures, consecutiveLocalErrors, requests, failures }
}

t.test('a new record speaks neither for nor against a backend', t => {
  t.match(new OutlierRecord(), { consecutiveFailures: 0, consecutiveLocalErrors: 0, requests: 0, failures: 0, multiplier: 0, ejections: 0 })
  t.end()
})

t.test('502, 503, 504 and no answer are failures in a row; every other answer ends the row', t => {
  t.match(counted([answer(502), answer(503), answer(504), NO_ANSWER]), { consecutiveFailures: 4, requests: 4, failures: 4 })
  for (const status of [200, 204, 301, 400, 404, 429, 499, 500, 501, 505, 599]) {
    t.equal(counted([answer(503), answer(503), answer(status)]).consecutiveFailures, 0, String(status))
    t.equal(counted([answer(503), answer(status), answer(503)]).consecutiveFailures, 1, `${status}, and one more failure`)
  }
  t.end()
})

t.test('every answer of 500 and above counts against the rate, none below does', t => {
  const statuses = Array.from({ length: 500 }, (_, i) => 100 + i)
  t.strictSame(statuses.filter(status => counted([answer(status)]).failures === 1), statuses.filter(status => status >= 500))
  for (const status of statuses) t.equal(counted([answer(status)]).requests, 1)
  t.end()
})

t.test('an answer that its backend broke off is a failure, whatever its status was', t => {
  for (const status of [200, 404, 500]) t.match(counted([outcome('backend', status)]), { consecutiveFailures: 1, requests: 1, failures: 1 })
  t.end()
})

t.test('together, what never was an answer and gateway failures are one row', t => {
  t.match(counted([NO_ANSWER, answer(503), NO_ANSWER]), { consecutiveFailures: 3, consecutiveLocalErrors: 0 })
  t.end()
})

t.test('apart, each has a row of its own', t => {
  t.match(counted([NO_ANSWER, NO_ANSWER], true), { consecutiveFailures: 0, consecutiveLocalErrors: 2, requests: 2, failures: 2 })
  t.match(counted([answer(503), NO_ANSWER, answer(503)], true), { consecutiveFailures: 2, consecutiveLocalErrors: 0 }, 'no answer neither lengthens nor ends a row of bad answers')
  t.match(counted([NO_ANSWER, answer(503)], true), { consecutiveFailures: 1, consecutiveLocalErrors: 0 }, 'a bad answer is an answer')
  t.match(counted([answer(503), answer(503), answer(200)], true), { consecutiveFailures: 0, consecutiveLocalErrors: 0 })
  t.match(counted([NO_ANSWER, NO_ANSWER, answer(500)], true), { consecutiveFailures: 0, consecutiveLocalErrors: 0, failures: 3 })
  t.end()
})

t.test('to forgive is to forget the results, and not the ejections', t => {
  const record = new OutlierRecord()
  Object.assign(record, { multiplier: 3, ejections: 5 })
  for (const one of [NO_ANSWER, answer(503), NO_ANSWER]) record.count(one, true)
  record.forgive()
  t.match(record, { consecutiveFailures: 0, consecutiveLocalErrors: 0, requests: 0, failures: 0, multiplier: 3, ejections: 5 })
  t.end()
})
