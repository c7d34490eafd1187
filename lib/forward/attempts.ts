import type { AttemptReport, Culprit } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import type { ErrorCode } from '../errors.ts'
import type { Attempt } from './attempt.ts'

/** The attempts of one exchange: mostly there is one. */
export class Attempts {
  /** The one whose answer is awaited or passed on. */
  leading: Attempt | null = null
  /** One beside it that may be quicker. */
  rival: Attempt | null = null
  /** All of them, once there is more than one. */
  #all: Attempt[] | null = null

  add (attempt: Attempt): void {
    if (this.leading !== null) (this.#all ??= [this.leading]).push(attempt)
    if (attempt.hedge) this.rival = attempt
    else this.leading = attempt
  }

  /** In the order they were made. */
  all (): readonly Attempt[] {
    return this.#all ?? (this.leading === null ? [] : [this.leading])
  }

  reports (): AttemptReport[] {
    return this.all().map(attempt => attempt.report())
  }

  /** Those that have not ended. */
  underWay (): Attempt[] {
    return [this.leading, this.rival].filter((attempt): attempt is Attempt => attempt !== null && !attempt.settled)
  }

  isOn (backend: object): boolean {
    return this.underWay().some(attempt => attempt.backend === backend)
  }

  /** @returns those that were still under way */
  cancelAll (code: ErrorCode, cause?: unknown, culprit?: Culprit): Attempt[] {
    const cancelled = this.underWay()
    for (const attempt of cancelled) attempt.cancel(code, cause, culprit)
    return cancelled
  }

  /** Backends that are not to be asked again yet: of all attempts but the first so many, or because they want to be left alone; `null` where there are none. */
  unaskable (since: number, now: number): Backend[] | null {
    const excluded = this.all().filter(({ notBefore }, i) => i >= since || notBefore > now)
    return excluded.length === 0 ? null : excluded.map(({ backend }) => backend)
  }

  /** The other one that is under way. */
  otherThan (attempt: Attempt): Attempt | null {
    const other = attempt === this.leading ? this.rival : this.leading
    return other === null || other.settled ? null : other
  }

  /** From now on there is but this one; the other is returned where it is still under way. */
  lead (attempt: Attempt): Attempt | null {
    const other = this.otherThan(attempt)
    this.leading = attempt
    this.rival = null
    return other
  }

  /** By when one of them must have moved on. */
  get deadline (): number {
    const { leading, rival } = this
    const first = leading === null || leading.settled ? Infinity : leading.deadline
    return rival === null || rival.settled ? first : Math.min(first, rival.deadline)
  }
}
