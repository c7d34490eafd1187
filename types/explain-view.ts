import { Type, type Static } from '@sinclair/typebox'
import { nullable } from './admin.ts'

/** The request that is asked about. */
export const ExplainRequestSchema = Type.Object({
  method: Type.Optional(Type.String({ default: 'GET', pattern: '^[A-Z-]{1,32}$', description: 'Its method, in upper case.', expected: 'a method in upper case', examples: ['GET'] })),
  url: Type.String({ pattern: '^[\\x21-\\x7e\\x80-\\xff]{1,16384}$', description: 'Path and query, as they stand in the request line; or an absolute URL.', expected: 'what stands in a request line: /path?query', examples: ['/api/users?id=7'] }),
  headers: Type.Optional(Type.Record(Type.String(), Type.Union([Type.String(), Type.Array(Type.String())], { expected: 'a string or an array of strings' }), {
    default: {},
    description: 'Its headers; one that comes more than once has an array. Without a `Host`, that of this very request.',
    expected: 'an object of strings, or of arrays of strings',
    examples: [{ cookie: 'a=b' }]
  })),
  ip: Type.Optional(Type.String({ minLength: 2, maxLength: 64, description: 'Address of the peer that sends it. Default: that of the one who asks.', examples: ['203.0.113.7'] })),
  upstream: Type.Optional(Type.String({ minLength: 1, description: 'Name of an upstream that is asked whatever the route says. For a handler, whose options are not known, the default upstream otherwise.' }))
}, {
  additionalProperties: false,
  title: 'ExplainRequest',
  description: 'A request of which all but the body is known, and what hooks would make of it: they do not run.',
  examples: [{ method: 'GET', url: '/api/users?id=7', headers: { 'x-tenant': 'blue' } }]
})

const optionalText = (description: string) => nullable(Type.String({ description }))
const milliseconds = (description: string) => Type.Number({ minimum: 0, description: `Milliseconds ${description}` })

const route = Type.Object({
  kind: Type.Union([Type.Literal('declared'), Type.Literal('handler'), Type.Literal('other')], { description: '`declared` for one of the option `routes` or of `rockstar-proxy/routes`, of which all is known; `handler` for one of the application\'s, of which is not known what it does: what follows is what `forward(request, reply)` would do; `other` for one of another registration of rockstar-proxy, with backends of its own: nothing follows, unless an upstream of this one is named.' }),
  method: Type.String({ description: 'The method asked for.' }),
  url: Type.String({ description: 'The path that it was added for.', examples: ['/api/*'] }),
  prefix: optionalText('The prefix that is taken off; `null` for a handler.'),
  rewritePrefix: optionalText('What takes its place; `null` for a handler.'),
  askAt: optionalText('For a route of another registration, the path of its explain; `null` otherwise, and where there is none on this server.')
}, { title: 'ExplainedRoute', description: 'The route of Fastify\'s that it meets.' })

const group = Type.Object({
  priority: Type.Integer({ description: 'Their priority; 0 comes first.' }),
  zone: nullable(Type.Union([Type.Literal('own'), Type.Literal('other')], { description: 'Whose zone, where they are divided by zones.' })),
  share: Type.Number({ minimum: 0, maximum: 1, description: 'Part of the requests that they get.' }),
  panic: Type.Boolean({ description: 'Whether all active ones are used, as too few are available.' }),
  backends: Type.Array(Type.String(), { description: 'Ids of those that can be chosen.' })
}, { title: 'ExplainedGroup', description: 'Backends that are chosen among together.' })

const backend = Type.Object({
  id: Type.String({ description: 'Its id.' }),
  available: Type.Boolean({ description: 'Whether it may be chosen now.' }),
  considered: Type.Boolean({ description: 'Whether it could be chosen for this request.' }),
  reasons: Type.Array(Type.String(), { description: 'What keeps it from being chosen.', examples: [['unhealthy']] }),
  weight: Type.Integer({ minimum: 0, description: 'Its weight.' }),
  effectiveWeight: Type.Number({ minimum: 0, description: 'What load balancers go by.' }),
  priority: Type.Integer({ minimum: 0, description: 'Its priority.' }),
  zone: optionalText('Its zone.'),
  inFlight: Type.Integer({ minimum: 0, description: 'Attempts under way.' })
}, { title: 'ExplainedBackend', description: 'A backend, and what speaks against it.' })

const sent = Type.Object({
  method: Type.String({ description: 'The method.' }),
  url: Type.String({ description: 'Where it goes: the backend\'s address, its base path, the path and the query.', examples: ['http://10.0.0.1:8081/users?id=7'] }),
  path: Type.String({ description: 'What stands in the request line.', examples: ['/users?id=7'] }),
  headers: Type.Array(Type.Array(Type.String(), { minItems: 2, maxItems: 2 }), { description: 'Names and values in their order; without those that the connection writes (`Connection`, and what HTTP/2 has instead of `Host`). The body is never shown, nor are values that are mostly secret (`Authorization`, `Cookie`, keys and tokens) and that the question has not: `***`.', examples: [[['host', '10.0.0.1:8081'], ['X-Forwarded-For', '203.0.113.7']]] }),
  upgrade: optionalText('The protocol that the backend is asked to switch to.')
}, { title: 'ExplainedSending', description: 'What would be sent.' })

const rules = Type.Object({
  timeouts: Type.Object({
    connect: milliseconds('for a connection; 0 for ever.'),
    headers: milliseconds('for the response\'s head; 0 for ever.'),
    idle: milliseconds('without a byte; 0 for ever.'),
    tunnel: milliseconds('without a byte once another protocol is spoken; 0 for ever.'),
    request: milliseconds('until the response begins, all in all; 0 for ever.')
  }, { description: 'What holds for each step.' }),
  repeatable: Type.Boolean({ description: 'Whether it may be sent again when it has been sent: by its method, or because its sender says so.' }),
  retry: nullable(Type.Object({
    attempts: Type.Integer({ description: 'Attempts in all.' }),
    perTryTimeout: milliseconds('for each; 0 for as long as the others allow.'),
    on: Type.Array(Type.String(), { description: 'Failures after which another is made.' }),
    statuses: Type.Array(Type.Integer(), { description: 'Answers after which another is made.' }),
    maxBodySize: Type.Integer({ description: 'Bytes of a body that are kept for it.' })
  }, { description: 'Attempts after failures; `null` for none.' })),
  hedge: nullable(Type.Object({
    percentile: Type.Number({ description: 'Part of recent answers, in percent, that would have begun by then.' }),
    minDelay: milliseconds('at the least.'),
    maxExtra: Type.Number({ description: 'Most second attempts, as a part of all requests.' }),
    delay: nullable(milliseconds('after which one would be made now; `null` where that is not known yet, or such a request gets none.'))
  }, { description: 'A second attempt while the first takes long; `null` for none.' })),
  mirror: nullable(Type.Object({
    upstream: Type.String({ description: 'Who gets copies.' }),
    percent: Type.Number({ description: 'Of how many requests in a hundred.' })
  }, { description: 'Copies; `null` for none.' })),
  fallback: Type.Union([Type.Null(), Type.Literal('answer'), Type.Object({ upstream: Type.String() })], { description: 'What takes the place of an answer that there is not: one of the application\'s, or another upstream\'s.' })
}, { title: 'ExplainedRules', description: 'What holds for the request.' })

const answer = Type.Object({
  statusCode: Type.Integer({ description: 'The status.' }),
  code: optionalText('Which error: `FST_ROCKSTAR_…`; `null` where it is none.'),
  message: Type.String({ description: 'The same in words.' }),
  retryAfter: nullable(Type.Integer({ description: 'Seconds that `Retry-After` says.' })),
  fallback: Type.Boolean({ description: 'Whether the `fallback` takes its place.' })
}, { title: 'ExplainedAnswer', description: 'What the client gets without any backend being asked.' })

/** What would become of a request. */
export const ExplainViewSchema = Type.Object({
  request: Type.Object({
    method: Type.String(),
    url: Type.String(),
    ip: Type.String({ description: 'The client\'s address, by Fastify\'s `trustProxy`.' })
  }, { description: 'What was asked about.' }),
  route: nullable(route),
  upstream: optionalText('Name of the upstream; `null` where none is asked.'),
  balancer: optionalText('The policy that chooses.'),
  chosen: optionalText('Id of the backend; `null` where there is none, or only sending the request would tell.'),
  because: optionalText('Why it was among those that could be chosen.'),
  why: optionalText('The same in words, or why there is none.'),
  assumed: Type.Array(Type.String(), { description: 'Decorators of the request that functions of the options have looked at. No hook has run, so that they had their first values; with those that hooks give them, the answer may be another.', examples: [['tenant']] }),
  match: nullable(Type.Record(Type.String(), Type.Unknown(), { description: 'What the metadata of backends had to say.' })),
  panic: Type.Boolean({ description: 'Whether too few are available.' }),
  waits: Type.Boolean({ description: 'Whether it would have to wait in the queue of `limits`.' }),
  groups: Type.Array(group, { description: 'What is chosen among.' }),
  backends: Type.Array(backend, { description: 'All of the upstream.' }),
  sent: nullable(sent),
  rules: nullable(rules),
  answer: nullable(answer)
}, {
  title: 'ExplainView',
  description: 'What would become of a request.',
  examples: [{
    request: { method: 'GET', url: '/api/users?id=7', ip: '203.0.113.7' },
    route: { kind: 'declared', method: 'GET', url: '/api/*', prefix: '/api', rewritePrefix: '', askAt: null },
    upstream: 'default',
    balancer: 'round-robin',
    chosen: 'backend-1',
    because: 'balancer',
    why: 'it is the only one available',
    assumed: [],
    match: null,
    panic: false,
    waits: false,
    groups: [{ priority: 0, zone: null, share: 1, panic: false, backends: ['backend-1'] }],
    backends: [{ id: 'backend-1', available: true, considered: true, reasons: [], weight: 1, effectiveWeight: 1, priority: 0, zone: null, inFlight: 0 }],
    sent: {
      method: 'GET',
      url: 'http://10.0.0.1:8081/users?id=7',
      path: '/users?id=7',
      headers: [['host', '10.0.0.1:8081'], ['X-Forwarded-For', '203.0.113.7'], ['Via', '1.1 rockstar-proxy']],
      upgrade: null
    },
    rules: {
      timeouts: { connect: 10_000, headers: 30_000, idle: 60_000, tunnel: 3_600_000, request: 30_000 },
      repeatable: true,
      retry: { attempts: 3, perTryTimeout: 0, on: ['connect', 'reset', 'timeout', 'bad-response'], statuses: [502, 503, 504], maxBodySize: 65_536 },
      hedge: null,
      mirror: null,
      fallback: null
    },
    answer: null
  }]
})

/** The request that is asked about. */
export type ExplainRequest = Static<typeof ExplainRequestSchema>
/** What would become of a request. */
export type ExplainView = Static<typeof ExplainViewSchema>
