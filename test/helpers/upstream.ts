import { Deadlines } from '../../lib/deadlines.ts'
import { createDnsCache } from '../../lib/dns/index.ts'
import { Events } from '../../lib/events.ts'
import { Telemetry } from '../../lib/telemetry/index.ts'
import { Upstream } from '../../lib/upstream.ts'
import type { UpstreamOptions } from '../../types/index.ts'
import { FakeClock } from './clock.ts'
import { seeded } from './random.ts'

/** An upstream by itself, whose time and chance the test owns. */
export function makeUpstream (options: UpstreamOptions = {}, clock = new FakeClock(), random = seeded(1)): { clock: FakeClock, upstream: Upstream } {
  return { clock, upstream: new Upstream('test', options, { clock, deadlines: new Deadlines(clock), zone: undefined, random, dns: createDnsCache(true, { clock, random }, 'dns'), events: new Events(), telemetry: new Telemetry({}, random, () => undefined as never), find: () => undefined }, 'options') }
}
