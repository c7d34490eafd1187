import { tracingChannel } from 'node:diagnostics_channel'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { errors } from '../../lib/errors.ts'
import { errorStatus } from '../../lib/telemetry/proxy-status.ts'
import type { RockstarProxyOptions } from '../../types/index.ts'
import { startGateway } from '../helpers/app.ts'
import { ok, rawBackend, until } from '../helpers/wire.ts'

const page = readFileSync(join(import.meta.dirname, '../../docs/telemetry.md'), 'utf8')
const blocks = (language: string) => [...page.matchAll(new RegExp(`\`\`\`${language}\\n(.*?)\`\`\``, 'gs'))].map(([, block]) => block)

/** The options that the page's first block registers the plugin with. */
function optionsOf (block: string, url: string): RockstarProxyOptions {
  const text = block.slice(block.indexOf('{'), block.lastIndexOf('}') + 1).replace('http://127.0.0.1:3001', url)
  // eslint-disable-next-line no-new-func -- it is our own page
  return new Function(`return (${text})`)() as RockstarProxyOptions
}

t.test('what the page shows is what comes', async t => {
  const said: string[] = []
  const backend = await rawBackend(t, ({ fields }) => ok(JSON.stringify(fields)))
  const [setup] = blocks('js')
  const channels = blocks('js').find(block => block.includes('tracingChannel')) as string
  const code = channels.replace(/^import .*$/m, '')
  // eslint-disable-next-line no-new-func -- it is our own page
  new Function('tracingChannel', 'console', code)((name: string) => {
    const channel = tracingChannel(name)
    return {
      subscribe: (subscribers: Parameters<typeof channel.subscribe>[0]) => {
        channel.subscribe(subscribers)
        t.teardown(() => channel.unsubscribe(subscribers))
      }
    }
  }, { log: (...words: unknown[]) => { said.push(words.join(' ')) } })
  const gateway = await startGateway(t, { ...optionsOf(setup, backend.url), random: () => 0 })
  const response = await gateway.app.inject({ method: 'POST', url: '/api/things?secret', payload: 'body' })
  const { 'proxy-status': status, 'server-timing': timing, 'x-request-id': id } = response.headers
  t.equal(status, 'edge; received-status=200; next-protocol=http/1.1')
  t.match(timing, /^proxy-queue;dur=[\d.]+, proxy-connect;dur=[\d.]+, proxy-send;dur=[\d.]+, proxy-wait;dur=[\d.]+, proxy;dur=[\d.]+$/)
  t.equal(id, 'req-1')
  t.ok(response.json().some(([name, value]: string[]) => name === 'x-attempt' && value === `first on 127.0.0.1:${backend.port}`))
  await until(() => said.length === 1)
  t.match(said[0], /^POST \/api\/\* 200 127\.0\.0\.1:\d+ \d+ ms$/)
  const line = gateway.log.find(({ msg }) => msg === 'exchange finished')
  const [shown] = blocks('json').map(block => JSON.parse(block))
  const { time, pid, hostname, ...told } = line as Record<string, unknown>
  t.strictSame(Object.keys(told), Object.keys(shown))
  t.strictSame(Object.keys((told.attempts as object[])[0]), Object.keys(shown.attempts[0]))
  t.ok(Object.keys(told.times as object).every(stage => stage in shown.times))
})

t.test('the table of errors is that of the code', async t => {
  const rows = [...page.matchAll(/^\| ((?:`[A-Z_]+` ?)+) \| (.*) \|$/gm)].flatMap(([, codes, types]) => [...codes.matchAll(/`(\w+)`/g)].map(([, code]) => [code, types] as const))
  const listed = new Map(rows)
  for (const [code, Class] of Object.entries(errors)) {
    if (code === 'BAD_STATUS') continue
    const type = errorStatus('edge', new Class(), undefined).replace('edge; error=', '')
    if (type === 'proxy_internal_error') t.notOk(listed.has(code), code)
    else t.match(listed.get(code) ?? 'proxy_internal_response', `\`${type}\``.replaceAll('`', ''), code)
  }
  for (const code of listed.keys()) t.ok(code in errors, code)
})
