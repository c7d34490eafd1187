import type { BalancersReport } from '../../bench/balancers.ts'
import { apart, dot, grouped, line, logarithmic, path, picture, text, upright, type Colour } from './svg.ts'

const WIDTH = 760
const HEIGHT = 470
const LEFT = 80
const RIGHT = 500
const TOP = 90
const BOTTOM = 415

const KINDS: readonly [title: string, colour: Colour, left: number][] = [
  ['by turns, chance or load', 'blue', 24], ['by key', 'green', 220], ['looks at every backend', 'orange', 305], ['other packages', 'muted', 490]
]
/** The rows that are drawn, each of a kind; variants that would lie on others are left to the table. */
const DRAWN: Record<string, number> = {
  'round-robin': 0,
  random: 0,
  'least-requests': 0,
  p2c: 0,
  'peak-ewma': 0,
  'ring-hash': 1,
  'ring-hash, 1 probe': 1,
  maglev: 1,
  'round-robin, weights differ': 2,
  rendezvous: 2,
  "undici's BalancedPool": 3,
  hashring: 3
}

/** What one choice costs among more and more backends. */
export function drawSelectCost ({ sizes, rows }: BalancersReport): string {
  const x = logarithmic(sizes[0], sizes.at(-1) as number, LEFT, RIGHT)
  const y = logarithmic(1, 100_000, BOTTOM, TOP)
  const content: string[] = []
  for (const [title, colour, left] of KINDS) content.push(dot(left, 56, 5, colour), text(left + 10, 60, title))
  for (const tick of [1, 10, 100, 1_000, 10_000, 100_000]) {
    content.push(line(LEFT, y(tick), RIGHT, y(tick)), text(LEFT - 10, y(tick) + 4, grouped(tick), { colour: 'muted', look: 'small', anchor: 'end' }))
  }
  for (const size of sizes) content.push(line(x(size), TOP, x(size), BOTTOM), text(x(size), BOTTOM + 18, grouped(size), { colour: 'muted', look: 'small', anchor: 'middle' }))
  content.push(upright(24, (TOP + BOTTOM) / 2, 'nanoseconds a choice'), text((LEFT + RIGHT) / 2, BOTTOM + 40, 'backends', { colour: 'muted', anchor: 'middle' }))
  const drawn = rows.filter(({ name }) => name in DRAWN)
  const ends = drawn.map(({ nanoseconds }) => y(nanoseconds.at(-1) as number))
  const labels = apart(ends, 17)
  drawn.forEach(({ name, nanoseconds }, i) => {
    const [, colour] = KINDS[DRAWN[name]]
    const points = nanoseconds.map((time, j) => [x(sizes[j]), y(time)] as const)
    content.push(
      path(points, colour, colour === 'muted' ? '5 4' : ''),
      ...points.map(([x, y]) => dot(x, y, 3.5, colour)),
      line(RIGHT + 6, ends[i], RIGHT + 24, labels[i], colour),
      text(RIGHT + 28, labels[i] + 4, `${name}, ${grouped(nanoseconds.at(-1) as number)}`, { colour, look: 'small' })
    )
  })
  return picture({
    title: 'What one choice costs, by the number of backends',
    description: `Nanoseconds, both axes logarithmic. With ${sizes.map(grouped).join(', ')} backends: ${drawn.map(({ name, nanoseconds }) => `${name} ${nanoseconds.map(grouped).join(', ')}`).join('; ')}.`
  }, WIDTH, HEIGHT, content)
}
