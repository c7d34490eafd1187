import { once } from 'node:events'
import { WebSocket } from 'ws'
import { startPeer, type Peer } from './peer.ts'
import { median, type Row } from './rows.ts'

const PEERS = ['rockstar', 'http-proxy', 'http-proxy-3']
const CONNECTIONS = 32
const BYTES = 100

/** Messages that go there and back over WebSockets, as fast as each connection gets its own back. */
export async function measureEcho (rounds: number, seconds: number): Promise<Row[]> {
  const backend = await startPeer('echo')
  const peers: { name: string, peer: Peer, sockets: WebSocket[], turns: { cpu: number, rate: number }[] }[] = []
  try {
    for (const name of PEERS) {
      const peer = await startPeer(name, backend.url)
      const sockets = await Promise.all(Array.from({ length: CONNECTIONS }, async () => {
        const socket = new WebSocket(`ws://127.0.0.1:${peer.port}/`, { perMessageDeflate: false })
        await once(socket, 'open')
        return socket
      }))
      peers.push({ name, peer, sockets, turns: [] })
      await press(sockets, 1)
    }
    for (let round = 0; round < rounds; round++) {
      for (const { peer, sockets, turns } of round % 2 === 0 ? peers : peers.toReversed()) {
        const before = await peer.usage()
        const messages = await press(sockets, seconds)
        turns.push({ cpu: ((await peer.usage()).cpu - before.cpu) / messages, rate: messages / seconds })
      }
    }
    return peers.map(({ name, turns }) => ({ name, cpu: median(turns.map(({ cpu }) => cpu)), rate: median(turns.map(({ rate }) => rate)) }))
  } finally {
    for (const { sockets } of peers) for (const socket of sockets) socket.terminate()
    await Promise.all([...peers.map(({ peer }) => peer.stop()), backend.stop()])
  }
}

/** How many messages came back. */
async function press (sockets: WebSocket[], seconds: number): Promise<number> {
  const message = Buffer.alloc(BYTES, 'x')
  let messages = 0
  let over = false
  const done = sockets.map(socket => new Promise<void>(resolve => {
    const onMessage = () => {
      messages++
      if (!over) return socket.send(message)
      socket.off('message', onMessage)
      resolve()
    }
    socket.on('message', onMessage)
    socket.send(message)
  }))
  await new Promise(resolve => setTimeout(resolve, seconds * 1_000))
  over = true
  await Promise.all(done)
  return messages
}
