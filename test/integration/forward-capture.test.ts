import { gzipSync } from 'node:zlib'
import { once } from 'node:events'
import t from 'tap'
import type { Test } from 'tap'
import type { FastifyRequest } from 'fastify'
import type { ForwardOptions, ProxyResponse, RockstarProxyOptions } from '../../types/index.ts'
import { httpBackend, startGateway, type Gateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, rawBackend, until, type Message, type RawBackend, type Wire } from '../helpers/wire.ts'

type Handler = (response: ProxyResponse, request: FastifyRequest) => unknown

/** A gateway whose handler gets the answer itself. */
async function capturing (t: Test, backend: { url: string }, handler: Handler, options: RockstarProxyOptions = {}, call?: ForwardOptions): Promise<Gateway> {
  return await startGateway(t, { backends: [{ id: 'b', url: backend.url }], ...options }, {
    setup: app => {
      app.all('/*', async (request, reply) => {
        const result = await handler(await app.proxy.forward(request, undefined, call), request)
        return reply.sent ? reply : result
      })
    }
  })
}

const statsOf = (gateway: Gateway) => gateway.app.proxy.getConnectionPool().stats()
/** Waits until the backend's connection has been given back and is still open. */
const untilFree = (gateway: Gateway) => until(() => statsOf(gateway).idle === 1 && statsOf(gateway).active === 0)

t.test('forward(request) gives status, headers and body', async t => {
  const backend = await rawBackend(t, () => ok('hello', 'X-One: 1\r\nX-Two: a\r\nx-two: b\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n', '201 Made Here'))
  let seen: ProxyResponse | undefined
  const gateway = await capturing(t, backend, async response => {
    seen = response
    return await response.text()
  })
  const response = await gateway.app.inject('/x')
  t.equal(response.statusCode, 200, 'the handler answers as it likes')
  t.equal(response.body, 'hello')
  t.equal(response.headers['x-one'], undefined)
  t.equal(seen?.statusCode, 201)
  t.equal(seen?.statusMessage, 'Made Here')
  t.strictSame({ ...seen?.headers }, { 'x-one': '1', 'x-two': ['a', 'b'], 'set-cookie': ['a=1', 'b=2'], 'content-length': '5', via: '1.1 rockstar-proxy' })
  t.equal(seen?.backend, gateway.app.proxy.getBackend('b'))
  t.strictSame({ ...seen?.trailers }, {})
})

t.test('it resolves as soon as the head is there', async t => {
  const backend = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n')
  let head = (): void => {}
  const arrived = new Promise<void>(resolve => { head = resolve })
  const gateway = await capturing(t, backend, async response => {
    head()
    return await response.text()
  })
  const answer = gateway.app.inject('/')
  await arrived
  backend.connections[0].send('01234')
  backend.connections[0].send('56789')
  t.equal((await answer).body, '0123456789')
})

t.test('the client\'s request goes to the backend as with forward(request, reply)', async t => {
  const backend = await rawBackend(t, request => ok(request.body))
  const gateway = await capturing(t, backend, response => response.text())
  const client = await gateway.connect()
  client.send('POST /a%20b?c=d HTTP/1.1\r\nHost: gateway\r\nContent-Type: text/plain\r\nX-Case: Kept\r\nContent-Length: 4\r\n\r\nbody')
  t.equal((await client.response()).body, 'body')
  const [request] = backend.requests
  t.equal(request.startLine, 'POST /a%20b?c=d HTTP/1.1')
  t.match(request.head, 'X-Case: Kept')
  t.strictSame(request.values('via'), ['1.1 rockstar-proxy'])
  t.strictSame(request.values('x-forwarded-for'), ['127.0.0.1'])
  t.strictSame(request.values('host'), [`127.0.0.1:${backend.port}`])
})

t.test('text(), json() and arrayBuffer() read the whole body', async t => {
  const bodies: [string, Buffer, Handler, unknown][] = [
    ['text', Buffer.from('grüße 🎸'), response => response.text(), 'grüße 🎸'],
    ['json', Buffer.from('{"a":[1,2,{"b":"ü"}]}'), async response => JSON.stringify(await response.json()), '{"a":[1,2,{"b":"ü"}]}'],
    ['arrayBuffer', Buffer.from([0, 1, 254, 255]), async response => {
      const bytes = await response.arrayBuffer()
      t.equal(Object.prototype.toString.call(bytes), '[object ArrayBuffer]')
      return Buffer.from(bytes).toString('hex')
    }, '0001feff'],
    ['an empty text', Buffer.alloc(0), async response => JSON.stringify(await response.text()), '""'],
    ['an empty arrayBuffer', Buffer.alloc(0), async response => String((await response.arrayBuffer()).byteLength), '0']
  ]
  for (const [name, body, handler, expected] of bodies) {
    const backend = await rawBackend(t, () => ok(body.toString('latin1')))
    const gateway = await capturing(t, backend, handler)
    t.equal((await gateway.app.inject('/')).body, expected, name)
  }
})

t.test('a character whose bytes come in two packets is whole', async t => {
  const bytes = Buffer.from('🎸')
  const backend = await rawBackend(t, () => Buffer.concat([Buffer.from('HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n'), bytes.subarray(0, 2)]))
  const gateway = await capturing(t, backend, response => response.text())
  const answer = gateway.app.inject('/')
  await until(() => backend.requests.length === 1)
  backend.connections[0].send(bytes.subarray(2))
  t.equal((await answer).body, '🎸')
})

t.test('json() rejects for what is no JSON', async t => {
  const backend = await rawBackend(t, () => ok('not json'))
  const gateway = await capturing(t, backend, async response => {
    await t.rejects(response.json(), SyntaxError)
    return 'caught'
  })
  t.equal((await gateway.app.inject('/')).body, 'caught')
})

t.test('body is a stream that begins before its end has come', async t => {
  const backend = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n')
  const chunks: string[] = []
  const gateway = await capturing(t, backend, async response => {
    for await (const chunk of response.body) chunks.push(String(chunk))
    return 'done'
  })
  const answer = gateway.app.inject('/')
  await until(() => chunks.length === 1)
  backend.connections[0].send('6\r\nsecond\r\n0\r\n\r\n')
  t.equal((await answer).body, 'done')
  t.strictSame(chunks, ['first', 'second'])
})

t.test('the body may be streamed on to the client', async t => {
  const backend = await rawBackend(t, () => ok('x'.repeat(200_000), 'Content-Type: text/x\r\n'))
  const gateway = await startGateway(t, { backends: [backend.url] }, {
    setup: app => {
      app.get('/', async (request, reply) => {
        const response = await app.proxy.forward(request)
        return reply.code(202).header('x-own', 'yes').send(response.body)
      })
    }
  })
  const response = await gateway.app.inject('/')
  t.equal(response.statusCode, 202)
  t.equal(response.headers['x-own'], 'yes')
  t.equal(response.body.length, 200_000)
})

t.test('a body that is read slowly holds its backend back', async t => {
  const total = 64 * 1024 * 1024
  const backend = await httpBackend(t, (_request, response) => {
    response.writeHead(200, { 'content-length': total })
    const block = Buffer.alloc(65_536)
    const write = () => {
      while (!response.destroyed && sent < total) {
        sent += block.length
        if (!response.write(block)) return
      }
      response.end()
    }
    response.on('drain', write)
    write()
  })
  let sent = 0
  let reading: ((value?: unknown) => void) | undefined
  let size = 0
  const gateway = await capturing(t, backend, async response => {
    const { body } = response
    await new Promise(resolve => { reading = resolve })
    for await (const chunk of body) size += chunk.length
    return 'read'
  })
  const answer = gateway.app.inject('/')
  await until(() => reading !== undefined)
  // Nothing moves any more: what has been sent is in the buffers between.
  let before = -1
  while (before !== sent) {
    before = sent
    for (let i = 0; i < 200; i++) await new Promise(setImmediate)
  }
  t.ok(sent < total / 2, `${sent} bytes were sent`)
  reading?.()
  t.equal((await answer).body, 'read')
  t.equal(size, total)
})

t.test('answers without a body have an empty one', async t => {
  const heads: [string, string, string][] = [
    ['HEAD', 'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n', '500'],
    ['GET', 'HTTP/1.1 204 No Content\r\n\r\n', 'undefined'],
    ['GET', 'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 500\r\n\r\n', '500'],
    ['GET', 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n', '0']
  ]
  for (const [method, head, length] of heads) {
    const backend = await rawBackend(t, () => head)
    let found = ''
    const gateway = await capturing(t, backend, async (response, request) => {
      found = `${await response.text()}|${response.headers['content-length']}`
      return request.method === 'HEAD' ? '' : 'done'
    })
    const client = await gateway.connect()
    client.send(`${method} / HTTP/1.1\r\nHost: gateway\r\n\r\n`)
    await client.response(0, method)
    t.equal(found, `|${length}`, head.slice(9, 24))
    await until(() => statsOf(gateway).active === 0)
  }
})

t.test('trailers are there when the body has ended', async t => {
  const backend = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nX-Sum: 42\r\nX-Two: a\r\nX-Two: b\r\n\r\n')
  for (const te of ['TE: trailers\r\nConnection: TE\r\n', '']) {
    let trailers: unknown
    const gateway = await capturing(t, backend, async response => {
      const body = await response.text()
      trailers = { ...response.trailers }
      return body
    })
    const client = await gateway.connect()
    client.send(`GET / HTTP/1.1\r\nHost: gateway\r\n${te}\r\n`)
    t.equal((await client.response()).body, 'body')
    t.strictSame(trailers, { 'x-sum': '42', 'x-two': ['a', 'b'] }, te === '' ? 'the handler takes them, whatever its client takes' : 'for a client that takes trailers')
  }
})

t.test('redirects are not followed and nothing is decompressed', async t => {
  const zipped = gzipSync('hello')
  const backend = await rawBackend(t, request => request.startLine.includes('/moved')
    ? ok('', 'Location: http://elsewhere.example/\r\n', '302 Found')
    : Buffer.concat([Buffer.from(`HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: ${zipped.length}\r\n\r\n`), zipped]))
  const gateway = await capturing(t, backend, async response => {
    if (response.statusCode === 302) return `302 ${response.headers.location}`
    return Buffer.from(await response.arrayBuffer()).equals(zipped) ? 'as it came' : 'changed'
  })
  t.equal((await gateway.app.inject('/moved')).body, '302 http://elsewhere.example/')
  t.equal((await gateway.app.inject('/zipped')).body, 'as it came')
})

t.test('an error status is an answer, not an error', async t => {
  const backend = await rawBackend(t, () => ok('broken', '', '503 Sorry'))
  const gateway = await capturing(t, backend, async response => `${response.statusCode} ${await response.text()}`)
  t.equal((await gateway.app.inject('/')).body, '503 broken')
})

// Bodies that nobody reads

t.test('a small body that nobody reads gives its connection back at once', async t => {
  const backend = await rawBackend(t, request => request.startLine.includes('/chunked')
    ? 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n'
    : ok('x'.repeat(10_000)))
  const gateway = await capturing(t, backend, response => `${response.statusCode}`)
  for (let i = 0; i < 5; i++) {
    for (const path of ['/', '/chunked']) {
      t.equal((await gateway.app.inject(path)).body, '200')
      await untilFree(gateway)
    }
  }
  t.equal(backend.connections.length, 1, 'all went over one connection')
  t.match(gateway.app.proxy.getMetrics(), { inFlight: 0, successfulRequests: 10 })
})

t.test('a big body that nobody reads loses its connection after the idle time-out', async t => {
  const clock = new FakeClock()
  const backend = await rawBackend(t, () => ok('x'.repeat(5_000_000)))
  let kept: ProxyResponse | undefined
  const gateway = await capturing(t, backend, response => {
    kept = response
    return 'unread'
  }, { clock })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  t.equal((await client.response()).body, 'unread')
  t.match(gateway.app.proxy.getMetrics(), { inFlight: 1, backends: { b: { inFlight: 1 } } })
  // Time begins to count when nothing moves any more.
  await until(() => (kept as ProxyResponse).body.readableLength >= 65_536)
  clock.advance(61_000)
  await until(() => backend.connections[0].closed || backend.connections[0].ended)
  await until(() => statsOf(gateway).active === 0)
  t.match(gateway.app.proxy.getMetrics(), { inFlight: 0, backends: { b: { inFlight: 0, failedRequests: 0 } } })
  await t.rejects((kept as ProxyResponse).text(), { code: /^FST_ROCKSTAR_/ }, 'and can be read no more')
})

t.test('a big body that nobody reads loses its connection when the client goes', async t => {
  const backend = await rawBackend(t, () => ok('x'.repeat(5_000_000)))
  const gateway = await capturing(t, backend, () => 'unread')
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  t.equal((await client.response()).body, 'unread')
  client.close()
  await until(() => backend.connections[0].closed || backend.connections[0].ended)
  await until(() => statsOf(gateway).active === 0)
  t.match(gateway.app.proxy.getMetrics(), { inFlight: 0, backends: { b: { inFlight: 0, failedRequests: 0 } } })
})

t.test('a body that is let go of lets its connection go', async t => {
  const backend = await rawBackend(t, () => ok('x'.repeat(5_000_000)))
  const gateway = await capturing(t, backend, response => {
    response.body.destroy()
    return 'dropped'
  })
  t.equal((await gateway.app.inject('/')).body, 'dropped')
  await until(() => backend.connections[0].closed || backend.connections[0].ended)
  await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
  t.match(gateway.app.proxy.getMetrics(), { failedRequests: 0 })
})

t.test('requests that are given up have no connections made for nothing', async t => {
  const backend = await rawBackend(t, request => request.startLine.includes('/big') ? 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf' : ok())
  const gateway = await capturing(t, backend, (response, request) => {
    if (!request.url.includes('/big')) return response.text()
    response.body.destroy()
    return 'dropped'
  })
  await Promise.all(['/big', '/big', '/big'].map(path => gateway.app.inject(path)))
  await until(() => backend.connections.filter(wire => wire.closed || wire.ended).length === 3)
  for (let i = 0; i < 200; i++) await new Promise(setImmediate)
  t.equal((await gateway.app.inject('/')).body, 'ok')
  t.equal(backend.connections.length, 4, 'one for each request')
})

t.test('a body that is read to its end gives its connection back', async t => {
  const backend = await rawBackend(t, () => ok('x'.repeat(500_000)))
  const gateway = await capturing(t, backend, async response => `${(await response.text()).length}`)
  for (let i = 0; i < 3; i++) {
    t.equal((await gateway.app.inject('/')).body, '500000')
    await untilFree(gateway)
  }
  t.equal(backend.connections.length, 1)
})

t.test('no listener is left on a client\'s connection', async t => {
  const backend = await rawBackend(t, () => ok())
  const counts: number[] = []
  const gateway = await capturing(t, backend, async (response, request) => {
    const body = await response.text()
    counts.push(request.raw.socket.listenerCount('close'))
    return body
  })
  const client = await gateway.connect()
  for (let i = 0; i < 15; i++) {
    const from = client.received.length
    client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
    await client.response(from)
  }
  t.equal(counts[14], counts[0])
})

// Using it twice

t.test('a second use of the body never gives less than the body', async t => {
  const uses: Record<string, (response: ProxyResponse) => Promise<unknown>> = {
    'text(), then text()': async response => {
      await response.text()
      return await response.text()
    },
    'text(), then arrayBuffer()': async response => {
      await response.text()
      return Buffer.from(await response.arrayBuffer()).toString()
    },
    'both at once': async response => (await Promise.all([response.text(), response.text()]))[1],
    'the stream, then text()': async response => {
      for await (const _ of response.body);
      return await response.text()
    }
  }
  const backend = await rawBackend(t, () => ok('the whole body'))
  for (const [name, use] of Object.entries(uses)) {
    const gateway = await capturing(t, backend, async response => await use(response).catch(error => `rejected with ${error.name}`))
    const { body } = await gateway.app.inject('/')
    t.match(body, /^the whole body$|^rejected with /, name)
  }
})

// Failures

/** What the handler's call of forward() rejects with, and what the client gets. */
async function failing (t: Test, answer: (request: Message, wire: Wire, backend: RawBackend) => string | void, options: RockstarProxyOptions = {}) {
  const backend = await rawBackend(t, answer)
  let error: (Error & { code: string, statusCode: number }) | undefined
  const gateway = await startGateway(t, { backends: [{ id: 'b', url: backend.url }], ...options }, {
    setup: app => {
      app.get('/', async request => {
        try {
          return await (await app.proxy.forward(request)).text()
        } catch (thrown) {
          error = thrown as typeof error
          throw thrown
        }
      })
    }
  })
  return { backend, gateway, error: () => error }
}

t.test('it rejects with a code and a cause, which go to the error handler', async t => {
  const cases: [string, (request: Message, wire: Wire) => string | void, string, number][] = [
    ['a reset before the head', (_request, wire) => wire.reset(), 'RESET', 502],
    ['an end before the head', (_request, wire) => { wire.socket.end() }, 'RESET', 502],
    ['a head that is none', () => 'no head at all\r\n\r\n', 'BAD_RESPONSE', 502],
    ['lengths that conflict', () => 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx', 'BAD_RESPONSE', 502]
  ]
  for (const [name, answer, code, status] of cases) {
    const { gateway, error } = await failing(t, answer)
    const response = await gateway.app.inject('/')
    t.equal(response.statusCode, status, name)
    t.match(response.json(), { code: `FST_ROCKSTAR_${code}` }, name)
    t.match(error(), { code: `FST_ROCKSTAR_${code}`, statusCode: status }, name)
    t.type(error()?.cause, Error, `${name}: with its cause`)
    t.match(gateway.app.proxy.getMetrics(), { inFlight: 0, failedRequests: 1, backends: { b: { failedRequests: 1 } } }, name)
  }
})

t.test('it rejects when nobody listens, when no backend is there, and when none answers in time', async t => {
  const gone = await rawBackend(t, () => {})
  gone.close()
  const { gateway } = await failing(t, () => {}, { backends: [{ id: 'b', url: gone.url }] })
  t.match((await gateway.app.inject('/')).json(), { statusCode: 502, code: 'FST_ROCKSTAR_CONNECT' })

  const { gateway: empty } = await failing(t, () => {}, { backends: [] })
  t.match((await empty.app.inject('/')).json(), { statusCode: 503, code: 'FST_ROCKSTAR_NO_BACKEND' })

  const clock = new FakeClock()
  const { gateway: late, backend } = await failing(t, () => {}, { clock })
  const answer = late.app.inject('/')
  await until(() => backend.requests.length === 1)
  clock.advance(30_500)
  t.match((await answer).json(), { statusCode: 504, code: 'FST_ROCKSTAR_TIMEOUT' })
})

t.test('a body that is cut short rejects, however it is read', async t => {
  const cuts: Record<string, [string, (wire: Wire) => void]> = {
    'a length not reached': ['HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf', wire => wire.socket.end()],
    'a last chunk missing': ['HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n', wire => wire.socket.end()],
    'a reset': ['HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf', wire => wire.reset()],
    'a chunk that is none': ['HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n', wire => wire.send('zz\r\n')]
  }
  const readers: Record<string, (response: ProxyResponse) => Promise<unknown>> = {
    text: response => response.text(),
    json: response => response.json(),
    arrayBuffer: response => response.arrayBuffer(),
    body: async response => { for await (const _ of response.body); }
  }
  for (const [cut, [bytes, end]] of Object.entries(cuts)) {
    for (const [name, read] of Object.entries(readers)) {
      const backend = await rawBackend(t, () => bytes)
      let reading = false
      const gateway = await capturing(t, backend, async response => {
        reading = true
        return await read(response).then(() => 'read', error => `rejected with ${error.code}`)
      })
      const answer = gateway.app.inject('/')
      await until(() => reading)
      end(backend.connections[0])
      t.match((await answer).body, /^rejected with /, `${name}: ${cut}`)
    }
  }
})

t.test('a body that was cut short before it was asked for rejects as well', async t => {
  const backend = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf')
  const gateway = await capturing(t, backend, async response => {
    backend.connections[0].reset()
    await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
    return await response.text().then(() => 'read', error => `rejected with ${error.message}`)
  })
  t.match((await gateway.app.inject('/')).body, /^rejected with /)
})

t.test('the error of a body that is cut short has a code of ours, and the answer a status of a gateway', async t => {
  const { gateway, backend, error } = await failing(t, () => 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf')
  const answer = gateway.app.inject('/')
  await until(() => backend.requests.length === 1)
  await until(() => gateway.app.proxy.getMetrics().backends.b.inFlight === 1)
  backend.connections[0].reset()
  t.match((await answer).json(), { statusCode: 502, code: 'FST_ROCKSTAR_RESET' })
  t.type(error()?.cause, Error)
})

t.test('a body is given up when nothing of it comes for too long', async t => {
  const clock = new FakeClock()
  const backend = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf')
  let reading = false
  const gateway = await capturing(t, backend, async response => {
    reading = true
    return await response.text()
  }, { clock })
  const answer = gateway.app.inject('/')
  await until(() => reading)
  clock.advance(61_000)
  t.match((await answer).json(), { statusCode: 504, code: 'FST_ROCKSTAR_TIMEOUT' })
  await until(() => backend.connections[0].closed || backend.connections[0].ended)
})

t.test('a client that goes while its handler reads ends the reading', async t => {
  const backend = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf')
  let reading = false
  let outcome = ''
  const gateway = await capturing(t, backend, async response => {
    reading = true
    outcome = await response.text().then(() => 'read', error => error.code)
  })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => reading)
  client.close()
  await until(() => backend.connections[0].closed || backend.connections[0].ended)
  // The connection is gone: whoever reads must hear of it in the same moment.
  for (let i = 0; i < 200; i++) await new Promise(setImmediate)
  t.equal(outcome, 'FST_ROCKSTAR_CLIENT_CLOSED')
  t.match(gateway.app.proxy.getMetrics(), { abortedRequests: 1, failedRequests: 0, backends: { b: { abortedRequests: 1, failedRequests: 0 } } })
})

t.test('a client that goes before the head rejects the call', async t => {
  const backend = await rawBackend(t, () => {})
  let code = ''
  const gateway = await startGateway(t, { backends: [{ id: 'b', url: backend.url }] }, {
    setup: app => {
      app.get('/', async request => {
        try {
          await app.proxy.forward(request)
        } catch (error) {
          code = (error as { code: string }).code
        }
      })
    }
  })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => backend.requests.length === 1)
  client.close()
  await until(() => code !== '')
  t.equal(code, 'FST_ROCKSTAR_CLIENT_CLOSED')
  await until(() => backend.connections[0].closed || backend.connections[0].ended)
  t.match(gateway.app.proxy.getMetrics(), { abortedRequests: 1, failedRequests: 0, backends: { b: { abortedRequests: 1, failedRequests: 0 } } })
})

// Abort by signal

t.test('a signal gives the call up: before it, before the head, and in the body', async t => {
  const backend = await rawBackend(t, request => request.startLine.includes('/body') ? 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf' : undefined)
  const reason = new Error('enough')
  let controller = new AbortController()
  let reading = false
  const gateway = await startGateway(t, { backends: [backend.url] }, {
    setup: app => {
      app.get('/*', async request => {
        const response = await app.proxy.forward(request, undefined, { signal: controller.signal })
        reading = true
        return await response.text()
      })
    }
  })
  const aborted = { statusCode: 503, code: 'FST_ROCKSTAR_ABORTED' }

  controller.abort(reason)
  t.match((await gateway.app.inject('/before')).json(), aborted)
  t.equal(backend.requests.length, 0, 'nothing was sent')

  controller = new AbortController()
  const early = gateway.app.inject('/head')
  await until(() => backend.requests.length === 1)
  controller.abort(reason)
  t.match((await early).json(), aborted)
  await until(() => backend.connections[0].closed || backend.connections[0].ended)

  controller = new AbortController()
  const late = gateway.app.inject('/body')
  await until(() => reading)
  controller.abort(reason)
  t.match((await late).json(), aborted)
  await until(() => backend.connections[1].closed || backend.connections[1].ended)
  t.equal(gateway.log.filter(line => line.level >= 50 && /enough/.test((line.err as Error)?.stack ?? '')).length, 3, 'the reason is in the log')
})

t.test('a signal that lives long keeps no listener of ended calls', async t => {
  const backend = await rawBackend(t, () => ok())
  const signal = new AbortController().signal
  let listening = 0
  const { addEventListener, removeEventListener } = signal
  signal.addEventListener = function (...args: unknown[]) { listening++; return (addEventListener as (...args: unknown[]) => void).apply(this, args) }
  signal.removeEventListener = function (...args: unknown[]) { listening--; return (removeEventListener as (...args: unknown[]) => void).apply(this, args) }
  const gateway = await capturing(t, backend, response => response.text(), {}, { signal })
  for (let i = 0; i < 3; i++) t.equal((await gateway.app.inject('/')).body, 'ok')
  t.ok(listening <= 0)
})

t.test('several calls in one handler are independent', async t => {
  const backend = await rawBackend(t, request => ok(request.startLine.split(' ')[1]))
  const gateway = await startGateway(t, { backends: [backend.url] }, {
    setup: app => {
      app.get('/', async request => {
        const responses = await Promise.all(['/a', '/b', '/c'].map(path => app.proxy.forward(request, undefined, { path })))
        return (await Promise.all(responses.map(response => response.text()))).join()
      })
    }
  })
  t.equal((await gateway.app.inject('/')).body, '/a,/b,/c')
})

t.test('a parsed body is sent again as JSON, as with a reply', async t => {
  const backend = await rawBackend(t, request => ok(`${request.values('content-length')[0]} ${request.body}`))
  const gateway = await capturing(t, backend, response => response.text())
  const response = await gateway.app.inject({ method: 'POST', url: '/', payload: { a: 'ü' } })
  t.equal(response.body, '10 {"a":"ü"}')
})

t.test('closing the app ends what a handler still reads', async t => {
  const backend = await rawBackend(t, () => 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf')
  let reading: Promise<unknown> | undefined
  const gateway = await capturing(t, backend, response => {
    reading = response.text()
    reading.catch(() => {})
    return 'answered'
  })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await client.response()
  await gateway.app.close()
  await t.rejects(reading as Promise<unknown>)
  await once(backend.connections[0].socket, 'close').catch(() => {})
  t.ok(backend.connections[0].closed)
})
