import type { StageTimes } from '../../types/index.ts'

/** Stages whose times are known when the answer begins, in the order they come. */
const STAGES = ['queue', 'retries', 'connect', 'send', 'wait'] as const

/** `Server-Timing` of an exchange: its stages so far, and all of it. Source: W3C Server Timing. */
export function serverTimingOf (times: StageTimes, time: number): string {
  let text = ''
  for (const stage of STAGES) {
    const taken = times[stage]
    if (taken !== undefined) text += `proxy-${stage};dur=${rounded(taken)}, `
  }
  return `${text}proxy;dur=${rounded(time)}`
}

/** More digits would be noise, and tell strangers more than they should know. */
function rounded (milliseconds: number): number {
  return Math.round(Math.max(0, milliseconds) * 10) / 10
}
