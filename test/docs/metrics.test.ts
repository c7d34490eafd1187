import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { withMetricsTables } from '../../docs/metrics-table.ts'
import { BACKEND_FAMILIES, UPSTREAM_FAMILIES } from '../../lib/prometheus/index.ts'

const docs = join(import.meta.dirname, '../../docs')
const page = readFileSync(join(docs, 'metrics.md'), 'utf8')
const names = [...UPSTREAM_FAMILIES, ...BACKEND_FAMILIES].map(({ name }) => name)

t.test('docs/metrics.md has all metrics, with type, labels and what they are', async t => {
  t.equal(page, withMetricsTables(page), 'run `npm run docs`')
  t.strictSame([...page.matchAll(/^\| `(rockstar_proxy_\w+)` \|/gm)].map(([, name]) => name), names)
  t.throws(() => withMetricsTables('a page without places'), /no place for the table of upstreams/)
})

t.test('what it says of metrics elsewhere is of such as there are', async t => {
  for (const [name] of page.matchAll(/\brockstar_proxy_\w+/g)) t.ok(names.includes(name), name)
})

t.test('it has all alerts, and no other', async t => {
  const alerts = readFileSync(join(docs, 'grafana/alerts.yml'), 'utf8')
  t.strictSame([...page.matchAll(/^\| `(RockstarProxy\w+)` \|/gm)].map(([, name]) => name).sort(), [...alerts.matchAll(/- alert: (\w+)/g)].map(([, name]) => name).sort())
})
