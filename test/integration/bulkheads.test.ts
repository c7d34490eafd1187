import t, { type Test } from 'tap'
import type { LimitsOptions } from '../../types/index.ts'
import { startGateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { ok, rawBackend, until, type Wire } from '../helpers/wire.ts'

const patient = { connect: 0, headers: 0, idle: 0, request: 0 }

/** One upstream whose backends never answer, full and with a full queue, and another that is well. The time stands still. */
async function drowned (t: Test, limits: LimitsOptions) {
  const held: Wire[] = []
  const hung = await rawBackend(t, (_request, wire) => { held.push(wire) })
  const well = await rawBackend(t, () => ok('well'))
  const gateway = await startGateway(t, {
    clock: new FakeClock(),
    random: () => 0.5,
    upstreams: {
      drowned: { backends: [{ id: 'hung', url: hung.url }], limits, timeout: patient },
      other: { backends: [{ id: 'well', url: well.url }], limits, timeout: patient }
    },
    routes: [{ prefix: '/drowned', upstream: 'drowned' }, { prefix: '/other', upstream: 'other' }]
  })
  const metrics = (name: string) => gateway.app.proxy.getMetrics().upstreams[name]
  const ask = async (path: string): Promise<Wire> => (await gateway.connect()).send(`GET ${path} HTTP/1.1\r\nHost: g\r\n\r\n`)
  const clients = await Promise.all(Array.from({ length: 8 }, () => ask('/drowned')))
  await until(() => held.length === 2 && metrics('drowned').queueLength === 3 && metrics('drowned').shedRequests === 3)
  return { gateway, clients, held, well, metrics, ask }
}

for (const [name, limits] of Object.entries<LimitsOptions>({
  maxInFlight: { maxInFlight: 2, queue: { size: 3, timeout: 0 } },
  maxPerBackend: { maxPerBackend: 2, queue: { size: 3, timeout: 0 } },
  adaptive: { adaptive: { initial: 2, min: 1, max: 2 }, queue: { size: 3, timeout: 0 } }
})) {
  t.test(`an upstream that drowns holds up no request of another (${name})`, async t => {
    const { clients, held, well, metrics, ask } = await drowned(t, limits)
    for (let i = 0; i < 20; i++) {
      const response = await (await ask('/other')).response()
      t.match(response, { status: 200, body: 'well' })
    }
    t.equal(well.requests.length, 20)
    // All of that came before a single one of the others moved: no time has passed, and nothing was released.
    t.match(metrics('drowned'), { inFlight: 5, queueLength: 3, queuedRequests: 3, shedRequests: 3, successfulRequests: 0 })
    t.match(metrics('other'), { queuedRequests: 0, shedRequests: 0, successfulRequests: 20, failedRequests: 0, inFlight: 0 })
    t.equal(held.length, 2)
    for (let i = 0; i < 5; i++) {
      await until(() => held.length > 0)
      held.shift()?.send(ok())
    }
    const statuses = await Promise.all(clients.map(async client => (await client.response()).status))
    t.strictSame(statuses.sort(), [200, 200, 200, 200, 200, 503, 503, 503], 'and it comes up again')
    await until(() => metrics('drowned').inFlight === 0)
  })
}

t.test('what room one upstream gets wakes nobody who waits for another', async t => {
  const { held, metrics, ask } = await drowned(t, { maxInFlight: 2, queue: { size: 3, timeout: 0 } })
  for (let i = 0; i < 3; i++) await (await ask('/other')).response()
  t.equal(held.length, 2)
  t.equal(metrics('drowned').queueLength, 3)
})

t.test('requests of both that come at once do not wait for each other\'s upstreams', async t => {
  const { metrics, ask, well } = await drowned(t, { maxPerBackend: 2, queue: { size: 3, timeout: 0 } })
  const mixed = await Promise.all(Array.from({ length: 20 }, (_, i) => ask(i % 2 === 0 ? '/drowned' : '/other')))
  const statuses = await Promise.all(mixed.map(async wire => (await wire.response()).status))
  t.strictSame(statuses, Array.from({ length: 20 }, (_, i) => i % 2 === 0 ? 503 : 200))
  t.equal(well.requests.length, 10)
  t.equal(metrics('drowned').shedRequests, 13)
})
