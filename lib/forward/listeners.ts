import type { FastifyBaseLogger } from 'fastify'

/**
 * What a listener of the application's returns is not waited for; one that is async must not end the process when it rejects.
 * @param name as the log tells it
 */
export function watchListener (returned: unknown, name: string, log: FastifyBaseLogger): void {
  if (returned instanceof Promise) returned.catch(error => log.error({ err: error }, `${name} rejected`))
}

/** Tells a listener that cannot change anything any more, whatever it throws. */
export function tellListener (listener: () => unknown, name: string, log: FastifyBaseLogger): void {
  try {
    watchListener(listener(), name, log)
  } catch (error) {
    log.error({ err: error }, `${name} threw`)
  }
}
