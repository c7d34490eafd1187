import t from 'tap'
import { chiSquare, chiSquareLimit } from '../helpers/random.ts'
import { namedGateway } from '../helpers/named.ts'
import { ok, rawBackend } from '../helpers/wire.ts'

t.test('backends of a later priority take over by and by, as Envoy\'s do', async t => {
  const gateway = await namedGateway(t, { a: {}, b: {}, c: {}, d: {}, p: { backup: true }, q: { priority: 1 } })
  const client = await gateway.client()
  const ids = ['a', 'b', 'c', 'd', 'p', 'q']
  const isShared = async (name: string, first: number, second: number, alive: number) => {
    const counts = await client.counts(first * second === 0 ? 30 : 200, ids)
    const groups = [counts.slice(0, 4), counts.slice(4)].map(counts => counts.reduce((sum, count) => sum + count, 0))
    if (second === 0) t.equal(groups[1], 0, name)
    else if (first === 0) t.equal(groups[0], 0, name)
    else t.ok(chiSquare(groups, [first, second]) < chiSquareLimit(1), name, { counts })
    t.equal(counts.slice(0, 4).filter(count => count > 0).length, alive, 'those that are down get nothing')
    for (const alike of [counts.slice(0, 4).filter(count => count > 0), counts.slice(4)]) t.ok(Math.max(0, ...alike) - Math.min(...alike, Infinity) <= 1, 'in turns within a priority', { counts })
  }
  await isShared('all are there', 100, 0, 4)
  gateway.health('a', false)
  await isShared('three quarters', 100, 0, 3)
  gateway.health('b', false)
  await isShared('a half', 70, 30, 2)
  gateway.health('c', false)
  await isShared('a quarter', 35, 65, 1)
  gateway.health('d', false)
  await isShared('none', 0, 100, 0)
  for (const id of 'abcd') gateway.health(id, true)
  await isShared('all are back', 100, 0, 4)
  t.equal(gateway.app.proxy.getMetrics().panic, false)
  t.strictSame(gateway.log.filter(({ level }) => level >= 40), [], 'and nobody had to be told')
})

t.test('it is told how often a backend was chosen by its priority', async t => {
  const gateway = await namedGateway(t, { a: {}, p: { backup: true } })
  const client = await gateway.client()
  t.equal(await client.turns(2), 'aa')
  gateway.health('a', false)
  t.equal(await client.turns(3), 'ppp')
  const { backends } = gateway.app.proxy.getMetrics()
  t.match(backends, { a: { share: 0.4, chosenBecause: { balancer: 2, priority: 0 } }, p: { share: 0.6, chosenBecause: { balancer: 0, priority: 3 } } })
})

t.test('a backup is no help against itself: without anybody all active ones are used', async t => {
  const gateway = await namedGateway(t, { a: {}, p: { backup: true } })
  const client = await gateway.client()
  gateway.health('a', false)
  gateway.health('p', false)
  const counts = await client.counts(100, ['a', 'p'])
  t.ok(counts.every(count => count > 25), 'both alike', { counts })
  t.equal(gateway.app.proxy.getMetrics().panic, true)
})

t.test('those of a priority keep their turn while they are away', async t => {
  const gateway = await namedGateway(t, { a: {}, b: {}, c: {}, p: { backup: true }, q: { backup: true } })
  const client = await gateway.client()
  t.equal(await client.turns(2), 'ab')
  gateway.health([...'abc'], false)
  t.equal(await client.turns(1), 'p')
  gateway.health([...'abc'], true)
  t.equal(await client.turns(2), 'ca')
  gateway.health([...'abc'], false)
  t.equal(await client.turns(2), 'qp')
})

t.test('priorities may change while requests are served', async t => {
  const gateway = await namedGateway(t, { a: {}, b: { backup: true } })
  const { proxy } = gateway.app
  const client = await gateway.client()
  t.equal(await client.turns(2), 'aa')
  proxy.updateBackend('b', { backup: false })
  t.match(await client.turns(4), /^(abab|baba)$/)
  proxy.updateBackend('a', { priority: 5 })
  t.equal(await client.turns(2), 'bb')
  t.match(proxy.getBackend('a').toJSON(), { priority: 5 })
  const { url } = await rawBackend(t, () => ok('c'))
  proxy.addBackend({ id: 'c', url, priority: 2 })
  proxy.updateBackend('b', { isActive: false })
  t.equal(await client.turns(2), 'cc')
})

t.test('one on its way out is no capacity lost: no other priority has to help', async t => {
  const gateway = await namedGateway(t, { a: {}, p: { backup: true } })
  const slow = await rawBackend(t, () => {})
  const { proxy } = gateway.app
  proxy.addBackend({ id: 'slow', url: slow.url })
  const client = await gateway.client()
  t.equal(await client.who(), 'a')
  const waiting = await gateway.client()
  const answer = waiting.who()
  while (slow.requests.length === 0) await new Promise(setImmediate)
  const removal = proxy.removeBackend('slow')
  t.equal(await client.turns(20), 'a'.repeat(20))
  slow.connections[0].send(ok('slow'))
  t.equal(await answer, 'slow')
  await removal
  t.equal(await client.turns(5), 'aaaaa')
})

t.test('a client of a policy by keys stays where it is as long as its share is there', async t => {
  const gateway = await namedGateway(t, { a: {}, b: {}, c: {}, d: {}, p: { backup: true }, q: { backup: true } }, { balancer: { type: 'maglev', key: { header: 'x-user' }, tableSize: 1009 } })
  const client = await gateway.client()
  const places = async () => {
    const found: string[] = []
    for (let i = 0; i < 150; i++) found.push(await client.who('/', `X-User: user-${i}`))
    return found
  }
  const whole = await places()
  gateway.health('a', false)
  gateway.health('b', false)
  const [half, again] = [await places(), await places()]
  t.strictSame(again, half)
  const away = half.filter(id => 'pq'.includes(id)).length
  t.ok(away > 25 && away < 65, '30 % of the clients go to the others', { away })
  gateway.health('a', true)
  gateway.health('b', true)
  t.strictSame(await places(), whole, 'and come back to where they were')
})

t.test('a named upstream has priorities of its own', async t => {
  const [x, y] = [await rawBackend(t, () => ok('x')), await rawBackend(t, () => ok('y'))]
  const gateway = await namedGateway(t, { a: {}, p: { backup: true } }, {
    upstreams: { other: { backends: [{ id: 'a', url: x.url }, { id: 'p', url: y.url, backup: true }] } },
    routes: [{ prefix: '/' }, { prefix: '/other', upstream: 'other' }]
  })
  gateway.health('a', false, 'other')
  const client = await gateway.client()
  t.equal(await client.who('/other'), 'y')
  t.equal(await client.who('/'), 'a')
})
