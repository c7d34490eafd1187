import bearerAuth from '@fastify/bearer-auth'
import swagger from '@fastify/swagger'
import Fastify from 'fastify'
import t from 'tap'
import admin from '../../plugins/admin.ts'
import rockstarProxy from '../../plugins/index.ts'
import routes from '../../plugins/routes.ts'
import status from '../../plugins/status.ts'
import type { AdminOptions } from '../../types/index.ts'
import { adminRig, askOf, checkAnswers, type Method } from '../helpers/admin.ts'
import { httpBackend, startGateway } from '../helpers/app.ts'

const NOWHERE = 'http://127.0.0.1:1'
const PLUGINS: AdminOptions['plugins'] = ['status', 'backends', 'breaker', 'health']
const METHODS: Method[] = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS']
const notFound = (method: string, path: string) => ({ statusCode: 404, error: 'Not Found', message: `Operators have no route ${method} ${path}` })
const notAllowed = (method: string, path: string, allow: string) => ({ statusCode: 405, error: 'Method Not Allowed', message: `Operators have no route ${method} ${path}, only ${allow}` })

t.test('a misspelt path goes to no backend, with whatever method', async t => {
  const asked: unknown[] = []
  const { url } = await httpBackend(t, (request, response) => { asked.push([request.method, request.url, request.headers.authorization]); response.end('backend') })
  const { ask } = await adminRig(t, { backends: [{ id: 'a', url }], routes: [{ prefix: '/', methods: [...METHODS, 'PROPFIND'] }] }, { plugins: PLUGINS })
  for (const path of ['', '/', '/statuss', '/status/', '/status/x', '/backends/a/drainn', '/backends/a%2Fb/c', '/explain', '/x/y/z?a=b']) {
    for (const method of [...METHODS, 'PROPFIND' as Method]) {
      const answer = await ask(method, path, undefined, { authorization: 'Bearer s3cret' })
      t.equal(answer.statusCode, 404, `${method} ${path} ${answer.body}`)
      if (method !== 'HEAD') t.strictSame(answer.json(), notFound(method, `/proxy${path.replace(/\?.*/, '')}`))
    }
  }
  t.strictSame(asked, [], 'no backend has heard of it')
  t.equal((await ask('POST', '/statuss', { x: 1 })).statusCode, 404, 'with a body too')
  t.equal((await ask('POST', '/statuss', '{')).statusCode, 404, 'that nobody reads')
  t.equal((await ask('GET', 'x')).body, 'backend', 'what only begins alike is none of it')
  t.equal((await ask('GET', '/status')).statusCode, 200)
})

t.test('a path that is there, by a method that is not, is 405 and says which are', async t => {
  const { ask } = await adminRig(t, { backends: [{ id: 'a', url: NOWHERE }], routes: [{ prefix: '/' }] }, { plugins: PLUGINS })
  for (const [method, path, allow] of [
    ['PUT', '/backends', 'GET, HEAD, POST'], ['DELETE', '/status', 'GET, HEAD'], ['POST', '/backends/a', 'DELETE, GET, HEAD, PATCH, PUT'], ['POST', '/backends/a%2Fb', 'DELETE, GET, HEAD, PATCH, PUT'],
    ['GET', '/backends/a/drain', 'POST'], ['DELETE', '/health/check', 'GET, HEAD, POST'], ['OPTIONS', '/breaker/a/open?upstream=default', 'POST']
  ] as const) {
    const answer = await ask(method, path)
    t.strictSame(answer.json(), notAllowed(method, `/proxy${path.replace(/\?.*/, '')}`, allow))
    t.equal(answer.headers.allow, allow, `${method} ${path}`)
    t.equal(answer.headers['cache-control'], 'no-store')
  }
  t.match((await ask('GET', '/backends/a')).json(), { id: 'a' })
})

t.test('who may not is told no more than elsewhere', async t => {
  const local = await adminRig(t, {}, { plugins: PLUGINS })
  for (const path of ['/statuss', '/', '']) {
    t.equal((await local.ask('GET', path, undefined, {}, '10.0.0.1')).statusCode, 403, path)
    t.equal((await local.ask('PUT', path, undefined, { origin: 'https://evil.example' })).statusCode, 403, path)
    t.equal((await local.ask('GET', path, undefined, { host: 'evil.example' })).statusCode, 403, path)
  }
  const { app } = await startGateway(t, {}, {
    before: async app => {
      checkAnswers(t, app)
      await app.register(bearerAuth, { keys: new Set(['s3cret']), addHook: false })
    },
    setup: async app => { await app.register(admin, { prefix: '/ops', plugins: PLUGINS, onRequest: app.verifyBearerAuth }) }
  })
  const ask = askOf(app, '/ops')
  t.equal((await ask('GET', '/statuss')).statusCode, 401)
  t.strictSame((await ask('GET', '/statuss', undefined, { authorization: 'Bearer s3cret' })).json(), notFound('GET', '/ops/statuss'))
  t.strictSame((await ask('GET', '', undefined, { authorization: 'Bearer s3cret' })).json(), notFound('GET', '/ops'))
})

t.test('what the app has of its own there stays its own', async t => {
  const { url } = await httpBackend(t, (_request, response) => { response.end('backend') })
  const { app, ask } = await adminRig(t, { backends: [{ id: 'a', url }], routes: [{ prefix: '/proxy/data' }] }, { plugins: PLUGINS }, {
    before: app => { app.get('/proxy', async () => 'mine before') },
    setup: async app => {
      app.get('/proxy/mine', async () => 'mine')
      app.get('/proxy/mine/:id', async () => 'mine too')
      await app.register(routes, { prefix: '/proxy/more' })
      await app.register(status, { prefix: '/proxy/deep' })
    }
  })
  for (const [path, body] of [['', 'mine before'], ['/mine', 'mine'], ['/mine/x', 'mine too'], ['/data/x', 'backend'], ['/more', 'backend']] as const) t.equal((await ask('GET', path)).body, body, path)
  t.equal((await askOf(app, '/proxy/deep')('GET', '/status')).statusCode, 200)
  t.equal((await ask('POST', '')).statusCode, 404)
  const whole = await adminRig(t, { backends: [{ id: 'a', url }], routes: [{ prefix: '/proxy' }] }, { plugins: PLUGINS })
  t.equal((await whole.ask('GET', '/statuss')).body, 'backend', 'a route for all of it is the app\'s word')
  t.equal((await whole.ask('GET', '/status')).json().ready, true)
  const both = await adminRig(t, {}, { plugins: PLUGINS }, { setup: async app => { await app.register(admin, { prefix: '/proxy', plugins: ['status'] }) } })
  t.equal((await both.ask('GET', '/statuss')).statusCode, 404, 'mounted twice')
  const rooted = await adminRig(t, { backends: [{ id: 'a', url }] }, { prefix: '/', plugins: PLUGINS }, { setup: app => { app.get('/*', async () => 'mine') } })
  t.equal((await askOf(rooted.app, '')('GET', '/statuss')).body, 'mine', 'at the root there is all of the app below it')
  const rootedPlugin = await startGateway(t, {}, { setup: async app => { await app.register(admin, { prefix: '/', plugins: PLUGINS }); app.get('/*', async () => 'mine') } })
  t.equal((await askOf(rootedPlugin.app, '')('GET', '/statuss')).body, 'mine')
})

t.test('below prefixes of all kinds', async t => {
  for (const prefix of ['/a/b', '/a/b/']) {
    const { app } = await adminRig(t, {}, { prefix, plugins: PLUGINS })
    for (const path of ['/a/b', '/a/b/', '/a/b/statuss']) t.match((await askOf(app, '')('GET', path)).json(), { message: `Operators have no route GET ${path}` }, `${prefix} ${path}`)
  }
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(async scope => {
    await scope.register(rockstarProxy, { backends: [{ id: 'a', url: NOWHERE }], health: false, admin: { plugins: PLUGINS } })
  }, { prefix: '/t/:tenant' })
  const ask = askOf(app, '/t/x/proxy')
  t.match((await ask('GET', '/statuss')).json(), notFound('GET', '/t/x/proxy/statuss'))
  t.match((await ask('PUT', '/backends')).json(), notAllowed('PUT', '/t/x/proxy/backends', 'GET, HEAD, POST'))
})

t.test('documents know nothing of it', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(swagger, { openapi: { info: { title: 'x', version: '1' } } })
  await app.register(rockstarProxy, { admin: { plugins: ['status'] } })
  await app.ready()
  t.strictSame(Object.keys(app.swagger().paths ?? {}), ['/proxy/status'])
})
