import type { FastifyRequest } from 'fastify'
import type { Explanation } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { proxyError } from '../errors.ts'
import { retryAfterHeaders } from '../retry/index.ts'
import type { Upstream } from '../upstream.ts'
import { AnswerTime } from './answer-time.ts'
import { withTimeLeft } from './deadline-header.ts'
import { explainIntent, Question } from './explain-request.ts'
import { intentOf, type FastifyIntent } from './intent.ts'
import { Sending } from './sending.ts'
import type { Settings } from './settings.ts'

/** What would become of a request, all but its body. */
export interface DryRun {
  /** `null` where no backend would be asked, whichever there are. */
  explanation: Explanation | null
  /** What would be sent to the backend chosen. */
  sent: DrySending | null
  /** Whether it may be sent again when it has been sent. */
  repeatable: boolean
  /** Milliseconds after which a second attempt would be made; `null` where none would, or that is not known yet. */
  hedgeDelay: number | null
  /** Whether it would have to wait to be let in. */
  waits: boolean
  /** What the client would hear instead of an answer of a backend. */
  error: unknown
}

/** A request's head as it would go out. */
export interface DrySending {
  method: string
  /** With the backend's base path. */
  path: string
  /** Names and values in their order. */
  headers: [string, string][]
  /** The protocol that the backend is asked to switch to. */
  upgrade: string | null
}

/** Goes the way of a request up to where it would be sent. Nothing is sent or counted, and no turn is taken. */
export async function dryRun (upstream: Upstream, request: FastifyRequest, settings: Settings): Promise<DryRun> {
  const run: DryRun = { explanation: null, sent: null, repeatable: false, hedgeDelay: null, waits: false, error: undefined }
  let intent: FastifyIntent
  try {
    intent = intentOf(request, upstream, settings)
  } catch (error) {
    return { ...run, error }
  }
  run.repeatable = new Sending(upstream, intent).idempotent
  run.hedgeDelay = run.repeatable && intent.upgrade === null ? hedgeDelayOf(upstream, settings) : null
  if (upstream.closed) return { ...run, error: proxyError('CLOSED') }
  const admitted = upstream.admission?.outlook(request) ?? 'in'
  if (admitted === 'shed') return { ...run, error: waiting(proxyError('OVERLOADED'), upstream.admission?.queueTimeout ?? 0) }
  run.waits = admitted === 'queue'
  const question = new Question(request, intent)
  run.explanation = await explainIntent(upstream, question, settings)
  const chosen = run.explanation.chosen as Backend | undefined
  if (chosen !== undefined) run.sent = sendingTo(chosen, upstream, intent)
  else run.error = noneChosen(upstream, question, run.explanation, settings)
  return run
}

function hedgeDelayOf (upstream: Upstream, { hedge }: Settings): number | null {
  return hedge === null || upstream.hedging === null ? null : hedge.delay(upstream.hedging, upstream.clock.now()) ?? null
}

function sendingTo (backend: Backend, upstream: Upstream, intent: FastifyIntent): DrySending {
  const now = upstream.clock.now()
  const { told } = new AnswerTime(now, intent.settings.timeouts.request, intent.deadline)
  const fields = withTimeLeft(intent.headers, upstream.deadlineHeader, told - now)
  const headers: [string, string][] = []
  for (let i = 0; i < fields.length; i += 2) headers.push([fields[i], fields[i + 1]])
  if (!headers.some(([name]) => name.toLowerCase() === 'host')) headers.unshift(['host', backend.host])
  if (intent.body !== null && intent.contentLength < 0) headers.push(['transfer-encoding', 'chunked'])
  return { method: intent.method, path: backend.basePath + intent.path, headers, upgrade: intent.upgrade?.protocol ?? null }
}

/** Why there is no backend, as the client hears it; `undefined` where only sending the request would tell. */
function noneChosen (upstream: Upstream, question: Question, { backends }: Explanation, { subset }: Settings): Error | undefined {
  const { selector } = upstream
  const kept = selector.affinity?.find(question, subset)
  const only = kept !== undefined && selector.mustKeep(kept.backend, question, subset) ? kept.backend : undefined
  if (only === undefined && selector.balancer.peek === undefined && backends.some(({ considered }) => considered)) return undefined
  const wait = upstream.circuitWait(question, subset, only)
  return wait === undefined ? proxyError('NO_BACKEND') : waiting(proxyError('CIRCUIT_OPEN'), wait)
}

/** An error that says after how many milliseconds it is worth asking again. */
function waiting (error: Error, wait: number): Error {
  return Object.assign(error, { headers: retryAfterHeaders(wait) })
}
