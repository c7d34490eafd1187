import { credentials, Metadata, ServerCredentials, status, type ServerUnaryCall, type ServiceError, type StatusObject } from '@grpc/grpc-js'
import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type Gateway } from '../helpers/app.ts'
import { grpcBackend, grpcClient, type CallHandlers, type CallsClient, type Note } from '../helpers/grpc.ts'
import { END_STREAM, fields, frame, frameBackend, goaway, head, HEADERS, data, REFUSED_STREAM, reset } from '../helpers/http2-frames.ts'
import { until } from '../helpers/wire.ts'

const LIMIT = { timeout: 10_000 }
const folder = mkdtempSync(join(tmpdir(), 'rockstar-proxy-grpc-'))
t.teardown(() => rmSync(folder, { recursive: true }))
execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2',
  '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1',
  '-keyout', join(folder, 'key.pem'), '-out', join(folder, 'cert.pem')], { stdio: 'ignore' })
const key = readFileSync(join(folder, 'key.pem'))
const cert = readFileSync(join(folder, 'cert.pem'))

/** Hands the content of gRPC calls on as it comes. */
const passOn = (_request: unknown, _reply: unknown, payload: unknown, done: (error: null, payload: unknown) => void) => done(null, payload)
/** The two ways that an answer goes out by. */
const WAYS = { raw: [{ prefix: '/' }], hooked: [{ prefix: '/', onSend: passOn }] }

interface Call {
  error: ServiceError | null
  note: Note | undefined
  metadata: Metadata | undefined
  status: StatusObject | undefined
}

/** A unary call, and all that came of it. */
async function unary (client: CallsClient, note: Note, metadata = new Metadata(), options = {}): Promise<Call> {
  return await new Promise(resolve => {
    const result: Call = { error: null, note: undefined, metadata: undefined, status: undefined }
    let ended = 0
    const end = () => { if (++ended === 2) resolve(result) }
    client.Unary(note, metadata, { deadline: Date.now() + 8_000, ...options }, (error, answer) => {
      result.error = error
      result.note = answer
      end()
    }).on('metadata', came => { result.metadata = came }).on('status', came => {
      result.status = came
      end()
    })
  })
}

async function start (t: Test, port: number, options: RockstarProxyOptions = {}, fastify: Record<string, unknown> = { http2: true }): Promise<Gateway> {
  return await startGateway(t, { http2: true, backends: [{ id: 'b', url: `http://127.0.0.1:${port}` }], routes: WAYS.raw, ...options }, { fastify })
}

/** A backend, a gateway and a client in a row. */
async function row (t: Test, handlers?: CallHandlers, options?: RockstarProxyOptions): Promise<{ gateway: Gateway, client: CallsClient }> {
  const { port } = await grpcBackend(t, handlers)
  const gateway = await start(t, port, options)
  return { gateway, client: grpcClient(t, gateway.port) }
}

async function settled (t: Test, { app }: Gateway): Promise<void> {
  await until(() => app.proxy.getMetrics().inFlight === 0 && app.proxy.getConnectionPool().stats().active === 0)
  t.pass('nothing is left under way')
}

for (const [way, routes] of Object.entries(WAYS)) {
  t.test(`${way}: all four kinds of calls`, async t => {
    const { gateway, client } = await row(t, {}, { routes })

    await t.test('unary', LIMIT, async t => {
      for (let i = 0; i < 20; i++) {
        const { error, note, status: ended } = await unary(client, { text: `hello ${i}`, data: Buffer.from([0, 255]), count: i })
        t.equal(error, null)
        t.match(note, { text: `hello ${i}`, data: Buffer.from([0, 255]), count: i })
        t.equal(ended?.code, status.OK)
      }
    })

    await t.test('server streaming', LIMIT, async t => {
      for (const count of [0, 1, 1_000]) {
        const notes: string[] = []
        const call = client.Many({ count })
        call.on('data', (note: Note) => notes.push(note.text as string))
        const ended = await new Promise<StatusObject>(resolve => call.on('status', resolve))
        t.equal(ended.code, status.OK)
        t.strictSame(notes, Array.from({ length: count }, (_, i) => `${i}`))
      }
    })

    await t.test('client streaming', LIMIT, async t => {
      for (const count of [0, 1, 1_000]) {
        const note = await new Promise<Note | undefined>((resolve, reject) => {
          const call = client.Collect(new Metadata(), {}, (error, answer) => error === null ? resolve(answer) : reject(error))
          for (let i = 0; i < count; i++) call.write({ text: 'x' })
          call.end()
        })
        t.match(note, { count, text: 'x'.repeat(count) })
      }
    })

    await t.test('both ways at once, note by note', LIMIT, async t => {
      const call = client.Chat()
      const notes: string[] = []
      call.on('data', (note: Note) => notes.push(note.text as string))
      let ended: StatusObject | undefined
      call.on('status', came => { ended = came })
      for (let i = 0; i < 100; i++) {
        call.write({ text: `${i}` })
        await until(() => notes.length === i + 1)
        t.equal(ended, undefined)
      }
      call.end()
      await until(() => ended !== undefined)
      t.equal(ended?.code, status.OK)
      t.equal(notes.at(-1), '99')
    })

    await t.test('messages of many megabytes', LIMIT, async t => {
      const content = randomBytes(8_000_000)
      const { note, error } = await unary(client, { data: content })
      t.equal(error, null)
      t.equal(createHash('sha256').update(note?.data as Buffer).digest('hex'), createHash('sha256').update(content).digest('hex'))
    })

    await settled(t, gateway)
    const { totalRequests, failedRequests, abortedRequests } = gateway.app.proxy.getMetrics()
    t.match({ totalRequests, failedRequests, abortedRequests }, { totalRequests: 28, failedRequests: 0, abortedRequests: 0 })
    t.equal(gateway.app.proxy.getConnectionPool().stats().connects, 1, 'on one connection')
  })

  t.test(`${way}: errors come as they are, with nothing before them or after a part`, LIMIT, async t => {
    const trailers = new Metadata()
    trailers.set('why', 'because')
    trailers.set('why-bin', Buffer.from([1, 2, 255]))
    const { client, gateway } = await row(t, {
      Unary: (_call, answer) => answer({ code: status.NOT_FOUND, details: 'no such thöng', metadata: trailers }),
      Many (call) {
        call.write({ text: 'one' })
        call.emit('error', { code: status.DATA_LOSS, details: 'lost', metadata: trailers })
      }
    }, { routes })
    const { error, status: ended } = await unary(client, {})
    t.match(error, { code: status.NOT_FOUND, details: 'no such thöng' })
    t.strictSame(ended?.metadata.get('why'), ['because'])
    t.strictSame(ended?.metadata.get('why-bin'), [Buffer.from([1, 2, 255])])
    const call = client.Many({})
    const notes: string[] = []
    call.on('data', (note: Note) => notes.push(note.text as string)).on('error', () => {})
    const streamed = await new Promise<StatusObject>(resolve => call.on('status', resolve))
    t.match(streamed, { code: status.DATA_LOSS, details: 'lost' })
    t.strictSame(streamed.metadata.get('why'), ['because'])
    t.strictSame(notes, ['one'])
    const unknown = await new Promise<ServiceError>(resolve => client.makeUnaryRequest('/calls.Calls/None', () => Buffer.alloc(0), bytes => bytes, {}, error => resolve(error as ServiceError)))
    t.equal(unknown.code, status.UNIMPLEMENTED)
    await settled(t, gateway)
    t.equal(gateway.app.proxy.getMetrics().failedRequests, 0, 'which are no failures of the backend')
  })

  t.test(`${way}: an answer that is nothing but trailers stays that`, LIMIT, async t => {
    const backend = await frameBackend(t, (peer, id) => { peer.send(head(id, 200, [['content-type', 'application/grpc'], ['grpc-status', '5'], ['grpc-message', 'gone']], END_STREAM)) })
    const gateway = await start(t, backend.port, { routes })
    const { error } = await unary(grpcClient(t, gateway.port), {})
    t.match(error, { code: status.NOT_FOUND, details: 'gone' })
  })
}

t.test('metadata passes both ways, binary too', LIMIT, async t => {
  let seen: Metadata | undefined
  const { client } = await row(t, {
    Unary (call, answer) {
      seen = call.metadata
      const first = new Metadata()
      first.add('x-twice', '1')
      first.add('x-twice', '2')
      first.set('x-raw-bin', Buffer.from([0, 1, 254, 255]))
      call.sendMetadata(first)
      const last = new Metadata()
      last.set('x-last', 'l')
      answer(null, call.request, last)
    }
  })
  const metadata = new Metadata()
  metadata.set('x-own', 'kept')
  metadata.add('x-many', 'a')
  metadata.add('x-many', 'b')
  metadata.set('x-bytes-bin', Buffer.from([0, 13, 10, 255]))
  const { metadata: first, status: last } = await unary(client, {}, metadata)
  t.strictSame(seen?.get('x-own'), ['kept'])
  t.strictSame(seen?.get('x-many').join(', '), 'a, b')
  t.strictSame(seen?.get('x-bytes-bin'), [Buffer.from([0, 13, 10, 255])])
  t.strictSame(first?.get('x-twice').join(', '), '1, 2')
  t.strictSame(first?.get('x-raw-bin'), [Buffer.from([0, 1, 254, 255])])
  t.strictSame(last?.metadata.get('x-last'), ['l'])
})

t.test('a call that is cancelled is cancelled at the backend', LIMIT, async t => {
  let cancelled = 0
  const { client, gateway } = await row(t, {
    Unary: call => { call.on('cancelled', () => { cancelled++ }) },
    Many (call) {
      call.write({ text: 'one' })
      call.on('cancelled', () => { cancelled++ })
    },
    Chat (call) {
      call.on('data', (note: Note) => call.write(note))
      call.on('cancelled', () => { cancelled++ })
    }
  })
  const { app } = gateway
  const failed = (call: { on: (name: 'error', listener: (error: ServiceError) => void) => unknown }) => new Promise<ServiceError>(resolve => call.on('error', resolve))

  const call = client.Unary({}, new Metadata(), {}, () => {})
  await until(() => app.proxy.getMetrics().backends.b.inFlight === 1)
  call.cancel()
  await until(() => cancelled === 1)

  const many = client.Many({})
  const broken = failed(many)
  await new Promise(resolve => many.once('data', resolve))
  many.cancel()
  t.equal((await broken).code, status.CANCELLED)
  await until(() => cancelled === 2)

  const chat = client.Chat()
  const ended = failed(chat)
  chat.write({ text: 'a' })
  await new Promise(resolve => chat.once('data', resolve))
  chat.cancel()
  t.equal((await ended).code, status.CANCELLED)
  await until(() => cancelled === 3)
  await settled(t, gateway)
  t.match(app.proxy.getMetrics().backends.b, { failedRequests: 0, abortedRequests: 3 }, 'and nobody is blamed')
})

t.test('deadlines', async t => {
  await t.test('end calls at the backend too', LIMIT, async t => {
    let cancelled = 0
    const { client, gateway } = await row(t, { Unary: call => { call.on('cancelled', () => { cancelled++ }) } })
    const { error } = await unary(client, {}, new Metadata(), { deadline: Date.now() + 100 })
    t.equal(error?.code, status.DEADLINE_EXCEEDED)
    await until(() => cancelled === 1)
    await settled(t, gateway)
  })

  await t.test('are told to the backend as they are, unless the proxy keeps them itself', LIMIT, async t => {
    const told: number[] = []
    const handlers: CallHandlers = {
      Unary (call: ServerUnaryCall<Note, Note>, answer) {
        told.push((call.getDeadline() as Date | number) instanceof Date ? (call.getDeadline() as Date).getTime() - Date.now() : Number(call.getDeadline()) - Date.now())
        answer(null, {})
      }
    }
    const ways: [RockstarProxyOptions, Record<string, unknown>, number, number][] = [
      // Passed on.
      [{}, {}, 15_000, 20_000],
      // From a client that is trusted, where it is sooner than what the proxy allows.
      [{ deadlineHeader: 'grpc-timeout' }, { trustProxy: true }, 15_000, 20_000],
      [{ deadlineHeader: 'grpc-timeout', timeout: { request: 5_000 } }, { trustProxy: true }, 1_000, 5_000],
      // From one that is not, the proxy's own.
      [{ deadlineHeader: 'grpc-timeout' }, {}, 25_000, 30_000]
    ]
    for (const [options, fastify, least, most] of ways) {
      const { port } = await grpcBackend(t, handlers)
      const gateway = await start(t, port, options, { http2: true, ...fastify })
      const { error } = await unary(grpcClient(t, gateway.port), {}, new Metadata(), { deadline: Date.now() + 20_000 })
      t.equal(error, null)
      const left = told.at(-1) as number
      t.ok(left > least && left <= most, `${left} ms`)
    }
  })
})

t.test('a call that a backend refuses, or leaves behind, is sent again', LIMIT, async t => {
  const answer = (id: number) => [
    head(id, 200, [['content-type', 'application/grpc']]),
    data(id, Buffer.from([0, 0, 0, 0, 0])),
    frame(HEADERS, 4 | END_STREAM, id, fields(['grpc-status', '0']))
  ]
  for (const refusal of [(id: number) => reset(id, REFUSED_STREAM), (id: number) => goaway(Math.max(0, id - 2))]) {
    const backend = await frameBackend(t, (peer, id, nth) => { peer.send(...nth === 0 ? [refusal(id)] : answer(id)) })
    const gateway = await start(t, backend.port, { retry: { backoff: { base: 1 } } })
    const { error } = await unary(grpcClient(t, gateway.port), { text: 'again' })
    t.equal(error, null)
    t.equal(backend.streams.length, 2)
    const { peer, id } = backend.streams[1]
    t.match(peer.content(id), 'again')
    t.equal(gateway.app.proxy.getMetrics().totalRetries, 1)
  }
})

t.test('a backend that dies ends its calls, and another takes the next', LIMIT, async t => {
  const first = await grpcBackend(t)
  const second = await grpcBackend(t)
  const gateway = await start(t, first.port, { backends: [first, second].map(({ port }, i) => ({ id: `b${i}`, url: `http://127.0.0.1:${port}` })), retry: { backoff: { base: 1 } } })
  const client = grpcClient(t, gateway.port)
  const call = client.Chat()
  const ended = new Promise<ServiceError>(resolve => call.on('error', resolve))
  call.write({ text: 'a' })
  await new Promise(resolve => call.once('data', resolve))
  first.stop()
  t.ok([status.INTERNAL, status.UNAVAILABLE, status.CANCELLED].includes((await ended).code))
  for (let i = 0; i < 4; i++) t.equal((await unary(client, { text: 'b' })).note?.text, 'b')
})

t.test('a backend that leaves in good order loses no call', LIMIT, async t => {
  const { port, server } = await grpcBackend(t)
  const gateway = await start(t, port)
  const client = grpcClient(t, gateway.port)
  const call = client.Chat()
  const notes: Note[] = []
  let ended: StatusObject | undefined
  call.on('data', note => notes.push(note)).on('status', came => { ended = came })
  call.write({ text: 'a' })
  await until(() => notes.length === 1)
  let shut = false
  server.tryShutdown(() => { shut = true })
  for (let i = 0; i < 10; i++) {
    call.write({ text: 'b' })
    await until(() => notes.length === i + 2)
  }
  t.equal(shut, false)
  call.end()
  await until(() => ended !== undefined)
  t.equal(ended?.code, status.OK)
  await until(() => shut)
})

t.test('by TLS in front and back', LIMIT, async t => {
  const { port } = await grpcBackend(t, {}, ServerCredentials.createSsl(null, [{ private_key: key, cert_chain: cert }]))
  const gateway = await start(t, port, { backends: [{ id: 'b', url: `https://localhost:${port}` }], pool: { tls: { ca: cert } } }, { http2: true, https: { key, cert } })
  const { error, note } = await unary(grpcClient(t, gateway.port, credentials.createSsl(cert)), { text: 'secret' })
  t.equal(error, null)
  t.equal(note?.text, 'secret')
})

t.test('a failure of the proxy is an answer that gRPC clients understand', LIMIT, async t => {
  const { port, stop } = await grpcBackend(t)
  stop()
  const gateway = await start(t, port)
  const { error } = await unary(grpcClient(t, gateway.port), {})
  t.equal(error?.code, status.UNAVAILABLE, '502 is, by the mapping of gRPC')
})
