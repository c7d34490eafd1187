import type { SlowFigures, SlowReport } from '../../bench/slow-backend.ts'
import { dot, grouped, line, logarithmic, picture, text, type Colour } from './svg.ts'

const WIDTH = 760
const LEFT = 130
const RIGHT = 640
const ROW = 28
const PANEL = 226
/** What the others are compared with, and the part of its p99 that is aimed at. */
const COMMON = 'round-robin'
const AIM = 1 / 3
const MARKS: readonly [key: 'p50' | 'p90' | 'p99', colour: Colour, radius: number][] = [['p50', 'muted', 4], ['p90', 'blue', 5], ['p99', 'orange', 6]]

/** How long clients wait where one backend is slow, by policy. */
export function drawSlowBackend ({ backends, takes, timesSlower, scenarios }: SlowReport): string {
  const panels = Object.values(scenarios)
  const height = 84 + panels.length * PANEL
  const content = [text(20, 52, `${takes} ms each, ${takes * timesSlower} ms on the slow one; dashed: a third of ${COMMON}’s p99`, { colour: 'muted' })]
  MARKS.forEach(([key, colour, radius], i) => {
    content.push(dot(WIDTH - 180 + i * 60, 48, radius, colour), text(WIDTH - 170 + i * 60, 52, key))
  })
  panels.forEach(({ title, figures }, i) => content.push(...panel(title, figures, 84 + i * PANEL)))
  const worst = panels.map(({ title, figures }) => `${title}: ${figures.map(({ policy, p99 }) => `${policy} ${grouped(p99)}`).join(', ')}`)
  return picture({
    title: `Latency where one of ${backends} backends is ${timesSlower} times slower`,
    description: `Milliseconds that one request in a hundred exceeds. The slow backend is ${worst.join('. ')}.`
  }, WIDTH, height, content)
}

function panel (title: string, figures: SlowFigures[], top: number): string[] {
  const x = logarithmic(10, 5_000, LEFT, RIGHT)
  const first = top + 48
  const bottom = first + figures.length * ROW - 10
  const content = [
    text(20, top + 6, `The slow one is ${title}`, { look: 'bold' }),
    text(WIDTH - 20, top + 26, 'to the slow one', { colour: 'muted', look: 'small', anchor: 'end' })
  ]
  for (const tick of [10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000]) {
    content.push(line(x(tick), top + 30, x(tick), bottom), text(x(tick), bottom + 16, grouped(tick), { colour: 'muted', look: 'small', anchor: 'middle' }))
  }
  content.push(text(LEFT - 12, bottom + 16, 'ms', { colour: 'muted', look: 'small', anchor: 'end' }))
  const common = figures.find(({ policy }) => policy === COMMON)
  if (common !== undefined) {
    const aim = x(common.p99 * AIM)
    content.push(line(aim, top + 30, aim, bottom, 'orange', '4 3'), text(aim, top + 26, 'a third', { colour: 'orange', look: 'small', anchor: 'middle' }))
  }
  figures.forEach((row, i) => {
    const y = first + i * ROW
    content.push(
      text(LEFT - 12, y + 4, row.policy, { anchor: 'end' }),
      line(x(row.p50), y, x(row.p99), y, 'muted'),
      ...MARKS.map(([key, colour, radius]) => dot(x(row[key]), y, radius, colour)),
      text(x(row.p99) + 11, y + 4, grouped(row.p99), { look: 'bold' }),
      text(WIDTH - 20, y + 4, `${(row.share * 100).toFixed(1)} %`, { colour: 'muted', anchor: 'end' })
    )
  })
  return content
}
