import t from 'tap'
import { startGateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, rawBackend, until } from '../helpers/wire.ts'

const routes = [{ prefix: '/' }]
const GET = 'GET / HTTP/1.1\r\nHost: gateway\r\n\r\n'

t.test('what waits in vain for a connection of a backend that says nothing at all is its failure', async t => {
  const clock = new FakeClock()
  const backend = await rawBackend(t, () => '')
  const gateway = await startGateway(t, {
    clock, routes, backends: [{ id: 'a', url: backend.url }], pool: { connections: 1 }, timeout: { connect: 1_000, headers: 0, request: 0 }, breaker: { threshold: 1 }
  })
  const { proxy } = gateway.app
  const stuck = await gateway.connect()
  stuck.send(GET)
  await until(() => backend.requests.length === 1)
  const waiting = await gateway.connect()
  waiting.send(GET)
  await until(() => proxy.getConnectionPool().stats().pending === 1)
  clock.advance(1_500)
  t.match(await waiting.receive('\r\n\r\n'), /^HTTP\/1\.1 504 /)
  t.equal(proxy.getBackend('a').circuitState, 'open')
})

t.test('a backend that fails its checks and passes them again is tried at once, however long its circuit was to stay open', async t => {
  const clock = new FakeClock()
  let well = false
  const backend = await rawBackend(t, request => well ? ok('fine') : request.startLine.includes('/health') ? ok('', '', '500 Sorry') : ok('', '', '503 Sorry'))
  const gateway = await startGateway(t, {
    clock, routes, backends: [{ id: 'a', url: backend.url }], breaker: { threshold: 1, timeout: 100_000 }, health: { path: '/health', fall: 1, rise: 1, interval: 1_000 }
  })
  const { proxy } = gateway.app
  const get = async () => (await gateway.app.inject('/')).statusCode
  t.equal(await get(), 503)
  t.equal(proxy.getBackend('a').circuitState, 'open')
  await proxy.healthCheck().catch(() => {})
  t.equal(proxy.getHealthStatus().a.errorMessage, 'status 500')
  well = true
  await proxy.healthCheck()
  t.equal(proxy.getBackend('a').circuitState, 'half-open')
  t.equal(await get(), 200)
  t.equal(proxy.getBackend('a').circuitState, 'closed')
  proxy.getCircuitBreaker().open?.('a')
  well = false
  await proxy.healthCheck().catch(() => {})
  well = true
  await proxy.healthCheck()
  t.equal(proxy.getBackend('a').circuitState, 'open', 'but not what was isolated by hand')
})
