import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import * as rockstar from '../../plugins/index.ts'
import { ProxyManager } from '../../lib/proxy-manager.ts'
import { httpBackend } from '../helpers/app.ts'
import { buildIfStale } from '../helpers/example.ts'

const run = promisify(execFile)
const root = join(import.meta.dirname, '../..')
const text = (page: string) => readFileSync(join(root, page), 'utf8')
const readme = text('README.md')

/** Pages for users, by their paths. */
const pages = ['README.md', 'CHANGELOG.md', 'CONTRIBUTING.md', 'bench/README.md', ...readdirSync(join(root, 'docs')).filter(name => name.endsWith('.md')).map(name => `docs/${name}`)]

/** What a heading is linked by, as GitHub has it. */
function anchorOf (heading: string): string {
  return heading.toLowerCase().replaceAll(/[^\w\- ]/g, '').replaceAll(' ', '-')
}

/** Headings outside of code. */
function headingsOf (page: string, depth = '#{1,6}'): string[] {
  const plain = text(page).replaceAll(/```.*?```/gs, '')
  return [...plain.matchAll(new RegExp(`^${depth} (.*)$`, 'gm'))].map(([, heading]) => heading)
}

t.test('the README is in the order that people look for', async t => {
  t.strictSame(headingsOf('README.md', '##'), [
    'Install', 'Quickstart', 'Usage', 'Options', 'Decorators', 'Sub-plugins', 'Errors', 'TypeScript', 'Compatibility', 'Benchmarks', 'Not in this version', 'Pages', 'License'
  ])
})

t.test('every link leads somewhere', async t => {
  let checked = 0
  for (const page of pages) {
    const plain = text(page).replaceAll(/```.*?```/gs, '')
    for (const [, target] of plain.matchAll(/\]\((?!https?:)([^)\s]+)\)/g)) {
      const [path, anchor] = target.split('#')
      const to = path === '' ? page : join(dirname(page), path)
      t.ok(existsSync(join(root, to)), `${page} → ${target}`)
      if (anchor !== undefined && to.endsWith('.md')) t.ok(headingsOf(to).map(anchorOf).includes(anchor), `${page} → ${target}`)
      checked++
    }
  }
  t.ok(checked > 50, `${checked} links`)
})

t.test('all pages, examples and sub-plugins are listed', async t => {
  for (const page of pages.filter(page => page.startsWith('docs/'))) t.ok(readme.includes(`](${page})`), page)
  for (const name of readdirSync(join(root, 'examples'))) t.ok(readme.includes(`(examples/${name})`), name)
  const { exports } = JSON.parse(text('package.json')) as { exports: Record<string, object> }
  const [, listed = ''] = /## Sub-plugins\n(.*?)\n## /s.exec(readme) ?? []
  for (const name of Object.keys(exports).filter(name => name !== '.' && name !== './package.json')) t.ok(listed.includes(`${name.slice(1)}\``), name)
})

t.test('the counterpart of each method is there', async t => {
  for (const method of ['AddBackend', 'RemoveBackend', 'GetBackend', 'ListBackends', 'Forward', 'ForwardHTTP', 'SetLoadBalancer', 'GetLoadBalancer', 'SetCircuitBreaker', 'GetCircuitBreaker', 'SetConnectionPool', 'GetConnectionPool', 'HealthCheck', 'GetHealthStatus', 'GetMetrics', 'ResetMetrics']) {
    t.match(readme, new RegExp(`\\| .*\`${method}\\(.*\\|`), `${method} is listed`)
  }
  const proxy = new ProxyManager({ breaker: true, backends: [{ id: 'a', url: 'http://127.0.0.1:1' }] }) as unknown as Record<string, unknown>
  const section = readme.slice(readme.indexOf('### The same in the Go framework'), readme.indexOf('## Sub-plugins'))
  const rows = section.split('\n').filter(line => line.startsWith('| `')).map(line => line.split(' | ')[1])
  let named = 0
  for (const row of rows) {
    for (const [, name] of row.matchAll(/`([a-z]\w+)\(/g)) {
      t.equal(typeof proxy[name], 'function', name)
      named++
    }
    for (const [, name] of row.matchAll(/`new (\w+)\(/g)) t.ok(name in rockstar.default, name)
  }
  t.ok(named >= 16, `${named} methods`)
  await (proxy as unknown as ProxyManager).close()
})

t.test('the message of a wrong option is the one that is shown', async t => {
  t.throws(() => new ProxyManager({ timeout: { header: 1 } } as never), { message: "options.timeout.header is not an option; did you mean 'headers'?" })
  t.ok(readme.includes("FST_ROCKSTAR_INVALID_OPTIONS: options.timeout.header is not an option; did you mean 'headers'?"))
})

t.test('the quickstart does what it says', async t => {
  buildIfStale()
  const asked: string[] = []
  const [one, two] = await Promise.all(['one', 'two'].map(name => httpBackend(t, (request, response) => {
    asked.push(`${name} ${request.url}`)
    response.end(name)
  })))
  const code = /## Quickstart\n\n```js\n(.*?)```/s.exec(readme)?.[1] ?? ''
  const script = code.replace('http://127.0.0.1:8081', one.url).replace('http://127.0.0.1:8082', two.url).replace('port: 8080', 'port: 0')
    .replace("routes: [{ prefix: '/api' }]", "routes: [{ prefix: '/api' }], admin: true").replace('logger: true', 'logger: false')
  t.match(script, /admin: true.*port: 0/s)
  const child = spawn(process.execPath, ['--input-type=module', '--eval', `${script}\nconsole.log(app.server.address().port)`], { cwd: root, env: { ...process.env, NODE_OPTIONS: '' }, stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  const [port] = await once(child.stdout, 'data') as [Buffer]
  const url = `http://localhost:${Number(String(port))}`
  const turns: string[] = []
  for (let i = 0; i < 8; i++) turns.push(await (await fetch(`${url}/api/users?id=7`)).text())
  t.strictSame([turns.filter(name => name === 'one').length, turns.filter(name => name === 'two').length], [2, 6], 'b2 takes three of four')
  t.ok(asked.includes('one /users?id=7'))
  const status = await fetch(`${url}/proxy/status`)
  t.match(await status.json(), { upstreams: [{ name: 'default', requests: { totalRequests: 8 } }] })
})

t.test('operating it: every curl line does what it says, with the code above it', async t => {
  buildIfStale()
  const [one, two] = await Promise.all(['one', 'two'].map(name => httpBackend(t, (_request, response) => response.end(name))))
  const section = readme.slice(readme.indexOf('### Operating it'), readme.indexOf('### Headers and security'))
  const [code, shell] = ['js', 'sh'].map(language => new RegExp('```' + language + '\\n(.*?)```', 's').exec(section)?.[1] ?? '')
  const script = ["import Fastify from 'fastify'", "import rockstarProxy from 'rockstar-proxy'", 'const app = Fastify()', code, "await app.listen({ port: 0, host: '127.0.0.1' })", 'console.log(app.server.address().port)'].join('\n')
    .replace('http://127.0.0.1:8081', one.url).replace('http://127.0.0.1:8082', two.url)
  t.notMatch(script, /:808\d/, 'the backends are those of the test')
  t.match(code, /timingSafeEqual/)
  const child = spawn(process.execPath, ['--input-type=module', '--eval', script], { cwd: root, env: { ...process.env, NODE_OPTIONS: '', ADMIN_PASSWORD: 'p w"d' }, stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  const [port] = await once(child.stdout, 'data') as [Buffer]
  const host = `localhost:${Number(String(port))}`

  const lines = shell.replaceAll('\\\n', '').split('\n').filter(line => line !== '')
  t.equal(lines.length, 5)
  const said = new Map<string, string>()
  for (const line of lines) {
    t.notMatch(line.replaceAll(/'[^']*'|"[^"]*"/g, ''), /[?&]/, `${line}: what a shell would take for its own is quoted`)
    // The last line follows what happens for ever.
    const command = `${line.replaceAll('localhost:8080', host)} --fail-with-body -s${line.includes(' -N ') ? ' --max-time 2' : ''}`
    const { stdout, code } = await run('bash', ['-c', command], { env: { ...process.env, ADMIN_PASSWORD: 'p w"d' } }).then(({ stdout }) => ({ stdout, code: 0 }), error => error as { stdout: string, code: number })
    t.equal(code, line.includes(' -N ') ? 28 : 0, `${line} → ${stdout}`)
    said.set(line, stdout)
  }
  const of = (...words: string[]) => said.get(lines.find(line => words.every(word => line.includes(word))) ?? '') ?? ''
  t.match(JSON.parse(lines.length === 5 ? said.get(lines[0]) as string : ''), { count: 2, backends: [{ id: 'b1' }, { id: 'b2' }] })
  t.match(JSON.parse(of('PATCH')), { id: 'b2', weight: 3 })
  t.match(JSON.parse(of('/drain')), { id: 'b2' })
  t.match(JSON.parse(of('/explain')), { route: { kind: 'declared' }, chosen: 'b1', sent: { path: '/users?id=7' } })
  t.match(of('/events'), /^event: /m)
  for (const headers of [{}, { authorization: `Basic ${Buffer.from('me:wrong').toString('base64')}` }, { authorization: `Basic ${Buffer.from('me:').toString('base64')}` }]) {
    t.equal((await fetch(`http://${host}/proxy/status`, { headers: { ...headers, connection: 'close' } as Record<string, string> })).status, 401, 'nobody else is served')
  }
  t.equal((await fetch(`http://${host}/api/x`, { headers: { connection: 'close' } })).status, 200, 'requests of clients are')
})

t.test('curl lines quote what a shell would take for its own', async t => {
  for (const page of [...pages, 'docs/grafana/alerts.yml']) {
    for (const [line] of text(page).matchAll(/\bcurl [^`\n]*/g)) t.notMatch(line.replaceAll(/'[^']*'|"[^"]*"/g, ''), /[?&]/, `${page}: ${line}`)
  }
  for (const [line] of text('docs/grafana/alerts.yml').matchAll(/\bcurl [^`\n]*/g)) t.notMatch(line.replaceAll(/\{\{ \$labels\.\w+ \| urlquery \}\}/g, ''), '{{', `${line}: ids may hold what URLs take for their own`)
})
