import { execFile, execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { createServer, type Server } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TLSSocket } from 'node:tls'
import t, { type Test } from 'tap'
import { startGateway } from '../helpers/app.ts'

const folder = mkdtempSync(join(tmpdir(), 'rockstar-proxy-tls-'))
t.teardown(() => rmSync(folder, { recursive: true }))
execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2',
  '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost',
  '-keyout', join(folder, 'key.pem'), '-out', join(folder, 'cert.pem')], { stdio: 'ignore' })
const key = readFileSync(join(folder, 'key.pem'))
const cert = readFileSync(join(folder, 'cert.pem'))

async function tlsBackend (t: Test, names: (string | false)[]): Promise<number> {
  const server: Server = createServer({ key, cert }, (request, response) => {
    names.push((request.socket as TLSSocket & { servername: string | false }).servername)
    response.end(request.headers.host)
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => new Promise<void>(resolve => {
    server.close(() => resolve())
    server.closeAllConnections()
  }))
  return (server.address() as AddressInfo).port
}

t.test('a backend whose certificate nobody has vouched for is 502, and the client is not told why', async t => {
  const names: (string | false)[] = []
  const port = await tlsBackend(t, names)
  const gateway = await startGateway(t, { backends: [`https://localhost:${port}`], routes: [{ prefix: '/' }] })
  const client = await gateway.connect()
  client.send('GET /a HTTP/1.1\r\nHost: gateway\r\n\r\n')
  const response = await client.response()
  t.equal(response.status, 502)
  t.equal(JSON.parse(response.body).code, 'FST_ROCKSTAR_CONNECT')
  t.notMatch(response.body, /localhost|self|cert/i)
  t.strictSame(names, [], 'no request has reached it')
  t.ok(gateway.log.some(({ msg, err }) => msg === 'attempt failed' && JSON.stringify(err).includes('DEPTH_ZERO_SELF_SIGNED_CERT')), 'the log says why')
})

t.test('a client\'s Host never chooses the name that a backend must prove', async t => {
  const names: (string | false)[] = []
  const port = await tlsBackend(t, names)
  // A process that trusts the certificate, as it would a real one's.
  const script = `
    import Fastify from 'fastify'
    import rockstarProxy from ${JSON.stringify(new URL('../../plugins/index.ts', import.meta.url).href)}
    const app = Fastify()
    await app.register(rockstarProxy, { backends: ['https://localhost:${port}'], preserveHost: true, routes: [{ prefix: '/' }] })
    await app.listen({ port: 0, host: '127.0.0.1' })
    const { request } = await import('node:http')
    const ask = host => new Promise((resolve, reject) => request({ port: app.server.address().port, host: '127.0.0.1', path: '/a', headers: { host } }, response => {
      let body = ''
      response.on('data', chunk => { body += chunk }).on('end', () => resolve(response.statusCode + ' ' + body))
    }).on('error', reject).end())
    const answers = [await ask('gateway.example'), await ask('other.example')]
    answers.push(app.proxy.getConnectionPool().stats().connects)
    console.log(JSON.stringify(answers))
    await app.close()
  `
  const output = await new Promise<string>((resolve, reject) => execFile(process.execPath, ['--import=tsx', '--input-type=module', '-e', script],
    { cwd: new URL('../..', import.meta.url).pathname, env: { ...process.env, NODE_EXTRA_CA_CERTS: join(folder, 'cert.pem'), NODE_OPTIONS: '' } },
    (error, stdout, stderr) => error === null ? resolve(stdout) : reject(new Error(`${error.message}\n${stderr}`))))
  t.strictSame(JSON.parse(output), ['200 gateway.example', '200 other.example', 1], 'both answered, on one connection')
  t.strictSame(names, ['localhost', 'localhost'])
})
