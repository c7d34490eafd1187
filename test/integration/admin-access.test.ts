import basicAuth from '@fastify/basic-auth'
import bearerAuth from '@fastify/bearer-auth'
import Fastify, { type FastifyInstance } from 'fastify'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { connect as connectHttp2 } from 'node:http2'
import { connect, type AddressInfo } from 'node:net'
import { networkInterfaces, tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import rockstarProxy from '../../plugins/index.ts'
import type { AdminOptions } from '../../types/index.ts'
import { adminRig, askOf, changesIn, checkAnswers, type Method } from '../helpers/admin.ts'
import { startGateway } from '../helpers/app.ts'
import { Wire } from '../helpers/wire.ts'

const NOWHERE = 'http://127.0.0.1:1'
const JSON_TYPE = { 'content-type': 'application/json' }
const forbidden = (message: string) => ({ statusCode: 403, code: 'FST_ROCKSTAR_ADMIN_FORBIDDEN', error: 'Forbidden', message })
const ONLY_HERE = forbidden('Without hooks that say who may, only this machine may use these routes: set onRequest')
const NO_PROXY = forbidden('Without hooks that say who may, nobody may use these routes through a proxy: set onRequest')
const BAD_HOST = forbidden('These routes are not served under this name: see hosts')
const CROSS_SITE = forbidden('Pages of other websites may not use these routes: see origins')

/** Every route there is, and a body that it takes. */
const ROUTES: [method: Method, path: string, body?: object][] = [
  ['GET', '/status'], ['GET', '/backends'], ['POST', '/backends', { id: 'x', url: NOWHERE }], ['GET', '/backends/a'], ['PUT', '/backends/a', { url: NOWHERE, weight: 9 }], ['PATCH', '/backends/a', { weight: 9 }],
  ['POST', '/backends/a/drain'], ['DELETE', '/backends/a'], ['GET', '/balancer'], ['PUT', '/balancer', { type: 'p2c' }], ['GET', '/breaker'], ['GET', '/breaker/a'], ['POST', '/breaker/a/open'],
  ['POST', '/breaker/a/close'], ['POST', '/breaker/a/reset'], ['GET', '/health'], ['GET', '/health/a'], ['POST', '/health/check'], ['GET', '/metrics'], ['DELETE', '/metrics'], ['GET', '/metrics/prometheus']
]
const PLUGINS: AdminOptions['plugins'] = ['status', 'backends', 'balancer', 'breaker', 'health', 'metrics']

/** All that requests of operators could change. */
function stateOf (app: FastifyInstance): string {
  const { proxy } = app
  return JSON.stringify([proxy.listBackends().map(backend => ({ ...backend.toJSON(), inFlight: 0 })), proxy.getLoadBalancer().type, proxy.getHealthStatus()])
}

const backends = [{ id: 'a', url: NOWHERE }]

t.test('with nobody asked who may, only peers of this machine are served, by their socket', async t => {
  const outside = Object.values(networkInterfaces()).flat().find(address => address?.family === 'IPv4' && !address.internal)?.address
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(rockstarProxy, { backends, breaker: true, health: false, admin: { plugins: PLUGINS } })
  await app.listen({ port: 0, host: '0.0.0.0' })
  const { port } = app.server.address() as AddressInfo
  const ask = async (host: string, path: string, fields = '') => {
    const wire = new Wire(connect({ host, port }))
    t.teardown(() => wire.close())
    return await wire.send(`GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n${fields}\r\n`).response()
  }
  t.equal((await ask('127.0.0.1', '/proxy/status')).status, 200)
  t.equal((await ask('127.9.8.7', '/proxy/status')).status, 200, 'all of 127.0.0.0/8 is this machine')
  if (outside === undefined) t.comment('this machine has no address of its own')
  else {
    const refused = await ask(outside, '/proxy/status')
    t.equal(refused.status, 403)
    t.strictSame(JSON.parse(refused.body), ONLY_HERE)
    t.equal((await ask(outside, '/proxy/status', 'X-Forwarded-For: 127.0.0.1\r\nForwarded: for=127.0.0.1\r\nX-Real-IP: 127.0.0.1\r\n')).status, 403, 'no header makes it another')
  }
  const before = stateOf(app)
  for (const address of ['10.0.0.1', '192.168.1.5', '8.8.8.8', '::ffff:10.0.0.1', '2001:db8::1', 'fe80::1', '0.0.0.0', '128.0.0.1']) {
    for (const [method, path, body] of ROUTES) {
      const answer = await askOf(app)(method, path, body, { 'x-forwarded-for': '127.0.0.1' }, address)
      t.strictSame([answer.statusCode, answer.json()], [403, ONLY_HERE], `${method} ${path} of ${address}`)
    }
  }
  t.equal(stateOf(app), before)
  for (const address of ['127.0.0.1', '127.255.255.254', '::1', '::ffff:127.0.0.1', '::ffff:7f00:1']) t.equal((await askOf(app)('GET', '/status', undefined, {}, address)).statusCode, 200, address)
})

t.test('with trustProxy a header decides on request.ip, and still not here', async t => {
  const rig = await adminRig(t, { backends }, { plugins: PLUGINS }, { fastify: { trustProxy: true } })
  t.strictSame((await rig.ask('GET', '/status', undefined, { 'x-forwarded-for': '127.0.0.1' }, '10.0.0.1')).json(), ONLY_HERE)
})

t.test('what a proxy on this machine has sent on comes from elsewhere', async t => {
  const { ask } = await adminRig(t, { backends }, { plugins: PLUGINS })
  const named = [
    'forwarded', 'via', 'x-real-ip', 'x-client-ip', 'x-cluster-client-ip', 'x-original-forwarded-for', 'x-original-host', 'true-client-ip', 'cf-connecting-ip', 'cf-connecting-ipv6', 'cf-ray', 'cdn-loop',
    'do-connecting-ip', 'fastly-client-ip', 'fly-client-ip', 'x-appengine-user-ip', 'x-azure-clientip', 'x-azure-socketip', 'x-envoy-external-address', 'x-amzn-trace-id', 'x-arr-log-id', 'x-vercel-forwarded-for'
  ]
  const page = readFileSync(join(import.meta.dirname, '../../docs/admin.md'), 'utf8').toLowerCase()
  for (const name of named) t.ok(page.includes(`\`${name}\``), `the page names ${name}`)
  for (const name of [...named, 'x-forwarded-for', 'x-forwarded-host', 'x-forwarded-proto', 'x-forwarded-port', 'x-forwarded-server', 'x-forwarded-anything']) {
    t.strictSame((await ask('GET', '/status', undefined, { [name]: 'x' })).json(), NO_PROXY, name)
  }
})

t.test('by a Unix socket only this machine can come', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'admin-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const path = join(folder, 's')
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(rockstarProxy, { backends, admin: { plugins: PLUGINS } })
  await app.listen({ path })
  const wire = new Wire(connect({ path }))
  t.teardown(() => wire.close())
  t.equal((await wire.send('GET /proxy/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n').response()).status, 200)
})

t.test('a connection that is gone by now has no address, and is of nobody', async t => {
  let arrived = () => {}
  let release = () => {}
  // Whoever logs requests has looked at the address in time.
  const rig = await adminRig(t, { backends }, { plugins: PLUGINS }, {
    fastify: { logger: false },
    before: async app => {
      const gone = new Promise<void>(resolve => { release = resolve })
      app.addHook('onRequest', async request => {
        if (request.headers['x-slow'] === undefined) return
        arrived()
        await gone
      })
      // Of what is refused this hears.
      app.addHook('onError', async (request, _reply, error) => { seen.push([request.socket.remoteAddress, (error as { code?: string }).code]) })
    }
  })
  const seen: unknown[] = []
  const client = await rig.connect()
  const here = new Promise<void>(resolve => { arrived = resolve })
  client.send('DELETE /proxy/backends/a HTTP/1.1\r\nHost: localhost\r\nX-Slow: 1\r\n\r\n')
  await here
  client.reset()
  while (await new Promise<number>((resolve, reject) => rig.app.server.getConnections((error, count) => error === null ? resolve(count) : reject(error))) > 0) await new Promise(resolve => setImmediate(resolve))
  release()
  while (seen.length === 0) await new Promise(resolve => setImmediate(resolve))
  t.strictSame(seen, [[undefined, 'FST_ROCKSTAR_ADMIN_FORBIDDEN']])
  t.strictSame(rig.proxy.listBackends().map(({ id, draining }) => [id, draining]), [['a', false]])
})

t.test('a name that is not expected is refused: no website can make a browser ask by a name of its own', async t => {
  const open = await adminRig(t, { backends }, { plugins: PLUGINS })
  for (const host of ['localhost', 'localhost:8080', 'LOCALHOST', 'app.localhost:1', '127.0.0.1', '127.0.0.1:80', '[::1]:8080', '127.1', '2130706433']) t.equal((await open.ask('GET', '/status', undefined, { host })).statusCode, 200, host)
  for (const host of ['evil.example', 'evil.example:8080', 'localhost.evil.example', 'evillocalhost', '10.0.0.1', 'evil@localhost', 'localhost/x', 'localhost?', 'localhost#', 'localhost:80:80', 'a b', '0.0.0.0', '[::]']) {
    for (const [method, path, body] of ROUTES.slice(0, 3)) t.strictSame((await open.ask(method, path, body, { host })).json(), BAD_HOST, `${method} ${path} ${host}`)
  }
  const client = await open.connect()
  t.strictSame(JSON.parse((await client.send('GET /proxy/status HTTP/1.1\r\nHost:\r\n\r\n').response()).body), BAD_HOST, 'none')
  const named = await adminRig(t, { backends }, { plugins: PLUGINS, hosts: ['Ops.example', 'bücher.example', '10.0.0.7', '::1'] })
  for (const host of ['ops.example', 'ops.example:8080', 'xn--bcher-kva.example', '10.0.0.7:1', '[::1]']) t.equal((await named.ask('GET', '/status', undefined, { host })).statusCode, 200, host)
  t.strictSame((await named.ask('GET', '/status', undefined, { host: 'localhost' })).json(), BAD_HOST, 'and no other, then')
  const guarded = await adminRig(t, { backends }, { plugins: PLUGINS, onRequest: async () => {}, hosts: ['ops.example'] })
  t.strictSame((await guarded.ask('GET', '/status', undefined, { host: 'evil.example' })).json(), BAD_HOST, 'also where hooks say who may')
  for (const hosts of [['ops.example:80'], ['http://ops.example'], ['a b'], ['']]) {
    await t.rejects(adminRig(t, {}, { hosts }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /hosts\[0\] must be/ })
  }
})

t.test('pages of other websites are refused, as a browser sends their requests', async t => {
  const rig = await adminRig(t, { backends }, { plugins: PLUGINS })
  const before = stateOf(rig.app)
  const site = { origin: 'https://evil.example', 'user-agent': 'Mozilla/5.0' }
  const pages: [what: string, headers: Record<string, string>][] = [
    ['fetch', { ...site, 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'cors', 'sec-fetch-dest': 'empty' }],
    ['fetch of an old browser', site],
    ['a subdomain', { origin: 'http://evil.localhost:8080', 'sec-fetch-site': 'same-site' }],
    ['another port of the same machine', { origin: 'http://localhost:3000', 'sec-fetch-site': 'same-site' }],
    ['another port, in an old browser', { origin: 'http://localhost:3000' }],
    ['a frame without an origin', { origin: 'null', 'sec-fetch-site': 'cross-site' }],
    ['a form without an origin', { origin: 'null' }],
    ['a link, an image or a script', { 'sec-fetch-site': 'cross-site', 'sec-fetch-mode': 'no-cors', 'sec-fetch-dest': 'image' }],
    ['an origin that is none', { origin: 'localhost:8080' }]
  ]
  for (const [what, headers] of pages) {
    for (const [method, path, body] of ROUTES) t.strictSame((await rig.ask(method, path, body, headers)).json(), CROSS_SITE, `${what}: ${method} ${path}`)
  }
  t.equal(stateOf(rig.app), before)
  t.equal((await rig.ask('GET', '/status', undefined, { 'sec-fetch-site': 'none' })).statusCode, 200, 'somebody has typed it in')
  t.equal((await rig.ask('PATCH', '/backends/a', { weight: 2 }, { 'sec-fetch-site': 'same-origin', origin: 'http://localhost:8080' })).statusCode, 200, 'a page of its own')
})

t.test('websites that are listed may', async t => {
  const rig = await adminRig(t, { backends }, { plugins: PLUGINS, origins: ['https://Console.example/'] })
  const page = { origin: 'https://console.example', 'sec-fetch-site': 'cross-site' }
  t.equal((await rig.ask('PATCH', '/backends/a', { weight: 2 }, page)).statusCode, 200)
  for (const origin of ['https://console.example:444', 'http://console.example', 'https://console.example.evil.example', 'null']) t.strictSame((await rig.ask('GET', '/status', undefined, { ...page, origin })).json(), CROSS_SITE, origin)
  t.strictSame((await rig.ask('GET', '/status', undefined, { 'sec-fetch-site': 'cross-site' })).json(), CROSS_SITE, 'who does not say where it comes from')
  for (const origins of [['console.example'], ['*'], ['null'], ['https://a.example/path']]) await t.rejects(adminRig(t, {}, { origins }), { message: /origins\[0\] must be an origin such as/ })
})

t.test('changes are taken as JSON only', async t => {
  const rig = await adminRig(t, { backends }, { plugins: PLUGINS })
  const before = stateOf(rig.app)
  const body = JSON.stringify({ id: 'b', url: NOWHERE })
  const notJson = { statusCode: 415, code: 'FST_ROCKSTAR_ADMIN_NOT_JSON', error: 'Unsupported Media Type', message: 'Changes are taken as application/json only' }
  for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data; boundary=x', 'application/jsonp', 'text/plain; application/json', 'application/json+x', 'x', '']) {
    for (const [method, path] of ROUTES.filter(([method]) => method !== 'GET')) {
      t.strictSame((await rig.ask(method, path, body, { 'content-type': type })).json(), notJson, `${method} ${path} ${type}`)
    }
  }
  t.strictSame((await rig.ask('POST', '/backends/a/drain', '', { 'content-type': 'text/plain' })).json(), notJson, 'also where there is nothing in it')
  t.equal(stateOf(rig.app), before)
  t.equal((await rig.ask('POST', '/backends', body, { 'content-type': 'application/json; charset=utf-8' })).statusCode, 201)
  t.equal((await rig.ask('POST', '/backends/a/drain', '', JSON_TYPE)).statusCode, 200, 'JSON with nothing in it')
  t.equal((await rig.ask('DELETE', '/backends/b', '', JSON_TYPE)).statusCode, 200)
  t.match((await rig.ask('POST', '/breaker/a/reset', { x: 1 })).json(), { statusCode: 400, message: 'body.x is not an option' }, 'nothing is wanted, and something is there')
  t.match((await rig.ask('DELETE', '/backends/a', { drain: false })).json(), { statusCode: 400, message: 'body.drain is not an option' })
})

t.test('over HTTP/2 too: what has no type is no JSON', async t => {
  const app = Fastify({ http2: true })
  t.teardown(() => app.close())
  await app.register(rockstarProxy, { backends, breaker: true, health: false, admin: { plugins: PLUGINS } } as never)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const session = connectHttp2(`http://127.0.0.1:${(app.server.address() as AddressInfo).port}`)
  t.teardown(() => session.destroy())
  const ask = async (method: string, path: string, body?: string, headers = {}) => await new Promise<number>((resolve, reject) => {
    const stream = session.request({ ':method': method, ':path': `/proxy${path}`, ...headers }, { endStream: body === undefined })
    stream.on('response', ({ ':status': status }) => resolve(status as number)).on('error', reject).resume()
    if (body !== undefined) stream.end(body)
  })
  const before = stateOf(app as never)
  for (const [method, path, body] of ROUTES.filter(([method]) => method !== 'GET')) t.equal(await ask(method, path, JSON.stringify(body ?? {})), 415, `${method} ${path}`)
  t.equal(stateOf(app as never), before)
  t.equal(await ask('POST', '/breaker/a/open'), 200, 'no body needs no type')
  t.equal(await ask('POST', '/backends/a/drain', '{"timeout":5}', JSON_TYPE), 200)
})

t.test('what the application does with bodies of its own does not matter', async t => {
  const rig = await adminRig(t, { backends }, { plugins: PLUGINS }, {
    before: app => {
      app.removeAllContentTypeParsers()
      app.addContentTypeParser('*', (_request, payload, done) => done(null, payload))
      app.setValidatorCompiler(() => () => { throw new Error('not mine') })
      app.setSerializerCompiler(() => () => 'not mine')
    }
  })
  t.equal((await rig.ask('PATCH', '/backends/a', { weight: 2 })).json().weight, 2)
  t.equal((await rig.ask('PATCH', '/backends/a', { weight: -2 })).statusCode, 400)
})

/** Every route with, without and with wrong credentials. */
async function tryAll (t: Test, app: FastifyInstance, good: Record<string, string>, wrong: Record<string, string>, prefix = '/proxy'): Promise<void> {
  const ask = askOf(app, prefix)
  const before = stateOf(app)
  for (const [method, path, body] of ROUTES) {
    t.equal((await ask(method, path, body, {}, '10.0.0.1')).statusCode, 401, `${method} ${path} without`)
    t.equal((await ask(method, path, body, {})).statusCode, 401, `${method} ${path} without, from this machine`)
    t.equal((await ask(method, path, body, wrong, '10.0.0.1')).statusCode, 401, `${method} ${path} with wrong ones`)
  }
  t.equal(stateOf(app), before, 'what is refused changes nothing')
  for (const [method, path, body] of ROUTES.filter(([method]) => method !== 'DELETE')) {
    const { statusCode } = await ask(method, path, body, { ...good, host: 'ops.example' }, '10.0.0.1')
    t.equal(statusCode, path === '/health/check' ? 503 : path === '/backends' && method === 'POST' ? 201 : 200, `${method} ${path} with`)
  }
  t.equal((await ask('DELETE', '/backends/a', undefined, { ...good, host: 'ops.example' }, '10.0.0.1')).statusCode, 200)
  t.strictSame((await ask('GET', '/status', undefined, { ...good, origin: 'https://evil.example' }, '10.0.0.1')).json(), CROSS_SITE, 'pages of other websites are refused all the same')
}

t.test('@fastify/bearer-auth', async t => {
  const { app } = await startGateway(t, {}, {
    before: async app => {
      checkAnswers(t, app)
      await app.register(bearerAuth, { keys: new Set(['s3cret']), addHook: false })
    },
    setup: async app => {
      await app.register((await import('../../plugins/admin.ts')).default, { plugins: PLUGINS, onRequest: app.verifyBearerAuth })
      app.proxy.addBackend(backends[0])
      app.proxy.setCircuitBreaker(true)
    }
  })
  await tryAll(t, app, { authorization: 'Bearer s3cret' }, { authorization: 'Bearer wrong' })
})

t.test('@fastify/basic-auth', async t => {
  const basic = (text: string) => `Basic ${Buffer.from(text).toString('base64')}`
  const rig = await startGateway(t, {}, {
    before: async app => {
      checkAnswers(t, app)
      await app.register(basicAuth, {
        validate: async (username, password) => { if (username !== 'ops' || password !== 's3cret') throw Object.assign(new Error('no'), { statusCode: 401 }) },
        authenticate: { realm: 'ops' }
      })
    },
    setup: async app => {
      await app.register((await import('../../plugins/admin.ts')).default, {
        plugins: PLUGINS,
        onRequest: app.basicAuth,
        who: request => Buffer.from((request.headers.authorization ?? '').slice(6), 'base64').toString().split(':')[0]
      })
      app.proxy.addBackend(backends[0])
      app.proxy.setCircuitBreaker(true)
    }
  })
  t.equal((await askOf(rig.app)('GET', '/status')).headers['www-authenticate'], 'Basic realm="ops", charset="UTF-8"')
  await tryAll(t, rig.app, { authorization: basic('ops:s3cret') }, { authorization: basic('ops:wrong') })
  t.ok(changesIn(rig).length > 5)
  for (const change of changesIn(rig)) t.equal(change.who, 'ops')
})

t.test('who may read and who may change can be others', async t => {
  const needs = (role: string) => async (request: { headers: Record<string, unknown> }) => {
    if (!String(request.headers['x-role']).split(',').includes(role)) throw Object.assign(new Error(`wants ${role}`), { statusCode: 403, code: 'NO_ROLE' })
  }
  const order: string[] = []
  const rig = await adminRig(t, { backends, breaker: true }, {
    plugins: PLUGINS,
    onRequest: [(_request, _reply, done) => { order.push('first'); done() }, needs('read') as never],
    onChange: [async () => { order.push('change') }, needs('write') as never]
  })
  const before = stateOf(rig.app)
  for (const [method, path, body] of ROUTES) {
    t.match((await rig.ask(method, path, body)).json(), { statusCode: 403, code: 'NO_ROLE', message: 'wants read' }, `${method} ${path} of nobody`)
    t.match((await rig.ask(method, path, body, { 'x-role': 'write' })).json(), { message: 'wants read' }, 'whoever may change only')
    const reader = await rig.ask(method, path, body, { 'x-role': 'read' })
    if (method === 'GET') t.equal(reader.statusCode, 200, `${method} ${path} of a reader`)
    else t.match(reader.json(), { statusCode: 403, message: 'wants write' }, `${method} ${path} of a reader`)
  }
  t.equal(stateOf(rig.app), before)
  order.length = 0
  t.equal((await rig.ask('PATCH', '/backends/a', { weight: 2 }, { 'x-role': 'read,write' })).statusCode, 200)
  t.strictSame(order, ['first', 'change'])
  const local = await adminRig(t, { backends }, { plugins: PLUGINS, onChange: needs('write') as never })
  t.equal((await local.ask('GET', '/status')).statusCode, 200)
  t.strictSame((await local.ask('GET', '/status', undefined, {}, '10.0.0.1')).json(), ONLY_HERE, 'reading is for this machine then')
  t.match((await local.ask('DELETE', '/backends/a')).json(), { message: 'wants write' })
  const empty = await adminRig(t, { backends }, { plugins: PLUGINS, onRequest: [] })
  t.strictSame((await empty.ask('GET', '/status', undefined, {}, '10.0.0.1')).json(), ONLY_HERE, 'no hooks are none')
})

t.test('whoever cannot be named does not keep a change from being logged', async t => {
  const rig = await adminRig(t, { backends }, { plugins: PLUGINS, who: () => { throw new Error('who knows') } })
  t.equal((await rig.ask('PATCH', '/backends/a', { weight: 2 })).statusCode, 200)
  t.match(changesIn(rig), [{ who: '127.0.0.1', err: { message: 'who knows' } }])
  const named = await adminRig(t, { backends }, { plugins: PLUGINS, who: request => String(request.headers['x-user']) })
  await named.ask('PATCH', '/backends/a', { weight: 2 }, { 'x-user': 'ann\n{"level":60}' })
  t.strictSame(changesIn(named).map(({ who }) => who), ['ann\n{"level":60}'], 'on one line, whatever the name')
})

t.test('nothing is there unless it is asked for', async t => {
  for (const admin of [undefined, false] as const) {
    const { app } = await startGateway(t, { backends, ...(admin === undefined ? {} : { admin }) })
    for (const [method, path, body] of ROUTES) t.equal((await askOf(app)(method, path, body)).statusCode, 404, `${method} ${path}`)
  }
})
