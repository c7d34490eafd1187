import { once } from 'node:events'
import { createServer, type IncomingMessage, type RequestListener } from 'node:http'
import { connect, type AddressInfo, type Socket } from 'node:net'
import { PassThrough, Readable } from 'node:stream'
import t, { type Test } from 'tap'
import { RequestBody, takeWholeBody, type BodyListener } from '../../../lib/forward/request-body.ts'
import { seeded } from '../../helpers/random.ts'
import { until } from '../../helpers/wire.ts'

class Listener implements BodyListener {
  progress = 0
  ends = 0
  failures: Error[] = []
  onBodyProgress (): void { this.progress++ }
  onBodyEnd (): void { this.ends++ }
  onBodyFailed (error: Error): void { this.failures.push(error) }
}

function start (source: Readable, limit = 0): { listener: Listener, upload: Readable, body: RequestBody } {
  const listener = new Listener()
  const body = new RequestBody(source, limit, listener)
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
  const { listener, upload } = start(source)
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
    const { listener, upload } = start(source)
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
  const { upload } = start(source)
  upload.destroy(new Error('nobody cares'))
  await until(() => upload.closed)
  t.equal(upload.destroyed, true)
})

t.test('a source that fails once it was let go of is no uncaught exception either', async t => {
  const source = new PassThrough()
  const { listener, upload } = start(source)
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
  const { listener, upload } = start(source)
  source.end('whole')
  const text = all(upload)
  await once(source, 'close')
  t.equal(await text, 'whole')
  t.equal(upload.errored, null)
  t.strictSame(listener.failures, [])
})

t.test('a source that ends while the backend is slow is sent whole', async t => {
  const source = new PassThrough()
  const { listener, upload } = start(source)
  source.end(Buffer.alloc(100_000, 'x'))
  upload.read(0)
  await until(() => listener.progress > 0)
  await new Promise(resolve => setImmediate(resolve))
  t.equal((await all(upload)).length, 100_000)
  t.equal(listener.ends, 1)
})

// Another attempt

/** Lets what is due in this process happen. */
async function turns (count = 5): Promise<void> {
  for (let i = 0; i < count; i++) await new Promise(resolve => setImmediate(resolve))
}

/** Writes parts one by one, each when the one before has been read. */
async function write (source: PassThrough, listener: Listener, ...parts: string[]): Promise<void> {
  for (const part of parts) {
    const { progress } = listener
    source.write(part)
    await until(() => listener.progress > progress)
  }
}

t.test('a body that has come whole can be had again, as often as wanted, and at the same time', async t => {
  const source = new PassThrough()
  const { listener, upload, body } = start(source, 100)
  const text = all(upload)
  await write(source, listener, 'one ', 'two ', 'three')
  source.end()
  t.equal(await text, 'one two three')
  t.equal(body.ended, true)
  t.equal(body.replayable(100), true)
  t.strictSame(await Promise.all([all(body.open()), all(body.open()), all(body.open())]), Array(3).fill('one two three'))
  t.strictSame([listener.progress, listener.ends, listener.failures], [3, 1, []], 'and the client is read once')
  t.equal(String(body.whole()), 'one two three')
})

t.test('what is kept are the chunks that were read, not copies', async t => {
  const source = new PassThrough()
  const { listener, upload, body } = start(source, 100)
  const first: Buffer[] = []
  upload.on('data', chunk => first.push(chunk))
  await write(source, listener, 'one', 'two')
  source.end()
  await once(upload, 'end')
  const second: Buffer[] = []
  body.open().on('data', chunk => second.push(chunk))
  await until(() => second.length === 2)
  t.equal(first.length, 2)
  for (const [i, chunk] of first.entries()) t.equal(chunk, second[i])
})

t.test('a body is kept up to its limit, and not a byte beyond', async t => {
  for (const [limit, kept] of [[10, true], [9, false], [0, false]] as const) {
    const source = new PassThrough()
    const { listener, upload, body } = start(source, limit)
    const text = all(upload)
    await write(source, listener, '12345')
    t.equal(body.replayable(Infinity), limit >= 5, `${limit}: after half`)
    await write(source, listener, '67890')
    source.end()
    t.equal(await text, '1234567890', 'it passes all the same')
    t.equal(body.replayable(Infinity), kept, `${limit}: after all`)
    t.equal(body.whole()?.toString() ?? null, kept ? '1234567890' : null)
  }
})

t.test('a body that was kept for others may be too large for another attempt', async t => {
  const source = new PassThrough()
  const { listener, upload, body } = start(source, 100)
  const text = all(upload)
  await write(source, listener, '1234567890')
  source.end()
  await text
  t.strictSame([body.replayable(10), body.replayable(9), body.replayable(0)], [true, false, false])
})

t.test('a body of which nothing was read can be had again whatever its limit', async t => {
  const source = new PassThrough()
  const { listener, upload, body } = start(source, 0)
  source.write('waits')
  t.equal(body.replayable(0), true)
  upload.destroy()
  await until(() => upload.closed)
  t.equal(body.replayable(0), true)
  const again = all(body.open())
  await until(() => listener.progress === 1)
  t.equal(body.replayable(0), false)
  source.end(' here')
  t.equal(await again, 'waits here')
})

t.test('the whole is not known before it has come', async t => {
  const source = new PassThrough()
  const { listener, upload, body } = start(source, 100)
  upload.resume()
  await write(source, listener, 'half')
  t.equal(body.whole(), null)
  source.end(' and half')
  await once(upload, 'end')
  t.equal(String(body.whole()), 'half and half')
})

t.test('another attempt gets what has come and then what still comes, and the one before gets no more', async t => {
  const source = new PassThrough()
  const { listener, upload, body } = start(source, 100)
  let first = ''
  upload.on('data', chunk => { first += chunk })
  await write(source, listener, 'one ', 'two ')
  await until(() => first === 'one two ')
  upload.destroy()
  const second = all(body.open())
  await write(source, listener, 'three ')
  source.end('four')
  t.equal(await second, 'one two three four')
  t.equal(first, 'one two ')
  t.equal(await all(body.open()), 'one two three four')
})

t.test('nothing is read from the client between two attempts', async t => {
  const source = new PassThrough()
  const { listener, upload, body } = start(source, 100)
  upload.resume()
  await write(source, listener, 'one ')
  upload.destroy()
  await until(() => upload.closed)
  source.write('two ')
  await turns()
  t.equal(listener.progress, 1)
  t.equal(body.heldByBackend, true, 'it is not the client who is waited for')
  const second = all(body.open())
  source.end('three')
  t.equal(await second, 'one two three')
})

t.test('what comes before the next attempt reads stands behind what was kept', async t => {
  // The one before is still open: undici destroys the body of a request that has failed only later.
  for (const late of [['three ', 'four'], ['three four']]) {
    const source = new PassThrough()
    const { listener, upload, body } = start(source, 100)
    upload.resume()
    await write(source, listener, 'one ', 'two ')
    const next = body.open()
    for (const part of late) source.write(part)
    await turns()
    upload.destroy()
    await turns()
    const text = all(next)
    source.end()
    t.equal(await text, 'one two three four')
    t.equal(await all(body.open()), 'one two three four')
  }
})

t.test('an end that comes before the next attempt reads cuts nothing off', async t => {
  // The end has come with the last bytes, and Node is about to tell of it: pausing does not hold that up.
  const source = new PassThrough()
  source.end('all of it')
  await turns()
  const { listener, upload, body } = start(source, 100)
  let next: Readable | undefined
  upload.on('data', () => { next = body.open() })
  await until(() => listener.ends === 1)
  await turns()
  t.equal(await all(next as Readable), 'all of it')
})

t.test('an attempt that reads slowly gets all that was kept before what still comes', async t => {
  const source = new PassThrough({ highWaterMark: 1_000_000 })
  const { upload, body, listener } = start(source, 1_000_000)
  upload.resume()
  const part = (i: number) => String(i % 10).repeat(10_000)
  for (let i = 0; i < 20; i++) await write(source, listener, part(i))
  upload.destroy()
  const next = body.open()
  next.read(0)
  await turns()
  t.ok(next.readableLength < 200_000, 'it holds only as much as it asked for')
  for (let i = 20; i < 25; i++) source.write(part(i))
  source.end()
  t.equal(await all(next), Array.from({ length: 25 }, (_, i) => part(i)).join(''))
})

t.test('attempts that give up at any moment leave the next one every byte, once and in order', async t => {
  for (let seed = 1; seed <= 200; seed++) {
    const random = seeded(seed)
    const source = new PassThrough({ highWaterMark: 16 })
    const { listener, upload, body } = start(source, 10_000)
    let open = upload
    let expected = ''
    for (let step = 0; step < 30; step++) {
      const dice = random()
      if (dice < 0.4) {
        const part = `${step}-${'x'.repeat(Math.floor(random() * 40))};`
        expected += part
        source.write(part)
      } else if (dice < 0.55) open.read()
      else if (dice < 0.7) open.resume()
      else if (dice < 0.8) {
        const before = open
        open = body.open()
        if (random() < 0.5) before.destroy()
      } else await turns(1)
    }
    source.end()
    if (random() < 0.5) await turns(1)
    const last = body.open()
    const text = await all(last)
    if (text !== expected) t.equal(text, expected, `seed ${seed}`)
    if (listener.ends !== 1 || body.bytes !== expected.length) t.fail(`seed ${seed}: ${listener.ends} ends, ${body.bytes} bytes`)
  }
  t.pass('all seeds')
})

t.test('who listens may change, and only the new one hears', async t => {
  const source = new PassThrough()
  const { listener, upload, body } = start(source, 100)
  upload.resume()
  await write(source, listener, 'one')
  const other = body.listener = new Listener()
  source.end('two')
  await until(() => other.ends === 1)
  t.strictSame([listener.progress, listener.ends, other.progress], [1, 0, 1])
})

t.test('once it is closed it keeps nothing', async t => {
  const source = new PassThrough()
  const { listener, upload, body } = start(source, 100)
  upload.resume()
  await write(source, listener, 'one')
  body.close()
  t.equal(body.replayable(100), false)
  t.equal(body.whole(), null)
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
