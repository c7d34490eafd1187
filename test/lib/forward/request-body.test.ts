import { once } from 'node:events'
import { createServer, type IncomingMessage, type RequestListener } from 'node:http'
import { connect, type AddressInfo, type Socket } from 'node:net'
import { PassThrough, Readable } from 'node:stream'
import t, { type Test } from 'tap'
import { RequestBody, takeWholeBody, type BodyListener } from '../../../lib/forward/request-body.ts'
import { until } from '../../helpers/wire.ts'

class Listener implements BodyListener {
  progress = 0
  ends = 0
  failures: Error[] = []
  onBodyProgress (): void { this.progress++ }
  onBodyEnd (): void { this.ends++ }
  onBodyFailed (error: Error): void { this.failures.push(error) }
}

function start (source: Readable): { listener: Listener, upload: Readable, body: RequestBody } {
  const listener = new Listener()
  const body = new RequestBody(source, 0, listener)
  return { listener, body, upload: body.open() }
}

async function all (stream: Readable): Promise<string> {
  let text = ''
  for await (const chunk of stream) text += chunk
  return text
}

t.test('all bytes pass, and the listener hears of each chunk and of the end', async t => {
  const source = new PassThrough()
  const { listener, upload, body } = start(source)
  const text = all(upload)
  for (const part of ['one ', 'two ', 'three']) {
    const { progress } = listener
    source.write(part)
    await until(() => listener.progress > progress)
  }
  t.equal(listener.ends, 0)
  source.end()
  t.equal(await text, 'one two three')
  t.strictSame([listener.progress, listener.ends, body.bytes], [3, 1, 13])
})

t.test('nothing is read before somebody wants it', async t => {
  const source = new PassThrough()
  const { listener, upload, body } = start(source)
  source.write('early')
  await new Promise(resolve => setImmediate(resolve))
  t.equal(listener.progress, 0)
  t.equal(source.readableLength, 5)
  source.end()
  t.equal(await all(upload), 'early')
})

t.test('an empty source ends it empty', async t => {
  const { listener, upload } = start(Readable.from([]))
  t.equal(await all(upload), '')
  t.strictSame([listener.progress, listener.ends], [0, 1])
})

t.test('a backend that takes nothing holds the source, and lets it go on', async t => {
  const WHOLE = 5_000_000
  let made = 0
  const source = new Readable({
    read () {
      made += 10_000
      this.push(Buffer.alloc(10_000))
      if (made === WHOLE) this.push(null)
    }
  })
  const { upload, body } = start(source)
  t.equal(body.heldByBackend, false)
  upload.read(0)
  await until(() => body.heldByBackend)
  const before = made
  for (let i = 0; i < 20; i++) await new Promise(resolve => setImmediate(resolve))
  t.equal(made, before, 'nothing more is asked for')
  t.ok(before < WHOLE / 2)
  t.equal((await all(upload)).length, WHOLE, 'and in the end it has all')
})

t.test('letting go of it leaves the source alive and without listeners of ours', async t => {
  for (const error of [undefined, new Error('given up')]) {
    const source = new PassThrough()
    // One for errors may stay: a source that fails when nobody reads it any more must not bring the process down.
    const counts = (): number[] => ['data', 'end', 'close'].map(event => source.listenerCount(event))
    const before = counts()
    const { listener, upload, body } = start(source)
    upload.resume()
    source.write('x')
    await until(() => listener.progress === 1)
    upload.destroy(error)
    await until(() => upload.closed)
    body.close()
    t.strictSame(counts(), before)
    t.equal(source.destroyed, false)
    t.equal(source.isPaused(), true)
    source.resume()
    source.end('rest')
    await once(source, 'end')
    t.strictSame([listener.progress, listener.ends, listener.failures], [1, 0, []], 'and hears of nothing any more')
  }
})

t.test('a source that fails or closes early never ends it whole', async t => {
  const ways: [string, (source: PassThrough) => unknown][] = [
    ['fails', source => source.destroy(new Error('reset'))],
    ['closes', source => source.destroy()]
  ]
  for (const [name, leave] of ways) {
    const source = new PassThrough()
    const { listener, upload, body } = start(source)
    let ended = false
    upload.on('end', () => { ended = true }).resume()
    source.write('half')
    await until(() => listener.progress === 1)
    const failed = once(upload, 'error')
    leave(source)
    t.type((await failed)[0], Error, name)
    t.equal(ended, false)
    t.equal(listener.ends, 0)
    t.equal(listener.failures.length, 1, 'the listener hears of it, once')
    t.equal(upload.destroyed, true)
  }
})

t.test('an error of an upload that nobody listens to is no uncaught exception', async t => {
  const source = new PassThrough()
  const { upload, body } = start(source)
  upload.destroy(new Error('nobody cares'))
  await until(() => upload.closed)
  t.equal(upload.destroyed, true)
})

t.test('a source that fails once it was let go of is no uncaught exception either', async t => {
  const source = new PassThrough()
  const { listener, upload, body } = start(source)
  upload.resume()
  source.write('x')
  await until(() => listener.progress === 1)
  upload.destroy()
  await until(() => upload.closed)
  source.destroy(new Error('a hook\'s stream chokes on the rest'))
  await until(() => source.closed)
  t.strictSame(listener.failures, [])
})

t.test('a source that closes after its end is no failure', async t => {
  const source = new PassThrough()
  const { listener, upload, body } = start(source)
  source.end('whole')
  const text = all(upload)
  await once(source, 'close')
  t.equal(await text, 'whole')
  t.equal(upload.errored, null)
  t.strictSame(listener.failures, [])
})

t.test('a source that ends while the backend is slow is sent whole', async t => {
  const source = new PassThrough()
  const { listener, upload, body } = start(source)
  source.end(Buffer.alloc(100_000, 'x'))
  upload.read(0)
  await until(() => listener.progress > 0)
  await new Promise(resolve => setImmediate(resolve))
  t.equal((await all(upload)).length, 100_000)
  t.equal(listener.ends, 1)
})

// takeWholeBody

/** A server of Node's whose requests a test looks at. */
async function serve (t: Test, listener: RequestListener): Promise<Socket> {
  const server = createServer(listener).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const socket = connect((server.address() as AddressInfo).port, '127.0.0.1').setNoDelay(true)
  await once(socket, 'connect')
  t.teardown(() => {
    socket.destroy()
    server.close()
    server.closeAllConnections()
  })
  return socket
}

/** What `takeWholeBody` finds a tick after a request's head; `later` is sent when it has looked. */
async function takenFrom (t: Test, head: string, length: number, later = ''): Promise<{ taken: Buffer | null, raw: IncomingMessage }> {
  return await new Promise((resolve, reject) => {
    let client: Socket | undefined
    serve(t, raw => process.nextTick(() => {
      resolve({ taken: takeWholeBody(raw, length), raw })
      if (later !== '') client?.write(later)
    })).then(socket => {
      client = socket
      socket.write(head)
    }, reject)
  })
}

t.test('a small body in the packet of its head is taken whole', async t => {
  for (const length of [1, 4, 1_000, 10_000]) {
    const { taken, raw } = await takenFrom(t, `POST / HTTP/1.1\r\nHost: g\r\nContent-Length: ${length}\r\n\r\n${'x'.repeat(length)}`, length)
    t.equal(taken?.length, length, `${length} bytes`)
    await until(() => raw.complete)
    t.equal(raw.readableLength, 0, 'and nothing is left of it')
  }
})

t.test('a body that is not all there is left where it is', async t => {
  const { taken, raw } = await takenFrom(t, 'POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 8\r\n\r\nhalf', 8, 'half')
  t.equal(taken, null)
  t.equal(await all(raw), 'halfhalf', 'and can be streamed')
})

t.test('a body whose length nobody knows is left where it is', async t => {
  const { taken, raw } = await takenFrom(t, 'POST / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n', -1)
  t.equal(taken, null)
  t.equal(await all(raw), 'body')
})
