import type { AttemptResult, BackendMetrics } from '../../types/index.ts'
import { Histogram } from './histogram.ts'

/** What is counted of a backend's attempts and of an upstream's exchanges alike. The hot path touches numbers only. */
export class Counters {
  total = 0
  successful = 0
  failed = 0
  aborted = 0
  inFlight = 0
  readonly times = new Histogram()

  begin (): void {
    this.total++
    this.inFlight++
  }

  /** Counts the end of what `begin` counted. */
  end (result: AttemptResult, time: number): void {
    this.inFlight--
    this[result]++
    if (result !== 'aborted') this.times.record(time)
  }

  /** Sets to zero all but what is under way. */
  reset (): void {
    this.total = this.inFlight
    this.successful = 0
    this.failed = 0
    this.aborted = 0
    this.times.reset()
  }

  snapshot (): BackendMetrics {
    const { times } = this
    return {
      totalRequests: this.total,
      successfulRequests: this.successful,
      failedRequests: this.failed,
      abortedRequests: this.aborted,
      inFlight: this.inFlight,
      averageResponseTime: times.mean,
      minResponseTime: times.count === 0 ? 0 : times.min,
      maxResponseTime: times.max,
      p50ResponseTime: times.quantile(0.5),
      p90ResponseTime: times.quantile(0.9),
      p99ResponseTime: times.quantile(0.99)
    }
  }
}
