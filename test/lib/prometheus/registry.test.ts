import { AggregatorRegistry, Counter, Registry, type OpenMetricsContentType } from 'prom-client'
import t from 'tap'
import { Collector, collectInto, expose } from '../../../lib/prometheus/index.ts'
import { ProxyManager } from '../../../lib/proxy-manager.ts'
import { FakeClock } from '../../helpers/clock.ts'
import { parseScrape } from '../../helpers/prometheus.ts'
import { promtool } from '../../helpers/promtool.ts'

function manager (count = 1): ProxyManager {
  const proxy = new ProxyManager({ clock: new FakeClock(), backends: Array.from({ length: count }, (_, i) => ({ id: `b${i}`, url: `http://127.0.0.1:${i + 1}` })) })
  for (const { counters } of [proxy.state, ...proxy.state.list()]) {
    counters.begin()
    counters.end('successful', 20)
  }
  return proxy
}

t.test('a registry of prom-client tells the same, beside what it has of its own', async t => {
  const registry = new Registry()
  const own = new Counter({ name: 'app_things_total', help: 'Things.', registers: [registry] })
  own.inc(3)
  const collector = new Collector(manager(2), { proxy: 'a"b' })
  collectInto(registry, collector)
  const text = await registry.metrics()
  const all = parseScrape(text.replaceAll('\n\n', '\n'))
  t.equal(all.value('app_things_total'), 3)
  const alone = parseScrape([...expose(collector, 'text')].join(''))
  const sorted = (samples: typeof all.samples) => samples.map(({ name, labels, value }) => JSON.stringify([name, Object.entries(labels).sort(), value])).sort()
  t.strictSame(sorted(all.samples.filter(({ name }) => name !== 'app_things_total')), sorted(alone.samples))
  for (const [name, { type, help }] of alone.families) t.match(all.families.get(name), { type, help })
  const checked = promtool(t, ['check', 'metrics'], text)
  if (checked !== undefined) t.strictSame(checked, { status: 0, output: '' })
})

t.test('a registry that writes OpenMetrics does so, again and again', async t => {
  const registry = new Registry<OpenMetricsContentType>()
  registry.setContentType(Registry.OPENMETRICS_CONTENT_TYPE)
  collectInto(registry, new Collector(manager()))
  for (let turn = 0; turn < 2; turn++) {
    const found = parseScrape(await registry.metrics(), true)
    t.equal(found.value('rockstar_proxy_requests_total', { outcome: 'successful' }), 1)
    t.equal(found.families.get('rockstar_proxy_requests')?.type, 'counter')
    t.equal(found.value('rockstar_proxy_request_duration_seconds_bucket', { le: '1.0' }), 1)
  }
})

t.test('numbers are those of the moment they are asked for', async t => {
  const registry = new Registry()
  const proxy = manager()
  collectInto(registry, new Collector(proxy))
  const attempts = async () => parseScrape((await registry.metrics()).replaceAll('\n\n', '\n')).value('rockstar_proxy_attempts_total', { outcome: 'failed' })
  t.equal(await attempts(), 0)
  proxy.state.get('b0').counters.begin()
  proxy.state.get('b0').counters.end('failed', 1)
  t.equal(await attempts(), 1)
  registry.resetMetrics()
  t.equal(await attempts(), 1, 'what is counted is not the registry\'s')
  proxy.resetMetrics()
  t.equal(await attempts(), 0)
  t.match(await registry.getSingleMetricAsString('rockstar_proxy_panic'), 'rockstar_proxy_panic{upstream="default"} 0')
})

t.test('of many backends one metric is told at a time, and two who ask at once both hear all', async t => {
  const registry = new Registry()
  const proxy = manager(60)
  collectInto(registry, new Collector(proxy))
  let turns = 0
  let going = true
  const count = () => { if (going) { turns++; setImmediate(count) } }
  setImmediate(count)
  const texts = await Promise.all([registry.metrics(), registry.metrics()])
  going = false
  t.ok(turns > 20, `${turns} turns of the event loop`)
  for (const text of texts) t.equal(parseScrape(text.replaceAll('\n\n', '\n')).all('rockstar_proxy_backend_up').length, 60)
  const before = registry.metrics()
  await new Promise(resolve => setImmediate(resolve))
  proxy.addBackend({ id: 'new', url: 'http://127.0.0.1:1' })
  const during = parseScrape((await registry.metrics()).replaceAll('\n\n', '\n'))
  t.equal(during.value('rockstar_proxy_backend_up', { backend: 'new' }), 1, 'who asks while others are still being told hears what is new')
  await before
  await proxy.removeBackend('b0')
  await proxy.removeBackend('new')
  t.equal(parseScrape((await registry.metrics()).replaceAll('\n\n', '\n')).all('rockstar_proxy_backend_up').length, 59)
})

t.test('several registrations share a registry by their labels', async t => {
  const registry = new Registry()
  const ends = ['one', 'two'].map(name => collectInto(registry, new Collector(manager(), { proxy: name })))
  const found = async () => parseScrape((await registry.metrics()).replaceAll('\n\n', '\n')).all('rockstar_proxy_backend_up').map(({ labels }) => labels.proxy)
  t.strictSame(await found(), ['one', 'two'])
  ends[0]()
  t.strictSame(await found(), ['two'])
  ends[1]()
  t.strictSame(registry.getMetricsAsArray(), [], 'nothing stays behind')
  collectInto(registry, new Collector(manager()))
  t.strictSame(await found(), [undefined], 'and it can be filled anew')
})

t.test('without labels that tell them apart they are refused, before anything is told twice', async t => {
  const registry = new Registry()
  const proxy = manager()
  const end = collectInto(registry, new Collector(proxy, { a: '1' }))
  const expected = { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: 'options.registry must not have the metrics of another registration with the same labels: give each labels of its own' }
  t.throws(() => collectInto(registry, new Collector(manager(), { a: '1' }), 'options.registry'), expected)
  t.throws(() => collectInto(registry, new Collector(proxy, { a: '1' }, false), 'options.registry'), expected)
  const again = collectInto(registry, new Collector(proxy, { a: '1' }))
  const count = async () => (await registry.metrics()).match(/^rockstar_proxy_panic/gm)?.length ?? 0
  t.equal(await count(), 1, 'the same one twice is one')
  end()
  t.equal(await count(), 1, 'for as long as one of them wants it')
  again()
  t.equal(await count(), 0)
})

t.test('a name that is taken is an error, and nothing is left half done', async t => {
  const registry = new Registry()
  const taken = new Counter({ name: 'rockstar_proxy_retries_total', help: 'Somebody else\'s.', registers: [registry] })
  taken.inc()
  t.throws(() => collectInto(registry, new Collector(manager()), 'options.registry'), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: "options.registry has a metric already that is named 'rockstar_proxy_retries_total'" })
  t.equal(registry.getMetricsAsArray().length, 1)
})

t.test('a cluster adds up what is a quantity, and takes the average of what is a state', async t => {
  const workers = await Promise.all([0, 1].map(async worker => {
    const registry = new Registry()
    const proxy = manager()
    if (worker === 1) proxy.updateBackend('b0', { isActive: false })
    collectInto(registry, new Collector(proxy))
    // What passes from process to process is JSON.
    return JSON.parse(JSON.stringify(await registry.getMetricsAsJSON()))
  }))
  const found = parseScrape((await AggregatorRegistry.aggregate(workers).metrics()).replaceAll('\n\n', '\n'))
  t.equal(found.value('rockstar_proxy_requests_total', { outcome: 'successful' }), 2)
  t.equal(found.value('rockstar_proxy_request_duration_seconds_bucket', { le: '0.025' }), 2)
  t.equal(found.value('rockstar_proxy_backend_weight'), 1)
  t.equal(found.value('rockstar_proxy_backend_active'), 0.5)
})
