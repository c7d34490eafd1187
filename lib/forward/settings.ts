import type { ForwardOptions, OnResponse, RewriteHeaders, RewriteRequestHeaders, Timeouts } from '../../types/index.ts'
import type { Subset } from '../selection/index.ts'
import type { Upstream } from '../upstream.ts'
import type { PrefixRule } from './prefix.ts'

/** What holds for one request: the upstream's ways, and what its route or its caller wants otherwise. */
export interface Settings {
  timeouts: Readonly<Timeouts>
  preserveHost: boolean
  /** Which backends are asked for; `null` when any will do. */
  subset: Subset | null
  rewriteRequestHeaders: RewriteRequestHeaders | undefined
  rewriteHeaders: RewriteHeaders | undefined
  onResponse: OnResponse | undefined
  signal: AbortSignal | undefined
  path: string | undefined
  /** How the route's prefix is replaced; `null` where there is no route of ours. */
  prefix: PrefixRule | null
  /** Whether answers have their paths mapped back. */
  mapBack: boolean
}

/** Joins the options of a route or a call to those of the upstream. Done once for a route, which has a prefix. */
export function settingsOf (upstream: Upstream, options: ForwardOptions, prefix: PrefixRule | null = null, mapBack = false): Settings {
  // What is given as undefined is as the upstream says.
  const overrides = Object.entries(options.timeout ?? {}).filter(([, timeout]) => timeout !== undefined)
  for (const [, timeout] of overrides) upstream.deadlines.allowFor(timeout)
  return {
    timeouts: overrides.length === 0 ? upstream.timeouts : { ...upstream.timeouts, ...Object.fromEntries(overrides) },
    preserveHost: options.preserveHost ?? upstream.preserveHost,
    subset: upstream.selector.subsetOf(options, prefix !== null),
    rewriteRequestHeaders: options.rewriteRequestHeaders,
    rewriteHeaders: options.rewriteHeaders,
    onResponse: options.onResponse,
    signal: options.signal,
    path: options.path,
    prefix,
    mapBack
  }
}
