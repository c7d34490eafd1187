import type { Because } from './explanation.ts'

/** Response times of finished requests, in milliseconds; 0 while there are none. */
export interface ResponseTimes {
  averageResponseTime: number
  minResponseTime: number
  maxResponseTime: number
  /** From a log-linear histogram: within 3.2 % of the true value. */
  p50ResponseTime: number
  p90ResponseTime: number
  p99ResponseTime: number
}

/** Counts of one backend. A request that was tried twice counts as two attempts. */
export interface BackendMetrics extends ResponseTimes {
  /** Attempts begun. */
  totalRequests: number
  /** Whole responses with a status below 500. */
  successfulRequests: number
  /** Failures of the backend, and responses with a status of 500 or more. */
  failedRequests: number
  /** Attempts given up because the client went away. */
  abortedRequests: number
  /** Attempts under way. */
  inFlight: number
}

/** How much of an upstream's traffic goes to a backend, and why. */
export interface BackendDistribution extends BackendMetrics {
  /** Part of all attempts of the upstream, 0 to 1. */
  share: number
  weight: number
  /** What load balancers go by: the weight times the factors of slow start and of `weights`. */
  effectiveWeight: number
  /** How many attempts it may have at once by `limits`; `null` without a limit. */
  limit: number | null
  /** How often it was chosen, and why. A request that is sent again to the same backend is not counted again. */
  chosenBecause: Record<Because, number>
}

/** What took too long, by what was waited for. */
export interface StageTimeouts {
  /** Being let in. */
  queue: number
  /** A connection. */
  connect: number
  /** The backend to take the body. */
  send: number
  /** The head of the answer. */
  wait: number
  /** The next bytes of the answer. */
  stream: number
  /** The client, to send or to take. */
  client: number
  /** All of it: `timeout.request`, or what the client had left. */
  request: number
}

/** Connections that were switched to another protocol, WebSocket for one. */
export interface TunnelMetrics {
  /** Open now. */
  open: number
  /** Opened since the start. */
  total: number
  /** Bytes that clients have sent through them. */
  bytesReceived: number
  /** Bytes that backends have sent through them. */
  bytesSent: number
}

/** Counts of one upstream. Source: the seed's `ProxyMetrics`. */
export interface UpstreamMetrics extends BackendMetrics {
  /** Attempts made again after a failure. */
  totalRetries: number
  /** Retries that would have been made had the budget not been used up. */
  retriesDenied: number
  /** Second attempts by `hedge`. */
  hedgedRequests: number
  /** Those of them whose answer was used. */
  hedgesWon: number
  /** Requests that had to wait by `limits`. */
  queuedRequests: number
  /** Requests waiting now. */
  queueLength: number
  /** Requests refused by `limits`, at once or after waiting. */
  shedRequests: number
  /** Requests and attempts that took too long, by what they were waiting for. */
  timeouts: StageTimeouts
  /** Failures in whose place a fallback has answered. */
  fallbacksServed: number
  /** Copies sent by `mirror`. */
  mirroredRequests: number
  /** Copies not sent, as the body was too large or too many were under way. */
  mirrorsSkipped: number
  /** Connections that were switched to another protocol. */
  tunnels: TunnelMetrics
  /** The same by backend id, of those listed now. */
  backends: Record<string, BackendDistribution>
  /** Whether too few backends are available, so that all active ones are used. */
  panic: boolean
}

/** Counts of the default upstream, and of the named ones beside it. */
export interface ProxyMetrics extends UpstreamMetrics {
  upstreams: Record<string, UpstreamMetrics>
}
