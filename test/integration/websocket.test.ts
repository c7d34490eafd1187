import { once } from 'node:events'
import type { FastifyReply, FastifyRequest } from 'fastify'
import t, { type Test } from 'tap'
import { WebSocket as NodeWebSocket } from 'undici'
import { WebSocket, WebSocketServer, type ServerOptions } from 'ws'
import type { ClosedTunnel, RockstarProxyOptions } from '../../types/index.ts'
import { httpBackend, startGateway, type GatewaySetup } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { handshake, nothingLeft, switching, switchingBackend, tunnelRig, type Asked } from '../helpers/tunnel.ts'
import { ok, rawBackend, until } from '../helpers/wire.ts'

/** A test that hangs fails by itself, and lets the others run. */
const LIMIT = 10_000

const rejections: unknown[] = []
const onRejection = (reason: unknown) => { rejections.push(reason) }
process.on('unhandledRejection', onRejection)
t.teardown(() => process.off('unhandledRejection', onRejection))

/** Lets what has been sent to this process be read in it. */
const turns = async () => { for (let i = 0; i < 10; i++) await new Promise(resolve => setImmediate(resolve)) }

/** A gateway in front of a WebSocket server that answers with what it is told. */
async function start (t: Test, options: RockstarProxyOptions = {}, { server, ...setup }: GatewaySetup & { server?: ServerOptions } = {}) {
  const { url, server: http } = await httpBackend(t, (_request, response) => { response.end('plain') })
  const sockets = new WebSocketServer({ server: http, ...server })
  t.teardown(() => { for (const client of sockets.clients) client.terminate() })
  sockets.on('connection', socket => socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary })))
  const gateway = await startGateway(t, { backends: [{ id: 'a', url }], routes: [{ prefix: '/' }], ...options }, setup)
  const dial = (path = '/', protocols: string[] = [], more = {}) => {
    const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}${path}`, protocols, more)
    t.teardown(() => socket.terminate())
    socket.on('error', () => {})
    return socket
  }
  const open = async (path?: string, protocols?: string[], more?: object) => {
    const socket = dial(path, protocols, more)
    await Promise.race([once(socket, 'open'), once(socket, 'unexpected-response').then(([, response]) => { throw new Error(`answered ${response.statusCode}`) })])
    return socket
  }
  /** Resolves to the answer to a handshake that is refused. */
  const refused = async (path?: string, more?: object) => {
    const socket = dial(path, [], more)
    const [, response] = await once(socket, 'unexpected-response')
    let body = ''
    for await (const chunk of response) body += chunk
    return { status: response.statusCode as number, headers: response.headers, body }
  }
  return { url, sockets, gateway, open, refused, proxy: gateway.app.proxy }
}

async function echoes (t: Test, socket: WebSocket, message: string | Buffer): Promise<void> {
  socket.send(message)
  const [data, isBinary] = await once(socket, 'message')
  t.equal(data.toString('latin1'), Buffer.from(message as string).toString('latin1'))
  t.equal(isBinary, typeof message !== 'string')
}

async function close (socket: WebSocket): Promise<void> {
  socket.close()
  await once(socket, 'close')
}

// Real peers

t.test('messages pass both ways', { timeout: LIMIT }, async t => {
  const { open, proxy, gateway } = await start(t)
  const socket = await open('/chat?room=1')
  t.match(proxy.getMetrics(), { inFlight: 1, tunnels: { open: 1, total: 1 } })
  for (const message of ['hello', 'x'.repeat(70_000), '', Buffer.from([0, 1, 254, 255]), Buffer.alloc(1_000_000, 7), 'ünï→😀']) await echoes(t, socket, message)
  socket.ping('are you there?')
  t.equal((await once(socket, 'pong'))[0].toString(), 'are you there?')
  socket.close(1000, 'done')
  const [code] = await once(socket, 'close')
  t.equal(code, 1000)
  await nothingLeft(t, gateway)
  t.match(proxy.getMetrics(), { totalRequests: 1, successfulRequests: 1, failedRequests: 0, tunnels: { open: 0, total: 1 } })
})

t.test('codes and reasons of a close pass both ways', { timeout: LIMIT }, async t => {
  const { open, sockets, gateway } = await start(t)
  for (const [code, reason] of [[1000, ''], [1001, 'gone'], [3000, 'custom'], [4999, 'ünï']] as const) {
    const [[server], client] = await Promise.all([once(sockets, 'connection') as Promise<[WebSocket]>, open()])
    client.close(code, reason)
    const [got, why] = await once(server, 'close')
    t.equal(got, code)
    t.equal(why.toString(), reason)
    const [[server2], client2] = await Promise.all([once(sockets, 'connection') as Promise<[WebSocket]>, open()])
    server2.close(code, reason)
    const [got2, why2] = await once(client2, 'close')
    t.equal(got2, code)
    t.equal(why2.toString(), reason)
  }
  await nothingLeft(t, gateway)
})

t.test('subprotocols and compression are agreed on by the two ends', { timeout: LIMIT }, async t => {
  const { open, gateway } = await start(t, {}, {
    server: { perMessageDeflate: { threshold: 0, serverNoContextTakeover: true }, handleProtocols: protocols => protocols.has('chat.v2') ? 'chat.v2' : false }
  })
  const socket = await open('/', ['chat.v1', 'chat.v2'], { perMessageDeflate: { threshold: 0 } })
  t.equal(socket.protocol, 'chat.v2')
  t.match(socket.extensions, 'permessage-deflate')
  await echoes(t, socket, 'compressible '.repeat(10_000))
  await echoes(t, socket, Buffer.alloc(300_000, 1))
  t.ok(gateway.app.proxy.getMetrics().tunnels.bytesSent < 50_000, 'it went compressed')
  await close(socket)
  await nothingLeft(t, gateway)
})

t.test('Node\'s own client', { timeout: LIMIT }, async t => {
  const { gateway } = await start(t, {}, { server: { handleProtocols: () => 'b' } })
  const socket = new NodeWebSocket(`ws://127.0.0.1:${gateway.port}/x`, ['a', 'b'])
  socket.binaryType = 'arraybuffer'
  const next = (type: string) => new Promise<any>(resolve => socket.addEventListener(type as 'message', resolve, { once: true }))
  await next('open')
  t.equal(socket.protocol, 'b')
  for (const message of ['hello', 'y'.repeat(70_000)]) {
    socket.send(message)
    t.equal((await next('message')).data, message)
  }
  socket.send(Buffer.alloc(70_000, 5))
  t.equal((await next('message')).data.byteLength, 70_000)
  socket.close(3001, 'bye')
  const { code, wasClean } = await next('close')
  t.equal(code, 3001)
  t.equal(wasClean, true)
  await nothingLeft(t, gateway)
})

t.test('many at once, each with its own', { timeout: LIMIT }, async t => {
  const { open, gateway, proxy } = await start(t)
  const sockets = await Promise.all(Array.from({ length: 50 }, () => open()))
  t.match(proxy.getMetrics(), { inFlight: 50, tunnels: { open: 50, total: 50 }, backends: { a: { inFlight: 50 } } })
  t.equal(proxy.getBackend('a').inFlight, 50)
  await Promise.all(sockets.map(async (socket, i) => {
    for (let j = 0; j < 10; j++) {
      socket.send(`${i}.${j}`)
      const [data] = await once(socket, 'message')
      if (data.toString() !== `${i}.${j}`) t.fail(`${data.toString()} for ${i}.${j}`)
    }
  }))
  await Promise.all(sockets.map(close))
  await nothingLeft(t, gateway)
  t.match(proxy.getMetrics(), { successfulRequests: 50, tunnels: { open: 0, total: 50 } })
})

// Fastify's routing and hooks

t.test('hooks see the handshake and may refuse it', async t => {
  const auth = async (request: FastifyRequest, reply: FastifyReply) => {
    if (request.headers.authorization !== 'yes') await reply.code(401).header('www-authenticate', 'Basic').send({ error: 'who are you?' })
  }
  const places: [string, GatewaySetup, RockstarProxyOptions][] = [
    ['onRequest of the app', { before: app => { app.addHook('onRequest', auth) } }, {}],
    ['preValidation of the app', { before: app => { app.addHook('preValidation', auth) } }, {}],
    ['preHandler of the route', {}, { routes: [{ prefix: '/', preHandler: auth as never }] }],
    ['onRequest of the route', {}, { routes: [{ prefix: '/', onRequest: auth as never }] }],
    ['a handler', { setup: app => { app.get('/own', { preHandler: auth }, (request, reply) => request.server.proxy.forward(request, reply)) } }, { routes: [] }]
  ]
  for (const [name, setup, options] of places) {
    await t.test(name, { timeout: LIMIT }, async t => {
      const { open, refused, gateway, sockets } = await start(t, options, setup)
      const answer = await refused('/own')
      t.equal(answer.status, 401)
      t.equal(answer.headers['www-authenticate'], 'Basic')
      t.same(JSON.parse(answer.body), { error: 'who are you?' })
      t.equal(answer.headers.connection, 'close')
      t.equal(sockets.clients.size, 0)
      const socket = await open('/own', [], { headers: { authorization: 'yes' } })
      await echoes(t, socket, 'hello')
      await close(socket)
      await nothingLeft(t, gateway)
    })
  }

  await t.test('the client reads the whole answer, whatever it has sent already', { timeout: LIMIT }, async t => {
    const body = 'x'.repeat(1_000_000)
    const rig = await tunnelRig(t, { routes: [{ prefix: '/', preHandler: (_request, reply) => { reply.code(401).send(body) } }] })
    for (const behind of ['', 'early', 'y'.repeat(500_000)]) {
      const client = await rig.gateway.connect()
      client.send(handshake() + behind)
      const response = await client.response()
      client.send(behind)
      t.match(response, { status: 401 })
      t.equal(response.body, body)
      await until(() => client.ended)
      t.equal(client.error, undefined)
      client.socket.end()
      await until(() => client.closed)
    }
    t.equal(rig.backend.bytes, '')
    await nothingLeft(t, rig.gateway)
  })
})

t.test('where there is no route, 404 as for any request', { timeout: LIMIT }, async t => {
  const { refused, open } = await start(t, { routes: [{ prefix: '/chat' }] }, { setup: app => { app.setNotFoundHandler((_request, reply) => { reply.code(404).send('nothing here') }) } })
  t.match(await refused('/elsewhere'), { status: 404, body: 'nothing here', headers: { connection: 'close' } })
  await close(await open('/chat/room'))
})

t.test('an ordinary route of the app answers a handshake as it answers any GET', { timeout: LIMIT }, async t => {
  const { refused } = await start(t, {}, { setup: app => { app.get('/own', () => ({ own: true })) } })
  t.match(await refused('/own'), { status: 200, body: '{"own":true}', headers: { connection: 'close' } })
})

t.test('forward() in a handler: its promise, and what it may have otherwise', { timeout: LIMIT }, async t => {
  const told: string[] = []
  const { open, gateway } = await start(t, { routes: [], upstreams: {} }, {
    setup: app => {
      app.get('/await', async (request, reply) => {
        await request.server.proxy.forward(request, reply, { path: '/other' })
        told.push('fulfilled')
        return reply
      })
      app.get('/return', (request, reply) => request.server.proxy.forward(request, reply))
      app.get('/ignore', (request, reply) => { request.server.proxy.forward(request, reply) })
    }
  })
  for (const path of ['/await', '/return', '/ignore']) {
    const socket = await open(path)
    await echoes(t, socket, path)
    t.same(told, path === '/await' ? [] : ['fulfilled'])
    await close(socket)
    await nothingLeft(t, gateway)
    await turns()
  }
  t.same(told, ['fulfilled'], 'when the tunnel has closed')
  t.same(gateway.log.filter(({ level }) => level >= 40), [], 'nothing to complain of')
})

t.test('forward() without a reply makes no tunnel: the handler gets the answer to an ordinary request', { timeout: LIMIT }, async t => {
  const { refused, gateway } = await start(t, { routes: [] }, {
    setup: app => {
      app.get('/captured', async request => {
        const answer = await request.server.proxy.forward(request)
        return `${answer.statusCode} ${await answer.text()}`
      })
    }
  })
  t.match(await refused('/captured'), { status: 200, body: '200 plain' })
  await nothingLeft(t, gateway)
})

t.test('paths, named upstreams and the functions that find them', { timeout: LIMIT }, async t => {
  const [one, two] = await Promise.all(['one', 'two'].map(name => switchingBackend(t, request => switching('websocket', `X-Name: ${name} ${request.startLine}\r\n`))))
  const gateway = await startGateway(t, {
    upstreams: { one: { backends: [`${one.url}/base`] }, two: { backends: [two.url] } },
    routes: [
      { prefix: '/one', upstream: 'one', rewritePrefix: '/chat' },
      { prefix: '/find', upstream: async request => (request.query as { name: string }).name }
    ]
  })
  for (const [path, expected] of [['/one/a?b=1', 'one GET /base/chat/a?b=1 HTTP/1.1'], ['/find?name=two', 'two GET /?name=two HTTP/1.1']]) {
    const client = await gateway.connect()
    client.send(handshake(path))
    const head = await client.response()
    t.equal(head.status, 101)
    t.same(head.values('x-name'), [expected])
  }
  t.match(gateway.app.proxy.getMetrics(), { tunnels: { open: 0, total: 0 }, upstreams: { one: { inFlight: 1, tunnels: { open: 1, total: 1 } }, two: { tunnels: { open: 1 } } } })
  const missing = await gateway.connect()
  missing.send(handshake('/find?name=none'))
  t.equal((await missing.response()).status, 500)
})

t.test('websocket: false, and true where the rest has it off', async t => {
  for (const [name, options, tunnels] of [
    ['of the upstream', { websocket: false }, { '/': false }],
    ['of a named upstream', { upstreams: { off: { websocket: false } } }, { '/': true, '/off/': false }],
    ['of a route', {}, { '/': true, '/never/': false }],
    ['of a call', {}, { '/call/never': false, '/call/as-ever': true }],
    ['true for a route alone', { websocket: false }, { '/': false, '/always/': true }]
  ] as [string, RockstarProxyOptions, Record<string, boolean>][]) {
    await t.test(name, { timeout: LIMIT }, async t => {
      const { url, open, refused, gateway } = await start(t, {
        ...options,
        upstreams: options.upstreams?.off === undefined ? {} : { off: { ...options.upstreams.off, backends: [] } },
        routes: [
          { prefix: '/' }, { prefix: '/never', websocket: false }, { prefix: '/always', websocket: true },
          ...options.upstreams?.off === undefined ? [] : [{ prefix: '/off', upstream: 'off' }]
        ]
      }, {
        setup: app => {
          app.get('/call/never', (request, reply) => { request.server.proxy.forward(request, reply, { websocket: false }) })
          app.get('/call/as-ever', (request, reply) => { request.server.proxy.forward(request, reply, { websocket: undefined }) })
        }
      })
      if (options.upstreams?.off !== undefined) gateway.app.proxy.upstream('off').addBackend(url)
      for (const [path, expected] of Object.entries(tunnels)) {
        if (expected) await close(await open(path))
        // What `ws` says to a GET that has none of its fields.
        else t.match(await refused(path), { status: 200, body: 'plain' }, path)
      }
      await nothingLeft(t, gateway)
    })
  }

  await t.test('an upstream that comes while the app runs', { timeout: LIMIT }, async t => {
    const { url, open, proxy } = await start(t, { websocket: false, routes: [{ prefix: '/late', upstream: 'late' }] })
    proxy.addUpstream('late', { backends: [url] })
    const socket = await open('/late')
    await echoes(t, socket, 'hello')
    await close(socket)
  })
})

// Failures, limits, balancing

t.test('the handshake is tried again, on another backend', { timeout: LIMIT }, async t => {
  const busy = await rawBackend(t, () => ok('busy', '', '503 Service Unavailable'))
  const dead = await switchingBackend(t)
  dead.close()
  const { url, open, proxy } = await start(t, { backends: [], retry: true })
  proxy.addBackend({ id: 'dead', url: dead.url })
  proxy.addBackend({ id: 'busy', url: busy.url })
  proxy.addBackend({ id: 'well', url })
  const sockets = []
  for (let i = 0; i < 4; i++) sockets.push(await open())
  await echoes(t, sockets[3], 'hello')
  t.match(proxy.getMetrics(), { inFlight: 4, tunnels: { open: 4 }, backends: { well: { inFlight: 4 }, dead: { inFlight: 0 }, busy: { inFlight: 0 } } })
  t.ok(proxy.getMetrics().totalRetries >= 4)
  t.ok(proxy.getMetrics().backends.busy.failedRequests > 0)
  t.ok(proxy.getMetrics().backends.dead.failedRequests > 0)
  for (const socket of sockets) await close(socket)
})

t.test('a fallback takes the place of a handshake that has failed: another upstream, or an answer', { timeout: LIMIT }, async t => {
  const dead = await switchingBackend(t)
  dead.close()
  const { url, open, refused, proxy, gateway } = await start(t, {
    backends: [dead.url],
    fallback: { upstream: 'spare' },
    upstreams: { spare: { backends: [] } },
    routes: [{ prefix: '/' }, { prefix: '/answer', fallback: { statusCode: 503, body: 'later' } }, { prefix: '/no', onUpgrade: () => false }]
  })
  proxy.upstream('spare').addBackend({ id: 'spare', url })
  const socket = await open('/', [], { headers: { 'x-a': '1' } })
  await echoes(t, socket, 'hello')
  t.match(proxy.getMetrics().upstreams.spare, { inFlight: 1, tunnels: { open: 1 } })
  await close(socket)
  t.match(await refused('/answer'), { status: 503, body: 'later' })
  t.equal((await refused('/no')).status, 403, 'what is refused is no failure')
  await nothingLeft(t, gateway)
})

t.test('early bytes arrive where the second attempt leads', { timeout: LIMIT }, async t => {
  const dead = await switchingBackend(t, (_request, wire) => wire.reset())
  const rig = await tunnelRig(t, { retry: true, backends: [dead.url] })
  rig.proxy.addBackend(rig.backend.url)
  const { server } = await rig.open(handshake() + 'early')
  await server.hears('early')
  t.equal(dead.requests.length, 1)
  t.notMatch(dead.bytes, /early/)
})

t.test('a handshake is neither copied nor hedged: each would open something', { timeout: LIMIT }, async t => {
  const clock = new FakeClock()
  const asked: (() => void)[] = []
  const answer: Asked = (request, wire, backend) => {
    if (request.values('upgrade').length === 0) return ok()
    asked.push(() => { backend.accept(wire) })
    return undefined
  }
  const spare = await switchingBackend(t, answer)
  const rig = await tunnelRig(t, { clock, hedge: { percentile: 50, minDelay: 10, maxExtra: 1 }, mirror: { upstream: 'copies' }, upstreams: { copies: { backends: [spare.url] } } }, { asked: answer })
  const client = await rig.gateway.connect()
  // Enough for it to be known what is late.
  for (let i = 0, at = 0; i < 150; i++) {
    client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
    at += (await client.response(at)).length
  }
  await until(() => spare.requests.length === 150)
  const before = client.received.length
  rig.proxy.addBackend({ id: 'b', url: spare.url })
  clock.advance(300)
  const { mirroredRequests } = rig.proxy.getMetrics()
  client.send(handshake())
  await until(() => asked.length === 1)
  for (let i = 0; i < 10; i++) {
    clock.advance(20)
    await turns()
  }
  t.equal(asked.length, 1)
  asked[0]()
  t.equal((await client.response(before)).status, 101)
  await turns()
  t.equal(asked.length, 1)
  t.match(rig.proxy.getMetrics(), { hedgedRequests: 0, mirroredRequests, mirrorsSkipped: 0 })
})

t.test('circuits count handshakes, and a tunnel is no answer that takes long', { timeout: LIMIT }, async t => {
  let status = 502
  const clock = new FakeClock()
  const rig = await tunnelRig(t, { clock, breaker: { threshold: 3, timeout: 1_000 }, timeout: { tunnel: 0 } }, { asked: () => status === 101 ? switching() : ok('', '', `${status} No`) })
  const ask = async () => {
    const client = await rig.gateway.connect()
    client.send(handshake())
    const { status } = await client.response()
    client.close()
    return status
  }
  for (let i = 0; i < 3; i++) t.equal(await ask(), 502)
  t.equal(rig.proxy.getBackend('a').circuitState, 'open')
  t.equal(await ask(), 503)
  clock.advance(1_100)
  status = 101
  const pair = await rig.open()
  t.equal(rig.proxy.getBackend('a').circuitState, 'closed', 'the head of the tunnel is what proves it')
  clock.advance(1_000_000)
  pair.server.wire.reset()
  await nothingLeft(t, rig.gateway)
  t.equal(rig.proxy.getBackend('a').circuitState, 'closed')
  const { maxResponseTime, backends: { a } } = rig.proxy.getMetrics()
  t.ok(maxResponseTime < 1_000 && a.maxResponseTime < 1_000, 'its time is that of the handshake')
})

t.test('limits count tunnels for as long as they are open', async t => {
  await t.test('maxInFlight', { timeout: LIMIT }, async t => {
    const { open, refused, gateway } = await start(t, { limits: { maxInFlight: 2, queue: false } })
    const [one] = [await open(), await open()]
    t.equal((await refused()).status, 503)
    await close(one)
    await until(() => gateway.app.proxy.getMetrics().inFlight === 1)
    await close(await open())
  })

  await t.test('maxPerBackend', { timeout: LIMIT }, async t => {
    const { url, open, refused, proxy } = await start(t, { limits: { maxPerBackend: 1, queue: false } })
    proxy.addBackend({ id: 'b', url })
    const [one] = [await open(), await open()]
    t.match(proxy.getMetrics(), { backends: { a: { inFlight: 1 }, b: { inFlight: 1 } } })
    t.equal((await refused()).status, 503)
    await close(one)
    await until(() => proxy.getMetrics().inFlight === 1)
    await close(await open())
  })

  await t.test('one that waits in the queue opens when another closes', { timeout: LIMIT }, async t => {
    const { open, proxy } = await start(t, { limits: { maxInFlight: 1, queue: true } })
    const one = await open()
    const two = open()
    await until(() => proxy.getMetrics().queueLength === 1)
    await close(one)
    await echoes(t, await two, 'hello')
  })

  await t.test('but adaptive ones only until they are open', { timeout: LIMIT }, async t => {
    const { open, proxy } = await start(t, { limits: { adaptive: { initial: 2, min: 1, max: 2 } } })
    const sockets = []
    for (let i = 0; i < 10; i++) sockets.push(await open())
    t.equal(proxy.getMetrics().tunnels.open, 10)
    for (const socket of sockets) await close(socket)
  })
})

t.test('load balancers see tunnels as what is under way', { timeout: LIMIT }, async t => {
  const { url, open, proxy } = await start(t, { balancer: 'least-requests' })
  for (const id of ['b', 'c']) proxy.addBackend({ id, url })
  for (let i = 0; i < 9; i++) await open()
  t.match(proxy.getMetrics().backends, { a: { inFlight: 3 }, b: { inFlight: 3 }, c: { inFlight: 3 } })
})

t.test('the affinity cookie is in the 101, and brings the client back', { timeout: LIMIT }, async t => {
  const rig = await tunnelRig(t, { affinity: { secret: 'sixteen letters!', cookie: 'stay' } })
  const others = await Promise.all(['b', 'c'].map(() => switchingBackend(t)))
  others.forEach(({ url }, i) => rig.proxy.addBackend({ id: 'bc'[i], url }))
  const ask = async (cookie = '') => {
    const client = await rig.gateway.connect()
    client.send(handshake('/', cookie))
    const head = await client.response()
    t.equal(head.status, 101)
    return head.values('set-cookie')
  }
  const [cookie, ...more] = await ask()
  t.match(cookie, /^stay=/)
  t.same(more, [])
  for (let i = 0; i < 5; i++) t.same(await ask(`Cookie: ${cookie.split(';')[0]}\r\n`), [], 'who has it gets no other')
  t.same([rig.backend, ...others].map(({ requests }) => requests.length).sort(), [0, 0, 6])
  await ask()
  await ask()
  t.same([rig.backend, ...others].map(({ requests }) => requests.length).sort(), [1, 1, 6])
})

// The application's own word

t.test('onUpgrade', async t => {
  const ways: [string, (request: FastifyRequest) => unknown, number, RegExp?][] = [
    ['true', () => true, 101],
    ['undefined', () => undefined, 101],
    ['a promise of true', async () => true, 101],
    ['a promise of nothing, later', async () => { await turns() }, 101],
    ['false', () => false, 403, /FST_ROCKSTAR_UPGRADE_REFUSED/],
    ['a promise of false', async () => false, 403, /FST_ROCKSTAR_UPGRADE_REFUSED/],
    ['throws', () => { throw Object.assign(new Error('teapot'), { statusCode: 418 }) }, 418, /teapot/],
    ['rejects', async () => { throw Object.assign(new Error('teapot'), { statusCode: 418 }) }, 418, /teapot/],
    ['throws without a status', () => { throw new Error('oh') }, 500, /oh/]
  ]
  for (const [name, onUpgrade, status, body] of ways) {
    await t.test(name, { timeout: LIMIT }, async t => {
      const asked: string[] = []
      const hook = (request: FastifyRequest) => {
        asked.push(request.url)
        return onUpgrade(request) as boolean
      }
      const rig = await tunnelRig(t, { routes: [{ prefix: '/declared', onUpgrade: hook }] }, {
        asked: request => request.values('upgrade').length === 0 ? ok('plain') : switching(),
        setup: app => {
          app.get('/call', (request, reply) => { request.server.proxy.forward(request, reply, { onUpgrade: hook }) })
          app.get('/await', async (request, reply) => {
            await request.server.proxy.forward(request, reply, { onUpgrade: hook })
            return reply
          })
        }
      })
      for (const path of ['/declared', '/call', '/await']) {
        const client = await rig.gateway.connect()
        client.send(handshake(path) + 'early')
        const response = await client.response()
        t.equal(response.status, status, path)
        if (body !== undefined) {
          t.match(response.body, body)
          await until(() => client.ended)
        }
        client.reset()
        await nothingLeft(t, rig.gateway)
      }
      t.same(asked, ['/declared', '/call', '/await'], 'asked once each')
      t.equal(rig.backend.requests.length, status === 101 ? 3 : 0, 'before any backend is')
      const plain = await rig.gateway.connect()
      plain.send('GET /declared HTTP/1.1\r\nHost: g\r\n\r\n')
      t.equal((await plain.response()).status, 200)
      t.equal(asked.length, 3, 'and not for other requests')
      if (status !== 101) t.match(rig.proxy.getMetrics(), { failedRequests: 0, totalRequests: 4, abortedRequests: 3, backends: { a: { totalRequests: 1 } } })
    })
  }

  await t.test('a client that goes meanwhile', { timeout: LIMIT }, async t => {
    let allow = (_allowed: boolean) => {}
    const rig = await tunnelRig(t, { routes: [{ prefix: '/', onUpgrade: () => new Promise<boolean>(resolve => { allow = resolve }) }] })
    for (const allowed of [true, false]) {
      const before = rig.proxy.getMetrics().totalRequests
      const client = await rig.gateway.connect()
      client.send(handshake())
      await until(() => rig.proxy.getMetrics().totalRequests === before + 1)
      client.reset()
      await until(() => rig.proxy.getMetrics().inFlight === 0)
      allow(allowed)
      await turns()
      await nothingLeft(t, rig.gateway)
    }
    t.equal(rig.backend.requests.length, 0)
    t.match(rig.proxy.getMetrics(), { abortedRequests: 2, failedRequests: 0 })
  })

  await t.test('an app that closes meanwhile', { timeout: LIMIT }, async t => {
    let allow = (_allowed: boolean) => {}
    const rig = await tunnelRig(t, { routes: [{ prefix: '/', onUpgrade: () => new Promise<boolean>(resolve => { allow = resolve }) }] })
    const client = await rig.gateway.connect()
    client.send(handshake())
    await until(() => rig.proxy.getMetrics().totalRequests === 1)
    const closed = rig.gateway.app.close()
    t.equal((await client.response()).status, 503)
    allow(true)
    client.socket.end()
    await closed
    t.equal(rig.backend.requests.length, 0)
  })
})

t.test('onTunnelClose', async t => {
  await t.test('tells what has become of it, once', { timeout: LIMIT }, async t => {
    const told: [string, ClosedTunnel][] = []
    const clock = new FakeClock()
    const rig = await tunnelRig(t, { clock, timeout: { tunnel: 0 }, upgrades: ['x-own'], routes: [{ prefix: '/', onTunnelClose: (request, tunnel) => { told.push([request.url, tunnel]) } }] }, { asked: request => switching(request.values('upgrade')[0]) })
    const pair = await rig.open(handshake('/a', '', 'X-Own') + 'early')
    await pair.server.hears('early')
    pair.client.say('more')
    await pair.server.hears('earlymore')
    pair.server.say('answer!')
    await pair.client.hears('answer!')
    clock.advance(12_345)
    t.same(told, [])
    pair.client.wire.socket.end()
    await until(() => pair.server.wire.ended)
    t.same(told, [], 'half of it is still open')
    pair.server.wire.socket.end()
    await until(() => told.length === 1)
    const [[url, tunnel]] = told
    t.equal(url, '/a')
    t.equal(tunnel.backend, rig.proxy.getBackend('a'))
    t.match(tunnel, { protocol: 'x-own', bytesReceived: 9, bytesSent: 7, duration: 12_345 })
    await nothingLeft(t, rig.gateway)
    for (const end of ['client', 'server'] as const) {
      const pair = await rig.open(handshake('/b', '', 'x-own'))
      pair[end].wire.reset()
      await nothingLeft(t, rig.gateway)
    }
    t.equal(told.length, 3)
    t.match(rig.proxy.getMetrics().tunnels, { open: 0, total: 3, bytesReceived: 9, bytesSent: 7 })
  })

  await t.test('one that throws or rejects is logged, and keeps nothing from ending', { timeout: LIMIT }, async t => {
    for (const onTunnelClose of [() => { throw new Error('oh') }, async () => { throw new Error('oh') }]) {
      const rig = await tunnelRig(t, { routes: [{ prefix: '/', onTunnelClose }] })
      const pair = await rig.open()
      pair.client.wire.reset()
      await nothingLeft(t, rig.gateway)
      await until(() => rig.gateway.log.some(({ msg }) => /^onTunnelClose (threw|rejected)$/.test(msg)))
    }
  })

  await t.test('is not for answers', { timeout: LIMIT }, async t => {
    let told = 0
    const rig = await tunnelRig(t, { routes: [{ prefix: '/', onTunnelClose: () => { told++ } }] }, { asked: () => ok('no', '', '403 Forbidden') })
    const client = await rig.gateway.connect()
    client.send(handshake())
    t.equal((await client.response()).status, 403)
    await nothingLeft(t, rig.gateway)
    t.equal(told, 0)
  })
})

t.test('headers of the handshake and of its answer may be changed', { timeout: LIMIT }, async t => {
  const rig = await tunnelRig(t, {
    routes: [{
      prefix: '/',
      preHandler: (_request: FastifyRequest, reply: FastifyReply, done: () => void) => { reply.header('x-reply', 'r').header('connection', 'close').header('upgrade', 'h2c').header('content-length', '5').header('transfer-encoding', 'chunked'); done() },
      rewriteRequestHeaders: (_request, headers) => ({ ...headers, 'x-added': 'a', 'sec-websocket-protocol': 'rewritten' }),
      rewriteHeaders: headers => ({ 'x-from': headers['x-backend'], 'set-cookie': ['a=1', 'b=2'] })
    }]
  }, { asked: () => switching('websocket', 'X-Backend: v\r\nSec-WebSocket-Accept: x\r\n') + 'hi' })
  const { client, head } = await rig.open()
  t.same(rig.backend.requests[0].values('x-added'), ['a'])
  t.same(rig.backend.requests[0].values('sec-websocket-protocol'), ['rewritten'])
  t.same(head.values('x-reply'), ['r'])
  t.same(head.values('x-from'), ['v'])
  t.same(head.values('set-cookie'), ['a=1', 'b=2'])
  t.same(head.values('x-backend'), [])
  t.same(head.values('connection'), ['Upgrade'], 'whatever functions say')
  t.same(head.values('upgrade'), ['websocket'])
  t.same([...head.values('content-length'), ...head.values('transfer-encoding')], [])
  await client.hears('hi')
})

t.test('paths of cookies in a 101 are mapped as in any answer', { timeout: LIMIT }, async t => {
  const rig = await tunnelRig(t, { routes: [{ prefix: '/chat' }] }, { asked: () => switching('websocket', 'Set-Cookie: a=1; Path=/room\r\n') })
  const { head } = await rig.open(handshake('/chat/room'))
  t.same(head.values('set-cookie'), ['a=1; Path=/chat/room'])
})

t.test('functions that fail on a 101 make it no tunnel', { timeout: LIMIT }, async t => {
  const bad: RockstarProxyOptions['routes'] = [
    { prefix: '/', rewriteHeaders: (): never => { throw new Error('oh') } },
    { prefix: '/', rewriteHeaders: () => ({ 'x-a': 'a\r\nSet-Cookie: evil=1' }) },
    { prefix: '/', rewriteHeaders: () => ({ 'x a': 'a' }) }
  ]
  for (const route of bad) {
    const rig = await tunnelRig(t, { routes: [route] })
    const client = await rig.gateway.connect()
    client.send(handshake())
    t.equal((await client.response()).status, 500)
    await until(() => client.ended)
    client.close()
    await until(() => rig.backend.connections[0].closed || rig.backend.connections[0].ended)
    await nothingLeft(t, rig.gateway)
  }
})

t.test('onResponse hooks and the log tell of it when it has closed, with 101', { timeout: LIMIT }, async t => {
  const seen: [string, number][] = []
  const { open, gateway } = await start(t, {}, {
    before: app => {
      app.addHook('onResponse', async (request, reply) => { seen.push([request.url, reply.statusCode]) })
      app.addHook('onSend', async (_request, _reply, payload) => {
        seen.push(['onSend', 0])
        return payload
      })
      app.addHook('onRequestAbort', async _request => { seen.push(['onRequestAbort', 0]) })
    }
  })
  const socket = await open('/a')
  await echoes(t, socket, 'hello')
  t.same(seen, [])
  await close(socket)
  await until(() => seen.length > 0)
  await turns()
  t.same(seen, [['/a', 101]])
  t.match(gateway.log.filter(({ msg }) => msg === 'request completed'), [{ res: { statusCode: 101 } }])
  t.equal(gateway.log.filter(({ msg }) => msg === 'request completed').length, 1)
})

t.test('a signal ends a tunnel', { timeout: LIMIT }, async t => {
  for (const way of ['ignore', 'await']) {
    const aborter = new AbortController()
    const outcome: unknown[] = []
    const rig = await tunnelRig(t, { routes: [] }, {
      setup: app => {
        app.get('/ignore', (request, reply) => { request.server.proxy.forward(request, reply, { signal: aborter.signal }) })
        app.get('/await', async (request, reply) => {
          await request.server.proxy.forward(request, reply, { signal: aborter.signal }).then(() => outcome.push('fulfilled'), error => outcome.push(error.code))
          return reply
        })
      }
    })
    const { client, server } = await rig.open(handshake(`/${way}`))
    aborter.abort(new Error('enough'))
    await until(() => client.wire.closed && server.wire.closed)
    await nothingLeft(t, rig.gateway)
    await turns()
    if (way === 'await') t.equal(outcome.length, 1)
    t.same(rig.gateway.log.filter(({ level, msg }) => level >= 40 && !/exchange/.test(msg)), [])
  }
})

t.test('a tunnel is none of a handler\'s time-out', { timeout: LIMIT }, async t => {
  const rig = await tunnelRig(t, { routes: [] }, { setup: app => { app.get('/', { handlerTimeout: 50 } as never, (request, reply) => { request.server.proxy.forward(request, reply) }) } })
  const { client, server } = await rig.open()
  const began = performance.now()
  await until(() => performance.now() - began > 120)
  client.say('still')
  await server.hears('still')
  server.say('here')
  await client.hears('here')
})

// Counting

t.test('counters tell of what is open, of all, and of bytes; a reset keeps what is open', { timeout: LIMIT }, async t => {
  const rig = await tunnelRig(t)
  const one = await rig.open()
  one.client.say('12345')
  await one.server.hears('12345')
  one.server.say('123')
  await one.client.hears('123')
  t.same(rig.proxy.getMetrics().tunnels, { open: 1, total: 1, bytesReceived: 5, bytesSent: 3 })
  rig.proxy.resetMetrics()
  t.same(rig.proxy.getMetrics().tunnels, { open: 1, total: 1, bytesReceived: 0, bytesSent: 0 })
  one.client.say('67')
  await one.server.hears('1234567')
  t.same(rig.proxy.getMetrics().tunnels, { open: 1, total: 1, bytesReceived: 2, bytesSent: 0 })
  one.client.wire.socket.end()
  one.server.wire.socket.end()
  await nothingLeft(t, rig.gateway)
  t.same(rig.proxy.getMetrics().tunnels, { open: 0, total: 1, bytesReceived: 2, bytesSent: 0 })
  rig.proxy.resetMetrics()
  t.same(rig.proxy.getMetrics().tunnels, { open: 0, total: 0, bytesReceived: 0, bytesSent: 0 })
})

t.test('nothing was rejected in vain', t => {
  t.same(rejections, [])
  t.end()
})
