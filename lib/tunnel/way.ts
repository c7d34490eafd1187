import type { Socket } from 'node:net'
import type { FrameTracker } from './frames.ts'

/** Who hears of what passes. */
export interface Passage {
  /** Bytes have passed. */
  onPassed (): void
  /** The sender has said that it sends no more. */
  onEnded (way: Way): void
  /** What was to be said instead of the sender's own words has been said. */
  onSaid (way: Way): void
}

/** One way through a tunnel: passes on what comes, at the pace of the one who gets it. */
export class Way {
  readonly from: Socket
  readonly to: Socket
  /** Bytes passed on. */
  bytes = 0
  /** Whether the sender has said that it sends no more. */
  ended = false
  readonly #frames: FrameTracker | null
  readonly #passage: Passage
  /** What is to be said as soon as the sender is not in the middle of a frame. */
  #last: Buffer | null = null
  /** Whether the sender waits for the one who gets it. */
  #waiting = false
  /** Whether the sender is listened to no more, but for its close frame. */
  #silenced = false

  /** @param frames follows what passes, where that is a WebSocket */
  constructor (from: Socket, to: Socket, frames: FrameTracker | null, passage: Passage) {
    this.from = from
    this.to = to
    this.#frames = frames
    this.#passage = passage
  }

  /** Begins, with what has come before. */
  start (early: readonly Buffer[] = []): void {
    const { from } = this
    for (const chunk of early) this.#onData(chunk)
    from.on('data', chunk => this.#onData(chunk))
    from.on('end', () => {
      this.ended = true
      this.#passage.onEnded(this)
    })
    // Chunks that were too much have asked it to wait already.
    if (!this.#waiting) from.resume()
  }

  /** Whether the sender has closed what it says in its own words. */
  get closed (): boolean {
    return this.#frames?.closed === true
  }

  /** Whether that has been said which was to be said in the sender's place. */
  get said (): boolean {
    return this.#silenced
  }

  /** Says something in the sender's place as soon as its present frame is whole, and nothing of the sender's behind it. */
  endWith (last: Buffer): void {
    this.#last = last
    if (this.#frames?.between === true) this.#say()
  }

  #onData (chunk: Buffer): void {
    if (this.#silenced) {
      this.#frames?.follow(chunk)
      if (this.closed) this.#passage.onEnded(this)
      return
    }
    const length = this.#frames?.follow(chunk, this.#last !== null) ?? chunk.length
    this.#pass(length === chunk.length ? chunk : chunk.subarray(0, length))
    if (this.#last !== null && this.#frames?.between === true) {
      this.#say()
      if (length < chunk.length) this.#onData(chunk.subarray(length))
    }
  }

  #pass (chunk: Buffer): void {
    this.bytes += chunk.length
    this.#passage.onPassed()
    if (this.to.write(chunk)) return
    this.from.pause()
    if (this.#waiting) return
    this.#waiting = true
    this.to.once('drain', () => {
      this.#waiting = false
      this.from.resume()
    })
  }

  #say (): void {
    // One that has been closed by its sender is closed already.
    if (!this.closed && this.#last !== null && this.to.writable) this.to.write(this.#last)
    this.#last = null
    this.#silenced = true
    this.#passage.onSaid(this)
  }
}
