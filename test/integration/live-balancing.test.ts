import t from 'tap'
import { BALANCER_TYPES, type Backend, type BalancerOptions } from '../../types/index.ts'
import { FakeClock } from '../helpers/clock.ts'
import { namedGateway, type NamedGateway } from '../helpers/named.ts'
import { ok, rawBackend, until } from '../helpers/wire.ts'

/** A policy whose keys are users. */
function byUser (type: BalancerOptions['type']): { type: BalancerOptions['type'] } {
  return ['ring-hash', 'maglev', 'rendezvous'].includes(type) ? { type, key: { header: 'x-user' }, ...type === 'maglev' ? { tableSize: 4099 } : {} } as { type: 'maglev' } : { type }
}

/** Who serves each of so many users. */
async function places (gateway: NamedGateway, count: number): Promise<string[]> {
  const client = await gateway.client()
  const found: string[] = []
  for (let i = 0; i < count; i++) found.push(await client.who('/', `X-User: user-${i}`))
  return found
}

t.test('changing the balancer to every policy while requests are under way loses none', async t => {
  const gateway = await namedGateway(t, { a: { metadata: { kind: 'x' } }, b: { weight: 2 }, c: { metadata: { kind: 'x' } }, p: { backup: true } }, {
    routes: [{ prefix: '/' }, { prefix: '/x', match: { kind: 'x' } }],
    affinity: { secret: 'a secret of some length' }
  })
  gateway.health('c', false)
  const load = { running: true }
  const answers: string[] = []
  const senders = Array.from({ length: 4 }, async (_, i) => {
    const client = await gateway.client()
    while (load.running) answers.push(await client.who(i % 2 === 0 ? '/' : '/x', `X-User: ${answers.length}`))
  })
  for (const type of [...BALANCER_TYPES, 'function', 'async'] as const) {
    if (type === 'function') gateway.app.proxy.setLoadBalancer(available => available[0])
    else if (type === 'async') gateway.app.proxy.setLoadBalancer(async available => available[0])
    else gateway.app.proxy.setLoadBalancer(byUser(type))
    const seen = answers.length
    await until(() => answers.length > seen + 12)
  }
  load.running = false
  await Promise.all(senders)
  t.strictSame(answers.filter(answer => !/^[abp]$/.test(answer)), [])
  t.match(gateway.app.proxy.getMetrics(), { totalRequests: answers.length, failedRequests: 0, abortedRequests: 0, inFlight: 0 })
})

t.test('a request that an async balancer still thinks about is served when there is another balancer', async t => {
  let decide = (): void => {}
  let asked = 0
  const gateway = await namedGateway(t, { a: {}, b: {} }, {
    balancer: async available => {
      asked++
      const [first] = available
      await new Promise<void>(resolve => { decide = resolve })
      return first
    }
  })
  const answer = (await gateway.client()).who()
  await until(() => asked === 1)
  gateway.app.proxy.setLoadBalancer(available => available[1])
  t.equal(await (await gateway.client()).who(), 'b')
  decide()
  t.equal(await answer, 'a')
})

t.test('one that throws or rejects fails its own request, also in a subset and in a later priority', async t => {
  const gateway = await namedGateway(t, { a: { metadata: { kind: 'x' } }, p: { backup: true } }, { routes: [{ prefix: '/' }, { prefix: '/x', match: { kind: 'x' } }] })
  const client = await gateway.client()
  for (const balancer of [() => { throw new Error('boom') }, async () => { throw new Error('boom') }, () => undefined, () => ({ id: 'a' }) as Backend]) {
    gateway.app.proxy.setLoadBalancer(balancer)
    t.equal(await client.who('/'), '[503]')
    t.equal(await client.who('/x'), '[503]')
    gateway.health('a', false)
    t.equal(await client.who('/'), '[503]')
    gateway.health('a', true)
  }
  t.equal(gateway.log.filter(({ err }) => /boom/.test((err as Error | undefined)?.stack ?? '')).length, 6, 'the cause is logged each time')
  gateway.app.proxy.setLoadBalancer('random')
  t.equal(await client.who(), 'a')
})

t.test('a backend that has just been removed is not used, however long a balancer holds on to it', async t => {
  for (const wait of [<T>(value: T) => value, async <T>(value: T) => value]) {
    const gateway = await namedGateway(t, { a: {}, b: {} })
    const { proxy } = gateway.app
    const held = proxy.getBackend('a')
    let asked = 0
    await proxy.removeBackend('a')
    proxy.setLoadBalancer(available => wait(++asked % 2 === 1 ? held : available[0]))
    const client = await gateway.client()
    t.equal(await client.turns(3), 'bbb', 'it is asked again')
    proxy.setLoadBalancer(() => wait(held))
    t.equal(await client.who(), '[503]', 'and given up when it insists')
    t.equal(gateway.backends.a.connections.length, 0)
  }
})

for (const type of BALANCER_TYPES) {
  t.test(`a weight of 0 takes nothing from the next request on, whatever is under way: ${type}`, async t => {
    const clock = new FakeClock()
    const slow = await rawBackend(t, (_request, _wire, { requests }) => requests.length === 1 ? undefined : ok('slow'))
    const gateway = await namedGateway(t, {}, { clock, balancer: byUser(type) })
    gateway.app.proxy.addBackend({ id: 'slow', url: slow.url })
    const waiting = (await gateway.client()).who()
    await until(() => slow.requests.length === 1)
    const other = await rawBackend(t, () => ok('b'))
    gateway.app.proxy.addBackend({ id: 'b', url: other.url })
    gateway.app.proxy.updateBackend('slow', { weight: 0 })
    t.strictSame([...new Set(await places(gateway, 12))], ['b'])
    slow.connections[0].send(ok('late'))
    t.equal(await waiting, 'late')
    gateway.app.proxy.updateBackend('b', { weight: 0 })
    gateway.app.proxy.updateBackend('slow', { weight: 1 })
    if (type === 'ip-hash') t.equal(await (await gateway.client()).who(), 'slow')
    else t.strictSame([...new Set(await places(gateway, 12))], ['slow'], 'and all when it is the only one with any')
  })
}

for (const [type, stray] of [['ring-hash', 0], ['rendezvous', 0], ['maglev', 0.05]] as const) {
  t.test(`changing one weight moves only what it must: ${type}`, async t => {
    const gateway = await namedGateway(t, { a: {}, b: {}, c: {}, d: {} }, { balancer: byUser(type) })
    const { proxy } = gateway.app
    const count = 120
    const isMinimal = (before: string[], after: string[], name: string) => {
      const others = before.filter((id, i) => id !== after[i] && id !== 'b' && after[i] !== 'b')
      t.ok(others.length <= stray * count, name, { others })
    }
    const first = await places(gateway, count)
    proxy.updateBackend('b', { weight: 3 })
    const more = await places(gateway, count)
    isMinimal(first, more, 'more for one: nothing between the others')
    t.ok(more.filter(id => id === 'b').length > first.filter(id => id === 'b').length)
    proxy.updateBackend('b', { weight: 0 })
    const none = await places(gateway, count)
    isMinimal(more, none, 'nothing for one: only what it had')
    t.notOk(none.includes('b'))
    proxy.updateBackend('b', { weight: 1 })
    t.strictSame(await places(gateway, count), first, 'and back to where all was')
  })
}
