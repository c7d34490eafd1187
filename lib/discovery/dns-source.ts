import { ResolveError, type DnsCache } from '../dns/index.ts'
import type { Said } from './said.ts'
import { NOTHING, type Findings, type Source } from './source.ts'

/** One backend for each address of a name. URL, `Host` and the name in certificates stay the name's. */
export class DnsSource implements Source {
  readonly name: string
  readonly #template: Said
  readonly #dns: DnsCache
  readonly #family: () => 4 | 6 | undefined

  /** @param family of the only addresses that can be connected to, if there is one */
  constructor (template: Said, dns: DnsCache, family: () => 4 | 6 | undefined) {
    this.name = template.hostname as string
    this.#template = template
    this.#dns = dns
    this.#family = family
  }

  async find (): Promise<Findings> {
    try {
      const { addresses, ttl } = await this.#dns.resolve(this.name)
      const { id, ...rest } = this.#template
      const only = this.#family()
      return {
        backends: addresses.filter(({ family }) => only === undefined || family === only).map(({ address }) => ({ ...rest, id: `${id}@${address}`, address })),
        ttl
      }
    } catch (error) {
      if (error instanceof ResolveError && error.gone) return NOTHING
      throw error
    }
  }
}
