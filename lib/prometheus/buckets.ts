import { BOUNDS, type Histogram } from '../metrics/index.ts'

/** Bounds in seconds as both formats write them: one series, whichever a scraper asks for. Source: OpenMetrics 1.0, canonical numbers. */
export const LE: readonly string[] = [...BOUNDS.map(bound => canonical(bound / 1000)), '+Inf']

/** Durations within each bound, the last one all; and their sum in seconds. */
export function bucketsOf (histogram: Histogram): { counts: number[], sum: number } {
  return { counts: [...histogram.cumulative(), histogram.count], sum: histogram.sum / 1000 }
}

function canonical (number: number): string {
  return Number.isInteger(number) ? `${number}.0` : String(number)
}
