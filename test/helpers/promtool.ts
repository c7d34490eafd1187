import { spawnSync } from 'node:child_process'
import type { Test } from 'tap'

const missing = spawnSync('promtool', ['--version']).error !== undefined

/** What a run of promtool has come to. */
export interface PromtoolResult {
  status: number | null
  output: string
}

/**
 * Runs promtool (of Debian's package prometheus), or tells why not. It is there in CI, or the test fails; on a machine without it
 * the test is skipped: `undefined`.
 */
export function promtool (t: Test, args: string[], input = ''): PromtoolResult | undefined {
  if (missing) {
    if (!['', 'false'].includes(process.env.CI ?? '')) t.fail('promtool is missing, which CI has to install: see .ci/run')
    else t.pass('promtool has its say', { skip: 'promtool is not installed (Debian: apt-get install prometheus)' })
    return undefined
  }
  const { status, stdout, stderr } = spawnSync('promtool', args, { input, encoding: 'utf8', maxBuffer: 2 ** 26 })
  return { status, output: stdout + stderr }
}
