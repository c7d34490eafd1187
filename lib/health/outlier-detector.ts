import type { Clock, FailurePercentageOptions, Outcome, OutlierOptions, SuccessRateOptions, Timer } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { OutlierRecord } from './outlier-record.ts'

type Options = Required<Omit<OutlierOptions, 'successRate' | 'failurePercentage'>> & {
  successRate: Required<SuccessRateOptions> | false
  failurePercentage: Required<FailurePercentageOptions> | false
}

/** Below which rates are the same: else some of many equal ones would be less than their own mean. */
const ROUNDING = 1e-9

/** Who is told of ejections. */
export interface OutlierListener {
  list (): readonly Backend[]
  onEjected (backend: Backend, cause: string, counts: Record<string, number>, milliseconds: number): void
  onReturned (backend: Backend, cause: string): void
}

interface Judged {
  readonly backend: Backend
  readonly record: OutlierRecord
}

/** Judges backends by what came of requests, and ejects for a while those that stand out. Source: gRPC A50, Envoy. */
export class OutlierDetector {
  readonly #options: Options
  readonly #clock: Clock
  readonly #listener: OutlierListener
  readonly #returns = new Map<Backend, Timer>()
  #sweep: Timer | null = null

  constructor (options: OutlierOptions, clock: Clock, listener: OutlierListener) {
    this.#options = options as Options
    this.#clock = clock
    this.#listener = listener
  }

  add (backend: Backend): void {
    backend.outlier ??= new OutlierRecord()
  }

  remove (backend: Backend): void {
    this.#forgetReturn(backend)
  }

  start (): void {
    this.#sweep ??= this.#clock.setTimeout(() => this.#onSweep(), this.#options.interval)
  }

  stop (): void {
    if (this.#sweep !== null) this.#clock.clearTimeout(this.#sweep)
    this.#sweep = null
    for (const backend of [...this.#returns.keys()]) this.#forgetReturn(backend)
  }

  /** Hears of an attempt that the backend was to blame for, or that went well. */
  count (backend: Backend, outcome: Outcome): void {
    const record = backend.outlier as OutlierRecord
    const { splitLocalErrors, consecutiveFailures, consecutiveLocalErrors } = this.#options
    record.count(outcome, splitLocalErrors)
    // What was under way when it was ejected, or taken out otherwise, says nothing new.
    if (backend.ejected || !backend.usable) return
    if (consecutiveFailures > 0 && record.consecutiveFailures > 0 && record.consecutiveFailures % consecutiveFailures === 0) this.#eject({ backend, record }, 'failures in a row', { consecutiveFailures: record.consecutiveFailures })
    else if (consecutiveLocalErrors > 0 && record.consecutiveLocalErrors > 0 && record.consecutiveLocalErrors % consecutiveLocalErrors === 0) this.#eject({ backend, record }, 'requests in a row without an answer', { consecutiveLocalErrors: record.consecutiveLocalErrors })
  }

  /** Ends an ejection before its time: a check has passed. */
  bringBack (backend: Backend, cause: string): void {
    if (!backend.ejected) return
    this.#forgetReturn(backend)
    backend.ejected = false
    backend.outlier?.forgive()
    this.#listener.onReturned(backend, cause)
  }

  #onSweep (): void {
    const judged = this.#listener.list().filter(({ usable, ejected }) => usable && !ejected).map(backend => ({ backend, record: backend.outlier as OutlierRecord }))
    const { successRate, failurePercentage } = this.#options
    if (successRate !== false) this.#compare(judged, successRate)
    if (failurePercentage !== false) this.#lookAtFailures(judged, failurePercentage)
    for (const { backend, record } of judged) if (!backend.ejected && record.multiplier > 0) record.multiplier--
    // Also of those that were not judged: what is older than an interval says nothing of them when they are back.
    for (const { outlier } of this.#listener.list()) outlier?.beginInterval()
    this.#sweep = this.#clock.setTimeout(() => this.#onSweep(), this.#options.interval)
  }

  #compare (judged: readonly Judged[], { stdevFactor, minimumHosts, requestVolume }: Required<SuccessRateOptions>): void {
    const busy = judged.filter(({ record }) => record.requests >= requestVolume)
    if (busy.length < minimumHosts) return
    const rates = busy.map(({ record: { requests, failures } }) => (requests - failures) / requests)
    const mean = rates.reduce((sum, rate) => sum + rate, 0) / rates.length
    const deviation = Math.sqrt(rates.reduce((sum, rate) => sum + (rate - mean) ** 2, 0) / rates.length)
    const least = mean - stdevFactor * deviation
    busy.forEach((one, i) => {
      if (rates[i] < least - ROUNDING) this.#eject(one, 'it succeeds less often than the others', { successRate: rates[i], mean, deviation })
    })
  }

  #lookAtFailures (judged: readonly Judged[], { threshold, minimumHosts, requestVolume }: Required<FailurePercentageOptions>): void {
    const busy = judged.filter(({ record }) => record.requests >= requestVolume)
    if (busy.length < minimumHosts) return
    for (const one of busy) {
      const { requests, failures } = one.record
      if (failures / requests * 100 >= threshold) this.#eject(one, 'it mostly fails', { requests, failures })
    }
  }

  #eject ({ backend, record }: Judged, cause: string, counts: Record<string, number>): void {
    // Nobody would bring it back where time is not followed.
    if (this.#sweep === null || backend.ejected || !this.#mayEject(backend)) return
    const { baseEjectionTime, maxEjectionTime } = this.#options
    record.multiplier++
    record.ejections++
    const time = Math.min(baseEjectionTime * record.multiplier, Math.max(baseEjectionTime, maxEjectionTime))
    record.ejectedUntil = this.#clock.wall() + time
    backend.ejected = true
    this.#returns.set(backend, this.#clock.setTimeout(() => this.bringBack(backend, 'its time is over'), time))
    this.#listener.onEjected(backend, cause, counts, time)
  }

  /** Whether one more may go: not beyond the limit, and never the last. Open circuits are none of its business, but leave nobody either. */
  #mayEject (backend: Backend): boolean {
    const active = this.#listener.list().filter(({ enlisted }) => enlisted)
    const ejected = active.filter(({ ejected }) => ejected).length
    return (ejected + 1) / active.length * 100 <= this.#options.maxEjectionPercent && active.some(other => other !== backend && other.available)
  }

  #forgetReturn (backend: Backend): void {
    const timer = this.#returns.get(backend)
    if (timer !== undefined) this.#clock.clearTimeout(timer)
    this.#returns.delete(backend)
  }
}
