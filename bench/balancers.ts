/**
 * What choosing costs: `npm run bench:balancers [policy…] [-- --json]`. Nanoseconds and bytes for each `select`, and milliseconds for a
 * rebuild of 10 000 backends, whole and after one change; beside them the choice that undici's BalancedPool makes, and the ring of
 * `hashring` where that is installed. Each policy runs in processes of its own, so that none spoils what the compiler has learnt of another;
 * and in several, as what the compiler makes of the same code is not always the same.
 */
import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { cpus } from 'node:os'
import { parseArgs } from 'node:util'
import { BalancedPool } from 'undici'
import { Backend } from '../lib/backend.ts'
import { createBalancer, hashReady } from '../lib/balancer/index.ts'
import type { BalancerInput, BalancerOptions, LoadBalancer, SelectContext } from '../types/index.ts'

const SIZES = [3, 100, 10_000]
const CONTEXTS = 1024
/** Nanoseconds of CPU that one round takes about. */
const ROUND = 30_000_000
const ROUNDS = 15
const PROCESSES = 3
const BALANCED_POOL = "undici's BalancedPool"
const HASHRING = 'hashring'

/** What is aimed at for every policy. */
const AIM = { nanoseconds: 200, rebuild: 50 }

const contenders: Record<string, { weights?: (i: number) => number, option?: BalancerOptions }> = {
  'round-robin': {},
  'round-robin, weights differ': { weights: varied, option: { type: 'round-robin' } },
  random: {},
  'random, weights differ': { weights: varied, option: { type: 'random' } },
  'least-requests': {},
  p2c: {},
  'peak-ewma': {},
  'ip-hash': {},
  'ip-hash, bounded load': { option: { type: 'ip-hash', boundedLoad: 1.25 } },
  'ring-hash': {},
  'ring-hash, 1 probe': { option: { type: 'ring-hash', probes: 1 } },
  maglev: {},
  'maglev, bounded load': { option: { type: 'maglev', boundedLoad: 1.25 } },
  rendezvous: {},
  'rendezvous, weights differ': { weights: varied, option: { type: 'rendezvous' } },
  [BALANCED_POOL]: {},
  [HASHRING]: {}
}

/** What one contender came to. */
export interface Row {
  name: string
  /** For one choice, at each of the sizes: the median of the processes. */
  nanoseconds: number[]
  /** Allocated for one choice, in the process and at the size where it is most. */
  bytes: number
  /** Milliseconds for the largest size, whole and after one change. */
  rebuild: number | null
  change: number | null
}

/** What `--json` prints. */
export interface BalancersReport {
  node: string
  sizes: number[]
  rows: Row[]
}

function varied (i: number): number {
  return 1 + i % 5
}

function addressOf (i: number): string {
  return `10.${i >> 16}.${(i >> 8) & 255}.${i & 255}:8080`
}

function makeBackends (size: number, weights: (i: number) => number): Backend[] {
  return Array.from({ length: size }, (_, i) => {
    const backend = new Backend({ id: `backend-${i}`, url: `http://${addressOf(i)}`, weight: weights(i) }, 0)
    // Some load, so that looking at it is not always the same branch.
    backend.counters.inFlight = (i * 7) % 3
    return backend
  })
}

/** Requests of clients with addresses of their own. */
class Context implements SelectContext {
  readonly request: SelectContext['request']
  readonly method = 'GET'
  readonly path = '/'
  readonly tried = null

  constructor (i: number) {
    this.request = { ip: `192.168.${i >> 8}.${i & 255}` } as SelectContext['request']
  }

  header (): undefined {
    return undefined
  }
}

/** Milliseconds of CPU, as other processes would add to those of the clock. */
function timed (run: () => void): number {
  const before = process.cpuUsage()
  run()
  const { user, system } = process.cpuUsage(before)
  return (user + system) / 1000
}

function allocated (run: () => void): number {
  const before = process.memoryUsage().heapUsed
  run()
  return process.memoryUsage().heapUsed - before
}

function selectCost (choose: (context: SelectContext) => unknown): { nanoseconds: number, bytes: number } {
  const contexts = Array.from({ length: CONTEXTS }, (_, i) => new Context(i))
  let none = 0
  const run = (times: number) => {
    for (let i = 0; i < times; i++) if (choose(contexts[i % CONTEXTS]) === undefined) none++
  }
  let times = CONTEXTS
  run(times)
  for (let took = 0; took < ROUND / 1e6 / 2; times *= 2) took = timed(() => run(times))
  let nanoseconds = Infinity
  let bytes = Infinity
  for (let round = 0; round < ROUNDS; round++) {
    globalThis.gc?.()
    const overhead = allocated(() => run(0))
    bytes = Math.min(bytes, Math.max(0, allocated(() => { nanoseconds = Math.min(nanoseconds, timed(() => run(times)) * 1e6 / times) }) - overhead) / times)
  }
  if (none > 0) throw new Error(`${none} times nothing was chosen`)
  return { nanoseconds, bytes }
}

const settled = { stage: 'done', culprit: 'none', statusCode: 200, error: undefined } as const

function emptyRow (name: string): Row {
  return { name, nanoseconds: [], bytes: 0, rebuild: null, change: null }
}

function measurePolicy (name: string, input: BalancerInput, weights: (i: number) => number = () => 1): Row {
  const row = emptyRow(name)
  for (const size of SIZES) {
    const available = Object.freeze(makeBackends(size, weights))
    const balancer = createBalancer(input)
    balancer.rebuild?.(available)
    available.forEach((backend, i) => balancer.settle?.(backend, { ...settled, headTime: 1 + i % 10, responseTime: 1 + i % 10 }))
    const { nanoseconds, bytes } = selectCost(context => balancer.select(available, context))
    row.nanoseconds.push(nanoseconds)
    row.bytes = Math.max(row.bytes, bytes)
    if (size === SIZES.at(-1)) Object.assign(row, rebuildCost(() => createBalancer(input), available))
  }
  return row
}

function rebuildCost (create: () => LoadBalancer, available: readonly Backend[]): { rebuild: number, change: number } {
  let rebuild = Infinity
  let change = Infinity
  for (let round = 0; round < 7; round++) {
    const balancer = create()
    const fewer = available.filter((_, i) => i !== 5_000 + round)
    rebuild = Math.min(rebuild, timed(() => balancer.rebuild?.(available)))
    change = Math.min(change, timed(() => balancer.rebuild?.(fewer)))
  }
  return { rebuild, change }
}

function measureBalancedPool (): Row {
  const row = emptyRow(BALANCED_POOL)
  for (const size of SIZES) {
    const pool = new BalancedPool(Array.from({ length: size }, (_, i) => `http://${addressOf(i)}`))
    const key = Object.getOwnPropertySymbols(BalancedPool.prototype).find(({ description }) => description === 'get dispatcher') as unknown as 'choose'
    const { nanoseconds, bytes } = selectCost(() => (pool as unknown as { choose (): unknown })[key]())
    row.nanoseconds.push(nanoseconds)
    row.bytes = Math.max(row.bytes, bytes)
  }
  return row
}

/** The best known ring on npm. It caches what it has hashed; here every key is one that it has not seen. */
function measureHashring (): Row {
  const HashRing = createRequire(import.meta.url)(HASHRING) as new (servers: string[], algorithm: string, options: object) => { get (key: string): string | undefined }
  const create = (size: number) => new HashRing(Array.from({ length: size }, (_, i) => addressOf(i)), 'md5', { 'max cache size': 1 })
  const row = emptyRow(HASHRING)
  for (const size of SIZES) {
    const ring = create(size)
    const { nanoseconds, bytes } = selectCost(({ request }) => ring.get(request?.ip as string))
    row.nanoseconds.push(nanoseconds)
    row.bytes = Math.max(row.bytes, bytes)
  }
  row.rebuild = timed(() => create(SIZES.at(-1) as number))
  return row
}

function isThere (name: string): boolean {
  if (name !== HASHRING) return true
  try {
    return createRequire(import.meta.url).resolve(name) !== ''
  } catch {
    return false
  }
}

function measure (name: string): Row {
  if (name === BALANCED_POOL) return measureBalancedPool()
  if (name === HASHRING) return measureHashring()
  const { option, weights } = contenders[name]
  return measurePolicy(name, option ?? { type: name as 'random' }, weights)
}

function inProcessOfItsOwn (name: string): Row {
  const { stdout, stderr, status } = spawnSync(process.execPath, [
    // Room enough that nothing is collected while it is counted.
    '--expose-gc', '--min-semi-space-size=256', '--max-semi-space-size=256', '--import', 'tsx', import.meta.filename, '--measure', name
  ], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${name} failed: ${stderr}`)
  return JSON.parse(stdout)
}

function measuredInSeveral (name: string): Row {
  const rows = Array.from({ length: PROCESSES }, () => inProcessOfItsOwn(name))
  const middle = (values: number[]) => values.sort((a, b) => a - b)[PROCESSES >> 1]
  const least = (values: (number | null)[]) => values.includes(null) ? null : Math.min(...values as number[])
  return {
    name,
    nanoseconds: SIZES.map((_, i) => middle(rows.map(({ nanoseconds }) => nanoseconds[i]))),
    bytes: Math.max(...rows.map(({ bytes }) => bytes)),
    rebuild: least(rows.map(({ rebuild }) => rebuild)),
    change: least(rows.map(({ change }) => change))
  }
}

function tableRow ({ name, nanoseconds, bytes, rebuild, change }: Row): string {
  const number = (value: number | null) => value === null ? '' : value.toFixed(value < 10 ? 1 : 0)
  return `| ${[name, ...nanoseconds.map(number), number(bytes < 0.5 ? 0 : bytes), number(rebuild), number(change)].join(' | ')} |`.replaceAll(/ +\|/g, ' |')
}

/** What of our own policies misses an aim. */
function misses (rows: Row[]): string[] {
  return rows.filter(({ name }) => name !== BALANCED_POOL && name !== HASHRING).flatMap(({ name, nanoseconds, bytes, rebuild }) => [
    nanoseconds[0] > AIM.nanoseconds ? `${name}: more than ${AIM.nanoseconds} ns at N = ${SIZES[0]}` : '',
    bytes >= 0.5 ? `${name}: allocates` : '',
    rebuild !== null && rebuild > AIM.rebuild ? `${name}: more than ${AIM.rebuild} ms for a rebuild` : ''
  ].filter(miss => miss !== ''))
}

const [first, second] = process.argv.slice(2)
if (first === '--measure') {
  await hashReady
  process.stdout.write(JSON.stringify(measure(second)))
} else {
  const { values: { json }, positionals } = parseArgs({ options: { json: { type: 'boolean', default: false } }, allowPositionals: true })
  const wanted = Object.keys(contenders).filter(name => isThere(name) && (positionals.length === 0 || positionals.some(part => name.includes(part))))
  if (!json) {
    console.log(`Node ${process.version}, ${cpus()[0].model} × ${cpus().length}. CPU time, the best of ${ROUNDS} rounds, the median of ${PROCESSES} processes.\n`)
    console.log(`| | ${SIZES.map(size => `ns, N = ${size}`).join(' | ')} | bytes | rebuild of ${SIZES.at(-1)}, ms | after one change, ms |`)
    console.log(`| --- |${' ---: |'.repeat(SIZES.length + 3)}`)
  }
  const rows = wanted.map(name => {
    const row = measuredInSeveral(name)
    if (!json) console.log(tableRow(row))
    return row
  })
  const report: BalancersReport = { node: process.version, sizes: SIZES, rows }
  if (json) console.log(JSON.stringify(report, null, 2))
  else console.log(`\nAims: at most ${AIM.nanoseconds} ns at N = ${SIZES[0]}, nothing allocated, ${AIM.rebuild} ms for a rebuild. ${misses(rows).join('; ') || 'All are met'}.`)
}
