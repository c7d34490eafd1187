import t from 'tap'
import { FakeClock } from '../helpers/clock.ts'
import { namedGateway, type NamedGateway } from '../helpers/named.ts'
import { ok, rawBackend, until } from '../helpers/wire.ts'

const BEGUN = 'too few backends are available: all active ones are used'
const OVER = 'enough backends are available again'
const told = ({ log }: NamedGateway) => log.filter(({ msg }) => msg === BEGUN || msg === OVER).map(({ level, msg, upstream, available, active }) => ({ level, msg, upstream, available, active }))

t.test('below half all active backends are used, and that is said in status and log', async t => {
  const gateway = await namedGateway(t, { a: {}, b: {}, c: {}, d: {} })
  const { proxy } = gateway.app
  const client = await gateway.client()
  gateway.health('a', false)
  gateway.health('b', false)
  t.equal(proxy.getMetrics().panic, false)
  t.match(await client.turns(4), /^(cdcd|dcdc)$/, 'a half is enough')
  t.strictSame(told(gateway), [])
  gateway.health('c', false)
  t.equal(proxy.getMetrics().panic, true)
  t.strictSame([...await client.turns(8)].sort().join(''), 'aabbccdd')
  t.strictSame(told(gateway), [{ level: 40, msg: BEGUN, upstream: 'default', available: 1, active: 4 }])
  gateway.health('d', false)
  t.equal(told(gateway).length, 1, 'it is said once')
  t.strictSame([...await client.turns(4)].sort().join(''), 'abcd', 'even where none is left')
  gateway.health('a', true)
  gateway.health('b', true)
  t.equal(proxy.getMetrics().panic, false)
  t.strictSame(told(gateway)[1], { level: 30, msg: OVER, upstream: 'default', available: 2, active: 4 })
  t.match(await client.turns(4), /^(abab|baba)$/)
  gateway.health('a', false)
  t.equal(told(gateway).length, 3, 'and said again when it comes again')
  const { chosenBecause } = proxy.getMetrics().backends.a
  t.equal(chosenBecause.panic, 3)
})

t.test('what is ejected is used too', async t => {
  const gateway = await namedGateway(t, { a: {}, b: {} })
  gateway.app.proxy.getBackend('a')
  gateway.health('a', true)
  Object.assign(gateway.app.proxy.getBackend('a'), { ejected: true })
  gateway.health('b', false)
  t.match(await (await gateway.client()).turns(2), /^(ab|ba)$/)
})

t.test('who is inactive, has no weight or is on its way out is not used in panic either', async t => {
  const gateway = await namedGateway(t, { a: {}, b: {}, c: {}, d: { isActive: false }, e: { weight: 0 } })
  const slow = await rawBackend(t, () => {})
  gateway.app.proxy.addBackend({ id: 'slow', url: slow.url, weight: 100 })
  const waiting = await gateway.client()
  waiting.who().catch(() => {})
  while (slow.requests.length === 0) await new Promise(setImmediate)
  gateway.app.proxy.removeBackend('slow', { drain: { timeout: 60_000 } }).catch(() => {})
  for (const id of 'ab') gateway.health(id, false)
  t.equal(gateway.app.proxy.getMetrics().panic, true)
  t.strictSame([...await (await gateway.client()).turns(9)].sort().join(''), 'aaabbbccc')
  t.equal(slow.requests.length, 1)
  t.match(told(gateway), [{ available: 1, active: 3 }])
})

t.test('who waits for its first check is not used in panic either, but after it is, be it that it failed', async t => {
  const results = new Map<string, (well: boolean) => void>()
  const checker = ({ id }: { id: string }) => new Promise<boolean>(resolve => { results.set(id, resolve) })
  const gateway = await namedGateway(t, { a: {}, b: {}, c: {} }, { clock: new FakeClock(), health: { checker, initial: 'check-first', interval: 1_000_000, timeout: 900_000 } })
  const { proxy } = gateway.app
  const client = await gateway.client()
  const end = async (id: string, well: boolean) => {
    results.get(id)?.(well)
    await until(() => proxy.getHealthStatus()[id].lastCheck !== undefined)
  }
  proxy.healthCheck().catch(() => {})
  await until(() => results.size === 3)
  t.equal(await client.turns(3), '[503][503][503]')
  t.notOk(proxy.getMetrics().panic)
  await end('a', false)
  t.equal(await client.turns(3), 'aaa', 'the only one that has been checked')
  t.equal(proxy.getMetrics().panic, true)
  await end('b', true)
  t.equal(await client.turns(3), 'bbb', 'half of those checked are well')
  t.equal(proxy.getMetrics().panic, false)
  await end('c', false)
  t.strictSame([...await client.turns(6)].sort().join(''), 'aabbcc')
  const late = await rawBackend(t, () => ok('late'))
  proxy.addBackend({ id: 'late', url: late.url })
  t.notMatch(await client.turns(8), /late/, 'nor is one that comes in the midst of panic')
  t.equal(late.requests.length, 0)
})

t.test('a threshold of 0 is no panic: where nobody is available there is 503', async t => {
  const gateway = await namedGateway(t, { a: {}, b: {} }, { panicThreshold: 0 })
  const client = await gateway.client()
  gateway.health('a', false)
  t.equal(await client.turns(3), 'bbb')
  gateway.health('b', false)
  t.equal(await client.who(), '[503]')
  t.match(JSON.parse((await client.get()).body), { code: 'FST_ROCKSTAR_NO_BACKEND' })
  t.equal(gateway.app.proxy.getMetrics().panic, false)
  t.strictSame(told(gateway), [])
})

t.test('the threshold may be any part', async t => {
  const gateway = await namedGateway(t, { a: {}, b: {}, c: {} }, { panicThreshold: 1 / 3 })
  gateway.health('a', false)
  gateway.health('b', false)
  t.equal(await (await gateway.client()).turns(3), 'ccc')
  t.equal(gateway.app.proxy.getMetrics().panic, false)
  for (const panicThreshold of [-0.1, 1.1, '0.5']) await t.rejects(namedGateway(t, {}, { panicThreshold: panicThreshold as number }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /options\.panicThreshold/ })
})

t.test('no priority panics while the others can carry all', async t => {
  const gateway = await namedGateway(t, { a: {}, b: {}, c: {}, p: { backup: true } })
  gateway.health('a', false)
  gateway.health('b', false)
  t.equal(gateway.app.proxy.getMetrics().panic, false)
  t.notMatch(await (await gateway.client()).turns(30), /[ab]/)
})

t.test('each upstream panics for itself', async t => {
  const [x, y] = [await rawBackend(t, () => ok('x')), await rawBackend(t, () => ok('y'))]
  const gateway = await namedGateway(t, { a: {} }, { upstreams: { other: { backends: [{ id: 'x', url: x.url }, { id: 'y', url: y.url }] } } })
  gateway.health('x', false, 'other')
  gateway.health('y', false, 'other')
  t.match(gateway.app.proxy.getMetrics(), { panic: false, upstreams: { other: { panic: true } } })
  t.equal(gateway.app.proxy.upstream('other').getMetrics().panic, true)
  t.match(told(gateway), [{ upstream: 'other', level: 40 }])
})

t.test('an operator who switches backends off makes no panic', async t => {
  const gateway = await namedGateway(t, { a: {}, b: {}, c: {}, d: {} })
  for (const id of 'abc') gateway.app.proxy.updateBackend(id, { isActive: false })
  t.equal(gateway.app.proxy.getMetrics().panic, false)
  t.equal(await (await gateway.client()).turns(3), 'ddd')
  gateway.app.proxy.updateBackend('d', { isActive: false })
  t.equal(await (await gateway.client()).who(), '[503]')
  t.strictSame(told(gateway), [])
})
