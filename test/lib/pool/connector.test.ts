import { createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import { createServer as createTlsServer, type TLSSocket } from 'node:tls'
import t, { type Test } from 'tap'
import { Backend } from '../../../lib/backend.ts'
import { Connector, type Protocol } from '../../../lib/pool/connector.ts'
import { ConnectionPool } from '../../../lib/pool/index.ts'
import type { PoolOptions, PoolSettings, TlsOptions } from '../../../types/index.ts'
import { Authority } from '../../helpers/certificates.ts'
import { until } from '../../helpers/wire.ts'

const LIMIT = 15_000
const authority = new Authority(t)
const identity = authority.issue()

const settings = (options: PoolOptions = {}): PoolSettings => {
  const { tls: _, ...rest } = new ConnectionPool(options).options
  return { ...rest, ...(options.tls === undefined ? {} : { tls: options.tls }) }
}

async function listen (t: Test, server: Server, host = '127.0.0.1'): Promise<number> {
  const sockets = new Set<Socket>()
  server.on('connection', socket => {
    sockets.add(socket)
    socket.on('error', () => {}).on('close', () => sockets.delete(socket))
  })
  await new Promise<void>(resolve => server.listen(0, host, resolve))
  t.teardown(() => new Promise<void>(resolve => {
    server.close(() => resolve())
    for (const socket of sockets) socket.destroy()
  }))
  return (server.address() as AddressInfo).port
}

/** How a connection came out; it is closed at once. */
function connect (t: Test, connector: Connector, protocols: Protocol[] = ['http/1.1']): Promise<{ error: (Error & { code?: string }) | null, socket: TLSSocket | null }> {
  return new Promise(resolve => {
    const connecting = connector.connect(protocols, (error, socket) => resolve({ error, socket: socket as TLSSocket | null }))
    t.teardown(() => connecting.destroy())
  })
}

t.test('calls back once, whatever happens to the socket afterwards', { timeout: LIMIT }, async t => {
  const port = await listen(t, createServer())
  let calls = 0
  const connector = new Connector(new Backend(`http://127.0.0.1:${port}`, 0), settings())
  t.equal(connector.secure, false)
  let connected: Socket | null = null
  const connecting = connector.connect(['h2'], (_, socket) => {
    calls++
    connected = socket
  })
  await until(() => calls === 1)
  t.equal(connected, connecting, 'it is the socket that was given at once')
  connecting.on('error', () => {})
  connecting.destroy(new Error('later'))
  await until(() => connecting.closed)
  t.equal(calls, 1)
})

t.test('a refusal, and a connection that is given up, are told of', { timeout: LIMIT }, async t => {
  const server = createServer()
  const port = await listen(t, server)
  const backend = new Backend(`http://127.0.0.1:${port}`, 0)
  for (const reason of [undefined, new Error('no more')]) {
    const error = await new Promise<Error | null>(resolve => new Connector(backend, settings()).connect(['http/1.1'], resolve).destroy(reason))
    t.equal(error?.message, reason?.message ?? 'the connection was given up')
  }
  await new Promise(resolve => server.close(resolve))
  t.equal((await connect(t, new Connector(backend, settings()))).error?.code, 'ECONNREFUSED')
})

t.test('connectTimeout covers TCP and TLS; 0 is none', { timeout: LIMIT }, async t => {
  // It accepts, and says nothing.
  const port = await listen(t, createServer())
  const url = `https://127.0.0.1:${port}`
  const { error } = await connect(t, new Connector(new Backend(url, 0), settings({ connectTimeout: 20 })))
  t.match(error, { code: 'UND_ERR_CONNECT_TIMEOUT', message: 'no connection within 20 ms' })
  let told = false
  const patient = new Connector(new Backend(url, 0), settings({ connectTimeout: 0 })).connect(['http/1.1'], () => { told = true })
  await new Promise(resolve => setTimeout(resolve, 60))
  t.equal(told, false)
  patient.destroy()
  await until(() => told)
})

t.test('what is offered by ALPN, and what is agreed', { timeout: LIMIT }, async t => {
  const port = await listen(t, createTlsServer({ ...identity, ALPNProtocols: ['acme/1', 'h2', 'http/1.1'] }))
  const at = (alpnProtocols?: string[]): Connector => new Connector(new Backend(`https://localhost:${port}`, 0), settings({ tls: { ca: authority.cert, ...(alpnProtocols === undefined ? {} : { alpnProtocols }) } }))
  const cases: [string[] | undefined, Protocol[], string | false][] = [
    [undefined, ['http/1.1'], 'http/1.1'], [undefined, ['h2', 'http/1.1'], 'h2'], [undefined, ['http/1.1', 'h2'], 'h2'],
    [['h2', 'http/1.1'], ['http/1.1'], 'http/1.1'], [['http/1.1'], ['h2', 'http/1.1'], 'http/1.1'], [['acme/1', 'http/1.1'], ['http/1.1'], 'acme/1'], [[], ['h2', 'http/1.1'], false]
  ]
  for (const [own, protocols, agreed] of cases) t.equal((await connect(t, at(own), protocols)).socket?.alpnProtocol, agreed, `${own} ${protocols}`)
})

t.test('sessions are resumed by protocol, never after the material has changed, and not where that is not wanted', { timeout: LIMIT }, async t => {
  const port = await listen(t, createTlsServer({ ...identity, maxVersion: 'TLSv1.2', ALPNProtocols: ['h2', 'http/1.1'] }))
  const backend = new Backend(`https://localhost:${port}`, 0)
  const resumed = async (connector: Connector, protocols?: Protocol[]) => {
    const { socket } = await connect(t, connector, protocols)
    await new Promise(resolve => setImmediate(resolve))
    return socket?.isSessionReused()
  }
  const connector = new Connector(backend, settings({ tls: { ca: authority.cert } }))
  t.same([await resumed(connector), await resumed(connector), await resumed(connector, ['h2']), await resumed(connector, ['h2'])], [false, true, false, true])
  const watchful = new Connector(backend, settings({ tls: { ca: authority.cert } }), undefined, { sessions: false })
  t.same([await resumed(watchful), await resumed(watchful)], [false, false])
  const lenient = new Connector(backend, settings({ tls: { rejectUnauthorized: false } }))
  t.same([await resumed(lenient), await resumed(lenient)], [false, true])
  t.equal((await connect(t, new Connector(backend, settings()))).error?.code, 'UNABLE_TO_VERIFY_LEAF_SIGNATURE', 'what another has not verified is verified here')
})

t.test('localAddress is where connections come from', { timeout: LIMIT, skip: process.platform !== 'linux' }, async t => {
  let from: string | undefined
  const port = await listen(t, createServer(socket => { from = socket.remoteAddress }))
  const { error } = await connect(t, new Connector(new Backend(`http://localhost:${port}`, 0), settings({ localAddress: '127.0.0.7' })))
  t.equal(error, null)
  await until(() => from !== undefined)
  t.equal(from, '127.0.0.7')
})

t.test('family: the addresses of a name that are used', { timeout: LIMIT }, async t => {
  const port = await listen(t, createServer())
  const backend = new Backend(`http://name.example:${port}`, 0)
  const asked: (number | string | undefined)[] = []
  backend.lookup = (_name, options, callback) => {
    asked.push(options.family)
    const addresses = [{ address: '127.0.0.1', family: 4 }]
    if (options.all === true) (callback as unknown as (error: null, addresses: object[]) => void)(null, addresses)
    else callback(null, '127.0.0.1', 4)
  }
  for (const options of [{}, { family: 4 }, { family: 6 }, { localAddress: '127.0.0.1' }, { autoSelectFamily: false }] as PoolOptions[]) {
    t.equal((await connect(t, new Connector(backend, settings(options)))).error, null)
  }
  t.same(asked.map(family => Number(family ?? 0)), [0, 4, 6, 4, 0])
})

t.test('IPv6 literals', { timeout: LIMIT }, async t => {
  const server = createServer()
  const tls = createTlsServer(identity)
  const has6 = await listen(t, server, '::1').catch(() => null)
  if (has6 === null) {
    t.pass('this machine has no IPv6')
    return
  }
  t.equal((await connect(t, new Connector(new Backend(`http://[::1]:${has6}`, 0), settings()))).error, null)
  const port = await listen(t, tls, '::1')
  t.equal((await connect(t, new Connector(new Backend(`https://[::1]:${port}`, 0), settings({ tls: { ca: authority.cert } })))).error, null)
  const other = authority.issue({ names: ['DNS:localhost', 'IP:127.0.0.1'] })
  const elsewhere = await listen(t, createTlsServer(other), '::1')
  t.equal((await connect(t, new Connector(new Backend(`https://[::1]:${elsewhere}`, 0), settings({ tls: { ca: authority.cert } })))).error?.code, 'ERR_TLS_CERT_ALTNAME_INVALID')
})

t.test('the name is checked whatever NODE_TLS_REJECT_UNAUTHORIZED says', { timeout: LIMIT }, async t => {
  const port = await listen(t, createTlsServer(identity))
  t.teardown(() => { delete process.env.NODE_TLS_REJECT_UNAUTHORIZED })
  process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0'
  t.equal((await connect(t, new Connector(new Backend(`https://localhost:${port}`, 0), settings()))).error?.code, 'UNABLE_TO_VERIFY_LEAF_SIGNATURE')
})

t.test('another port, and no TLS where only a listener is looked for', { timeout: LIMIT }, async t => {
  const port = await listen(t, createServer())
  const tls: TlsOptions = { ca: authority.cert }
  const connector = new Connector(new Backend('https://127.0.0.1:1', 0), settings({ tls }), undefined, { port })
  const error = await new Promise<Error | null>(resolve => {
    const socket = connector.connectPlain(error => {
      socket.destroy()
      resolve(error)
    })
  })
  t.equal(error, null)
})
