import type { FastifyReply, FastifyRequest } from 'fastify'
import t from 'tap'
import { proxyError, type ErrorCode } from '../../lib/errors.ts'
import { Fallback, fallbackOf } from '../../lib/fallback.ts'
import { FALLBACK_CODES, type FallbackFunction, type FallbackOption } from '../../types/index.ts'

const OTHERS: ErrorCode[] = ['CLIENT_CLOSED', 'REQUEST_TIMEOUT', 'ABORTED', 'CLOSED', 'LOOP', 'BODY_CONSUMED', 'METHOD_REFUSED']
const badStatus = (statusCode: number) => Object.assign(proxyError('BAD_STATUS', undefined, String(statusCode)), { statusCode })
const make = (option: Exclude<FallbackOption, false>) => new Fallback(option)

const KINDS: Exclude<FallbackOption, false>[] = [{}, { upstream: 'a' }, () => {}]

t.test('an option means a fallback, none, or nothing of failures', async t => {
  t.equal(fallbackOf(undefined), undefined)
  t.equal(fallbackOf('any'), undefined)
  t.equal(fallbackOf('none'), undefined)
  t.equal(fallbackOf(false), null)
  for (const option of KINDS) t.type(fallbackOf(option), Fallback)
  t.equal(fallbackOf({ upstream: 'a' })?.upstream, 'a')
  t.equal(fallbackOf({ statusCode: 200 })?.upstream, undefined)
  t.equal(fallbackOf(() => {})?.upstream, undefined)
})

t.test('it is for all failures to answer, unless it says for which', async t => {
  for (const option of KINDS) {
    for (const code of FALLBACK_CODES) t.ok(make(option).covers(proxyError(code)), code)
    for (const code of OTHERS) t.notOk(make(option).covers(proxyError(code)), code)
    for (const status of [404, 500, 503]) t.notOk(make(option).replaces(status))
  }
  const some = make({ on: ['TIMEOUT', 503] })
  for (const code of FALLBACK_CODES) t.equal(some.covers(proxyError(code)), code === 'TIMEOUT', code)
  t.ok(some.replaces(503))
  t.notOk(some.replaces(504), 'the status of an error of ours is not that of a backend')
  t.ok(some.covers(badStatus(503)))
  t.notOk(some.covers(badStatus(502)))
  const none = make({ on: [] })
  t.notOk(FALLBACK_CODES.some(code => none.covers(proxyError(code))))
})

t.test('it is for no error that is not ours', async t => {
  const all = make({ on: [...FALLBACK_CODES, 500, 503] })
  for (const error of [new Error('plain'), Object.assign(new Error('coded'), { code: 'TIMEOUT' }), Object.assign(new Error('status'), { statusCode: 503 }), Object.assign(new Error('theirs'), { code: 'FST_ERR_TIMEOUT', statusCode: 503 })]) t.notOk(all.covers(error), error.message)
})

/** As much of a reply as an answer needs. */
function reply () {
  const sent: unknown[] = []
  const made = {
    sent: false,
    code (status: number) { sent.push(status); return made },
    headers (headers: unknown) { sent.push(headers); return made },
    send (payload: unknown) { sent.push(payload); made.sent = true; return made }
  }
  return { sent, reply: made as unknown as FastifyReply }
}
const request = {} as FastifyRequest
const error = proxyError('RESET')

t.test('what stands ready is sent', async t => {
  for (const [option, expected] of [[{}, [503, {}, undefined]], [{ statusCode: 200, headers: { a: 'b' }, body: 'c' }, [200, { a: 'b' }, 'c']]] as const) {
    const target = reply()
    t.equal(make(option).answer(request, target.reply, error), true)
    t.strictSame(target.sent, expected)
  }
})

t.test('a function has answered when it has sent, or returns or resolves to something', async t => {
  const ways: [FallbackFunction, boolean, unknown[]][] = [
    [() => {}, false, []],
    [() => 'a', true, ['a']],
    [() => null, true, [null]],
    [() => 0, true, [0]],
    [(_request, reply) => reply, false, []],
    [(_request, reply) => reply.send('a'), true, ['a']],
    [(_request, reply) => { reply.send('a'); return 'b' }, true, ['a']],
    [async () => {}, false, []],
    [async () => 'a', true, ['a']],
    [async (_request, reply) => { reply.send('a'); return 'b' }, true, ['a']]
  ]
  for (const [option, answered, sent] of ways) {
    const target = reply()
    t.equal(await make(option).answer(request, target.reply, error), answered)
    t.strictSame(target.sent, sent)
  }
})

t.test('a function gets request, reply and error, and what it throws comes out', async t => {
  const target = reply()
  const got: unknown[] = []
  make((...given) => { got.push(...given) }).answer(request, target.reply, error)
  t.ok(got[0] === request && got[1] === target.reply && got[2] === error && got.length === 3)
  t.throws(() => make(() => { throw new Error('its own') }).answer(request, target.reply, error), { message: 'its own' })
  await t.rejects(Promise.resolve(make(async () => { throw new Error('its own') }).answer(request, target.reply, error)), { message: 'its own' })
})
