import t from 'tap'
import { Backend } from '../../lib/backend.ts'
import { endingOf, knownMethods, startAttributes } from '../../lib/opentelemetry/attributes.ts'
import { fieldGetter, fieldSetter, replaceFields } from '../../lib/opentelemetry/carrier.ts'
import { fullUrl } from '../../lib/opentelemetry/url.ts'
import type { AttemptReport, AttemptTrace, BackendInput, Outcome } from '../../types/index.ts'
import { SENSITIVE_QUERY } from '../../types/opentelemetry.ts'

const SECRET = new Set<string>(SENSITIVE_QUERY)

/** What a span says of where an attempt goes. */
function target (input: BackendInput, path = '/', address?: string) {
  const backend = new Backend(input, 0, 'backend', { id: 'x', address })
  const attempt = { exchange: { upstream: 'u' }, backend, reason: 'first', number: 0, method: 'GET', path } as unknown as AttemptTrace
  const attributes = startAttributes(attempt, 'GET', SECRET)
  return Object.fromEntries(Object.entries(attributes).filter(([name]) => /^(server|url|network)\./.test(name)))
}

t.test('where a backend is', async t => {
  t.strictSame(target('http://a.test'), { 'server.address': 'a.test', 'server.port': 80, 'url.full': 'http://a.test/' })
  t.strictSame(target('https://a.test', '/x'), { 'server.address': 'a.test', 'server.port': 443, 'url.full': 'https://a.test/x' })
  t.strictSame(target('http://[::1]:81/base', '/base/x'), { 'server.address': '::1', 'server.port': 81, 'url.full': 'http://[::1]:81/base/x' })
  t.strictSame(target('http://a.test:81', '/', '10.0.0.7'), { 'server.address': 'a.test', 'server.port': 81, 'network.peer.address': '10.0.0.7', 'network.peer.port': 81, 'url.full': 'http://a.test:81/' }, 'found by discovery')
  t.strictSame(target('unix:/run/a.sock:/base', '/base/x'), { 'server.address': '/run/a.sock', 'network.transport': 'unix', 'url.full': 'http://localhost/base/x' })
})

t.test('a URL never has more of a path than there is, nor another host', async t => {
  t.equal(fullUrl('http://a.test', '*', SECRET), 'http://a.test')
  t.equal(fullUrl('http://a.test', '//user:password@b.test/', SECRET), 'http://a.test//user:password@b.test/', 'which is a path')
  t.equal(fullUrl('http://a.test', '/?', SECRET), 'http://a.test/?')
  t.equal(fullUrl('http://a.test', '/?a?sig=1', SECRET), 'http://a.test/?a?sig=1')
  t.equal(fullUrl('http://a.test', '/?a=?&sig=1', SECRET), 'http://a.test/?a=?&sig=REDACTED')
  t.equal(fullUrl('http://a.test', '/sig=1?sig=a=b&&=', SECRET), 'http://a.test/sig=1?sig=REDACTED&&=')
})

t.test('methods that are known', async t => {
  t.ok(knownMethods({}).has('PATCH'))
  t.notOk(knownMethods({}).has('get'), 'case matters')
  t.strictSame([...knownMethods({ OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS: ' GET,QUERY ,' })], ['GET', 'QUERY'])
  t.ok(knownMethods({ OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS: ' ' }).has('GET'), 'an empty list is none')
})

/** What a span says of an end. */
function ending (outcome: Partial<Outcome>, result: AttemptReport['result'] = 'failed') {
  return endingOf({ result, time: 1, hedge: false, outcome: { stage: 'wait', culprit: 'backend', statusCode: 0, error: undefined, headTime: -1, responseTime: 1, ...outcome } } as AttemptReport, undefined)
}

t.test('errors have few kinds, and say nothing that is not ours', async t => {
  const cases: [object, string, string | undefined][] = [
    [Object.assign(new Error('connect to http://user:hunter2@10.0.0.1'), { code: 'ECONNRESET' }), 'ECONNRESET', 'The backend closed the connection before it answered'],
    [Object.assign(new Error('hunter2'), { code: 'for 7 hunter2' }), 'Error', 'The backend closed the connection before it answered'],
    [Object.assign(new TypeError('hunter2'), { code: 42 }), 'TypeError', 'The backend closed the connection before it answered'],
    [Object.assign(new Error('hunter2'), { name: 'hunter2: no' }), '_OTHER', 'The backend closed the connection before it answered'],
    [Object.assign(new Error('hunter2'), { code: 'FST_ROCKSTAR_UNHEARD_OF' }), 'FST_ROCKSTAR_UNHEARD_OF', undefined]
  ]
  for (const [error, type, message] of cases) {
    const told = ending({ error: error as Error })
    t.strictSame([told.attributes['error.type'], told.message, told.failed], [type, message, true])
    t.notMatch(JSON.stringify(told), /hunter2/)
  }
  t.match(ending({ statusCode: 500, error: new Error('hunter2'), stage: 'stream' }), { failed: true, message: undefined, attributes: { 'error.type': '500' } })
  t.match(ending({ culprit: 'none', statusCode: 200, stage: 'done' }, 'successful'), { failed: false, attributes: { 'error.type': undefined, 'rockstar_proxy.attempt.culprit': undefined, 'rockstar_proxy.attempt.stage': undefined } })
  t.match(ending({ culprit: 'client', statusCode: 200, stage: 'stream', error: new Error('gone') }, 'aborted'), { failed: false, attributes: { 'error.type': undefined, 'http.response.status_code': 200 } })
})

t.test('fields are read and written whatever the case of their names', async t => {
  const fields = ['Host', 'a', 'TraceState', 'a=1', 'tracestate', 'b=2']
  t.strictSame(fieldGetter.keys(fields), ['host', 'tracestate'])
  t.equal(fieldGetter.get(fields, 'TRACESTATE'), 'a=1,b=2')
  t.equal(fieldGetter.get(fields, 'a'), undefined, 'a value is no name')
  const own: string[] = []
  fieldSetter.set(own, 'TraceParent', 'x')
  fieldSetter.set(own, 'n', 5 as never)
  t.strictSame(own, ['TraceParent', 'x', 'n', '5'])
  for (const [name, value] of [['', 'x'], ['a b', 'x'], ['a', '\r\n'], ['a', '\0'], ['a', 'ĳ']]) t.throws(() => fieldSetter.set(own, name, value), TypeError)
  t.equal(own.length, 4)
  replaceFields(fields, ['tracestate', 'baggage'], ['HOST', 'b'])
  t.strictSame(fields, ['HOST', 'b'])
})
