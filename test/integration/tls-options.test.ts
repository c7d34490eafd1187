import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { RockstarProxyOptions, TlsOptions } from '../../types/index.ts'
import { startGateway, type Gateway } from '../helpers/app.ts'
import { Authority } from '../helpers/certificates.ts'
import { tlsBackend } from '../helpers/tls.ts'
import { connectTo, until, type Message } from '../helpers/wire.ts'

const LIMIT = 20_000
const authority = new Authority(t)
const stranger = new Authority(t, 'stranger')
const good = authority.issue()

async function ask (t: Test, gateway: Gateway, path = '/'): Promise<Message> {
  const client = await connectTo(t, gateway.port)
  client.send(`GET ${path} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
  return await client.response()
}

function start (t: Test, backend: string | { url: string, tls?: TlsOptions, id?: string }, pool: RockstarProxyOptions['pool'] = {}, more: RockstarProxyOptions = {}): Promise<Gateway> {
  return startGateway(t, { backends: [backend], routes: [{ prefix: '/' }], pool, ...more })
}

t.test('a backend is verified by the authority that the pool or the backend names', { timeout: LIMIT }, async t => {
  const { url, seen } = await tlsBackend(t, good)
  for (const ca of [authority.cert, Buffer.from(authority.cert), authority.certFile, [stranger.cert, authority.certFile], stranger.cert + authority.cert]) {
    const byPool = await start(t, url, { tls: { ca } })
    t.equal((await ask(t, byPool)).status, 200)
    const byBackend = await start(t, { url, tls: { ca } })
    t.equal((await ask(t, byBackend)).status, 200)
  }
  t.ok(seen.every(({ servername, alpn }) => servername === 'localhost' && alpn === 'http/1.1'))
})

t.test('a backend that cannot prove who it is gets nothing: 502, the reason in the log, and none of it for the client', { timeout: LIMIT }, async t => {
  const reasons: [string, Parameters<typeof tlsBackend>[1], TlsOptions, string | RegExp][] = [
    ['nobody has vouched for it', stranger.issue(), { ca: authority.cert }, 'UNABLE_TO_VERIFY_LEAF_SIGNATURE'],
    ['only Node\'s authorities are trusted', good, {}, 'UNABLE_TO_VERIFY_LEAF_SIGNATURE'],
    ['it has expired', authority.issue({ expired: true }), { ca: authority.cert }, 'CERT_HAS_EXPIRED'],
    ['it bears another name', authority.issue({ names: ['DNS:other.example'] }), { ca: authority.cert }, 'ERR_TLS_CERT_ALTNAME_INVALID'],
    ['another name is asked for', good, { ca: authority.cert, servername: 'other.example' }, 'ERR_TLS_CERT_ALTNAME_INVALID'],
    ['it wants a certificate (TLS 1.2)', { ...good, ca: authority.cert, requestCert: true, rejectUnauthorized: true, maxVersion: 'TLSv1.2' }, { ca: authority.cert }, /HANDSHAKE_FAILURE|ECONNRESET/],
    ['it wants a certificate (TLS 1.3)', { ...good, ca: authority.cert, requestCert: true, rejectUnauthorized: true }, { ca: authority.cert }, /ALERT_CERTIFICATE_REQUIRED|other side closed/],
    ['it trusts another authority', { ...good, ca: stranger.cert, requestCert: true, rejectUnauthorized: true }, { ca: authority.cert, cert: good.cert, key: good.key }, /UNKNOWN_CA|ECONNRESET|other side closed/],
    ['it speaks only what is too old', { ...good, maxVersion: 'TLSv1.2' }, { ca: authority.cert, minVersion: 'TLSv1.3' }, /PROTOCOL_VERSION/]
  ]
  for (const [why, server, tls, code] of reasons) {
    const { url, seen } = await tlsBackend(t, server)
    const gateway = await start(t, url, { tls })
    const response = await ask(t, gateway)
    t.equal(response.status, 502, why)
    t.match(JSON.parse(response.body).code, /^FST_ROCKSTAR_(CONNECT|RESET)$/, why)
    t.notMatch(response.body, /cert|tls|ssl|localhost|other\.example|127\.0/i, why)
    t.equal(seen.length, 0, `${why}: it has seen no request`)
    const line = gateway.log.find(({ msg }) => msg === 'attempt failed')
    t.match(JSON.stringify(line), code, why)
  }
})

t.test('rejectUnauthorized: false takes anybody, and is warned of once for each such backend', { timeout: LIMIT }, async t => {
  const { url } = await tlsBackend(t, stranger.issue({ names: ['DNS:other.example'], expired: true }))
  const gateway = await startGateway(t, {
    backends: [{ id: 'pooled', url }, { id: 'strict', url, tls: { rejectUnauthorized: true } }, { id: 'plain', url: 'http://127.0.0.1:1' }],
    upstreams: { other: { backends: [{ id: 'own', url, tls: { rejectUnauthorized: false } }, { id: 'default', url }] } },
    routes: [{ prefix: '/', match: {} }, { prefix: '/other', upstream: 'other' }],
    pool: { tls: { rejectUnauthorized: false } }
  })
  const warned = () => gateway.log.filter(({ msg }) => /not verified/.test(msg)).map(({ level, upstream, backend }) => [level, upstream, backend])
  t.strictSame(warned(), [[40, 'default', 'pooled'], [40, 'other', 'own']])
  t.same([await ask(t, gateway), await ask(t, gateway)].map(({ status }) => status), [200, 502], 'each by its own setting')
  gateway.app.proxy.addBackend({ id: 'late', url })
  t.strictSame(warned().slice(2), [[40, 'default', 'late']])
  gateway.app.proxy.upstream('other').setConnectionPool({ tls: { rejectUnauthorized: false } })
  t.strictSame(warned().slice(3), [[40, 'other', 'own'], [40, 'other', 'default']])
})

t.test('a backend\'s settings come before its pool\'s, one by one, and nothing is shared between them', { timeout: LIMIT }, async t => {
  const { url, seen, sockets } = await tlsBackend(t, { ...good, ca: authority.cert, requestCert: true, rejectUnauthorized: false })
  const [a, b] = [authority.issue(), authority.issue()]
  const gateway = await startGateway(t, {
    backends: [
      { id: 'a', url },
      { id: 'b', url, tls: { cert: b.certFile, key: b.keyFile } },
      { id: 'c', url, tls: { minVersion: 'TLSv1.2', alpnProtocols: [] } },
      { id: 'd', url, tls: { ca: stranger.cert } }
    ],
    routes: [{ prefix: '/' }],
    pool: { tls: { ca: authority.cert, cert: a.cert, key: a.key }, connections: 1 }
  })
  const statuses: number[] = []
  for (let i = 0; i < 8; i++) statuses.push((await ask(t, gateway)).status)
  t.same(statuses, [200, 200, 200, 502, 200, 200, 200, 502])
  const [ofA, ofB] = [a, b].map(({ certFile }) => /(\d+)\.pem/.exec(certFile)?.[1])
  t.same(seen.map(({ commonName }) => commonName), [ofA, ofB, ofA, ofA, ofB, ofA])
  t.same(seen.map(({ alpn }) => alpn), ['http/1.1', 'http/1.1', false, 'http/1.1', 'http/1.1', false])
  t.ok(seen.every(({ resumed }) => !resumed), 'no session of one was used for another')
  t.equal(sockets.length, 3, 'a connection for each of those that were trusted')
})

t.test('mTLS: the backend knows the proxy by its certificate, whose key may be encrypted', { timeout: LIMIT }, async t => {
  const own = authority.issue({ passphrase: 'open sesame' })
  const { url, seen } = await tlsBackend(t, { ...good, ca: authority.cert, requestCert: true, rejectUnauthorized: true })
  const gateway = await start(t, url, { tls: { ca: authority.cert, cert: own.cert, key: own.keyFile, passphrase: 'open sesame' } })
  t.equal((await ask(t, gateway)).status, 200)
  t.type(seen[0].commonName, 'string')
})

t.test('servername is what is asked for and what must be borne; an address is never asked for', { timeout: LIMIT }, async t => {
  const inner = authority.issue({ names: ['DNS:inner.example'] })
  const named = await tlsBackend(t, inner)
  const gateway = await start(t, `https://127.0.0.1:${named.port}`, { tls: { ca: authority.cert, servername: 'inner.example' } })
  t.equal((await ask(t, gateway)).status, 200)
  t.equal(named.seen[0].servername, 'inner.example')
  const byAddress = await tlsBackend(t, good)
  const other = await start(t, `https://127.0.0.1:${byAddress.port}`, { tls: { ca: authority.cert } })
  t.equal((await ask(t, other)).status, 200)
  t.equal(byAddress.seen[0].servername, false)
})

t.test('sessions are resumed within one backend and pool', { timeout: LIMIT }, async t => {
  const { url, seen } = await tlsBackend(t, { ...good, maxVersion: 'TLSv1.2' }, (_, response) => { response.setHeader('connection', 'close').end() })
  const gateway = await start(t, url, { tls: { ca: authority.cert } })
  for (let i = 0; i < 3; i++) await ask(t, gateway)
  t.same(seen.map(({ resumed }) => resumed), [false, true, true])
  gateway.app.proxy.setConnectionPool({ tls: { ca: authority.cert } })
  await ask(t, gateway)
  t.equal(seen[3].resumed, false, 'another pool has its own')
})

t.test('bad material fails the start, and says which option and why', { timeout: LIMIT }, async t => {
  const other = authority.issue()
  const junk = join(authority.folder, 'junk.pem')
  writeFileSync(junk, 'not PEM at all')
  const encrypted = authority.issue({ passphrase: 'x' })
  const broken = good.cert.replace(/[A-Za-z0-9]{20}/, 'AAAAAAAAAAAAAAAAAAAA')
  const bad: [TlsOptions, RegExp][] = [
    [{ ca: '/nowhere/ca.pem' }, /pool\.tls\.ca must be PEM text, a Buffer of it, or the path of a file; '\/nowhere\/ca\.pem' cannot be read \(ENOENT\)/],
    [{ ca: [authority.cert, '/nowhere/ca.pem'] }, /pool\.tls\.ca\[1\] must be/],
    [{ ca: junk }, /pool\.tls\.ca must be .*; it holds no certificate/],
    [{ ca: authority.folder }, /pool\.tls\.ca .*cannot be read \(EISDIR\)/],
    [{ ca: good.key }, /pool\.tls\.ca .*it holds no certificate/],
    [{ ca: broken }, /pool\.tls\.ca .*a certificate in it cannot be read/],
    [{ cert: good.cert }, /pool\.tls\.key .*there is none for the certificate/],
    [{ key: good.key }, /pool\.tls\.cert .*there is none for the key/],
    [{ cert: good.cert, key: other.key }, /pool\.tls\.key .*it is not that of .*pool\.tls\.cert/],
    [{ cert: good.cert, key: good.cert }, /pool\.tls\.key .*it holds no private key/],
    [{ cert: good.cert, key: '/nowhere/key.pem' }, /pool\.tls\.key .*the file of that name cannot be read \(ENOENT\)/],
    [{ cert: encrypted.cert, key: encrypted.key }, /pool\.tls\.key .*it is encrypted, and there is no passphrase/],
    [{ cert: encrypted.cert, key: encrypted.key, passphrase: 'y' }, /pool\.tls\.key .*cannot be read with this passphrase/],
    [{ minVersion: 'SSLv3' as never }, /pool\.tls\.minVersion must be one of/],
    [{ rejectUnauthorised: false } as never, /did you mean 'rejectUnauthorized'/],
    [{ alpnProtocols: [''] }, /pool\.tls\.alpnProtocols\[0\]/]
  ]
  for (const [tls, message] of bad) {
    await t.rejects(start(t, 'https://localhost:1', { tls }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message }, String(message))
  }
  await t.rejects(start(t, { id: 'b', url: 'https://localhost:1', tls: { ca: junk } }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: /tls of backend 'b'\.ca/ })
  const gateway = await start(t, 'http://127.0.0.1:1')
  t.throws(() => gateway.app.proxy.addBackend({ id: 'c', url: 'https://localhost:1', tls: { ca: junk } }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS' })
  t.throws(() => gateway.app.proxy.getBackend('c'), { code: 'FST_ROCKSTAR_UNKNOWN_BACKEND' }, 'it is not listed')
  gateway.app.proxy.addBackend({ id: 'd', url: 'https://localhost:1', tls: { cert: good.cert, key: good.key } })
  const pool = gateway.app.proxy.getConnectionPool()
  t.throws(() => gateway.app.proxy.setConnectionPool({ tls: { ca: junk } }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS' })
  t.equal(gateway.app.proxy.getConnectionPool(), pool, 'the pool that was there still is')
})

t.test('no key and no passphrase is ever shown', { timeout: LIMIT }, async t => {
  const secret = 'MIIEvSECRET/that/has/lost/its/first/line'
  for (const tls of [{ cert: good.cert, key: secret }, { cert: good.cert, key: 5 as never }, { cert: good.cert, key: good.key, passphrase: ['SECRET'] as never }]) {
    const error = await start(t, 'https://localhost:1', { tls }).then(() => null, error => error as Error)
    t.match(error, { code: 'FST_ROCKSTAR_INVALID_OPTIONS' })
    t.notMatch(`${error?.message} ${(error?.cause as Error | undefined)?.message}`, /SECRET/)
  }
  const gateway = await start(t, 'https://localhost:1', { tls: { cert: good.cert, key: good.key, passphrase: 'SECRET' } })
  const shown = JSON.stringify(gateway.app.proxy.getConnectionPool())
  t.notMatch(shown, /SECRET|PRIVATE KEY/)
  gateway.app.proxy.addBackend({ id: 'x', url: 'https://localhost:2', tls: { cert: good.cert, key: good.key, passphrase: 'SECRET' } })
  t.notMatch(JSON.stringify(gateway.app.proxy.getBackend('x')), /SECRET|PRIVATE KEY/)
})

t.test('health checks connect by the same settings', { timeout: LIMIT }, async t => {
  const { port, seen } = await tlsBackend(t, { ...authority.issue({ names: ['DNS:inner.example'] }), ca: authority.cert, requestCert: true, rejectUnauthorized: true })
  const url = `https://127.0.0.1:${port}`
  const tls = { ca: authority.cert, cert: good.cert, key: good.key, servername: 'inner.example' }
  const gateway = await startGateway(t, {
    backends: [{ id: 'pooled', url }, { id: 'own', url, tls: { servername: 'other.example' } }],
    pool: { tls },
    health: { path: '/health', interval: 60_000, fall: 1 }
  })
  await t.rejects(gateway.app.proxy.healthCheck(), { code: 'FST_ROCKSTAR_UNHEALTHY', message: /own .*altnames/ })
  t.equal(gateway.app.proxy.getBackend('pooled').healthy, true)
  t.equal(gateway.app.proxy.getBackend('own').healthy, false)
  t.equal(seen.length, 1)
  gateway.app.proxy.setConnectionPool({ tls: { ...tls, ca: stranger.cert } })
  await t.rejects(gateway.app.proxy.healthCheck(), { message: /pooled/ }, 'by those of the present pool')
  rmSync(join(authority.folder, 'junk.pem'), { force: true })
  await until(() => !gateway.app.proxy.getBackend('pooled').healthy)
})
