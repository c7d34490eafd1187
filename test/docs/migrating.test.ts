import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer, request as ask, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import WebSocket, { WebSocketServer } from 'ws'
import { buildIfStale } from '../helpers/example.ts'

const root = join(import.meta.dirname, '../..')
const page = readFileSync(join(root, 'docs/migrating-from-http-proxy.md'), 'utf8')

/** The code that stands behind a mark. */
function codeOf (mark: string): string {
  const code = new RegExp(`<!-- ${mark} -->\n\`\`\`js\n(.*?)\`\`\``, 's').exec(page)?.[1]
  if (code === undefined) throw new Error(`docs/migrating-from-http-proxy.md has no code for ${mark}`)
  return code
}

/** Runs code of the page as it is, but for its ports. */
async function run (t: Test, code: string, backend: string): Promise<string> {
  t.ok(code.includes('http://127.0.0.1:8081') && code.includes('port: 3000'), 'its ports are those that are replaced')
  const script = `${code.replaceAll('http://127.0.0.1:8081', backend).replace('port: 3000', 'port: 0')}\nconsole.log(app.server.address().port)`
  const child = spawn(process.execPath, ['--input-type=module', '--eval', script], { cwd: root, env: { ...process.env, NODE_OPTIONS: '' }, stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  const [port] = await once(child.stdout, 'data') as [Buffer]
  return `http://127.0.0.1:${Number(String(port))}`
}

interface Answer {
  status: number
  headers: IncomingHttpHeaders
  body: string
}

/** Fields that are a connection's, or that only one of the two writes. */
const OWN = ['date', 'connection', 'keep-alive', 'transfer-encoding', 'content-length', 'via']

function fetchRaw (url: string, path: string, method: string, headers: Record<string, string>, body?: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = ask(`${url}${path}`, { method, headers, agent: false }, response => {
      let text = ''
      response.setEncoding('utf8').on('data', chunk => { text += chunk }).on('end', () => {
        const kept = Object.fromEntries(Object.entries(response.headers).filter(([name]) => !OWN.includes(name)))
        resolve({ status: response.statusCode as number, headers: kept, body: text })
      })
    })
    request.on('error', reject).end(body)
  })
}

/** A backend that tells what it was asked, and knows redirects, cookies and WebSockets. */
async function startBackend (t: Test) {
  const server = createServer((request, response) => {
    const hash = createHash('sha256')
    let bytes = 0
    request.on('data', (chunk: Buffer) => {
      hash.update(chunk)
      bytes += chunk.length
    }).on('end', () => {
      const { method, url, headers: { 'x-tenant': tenant, 'content-type': type, 'x-own': own, 'x-hop': hop, authorization } } = request
      if (url === '/v1/redirect') response.writeHead(302, { location: '/v1/elsewhere?a=b', 'set-cookie': ['a=1', 'b=2'] }).end()
      else if (url === '/v1/missing') response.writeHead(404, 'Not Here', { 'content-type': 'text/plain', 'x-list': ['1', '2'] }).end('nothing')
      else if (url === '/v1/late') request.socket.destroy()
      else if (url === '/v1/empty') response.writeHead(204).end()
      else response.setHeader('content-type', 'application/json').end(JSON.stringify({ method, url, tenant, type, own, hop, authorization, bytes, sha: hash.digest('hex') }))
    })
  })
  const sockets = new WebSocketServer({ server })
  sockets.on('connection', (socket, { url }) => {
    socket.send(`hello at ${url}`)
    socket.on('message', (data, binary) => socket.send(data, { binary }))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    for (const client of sockets.clients) client.terminate()
    server.closeAllConnections()
    server.close()
  })
  return { server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }
}

t.before(buildIfStale)

t.test('the code before and the code after answer alike', async t => {
  const { server, url } = await startBackend(t)
  const [before, after] = await Promise.all([run(t, codeOf('before'), url), run(t, codeOf('after'), url)])
  const same = async (method: string, path: string, headers: Record<string, string> = {}, body?: string): Promise<Answer> => {
    const [was, is] = await Promise.all([before, after].map(url => fetchRaw(url, path, method, headers, body)))
    t.strictSame(is, was, `${method} ${path}`)
    return is
  }
  t.match(JSON.parse((await same('GET', '/api/users/7?a=b&a=%20c', { 'x-own': 'x' })).body), { method: 'GET', url: '/v1/users/7?a=b&a=%20c', tenant: 'blue', own: 'x' })
  t.match((await same('GET', '/api')).body, '"/v1')
  t.equal((await same('HEAD', '/api/users')).status, 200)
  t.match(JSON.parse((await same('POST', '/api/users', { 'content-type': 'application/json' }, '{"a":1}')).body), { bytes: 7, type: 'application/json' })
  t.match(JSON.parse((await same('PUT', '/api/files', { 'content-type': 'application/octet-stream' }, 'x'.repeat(300_000))).body), { bytes: 300_000 })
  t.match(await same('GET', '/api/missing'), { status: 404, headers: { 'x-served-by': 'gateway', 'x-list': '1, 2' }, body: 'nothing' })
  t.match(await same('GET', '/api/redirect'), { status: 302, headers: { location: '/api/elsewhere?a=b', 'set-cookie': ['a=1', 'b=2'] } })
  t.equal((await same('GET', '/api/empty')).status, 204)
  t.strictSame(JSON.parse((await same('GET', '/api/x', { authorization: 'nobody' })).body), { error: 'who are you?' })
  t.match(JSON.parse((await same('GET', '/api/x', { authorization: 'somebody' })).body), { authorization: 'somebody' })
  t.equal((await same('DELETE', '/api/x')).status, 404, 'a method that is not listed')
  t.equal((await same('GET', '/elsewhere')).status, 404)
  t.match(await same('GET', '/api/late'), { status: 503, body: '{"error":"try again later"}' })

  const said = await Promise.all([before, after].map(url => talk(t, `${url.replace('http', 'ws')}/api/live?x=1`)))
  t.strictSame(said[1], said[0])
  t.strictSame(said[1], ['hello at /v1/live?x=1', 'text', 'binary: bytes'])

  server.closeAllConnections()
  await new Promise<void>(resolve => server.close(() => resolve()))
  t.match(await same('GET', '/api/x'), { status: 503, body: '{"error":"try again later"}' }, 'nobody is there')
})

/** What a WebSocket hears that says two things. */
async function talk (t: Test, url: string): Promise<string[]> {
  const socket = new WebSocket(url)
  t.teardown(() => socket.terminate())
  const heard: string[] = []
  return await new Promise((resolve, reject) => {
    socket.on('error', reject)
    socket.on('message', (data, binary) => {
      heard.push(`${binary ? 'binary: ' : ''}${String(data)}`)
      if (heard.length === 1) socket.send('text')
      else if (heard.length === 2) socket.send(Buffer.from('bytes'))
      else {
        socket.close()
        resolve(heard)
      }
    })
  })
}
