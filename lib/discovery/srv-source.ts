import type { SrvRecord } from 'node:dns'
import { MAX_WEIGHT } from '../../types/index.ts'
import { ResolveError, type DnsCache } from '../dns/index.ts'
import type { Said } from './said.ts'
import { NOTHING, type Findings, type Source } from './source.ts'

/** The highest priority a backend can have. */
const MAX_PRIORITY = 127

/** One backend for each SRV record of a name, at its target and port. RFC 2782. */
export class SrvSource implements Source {
  readonly name: string
  readonly #template: Said
  readonly #dns: DnsCache

  constructor (template: Said, dns: DnsCache) {
    this.name = template.hostname as string
    this.#template = template
    this.#dns = dns
  }

  async find (): Promise<Findings> {
    try {
      const records = await this.#dns.resolveSrv(this.name)
      // A target of nothing says that there is no such service.
      const targets = records.filter(({ name }) => name !== '' && name !== '.')
      // Any numbers are only an order there; here each level takes over from the one before it.
      const levels = [...new Set(targets.map(({ priority }) => priority))].sort((a, b) => a - b)
      const backends = new Map<string, Said>()
      for (const record of targets) {
        const said = this.#saidOf(record, levels.indexOf(record.priority))
        if (!backends.has(said.id)) backends.set(said.id, said)
      }
      return { backends: [...backends.values()], ttl: undefined }
    } catch (error) {
      if (error instanceof ResolveError && error.gone) return NOTHING
      throw error
    }
  }

  #saidOf ({ name, port, weight }: SrvRecord, level: number): Said {
    const { id, href, options } = this.#template
    const hostname = name.toLowerCase().replace(/\.$/, '')
    const url = new URL(href)
    url.hostname = hostname
    url.port = String(port)
    const first = options.priority ?? (options.backup === true ? 1 : 0)
    return {
      id: `${id}@${hostname}:${port}`,
      href: url.href,
      address: undefined,
      hostname,
      options: {
        ...options,
        url: url.href,
        // 0 has a small chance there, and takes nothing here.
        weight: Math.min((options.weight ?? 1) * Math.max(weight, 1), MAX_WEIGHT),
        priority: Math.min(first + level, MAX_PRIORITY)
      }
    }
  }
}
