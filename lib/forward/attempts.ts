import type { AttemptReport } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
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

  /** The backends that were tried; `null` where none was. */
  backends (): Backend[] | null {
    return this.leading === null ? null : this.all().map(({ backend }) => backend)
  }

  reports (): AttemptReport[] {
    return this.all().map(attempt => attempt.report())
  }

  /** Those that have not ended. */
  underWay (): Attempt[] {
    return [this.leading, this.rival].filter((attempt): attempt is Attempt => attempt !== null && !attempt.settled)
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
