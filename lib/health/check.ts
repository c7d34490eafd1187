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
  return { passed: false, statusCode, errorMessage: error instanceof Error ? reasonOf(error) : String(error) }
}

/** What Node says of a connection without the address it says it of: whoever is told knows the backend by its id. */
function reasonOf ({ message, code, name, syscall = 'connect', address }: NodeJS.ErrnoException & { address?: string }): string {
  if (code === undefined) return message || name
  return address === undefined ? message || code : `${syscall} ${code}`
}
