import type { Socket } from 'node:net'

/**
 * Tells of every address that a socket tries in vain, also where another takes its place.
 * @returns what is to be called when that is over, with the error if there is one
 */
export function watchConnect (socket: Socket, failed: (address?: string) => void): (error: Error | null) => void {
  let trying: string | undefined
  let told = false
  const onAttempt = (address: string) => {
    trying = address
    told = false
  }
  const onFailed = (address: string) => {
    told = true
    failed(address)
  }
  socket.on('connectionAttempt', onAttempt).on('connectionAttemptFailed', onFailed).on('connectionAttemptTimeout', onFailed)
  return error => {
    socket.off('connectionAttempt', onAttempt).off('connectionAttemptFailed', onFailed).off('connectionAttemptTimeout', onFailed)
    // What we have given up ourselves has no code.
    if (error !== null && !told && 'code' in error) failed(trying)
  }
}
