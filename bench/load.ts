import { execFile, spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { promisify } from 'node:util'
import { requestHeaders, type Scenario } from './scenarios.ts'

const run = promisify(execFile)

/** What a load generator saw. */
export interface Load {
  requests: number
  seconds: number
  /** Milliseconds. */
  p50: number
  p99: number
  /** Requests that failed, or got another status than 2xx or 3xx. */
  errors: number
}

/** Keeps so many connections busy for so many seconds. */
export interface Generator {
  name: string
  press (url: string, scenario: Scenario, connections: number, seconds: number): Promise<Load>
}

/** wrk where it is installed, since it takes the least of the machine for itself; else autocannon. */
export function findGenerator (): Generator {
  return spawnSync('wrk', ['-v']).error === undefined ? wrk : autocannon
}

const wrk: Generator = {
  name: 'wrk',
  async press (url, { method, path, upload }, connections, seconds) {
    const script = `${import.meta.dirname}/wrk.lua`
    const { stdout } = await run('wrk', [
      '-t1', `-c${connections}`, `-d${seconds}s`, '-s', script, url + path, '--',
      method, String(upload), ...Object.entries(requestHeaders).flat()
    ])
    return JSON.parse(stdout.trim().split('\n').at(-1) as string) as Load
  }
}

interface AutocannonResult {
  requests: { total: number }
  duration: number
  latency: { p50: number, p99: number }
  errors: number
  non2xx: number
}

const autocannon: Generator = {
  name: 'autocannon',
  async press (url, { method, path, upload }, connections, seconds) {
    const body = upload === 0 ? [] : ['-b', bodyOf(upload), '-H', 'Content-Type=application/json']
    const { stdout } = await run(process.execPath, [
      createRequire(import.meta.url).resolve('autocannon'), '--json', '--no-progress',
      '-c', String(connections), '-d', String(seconds), '-m', method, ...body,
      ...Object.entries(requestHeaders).flatMap(([name, value]) => ['-H', `${name}=${value}`]), url + path
    ])
    const { requests, duration, latency, errors, non2xx } = JSON.parse(stdout) as AutocannonResult
    return { requests: requests.total, seconds: duration, p50: latency.p50, p99: latency.p99, errors: errors + non2xx }
  }
}

/** JSON of so many bytes. */
export function bodyOf (bytes: number): string {
  return `{"items":"${'x'.repeat(bytes - 12)}"}`
}
