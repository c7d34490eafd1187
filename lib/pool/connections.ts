import type { Dispatcher } from 'undici'
import type { BackendPoolStats } from '../../types/index.ts'

/** The connections to one backend, whatever they speak. */
export interface Connections extends Dispatcher {
  /** Requests that got a connection already used. */
  readonly reuses: number
  /** Forgets a request, wherever it is: it calls its handler no more. */
  cancel (handler: Dispatcher.DispatchHandler): void
  /** Whether a request waits for a connection. */
  isWaiting (handler: Dispatcher.DispatchHandler): boolean
  stats (): BackendPoolStats
  /** Lets every connection finish what it has and then close; new ones take their place: TLS material has changed. */
  renew (): void
}

/** What a handler is told of HTTP/2 beside what undici's interface has; one that lacks the first is not told. */
export interface StreamHandler extends Dispatcher.DispatchHandler {
  /** Set before the request is sent: there are streams, and no reason phrases. */
  overStream: boolean
  /** Set before the head is told: nothing follows, whatever its fields say. A gRPC answer may be like that. */
  endsAtHead: boolean
  /** Whether bytes of an answer have come. */
  heard: boolean
  /** Set before a failure is told: the connection has died, and had carried other requests before. */
  reused: boolean
}

/** Who knows what follows the body of a request. */
export interface TrailerSource {
  /** Names and values in turn; asked for once all of the body has been sent. */
  trailers (): readonly string[]
}

export function isStreamHandler (handler: Dispatcher.DispatchHandler): handler is StreamHandler {
  return 'overStream' in handler
}
