import type { MirrorOptions } from '../../types/index.ts'
import type { Upstream } from '../upstream.ts'
import { Exchange } from './exchange.ts'
import type { ExchangeClient } from './exchange-client.ts'
import type { Intent } from './intent.ts'
import { settingsOf, type Settings } from './settings.ts'
import type { Sink } from './sink.ts'

/** Bytes of an answer that are read away, so that its connection can be used again; what is longer is given up. */
const READ = 65_536

/** What goes to an upstream as copies. */
interface Copies {
  readonly settings: Settings
  inFlight: number
}

const copiesTo = new WeakMap<Upstream, Copies>()

/** Sends a copy of a request to the upstream that is to get copies; whatever becomes of it is nobody's affair but that upstream's. */
export function sendCopy (from: Upstream, intent: Intent, body: Buffer | null, { upstream: name, maxInFlight }: Required<MirrorOptions>): void {
  const { tallies } = from
  const upstream = from.find(name)
  const copies = upstream === undefined ? undefined : copiesOf(upstream)
  if (upstream === undefined || copies === undefined || upstream.closed || copies.inFlight >= maxInFlight) {
    tallies.mirrorsSkipped++
    return
  }
  tallies.mirrored++
  const copy: Intent = { ...intent, body, raw: null, deadline: Infinity, log: undefined, settings: copies.settings }
  const client = new Forgetful(copies)
  client.exchange = new Exchange(upstream, copy, client)
  client.exchange.start()
}

function copiesOf (upstream: Upstream): Copies {
  let copies = copiesTo.get(upstream)
  if (copies === undefined) {
    // A copy is not copied, nor asked for twice; and it does not end with the client.
    copies = { settings: settingsOf(upstream, { retry: false, hedge: false, mirror: false, fallback: false }), inFlight: 0 }
    copiesTo.set(upstream, copies)
  }
  return copies
}

/** Takes no interest in what it gets. */
class Forgetful implements ExchangeClient, Sink {
  readonly expendable = true
  exchange: Exchange | null = null
  readonly #copies: Copies
  #left = READ

  constructor (copies: Copies) {
    this.#copies = copies
    copies.inFlight++
  }

  mappingFor (): null {
    return null
  }

  replaces (): false {
    return false
  }

  copy (): void {}
  interim (): void {}

  answer (): Sink {
    return this
  }

  head (): void {}

  data (chunk: Buffer): boolean {
    this.#left -= chunk.length
    // Not from within what is just being told.
    if (this.#left < 0) setImmediate(() => this.exchange?.giveUp(new Error('the answer to a copy is too long to be read away')))
    return true
  }

  end (): void {}
  cut (): void {}

  finished (): void {
    this.#copies.inFlight--
  }

  failed (): void {
    this.#copies.inFlight--
  }
}
