import { isIP } from 'node:net'
import { isDeepStrictEqual } from 'node:util'
import { BackendInputSchema } from '../../types/index.ts'
import type { BackendChanges, BackendInput, BackendOptions } from '../../types/index.ts'
import { addressOf } from '../backend-address.ts'
import type { Backend } from '../backend.ts'
import { resolveOptions } from '../options.ts'

/** What is said of one backend: what it is, and where. */
export interface Said {
  readonly id: string
  readonly href: string
  /** Where connections go instead of to the host of the URL. */
  readonly address: string | undefined
  /** Of a backend that is at a name: the name; `null` where there is nothing to be asked for. */
  readonly hostname: string | null
  readonly options: BackendOptions
}

/** Reads what is said of a backend. Throws `INVALID_OPTIONS`, naming `path`. */
export function saidOf (input: BackendInput, path: string): Said {
  const given = resolveOptions<BackendInput>(BackendInputSchema, input, path)
  const options = typeof given === 'string' ? { url: given } : given
  const { href, id, socketPath } = addressOf(options.url, typeof given === 'string' ? path : `${path}.url`)
  const hostname = socketPath === undefined ? new URL(href).hostname : ''
  return { id: options.id ?? id, href, address: undefined, hostname: hostname === '' || hostname.startsWith('[') || isIP(hostname) !== 0 ? null : hostname, options }
}

/** Whether both are the same backend at the same place. */
export function isSamePlace (a: Said, b: Said): boolean {
  return a.href === b.href && a.address === b.address && a.options.http2 === b.options.http2 && isDeepStrictEqual(a.options.tls, b.options.tls)
}

/**
 * What is to be changed of a backend now that something else is said of it. What somebody has changed by hand is left as it is:
 * there the backend is not what was said of it before.
 */
export function changesOf (backend: Backend, before: Said, now: Said): BackendChanges {
  const { weight, priority, zone, isActive, metadata, healthCheck } = backend
  const present = { weight, priority, zone, isActive, metadata, healthCheck }
  const [old, next] = [settingsOf(before), settingsOf(now)]
  const changed = Object.entries(next).filter(([name, value]) => {
    const was = old[name as keyof typeof old]
    return !isDeepStrictEqual(value, was) && isDeepStrictEqual(present[name as keyof typeof present], was)
  })
  return Object.fromEntries(changed)
}

/** With the defaults that backends have. */
function settingsOf ({ options: { weight = 1, backup = false, priority = backup ? 1 : 0, zone, isActive = true, metadata = {}, healthCheck } }: Said) {
  return { weight, priority, zone, isActive, metadata, healthCheck }
}
