import t, { type Test } from 'tap'
import { startGateway, type Gateway } from '../helpers/app.ts'
import { connectTo, ok, rawBackend, type Message, type RawBackend } from '../helpers/wire.ts'
import type { RockstarProxyOptions } from '../../types/index.ts'

/** A test that hangs fails by itself, and lets the others run. */
const LIMIT = 15_000

/** What the backend answers with, by the number in the request's path. */
const answers: string[] = []
const answering = (t: Test): Promise<RawBackend> => rawBackend(t, request => answers[Number(request.startLine.split(/[ /]/)[2])])

const passOn = (_request: unknown, _reply: unknown, payload: unknown, done: (error: null, payload: unknown) => void) => done(null, payload)
const backend = await answering(t)
const gateway = await startGateway(t, {
  backends: [backend.url],
  routes: [{ prefix: '/raw' }, { prefix: '/hooked', onSend: passOn }]
})

/** The two ways that an answer goes out by. */
const WAYS = ['raw', 'hooked']

async function ask (t: Test, way: string, answer: string, { fields = '', version = '1.1', through = gateway }: { fields?: string, version?: string, through?: Gateway } = {}): Promise<Message> {
  const client = await connectTo(t, through.port)
  client.send(`GET /${way}/${answers.push(answer) - 1} HTTP/${version}\r\nHost: gateway\r\n${fields}\r\n`)
  return await client.response()
}

const lines = (...fields: string[]) => fields.map(field => `${field}\r\n`).join('')
const named = ({ fields }: Message, ...names: string[]) => fields.filter(([name]) => names.includes(name.toLowerCase()))
/** The fields that the client's side adds by itself. */
const OWN = ['via', 'date', 'connection', 'keep-alive']
const theirs = ({ fields }: Message) => fields.filter(([name]) => !OWN.includes(name.toLowerCase()))

for (const way of WAYS) {
  t.test(`${way}: case, order and repetitions of fields stay`, { timeout: LIMIT }, async t => {
    const response = await ask(t, way, ok('ok', lines(
      'x-LOWER-upper: 1', 'Warning: 199 - "a"', 'ETag: "e"', 'X-Twice: b', 'WARNING: 199 - "c"', 'x-twice: a', 'etAG-like: x', 'X-Twice: b', 'P3P: CP="x"', 'x-empty:'
    )))
    t.same(theirs(response), [
      ['x-LOWER-upper', '1'], ['Warning', '199 - "a"'], ['ETag', '"e"'], ['X-Twice', 'b'], ['WARNING', '199 - "c"'], ['x-twice', 'a'],
      ['etAG-like', 'x'], ['X-Twice', 'b'], ['P3P', 'CP="x"'], ['x-empty', ''], ['Content-Length', '2']
    ])
  })

  t.test(`${way}: three Set-Cookie stay three, in order`, { timeout: LIMIT }, async t => {
    const cookies = ['a=1; Secure; HttpOnly', 'b=2; Expires=Wed, 21 Oct 2026 07:28:00 GMT', 'a=3']
    const response = await ask(t, way, ok('ok', lines(`Set-Cookie: ${cookies[0]}`, `set-cookie: ${cookies[1]}`, 'X-Between: 1', `SET-COOKIE: ${cookies[2]}`)))
    t.same(named(response, 'set-cookie', 'x-between'), [['Set-Cookie', cookies[0]], ['set-cookie', cookies[1]], ['X-Between', '1'], ['SET-COOKIE', cookies[2]]])
  })

  t.test(`${way}: the bytes of values survive`, { timeout: LIMIT }, async t => {
    const all = Array.from({ length: 128 }, (_, i) => String.fromCharCode(128 + i)).join('')
    const utf8 = Buffer.from('grüße, 世界').toString('latin1')
    const response = await ask(t, way, ok('ok', lines(`X-Obs: ${all}`, `X-Utf8: ${utf8}`, 'X-Tab: a\tb', 'X-Spaces:  \t a  b \t ', 'X-Quoted: "a, \\"b\\""', 'X-Visible: !#$%&\'*+-.^_`|~(),/:;<=>?@[]{}')))
    t.equal(response.values('x-obs')[0], all.trim())
    t.equal(response.values('x-utf8')[0], utf8)
    t.equal(response.values('x-tab')[0], 'a\tb')
    t.equal(response.values('x-spaces')[0], 'a  b')
    t.equal(response.values('x-quoted')[0], '"a, \\"b\\""')
    t.equal(response.values('x-visible')[0], '!#$%&\'*+-.^_`|~(),/:;<=>?@[]{}')
  })

  t.test(`${way}: names of every kind of token pass`, { timeout: LIMIT }, async t => {
    const response = await ask(t, way, ok('ok', lines('!#$%&\'*+-.^_`|~09azAZ: 1', '__proto__: 2', 'constructor: 3', 'toString: 4', '1: 5')))
    t.same(theirs(response).slice(0, -1), [['!#$%&\'*+-.^_`|~09azAZ', '1'], ['__proto__', '2'], ['constructor', '3'], ['toString', '4'], ['1', '5']])
  })

  t.test(`${way}: fields between neighbours are not passed on`, { timeout: LIMIT }, async t => {
    const response = await ask(t, way, ok('ok', lines(
      'Keep-Alive: timeout=5, max=7', 'Proxy-Connection: keep-alive', 'Proxy-Authenticate: Basic', 'Proxy-Authentication-Info: x', 'Upgrade: h2c', 'HTTP2-Settings: x', 'TE: gzip', 'Trailer: X-Later', 'X-Kept: 1', 'Proxy-Status: backend; error=none'
    )))
    t.same(named(response, 'proxy-connection', 'proxy-authenticate', 'proxy-authentication-info', 'upgrade', 'http2-settings', 'te', 'trailer'), [])
    t.notMatch(response.values('keep-alive').join(), /timeout=5|max=7/)
    t.same(response.values('x-kept'), ['1'])
    t.same(response.values('proxy-status'), ['backend; error=none'], 'which RFC 9209 means for the client')
  })

  t.test(`${way}: fields that the backend's Connection names are not passed on`, { timeout: LIMIT }, async t => {
    for (const connection of ['X-Secret, x-OTHER', ' X-Secret ,,x-other,', 'keep-alive, X-Secret, X-Other', 'X-Secret,X-Other,close']) {
      const response = await ask(t, way, ok('ok', lines('X-Secret: 1', `Connection: ${connection}`, 'x-secret: 2', 'X-Other: 3', 'X-Kept: 4')))
      t.same(named(response, 'x-secret', 'x-other', 'x-kept'), [['X-Kept', '4']])
      t.notMatch(response.values('connection').join(), /secret|close/i)
    }
    const twice = await ask(t, way, ok('ok', lines('Connection: X-Secret', 'X-Secret: 1', 'Connection: X-Other', 'X-Other: 2')))
    t.same(named(twice, 'x-secret', 'x-other'), [])
  })

  t.test(`${way}: naming what we write or frame by takes nothing of ours away`, { timeout: LIMIT }, async t => {
    const response = await ask(t, way, ok('ok', lines('Connection: Via, Content-Length, Set-Cookie, Date', 'Via: 1.1 inner', 'Set-Cookie: a=1', 'Date: Thu, 01 Jan 1970 00:00:00 GMT')))
    t.same(response.values('set-cookie'), [])
    t.same(response.values('content-length'), ['2'])
    t.equal(response.body, 'ok')
    t.match(response.values('via').join(', '), /1\.1 rockstar-proxy$/)
    t.equal(response.values('date').length, 1)
    t.notMatch(response.values('date')[0], /1970/)
  })

  t.test(`${way}: Date is added where it is missing, and kept where it is there`, { timeout: LIMIT }, async t => {
    const added = await ask(t, way, ok())
    t.equal(added.values('date').length, 1)
    t.match(added.values('date')[0], /^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$/)
    for (const date of ['Thu, 01 Jan 1970 00:00:00 GMT', 'whenever']) {
      t.same((await ask(t, way, ok('ok', `Date: ${date}\r\n`))).values('date'), [date])
    }
  })

  t.test(`${way}: Via is added behind those that came`, { timeout: LIMIT }, async t => {
    t.same((await ask(t, way, ok())).values('via'), ['1.1 rockstar-proxy'])
    t.equal((await ask(t, way, ok('ok', 'Via: 1.0 a, 1.1 b\r\n'))).values('via').join(', '), '1.0 a, 1.1 b, 1.1 rockstar-proxy')
  })

  t.test(`${way}: no Server and no X-Powered-By is made up, and the backend's stay`, { timeout: LIMIT }, async t => {
    t.same(named(await ask(t, way, ok()), 'server', 'x-powered-by'), [])
    t.same(named(await ask(t, way, ok('ok', lines('Server: Apache', 'X-Powered-By: y'))), 'server', 'x-powered-by'), [['Server', 'Apache'], ['X-Powered-By', 'y']])
  })

  t.test(`${way}: no Content-Type is made up or changed`, { timeout: LIMIT }, async t => {
    t.same((await ask(t, way, ok())).values('content-type'), [])
    for (const type of ['application/json', 'text/plain', 'text/html; charset=ISO-8859-1', 'nonsense', 'application/json;charset=UTF-16']) {
      t.same((await ask(t, way, ok('ok', `Content-Type: ${type}\r\n`))).values('content-type'), [type])
    }
  })

  t.test(`${way}: many fields and large ones pass whole`, { timeout: LIMIT }, async t => {
    const many = Array.from({ length: 1_200 }, (_, i) => `h${i}: ${i}`)
    const response = await ask(t, way, ok('ok', lines(...many)))
    t.same(theirs(response).slice(0, -1).map(([name, value]) => `${name}: ${value}`), many)
    const large = 'v'.repeat(12_000)
    t.ok((await ask(t, way, ok('ok', `X-Large: ${large}\r\n`))).values('x-large')[0] === large)
  })

  t.test(`${way}: caching and range fields pass as they are`, { timeout: LIMIT }, async t => {
    const fields: [string, string][] = [
      ['Cache-Control', 'no-store, max-age=0'], ['Expires', '0'], ['Age', '17'], ['Vary', 'Accept-Encoding, Origin'], ['Content-Encoding', 'gzip'], ['Accept-Ranges', 'bytes'],
      ['Content-Range', 'bytes 0-1/2'], ['Last-Modified', 'x'], ['WWW-Authenticate', 'Basic realm="a", Bearer'], ['WWW-Authenticate', 'Negotiate'], ['Alt-Svc', 'h3=":443"'], ['Strict-Transport-Security', 'max-age=1'], ['Content-Disposition', 'attachment; filename="a.txt"']
    ]
    const response = await ask(t, way, `HTTP/1.1 206 Partial Content\r\n${lines(...fields.map(([name, value]) => `${name}: ${value}`))}Content-Length: 2\r\n\r\nok`)
    t.same(theirs(response).slice(0, -1), fields)
  })
}

t.test('via: false writes none, and a name of one\'s own is written', { timeout: LIMIT }, async t => {
  const options: [RockstarProxyOptions, string[]][] = [[{ via: false }, []], [{ via: 'edge' }, ['1.1 edge']]]
  for (const [option, expected] of options) {
    const other = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/raw' }], ...option })
    t.same((await ask(t, 'raw', ok(), { through: other })).values('via'), expected)
    t.equal((await ask(t, 'raw', ok('ok', 'Via: 1.1 inner\r\n'), { through: other })).values('via').join(', '), ['1.1 inner', ...expected].join(', '))
  }
})

t.test('headers set on the reply before forward()', async t => {
  const answer = ok('ok', lines('X-Both: theirs', 'x-both: theirs too', 'X-Theirs: 1', 'Cache-Control: no-store', 'Set-Cookie: backend=1', 'Set-Cookie: backend=2', 'Vary: Accept', 'Content-Type: text/plain'))
  const chunked = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n'
  for (const way of WAYS) {
    const other = await startGateway(t, { backends: [backend.url] }, {
      setup: app => {
        app.get(`/${way}/:answer`, way === 'hooked' ? { onSend: passOn as never } : {}, (request, reply) => {
          reply.header('X-Own', 'own').header('x-both', 'own').header('cache-control', 'private').header('set-cookie', 'own=1').header('set-cookie', 'own=2').header('vary', 'Origin')
          // That says nothing about the content that is to come.
          reply.header('content-length', 99)
          if (request.headers['x-coding'] !== undefined) reply.header('transfer-encoding', request.headers['x-coding'])
          reply.code(418)
          return request.server.proxy.forward(request, reply, { path: `/${(request.params as { answer: string }).answer}` })
        })
      }
    })
    await t.test(`${way}: one's own win, and Set-Cookie and Vary add up`, { timeout: LIMIT }, async t => {
      const response = await ask(t, way, answer, { through: other })
      t.equal(response.startLine, 'HTTP/1.1 200 OK', 'the status is the backend\'s')
      t.same(response.values('x-own'), ['own'])
      t.same(response.values('x-both'), ['own'])
      t.same(response.values('x-theirs'), ['1'])
      t.same(response.values('cache-control'), ['private'])
      t.same(response.values('set-cookie').toSorted(), ['backend=1', 'backend=2', 'own=1', 'own=2'])
      t.same(response.values('vary').join(', ').split(', ').toSorted(), ['Accept', 'Origin'])
      t.same(response.values('content-type'), ['text/plain'])
      t.same(response.values('content-length'), ['2'])
      t.same(response.values('transfer-encoding'), [])
    })
    await t.test(`${way}: chunked content stays chunked`, { timeout: LIMIT }, async t => {
      const response = await ask(t, way, chunked, { through: other })
      t.same(response.values('content-length'), [])
      t.same(response.values('transfer-encoding'), ['chunked'])
      t.equal(response.body, 'ok')
    })
    await t.test(`${way}: a Transfer-Encoding of one's own changes nothing about the framing`, { timeout: LIMIT }, async t => {
      const response = await ask(t, way, chunked, { through: other, fields: 'X-Coding: gzip\r\n' })
      t.same(response.values('transfer-encoding'), ['chunked'])
      t.equal(response.body, 'ok')
      t.same((await ask(t, way, answer, { through: other, fields: 'X-Coding: chunked\r\n' })).values('transfer-encoding'), [])
    })
  }
})

t.test('headers set past Fastify, on the raw response, are kept as well', { timeout: LIMIT }, async t => {
  for (const way of WAYS) {
    const other = await startGateway(t, { backends: [backend.url] }, {
      setup: app => {
        app.get(`/${way}/:answer`, way === 'hooked' ? { onSend: passOn as never } : {}, (request, reply) => {
          reply.raw.setHeader('X-Raw', 'own')
          request.server.proxy.forward(request, reply, { path: `/${(request.params as { answer: string }).answer}` })
        })
      }
    })
    const response = await ask(t, way, ok('ok', 'X-Raw: theirs\r\n'), { through: other })
    t.same(response.values('x-raw'), ['own'])
  }
})

t.test('rewriteHeaders', async t => {
  const rewriting = async (t: Test, rewriteHeaders: NonNullable<NonNullable<RockstarProxyOptions['routes']>[number]['rewriteHeaders']>) => await startGateway(t, {
    backends: [backend.url],
    routes: [{ prefix: '/raw', rewriteHeaders }, { prefix: '/hooked', rewriteHeaders, onSend: passOn }]
  })
  await t.test('changes, adds and removes fields, and leaves the spelling of the others', { timeout: LIMIT }, async t => {
    const other = await rewriting(t, (headers, request) => {
      const { 'x-gone': _, ...rest } = headers
      return { ...rest, 'x-changed': `${headers['x-changed']}!`, 'X-Added': [request.method, 'two'], 'x-undefined': undefined }
    })
    for (const way of WAYS) {
      const response = await ask(t, way, ok('ok', lines('X-Gone: 1', 'X-Changed: 2', 'X-KEPT: 3', 'Set-Cookie: a', 'Set-Cookie: b')), { through: other })
      t.same(response.values('x-gone'), [])
      t.same(response.values('x-undefined'), [])
      t.same(named(response, 'x-changed', 'x-kept'), [['X-Changed', '2!'], ['X-KEPT', '3']])
      t.same(response.values('x-added'), ['GET', 'two'])
      t.same(response.values('set-cookie'), ['a', 'b'])
    }
  })
  await t.test('gets a copy with names in lower case and repetitions as arrays', { timeout: LIMIT }, async t => {
    let seen: object = {}
    const other = await rewriting(t, headers => {
      seen = { ...headers }
      return headers
    })
    await ask(t, 'raw', ok('ok', lines('X-Once: 1', 'X-Twice: 1', 'x-twice: 2')), { through: other })
    t.match(seen, { 'x-once': '1', 'x-twice': ['1', '2'] })
  })
  await t.test('cannot change how the content is framed', { timeout: LIMIT }, async t => {
    const other = await rewriting(t, headers => ({ ...headers, 'content-length': '1', 'transfer-encoding': 'gzip', connection: 'close, x-a', 'keep-alive': 'timeout=1', trailer: 'a', upgrade: 'x' }))
    for (const way of WAYS) {
      const response = await ask(t, way, ok(), { through: other })
      t.same(response.values('content-length'), ['2'])
      t.same(named(response, 'transfer-encoding', 'trailer', 'upgrade'), [])
      t.notMatch(response.values('connection').join(), /close|x-a/)
      t.equal(response.body, 'ok')
    }
  })
  for (const [name, headers] of [
    ['CR LF in a value', { 'x-bad': 'a\r\nX-Injected: b' }], ['LF in a value', { 'x-bad': 'a\nb' }], ['CR in a value', { 'x-bad': 'a\rb' }], ['NUL in a value', { 'x-bad': 'a\0b' }],
    ['a value in an array', { 'x-bad': ['fine', 'a\r\nb'] }], ['a character that is no byte', { 'x-bad': '世' }], ['CR LF in a name', { 'x-bad\r\nx-injected': 'b' }], ['an empty name', { '': 'b' }]
  ] as [string, Record<string, string | string[]>][]) {
    await t.test(`is refused with ${name}`, { timeout: LIMIT }, async t => {
      const other = await rewriting(t, () => headers)
      for (const way of WAYS) {
        const response = await ask(t, way, ok('secret'), { through: other })
        t.equal(response.status, 500)
        t.equal(JSON.parse(response.body).code, 'FST_ROCKSTAR_INVALID_HEADER')
        t.notMatch(response.head, /injected/i)
      }
    })
  }
  await t.test('that throws is an error of the application, and sends nothing of the backend\'s', { timeout: LIMIT }, async t => {
    const other = await rewriting(t, () => { throw new Error('mine') })
    for (const way of WAYS) {
      const response = await ask(t, way, ok('secret', 'X-Theirs: 1\r\n'), { through: other })
      t.equal(response.status, 500)
      t.same(response.values('x-theirs'), [])
      t.notMatch(response.body, /secret/)
    }
  })
})

t.test('trailers', async t => {
  const withTrailers = 'HTTP/1.1 200 OK\r\nTrailer: X-Sum, X-Other\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: abc\r\nx-OTHER: d\xe4\r\nX-Sum: def\r\n\r\n'
  for (const way of WAYS) {
    for (const te of ['trailers', 'Trailers', 'gzip, trailers', 'trailers, deflate;q=0.5', ' , trailers ,']) {
      await t.test(`${way}: are passed on to a client with TE: ${te}`, { timeout: LIMIT }, async t => {
        const response = await ask(t, way, withTrailers, { fields: `TE: ${te}\r\nConnection: TE\r\n` })
        t.equal(response.body, 'ok')
        t.same(response.trailers, [['X-Sum', 'abc'], ['x-OTHER', 'd\xe4'], ['X-Sum', 'def']])
        t.same(response.values('trailer'), ['X-Sum, X-Other'])
        t.match(backend.requests.at(-1)?.values('te'), ['trailers'])
        t.match(backend.requests.at(-1)?.values('connection').join(), /\bTE\b/i, 'RFC 9110, 10.1.4')
      })
    }
    for (const [name, fields] of [['no TE', ''], ['TE: gzip', 'TE: gzip\r\nConnection: TE\r\n'], ['TE: trailersX', 'TE: trailersX\r\nConnection: TE\r\n'], ['an empty TE', 'TE:\r\nConnection: TE\r\n']]) {
      await t.test(`${way}: are dropped for a client with ${name}`, { timeout: LIMIT }, async t => {
        const response = await ask(t, way, withTrailers, { fields })
        t.equal(response.body, 'ok')
        t.same(response.trailers, [])
        t.same(response.values('trailer'), [])
        t.same(backend.requests.at(-1)?.values('te'), [])
      })
    }
    await t.test(`${way}: are dropped for an HTTP/1.0 client`, { timeout: LIMIT }, async t => {
      const response = await ask(t, way, withTrailers, { fields: 'TE: trailers\r\nConnection: TE\r\n', version: '1.0' })
      t.equal(response.body, 'ok')
      t.same(response.values('trailer'), [])
    })
    await t.test(`${way}: that frame, route or are meant for a neighbour are dropped`, { timeout: LIMIT }, async t => {
      const response = await ask(t, way, 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nKeep-Alive: x\r\nUpgrade: x\r\nHost: x\r\nTrailer: x\r\nTE: x\r\nSet-Cookie: a=1\r\nProxy-X: x\r\nX-Kept: 1\r\n\r\n', { fields: 'TE: trailers\r\nConnection: TE\r\n' })
      t.same(response.trailers, [['X-Kept', '1']])
    })
    for (const field of ['Content-Length: 5', 'Transfer-Encoding: gzip', 'Connection: close', 'Connection: X-Kept']) {
      await t.test(`${way}: with a ${field} never look like that to the client`, { timeout: LIMIT }, async t => {
        const client = await connectTo(t, gateway.port)
        const answer = `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n${field}\r\nX-Kept: 1\r\n\r\n`
        client.send(`GET /${way}/${answers.push(answer) - 1} HTTP/1.1\r\nHost: gateway\r\nTE: trailers\r\nConnection: TE\r\n\r\n`)
        // A parser may also take such a message for faulty: then it is cut short.
        await client.response().catch(() => {})
        t.notOk(client.received.slice(client.received.indexOf('\r\n\r\n')).includes(field))
      })
    }
    await t.test(`${way}: that come without having been announced are passed on`, { timeout: LIMIT }, async t => {
      const response = await ask(t, way, 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Late: 1\r\n\r\n', { fields: 'TE: trailers\r\nConnection: TE\r\n' })
      t.equal(response.body, '')
      t.same(response.trailers, [['X-Late', '1']])
    })
    await t.test(`${way}: of large content come behind it`, { timeout: LIMIT }, async t => {
      const chunk = 'c'.repeat(50_000)
      const response = await ask(t, way, `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${`c350\r\n${chunk}\r\n`.repeat(4)}0\r\nX-Sum: 200000\r\n\r\n`, { fields: 'TE: trailers\r\nConnection: TE\r\n' })
      t.equal(response.body.length, 200_000)
      t.same(response.trailers, [['X-Sum', '200000']])
    })
  }
})
