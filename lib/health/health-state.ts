import type { CheckResult } from './check.ts'

/** Checks of one backend: what they have found, and what is concluded. Rise and fall, as in HAProxy. */
export class HealthState {
  healthy: boolean
  /** Whether a check has ever passed. */
  proven = false
  lastCheck: Date | undefined
  lastSuccess: Date | undefined
  lastFailure: Date | undefined
  consecutiveFails = 0
  consecutivePasses = 0
  /** Of all checks. */
  passes = 0
  fails = 0
  responseTime = 0
  statusCode = 0
  errorMessage = ''
  /** Checks that are enough to be healthy for the first time, where that is fewer than later. */
  #firstRise: number

  constructor (healthy: boolean, firstRise = Infinity) {
    this.healthy = healthy
    this.#firstRise = firstRise
  }

  /** Takes a result in; true when it has changed the conclusion. */
  record ({ passed, statusCode, errorMessage }: CheckResult, responseTime: number, at: Date, rise: number, fall: number): boolean {
    this.lastCheck = at
    this.responseTime = responseTime
    this.statusCode = statusCode
    this.errorMessage = errorMessage
    if (passed) {
      this.proven = true
      this.passes++
      this.lastSuccess = at
      this.consecutiveFails = 0
      if (++this.consecutivePasses < Math.min(rise, this.#firstRise) || this.healthy) return false
    } else {
      this.fails++
      this.lastFailure = at
      this.consecutivePasses = 0
      if (++this.consecutiveFails < fall || !this.healthy) return false
    }
    this.healthy = passed
    this.#firstRise = Infinity
    return true
  }
}
