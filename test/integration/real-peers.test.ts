import { randomBytes } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { RockstarProxyOptions } from '../../types/index.ts'
import { httpBackend, startGateway, type Gateway } from '../helpers/app.ts'
import { Authority } from '../helpers/certificates.ts'
import { haproxy, nginx } from '../helpers/peers.ts'
import { connectTo, rawBackend, until, type Message } from '../helpers/wire.ts'

const LIMIT = 30_000
const authority = new Authority(t)
const own = authority.issue()
const stranger = new Authority(t, 'stranger').issue()

function start (t: Test, url: string, pool: RockstarProxyOptions['pool'] = {}, more: RockstarProxyOptions = {}): Promise<Gateway> {
  return startGateway(t, { backends: [url], routes: [{ prefix: '/' }], pool, ...more })
}

async function ask (t: Test, gateway: Gateway, path = '/a', head = ''): Promise<Message> {
  const client = await connectTo(t, gateway.port)
  client.send(`GET ${path} HTTP/1.1\r\nHost: gateway\r\n${head}\r\n`)
  return await client.response()
}

/** nginx that echoes, and serves a file. */
const nginxServer = (listen: string, more = '') => (place: { folder: string }): string => `
  server {
    ${listen}
    ${more}
    location / { default_type text/plain; return 200 "$request_method $request_uri $host $server_protocol"; }
    location /file { alias ${place.folder}/file; }
  }`

t.test('nginx over TLS: verified, resumed, with what it shows of itself in files', { timeout: LIMIT }, async t => {
  const content = randomBytes(3_000_000)
  const peer = await nginx(t, place => {
    writeFileSync(join(place.folder, 'file'), content)
    return nginxServer(`listen 127.0.0.1:${place.port} ssl;`, `
      ssl_certificate ${own.certFile};
      ssl_certificate_key ${own.keyFile};
      keepalive_timeout 60s 60;
      keepalive_requests 7;`)(place)
  })
  const gateway = await start(t, `https://localhost:${peer.port}/base`, { tls: { ca: authority.certFile } })
  const { status, body } = await ask(t, gateway, '/a?b=c')
  t.same([status, body], [200, 'GET /base/a?b=c localhost HTTP/1.1'])
  const other = await start(t, `https://localhost:${peer.port}`, { tls: { ca: authority.certFile } })
  t.ok(Buffer.from(await (await fetch(`${other.url}/file`)).arrayBuffer()).equals(content))
  const failed: number[] = []
  for (let i = 0; i < 60; i++) {
    const answer = await ask(t, other, `/${i}`)
    if (answer.status !== 200) failed.push(answer.status)
  }
  t.same(failed, [], 'however often nginx closes a connection after its seventh request')
  t.match(other.app.proxy.getMetrics(), { failedRequests: 0 })
  const { connects, reuseRatio } = other.app.proxy.getConnectionPool().stats()
  t.ok(connects >= 61 / 7 && connects < 40, `${connects} connections`)
  t.ok(reuseRatio > 0.3)
  const distrustful = await start(t, `https://localhost:${peer.port}`)
  t.equal((await ask(t, distrustful)).status, 502)
})

t.test('HAProxy with mTLS: takes our certificate, and no other', { timeout: LIMIT }, async t => {
  const peer = await haproxy(t, ({ folder, port }) => {
    writeFileSync(join(folder, 'both.pem'), own.cert + own.key)
    return `
frontend tls
  bind 127.0.0.1:${port} ssl crt ${folder}/both.pem ca-file ${authority.certFile} verify required alpn h2,http/1.1
  http-request return status 200 content-type text/plain lf-string "%[ssl_c_s_dn(cn)] %[req.ver] %[ssl_fc_alpn]"
`
  })
  const url = `https://localhost:${peer.port}`
  const gateway = await start(t, url, { tls: { ca: authority.cert, cert: own.certFile, key: own.keyFile } })
  for (let i = 0; i < 3; i++) t.match(await ask(t, gateway).then(({ status, body }) => ({ status, body })), { status: 200, body: /^\d+ 1\.1 http\/1\.1$/ })
  t.match(gateway.app.proxy.getConnectionPool().stats(), { connects: 1, requests: 3 })
  await gateway.app.proxy.healthCheck()
  const refusals: [RockstarProxyOptions['pool'], RegExp][] = [
    [{ tls: { ca: authority.cert } }, /ALERT_CERTIFICATE_REQUIRED/],
    [{ tls: { ca: authority.cert, cert: stranger.cert, key: stranger.key } }, /ALERT_UNKNOWN_CA/],
    [{ tls: { ca: stranger.cert } }, /UNABLE_TO_VERIFY_LEAF_SIGNATURE/]
  ]
  for (const [pool, reason] of refusals) {
    const refused = await start(t, url, pool)
    const response = await ask(t, refused)
    t.equal(response.status, 502, String(reason))
    t.notMatch(response.body, /cert|tls|alert|ssl/i)
    t.match(JSON.stringify(refused.log.find(({ msg }) => msg === 'attempt failed')), reason)
  }
})

t.test('nginx and HAProxy on Unix sockets', { timeout: LIMIT }, async t => {
  const content = randomBytes(2_000_000)
  const peers = [
    await nginx(t, place => {
      writeFileSync(join(place.folder, 'file'), content)
      return nginxServer(`listen unix:${place.socket}; listen 127.0.0.1:${place.port};`)(place)
    }),
    await haproxy(t, ({ port, socket }) => `
frontend both
  bind unix@${socket}
  bind 127.0.0.1:${port}
  http-request return status 200 content-type text/plain lf-string "%[method] %[pathq] %[req.hdr(host)] HTTP/%[req.ver]"
`)
  ]
  for (const { socket } of peers) {
    const gateway = await start(t, `unix:${socket}:/base`)
    for (let i = 0; i < 3; i++) t.equal((await ask(t, gateway, '/a?b=c')).body, 'GET /base/a?b=c localhost HTTP/1.1')
    await until(() => gateway.app.proxy.getConnectionPool().stats().active === 0)
    t.match(gateway.app.proxy.getConnectionPool().stats(), { connects: 1 })
    await gateway.app.proxy.healthCheck()
  }
  const gateway = await start(t, `unix:${peers[0].socket}`)
  t.ok(Buffer.from(await (await fetch(`${gateway.url}/file`)).arrayBuffer()).equals(content))
})

t.test('connections that HAProxy closes while idle cost no request', { timeout: LIMIT }, async t => {
  const peer = await haproxy(t, ({ port }) => `
frontend short
  bind 127.0.0.1:${port}
  timeout http-keep-alive 5ms
  http-request return status 200 content-type text/plain string ok
`)
  const gateway = await start(t, `http://127.0.0.1:${peer.port}`)
  const statuses = new Map<number, number>()
  const client = async (pause: number) => {
    const wire = await connectTo(t, gateway.port)
    for (let i = 0, at = 0; i < 40; i++) {
      wire.send(`GET /${i} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
      const response = await wire.response(at)
      at += response.length
      statuses.set(response.status, (statuses.get(response.status) ?? 0) + 1)
      // Any time around the moment it closes one.
      await new Promise(resolve => setTimeout(resolve, pause + i % 4))
    }
  }
  await Promise.all([3, 4, 5, 6, 7].map(client))
  t.same([...statuses], [[200, 200]])
})

t.test('nginx reloads under load, and nothing is lost', { timeout: LIMIT }, async t => {
  const peer = await nginx(t, place => nginxServer(`listen 127.0.0.1:${place.port} ssl;`, `ssl_certificate ${own.certFile}; ssl_certificate_key ${own.keyFile};`)(place))
  const gateway = await start(t, `https://localhost:${peer.port}`, { tls: { ca: authority.cert } })
  const load = { running: true, done: 0, wrong: [] as string[] }
  const client = async (id: number) => {
    const wire = await connectTo(t, gateway.port)
    for (let n = 0, at = 0; load.running; n++) {
      wire.send(`GET /${id}/${n} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
      const response = await wire.response(at)
      at += response.length
      if (response.body !== `GET /${id}/${n} localhost HTTP/1.1`) load.wrong.push(`${response.status} ${response.body}`)
      load.done++
    }
  }
  const clients = Array.from({ length: 10 }, (_, id) => client(id))
  for (let reloads = 0; reloads < 4; reloads++) {
    const { connects } = gateway.app.proxy.getConnectionPool().stats()
    peer.process.kill('SIGHUP')
    await until(() => gateway.app.proxy.getConnectionPool().stats().connects > connects)
    const { done } = load
    await until(() => load.done > done + 50)
  }
  load.running = false
  await Promise.all(clients)
  t.same(load.wrong, [])
})

t.test('a backend that speaks HTTP/1.0: no chunks, an end by closing, kept alive only where it says so', { timeout: LIMIT }, async t => {
  const backend = await rawBackend(t, ({ startLine }, wire) => {
    const kept = startLine.includes('/kept')
    wire.send(`HTTP/1.0 200 OK\r\n${kept ? 'Connection: keep-alive\r\nContent-Length: 4\r\n' : ''}X-Path: ${startLine.split(' ')[1]}\r\n\r\n${kept ? 'kept' : 'until the end'}`)
    if (!kept) wire.socket.end()
  })
  const gateway = await start(t, backend.url)
  for (const [path, body, connections] of [['/kept', 'kept', 1], ['/kept', 'kept', 1], ['/closed', 'until the end', 1], ['/closed', 'until the end', 2], ['/kept', 'kept', 3]] as const) {
    const response = await ask(t, gateway, path)
    t.same([response.status, response.body, response.values('x-path')], [200, body, [path]])
    await until(() => gateway.app.proxy.getConnectionPool().stats().active === 0)
    t.equal(backend.connections.length, connections)
  }
})

t.test('nginx in front speaks HTTP/1.0 to the proxy, as it does by default', { timeout: LIMIT }, async t => {
  const { url } = await httpBackend(t, (request, response) => {
    let body = ''
    request.on('data', chunk => { body += chunk })
    request.on('end', () => {
      response.write(`${request.method} ${request.url} ${request.httpVersion} `)
      response.end(body)
    })
  })
  const gateway = await start(t, url)
  const peer = await nginx(t, ({ port }) => `server { listen 127.0.0.1:${port}; location / { proxy_pass http://127.0.0.1:${gateway.port}; } }`)
  const response = await fetch(`http://127.0.0.1:${peer.port}/a?b`, { method: 'POST', body: 'x'.repeat(100_000) })
  t.equal(await response.text(), `POST /a?b 1.1 ${'x'.repeat(100_000)}`)
})
