import { spawn, spawnSync, type ChildProcess } from 'node:child_process'
import { readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'

const root = join(import.meta.dirname, '../..')

/** When a file was written last, or the newest one in a folder; 0 when there is none. */
function written (path: string): number {
  const stat = statSync(path, { throwIfNoEntry: false })
  if (stat === undefined) return 0
  if (!stat.isDirectory()) return stat.mtimeMs
  return Math.max(0, ...readdirSync(path).map(name => written(join(path, name))))
}

/** The examples import the package by its name, and so as it was built: from these sources, if they are to prove anything. */
export function buildIfStale (): void {
  const sources = Math.max(...['types', 'lib', 'plugins', 'tsconfig.build.json'].map(name => written(join(root, name))))
  if (written(join(root, 'dist/plugins/index.js')) >= sources) return
  const { status, stdout } = spawnSync(process.execPath, [join(root, 'node_modules/typescript/bin/tsc'), '-p', 'tsconfig.build.json'], { cwd: root, encoding: 'utf8' })
  if (status !== 0) throw new Error(`the build failed:\n${stdout}`)
}

/** An example that runs. */
export interface Example {
  child: ChildProcess
  /** The first address that it has printed. */
  url: string
  /** All addresses that it has printed, each once. */
  urls: string[]
  output: () => string
}

/** Runs an example on free ports until it prints its address; killed with the test, if it has not ended by then. */
export async function runExample (t: Test, name: string, env: Record<string, string> = {}): Promise<Example> {
  const child = spawn(process.execPath, ['--import=tsx', join('examples', name)], {
    cwd: root,
    env: { ...process.env, PORT: '0', BACKEND_PORTS: '0,0,0', ADMIN_PORT: '0', NODE_OPTIONS: '', ...env },
    stdio: ['ignore', 'pipe', 'pipe']
  })
  t.teardown(() => child.kill('SIGKILL'))
  let output = ''
  await new Promise<void>(resolve => {
    child.once('exit', () => resolve())
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', text => {
        output += text
        if (output.includes('Ctrl+C')) resolve()
      })
    }
  })
  const urls = [...new Set(output.match(/http:\/\/127\.0\.0\.1:\d+/g))]
  if (urls.length === 0) throw new Error(`${name} has not come up:\n${output}`)
  return { child, url: urls[0], urls, output: () => output }
}
