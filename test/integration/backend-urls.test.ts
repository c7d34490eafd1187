import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { startGateway } from '../helpers/app.ts'
import { connectTo } from '../helpers/wire.ts'

const LIMIT = 10_000

/** A backend that tells what it was asked for; `null` where the machine has no such address. */
async function tellingBackend (t: Test, host: string): Promise<number | null> {
  const server = createServer((request, response) => response.end(`${request.url} ${request.headers.host}`))
  const listening = await new Promise<boolean>(resolve => {
    server.once('error', () => resolve(false)).listen(0, host, () => resolve(true))
  })
  if (!listening) return null
  t.teardown(() => new Promise<void>(resolve => {
    server.close(() => resolve())
    server.closeAllConnections()
  }))
  return (server.address() as AddressInfo).port
}

for (const [host, bound] of [['127.0.0.1', '127.0.0.1'], ['[::1]', '::1'], ['localhost', '127.0.0.1'], ['[::ffff:127.0.0.1]', '127.0.0.1']]) {
  t.test(`http://${host}, with and without a base path`, { timeout: LIMIT }, async t => {
    const port = await tellingBackend(t, bound)
    if (port === null) {
      t.pass('this machine has no such address')
      return
    }
    const shown = new URL(`http://${host}:${port}`).host
    for (const [base, path, expected] of [['', '/a?b=c', '/a?b=c'], ['/', '/', '/'], ['/base', '/a/b', '/base/a/b'], ['/base/', '/', '/base/'], ['/ba%20se//', '/a?x=/../y', '/ba%20se/a?x=/../y']]) {
      const gateway = await startGateway(t, { backends: [`http://${host}:${port}${base}`], routes: [{ prefix: '/' }], health: { interval: 60_000, fall: 1 } })
      t.equal(gateway.app.proxy.listBackends()[0].id, shown)
      const client = await connectTo(t, gateway.port)
      client.send(`GET ${path} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
      t.equal((await client.response()).body, `${expected} ${shown}`)
      await gateway.app.proxy.healthCheck()
    }
  })
}
