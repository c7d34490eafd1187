import { createHash, randomBytes } from 'node:crypto'
import t, { type Test } from 'tap'
import { startGateway } from '../helpers/app.ts'
import { connectTo, ok, parseMessage, rawBackend, until, type Message, type RawBackend, type Wire } from '../helpers/wire.ts'

/** A test that hangs fails by itself, and lets the others run. */
const LIMIT = 15_000

type Part = string | Buffer
type Answer = (request: Message, wire: Wire, backend: RawBackend) => Part | void

/** What the backend is to do with the next request that is planned. */
let answer: Answer = () => ok()
/** What it does with each: by its own path, so that a test that hangs does not disturb the others. */
const answers: Answer[] = []

/** Plans a request to be answered with the `answer` of this moment, and names its path. */
function plan (way: string): string {
  return `/${way}/${answers.push(answer) - 1}`
}

/** Sends bytes one after the other, each in a turn of the event loop of its own. */
async function play (wire: Wire, parts: Part[]): Promise<void> {
  for (const part of parts) {
    wire.send(part)
    await new Promise(resolve => setImmediate(resolve))
  }
}

/** An answer in packets of its own. */
function inPackets (...parts: Part[]): Answer {
  return (_request, wire) => { play(wire, parts) }
}

/** The same, and a FIN behind them. */
function thenClose (...parts: Part[]): Answer {
  return (_request, wire) => { play(wire, parts).then(() => wire.socket.end()) }
}

const backend = await rawBackend(t, (request, wire, backend) => answers[Number(request.startLine.split(/[ /]/)[2])](request, wire, backend))
const gateway = await startGateway(t, {
  backends: [backend.url],
  routes: [
    { prefix: '/raw' },
    { prefix: '/hooked', onSend: (_request: unknown, _reply: unknown, payload: unknown, done: (error: null, payload: unknown) => void) => done(null, payload) }
  ]
})

/** The two ways that an answer goes out by: past Fastify, and through its `onSend` hooks. */
const WAYS = ['raw', 'hooked']

/** Asks by one of the ways on a connection of its own. */
async function ask (t: Test, way: string, { method = 'GET', version = '1.1', fields = '' } = {}): Promise<{ client: Wire, response: Message }> {
  const path = plan(way)
  const client = await connectTo(t, gateway.port)
  client.send(`${method} ${path} HTTP/${version}\r\nHost: gateway\r\n${fields}\r\n`)
  return { client, response: await client.response(0, method) }
}

/** Asks again on a connection that has had an answer, to see that it was left in step. */
async function askAgain (client: Wire, after: number): Promise<Message> {
  answer = () => ok('again')
  client.send(`GET ${plan('raw')} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
  return await client.response(after)
}

const sha = (bytes: string | Buffer) => createHash('sha256').update(typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes).digest('hex')

t.test('the status line', async t => {
  const lines: [string, Part[], string][] = [
    ['an ordinary one', ['HTTP/1.1 200 OK\r\n'], 'HTTP/1.1 200 OK'],
    ['another reason for a known status', ['HTTP/1.1 200 Fine By Me\r\n'], 'HTTP/1.1 200 Fine By Me'],
    ['an empty reason', ['HTTP/1.1 200 \r\n'], 'HTTP/1.1 200 '],
    ['an unknown status', ['HTTP/1.1 299 Something Else\r\n'], 'HTTP/1.1 299 Something Else'],
    ['the highest status there is', ['HTTP/1.1 599 The End\r\n'], 'HTTP/1.1 599 The End'],
    ['punctuation and a tab', ['HTTP/1.1 404 No, "nothing" here!\t(404)\r\n'], 'HTTP/1.1 404 No, "nothing" here!\t(404)'],
    ['bytes above 127', ['HTTP/1.1 200 Tr\xe8s bien \xff\r\n'], 'HTTP/1.1 200 Tr\xe8s bien \xff'],
    ['UTF-8 in the reason', [Buffer.from('HTTP/1.1 200 Schön\r\n')], Buffer.from('HTTP/1.1 200 Schön').toString('latin1')],
    ['a long reason', [`HTTP/1.1 200 ${'long '.repeat(200)}end\r\n`], `HTTP/1.1 200 ${'long '.repeat(200)}end`],
    ['a reason over three packets', ['HTTP/1.1 200 All r', 'igh', 't then\r\n'], 'HTTP/1.1 200 All right then'],
    ['a status over two packets', ['HTTP/1.1 20', '3 Split\r\n'], 'HTTP/1.1 203 Split'],
    ['byte by byte', [...'HTTP/1.1 206 Some Of It\r\n'], 'HTTP/1.1 206 Some Of It'],
    ['a packet that ends behind the reason', ['HTTP/1.1 200 Cut Here', '\r\n'], 'HTTP/1.1 200 Cut Here'],
    ['a packet that ends between CR and LF', ['HTTP/1.1 200 Cut There\r', '\n'], 'HTTP/1.1 200 Cut There'],
    ['HTTP/1.0 becomes the version of this hop', ['HTTP/1.0 200 Old\r\n'], 'HTTP/1.1 200 Old']
  ]
  for (const way of WAYS) {
    for (const [name, parts, expected] of lines) {
      await t.test(`${way}: ${name} arrives exactly`, { timeout: LIMIT }, async t => {
        answer = inPackets(...parts, 'Content-Length: 2\r\n\r\nok')
        const { response } = await ask(t, way)
        t.equal(response.startLine, expected)
        t.equal(response.body, 'ok')
      })
    }
  }

  await t.test('one without its last space has an empty reason', { timeout: LIMIT }, async t => {
    answer = inPackets('HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok')
    const { response } = await ask(t, 'raw')
    t.equal(response.startLine, 'HTTP/1.1 200 ')
  })

  await t.test('every status from 200 to 599 passes as it is', { timeout: LIMIT }, async t => {
    const client = await connectTo(t, gateway.port)
    let from = 0
    const wrong: number[] = []
    for (let status = 200; status <= 599; status++) {
      const bodiless = status === 204 || status === 304
      answer = () => `HTTP/1.1 ${status} Reason ${status}\r\n${bodiless ? '\r\n' : 'Content-Length: 2\r\n\r\nok'}`
      client.send(`GET ${plan('raw')} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
      const response = await client.response(from)
      from += response.length
      if (response.startLine !== `HTTP/1.1 ${status} Reason ${status}` || response.body !== (bodiless ? '' : 'ok')) wrong.push(status)
    }
    t.same(wrong, [])
  })
})

t.test('an answer without content', async t => {
  const cases: { name: string, method?: string, bytes: string, length: string[] }[] = [
    { name: 'HEAD with a Content-Length', method: 'HEAD', bytes: 'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n', length: ['1000'] },
    { name: 'HEAD with Content-Length: 0', method: 'HEAD', bytes: 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n', length: ['0'] },
    { name: 'HEAD with Transfer-Encoding', method: 'HEAD', bytes: 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n', length: [] },
    { name: 'HEAD with no length', method: 'HEAD', bytes: 'HTTP/1.1 200 OK\r\n\r\n', length: [] },
    { name: 'HEAD of an error', method: 'HEAD', bytes: 'HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n', length: ['9'] },
    { name: 'HEAD and 304', method: 'HEAD', bytes: 'HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n', length: ['9'] },
    { name: '204', bytes: 'HTTP/1.1 204 No Content\r\n\r\n', length: [] },
    { name: '204 with a Content-Length of 0, which it must not have', bytes: 'HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n', length: [] },
    { name: '204 with a Content-Length of 5', bytes: 'HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n', length: [] },
    { name: '204 with Transfer-Encoding, which it must not have', bytes: 'HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n', length: [] },
    { name: '204 to DELETE', method: 'DELETE', bytes: 'HTTP/1.1 204 No Content\r\n\r\n', length: [] },
    { name: '304', bytes: 'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n', length: [] },
    { name: '304 with the Content-Length of what it stands for', bytes: 'HTTP/1.1 304 Not Modified\r\nContent-Length: 1234\r\n\r\n', length: ['1234'] },
    { name: '304 with Transfer-Encoding', bytes: 'HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n', length: [] },
    { name: '205', bytes: 'HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n', length: ['0'] },
    { name: '200 with Content-Length: 0', bytes: 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n', length: ['0'] }
  ]
  for (const way of WAYS) {
    for (const { name, method = 'GET', bytes, length } of cases) {
      await t.test(`${way}: ${name} arrives exactly and leaves both connections in step`, { timeout: LIMIT }, async t => {
        answer = () => bytes
        const { client, response } = await ask(t, way, { method })
        t.equal(response.startLine, bytes.slice(0, bytes.indexOf('\r\n')))
        t.same(response.values('content-length'), length)
        t.same(response.values('transfer-encoding'), [])
        t.notMatch(response.head, /content-type/i, 'nothing is made up about content that is not there')
        const again = await askAgain(client, response.length)
        t.equal(again.body, 'again')
        t.equal(client.received.length, response.length + again.length, 'not one byte between or behind the two')
      })
    }
    await t.test(`${way}: 205 in chunks has no content`, { timeout: LIMIT }, async t => {
      answer = () => 'HTTP/1.1 205 Reset Content\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'
      const { client, response } = await ask(t, way)
      t.equal(response.startLine, 'HTTP/1.1 205 Reset Content')
      t.equal(response.body, '')
      t.equal((await askAgain(client, response.length)).body, 'again')
    })
    await t.test(`${way}: empty chunked content is empty, not missing`, { timeout: LIMIT }, async t => {
      answer = () => 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n'
      const { client, response } = await ask(t, way)
      t.equal(response.body, '')
      t.equal((await askAgain(client, response.length)).body, 'again')
    })
  }

  for (const [name, method, status] of [['HEAD', 'HEAD', '200 OK'], ['204', 'GET', '204 No Content'], ['304', 'GET', '304 Not Modified']]) {
    await t.test(`content that a backend sends with ${name} against the rules goes to nobody`, { timeout: LIMIT }, async t => {
      const connections = backend.connections.length
      answer = () => `HTTP/1.1 ${status}\r\n${status.startsWith('204') ? '' : 'Content-Length: 44\r\n'}\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison`
      const { client, response } = await ask(t, 'raw', { method })
      t.equal(response.startLine, `HTTP/1.1 ${status}`)
      const again = await askAgain(client, response.length)
      t.equal(again.body, 'again')
      t.notMatch(client.received, /poison/)
      t.ok(backend.connections.length > connections, 'the connection that carried it is not used again')
    })
  }
})

t.test('ways to end content', async t => {
  for (const way of WAYS) {
    await t.test(`${way}: a Content-Length is kept`, { timeout: LIMIT }, async t => {
      answer = () => ok('hello')
      const { response } = await ask(t, way)
      t.same(response.values('content-length'), ['5'])
      t.same(response.values('transfer-encoding'), [])
      t.equal(response.body, 'hello')
    })

    await t.test(`${way}: chunked stays chunked`, { timeout: LIMIT }, async t => {
      answer = () => 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n'
      const { response } = await ask(t, way)
      t.same(response.values('transfer-encoding'), ['chunked'])
      t.same(response.values('content-length'), [])
      t.equal(response.body, 'hello world')
    })

    await t.test(`${way}: "Chunked" in any case is chunked`, { timeout: LIMIT }, async t => {
      answer = () => 'HTTP/1.1 200 OK\r\ntransfer-encoding: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n'
      t.equal((await ask(t, way)).response.body, 'hello')
    })

    for (const [name, head] of [
      ['HTTP/1.1 that says close', 'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n'],
      ['HTTP/1.1 that says nothing', 'HTTP/1.1 200 OK\r\n\r\n'],
      ['HTTP/1.1 that says keep-alive and gives no length', 'HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n\r\n'],
      ['HTTP/1.0', 'HTTP/1.0 200 OK\r\n\r\n']
    ]) {
      await t.test(`${way}: content ended by the end of the connection (${name}) is whole, and the client's connection is kept`, { timeout: LIMIT }, async t => {
        answer = thenClose(head, 'some content', ' and more')
        const { client, response } = await ask(t, way)
        t.equal(response.body, 'some content and more')
        t.same(response.values('transfer-encoding'), ['chunked'])
        t.notMatch(response.values('connection').join(), /close/)
        t.equal((await askAgain(client, response.length)).body, 'again')
      })
    }

    await t.test(`${way}: no content at all before the end of the connection is empty content`, { timeout: LIMIT }, async t => {
      answer = thenClose('HTTP/1.1 200 OK\r\n\r\n')
      const { client, response } = await ask(t, way)
      t.equal(response.body, '')
      t.equal((await askAgain(client, response.length)).body, 'again')
    })

    await t.test(`${way}: an HTTP/1.0 backend that keeps its connection is used again`, { timeout: LIMIT }, async t => {
      const connections = backend.connections.length
      answer = () => 'HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok'
      const first = await ask(t, way)
      await until(() => gateway.app.proxy.getConnectionPool().stats().active === 0)
      const used = backend.connections.length
      const second = await ask(t, way)
      t.equal(first.response.body, 'ok')
      t.equal(second.response.body, 'ok')
      t.equal(backend.connections.length, used)
      t.ok(used - connections <= 1)
    })

    await t.test(`${way}: an HTTP/1.0 backend with a Content-Length and no word of keeping is not used again`, { timeout: LIMIT }, async t => {
      answer = () => 'HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok'
      const { client, response } = await ask(t, way)
      const used = backend.connections.length
      t.equal(response.body, 'ok')
      t.equal((await askAgain(client, response.length)).body, 'again')
      t.equal(backend.connections.length, used + 1)
    })

    await t.test(`${way}: an HTTP/1.0 client gets no chunks, and the end of its connection instead`, { timeout: LIMIT }, async t => {
      answer = () => 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n'
      const client = await connectTo(t, gateway.port)
      client.send(`GET ${plan(way)} HTTP/1.0\r\n\r\n`)
      await until(() => client.ended)
      const response = parseMessage(client.received, 'GET', true) as Message
      t.same(response.values('transfer-encoding'), [])
      t.equal(response.body, 'hello world')
    })

    await t.test(`${way}: an HTTP/1.0 client with keep-alive keeps its connection where there is a length`, { timeout: LIMIT }, async t => {
      answer = () => ok('hello')
      const { client, response } = await ask(t, way, { version: '1.0', fields: 'Connection: keep-alive\r\n' })
      t.match(response.values('connection').join(), /keep-alive/i)
      t.equal((await askAgain(client, response.length)).body, 'again')
    })
  }
})

t.test('a backend\'s Connection: close closes its own connection and not the client\'s', { timeout: LIMIT }, async t => {
  for (const way of WAYS) {
    answer = () => ok('bye', 'Connection: close\r\n')
    const { client, response } = await ask(t, way)
    const connection = backend.connections.at(-1) as Wire
    t.equal(response.body, 'bye')
    t.notMatch(response.values('connection').join(), /close/i)
    await until(() => connection.closed)
    t.equal((await askAgain(client, response.length)).body, 'again')
    t.not(backend.connections.at(-1), connection)
  }
})

t.test('a client\'s Connection: close closes its own connection and not the backend\'s', { timeout: LIMIT }, async t => {
  for (const way of WAYS) {
    answer = () => ok('kept')
    await ask(t, way)
    await until(() => gateway.app.proxy.getConnectionPool().stats().active === 0)
    const connections = backend.connections.length
    const { client, response } = await ask(t, way, { fields: 'Connection: close\r\n' })
    t.match(response.values('connection').join(), /close/)
    await until(() => client.ended)
    await until(() => gateway.app.proxy.getConnectionPool().stats().active === 0)
    t.equal((await ask(t, way)).response.body, 'kept')
    t.equal(backend.connections.length, connections)
  }
})

t.test('chunks', async t => {
  const chunked = (...chunks: string[]) => `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${chunks.join('')}`
  const bodies: [string, Answer, string][] = [
    ['with extensions', () => chunked('5;name=value\r\nhello\r\n', '6;a;b="c;d\\"e"\r\n world\r\n', '0;last\r\n\r\n'), 'hello world'],
    ['with sizes in any case and leading zeros', () => chunked('00000A\r\n0123456789\r\n', '0b\r\n0123456789a\r\n', '000\r\n\r\n'), '01234567890123456789a'],
    ['that look like other responses', () => chunked('26\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n\r\n', '0\r\n\r\n'), 'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'],
    ['byte by byte', inPackets(...chunked('5\r\nhello\r\n', '6\r\n world\r\n', '0\r\n\r\n')), 'hello world'],
    ['5000 small ones', () => chunked('3\r\nabc\r\n'.repeat(5000), '0\r\n\r\n'), 'abc'.repeat(5000)]
  ]
  for (const way of WAYS) {
    for (const [name, bytes, body] of bodies) {
      await t.test(`${way}: ${name} carry exactly their content`, { timeout: LIMIT }, async t => {
        answer = bytes
        const { client, response } = await ask(t, way)
        t.equal(response.body.length, body.length)
        t.ok(response.body === body)
        t.equal((await askAgain(client, response.length)).body, 'again')
      })
    }
  }
  await t.test('their extensions are for the next hop only', { timeout: LIMIT }, async t => {
    answer = () => chunked('5;secret=1\r\nhello\r\n0;secret=2\r\n\r\n')
    const { client } = await ask(t, 'raw')
    t.notMatch(client.received, /secret/)
  })
})

t.test('content is exact', async t => {
  const every = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte))
  for (const [name, content] of [['every byte there is', every], ['64 KB', randomBytes(65_536)], ['64 KB and a byte', randomBytes(65_537)], ['1 MB', randomBytes(1_048_576)]] as const) {
    for (const way of WAYS) {
      await t.test(`${way}: ${name}, with a Content-Length`, { timeout: LIMIT }, async t => {
        answer = (_request, wire) => {
          wire.send(`HTTP/1.1 200 OK\r\nContent-Length: ${content.length}\r\n\r\n`)
          return content
        }
        const { response } = await ask(t, way)
        t.equal(response.body.length, content.length)
        t.equal(sha(response.body), sha(content))
      })
      await t.test(`${way}: ${name}, in chunks`, { timeout: LIMIT }, async t => {
        answer = (_request, wire) => {
          wire.send('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
          for (let at = 0; at < content.length; at += 10_007) {
            const chunk = content.subarray(at, at + 10_007)
            wire.send(`${chunk.length.toString(16)}\r\n`).send(chunk).send('\r\n')
          }
          return '0\r\n\r\n'
        }
        const { response } = await ask(t, way)
        t.equal(sha(response.body), sha(content))
      })
      await t.test(`${way}: ${name}, ended by the end of the connection`, { timeout: LIMIT }, async t => {
        answer = (_request, wire) => {
          wire.send('HTTP/1.1 200 OK\r\n\r\n').send(content)
          wire.socket.end()
        }
        const { response } = await ask(t, way)
        t.equal(sha(response.body), sha(content))
      })
    }
  }
})

t.test('content streams', async t => {
  for (const way of WAYS) {
    await t.test(`${way}: the first event leaves before the second arrives`, { timeout: LIMIT }, async t => {
      let wire: Wire | undefined
      answer = (_request, connection) => {
        wire = connection
        return 'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n'
      }
      const client = await connectTo(t, gateway.port)
      client.send(`GET ${plan(way)} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
      await until(() => wire !== undefined)
      for (const event of ['data: one\n\n', 'data: two\n\n', 'data: three\n\n']) {
        wire?.send(`${event.length.toString(16)}\r\n${event}\r\n`)
        t.ok((await client.receive(event)).endsWith(`${event}\r\n`), 'it is there while the next one is not')
      }
      wire?.send('0\r\n\r\n')
      t.equal((await client.response()).body, 'data: one\n\ndata: two\n\ndata: three\n\n')
    })

    for (const [framing, field, content, end] of [
      ['a Content-Length', 'Content-Length: 4', 'late', ''],
      ['chunks', 'Transfer-Encoding: chunked', '4\r\nlate\r\n0\r\n\r\n', ''],
      ['the end of the connection', 'X-None: 1', 'late', 'end']
    ]) {
      await t.test(`${way}: the head leaves before content with ${framing} has begun`, { timeout: LIMIT }, async t => {
        let wire: Wire | undefined
        answer = (_request, connection) => {
          wire = connection
          return `HTTP/1.1 200 Sch\xf6n\r\nX-Obs: \xfc\xff\r\n${field}\r\n\r\n`
        }
        const client = await connectTo(t, gateway.port)
        client.send(`GET ${plan(way)} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
        await client.receive('\r\n\r\n')
        t.match(client.received, /^HTTP\/1\.1 200 Sch\xf6n\r\nX-Obs: \xfc\xff\r\n[^]*\r\n\r\n$/)
        wire?.send(content)
        if (end === 'end') wire?.socket.end()
        t.equal((await client.response()).body, 'late')
      })
    }

    await t.test(`${way}: part of a Content-Length leaves before the rest arrives`, { timeout: LIMIT }, async t => {
      let wire: Wire | undefined
      answer = (_request, connection) => {
        wire = connection
        return 'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst'
      }
      const client = await connectTo(t, gateway.port)
      client.send(`GET ${plan(way)} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
      await client.receive('first')
      wire?.send('later')
      t.equal((await client.response()).body, 'firstlater')
    })
  }
})

t.test('a client that takes nothing for a while', async t => {
  const content = randomBytes(8_000_000)
  const framings: [string, string, (content: Buffer) => Buffer][] = [
    ['a Content-Length', `Content-Length: ${content.length}\r\n`, content => content],
    ['a Content-Length and Connection: close', `Content-Length: ${content.length}\r\nConnection: close\r\n`, content => content],
    ['chunks', 'Transfer-Encoding: chunked\r\n', content => Buffer.concat([Buffer.from(`${content.length.toString(16)}\r\n`), content, Buffer.from('\r\n0\r\n\r\n')])],
    ['the end of the connection', '', content => content]
  ]
  for (const way of WAYS) {
    for (const [name, fields, frame] of framings) {
      await t.test(`${way}: still gets all content with ${name}, though its backend has left meanwhile`, { timeout: LIMIT }, async t => {
        let carrier: Wire | undefined
        answer = (_request, wire) => {
          carrier = wire
          wire.send(`HTTP/1.1 200 OK\r\n${fields}\r\n`).send(frame(content))
          wire.socket.end()
        }
        const client = await connectTo(t, gateway.port)
        const chunks: Buffer[] = []
        client.socket.removeAllListeners('data')
        client.socket.on('data', chunk => chunks.push(chunk))
        client.socket.pause()
        client.send(`GET ${plan(way)} HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n`)
        await until(() => carrier !== undefined)
        // Until the gateway is held up by its client, and the backend by the gateway.
        await standstill(() => (carrier as Wire).socket.bytesWritten - (carrier as Wire).socket.writableLength)
        client.socket.resume()
        await until(() => client.ended)
        const all = Buffer.concat(chunks)
        t.equal(all.subarray(0, 15).toString(), 'HTTP/1.1 200 OK')
        const response = parseMessage(all.toString('latin1'), 'GET', true)
        t.equal(sha(response?.body ?? ''), sha(content))
      })
    }
    await t.test(`${way}: sees the cut of an answer whose backend has reset meanwhile`, { timeout: LIMIT }, async t => {
      let carrier: Wire | undefined
      answer = (_request, wire) => {
        carrier = wire
        wire.send('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
        wire.send(`${content.length.toString(16)}\r\n`).send(content)
      }
      const client = await connectTo(t, gateway.port)
      client.socket.pause()
      client.send(`GET ${plan(way)} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
      await until(() => carrier !== undefined)
      await standstill(() => (carrier as Wire).socket.bytesWritten - (carrier as Wire).socket.writableLength)
      carrier?.reset()
      client.socket.resume()
      await until(() => client.ended || client.closed)
      t.notMatch(client.received.slice(-10), /\r\n0\r\n\r\n$/)
      answer = () => ok('next')
      t.equal((await ask(t, way)).response.body, 'next')
    })
  }
})

/** Waits until a number has stayed the same for many turns of the event loop. */
async function standstill (now: () => number): Promise<void> {
  let before = -1
  let turns = 0
  await until(() => {
    turns = now() === before ? turns + 1 : 0
    before = now()
    return turns > 500
  })
}

t.test('bytes behind a response never become another client\'s answer', async t => {
  const poison = 'HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison'
  const extras: [string, string][] = [
    ['a whole response', poison],
    ['an interim response and a final one', `HTTP/1.1 103 Early Hints\r\nLink: </poison>\r\n\r\n${poison}`],
    ['100 Continue and a final response', `HTTP/1.1 100 Continue\r\n\r\n${poison}`],
    ['half a response', 'HTTP/1.1 200 OK\r\nX-Poison: poison'],
    ['words that are no HTTP', 'poison'],
    ['an empty line and a response', `\r\n${poison}`]
  ]
  for (const [name, extra] of extras) {
    await t.test(`${name} in the packet of the response`, { timeout: LIMIT }, async t => {
      answer = () => ok('mine') + extra
      const first = await ask(t, 'raw')
      t.equal(first.response.body, 'mine')
      answer = () => ok('yours')
      const second = await ask(t, 'raw')
      t.equal(second.response.body, 'yours')
      t.notMatch(first.client.received + second.client.received, /poison/)
    })

    await t.test(`${name} while the connection is idle`, { timeout: LIMIT }, async t => {
      answer = () => ok('mine')
      const first = await ask(t, 'raw')
      await until(() => gateway.app.proxy.getConnectionPool().stats().active === 0)
      const used = backend.connections.at(-1) as Wire
      used.send(extra)
      // A response or its beginning cannot belong to anybody: the connection goes.
      await until(() => used.closed)
      answer = () => ok('yours')
      const second = await ask(t, 'raw')
      t.equal(second.response.body, 'yours')
      t.notMatch(first.client.received + second.client.received, /poison/)
    })
  }

  await t.test('a response that is longer than its Content-Length ends where that says', { timeout: LIMIT }, async t => {
    answer = () => 'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine and poison'
    const first = await ask(t, 'raw')
    t.equal(first.response.body, 'mine')
    answer = () => ok('yours')
    t.equal((await ask(t, 'raw')).response.body, 'yours')
    t.notMatch(first.client.received, /poison/)
  })
})

t.test('what cannot be passed on is 502', async t => {
  const heads: [string, string][] = [
    ['status 99', 'HTTP/1.1 99 Low\r\nContent-Length: 2\r\n\r\nok'],
    ['status 099', 'HTTP/1.1 099 Low\r\nContent-Length: 2\r\n\r\nok'],
    ['status 000', 'HTTP/1.1 000 None\r\nContent-Length: 2\r\n\r\nok'],
    ['status 600', 'HTTP/1.1 600 High\r\nContent-Length: 2\r\n\r\nok'],
    ['status 999', 'HTTP/1.1 999 High\r\nContent-Length: 2\r\n\r\nok'],
    ['status 1000', 'HTTP/1.1 1000 Long\r\nContent-Length: 2\r\n\r\nok'],
    ['status 2000', 'HTTP/1.1 2000 Long\r\nContent-Length: 2\r\n\r\nok'],
    ['status abc', 'HTTP/1.1 abc Letters\r\nContent-Length: 2\r\n\r\nok'],
    ['status 20x', 'HTTP/1.1 20x Letters\r\nContent-Length: 2\r\n\r\nok'],
    ['status 10x', 'HTTP/1.1 10x Letters\r\nContent-Length: 2\r\n\r\nok'],
    ['status 100x', 'HTTP/1.1 100x Letters\r\nContent-Length: 2\r\n\r\nok'],
    ['status -200', 'HTTP/1.1 -200 Minus\r\nContent-Length: 2\r\n\r\nok'],
    ['no status', 'HTTP/1.1\r\nContent-Length: 2\r\n\r\nok'],
    ['HTTP/3.7', 'HTTP/3.7 200 OK\r\nContent-Length: 2\r\n\r\nok'],
    ['another protocol', 'SSH-2.0-OpenSSH_9.6 and a little more\r\n'],
    ['a request', 'GET / HTTP/1.1\r\nHost: backend\r\n\r\n'],
    ['101 that nobody asked for', 'HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n'],
    ['101 without an Upgrade', 'HTTP/1.1 101 Switching Protocols\r\n\r\n'],
    ['two lengths', 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!'],
    ['two lengths in one field', 'HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok!'],
    ['a length and chunks', 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n'],
    ['chunks and a length', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n'],
    ['a negative length', 'HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok'],
    ['a length with a sign', 'HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok'],
    ['a length in hexadecimal', 'HTTP/1.1 200 OK\r\nContent-Length: 0x2\r\n\r\nok'],
    ['a length of words', 'HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok'],
    ['a length with a fraction', 'HTTP/1.1 200 OK\r\nContent-Length: 2.0\r\n\r\nok'],
    ['a length with a space in it', 'HTTP/1.1 200 OK\r\nContent-Length: 1 2\r\n\r\nokokokokokok'],
    ['a length beyond all numbers', `HTTP/1.1 200 OK\r\nContent-Length: ${'9'.repeat(30)}\r\n\r\nok`],
    ['a transfer coding that we did not ask for', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok'],
    ['such a one inside chunks', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n'],
    ['such a one inside chunks, in two fields', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n'],
    ['such a one around chunks', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n2\r\nok\r\n0\r\n\r\n'],
    ['chunked twice', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n'],
    ['identity', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok'],
    ['something like chunked', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n2\r\nok\r\n0\r\n\r\n'],
    ['chunked with a parameter', 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked;a=b\r\n\r\n2\r\nok\r\n0\r\n\r\n'],
    ['NUL in a value', 'HTTP/1.1 200 OK\r\nX-Bad: a\0b\r\nContent-Length: 2\r\n\r\nok'],
    ['a space in a name', 'HTTP/1.1 200 OK\r\nX Bad: a\r\nContent-Length: 2\r\n\r\nok'],
    ['a byte above 127 in a name', 'HTTP/1.1 200 OK\r\nX-B\xe4d: a\r\nContent-Length: 2\r\n\r\nok'],
    ['an empty name', 'HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 2\r\n\r\nok'],
    ['a line without a colon', 'HTTP/1.1 200 OK\r\nnonsense\r\nContent-Length: 2\r\n\r\nok']
  ]
  for (const way of WAYS) {
    for (const [name, bytes] of heads) {
      await t.test(`${way}: ${name}`, { timeout: LIMIT }, async t => {
        const carriers: Wire[] = []
        answer = (_request, wire) => {
          carriers.push(wire)
          return bytes
        }
        const { client, response } = await ask(t, way)
        t.equal(response.startLine, 'HTTP/1.1 502 Bad Gateway')
        const told = JSON.parse(response.body)
        t.equal(told.statusCode, 502)
        t.equal(told.code, 'FST_ROCKSTAR_BAD_RESPONSE')
        t.notMatch(response.head + response.body, /127\.0\.0\.1|localhost/)
        t.notOk((response.head + response.body).includes(String(backend.port)), 'no port of the backend')
        t.equal(carriers.length, 1, 'it is not tried again')
        await until(() => carriers[0].closed)
        t.equal((await askAgain(client, response.length)).body, 'again', 'the client\'s connection is kept')
      })
    }
  }

  await t.test('the log says what the client is not told', { timeout: LIMIT }, async t => {
    gateway.log.length = 0
    answer = () => 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!'
    await ask(t, 'raw')
    const line = gateway.log.find(({ msg }) => msg === 'attempt failed')
    t.match(line, { level: 40, backend: `127.0.0.1:${backend.port}`, culprit: 'backend' })
  })
})

t.test('oddities of a header section are 502 or put right, and never passed on', async t => {
  const odd: [string, string, RegExp][] = [
    ['a folded field', 'X-Fold: a\r\n b', /\r\nX-Fold: a +b\r\n/],
    ['a space before the colon', 'X-Space : a', /\r\nX-Space: a\r\n/],
    ['a bare CR', 'X-Cr: a\rb', /\r\nX-Cr: a b\r\n/],
    ['a bare LF at the end of a field', 'X-Lf: a\nX-More: b', /\r\nX-Lf: a\r\nX-More: b\r\n/],
    ['control characters', 'X-Control: a\x01b', /\r\nX-Control: a b\r\n/],
    ['DEL', 'X-Del: a\x7fb', /\r\nX-Del: a b\r\n/]
  ]
  for (const way of WAYS) {
    for (const [name, field, right] of odd) {
      await t.test(`${way}: ${name}`, { timeout: LIMIT }, async t => {
        answer = () => `HTTP/1.1 200 OK\r\n${field}\r\nContent-Length: 2\r\n\r\nok`
        const { client, response } = await ask(t, way)
        if (response.status === 200) t.match(`${response.head}\r\n`, right)
        else t.equal(response.status, 502)
        t.equal((await askAgain(client, response.length)).body, 'again')
      })
    }
    await t.test(`${way}: bare LFs throughout`, { timeout: LIMIT }, async t => {
      answer = () => 'HTTP/1.1 200 OK\nContent-Length: 2\nX-Lf: a\n\nok'
      const { response } = await ask(t, way)
      if (response.status === 200) t.match(response.head, /\r\nX-Lf: a\r\n/)
      else t.equal(response.status, 502)
    })
    await t.test(`${way}: a version that is not of this syntax`, { timeout: LIMIT }, async t => {
      answer = () => 'HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok'
      const { response } = await ask(t, way)
      t.match(response.startLine, /^HTTP\/1\.1 (?:200 OK|502 Bad Gateway)$/)
    })
    await t.test(`${way}: the same length twice`, { timeout: LIMIT }, async t => {
      answer = () => 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok'
      const { response } = await ask(t, way)
      if (response.status === 200) t.same(response.values('content-length'), ['2'])
      else t.equal(response.status, 502)
    })
    await t.test(`${way}: HTTP/1.0 with a Transfer-Encoding, whose framing is faulty by definition, loses its connection`, { timeout: LIMIT }, async t => {
      let used: Wire | undefined
      answer = (_request, wire) => {
        used = wire
        return 'HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n'
      }
      const { response } = await ask(t, way)
      if (response.status === 200) t.equal(response.body, 'ok')
      else t.equal(response.status, 502)
      await until(() => used?.closed === true || gateway.app.proxy.getConnectionPool().stats().active === 0)
      let next: Wire | undefined
      answer = (_request, wire) => {
        next = wire
        return ok('next')
      }
      await ask(t, way)
      t.not(next, used)
    })
  }
})

t.test('a header section larger than pool.maxHeaderSize is 502, one just below passes', { timeout: LIMIT }, async t => {
  const small = await startGateway(t, {
    backends: [backend.url],
    pool: { maxHeaderSize: 2_048 },
    routes: [{ prefix: '/raw' }]
  })
  for (const [size, status] of [[1_500, 200], [3_000, 502], [100_000, 502]]) {
    answer = () => ok('ok', `X-Big: ${'b'.repeat(size)}\r\n`)
    const client = await small.connect()
    client.send(`GET ${plan('raw')} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
    const response = await client.response()
    t.equal(response.status, status, `${size} bytes`)
    if (status === 502) t.equal(JSON.parse(response.body).code, 'FST_ROCKSTAR_BAD_RESPONSE')
  }
  const lines = Array.from({ length: 300 }, (_, i) => `X-${i}: ${i}\r\n`).join('')
  answer = () => ok('ok', lines)
  const client = await small.connect()
  client.send(`GET ${plan('raw')} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
  t.equal((await client.response()).status, 502, 'many small fields are large together')
})

t.test('a header section of 16 KB at the most passes by default, and no larger one', { timeout: LIMIT }, async t => {
  for (const [size, status] of [[15_000, 200], [17_000, 502]]) {
    answer = () => ok('ok', `X-Big: ${'b'.repeat(size)}\r\n`)
    const { response } = await ask(t, 'raw')
    t.equal(response.status, status)
    if (status === 200) t.equal(response.values('x-big')[0].length, size)
  }
})

t.test('three hundred responses on one connection stay in step', { timeout: LIMIT }, async t => {
  const client = await connectTo(t, gateway.port)
  let from = 0
  let wrong = 0
  for (let i = 0; i < 300; i++) {
    answer = () => i % 3 === 0 ? `HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n${String(i).padStart(4)}\r\n0\r\n\r\n` : ok(String(i).padStart(4))
    client.send(`GET ${plan(WAYS[i % 2])} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
    const response = await client.response(from)
    from += response.length
    if (response.body !== String(i).padStart(4)) wrong++
  }
  t.equal(wrong, 0)
  t.equal(client.received.length, from)
})

t.test('pipelined requests are answered in their order', { timeout: LIMIT }, async t => {
  let hold: (() => void) | undefined
  const client = await connectTo(t, gateway.port)
  answer = (_request, wire) => { hold = () => wire.send(ok('first')) }
  const first = plan('raw')
  let asked = false
  answer = () => {
    asked = true
    return ok('second')
  }
  client.send(`GET ${first} HTTP/1.1\r\nHost: gateway\r\n\r\nGET ${plan('raw')} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
  // The second has been answered before the first.
  await until(() => hold !== undefined && asked)
  hold?.()
  const response = await client.response()
  t.equal(response.body, 'first')
  t.equal((await client.response(response.length)).body, 'second')
})
