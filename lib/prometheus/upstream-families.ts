import { flag, type Family } from './family.ts'
import type { UpstreamSource } from './sources.ts'

/** What is known of an upstream. Its series have the label `upstream`. */
export const UPSTREAM_FAMILIES: readonly Family<UpstreamSource>[] = [
  {
    name: 'rockstar_proxy_requests_total',
    type: 'counter',
    help: 'Requests of clients that have ended: successful with a whole answer below 500, failed, or aborted because the client went away.',
    label: 'outcome',
    read: ({ state: { counters } }, tell) => {
      tell(counters.successful, 'successful')
      tell(counters.failed, 'failed')
      tell(counters.aborted, 'aborted')
    }
  },
  {
    name: 'rockstar_proxy_requests_in_flight',
    type: 'gauge',
    help: 'Requests of clients under way, those that wait to be let in included.',
    read: ({ state }, tell) => tell(state.counters.inFlight)
  },
  {
    name: 'rockstar_proxy_request_duration_seconds',
    type: 'histogram',
    help: 'Time from a request to the end of its answer, queue and all attempts included; aborted ones do not count.',
    histogramOf: ({ state }) => state.counters.times
  },
  {
    name: 'rockstar_proxy_retries_total',
    type: 'counter',
    help: 'Attempts made again after a failure.',
    read: ({ state }, tell) => tell(state.tallies.retries)
  },
  {
    name: 'rockstar_proxy_retries_denied_total',
    type: 'counter',
    help: 'Retries that were not made because the retry budget was used up.',
    read: ({ state }, tell) => tell(state.tallies.retriesDenied)
  },
  {
    name: 'rockstar_proxy_hedges_total',
    type: 'counter',
    help: 'Second attempts made because the first took long.',
    read: ({ state }, tell) => tell(state.tallies.hedges)
  },
  {
    name: 'rockstar_proxy_hedges_won_total',
    type: 'counter',
    help: 'Second attempts whose answer was used.',
    read: ({ state }, tell) => tell(state.tallies.hedgesWon)
  },
  {
    name: 'rockstar_proxy_queue_length',
    type: 'gauge',
    help: 'Requests that wait to be let in.',
    read: ({ state }, tell) => tell(state.admission?.queueLength ?? 0)
  },
  {
    name: 'rockstar_proxy_requests_queued_total',
    type: 'counter',
    help: 'Requests that had to wait to be let in.',
    read: ({ state }, tell) => tell(state.tallies.queued)
  },
  {
    name: 'rockstar_proxy_requests_shed_total',
    type: 'counter',
    help: 'Requests refused by limits, at once or after waiting.',
    read: ({ state }, tell) => tell(state.tallies.shed)
  },
  {
    name: 'rockstar_proxy_timeouts_total',
    type: 'counter',
    help: 'Requests and attempts that took too long, by what was waited for.',
    label: 'stage',
    read: ({ state: { tallies: { timeouts } } }, tell) => {
      tell(timeouts.queue, 'queue')
      tell(timeouts.connect, 'connect')
      tell(timeouts.send, 'send')
      tell(timeouts.wait, 'wait')
      tell(timeouts.stream, 'stream')
      tell(timeouts.client, 'client')
      tell(timeouts.request, 'request')
    }
  },
  {
    name: 'rockstar_proxy_fallbacks_total',
    type: 'counter',
    help: 'Failures in whose place a fallback has answered.',
    read: ({ state }, tell) => tell(state.tallies.fallbacks)
  },
  {
    name: 'rockstar_proxy_mirrors_total',
    type: 'counter',
    help: 'Copies of requests sent to another upstream.',
    read: ({ state }, tell) => tell(state.tallies.mirrored)
  },
  {
    name: 'rockstar_proxy_mirrors_skipped_total',
    type: 'counter',
    help: 'Copies not sent, as the body was too large or too many were under way.',
    read: ({ state }, tell) => tell(state.tallies.mirrorsSkipped)
  },
  {
    name: 'rockstar_proxy_tunnels_open',
    type: 'gauge',
    help: 'Connections that are switched to another protocol, WebSocket for one, and open.',
    read: ({ tunnels }, tell) => tell(tunnels.open)
  },
  {
    name: 'rockstar_proxy_tunnels_total',
    type: 'counter',
    help: 'Connections that were switched to another protocol.',
    read: ({ tunnels }, tell) => tell(tunnels.total)
  },
  {
    name: 'rockstar_proxy_tunnel_bytes_total',
    type: 'counter',
    help: 'Bytes that have passed through such connections: received from clients, or sent to them.',
    label: 'direction',
    read: ({ tunnels }, tell) => {
      tell(tunnels.bytesReceived, 'received')
      tell(tunnels.bytesSent, 'sent')
    }
  },
  {
    name: 'rockstar_proxy_panic',
    type: 'gauge',
    aggregator: 'average',
    help: 'Whether too few backends are available, so that all active ones are used.',
    read: ({ state }, tell) => tell(flag(state.panic))
  },
  {
    name: 'rockstar_proxy_backends',
    type: 'gauge',
    aggregator: 'average',
    help: 'Backends that are listed.',
    read: ({ backends }, tell) => tell(backends.length)
  },
  {
    name: 'rockstar_proxy_backends_active',
    type: 'gauge',
    aggregator: 'average',
    help: 'Backends that are active, not draining, and have a weight.',
    read: ({ backends }, tell) => tell(count(backends, ({ backend }) => backend.enlisted))
  },
  {
    name: 'rockstar_proxy_backends_available',
    type: 'gauge',
    aggregator: 'average',
    help: 'Backends that may be chosen.',
    read: ({ backends }, tell) => tell(count(backends, ({ backend }) => backend.available))
  },
  {
    name: 'rockstar_proxy_events_total',
    type: 'counter',
    help: 'What has become of backends and circuits, by event.',
    label: 'event',
    read: ({ state: { events: { counts } } }, tell) => {
      for (const name in counts) tell(counts[name as keyof typeof counts], name)
    }
  },
  {
    name: 'rockstar_proxy_dns_lookups_total',
    type: 'counter',
    help: 'Look-ups of names of backends: answered from memory (hit), by an answer beyond its time (stale), or after asking (miss). An upstream that shares the cache of the plugin is counted with default.',
    label: 'result',
    read: ({ dns }, tell) => {
      if (dns === null) return
      tell(dns.counts.hits, 'hit')
      tell(dns.counts.stale, 'stale')
      tell(dns.counts.misses, 'miss')
    }
  },
  {
    name: 'rockstar_proxy_dns_lookup_errors_total',
    type: 'counter',
    help: 'Look-ups of names of backends that got no address.',
    read: ({ dns }, tell) => { if (dns !== null) tell(dns.counts.errors) }
  },
  {
    name: 'rockstar_proxy_dns_queries_total',
    type: 'counter',
    help: 'Times that the name of a backend was asked for.',
    read: ({ dns }, tell) => { if (dns !== null) tell(dns.counts.queries) }
  },
  {
    name: 'rockstar_proxy_dns_query_failures_total',
    type: 'counter',
    help: 'Times that this failed.',
    read: ({ dns }, tell) => { if (dns !== null) tell(dns.counts.failures) }
  },
  {
    name: 'rockstar_proxy_dns_names',
    type: 'gauge',
    help: 'Names of backends that are remembered.',
    read: ({ dns }, tell) => { if (dns !== null) tell(dns.size) }
  }
]

function count<Item> (items: readonly Item[], fits: (item: Item) => boolean): number {
  let found = 0
  for (const item of items) if (fits(item)) found++
  return found
}
