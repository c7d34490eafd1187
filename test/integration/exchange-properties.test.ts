import fc from 'fast-check'
import { once } from 'node:events'
import { createServer, type AddressInfo, type Socket } from 'node:net'
import { Readable } from 'node:stream'
import t, { type Test } from 'tap'
import { Exchange } from '../../lib/forward/exchange.ts'
import { settingsOf } from '../../lib/forward/settings.ts'
import type { UpstreamManager } from '../../lib/upstream-manager.ts'
import type { HedgeOptions, LimitsOptions, RetryOptions, UpstreamOptions } from '../../types/index.ts'
import { startGateway, type Gateway } from '../helpers/app.ts'
import { FakeClock } from '../helpers/clock.ts'
import { seeded } from '../helpers/random.ts'
import { CountingBreaker, PIECE, RecordingClient, ScriptedBalancer, ScriptedPool, type AttemptScript, type Choosing, type SeenAttempt } from '../helpers/storm.ts'
import { Traces } from '../helpers/traces.ts'
import { makeUpstream } from '../helpers/upstream.ts'
import { ok, parseMessage, until } from '../helpers/wire.ts'

/** One request, and what becomes of it on either side. */
interface Asked {
  at: number
  method: 'GET' | 'PUT' | 'POST'
  /** An `Idempotency-Key`. */
  key: boolean
  body: 'none' | 'buffer' | 'stream'
  /** Of a stream: when each piece comes after the one before, and how the stream ends. */
  chunks: number[]
  bodyEnds: 'well' | 'stalls' | 'fails'
  /** When the client goes, or the application gives up. */
  leaves: { at: number, how: 'abandon' | 'giveUp' } | null
  pause: { after: number, for: number } | null
  replaces: number[]
  /** By when the client wants its answer. */
  within: number
  scripts: AttemptScript[]
}

interface World {
  seed: number
  backends: number
  retry: false | RetryOptions
  hedge: false | HedgeOptions
  limits: false | LimitsOptions
  breaker: { threshold: number, timeout: number }
  outlier: boolean
  timeout: { connect: number, headers: number, idle: number, request: number }
  choosing: Choosing[]
  /** Steps of time, over and over again. */
  steps: number[]
  asked: Asked[]
}

/** One of several, each as often as its number says. */
function often<T> (...weighted: [weight: number, value: T][]): fc.Arbitrary<T> {
  return fc.oneof(...weighted.map(([weight, value]) => ({ weight, arbitrary: fc.constant(value) })))
}

const delay = fc.constantFrom(0, 0, 1, 5, 20, 40)
const maybeNever = fc.oneof({ weight: 12, arbitrary: delay }, { weight: 1, arbitrary: fc.constant(null) })
const script: fc.Arbitrary<AttemptScript> = fc.record({
  dispatch: often<AttemptScript['dispatch']>([30, 'takes'], [1, 'throws'], [1, 'refuses']),
  connect: maybeNever,
  reads: maybeNever,
  interims: often([12, 0], [1, 1]),
  early: often([4, false], [1, true]),
  head: maybeNever,
  status: often([6, 200], [3, 503], [1, 502], [1, 500], [1, 404], [1, 204], [1, 999]),
  retryAfter: often<string | null>([6, null], [1, '0'], [1, '1'], [1, '100']),
  pieces: fc.array(maybeNever, { maxLength: 4 }),
  end: maybeNever,
  fails: often<AttemptScript['fails']>([6, 'no'], [2, 'connect'], [2, 'head'], [1, 'body'], [1, 'end']),
  tells: fc.constantFrom<AttemptScript['tells']>('at once', 'later')
})
const asked: fc.Arbitrary<Asked> = fc.record({
  at: fc.nat(60),
  method: often<Asked['method']>([4, 'GET'], [2, 'PUT'], [2, 'POST']),
  key: fc.boolean(),
  body: often<Asked['body']>([3, 'none'], [1, 'buffer'], [2, 'stream']),
  chunks: fc.array(delay, { maxLength: 5 }),
  bodyEnds: often<Asked['bodyEnds']>([8, 'well'], [1, 'stalls'], [1, 'fails']),
  leaves: fc.option(fc.record({ at: fc.nat(120), how: fc.constantFrom('abandon' as const, 'giveUp' as const) }), { freq: 6 }),
  pause: fc.option(fc.record({ after: fc.nat(2), for: fc.constantFrom(1, 30, 1_000) }), { freq: 4 }),
  replaces: often([4, [] as number[]], [1, [404, 500, 503]]),
  within: often([5, Infinity], [1, 60]),
  scripts: fc.array(script, { minLength: 1, maxLength: 4 })
})
const retry: fc.Arbitrary<false | RetryOptions> = fc.oneof({ weight: 1, arbitrary: fc.constant(false as const) }, {
  weight: 6,
  arbitrary: fc.record({
    attempts: fc.integer({ min: 1, max: 4 }),
    on: often<NonNullable<RetryOptions['on']>>([3, ['connect', 'reset', 'timeout', 'bad-response']], [1, ['connect']], [1, []]),
    perTryTimeout: often([2, 0], [1, 30]),
    maxBodySize: often([3, 65_536], [1, 10], [1, 0]),
    retryAfter: fc.boolean(),
    idempotencyKey: fc.boolean(),
    backoff: fc.record({ base: fc.constantFrom(0, 10, 50) }),
    budget: fc.record({ percent: fc.constantFrom(0, 20, 100, 300), minPerSecond: fc.constantFrom(0, 1, 10) })
  })
})
const limits: fc.Arbitrary<false | LimitsOptions> = fc.oneof({ weight: 1, arbitrary: fc.constant(false as const) }, {
  weight: 3,
  arbitrary: fc.record({
    maxInFlight: fc.constantFrom(1, 2, 5),
    maxPerBackend: fc.constantFrom(1, 2, 5),
    adaptive: often<LimitsOptions['adaptive']>([2, false], [1, { initial: 2, min: 1, max: 4 }]),
    queue: often<LimitsOptions['queue']>([1, false], [4, { size: 2, timeout: 40, order: 'fifo' }], [4, { size: 3, timeout: 100, order: 'lifo' }], [2, { size: 3, timeout: 0 }])
  }, { requiredKeys: [] })
})
const world: fc.Arbitrary<World> = fc.record({
  seed: fc.nat(1_000),
  backends: fc.integer({ min: 1, max: 4 }),
  retry,
  hedge: fc.oneof(fc.constant(false as const), fc.record({ percentile: fc.constant(90), minDelay: fc.constantFrom(0, 10), maxExtra: fc.constantFrom(0.05, 0.5, 1) })),
  limits,
  breaker: fc.record({ threshold: fc.constantFrom(1, 3, 100), timeout: fc.constantFrom(20, 1_000) }),
  outlier: fc.boolean(),
  timeout: fc.record({ connect: fc.constantFrom(15, 100), headers: fc.constantFrom(50, 500), idle: fc.constantFrom(30, 200), request: fc.constantFrom(80, 300) }),
  choosing: fc.oneof({ weight: 4, arbitrary: fc.constant(['now'] as Choosing[]) }, { weight: 2, arbitrary: fc.array(often<Choosing>([3, 'now'], [4, 'soon'], [2, 'later'], [1, 'throws'], [1, 'rejects'], [1, 'none']), { minLength: 1, maxLength: 6 }) }),
  steps: fc.array(fc.constantFrom(1, 1, 3, 7, 20), { minLength: 1, maxLength: 8 }),
  asked: fc.array(asked, { minLength: 1, maxLength: 10 })
})

/** Answers known before the storm, so that there is something to hedge by, and by how much. */
const PRIMED = 30
/** Milliseconds after which nothing may be left, whatever happens. */
const HORIZON = 4_000

/** What all storms together have come to: one in which nothing happens proves nothing. */
const came: Record<string, number> = {}

function count (what: string, by = 1): void {
  came[what] = (came[what] ?? 0) + by
}

function chunkOf (exchange: number, at: number): string {
  return `<${exchange}.${at}>`
}

function bodyOf (number: number, { body, chunks }: Asked): string {
  return body === 'none' ? '' : chunks.map((_, at) => chunkOf(number, at)).join('')
}

/** One exchange under way: who asks, and what comes of it. */
class Under {
  readonly number: number
  readonly asked: Asked
  readonly client: RecordingClient
  exchange: Exchange | null = null
  startedAt = -1
  bodyEndedAt = -1
  left = false

  constructor (number: number, asked: Asked, clock: FakeClock) {
    this.number = number
    this.asked = asked
    this.client = new RecordingClient(clock, asked.replaces, asked.pause)
  }
}

/** Lets what is in other turns happen, until all is still. */
async function settle (pool: ScriptedPool): Promise<void> {
  do {
    // Streams and promises take some turns.
    for (let i = 0; i < 2; i++) await new Promise(resolve => setImmediate(resolve))
  } while (pool.turn())
}

/** Plays a world to its end; returns what is wrong with it. */
async function play (world: World, see: (under: Under) => void = () => {}): Promise<string[]> {
  const faults: string[] = []
  const clock = new FakeClock()
  const pool = new ScriptedPool(clock, world.asked.map(({ scripts }) => scripts))
  const balancer = new ScriptedBalancer(pool, world.choosing)
  const breaker = new CountingBreaker({ ...world.breaker, jitter: 0 })
  const options: UpstreamOptions = {
    backends: Array.from({ length: world.backends }, (_, i) => ({ id: `b${i}`, url: `http://127.0.0.1:${i + 1}` })),
    balancer,
    breaker,
    pool,
    health: false,
    retry: world.retry,
    hedge: world.hedge,
    limits: world.limits,
    timeout: world.timeout,
    via: false,
    outlier: world.outlier ? { consecutiveFailures: 3, baseEjectionTime: 50, successRate: false, failurePercentage: false } : false
  }
  const { upstream } = makeUpstream(options, clock, seeded(world.seed))
  // Some are not listened to: what is told must change nothing.
  const traces = world.seed % 4 === 0 ? null : new Traces()
  upstream.start()
  if (upstream.hedging !== null) {
    for (let i = 0; i < PRIMED; i++) {
      upstream.hedging.begin()
      upstream.hedging.latencies.record(10)
    }
  }
  const settings = settingsOf(upstream, {})
  const unders = world.asked.map((asked, i) => new Under(i, asked, clock))
  const pace = Math.min(250, Math.max(5, Math.min(...Object.values(world.timeout), world.retry === false || world.retry.perTryTimeout === 0 ? Infinity : 30, queueTimeoutOf(world)) / 10))
  const longest = Math.max(...world.steps)

  const begin = (under: Under): void => {
    const { number, asked } = under
    under.startedAt = clock.now()
    const body = streamOf(under, clock)
    const intent = {
      request: undefined,
      method: asked.method,
      path: `/${number}`,
      headers: asked.key ? ['Idempotency-Key', String(number)] : [],
      acceptsTrailers: false,
      contentLength: -1,
      body,
      raw: null,
      asterisk: false,
      upgrade: null,
      deadline: clock.now() + asked.within,
      settings,
      log: undefined
    }
    under.exchange = under.client.exchange = new Exchange(upstream, intent, under.client)
    under.exchange.start()
  }

  pool.onDispatch = ({ exchange, backend }) => {
    const under = unders[exchange]
    if (under.client.over) faults.push(`${exchange}: an attempt after its end`)
    const limit = deadlineOf(under, world, pool.attempts.filter(seen => seen.exchange === exchange))
    if (clock.now() > limit + pace + longest) faults.push(`${exchange}: an attempt ${clock.now() - limit} ms after its deadline`)
    const max = world.limits === false ? Infinity : world.limits.maxPerBackend ?? Infinity
    const open = upstream.get(backend).inFlight
    if (open > max) faults.push(`${backend}: ${open} at once, where ${max} may be`)
  }

  let begun = 0
  const start = clock.now()
  for (let turn = 0; clock.now() - start < HORIZON; turn++) {
    const now = clock.now() - start
    for (const under of unders) {
      if (under.startedAt === -1 && under.asked.at <= now) {
        begin(under)
        begun++
      }
      const { leaves } = under.asked
      if (leaves !== null && !under.left && under.startedAt !== -1 && leaves.at <= now - under.asked.at) {
        under.left = true
        under.exchange?.[leaves.how]()
      }
    }
    faults.push(...checkLimits(world, upstream, unders))
    await settle(pool)
    if (begun === unders.length && unders.every(({ client }) => client.over) && pool.attempts.every(({ connected, over }) => over || !connected) && clock.timers <= 1) break
    clock.advance(world.steps[turn % world.steps.length])
    await settle(pool)
    if (faults.length > 0) {
      traces?.stop()
      return faults
    }
  }

  unders.forEach(see)
  for (const under of unders) faults.push(...checkExchange(under, world, pool.attempts.filter(({ exchange }) => exchange === under.number), pace + longest))
  faults.push(...checkUpstream(world, upstream, pool, balancer, breaker))
  upstream.stop()
  clock.advance(20_000)
  await settle(pool)
  if (clock.timers > 0) faults.push(`${clock.timers} timers are left`)
  if (upstream.deadlines.size > 0) faults.push(`${upstream.deadlines.size} deadlines are left`)
  traces?.stop()
  if (traces !== null) {
    faults.push(...traces.faults())
    if (traces.exchanges.size !== world.asked.length) faults.push(`${traces.exchanges.size} exchanges are told of`)
    if (traces.attempts.size !== pool.attempts.length) faults.push(`${traces.attempts.size} attempts are told of`)
  }
  return faults
}

type Upstream = ReturnType<typeof makeUpstream>['upstream']

function queueTimeoutOf ({ limits }: World): number {
  if (limits === false) return Infinity
  const timeout = typeof limits.queue === 'object' ? limits.queue.timeout as number : 1_000
  return timeout === 0 ? Infinity : timeout
}

/** By when an answer must have begun: the time that the body takes once there is a connection is not counted. */
function deadlineOf ({ asked, startedAt, bodyEndedAt }: Under, { timeout }: World, seen: readonly SeenAttempt[]): number {
  const connectedAt = Math.min(...seen.map(({ connectedAt }) => connectedAt))
  const upload = asked.body !== 'stream' || connectedAt === Infinity ? 0 : bodyEndedAt === -1 ? Infinity : Math.max(0, bodyEndedAt - connectedAt)
  return startedAt + Math.min(asked.within, timeout.request + upload)
}

function streamOf (under: Under, clock: FakeClock): Buffer | Readable | null {
  const { number, asked: { body, chunks, bodyEnds } } = under
  if (body === 'none') return null
  if (body === 'buffer') return Buffer.from(bodyOf(number, under.asked))
  const stream = new Readable({ read () {} })
  stream.on('end', () => { under.bodyEndedAt = clock.now() })
  const next = (at: number): void => {
    if (stream.destroyed) return
    if (at < chunks.length) {
      clock.setTimeout(() => {
        if (!stream.destroyed) stream.push(chunkOf(number, at))
        next(at + 1)
      }, chunks[at])
    } else if (bodyEnds === 'fails') stream.destroy(new Error('the body fails'))
    else if (bodyEnds === 'well') stream.push(null)
  }
  next(0)
  return stream
}

function checkLimits ({ limits }: World, { admission }: Upstream, unders: readonly Under[]): string[] {
  if (limits === false || admission === null) return []
  const faults: string[] = []
  const { maxInFlight = Infinity, queue } = limits
  const size = queue === false ? 0 : typeof queue === 'object' ? queue.size as number : 1_024
  if (admission.queueLength > size) faults.push(`${admission.queueLength} wait where ${size} may`)
  if (admission.inFlight > maxInFlight) faults.push(`${admission.inFlight} are in where ${maxInFlight} may be`)
  const running = unders.filter(({ client, exchange }) => exchange !== null && !client.over && exchange.reports().some(({ result }) => result === 'pending')).length
  if (running > maxInFlight) faults.push(`${running} have attempts under way where ${maxInFlight} may be in`)
  return faults
}

/** Whether some text is what another begins with. */
function begins (whole: string, part: string): boolean {
  return whole.startsWith(part)
}

function checkExchange (under: Under, world: World, seen: readonly SeenAttempt[], late: number): string[] {
  const { number, asked, client, exchange } = under
  if (exchange === null) return []
  const faults: string[] = []
  const fault = (text: string): void => { faults.push(`${number}: ${text}`) }
  const times = (what: string): number => client.told.filter(word => word === what).length
  count(client.error?.code === undefined ? client.status === 0 ? 'other' : String(client.status) : `${client.error.code.slice(13)}${client.status === 0 ? '' : ' cut'}`)

  // One response.
  if (!client.over) fault(`has no end: ${client.told.join(' ')}`)
  if (times('failed') + times('finished') > 1) fault(`ends more than once: ${client.told.join(' ')}`)
  if (times('answer') > 1 || times('head') !== times('answer')) fault(`not one head: ${client.told.join(' ')}`)
  if (times('end') + times('cut') !== times('finished')) fault(`finished, and not ended: ${client.told.join(' ')}`)
  if (client.over && times('head') !== times('finished')) fault(`an answer and a failure: ${client.told.join(' ')}`)
  if (!/^(?:interim )*(?:failed|answer head (?:data )*(?:end|cut) finished)?$/.test(client.told.join(' '))) fault(`out of order: ${client.told.join(' ')}`)
  if (client.status !== 0 && client.of !== String(number)) fault(`has the answer of ${client.of}`)
  if (times('end') === 1 && !client.content.split(PIECE).every(rest => rest === '')) fault(`content ${client.content}`)
  if (times('end') === 1 && client.status === 200 && !asked.scripts.some(({ pieces }) => client.content === PIECE.repeat(pieces.length))) fault(`${client.content.length} bytes pass for an answer`)

  // In time.
  const deadline = deadlineOf(under, world, seen)
  const answeredAt = client.headAt === -1 ? client.endedAt : client.headAt
  if (client.over && answeredAt > deadline + late) fault(`${answeredAt - deadline} ms after its deadline`)

  // The attempts.
  const reports = exchange.reports()
  if (reports.length !== seen.length) fault(`${reports.length} attempts of its own, ${seen.length} of backends`)
  if (reports.some(({ result }) => result === 'pending')) fault('an attempt is not settled')
  const tries = reports.filter(({ hedge }) => !hedge).length
  const most = world.retry === false ? 1 : world.retry.attempts as number
  if (tries > most) fault(`${tries} tries where ${most} may be`)
  if (reports.length - tries > 1) fault(`${reports.length - tries} hedges`)
  const twice = asked.method !== 'POST' || (asked.key && world.retry !== false && world.retry.idempotencyKey === true)
  if (!twice && seen.filter(({ connected }) => connected).length > 1) fault('sent twice, and is not idempotent')
  const body = bodyOf(number, asked)
  for (const { received, whole } of seen) {
    if (!begins(body, received)) fault(`of the body ${body} a backend has got ${received}`)
    if (whole && asked.body === 'stream' && received !== body) fault(`of the body ${body} a backend has got ${received} as the whole`)
  }
  // Before it is connected there is no way to tell a dispatcher.
  for (const attempt of seen) if (attempt.connected && !attempt.over) fault(`left alone on ${attempt.backend}`)
  return faults
}

function checkUpstream (world: World, upstream: Upstream, pool: ScriptedPool, balancer: ScriptedBalancer, breaker: CountingBreaker): string[] {
  const faults: string[] = []
  const same = (what: string, actual: unknown, expected: unknown): void => {
    if (actual !== expected) faults.push(`${what} is ${String(actual)}, and should be ${String(expected)}`)
  }
  const { admission, budget, counters, tallies, hedging } = upstream
  const attempts = pool.attempts.length
  same('results that the balancer heard of', balancer.settled.length, attempts)
  same('permits given', breaker.given, attempts)
  same('permits back', breaker.back, attempts)
  same('upstream.inFlight', counters.inFlight, 0)
  same('exchanges counted', counters.successful + counters.failed + counters.aborted, counters.total)
  same('exchanges', counters.total, world.asked.length)
  same('budget.waiting', budget.waiting, 0)
  same('deadlines', upstream.deadlines.size, 0)
  let sum = 0
  for (const backend of upstream.list()) {
    const { counters } = backend
    sum += counters.total
    same(`${backend.id}.inFlight`, backend.inFlight, 0)
    same(`attempts of ${backend.id} counted`, counters.successful + counters.failed + counters.aborted, counters.total)
    same(`${backend.id} is full`, backend.concurrency?.full ?? false, false)
    // Nothing is open or waits: as many may begin as there is room for.
    const room = backend.concurrency?.limit ?? 0
    if (room !== 0 && room !== Infinity) {
      for (let i = 0; i < room; i++) {
        same(`${backend.id} is full with ${i} of ${room}`, backend.concurrency?.full, false)
        backend.concurrency?.begin()
        same(`${backend.id} has waiting`, backend.concurrency?.wait(), i + 1)
      }
      same(`${backend.id} is full`, backend.concurrency?.full, true)
      for (let i = 0; i < room; i++) {
        backend.concurrency?.answer(0, 0, 'not', upstream.clock.now())
        backend.concurrency?.end()
      }
    }
  }
  same('attempts counted', sum, attempts)
  if (admission !== null) {
    same('admission.inFlight', admission.inFlight, 0)
    same('admission.queueLength', admission.queueLength, 0)
    same('admission.full', admission.full, 0)
  }
  const first = new Set(pool.attempts.map(({ exchange }) => exchange)).size
  // A retry may come to nothing: no backend is left, or the client goes.
  if (attempts > first + tallies.retries + tallies.hedges) faults.push(`${attempts} attempts of ${first} exchanges, with ${tallies.retries} retries and ${tallies.hedges} hedges`)
  const { percent = 0, minPerSecond = 0 } = world.retry === false ? {} : world.retry.budget ?? {}
  const seconds = Math.ceil((upstream.clock.now() - 1_000) / 900) + 1
  const most = Math.ceil(world.asked.length * percent / 100) + minPerSecond * seconds
  if (tallies.retries > most) faults.push(`${tallies.retries} retries where ${most} may be`)
  if (hedging !== null && world.hedge !== false && tallies.hedges > (PRIMED + world.asked.length) * (world.hedge.maxExtra as number)) faults.push(`${tallies.hedges} hedges`)
  count('attempts', attempts)
  for (const [what, times] of Object.entries({ ...tallies, ...tallies.timeouts })) if (typeof times === 'number') count(what, times)
  return faults
}

/** More of them, others, and the smallest that fails: `RUNS`, `STORMS`, `SEED` and `SHRINK` in the environment. */
function parametersOf (name: 'RUNS' | 'STORMS', usual: number): { seed: number, numRuns: number, endOnFailure: boolean } {
  const { SEED, SHRINK, [name]: runs } = process.env
  return { seed: Number(SEED ?? 20_260_101), numRuns: Number(runs ?? usual), endOnFailure: SHRINK === undefined }
}

function watchProcess (t: Test): unknown[] {
  const uncaught: unknown[] = []
  const onUncaught = (error: unknown): void => { uncaught.push(error) }
  process.on('unhandledRejection', onUncaught).on('uncaughtException', onUncaught).on('warning', onUncaught)
  t.teardown(() => process.off('unhandledRejection', onUncaught).off('uncaughtException', onUncaught).off('warning', onUncaught))
  return uncaught
}

async function assertWorld (t: Test, world: World): Promise<void> {
  t.strictSame(await play(world), [])
}

t.test('whatever backends, clients and time do, an exchange has one end, its attempts are settled once, and nothing is left', { timeout: 600_000 }, async t => {
  const uncaught = watchProcess(t)
  await fc.assert(fc.asyncProperty(world, async world => {
    const faults = await play(world)
    faults.push(...uncaught.splice(0).map(error => `uncaught: ${String(error)}`))
    if (faults.length > 0) throw new Error(faults.join('\n'))
  }), parametersOf('RUNS', 1_000))
  t.comment(JSON.stringify(came))
  for (const what of ['200', '503', 'CONNECT', 'RESET', 'TIMEOUT', 'TIMEOUT cut', 'BAD_RESPONSE', 'BAD_STATUS', 'OVERLOADED', 'NO_BACKEND', 'CIRCUIT_OPEN', 'CLIENT_CLOSED', 'CLIENT_CLOSED cut', 'ABORTED', 'REQUEST_TIMEOUT',
    'retries', 'retriesDenied', 'hedges', 'hedgesWon', 'queued', 'shed', 'queue', 'connect', 'wait', 'stream', 'client', 'request']) t.ok((came[what] ?? 0) > 0, what)
})

/** What most scripts have in common. */
const well: AttemptScript = { dispatch: 'takes', connect: 0, reads: 0, interims: 0, early: false, head: 1, status: 200, retryAfter: null, pieces: [], end: 0, fails: 'no', tells: 'at once' }
const plain: Asked = { at: 0, method: 'GET', key: false, body: 'none', chunks: [], bodyEnds: 'well', leaves: null, pause: null, replaces: [], within: Infinity, scripts: [well] }
const calm: World = {
  seed: 1,
  backends: 2,
  retry: { attempts: 3, on: ['connect', 'reset', 'timeout'], perTryTimeout: 0, budget: { percent: 100, minPerSecond: 10 } },
  hedge: false,
  limits: false,
  breaker: { threshold: 100, timeout: 1_000 },
  outlier: false,
  timeout: { connect: 100, headers: 500, idle: 200, request: 300 },
  choosing: ['now'],
  steps: [1],
  asked: []
}

// What storms have brought to light, each as small as it can be.

t.test('an answer in whose place something else is put does not end an exchange that has another attempt under way', async t => {
  await assertWorld(t, { ...calm, hedge: { percentile: 90, minDelay: 0, maxExtra: 1 }, asked: [{ ...plain, replaces: [500], scripts: [{ ...well, head: 40 }, { ...well, status: 500 }] }] })
})

t.test('a load balancer that takes its time gives a backend no more attempts than it may have', async t => {
  await assertWorld(t, { ...calm, backends: 1, limits: { maxPerBackend: 1 }, choosing: ['soon'], asked: [plain, plain, plain].map(asked => ({ ...asked, scripts: [{ ...well, head: 20 }] })) })
})

t.test('a body that is still coming goes to the next attempt in its order and whole', async t => {
  const sent: Asked = { ...plain, method: 'PUT', body: 'stream', chunks: [0, 5, 5, 5] }
  // The first backend answers at once; the second connects when more of the body has come meanwhile.
  for (const tells of ['at once', 'later'] as const) {
    for (const connect of [0, 3, 12]) await assertWorld(t, { ...calm, asked: [{ ...sent, scripts: [{ ...well, early: true, status: 503, head: 3, end: 100, tells }, { ...well, connect, reads: 7 }] }] })
  }
})

t.test('what is lost of a body does not end as if it were whole', async t => {
  // The first attempt is given up for its time, and reads the body after that.
  await assertWorld(t, {
    ...calm,
    timeout: { ...calm.timeout, request: 80 },
    retry: { ...calm.retry as RetryOptions, maxBodySize: 10 },
    asked: [{ ...plain, method: 'PUT', body: 'stream', chunks: [0, 5, 5, 5, 5], scripts: [{ ...well, early: true, status: 503, head: 3, reads: 40, end: 100 }, { ...well, connect: 1 }] }]
  })
})

t.test('a hedge that would have to wait for its load balancer is not made, and what that throws is heard by nobody', async t => {
  const uncaught = watchProcess(t)
  await assertWorld(t, { ...calm, hedge: { percentile: 90, minDelay: 0, maxExtra: 1 }, choosing: ['now', 'rejects'], asked: [{ ...plain, scripts: [{ ...well, head: 40 }] }] })
  await assertWorld(t, { ...calm, hedge: { percentile: 90, minDelay: 0, maxExtra: 1 }, choosing: ['now', 'soon'], asked: [{ ...plain, scripts: [{ ...well, head: 40 }] }] })
  t.strictSame(uncaught, [])
})

t.test('a request that waits for another attempt while its body is still coming has no more time than others', async t => {
  const sent: Asked = { ...plain, method: 'PUT', body: 'stream', chunks: [0] }
  await assertWorld(t, { ...calm, backends: 1, retry: { ...calm.retry as RetryOptions, retryAfter: true }, timeout: { ...calm.timeout, request: 80 }, asked: [{ ...sent, scripts: [{ ...well, early: true, status: 503, head: 0, retryAfter: '1', end: null }] }] })
})

t.test('a load balancer that takes its time finds out that no other backend is left, and the one there is is tried again', async t => {
  const answers: string[] = []
  for (const choosing of ['now', 'soon', 'later'] as const) {
    const scripts = [{ ...well, status: 503 }, { ...well, fails: 'head' as const }, well]
    t.strictSame(await play({ ...calm, backends: 1, choosing: [choosing], asked: [{ ...plain, scripts }] }, ({ client: { status, error } }) => answers.push(`${choosing} ${error?.code ?? status}`)), [])
  }
  t.strictSame(answers, ['now 200', 'soon 200', 'later 200'])
})

// Over real sockets.

/** What a backend does with one attempt. */
type Deed = 'answers' | 'answers and closes' | 'refuses' | 'refuses early' | 'resets' | 'closes' | 'answers half' | 'hangs' | 'dawdles'

interface Wanted {
  method: 'GET' | 'PUT' | 'POST'
  body: number
  chunked: boolean
  /** Of its attempts, whichever backend they come to. */
  deeds: Deed[]
}

interface Visitor {
  way: 'plain' | 'hooks' | 'static' | 'elsewhere'
  /** Leaves while it sends its last request, or waits for the answer to it. */
  leaves: { while: 'sending' | 'waiting', at: number, reset: boolean } | null
  slow: boolean
  wanted: Wanted[]
}

const deed = often<Deed>([8, 'answers'], [3, 'answers and closes'], [3, 'refuses'], [1, 'refuses early'], [2, 'resets'], [2, 'closes'], [1, 'answers half'], [1, 'hangs'], [2, 'dawdles'])
const visitor: fc.Arbitrary<Visitor> = fc.record({
  way: often<Visitor['way']>([3, 'plain'], [1, 'hooks'], [1, 'static'], [1, 'elsewhere']),
  leaves: fc.option(fc.record({ while: fc.constantFrom('sending' as const, 'waiting' as const), at: fc.nat(100), reset: fc.boolean() }), { freq: 3 }),
  slow: fc.boolean(),
  wanted: fc.array(fc.record({
    method: often<Wanted['method']>([4, 'GET'], [2, 'PUT'], [2, 'POST']),
    body: often([3, 0], [2, 10], [1, 3_000], [1, 90_000]),
    chunked: fc.boolean(),
    deeds: fc.array(deed, { minLength: 1, maxLength: 4 })
  }), { minLength: 1, maxLength: 4 })
})

/** Backends that do with the attempts of a request what its deeds say, and write down what has reached them. */
class Deeds {
  /** By request: attempts whose heads have come, and bodies that came whole. */
  readonly heads = new Map<string, number>()
  readonly faults: string[] = []
  readonly #wanted: ReadonlyMap<string, Wanted>
  readonly #close: (() => void)[] = []

  constructor (wanted: ReadonlyMap<string, Wanted>) {
    this.#wanted = wanted
  }

  async backend (): Promise<string> {
    const sockets = new Set<Socket>()
    const server = createServer({ noDelay: true, allowHalfOpen: true }, socket => {
      sockets.add(socket)
      let received = ''
      let begun = false
      let deed: Deed = 'answers'
      socket.on('error', () => {}).on('end', () => socket.end()).on('close', () => sockets.delete(socket)).on('data', chunk => {
        received += chunk.toString('latin1')
        if (!received.includes('\r\n\r\n')) return
        const id = /^\S+ \/[^/]+\/(\S+)/.exec(received)?.[1] as string
        const wanted = this.#wanted.get(id) as Wanted
        if (!begun) {
          begun = true
          const times = this.heads.get(id) ?? 0
          this.heads.set(id, times + 1)
          deed = wanted.deeds[times % wanted.deeds.length]
          if (deed === 'refuses early') this.#answer(socket, id, deed)
        }
        const request = parseMessage(received)
        if (request === null) return
        if (request.body !== 'b'.repeat(wanted.body)) this.faults.push(`${id}: ${request.body.length} of ${wanted.body} bytes have come as the whole`)
        received = received.slice(request.length)
        begun = false
        if (deed !== 'refuses early') this.#answer(socket, id, deed)
      })
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    this.#close.push(() => {
      server.close()
      for (const socket of sockets) socket.destroy()
    })
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  }

  close (): void {
    for (const close of this.#close) close()
  }

  #answer (socket: Socket, id: string, deed: Deed): void {
    const bytes = ok(`${id}:${'x'.repeat(1_000)}`, `X-Id: ${id}\r\n`)
    switch (deed) {
      case 'answers': socket.write(bytes); break
      case 'answers and closes':
        socket.write(bytes)
        setImmediate(() => socket.end())
        break
      case 'refuses': case 'refuses early': socket.write(ok('busy', `X-Id: ${id}\r\n`, '503 Busy')); break
      case 'resets': socket.resetAndDestroy(); break
      case 'closes': socket.end(); break
      case 'answers half':
        socket.write(bytes.slice(0, 500))
        setImmediate(() => socket.resetAndDestroy())
        break
      case 'dawdles': setTimeout(() => { if (!socket.destroyed) socket.write(bytes) }, 5); break
      default:
    }
  }
}

function bytesOf (way: string, id: string, { method, body, chunked }: Wanted): string {
  const head = `${method} /${way}/${id} HTTP/1.1\r\nHost: g\r\nContent-Type: application/x\r\n`
  const bytes = 'b'.repeat(body)
  if (body === 0) return `${head}\r\n`
  if (!chunked) return `${head}Content-Length: ${body}\r\n\r\n${bytes}`
  const half = body >> 1
  return `${head}Transfer-Encoding: chunked\r\n\r\n${[half, body - half].map(size => `${size.toString(16)}\r\n${'b'.repeat(size)}\r\n`).join('')}0\r\n\r\n`
}

/** Plays a client to its end; returns what it found wrong. */
async function visit (gateway: Gateway, name: string, { way, leaves, slow, wanted }: Visitor): Promise<string[]> {
  const wire = await gateway.connect()
  const gone = (): boolean => wire.closed || wire.ended
  const turn = (): Promise<void> => new Promise(resolve => setImmediate(resolve))
  let at = 0
  const faults: string[] = []
  for (const [i, one] of wanted.entries()) {
    const id = `${name}-${i}`
    const bytes = bytesOf(way, id, one)
    const last = leaves !== null && i === wanted.length - 1
    const stop = last && leaves.while === 'sending' ? Math.floor(bytes.length * leaves.at / 100) : bytes.length
    const piece = Math.max(1, slow ? Math.ceil(stop / 5) : stop)
    for (let from = 0; from < stop && !gone(); from += piece) {
      wire.send(bytes.slice(from, Math.min(stop, from + piece)))
      if (slow) for (let turns = 0; turns < 3; turns++) await turn()
    }
    if (last) {
      if (leaves.while === 'waiting') for (let turns = 0; turns < leaves.at / 10; turns++) await turn()
      if (leaves.reset) wire.reset()
      else wire.close()
      await until(() => wire.closed)
      came.left = (came.left ?? 0) + 1
      return faults
    }
    await until(() => gone() || parseMessage(wire.received.slice(at)) !== null)
    const answer = parseMessage(wire.received.slice(at))
    if (answer === null) {
      const rest = wire.received.slice(at)
      count('cut short')
      if (rest !== '' && !rest.toLowerCase().includes(`x-id: ${id}\r\n`)) faults.push(`${id}: cut short, and not its own: ${rest}`)
      return faults
    }
    at += answer.length
    const [owner] = answer.values('x-id')
    count(owner === undefined ? `ours ${answer.status}` : `theirs ${answer.status}`)
    if (owner !== undefined && owner !== id) faults.push(`${id}: has the answer of ${owner}`)
    if (owner !== undefined && answer.status === 200 && answer.body !== `${id}:${'x'.repeat(1_000)}`) faults.push(`${id}: ${answer.body.length} bytes look whole`)
    if (owner === undefined && answer.status < 400) faults.push(`${id}: ${answer.startLine} is nobody's`)
  }
  if (!gone() && wire.received.length > at) faults.push(`${name}: an answer too many: ${wire.received.slice(at)}`)
  wire.close()
  await until(() => wire.closed)
  return faults
}

async function storm (t: Test, visitors: readonly Visitor[], narrow: boolean): Promise<string[]> {
  const wanted = new Map(visitors.flatMap(({ wanted }, i) => wanted.map((one, j) => [`${i}-${j}`, one] as const)))
  const deeds = new Deeds(wanted)
  t.teardown(() => deeds.close())
  const clock = new FakeClock()
  const backends = async (count: number) => await Promise.all(Array.from({ length: count }, async (_, i) => ({ id: `b${i}`, url: await deeds.backend() })))
  const shared = {
    retry: { budget: { percent: 100 }, backoff: { base: 20 } },
    hedge: { minDelay: 10, maxExtra: 1 },
    breaker: { threshold: 5, timeout: 500 },
    outlier: { baseEjectionTime: 500 },
    limits: { maxInFlight: narrow ? 3 : 50, maxPerBackend: narrow ? 2 : 20, queue: { size: narrow ? 2 : 50 } },
    timeout: { connect: 2_000, headers: 1_000, idle: 2_000, request: 3_000 },
    pool: { connections: narrow ? 2 : 20 }
  }
  const gateway = await startGateway(t, {
    ...shared,
    backends: await backends(3),
    upstreams: { other: { ...shared, backends: await backends(1) } },
    clock,
    random: seeded(1),
    routes: [
      { prefix: '/plain', rewritePrefix: '/plain' },
      { prefix: '/hooks', rewritePrefix: '/hooks', onSend: async () => undefined },
      { prefix: '/static', rewritePrefix: '/static', fallback: { statusCode: 599, body: 'none', on: ['RESET', 'TIMEOUT', 'OVERLOADED', 503] } },
      { prefix: '/elsewhere', rewritePrefix: '/elsewhere', fallback: { upstream: 'other', on: ['RESET', 'TIMEOUT', 'OVERLOADED', 503] } }
    ]
  })
  const { proxy } = gateway.app
  const upstreams = proxy.listUpstreams().map(upstream => (upstream as UpstreamManager).state)
  for (const { hedging } of upstreams) for (let i = 0; i < PRIMED; i++) hedging?.latencies.record(1)
  const faults: string[] = []
  let done = 0
  for (const [i, visitor] of visitors.entries()) {
    visit(gateway, String(i), visitor).catch(error => [`${i}: ${String(error)}`]).then(found => {
      faults.push(...found)
      done++
    })
  }
  const isQuiet = (): boolean => upstreams.every(({ counters, deadlines, pool }) => counters.inFlight === 0 && deadlines.size === 0 && pool.stats().active === 0 && pool.stats().pending === 0)
  const began = performance.now()
  for (let turn = 0; done < visitors.length || !isQuiet(); turn++) {
    await new Promise(resolve => setImmediate(resolve))
    // Time goes on while other things do.
    if (turn % 15 === 14) clock.advance(20)
    if (performance.now() - began > 20_000) return [...faults, `never ends: ${done} of ${visitors.length}, ${upstreams.map(({ counters, deadlines, pool }) => JSON.stringify([counters.inFlight, deadlines.size, pool.stats()])).join()}`]
  }
  faults.push(...deeds.faults)
  const same = (what: string, actual: unknown, expected: unknown): void => { if (actual !== expected) faults.push(`${what} is ${String(actual)}, and should be ${String(expected)}`) }
  for (const { name, admission, budget, counters, tallies, deadlines } of upstreams) {
    same(`${name}: exchanges`, counters.successful + counters.failed + counters.aborted, counters.total)
    same(`${name}: budget.waiting`, budget.waiting, 0)
    same(`${name}: deadlines`, deadlines.size, 0)
    same(`${name}: admission`, [admission?.inFlight, admission?.queueLength, admission?.full].join(), '0,0,0')
    for (const [what, times] of Object.entries(tallies)) if (typeof times === 'number') count(`storm ${what}`, times)
  }
  for (const upstream of upstreams) {
    for (const { id, counters, inFlight, concurrency } of upstream.list()) {
      same(`${upstream.name} ${id}.inFlight`, inFlight, 0)
      same(`${upstream.name} ${id}: attempts`, counters.successful + counters.failed + counters.aborted, counters.total)
      same(`${upstream.name} ${id} is full`, concurrency?.full, false)
    }
  }
  for (const [id, { method }] of wanted) {
    // A fallback to another upstream is asked for by who has set it.
    const { way } = visitors[Number(id.split('-')[0])]
    const times = deeds.heads.get(id) ?? 0
    if (method === 'POST' && way !== 'elsewhere' && times > 1) faults.push(`${id}: sent ${times} times, and is not idempotent`)
    if (times > 2 * (3 + 2 + 1)) faults.push(`${id}: sent ${times} times`)
  }
  for (const { level, err, msg } of gateway.log) {
    const code = String((err as { code?: string } | undefined)?.code)
    if (code.startsWith('ERR_HTTP_HEADERS_SENT') || (level >= 50 && !code.startsWith('FST_ROCKSTAR_'))) faults.push(`logged: ${msg} ${JSON.stringify(err)}`)
  }
  await gateway.app.close()
  deeds.close()
  return faults
}

t.test('over real sockets each request has at most one answer, which is its own, and nothing is left', { timeout: 600_000 }, async t => {
  const uncaught = watchProcess(t)
  await fc.assert(fc.asyncProperty(fc.array(visitor, { minLength: 4, maxLength: 14 }), fc.boolean(), async (visitors, narrow) => {
    const faults = await storm(t, visitors, narrow)
    faults.push(...uncaught.splice(0).map(error => `uncaught: ${String(error)}`))
    if (faults.length > 0) throw new Error(faults.join('\n'))
  }), parametersOf('STORMS', 40))
  t.comment(JSON.stringify(came))
  for (const what of ['left', 'cut short', 'theirs 200', 'theirs 503', 'ours 599', 'ours 502', 'ours 503', 'storm retries', 'storm queued', 'storm shed', 'storm fallbacks']) t.ok((came[what] ?? 0) > 0, what)
})
