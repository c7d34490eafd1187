import fc from 'fast-check'
import t from 'tap'
import { BACKEND_FAMILIES, checkLabels, Collector, expose, UPSTREAM_FAMILIES, type Format } from '../../../lib/prometheus/index.ts'
import { ProxyManager } from '../../../lib/proxy-manager.ts'
import type { RockstarProxyOptions } from '../../../types/index.ts'
import { FakeClock } from '../../helpers/clock.ts'
import { parseScrape, type Scrape } from '../../helpers/prometheus.ts'
import { promtool } from '../../helpers/promtool.ts'

const a = { id: 'a', url: 'http://127.0.0.1:1' }

function manager (options: RockstarProxyOptions = {}): ProxyManager {
  return new ProxyManager({ clock: new FakeClock(), ...options })
}

function written (collector: Collector, format: Format = 'text'): string {
  return [...expose(collector, format)].join('')
}

function scrape (proxy: ProxyManager, format: Format = 'text', ...rest: [labels?: Record<string, string>, perBackend?: boolean | 'numbers']): Scrape {
  return parseScrape(written(new Collector(proxy, ...rest), format), format === 'openmetrics')
}

t.test('what is written of an upstream and of a backend, to the letter', async t => {
  const proxy = manager({ backends: [a] })
  const { counters } = proxy.getBackend('a')
  for (const time of [0.5, 1, 3, 70_000]) {
    counters.begin()
    counters.end('successful', time)
  }
  const text = written(new Collector(proxy))
  t.ok(text.includes('# HELP rockstar_proxy_attempts_total Attempts on a backend that have ended: successful with a whole answer below 500, failed, or aborted because the client or the proxy gave them up.\n' +
    '# TYPE rockstar_proxy_attempts_total counter\n' +
    'rockstar_proxy_attempts_total{upstream="default",backend="a",outcome="successful"} 4\n' +
    'rockstar_proxy_attempts_total{upstream="default",backend="a",outcome="failed"} 0\n' +
    'rockstar_proxy_attempts_total{upstream="default",backend="a",outcome="aborted"} 0\n# HELP'))
  const counts = [['0.0005', 1], ['0.001', 2], ['0.0025', 2], ['0.005', 3], ['0.01', 3], ['0.025', 3], ['0.05', 3], ['0.1', 3], ['0.25', 3], ['0.5', 3], ['1.0', 3], ['2.5', 3], ['5.0', 3], ['10.0', 3], ['30.0', 3], ['60.0', 3], ['+Inf', 4]]
  t.ok(text.includes('# TYPE rockstar_proxy_attempt_duration_seconds histogram\n' +
    counts.map(([le, count]) => `rockstar_proxy_attempt_duration_seconds_bucket{upstream="default",backend="a",le="${le}"} ${count}\n`).join('') +
    'rockstar_proxy_attempt_duration_seconds_sum{upstream="default",backend="a"} 70.0045\n' +
    'rockstar_proxy_attempt_duration_seconds_count{upstream="default",backend="a"} 4\n# HELP'))
})

t.test('OpenMetrics differs in what it calls counters, and in its end', async t => {
  const proxy = manager({ backends: [a] })
  const text = written(new Collector(proxy), 'openmetrics')
  t.match(text, '# TYPE rockstar_proxy_retries counter\nrockstar_proxy_retries_total{upstream="default"} 0\n')
  t.match(text, /\n# EOF\n$/)
  t.strictSame(parseScrape(text, true).samples, scrape(proxy).samples, 'the series are the same')
  t.equal(written(new Collector(proxy)).includes('# EOF'), false)
})

t.test('families have names, types and help as Prometheus wants them', async t => {
  const families = [...UPSTREAM_FAMILIES, ...BACKEND_FAMILIES]
  t.equal(new Set(families.map(({ name }) => name)).size, families.length, 'no name twice')
  for (const { name, type, help } of families) {
    t.match(name, /^rockstar_proxy_[a-z]+(?:_[a-z]+)*$/)
    t.equal(name.endsWith('_total'), type === 'counter', name)
    t.equal(name.endsWith('_seconds'), type === 'histogram', `${name}: all durations are histograms, in seconds`)
    t.match(help, /^[A-Z].{10,}\.$/, name)
  }
})

t.test('labels are bounded: upstream, backend, and words of ours', async t => {
  const proxy = manager({ backends: [a], limits: { maxPerBackend: 3 }, upstreams: { two: { backends: [a] } } })
  const values: Record<string, Set<string>> = {}
  for (const { labels } of scrape(proxy).samples) for (const [name, value] of Object.entries(labels)) (values[name] ??= new Set()).add(value)
  const told = Object.fromEntries(Object.entries(values).map(([name, set]) => [name, [...set].sort()]))
  t.strictSame(told, {
    upstream: ['default', 'two'],
    backend: ['a'],
    outcome: ['aborted', 'failed', 'successful'],
    stage: ['client', 'connect', 'queue', 'request', 'send', 'stream', 'wait'],
    state: ['active', 'closed', 'half-open', 'idle', 'open'],
    direction: ['received', 'sent'],
    result: ['failed', 'hit', 'miss', 'passed', 'stale'],
    event: told.event,
    le: ['+Inf', '0.0005', '0.001', '0.0025', '0.005', '0.01', '0.025', '0.05', '0.1', '0.25', '0.5', '1.0', '10.0', '2.5', '30.0', '5.0', '60.0']
  })
  for (const name of Object.keys(told)) t.throws(() => checkLabels({ [name]: 'x' }, 'labels'), { code: 'FST_ROCKSTAR_INVALID_OPTIONS' }, `${name} is taken`)
  t.ok(told.event.length === 15 && told.event.every(event => /^[a-z]+:[a-z-]+$/.test(event)))
})

t.test('any id and any name of an upstream is told as it is, in both formats', async t => {
  const name = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 20 })
  const nasty = fc.constantFrom('"', '\\', '\n', '\\n', '"} 1\n# EOF\n', '{}', 'a,b="c"', '__proto__', 'constructor', '<script>', '\r', '\t', '\u2028', '\0')
  fc.assert(fc.property(fc.uniqueArray(fc.oneof(name, nasty), { minLength: 1, maxLength: 5 }), fc.oneof(name, nasty), (ids, upstream) => {
    const proxy = manager()
    const state = upstream === 'default' ? proxy : proxy.addUpstream(upstream)
    for (const id of ids) state.addBackend({ id, url: 'http://127.0.0.1:1' })
    for (const format of ['text', 'openmetrics'] as const) {
      const found = scrape(proxy, format).all('rockstar_proxy_backend_up').map(({ labels }) => [labels.upstream, labels.backend])
      if (JSON.stringify(found) !== JSON.stringify(ids.map(id => [upstream, id]))) throw new Error(`${JSON.stringify(found)} of ${JSON.stringify(ids)} in ${JSON.stringify(upstream)}`)
    }
  }), { numRuns: 60 })
  t.pass()
})

t.test('a backend that finishes while another has its id is told of once', async t => {
  const clock = new FakeClock()
  let listed = { ...a, weight: 1 }
  const proxy = manager({ clock, health: false, discovery: { type: () => [listed], interval: 1_000, jitter: 0 } })
  t.teardown(() => proxy.close())
  const settled = () => new Promise(resolve => setImmediate(resolve))
  proxy.state.start()
  await settled()
  const old = proxy.state.get('a')
  old.counters.begin()
  listed = { id: 'a', url: 'http://127.0.0.1:2', weight: 7 }
  clock.advance(1_000)
  await settled()
  t.equal(proxy.state.list().length, 2)
  const found = scrape(proxy)
  t.equal(found.value('rockstar_proxy_backend_weight', { backend: 'a' }), 7)
  t.equal(found.value('rockstar_proxy_backends'), 1)
  old.counters.end('successful', 1)
  old.onIdle?.()
})

t.test('counters never fall from scrape to scrape, whatever happens in between, until they are reset', async t => {
  const step = fc.oneof(
    fc.record({ what: fc.constant('begin' as const) }),
    fc.record({ what: fc.constantFrom('successful' as const, 'failed' as const, 'aborted' as const), time: fc.double({ min: 0, max: 100_000, noNaN: true }) }),
    fc.record({ what: fc.constant('scrape' as const) })
  )
  fc.assert(fc.property(fc.array(step, { maxLength: 60 }), steps => {
    const proxy = manager({ backends: [a] })
    const both = [proxy.state.counters, proxy.state.get('a').counters]
    let before = new Map<string, number>()
    for (const given of steps) {
      if (given.what === 'begin') for (const counters of both) counters.begin()
      else if (given.what === 'scrape') {
        const now = new Map([...scrape(proxy).families.values()].filter(({ type }) => type !== 'gauge').flatMap(({ samples }) => samples).map(({ name, labels, value }) => [name + JSON.stringify(labels), value]))
        for (const [key, value] of before) if ((now.get(key) ?? -1) < value) throw new Error(`${key} fell from ${value} to ${now.get(key)}`)
        before = now
      } else if (both[0].inFlight > 0) for (const counters of both) counters.end(given.what, given.time)
    }
    proxy.resetMetrics()
    const reset = scrape(proxy)
    return reset.all('rockstar_proxy_requests_total').every(({ value }) => value === 0) && reset.value('rockstar_proxy_request_duration_seconds_count') === 0 &&
      reset.all('rockstar_proxy_request_duration_seconds_bucket').every(({ value }) => value === 0) && reset.value('rockstar_proxy_requests_in_flight') === both[0].inFlight
  }), { numRuns: 60 })
  t.pass()
})

t.test('each counter tells its own number, and no other', async t => {
  const proxy = manager({ backends: [a], limits: { maxInFlight: 5 } })
  const { tallies, counters, admission, tunnels } = proxy.state
  let number = 0
  const told: Record<string, number> = {}
  const names = { retries: 'retries', retriesDenied: 'retries_denied', hedges: 'hedges', hedgesWon: 'hedges_won', queued: 'requests_queued', shed: 'requests_shed', fallbacks: 'fallbacks', mirrored: 'mirrors', mirrorsSkipped: 'mirrors_skipped' } as const
  for (const [tally, name] of Object.entries(names)) told[name] = tallies[tally as keyof typeof names] = ++number
  t.strictSame(Object.keys(tallies).sort(), [...Object.keys(names), 'timeouts'].sort(), 'all that is counted is told')
  for (const stage in tallies.timeouts) tallies.timeouts[stage as keyof typeof tallies.timeouts] = ++number
  for (const [times, result] of [[30, 'successful'], [40, 'failed'], [50, 'aborted']] as const) {
    for (let i = 0; i < times; i++) for (const each of [counters, proxy.state.get('a').counters]) { each.begin(); each.end(result, 1) }
  }
  counters.begin()
  Object.defineProperty(admission, 'queueLength', { value: 60 })
  tunnels.metrics = () => ({ open: 71, total: 72, bytesReceived: 73, bytesSent: 74 })
  const found = scrape(proxy)
  for (const [name, value] of Object.entries(told)) t.equal(found.value(`rockstar_proxy_${name}_total`), value, name)
  for (const [stage, value] of Object.entries(tallies.timeouts)) t.equal(found.value('rockstar_proxy_timeouts_total', { stage }), value, stage)
  for (const name of ['requests', 'attempts']) t.strictSame(['successful', 'failed', 'aborted'].map(outcome => found.value(`rockstar_proxy_${name}_total`, { outcome })), [30, 40, 50])
  t.equal(found.value('rockstar_proxy_requests_in_flight'), 1)
  t.equal(found.value('rockstar_proxy_attempts_in_flight'), 0)
  t.equal(found.value('rockstar_proxy_queue_length'), 60)
  t.equal(found.value('rockstar_proxy_tunnels_open'), 71)
  t.equal(found.value('rockstar_proxy_tunnels_total'), 72)
  t.strictSame(['received', 'sent'].map(direction => found.value('rockstar_proxy_tunnel_bytes_total', { direction })), [73, 74])
})

t.test('labels of one\'s own stand on every series', async t => {
  const found = scrape(manager({ backends: [a] }), 'text', { proxy: 'ed"ge', zone: 'eu' })
  t.ok(found.samples.length > 60)
  t.ok(found.samples.every(({ labels }) => labels.proxy === 'ed"ge' && labels.zone === 'eu'))
})

t.test('backends can be told of without durations, or not at all', async t => {
  const proxy = manager({ backends: [a, { ...a, id: 'b', isActive: false }] })
  const numbers = scrape(proxy, 'text', {}, 'numbers')
  t.equal(numbers.all('rockstar_proxy_attempt_duration_seconds_bucket').length, 0)
  t.equal(numbers.families.has('rockstar_proxy_attempt_duration_seconds'), false, 'and nothing speaks of what is not there')
  t.equal(numbers.all('rockstar_proxy_backend_up').length, 2)
  const none = scrape(proxy, 'text', {}, false)
  t.equal(none.samples.filter(({ labels }) => 'backend' in labels).length, 0)
  t.equal(none.value('rockstar_proxy_backends'), 2)
  t.equal(none.value('rockstar_proxy_backends_active'), 1)
  t.equal(none.value('rockstar_proxy_backends_available'), 1)
})

t.test('each cache of names is told of once: with the upstream that it is of', async t => {
  const proxy = manager({ backends: [a], upstreams: { shared: {}, own: { dns: { timeout: 100 } }, off: { dns: false } } })
  t.strictSame(scrape(proxy).all('rockstar_proxy_dns_names').map(({ labels }) => labels.upstream), ['default', 'own'])
  t.strictSame(scrape(manager({ dns: false, upstreams: { none: {} } })).all('rockstar_proxy_dns_names'), [])
})

t.test('a pool that does not tell of itself takes nothing else with it', async t => {
  const proxy = manager({ backends: [a] })
  proxy.setConnectionPool({ dispatcherFor: () => { throw new Error('none') }, stats: () => { throw new Error('no') }, close: async () => {} })
  const found = scrape(proxy)
  t.equal(found.all('rockstar_proxy_connections').length, 0)
  t.equal(found.value('rockstar_proxy_backend_up', { backend: 'a' }), 1)
})

t.test('of many backends it is written in pieces, of which none takes long', async t => {
  const proxy = manager({ backends: Array.from({ length: 1_000 }, (_, i) => `http://10.1.${i >> 8}.${i & 255}`) })
  const pieces = [...expose(new Collector(proxy), 'text')]
  t.ok(pieces.length > 40, `${pieces.length} pieces`)
  t.ok(Math.max(...pieces.map(({ length }) => length)) < 150_000)
  t.equal(parseScrape(pieces.join('')).all('rockstar_proxy_backend_up').length, 1_000)
  t.equal([...expose(new Collector(manager({ backends: [a] })), 'text')].length, 1, 'of few in one')
})

t.test('promtool finds nothing to say about it', async t => {
  const proxy = manager({ backends: [a, { id: 'b"\\\n', url: a.url }], limits: { maxPerBackend: 1 }, upstreams: { 'ü "two"': { backends: [a] } } })
  const checked = promtool(t, ['check', 'metrics'], written(new Collector(proxy, { proxy: 'edge' })))
  if (checked === undefined) return
  t.strictSame(checked, { status: 0, output: '' })
  const wrong = promtool(t, ['check', 'metrics'], '# TYPE requests counter\nrequests 1\n')
  t.not(wrong?.status, 0, 'which finds something where there is something')
})
