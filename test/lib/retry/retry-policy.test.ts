import t from 'tap'
import { resolveOptions } from '../../../lib/options.ts'
import { retryPolicyOf, type RetryPolicy } from '../../../lib/retry/index.ts'
import { IDEMPOTENT_METHODS, RETRY_CAUSES, RetryOverridesSchema, type RetryOptions } from '../../../types/index.ts'

function policyOf (options: RetryOptions | true | undefined): RetryPolicy {
  return retryPolicyOf(options) as RetryPolicy
}

t.test('there are retries unless they are switched off', async t => {
  t.equal(retryPolicyOf(false), null)
  for (const option of [undefined, true, {}] as const) {
    const { attempts, statuses, backoff, perTryTimeout, maxBodySize, retryAfter, idempotencyKey, budget } = policyOf(option)
    t.strictSame({ attempts, statuses: [...statuses], backoff, perTryTimeout, maxBodySize, retryAfter, idempotencyKey, budget }, {
      attempts: 3,
      statuses: [502, 503, 504],
      backoff: { base: 100, factor: 2, max: 10_000 },
      perTryTimeout: 0,
      maxBodySize: 65_536,
      retryAfter: true,
      idempotencyKey: false,
      budget: { percent: 20, minPerSecond: 10 }
    })
  }
})

t.test('what is given within is filled up with defaults', async t => {
  const { backoff, budget } = policyOf({ backoff: { max: 50 }, budget: { percent: 0 } })
  t.strictSame(backoff, { base: 100, factor: 2, max: 50 })
  t.strictSame(budget, { percent: 0, minPerSecond: 10 })
})

t.test('0, false and nothing at all are values', async t => {
  const policy = policyOf({ perTryTimeout: 0, maxBodySize: 0, retryAfter: false, methods: [], statuses: [], on: [], backoff: { base: 0, max: 0 }, budget: { minPerSecond: 0 } })
  t.strictSame([policy.maxBodySize, policy.retryAfter, policy.statuses.size, policy.backoff.base, policy.backoff.max, policy.budget.minPerSecond], [0, false, 0, 0, 0, 0])
  t.equal(policy.isIdempotent('GET'), false)
  for (const cause of ['CONNECT', 'RESET', 'TIMEOUT', 'BAD_RESPONSE'] as const) t.equal(policy.covers(cause, 'wait'), false)
})

t.test('methods are those that may be repeated, or those that are given', async t => {
  for (const method of IDEMPOTENT_METHODS) t.equal(policyOf(true).isIdempotent(method), true, method)
  for (const method of ['POST', 'PATCH', 'CONNECT', 'LOCK', 'get']) t.equal(policyOf(true).isIdempotent(method), false, method)
  const own = policyOf({ methods: ['GET', 'POST'] })
  t.strictSame(['GET', 'POST', 'PUT'].map(method => own.isIdempotent(method)), [true, true, false])
})

t.test('each failure is of the cause that the options name', async t => {
  const codes = { connect: 'CONNECT', reset: 'RESET', timeout: 'TIMEOUT', 'bad-response': 'BAD_RESPONSE' } as const
  for (const cause of RETRY_CAUSES) {
    const policy = policyOf({ on: [cause] })
    for (const other of RETRY_CAUSES) t.equal(policy.covers(codes[other], 'wait'), cause === other, `${cause}, ${other}`)
  }
  t.strictSame(RETRY_CAUSES.map(cause => policyOf(true).covers(codes[cause], 'send')), [true, true, true, false], 'by default all but an answer that is no HTTP')
})

t.test('whatever ends a connection that is still being made is a failure to connect', async t => {
  const policy = policyOf({ on: ['connect'] })
  for (const code of ['CONNECT', 'RESET', 'TIMEOUT'] as const) t.equal(policy.covers(code, 'connect'), true, code)
  t.equal(policyOf({ on: ['reset', 'timeout'] }).covers('TIMEOUT', 'connect'), false)
})

t.test('what is no backend\'s failure is none to try again after', async t => {
  const policy = policyOf({ on: [...RETRY_CAUSES] })
  for (const code of ['CLIENT_CLOSED', 'ABORTED', 'CLOSED', 'NO_BACKEND', 'CIRCUIT_OPEN', 'OVERLOADED', 'REQUEST_TIMEOUT', 'INVALID_HEADER'] as const) {
    for (const stage of ['connect', 'send', 'wait'] as const) t.equal(policy.covers(code, stage), false, `${code}, ${stage}`)
  }
})

t.test('overrides change what they name and leave the rest', async t => {
  const policy = policyOf({ attempts: 5, methods: ['GET', 'POST'], statuses: [500], backoff: { base: 7, factor: 3, max: 70 }, perTryTimeout: 9, budget: { percent: 3 } })
  const other = policy.with({ attempts: 2, backoff: { max: 50 } })
  t.equal(other.attempts, 2)
  t.strictSame(other.backoff, { base: 7, factor: 3, max: 50 })
  t.strictSame([[...other.statuses], other.perTryTimeout, other.isIdempotent('POST'), other.budget], [[500], 9, true, { percent: 3, minPerSecond: 10 }])
  t.equal(policy.attempts, 5, 'the upstream\'s own stay as they are')
  t.strictSame(policy.backoff, { base: 7, factor: 3, max: 70 })
})

t.test('overrides that are undefined override nothing, within others neither', async t => {
  const policy = policyOf({ attempts: 5, backoff: { base: 7, factor: 3, max: 70 } })
  const other = policy.with({ attempts: undefined, methods: undefined, on: undefined, retryAfter: undefined, backoff: { base: undefined, max: 50 } })
  t.equal(other.attempts, 5)
  t.equal(other.retryAfter, true)
  t.equal(other.isIdempotent('GET'), true)
  t.equal(other.covers('RESET', 'wait'), true)
  t.strictSame(other.backoff, { base: 7, factor: 3, max: 50 })
  t.strictSame(policy.with({ backoff: undefined }).backoff, { base: 7, factor: 3, max: 70 })
})

t.test('a route\'s overrides, made ready, hold nothing that it has not given', async t => {
  const given = { attempts: 2, backoff: { max: 50 } }
  t.strictSame(resolveOptions(RetryOverridesSchema, given, 'routes[0].retry'), given)
  t.strictSame(resolveOptions(RetryOverridesSchema, {}, 'routes[0].retry'), {})
})

t.test('overrides of overrides are as the first say where they say nothing', async t => {
  const policy = policyOf(true).with({ attempts: 2, backoff: { base: 1 } }).with({ backoff: { max: 2 } })
  t.strictSame([policy.attempts, policy.backoff], [2, { base: 1, factor: 2, max: 2 }])
})

t.test('options that are wrong are named with their path', async t => {
  const wrong: [RetryOptions, string][] = [
    [{ attempts: 0 }, 'up.retry.attempts must be an integer of at least 1, and is 0'],
    [{ attempts: 1.5 }, 'up.retry.attempts must be an integer of at least 1, and is 1.5'],
    [{ statuses: [200] }, 'up.retry.statuses[0] must be an integer of at least 400'],
    [{ on: ['rest' as 'reset'] }, 'up.retry.on[0] must be \'connect\', \'reset\', \'timeout\', \'bad-response\', and is \'rest\''],
    [{ backoff: { factor: 0.5 } }, 'up.retry.backoff.factor must be a number of at least 1, and is 0.5'],
    [{ budget: { percent: -1 } }, 'up.retry.budget.percent must be a number of at least 0'],
    [{ perTryTimout: 3 } as RetryOptions, 'up.retry.perTryTimout is not an option; did you mean \'perTryTimeout\'?'],
    [{ idempotencyKey: 'yes' as unknown as boolean }, 'up.retry.idempotencyKey must be a boolean or a function, and is \'yes\'']
  ]
  for (const [options, message] of wrong) {
    t.throws(() => retryPolicyOf(options, 'up.retry'), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: new RegExp(message.replaceAll(/[.[\]?|]/g, '\\$&')) }, message)
  }
})
