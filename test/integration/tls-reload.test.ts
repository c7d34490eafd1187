import { copyFileSync, mkdirSync, renameSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs'
import type { ServerResponse } from 'node:http'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { TlsOptions } from '../../types/index.ts'
import { startGateway, type Gateway } from '../helpers/app.ts'
import { Authority, type Identity } from '../helpers/certificates.ts'
import { tlsBackend, type TlsBackend } from '../helpers/tls.ts'
import { connectTo, until, type Message } from '../helpers/wire.ts'

const LIMIT = 20_000
const authority = new Authority(t)
const good = authority.issue()
const [first, second] = [authority.issue(), authority.issue()]
let folders = 0

function folderFor (): string {
  const folder = join(authority.folder, `files-${++folders}`)
  mkdirSync(folder)
  return folder
}

async function ask (t: Test, gateway: Gateway, path = '/'): Promise<Message> {
  const client = await connectTo(t, gateway.port)
  client.send(`GET ${path} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
  const response = await client.response()
  await until(() => gateway.app.proxy.getConnectionPool().stats().active === 0)
  return response
}

const nameOf = ({ certFile }: Identity): string => /(\d+)\.pem/.exec(certFile)?.[1] as string
const renewals = ({ log }: Gateway): number => log.filter(({ msg }) => msg.startsWith('TLS material has changed and is used')).length
const faults = ({ log }: Gateway): unknown[] => log.filter(({ msg }) => /cannot be used/.test(msg)).map(({ err }) => (err as Error).message)

/** A gateway that shows a certificate from files, and a backend that sees it. */
async function start (t: Test, files: TlsOptions, listener?: (request: unknown, response: ServerResponse) => void, perBackend = false): Promise<{ gateway: Gateway, backend: TlsBackend }> {
  const backend = await tlsBackend(t, { ...good, ca: authority.cert, requestCert: true, rejectUnauthorized: true }, listener)
  const tls = { ca: authority.cert, ...files }
  const gateway = await startGateway(t, { backends: [perBackend ? { url: backend.url, tls } : backend.url], routes: [{ prefix: '/' }], pool: perBackend ? {} : { tls } })
  return { gateway, backend }
}

for (const perBackend of [false, true]) {
  t.test(`files that are renamed into place are used for new connections, and old ones go (${perBackend ? 'backend' : 'pool'})`, { timeout: LIMIT }, async t => {
    const folder = folderFor()
    const [cert, key] = [join(folder, 'cert.pem'), join(folder, 'key.pem')]
    copyFileSync(first.certFile, cert)
    copyFileSync(first.keyFile, key)
    const { gateway, backend } = await start(t, { cert, key }, undefined, perBackend)
    await ask(t, gateway)
    await ask(t, gateway)
    t.equal(backend.sockets.length, 1)
    for (const [from, to] of [[second.certFile, cert], [second.keyFile, key]]) {
      copyFileSync(from, `${to}.new`)
      renameSync(`${to}.new`, to)
    }
    await until(() => renewals(gateway) === 1)
    await until(() => backend.sockets[0].destroyed)
    t.equal((await ask(t, gateway)).status, 200)
    t.same(backend.seen.map(({ commonName }) => commonName), [nameOf(first), nameOf(first), nameOf(second)])
    t.equal(backend.seen[2].resumed, false)
    t.match(gateway.log.find(({ msg }) => msg.startsWith('TLS material has changed and is used')), { level: 30, upstream: 'default', files: [cert, key] })
    t.same(faults(gateway), [])
  })
}

t.test('Kubernetes\' way: a link to the folder of the files is swapped', { timeout: LIMIT }, async t => {
  const folder = folderFor()
  for (const [name, { certFile, keyFile }] of [['..1', first], ['..2', second]] as const) {
    mkdirSync(join(folder, name))
    copyFileSync(certFile, join(folder, name, 'tls.crt'))
    copyFileSync(keyFile, join(folder, name, 'tls.key'))
  }
  symlinkSync('..1', join(folder, '..data'))
  for (const name of ['tls.crt', 'tls.key']) symlinkSync(`..data/${name}`, join(folder, name))
  const { gateway, backend } = await start(t, { cert: join(folder, 'tls.crt'), key: join(folder, 'tls.key') })
  await ask(t, gateway)
  symlinkSync('..2', join(folder, '..data_tmp'))
  renameSync(join(folder, '..data_tmp'), join(folder, '..data'))
  await until(() => renewals(gateway) === 1)
  await ask(t, gateway)
  t.same(backend.seen.map(({ commonName }) => commonName), [nameOf(first), nameOf(second)])
})

t.test('an answer that is under way comes whole on the old connection, which then closes', { timeout: LIMIT }, async t => {
  const folder = folderFor()
  const ca = join(folder, 'ca.pem')
  copyFileSync(authority.certFile, ca)
  let open: ServerResponse | undefined
  const { gateway, backend } = await start(t, { ca, cert: first.cert, key: first.key }, (request, response) => {
    if ((request as { url: string }).url !== '/slow') response.end('quick')
    else {
      open = response
      response.write('one ')
    }
  })
  const client = await connectTo(t, gateway.port)
  client.send('GET /slow HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await client.receive('one ')
  writeFileSync(ca, new Authority(t, 'new').cert + authority.cert)
  await until(() => renewals(gateway) === 1)
  const quick = await connectTo(t, gateway.port)
  quick.send('GET /quick HTTP/1.1\r\nHost: gateway\r\n\r\n')
  t.equal((await quick.response()).body, 'quick')
  t.equal(backend.sockets.length, 2)
  t.equal(backend.sockets[0].destroyed, false)
  open?.end('two')
  t.equal((await client.response()).body, 'one two')
  await until(() => backend.sockets[0].destroyed)
  t.equal(backend.sockets[1].destroyed, false, 'the new one is kept')
})

t.test('what is new and bad is told of, and the last good stays; then what is good again is used', { timeout: LIMIT }, async t => {
  const folder = folderFor()
  const [cert, key] = [join(folder, 'cert.pem'), join(folder, 'key.pem')]
  copyFileSync(first.certFile, cert)
  copyFileSync(first.keyFile, key)
  const { gateway, backend } = await start(t, { cert, key })
  await ask(t, gateway)
  writeFileSync(cert, '-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n')
  await until(() => faults(gateway).length === 1)
  t.match(faults(gateway)[0], /pool\.tls\.cert .* a certificate in it cannot be read/)
  unlinkSync(cert)
  await until(() => faults(gateway).length === 2)
  t.match(faults(gateway)[1], /pool\.tls\.cert .*cannot be read \(ENOENT\)/)
  copyFileSync(second.certFile, cert)
  await until(() => faults(gateway).length === 3)
  t.match(faults(gateway)[2], /pool\.tls\.key .* it is not that of/)
  t.equal((await ask(t, gateway)).status, 200)
  t.equal(backend.sockets.length, 1, 'nothing was renewed')
  copyFileSync(second.keyFile, key)
  await until(() => renewals(gateway) === 1)
  await ask(t, gateway)
  t.same(backend.seen.map(({ commonName }) => commonName), [nameOf(first), nameOf(first), nameOf(second)])
  t.equal(gateway.log.filter(({ msg, level }) => /cannot be used/.test(msg) && level === 40).length, 3)
})

t.test('a file that is only touched changes nothing', { timeout: LIMIT }, async t => {
  const folder = folderFor()
  const [ca, cert] = [join(folder, 'ca.pem'), join(folder, 'cert.pem')]
  copyFileSync(authority.certFile, ca)
  copyFileSync(first.certFile, cert)
  const { gateway, backend } = await start(t, { ca, cert, key: first.key })
  await ask(t, gateway)
  // What is bad is told of; what came before it has been seen by then.
  copyFileSync(second.certFile, cert)
  await until(() => faults(gateway).length === 1)
  copyFileSync(first.certFile, cert)
  copyFileSync(authority.certFile, ca)
  await ask(t, gateway)
  await new Promise(resolve => setTimeout(resolve, 300))
  copyFileSync(second.certFile, cert)
  await until(() => faults(gateway).length === 2)
  t.equal(renewals(gateway), 0)
  t.equal(backend.sockets.length, 1)
})
