import fc from 'fast-check'
import t from 'tap'
import { Counters } from '../../../lib/metrics/index.ts'

t.test('a beginning counts at once, its result at its end', t => {
  const counters = new Counters()
  counters.begin()
  t.match(counters.snapshot(), { totalRequests: 1, successfulRequests: 0, failedRequests: 0, abortedRequests: 0, inFlight: 1, averageResponseTime: 0, minResponseTime: 0, maxResponseTime: 0 })
  counters.end('successful', 4)
  t.match(counters.snapshot(), { totalRequests: 1, successfulRequests: 1, inFlight: 0, averageResponseTime: 4, minResponseTime: 4, maxResponseTime: 4, p50ResponseTime: 4, p99ResponseTime: 4 })
  t.end()
})

t.test('each result counts apart, and what was aborted has no response time', t => {
  const counters = new Counters()
  for (const [result, time] of [['successful', 2], ['failed', 6], ['aborted', 1_000], ['successful', 4]] as const) {
    counters.begin()
    counters.end(result, time)
  }
  t.match(counters.snapshot(), { totalRequests: 4, successfulRequests: 2, failedRequests: 1, abortedRequests: 1, averageResponseTime: 4, minResponseTime: 2, maxResponseTime: 6 })
  t.end()
})

t.test('a reset keeps those under way, who then count once', t => {
  const counters = new Counters()
  for (let i = 0; i < 5; i++) counters.begin()
  counters.end('successful', 1)
  counters.end('failed', 2)
  counters.end('aborted', 3)
  counters.reset()
  t.match(counters.snapshot(), { totalRequests: 2, successfulRequests: 0, failedRequests: 0, abortedRequests: 0, inFlight: 2, averageResponseTime: 0, minResponseTime: 0, maxResponseTime: 0, p99ResponseTime: 0 })
  counters.end('successful', 7)
  counters.end('failed', 9)
  t.match(counters.snapshot(), { totalRequests: 2, successfulRequests: 1, failedRequests: 1, inFlight: 0, averageResponseTime: 8, minResponseTime: 7, maxResponseTime: 9 })
  t.end()
})

t.test('a snapshot is a copy', t => {
  const counters = new Counters()
  const before = counters.snapshot()
  counters.begin()
  t.equal(before.totalRequests, 0)
  t.end()
})

t.test('whatever happens in whatever order, the numbers add up', t => {
  const event = fc.constantFrom('begin', 'successful', 'failed', 'aborted', 'reset')
  fc.assert(fc.property(fc.array(event, { maxLength: 200 }), events => {
    const counters = new Counters()
    const times: number[] = []
    let inFlight = 0
    events.forEach((event, i) => {
      if (event === 'begin') {
        counters.begin()
        inFlight++
      } else if (event === 'reset') {
        counters.reset()
        times.length = 0
      } else if (inFlight > 0) {
        counters.end(event as 'successful', i)
        inFlight--
        if (event !== 'aborted') times.push(i)
      }
      const { totalRequests, successfulRequests, failedRequests, abortedRequests, inFlight: underWay, averageResponseTime, minResponseTime, maxResponseTime } = counters.snapshot()
      if (underWay !== inFlight) throw new Error('in flight')
      if (totalRequests !== successfulRequests + failedRequests + abortedRequests + underWay) throw new Error('the sum')
      if (minResponseTime !== (times.length === 0 ? 0 : Math.min(...times))) throw new Error('least')
      if (maxResponseTime !== (times.length === 0 ? 0 : Math.max(...times))) throw new Error('most')
      if (averageResponseTime !== (times.length === 0 ? 0 : times.reduce((a, b) => a + b) / times.length)) throw new Error('average')
    })
  }))
  t.pass()
  t.end()
})
