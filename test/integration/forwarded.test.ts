import Fastify from 'fastify'
import { connect, createServer, type AddressInfo, type ListenOptions } from 'node:net'
import t, { type Test } from 'tap'
import rockstarProxy from '../../plugins/index.ts'
import type { RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type Gateway, type GatewaySetup } from '../helpers/app.ts'
import { ok, rawBackend, Wire, type Message, type RawBackend } from '../helpers/wire.ts'

/** Fastify takes a number too, and trusts nobody then. */
type TrustProxy = boolean | number | string | string[] | ((address: string, hop: number) => boolean)

interface Pair {
  backend: RawBackend
  gateway: Gateway
}

async function start (t: Test, trustProxy: TrustProxy, options: RockstarProxyOptions = {}, setup: GatewaySetup = {}): Promise<Pair> {
  const backend = await rawBackend(t, () => ok())
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/api' }], ...options }, { fastify: { trustProxy: trustProxy as boolean }, ...setup })
  return { backend, gateway }
}

/** Sends one request and resolves to what the backend gets of it. */
async function forwarded (t: Test, { backend, gateway }: Pair, fields: string, host = 'gateway', target = '/api/x'): Promise<Message> {
  const before = backend.requests.length
  const client = await gateway.connect()
  const response = await client.send(`GET ${target} HTTP/1.1\r\nHost: ${host}\r\n${fields}\r\n`).response()
  client.close()
  t.equal(response.status, 200, 'it is answered')
  return backend.requests[before]
}

/** The elements of a `Forwarded` field as a reader of RFC 7239, 4 sees them; throws where it breaks the grammar. */
function elementsOf (value: string): Record<string, string>[] {
  const pair = /([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)|"((?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*)")/y
  const elements: Record<string, string>[] = [{}]
  let at = 0
  while (true) {
    pair.lastIndex = at
    const found = pair.exec(value)
    if (found !== null) {
      const name = found[1].toLowerCase()
      const element = elements[elements.length - 1]
      if (name in element) throw new Error(`${name} comes twice in one element of ${value}`)
      element[name] = found[2] ?? found[3].replaceAll(/\\(.)/g, '$1')
      at = pair.lastIndex
    }
    if (at === value.length) return elements
    const separator = /;|[ \t]*,[ \t]*/y
    separator.lastIndex = at
    const separated = separator.exec(value)
    if (separated === null) throw new Error(`neither pair nor separator at ${at} of ${value}`)
    at = separator.lastIndex
    if (separated[0] !== ';') elements.push({})
  }
}

const CLAIMS = [
  'X-Forwarded-For: 6.6.6.6, 7.7.7.7', 'x-forwarded-for: 8.8.8.8', 'X-Forwarded-Host: claimed.example', 'X-Forwarded-Proto: https',
  'X-Forwarded-Port: 444', 'X-Forwarded-Prefix: /claimed', 'x-FORWARDED-server: s', 'Forwarded: for=6.6.6.6;proto=https', 'forwarded: for="[2001:db8::1]:80"', ''
].join('\r\n')

/** All of the family, as they came. */
const family = (request: Message) => request.fields.filter(([name]) => /^(?:x-forwarded-|forwarded$)/i.test(name))
const WRITTEN_ANEW = [['X-Forwarded-For', '127.0.0.1'], ['X-Forwarded-Host', 'gateway'], ['X-Forwarded-Proto', 'http'], ['Forwarded', 'for=127.0.0.1;host=gateway;proto=http']]

t.test('a client that said nothing is told of', async t => {
  for (const trustProxy of [false, true]) {
    t.strictSame(family(await forwarded(t, await start(t, trustProxy), '')), WRITTEN_ANEW)
  }
})

t.test('what a peer claims is replaced where Fastify does not trust it', async t => {
  for (const trustProxy of [false, '10.0.0.0/8', ['10.1.2.3', '192.168.0.0/16', '::1'], () => false, (address: string) => address === '10.0.0.1', 1] as TrustProxy[]) {
    t.strictSame(family(await forwarded(t, await start(t, trustProxy), CLAIMS)), WRITTEN_ANEW, `trustProxy: ${trustProxy}`)
  }
})

t.test('what a trusted peer says is kept, and the peer appended', async t => {
  for (const trustProxy of [true, '127.0.0.1', '127.0.0.0/8', ['10.0.0.1', '127.0.0.1'], 'loopback', (address: string) => address === '127.0.0.1'] as TrustProxy[]) {
    const request = await forwarded(t, await start(t, trustProxy), CLAIMS)
    const what = `trustProxy: ${trustProxy}`
    t.equal(request.values('x-forwarded-for').join(', '), '6.6.6.6, 7.7.7.7, 8.8.8.8, 127.0.0.1', what)
    t.strictSame(request.values('x-forwarded-host'), ['claimed.example'], what)
    t.strictSame(request.values('x-forwarded-proto'), ['https'], what)
    t.strictSame(request.values('x-forwarded-port'), ['444'], what)
    t.strictSame(request.values('x-forwarded-prefix'), ['/claimed'], what)
    t.strictSame(request.values('x-forwarded-server'), ['s'], what)
    t.strictSame(elementsOf(request.values('forwarded').join(', ')), [
      { for: '6.6.6.6', proto: 'https' }, { for: '[2001:db8::1]:80' }, { for: '127.0.0.1', host: 'claimed.example', proto: 'https' }
    ], what)
  }
})

t.test('trust is asked of the peer itself, not of those it speaks of', async t => {
  const asked: string[] = []
  const trusts = (address: string) => {
    asked.push(address)
    return address !== '127.0.0.1'
  }
  // The last of X-Forwarded-For would be trusted; it is not he who is connected.
  t.strictSame(family(await forwarded(t, await start(t, trusts), 'X-Forwarded-For: 10.0.0.1\r\n')), WRITTEN_ANEW)
  t.equal(asked[0], '127.0.0.1')
})

t.test('trust belongs to a connection: one that is trusted does not lend it to the next', async t => {
  let trusted = true
  const pair = await start(t, () => trusted)
  t.equal((await forwarded(t, pair, 'X-Forwarded-For: 6.6.6.6\r\n')).values('x-forwarded-for').join(), '6.6.6.6, 127.0.0.1')
  trusted = false
  t.equal((await forwarded(t, pair, 'X-Forwarded-For: 6.6.6.6\r\n')).values('x-forwarded-for').join(), '127.0.0.1')
})

t.test('a second request on a connection says nothing for the first', async t => {
  const pair = await start(t, true)
  const client = await pair.gateway.connect()
  const get = (fields: string) => `GET /api/x HTTP/1.1\r\nHost: gateway\r\n${fields}\r\n`
  const first = await client.send(get('X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Host: one.example\r\nForwarded: for=6.6.6.6\r\n')).response()
  await client.send(get('')).response(first.length)
  t.strictSame(family(pair.backend.requests[1]), WRITTEN_ANEW)
})

t.test('a trusted peer that names its own fields in Connection takes only those back', async t => {
  const request = await forwarded(t, await start(t, true), 'Connection: X-Forwarded-For, Forwarded\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n')
  t.strictSame(family(request), WRITTEN_ANEW)
})

t.test('of several hosts and protocols that a trusted peer names, the last counts, as for Fastify', async t => {
  const request = await forwarded(t, await start(t, true), 'X-Forwarded-Host: a.example, b.example\r\nX-Forwarded-Proto: https, http\r\n')
  t.strictSame(request.values('x-forwarded-host'), ['b.example'])
  t.strictSame(request.values('x-forwarded-proto'), ['http'])
  t.strictSame(elementsOf(request.values('forwarded')[0]), [{ for: '127.0.0.1', host: 'b.example', proto: 'http' }])
})

t.test('a host that is no token is quoted in Forwarded', async t => {
  const pair = await start(t, false)
  for (const host of ['gateway:8080', '[2001:db8::1]', '[::1]:81', 'a;proto=evil', 'a,for=6.6.6.6', 'a;host=b;by=c', 'a=b', 'a(b)', '~!$&\'*+', '%22;for=6.6.6.6']) {
    const request = await forwarded(t, pair, '', host)
    t.strictSame(request.values('x-forwarded-host'), [host])
    t.strictSame(elementsOf(request.values('forwarded').join(', ')), [{ for: '127.0.0.1', host, proto: 'http' }], request.values('forwarded')[0])
  }
})

t.test('a Host that is none is refused', async t => {
  const { backend, gateway } = await start(t, false)
  for (const host of ['a"b', 'a";for="6.6.6.6', 'a\\', 'a b', 'a, b', 'a/b', 'a@b', 'user:pass@b', 'a?b', 'a#b', '<a>', 'h\xe9', 'a:b', 'a:80:80', '[::1', '::1', '[gggg]', '[a]', '[1:2]', '[1.2.3.4]', 'a%zz', 'a%', 'a|b', 'a^b', 'http://a', 'a:123456']) {
    for (const fields of ['', 'X-Forwarded-Host: fine.example\r\n']) {
      const client = await gateway.connect()
      const response = await client.send(`GET /api/x HTTP/1.1\r\nHost: ${host}\r\n${fields}\r\n`).response()
      t.equal(response.status, 400, host)
      client.close()
    }
  }
  t.equal(backend.requests.length, 0, 'none has reached the backend')
})

t.test('a trusted X-Forwarded-Host cannot break out of Forwarded', async t => {
  const pair = await start(t, true)
  for (const host of ['a";for="6.6.6.6', 'a\\', 'a\\";by="evil', '"', '\\"', 'a;for=6.6.6.6', 'a b', 'h\xc3\xa9', '"quoted"', 'a\tb', '\\\\"', ';;', '=']) {
    const request = await forwarded(t, pair, `X-Forwarded-Host: ${host}\r\n`)
    t.strictSame(request.values('x-forwarded-host'), [host])
    t.strictSame(elementsOf(request.values('forwarded').join(', ')), [{ for: '127.0.0.1', host, proto: 'http' }], request.values('forwarded')[0])
  }
})

t.test('a trusted X-Forwarded-Proto cannot break out of Forwarded', async t => {
  const pair = await start(t, true)
  for (const proto of ['https;by=evil', 'https";for="6.6.6.6', '"', 'a b', 'https\\', 'https;for=6.6.6.6;host=x', 'h\xe9']) {
    const request = await forwarded(t, pair, `X-Forwarded-Proto: ${proto}\r\n`)
    t.strictSame(elementsOf(request.values('forwarded').join(', ')), [{ for: '127.0.0.1', host: 'gateway', proto }], request.values('forwarded')[0])
  }
})

t.test('a trusted Forwarded that is broken cannot hide the element that we add', async t => {
  const pair = await start(t, true)
  // Many a proxy that is trusted passes on what it does not know, as its client has sent it.
  for (const value of ['for="6.6.6.6', 'for=6.6.6.6;host="', 'for="a\\', '"', 'for="', 'for=6.6.6.6;proto="http, for=7.7.7.7']) {
    const request = await forwarded(t, pair, `Forwarded: ${value}\r\n`)
    const written = request.values('forwarded').join(', ')
    let elements: Record<string, string>[] = []
    t.doesNotThrow(() => { elements = elementsOf(written) }, `${value} became ${written}`)
    t.strictSame(elements.at(-1), { for: '127.0.0.1', host: 'gateway', proto: 'http' }, 'a reader finds us at the end')
  }
})

t.test('what a trusted Forwarded says in ways of its own is kept', async t => {
  const pair = await start(t, true)
  for (const value of ['For="[2001:db8:cafe::17]:4711"', 'for=192.0.2.60;proto=http;by=203.0.113.43', 'for=192.0.2.43, for=198.51.100.17', 'for=_gazonk', 'for=unknown;secret="a, \\"b\\"; c"', 'for="_hidden:_port"', 'for=192.0.2.1;;proto=http;']) {
    const request = await forwarded(t, pair, `Forwarded: ${value}\r\n`)
    t.equal(request.values('forwarded').join(', '), `${value}, for=127.0.0.1;host=gateway;proto=http`)
  }
})

t.test('the authority of an absolute-form target is the host that was asked for, for a trusted peer too', async t => {
  for (const trustProxy of [false, true]) {
    const pair = await start(t, trustProxy)
    const request = await forwarded(t, pair, '', 'ignored.example', 'http://asked.example:81/api/x')
    t.strictSame(request.values('x-forwarded-host'), ['asked.example:81'], `trustProxy: ${trustProxy}`)
    t.strictSame(elementsOf(request.values('forwarded')[0]), [{ for: '127.0.0.1', host: 'asked.example:81', proto: 'http' }])
  }
  const request = await forwarded(t, await start(t, true), 'X-Forwarded-Host: claimed.example\r\n', 'ignored.example', 'http://asked.example/api/x')
  t.strictSame(request.values('x-forwarded-host'), ['claimed.example'], 'unless the trusted peer names another')
})

t.test('without a Host none is told of', async t => {
  const pair = await start(t, false)
  t.strictSame(family(await forwarded(t, pair, '', '')), [['X-Forwarded-For', '127.0.0.1'], ['X-Forwarded-Proto', 'http'], ['Forwarded', 'for=127.0.0.1;proto=http']])
})

t.test('forwarded: false writes none, and removes what an untrusted peer sent', async t => {
  t.strictSame(family(await forwarded(t, await start(t, false, { forwarded: false }), CLAIMS)), [])
})

t.test('forwarded: false leaves what a trusted peer sent as it is', async t => {
  const request = await forwarded(t, await start(t, true, { forwarded: false }), CLAIMS)
  const claims = CLAIMS.trimEnd().split('\r\n').map(line => line.split(': '))
  for (const name of new Set(claims.map(([name]) => name.toLowerCase()))) {
    t.equal(request.values(name).join(', '), claims.filter(([other]) => other.toLowerCase() === name).map(([, value]) => value).join(', '), name)
  }
  t.equal(family(await forwarded(t, await start(t, true, { forwarded: false }), '')).length, 0, 'and adds nothing of its own')
})

t.test('forwarded: { standard: false } writes the X- fields only', async t => {
  const own = WRITTEN_ANEW.slice(0, 3)
  t.strictSame(family(await forwarded(t, await start(t, false, { forwarded: { standard: false } }), CLAIMS)), own)
  const request = await forwarded(t, await start(t, true, { forwarded: { standard: false } }), 'Forwarded: for=6.6.6.6\r\nX-Forwarded-For: 6.6.6.6\r\n')
  t.strictSame(request.values('forwarded'), ['for=6.6.6.6'])
  t.strictSame(request.values('x-forwarded-for'), ['6.6.6.6, 127.0.0.1'])
})

t.test('forwarded: { xForwarded: false } writes the standard\'s field only', async t => {
  t.strictSame(family(await forwarded(t, await start(t, false, { forwarded: { xForwarded: false } }), CLAIMS)), WRITTEN_ANEW.slice(3))
  const request = await forwarded(t, await start(t, true, { forwarded: { xForwarded: false } }), 'Forwarded: for=6.6.6.6\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Host: claimed.example\r\nX-Forwarded-Proto: https\r\n')
  t.strictSame(request.values('x-forwarded-for'), ['6.6.6.6'])
  t.strictSame(request.values('x-forwarded-host'), ['claimed.example'])
  t.strictSame(request.values('x-forwarded-proto'), ['https'])
  t.strictSame(request.values('forwarded'), ['for=6.6.6.6, for=127.0.0.1;host=claimed.example;proto=https'])
})

t.test('forwarded: {} and true are the same as nothing', async t => {
  for (const value of [{}, true, undefined]) {
    t.strictSame(family(await forwarded(t, await start(t, false, { forwarded: value }), CLAIMS)), WRITTEN_ANEW)
  }
})

t.test('a named upstream has a forwarded of its own', async t => {
  const backend = await rawBackend(t, () => ok())
  const gateway = await startGateway(t, {
    backends: [backend.url],
    forwarded: false,
    upstreams: { other: { backends: [backend.url], forwarded: { standard: false } } },
    routes: [{ prefix: '/api' }, { prefix: '/other', upstream: 'other' }]
  })
  t.strictSame(family(await forwarded(t, { backend, gateway }, CLAIMS)), [])
  t.strictSame(family(await forwarded(t, { backend, gateway }, CLAIMS, 'gateway', '/other/x')), WRITTEN_ANEW.slice(0, 3))
})

t.test('an ordinary handler that forwards writes the same', async t => {
  const pair = await start(t, true, {}, { fastify: { trustProxy: true }, setup: app => { app.get('/mine', (request, reply) => app.proxy.forward(request, reply)) } })
  const request = await forwarded(t, pair, 'X-Forwarded-For: 6.6.6.6\r\n', 'gateway', '/mine')
  t.strictSame(request.values('x-forwarded-for'), ['6.6.6.6, 127.0.0.1'])
})

/** Asks a gateway that listens elsewhere than at 127.0.0.1; resolves to what the backend gets. */
async function askAt (t: Test, options: ListenOptions): Promise<Message> {
  const backend = await rawBackend(t, () => ok())
  const app = Fastify({ forceCloseConnections: true })
  t.teardown(() => app.close())
  await app.register(rockstarProxy, { backends: [backend.url], routes: [{ prefix: '/api' }], shutdownTimeout: 0 })
  await app.listen(options)
  const address = app.server.address() as AddressInfo | string
  const socket = typeof address === 'string' ? connect(address) : connect({ port: address.port, host: options.host })
  t.teardown(() => socket.destroy())
  const response = await new Wire(socket).send('GET /api/x HTTP/1.1\r\nHost: gateway\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n').response()
  t.equal(response.status, 200)
  return backend.requests[0]
}

const ipv6 = await new Promise<boolean>(resolve => {
  const server = createServer().once('error', () => resolve(false))
  server.listen(0, '::1', () => server.close(() => resolve(true)))
})

t.test('an IPv6 address stands in brackets and quotes in Forwarded, and bare in X-Forwarded-For', { skip: ipv6 ? false : 'this machine has no ::1' }, async t => {
  const request = await askAt(t, { port: 0, host: '::1' })
  t.strictSame(request.values('x-forwarded-for'), ['::1'])
  t.strictSame(request.values('forwarded'), ['for="[::1]";host=gateway;proto=http'])
  t.strictSame(elementsOf(request.values('forwarded')[0])[0].for, '[::1]')
})

t.test('a client on a Unix socket is unknown', { skip: process.platform === 'win32' ? 'no Unix sockets here' : false }, async t => {
  const request = await askAt(t, { path: `${t.testdir()}/s` })
  t.strictSame(request.values('x-forwarded-for'), ['unknown'])
  t.strictSame(request.values('forwarded'), ['for=unknown;host=gateway;proto=http'])
})
