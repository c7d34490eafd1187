import type { Said } from './said.ts'

/** What one look has found. */
export interface Findings {
  readonly backends: readonly Said[]
  /** Milliseconds for which that holds; `undefined` where nobody says. */
  readonly ttl: number | undefined
}

/** Where backends are found. */
export interface Source {
  /** What is asked for, for people. */
  readonly name: string
  /** Looks now. Rejects where it cannot be known; finding none is an answer. */
  find (signal: AbortSignal): Promise<Findings>
}

/** What a source says when there is nothing. */
export const NOTHING: Findings = Object.freeze({ backends: [], ttl: undefined })
