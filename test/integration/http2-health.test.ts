import { createSecureServer, createServer, type Http2Server, type Http2ServerRequest, type Http2ServerResponse } from 'node:http2'
import type { AddressInfo, Socket } from 'node:net'
import t, { type Test } from 'tap'
import { startGateway } from '../helpers/app.ts'
import { Authority } from '../helpers/certificates.ts'

const LIMIT = 15_000
const authority = new Authority(t)

async function listen (t: Test, server: Http2Server): Promise<number> {
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.on('error', () => {}).on('close', () => sockets.delete(socket))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => new Promise<void>(resolve => {
    server.close(() => resolve())
    for (const socket of sockets) socket.destroy()
  }))
  return (server.address() as AddressInfo).port
}

t.test('health checks speak what requests speak', { timeout: LIMIT }, async t => {
  const versions: string[] = []
  const answer = (request: Http2ServerRequest, response: Http2ServerResponse): void => {
    versions.push(request.httpVersion)
    response.end('fine')
  }
  const plain = await listen(t, createServer(answer))
  const secure = await listen(t, createSecureServer(authority.issue(), answer) as unknown as Http2Server)
  const both = await listen(t, createSecureServer({ ...authority.issue(), allowHTTP1: true }, answer) as unknown as Http2Server)
  const tls = { ca: authority.cert }
  for (const [url, http2, version] of [
    [`http://127.0.0.1:${plain}`, true, '2.0'], [`https://localhost:${secure}`, true, '2.0'], [`https://localhost:${secure}`, 'auto', '2.0'],
    [`https://localhost:${both}`, 'auto', '2.0'], [`https://localhost:${both}`, false, '1.1']
  ] as const) {
    versions.length = 0
    const gateway = await startGateway(t, { backends: [{ url, http2 }], pool: { tls }, health: { path: '/health', expectedBody: 'fine', interval: 60_000, fall: 1 } })
    await gateway.app.proxy.healthCheck()
    t.same(versions, [version], `${url} ${http2}`)
  }
  const refused = await startGateway(t, { backends: [{ id: 'b', url: `https://localhost:${secure}`, http2: false }], pool: { tls }, health: { path: '/health', interval: 60_000, fall: 1 } })
  await t.rejects(refused.app.proxy.healthCheck(), { code: 'FST_ROCKSTAR_UNHEALTHY' })
})
