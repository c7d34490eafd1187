import type { StageTimes } from '../../types/index.ts'
import type { Attempt } from './attempt.ts'
import type { Attempts } from './attempts.ts'

/** How long each stage of an exchange has taken so far. The attempt that leads is the one whose stages count. */
export function stageTimes (startedAt: number, now: number, attempts: Attempts): StageTimes {
  const { leading } = attempts
  if (leading === null) return { queue: now - startedAt }
  const first = attempts.all()[0]
  const times: StageTimes = { queue: first.startedAt - startedAt }
  if (first !== leading) times.retries = leading.startedAt - first.startedAt
  return Object.assign(times, stagesOf(leading, now))
}

function stagesOf ({ startedAt, connectedAt, sentAt, headTime, settled, responseTime, statusCode }: Attempt, now: number): Partial<StageTimes> {
  // A tunnel lasts longer than its answer took.
  const end = settled && statusCode !== 101 ? startedAt + responseTime : now
  if (connectedAt === -1) return { connect: end - startedAt }
  const connect = connectedAt - startedAt
  if (headTime === -1) return sentAt === -1 ? { connect, send: end - connectedAt } : { connect, send: sentAt - connectedAt, wait: end - sentAt }
  const headAt = startedAt + headTime
  // An answer may come before all has been sent.
  const sent = sentAt === -1 ? headAt : Math.min(sentAt, headAt)
  return { connect, send: sent - connectedAt, wait: headAt - sent, stream: end - headAt }
}
