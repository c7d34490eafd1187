import Fastify, { type FastifyInstance } from 'fastify'
import fc from 'fast-check'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { buildRequestHead, MAX_FORWARDS_REACHED, type RequestHead } from '../../../lib/forward/request-headers.ts'
import { parseTarget } from '../../../lib/forward/target.ts'
import rockstarProxy from '../../../plugins/index.ts'
import { makeUpstream } from '../../helpers/upstream.ts'
import { connectTo, ok, rawBackend, type Message, type RawBackend, type Wire } from '../../helpers/wire.ts'

type Field = [string, string]

interface Harness {
  backend: RawBackend
  /** What the last request was made into: its head, or why there is none. */
  last (): RequestHead | unknown
  /** Sends one request on the one connection, or on the next where that was closed, and resolves to its answer. */
  ask (bytes: string): Promise<Message>
}

/** A real request, seen by `buildRequestHead` in a handler that then forwards it, or throws what that has thrown. */
async function harness (t: Test, trustProxy = false, preserveHost = false): Promise<Harness> {
  const backend = await rawBackend(t, () => ok(''))
  const app = Fastify({ trustProxy, forceCloseConnections: true }) as unknown as FastifyInstance
  t.teardown(() => app.close())
  await app.register(rockstarProxy, { backends: [backend.url], shutdownTimeout: 0, health: false })
  const { upstream } = makeUpstream()
  let last: unknown
  app.all('/*', (request, reply) => {
    const { raw } = request
    try {
      last = buildRequestHead(request, raw, parseTarget(raw.url as string, raw.method as string), upstream, preserveHost)
    } catch (error) {
      last = error
      if (error !== MAX_FORWARDS_REACHED) throw error
    }
    return app.proxy.forward(request, reply)
  })
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  let client: Wire | undefined
  let at = 0
  return {
    backend,
    last: () => last,
    ask: async bytes => {
      if (client === undefined || client.ended || client.closed) {
        client = await connectTo(t, port)
        at = 0
      }
      const response = await client.send(bytes).response(at)
      // What says that it closes has perhaps not closed yet.
      if (response.values('connection').includes('close')) {
        client.close()
        client = undefined
      }
      at += response.length
      return response
    }
  }
}

const pairs = (headers: string[]): Field[] => Array.from({ length: headers.length / 2 }, (_, i) => [headers[2 * i], headers[2 * i + 1]])
const get = (fields: Field[]) => `GET /x HTTP/1.1\r\nHost: gateway:80\r\n${fields.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`

// The model: what RFC 9110, 7.6 asks for, said as plainly as it can be.

const HOP = /^(?:connection|keep-alive|te|trailer|upgrade|http2-settings|expect|proxy|proxy-.*)$/i
const FORWARDED = /^(?:x-forwarded-.*|forwarded)$/i

function model (fields: Field[], trusted: boolean): Field[] {
  const named = new Set(fields.filter(([name]) => name.toLowerCase() === 'connection').flatMap(([, value]) => value.split(',')).map(token => token.trim().toLowerCase()))
  const kept = fields.filter(([name]) => !HOP.test(name) && !named.has(name.toLowerCase()))
  const plain = kept.filter(([name]) => !FORWARDED.test(name) && !/^via$/i.test(name))
  const received = (wanted: string) => trusted ? kept.filter(([name]) => name.toLowerCase() === wanted).map(([, value]) => value) : []
  const host = received('x-forwarded-host').at(-1) ?? 'gateway:80'
  const proto = received('x-forwarded-proto').at(-1) ?? 'http'
  const via = fields.filter(([name]) => /^via$/i.test(name)).map(([, value]) => value)
  const trailers = fields.some(([name, value]) => /^te$/i.test(name) && value.split(',').some(coding => coding.trim().toLowerCase() === 'trailers'))
  return [
    ...plain,
    ...(trailers ? [['TE', 'trailers'] as Field] : []),
    ...(trusted ? kept.filter(([name]) => /^x-forwarded-(?!for$|host$|proto$)/i.test(name)) : []),
    ['X-Forwarded-For', [...received('x-forwarded-for'), '127.0.0.1'].join(', ')],
    ['X-Forwarded-Host', host],
    ['X-Forwarded-Proto', proto],
    ['Forwarded', [...received('forwarded'), `for=127.0.0.1;host=${/:/.test(host) ? `"${host}"` : host};proto=${proto}`].join(', ')],
    ['Via', [...via, '1.1 rockstar-proxy'].join(', ')]
  ]
}

const token = fc.stringMatching(/^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,10}$/)
  .filter(name => !/^(?:host|content-length|transfer-encoding|max-forwards|close|via|expect|upgrade|te|x-forwarded-(?:host|proto))$/i.test(name))
const value = fc.array(fc.integer({ min: 0x20, max: 0xff }).filter(code => code < 0x7f || code > 0x7f), { maxLength: 12 }).map(codes => String.fromCharCode(...codes).trim().replaceAll(/^\xa0+|\xa0+$/g, ''))
const cased = (name: string) => fc.array(fc.boolean(), { minLength: name.length, maxLength: name.length })
  .map(upper => [...name].map((character, i) => upper[i] ? character.toUpperCase() : character).join(''))
const KNOWN = ['accept', 'cookie', 'authorization', 'user-agent', 'content-type', 'cache-control', 'etag', 'location', 'set-cookie', 'x-a', 'x-b', 'x-forward', '__proto__', 'constructor']
const HOPS = ['keep-alive', 'proxy-authorization', 'proxy-connection', 'proxy', 'proxy-x', 'http2-settings', 'trailer']

const named = (names: string[], values: fc.Arbitrary<string>): fc.Arbitrary<Field> => fc.constantFrom(...names).chain(name => fc.tuple(cased(name), values))
const options = fc.array(fc.oneof(token, fc.constantFrom(...KNOWN, ...HOPS, 'x-forwarded-for', 'x-forwarded-port', 'forwarded', 'te', 'upgrade', '', ' ', 'keep-alive').chain(cased)), { maxLength: 5 })
  .chain(tokens => fc.array(fc.constantFrom(',', ', ', ' ,', '\t,\t', ',,'), { minLength: tokens.length, maxLength: tokens.length }).map(separators => tokens.map((token, i) => token + (i === tokens.length - 1 ? '' : separators[i])).join('').trim()))

const field: fc.Arbitrary<Field> = fc.oneof(
  { weight: 4, arbitrary: named(KNOWN, value) },
  { weight: 2, arbitrary: fc.tuple(token, value) },
  { weight: 2, arbitrary: named(HOPS, value) },
  { weight: 2, arbitrary: named(['connection'], options) },
  { weight: 1, arbitrary: named(['te'], fc.constantFrom('trailers', 'gzip', 'gzip, Trailers', 'trailersx', ' ,trailers,')) },
  { weight: 1, arbitrary: named(['via'], fc.constantFrom('1.1 a', '1.0 b, 1.1 c', 'HTTP/1.1 rockstar-proxies')) },
  { weight: 1, arbitrary: named(['x-forwarded-for'], fc.constantFrom('6.6.6.6', '7.7.7.7, ::1')) },
  { weight: 1, arbitrary: named(['x-forwarded-host'], fc.constantFrom('claimed.example', 'claimed.example:81')) },
  { weight: 1, arbitrary: named(['x-forwarded-proto'], fc.constantFrom('https', 'http')) },
  { weight: 1, arbitrary: named(['x-forwarded-port', 'x-forwarded-by'], fc.constantFrom('81', 'x')) },
  { weight: 1, arbitrary: named(['forwarded'], fc.constantFrom('for=6.6.6.6', 'for="[::1]";proto=https')) }
)

for (const trusted of [false, true]) {
  t.test(`whatever the fields, what is sent is what the model says: the peer is ${trusted ? '' : 'not '}trusted`, async t => {
    const { ask, backend, last } = await harness(t, trusted)
    await fc.assert(fc.asyncProperty(fc.array(field, { maxLength: 14 }), async fields => {
      const response = await ask(get(fields))
      if (response.status !== 200) throw new Error(`answered with ${response.status}: ${response.body} ${last()}`)
      const expected = JSON.stringify(model(fields, trusted))
      const built = JSON.stringify(pairs((last() as RequestHead).headers))
      if (built !== expected) throw new Error(`built ${built}\nmodel ${expected}`)
      const request = backend.requests.at(-1) as Message
      const written = JSON.stringify(request.fields.filter(([name]) => !/^(?:host|connection)$/.test(name)))
      if (written !== expected) throw new Error(`wrote ${written}\nmodel ${expected}`)
    }), { numRuns: 400, includeErrorInReport: true })
    t.ok(backend.requests.length >= 400)
    t.equal(backend.connections.length, 1, 'all over one connection')
  })
}

t.test('whatever else Connection names, naming where a message goes or ends is refused', async t => {
  const { ask, backend, last } = await harness(t)
  const framing = fc.constantFrom('host', 'content-length', 'transfer-encoding').chain(cased)
  await fc.assert(fc.asyncProperty(fc.array(token, { maxLength: 3 }), framing, fc.array(token, { maxLength: 3 }), fc.boolean(), async (before, name, after, lines) => {
    const names = [...before, name, ...after]
    const response = await ask(get(lines ? names.map(name => ['Connection', name]) : [['Connection', names.join(' ,')]]))
    if (response.status !== 400 || (last() as { code?: string }).code !== 'FST_ROCKSTAR_BAD_REQUEST') throw new Error(`answered with ${response.status}`)
  }), { numRuns: 100 })
  t.equal(backend.requests.length, 0)
})

t.test('what is read of the body\'s framing', async t => {
  const { ask, last } = await harness(t)
  for (const [bytes, contentLength, hasBody] of [
    ['GET /x HTTP/1.1\r\nHost: a\r\n\r\n', -1, false], ['POST /x HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nabc', 3, true], ['POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n', 0, false],
    ['POST /x HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n', -1, true], ['GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 03\r\n\r\nabc', 3, true]
  ] as const) {
    t.equal((await ask(bytes)).status, 200)
    const head = last() as RequestHead
    t.equal(head.contentLength, contentLength, bytes)
    t.equal(head.hasBody, hasBody, bytes)
    t.strictSame(pairs(head.headers).filter(([name]) => /^(?:content-length|transfer-encoding|host)$/i.test(name)), [], 'it is written by whoever sends')
  }
})

t.test('the host that was asked for', async t => {
  const { ask, last } = await harness(t, false, true)
  for (const [bytes, host] of [['GET /x HTTP/1.1\r\nHost: a:81\r\n\r\n', 'a:81'], ['GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n', 'b'], ['GET /x HTTP/1.1\r\nHost:\r\n\r\n', '']]) {
    await ask(bytes)
    const head = last() as RequestHead
    t.equal(head.host, host)
    t.strictSame(pairs(head.headers).filter(([name]) => /^host$/i.test(name)).map(([, value]) => value), host === '' ? [] : [host])
  }
})

t.test('refusals', async t => {
  const { ask, backend, last } = await harness(t)
  for (const [bytes, code, status] of [
    ['GET /x HTTP/1.1\r\nHost: a b\r\n\r\n', 'FST_ROCKSTAR_BAD_REQUEST', 400], ['GET /x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n', 'FST_ROCKSTAR_BAD_REQUEST', 400], ['GET /x HTTP/1.1\r\nHost: a\r\nVia: 1.1 Rockstar-Proxy\r\n\r\n', 'FST_ROCKSTAR_LOOP', 508],
    ['OPTIONS /x HTTP/1.1\r\nHost: a\r\nMax-Forwards: x\r\n\r\n', 'FST_ROCKSTAR_BAD_REQUEST', 400], ['POST /x HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n', 'FST_ROCKSTAR_UNSUPPORTED_CODING', 501]
  ] as const) {
    t.equal((await ask(bytes)).status, status, bytes)
    t.match(last(), { code, statusCode: status })
  }
  t.equal((await ask('OPTIONS /x HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n')).status, 200)
  t.equal(last(), MAX_FORWARDS_REACHED)
  t.equal(backend.requests.length, 0)
})
