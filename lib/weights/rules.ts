import type { Backend, LoadReport, WeightFunction, WeightOptions, WeightSample } from '../../types/index.ts'
import type { Observed } from './observed.ts'

/** One backend and what was seen of it. */
export interface Judged {
  backend: Backend
  observed: Observed
  sample: WeightSample
}

/** Works out what the weights are to be multiplied by; `undefined` for a backend that nothing can be said of. */
export type WeightRule = (judged: readonly Judged[], now: number) => (number | undefined)[]

/** How much of a new latency an average takes. */
const FRESH = 0.3

/** Twice as fast is worth twice as much. */
function byLatency (): WeightRule {
  return judged => judged.map(({ observed, sample: { requests, latency } }) => {
    const before = observed.latency
    if (requests > 0) observed.latency = before === undefined ? latency : before + FRESH * (latency - before)
    const average = observed.latency
    return average === undefined ? undefined : 1 / Math.max(average, 0.001)
  })
}

/** What a backend does for what it costs it, errors counting as cost. Source: gRFC A58. */
function byLoadReport ({ blackout, interval }: Required<WeightOptions>): WeightRule {
  return (judged, now) => judged.map(({ observed, sample: { load, requests } }) => {
    const current = load === undefined ? undefined : worth(load, requests * 1000 / interval)
    // A report that nothing follows from leaves what it was worth; none at all does not.
    if (current !== undefined || load === undefined) observed.worth = current
    return now - observed.reportsSince < blackout ? undefined : observed.worth
  })
}

function worth ({ applicationUtilization, cpuUtilization, requestsPerSecond, errorsPerSecond }: LoadReport, seenPerSecond: number): number | undefined {
  const utilization = applicationUtilization > 0 ? applicationUtilization : cpuUtilization
  // One that does not tell its requests is taken at what it gets from here.
  const requests = requestsPerSecond > 0 ? requestsPerSecond : seenPerSecond
  if (utilization <= 0 || requests <= 0) return undefined
  const done = requests / (utilization + errorsPerSecond / requests)
  return Number.isFinite(done) ? done : undefined
}

function byFunction (factorOf: WeightFunction): WeightRule {
  return judged => judged.map(({ backend, sample }) => {
    const factor: unknown = factorOf(backend, sample)
    // Nobody waits for it, and a rejection that nobody hears of ends the process.
    if (factor instanceof Promise) factor.catch(() => {})
    if (typeof factor !== 'number' || !(factor >= 0)) throw new TypeError(`weights.from returned ${String(factor)} instead of a number of at least 0`)
    return factor
  })
}

/** The factors of a rule whose numbers have no scale of their own: 1 on average, and for those that nothing is known of. */
function relative (rule: WeightRule): WeightRule {
  return (judged, now) => {
    const worths = rule(judged, now)
    const known = worths.filter(worth => worth !== undefined)
    const mean = known.reduce((sum, worth) => sum + worth, 0) / known.length
    // One alone cannot be compared.
    return worths.map(worth => worth === undefined || known.length < 2 || !(mean > 0 && mean < Infinity) ? 1 : worth / mean)
  }
}

export function ruleFrom (options: Required<WeightOptions>): WeightRule {
  if (typeof options.from === 'function') return byFunction(options.from)
  return relative(options.from === 'latency' ? byLatency() : byLoadReport(options))
}
