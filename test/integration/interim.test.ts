import t, { type Test } from 'tap'
import { startGateway } from '../helpers/app.ts'
import { connectTo, ok, rawBackend, until, type Message, type Wire } from '../helpers/wire.ts'

/** A test that hangs fails by itself, and lets the others run. */
const LIMIT = 15_000

/** What the backend answers with, by the number in the request's path; each part is a packet of its own. */
const answers: string[][] = []
const backend = await rawBackend(t, (request, wire) => { play(wire, answers[Number(request.startLine.split(/[ /]/)[2])]) })

async function play (wire: Wire, packets: string[]): Promise<void> {
  for (const packet of packets) {
    wire.send(packet)
    await new Promise(resolve => setImmediate(resolve))
  }
}

const gateway = await startGateway(t, {
  backends: [backend.url],
  routes: [
    { prefix: '/raw' },
    { prefix: '/hooked', onSend: (_request: unknown, _reply: unknown, payload: unknown, done: (error: null, payload: unknown) => void) => done(null, payload) }
  ]
}, {
  setup: app => {
    app.get('/handler/:answer', (request, reply) => { request.server.proxy.forward(request, reply, { path: `/${(request.params as { answer: string }).answer}` }) })
    app.get('/captured/:answer', async request => {
      const answer = await request.server.proxy.forward(request, undefined, { path: `/${(request.params as { answer: string }).answer}` })
      return await answer.text()
    })
  }
})

/** The ways that an answer goes out by. */
const WAYS = ['raw', 'hooked', 'handler']

/** Asks for an answer in these packets; resolves to all that came up to the end of the final response. */
async function ask (t: Test, way: string, packets: string[], { version = '1.1', method = 'GET', fields = '', body = '' } = {}): Promise<{ all: Message[], client: Wire }> {
  const client = await connectTo(t, gateway.port)
  client.send(`${method} /${way}/${answers.push(packets) - 1} HTTP/${version}\r\nHost: gateway\r\n${fields}\r\n${body}`)
  const all: Message[] = []
  let from = 0
  do {
    const message = await client.response(from, method)
    all.push(message)
    from += message.length
  } while ((all.at(-1) as Message).status < 200)
  return { all, client }
}

const HINTS = 'HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload; as=style\r\nLink: </b.js>; rel=preload; as=script\r\n\r\n'

const sequences: { name: string, packets: string[], statuses: number[] }[] = [
  { name: '100 that nobody asked for', packets: ['HTTP/1.1 100 Continue\r\n\r\n', ok('final')], statuses: [100, 200] },
  { name: '102', packets: ['HTTP/1.1 102 Processing\r\n\r\n', ok('final')], statuses: [102, 200] },
  { name: '103 with Link', packets: [HINTS, ok('final')], statuses: [103, 200] },
  { name: 'one without a name', packets: ['HTTP/1.1 199 Miscellaneous\r\nX-A: b\r\n\r\n', ok('final')], statuses: [199, 200] },
  { name: 'several in a row', packets: ['HTTP/1.1 102 Processing\r\n\r\n', HINTS, 'HTTP/1.1 102 Processing\r\n\r\n', HINTS, ok('final')], statuses: [102, 103, 102, 103, 200] },
  { name: 'several 100s in a row', packets: ['HTTP/1.1 100 Continue\r\n\r\n', 'HTTP/1.1 100 Continue\r\n\r\n', ok('final')], statuses: [100, 100, 200] },
  { name: '103, then 100', packets: [HINTS, 'HTTP/1.1 100 Continue\r\n\r\n', ok('final')], statuses: [103, 100, 200] },
  { name: '100, then 103', packets: ['HTTP/1.1 100 Continue\r\n\r\n', HINTS, ok('final')], statuses: [100, 103, 200] },
  { name: '100 and the final response in one packet', packets: [`HTTP/1.1 100 Continue\r\n\r\n${ok('final')}`], statuses: [100, 200] },
  { name: '103, 100, 103 and the final response in one packet', packets: [`${HINTS}HTTP/1.1 100 Continue\r\n\r\n${HINTS}${ok('final')}`], statuses: [103, 100, 103, 200] },
  { name: '100 without a reason', packets: ['HTTP/1.1 100 \r\n\r\n', ok('final')], statuses: [100, 200] },
  { name: '100 with fields', packets: ['HTTP/1.1 100 Continue\r\nX-A: b\r\nX-C: d\r\n\r\n', ok('final')], statuses: [100, 200] },
  { name: '100 of HTTP/1.0', packets: ['HTTP/1.0 100 Continue\r\n\r\n', ok('final')], statuses: [100, 200] },
  { name: '100 byte by byte', packets: [...`HTTP/1.1 100 Continue\r\n\r\n${ok('final')}`], statuses: [100, 200] },
  { name: '103 and 100 byte by byte', packets: [...`${HINTS}HTTP/1.1 100 Continue\r\n\r\n${ok('final')}`], statuses: [103, 100, 200] },
  { name: 'packets that end in the middle of heads', packets: ['HTTP/1.1 1', '00 Con', 'tinue\r\n\r', '\nHTTP/1.1 103 E', 'arly Hints\r\nLi', `nk: </a>\r\n\r\n${ok('final').slice(0, 5)}`, ok('final').slice(5)], statuses: [100, 103, 200] },
  { name: '100 and half of the final head', packets: [`HTTP/1.1 100 Continue\r\n\r\n${ok('final').slice(0, 14)}`, ok('final').slice(14)], statuses: [100, 200] },
  { name: 'fifty of them', packets: [HINTS.repeat(50) + ok('final')], statuses: [...Array<number>(50).fill(103), 200] }
]

for (const way of WAYS) {
  t.test(`${way}: interim responses`, async t => {
    for (const { name, packets, statuses } of sequences) {
      await t.test(`${name}: each is passed on, in order, before the final one`, { timeout: LIMIT }, async t => {
        const { all, client } = await ask(t, way, packets)
        t.same(all.map(({ status }) => status), statuses)
        t.equal(all.at(-1)?.body, 'final')
        t.equal(client.received.length, all.reduce((sum, { length }) => sum + length, 0), 'and nothing else is sent')
      })
    }
  })

  t.test(`${way}: an interim response has its end-to-end fields, and no others`, { timeout: LIMIT }, async t => {
    const { all: [interim, final] } = await ask(t, way, [
      'HTTP/1.1 103 Early Hints\r\nLINK: </a.css>; rel=preload\r\nlink: </b\xe4.js>\r\nX-Hint: 1\r\nConnection: X-Secret\r\nX-Secret: s\r\nKeep-Alive: timeout=1\r\nProxy-Hint: p\r\nUpgrade: h2c\r\n\r\n',
      ok('final', 'Link: </c>\r\n')
    ])
    t.equal(interim.startLine, 'HTTP/1.1 103 Early Hints')
    t.same(interim.fields, [['LINK', '</a.css>; rel=preload'], ['link', '</b\xe4.js>'], ['X-Hint', '1']])
    t.same(final.values('link'), ['</c>'], 'those of the final head are its own')
  })

  t.test(`${way}: an HTTP/1.0 client gets the final response only`, { timeout: LIMIT }, async t => {
    for (const packets of [['HTTP/1.1 100 Continue\r\n\r\n', ok('final')], [HINTS, ok('final')], ['HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n', ok('final')]]) {
      const { all, client } = await ask(t, way, packets, { version: '1.0' })
      t.same(all.map(({ status }) => status), [200])
      t.equal(all[0].body, 'final')
      t.equal(client.received.indexOf('HTTP/'), client.received.lastIndexOf('HTTP/'))
    }
  })

  t.test(`${way}: an interim response leaves before the final one has come`, { timeout: LIMIT }, async t => {
    for (const interim of [HINTS, 'HTTP/1.1 100 Continue\r\n\r\n', 'HTTP/1.1 102 Processing\r\n\r\n']) {
      const client = await connectTo(t, gateway.port)
      client.send(`GET /${way}/${answers.push([interim]) - 1} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
      await client.receive('\r\n\r\n')
      t.match(client.received, /^HTTP\/1\.1 10[023] /)
      const wire = backend.connections.at(-1) as Wire
      wire.send(ok('final'))
      t.match(await client.receive('final'), /HTTP\/1\.1 200 OK/)
    }
  })

  t.test(`${way}: failing after an interim response is still answered`, { timeout: LIMIT }, async t => {
    for (const [rest, code] of [['HTTP/1.1 abc\r\n\r\n', 'FST_ROCKSTAR_BAD_RESPONSE'], ['HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n', 'FST_ROCKSTAR_BAD_RESPONSE']]) {
      const { all } = await ask(t, way, [HINTS, rest])
      t.same(all.map(({ status }) => status), [103, 502])
      t.equal(JSON.parse((all.at(-1) as Message).body).code, code)
    }
    const client = await connectTo(t, gateway.port)
    client.send(`GET /${way}/${answers.push([HINTS]) - 1} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
    await client.receive('\r\n\r\n')
    const length = client.received.length
    const wire = backend.connections.findLast(({ closed }) => !closed) as Wire
    wire.socket.end()
    const response = await client.response(length)
    t.equal(response.status, 502)
    t.equal(JSON.parse(response.body).code, 'FST_ROCKSTAR_RESET')
  })

  t.test(`${way}: the connections are in step afterwards`, { timeout: LIMIT }, async t => {
    const { all, client } = await ask(t, way, [`HTTP/1.1 100 Continue\r\n\r\n${HINTS}${ok('final')}`])
    const length = all.reduce((sum, { length }) => sum + length, 0)
    await until(() => gateway.app.proxy.getConnectionPool().stats().active === 0)
    const connections = backend.connections.length
    client.send(`GET /${way}/${answers.push([ok('HTTP/1.1 100 Continue\r\n\r\n')]) - 1} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
    const next = await client.response(length)
    t.equal(next.status, 200)
    t.equal(next.body, 'HTTP/1.1 100 Continue\r\n\r\n', 'content that looks like an interim response is content')
    t.equal(backend.connections.length, connections)
  })
}

t.test('content that looks like interim responses stays content, however it is cut into packets', { timeout: LIMIT }, async t => {
  const content = 'HTTP/1.1 100 Continue\r\n\r\n'.repeat(3)
  const head = `HTTP/1.1 200 OK\r\nContent-Length: ${content.length}\r\n\r\n`
  for (const packets of [[head, content], [head + content.slice(0, 25), content.slice(25, 50), content.slice(50)], [head, ...content]]) {
    const { all } = await ask(t, 'raw', packets)
    t.equal(all[0].body, content)
  }
  const chunk = `4b\r\n${content}\r\n`
  const { all } = await ask(t, 'raw', ['HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n', chunk, ...chunk, '0\r\n\r\n'])
  t.equal(all[0].body, content + content)
})

t.test('a request that expects 100-continue gets exactly one of ours, and those of the backend behind it', { timeout: LIMIT }, async t => {
  const client = await connectTo(t, gateway.port)
  client.send(`POST /raw/${answers.push(['HTTP/1.1 100 Continue\r\n\r\n', ok('final')]) - 1} HTTP/1.1\r\nHost: gateway\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n`)
  await client.receive('100 Continue\r\n\r\n')
  client.send('hi')
  await client.receive('final')
  t.match(client.received, /^(?:HTTP\/1\.1 100 Continue\r\n\r\n){1,2}HTTP\/1\.1 200 OK\r\n/)
  t.equal(backend.requests.at(-1)?.body, 'hi')
})

t.test('interim responses to HEAD and to requests with a body are passed on as well', { timeout: LIMIT }, async t => {
  const head = await ask(t, 'raw', [HINTS, 'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n'], { method: 'HEAD' })
  t.same(head.all.map(({ status }) => status), [103, 200])
  const put = await ask(t, 'raw', [`HTTP/1.1 100 Continue\r\n\r\n${HINTS}`, ok('final')], { method: 'PUT', fields: 'Content-Length: 4\r\n', body: 'body' })
  t.same(put.all.map(({ status }) => status), [100, 103, 200])
})

t.test('forward(request) resolves to the final response', { timeout: LIMIT }, async t => {
  const { all } = await ask(t, 'captured', [`HTTP/1.1 100 Continue\r\n\r\n${HINTS}`, ok('final')])
  t.equal(all.at(-1)?.body, 'final')
})

t.test('an interim head that never ends is refused once it is too long', { timeout: LIMIT }, async t => {
  const { all } = await ask(t, 'raw', ['HTTP/1.1 103 Early Hints\r\n', `X-Long: ${'x'.repeat(20_000)}`])
  t.equal(all.at(-1)?.status, 502)
  const hundred = await ask(t, 'raw', ['HTTP/1.1 100 Continue\r\n', `X-Long: ${'x'.repeat(20_000)}`])
  t.equal(hundred.all.at(-1)?.status, 502)
})
