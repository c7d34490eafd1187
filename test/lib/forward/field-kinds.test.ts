import fc from 'fast-check'
import t from 'tap'
import { Kind, kindOf, nominatedFields } from '../../../lib/forward/field-kinds.ts'

const KINDS: Record<string, Kind> = {
  connection: Kind.CONNECTION,
  'keep-alive': Kind.HOP,
  upgrade: Kind.HOP,
  'http2-settings': Kind.HOP,
  proxy: Kind.HOP,
  'proxy-authorization': Kind.HOP,
  'proxy-authenticate': Kind.HOP,
  'proxy-connection': Kind.HOP,
  'proxy-features': Kind.HOP,
  'proxy-': Kind.HOP,
  expect: Kind.EXPECT,
  host: Kind.HOST,
  'content-length': Kind.CONTENT_LENGTH,
  'transfer-encoding': Kind.TRANSFER_ENCODING,
  te: Kind.TE,
  trailer: Kind.TRAILER,
  via: Kind.VIA,
  'max-forwards': Kind.MAX_FORWARDS,
  'x-forwarded-for': Kind.X_FORWARDED_FOR,
  'x-forwarded-host': Kind.X_FORWARDED_HOST,
  'x-forwarded-proto': Kind.X_FORWARDED_PROTO,
  'x-forwarded-port': Kind.X_FORWARDED,
  'x-forwarded-': Kind.X_FORWARDED,
  forwarded: Kind.FORWARDED,
  cookie: Kind.COOKIE,
  location: Kind.LOCATION,
  'content-location': Kind.LOCATION,
  refresh: Kind.LOCATION,
  'set-cookie': Kind.SET_COOKIE,
  ':authority': Kind.HOP,
  ':path': Kind.HOP
}
const PLAIN = ['accept', 'content-type', 'content-encoding', 'authorization', 'x-a', 'x-forward', 'x-forwardedfor', 'x-te', 'tea', 'hosts', 'connections', 'keepalive', 'upgrade-insecure-requests', 'expect-ct', 'www-authenticate', 'cookie2', 'x-proxy-a', 'proxyauthorization', 'forwarded-for', '', 'transfer', 'length']
const PROTOTYPE = ['__proto__', 'constructor', 'toString', 'valueOf', 'hasOwnProperty', '__defineGetter__', 'isPrototypeOf']

const anyCase = (name: string) => fc.array(fc.boolean(), { minLength: name.length, maxLength: name.length })
  .map(upper => [...name].map((character, i) => upper[i] ? character.toUpperCase() : character.toLowerCase()).join(''))

t.test('a field has its kind in any case', async t => {
  t.doesNotThrow(() => fc.assert(fc.property(fc.constantFrom(...Object.keys(KINDS)).chain(name => fc.tuple(fc.constant(name), anyCase(name))), ([name, spelt]) => kindOf(spelt) === KINDS[name])))
  for (const [name, kind] of Object.entries(KINDS)) t.equal(kindOf(name), kind, name)
})

t.test('all others pass', async t => {
  for (const name of [...PLAIN, ...PROTOTYPE]) {
    t.equal(kindOf(name), Kind.PASS, `'${name}'`)
    t.equal(kindOf(name), Kind.PASS, `'${name}', asked again`)
  }
})

t.test('every kind is told from every other', async t => {
  t.equal(new Set(Object.values(Kind)).size, Object.keys(Kind).length)
})

t.test('more spellings than are remembered have their kinds all the same', async t => {
  for (let i = 0; i < 5000; i++) {
    if (kindOf(`x-name-${i}`) !== Kind.PASS) t.fail(`x-name-${i}`)
  }
  t.doesNotThrow(() => fc.assert(fc.property(fc.constantFrom(...Object.keys(KINDS)).chain(name => fc.tuple(fc.constant(name), anyCase(name))), ([name, spelt]) => kindOf(spelt) === KINDS[name])))
  t.equal(kindOf('x-nAmE-4999'), Kind.PASS)
  t.equal(kindOf('pRoXy-nEvEr-SeEn'), Kind.HOP)
})

t.test('nothing is named by what is not there, or only speaks of the connection itself', async t => {
  for (const value of [undefined, '', 'keep-alive', 'close', 'Close', 'Keep-Alive', ' close ', 'close, keep-alive', ',', ' , ,,']) t.notOk([...nominatedFields(value) ?? []].some(name => name !== 'close' && name !== 'keep-alive'), `'${value}'`)
})

t.test('what Connection names is found, as a plain reading of the list finds it', async t => {
  const token = fc.stringMatching(/^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}$/)
  const element = fc.oneof(token, fc.constantFrom('', 'close', 'Keep-Alive', 'X-A', 'x-a', '__proto__', 'constructor'))
  const space = fc.constantFrom('', ' ', '\t', ' \t ')
  const list = fc.array(fc.tuple(space, element, space), { maxLength: 12 })
  t.doesNotThrow(() => fc.assert(fc.property(list, elements => {
    const value = elements.map(parts => parts.join('')).join(',')
    const expected = new Set(elements.map(([, name]) => name.toLowerCase()).filter(name => name !== ''))
    const found = nominatedFields(value) ?? new Set()
    // These two are options and no fields; whether they are in the set is the same to all who ask.
    for (const name of ['close', 'keep-alive']) {
      expected.delete(name)
      found.delete(name)
    }
    return found.size === expected.size && [...expected].every(name => found.has(name))
  }), { numRuns: 500 }))
})
