import { writeFile } from 'node:fs/promises'
import type { LookupAddress, LookupOptions } from 'node:dns'
import { connect, createServer, type AddressInfo } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createDnsCache, HostsFile, type DnsCache } from '../../../lib/dns/index.ts'
import type { DnsOptions } from '../../../types/index.ts'
import { FakeClock } from '../../helpers/clock.ts'
import { dnsServer, type DnsServer, type Script } from '../../helpers/dns-server.ts'
import { until } from '../../helpers/wire.ts'

interface Scene {
  clock: FakeClock
  server: DnsServer
  cache: DnsCache
  /** Looks a name up: its addresses in order, or the code of the error. */
  look (name?: string, options?: LookupOptions): Promise<string>
}

const NAME = 'api.internal'

async function scene (t: Test, options: DnsOptions & { hosts?: string, system?: (name: string) => Promise<{ address: string }[]> } = {}): Promise<Scene> {
  const { hosts, system, ...rest } = options
  const clock = new FakeClock()
  const server = await dnsServer(t)
  const env = { clock, random: () => 0, hosts: new HostsFile(hosts ?? '/nowhere'), lookup: system }
  const cache = createDnsCache({ servers: [server.address], timeout: 200, tries: 1, ...rest }, env, 'dns')
  t.teardown(() => cache.close())
  return { clock, server, cache, look: (name = NAME, options = { all: true }) => look(cache, name, options) }
}

function look (cache: DnsCache, name: string, options: LookupOptions): Promise<string> {
  return new Promise(resolve => cache.lookup(name, options, (error, address, family) => {
    if (error !== null) resolve(error.code as string)
    else resolve(typeof address === 'string' ? `${address} ${family}` : (address as LookupAddress[]).map(({ address }) => address).join(' '))
  }))
}

t.test('a name is asked for once, by A and AAAA, and answered from memory until its TTL is over', async t => {
  const { clock, server, look } = await scene(t)
  server.set(NAME, { addresses: ['127.0.0.1', '::1'], ttl: 30 })
  t.equal(await look(), '127.0.0.1 ::1')
  t.equal(server.asked(NAME, 'A'), 1)
  t.equal(server.asked(NAME, 'AAAA'), 1)
  clock.advance(29_999)
  await look()
  t.equal(server.questions.length, 2)
  clock.advance(1)
  await look()
  await server.whenAsked(NAME, 4)
})

t.test('the shortest TTL of an answer counts, within minTtl and maxTtl', async t => {
  for (const [ttl, holds] of [[0, 5_000], [8, 8_000], [86_400, 10_000]]) {
    const { clock, server, look, cache } = await scene(t, { minTtl: 5_000, maxTtl: 10_000 })
    server.set(NAME, { addresses: ['127.0.0.1'], ttl })
    await look()
    t.equal(cache.stats().names[NAME].expiresIn, holds)
    clock.advance(holds - 1)
    await look()
    t.equal(cache.stats().hits, 1)
    clock.advance(1)
    await look()
    t.equal(cache.stats().stale, 1)
    await server.whenAsked(NAME, 4)
  }
})

t.test('however many ask at once, it is one question', async t => {
  const { server, look, cache } = await scene(t)
  server.set(NAME, ['127.0.0.1', '127.0.0.2', '127.0.0.3'])
  const answers = await Promise.all(Array.from({ length: 100 }, () => look()))
  t.equal(server.questions.length, 2)
  t.equal(cache.stats().queries, 1)
  t.equal(cache.stats().misses, 100)
  t.equal(new Set(answers).size, 3, 'and each address comes first in turn')
})

t.test('names differ neither by case nor by who asks', async t => {
  const { server, look } = await scene(t)
  server.set(NAME, ['127.0.0.1'])
  await look('API.internal')
  await look(NAME, { family: 4 })
  t.equal(server.questions.length, 2)
})

t.test('each address comes first as often as the others', async t => {
  const { server, look } = await scene(t)
  server.set(NAME, ['127.0.0.1', '127.0.0.2', '::1'])
  const firsts: Record<string, number> = {}
  for (let i = 0; i < 30; i++) {
    const first = (await look()).split(' ')[0]
    firsts[first] = (firsts[first] ?? 0) + 1
  }
  t.same(firsts, { '127.0.0.1': 10, '127.0.0.2': 10, '::1': 10 })
})

t.test('it answers as Node asks: all or one, of one family or both', async t => {
  const { server, look } = await scene(t)
  server.set(NAME, ['127.0.0.1', '::1'])
  await look()
  t.equal(await look(NAME, { family: 4 }), '127.0.0.1 4')
  t.equal(await look(NAME, { family: 6, all: true }), '::1')
  t.equal(await look(NAME, { family: 'IPv6' }), '::1 6')
  t.equal(await look(NAME, { family: 'IPv4', all: true }), '127.0.0.1')
  t.match(await look(NAME, {}), /^(127.0.0.1 4|::1 6)$/)
  server.set('four.internal', ['127.0.0.1'])
  t.equal(await look('four.internal', { family: 6 }), 'ENODATA')
})

t.test('it calls back later, never before it returns', async t => {
  const { server, look, cache } = await scene(t)
  server.set(NAME, ['127.0.0.1'])
  await look()
  let returned = false
  await new Promise<void>(resolve => {
    cache.lookup(NAME, {}, () => {
      t.ok(returned)
      resolve()
    })
    returned = true
  })
})

t.test('an answer beyond its time is used at once while a new one is asked for', async t => {
  const { clock, server, look, cache } = await scene(t)
  server.set(NAME, { addresses: ['127.0.0.1'], ttl: 10 })
  await look()
  clock.advance(10_000)
  server.hold()
  server.set(NAME, { addresses: ['127.0.0.2'], ttl: 10 })
  t.equal(await look(), '127.0.0.1', 'although no server has answered')
  t.equal(await look(), '127.0.0.1')
  t.equal(cache.stats().stale, 2)
  await server.whenAsked(NAME, 4)
  t.equal(server.questions.length, 4, 'one question for both')
  server.release()
  await until(() => cache.stats().names[NAME].addresses[0] === '127.0.0.2')
  t.equal(await look(), '127.0.0.2')
})

t.test('beyond staleWhileRevalidate a look-up waits for the new answer', async t => {
  const { clock, server, look } = await scene(t, { staleWhileRevalidate: 20_000 })
  server.set(NAME, { addresses: ['127.0.0.1'], ttl: 10 })
  await look()
  server.set(NAME, { addresses: ['127.0.0.2'], ttl: 10 })
  clock.advance(30_000)
  t.equal(await look(), '127.0.0.2')
})

t.test('the last good answer holds while servers fail, or do not answer, up to staleIfError', async t => {
  for (const failure of [{ fail: 'SERVFAIL' }, { fail: 'REFUSED' }, { silent: true }] as const) {
    const { clock, server, look, cache } = await scene(t, { staleWhileRevalidate: 20_000, staleIfError: 100_000, timeout: 50 })
    server.set(NAME, { addresses: ['127.0.0.1'], ttl: 10 })
    await look()
    server.set(NAME, failure)
    clock.advance(40_000)
    t.equal(await look(), '127.0.0.1', 'the first waits for the failure, as its answer is old')
    t.equal(cache.stats().failures, 1)
    t.match(cache.stats().names[NAME], { addresses: ['127.0.0.1'], expiresIn: -30_000, error: /^E/ })
    clock.advance(69_999)
    server.hold()
    t.equal(await look(), '127.0.0.1', 'and nobody waits once it is known that servers fail')
    server.release()
    await until(() => cache.stats().failures === 2)
    clock.advance(1)
    t.match(await look(), /^E/)
    t.strictSame(cache.stats().names[NAME].addresses, [])
    server.set(NAME, ['127.0.0.3'])
    clock.advance(1_000)
    t.equal(await look(), '127.0.0.3', 'and all is well when they answer again')
    t.notOk(cache.stats().names[NAME].error)
  }
})

t.test('that a name is gone is believed once staleWhileRevalidate is over', async t => {
  const { clock, server, look, cache } = await scene(t, { staleWhileRevalidate: 20_000 })
  server.set(NAME, { addresses: ['127.0.0.1'], ttl: 10 })
  await look()
  server.set(NAME, { fail: 'NXDOMAIN' })
  clock.advance(29_999)
  t.equal(await look(), '127.0.0.1')
  await until(() => cache.stats().failures === 1)
  clock.advance(1)
  t.equal(await look(), 'ENOTFOUND')
})

t.test('a failure is remembered for errorTtl, and the error names the name', async t => {
  const { clock, server, look, cache } = await scene(t, { errorTtl: 3_000 })
  t.equal(await look(), 'ENOTFOUND')
  t.equal(await look(), 'ENOTFOUND')
  t.equal(server.questions.length, 2)
  clock.advance(2_999)
  await look()
  t.equal(server.questions.length, 2)
  server.set(NAME, ['127.0.0.1'])
  clock.advance(1)
  t.equal(await look(), '127.0.0.1')
  t.match(cache.stats(), { errors: 3, failures: 1, queries: 2 })
  const error = await new Promise<Error | null>(resolve => cache.lookup('other.internal', {}, error => resolve(error)))
  t.match(error, { name: 'ResolveError', code: 'ENOTFOUND', hostname: 'other.internal', message: "the name 'other.internal' could not be resolved: ENOTFOUND" })
})

t.test('a family whose question fails keeps what was known of it, and does not hold back the other', async t => {
  const { clock, server, look, cache } = await scene(t, { timeout: 100 })
  server.set(NAME, { addresses: ['127.0.0.1', '::1'], ttl: 10 })
  t.equal(await look(), '127.0.0.1 ::1')
  server.set(NAME, { addresses: ['127.0.0.2', '::1'], ttl: 10, silent: 'AAAA' })
  clock.advance(10_000)
  await look()
  await until(() => cache.stats().names[NAME].addresses[0] === '127.0.0.2')
  t.strictSame(cache.stats().names[NAME].addresses, ['127.0.0.2', '::1'])
  server.set(NAME, { addresses: ['127.0.0.2'], ttl: 10 })
  clock.advance(10_000)
  await look()
  await until(() => cache.stats().names[NAME].addresses.length === 1)
  t.equal(cache.stats().names[NAME].addresses[0], '127.0.0.2', 'one that says there are none is believed')
})

t.test('addresses of one family are used after 50 ms when those of the other are late, and joined by them', async t => {
  const { clock, server, look, cache } = await scene(t, { timeout: 5_000 })
  server.set(NAME, { addresses: ['127.0.0.1', '::1'], silent: 'AAAA' })
  const looked = look()
  let answered = false
  looked.then(() => { answered = true })
  await until(() => clock.timers === 1)
  t.notOk(answered)
  clock.advance(50)
  t.equal(await looked, '127.0.0.1')
  cache.close()
})

t.test('the hosts file comes first, is read anew when it changes, and its names are never asked for', async t => {
  const hosts = join(t.testdir({ hosts: '127.0.0.5 Api.Internal other # a comment\n::1 api.internal\nnonsense api.internal\n#127.0.0.9 api.internal\n' }), 'hosts')
  const { clock, server, look, cache } = await scene(t, { hosts, systemTtl: 2_000 })
  server.set(NAME, ['127.0.0.1'])
  t.equal(await look(), '127.0.0.5 ::1')
  t.equal(await look('other'), '127.0.0.5')
  await writeFile(hosts, '127.0.0.66 api.internal\n')
  clock.advance(1_999)
  t.match(await look(), /127.0.0.5/)
  clock.advance(1)
  await look()
  await until(() => cache.stats().names[NAME].addresses[0] === '127.0.0.66')
  t.equal(await look(), '127.0.0.66')
  await writeFile(hosts, '')
  clock.advance(400_000)
  t.equal(await look(), '127.0.0.1', 'what has gone from it is asked for')
})

t.test('localhost and names below it are this machine, and never asked for', async t => {
  const { server, look } = await scene(t)
  t.equal(await look('localhost'), '127.0.0.1 ::1')
  t.equal(await look('api.localhost'), '127.0.0.1 ::1')
  t.equal(await look('localhost.'), '127.0.0.1 ::1')
  t.equal(server.questions.length, 0)
})

t.test('what the DNS servers of the system do not know, the system looks up, for systemTtl', async t => {
  const asked: string[] = []
  const system = async (name: string) => {
    asked.push(name)
    if (name === 'printer.local') return [{ address: '127.0.0.7' }, { address: '::1' }]
    throw Object.assign(new Error('getaddrinfo'), { code: name === 'later' ? 'EAI_AGAIN' : 'ENOTFOUND' })
  }
  const clock = new FakeClock()
  const server = await dnsServer(t)
  const cache = createDnsCache({ timeout: 100, tries: 1, systemTtl: 4_000 }, { clock, random: () => 0, hosts: new HostsFile('/nowhere'), lookup: system, systemServers: () => [server.address] }, 'dns')
  t.teardown(() => cache.close())
  server.set('known', ['127.0.0.1']).set('silent', { silent: true }).set('failing', { fail: 'SERVFAIL' }).set('refused', { fail: 'REFUSED' })
  const get = (name: string) => look(cache, name, { all: true })
  t.equal(await get('known'), '127.0.0.1')
  t.equal(await get('silent'), 'ETIMEOUT')
  t.equal(await get('failing'), 'ESERVFAIL')
  t.strictSame(asked, [], 'nor does it ask again where servers fail')
  t.equal(await get('printer.local'), '127.0.0.7 ::1')
  t.equal(cache.stats().names['printer.local'].expiresIn, 4_000)
  t.equal(await get('nobody'), 'ENOTFOUND')
  t.equal(await get('later'), 'EAI_AGAIN')
  t.equal(await get('refused'), 'ENOTFOUND')
  t.strictSame(asked, ['printer.local', 'nobody', 'later', 'refused'])
})

/** A cache that asks the servers of the system, which are those of the list as it is at the time. */
async function systemScene (t: Test) {
  const clock = new FakeClock()
  const [before, after] = [await dnsServer(t), await dnsServer(t)]
  const system = { servers: [before.address], reads: 0, broken: false }
  const systemServers = () => {
    system.reads++
    if (system.broken) throw new Error('EFILE')
    return system.servers
  }
  const cache = createDnsCache({ timeout: 100, tries: 1 }, { clock, random: () => 0, hosts: new HostsFile('/nowhere'), systemServers }, 'dns')
  t.teardown(() => cache.close())
  return { clock, before, after, system, cache, get: (name: string) => look(cache, name, { all: true }) }
}

t.test('when the servers of the system fail it is looked whether there are others, and these are asked at once', async t => {
  for (const script of [{ silent: true }, { fail: 'SERVFAIL' }, { fail: 'REFUSED' }] satisfies Script[]) {
    const { clock, before, after, system, cache, get } = await systemScene(t)
    before.set('old', ['127.0.0.1']).set('new', script).set('_http._tcp', script)
    after.set('new', ['127.0.0.2']).set('_http._tcp', { srv: [['a.internal', 80]] })
    t.equal(await get('old'), '127.0.0.1')
    system.servers = [after.address]
    clock.advance(1_000)
    t.equal(system.reads, 1, 'not while they answer')
    t.equal(await get('new'), '127.0.0.2')
    t.equal(system.reads, 2, 'once, though both families have failed')
    t.equal((await cache.resolveSrv('_http._tcp'))[0].name, 'a.internal')
    t.equal(before.asked('_http._tcp'), 0, 'those before are asked no more')
  }
})

t.test('SRV records are asked for again as well', async t => {
  const { clock, before, after, system, cache } = await systemScene(t)
  before.set('_http._tcp', { fail: 'SERVFAIL' })
  after.set('_http._tcp', { srv: [['a.internal', 80]] })
  system.servers = [after.address]
  clock.advance(1_000)
  t.equal((await cache.resolveSrv('_http._tcp'))[0].name, 'a.internal')
})

t.test('it is looked at most once a second, and the same servers are not asked again', async t => {
  const { clock, before, system, get } = await systemScene(t)
  for (const name of ['a', 'b', 'c', 'd']) before.set(name, { fail: 'SERVFAIL' })
  t.equal(await get('a'), 'ESERVFAIL')
  t.equal(system.reads, 1, 'they were read just now')
  clock.advance(1_000)
  t.equal(await get('b'), 'ESERVFAIL')
  t.equal(before.asked('b'), 2, 'by A and AAAA')
  clock.advance(999)
  t.equal(await get('c'), 'ESERVFAIL')
  t.equal(system.reads, 2)
  clock.advance(1)
  t.equal(await get('d'), 'ESERVFAIL')
  t.equal(system.reads, 3)
})

t.test('that there is no such name is no reason to look', async t => {
  const { clock, system, cache } = await systemScene(t)
  clock.advance(1_000)
  await t.rejects(cache.resolveSrv('nobody'), { code: 'ENOTFOUND' })
  t.equal(system.reads, 1)
})

t.test('where they cannot be read, those known stay', async t => {
  const { clock, before, system, get } = await systemScene(t)
  before.set('a', { fail: 'SERVFAIL' }).set('b', ['127.0.0.1'])
  clock.advance(1_000)
  system.broken = true
  t.equal(await get('a'), 'ESERVFAIL')
  t.equal(system.reads, 2)
  t.equal(await get('b'), '127.0.0.1')
})

t.test('close gives up the questions that servers of before still have', async t => {
  const clock = new FakeClock()
  const [before, after] = [await dnsServer(t), await dnsServer(t)]
  let servers = [before.address]
  const cache = createDnsCache({ timeout: 5_000, tries: 1 }, { clock, random: () => 0, hosts: new HostsFile('/nowhere'), systemServers: () => servers }, 'dns')
  before.set('slow', { silent: true }).set('failing', { fail: 'SERVFAIL' })
  after.set('failing', ['127.0.0.2']).set('late', { silent: true })
  const slow = look(cache, 'slow', { all: true })
  await before.whenAsked('slow', 2)
  servers = [after.address]
  clock.advance(1_000)
  t.equal(await look(cache, 'failing', { all: true }), '127.0.0.2')
  const late = look(cache, 'late', { all: true })
  await after.whenAsked('late', 2)
  cache.close()
  t.strictSame(await Promise.all([slow, late]), ['ECANCELLED', 'ECANCELLED'])
  t.equal(after.asked('slow'), 0)
})

t.test('servers given by option are asked whatever the system says', async t => {
  const clock = new FakeClock()
  const server = await dnsServer(t)
  let reads = 0
  const cache = createDnsCache({ servers: [server.address], timeout: 100, tries: 1 }, { clock, random: () => 0, hosts: new HostsFile('/nowhere'), systemServers: () => [`127.0.0.1:${++reads}`] }, 'dns')
  t.teardown(() => cache.close())
  server.set(NAME, { fail: 'SERVFAIL' })
  clock.advance(1_000)
  t.equal(await look(cache, NAME, { all: true }), 'ESERVFAIL')
  t.equal(server.asked(NAME), 2)
  t.equal(reads, 0)
})

t.test('names that servers given by option do not know are not looked up by the system', async t => {
  const { look } = await scene(t, { system: async () => t.fail('it was asked') as never })
  t.equal(await look(), 'ENOTFOUND')
})

t.test('a connection that fails has the name asked for again, at most once a second, and its address tried last', async t => {
  const { clock, server, look, cache } = await scene(t)
  server.set(NAME, ['127.0.0.1', '127.0.0.2', '127.0.0.3'])
  await look()
  clock.advance(999)
  cache.connectFailed(NAME, '127.0.0.2')
  for (let i = 0; i < 6; i++) t.match(await look(), / 127\.0\.0\.2$/)
  t.equal(cache.stats().queries, 1)
  clock.advance(1)
  server.set(NAME, ['127.0.0.4', '127.0.0.2'])
  for (let i = 0; i < 10; i++) cache.connectFailed(NAME, '127.0.0.1')
  await until(() => cache.stats().names[NAME].addresses[0] === '127.0.0.4')
  t.equal(server.questions.length, 4, 'in the background, once')
  t.equal(await look(), '127.0.0.4 127.0.0.2')
  clock.advance(10_000)
  const firsts = new Set([(await look()).split(' ')[0], (await look()).split(' ')[0]])
  t.equal(firsts.size, 2, 'after ten seconds it has its turn again')
  cache.connectFailed('never.internal', '127.0.0.1')
  t.notOk('never.internal' in cache.stats().names)
})

t.test('when all addresses fail they are all still tried', async t => {
  const { server, look, cache } = await scene(t)
  server.set(NAME, ['127.0.0.1', '127.0.0.2'])
  await look()
  cache.connectFailed(NAME, '127.0.0.1')
  cache.connectFailed(NAME, '127.0.0.2')
  t.equal((await look()).split(' ').length, 2)
})

t.test('Node connects by it, to the next address where the first refuses', async t => {
  const { server, cache } = await scene(t)
  const listener = createServer(socket => { socket.end() })
  await new Promise<void>(resolve => listener.listen(0, '127.0.0.3', resolve))
  t.teardown(() => { listener.close() })
  const { port } = listener.address() as AddressInfo
  server.set(NAME, ['::1', '127.0.0.2', '127.0.0.3'])
  for (let i = 0; i < 3; i++) {
    const socket = connect({ host: NAME, port, lookup: cache.lookup, autoSelectFamily: true })
    await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject))
    t.equal(socket.remoteAddress, '127.0.0.3')
    socket.destroy()
  }
})

t.test('close lets nobody wait, and nothing is asked after it', async t => {
  const { server, look, cache } = await scene(t, { timeout: 5_000 })
  server.set(NAME, { silent: true })
  const looked = look()
  await server.whenAsked(NAME, 2)
  cache.close()
  t.equal(await looked, 'ECANCELLED')
  t.equal(await look('other.internal'), 'ECANCELLED')
  await t.rejects(cache.resolveSrv('other.internal'), { code: 'ECANCELLED' })
  t.equal(server.questions.length, 2)
})

t.test('options that contradict one another, or are none, are refused', t => {
  const env = { clock: new FakeClock(), random: () => 0 }
  t.throws(() => createDnsCache({ minTtl: 10, maxTtl: 5 }, env, 'options.dns'), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: 'options.dns.minTtl must be at most maxTtl, 5, and is 10' })
  t.throws(() => createDnsCache({ servers: ['dns.example'] }, env, 'options.dns'), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: "options.dns.servers must be IP addresses, perhaps with a port, and is ['dns.example']" })
  t.throws(() => createDnsCache({ timeout: 0 }, env, 'options.dns'), { message: 'options.dns.timeout must be an integer of at least 1 and of at most 5000, and is 0' })
  t.throws(() => createDnsCache({ ttl: 1 } as DnsOptions, env, 'options.dns'), { message: /options\.dns\.ttl is not an option/ })
  t.end()
})
