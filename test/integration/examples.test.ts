import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import t from 'tap'
import { buildIfStale, runExample } from '../helpers/example.ts'
import { accepts } from '../helpers/ports.ts'

async function get (url: string, init: RequestInit = {}) {
  const response = await fetch(url, { ...init, headers: { connection: 'close', ...init.headers } })
  return { status: response.status, headers: response.headers, body: await response.json() as any }
}

async function refuses (url: string): Promise<boolean> {
  return !await accepts(Number(new URL(url).port))
}

const root = join(import.meta.dirname, '../..')

t.before(buildIfStale)

t.test('the gateway takes its backends in turn, tells of them and closes at a signal', async t => {
  const { child, url, output } = await runExample(t, 'gateway.ts')

  const names: string[] = []
  for (let i = 0; i < 6; i++) {
    const { status, body, headers } = await get(`${url}/api/hello?i=${i}`)
    t.equal(status, 200)
    t.match(body, { method: 'GET', path: `/hello?i=${i}`, forwardedFor: '127.0.0.1' })
    t.equal(headers.get('via'), '1.1 rockstar-proxy')
    names.push(body.name)
  }
  t.same(names, ['backend-1', 'backend-2', 'backend-3', 'backend-1', 'backend-2', 'backend-3'])

  const posted = await get(`${url}/api/users`, { method: 'POST', body: new URLSearchParams({ name: 'rock' }) })
  t.match(posted, { status: 200, body: { method: 'POST', path: '/users' } }, 'a form that Fastify cannot parse goes through')
  t.match(await get(`${url}/api/health`), { status: 200, body: { status: 'ok', name: 'backend-2' } })

  const { body: status } = await get(`${url}/proxy/status`)
  t.match(status, { ready: true, upstreams: [{ name: 'default', balancer: 'round-robin', backends: { total: 3, available: 3 }, requests: { totalRequests: 8 }, connections: { connects: 3, requests: 8 } }] })
  const { body: listed } = await get(`${url}/proxy/backends`)
  t.match(listed, { count: 3, available: 3, backends: ['backend-1', 'backend-2', 'backend-3'].map(id => ({ id, weight: 10, isActive: true, draining: false, inFlight: 0 })) })
  const explained = await get(`${url}/proxy/explain`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{ "url": "/api/hello" }' })
  t.match(explained, { status: 200, body: { route: { kind: 'declared', prefix: '/api' }, chosen: 'backend-3', sent: { path: '/hello' } } })
  const events = await fetch(`${url}/proxy/events`)
  t.equal(events.headers.get('content-type'), 'text/event-stream')
  await events.body?.cancel()

  const { body: metrics } = await get(`${url}/proxy/metrics`)
  t.match(metrics, { totalRequests: 8, successfulRequests: 8, failedRequests: 0, backends: { 'backend-3': { totalRequests: 2 } } })
  t.equal((await fetch(`${url}/elsewhere`, { headers: { connection: 'close' } })).status, 404, 'what has no route is not forwarded')

  for (const path of ['/api/hello', '/api/health', '/api/users', '/proxy/status', '/proxy/backends', '/proxy/metrics', '/proxy/explain', '/proxy/events']) {
    t.ok(output().includes(`${url}${path}`), `it says to curl ${path}`)
  }
  child.kill('SIGTERM')
  t.same(await once(child, 'exit'), [0, null], 'it ends by itself')
  t.ok(await refuses(url), 'nobody listens any more')
})

t.test('forward() streams, falls back, hands over and combines', async t => {
  const { child, url } = await runExample(t, 'forward.ts')
  t.match(await get(`${url}/stream?a=b`), { status: 200, body: { path: '/stream?a=b' } })
  t.match(await get(`${url}/fallback`), { status: 200, body: { from: 'the fallback', because: 'FST_ROCKSTAR_CONNECT' } })
  t.match(await get(`${url}/inspect`), { status: 200, body: { status: 200, by: /^127\.0\.0\.1:\d+$/, body: { path: '/profile' } } })
  t.same((await get(`${url}/combine`)).body, [{ path: '/users/1' }, { path: '/orders?user=1' }])
  child.kill('SIGINT')
  t.same(await once(child, 'exit'), [0, null], 'it ends by itself')
  t.ok(await refuses(url), 'nobody listens any more')
})

t.test('all that the proxy can do has a handler', async t => {
  const { child, url, output } = await runExample(t, 'handlers.ts')
  const json = (method: string, body?: object): RequestInit => body === undefined ? { method } : { method, body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }

  t.match(await get(`${url}/backends`), { status: 200, body: { count: 2, backends: [{ id: 'backend-1', weight: 10, isActive: true }, { id: 'backend-2' }] } })
  t.match((await get(`${url}/api/a?b=c`)).body, { name: 'backend-1', path: '/api/a?b=c' })
  t.match(await get(`${url}/inspect`), { status: 200, body: { status: 200, by: 'backend-2', body: { path: '/inspect' } } })
  const users = await fetch(`${url}/users`, { headers: { connection: 'close' } })
  t.match([users.status, JSON.parse(await users.text())], [200, { name: 'backend-1', path: '/api/users' }])

  const third = /"id": "backend-3", "url": "([^"]+)"/.exec(output())?.[1]
  t.match(await get(`${url}/backends`, json('POST', { id: 'backend-3', url: third })), { status: 201, body: { id: 'backend-3', weight: 10 } })
  t.match(await get(`${url}/backends`, json('POST', { id: 'backend-3', url: third })), { status: 409, body: { code: 'FST_ROCKSTAR_DUPLICATE_BACKEND' } })
  t.match(await get(`${url}/backends`, json('POST', { id: 'x', url: 'ftp://x' })), { status: 400, body: { error: /^backend\.url must be/ } })
  t.match(await get(`${url}/backends`, json('POST')), { status: 400, body: { message: 'body must be object' } }, 'without a body')
  t.match(await get(`${url}/backends`, json('POST', { id: 'x' })), { status: 400, body: { message: "body must have required property 'url'" } })
  t.match(await get(`${url}/backends`, json('POST', { url: third, weight: -1, id: 'x' })), { status: 400, body: { error: /^backend\.weight must be/ } })
  t.match(await get(`${url}/backends`, { method: 'POST', body: 'x', headers: { 'content-type': 'text/plain' } }), { status: 400 })
  t.match(await get(`${url}/backends/backend-3`), { status: 200, body: { id: 'backend-3', url: `${third}/` } })
  t.match(await get(`${url}/backends/none`), { status: 404, body: { code: 'FST_ROCKSTAR_UNKNOWN_BACKEND' } })

  t.same((await get(`${url}/balancer`)).body, { type: 'round-robin' })
  t.same((await get(`${url}/balancer/least-requests`, json('PUT'))).body, { message: 'Load balancer updated', type: 'least-requests' })
  t.same((await get(`${url}/balancer`)).body, { type: 'least-requests' })
  t.match(await get(`${url}/balancer/fastest`, json('PUT')), { status: 400 })
  t.same((await get(`${url}/breaker/backend-2`)).body, { state: 'closed' })
  t.match(await get(`${url}/breaker`, json('PUT', { threshold: 0 })), { status: 400, body: { error: /threshold must be/ } })
  t.match(await get(`${url}/breaker`, json('PUT')), { status: 400 })
  t.same((await get(`${url}/breaker`, json('PUT', { threshold: 1, timeout: 60_000 }))).body, { message: 'Circuit breaker updated' })

  t.match(await get(`${url}/health/check`, json('POST')), { status: 200, body: { message: 'All backends healthy' } })
  t.match((await get(`${url}/health`)).body, { 'backend-1': { isHealthy: true, statusCode: 200 }, 'backend-3': { isHealthy: true } })
  t.match((await get(`${url}/proxy/status`)).body, { backends: [{ id: 'backend-1' }, { id: 'backend-2' }, { id: 'backend-3' }], health: { 'backend-2': { isHealthy: true } } })
  const { body: metrics } = await get(`${url}/proxy/metrics`)
  t.match(metrics, { totalRequests: 3, successfulRequests: 3, failedRequests: 0, averageResponseTime: Number })
  t.same((await get(`${url}/proxy/metrics`, json('DELETE'))).body, { message: 'Metrics reset' })
  t.match((await get(`${url}/proxy/metrics`)).body, { totalRequests: 0 })

  // One that cannot be reached is left, and what nobody answers has an answer of the handler's.
  for (const id of [1, 2, 3]) t.same((await get(`${url}/backends/backend-${id}`, json('DELETE'))).body, { message: 'Backend removed' })
  t.match(await get(`${url}/api/x`), { status: 502, body: { error: 'Bad gateway', code: 'FST_ROCKSTAR_NO_BACKEND' } })
  t.match(await get(`${url}/inspect`), { status: 502, body: { error: 'Bad gateway' } })
  await get(`${url}/backends`, json('POST', { id: 'gone', url: 'http://127.0.0.1:1' }))
  t.match(await get(`${url}/health/check`, json('POST')), { status: 503, body: { error: /gone/ } })
  t.match(await get(`${url}/api/x`), { status: 502, body: { error: 'Bad gateway' } })
  t.same((await get(`${url}/breaker/gone`)).body, { state: 'open' }, 'by the new threshold of 1')
  child.kill('SIGTERM')
  t.same(await once(child, 'exit'), [0, null], 'it ends by itself')
})

t.test('gRPC calls of all kinds go through', async t => {
  const { child, url } = await runExample(t, 'grpc/gateway.ts')
  const { status, stdout, stderr } = await new Promise<{ status: number | null, stdout: string, stderr: string }>(resolve => {
    const client = spawn(process.execPath, ['--import=tsx', join('examples', 'grpc/client.ts'), url], { cwd: root, env: { ...process.env, NODE_OPTIONS: '' }, stdio: ['ignore', 'pipe', 'pipe'] })
    t.teardown(() => client.kill('SIGKILL'))
    let stdout = ''
    let stderr = ''
    client.stdout.setEncoding('utf8').on('data', text => { stdout += text })
    client.stderr.setEncoding('utf8').on('data', text => { stderr += text })
    client.once('close', status => resolve({ status, stdout, stderr }))
  })
  t.equal(stderr, '')
  t.equal(stdout, `Unary, three times:
  Hello, Ada! (server-1)
  Hello, Grace! (server-2)
  Hello, Edsger! (server-3)
An error:
  INVALID_ARGUMENT: nobody to greet
Server streaming:
  Hello, Ada! (server-2)
  Bonjour, Ada! (server-2)
  Hallo, Ada! (server-2)
Client streaming:
  Hello, Ada and Grace and Edsger! (server-3)
Both ways:
  Hello, Ada! (server-1)
  Hello, Grace! (server-1)
  Hello, Edsger! (server-1)
`)
  t.equal(status, 0)
  child.kill('SIGTERM')
  t.same(await once(child, 'exit'), [0, null], 'it ends by itself')
  t.ok(await refuses(url), 'nobody listens any more')
})
