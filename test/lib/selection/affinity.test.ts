import { createHmac } from 'node:crypto'
import type { FastifyRequest } from 'fastify'
import fc from 'fast-check'
import t from 'tap'
import { Affinity } from '../../../lib/selection/affinity.ts'
import type { AffinityOptions, SelectContext } from '../../../types/index.ts'
import { FakeClock } from '../../helpers/clock.ts'
import { contextOf } from '../balancer/suite.ts'
import { backendOf, backendsOf } from './given.ts'

const SECRET = 'a secret of some length'
const OLD = 'another one, used before'
const [a, b] = backendsOf({ a: {}, b: {} })

function make (options: Partial<AffinityOptions> = {}, { upstream = 'default', clock = new FakeClock(), backends = [a, b] } = {}): Affinity {
  const affinity = new Affinity({ secret: SECRET, cookie: 'stick', path: '/', secure: 'auto', httpOnly: true, sameSite: 'lax', ...options }, upstream, clock)
  affinity.rebuild(backends)
  return affinity
}

const withCookie = (cookie: string): SelectContext => contextOf({ headers: { cookie } })
const tokenOf = (setCookie: string) => setCookie.slice(setCookie.indexOf('=') + 1, setCookie.indexOf(';'))
/** The token that a client gets for a backend. */
const issue = (affinity: Affinity, backend = a) => tokenOf(affinity.cookieFor(backend, contextOf()))
const find = (affinity: Affinity, token: string) => affinity.find(withCookie(`stick=${token}`))
const named = (affinity: Affinity, token: string) => find(affinity, token)?.backend.id

t.test('a cookie names its backend, and is good as it is', t => {
  const affinity = make()
  for (const backend of [a, b]) t.strictSame(find(affinity, issue(affinity, backend)), { backend, renew: false })
  t.end()
})

t.test('in every process with the same key', t => {
  t.equal(named(make(), issue(make(), b)), 'b')
  t.equal(named(make({}, { backends: [b, a, backendOf('c')] }), issue(make(), b)), 'b', 'whatever the order of the backends is')
  t.end()
})

t.test('who has no cookie has no backend', t => {
  const affinity = make()
  t.equal(affinity.find(contextOf()), undefined)
  t.equal(affinity.find(withCookie('')), undefined)
  t.equal(affinity.find(withCookie(`other=${issue(affinity)}`)), undefined)
  t.equal(find(affinity, ''), undefined)
  t.end()
})

t.test('one cookie of several is found, and only by its whole name', t => {
  const affinity = make()
  const token = issue(affinity, b)
  for (const cookie of [`x=1; stick=${token}`, `stick=${token}; x=1`, `x=1;stick=${token};y=2`, `x=stick; mystick=abc; stick=${token}; stick2=abc`]) {
    t.equal(affinity.find(withCookie(cookie))?.backend.id, 'b', cookie)
  }
  for (const cookie of [`mystick=${token}`, `stick2=${token}`, `Stick=${token}`, `x=1,stick=${token}`]) t.equal(affinity.find(withCookie(cookie)), undefined, cookie)
  t.end()
})

t.test('a forged, cut or lengthened one is as none', t => {
  const affinity = make({ maxAge: 1000 })
  const token = issue(affinity)
  const [tag, expiry, signature] = token.split('.')
  const other = issue(affinity, b).split('.')[0]
  t.equal(named(affinity, token), 'a')
  const forged = [
    `${other}.${expiry}.${signature}`, `${tag}.zzzzzzzz.${signature}`, `${tag}..${signature}`, `${tag}.${expiry}.${'A'.repeat(24)}`, `${tag}.${expiry}.`, `${tag}.${expiry}`,
    tag, `${token}A`, `A${token}`, ` ${token}`, `"${token}"`, token.toUpperCase(), `${token}.x`, `${tag}.${expiry}.x.${signature}`, 'a', '..', '\u{1f600}', '%00', `${tag}.-1.${signature}`,
    `${tag}.${expiry}.${signature.slice(0, -1)}é`, 'x'.repeat(100_000)
  ]
  for (const text of forged) t.equal(find(affinity, text), undefined, text.slice(0, 80))
  for (let length = 0; length < token.length; length++) if (find(affinity, token.slice(0, length)) !== undefined) t.fail(`cut to ${length}`)
  t.end()
})

t.test('no change of any character goes unseen', t => {
  const affinity = make({ maxAge: 1000 })
  const token = issue(affinity)
  fc.assert(fc.property(fc.nat(token.length - 1), fc.constantFrom(...'ABCabc019-_.'), (at, character) =>
    token[at] === character || find(affinity, token.slice(0, at) + character + token.slice(at + 1)) === undefined), { numRuns: 500 })
  fc.assert(fc.property(fc.string({ unit: 'binary' }), text => affinity.find(withCookie(text)) === undefined && find(affinity, text) === undefined), { numRuns: 300 })
  t.pass()
  t.end()
})

t.test('one of another upstream, or with another key, is as none', t => {
  t.equal(named(make({}, { upstream: 'other' }), issue(make())), undefined)
  t.equal(named(make({ secret: OLD }), issue(make())), undefined)
  t.end()
})

t.test('nor can a name that the backend has in one upstream be signed for another', t => {
  const [one, other] = [make(), make({}, { upstream: 'other' })].map(affinity => issue(affinity).split('.'))
  t.not(one[0], other[0])
  t.equal(named(make(), `${other[0]}.${one[1]}.${one[2]}`), undefined)
  t.end()
})

t.test('an old key is still accepted, and its cookie written anew by the first', t => {
  const old = issue(make({ secret: OLD }), b)
  const rotated = make({ secret: [SECRET, OLD] })
  t.strictSame(find(rotated, old), { backend: b, renew: true })
  const renewed = issue(rotated, b)
  t.strictSame(find(rotated, renewed), { backend: b, renew: false })
  t.equal(named(make(), renewed), 'b', 'which alone is enough from then on')
  t.equal(named(make(), old), undefined)
  t.strictSame(find(make({ secret: [OLD, SECRET] }), renewed), { backend: b, renew: true }, 'the order says which')
  t.end()
})

t.test('a tag by one key with the signature of another is as none', t => {
  const rotated = make({ secret: [SECRET, OLD] })
  const tag = issue(make({ secret: OLD })).split('.')[0]
  const signature = createHmac('sha256', SECRET).update(`cookie default\n${tag}\n`).digest().toString('base64url', 0, 18)
  t.equal(find(rotated, `${tag}..${signature}`), undefined)
  t.end()
})

t.test('with a maxAge it is renewed after half of it and nothing after all of it', t => {
  const clock = new FakeClock()
  const affinity = make({ maxAge: 60_000 }, { clock })
  const token = issue(affinity)
  t.strictSame(find(affinity, token), { backend: a, renew: false })
  clock.advance(30_000)
  t.strictSame(find(affinity, token), { backend: a, renew: false }, 'at half of it')
  clock.advance(1)
  t.strictSame(find(affinity, token), { backend: a, renew: true })
  t.not(issue(affinity), token)
  t.strictSame(find(affinity, issue(affinity)), { backend: a, renew: false })
  clock.advance(29_998)
  t.strictSame(find(affinity, token), { backend: a, renew: true }, 'to its last millisecond')
  clock.advance(1)
  t.equal(find(affinity, token), undefined)
  clock.advance(1e9)
  t.equal(find(affinity, token), undefined)
  t.end()
})

t.test('without a maxAge it has no end', t => {
  const clock = new FakeClock()
  const affinity = make({}, { clock })
  const token = issue(affinity)
  clock.advance(1e12)
  t.strictSame(find(affinity, token), { backend: a, renew: false })
  t.end()
})

t.test('one of other settings is good and written anew', t => {
  t.strictSame(find(make({ maxAge: 1000 }), issue(make())), { backend: a, renew: true })
  t.strictSame(find(make(), issue(make({ maxAge: 1000 }))), { backend: a, renew: true })
  t.end()
})

t.test('a backend that has gone is named by nothing', t => {
  const affinity = make()
  const token = issue(affinity)
  affinity.rebuild([b])
  t.equal(find(affinity, token), undefined)
  affinity.rebuild([b, backendOf('a', { weight: 4 })])
  t.equal(named(affinity, token), 'a', 'until one of its id is there again')
  t.end()
})

t.test('it tells nothing of the backend', t => {
  const backend = backendOf('payments-eu-1', { metadata: { rack: 'r17' } })
  const affinity = make({ maxAge: 1000 }, { backends: [backend] })
  const cookie = affinity.cookieFor(backend, contextOf())
  const token = tokenOf(cookie)
  const shown = [cookie, ...['base64', 'base64url', 'hex'].flatMap(coding => token.split('.').map(part => Buffer.from(part, coding as 'hex').toString('latin1')))].join('\n')
  for (const secret of ['payments', 'eu-1', '127.0.0.1', 'r17', SECRET]) t.notOk(shown.includes(secret), secret)
  t.not(issue(make({ secret: OLD })).split('.')[0], issue(make()).split('.')[0], 'who has not the key cannot even compare')
  t.match(token, /^[\w-]{16}\.[0-9a-z]+\.[\w-]{24}$/, 'nothing in it that a cookie would have to quote')
  t.end()
})

t.test('its attributes are as they are set', t => {
  const attributes = (options: Partial<AffinityOptions> = {}, protocol?: string) => {
    const context = { ...contextOf(), request: protocol === undefined ? undefined : { protocol } as FastifyRequest }
    return make(options).cookieFor(a, context).replace(/^stick=[^;]+; /, '')
  }
  t.equal(attributes(), 'Path=/; HttpOnly; SameSite=Lax')
  t.equal(attributes({}, 'http'), 'Path=/; HttpOnly; SameSite=Lax')
  t.equal(attributes({}, 'https'), 'Path=/; HttpOnly; Secure; SameSite=Lax')
  t.equal(attributes({ secure: true }), 'Path=/; HttpOnly; Secure; SameSite=Lax')
  t.equal(attributes({ secure: false }, 'https'), 'Path=/; HttpOnly; SameSite=Lax')
  t.equal(attributes({ httpOnly: false, sameSite: 'strict' }), 'Path=/; SameSite=Strict')
  t.equal(attributes({ secure: true, sameSite: 'none' }), 'Path=/; HttpOnly; Secure; SameSite=None')
  t.equal(attributes({ path: '/shop', domain: 'example.com', maxAge: 90_500 }), 'Path=/shop; Domain=example.com; Max-Age=91; HttpOnly; SameSite=Lax')
  t.end()
})
