import fc from 'fast-check'
import t from 'tap'
import { kindOf, Kind } from '../../../lib/forward/field-kinds.ts'
import { PrefixMapping } from '../../../lib/forward/prefix-mapping.ts'
import { buildInterimHeaders, buildResponseHead, buildTrailers, type ResponseHead } from '../../../lib/forward/response-headers.ts'

const raw = (...headers: string[]): Buffer[] => headers.map(text => Buffer.from(text, 'latin1'))

interface Given {
  method?: string
  statusCode?: number
  via?: string | null
  keepTrailer?: boolean
  mapping?: PrefixMapping | null
}

function build (headers: string[], { method = 'GET', statusCode = 200, via = null, keepTrailer = false, mapping = null }: Given = {}): ResponseHead {
  return buildResponseHead(method, statusCode, 'Reason', raw(...headers), via, keepTrailer, mapping)
}

const BAD = { code: 'FST_ROCKSTAR_BAD_RESPONSE', statusCode: 502 }

t.test('buildResponseHead', async t => {
  t.test('hands status and reason on', async t => {
    t.match(build([], { statusCode: 404 }), { statusCode: 404, statusMessage: 'Reason', headers: [] })
  })

  t.test('takes statuses from 200 to 599 only', async t => {
    for (const statusCode of [200, 299, 304, 404, 599]) t.equal(build([], { statusCode }).statusCode, statusCode)
    for (const statusCode of [0, 99, 100, 199, 600, 999]) t.throws(() => build([], { statusCode }), BAD, String(statusCode))
  })

  t.test('keeps names, order, repetitions and bytes', async t => {
    const headers = ['X-b', '1', 'x-B', '\xe4\xff', 'Set-Cookie', 'a', 'set-cookie', 'b', 'X-a', '']
    t.same(build(headers).headers, headers)
  })

  t.test('removes what is between neighbours', async t => {
    t.same(build(['Keep-Alive', 'timeout=5', 'Proxy-Connection', 'x', 'Proxy-Anything', 'x', 'Upgrade', 'x', 'TE', 'x', 'HTTP2-Settings', 'x', 'Connection', 'x', 'Transfer-Encoding', 'chunked', 'X-Kept', '1']).headers, ['X-Kept', '1'])
  })

  t.test('removes what Connection names, before or behind it, in any case, from several fields', async t => {
    t.same(build(['X-A', '1', 'connection', ' x-a ,, X-B', 'x-b', '2', 'Connection', 'X-C,close', 'X-C', '3', 'x-a', '4', 'X-D', '5']).headers, ['X-D', '5'])
  })

  t.test('keeps the length that is named, and adds its Via all the same', async t => {
    t.same(build(['Connection', 'Content-Length, Via', 'Content-Length', '5', 'Via', '1.0 a'], { via: 'me' }), { statusCode: 200, statusMessage: 'Reason', headers: ['Content-Length', '5', 'Via', '1.1 me'], contentLength: 5, hasBody: true, isWhole: false })
  })

  t.test('knows the length, and whether content follows', async t => {
    t.match(build(['Content-Length', '5']), { contentLength: 5, hasBody: true, isWhole: false })
    t.match(build(['Content-Length', '0']), { contentLength: 0, hasBody: false, isWhole: false })
    t.match(build([]), { contentLength: -1, hasBody: true, isWhole: false })
    t.match(build(['Transfer-Encoding', 'chunked']), { contentLength: -1, hasBody: true, isWhole: false })
    for (const given of [{ method: 'HEAD' }, { statusCode: 304 }]) {
      t.match(build(['Content-Length', '5'], given), { headers: ['Content-Length', '5'], hasBody: false, isWhole: true })
    }
    t.match(build(['Content-Length', '5'], { statusCode: 204 }), { headers: [], hasBody: false, isWhole: true })
  })

  t.test('takes no transfer coding but chunked', async t => {
    for (const coding of ['chunked', 'Chunked', ' CHUNKED ']) t.same(build(['Transfer-Encoding', coding]).headers, [])
    for (const coding of ['gzip', 'gzip, chunked', 'chunked, gzip', 'chunked, chunked', 'identity', 'xchunked', 'chunked;a=b', '']) {
      t.throws(() => build(['Transfer-Encoding', coding]), BAD, coding)
    }
    t.throws(() => build(['Transfer-Encoding', 'gzip', 'transfer-encoding', 'chunked']), BAD)
  })

  t.test('keeps Trailer only for whom trailers are kept', async t => {
    t.same(build(['Trailer', 'X-Sum']).headers, [])
    t.same(build(['Trailer', 'X-Sum'], { keepTrailer: true }).headers, ['Trailer', 'X-Sum'])
  })

  t.test('maps the fields that hold paths, and only those', async t => {
    const mapping = new PrefixMapping('/v1', '/api', 'backend', 'client')
    t.same(build(['Location', '/v1/a', 'content-location', '/v1/b', 'Refresh', '0;url=/v1/c', 'Set-Cookie', 'a=1;Path=/v1', 'X-Location', '/v1/d'], { mapping }).headers,
      ['Location', '/api/a', 'content-location', '/api/b', 'Refresh', '0;url=/api/c', 'Set-Cookie', 'a=1;Path=/api', 'X-Location', '/v1/d'])
  })

  t.test('whatever comes: nothing between neighbours passes, and all else does, as it came', async () => {
    const token = fc.stringMatching(/^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}$/)
    const known = fc.constantFrom('Keep-Alive', 'keep-alive', 'Proxy-Authenticate', 'PROXY-X', 'Upgrade', 'te', 'Trailer', 'Set-Cookie', 'X-A', 'x-a', 'X-B', 'Via', 'Date', 'ETag', 'Content-Type')
    const value = fc.stringMatching(/^[\t\x20-\x7e\x80-\xff]{0,20}$/)
    const pairs = fc.array(fc.tuple(fc.oneof(known, token), value), { maxLength: 20 })
    const nominations = fc.array(fc.oneof(known, token), { maxLength: 4 })
    const framing = new Set<Kind>([Kind.CONNECTION, Kind.CONTENT_LENGTH, Kind.TRANSFER_ENCODING])
    fc.assert(fc.property(pairs, nominations, fc.nat(20), (given, named, at) => {
      const fields = given.filter(([name]) => !framing.has(kindOf(name)))
      const connection: [string, string] = ['Connection', named.join(' , ')]
      const all = [...fields.slice(0, at), connection, ...fields.slice(at)]
      const gone = new Set(named.map(name => name.toLowerCase()))
      const dropped = (name: string) => gone.has(name.toLowerCase()) || ([Kind.HOP, Kind.TE, Kind.TRAILER, Kind.CONNECTION] as Kind[]).includes(kindOf(name))
      const expected = all.filter(([name]) => !dropped(name)).flat()
      const { headers } = build(all.flat())
      return JSON.stringify(headers) === JSON.stringify(expected)
    }))
  })
})

t.test('buildInterimHeaders keeps end-to-end fields only', async t => {
  t.same(buildInterimHeaders(raw('Link', '</a>', 'link', '</b>', 'Connection', 'X-A', 'X-A', '1', 'Keep-Alive', 'x', 'Content-Length', '5', 'Transfer-Encoding', 'chunked', 'Upgrade', 'x', 'Trailer', 'x', 'X-B', '\xe4')),
    ['Link', '</a>', 'link', '</b>', 'X-B', '\xe4'])
  t.same(buildInterimHeaders([]), [])
})

t.test('buildTrailers keeps what may stand behind content', async t => {
  t.same(buildTrailers(null), [])
  t.same(buildTrailers([]), [])
  const unfit = ['Content-Length', 'Transfer-Encoding', 'Connection', 'Keep-Alive', 'Host', 'TE', 'Trailer', 'Upgrade', 'Set-Cookie', 'Proxy-X', 'Expect', 'Max-Forwards', 'Location']
  t.same(buildTrailers(raw(...unfit.flatMap(name => [name, 'x']), 'X-Sum', '\xe4', 'x-sum', '2')), ['X-Sum', '\xe4', 'x-sum', '2'])
  t.same(buildTrailers(['X-Text', 'a']), ['X-Text', 'a'], 'texts as well as bytes')
})
