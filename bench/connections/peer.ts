import { fork } from 'node:child_process'
import { once } from 'node:events'

/** What a process has used so far: microseconds, bytes. */
export interface Usage {
  cpu: number
  heap: number
  rss: number
}

/** One of `peers.mjs`, in a process of its own. */
export interface Peer {
  port: number
  url: string
  usage (): Promise<Usage>
  stop (): Promise<void>
}

/** Starts one; resolves when it listens. */
export async function startPeer (kind: string, backend = '', execArgv: string[] = []): Promise<Peer> {
  const child = fork(`${import.meta.dirname}/peers.mjs`, [kind, backend], { execArgv })
  const gone = once(child, 'exit')
  const [{ port }] = await Promise.race([
    once(child, 'message') as Promise<[{ port: number }]>,
    gone.then(([code]) => { throw new Error(`${kind} ended with code ${code}`) })
  ])
  return {
    port,
    url: `http://127.0.0.1:${port}`,
    async usage () {
      child.send('usage')
      return (await once(child, 'message'))[0] as Usage
    },
    async stop () {
      if (child.connected) child.disconnect()
      await gone
    }
  }
}
