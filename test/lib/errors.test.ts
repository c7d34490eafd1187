import t from 'tap'
import { errors, proxyError, type ErrorCode } from '../../lib/errors.ts'
import * as root from '../../plugins/index.ts'
import { startGateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { rawBackend, until } from '../helpers/wire.ts'

/** What each error tells a client, and how many words are filled in. */
const table: Record<ErrorCode, [status: number, words: number]> = {
  INVALID_OPTIONS: [500, 1],
  INVALID_REQUEST: [400, 1],
  ADMIN_FORBIDDEN: [403, 1],
  ADMIN_CONFLICT: [409, 1],
  ADMIN_PRECONDITION: [412, 0],
  ADMIN_NOT_JSON: [415, 0],
  DUPLICATE_BACKEND: [409, 2],
  UNKNOWN_BACKEND: [404, 2],
  DUPLICATE_UPSTREAM: [409, 1],
  UNKNOWN_UPSTREAM: [500, 1],
  BAD_REQUEST: [400, 1],
  UPGRADE_REFUSED: [403, 0],
  METHOD_REFUSED: [405, 1],
  UNSUPPORTED_CODING: [501, 0],
  LOOP: [508, 0],
  BODY_CONSUMED: [500, 1],
  INVALID_HEADER: [500, 2],
  NO_BACKEND: [503, 0],
  CIRCUIT_OPEN: [503, 0],
  OVERLOADED: [503, 0],
  UNHEALTHY: [503, 1],
  CLOSED: [503, 0],
  CONNECT: [502, 0],
  RESET: [502, 0],
  BAD_RESPONSE: [502, 0],
  BAD_STATUS: [502, 1],
  TIMEOUT: [504, 0],
  REQUEST_TIMEOUT: [408, 0],
  CLIENT_CLOSED: [499, 0],
  ABORTED: [503, 0]
}
const words = ['first-word', 'second-word']

t.test('the table is whole: every error is in it, and nothing else', t => {
  t.strictSame(Object.keys(errors).sort(), Object.keys(table).sort())
  t.end()
})

t.test('every error has a code, a status and a message with its words in it', t => {
  for (const [name, [status, count]] of Object.entries(table)) {
    const error = proxyError(name as ErrorCode, undefined, ...words.slice(0, count)) as Error & { code: string, statusCode: number }
    t.type(error, Error, name)
    t.type(error, errors[name as ErrorCode], `${name} is an instance of its class`)
    t.equal(error.code, `FST_ROCKSTAR_${name}`)
    t.equal(error.statusCode, status, name)
    t.ok(error.message.length > 0, name)
    t.notMatch(error.message, /%s|undefined/, `${name} leaves no gap`)
    for (const word of words.slice(0, count)) t.match(error.message, word, name)
    t.equal(error.toString(), `FastifyError [FST_ROCKSTAR_${name}]: ${error.message}`)
  }
  t.end()
})

t.test('the cause is kept as it is, whatever it is', t => {
  for (const cause of [new Error('inner'), 'a string', null, 0, false, { any: 'thing' }]) {
    t.equal(proxyError('RESET', cause).cause, cause)
  }
  t.notOk('cause' in proxyError('RESET'), 'and there is none where none was given')
  t.end()
})

t.test('a word is put in as it is, even one that looks like a placeholder', t => {
  t.equal(proxyError('UNKNOWN_UPSTREAM', undefined, '%s %d %j').message, "No upstream is named '%s %d %j'")
  t.equal(proxyError('INVALID_OPTIONS', undefined, '100 %').message, '100 %')
  t.end()
})

t.test('no message of the table holds an address', t => {
  for (const [name, [, count]] of Object.entries(table)) {
    const { message } = proxyError(name as ErrorCode, undefined, ...words.slice(0, count))
    t.notMatch(message, /https?:|\/\/|\d+\.\d+\.\d+\.\d+|:\d+|localhost/, name)
  }
  t.end()
})

t.test('the classes are exported, for instanceof in an error handler', t => {
  t.equal(root.errors, errors)
  t.end()
})

t.test('a client sees code, message and status, and never an address; the log has the cause', async t => {
  const clock = new FakeClock()
  const answers: Record<string, string | undefined> = {
    '/bad': 'HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx'
  }
  const backend = await rawBackend(t, (request, wire) => {
    const path = request.startLine.split(' ')[1]
    if (path === '/reset') wire.reset()
    return answers[path]
  })
  const gone = await rawBackend(t, () => {})
  gone.close()
  const gateway = await startGateway(t, {
    backends: [backend.url],
    clock,
    timeout: { headers: 1_000 },
    upstreams: { gone: { backends: [{ id: 'gone', url: gone.url }] }, none: {}, open: { backends: [{ id: 'b', url: backend.url }] } },
    routes: [{ prefix: '/' }, { prefix: '/gone', upstream: 'gone' }, { prefix: '/none', upstream: 'none' }, { prefix: '/open', upstream: 'open' }, { prefix: '/nosuch', upstream: 'nosuch' }]
  })
  const secrets = new RegExp(`${backend.port}|${gone.port}|127\\.0\\.0\\.1|localhost`)
  gateway.app.proxy.upstream('open').getCircuitBreaker().open?.('b')
  const expected: [path: string, name: ErrorCode, hasCause: boolean][] = [
    ['/bad', 'BAD_RESPONSE', true], ['/reset', 'RESET', true], ['/slow', 'TIMEOUT', false],
    ['/gone', 'CONNECT', true], ['/none', 'NO_BACKEND', false], ['/open', 'CIRCUIT_OPEN', false], ['/nosuch', 'UNKNOWN_UPSTREAM', false]
  ]
  for (const [path, name, hasCause] of expected) {
    const logged = gateway.log.length
    const client = await gateway.connect()
    client.send(`GET ${path} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
    if (name === 'TIMEOUT') {
      await until(() => backend.requests.some(request => request.startLine.includes('/slow')))
      clock.advance(2_000)
    }
    const response = await client.response()
    const [status] = table[name]
    t.equal(response.status, status, path)
    t.notMatch(response.head, secrets, `${path}: no address in the head`)
    t.notMatch(response.body, secrets, `${path}: no address in the body`)
    const body = JSON.parse(response.body)
    t.match(body, { statusCode: status, code: `FST_ROCKSTAR_${name}` })
    t.strictSame(Object.keys(body).sort(), ['code', 'error', 'message', 'statusCode'], `${path}: and nothing else`)
    const line = gateway.log.slice(logged).find(line => line.level >= 40 && line.err !== undefined && (line.err as { code?: string }).code === `FST_ROCKSTAR_${name}`)
    t.ok(line, `${path}: the error is logged`)
    if (hasCause) t.match((line?.err as { stack: string }).stack, /caused by/, `${path}: with its cause`)
  }
  const unhealthy = await gateway.app.proxy.upstream('gone').healthCheck().catch((error: Error) => error)
  t.match(unhealthy, { code: 'FST_ROCKSTAR_UNHEALTHY', message: /'gone'.*gone \(connect ECONNREFUSED\)$/ }, 'who asks for checks is told names')
  t.notMatch(String(unhealthy), secrets)
})
