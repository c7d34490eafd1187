import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { buildIfStale, runExample } from '../helpers/example.ts'
import { until } from '../helpers/wire.ts'

const page = readFileSync(join(import.meta.dirname, '../../docs/admin.md'), 'utf8')
const run = promisify(execFile)

/** Its fenced shell lines, in order: one command each, however many lines it takes. */
const blocks = [...page.matchAll(/```sh\n(.*?)```/gs)].map(([, block]) => block)
const commands = blocks.join('').replaceAll('\\\n', '').split('\n').filter(line => line !== '')

t.before(buildIfStale)

t.test('every curl line of docs/admin.md does what it says', async t => {
  const folder = mkdtempSync(join(tmpdir(), 'admin-docs-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const log = join(folder, 'log')
  const { child, urls: [gateway, operators], output } = await runExample(t, 'operate.ts', { ADMIN_LOG: log })
  t.ok(operators, output())
  // All in one shell, as they are typed; what each says is told apart by a line of its own.
  const script = commands.map(command => `printf '\\n### %s\\n' $?\n${command}\n`).join('').replaceAll('localhost:9090', operators.slice('http://'.length)).replaceAll('localhost:8080', gateway.slice('http://'.length))
  const { stdout } = await run('bash', ['-o', 'pipefail', '-c', `${script}\nprintf '\\n### %s\\n' $?`], { timeout: 60_000 })
  const [, ...parts] = stdout.split('\n### ')
  t.equal(parts.length, commands.length + 1)
  const said = commands.map((command, i) => ({ command, text: parts[i].replace(/^\d+\n/, ''), status: Number(/^\d+/.exec(parts[i + 1])?.[0]) }))
  for (const { command, status, text } of said) t.equal(status, 0, `${command} → ${text}`)

  /** What the line said that has all of these words. */
  const of = (...words: string[]) => said.find(({ command }) => words.every(word => command.includes(word)))?.text ?? ''
  t.match(JSON.parse(of('/proxy/status')), { ready: true, upstreams: [{ name: 'default', backends: { total: 3, available: 3 } }, { name: 'canary' }] })
  t.match(of('reasons, inFlight'), /"id": "backend-3"/)
  t.match(JSON.parse(of('upstream=canary')), { upstream: 'canary', count: 1 })
  t.match(of('p99ResponseTime'), /^\d/)
  t.match(JSON.parse(of('"id": "backend-4"')), { id: 'backend-4', weight: 5, metadata: { rack: 'r12' } })
  t.match(JSON.parse(of('PATCH', 'backend-4', '{ "weight": 1 }')), { weight: 1, metadata: { rack: 'r12' } })
  t.match(JSON.parse(of('PUT', 'backend-4')), { weight: 2, metadata: {} })
  t.equal(of('wieght'), "body.wieght is not an option; did you mean 'weight'?\n")
  t.ok(page.includes(of('wieght').trim()), 'and the page says the same')
  t.match(JSON.parse(of('/drain')), { id: 'backend-1', draining: false })
  t.match(JSON.parse(of('{ draining, isActive, drain }')), { draining: false, isActive: false })
  t.match(JSON.parse(of('"isActive": true')), { isActive: true, available: true })
  t.match(JSON.parse(of('DELETE')), { id: 'backend-4', draining: false })
  t.match(JSON.parse(of('backend-2/open')), { id: 'backend-2', state: 'open' })
  t.match(of('.circuits[]'), /"backend-2",\s+"state": "open"/)
  t.match(JSON.parse(of('backend-2/close')), { state: 'closed' })
  t.match(JSON.parse(of('health/check')), { passed: true, failed: [] })
  t.match(JSON.parse(of('health/backend-1')), { id: 'backend-1', isHealthy: true })
  t.match(JSON.parse(of('PUT', 'balancer')), { type: 'peak-ewma' })
  t.match(JSON.parse(of('jq .options')), { decay: 5000, penalty: 1000 })
  t.match(JSON.parse(of('{ "weight": 3 }')), { weight: 3 })
  t.equal(of('%{http_code}'), '412\n')
  t.match(JSON.parse(of('{ route, upstream, chosen, why }')), { route: { kind: 'declared', prefix: '/api' }, upstream: 'default', chosen: /^backend-[123]$/ })
  t.match(JSON.parse(of('jq .sent')), { method: 'POST', path: '/hello?a=b', headers: [['host'], ['x-tenant', 'blue'], ['X-Forwarded-For', '203.0.113.7']] })
  t.match(JSON.parse(of('jq .answer')), { statusCode: 400, code: 'FST_ROCKSTAR_BAD_REQUEST' })

  const expected = ['add backend', 'change backend', 'change backend', 'drain backend', 'change backend', 'remove backend', 'open circuit', 'close circuit', 'check health', 'switch balancer', 'change backend']
  const changes = () => readFileSync(log, 'utf8').split('\n').filter(line => line.includes('changed by an operator') && line.endsWith('}')).map(line => JSON.parse(line).action)
  await until(() => changes().length >= expected.length)
  t.strictSame(changes(), expected, 'every change is logged')
  t.equal(await (await fetch(`${gateway}/api/x`, { headers: { connection: 'close' } })).text().then(text => /^backend-[123]\n$/.test(text)), true, 'and the gateway serves')
  child.kill('SIGTERM')
  t.same(await once(child, 'exit'), [0, null], 'both end')
})

t.test('every route that the page lists is there, and every one that is there is listed', async t => {
  const { default: Fastify } = await import('fastify')
  const { default: rockstarProxy } = await import('../../plugins/index.ts')
  const app = Fastify()
  t.teardown(() => app.close())
  const there: string[] = []
  app.addHook('onRoute', ({ method, url, schema }) => { if (method !== 'HEAD' && url.startsWith('/proxy') && schema?.hide !== true) there.push(`${method} ${url.slice('/proxy'.length)}`) })
  await app.register(rockstarProxy, { admin: true })
  const table = page.slice(page.indexOf('| route |'), page.indexOf('All of them are about'))
  const listed = [...table.matchAll(/`((?:GET|POST|PUT|PATCH|DELETE) \/[^`]*)`/g)].map(([, route]) => route)
  const short = [...table.matchAll(/`…(\/\w+)`/g)].map(([, end]) => `POST /breaker/:id${end}`)
  t.strictSame([...listed, ...short].sort(), there.sort())
})
