import compress from '@fastify/compress'
import cookie from '@fastify/cookie'
import session from '@fastify/session'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { Readable } from 'node:stream'
import { brotliDecompressSync, gunzipSync } from 'node:zlib'
import t, { type Test } from 'tap'
import { startGateway, type Gateway, type GatewaySetup } from '../helpers/app.ts'
import { connectTo, ok, rawBackend, until, type Message, type Wire } from '../helpers/wire.ts'
import type { RockstarProxyOptions } from '../../types/index.ts'

/** A test that hangs fails by itself, and lets the others run. */
const LIMIT = 15_000

const rejections: unknown[] = []
const onRejection = (reason: unknown) => { rejections.push(reason) }
process.on('unhandledRejection', onRejection)
t.teardown(() => process.off('unhandledRejection', onRejection))

/** What the backend does with the next request; nothing when it only takes it. */
let answer: (request: Message, wire: Wire) => string | void = () => ok()
const backend = await rawBackend(t, (request, wire) => answer(request, wire))

async function start (t: Test, options: RockstarProxyOptions, setup: GatewaySetup = {}): Promise<Gateway> {
  return await startGateway(t, { backends: [backend.url], ...options }, setup)
}

async function ask (t: Test, gateway: Gateway, path: string, { method = 'GET', version = '1.1', fields = '', body = '' } = {}): Promise<Message> {
  const client = await connectTo(t, gateway.port)
  client.send(`${method} ${path} HTTP/${version}\r\nHost: gateway\r\n${fields}\r\n${body}`)
  return await client.response(0, method)
}

/** Waits until no connection to a backend carries anything. */
const idle = (gateway: Gateway) => until(() => gateway.app.proxy.getConnectionPool().stats().active === 0)

type Send = (request: FastifyRequest, reply: FastifyReply, payload: unknown) => Promise<unknown>
const passOn: Send = async (_request, _reply, payload) => payload
const onSend = (hook: Send) => hook as never

t.test('all hooks run', async t => {
  const watch = (app: FastifyInstance, seen: string[]) => {
    app.addHook('onRequest', async () => { seen.push('onRequest') })
    app.addHook('preParsing', async (_request, _reply, payload) => {
      seen.push('preParsing')
      return payload
    })
    app.addHook('preValidation', async () => { seen.push('preValidation') })
    app.addHook('preHandler', async () => { seen.push('preHandler') })
    app.addHook('onSend', async (_request, reply, payload) => {
      seen.push(`onSend ${reply.statusCode} ${typeof (payload as Readable).pipe}`)
      return payload
    })
    app.addHook('onResponse', async (_request, reply) => { seen.push(`onResponse ${reply.statusCode}`) })
    app.addHook('onError', async (_request, _reply, error) => { seen.push(`onError ${error.code}`) })
  }

  for (const when of ['before', 'setup'] as const) {
    await t.test(`in their order, of the app, for declared routes and for handlers, added ${when === 'before' ? 'before' : 'after'} the plugin`, { timeout: LIMIT }, async t => {
      const seen: string[] = []
      const gateway = await start(t, { routes: [{ prefix: '/api' }] }, {
        before: app => { if (when === 'before') watch(app, seen) },
        setup: app => {
          if (when === 'setup') watch(app, seen)
          app.post('/mine', (request, reply) => { request.server.proxy.forward(request, reply) })
        }
      })
      answer = () => ok('answer', '', '203 Fine')
      for (const path of when === 'before' ? ['/api/a', '/mine'] : ['/mine']) {
        seen.length = 0
        const response = await ask(t, gateway, path, { method: 'POST', fields: 'Content-Type: text/plain\r\nContent-Length: 2\r\n', body: 'hi' })
        t.equal(response.body, 'answer')
        await until(() => seen.some(hook => hook.startsWith('onResponse')))
        t.same(seen, ['onRequest', 'preParsing', 'preValidation', 'preHandler', 'onSend 203 function', 'onResponse 203'])
      }
    })
  }

  await t.test('onResponse runs on the raw path, with the status and the time', { timeout: LIMIT }, async t => {
    const seen: [number, boolean][] = []
    const gateway = await start(t, { routes: [{ prefix: '/api' }] }, {
      before: app => { app.addHook('onResponse', async (_request, reply) => { seen.push([reply.statusCode, reply.elapsedTime > 0]) }) }
    })
    answer = () => ok('answer', '', '404 Gone Missing')
    await ask(t, gateway, '/api/a')
    await until(() => seen.length === 1)
    t.same(seen, [[404, true]])
  })

  await t.test('onError and onSend run for our errors', { timeout: LIMIT }, async t => {
    const seen: string[] = []
    const gateway = await start(t, { routes: [{ prefix: '/api' }] }, { before: app => { watch(app, seen) } })
    answer = () => 'HTTP/1.1 600 Bad\r\n\r\n'
    t.equal((await ask(t, gateway, '/api/a')).status, 502)
    await until(() => seen.some(hook => hook.startsWith('onResponse')))
    t.same(seen.slice(-3), ['onError FST_ROCKSTAR_BAD_RESPONSE', 'onSend 502 undefined', 'onResponse 502'])
  })

  await t.test('a hook that answers keeps the request from the backend', { timeout: LIMIT }, async t => {
    for (const hook of ['onRequest', 'preValidation', 'preHandler'] as const) {
      const gateway = await start(t, { routes: [{ prefix: '/api', [hook]: async (_request: FastifyRequest, reply: FastifyReply) => reply.code(401).send('no') }] })
      const requests = backend.requests.length
      const response = await ask(t, gateway, '/api/a')
      t.equal(response.status, 401)
      t.equal(response.body, 'no')
      t.equal(backend.requests.length, requests)
    }
  })

  await t.test('a hook that throws is answered by Fastify', { timeout: LIMIT }, async t => {
    const gateway = await start(t, { routes: [{ prefix: '/api', preHandler: async () => { throw Object.assign(new Error('mine'), { statusCode: 418 }) } }] })
    const requests = backend.requests.length
    t.equal((await ask(t, gateway, '/api/a')).status, 418)
    t.equal(backend.requests.length, requests)
  })
})

t.test('onSend', async t => {
  const hooked = async (t: Test, hook: Send) => await start(t, { routes: [{ prefix: '/api', onSend: onSend(hook) }] })

  for (const [name, make, length] of [
    ['a string', () => 'changed', '7'],
    ['a Buffer', () => Buffer.from('changed'), '7'],
    ['a stream', () => Readable.from(['chan', 'ged']), undefined]
  ] as [string, () => unknown, string | undefined][]) {
    await t.test(`may replace the content by ${name}, and the backend's connection is let go of`, { timeout: LIMIT }, async t => {
      const gateway = await hooked(t, async (_request, reply) => {
        if (length === undefined) reply.removeHeader('content-length')
        return make()
      })
      for (const content of ['small', 'x'.repeat(300_000)]) {
        answer = () => ok(content, 'X-Kept: 1\r\n', '203 Not Quite')
        const response = await ask(t, gateway, '/api/a')
        t.equal(response.startLine, 'HTTP/1.1 203 Not Quite')
        t.equal(response.body, 'changed')
        t.same(response.values('content-length'), length === undefined ? [] : [length])
        t.same(response.values('x-kept'), ['1'])
        await idle(gateway)
      }
    })
  }

  await t.test('may take the content away', { timeout: LIMIT }, async t => {
    for (const nothing of [null, undefined, '']) {
      const gateway = await hooked(t, async () => nothing)
      answer = () => ok('x'.repeat(300_000))
      const response = await ask(t, gateway, '/api/a')
      t.equal(response.status, 200)
      // Undefined is no new payload: it leaves the old one.
      if (nothing !== undefined) {
        t.equal(response.body, '')
        t.same(response.values('content-length'), ['0'])
      } else t.equal(response.body.length, 300_000)
      await idle(gateway)
    }
  })

  await t.test('may change status and headers, and leaves the others as they came', { timeout: LIMIT }, async t => {
    const gateway = await hooked(t, async (_request, reply, payload) => {
      reply.code(201).header('x-added', 'a').header('x-changed', 'b').removeHeader('x-gone')
      return payload
    })
    answer = () => ok('content', 'X-Kept: 1\r\nX-Changed: 2\r\nX-Gone: 3\r\nx-KEPT: 4\r\n', '200 My Reason')
    const response = await ask(t, gateway, '/api/a')
    t.equal(response.startLine, 'HTTP/1.1 201 Created', 'the reason of another status would be wrong')
    t.same(response.fields.slice(0, 3), [['X-Kept', '1'], ['X-Changed', 'b'], ['x-KEPT', '4']])
    t.same(response.values('x-added'), ['a'])
    t.same(response.values('x-gone'), [])
    t.equal(response.body, 'content')
  })

  await t.test('may add a cookie to those of the backend', { timeout: LIMIT }, async t => {
    const gateway = await hooked(t, async (_request, reply, payload) => {
      reply.header('set-cookie', 'own=1')
      return payload
    })
    answer = () => ok('content', 'Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n')
    t.same((await ask(t, gateway, '/api/a')).values('set-cookie'), ['a=1', 'b=2', 'own=1'])
    answer = () => ok('content', 'Set-Cookie: a=1\r\n')
    t.same((await ask(t, gateway, '/api/a')).values('set-cookie'), ['a=1', 'own=1'])
  })

  await t.test('that makes text of the content spoils no byte of the headers', { timeout: LIMIT }, async t => {
    const gateway = await hooked(t, async () => 'grüße')
    answer = () => ok('content', 'X-Obs: gr\xfc\xdfe\r\n', '200 Sch\xf6n')
    const response = await ask(t, gateway, '/api/a')
    t.equal(response.startLine, 'HTTP/1.1 200 Sch\xf6n')
    t.same(response.values('x-obs'), ['gr\xfc\xdfe'])
    t.equal(Buffer.from(response.body, 'latin1').toString(), 'grüße')
  })

  await t.test('that transforms the stream sees all of it, and its cut', { timeout: LIMIT }, async t => {
    const gateway = await hooked(t, async (_request, reply, payload) => {
      reply.removeHeader('content-length')
      return (payload as Readable).map((chunk: Buffer) => chunk.toString('latin1').toUpperCase())
    })
    answer = () => ok('shout'.repeat(10_000))
    t.equal((await ask(t, gateway, '/api/a')).body, 'SHOUT'.repeat(10_000))
    let carrier: Wire | undefined
    answer = (_request, wire) => {
      carrier = wire
      return 'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome'
    }
    const client = await connectTo(t, gateway.port)
    client.send('GET /api/a HTTP/1.1\r\nHost: gateway\r\n\r\n')
    await client.receive('SOME')
    carrier?.socket.end()
    await until(() => client.ended)
    t.notMatch(client.received, /\r\n0\r\n/, 'no clean end')
  })

  for (const [name, hook] of [
    ['throws', async () => { throw Object.assign(new Error('mine'), { statusCode: 418 }) }],
    ['gives what is no payload', async () => ({ not: 'a payload' })]
  ] as [string, Send][]) {
    await t.test(`that ${name} is answered by Fastify, once, and the backend's connection is let go of`, { timeout: LIMIT }, async t => {
      const gateway = await hooked(t, hook)
      for (const content of ['secret', 'secret'.repeat(50_000)]) {
        answer = () => ok(content, 'X-Theirs: 1\r\n')
        const client = await connectTo(t, gateway.port)
        client.send('GET /api/a HTTP/1.1\r\nHost: gateway\r\n\r\n')
        const response = await client.response()
        t.equal(response.status, name === 'throws' ? 418 : 500)
        t.notMatch(client.received, /secret/)
        await idle(gateway)
        answer = () => ok()
        client.send('GET /none HTTP/1.1\r\nHost: gateway\r\n\r\n')
        const next = await client.response(response.length)
        t.equal(next.status, 404)
        t.equal(client.received.length, response.length + next.length)
      }
    })
  }
})

t.test('@fastify/compress', async t => {
  const text = 'all work and no play '.repeat(500)
  const gateway = await start(t, { routes: [{ prefix: '/api' }] }, { before: async app => { await app.register(compress, { threshold: 100 }) } })

  for (const [encoding, decode] of [['gzip', gunzipSync], ['br', brotliDecompressSync]] as const) {
    await t.test(`compresses with ${encoding}`, { timeout: LIMIT }, async t => {
      answer = () => ok(text, 'Content-Type: text/plain\r\nETag: "e"\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n')
      const response = await ask(t, gateway, '/api/a', { fields: `Accept-Encoding: ${encoding}\r\n` })
      t.same(response.values('content-encoding'), [encoding])
      t.same(response.values('content-length'), [], 'that of the uncompressed content would be wrong')
      t.same(response.values('set-cookie'), ['a=1', 'b=2'])
      t.match(response.values('vary').join(), /accept-encoding/i)
      t.equal(decode(Buffer.from(response.body, 'latin1')).toString(), text)
    })
  }
  await t.test('leaves what is compressed already, and what is not asked for', { timeout: LIMIT }, async t => {
    answer = () => ok(text, 'Content-Type: text/plain\r\nContent-Encoding: gzip\r\n')
    t.equal((await ask(t, gateway, '/api/a', { fields: 'Accept-Encoding: gzip\r\n' })).body, text)
    answer = () => ok(text, 'Content-Type: text/plain\r\n')
    const plain = await ask(t, gateway, '/api/a')
    t.equal(plain.body, text)
    t.same(plain.values('content-length'), [String(text.length)])
  })
  await t.test('does nothing to answers without content', { timeout: LIMIT }, async t => {
    answer = () => 'HTTP/1.1 304 Not Modified\r\nContent-Type: text/plain\r\n\r\n'
    t.equal((await ask(t, gateway, '/api/a', { fields: 'Accept-Encoding: gzip\r\n' })).startLine, 'HTTP/1.1 304 Not Modified')
    answer = () => 'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5000\r\n\r\n'
    t.equal((await ask(t, gateway, '/api/a', { method: 'HEAD', fields: 'Accept-Encoding: gzip\r\n' })).startLine, 'HTTP/1.1 200 OK')
  })
  await t.test('content cut short is cut short', { timeout: LIMIT }, async t => {
    let carrier: Wire | undefined
    answer = (_request, wire) => {
      carrier = wire
      return `HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 50000\r\n\r\n${text}`
    }
    const client = await connectTo(t, gateway.port)
    client.send('GET /api/a HTTP/1.1\r\nHost: gateway\r\nAccept-Encoding: gzip\r\n\r\n')
    await until(() => carrier !== undefined)
    await client.receive('HTTP/1.1 200 OK')
    carrier?.socket.end()
    await until(() => client.ended)
    t.notMatch(client.received, /\r\n0\r\n\r\n$/)
  })
})

t.test('@fastify/cookie and @fastify/session', { timeout: LIMIT }, async t => {
  const gateway = await start(t, {
    routes: [{
      prefix: '/api',
      preHandler: async (request: FastifyRequest) => {
        const { session } = request as unknown as { session: { count?: number } }
        session.count = (session.count ?? 0) + 1
      },
      rewriteRequestHeaders: (request, headers) => ({ ...headers, 'x-count': String((request as unknown as { session: { count: number } }).session.count), 'x-seen': request.cookies.theirs ?? 'none' })
    }]
  }, {
    before: async app => {
      await app.register(cookie)
      await app.register(session, { secret: 'a secret that is longer than thirty-two characters', cookie: { secure: false } })
    }
  })
  answer = request => ok(`${request.values('x-count')}, ${request.values('x-seen')}`, 'Set-Cookie: theirs=1; Secure\r\nSet-Cookie: other=2\r\n')
  const first = await ask(t, gateway, '/api/a')
  t.equal(first.body, '1, none')
  const cookies = first.values('set-cookie')
  t.equal(cookies.length, 3)
  t.ok(cookies.includes('theirs=1; Secure') && cookies.includes('other=2'))
  const own = cookies.find(cookie => cookie.startsWith('sessionId=')) as string
  const second = await ask(t, gateway, '/api/a', { fields: `Cookie: ${own.split(';')[0]}; theirs=1\r\n` })
  t.equal(second.body, '2, 1')
})

t.test('a cookie set in a handler goes out with those of the backend', { timeout: LIMIT }, async t => {
  const gateway = await start(t, {}, {
    before: async app => { await app.register(cookie) },
    setup: app => {
      app.get('/mine', (request, reply) => {
        reply.setCookie('own', '1')
        request.server.proxy.forward(request, reply)
      })
    }
  })
  answer = () => ok('ok', 'Set-Cookie: theirs=1\r\nSet-Cookie: more=2\r\n')
  t.same((await ask(t, gateway, '/mine')).values('set-cookie').toSorted(), ['more=2', 'own=1; SameSite=Lax', 'theirs=1'])
})

t.test('the raw path and the onSend path give the same bytes', async t => {
  const routes = [{ prefix: '/aaa' }, { prefix: '/bbb', onSend: onSend(passOn) }]
  const gateway = await start(t, { routes })
  const chunked = (...chunks: string[]) => `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${chunks.map(chunk => `${chunk.length.toString(16)}\r\n${chunk}\r\n`).join('')}`
  const kinds: { name: string, answer: string, close?: boolean, method?: string, version?: string, fields?: string }[] = [
    { name: 'a plain answer', answer: ok('hello') },
    { name: 'an empty answer', answer: ok('') },
    { name: 'an answer without a type', answer: ok('{"a":1}') },
    { name: 'JSON', answer: ok('{"a":1}', 'Content-Type: application/json\r\n') },
    { name: 'an error', answer: ok('gone', 'Content-Type: text/html\r\n', '404 Not Here') },
    { name: 'a server\'s error', answer: ok('broken', '', '503 Busy') },
    { name: 'an odd reason', answer: ok('a', '', '200 Sch\xf6n') },
    { name: 'an empty reason', answer: ok('a', '', '200 ') },
    { name: 'an unknown status', answer: ok('a', '', '299 New') },
    { name: 'odd spelling, order and repetitions', answer: ok('a', 'x-LOW: 1\r\nSet-Cookie: a\r\nDATE: now\r\nX-Dup: 1\r\nset-cookie: b\r\nx-dup: 2\r\nX-Other: 3\r\nSET-COOKIE: c\r\n') },
    { name: 'bytes above 127', answer: ok('\xe4\xff', 'X-Obs: \xe4\xff\r\n') },
    { name: 'a Date', answer: ok('a', 'Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n') },
    { name: 'names like those of objects', answer: ok('a', 'constructor: 1\r\n__proto__: 2\r\nhasOwnProperty: 3\r\n7: 4\r\n') },
    { name: 'Connection and what it names', answer: ok('a', 'Connection: X-Gone\r\nX-Gone: 1\r\nKeep-Alive: timeout=3\r\n') },
    { name: 'one chunk', answer: `${chunked('hello')}0\r\n\r\n` },
    { name: 'several chunks', answer: `${chunked('hello', ' ', 'world')}0\r\n\r\n` },
    { name: 'no chunk', answer: `${chunked()}0\r\n\r\n` },
    { name: 'trailers for a client that takes them', answer: `${chunked('hello')}0\r\nX-Sum: 1\r\nx-sum: 2\r\n\r\n`, fields: 'TE: trailers\r\nConnection: TE\r\n' },
    { name: 'trailers behind no content', answer: `${chunked()}0\r\nX-Sum: 1\r\n\r\n`, fields: 'TE: trailers\r\nConnection: TE\r\n' },
    { name: 'trailers for one that does not', answer: `${chunked('hello')}0\r\nX-Sum: 1\r\n\r\n` },
    { name: 'content without a length', answer: 'HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\nall of it', close: true },
    { name: 'no content without a length', answer: 'HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\n', close: true },
    { name: 'HTTP/1.0', answer: 'HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok', close: true },
    { name: '204', answer: 'HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n' },
    { name: '204 with what it must not have', answer: 'HTTP/1.1 204 No Content\r\nContent-Length: 0\r\nContent-Type: text/plain\r\n\r\n' },
    { name: '205', answer: ok('', '', '205 Reset Content') },
    { name: '304', answer: 'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 10\r\n\r\n' },
    { name: 'HEAD', answer: 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\nContent-Type: text/plain\r\n\r\n', method: 'HEAD' },
    { name: 'HEAD without a length', answer: 'HTTP/1.1 200 OK\r\n\r\n', method: 'HEAD' },
    { name: 'HEAD of chunks', answer: 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n', method: 'HEAD' },
    { name: 'a redirect', answer: ok('', 'Location: http://other.example/\r\n', '302 Found') },
    { name: 'early hints', answer: `HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n${ok('hello')}` },
    { name: 'an HTTP/1.0 client', answer: ok('hello'), version: '1.0' },
    { name: 'an HTTP/1.0 client and chunks', answer: `${chunked('hello', ' world')}0\r\n\r\n`, version: '1.0' },
    { name: 'an HTTP/1.0 client with keep-alive', answer: ok('hello'), version: '1.0', fields: 'Connection: keep-alive\r\n' },
    { name: 'a client that closes', answer: ok('hello'), fields: 'Connection: close\r\n' },
    { name: 'a client that closes, and chunks', answer: `${chunked('hello')}0\r\n\r\n`, fields: 'Connection: close\r\n' },
    { name: 'a bad response', answer: 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok' }
  ]
  for (const { name, answer: bytes, close = false, method = 'GET', version = '1.1', fields = '' } of kinds) {
    await t.test(name, { timeout: LIMIT }, async t => {
      const seen: string[] = []
      for (const prefix of ['/aaa', '/bbb']) {
        answer = (_request, wire) => {
          wire.send(bytes)
          if (close) wire.socket.end()
        }
        const client = await connectTo(t, gateway.port)
        client.send(`${method} ${prefix}/a HTTP/${version}\r\nHost: gateway\r\n${fields}\r\n`)
        let from = 0
        while (true) {
          const response = await client.response(from, method)
          from += response.length
          if (response.status >= 200) break
        }
        const own = bytes.includes('\r\nDate: ') || bytes.includes('\r\nDATE: ')
        seen.push(own ? client.received : client.received.replace(/\r\nDate: [^\r]*/, '\r\nDate: -'))
      }
      t.equal(seen[1], seen[0])
      t.ok(seen[0].startsWith('HTTP/1.1 '))
    })
  }
})

/** Ways that a handler may call `forward()`. */
const STYLES: Record<string, (app: FastifyInstance) => void> = {
  ignored: app => { app.get('/mine', (request, reply) => { request.server.proxy.forward(request, reply) }) },
  returned: app => { app.get('/mine', (request, reply) => request.server.proxy.forward(request, reply)) },
  'returned by an async function': app => { app.get('/mine', async (request, reply) => request.server.proxy.forward(request, reply)) },
  awaited: app => { app.get('/mine', async (request, reply) => { await request.server.proxy.forward(request, reply) }) },
  'awaited, and the reply returned': app => {
    app.get('/mine', async (request, reply) => {
      await request.server.proxy.forward(request, reply)
      return reply
    })
  },
  'ignored, and the reply returned': app => {
    app.get('/mine', async (request, reply) => {
      request.server.proxy.forward(request, reply)
      return reply
    })
  },
  'with a then': app => { app.get('/mine', (request, reply) => { request.server.proxy.forward(request, reply).then(() => {}, error => reply.send(error)) }) },
  'with a catch': app => { app.get('/mine', (request, reply) => { request.server.proxy.forward(request, reply).catch(error => reply.send(error)) }) },
  'with a finally': app => { app.get('/mine', (request, reply) => { request.server.proxy.forward(request, reply).finally(() => {}).catch(error => reply.send(error)) }) },
  'after a while': app => {
    app.get('/mine', async (request, reply) => {
      await new Promise(resolve => setImmediate(resolve))
      return request.server.proxy.forward(request, reply)
    })
  },
  'in Promise.all': app => { app.get('/mine', async (request, reply) => { await Promise.all([request.server.proxy.forward(request, reply)]) }) }
}

t.test('forward() in a handler', async t => {
  for (const [style, setup] of Object.entries(STYLES)) {
    for (const way of ['raw', 'hooked']) {
      await t.test(`${style}, ${way}: answers once, whatever comes of it`, { timeout: LIMIT }, async t => {
        let handled = 0
        const gateway = await start(t, {}, {
          before: app => { if (way === 'hooked') app.addHook('onSend', passOn) },
          setup: app => {
            app.setErrorHandler((error: Error & { code: string, statusCode: number }, _request, reply) => {
              handled++
              return reply.code(error.statusCode).send(error.code)
            })
            setup(app)
          }
        })
        const client = await connectTo(t, gateway.port)
        let from = 0
        for (const [bytes, status, body, errors] of [
          [ok('fine'), 200, 'fine', 0],
          ['HTTP/1.1 204 No Content\r\n\r\n', 204, '', 0],
          [ok('', '', '500 Theirs'), 500, '', 0],
          ['HTTP/1.1 600 Bad\r\n\r\n', 502, 'FST_ROCKSTAR_BAD_RESPONSE', 1],
          [ok('fine again'), 200, 'fine again', 1]
        ] as [string, number, string, number][]) {
          answer = () => bytes
          client.send('GET /mine HTTP/1.1\r\nHost: gateway\r\n\r\n')
          const response = await client.response(from)
          from += response.length
          t.equal(response.status, status)
          t.equal(response.body, body)
          t.equal(handled, errors)
        }
        t.equal(client.received.length, from)
        t.notOk(gateway.log.some(({ level }) => level >= 50), 'nothing that Fastify would complain of')
        // A failure that is there at once.
        gateway.app.proxy.updateBackend(`127.0.0.1:${backend.port}`, { isActive: false })
        client.send('GET /mine HTTP/1.1\r\nHost: gateway\r\n\r\n')
        const none = await client.response(from)
        t.equal(none.body, 'FST_ROCKSTAR_NO_BACKEND')
        t.equal(none.status, 503)
        t.equal(client.received.length, from + none.length)
      })
    }
  }

  await t.test('with a fallback: a handler that catches answers itself', { timeout: LIMIT }, async t => {
    const gateway = await start(t, { upstreams: { spare: { backends: [backend.url] } } }, {
      setup: app => {
        app.get('/answer', async (request, reply) => {
          try {
            await request.server.proxy.forward(request, reply)
          } catch (error) {
            return reply.code(203).send({ fallback: (error as { code: string }).code })
          }
        })
        app.get('/value', async (request, reply) => {
          try {
            await request.server.proxy.forward(request, reply)
            return reply
          } catch {
            return { fallback: true }
          }
        })
        app.get('/spare', async (request, reply) => {
          try {
            await request.server.proxy.forward(request, reply)
          } catch {
            await request.server.proxy.forward(request, reply, { upstream: 'spare', path: '/second' })
          }
        })
        app.get('/capture', async (request, reply) => {
          try {
            const answer = await request.server.proxy.forward(request)
            return reply.code(answer.statusCode).send(await answer.text())
          } catch {
            return reply.code(502).send({ error: 'Bad gateway' })
          }
        })
      }
    })
    const bad = (request: Message) => request.startLine.includes('/second') ? ok('second') : 'HTTP/1.1 600 Bad\r\n\r\n'
    answer = bad
    const own = await ask(t, gateway, '/answer')
    t.equal(own.status, 203)
    t.same(JSON.parse(own.body), { fallback: 'FST_ROCKSTAR_BAD_RESPONSE' })
    t.same(JSON.parse((await ask(t, gateway, '/value')).body), { fallback: true })
    t.equal((await ask(t, gateway, '/spare')).body, 'second')
    t.same(JSON.parse((await ask(t, gateway, '/capture')).body), { error: 'Bad gateway' })
    answer = () => ok('first')
    for (const path of ['/answer', '/value', '/spare', '/capture']) t.equal((await ask(t, gateway, path)).body, 'first', path)
    await idle(gateway)
  })

  await t.test('with a fallback: the same on the onSend path, whose first answer set headers', { timeout: LIMIT }, async t => {
    const gateway = await start(t, {}, {
      before: app => { app.addHook('onSend', passOn) },
      setup: app => {
        app.get('/mine', async (request, reply) => {
          reply.header('x-own', '1')
          try {
            await request.server.proxy.forward(request, reply)
          } catch {
            await request.server.proxy.forward(request, reply, { path: '/second' })
          }
        })
      }
    })
    answer = request => request.startLine.includes('/second') ? ok('second', 'X-Second: 1\r\n') : 'HTTP/1.1 600 Bad\r\nX-First: 1\r\n\r\n'
    const response = await ask(t, gateway, '/mine')
    t.equal(response.body, 'second')
    t.same(response.values('x-own'), ['1'])
    t.same(response.values('x-first'), [])
    t.same(response.values('x-second'), ['1'])
  })

  await t.test('the promise fulfils when the answer has been sent, not before', { timeout: LIMIT }, async t => {
    for (const way of ['raw', 'hooked']) {
      let fulfilled = false
      let carrier: Wire | undefined
      const gateway = await start(t, {}, {
        before: app => { if (way === 'hooked') app.addHook('onSend', passOn) },
        setup: app => {
          app.get('/mine', async (request, reply) => {
            await request.server.proxy.forward(request, reply)
            fulfilled = true
          })
        }
      })
      answer = (_request, wire) => {
        carrier = wire
        return 'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf'
      }
      const client = await connectTo(t, gateway.port)
      client.send('GET /mine HTTP/1.1\r\nHost: gateway\r\n\r\n')
      await client.receive('half')
      t.notOk(fulfilled)
      carrier?.send('full')
      await until(() => fulfilled)
      t.equal((await client.response()).body, 'halffull')
    }
  })
})

t.test('errors', async t => {
  await t.test('reach setErrorHandler with code, status and cause', { timeout: LIMIT }, async t => {
    const seen: (Error & { code: string, statusCode: number })[] = []
    const gateway = await start(t, { routes: [{ prefix: '/api' }] }, {
      before: app => {
        app.setErrorHandler((error: Error & { code: string, statusCode: number }, _request, reply) => {
          seen.push(error)
          return reply.code(error.statusCode).type('text/plain').send(`sorry: ${error.message}`)
        })
      }
    })
    answer = (_request, wire) => { wire.reset() }
    const reset = await ask(t, gateway, '/api/a', { method: 'POST', fields: 'Content-Length: 2\r\n', body: 'hi' })
    t.equal(reset.status, 502)
    t.match(reset.body, /^sorry: /)
    answer = () => 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok'
    t.equal((await ask(t, gateway, '/api/a')).status, 502)
    gateway.app.proxy.updateBackend(`127.0.0.1:${backend.port}`, { isActive: false })
    t.equal((await ask(t, gateway, '/api/a')).status, 503)
    gateway.app.proxy.addBackend({ id: 'dead', url: 'http://127.0.0.1:1' })
    t.equal((await ask(t, gateway, '/api/a')).status, 502)
    t.same(seen.map(({ code, statusCode }) => [code, statusCode]), [
      ['FST_ROCKSTAR_RESET', 502], ['FST_ROCKSTAR_BAD_RESPONSE', 502], ['FST_ROCKSTAR_NO_BACKEND', 503], ['FST_ROCKSTAR_CONNECT', 502]
    ])
    t.ok(seen[0].cause instanceof Error)
    t.ok(seen[1].cause instanceof Error)
    t.equal((seen[3].cause as NodeJS.ErrnoException).code, 'ECONNREFUSED')
  })

  await t.test('are answered with a body that names no address, even of a backend that refuses', { timeout: LIMIT }, async t => {
    const gateway = await startGateway(t, { backends: ['http://127.0.0.1:1'], routes: [{ prefix: '/api' }] })
    const response = await ask(t, gateway, '/api/a')
    t.equal(response.status, 502)
    t.same(Object.keys(JSON.parse(response.body)).toSorted(), ['code', 'error', 'message', 'statusCode'])
    t.notMatch(response.head + response.body, /127\.0\.0\.1|ECONNREFUSED|:1\b/)
    const line = gateway.log.find(({ msg }) => msg === 'attempt failed')
    t.match(line?.err, { code: 'ECONNREFUSED' }, 'the log does')
  })
})

t.test('an app that answers first: one response, and the backend is let go of', async t => {
  await t.test('by a handlerTimeout', { timeout: LIMIT }, async t => {
    for (const way of ['raw', 'hooked']) {
      let carrier: Wire | undefined
      const gateway = await start(t, {}, {
        before: app => { if (way === 'hooked') app.addHook('onSend', passOn) },
        setup: app => { app.get('/mine', { handlerTimeout: 30 }, (request, reply) => { request.server.proxy.forward(request, reply) }) }
      })
      answer = (_request, wire) => { carrier = wire }
      const client = await connectTo(t, gateway.port)
      client.send('GET /mine HTTP/1.1\r\nHost: gateway\r\n\r\n')
      const response = await client.response()
      t.equal(response.status, 503)
      t.match(response.body, /FST_ERR_HANDLER_TIMEOUT/)
      await until(() => carrier?.closed === true)
      await idle(gateway)
      client.send('GET /none HTTP/1.1\r\nHost: gateway\r\n\r\n')
      const next = await client.response(response.length)
      t.equal(next.status, 404)
      t.equal(client.received.length, response.length + next.length)
      t.notOk(gateway.log.some(({ statusCode }) => statusCode === 499), 'no client has gone')
    }
  })

  await t.test('by reply.send() behind forward()', { timeout: LIMIT }, async t => {
    for (const late of [false, true]) {
      const carriers: Wire[] = []
      const gateway = await start(t, {}, {
        setup: app => {
          app.get('/mine', (request, reply) => {
            request.server.proxy.forward(request, reply)
            reply.send('own')
          })
        }
      })
      answer = (_request, wire) => {
        carriers.push(wire)
        return late ? ok('late') : undefined
      }
      const client = await connectTo(t, gateway.port)
      client.send('GET /mine HTTP/1.1\r\nHost: gateway\r\n\r\n')
      const response = await client.response()
      t.equal(response.body, 'own')
      await idle(gateway)
      client.send('GET /none HTTP/1.1\r\nHost: gateway\r\n\r\n')
      const next = await client.response(response.length)
      t.equal(next.status, 404)
      t.equal(client.received.length, response.length + next.length)
    }
  })

  await t.test('by hijacking the reply', { timeout: LIMIT }, async t => {
    let carrier: Wire | undefined
    const gateway = await start(t, {}, {
      setup: app => {
        app.get('/mine', (request, reply) => {
          request.server.proxy.forward(request, reply)
          reply.hijack()
          reply.raw.end('own')
        })
      }
    })
    answer = (_request, wire) => { carrier = wire }
    t.equal((await ask(t, gateway, '/mine')).body, 'own')
    await idle(gateway)
    t.ok(carrier === undefined || carrier.closed || carrier.ended)
  })
})

t.test('the log', async t => {
  const about = (gateway: Gateway, msg: string) => gateway.log.filter(line => line.msg === msg)

  await t.test('has one warn line for a failed attempt and one debug line for an exchange', { timeout: LIMIT }, async t => {
    const gateway = await start(t, { routes: [{ prefix: '/api' }] })
    answer = () => ok()
    await ask(t, gateway, '/api/a')
    await until(() => about(gateway, 'request completed').length === 1)
    t.equal(about(gateway, 'attempt failed').length, 0)
    t.equal(about(gateway, 'exchange finished').length, 1)
    t.match(about(gateway, 'exchange finished')[0], { level: 20, reqId: 'req-1', upstream: 'default', backend: `127.0.0.1:${backend.port}`, statusCode: 200, result: 'successful', attempts: [{ result: 'successful', stage: 'done', statusCode: 200, hedge: false }] })
    answer = () => 'HTTP/1.1 600 Bad\r\n\r\n'
    await ask(t, gateway, '/api/a')
    await until(() => about(gateway, 'request completed').length === 2)
    t.equal(about(gateway, 'attempt failed').length, 1)
    t.match(about(gateway, 'attempt failed')[0], { level: 40, reqId: 'req-2', upstream: 'default', backend: `127.0.0.1:${backend.port}`, culprit: 'backend' })
    t.equal(about(gateway, 'exchange finished').length, 2)
    answer = () => ok('', '', '503 Busy')
    await ask(t, gateway, '/api/a')
    await until(() => about(gateway, 'request completed').length === 3)
    t.equal(about(gateway, 'attempt failed').length, 1, 'a backend\'s own 503 is an answer')
    t.equal(about(gateway, 'exchange finished').length, 3)
  })

  await t.test('has no debug line where nobody asks for that level', { timeout: LIMIT }, async t => {
    const lines: string[] = []
    const gateway = await start(t, { routes: [{ prefix: '/api' }] }, { fastify: { logger: { level: 'info', stream: { write: (line: string) => { lines.push(line) } } } } })
    answer = () => ok()
    await ask(t, gateway, '/api/a')
    await until(() => lines.some(line => line.includes('request completed')))
    t.notOk(lines.some(line => line.includes('exchange finished')))
  })

  await t.test('may be none at all, or one that knows no levels', { timeout: LIMIT }, async t => {
    const simple = { level: 'info', silent () {}, fatal () {}, error () {}, warn () {}, info () {}, debug () {}, trace () {}, child () { return this } }
    for (const fastify of [{ logger: false as const }, { logger: undefined, loggerInstance: simple as never }]) {
      const gateway = await start(t, { routes: [{ prefix: '/api' }] }, { fastify })
      answer = () => ok('fine')
      t.equal((await ask(t, gateway, '/api/a')).body, 'fine')
      answer = () => 'HTTP/1.1 600 Bad\r\n\r\n'
      t.equal((await ask(t, gateway, '/api/a')).status, 502)
    }
  })

  await t.test('is as quiet as a route\'s logLevel wants', { timeout: LIMIT }, async t => {
    const gateway = await start(t, { routes: [{ prefix: '/quiet', logLevel: 'error' }, { prefix: '/loud' }] })
    answer = () => 'HTTP/1.1 600 Bad\r\n\r\n'
    await ask(t, gateway, '/quiet/a')
    t.equal(about(gateway, 'attempt failed').length, 0)
    await ask(t, gateway, '/loud/a')
    await until(() => about(gateway, 'attempt failed').length === 1)
  })
})

t.test('the decorator', { timeout: LIMIT }, async t => {
  let seen: unknown
  const gateway = await start(t, {}, {
    setup: app => {
      app.register(async scope => {
        scope.get('/deep', (request, reply) => {
          seen = request.server.proxy
          request.server.proxy.forward(request, reply)
        })
      }, { prefix: '/scope' })
    }
  })
  answer = request => ok(request.startLine)
  t.equal((await ask(t, gateway, '/scope/deep')).body, 'GET /scope/deep HTTP/1.1')
  t.equal(seen, gateway.app.proxy)
  t.ok(gateway.app.hasDecorator('proxy'))
})

t.test('declared routes', async t => {
  await t.test('have hooks, several of each', { timeout: LIMIT }, async t => {
    const seen: string[] = []
    const note = (name: string) => async () => { seen.push(name) }
    const notePayload = (name: string) => async (_request: FastifyRequest, _reply: FastifyReply, payload: unknown) => {
      seen.push(name)
      return payload
    }
    const gateway = await start(t, {
      routes: [{
        prefix: '/api',
        onRequest: [note('onRequest 1'), note('onRequest 2')],
        preParsing: notePayload('preParsing') as never,
        preValidation: note('preValidation'),
        preHandler: [note('preHandler 1'), note('preHandler 2')],
        onSend: [notePayload('onSend 1'), notePayload('onSend 2')] as never
      }]
    })
    answer = () => ok('through')
    t.equal((await ask(t, gateway, '/api/a')).body, 'through')
    t.same(seen, ['onRequest 1', 'onRequest 2', 'preParsing', 'preValidation', 'preHandler 1', 'preHandler 2', 'onSend 1', 'onSend 2'])
  })

  await t.test('have an onRequestAbort that runs when the client goes', { timeout: LIMIT }, async t => {
    let aborted = false
    let carrier: Wire | undefined
    const gateway = await start(t, { routes: [{ prefix: '/api', onRequestAbort: async () => { aborted = true } }] })
    answer = (_request, wire) => { carrier = wire }
    const client = await connectTo(t, gateway.port)
    client.send('GET /api/a HTTP/1.1\r\nHost: gateway\r\n\r\n')
    await until(() => carrier !== undefined)
    client.close()
    await until(() => aborted)
    t.ok(aborted)
  })

  await t.test('have a config that hooks see', { timeout: LIMIT }, async t => {
    let seen: unknown
    const gateway = await start(t, { routes: [{ prefix: '/api', config: { mine: 17 } as never }] }, {
      before: app => { app.addHook('preHandler', async request => { seen = (request.routeOptions.config as unknown as { mine: number }).mine }) }
    })
    answer = () => ok()
    await ask(t, gateway, '/api/a')
    t.equal(seen, 17)
  })

  await t.test('have constraints', { timeout: LIMIT }, async t => {
    const other = await rawBackend(t, () => ok('other'))
    const gateway = await start(t, {
      upstreams: { other: { backends: [other.url] } },
      routes: [
        { prefix: '/api', constraints: { host: 'one.example' } },
        { prefix: '/api', constraints: { host: 'two.example' }, upstream: 'other' }
      ]
    })
    answer = () => ok('one')
    const hosted = async (host: string) => {
      const client = await connectTo(t, gateway.port)
      client.send(`GET /api/a HTTP/1.1\r\nHost: ${host}\r\n\r\n`)
      return await client.response()
    }
    t.equal((await hosted('one.example')).body, 'one')
    t.equal((await hosted('two.example')).body, 'other')
    t.equal((await hosted('three.example')).status, 404)
  })

  await t.test('may be many, each with its prefix', { timeout: LIMIT }, async t => {
    const gateway = await start(t, { routes: [{ prefix: '/a' }, { prefix: '/a/b', rewritePrefix: '/ab' }, { prefix: '/c/:id', rewritePrefix: '/see/:id' }, { prefix: '/d/', rewritePrefix: '/dd/' }] })
    answer = request => ok(request.startLine.split(' ')[1])
    for (const [path, sent] of [['/a', '/'], ['/a/', '/'], ['/a/x', '/x'], ['/a/b', '/ab'], ['/a/b/x?q', '/ab/x?q'], ['/c/7/x', '/see/7/x'], ['/d/x', '/dd/x']]) {
      t.equal((await ask(t, gateway, path)).body, sent, path)
    }
    t.equal((await ask(t, gateway, '/ax')).status, 404)
  })

  await t.test('leave the parsers of the app as they are', { timeout: LIMIT }, async t => {
    const gateway = await start(t, { routes: [{ prefix: '/api' }] }, {
      setup: app => {
        app.post('/json', async request => ({ got: (request.body as { a: number }).a }))
        app.post('/text', async request => ({ got: request.body }))
      }
    })
    answer = request => ok(request.body)
    const json = { method: 'POST', fields: 'Content-Type: application/json\r\nContent-Length: 9\r\n', body: '{ "a":1 }' }
    t.same(JSON.parse((await ask(t, gateway, '/json', json)).body), { got: 1 })
    t.equal((await ask(t, gateway, '/api/a', json)).body, '{ "a":1 }', 'spaces and all')
    t.same(JSON.parse((await ask(t, gateway, '/text', { method: 'POST', fields: 'Content-Type: text/plain\r\nContent-Length: 1\r\n', body: 'x' })).body), { got: 'x' })
    const unknown = { method: 'POST', fields: 'Content-Type: application/x-unknown\r\nContent-Length: 1\r\n', body: 'x' }
    t.equal((await ask(t, gateway, '/text', unknown)).status, 415)
    t.equal((await ask(t, gateway, '/api/a', unknown)).body, 'x')
    t.equal((await ask(t, gateway, '/json', { ...json, body: '{ "a":1 x' })).status, 400)
  })

  await t.test('are refused when nonsense', { timeout: LIMIT }, async t => {
    await t.rejects(start(t, { routes: [{ prefix: '/api', onSnd: async () => {} } as never] }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /onSend/ })
    await t.rejects(start(t, { routes: [{ prefix: '/api', preHandler: 'no' } as never] }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /preHandler/ })
  })
})

t.test('none of all this was an unhandled rejection', async t => {
  t.same(rejections, [])
})
