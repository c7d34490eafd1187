import t, { type Test } from 'tap'
import type { PoolOptions } from '../../types/index.ts'
import { startGateway, type Gateway } from '../helpers/app.ts'
import { connectTo, ok, rawBackend, until, type Message, type RawBackend, type Wire } from '../helpers/wire.ts'

const LIMIT = 20_000

async function start (t: Test, answer: (request: Message, wire: Wire, backend: RawBackend) => string | void, pool: PoolOptions = {}): Promise<{ gateway: Gateway, backend: RawBackend }> {
  const backend = await rawBackend(t, answer)
  const gateway = await startGateway(t, { backends: [backend.url], routes: [{ prefix: '/' }], pool })
  return { gateway, backend }
}

async function ask (t: Test, gateway: Gateway, path = '/a'): Promise<Message> {
  const client = await connectTo(t, gateway.port)
  client.send(`GET ${path} HTTP/1.1\r\nHost: gateway\r\n\r\n`)
  return await client.response()
}

const settled = (gateway: Gateway): Promise<void> => until(() => gateway.app.proxy.getConnectionPool().stats().active === 0)
const SMUGGLED = ok('SMUGGLED', 'X-Evil: 1\r\n')

t.test('a second response in the packet of the first reaches nobody', { timeout: LIMIT }, async t => {
  const { gateway, backend } = await start(t, ({ startLine }) => ok(startLine) + SMUGGLED)
  for (let i = 0; i < 5; i++) {
    const { status, body, head } = await ask(t, gateway, `/${i}`)
    t.same([status, body], [200, `GET /${i} HTTP/1.1`])
    t.notMatch(head, /evil/i)
    await settled(gateway)
  }
  t.equal(backend.connections.length, 5, 'no such connection was used again')
  await until(() => backend.connections.every(({ closed }) => closed))
})

t.test('bytes on an idle connection cost it, whatever they are', { timeout: LIMIT }, async t => {
  for (const bytes of [SMUGGLED, 'H', '\r\n', 'HTTP/1.1 100 Continue\r\n\r\n', 'HTTP/1.1 103 Early Hints\r\nLink: </evil>\r\n\r\n', '\0', 'HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n']) {
    const { gateway, backend } = await start(t, ({ startLine }) => ok(startLine))
    await ask(t, gateway, '/first')
    await settled(gateway)
    backend.connections[0].send(bytes)
    await until(() => backend.connections[0].closed || backend.connections[0].ended || gateway.app.proxy.getConnectionPool().stats().total === 0)
    const { status, body, head } = await ask(t, gateway, '/second')
    t.same([status, body], [200, 'GET /second HTTP/1.1'], JSON.stringify(bytes))
    t.notMatch(head, /evil/i)
    t.equal(backend.connections.length, 2)
    await until(() => backend.connections[0].closed)
  }
})

t.test('a request that comes together with smuggled bytes does not get them', { timeout: LIMIT }, async t => {
  let poison: Wire | undefined
  const { gateway } = await start(t, ({ startLine }, wire) => {
    if (startLine.includes('/poison')) poison = wire
    return ok(startLine)
  })
  for (let i = 0; i < 50; i++) {
    await ask(t, gateway, '/poison')
    await settled(gateway)
    const client = await connectTo(t, gateway.port)
    // In one turn: both are there when the proxy looks, the one or the other first.
    if (i % 2 === 0) poison?.send(SMUGGLED)
    client.send('GET /victim HTTP/1.1\r\nHost: gateway\r\n\r\n')
    if (i % 2 === 1) poison?.send(SMUGGLED)
    const { status, body, head } = await client.response()
    t.notMatch(body + head, /SMUGGLED|evil/i)
    t.equal(status, 200)
  }
})

t.test('requests that wait for a connection do not get what is behind another\'s response', { timeout: LIMIT }, async t => {
  const { gateway } = await start(t, ({ startLine }) => ok(startLine) + SMUGGLED, { connections: 1 })
  const answers = await Promise.all(Array.from({ length: 10 }, (_, i) => ask(t, gateway, `/${i}`)))
  t.same(answers.map(({ body }) => body), Array.from({ length: 10 }, (_, i) => `GET /${i} HTTP/1.1`))
})

t.test('Connection: close is honoured, in both versions', { timeout: LIMIT }, async t => {
  const heads: [string, number][] = [
    [ok('x', 'Connection: close\r\n'), 3], [ok('x', 'connection: Close\r\n'), 3], [ok('x', 'Connection: keep-alive, close\r\n'), 3],
    ['HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx', 3], ['HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx', 1], [ok('x'), 1]
  ]
  for (const [response, connections] of heads) {
    const { gateway, backend } = await start(t, () => response)
    for (let i = 0; i < 3; i++) {
      t.equal((await ask(t, gateway)).body, 'x')
      await settled(gateway)
    }
    t.equal(backend.connections.length, connections, response.split('\r\n\r\n')[0])
    if (connections === 3) await until(() => backend.connections.every(({ ended }) => ended))
  }
})

t.test('Keep-Alive: max= is honoured, as what is left or as a sum', { timeout: LIMIT }, async t => {
  const cases: [(served: number) => string, number[]][] = [
    [served => `Keep-Alive: timeout=60, max=${3 - served}\r\n`, [3, 3, 1]],
    [() => 'Keep-Alive: max=0\r\n', [1, 1, 1, 1, 1, 1, 1]],
    [() => 'keep-alive: Max = "1"\r\n', [2, 2, 2, 1]],
    [() => 'Keep-Alive: timeout=60, max=2\r\n', [3, 3, 1]],
    [() => 'Keep-Alive: timeout=60\r\nKeep-Alive: max=1\r\n', [2, 2, 2, 1]],
    [() => 'Keep-Alive: maximum=1, xmax=0\r\n', [7]],
    [() => 'X-Keep-It: max=0\r\nKeep-Alife: max=0\r\n', [7]]
  ]
  for (const [field, expected] of cases) {
    const served = new Map<Wire, number>()
    const { gateway } = await start(t, (_, wire) => {
      served.set(wire, (served.get(wire) ?? 0) + 1)
      return ok('ok', field(served.get(wire) as number))
    })
    for (let i = 0; i < 7; i++) {
      await ask(t, gateway)
      await settled(gateway)
    }
    t.same([...served.values()], expected, field(1))
  }
})

t.test('maxRequestsPerConnection: so many, then a new connection, and nobody notices', { timeout: LIMIT }, async t => {
  const served = new Map<Wire, number>()
  const { gateway, backend } = await start(t, ({ startLine }, wire) => {
    served.set(wire, (served.get(wire) ?? 0) + 1)
    return ok(startLine)
  }, { maxRequestsPerConnection: 3, connections: 2 })
  const answers = await Promise.all(Array.from({ length: 40 }, (_, i) => ask(t, gateway, `/${i}`)))
  t.same(answers.map(({ status, body }) => [status, body]), Array.from({ length: 40 }, (_, i) => [200, `GET /${i} HTTP/1.1`]))
  t.ok([...served.values()].every(count => count <= 3))
  t.ok(served.size >= 14)
  await settled(gateway)
  await until(() => backend.connections.filter(({ closed, ended }) => !closed && !ended).length <= 2)
  const once = await start(t, () => ok(), { maxRequestsPerConnection: 1 })
  for (let i = 0; i < 3; i++) await ask(t, once.gateway)
  t.equal(once.backend.connections.length, 3)
  t.equal(once.gateway.app.proxy.getConnectionPool().stats().reuseRatio, 0)
})
