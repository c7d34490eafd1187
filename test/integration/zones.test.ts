import t from 'tap'
import { namedGateway } from '../helpers/named.ts'
import { chiSquare, chiSquareLimit } from '../helpers/random.ts'
import { ok, rawBackend } from '../helpers/wire.ts'

const near = { zone: 'near' }
const far = { zone: 'far' }

t.test('the own zone comes first and spills only what it cannot carry', async t => {
  const gateway = await namedGateway(t, { a: near, b: near, c: far, d: {} }, { zone: 'near' })
  const client = await gateway.client()
  t.equal(await client.turns(6), 'ababab')
  gateway.health('a', false)
  const [a, b, c, d] = await client.counts(300, ['a', 'b', 'c', 'd'])
  t.equal(a, 0)
  t.ok(chiSquare([b, c + d], [70, 30]) < chiSquareLimit(1), '70 % stay', { b, c, d })
  t.ok(Math.abs(c - d) <= 1, 'the others share the rest, whether or not they say where they are', { c, d })
  gateway.health('b', false)
  t.match(await client.turns(4), /^(cdcd|dcdc)$/)
  gateway.health('a', true)
  gateway.health('b', true)
  t.notMatch(await client.turns(20), /[cd]/, 'and all comes back')
  const { backends } = gateway.app.proxy.getMetrics()
  t.match(backends, { c: { chosenBecause: { zone: c + 2, balancer: 0 } }, b: { chosenBecause: { zone: 0 } } })
})

t.test('where there is no backend in the own zone, or no zone is said, zones make no difference', async t => {
  for (const options of [{ zone: 'elsewhere' }, {}]) {
    const gateway = await namedGateway(t, { a: near, b: far, c: {} }, options)
    t.equal(await (await gateway.client()).turns(6), 'abcabc')
  }
})

t.test('a backend may move, and one may come, while requests are served', async t => {
  const gateway = await namedGateway(t, { a: near, b: far }, { zone: 'near' })
  const client = await gateway.client()
  t.equal(await client.turns(2), 'aa')
  gateway.app.proxy.updateBackend('b', near)
  t.match(await client.turns(4), /^(abab|baba)$/)
  gateway.app.proxy.updateBackend('a', far)
  t.equal(await client.turns(2), 'bb')
  t.equal(gateway.app.proxy.getBackend('a').zone, 'far')
  t.equal((gateway.app.proxy.getBackend('a').toJSON()).zone, 'far')
  const { url } = await rawBackend(t, () => ok('c'))
  gateway.app.proxy.addBackend({ id: 'c', url, zone: 'near' })
  t.match(await client.turns(4), /^(bcbc|cbcb)$/)
})

t.test('a priority comes before a zone', async t => {
  const gateway = await namedGateway(t, { a: far, p: { ...near, backup: true } }, { zone: 'near' })
  const client = await gateway.client()
  t.equal(await client.turns(2), 'aa')
  gateway.health('a', false)
  t.equal(await client.turns(2), 'pp')
})

t.test('within a later priority the own zone comes first too', async t => {
  const gateway = await namedGateway(t, { a: near, p: { ...far, backup: true }, q: { ...near, backup: true } }, { zone: 'near' })
  const client = await gateway.client()
  gateway.health('a', false)
  t.equal(await client.turns(3), 'qqq')
})

t.test('named upstreams are in the zone of the plugin unless they say theirs', async t => {
  const [x, y] = await Promise.all(['x', 'y'].map(async id => ({ id, url: (await rawBackend(t, () => ok(id))).url })))
  const backends = [{ ...x, zone: 'near' }, { ...y, zone: 'far' }]
  const gateway = await namedGateway(t, {}, {
    zone: 'near',
    upstreams: { same: { backends }, other: { backends, zone: 'far' } },
    routes: [{ prefix: '/same', upstream: 'same' }, { prefix: '/other', upstream: 'other' }]
  })
  const client = await gateway.client()
  t.equal(await client.turns(2, '/same'), 'xx')
  t.equal(await client.turns(2, '/other'), 'yy')
  gateway.app.proxy.addUpstream('third', { backends })
  t.equal((await (await gateway.app.proxy.upstream('third').forwardHttp(new Request('http://gateway/'))).text()), 'x')
})

t.test('an empty zone is refused', async t => {
  await t.rejects(namedGateway(t, { a: { zone: '' } }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /options\.backends\[0\]\.zone/ })
  await t.rejects(namedGateway(t, {}, { zone: '' }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /options\.zone/ })
})
