import type { Readable } from 'node:stream'
import type { Backend } from '../backend.ts'
import type { TrailerSource } from '../pool/index.ts'
import type { Intent } from './intent.ts'
import type { Sending } from './sending.ts'

/** Milliseconds that a connection may have been idle for what cannot be sent again: it may just be being closed. */
const UNSAFE_IDLE = 250

/** What is sent to a backend. */
export interface Outgoing {
  /** For a dispatcher that serves more than one, as undici's `Agent` does. */
  origin: string
  path: string
  method: string
  headers: string[]
  /** Whether it asks for `*`: over HTTP/1.1 its head is rewritten, over HTTP/2 it is a path. */
  asterisk: boolean
  body: Buffer | Readable | null
  /** What follows a body that is still coming; over HTTP/1.1 undici cannot send it. */
  trailers: TrailerSource
  /** The TLS name; undici would take it from `Host`. */
  servername: string | null
  fresh: boolean
  /** Milliseconds that its connection may have been idle. */
  maxIdle: number
  /** What the connection is to become; `null` for an ordinary request. */
  upgrade: string | null
}

/** What is sent to a backend of what a client wants. @param fresh whether it must not go out on a connection that may have died with its backend */
export function outgoingTo (backend: Backend, intent: Intent, headers: string[], sending: Sending, fresh: boolean): Outgoing {
  return {
    origin: backend.origin,
    path: backend.basePath + intent.path,
    method: intent.method,
    headers,
    asterisk: asksForAll(intent, backend),
    body: sending.open(),
    trailers: sending,
    servername: backend.servername,
    fresh,
    maxIdle: sending.idempotent ? Infinity : UNSAFE_IDLE,
    upgrade: intent.upgrade?.protocol ?? null
  }
}

/** Whether a backend is asked for `*`; one with a path of its own is asked for that. */
export function asksForAll ({ asterisk }: Intent, backend: Backend): boolean {
  return asterisk && backend.basePath === ''
}
