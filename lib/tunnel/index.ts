export { clientEndOf, expectTunnel, type ClientEnd } from './client-end.ts'
export { routeUpgrades } from './route-upgrades.ts'
export { Tunnel } from './tunnel.ts'
export { Tunnels } from './tunnels.ts'
