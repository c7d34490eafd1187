import { connect as connectHttp2, type ClientHttp2Session } from 'node:http2'
import { Pool } from 'undici'
import { startPeer, type Peer } from './peer.ts'
import { median, type Row } from './rows.ts'

interface Contender {
  name: string
  front: 1 | 2
  back: 1 | 2
}

const CONTENDERS: Contender[] = ['rockstar', 'http-proxy'].flatMap(name => [
  { name, front: 1, back: 1 },
  { name: `${name}-http2-front`, front: 2, back: 1 },
  { name: `${name}-http2-back`, front: 1, back: 2 },
  { name: `${name}-http2-both`, front: 2, back: 2 }
] as Contender[]).concat([{ name: 'http-proxy-3', front: 1, back: 1 }, { name: 'http-proxy-3-http2-front', front: 2, back: 1 }])

const CONNECTIONS = 4
const AT_ONCE = 32

/** Small GETs over HTTP/1.1 and HTTP/2, in front and behind. */
export async function measureHttp2 (rounds: number, seconds: number): Promise<Row[]> {
  const backends = { 1: await startPeer('http1-backend'), 2: await startPeer('http2-backend') }
  const peers: { name: string, peer: Peer, client: Client, turns: { cpu: number, rate: number }[] }[] = []
  try {
    for (const { name, front, back } of CONTENDERS) {
      const peer = await startPeer(name, backends[back].url)
      const client = front === 1 ? http1Client(peer.url) : http2Client(peer.url)
      await press(client, 1)
      peers.push({ name, peer, client, turns: [] })
    }
    for (let round = 0; round < rounds; round++) {
      for (const { peer, client, turns } of round % 2 === 0 ? peers : peers.toReversed()) {
        const before = await peer.usage()
        const requests = await press(client, seconds)
        turns.push({ cpu: ((await peer.usage()).cpu - before.cpu) / requests, rate: requests / seconds })
      }
    }
    return peers.map(({ name, turns }) => ({ name, cpu: median(turns.map(({ cpu }) => cpu)), rate: median(turns.map(({ rate }) => rate)) }))
  } finally {
    for (const { client } of peers) client.close()
    await Promise.all([...peers.map(({ peer }) => peer.stop()), backends[1].stop(), backends[2].stop()])
  }
}

interface Client {
  /** Resolves when an answer of 200 has come whole. */
  get (): Promise<void>
  close (): void
}

function http1Client (url: string): Client {
  const pool = new Pool(url, { connections: AT_ONCE })
  return {
    async get () {
      const { statusCode, body } = await pool.request({ path: '/bytes/100', method: 'GET' })
      await body.dump()
      if (statusCode !== 200) throw new Error(`answered ${statusCode}`)
    },
    close: () => { pool.destroy().catch(() => {}) }
  }
}

function http2Client (url: string): Client {
  const sessions: ClientHttp2Session[] = Array.from({ length: CONNECTIONS }, () => connectHttp2(url))
  let turn = 0
  return {
    get: () => new Promise((resolve, reject) => {
      const stream = sessions[turn++ % CONNECTIONS].request({ ':path': '/bytes/100' })
      stream.on('response', ({ ':status': status }) => { if (status !== 200) reject(new Error(`answered ${status}`)) })
      stream.on('error', reject).on('end', resolve).resume()
    }),
    close: () => { for (const session of sessions) session.destroy() }
  }
}

async function press (client: Client, seconds: number): Promise<number> {
  const until = performance.now() + seconds * 1_000
  let requests = 0
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    while (performance.now() < until) {
      await client.get()
      requests++
    }
  }))
  return requests
}
