import { once } from 'node:events'
import { connect, createServer, type AddressInfo } from 'node:net'

/** A port of 127.0.0.1 on which nobody listens, and that the system has just given and taken back. */
export async function freePort (): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** Waits until a server listens on a port of 127.0.0.1; false where it has ended before. @param gone whether it has ended */
export async function listens (port: number, gone: () => boolean): Promise<boolean> {
  while (!gone()) {
    if (await accepts(port)) return true
    // Other processes say nothing when they begin to listen.
    await new Promise(resolve => setTimeout(resolve, 10))
  }
  return false
}

/** Whether somebody listens on a port of 127.0.0.1 now. */
export async function accepts (port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1')
  const connected = await new Promise<boolean>(resolve => {
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false))
  })
  socket.destroy()
  return connected
}
