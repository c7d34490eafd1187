/** There is no such name, or it has no such records. */
export const GONE: ReadonlySet<string> = new Set(['ENOTFOUND', 'ENODATA'])

/** A name that could not be resolved. Its message is for logs only. */
export class ResolveError extends Error {
  readonly code: string
  readonly hostname: string
  /** Whether there is no such name, as against that nobody knows. */
  readonly gone: boolean

  constructor (hostname: string, code: string) {
    super(`the name '${hostname}' could not be resolved: ${code}`)
    this.name = 'ResolveError'
    this.code = code
    this.hostname = hostname
    this.gone = GONE.has(code)
  }
}

export function codeOf (error: unknown): string {
  return (error as NodeJS.ErrnoException).code ?? 'EUNKNOWN'
}
