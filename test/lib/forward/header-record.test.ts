import fc from 'fast-check'
import t from 'tap'
import { rewritten, toPairs, toRecord } from '../../../lib/forward/header-record.ts'
import type { HeaderRecord } from '../../../types/index.ts'

t.test('toRecord has names in lower case and repetitions in arrays', async t => {
  t.same({ ...toRecord(['X-A', '1', 'x-b', '2', 'x-a', '3', 'X-A', '4']) }, { 'x-a': ['1', '3', '4'], 'x-b': '2' })
  t.same({ ...toRecord([]) }, {})
})

t.test('toRecord takes names like those of objects for names', async t => {
  const record = toRecord(['__proto__', '1', 'constructor', '2', 'toString', '3', '__PROTO__', '4'])
  t.same(Object.entries(record), [['__proto__', ['1', '4']], ['constructor', '2'], ['tostring', '3']])
})

t.test('toPairs spells names as they came, and new ones as they are given', async t => {
  t.same(toPairs({ 'x-a': '1', 'X-New': '2', 'x-list': ['3', '4'], 'x-none': undefined }, ['X-A', 'old', 'X-List', 'old'], 'test'), ['X-A', '1', 'X-New', '2', 'X-List', '3', 'X-List', '4'])
})

t.test('toPairs makes texts of other values, and leaves out null', async t => {
  t.same(toPairs({ a: 5, b: true, c: null, d: [1, 2], e: [] } as unknown as HeaderRecord, [], 'test'), ['a', '5', 'b', 'true', 'd', '1', 'd', '2'])
})

t.test('toPairs refuses what would end a field or a message', async t => {
  const refusal = { code: 'FST_ROCKSTAR_INVALID_HEADER', statusCode: 500, message: /test/ }
  for (const value of ['a\r\nb', 'a\rb', 'a\nb', 'a\0b', '\x01', '\x7f', '\u0100', '世']) {
    t.throws(() => toPairs({ a: value }, [], 'test'), refusal, JSON.stringify(value))
    t.throws(() => toPairs({ a: ['fine', value] }, [], 'test'), refusal)
  }
  for (const name of ['', ' ', 'a b', 'a:', 'a\r\nb', 'ä', 'a\0', '(a)']) t.throws(() => toPairs({ [name]: 'a' }, [], 'test'), refusal, JSON.stringify(name))
  t.same(toPairs({ a: '\t \x80\xff~' }, [], 'test'), ['a', '\t \x80\xff~'])
})

t.test('whatever a function returns, no line can come of it that it does not own up to', async () => {
  fc.assert(fc.property(fc.dictionary(fc.string(), fc.oneof(fc.string(), fc.array(fc.string(), { maxLength: 3 }))), record => {
    let pairs: string[]
    try {
      pairs = toPairs(record as HeaderRecord, [], 'test')
    } catch (error) {
      return (error as { code: string }).code === 'FST_ROCKSTAR_INVALID_HEADER'
    }
    return pairs.length % 2 === 0 && !pairs.some(text => /[\r\n\0]/.test(text))
  }))
})

t.test('there and back again, fields are what they were, grouped by name', async () => {
  const name = fc.stringMatching(/^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,10}$/)
  const value = fc.stringMatching(/^[\x20-\x7e\x80-\xff]{0,10}$/)
  fc.assert(fc.property(fc.array(fc.tuple(name, value), { maxLength: 12 }), fields => {
    const pairs = toPairs(toRecord(fields.flat()), fields.flat(), 'test')
    const values = (all: string[], wanted: string) => all.filter((_, i) => i % 2 === 1 && all[i - 1].toLowerCase() === wanted.toLowerCase())
    return pairs.length === fields.flat().length && fields.every(([name]) => values(pairs, name).join('\n') === values(fields.flat(), name).join('\n'))
  }))
})

t.test('rewritten gives the function a copy, and takes what it returns', async t => {
  const headers = ['X-A', '1', 'X-B', '2']
  const result = rewritten(headers, record => {
    record['x-a'] = 'changed'
    return { ...record, 'x-c': '3' }
  }, 'test')
  t.same(result, ['X-A', 'changed', 'X-B', '2', 'x-c', '3'])
  t.same(headers, ['X-A', '1', 'X-B', '2'])
})

t.test('rewritten leaves framing alone, whatever the function does', async t => {
  const headers = ['Content-Length', '5', 'X-A', '1', 'Trailer', 'X-Sum', 'TE', 'trailers']
  for (const rewrite of [
    () => ({}),
    () => ({ 'content-length': '7', 'Transfer-Encoding': 'gzip', connection: 'close', 'KEEP-ALIVE': 'x', upgrade: 'x', te: 'gzip', trailer: 'y', expect: 'z' })
  ] as (() => HeaderRecord)[]) {
    t.same(rewritten(headers, rewrite, 'test'), ['Content-Length', '5', 'Trailer', 'X-Sum', 'TE', 'trailers'])
  }
})

t.test('rewritten refuses what is no record', async t => {
  for (const nothing of [undefined, null, 'text', 5, true]) {
    t.throws(() => rewritten([], () => nothing as unknown as HeaderRecord, 'mine'), { code: 'FST_ROCKSTAR_INVALID_HEADER', message: /mine/ })
  }
})
