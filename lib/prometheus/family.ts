import type { Histogram } from '../metrics/index.ts'

/** Tells one number. @param value of the family's own label, where it has one */
export type Tell = (number: number, value?: string) => void

/** What all series of a name have in common. `Source` is what they are read from: an upstream, or a backend. */
interface Common {
  /** As Prometheus knows it, with its unit; that of a counter ends in `_total`. */
  readonly name: string
  readonly help: string
}

/** Numbers that only grow, until they are reset. */
export interface CounterFamily<Source> extends Common {
  readonly type: 'counter'
  /** The label that tells its series apart, beside those of the source. */
  readonly label?: string
  read (source: Source, tell: Tell): void
}

/** Numbers as they are now. */
export interface GaugeFamily<Source> extends Common {
  readonly type: 'gauge'
  readonly label?: string
  /** What a number is for several processes together; of a quantity it is the sum. */
  readonly aggregator?: 'average'
  read (source: Source, tell: Tell): void
}

/** Durations. */
export interface HistogramFamily<Source> extends Common {
  readonly type: 'histogram'
  histogramOf (source: Source): Histogram
}

export type Family<Source> = CounterFamily<Source> | GaugeFamily<Source> | HistogramFamily<Source>

/** What a label of a family with one of two states is worth. */
export function flag (holds: boolean): number {
  return holds ? 1 : 0
}
