import t, { type Test } from 'tap'
import { startGateway, type Gateway } from '../helpers/app.ts'
import { connectTo, rawBackend, type Message } from '../helpers/wire.ts'
import type { RouteOptions } from '../../types/index.ts'

/** A test that hangs fails by itself, and lets the others run. */
const LIMIT = 15_000

/** The fields that the backend answers with. */
let answer: string[] = []
const backend = await rawBackend(t, () => `HTTP/1.1 302 Found\r\n${answer.map(field => `${field}\r\n`).join('')}Content-Length: 0\r\n\r\n`)
const HOST = `127.0.0.1:${backend.port}`

async function gatewayOf (t: Test, route: RouteOptions, base = ''): Promise<Gateway> {
  return await startGateway(t, { backends: [`${backend.url}${base}`], routes: [route] })
}

/** Asks for a path; resolves to the response to fields of the backend's. */
async function ask (t: Test, gateway: Gateway, path: string, fields: string[], host = 'gateway.example:8080'): Promise<Message> {
  const client = await connectTo(t, gateway.port)
  answer = fields
  client.send(`GET ${path} HTTP/1.1\r\nHost: ${host}\r\n\r\n`)
  return await client.response()
}

/** What of a backend's becomes what of a client's. */
type Mappings = [string, string][]

async function check (t: Test, gateway: Gateway, path: string, name: string, mappings: Mappings): Promise<void> {
  for (const [theirs, ours] of mappings) {
    t.equal((await ask(t, gateway, path, [`${name}: ${theirs}`])).values(name).join('|'), ours, `${name}: ${theirs}`)
  }
}

const passOn = (_request: unknown, _reply: unknown, payload: unknown, done: (error: null, payload: unknown) => void) => done(null, payload)

for (const name of ['Location', 'Content-Location']) {
  t.test(`${name} where the prefix is taken off`, { timeout: LIMIT }, async t => {
    const gateway = await gatewayOf(t, { prefix: '/api' })
    await check(t, gateway, '/api/a', name, [
      ['/', '/api/'],
      ['/next', '/api/next'],
      ['/next?a=/b#/c', '/api/next?a=/b#/c'],
      ['/?q', '/api/?q'],
      // The backend does not know of the prefix: this is its own /api.
      ['/api/next', '/api/api/next'],
      ['/%61pi/%2Fx', '/api/%61pi/%2Fx'],
      // What is relative to where the client is needs nothing.
      ['next', 'next'],
      ['../up', '../up'],
      ['?page=2', '?page=2'],
      ['#part', '#part'],
      ['', ''],
      // The backend by its own name, which means nothing to a client.
      [`http://${HOST}/next`, '/api/next'],
      [`HTTP://${HOST}/next?a=b`, '/api/next?a=b'],
      [`https://${HOST}/next`, '/api/next'],
      [`//${HOST}/next`, '/api/next'],
      [`http://${HOST}`, '/api/'],
      [`http://${HOST}?q`, '/api/?q'],
      // The client's own name for us.
      ['http://gateway.example:8080/next', 'http://gateway.example:8080/api/next'],
      ['//GATEWAY.example:8080/next', '//GATEWAY.example:8080/api/next'],
      ['http://gateway.example:8080', 'http://gateway.example:8080/api/'],
      // Somebody else.
      ['http://other.example/next', 'http://other.example/next'],
      ['//other.example/next', '//other.example/next'],
      [`http://${HOST}.other.example/next`, `http://${HOST}.other.example/next`],
      [`http://${HOST}@other.example/next`, `http://${HOST}@other.example/next`],
      [`http://other.example/http://${HOST}/next`, `http://other.example/http://${HOST}/next`],
      ['http://gateway.example/next', 'http://gateway.example/next'],
      ['mailto:a@example.org', 'mailto:a@example.org'],
      ['urn:a:b', 'urn:a:b'],
      ['javascript:1', 'javascript:1']
    ])
  })
}

t.test('Location where the prefix is replaced', { timeout: LIMIT }, async t => {
  const gateway = await gatewayOf(t, { prefix: '/api', rewritePrefix: '/v1' })
  await check(t, gateway, '/api/a', 'Location', [
    ['/v1/next', '/api/next'],
    ['/v1', '/api'],
    ['/v1/', '/api/'],
    ['/v1?q=1', '/api?q=1'],
    ['/v1#f', '/api#f'],
    [`http://${HOST}/v1/next`, '/api/next'],
    ['http://gateway.example:8080/v1/next', 'http://gateway.example:8080/api/next'],
    // These are not below what the route leads to, and have no address here.
    ['/v10/next', '/v10/next'],
    ['/v2/next', '/v2/next'],
    ['/', '/'],
    [`http://${HOST}/v2/next`, `http://${HOST}/v2/next`],
    ['http://gateway.example:8080/v2', 'http://gateway.example:8080/v2']
  ])
})

t.test('Location with a rewritePrefix that ends in a slash, and one of /', { timeout: LIMIT }, async t => {
  await check(t, await gatewayOf(t, { prefix: '/api', rewritePrefix: '/v1/' }), '/api/a', 'Location', [['/v1/next', '/api/next'], ['/v1/', '/api/'], ['/v10', '/v10']])
  await check(t, await gatewayOf(t, { prefix: '/api', rewritePrefix: '/' }), '/api/a', 'Location', [['/next', '/api/next'], ['/', '/api/']])
})

t.test('Location where the backend has a base path', { timeout: LIMIT }, async t => {
  const stripped = await gatewayOf(t, { prefix: '/api' }, '/base')
  await check(t, stripped, '/api/a', 'Location', [['/base/next', '/api/next'], ['/base', '/api'], ['/other', '/other'], [`http://${HOST}/base/next`, '/api/next']])
  const replaced = await gatewayOf(t, { prefix: '/api', rewritePrefix: '/v1' }, '/base')
  await check(t, replaced, '/api/a', 'Location', [['/base/v1/next', '/api/next'], ['/base/next', '/base/next'], ['/v1/next', '/v1/next']])
  const whole = await gatewayOf(t, { prefix: '/' }, '/base')
  await check(t, whole, '/a', 'Location', [['/base/next', '/next'], ['/base/', '/'], ['/base', '/'], ['/next', '/next']])
})

t.test('no mapped Location leads to another host than the backend\'s did', { timeout: LIMIT }, async t => {
  const gateways: [Gateway, string][] = [
    [await gatewayOf(t, { prefix: '/' }, '/base'), '/base'],
    [await gatewayOf(t, { prefix: '/', rewritePrefix: '/v1' }), '/v1']
  ]
  for (const [gateway, inner] of gateways) {
    for (const rest of ['//other.example/a', '/\\other.example/a', '///other.example/a']) {
      for (const theirs of [inner + rest, `http://${HOST}${inner}${rest}`]) {
        const [ours] = (await ask(t, gateway, '/a', [`Location: ${theirs}`])).values('location')
        t.equal(new URL(ours, 'http://gateway.example:8080/a').host.replace(HOST, 'gateway.example:8080'), 'gateway.example:8080', `${theirs} -> ${ours}`)
      }
    }
  }
})

t.test('Location where nothing is taken off', { timeout: LIMIT }, async t => {
  const gateway = await gatewayOf(t, { prefix: '/' })
  await check(t, gateway, '/a', 'Location', [['/next', '/next'], ['/', '/'], ['next', 'next'], [`http://${HOST}/next`, '/next'], ['http://gateway.example:8080/next', 'http://gateway.example:8080/next']])
  const same = await gatewayOf(t, { prefix: '/api', rewritePrefix: '/api' })
  await check(t, same, '/api/a', 'Location', [['/api/next', '/api/next'], ['/other', '/other']])
})

t.test('Location where the prefix has parameters: they are those of this request', { timeout: LIMIT }, async t => {
  const gateway = await gatewayOf(t, { prefix: '/users/:id', rewritePrefix: '/people/:id' })
  await check(t, gateway, '/users/17/a', 'Location', [['/people/17/next', '/users/17/next'], ['/people/18/next', '/people/18/next'], ['/people/170', '/people/170']])
  await check(t, gateway, '/users/$&/a', 'Location', [['/people/$&/next', '/users/$&/next']])
  const stripped = await gatewayOf(t, { prefix: '/tenants/:id' })
  await check(t, stripped, '/tenants/x/a', 'Location', [['/next', '/tenants/x/next']])
})

t.test('Location gets the prefix as the client wrote it', { timeout: LIMIT }, async t => {
  const gateway = await gatewayOf(t, { prefix: '/api' })
  await check(t, gateway, '/%61pi/a', 'Location', [['/next', '/%61pi/next']])
})

t.test('Location is mapped in scopes with a prefix of their own', { timeout: LIMIT }, async t => {
  const gateway = await startGateway(t, { backends: [backend.url] }, {
    setup: app => {
      app.register(async scope => {
        const { default: routes } = await import('../../plugins/routes.ts')
        await scope.register(routes, { prefix: '/inner' })
      }, { prefix: '/outer' })
    }
  })
  await check(t, gateway, '/outer/inner/a', 'Location', [['/next', '/outer/inner/next']])
})

t.test('Refresh', { timeout: LIMIT }, async t => {
  const gateway = await gatewayOf(t, { prefix: '/api', rewritePrefix: '/v1' })
  await check(t, gateway, '/api/a', 'Refresh', [
    ['5; url=/v1/next', '5; url=/api/next'],
    ['0;URL=/v1/next', '0;URL=/api/next'],
    ['0, url=/v1/next', '0, url=/api/next'],
    ['1.5; url=/v1', '1.5; url=/api'],
    ['5; url="/v1/next"', '5; url="/api/next"'],
    ['5; url=\'/v1/next\'', '5; url=\'/api/next\''],
    [`5; url=http://${HOST}/v1/next`, '5; url=/api/next'],
    ['5; url=http://other.example/v1', '5; url=http://other.example/v1'],
    ['5; url=/v2', '5; url=/v2'],
    ['5', '5'],
    ['nonsense', 'nonsense']
  ])
})

t.test('the Path of cookies', async t => {
  await t.test('where the prefix is replaced', { timeout: LIMIT }, async t => {
    const gateway = await gatewayOf(t, { prefix: '/api', rewritePrefix: '/v1' })
    await check(t, gateway, '/api/a', 'Set-Cookie', [
      ['a=1; Path=/v1', 'a=1; Path=/api'],
      ['a=1; path=/v1/deep; HttpOnly', 'a=1; path=/api/deep; HttpOnly'],
      ['a=1;PATH = /v1/;Secure', 'a=1;PATH = /api/;Secure'],
      ['a=1; Path=/', 'a=1; Path=/'],
      ['a=1; Path=/v10', 'a=1; Path=/v10'],
      ['a=1', 'a=1'],
      ['a=1; Path=', 'a=1; Path='],
      ['a=1; Path=relative', 'a=1; Path=relative'],
      // A value is a value, whatever it looks like.
      ['a=path=/v1/x', 'a=path=/v1/x'],
      ['path=/v1/x; Path=/v1/y', 'path=/v1/x; Path=/api/y'],
      ['a=1; X-Path=/v1/x', 'a=1; X-Path=/v1/x'],
      // RFC 6265, 5.2.4: the last one counts.
      ['a=1; Path=/v1/x; Path=/v1/y', 'a=1; Path=/api/x; Path=/api/y']
    ])
  })
  await t.test('where the prefix is taken off', { timeout: LIMIT }, async t => {
    const gateway = await gatewayOf(t, { prefix: '/api' })
    await check(t, gateway, '/api/a', 'Set-Cookie', [['a=1; Path=/deep; Secure', 'a=1; Path=/api/deep; Secure'], ['a=1', 'a=1']])
    const [root] = (await ask(t, gateway, '/api/a', ['Set-Cookie: a=1; Path=/'])).values('set-cookie')
    t.match(root, /^a=1; Path=\/api\/?$/)
  })
  await t.test('of each of several', { timeout: LIMIT }, async t => {
    const gateway = await gatewayOf(t, { prefix: '/api', rewritePrefix: '/v1' })
    t.same((await ask(t, gateway, '/api/a', ['Set-Cookie: a=1; Path=/v1/a', 'set-cookie: b=2; Path=/v1/b', 'Set-Cookie: c=3'])).values('set-cookie'), ['a=1; Path=/api/a', 'b=2; Path=/api/b', 'c=3'])
  })
  await t.test('where the base path of the backend is all there is to take off', { timeout: LIMIT }, async t => {
    const gateway = await gatewayOf(t, { prefix: '/' }, '/base')
    await check(t, gateway, '/a', 'Set-Cookie', [['a=1; Path=/base', 'a=1; Path=/'], ['a=1; Path=/base/x', 'a=1; Path=/x']])
  })
})

t.test('mapping can be switched off', { timeout: LIMIT }, async t => {
  const gateway = await gatewayOf(t, { prefix: '/api', rewritePrefix: '/v1', internalRewriteLocationHeader: false })
  await check(t, gateway, '/api/a', 'Location', [['/v1/next', '/v1/next'], [`http://${HOST}/v1/next`, `http://${HOST}/v1/next`]])
  await check(t, gateway, '/api/a', 'Content-Location', [['/v1/next', '/v1/next']])
  await check(t, gateway, '/api/a', 'Refresh', [['5; url=/v1/next', '5; url=/v1/next']])
  await check(t, gateway, '/api/a', 'Set-Cookie', [['a=1; Path=/v1', 'a=1; Path=/v1']])
})

t.test('forward() in a handler of one\'s own maps nothing', { timeout: LIMIT }, async t => {
  const gateway = await startGateway(t, { backends: [backend.url] }, {
    setup: app => { app.get('/mine', (request, reply) => { request.server.proxy.forward(request, reply, { path: '/theirs' }) }) }
  })
  await check(t, gateway, '/mine', 'Location', [['/next', '/next']])
})

t.test('the onSend path maps the same', { timeout: LIMIT }, async t => {
  const gateway = await gatewayOf(t, { prefix: '/api', rewritePrefix: '/v1', onSend: passOn })
  const response = await ask(t, gateway, '/api/a', ['Location: /v1/next', 'Set-Cookie: a=1; Path=/v1', 'Refresh: 0; url=/v1/next', 'Content-Location: /v1/this'])
  t.same(response.fields.slice(0, 4), [['Location', '/api/next'], ['Set-Cookie', 'a=1; Path=/api'], ['Refresh', '0; url=/api/next'], ['Content-Location', '/api/this']])
})

t.test('rewriteHeaders sees what has been mapped', { timeout: LIMIT }, async t => {
  let seen: unknown
  const gateway = await gatewayOf(t, {
    prefix: '/api',
    rewritePrefix: '/v1',
    rewriteHeaders: headers => {
      seen = headers.location
      return headers
    }
  })
  await ask(t, gateway, '/api/a', ['Location: /v1/next'])
  t.equal(seen, '/api/next')
})

t.test('bytes above 127 in a Location stay', { timeout: LIMIT }, async t => {
  const gateway = await gatewayOf(t, { prefix: '/api' })
  await check(t, gateway, '/api/a', 'Location', [['/gr\xfc\xdfe', '/api/gr\xfc\xdfe']])
})
