import Fastify, { type FastifyInstance } from 'fastify'
import { Readable } from 'node:stream'
import t from 'tap'
import type { Test } from 'tap'
import rockstarProxy from '../../plugins/index.ts'
import * as module from '../../plugins/passthrough.ts'
import passthrough from '../../plugins/passthrough.ts'
import { startGateway } from '../helpers/app.ts'
import { ok, rawBackend, until } from '../helpers/wire.ts'

/** A gateway that forwards below `/raw`, in a scope that passes bodies through, and has routes of its own elsewhere. */
async function setup (t: Test, inside: (scope: FastifyInstance) => void = () => {}) {
  const backend = await rawBackend(t, request => ok(request.body))
  const gateway = await startGateway(t, { backends: [backend.url] }, {
    setup: async app => {
      app.post('/json', async request => ({ parsed: request.body }))
      await app.register(async scope => {
        await scope.register(passthrough)
        inside(scope)
        scope.all('/raw/*', (request, reply) => scope.proxy.forward(request, reply))
      })
      app.post('/later', async request => ({ parsed: request.body }))
    }
  })
  return { backend, gateway, app: gateway.app }
}

t.test('the default export is the plugin function, which require() gives too', t => {
  t.type(passthrough, 'function')
  t.equal((module as Record<string, unknown>)['module.exports'], passthrough)
  t.equal(module.passthrough, passthrough)
  t.end()
})

t.test('every body of its scope is sent on byte for byte, whatever it is said to be', async t => {
  const { gateway, backend } = await setup(t)
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, i) => i))
  const types = [
    'application/json', 'application/json; charset=utf-8', 'text/plain', 'application/octet-stream', 'multipart/form-data; boundary=x',
    'application/x-www-form-urlencoded', 'image/png', 'application/vnd.own+json', 'x/y', 'TEXT/PLAIN', 'application/json;', 'text/plain ; a="b;c"',
    'nonsense', 'text', '/', ';', 'text/', 'a/b/c', 'text/plain, text/html', '*/*', 'application/json\t'
  ]
  for (const type of types) {
    const client = await gateway.connect()
    client.send(`POST /raw/x HTTP/1.1\r\nHost: gateway\r\nContent-Type: ${type}\r\nContent-Length: ${bytes.length}\r\n\r\n`).send(bytes)
    const response = await client.response()
    t.equal(response.status, 200, type)
    t.equal(response.body, bytes.toString('latin1'), `${type}: the bytes`)
    t.strictSame(backend.requests.at(-1)?.values('content-type'), [type.trim()], `${type}: the type`)
  }
})

t.test('a body without a type, and an empty type, pass too', async t => {
  const { gateway, backend } = await setup(t)
  for (const [field, expected] of [['', []], ['Content-Type:\r\n', ['']]] as const) {
    const client = await gateway.connect()
    client.send(`POST /raw/x HTTP/1.1\r\nHost: gateway\r\n${field}Content-Length: 4\r\n\r\nbody`)
    const response = await client.response()
    t.equal(response.status, 200, JSON.stringify(field))
    t.equal(response.body, 'body', JSON.stringify(field))
    t.strictSame(backend.requests.at(-1)?.values('content-type'), expected, JSON.stringify(field))
  }
})

t.test('a type without a body passes too, even one that is none', async t => {
  const seen: unknown[] = []
  const { gateway, backend } = await setup(t, scope => {
    scope.addHook('preHandler', async request => { seen.push(request.headers['content-type']) })
  })
  for (const method of ['GET', 'DELETE', 'POST']) {
    const client = await gateway.connect()
    client.send(`${method} /raw/x HTTP/1.1\r\nHost: gateway\r\nContent-Type: nonsense\r\n${method === 'POST' ? 'Content-Length: 0\r\n' : ''}\r\n`)
    t.equal((await client.response()).status, 200, method)
    t.strictSame(backend.requests.at(-1)?.values('content-type'), ['nonsense'], method)
  }
  t.strictSame(seen, ['nonsense', 'nonsense', 'nonsense'])
})

t.test('a body is neither parsed nor held: the first bytes go on before the last are there', async t => {
  const { gateway, backend } = await setup(t)
  const client = await gateway.connect()
  client.send('POST /raw/x HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n{"not"\r\n')
  await until(() => backend.connections[0]?.received.includes('{"not"') === true)
  client.send('5\r\njson}\r\n0\r\n\r\n')
  t.equal((await client.response()).body, '{"not"json}')
})

t.test('a body beyond the app\'s limit passes', async t => {
  const { app } = await setup(t)
  const payload = 'x'.repeat(3_000_000)
  for (const type of ['application/json', 'text/plain', 'application/own']) {
    const response = await app.inject({ method: 'POST', url: '/raw/x', headers: { 'content-type': type }, payload })
    t.equal(response.statusCode, 200, type)
    t.equal(response.body.length, payload.length, type)
  }
  t.equal((await app.inject({ method: 'POST', url: '/json', headers: { 'content-type': 'application/json' }, payload })).statusCode, 413, 'while the app keeps its limit')
})

t.test('GET and DELETE with a body pass', async t => {
  const { gateway, backend } = await setup(t)
  for (const method of ['GET', 'DELETE', 'OPTIONS']) {
    const client = await gateway.connect()
    client.send(`${method} /raw/x HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\nbody`)
    t.equal((await client.response()).body, 'body', method)
    t.match(backend.requests.at(-1)?.startLine, `${method} /x`.replace('/x', '/raw/x'))
  }
})

t.test('request.body is the stream, for who wants it', async t => {
  let body: unknown
  const { app } = await setup(t, scope => {
    scope.post('/own', async request => {
      body = request.body
      let text = ''
      for await (const chunk of request.body as Readable) text += chunk
      return { text, type: request.headers['content-type'] }
    })
  })
  const response = await app.inject({ method: 'POST', url: '/own', headers: { 'content-type': 'application/json' }, payload: '{bad' })
  t.type(body, Readable)
  t.strictSame(response.json(), { text: '{bad', type: 'application/json' })
})

t.test('hooks and handlers see the type that the client sent, even one that is none', async t => {
  const seen: unknown[] = []
  const { gateway } = await setup(t, scope => {
    scope.addHook('preHandler', async request => { seen.push(request.headers['content-type']) })
  })
  for (const type of ['text/plain', 'nonsense']) {
    const client = await gateway.connect()
    client.send(`POST /raw/x HTTP/1.1\r\nHost: gateway\r\nContent-Type: ${type}\r\nContent-Length: 4\r\n\r\nbody`)
    t.equal((await client.response()).body, 'body')
  }
  t.strictSame(seen, ['text/plain', 'nonsense'])
})

t.test('scopes below have it too, scopes outside keep their parsers', async t => {
  const { app } = await setup(t, scope => {
    scope.register(async inner => {
      inner.post('/raw/inner/x', (request, reply) => inner.proxy.forward(request, reply))
    })
  })
  t.equal((await app.inject({ method: 'POST', url: '/raw/inner/x', headers: { 'content-type': 'application/json' }, payload: '{bad' })).body, '{bad')
  for (const url of ['/json', '/later']) {
    t.strictSame((await app.inject({ method: 'POST', url, payload: { a: 1 } })).json(), { parsed: { a: 1 } }, url)
    t.equal((await app.inject({ method: 'POST', url, headers: { 'content-type': 'application/json' }, payload: '{bad' })).statusCode, 400, url)
    t.equal((await app.inject({ method: 'POST', url, headers: { 'content-type': 'nonsense' }, payload: 'x' })).statusCode, 415, url)
  }
})

t.test('it needs no proxy, and may be registered in several scopes', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  for (const prefix of ['/a', '/b']) {
    await app.register(async scope => {
      await scope.register(passthrough)
      scope.post('/', async request => {
        let text = ''
        for await (const chunk of request.body as Readable) text += chunk
        return text
      })
    }, { prefix })
  }
  for (const url of ['/a', '/b']) t.equal((await app.inject({ method: 'POST', url, payload: { a: 1 } })).body, '{"a":1}')
})

t.test('on the whole app it holds for the whole app', async t => {
  const backend = await rawBackend(t, request => ok(request.body))
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(rockstarProxy, { backends: [backend.url], shutdownTimeout: 0 })
  await app.register(passthrough)
  app.post('/', (request, reply) => app.proxy.forward(request, reply))
  t.equal((await app.inject({ method: 'POST', url: '/', headers: { 'content-type': 'application/json' }, payload: '{bad' })).body, '{bad')
})
