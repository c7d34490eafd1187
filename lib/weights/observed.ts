import type { LoadReport, WeightSample } from '../../types/index.ts'

/** Milliseconds that a failure counts as at the least: failing fast is not answering fast. */
const PENALTY = 1_000

/** What is seen of one backend, for working out its weight. The hot path touches numbers only. */
export class Observed {
  load: LoadReport | undefined
  /** When it began to report without a break; -1 where it does not. */
  reportsSince = -1
  reportedAt = -Infinity
  /** Average milliseconds to the answer's head, and what its last report was worth; kept by the rules. */
  latency: number | undefined
  worth: number | undefined
  #requests = 0
  #failures = 0
  #time = 0

  /** Counts one attempt that said something of the backend. */
  count (failed: boolean, time: number): void {
    this.#requests++
    if (failed) this.#failures++
    this.#time += failed ? Math.max(time, PENALTY) : time
  }

  report (load: LoadReport, now: number): void {
    if (this.reportsSince === -1) this.reportsSince = now
    this.load = load
    this.reportedAt = now
  }

  /** What was seen since it was last asked. */
  take (now: number, expiry: number): WeightSample {
    if (now - this.reportedAt > expiry) this.#forgetReports()
    const requests = this.#requests
    const sample = { requests, failures: this.#failures, latency: requests === 0 ? 0 : this.#time / requests, load: this.load }
    this.#requests = this.#failures = this.#time = 0
    return sample
  }

  /** Whoever was away has to prove himself again. */
  forget (): void {
    this.#requests = this.#failures = this.#time = 0
    this.latency = undefined
    this.#forgetReports()
  }

  #forgetReports (): void {
    this.load = undefined
    this.worth = undefined
    this.reportsSince = -1
  }
}
