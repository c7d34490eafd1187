import type { Backend } from './backend.ts'

/** How far an attempt came: the step during which it ended. */
export type Stage =
  /** Choosing a backend. */
  | 'select'
  /** Getting a connection. */
  | 'connect'
  /** Sending the request's head and body. */
  | 'send'
  /** Waiting for the response's head. */
  | 'wait'
  /** Streaming the response's body. */
  | 'stream'
  /** The whole response has arrived. */
  | 'done'

/** Who made an attempt end the way it did; `none` when all went well. */
export type Culprit = 'none' | 'client' | 'backend' | 'proxy'

/** How an attempt counts: an answer below 500 is a success, what the client or the proxy has given up is no failure. */
export type AttemptResult = 'successful' | 'failed' | 'aborted'

/** The result of one attempt: stage × culprit. Source: YARP's `ForwarderError`. */
export interface Outcome {
  /** How far the attempt came. */
  readonly stage: Stage
  /** Who ended it. */
  readonly culprit: Culprit
  /** The status the backend answered with; 0 before it did. */
  readonly statusCode: number
  /** What went wrong; `undefined` when nothing did. */
  readonly error: Error | undefined
  /** Milliseconds from dispatch to the response's head; -1 when none came. */
  readonly headTime: number
  /** Milliseconds from dispatch to the end. */
  readonly responseTime: number
}

/** One attempt of an exchange, as its hooks and the log see it. */
export interface AttemptReport {
  readonly backend: Backend
  /** How it counts; `pending` while it is under way. */
  readonly result: AttemptResult | 'pending'
  /** How far it has come, who has ended it, its status and its error. */
  readonly outcome: Outcome
  /** Milliseconds it has taken, or has been taking so far. */
  readonly time: number
  /** Whether it was made although the one before it had not failed. */
  readonly hedge: boolean
}
