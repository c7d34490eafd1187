import t, { type Test } from 'tap'
import routes from '../../plugins/routes.ts'
import type { RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type Gateway, type GatewaySetup } from '../helpers/app.ts'
import { ok, rawBackend, type Message, type RawBackend } from '../helpers/wire.ts'

interface Pair {
  backend: RawBackend
  gateway: Gateway
}

async function start (t: Test, options: RockstarProxyOptions = {}, setup: GatewaySetup = {}): Promise<Pair> {
  const backend = await rawBackend(t, () => ok())
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/api' }], ...options }, setup)
  return { backend, gateway }
}

async function ask (gateway: Gateway, target: string, fields = 'Host: gateway\r\n', method = 'GET'): Promise<Message> {
  const client = await gateway.connect()
  const response = await client.send(`${method} ${target} HTTP/1.1\r\n${fields}\r\n`).response()
  client.close()
  return response
}

/** The target that the backend is asked for, or the status with which the request was refused. */
async function sent ({ backend, gateway }: Pair, target: string, fields?: string): Promise<string | number> {
  const before = backend.requests.length
  const { status } = await ask(gateway, target, fields)
  if (backend.requests.length === before) return status
  return backend.requests[before].startLine.split(' ')[1]
}

// Byte for byte

const KEPT = [
  '/', '/a', '/a/', '/a/b/c', '/a//b', '/a///', '/a/b//c//', '/%41', '/%e2%82%ac', '/%E2%82%AC', '/%E2%82%ac', '/a%2Fb', '/a%2fb', '/a%20b', '/%7Euser', '/~user',
  '/a;b', '/a;b=c/d;e=f;g', '/;', '/a;', '/a,b', '/,', '/a=b&c=d', '/!$&\'()*+,;=:@', '/-._~', '/a%3Bb', '/a%3fb', '/a%23b', '/%25', '/100%25', '/%2525', '/%254', '/a+b', '/%2B',
  '/?', '/??', '/a?', '/a??', '/a?b=c', '/a?b=c?d', '/a?b=c/d//e', '/a?b=%2e%2e%2f', '/a?b=../../c', '/a?/../b', '/a?b=\\', '/a?b=%00', '/a?%zz', '/a?%ff', '/a?b&&c=&=', '/a?http://x/', '/a?b=%E9',
  '/.a', '/..a', '/a..', '/a.', '/...', '/.../x', '/a/.b', '/a/..b/c', '/.well-known/x', '/a.b.c', '/%2ea', '/..%61', '/a%2e%2e', '/..%20', '/%20', '/%0a', '/%0d%0aX-A:%20b', '/%09', '/%7f', '/%c3%a9', '/%F0%9F%9A%80',
  '/*', '/(x)', '/:x', '/@x', '/a:b@c', '/http://x/', '/http:%2F%2Fx', '/[x]', '/|', '/{x}', '/^', '/`', '/\'', '/"', '/<x>', '/__proto__', '/constructor/prototype'
]

t.test('what follows the prefix is sent as it came', async t => {
  const pair = await start(t)
  for (const rest of KEPT) t.equal(await sent(pair, `/api${rest}`), rest, rest)
})

t.test('without a prefix all of it is', async t => {
  const pair = await start(t, { routes: [{ prefix: '/' }] })
  for (const rest of KEPT) t.equal(await sent(pair, rest), rest, rest)
})

t.test('so it is in an ordinary handler', async t => {
  const pair = await start(t, {}, { setup: app => { app.get('/mine/*', (request, reply) => app.proxy.forward(request, reply)) } })
  for (const rest of KEPT) t.equal(await sent(pair, `/mine${rest}`), `/mine${rest}`, rest)
})

t.test('an encoding that is no UTF-8 is refused by the router before any route sees it', async t => {
  const pair = await start(t)
  for (const rest of ['/%ff', '/%E9', '/a%c3b', '/%80/x', '/%ED%A0%80']) t.equal(await sent(pair, `/api${rest}`), 400, rest)
})

t.test('what is no encoding is refused', async t => {
  const pair = await start(t)
  for (const rest of ['/%', '/%zz', '/%4', '/a%2', '/%%41', '/%u0041']) t.equal(await sent(pair, `/api${rest}`), 400, rest)
})

t.test('bytes that no URL may have are sent as they are, or refused, and never changed', async t => {
  const pair = await start(t, { routes: [{ prefix: '/' }] })
  for (const target of ['/\xe9', '/\xc3\xa9', '/a?\xe9', '/\x80\xff', '/\x7f', '/a\x01']) {
    const result = await sent(pair, target)
    t.ok(result === target || result === 400, `${JSON.stringify(target)}: ${result}`)
  }
})

// Canonical

/** Targets whose path might be resolved to one outside of where it seems to be. */
function * climbing (prefix: string): Generator<string> {
  const dots = ['.', '%2e', '%2E', '%252e', '%25252E', '%2525252e']
  const slashes = ['/', '\\', '%2f', '%2F', '%5c', '%5C', '%252f', '%255C', '%25252f']
  for (const dot of dots) {
    for (const slash of slashes) {
      yield `${prefix}/${dot}${dot}${slash}x`
      yield `${prefix}/a${slash}${dot}${dot}${slash}x`
      yield `${prefix}/a${slash}${dot}.`
      yield `${prefix}/a${slash}.${dot}?b`
      yield `${prefix}/a${slash}${dot}${slash}b`
      for (const semicolon of [';', ';a=b', '%3b', '%3B', '%253b']) yield `${prefix}/a${slash}${dot}${dot}${semicolon}${slash}x`
    }
  }
}

const AMBIGUOUS = [
  '/..', '/.', '/../', '/./', '/../x', '/./x', '/a/../b', '/a/./b', '/a/..', '/a/.', '/a/..?b', '/a/.?', '/a/../..', '/../../../../etc/passwd', '/..;/x', '/.;/x', '/a/..;b=c/d', '/a/..;', '/;/../x', '/a;b/../c', '/..%3b/x', '/%2e%2e;/x', '/%2e%2e%3B/x',
  '/..\\x', '/a\\b', '\\x', '/a%5c..%5cb', '/a\\..\\..\\b', '/..%5Cx', '/a%2f..%2f..%2fb', '/a/%2e%2e%2f%2e%2e%2fb', '/%2e', '/%2e%2e', '/%2E%2e/', '/%252e%252e/x', '/%25252e%25252e/x', '/.%252e/x', '/%252e%252e%252fx', '/a%252f..%252fx', '/..%252f', '/%255c..%255cx',
  '/%00', '/a%00', '/a%00.html', '/a%2500', '/a%25%30%30', '/%00/../x', '/a/%00..', '/a%252500'
]

t.test('a path that could mean two places is refused and reaches no backend', async t => {
  const pair = await start(t, { routes: [{ prefix: '/' }] })
  for (const target of AMBIGUOUS) t.equal(await sent(pair, target), 400, target)
  for (const target of climbing('')) t.equal(await sent(pair, target), 400, target)
  t.equal(pair.backend.connections.length, 0)
})

t.test('nor below a prefix', async t => {
  const pair = await start(t)
  for (const target of [...AMBIGUOUS.map(rest => `/api${rest}`), ...climbing('/api'), '/x/../api/y', '/%2e/api/x', '/api/../api/x', '/..;/api/x', '/a%2f..%2fapi/x', '/api%2f..%2fx', '/api\\..\\x', '/api%5c..%5cx']) {
    const status = await sent(pair, target)
    // Where the disguise is in the prefix, no route may know it.
    t.ok(status === 400 || status === 404, `${target}: ${status}`)
  }
  t.equal(pair.backend.connections.length, 0)
})

t.test('nor in an ordinary handler', async t => {
  const pair = await start(t, {}, { setup: app => { app.get('/mine/*', (request, reply) => app.proxy.forward(request, reply)) } })
  for (const target of AMBIGUOUS.map(rest => `/mine${rest}`)) {
    const status = await sent(pair, target)
    t.ok(status === 400 || status === 404, `${target}: ${status}`)
  }
  t.equal(pair.backend.connections.length, 0)
})

t.test('an encoded backslash is refused like a bare one: some backends take it for a slash', async t => {
  const all = await start(t, { routes: [{ prefix: '/' }, { prefix: '/api' }] })
  for (const target of ['/a%5cb', '/a%5Cb', '/a/b%5c', '/a%255cb', '/api%5cadmin', '/api/x%5cadmin']) t.equal(await sent(all, target), 400, target)
  t.equal(await sent(all, '/a?b=%5c'), '/a?b=%5c', 'in a query it is a character')
})

t.test('a path that could name a host is refused', async t => {
  const all = await start(t, { routes: [{ prefix: '/' }] })
  for (const target of ['//evil.example/x', '///evil.example', '//', '//evil.example', '/%2fevil.example', '/%2F/evil.example', '/%2f%2fevil.example', '/\\evil.example', '/%5cevil.example', '/%5c%5cevil.example', '/%252fevil.example', '/%255c/evil.example', '//evil.example?x', '//?x', '/\\/evil.example']) {
    t.equal(await sent(all, target), 400, target)
  }
  const pair = await start(t)
  for (const rest of ['//evil.example/x', '///evil.example', '//', '//?x', '/%2fevil.example', '/%2Fevil.example', '/%2f/evil.example', '/\\evil.example', '/%5cevil.example', '/%252fevil.example', '/%25%32%66evil.example', '/%255cevil.example']) {
    t.equal(await sent(pair, `/api${rest}`), 400, rest)
  }
  t.equal(all.backend.connections.length + pair.backend.connections.length, 0)
})

t.test('a fragment has no place in a target', async t => {
  const pair = await start(t)
  for (const target of ['/api/a#b', '/api#/../x', '/api/a?b#c', '/api/#', 'http://gateway/api/a#b']) {
    const status = await sent(pair, target)
    t.ok(status === 400 || status === 404, `${target}: ${status}`)
  }
})

t.test('a path that a handler gives is held to the same', async t => {
  const pair = await start(t, {}, {
    setup: app => { app.get('/mine', (request, reply) => app.proxy.forward(request, reply, { path: (request.query as { to: string }).to })) }
  })
  for (const [to, expected] of [
    ['/x', '/x?to=%2Fx'], ['/x?', '/x?'], ['/x?a=b', '/x?a=b'], ['/a//b', '/a//b?to=%2Fa%2F%2Fb'],
    ['//evil.example', 400], ['/../x', 400], ['/%2e%2e/x', 400], ['/\\x', 400], ['/a#b', 400], ['/a b', 400], ['/a\r\nX-A: b', 400], ['/é€', 400], ['/%00', 400]
  ] as const) {
    t.equal(await sent(pair, `/mine?to=${encodeURIComponent(to)}`), expected, to)
  }
})

// Prefixes

t.test('a prefix ends at a slash, a query or the end', async t => {
  const pair = await start(t)
  for (const [target, expected] of [['/api', '/'], ['/api/', '/'], ['/api?', '/?'], ['/api?x=/y', '/?x=/y'], ['/api/?x', '/?x'], ['/api??', '/??'], ['/api/api', '/api'], ['/api/api/x', '/api/x']]) {
    t.equal(await sent(pair, target), expected, target)
  }
  for (const target of ['/apix', '/apix/y', '/api.x', '/api-x/y', '/api;x', '/api;x/y', '/api%2fx', '/api%2Fx/y', '/api%3fx', '/api:81/x', '/api@evil.example/x', '/ap', '/Api/x', '/API', '/x/api/y', '/', '/api%20/x', '/%61pix', '/api%00/x', '/apı/x'.normalize()]) {
    const status = await sent(pair, target)
    t.ok(status === 404 || status === 400, `${target}: ${status}`)
  }
  t.equal(pair.backend.requests.length, 8)
})

t.test('a prefix matches in any encoding, and is taken off as it was written', async t => {
  const pair = await start(t, { routes: [{ prefix: '/api/v1' }] })
  for (const [target, expected] of [['/%61pi/v1/x', '/x'], ['/%61%70%69/%76%31/%78', '/%78'], ['/api/v%31', '/'], ['/ap%69/v1?x', '/?x'], ['/%61pi/v1/%61pi/v1', '/%61pi/v1']]) {
    t.equal(await sent(pair, target), expected, target)
  }
})

t.test('a prefix is replaced by rewritePrefix', async t => {
  for (const [prefix, rewritePrefix, target, expected] of [
    ['/api', '/v1', '/api/x', '/v1/x'], ['/api', '/v1', '/api', '/v1'], ['/api', '/v1', '/api/', '/v1/'], ['/api', '/v1', '/api?x', '/v1?x'], ['/api', '/v1', '/api/?x', '/v1/?x'], ['/api', '/v1/', '/api/x', '/v1/x'], ['/api', '/v1', '/api/a//b%2Fc?d', '/v1/a//b%2Fc?d'],
    ['/api', '/', '/api/x', '/x'], ['/api', '', '/api/x', '/x'], ['/api', '/', '/api', '/'], ['/api', '/api', '/api/api', '/api/api'], ['/api', '/a/b/c', '/api/x', '/a/b/c/x'], ['/a/b/c', '/d', '/a/b/c/x', '/d/x'], ['/a/b', '', '/a/b', '/'],
    ['/', '/v1', '/x', '/v1/x'], ['/', '/v1', '/', '/v1/'], ['/', '/', '/x', '/x'], ['/', '', '/x/y?z', '/x/y?z'], ['/api', '/v1', '/%61pi/%61', '/v1/%61'], ['/api', '/v1', '/api//x', '/v1//x'], ['/api', '/%76', '/api/x', '/%76/x']
  ]) {
    const pair = await start(t, { routes: [{ prefix, rewritePrefix }] })
    t.equal(await sent(pair, target), expected, `${prefix} -> '${rewritePrefix}': ${target}`)
  }
})

t.test('a prefix may end with a slash', async t => {
  const pair = await start(t, { routes: [{ prefix: '/api/', rewritePrefix: '/v1/' }] })
  t.equal(await sent(pair, '/api/x'), '/v1/x')
  t.equal(await sent(pair, '/api/'), '/v1/')
  t.equal(await sent(pair, '/apix'), 404)
})

t.test('a prefix may have parameters, and rewritePrefix may use them', async t => {
  for (const [prefix, rewritePrefix, target, expected] of [
    ['/users/:id', '', '/users/7/x', '/x'], ['/users/:id', '', '/users/7', '/'], ['/users/:id', '/people/:id', '/users/7/x?y', '/people/7/x?y'], ['/users/:id', '/people/:id', '/users/7', '/people/7'],
    ['/users/:id/:what', '/:what/of/:id', '/users/7/pets/x', '/pets/of/7/x'], ['/u/:id', '/:id/:id', '/u/7/x', '/7/7/x'], ['/u/:id', '/y/:idx', '/u/7/x', '/y/:idx/x'], ['/u/:id/:idx', '/:idx/:id', '/u/1/2/x', '/2/1/x'],
    ['/u/:id(^\\d+$)', '/n/:id', '/u/42/x', '/n/42/x'], ['/u/:id', '/n/:id', '/%75/7/x', '/n/7/x'], ['/:a', '/:a', '/x/y', '/x/y'], ['/:a/b', '/c/:a', '/x/b/y', '/c/x/y'], ['/u/:id', '/n/:other', '/u/7/x', '/n/:other/x'],
    // The text is that of the client, byte for byte.
    ['/users/:id', '/people/:id', '/users/a%20b/x', '/people/a%20b/x'], ['/users/:id', '/people/:id', '/users/a%2fb/x', '/people/a%2fb/x'], ['/users/:id', '/people/:id', '/users/%61;b=c/x', '/people/%61;b=c/x'], ['/users/:id', '/people/:id', '/users/$&/x', '/people/$&/x'],
    ['/users/:id', '/people/:id', '/users/a%3Fb?c', '/people/a%3Fb?c'], ['/users/:id', '/people/:id', '/users/__proto__/x', '/people/__proto__/x'], ['/users/:id', '/people/:id', '/users/:id/x', '/people/:id/x']
  ]) {
    const pair = await start(t, { routes: [{ prefix, rewritePrefix }] })
    t.equal(await sent(pair, target), expected, `${prefix} -> '${rewritePrefix}': ${target}`)
  }
})

t.test('the text of one parameter is never taken for the name of another', async t => {
  const pair = await start(t, { routes: [{ prefix: '/t/:tenant/:user', rewritePrefix: '/:tenant/of/:user' }] })
  t.equal(await sent(pair, '/t/:user/other/x'), '/:user/of/other/x')
  t.equal(await sent(pair, '/t/a/:tenant/x'), '/a/of/:tenant/x')
})

t.test('a segment of a prefix may hold more than a parameter', async t => {
  for (const [prefix, rewritePrefix, target, expected] of [
    ['/at/:lat-:lng', '/:lng/:lat', '/at/1-2/x', '/2/1/x'], ['/f/:name.json', '/files/:name', '/f/a.json/x', '/files/a/x'], ['/v:major(\\d+)', '/version/:major', '/v2/x', '/version/2/x'], ['/at/:lat-:lng', '', '/at/1-2/x', '/x']
  ]) {
    const pair = await start(t, { routes: [{ prefix, rewritePrefix }] })
    t.equal(await sent(pair, target), expected, `${prefix} -> '${rewritePrefix}': ${target}`)
  }
})

t.test('a parameter cannot climb', async t => {
  const pair = await start(t, { routes: [{ prefix: '/users/:id', rewritePrefix: '/people/:id' }] })
  for (const id of ['..', '.', '%2e%2e', '..%2fadmin', '%2e%2e%5cadmin', '..;a', '%252e%252e', 'a%2f..', '%00']) {
    const status = await sent(pair, `/users/${id}/x`)
    t.ok(status === 400 || status === 404, `${id}: ${status}`)
  }
  const bare = await start(t, { routes: [{ prefix: '/u/:host', rewritePrefix: '/:host' }] })
  for (const host of ['%2fevil.example', '%5cevil.example', '%252fevil.example']) t.equal(await sent(bare, `/u/${host}/x`), 400, host)
  const empty = await sent(bare, '/u//evil.example/x')
  t.ok(empty === 400 || empty === 404, 'nor leave two slashes by being empty')
})

t.test('a backend may have a base path', async t => {
  for (const [base, expected] of [['', '/x'], ['/', '/x'], ['/base', '/base/x'], ['/base/', '/base/x'], ['/a/b', '/a/b/x']]) {
    const backend = await rawBackend(t, () => ok())
    const gateway = await startGateway(t, { backends: [backend.url + base], routes: [{ prefix: '/api' }] })
    t.equal(await sent({ backend, gateway }, '/api/x'), expected, base)
    t.equal(await sent({ backend, gateway }, '/api//evil.example'), 400)
    t.equal(await sent({ backend, gateway }, '/api/../x'), 400)
  }
})

t.test('routes side by side each take their own', async t => {
  const pair = await start(t, { routes: [{ prefix: '/a' }, { prefix: '/a/b', rewritePrefix: '/ab' }, { prefix: '/', rewritePrefix: '/rest' }, { prefix: '/a/:x', rewritePrefix: '/param' }] })
  for (const [target, expected] of [['/a', '/'], ['/a/b/c', '/ab/c'], ['/a/b', '/ab'], ['/a/bc', '/param'], ['/a/c/d', '/param/d'], ['/b', '/rest/b'], ['/', '/rest/'], ['/ab', '/rest/ab']]) {
    t.equal(await sent(pair, target), expected, target)
  }
})

t.test('prefixes of the scopes around count', async t => {
  const pair = await start(t, { routes: [] }, {
    setup: async app => {
      await app.register(async outer => {
        await outer.register(routes, { prefix: '/api', rewritePrefix: '/in' })
        await outer.register(async inner => { await inner.register(routes, { prefix: '/deep' }) }, { prefix: '/inner' })
      }, { prefix: '/outer' })
      await app.register(async tenant => { await tenant.register(routes, { prefix: '/api', rewritePrefix: '/of/:tenant' }) }, { prefix: '/t/:tenant' })
      await app.register(async scope => { await scope.register(routes) }, { prefix: '/whole' })
    }
  })
  for (const [target, expected] of [['/outer/api/x', '/in/x'], ['/%6futer/%61pi/x', '/in/x'], ['/outer/inner/deep/x?y', '/x?y'], ['/outer/inner/deep', '/'], ['/t/a%20b/api/x', '/of/a%20b/x'], ['/whole/x', '/x'], ['/api/x', 404], ['/outer/x', 404], ['/outer/apix', 404]] as const) {
    t.equal(await sent(pair, target), expected, target)
  }
})

// What the application has told its router

t.test('caseSensitive: false', async t => {
  const pair = await start(t, { routes: [{ prefix: '/Api/:Id', rewritePrefix: '/v1/:Id' }] }, { fastify: { routerOptions: { caseSensitive: false } } })
  for (const [target, expected] of [['/api/AbC/XyZ', '/v1/AbC/XyZ'], ['/API/x/Y', '/v1/x/Y'], ['/aPi/x', '/v1/x'], ['/%41PI/x/%2F', '/v1/x/%2F']]) t.equal(await sent(pair, target), expected, target)
})

t.test('ignoreTrailingSlash: true', async t => {
  const pair = await start(t, {}, { fastify: { routerOptions: { ignoreTrailingSlash: true } } })
  for (const [target, expected] of [['/api', '/'], ['/api/', '/'], ['/api/x', '/x'], ['/api/x/', '/x/'], ['/api/x/?y', '/x/?y'], ['/apix', 404]] as const) t.equal(await sent(pair, target), expected, target)
})

t.test('ignoreDuplicateSlashes: true', async t => {
  const pair = await start(t, { routes: [{ prefix: '/a/b', rewritePrefix: '/v1' }, { prefix: '/c' }] }, { fastify: { routerOptions: { ignoreDuplicateSlashes: true } } })
  for (const [target, expected] of [['/a/b/x', '/v1/x'], ['/a//b/x', '/v1/x'], ['/a///b/x//y', '/v1/x//y'], ['/a//b', '/v1'], ['/c/x//y', '/x//y'], ['/a//bx', 404]] as const) t.equal(await sent(pair, target), expected, target)
  for (const target of ['/c//evil.example', '/c///evil.example']) {
    const result = await sent(pair, target)
    t.ok(result === 400 || result === '/evil.example', `${target}: ${result}`)
  }
  t.equal(await sent(pair, '//c/x'), 400)
})

t.test('useSemicolonDelimiter: true', async t => {
  const pair = await start(t, { routes: [{ prefix: '/api' }] }, {
    fastify: { routerOptions: { useSemicolonDelimiter: true } as object },
    setup: app => { app.get('/api/admin', (_request, reply) => reply.code(403).send()) }
  })
  t.equal(await sent(pair, '/api/admin;x'), 403)
  // Here the router's path ends at the first semicolon: what follows must not be forwarded as more of a path.
  for (const target of ['/api;/admin', '/api;x=1/admin', '/api/x;/../admin']) {
    const result = await sent(pair, target)
    t.ok(typeof result === 'number' || !/^\/admin/.test(result), `${target}: ${result}`)
  }
})

t.test('rewriteUrl: the rewritten target is the one that is sent', async t => {
  const pair = await start(t, {}, { fastify: { rewriteUrl: (request: { url?: string }) => (request.url as string).replace('/old', '/api') } })
  t.equal(await sent(pair, '/old/x?y'), '/x?y')
})

// Absolute form

t.test('the authority of an absolute-form target outranks Host', async t => {
  const pair = await start(t, { preserveHost: true })
  for (const [target, path, host] of [
    ['http://asked.example/api/x?y', '/x?y', 'asked.example'], ['http://asked.example:81/api', '/', 'asked.example:81'], ['HTTP://Asked.Example/api/x', '/x', 'Asked.Example'], ['https://asked.example/api/x', '/x', 'asked.example'],
    ['http://[2001:db8::1]:81/api/x', '/x', '[2001:db8::1]:81'], ['http://10.0.0.1/api/x', '/x', '10.0.0.1'], ['http://asked.example/%61pi/a//b%2F?', '/a//b%2F?', 'asked.example']
  ]) {
    t.equal(await sent(pair, target, 'Host: ignored.example\r\n'), path, target)
    const request = pair.backend.requests.at(-1) as Message
    t.strictSame(request.values('host'), [host])
    t.strictSame(request.values('x-forwarded-host'), [host])
  }
  t.equal(await sent(pair, 'http://asked.example/api/x', 'Host: \r\n'), '/x', 'an empty Host beside it does no harm')
})

t.test('the authority never says where a request is sent', async t => {
  const stranger = await rawBackend(t, () => ok('stranger'))
  const pair = await start(t)
  t.equal(await sent(pair, `http://127.0.0.1:${stranger.port}/api/x`), '/x')
  t.strictSame(pair.backend.requests[0].values('host'), [`127.0.0.1:${pair.backend.port}`])
  t.equal(stranger.connections.length, 0)
})

t.test('an absolute form without a path means the root', async t => {
  const pair = await start(t, { routes: [{ prefix: '/' }] })
  t.equal(await sent(pair, 'http://gateway'), '/')
  t.equal(await sent(pair, 'http://gateway:81'), '/')
  t.equal(await sent(pair, 'http://gateway?x=/y'), '/?x=/y')
  t.equal(await sent(pair, 'http://gateway?'), '/?')
  t.equal(await sent(pair, 'http://gateway/'), '/')
})

t.test('a path in the query of an absolute form is no path', async t => {
  const pair = await start(t)
  for (const target of ['http://gateway?/api/x', 'http://gateway?x=/api/y', 'http://gateway', 'http://gateway?', 'http://gateway#/api/x']) {
    const status = await sent(pair, target)
    t.ok(status === 404 || status === 400, `${target}: ${status}`)
  }
})

t.test('absolute forms with credentials or without a good host are refused', async t => {
  for (const prefix of ['/', '/api']) {
    const pair = await start(t, { routes: [{ prefix }] })
    for (const target of [
      'http://user@gateway/api/x', 'http://user:secret@gateway/api/x', 'http://@gateway/api/x', 'http://:@gateway/api/x', 'http://a@b@gateway/api/x', 'http:///api/x', 'http://:80/api/x', 'http://gateway:port/api/x', 'http://gateway:80:80/api/x', 'http://gateway:999999/api/x',
      'http://[::1/api/x', 'http://::1/api/x', 'http://[gateway]/api/x', 'http://gateway\\@evil/api/x', 'http://gate"way/api/x', 'http://gate<way>/api/x', 'http://gate|way/api/x'
    ]) {
      const response = await ask(pair.gateway, target)
      t.ok(response.status === 400 || response.status === 404, `${target}: ${response.status}`)
      t.notMatch(response.body, 'rockstar-proxy/lib')
    }
    t.equal(pair.backend.connections.length, 0)
  }
})

t.test('other schemes, and what is no target at all, are refused', async t => {
  for (const prefix of ['/', '/api']) {
    const pair = await start(t, { routes: [{ prefix }] })
    for (const target of ['ftp://gateway/api/x', 'ws://gateway/api/x', 'file:///api/x', 'httpx://gateway/api/x', 'javascript://gateway/api/x', 'gopher://gateway:70/_x', 'http:/api/x', 'http:api/x', 'https//gateway/api/x', 'gateway:80', 'gateway/api/x', 'api/x', '?x', '.', '..', '../api/x', '@evil.example/api/x', ':80/x', '\\api\\x']) {
      const status = await sent(pair, target)
      t.ok(status === 404 || status === 400, `${target}: ${status}`)
    }
    t.equal(pair.backend.connections.length, 0)
  }
})

t.test('a path in absolute form is held to the same as any', async t => {
  for (const prefix of ['/', '/api']) {
    const pair = await start(t, { routes: [{ prefix }] })
    for (const rest of ['/../x', '/api/../x', '/api/%2e%2e/x', '/api/..%2fx', '/api/..;/x', '/api/a\\..\\x', '//evil.example', '/api//evil.example/../x', '/api/%00', '/%2e%2e', '/..']) {
      const status = await sent(pair, `http://gateway${rest}`)
      t.ok(status === 404 || status === 400, `${rest}: ${status}`)
    }
    t.equal(pair.backend.connections.length, 0)
  }
})

t.test('an ordinary handler takes absolute forms too', async t => {
  const pair = await start(t, {}, { setup: app => { app.get('/mine', (request, reply) => app.proxy.forward(request, reply)) } })
  t.equal(await sent(pair, 'http://asked.example/mine?x'), '/mine?x')
})

t.test('a route constrained to a host is chosen by the host that outranks', async t => {
  const pair = await start(t, {
    preserveHost: true,
    routes: [
      { prefix: '/', constraints: { host: 'public.example' } },
      { prefix: '/', constraints: { host: 'private.example' }, onRequest: (_request: unknown, reply: { code (status: number): { send (): void } }) => reply.code(403).send() }
    ]
  })
  t.equal(await sent(pair, '/x', 'Host: public.example\r\n'), '/x')
  t.equal(await sent(pair, '/x', 'Host: private.example\r\n'), 403)
  // Else a guard looks at one host, and the backend at another.
  const result = await sent(pair, 'http://private.example/x', 'Host: public.example\r\n')
  t.ok(result === 403 || result === 400, `the guarded host is not reached past its guard: ${result}`)
})

// Guards

t.test('a guard on a route of the application cannot be walked around through a proxied prefix', async t => {
  const pair = await start(t, { routes: [{ prefix: '/' }, { prefix: '/public' }] }, {
    setup: app => {
      for (const url of ['/admin', '/admin/*', '/public/admin', '/public/admin/*']) app.all(url, (_request, reply) => reply.code(403).send())
    }
  })
  for (const target of [
    '/admin', '/admin?x', '/%61dmin', '/admi%6e', '/%61%64%6d%69%6e/x', '/admin/x', '/admin/%2e%2e/admin', '/public/../admin', '/public/%2e%2e/admin', '/public/..%2fadmin', '/public/..%5cadmin', '/public/..;/admin', '/public/..\\admin', '/public\\..\\admin', '/public/%252e%252e/admin',
    '/./admin', '/%2e/admin', '//admin', '///admin', '/%2fadmin', '/%2f/admin', '/\\admin', '/%5cadmin', '/x/../admin', '/x/..%2f../admin', '/;/../admin', '/admin/.', '/admin/..', '/admin%00', '/admin#x', '/%00/../admin',
    '/public/admin', '/public/%61dmin', '/publi%63/admin', '/public//admin', '/public/./admin', '/public/x/../admin', '/public/%2fadmin', '/public/%2e/admin', '/public/\\admin', '/public/%5cadmin', '/public/..;/public/admin', '/public/admin/..%2fadmin',
    'http://gateway/admin', 'http://gateway/%61dmin', 'http://gateway//admin', 'http://gateway/public/../admin', 'http://gateway/public/%2e%2e/admin', 'HTTP://gateway/admin', 'http://user@gateway/admin'
  ]) {
    const status = await sent(pair, target)
    t.ok(status === 403 || status === 400 || status === 404, `${target}: ${status}`)
  }
  t.equal(pair.backend.connections.length, 0, 'nothing has reached the backend')
  t.equal(await sent(pair, '/public/free'), '/free', 'which is there')
})

t.test('hooks of a route see the same path that is matched', async t => {
  const seen: string[] = []
  const pair = await start(t, { routes: [{ prefix: '/api', preHandler: (request: { url: string }, _reply: unknown, done: () => void) => { seen.push(request.url); done() } }] })
  t.equal(await sent(pair, '/%61pi/x%2Fy?z'), '/x%2Fy?z')
  t.strictSame(seen, ['/%61pi/x%2Fy?z'])
})
