import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import t, { type Test } from 'tap'
import type { Backend, ProxyEventName, ProxyEvents, RockstarProxyOptions, Upstream } from '../../types/index.ts'
import { startGateway, type Gateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { Client } from '../helpers/named.ts'
import { seeded } from '../helpers/random.ts'
import { ok, rawBackend, until, type RawBackend } from '../helpers/wire.ts'

const NAMES: ProxyEventName[] = [
  'backend:added', 'backend:draining', 'backend:drained', 'backend:removed', 'backend:healthy', 'backend:unhealthy', 'backend:ejected', 'backend:returned',
  'circuit:open', 'circuit:half-open', 'circuit:closed', 'panic:on', 'panic:off'
]
/** The lines of the log that tell of events. */
const TEXTS: Record<string, ProxyEventName> = {
  'a backend was added': 'backend:added',
  'a backend takes no new requests': 'backend:draining',
  'a backend has nothing left to do': 'backend:drained',
  'a backend was removed': 'backend:removed',
  'a backend passes its health checks': 'backend:healthy',
  'a backend fails its health checks': 'backend:unhealthy',
  'a backend was ejected': 'backend:ejected',
  'a backend is no longer ejected': 'backend:returned',
  'a circuit is open': 'circuit:open',
  'a circuit is half-open': 'circuit:half-open',
  'a circuit is closed': 'circuit:closed',
  'too few backends are available: all active ones are used': 'panic:on',
  'enough backends are available again': 'panic:off'
}
const WARNINGS = ['backend:unhealthy', 'backend:ejected', 'circuit:open', 'panic:on']

type AnyEvent = ProxyEvents[ProxyEventName][0] & { backend?: Backend }

/** Everything that is told to listeners, as `NAME BACKEND`, and the events beside. */
class Ear {
  readonly heard: string[] = []
  readonly events: AnyEvent[] = []

  constructor (of: Upstream) {
    for (const name of NAMES) of.on(name, event => { this.hear(name, event as AnyEvent) })
  }

  hear (name: string, event: AnyEvent): void {
    this.heard.push('backend' in event ? `${name} ${event.backend?.id}` : name)
    this.events.push(event)
  }

  /** What has been heard since this was called last. */
  take (): string[] {
    this.events.length = 0
    return this.heard.splice(0)
  }
}

interface Rig extends Gateway {
  clock: FakeClock
  backends: Record<string, RawBackend>
  ear: Ear
  /** Backends that answer 503. */
  failing: Set<string>
  send (count: number): Promise<string>
}

async function start (t: Test, ids: string, options: RockstarProxyOptions = {}): Promise<Rig> {
  const clock = new FakeClock()
  const failing = new Set<string>()
  const backends: Record<string, RawBackend> = {}
  for (const id of ids) backends[id] = await rawBackend(t, () => failing.has(id) ? ok('', '', '503 Service Unavailable') : ok(id))
  let ear: Ear | undefined
  const gateway = await startGateway(t, {
    backends: [...ids].map(id => ({ id, url: backends[id].url })), clock, random: seeded(1), routes: [{ prefix: '/' }], ...options
  }, { setup: app => { ear = new Ear(app.proxy) } })
  const client = new Client(await gateway.connect())
  return { ...gateway, clock, backends, failing, ear: ear as Ear, send: count => client.turns(count) }
}

/** Lines of the log that tell of events, as what they tell. */
function logged ({ log }: Gateway): string[] {
  return log.filter(({ msg }) => msg in TEXTS).map(({ msg, backend }) => backend === undefined ? TEXTS[msg] : `${TEXTS[msg]} ${backend as string}`)
}

t.test('a backend that comes, drains and goes, each told once', async t => {
  const rig = await start(t, 'ab')
  const { proxy } = rig.app
  const slow = await rawBackend(t, () => {})
  const added = proxy.addBackend({ id: 'slow', url: slow.url, weight: 65_535 })
  t.strictSame(rig.ear.events, [{ upstream: 'default', time: rig.clock.wall(), backend: added }])
  t.strictSame(rig.ear.take(), ['backend:added slow'])
  t.throws(() => proxy.addBackend({ id: 'slow', url: slow.url }))
  const client = await rig.connect()
  client.send('GET / HTTP/1.1\r\nHost: g\r\n\r\n')
  await until(() => slow.requests.length === 1)
  rig.clock.advance(5)
  const removals = [proxy.removeBackend('slow'), proxy.removeBackend('slow')]
  t.strictSame(rig.ear.events, [{ upstream: 'default', time: rig.clock.wall(), backend: added }])
  t.strictSame(rig.ear.take(), ['backend:draining slow'], 'one removal, however often it is asked for')
  slow.connections[0].send(ok('late'))
  await Promise.all(removals)
  t.equal((await client.response()).body, 'late')
  t.strictSame(rig.ear.take(), ['backend:removed slow'])
  await t.rejects(proxy.removeBackend('slow'))
  t.strictSame(rig.ear.take(), [])
})

t.test('a backend that is ejected and returns', async t => {
  const rig = await start(t, 'ab', { outlier: true })
  rig.failing.add('a')
  await rig.send(12)
  t.strictSame(rig.ear.events, [{
    upstream: 'default', time: rig.clock.wall(), backend: rig.app.proxy.getBackend('a'), cause: 'failures in a row', counts: { consecutiveFailures: 5 }, until: rig.clock.wall() + 30_000
  }])
  t.strictSame(rig.ear.take(), ['backend:ejected a'])
  rig.clock.advance(30_000)
  t.strictSame(rig.ear.events, [{ upstream: 'default', time: rig.clock.wall(), backend: rig.app.proxy.getBackend('a'), cause: 'its time is over', counts: { ejections: 1 } }])
  t.strictSame(rig.ear.take(), ['backend:returned a'])
})

t.test('a circuit that opens, is tried, opens again, and closes', async t => {
  const rig = await start(t, 'a', { breaker: { threshold: 3, timeout: 1_000, jitter: 0 } })
  const { proxy } = rig.app
  const backend = proxy.getBackend('a')
  const now = () => ({ upstream: 'default', time: rig.clock.wall(), backend })
  rig.failing.add('a')
  await rig.send(3)
  t.match(rig.ear.events[0], { ...now(), from: 'closed', to: 'open', cause: 'too many attempts failed or were slow', counts: { consecutiveFailures: 3, openings: 1 } })
  await rig.send(5)
  t.strictSame(rig.ear.take().filter(name => name.startsWith('circuit')), ['circuit:open a'])
  rig.clock.advance(1_000)
  t.match(rig.ear.events[0], { ...now(), from: 'open', to: 'half-open', cause: 'it has been open for long enough', counts: {} })
  t.strictSame(rig.ear.take().filter(name => name.startsWith('circuit')), ['circuit:half-open a'])
  await rig.send(1)
  t.match(rig.ear.events[0], { ...now(), from: 'half-open', to: 'open', cause: 'a try failed', counts: { openings: 2 } })
  t.strictSame(rig.ear.take().filter(name => name.startsWith('circuit')), ['circuit:open a'])
  rig.clock.advance(2_000)
  rig.failing.clear()
  rig.ear.take()
  t.equal(await rig.send(1), 'a')
  t.match(rig.ear.events[0], { ...now(), from: 'half-open', to: 'closed', cause: 'tries succeeded', counts: { successes: 1 } })
  t.strictSame(rig.ear.take().filter(name => name.startsWith('circuit')), ['circuit:closed a'])
  proxy.getCircuitBreaker().open?.('a')
  proxy.getCircuitBreaker().close?.('a')
  proxy.getCircuitBreaker().close?.('a')
  t.strictSame(rig.ear.take().filter(name => name.startsWith('circuit')), ['circuit:open a', 'circuit:closed a'], 'and by hand')
})

t.test('replacing the circuit breaker tells of circuits that it has closed, and not again of those that stay open', async t => {
  const rig = await start(t, 'ab', { breaker: { threshold: 1, timeout: 1_000, jitter: 0 } })
  const { proxy } = rig.app
  rig.failing.add('a')
  await rig.send(2)
  t.match(rig.ear.take(), ['circuit:open a'])
  proxy.setCircuitBreaker({ threshold: 2 })
  t.equal(proxy.getBackend('a').circuitState, 'open')
  t.strictSame(rig.ear.take(), [], 'still open')
  proxy.setCircuitBreaker(false)
  t.equal(proxy.getBackend('a').circuitState, 'closed')
  t.match(rig.ear.events, [{ backend: { id: 'a' }, from: 'open', to: 'closed' }])
  t.strictSame(rig.ear.take(), ['circuit:closed a'])
})

t.test('a backend that fails its checks and passes them again, and panic that comes and goes', async t => {
  let well = false
  const rig = await start(t, 'a', { health: { checker: () => { if (!well) throw new Error('no database') }, fall: 2, rise: 1 } })
  const { proxy } = rig.app
  const backend = proxy.getBackend('a')
  const now = { upstream: 'default', time: rig.clock.wall() }
  await t.rejects(proxy.healthCheck())
  t.strictSame(rig.ear.take(), [])
  await t.rejects(proxy.healthCheck())
  const events = [...rig.ear.events]
  t.strictSame(rig.ear.take().sort(), ['backend:unhealthy a', 'panic:on'])
  t.strictSame(events.find(event => 'backend' in event), { ...now, backend, cause: 'no database', counts: { consecutiveFails: 2, consecutivePasses: 0 } })
  t.strictSame(events.find(event => 'active' in event), { ...now, available: 0, active: 1 })
  await t.rejects(proxy.healthCheck())
  t.strictSame(rig.ear.take(), [], 'told once')
  well = true
  await proxy.healthCheck()
  const after = [...rig.ear.events]
  t.strictSame(rig.ear.take().sort(), ['backend:healthy a', 'panic:off'])
  t.strictSame(after.find(event => 'backend' in event), { ...now, backend, cause: 'checks have passed', counts: { consecutiveFails: 0, consecutivePasses: 1 } })
  t.strictSame(after.find(event => 'active' in event), { ...now, available: 1, active: 1 })
  await proxy.healthCheck()
  t.strictSame(rig.ear.take(), [])
})

t.test('when an event is told the change is made: a listener sees it and may change more', async t => {
  const rig = await start(t, 'abc', { outlier: true })
  const { proxy } = rig.app
  const seen: unknown[] = []
  proxy.once('backend:ejected', ({ backend }) => {
    seen.push(backend.ejected, backend.available, proxy.getHealthStatus()[backend.id].isHealthy)
    proxy.addBackend({ id: 'spare', url: rig.backends.c.url })
    proxy.updateBackend(backend.id, { isActive: false })
  })
  rig.failing.add('a')
  await rig.send(15)
  t.strictSame(seen, [true, false, false])
  t.strictSame(rig.ear.take(), ['backend:ejected a', 'backend:added spare'])
  t.equal(proxy.listBackends().length, 4)
})

t.test('a named upstream hears of its own, app.proxy of all, also of one that comes later', async t => {
  const rig = await start(t, 'ab', { breaker: false, upstreams: { one: {} } })
  const { proxy } = rig.app
  const url = 'http://127.0.0.1:1'
  const one = new Ear(proxy.upstream('one'))
  proxy.upstream('one').addBackend({ id: 'x', url })
  const two = proxy.addUpstream('two')
  const second = new Ear(two)
  two.addBackend({ id: 'y', url })
  proxy.addBackend({ id: 'z', url })
  t.strictSame(rig.ear.events.map(({ upstream }) => upstream), ['one', 'two', 'default'])
  t.strictSame(rig.ear.take(), ['backend:added x', 'backend:added y', 'backend:added z'])
  t.strictSame(one.take(), ['backend:added x'])
  t.strictSame(second.take(), ['backend:added y'])
  await proxy.removeUpstream('two')
  t.match(second.take().filter(name => name.startsWith('backend')), ['backend:draining y', 'backend:removed y'])
  t.match(rig.ear.take().filter(name => name.startsWith('backend')), ['backend:draining y', 'backend:removed y'])
  t.strictSame(one.take(), [])
})

t.test('on, once and off give the upstream back; once is once and off is off', async t => {
  const rig = await start(t, 'a', { upstreams: { one: {} } })
  const url = 'http://127.0.0.1:1'
  for (const upstream of [rig.app.proxy, rig.app.proxy.upstream('one')]) {
    const heard: string[] = []
    const listener = ({ backend }: { backend: Backend }) => { heard.push(`on ${backend.id}`) }
    t.equal(upstream.on('backend:added', listener), upstream)
    t.equal(upstream.once('backend:added', ({ backend }) => { heard.push(`once ${backend.id}`) }), upstream)
    const cancelled = () => { heard.push('cancelled') }
    t.equal(upstream.once('backend:added', cancelled).off('backend:added', cancelled), upstream)
    upstream.addBackend({ id: 'x', url })
    upstream.addBackend({ id: 'y', url })
    t.equal(upstream.off('backend:added', listener), upstream)
    upstream.addBackend({ id: 'z', url })
    t.strictSame(heard, ['on x', 'once x', 'on y'])
  }
})

t.test('listeners that throw or reject cost no request and hide nothing from the others', async t => {
  const rig = await start(t, 'ab', { outlier: true, breaker: true })
  const { proxy } = rig.app
  const unhandled: unknown[] = []
  const onUnhandled = (reason: unknown) => { unhandled.push(reason) }
  process.on('unhandledRejection', onUnhandled)
  t.teardown(() => process.off('unhandledRejection', onUnhandled))
  for (const name of ['backend:ejected', 'circuit:open', 'backend:returned', 'backend:added'] as const) {
    proxy.on(name, () => { throw new Error(`thrown by ${name}`) })
    proxy.on(name, async () => { throw new Error(`rejected by ${name}`) })
  }
  const last = new Ear(proxy)
  rig.failing.add('a')
  t.match(await rig.send(20), /^(?:b|\[503\])+$/)
  t.match(await rig.send(5), 'bbbbb')
  t.doesNotThrow(() => proxy.addBackend({ id: 'x', url: 'http://127.0.0.1:1', weight: 0 }))
  rig.clock.advance(29_000)
  rig.clock.advance(8_000)
  rig.failing.clear()
  t.match(await rig.send(4), /^(abab|baba)$/)
  await new Promise(resolve => setImmediate(resolve))
  t.strictSame(unhandled, [])
  t.strictSame(last.heard, rig.ear.heard)
  const faults = rig.log.filter(({ msg }) => msg === 'a listener threw')
  t.strictSame(faults.map(({ event, err }) => `${event as string}: ${(err as Error).message}`).sort(), ['backend:added', 'backend:ejected', 'backend:returned', 'circuit:open'].flatMap(name => [`${name}: rejected by ${name}`, `${name}: thrown by ${name}`]))
  t.ok(faults.every(({ level }) => level === 50))
})

t.test('the same is told on node:diagnostics_channel, to whoever has subscribed', async t => {
  const published: [string, AnyEvent][] = []
  const subscriber = (event: unknown, name: string | symbol) => { published.push([String(name), event as AnyEvent]) }
  for (const name of NAMES) subscribe(`rockstar-proxy:${name}`, subscriber)
  const unsubscribeAll = () => { for (const name of NAMES) unsubscribe(`rockstar-proxy:${name}`, subscriber) }
  t.teardown(unsubscribeAll)
  const rig = await start(t, 'ab', { outlier: true, breaker: { timeout: 1_000, jitter: 0 }, upstreams: { one: { breaker: false, health: false, outlier: false } } })
  const { proxy } = rig.app
  rig.failing.add('a')
  await rig.send(12)
  rig.clock.advance(30_000)
  rig.failing.clear()
  await rig.send(4)
  proxy.upstream('one').addBackend({ id: 'x', url: 'http://127.0.0.1:1' })
  await proxy.upstream('one').removeBackend('x')
  t.ok(published.length >= 8)
  t.strictSame(published.map(([name, event]) => 'backend' in event ? `${name} ${event.backend?.id}` : name), rig.ear.heard.map(name => `rockstar-proxy:${name}`))
  published.forEach(([, event], i) => t.equal(event, rig.ear.events[i], 'the same object'))
  unsubscribeAll()
  proxy.addBackend({ id: 'y', url: 'http://127.0.0.1:1' })
  t.equal(published.length, rig.ear.heard.length - 1)
})

t.test('every event has one line in the log, at info or warn, with names and no address', async t => {
  const rig = await start(t, 'ab', { outlier: true, breaker: { timeout: 1_000, jitter: 0 }, health: { fall: 1, rise: 1 } })
  const { proxy } = rig.app
  rig.failing.add('a')
  await rig.send(12)
  rig.clock.advance(1_000)
  await until(() => proxy.getBackend('a').circuitState === 'half-open')
  proxy.getCircuitBreaker().close?.('a')
  rig.clock.advance(29_000)
  rig.failing.clear()
  rig.backends.b.close()
  await until(() => rig.backends.b.connections.every(({ closed }) => closed))
  await t.rejects(proxy.healthCheck())
  proxy.updateBackend('a', { isActive: false })
  await proxy.drainBackend('a')
  proxy.updateBackend('a', { isActive: true })
  const spare = await rawBackend(t, () => ok())
  proxy.addBackend({ id: 'spare', url: spare.url })
  await proxy.removeBackend('spare')
  const again = await rawBackend(t, () => ok())
  proxy.addBackend({ id: 'c', url: again.url, isActive: false })
  await proxy.removeBackend('b')

  t.strictSame(logged(rig), rig.ear.heard)
  for (const name of NAMES.filter(name => name !== 'backend:healthy')) t.ok(rig.ear.heard.some(line => line.startsWith(name)), name)
  for (const line of rig.log.filter(({ msg }) => msg in TEXTS)) {
    t.equal(line.level, WARNINGS.includes(TEXTS[line.msg]) ? 40 : 30, line.msg)
    t.equal(line.upstream, 'default')
    const { pid: _pid, hostname: _hostname, time: _time, ...told } = line
    t.notMatch(JSON.stringify(told), /127\.0\.0\.1|http:/, line.msg)
  }
})

t.test('what is there from the beginning, and the end of the app, are no events', async t => {
  const rig = await start(t, 'ab', { outlier: true, breaker: true, health: true })
  await rig.send(4)
  await rig.app.close()
  t.strictSame(rig.ear.heard, [])
  t.strictSame(logged(rig), [])
})
