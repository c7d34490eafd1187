/**
 * What a backend still does when ten times as much is asked of it as it can do: `npm run bench:overload`. The load is open: requests come
 * at their own pace, whatever becomes of those before. An answer counts when it comes within the deadline.
 */
import { cpus } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { Agent, request } from 'undici'
import type { RockstarProxyOptions } from '../types/index.ts'
import { startNode, type Served } from './child.ts'

const SLOTS = 8
/** Milliseconds that the backend takes for one. */
const TAKES = 100
const CAPACITY = SLOTS * 1_000 / TAKES
const TIMES = 10
/** Milliseconds after which a client has no use for an answer, and leaves. */
const DEADLINE = 1_000
const LASTS = 15_000
/** Milliseconds from one group of requests to the next. */
const PACE = 10

interface Setting {
  name: string
  options: RockstarProxyOptions
}

/** Neither circuits nor health checks are to help here: what is measured is admission. */
const plain: RockstarProxyOptions = { breaker: false, outlier: false, health: false, retry: false, pool: { connections: 4_096 } }
const known = { request: DEADLINE }

const SETTINGS: readonly Setting[] = [
  { name: 'no limits', options: { ...plain } },
  { name: 'no limits, deadline known', options: { ...plain, timeout: known } },
  { name: 'adaptive, deadline known', options: { ...plain, timeout: known, limits: { adaptive: true } } },
  { name: 'adaptive, last come first', options: { ...plain, limits: { adaptive: true, queue: { order: 'lifo' } } } },
  { name: 'adaptive, no queue', options: { ...plain, limits: { adaptive: true, queue: false } } }
]

/** What one setting came to. */
export interface OverloadFigures {
  setting: string
  sent: number
  good: number
  /** Of what the backend could have done. */
  goodput: number
  /** Milliseconds, of those answered with 200. */
  p50: number | null
  p99: number | null
  /** Answers of 503, and requests whose clients left. */
  refused: number
  left: number
  /** The most, as seen twice a second. */
  memory: number
  queueLength: number
  /** At the end. */
  limit: number | null
}

async function play ({ name, options }: Setting): Promise<OverloadFigures> {
  const backend = await startNode('overload-backend.mjs', [String(SLOTS), String(TAKES)])
  const gateway = await startNode('overload-gateway.mjs', [JSON.stringify(options), backend.url])
  const clients = new Agent({ connections: null, pipelining: 1 })
  try {
    return await press(name, gateway, clients)
  } finally {
    await clients.destroy()
    await gateway.stop()
    await backend.stop()
  }
}

async function press (setting: string, gateway: Served, clients: Agent): Promise<OverloadFigures> {
  const figures: OverloadFigures = { setting, sent: 0, good: 0, goodput: 0, p50: null, p99: null, refused: 0, left: 0, memory: 0, queueLength: 0, limit: null }
  const times: number[] = []
  const one = async () => {
    const start = performance.now()
    try {
      const { statusCode, body } = await request(gateway.url, { dispatcher: clients, signal: AbortSignal.timeout(DEADLINE) })
      await body.dump()
      const time = performance.now() - start
      if (statusCode === 200 && time <= DEADLINE) times.push(time)
      else if (statusCode === 200) figures.left++
      else figures.refused++
    } catch {
      figures.left++
    }
  }
  const under: Promise<void>[] = []
  const start = performance.now()
  let nextLook = 500
  for (let now = 0; now < LASTS; now = performance.now() - start) {
    for (const due = now * CAPACITY * TIMES / 1_000; figures.sent < due; figures.sent++) under.push(one())
    if (now >= nextLook) {
      nextLook += 500
      under.push(look(gateway, figures))
    }
    await sleep(PACE)
  }
  await Promise.all(under)
  times.sort((a, b) => a - b)
  const at = (part: number) => times.length === 0 ? null : times[Math.ceil(times.length * part) - 1]
  return { ...figures, good: times.length, goodput: times.length / (CAPACITY * LASTS / 1_000), p50: at(0.5), p99: at(0.99) }
}

/** On a connection of its own: those of the load may all be taken. */
async function look ({ url }: Served, figures: OverloadFigures): Promise<void> {
  const { memory, queueLength, limit } = await (await fetch(`${url}/figures`)).json() as { memory: number, queueLength: number, limit: number | null }
  figures.memory = Math.max(figures.memory, memory)
  figures.queueLength = Math.max(figures.queueLength, queueLength)
  figures.limit = limit
}

const COLUMNS = ['', 'sent', 'answered in time', 'of capacity', 'p50', 'p99', 'refused', 'left', 'most waiting', 'limit', 'memory']

function rowOf ({ setting, sent, good, goodput, p50, p99, refused, left, queueLength, limit, memory }: OverloadFigures): string {
  const time = (milliseconds: number | null) => milliseconds === null ? '-' : `${milliseconds.toFixed(0)} ms`
  return `| ${[setting, sent, good, `${(goodput * 100).toFixed(0)} %`, time(p50), time(p99), refused, left, queueLength, limit ?? '-', `${(memory / 1_048_576).toFixed(0)} MiB`].join(' | ')} |`
}

const { values: { json, only } } = parseArgs({ options: { json: { type: 'boolean', default: false }, only: { type: 'string', default: '' } } })
if (!json) {
  console.log(`Node ${process.version}, ${cpus()[0].model} × ${cpus().length}; ${CAPACITY * TIMES} requests a second for ${LASTS / 1_000} s to a backend that can answer ${CAPACITY}, ` +
    `each of use for ${DEADLINE} ms.\n`)
  console.log(`| ${COLUMNS.join(' | ')} |\n| --- |${' ---: |'.repeat(COLUMNS.length - 1)}`)
}
const report: OverloadFigures[] = []
for (const setting of SETTINGS.filter(({ name }) => name.includes(only))) {
  const figures = await play(setting)
  report.push(figures)
  if (!json) console.log(rowOf(figures))
}
if (json) console.log(JSON.stringify({ node: process.version, slots: SLOTS, takes: TAKES, times: TIMES, deadline: DEADLINE, figures: report }, null, 2))
