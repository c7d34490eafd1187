import type { OnError, RouteOptions, UpstreamChoice } from '../../types/index.ts'
import type { Upstream } from '../upstream.ts'
import { prefixRule, type PrefixRule, type RouterWays } from './prefix.ts'
import { settingsOf, type Settings } from './settings.ts'

/** A declared route, with what can be worked out before a request comes. */
export class Route {
  readonly upstream: UpstreamChoice | undefined
  readonly onError: OnError | undefined
  readonly #options: RouteOptions
  readonly #prefix: PrefixRule
  readonly #settings = new WeakMap<Upstream, Settings>()

  /**
   * @param prefix the whole prefix, with those of the scopes it is in
   * @param router what the router takes for the same
   */
  constructor (options: RouteOptions, prefix: string, router: RouterWays) {
    this.upstream = options.upstream
    this.onError = options.onError
    this.#options = options
    this.#prefix = prefixRule(prefix, options.rewritePrefix ?? '', router)
  }

  settingsFor (upstream: Upstream): Settings {
    let settings = this.#settings.get(upstream)
    if (settings === undefined) {
      settings = settingsOf(upstream, this.#options, this.#prefix, this.#options.internalRewriteLocationHeader ?? true)
      this.#settings.set(upstream, settings)
    }
    return settings
  }
}
