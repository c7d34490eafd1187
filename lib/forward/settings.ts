import type { ForwardOptions, MirrorOptions, OnResponse, OnTunnelClose, OnUpgrade, RetryOverrides, RewriteHeaders, RewriteRequestHeaders, SubsetFallback, Timeouts } from '../../types/index.ts'
import { fallbackOf, type Fallback } from '../fallback.ts'
import { hedgePolicyOf, retryPolicyOf, type HedgePolicy, type RetryPolicy } from '../retry/index.ts'
import type { Subset } from '../selection/index.ts'
import type { Upstream } from '../upstream.ts'
import { mirrorOf, withWebSocket } from '../upstream-options.ts'
import type { PrefixRule } from './prefix.ts'

/** What holds for one request: the upstream's ways, and what its route or its caller wants otherwise. */
export interface Settings {
  timeouts: Readonly<Timeouts>
  preserveHost: boolean
  /** Which backends are asked for; `null` when any will do. */
  subset: Subset | null
  /** `null` where there are none. */
  retry: RetryPolicy | null
  hedge: HedgePolicy | null
  fallback: Fallback | null
  mirror: Required<MirrorOptions> | null
  rewriteRequestHeaders: RewriteRequestHeaders | undefined
  rewriteHeaders: RewriteHeaders | undefined
  onResponse: OnResponse | undefined
  /** Protocols that connections may be switched to, in lower case. */
  upgrades: ReadonlySet<string>
  onUpgrade: OnUpgrade | undefined
  onTunnelClose: OnTunnelClose | undefined
  signal: AbortSignal | undefined
  path: string | undefined
  /** How the route's prefix is replaced; `null` where there is no route of ours. */
  prefix: PrefixRule | null
  /** Whether answers have their paths mapped back. */
  mapBack: boolean
  /** The same on another upstream. */
  elsewhere (upstream: Upstream): Settings
}

/** Joins the options of a route or a call to those of the upstream. Done once for a route, which has a prefix. */
export function settingsOf (upstream: Upstream, options: ForwardOptions, prefix: PrefixRule | null = null, mapBack = false): Settings {
  const { match, split, splitKey, fallback } = options
  const subset = match === undefined && split === undefined
    ? null
    : upstream.selector.subsetOf({ match, split, splitKey, fallback: typeof fallback === 'string' ? fallback as SubsetFallback : undefined }, prefix !== null)
  const retry = retryOf(upstream, options.retry)
  const hedge = options.hedge === undefined ? upstream.hedge : hedgePolicyOf(options.hedge)
  if (hedge !== null) upstream.beginHedging()
  const ownFallback = fallbackOf(fallback)
  return {
    timeouts: timeoutsOf(upstream, options),
    preserveHost: options.preserveHost ?? upstream.preserveHost,
    subset,
    retry,
    hedge,
    fallback: ownFallback === undefined ? upstream.fallback : ownFallback,
    mirror: options.mirror === undefined ? upstream.mirror : mirrorOf(options.mirror),
    rewriteRequestHeaders: options.rewriteRequestHeaders,
    rewriteHeaders: options.rewriteHeaders,
    onResponse: options.onResponse,
    upgrades: options.websocket === undefined ? upstream.upgrades : withWebSocket(upstream.upgrades, options.websocket),
    onUpgrade: options.onUpgrade,
    onTunnelClose: options.onTunnelClose,
    signal: options.signal,
    path: options.path,
    prefix,
    mapBack,
    elsewhere: other => settingsOf(other, options, prefix, mapBack)
  }
}

/** What is given as undefined is as the upstream says. */
function timeoutsOf (upstream: Upstream, { timeout }: ForwardOptions): Readonly<Timeouts> {
  if (timeout === undefined) return upstream.timeouts
  const overrides = Object.entries(timeout).filter(([, milliseconds]) => milliseconds !== undefined)
  for (const [, milliseconds] of overrides) upstream.deadlines.allowFor(milliseconds)
  return { ...upstream.timeouts, ...Object.fromEntries(overrides) }
}

function retryOf (upstream: Upstream, overrides: boolean | RetryOverrides | undefined): RetryPolicy | null {
  if (overrides === undefined) return upstream.retry
  if (overrides === false) return null
  const policy = upstream.retry ?? retryPolicyOf(true) as RetryPolicy
  if (overrides === true) return policy
  const own = policy.with(overrides)
  upstream.deadlines.allowFor(own.perTryTimeout)
  return own
}
