import type { Readable } from 'node:stream'
import type { TrailerSource } from '../pool/index.ts'

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
