import type { Socket } from 'node:net'
import type { Backend } from '../backend.ts'
import type { PrefixMapping } from './prefix-mapping.ts'
import type { ResponseHead } from './response-headers.ts'
import type { Sink } from './sink.ts'

/** Hears that a tunnel has closed, and how many bytes have come from the client and gone to it. */
export type TunnelClosed = (bytesReceived: number, bytesSent: number) => void

/** What the one who asked for an exchange wants to hear of it. */
export interface ExchangeClient {
  /** A head has come: where is the answer to go? May throw. */
  answer (head: ResponseHead, backend: Backend): Sink
  /** How a backend's paths map to the client's; `null` when they are the same. */
  mappingFor (backend: Backend): PrefixMapping | null
  /** Whether something else is to take the place of an answer with such a status. */
  replaces (statusCode: number): boolean
  /** The request has been sent, and all of it is known: where copies are wanted, this is one. `undefined`: it was too large to be kept. */
  copy (body: Buffer | null | undefined): void
  /** The backend has switched protocols: the client's connection is to be joined to its. @param closed called once both have closed */
  tunnel? (headers: string[], backend: Backend, socket: Socket, closed: TunnelClosed): void
  /** Interim responses go straight to the client. */
  interim (statusCode: number, headers: string[]): void
  /** All is over: the answer has gone out, whole or not. */
  finished (): void
  /** There is no answer. */
  failed (error: Error): void
  /** Whether nobody waits for an answer. */
  readonly expendable?: boolean
}
