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
