import type { ResponseHead } from './response-headers.ts'

/** Where an exchange's answer goes: the client's connection, Fastify's hooks, or a handler that wants it itself. */
export interface Sink {
  /** The final head; called once, before any content. */
  head (head: ResponseHead): void
  /** Content. False asks to hold back until the sink calls `Source.resume()`. */
  data (chunk: Buffer): boolean
  /** The whole content has come. */
  end (trailers: string[]): void
  /** The content was cut short; what has been sent must not look whole. */
  cut (error: Error): void
}

/** What a sink may ask of its exchange. */
export interface Source {
  /** Lets content flow again. */
  resume (): void
  /** Nobody is there any more to take the answer. */
  abandon (): void
}
