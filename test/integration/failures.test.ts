/** Backends that fail as processes do: killed, stopped, mute, refusing, overloaded, now well and now not. */
import { setTimeout } from 'node:timers/promises'
import { Pool } from 'undici'
import t from 'tap'
import type { Test } from 'tap'
import type { ProxyEventName, ProxyEvents, RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type Gateway } from '../helpers/app.ts'
import { backendProcesses, type BackendProcess } from '../helpers/backend-process.ts'
import { FakeClock } from '../helpers/clock.ts'
import { until } from '../helpers/wire.ts'

const OPEN = 'FST_ROCKSTAR_CIRCUIT_OPEN'
const THRESHOLD = 3
const CLIENTS = 8
/** Requests a second that a load comes to at the most, however many clients there are. */
const PACE = 1_000

/** They serve one test after the other: starting one takes its time. */
const processes = await backendProcesses(t, 'a', 'b', 'c')

/** What a client has got. */
interface Answer {
  status: number
  /** Of an error of the gateway's own. */
  code: string
  retryAfter: string | undefined
  body: string
}

interface Stage {
  gateway: Gateway
  backends: BackendProcess[]
  /** What has become of backends and circuits, each as `a circuit:open`. */
  events: string[]
  /** Asks for `/`, or another path, once. */
  get (path?: string): Promise<Answer>
  /** Asks so many times at once. */
  wave (count: number): Promise<Answer[]>
  /** Keeps so many clients asking, again and again. */
  load (clients?: number): Load
  /** Resolves when an event comes that has not come yet, of a backend. */
  next (name: Exclude<ProxyEventName, `panic:${string}` | `discovery:${string}`>, id?: string): Promise<unknown>
  /** How often something has become of a backend, or of any. */
  count (name: ProxyEventName, id?: string): number
}

/** A gateway in front of one process for each id, with settings that are short but keep their proportions. */
async function stage (t: Test, ids: string, options: RockstarProxyOptions = {}): Promise<Stage> {
  const backends = processes.slice(0, ids.length)
  await Promise.all(backends.map(backend => backend.reset()))
  const gateway = await startGateway(t, {
    backends: backends.map(({ id, url }) => ({ id, url })),
    routes: [{ prefix: '/' }],
    breaker: { threshold: THRESHOLD, timeout: 300, maxTimeout: 600 },
    ...options
  }, { fastify: { logger: false } })
  const { proxy } = gateway.app
  const pool = new Pool(gateway.url)
  t.teardown(() => pool.destroy())
  const get = async (path = '/'): Promise<Answer> => {
    const { statusCode, headers, body } = await pool.request({ path, method: 'GET' })
    const text = await body.text()
    return { status: statusCode, code: text.startsWith('{') ? JSON.parse(text).code : '', retryAfter: headers['retry-after'] as string | undefined, body: text }
  }
  const events: string[] = []
  for (const name of ['circuit:open', 'circuit:half-open', 'circuit:closed', 'backend:unhealthy', 'backend:healthy', 'backend:ejected', 'backend:returned'] as const) {
    proxy.on(name, ({ backend }: ProxyEvents[typeof name][0]) => { events.push(`${backend.id} ${name}`) })
  }
  return {
    gateway,
    backends,
    events,
    get,
    wave: count => Promise.all(Array.from({ length: count }, () => get())),
    load: (clients = CLIENTS) => {
      const load = new Load(get, clients)
      t.teardown(() => load.stop())
      return load
    },
    next: (name, id = 'a') => new Promise(resolve => {
      const listener = (event: ProxyEvents[typeof name][0]) => {
        if (event.backend.id !== id) return
        proxy.off(name, listener)
        resolve(event)
      }
      proxy.on(name, listener)
    }),
    count: (name, id) => events.filter(event => event === `${id} ${name}` || (id === undefined && event.endsWith(` ${name}`))).length
  }
}

/** Clients that ask again and again, with a pause between. */
class Load {
  readonly answers: Answer[] = []
  #begun = 0
  #running = true
  #waiting: { from: number, count: number, answers: Answer[], resolve (answers: Answer[]): void }[] = []
  readonly #ended: Promise<unknown>

  constructor (get: () => Promise<Answer>, clients: number) {
    this.#ended = Promise.all(Array.from({ length: clients }, async () => {
      while (this.#running) {
        const number = this.#begun++
        this.#take(number, await get())
        await setTimeout(clients * 1_000 / PACE)
      }
    }))
  }

  /** Resolves to the next so many answers to what is asked from now on. */
  more (count: number): Promise<Answer[]> {
    return new Promise(resolve => this.#waiting.push({ from: this.#begun, count, answers: [], resolve }))
  }

  /** Resolves to all answers when the last has come. */
  async stop (): Promise<Answer[]> {
    this.#running = false
    await this.#ended
    return this.answers
  }

  #take (number: number, answer: Answer): void {
    this.answers.push(answer)
    for (const waiting of this.#waiting) {
      if (number >= waiting.from && waiting.answers.push(answer) === waiting.count) waiting.resolve(waiting.answers)
    }
    this.#waiting = this.#waiting.filter(({ answers, count }) => answers.length < count)
  }
}

function errorsOf (answers: readonly Answer[]): Answer[] {
  return answers.filter(({ status }) => status !== 200)
}

/** Who answered, each once. */
function whoOf (answers: readonly Answer[]): string {
  return [...new Set(answers.map(({ status, body }) => status === 200 ? body : `[${status}]`))].sort().join('')
}

// One of two fails, and is mended

interface Failure {
  fail (backend: BackendProcess): unknown
  mend (backend: BackendProcess): unknown
  /** What clients see of it. */
  status: number
}

const failures: Record<string, Failure> = {
  'is killed': { fail: backend => backend.kill(), mend: backend => backend.start(), status: 502 },
  'is stopped': { fail: backend => backend.stop(), mend: backend => backend.continue(), status: 504 },
  'refuses connections': { fail: backend => backend.behave('refusing'), mend: backend => backend.behave('well'), status: 502 },
  'accepts and never answers': { fail: backend => backend.behave('silent'), mend: backend => backend.behave('well'), status: 504 },
  'answers 503': { fail: backend => backend.behave('unavailable'), mend: backend => backend.behave('well'), status: 503 }
}

for (const [what, { fail, mend, status }] of Object.entries(failures)) {
  t.test(`a backend that ${what} is taken out after a few errors, and served from again when it is well`, async t => {
    const { backends: [a], next, wave, count, gateway } = await stage(t, 'ab', { timeout: { headers: 800 } })
    t.equal(whoOf(await wave(10)), 'ab')
    await fail(a)
    const opened = next('circuit:open')
    const seen: Answer[] = []
    // Every second one goes to each, so that a wave is enough, unless it is well for a moment yet.
    while (count('circuit:open') === 0) seen.push(...await wave(2 * THRESHOLD))
    await opened
    const underWay = THRESHOLD - 1
    t.ok(errorsOf(seen).length >= 1 && errorsOf(seen).length <= THRESHOLD + underWay, `${errorsOf(seen).length} errors`)
    t.ok(errorsOf(seen).every(answer => answer.status === status), `all of them ${status}`)

    const after = await wave(10)
    // Where it has been half-open meanwhile, one client has tried it each time.
    t.ok(errorsOf(after).length <= count('circuit:open') - 1, `${errorsOf(after).length} errors while it is out`)
    await mend(a)
    while (gateway.app.proxy.getBackend('a').circuitState !== 'closed') {
      if (gateway.app.proxy.getBackend('a').circuitState === 'open') await next('circuit:half-open')
      await wave(2)
    }
    const mended = await wave(20)
    t.equal(whoOf(mended), 'ab')
    t.equal(count('circuit:closed'), 1)
    t.equal(count('circuit:open', 'b'), 0, 'the other one was never doubted')
    t.equal(gateway.app.proxy.getMetrics().backends.b.failedRequests, 0)
  })
}

t.test('clients that ask one after the other see no more errors than the threshold', async t => {
  for (const what of ['is killed', 'refuses connections', 'answers 503']) {
    const { backends: [a], get, count } = await stage(t, 'ab', { breaker: { threshold: THRESHOLD } })
    for (let i = 0; i < 4; i++) await get()
    await failures[what].fail(a)
    const answers: Answer[] = []
    while (count('circuit:open') === 0) answers.push(await get())
    t.ok(errorsOf(answers).length <= THRESHOLD, `${what}: ${errorsOf(answers).length} errors`)
    const after: Answer[] = []
    for (let i = 0; i < 20; i++) after.push(await get())
    t.equal(whoOf(after), 'b', 'then none')
  }
})

// All observers at once

t.test('with health checks no client has to try a backend that is still dead', async t => {
  const { backends: [a], load: start, next, count, gateway } = await stage(t, 'abc', {
    health: { interval: 50, timeout: 2_000, fall: 3, rise: 2 }, outlier: true
  })
  const load = start()
  await load.more(30)
  const [unhealthy, halfOpen, opened] = [next('backend:unhealthy'), next('circuit:half-open'), next('circuit:open')]
  await a.kill()
  await Promise.all([unhealthy, halfOpen, opened])
  // Those that were on their way there have come back.
  await load.more(CLIENTS)
  t.equal(whoOf(await load.more(100)), 'bc', 'though its circuit would let one try')
  const errors = errorsOf(load.answers).length
  t.ok(errors >= 1 && errors <= THRESHOLD + CLIENTS - 1 + count('circuit:open') - 1, `${errors} errors`)
  t.notOk(gateway.app.proxy.getBackend('a').available)

  const [healthy, closed] = [next('backend:healthy'), next('circuit:closed')]
  await a.start()
  await healthy
  // Its ejection lasts until something better than an open port speaks for it.
  t.equal(gateway.app.proxy.getBackend('a').ejected, count('backend:ejected', 'a') === 1)
  gateway.app.proxy.updateBackend('a', { healthCheck: { path: '/health' } })
  await closed
  t.equal(whoOf(await load.more(60)), 'abc')
  await load.stop()
  t.equal(errorsOf(load.answers).length, errors, 'coming back costs nobody an error')
})

t.test('a stopped process goes on accepting connections: a check with a path finds it, one without does not', async t => {
  const { backends: [a], gateway, get, next } = await stage(t, 'ab', { health: { path: '/health', interval: 50, timeout: 300, fall: 2, rise: 2 } })
  const { proxy } = gateway.app
  const byPort = proxy.addUpstream('by port', { backends: [{ id: 'a', url: a.url }] })
  const [unhealthy, healthy] = [next('backend:unhealthy'), next('backend:healthy')]
  a.stop()
  t.match(await unhealthy, { cause: 'no answer within 300 ms', counts: { consecutiveFails: 2 } })
  await byPort.healthCheck()
  t.equal(byPort.getHealthStatus().a.isHealthy, true)
  for (let i = 0; i < 6; i++) t.match(await get(), { status: 200, body: 'b' })
  a.continue()
  await healthy
  t.ok(proxy.getBackend('a').available)
  t.equal(proxy.getMetrics().backends.a.failedRequests, 0, 'no client has had to find out')
})

// Coming back

t.test('of 50 clients exactly one reaches a backend that comes back, until that one has been answered; the others go elsewhere', async t => {
  const clock = new FakeClock()
  const { backends: [a], wave, load: start, next, events } = await stage(t, 'ab', { clock, breaker: true })
  await a.behave('refusing')
  while (events.length === 0) await wave(2)
  await a.behave('held')
  await a.forget()
  // Nobody has to wait for half a minute: only the clock of the gateway is not real.
  clock.advance(40_000)
  t.strictSame(events, ['a circuit:open', 'a circuit:half-open'])
  const load = start(50)
  await a.holds(1)
  await Promise.race([load.more(50), a.holds(2)])
  const meanwhile = await Promise.race([load.more(150), a.holds(2)])
  t.equal((await a.report()).requests.length, 1)
  t.equal(whoOf(meanwhile ?? []), 'b', 'nobody else waits for it')
  const closed = next('circuit:closed')
  await a.behave('well')
  await a.release()
  await closed
  t.equal(whoOf(await load.more(100)), 'ab', 'then all')
  t.ok((await a.report()).requests.length > 40)
  await load.stop()
  t.strictSame(errorsOf(load.answers), [])
})

t.test('where there is no other, the rest of 50 clients is told at once to come back later', async t => {
  const clock = new FakeClock()
  const { backends: [a], wave, load: start, next, gateway, events } = await stage(t, 'a', { clock, breaker: true })
  await a.kill()
  while (events.length === 0) await wave(1)
  await a.start('held')
  t.match(await wave(1), [{ status: 503, code: OPEN, retryAfter: /^(2[7-9]|3[0-3])$/ }])
  clock.advance(40_000)
  const { totalRequests } = gateway.app.proxy.getMetrics().backends.a
  const load = start(50)
  await a.holds(1)
  await Promise.race([load.more(50), a.holds(2)])
  const meanwhile = await Promise.race([load.more(150), a.holds(2)])
  t.equal((await a.report()).requests.length, 1)
  t.ok(meanwhile?.every(({ status, code, retryAfter }) => status === 503 && code === OPEN && retryAfter === '1'))
  t.equal(gateway.app.proxy.getMetrics().backends.a.totalRequests, totalRequests + 1, 'of the others not even an attempt is made')
  const closed = next('circuit:closed')
  await a.behave('well')
  await a.release()
  await closed
  await load.more(50)
  t.equal(whoOf(await load.more(100)), 'a')
})

// Now well, now not

for (const [how, status] of [['unavailable', 503], ['refusing', 502]] as const) {
  t.test(`a backend that flaps (${how}) costs the others no request, and comes back for good when it is well for good`, async t => {
    const { backends: [a], load: start, gateway, count } = await stage(t, 'abc', { breaker: { threshold: THRESHOLD, timeout: 50, maxTimeout: 200 } })
    const { proxy } = gateway.app
    const load = start()
    for (let turn = 0; turn < 4; turn++) {
      await a.behave(how)
      await load.more(50)
      await a.behave('well')
      // Sometimes it is let back in, sometimes it fails again before.
      if (turn % 2 === 0) await load.more(50)
      else while (proxy.getBackend('a').circuitState !== 'closed') await load.more(10)
    }
    while (proxy.getBackend('a').circuitState !== 'closed') await load.more(10)
    t.ok((await load.more(100)).some(({ body }) => body === 'a'))
    await load.stop()
    const errors = errorsOf(load.answers)
    t.ok(count('circuit:open', 'a') > 0)
    t.equal(count('circuit:open'), count('circuit:open', 'a'))
    t.ok(errors.every(answer => answer.status === status), whoOf(errors))
    const { backends } = proxy.getMetrics()
    t.strictSame([backends.b.failedRequests, backends.c.failedRequests], [0, 0])
    t.ok(errors.length > 0 && errors.length <= backends.a.failedRequests, 'every error was of its making')
    // Each opening after a closing costs the threshold and what is under way; each try in vain one.
    t.ok(errors.length <= (count('circuit:closed') + 1) * (THRESHOLD + CLIENTS - 1) + count('circuit:open'), `${errors.length} errors`)
  })
}

// Everything fails

t.test('with all down clients hear at once that every circuit is open, and one that returns serves them all', async t => {
  const { backends: [a, b, c], load: start, gateway, count } = await stage(t, 'abc')
  const { proxy } = gateway.app
  const load = start()
  await load.more(30)
  await Promise.all([a.kill(), b.kill(), c.kill()])
  while (!proxy.listBackends().every(({ id }) => count('circuit:open', id) > 0)) await load.more(1)
  const down = await load.more(100)
  t.ok(down.every(({ status, code }) => status === 502 || (status === 503 && code === OPEN)), whoOf(down))
  const open = down.filter(({ code }) => code === OPEN)
  t.ok(open.length >= 90, `${open.length} of 100`)
  t.ok(open.every(({ retryAfter }) => retryAfter === '1'), 'with Retry-After in whole seconds')

  await b.start()
  while (proxy.getBackend('b').circuitState !== 'closed') await load.more(10)
  const opened = count('circuit:open')
  const attempts = proxy.getMetrics().backends.b.totalRequests
  await load.more(CLIENTS)
  const served = await load.more(100)
  const errors = errorsOf(served)
  t.ok(served.some(({ body }) => body === 'b'))
  t.notOk(served.some(({ code }) => code === OPEN), 'nobody is sent away any more')
  t.ok(errors.length <= count('circuit:open') - opened, `${errors.length} errors: no more than tries of those that are still down`)
  t.ok(proxy.getMetrics().backends.b.totalRequests >= attempts + 100 - errors.length)
  t.equal(proxy.getBackend('b').circuitState, 'closed')
})

t.test('with all down and health checks on, the one that returns is found without a client that has to try', async t => {
  const { backends: [a, b], load: start, next, gateway } = await stage(t, 'ab', { panicThreshold: 0, health: { interval: 50, timeout: 2_000 } })
  const gone = Promise.all([next('backend:unhealthy', 'a'), next('backend:unhealthy', 'b')])
  await Promise.all([a.kill(), b.kill()])
  await gone
  t.equal(gateway.app.proxy.isReady(), false)
  const load = start()
  t.equal(whoOf(await load.more(50)), '[503]')
  const healthy = next('backend:healthy', 'b')
  await b.start()
  await healthy
  t.equal(gateway.app.proxy.isReady(), true)
  await load.more(CLIENTS)
  t.equal(whoOf(await load.more(100)), 'b')
})

// Under way

t.test('what is under way on a backend when it is taken out is not interrupted, and does not bring it back', async t => {
  const { backends: [a], get, wave, count, gateway, next } = await stage(t, 'a', { health: { path: '/health', interval: 50, timeout: 2_000, fall: 2 } })
  const { proxy } = gateway.app
  const [waiting, halfway] = [get('/waiting'), get('/half')]
  await a.holds(2)
  const [unhealthy, halfOpen] = [next('backend:unhealthy'), next('circuit:half-open')]
  await a.behave('unavailable')
  await unhealthy
  // Panic: there is no other.
  while (count('circuit:open') === 0) await wave(THRESHOLD)
  await halfOpen
  t.equal(proxy.getBackend('a').inFlight, 2)
  await a.release()
  t.match(await waiting, { status: 200, body: 'a' })
  t.match(await halfway, { status: 200, body: 'aa' })
  t.equal(proxy.getBackend('a').circuitState, 'half-open', 'it has not been tried')
  t.equal(count('circuit:closed'), 0)
  t.equal(proxy.getMetrics().abortedRequests, 0)
})

t.test('a process that is stopped for less than its timeout costs nobody an error', async t => {
  const { backends: [a], wave, gateway, events } = await stage(t, 'ab')
  const { proxy } = gateway.app
  await wave(4)
  a.stop()
  const answers: Answer[] = []
  const waves: Promise<unknown>[] = []
  for (let asked = 0; proxy.getBackend('a').inFlight < 2 * THRESHOLD; asked += 2) {
    waves.push(wave(2).then(wave => answers.push(...wave)))
    await until(() => proxy.getMetrics().totalRequests === asked + 6)
  }
  a.continue()
  await Promise.all(waves)
  t.equal(whoOf(answers), 'ab')
  t.strictSame(events, [])
})
