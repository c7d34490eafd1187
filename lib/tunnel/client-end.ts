import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'

/** Bytes that are read of a client before its tunnel is there; more wait in its connection. */
const MOST_EARLY = 65_536

/** What Node has handed over with a request. */
interface Offered {
  socket: Socket
  head: Buffer
}

const offered = new WeakMap<IncomingMessage, Offered>()
const ends = new WeakMap<IncomingMessage, ClientEnd>()

/** The connection of a client that asks for another protocol, while a backend is asked for it. */
export class ClientEnd {
  /** What it would have its connection become, in lower case and in its own order. */
  readonly protocols: readonly string[]
  readonly socket: Socket
  #early: Buffer[] = []
  #bytes = 0
  readonly #read = (): void => this.#onReadable()
  readonly #left = (): void => { this.socket.destroy() }
  readonly #failed = (): void => {}

  /** @param head what has come behind the request already */
  constructor (request: IncomingMessage, socket: Socket, head: Buffer) {
    this.protocols = protocolsOf(request)
    this.socket = socket
    if (head.length > 0) this.#keep(head)
    // Node has let go of it: nobody else listens.
    socket.on('error', this.#failed)
    // Who hangs up now has not waited for an answer.
    socket.on('end', this.#left)
    socket.on('readable', this.#read)
  }

  /** What came before there was a tunnel. From now on the connection is the caller's to read. */
  take (): Buffer[] {
    this.socket.off('readable', this.#read).off('end', this.#left).off('error', this.#failed)
    const early = this.#early
    this.#early = []
    return early
  }

  /** Nobody wants what comes any more: it is read only so that the client gets to read its answer, which unread bytes would take away. */
  ignore (): void {
    this.#early = []
    this.socket.off('readable', this.#read).off('end', this.#left).resume()
  }

  #onReadable (): void {
    while (this.#bytes < MOST_EARLY) {
      const chunk = this.socket.read() as Buffer | null
      if (chunk === null) return
      this.#keep(chunk)
    }
  }

  #keep (chunk: Buffer): void {
    this.#early.push(chunk)
    this.#bytes += chunk.length
  }
}

/** Has a request count as one whose client waits for a tunnel: for one that is only asked about. */
export function expectTunnel (request: IncomingMessage): ClientEnd {
  Object.assign(request, { upgrade: true })
  return takeEnd(request, request.socket, Buffer.alloc(0))
}

/** Takes the connection of a request that Node has let go of. @param head what has come behind the request already */
export function takeEnd (request: IncomingMessage, socket: Socket, head: Buffer): ClientEnd {
  const end = new ClientEnd(request, socket, head)
  ends.set(request, end)
  return end
}

/** Notes the connection of a request, and leaves it alone: somebody else may want it. */
export function offerEnd (request: IncomingMessage, socket: Socket, head: Buffer): void {
  offered.set(request, { socket, head })
}

/** The connection of a request that asks for another protocol, taken at the latest now; `undefined` for any other request. */
export function clientEndOf (request: IncomingMessage): ClientEnd | undefined {
  const known = ends.get(request)
  if (known !== undefined) return known
  const { socket, head } = offered.get(request) ?? {}
  return socket === undefined || head === undefined ? undefined : takeEnd(request, socket, head)
}

/** RFC 9110, 7.8. */
export function protocolsOf ({ headers: { upgrade = '' } }: IncomingMessage): string[] {
  return upgrade.split(',').map(protocol => protocol.trim().toLowerCase()).filter(protocol => protocol !== '')
}
