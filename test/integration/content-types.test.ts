import { createHash } from 'node:crypto'
import { gzipSync } from 'node:zlib'
import type { FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import passthrough from '../../plugins/passthrough.ts'
import { startGateway } from '../helpers/app.ts'
import { ok, rawBackend, type Message, type Wire } from '../helpers/wire.ts'

const BINARY = Buffer.from(Array.from({ length: 1_024 }, (_, i) => i * 7 & 0xff))
const MULTIPART = Buffer.from(`--b\r\nContent-Disposition: form-data; name="f"; filename="a.bin"\r\n\r\n${BINARY.toString('latin1')}\r\n--b--\r\n`, 'latin1')

/** What a client may call a body, and a body: `null` for no `Content-Type` at all. */
const TYPES: [type: string | null, body: Buffer | string, headers?: string][] = [
  ['application/json', '{ "a" :  1.0, "b":[1e2, "\\u00e9"] }'],
  ['application/json', 'this is no JSON'],
  ['application/json', '{"__proto__":{"x":1}}'],
  ['application/json; charset=utf-8', '{"a":"é"}'],
  ['application/json; charset=x', '{"a":1}'],
  ['application/json;charset=UTF-16', Buffer.from('{"a":1}', 'utf16le')],
  ['APPLICATION/JSON', '{"a":1}'],
  ['application/json ; charset="utf-8"', '{"a":1}'],
  ['application/json;', '{"a":1}'],
  ['application/vnd.api+json', '{"data":[]}'],
  ['application/problem+json', '{"type":"x"}'],
  ['application/x-ndjson', '{"a":1}\n{"a":2}\n'],
  ['text/plain', 'plain'],
  ['text/plain; charset=iso-8859-1', Buffer.from([0x63, 0x61, 0x66, 0xe9])],
  ['text/plain;;;', 'plain'],
  ['text/html', '<p>hello</p>'],
  ['text/csv; header=present', 'a,b\r\n1,2\r\n'],
  ['text/event-stream', 'data: x\n\n'],
  ['application/xml', '<a b="c"/>'],
  ['application/soap+xml; action="urn:x"', '<Envelope/>'],
  ['application/x-www-form-urlencoded', 'a=1&b=%20&c=+'],
  ['multipart/form-data; boundary=b', MULTIPART],
  ['multipart/form-data', MULTIPART],
  ['multipart/mixed; boundary="b"', MULTIPART],
  ['application/octet-stream', BINARY],
  ['application/pdf', Buffer.concat([Buffer.from('%PDF-1.7\n'), BINARY])],
  ['application/x-protobuf', BINARY],
  ['application/grpc-web+proto', BINARY],
  ['application/dicom+json', '{"00080005":{}}'],
  ['image/png', Buffer.concat([Buffer.from([0x89, 0x50, 0x4e, 0x47]), BINARY])],
  ['video/mp4; codecs="avc1.640028, mp4a.40.2"', BINARY],
  ['application/gzip', gzipSync(BINARY)],
  ['application/json', gzipSync('{"a":1}'), 'Content-Encoding: gzip\r\n'],
  ['text/plain', gzipSync('plain'), 'content-encoding: GZIP\r\n'],
  ['application/octet-stream', BINARY, 'Content-Encoding: br, nonsense\r\n'],
  ['message/http', 'GET / HTTP/1.1\r\nHost: x\r\n\r\n'],
  [null, BINARY],
  [null, '{"a":1}'],
  ['', BINARY],
  ['json', '{"a":1}'],
  ['/', 'x'],
  ['text/', 'x'],
  ['/plain', 'x'],
  ['*/*', 'x'],
  ['undefined', 'x'],
  ['application/json, text/plain', '{"a":1}'],
  ['application / json', '{"a":1}'],
  ['application/json\tcharset', '{"a":1}'],
  ['text plain', 'x'],
  ['\u00e9/\u00e9', 'x'],
  ['a/b/c', 'x'],
  ['x'.repeat(2_000) + '/y', 'x']
]

function sha (bytes: Buffer | string): string {
  return createHash('sha256').update(typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes).digest('hex')
}

/** A body as it is on the wire. */
function wireBytes (body: Buffer | string): Buffer {
  return typeof body === 'string' ? Buffer.from(body) : body
}

async function post (client: Wire, path: string, type: string | null, body: Buffer | string, headers = '', framing: 'length' | 'chunks' = 'length'): Promise<Message> {
  const at = client.received.length
  const bytes = wireBytes(body).toString('latin1')
  const typeField = type === null ? '' : `Content-Type: ${type}\r\n`
  client.send(framing === 'length'
    ? `POST ${path} HTTP/1.1\r\nHost: g\r\n${typeField}${headers}Content-Length: ${bytes.length}\r\n\r\n${bytes}`
    : `POST ${path} HTTP/1.1\r\nHost: g\r\n${typeField}${headers}Transfer-Encoding: chunked\r\n\r\n${bytes.length.toString(16)}\r\n${bytes}\r\n0\r\n\r\n`)
  return await client.response(at)
}

async function start (t: Test, setup?: (app: FastifyInstance) => unknown) {
  const backend = await rawBackend(t, request => ok(sha(request.body)))
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/route' }] }, { setup })
  return { backend, gateway, client: await gateway.connect() }
}

t.test('a declared route sends every content type on, byte for byte', async t => {
  const { backend, client } = await start(t)
  for (const [type, body, headers] of TYPES) {
    for (const framing of ['length', 'chunks'] as const) {
      const response = await post(client, '/route/x', type, body, headers, framing)
      const request = backend.requests.at(-1) as Message
      t.equal(response.status, 200, `${type} in ${framing}`)
      t.equal(response.body, sha(wireBytes(body)), 'with the same SHA-256')
      t.strictSame(request.values('content-type'), type === null ? [] : [type.trim()], 'and under the name it came')
      if (headers !== undefined) t.strictSame(request.values('content-encoding'), [headers.slice(headers.indexOf(':') + 1).trim()])
    }
  }
})

t.test('a scope with the passthrough plugin sends every content type on, byte for byte', async t => {
  const { backend, client } = await start(t, app => app.register(async scope => {
    await scope.register(passthrough)
    scope.post('/mine', (request, reply) => scope.proxy.forward(request, reply))
  }))
  for (const [type, body, headers] of TYPES) {
    for (const framing of ['length', 'chunks'] as const) {
      const response = await post(client, '/mine', type, body, headers, framing)
      const request = backend.requests.at(-1) as Message
      t.equal(response.status, 200, `${type} in ${framing}`)
      t.equal(response.body, sha(wireBytes(body)), 'with the same SHA-256')
      t.strictSame(request.values('content-type'), type === null ? [] : [type.trim()], 'and under the name it came')
    }
  }
})

t.test('spaces around a content type do not change where it goes or what comes', async t => {
  const { backend, client } = await start(t)
  for (const type of ['   application/json', 'application/json   ', '\tapplication/json\t', ' application/json ;charset=utf-8 ']) {
    const response = await post(client, '/route/x', type, '{ "a":1 }')
    t.equal(response.body, sha('{ "a":1 }'), JSON.stringify(type))
    t.strictSame(backend.requests.at(-1)?.values('content-type'), [type.trim()])
  }
})

t.test('a content type given twice is no concern of ours, and its body passes', async t => {
  const { client } = await start(t)
  const response = await post(client, '/route/x', 'text/plain', BINARY, 'Content-Type: application/json\r\n')
  t.equal(response.body, sha(BINARY))
})

t.test('hooks of a passthrough scope see the content type that came, valid or not', async t => {
  const seen: (string | undefined)[] = []
  const { client } = await start(t, app => app.register(async scope => {
    await scope.register(passthrough)
    scope.addHook('preHandler', async request => { seen.push(request.headers['content-type']) })
    scope.post('/mine', (request, reply) => scope.proxy.forward(request, reply))
  }))
  for (const type of ['text/plain', 'json', 'text plain']) await post(client, '/mine', type, 'x')
  t.strictSame(seen, ['text/plain', 'json', 'text plain'])
})

t.test('the host\'s own parsers stay what they are beside routes and passthrough scopes', async t => {
  const { gateway } = await start(t, app => {
    app.register(async scope => {
      await scope.register(passthrough)
      scope.post('/mine', (request, reply) => scope.proxy.forward(request, reply))
    })
    app.post('/own', async request => request.body)
  })
  // Fastify closes the connection with a 415, so each has one of its own.
  const statusOf = async (path: string, type: string, body: Buffer | string) => (await post(await gateway.connect(), path, type, body)).status
  t.equal((await post(await gateway.connect(), '/own', 'application/json', '{ "a" : 1 }')).body, '{"a":1}')
  t.equal(await statusOf('/own', 'application/json', 'no JSON'), 400)
  t.equal(await statusOf('/own', 'application/pdf', BINARY), 415)
  t.equal(await statusOf('/own', 'json', '{}'), 415)
  t.equal(await statusOf('/mine', 'json', '{}'), 200)
  t.equal(await statusOf('/route/x', 'application/pdf', BINARY), 200)
})

t.test('what an ordinary handler has as Buffer or string goes on verbatim', async t => {
  const { backend, client } = await start(t, app => {
    app.addContentTypeParser('application/octet-stream', { parseAs: 'buffer' }, (_request, body, done) => done(null, body))
    app.addContentTypeParser(['application/xml', 'application/raw+json'], { parseAs: 'string' }, (_request, body, done) => done(null, body))
    app.addContentTypeParser('application/x-view', { parseAs: 'buffer' }, (_request, body, done) => {
      const padded = new Uint8Array(body.length + 2)
      padded.set(body as Buffer, 1)
      done(null, padded.subarray(1, -1))
    })
    app.addContentTypeParser('application/x-stream', (_request, payload, done) => done(null, payload))
    app.post('/plain', (request, reply) => app.proxy.forward(request, reply))
  })
  const bodies: [string, Buffer | string][] = [
    ['application/octet-stream', BINARY],
    ['application/x-view', BINARY],
    ['application/x-stream', BINARY],
    ['application/xml', '<a>\r\n é € \u{1f680}</a>\n'],
    ['application/raw+json', '{ "a" : 1 }'],
    ['text/plain', 'text with \u00e9 and \u20ac']
  ]
  for (const [type, body] of bodies) {
    for (const framing of ['length', 'chunks'] as const) {
      const response = await post(client, '/plain', type, body, '', framing)
      t.equal(response.status, 200, `${type} in ${framing}`)
      t.equal(response.body, sha(wireBytes(body)))
      t.strictSame(backend.requests.at(-1)?.values('content-type'), [type])
    }
    t.strictSame((await post(client, '/plain', type, body), backend.requests.at(-1)?.values('content-length')), [String(wireBytes(body).length)])
  }
})

t.test('what an ordinary handler has as JSON is written as JSON again', async t => {
  const { backend, client } = await start(t, app => {
    app.addContentTypeParser(['application/vnd.api+json', 'text/json'], { parseAs: 'string' }, (_request, body, done) => done(null, JSON.parse(body as string)))
    app.post('/json', (request, reply) => app.proxy.forward(request, reply))
  })
  for (const type of ['application/json', 'application/json; charset=utf-8', 'Application/JSON', 'application/vnd.api+json', 'text/json', 'application/json;x=y ;z']) {
    for (const json of ['{ "a" : [1, 2.50, true, null, "\u00e9\u20ac"], "b" : { } }', '[ ]', ' 17 ', ' false ', ' null ', ' 0 ', '{"toJSON":1}']) {
      const response = await post(client, '/json', type, json)
      const request = backend.requests.at(-1) as Message
      const expected = Buffer.from(JSON.stringify(JSON.parse(json)))
      t.equal(response.status, 200, `${type}: ${json}`)
      t.equal(request.body, expected.toString('latin1'))
      t.strictSame(request.values('content-length'), [String(expected.length)], 'under its new length')
      t.strictSame(request.values('transfer-encoding'), [])
    }
  }
})

t.test('a JSON text that is one string stays JSON', async t => {
  const { backend, client } = await start(t, app => {
    app.post('/json', (request, reply) => app.proxy.forward(request, reply))
  })
  for (const json of ['"abc"', '""', '"17"', '"a\\nb"']) {
    await post(client, '/json', 'application/json', json)
    t.equal(backend.requests.at(-1)?.body, json)
  }
})

t.test('a body that is neither is refused with advice, and the connection goes on', async t => {
  const { backend, client, gateway } = await start(t, app => {
    app.addContentTypeParser('application/x-www-form-urlencoded', { parseAs: 'string' }, (_request, body, done) => done(null, Object.fromEntries(new URLSearchParams(body as string))))
    app.addContentTypeParser(/^multipart\//, { parseAs: 'buffer' }, (_request, body, done) => done(null, { parts: [body.length] }))
    app.addContentTypeParser('jsonish/x-json-not', { parseAs: 'string' }, (_request, _body, done) => done(null, {}))
    app.post('/form', (request, reply) => app.proxy.forward(request, reply))
    app.get('/read', async (request, reply) => {
      for await (const _ of request.raw) { /* a handler that reads the body itself */ }
      return await app.proxy.forward(request, reply)
    })
  })
  for (const [type, body] of [['application/x-www-form-urlencoded', 'a=1'], ['multipart/form-data; boundary=b', MULTIPART], ['jsonish/x-json-not', '{}']] as const) {
    const response = await post(client, '/form', type, body)
    const error = JSON.parse(response.body)
    t.equal(response.status, 500, type)
    t.equal(error.code, 'FST_ROCKSTAR_BODY_CONSUMED')
    t.match(error.message, /rockstar-proxy\/passthrough/, 'says what to do')
    t.match(error.message, type, 'and for what')
  }
  const at = client.received.length
  client.send('GET /read HTTP/1.1\r\nHost: g\r\nContent-Length: 3\r\n\r\nabc')
  t.equal(JSON.parse((await client.response(at)).body).code, 'FST_ROCKSTAR_BODY_CONSUMED', 'a body that the handler has read itself')
  t.equal(backend.requests.length, 0, 'nothing was sent')
  t.equal((await post(client, '/route/x', 'text/plain', 'x')).status, 200)
  t.equal(gateway.app.proxy.getMetrics().inFlight, 0)
})
