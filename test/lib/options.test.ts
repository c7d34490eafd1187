import Fastify from 'fastify'
import type { TObject, TSchema } from '@sinclair/typebox'
import { KindGuard } from '@sinclair/typebox'
import { inspect } from 'node:util'
import { Registry } from 'prom-client'
import t from 'tap'
import { Agent } from 'undici'
import { ProxyManager } from '../../lib/proxy-manager.ts'
import { resolveOptions } from '../../lib/options.ts'
import { ConnectionPool } from '../../lib/pool/index.ts'
import rockstarProxy, { CircuitBreaker, IpHash, LeastRequests, Maglev, P2c, PeakEwma, Random, Rendezvous, RingHash, RoundRobin } from '../../plugins/index.ts'
import {
  BalancerSchema, BreakerOptionsSchema, DEFAULT_METHODS, HealthCheckOverridesSchema, HealthOptionsSchema, OutlierOptionsSchema, RockstarProxyOptionsSchema, TimeoutOptionsSchema, UpstreamOptionsSchema,
  type BalancerType, type BreakerOptions, type ForwardOptions, type RockstarProxyOptions, type SelectContext, type UpstreamOptions
} from '../../types/index.ts'
import { startGateway } from '../helpers/app.ts'
import { Authority } from '../helpers/certificates.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, rawBackend } from '../helpers/wire.ts'

const URL_1 = 'http://127.0.0.1:1'
const SECRET = 'a secret of the test'
const BALANCERS = ['round-robin', 'weighted-round-robin', 'random', 'least-requests', 'p2c', 'peak-ewma', 'ip-hash', 'ring-hash', 'maglev', 'rendezvous']
const ONE_OF = `one of ${BALANCERS.map(type => `'${type}'`).join(', ')}`
const RULES = ['consecutive', 'failure-rate', 'slow-rate']
const nothing = () => {}
const clock = new FakeClock()
const authority = new Authority(t)
const identity = authority.issue()

/**
 * The own way of reading a schema here: all properties of all closed objects, as paths from the top. Where a union has several of
 * them, `{…}` says which is meant: by its `type`, else by its first property.
 */
function propertiesOf (schema: TSchema, path: string): string[] {
  if (KindGuard.IsUnion(schema)) {
    const objects = schema.anyOf.filter(isClosed)
    return objects.flatMap(object => propertiesOf(object, objects.length === 1 ? path : `${path}{${object.properties.type?.const ?? Object.keys(object.properties)[0]}}`))
  }
  if (KindGuard.IsArray(schema)) return propertiesOf(schema.items, `${path}[0]`)
  if (!isClosed(schema)) return []
  return Object.entries(schema.properties).flatMap(([key, property]) => {
    const inner = path === '' ? key : `${path}.${key}`
    return [inner, ...propertiesOf(property, inner)]
  })
}

function isClosed (schema: TSchema): schema is TObject {
  return KindGuard.IsObject(schema) && schema.additionalProperties === false
}

/** What the objects at these paths cannot do without. */
const needed: [RegExp, object][] = [
  [/(?:^|\.)discovery$/, { type: nothing }],
  [/backends\[0\]$/, { url: URL_1 }],
  [/weights$/, { from: 'latency' }],
  [/affinity$/, { secret: SECRET }],
  // One without the other means nothing.
  [/tls$/, { cert: identity.cert, key: identity.key }],
  [/split\[0\]$/, { match: {} }],
  [/mirror$/, { upstream: 'default' }],
  // Some of what a check asks for it can only ask for by HTTP.
  [/(?:health|healthCheck)$/, { path: '/' }]
]

/** What an object has to hold beside what a test puts into it. @param step the last one of its path */
function besides (path: string, step: string): object {
  const [, variant] = /\{(.+)\}$/.exec(step) ?? []
  if (variant === 'statusCode') return { statusCode: 503 }
  if (variant !== undefined) return { [BALANCERS.includes(variant) || RULES.includes(variant) ? 'type' : variant]: variant }
  return { ...needed.find(([place]) => place.test(path))?.[1] }
}

/** Options that hold `value` at `path` and are right otherwise. @param lone whether what holds the value holds nothing else */
function optionsWith (path: string, value: unknown, lone = false): RockstarProxyOptions {
  const options: any = {}
  let at = options
  let read = ''
  const steps = path.split(/(?=\[)|\./)
  steps.forEach((step, i) => {
    const key = step.replace(/^\[|[\]{].*$/g, '')
    read += step.startsWith('[') ? step : `.${step}`
    // It wants something to ask for.
    if (step === 'discovery') at.backends = ['http://_http._tcp.a.internal']
    if (i === steps.length - 1) at[key] = value
    else if (steps[i + 1].startsWith('[')) at[key] = []
    else at[key] = lone && i === steps.length - 2 ? {} : besides(read, step)
    at = at[key]
  })
  return options
}

/** A path as an error tells it. */
const told = (path: string) => path.replaceAll(/\{.*?\}/g, '')

interface Cases {
  good: unknown[]
  bad: unknown[]
  expected: string
  /** Whether no value may be shown, but a boolean. */
  secret?: boolean
}

const aBoolean: Cases = { good: [true, false], bad: ['yes', 1, null], expected: 'a boolean' }
const milliseconds: Cases = { good: [0, 1, 2.5, 86_400_000], bad: [-1, '5', NaN, Infinity, null, {}], expected: 'a number of at least 0' }
const aFunction: Cases = { good: [nothing], bad: [5, 'x', {}, null], expected: 'a function' }
const hook: Cases = { good: [nothing, [nothing, nothing], []], bad: [5, 'x', {}, [nothing, 5]], expected: 'a hook function or an array of them' }

const pool = (minimum: number): Cases => ({ good: [minimum, minimum + 1000], bad: [minimum - 1, minimum + 0.5, '100', null], expected: `an integer of at least ${minimum}` })

const aName: Cases = { good: ['a', 'ü b'], bad: ['', 5, null, {}], expected: 'a string of at least 1 characters' }
const aboveZero: Cases = { good: [0.001, 1, 86_400_000], bad: [0, -1, '5', NaN, Infinity, null], expected: 'a number above 0' }
const integer = (minimum: number, maximum: number): Cases => ({
  good: [minimum, minimum + 1, maximum],
  bad: [minimum - 1, maximum + 1, minimum + 0.5, String(minimum), NaN, Infinity, null],
  expected: `an integer of at least ${minimum} and of at most ${maximum}`
})
const match: Cases = {
  good: [{}, { version: 'v2' }, { version: ['v1', 2, true], canary: false, tier: 3 }],
  bad: [[], 'v2', 5, null, undefined],
  expected: 'an object of strings, numbers, booleans, or arrays of them'
}
const key: Cases = {
  good: ['ip', 'path', { header: 'x-user' }, { cookie: 'sid' }, { query: 'q' }, nothing],
  bad: ['url', 5, true, null, {}, [], { header: 'a', cookie: 'b' }],
  expected: "'ip', 'path', { header }, { cookie }, { query } or a function"
}
const aToken: Cases = { good: ['x-user', 'X_User', "!#$%&'*+.^_`|~"], bad: ['', 'two words', 'a=b', 'x\r\ny', 5, null, undefined], expected: 'a name' }
/** The same option in different places. */
const keysAt = (path: string): Record<string, Cases> => ({
  [path]: key,
  [`${path}{header}.header`]: aToken,
  [`${path}{cookie}.cookie`]: aToken,
  [`${path}{query}.query`]: aName
})
const hashCases: Record<string, Cases> = {
  ...keysAt('key'),
  missing: { good: ['random', 'ip'], bad: ['none', 5, false, null], expected: "'random' or 'ip'" },
  boundedLoad: { good: [1, 1.25, 100, false], bad: [0.99, 0, true, '1.25', NaN, Infinity, null], expected: 'a number of at least 1 or false' }
}
const policyCases: Record<string, Record<string, Cases>> = {
  'least-requests': {
    fullScanLimit: { good: [0, 1, 1_000], bad: [-1, 0.5, '32', NaN, Infinity, null], expected: 'an integer of at least 0' },
    choices: integer(2, 16),
    bias: { good: [0, 0.5, 10], bad: [-0.1, 10.1, '1', NaN, null], expected: 'a number of at least 0 and of at most 10' }
  },
  'peak-ewma': { decay: aboveZero, penalty: milliseconds },
  'ip-hash': { boundedLoad: hashCases.boundedLoad },
  'ring-hash': { ...hashCases, points: integer(1, 65_536), probes: integer(1, 64), minRingSize: integer(1, 1_048_576), maxRingSize: integer(1_024, 8_388_608) },
  maglev: { ...hashCases, tableSize: integer(2, 5_000_011) },
  rendezvous: hashCases
}
const balancerCases: Record<string, Cases> = Object.fromEntries(BALANCERS.flatMap(type => [
  [`balancer{${type}}.type`, { good: [type], bad: ['fastest', 5, null, undefined], expected: ONE_OF }],
  ...Object.entries(policyCases[type] ?? {}).map(([option, cases]) => [`balancer{${type}}.${option}`, cases])
]))

const whole = (minimum: number): Cases => ({ good: [minimum, minimum + 1, 100_000], bad: [minimum - 1, minimum + 0.5, String(minimum), NaN, Infinity, null], expected: `an integer of at least ${minimum}` })
const number = (minimum: number): Cases => ({ good: [minimum, minimum + 0.5, 86_400_000], bad: [minimum - 0.1, String(minimum), NaN, Infinity, null], expected: `a number of at least ${minimum}` })
const numberTo = (maximum: number): Cases => ({ good: [0, maximum / 2, maximum], bad: [-0.1, maximum + 0.1, '0', false, NaN, null], expected: `a number of at least 0 and of at most ${maximum}` })
const part: Cases = { good: [0.001, 0.5, 1], bad: [0, 1.01, 50, '0.5', NaN, null], expected: 'a number above 0, at most 1' }
const windowCases = (rule: string): Record<string, Cases> => ({
  [`breaker.rules[0]{${rule}}.threshold`]: part,
  [`breaker.rules[0]{${rule}}.window`]: number(10),
  [`breaker.rules[0]{${rule}}.minimumRequests`]: whole(1)
})
const breakerCases: Record<string, Cases> = {
  breaker: {
    good: [true, false, {}, { threshold: 5, timeout: 30_000 }, new CircuitBreaker(), { type: 'mine', createCircuit: nothing }],
    bad: ['yes', 5, nothing, [], null],
    expected: 'a boolean, an object of options, or a CircuitBreaker with a createCircuit() method'
  },
  'breaker.threshold': whole(1),
  'breaker.rules': { good: [[], [{ type: 'consecutive' }], RULES.map(type => ({ type })), [nothing]], bad: [{}, 'consecutive', nothing, 5, null], expected: 'an array' },
  'breaker.rules[0]': {
    good: [{ type: 'failure-rate' }, nothing],
    bad: ['consecutive', 5, true, null],
    expected: "an object { type: 'consecutive' | 'failure-rate' | 'slow-rate', … } or a function that makes a TripRule"
  },
  ...Object.fromEntries(RULES.map(type => [`breaker.rules[0]{${type}}.type`, { good: [type], bad: ['fastest', 5, null, undefined], expected: `one of ${RULES.map(rule => `'${rule}'`).join(', ')}` }])),
  'breaker.rules[0]{consecutive}.threshold': whole(1),
  ...windowCases('failure-rate'),
  ...windowCases('slow-rate'),
  'breaker.rules[0]{slow-rate}.slowThreshold': aboveZero,
  'breaker.timeout': number(1),
  'breaker.maxTimeout': { ...number(1), good: [30_000, 86_400_000] },
  'breaker.jitter': numberTo(1),
  'breaker.halfOpenRequests': whole(1),
  'breaker.successThreshold': whole(1),
  'breaker.isFailure': aFunction
}
const checkCases = (path: string): Record<string, Cases> => ({
  [`${path}.path`]: { good: ['/', '/health?full=1'], bad: ['', 'health', 'http://a/', 5, null], expected: 'a path that begins with /' },
  [`${path}.method`]: { good: ['GET', 'HEAD', 'OPTIONS'], bad: ['', 'get', 'G T', 5, null], expected: 'a method in capitals' },
  [`${path}.headers`]: { good: [{}, { accept: 'text/plain', 'x-a': '' }], bad: [[], 'x: y', 5, null], expected: 'an object' },
  [`${path}.host`]: { good: ['api.example', 'api.example:8080', '[::1]:80'], bad: ['', 'ü b', 'a\r\nb: c', 'a b', 5, null, {}], expected: 'a host, perhaps with a port' },
  [`${path}.port`]: integer(1, 65_535),
  [`${path}.expectedStatus`]: { good: [[200], [[200, 299], 404]], bad: [[], 200, '200', {}, null], expected: 'an array of statuses and of ranges [first, last]' },
  [`${path}.expectedStatus[0]`]: { good: [100, 599, [200, 299]], bad: [99, 600, 200.5, '200', [200], [200, 299, 300], [200, 600], null], expected: 'a status of 100 to 599, or a range [first, last] of such' },
  [`${path}.expectedBody`]: { good: ['ok', /ok/i], bad: ['', 5, true, {}, [], null], expected: 'a string or a RegExp' },
  [`${path}.checker`]: aFunction,
  [`${path}.interval`]: number(10),
  [`${path}.unhealthyInterval`]: number(10),
  [`${path}.timeout`]: number(1),
  [`${path}.jitter`]: numberTo(1),
  [`${path}.rise`]: whole(1),
  [`${path}.fall`]: whole(1),
  [`${path}.initial`]: { good: ['healthy', 'unhealthy', 'check-first'], bad: ['well', '', true, null], expected: "'healthy', 'unhealthy' or 'check-first'" }
})
const healthCases: Record<string, Cases> = {
  health: { good: [true, false, {}, { path: '/health' }], bad: ['/health', 5, nothing, [], null], expected: 'a boolean or an object of options' },
  ...checkCases('health'),
  'health.concurrency': whole(1),
  'health.minHealthy': whole(0),
  'health.readyTimeout': number(1),
  'backends[0].healthCheck': { good: [{}, { path: '/ready' }], bad: [true, false, '/ready', 5, [], null], expected: 'an object' },
  ...checkCases('backends[0].healthCheck')
}
const outlierCases: Record<string, Cases> = {
  outlier: { good: [true, false, {}, { consecutiveFailures: 3 }], bad: ['yes', 5, [], null], expected: 'a boolean or an object of options' },
  'outlier.consecutiveFailures': whole(0),
  'outlier.splitLocalErrors': aBoolean,
  'outlier.consecutiveLocalErrors': whole(0),
  'outlier.successRate': { good: [false, {}, { stdevFactor: 1 }], bad: [true, 1.9, 'x', [], null], expected: 'false or an object' },
  'outlier.successRate.stdevFactor': number(0),
  'outlier.successRate.minimumHosts': whole(1),
  'outlier.successRate.requestVolume': whole(1),
  'outlier.failurePercentage': { good: [false, {}, { threshold: 50 }], bad: [true, 85, 'x', [], null], expected: 'false or an object' },
  'outlier.failurePercentage.threshold': numberTo(100),
  'outlier.failurePercentage.minimumHosts': whole(1),
  'outlier.failurePercentage.requestVolume': whole(1),
  'outlier.interval': number(10),
  'outlier.baseEjectionTime': number(1),
  'outlier.maxEjectionTime': number(1),
  'outlier.maxEjectionPercent': numberTo(100)
}

const orOptions = 'a boolean or an object of options'
const retryCasesAt = (path: string): Record<string, Cases> => ({
  [path]: { good: [true, false, {}, { attempts: 2 }], bad: ['yes', 3, [], null], expected: orOptions },
  [`${path}.attempts`]: whole(1),
  [`${path}.methods`]: { good: [[], ['GET', 'POST']], bad: ['GET', {}, null], expected: 'an array' },
  [`${path}.statuses`]: { good: [[], [429, 503]], bad: [503, {}, null], expected: 'an array' },
  [`${path}.on`]: { good: [[], ['connect', 'reset', 'timeout', 'bad-response']], bad: ['connect', {}, null], expected: 'an array' },
  [`${path}.backoff`]: { good: [{}, { base: 5 }], bad: [5, true, [], null], expected: 'an object' },
  [`${path}.backoff.base`]: milliseconds,
  [`${path}.backoff.factor`]: number(1),
  [`${path}.backoff.max`]: milliseconds,
  [`${path}.perTryTimeout`]: milliseconds,
  [`${path}.maxBodySize`]: whole(0),
  [`${path}.retryAfter`]: aBoolean,
  [`${path}.idempotencyKey`]: { good: [true, false, nothing], bad: ['x-key', 5, null], expected: 'a boolean or a function' }
})
const hedgeCasesAt = (path: string): Record<string, Cases> => ({
  [path]: { good: [true, false, {}, { percentile: 99 }], bad: ['yes', 95, [], null], expected: orOptions },
  [`${path}.percentile`]: { good: [1, 95, 99.9], bad: [0, 100, '95', NaN, null], expected: 'a number of at least 1 and of at most 99.9' },
  [`${path}.minDelay`]: milliseconds,
  [`${path}.maxExtra`]: numberTo(1)
})
const fallbackOn: Cases = {
  good: [[], ['TIMEOUT', 'OVERLOADED'], ['NO_BACKEND', 'CIRCUIT_OPEN', 'CONNECT', 'RESET', 'BAD_RESPONSE', 503, 400, 599]],
  bad: ['TIMEOUT', {}, null],
  expected: 'an array'
}
const fallbackCasesAt = (path: string, words: string[]): Record<string, Cases> => ({
  [path]: {
    good: [...words, false, nothing, {}, { statusCode: 200, headers: { 'x-a': 'b' }, body: { a: 1 } }, { upstream: 'other' }, { upstream: 'other', on: ['TIMEOUT'] }],
    bad: ['all', true, 5, null, []],
    expected: [...words.map(word => `'${word}'`), 'an object { statusCode, headers, body }, an object { upstream }, a function, or false'].join(', ')
  },
  [`${path}{upstream}.upstream`]: { ...aName, bad: ['', 5, null] },
  [`${path}{upstream}.on`]: fallbackOn,
  [`${path}{statusCode}.statusCode`]: integer(200, 599),
  [`${path}{statusCode}.headers`]: { good: [{}, { a: 'b', c: ['d', 'e'] }], bad: ['a: b', 5, null, []], expected: 'an object' },
  [`${path}{statusCode}.body`]: { good: ['', 'sorry', 5, null, { error: 'sorry' }, Buffer.from('sorry')], bad: [], expected: '' },
  [`${path}{statusCode}.on`]: fallbackOn
})
const mirrorCasesAt = (path: string): Record<string, Cases> => ({
  [path]: { good: [false, { upstream: 'default' }], bad: [true, 'other', 5, null, []], expected: 'false or an object with an upstream' },
  [`${path}.upstream`]: { good: ['default'], bad: ['', 5, null, undefined], expected: 'a string of at least 1 characters' },
  [`${path}.percent`]: numberTo(100),
  [`${path}.maxBodySize`]: whole(0),
  [`${path}.maxInFlight`]: whole(1)
})
const surviveCases: Record<string, Cases> = {
  ...retryCasesAt('retry'),
  'retry.budget': { good: [{}, { percent: 10 }], bad: [20, true, [], null], expected: 'an object' },
  'retry.budget.percent': numberTo(1_000),
  'retry.budget.minPerSecond': number(0),
  ...hedgeCasesAt('hedge'),
  limits: { good: [false, {}, { maxInFlight: 5, adaptive: true }], bad: [true, 100, 'x', [], null], expected: 'false or an object of options' },
  'limits.maxInFlight': whole(1),
  'limits.maxPerBackend': whole(1),
  'limits.adaptive': { good: [true, false, {}, { min: 2, max: 50 }], bad: ['yes', 5, [], null], expected: orOptions },
  'limits.adaptive.initial': whole(1),
  'limits.adaptive.min': { ...whole(1), good: [1, 2, 1_000] },
  'limits.adaptive.max': { ...whole(1), good: [4, 5, 100_000] },
  'limits.adaptive.tolerance': number(1),
  'limits.adaptive.smoothing': { good: [0.01, 0.5, 1], bad: [0, 1.1, '0.2', NaN, null], expected: 'a number of at least 0.01 and of at most 1' },
  'limits.adaptive.queueSize': whole(1),
  'limits.queue': { good: [true, false, {}, { size: 5 }], bad: ['yes', 5, [], null], expected: orOptions },
  'limits.queue.size': whole(1),
  'limits.queue.timeout': milliseconds,
  'limits.queue.order': { good: ['fifo', 'lifo'], bad: ['random', '', true, null], expected: "'fifo' or 'lifo'" },
  'limits.priority': aFunction,
  ...fallbackCasesAt('fallback', []),
  ...mirrorCasesAt('mirror'),
  deadlineHeader: { good: ['x-time-left', 'grpc-timeout', false], bad: [true, '', 'two words', 'x\r\ny', 5, null], expected: 'the name of a header or false' },
  ...retryCasesAt('routes[0].retry'),
  ...hedgeCasesAt('routes[0].hedge'),
  ...fallbackCasesAt('routes[0].fallback', ['any', 'none']),
  ...mirrorCasesAt('routes[0].mirror')
}

/** The cases of what secures connections, at a place where it may stand. */
function tlsCasesAt (path: string): Record<string, Cases> {
  return {
    [path]: { good: [{}, { ca: authority.cert }, { rejectUnauthorized: false }], bad: [true, 5, 'x', null, []], expected: 'an object' },
    [`${path}.ca`]: { good: [authority.cert, Buffer.from(authority.cert), authority.certFile, [authority.cert, authority.certFile]], bad: ['', 5, null, {}, []], expected: 'certificates as PEM text, a Buffer, the path of a file, or an array of these' },
    [`${path}.cert`]: { good: [identity.cert, Buffer.from(identity.cert), identity.certFile], bad: ['', 5, null, {}, [identity.cert]], expected: 'a certificate as PEM text, a Buffer of it, or the path of a file' },
    [`${path}.key`]: { good: [identity.key, Buffer.from(identity.key), identity.keyFile], bad: ['', 5, null, {}], expected: 'a private key as PEM text, a Buffer of it, or the path of a file', secret: true },
    [`${path}.passphrase`]: { good: ['', 'open sesame'], bad: [5, null, {}], expected: 'a string', secret: true },
    [`${path}.servername`]: { ...aName, good: ['example.com', '127.0.0.1'] },
    [`${path}.rejectUnauthorized`]: aBoolean,
    [`${path}.minVersion`]: { good: ['TLSv1', 'TLSv1.1', 'TLSv1.2', 'TLSv1.3'], bad: ['SSLv3', '1.2', 1.2, null], expected: "one of 'TLSv1', 'TLSv1.1', 'TLSv1.2', 'TLSv1.3'" },
    [`${path}.alpnProtocols`]: { good: [[], ['http/1.1'], ['h2', 'http/1.1', 'acme/1']], bad: ['h2', 5, null, {}], expected: 'an array' }
  }
}

/** Of each option some values that are right, some that are wrong, and what is expected instead of those. */
const cases: Record<string, Cases> = {
  backends: { good: [[], [URL_1], [{ url: URL_1 }], [URL_1, { id: 'b', url: 'http://127.0.0.1:2' }]], bad: [URL_1, 5, null, {}], expected: 'an array' },
  'backends[0]': { good: [URL_1, { url: URL_1 }, { url: new URL(URL_1) }], bad: [5, '', null, true], expected: 'a URL string or an object with a url' },
  'backends[0].http2': { good: [true, false, 'auto'], bad: ['h2', 2, null], expected: "a boolean or 'auto'" },
  'backends[0].id': { good: ['a', 'ü', 'x'.repeat(128)], bad: ['', 5, null, 'x'.repeat(129)], expected: 'a string of at least 1 characters and of at most 128 characters' },
  'backends[0].url': { good: [URL_1, 'https://example.com/base/', new URL(URL_1), 'unix:/run/app.sock:/base', 'http://unix:/run/app.sock'], bad: [undefined, '', 5, null, {}, []], expected: 'an http:, https: or unix: URL' },
  ...tlsCasesAt('backends[0].tls'),
  'backends[0].weight': { good: [0, 1, 65_535], bad: [-1, 65_536, 1.5, '1', NaN, Infinity, null], expected: 'an integer of at least 0 and of at most 65535' },
  'backends[0].priority': integer(0, 127),
  'backends[0].backup': aBoolean,
  'backends[0].zone': aName,
  'backends[0].isActive': aBoolean,
  'backends[0].metadata': { good: [{}, { zone: 'a', nested: { deep: [1] } }], bad: [[], 'x', null, 5], expected: 'an object' },
  balancer: {
    good: [...BALANCERS, ...BALANCERS.map(type => ({ type })), { type: 'mine', select: nothing }, new RoundRobin(), new Maglev(), nothing, async () => undefined],
    bad: ['fastest', 'Maglev', '', 5, true, false, null, ['maglev']],
    expected: `${ONE_OF}, an object { type } with its options, a LoadBalancer with a select() method, or a function`
  },
  ...balancerCases,
  weights: {
    good: [false, { from: 'latency' }, { from: 'load-report' }, { from: nothing }, { from: 'latency', min: 2, max: 2 }],
    bad: [true, 'latency', 5, nothing, [], null],
    expected: 'false or an object { from, interval, min, max, blackout, expiry }'
  },
  'weights.from': { good: ['latency', 'load-report', nothing], bad: ['load', true, 5, {}, null, undefined], expected: "'latency', 'load-report' or a function" },
  'weights.interval': { good: [10, 12.5, 60_000], bad: [9, 0, '1000', NaN, Infinity, null], expected: 'a number of at least 10' },
  'weights.min': { ...aboveZero, good: [0.001, 1, 10] },
  'weights.max': { ...aboveZero, good: [0.1, 1, 1_000] },
  'weights.blackout': milliseconds,
  'weights.expiry': aboveZero,
  slowStart: { good: [true, false, {}, { window: 5, aggression: 2 }], bad: ['yes', 5, [], null], expected: 'a boolean or an object { window, aggression }' },
  'slowStart.window': aboveZero,
  'slowStart.aggression': aboveZero,
  affinity: { good: [false, { secret: SECRET }], bad: [true, SECRET, [SECRET], 5, null], expected: 'false or an object { secret, cookie, … }', secret: true },
  'affinity.secret': {
    good: [SECRET, 'x'.repeat(16), [SECRET], [SECRET, 'y'.repeat(99)]],
    bad: ['', 'x'.repeat(15), [], [SECRET, 'short'], [SECRET, 5], 1234567890123456, { key: SECRET }, false, null, undefined],
    expected: 'a string of at least 16 characters, or an array of such',
    secret: true
  },
  'affinity.cookie': { good: ['sid', '__Host-sid'], bad: ['', 'two words', 'a=b', 'a;b', 'ü', 5, null], expected: 'the name of a cookie' },
  'affinity.maxAge': { good: [0, 1, 86_400_000], bad: [-1, 0.5, '5', NaN, Infinity, null], expected: 'an integer of at least 0' },
  'affinity.path': { good: ['/', '/app', '/a b,c=d/:id'], bad: ['', 'app', '/a;b', '/a\r\nb', '/\u65e5', '/ü', 5, null], expected: 'a path' },
  'affinity.domain': { good: ['example.com', '.example.com'], bad: ['', 'a;b', 'a b', 'a\r\nb', 'ü.example', 5, null], expected: 'a domain name' },
  'affinity.secure': { good: [true, false, 'auto'], bad: ['yes', 1, null], expected: "a boolean or 'auto'" },
  'affinity.httpOnly': aBoolean,
  'affinity.sameSite': { good: ['strict', 'lax', 'none'], bad: ['Lax', false, '', 5, null], expected: "'strict', 'lax' or 'none'" },
  'affinity.onUnavailable': { good: ['rebalance', 'fail'], bad: ['none', false, 5, null], expected: "'rebalance' or 'fail'" },
  panicThreshold: { good: [0, 0.5, 1], bad: [-0.1, 1.1, 50, '0.5', false, NaN, null], expected: 'a number of at least 0 and of at most 1' },
  zone: aName,
  ...breakerCases,
  ...healthCases,
  ...outlierCases,
  ...surviveCases,
  timeout: { good: [{}, { connect: 1, headers: 2, idle: 3, request: 4 }], bad: [5, false, null, []], expected: 'an object' },
  'timeout.connect': milliseconds,
  'timeout.headers': milliseconds,
  'timeout.idle': milliseconds,
  'timeout.tunnel': milliseconds,
  'timeout.request': milliseconds,
  websocket: aBoolean,
  upgrades: { good: [[], ['x-own', 'HTTP/2.0']], bad: ['x-own', 5, null, {}], expected: 'an array' },
  http2: { good: [true, false, 'auto'], bad: ['h2', 2, null], expected: "a boolean or 'auto'" },
  dns: { good: [true, false, {}, { minTtl: 5 }], bad: ['8.8.8.8', 5, null, []], expected: 'a boolean or an object of options' },
  'dns.minTtl': { ...milliseconds, good: [0, 2.5, 300_000] },
  'dns.maxTtl': { ...milliseconds, good: [1_000, 86_400_000] },
  'dns.systemTtl': milliseconds,
  'dns.errorTtl': milliseconds,
  'dns.staleWhileRevalidate': { ...milliseconds, good: [0, 2.5, 300_000] },
  'dns.staleIfError': { ...milliseconds, good: [300_000, 86_400_000] },
  'dns.servers': { good: [['127.0.0.1'], ['127.0.0.1:5353', '[::1]:53']], bad: ['127.0.0.1', 5, null, []], expected: 'an array of at least 1 item' },
  'dns.timeout': pool(1),
  'dns.tries': pool(1),
  discovery: { good: [false, 'dns', 'dns-srv', { type: 'dns' }], bad: [true, 'srv', 5, null, []], expected: "'dns', 'dns-srv', a function, an object of options with a type, or false" },
  'discovery.type': { good: ['dns', 'dns-srv', nothing], bad: ['srv', 5, true, null], expected: "'dns', 'dns-srv' or a function" },
  'discovery.interval': { good: [1, 2.5, 10_000], bad: [0, -1, '5', NaN, null], expected: 'a number of at least 1' },
  'discovery.jitter': { good: [0, 0.5, 1], bad: [-0.1, 1.1, '0', null], expected: 'a number of at least 0 and of at most 1' },
  'discovery.timeout': { good: [1, 2.5, 10_000], bad: [0, -1, '5', NaN, null], expected: 'a number of at least 1' },
  'discovery.emptyGrace': milliseconds,
  'discovery.drainTimeout': milliseconds,
  'discovery.readyTimeout': milliseconds,
  pool: { good: [{}, { connections: 3 }, new ConnectionPool()], bad: [5, 'x', true, null], expected: 'an object of pool options, or a ConnectionPool with dispatcherFor(), stats() and close()' },
  'pool.connections': pool(1),
  'pool.connectTimeout': pool(0),
  'pool.idleTimeout': pool(1),
  'pool.keepAliveMargin': pool(0),
  'pool.maxHeaderSize': pool(1024),
  'pool.maxRequestsPerConnection': pool(0),
  'pool.maxConcurrentStreams': pool(1),
  ...tlsCasesAt('pool.tls'),
  'pool.socketPath': { good: ['/run/app.sock', '@app'], bad: ['', 5, null, {}], expected: 'a string of at least 1 characters' },
  'pool.localAddress': { good: ['127.0.0.1', '::1', 'fe80::1%lo'], bad: ['', 'localhost', '1.2.3', 5, null], expected: 'an IP address' },
  'pool.family': { good: [4, 6], bad: [0, 5, '4', 'IPv4', null], expected: '4 or 6' },
  'pool.autoSelectFamily': aBoolean,
  'pool.dispatcher': { good: [new Agent(), nothing, { dispatch: nothing }], bad: [{}, 'agent', true, null, 5], expected: 'a Dispatcher with dispatch(), or a function that makes one for a backend' },
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
  'routes[0].match': { ...match, bad: match.bad.slice(0, -1) },
  'routes[0].split': { good: [[{ match: {} }], [{ match: { version: 'v1' }, weight: 95 }, { match: { version: 'v2' }, weight: 5, when: { header: 'x-canary' } }]], bad: [[], {}, 'v1', 5, null], expected: 'an array of at least 1 item' },
  'routes[0].split[0]': { good: [{ match: {} }], bad: ['v1', 5, [], null, undefined], expected: 'an object' },
  'routes[0].split[0].match': match,
  'routes[0].split[0].weight': { good: [0, 0.5, 1, 1_000], bad: [-1, '5', NaN, Infinity, null], expected: 'a number of at least 0' },
  'routes[0].split[0].when': {
    good: [{ header: 'x-a' }, { header: 'x-a', value: '' }, { cookie: 'a', value: 'b' }],
    bad: ['x-a', 5, true, null, [], {}, { value: 'a' }, { header: 'a', cookie: 'b' }],
    expected: 'an object { header, value } or { cookie, value }'
  },
  'routes[0].split[0].when{header}.header': { ...aName, bad: ['', 5, null, undefined] },
  'routes[0].split[0].when{header}.value': { good: ['', 'a'], bad: [5, true, null], expected: 'a string' },
  'routes[0].split[0].when{cookie}.cookie': { ...aName, bad: ['', 5, null, undefined] },
  'routes[0].split[0].when{cookie}.value': { good: ['', 'a'], bad: [5, true, null], expected: 'a string' },
  ...keysAt('routes[0].splitKey'),
  'routes[0].timeout': { good: [{}, { headers: 5 }], bad: [5, null, []], expected: 'an object' },
  'routes[0].timeout.connect': milliseconds,
  'routes[0].timeout.headers': milliseconds,
  'routes[0].timeout.idle': milliseconds,
  'routes[0].timeout.tunnel': milliseconds,
  'routes[0].timeout.request': milliseconds,
  'routes[0].websocket': aBoolean,
  'routes[0].onUpgrade': aFunction,
  'routes[0].onTunnelClose': aFunction,
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
  'routes[0].logLevel': { good: ['debug', 'silent'], bad: ['bogus', 'toString', '', 5, null, {}], expected: "one of 'fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'" },
  shutdownTimeout: milliseconds,
  accessLog: {
    good: [false, 'trace', 'debug', 'info', 'warn', 'error', {}, { level: 'warn' }, { level: 'info', sample: 0.5 }],
    bad: [true, 'loud', 'silent', 5, null, []],
    expected: "false, one of 'trace', 'debug', 'info', 'warn', 'error', or an object { level, sample }"
  },
  'accessLog.level': { good: ['trace', 'debug', 'info', 'warn', 'error'], bad: ['loud', 'fatal', 30, null], expected: "'trace', 'debug', 'info', 'warn', 'error'" },
  'accessLog.sample': { good: [0, 0.001, 1], bad: [-0.1, 1.1, '0.5', NaN, null], expected: 'a number of at least 0 and of at most 1' },
  requestId: { good: [true, false, 'x-request-id', 'X_Id'], bad: ['', 'two words', 'a: b', 'x\r\ny', 5, null, {}], expected: 'a boolean or the name of a header' },
  serverTiming: aBoolean,
  proxyStatus: { good: [true, false, 'edge', 'edge.example', 'edge:8080', '*a/b'], bad: ['', 'two words', 'a; b', 'x\r\ny', '1st', '-a', 5, null, {}], expected: 'a boolean or a token that begins with a letter' },
  random: aFunction,
  admin: { good: [true, false, {}, { prefix: '/ops' }], bad: ['yes', 5, null, []], expected: 'a boolean or an object of options' },
  'admin.prefix': { good: ['/', '/ops'], bad: ['ops', '', 5, null], expected: 'a string matching ^/' },
  'admin.plugins': { good: [[], ['status', 'events']], bad: ['status', 5, null, {}], expected: 'an array' },
  'admin.metrics': { good: [{}, { perBackend: false }], bad: [true, 5, null, []], expected: 'an object' },
  'admin.metrics.registry': { good: [new Registry()], bad: [5, 'default', true, null], expected: 'a Registry of prom-client' },
  'admin.metrics.perBackend': { good: [true, false, 'numbers'], bad: ['all', 5, null], expected: "a boolean or 'numbers'" },
  'admin.metrics.labels': { good: [{}, { app: 'gateway' }], bad: [5, 'app', null, []], expected: 'an object of strings by the names of labels' },
  'admin.events': { good: [{}, { interval: 0 }], bad: [true, 5, null, []], expected: 'an object' },
  'admin.events.interval': milliseconds,
  'admin.events.heartbeat': { good: [1, 2.5, 60_000], bad: [0, -1, '5', NaN, null], expected: 'a number of at least 1' },
  'admin.events.maxClients': pool(1),
  'admin.events.maxBuffer': pool(1),
  'admin.events.history': pool(0),
  'admin.onRequest': hook,
  'admin.onChange': hook,
  'admin.hosts': { good: [[], ['localhost', 'ops.example']], bad: ['localhost', 5, null, {}], expected: 'an array' },
  'admin.origins': { good: [[], ['https://console.example']], bad: ['https://console.example', 5, null, {}], expected: 'an array' },
  'admin.allowBackends': { good: [[], ['10.0.0.0/8', '*.internal']], bad: ['10.0.0.0/8', 5, null, {}], expected: 'an array' },
  'admin.who': aFunction,
  'admin.logLevel': { good: ['info', 'silent'], bad: ['bogus', 'toString', '', 5, null, {}], expected: "one of 'fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'" },
  'admin.hide': aBoolean,
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
  for (const [path, { bad, expected, secret = false }] of Object.entries(cases)) {
    for (const value of bad) {
      const error = refusal(optionsWith(path, value))
      const seen = secret && value !== undefined && typeof value !== 'boolean' ? '***' : shown(value)
      const text = `${path}: ${shown(value)}`
      if (error === undefined) {
        t.fail(`${text} was accepted`)
        continue
      }
      t.equal(error.code, 'FST_ROCKSTAR_INVALID_OPTIONS', text)
      t.ok(error.message.startsWith(`options.${told(path)} must be `), `${text} names its path`, { found: error.message })
      t.ok(error.message.includes(`must be ${expected}`), `${text} says what is expected`, { found: error.message })
      t.ok(error.message.endsWith(`, and is ${seen}`), `${text} shows its value`, { found: error.message })
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
    const key = path.slice(path.lastIndexOf('.') + 1)
    for (const [how, lone] of [['beside what is needed', false], ['by itself', true]] as const) {
      const error = refusal(optionsWith(`${path}x`, 1, lone))
      t.equal(error?.code, 'FST_ROCKSTAR_INVALID_OPTIONS', `${path}x, ${how}`)
      t.equal(error?.message, `options.${told(path)}x is not an option; did you mean '${key}'?`, `${path}x, ${how}`)
    }
  }
  t.end()
})

t.test('where an object may be one of several, what is told is of the one that was meant', t => {
  const key = "'ip', 'path', { header }, { cookie }, { query } or a function"
  const told: [object, string][] = [
    [{ balancer: { type: 'maglev', tableSizex: 1 } }, "balancer.tableSizex is not an option; did you mean 'tableSize'?"],
    [{ balancer: { type: 'maglev', points: 5 } }, 'balancer.points is not an option'],
    [{ balancer: { type: 'ip-hash', key: 'ip' } }, 'balancer.key is not an option'],
    [{ balancer: { tyep: 'maglev' } }, "balancer.tyep is not an option; did you mean 'type'?"],
    [{ balancer: { tablesize: 5 } }, "balancer.tablesize is not an option; did you mean 'tableSize'?"],
    [{ balancer: { tableSize: 5 } }, "balancer.type must be 'maglev', and is nothing"],
    [{ balancer: { key: 'ip' } }, `balancer.type must be ${ONE_OF}, and is nothing`],
    [{ balancer: {} }, `balancer.type must be ${ONE_OF}, and is nothing`],
    [{ balancer: { type: 'maglevv', tablesize: 5 } }, `balancer.type must be ${ONE_OF}, and is 'maglevv'`],
    [{ balancer: { type: 'maglev', 'table/size~1': 5 } }, "balancer.table/size~1 is not an option; did you mean 'tableSize'?"],
    [{ balancer: { 'table/size~': 5 } }, "balancer.table/size~ is not an option; did you mean 'tableSize'?"],
    [{ balancer: { type: 'maglev', key: { headerx: 'a' } } }, "balancer.key.headerx is not an option; did you mean 'header'?"],
    [{ balancer: { type: 'maglev', key: { header: 'a', cokie: 'b' } } }, "balancer.key.cokie is not an option; did you mean 'cookie'?"],
    [{ balancer: { type: 'maglev', key: { header: 'a', cookie: 'b' } } }, `balancer.key must be ${key}, and is { header: 'a', cookie: 'b' }`],
    [{ balancer: { type: 'maglev', key: { body: 'a' } } }, `balancer.key must be ${key}, and is { body: 'a' }`],
    [{ balancer: { type: 'maglev', key: { type: 'cookie', cookie: 'a' } } }, `balancer.key must be ${key}, and is { type: 'cookie', cookie: 'a' }`],
    [{ routes: [{ split: [{ match: {}, when: { headerx: 'a' } }] }] }, "routes[0].split[0].when.headerx is not an option; did you mean 'header'?"],
    [{ routes: [{ split: [{ match: {}, when: { cookie: 'a', valeu: 'b' } }] }] }, "routes[0].split[0].when.valeu is not an option; did you mean 'value'?"],
    [{ routes: [{ split: [{ match: {} }, { mach: {} }] }] }, "routes[0].split[1].mach is not an option; did you mean 'match'?"],
    [{ routes: [{ splitKey: { coookie: 'sid' } }] }, "routes[0].splitKey.coookie is not an option; did you mean 'cookie'?"],
    [{ breaker: { rules: [{ type: 'consecutive', window: 5 }] } }, 'breaker.rules[0].window is not an option'],
    [{ breaker: { rules: [{ type: 'failure-rate', treshold: 0.5 }] } }, "breaker.rules[0].treshold is not an option; did you mean 'threshold'?"],
    [{ breaker: { rules: [{ slowThreshold: 5 }] } }, 'breaker.rules[0].type must be a string, and is nothing'],
    [{ breaker: { treshold: 5 } }, "breaker.treshold is not an option; did you mean 'threshold'?"],
    [{ health: { headers: { accept: 5 } } }, 'health.headers.accept must be a string, and is 5'],
    [{ health: { intervall: 5 } }, "health.intervall is not an option; did you mean 'interval'?"],
    [{ backends: [{ url: URL_1, healthCheck: { concurrency: 5 } }] }, 'backends[0].healthCheck.concurrency is not an option'],
    [{ outlier: { successRate: { stdev: 5 } } }, 'outlier.successRate.stdev is not an option'],
    [{ slowStart: { zzzzzzzz: 5 } }, 'slowStart.zzzzzzzz is not an option'],
    [{ slowStart: { window: 0, zzzzzzzz: 5 } }, 'slowStart.zzzzzzzz is not an option'],
    [{ routes: [{ match: { version: null } }] }, 'routes[0].match.version must be a string, a number, a boolean, or an array of them, and is null'],
    [{ routes: [{ match: { version: [] } }] }, 'routes[0].match.version must be a string, a number, a boolean, or an array of them, and is []'],
    [{ routes: [{ split: [{ match: { version: { v: 2 } } }] }] }, 'routes[0].split[0].match.version must be a string, a number, a boolean, or an array of them, and is { v: 2 }']
  ]
  for (const [options, message] of told) t.match(refusal(options), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: `options.${message}` }, message)
  t.end()
})

t.test('the least factor of weights must be at most the highest', t => {
  const told: [object, string][] = [
    [{ min: 5, max: 2 }, 'weights.min must be at most weights.max, 2, and is 5'],
    [{ min: 10.5 }, 'weights.min must be at most weights.max, 10, and is 10.5'],
    [{ max: 0.05 }, 'weights.min must be at most weights.max, 0.05, and is 0.1']
  ]
  for (const [more, message] of told) {
    const weights = { from: 'latency', ...more }
    t.match(refusal({ weights }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: `options.${message}` })
    t.match(refusal({ upstreams: { other: { weights } } }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: `options.upstreams.other.${message}` })
    const manager = new ProxyManager({})
    t.throws(() => manager.addUpstream('other', { weights } as UpstreamOptions), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: `upstreams.other.${message}` })
    t.equal(manager.listUpstreams().length, 1)
  }
  t.equal(refusal({ weights: { from: 'latency', min: 3, max: 3 } }), undefined)
  t.end()
})

t.test('the longest time that a circuit waits must be at least the first', t => {
  const told: [object, string][] = [
    [{ timeout: 10, maxTimeout: 5 }, 'breaker.maxTimeout must be at least timeout, 10, and is 5'],
    [{ maxTimeout: 29_999 }, 'breaker.maxTimeout must be at least timeout, 30000, and is 29999']
  ]
  for (const [breaker, message] of told) {
    t.match(refusal({ breaker }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: `options.${message}` })
    t.match(refusal({ upstreams: { other: { breaker } } }), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: `options.upstreams.other.${message}` })
    const manager = new ProxyManager({})
    t.throws(() => manager.addUpstream('other', { breaker } as UpstreamOptions), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message: `upstreams.other.${message}` })
    t.equal(manager.listUpstreams().length, 1)
    const before = manager.getCircuitBreaker()
    t.throws(() => manager.setCircuitBreaker(breaker), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message })
    t.equal(manager.getCircuitBreaker(), before)
    t.throws(() => new CircuitBreaker(breaker), { code: 'FST_ROCKSTAR_INVALID_OPTIONS', message })
  }
  t.equal(refusal({ breaker: { timeout: 10, maxTimeout: 10 } }), undefined)
  t.equal(refusal({ breaker: { timeout: 900_000 } }), undefined, 'a default is no contradiction')
  t.end()
})

t.test('no secret of the affinity appears in an error', t => {
  const hunter = 'hunter2hunter2hunter2'
  for (const affinity of [hunter, [hunter], { secret: 'hunter2' }, { secret: [hunter, 'hunter2'] }, { secret: [hunter, 5] }, { secret: { a: hunter } }, { secret: hunter, maxAge: -1 }, { secrets: hunter }, [{ secret: hunter }]]) {
    for (const options of [{ affinity }, { upstreams: { other: { affinity } } }, { affinity: { secret: hunter }, routes: [{ prefx: '/' }] }]) {
      const error = refusal(options)
      t.equal(error?.code, 'FST_ROCKSTAR_INVALID_OPTIONS')
      t.notMatch(error?.message, /hunter2/)
    }
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
      t.ok(error?.message.startsWith(`options.upstreams.other.${told(path.split(/[.[]/)[0])}`), 'with its path', { found: error?.message })
    }
  }
  for (const key of ['routes', 'upstreams', 'shutdownTimeout', 'random', 'clock']) {
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
    t.match(options, { backends: [], balancer: 'round-robin', weights: false, slowStart: false, affinity: false, panicThreshold: 0.5, preserveHost: false, forwarded: true, via: 'rockstar-proxy', upstreams: {}, routes: [], shutdownTimeout: 9_000 })
    t.strictSame({ ...state.timeouts }, { connect: 10_000, headers: 30_000, idle: 60_000, tunnel: 3_600_000, request: 30_000 })
    t.equal(state.via, 'rockstar-proxy')
    t.strictSame({ ...state.forwarded }, { xForwarded: true, standard: true })
    t.strictSame({ ...(state.pool as ConnectionPool).options }, { connections: 100, connectTimeout: 10_000, idleTimeout: 90_000, maxRequestsPerConnection: 0, maxConcurrentStreams: 100, keepAliveMargin: 1_000, maxHeaderSize: 16_384, autoSelectFamily: true })
    t.equal(state.balancer.type, 'round-robin')
    t.match(state.selector, { affinity: null, panicThreshold: 0.5, zone: undefined })
    t.match(state.breaker, { type: 'circuit-breaker', options: { timeout: 30_000, maxTimeout: 300_000, jitter: 0.1, halfOpenRequests: 1, successThreshold: 1 } })
    t.equal(state.minHealthy, 0)
    t.ok(state.outlier)
  }
  const [given] = new ProxyManager({ backends: [URL_1] }).listBackends()
  t.match(given, { weight: 1, priority: 0, zone: undefined })
  t.end()
})

t.test('a policy has its defaults, by name and as an object', t => {
  const hash = { key: 'ip', missing: 'random', boundedLoad: false }
  const defaults: Record<string, object> = {
    'least-requests': { fullScanLimit: 32, choices: 2, bias: 1 },
    'peak-ewma': { decay: 10_000, penalty: 1_000 },
    'ip-hash': { boundedLoad: false },
    'ring-hash': { ...hash, points: 160, probes: 21, minRingSize: 160, maxRingSize: 524_288 },
    maglev: { ...hash, tableSize: 65_537 },
    rendezvous: hash
  }
  for (const type of BALANCERS) {
    const expected = { type, ...defaults[type] }
    t.strictSame(resolveOptions(BalancerSchema, { type }, 'balancer'), expected, type)
    const undefineds = Object.fromEntries(Object.keys(expected).map(key => [key, undefined]))
    t.strictSame(resolveOptions(BalancerSchema, { ...undefineds, type }, 'balancer'), expected, `${type}, and what is undefined is not given`)
    t.match(new ProxyManager({ balancer: type as BalancerType }).getLoadBalancer(), { type: type === 'weighted-round-robin' ? 'round-robin' : type })
  }
  t.end()
})

t.test('the observers have their defaults, all the way down', t => {
  const check = { method: 'GET', headers: {}, expectedStatus: [[200, 399]], interval: 10_000, timeout: 5_000, jitter: 0.1, rise: 2, fall: 3, initial: 'healthy' }
  t.strictSame(resolveOptions(HealthOptionsSchema, {}, 'health'), { ...check, concurrency: 64, minHealthy: 0, readyTimeout: 5_000 })
  const outlier = {
    consecutiveFailures: 5,
    splitLocalErrors: false,
    consecutiveLocalErrors: 5,
    successRate: { stdevFactor: 1.9, minimumHosts: 5, requestVolume: 100 },
    failurePercentage: { threshold: 85, minimumHosts: 5, requestVolume: 50 },
    interval: 10_000,
    baseEjectionTime: 30_000,
    maxEjectionTime: 300_000,
    maxEjectionPercent: 50
  }
  t.strictSame(resolveOptions(OutlierOptionsSchema, {}, 'outlier'), outlier)
  t.strictSame(resolveOptions(OutlierOptionsSchema, { successRate: false, failurePercentage: { threshold: 0 } }, 'outlier'), { ...outlier, successRate: false, failurePercentage: { ...outlier.failurePercentage, threshold: 0 } })
  t.strictSame(resolveOptions(HealthCheckOverridesSchema, {}, 'healthCheck'), {}, 'what a backend does not say is as its upstream says')
  const rules = RULES.map(type => ({ type }))
  t.strictSame(resolveOptions<BreakerOptions>(BreakerOptionsSchema, { rules }, 'breaker').rules, [
    { type: 'consecutive', threshold: 5 },
    { type: 'failure-rate', threshold: 0.5, window: 10_000, minimumRequests: 20 },
    { type: 'slow-rate', slowThreshold: 5_000, threshold: 0.8, window: 10_000, minimumRequests: 20 }
  ])
  t.end()
})

t.test('false switches an observer off', t => {
  const { state } = new ProxyManager({ breaker: false, health: false, outlier: false, backends: [URL_1] })
  t.strictSame([state.breaker.type, state.outlier], ['none', null])
  t.match(state.list()[0], { outlier: null, circuitState: 'closed', healthy: true })
  t.end()
})

t.test('a part of an object leaves the rest of it as the defaults say', t => {
  const { state } = new ProxyManager({ timeout: { idle: 7 }, pool: { connections: 2 }, forwarded: { standard: false } })
  t.strictSame({ ...state.timeouts }, { connect: 10_000, headers: 30_000, idle: 7, tunnel: 3_600_000, request: 30_000 })
  t.match((state.pool as ConnectionPool).options, { connections: 2, idleTimeout: 90_000 })
  t.strictSame({ ...state.forwarded }, { xForwarded: true, standard: false })
  const { weights, slowStart, affinity } = new ProxyManager({ weights: { from: 'load-report', max: 3 }, slowStart: { window: 7 }, affinity: { secret: SECRET, maxAge: 9 } }).options
  t.strictSame(weights, { from: 'load-report', interval: 1_000, min: 0.1, max: 3, blackout: 10_000, expiry: 180_000 })
  t.strictSame(slowStart, { window: 7, aggression: 1 })
  t.strictSame(affinity, { secret: SECRET, cookie: 'rockstar-affinity', maxAge: 9, path: '/', secure: 'auto', httpOnly: true, sameSite: 'lax', onUnavailable: 'rebalance' })
  t.end()
})

t.test('0 and false are values, not gaps', t => {
  const { options, state } = new ProxyManager({
    shutdownTimeout: 0,
    via: false,
    forwarded: false,
    timeout: { connect: 0, headers: 0, idle: 0, tunnel: 0, request: 0 },
    pool: { connectTimeout: 0, keepAliveMargin: 0 },
    panicThreshold: 0,
    weights: { from: 'load-report', blackout: 0 },
    slowStart: false,
    affinity: { secret: SECRET, maxAge: 0, secure: false, httpOnly: false },
    breaker: { jitter: 0 },
    health: { jitter: 0, minHealthy: 0 },
    outlier: { consecutiveFailures: 0, consecutiveLocalErrors: 0, successRate: false, failurePercentage: { threshold: 0 }, maxEjectionPercent: 0 },
    balancer: { type: 'least-requests', fullScanLimit: 0, bias: 0 },
    routes: [{ split: [{ match: {}, weight: 0 }] }],
    backends: [{ url: URL_1, weight: 0, isActive: false, priority: 0, backup: true }]
  })
  t.equal(options.shutdownTimeout, 0)
  t.equal(state.via, null)
  t.strictSame({ ...state.forwarded }, { xForwarded: false, standard: false })
  t.strictSame({ ...state.timeouts }, { connect: 0, headers: 0, idle: 0, tunnel: 0, request: 0 })
  t.match((state.pool as ConnectionPool).options, { connectTimeout: 0, keepAliveMargin: 0 })
  t.match(state.list()[0], { weight: 0, isActive: false, priority: 0 }, 'a priority of 0 is one, whatever `backup` says')
  t.equal(state.selector.panicThreshold, 0)
  t.match(options, {
    weights: { blackout: 0 },
    slowStart: false,
    affinity: { maxAge: 0, secure: false, httpOnly: false },
    breaker: { jitter: 0 },
    health: { jitter: 0, minHealthy: 0 },
    outlier: { consecutiveFailures: 0, consecutiveLocalErrors: 0, successRate: false, failurePercentage: { threshold: 0 }, maxEjectionPercent: 0 },
    balancer: { fullScanLimit: 0, bias: 0 },
    routes: [{ split: [{ weight: 0 }] }]
  })
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
  t.strictSame(resolved, { connect: 5, headers: 30_000, idle: 60_000, tunnel: 3_600_000, request: 30_000 })
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
  const makers = [IpHash, LeastRequests, Maglev, P2c, PeakEwma, Random, Rendezvous, RingHash, RoundRobin, Getter, SameType, Extended].map(Balancer => () => new Balancer())
  for (const make of [() => ({ type: 'mine', select: () => undefined }), ...makers]) {
    const [byOption, bySetter] = [make(), make()]
    t.equal(new ProxyManager({ balancer: byOption }).getLoadBalancer(), byOption, `as an option: ${byOption.constructor.name} '${byOption.type}'`)
    const manager = new ProxyManager({})
    manager.setLoadBalancer(bySetter)
    t.equal(manager.getLoadBalancer(), bySetter, `by the setter: ${bySetter.constructor.name} '${bySetter.type}'`)
    manager.setLoadBalancer('random')
    manager.setLoadBalancer(bySetter)
    t.equal(manager.getLoadBalancer(), bySetter, 'and again')
  }
  // It goes by the backends that it was told last: one that two upstreams shared would choose backends of the other.
  for (const shared of [new RoundRobin(), new Extended(), new Maglev({ key: 'path' })]) {
    const first = new ProxyManager({ balancer: shared })
    const second = new ProxyManager({ balancer: shared }).getLoadBalancer()
    t.equal(first.getLoadBalancer(), shared)
    t.not(second, shared)
    t.equal(second.constructor, shared.constructor, 'the other upstream gets one like it')
  }
  t.end()
})

t.test('a function is a balancer that calls it', t => {
  const given: unknown[][] = []
  const context = {} as SelectContext
  const choose = (...args: unknown[]): undefined => { given.push(args) }
  const setter = new ProxyManager({})
  setter.setLoadBalancer(choose)
  for (const manager of [new ProxyManager({ balancer: choose }), setter]) {
    const balancer = manager.getLoadBalancer()
    t.equal(balancer.type, 'function')
    const available = Object.freeze([])
    balancer.select(available, context)
    t.strictSame(given.length, 1)
    t.equal(given[0][0], available)
    t.equal(given.pop()?.[1], context)
  }
  t.end()
})

t.test('an instance of a circuit breaker is used itself, whatever it is made of', t => {
  const unused = () => { throw new Error('unused') }
  class Getter {
    get type () { return 'getter' }
    createCircuit (): never { return unused() }
    getState (): never { return unused() }
    reset () {}
  }
  class Extended extends CircuitBreaker {}
  for (const breaker of [{ type: 'mine', createCircuit: unused, getState: unused, reset: unused }, new Getter(), new CircuitBreaker(), new Extended({ threshold: 2 })]) {
    t.equal(new ProxyManager({ breaker }).getCircuitBreaker(), breaker, `as an option: ${breaker.constructor.name}`)
    const manager = new ProxyManager({})
    manager.setCircuitBreaker(breaker)
    t.equal(manager.getCircuitBreaker(), breaker, `by the setter: ${breaker.constructor.name}`)
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
    balancer: { type: 'maglev', key: { header: 'x-user' }, tableSize: 101 },
    weights: { from: 'latency', min: 0.5 },
    slowStart: { window: 5 },
    breaker: { rules: [{ type: 'failure-rate', threshold: 0.9 }, { type: 'consecutive' }] },
    health: { path: '/', headers: { 'x-check': '1' }, expectedStatus: [200, [300, 399]] },
    outlier: { successRate: { stdevFactor: 3 }, failurePercentage: false },
    affinity: { secret: [SECRET, `another ${SECRET}`] },
    timeout: { connect: 1_000 },
    pool: { connections: 2 },
    forwarded: { standard: false },
    upstreams: { other: { backends: [{ url: backend.url, weight: 2 }], timeout: {}, forwarded: {} } },
    routes: [{ prefix: '/api', methods: ['GET'], timeout: { idle: 5_000 }, config: { mine: 1 } as object, preHandler: [(_request, _reply, done) => done()], rewriteHeaders: headers => headers }, {
      prefix: '/split',
      match: { zone: ['a', 'b'] },
      split: [{ match: { zone: 'b' }, when: { cookie: 'b', value: '1' } }, { match: { zone: 'a' }, weight: 3 }],
      splitKey: { query: 'q' }
    }],
    shutdownTimeout: 0
  })
  const before = inspect(options, { depth: 9 })
  const call = deepFrozen<ForwardOptions>({ path: '/x', match: { zone: ['a'] }, split: [{ match: {}, when: { header: 'x-a' }, weight: 1 }], splitKey: { cookie: 'sid' }, timeout: { headers: 1_000 }, rewriteRequestHeaders: (_request, headers) => headers })
  const gateway = await startGateway(t, options, {
    setup: app => {
      app.get('/call', (request, reply) => app.proxy.forward(request, reply, call))
      app.get('/capture', async request => (await app.proxy.forward(request, undefined, call)).text())
    }
  })
  const { proxy } = gateway.app
  for (const path of ['/api/a', '/split', '/call', '/capture']) t.equal((await gateway.app.inject(path)).body, 'frozen', path)

  proxy.addBackend(deepFrozen({ id: 'c', url: backend.url, metadata: { a: 1 }, healthCheck: { headers: { a: 'b' } } }))
  proxy.updateBackend('c', deepFrozen({ weight: 4, metadata: { b: 2 }, healthCheck: { expectedStatus: [200] } }))
  proxy.setCircuitBreaker(deepFrozen({ rules: [{ type: 'slow-rate' as const }], timeout: 5 }))
  proxy.addUpstream('third', deepFrozen({ backends: [backend.url], timeout: { idle: 1 } }))
  proxy.setLoadBalancer(deepFrozen({ type: 'ring-hash' as const, key: { cookie: 'sid' } }))
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
  const options = {
    backends: [{ id: 'b', url, weight: 2, metadata }],
    timeout: { idle: 5 },
    affinity: { secret: [SECRET] },
    weights: { from: 'latency' as const, min: 0.5 },
    balancer: { type: 'maglev' as const, key: { header: 'x-user' } },
    routes: [{ match: { version: ['v1'] }, split: [{ match: { tier: [1] }, weight: 5 }] }]
  }
  const manager = new ProxyManager(options)
  metadata.a = 2
  url.port = '99'
  options.backends[0].weight = 9
  options.timeout.idle = 9
  options.affinity.secret.push('x')
  options.weights.min = 99
  options.balancer.key.header = 'x-other'
  options.routes[0].match.version.push('v2')
  options.routes[0].split[0].match.tier[0] = 2
  options.routes[0].split[0].weight = 9
  t.match(manager.getBackend('b'), { weight: 2, metadata: { a: 1 } })
  t.equal(manager.getBackend('b').url.href, `${URL_1}/`)
  t.equal(manager.state.timeouts.idle, 5)
  t.strictSame(manager.options.affinity, { ...manager.options.affinity, secret: [SECRET] })
  t.match(manager.options, { weights: { min: 0.5 }, balancer: { key: { header: 'x-user' } } })
  t.strictSame([manager.options.routes?.[0].match, manager.options.routes?.[0].split], [{ version: ['v1'] }, [{ match: { tier: [1] }, weight: 5 }]])
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
    backends: [counted({ url: backend.url, weight: 1, metadata: counted({ version: 'v1' }) })],
    balancer: counted({ type: 'maglev' as const, key: counted({ header: 'x-user' }) }),
    weights: counted({ from: 'latency' as const }),
    affinity: counted({ secret: SECRET }),
    timeout: counted({ idle: 1_000 }),
    breaker: counted({ threshold: 5, rules: [counted({ type: 'failure-rate' as const })] }),
    health: counted({ interval: 1_000 }),
    outlier: counted({ successRate: counted({ stdevFactor: 2 }) }),
    pool: counted({ connections: 4 }),
    routes: [counted({ prefix: '/api', rewritePrefix: '/x', timeout: counted({ idle: 2_000 }), preserveHost: true, match: counted({ version: counted(['v1']) }), split: [counted({ match: counted({}), weight: 1, when: counted({ header: 'x-a' }) })] })]
  })
  const atRegister = reads
  t.ok(atRegister > 0, 'they were read')
  for (let i = 0; i < 5; i++) t.equal((await gateway.app.inject('/api/a')).statusCode, 200)
  t.equal(reads, atRegister)
})
