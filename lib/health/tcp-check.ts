import type { Connector } from '../pool/index.ts'
import { failed, passed, type Check, type CheckResult } from './check.ts'

/** Passes when a connection is accepted. */
export function tcpCheck (connector: Connector): Check {
  let cancel!: () => void
  const result = new Promise<CheckResult>(resolve => {
    const socket = connector.connectPlain(error => {
      socket.destroy()
      resolve(error === null ? passed() : failed(error))
    })
    cancel = () => { socket.destroy() }
  })
  return { result, cancel }
}
