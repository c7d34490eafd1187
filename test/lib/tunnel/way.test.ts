import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { FrameTracker } from '../../../lib/tunnel/frames.ts'
import { Way, type Passage } from '../../../lib/tunnel/way.ts'
import { until } from '../../helpers/wire.ts'

/** Two ends of one connection. */
async function pair (t: Test): Promise<[Socket, Socket]> {
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const far = connect({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true })
  const [near] = await once(server, 'connection') as [Socket]
  server.close()
  for (const socket of [far, near]) {
    socket.on('error', () => {})
    t.teardown(() => socket.destroy())
  }
  return [far, near]
}

/** A way between two connections, with what its listener has heard. */
async function start (t: Test, frames: FrameTracker | null = null) {
  const [[sender, from], [receiver, to]] = [await pair(t), await pair(t)]
  const heard: string[] = []
  const passage: Passage = { onPassed: () => { heard.push('passed') }, onEnded: () => { heard.push('ended') }, onSaid: () => { heard.push('said') } }
  let received = ''
  receiver.on('data', chunk => { received += chunk.toString('latin1') })
  return { sender, from, to, receiver, heard, way: new Way(from, to, frames, passage), received: () => received }
}

const times = (heard: string[], what: string) => heard.filter(event => event === what).length

t.test('what came before comes first, and all is counted', async t => {
  const { sender, way, heard, received } = await start(t)
  sender.write('three')
  way.start([Buffer.from('one'), Buffer.from('two')])
  await until(() => received() === 'onetwothree')
  t.equal(way.bytes, 11)
  t.equal(times(heard, 'passed'), 3)
  sender.end('four')
  await until(() => heard.includes('ended'))
  t.equal(received(), 'onetwothreefour')
  t.equal(way.ended, true)
  t.equal(way.closed, false)
})

t.test('who gets it sets the pace', async t => {
  const { sender, from, to, receiver, way, received } = await start(t)
  receiver.pause()
  way.start()
  const chunk = Buffer.alloc(65_536, 'x')
  let sent = 0
  while (!to.writableNeedDrain) {
    sender.write(chunk)
    sent += chunk.length
    await new Promise(resolve => setImmediate(resolve))
  }
  t.ok(from.isPaused())
  t.ok(to.writableLength + from.readableLength < 300_000)
  receiver.resume()
  await until(() => received().length === sent)
  t.notOk(from.isPaused())
})

t.test('too much before asks the sender to wait', async t => {
  const { sender, from, receiver, way, received } = await start(t)
  receiver.pause()
  const early = Array.from({ length: 400 }, () => Buffer.alloc(65_536, 'e'))
  way.start(early)
  t.ok(from.isPaused())
  t.equal(from.listenerCount('data'), 1)
  sender.write('behind it')
  receiver.resume()
  await until(() => received().length === 400 * 65_536 + 9)
  t.ok(received().endsWith('ebehind it'))
})

t.test('last words of another come between frames, and nothing behind them', async t => {
  const { sender, way, heard, received } = await start(t, new FrameTracker())
  way.start()
  sender.write(Buffer.from([0x82, 5, 1, 2]))
  await until(() => received().length === 4)
  way.endWith(Buffer.from('LAST'))
  t.notOk(way.said)
  await new Promise(resolve => setImmediate(resolve))
  t.equal(received().length, 4)
  sender.write(Buffer.from([3, 4]))
  await until(() => received().length === 6)
  t.notOk(way.said)
  sender.write(Buffer.from([5, 0x82, 1, 9, 0x88, 0]))
  await until(() => heard.includes('said') && heard.includes('ended'))
  t.ok(way.said)
  await until(() => received().endsWith('LAST'))
  t.equal(received(), '\x82\x05\x01\x02\x03\x04\x05LAST')
  t.equal(way.bytes, 7, 'nothing else has passed')
  t.ok(way.closed, 'its close frame has been seen all the same')
})

t.test('last words come at once between frames', async t => {
  const { way, heard, received } = await start(t, new FrameTracker())
  way.start([Buffer.from([0x81, 1, 0x61])])
  way.endWith(Buffer.from('LAST'))
  t.same(heard, ['passed', 'said'])
  await until(() => received() === '\x81\x01aLAST')
})

t.test('there is nothing to be said behind a close frame', async t => {
  const { way, heard, received, sender } = await start(t, new FrameTracker())
  way.start([Buffer.from([0x88, 0])])
  way.endWith(Buffer.from('LAST'))
  t.same(heard, ['passed', 'said'])
  t.ok(way.said)
  sender.write(Buffer.from([0x88, 0]))
  await until(() => heard.includes('ended'))
  t.equal(received(), '\x88\x00')
})

t.test('who takes nothing any more is told nothing', async t => {
  const { way, to, heard } = await start(t, new FrameTracker())
  way.start()
  to.end()
  way.endWith(Buffer.from('LAST'))
  t.same(heard, ['said'])
  to.destroy()
})
