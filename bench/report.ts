import { FLOOR, RIVAL } from './contenders.ts'
import type { Measured, Turn } from './measure.ts'
import type { Scenario } from './scenarios.ts'

/** What one contender came to in one scenario: medians of its rounds. */
export interface Figures {
  contender: string
  /** Microseconds of CPU for each request. */
  cpu: number
  /** How far the rounds lie apart: from the least to the most, as a share of the median. */
  spread: number
  /** CPU as a multiple of the floor's, and of the rival's, in the same round. */
  timesFloor: number | null
  timesRival: number | null
  requestsPerSecond: number
  /** Milliseconds. */
  p50: number
  p99: number
}

/** Aims for the small GET: CPU as a multiple of the floor's and of the rival's. */
export const AIM = { scenario: 'get', contender: 'routes', timesFloor: 1.25, timesRival: 0.6 }

export function figuresOf (measured: Measured[]): Figures[] {
  const turnsOf = (name: string) => measured.find(({ contender }) => contender.name === name)?.turns
  return measured.map(({ contender, turns }) => {
    const cpus = turns.map(({ cpu }) => cpu)
    const cpu = median(cpus)
    return {
      contender: contender.name,
      cpu,
      spread: (Math.max(...cpus) - Math.min(...cpus)) / cpu,
      timesFloor: ratio(turns, turnsOf(FLOOR)),
      timesRival: ratio(turns, turnsOf(RIVAL)),
      requestsPerSecond: median(turns.map(({ requests, seconds }) => requests / seconds)),
      p50: median(turns.map(({ p50 }) => p50)),
      p99: median(turns.map(({ p99 }) => p99))
    }
  })
}

/** The median of the rounds' own ratios: what slows a whole round down is in both of its parts. */
function ratio (turns: Turn[], others: Turn[] | undefined): number | null {
  return others === undefined ? null : median(turns.map(({ cpu }, round) => cpu / others[round].cpu))
}

function median (values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

const COLUMNS = ['', 'CPU µs/req', 'spread', '× floor', '× http-proxy', 'req/s', 'p50 ms', 'p99 ms']

/** A table in Markdown, which reads well in a terminal too. */
export function tableOf (scenario: Scenario, measured: Measured[]): string {
  const rows = figuresOf(measured).map((figures, i) => [
    measured[i].contender.title,
    figures.cpu.toFixed(1),
    `${(figures.spread * 100).toFixed(0)} %`,
    times(figures.timesFloor),
    times(figures.timesRival),
    figures.requestsPerSecond.toFixed(0),
    figures.p50.toFixed(2),
    figures.p99.toFixed(2)
  ])
  const widths = COLUMNS.map((column, i) => Math.max(column.length, ...rows.map(row => row[i].length)))
  const line = (cells: string[]) => `| ${cells.map((cell, i) => i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i])).join(' | ')} |`
  const rule = `|${widths.map((width, i) => i === 0 ? '-'.repeat(width + 2) : `${'-'.repeat(width + 1)}:`).join('|')}|`
  return [`### ${scenario.title}`, '', line(COLUMNS), rule, ...rows.map(line), ''].join('\n')
}

/** Whether the aim was met; nothing where it was not measured. */
export function verdictOn (scenario: Scenario, measured: Measured[]): string | undefined {
  const figures = figuresOf(measured).find(({ contender }) => contender === AIM.contender)
  if (scenario.name !== AIM.scenario || figures === undefined || figures.timesFloor === null || figures.timesRival === null) return undefined
  const judge = (is: number, most: number) => `${is.toFixed(2)} (at most ${most}: ${is <= most ? 'met' : 'missed'})`
  return `Aim for the small GET by routes: × floor ${judge(figures.timesFloor, AIM.timesFloor)}, × http-proxy ${judge(figures.timesRival, AIM.timesRival)}\n`
}

function times (ratio: number | null): string {
  return ratio === null ? '-' : ratio.toFixed(2)
}
