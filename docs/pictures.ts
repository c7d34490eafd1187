/**
 * Draws the pictures of docs/load-balancing.md: `npm run pictures`. Two show figures that the benchmarks have printed into
 * docs/pictures/, two the policies as they are; so the same figures give the same pictures, byte for byte. `npm run pictures -- --measure`
 * runs the benchmarks anew first, some minutes: on a machine that does nothing else.
 */
import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { drawKeySpread } from './pictures/key-spread.ts'
import { drawSelectCost } from './pictures/select-cost.ts'
import { drawSlowBackend } from './pictures/slow-backend.ts'
import { drawTurns } from './pictures/turns.ts'

const folder = join(import.meta.dirname, 'pictures')
const bench = join(import.meta.dirname, '..', 'bench')

function measure (name: string): void {
  const { stdout, status } = spawnSync(process.execPath, ['--import', 'tsx', join(bench, `${name}.ts`), '--json'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] })
  if (status !== 0) throw new Error(`bench/${name}.ts failed`)
  writeFileSync(join(folder, `${name}.json`), stdout)
}

function figures (name: string) {
  return JSON.parse(readFileSync(join(folder, `${name}.json`), 'utf8'))
}

function write (name: string, svg: string): void {
  writeFileSync(join(folder, `${name}.svg`), svg)
}

const { values } = parseArgs({ options: { measure: { type: 'boolean', default: false } } })
if (values.measure) ['balancers', 'slow-backend'].forEach(measure)
write('slow-backend', drawSlowBackend(figures('slow-backend')))
write('select-cost', drawSelectCost(figures('balancers')))
write('key-spread', await drawKeySpread())
write('turns', drawTurns())
