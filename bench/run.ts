import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { cpus } from 'node:os'
import { startNode, type Served } from './child.ts'
import { findGenerator } from './load.ts'
import { measure } from './measure.ts'
import { readOptions, USAGE, type Options } from './options.ts'
import { figuresOf, tableOf, verdictOn, type Figures } from './report.ts'

const root = `${import.meta.dirname}/..`
/** Progress goes where it does not get between the figures. */
const tell = (text: string) => process.stderr.write(process.stderr.isTTY ? `\r\x1b[K${text}` : `${text}\n`)

const options = optionsOrExit()
// Children of Node end with this process; 'exit' handlers see to the rest.
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => process.exit(1))
if (!existsSync(`${root}/dist/plugins/index.js`)) execFileSync('npm', ['run', 'build'], { cwd: root, stdio: ['ignore', 2, 'inherit'] })
const backend = await startNode('backend.mjs', [])
try {
  await run(backend)
} finally {
  await backend.stop()
}

async function run (backend: Served): Promise<void> {
  const generator = findGenerator()
  const all: Record<string, Figures[]> = {}
  if (!options.json) console.log(`Node ${process.version}, ${cpus()[0].model} × ${cpus().length}; ${generator.name}, ${options.connections} connections, ${options.rounds} rounds of ${options.seconds} s\n`)
  for (const scenario of options.scenarios) {
    const measured = await measure(scenario, backend.url, generator, options, tell)
    if (process.stderr.isTTY) tell('')
    all[scenario.name] = figuresOf(measured)
    if (options.json) continue
    console.log(tableOf(scenario, measured))
    const verdict = verdictOn(scenario, measured)
    if (verdict !== undefined) console.log(verdict)
  }
  if (options.json) console.log(JSON.stringify({ node: process.version, generator: generator.name, connections: options.connections, rounds: options.rounds, seconds: options.seconds, scenarios: all }, null, 2))
}

function optionsOrExit (): Options {
  try {
    return readOptions(process.argv.slice(2))
  } catch (error) {
    process.stderr.write(`${(error as Error).message}\n\n${USAGE}`)
    process.exit(2)
  }
}
