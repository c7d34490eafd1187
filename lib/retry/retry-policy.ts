import { RetryOptionsSchema } from '../../types/index.ts'
import type { BackoffOptions, IsIdempotent, RetryBudgetOptions, RetryCause, RetryOptions, RetryOverrides, Stage } from '../../types/index.ts'
import type { ErrorCode } from '../errors.ts'
import { resolveOptions } from '../options.ts'

/** Which failures each cause of the options stands for. */
const CAUSES: Partial<Record<ErrorCode, RetryCause>> = { CONNECT: 'connect', RESET: 'reset', TIMEOUT: 'timeout', BAD_RESPONSE: 'bad-response' }

/** Retries as one upstream, route or call wants them, made ready. */
export class RetryPolicy {
  readonly options: Readonly<Required<RetryOptions>>
  readonly attempts: number
  readonly statuses: ReadonlySet<number>
  readonly backoff: Required<BackoffOptions>
  readonly perTryTimeout: number
  readonly maxBodySize: number
  readonly retryAfter: boolean
  readonly idempotencyKey: boolean | IsIdempotent
  readonly budget: Required<RetryBudgetOptions>
  readonly #methods: ReadonlySet<string>
  readonly #causes: ReadonlySet<RetryCause>

  /** @param options with nothing left out */
  constructor (options: Required<RetryOptions>) {
    this.options = options
    this.attempts = options.attempts
    this.statuses = new Set(options.statuses)
    this.backoff = options.backoff as Required<BackoffOptions>
    this.perTryTimeout = options.perTryTimeout
    this.maxBodySize = options.maxBodySize
    this.retryAfter = options.retryAfter
    this.idempotencyKey = options.idempotencyKey
    this.budget = options.budget as Required<RetryBudgetOptions>
    this.#methods = new Set(options.methods)
    this.#causes = new Set(options.on)
  }

  /** The same with what a route or a call wants otherwise. */
  with (overrides: RetryOverrides): RetryPolicy {
    return new RetryPolicy({ ...this.options, ...givenOf(overrides), backoff: { ...this.backoff, ...givenOf(overrides.backoff ?? {}) } })
  }

  isIdempotent (method: string): boolean {
    return this.#methods.has(method)
  }

  /** Whether a failure is one after which another attempt may be made. What was never sent may be sent whatever it is. */
  covers (code: ErrorCode, stage: Stage): boolean {
    const cause = stage === 'connect' ? 'connect' : CAUSES[code]
    return CAUSES[code] !== undefined && this.#causes.has(cause as RetryCause)
  }
}

/** Options without those that are undefined. */
function givenOf<Options extends object> (options: Options): Partial<Options> {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Partial<Options>
}

/** The policy that an option means; `null` for none. Throws `INVALID_OPTIONS`. */
export function retryPolicyOf (option: RetryOptions | boolean | undefined, path = 'retry'): RetryPolicy | null {
  if (option === false) return null
  const given = typeof option === 'object' ? option : {}
  // What stands within is filled in only where it is given.
  return new RetryPolicy(resolveOptions<Required<RetryOptions>>(RetryOptionsSchema, { backoff: {}, budget: {}, ...given }, path))
}
