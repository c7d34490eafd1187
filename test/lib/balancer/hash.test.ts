import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import t from 'tap'
import type { Backend } from '../../../lib/backend.ts'
import { hashReady, Maglev } from '../../../lib/balancer/index.ts'
import { combine, hashText, rehash } from '../../../lib/balancer/hash.ts'
import type { HashKey, HashOptions, SelectContext } from '../../../types/index.ts'
import { startGateway } from '../../helpers/app.ts'
import { chiSquare, chiSquareLimit } from '../../helpers/random.ts'
import { ok, rawBackend } from '../../helpers/wire.ts'
import { asking, choose, countsOf, envOf, equalBackends, type Asked } from './suite.ts'

await hashReady

t.test('texts are hashed by xxHash, 32 bits', t => {
  // From the reference implementation.
  const known: [string, number, number][] = [
    ['', 0, 0x02cc5d05], ['', 1, 0x0b2cb792], ['a', 0, 0x550d7456], ['abc', 0, 0x32d153ff],
    ['Nobody inspects the spammish repetition', 0, 0xe2293b2f]
  ]
  for (const [text, seed, hash] of known) t.equal(hashText(text, seed) >>> 0, hash, `'${text}', seed ${seed}`)
  t.end()
})

t.test('a text has one hash, however long it is and whatever it is made of', async t => {
  const { h32 } = await (await import('xxhash-wasm')).default()
  const parts = ['a', 'é', '日本', '\u{1f600}', '\0', '\x7f', '\x80']
  for (const part of parts) {
    for (const length of [1, 2, 31, 62, 63, 64, 65, 66, 200, 70_000]) {
      const text = part.repeat(Math.ceil(length / part.length)).slice(0, length)
      if (hashText(text, 7) !== (h32(text, 7) | 0)) t.fail(`${JSON.stringify(part)} × ${length}`)
    }
  }
  const mixed = Array.from({ length: 64 }, (_, i) => 'x'.repeat(i) + 'é' + 'x'.repeat(63 - i))
  t.ok(mixed.every(text => hashText(text) === (h32(text) | 0)), 'one letter of many')
  // What a concatenation is before it is read.
  let built = ''
  for (let i = 0; i < 20; i++) built += i
  t.equal(hashText(built), h32('012345678910111213141516171819') | 0)
})

t.test('hashes of hashes are spread evenly', t => {
  for (const [name, hash] of [
    ['rehash, by number', (i: number) => rehash(12_345, i)],
    ['rehash, by hash', (i: number) => rehash(i, 1)],
    ['combine, by hash', (i: number) => combine(i, 99, 1234)],
    ['combine, by the first', (i: number) => combine(1, i, 1234)],
    ['combine, by the second', (i: number) => combine(1, 99, i)]
  ] as const) {
    for (const shift of [0, 12, 24]) {
      const counts = Array.from({ length: 256 }, () => 0)
      for (let i = 0; i < 50_000; i++) counts[(hash(i) >>> shift) & 255]++
      t.ok(chiSquare(counts, counts.map(() => 1)) < chiSquareLimit(255), `${name}, bits from ${shift}`)
    }
  }
  t.end()
})

t.test('what hashes says so when it is used before it is loaded', t => {
  // One turn of the process: nothing can be loaded between the imports and what follows them.
  const script = `
    import { createBalancer } from '${pathToFileURL(join(import.meta.dirname, '../../../lib/balancer/index.ts'))}'
    import { Backend } from '${pathToFileURL(join(import.meta.dirname, '../../../lib/backend.ts'))}'
    const backends = [new Backend('http://127.0.0.1:1', 0)]
    createBalancer('round-robin').rebuild(backends)
    try { createBalancer('maglev').rebuild(backends) } catch (error) { console.log(error.message) }`
  const { NODE_OPTIONS, ...env } = process.env
  const { stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', '--input-type=module', '--eval', script], { encoding: 'utf8', env })
  t.match(stdout, /not loaded yet: await hashReady/, stderr)
  t.end()
})

/** Whether two requests have the same key: both go to the same of 1000 backends. */
function sameKey (key: HashKey, one: Asked, other: Asked, options: Partial<HashOptions> = {}): boolean {
  const balancer = new Maglev({ key, ...options }, envOf(9))
  balancer.rebuild(many)
  const home = choose(balancer, many, one)
  return [1, 2, 3].every(() => choose(balancer, many, one) === home && choose(balancer, many, other) === home)
}

const many = equalBackends(1000)

t.test('by address', t => {
  t.ok(sameKey('ip', { ip: '10.1.2.3' }, { ip: '10.1.2.3', path: '/other' }))
  t.notOk(sameKey('ip', { ip: '10.1.2.3' }, { ip: '10.1.2.4' }))
  t.ok(sameKey('ip', { ip: '10.1.2.3' }, { ip: '::ffff:10.1.2.3' }), 'an IPv4 address is the same on a socket for IPv6')
  t.notOk(sameKey('ip', { ip: '::ffff:1' }, { ip: '1' }))
  t.ok(sameKey('ip', { ip: '2001:db8::1' }, { ip: '2001:db8::1' }))
  t.end()
})

t.test('by path, without its query', t => {
  t.ok(sameKey('path', { path: '/a/b?c=d' }, { path: '/a/b?e', ip: '10.1.2.3' }))
  t.ok(sameKey('path', { path: '/a/b' }, { path: '/a/b?' }))
  t.notOk(sameKey('path', { path: '/a/b' }, { path: '/a/B' }))
  t.end()
})

t.test('by header, whatever its case', t => {
  for (const header of ['x-user', 'X-User']) {
    t.ok(sameKey({ header }, { headers: { 'x-user': 'ann' } }, { headers: { 'x-user': 'ann', other: '1' } }))
    t.notOk(sameKey({ header }, { headers: { 'x-user': 'ann' } }, { headers: { 'x-user': 'bob' } }))
  }
  t.end()
})

t.test('by cookie, of just that name', t => {
  const key = { cookie: 'sid' }
  const cookie = (cookie: string) => ({ headers: { cookie } })
  t.ok(sameKey(key, cookie('sid=abc'), cookie('a=b; sid=abc; c=d')))
  t.ok(sameKey(key, cookie('sid=abc'), cookie('xsid=1;sid=abc')), 'also without a space')
  t.ok(sameKey(key, cookie('sid=abc'), cookie('a=sid=x; sid=abc')))
  t.ok(sameKey(key, cookie('sid=a=b'), cookie('sid=a=b; z=1')))
  t.notOk(sameKey(key, cookie('sid=abc'), cookie('sid=abd')))
  t.notOk(sameKey(key, cookie('xsid=abc'), cookie('xsid=abc')), 'another that ends so has none')
  t.notOk(sameKey(key, cookie('sid='), cookie('sid=')), 'an empty one is none')
  t.end()
})

t.test('by query parameter, as it is written', t => {
  const key = { query: 'user' }
  t.ok(sameKey(key, { path: '/a?user=ann' }, { path: '/b?x=1&user=ann&y=2' }))
  t.ok(sameKey(key, { path: '/a?user=ann' }, { path: '/a?user=ann&user=bob' }), 'the first of several')
  t.notOk(sameKey(key, { path: '/a?user=ann' }, { path: '/a?user=bob' }))
  t.notOk(sameKey(key, { path: '/a?xuser=ann' }, { path: '/a?xuser=ann' }))
  t.notOk(sameKey(key, { path: '/user=ann' }, { path: '/user=ann' }), 'not in the path')
  t.notOk(sameKey(key, { path: '/a?user=' }, { path: '/a?user=' }))
  t.end()
})

t.test('by a function of the context', t => {
  const tenant = ({ path, header }: SelectContext) => header('x-tenant') ?? path.split('/')[1]
  t.ok(sameKey(tenant, { path: '/acme/1' }, { path: '/acme/2' }))
  t.ok(sameKey(tenant, { path: '/acme/1' }, { path: '/x', headers: { 'x-tenant': 'acme' } }))
  t.notOk(sameKey(tenant, { path: '/acme/1' }, { path: '/other/1' }))
  t.ok(sameKey((() => 12) as never, {}, {}), 'a number is a key')
  t.notOk(sameKey((() => null) as never, {}, {}), 'null is none')
  for (const bad of [() => ({}), async () => 'x', () => true]) {
    t.throws(() => sameKey(bad as never, {}, {}), { name: 'TypeError', message: /^the key function of the load balancer returned/ })
  }
  t.throws(() => sameKey(() => { throw new Error('mine') }, {}, {}), { message: 'mine' })
  t.end()
})

t.test('a missing key is random, by weight, or the address', t => {
  const available = equalBackends(5)
  for (const key of ['ip', { header: 'x' }, { cookie: 'x' }, { query: 'x' }, () => undefined, () => ''] as HashKey[]) {
    const balancer = new Maglev({ key }, envOf(2))
    balancer.rebuild(available)
    const counts = countsOf(balancer, available, 5000, () => key === 'ip' ? {} : asking(1))
    t.ok(chiSquare(counts, [1, 1, 1, 1, 1]) < chiSquareLimit(4), 'random', { counts })
  }
  const asked = { ip: '10.0.0.1', headers: { cookie: 'other=1', x: '' } }
  for (const key of [{ header: 'x' }, { cookie: 'x' }, { query: 'x' }, () => undefined] as HashKey[]) {
    t.ok(sameKey(key, asked, { ...asked, path: '/other' }, { missing: 'ip' }))
    t.notOk(sameKey(key, asked, { ...asked, ip: '10.0.0.2' }, { missing: 'ip' }))
    t.notOk(sameKey(key, {}, {}, { missing: 'ip' }), 'and random where there is no address either')
  }
  t.end()
})

t.test('keys are read from real requests, by forward() and by forwardHttp()', async t => {
  const backends = await Promise.all(Array.from({ length: 8 }, (_, i) => rawBackend(t, () => ok(`b${i}`))))
  const upstream = (key: HashKey) => ({ backends: backends.map(({ url }, i) => ({ id: `b${i}`, url })), balancer: { type: 'ring-hash' as const, key } })
  const gateway = await startGateway(t, {
    upstreams: { header: upstream({ header: 'X-User' }), cookie: upstream({ cookie: 'sid' }), query: upstream({ query: 'id' }), ip: upstream('ip') },
    routes: ['header', 'cookie', 'query', 'ip'].map(name => ({ prefix: `/${name}`, upstream: name }))
  }, { fastify: { trustProxy: true } })
  const { proxy } = gateway.app
  const ask = async (path: string, headers: Record<string, string> = {}) => await (await fetch(`${gateway.url}${path}`, { headers })).text()
  const http = async (upstream: string, path: string, headers: Record<string, string> = {}) =>
    await (await proxy.upstream(upstream).forwardHttp(new Request(`http://any${path}`, { headers }))).text()
  const homes: Record<string, Set<string>> = { header: new Set(), cookie: new Set(), query: new Set(), ip: new Set() }
  for (const user of ['ann', 'bob', 'eve', 'dan', 'joe', 'kim']) {
    const home = await ask('/header/1', { 'x-user': user })
    t.equal(await ask('/header/2', { 'X-USER': user }), home)
    t.equal(await http('header', '/3', { 'X-User': user }), home)
    homes.header.add(home)
    const cookieHome = await ask('/cookie/1', { cookie: `a=1; sid=${user}` })
    t.equal(await http('cookie', '/3', { cookie: `sid=${user}; b=2` }), cookieHome)
    homes.cookie.add(cookieHome)
    const queryHome = await ask(`/query/1?id=${user}`)
    t.equal(await http('query', `/3?x=1&id=${user}`), queryHome)
    homes.query.add(queryHome)
    const ipHome = await ask('/ip/1', { 'x-forwarded-for': `10.0.0.${user.charCodeAt(0)}` })
    t.equal(await ask('/ip/2', { 'x-forwarded-for': `10.0.0.${user.charCodeAt(0)}` }), ipHome, 'by trustProxy')
    homes.ip.add(ipHome)
  }
  for (const [name, found] of Object.entries(homes)) t.ok(found.size > 1, `${name}: not all the same`)
})

t.test('a header that came twice is one key, in forwardHttp() as in forward()', async t => {
  const seen: (string | undefined)[] = []
  const backend = await rawBackend(t, () => ok('x'))
  const gateway = await startGateway(t, {
    backends: [backend.url],
    balancer: {
      type: 'mine',
      select: (available, context) => {
        seen.push(context.header('x-twice'), context.header('cookie'), context.header('x-none'))
        return available[0] as Backend
      }
    },
    routes: [{ prefix: '/' }]
  })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: a\r\nX-Twice: 1\r\nx-twice: 2\r\nCookie: a=1\r\nCookie: b=2\r\n\r\n')
  await client.response()
  const headers = new Headers([['X-Twice', '1'], ['x-twice', '2'], ['cookie', 'a=1'], ['cookie', 'b=2']])
  await (await gateway.app.proxy.forwardHttp(new Request('http://any/', { headers }))).text()
  t.strictSame(seen.slice(0, 3), ['1, 2', 'a=1; b=2', undefined])
  t.strictSame(seen.slice(3), ['1, 2', 'a=1; b=2', undefined])
})
