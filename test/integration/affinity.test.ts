import t from 'tap'
import type { ProxyManager } from '../../lib/proxy-manager.ts'
import type { AffinityOptions, BackendOptions, RockstarProxyOptions } from '../../types/index.ts'
import type { GatewaySetup } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { namedGateway, type NamedGateway } from '../helpers/named.ts'
import { ok, rawBackend, until, type Message } from '../helpers/wire.ts'
import type { Test } from 'tap'

const secret = 'a secret of some length'
const TOKEN = '[\\w-]{16}\\.[0-9a-z]*\\.[\\w-]{24}'

async function sticky (t: Test, affinity: Partial<AffinityOptions> = {}, options: RockstarProxyOptions = {}, given: Record<string, Partial<BackendOptions>> = { a: {}, b: {}, c: {} }, setup?: GatewaySetup): Promise<NamedGateway> {
  return await namedGateway(t, given, { affinity: { secret, ...affinity }, ...options }, setup)
}

/** The field that a client sends back for what it was given. */
function cookieOf (response: Message): string {
  return `Cookie: ${response.values('set-cookie')[0].split(';')[0]}`
}

t.test('a client stays with the backend that has served it, and gets its cookie once', async t => {
  const gateway = await sticky(t)
  const client = await gateway.client()
  for (const id of 'abc') {
    const first = await client.get()
    t.equal(first.body, id)
    t.equal(first.values('set-cookie').length, 1)
    t.match(first.values('set-cookie')[0], new RegExp(`^rockstar-affinity=${TOKEN}; Path=/; HttpOnly; SameSite=Lax$`))
    for (let i = 0; i < 4; i++) {
      const next = await client.get('/', cookieOf(first))
      t.equal(next.body, id)
      t.strictSame(next.values('set-cookie'), [])
    }
  }
  const { chosenBecause } = gateway.app.proxy.getMetrics().backends.a
  t.match(chosenBecause, { balancer: 1, affinity: 4 })
})

t.test('whatever else the client\'s cookies are, and on however many lines they come', async t => {
  const gateway = await sticky(t)
  const client = await gateway.client()
  await client.get()
  const [, token] = cookieOf(await client.get()).split(': ')
  for (const fields of [[`Cookie: x=1; ${token}; y=2`], ['Cookie: x=1', `Cookie: ${token}`], [`cookie: ${token}`, 'COOKIE: z=rockstar-affinity'], [`Cookie: x=1;${token}`]]) {
    t.equal(await client.turns(2, '/', ...fields), 'bb', fields.join(' + '))
  }
})

t.test('the backend sees the client\'s cookies as they are, and the client sees those of the backend beside ours', async t => {
  const gateway = await sticky(t)
  const backend = await rawBackend(t, () => ok('mine', 'Set-Cookie: session=1; Path=/\r\nSet-Cookie: theme=dark\r\n'))
  for (const id of 'abc') await gateway.app.proxy.removeBackend(id, { drain: false })
  gateway.app.proxy.addBackend({ id: 'mine', url: backend.url })
  const client = await gateway.client()
  const response = await client.get('/', 'Cookie: session=0')
  t.strictSame(response.values('set-cookie').map(text => text.split('=')[0]), ['session', 'theme', 'rockstar-affinity'])
  t.strictSame(backend.requests[0].values('cookie'), ['session=0'])
  await client.get('/', `${cookieOf(response)}; session=0`)
  t.equal(backend.requests[1].values('cookie').length, 1)
})

t.test('a forged one, or one of another gateway, is as none: another is chosen and the client told', async t => {
  const gateway = await sticky(t)
  const stranger = await sticky(t, { secret: 'quite another secret' })
  const client = await gateway.client()
  const foreign = cookieOf(await (await stranger.client()).get())
  const own = cookieOf(await client.get())
  for (const field of [foreign, `${own.slice(0, -1)}${own.endsWith('A') ? 'B' : 'A'}`, own.slice(0, -4), 'Cookie: rockstar-affinity=a', 'Cookie: rockstar-affinity=', `Cookie: rockstar-affinity=${'x'.repeat(8000)}`]) {
    const response = await client.get('/', field)
    t.equal(response.status, 200)
    t.match(response.values('set-cookie'), [/^rockstar-affinity=/], field.slice(0, 60))
  }
  t.strictSame(gateway.log.filter(({ level }) => level >= 40), [], 'silently')
})

t.test('it tells nothing of the backend', async t => {
  const gateway = await sticky(t, {}, {}, { 'payments-eu-1': {} })
  const response = await (await gateway.client()).get()
  const { port } = gateway.backends['payments-eu-1']
  for (const text of [response.head, ...response.values('set-cookie')[0].split(/[.=;]/).map(part => Buffer.from(part, 'base64url').toString('latin1'))]) {
    for (const secret of ['payments', String(port), '127.0.0.1']) t.notOk(text.includes(secret))
  }
})

t.test('name, life, path, domain and flags are as they are set', async t => {
  const gateway = await sticky(t, { cookie: 'stick', maxAge: 3_600_000, path: '/shop', domain: 'example.com', secure: true, httpOnly: false, sameSite: 'none' })
  const client = await gateway.client()
  const response = await client.get()
  t.match(response.values('set-cookie')[0], new RegExp(`^stick=${TOKEN}; Path=/shop; Domain=example\\.com; Max-Age=3600; Secure; SameSite=None$`))
  t.equal(await client.turns(3, '/', cookieOf(response)), 'aaa')
})

t.test('its path is not mapped as those of backends are', async t => {
  const gateway = await sticky(t, { path: '/' }, { routes: [{ prefix: '/api', rewritePrefix: '/v2' }] })
  t.match((await (await gateway.client()).get('/api/x')).values('set-cookie'), [/; Path=\/; /])
})

t.test('Secure is set where the client came by HTTPS, if that comes from who may say so', async t => {
  const cookie = async (trustProxy: boolean, ...fields: string[]) => {
    const gateway = await sticky(t, {}, {}, { a: {} }, { fastify: { trustProxy } })
    return (await (await gateway.client()).get('/', ...fields)).values('set-cookie')[0]
  }
  t.match(await cookie(true, 'X-Forwarded-Proto: https'), /; Secure; /)
  t.notMatch(await cookie(true, 'X-Forwarded-Proto: http'), /Secure/)
  t.notMatch(await cookie(true), /Secure/)
  t.notMatch(await cookie(false, 'X-Forwarded-Proto: https'), /Secure/, 'not by anybody\'s word')
})

t.test('it is renewed after half of its life, and forgotten after all of it', async t => {
  const clock = new FakeClock()
  const gateway = await sticky(t, { maxAge: 60_000 }, { clock })
  const client = await gateway.client()
  const first = await client.get()
  clock.advance(29_000)
  t.strictSame((await client.get('/', cookieOf(first))).values('set-cookie'), [])
  clock.advance(2_000)
  const renewed = await client.get('/', cookieOf(first))
  t.equal(renewed.body, 'a')
  t.equal(renewed.values('set-cookie').length, 1)
  t.not(cookieOf(renewed), cookieOf(first))
  clock.advance(30_000)
  const late = await client.get('/', cookieOf(first))
  t.equal(late.body, 'b', 'the old one is over')
  t.equal(late.values('set-cookie').length, 1)
  t.equal((await client.get('/', cookieOf(renewed))).body, 'a', 'the new one is not')
})

t.test('keys may be changed without a client losing its backend', async t => {
  const old = await sticky(t)
  const cookie = cookieOf(await (await old.client()).get())
  const gateway = await sticky(t, { secret: ['the new secret, long enough', secret] })
  const client = await gateway.client()
  await client.get()
  const response = await client.get('/', cookie)
  t.equal(response.body, 'a', 'processes with the same key agree')
  t.equal(response.values('set-cookie').length, 1, 'signed with the new key from now on')
  t.strictSame((await client.get('/', cookieOf(response))).values('set-cookie'), [])
})

t.test('where its backend is not available another is chosen and kept', async t => {
  const gateway = await sticky(t)
  const client = await gateway.client()
  const cookie = cookieOf(await client.get())
  gateway.health('a', false)
  const moved = await client.get('/', cookie)
  t.equal(moved.body, 'b')
  t.equal(moved.values('set-cookie').length, 1)
  t.equal(await client.turns(3, '/', cookieOf(moved)), 'bbb')
  gateway.health('a', true)
  t.equal(await client.turns(3, '/', cookieOf(moved)), 'bbb', 'it does not come back by itself')
  t.equal(await client.turns(2, '/', cookie), 'aa', 'who has the old one does')
})

t.test('or there is 503, where that is said', async t => {
  const gateway = await sticky(t, { onUnavailable: 'fail' })
  const client = await gateway.client()
  const cookie = cookieOf(await client.get())
  for (const [down, up] of [
    [() => gateway.health('a', false), () => gateway.health('a', true)],
    [() => gateway.app.proxy.updateBackend('a', { isActive: false }), () => gateway.app.proxy.updateBackend('a', { isActive: true })],
    [() => gateway.app.proxy.updateBackend('a', { weight: 0 }), () => gateway.app.proxy.updateBackend('a', { weight: 1 })]
  ]) {
    down()
    const response = await client.get('/', cookie)
    t.equal(response.status, 503)
    t.match(JSON.parse(response.body), { code: 'FST_ROCKSTAR_NO_BACKEND' })
    t.strictSame(response.values('set-cookie'), [])
    t.match(await client.who(), /[bc]/, 'others are served')
    up()
    t.equal(await client.who('/', cookie), 'a')
  }
})

t.test('one that has been removed is not waited for: another is chosen and kept, whatever is said', async t => {
  for (const onUnavailable of ['rebalance', 'fail'] as const) {
    const gateway = await sticky(t, { onUnavailable })
    const client = await gateway.client()
    const cookie = cookieOf(await client.get())
    await gateway.app.proxy.removeBackend('a', { drain: false })
    const moved = await client.get('/', cookie)
    t.match(moved.body, /^[bc]$/)
    t.equal(moved.values('set-cookie').length, 1)
  }
})

t.test('one on its way out keeps its clients until its drain timeout, and takes no new ones', async t => {
  const clock = new FakeClock()
  const gateway = await sticky(t, {}, { clock })
  const { proxy } = gateway.app
  const client = await gateway.client()
  const cookie = cookieOf(await client.get())
  let removed = false
  const removal = proxy.removeBackend('a', { drain: { timeout: 20_000 } }).then(() => { removed = true })
  t.equal(await client.turns(3, '/', cookie), 'aaa')
  t.match(await client.turns(4), /^(bcbc|cbcb)$/)
  clock.advance(19_999)
  const last = await client.get('/', cookie)
  t.equal(last.body, 'a', 'to its last millisecond')
  t.strictSame(last.values('set-cookie'), [])
  t.equal(removed, false, 'nothing is under way, and yet it waits')
  clock.advance(1)
  await removal
  t.strictSame(proxy.listBackends().map(({ id }) => id), ['b', 'c'])
  const moved = await client.get('/', cookie)
  t.match(moved.body, /^[bc]$/)
  t.equal(moved.values('set-cookie').length, 1)
})

t.test('who comes to one on its way out with a cookie that is due to be renewed keeps the one it has', async t => {
  const clock = new FakeClock()
  const gateway = await sticky(t, { maxAge: 60_000 }, { clock })
  const client = await gateway.client()
  const cookie = cookieOf(await client.get())
  clock.advance(40_000)
  gateway.app.proxy.removeBackend('a', { drain: { timeout: 30_000 } }).catch(() => {})
  const response = await client.get('/', cookie)
  t.equal(response.body, 'a')
  t.strictSame(response.values('set-cookie'), [])
})

t.test('without a drain timeout, and without affinity, removal waits for nobody who is not there', async t => {
  const clock = new FakeClock()
  const gateway = await sticky(t, {}, { clock })
  await gateway.app.proxy.removeBackend('a', { drain: false })
  await gateway.app.proxy.removeBackend('b', { drain: { timeout: 0 } })
  const plain = await namedGateway(t, { a: {} }, { clock })
  await plain.app.proxy.removeBackend('a')
  t.pass()
})

t.test('an upstream that is removed takes no request any more, and so does not wait for clients to come back', async t => {
  const clock = new FakeClock()
  const { url } = await rawBackend(t, () => ok('x'))
  const gateway = await namedGateway(t, {}, { clock, upstreams: { other: { affinity: { secret }, backends: [url] } }, routes: [{ prefix: '/', upstream: 'other' }] })
  t.equal(await (await gateway.client()).who(), 'x')
  let removed = false
  gateway.app.proxy.removeUpstream('other').then(() => { removed = true }, () => {})
  for (let i = 0; i < 50; i++) await new Promise(setImmediate)
  t.equal(removed, true)
})

t.test('a client that was sent to a later priority stays there when the first is back', async t => {
  for (const onUnavailable of ['rebalance', 'fail'] as const) {
    const gateway = await sticky(t, { onUnavailable }, {}, { a: {}, p: { backup: true } })
    const client = await gateway.client()
    gateway.health('a', false)
    const cookie = cookieOf(await client.get())
    gateway.health('a', true)
    t.equal(await client.turns(3, '/', cookie), 'ppp')
    t.equal(await client.who(), 'a')
  }
})

t.test('a failed attempt gives no cookie, an answer of any status does', async t => {
  const gateway = await sticky(t, {}, {}, {})
  const broken = await rawBackend(t, (_request, wire) => wire.reset())
  gateway.app.proxy.addBackend({ id: 'broken', url: broken.url })
  const client = await gateway.client()
  const failed = await client.get()
  t.equal(failed.status, 502)
  t.strictSame(failed.values('set-cookie'), [])
  const missing = await rawBackend(t, () => ok('', '', '404 Not Found'))
  await gateway.app.proxy.removeBackend('broken', { drain: false })
  gateway.app.proxy.addBackend({ id: 'missing', url: missing.url })
  const answered = await client.get()
  t.equal(answered.status, 404)
  t.equal(answered.values('set-cookie').length, 1)
})

t.test('upstreams do not share their cookies\' meaning, and may share the client', async t => {
  const [x, y] = await Promise.all(['x', 'y'].map(async id => ({ id, url: (await rawBackend(t, () => ok(id))).url })))
  const gateway = await sticky(t, {}, {
    upstreams: { other: { affinity: { secret, cookie: 'other' }, backends: [x, y] }, same: { affinity: { secret }, backends: [{ ...x, id: 'b' }, { ...y, id: 'a' }] } },
    routes: [{ prefix: '/' }, { prefix: '/other', upstream: 'other' }, { prefix: '/same', upstream: 'same' }]
  })
  const client = await gateway.client()
  const [one, two] = [await client.get('/'), await client.get('/other')]
  const both = `Cookie: ${[one, two].map(response => cookieOf(response).slice(8)).join('; ')}`
  await client.get('/')
  await client.get('/other')
  t.equal(await client.turns(2, '/', both), 'aa')
  t.equal(await client.turns(2, '/other', both), 'xx')
  const wrong = await client.get('/same', cookieOf(one))
  t.equal(wrong.body, 'x', 'a cookie of another upstream names nobody, even by the same id')
  t.equal(wrong.values('set-cookie').length, 1)
})

const V1 = { metadata: { version: 'v1' } }
const V2 = { metadata: { version: 'v2' } }

t.test('in each of two subsets a client stays, by a cookie for each', async t => {
  const routes = [{ prefix: '/' }, { prefix: '/v1', match: { version: 'v1' } }, { prefix: '/v2', match: { version: 'v2' } }]
  const gateway = await sticky(t, {}, { routes }, { a: V1, b: V1, c: V2, d: V2 })
  const client = await gateway.client()
  const jar = new Map<string, string>()
  const visit = async (path: string) => {
    const response = await client.get(path, ...(jar.size === 0 ? [] : [`Cookie: ${[...jar].map(([name, value]) => `${name}=${value}`).join('; ')}`]))
    for (const text of response.values('set-cookie')) {
      const [name, value] = text.split(';')[0].split('=')
      jar.set(name, value)
    }
    return response.body
  }
  // Turns are moved on, so that only cookies can be why.
  await client.who('/v1')
  t.equal(await visit('/v1'), 'b')
  t.equal(await visit('/v2'), 'c')
  const whole = await visit('/')
  t.equal(jar.size, 3)
  t.ok([...jar.keys()].every(name => /^rockstar-affinity(-[0-9a-z]+)?$/.test(name)), [...jar.keys()].join(' '))
  const given = new Map(jar)
  for (let i = 0; i < 5; i++) t.equal(`${await visit('/v1')}${await visit('/v2')}${await visit('/')}`, `bc${whole}`)
  t.strictSame(jar, given, 'and none is given anew')
})

t.test('a cookie of a subset means the same in another process', async t => {
  const options = { routes: [{ prefix: '/', match: { version: 'v1' } }] }
  const [one, other] = [await sticky(t, {}, options, { a: V1, b: V1 }), await sticky(t, {}, options, { a: V1, b: V1 })]
  const client = await one.client()
  await client.who()
  const cookie = cookieOf(await client.get())
  t.equal(await (await other.client()).turns(3, '/', cookie), 'bbb')
})

t.test('a client stays too where any will do because none is what its route asks for', async t => {
  const gateway = await sticky(t, {}, { routes: [{ prefix: '/', match: { version: 'v3' }, fallback: 'any' }] })
  const client = await gateway.client()
  await client.who()
  const first = await client.get()
  t.equal(first.body, 'b')
  for (let i = 0; i < 4; i++) {
    const next = await client.get('/', cookieOf(first))
    t.equal(next.body, 'b')
    t.strictSame(next.values('set-cookie'), [])
  }
  gateway.app.proxy.updateBackend('c', { metadata: { version: 'v3' } })
  const next = await client.get('/', cookieOf(first))
  t.equal(next.body, 'c', 'until there is what it asks for')
  t.equal(await client.turns(2, '/', cookieOf(next)), 'cc')
})

t.test('forwardHttp() and forward() without a reply give the cookie to who asked', async t => {
  const gateway = await sticky(t, {}, { routes: [] }, undefined, {
    setup: app => {
      app.get('/own', async request => {
        const answer = await app.proxy.forward(request)
        return { body: await answer.text(), cookies: answer.headers['set-cookie'] }
      })
    }
  })
  const answer = await gateway.app.proxy.forwardHttp(new Request('http://gateway/'))
  const [cookie] = answer.headers.getSetCookie()
  t.match(cookie, /^rockstar-affinity=/)
  t.equal(await answer.text(), 'a')
  const again = await gateway.app.proxy.forwardHttp(new Request('http://gateway/', { headers: { cookie: cookie.split(';')[0] } }))
  t.equal(await again.text(), 'a')
  t.strictSame(again.headers.getSetCookie(), [])
  const own = JSON.parse((await (await gateway.client()).get('/own')).body) as { body: string, cookies: string }
  t.equal(own.body, 'b')
  t.match(own.cookies, /^rockstar-affinity=/)
})

t.test('requests that come at once stay with their backends, each', async t => {
  const gateway = await sticky(t)
  const client = await gateway.client()
  const cookies = [await client.get(), await client.get(), await client.get()].map(cookieOf)
  const answers = await Promise.all(Array.from({ length: 60 }, async (_, i) => await (await gateway.client()).who('/', cookies[i % 3])))
  t.equal(answers.join(''), 'abc'.repeat(20))
})

t.test('a balancer of the user\'s own is not asked about who stays, and hears how it went', async t => {
  const heard: string[] = []
  const gateway = await sticky(t, {}, { balancer: { type: 'mine', select: async available => available[1], settle: ({ id }) => { heard.push(id) } } })
  const client = await gateway.client()
  const first = await client.get()
  t.equal(first.body, 'b')
  gateway.app.proxy.updateBackend('c', { isActive: false })
  gateway.app.proxy.setLoadBalancer({ type: 'other', select: available => available[0], settle: ({ id }) => { heard.push(`other ${id}`) } })
  t.equal(await client.turns(2, '/', cookieOf(first)), 'bb')
  await until(() => heard.length === 3)
  t.strictSame(heard, ['b', 'other b', 'other b'])
})

t.test('what cannot be a cookie is refused, and the secret is not shown', async t => {
  const refused: [object, RegExp][] = [
    [{ secret: 'short' }, /affinity\.secret/], [{ secret: [] }, /affinity\.secret/], [{}, /affinity/], [{ secret, cookie: 'a b' }, /affinity\.cookie/], [{ secret, cookie: 'a=b' }, /affinity\.cookie/],
    [{ secret, path: 'x' }, /affinity\.path/], [{ secret, path: '/;Secure' }, /affinity\.path/], [{ secret, path: '/\r\nX: y' }, /affinity\.path/], [{ secret, domain: 'a;b' }, /affinity\.domain/],
    [{ secret, maxAge: -1 }, /affinity\.maxAge/], [{ secret, sameSite: 'Lax' }, /affinity\.sameSite/], [{ secret, onUnavailable: 'x' }, /affinity\.onUnavailable/], [{ secret, secure: 'yes' }, /affinity\.secure/]
  ]
  for (const [affinity, message] of refused) await t.rejects(namedGateway(t, {}, { affinity: affinity as AffinityOptions }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message })
  const gateway = await sticky(t)
  t.notOk(JSON.stringify([(gateway.app.proxy as ProxyManager).getMetrics(), gateway.app.proxy.listBackends(), gateway.log]).includes(secret))
})
