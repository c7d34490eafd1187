import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { accepts } from '../helpers/ports.ts'

const root = join(import.meta.dirname, '../..')

/** When a file was written last, or the newest one in a folder; 0 when there is none. */
function written (path: string): number {
  const stat = statSync(path, { throwIfNoEntry: false })
  if (stat === undefined) return 0
  if (!stat.isDirectory()) return stat.mtimeMs
  return Math.max(0, ...readdirSync(path).map(name => written(join(path, name))))
}

/** The examples import the package by its name, and so as it was built: from these sources, if they are to prove anything. */
function buildIfStale (): void {
  const sources = Math.max(...['types', 'lib', 'plugins', 'tsconfig.build.json'].map(name => written(join(root, name))))
  if (written(join(root, 'dist/plugins/index.js')) >= sources) return
  const { status, stdout } = spawnSync(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', 'tsconfig.build.json'], { cwd: root, encoding: 'utf8' })
  if (status !== 0) throw new Error(`the build failed:\n${stdout}`)
}

interface Example {
  child: ChildProcess
  url: string
  output: () => string
}

/** Runs an example on free ports until it prints its address; killed with the test, if it has not ended by then. */
async function run (t: Test, name: string): Promise<Example> {
  const child = spawn(process.execPath, ['--import=tsx', join('examples', name)], {
    cwd: root,
    env: { ...process.env, PORT: '0', BACKEND_PORTS: '0,0,0', NODE_OPTIONS: '' },
    stdio: ['ignore', 'pipe', 'pipe']
  })
  t.teardown(() => child.kill('SIGKILL'))
  let output = ''
  await new Promise<void>(resolve => {
    child.once('exit', () => resolve())
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', text => {
        output += text
        if (output.includes('Ctrl+C')) resolve()
      })
    }
  })
  const url = /http:\/\/127\.0\.0\.1:\d+/.exec(output)?.[0]
  if (url === undefined) throw new Error(`${name} has not come up:\n${output}`)
  return { child, url, output: () => output }
}

async function get (url: string, init: RequestInit = {}) {
  const response = await fetch(url, { ...init, headers: { connection: 'close', ...init.headers } })
  return { status: response.status, headers: response.headers, body: await response.json() as any }
}

async function refuses (url: string): Promise<boolean> {
  return !await accepts(Number(new URL(url).port))
}

t.before(buildIfStale)

t.test('the gateway takes its backends in turn, tells of them and closes at a signal', async t => {
  const { child, url, output } = await run(t, 'gateway.ts')

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
  t.match(status.backends, ['backend-1', 'backend-2', 'backend-3'].map(id => ({ id, weight: 10, isActive: true, draining: false, inFlight: 0 })))
  t.equal(status.balancer, 'round-robin')
  t.match(status.connections, { connects: 3, requests: 8, backends: { 'backend-1': { requests: 3 } } })
  t.match(status.metrics, { totalRequests: 8 })

  const { body: metrics } = await get(`${url}/proxy/metrics`)
  t.match(metrics, { totalRequests: 8, successfulRequests: 8, failedRequests: 0, backends: { 'backend-3': { totalRequests: 2 } } })
  t.equal((await fetch(`${url}/elsewhere`, { headers: { connection: 'close' } })).status, 404, 'what has no route is not forwarded')

  for (const path of ['/api/hello', '/api/health', '/api/users', '/proxy/status', '/proxy/metrics']) {
    t.ok(output().includes(`${url}${path}`), `it says to curl ${path}`)
  }
  child.kill('SIGTERM')
  t.same(await once(child, 'exit'), [0, null], 'it ends by itself')
  t.ok(await refuses(url), 'nobody listens any more')
})

t.test('forward() streams, falls back, hands over and combines', async t => {
  const { child, url } = await run(t, 'forward.ts')
  t.match(await get(`${url}/stream?a=b`), { status: 200, body: { path: '/stream?a=b' } })
  t.match(await get(`${url}/fallback`), { status: 200, body: { from: 'the fallback', because: 'FST_ROCKSTAR_CONNECT' } })
  t.match(await get(`${url}/inspect`), { status: 200, body: { status: 200, by: /^127\.0\.0\.1:\d+$/, body: { path: '/profile' } } })
  t.same((await get(`${url}/combine`)).body, [{ path: '/users/1' }, { path: '/orders?user=1' }])
  child.kill('SIGINT')
  t.same(await once(child, 'exit'), [0, null], 'it ends by itself')
  t.ok(await refuses(url), 'nobody listens any more')
})

t.test('gRPC calls of all kinds go through', async t => {
  const { child, url } = await run(t, 'grpc/gateway.ts')
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
