import { createServer, type AddressInfo } from 'node:net'
import { createServer as createTlsServer, type TlsOptions } from 'node:tls'
import type { Test } from 'tap'
import type { RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type Gateway, type GatewaySetup } from './app.ts'
import { parseMessage, until, Wire, type Message } from './wire.ts'

/** One end of a tunnel: a connection, and what has come behind its HTTP part. */
export class End {
  readonly wire: Wire
  /** Where the other protocol begins in what has come. */
  readonly at: number

  constructor (wire: Wire, at: number) {
    this.wire = wire
    this.at = at
  }

  /** What has come through the tunnel, as latin1. */
  get heard (): string {
    return this.wire.received.slice(this.at)
  }

  say (bytes: string | Buffer): this {
    this.wire.send(bytes)
    return this
  }

  /** Resolves when all of that has come, and nothing else. */
  async hears (bytes: string): Promise<void> {
    await until(() => this.heard.length >= bytes.length || this.wire.closed)
    if (this.heard !== bytes) throw new Error(`heard ${JSON.stringify(this.heard.slice(0, 200))} (${this.heard.length} bytes) instead of ${JSON.stringify(bytes.slice(0, 200))} (${bytes.length} bytes)`)
  }
}

/** What a backend does when it is asked: a string that it returns is sent, and a 101 makes its connection an `End`. */
export type Asked = (request: Message, wire: Wire, backend: SwitchingBackend) => string | Buffer | void

/** A backend made of bytes that may switch protocols: it reads one head a connection, or more until it has. */
export class SwitchingBackend {
  /** All requests, in the order they came. */
  readonly requests: Message[] = []
  readonly connections: Wire[] = []
  /** Those that have been switched, in the order that happened. */
  readonly ends: End[] = []
  port = 0
  readonly #server
  readonly #asked: Asked
  readonly #scheme: string

  constructor (asked: Asked, tls?: TlsOptions) {
    this.#asked = asked
    this.#scheme = tls === undefined ? 'http' : 'https'
    this.#server = tls === undefined ? createServer({ noDelay: true, allowHalfOpen: true }, socket => this.#serve(new Wire(socket))) : createTlsServer({ allowHalfOpen: true, ...tls }, socket => this.#serve(new Wire(socket)))
  }

  get url (): string {
    return `${this.#scheme}://127.0.0.1:${this.port}`
  }

  /** All bytes that have ever come. */
  get bytes (): string {
    return this.connections.map(({ received }) => received).join('')
  }

  async listen (): Promise<this> {
    await new Promise<void>(resolve => this.#server.listen(0, '127.0.0.1', resolve))
    this.port = (this.#server.address() as AddressInfo).port
    return this
  }

  /** Resolves to the end of the tunnel of that number, once it is there. */
  async end (index = 0): Promise<End> {
    await until(() => this.ends.length > index)
    return this.ends[index]
  }

  /** Switches a connection that has not been answered yet. */
  accept (wire: Wire, head = switching()): End {
    const end = new End(wire, wire.received.length)
    this.ends.push(end)
    wire.send(head)
    return end
  }

  close (): void {
    this.#server.close()
    for (const { socket } of this.connections) socket.destroy()
  }

  #serve (wire: Wire): void {
    this.connections.push(wire)
    let at = 0
    let switched = false
    wire.socket.on('end', () => { if (!switched) wire.socket.end() })
    wire.socket.on('data', () => {
      while (!switched) {
        const request = parseMessage(wire.received.slice(at))
        if (request === null) return
        at += request.length
        this.requests.push(request)
        const known = this.ends.length
        const answer = this.#asked(request, wire, this)
        if (this.ends.length > known) switched = true
        if (answer === undefined) continue
        if (String(answer).startsWith('HTTP/1.1 101')) {
          switched = true
          this.ends.push(new End(wire, at))
        }
        wire.send(answer)
      }
    })
  }
}

/** Starts a backend that switches protocols, closed with the test. */
export async function switchingBackend (t: Test, asked: Asked = () => switching(), tls?: TlsOptions): Promise<SwitchingBackend> {
  const backend = await new SwitchingBackend(asked, tls).listen()
  t.teardown(() => backend.close())
  return backend
}

/** The head with which a backend switches. */
export function switching (protocol = 'websocket', fields = ''): string {
  return `HTTP/1.1 101 Switching Protocols\r\nUpgrade: ${protocol}\r\nConnection: Upgrade\r\n${fields}\r\n`
}

/** The head with which a client asks for another protocol. @param fields whole lines */
export function handshake (path = '/', fields = '', protocol = 'websocket', method = 'GET'): string {
  const websocket = protocol === 'websocket' ? 'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n' : ''
  return `${method} ${path} HTTP/1.1\r\nHost: gateway\r\nUpgrade: ${protocol}\r\nConnection: Upgrade\r\n${websocket}${fields}\r\n`
}

/** A gateway in front of one backend `a` that switches protocols. */
export interface TunnelRig {
  backend: SwitchingBackend
  gateway: Gateway
  proxy: Gateway['app']['proxy']
  /** Opens a tunnel; resolves to its two ends and the head that the client has got. */
  open (bytes?: string): Promise<{ client: End, server: End, head: Message }>
}

export async function tunnelRig (t: Test, options: RockstarProxyOptions = {}, setup: GatewaySetup & { asked?: Asked } = {}): Promise<TunnelRig> {
  const backend = await switchingBackend(t, setup.asked)
  const gateway = await startGateway(t, { backends: [{ id: 'a', url: backend.url }], routes: [{ prefix: '/' }], ...options }, setup)
  const { proxy } = gateway.app
  const open = async (bytes = handshake()) => {
    const known = backend.ends.length
    const wire = await gateway.connect()
    wire.send(bytes)
    const head = await wire.response()
    if (head.status !== 101) throw new Error(`no tunnel: ${head.head}\r\n\r\n${head.body}`)
    return { client: new End(wire, head.length), server: await backend.end(known), head }
  }
  return { backend, gateway, proxy, open }
}

/** Resolves when nothing is left of tunnels and requests: not in the counts, not in the pool. */
export async function nothingLeft (t: Test, { app }: Gateway): Promise<void> {
  const { proxy } = app
  await until(() => proxy.getMetrics().inFlight === 0 && proxy.getMetrics().tunnels.open === 0)
  await until(() => proxy.getConnectionPool().stats().active === 0)
  for (const upstream of proxy.listUpstreams()) {
    t.equal(upstream.getMetrics().inFlight, 0)
    for (const backend of upstream.listBackends()) t.equal(backend.inFlight, 0, `${backend.id} has nothing under way`)
  }
  const { state } = proxy as unknown as { state: { deadlines: { size: number } } }
  await until(() => state.deadlines.size === 0)
}
