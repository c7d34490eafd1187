import type { FastifyReply, FastifyRequest } from 'fastify'
import { FALLBACK_CODES } from '../types/index.ts'
import type { FallbackFunction, FallbackOption, FallbackResponse, SubsetFallback } from '../types/index.ts'

const PREFIX = 'FST_ROCKSTAR_'
const BAD_STATUS = `${PREFIX}BAD_STATUS`

/** What takes the place of an answer, made ready. */
export class Fallback {
  /** The upstream that is asked instead, where that is what is wanted. */
  readonly upstream: string | undefined
  readonly #codes: ReadonlySet<unknown>
  readonly #answer: FallbackResponse | FallbackFunction

  constructor (option: Exclude<FallbackOption, false>) {
    this.#codes = new Set(typeof option === 'function' ? FALLBACK_CODES : option.on ?? FALLBACK_CODES)
    this.upstream = 'upstream' in option ? option.upstream : undefined
    this.#answer = option as FallbackResponse | FallbackFunction
  }

  /** Whether it is for such a failure. */
  covers (error: Error): boolean {
    const { code, statusCode } = error as { code?: string, statusCode?: number }
    if (code === undefined || !code.startsWith(PREFIX)) return false
    return code === BAD_STATUS ? this.#codes.has(statusCode) : this.#codes.has(code.slice(PREFIX.length))
  }

  /** Whether it is for such an answer of a backend. */
  replaces (statusCode: number): boolean {
    return this.#codes.has(statusCode)
  }

  /** Answers; what it returns, or resolves to, tells whether it has. Throws what a function throws. */
  answer (request: FastifyRequest, reply: FastifyReply, error: Error): boolean | Promise<boolean> {
    const answer = this.#answer
    if (typeof answer === 'function') {
      const sent = watchSend(reply)
      const result = answer(request, reply, error)
      return result instanceof Promise ? result.then(value => send(reply, value, sent)) : send(reply, result, sent)
    }
    const { statusCode = 503, headers = {}, body } = answer
    reply.code(statusCode).headers(headers).send(body)
    return true
  }
}

/** Whether `reply.send()` has been called: `reply.sent` says so only once all has gone out. */
export function watchSend (reply: FastifyReply): () => boolean {
  const { send } = reply
  let called = false
  reply.send = function (this: FastifyReply, payload?: unknown) {
    called = true
    reply.send = send
    return send.call(this, payload)
  } as typeof send
  return () => {
    reply.send = send
    return called || reply.sent
  }
}

/** What a function returns is its answer, as with a handler of Fastify's. */
function send (reply: FastifyReply, value: unknown, sent: () => boolean): boolean {
  if (sent()) return true
  if (value === undefined || value === reply) return reply.sent
  reply.send(value)
  return true
}

/** What an option means for failures; `undefined` where it only speaks of subsets. */
export function fallbackOf (option: FallbackOption | SubsetFallback | undefined): Fallback | null | undefined {
  if (option === undefined || typeof option === 'string') return undefined
  return option === false ? null : new Fallback(option)
}
