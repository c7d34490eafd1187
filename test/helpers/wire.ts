import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'
import type { Test } from 'tap'

/** Waits until something holds; fails by the test's own time-out when it never does. */
export async function until (holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise(resolve => setImmediate(resolve))
}

/** A client or backend that sees and sends bytes, nothing else. */
export class Wire {
  readonly socket: Socket
  /** All that has come, as latin1: a character is a byte. */
  received = ''
  ended = false
  closed = false
  error: Error | undefined

  constructor (socket: Socket) {
    this.socket = socket
    socket.on('data', chunk => { this.received += chunk.toString('latin1') })
    socket.on('end', () => { this.ended = true })
    socket.on('error', error => { this.error = error })
    socket.on('close', () => { this.closed = true })
  }

  send (bytes: string | Buffer): this {
    this.socket.write(typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes)
    return this
  }

  /** Resolves to all that has come once `text` is in it, at or behind `from`. */
  async receive (text: string | RegExp, from = 0): Promise<string> {
    await until(() => this.closed || (typeof text === 'string' ? this.received.indexOf(text, from) !== -1 : text.test(this.received.slice(from))))
    return this.received
  }

  /** Resolves to all that has come once the other side has closed. */
  async receiveAll (): Promise<string> {
    await until(() => this.closed)
    return this.received
  }

  /** Resolves to one whole response (by Content-Length, chunks or the end), and leaves the connection open. */
  async response (from = 0, method = 'GET'): Promise<Message> {
    let message: Message | null = null
    await until(() => {
      message = parseMessage(this.received.slice(from), method)
      return message !== null || this.closed || this.ended
    })
    message ??= parseMessage(this.received.slice(from), method, true)
    if (message === null) throw new Error(`the connection closed without a response: ${JSON.stringify(this.received.slice(from))}`)
    return message
  }

  /** Closes with a RST instead of a FIN. */
  reset (): void {
    this.socket.resetAndDestroy()
  }

  close (): void {
    this.socket.destroy()
  }
}

/** A message taken apart: nothing joined, nothing lower-cased. */
export interface Message {
  /** The whole head, without its empty line. */
  head: string
  startLine: string
  /** Fields in the order they came, as `[name, value]`. */
  fields: [string, string][]
  /** The content, chunks taken off. */
  body: string
  trailers: [string, string][]
  chunked: boolean
  /** Bytes of the message. */
  length: number
  /** The status of a response, 0 for a request. */
  status: number
  /** All values of a field, whatever the case of its name. */
  values (name: string): string[]
}

function fieldsOf (lines: string[]): [string, string][] {
  return lines.map(line => {
    const colon = line.indexOf(':')
    return [line.slice(0, colon), line.slice(colon + 1).trim()]
  })
}

/** The first message in `bytes`; null while it is not whole. `closed` lets the end of the bytes end a body. */
export function parseMessage (bytes: string, method = 'GET', closed = false): Message | null {
  const end = bytes.indexOf('\r\n\r\n')
  if (end === -1) return null
  const head = bytes.slice(0, end)
  const [startLine, ...lines] = head.split('\r\n')
  const fields = fieldsOf(lines)
  const values = (name: string) => fields.filter(([key]) => key.toLowerCase() === name.toLowerCase()).map(([, value]) => value)
  const status = startLine.startsWith('HTTP/') ? Number(startLine.split(' ')[1]) : 0
  const at = end + 4
  const message = (body: string, chunked: boolean, length: number, trailers: [string, string][] = []): Message =>
    ({ head, startLine, fields, body, trailers, chunked, length, status, values })
  if (status !== 0 && (method === 'HEAD' || status < 200 || status === 204 || status === 304)) return message('', false, at)
  if (values('transfer-encoding').length > 0) return parseChunks(bytes, at, message)
  const contentLength = values('content-length')[0]
  if (contentLength !== undefined) {
    const length = Number(contentLength)
    return bytes.length >= at + length ? message(bytes.slice(at, at + length), false, at + length) : null
  }
  if (status === 0) return message('', false, at)
  return closed ? message(bytes.slice(at), false, bytes.length) : null
}

function parseChunks (bytes: string, start: number, message: (body: string, chunked: boolean, length: number, trailers: [string, string][]) => Message): Message | null {
  let at = start
  let body = ''
  while (true) {
    const line = bytes.indexOf('\r\n', at)
    if (line === -1) return null
    const size = parseInt(bytes.slice(at, line), 16)
    at = line + 2
    if (size === 0) {
      if (bytes.startsWith('\r\n', at)) return message(body, true, at + 2, [])
      const end = bytes.indexOf('\r\n\r\n', at)
      return end === -1 ? null : message(body, true, end + 4, fieldsOf(bytes.slice(at, end).split('\r\n')))
    }
    if (bytes.length < at + size + 2) return null
    body += bytes.slice(at, at + size)
    at += size + 2
  }
}

/** Connects to a port of this machine. */
export async function connectTo (t: Test, port: number): Promise<Wire> {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true, allowHalfOpen: true })
  const wire = new Wire(socket)
  t.teardown(() => socket.destroy())
  await new Promise<void>((resolve, reject) => socket.once('connect', resolve).once('error', reject))
  return wire
}

/** A backend made of bytes: sees whole requests and answers what a test wants. */
export class RawBackend {
  readonly connections: Wire[] = []
  /** Requests in the order they became whole. */
  readonly requests: Message[] = []
  readonly server: Server
  port = 0

  /**
   * @param onRequest called for each whole request (with its connection); a string it returns is sent
   */
  constructor (onRequest: (request: Message, wire: Wire, backend: RawBackend) => string | Buffer | void) {
    this.server = createServer({ noDelay: true, allowHalfOpen: true }, socket => {
      const wire = new Wire(socket)
      this.connections.push(wire)
      let at = 0
      socket.on('end', () => socket.end())
      socket.on('data', () => {
        while (true) {
          const request = parseMessage(wire.received.slice(at))
          if (request === null) return
          at += request.length
          this.requests.push(request)
          const answer = onRequest(request, wire, this)
          if (answer !== undefined) wire.send(answer)
        }
      })
    })
  }

  get url (): string {
    return `http://127.0.0.1:${this.port}`
  }

  async listen (): Promise<this> {
    await new Promise<void>(resolve => this.server.listen(0, '127.0.0.1', resolve))
    this.port = (this.server.address() as AddressInfo).port
    return this
  }

  close (): void {
    this.server.close()
    for (const { socket } of this.connections) socket.destroy()
  }
}

/** Starts a backend made of bytes, closed with the test. */
export async function rawBackend (t: Test, onRequest: (request: Message, wire: Wire, backend: RawBackend) => string | Buffer | void): Promise<RawBackend> {
  const backend = await new RawBackend(onRequest).listen()
  t.teardown(() => backend.close())
  return backend
}

/** A response as bytes, with its Content-Length. */
export function ok (body = 'ok', headers = '', status = '200 OK'): string {
  return `HTTP/1.1 ${status}\r\n${headers}Content-Length: ${Buffer.byteLength(body, 'latin1')}\r\n\r\n${body}`
}
