import t, { type Test } from 'tap'
import type { RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type Gateway } from '../helpers/app.ts'
import { CANCEL, data, DATA, END_STREAM, fields, frame, frameBackend, frameClient, GOAWAY, head, HEADERS, INTERNAL_ERROR, NO_ERROR, reset, RST_STREAM, type FrameBackend, type FramePeer } from '../helpers/http2-frames.ts'
import { until } from '../helpers/wire.ts'

// Frames in, frames out: what passes between a client and a backend that both speak HTTP/2.

const LIMIT = { timeout: 10_000 }
const passOn = (_request: unknown, _reply: unknown, payload: unknown, done: (error: null, payload: unknown) => void) => done(null, payload)
/** The two ways that an answer goes out by. */
const WAYS = { raw: [{ prefix: '/' }], hooked: [{ prefix: '/', onSend: passOn }] }

interface Row {
  backend: FrameBackend
  gateway: Gateway
  client: FramePeer
}

async function row (t: Test, routes: typeof WAYS.raw, onRequest?: (peer: FramePeer, id: number, nth: number) => void, options: RockstarProxyOptions = {}): Promise<Row> {
  const backend = await frameBackend(t, onRequest)
  const gateway = await startGateway(t, { http2: true, backends: [{ id: 'b', url: backend.url }], routes, ...options }, { fastify: { http2: true } })
  return { backend, gateway, client: await frameClient(t, gateway.port) }
}

function request (id: number, method = 'GET', flags = END_STREAM, more: [string, string][] = []): Buffer {
  return frame(HEADERS, 4 | flags, id, fields([':method', method], [':scheme', 'http'], [':authority', 'front'], [':path', '/a'], ['te', 'trailers'], ...more))
}

async function settled ({ gateway: { app } }: Row): Promise<void> {
  await until(() => app.proxy.getMetrics().inFlight === 0 && app.proxy.getConnectionPool().stats().active === 0)
}

for (const [way, routes] of Object.entries(WAYS)) {
  t.test(`${way}: a head that is the end stays the end`, LIMIT, async t => {
    for (const more of [[['grpc-status', '5']], [['content-length', '0']], []] as [string, string][][]) {
      const { client } = await row(t, routes, (peer, id) => { peer.send(head(id, 200, more, END_STREAM)) })
      client.send(request(1))
      await until(() => client.whole(1))
      t.equal(client.of(HEADERS, 1).length, 1)
      t.equal(client.of(HEADERS, 1)[0].flags & END_STREAM, END_STREAM)
      t.equal(client.of(DATA, 1).length, 0)
    }
  })

  t.test(`${way}: trailers follow content, or nothing`, LIMIT, async t => {
    for (const content of ['abc', '']) {
      const { client } = await row(t, routes, (peer, id) => {
        peer.send(head(id, 200))
        if (content !== '') peer.send(data(id, content))
        peer.send(frame(HEADERS, 4 | END_STREAM, id, fields(['grpc-status', '0'])))
      })
      client.send(request(1))
      await until(() => client.whole(1))
      t.equal(client.content(1), content)
      t.equal(client.of(HEADERS, 1).length, 2)
      t.equal(client.of(HEADERS, 1)[1].flags & END_STREAM, END_STREAM)
    }
  })

  t.test(`${way}: a client's reset reaches the backend as CANCEL, before the answer, in it and in the body`, LIMIT, async t => {
    for (const when of ['before', 'in the answer', 'in the body']) {
      for (const code of [CANCEL, INTERNAL_ERROR, NO_ERROR]) {
        const all = await row(t, routes)
        const { backend, client } = all
        client.send(request(1, 'POST', when === 'in the body' ? 0 : END_STREAM))
        if (when === 'in the body') client.send(data(1, 'half'))
        await until(() => backend.streams.length === 1)
        const [peer] = backend.peers
        if (when === 'in the body') await until(() => peer.content(1) === 'half')
        if (when === 'in the answer') {
          peer.send(head(1, 200), data(1, 'half'))
          await until(() => client.content(1) === 'half')
        }
        client.send(reset(1, code))
        await until(() => peer.resetCode(1) !== undefined)
        t.equal(peer.resetCode(1), CANCEL)
        if (when === 'in the body') t.equal(peer.whole(1), false)
        await settled(all)
        t.equal(peer.closed, false)
        t.equal(client.closed, false)
        t.equal(client.of(GOAWAY).length, 0)
      }
    }
  })

  t.test(`${way}: a client that goes away with all its streams`, LIMIT, async t => {
    const all = await row(t, routes)
    const { backend, client } = all
    client.send(request(1), request(3, 'POST', 0), data(3, 'half'))
    await until(() => backend.streams.length === 2)
    client.socket.destroy()
    await until(() => backend.peers[0].resetCode(1) === CANCEL && backend.peers[0].resetCode(3) === CANCEL)
    t.equal(backend.peers[0].whole(3), false)
    await settled(all)
  })

  t.test(`${way}: a backend's reset in an answer reaches the client as one, and nothing looks whole`, LIMIT, async t => {
    for (const code of [INTERNAL_ERROR, CANCEL, NO_ERROR]) {
      const all = await row(t, routes, (peer, id) => { peer.send(head(id, 200), data(id, 'half')) })
      const { backend, client } = all
      client.send(request(1))
      await until(() => client.content(1) === 'half')
      backend.peers[0].send(reset(1, code))
      await until(() => client.of(RST_STREAM, 1).length === 1)
      t.notSame(client.resetCode(1), NO_ERROR)
      t.equal(client.whole(1), false)
      await settled(all)
    }
  })

  t.test(`${way}: content passes both ways for long, a piece at a time`, LIMIT, async t => {
    const all = await row(t, routes, (peer, id) => { peer.send(head(id, 200)) })
    const { backend, client } = all
    client.send(request(1, 'POST', 0))
    await until(() => client.of(HEADERS, 1).length === 1)
    let up = ''
    let down = ''
    for (let i = 0; i < 50; i++) {
      client.send(data(1, `${i},`))
      up += `${i},`
      await until(() => backend.peers[0].content(1) === up)
      backend.peers[0].send(data(1, `${i};`))
      down += `${i};`
      await until(() => client.content(1) === down)
    }
    // The backend ends first, and the client goes on a little.
    client.send(data(1, '', END_STREAM))
    await until(() => backend.peers[0].whole(1))
    backend.peers[0].send(data(1, '', END_STREAM))
    await until(() => client.whole(1))
    t.equal(client.resetCode(1), undefined)
    await settled(all)
  })

  t.test(`${way}: an answer that is whole before the body ends both`, LIMIT, async t => {
    const all = await row(t, routes)
    const { backend, client } = all
    client.send(request(1, 'POST', 0), data(1, 'half'))
    await until(() => backend.peers[0]?.content(1) === 'half')
    backend.peers[0].send(head(1, 403), data(1, 'no', END_STREAM))
    await until(() => client.whole(1))
    await until(() => client.resetCode(1) === NO_ERROR)
    await until(() => backend.peers[0].resetCode(1) === CANCEL)
    t.equal(client.content(1), 'no')
    await settled(all)
    // The same sessions serve on.
    client.send(request(3))
    await until(() => backend.streams.length === 2)
    backend.peers[0].send(head(3, 200, [], END_STREAM))
    await until(() => client.whole(3))
  })

  t.test(`${way}: a client that takes nothing holds its own stream only`, LIMIT, async t => {
    let sent = 0
    const all = await row(t, routes, (peer, id, nth) => {
      if (nth > 0) peer.send(head(id, 200), data(id, 'other', END_STREAM))
      else peer.send(head(id, 200))
    })
    const { backend, client } = all
    client.options.reads = false
    client.send(request(1))
    await until(() => client.of(HEADERS, 1).length === 1)
    const [peer] = backend.peers
    const allowed = () => 262_144 + peer.of(8, 1).reduce((sum, { payload }) => sum + payload.readUInt32BE(0), 0)
    for (let turn = 0; turn < 100; turn++) {
      while (sent + 16_384 <= allowed() && sent < 20_000_000) {
        peer.send(data(1, Buffer.alloc(16_384, 'x')))
        sent += 16_384
      }
      await new Promise(resolve => setImmediate(resolve))
    }
    t.ok(sent < 1_000_000, `${sent} bytes`)
    t.ok(client.content(1).length <= 65_535)
    client.send(request(3))
    await until(() => backend.streams.length === 2)
    // Its window on the connection is used up by the other: the head comes all the same.
    await until(() => client.of(HEADERS, 3).length === 1)
    client.send(reset(1, CANCEL))
    await until(() => peer.resetCode(1) === CANCEL)
  })
}
