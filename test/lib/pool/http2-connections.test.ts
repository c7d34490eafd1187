import { createServer } from 'node:net'
import { PassThrough, Readable } from 'node:stream'
import t, { type Test } from 'tap'
import { Backend } from '../../../lib/backend.ts'
import { Http2Connections } from '../../../lib/pool/http2-connections.ts'
import { Connector } from '../../../lib/pool/connector.ts'
import { resolveOptions } from '../../../lib/options.ts'
import { PoolOptionsSchema, type PoolOptions, type PoolSettings } from '../../../types/index.ts'
import { FakeClock } from '../../helpers/clock.ts'
import { Recorder, requestOf } from '../../helpers/handler.ts'
import { CANCEL, data, END_STREAM, ENHANCE_YOUR_CALM, frameBackend, GOAWAY, goaway, head, HEADERS, INITIAL_WINDOW_SIZE, INTERNAL_ERROR, MAX_CONCURRENT_STREAMS, NO_ERROR, PING, PROTOCOL_ERROR, REFUSED_STREAM, reset, SETTINGS, settings, frame, fields, WINDOW_UPDATE, uint32, type FrameBackend, type FramePeer } from '../../helpers/http2-frames.ts'
import { freePort } from '../../helpers/ports.ts'
import { connectTo, rawBackend, until } from '../../helpers/wire.ts'

const LIMIT = { timeout: 10_000 }

function connectionsTo (t: Test, { url }: { url: string }, options: PoolOptions = {}, clock?: FakeClock): Http2Connections {
  const pool = resolveOptions<PoolSettings>(PoolOptionsSchema, options, 'pool')
  const backend = new Backend(url, 0)
  const connections = new Http2Connections(backend, new Connector(backend, pool), pool, null, clock)
  t.teardown(() => connections.destroy())
  return connections
}

/** Answers every request with its number. */
const answering = (peer: FramePeer, id: number, nth: number) => { peer.send(head(id, 200), data(id, String(nth), END_STREAM)) }

function ask (connections: Http2Connections, more: Parameters<typeof requestOf>[0] & { fresh?: boolean } = {}): Recorder {
  const recorder = new Recorder()
  connections.dispatch(requestOf(more), recorder)
  return recorder
}

/** Lets what has been sent to this process be read in it. */
async function turns (count = 10): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise(resolve => setImmediate(resolve))
}

t.test('a request goes out when the backend has sent its SETTINGS, and not before', LIMIT, async t => {
  const backend = await frameBackend(t, answering, { greets: false })
  const connections = connectionsTo(t, backend)
  const recorder = ask(connections)
  await until(() => backend.peers.length === 1 && backend.peers[0].frames.length > 0)
  await turns()
  t.equal(connections.isWaiting(recorder), true)
  t.match(connections.stats(), { total: 1, active: 1, idle: 0, pending: 1, connects: 0, requests: 1 })
  t.strictSame(backend.streams, [])
  backend.peers[0].send(settings())
  t.match(await recorder.ended(), { status: 200, statusMessage: 'OK', body: '0', trailers: null, errors: [], connected: 1, overStream: true, endsAtHead: false })
  t.equal(connections.isWaiting(recorder), false)
  await until(() => connections.stats().idle === 1)
  t.match(connections.stats(), { total: 1, active: 0, pending: 0, connects: 1, connectErrors: 0, reuseRatio: 0 })
})

t.test('requests share a session up to what the option and the backend allow', LIMIT, async t => {
  for (const [maxConcurrentStreams, allowed] of [[3, 100], [100, 3]]) {
    const backend = await frameBackend(t, () => {}, { settings: [[MAX_CONCURRENT_STREAMS, allowed]] })
    const connections = connectionsTo(t, backend, { maxConcurrentStreams, connections: 2 })
    const recorders = Array.from({ length: 8 }, () => ask(connections))
    await until(() => backend.streams.length === 6)
    await turns()
    t.strictSame(backend.peers.map(({ streams }) => streams.length), [3, 3])
    t.match(connections.stats(), { total: 2, active: 2, pending: 2, connects: 2 })
    t.strictSame(recorders.map(recorder => connections.isWaiting(recorder)), [...Array(6).fill(false), true, true])
    // The one that has waited longest is next, wherever there is room.
    const { peer, id } = backend.streams[5]
    peer.send(head(id, 200), data(id, 'x', END_STREAM))
    await until(() => backend.streams.length === 7)
    t.strictSame(recorders.map(recorder => connections.isWaiting(recorder)), [...Array(7).fill(false), true])
    for (const { peer, id } of backend.streams) peer.send(head(id, 200, [], END_STREAM))
    await until(() => backend.streams.length === 8)
    const last = backend.streams[7]
    last.peer.send(head(last.id, 200, [], END_STREAM))
    for (const recorder of recorders) t.equal((await recorder.ended()).status, 200)
  }
})

t.test('the session that was opened first is used as long as it has room', LIMIT, async t => {
  const backend = await frameBackend(t)
  const connections = connectionsTo(t, backend, { maxConcurrentStreams: 2 })
  Array.from({ length: 4 }, () => ask(connections))
  await until(() => backend.streams.length === 4)
  for (const { peer, id } of backend.streams) peer.send(head(id, 200, [], END_STREAM))
  await until(() => connections.stats().idle === 2)
  for (let i = 4; i < 10; i++) {
    ask(connections)
    await until(() => backend.streams.length === i + 1)
    const { peer, id } = backend.streams[i]
    t.equal(peer, backend.peers[0])
    peer.send(head(id, 200, [], END_STREAM))
    await until(() => connections.stats().idle === 2)
  }
  t.equal(connections.reuses, 8)
})

t.test('when the backend allows more, or less, that holds from then on', LIMIT, async t => {
  const backend = await frameBackend(t, () => {}, { settings: [[MAX_CONCURRENT_STREAMS, 1]] })
  const connections = connectionsTo(t, backend, { connections: 1 })
  Array.from({ length: 4 }, () => ask(connections))
  await until(() => backend.streams.length === 1)
  backend.peers[0].send(settings([MAX_CONCURRENT_STREAMS, 3]))
  await until(() => backend.streams.length === 3)
  backend.peers[0].send(settings([MAX_CONCURRENT_STREAMS, 0]))
  for (const { peer, id } of backend.streams) peer.send(head(id, 200, [], END_STREAM))
  await until(() => connections.stats().idle === 1)
  await turns()
  t.equal(backend.streams.length, 3)
  t.equal(connections.stats().pending, 1)
  backend.peers[0].send(settings([MAX_CONCURRENT_STREAMS, 1]))
  await until(() => backend.streams.length === 4)
})

t.test('of a peak, no more sessions are opened than it needs', LIMIT, async t => {
  const backend = await frameBackend(t)
  const connections = connectionsTo(t, backend, { maxConcurrentStreams: 10, connections: 100 })
  Array.from({ length: 41 }, () => ask(connections))
  await until(() => backend.streams.length === 41)
  t.equal(backend.peers.length, 5)
})

t.test('an unused session is closed when idleTimeout is over, by GOAWAY', LIMIT, async t => {
  const clock = new FakeClock()
  const backend = await frameBackend(t, answering)
  const connections = connectionsTo(t, backend, { idleTimeout: 1_000, maxConcurrentStreams: 1 }, clock)
  await ask(connections).ended()
  await until(() => connections.stats().idle === 1)
  clock.advance(900)
  await ask(connections).ended()
  await until(() => connections.stats().idle === 1)
  clock.advance(900)
  await turns()
  t.equal(backend.peers[0].of(GOAWAY).length, 0, 'it was used meanwhile')
  clock.advance(100)
  await until(() => backend.peers[0].closed)
  t.equal(backend.peers[0].of(GOAWAY).length > 0, true)
  await until(() => connections.stats().total === 0)
  t.equal(clock.timers, 0, 'no timer is left')
  t.equal((await ask(connections).ended()).body, '2')
  t.equal(backend.peers.length, 2)
})

t.test('a session carries maxRequestsPerConnection and closes when they are over', LIMIT, async t => {
  const backend = await frameBackend(t)
  const connections = connectionsTo(t, backend, { maxRequestsPerConnection: 2 })
  const recorders = [ask(connections), ask(connections), ask(connections)]
  await until(() => backend.streams.length === 3)
  t.strictSame(backend.peers.map(({ streams }) => streams.length), [2, 1])
  await turns()
  t.equal(backend.peers[0].closed, false)
  for (const { peer, id } of backend.streams) peer.send(head(id, 200, [], END_STREAM))
  for (const recorder of recorders) t.equal((await recorder.ended()).status, 200)
  await until(() => backend.peers[0].closed)
  t.equal(backend.peers[1].closed, false)
})

t.test('the head of a request and its answer', async t => {
  await t.test('HEAD, 204 and 304 have no content, whatever their length says', LIMIT, async t => {
    for (const [method, status] of [['HEAD', 200], ['GET', 304], ['GET', 204]] as const) {
      const backend = await frameBackend(t, (peer, id) => { peer.send(head(id, status, status === 204 ? [] : [['content-length', '9']], END_STREAM)) })
      t.match(await ask(connectionsTo(t, backend), { method }).ended(), { status, body: '', completed: 1, errors: [], endsAtHead: true })
    }
  })

  await t.test('bytes and repetitions stay as they are', LIMIT, async t => {
    const backend = await frameBackend(t, (peer, id) => { peer.send(head(id, 200, [['set-cookie', 'a=\xe4'], ['x-b', '1'], ['set-cookie', 'c=\xff'], ['content-type', 'a'], ['content-type', 'b']], END_STREAM)) })
    const { headers } = await ask(connectionsTo(t, backend)).ended()
    t.strictSame(headers, ['set-cookie', 'a=\xe4', 'x-b', '1', 'set-cookie', 'c=\xff', 'content-type', 'a', 'content-type', 'b'])
  })

  await t.test('interim responses are told but for 100', LIMIT, async t => {
    const backend = await frameBackend(t, (peer, id) => { peer.send(head(id, 100), head(id, 103, [['link', '</a>']]), head(id, 102), head(id, 200, [], END_STREAM)) })
    t.match(await ask(connectionsTo(t, backend)).ended(), { interim: [103, 102], status: 200 })
  })

  await t.test('trailers are told, behind content and behind none', LIMIT, async t => {
    for (const content of ['abc', '']) {
      const backend = await frameBackend(t, (peer, id) => {
        peer.send(head(id, 200))
        if (content !== '') peer.send(data(id, content))
        peer.send(frame(HEADERS, 4 | END_STREAM, id, fields(['grpc-status', '0'], ['x-b', '\xe4'])))
      })
      t.match(await ask(connectionsTo(t, backend)).ended(), { body: content, trailers: ['grpc-status', '0', 'x-b', '\xe4'] })
    }
  })

  await t.test('an answer that is malformed is that, and the session goes on', LIMIT, async t => {
    const cases: [string, (id: number) => Buffer[]][] = [
      ['a length that is too great', id => [head(id, 200, [['content-length', '5']]), data(id, 'abc', END_STREAM)]],
      ['a length that is too small', id => [head(id, 200, [['content-length', '2']]), data(id, 'abc', END_STREAM)]],
      ['a field of one connection', id => [head(id, 200, [['connection', 'close']], END_STREAM)]],
      ['a transfer coding', id => [head(id, 200, [['transfer-encoding', 'chunked']])]],
      ['a name in upper case', id => [head(id, 200, [['X-Upper', '1']], END_STREAM)]],
      ['no status', id => [frame(HEADERS, 4 | END_STREAM, id, fields(['x-a', '1']))]],
      ['a status that is no number', id => [head(id, 'abc', [], END_STREAM)]],
      ['101', id => [head(id, 101)]],
      ['an interim response at the end', id => [head(id, 103, [], END_STREAM)]],
      ['a pseudo-field in trailers', id => [head(id, 200), frame(HEADERS, 4 | END_STREAM, id, fields([':status', '200']))]],
      ['a head that is too large', id => [head(id, 200, [['x-a', 'x'.repeat(10_000)]], END_STREAM)]],
      ['a head that is a little too large', id => [head(id, 200, [['x-a', 'x'.repeat(8_160)]], END_STREAM)]],
      ['a head of too many fields', id => [head(id, 200, Array.from({ length: 700 }, () => ['a', 'b'] as [string, string]), END_STREAM)]],
      ['trailers that are too large', id => [head(id, 200), frame(HEADERS, 4 | END_STREAM, id, fields(['x-a', 'x'.repeat(10_000)]))]],
      ['PROTOCOL_ERROR', id => [reset(id, PROTOCOL_ERROR)]]
    ]
    for (const [name, bytes] of cases) {
      const backend = await frameBackend(t, (peer, id, nth) => { peer.send(...nth === 1 ? bytes(id) : [head(id, 200, [], END_STREAM)]) })
      const connections = connectionsTo(t, backend, { maxHeaderSize: 8_192 })
      await ask(connections).ended()
      const { errors, completed } = await ask(connections).ended()
      t.equal(completed, 0, name)
      t.strictSame(errors.map(({ code }) => code), ['FST_ROCKSTAR_BAD_RESPONSE'], name)
      t.equal((await ask(connections).ended()).status, 200)
      t.equal(backend.peers.length, 1, name)
    }
  })

  await t.test('frames that are none end the session, and what is on it', LIMIT, async t => {
    const backend = await frameBackend(t, peer => { peer.send(frame(SETTINGS, 0, 1)) })
    const { errors } = await ask(connectionsTo(t, backend)).ended()
    t.strictSame(errors.map(({ code }) => code), ['FST_ROCKSTAR_BAD_RESPONSE'])
    await until(() => backend.peers[0].closed)
  })

  await t.test('those that Node does not tell of end it as well, when nothing comes any more', LIMIT, async t => {
    for (const bytes of [(id: number) => data(id, 'no head'), () => frame(PING, 0, 0, 'abc')]) {
      const clock = new FakeClock()
      const backend = await frameBackend(t, (peer, id, nth) => { if (nth < 2) peer.send(bytes(id)); else answering(peer, id, nth) })
      const connections = connectionsTo(t, backend, {}, clock)
      const recorders = [ask(connections), ask(connections)]
      await until(() => backend.peers[0]?.of(GOAWAY).length > 0)
      clock.advance(10_000)
      clock.advance(10_000)
      connections.cancel(recorders[0])
      clock.advance(15_000)
      t.match(await recorders[1].ended(), { completed: 0, body: '' })
      t.equal((await ask(connections).ended()).status, 200)
      t.equal(backend.peers.length, 2)
    }
  })

  await t.test('a request that HTTP/2 cannot say fails by itself', LIMIT, async t => {
    const backend = await frameBackend(t)
    const connections = connectionsTo(t, backend)
    const other = ask(connections)
    await until(() => backend.streams.length === 1)
    for (const more of [
      { headers: ['content-type', 'a', 'Content-Type', 'b'] },
      { headers: ['user-agent', 'a', 'user-agent', 'b'] },
      { headers: ['a b', '1'] },
      { headers: [':path', '/other'] },
      { headers: ['', '1'] },
      { headers: ['x-a', '1\r\nx-b: 2'] },
      { headers: ['x-a', '1\0x-b\x002\0'] },
      { headers: ['x-a', '\u0100'] },
      { path: '/a b' },
      { path: '/\0' },
      { method: 'G T' as 'GET' }
    ]) {
      const body = new PassThrough()
      const { errors, connected } = await ask(connections, { ...more, body }).ended()
      t.strictSame(errors.map(({ code }) => code), ['FST_ROCKSTAR_BAD_REQUEST'], JSON.stringify(more))
      t.ok(connected <= 1)
      t.equal(body.destroyed, true)
    }
    await turns()
    t.equal(backend.streams.length, 1, 'nothing of them was sent')
    backend.peers[0].send(head(1, 200, [], END_STREAM))
    t.equal((await other.ended()).status, 200, 'and the session is as it was')
  })
})

t.test('a request with a body', async t => {
  await t.test('sends it whole, and its end', LIMIT, async t => {
    const content = Buffer.alloc(300_000, 'x')
    for (const body of [content, content.toString(), new Uint8Array(content), Readable.from([content.subarray(0, 100_000), content.subarray(100_000)]), [content] as unknown as Readable]) {
      const backend = await frameBackend(t, () => {})
      const recorder = ask(connectionsTo(t, backend), { method: 'POST', body })
      await until(() => backend.peers[0]?.whole(1))
      t.equal(backend.peers[0].content(1).length, 300_000)
      backend.peers[0].send(head(1, 200, [], END_STREAM))
      t.equal((await recorder.ended()).status, 200)
    }
  })

  await t.test('one that is empty ends with its head', LIMIT, async t => {
    for (const body of [Buffer.alloc(0), '', null, undefined]) {
      const backend = await frameBackend(t, answering)
      await ask(connectionsTo(t, backend), { method: 'POST', body }).ended()
      t.equal(backend.peers[0].of(HEADERS)[0].flags & END_STREAM, END_STREAM)
    }
  })

  await t.test('waits where the backend gives no window', LIMIT, async t => {
    const backend = await frameBackend(t, () => {}, { reads: false, settings: [[INITIAL_WINDOW_SIZE, 10_000]] })
    const body = new PassThrough()
    const recorder = ask(connectionsTo(t, backend), { method: 'POST', body })
    let written = 0
    const write = () => {
      while (written < 5_000_000) {
        written += 50_000
        if (!body.write(Buffer.alloc(50_000))) {
          body.once('drain', write)
          return
        }
      }
      body.end()
    }
    write()
    await until(() => backend.peers[0]?.content(1).length === 10_000)
    await turns(50)
    t.ok(written < 500_000, `${written} bytes were taken from their sender`)
    backend.peers[0].options.reads = true
    backend.peers[0].send(frame(WINDOW_UPDATE, 0, 0, uint32(10_000_000)), frame(WINDOW_UPDATE, 0, 1, uint32(10_000_000)))
    await until(() => backend.peers[0].whole(1))
    t.equal(written, 5_000_000)
    backend.peers[0].send(head(1, 200, [], END_STREAM))
    t.equal((await recorder.ended()).status, 200)
  })

  await t.test('that is given up is reset, and never looks whole', LIMIT, async t => {
    for (const how of ['cancelled', 'aborted', 'failed', 'destroyed']) {
      const backend = await frameBackend(t)
      const connections = connectionsTo(t, backend)
      const body = new PassThrough()
      const recorder = ask(connections, { method: 'POST', body })
      body.write('half')
      await until(() => backend.peers[0]?.content(1) === 'half')
      if (how === 'cancelled') connections.cancel(recorder)
      else if (how === 'aborted') recorder.abort()
      else if (how === 'failed') body.destroy(new Error('away'))
      else body.destroy()
      await until(() => backend.peers[0].resetCode(1) !== undefined)
      t.equal(backend.peers[0].resetCode(1), CANCEL, how)
      t.equal(backend.peers[0].whole(1), false)
      t.equal(recorder.errors.length, how === 'cancelled' ? 0 : 1)
      t.equal(body.destroyed, true)
      await until(() => connections.stats().idle === 1)
    }
  })

  await t.test('that is answered before it is whole: the rest is not sent', LIMIT, async t => {
    for (const also of [false, true]) {
      const backend = await frameBackend(t)
      const connections = connectionsTo(t, backend)
      const body = new PassThrough()
      const recorder = ask(connections, { method: 'POST', body })
      body.write('half')
      await until(() => backend.peers[0]?.content(1) === 'half')
      backend.peers[0].send(head(1, 413), data(1, 'no', END_STREAM), ...also ? [reset(1, NO_ERROR)] : [])
      t.match(await recorder.ended(), { status: 413, body: 'no', completed: 1, errors: [] })
      await until(() => connections.stats().idle === 1)
      t.equal(backend.peers[0].whole(1), false)
      if (!also) await until(() => backend.peers[0].resetCode(1) === CANCEL)
      t.equal(body.destroyed, true)
    }
  })

  await t.test('and its answer pass each other for long', LIMIT, async t => {
    const backend = await frameBackend(t, (peer, id) => { peer.send(head(id, 200)) })
    const body = new PassThrough()
    const recorder = ask(connectionsTo(t, backend), { method: 'POST', body })
    await until(() => recorder.status === 200)
    let said = ''
    for (let i = 0; i < 100; i++) {
      body.write(`${i},`)
      said += `${i},`
      await until(() => backend.peers[0].content(1) === said)
      backend.peers[0].send(data(1, `${i};`))
      await until(() => recorder.body.endsWith(`${i};`))
    }
    body.end()
    await until(() => backend.peers[0].whole(1))
    backend.peers[0].send(data(1, 'end', END_STREAM))
    t.equal((await recorder.ended()).body, `${said.replaceAll(',', ';')}end`)
  })
})

t.test('an answer that is not taken waits in the window of its stream, and no other waits for it', LIMIT, async t => {
  let sent = 0
  const backend = await frameBackend(t, (peer, id, nth) => {
    if (nth > 0) return answering(peer, id, nth)
    peer.send(head(id, 200))
  })
  const connections = connectionsTo(t, backend)
  const slow = new Recorder()
  slow.flowing = false
  connections.dispatch(requestOf(), slow)
  await until(() => slow.status === 200)
  // As much as the windows allow: what was said in SETTINGS, and given back since.
  const peer = backend.peers[0]
  const allowed = () => 262_144 + peer.of(WINDOW_UPDATE, 1).reduce((sum, { payload }) => sum + payload.readUInt32BE(0), 0)
  while (sent + 16_384 <= allowed()) {
    peer.send(data(1, Buffer.alloc(16_384, 'x')))
    sent += 16_384
  }
  await turns(50)
  t.ok(allowed() - sent < 16_384, 'no window is given back')
  t.equal(slow.body, '')
  t.equal((await ask(connections).ended()).body, '1', 'another stream goes on')
  slow.flowing = true
  slow.resume()
  await until(() => slow.body.length === sent)
  await until(() => allowed() - sent >= 16_384)
  peer.send(data(1, 'end', END_STREAM))
  t.equal((await slow.ended()).body.length, sent + 3)
})

t.test('an answer that has come whole is not lost when the session ends before it is taken', LIMIT, async t => {
  for (const how of ['end', 'reset', 'goaway'] as const) {
    const backend = await frameBackend(t, (peer, id) => { peer.send(head(id, 200), data(id, 'x'.repeat(16_384)), data(id, 'x'.repeat(16_384)), data(id, 'rest', END_STREAM)) })
    const connections = connectionsTo(t, backend)
    const slow = new Recorder()
    slow.flowing = false
    connections.dispatch(requestOf(), slow)
    await until(() => slow.status === 200)
    await turns()
    const { socket } = backend.peers[0]
    if (how === 'end') socket.end()
    else if (how === 'reset') socket.resetAndDestroy()
    else backend.peers[0].send(goaway(1, INTERNAL_ERROR))
    await until(() => connections.stats().total === 0)
    t.equal(slow.over, false)
    slow.flowing = true
    slow.resume()
    t.match(await slow.ended(), { completed: 1, errors: [] }, how)
    t.equal(slow.body.length, 32_772)
  }
})

t.test('an answer that is cut short fails, whatever it is cut by', LIMIT, async t => {
  const ways: [string, (peer: FramePeer) => void][] = [
    ['NO_ERROR', peer => peer.send(reset(1, NO_ERROR))],
    ['CANCEL', peer => peer.send(reset(1, CANCEL))],
    ['INTERNAL_ERROR', peer => peer.send(reset(1, INTERNAL_ERROR))],
    ['FIN', peer => peer.socket.end()],
    ['RST', peer => peer.socket.resetAndDestroy()],
    ['GOAWAY with an error', peer => peer.send(goaway(1, INTERNAL_ERROR))]
  ]
  for (const [name, cut] of ways) {
    for (const body of [undefined, new PassThrough()]) {
      for (const flowing of [true, false]) {
        for (const when of ['before the head', 'before content', 'in content']) {
          const backend = await frameBackend(t)
          const recorder = new Recorder()
          recorder.flowing = flowing
          connectionsTo(t, backend).dispatch(requestOf({ method: 'POST', body }), recorder)
          await until(() => backend.streams.length === 1)
          if (when !== 'before the head') backend.peers[0].send(head(1, 200))
          if (when === 'in content') backend.peers[0].send(data(1, 'half'))
          if (when !== 'before the head') await until(() => recorder.status === 200 && (recorder.body === 'half') === (flowing && when === 'in content'))
          cut(backend.peers[0])
          await recorder.ended()
          t.equal(recorder.completed, 0, `${name}, ${when}`)
          t.equal(recorder.errors.length, 1)
          t.notMatch(recorder.errors[0].code, 'ERR_HTTP2_UNPROCESSED')
        }
      }
    }
  }
})

t.test('what the backend has not processed is told apart', async t => {
  const refusals: [string, boolean, (peer: FramePeer, id: number) => void][] = [
    ['a refused stream', false, (peer, id) => peer.send(reset(id, REFUSED_STREAM))],
    ['a GOAWAY that does not cover it', true, (peer, id) => peer.send(goaway(id - 2))],
    ['a GOAWAY with an error that does not cover it', true, (peer, id) => peer.send(goaway(id - 2, ENHANCE_YOUR_CALM))],
    ['two GOAWAYs, the second of which does not cover it', true, (peer, id) => peer.send(goaway(2 ** 31 - 1), goaway(id - 2))]
  ]
  for (const [name, leaving, refuse] of refusals) {
    await t.test(name, LIMIT, async t => {
      for (const body of [undefined, Buffer.from('abc'), new PassThrough()]) {
        const backend = await frameBackend(t, (peer, id, nth) => {
          if (nth === 0) peer.send(head(id, 200))
          else refuse(peer, id)
        })
        const connections = connectionsTo(t, backend)
        const first = ask(connections)
        await until(() => first.status === 200)
        const { errors } = await ask(connections, { method: 'POST', body }).ended()
        t.match(errors, [{ code: 'ERR_HTTP2_UNPROCESSED', leaving }])
        if (name.includes('error')) {
          await first.ended()
          t.notMatch(first.errors[0].code, 'ERR_HTTP2_UNPROCESSED')
        } else {
          backend.peers[0].send(data(1, 'whole', END_STREAM))
          t.match(await first.ended(), { body: 'whole', completed: 1 }, 'what was taken is finished')
        }
        if (leaving) await until(() => backend.peers[0].closed)
        else t.equal(backend.peers[0].closed, false)
      }
    })
  }

  await t.test('but not ENHANCE_YOUR_CALM', LIMIT, async t => {
    const backend = await frameBackend(t, (peer, id) => { peer.send(reset(id, ENHANCE_YOUR_CALM)) })
    const { errors } = await ask(connectionsTo(t, backend)).ended()
    t.notMatch(errors[0].code, 'ERR_HTTP2_UNPROCESSED')
  })
})

t.test('after a GOAWAY, requests go out on another session, and the old one closes when it is empty', LIMIT, async t => {
  const backend = await frameBackend(t)
  const connections = connectionsTo(t, backend, { connections: 1 })
  const first = ask(connections)
  await until(() => backend.streams.length === 1)
  backend.peers[0].send(goaway(1))
  await until(() => backend.peers[0].of(GOAWAY).length > 0)
  const second = ask(connections)
  await until(() => backend.streams.length === 2)
  t.equal(backend.streams[1].peer, backend.peers[1], 'although there may be but one that takes requests')
  t.match(connections.stats(), { total: 2, active: 2 })
  backend.peers[0].send(head(1, 200), data(1, 'old', END_STREAM))
  t.equal((await first.ended()).body, 'old')
  await until(() => backend.peers[0].closed)
  backend.peers[1].send(head(1, 200), data(1, 'new', END_STREAM))
  t.equal((await second.ended()).body, 'new')
  await until(() => connections.stats().total === 1)
})

t.test('a GOAWAY on an idle session', LIMIT, async t => {
  const backend = await frameBackend(t, answering)
  const connections = connectionsTo(t, backend)
  await ask(connections).ended()
  await until(() => connections.stats().idle === 1)
  backend.peers[0].send(goaway(1))
  await until(() => connections.stats().total === 0)
  t.equal((await ask(connections).ended()).body, '1')
})

t.test('a request that died with its session knows whether others had been there before it', LIMIT, async t => {
  for (const before of [0, 1]) {
    const backend = await frameBackend(t, (peer, id, nth) => {
      if (nth < before) answering(peer, id, nth)
      else peer.socket.resetAndDestroy()
    })
    const connections = connectionsTo(t, backend)
    for (let i = 0; i < before; i++) await ask(connections).ended()
    t.match(await ask(connections).ended(), { reused: before > 0, heard: false })
  }
  const backend = await frameBackend(t, (peer, id, nth) => { if (nth === 0) answering(peer, id, nth); else peer.send(reset(id, INTERNAL_ERROR)) })
  const connections = connectionsTo(t, backend)
  await ask(connections).ended()
  t.equal((await ask(connections).ended()).reused, false, 'and a reset of its own says nothing of the session')
})

t.test('one that must be fresh goes out on no session that was there when another died', LIMIT, async t => {
  const backend = await frameBackend(t)
  const connections = connectionsTo(t, backend, { maxConcurrentStreams: 2, connections: 3 })
  const recorders = Array.from({ length: 4 }, () => ask(connections))
  await until(() => backend.streams.length === 4)
  backend.peers[1].send(head(1, 200, [], END_STREAM))
  await recorders[2].ended()
  backend.peers[0].socket.resetAndDestroy()
  await recorders[0].ended()
  const again = [ask(connections, { fresh: true }), ask(connections, { fresh: true })]
  await until(() => backend.streams.length === 6)
  t.strictSame(backend.peers.map(({ streams }) => streams.length), [2, 2, 2], 'and they share it')
  t.equal(again.some(recorder => recorder.over), false)
  ask(connections)
  await until(() => backend.streams.length === 7)
  t.equal(backend.streams[6].peer, backend.peers[1], 'others still use what is there')
})

t.test('a connection that cannot be made', async t => {
  await t.test('fails all who wait for it', LIMIT, async t => {
    const connections = connectionsTo(t, { url: `http://127.0.0.1:${await freePort()}` }, { maxConcurrentStreams: 2 })
    const recorders = [ask(connections), ask(connections), ask(connections)]
    for (const recorder of recorders) t.match((await recorder.ended()).errors, [{ code: 'ECONNREFUSED' }])
    t.equal(recorders[0].connected, 0)
    t.match(connections.stats(), { total: 0, pending: 0, connects: 0, connectErrors: 2 })
  })

  await t.test('fails none where there are others', LIMIT, async t => {
    const backend = await frameBackend(t)
    const connections = connectionsTo(t, backend, { maxConcurrentStreams: 1 })
    ask(connections)
    await until(() => backend.streams.length === 1)
    backend.server.close()
    const second = ask(connections)
    await until(() => connections.stats().connectErrors === 1)
    await turns()
    t.equal(connections.isWaiting(second), true)
    backend.peers[0].send(head(1, 200, [], END_STREAM))
    await until(() => backend.streams.length === 2)
    t.equal(second.errors.length, 0)
  })

  await t.test('nor is one that speaks HTTP/1.1, or nothing at all', LIMIT, async t => {
    const http1 = await rawBackend(t, () => 'HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n')
    const { errors } = await ask(connectionsTo(t, http1), { method: 'POST', body: 'secret' }).ended()
    t.match(errors, [{ message: /does not speak HTTP\/2/ }])
    t.notMatch(http1.connections[0].received, 'secret')

    const closing = createServer(socket => socket.end())
    await new Promise<void>(resolve => closing.listen(0, '127.0.0.1', resolve))
    t.teardown(() => closing.close())
    const closed = await ask(connectionsTo(t, { url: `http://127.0.0.1:${(closing.address() as { port: number }).port}` })).ended()
    t.match(closed.errors, [{ message: /does not speak HTTP\/2/ }])

    const clock = new FakeClock()
    const silent = await frameBackend(t, () => {}, { greets: false })
    const connections = connectionsTo(t, silent, { connectTimeout: 5_000 }, clock)
    const waiting = ask(connections)
    await until(() => silent.peers[0]?.frames.length > 0)
    clock.advance(4_999)
    await turns()
    t.equal(waiting.over, false)
    clock.advance(1)
    t.match((await waiting.ended()).errors, [{ code: 'UND_ERR_CONNECT_TIMEOUT' }])
    await until(() => silent.peers[0].closed)
    t.equal(connections.stats().total, 0)
  })
})

t.test('a request that is given up', async t => {
  await t.test('before there is a session: nobody connects for it any more', LIMIT, async t => {
    const backend = await frameBackend(t, () => {}, { greets: false })
    const connections = connectionsTo(t, backend)
    const recorders = [ask(connections), ask(connections)]
    await until(() => backend.peers[0]?.frames.length > 0)
    connections.cancel(recorders[0])
    await turns()
    t.equal(backend.peers[0].closed, false)
    connections.cancel(recorders[1])
    await until(() => backend.peers[0].closed)
    t.match(connections.stats(), { total: 0, pending: 0, connectErrors: 0 })
    t.strictSame(recorders.map(({ over }) => over), [false, false])
  })

  await t.test('by its handler when it is about to be sent: it is not', LIMIT, async t => {
    const backend = await frameBackend(t, answering)
    const connections = connectionsTo(t, backend)
    await ask(connections).ended()
    const aborting = new Recorder()
    aborting.onConnect = abort => abort(new Error('changed my mind'))
    connections.dispatch(requestOf(), aborting)
    t.match(aborting.errors, [{ message: 'changed my mind' }])
    const cancelling = new Recorder()
    cancelling.onConnect = () => connections.cancel(cancelling)
    connections.dispatch(requestOf(), cancelling)
    await turns()
    t.equal(cancelling.over, false)
    t.equal(cancelling.status, 0)
    t.equal((await ask(connections).ended()).status, 200)
    await until(() => connections.stats().idle === 1)
  })

  await t.test('before its answer, or in it: its stream is reset, and no other', LIMIT, async t => {
    const backend = await frameBackend(t)
    const connections = connectionsTo(t, backend)
    const other = ask(connections)
    const recorders = [ask(connections), ask(connections)]
    await until(() => backend.streams.length === 3)
    backend.peers[0].send(head(5, 200), data(5, 'half'))
    await until(() => recorders[1].body === 'half')
    for (const recorder of recorders) connections.cancel(recorder)
    await until(() => backend.peers[0].resetCode(3) === CANCEL && backend.peers[0].resetCode(5) === CANCEL)
    backend.peers[0].send(data(5, 'more'), head(1, 200, [], END_STREAM))
    t.equal((await other.ended()).status, 200)
    t.strictSame(recorders.map(({ over, body }) => [over, body]), [[false, ''], [false, 'half']])
  })
})

t.test('a backend that is gone without having said so', async t => {
  const start = async (t: Test, options: { answersPings?: boolean } = {}) => {
    const clock = new FakeClock()
    const backend = await frameBackend(t, (peer, id, nth) => { if (nth === 0) answering(peer, id, nth) }, options)
    const connections = connectionsTo(t, backend, { idleTimeout: 1_000_000 }, clock)
    await ask(connections).ended()
    await until(() => connections.stats().idle === 1)
    return { clock, backend, connections, peer: backend.peers[0] }
  }

  await t.test('is asked by a PING with the first request after a while', LIMIT, async t => {
    const { clock, connections, backend, peer } = await start(t, { answersPings: false })
    clock.advance(9_000)
    const soon = ask(connections)
    await until(() => backend.streams.length === 2)
    await turns()
    t.equal(peer.of(PING).length, 0)
    connections.cancel(soon)
    await until(() => connections.stats().idle === 1)
    clock.advance(20_000)
    const recorder = ask(connections)
    await until(() => peer.of(PING).length === 1)
    clock.advance(14_999)
    await turns()
    t.equal(recorder.over, false)
    clock.advance(1)
    t.match((await recorder.ended()).errors, [{ message: /PING/ }])
    t.equal(recorder.reused, true)
    await until(() => peer.closed)
    ask(connections)
    await until(() => backend.peers.length === 2)
  })

  await t.test('one that answers the PING, or sends anything, is left alone', LIMIT, async t => {
    for (const answersPings of [true, false]) {
      const { clock, connections, backend, peer } = await start(t, { answersPings })
      clock.advance(20_000)
      const recorder = ask(connections)
      await until(() => backend.streams.length === 2 && peer.of(PING).length === 1)
      if (!answersPings) peer.send(head(3, 103))
      if (!answersPings) await until(() => recorder.interim.length === 1)
      await turns()
      clock.advance(15_000)
      await turns()
      t.equal(recorder.over, false)
      peer.send(head(3, 200, [], END_STREAM))
      t.equal((await recorder.ended()).status, 200)
    }
  })

  await t.test('is asked while a stream is silent for long, but seldom', LIMIT, async t => {
    const { clock, connections, backend, peer } = await start(t)
    const recorder = ask(connections)
    await until(() => backend.streams.length === 2)
    peer.send(head(3, 200))
    await until(() => recorder.status === 200)
    clock.advance(300_000)
    await turns()
    t.equal(peer.of(PING).length, 0, 'not within 5 minutes')
    clock.advance(30_000)
    await until(() => peer.of(PING).length === 1)
    await turns()
    clock.advance(290_000)
    await turns()
    t.equal(peer.of(PING).length, 1)
    t.equal(recorder.over, false)
  })

  await t.test('is asked when requests on a silent session go on, or are given up', LIMIT, async t => {
    for (const how of ['another', 'given up']) {
      const { clock, connections, backend, peer } = await start(t, { answersPings: false })
      const recorder = ask(connections)
      await until(() => backend.streams.length === 2)
      clock.advance(10_000)
      clock.advance(10_000)
      t.equal(peer.of(PING).length, 0)
      if (how === 'another') ask(connections)
      else connections.cancel(recorder)
      await until(() => peer.of(PING).length === 1)
      clock.advance(15_000)
      await until(() => peer.closed)
    }
  })
})

t.test('closing', async t => {
  await t.test('waits for what is under way, and for what waits', LIMIT, async t => {
    const backend = await frameBackend(t)
    const connections = connectionsTo(t, backend, { connections: 1, maxConcurrentStreams: 1 })
    const recorders = [ask(connections), ask(connections)]
    await until(() => backend.streams.length === 1)
    let closed = false
    const closing = connections.close(() => { closed = true })
    await turns()
    backend.peers[0].send(head(1, 200, [], END_STREAM))
    await until(() => backend.streams.length === 2)
    t.equal(closed, false)
    backend.peers[0].send(head(3, 200, [], END_STREAM))
    await closing
    for (const recorder of recorders) t.equal((await recorder.ended()).status, 200)
    await until(() => backend.peers[0].closed)
    t.equal(closed, true)
    t.equal(connections.stats().total, 0)
  })

  await t.test('is at once where there is nothing, or nothing is under way', LIMIT, async t => {
    const backend = await frameBackend(t, answering)
    await connectionsTo(t, backend).close()
    const connections = connectionsTo(t, backend)
    await ask(connections).ended()
    await connections.close()
    await until(() => backend.peers[0].closed)
    t.pass()
  })

  await t.test('destroying fails everything at once', LIMIT, async t => {
    const backend = await frameBackend(t)
    const connections = connectionsTo(t, backend, { connections: 1, maxConcurrentStreams: 1 })
    const recorders = [ask(connections), ask(connections)]
    await until(() => backend.streams.length === 1)
    await connections.destroy(new Error('away'))
    for (const recorder of recorders) t.match((await recorder.ended()).errors, [{ message: 'away' }])
    t.match(ask(connections).errors, [{ message: 'away' }])
    await until(() => backend.peers[0].closed)
  })

  await t.test('renewing lets sessions go, and loses nothing', LIMIT, async t => {
    const backend = await frameBackend(t)
    const connections = connectionsTo(t, backend)
    const first = ask(connections)
    await until(() => backend.streams.length === 1)
    connections.renew()
    const second = ask(connections)
    await until(() => backend.streams.length === 2)
    t.equal(backend.streams[1].peer, backend.peers[1])
    for (const { peer, id } of backend.streams) peer.send(head(id, 200, [], END_STREAM))
    t.equal((await first.ended()).status, 200)
    t.equal((await second.ended()).status, 200)
    await until(() => backend.peers[0].closed)
  })
})

t.test('noise from a client of HTTP/1.1 does not matter to anybody', LIMIT, async t => {
  const backend: FrameBackend = await frameBackend(t)
  const wire = await connectTo(t, backend.port)
  wire.close()
  t.pass()
})

t.test('what is sent again comes before what has waited less', LIMIT, async t => {
  const backend = await frameBackend(t)
  const connections = connectionsTo(t, backend, { maxConcurrentStreams: 1, connections: 1 })
  const [, other, again, last] = [ask(connections), ask(connections), ask(connections, { fresh: true }), ask(connections, { fresh: true })]
  for (const [i, next] of [again, last, other].entries()) {
    await until(() => backend.streams.length === i + 1)
    const { peer, id } = backend.streams[i]
    peer.send(head(id, 200, [], END_STREAM))
    await until(() => !connections.isWaiting(next))
  }
  t.pass()
})

t.test('a backend that does not close its side holds up nobody who closes', LIMIT, async t => {
  const clock = new FakeClock()
  const backend = await frameBackend(t, answering)
  const connections = connectionsTo(t, backend, {}, clock)
  await ask(connections).ended()
  // Its side stays open, whatever is said to it.
  backend.peers[0].socket.allowHalfOpen = true
  let closed = false
  const closing = connections.close().then(() => { closed = true })
  await until(() => backend.peers[0].frames.some(({ type }) => type === GOAWAY))
  await turns()
  if (!closed) clock.advance(1_000)
  await closing
  t.equal(connections.stats().total, 0)
})
