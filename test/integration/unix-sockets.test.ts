import { createServer, type RequestListener } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { mkdtempSync, rmSync } from 'node:fs'
import type { Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startGateway, type Gateway } from '../helpers/app.ts'
import { Authority } from '../helpers/certificates.ts'
import { connectTo, type Message } from '../helpers/wire.ts'

const LIMIT = 15_000
const folder = mkdtempSync(join(tmpdir(), 'rockstar-proxy-unix-'))
t.teardown(() => rmSync(folder, { recursive: true, force: true }))
let sockets = 0

const tell: RequestListener = (request, response) => {
  let body = ''
  request.on('data', chunk => { body += chunk })
  request.on('end', () => response.end(`${request.method} ${request.url} ${request.headers.host} ${body}`))
}

async function listen (t: Test, server: Server & { closeAllConnections (): void }, path = join(folder, `${++sockets}.sock`)): Promise<string> {
  await new Promise<void>(resolve => server.listen(path.startsWith('@') ? `\0${path.slice(1)}` : path, resolve))
  t.teardown(() => new Promise<void>(resolve => {
    server.close(() => resolve())
    server.closeAllConnections()
  }))
  return path
}

async function ask (t: Test, gateway: Gateway, path = '/a?b=c', body = ''): Promise<Message> {
  const client = await connectTo(t, gateway.port)
  client.send(`POST ${path} HTTP/1.1\r\nHost: gateway.example\r\nContent-Length: ${body.length}\r\n\r\n${body}`)
  return await client.response()
}

t.test('a backend on a Unix socket, with a base path, in both spellings', { timeout: LIMIT }, async t => {
  const path = await listen(t, createServer(tell))
  for (const [url, expected] of [[`unix:${path}`, '/a?b=c'], [`unix:${path}:/base`, '/base/a?b=c'], [`http://unix:${path}:/base/`, '/base/a?b=c']]) {
    const gateway = await startGateway(t, { backends: [url], routes: [{ prefix: '/' }] })
    for (let i = 0; i < 2; i++) t.equal((await ask(t, gateway, '/a?b=c', 'x'.repeat(100))).body, `POST ${expected} localhost ${'x'.repeat(100)}`)
    t.match(gateway.app.proxy.getConnectionPool().stats(), { connects: 1, requests: 2 }, 'the connection is used again')
  }
})

t.test('Host is the client\'s where that is preserved', { timeout: LIMIT }, async t => {
  const path = await listen(t, createServer(tell))
  const gateway = await startGateway(t, { backends: [`unix:${path}`], routes: [{ prefix: '/' }], preserveHost: true })
  t.match((await ask(t, gateway)).body, 'POST /a?b=c gateway.example')
})

t.test('names with spaces, colons and other letters', { timeout: LIMIT }, async t => {
  const path = await listen(t, createServer(tell), join(folder, 'a b:c-ü.sock'))
  const url = `unix:${path.replace(':', '%3A')}`
  const gateway = await startGateway(t, { backends: [{ id: 'odd', url }], routes: [{ prefix: '/' }] })
  t.equal((await ask(t, gateway)).status, 200)
  const { url: shown } = gateway.app.proxy.getBackend('odd').toJSON()
  const again = await startGateway(t, { backends: [shown], routes: [{ prefix: '/' }] })
  t.equal((await ask(t, again)).status, 200)
})

t.test('Linux\' abstract namespace', { timeout: LIMIT, skip: process.platform !== 'linux' }, async t => {
  const path = await listen(t, createServer(tell), `@rockstar-proxy-${process.pid}`)
  const gateway = await startGateway(t, { backends: [`unix:${path}:/base`], routes: [{ prefix: '/' }] })
  t.match((await ask(t, gateway)).body, 'POST /base/a?b=c localhost')
})

t.test('pool.socketPath takes the place of host and port, with TLS as well', { timeout: LIMIT }, async t => {
  const path = await listen(t, createServer(tell))
  const plain = await startGateway(t, { backends: ['http://inner.example:81/base'], routes: [{ prefix: '/' }], pool: { socketPath: path } })
  t.match((await ask(t, plain)).body, 'POST /base/a?b=c inner.example:81')
  const authority = new Authority(t)
  const secure = await listen(t, createTlsServer(authority.issue({ names: ['DNS:inner.example'] }), tell))
  const gateway = await startGateway(t, { backends: ['https://inner.example', 'https://other.example'], routes: [{ prefix: '/' }], pool: { socketPath: secure, tls: { ca: authority.cert } } })
  t.match((await ask(t, gateway)).body, 'POST /a?b=c inner.example')
  t.equal((await ask(t, gateway)).status, 502, 'the name is still that of the URL')
})

t.test('a socket that is not there, or listens no more, is 502; none of it for the client', { timeout: LIMIT }, async t => {
  for (const [path, code] of [[join(folder, 'nowhere.sock'), 'ENOENT'], [folder, 'ECONNREFUSED'], [join(folder, 'x'.repeat(60)), 'ENOENT']] as const) {
    const gateway = await startGateway(t, { backends: [`unix:${path}`], routes: [{ prefix: '/' }] })
    const response = await ask(t, gateway)
    t.equal(response.status, 502)
    t.notMatch(response.body, /sock|rockstar-proxy-unix|xxx/)
    t.match(JSON.stringify(gateway.log.find(({ msg }) => msg === 'attempt failed')), code)
  }
})

t.test('health checks go to the socket', { timeout: LIMIT }, async t => {
  const path = await listen(t, createServer((request, response) => { response.statusCode = request.url === '/base/health' ? 200 : 500; response.end() }))
  const gateway = await startGateway(t, {
    backends: [
      { id: 'http', url: `unix:${path}:/base`, healthCheck: { path: '/health' } },
      { id: 'bad path', url: `unix:${path}`, healthCheck: { path: '/health' } },
      { id: 'tcp', url: `unix:${path}` },
      { id: 'gone', url: `unix:${path}.gone` }
    ],
    health: { fall: 1, interval: 60_000 }
  })
  await t.rejects(gateway.app.proxy.healthCheck(), { message: /bad path \(status 500\), gone \(connect ENOENT\)$/ })
  t.same(gateway.app.proxy.listBackends().map(({ healthy }) => healthy), [true, false, true, false])
  const pooled = await startGateway(t, { backends: ['http://inner.example'], pool: { socketPath: path }, health: { fall: 1, interval: 60_000 } })
  await pooled.app.proxy.healthCheck()
})

t.test('an upload and an answer of megabytes pass whole', { timeout: LIMIT }, async t => {
  const path = await listen(t, createServer((request, response) => request.pipe(response)))
  const gateway = await startGateway(t, { backends: [`unix:${path}`], routes: [{ prefix: '/' }] })
  const body = Buffer.alloc(5_000_000, 'unix ')
  const response = await fetch(gateway.url, { method: 'POST', body })
  t.ok(Buffer.from(await response.arrayBuffer()).equals(body))
})
