import { HealthOptionsSchema, OutlierOptionsSchema } from '../../types/index.ts'
import type { BalancerEnv, HealthOptions, UpstreamOptions } from '../../types/index.ts'
import type { Backend } from '../backend.ts'
import { ActiveHealth, checkSendable, OutlierDetector, Readiness, type ActiveHealthListener, type CheckResult, type OutlierListener } from '../health/index.ts'
import { checkConnectorOf, checkDispatcherOf } from '../pool/index.ts'
import { optionsOf } from '../upstream-options.ts'
import type { Pools } from './pools.ts'
import type { Reporter } from './reporter.ts'

/** What the watch needs beside its options. */
export interface HealthWatchEnv extends BalancerEnv {
  /** Name of the upstream. */
  readonly upstream: string
  readonly reporter: Reporter
  readonly pools: Pools
  /** Those whose health it is. */
  readonly list: () => readonly Backend[]
  /** Called when the health of one has changed. */
  readonly changed: () => void
}

/** The health of an upstream's backends: what checks say, what outlier detection says, and whether enough are well. */
export class HealthWatch implements ActiveHealthListener, OutlierListener {
  readonly checks: ActiveHealth
  /** `null` where it is off. */
  readonly outlier: OutlierDetector | null
  /** Backends that must have passed a check before the app is ready. */
  readonly minHealthy: number
  readonly #env: HealthWatchEnv
  /** Whether checks are made without anybody asking, and heeded. */
  readonly #checksHealth: boolean
  readonly #readiness: Readiness

  /** Throws `INVALID_OPTIONS`, naming `path`. */
  constructor ({ health, outlier }: UpstreamOptions, path: string, env: HealthWatchEnv) {
    const { clock, random, upstream, pools, list } = env
    const options = optionsOf<HealthOptions>(HealthOptionsSchema, health, `${path}.health`)
    checkSendable(options, setting => `${path}.health.${setting}`)
    this.#env = env
    this.#checksHealth = health !== false
    this.minHealthy = options.minHealthy as number
    this.checks = new ActiveHealth(this.#checksHealth ? options : { ...options, fall: Infinity }, {
      clock,
      random,
      connectorFor: (backend, port) => checkConnectorOf(pools.current, backend, port),
      dispatcherFor: backend => checkDispatcherOf(pools.current, backend)
    }, this)
    this.#readiness = new Readiness({ upstream, minHealthy: this.minHealthy, timeout: options.readyTimeout as number }, this.checks, clock, list)
    this.outlier = outlier === false ? null : new OutlierDetector(optionsOf(OutlierOptionsSchema, outlier, `${path}.outlier`), clock, this)
  }

  list (): readonly Backend[] {
    return this.#env.list()
  }

  add (backend: Backend): void {
    this.outlier?.add(backend)
    this.checks.add(backend)
    if (this.#checksHealth) backend.healthy = backend.health?.healthy ?? true
    backend.awaitsCheck = !backend.healthy
  }

  remove (backend: Backend): void {
    this.checks.remove(backend)
    this.outlier?.remove(backend)
  }

  start (): void {
    this.outlier?.start()
    if (this.#checksHealth) this.checks.start(this.minHealthy > 0)
  }

  stop (): void {
    this.outlier?.stop()
    this.checks.stop()
  }

  /** Resolves when as many backends have passed a check as must have. Rejects with `UNHEALTHY` when that takes too long. */
  whenProven (): Promise<void> {
    return this.#checksHealth ? this.#readiness.wait() : Promise.resolve()
  }

  onHealthChecked (backend: Backend, result: CheckResult, changed: boolean, proves: boolean): void {
    const { healthy, consecutiveFails, consecutivePasses } = backend.health as NonNullable<Backend['health']>
    const awaited = backend.awaitsCheck
    backend.awaitsCheck = false
    if (changed && this.#checksHealth) {
      if (healthy && proves) backend.circuit.tryNow?.()
      backend.healthy = healthy
      this.#env.changed()
      this.#env.reporter.tell(healthy ? 'backend:healthy' : 'backend:unhealthy', {
        backend, cause: result.passed ? 'checks have passed' : result.errorMessage, counts: { consecutiveFails, consecutivePasses }
      })
    }
    // From now on it may be used in panic.
    if (awaited && !changed) this.#env.changed()
    if (result.passed) {
      // That a port is open says nothing of the answers for which a backend was ejected.
      if (proves) this.outlier?.bringBack(backend, 'a health check has passed')
      this.#readiness.onPassed()
    }
  }

  onEjected (backend: Backend, cause: string, counts: Record<string, number>, milliseconds: number): void {
    this.#env.changed()
    this.#env.reporter.tell('backend:ejected', { backend, cause, counts, until: this.#env.clock.wall() + milliseconds })
  }

  onReturned (backend: Backend, cause: string): void {
    this.#env.changed()
    this.#env.reporter.tell('backend:returned', { backend, cause, counts: { ejections: backend.outlier?.ejections ?? 0 } })
  }
}
