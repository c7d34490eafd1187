import { isIP } from 'node:net'
import { networkInterfaces } from 'node:os'

/** One address of a name, in the form in which Node's `lookup` functions give it. */
export interface Address {
  readonly address: string
  readonly family: 4 | 6
}

export function ipAddress (address: string): Address {
  return { address, family: isIP(address) === 6 ? 6 : 4 }
}

/**
 * Leaves out IPv6 addresses where this machine has none to reach them from, as the system does for programs that connect (AI_ADDRCONFIG,
 * RFC 3493, 6.1); never all there are.
 */
export function reachable (addresses: readonly Address[], interfaces: () => ReturnType<typeof networkInterfaces> = networkInterfaces): readonly Address[] {
  const among = addresses.filter(({ address, family }) => family === 4 || address === '::1')
  if (among.length === addresses.length || among.length === 0) return addresses
  const has6 = Object.values(interfaces()).some(list => list?.some(({ family, internal, address }) => family === 'IPv6' && !internal && !address.startsWith('fe80:')) === true)
  return has6 ? addresses : among
}
