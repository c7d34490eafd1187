import fc from 'fast-check'
import { once } from 'node:events'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import type { BackendMetrics } from '../../types/index.ts'
import { startGateway, type Gateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, parseMessage, rawBackend, until, type Message, type Wire } from '../helpers/wire.ts'

/** How a backend's answer ends before its time. */
interface Ending {
  how: 'whole' | 'reset' | 'fin' | 'stall' | 'poison'
  /** After which share of the answer's bytes. */
  at: number
}

/** What a backend does with one request. */
interface Script {
  /** Answers when the head has come, not when the whole request has. */
  early: boolean
  interims: number[]
  framing: 'length' | 'chunks' | 'close' | 'nothing' | 'garbage'
  size: number
  status: number
  keepAlive: boolean
  pieces: number
  ending: Ending
}

interface Sent {
  method: string
  body: number
  framing: 'length' | 'chunks'
  script: Script
}

interface Behaviour {
  way: 'route' | 'hooks' | 'handler' | 'capture'
  /** Goes when so many bytes of a share of its requests have been sent, or of an answer have come. */
  leave: { when: 'sending' | 'receiving', at: number, reset: boolean } | null
  slow: boolean
  pipelined: boolean
  requests: Sent[]
}

/** Bytes that have come anywhere: whether anything still moves. */
interface Moved {
  bytes: number
}

/** What all storms together have seen: a storm in which nothing happens proves nothing. */
const seen = { requests: 0, successful: 0, failed: 0, aborted: 0, retries: 0, cut: 0 }

const share = fc.integer({ min: 0, max: 100 }).map(percent => percent / 100)
const leaving = fc.record({ when: fc.constantFrom<'sending' | 'receiving'>('sending', 'receiving'), at: share, reset: fc.boolean() })

/** One of several, each as often as its number says. */
function often<T> (...weighted: [weight: number, value: T][]): fc.Arbitrary<T> {
  return fc.oneof(...weighted.map(([weight, value]) => ({ weight, arbitrary: fc.constant(value) })))
}

const script: fc.Arbitrary<Script> = fc.record({
  early: often([3, false], [1, true]),
  interims: fc.array(fc.constantFrom(100, 102, 103), { maxLength: 2 }),
  framing: often<Script['framing']>([5, 'length'], [4, 'chunks'], [2, 'close'], [1, 'nothing'], [1, 'garbage']),
  size: fc.constantFrom(0, 1, 1_000, 100_000),
  status: often([5, 200], [1, 404], [1, 500], [1, 204], [1, 304]),
  keepAlive: often([5, true], [1, false]),
  pieces: fc.integer({ min: 1, max: 4 }),
  ending: fc.record({ how: often<Ending['how']>([10, 'whole'], [2, 'reset'], [2, 'fin'], [1, 'stall'], [1, 'poison']), at: fc.oneof(fc.constant(0), share) })
})
const sent: fc.Arbitrary<Sent> = fc.record({
  method: often([4, 'GET'], [2, 'POST'], [2, 'PUT'], [1, 'DELETE'], [1, 'HEAD']),
  body: often([3, 0], [1, 10], [1, 3_000], [1, 90_000]),
  framing: fc.constantFrom<Sent['framing']>('length', 'chunks'),
  script
})
const behaviour: fc.Arbitrary<Behaviour> = fc.record({
  way: fc.constantFrom<Behaviour['way']>('route', 'hooks', 'handler', 'capture'),
  leave: fc.oneof({ weight: 3, arbitrary: fc.constant(null) }, { weight: 1, arbitrary: leaving }),
  slow: fc.boolean(),
  pipelined: often([3, false], [1, true]),
  requests: fc.array(sent, { minLength: 1, maxLength: 4 })
})

/** Content by which an answer is known to be that of its request. */
function content (id: string, size: number): string {
  return `${id}:${'x'.repeat(size)}`
}

function hasNoContent (status: number): boolean {
  return status === 204 || status === 304
}

/** The bytes of an answer, without its interim responses. */
function answerOf (id: string, head: boolean, { framing, size, status, keepAlive }: Script): string {
  if (framing === 'nothing') return ''
  if (framing === 'garbage') return `${'garbage'.repeat(1 + size % 5)}\r\n\r\n`
  const body = content(id, size)
  const fields = `HTTP/1.1 ${status} Status\r\nX-Id: ${id}\r\n${keepAlive ? '' : 'Connection: close\r\n'}`
  if (head || hasNoContent(status)) return `${fields}\r\n`
  if (framing === 'length') return `${fields}Content-Length: ${body.length}\r\n\r\n${body}`
  if (framing === 'close') return `${fields}\r\n${body}`
  const half = body.length >> 1
  return `${fields}Transfer-Encoding: chunked\r\n\r\n${[body.slice(0, half), body.slice(half)].filter(Boolean).map(chunk => `${chunk.length.toString(16)}\r\n${chunk}\r\n`).join('')}0\r\n\r\n`
}

async function play (socket: Socket, id: string, head: boolean, script: Script): Promise<void> {
  for (const status of script.interims) socket.write(`HTTP/1.1 ${status} Interim\r\nX-Id: ${id}\r\n\r\n`)
  const whole = answerOf(id, head, script)
  const { how, at } = script.ending
  // In the same packet as the end: what comes later than that may be the answer to the next request for all that anybody can tell.
  const poison = how === 'poison' && (script.framing === 'length' || script.framing === 'chunks') ? 'HTTP/1.1 200 OK\r\nX-Id: poison\r\nContent-Length: 6\r\n\r\npoison' : ''
  const bytes = how === 'whole' || how === 'poison' ? whole : whole.slice(0, Math.floor(whole.length * at))
  for (let piece = 0; piece < script.pieces; piece++) {
    const size = Math.ceil(bytes.length / script.pieces)
    if (socket.destroyed) return
    socket.write(bytes.slice(piece * size, (piece + 1) * size) + (piece === script.pieces - 1 ? poison : ''), 'latin1')
    await new Promise(resolve => setImmediate(resolve))
  }
  if (how === 'reset') socket.resetAndDestroy()
  else if (how !== 'stall' && (how === 'fin' || script.framing === 'close' || !script.keepAlive)) socket.end()
}

/** A backend that does with each request what its script says. */
async function scriptedBackend (t: Test, scripts: Map<string, Script>, moved: Moved): Promise<{ url: string, close: () => void }> {
  const sockets = new Set<Socket>()
  const server = createServer({ noDelay: true, allowHalfOpen: true }, socket => {
    sockets.add(socket)
    let received = ''
    let answered = false
    socket.on('error', () => {}).on('end', () => socket.end()).on('close', () => sockets.delete(socket)).on('data', chunk => {
      moved.bytes += chunk.length
      received += chunk.toString('latin1')
      const headEnd = received.indexOf('\r\n\r\n')
      if (headEnd === -1) return
      const [, method, id] = /^(\S+) \/(\S*)/.exec(received) as RegExpExecArray
      const script = scripts.get(id) as Script
      const request = parseMessage(received)
      if (!answered && (script.early || request !== null)) {
        answered = true
        play(socket, id, method === 'HEAD', script)
      }
      if (request !== null) {
        received = received.slice(request.length)
        answered = false
      }
    })
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const close = (): void => {
    server.close()
    for (const socket of sockets) socket.destroy()
  }
  t.teardown(close)
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, close }
}

function requestBytes (way: string, id: string, { method, body, framing }: Sent): string {
  const head = `${method} /${way}/${id} HTTP/1.1\r\nHost: g\r\nContent-Type: application/x\r\n`
  if (body === 0) return `${head}\r\n`
  const bytes = 'b'.repeat(body)
  return framing === 'length' ? `${head}Content-Length: ${body}\r\n\r\n${bytes}` : `${head}Transfer-Encoding: chunked\r\n\r\n${body.toString(16)}\r\n${bytes}\r\n0\r\n\r\n`
}

/** Takes the next final response off what a client has received; null while there is none. */
function nextFinal (wire: Wire, from: number, method: string): { message: Message, end: number } | null {
  let at = from
  while (true) {
    const message = parseMessage(wire.received.slice(at), method)
    if (message === null) return null
    at += message.length
    if (message.status >= 200) return { message, end: at }
  }
}

function isGone (wire: Wire): boolean {
  return wire.ended || wire.closed
}

/** Sends in pieces of the client's choice, and stops where it leaves; false then. */
async function sendSlowly (wire: Wire, bytes: string, { leave, slow }: Behaviour): Promise<boolean> {
  const stop = leave?.when === 'sending' ? Math.floor(bytes.length * leave.at) : bytes.length
  const pieces = slow ? 5 : 1
  const size = Math.max(1, Math.ceil(stop / pieces))
  for (let at = 0; at < stop; at += size) {
    if (wire.closed) return false
    wire.send(bytes.slice(at, Math.min(at + size, stop)))
    if (slow) await new Promise(resolve => setImmediate(resolve))
  }
  return stop === bytes.length && leave?.when !== 'sending'
}

/** Plays a client to its end; returns what it found wrong. */
async function client (gateway: Gateway, name: string, behaviour: Behaviour, moved: Moved): Promise<string[]> {
  const { way, leave, pipelined, requests } = behaviour
  const faults: string[] = []
  const wire = await gateway.connect()
  wire.socket.on('data', chunk => { moved.bytes += chunk.length })
  const ids = requests.map((_, i) => `${name}-${i}`)
  const go = (): void => {
    if (leave?.reset === true) wire.reset()
    else wire.close()
  }
  let at = 0
  let whole = true
  if (pipelined && !await sendSlowly(wire, requests.map((request, i) => requestBytes(way, ids[i], request)).join(''), behaviour)) {
    if (leave !== null) go()
    await until(() => isGone(wire))
    return faults
  }
  for (const [i, request] of requests.entries()) {
    if (!pipelined && !await sendSlowly(wire, requestBytes(way, ids[i], request), behaviour)) {
      whole = false
      break
    }
    if (leave?.when === 'receiving') {
      const enough = at + Math.floor(leave.at * 200)
      await until(() => isGone(wire) || wire.received.length >= enough || nextFinal(wire, at, request.method) !== null)
      whole = false
      break
    }
    await until(() => isGone(wire) || nextFinal(wire, at, request.method) !== null)
    const final = nextFinal(wire, at, request.method)
    if (final === null) {
      // Cut short: what there is of it must be an answer to this request, and nothing can follow.
      const rest = wire.received.slice(at)
      seen.cut++
      whole = false
      if (/^HTTP\/1\.1 [2-5]/m.test(rest.replace(/^(?:HTTP\/1\.1 1[^]*?\r\n\r\n)+/, '')) && !rest.toLowerCase().includes(`x-id: ${ids[i]}\r\n`)) faults.push(`${ids[i]}: cut short, and not its own: ${rest.slice(0, 200)}`)
      break
    }
    faults.push(...judge(way, ids[i], request, final.message))
    at = final.end
  }
  if (whole && wire.received.length > at) faults.push(`${name}: an answer too many: ${wire.received.slice(at, at + 200)}`)
  if (leave !== null) go()
  else wire.close()
  await until(() => wire.closed)
  return faults
}

/** What is wrong with a whole answer to a request. */
function judge (way: string, id: string, { method, script }: Sent, message: Message): string[] {
  const [owner] = message.values('x-id')
  if (owner === undefined) {
    // One of ours: of the proxy, of Fastify, or of Node's parser.
    if (method === 'HEAD' || message.status >= 400) return []
    return [`${id}: ${message.startLine} is nobody's`]
  }
  if (owner !== id) return [`${id}: has the answer of ${owner}`]
  if (method === 'HEAD' || hasNoContent(script.status)) return message.body === '' ? [] : [`${id}: content where there is none`]
  const expected = content(id, script.size)
  const { how } = script.ending
  // Only the end of the connection ends such an answer, and a reset that comes together with its last bytes is told to Node as an end.
  const open = script.framing === 'close' && (how === 'fin' || how === 'reset')
  if (message.body === expected || (open && expected.startsWith(message.body))) return []
  // A handler that sends a stream which fails at once has the failure answered by Fastify, under the headers it has set.
  if (way === 'capture' && message.status >= 500 && message.body.startsWith('{"')) return []
  return [`${id}: ${message.startLine}: ${message.body.length} of ${expected.length} bytes look whole (${script.framing}, ${how}): ${message.body.slice(0, 200)}`]
}

function addsUp ({ totalRequests, successfulRequests, failedRequests, abortedRequests, inFlight }: BackendMetrics): boolean {
  return inFlight === 0 && totalRequests === successfulRequests + failedRequests + abortedRequests
}

async function storm (t: Test, connections: number, behaviours: Behaviour[]): Promise<string[]> {
  const scripts = new Map<string, Script>()
  for (const [i, { requests }] of behaviours.entries()) {
    for (const [j, { script }] of requests.entries()) scripts.set(`${i}-${j}`, script)
  }
  const clock = new FakeClock()
  const moved: Moved = { bytes: 0 }
  const backend = await scriptedBackend(t, scripts, moved)
  const gateway = await startGateway(t, {
    backends: [{ id: 'b', url: backend.url }],
    routes: [{ prefix: '/route' }, { prefix: '/hooks', onSend: async () => undefined }],
    pool: { connections },
    clock
  }, {
    setup: app => app.register(async scope => {
      scope.removeAllContentTypeParsers()
      scope.addContentTypeParser('*', (_request, payload, done) => done(null, payload))
      const method = ['GET', 'POST', 'PUT', 'DELETE']
      const path = (url: string) => url.slice(url.indexOf('/', 1))
      scope.route({ method, url: '/handler/*', handler: (request, reply) => scope.proxy.forward(request, reply, { path: path(request.url) }) })
      scope.route({
        method,
        url: '/capture/*',
        handler: async (request, reply) => {
          const response = await scope.proxy.forward(request, undefined, { path: path(request.url) })
          reply.code(response.statusCode).header('x-id', response.headers['x-id'])
          return await reply.send(hasNoContent(response.statusCode) ? undefined : response.body)
        }
      })
    })
  })
  const { proxy } = gateway.app
  const faults: string[] = []
  let done = 0
  const clients = behaviours.map(async (behaviour, i) => {
    faults.push(...await client(gateway, String(i), behaviour, moved))
    done++
  })
  const allDone = Promise.all(clients)
  const isQuiet = (): boolean => proxy.getMetrics().inFlight === 0 && proxy.getConnectionPool().stats().active === 0 && proxy.getConnectionPool().stats().pending === 0
  // Time moves on only where nothing else does: it ends what stalls, and nothing that is on its way.
  let still = 0
  for (let last = '', turn = 0; done < clients.length || !isQuiet(); turn++) {
    await new Promise(resolve => setImmediate(resolve))
    const { totalRequests, inFlight, backends } = proxy.getMetrics()
    const now = `${done} ${totalRequests} ${inFlight} ${backends.b.totalRequests} ${moved.bytes}`
    still = now === last ? still + 1 : 0
    last = now
    if (still > 40) {
      clock.advance(5_000)
      still = 0
    }
    if (turn > 100_000) return [...faults, `never ends: ${now} ${JSON.stringify(proxy.getConnectionPool().stats())}`]
  }
  await allDone
  const metrics = proxy.getMetrics()
  seen.requests += metrics.totalRequests
  seen.successful += metrics.successfulRequests
  seen.failed += metrics.failedRequests
  seen.aborted += metrics.abortedRequests
  seen.retries += metrics.totalRetries
  if (!addsUp(metrics)) faults.push(`totals do not add up: ${JSON.stringify(metrics)}`)
  if (!addsUp(metrics.backends.b)) faults.push(`the backend's totals do not add up: ${JSON.stringify(metrics.backends.b)}`)
  if (metrics.backends.b.totalRequests > metrics.totalRequests + metrics.totalRetries) faults.push('more attempts than requests and retries')
  for (const { level, err, msg } of gateway.log) {
    const code = String((err as { code?: string } | undefined)?.code)
    if (code.startsWith('ERR_HTTP_HEADERS_SENT') || (level >= 50 && !code.startsWith('FST_ROCKSTAR_'))) faults.push(`logged: ${msg} ${JSON.stringify(err)}`)
  }
  await gateway.app.close()
  backend.close()
  return faults
}

t.test('interim responses to a request that waits behind another come before its head, never in its content', async t => {
  for (const way of ['route', 'hooks']) {
    for (const framing of ['Content-Length: 4\r\n\r\nbody', 'Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n', `Content-Length: 40000\r\n\r\n${'x'.repeat(40_000)}`]) {
      const backend = await rawBackend(t, request => request.startLine.includes('/first') ? undefined : `HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n${framing}`)
      const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/route' }, { prefix: '/hooks', onSend: async () => undefined }] })
      const wire = await gateway.connect()
      wire.send(`GET /${way}/first HTTP/1.1\r\nHost: g\r\n\r\nGET /${way}/second HTTP/1.1\r\nHost: g\r\n\r\n`)
      await until(() => backend.requests.length === 2)
      await turns()
      backend.connections.find(({ received }) => received.includes('/first'))?.send(ok('first'))
      const first = await wire.response()
      t.equal(first.body, 'first')
      await until(() => nextFinal(wire, first.length, 'GET') !== null)
      const { message, end } = nextFinal(wire, first.length, 'GET') as { message: Message, end: number }
      t.equal(message.status, 200)
      t.equal(message.body, framing.startsWith('T') || framing.endsWith('body') ? 'body' : 'x'.repeat(40_000), `${way}: ${framing.slice(0, 20)}`)
      t.equal(wire.received.length, end, 'and nothing else has come')
    }
  }
})

t.test('an answer that ends with its connection while it is held back throws nothing at the process', { timeout: 10_000 }, async t => {
  const uncaught: unknown[] = []
  const onUncaught = (error: unknown): void => { uncaught.push(error) }
  process.on('uncaughtException', onUncaught)
  t.teardown(() => process.off('uncaughtException', onUncaught))
  const block = 'x'.repeat(40_000)
  for (const way of ['route', 'hooks']) {
    for (const how of ['closes', 'resets']) {
      const backend = await rawBackend(t, request => request.startLine.includes('/first') ? undefined : `HTTP/1.1 200 OK\r\n\r\n${block}`)
      const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/route' }, { prefix: '/hooks', onSend: async () => undefined }] })
      const wire = await gateway.connect()
      // The second answer is held back until the first has gone out.
      wire.send(`GET /${way}/first HTTP/1.1\r\nHost: g\r\n\r\nGET /${way}/second HTTP/1.1\r\nHost: g\r\n\r\n`)
      await until(() => backend.requests.length === 2)
      await turns()
      const second = backend.connections.find(({ received }) => received.includes('/second')) as Wire
      second.send(block)
      await turns()
      if (how === 'resets') second.reset()
      else second.socket.end(block)
      await turns()
      backend.connections.find(({ received }) => received.includes('/first'))?.send(ok('first'))
      await until(() => uncaught.length > 0 || isGone(wire) || wire.received.endsWith('\r\n0\r\n\r\n'))
      t.strictSame(uncaught, [], `${way}, ${how}`)
      t.equal(wire.received.match(/HTTP\/1\.1 /g)?.length, how === 'resets' && !wire.received.includes('\r\nx') ? 1 : 2)
      if (how === 'closes') t.equal((wire.received.match(/x{10,}/g) ?? []).join('').length, 120_000, 'it has come whole')
      await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
    }
  }
})

/** Lets what has been sent to this process be read in it. */
async function turns (): Promise<void> {
  for (let i = 0; i < 10; i++) await new Promise(resolve => setImmediate(resolve))
}

t.test('whatever happens on the sockets, each request has one answer or a connection that ends', { timeout: 50_000 }, async t => {
  const uncaught: unknown[] = []
  const onUncaught = (error: unknown): void => { uncaught.push(error) }
  process.on('unhandledRejection', onUncaught).on('warning', onUncaught)
  t.teardown(() => process.off('unhandledRejection', onUncaught).off('warning', onUncaught))
  await fc.assert(fc.asyncProperty(fc.integer({ min: 1, max: 4 }), fc.array(behaviour, { minLength: 4, maxLength: 12 }), async (connections, behaviours) => {
    const faults = await storm(t, connections, behaviours)
    if (faults.length > 0) throw new Error(faults.join('\n'))
  }), { seed: 20_240_731, numRuns: 40, endOnFailure: true })
  t.strictSame(uncaught, [])
  t.comment(JSON.stringify(seen))
  // Whether a connection is met stale is a matter of turns; the tests of stale connections do not leave it to them.
  const { retries: _, ...kinds } = seen
  for (const [what, count] of Object.entries(kinds)) t.ok(count > 0, `${what}: ${count}`)
})
