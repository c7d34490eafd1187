import { isGatewayFailure } from '../breaker/index.ts'
import type { Outcome } from '../../types/index.ts'

/** What outlier detection knows of one backend. The hot path touches numbers only. */
export class OutlierRecord {
  /** Failures in a row: those that the backend answered, and those without an answer. */
  consecutiveFailures = 0
  consecutiveLocalErrors = 0
  /** In the present interval. */
  requests = 0
  failures = 0
  /** Times it has been ejected, less one for each interval in which it was well. */
  multiplier = 0
  ejections = 0
  ejectedUntil = -Infinity

  /** Counts one result. @param split whether what never was an answer counts apart */
  count (outcome: Outcome, split: boolean): void {
    const failed = isGatewayFailure(outcome)
    const local = split && outcome.culprit === 'backend'
    this.requests++
    if (failed || outcome.statusCode >= 500) this.failures++
    if (local) this.consecutiveLocalErrors++
    else if (failed) this.consecutiveFailures++
    if (!local) this.consecutiveLocalErrors = 0
    if (!failed) this.consecutiveFailures = 0
  }

  /** Forgets what would at once eject it again. */
  forgive (): void {
    this.consecutiveFailures = 0
    this.consecutiveLocalErrors = 0
    this.beginInterval()
  }

  beginInterval (): void {
    this.requests = 0
    this.failures = 0
  }
}
