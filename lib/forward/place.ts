import type { Entrant } from '../admission/index.ts'

/** Who waits in a place. */
interface Occupant {
  onTurn (): boolean
  onShed (): void
}

/** Where an exchange waits to be let in. */
export class Place implements Entrant {
  readonly priority: number
  readonly turn: number
  /** By when it must have been let in, on the clock's scale. */
  readonly until: number
  earlier: Place | null = null
  later: Place | null = null
  list: object | null = null
  readonly #occupant: Occupant

  constructor (occupant: Occupant, priority: number, turn: number, until: number) {
    this.#occupant = occupant
    this.priority = priority
    this.turn = turn
    this.until = until
  }

  onTurn (): boolean {
    return this.#occupant.onTurn()
  }

  onShed (): void {
    this.#occupant.onShed()
  }
}
