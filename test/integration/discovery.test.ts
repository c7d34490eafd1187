import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { Pool } from 'undici'
import rockstarProxy from '../../plugins/index.ts'
import type { BackendInput, DiscoveryInput, RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type GatewaySetup } from '../helpers/app.ts'
import { Authority } from '../helpers/certificates.ts'
import { FakeClock } from '../helpers/clock.ts'
import { dnsServer, serversOn, type DnsServer } from '../helpers/dns-server.ts'
import { Client } from '../helpers/named.ts'
import { until } from '../helpers/wire.ts'

const NAME = 'api.internal'
const SERVICE = '_http._tcp.api.internal'

/** A gateway whose backends are found by a DNS server of the test's own. */
async function scene (t: Test, discovery: DiscoveryInput, backends: BackendInput[], script: (server: DnsServer) => void, options: RockstarProxyOptions = {}, setup: GatewaySetup = {}) {
  const server = await dnsServer(t)
  script(server)
  const gateway = await startGateway(t, { backends, discovery, routes: [{ prefix: '/' }], dns: { servers: [server.address], timeout: 100, tries: 1, minTtl: 0 }, ...options }, setup)
  const { proxy } = gateway.app
  const client = new Client(await gateway.connect())
  const ids = () => proxy.listBackends().map(({ id }) => id).join(' ')
  return { server, gateway, proxy, client, ids }
}

/** Keeps so many clients asking until it is stopped; every answer is counted by its body, and what is no 200 by its status. */
function load (t: Test, url: string, clients: number) {
  const pool = new Pool(url, { connections: clients })
  t.teardown(() => pool.destroy())
  const counts: Record<string, number> = {}
  const state = { running: true }
  const ask = async () => {
    while (state.running) {
      const { statusCode, body } = await pool.request({ path: '/', method: 'GET' })
      const text = await body.text()
      const answer = statusCode === 200 ? text : String(statusCode)
      counts[answer] = (counts[answer] ?? 0) + 1
    }
  }
  const all = Promise.all(Array.from({ length: clients }, ask))
  const stop = async () => {
    state.running = false
    await all
  }
  return { counts, stop }
}

t.test('requests go to each address of a name in turn, with the name as Host', async t => {
  const { port, hosts } = await serversOn(t, ['127.0.0.1', '127.0.0.2', '::1'])
  const { client, gateway } = await scene(t, 'dns', [`http://${NAME}:${port}`], server => server.set(NAME, ['127.0.0.1', '127.0.0.2', '::1']))
  t.equal(await client.turns(6), '127.0.0.1127.0.0.2::1127.0.0.1127.0.0.2::1')
  t.strictSame([...new Set(hosts)], [`${NAME}:${port}`])
  t.match(gateway.log.filter(({ msg }) => msg === 'a backend was added').map(({ backend }) => backend), [`${NAME}:${port}@127.0.0.1`, `${NAME}:${port}@127.0.0.2`, `${NAME}:${port}@::1`])
})

t.test('connections are of each address its own', async t => {
  const { port } = await serversOn(t, ['127.0.0.1', '127.0.0.2'], address => (_, response) => { response.end(address) })
  const { client, proxy } = await scene(t, 'dns', [`http://${NAME}:${port}`], server => server.set(NAME, ['127.0.0.1', '127.0.0.2']))
  await client.turns(6)
  t.match(proxy.getConnectionPool().stats().backends, { [`${NAME}:${port}@127.0.0.1`]: { connects: 1, requests: 3 }, [`${NAME}:${port}@127.0.0.2`]: { connects: 1, requests: 3 } })
})

t.test('TLS asks the certificate of each address for the name', async t => {
  const authority = new Authority(t)
  const right = authority.issue({ names: [`DNS:${NAME}`] })
  const { port } = await serversOn(t, ['127.0.0.1', '127.0.0.2'], undefined, right)
  const good = await scene(t, 'dns', [`https://${NAME}:${port}`], server => server.set(NAME, ['127.0.0.1', '127.0.0.2']), { pool: { tls: { ca: authority.cert } } })
  t.equal(await good.client.turns(4), '127.0.0.1127.0.0.2127.0.0.1127.0.0.2')
  const wrong = await scene(t, 'dns', [`https://other.internal:${port}`], server => server.set('other.internal', ['127.0.0.1', '127.0.0.2']), { pool: { tls: { ca: authority.cert } } })
  t.equal(await wrong.client.who(), '[502]')
})

t.test('backends move to other addresses under load without a request lost', async t => {
  const addresses = ['127.0.0.1', '127.0.0.2', '127.0.0.3', '::1']
  const { port } = await serversOn(t, addresses, address => (_, response) => { setTimeout(() => response.end(address), 2) })
  const { server, gateway, ids } = await scene(t, { type: 'dns', interval: 20 }, [`http://${NAME}:${port}`], server => server.set(NAME, ['127.0.0.1']))
  const { counts, stop } = load(t, gateway.url, 20)
  const moves = [['127.0.0.1', '127.0.0.2'], ['127.0.0.2'], ['127.0.0.3'], ['::1', '127.0.0.1'], ['127.0.0.1'], ['127.0.0.3', '127.0.0.2']]
  for (const move of moves) {
    server.set(NAME, move)
    await until(() => ids().split(' ').sort().join(' ') === move.map(address => `${NAME}:${port}@${address}`).sort().join(' '))
    const before = { ...counts }
    await until(() => move.every(address => (counts[address] ?? 0) > (before[address] ?? 0) + 20))
  }
  await stop()
  t.strictSame(Object.keys(counts).sort(), addresses)
})

t.test('an address that refuses costs no request where others may be tried, and is asked about', async t => {
  const { port, close } = await serversOn(t, ['127.0.0.1', '127.0.0.2', '127.0.0.3'])
  const { server, client, ids } = await scene(t, 'dns', [`http://${NAME}:${port}`], server => server.set(NAME, { addresses: ['127.0.0.1', '127.0.0.2', '127.0.0.3'], ttl: 3_600 }), { retry: true })
  t.equal(await client.turns(3), '127.0.0.1127.0.0.2127.0.0.3')
  await close('127.0.0.2')
  server.set(NAME, { addresses: ['127.0.0.1', '127.0.0.3'], ttl: 3_600 })
  for (let i = 0; i < 6; i++) t.match(await client.who(), /^127\.0\.0\.[13]$/)
  await until(() => !ids().includes('127.0.0.2'))
})

t.test('SRV: weights share the traffic, the next priority takes over, and targets are resolved', async t => {
  const { port, close } = await serversOn(t, ['127.0.0.1', '127.0.0.2', '127.0.0.3'])
  const targets = ['one.internal', 'two.internal', 'three.internal']
  const { client, ids, proxy } = await scene(t, 'dns-srv', [`http://${SERVICE}`], server => {
    server.set(SERVICE, { srv: [[targets[0], port, 3, 10], [targets[1], port, 1, 10], [targets[2], port, 1, 20]] })
    targets.forEach((target, i) => server.set(target, [`127.0.0.${i + 1}`]))
  }, { retry: true, outlier: { consecutiveFailures: 1, maxEjectionPercent: 100 }, panicThreshold: 0 })
  t.equal(ids(), targets.map(target => `${SERVICE}@${target}:${port}`).join(' '))
  const counts: Record<string, number> = {}
  for (let i = 0; i < 40; i++) {
    const who = await client.who()
    counts[who] = (counts[who] ?? 0) + 1
  }
  t.strictSame(counts, { '127.0.0.1': 30, '127.0.0.2': 10 })
  await close('127.0.0.1')
  await close('127.0.0.2')
  t.equal(await client.turns(8), '127.0.0.3'.repeat(8))
  t.ok(proxy.getBackend(`${SERVICE}@one.internal:${port}`).ejected)
})

t.test('a function finds backends, which come and go under load', async t => {
  const { port } = await serversOn(t, ['127.0.0.1', '127.0.0.2'], address => (_, response) => { response.end(address) })
  let at = '127.0.0.1'
  const { gateway } = await scene(t, { type: async () => [{ id: 'it', url: `http://${at}:${port}` }], interval: 10 }, [], () => {})
  const { counts, stop } = load(t, gateway.url, 10)
  for (const address of ['127.0.0.2', '127.0.0.1', '127.0.0.2']) {
    at = address
    const before = counts[address] ?? 0
    await until(() => (counts[address] ?? 0) > before + 50)
  }
  await stop()
  t.strictSame(Object.keys(counts).sort(), ['127.0.0.1', '127.0.0.2'])
})

t.test('the app is ready when backends have been found, and not before', async t => {
  const { port } = await serversOn(t, ['127.0.0.1'])
  const server = await dnsServer(t)
  server.set(NAME, ['127.0.0.1']).hold()
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(rockstarProxy, { backends: [`http://${NAME}:${port}`], discovery: 'dns', dns: { servers: [server.address], timeout: 5_000 }, routes: [{ prefix: '/' }] })
  let ready = false
  const whenReady = app.ready().then(() => { ready = true })
  await server.whenAsked(NAME, 2)
  await new Promise(resolve => setImmediate(resolve))
  t.notOk(ready)
  t.notOk(app.proxy.isReady())
  server.release()
  await whenReady
  t.ok(app.proxy.isReady())
  t.equal((await app.inject('/')).body, '127.0.0.1')
})

t.test('a first look that fails is made again while the app waits', async t => {
  const clock = new FakeClock()
  let looks = 0
  const { proxy } = await scene(t, {
    type: () => {
      process.nextTick(() => setImmediate(() => clock.advance(2_300)))
      if (++looks < 3) throw new Error('not yet')
      return ['http://127.0.0.1:1']
    }
  }, [], () => {}, { clock })
  t.equal(looks, 3)
  t.equal(proxy.listBackends().length, 1)
})

t.test('after readyTimeout the app starts all the same, says so in its log, and serves as soon as there is something', async t => {
  const { port } = await serversOn(t, ['127.0.0.1'])
  const { server, client, gateway, proxy, ids } = await scene(t, { type: 'dns', readyTimeout: 50, interval: 20 }, [`http://${NAME}:${port}`], () => {})
  t.match(gateway.log.find(({ level }) => level === 50), { msg: 'no backends were found within 50 ms: the upstream starts without them', upstream: 'default', sources: [NAME] })
  t.match(await client.get(), { status: 503 })
  t.notOk(proxy.isReady())
  server.set(NAME, ['127.0.0.1'])
  await until(() => ids() !== '')
  t.equal(await client.who(), '127.0.0.1')
})

t.test('minHealthy waits for backends that are found to pass their checks', async t => {
  const { port } = await serversOn(t, ['127.0.0.1', '127.0.0.2'])
  const { proxy } = await scene(t, 'dns', [`http://${NAME}:${port}`], server => server.set(NAME, ['127.0.0.1', '127.0.0.2']), { health: { path: '/', minHealthy: 2 } })
  t.strictSame(Object.values(proxy.getHealthStatus()).map(({ lastSuccess }) => lastSuccess !== undefined), [true, true])
})

t.test('failures are logged once, and so is their end; requests notice nothing', async t => {
  const { port } = await serversOn(t, ['127.0.0.1'])
  const { server, client, gateway, proxy } = await scene(t, { type: 'dns', interval: 10, jitter: 0 }, [`http://${NAME}:${port}`], server => server.set(NAME, ['127.0.0.1']))
  const events: unknown[] = []
  proxy.on('discovery:failed', event => events.push(event)).on('discovery:recovered', event => events.push(event))
  server.set(NAME, { fail: 'SERVFAIL' })
  await server.whenAsked(NAME, server.asked(NAME) + 10)
  t.equal(await client.who(), '127.0.0.1')
  server.set(NAME, ['127.0.0.1'])
  await until(() => events.length === 2)
  t.match(events, [{ upstream: 'default', source: NAME, cause: `the name '${NAME}' could not be resolved: ESERVFAIL` }, { upstream: 'default', source: NAME, cause: '1 found' }])
  t.strictSame(gateway.log.filter(({ source }) => source === NAME).map(({ level, msg }) => [level, msg]), [[40, 'backends could not be found: those there are stay'], [30, 'backends are found again']])
})

t.test('upstreams that are added while the app runs find theirs, and those removed look no more', async t => {
  const { port } = await serversOn(t, ['127.0.0.1'])
  const { server, proxy } = await scene(t, false, [], server => server.set(NAME, ['127.0.0.1']))
  const upstream = proxy.addUpstream('late', { backends: [`http://${NAME}:${port}`], discovery: { type: 'dns', interval: 10 } })
  await until(() => upstream.listBackends().length === 1)
  await proxy.removeUpstream('late')
  const asked = server.asked(NAME)
  server.set(NAME, ['127.0.0.2'])
  // Whatever is asked next comes after it.
  proxy.addUpstream('later', { backends: [`http://other.internal:${port}`], discovery: { type: 'dns', interval: 10 } })
  await server.whenAsked('other.internal', 4)
  t.equal(server.asked(NAME), asked)
  t.equal(upstream.listBackends().length, 0)
})

t.test('an upstream that is being removed finds nothing any more, also while it finishes what it has', async t => {
  let finish = () => {}
  const { port } = await serversOn(t, ['127.0.0.1'], () => (_, response) => { finish = () => response.end('late') })
  const counts = { leaving: 0, other: 0 }
  const counting = (name: keyof typeof counts): DiscoveryInput => ({
    type: () => {
      counts[name]++
      return [{ id: `${name} ${counts[name]}`, url: `http://127.0.0.1:${port}` }]
    },
    interval: 5
  })
  const { proxy, client } = await scene(t, false, [], () => {}, {
    upstreams: { leaving: { discovery: counting('leaving') }, other: { discovery: counting('other') } },
    routes: [{ prefix: '/', upstream: 'leaving' }]
  })
  const answer = client.who()
  await until(() => proxy.upstream('leaving').listBackends().some(({ inFlight }) => inFlight > 0))
  await until(() => counts.other > 1)
  const removed = proxy.removeUpstream('leaving')
  const before = counts.leaving
  await until(() => counts.other > before + 5)
  t.equal(counts.leaving, before)
  finish()
  t.equal(await answer, 'late')
  await removed
})

t.test('the end of the app is the end of it, also in the middle of a look', async t => {
  const clock = new FakeClock()
  const signals: AbortSignal[] = []
  const { gateway } = await scene(t, {
    type: signal => {
      signals.push(signal)
      return signals.length === 1 ? ['http://127.0.0.1:1'] : new Promise(() => {})
    },
    jitter: 0
  }, [], () => {}, { clock })
  clock.advance(10_000)
  t.equal(signals.length, 2)
  await gateway.app.close()
  t.ok(signals[1].aborted)
  t.equal(clock.timers, 0)
})
