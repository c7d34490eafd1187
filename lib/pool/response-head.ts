import type { Socket } from 'node:net'

/** Who waits for a response on a connection. */
export interface HeadListener {
  /** Whether the response's final head is still to come. */
  readonly awaitsHead: boolean
  /** A `100 Continue` came, which undici would take for an error. */
  onContinue (): void
  /** The first bytes of the final head, the whole status line among them, as they came. */
  onStatusLine (bytes: Buffer): void
}

const DIGIT_1 = 0x31
const DIGIT_0 = 0x30
const LF = 0x0a
const HEAD_END = Buffer.from('\r\n\r\n')
/** Length of `HTTP/1.1 100`, after which an interim response can be told. */
const STATUS_END = 12
/** Bytes of an unfinished head that are held back at the most; more are left to undici to judge. */
const MAX_HELD = 16_384
const NOTHING: Buffer = Buffer.alloc(0)

/**
 * Looks at the beginning of each response on a socket before undici reads it, for two things that undici does not do:
 * it takes a `100 Continue` for an error, which RFC 9110, 15.2 lets a server send at any time and has a proxy pass on;
 * and it loses the part of a reason phrase that came in an earlier packet. All else passes untouched.
 */
export function watchHeads (socket: Socket, listenerNow: () => HeadListener | null): void {
  const { read } = socket
  let held = NOTHING
  /** Whose final head has begun to pass. */
  let passing: HeadListener | null = null

  socket.read = function (size?: number): Buffer | null {
    while (true) {
      const chunk = read.call(this, size) as Buffer | null
      if (chunk === null) return null
      const listener = listenerNow()
      if (listener === null || listener === passing || !listener.awaitsHead) return chunk
      const bytes = held.length === 0 ? chunk : Buffer.concat([held, chunk])
      held = NOTHING
      const kept: Buffer[] = []
      const at = takeInterims(bytes, kept, listener)
      const rest = at === 0 ? bytes : bytes.subarray(at)
      if (rest.length > 0) {
        if (isWholeStatusLine(rest) || rest.length > MAX_HELD) {
          passing = listener
          listener.onStatusLine(rest)
          kept.push(rest)
        } else held = rest
      }
      if (kept.length > 0) return kept.length === 1 ? kept[0] : Buffer.concat(kept)
    }
  }
}

/** Walks the interim heads at the beginning and keeps all that are no 100; returns where what is left begins. */
function takeInterims (bytes: Buffer, kept: Buffer[], listener: HeadListener): number {
  let at = 0
  while (bytes.length - at >= STATUS_END && bytes[at + 9] === DIGIT_1) {
    const headEnd = bytes.indexOf(HEAD_END, at)
    if (headEnd === -1) break
    const next = headEnd + HEAD_END.length
    if (bytes[at + 10] === DIGIT_0 && bytes[at + 11] === DIGIT_0) listener.onContinue()
    else kept.push(bytes.subarray(at, next))
    at = next
  }
  return at
}

/** Whether the status line of a final head is there; an interim head is waited for as a whole. */
function isWholeStatusLine (bytes: Buffer): boolean {
  const isInterim = bytes.length >= STATUS_END && bytes[9] === DIGIT_1
  return !isInterim && bytes.includes(LF)
}

/** The reason phrase of a head as its bytes. */
export function reasonPhrase (head: Buffer): string {
  const end = head.indexOf(LF)
  const line = head.toString('latin1', 0, end === -1 ? head.length : end).replace(/\r$/, '')
  return /^HTTP\/\d\.\d \d{3} ?(.*)$/s.exec(line)?.[1] ?? ''
}
