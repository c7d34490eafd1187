import t from 'tap'
import { balancerFactory, createBalancer, FunctionBalancer, hashReady, LeastRequests, Maglev, RingHash, RoundRobin } from '../../../lib/balancer/index.ts'
import { BALANCER_SCHEMAS, BALANCER_TYPES, BalancerSchema } from '../../../types/index.ts'
import type { BalancerInput, LoadBalancer } from '../../../types/index.ts'
import { resolveOptions } from '../../../lib/options.ts'
import { startGateway } from '../../helpers/app.ts'
import { ok, rawBackend } from '../../helpers/wire.ts'
import { contextOf, equalBackends } from './suite.ts'

await hashReady

const TYPES = ['round-robin', 'weighted-round-robin', 'random', 'least-requests', 'p2c', 'peak-ewma', 'ip-hash', 'ring-hash', 'maglev', 'rendezvous']

t.test('every policy there is can be had by its name', t => {
  t.strictSame([...BALANCER_TYPES], TYPES)
  for (const type of BALANCER_TYPES) {
    t.equal(createBalancer(type).type, type)
    t.equal(createBalancer({ type }).type, type)
  }
  t.end()
})

t.test('a factory makes a new one of ours at each call, and hands on the same one of the user\'s', t => {
  const ours = balancerFactory('random')
  t.not(ours(), ours())
  const mine: LoadBalancer = { type: 'mine', select: available => available[0] }
  const instance = balancerFactory(mine)
  t.equal(instance(), mine)
  t.equal(instance(), mine)
  const roundRobin = new RoundRobin()
  t.equal(balancerFactory(roundRobin)(), roundRobin, 'an instance of ours too')
  const byFunction = balancerFactory(available => available[0])
  t.type(byFunction(), FunctionBalancer)
  t.equal(byFunction(), byFunction())
  t.end()
})

t.test('a function is a balancer of type function, and its promise is its answer', async t => {
  const available = equalBackends(3)
  const context = contextOf({ path: '/x' })
  const asked: unknown[] = []
  const balancer = createBalancer((...args) => {
    asked.push(...args)
    return available[1]
  })
  t.equal(balancer.type, 'function')
  t.equal(balancer.select(available, context), available[1])
  t.strictSame(asked, [available, context])
  t.equal(await createBalancer(async () => available[2]).select(available, context), available[2])
  t.throws(() => createBalancer(() => { throw new Error('mine') }).select(available, context), { message: 'mine' })
})

t.test('a function chooses for real requests, at once or by a promise; what it throws is 503 and in the log', async t => {
  const backends = await Promise.all([0, 1].map(i => rawBackend(t, () => ok(`b${i}`))))
  const gateway = await startGateway(t, {
    backends: backends.map(({ url }, i) => ({ id: `b${i}`, url })),
    balancer: (available, { path }) => {
      if (path === '/throw') throw new Error('the balancer is out of order')
      if (path === '/reject') return Promise.reject(new Error('the balancer is out of order'))
      return path === '/later' ? new Promise(resolve => setImmediate(() => resolve(available[1]))) : available[0]
    },
    routes: [{ prefix: '/' }]
  })
  t.equal(await (await fetch(`${gateway.url}/now`)).text(), 'b0')
  t.equal(await (await fetch(`${gateway.url}/later`)).text(), 'b1')
  t.equal(gateway.app.proxy.getLoadBalancer().type, 'function')
  for (const path of ['/throw', '/reject']) {
    const answer = await fetch(`${gateway.url}${path}`)
    t.equal(answer.status, 503)
    t.notMatch(await answer.text(), /out of order/)
  }
  gateway.app.proxy.setLoadBalancer(available => available[1])
  t.equal(await (await fetch(`${gateway.url}/now`)).text(), 'b1', 'also by the setter')
})

t.test('options have their defaults', t => {
  const resolved = (input: BalancerInput) => resolveOptions<BalancerInput>(BalancerSchema, input, 'balancer')
  t.strictSame(resolved({ type: 'least-requests', choices: 3 }), { type: 'least-requests', fullScanLimit: 32, choices: 3, bias: 1 })
  t.strictSame(resolved({ type: 'peak-ewma' }), { type: 'peak-ewma', decay: 10_000, penalty: 1_000 })
  t.strictSame(resolved({ type: 'ip-hash' }), { type: 'ip-hash', boundedLoad: false })
  const hash = { key: 'ip', missing: 'random', boundedLoad: false }
  t.strictSame(resolved({ type: 'ring-hash' }), { type: 'ring-hash', ...hash, points: 160, probes: 21, minRingSize: 160, maxRingSize: 524_288 })
  t.strictSame(resolved({ type: 'maglev', key: { cookie: 'a' } }), { type: 'maglev', ...hash, key: { cookie: 'a' }, tableSize: 65_537 })
  t.strictSame(resolved({ type: 'rendezvous' }), { type: 'rendezvous', ...hash })
  t.end()
})

t.test('a wrong option names its path, its value and what is expected', t => {
  const names = TYPES.map(type => `'${type}'`).join(', ')
  const wrong: [unknown, string][] = [
    ['fastest', `balancer must be one of ${names}, an object { type } with its options, a LoadBalancer with a select() method, or a function, and is 'fastest'`],
    [5, `balancer must be one of ${names}, an object { type } with its options, a LoadBalancer with a select() method, or a function, and is 5`],
    [{ type: 'fastest' }, `balancer.type must be one of ${names}, and is 'fastest'`],
    [{}, `balancer.type must be one of ${names}, and is nothing`],
    [{ type: 'round-robin', choices: 2 }, 'balancer.choices is not an option'],
    [{ type: 'least-requests', choise: 2 }, "balancer.choise is not an option; did you mean 'choices'?"],
    [{ type: 'least-requests', choices: 1 }, 'balancer.choices must be an integer of at least 2 and of at most 16, and is 1'],
    [{ type: 'least-requests', bias: -1 }, 'balancer.bias must be a number of at least 0 and of at most 10, and is -1'],
    [{ type: 'peak-ewma', decay: 0 }, 'balancer.decay must be a number above 0, and is 0'],
    [{ type: 'ring-hash', points: 0 }, 'balancer.points must be an integer of at least 1 and of at most 65536, and is 0'],
    [{ type: 'ring-hash', maxRingSize: 1e9 }, 'balancer.maxRingSize must be an integer of at least 1024 and of at most 8388608, and is 1000000000'],
    [{ type: 'maglev', tableSize: 1 }, 'balancer.tableSize must be an integer of at least 2 and of at most 5000011, and is 1'],
    [{ type: 'maglev', key: 'header' }, "balancer.key must be 'ip', 'path', { header }, { cookie }, { query } or a function, and is 'header'"],
    [{ type: 'maglev', key: { haeder: 'a' } }, "balancer.key.haeder is not an option; did you mean 'header'?"],
    [{ type: 'maglev', key: { header: 'a b' } }, "balancer.key.header must be a name, and is 'a b'"],
    [{ type: 'rendezvous', missing: 'none' }, "balancer.missing must be 'random' or 'ip', and is 'none'"],
    [{ type: 'ip-hash', boundedLoad: 0.5 }, 'balancer.boundedLoad must be a number of at least 1 or false, and is 0.5'],
    [{ type: 'ip-hash', key: 'ip' }, 'balancer.key is not an option']
  ]
  for (const [input, message] of wrong) {
    t.throws(() => createBalancer(input as BalancerInput), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message })
    t.throws(() => balancerFactory(input as BalancerInput), { message }, 'a factory says so before it is asked')
  }
  t.throws(() => createBalancer('fastest' as never, 'options.balancer'), { message: /^options\.balancer must be/ })
  t.end()
})

t.test('a policy made by hand checks its options and fills them in as well', t => {
  t.throws(() => new LeastRequests({ choices: 1 }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /^options\.choices/ })
  t.throws(() => new RingHash({ key: 'port' as never }), { message: /^options\.key/ })
  t.throws(() => new Maglev({ size: 7 } as never), { message: /^options\.size is not an option/ })
  t.throws(() => new RoundRobin({ type: 'random' } as never), { code: 'FST_ROCKSTAR_INVALID_OPTIONS' })
  const given = Object.freeze({ boundedLoad: 2 })
  t.equal(new Maglev(given).type, 'maglev')
  t.end()
})

t.test('every option of every policy is described, and has a default', t => {
  for (const { title, description, properties } of BALANCER_SCHEMAS) {
    t.ok(title !== undefined && description !== undefined)
    for (const [name, property] of Object.entries(properties)) {
      t.ok(property.description !== undefined, `${title}.${name} is described`)
      t.ok(name === 'type' || property.default !== undefined, `${title}.${name} has a default`)
    }
  }
  t.end()
})
