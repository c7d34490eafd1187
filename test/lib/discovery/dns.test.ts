import t, { type Test } from 'tap'
import type { BackendInput, DiscoveryInput, UpstreamOptions } from '../../../types/index.ts'
import { dnsServer } from '../../helpers/dns-server.ts'
import { makeUpstream } from '../../helpers/upstream.ts'
import { until } from '../../helpers/wire.ts'

const NAME = 'api.internal'
const SERVICE = '_http._tcp.api.internal'

async function scene (t: Test, discovery: DiscoveryInput, backends: BackendInput[], script: (server: Awaited<ReturnType<typeof dnsServer>>) => void, options: UpstreamOptions = {}) {
  const server = await dnsServer(t)
  script(server)
  const { upstream, clock } = makeUpstream({ health: false, backends, ...options, discovery, dns: { servers: [server.address], timeout: 100, tries: 1, ...options.dns as object } })
  t.teardown(() => upstream.stop())
  const failures: string[] = []
  upstream.events.on('discovery:failed', ({ source, cause }) => { failures.push(`${source}: ${cause}`) })
  upstream.start()
  const ids = () => upstream.list().map(({ id }) => id).sort().join(' ')
  const whenListed = (expected: string) => until(() => ids() === expected)
  return { server, upstream, clock, failures, ids, whenListed }
}

t.test('a name is one backend for each of its addresses; URL, Host and the name in certificates are the name\'s', async t => {
  const { upstream, whenListed } = await scene(t, 'dns', [{ url: `https://${NAME}:8443/base`, weight: 3, zone: 'x', metadata: { a: 1 } }], server => server.set(NAME, ['127.0.0.1', '127.0.0.2', '::1']))
  await whenListed('api.internal:8443@127.0.0.1 api.internal:8443@127.0.0.2 api.internal:8443@::1')
  const [backend] = upstream.list()
  t.match(backend, { address: '127.0.0.1', origin: 'https://api.internal:8443', host: 'api.internal:8443', servername: NAME, basePath: '/base', weight: 3, zone: 'x', metadata: { a: 1 } })
  t.equal(backend.url.href, 'https://api.internal:8443/base')
  t.match(upstream.list()[2].toJSON(), { id: 'api.internal:8443@::1', url: 'https://api.internal:8443/base', address: '::1' })
})

t.test('addresses that are given as such, and what is added by hand, stand for themselves', async t => {
  const { upstream, whenListed } = await scene(t, 'dns', [{ id: 'x', url: `http://${NAME}` }, 'http://127.0.0.9:1', 'http://[::1]:1', 'unix:/tmp/x.sock'], server => server.set(NAME, ['127.0.0.1']))
  const others = '127.0.0.9:1 [::1]:1 unix:/tmp/x.sock'
  t.equal(upstream.list().length, 3, 'they are there from the start')
  await whenListed(`${others} x@127.0.0.1`)
  upstream.add(`http://${NAME}`)
  await whenListed(`${others.slice(0, 19)} ${NAME} unix:/tmp/x.sock x@127.0.0.1`)
  t.equal(upstream.get(NAME).address, undefined)
})

t.test('it follows the name by its TTL, and keeps those that stay', async t => {
  const { server, upstream, clock, whenListed } = await scene(t, 'dns', [`http://${NAME}`], server => server.set(NAME, { addresses: ['127.0.0.1', '127.0.0.2'], ttl: 20 }))
  await whenListed('api.internal@127.0.0.1 api.internal@127.0.0.2')
  const kept = upstream.get('api.internal@127.0.0.2')
  server.set(NAME, { addresses: ['127.0.0.2', '127.0.0.3'], ttl: 20 })
  clock.advance(19_999)
  t.equal(server.asked(NAME, 'A'), 1)
  clock.advance(2_001)
  await whenListed('api.internal@127.0.0.2 api.internal@127.0.0.3')
  t.equal(upstream.get('api.internal@127.0.0.2'), kept)
})

t.test('or by the interval', async t => {
  const { server, clock, whenListed } = await scene(t, { type: 'dns', interval: 3_000, jitter: 0 }, [`http://${NAME}`], server => server.set(NAME, { addresses: ['127.0.0.1'], ttl: 3_600 }))
  await whenListed('api.internal@127.0.0.1')
  server.set(NAME, { addresses: ['127.0.0.2'] })
  clock.advance(3_000)
  await whenListed('api.internal@127.0.0.2')
})

t.test('only addresses of the family that the pool connects to are backends', async t => {
  const { whenListed, upstream } = await scene(t, 'dns', [`http://${NAME}`], server => server.set(NAME, ['127.0.0.1', '::1']), { pool: { family: 6 } })
  await whenListed('api.internal@::1')
  t.equal(upstream.list().length, 1)
})

t.test('a failing server, and a name that is gone, leave those found last; each name is told of by itself', async t => {
  const { server, upstream, clock, ids, whenListed, failures } = await scene(t, { type: 'dns', jitter: 0, emptyGrace: 30_000 }, [`http://${NAME}`, 'http://other.internal'], server => {
    server.set(NAME, { addresses: ['127.0.0.1'], ttl: 10 }).set('other.internal', { addresses: ['127.0.0.2'], ttl: 10 })
  })
  const all = 'api.internal@127.0.0.1 other.internal@127.0.0.2'
  await whenListed(all)
  server.set(NAME, { fail: 'SERVFAIL' }).set('other.internal', { fail: 'NXDOMAIN' })
  clock.advance(10_000)
  await until(() => failures.length === 2)
  t.strictSame(failures.sort(), ["api.internal: the name 'api.internal' could not be resolved: ESERVFAIL", 'other.internal: there are no backends'])
  t.equal(ids(), all)
  for (let i = 0; i < 3; i++) {
    await new Promise(resolve => setImmediate(resolve))
    const { failures } = upstream.dns.stats()
    clock.advance(10_000)
    await until(() => upstream.dns.stats().failures === failures + 2)
  }
  await whenListed('api.internal@127.0.0.1')
  t.equal(failures.length, 2)
  server.set('other.internal', ['127.0.0.3'])
  clock.advance(10_000)
  await whenListed('api.internal@127.0.0.1 other.internal@127.0.0.3')
})

t.test('a family that fails keeps its backends', async t => {
  const { server, upstream, clock, whenListed } = await scene(t, { type: 'dns', jitter: 0 }, [`http://${NAME}`], server => server.set(NAME, { addresses: ['127.0.0.1', '::1'], ttl: 10 }))
  await whenListed('api.internal@127.0.0.1 api.internal@::1')
  server.set(NAME, { addresses: ['127.0.0.2', '::1'], ttl: 10, silent: 'AAAA' })
  clock.advance(10_000)
  await whenListed('api.internal@127.0.0.2 api.internal@::1')
  t.equal(upstream.list().length, 2)
})

t.test('SRV records are backends at their targets: weights are weights, priorities are levels', async t => {
  const { upstream, whenListed } = await scene(t, 'dns-srv', [{ url: `https://${SERVICE}/base`, weight: 2 }], server => server.set(SERVICE, {
    srv: [['One.internal', 8081, 10, 100], ['two.internal', 8082, 0, 100], ['three.internal', 443, 5, 20], ['four.internal', 1, 60_000, 65_535]]
  }))
  await whenListed(['four.internal:1', 'one.internal:8081', 'three.internal:443', 'two.internal:8082'].map(target => `${SERVICE}@${target}`).join(' '))
  const told = Object.fromEntries(upstream.list().map(({ url, weight, priority, servername, host }) => [url.href, [weight, priority, servername, host]]))
  t.strictSame(told, {
    'https://three.internal/base': [10, 0, 'three.internal', 'three.internal'],
    'https://one.internal:8081/base': [20, 1, 'one.internal', 'one.internal:8081'],
    'https://two.internal:8082/base': [2, 1, 'two.internal', 'two.internal:8082'],
    'https://four.internal:1/base': [65_535, 2, 'four.internal', 'four.internal:1']
  })
  t.type(upstream.list()[0].lookup, 'function', 'whose names are resolved for each connection')
})

t.test('SRV is asked for again every 10 s; what changes of a target is changed of its backend', async t => {
  const { server, upstream, clock, whenListed } = await scene(t, { type: 'dns-srv', jitter: 0 }, [{ id: 'api', url: `http://${SERVICE}`, backup: true }], server => server.set(SERVICE, { srv: [['one.internal', 1, 1, 1], ['two.internal', 2, 1, 2]] }))
  await whenListed('api@one.internal:1 api@two.internal:2')
  const two = upstream.get('api@two.internal:2')
  t.strictSame(upstream.list().map(({ priority }) => priority), [1, 2])
  server.set(SERVICE, { srv: [['two.internal', 2, 7, 2]] })
  clock.advance(10_000)
  await whenListed('api@two.internal:2')
  t.match(two, { weight: 7, priority: 1 })
  t.equal(upstream.get('api@two.internal:2'), two)
})

t.test('a target of nothing, no records, and a name that is gone are all nothing', async t => {
  for (const script of [{ srv: [['.', 0]] as [string, number][] }, { srv: [] }, { fail: 'NXDOMAIN' } as const]) {
    const { server, failures, clock, ids, whenListed } = await scene(t, { type: 'dns-srv', jitter: 0, emptyGrace: 5_000 }, [`http://${SERVICE}`], server => server.set(SERVICE, { srv: [['one.internal', 1]] }))
    await whenListed(`${SERVICE}@one.internal:1`)
    server.set(SERVICE, script)
    clock.advance(10_000)
    await until(() => failures.length === 1)
    t.strictSame(failures, [`${SERVICE}: there are no backends`])
    t.equal(ids(), `${SERVICE}@one.internal:1`)
    clock.advance(5_000)
    await whenListed('')
  }
})

t.test('a server that does not answer is a failure', async t => {
  const { failures } = await scene(t, 'dns-srv', [`http://${SERVICE}`], server => server.set(SERVICE, { silent: true }))
  await until(() => failures.length === 1)
  t.match(failures[0], /could not be resolved: ETIMEOUT/)
})

t.test('a connection that fails has the name asked for again', async t => {
  const { server, upstream, clock, whenListed } = await scene(t, 'dns', [`http://${NAME}`], server => server.set(NAME, { addresses: ['127.0.0.1'], ttl: 3_600 }))
  await whenListed('api.internal@127.0.0.1')
  server.set(NAME, ['127.0.0.2'])
  clock.advance(1_000)
  upstream.list()[0].connectFailed?.('127.0.0.1')
  clock.advance(0)
  await whenListed('api.internal@127.0.0.2')
})

t.test('options that mean nothing are refused', t => {
  const wrong: [UpstreamOptions, RegExp][] = [
    [{ discovery: 'dns' }, /^options\.backends must have a URL with a host name, for which discovery can ask$/],
    [{ discovery: 'dns', backends: ['http://127.0.0.1'] }, /must have a URL with a host name/],
    [{ discovery: 'dns-srv', backends: ['http://_http._tcp.x:80', 'http://_http._tcp.y:81'] }, /^options\.backends\[1\] must be a URL without a port, which SRV records tell, and has 81$/],
    [{ discovery: 'dns', backends: ['ftp://x'] }, /^options\.backends\[0\] must be/],
    [{ discovery: 'dns', backends: ['http://x', 'http://x/base'] }, /A backend with id 'x' is already listed/],
    [{ discovery: 'dns', backends: [{ url: 'http://x', healthCheck: { host: 'y' } }] }, /wants a health\.path/],
    [{ discovery: { type: 'srv' } as never, backends: ['http://x'] }, /^options\.discovery\.type must be 'dns', 'dns-srv' or a function, and is 'srv'$/],
    [{ discovery: { interval: 5 } as never }, /^options\.discovery\.type must be .*nothing/],
    [{ discovery: { type: 'dns', inteval: 5 } as never }, /^options\.discovery\.inteval is not an option; did you mean 'interval'\?$/]
  ]
  for (const [options, message] of wrong) t.throws(() => makeUpstream(options), { message })
  t.end()
})
