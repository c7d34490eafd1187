import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { ResourceOptions } from '../../types/index.ts'

/** Logs a change: what was done, to what, by whom. Never what may be a secret. */
export type LogChange = (request: FastifyRequest, action: string, details?: object) => void

/** Makes what logs the changes of a scope, at `info`, whatever else the app logs. What is done already must not fail for want of a name. */
export function auditOf ({ log }: FastifyInstance, { who }: ResourceOptions): LogChange {
  const audit = log.child({}, { level: 'info' })
  return (request, action, details = {}) => {
    // By the time that the name is known, the connection may be gone.
    const { id, socket: { remoteAddress } } = request
    const write = (more: { who: unknown, err?: unknown }) => audit.info({ action, ...details, ...more, reqId: id }, 'changed by an operator')
    const named = (name: unknown) => write({ who: name ?? remoteAddress })
    const nameless = (err: unknown) => write({ who: remoteAddress, err })
    let name: unknown
    try {
      name = who?.(request)
    } catch (error) {
      return nameless(error)
    }
    if (isThenable(name)) Promise.resolve(name).then(named, nameless)
    else named(name)
  }
}

function isThenable (value: unknown): boolean {
  return typeof (value as PromiseLike<unknown> | null | undefined)?.then === 'function'
}
