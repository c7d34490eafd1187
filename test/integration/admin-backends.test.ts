import t from 'tap'
import { BackendViewSchema } from '../../types/index.ts'
import { adminRig, changesIn } from '../helpers/admin.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, rawBackend, until } from '../helpers/wire.ts'

const NOWHERE = 'http://127.0.0.1:1'
const TIME = '2026-01-01T00:00:01.000Z'
const refused = (statusCode: number, code: string, message: string) =>
  ({ statusCode, code: `FST_ROCKSTAR_${code}`, error: { 400: 'Bad Request', 404: 'Not Found', 409: 'Conflict', 412: 'Precondition Failed' }[statusCode], message })

/** What there is to see of a backend that nothing has happened to. */
function fresh (id: string, url: string, more: object = {}) {
  return {
    upstream: 'default',
    id,
    url: `${url}/`,
    weight: 1,
    effectiveWeight: 1,
    priority: 0,
    isActive: true,
    available: true,
    healthy: true,
    ejected: false,
    circuitState: 'closed',
    draining: false,
    metadata: {},
    createdAt: TIME,
    updatedAt: TIME,
    inFlight: 0,
    reasons: [],
    circuit: { state: 'closed', retryAfter: 0 },
    health: { isHealthy: true, consecutiveFails: 0, responseTime: 0, errorMessage: '', statusCode: 0, source: 'active', since: TIME, ejections: 0 },
    share: 0,
    metrics: { totalRequests: 0, successfulRequests: 0, failedRequests: 0, abortedRequests: 0, inFlight: 0, averageResponseTime: 0, minResponseTime: 0, maxResponseTime: 0, p50ResponseTime: 0, p90ResponseTime: 0, p99ResponseTime: 0 },
    connections: { total: 0, active: 0, idle: 0, pending: 0, connects: 0, connectErrors: 0, requests: 0, reuseRatio: 0 },
    http2: false,
    healthCheck: {},
    ...more
  }
}

const newYear = () => new FakeClock()

t.test('a list of backends, and one of them: the exact JSON', async t => {
  const { ask } = await adminRig(t, { clock: newYear(), backends: [{ id: 'a', url: NOWHERE, metadata: { rack: 1 } }], upstreams: { named: { backends: [{ id: 'b', url: NOWHERE, weight: 0 }] } } })
  const list = await ask('GET', '/backends')
  t.equal(list.statusCode, 200)
  t.equal(list.headers['content-type'], 'application/json; charset=utf-8')
  t.equal(list.headers['cache-control'], 'no-store')
  t.equal(list.headers['x-content-type-options'], 'nosniff')
  t.strictSame(list.json(), { upstream: 'default', count: 1, available: 1, backends: [fresh('a', NOWHERE, { metadata: { rack: 1 } })] })
  const one = await ask('GET', '/backends/a')
  t.strictSame(one.json(), fresh('a', NOWHERE, { metadata: { rack: 1 } }))
  t.match(one.headers.etag, /^"[0-9a-z]+-0"$/)
  const head = await ask('HEAD', '/backends/a')
  t.equal(head.statusCode, 200)
  t.equal(head.body, '')
  t.strictSame((await ask('GET', '/backends?upstream=named')).json(), {
    upstream: 'named',
    count: 1,
    available: 0,
    backends: [fresh('b', NOWHERE, { upstream: 'named', weight: 0, effectiveWeight: 0, available: false, reasons: ['weight 0'], health: { ...fresh('', '').health, isHealthy: false, source: 'manual' } })]
  })
  t.strictSame(new Set(Object.keys(one.json())), new Set(Object.keys(BackendViewSchema.properties).filter(name => !['address', 'zone', 'limit', 'drain'].includes(name))), 'the schema says all of it')
  t.strictSame((await ask('GET', '/backends/none')).json(), refused(404, 'UNKNOWN_BACKEND', "No backend has the id 'none' in upstream 'default'"))
  t.strictSame((await ask('GET', '/backends?upstream=none')).json(), refused(404, 'UNKNOWN_UPSTREAM', "No upstream is named 'none'"))
  t.strictSame((await ask('GET', '/backends?usptream=none')).json(), refused(400, 'INVALID_REQUEST', "query.usptream is not an option; did you mean 'upstream'?"))
  t.strictSame((await ask('GET', '/backends?upstream=a&upstream=b')).json(), refused(400, 'INVALID_REQUEST', "query.upstream must be a string of at least 1 characters, and is [ 'a', 'b' ]"))
})

t.test('live state shows: requests, times, connections, share, what is in the way', async t => {
  const { url } = await rawBackend(t, () => ok())
  const gateway = await adminRig(t, { backends: [{ id: 'a', url }, { id: 'b', url, isActive: false }], breaker: true, routes: [{ prefix: '/' }] })
  const client = await gateway.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await client.response()
  gateway.proxy.getCircuitBreaker().open?.('a')
  const { backends } = (await gateway.ask('GET', '/backends')).json()
  t.match(backends[0], { share: 1, available: false, reasons: ['circuit open'], circuitState: 'open', circuit: { state: 'open', retryAfter: null }, metrics: { totalRequests: 1, successfulRequests: 1 }, connections: { total: 1, requests: 1, connects: 1 } })
  t.ok(backends[0].metrics.p99ResponseTime > 0)
  t.match(backends[1], { share: 0, available: false, reasons: ['inactive'], health: { isHealthy: false, source: 'manual' } })
})

t.test('a backend is added: 201, ETag, Location; again it is the same, and another of its id is refused', async t => {
  const rig = await adminRig(t, { clock: newYear(), upstreams: { named: {} } })
  const { ask } = rig
  const body = { id: 'b', url: NOWHERE, weight: 3, zone: 'z', metadata: { rack: 'r1' }, healthCheck: { path: '/h', headers: { authorization: 'secret' } } }
  const added = await ask('POST', '/backends', body)
  t.equal(added.statusCode, 201, added.body)
  t.equal(added.headers.location, '/proxy/backends/b')
  t.strictSame(added.json(), fresh('b', NOWHERE, { weight: 3, effectiveWeight: 3, zone: 'z', metadata: { rack: 'r1' }, healthCheck: { path: '/h', headers: { authorization: '***' } } }))
  const again = await ask('POST', '/backends', body)
  t.equal(again.statusCode, 200, 'the same again')
  t.strictSame(again.json(), added.json())
  t.equal(again.headers.etag, added.headers.etag)
  t.equal((await ask('POST', '/backends', { id: 'b', url: NOWHERE })).statusCode, 200, 'what is not said is not asked for')
  for (const other of [{ url: 'http://127.0.0.1:2' }, { weight: 4 }, { metadata: {} }, { http2: true }, { tls: { servername: 'x' } }, { isActive: false }]) {
    t.strictSame((await ask('POST', '/backends', { ...body, ...other })).json(), refused(409, 'DUPLICATE_BACKEND', "A backend with id 'b' is already listed in upstream 'default'"))
  }
  t.match((await ask('POST', '/backends', JSON.stringify('http://127.0.0.1:7/base'))).json(), { id: '127.0.0.1:7', url: 'http://127.0.0.1:7/base' }, 'a URL alone will do')
  const named = await ask('POST', '/backends?upstream=named', { id: 'a/b', url: NOWHERE })
  t.equal(named.headers.location, '/proxy/backends/a%2Fb?upstream=named')
  t.equal((await rig.app.inject({ url: named.headers.location as string, headers: { host: 'localhost' } })).json().id, 'a/b', 'it is where Location says')
  t.strictSame(rig.proxy.listBackends().map(({ id }) => id), ['b', '127.0.0.1:7'])
  t.match(changesIn(rig), [
    { level: 30, action: 'add backend', upstream: 'default', backend: 'b', url: `${NOWHERE}/`, who: '127.0.0.1', reqId: /./ },
    { action: 'add backend', backend: '127.0.0.1:7' },
    { action: 'add backend', upstream: 'named', backend: 'a/b' }
  ])
  t.notMatch(JSON.stringify(changesIn(rig)), 'secret')
})

t.test('what is no backend is refused by name, and changes nothing', async t => {
  const rig = await adminRig(t, { backends: [{ id: 'a', url: NOWHERE }] })
  const url = NOWHERE
  const cases: [body: unknown, message: string | RegExp][] = [
    [{}, 'body.url must be an http:, https: or unix: URL, and is nothing'],
    [undefined, 'body.url must be an http:, https: or unix: URL, and is nothing'],
    [[], 'body must be a URL string or an object with a url, and is []'],
    [5, 'body must be a URL string or an object with a url, and is 5'],
    ['null', 'body must be an object, and is null'],
    [{ url, wieght: 2 }, "body.wieght is not an option; did you mean 'weight'?"],
    [{ url, weight: '2' }, "body.weight must be an integer of at least 0 and of at most 65535, and is '2'"],
    [{ url, weight: 1.5 }, 'body.weight must be an integer of at least 0 and of at most 65535, and is 1.5'],
    [{ url, isActive: 'true' }, "body.isActive must be a boolean, and is 'true'"],
    [{ url, metadata: 'x' }, "body.metadata must be an object, and is 'x'"],
    [{ url, healthCheck: { pahth: '/' } }, "body.healthCheck.pahth is not an option; did you mean 'path'?"],
    [{ url, healthCheck: { checker: 'process.exit()' } }, /^body.healthCheck.checker is not an option/],
    [{ url, healthCheck: { path: '/', expectedBody: { source: '(a+)+$', flags: '' } } }, /^body.healthCheck.expectedBody must be/],
    [{ url, healthCheck: { host: 'x' } }, /health.host of backend '127.0.0.1:1' wants a health.path/],
    [{ url: 'ftp://127.0.0.1/' }, "body.url must be an http:, https: or unix: URL, and is 'ftp://127.0.0.1/'"],
    [{ url: 'file:///etc/passwd' }, "body.url must be an http:, https: or unix: URL, and is 'file:///etc/passwd'"],
    [{ url: 'http://user:secret@127.0.0.1/' }, "body.url must be an http:, https: or unix: URL, and is '***@127.0.0.1/', which has credentials"],
    [{ url: 'http://127.0.0.1/?a=1' }, /which has a query or a fragment$/],
    [{ url: 'nonsense' }, "body.url must be an http:, https: or unix: URL, and is 'nonsense'"],
    [{ url: { href: url, protocol: 'http:', host: 'x' } }, /^body.url must be an http:, https: or unix: URL/],
    [{ url, id: '' }, /^body.id must be a string of 1 to 128 characters/],
    [{ url, id: 'x'.repeat(129) }, /^body.id must be a string of 1 to 128 characters/],
    [{ url, id: 'x'.repeat(101) }, /^body.id must be a string of at most 100 characters, as paths have room for no more \(maxParamLength\)/],
    [{ url, id: '.' }, /^body.id must be a string .* neither '.' nor '..'/],
    [{ url, id: '..' }, /^body.id must be a string .* neither '.' nor '..'/],
    [{ url, id: 'a\nb' }, /^body.id must be a string .* without control characters/],
    [JSON.stringify({ url, id: 'a' }).replace('"a"', '"\\ud800"'), /^body.id must be a string/],
    [{ url, tls: { key: '/etc/shadow' } }, 'body.tls.key must be PEM text, and is ***'],
    [{ url, tls: { ca: '/etc/passwd' } }, "body.tls.ca must be PEM text, and is '/etc/passwd'"],
    ['{"url":"http://127.0.0.1:1","metadata":{"__proto__":{"x":1}}}', 'body.metadata.__proto__ is refused: objects have that name by themselves'],
    ['{"__proto__":{"url":"http://127.0.0.1:1"}}', 'body.__proto__ is refused: objects have that name by themselves'],
    ['{"url":', /not valid JSON/],
    [{ url, metadata: deep(40) }, 'body must be nested no deeper than 32 levels'],
    [`{"url":"${url}","metadata":{"a":${'['.repeat(30_000)}${']'.repeat(30_000)}}}`, 'body must be nested no deeper than 32 levels']
  ]
  for (const [body, message] of cases) {
    const answer = await rig.ask('POST', '/backends', body)
    t.equal(answer.statusCode, 400, `${JSON.stringify(body)?.slice(0, 100)} ${answer.body}`)
    if (typeof message === 'string') t.equal(answer.json().message, message)
    else t.match(answer.json().message, message)
    t.ok(['FST_ROCKSTAR_INVALID_REQUEST', 'FST_ERR_CTP_INVALID_JSON_BODY'].includes(answer.json().code), answer.json().code)
  }
  t.equal((await rig.ask('POST', '/backends', `{"url":"${url}","metadata":{"a":"${'x'.repeat(70_000)}"}}`)).statusCode, 413)
  t.strictSame(rig.proxy.listBackends().map(({ id }) => id), ['a'])
  t.strictSame(changesIn(rig), [])
})

function deep (levels: number): object {
  return levels === 0 ? {} : { a: deep(levels - 1) }
}

t.test('PATCH changes what it names, and nothing else', async t => {
  const clock = newYear()
  const rig = await adminRig(t, { clock, backends: [{ id: 'a', url: NOWHERE, weight: 2, zone: 'z', metadata: { keep: 1 } }] })
  const before = (await rig.ask('GET', '/backends/a')).headers.etag
  clock.advance(1000)
  const changed = await rig.ask('PATCH', '/backends/a', { weight: 5, metadata: { password: 'hidden' } })
  t.strictSame(changed.json(), fresh('a', NOWHERE, { weight: 5, effectiveWeight: 5, zone: 'z', metadata: { password: 'hidden' }, updatedAt: '2026-01-01T00:00:02.000Z' }))
  t.not(changed.headers.etag, before)
  t.strictSame((await rig.ask('PATCH', '/backends/a', { isActive: false, priority: 2, healthCheck: { interval: 500 }, zone: null })).json(), fresh('a', NOWHERE, {
    weight: 5,
    effectiveWeight: 5,
    priority: 2,
    isActive: false,
    available: false,
    reasons: ['inactive'],
    metadata: { password: 'hidden' },
    healthCheck: { interval: 500 },
    updatedAt: '2026-01-01T00:00:02.000Z',
    health: { ...fresh('', '').health, isHealthy: false, source: 'manual', since: '2026-01-01T00:00:02.000Z' }
  }))
  const { headers: { etag } } = await rig.ask('PATCH', '/backends/a', {})
  t.equal((await rig.ask('PATCH', '/backends/a')).headers.etag, etag, 'nothing to change is no change')
  for (const [body, message] of [
    [{ url: NOWHERE }, 'body.url is not an option'], [{ id: 'b' }, 'body.id is not an option'], [{ weight: -1 }, 'body.weight must be an integer of at least 0 and of at most 65535, and is -1'],
    [{ weight: null }, 'body.weight must be an integer of at least 0 and of at most 65535, and is null'], [{ zone: '' }, "body.zone must be a string of at least 1 characters or null, and is ''"],
    [{ weight: 9, healthCheck: { expectedBody: 'x' } }, "health.expectedBody of backend 'a' wants a health.path: without one a check is no more than a TCP connection"]
  ] as const) {
    const answer = await rig.ask('PATCH', '/backends/a', body)
    t.strictSame(answer.json(), refused(400, 'INVALID_REQUEST', message))
  }
  t.equal((await rig.ask('GET', '/backends/a')).headers.etag, etag, 'what is refused has changed nothing')
  t.equal((await rig.ask('PATCH', '/backends/none', { weight: 1 })).statusCode, 404)
  t.match(changesIn(rig), [
    { action: 'change backend', backend: 'a', changes: { weight: 5, metadata: ['password'] } },
    { action: 'change backend', changes: { isActive: false, priority: 2, zone: null, healthCheck: ['interval'] } }
  ])
  t.equal(changesIn(rig).length, 2)
  t.notMatch(JSON.stringify(changesIn(rig)), 'hidden', 'values of metadata are not logged')
})

t.test('PUT adds, changes to what it says, and is the same twice', async t => {
  const clock = newYear()
  const rig = await adminRig(t, { clock })
  const put = (body: object, headers = {}) => rig.ask('PUT', '/backends/p', body, headers)
  const added = await put({ url: NOWHERE, weight: 4, zone: 'z', metadata: { a: 1 }, healthCheck: { interval: 500 }, backup: true })
  t.equal(added.statusCode, 201, added.body)
  t.match(added.json(), { id: 'p', weight: 4, priority: 1, zone: 'z', metadata: { a: 1 }, healthCheck: { interval: 500 } })
  clock.advance(1000)
  const same = await put({ id: 'p', url: NOWHERE, weight: 4, zone: 'z', metadata: { a: 1 }, healthCheck: { interval: 500 }, priority: 1 })
  t.equal(same.statusCode, 200)
  t.equal(same.headers.etag, added.headers.etag)
  t.equal(same.json().updatedAt, TIME, 'nothing has changed')
  const bare = await put({ url: NOWHERE })
  t.strictSame(bare.json(), fresh('p', NOWHERE, { updatedAt: '2026-01-01T00:00:02.000Z' }), 'what is left out is as by default')
  t.strictSame((await put({ url: 'http://127.0.0.1:2' })).json(), refused(409, 'ADMIN_CONFLICT', "body.url must be what the backend 'p' has: it cannot change while it is listed"))
  t.match((await put({ url: NOWHERE, http2: true })).json(), { statusCode: 409, message: /^body.http2/ })
  t.match((await put({ url: NOWHERE, tls: { servername: 'x' } })).json(), { statusCode: 409, message: /^body.tls/ })
  t.match((await put({ url: NOWHERE, id: 'q' })).json(), { statusCode: 400, message: "body.id must be left out or be that of the path, 'p', and is 'q'" })
  t.match((await put({ weight: 1 })).json(), { statusCode: 400, message: 'body.url must be an http:, https: or unix: URL, and is nothing' })
  t.match((await rig.ask('PUT', '/backends/..%2f', { url: NOWHERE })).json(), { id: '../' })
  t.equal((await rig.ask('PUT', `/backends/${'x'.repeat(101)}`, { url: NOWHERE })).statusCode, 414, 'paths have no room for it')
  t.equal((await rig.ask('GET', `/backends/${'x'.repeat(101)}/drain`)).statusCode, 405)
  await rig.ask('POST', '/backends/p/drain')
  t.match((await put({ url: NOWHERE })).json(), { isActive: true, draining: false, available: true }, 'one that is drained comes back')
  t.strictSame(changesIn(rig).map(({ action }) => action), ['add backend', 'change backend', 'add backend', 'drain backend', 'change backend'])
})

t.test('If-Match and If-None-Match keep updates from being lost', async t => {
  const { ask } = await adminRig(t, { backends: [{ id: 'a', url: NOWHERE }] })
  const { etag } = (await ask('GET', '/backends/a')).headers as { etag: string }
  const gone = refused(412, 'ADMIN_PRECONDITION', 'The backend is not as it was: it has changed since, or there is none')
  const first = await ask('PATCH', '/backends/a', { weight: 2 }, { 'if-match': etag })
  t.equal(first.statusCode, 200)
  t.strictSame((await ask('PATCH', '/backends/a', { weight: 3 }, { 'if-match': etag })).json(), gone, 'the second of two who have seen the same')
  for (const [method, path, body] of [['PUT', '/backends/a', { url: NOWHERE }], ['POST', '/backends/a/drain', {}], ['DELETE', '/backends/a', undefined]] as const) {
    t.strictSame((await ask(method, path, body, { 'if-match': etag })).json(), gone, method)
  }
  t.match((await ask('GET', '/backends/a')).json(), { weight: 2, isActive: true, draining: false })
  const now = first.headers.etag as string
  t.equal((await ask('PATCH', '/backends/a', { weight: 3 }, { 'if-match': `"other", ${now}` })).statusCode, 200, 'one of several')
  t.equal((await ask('PATCH', '/backends/a', { weight: 4 }, { 'if-match': '*' })).statusCode, 200, 'any')
  t.equal((await ask('PATCH', '/backends/a', { weight: 4 }, { 'if-match': `W/${now}` })).statusCode, 412, 'a weak one never matches')
  t.equal((await ask('PATCH', '/backends/a', { weight: 4 }, { 'if-match': 'nonsense' })).statusCode, 412)
  t.strictSame((await ask('PUT', '/backends/a', { url: NOWHERE }, { 'if-none-match': '*' })).json(), gone, 'only to be added')
  const tag = (await ask('GET', '/backends/a')).headers.etag as string
  t.equal((await ask('PUT', '/backends/a', { url: NOWHERE }, { 'if-none-match': `W/${tag}` })).statusCode, 412, 'If-None-Match compares weakly')
  t.equal((await ask('PUT', '/backends/new', { url: NOWHERE }, { 'if-match': '*' })).statusCode, 412, 'none is there to match')
  t.equal((await ask('PUT', '/backends/new', { url: NOWHERE }, { 'if-none-match': '*' })).statusCode, 201)
  const before = (await ask('GET', '/backends/new')).headers.etag
  await ask('POST', '/backends/new/drain')
  t.not((await ask('GET', '/backends/new')).headers.etag, before, 'a drain makes it inactive: that is a change too')
})

t.test('a drain counts down, ends, and can be called off', async t => {
  const clock = newYear()
  let answer = () => {}
  const backend = await rawBackend(t, (_request, wire) => { answer = () => { wire.send(ok()) } })
  const rig = await adminRig(t, { clock, backends: [{ id: 'a', url: backend.url }], routes: [{ prefix: '/' }] })
  const { ask } = rig
  const client = await rig.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => backend.requests.length === 1)
  const begun = await ask('POST', '/backends/a/drain', { timeout: 10_000 })
  t.equal(begun.statusCode, 202)
  t.strictSame(begun.json(), { id: 'a', upstream: 'default', draining: true, inFlight: 1, remaining: 10_000 })
  clock.advance(4_000)
  t.match((await ask('GET', '/backends/a')).json(), { draining: true, isActive: true, available: false, reasons: ['draining'], inFlight: 1, drain: { inFlight: 1, remaining: 6_000 } })
  t.match((await ask('PATCH', '/backends/a', { isActive: true })).json(), { draining: false, available: true, drain: undefined }, 'called off')
  await ask('POST', '/backends/a/drain', { timeout: 10_000 })
  answer()
  await client.response()
  await until(() => rig.proxy.getBackend('a').draining === false)
  t.match((await ask('GET', '/backends/a')).json(), { draining: false, isActive: false, reasons: ['inactive'] }, 'it is done, and stays listed')
  t.strictSame((await ask('POST', '/backends/a/drain')).json(), { id: 'a', upstream: 'default', draining: false, inFlight: 0, remaining: 0 }, 'one that has nothing to do is done at once')
  t.match((await ask('PATCH', '/backends/a', { isActive: true })).json(), { available: true })
  t.strictSame((await ask('POST', '/backends/a/drain', { timeout: -1 })).json(), refused(400, 'INVALID_REQUEST', 'body.timeout must be a number of at least 0, and is -1'))
  t.equal((await ask('POST', '/backends/none/drain')).statusCode, 404)
})

t.test('a removal counts down; a shorter time cuts it short; meanwhile nothing else can be done to it', async t => {
  const clock = newYear()
  const backend = await rawBackend(t, () => {})
  const rig = await adminRig(t, { clock, backends: [{ id: 'a', url: backend.url }, { id: 'idle', url: backend.url }], routes: [{ prefix: '/' }] })
  const { ask } = rig
  const client = await rig.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => backend.requests.length === 1)
  const idle = await ask('DELETE', '/backends/idle')
  t.equal(idle.statusCode, 200, 'one that has nothing to finish is gone at once')
  t.strictSame(idle.json(), { id: 'idle', upstream: 'default', draining: false, inFlight: 0, remaining: 0 })
  t.equal((await ask('DELETE', '/backends/idle')).statusCode, 404)
  const begun = await ask('DELETE', '/backends/a?drain=20000')
  t.equal(begun.statusCode, 202)
  t.strictSame(begun.json(), { id: 'a', upstream: 'default', draining: true, inFlight: 1, remaining: 20_000 })
  clock.advance(5_000)
  t.match((await ask('DELETE', '/backends/a?drain=60000')).json(), { draining: true, remaining: 15_000 }, 'a longer time changes nothing')
  t.match((await ask('DELETE', '/backends/a?drain=8000')).json(), { draining: true, remaining: 8_000 }, 'a shorter one does')
  t.match((await ask('GET', '/backends/a')).json(), { draining: true, drain: { inFlight: 1, remaining: 8_000 } })
  for (const [method, path, body] of [['PATCH', '/backends/a', { isActive: true }], ['PUT', '/backends/a', { url: backend.url }], ['POST', '/backends', { id: 'a', url: backend.url }], ['POST', '/backends/a/drain', {}]] as const) {
    t.strictSame((await ask(method, path, body)).json(), refused(409, 'ADMIN_CONFLICT', "The backend 'a' of upstream 'default' is being removed"), `${method} ${path}`)
  }
  const cut = await ask('DELETE', '/backends/a?drain=false')
  t.match(cut.json(), { id: 'a', draining: false, remaining: 0 })
  t.equal((await client.response()).status, 503, 'what was in flight is aborted')
  t.equal((await ask('GET', '/backends/a')).statusCode, 404)
  for (const drain of ['x', '-1', '', '1e9', '9999999999']) t.match((await ask('DELETE', `/backends/a?drain=${drain}`)).json(), { statusCode: 400, message: `query.drain must be a number of milliseconds or false, and is '${drain}'` })
})

t.test('ids are what they are, however they are spelt', async t => {
  const rig = await adminRig(t)
  const ids = ['a/b', '100%', '%2e%2e', '../../etc', 'a b', 'ü', '日本', '😀', '?x=1#y', 'a;b', 'a:b', '*', ':id', '__proto__', 'constructor', 'toString', '<script>alert(1)</script>', '"quoted"', "it's", 'x'.repeat(100), '😀'.repeat(50), 'drain', 'check']
  for (const id of ids) {
    const added = await rig.ask('POST', '/backends', { id, url: NOWHERE, metadata: { id, '<b>': '</script>' } })
    t.equal(added.statusCode, 201, `${id} ${added.body}`)
    t.strictSame(added.json().metadata, { id, '<b>': '</script>' })
    const path = `/backends/${encodeURIComponent(id)}`
    t.equal((await rig.ask('GET', path)).json().id, id)
    t.equal((await rig.ask('PATCH', path, { weight: 7 })).json().weight, 7)
    t.equal((await rig.ask('GET', `/breaker/${encodeURIComponent(id)}`)).json().id, id)
    t.equal((await rig.ask('GET', `/health/${encodeURIComponent(id)}`)).json().id, id)
    t.match((await rig.ask('GET', path)).json().connections, { total: 0 })
    t.equal((await rig.ask('POST', `${path}/drain`)).json().id, id)
  }
  const list = await rig.ask('GET', '/backends')
  t.match(list.headers['content-type'], /^application\/json/, 'a browser shows no page of it')
  t.equal(list.headers['x-content-type-options'], 'nosniff')
  t.strictSame(list.json().backends.map(({ id }: { id: string }) => id), ids)
  t.strictSame(Object.keys({}.constructor.prototype), [], 'nothing has come into what all objects have')
  t.equal(({} as { weight?: unknown }).weight, undefined)
  for (const id of ids) t.equal((await rig.ask('DELETE', `/backends/${encodeURIComponent(id)}`)).statusCode, 200, id)
  t.strictSame(rig.proxy.listBackends(), [])
  for (const path of ['/backends/%', '/backends/%zz', '/backends/%ff']) t.equal((await rig.ask('GET', path)).statusCode, 400, path)
})

t.test('a longer path is a matter of the app: then ids may be as long as options let them', async t => {
  const rig = await adminRig(t, {}, true, { fastify: { routerOptions: { maxParamLength: 1000 } } })
  const id = 'x'.repeat(128)
  t.equal((await rig.ask('POST', '/backends', { id, url: NOWHERE })).statusCode, 201)
  t.equal((await rig.ask('GET', `/backends/${id}`)).statusCode, 200)
  t.match((await rig.ask('GET', `/backends/${id}x`)).json(), { statusCode: 400, message: /^params.id must be a string/ })
})

t.test('the option as Fastify had it once holds as well', async t => {
  const rig = await adminRig(t, {}, { plugins: ['backends'] }, { fastify: { maxParamLength: 50 } })
  t.match((await rig.ask('POST', '/backends', { id: 'x'.repeat(51), url: NOWHERE })).json(), { statusCode: 400, message: /^body.id must be a string of at most 50 characters/ })
  t.equal((await rig.ask('POST', '/backends', { id: 'x'.repeat(50), url: NOWHERE })).statusCode, 201)
  t.equal((await rig.ask('GET', `/backends/${'x'.repeat(50)}`)).statusCode, 200)
})

t.test('names that objects have by themselves are refused where they are', async t => {
  const rig = await adminRig(t, { backends: [{ id: 'a', url: NOWHERE }] })
  for (const [body, where] of [
    ['{"metadata":{"__proto__":{"x":1}}}', 'body.metadata.__proto__'], ['{"__proto__":{"weight":2}}', 'body.__proto__'], ['{"metadata":{"\\u005f_proto__":1}}', 'body.metadata.__proto__'],
    ['{"metadata":{"a":[{"b":1},{"__proto__":null}]}}', 'body.metadata.a[1].__proto__'], ['{"metadata":{"constructor":{"prototype":{"x":1}}}}', 'body.metadata.constructor.prototype'], ['[{"__proto__":1}]', 'body[0].__proto__']
  ]) t.strictSame((await rig.ask('PATCH', '/backends/a', body)).json(), refused(400, 'INVALID_REQUEST', `${where} is refused: objects have that name by themselves`))
  t.match((await rig.ask('PATCH', '/backends/a', '{"metadata":')).json(), { statusCode: 400, code: 'FST_ERR_CTP_INVALID_JSON_BODY' })
  t.equal(rig.proxy.getBackend('a').weight, 1)
  t.match((await rig.ask('PATCH', '/backends/a', { metadata: { constructor: 'x', prototype: 'y', says: '__proto__' } })).json(), { metadata: { constructor: 'x', prototype: 'y', says: '__proto__' } }, 'a word is no more than that')
  t.equal(({} as { x?: unknown }).x, undefined)
})

t.test('POST again is no answer where the backend is not active any more', async t => {
  const { ask } = await adminRig(t, { backends: [{ id: 'a', url: NOWHERE }, { id: 'off', url: NOWHERE, isActive: false }] })
  const duplicate = (id: string) => refused(409, 'DUPLICATE_BACKEND', `A backend with id '${id}' is already listed in upstream 'default'`)
  t.equal((await ask('POST', '/backends', { id: 'a', url: NOWHERE })).statusCode, 200)
  await ask('POST', '/backends/a/drain')
  t.strictSame((await ask('POST', '/backends', { id: 'a', url: NOWHERE })).json(), duplicate('a'))
  t.strictSame((await ask('POST', '/backends', { id: 'off', url: NOWHERE })).json(), duplicate('off'))
  t.equal((await ask('POST', '/backends', { id: 'off', url: NOWHERE, isActive: false })).statusCode, 200, 'it is as is said')
})

t.test('a drain is a change that If-Match sees', async t => {
  const backend = await rawBackend(t, () => {})
  const rig = await adminRig(t, { clock: newYear(), backends: [{ id: 'a', url: backend.url }], routes: [{ prefix: '/' }] })
  const { ask } = rig
  const client = await rig.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => backend.requests.length === 1)
  const tagOf = async () => (await ask('GET', '/backends/a')).headers.etag
  const before = await tagOf() as string
  const begun = await ask('POST', '/backends/a/drain', { timeout: 10_000 }, { 'if-match': before })
  t.equal(begun.statusCode, 202)
  const during = begun.headers.etag as string
  t.not(during, before)
  t.equal(during, await tagOf(), 'the answer has the new one')
  t.equal((await ask('PATCH', '/backends/a', { isActive: true }, { 'if-match': before })).statusCode, 412, 'whoever has not seen it does not call it off')
  t.equal((await ask('PATCH', '/backends/a', { weight: 7 }, { 'if-match': before })).statusCode, 412)
  t.match((await ask('GET', '/backends/a')).json(), { draining: true, weight: 1 })
  t.equal((await ask('POST', '/backends/a/drain', { timeout: 5_000 }, { 'if-match': during })).headers.etag, during, 'to be told again changes no option')
  const off = await ask('PATCH', '/backends/a', { isActive: true }, { 'if-match': during })
  t.match(off.json(), { draining: false })
  t.not(off.headers.etag, during)
  t.equal((await ask('PATCH', '/backends/a', { weight: 7 }, { 'if-match': during })).statusCode, 412, 'nor does whoever has not seen that it is called off')
  const removal = await ask('DELETE', '/backends/a')
  t.equal(removal.statusCode, 202)
  t.equal(removal.headers.etag, await tagOf())
  t.not(removal.headers.etag, off.headers.etag)
  const gone = await ask('DELETE', '/backends/a?drain=false')
  t.equal(gone.statusCode, 200)
  t.equal(gone.headers.etag, undefined, 'what is gone has none')
  await client.response()
})

t.test('that discovery takes a backend out and finds it again is a change too', async t => {
  const clock = newYear()
  const backend = await rawBackend(t, () => {})
  const [a, b] = [{ id: 'a', url: backend.url }, { id: 'b', url: backend.url }]
  let found = [a, b]
  const rig = await adminRig(t, { clock, discovery: { type: async () => found, interval: 1_000, jitter: 0 }, routes: [{ prefix: '/' }] })
  await until(() => rig.proxy.listBackends().length === 2)
  const client = await rig.connect()
  client.send('GET / HTTP/1.1\r\nHost: gateway\r\n\r\n')
  await until(() => backend.requests.length === 1)
  const one = rig.proxy.listBackends().find(({ inFlight }) => inFlight === 1)?.id as string
  const tagOf = async () => (await rig.ask('GET', `/backends/${one}`)).headers.etag
  const tags = [await tagOf()]
  for (const now of [[a, b].filter(({ id }) => id !== one), [a, b]]) {
    found = now
    clock.advance(1_000)
    await until(() => rig.proxy.getBackend(one).draining === (now.length === 1))
    tags.push(await tagOf())
  }
  t.equal(new Set(tags).size, 3, tags.join())
})

t.test('metadata of the application\'s own that JSON cannot tell is shown all the same', async t => {
  const circle: Record<string, unknown> = {}
  circle.self = circle
  const { ask } = await adminRig(t, { backends: [{ id: 'a', url: NOWHERE, metadata: { circle, big: 1n, call: () => 1, nothing: undefined, sym: Symbol('s'), date: new Date(0) }, healthCheck: { path: '/', expectedBody: /ok/i, headers: { a: 'b' } } }, { id: 'b', url: NOWHERE, healthCheck: { checker: () => true } }] })
  const { backends } = (await ask('GET', '/backends')).json()
  t.strictSame(backends[0].metadata, { circle: '<ref *1> { self: [Circular *1] }', big: '1n', call: 'function', sym: 'Symbol(s)', date: '1970-01-01T00:00:00.000Z' })
  t.strictSame(backends[0].healthCheck, { path: '/', expectedBody: '/ok/i', headers: { a: '***' } })
  t.strictSame(backends[1].healthCheck, { checker: 'function' })
})

t.test('Unix sockets, TLS and HTTP/2 by the same route', async t => {
  const { ask } = await adminRig(t)
  t.match((await ask('POST', '/backends', { url: 'unix:/run/app.sock:/base' })).json(), { id: 'unix:/run/app.sock:/base' })
  t.match((await ask('POST', '/backends', { id: 's', url: 'https://127.0.0.1:1', http2: 'auto', tls: { servername: 'app.example', rejectUnauthorized: false } })).json(), { http2: 'auto', tls: undefined })
  t.equal((await ask('POST', '/backends', { id: 's', url: 'https://127.0.0.1:1', http2: 'auto', tls: { servername: 'app.example', rejectUnauthorized: false } })).statusCode, 200, 'the same again')
  const bad = await ask('POST', '/backends', { id: 'x', url: 'https://127.0.0.1:1', tls: { ca: '-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----' } })
  t.equal(bad.statusCode, 400, bad.body)
  t.match(bad.json().code, 'FST_ROCKSTAR_INVALID_REQUEST')
})
