/**
 * What one slow backend does to the latency of all: `npm run bench:slow`. Several backends behind a gateway of this package, one of
 * which takes ten times as long as the others; one policy after another, each in a fresh process.
 */
import { once } from 'node:events'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { cpus } from 'node:os'
import { parseArgs } from 'node:util'
import { Pool } from 'undici'
import { startNode } from './child.ts'

const POLICIES = ['round-robin', 'random', 'least-requests', 'p2c', 'peak-ewma']
/** What the others are compared with, and whose p99 is to be a third of its p99 at the most. */
const COMMON = 'round-robin'
const AIM = { policies: ['least-requests', 'peak-ewma'], timesCommon: 1 / 3 }
/** Milliseconds that a request takes, but on the slow backend. */
const TAKES = 20
const TIMES_SLOWER = 10
/** Seconds of load before anything counts: so long that what waits for the slow backend has become as much as it will. */
const WARM_UP = 5

/** One way of being slow. */
interface Scenario {
  name: string
  title: string
  /** Requests that a backend works on at a time; others wait their turn. */
  workers: number
}

const SCENARIOS: readonly Scenario[] = [
  { name: 'far', title: 'far away: every request takes its time, however many there are', workers: Infinity },
  { name: 'busy', title: 'busy: every backend works on two requests at a time, and others wait', workers: 2 }
]

/** What one policy came to in one scenario. */
export interface SlowFigures {
  policy: string
  requests: number
  requestsPerSecond: number
  /** Part of the requests that the slow backend got. */
  share: number
  /** Milliseconds that clients waited. */
  p50: number
  p90: number
  p99: number
  /** p99 as a multiple of round robin's. */
  timesCommon: number | null
}

/** What `--json` prints. */
export interface SlowReport {
  node: string
  backends: number
  connections: number
  seconds: number
  takes: number
  timesSlower: number
  scenarios: Record<string, { title: string, figures: SlowFigures[] }>
}

class Backend {
  requests = 0
  readonly #server: Server
  #working = 0
  readonly #waiting: (() => void)[] = []

  constructor (takes: number, workers: number) {
    const work = (answer: () => void) => {
      this.#working++
      setTimeout(() => {
        this.#working--
        answer()
        const next = this.#waiting.shift()
        if (next !== undefined) work(next)
      }, takes)
    }
    this.#server = createServer((_, response) => {
      this.requests++
      const answer = () => { response.end('{"ok":true}') }
      if (this.#working < workers) work(answer)
      else this.#waiting.push(answer)
    })
  }

  async listen (): Promise<string> {
    await once(this.#server.listen(0, '127.0.0.1'), 'listening')
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`
  }

  close (): void {
    this.#server.close()
    this.#server.closeAllConnections()
  }
}

/** Keeps so many connections busy for so many seconds; returns how long each request took. */
async function press (clients: Pool, connections: number, seconds: number): Promise<number[]> {
  const times: number[] = []
  const end = performance.now() + seconds * 1000
  const client = async () => {
    while (performance.now() < end) {
      const start = performance.now()
      const { statusCode, body } = await clients.request({ path: '/', method: 'GET' })
      await body.dump()
      if (statusCode !== 200) throw new Error(`answered with ${statusCode}`)
      times.push(performance.now() - start)
    }
  }
  await Promise.all(Array.from({ length: connections }, client))
  return times.sort((a, b) => a - b)
}

async function measure (policy: string, { workers }: Scenario, { backends: count, connections, seconds }: Options): Promise<SlowFigures> {
  const backends = Array.from({ length: count }, (_, i) => new Backend(i === 0 ? TAKES * TIMES_SLOWER : TAKES, workers))
  const gateway = await startNode('gateway.mjs', [policy, ...await Promise.all(backends.map(backend => backend.listen()))])
  const clients = new Pool(gateway.url, { connections })
  try {
    await press(clients, connections, WARM_UP)
    for (const backend of backends) backend.requests = 0
    const times = await press(clients, connections, seconds)
    const percentile = (part: number) => times[Math.ceil(times.length * part) - 1]
    return {
      policy,
      requests: times.length,
      requestsPerSecond: times.length / seconds,
      share: backends[0].requests / backends.reduce((sum, { requests }) => sum + requests, 0),
      p50: percentile(0.5),
      p90: percentile(0.9),
      p99: percentile(0.99),
      timesCommon: null
    }
  } finally {
    await clients.destroy()
    await gateway.stop()
    for (const backend of backends) backend.close()
  }
}

function tableOf (title: string, figures: SlowFigures[]): string {
  const row = (cells: string[]) => `| ${cells.join(' | ')} |`
  return [
    `### ${title}`, '',
    row(['', 'p50 ms', 'p90 ms', 'p99 ms', `p99 × ${COMMON}`, 'requests that the slow one got', 'req/s']),
    `| --- |${' ---: |'.repeat(6)}`,
    ...figures.map(({ policy, p50, p90, p99, timesCommon, share, requestsPerSecond }) => row([
      policy, ...[p50, p90, p99].map(time => time.toFixed(0)), timesCommon === null ? '-' : timesCommon.toFixed(2),
      `${(share * 100).toFixed(2)} %`, requestsPerSecond.toFixed(0)
    ])), ''
  ].join('\n')
}

function verdictOn (figures: SlowFigures[]): string {
  return figures.filter(({ policy, timesCommon }) => AIM.policies.includes(policy) && timesCommon !== null)
    .map(({ policy, timesCommon }) => `${policy} ${(timesCommon as number) <= AIM.timesCommon ? 'meets' : 'misses'} the aim of a third of ${COMMON}'s p99.\n`).join('')
}

interface Options {
  policies: string[]
  scenarios: Scenario[]
  backends: number
  connections: number
  seconds: number
  json: boolean
}

const USAGE = `npm run bench:slow -- [options]

  --only NAME       only this policy, or several with commas
  --scenario NAME   far or busy
  --backends N      one of them is slow (16)
  --connections N   connections that are kept busy (32)
  --seconds N       length of a turn (10)
  --json            print the figures as JSON
`

function readOptions (args: string[]): Options {
  const { values } = parseArgs({
    args,
    options: {
      only: { type: 'string' },
      scenario: { type: 'string' },
      backends: { type: 'string', default: '16' },
      connections: { type: 'string', default: '32' },
      seconds: { type: 'string', default: '10' },
      json: { type: 'boolean', default: false }
    }
  })
  const count = (option: 'backends' | 'connections' | 'seconds') => {
    const number = Number(values[option])
    if (!Number.isInteger(number) || number < 1) throw new Error(`--${option} ${values[option]}: not a whole number from 1`)
    return number
  }
  const scenarios = SCENARIOS.filter(({ name }) => values.scenario === undefined || values.scenario === name)
  if (scenarios.length === 0) throw new Error(`--scenario ${values.scenario}: not one of ${SCENARIOS.map(({ name }) => name).join(', ')}`)
  return {
    policies: values.only?.split(',') ?? POLICIES,
    scenarios,
    backends: count('backends'),
    connections: count('connections'),
    seconds: count('seconds'),
    json: values.json
  }
}

function optionsOrExit (): Options {
  try {
    return readOptions(process.argv.slice(2))
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n\n${USAGE}`)
    process.exit(2)
  }
}

const options = optionsOrExit()
const { backends, connections, seconds } = options
const report: SlowReport = { node: process.version, backends, connections, seconds, takes: TAKES, timesSlower: TIMES_SLOWER, scenarios: {} }
if (!options.json) {
  console.log(`Node ${process.version}, ${cpus()[0].model} × ${cpus().length}; ${connections} connections, ${seconds} s each. ` +
    `One of ${backends} backends takes ${TAKES * TIMES_SLOWER} ms, the others ${TAKES} ms.\n`)
}
for (const scenario of options.scenarios) {
  const figures: SlowFigures[] = []
  for (const policy of options.policies) {
    process.stderr.write(`${scenario.name}: ${policy}\n`)
    figures.push(await measure(policy, scenario, options))
  }
  const common = figures.find(({ policy }) => policy === COMMON)
  if (common !== undefined) for (const one of figures) one.timesCommon = one.p99 / common.p99
  report.scenarios[scenario.name] = { title: scenario.title, figures }
  if (options.json) continue
  console.log(tableOf(`The slow one is ${scenario.title}`, figures))
  console.log(verdictOn(figures))
}
if (options.json) console.log(JSON.stringify(report, null, 2))
