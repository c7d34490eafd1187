import Fastify from 'fastify'
import t from 'tap'
import type { Test } from 'tap'
import rockstarProxy from '../../plugins/index.ts'
import * as module from '../../plugins/routes.ts'
import routes from '../../plugins/routes.ts'
import type { RockstarProxyOptions } from '../../types/index.ts'
import { startGateway } from '../helpers/app.ts'
import { ok, rawBackend } from '../helpers/wire.ts'

/** An app with the root plugin, in front of a backend that answers with what it was asked. */
async function setup (t: Test, options: RockstarProxyOptions = {}, fastify = {}) {
  const backend = await rawBackend(t, request => ok(`${request.startLine.replace(' HTTP/1.1', '')}${request.body === '' ? '' : ` ${request.body}`}`))
  const app = Fastify(fastify)
  t.teardown(() => app.close())
  await app.register(rockstarProxy, { backends: [backend.url], shutdownTimeout: 0, ...options })
  return { app, backend }
}

t.test('the default export is the plugin function, which require() gives too', t => {
  t.type(routes, 'function')
  t.equal((module as Record<string, unknown>)['module.exports'], routes)
  t.equal(module.routes, routes)
  t.end()
})

t.test('it is registered alone, with its prefix', async t => {
  const { app } = await setup(t)
  await app.register(routes, { prefix: '/api' })
  t.equal((await app.inject('/api/a/b?c')).body, 'GET /a/b?c')
  t.equal((await app.inject('/api')).body, 'GET /')
  t.equal((await app.inject('/api/')).body, 'GET /')
  t.equal((await app.inject('/other')).statusCode, 404)
})

t.test('it needs no options, and then forwards everything', async t => {
  const { app } = await setup(t)
  await app.register(routes)
  t.equal((await app.inject('/')).body, 'GET /')
  t.equal((await app.inject('/a/b')).body, 'GET /a/b')
  t.equal((await app.inject({ method: 'POST', url: '/a', headers: { 'content-type': 'text/x' }, payload: 'body' })).body, 'POST /a body')
})

t.test('it may be registered many times, with options of its own each time', async t => {
  const other = await rawBackend(t, () => ok('other'))
  const { app } = await setup(t, { upstreams: { other: { backends: [other.url] } } })
  await app.register(routes, { prefix: '/one' })
  await app.register(routes, { prefix: '/two', rewritePrefix: '/zwei' })
  await app.register(routes, { prefix: '/three', upstream: 'other' })
  t.equal((await app.inject('/one/x')).body, 'GET /x')
  t.equal((await app.inject('/two/x')).body, 'GET /zwei/x')
  t.equal((await app.inject('/three/x')).body, 'other')
})

t.test('without the root plugin it is an error that names what is missing', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await t.rejects(async () => await app.register(routes, { prefix: '/api' }), { message: /rockstar-proxy/ })
})

t.test('in a scope, the prefix of the scope comes first', async t => {
  const { app } = await setup(t)
  await app.register(async scope => {
    await scope.register(routes, { prefix: '/api' })
  }, { prefix: '/v1' })
  t.equal((await app.inject('/v1/api/x')).body, 'GET /x', 'and both are taken off')
})

t.test('it uses the proxy of its scope', async t => {
  const other = await rawBackend(t, () => ok('inner'))
  const { app } = await setup(t)
  await app.register(async scope => {
    await scope.register(rockstarProxy, { backends: [other.url] })
    await scope.register(routes, { prefix: '/inner' })
  })
  await app.register(routes, { prefix: '/outer' })
  t.equal((await app.inject('/inner/x')).body, 'inner')
  t.equal((await app.inject('/outer/x')).body, 'GET /x')
})

t.test('the scope around it keeps its parsers, before and after', async t => {
  const { app } = await setup(t)
  app.addContentTypeParser('application/own', { parseAs: 'string' }, (_request, body, done) => done(null, `own ${body}`))
  app.post('/before', async request => ({ parsed: request.body }))
  await app.register(routes, { prefix: '/api' })
  app.post('/after', async request => ({ parsed: request.body }))
  for (const url of ['/before', '/after']) {
    t.strictSame((await app.inject({ method: 'POST', url, payload: { a: 1 } })).json(), { parsed: { a: 1 } }, url)
    t.strictSame((await app.inject({ method: 'POST', url, headers: { 'content-type': 'application/own' }, payload: 'x' })).json(), { parsed: 'own x' }, url)
    t.equal((await app.inject({ method: 'POST', url, headers: { 'content-type': 'application/unknown' }, payload: 'x' })).statusCode, 415, url)
    t.equal((await app.inject({ method: 'POST', url, headers: { 'content-type': 'application/json' }, payload: '{bad' })).statusCode, 400, url)
  }
  for (const type of ['application/json', 'application/own', 'application/unknown']) {
    t.equal((await app.inject({ method: 'POST', url: '/api/x', headers: { 'content-type': type }, payload: '{bad' })).body, 'POST /x {bad', type)
  }
})

t.test('hooks and decorators of its scope do not leak out, and those outside work inside', async t => {
  const { app } = await setup(t)
  const ran: string[] = []
  app.addHook('onRequest', async request => { ran.push(`outer ${request.url}`) })
  await app.register(routes, { prefix: '/api', onRequest: async request => { ran.push(`route ${request.url}`) } })
  app.get('/own', async () => 'own')
  await app.inject('/api/x')
  await app.inject('/own')
  t.strictSame(ran, ['outer /api/x', 'route /api/x', 'outer /own'])
})

t.test('all of Fastify\'s hooks of a route run, alone or several', async t => {
  const { app } = await setup(t)
  const ran: string[] = []
  const hook = (name: string) => async () => { ran.push(name) }
  await app.register(routes, {
    prefix: '/api',
    onRequest: [hook('onRequest 1'), hook('onRequest 2')],
    preParsing: hook('preParsing'),
    preValidation: hook('preValidation'),
    preHandler: [hook('preHandler')],
    onSend: hook('onSend')
  })
  t.equal((await app.inject({ method: 'POST', url: '/api/x', headers: { 'content-type': 'text/x' }, payload: 'body' })).body, 'POST /x body')
  t.strictSame(ran, ['onRequest 1', 'onRequest 2', 'preParsing', 'preValidation', 'preHandler', 'onSend'])
})

t.test('a hook may answer itself, and the backend hears nothing', async t => {
  const { app, backend } = await setup(t)
  await app.register(routes, { prefix: '/api', preHandler: async (_request, reply) => reply.code(401).send('who are you?') })
  const response = await app.inject('/api/x')
  t.equal(response.statusCode, 401)
  t.equal(response.body, 'who are you?')
  t.equal(backend.requests.length, 0)
})

t.test('config is seen by hooks, constraints choose the route', async t => {
  const { app } = await setup(t)
  const seen: unknown[] = []
  app.addHook('onRequest', async request => { seen.push((request.routeOptions.config as { mine?: number }).mine) })
  await app.register(routes, { prefix: '/api', config: { mine: 42 } as object, constraints: { host: 'a.example' } })
  await app.register(routes, { prefix: '/api', rewritePrefix: '/b', constraints: { host: 'b.example' } })
  t.equal((await app.inject({ url: '/api/x', headers: { host: 'a.example' } })).body, 'GET /x')
  t.equal((await app.inject({ url: '/api/x', headers: { host: 'b.example' } })).body, 'GET /b/x')
  t.equal((await app.inject({ url: '/api/x', headers: { host: 'c.example' } })).statusCode, 404)
  t.strictSame(seen.slice(0, 2), [42, undefined])
})

t.test('logLevel is that of the route alone', async t => {
  const backend = await rawBackend(t, () => ok())
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/quiet', logLevel: 'silent' }, { prefix: '/loud' }] })
  await gateway.app.inject('/quiet/x')
  t.strictSame(gateway.log.filter(line => line.reqId !== undefined), [])
  await gateway.app.inject('/loud/x')
  t.ok(gateway.log.some(line => line.msg === 'exchange finished'))
})

t.test('the usual methods are forwarded unless others are named', async t => {
  const { app } = await setup(t)
  await app.register(routes, { prefix: '/all' })
  await app.register(routes, { prefix: '/some', methods: ['GET', 'post'] })
  for (const method of ['DELETE', 'GET', 'OPTIONS', 'PATCH', 'POST', 'PUT'] as const) {
    t.equal((await app.inject({ method, url: '/all/x' })).body, `${method} /x`)
    t.equal((await app.inject({ method, url: '/some/x' })).statusCode, method === 'GET' || method === 'POST' ? 200 : 404, method)
  }
})

t.test('methods that Fastify does not know by itself can be named', async t => {
  const { app } = await setup(t)
  await app.register(routes, { prefix: '/dav', methods: ['GET', 'PROPFIND', 'PURGE', 'm-search'] })
  for (const method of ['PROPFIND', 'PURGE', 'M-SEARCH']) {
    t.equal((await app.inject({ method: method as 'GET', url: '/dav/x', headers: { 'content-type': 'text/xml' }, payload: '<a/>' })).body, `${method} /x <a/>`)
  }
})

t.test('a prefix may hold parameters', async t => {
  const { app } = await setup(t)
  await app.register(routes, { prefix: '/users/:id/files', rewritePrefix: '/store/:id' })
  t.equal((await app.inject('/users/42/files/a/b?c')).body, 'GET /store/42/a/b?c')
  t.equal((await app.inject('/users/42/other')).statusCode, 404)
})

t.test('requests of a route that were answered otherwise are not forwarded', async t => {
  const { app, backend } = await setup(t, {}, { exposeHeadRoutes: true })
  await app.register(routes, { prefix: '/api' })
  app.get('/api/own', async () => 'own')
  t.equal((await app.inject('/api/own')).body, 'own', 'a more exact route of the app wins')
  t.equal((await app.inject('/api/own/x')).body, 'GET /own/x')
  t.equal(backend.requests.length, 1)
})

// Last, because what these showed once took the whole process with it.

t.test('a bad option rejects, when it is registered alone', async t => {
  const bad: [object, RegExp][] = [
    [{ prefix: '/a', rewritePrefx: '/b' }, /^routes\.rewritePrefx is not an option; did you mean 'rewritePrefix'\?$/],
    [{ prefix: '/a', timeout: { idle: -1 } }, /^routes\.timeout\.idle must be a number of at least 0, and is -1$/],
    [{ prefix: '/a', upstream: 5 }, /^routes\.upstream must be the name of an upstream or a function that returns one, and is 5$/],
    [{ prefix: '/a', methods: [] }, /^routes\.methods must be an array of at least 1 item/],
    [{ prefix: '/a', methods: ['TRACE'] }, /TRACE/],
    [{ prefix: '/a', methods: ['GET', 'connect'] }, /CONNECT/],
    [{ prefix: '/a', methods: ['NO SUCH'] }, /NO SUCH/]
  ]
  for (const [options, message] of bad) {
    const { app } = await setup(t)
    await t.rejects(async () => await app.register(routes, options), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message }, String(message))
  }
})

t.test('two routes at one place are an error, not a surprise', async t => {
  const { app } = await setup(t)
  await app.register(routes, { prefix: '/api' })
  await t.rejects(async () => await app.register(routes, { prefix: '/api' }), { code: 'FST_ERR_DUPLICATED_ROUTE' })
})
