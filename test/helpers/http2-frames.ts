import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import type { Test } from 'tap'
import { until } from './wire.ts'

/** Types of frames. RFC 9113, 6. */
export const DATA = 0
export const HEADERS = 1
export const RST_STREAM = 3
export const SETTINGS = 4
export const PING = 6
export const GOAWAY = 7
export const WINDOW_UPDATE = 8

export const END_STREAM = 1
export const ACK = 1
export const END_HEADERS = 4

/** Settings. RFC 9113, 6.5.2. */
export const MAX_CONCURRENT_STREAMS = 3
export const INITIAL_WINDOW_SIZE = 4

export const NO_ERROR = 0
export const PROTOCOL_ERROR = 1
export const INTERNAL_ERROR = 2
export const REFUSED_STREAM = 7
export const CANCEL = 8
export const ENHANCE_YOUR_CALM = 11

const PREFACE = 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'

export interface Frame {
  type: number
  flags: number
  id: number
  payload: Buffer
}

/** A frame as bytes. */
export function frame (type: number, flags: number, id: number, payload: Buffer | string = ''): Buffer {
  const bytes = Buffer.from(payload as string, 'latin1')
  const head = Buffer.alloc(9)
  head.writeUIntBE(bytes.length, 0, 3)
  head[3] = type
  head[4] = flags
  head.writeUInt32BE(id, 5)
  return Buffer.concat([head, bytes])
}

export function uint32 (...numbers: number[]): Buffer {
  const bytes = Buffer.alloc(4 * numbers.length)
  numbers.forEach((number, i) => bytes.writeUInt32BE(number, 4 * i))
  return bytes
}

/** Fields in HPACK, each spelt out and none remembered. RFC 7541, 6.2.2. */
export function fields (...pairs: [name: string, value: string][]): Buffer {
  return Buffer.concat(pairs.flatMap(([name, value]) => [Buffer.from([0]), text(name), text(value)]))
}

function text (value: string): Buffer {
  const bytes = Buffer.from(value, 'latin1')
  const length: number[] = []
  if (bytes.length < 127) length.push(bytes.length)
  else {
    length.push(127)
    let rest = bytes.length - 127
    for (; rest >= 128; rest >>= 7) length.push((rest & 127) | 128)
    length.push(rest)
  }
  return Buffer.concat([Buffer.from(length), bytes])
}

/** A head of an answer. */
export function head (id: number, status: number | string, more: [name: string, value: string][] = [], flags = END_HEADERS): Buffer {
  return frame(HEADERS, flags | END_HEADERS, id, fields([':status', String(status)], ...more))
}

export function data (id: number, content: string | Buffer, flags = 0): Buffer {
  return frame(DATA, flags, id, content)
}

export function reset (id: number, code: number): Buffer {
  return frame(RST_STREAM, 0, id, uint32(code))
}

export function goaway (last: number, code = NO_ERROR): Buffer {
  return frame(GOAWAY, 0, 0, uint32(last, code))
}

export function settings (...pairs: [id: number, value: number][]): Buffer {
  return frame(SETTINGS, 0, 0, Buffer.concat(pairs.map(([id, value]) => Buffer.concat([Buffer.from([0, id]), uint32(value)]))))
}

/** How a peer behaves by itself. */
export interface PeerOptions {
  /** What its preface says. */
  settings?: [id: number, value: number][]
  /** Whether it acknowledges PINGs. */
  answersPings?: boolean
  /** Whether it gives windows back as content comes. */
  reads?: boolean
  /** Whether it sends a preface at all. */
  greets?: boolean
}

/** One end of an HTTP/2 connection, frame by frame. */
export class FramePeer {
  readonly socket: Socket
  /** All that have come, but for acknowledgements. */
  readonly frames: Frame[] = []
  closed = false
  ended = false
  /** Whether the peer has acknowledged our settings. */
  acknowledged = false
  readonly options: PeerOptions
  #rest = Buffer.alloc(0)
  #preface: number

  constructor (socket: Socket, options: PeerOptions, onFrame: (frame: Frame, peer: FramePeer) => void, client = false) {
    this.socket = socket
    this.options = options
    this.#preface = client ? 0 : PREFACE.length
    socket.on('error', () => {}).on('close', () => { this.closed = true }).on('end', () => { this.ended = true })
    if (client) socket.write(PREFACE)
    if (options.greets !== false) socket.write(settings(...options.settings ?? []))
    socket.on('data', chunk => {
      this.#rest = Buffer.concat([this.#rest, chunk as Buffer])
      if (this.#rest.length < this.#preface) return
      this.#rest = this.#rest.subarray(this.#preface)
      this.#preface = 0
      while (true) {
        const length = this.#rest.length < 9 ? Infinity : this.#rest.readUIntBE(0, 3)
        if (this.#rest.length < 9 + length) return
        const came: Frame = { type: this.#rest[3], flags: this.#rest[4], id: this.#rest.readUInt32BE(5), payload: Buffer.from(this.#rest.subarray(9, 9 + length)) }
        this.#rest = this.#rest.subarray(9 + length)
        this.#take(came, onFrame)
      }
    })
  }

  send (...bytes: Buffer[]): this {
    if (!this.socket.destroyed) this.socket.write(Buffer.concat(bytes))
    return this
  }

  /** Those of a type that have come, of one stream or of all. */
  of (type: number, id?: number): Frame[] {
    return this.frames.filter(frame => frame.type === type && (id === undefined || frame.id === id))
  }

  /** Streams that have been opened, in order. */
  get streams (): number[] {
    return this.of(HEADERS).map(({ id }) => id).filter((id, i, all) => all.indexOf(id) === i)
  }

  /** Content of a stream so far. */
  content (id: number): string {
    return Buffer.concat(this.of(DATA, id).map(({ payload }) => payload)).toString('latin1')
  }

  /** Whether the other side has said that a stream is whole. */
  whole (id: number): boolean {
    return this.frames.some(({ type, flags, id: of }) => of === id && (type === DATA || type === HEADERS) && (flags & END_STREAM) !== 0)
  }

  /** The code that a stream was reset with; `undefined` where it was not. */
  resetCode (id: number): number | undefined {
    return this.of(RST_STREAM, id)[0]?.payload.readUInt32BE(0)
  }

  #take (came: Frame, onFrame: (frame: Frame, peer: FramePeer) => void): void {
    const { type, flags, id, payload } = came
    const { answersPings = true, reads = true } = this.options
    if (type === SETTINGS && (flags & ACK) !== 0) {
      this.acknowledged = true
      return
    }
    if (type === PING && (flags & ACK) !== 0) return
    this.frames.push(came)
    if (type === SETTINGS && this.options.greets !== false) this.send(frame(SETTINGS, ACK, 0))
    // RFC 9113, 5.4.1: who hears of an error closes as well.
    if (type === GOAWAY && payload.readUInt32BE(4) !== NO_ERROR) this.socket.end()
    if (type === PING && answersPings) this.send(frame(PING, ACK, 0, payload))
    if (type === DATA && reads && payload.length > 0) this.send(frame(WINDOW_UPDATE, 0, 0, uint32(payload.length)), frame(WINDOW_UPDATE, 0, id, uint32(payload.length)))
    onFrame(came, this)
  }
}

/** A backend that speaks HTTP/2 frame by frame. */
export interface FrameBackend {
  url: string
  port: number
  server: Server
  /** Its connections, in the order they came. */
  peers: FramePeer[]
  /** All streams of all connections, in the order they were opened. */
  streams: { peer: FramePeer, id: number }[]
}

/** Starts one, closed with the test. @param onRequest called for each head of a request */
export async function frameBackend (t: Test, onRequest: (peer: FramePeer, id: number, nth: number) => void = () => {}, options: PeerOptions = {}): Promise<FrameBackend> {
  const server = createServer({ noDelay: true }, socket => {
    backend.peers.push(new FramePeer(socket, options, ({ type, id }, peer) => {
      if (type !== HEADERS || backend.streams.some(stream => stream.peer === peer && stream.id === id)) return
      backend.streams.push({ peer, id })
      onRequest(peer, id, backend.streams.length - 1)
    }))
  })
  const backend: FrameBackend = { url: '', port: 0, server, peers: [], streams: [] }
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    server.close()
    for (const { socket } of backend.peers) socket.destroy()
  })
  backend.port = (server.address() as AddressInfo).port
  backend.url = `http://127.0.0.1:${backend.port}`
  return backend
}

/** Connects to a port of this machine and speaks HTTP/2 frame by frame. */
export async function frameClient (t: Test, port: number, options: PeerOptions = {}): Promise<FramePeer> {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true })
  t.teardown(() => socket.destroy())
  await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject))
  const peer = new FramePeer(socket, options, () => {}, true)
  await until(() => peer.of(SETTINGS).length > 0)
  return peer
}
