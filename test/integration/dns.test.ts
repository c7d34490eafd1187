import t, { type Test } from 'tap'
import type { RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type GatewaySetup } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { dnsServer, serversOn, type DnsServer } from '../helpers/dns-server.ts'
import { Client } from '../helpers/named.ts'
import { until } from '../helpers/wire.ts'

const NAME = 'api.internal'

async function scene (t: Test, port: number, { dns = {}, ...options }: RockstarProxyOptions = {}, script: (server: DnsServer) => void = () => {}, setup: GatewaySetup = {}) {
  const server = await dnsServer(t)
  script(server)
  const gateway = await startGateway(t, {
    backends: [`http://${NAME}:${port}`],
    routes: [{ prefix: '/' }],
    dns: typeof dns === 'object' ? { servers: [server.address], timeout: 100, tries: 1, ...dns } : dns,
    ...options
  }, setup)
  const client = new Client(await gateway.connect())
  return { server, gateway, client, proxy: gateway.app.proxy }
}

t.test('connections spread over all addresses of a name, IPv4 and IPv6, and Host stays the name', async t => {
  const addresses = ['127.0.0.1', '127.0.0.2', '127.0.0.3', '::1']
  const { port, hosts } = await serversOn(t, addresses)
  const { server, client, proxy } = await scene(t, port, {}, server => server.set(NAME, addresses))
  const counts: Record<string, number> = {}
  for (let i = 0; i < 40; i++) {
    const address = await client.who()
    counts[address] = (counts[address] ?? 0) + 1
  }
  t.same(counts, { '127.0.0.1': 10, '127.0.0.2': 10, '127.0.0.3': 10, '::1': 10 })
  t.equal(server.questions.length, 2)
  t.strictSame([...new Set(hosts)], [`${NAME}:${port}`])
  t.match(proxy.getDnsStats(), { misses: 1, hits: 39, queries: 1, failures: 0, names: { [NAME]: { addresses } } })
})

t.test('the family of the pool is kept to', async t => {
  const { port } = await serversOn(t, ['127.0.0.1', '::1'])
  const { client } = await scene(t, port, { pool: { family: 6 } }, server => server.set(NAME, ['127.0.0.1', '::1']))
  t.equal(await client.turns(4), '::1::1::1::1')
})

t.test('an address that refuses goes on to the others without a request lost, and is tried last', async t => {
  const { port, close } = await serversOn(t, ['127.0.0.1', '127.0.0.2', '127.0.0.3'])
  const { client, server } = await scene(t, port, {}, server => server.set(NAME, ['127.0.0.1', '127.0.0.2', '127.0.0.3']))
  await close('127.0.0.2')
  const counts: Record<string, number> = {}
  for (let i = 0; i < 20; i++) {
    const address = await client.who()
    counts[address] = (counts[address] ?? 0) + 1
  }
  t.equal((counts['127.0.0.1'] ?? 0) + (counts['127.0.0.3'] ?? 0), 20)
  t.ok(server.questions.length <= 4)
})

t.test('where addresses are not tried in turn, the next connection goes to another', async t => {
  const { port, close } = await serversOn(t, ['127.0.0.1', '127.0.0.2'])
  const { client } = await scene(t, port, { pool: { autoSelectFamily: false }, random: () => 0 }, server => server.set(NAME, ['127.0.0.1', '127.0.0.2']))
  await close('127.0.0.1')
  t.equal(await client.turns(5), '[502]127.0.0.2127.0.0.2127.0.0.2127.0.0.2')
})

t.test('when a name leads elsewhere, a failed connection finds that out before its TTL is over', async t => {
  const { port, close } = await serversOn(t, ['127.0.0.1', '127.0.0.2'])
  const clock = new FakeClock()
  const { client, server, proxy } = await scene(t, port, { clock }, server => server.set(NAME, { addresses: ['127.0.0.1'], ttl: 3_600 }))
  t.equal(await client.who(), '127.0.0.1')
  await close('127.0.0.1')
  server.set(NAME, ['127.0.0.2'])
  clock.advance(1_000)
  t.equal(await client.who(), '[502]')
  await until(() => proxy.getDnsStats()?.names[NAME].addresses[0] === '127.0.0.2')
  t.equal(await client.who(), '127.0.0.2')
})

t.test('servers that fail, or are slow, keep no request waiting that has an answer', async t => {
  const { port } = await serversOn(t, ['127.0.0.1'])
  const clock = new FakeClock()
  const { client, server } = await scene(t, port, { clock, dns: { timeout: 5_000 } }, server => server.set(NAME, { addresses: ['127.0.0.1'], ttl: 10 }))
  t.equal(await client.who(), '127.0.0.1')
  server.hold()
  clock.advance(20_000)
  t.equal(await client.who(), '127.0.0.1')
  await server.whenAsked(NAME, 4)
  t.equal(await client.who(), '127.0.0.1')
  t.equal(server.questions.length, 4)
  server.set(NAME, { fail: 'SERVFAIL' }).release()
  for (let i = 0; i < 5; i++) {
    clock.advance(3_600_000)
    t.equal(await client.who(), '127.0.0.1')
  }
})

t.test('a name that cannot be resolved is a 502 that does not tell it; the log does', async t => {
  for (const [script, code] of [[undefined, 'ENOTFOUND'], [{ fail: 'SERVFAIL' }, 'ESERVFAIL'], [{ silent: true }, 'ETIMEOUT'], [{ addresses: [] }, 'ENODATA']] as const) {
    const { client, gateway } = await scene(t, 1, {}, server => { if (script !== undefined) server.set(NAME, script as object) })
    const { status, body, head } = await client.get()
    t.equal(status, 502)
    t.match(JSON.parse(body), { code: 'FST_ROCKSTAR_CONNECT', message: 'The backend could not be reached' })
    t.notMatch(head + body, /internal/)
    const line = gateway.log.find(({ msg }) => msg === 'attempt failed')
    t.match(line, { err: { message: `the name '${NAME}' could not be resolved: ${code}`, code } })
  }
})

t.test('health checks go by the same answers', async t => {
  const { port } = await serversOn(t, ['127.0.0.1'])
  const { proxy, server } = await scene(t, port, { health: { path: '/', minHealthy: 1 } }, server => server.set(NAME, ['127.0.0.1']))
  t.ok(proxy.getBackend(`${NAME}:${port}`).healthy)
  t.equal(server.questions.length, 2)
  await proxy.healthCheck()
  t.equal(server.questions.length, 2)
})

t.test('upstreams share what is known; one with dns of its own does not', async t => {
  const { port } = await serversOn(t, ['127.0.0.1', '127.0.0.2'])
  const other = await dnsServer(t)
  other.set(NAME, ['127.0.0.2'])
  const backends = [`http://${NAME}:${port}`]
  const { server, proxy, gateway, client } = await scene(t, port, {
    backends,
    upstreams: { same: { backends }, own: { backends, dns: { servers: [other.address] } }, none: { backends: [`http://127.0.0.1:${port}`], dns: false } },
    routes: [{ prefix: '/' }, ...['same', 'own', 'none'].map(upstream => ({ prefix: `/${upstream}`, upstream }))]
  }, server => server.set(NAME, ['127.0.0.1']))
  t.equal(await client.who('/'), '127.0.0.1')
  t.equal(await client.who('/same'), '127.0.0.1')
  t.equal(await client.who('/own'), '127.0.0.2')
  t.equal(await client.who('/none'), '127.0.0.1')
  t.equal(server.questions.length, 2)
  t.equal(other.questions.length, 2)
  t.strictSame(proxy.upstream('same').getDnsStats()?.misses, 1)
  t.strictSame(proxy.upstream('same').getDnsStats()?.hits, 1)
  t.equal(proxy.upstream('own').getDnsStats()?.queries, 1)
  t.equal(proxy.upstream('none').getDnsStats(), null)
  await gateway.app.close()
})

t.test('addresses are never asked for, and with dns: false Node looks names up', async t => {
  const { port } = await serversOn(t, ['127.0.0.1'])
  const { client, proxy } = await scene(t, port, { backends: [`http://127.0.0.1:${port}`] })
  t.equal(await client.who(), '127.0.0.1')
  t.match(proxy.getDnsStats(), { queries: 0, names: {} })
  const plain = await scene(t, port, { backends: [`http://localhost:${port}`], dns: false })
  t.equal(await plain.client.who(), '127.0.0.1')
  t.equal(plain.proxy.getDnsStats(), null)
})

t.test('the end of the app ends what is asked for', async t => {
  const clock = new FakeClock()
  const { server, gateway, client } = await scene(t, 1, { clock, dns: { timeout: 5_000 } }, server => server.set(NAME, { silent: true }))
  const answer = client.who()
  await server.whenAsked(NAME, 2)
  const closed = gateway.app.close()
  t.match(await answer, /\[50\d\]/)
  await closed
  await until(() => gateway.app.proxy.getDnsStats()?.failures === 1)
  t.equal(gateway.app.proxy.getDnsStats()?.names[NAME].error, 'ECANCELLED')
  t.equal(clock.timers, 0)
})

t.test('options that are none are refused at start', async t => {
  await t.rejects(scene(t, 1, { dns: { servers: ['nowhere'] } }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /options\.dns\.servers must be IP addresses/ })
  await t.rejects(scene(t, 1, { dns: { maxTTL: 5 } as never }), { message: "options.dns.maxTTL is not an option; did you mean 'maxTtl'?" })
  await t.rejects(scene(t, 1, { upstreams: { api: { dns: { minTtl: 400_000 } } } }), { message: 'options.upstreams.api.dns.minTtl must be at most maxTtl, 300000, and is 400000' })
})
