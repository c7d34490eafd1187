import t from 'tap'
import { Backend } from '../../lib/backend.ts'
import type { BackendChanges, BackendInput, BackendOptions, Because } from '../../types/index.ts'

const NOW = Date.UTC(2026, 0, 2, 3, 4, 5)
const make = (input: BackendInput) => new Backend(input, NOW)

t.test('a backend is made from a string, a URL object or options', t => {
  for (const input of ['http://example.com:8081/base', { url: 'http://example.com:8081/base' }, { url: new URL('http://example.com:8081/base') }]) {
    t.match(make(input), {
      id: 'example.com:8081',
      origin: 'http://example.com:8081',
      host: 'example.com:8081',
      basePath: '/base',
      weight: 1,
      effectiveWeight: 1,
      priority: 0,
      zone: undefined,
      isActive: true,
      draining: false,
      healthy: true,
      ejected: false,
      inFlight: 0,
      available: true
    })
  }
  t.end()
})

t.test('the id is the one given, else host and port of the URL', t => {
  const ids: [BackendInput, string][] = [
    [{ id: 'mine', url: 'http://example.com' }, 'mine'],
    ['http://example.com', 'example.com'],
    ['http://example.com:80', 'example.com'],
    ['http://example.com:443', 'example.com:443'],
    ['https://example.com:443/x', 'example.com'],
    ['http://EXAMPLE.com:8081', 'example.com:8081'],
    ['http://[::1]:8081', '[::1]:8081'],
    ['http://bücher.example', 'xn--bcher-kva.example']
  ]
  for (const [input, id] of ids) t.equal(make(input).id, id, JSON.stringify(input))
  t.end()
})

t.test('the base path loses its last slashes, and nothing else', t => {
  for (const [path, basePath] of [['', ''], ['/', ''], ['/a', '/a'], ['/a/', '/a'], ['/a//', '/a'], ['/a/b%2Fc/', '/a/b%2Fc'], ['/a;p=1', '/a;p=1']]) {
    t.equal(make(`http://example.com${path}`).basePath, basePath, path)
  }
  t.end()
})

t.test('a URL that is not one of a backend is refused, with what is wrong about it', t => {
  const bad: [string, RegExp][] = [
    ['example.com', /must be an http:, https: or unix: URL/],
    ['example.com:8081', /must be an http:, https: or unix: URL/],
    ['//example.com', /must be an http:, https: or unix: URL/],
    ['/path', /must be an http:, https: or unix: URL/],
    ['http://', /must be an http:, https: or unix: URL/],
    ['http://[::1', /must be an http:, https: or unix: URL/],
    ['http://example.com:99999', /must be an http:, https: or unix: URL/],
    ['http://exa mple.com', /must be an http:, https: or unix: URL/],
    ['ftp://example.com', /must be an http:, https: or unix: URL/],
    ['ws://example.com', /must be an http:, https: or unix: URL/],
    ['file:///etc/passwd', /must be an http:, https: or unix: URL/],
    ['data:text/plain,x', /must be an http:, https: or unix: URL/],
    ['javascript:alert(1)', /must be an http:, https: or unix: URL/],
    ['http://example.com?a=b', /which has a query or a fragment/],
    ['http://example.com/x?a=b', /which has a query or a fragment/],
    ['http://example.com#top', /which has a query or a fragment/],
    ['http://user@example.com', /which has credentials/],
    ['http://user:pass@example.com', /which has credentials/],
    ['http://:pass@example.com', /which has credentials/]
  ]
  for (const [url, message] of bad) {
    for (const input of [url, { url }]) t.throws(() => make(input), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message }, JSON.stringify(input))
  }
  t.end()
})

t.test('the error of a backend names the path it was given', t => {
  t.throws(() => new Backend('ftp://x', NOW, 'options.backends[3]'), { message: /^options\.backends\[3\] must be .* and is 'ftp:\/\/x'/ })
  t.throws(() => new Backend({ url: 'ftp://x' }, NOW, 'options.backends[3]'), { message: /^options\.backends\[3\]\.url must be / })
  t.throws(() => make({ url: 'ftp://x' }), { message: /^backend\.url must be / })
  t.end()
})

t.test('its priority is the one given, else 1 for a backup, else 0', t => {
  const priorities: [Partial<BackendOptions>, number][] = [
    [{}, 0],
    [{ backup: false }, 0],
    [{ backup: true }, 1],
    [{ priority: 3 }, 3],
    [{ priority: 3, backup: true }, 3],
    [{ priority: 0, backup: true }, 0],
    [{ priority: undefined, backup: true }, 1]
  ]
  for (const [options, priority] of priorities) t.equal(make({ url: 'http://example.com', ...options }).priority, priority, JSON.stringify(options))
  t.end()
})

t.test('its url is a copy each time', t => {
  const given = new URL('http://example.com:8081/a')
  const backend = make({ url: given })
  backend.url.port = '1'
  given.pathname = '/other'
  t.equal(backend.url.href, 'http://example.com:8081/a')
  t.not(backend.url, backend.url)
  t.end()
})

t.test('its metadata is a frozen copy', t => {
  const metadata = { zone: 'a' }
  const backend = make({ url: 'http://example.com', metadata })
  metadata.zone = 'b'
  t.strictSame(backend.metadata, { zone: 'a' })
  t.throws(() => { (backend.metadata as Record<string, unknown>).zone = 'c' }, TypeError)
  t.notOk(Object.isFrozen(metadata), 'what the caller gave is not frozen with it')
  t.end()
})

t.test('it knows when it was made and last changed', t => {
  const backend = make('http://example.com')
  t.equal(backend.createdAt.getTime(), NOW)
  t.equal(backend.updatedAt.getTime(), NOW)
  backend.change({ weight: 2 }, NOW + 5)
  t.equal(backend.createdAt.getTime(), NOW)
  t.equal(backend.updatedAt.getTime(), NOW + 5)
  t.end()
})

t.test('a change takes over what is given and leaves the rest', t => {
  const backend = make({ url: 'http://example.com', weight: 3, isActive: false, metadata: { a: 1 } })
  const seen = () => [backend.weight, backend.isActive, { ...backend.metadata }]
  backend.change({ weight: 5 }, NOW)
  t.strictSame(seen(), [5, false, { a: 1 }])
  backend.change({ isActive: true }, NOW)
  t.strictSame(seen(), [5, true, { a: 1 }])
  backend.change({ metadata: { b: 2 } }, NOW)
  t.strictSame(seen(), [5, true, { b: 2 }], 'metadata is replaced, not merged')
  backend.change({ weight: 0, isActive: false, metadata: {} }, NOW)
  t.strictSame(seen(), [0, false, {}], '0, false and nothing in it are values')
  backend.change({}, NOW)
  backend.change({ weight: undefined, isActive: undefined, metadata: undefined }, NOW)
  t.strictSame(seen(), [0, false, {}])
  t.end()
})

t.test('a change of priority, backup and zone takes over what is given and leaves the rest', t => {
  const backend = make({ url: 'http://example.com', weight: 3, backup: true, zone: 'a' })
  const after = (changes: BackendChanges) => {
    backend.change(changes, NOW)
    return [backend.priority, backend.zone, backend.weight]
  }
  t.strictSame(after({ weight: 4 }), [1, 'a', 4], 'a backup stays one')
  t.strictSame(after({ priority: 5 }), [5, 'a', 4])
  t.strictSame(after({ zone: 'b' }), [5, 'b', 4])
  t.strictSame(after({ backup: false }), [0, 'b', 4])
  t.strictSame(after({ backup: true, weight: 0 }), [1, 'b', 0])
  t.strictSame(after({ backup: true, priority: 7 }), [7, 'b', 0], 'a priority tells more than `backup`')
  t.strictSame(after({ priority: 0 }), [0, 'b', 0])
  t.strictSame(after({ priority: undefined, backup: undefined, zone: undefined }), [0, 'b', 0])
  t.strictSame(after({ zone: null }), [0, undefined, 0], 'null is nowhere in particular')
  t.end()
})

t.test('a change that is half bad changes nothing', t => {
  const backend = make({ url: 'http://example.com', weight: 3, metadata: { a: 1 } })
  const before = JSON.stringify(backend)
  const bad: [object, string][] = [
    [{ weight: 5, isActive: 'no' }, "changes.isActive must be a boolean, and is 'no'"],
    [{ isActive: false, weight: -1 }, 'changes.weight must be an integer of at least 0 and of at most 65535, and is -1'],
    [{ metadata: { b: 2 }, weight: 1.5 }, 'changes.weight must be an integer of at least 0 and of at most 65535, and is 1.5'],
    [{ weight: 5, metadata: 'x' }, "changes.metadata must be an object, and is 'x'"],
    [{ weight: 5, priority: 128 }, 'changes.priority must be an integer of at least 0 and of at most 127, and is 128'],
    [{ weight: 5, priority: 1.5 }, 'changes.priority must be an integer of at least 0 and of at most 127, and is 1.5'],
    [{ zone: 'z', backup: 1 }, 'changes.backup must be a boolean, and is 1'],
    [{ priority: 2, zone: '' }, "changes.zone must be a string of at least 1 characters or null, and is ''"],
    [{ weight: 5, zone: 7 }, 'changes.zone must be a string of at least 1 characters or null, and is 7'],
    [{ weight: 5, priorty: 1 }, "changes.priorty is not an option; did you mean 'priority'?"],
    [{ weight: 5, isActve: false }, "changes.isActve is not an option; did you mean 'isActive'?"],
    [{ weight: 5, url: 'http://elsewhere.example' }, 'changes.url is not an option'],
    [{ weight: 5, id: 'other' }, 'changes.id is not an option']
  ]
  for (const [changes, message] of bad) {
    t.throws(() => backend.change(changes, NOW + 9), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message }, message)
    t.equal(JSON.stringify(backend), before)
  }
  for (const changes of [null, 5, 'x', []]) t.throws(() => backend.change(changes as object, NOW + 9), { code: 'FST_ROCKSTAR_INVALID_OPTIONS' })
  t.equal(JSON.stringify(backend), before)
  t.end()
})

t.test('it may be chosen while it is active, has a weight and is not draining', t => {
  const backend = make('http://example.com')
  t.ok(backend.available)
  backend.change({ isActive: false }, NOW)
  t.notOk(backend.available)
  backend.change({ isActive: true, weight: 0 }, NOW)
  t.notOk(backend.available)
  backend.change({ weight: 1 }, NOW)
  backend.draining = true
  t.notOk(backend.available)
  t.end()
})

t.test('what speaks against choosing it is told, all of it, and what its health says apart', t => {
  const backend = make('http://example.com')
  const seen = () => [backend.usable, backend.available, backend.obstacles]
  t.strictSame(seen(), [true, true, []])
  backend.healthy = false
  t.strictSame(seen(), [true, false, ['unhealthy']], 'usable when nobody asks for its health')
  backend.ejected = true
  t.strictSame(seen(), [true, false, ['unhealthy', 'ejected']])
  backend.healthy = true
  t.strictSame(seen(), [true, false, ['ejected']])
  backend.change({ weight: 0 }, NOW)
  t.strictSame(seen(), [false, false, ['weight 0', 'ejected']])
  backend.draining = true
  backend.healthy = false
  backend.change({ isActive: false }, NOW)
  t.strictSame(seen(), [false, false, ['inactive', 'draining', 'weight 0', 'unhealthy', 'ejected']])
  backend.change({ isActive: true, weight: 1 }, NOW)
  t.strictSame(seen(), [false, false, ['draining', 'unhealthy', 'ejected']])
  t.not(backend.obstacles, backend.obstacles, 'a list of its own each time')
  t.end()
})

t.test('its effective weight is the weight times what slow start and what it does say', t => {
  const backend = make({ url: 'http://example.com', weight: 10 })
  t.notOk(backend.reweigh(), 'nothing has changed')
  backend.rampFactor = 0.1
  t.ok(backend.reweigh())
  t.equal(backend.effectiveWeight, 1)
  backend.weightFactor = 3
  t.ok(backend.reweigh())
  t.ok(Math.abs(backend.effectiveWeight - 3) < 1e-9)
  t.equal(backend.weight, 10)
  backend.change({ weight: 20 }, NOW)
  t.ok(Math.abs(backend.effectiveWeight - 3) < 1e-9, 'until somebody weighs it anew')
  t.ok(backend.reweigh())
  t.ok(Math.abs(backend.effectiveWeight - 6) < 1e-9)
  t.end()
})

t.test('what nobody would notice of an effective weight is let be, unless the weight is whole again', t => {
  const backend = make({ url: 'http://example.com', weight: 100 })
  backend.rampFactor = 0.5
  backend.reweigh()
  for (const [factor, effective, changed] of [[0.5024, 50, false], [0.4976, 50, false], [0.503, 50.3, true], [0.5, 50, true], [0.49, 49, true], [0.999, 99.9, true], [1, 100, true], [1, 100, false]] as const) {
    backend.rampFactor = factor
    t.equal(backend.reweigh(), changed, `${factor}`)
    t.ok(Math.abs(backend.effectiveWeight - effective) < 1e-9, `${factor}: ${backend.effectiveWeight}`)
  }
  t.equal(backend.effectiveWeight, 100)
  t.end()
})

t.test('a weight of 0 has an effective one of 0, and comes back from it', t => {
  const backend = make({ url: 'http://example.com', weight: 0 })
  t.equal(backend.effectiveWeight, 0)
  backend.rampFactor = 0.1
  t.notOk(backend.reweigh())
  backend.change({ weight: 5 }, NOW)
  t.ok(backend.reweigh())
  t.equal(backend.effectiveWeight, 0.5)
  backend.change({ weight: 0 }, NOW)
  t.ok(backend.reweigh())
  t.equal(backend.effectiveWeight, 0)
  t.end()
})

t.test('a reset sets its counters and the reasons of its choices to zero, but what is under way', t => {
  const backend = make('http://example.com')
  const reasons = Object.keys(backend.chosen)
  t.strictSame(reasons.sort(), ['affinity', 'balancer', 'fallback', 'panic', 'priority', 'zone'])
  for (const because of reasons) backend.chosen[because as Because] = 3
  backend.counters.begin()
  backend.counters.begin()
  backend.settle('successful', 5)
  backend.reset()
  t.strictSame(backend.chosen, { balancer: 0, affinity: 0, priority: 0, zone: 0, fallback: 0, panic: 0 })
  t.match(backend.counters.snapshot(), { totalRequests: 1, successfulRequests: 0, inFlight: 1 })
  t.end()
})

t.test('as JSON it is plain data', t => {
  const backend = make({ id: 'b1', url: 'http://example.com:8081/base', weight: 3, priority: 2, zone: 'eu', metadata: { zone: 'a' } })
  backend.counters.begin()
  backend.rampFactor = 0.5
  backend.reweigh()
  const json = {
    id: 'b1',
    url: 'http://example.com:8081/base',
    weight: 3,
    effectiveWeight: 1.5,
    priority: 2,
    zone: 'eu',
    isActive: true,
    available: true,
    healthy: true,
    ejected: false,
    circuitState: 'closed' as const,
    draining: false,
    metadata: { zone: 'a' },
    createdAt: '2026-01-02T03:04:05.000Z',
    updatedAt: '2026-01-02T03:04:05.000Z',
    inFlight: 1
  }
  t.strictSame(backend.toJSON(), json)
  t.strictSame(JSON.parse(JSON.stringify(backend)), json)
  t.strictSame(Object.keys(JSON.parse(JSON.stringify(backend))), Object.keys(json), 'in this order')
  const snapshot = backend.toJSON()
  snapshot.metadata.zone = 'b'
  t.strictSame(backend.metadata, { zone: 'a' }, 'and a copy')
  backend.ejected = true
  t.match(backend.toJSON(), { isActive: true, available: false, healthy: true, ejected: true, draining: false }, 'one that may not be chosen is told so')
  Object.assign(backend, { ejected: false, healthy: false })
  t.match(backend.toJSON(), { available: false, healthy: false, ejected: false, circuitState: 'closed' })
  Object.assign(backend, { healthy: true, circuit: { state: 'open', retryAfter: 1 } })
  t.match(backend.toJSON(), { available: false, healthy: true, circuitState: 'open' })
  Object.assign(backend, { circuit: { state: 'half-open', retryAfter: 0 } })
  t.match(backend.toJSON(), { available: true, circuitState: 'half-open' }, 'one that is being tried may be chosen')
  t.notOk('zone' in make('http://example.com').toJSON(), 'one without a zone has none there')
  t.end()
})

t.test('it says once that it has become idle, when the last attempt ends', t => {
  const backend = make('http://example.com')
  let idle = 0
  backend.counters.begin()
  backend.counters.begin()
  backend.settle('successful', 1)
  backend.onIdle = () => { idle++ }
  t.equal(idle, 0)
  backend.settle('failed', 1)
  t.equal(idle, 1)
  t.equal(backend.inFlight, 0)
  t.end()
})
