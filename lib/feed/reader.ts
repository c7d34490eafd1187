import { Readable } from 'node:stream'
import type { Deadlined } from '../deadlines.ts'
import type { Message } from './message.ts'

/** What a reader needs of what it reads from. */
export interface Source {
  /** The clock's time by which something has to be said again. */
  speakBy (): number
  /** Nothing more is wanted, or can be taken. @param slow whether it has not taken what there was */
  left (reader: Reader, slow: boolean): void
}

/** One who reads events: what is told waits in here until the connection takes it, up to a limit. */
export class Reader extends Readable implements Deadlined {
  deadline: number
  previous: Deadlined | null = null
  next: Deadlined | null = null
  /** Whoever waits for the app to end does not wait for it. */
  readonly expendable = true
  /** Name of the only upstream that is told of; `undefined` for all. */
  readonly upstream: string | undefined
  readonly #source: Source
  readonly #maxBuffer: number

  constructor (source: Source, upstream: string | undefined, maxBuffer: number) {
    super()
    this.#source = source
    this.#maxBuffer = maxBuffer
    this.upstream = upstream
    this.deadline = source.speakBy()
  }

  override _read (): void {}

  override _destroy (error: Error | null, callback: (error?: Error | null) => void): void {
    this.#source.left(this, false)
    callback(error)
  }

  /** Whether it wants to hear of an upstream. */
  hears (upstream: string): boolean {
    return this.upstream === undefined || this.upstream === upstream
  }

  hear (message: Message): void {
    if (this.hears(message.upstream)) this.tell(message.text)
  }

  /** Says something. Who has too much waiting is dropped; what is too long by itself is not his fault. */
  tell (text: string): void {
    if (this.destroyed || this.readableEnded) return
    this.deadline = this.#source.speakBy()
    const waiting = this.readableLength
    if (waiting > 0 && waiting + Buffer.byteLength(text) > this.#maxBuffer) {
      this.#source.left(this, true)
      this.destroy()
    } else this.push(text)
  }

  /** Nothing was said for a while: a comment, which no reader sees. */
  onDeadline (): void {
    this.tell(':\n\n')
  }

  isOn (): boolean {
    return false
  }

  /** The end: what is still waiting for the connection is not waited for. */
  giveUp (): void {
    this.#source.left(this, false)
    if (this.readableLength > 0) this.destroy()
    else this.push(null)
  }
}
