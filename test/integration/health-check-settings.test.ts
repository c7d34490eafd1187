import t from 'tap'
import type { BackendInput, HealthCheckOverrides, HealthOptions } from '../../types/index.ts'
import { ProxyManager } from '../../lib/proxy-manager.ts'
import { adminRig } from '../helpers/admin.ts'
import { httpBackend } from '../helpers/app.ts'
import { until } from '../helpers/wire.ts'

const NOWHERE = 'http://127.0.0.1:1'

/** Settings of a request that could never be sent: what is said to be wrong, and what it must be. */
const hopeless: [HealthCheckOverrides, RegExp][] = [
  [{ path: '/x\r\ny: z' }, /\.path must be a path that begins with \/, of visible ASCII characters, and is '\/x\\r\\ny: z'$/],
  [{ path: '/a b' }, /\.path must be a path .* and is '\/a b'$/],
  [{ path: '/a\x7f' }, /\.path must be a path/],
  [{ path: '/\u2028' }, /\.path must be a path/],
  [{ path: '/\u00fc' }, /\.path must be a path/],
  [{ path: 'x' }, /\.path must be a path that begins with \//],
  [{ path: '/', host: 'x\r\ny: z' }, /\.host must be a host, perhaps with a port, and is 'x\\r\\ny: z'$/],
  [{ path: '/', host: 'a b' }, /\.host must be a host/],
  [{ path: '/', host: 'a/b' }, /\.host must be a host/],
  [{ path: '/', method: 'CONNECT' }, /\.method( of backend 'a')? must be a method that Node's HTTP parser knows, other than CONNECT, and is 'CONNECT'$/],
  [{ path: '/', method: 'BOGUS' }, /\.method( of backend 'a')? must be a method that .* and is 'BOGUS'$/],
  [{ path: '/', headers: { 'a b': 'c' } }, /\.headers( of backend 'a')? must have names that HTTP allows, and has 'a b'$/],
  [{ path: '/', headers: { '': 'c' } }, /\.headers( of backend 'a')? must have names that HTTP allows, and has ''$/],
  [{ path: '/', headers: { ':path': 'c' } }, /\.headers( of backend 'a')? must have names/],
  [{ path: '/', headers: { 'x-a': 'c\r\nx: secret' } }, /\.headers\.x-a( of backend 'a')? must be a value that HTTP allows: no control characters, and none beyond U\+00FF$/],
  [{ path: '/', headers: { authorization: 'x\n' } }, /\.headers\.authorization( of backend 'a')? must be a value that HTTP allows/],
  [{ path: '/', headers: { 'x-a': '\u20ac' } }, /\.headers\.x-a( of backend 'a')? must be a value/],
  [{ path: '/', headers: { Host: 'a b' } }, /\.headers\.Host( of backend 'a')? must be a host, perhaps with a port, and is 'a b'$/],
  ...['Connection', 'Content-Length', 'Expect', 'HTTP2-Settings', 'Keep-Alive', 'Proxy-Connection', 'TE', 'Trailer', 'Transfer-Encoding', 'Upgrade'].map(name =>
    [{ path: '/', headers: { [name]: '1' } }, new RegExp(`\\.headers( of backend 'a')? must not have ${name}: whoever sends the request writes it$`)] as [HealthCheckOverrides, RegExp])
]

/** What a line of TAP can hold. */
const shown = (settings: object) => JSON.stringify(settings).replaceAll(/[^ -~]/g, '?')

t.test('settings of a check that could never be sent are refused by options', async t => {
  for (const [settings, message] of hopeless) {
    t.throws(() => new ProxyManager({ health: settings as HealthOptions, backends: [{ id: 'a', url: NOWHERE }] }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message }, shown(settings))
    t.throws(() => new ProxyManager({ health: settings as HealthOptions }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /^options\.health\./ }, 'where there is no backend yet as well')
    t.throws(() => new ProxyManager({ backends: [{ id: 'a', url: NOWHERE, healthCheck: settings }] }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message }, shown(settings))
  }
  t.throws(() => new ProxyManager({ upstreams: { u: { health: { path: '/', method: 'CONNECT' } } } }), { message: /^options\.upstreams\.u\.health\.method must be/ })
  t.throws(() => new ProxyManager({ health: { path: '/' }, backends: [{ id: 'a', url: NOWHERE, healthCheck: { method: 'CONNECT' } }] }), { message: "health.method of backend 'a' must be a method that Node's HTTP parser knows, other than CONNECT, and is 'CONNECT'" }, 'what is given by itself is looked at together')
})

t.test('and by code while the proxy runs', async t => {
  const proxy = new ProxyManager({ backends: [{ id: 'a', url: NOWHERE }] })
  t.teardown(() => proxy.close())
  for (const [healthCheck, message] of hopeless) {
    t.throws(() => proxy.updateBackend('a', { healthCheck }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message }, shown(healthCheck))
    t.throws(() => proxy.addBackend({ id: 'b', url: NOWHERE, healthCheck }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS' })
  }
  t.strictSame(proxy.listBackends().map(({ id, healthCheck }) => [id, healthCheck]), [['a', undefined]], 'nothing has changed')
})

t.test('operators hear 400, by PATCH, PUT and POST, and nothing changes', async t => {
  const { ask, proxy } = await adminRig(t, { backends: [{ id: 'a', url: NOWHERE }] })
  for (const [healthCheck, message] of hopeless) {
    for (const [method, path, body] of [['PATCH', '/backends/a', { healthCheck }], ['PUT', '/backends/a', { url: NOWHERE, healthCheck }], ['POST', '/backends', { id: 'a', url: 'http://127.0.0.1:2', healthCheck }], ['PUT', '/backends/c', { url: NOWHERE, healthCheck }]] as const) {
      const answer = await ask(method, path, body)
      t.equal(answer.statusCode === 400 || (method === 'POST' && answer.statusCode === 409), true, `${method} ${path} ${shown(healthCheck)} → ${answer.statusCode}`)
      if (path === '/backends/a') t.match(answer.json<{ message: string }>().message, message)
      t.notMatch(answer.body, 'secret', 'values of headers may be secrets')
    }
    t.equal((await ask('POST', '/backends', { id: 'b', url: NOWHERE, healthCheck })).statusCode, 400, shown(healthCheck))
  }
  t.strictSame(proxy.listBackends().map(backend => [backend.id, backend.available, (backend as { healthCheck?: object }).healthCheck]), [['a', true, undefined]])
})

t.test('what can be sent is', async t => {
  const asked: [string, Record<string, unknown>][] = []
  const { url } = await httpBackend(t, (request, response) => {
    asked.push([`${request.method} ${request.url}`, request.headers])
    response.end()
  })
  const healths: HealthOptions[] = [
    { path: '/h?a=b&c#d', method: 'OPTIONS', headers: { 'X-A': 'caf\u00e9\ta', authorization: 'Basic eDp5' }, host: 'a_b.example:80' },
    { path: '/%20%C3%BC', method: 'PROPFIND', host: '[::1]' },
    { path: '/', headers: { Host: 'one.example' }, host: 'two.example' }
  ]
  for (const [i, health] of healths.entries()) {
    const proxy = new ProxyManager({ health, backends: [{ id: 'a', url } as BackendInput] })
    await proxy.healthCheck()
    await proxy.close()
    await until(() => asked.length > i)
  }
  t.match(asked, [
    ['OPTIONS /h?a=b&c#d', { host: 'a_b.example:80', 'x-a': 'caf\u00e9\ta', authorization: 'Basic eDp5' }],
    ['PROPFIND /%20%C3%BC', { host: '[::1]' }],
    ['GET /', { host: 'two.example' }]
  ])
})
