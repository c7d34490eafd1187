/**
 * Fails when a generated page of docs/ is not what `npm run docs` would write now.
 * Leaves docs/ as it found it.
 */
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const root = join(import.meta.dirname, '..')
const docs = join(root, 'docs')

function pages (): Map<string, string> {
  const names = readdirSync(docs, { recursive: true, encoding: 'utf8' })
  return new Map(names
    .filter((name) => name.endsWith('.md'))
    .map((name) => [name, readFileSync(join(docs, name), 'utf8')]))
}

function restore (before: Map<string, string>, after: Map<string, string>): void {
  for (const name of after.keys()) {
    if (!before.has(name)) rmSync(join(docs, name))
  }
  for (const [name, text] of before) {
    if (after.get(name) !== text) writeFileSync(join(docs, name), text)
  }
}

function firstDifference (before = '', after = ''): string {
  const was = before.split('\n')
  const now = after.split('\n')
  const line = now.findIndex((text, index) => text !== was[index])
  const index = line === -1 ? now.length : line
  return `line ${index + 1}\n  is:        ${was[index] ?? '(nothing)'}\n  should be: ${now[index] ?? '(nothing)'}`
}

const before = pages()
const { status } = spawnSync(process.execPath, ['--import=tsx', join(docs, 'generate.ts')], { cwd: root, stdio: 'inherit' })
const after = pages()
restore(before, after)

if (status !== 0) {
  console.error('docs/generate.ts failed.')
  process.exit(1)
}

const stale = [...new Set([...before.keys(), ...after.keys()])].filter((name) => before.get(name) !== after.get(name))
for (const name of stale) {
  console.error(`docs/${name} is stale, ${firstDifference(before.get(name), after.get(name))}`)
}
if (stale.length > 0) {
  console.error('Run `npm run docs` and commit what it wrote.')
  process.exit(1)
}
console.log('The generated pages of docs/ are up to date.')
