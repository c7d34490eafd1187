import { PeakEwmaSchema } from '../../types/index.ts'
import type { Backend, BalancerEnv, Clock, Outcome, PeakEwmaOptions } from '../../types/index.ts'
import { resolveOptions } from '../options.ts'
import { Choices } from './choices.ts'
import { systemEnv } from './env.ts'
import { another } from './fork.ts'

/** The latency of a backend that has not answered yet: with a request it is worse than any, and without better. */
const UNKNOWN = 1e200
/** The least latency there is, in milliseconds; 0 is for those that have none yet. */
const LEAST = 0.001
/** Time constants after which the costs are written anew, long before they overflow. */
const REBASE = 200

/** What is remembered of a backend: its average latency, as it was at a moment. */
interface Latency {
  index: number
  cost: number
  at: number
}

/**
 * Draws two and chooses the one with the lower latency times load. A latency above the average becomes the average at once; one
 * below it moves the average as slowly as `decay` says; and while nothing comes the average falls to 0, so that a backend that was
 * slow is asked again. Source: Finagle's Peak EWMA.
 */
export class PeakEwma extends Choices {
  readonly type = 'peak-ewma'
  readonly options: Readonly<Omit<Required<PeakEwmaOptions>, 'type'>>
  readonly #env: BalancerEnv
  readonly #clock: Clock
  readonly #decay: number
  readonly #penalty: number
  #latencies = new Map<Backend, Latency>()
  /**
   * The costs as they would have to be at `#base` to have fallen to what they are now. All fall alike, so these compare as the
   * costs of any moment do, and choosing asks neither the clock nor `exp()`. Source: Cormode et al., Forward Decay.
   */
  #costs: Float64Array = new Float64Array(0)
  /** What a backend's latency is multiplied by at rest: 1, or 0 while it is unknown. */
  #rests: Float64Array = new Float64Array(0)
  /** What one request in flight is to a backend, beside one of average weight. */
  #parts: Float64Array = new Float64Array(0)
  #base: number

  /** Throws `INVALID_OPTIONS`. */
  constructor (options: Partial<PeakEwmaOptions> = {}, env: BalancerEnv = systemEnv) {
    const { decay, penalty } = resolveOptions<Required<PeakEwmaOptions>>(PeakEwmaSchema, { ...options, type: 'peak-ewma' }, 'options')
    super(2, env.random)
    this.options = Object.freeze({ decay, penalty })
    this.#env = env
    this.#clock = env.clock
    this.#decay = decay
    this.#penalty = penalty
    this.#base = env.clock.now()
  }

  fork (): this {
    return another(this, this.options, this.#env)
  }

  override rebuild (available: readonly Backend[]): void {
    super.rebuild(available)
    const known = this.#latencies
    this.#latencies = new Map()
    available.forEach((backend, index) => {
      const { cost, at } = known.get(backend) ?? { cost: 0, at: 0 }
      this.#latencies.set(backend, { index, cost, at })
    })
    const { values, total } = this.weights
    this.#parts = values.map(weight => total / available.length / weight)
    this.#costs = new Float64Array(available.length)
    this.#rests = new Float64Array(available.length)
    this.#rebase(this.#base)
  }

  /**
   * What counts is the time to the answer's head. A failure counts as slow; where the client went away before an answer, it counts as nothing.
   * What we gave up ourselves, as another backend was quicker, would have taken longer still: that counts where it is longer than known.
   */
  settle (backend: Backend, { stage, culprit, statusCode, headTime, responseTime }: Outcome): void {
    const latency = this.#latencies.get(backend)
    const failed = culprit === 'backend' || statusCode >= 500
    if (latency === undefined) return
    const now = this.#clock.now()
    const kept = Math.exp((latency.at - now) / this.#decay)
    if (!failed && headTime < 0 && (culprit !== 'proxy' || stage !== 'wait' || responseTime <= latency.cost * kept)) return
    const time = failed ? Math.max(responseTime, latency.cost, this.#penalty) : Math.max(headTime < 0 ? responseTime : headTime, LEAST)
    latency.cost = time >= latency.cost ? time : latency.cost * kept + time * (1 - kept)
    latency.at = now
    if ((now - this.#base) / this.#decay > REBASE) this.#rebase(now)
    else this.#write(latency)
  }

  /** Compares latency × (1 + in flight). In flight is counted by weight: at rest latency decides, under load each carries its share. */
  protected isLighter (index: number, than: number): boolean {
    const { available } = this
    const costs = this.#costs
    const parts = this.#parts
    const rests = this.#rests
    return costs[index] * (available[index].inFlight * parts[index] + rests[index]) < costs[than] * (available[than].inFlight * parts[than] + rests[than])
  }

  #rebase (base: number): void {
    this.#base = base
    for (const latency of this.#latencies.values()) this.#write(latency)
  }

  #write ({ index, cost, at }: Latency): void {
    const atBase = cost * Math.exp((at - this.#base) / this.#decay)
    this.#costs[index] = atBase === 0 ? UNKNOWN : atBase
    this.#rests[index] = atBase === 0 ? 0 : 1
  }
}
