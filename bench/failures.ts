/**
 * What clients see of backends that fail: `npm run bench:failures`. Three backends in processes of their own behind a gateway of this
 * package, under a steady load; the first of them fails in one way after another, and comes back. All ways are played at once, each with
 * processes of its own: first with everything at its defaults, then with short times.
 */
import { cpus } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Pool } from 'undici'
import { BackendProcess } from '../test/helpers/backend-process.ts'
import type { RockstarProxyOptions } from '../types/index.ts'
import { startNode, type Served } from './child.ts'

const BACKENDS = 3
/** Requests a second in each scenario: few, as all run at once. */
const RATE = 100
/** Milliseconds that a backend takes for an answer: so long that a herd would be there before the first has been answered. */
const TAKES = 100
/** Milliseconds of load before the first failure, from one scenario's failure to the next one's, and after a return was noticed; and most to wait for that. */
const WARM_UP = 10_000
const APART = 300
const CALM = 3_000
const PATIENCE = 60_000
const TURN = 1_000
/** Milliseconds that a request may take before the client gives it up: longer than any time-out of the gateway. */
const CLIENT_TIMEOUT = 45_000
/** Answers where every circuit is open: how many connections ask for them, how often and for how long, and milliseconds that p99 is to be below. */
const REFUSED = { connections: 32, turns: 5, milliseconds: 1_000, aim: 5 }

/** One way to fail. */
interface Scenario {
  name: string
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

const SCENARIOS: readonly Scenario[] = [
  { name: 'SIGKILL', fail: ([a]) => a.kill(), mend: ([a]) => a.start() },
  { name: 'SIGSTOP', hangs: true, fail: ([a]) => a.stop(), mend: ([a]) => a.continue() },
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
  }
]

/** What one scenario came to. */
export interface FailureFigures {
  scenario: string
  requests: number
  /** Errors before anything had failed: where there are any, the machine was too busy. */
  errorsBefore: number
  /** Requests that were not answered with a 200, and how many of these by what status; 0 is no answer. */
  errors: number
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
  readonly #underWay = new Set<Promise<void>>()
  readonly #ended: Promise<void>
  #running = true

  constructor (url: string) {
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
      await sleepUntil(start + number * 1000 / RATE)
      const request = this.#send().finally(() => this.#underWay.delete(request))
      this.#underWay.add(request)
    }
  }

  async #send (): Promise<void> {
    const one: Sent = { sent: now(), answered: 0, status: 0, by: '' }
    this.all.push(one)
    try {
      const { statusCode, body } = await this.#pool.request({ path: '/', method: 'GET', headers: { 'x-sent': String(one.sent) } })
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

async function prepare (scenario: Scenario, { options }: Settings): Promise<Stage> {
  const backends = Array.from({ length: BACKENDS }, (_, i) => new BackendProcess('abc'[i], { takes: TAKES }))
  await Promise.all(backends.map(backend => backend.start()))
  return { scenario, backends, gateway: await startGateway(options, backends) }
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
  return figuresOf(scenario, load.all, failed, first, requests)
}

async function end ({ backends, gateway }: Stage): Promise<void> {
  await gateway.stop()
  for (const backend of backends) await backend.kill()
}

/** Whether it was sent after the return, and answered by who has returned. */
function isServed ({ status, by, sent }: Sent, { id, since }: BackendProcess): boolean {
  return status === 200 && by === id && sent >= since
}

function figuresOf ({ name }: Scenario, all: Sent[], failed: number, first: BackendProcess, got: [sent: number, came: number][]): FailureFigures {
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
    statuses,
    errorsAfterReturn: errors.filter(({ sent }) => sent >= first.since).length,
    lastAsked: latest(errors.map(({ sent }) => sent)),
    lastError: latest(errors.map(({ answered }) => answered)),
    served: served.length === 0 ? null : Math.min(...served) - first.since,
    first100: came.length === 0 ? null : came.filter(time => time < Math.min(...came) + TAKES).length
  }
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

const COLUMNS = ['', 'requests', 'errors', 'last one asked after', 'and answered after', 'served again after', 'on it in its first 100 ms']

function tableOf (title: string, figures: FailureFigures[]): string {
  const row = (cells: (string | number)[]) => `| ${cells.join(' | ')} |`
  return [
    `### ${title}`, '', row(COLUMNS), `| --- |${' ---: |'.repeat(COLUMNS.length - 1)}`,
    ...figures.map(({ scenario, requests, errors, lastAsked, lastError, served, first100 }) =>
      row([scenario, requests, errors, timeOf(lastAsked), timeOf(lastError), timeOf(served), first100 ?? '-'])), ''
  ].join('\n')
}

function timeOf (milliseconds: number | null): string {
  if (milliseconds === null) return '-'
  return milliseconds < 1_000 ? `${milliseconds.toFixed(0)} ms` : `${(milliseconds / 1_000).toFixed(1)} s`
}

const USAGE = `npm run bench:failures -- [options]

  --settings NAME   defaults or short (both)
  --only TEXT       scenarios whose names have this in them
  --json            print the figures as JSON
`

function optionsOrExit (): { scenarios: Scenario[], settings: Settings[], json: boolean } {
  try {
    const { values } = parseArgs({ options: { settings: { type: 'string' }, only: { type: 'string', default: '' }, json: { type: 'boolean', default: false } } })
    const settings = SETTINGS.filter(({ name }) => values.settings === undefined || values.settings === name)
    if (settings.length === 0) throw new Error(`--settings ${values.settings}: not one of ${SETTINGS.map(({ name }) => name).join(', ')}`)
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
  const stages = await Promise.all(scenarios.map(scenario => prepare(scenario, one)))
  const figures = await Promise.all(stages.map((stage, i) => play(stage, one, i)))
  for (const stage of stages) await end(stage)
  report.settings[one.name] = { title: one.title, options: one.options, figures }
  const tooEarly = figures.reduce((sum, { errorsBefore }) => sum + errorsBefore, 0)
  if (tooEarly > 0) process.stderr.write(`${tooEarly} errors before anything had failed: this machine is too busy for these figures\n`)
  if (!json) console.log(tableOf(`With ${one.title}`, figures))
}
process.stderr.write('answers where every circuit is open\n')
const refused = report.refused = await measureRefused()
if (json) console.log(JSON.stringify(report, null, 2))
else {
  const { connections, requestsPerSecond, p50, p99, plainP99 } = refused
  console.log(`With every circuit open, ${connections} connections that asked as fast as they could, ${requestsPerSecond.toFixed(0)} times a second, had their answers in ` +
    `${p50.toFixed(2)} ms (p50) and ${p99.toFixed(2)} ms (p99): the aim of ${REFUSED.aim} ms is ${p99 < REFUSED.aim ? 'met' : 'missed'}. ` +
    `A plain handler's 503 took ${plainP99.toFixed(2)} ms (p99).`)
}
