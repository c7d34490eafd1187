import t from 'tap'
import { adminRig } from '../helpers/admin.ts'
import { httpBackend } from '../helpers/app.ts'
import { DnsServer } from '../helpers/dns-server.ts'
import { FakeClock } from '../helpers/clock.ts'

const refused = (what: string) => ({ statusCode: 400, code: 'FST_ROCKSTAR_INVALID_REQUEST', error: 'Bad Request', message: `body.url must be where backends are allowed (allowBackends), and is ${what}` })

t.test('backends that are added may be only where they are allowed', async t => {
  const dns = await new DnsServer().listen()
  t.teardown(() => dns.close())
  dns.set('in.example', ['127.0.0.2']).set('out.example', ['127.0.0.3']).set('mixed.example', ['127.0.0.2', '127.0.0.3'])
  const { ask, proxy } = await adminRig(t, { dns: { servers: [dns.address] }, backends: [{ id: 'own', url: 'http://127.0.0.3:1' }] }, { plugins: ['backends'], allowBackends: ['127.0.0.2', 'unix:/run/x.sock', '*.listed.example'] })
  for (const [url, status] of [['http://127.0.0.2:1', 201], ['http://in.example:1', 201], ['http://0x7f.2:2', 201], ['http://[::ffff:127.0.0.2]:3', 201], ['unix:/run/x.sock', 201], ['http://a.listed.example', 201]] as const) t.equal((await ask('POST', '/backends', { url })).statusCode, status, url)
  for (const [url, what] of [
    ['http://127.0.0.3:1', "'127.0.0.3'"], ['http://out.example:1', "'out.example'"], ['http://mixed.example:1', "'mixed.example'"], ['http://nothing.example', "'nothing.example', which leads nowhere"], ['http://2130706435', "'127.0.0.3'"], ['http://0177.0.0.3', "'127.0.0.3'"],
    ['http://[::ffff:127.0.0.3]', "'::ffff:7f00:3'"], ['unix:/var/run/docker.sock', 'a Unix socket that is not listed'], ['http://unix:/var/run/docker.sock', 'a Unix socket that is not listed'], ['http://localhost', "'localhost'"]
  ] as const) {
    t.strictSame((await ask('POST', '/backends', { url })).json(), refused(what), url)
    t.strictSame((await ask('POST', '/backends', JSON.stringify(url))).json(), refused(what), `${url} alone`)
    t.strictSame((await ask('PUT', '/backends/new', { url })).json(), refused(what), `PUT ${url}`)
  }
  t.equal(proxy.listBackends().length, 7)
  t.equal((await ask('PUT', '/backends/own', { url: 'http://127.0.0.3:1', weight: 2 })).statusCode, 200, 'one that the application has listed may be changed')
  await t.rejects(adminRig(t, {}, { plugins: ['backends'], allowBackends: ['http://x'] }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /allowBackends\[0\] must be a host name/ })
})

t.test('a name that leads elsewhere later is connected to no more', async t => {
  const { port } = await httpBackend(t, (_request, response) => response.end('reached'))
  const dns = await new DnsServer().listen()
  t.teardown(() => dns.close())
  dns.set('moves.example', ['127.0.0.1'])
  const clock = new FakeClock()
  const { ask, proxy, log } = await adminRig(t, { clock, dns: { servers: [dns.address], minTtl: 1_000, maxTtl: 1_000, staleWhileRevalidate: 0, staleIfError: 0 }, pool: { maxRequestsPerConnection: 1 } }, { plugins: ['backends', 'health'], allowBackends: ['127.0.0.1'] })
  t.equal((await ask('POST', '/backends', { id: 'm', url: `http://moves.example:${port}` })).statusCode, 201)
  t.equal(await (await proxy.forwardHttp(new Request('http://x/'))).text(), 'reached')
  dns.set('moves.example', ['127.0.0.9'])
  clock.advance(2_000)
  await t.rejects(proxy.forwardHttp(new Request('http://x/')), { code: 'FST_ROCKSTAR_CONNECT', cause: { code: 'EACCES' } })
  const check = await ask('POST', '/health/check')
  t.match(check.json(), { statusCode: 503, failed: [{ id: 'm', errorMessage: /no backend is allowed/ }] }, 'by checks neither')
  t.notMatch(check.body, '127.0.0.9')
  t.ok(log)
})
