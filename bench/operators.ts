/**
 * What it costs the requests of clients that operators look on: `npm run bench:operators`. Ten clients read status and metrics at a steady
 * pace and listen to events, while wrk asks as fast as it can. Each turn with them stands between two without, with which it is compared. As a busy
 * machine spoils such comparisons, they also look on alone: what that costs, as a part of what the requests cost, says the same more steadily.
 */
import { Agent, request, type IncomingMessage } from 'node:http'
import { cpus } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { startNode } from './child.ts'
import { findGenerator } from './load.ts'
import { scenarios } from './scenarios.ts'

const CLIENTS = 10
const PREFIX = '/proxy'
/** Part of the CPU time of a request that all may cost together. */
const AIM = 0.02
const WARM_UP = 3

interface Setting {
  name: string
  /** What is read in turn. */
  paths: readonly string[]
  /** Whether each client also listens to events. */
  events: boolean
}

const NOBODY: Setting = { name: 'nobody', paths: [], events: false }
const SETTINGS: readonly Setting[] = [
  { name: 'status', paths: ['/status'], events: false },
  { name: 'metrics', paths: ['/metrics'], events: false },
  { name: 'prometheus', paths: ['/metrics/prometheus'], events: false },
  { name: 'events', paths: [], events: true },
  { name: 'status and events', paths: ['/status'], events: true },
  { name: 'all', paths: ['/status', '/metrics', '/metrics/prometheus'], events: true }
]

const { values } = parseArgs({
  options: {
    rate: { type: 'string', default: '10' },
    backends: { type: 'string', default: '3' },
    rounds: { type: 'string', default: '7' },
    seconds: { type: 'string', default: '2' },
    connections: { type: 'string', default: '32' },
    only: { type: 'string', default: '' },
    json: { type: 'boolean', default: false }
  }
})
const { rate, backends, rounds, seconds, connections } = Object.fromEntries(Object.entries(values).filter(([name]) => name !== 'json' && name !== 'only').map(([name, value]) => [name, Number(value)]))

/** One turn of one setting. */
interface Turn {
  /** Microseconds of CPU for each request of a client of the proxy. */
  cpu: number
  requests: number
  reads: number
}

/** Asks once; resolves when the answer is whole. */
function read (agent: Agent, url: string): Promise<number> {
  return new Promise((resolve, reject) => {
    request(url, { agent }, answer => answer.resume().on('end', () => resolve(answer.statusCode ?? 0)).on('error', reject)).on('error', reject).end()
  })
}

/** Listens; resolves to what ends it, or to nothing where there are no events. */
function listen (url: string): Promise<(() => void) | undefined> {
  return new Promise((resolve, reject) => {
    const asked = request(url, { agent: false, headers: { accept: 'text/event-stream' } }, (answer: IncomingMessage) => {
      answer.resume().on('error', () => {})
      resolve(answer.statusCode === 200 ? () => { asked.destroy() } : undefined)
      if (answer.statusCode !== 200) asked.destroy()
    }).on('error', reject)
    asked.end()
  })
}

/** Ten clients at their pace, until they are told to stop. */
async function look (gateway: string, { paths, events }: Setting): Promise<{ stop (): Promise<number> }> {
  const agent = new Agent({ keepAlive: true, maxSockets: CLIENTS })
  const listeners = events ? await Promise.all(Array.from({ length: CLIENTS }, () => listen(`${gateway}${PREFIX}/events`))) : []
  let reads = 0
  const failures: unknown[] = []
  const timers = paths.length === 0
    ? []
    : Array.from({ length: CLIENTS }, (_, client) => {
      let turn = client
      return setInterval(() => {
        const path = paths[turn++ % paths.length]
        reads++
        read(agent, gateway + PREFIX + path).then(status => { if (status !== 200) failures.push(`${path} was answered with ${status}`) }, error => failures.push(error))
      }, 1_000 / rate)
    })
  return {
    async stop () {
      for (const timer of timers) clearInterval(timer)
      for (const end of listeners) end?.()
      agent.destroy()
      if (failures.some(failure => typeof failure === 'string')) throw new Error(String(failures[0]))
      return reads
    }
  }
}

const median = (numbers: number[]) => numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)]
const generator = findGenerator()
const scenario = scenarios[0]
const backend = await startNode('backend.mjs', [])
const gateway = await startNode('operators-gateway.mjs', [backend.url, String(backends)])
const settings: Setting[] = []
for (const setting of SETTINGS) {
  if (!setting.name.includes(values.only)) continue
  const end = setting.events ? await listen(`${gateway.url}${PREFIX}/events`) : () => {}
  end?.()
  if (end === undefined && setting.paths.length === 0) console.error('there are no events: nobody listens')
  else settings.push({ ...setting, events: setting.events && end !== undefined })
}
const turns = new Map<string, Turn[]>([NOBODY, ...settings].map(({ name }) => [name, []]))
/** What a turn has cost, as a multiple of those beside it. */
const ratios = new Map<string, number[]>(settings.map(({ name }) => [name, []]))

async function play (setting: Setting): Promise<number> {
  const looking = await look(gateway.url, setting)
  const before = await gateway.cpu()
  const { requests, errors } = await generator.press(gateway.url, scenario, connections, seconds)
  const cpu = (await gateway.cpu() - before) / requests
  const reads = await looking.stop()
  if (errors > 0) throw new Error(`${errors} requests of ${requests} failed`)
  turns.get(setting.name)?.push({ cpu, requests, reads })
  return cpu
}

/** Milliseconds of CPU a second that those who look on cost while nobody else is there. */
async function costOf (setting: Setting): Promise<number> {
  const found: number[] = []
  const looking = await look(gateway.url, setting)
  for (let round = 0; round < rounds; round++) {
    const before = await gateway.cpu()
    await sleep(seconds * 1_000)
    found.push((await gateway.cpu() - before) / 1_000 / seconds)
  }
  await looking.stop()
  return median(found)
}

const costs = new Map<string, number>()
try {
  for (const setting of settings) {
    const looking = await look(gateway.url, setting)
    await generator.press(gateway.url, scenario, connections, WARM_UP)
    await looking.stop()
  }
  let beside = await play(NOBODY)
  for (let round = 1; round <= rounds; round++) {
    for (const setting of settings) {
      if (!values.json) process.stderr.write(`round ${round} of ${rounds}, ${setting.name}\n`)
      const cpu = await play(setting)
      const next = await play(NOBODY)
      ratios.get(setting.name)?.push(cpu * 2 / (beside + next))
      beside = next
    }
  }
  const idle = await costOf(NOBODY)
  for (const setting of settings) {
    if (!values.json) process.stderr.write(`${setting.name} alone\n`)
    costs.set(setting.name, Math.max(0, await costOf(setting) - idle))
  }
} finally {
  await gateway.stop()
  await backend.stop()
}

const base = turns.get(NOBODY.name) as Turn[]
/** Milliseconds of CPU a second of requests that nobody looks on. */
const busy = median(base.map(({ cpu }) => cpu)) * median(base.map(({ requests }) => requests)) / seconds / 1_000
const report = [NOBODY, ...settings].map(({ name }) => {
  const own = turns.get(name) as Turn[]
  const found = ratios.get(name) ?? [1]
  return { name, cpu: median(own.map(({ cpu }) => cpu)), requests: median(own.map(({ requests }) => requests)) / seconds, reads: median(own.map(({ reads }) => reads)) / seconds, ratio: median(found), spread: Math.max(...found) - Math.min(...found), cost: costs.get(name) ?? 0, part: (costs.get(name) ?? 0) / busy }
})
if (values.json) console.log(JSON.stringify({ node: process.version, generator: generator.name, clients: CLIENTS, rate, backends, rounds, seconds, figures: report }, null, 2))
else {
  console.log(`Node ${process.version}, ${cpus()[0].model} × ${cpus().length}, ${generator.name}; ${CLIENTS} clients, each reading ${rate} times a second; ${backends} backends; ${rounds} rounds of ${seconds} s.\n`)
  console.log('| who looks on | reads/s | req/s | CPU µs/req | × nobody | spread | alone, ms/s | of the requests\' |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |')
  for (const { name, reads, requests, cpu, ratio, spread, cost, part } of report) {
    console.log(`| ${name} | ${reads.toFixed(0)} | ${requests.toFixed(0)} | ${cpu.toFixed(1)} | ${ratio.toFixed(3)} | ${spread.toFixed(3)} | ${cost.toFixed(1)} | ${(part * 100).toFixed(1)} % |`)
  }
  for (const { name, part } of report.slice(1)) console.log(`\n${name}: the aim, at most ${AIM * 100} % of what the requests cost, was ${part <= AIM ? 'met' : 'missed'}: ${(part * 100).toFixed(1)} %.`)
}
