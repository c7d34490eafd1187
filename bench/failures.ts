/**
 * What clients see of backends that fail: `npm run bench:failures`. Three backends in processes of their own behind a gateway, under a
 * steady load; the first of them fails in one way after another, and comes back. Some ways are played at once, each with
 * processes of its own: with this package at its defaults, then with short times, then with other proxies. At last come overload and slowness.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Pool } from 'undici'
import { BackendProcess } from '../test/helpers/backend-process.ts'
import { seeded } from '../test/helpers/random.ts'
import type { RockstarProxyOptions } from '../types/index.ts'
import { startNode, type Served } from './child.ts'
import { hasNginx, startNginxBefore } from './nginx.ts'

const BACKENDS = 3
/** Requests a second in each scenario, and how many scenarios run at once: few, so that two cores are enough. */
const RATE = 100
const AT_ONCE = 4
/** Part of them that are POSTs, each with an id that the backends write down. */
const POSTS = 1 / 6
/** Milliseconds that a backend takes for an answer: so long that a herd would be there before the first has been answered. */
const TAKES = 100
/** Milliseconds of load before the first failure, from one scenario's failure to the next one's, and after a return was noticed; and most to wait for that. */
const WARM_UP = 5_000
const APART = 300
const CALM = 3_000
const PATIENCE = 60_000
const TURN = 1_000
/** Milliseconds that a request may take before the client gives it up: longer than any time-out of the gateway. */
const CLIENT_TIMEOUT = 35_000
/** Answers where every circuit is open: how many connections ask for them, how often and for how long, and milliseconds that p99 is to be below. */
const REFUSED = { connections: 32, turns: 5, milliseconds: 1_000, aim: 5 }

/** Requests a second, and milliseconds, of the load on backends that all answer 503, and where one is slow; milliseconds that the others take there. */
const STORM = { rate: 300, lasts: 5_000 }
const SLOW = { rate: 300, warmUp: 3_000, lasts: 6_000, takes: 20, spread: 0.5, times: 10 }
const SLOW_CASES = [{ backends: 3, balancer: 'round-robin' }, { backends: 3, balancer: 'peak-ewma' }, { backends: 24, balancer: 'round-robin' }] as const

/** One way to fail. */
interface Scenario {
  name: string
  /** Options beside those of the settings, for what only this package has. */
  options?: RockstarProxyOptions
  /** Milliseconds from the failure to the return; where none are said, as long as the settings say. */
  lasts?: number
  /** Whether it leaves requests without an answer, so that only time tells. */
  hangs?: boolean
  fail (backends: BackendProcess[]): Promise<unknown> | void
  mend (backends: BackendProcess[]): Promise<unknown> | void
  /** What comes between, each after a `TURN`. */
  turns?: ((backends: BackendProcess[]) => Promise<unknown>)[]
}

const well = ([a]: BackendProcess[]) => a.behave('well')
const bad = ([a]: BackendProcess[]) => a.behave('unavailable')

/** One after the other, each after a `TURN`. */
async function restart (backends: BackendProcess[]): Promise<void> {
  for (const backend of backends) {
    await backend.retire()
    await backend.start()
    await sleep(TURN)
  }
}

const SCENARIOS: readonly Scenario[] = [
  { name: 'SIGKILL', fail: ([a]) => a.kill(), mend: ([a]) => a.start() },
  { name: 'SIGSTOP', hangs: true, fail: ([a]) => a.stop(), mend: ([a]) => a.continue() },
  { name: 'SIGSTOP, perTryTimeout 500', options: { retry: { perTryTimeout: 500 } }, hangs: true, fail: ([a]) => a.stop(), mend: ([a]) => a.continue() },
  { name: 'rolling restart', lasts: 0, fail: restart, mend: () => {} },
  { name: 'connection refused', fail: ([a]) => a.behave('refusing'), mend: well },
  { name: 'accepts, never answers', hangs: true, fail: ([a]) => a.behave('silent'), mend: well },
  { name: '503 for ten seconds', lasts: 10_000, fail: bad, mend: well },
  {
    name: 'flapping every second',
    lasts: 9 * TURN,
    fail: bad,
    turns: [well, bad, well, bad, well, bad, well, bad],
    mend: well
  },
  { name: 'all down, one returns', fail: backends => Promise.all(backends.map(backend => backend.kill())), mend: ([a]) => a.start() }
]

/** How a gateway is set up, and how long failures last that have no length of their own: until they have been noticed, and not until the first try. */
interface Settings {
  name: string
  /** Another proxy than this package. */
  proxy?: 'http-proxy' | 'nginx'
  title: string
  options: RockstarProxyOptions
  lasts: number
  hangs: number
}

const SETTINGS: readonly Settings[] = [
  { name: 'defaults', title: 'everything at its defaults', options: {}, lasts: 20_000, hangs: 40_000 },
  {
    name: 'short',
    title: 'short times',
    options: { timeout: { headers: 2_000 }, breaker: { timeout: 1_000 }, health: { path: '/health', interval: 1_000, timeout: 1_000 } },
    lasts: 8_000,
    hangs: 8_000
  },
  { name: 'http-proxy', title: '@fastify/http-proxy over the three in turn', proxy: 'http-proxy', options: {}, lasts: 8_000, hangs: 8_000 },
  { name: 'nginx', title: 'nginx, its retries at their defaults, proxy_connect_timeout 1s', proxy: 'nginx', options: {}, lasts: 8_000, hangs: 8_000 }
]

/** What one scenario came to. */
export interface FailureFigures {
  scenario: string
  requests: number
  /** Errors before anything had failed: where there are any, the machine was too busy. */
  errorsBefore: number
  /** Requests that were not answered with a 200, and how many of these by what status; 0 is no answer. */
  errors: number
  getErrors: number
  postErrors: number
  /** POSTs that backends have got more than once. */
  duplicatedPosts: number
  /** Milliseconds within which 99 % of what was asked after the failure had its answer. */
  p99: number
  statuses: Record<string, number>
  /** Of those, requests that were sent after the return. */
  errorsAfterReturn: number
  /** Milliseconds from the failure until the last client that was to see an error of it had asked, and until it had its answer. */
  lastAsked: number | null
  lastError: number | null
  /** Milliseconds from the return until a client had an answer of the backend that had come back. */
  served: number | null
  /** Requests that it got in the 100 ms from the first on: before it had answered any. */
  first100: number | null
}

/** What `--json` prints. */
export interface FailuresReport {
  node: string
  backends: number
  rate: number
  takes: number
  settings: Record<string, { title: string, options: RockstarProxyOptions, figures: FailureFigures[] }>
  refused?: RefusedFigures
  storm?: StormFigures[]
  slow?: SlowFigures[]
}

/** What reaches backends that all answer 503. */
export interface StormFigures {
  proxy: string
  requests: number
  attempts: number
  /** Attempts of a request. */
  amplification: number
  duplicatedPosts: number
}

/** What clients wait for where one backend is slow. */
export interface SlowFigures {
  backends: number
  balancer: string
  hedge: boolean
  requests: number
  p50: number
  p95: number
  p99: number
  /** 95 % of answers took no longer before one became slow. */
  healthyP95: number
  /** Attempts more than requests, as a part of these. */
  extra: number
}

/** What answers of `CIRCUIT_OPEN` take. */
export interface RefusedFigures {
  connections: number
  requestsPerSecond: number
  /** Milliseconds: medians of the turns. */
  p50: number
  p99: number
  /** The same of a 503 by a handler that does nothing else: what machine, Fastify and client take for themselves. */
  plainP99: number
}

/** One request, in milliseconds since 1970. */
interface Sent {
  method: 'GET' | 'POST'
  sent: number
  answered: number
  /** 0 for none. */
  status: number
  by: string
}

/** Milliseconds on a scale that all processes of this machine share. */
function now (): number {
  return performance.timeOrigin + performance.now()
}

async function sleepUntil (time: number): Promise<void> {
  const left = time - now()
  if (left > 0) await sleep(left)
}

/** Sends requests at a steady rate, whatever becomes of those before, on as many connections as that takes. */
class Load {
  readonly all: Sent[] = []
  readonly #pool: Pool
  readonly #rate: number
  readonly #random = seeded(1)
  readonly #underWay = new Set<Promise<void>>()
  readonly #ended: Promise<void>
  #running = true

  constructor (url: string, rate = RATE) {
    this.#rate = rate
    this.#pool = new Pool(url, { headersTimeout: CLIENT_TIMEOUT, bodyTimeout: CLIENT_TIMEOUT })
    this.#ended = this.#run()
  }

  /** Resolves when all are answered. */
  async stop (): Promise<void> {
    this.#running = false
    await this.#ended
    await Promise.all(this.#underWay)
    await this.#pool.close()
  }

  async #run (): Promise<void> {
    const start = now()
    for (let number = 0; this.#running; number++) {
      await sleepUntil(start + number * 1000 / this.#rate)
      const request = this.#send(number).finally(() => this.#underWay.delete(request))
      this.#underWay.add(request)
    }
  }

  async #send (number: number): Promise<void> {
    const method = this.#random() < POSTS ? 'POST' : 'GET'
    const one: Sent = { method, sent: now(), answered: 0, status: 0, by: '' }
    this.all.push(one)
    try {
      const { statusCode, body } = await this.#pool.request({ path: '/', method, headers: { 'x-sent': String(one.sent), 'x-id': `r${number}` }, body: method === 'POST' ? 'an order' : null })
      one.by = await body.text()
      one.status = statusCode
    } catch {}
    one.answered = now()
  }
}

/** A scenario whose processes are running. */
interface Stage {
  scenario: Scenario
  backends: BackendProcess[]
  gateway: Served
}

async function prepare (scenario: Scenario, { options, proxy }: Settings): Promise<Stage> {
  const backends = await startBackends(BACKENDS, { takes: TAKES })
  return { scenario, backends, gateway: await startProxy(proxy, { ...options, ...scenario.options }, backends) }
}

const folder = mkdtempSync(join(tmpdir(), 'bench-failures-'))
process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
let journals = 0

/** Backends that keep what they get in files. */
async function startBackends (count: number, setup: { takes?: number, spread?: number }): Promise<BackendProcess[]> {
  const backends = Array.from({ length: count }, (_, i) => new BackendProcess(String.fromCharCode(97 + i), { ...setup, journal: join(folder, String(journals++)) }))
  return await Promise.all(backends.map(backend => backend.start()))
}

function startProxy (proxy: Settings['proxy'], options: RockstarProxyOptions, backends: BackendProcess[]): Promise<Served> {
  const urls = backends.map(({ url }) => url)
  if (proxy === 'nginx') return startNginxBefore(urls, 'proxy_connect_timeout 1s;')
  return proxy === 'http-proxy' ? startNode('failures-gateway.mjs', [proxy, ...urls]) : startGateway(options, backends)
}

function startGateway (options: RockstarProxyOptions, backends: BackendProcess[]): Promise<Served> {
  return startNode('failures-gateway.mjs', [JSON.stringify(options), ...backends.map(({ url }) => url)])
}

async function play ({ scenario, backends, gateway }: Stage, { lasts, hangs }: Settings, number: number): Promise<FailureFigures> {
  const [first] = backends
  const load = new Load(gateway.url)
  await sleep(WARM_UP + number * APART)
  const failed = now()
  await scenario.fail(backends)
  for (const [i, turn] of (scenario.turns ?? []).entries()) {
    await sleepUntil(failed + (i + 1) * TURN)
    await turn(backends)
  }
  await sleepUntil(failed + (scenario.lasts ?? (scenario.hangs === true ? hangs : lasts)))
  await scenario.mend(backends)
  while (!load.all.some(one => isServed(one, first)) && now() < first.since + PATIENCE) await sleep(100)
  await sleep(CALM)
  await load.stop()
  const { requests } = await first.report()
  return figuresOf(scenario, load.all, failed, first, requests, backends)
}

async function end ({ backends, gateway }: Stage): Promise<void> {
  await gateway.stop()
  for (const backend of backends) await backend.kill()
}

/** Whether it was sent after the return, and answered by who has returned. */
function isServed ({ status, by, sent }: Sent, { id, since }: BackendProcess): boolean {
  return status === 200 && by === id && sent >= since
}

function figuresOf ({ name }: Scenario, all: Sent[], failed: number, first: BackendProcess, got: [sent: number, came: number][], backends: BackendProcess[]): FailureFigures {
  // What was under way at the failure had been sent before.
  const errors = all.filter(({ status, answered }) => status !== 200 && answered >= failed)
  const statuses: Record<string, number> = {}
  for (const { status } of errors) statuses[status] = (statuses[status] ?? 0) + 1
  const latest = (times: number[]) => times.length === 0 ? null : Math.max(0, Math.max(...times) - failed)
  const served = all.filter(one => isServed(one, first)).map(({ answered }) => answered)
  // A process that was stopped also finds what was given up long ago.
  const came = got.filter(([sent]) => sent >= first.since).map(([, came]) => came)
  return {
    scenario: name,
    requests: all.length,
    errorsBefore: all.filter(({ status, answered }) => status !== 200 && answered < failed).length,
    errors: errors.length,
    getErrors: errors.filter(({ method }) => method === 'GET').length,
    postErrors: errors.filter(({ method }) => method === 'POST').length,
    duplicatedPosts: duplicatedOf(backends),
    p99: percentileOf(all.filter(({ sent }) => sent >= failed), 0.99),
    statuses,
    errorsAfterReturn: errors.filter(({ sent }) => sent >= first.since).length,
    lastAsked: latest(errors.map(({ sent }) => sent)),
    lastError: latest(errors.map(({ answered }) => answered)),
    served: served.length === 0 ? null : Math.min(...served) - first.since,
    first100: came.length === 0 ? null : came.filter(time => time < Math.min(...came) + TAKES).length
  }
}

/** Requests that backends have got, each as often as they have. */
function gotOf (backends: BackendProcess[], method?: string): string[] {
  return backends.flatMap(backend => backend.journal()).filter(entry => entry.what === 'got' && (method === undefined || entry.method === method)).map(({ id }) => id)
}

function duplicatedOf (backends: BackendProcess[]): number {
  const times = new Map<string, number>()
  for (const id of gotOf(backends, 'POST')) times.set(id, (times.get(id) ?? 0) + 1)
  return [...times.values()].filter(times => times > 1).length
}

function percentileOf (all: Sent[], part: number): number {
  const times = all.map(({ sent, answered }) => answered - sent).sort((a, b) => a - b)
  return times[Math.max(0, Math.ceil(times.length * part) - 1)] ?? 0
}

/** How much more than the load reaches backends that all answer 503. Circuit breakers and outlier detection would hide it. */
async function measureStorm (): Promise<StormFigures[]> {
  const figures: StormFigures[] = []
  const cases: [string, Settings['proxy'], RockstarProxyOptions][] = [
    ['this package', undefined, {}],
    ['this package, without breaker and outlier detection', undefined, { breaker: false, outlier: false }],
    ['@fastify/http-proxy', 'http-proxy', {}],
    ...(hasNginx() ? [['nginx', 'nginx', {}] as [string, 'nginx', RockstarProxyOptions]] : [])
  ]
  for (const [name, proxy, options] of cases) {
    const backends = await startBackends(BACKENDS, {})
    await Promise.all(backends.map(backend => backend.behave('unavailable')))
    const gateway = await startProxy(proxy, options, backends)
    const load = new Load(gateway.url, STORM.rate)
    await sleep(STORM.lasts)
    await load.stop()
    const attempts = gotOf(backends).length
    figures.push({ proxy: name, requests: load.all.length, attempts, amplification: attempts / load.all.length, duplicatedPosts: duplicatedOf(backends) })
    await gateway.stop()
    for (const backend of backends) await backend.kill()
  }
  return figures
}

/** What clients wait where one backend takes ten times as long, without and with second attempts. */
async function measureSlow (): Promise<SlowFigures[]> {
  const figures: SlowFigures[] = []
  for (const { backends: count, balancer } of SLOW_CASES) {
    for (const hedge of [false, true]) {
      const backends = await startBackends(count, { takes: SLOW.takes, spread: SLOW.spread })
      const gateway = await startGateway({ balancer, hedge }, backends)
      const load = new Load(gateway.url, SLOW.rate)
      await sleep(SLOW.warmUp)
      const healthy = load.all.filter(({ answered }) => answered > 0)
      await backends[0].pace(SLOW.takes * SLOW.times)
      // What was asked before does not count, nor what it takes to notice.
      await sleep(SLOW.warmUp)
      const [from, gotBefore] = [load.all.length, gotOf(backends).length]
      await sleep(SLOW.lasts)
      await load.stop()
      // Hedging is for requests that may be sent twice.
      const gets = load.all.slice(from).filter(({ method }) => method === 'GET')
      const requests = load.all.length - from
      figures.push({
        backends: count,
        balancer,
        hedge,
        requests,
        p50: percentileOf(gets, 0.5),
        p95: percentileOf(gets, 0.95),
        p99: percentileOf(gets, 0.99),
        healthyP95: percentileOf(healthy.slice(healthy.length >> 1), 0.95),
        extra: (gotOf(backends).length - gotBefore - requests) / requests
      })
      await gateway.stop()
      for (const backend of backends) await backend.kill()
    }
  }
  return figures
}

/** How long it takes to say that every circuit is open, to connections that ask as fast as they can. */
async function measureRefused (): Promise<RefusedFigures> {
  const { connections, turns, milliseconds } = REFUSED
  const backends = Array.from({ length: BACKENDS }, (_, i) => new BackendProcess('abc'[i]))
  await Promise.all(backends.map(backend => backend.start('refusing')))
  const gateway = await startGateway({}, backends)
  const pool = new Pool(gateway.url, { connections })
  const rounds: number[][] = []
  const plain: number[][] = []
  try {
    await press(pool, '/')
    await press(pool, '/plain')
    for (let i = 0; i < turns; i++) {
      rounds.push(await press(pool, '/'))
      plain.push(await press(pool, '/plain'))
    }
  } finally {
    await pool.destroy()
    await gateway.stop()
    for (const backend of backends) await backend.kill()
  }
  const median = (rounds: number[][], part: number) => rounds.map(times => times[Math.ceil(times.length * part) - 1]).sort((a, b) => a - b)[turns >> 1]
  return { connections, requestsPerSecond: rounds.flat().length / turns / milliseconds * 1_000, p50: median(rounds, 0.5), p99: median(rounds, 0.99), plainP99: median(plain, 0.99) }
}

/** How long answers took, the shortest first; of the gateway's own only those that say that every circuit is open. */
async function press (pool: Pool, path: string): Promise<number[]> {
  const times: number[] = []
  const end = performance.now() + REFUSED.milliseconds
  await Promise.all(Array.from({ length: REFUSED.connections }, async () => {
    while (performance.now() < end) {
      const start = performance.now()
      const { body } = await pool.request({ path, method: 'GET' })
      const text = await body.text()
      if (path !== '/' || text.includes('FST_ROCKSTAR_CIRCUIT_OPEN')) times.push(performance.now() - start)
    }
  }))
  return times.sort((a, b) => a - b)
}

const COLUMNS = ['', 'requests', 'GET errors', 'POST errors', 'POSTs doubled', 'p99', 'last one asked after', 'and answered after', 'served again after', 'on it in its first 100 ms']

function tableOf (title: string, figures: FailureFigures[]): string {
  return tableFrom(title, COLUMNS, figures.map(({ scenario, requests, getErrors, postErrors, duplicatedPosts, p99, lastAsked, lastError, served, first100 }) =>
    [scenario, requests, getErrors, postErrors, duplicatedPosts, timeOf(p99), timeOf(lastAsked), timeOf(lastError), timeOf(served), first100 ?? '-']))
}

function tableFrom (title: string, columns: string[], rows: (string | number)[][]): string {
  const row = (cells: (string | number)[]) => `| ${cells.join(' | ')} |`
  return [`### ${title}`, '', row(columns), `| --- |${' ---: |'.repeat(columns.length - 1)}`, ...rows.map(row), ''].join('\n')
}

function stormTable (figures: StormFigures[]): string {
  return tableFrom(`Every backend answers 503, ${STORM.rate} requests a second`, ['', 'requests', 'attempts', 'attempts of a request', 'POSTs doubled'],
    figures.map(({ proxy, requests, attempts, amplification, duplicatedPosts }) => [proxy, requests, attempts, amplification.toFixed(2), duplicatedPosts]))
}

function slowTable (figures: SlowFigures[]): string {
  return tableFrom(`One backend takes ${SLOW.times} times as long as the others (${SLOW.takes} to ${SLOW.takes * (1 + SLOW.spread)} ms), ${SLOW.rate} requests a second`,
    ['', 'hedge', 'GETs: p50', 'p95', 'p99', 'p95 before', 'p99 × that', 'extra load'],
    figures.map(({ backends, balancer, hedge, p50, p95, p99, healthyP95, extra }) =>
      [`${backends} backends, ${balancer}`, hedge ? 'on' : 'off', timeOf(p50), timeOf(p95), timeOf(p99), timeOf(healthyP95), (p99 / healthyP95).toFixed(2), `${(extra * 100).toFixed(1)} %`]))
}

function timeOf (milliseconds: number | null): string {
  if (milliseconds === null) return '-'
  return milliseconds < 1_000 ? `${milliseconds.toFixed(0)} ms` : `${(milliseconds / 1_000).toFixed(1)} s`
}

const USAGE = `npm run bench:failures -- [options]

  --settings NAME   defaults, short, http-proxy or nginx; none for the rest alone (all)
  --only TEXT       scenarios whose names have this in them
  --json            print the figures as JSON
`

function optionsOrExit (): { scenarios: Scenario[], settings: Settings[], json: boolean } {
  try {
    const { values } = parseArgs({ options: { settings: { type: 'string' }, only: { type: 'string', default: '' }, json: { type: 'boolean', default: false } } })
    const settings = SETTINGS.filter(({ name, proxy }) => (values.settings ?? name) === name && (proxy !== 'nginx' || hasNginx()))
    if (settings.length === 0 && values.settings !== 'none') throw new Error(`--settings ${values.settings}: not one of ${SETTINGS.map(({ name }) => name).join(', ')}`)
    return { scenarios: SCENARIOS.filter(({ name }) => name.includes(values.only)), settings, json: values.json }
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n\n${USAGE}`)
    process.exit(2)
  }
}

const { scenarios, settings, json } = optionsOrExit()
const report: FailuresReport = { node: process.version, backends: BACKENDS, rate: RATE, takes: TAKES, settings: {} }
if (!json) {
  console.log(`Node ${process.version}, ${cpus()[0].model} × ${cpus().length}; ${RATE} requests a second to ${BACKENDS} backends, each of which takes ${TAKES} ms for an answer.\n`)
}
for (const one of settings) {
  process.stderr.write(`${one.name}: ${scenarios.map(({ name }) => name).join(', ')}\n`)
  const figures: FailureFigures[] = []
  const possible = scenarios.filter(({ options }) => options === undefined || one.proxy === undefined)
  for (let i = 0; i < possible.length; i += AT_ONCE) {
    const stages = await Promise.all(possible.slice(i, i + AT_ONCE).map(scenario => prepare(scenario, one)))
    figures.push(...await Promise.all(stages.map((stage, i) => play(stage, one, i))))
    for (const stage of stages) await end(stage)
  }
  report.settings[one.name] = { title: one.title, options: one.options, figures }
  const tooEarly = figures.reduce((sum, { errorsBefore }) => sum + errorsBefore, 0)
  if (tooEarly > 0) process.stderr.write(`${tooEarly} errors before anything had failed: this machine is too busy for these figures\n`)
  if (!json) console.log(tableOf(`With ${one.title}`, figures))
}
process.stderr.write('every backend answers 503\n')
const storm = report.storm = await measureStorm()
process.stderr.write('one backend is slow\n')
const slow = report.slow = await measureSlow()
process.stderr.write('answers where every circuit is open\n')
const refused = report.refused = await measureRefused()
if (json) console.log(JSON.stringify(report, null, 2))
else {
  console.log(stormTable(storm))
  console.log(slowTable(slow))
  const { connections, requestsPerSecond, p50, p99, plainP99 } = refused
  console.log(`With every circuit open, ${connections} connections that asked as fast as they could, ${requestsPerSecond.toFixed(0)} times a second, had their answers in ` +
    `${p50.toFixed(2)} ms (p50) and ${p99.toFixed(2)} ms (p99): the aim of ${REFUSED.aim} ms is ${p99 < REFUSED.aim ? 'met' : 'missed'}. ` +
    `A plain handler's 503 took ${plainP99.toFixed(2)} ms (p99).`)
}
