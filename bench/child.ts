import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'

/** A process that serves on a port of this machine. */
export interface Served {
  url: string
  /** Microseconds of CPU, user and system, that the process has used so far. */
  cpu (): number | Promise<number>
  /** Ends it; resolves when it is gone. */
  stop (): Promise<void>
}

/** Starts a file of this folder with plain `node`; resolves when it listens. */
export async function startNode (file: string, args: string[], nodeArgs: string[] = []): Promise<Served> {
  // No `execArgv` of ours: what loads TypeScript here would cost time there.
  const child = fork(`${import.meta.dirname}/${file}`, args, { execArgv: nodeArgs })
  const gone = once(child, 'exit')
  const { port } = await message<{ port: number }>(child, file)
  return {
    url: `http://127.0.0.1:${port}`,
    async cpu () {
      child.send('cpu')
      return (await message<{ cpu: number }>(child, file)).cpu
    },
    async stop () {
      // It ends by itself when it has nobody to talk to, also when this process is killed.
      if (child.connected) child.disconnect()
      await gone
    }
  }
}

/** The next message of a child; rejects when it ends instead. */
function message<T> (child: ChildProcess, file: string): Promise<T> {
  return new Promise((resolve, reject) => {
    const onExit = (code: number | null) => reject(new Error(`${file} ended with code ${code}`))
    child.once('exit', onExit)
    child.once('message', message => {
      child.off('exit', onExit)
      resolve(message as T)
    })
  })
}
