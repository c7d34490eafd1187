import type { AdaptiveOptions } from '../../types/index.ts'

/** Samples that usual is the average of, and how many it takes to begin with. */
const USUAL_OVER = 600
const WARM_UP = 10
/** A step is taken at the earliest after so many samples and milliseconds; or as long as two answers take, up to the second bound. */
const ENOUGH = 10
const SHORTEST = 100
const LONGEST = 1_000
/** Least part of the limit that a step aims at. */
const STEEPEST = 0.5
/** What is left of the limit after a step in which answers said that it was too much. */
const BACK_OFF = 0.9
/** Steps at the limit from one trial to the next: many once a trial has shown nothing new, few at first and while they do. */
const TRIAL_EVERY = 30
const TRIAL_SOON = 8
/** What a trial has to come below, as part of the usual time, to have shown something. */
const SOONER = 0.9

/**
 * Finds how many requests may wait for one backend's answers at once: more while these take as long as usual, fewer when they take
 * longer, as then requests wait there. Source: Netflix's concurrency-limits, Gradient2.
 *
 * Under lasting overload the usual time of Gradient2 creeps up to that of an overloaded backend, and the limit with it. So while the limit
 * is reached nothing is learned but by trial, now and then with half of the limit: if answers come sooner, that is what is usual; if not,
 * they take their time whatever the limit.
 */
export class Gradient {
  /** Not a whole number; so many may wait. */
  limit: number
  readonly #options: Required<AdaptiveOptions>
  /** The usual time, and of how many samples. */
  #usual = 0
  #known = 0
  /** Of the present step. */
  #samples = 0
  #sum = 0
  #most = 0
  #dropped = false
  #from = 0
  /** Steps at the limit before the next trial. */
  #untilTrial = TRIAL_SOON
  /** Steps left of a trial: in the first, what was under way comes to its end; the second is what counts. */
  #trial = 0
  #afterTrial = 0

  constructor (options: Required<AdaptiveOptions>, now: number) {
    this.#options = options
    this.limit = options.initial
    this.#from = now
  }

  /** Counts one answer. @param time to its head, in milliseconds @param inFlight how many had been waiting when it was asked for, itself included */
  sample (time: number, inFlight: number, now: number): void {
    this.#samples++
    this.#sum += time
    if (inFlight > this.#most) this.#most = inFlight
    this.#stepIfDue(now)
  }

  /** Counts one that the backend could not serve. */
  drop (inFlight: number, now: number): void {
    this.#dropped = true
    if (inFlight > this.#most) this.#most = inFlight
    this.#stepIfDue(now)
  }

  #stepIfDue (now: number): void {
    const age = now - this.#from
    if (age < SHORTEST) return
    const average = this.#samples === 0 ? 0 : this.#sum / this.#samples
    if (age < LONGEST && (this.#samples < ENOUGH || age < Math.min(LONGEST, 2 * average))) return
    if (this.#samples > 0) this.#step(average)
    if (this.#dropped) {
      this.limit = this.#bounded(this.limit * BACK_OFF)
      this.#afterTrial = this.#bounded(this.#afterTrial * BACK_OFF)
    }
    this.#samples = this.#sum = this.#most = 0
    this.#dropped = false
    this.#from = now
  }

  #step (time: number): void {
    if (this.#trial > 0) {
      if (--this.#trial === 0) this.#endTrial(time)
      return
    }
    const isReached = this.#most >= Math.floor(this.limit)
    if (!isReached || this.#known < WARM_UP || time < this.#usual) this.#learn(time)
    // Who uses less than half of what he may says nothing of more.
    if (this.#most < this.limit / 2) return
    const { tolerance, smoothing, queueSize } = this.#options
    const bearable = tolerance * this.#usual
    // Times may be 0 on a coarse clock.
    const gradient = time <= bearable ? 1 : Math.max(STEEPEST, bearable / time)
    this.limit = this.#bounded(this.limit * (1 - smoothing) + (this.limit * gradient + queueSize) * smoothing)
    if (isReached && --this.#untilTrial <= 0) this.#beginTrial()
  }

  #learn (time: number): void {
    this.#known = Math.min(this.#known + 1, USUAL_OVER)
    const part = this.#known <= WARM_UP ? 1 / this.#known : 2 / (USUAL_OVER + 1)
    this.#usual += (time - this.#usual) * part
    // Back from long trouble: what is usual must not stay far above what is.
    if (this.#usual > 2 * time) this.#usual *= 0.95
  }

  #beginTrial (): void {
    this.#trial = 2
    this.#afterTrial = this.limit
    this.limit = this.#bounded(this.limit / 2)
  }

  #endTrial (time: number): void {
    this.#untilTrial = time < this.#usual * SOONER ? TRIAL_SOON : TRIAL_EVERY
    this.#usual = time
    this.limit = this.#afterTrial
  }

  #bounded (limit: number): number {
    const { min, max } = this.#options
    return Math.max(min, Math.min(max, limit))
  }
}
