import type { Backend, LoadBalancer, SelectContext } from '../../types/index.ts'

/**
 * Takes turns. As soon as weights differ the turns are smooth weighted ones, 5:1:1 giving a a b a c a a,
 * and never bursts. Source: nginx's smooth weighted round robin.
 */
export class RoundRobin implements LoadBalancer {
  readonly type = 'round-robin'
  #next = 0
  #weighted = false
  #credit = new Map<Backend, number>()
  #weights = new Map<Backend, number>()

  rebuild (available: readonly Backend[]): void {
    this.#weighted = available.some(backend => backend.weight !== available[0].weight)
    // Those that stay keep the credit they have earned, so that a change to one moves no turn of the others.
    // What was earned under other weights, or from one that has gone, would come as a burst: then all begin anew.
    const kept = available.filter(backend => this.#weights.get(backend) === backend.weight)
    const reweighted = kept.length < this.#weights.size
    const credit = new Map<Backend, number>()
    for (const backend of available) credit.set(backend, reweighted ? 0 : this.#credit.get(backend) ?? 0)
    this.#credit = credit
    this.#weights = new Map(available.map(backend => [backend, backend.weight]))
  }

  select (available: readonly Backend[], { tried }: SelectContext): Backend | undefined {
    return this.#weighted ? this.#selectWeighted(available, tried) : this.#selectNext(available, tried)
  }

  #selectNext (available: readonly Backend[], tried: readonly Backend[] | null): Backend | undefined {
    for (let looked = 0; looked < available.length; looked++) {
      if (this.#next >= available.length) this.#next = 0
      const backend = available[this.#next++]
      if (tried === null || !tried.includes(backend)) return backend
    }
    return undefined
  }

  #selectWeighted (available: readonly Backend[], tried: readonly Backend[] | null): Backend | undefined {
    let chosen: Backend | undefined
    let most = -Infinity
    let total = 0
    for (const backend of available) {
      if (tried !== null && tried.includes(backend)) continue
      const credit = (this.#credit.get(backend) ?? 0) + backend.weight
      this.#credit.set(backend, credit)
      total += backend.weight
      if (credit > most) {
        most = credit
        chosen = backend
      }
    }
    if (chosen !== undefined) this.#credit.set(chosen, most - total)
    return chosen
  }
}
