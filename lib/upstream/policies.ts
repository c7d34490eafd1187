import { TimeoutOptionsSchema } from '../../types/index.ts'
import type { Clock, MirrorOptions, Timeouts, UpstreamOptions } from '../../types/index.ts'
import { Admission } from '../admission/index.ts'
import type { Deadlines } from '../deadlines.ts'
import { fallbackOf, type Fallback } from '../fallback.ts'
import { resolveOptions } from '../options.ts'
import { hedgePolicyOf, Hedging, RetryBudget, retryPolicyOf, type HedgePolicy, type RetryPolicy } from '../retry/index.ts'
import type { Telemetry } from '../telemetry/index.ts'
import { Tunnels } from '../tunnel/index.ts'
import { forwardedOf, mirrorOf, withWebSocket, type ForwardedSwitches } from '../upstream-options.ts'

/** What policies need beside their options. */
export interface PoliciesEnv {
  readonly clock: Clock
  readonly deadlines: Deadlines
  readonly random: () => number
  /** What is told of exchanges. */
  readonly telemetry: Telemetry
}

/** How an upstream deals with requests, whichever backend they go to. Every request reads these: they are plain fields. */
export class Policies {
  readonly clock: Clock
  readonly deadlines: Deadlines
  readonly random: () => number
  readonly telemetry: Telemetry
  readonly timeouts: Readonly<Timeouts>
  readonly preserveHost: boolean
  readonly forwarded: Readonly<ForwardedSwitches>
  readonly via: string | null
  /** How backends are asked that do not say so themselves. */
  readonly http2: boolean | 'auto'
  readonly retry: RetryPolicy | null
  readonly budget: RetryBudget
  readonly hedge: HedgePolicy | null
  /** `null` until somebody hedges. */
  hedging: Hedging | null = null
  /** `null` where everything is let in. */
  readonly admission: Admission | null
  readonly fallback: Fallback | null
  readonly mirror: Required<MirrorOptions> | null
  /** In lower case; `null` where backends are not told how much time is left. */
  readonly deadlineHeader: string | null
  /** Protocols that connections may be switched to, in lower case. */
  readonly upgrades: ReadonlySet<string>
  readonly tunnels: Tunnels

  /** Throws `INVALID_OPTIONS`, naming `path`. */
  constructor (options: UpstreamOptions, { clock, deadlines, random, telemetry }: PoliciesEnv, path: string) {
    this.clock = clock
    this.deadlines = deadlines
    this.random = random
    this.telemetry = telemetry
    this.timeouts = Object.freeze(resolveOptions<Timeouts>(TimeoutOptionsSchema, options.timeout ?? {}, `${path}.timeout`))
    this.retry = retryPolicyOf(options.retry, `${path}.retry`)
    this.budget = new RetryBudget((this.retry ?? retryPolicyOf(true) as RetryPolicy).budget)
    this.hedge = hedgePolicyOf(options.hedge)
    if (this.hedge !== null) this.beginHedging()
    this.admission = options.limits === undefined || options.limits === false ? null : new Admission(options.limits, `${path}.limits`)
    this.fallback = fallbackOf(options.fallback) ?? null
    this.mirror = mirrorOf(options.mirror, `${path}.mirror`)
    this.deadlineHeader = options.deadlineHeader === undefined || options.deadlineHeader === false ? null : options.deadlineHeader.toLowerCase()
    for (const timeout of [...Object.values(this.timeouts), this.retry?.perTryTimeout ?? 0, this.admission?.queueTimeout ?? 0]) deadlines.allowFor(timeout)
    this.upgrades = withWebSocket(new Set(options.upgrades?.map(protocol => protocol.toLowerCase())), options.websocket ?? true)
    this.tunnels = new Tunnels(clock, deadlines, random)
    this.http2 = options.http2 ?? false
    this.preserveHost = options.preserveHost ?? false
    this.forwarded = forwardedOf(options.forwarded)
    this.via = options.via === false ? null : options.via ?? 'rockstar-proxy'
  }

  /** Begins to count what hedging depends on. */
  beginHedging (): void {
    this.hedging ??= new Hedging(this.clock)
  }
}
