import type { Clock, HealthCheckOverrides, HealthOptions, Timer } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { failed, type Check, type CheckResult } from './check.ts'
import { checkSettingsOf, type CheckMeans, type CheckSettings } from './check-settings.ts'
import { HealthState } from './health-state.ts'

/** Part of an interval from the beginning of one backend's checks to that of the next: spreads any number of them evenly. */
const GOLDEN = (Math.sqrt(5) - 1) / 2
/** Milliseconds between two looks at who is due, at the least. */
const PACE = 10
/** Milliseconds to the next check of an unhealthy backend that somebody waits for. */
const EAGER = 100

/** Checks of one backend. */
interface Checked {
  readonly backend: Backend
  settings: CheckSettings
  /** What the settings were made of. */
  overrides: HealthCheckOverrides | undefined
  /** When the next check is due; `Infinity` while one is under way or none is wanted. */
  due: number
  /** Set while somebody has asked for a check and there is no room for it. */
  asked: Promised | null
  running: Running | null
}

interface Promised {
  readonly result: Promise<CheckResult>
  readonly tell: (result: CheckResult) => void
}

interface Running {
  readonly check: Check
  readonly result: Promise<CheckResult>
  end (result: CheckResult): void
}

/** Who hears of conclusions. */
export interface ActiveHealthListener {
  /** @param proves whether the check has asked the backend for more than an open port */
  onHealthChecked (backend: Backend, result: CheckResult, changed: boolean, proves: boolean): void
}

/**
 * Checks the backends of an upstream, each at its own pace: one timer for all, a bounded number of checks at once, and never two of
 * one backend.
 */
export class ActiveHealth {
  readonly #options: Required<HealthOptions>
  readonly #means: CheckMeans
  readonly #clock: Clock
  readonly #random: () => number
  readonly #listener: ActiveHealthListener
  readonly #checked = new Map<Backend, Checked>()
  /** Those that somebody has asked for while there was no room. */
  #waiting: Checked[] = []
  /** Those that were due at the last look and had no room, the longest due last. */
  #overdue: Checked[] = []
  #sequence = 0
  #running = 0
  #timer: Timer | null = null
  #timerAt = Infinity
  #lookedAt = -Infinity
  #started = false
  /** Whether somebody waits for backends to become healthy. */
  #eager = false

  constructor (options: HealthOptions, { clock, random, ...means }: { clock: Clock, random: () => number } & CheckMeans, listener: ActiveHealthListener) {
    this.#options = options as Required<HealthOptions>
    this.#means = means
    this.#clock = clock
    this.#random = random
    this.#listener = listener
    this.#sequence = Math.floor(random() * 1000)
  }

  /** Throws `INVALID_OPTIONS` where a backend cannot be checked by such settings of its own. */
  approve (backend: Backend, overrides = backend.healthCheck): void {
    checkSettingsOf(this.#options, this.#means, backend, overrides)
  }

  /** Begins to know a backend, and takes it for what its settings say. */
  add (backend: Backend): void {
    const settings = checkSettingsOf(this.#options, this.#means, backend)
    const { initial } = settings
    backend.health ??= new HealthState(initial === 'healthy', initial === 'check-first' ? 1 : Infinity)
    const checked = { backend, settings, overrides: backend.healthCheck, due: Infinity, asked: null, running: null }
    this.#checked.set(backend, checked)
    if (this.#started) this.#plan(checked, initial === 'healthy' && !this.#eager)
  }

  /** Takes over that a backend's own settings or its activity have changed. */
  update (backend: Backend): void {
    const checked = this.#checked.get(backend)
    if (checked === undefined) return
    const same = checked.overrides === backend.healthCheck
    if (!same) {
      checked.settings = checkSettingsOf(this.#options, this.#means, backend)
      checked.overrides = backend.healthCheck
    }
    if (!backend.isActive) this.#cancel(checked)
    else if (this.#started && (!same || checked.due === Infinity)) this.#plan(checked, checked.due !== Infinity)
  }

  remove (backend: Backend): void {
    const checked = this.#checked.get(backend)
    this.#checked.delete(backend)
    if (checked !== undefined) this.#cancel(checked)
  }

  /** @param atOnce whether somebody waits for the first checks */
  start (atOnce: boolean): void {
    this.#started = true
    for (const checked of this.#checked.values()) this.#plan(checked, !atOnce && checked.settings.initial === 'healthy')
  }

  /** Somebody waits for backends to become healthy. */
  hurry (): void {
    this.#eager = true
  }

  /** Nobody waits any more. */
  calmDown (): void {
    this.#eager = false
  }

  stop (): void {
    this.#started = false
    if (this.#timer !== null) this.#clock.clearTimeout(this.#timer)
    this.#timer = null
    this.#timerAt = Infinity
    // All that wait first: what is given up makes room.
    for (const checked of this.#checked.values()) this.#forget(checked)
    for (const checked of this.#checked.values()) this.#cancel(checked)
  }

  /** Checks all active backends now, or waits for the check that is under way; resolves to those that failed and are still there. */
  async checkAll (): Promise<{ backend: Backend, result: CheckResult }[]> {
    const results = await Promise.all([...this.#checked.values()].filter(({ backend }) => backend.isActive)
      .map(async checked => ({ backend: checked.backend, result: await this.#soon(checked) })))
    return results.filter(({ backend, result }) => !result.passed && backend.isActive && this.#checked.has(backend))
  }

  /** A check as soon as there is room for it. */
  #soon (checked: Checked): Promise<CheckResult> {
    const known = checked.running ?? checked.asked
    if (known !== null) return known.result
    const asked = checked.asked = promised()
    this.#waiting.push(checked)
    this.#fill()
    return asked.result
  }

  /** Sets the next check of a backend: at once, or at its place in the interval. */
  #plan (checked: Checked, spread: boolean): void {
    const { backend, settings } = checked
    // The one under way plans the next when it ends.
    if (!backend.isActive || checked.running !== null) return
    const place = (++this.#sequence * GOLDEN) % 1
    checked.due = this.#clock.now() + (spread ? place * pauseOf(backend, settings) : 0)
    this.#schedule(checked.due)
  }

  #schedule (due: number): void {
    const now = this.#clock.now()
    const at = Math.max(due, now, this.#lookedAt + PACE)
    if (at >= this.#timerAt) return
    if (this.#timer !== null) this.#clock.clearTimeout(this.#timer)
    this.#timerAt = at
    this.#timer = this.#clock.setTimeout(() => this.#onTimer(), at - now)
  }

  #onTimer (): void {
    this.#timer = null
    this.#timerAt = Infinity
    const now = this.#lookedAt = this.#clock.now()
    let next = Infinity
    this.#overdue = []
    for (const checked of this.#checked.values()) {
      if (checked.due <= now) this.#overdue.push(checked)
      else if (checked.due < next) next = checked.due
    }
    // Else those listed first would come again before the last ones had been checked at all, where there is not room for everybody.
    this.#overdue.sort((a, b) => a.due - b.due).reverse()
    this.#fill()
    if (next !== Infinity) this.#schedule(next)
  }

  /** Begins what there is room for: what somebody has asked for, then what is due. */
  #fill (): void {
    while (this.#running < this.#options.concurrency) {
      const checked = this.#waiting.shift() ?? this.#overdue.pop()
      if (checked === undefined) return
      // It may have been begun or given up since it was put there.
      if (checked.asked !== null || checked.due !== Infinity) this.#begin(checked)
    }
  }

  #begin (checked: Checked): void {
    const { settings } = checked
    const { result, tell } = checked.asked ?? promised()
    const startedAt = this.#clock.now()
    this.#running++
    checked.asked = null
    checked.due = Infinity
    const check = settings.begin()
    let settled = false
    const end = (found: CheckResult) => {
      if (settled) return
      settled = true
      this.#clock.clearTimeout(timer)
      this.#running--
      checked.running = null
      if (found !== CANCELLED) this.#conclude(checked, found, this.#clock.now() - startedAt)
      tell(found)
      this.#fill()
    }
    const timer = this.#clock.setTimeout(() => {
      check.cancel()
      end(failed(`no answer within ${settings.timeout} ms`))
    }, settings.timeout)
    checked.running = { check, result, end }
    check.result.then(end)
  }

  #conclude (checked: Checked, result: CheckResult, time: number): void {
    const { backend, settings } = checked
    const { rise, fall, jitter, proves } = settings
    const state = backend.health as HealthState
    const changed = state.record(result, time, new Date(this.#clock.wall()), rise, fall)
    if (this.#started && backend.isActive) {
      const pause = (this.#eager && !state.healthy ? EAGER : pauseOf(backend, settings)) * (1 + jitter * (2 * this.#random() - 1))
      // From its beginning, so that slow checks do not come less often.
      checked.due = this.#clock.now() + Math.max(PACE, pause - time)
      this.#schedule(checked.due)
    }
    this.#listener.onHealthChecked(backend, result, changed, proves)
  }

  /** Wants no check of a backend any more; one under way goes on. */
  #forget (checked: Checked): void {
    checked.due = Infinity
    checked.asked?.tell(CANCELLED)
    checked.asked = null
  }

  #cancel (checked: Checked): void {
    this.#forget(checked)
    const { running } = checked
    if (running === null) return
    running.check.cancel()
    running.end(CANCELLED)
  }
}

/** Milliseconds to the next check, without jitter. */
function pauseOf ({ health }: Backend, { interval, unhealthyInterval }: CheckSettings): number {
  return health?.healthy === false ? unhealthyInterval : interval
}

function promised (): Promised {
  let tell!: Promised['tell']
  const result = new Promise<CheckResult>(resolve => { tell = resolve })
  return { result, tell }
}

/** What a check ends with that nobody wants any more. */
const CANCELLED = failed('the check was given up')
