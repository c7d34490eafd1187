import t from 'tap'
import type { ForwardOptions, RouteOptions } from '../../types/index.ts'
import { namedGateway } from '../helpers/named.ts'
import { chiSquare, chiSquareLimit } from '../helpers/random.ts'
import { ok, rawBackend } from '../helpers/wire.ts'

const V1 = { metadata: { version: 'v1' } }
const V2 = { metadata: { version: 'v2' } }
const canary = (weight: number) => [{ match: { version: 'v1' }, weight: 100 - weight }, { match: { version: 'v2' }, weight }]

t.test('a route asks for backends by their metadata, and each kind has turns of its own', async t => {
  const gateway = await namedGateway(t, { a: V1, b: V2, c: V2, d: {} }, {
    routes: [{ prefix: '/' }, { prefix: '/v1', match: { version: 'v1' } }, { prefix: '/v2', match: { version: 'v2' } }, { prefix: '/both', match: { version: ['v1', 'v2'] } }]
  })
  const client = await gateway.client()
  t.equal(await client.turns(2, '/v1'), 'aa')
  t.equal(await client.turns(2, '/v2'), 'bc')
  t.equal(await client.turns(2, '/both'), 'ab')
  t.equal(await client.turns(4, '/'), 'abcd')
  t.equal(await client.turns(2, '/both'), 'ca')
})

t.test('where nobody matches there is 503, or anybody where that is said', async t => {
  const gateway = await namedGateway(t, { a: V1, b: V2 }, {
    routes: [
      { prefix: '/none', match: { version: 'v3' } }, { prefix: '/any', match: { version: 'v3' }, fallback: 'any' },
      { prefix: '/v2', match: { version: 'v2' } }, { prefix: '/v2-or-any', match: { version: 'v2' }, fallback: 'any' }
    ]
  })
  const client = await gateway.client()
  const response = await client.get('/none')
  t.equal(response.status, 503)
  t.match(JSON.parse(response.body), { code: 'FST_ROCKSTAR_NO_BACKEND' })
  t.equal(await client.turns(4, '/any'), 'abab')
  t.equal(await client.turns(2, '/v2-or-any'), 'bb')
  gateway.app.proxy.updateBackend('b', { isActive: false })
  t.equal(await client.who('/v2'), '[503]')
  t.equal(await client.turns(2, '/v2-or-any'), 'aa')
  t.match(gateway.app.proxy.getMetrics().backends, { a: { chosenBecause: { fallback: 4 } }, b: { chosenBecause: { fallback: 2, balancer: 2 } } })
})

t.test('any will do too where those that match are not healthy', async t => {
  const gateway = await namedGateway(t, { a: V1, b: V2 }, { routes: [{ prefix: '/', match: { version: 'v2' }, fallback: 'any' }] })
  const client = await gateway.client()
  gateway.health('b', false)
  t.equal(await client.turns(2), 'aa')
  gateway.health('b', true)
  t.equal(await client.turns(2), 'bb')
})

t.test('metadata may change while requests are served', async t => {
  const gateway = await namedGateway(t, { a: V1, b: V1 }, { routes: [{ prefix: '/', match: { version: 'v2' } }] })
  const client = await gateway.client()
  t.equal(await client.who(), '[503]')
  gateway.app.proxy.updateBackend('b', V2)
  t.equal(await client.turns(2), 'bb')
  const { url } = await rawBackend(t, () => ok('c'))
  gateway.app.proxy.addBackend({ id: 'c', url, ...V2 })
  t.match(await client.turns(4), /^(bcbc|cbcb)$/)
  await gateway.app.proxy.removeBackend('b', { drain: false })
  t.equal(await client.turns(2), 'cc')
})

t.test('priorities hold among those that match', async t => {
  const gateway = await namedGateway(t, { a: V1, b: V2, c: { ...V2, backup: true } }, { routes: [{ prefix: '/', match: { version: 'v2' } }] })
  const client = await gateway.client()
  t.equal(await client.turns(2), 'bb')
  gateway.health('b', false)
  t.equal(await client.turns(2), 'cc')
})

t.test('a route splits its requests by weight', async t => {
  const gateway = await namedGateway(t, { a: V1, b: V2 }, { routes: [{ prefix: '/', split: canary(25) }] })
  const counts = await (await gateway.client()).counts(200, ['a', 'b'])
  t.ok(chiSquare(counts, [75, 25]) < chiSquareLimit(1), '75:25', { counts })
})

t.test('a header or cookie sends a request to its part, whatever the weights are', async t => {
  const split = [{ match: { version: 'v1' } }, { match: { version: 'v2' }, when: { header: 'X-Canary', value: 'yes' } }, { match: { version: 'v3' }, when: { cookie: 'beta' } }]
  const gateway = await namedGateway(t, { a: V1, b: V2, c: { metadata: { version: 'v3' } } }, { routes: [{ prefix: '/', split }] })
  const client = await gateway.client()
  t.equal(await client.turns(10), 'a'.repeat(10))
  t.equal(await client.turns(2, '/', 'x-canary: yes'), 'bb')
  t.equal(await client.who('/', 'X-Canary: no'), 'a')
  t.equal(await client.who('/', 'X-Canary: yes', 'X-Canary: yes'), 'a', 'twice is another value')
  t.equal(await client.turns(2, '/', 'Cookie: a=b; beta=1'), 'cc')
  t.equal(await client.who('/', 'Cookie: alphabeta=1'), 'a')
})

t.test('by key a client stays with its part, and moving the weight moves only what it must', async t => {
  const routes = (weight: number): RouteOptions[] => [{ prefix: '/', split: canary(weight), splitKey: { header: 'x-user' } }]
  const places = async (weight: number) => {
    const gateway = await namedGateway(t, { a: V1, b: V2 }, { routes: routes(weight) })
    const client = await gateway.client()
    const found: string[] = []
    for (let i = 0; i < 120; i++) found.push(await client.who('/', `X-User: user-${i}`))
    return found
  }
  const [before, again, after] = [await places(10), await places(10), await places(20)]
  t.strictSame(again, before, 'in every process')
  const came = before.filter((id, i) => id !== after[i])
  t.ok(came.length > 3 && came.length < 24, 'some come', { came: came.length })
  t.ok(came.every(id => id === 'a'), 'and none leaves')
})

t.test('a split is within a match', async t => {
  const gateway = await namedGateway(t, { a: { metadata: { tier: 'gold', version: 'v1' } }, b: { metadata: { tier: 'gold', version: 'v2' } }, c: V1, d: V2 }, {
    routes: [{ prefix: '/', match: { tier: 'gold' }, split: canary(50) }]
  })
  t.match(await (await gateway.client()).turns(20), /^(?=.*a)(?=.*b)[ab]+$/)
})

t.test('a part without a weight gets nothing, and where none has any there is 503', async t => {
  const gateway = await namedGateway(t, { a: V1, b: V2 }, { routes: [{ prefix: '/', split: canary(0) }, { prefix: '/zero', split: [{ match: { version: 'v1' }, weight: 0 }] }, { prefix: '/zero-any', split: [{ match: { version: 'v2' }, weight: 0 }], fallback: 'any' }] })
  const client = await gateway.client()
  t.equal(await client.turns(30), 'a'.repeat(30))
  t.equal(await client.who('/zero'), '[503]')
  t.equal(await client.turns(2, '/zero-any'), 'ab')
})

t.test('each call may ask for what it likes', async t => {
  const gateway = await namedGateway(t, { a: V1, b: V2, c: V2 }, { routes: [] }, {
    setup: app => {
      app.get('/*', (request, reply) => app.proxy.forward(request, reply, JSON.parse(request.headers['x-ask'] as string) as ForwardOptions))
      app.get('/own', async request => {
        const answer = await app.proxy.forward(request, undefined, { match: { version: 'v2' } })
        return await answer.text()
      })
    }
  })
  const client = await gateway.client()
  const ask = (options: ForwardOptions) => client.who('/', `X-Ask: ${JSON.stringify(options)}`)
  t.equal(await ask({ match: { version: 'v1' } }), 'a')
  t.equal(await ask({ match: { version: 'v2' } }), 'b')
  t.equal(await ask({ match: { version: 'v2' } }), 'c', 'its turns go on from call to call')
  t.equal(await ask({ match: { version: 'v3' } }), '[503]')
  t.equal(await ask({ match: { version: 'v3' }, fallback: 'any' }), 'a')
  t.equal(await ask({ split: canary(100) }), 'b')
  t.equal(await ask({}), 'b')
  t.match(await client.who('/own'), /^[bc]$/)
})

t.test('matches that are made up for each call are served, however many they are', async t => {
  const gateway = await namedGateway(t, { a: V1 }, { routes: [] })
  for (let n = 0; n < 300; n++) {
    if (n % 100 !== 0) {
      await t.rejects(gateway.app.proxy.forwardHttp(new Request('http://gateway/'), { match: { n } }), { code: 'FST_ROCKSTAR_NO_BACKEND' })
      continue
    }
    const answer = await gateway.app.proxy.forwardHttp(new Request('http://gateway/'), { match: { version: ['v1', n] } })
    t.equal(await answer.text(), 'a')
  }
})

t.test('forwardHttp() may ask as well, by the headers of its own request', async t => {
  const gateway = await namedGateway(t, { a: V1, b: V2 }, { routes: [] })
  const { proxy } = gateway.app
  const ask = async (options: Parameters<typeof proxy.forwardHttp>[1], headers = {}) => await (await proxy.forwardHttp(new Request('http://gateway/', { headers }), options)).text()
  t.equal(await ask({ match: { version: 'v2' } }), 'b')
  t.equal(await ask({ match: { version: 'v3' }, fallback: 'any' }), 'a')
  await t.rejects(ask({ match: { version: 'v3' } }), { code: 'FST_ROCKSTAR_NO_BACKEND' })
  const split = [{ match: { version: 'v1' } }, { match: { version: 'v2' }, when: { header: 'x-canary' } }]
  t.equal(await ask({ split }), 'a')
  t.equal(await ask({ split }, { 'X-Canary': '1' }), 'b')
  const places = async () => {
    const found: string[] = []
    for (let i = 0; i < 20; i++) found.push(await ask({ split: canary(50), splitKey: { header: 'x-user' } }, { 'x-user': `u${i}` }))
    return found.join('')
  }
  const first = await places()
  t.match(first, /^(?=.*a)(?=.*b)/)
  t.equal(await places(), first)
})

t.test('a client that stays with a backend leaves it for the part that its request asks for', async t => {
  const split = [{ match: { version: 'v1' }, weight: 1 }, { match: { version: 'v2' }, when: { header: 'x-canary' } }]
  const gateway = await namedGateway(t, { a: V1, b: V1, c: V2 }, { affinity: { secret: 'a secret of some length', onUnavailable: 'fail' }, routes: [{ prefix: '/', split }] })
  const client = await gateway.client()
  const first = await client.get()
  const cookie = `Cookie: ${first.values('set-cookie')[0].split(';')[0]}`
  t.equal(await client.turns(3, '/', cookie), 'aaa')
  t.equal(await client.who('/', cookie, 'X-Canary: 1'), 'c')
})

t.test('names that every object has are names like others', async t => {
  const gateway = await namedGateway(t, { a: { metadata: { toString: 'x' } }, b: {} }, { routes: [{ prefix: '/', match: { toString: 'x' } as never }, { prefix: '/no', match: { constructor: 'x' } as never }] })
  const client = await gateway.client()
  t.equal(await client.turns(2), 'aa')
  t.equal(await client.who('/no'), '[503]')
})

t.test('a new load balancer serves the routes\' subsets too', async t => {
  const gateway = await namedGateway(t, { a: V1, b: V2, c: V2 }, { routes: [{ prefix: '/', match: { version: 'v2' } }] })
  const client = await gateway.client()
  t.equal(await client.turns(2), 'bc')
  gateway.app.proxy.setLoadBalancer({ type: 'last', select: available => available.at(-1) })
  t.equal(await client.turns(3), 'ccc')
  gateway.app.proxy.setLoadBalancer('round-robin')
  t.equal(await client.turns(2), 'bc')
})

t.test('what makes no sense is refused when the plugin is registered', async t => {
  const refused: [object, RegExp][] = [
    [{ match: { version: null } }, /routes\[0\]\.match/], [{ match: { version: [] } }, /routes\[0\]\.match/], [{ match: { version: { is: 'v1' } } }, /routes\[0\]\.match/], [{ match: 'v1' }, /routes\[0\]\.match/],
    [{ split: [] }, /routes\[0\]\.split/], [{ split: [{ weight: 1 }] }, /routes\[0\]\.split\[0\]/], [{ split: [{ match: {}, weight: -1 }] }, /split\[0\]\.weight/], [{ split: [{ match: {}, when: {} }] }, /split\[0\]\.when/],
    [{ split: [{ match: {}, wieght: 1 }] }, /wieght/], [{ fallback: 'some' }, /fallback/], [{ split: [{ match: {} }], splitKey: 'host' }, /splitKey/]
  ]
  for (const [route, message] of refused) await t.rejects(namedGateway(t, {}, { routes: [route as RouteOptions] }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message }, JSON.stringify(route))
})
