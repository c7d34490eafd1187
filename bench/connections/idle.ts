import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { startPeer, type Peer } from './peer.ts'

/** What open connections that do nothing cost: bytes for each. */
export interface IdleRow {
  name: string
  connections: number
  heap: number
  rss: number
}

const HANDSHAKE = 'GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n'
const GET = 'GET / HTTP/1.1\r\nHost: a\r\n\r\n'
/** Connections that are made at the same time. */
const AT_ONCE = 50

/** Opens so many WebSockets, or connections that have had one answer each, and leaves them alone. */
export async function measureIdle (tunnels: number, clients: number): Promise<IdleRow[]> {
  const rows: IdleRow[] = []
  for (const [what, count, request] of [['WebSockets', tunnels, HANDSHAKE], ['clients', clients, GET]] as const) {
    for (const name of ['bare', 'rockstar', 'http-proxy', 'http-proxy-3']) {
      const backend = await startPeer(what === 'clients' ? 'http1-backend' : 'echo')
      const peer = await startPeer(name, backend.url, ['--expose-gc'])
      try {
        rows.push({ name: `${count} ${what}, ${name}`, ...await cost(peer, count, request) })
      } finally {
        await Promise.all([peer.stop(), backend.stop()])
      }
    }
  }
  return rows
}

async function cost (peer: Peer, count: number, request: string): Promise<Omit<IdleRow, 'name'>> {
  // What is made once is not what each costs.
  for (const socket of await open(peer.port, 100, request)) socket.destroy()
  await new Promise(resolve => setTimeout(resolve, 500))
  const before = await peer.usage()
  const sockets = await open(peer.port, count, request)
  await new Promise(resolve => setTimeout(resolve, 500))
  await peer.usage()
  const after = await peer.usage()
  for (const socket of sockets) socket.destroy()
  return { connections: count, heap: (after.heap - before.heap) / count, rss: (after.rss - before.rss) / count }
}

async function open (port: number, count: number, request: string): Promise<Socket[]> {
  const sockets: Socket[] = []
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    while (sockets.length < count) {
      const socket = connect(port, '127.0.0.1')
      sockets.push(socket)
      socket.on('error', () => {})
      socket.write(request)
      const [data] = await once(socket, 'data') as [Buffer]
      if (!/^HTTP\/1.1 (?:101|200)/.test(data.toString('latin1'))) throw new Error(`answered ${data.toString('latin1').slice(0, 60)}`)
    }
  }))
  return sockets
}
