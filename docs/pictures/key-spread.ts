import { Backend } from '../../lib/backend.ts'
import { createBalancer, hashReady } from '../../lib/balancer/index.ts'
import type { BalancerOptions } from '../../types/index.ts'
import { apart, linear, line, path, picture, text, upright, type Colour } from './svg.ts'

const WIDTH = 760
const HEIGHT = 430
const LEFT = 80
const RIGHT = 490
const TOP = 60
const BOTTOM = 375
const BACKENDS = 100
/** Hashes that are asked for; how they fall is a matter of 0.25 % of a share. */
const HASHES = 2 ** 24

const POLICIES: readonly { name: string, options: BalancerOptions, colour: Colour }[] = [
  { name: 'ring-hash, probes: 1', options: { type: 'ring-hash', probes: 1 }, colour: 'orange' },
  { name: 'ring-hash', options: { type: 'ring-hash' }, colour: 'blue' },
  { name: 'rendezvous', options: { type: 'rendezvous' }, colour: 'purple' },
  { name: 'maglev', options: { type: 'maglev' }, colour: 'green' }
]

/** How evenly the hash policies spread all keys there could be. */
export async function drawKeySpread (): Promise<string> {
  await hashReady
  const spreads = POLICIES.map(({ options }) => spreadOf(options))
  const x = linear(1, BACKENDS, LEFT, RIGHT)
  const y = linear(-25, 25, BOTTOM, TOP)
  const content: string[] = []
  for (const tick of [-25, -20, -15, -10, -5, 0, 5, 10, 15, 20, 25]) {
    content.push(line(LEFT, y(tick), RIGHT, y(tick), tick === 0 ? 'muted' : 'grid'), text(LEFT - 10, y(tick) + 4, `${signed(tick, 0)} %`, { colour: 'muted', look: 'small', anchor: 'end' }))
  }
  for (const tick of [1, 25, 50, 75, 100]) content.push(text(x(tick), BOTTOM + 18, String(tick), { colour: 'muted', look: 'small', anchor: 'middle' }))
  content.push(upright(24, (TOP + BOTTOM) / 2, 'share of keys, from the mean'), text((LEFT + RIGHT) / 2, BOTTOM + 40, 'backends, from the smallest share to the largest', { colour: 'muted', anchor: 'middle' }))
  const worst = spreads.map(spread => Math.max(-spread[0], spread[BACKENDS - 1]))
  const ends = spreads.map(spread => y(spread[BACKENDS - 1]))
  const labels = apart(ends, 19)
  POLICIES.forEach(({ name, colour }, i) => content.push(
    path(spreads[i].map((share, rank) => [x(rank + 1), y(share)] as const), colour),
    line(RIGHT + 4, ends[i], RIGHT + 20, labels[i], colour),
    text(RIGHT + 24, labels[i] + 4, `${name}, worst ${worst[i].toFixed(1)} %`, { colour })
  ))
  return picture({
    title: `How evenly keys are spread over ${BACKENDS} backends`,
    description: `The share of every backend, in order, as a distance from the mean. The worst of them: ${POLICIES.map(({ name }, i) => `${name} ${worst[i].toFixed(1)} %`).join('; ')}.`
  }, WIDTH, HEIGHT, content)
}

/** By how many percent the shares of backends differ from the mean, in order. Hashes are evenly spaced: keys would add the luck of how they fall. */
function spreadOf (options: BalancerOptions): number[] {
  const available = Array.from({ length: BACKENDS }, (_, i) => new Backend(`http://10.0.0.${i}:8080`, 0))
  const balancer = createBalancer(options)
  balancer.rebuild?.(available)
  const policy = balancer as unknown as { pick (hash: number): number }
  const counts = new Float64Array(BACKENDS)
  const step = 2 ** 32 / HASHES
  for (let i = 0; i < HASHES; i++) counts[policy.pick((i * step + step / 2) | 0)]++
  return Array.from(counts, count => (count / HASHES * BACKENDS - 1) * 100).sort((a, b) => a - b)
}

function signed (number: number, digits: number): string {
  return `${number > 0 ? '+' : number < 0 ? '−' : ''}${Math.abs(number).toFixed(digits)}`
}
