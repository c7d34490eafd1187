import { Backend } from '../../lib/backend.ts'
import { RoundRobin } from '../../lib/balancer/index.ts'
import { box, picture, text, type Colour } from './svg.ts'

const WEIGHTS = [5, 1, 1]
const NAMES = ['a', 'b', 'c']
const COLOURS: readonly Colour[] = ['blue', 'orange', 'green']
const ROUNDS = 3
const LEFT = 130
const CELL = 29

/** The turns of smooth weighted round robin beside those of a plain list. */
export function drawTurns (): string {
  const naive = WEIGHTS.flatMap((weight, i) => Array.from({ length: weight }, () => i))
  const rows = [
    { title: 'smooth', turns: smoothTurns(naive.length * ROUNDS) },
    { title: 'one by one', turns: Array.from({ length: ROUNDS }, () => naive).flat() }
  ]
  const content = rows.flatMap(({ title, turns }, row) => [
    text(20, 80 + row * 52, title),
    ...turns.flatMap((backend, i) => [
      box(LEFT + i * CELL, 60 + row * 52, CELL - 3, 32, COLOURS[backend]),
      text(LEFT + i * CELL + (CELL - 3) / 2, 80 + row * 52, NAMES[backend], { colour: 'ground', look: 'bold', anchor: 'middle' })
    ])
  ])
  content.push(text(LEFT, 170, `requests, in the order they come: ${ROUNDS} rounds of ${naive.length}`, { colour: 'muted', look: 'small' }))
  return picture({
    title: `Turns by weight: ${NAMES.map((name, i) => `${name} ${WEIGHTS[i]}`).join(', ')}`,
    description: rows.map(({ title, turns }) => `${title}: ${turns.map(backend => NAMES[backend]).join(' ')}`).join('. ')
  }, 760, 190, content)
}

function smoothTurns (count: number): number[] {
  const available = WEIGHTS.map((weight, i) => new Backend({ url: `http://10.0.0.${i}:8080`, weight }, 0))
  const balancer = new RoundRobin()
  balancer.rebuild(available)
  const context = { request: undefined, method: 'GET', path: '/', tried: null, header: () => undefined }
  return Array.from({ length: count }, () => available.indexOf(balancer.select(available, context) as Backend))
}
