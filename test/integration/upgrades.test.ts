import { once } from 'node:events'
import { connect as connectTls } from 'node:tls'
import fc from 'fast-check'
import Fastify, { type FastifyInstance } from 'fastify'
import { ServerResponse, type IncomingMessage } from 'node:http'
import { createSecureServer } from 'node:http2'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import { join } from 'node:path'
import t from 'tap'
import { Agent } from 'undici'
import { WebSocket, WebSocketServer } from 'ws'
import rockstarProxy from '../../plugins/index.ts'
import type { RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type GatewaySetup } from '../helpers/app.ts'
import { Authority } from '../helpers/certificates.ts'
import { FakeClock } from '../helpers/clock.ts'
import { handshake, nothingLeft, switching, switchingBackend, tunnelRig, type Asked, type End } from '../helpers/tunnel.ts'
import { ok, rawBackend, until, Wire } from '../helpers/wire.ts'

/** A test that hangs fails by itself, and lets the others run. */
const LIMIT = 4_000

const rejections: unknown[] = []
const onRejection = (reason: unknown) => { rejections.push(reason) }
process.on('unhandledRejection', onRejection)
const warnings: Error[] = []
const onWarning = (warning: Error) => { warnings.push(warning) }
process.on('warning', onWarning)
t.teardown(() => process.off('unhandledRejection', onRejection).off('warning', onWarning))

const latin1 = (bytes: Buffer) => bytes.toString('latin1')
/** Lets what has been sent to this process be read in it. */
const turns = async () => { for (let i = 0; i < 10; i++) await new Promise(resolve => setImmediate(resolve)) }

async function closeBoth ({ client, server }: { client: End, server: End }): Promise<void> {
  client.wire.socket.end()
  server.wire.socket.end()
  await until(() => client.wire.closed && server.wire.closed)
}

// The handshake

t.test('the backend is asked for the protocol by fields of this connection, and the client gets its 101', { timeout: LIMIT }, async t => {
  const rig = await tunnelRig(t, {}, { asked: () => switching('WebSocket', 'Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nX-Case: 1\r\nx-case: 2\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\nX-Hop: 1\r\n').replace('Connection: Upgrade', 'Connection: upgrade, X-Hop') })
  const { head } = await rig.open(handshake('/chat/a%20b?x=1', 'Sec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\nOrigin: http://x\r\nX-Gone: 1\r\n').replace('Connection: Upgrade', 'Connection: keep-alive, Upgrade, X-Gone'))
  const [request] = rig.backend.requests
  t.equal(request.startLine, 'GET /chat/a%20b?x=1 HTTP/1.1')
  t.same(request.values('upgrade'), ['websocket'])
  t.same(request.values('connection').map(value => value.toLowerCase()), ['upgrade'])
  t.same(request.values('sec-websocket-protocol'), ['a, b'])
  t.same(request.values('sec-websocket-extensions'), ['permessage-deflate; client_max_window_bits'])
  t.same(request.values('sec-websocket-key'), ['dGhlIHNhbXBsZSBub25jZQ=='])
  t.same(request.values('origin'), ['http://x'])
  t.same(request.values('via'), ['1.1 rockstar-proxy'])
  t.same(request.values('x-forwarded-for'), ['127.0.0.1'])
  t.same(request.values('x-gone'), [], 'what Connection names goes no further')
  t.equal(request.values('content-length').length + request.values('transfer-encoding').length, 0)
  t.equal(head.startLine, 'HTTP/1.1 101 Switching Protocols')
  t.same(head.values('upgrade'), ['WebSocket'])
  t.same(head.values('connection').map(value => value.toLowerCase()), ['upgrade'])
  t.same(head.fields.filter(([name]) => name.toLowerCase() === 'x-case'), [['X-Case', '1'], ['x-case', '2']])
  t.same(head.values('sec-websocket-accept'), ['s3pPLMBiTxaQ9kYGzzhZRbK+xOo='])
  t.same(head.values('via'), ['1.1 rockstar-proxy'])
  for (const name of ['keep-alive', 'x-hop', 'content-length', 'transfer-encoding', 'date']) t.same(head.values(name), [], name)
})

t.test('spellings that mean the same', async t => {
  const spellings = [
    'GET / HTTP/1.1\r\nHost: g\r\nUPGRADE: WebSocket\r\nCONNECTION: uPgRaDe\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: g\r\nConnection: keep-alive\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: g\r\nConnection: , Upgrade ,\r\nUpgrade: h2c, websocket\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: foo/2\r\nUpgrade: websocket\r\n\r\n',
    'GET / HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n\r\n',
    'GET http://g/ HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'
  ]
  const rig = await tunnelRig(t)
  for (const bytes of spellings) {
    await t.test(bytes.slice(0, -4).replaceAll('\r\n', ' | '), { timeout: LIMIT }, async t => {
      const pair = await rig.open(bytes)
      t.same(rig.backend.requests.at(-1)?.values('upgrade'), ['websocket'])
      pair.client.say('up')
      await pair.server.hears('up')
      pair.server.say('down')
      await pair.client.hears('down')
      await closeBoth(pair)
      await nothingLeft(t, rig.gateway)
    })
  }
})

t.test('what is no request to switch is an ordinary one, and its connection goes on', async t => {
  const requests: [string, string, RockstarProxyOptions?][] = [
    ['Upgrade without Connection', 'GET /a HTTP/1.1\r\nHost: g\r\nUpgrade: websocket\r\n\r\n'],
    ['Connection without Upgrade', 'GET /a HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\n\r\n'],
    ['Connection that names something else', 'GET /a HTTP/1.1\r\nHost: g\r\nConnection: keep-alive\r\nUpgrade: websocket\r\n\r\n'],
    ['an unknown protocol', handshake('/a', '', 'x-other')],
    ['an empty Upgrade', handshake('/a', '', '')],
    ['a list of unknown protocols', handshake('/a', '', 'h2c, x-other, TLS/1.2')],
    ['h2c', handshake('/a', 'HTTP2-Settings: AAMAAABkAAQAAP__\r\n', 'h2c').replace('Connection: Upgrade', 'Connection: Upgrade, HTTP2-Settings')],
    ['a WebSocket where that is off', handshake('/a'), { websocket: false }]
  ]
  for (const [name, bytes, options] of requests) {
    await t.test(name, { timeout: LIMIT }, async t => {
      const rig = await tunnelRig(t, options, { asked: request => ok(request.startLine) })
      const client = await rig.gateway.connect()
      let at = 0
      for (const part of [bytes, bytes, 'GET /b HTTP/1.1\r\nHost: g\r\n\r\n']) {
        client.send(part)
        const response = await client.response(at)
        at += response.length
        t.match(response, { status: 200, body: part.includes('/a') ? 'GET /a HTTP/1.1' : 'GET /b HTTP/1.1' })
      }
      t.notOk(client.ended)
      for (const request of rig.backend.requests) {
        t.same(request.values('upgrade'), [])
        t.same(request.values('http2-settings'), [])
        t.notMatch(request.values('connection').join(), /upgrade|settings/i)
      }
      t.match(rig.proxy.getMetrics(), { totalRequests: 3, successfulRequests: 3, tunnels: { open: 0, total: 0 } })
      await nothingLeft(t, rig.gateway)
    })
  }

  await t.test('HTTP/1.0', { timeout: LIMIT }, async t => {
    const rig = await tunnelRig(t, {}, { asked: request => ok(request.startLine) })
    const client = await rig.gateway.connect()
    client.send(handshake('/a').replace('HTTP/1.1', 'HTTP/1.0').replace('Connection: Upgrade', 'Connection: Upgrade, keep-alive'))
    t.match(await client.response(), { status: 200, body: 'GET /a HTTP/1.1' })
    t.same(rig.backend.requests[0].values('upgrade'), [])
  })
})

t.test('a request with a body that names h2c passes byte for byte, as Java clients send it', async t => {
  const fields = 'HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nUser-Agent: Java-http-client/17\r\n'
  const content = latin1(Buffer.from(Array.from({ length: 100_000 }, (_, i) => i * 7 % 256)))
  const upgrade = (more: string) => `POST /p HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nHost: g\r\n${fields}Upgrade: h2c\r\n${more}\r\n`
  const chunked = `${(50_000).toString(16)}\r\n${content.slice(0, 50_000)}\r\n${(50_000).toString(16)}\r\n${content.slice(50_000)}\r\n0\r\n\r\n`
  const bodies: [string, string][] = [
    ['with a length', upgrade(`Content-Length: ${content.length}\r\n`) + content],
    ['chunked', upgrade('Transfer-Encoding: chunked\r\n') + chunked],
    ['of no bytes', upgrade('Content-Length: 0\r\n')]
  ]
  for (const [name, bytes] of bodies) {
    for (const [pace, size] of [['at once', Infinity], ['in pieces', 4_000], ['its head by the byte', 1]] as const) {
      await t.test(`${name}, ${pace}`, { timeout: LIMIT }, async t => {
        const backend = await rawBackend(t, ({ startLine, body }) => ok(`${startLine} ${body.length}`))
        const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] })
        const client = await gateway.connect()
        const all = bytes + 'GET /next HTTP/1.1\r\nHost: g\r\n\r\n' + bytes
        const head = size === 1 ? bytes.indexOf('\r\n\r\n') + 6 : 0
        for (let i = 0; i < head; i++) {
          client.send(all[i])
          await new Promise(resolve => setImmediate(resolve))
        }
        for (let i = head; i < all.length; i += size === 1 ? 10_000 : Math.min(size, all.length)) {
          client.send(all.slice(i, i + (size === 1 ? 10_000 : size)))
          if (size !== Infinity) await new Promise(resolve => setImmediate(resolve))
        }
        let at = 0
        const expected = name === 'of no bytes' ? '' : content
        for (const body of [`POST /p HTTP/1.1 ${expected.length}`, 'GET /next HTTP/1.1 0', `POST /p HTTP/1.1 ${expected.length}`]) {
          const response = await client.response(at)
          at += response.length
          t.match(response, { status: 200, body })
        }
        t.equal(backend.requests[0].body, expected)
        t.equal(backend.requests[2].body, expected)
        t.same(backend.requests[0].values('user-agent'), ['Java-http-client/17'])
        t.notOk(client.ended, 'the connection goes on')
        await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
      })
    }
  }

  await t.test('again and again on one connection leaves nothing behind on it', { timeout: LIMIT }, async t => {
    const backend = await rawBackend(t, () => ok())
    let socket: Socket | undefined
    const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] }, { setup: app => { app.server.on('connection', connection => { socket = connection }) } })
    const client = await gateway.connect()
    let at = 0
    let listeners = 0
    for (let i = 0; i < 30; i++) {
      client.send(handshake('/', '', 'h2c'))
      at += (await client.response(at)).length
      const now = (socket as Socket).eventNames().reduce((sum, name) => sum + (socket as Socket).listenerCount(name), 0)
      if (i === 1) listeners = now
      else if (i > 1) t.ok(now <= listeners, `${now} listeners after ${i} requests, ${listeners} in the beginning`)
    }
    t.same(warnings, [])
  })
})

t.test('a connection whose request was read again is like any other', async t => {
  await t.test('it is closed when it has been idle for long', { timeout: LIMIT }, async t => {
    const rig = await tunnelRig(t, {}, { asked: () => ok(), fastify: { keepAliveTimeout: 30 } })
    const client = await rig.gateway.connect()
    client.send(handshake('/', '', 'h2c'))
    await client.response()
    await until(() => client.ended)
  })

  await t.test('it is closed with the app, when it is idle', { timeout: LIMIT }, async t => {
    const rig = await tunnelRig(t, {}, { asked: () => ok(), fastify: { forceCloseConnections: undefined } })
    const client = await rig.gateway.connect()
    client.send(handshake('/', '', 'h2c'))
    await client.response()
    const closed = rig.gateway.app.close()
    await until(() => client.ended)
    client.close()
    await closed
  })

  await t.test('it may become a tunnel later', { timeout: LIMIT }, async t => {
    const rig = await tunnelRig(t, {}, { asked: request => request.values('upgrade').length === 0 ? ok(request.body) : switching() })
    const client = await rig.gateway.connect()
    client.send(handshake('/', 'Content-Length: 2\r\n', 'h2c', 'POST') + 'hi' + handshake() + 'early')
    const first = await client.response()
    t.equal(first.body, 'hi')
    t.equal((await client.response(first.length)).status, 101)
    await (await rig.backend.end()).hears('early')
  })

  await t.test('a client that breaks off in the middle of a body is known as that', { timeout: LIMIT }, async t => {
    const rig = await tunnelRig(t, {}, { asked: () => {} })
    const client = await rig.gateway.connect()
    client.send(handshake('/', 'Content-Length: 200000\r\n', 'h2c', 'POST') + 'x'.repeat(150_000))
    await until(() => rig.backend.bytes.includes('xxx'))
    client.reset()
    await nothingLeft(t, rig.gateway)
    t.match(rig.proxy.getMetrics(), { abortedRequests: 1 })
  })

  await t.test('what is wrong behind it is refused', { timeout: LIMIT }, async t => {
    const rig = await tunnelRig(t, {}, { asked: () => ok() })
    const client = await rig.gateway.connect()
    client.send(handshake('/', '', 'h2c'))
    const first = await client.response()
    client.send('NONSENSE\r\n\r\n')
    t.equal((await client.response(first.length)).status, 400)
    await until(() => client.ended)
    t.equal(rig.backend.requests.length, 1)
  })
})

t.test('requests before it on its connection', async t => {
  await t.test('that are still being answered: an ordinary request takes its turn', { timeout: LIMIT }, async t => {
    const carriers: Wire[] = []
    const backend = await rawBackend(t, ({ startLine }, wire) => {
      if (!startLine.includes('slow')) return ok(startLine)
      carriers.push(wire)
      return undefined
    })
    const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] })
    const client = await gateway.connect()
    client.send('GET /slow1 HTTP/1.1\r\nHost: g\r\n\r\nGET /slow2 HTTP/1.1\r\nHost: g\r\n\r\n' + handshake('/a', '', 'h2c') + 'GET /b HTTP/1.1\r\nHost: g\r\n\r\n')
    await until(() => carriers.length === 2)
    await turns()
    carriers[1].send(ok('two'))
    await turns()
    carriers[0].send(ok('one'))
    let at = 0
    for (const body of ['one', 'two', 'GET /a HTTP/1.1', 'GET /b HTTP/1.1']) {
      const response = await client.response(at)
      at += response.length
      t.match(response, { status: 200, body })
    }
    await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
  })

  await t.test('that are still being answered: a tunnel opens behind them', { timeout: LIMIT }, async t => {
    const carriers: Wire[] = []
    const rig = await tunnelRig(t, {}, {
      asked: ({ startLine }, wire) => {
        if (!startLine.includes('slow')) return switching()
        carriers.push(wire)
        return undefined
      }
    })
    const client = await rig.gateway.connect()
    client.send('GET /slow1 HTTP/1.1\r\nHost: g\r\n\r\nGET /slow2 HTTP/1.1\r\nHost: g\r\n\r\n' + handshake('/a') + 'early')
    await until(() => carriers.length === 2)
    await turns()
    carriers[1].send(ok('two'))
    await turns()
    carriers[0].send(ok('one'))
    let at = 0
    for (const body of ['one', 'two']) {
      const response = await client.response(at)
      at += response.length
      t.match(response, { status: 200, body })
    }
    t.equal((await client.response(at)).status, 101)
    await (await rig.backend.end()).hears('early')
  })

  await t.test('that close it: what asks to switch behind them is not answered, and reaches nobody', { timeout: LIMIT }, async t => {
    for (const protocol of ['websocket', 'h2c']) {
      let release = () => {}
      const rig = await tunnelRig(t, { routes: [{ prefix: '/a' }] }, { setup: app => { app.get('/first', (_request, reply) => { release = () => reply.header('connection', 'close').send('one') }) } })
      const client = await rig.gateway.connect()
      client.send('GET /first HTTP/1.1\r\nHost: g\r\n\r\n' + handshake('/a', '', protocol))
      await turns()
      release()
      const response = await client.response()
      t.match(response, { status: 200, body: 'one' })
      await until(() => client.ended)
      t.equal(client.received.length, response.length)
      t.equal(rig.backend.bytes, '')
      client.close()
      await nothingLeft(t, rig.gateway)
    }
  })

  await t.test('whose client goes meanwhile', { timeout: LIMIT }, async t => {
    for (const protocol of ['websocket', 'h2c']) {
      for (const go of [(client: Wire) => client.reset(), (client: Wire) => { client.socket.end() }]) {
        const rig = await tunnelRig(t, {}, { asked: () => {} })
        const client = await rig.gateway.connect()
        client.send('GET /slow HTTP/1.1\r\nHost: g\r\n\r\n' + handshake('/a', '', protocol))
        await until(() => rig.backend.requests.length === 1)
        await turns()
        go(client)
        await nothingLeft(t, rig.gateway)
        t.match(rig.proxy.getMetrics(), { totalRequests: 1, abortedRequests: 1 })
      }
    }
  })

  await t.test('that have been answered', { timeout: LIMIT }, async t => {
    const rig = await tunnelRig(t, {}, { asked: ({ startLine }) => startLine.includes('/first') ? ok('one') : switching() })
    const client = await rig.gateway.connect()
    client.send('GET /first HTTP/1.1\r\nHost: g\r\n\r\n')
    const first = await client.response()
    client.send(handshake('/a') + 'x')
    t.equal((await client.response(first.length)).status, 101)
    await (await rig.backend.end()).hears('x')
  })
})

t.test('an upgrade with a body is 400, and what comes with it reaches no backend', async t => {
  const smuggled = 'GET /smuggled HTTP/1.1\r\nHost: g\r\n\r\n'
  const requests: [string, string][] = [
    ['Content-Length', handshake('/a', 'Content-Length: 5\r\n') + 'hello' + smuggled],
    ['Content-Length that covers a request', handshake('/a', `Content-Length: ${smuggled.length}\r\n`) + smuggled],
    ['Transfer-Encoding', handshake('/a', 'Transfer-Encoding: chunked\r\n') + '5\r\nhello\r\n0\r\n\r\n' + smuggled],
    ['Transfer-Encoding and no body', handshake('/a', 'Transfer-Encoding: chunked\r\n') + '0\r\n\r\n' + smuggled],
    ['POST and a type', handshake('/a', 'Content-Type: application/json\r\nContent-Length: 2\r\n', 'websocket', 'POST') + '{}' + smuggled],
    ['POST, chunked', handshake('/a', 'Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n', 'websocket', 'POST') + '2\r\nhi\r\n0\r\n\r\n' + smuggled],
    ['another listed protocol', handshake('/a', 'Content-Type: text/plain\r\nContent-Length: 2\r\n', 'x-own', 'POST') + 'hi' + smuggled]
  ]
  for (const [where, path] of [['declared', '/'], ['in a handler', '/mine/']]) {
    for (const [name, bytes] of requests) {
      await t.test(`${where}: ${name}`, { timeout: LIMIT }, async t => {
        const rig = await tunnelRig(t, { upgrades: ['x-own'] }, { setup: app => { app.all('/mine/*', (request, reply) => { request.server.proxy.forward(request, reply) }) } })
        const client = await rig.gateway.connect()
        client.send(bytes.replace(' /a', ` ${path}a`))
        const response = await client.response()
        t.equal(response.status, 400)
        t.match(JSON.parse(response.body).code, /^FST_/)
        t.same(response.values('connection'), ['close'])
        await until(() => client.ended)
        t.equal(client.received.length, response.length, 'and nothing else is answered')
        client.socket.end()
        await until(() => client.closed)
        t.equal(rig.backend.bytes, '', 'nothing has reached the backend')
        await nothingLeft(t, rig.gateway)
      })
    }
  }
})

t.test('a WebSocket handshake is a GET: by another method it is forwarded as what else it is', { timeout: LIMIT }, async t => {
  for (const method of ['POST', 'PUT', 'DELETE', 'HEAD', 'OPTIONS']) {
    const rig = await tunnelRig(t, {}, { asked: request => request.startLine.startsWith('HEAD') ? 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n' : ok('ok') })
    const client = await rig.gateway.connect()
    client.send(handshake('/a', '', 'websocket', method))
    const response = await client.response(0, method)
    t.equal(response.status, 200, method)
    await until(() => client.ended)
    t.same(rig.backend.requests.map(request => [request.startLine, request.values('upgrade')]), [[`${method} /a HTTP/1.1`, []]])
    client.close()
    await nothingLeft(t, rig.gateway)
  }
})

t.test('protocols that are listed are tunnelled, by whatever method', { timeout: LIMIT }, async t => {
  const rig = await tunnelRig(t, { upgrades: ['x-own', 'Other/2.1'], websocket: false }, { asked: request => request.values('upgrade')[0] === undefined ? ok() : switching(request.values('upgrade')[0]) })
  for (const [asked, got] of [['x-own', 'x-own'], ['X-OWN', 'x-own'], ['other/2.1', 'other/2.1'], ['websocket, h2c, x-own', 'x-own'], ['OTHER/2.1, x-own', 'other/2.1']]) {
    for (const method of ['GET', 'POST']) {
      const pair = await rig.open(handshake('/', '', asked, method) + 'first')
      t.same(rig.backend.requests.at(-1)?.values('upgrade'), [got])
      await pair.server.hears('first')
      pair.server.say('GET / HTTP/1.1\r\n\r\n')
      await pair.client.hears('GET / HTTP/1.1\r\n\r\n')
      await closeBoth(pair)
    }
  }
  const client = await rig.gateway.connect()
  client.send(handshake())
  t.equal((await client.response()).status, 200, 'WebSocket itself is off')
  client.close()
  await nothingLeft(t, rig.gateway)
})

// Answers other than a 101

t.test('only a 101 opens a tunnel: any other answer passes, whole, and the connection ends', async t => {
  const large = 'x'.repeat(500_000)
  const answers: [number, string][] = [
    [200, ok('fine')],
    [204, 'HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n'],
    [302, ok('moved', 'Location: /elsewhere\r\nX-A: 1\r\n', '302 Found')],
    [401, ok('who are you?', 'WWW-Authenticate: Basic realm="x"\r\nX-A: 1\r\n', '401 Unauthorized')],
    [403, `HTTP/1.1 403 Forbidden\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n${(500_000).toString(16)}\r\n${large}\r\n0\r\n\r\n`],
    [404, ok(large, 'X-A: 1\r\n', '404 Not Found')],
    [426, ok('upgrade!', 'Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nX-A: 1\r\n', '426 Upgrade Required')],
    [503, ok('busy', 'Retry-After: 3\r\nX-A: 1\r\n', '503 Service Unavailable')]
  ]
  for (const [status, answer] of answers) {
    for (const [name, behind] of [['nothing behind the request', ''], ['a packet behind it', 'client speaks first'], ['much behind it', 'y'.repeat(300_000)]]) {
      await t.test(`${status}, ${name}`, { timeout: LIMIT }, async t => {
        const rig = await tunnelRig(t, {}, { asked: () => answer })
        const client = await rig.gateway.connect()
        client.send(handshake() + behind)
        const response = await client.response()
        t.equal(response.status, status)
        if (status !== 204) t.ok([answer.slice(answer.indexOf('\r\n\r\n') + 4), large].includes(response.body), 'its body is whole')
        if (status !== 200) t.same(response.values('x-a'), ['1'])
        if (status === 401) t.same(response.values('www-authenticate'), ['Basic realm="x"'])
        if (status === 302) t.same(response.values('location'), ['/elsewhere'])
        if (status === 503) t.same(response.values('retry-after'), ['3'])
        if (status === 426) t.same(response.values('sec-websocket-version'), ['13'])
        t.same(response.values('connection'), ['close'])
        await until(() => client.ended)
        t.equal(client.error, undefined)
        client.socket.end()
        await until(() => client.closed)
        t.equal(client.received.length, response.length)
        t.equal(rig.backend.requests.length, 1)
        t.notMatch(rig.backend.bytes, /speaks|yyy/)
        t.match(rig.proxy.getMetrics(), { tunnels: { open: 0, total: 0 } })
        await nothingLeft(t, rig.gateway)
      })
    }
  }

  await t.test('one that ends with its connection', { timeout: LIMIT }, async t => {
    const rig = await tunnelRig(t, {}, { asked: (_request, wire) => { wire.socket.end('HTTP/1.1 403 Forbidden\r\n\r\nno') } })
    const client = await rig.gateway.connect()
    client.send(handshake())
    t.match(await client.response(), { status: 403, body: 'no' })
    await until(() => client.ended)
  })

  await t.test('interim responses before it pass', { timeout: LIMIT }, async t => {
    const rig = await tunnelRig(t, {}, { asked: () => `HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n${switching()}` })
    const client = await rig.gateway.connect()
    client.send(handshake())
    const hints = await client.response()
    t.match(hints, { status: 103 })
    t.equal((await client.response(hints.length)).status, 101)
  })
})

t.test('a refused upgrade: a second request in its packet reaches no backend', async t => {
  const smuggled = 'GET /smuggled HTTP/1.1\r\nHost: g\r\n\r\n'
  const ways: [string, string, RockstarProxyOptions, GatewaySetup & { asked?: Asked }][] = [
    ['by the backend', handshake('/a') + smuggled, {}, { asked: () => ok('no', '', '403 Forbidden') }],
    ['by a hook', handshake('/a') + smuggled, { routes: [{ prefix: '/', preHandler: (_request, reply) => { reply.code(401).send({ no: 1 }) } }] }, {}],
    ['by onUpgrade', handshake('/a') + smuggled, { routes: [{ prefix: '/', onUpgrade: () => false }] }, {}],
    ['as no route fits', handshake('/a') + smuggled, { routes: [{ prefix: '/other' }] }, {}],
    ['as the route has it off', handshake('/a') + smuggled, { routes: [{ prefix: '/', websocket: false }] }, { asked: () => ok('plain') }],
    ['as it has a body', handshake('/a', 'Content-Length: 3\r\n') + 'abc' + smuggled, {}, {}],
    ['as the method is another', handshake('/a', '', 'websocket', 'DELETE') + smuggled, {}, { asked: () => ok('plain') }]
  ]
  for (const [name, bytes, options, setup] of ways) {
    await t.test(name, { timeout: LIMIT }, async t => {
      const rig = await tunnelRig(t, options, setup)
      const client = await rig.gateway.connect()
      client.send(bytes)
      const response = await client.response()
      t.ok(response.status === 200 || response.status >= 400)
      client.send(smuggled)
      await until(() => client.ended)
      client.send(smuggled)
      client.socket.end()
      await until(() => client.closed)
      t.equal(client.received.length, response.length)
      t.notMatch(rig.backend.bytes, /smuggled/)
      await nothingLeft(t, rig.gateway)
    })
  }
})

t.test('a switch that is not what was asked for is 502', async t => {
  const heads: [string, string][] = [
    ['another protocol', switching('x-other')],
    ['one of several', switching('websocket, x-other')],
    ['two fields', switching('websocket', 'Upgrade: websocket\r\n')],
    ['no Upgrade', 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n'],
    ['an empty Upgrade', switching('')],
    ['no Connection', 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n'],
    ['neither', 'HTTP/1.1 101 Switching Protocols\r\n\r\n'],
    ['a version', switching('websocket/13')]
  ]
  for (const [name, head] of heads) {
    await t.test(name, { timeout: LIMIT }, async t => {
      const rig = await tunnelRig(t, {}, { asked: () => head + 'more' })
      const client = await rig.gateway.connect()
      client.send(handshake() + 'early')
      const response = await client.response()
      t.equal(response.status, 502)
      t.match(JSON.parse(response.body).code, /^FST_ROCKSTAR_(BAD_RESPONSE|RESET)$/)
      await until(() => client.ended)
      client.socket.end()
      await until(() => rig.backend.connections.every(({ ended, closed }) => ended || closed))
      t.notMatch(rig.backend.bytes, /early/)
      await nothingLeft(t, rig.gateway)
      t.match(rig.proxy.getMetrics(), { failedRequests: 1, tunnels: { open: 0, total: 0 } })
    })
  }

  await t.test('a 101 nobody asked for', { timeout: LIMIT }, async t => {
    for (const head of [switching(), 'HTTP/1.1 101 Switching Protocols\r\n\r\n', switching('h2c')]) {
      for (const request of ['GET / HTTP/1.1\r\nHost: g\r\n\r\n', handshake('/', '', 'h2c'), 'POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n\r\nhi']) {
        const rig = await tunnelRig(t, {}, { asked: () => head + 'bytes of the other protocol' })
        const client = await rig.gateway.connect()
        client.send(request)
        t.equal((await client.response()).status, 502)
        client.close()
        await until(() => rig.backend.connections.every(({ ended, closed }) => ended || closed))
        await nothingLeft(t, rig.gateway)
      }
    }
  })
})

t.test('a backend that fails during the handshake', async t => {
  await t.test('closes: 502', { timeout: LIMIT }, async t => {
    for (const answer of ['', 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: webso']) {
      const rig = await tunnelRig(t, {}, { asked: (_request, wire) => { wire.socket.end(answer) } })
      const client = await rig.gateway.connect()
      client.send(handshake())
      t.equal((await client.response()).status, 502)
      await until(() => client.ended)
      client.close()
      await nothingLeft(t, rig.gateway)
    }
  })

  await t.test('resets: 502', { timeout: LIMIT }, async t => {
    const rig = await tunnelRig(t, {}, { asked: (_request, wire) => wire.reset() })
    const client = await rig.gateway.connect()
    client.send(handshake())
    t.equal((await client.response()).status, 502)
    await until(() => client.ended)
  })

  await t.test('is not there: 502', { timeout: LIMIT }, async t => {
    const rig = await tunnelRig(t)
    rig.backend.close()
    const client = await rig.gateway.connect()
    client.send(handshake())
    const response = await client.response()
    t.match(response, { status: 502 })
    t.notMatch(response.body, /127\.0\.0\.1|ECONN/)
    await until(() => client.ended)
  })

  await t.test('says nothing: 504, by timeout.headers and timeout.request', { timeout: LIMIT }, async t => {
    for (const timeout of [{ headers: 500 }, { request: 500 }]) {
      const clock = new FakeClock()
      const rig = await tunnelRig(t, { clock, timeout }, { asked: () => {} })
      const client = await rig.gateway.connect()
      client.send(handshake())
      await until(() => rig.backend.requests.length === 1)
      clock.advance(600)
      t.equal((await client.response()).status, 504)
      await until(() => client.ended)
      client.socket.end()
      await until(() => rig.backend.connections.every(({ ended, closed }) => ended || closed))
      await nothingLeft(t, rig.gateway)
    }
  })
})

t.test('a client that goes during the handshake ends it at the backend, and nobody is blamed', async t => {
  for (const [name, go] of [['closes', client => { client.socket.end() }], ['resets', client => client.reset()], ['has said something, and closes', client => { client.socket.end('bye') }]] as [string, (client: Wire) => void][]) {
    await t.test(name, { timeout: LIMIT }, async t => {
      const rig = await tunnelRig(t, {}, { asked: () => {} })
      const client = await rig.gateway.connect()
      client.send(handshake())
      await until(() => rig.backend.requests.length === 1)
      go(client)
      await until(() => rig.backend.connections[0].closed || rig.backend.connections[0].ended)
      await nothingLeft(t, rig.gateway)
      t.match(rig.proxy.getMetrics(), { abortedRequests: 1, failedRequests: 0, backends: { a: { abortedRequests: 1, failedRequests: 0 } } })
    })
  }
})

// Bytes

t.test('what the client says before the 101 waits for it, and arrives once and in order', async t => {
  const cases: [string, (client: Wire) => Promise<string>][] = [
    ['in the packet of the request', async client => {
      client.send(handshake() + 'hello')
      return 'hello'
    }],
    ['later', async client => {
      client.send(handshake())
      await turns()
      client.send('one')
      await turns()
      client.send('two')
      return 'onetwo'
    }],
    ['both', async client => {
      client.send(handshake() + 'zero')
      await turns()
      client.send('one')
      return 'zeroone'
    }],
    ['more than is kept', async client => {
      const bytes = Array.from({ length: 20 }, (_, i) => String.fromCharCode(97 + i).repeat(50_000))
      client.send(handshake() + bytes[0])
      for (const part of bytes.slice(1)) client.send(part)
      await turns()
      return bytes.join('')
    }]
  ]
  for (const [name, say] of cases) {
    await t.test(name, { timeout: LIMIT }, async t => {
      let asked: Wire | undefined
      const rig = await tunnelRig(t, {}, { asked: (_request, wire) => { asked = wire } })
      const client = await rig.gateway.connect()
      const said = await say(client)
      await until(() => asked !== undefined)
      await turns()
      const { received } = asked as Wire
      t.equal(received.indexOf('\r\n\r\n') + 4, received.length, 'nothing comes before the backend has agreed')
      const server = rig.backend.accept(asked as Wire, switching() + 'welcome')
      await server.hears(said)
      const head = await client.response()
      t.equal(head.status, 101)
      await until(() => client.received.length === head.length + 7)
      t.equal(client.received.slice(head.length), 'welcome')
      client.send('more')
      await server.hears(said + 'more')
      t.equal(rig.proxy.getMetrics().tunnels.bytesReceived, said.length + 4)
      t.equal(rig.proxy.getMetrics().tunnels.bytesSent, 7)
    })
  }

  await t.test('and is dropped where there is none', { timeout: LIMIT }, async t => {
    let asked: Wire | undefined
    const rig = await tunnelRig(t, {}, { asked: (_request, wire) => { asked = wire } })
    const client = await rig.gateway.connect()
    client.send(handshake() + 'x'.repeat(1_000_000))
    await until(() => asked !== undefined)
    ;(asked as Wire).send(ok('no', '', '403 Forbidden'))
    t.match(await client.response(), { status: 403, body: 'no' })
    await until(() => client.ended)
    t.equal(client.error, undefined)
    client.socket.end()
    await until(() => client.closed)
    t.notMatch(rig.backend.bytes, /xx/)
    await nothingLeft(t, rig.gateway)
  })
})

t.test('bytes of the backend in the packet of its 101 arrive', { timeout: LIMIT }, async t => {
  const greeting = latin1(Buffer.from(Array.from({ length: 70_000 }, (_, i) => i % 256)))
  const rig = await tunnelRig(t, {}, { asked: () => switching() + greeting })
  const { client } = await rig.open()
  await client.hears(greeting)
})

/** A frame of a WebSocket. RFC 6455, 5.2. */
function frame (opcode: number, payload: Buffer, { fin = true, rsv = 0, mask = false, extended = 0 } = {}): Buffer {
  const size = extended !== 0 ? extended : payload.length < 126 ? 0 : payload.length < 65_536 ? 2 : 8
  const head = Buffer.alloc(2 + size)
  head[0] = (fin ? 0x80 : 0) | rsv << 4 | opcode
  head[1] = (mask ? 0x80 : 0) | (size === 0 ? payload.length : size === 2 ? 126 : 127)
  if (size === 2) head.writeUInt16BE(payload.length, 2)
  if (size === 8) head.writeBigUInt64BE(BigInt(payload.length), 2)
  if (!mask) return Buffer.concat([head, payload])
  const key = Buffer.from([1, 2, 3, 4])
  return Buffer.concat([head, key, payload.map((byte, i) => byte ^ key[i % 4])])
}

/** Frames of every kind, those that are not allowed among them: a proxy is not to judge. */
function allFrames (mask: boolean): [string, Buffer][] {
  const bytes = (length: number) => Buffer.from(Array.from({ length }, (_, i) => i * 31 % 256))
  return [
    ['a text', frame(1, Buffer.from('hello'), { mask })],
    ['an empty one', frame(2, Buffer.alloc(0), { mask })],
    ['125 bytes', frame(2, bytes(125), { mask })],
    ['126 bytes, a 16-bit length', frame(2, bytes(126), { mask })],
    ['65 535 bytes', frame(2, bytes(65_535), { mask })],
    ['65 536 bytes, a 64-bit length', frame(2, bytes(65_536), { mask })],
    ['200 000 bytes', frame(2, bytes(200_000), { mask })],
    ['a length that is longer than need be', frame(2, bytes(5), { mask, extended: 8 })],
    ['RSV1, as compression has it', frame(1, bytes(30), { mask, rsv: 4 })],
    ['RSV2 and RSV3', frame(1, bytes(30), { mask, rsv: 3 })],
    ['a reserved opcode', frame(0xb, bytes(10), { mask })],
    ['a message in fragments, with control frames between', Buffer.concat([
      frame(1, Buffer.from('one'), { fin: false, mask }), frame(9, Buffer.from('ping'), { mask }), frame(0, Buffer.from('two'), { fin: false, mask }),
      frame(10, Buffer.alloc(0), { mask }), frame(0, Buffer.from('three'), { mask })])],
    ['the wrong masking', frame(1, Buffer.from('x'), { mask: !mask })],
    ['a close with a reason', frame(8, Buffer.from([0x03, 0xe8, 0x62, 0x79, 0x65]), { mask })],
    ['bytes behind a close', Buffer.from('garbage')]
  ]
}

t.test('frames arrive byte for byte, as they would without a proxy', async t => {
  const rig = await tunnelRig(t)
  for (const [pace, size] of [['whole', Infinity], ['in pieces of 7 bytes', 7], ['by the byte', 1]] as const) {
    await t.test(pace, { timeout: 20_000 }, async t => {
      const pair = await rig.open()
      for (const [from, to, mask] of [[pair.client, pair.server, true], [pair.server, pair.client, false]] as const) {
        let said = ''
        for (const [name, bytes] of allFrames(mask)) {
          // By the byte only the beginnings and ends of what is long.
          const near = size === 1 ? 40 : size === 7 ? 700 : 0
          for (let i = 0; i < bytes.length;) {
            const step = size === Infinity ? bytes.length : i < near || i >= bytes.length - near ? size : Math.max(size, bytes.length - near - i)
            from.say(bytes.subarray(i, i + step))
            i += step
            if (size !== Infinity) await new Promise(resolve => setImmediate(resolve))
          }
          said += latin1(bytes)
          await to.hears(said)
          t.pass(`${mask ? 'up' : 'down'}: ${name}`)
        }
      }
      await closeBoth(pair)
    })
  }
})

t.test('any bytes in any chunks arrive as they were sent, both ways at once', { timeout: 30_000 }, async t => {
  const rig = await tunnelRig(t, { upgrades: ['x-own'] }, { asked: request => switching(request.values('upgrade')[0]) })
  const chunks = fc.array(fc.uint8Array({ minLength: 1, maxLength: 3_000 }), { maxLength: 12 })
  await fc.assert(fc.asyncProperty(fc.constantFrom('websocket', 'x-own'), chunks, chunks, fc.uint8Array({ maxLength: 200 }), async (protocol, up, down, early) => {
    const pair = await rig.open(handshake('/', '', protocol) + latin1(Buffer.from(early)))
    const say = async (end: End, parts: Uint8Array[]) => {
      for (const part of parts) {
        end.say(Buffer.from(part))
        await new Promise(resolve => setImmediate(resolve))
      }
    }
    await Promise.all([say(pair.client, up), say(pair.server, down)])
    pair.client.wire.socket.end()
    await until(() => pair.server.wire.ended)
    pair.server.wire.socket.end()
    await until(() => pair.client.wire.closed && pair.server.wire.closed)
    return pair.server.heard === latin1(Buffer.concat([early, ...up])) && pair.client.heard === latin1(Buffer.concat(down))
  }), { numRuns: 60 })
  await nothingLeft(t, rig.gateway)
})

// Ends

t.test('a tunnel that is closed one way goes on the other way', async t => {
  const rig = await tunnelRig(t)
  for (const [name, ends] of [['the client\'s', (pair: { client: End, server: End }) => [pair.client, pair.server]], ['the backend\'s', (pair: { client: End, server: End }) => [pair.server, pair.client]]] as const) {
    await t.test(`${name} end`, { timeout: LIMIT }, async t => {
      const pair = await rig.open()
      const [first, second] = ends(pair)
      first.say('last words')
      first.wire.socket.end()
      await second.hears('last words')
      await until(() => second.wire.ended)
      t.notOk(first.wire.ended)
      for (const word of ['and', 'yet', 'more']) {
        second.say(word)
        await turns()
      }
      await first.hears('andyetmore')
      t.equal(rig.proxy.getMetrics().tunnels.open, 1)
      second.wire.socket.end()
      await until(() => first.wire.closed && second.wire.closed)
      t.equal(first.wire.error, undefined)
      t.equal(second.wire.error, undefined)
      await nothingLeft(t, rig.gateway)
    })
  }
})

t.test('a reset passes through as a reset', async t => {
  const rig = await tunnelRig(t)
  for (const side of ['client', 'server'] as const) {
    await t.test(`by the ${side}`, { timeout: LIMIT }, async t => {
      const pair = await rig.open()
      const other = pair[side === 'client' ? 'server' : 'client']
      pair[side].wire.reset()
      await until(() => other.wire.closed)
      t.equal((other.wire.error as NodeJS.ErrnoException | undefined)?.code, 'ECONNRESET')
      await nothingLeft(t, rig.gateway)
    })

    await t.test(`by the ${side}, which has been closed by the other one way`, { timeout: LIMIT }, async t => {
      const pair = await rig.open()
      const other = pair[side === 'client' ? 'server' : 'client']
      other.wire.socket.end()
      await until(() => pair[side].wire.ended)
      pair[side].wire.reset()
      await until(() => other.wire.closed)
      await nothingLeft(t, rig.gateway)
    })
  }
})

t.test('a tunnel on which nothing passes ends after timeout.tunnel', async t => {
  await t.test('bytes either way begin the time anew', { timeout: LIMIT }, async t => {
    const clock = new FakeClock()
    const rig = await tunnelRig(t, { clock, timeout: { tunnel: 10_000, idle: 1_000 } })
    const { client, server } = await rig.open()
    let [up, down] = ['', '']
    for (let i = 0; i < 5; i++) {
      clock.advance(9_000)
      client.say('u')
      await server.hears(up += 'u')
      clock.advance(9_000)
      server.say('d')
      await client.hears(down += 'd')
    }
    t.match(rig.proxy.getMetrics(), { inFlight: 1, tunnels: { open: 1 }, timeouts: { request: 0, wait: 0, stream: 0 } }, 'timeout.idle, timeout.request and the rest are none of its')
    clock.advance(9_000)
    await turns()
    t.notOk(client.wire.ended || server.wire.ended)
    clock.advance(1_300)
    await until(() => client.wire.ended && server.wire.ended)
    client.wire.close()
    server.wire.close()
    await nothingLeft(t, rig.gateway)
    t.match(rig.proxy.getMetrics(), { successfulRequests: 1, failedRequests: 0 })
  })

  await t.test('0 is for ever', { timeout: LIMIT }, async t => {
    const clock = new FakeClock()
    const rig = await tunnelRig(t, { clock, timeout: { tunnel: 0 } })
    const { client, server } = await rig.open()
    for (let i = 0; i < 10; i++) clock.advance(86_400_000)
    client.say('still here')
    await server.hears('still here')
  })

  await t.test('an hour when nothing is said', { timeout: LIMIT }, async t => {
    const clock = new FakeClock()
    const rig = await tunnelRig(t, { clock })
    const { client } = await rig.open()
    for (let i = 0; i < 3_599; i++) clock.advance(1_000)
    await turns()
    t.notOk(client.wire.ended)
    clock.advance(1_500)
    await until(() => client.wire.ended)
  })

  await t.test('for a route or a call it may be another', { timeout: LIMIT }, async t => {
    const clock = new FakeClock()
    const rig = await tunnelRig(t, { clock, routes: [{ prefix: '/short', timeout: { tunnel: 500 } }, { prefix: '/long' }] }, {
      setup: app => { app.get('/call', (request, reply) => { request.server.proxy.forward(request, reply, { timeout: { tunnel: 700 } }) }) }
    })
    const [short, call, long] = [await rig.open(handshake('/short')), await rig.open(handshake('/call')), await rig.open(handshake('/long'))]
    clock.advance(560)
    await until(() => short.client.wire.ended)
    t.notOk(call.client.wire.ended)
    clock.advance(200)
    await until(() => call.client.wire.ended)
    await turns()
    t.notOk(long.client.wire.ended)
  })

  await t.test('closed one way, after timeout.idle', { timeout: LIMIT }, async t => {
    for (const side of ['client', 'server'] as const) {
      const clock = new FakeClock()
      const rig = await tunnelRig(t, { clock, timeout: { tunnel: 100_000, idle: 2_000 } })
      const pair = await rig.open()
      const other = pair[side === 'client' ? 'server' : 'client']
      pair[side].wire.socket.end()
      await until(() => other.wire.ended)
      clock.advance(1_500)
      other.say('more')
      await pair[side].hears('more')
      clock.advance(1_500)
      await turns()
      t.equal(rig.proxy.getMetrics().tunnels.open, 1)
      clock.advance(1_000)
      await until(() => pair[side].wire.ended)
      pair.client.wire.close()
      pair.server.wire.close()
      await nothingLeft(t, rig.gateway)
    }
  })
})

// Fronts and neighbours

t.test('over a TLS front', { timeout: LIMIT }, async t => {
  const { cert, key } = new Authority(t).issue()
  for (const https of [{ https: { cert, key } }, { http2: true, https: { cert, key, allowHTTP1: true } }]) {
    const rig = await tunnelRig(t, {}, { fastify: https, asked: request => request.values('upgrade').length === 0 ? ok(request.body) : switching() + 'hi' })
    const dial = async () => {
      const socket = connectTls({ port: rig.gateway.port, host: '127.0.0.1', rejectUnauthorized: false, ALPNProtocols: ['http/1.1'], allowHalfOpen: true } as never)
      t.teardown(() => socket.destroy())
      await once(socket, 'secureConnect')
      return new Wire(socket)
    }
    const client = await dial()
    client.send(handshake() + 'early')
    const head = await client.response()
    t.equal(head.status, 101)
    const server = await rig.backend.end()
    t.same(rig.backend.requests[0].values('x-forwarded-proto'), ['https'])
    await server.hears('early')
    const large = 'z'.repeat(300_000)
    client.send(large)
    await server.hears(`early${large}`)
    server.say(large)
    await until(() => client.received.length === head.length + 2 + large.length)
    server.wire.socket.end()
    await until(() => client.ended)
    client.socket.end()
    await until(() => server.wire.closed)
    await nothingLeft(t, rig.gateway)

    const plain = await dial()
    let at = 0
    for (let i = 0; i < 3; i++) {
      plain.send(handshake('/', 'Content-Length: 5\r\n', 'h2c', 'POST') + 'hello')
      const response = await plain.response(at)
      t.match(response, { status: 200, body: 'hello' })
      at += response.length
    }
    const refused = await dial()
    refused.send(handshake('/', 'Content-Length: 1\r\n') + 'x')
    t.equal((await refused.response()).status, 400)
    await until(() => refused.ended)
  }
})

t.test('to a backend with TLS', { timeout: LIMIT }, async t => {
  const authority = new Authority(t)
  const { cert, key } = authority.issue()
  const backend = await switchingBackend(t, () => switching() + 'hi', { cert, key })
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }], pool: { tls: { ca: authority.cert } } })
  const client = await gateway.connect()
  client.send(handshake() + 'early')
  const head = await client.response()
  t.equal(head.status, 101)
  const server = await backend.end()
  await server.hears('early')
  await until(() => client.received.length === head.length + 2)
  client.socket.end()
  await until(() => server.wire.ended)
  server.say('bye').wire.socket.end()
  await until(() => client.closed)
  t.equal(client.received.slice(head.length), 'hibye')
  await nothingLeft(t, gateway)
})

t.test('to a backend on a Unix socket', { timeout: LIMIT }, async t => {
  const path = join(t.testdir(), 'sock')
  const server = createServer({ allowHalfOpen: true }, socket => {
    socket.on('error', () => {})
    socket.once('data', head => {
      socket.write(switching() + 'hi')
      if (head.includes('/drop')) socket.destroy()
      else socket.pipe(socket)
    })
  })
  await new Promise<void>(resolve => server.listen(path, resolve))
  t.teardown(() => server.close())
  const gateway = await startGateway(t, { backends: [`unix:${path}`], routes: [{ prefix: '/' }] })
  const client = await gateway.connect()
  client.send(handshake())
  const { length } = await client.response()
  client.send('echo')
  await client.receive('hiecho', length)
  client.reset()
  await nothingLeft(t, gateway)
  const dropped = await gateway.connect()
  dropped.send(handshake('/drop'))
  await until(() => dropped.ended || dropped.closed)
  dropped.close()
  await nothingLeft(t, gateway)
})

t.test('where backends speak HTTP/2, tunnels go over HTTP/1.1', { timeout: LIMIT }, async t => {
  const authority = new Authority(t)
  const { cert, key } = authority.issue()
  const server = createSecureServer({ cert, key, allowHTTP1: true }, (request, response) => { response.end(request.httpVersion) })
  const sockets = new Set<Socket>()
  server.on('secureConnection', socket => { sockets.add(socket) })
  server.on('upgrade', (request: IncomingMessage, socket: Socket) => {
    socket.write(switching('websocket', `X-Version: ${request.httpVersion}\r\n`))
    socket.pipe(socket)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  for (const http2 of [true, 'auto'] as const) {
    const gateway = await startGateway(t, { backends: [{ id: 'a', url: `https://localhost:${port}` }], routes: [{ prefix: '/' }], http2, pool: { tls: { ca: authority.cert } } })
    const plain = await gateway.connect()
    plain.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
    t.equal((await plain.response()).body, '2.0')
    const client = await gateway.connect()
    client.send(handshake() + 'early')
    const head = await client.response()
    t.equal(head.status, 101, String(http2))
    t.same(head.values('x-version'), ['1.1'])
    await client.receive('early', head.length)
    client.reset()
    await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
    t.match(gateway.app.proxy.getMetrics(), { successfulRequests: 2, tunnels: { open: 0, total: 1 } })
  }
})

t.test('by a dispatcher of the application\'s own', { timeout: LIMIT }, async t => {
  const agent = new Agent()
  t.teardown(() => agent.destroy())
  for (const dispatcher of [agent, () => agent]) {
    const rig = await tunnelRig(t, { pool: { dispatcher } as never }, { asked: request => request.startLine.includes('/no') ? ok('no', '', '403 Forbidden') : switching() + 'hi' })
    const pair = await rig.open(handshake() + 'early')
    await pair.server.hears('early')
    await pair.client.hears('hi')
    await closeBoth(pair)
    const client = await rig.gateway.connect()
    client.send(handshake('/no'))
    t.equal((await client.response()).status, 403)
    await nothingLeft(t, rig.gateway)
  }
})

t.test('an app that listens on both addresses of localhost', { timeout: LIMIT }, async t => {
  const backend = await switchingBackend(t)
  const app = Fastify({ forceCloseConnections: true })
  t.teardown(() => app.close())
  await app.register(rockstarProxy, { backends: [backend.url], routes: [{ prefix: '/' }], shutdownTimeout: 0 })
  await app.listen({ port: 0, host: 'localhost' })
  for (const { address, port } of app.addresses() as AddressInfo[]) {
    const socket = connect({ host: address, port })
    t.teardown(() => socket.destroy())
    const client = new Wire(socket)
    client.send(handshake() + 'x')
    t.equal((await client.response()).status, 101, address)
    await (await backend.end(backend.ends.length - 1)).hears('x')
  }
})

t.test('the pool has room for others while a tunnel is open', { timeout: LIMIT }, async t => {
  const rig = await tunnelRig(t, { pool: { connections: 1 } }, { asked: request => request.values('upgrade').length === 0 ? ok() : switching() })
  const pairs = [await rig.open(), await rig.open(), await rig.open()]
  t.match(rig.proxy.getConnectionPool().stats(), { total: 0, active: 0, idle: 0, pending: 0 })
  const client = await rig.gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  t.equal((await client.response()).status, 200)
  t.match(rig.proxy.getConnectionPool().stats(), { total: 1, connects: 4, requests: 4 })
  for (const pair of pairs) await closeBoth(pair)
  await nothingLeft(t, rig.gateway)
  t.match(rig.proxy.getConnectionPool().stats(), { total: 1, idle: 1 })
})

t.test('a connection that is idle in the pool is used for a tunnel', { timeout: LIMIT }, async t => {
  const rig = await tunnelRig(t, {}, { asked: request => request.values('upgrade').length === 0 ? ok() : switching() + 'hi' })
  const client = await rig.gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  await client.response()
  const { client: end } = await rig.open()
  await end.hears('hi')
  t.equal(rig.backend.connections.length, 1)
})

t.test('other listeners for upgrades on the same server', async t => {
  /** One that takes requests for some paths, as other plugins do. */
  const takes = (path: string) => (app: FastifyInstance) => {
    app.server.on('upgrade', (request: IncomingMessage, socket: Socket) => {
      if (request.url?.startsWith(path) === true) socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nown')
      if (request.url?.startsWith(path) === true) socket.on('data', data => socket.write(data)).on('end', () => socket.end())
    })
  }
  for (const [name, setup] of [['added before', { before: takes('/own') }], ['added after', { setup: takes('/own') }]] as [string, GatewaySetup][]) {
    await t.test(`${name}: what one takes is its own, and the rest is forwarded, each once`, { timeout: LIMIT }, async t => {
      const rig = await tunnelRig(t, {}, setup)
      const own = await rig.gateway.connect()
      own.send(handshake('/own'))
      const head = await own.response()
      await own.receive('own')
      own.send('echo')
      await own.receive('echo')
      t.equal(own.received.length, head.length + 'ownecho'.length)
      const { client, server } = await rig.open(handshake('/other'))
      client.say('x')
      await server.hears('x')
      t.equal(rig.backend.requests.length, 1)
      t.equal(rig.proxy.getMetrics().totalRequests, 1)
      own.close()
    })
  }

  await t.test('one that routes them through Fastify itself, as @fastify/websocket does', { timeout: LIMIT }, async t => {
    const rig = await tunnelRig(t, { routes: [{ prefix: '/proxied' }] }, {
      setup: app => {
        app.server.on('upgrade', (request: IncomingMessage, socket: Socket) => {
          const response = new ServerResponse(request)
          response.assignSocket(socket)
          app.routing(request, response)
        })
        app.get('/own', (request, reply) => {
          reply.hijack()
          const { socket } = request.raw
          socket.resume().on('end', () => socket.end())
          socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nown')
        })
      }
    })
    const own = await rig.gateway.connect()
    own.send(handshake('/own'))
    t.equal((await own.response()).status, 101)
    await own.receive('own')
    own.close()
    const pair = await rig.open(handshake('/proxied/a') + 'early')
    await pair.server.hears('early')
    pair.server.say('down')
    await pair.client.hears('down')
    await closeBoth(pair)
    t.equal(rig.backend.requests.length, 1)
    await nothingLeft(t, rig.gateway)
  })
})

t.test('the plugin registered more than once on one server', { timeout: LIMIT }, async t => {
  const [one, two] = [await switchingBackend(t, () => switching('websocket') + 'one'), await switchingBackend(t, request => switching(request.values('upgrade')[0]) + 'two')]
  const scope = (prefix: string, options: RockstarProxyOptions) => async (app: FastifyInstance) => {
    await app.register(async child => {
      await child.register(rockstarProxy, { shutdownTimeout: 0, health: false, retry: false, ...options, routes: [{ prefix }] })
    })
  }
  const gateway = await startGateway(t, { websocket: false }, {
    before: async app => {
      await scope('/one', { backends: [one.url] })(app)
      await scope('/two', { backends: [two.url], upgrades: ['x-own'] })(app)
    }
  })
  for (const [path, protocol, greeting] of [['/one', 'websocket', 'one'], ['/two', 'websocket', 'two'], ['/two', 'x-own', 'two']]) {
    const client = await gateway.connect()
    client.send(handshake(`${path}/x`, '', protocol))
    const head = await client.response()
    t.equal(head.status, 101, `${path} ${protocol}`)
    await client.receive(greeting, head.length)
    t.equal(client.received.length, head.length + 3)
  }
  t.equal(one.requests.length, 1)
  t.equal(two.requests.length, 2)
})

t.test('an absolute target outranks Host for constraints, as it does for other requests', { timeout: LIMIT }, async t => {
  const rig = await tunnelRig(t, { routes: [{ prefix: '/', constraints: { host: 'inner' }, onUpgrade: () => false }, { prefix: '/' }] })
  const client = await rig.gateway.connect()
  client.send('GET http://inner/ HTTP/1.1\r\nHost: outer\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n')
  t.equal((await client.response()).status, 403)
})

t.test('nothing was rejected in vain', t => {
  t.same(rejections, [])
  t.same(warnings, [])
  t.end()
})

t.test('what another listener of the application has answered is left alone, however much comes', async t => {
  const sockets = new WebSocketServer({ noServer: true })
  const { url } = await rawBackend(t, () => ok())
  const gateway = await startGateway(t, { backends: [url], routes: [{ prefix: '/' }] })
  gateway.app.server.prependListener('upgrade', (request, socket, head) => {
    if (request.url === '/own') sockets.handleUpgrade(request, socket, head, client => client.on('message', data => client.send((data as Buffer).length)))
  })
  const client = new WebSocket(`ws://127.0.0.1:${gateway.port}/own`)
  t.teardown(() => { client.terminate() })
  await once(client, 'open')
  for (let i = 0; i < 5; i++) {
    client.send(Buffer.alloc(100_000, 'x'))
    t.equal(String((await once(client, 'message'))[0]), '100000')
  }
})

t.test('a request whose head Node has shortened is not read again: what says where it ends may be missing', async t => {
  const backend = await rawBackend(t, () => ok())
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }] }, { before: app => { app.server.maxHeadersCount = 50 } })
  const client = await gateway.connect()
  const fields = Array.from({ length: 120 }, (_, i) => `X-${i}: 1\r\n`).join('')
  const inner = 'GET /smuggled HTTP/1.1\r\nHost: g\r\n\r\n'
  client.send(`POST /x HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n${fields}Content-Length: ${inner.length}\r\n\r\n${inner}`)
  t.equal((await client.response()).status, 431)
  await until(() => client.ended)
  client.close()
  t.equal(backend.requests.length, 0)
})

t.test('a hook that takes its time has no more than the request has', async t => {
  const clock = new FakeClock()
  const { url } = await rawBackend(t, () => ok())
  const gateway = await startGateway(t, { backends: [url], clock, timeout: { request: 1_000 }, routes: [{ prefix: '/', onUpgrade: async () => await new Promise<boolean>(() => {}) }] })
  const client = await gateway.connect()
  client.send(handshake('/'))
  await until(() => gateway.app.proxy.getMetrics().inFlight === 1)
  await turns()
  clock.advance(1_250)
  t.equal((await client.response()).status, 504)
  await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
})
