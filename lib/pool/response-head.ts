import type { Socket } from 'node:net'

/** Who waits for a response on a connection. */
export interface HeadListener {
  /** Whether the response's final head is still to come. */
  readonly awaitsHead: boolean
  /** Whether content is to wait in the socket. */
  readonly held: boolean
  /** Whether bytes of a response have come. */
  heard: boolean
  /** A `100 Continue` came, which undici would take for an error. */
  onContinue (): void
  /** The first bytes of the final head, the whole status line among them, as they came. */
  onStatusLine (bytes: Buffer): void
}

const DIGIT_1 = 0x31
const DIGIT_0 = 0x30
const LF = 0x0a
const PROTOCOL = Buffer.from('HTTP/')
const HEAD_END = Buffer.from('\r\n\r\n')
/** Length of `HTTP/1.1 100` and what ends it, after which an interim response can be told. */
const STATUS_END = 13
const SPACE = 0x20
const CR = 0x0d
/** Bytes of an unfinished head that are held back at the most; more are left to undici to judge. */
const MAX_HELD = 16_384
const NOTHING: Buffer = Buffer.alloc(0)

/**
 * Looks at the beginning of each response on a socket before undici reads it, for two things that undici does not do:
 * it takes a `100 Continue` for an error, which RFC 9110, 15.2 lets a server send at any time and has a proxy pass on;
 * and it loses the part of a reason phrase that came in an earlier packet. It also is where content is held back:
 * undici's own way to pause fails an assertion, which nobody can catch, when such a response ends with its connection.
 * A connection on which bytes come while nothing was asked is closed: whose they are nobody can tell. All else passes untouched.
 */
export function watchHeads (socket: Socket, listenerNow: () => HeadListener | null, isIdle: () => boolean = () => false): void {
  const { read } = socket
  let held = NOTHING
  /** Whether what is held can be told without further bytes. */
  let ready = false
  /** Whose final head has begun to pass. */
  let passing: HeadListener | null = null

  socket.read = function (size?: number): Buffer | null {
    const listener = listenerNow()
    if (listener?.held === true) return null
    while (true) {
      let bytes = held
      if (!ready) {
        const chunk = read.call(this, size) as Buffer | null
        if (chunk === null) return null
        // undici would pass over an empty line. Without an error: what is just about to be sent goes over another.
        if (listener === null && isIdle()) {
          socket.destroy()
          return null
        }
        bytes = held.length === 0 ? chunk : Buffer.concat([held, chunk])
      }
      held = NOTHING
      ready = false
      if (listener === null || listener === passing || !listener.awaitsHead) return bytes
      listener.heard = true
      const interim = interimLength(bytes)
      if (interim > 0) {
        // One at a time: what is passed on here and what undici passes on stay in order.
        held = bytes.subarray(interim)
        ready = held.length > 0
        if (!isContinue(bytes)) return bytes.subarray(0, interim)
        listener.onContinue()
      } else if (isWholeStatusLine(bytes) || bytes.length > MAX_HELD) {
        passing = listener
        listener.onStatusLine(bytes)
        return bytes
      } else held = bytes
    }
  }
}

/** Length of the whole interim head that `bytes` begin with; 0 when there is none. */
function interimLength (bytes: Buffer): number {
  if (!isInterim(bytes)) return 0
  const end = bytes.indexOf(HEAD_END)
  return end === -1 ? 0 : end + HEAD_END.length
}

/** A 101 is none of them: what comes behind it is of another protocol. */
function isInterim (bytes: Buffer): boolean {
  return bytes.length >= STATUS_END && bytes[9] === DIGIT_1 && (bytes[12] === SPACE || bytes[12] === CR) && !(bytes[10] === DIGIT_0 && bytes[11] === DIGIT_1)
}

function isContinue (bytes: Buffer): boolean {
  return bytes[10] === DIGIT_0 && bytes[11] === DIGIT_0
}

/** Whether the status line of a final head is there, or will never be; an interim head is waited for as a whole. */
function isWholeStatusLine (bytes: Buffer): boolean {
  if (!PROTOCOL.subarray(0, bytes.length).equals(bytes.subarray(0, PROTOCOL.length))) return true
  return !isInterim(bytes) && bytes.includes(LF)
}

/** The reason phrase of a head as its bytes. */
export function reasonPhrase (head: Buffer): string {
  const end = head.indexOf(LF)
  const line = head.toString('latin1', 0, end === -1 ? head.length : end).replace(/\r$/, '')
  return /^HTTP\/\d\.\d \d{3} ?(.*)$/s.exec(line)?.[1] ?? ''
}
