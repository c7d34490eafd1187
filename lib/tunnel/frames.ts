import { randomBytes } from 'node:crypto'

const CLOSE = 0x8
const MASKED = 0x80
/** "Going away", for an endpoint that shuts down. RFC 6455, 7.4.1. */
const GOING_AWAY = 1001

/** Follows the frames that pass one way through a WebSocket, to know where one ends. RFC 6455, 5.2. */
export class FrameTracker {
  /** Whether a close frame has begun to pass: nothing may come behind it. */
  closed = false
  /** Bytes of the present frame's payload that are still to come. */
  #payload = 0
  /** Bytes of the present frame's head that have come, and how many it has as far as is known. */
  #at = 0
  #size = 2
  /** What its head says of the payload's length, and where it has said it. */
  #length = 0
  #lengthEnd = 2

  /** Whether the last frame is whole. */
  get between (): boolean {
    return this.#payload === 0 && this.#at === 0
  }

  /** Follows bytes; with `stop` only as far as the next end of a frame. Returns how many it has followed. */
  follow (bytes: Buffer, stop = false): number {
    let at = 0
    while (at < bytes.length) {
      if (stop && this.between) break
      if (this.#payload > 0) {
        const step = Math.min(this.#payload, bytes.length - at)
        this.#payload -= step
        at += step
      } else this.#head(bytes[at++])
    }
    return at
  }

  #head (byte: number): void {
    const index = this.#at++
    if (index === 0) this.closed ||= (byte & 0xf) === CLOSE
    else if (index === 1) {
      const length = byte & 0x7f
      const extra = length === 126 ? 2 : length === 127 ? 8 : 0
      this.#lengthEnd = 2 + extra
      this.#length = extra === 0 ? length : 0
      this.#size = this.#lengthEnd + ((byte & MASKED) === 0 ? 0 : 4)
    } else if (index < this.#lengthEnd) this.#length = this.#length * 256 + byte
    if (this.#at < this.#size) return
    this.#payload = this.#length
    this.#at = 0
    this.#size = 2
  }
}

/** A close frame that says "going away". @param masked for a server, to whom only masked frames may be sent (RFC 6455, 5.1) */
export function goingAway (masked: boolean): Buffer {
  const code = Buffer.alloc(2)
  code.writeUInt16BE(GOING_AWAY)
  const first = 0x80 | CLOSE
  if (!masked) return Buffer.from([first, code.length, ...code])
  const key = randomBytes(4)
  return Buffer.from([first, MASKED | code.length, ...key, ...code.map((byte, i) => byte ^ key[i])])
}
