import type { Backend } from '../backend.ts'
import type { ErrorCode } from '../errors.ts'
import { backoffDelay, parseRetryAfter } from '../retry/index.ts'
import type { Upstream } from '../upstream.ts'
import type { Attempt } from './attempt.ts'
import type { Attempts } from './attempts.ts'
import { rawField } from './raw-fields.ts'
import type { Settings } from './settings.ts'
import type { Sending } from './sending.ts'

/** Answers that are not worth having while another attempt is under way, where no options of retries say which. */
const BAD: ReadonlySet<number> = new Set([502, 503, 504])
/** Milliseconds that a backend may ask a client to wait for it, where no deadline says less. */
const MOST_ASKED = 60_000
/** Times that a request is sent again because its connection had died idle, or its backend was closing it. */
const RESENDS = 2

/** Whether, and when, an exchange may make another attempt. */
export class Retries {
  /** Times that the request was sent again. */
  resends = 0
  readonly #upstream: Upstream
  readonly #policy: Settings['retry']
  readonly #sending: Sending
  #waits = 0

  constructor (upstream: Upstream, policy: Settings['retry'], sending: Sending) {
    this.#upstream = upstream
    this.#policy = policy
    this.#sending = sending
  }

  /** Whether a connection was one that its backend had closed idle or was closing: nothing of the request was processed, or doing it again does no harm. */
  mayResend (attempt: Attempt, code: ErrorCode): boolean {
    if (this.resends >= RESENDS) return false
    if (attempt.leftBehind) return this.#sending.atHand
    return code === 'RESET' && attempt.reused && !attempt.heard && this.#sending.idempotent && this.#sending.replayable
  }

  /** Whether an answer with such a status is one that another may be better than. */
  covers (statusCode: number): boolean {
    return (this.#policy?.statuses ?? BAD).has(statusCode)
  }

  /** Whether another attempt may be made now; counts what only the budget denies. @param tries made so far @param code the failure, `null` for an answer */
  mayTry (tries: number, attempt: Attempt, code: ErrorCode | null, limit: number): boolean {
    const { budget, clock, tallies } = this.#upstream
    const policy = this.#policy
    if (policy === null || tries >= policy.attempts) return false
    if (code !== null && !policy.covers(code, attempt.stage)) return false
    // What was never sent was never processed.
    if (attempt.stage === 'connect' ? !this.#sending.atHand : !this.#sending.idempotent || !this.#sending.replayable) return false
    const now = clock.now()
    if (now >= limit) return false
    const allowed = budget.allows(now)
    if (!allowed) tallies.retriesDenied++
    return allowed
  }

  /** Counts one that is made. */
  spend (): void {
    this.#upstream.budget.spend(this.#upstream.clock.now())
    this.#upstream.tallies.retries++
  }

  /** Notes before when a backend has asked not to be asked again. RFC 9110, 10.2.3. */
  heed (attempt: Attempt, rawHeaders: readonly Buffer[]): void {
    const { clock } = this.#upstream
    const value = this.#policy?.retryAfter === true ? rawField(rawHeaders, 'retry-after') : undefined
    if (value !== undefined) attempt.notBefore = clock.now() + (parseRetryAfter(value, clock.wall()) ?? 0)
  }

  /** Milliseconds before backends that were tried may be tried again; `undefined` where that is not worth waiting for. */
  delay (attempts: Attempts, limit: number): number | undefined {
    const { clock, random, selector } = this.#upstream
    if (this.#policy === null) return undefined
    // Each may be asked again when it says so itself, by what it has said last; the first of them is waited for.
    const askable = new Map<Backend, number>()
    for (const { backend, notBefore } of attempts.all()) {
      if (selector.whole.members.has(backend)) askable.set(backend, Math.max(notBefore, askable.get(backend) ?? 0))
    }
    if (askable.size === 0) return undefined
    const now = clock.now()
    const asked = Math.min(...askable.values()) - now
    const delay = Math.max(backoffDelay(this.#policy.backoff, this.#waits, random), asked)
    if (asked > MOST_ASKED || now + delay >= limit) return undefined
    this.#waits++
    return delay
  }
}
