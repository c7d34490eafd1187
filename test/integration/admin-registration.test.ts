import swagger from '@fastify/swagger'
import Fastify, { type FastifyInstance } from 'fastify'
import type { AddressInfo } from 'node:net'
import t from 'tap'
import admin from '../../plugins/admin.ts'
import backends from '../../plugins/backends.ts'
import balancer from '../../plugins/balancer.ts'
import breaker from '../../plugins/breaker.ts'
import health from '../../plugins/health.ts'
import rockstarProxy from '../../plugins/index.ts'
import status from '../../plugins/status.ts'
import type { AdminOptions } from '../../types/index.ts'
import { adminRig, askOf, checkAnswers } from '../helpers/admin.ts'
import { startGateway } from '../helpers/app.ts'

const NOWHERE = 'http://127.0.0.1:1'
const PLUGINS: AdminOptions['plugins'] = ['status', 'backends', 'balancer', 'breaker', 'health', 'metrics']

t.test('each sub-plugin works alone, below a prefix of its own', async t => {
  const { app } = await startGateway(t, { backends: [{ id: 'a', url: NOWHERE }] }, {
    before: app => checkAnswers(t, app),
    setup: async app => {
      for (const [name, plugin] of Object.entries({ status, backends, balancer, breaker, health })) await app.register(plugin, { prefix: `/ops/${name}` })
      await app.register(backends)
    }
  })
  for (const name of ['status', 'backends', 'balancer', 'breaker', 'health']) t.equal((await askOf(app, `/ops/${name}`)('GET', `/${name}`)).statusCode, 200, name)
  t.equal((await askOf(app, '')('GET', '/backends')).statusCode, 200, 'without a prefix too')
  t.equal((await askOf(app, '/ops/status')('GET', '/backends')).statusCode, 404)
  const added = await askOf(app, '/ops/backends')('POST', '/backends', { id: 'b', url: NOWHERE })
  t.equal(added.headers.location, '/ops/backends/backends/b')
})

t.test('the option admin: where, which, and how loud', async t => {
  const rig = await adminRig(t, {}, { prefix: '/', plugins: ['status', 'status'] })
  t.equal((await askOf(rig.app, '')('GET', '/status')).statusCode, 200)
  t.equal((await askOf(rig.app, '')('GET', '/backends')).statusCode, 404)
  const deep = await adminRig(t, {}, { prefix: '/a/b/', plugins: ['status'], logLevel: 'error' })
  const lines = deep.log.length
  t.equal((await askOf(deep.app, '/a/b')('GET', '/status')).statusCode, 200)
  t.equal(deep.log.length, lines, 'nothing is logged of reading')
  const quiet = await adminRig(t, {}, { plugins: ['backends'], logLevel: 'silent' })
  await quiet.ask('POST', '/backends', { url: NOWHERE })
  t.match(quiet.log.filter(({ msg }) => msg === 'changed by an operator'), [{ action: 'add backend' }], 'but of changes it is')
  for (const [given, message] of [
    [{ plugins: ['statsu'] }, /^options.admin.plugins\[0\] must be 'status', 'backends'/], [{ prefix: 'x' }, /^options.admin.prefix must be/], [{ prefx: '/x' }, "options.admin.prefx is not an option; did you mean 'prefix'?"],
    ['yes', 'options.admin must be a boolean or an object of options, and is \'yes\''], [{ onRequest: 'x' }, /^options.admin.onRequest must be a hook function/], [{ who: 1 }, /^options.admin.who must be a function/], [{ hide: 'x' }, /^options.admin.hide/]
  ] as const) await t.rejects(adminRig(t, {}, given as AdminOptions), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message })
})

t.test('where there is no proxy, a sub-plugin says so', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await t.rejects(async () => await app.register(status), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: 'rockstar-proxy/status must be registered where rockstar-proxy is, or below, or be given its option proxy: app.proxy of another app' })
  const other = Fastify()
  t.teardown(() => other.close())
  await t.rejects(async () => await other.register(admin, { proxy: {} as never }), { message: /^options of rockstar-proxy\/admin.proxy.upstream must be a function/i })
  await t.rejects(startGateway(t, {}, { setup: async app => { await app.register(status, { prefx: 'x' } as never) } }), { message: "options of rockstar-proxy/status.prefx is not an option; did you mean 'prefix'?" })
})

t.test('what an app registers itself comes first, before and after the option', async t => {
  let asked = 0
  const onRequest = async () => { asked++; throw Object.assign(new Error('mine'), { statusCode: 401 }) }
  const { app } = await startGateway(t, { backends: [{ id: 'a', url: NOWHERE }], admin: { plugins: PLUGINS } }, {
    setup: async app => {
      await app.register(backends, { prefix: '/proxy', onRequest })
      await app.register(async scope => {
        scope.addHook('onRequest', async (_request, reply) => { reply.header('x-mine', 'yes') })
        await scope.register(status, { prefix: '/proxy' })
      })
    }
  })
  const ask = askOf(app)
  for (const [method, path, body] of [['GET', '/backends'], ['HEAD', '/backends'], ['POST', '/backends', { url: NOWHERE }], ['GET', '/backends/a'], ['PATCH', '/backends/a', { weight: 2 }], ['DELETE', '/backends/a']] as const) {
    const before = asked
    t.equal((await ask(method, path, body)).statusCode, 401, `${method} ${path}`)
    t.equal(asked, before + 1)
    t.equal((await ask(method, path, body, { host: '127.0.0.1' })).statusCode, 401, 'by whatever name')
  }
  t.strictSame(app.proxy.listBackends().map(({ id, weight }) => [id, weight]), [['a', 1]])
  const own = await ask('GET', '/status')
  t.match([own.statusCode, own.headers['x-mine']], [200, 'yes'], 'with the hooks of its scope')
  t.equal((await ask('GET', '/health')).statusCode, 200, 'the others are as the option has them')
  const first = await startGateway(t, { admin: { plugins: PLUGINS } }, { before: app => { app.get('/proxy/status', async () => 'mine') } })
  t.equal((await askOf(first.app)('GET', '/status')).body, 'mine', 'a route that was there before')
  t.equal((await askOf(first.app)('GET', '/backends')).statusCode, 200)
})

t.test('a request without a name does not get round what an app has registered itself', async t => {
  const gateway = await startGateway(t, { backends: [{ id: 'a', url: NOWHERE }], admin: { plugins: PLUGINS, onRequest: async () => {} } }, {
    setup: async app => { await app.register(backends, { prefix: '/proxy', onRequest: async () => { throw Object.assign(new Error('mine'), { statusCode: 401 }) } }) }
  })
  for (const [method, path, body] of [['GET', '/backends'], ['HEAD', '/backends'], ['GET', '/backends/a'], ['PATCH', '/backends/a', '{"weight":7}'], ['POST', '/backends/a/drain', '{}'], ['DELETE', '/backends/a']] as const) {
    const content = body === undefined ? '' : `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n`
    for (const [version, host, status] of [['1.0', '', 403], ['1.1', 'Host:\r\n', 403], ['1.1', 'Host: x\r\n', 401]] as const) {
      const client = await gateway.connect()
      const answer = await client.send(`${method} /proxy${path} HTTP/${version}\r\n${host}Connection: close\r\n${content}\r\n${body ?? ''}`).response(0, method)
      t.equal(answer.status, status, `${method} ${path} HTTP/${version} ${host}`)
    }
  }
  t.strictSame(gateway.app.proxy.listBackends().map(({ id, weight, draining, isActive }) => [id, weight, draining, isActive]), [['a', 1, false, true]])
  const client = await gateway.connect()
  t.equal((await client.send('GET /proxy/status HTTP/1.0\r\n\r\n').response()).status, 200, 'the others answer all the same')
})

t.test('routes of one proxy do not hide those of another', async t => {
  const clash = async (first: (scope: FastifyInstance) => unknown, second: (scope: FastifyInstance) => unknown) => {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(async scope => { await first(scope) })
    await app.register(async scope => { await second(scope) })
  }
  const mount = (scope: FastifyInstance) => scope.register(rockstarProxy, { admin: { plugins: ['backends'] } })
  const own = async (scope: FastifyInstance) => {
    await scope.register(rockstarProxy)
    await scope.register(backends, { prefix: '/proxy' })
  }
  const whole = async (scope: FastifyInstance) => {
    await scope.register(rockstarProxy)
    await scope.register(admin, { prefix: '/proxy', plugins: ['backends'] })
  }
  const message = (path: string) => `${path}.prefix must be one of its own for each registration, and /proxy/backends is there already`
  const code = 'FST_ROCKSTAR_INVALID_OPTIONS'
  await t.rejects(clash(mount, own), { code, message: message('options of rockstar-proxy/backends') })
  await t.rejects(clash(own, mount), { code, message: message('options.admin') })
  await t.rejects(clash(own, own), { code, message: message('options of rockstar-proxy/backends') })
  await t.rejects(clash(mount, whole), { code, message: message('options of rockstar-proxy/admin') })
})

t.test('errors of options say where the options are', async t => {
  const bad = [[{ hosts: ['a:1'] }, '.hosts[0] must be the name of a host'], [{ origins: ['x'] }, '.origins[0] must be an origin'], [{ allowBackends: ['10.0.0.0/33'] }, '.allowBackends[0] must be']] as const
  for (const [given, words] of bad) {
    const starts = (path: string) => ({ code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: new RegExp(`^${(path + words).replaceAll(/[.[\]]/g, '\\$&')}`) })
    await t.rejects(adminRig(t, {}, given as unknown as AdminOptions), starts('options.admin'))
    await t.rejects(startGateway(t, {}, { setup: async app => { await app.register(admin, given as never) } }), starts('options of rockstar-proxy/admin'))
    await t.rejects(startGateway(t, {}, { setup: async app => { await app.register(backends, given as never) } }), starts('options of rockstar-proxy/backends'))
  }
})

t.test('levels of the log are those that there are', async t => {
  const message = (path: string) => ({ code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: `${path}.logLevel must be one of 'fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent', and is 'bogus'` })
  await t.rejects(adminRig(t, {}, { logLevel: 'bogus' as never }), message('options.admin'))
  await t.rejects(startGateway(t, {}, { setup: async app => { await app.register(status, { logLevel: 'bogus' as never }) } }), message('options of rockstar-proxy/status'))
  await t.rejects(startGateway(t, { routes: [{ logLevel: 'bogus' as never }] }), message('options.routes[0]'))
  for (const logLevel of ['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'] as const) await t.resolves(adminRig(t, { routes: [{ prefix: '/x', logLevel }] }, { plugins: ['status'], logLevel }))
})

t.test('below a prefix with parameters', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  checkAnswers(t, app)
  await app.register(swagger, { openapi: { info: { title: 'x', version: '1' } } })
  await app.register(async scope => {
    await scope.register(rockstarProxy, { health: false, breaker: true, admin: { plugins: PLUGINS } })
  }, { prefix: '/t/:tenant' })
  const ask = askOf(app, '/t/a%20b/proxy')
  const added = await ask('POST', '/backends', { id: 'a', url: NOWHERE })
  t.equal(added.statusCode, 201, added.body)
  t.equal(added.headers.location, '/t/a%20b/proxy/backends/a')
  t.equal((await askOf(app, '')('GET', added.headers.location as string)).json().id, 'a')
  t.equal((await ask('PUT', '/backends/x%2Fy', { url: NOWHERE })).headers.location, '/t/a%20b/proxy/backends/x%2Fy')
  for (const [method, path, body] of [['GET', '/backends/a'], ['PATCH', '/backends/a', { weight: 2 }], ['PUT', '/backends/a', { url: NOWHERE }], ['GET', '/breaker/a'], ['POST', '/breaker/a/open'], ['GET', '/health/a'], ['POST', '/backends/a/drain'], ['DELETE', '/backends/a']] as const) {
    const answer = await ask(method, path, body)
    t.equal(answer.statusCode, 200, `${method} ${path} ${answer.body}`)
  }
  const { paths = {} } = app.swagger() as { paths?: Record<string, any> }
  t.strictSame(paths['/t/{tenant}/proxy/backends/{id}'].get.parameters.filter((one: any) => one.in === 'path').map((one: any) => one.name).sort(), ['id', 'tenant'])
})

t.test('Location is where the backend is, whatever the prefix', async t => {
  for (const prefix of ['/', '/ops/', '/ops']) {
    const base = prefix.replace(/\/$/, '')
    const { app } = await adminRig(t, {}, { prefix, plugins: ['backends'] })
    const ask = askOf(app, base)
    t.equal((await ask('POST', '/backends?upstream=default', { id: 'x', url: NOWHERE })).headers.location, `${base}/backends/x`, prefix)
    t.equal((await ask('PUT', '/backends/y', { url: NOWHERE })).headers.location, `${base}/backends/y`, prefix)
  }
  const loose = await adminRig(t, {}, { prefix: '/ops', plugins: ['backends'] }, { fastify: { routerOptions: { ignoreTrailingSlash: true, ignoreDuplicateSlashes: true } } })
  t.equal((await askOf(loose.app, '//ops')('POST', '/backends/', { id: 'x', url: NOWHERE })).headers.location, '/ops/backends/x')
  const client = await loose.connect()
  const body = JSON.stringify({ id: 'z', url: NOWHERE })
  const answer = await client.send(`POST http://localhost/ops/backends HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`).response()
  t.strictSame([answer.status, answer.values('location')], [201, ['/ops/backends/z']])
})

t.test('several registrations: each is about the proxy of its scope', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  checkAnswers(t, app)
  const scopes: Record<string, FastifyInstance> = {}
  for (const name of ['one', 'two']) {
    await app.register(async scope => {
      scopes[name] = scope
      await scope.register(rockstarProxy, { backends: [{ id: name, url: NOWHERE }], health: false, admin: { plugins: PLUGINS } })
      await scope.register(async inner => { await inner.register(backends, { prefix: '/inner' }) })
    }, { prefix: `/${name}` })
  }
  await app.ready()
  for (const name of ['one', 'two']) {
    t.strictSame((await askOf(app, `/${name}/proxy`)('GET', '/backends')).json().backends.map(({ id }: { id: string }) => id), [name])
    t.strictSame((await askOf(app, `/${name}/inner`)('GET', '/backends')).json().backends.map(({ id }: { id: string }) => id), [name])
  }
  await askOf(app, '/one/proxy')('POST', '/backends', { id: 'new', url: NOWHERE })
  t.strictSame([scopes.one.proxy.listBackends().length, scopes.two.proxy.listBackends().length], [2, 1])
  const clash = Fastify()
  t.teardown(() => clash.close())
  await clash.register(async scope => { await scope.register(rockstarProxy, { admin: { plugins: ['status'] } }) })
  await t.rejects(async () => await clash.register(async scope => { await scope.register(rockstarProxy, { admin: { plugins: ['status'] } }) }), {
    code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: 'options.admin.prefix must be one of its own for each registration, and /proxy/status is there already'
  })
})

t.test('a port of their own: a second app that is given the proxy', async t => {
  const gateway = await startGateway(t, { backends: [{ id: 'a', url: NOWHERE }], routes: [{ prefix: '/' }] })
  const ops = Fastify()
  t.teardown(() => ops.close())
  checkAnswers(t, ops)
  await ops.register(admin, { proxy: gateway.app.proxy, plugins: PLUGINS })
  await ops.register(admin, { proxy: gateway.app.proxy, plugins: ['status'], prefix: '/other' })
  await ops.register(status, { proxy: gateway.app.proxy })
  await ops.listen({ port: 0, host: '127.0.0.1' })
  const url = `http://127.0.0.1:${(ops.server.address() as AddressInfo).port}`
  const response = await fetch(`${url}/proxy/backends/a`, { method: 'PATCH', headers: { 'content-type': 'application/json', connection: 'close' }, body: '{"weight":7}' })
  t.equal(response.status, 200)
  t.match(await response.json(), { id: 'a', weight: 7 })
  t.equal(gateway.app.proxy.getBackend('a').weight, 7)
  for (const path of ['/other/status', '/status']) t.equal((await fetch(url + path, { headers: { connection: 'close' } })).status, 200, path)
  t.not((await fetch(`${gateway.url}/proxy/backends`, { headers: { connection: 'close' } })).status, 200, 'and not on the other')
})

t.test('@fastify/swagger documents all of it', async t => {
  for (const [name, openapi] of [['OpenAPI', { openapi: { openapi: '3.1.0', info: { title: 'x', version: '1' } } }], ['Swagger', { swagger: { info: { title: 'x', version: '1' } } }]] as const) {
    const app = Fastify()
    t.teardown(() => app.close())
    await app.register(swagger, openapi)
    await app.register(rockstarProxy, { admin: { plugins: PLUGINS } })
    await app.register(admin, { prefix: '/hidden', plugins: PLUGINS, hide: true })
    await app.register(admin, { prefix: '/again', plugins: PLUGINS })
    await app.ready()
    const document = app.swagger() as unknown as { paths: Record<string, Record<string, Record<string, any>>> }
    const operations = Object.entries(document.paths).flatMap(([path, methods]) => Object.entries(methods).map(([method, operation]): Record<string, any> => ({ path, method, ...operation })))
    t.strictSame(Object.keys(document.paths).filter(path => path.startsWith('/proxy')).sort(), [
      '/proxy/backends', '/proxy/backends/{id}', '/proxy/backends/{id}/drain', '/proxy/balancer', '/proxy/breaker', '/proxy/breaker/{id}', '/proxy/breaker/{id}/close', '/proxy/breaker/{id}/open', '/proxy/breaker/{id}/reset',
      '/proxy/health', '/proxy/health/check', '/proxy/health/{id}', '/proxy/metrics', '/proxy/metrics/prometheus', '/proxy/status'
    ], name)
    t.notOk(Object.keys(document.paths).some(path => path.startsWith('/hidden')), 'what is hidden is not there')
    t.equal(new Set(operations.map(({ operationId }) => operationId)).size, operations.length, 'each operation has a name of its own')
    for (const { path, method, tags, summary, description, parameters, requestBody, responses } of operations) {
      const at = `${name} ${method} ${path}`
      t.match(tags, [/^proxy \w+$/], at)
      t.match([summary, description], [/^\S.{5,}/, /^\S.{5,}/], at)
      t.ok(Object.keys(responses).some(status => /^20\d$/.test(status)) && (name === 'Swagger' || Object.keys(responses).some(status => /^4xx$/i.test(status))), `${at}: what it answers`)
      if (path.includes('{id}')) t.ok(parameters.some((one: any) => one.name === 'id' && one.in === 'path' && one.required === true), `${at}: id`)
      if (!path.endsWith('/prometheus')) t.ok(parameters?.some((one: any) => one.name === 'upstream' && one.in === 'query'), `${at}: upstream`)
      if (name === 'OpenAPI' && ['put', 'patch'].includes(method)) t.match(JSON.stringify(requestBody), /"example/, `${at}: an example`)
    }
    t.notMatch(JSON.stringify(document), /"(?:expected|signature)":|"type":"(?:Function|Uint8Array|Constructor|undefined)"/, 'no word that JSON Schema does not have')
  }
})
