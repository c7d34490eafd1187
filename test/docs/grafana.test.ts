import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { Test } from 'tap'
import { startGateway } from '../helpers/app.ts'
import { parseScrape, type Sample } from '../helpers/prometheus.ts'
import { mentionsOf } from '../helpers/promql.ts'
import { promtool } from '../helpers/promtool.ts'
import { ok, rawBackend } from '../helpers/wire.ts'

const folder = join(import.meta.dirname, '../../docs/grafana')
const alerts = readFileSync(join(folder, 'alerts.yml'), 'utf8')
/** Labels that a scrape gets from Prometheus. */
const TARGET = new Set(['job', 'instance'])

interface Target { expr: string, legendFormat: string, datasource: { uid: string } }
interface Panel { id: number, type: string, title: string, gridPos: { x: number, y: number, w: number, h: number }, targets?: Target[], datasource?: { uid: string } }
interface Dashboard {
  title: string
  uid: string
  schemaVersion: number
  id?: number
  panels: Panel[]
  templating: { list: { name: string, type: string, definition?: string, query: unknown, datasource?: { uid: string } }[] }
}
const dashboard = JSON.parse(readFileSync(join(folder, 'dashboard.json'), 'utf8')) as Dashboard
const targets = dashboard.panels.flatMap(({ title, targets = [] }) => targets.map(target => ({ title, ...target })))
const variables = dashboard.templating.list

/** A block of YAML folded into one line, or the rest of a line. */
function valueOf (rule: string, key: string): string {
  const block = new RegExp(`^( +)${key}: >-\\n((?:\\1 .*\\n?)+)`, 'm').exec(rule)
  const value = block === null ? new RegExp(`^ +${key}: (.+)$`, 'm').exec(rule)?.[1] ?? '' : block[2].trim().replaceAll(/\s*\n\s*/g, ' ')
  return value.startsWith('"') ? JSON.parse(value) : value
}

const rules = alerts.split(/^ {6}- alert: /m).slice(1).map(rule => ({ name: rule.slice(0, rule.indexOf('\n')), rule, expr: valueOf(rule, 'expr') }))

/** All that a gateway tells where everything is on, under the names that Prometheus gives them. */
async function scraped (t: Test): Promise<Sample[]> {
  const backend = await rawBackend(t, () => ok())
  const { url, app } = await startGateway(t, { backends: [{ id: 'a', url: backend.url }], limits: { maxPerBackend: 5 }, breaker: true, routes: [{ prefix: '/' }], admin: { plugins: ['metrics'] } })
  await app.inject('/')
  return parseScrape(await (await fetch(`${url}/proxy/metrics/prometheus`)).text()).samples
}

function check (t: Test, samples: Sample[], expression: string, where: string, alsoLabels: string[] = []): void {
  const { selectors, grouping } = mentionsOf(expression)
  t.ok(selectors.length > 0, `${where} speaks of metrics`)
  const known = new Set(TARGET)
  for (const { metric, labels } of selectors) {
    const series = samples.filter(({ name }) => name === metric)
    if (!t.ok(series.length > 0, `${where}: there is a metric ${metric}`)) continue
    for (const name of Object.keys(series[0].labels)) known.add(name)
    for (const [name, value] of Object.entries(labels)) {
      if (TARGET.has(name)) continue
      t.ok(series.every(({ labels }) => name in labels), `${where}: ${metric} has a label ${name}`)
      if (value !== undefined) t.ok(series.some(({ labels }) => labels[name] === value), `${where}: ${metric} has series with ${name}="${value}"`)
    }
  }
  for (const name of [...grouping, ...alsoLabels]) t.ok(known.has(name), `${where}: some of it has a label ${name}`)
}

t.test('what finds metrics in expressions finds them', async t => {
  t.strictSame(mentionsOf('sum by (le, upstream) (rate(a_bucket{x="1",y=~"$y"}[$__rate_interval])) / on (x) group_left () b_total > 0.5 and c unless d{z!="}"} offset 5m'), {
    selectors: [{ metric: 'a_bucket', labels: { x: '1', y: undefined } }, { metric: 'b_total', labels: {} }, { metric: 'c', labels: {} }, { metric: 'd', labels: { z: undefined } }],
    grouping: ['le', 'upstream', 'x']
  })
  t.strictSame(mentionsOf('label_values(up{job="a"}, instance)'), { selectors: [{ metric: 'up', labels: { job: 'a' } }], grouping: ['instance'] })
})

t.test('every metric and every label of the dashboard is in a scrape', async t => {
  const samples = await scraped(t)
  t.ok(targets.length > 40)
  for (const { title, expr, legendFormat } of targets) {
    const legend = [...legendFormat.matchAll(/\{\{\s*(\w+)\s*\}\}/g)].map(([, label]) => label)
    check(t, samples, expr, `panel '${title}'`, legend)
  }
  for (const { name, definition } of variables.filter(({ type }) => type === 'query')) check(t, samples, definition as string, `variable ${name}`)
})

t.test('every metric and every label of the alerts is in a scrape', async t => {
  const samples = await scraped(t)
  t.ok(rules.length > 8)
  for (const { name, rule, expr } of rules) {
    if (name === 'RockstarProxyUnseen') {
      t.ok(mentionsOf(expr).selectors.every(({ metric }) => samples.some(sample => sample.name === metric)))
      continue
    }
    const told = [...rule.matchAll(/\$labels\.(\w+)/g)].map(([, label]) => label)
    t.ok(told.length > 0, `${name} says where`)
    check(t, samples, expr, name, told)
  }
})

t.test('every metric is on the dashboard', async t => {
  const shown = new Set(targets.flatMap(({ expr }) => mentionsOf(expr).selectors.map(({ metric }) => metric.replace(/_(?:bucket|sum|count)$/, ''))))
  const names = new Set((await scraped(t)).map(({ name }) => name.replace(/_(?:bucket|sum|count)$/, '')))
  t.strictSame([...names].filter(name => !shown.has(name)), [])
})

t.test('the dashboard can be imported anywhere', async t => {
  t.equal(dashboard.id, undefined, 'it has no number of another Grafana')
  t.match(dashboard, { title: 'rockstar-proxy', uid: 'rockstar-proxy' })
  t.strictSame(variables.map(({ name, type }) => [name, type]), [['datasource', 'datasource'], ['instance', 'query'], ['upstream', 'query'], ['backend', 'query']])
  for (const { title, datasource } of targets) t.equal(datasource.uid, '$' + '{datasource}', title)
  const names = new Set([...variables.map(({ name }) => name), '__rate_interval'])
  for (const { title, expr } of targets) for (const [, name] of expr.matchAll(/\$\{?(\w+)/g)) t.ok(names.has(name), `${title}: $${name}`)
  t.strictSame(dashboard.panels.filter(({ type }) => type === 'row').map(({ title }) => title), ['Traffic', 'Latency', 'Backends', 'Circuits', 'Retries and hedges', 'Limits', 'Connections', 'Tunnels'])
  t.equal(new Set(dashboard.panels.map(({ id }) => id)).size, dashboard.panels.length, 'each panel has a number of its own')
  for (const [i, { title, gridPos: a }] of dashboard.panels.entries()) {
    t.ok(a.x + a.w <= 24, `${title} is on the page`)
    t.notOk(dashboard.panels.slice(i + 1).some(({ gridPos: b }) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h), `${title} covers nothing`)
  }
})

t.test('every alert says what has happened and what to do', async t => {
  for (const { name, rule } of rules) {
    t.match(name, /^RockstarProxy[A-Z][A-Za-z]+$/)
    t.match(rule, /\n {8}for: \d+[sm]\n/, `${name} waits for a while`)
    t.match(valueOf(rule, 'severity'), /^(?:critical|warning)$/, name)
    for (const key of ['summary', 'description', 'action']) t.match(valueOf(rule, key), /.{15,}/, `${name}: ${key}`)
  }
})

t.test('promtool finds the alerts well-formed', async t => {
  const checked = promtool(t, ['check', 'rules', join(folder, 'alerts.yml')])
  if (checked !== undefined) t.match(checked, { status: 0, output: new RegExp(`SUCCESS: ${rules.length} rules found`) })
})

t.test('each alert fires when it is to, and at no other time', async t => {
  const cases = readFileSync(join(import.meta.dirname, 'alerts.yml'), 'utf8')
  for (const { name } of rules) {
    t.ok(new RegExp(`ALERTS\\{alertname="${name}"[^\\n]*\\n +eval_time: \\S+\\n +exp_samples:\\n`).test(cases), `${name} is made to fire`)
    t.ok(new RegExp(`ALERTS\\{alertname="${name}"[^\\n]*\\n +eval_time: \\S+\\n +exp_samples: \\[\\]`).test(cases), `${name} is kept from firing`)
  }
  const checked = promtool(t, ['test', 'rules', join(import.meta.dirname, 'alerts.yml')])
  if (checked !== undefined) t.match(checked, { status: 0, output: /SUCCESS/ })
})
