import type { Test } from 'tap'
import type { UpstreamManager } from '../../lib/upstream-manager.ts'
import type { BackendOptions, RockstarProxyOptions } from '../../types/index.ts'
import { startGateway, type Gateway, type GatewaySetup } from './app.ts'
import { seeded } from './random.ts'
import { ok, rawBackend, type Message, type RawBackend, type Wire } from './wire.ts'

/** A client with one connection, on which it asks one thing after the other. */
export class Client {
  readonly wire: Wire
  #at = 0

  constructor (wire: Wire) {
    this.wire = wire
  }

  /** @param fields lines of the head, as they are to stand in it */
  async get (path = '/', ...fields: string[]): Promise<Message> {
    this.wire.send([`GET ${path} HTTP/1.1`, 'Host: gateway', ...fields, '', ''].join('\r\n'))
    const response = await this.wire.response(this.#at)
    this.#at += response.length
    return response
  }

  /** Who answered; the status where that is not 200. */
  async who (path?: string, ...fields: string[]): Promise<string> {
    const { status, body } = await this.get(path, ...fields)
    return status === 200 ? body : `[${status}]`
  }

  /** Who answered so many requests, in their order. */
  async turns (count: number, path?: string, ...fields: string[]): Promise<string> {
    let answers = ''
    for (let i = 0; i < count; i++) answers += await this.who(path, ...fields)
    return answers
  }

  /** How often each of those named answered so many requests. */
  async counts (count: number, ids: readonly string[], path?: string): Promise<number[]> {
    const counts = new Map(ids.map(id => [id, 0]))
    for (let i = 0; i < count; i++) {
      const id = await this.who(path)
      counts.set(id, (counts.get(id) ?? 0) + 1)
    }
    return [...counts.values()]
  }
}

/** A gateway, and the backends behind it by their names, each answering with its own. */
export interface NamedGateway extends Gateway {
  backends: Record<string, RawBackend>
  client (): Promise<Client>
  /** Says of a backend, or several at once, that it is not healthy, or is again. */
  health (ids: string | Iterable<string>, healthy: boolean, upstream?: string): void
}

/** Starts a gateway in front of one backend for each name; what chance decides is the same in every run. */
export async function namedGateway (t: Test, given: Record<string, Partial<BackendOptions>>, options: RockstarProxyOptions = {}, setup?: GatewaySetup): Promise<NamedGateway> {
  const backends: Record<string, RawBackend> = {}
  for (const id of Object.keys(given)) backends[id] = await rawBackend(t, () => ok(id))
  const listed = Object.entries(given).map(([id, more]) => ({ id, url: backends[id].url, ...more }))
  const gateway = await startGateway(t, { backends: listed, random: seeded(1), routes: [{ prefix: '/' }], ...options }, setup)
  return {
    ...gateway,
    backends,
    client: async () => new Client(await gateway.connect()),
    health (ids, healthy, upstream = 'default') {
      const manager = gateway.app.proxy.upstream(upstream) as UpstreamManager
      for (const id of typeof ids === 'string' ? [ids] : ids) manager.getBackend(id).healthy = healthy
      manager.state.onHealth()
    }
  }
}
