/**
 * Packs the package, looks at the tarball as npm users will get it, installs it into an empty project
 * and uses it there: from ESM, from CommonJS, and from TypeScript.
 */
import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { isBuiltin } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const root = join(import.meta.dirname, '..')
const consumer = join(import.meta.dirname, 'consumer')

/** The environment without what the surrounding `npm run` says of this project. */
const env = Object.fromEntries(Object.entries(process.env).filter(([name]) =>
  !/^(npm_package_|npm_lifecycle_|npm_config_local_prefix$|npm_config_dry_run$|npm_command$|INIT_CWD$|NODE_OPTIONS$)/i.test(name)))

function run (cwd: string, command: string, ...args: string[]): void {
  execFileSync(command, args, { cwd, env, stdio: ['ignore', 'inherit', 'inherit'], timeout: 240_000 })
}

function node (cwd: string, script: string, ...args: string[]): void {
  run(cwd, process.execPath, script, ...args)
}

function installed (name: string): string {
  return join(root, 'node_modules', name)
}

function bin (name: string, key: string): string {
  const { bin } = JSON.parse(readFileSync(join(installed(name), 'package.json'), 'utf8'))
  return join(installed(name), typeof bin === 'string' ? bin : bin[key])
}

/** The version that this project is tested with, so that the check does not depend on the day it runs. */
function pinned (name: string): string {
  const { version } = JSON.parse(readFileSync(join(installed(name), 'package.json'), 'utf8'))
  return `${name}@${version}`
}

function step (title: string, action: () => void): void {
  const start = performance.now()
  console.log(`- ${title}`)
  action()
  console.log(`  ok, ${((performance.now() - start) / 1000).toFixed(1)} s`)
}

/** What the code and the types of the package import must come with it: not only be there by luck. */
function checkImports (directory: string): void {
  const { dependencies, peerDependencies } = JSON.parse(readFileSync(join(directory, 'package.json'), 'utf8'))
  const declared = new Set(Object.keys({ ...dependencies, ...peerDependencies }))
  const dist = join(directory, 'dist')
  const undeclared = new Set<string>()
  for (const file of readdirSync(dist, { recursive: true, encoding: 'utf8' })) {
    if (!/\.(js|d\.ts)$/.test(file)) continue
    const text = readFileSync(join(dist, file), 'utf8')
    for (const [, , specifier = ''] of text.matchAll(/(?:\bfrom\s*|\bimport\s*\(?\s*)(['"])([@A-Za-z.#][\w.:/@#-]*)\1/g)) {
      const name = specifier.split('/').slice(0, specifier.startsWith('@') ? 2 : 1).join('/')
      if (!specifier.startsWith('.') && !isBuiltin(specifier) && !declared.has(name)) {
        undeclared.add(`${name}, by dist/${file}`)
      }
    }
  }
  if (undeclared.size > 0) throw new Error(`imported but not a dependency:\n    ${[...undeclared].join('\n    ')}`)
}

const work = mkdtempSync(join(tmpdir(), 'rockstar-proxy-package-'))
try {
  const project = join(work, 'project')
  let tarball = ''

  step('npm pack', () => {
    run(root, 'npm', 'pack', '--silent', '--pack-destination', work)
    const found = readdirSync(work).find((name) => name.endsWith('.tgz'))
    if (found === undefined) throw new Error('npm pack wrote no tarball')
    tarball = join(work, found)
  })
  step('publint', () => node(work, bin('publint', 'publint'), tarball, '--strict'))
  step('are the types wrong', () =>
    node(work, bin('@arethetypeswrong/cli', 'attw'), tarball, '--profile', 'esm-only', '--no-color', '--no-emoji'))
  step('npm install in an empty project', () => {
    mkdirSync(project)
    cpSync(consumer, project, { recursive: true })
    writeFileSync(join(project, 'package.json'), JSON.stringify({ name: 'consumer', private: true, type: 'module' }))
    run(project, 'npm', 'install', '--no-audit', '--no-fund', '--silent',
      tarball, pinned('fastify'), pinned('@types/node'))
  })
  step('imports only its dependencies', () => checkImports(join(project, 'node_modules', 'rockstar-proxy')))
  step('use from ESM', () => node(project, 'use.js'))
  step('use from CommonJS', () => node(project, 'use.cjs'))
  for (const resolution of ['nodenext', 'bundler']) {
    step(`compile with moduleResolution ${resolution}`, () =>
      node(project, bin('typescript', 'tsc'), '-p', `tsconfig.${resolution}.json`))
  }
  console.log('The package is fit to publish.')
} catch (error) {
  console.error(`  FAILED: ${error instanceof Error ? error.message : String(error)}`)
  process.exitCode = 1
} finally {
  rmSync(work, { recursive: true, force: true })
}
