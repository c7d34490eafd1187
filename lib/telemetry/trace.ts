import type { TracingChannel } from 'node:diagnostics_channel'

/** One exchange or attempt on its tracing channel: `start`, `end`, then `error` where it fails, `asyncStart` and `asyncEnd`, in this order. */
export class Trace<Message extends { error: Error | undefined }> {
  readonly message: Message
  readonly #channel: TracingChannel<unknown, Message>
  #state: 'new' | 'running' | 'begun' | 'over' = 'new'

  constructor (channel: TracingChannel<unknown, Message>, message: Message) {
    this.#channel = channel
    this.message = message
  }

  /** Whatever this begins runs in the stores that are bound to the channel. */
  run (work: () => void): void {
    this.#state = 'running'
    try {
      this.#channel.start.runStores(this.message, work)
    } finally {
      // It may have come to its end at once.
      if (this.#state as string === 'running') this.#tellBegun()
    }
  }

  /** It is over. @param error why it failed */
  finish (error: Error | undefined): void {
    this.message.error = error
    // What is refused before it began is told of all the same.
    if (this.#state === 'new') this.run(nothing)
    // Before what comes of it: another attempt, or the end of its exchange.
    else if (this.#state === 'running') this.#tellBegun()
    this.#state = 'over'
    this.#tellEnd()
  }

  #tellBegun (): void {
    this.#state = 'begun'
    this.#channel.end.publish(this.message)
  }

  #tellEnd (): void {
    const { message } = this
    if (message.error !== undefined) this.#channel.error.publish(message)
    this.#channel.asyncStart.publish(message)
    this.#channel.asyncEnd.publish(message)
  }
}

function nothing (): void {}
