import type { Backend, BalancerEnv, HashOptions, LoadBalancer, SelectContext } from '../../types/index.ts'
import { BoundedLoad } from './bounded-load.ts'
import { bitsOf } from './fast-random.ts'
import { fractionOf, hashText, rehash } from './hash.ts'
import { clientAddress, keyReader, type KeyReader } from './hash-key.ts'
import { weightsOf, type Weights } from './weights.ts'

/** Tells the hash that draws a group from those that draw a backend. */
const POINT = 0x9e37
/** Further hashes of a key that are tried before the backends are looked through. */
const PROBES = 32

/** Two hashes of each backend's id, in the order of the backends: all that a mapping may depend on beside the weights. */
export interface Identities {
  readonly first: Uint32Array
  readonly second: Uint32Array
}

/**
 * Sends requests with the same key to the same backend, whatever the process and the order of the backends. Where that one has been
 * tried or is full, further hashes of the key choose: what one backend cannot carry is spread over all.
 */
export abstract class HashPolicy implements LoadBalancer {
  abstract readonly type: string
  readonly #keyOf: KeyReader
  readonly #orAddress: boolean
  readonly #bound: BoundedLoad | null
  readonly #bits: () => number
  #weights: Weights = weightsOf([])

  constructor ({ key, missing, boundedLoad }: Required<HashOptions>, { random }: BalancerEnv) {
    this.#keyOf = keyReader(key)
    this.#orAddress = missing === 'ip'
    this.#bound = boundedLoad === false ? null : new BoundedLoad(boundedLoad)
    this.#bits = bitsOf(random)
  }

  abstract fork (): LoadBalancer

  /** Makes ready for choosing among backends. */
  protected abstract prepare (available: readonly Backend[], weights: Weights, identities: Identities): void
  /** The index of the backend that a hash maps to; of 32 bits, with a sign. */
  protected abstract pick (hash: number): number

  rebuild (available: readonly Backend[]): void {
    this.#weights = weightsOf(available)
    const first = Uint32Array.from(available, ({ id }) => hashText(id, 1))
    const second = Uint32Array.from(available, ({ id }) => hashText(id, 2))
    if (available.length > 0) this.prepare(available, this.#weights, { first, second })
    this.#bound?.rebuild(available, this.#weights)
  }

  /** A number of at least 0 and below 1 that is the same for the same key. */
  point (context: SelectContext): number {
    return fractionOf(rehash(this.#hashOf(context), POINT))
  }

  select (available: readonly Backend[], context: SelectContext): Backend | undefined {
    const chosen = this.peek(available, context)
    if (chosen !== undefined) this.#bound?.chosen()
    return chosen
  }

  peek (available: readonly Backend[], context: SelectContext): Backend | undefined {
    const { tried } = context
    const hash = this.#hashOf(context)
    const bound = this.#bound
    let index = this.pick(hash)
    if ((tried !== null && tried.includes(available[index])) || (bound !== null && !bound.allows(index))) {
      index = this.#overflow(available, tried, hash)
      if (index === -1) return undefined
    }
    return available[index]
  }

  settle (): void {
    this.#bound?.settled()
  }

  #hashOf (context: SelectContext): number {
    let key = this.#keyOf(context)
    if (key === undefined && this.#orAddress) key = clientAddress(context)
    return key === undefined ? this.#bits() : hashText(key)
  }

  /** By further hashes; when those meet only what is tried or full, the least loaded of the untried ones. -1 when there is none. */
  #overflow (available: readonly Backend[], tried: readonly Backend[] | null, hash: number): number {
    for (let probe = 1; probe <= PROBES; probe++) {
      const index = this.pick(rehash(hash, probe))
      if ((tried === null || !tried.includes(available[index])) && (this.#bound === null || this.#bound.allows(index))) return index
    }
    let chosen = -1
    let least = Infinity
    for (let i = 0; i < available.length; i++) {
      // Not all from the first, so that ties are not all its own.
      const index = ((hash >>> 0) + i) % available.length
      if (tried !== null && tried.includes(available[index])) continue
      const load = available[index].inFlight / this.#weights.values[index]
      if (load >= least) continue
      least = load
      chosen = index
    }
    return chosen
  }
}
