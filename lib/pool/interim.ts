import type { Socket } from 'node:net'

/** Who waits for a response on a connection. */
export interface InterimListener {
  /** Whether the next bytes on the connection begin a response. */
  awaitsHead: boolean
  /** A `100 Continue` came, which undici would take for an error. */
  onContinue (): void
}

const DIGIT_1 = 0x31
const DIGIT_0 = 0x30
const HEAD_END = Buffer.from('\r\n\r\n')
/** Length of `HTTP/1.1 100`, after which an interim response can be told. */
const STATUS_END = 12
/** Bytes of an unfinished interim head that are held back at the most; more are left to undici to judge. */
const MAX_HELD = 16_384
const EMPTY: Buffer = Buffer.alloc(0)

/**
 * Takes `100 Continue` out of what a socket reads while a response is awaited. RFC 9110, 15.2 lets a server send
 * one at any time and has a proxy pass it on; undici closes the connection on it.
 */
export function filterContinue (socket: Socket, listener: () => InterimListener | null): void {
  const { read } = socket
  let held = EMPTY
  socket.read = function (size?: number): Buffer | null {
    while (true) {
      const chunk = read.call(this, size) as Buffer | null
      if (chunk === null) return null
      const waiting = listener()
      if (waiting === null || !waiting.awaitsHead) return chunk
      // The first digit of the status: all but 1xx pass at once.
      if (held.length === 0 && chunk.length >= STATUS_END && chunk[9] !== DIGIT_1) return chunk
      const bytes = held.length === 0 ? chunk : Buffer.concat([held, chunk])
      const kept: Buffer[] = []
      const at = takeInterims(bytes, kept, waiting)
      held = at === -1 ? EMPTY : bytes.subarray(at)
      if (at === -1 || held.length > MAX_HELD) {
        kept.push(held)
        held = EMPTY
      }
      if (kept.length > 0) return Buffer.concat(kept)
    }
  }
}

/**
 * Walks the interim heads at the beginning of `bytes` and keeps all that are no 100.
 * @returns where the bytes begin that cannot be told yet; -1 when all could be
 */
function takeInterims (bytes: Buffer, kept: Buffer[], waiting: InterimListener): number {
  let at = 0
  while (at < bytes.length) {
    if (bytes.length - at < STATUS_END) return at
    if (bytes[at + 9] !== DIGIT_1) break
    const headEnd = bytes.indexOf(HEAD_END, at)
    if (headEnd === -1) return at
    const next = headEnd + HEAD_END.length
    if (bytes[at + 10] === DIGIT_0 && bytes[at + 11] === DIGIT_0) waiting.onContinue()
    else kept.push(bytes.subarray(at, next))
    at = next
  }
  if (at < bytes.length) kept.push(bytes.subarray(at))
  return -1
}
