import Fastify from 'fastify'
import type { TSchema } from '@sinclair/typebox'
import { KindGuard } from '@sinclair/typebox'
import { inspect } from 'node:util'
import t from 'tap'
import { ProxyManager } from '../../lib/proxy-manager.ts'
import { resolveOptions } from '../../lib/options.ts'
import { ConnectionPool } from '../../lib/pool/index.ts'
import rockstarProxy, { RoundRobin } from '../../plugins/index.ts'
import { DEFAULT_METHODS, RockstarProxyOptionsSchema, TimeoutOptionsSchema, UpstreamOptionsSchema, type ForwardOptions, type RockstarProxyOptions } from '../../types/index.ts'
import { startGateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, rawBackend } from '../helpers/wire.ts'

const URL_1 = 'http://127.0.0.1:1'
const nothing = () => {}
const clock = new FakeClock()

/** The own way of reading a schema here: all properties of all closed objects, as paths from the top. */
function propertiesOf (schema: TSchema, path: string): string[] {
  if (KindGuard.IsUnion(schema)) return schema.anyOf.flatMap(variant => propertiesOf(variant, path))
  if (KindGuard.IsArray(schema)) return propertiesOf(schema.items, `${path}[0]`)
  if (!KindGuard.IsObject(schema) || schema.additionalProperties !== false) return []
  return Object.entries(schema.properties).flatMap(([key, property]) => {
    const inner = path === '' ? key : `${path}.${key}`
    return [inner, ...propertiesOf(property, inner)]
  })
}

/** Options that hold `value` at `path` and are right otherwise. */
function optionsWith (path: string, value: unknown): RockstarProxyOptions {
  const options: any = {}
  let at = options
  const keys = path.split(/[.[]/)
  keys.forEach((key, i) => {
    const name = key.endsWith(']') ? Number(key.slice(0, -1)) : key
    if (i === keys.length - 1) at[name] = value
    else {
      at[name] = keys[i + 1].endsWith(']') ? [] : keys[i] === '0]' && keys[i - 1] === 'backends' ? { url: URL_1 } : {}
      at = at[name]
    }
  })
  return options
}

interface Cases {
  good: unknown[]
  bad: unknown[]
  expected: string
}

const aBoolean: Cases = { good: [true, false], bad: ['yes', 1, null], expected: 'a boolean' }
const milliseconds: Cases = { good: [0, 1, 2.5, 86_400_000], bad: [-1, '5', NaN, Infinity, null, {}], expected: 'a number of at least 0' }
const aFunction: Cases = { good: [nothing], bad: [5, 'x', {}, null], expected: 'a function' }
const hook: Cases = { good: [nothing, [nothing, nothing], []], bad: [5, 'x', {}, [nothing, 5]], expected: 'a hook function or an array of them' }

const pool = (minimum: number): Cases => ({ good: [minimum, minimum + 1000], bad: [minimum - 1, minimum + 0.5, '100', null], expected: `an integer of at least ${minimum}` })

/** Of each option some values that are right, some that are wrong, and what is expected instead of those. */
const cases: Record<string, Cases> = {
  backends: { good: [[], [URL_1], [{ url: URL_1 }], [URL_1, { id: 'b', url: 'http://127.0.0.1:2' }]], bad: [URL_1, 5, null, {}], expected: 'an array' },
  'backends[0]': { good: [URL_1, { url: URL_1 }, { url: new URL(URL_1) }], bad: [5, '', null, true], expected: 'a URL string or an object with a url' },
  'backends[0].id': { good: ['a', 'ü', 'x'.repeat(128)], bad: ['', 5, null, 'x'.repeat(129)], expected: 'a string of at least 1 characters and of at most 128 characters' },
  'backends[0].url': { good: [URL_1, 'https://example.com/base/', new URL(URL_1)], bad: [undefined, '', 5, null, {}, []], expected: 'an http: or https: URL' },
  'backends[0].weight': { good: [0, 1, 65_535], bad: [-1, 65_536, 1.5, '1', NaN, Infinity, null], expected: 'an integer of at least 0 and of at most 65535' },
  'backends[0].isActive': aBoolean,
  'backends[0].metadata': { good: [{}, { zone: 'a', nested: { deep: [1] } }], bad: [[], 'x', null, 5], expected: 'an object' },
  balancer: { good: ['round-robin', { type: 'round-robin' }, { type: 'mine', select: nothing }, new RoundRobin()], bad: ['fastest', 5, false, null, nothing], expected: "one of 'round-robin', an object { type }, or a LoadBalancer with a select() method" },
  'balancer.type': { good: ['round-robin'], bad: ['fastest', undefined, 5], expected: "one of 'round-robin'" },
  timeout: { good: [{}, { connect: 1, headers: 2, idle: 3, request: 4 }], bad: [5, false, null, []], expected: 'an object' },
  'timeout.connect': milliseconds,
  'timeout.headers': milliseconds,
  'timeout.idle': milliseconds,
  'timeout.request': milliseconds,
  pool: { good: [{}, { connections: 3 }, new ConnectionPool()], bad: [5, 'x', true, null], expected: 'an object of pool options, or a ConnectionPool with dispatcherFor(), stats() and close()' },
  'pool.connections': pool(1),
  'pool.connectTimeout': pool(0),
  'pool.idleTimeout': pool(1),
  'pool.keepAliveMargin': pool(0),
  'pool.maxHeaderSize': pool(1024),
  preserveHost: aBoolean,
  forwarded: { good: [true, false, {}, { xForwarded: true, standard: false }], bad: ['yes', 1, null], expected: 'a boolean or an object { xForwarded, standard }' },
  'forwarded.xForwarded': aBoolean,
  'forwarded.standard': aBoolean,
  via: { good: ['edge-1', "!#$%&'*+.^_`|~", false], bad: [true, '', 'two words', 'x\r\ny', 5, null], expected: 'a token or false' },
  upstreams: { good: [{}, { a: {} }, { 'a/b.c~d': { backends: [URL_1] } }], bad: [[], 'a', 5, null], expected: 'an object' },
  routes: { good: [[], [{}], [{ prefix: '/a' }, { prefix: '/b' }]], bad: [{}, '/a', 5, null], expected: 'an array' },
  'routes[0]': { good: [{}], bad: [5, '/a', null, []], expected: 'an object' },
  'routes[0].prefix': { good: ['/', '', '/users/:id'], bad: [5, null, {}], expected: 'a string' },
  'routes[0].rewritePrefix': { good: ['', '/people/:id'], bad: [5, null, {}], expected: 'a string' },
  'routes[0].methods': { good: [['GET'], [...DEFAULT_METHODS, 'propfind']], bad: [[], 'GET', null], expected: 'an array of at least 1 item' },
  'routes[0].methods[0]': { good: ['GET'], bad: ['', 5, null], expected: 'a string of at least 1 characters' },
  'routes[0].constraints': { good: [{}, { host: 'example.com' }], bad: [5, 'x', null], expected: 'an object' },
  'routes[0].upstream': { good: ['a', nothing, async () => 'a'], bad: ['', 5, {}, null], expected: 'the name of an upstream or a function that returns one' },
  'routes[0].timeout': { good: [{}, { headers: 5 }], bad: [5, null, []], expected: 'an object' },
  'routes[0].timeout.connect': milliseconds,
  'routes[0].timeout.headers': milliseconds,
  'routes[0].timeout.idle': milliseconds,
  'routes[0].timeout.request': milliseconds,
  'routes[0].preserveHost': aBoolean,
  'routes[0].rewriteRequestHeaders': aFunction,
  'routes[0].rewriteHeaders': aFunction,
  'routes[0].onResponse': aFunction,
  'routes[0].onError': aFunction,
  'routes[0].internalRewriteLocationHeader': aBoolean,
  'routes[0].onRequest': hook,
  'routes[0].preParsing': hook,
  'routes[0].preValidation': hook,
  'routes[0].preHandler': hook,
  'routes[0].onSend': hook,
  'routes[0].onTimeout': hook,
  'routes[0].onRequestAbort': hook,
  'routes[0].config': { good: [{}, { mine: 1 }], bad: [5, 'x', null], expected: 'an object' },
  'routes[0].logLevel': { good: ['debug', 'silent'], bad: [5, null, {}], expected: 'a string' },
  shutdownTimeout: milliseconds,
  clock: { good: [clock], bad: [5, 'x', null], expected: 'a Clock with now(), wall(), setTimeout() and clearTimeout()' }
}

/** What creating a manager throws; undefined when it is content. */
function refusal (options: unknown): (Error & { code: string, statusCode: number }) | undefined {
  try {
    const manager = new ProxyManager(options as RockstarProxyOptions)
    manager.close()
  } catch (error) {
    return error as Error & { code: string, statusCode: number }
  }
  return undefined
}

/** A value as an options error shows it. */
const shown = (value: unknown) => value === undefined ? 'nothing' : inspect(value, { depth: 0, breakLength: Infinity, maxStringLength: 80 })

t.test('the cases below cover every option there is', t => {
  const missing = propertiesOf(RockstarProxyOptionsSchema, '').filter(path => !(path in cases))
  t.strictSame(missing, [], 'an option without good and bad values here')
  t.end()
})

t.test('every good value of every option is accepted', t => {
  for (const [path, { good }] of Object.entries(cases)) {
    const refusals = good.map(value => [value, refusal(optionsWith(path, value))?.message]).filter(([, message]) => message !== undefined)
    t.strictSame(refusals, [], path)
  }
  t.end()
})

t.test('every bad value of every option is refused with its path, its value and what is expected', t => {
  for (const [path, { bad, expected }] of Object.entries(cases)) {
    for (const value of bad) {
      const error = refusal(optionsWith(path, value))
      const text = `${path}: ${shown(value)}`
      if (error === undefined) {
        t.fail(`${text} was accepted`)
        continue
      }
      t.equal(error.code, 'FST_ROCKSTAR_INVALID_OPTIONS', text)
      t.ok(error.message.startsWith(`options.${path}`), `${text} names its path`, { found: error.message })
      t.ok(error.message.includes(`must be ${expected}`), `${text} says what is expected`, { found: error.message })
      t.ok(error.message.endsWith(`, and is ${shown(value)}`), `${text} shows its value`, { found: error.message })
    }
  }
  t.end()
})

t.test('the error names the one wrong thing among many right ones', t => {
  t.match(refusal({ backends: [URL_1, { id: 'b', url: 'http://127.0.0.1:2', weight: -3 }], routes: [{}] }), {
    code: 'FST_ROCKSTAR_INVALID_OPTIONS',
    message: 'options.backends[1].weight must be an integer of at least 0 and of at most 65535, and is -3'
  })
  t.equal(refusal({ routes: [{}, { preHandler: [nothing, 5] }] })?.message.split(',')[0], 'options.routes[1].preHandler must be a hook function or an array of them')
  t.equal(refusal({ clock: { now: nothing, wall: nothing, setTimeout: nothing } })?.message, 'options.clock.clearTimeout must be a Function, and is nothing')
  t.end()
})

t.test('options that are no object are refused', t => {
  for (const value of [undefined, null, 5, 'x', []]) {
    t.match(refusal(value), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: `options must be an object, and is ${shown(value)}` })
  }
  t.end()
})

t.test('a misspelt key is refused with the nearest known one, wherever it stands', t => {
  for (const path of propertiesOf(RockstarProxyOptionsSchema, '')) {
    if (path.endsWith(']')) continue
    const key = path.slice(path.lastIndexOf('.') + 1)
    const misspelt = `${path.slice(0, path.length - key.length)}${key}x`
    const error = refusal(optionsWith(misspelt, 1))
    t.equal(error?.code, 'FST_ROCKSTAR_INVALID_OPTIONS', misspelt)
    // `type` is missed before its misspelling is looked at: either tells.
    t.ok(error?.message === `options.${misspelt} is not an option; did you mean '${key}'?` || path === 'balancer.type', misspelt, { found: error?.message })
  }
  t.end()
})

t.test('the nearest known key is told whatever the mistake was', t => {
  for (const [wrong, right] of [['bakends', 'backends'], ['Balancer', 'balancer'], ['upsteams', 'upstreams'], ['preserve_host', 'preserveHost'], ['time-out', 'timeout'], ['rotues', 'routes'], ['shutdowntimeout', 'shutdownTimeout']]) {
    t.equal(refusal({ [wrong]: 1 })?.message, `options.${wrong} is not an option; did you mean '${right}'?`)
  }
  t.equal(refusal({ zzzzzzzzzz: 1 })?.message, 'options.zzzzzzzzzz is not an option', 'nothing is made up where nothing is near')
  t.equal(refusal({ constructor: 1 })?.code, 'FST_ROCKSTAR_INVALID_OPTIONS', 'what every object inherits is no option')
  t.end()
})

t.test('a named upstream takes the same options, and its errors name it', t => {
  for (const path of propertiesOf(UpstreamOptionsSchema, '')) {
    const { good, bad } = cases[path]
    for (const value of good) t.equal(refusal(optionsWith(`upstreams.other.${path}`, value)), undefined, `upstreams.other.${path}: ${shown(value)}`)
    for (const value of bad) {
      if (path.startsWith('backends[0].') && value === undefined) continue
      const error = refusal(optionsWith(`upstreams.other.${path}`, value))
      t.match(error, { code: 'FST_ROCKSTAR_INVALID_OPTIONS' }, `upstreams.other.${path}: ${shown(value)}`)
      t.ok(error?.message.startsWith(`options.upstreams.other.${path.split(/[.[]/)[0]}`), 'with its path', { found: error?.message })
    }
  }
  for (const key of ['routes', 'upstreams', 'shutdownTimeout', 'clock']) {
    t.match(refusal({ upstreams: { other: { [key]: undefined } } })?.message ?? '', `options.upstreams.other.${key} is not an option`, `${key} is for the root alone`)
  }
  t.match(refusal({ upstreams: { 'a/b~c': { backend: [] } } }), { message: "options.upstreams.a/b~c.backend is not an option; did you mean 'backends'?" })
  t.end()
})

t.test('an upstream without a name is refused, as addUpstream() refuses it', t => {
  t.match(refusal({ upstreams: { '': {} } }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS' })
  t.end()
})

t.test('what is not given is as the defaults say, and what is undefined counts as not given', t => {
  const allUndefined = Object.fromEntries(propertiesOf(RockstarProxyOptionsSchema, '').filter(path => !/[.[]/.test(path)).map(key => [key, undefined]))
  for (const given of [{}, allUndefined]) {
    const { options, state } = new ProxyManager(given)
    t.match(options, { backends: [], balancer: 'round-robin', preserveHost: false, forwarded: true, via: 'rockstar-proxy', upstreams: {}, routes: [], shutdownTimeout: 10_000 })
    t.strictSame({ ...state.timeouts }, { connect: 10_000, headers: 30_000, idle: 60_000, request: 30_000 })
    t.equal(state.via, 'rockstar-proxy')
    t.strictSame({ ...state.forwarded }, { xForwarded: true, standard: true })
    t.strictSame({ ...(state.pool as ConnectionPool).options }, { connections: 100, connectTimeout: 10_000, idleTimeout: 90_000, keepAliveMargin: 1_000, maxHeaderSize: 16_384 })
    t.equal(state.balancer.type, 'round-robin')
  }
  t.end()
})

t.test('a part of an object leaves the rest of it as the defaults say', t => {
  const { state } = new ProxyManager({ timeout: { idle: 7 }, pool: { connections: 2 }, forwarded: { standard: false } })
  t.strictSame({ ...state.timeouts }, { connect: 10_000, headers: 30_000, idle: 7, request: 30_000 })
  t.match((state.pool as ConnectionPool).options, { connections: 2, idleTimeout: 90_000 })
  t.strictSame({ ...state.forwarded }, { xForwarded: true, standard: false })
  t.end()
})

t.test('0 and false are values, not gaps', t => {
  const { options, state } = new ProxyManager({
    shutdownTimeout: 0,
    via: false,
    forwarded: false,
    timeout: { connect: 0, headers: 0, idle: 0, request: 0 },
    pool: { connectTimeout: 0, keepAliveMargin: 0 },
    backends: [{ url: URL_1, weight: 0, isActive: false }]
  })
  t.equal(options.shutdownTimeout, 0)
  t.equal(state.via, null)
  t.strictSame({ ...state.forwarded }, { xForwarded: false, standard: false })
  t.strictSame({ ...state.timeouts }, { connect: 0, headers: 0, idle: 0, request: 0 })
  t.match((state.pool as ConnectionPool).options, { connectTimeout: 0, keepAliveMargin: 0 })
  t.match(state.list()[0], { weight: 0, isActive: false })
  t.end()
})

t.test('defaults are not shared between managers', t => {
  const first = new ProxyManager({ backends: [{ url: URL_1 }] }).options
  first.routes?.push({ prefix: '/mine' })
  t.strictSame(new ProxyManager({}).options.routes, [])
  t.end()
})

t.test('resolveOptions() leaves its argument alone and gives a copy', t => {
  const given = Object.freeze({ connect: 5 })
  const resolved = resolveOptions(TimeoutOptionsSchema, given, 'timeout')
  t.not(resolved, given)
  t.strictSame(given, { connect: 5 })
  t.strictSame(resolved, { connect: 5, headers: 30_000, idle: 60_000, request: 30_000 })
  t.end()
})

// An instance is told by its methods, wherever they stand: in a class they are not its own properties.

t.test('an instance of a load balancer is used itself, whatever it is made of', t => {
  class Getter {
    get type () { return 'getter' }
    select () { return undefined }
  }
  class SameType {
    readonly type = 'round-robin'
    select () { return undefined }
  }
  class Extended extends RoundRobin {
    override select () { return undefined }
  }
  for (const balancer of [{ type: 'mine', select: () => undefined }, new Getter(), new RoundRobin(), new SameType(), new Extended()]) {
    t.equal(new ProxyManager({ balancer }).getLoadBalancer(), balancer, `as an option: ${balancer.constructor.name} '${balancer.type}'`)
    const manager = new ProxyManager({})
    manager.setLoadBalancer(balancer)
    t.equal(manager.getLoadBalancer(), balancer, `by the setter: ${balancer.constructor.name} '${balancer.type}'`)
  }
  t.end()
})

t.test('an instance of a connection pool is used itself, whatever it is made of', t => {
  const unused = () => { throw new Error('unused') }
  class Methods {
    dispatcherFor (): never { return unused() }
    stats (): never { return unused() }
    async close () {}
  }
  class Extended extends ConnectionPool {}
  for (const pool of [{ dispatcherFor: unused, stats: unused, close: async () => {} }, new ConnectionPool(), new Extended(), new Methods()]) {
    t.equal(new ProxyManager({ pool }).getConnectionPool(), pool, `as an option: ${pool.constructor.name}`)
    const manager = new ProxyManager({})
    manager.setConnectionPool(pool)
    t.equal(manager.getConnectionPool(), pool, `by the setter: ${pool.constructor.name}`)
  }
  t.end()
})

// The password of a URL must reach no log, however clumsily the URL was written.

t.test('no password of a URL appears in an error', t => {
  const urls = [
    'http://user:hunter2@127.0.0.1:1', 'http://:hunter2@127.0.0.1', 'http://hunter2@127.0.0.1',
    'http://user:x@hunter2@127.0.0.1', 'http://user:x/hunter2@127.0.0.1', 'http://user:hunter2@', 'http://user:hunter2@[::x]',
    'http:\\\\user:hunter2@127.0.0.1', 'http:user:hunter2@127.0.0.1', 'http:/user:hunter2@127.0.0.1', 'user:hunter2@127.0.0.1', 'ftp://user:hunter2@127.0.0.1',
    ' http://user:hunter2@127.0.0.1'
  ]
  for (const url of urls) {
    for (const options of [{ backends: [url] }, { backends: [{ url }] }]) {
      const error = refusal(options)
      t.equal(error?.code, 'FST_ROCKSTAR_INVALID_OPTIONS', url)
      t.notMatch(error?.message, /hunter2/, url)
    }
  }
  const url = new URL('http://user:hunter2@127.0.0.1')
  for (const [place, options] of Object.entries({
    'a URL object': { backends: [{ url }] },
    'a URL object in place of the options': { backends: [url] },
    'the array forgotten': { backends: url.href },
    'the array forgotten, an object': { backends: { url: url.href } },
    'a URL object without an array': { backends: url },
    'an array in the array': { backends: [[url.href]] },
    'an upstream in place of its options': { upstreams: { other: url.href } }
  })) {
    t.match(refusal(options), { code: 'FST_ROCKSTAR_INVALID_OPTIONS' }, place)
    t.notMatch(refusal(options)?.message, /hunter2/, place)
  }
  t.end()
})

// At register

t.test('register rejects with the error, and the app has no proxy', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await t.rejects(async () => await app.register(rockstarProxy, { backends: [{ url: URL_1, weight: -1 }] }), {
    code: 'FST_ROCKSTAR_INVALID_OPTIONS',
    statusCode: 500,
    message: 'options.backends[0].weight must be an integer of at least 0 and of at most 65535, and is -1'
  })
})

/** Freezes what is plain, all the way down: touching it then throws. */
function deepFrozen<T> (value: T): T {
  if (typeof value !== 'object' || value === null || ![Object.prototype, Array.prototype].includes(Object.getPrototypeOf(value))) return value
  for (const inner of Object.values(value)) deepFrozen(inner)
  return Object.freeze(value)
}

t.test('the objects of the caller are never changed: all of them may be frozen', async t => {
  const backend = await rawBackend(t, () => ok('frozen'))
  const metadata = { zone: 'a', nested: { list: [1, 2] } }
  const options = deepFrozen<RockstarProxyOptions>({
    backends: [backend.url, { id: 'b', url: new URL(backend.url), weight: 3, metadata }],
    balancer: { type: 'round-robin' },
    timeout: { connect: 1_000 },
    pool: { connections: 2 },
    forwarded: { standard: false },
    upstreams: { other: { backends: [{ url: backend.url, weight: 2 }], timeout: {}, forwarded: {} } },
    routes: [{ prefix: '/api', methods: ['GET'], timeout: { idle: 5_000 }, config: { mine: 1 }, preHandler: [(_request, _reply, done) => done()], rewriteHeaders: headers => headers }],
    shutdownTimeout: 0
  })
  const before = inspect(options, { depth: 9 })
  const call = deepFrozen<ForwardOptions>({ path: '/x', timeout: { headers: 1_000 }, rewriteRequestHeaders: (_request, headers) => headers })
  const gateway = await startGateway(t, options, {
    setup: app => {
      app.get('/call', (request, reply) => app.proxy.forward(request, reply, call))
      app.get('/capture', async request => (await app.proxy.forward(request, undefined, call)).text())
    }
  })
  const { proxy } = gateway.app
  for (const path of ['/api/a', '/call', '/capture']) t.equal((await gateway.app.inject(path)).body, 'frozen', path)

  proxy.addBackend(deepFrozen({ id: 'c', url: backend.url, metadata: { a: 1 } }))
  proxy.updateBackend('c', deepFrozen({ weight: 4, metadata: { b: 2 } }))
  proxy.addUpstream('third', deepFrozen({ backends: [backend.url], timeout: { idle: 1 } }))
  proxy.setLoadBalancer(deepFrozen({ type: 'round-robin' as const }))
  proxy.setConnectionPool(deepFrozen({ connections: 1 }))
  await proxy.removeBackend('c', deepFrozen({ drain: { timeout: 10 } }))
  await proxy.removeUpstream('third', deepFrozen({ drain: { timeout: 10 } }))
  t.equal((await gateway.app.inject('/api/a')).body, 'frozen')
  t.equal(inspect(options, { depth: 9 }), before)
  t.strictSame(proxy.getBackend('b').metadata, metadata)
})

t.test('a change of the caller\'s object after it was given changes nothing', t => {
  const metadata: Record<string, unknown> = { a: 1 }
  const url = new URL(URL_1)
  const options = { backends: [{ id: 'b', url, weight: 2, metadata }], timeout: { idle: 5 } }
  const manager = new ProxyManager(options)
  metadata.a = 2
  url.port = '99'
  options.backends[0].weight = 9
  options.timeout.idle = 9
  t.match(manager.getBackend('b'), { weight: 2, metadata: { a: 1 } })
  t.equal(manager.getBackend('b').url.href, `${URL_1}/`)
  t.equal(manager.state.timeouts.idle, 5)
  t.end()
})

t.test('options are read when the plugin is registered, and never again for a request', async t => {
  const backend = await rawBackend(t, () => ok())
  let reads = 0
  const counted = <T extends object>(object: T): T => new Proxy(object, {
    get: (target, key, receiver) => {
      reads++
      return Reflect.get(target, key, receiver)
    }
  })
  const gateway = await startGateway(t, {
    backends: [counted({ url: backend.url, weight: 1 })],
    timeout: counted({ idle: 1_000 }),
    pool: counted({ connections: 4 }),
    routes: [counted({ prefix: '/api', rewritePrefix: '/x', timeout: counted({ idle: 2_000 }), preserveHost: true })]
  })
  const atRegister = reads
  t.ok(atRegister > 0, 'they were read')
  for (let i = 0; i < 5; i++) t.equal((await gateway.app.inject('/api/a')).statusCode, 200)
  t.equal(reads, atRegister)
})
