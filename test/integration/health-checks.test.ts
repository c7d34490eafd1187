import Fastify from 'fastify'
import { execFileSync, spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import rockstarProxy from '../../plugins/index.ts'
import type { Backend, BackendHealth, BackendInput, HealthEvent, HealthOptions, RockstarProxyOptions } from '../../types/index.ts'
import { httpBackend, startGateway, type Gateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { seeded } from '../helpers/random.ts'
import { ok, rawBackend, until, type RawBackend } from '../helpers/wire.ts'

const routes = [{ prefix: '/' }]

/** A gateway that checks only when the test asks it to, or moves its clock. */
async function gatewayWith (t: Test, backends: BackendInput[], health: HealthOptions, options: RockstarProxyOptions = {}): Promise<Gateway & { clock: FakeClock }> {
  const clock = new FakeClock()
  const gateway = await startGateway(t, { backends, health: { interval: 1_000_000, ...health }, routes, clock, random: seeded(1), ...options })
  return { ...gateway, clock }
}

/** Checks all, and tells what was wrong: `''` when nothing was. */
async function check ({ app }: Gateway): Promise<string> {
  return await app.proxy.healthCheck().then(() => '', (error: Error) => error.message)
}

/** What one check of one backend has found. */
async function checkOf (t: Test, url: string, health: HealthOptions): Promise<BackendHealth> {
  const gateway = await gatewayWith(t, [{ id: 'a', url }], health)
  const message = await check(gateway)
  const found = gateway.app.proxy.getHealthStatus().a
  t.equal(message === '', found.errorMessage === '', 'healthCheck() rejects when there is something to say')
  t.ok(message.includes(found.errorMessage))
  return found
}

const allClosed = (backend: RawBackend) => backend.connections.every(({ closed }) => closed)

/** A port on which nobody listens, and that the system gives to nobody who asks for any. */
const DEAD = 1

t.test('a check by HTTP asks for the path below the base path, with the method, headers and host that are set', async t => {
  const backend = await rawBackend(t, () => ok())
  const at = (health: HealthOptions) => checkOf(t, `${backend.url}/base`, health)
  t.match(await at({ path: '/health?deep=1' }), { errorMessage: '', statusCode: 200, consecutiveFails: 0 })
  await at({ path: '/', method: 'HEAD', headers: { 'X-Probe': 'yes', Authorization: 'Bearer x' }, host: 'health.example' })
  const [plain, special] = backend.requests
  t.equal(plain.startLine, 'GET /base/health?deep=1 HTTP/1.1')
  t.strictSame(plain.values('host'), [`127.0.0.1:${backend.port}`])
  t.equal(special.startLine, 'HEAD /base/ HTTP/1.1')
  t.strictSame(special.values('host'), ['health.example'])
  t.strictSame([special.values('x-probe'), special.values('authorization')], [['yes'], ['Bearer x']])
  t.equal(backend.requests.length, 2)
  await until(() => allClosed(backend))
})

t.test('a check may ask another port, by HTTP and by TCP', async t => {
  const [main, side] = [await rawBackend(t, () => ok()), await rawBackend(t, () => ok())]
  t.equal((await checkOf(t, main.url, { path: '/health', port: side.port })).errorMessage, '')
  t.equal((await checkOf(t, main.url, { port: side.port })).errorMessage, '')
  t.match(await checkOf(t, main.url, { port: DEAD }), { errorMessage: /ECONNREFUSED/, statusCode: 0 })
  t.equal(main.connections.length, 0)
  await until(() => side.connections.length === 2 && allClosed(side))
  t.equal(side.requests.length, 1)
})

t.test('which statuses are good is set by single ones and ranges', async t => {
  const cases: [status: number, expectedStatus: HealthOptions['expectedStatus'], good: boolean][] = [
    [200, undefined, true], [204, undefined, true], [302, undefined, true], [399, undefined, true], [400, undefined, false], [503, undefined, false],
    [200, [204], false], [204, [204], true], [404, [404], true],
    [299, [[200, 299]], true], [200, [[200, 299]], true], [300, [[200, 299]], false],
    [418, [200, [410, 420], 503], true], [503, [200, [410, 420], 503], true], [421, [200, [410, 420], 503], false]
  ]
  const backend = await httpBackend(t, (request, response) => { response.writeHead(Number(request.url?.slice(1))).end() })
  for (const [status, expectedStatus, good] of cases) {
    const found = await checkOf(t, backend.url, { path: `/${status}`, expectedStatus })
    t.match(found, { statusCode: status, errorMessage: good ? /^$/ : `status ${status}` }, `${status} of ${JSON.stringify(expectedStatus)}`)
  }
})

t.test('an interim response is not the answer', async t => {
  const backend = await rawBackend(t, () => `HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n${ok('', '', '503 No')}`)
  t.match(await checkOf(t, backend.url, { path: '/' }), { statusCode: 503, errorMessage: 'status 503' })
})

t.test('a redirect is an answer, and is not followed', async t => {
  const elsewhere = await rawBackend(t, () => ok())
  const backend = await rawBackend(t, () => ok('', `Location: ${elsewhere.url}/\r\n`, '302 Found'))
  t.match(await checkOf(t, backend.url, { path: '/' }), { statusCode: 302, errorMessage: '' })
  t.equal(elsewhere.connections.length, 0)
})

t.test('what the body must hold is a text or a RegExp, looked for in the first 64 KiB', async t => {
  const KIB64 = 65_536
  const cases: [name: string, body: string, expectedBody: string | RegExp, good: boolean][] = [
    ['a text that is there', '{"status":"up"}', '"up"', true],
    ['a text that is not', '{"status":"down"}', '"up"', false],
    ['a text of special characters', 'a.b', 'a+b', false],
    ['a RegExp that matches', '{"status": "UP"}', /"status":\s*"up"/i, true],
    ['a RegExp that does not', '{"status": "UP"}', /"status":\s*"up"/, false],
    ['letters of several bytes', 'état: prêt', 'prêt', true],
    ['the last of the 64 KiB', 'x'.repeat(KIB64 - 2) + 'ok', 'ok', true],
    ['what stands behind them', 'x'.repeat(KIB64 - 1) + 'ok', 'ok', false],
    ['the same by RegExp', 'x'.repeat(KIB64 - 1) + 'ok', /ok$/, false],
    ['no body', '', 'ok', false]
  ]
  let body = ''
  const backend = await httpBackend(t, (request, response) => { response.end(request.method === 'HEAD' ? '' : body) })
  for (const [name, sent, expectedBody, good] of cases) {
    body = sent
    t.match(await checkOf(t, backend.url, { path: '/', expectedBody }), { statusCode: 200, errorMessage: good ? /^$/ : 'the body is not what was expected' }, name)
  }
})

t.test('a RegExp with flags that remember is asked anew every time', async t => {
  const backend = await httpBackend(t, (_, response) => { response.end('ok ok') })
  for (const expectedBody of [/ok/g, /ok/y]) {
    const gateway = await gatewayWith(t, [backend.url], { path: '/', expectedBody })
    for (let i = 0; i < 4; i++) t.equal(await check(gateway), '')
  }
})

t.test('the status is judged before the body', async t => {
  const backend = await rawBackend(t, () => 'HTTP/1.1 500 No\r\nContent-Length: 1000000\r\n\r\nok')
  t.match(await checkOf(t, backend.url, { path: '/', expectedBody: 'ok' }), { statusCode: 500, errorMessage: 'status 500' })
  await until(() => allClosed(backend))
})

t.test('of a body that never ends no more than 64 KiB are waited for, and the connection is closed', async t => {
  const backend = await httpBackend(t, (_, response) => {
    response.write('begin')
    const go = () => { while (!response.destroyed && response.write('x'.repeat(8_192))); }
    response.on('drain', go)
    go()
  })
  let open = 0
  backend.server.on('connection', socket => {
    open++
    socket.on('close', () => open--)
  })
  t.equal((await checkOf(t, backend.url, { path: '/' })).errorMessage, '', 'without an expected body, the head is enough')
  t.equal((await checkOf(t, backend.url, { path: '/', expectedBody: 'begin' })).errorMessage, '')
  t.equal((await checkOf(t, backend.url, { path: '/', expectedBody: 'end' })).errorMessage, 'the body is not what was expected')
  await until(() => open === 0)
})

t.test('a body that stops half-way fails at the timeout, one that breaks off fails at once', async t => {
  const stuck = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhal')
  const broken = await rawBackend(t, (_, wire) => { wire.send('HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok').socket.end() })
  const gateway = await gatewayWith(t, [{ id: 'stuck', url: stuck.url }, { id: 'broken', url: broken.url }], { path: '/', expectedBody: 'ok', timeout: 500 })
  const checked = check(gateway)
  await until(() => gateway.app.proxy.getHealthStatus().broken.lastCheck !== undefined && stuck.requests.length === 1)
  t.equal(gateway.app.proxy.getHealthStatus().stuck.lastCheck, undefined)
  gateway.clock.advance(500)
  t.match(await checked, /stuck \(no answer within 500 ms\), broken \(.+\)$/)
  await until(() => allClosed(stuck) && allClosed(broken))
})

t.test('a backend that takes the connection and never answers fails at the timeout, and its connection is closed', async t => {
  const backend = await rawBackend(t, () => {})
  const gateway = await gatewayWith(t, [{ id: 'a', url: backend.url }], { path: '/health', timeout: 2_000 })
  const checked = check(gateway)
  await until(() => backend.requests.length === 1)
  gateway.clock.advance(1_999)
  t.equal(gateway.app.proxy.getHealthStatus().a.lastCheck, undefined)
  t.notOk(backend.connections[0].closed)
  gateway.clock.advance(1)
  t.match(await checked, 'a (no answer within 2000 ms)')
  t.match(gateway.app.proxy.getHealthStatus().a, { errorMessage: 'no answer within 2000 ms', statusCode: 0, responseTime: 2_000, consecutiveFails: 1 })
  await until(() => allClosed(backend))
})

t.test('an answer that is no HTTP, or none at all, is a failure that says so', async t => {
  const answers: [name: string, answer: (backend: RawBackend) => string | void, message: RegExp][] = [
    ['garbage', () => 'what?\r\n\r\n', /./],
    ['an end', backend => { backend.connections.at(-1)?.socket.end() }, /closed|other side/],
    ['a reset', backend => { backend.connections.at(-1)?.reset() }, /ECONNRESET|other side|closed/]
  ]
  for (const [name, answer, message] of answers) {
    const backend = await rawBackend(t, (_request, _wire, backend) => answer(backend))
    t.match(await checkOf(t, backend.url, { path: '/' }), { statusCode: 0, errorMessage: message }, name)
    await until(() => allClosed(backend))
  }
})

t.test('without a path, a connection that is accepted is enough', async t => {
  const backend = await rawBackend(t, () => {})
  t.match(await checkOf(t, backend.url, {}), { errorMessage: '', statusCode: 0 })
  t.match(await checkOf(t, `http://localhost:${backend.port}`, {}), { errorMessage: '' })
  await until(() => backend.connections.length === 2 && allClosed(backend))
  t.ok(backend.connections.every(({ received }) => received === ''), 'nothing is sent')
  t.match(await checkOf(t, `http://127.0.0.1:${DEAD}`, {}), { errorMessage: 'connect ECONNREFUSED' }, 'what went wrong, and no address')
  t.match(await checkOf(t, `http://127.0.0.1:${DEAD}`, { path: '/health' }), { errorMessage: 'connect ECONNREFUSED' })
})

t.test('HTTPS', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'rockstar-proxy-health-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2',
    '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1',
    '-keyout', join(folder, 'key.pem'), '-out', join(folder, 'cert.pem')], { stdio: 'ignore' })
  const asked: string[] = []
  const server = createTlsServer({ key: readFileSync(join(folder, 'key.pem')), cert: readFileSync(join(folder, 'cert.pem')) }, (request, response) => {
    asked.push(`${request.headers.host}${request.url}`)
    response.end('secret')
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => new Promise(resolve => {
    server.close(resolve)
    server.closeAllConnections()
  }))
  const { port } = server.address() as AddressInfo

  t.test('a certificate that nobody has vouched for is a failure, and says why', async t => {
    const warnings: Error[] = []
    const onWarning = (warning: Error) => warnings.push(warning)
    process.on('warning', onWarning)
    t.teardown(() => process.off('warning', onWarning))
    for (const name of ['localhost', '127.0.0.1']) {
      t.match(await checkOf(t, `https://${name}:${port}`, { path: '/health' }), { errorMessage: /self-signed certificate/, statusCode: 0, consecutiveFails: 1 }, name)
    }
    await new Promise(setImmediate)
    t.strictSame(warnings, [], 'an address is not sent as a server name, which Node warns of')
    t.strictSame(asked, [], 'nothing was asked')
  })

  t.test('without a path the port is enough', async t => {
    t.equal((await checkOf(t, `https://localhost:${port}`, {})).errorMessage, '')
  })

  t.test('one that is trusted is asked, by its name or its address', async t => {
    const script = `
      import Fastify from 'fastify'
      import rockstarProxy from ${JSON.stringify(new URL('../../plugins/index.ts', import.meta.url).href)}
      const app = Fastify()
      await app.register(rockstarProxy, { backends: ['https://localhost:${port}', 'https://127.0.0.1:${port}'], health: { path: '/health', host: 'other.example', expectedBody: 'secret' } })
      await app.proxy.healthCheck()
      await app.close()
    `
    const { code, errors } = await run(script, { NODE_EXTRA_CA_CERTS: join(folder, 'cert.pem') })
    t.equal(errors, '')
    t.equal(code, 0)
    t.strictSame(asked, ['other.example/health', 'other.example/health'], '`host` does not change the name that must be proved')
  })

  // undici would try for ten seconds by itself.
  t.test('a TLS handshake that hangs ends at the timeout, and its connection is closed', { timeout: 6_000 }, async t => {
    const backend = await rawBackend(t, () => {})
    const gateway = await gatewayWith(t, [{ id: 'a', url: `https://127.0.0.1:${backend.port}` }], { path: '/health', timeout: 1_000 })
    const checked = check(gateway)
    await until(() => backend.connections.length === 1 && backend.connections[0].received !== '')
    gateway.clock.advance(1_000)
    t.match(await checked, 'no answer within 1000 ms')
    await until(() => allClosed(backend))
  })
})

t.test('a checker of the user\'s own decides', async t => {
  let answer: () => unknown = () => true
  const seen: Backend[] = []
  const gateway = await gatewayWith(t, [{ id: 'a', url: 'http://127.0.0.1:1' }], {
    path: '/ignored',
    checker: backend => {
      seen.push(backend)
      return answer()
    }
  })
  const { proxy } = gateway.app
  const cases: [answer: () => unknown, message: string][] = [
    [() => { throw new Error('thrown') }, 'thrown'],
    [async () => { throw new Error('rejected') }, 'rejected'],
    [() => false, 'the checker said no'],
    [async () => false, 'the checker said no'],
    [async () => {}, '']
  ]
  for (const [next, message] of cases) {
    answer = next
    t.match(await check(gateway), message)
    t.equal(proxy.getHealthStatus().a.errorMessage, message)
  }
  t.ok(seen.every(backend => backend === proxy.getBackend('a')), 'it gets the backend that the manager lists')
})

t.test('a checker\'s signal is aborted at the timeout, and what it does then is not heard', async t => {
  const signals: AbortSignal[] = []
  const gateway = await gatewayWith(t, [{ id: 'a', url: 'http://127.0.0.1:1' }], {
    timeout: 700,
    checker: async (_, { signal }) => {
      signals.push(signal)
      await new Promise((_resolve, reject) => signal.addEventListener('abort', () => reject(new Error('late'))))
    }
  })
  const checked = check(gateway)
  await until(() => signals.length === 1)
  gateway.clock.advance(699)
  t.equal(signals[0].aborted, false)
  gateway.clock.advance(1)
  t.equal(signals[0].aborted, true)
  t.match(await checked, 'a (no answer within 700 ms)')
  t.equal(gateway.app.proxy.getHealthStatus().a.consecutiveFails, 1)
})

t.test('a backend may have checks of its own; what it leaves out is as its upstream says', async t => {
  const backend = await rawBackend(t, ({ startLine }) => startLine.includes('/own') ? ok('', '', '418 Teapot') : ok())
  const gateway = await gatewayWith(t, [
    { id: 'plain', url: backend.url },
    { id: 'own', url: backend.url, healthCheck: { path: '/own', method: 'POST', headers: { 'x-own': '1' }, expectedStatus: [418], fall: 1 } },
    { id: 'half', url: backend.url, healthCheck: { path: '/own', fall: 2 } },
    { id: 'checker', url: 'http://127.0.0.1:1', healthCheck: { checker: () => true } }
  ], { path: '/shared', headers: { 'x-shared': '1' }, fall: 3 })
  t.match(await check(gateway), /: half \(status 418\)$/)
  const lines = backend.requests.map(({ startLine }) => startLine).sort()
  t.strictSame(lines, ['GET /own HTTP/1.1', 'GET /shared HTTP/1.1', 'POST /own HTTP/1.1'])
  const own = backend.requests.find(({ startLine }) => startLine.startsWith('POST'))
  t.strictSame([own?.values('x-own'), own?.values('x-shared')], [['1'], []], 'its headers replace those of the upstream')
  await check(gateway)
  t.strictSame(gateway.app.proxy.listBackends().map(({ id, healthy }) => [id, healthy]), [['plain', true], ['own', true], ['half', false], ['checker', true]])
  gateway.app.proxy.updateBackend('half', { healthCheck: { path: '/other', rise: 1 } })
  t.equal(await check(gateway), '')
  t.equal(gateway.app.proxy.getBackend('half').healthy, true)
})

t.test('checks use connections of their own, and leave the traffic\'s alone', async t => {
  const backend = await rawBackend(t, ({ startLine }, wire, { connections }) => {
    return startLine.includes('/health') ? ok(`health ${connections.indexOf(wire)}`) : undefined
  })
  const gateway = await gatewayWith(t, [backend.url], { path: '/health' }, { pool: { connections: 1 } })
  const client = await gateway.connect()
  client.send('GET /busy HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => backend.requests.length === 1)
  const { proxy } = gateway.app
  const before = proxy.getConnectionPool().stats()
  t.match(before, { total: 1, active: 1, pending: 0 })
  for (let i = 0; i < 5; i++) t.equal(await check(gateway), '')
  t.strictSame(proxy.getConnectionPool().stats(), before)
  t.equal(backend.connections.length, 6, 'each check has had a new one')
  await until(() => backend.connections.slice(1).every(({ closed }) => closed))
  backend.connections[0].send(ok('served'))
  t.equal((await client.response()).body, 'served')
  t.equal(proxy.getMetrics().totalRequests, 1, 'checks are not counted as requests')
  t.equal(proxy.getMetrics().backends[`127.0.0.1:${backend.port}`].totalRequests, 1)
})

t.test('healthCheck() rejects with UNHEALTHY and names those that failed, and only those', async t => {
  const bad = new Set(['b', 'd'])
  const checker = ({ id }: Backend) => { if (bad.has(id)) throw new Error(`${id} is down`) }
  const gateway = await gatewayWith(t, ['a', 'b', 'c', 'd', 'e'].map(id => ({ id, url: 'http://127.0.0.1:1', isActive: id !== 'e' })), { checker }, {
    upstreams: { other: { backends: [{ id: 'o', url: 'http://127.0.0.1:1' }], health: { checker: () => false } } }
  })
  const { proxy } = gateway.app
  await t.rejects(proxy.healthCheck(), { code: 'FST_ROCKSTAR_UNHEALTHY', statusCode: 503, message: "Backends of upstream 'default' have failed their health check: b (b is down), d (d is down)" })
  await t.rejects(proxy.upstream('other').healthCheck(), { message: "Backends of upstream 'other' have failed their health check: o (the checker said no)" })
  bad.clear()
  t.equal(await proxy.healthCheck(), undefined)
  t.equal(proxy.getHealthStatus().e.lastCheck, undefined, 'an inactive one is not checked')
})

t.test('healthCheck() works where health checks are off, and changes nothing', async t => {
  const backend = await rawBackend(t, () => ok())
  const gateway = await startGateway(t, { backends: [{ id: 'a', url: backend.url }, { id: 'b', url: `http://127.0.0.1:${DEAD}` }], health: false, routes, random: seeded(1) })
  const { proxy } = gateway.app
  for (let i = 0; i < 5; i++) await t.rejects(proxy.healthCheck(), { message: /: b \(.*ECONNREFUSED/ })
  t.strictSame(proxy.listBackends().map(({ healthy, available }) => [healthy, available]), [[true, true], [true, true]])
  t.equal(gateway.log.filter(({ msg }) => /health/.test(msg)).length, 0)
})

t.test('getHealthStatus() tells what is known of each backend', async t => {
  let answer = ok()
  const backend = await rawBackend(t, () => answer)
  const gateway = await gatewayWith(t, [{ id: 'a', url: backend.url }], { path: '/', fall: 2, rise: 2 })
  const { clock, app: { proxy } } = gateway
  const begun = new Date(clock.wall())
  const status = () => proxy.getHealthStatus().a
  t.strictSame(status(), {
    isHealthy: true,
    lastCheck: undefined,
    lastSuccess: undefined,
    lastFailure: undefined,
    consecutiveFails: 0,
    responseTime: 0,
    errorMessage: '',
    statusCode: 0,
    source: 'active',
    since: begun,
    ejections: 0,
    ejectedUntil: undefined
  })
  clock.advance(100)
  const first = new Date(clock.wall())
  await check(gateway)
  const passed = { ...status() }
  t.strictSame(passed, {
    isHealthy: true,
    lastCheck: first,
    lastSuccess: first,
    lastFailure: undefined,
    consecutiveFails: 0,
    responseTime: 0,
    errorMessage: '',
    statusCode: 200,
    source: 'active',
    since: begun,
    ejections: 0,
    ejectedUntil: undefined
  })
  answer = ok('', '', '500 No')
  clock.advance(100)
  await check(gateway)
  clock.advance(100)
  const third = new Date(clock.wall())
  await check(gateway)
  t.strictSame(status(), {
    isHealthy: false,
    lastCheck: third,
    lastSuccess: first,
    lastFailure: third,
    consecutiveFails: 2,
    responseTime: 0,
    errorMessage: 'status 500',
    statusCode: 500,
    source: 'active',
    since: third,
    ejections: 0,
    ejectedUntil: undefined
  })
  t.strictSame(passed.isHealthy, true, 'what was given is not changed later')
  answer = ok()
  clock.advance(100)
  await check(gateway)
  t.match(status(), { isHealthy: false, errorMessage: '', consecutiveFails: 0, statusCode: 200 })
  t.strictSame(status().since, third)
  clock.advance(100)
  await check(gateway)
  t.equal(status().isHealthy, true)
  t.strictSame([status().since, status().lastFailure], [new Date(clock.wall()), third])
  proxy.addBackend({ id: '__proto__', url: backend.url })
  t.strictSame(Object.keys(proxy.getHealthStatus()), ['a', '__proto__'], 'a name may be any')
})

t.test('responseTime is how long the check took', async t => {
  const backend = await rawBackend(t, () => {})
  const gateway = await gatewayWith(t, [{ id: 'a', url: backend.url }], { path: '/' })
  const checked = check(gateway)
  await until(() => backend.requests.length === 1)
  gateway.clock.advance(123)
  backend.connections[0].send(ok())
  t.equal(await checked, '')
  t.equal(gateway.app.proxy.getHealthStatus().a.responseTime, 123)
})

t.test('one that is taken out by hand is told to be so', async t => {
  const gateway = await gatewayWith(t, [{ id: 'a', url: 'http://127.0.0.1:1' }], { checker: () => true })
  const { clock, app: { proxy } } = gateway
  clock.advance(1_000)
  proxy.updateBackend('a', { isActive: false })
  const status = () => {
    const { isHealthy, source, since } = proxy.getHealthStatus().a
    return { isHealthy, source, since }
  }
  t.strictSame(status(), { isHealthy: false, source: 'manual', since: new Date(clock.wall()) })
  clock.advance(1_000)
  proxy.updateBackend('a', { isActive: true })
  t.strictSame(status(), { isHealthy: true, source: 'active', since: new Date(clock.wall()) })
})

/** Backends that answer their name, and of which a test says which are well. */
async function named (t: Test, ids: string[]): Promise<{ backends: BackendInput[], bad: Set<string>, checker: (backend: Backend) => void }> {
  const bad = new Set<string>()
  const backends = await Promise.all(ids.map(async id => ({ id, url: (await rawBackend(t, () => ok(id))).url })))
  return { backends, bad, checker: ({ id }) => { if (bad.has(id)) throw new Error(`${id} is down`) } }
}

/** Who answers, in so many requests. */
async function answers ({ app }: Gateway, count: number): Promise<string> {
  let text = ''
  for (let i = 0; i < count; i++) text += (await app.inject('/')).body
  return [...text].sort().join('')
}

t.test('an unhealthy backend gets no traffic, and gets it again after `rise` passes', async t => {
  const { backends, bad, checker } = await named(t, ['a', 'b', 'c'])
  const gateway = await gatewayWith(t, backends, { checker, fall: 3, rise: 2 })
  t.equal(await answers(gateway, 6), 'aabbcc')
  bad.add('b')
  await check(gateway)
  await check(gateway)
  t.equal(await answers(gateway, 6), 'aabbcc', 'two failures are not yet enough')
  await check(gateway)
  t.equal(await answers(gateway, 6), 'aaaccc')
  const b = gateway.app.proxy.getBackend('b')
  t.strictSame([b.healthy, b.available, b.toJSON().healthy], [false, false, false])
  bad.clear()
  await check(gateway)
  t.equal(await answers(gateway, 6), 'aaaccc', 'one pass is not yet enough')
  await check(gateway)
  t.equal(await answers(gateway, 6), 'aabbcc')
})

t.test('the scheduler does all this by itself', async t => {
  const { backends, bad, checker } = await named(t, ['a', 'b', 'c'])
  const gateway = await gatewayWith(t, backends, { checker, interval: 1_000, fall: 3, rise: 2, jitter: 0 })
  const b = gateway.app.proxy.getBackend('b')
  /** Moves time on until something holds; gives how long it took. */
  const whenever = async (holds: () => boolean) => {
    const from = gateway.clock.now()
    while (!holds()) {
      gateway.clock.advance(10)
      await new Promise(setImmediate)
    }
    return gateway.clock.now() - from
  }
  await whenever(() => gateway.app.proxy.getHealthStatus().b.lastSuccess !== undefined)
  bad.add('b')
  const fell = await whenever(() => !b.healthy)
  t.ok(fell > 2_000 && fell <= 3_020, `three intervals at the most until it is out: ${fell}`)
  bad.clear()
  const rose = await whenever(() => b.healthy)
  t.ok(rose > 1_000 && rose <= 2_020, `two until it is back: ${rose}`)
})

t.test('requests under way on a backend that turns unhealthy are finished', async t => {
  const backend = await rawBackend(t, ({ startLine }) => startLine.includes('/slow') ? undefined : ok())
  let well = true
  const gateway = await gatewayWith(t, [backend.url], { checker: () => well, fall: 1 }, { panicThreshold: 0 })
  const client = await gateway.connect()
  client.send('GET /slow HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => backend.requests.length === 1)
  well = false
  await check(gateway)
  t.equal((await gateway.app.inject('/')).statusCode, 503)
  backend.connections[0].send(ok('slow'))
  t.equal((await client.response()).body, 'slow')
})

t.test('when most are unhealthy all are used, and no more when enough are well again', async t => {
  const { backends, bad, checker } = await named(t, ['a', 'b', 'c', 'd'])
  const gateway = await gatewayWith(t, backends, { checker, fall: 1, rise: 1 })
  const { proxy } = gateway.app
  const told: string[] = []
  for (const name of ['panic:on', 'panic:off'] as const) proxy.on(name, ({ available, active }) => told.push(`${name} ${available}/${active}`))
  bad.add('a').add('b')
  await check(gateway)
  t.equal(proxy.getMetrics().panic, false, 'a half is enough')
  t.equal(await answers(gateway, 4), 'ccdd')
  bad.add('c')
  await check(gateway)
  t.equal(proxy.getMetrics().panic, true)
  t.equal(await answers(gateway, 8), 'aabbccdd')
  bad.add('d')
  await check(gateway)
  t.equal(await answers(gateway, 8), 'aabbccdd', 'not silence')
  bad.clear()
  await check(gateway)
  t.equal(proxy.getMetrics().panic, false)
  t.equal(told.length, 2)
  t.match(told, ['panic:on 1/4', /^panic:off/])
})

t.test('with panicThreshold 0, nobody well means 503', async t => {
  const { backends, bad, checker } = await named(t, ['a', 'b'])
  const gateway = await gatewayWith(t, backends, { checker, fall: 1, rise: 1 }, { panicThreshold: 0 })
  bad.add('a').add('b')
  await check(gateway)
  const response = await gateway.app.inject('/')
  t.equal(response.statusCode, 503)
  t.equal(response.json().code, 'FST_ROCKSTAR_NO_BACKEND')
  t.notMatch(response.body, /127\.0\.0\.1|is down/)
})

t.test('a backend turning unhealthy or healthy is one event and one line in the log', async t => {
  const { backends, bad, checker } = await named(t, ['a', 'b', 'c'])
  const gateway = await gatewayWith(t, [], { interval: 1_000_000 }, { upstreams: { named: { backends, health: { checker, fall: 2, rise: 2, interval: 1_000_000 } } } })
  const { clock, app: { proxy } } = gateway
  const named_ = proxy.upstream('named')
  const events: [string, HealthEvent][] = []
  const own: string[] = []
  for (const name of ['backend:unhealthy', 'backend:healthy'] as const) {
    proxy.on(name, event => events.push([name, event]))
    named_.on(name, () => own.push(name))
  }
  const round = async (count: number) => { for (let i = 0; i < count; i++) await named_.healthCheck().catch(() => {}) }
  bad.add('b')
  await round(5)
  const b = named_.getBackend('b')
  t.equal(events.length, 1)
  t.strictSame(events[0], ['backend:unhealthy', { upstream: 'named', time: clock.wall(), backend: b, cause: 'b is down', counts: { consecutiveFails: 2, consecutivePasses: 0 } }])
  t.equal(events[0][1].backend, b)
  bad.clear()
  clock.advance(5)
  await round(5)
  t.equal(events.length, 2)
  t.strictSame(events[1], ['backend:healthy', { upstream: 'named', time: clock.wall(), backend: b, cause: 'checks have passed', counts: { consecutiveFails: 0, consecutivePasses: 2 } }])
  t.strictSame(own, ['backend:unhealthy', 'backend:healthy'], 'its own upstream hears of it as well')
  const lines = gateway.log.filter(({ backend }) => backend === 'b')
  t.equal(lines.length, 2)
  t.match(lines, [
    { level: 40, msg: 'a backend fails its health checks', upstream: 'named', backend: 'b', cause: 'b is down', counts: { consecutiveFails: 2 } },
    { level: 30, msg: 'a backend passes its health checks', upstream: 'named', backend: 'b', counts: { consecutivePasses: 2 } }
  ])
})

t.test('what only a check by HTTP looks at is refused where there is no path', async t => {
  const url = 'http://127.0.0.1:9'
  for (const health of [{ expectedBody: 'x' }, { host: 'x' }, { headers: { x: 'y' } }]) {
    const app = Fastify()
    t.teardown(() => app.close())
    const [name] = Object.keys(health)
    await t.rejects(async () => await app.register(rockstarProxy, { backends: [url], health }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: new RegExp(`health\\.${name} .*health\\.path`) })
    await gatewayWith(t, [url], { ...health, path: '/health' })
  }
})

t.test('a backend that is refused for that is not listed, and one that is changed stays as it was', async t => {
  const { app } = await gatewayWith(t, [{ id: 'a', url: 'http://127.0.0.1:9', healthCheck: { path: '/health' } }], { expectedBody: 'x' })
  t.throws(() => app.proxy.addBackend({ id: 'b', url: 'http://127.0.0.1:9' }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS' })
  t.strictSame(app.proxy.listBackends().map(({ id }) => id), ['a'])
  t.throws(() => app.proxy.updateBackend('a', { weight: 5, healthCheck: { port: 1 } }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS' })
  t.equal(app.proxy.getBackend('a').weight, 1)
})

t.test('initial says whether a backend serves before it has proved itself', async t => {
  let well = false
  const checker = () => well
  const { backends: [a] } = await named(t, ['a'])
  for (const [initial, before, after] of [['healthy', 200, 200], ['unhealthy', 503, 503], ['check-first', 503, 200]] as const) {
    well = false
    const gateway = await gatewayWith(t, [a], { checker, initial, rise: 2 }, { panicThreshold: 0 })
    t.equal((await gateway.app.inject('/')).statusCode, before, initial)
    well = true
    await check(gateway)
    t.equal((await gateway.app.inject('/')).statusCode, after, `${initial}, after one pass`)
    await check(gateway)
    t.equal((await gateway.app.inject('/')).statusCode, 200)
  }
})

t.test('isReady() is whether as many are available as `minHealthy` says, in every upstream that has backends', async t => {
  const { backends, bad, checker } = await named(t, ['a', 'b', 'c'])
  const gateway = await gatewayWith(t, backends, { checker, minHealthy: 2, fall: 1, rise: 1 }, {
    clock: undefined,
    upstreams: { empty: {}, one: { backends: [{ id: 'o', url: 'http://127.0.0.1:1' }], health: { checker: ({ id }) => !bad.has(id), fall: 1, rise: 1 } } }
  })
  const { proxy } = gateway.app
  const ready = () => [proxy.isReady(), proxy.upstream('one').isReady(), proxy.upstream('empty').isReady()]
  t.strictSame(ready(), [true, true, false])
  bad.add('a')
  await check(gateway)
  t.strictSame(ready(), [true, true, false])
  bad.add('b')
  await check(gateway)
  t.strictSame(ready(), [false, true, false], 'panic serves, but is not ready')
  bad.clear()
  await check(gateway)
  t.strictSame(ready(), [true, true, false])
  bad.add('o')
  await proxy.upstream('one').healthCheck().catch(() => {})
  t.strictSame(ready(), [false, false, false], 'one is the least')
  bad.clear()
  await proxy.upstream('one').healthCheck()
  t.strictSame(ready(), [true, true, false])
  await gateway.app.close()
  t.equal(proxy.isReady(), false, 'nobody is sent to an app that closes')
})

t.test('without backends nothing is ready', async t => {
  const gateway = await startGateway(t, {})
  t.equal(gateway.app.proxy.isReady(), false)
})

t.test('minHealthy makes app.ready() wait until so many have passed a check', async t => {
  const [slow, other] = [await rawBackend(t, () => {}), await rawBackend(t, () => ok())]
  for (const initial of ['healthy', 'check-first'] as const) {
    const app = Fastify()
    t.teardown(() => app.close())
    const clock = new FakeClock()
    await app.register(rockstarProxy, { backends: [slow.url, other.url], health: { path: '/', minHealthy: 2, initial }, clock })
    let ready = false
    const becoming = app.ready().then(() => { ready = true })
    const seen = slow.requests.length
    // Those that somebody waits for are checked at once, not at their place in the interval.
    while (slow.requests.length === seen || other.requests.length === seen) {
      clock.advance(0)
      await new Promise(setImmediate)
    }
    await until(() => Object.values(app.proxy.getHealthStatus()).some(({ lastSuccess }) => lastSuccess !== undefined))
    await new Promise(setImmediate)
    t.equal(ready, false)
    slow.connections.at(-1)?.send(ok())
    await becoming
    t.ok(Object.values(app.proxy.getHealthStatus()).every(({ isHealthy, statusCode }) => isHealthy && statusCode === 200))
    t.equal(app.proxy.isReady(), true)
    await app.close()
    t.equal(clock.timers, 0)
  }
})

t.test('when too few have passed within readyTimeout, the app does not start, and says why', async t => {
  const backend = await rawBackend(t, () => ok())
  const options: RockstarProxyOptions = { backends: [backend.url, `http://127.0.0.1:${DEAD}`], health: { minHealthy: 2, readyTimeout: 3_000 } }
  const message = (name: string) => `Only 1 of the 2 backends that upstream '${name}' needs have passed a health check within 3000 ms`
  for (const [name, given] of [['default', options], ['other', { upstreams: { other: options } }]] as [string, RockstarProxyOptions][]) {
    const app = Fastify()
    t.teardown(() => app.close())
    const clock = new FakeClock()
    await app.register(rockstarProxy, { ...given, clock, random: seeded(1) })
    const failed = app.listen({ port: 0, host: '127.0.0.1' }).then(() => null, error => error)
    const upstream = app.proxy.upstream(name)
    while (Object.values(upstream.getHealthStatus()).some(({ lastCheck }) => lastCheck === undefined)) {
      clock.advance(0)
      await new Promise(setImmediate)
    }
    clock.advance(3_000)
    const error = await failed
    t.match(error, { code: 'FST_ROCKSTAR_UNHEALTHY', message: message(name) })
    t.equal(app.server.listening, false)
    await app.close()
    t.equal(clock.timers, 0, 'and nothing goes on')
  }
})

t.test('without minHealthy the app is ready at once, whatever becomes of its backends', async t => {
  const gateway = await startGateway(t, { backends: [`http://127.0.0.1:${DEAD}`], health: true, random: seeded(1) })
  t.equal(gateway.app.proxy.isReady(), true)
})

t.test('checks stop with removal and while inactive, and go on with activation', async t => {
  const backend = await rawBackend(t, () => {})
  const gateway = await gatewayWith(t, [{ id: 'a', url: backend.url }, { id: 'b', url: backend.url }], { path: '/', interval: 1_000, timeout: 500 })
  const { clock, app: { proxy } } = gateway
  const asked = proxy.healthCheck()
  await until(() => backend.requests.length === 2)
  proxy.updateBackend('a', { isActive: false })
  await proxy.removeBackend('b')
  await until(() => backend.connections.length === 2 && allClosed(backend))
  t.equal(await asked, undefined, 'nothing is said of those that have gone')
  for (let i = 0; i < 50; i++) {
    clock.advance(100)
    await new Promise(setImmediate)
  }
  t.equal(backend.connections.length, 2)
  proxy.updateBackend('a', { isActive: true })
  clock.advance(10)
  await until(() => backend.connections.length === 3)
})

t.test('app.close() ends the checks under way and plans no more', async t => {
  const backend = await rawBackend(t, () => {})
  const gateway = await gatewayWith(t, [backend.url, { id: 'tcp', url: `http://127.0.0.1:${backend.port}` }], { path: '/', interval: 1_000 })
  const asked = gateway.app.proxy.healthCheck().catch((error: Error) => error.message)
  await until(() => backend.requests.length === 2)
  await gateway.app.close()
  t.match(await asked, 'the check was given up')
  await until(() => allClosed(backend))
  t.equal(gateway.clock.timers, 0)
})

t.test('no check leaves a socket behind', async t => {
  const answer = ['ok', 'bad', 'silent', 'close']
  const backend = await rawBackend(t, ({ startLine }, wire) => {
    if (startLine.includes('ok')) return ok('ok')
    if (startLine.includes('bad')) return ok('bad', '', '500 No')
    if (startLine.includes('close')) wire.close()
    return undefined
  })
  const gateway = await gatewayWith(t, [
    ...answer.map(id => ({ id, url: backend.url, healthCheck: { path: `/${id}`, expectedBody: 'ok' } })), { id: 'tcp', url: backend.url }
  ], { timeout: 100 })
  for (let i = 1; i <= 20; i++) {
    const checked = check(gateway)
    await until(() => backend.connections.length === 5 * i && backend.requests.length === 4 * i)
    await until(() => Object.entries(gateway.app.proxy.getHealthStatus()).every(([id, { lastCheck }]) => id === 'silent' || lastCheck?.getTime() === gateway.clock.wall()))
    gateway.clock.advance(100)
    t.match(await checked, /bad .* silent .* close /)
    await until(() => allClosed(backend))
  }
  t.equal(backend.connections.length, 100)
})

/** Runs a program; gives how it ended. */
async function run (script: string, env: Record<string, string> = {}): Promise<{ code: number | null, output: string, errors: string }> {
  const child = spawn(process.execPath, ['--import', import.meta.resolve('tsx'), '--input-type=module', '--eval', script],
    { cwd: new URL('../..', import.meta.url), env: { ...process.env, NODE_OPTIONS: '', ...env }, stdio: ['ignore', 'pipe', 'pipe'] })
  let [output, errors] = ['', '']
  child.stdout.on('data', chunk => { output += chunk })
  child.stderr.on('data', chunk => { errors += chunk })
  const code = await new Promise<number | null>(resolve => child.on('close', resolve))
  return { code, output, errors }
}

t.test('a process ends by itself after app.close(), whatever checks are under way', async t => {
  const [silent, well] = [await rawBackend(t, () => {}), await rawBackend(t, () => ok())]
  const { code, output, errors } = await run(`
    import Fastify from 'fastify'
    import rockstarProxy from ${JSON.stringify(new URL('../../plugins/index.ts', import.meta.url).href)}
    const app = Fastify()
    await app.register(rockstarProxy, {
      backends: ['${silent.url}', '${well.url}', { id: 'tls', url: 'https://127.0.0.1:${silent.port}' }, 'http://127.0.0.1:${DEAD}', { id: 'tcp', url: '${silent.url}', healthCheck: { path: undefined } }],
      health: { path: '/', interval: 20, timeout: 60_000, minHealthy: 1 }
    })
    await app.listen({ port: 0, host: '127.0.0.1' })
    const { proxy } = app
    let checks = 0
    while (checks < 10) {
      const before = proxy.getHealthStatus()['127.0.0.1:${well.port}'].lastCheck
      await new Promise(setImmediate)
      if (proxy.getHealthStatus()['127.0.0.1:${well.port}'].lastCheck !== before) checks++
    }
    await app.close()
    console.log('closed')
  `)
  t.equal(errors, '')
  t.equal(output, 'closed\n')
  t.equal(code, 0)
  t.ok(well.requests.length >= 10)
  t.ok(silent.requests.length >= 1)
  await until(() => allClosed(silent) && allClosed(well))
})

t.test('a process that waits for backends in vain hears so, and ends', async t => {
  const { code, output, errors } = await run(`
    import Fastify from 'fastify'
    import rockstarProxy from ${JSON.stringify(new URL('../../plugins/index.ts', import.meta.url).href)}
    const app = Fastify()
    await app.register(rockstarProxy, { backends: ['http://127.0.0.1:${DEAD}'], health: { minHealthy: 1, readyTimeout: 300 } })
    try {
      await app.listen({ port: 0, host: '127.0.0.1' })
    } catch (error) {
      console.log(error.code)
    }
    await app.close()
  `)
  t.equal(errors, '')
  t.equal(output, 'FST_ROCKSTAR_UNHEALTHY\n')
  t.equal(code, 0)
})

t.test('a process that only checks, and does not listen, ends', async t => {
  const { code } = await run(`
    import Fastify from 'fastify'
    import rockstarProxy from ${JSON.stringify(new URL('../../plugins/index.ts', import.meta.url).href)}
    const app = Fastify()
    await app.register(rockstarProxy, { backends: ['http://127.0.0.1:${DEAD}'], health: { interval: 1_000_000 } })
    await app.ready()
  `)
  t.equal(code, 0, 'timers of checks hold no process up')
})
