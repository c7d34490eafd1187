import t from 'tap'
import { hashReady, IpHash, RingHash } from '../../../lib/balancer/index.ts'
import { asking, choose, countsOf, equalBackends, suite } from './suite.ts'

await hashReady

t.test('ip-hash', t => {
  suite(t, { type: 'ip-hash' }, 0.08)
  t.end()
})

t.test('ip-hash with bounded load', t => {
  suite(t, { type: 'ip-hash', boundedLoad: 1.25 }, 0.08)
  t.end()
})

t.test('a client stays where it is, whatever it asks for', t => {
  const available = equalBackends(7)
  const balancer = new IpHash()
  balancer.rebuild(available)
  const homes = new Set(Array.from({ length: 200 }, (_, i) => choose(balancer, available, { ...asking(1), path: `/${i}`, headers: { cookie: `a=${i}` } })))
  t.equal(homes.size, 1)
  t.end()
})

t.test('it maps as ring-hash does by address', t => {
  const available = equalBackends(7)
  const balancers = [new IpHash(), new RingHash({ key: 'ip' })]
  for (const balancer of balancers) balancer.rebuild(available)
  for (let i = 0; i < 500; i++) if (choose(balancers[0], available, asking(i)) !== choose(balancers[1], available, asking(i))) t.fail(`client ${i}`)
  t.throws(() => new IpHash({ key: 'path' } as never), { code: 'FST_ROCKSTAR_INVALID_OPTIONS' }, 'it has no other key')
  t.end()
})

t.test('requests without an address are spread over all', t => {
  const available = equalBackends(4)
  const balancer = new IpHash()
  balancer.rebuild(available)
  t.ok(countsOf(balancer, available, 4000, () => ({})).every(count => count > 800))
  t.end()
})
