import { connect } from 'node:net'
import { failed, passed, type Check } from './check.ts'

/** Passes when a connection is accepted. */
export function tcpCheck (host: string, port: number): Check {
  const socket = connect({ host, port })
  const result = new Promise<ReturnType<typeof passed>>(resolve => {
    socket.once('connect', () => resolve(passed()))
    socket.on('error', error => resolve(failed(error)))
    socket.once('close', () => resolve(failed('the connection was closed')))
  }).finally(() => socket.destroy())
  return { result, cancel: () => { socket.destroy() } }
}
