import type { NetworkInterfaceInfo } from 'node:os'
import t from 'tap'
import { ipAddress, reachable } from '../../../lib/dns/address.ts'

const addresses = ['10.0.0.1', 'fd00::1', '::1'].map(ipAddress)
const machine = (...own: [address: string, family: 'IPv4' | 'IPv6', internal?: boolean][]) => () => ({ eth0: own.map(([address, family, internal = false]) => ({ address, family, internal }) as NetworkInterfaceInfo) })
const left = (given: string[], ...own: Parameters<typeof machine>) => reachable(given.map(ipAddress), machine(...own)).map(({ address }) => address)

t.test('an address knows its family', t => {
  t.strictSame(addresses.map(({ family }) => family), [4, 6, 6])
  t.end()
})

t.test('IPv6 addresses are left out where this machine has none but its own loopback and link', t => {
  const given = ['10.0.0.1', 'fd00::1', '::1']
  t.strictSame(left(given, ['10.0.0.2', 'IPv4'], ['::1', 'IPv6', true], ['fe80::5', 'IPv6']), ['10.0.0.1', '::1'])
  t.strictSame(left(given, ['10.0.0.2', 'IPv4'], ['fd00::2', 'IPv6']), given)
  t.strictSame(left(['fd00::1'], ['10.0.0.2', 'IPv4']), ['fd00::1'], 'unless there is nothing else')
  t.strictSame(left(['10.0.0.1'], ['fd00::2', 'IPv6']), ['10.0.0.1'])
  t.end()
})
