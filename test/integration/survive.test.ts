/** What reaches clients, and what reaches backends twice, when backends fail, are restarted, hang up and are overloaded under load. */
import { setTimeout as sleep } from 'node:timers/promises'
import { Pool } from 'undici'
import t, { type Test } from 'tap'
import type { RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type Gateway } from '../helpers/app.ts'
import { journallingBackends, type BackendProcess, type Setup } from '../helpers/backend-process.ts'
import { seeded } from '../helpers/random.ts'
import { until } from '../helpers/wire.ts'

/** Requests a second, whatever becomes of those before, and the part of them that are POSTs. */
const RATE = 300
const POSTS = 1 / 6

type Method = 'GET' | 'POST'

/** A request, and what has become of it. */
interface Sent {
  id: string
  method: Method
  /** 0 while there is no answer, or where there is none. */
  status: number
  /** Who has answered. */
  by: string
  answered: boolean
}

/** A steady load on a gateway. Everything has an id, which the backends keep. */
class Load {
  readonly all: Sent[] = []
  readonly #pool: Pool
  readonly #methods: () => Method
  readonly #underWay = new Set<Promise<void>>()
  readonly #ended: Promise<void>
  #running = true

  constructor (url: string, methods: () => Method) {
    this.#pool = new Pool(url)
    this.#methods = methods
    this.#ended = this.#run()
  }

  /** Resolves when so many that are sent from now on have been answered. */
  async more (count: number): Promise<Sent[]> {
    const from = this.all.length
    await until(() => this.all.length >= from + count && this.all.slice(from, from + count).every(({ answered }) => answered))
    return this.all.slice(from, from + count)
  }

  /** Resolves when a backend has answered something that is sent from now on. */
  async servedBy ({ id }: BackendProcess): Promise<void> {
    const from = this.all.length
    await until(() => this.all.slice(from).some(({ status, by }) => status === 200 && by === id))
  }

  /** Resolves to all of them when the last has been answered. */
  async stop (): Promise<Sent[]> {
    this.#running = false
    await this.#ended
    await Promise.all(this.#underWay)
    return this.all
  }

  async end (): Promise<void> {
    await this.stop()
    await this.#pool.destroy()
  }

  async #run (): Promise<void> {
    const start = performance.now()
    for (let number = 0; this.#running; number++) {
      const left = start + number * 1_000 / RATE - performance.now()
      if (left > 0) await sleep(left)
      const request = this.#send(number).finally(() => this.#underWay.delete(request))
      this.#underWay.add(request)
    }
  }

  async #send (number: number): Promise<void> {
    const sent = { id: `r${number}`, method: this.#methods(), status: 0, by: '', answered: false }
    this.all.push(sent)
    await ask(this.#pool, sent)
  }
}

async function ask (pool: Pool, sent: Sent, headers: Record<string, string> = {}): Promise<void> {
  try {
    const { statusCode, body } = await pool.request({ path: '/', method: sent.method, headers: { 'x-id': sent.id, ...headers }, body: sent.method === 'POST' ? `order ${sent.id}` : null })
    sent.by = await body.text()
    sent.status = statusCode
  } catch {}
  sent.answered = true
}

/** Not every sixth: round robin would send all of those to the same backend. */
const mixed = (): () => Method => {
  const random = seeded(1)
  return () => random() < POSTS ? 'POST' : 'GET'
}
const gets = (): Method => 'GET'

interface Stage {
  gateway: Gateway
  backends: BackendProcess[]
  load (methods?: () => Method): Load
}

/** A gateway before a process for each id, with retries at their defaults, and times that are short. */
async function stage (t: Test, ids: string, setup: Setup, options: RockstarProxyOptions = {}): Promise<Stage> {
  const backends = await journallingBackends(t, ids, setup)
  const gateway = await startGateway(t, {
    backends: backends.map(({ id, url }) => ({ id, url })),
    routes: [{ prefix: '/' }],
    retry: true,
    breaker: { timeout: 300, maxTimeout: 300 },
    ...options
  }, { fastify: { logger: false } })
  return {
    gateway,
    backends,
    load (methods = mixed()) {
      const load = new Load(gateway.url, methods)
      t.teardown(() => load.end())
      return load
    }
  }
}

function failed (all: readonly Sent[], method: Method): Sent[] {
  return all.filter(sent => sent.method === method && sent.status !== 200)
}

/** How often backends have got each request of a method. */
function timesGot (backends: readonly BackendProcess[], method: Method): Map<string, number> {
  const times = new Map<string, number>()
  for (const backend of backends) {
    for (const entry of backend.journal()) {
      if (entry.what === 'got' && entry.method === method) times.set(entry.id, (times.get(entry.id) ?? 0) + 1)
    }
  }
  return times
}

/** Ids of those that some backend has got twice, or that two have got. */
function duplicates (backends: readonly BackendProcess[], method: Method = 'POST'): string[] {
  return [...timesGot(backends, method)].filter(([, times]) => times > 1).map(([id]) => id)
}

/** Whether a backend has a POST that it has not answered. */
function holdsPost (backend: BackendProcess): boolean {
  const posts = backend.journal().filter(({ method }) => method === 'POST')
  return posts.filter(({ what }) => what === 'got').length > posts.filter(({ what }) => what === 'done').length
}

t.test('at 300 requests a second a SIGKILL of one backend of three costs no GET, doubles no POST, and loses only POSTs that were on their way to it', async t => {
  const { backends, load: start } = await stage(t, 'abc', { takes: 100 })
  const [a, b, c] = backends
  const load = start()
  await load.more(RATE)
  while (!holdsPost(a)) await sleep(1)
  const underWay = new Set(load.all.filter(({ answered }) => !answered))
  const from = load.all.length
  await a.kill()
  for (const sent of load.all.slice(from)) underWay.add(sent)
  await load.more(RATE)
  await a.start()
  await load.servedBy(a)
  const all = await load.stop()

  t.strictSame(failed(all, 'GET'), [])
  t.strictSame(duplicates(backends), [])
  const elsewhere = timesGot([b, c], 'POST')
  const onIt = [...underWay].filter(({ id, method }) => method === 'POST' && !elsewhere.has(id))
  const lost = failed(all, 'POST')
  t.ok(lost.length <= onIt.length, `${lost.length} lost of ${onIt.length}`)
  t.ok(lost.every(sent => onIt.includes(sent)), 'all of them were on their way to it')
  t.ok(lost.every(({ status }) => status === 502), 'and their clients were told')
  t.ok(all.length > 2 * RATE)
  t.comment(`${all.length} requests, ${lost.length} POSTs lost`)
})

t.test('a rolling restart of all three costs no GET and doubles no POST', async t => {
  const { backends, load: start } = await stage(t, 'abc', { takes: 20 })
  const load = start()
  await load.more(100)
  for (const backend of backends) {
    await backend.retire()
    await load.more(50)
    await backend.start()
    await load.servedBy(backend)
  }
  await load.more(100)
  const all = await load.stop()
  t.strictSame(failed(all, 'GET'), [])
  t.strictSame(duplicates(backends), [])
  const lost = failed(all, 'POST')
  // They were on their way as their connection was closed: who leaves in order answers what it has got.
  const got = timesGot(backends, 'POST')
  t.strictSame(lost.filter(({ id, status }) => got.has(id) || status !== 502), [])
  t.comment(`${all.length} requests, ${lost.length} POSTs lost`)
})

/** By how many milliseconds requests come earlier or later than their backend hangs up. */
const AROUND = 5

/** Sends requests, every other one a POST, each just as the backend closes the connection that the one before has left idle. */
async function race (t: Test, limit: number, lanes: number, times: number): Promise<{ backend: BackendProcess, all: Sent[], again: number }> {
  const [backend] = await journallingBackends(t, 'a', { idle: limit })
  const names = Array.from({ length: lanes }, (_, i) => `lane${i}`)
  // A pool for each lane, so that nobody else renews its connection meanwhile.
  const gateway = await startGateway(t, {
    upstreams: Object.fromEntries(names.map(name => [name, { backends: [{ id: 'a', url: backend.url }], retry: true }])),
    routes: [{ prefix: '/', upstream: request => request.headers['x-lane'] as string }]
  }, { fastify: { logger: false } })
  const pool = new Pool(gateway.url)
  t.teardown(() => pool.destroy())
  const random = seeded(1)
  const all: Sent[] = []
  await Promise.all(names.map(async (name, lane) => {
    for (let number = 0; number < times; number++) {
      const sent: Sent = { id: `${name}-${number}`, method: (lane + number) % 2 === 0 ? 'GET' : 'POST', status: 0, by: '', answered: false }
      all.push(sent)
      await ask(pool, sent, { 'x-lane': name })
      await sleep(limit - AROUND + random() * 2 * AROUND)
    }
  }))
  const { upstreams } = gateway.app.proxy.getMetrics()
  const again = names.reduce((sum, name) => sum + upstreams[name].totalRetries, 0)
  t.equal(all.length, lanes * times)
  t.comment(`${again} GETs met a closed connection, ${failed(all, 'POST').length} POSTs were lost`)
  return { backend, all, again }
}

t.test('of 2000 requests that come just as an idle connection is closed no GET fails, no POST is doubled, and none is lost that its backend has got', async t => {
  const { backend, all } = await race(t, 60, 40, 50)
  t.strictSame(failed(all, 'GET'), [])
  t.strictSame(duplicates([backend]), [])
  const got = timesGot([backend], 'POST')
  t.strictSame(failed(all, 'POST').filter(({ id, status }) => got.has(id) || status !== 502), [])
})

t.test('where the backend keeps connections for longer than a POST may find them idle, none is lost', async t => {
  const { backend, all } = await race(t, 300, 100, 10)
  t.strictSame(all.filter(({ status }) => status !== 200), [])
  t.strictSame(duplicates([backend]), [])
})

t.test('with every backend answering 503 retries add a fifth to the load at the most', async t => {
  const { backends, gateway, load: start } = await stage(t, 'abc', {}, { breaker: false })
  await Promise.all(backends.map(backend => backend.behave('unavailable')))
  const load = start()
  await load.more(2 * RATE)
  const all = await load.stop()
  t.ok(all.every(({ status }) => status === 503))
  const attempts = [...timesGot(backends, 'GET').values(), ...timesGot(backends, 'POST').values()].reduce((sum, times) => sum + times, 0)
  t.ok(attempts <= 1.2 * all.length, `${attempts} attempts for ${all.length} requests`)
  t.ok(attempts > all.length, 'some are made')
  t.strictSame(duplicates(backends), [])
  const { totalRetries, retriesDenied } = gateway.app.proxy.getMetrics()
  t.equal(totalRetries, attempts - all.length)
  t.ok(retriesDenied > 0)
})

t.test('a backend of three that has become a black hole costs no GET, and nobody meets it twice', async t => {
  const attempts = new Map<string, string[]>()
  const { backends, load: start } = await stage(t, 'abc', {}, {
    retry: { perTryTimeout: 200 },
    routes: [{
      prefix: '/',
      onResponse: (request, _reply, response) => { attempts.set(request.headers['x-id'] as string, response.attempts.map(({ backend }) => backend.id)) }
    }]
  })
  const [a] = backends
  const load = start(gets)
  await load.more(100)
  const from = load.all.length
  a.stop()
  await load.more(2 * RATE)
  const to = load.all.length
  a.continue()
  await load.servedBy(a)
  const all = await load.stop()
  t.strictSame(failed(all, 'GET'), [])
  const met = all.slice(from, to).map(({ id }) => attempts.get(id) as string[])
  t.ok(met.every(ids => ids.filter(id => id === 'a').length <= 1))
  t.ok(met.some(ids => ids.length > 1 && ids.includes('a')), 'some have met it')
})
