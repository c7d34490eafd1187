import t from 'tap'
import { Backend } from '../../lib/backend.ts'
import type { BackendInput } from '../../types/index.ts'

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
      isActive: true,
      draining: false,
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
    ['example.com', /must be an http: or https: URL/],
    ['example.com:8081', /must be an http: or https: URL/],
    ['//example.com', /must be an http: or https: URL/],
    ['/path', /must be an http: or https: URL/],
    ['http://', /must be an http: or https: URL/],
    ['http://[::1', /must be an http: or https: URL/],
    ['http://example.com:99999', /must be an http: or https: URL/],
    ['http://exa mple.com', /must be an http: or https: URL/],
    ['ftp://example.com', /must be an http: or https: URL/],
    ['ws://example.com', /must be an http: or https: URL/],
    ['unix:/run/sock', /must be an http: or https: URL/],
    ['file:///etc/passwd', /must be an http: or https: URL/],
    ['data:text/plain,x', /must be an http: or https: URL/],
    ['javascript:alert(1)', /must be an http: or https: URL/],
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

t.test('a change that is half bad changes nothing', t => {
  const backend = make({ url: 'http://example.com', weight: 3, metadata: { a: 1 } })
  const before = JSON.stringify(backend)
  const bad: [object, string][] = [
    [{ weight: 5, isActive: 'no' }, "changes.isActive must be a boolean, and is 'no'"],
    [{ isActive: false, weight: -1 }, 'changes.weight must be an integer of at least 0 and of at most 65535, and is -1'],
    [{ metadata: { b: 2 }, weight: 1.5 }, 'changes.weight must be an integer of at least 0 and of at most 65535, and is 1.5'],
    [{ weight: 5, metadata: 'x' }, "changes.metadata must be an object, and is 'x'"],
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

t.test('as JSON it is plain data', t => {
  const backend = make({ id: 'b1', url: 'http://example.com:8081/base', weight: 3, metadata: { zone: 'a' } })
  backend.counters.begin()
  const json = {
    id: 'b1',
    url: 'http://example.com:8081/base',
    weight: 3,
    isActive: true,
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
