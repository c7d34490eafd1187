/** What a check has found. */
export interface CheckResult {
  readonly passed: boolean
  /** 0 where there was no answer. */
  readonly statusCode: number
  /** Empty when it passed. */
  readonly errorMessage: string
}

/** A check under way. */
export interface Check {
  /** Never rejects. */
  readonly result: Promise<CheckResult>
  /** Gives it up: lets go of its connection at once. */
  cancel (): void
}

export function passed (statusCode = 0): CheckResult {
  return { passed: true, statusCode, errorMessage: '' }
}

export function failed (error: unknown, statusCode = 0): CheckResult {
  const message = error instanceof Error ? error.message || (error as { code?: string }).code || error.name : String(error)
  return { passed: false, statusCode, errorMessage: message }
}
