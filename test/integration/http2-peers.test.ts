import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { RockstarProxyOptions } from '../../types/index.ts'
import { httpBackend, startGateway, type Gateway } from '../helpers/app.ts'
import { Authority } from '../helpers/certificates.ts'
import { http2Backend } from '../helpers/http2-backend.ts'
import { haproxy, nginx } from '../helpers/peers.ts'
import { until } from '../helpers/wire.ts'

const LIMIT = { timeout: 30_000 }
const authority = new Authority(t)
const own = authority.issue()

/** Runs a program to its end and gives what it has written. */
async function run (program: string, ...args: string[]): Promise<string> {
  return await new Promise((resolve, reject) => execFile(program, args, { encoding: 'latin1', maxBuffer: 100_000_000 }, (error, out, err) => error === null ? resolve(out + err) : reject(new Error(`${program}: ${error.message}\n${err}`))))
}

/** An echo on HTTP/1.1, with trailers for who takes them. */
async function echo (t: Test): Promise<string> {
  const { url } = await httpBackend(t, (request, response) => {
    if (request.url === '/early') response.writeEarlyHints({ link: '</style.css>; rel=preload; as=style' })
    response.writeHead(200, { trailer: 'X-Sum', 'x-method': request.method })
    response.addTrailers({ 'X-Sum': 'abc' })
    request.pipe(response)
  })
  return url
}

const FRONTS = [['http', { http2: true }], ['https', { http2: true, https: { key: own.key, cert: own.cert } }]] as const

for (const [scheme, fastify] of FRONTS) {
  t.test(`nghttp and h2load by ${scheme}`, async t => {
    for (const back of ['HTTP/1.1', 'HTTP/2']) {
      const url = back === 'HTTP/1.1'
        ? await echo(t)
        : (await http2Backend(t, ({ stream, headers }) => {
            if (headers[':path'] === '/early') stream.additionalHeaders({ ':status': 103, link: '</style.css>; rel=preload; as=style' })
            stream.respond({ ':status': 200, 'x-method': headers[':method'] }, { waitForTrailers: true })
            stream.on('wantTrailers', () => stream.sendTrailers({ 'x-sum': 'abc' }))
            stream.pipe(stream)
          })).url
      const gateway = await startGateway(t, { http2: back === 'HTTP/2', backends: [url], routes: [{ prefix: '/' }] }, { fastify })
      const at = `${scheme}://127.0.0.1:${gateway.port}`

      await t.test(`${back}: early hints, content, trailers`, LIMIT, async t => {
        const file = join(t.testdir({ body: 'some content' }), 'body')
        const said = await run('nghttp', '-v', '--no-verify-peer', '-d', file, '-H', 'te: trailers', `${at}/early`)
        t.match(said, /recv \(stream_id=\d+\) :status: 103/)
        t.match(said, /recv \(stream_id=\d+\) link: <\/style\.css>/)
        t.match(said, /recv \(stream_id=\d+\) :status: 200/)
        t.match(said, /recv \(stream_id=\d+\) x-method: POST/)
        t.match(said, 'some content')
        t.match(said, /recv \(stream_id=\d+\) x-sum: abc/)
        t.notMatch(said, /RST_STREAM/)
      })

      await t.test(`${back}: large bodies`, LIMIT, async t => {
        const folder = t.testdir()
        const file = join(folder, 'body')
        const content = randomBytes(2_000_000)
        writeFileSync(file, content)
        const said = await run('nghttp', '--no-verify-peer', '-d', file, `${at}/a`)
        t.ok(Buffer.from(said, 'latin1').equals(content))
      })

      await t.test(`${back}: a thousand requests on many streams at once`, LIMIT, async t => {
        const said = await run('h2load', '-n', '1000', '-c', '4', '-m', '50', `${at}/a`)
        t.match(said, '1000 total, 1000 started, 1000 done, 1000 succeeded, 0 failed, 0 errored, 0 timeout')
        t.match(said, 'status codes: 1000 2xx, 0 3xx, 0 4xx, 0 5xx')
        await until(() => gateway.app.proxy.getMetrics().inFlight === 0)
        t.equal(gateway.app.proxy.getMetrics().failedRequests, 0)
      })
    }
  })
}

/** So many requests at a time, until as many have been answered. Gives what was not as it should be. */
async function storm (gateway: Gateway, count: number, concurrency: number): Promise<string[]> {
  const wrong: string[] = []
  let next = 0
  await Promise.all(Array.from({ length: concurrency }, async () => {
    while (next < count) {
      const i = next++
      const post = i % 2 === 0
      const response = await fetch(`${gateway.url}/${i}`, post ? { method: 'POST', body: `body ${i}` } : {})
      const text = await response.text()
      if (response.status !== 200 || text !== `${post ? 'POST' : 'GET'} /${i} HTTP/2.0`) wrong.push(`${i}: ${response.status} ${text}`)
    }
  }))
  return wrong
}

async function start (t: Test, url: string, options: RockstarProxyOptions = {}): Promise<Gateway> {
  return await startGateway(t, { http2: true, backends: [url], routes: [{ prefix: '/' }], ...options })
}

t.test('nginx by HTTP/2 that closes each connection after a few requests, and is reloaded meanwhile', LIMIT, async t => {
  for (const tls of [false, true]) {
    const peer = await nginx(t, ({ port }) => `
      server {
        listen 127.0.0.1:${port} ${tls ? 'ssl ' : ''}http2;
        ${tls ? `ssl_certificate ${own.certFile}; ssl_certificate_key ${own.keyFile};` : ''}
        keepalive_requests 20;
        http2_max_concurrent_streams 8;
        location / { default_type text/plain; return 200 "$request_method $request_uri $server_protocol"; }
      }`)
    // While it is reloaded, connections may end before they have begun.
    const gateway = await start(t, `http${tls ? 's' : ''}://localhost:${peer.port}`, { retry: true, pool: { tls: { ca: authority.certFile } }, http2: tls ? 'auto' : true })
    const reload = setInterval(() => peer.process.kill('SIGHUP'), 100)
    t.same(await storm(gateway, 400, 40), [], 'nothing is lost')
    clearInterval(reload)
    const { connects } = gateway.app.proxy.getConnectionPool().stats()
    t.ok(connects >= 20, `${connects} connections`)
    t.match(gateway.app.proxy.getMetrics(), { failedRequests: 0 })
  }
})

t.test('HAProxy by HTTP/2', LIMIT, async t => {
  const { port } = await httpBackend(t, (request, response) => {
    request.resume().on('end', () => response.end(`${request.method} ${request.url} HTTP/2.0`))
  })
  const peer = await haproxy(t, place => `
frontend f
  bind 127.0.0.1:${place.port} proto h2
  default_backend b
backend b
  server s 127.0.0.1:${port}`)
  const gateway = await start(t, `http://127.0.0.1:${peer.port}`)
  t.same(await storm(gateway, 300, 20), [])
  t.equal(gateway.app.proxy.getConnectionPool().stats().connects, 1)
})
