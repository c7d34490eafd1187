import type { Clock, HealthOptions, Timer } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { failed, type Check, type CheckResult } from './check.ts'
import { checkSettingsOf, type CheckSettings } from './check-settings.ts'
import { HealthState } from './health-state.ts'

/** Part of an interval from the beginning of one backend's checks to that of the next: spreads any number of them evenly. */
const GOLDEN = (Math.sqrt(5) - 1) / 2
/** Milliseconds between two looks at who is due, at the least. */
const PACE = 10

/** Checks of one backend. */
interface Checked {
  readonly backend: Backend
  readonly settings: CheckSettings
  /** When the next check is due; `Infinity` while one is under way or none is wanted. */
  due: number
  running: Running | null
}

interface Running {
  readonly check: Check
  readonly timer: Timer
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
  readonly #clock: Clock
  readonly #random: () => number
  readonly #listener: ActiveHealthListener
  readonly #checked = new Map<Backend, Checked>()
  /** Checks that were asked for while there was no room. */
  readonly #waiting: (() => void)[] = []
  #sequence = 0
  #running = 0
  #timer: Timer | null = null
  #timerAt = Infinity
  #started = false

  constructor (options: HealthOptions, { clock, random }: { clock: Clock, random: () => number }, listener: ActiveHealthListener) {
    this.#options = options as Required<HealthOptions>
    this.#clock = clock
    this.#random = random
    this.#listener = listener
    this.#sequence = Math.floor(random() * 1000)
  }

  /** Begins to know a backend, and takes it for what its settings say. */
  add (backend: Backend): void {
    const settings = checkSettingsOf(this.#options, backend)
    const { initial, rise } = settings
    backend.health ??= new HealthState(initial === 'healthy', initial === 'check-first' ? 1 : rise)
    this.#checked.set(backend, { backend, settings, due: Infinity, running: null })
    if (this.#started) this.#plan(backend, initial === 'healthy')
  }

  /** Takes over that a backend's own settings or its activity have changed. */
  update (backend: Backend): void {
    const known = this.#checked.get(backend)
    if (known === undefined) return
    const checked = { ...known, settings: checkSettingsOf(this.#options, backend) }
    this.#checked.set(backend, checked)
    if (!this.#started) return
    if (!backend.isActive) {
      this.#cancel(known)
      checked.running = null
      checked.due = Infinity
    } else if (known.running === null) this.#plan(backend, known.due !== Infinity)
  }

  remove (backend: Backend): void {
    const checked = this.#checked.get(backend)
    if (checked !== undefined) this.#cancel(checked)
    this.#checked.delete(backend)
  }

  /** @param atOnce whether somebody waits for the first checks */
  start (atOnce: boolean): void {
    this.#started = true
    for (const { backend, settings } of this.#checked.values()) this.#plan(backend, !atOnce && settings.initial === 'healthy')
  }

  stop (): void {
    this.#started = false
    if (this.#timer !== null) this.#clock.clearTimeout(this.#timer)
    this.#timer = null
    this.#timerAt = Infinity
    for (const checked of this.#checked.values()) {
      this.#cancel(checked)
      checked.due = Infinity
    }
  }

  /** Checks all active backends now, or waits for the check that is under way; resolves to those that failed. */
  async checkAll (): Promise<{ backend: Backend, result: CheckResult }[]> {
    const results = await Promise.all([...this.#checked.values()].filter(({ backend }) => backend.isActive)
      .map(async checked => ({ backend: checked.backend, result: await this.#soon(checked) })))
    return results.filter(({ result }) => !result.passed)
  }

  /** A check as soon as there is room for it. */
  #soon (checked: Checked): Promise<CheckResult> {
    if (checked.running !== null) return checked.running.result
    if (this.#running < this.#options.concurrency) return this.#begin(checked)
    return new Promise(resolve => { this.#waiting.push(() => { this.#soon(checked).then(resolve) }) })
  }

  /** Sets the first check of a backend: at once, or at its place in the interval. */
  #plan (backend: Backend, spread: boolean): void {
    const checked = this.#checked.get(backend) as Checked
    if (!backend.isActive) return
    const place = (++this.#sequence * GOLDEN) % 1
    checked.due = this.#clock.now() + (spread ? place * checked.settings.interval : 0)
    this.#schedule(checked.due)
  }

  #schedule (due: number): void {
    const now = this.#clock.now()
    const at = Math.max(due, now + (due > now ? PACE : 0))
    if (at >= this.#timerAt) return
    if (this.#timer !== null) this.#clock.clearTimeout(this.#timer)
    this.#timerAt = at
    this.#timer = this.#clock.setTimeout(() => this.#onTimer(), at - now)
  }

  #onTimer (): void {
    this.#timer = null
    this.#timerAt = Infinity
    const now = this.#clock.now()
    let next = Infinity
    for (const checked of this.#checked.values()) {
      if (checked.due <= now) {
        // Without room it stays due, and is looked at when there is some.
        if (this.#running < this.#options.concurrency) this.#begin(checked)
      } else if (checked.due < next) next = checked.due
    }
    if (next !== Infinity) this.#schedule(next)
  }

  #begin (checked: Checked): Promise<CheckResult> {
    const { backend, settings } = checked
    const startedAt = this.#clock.now()
    this.#running++
    checked.due = Infinity
    const check = settings.begin()
    let settled = false
    let tell: (result: CheckResult) => void
    const result = new Promise<CheckResult>(resolve => { tell = resolve })
    const end = (found: CheckResult) => {
      if (settled) return
      settled = true
      this.#clock.clearTimeout(timer)
      this.#running--
      checked.running = null
      const current = this.#checked.get(backend)
      if (current !== undefined && current.running?.check === check) current.running = null
      if (current !== undefined && found !== CANCELLED) this.#conclude(current, found, this.#clock.now() - startedAt)
      tell(found)
      this.#waiting.shift()?.()
      if (this.#started) this.#schedule(this.#clock.now())
    }
    const timer = this.#clock.setTimeout(() => {
      check.cancel()
      end(failed(`no answer within ${settings.timeout} ms`))
    }, settings.timeout)
    checked.running = { check, timer, result, end }
    check.result.then(end)
    return result
  }

  #conclude ({ backend, settings }: Checked, result: CheckResult, time: number): void {
    const { rise, fall, interval, unhealthyInterval, jitter } = settings
    const state = backend.health as HealthState
    const changed = state.record(result, time, new Date(this.#clock.wall()), rise, fall)
    const checked = this.#checked.get(backend) as Checked
    if (this.#started && backend.isActive) {
      const pause = (state.healthy ? interval : unhealthyInterval) * (1 + jitter * (2 * this.#random() - 1))
      // From its beginning, so that slow checks do not come less often.
      checked.due = this.#clock.now() + Math.max(PACE, pause - time)
      this.#schedule(checked.due)
    }
    this.#listener.onHealthChecked(backend, result, changed, settings.proves)
  }

  #cancel ({ running }: Checked): void {
    if (running === null) return
    running.check.cancel()
    running.end(CANCELLED)
  }
}

/** What a check ends with that nobody wants any more. */
const CANCELLED = failed('the check was given up')
